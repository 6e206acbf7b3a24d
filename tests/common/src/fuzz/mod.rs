//! What the fuzz targets do with their input, in one place for the fuzzer and for `cargo test`: each module's `run` takes
//! whatever bytes there are and panics if the crate breaks a promise.

pub mod broker;
pub mod bundle;
pub mod fetch_stream;
pub mod responses;
pub mod roundtrip;
pub mod seeds;
pub mod simulation;
pub mod varint;
