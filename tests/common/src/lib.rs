//! What the test programs share, and what the fuzz targets do with their input. A package of its own, so that it is compiled
//! once.

pub mod alloc;
pub mod captures;
pub mod compare;
pub mod example;
pub mod feed;
pub mod fuzz;
pub mod generate;
pub mod input;
pub mod logs;
pub mod mutate;
pub mod peer;
pub mod plain;
pub mod proxy;
pub mod rng;
pub mod segments;
pub mod server;
pub mod sets;
pub mod turns;
pub mod watch;

use std::error::Error;
use std::path::{Path, PathBuf};

use tank_client::protocol::DecodeError;
use tank_client::protocol::fetch::FetchRequest;
use tank_client::protocol::frame::Payload;

/// The repository's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The fields of a consume request.
pub fn fetch(request: &tank_client::broker::Request) -> Result<FetchRequest, DecodeError> {
    FetchRequest::decode(&request.payload)
}

/// What an error of malformed data says in detail; users see its text alone.
pub fn malformed(e: &tank_client::Error) -> &DecodeError {
    e.source().and_then(|source| source.downcast_ref()).expect("malformed data")
}
