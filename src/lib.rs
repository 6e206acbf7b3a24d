#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs, missing_debug_implementations)]
#![warn(unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admin;
#[cfg(feature = "broker")]
pub mod broker;
mod client;
mod config;
mod consume;
mod error;
mod message;
mod net;
mod produce;
pub mod protocol;
pub mod segment;
mod topic_config;

pub use admin::{BrokerStatus, ClusterInfo, NodeInfo, TopicInfo, Topology};
pub use client::{Client, PartitionInfo};
pub use config::{ClientBuilder, Redirects};
pub use consume::{
    Batch, BatchIter, Checkpoint, CloseHandle, ConsumeIter, Gap, MessageRef, OutOfRange, Position, Positions, Stats,
    Subscription,
};
pub use error::{CheckpointFault, Error, Fault, Phase, Result};
pub use message::{Message, Record, Start};
pub use produce::{Acks, ByKey, Failure, Parcel, Partitioner, Producer, ProducerBuilder};
pub use protocol::Limits;
pub use protocol::bundle::Compression;
pub use topic_config::{CleanupPolicy, TopicConfig, TopicConfigError};
