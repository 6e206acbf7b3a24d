//! Subscribing: what to read, how far it has come, and the iterator that delivers it.
//!
//! ```text
//!   subscribe ─> start ─> Partitions ──who is due──> Fetcher (one for each leader) ──┐
//!                            ^   machines                                            │ bundles
//!                            └───what an answer means─── Inbox <─────────────────────┘
//!                                                          └──> ConsumeIter ──> Message
//! ```

mod checkpoint;
mod close;
mod fetcher;
mod inbox;
mod iter;
mod partition;
mod partitions;
mod position;
mod start;
mod subscription;

pub use checkpoint::Checkpoint;
pub use close::CloseHandle;
pub use iter::ConsumeIter;
pub use position::{LeaderStats, PartitionStats, Position, Positions, Stats};
pub(crate) use start::{seq_at, subscribe};
pub use subscription::{OutOfRange, Subscription};
