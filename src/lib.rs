#![forbid(unsafe_code)]

pub mod protocol;
mod topic_config;

pub use topic_config::{CleanupPolicy, TopicConfig, TopicConfigError};
