#![forbid(unsafe_code)]

#[cfg(feature = "broker")]
pub mod broker;
pub mod protocol;
