#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs, missing_debug_implementations)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "broker")]
pub mod broker;
mod client;
mod config;
mod consume;
mod error;
mod message;
mod net;
pub mod protocol;
pub mod segment;
mod topic_config;

pub use client::{Client, PartitionInfo};
pub use config::ClientBuilder;
pub use consume::{
    Batch, BatchIter, Checkpoint, CloseHandle, ConsumeIter, Gap, MessageRef, OutOfRange, Position, Positions, Stats,
    Subscription,
};
pub use error::{CheckpointFault, Error, Fault, Phase, Result};
pub use message::{Message, Record, Start};
pub use protocol::Limits;
pub use topic_config::{CleanupPolicy, TopicConfig, TopicConfigError};
