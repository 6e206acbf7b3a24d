//! Publishing: in one call, or through a producer that collects.

mod options;
mod parcel;
mod patience;
mod publish;

pub use options::Acks;
pub(crate) use options::Options;
pub use parcel::Parcel;
