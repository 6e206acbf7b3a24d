//! Checkpoints and time, on the embedded broker.

#[path = "../common/mod.rs"]
mod common;

mod checkpoint;
#[cfg(unix)]
mod worker;
