//! Publishing: in one call, or through a producer that collects.
//!
//! ```text
//!   publish ──┐                       ┌──> one channel a leader
//!             ├──> PartitionQueue ──> Driver
//!   Producer ─┘         ^             └──> answers ──┐
//!                       └────────────────────────────┘
//! ```
//!
//! [`queue`], with [`numbering`] and [`bundle`], decides; [`driver`], with [`leader`], carries.

mod builder;
mod bundle;
mod driver;
mod leader;
mod numbering;
mod producer;
mod publish;
mod queue;
mod records;

pub use builder::ProducerBuilder;
pub use builder::{ByKey, Partitioner};
pub use producer::Producer;
pub(crate) use publish::{Publish, Publisher};
pub use records::{Failure, PartitionRecords};
