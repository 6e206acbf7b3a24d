//! Publishing: in one call, or through a producer that collects.

mod builder;
mod drive;
mod failure;
mod lane;
mod link;
mod options;
mod parcel;
mod partitioner;
mod patience;
mod producer;
mod publish;

pub use builder::ProducerBuilder;
pub use failure::Failure;
pub use options::Acks;
pub(crate) use options::{MAX_PEERS, Options};
pub use parcel::PartitionRecords;
pub use partitioner::{ByKey, Partitioner};
pub use producer::Producer;
