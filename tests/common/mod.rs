//! What the test programs share.

// Each program uses its part of it.
#![allow(dead_code, unreachable_pub)]

pub mod captures;
pub mod example;
pub mod feed;
pub mod generate;
pub mod mutate;
pub mod rng;
