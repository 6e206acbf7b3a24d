#![forbid(unsafe_code)]

#[cfg(feature = "broker")]
pub mod broker;
pub mod protocol;
mod topic_config;

pub use topic_config::{CleanupPolicy, TopicConfig, TopicConfigError};
