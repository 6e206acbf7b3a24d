//! The examples as users run them.

/// What the examples share among themselves.
#[path = "../../examples/common/mod.rs"]
mod parts;

mod admin;
mod arguments;
mod doctor;
mod mirror;
mod publish;
mod read;
mod replay;
mod shared;
mod tail;
mod upstream;
