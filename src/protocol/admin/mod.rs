//! All requests other than produce and consume: topics, partitions, nodes and their state, in both directions (reference,
//! sections 7 to 12).
//!
//! Each request and each answer is appended as a whole frame or not at all, and is read from a frame's payload. Answers that
//! name their topic check it with `check_answers`. In the others only the request id must be checked, by whoever matches
//! answers to requests.

mod partitions;
mod status;
mod topics;

pub use partitions::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
pub use status::{ClusterStatus, LogStatus, StatusRequest, StatusResponse};
pub use status::{ClusterTopology, DiscoverTopologyRequest, DiscoverTopologyResponse, NodeEntry};
pub use topics::{CreateTopicCode, CreateTopicRequest, CreateTopicResponse};
pub use topics::{DiscoverTopicsRequest, DiscoverTopicsResponse, TopicEntry};
pub use topics::{ReloadConfCode, ReloadConfRequest, ReloadConfResponse};

use super::cursor::Cursor;
use super::error::{DecodeError, DecodeFault};

/// Reads a byte that must be 0 or 1, because what follows may depend on it.
fn bool8(c: &mut Cursor<'_>, field: &'static str) -> Result<bool, DecodeError> {
    let at = c.at();
    match c.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::new(field, DecodeFault::Undefined { value: other.into() }, at)),
    }
}

pub(super) fn check_id(found: u32, expected: u32) -> Result<(), DecodeError> {
    if found == expected {
        return Ok(());
    }
    Err(DecodeError::unexpected("request id", found.into(), expected.into(), 0))
}

/// The position of the topic name, which follows the request id in every answer that has one.
fn check_topic(found: &str, expected: &str) -> Result<(), DecodeError> {
    if found == expected { Ok(()) } else { Err(DecodeError::new("topic name", DecodeFault::Name, 4)) }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::protocol::EncodeError;
    use crate::protocol::frame::Kind;

    /// Encodes to these payload bytes, decodes to the same value, and to an error if cut anywhere but at `ends`.
    pub(super) fn both_ways<T: PartialEq + Debug>(
        value: &T,
        (kind, payload): (Kind, &[u8]),
        encode: impl Fn(&T, &mut Vec<u8>) -> Result<(), EncodeError>,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
        ends: &[usize],
    ) {
        let mut out = Vec::new();
        encode(value, &mut out).unwrap();
        assert_eq!((out[0], &out[5..]), (kind as u8, payload));
        assert_eq!(out[1..5], u32::try_from(payload.len()).unwrap().to_le_bytes());
        assert_eq!(decode(payload).as_ref(), Ok(value));
        for end in (0..payload.len()).filter(|end| !ends.contains(end)) {
            let e = decode(&payload[..end]).unwrap_err();
            assert!(matches!(e.fault(), DecodeFault::Short { .. }), "cut at {end}: {e}");
        }
    }

    #[test]
    fn answers_are_checked_against_what_was_asked() {
        assert!(check_id(1, 1).is_ok() && check_topic("a", "a").is_ok());
        let e = check_id(2, 1).unwrap_err();
        assert_eq!((e.fault(), e.at()), (DecodeFault::Unexpected { found: 2, expected: 1 }, 0));
        assert_eq!(check_topic("a", "b").unwrap_err().fault(), DecodeFault::Name);
    }
}
