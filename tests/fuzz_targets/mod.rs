//! What the fuzz targets do with their input, in one place for the fuzzer and for `cargo test`: each module's `run` takes
//! whatever bytes there are and panics if the crate breaks a promise.

// Each program uses its part of it.
#![allow(dead_code, unreachable_pub)]

pub mod broker;
pub mod bundle;
pub mod consume_loop;
pub mod fetch_stream;
pub mod input;
pub mod peer;
pub mod responses;
pub mod roundtrip;
pub mod varint;

#[path = "../differential/compare.rs"]
mod compare;
#[path = "../common/feed.rs"]
mod feed;
#[path = "../common/generate.rs"]
mod generate;
#[path = "../differential/plain.rs"]
mod plain;
#[path = "../common/rng.rs"]
mod rng;
