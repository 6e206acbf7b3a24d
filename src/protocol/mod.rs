//! The wire format, low level: bytes to values and back. No I/O, no clock, no log, no panic.
//!
//! This is what the client itself runs on, public so that tests and fuzz targets use what users run. It is **outside
//! semver**: anything here may change in any release.
//!
//! "Reference" and section numbers in these pages mean the TANK wire protocol reference that the crate was written
//! from; each module says in a line what it covers.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod admin;
pub mod bundle;
pub mod compress;
pub mod cursor;
mod error;
pub mod fetch;
pub mod frame;
mod limits;
pub mod produce;
pub mod stream;
pub mod varint;

pub use error::{DecodeError, DecodeFault, EncodeError};
pub use limits::Limits;
