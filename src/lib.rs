//! A blocking client for [TANK](https://github.com/phaistos-networks/TANK), the distributed log, without an async runtime and
//! without threads: [`subscribe`](Client::subscribe) returns an iterator.
//!
//! ```no_run
//! use tank_client::{Client, Start, Subscription};
//!
//! let client = Client::connect("127.0.0.1:11011")?;
//! for message in client.subscribe(Subscription::partition("orders", 0).start(Start::Earliest))? {
//!     let message = message?;
//!     println!("{}: {}", message.seq(), String::from_utf8_lossy(message.payload()));
//! }
//! # Ok::<(), tank_client::Error>(())
//! ```
//!
//! | to | see |
//! | --- | --- |
//! | read | [`Client::subscribe`], [`Subscription`], [`ConsumeIter`] |
//! | end a loop from another thread | [`CloseHandle`] |
//! | continue later where you stopped | [`Checkpoint`], or [`Positions`] in a database |
//! | begin or end at a time | [`Start::Time`], [`Subscription::stop_at_time`], [`Client::seq_at`] |
//! | publish | [`Client::publish`], [`Producer`] |
//! | list topics, partitions, nodes, their state | [`Client::topics`], [`Client::partitions`], [`Client::topology`], [`Client::status`] |
//! | know how long a call may take | the guide's [table](guide::time_outs#what-each-call-waits-for) |
//! | handle errors | [`Error`], and [what to do about each](guide::errors) |
//! | set time-outs, limits and the like | [`ClientBuilder`] |
//! | read a server's files without the server | [`segment`] |
//! | test your program | [the simulation and the embedded broker](guide::testing), feature `broker` |
//!
//! # The guide
//!
//! Begin with the [first steps](guide::first_steps), which also explain the terms. Then, when you need them:
//! [errors](guide::errors) · [positions and delivery guarantees](guide::positions) ·
//! [exactly once into a database](guide::databases) · [back-pressure](guide::back_pressure) ·
//! [time-outs and closing](guide::time_outs) · [clusters](guide::clusters) · [publishing and its outcomes](guide::publishing) ·
//! [testing your program](guide::testing) · [performance](guide::performance) · [metrics](guide::metrics) ·
//! [security](guide::security). If you know other clients: [coming from tankgo](guide::from_tankgo),
//! [coming from Kafka clients](guide::from_kafka), [what TANK does not have](guide::not_in_tank).
//!
//! # Features
//!
//! `broker`, off by default: the embedded broker and the simulation, for tests and first steps. It adds no dependency.
//!
//! # Stability
//!
//! Rust 1.85 or later; only minor releases raise the minimum. The module [`protocol`] is public so that tests and fuzz targets
//! can use the code that users run; semantic versioning does not cover it.

#![forbid(unsafe_code)]
#![deny(missing_docs, missing_debug_implementations)]
#![warn(unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admin;
#[cfg(feature = "broker")]
pub mod broker;
mod brokers;
mod client;
mod config;
mod consume;
mod error;
pub mod guide;
mod message;
mod net;
mod produce;
pub mod protocol;
pub mod segment;
mod session;
#[cfg(feature = "broker")]
pub mod simulation;
mod text;
mod topic_config;

pub use admin::{BrokerStatus, PartitionInfo};
pub use brokers::Brokers;
pub use client::{Client, ClientBuilder};
pub use config::Acks;
pub use consume::{
    Checkpoint, CloseHandle, ConsumeIter, LeaderStats, OutOfRange, PartitionStats, Position, Positions, Stats,
    Subscription,
};
pub use error::{Error, ErrorKind, Fault, Phase, Result};
pub use message::{Batch, BatchIter, Gap, Message, MessageRef, Record, Start};
pub use produce::{ByKey, Failure, PartitionRecords, Partitioner, Producer, ProducerBuilder};
pub use protocol::admin::status::{NodeInfo, Topology};
pub use protocol::admin::topics::TopicInfo;
pub use protocol::limits::{Compression, Limits};
pub use topic_config::TopicConfig;

/// The programs in the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
