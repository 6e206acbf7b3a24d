//! Subscribing: what is wanted, where it stands, and the iterator that brings it.

mod arrived;
mod batch;
mod checkpoint;
mod close;
mod decoded;
mod iter;
mod leader;
mod position;
mod search;
mod start;
mod stats;
mod subscription;
mod tracks;

pub use batch::{Batch, BatchIter, MessageRef};
pub use checkpoint::Checkpoint;
pub use close::CloseHandle;
pub(crate) use decoded::{Decoded, JOINED};
pub use iter::ConsumeIter;
pub use position::{Gap, Position, Positions};
pub(crate) use start::{await_marks, find_time, subscribe};
pub use stats::Stats;
pub(crate) use subscription::check_topic;
pub use subscription::{OutOfRange, Subscription};
