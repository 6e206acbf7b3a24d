//! What the test programs share.

// Each program uses its part of it.
#![allow(dead_code, unreachable_pub)]

pub mod alloc;
pub mod captures;
pub mod example;
pub mod feed;
pub mod generate;
pub mod logs;
pub mod mutate;
pub mod proxy;
pub mod rng;
pub mod server;
pub mod watch;
