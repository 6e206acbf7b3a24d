//! Every recorded exchange, byte for byte, against its decoding in the manifest.

#[path = "../common/mod.rs"]
mod common;
mod consume;
