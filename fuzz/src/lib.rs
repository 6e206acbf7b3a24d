//! The fuzz targets' bodies, which `cargo test` runs too.

#[path = "../../tests/fuzz_targets/mod.rs"]
pub mod targets;
