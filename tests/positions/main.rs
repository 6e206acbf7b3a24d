//! Checkpoints and time, on the embedded broker.

#[path = "../common/mod.rs"]
mod common;

mod checkpoint;
mod time;
#[cfg(unix)]
mod worker;
