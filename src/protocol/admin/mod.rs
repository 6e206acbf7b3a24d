//! All requests other than produce and consume: topics, partitions, nodes and their state, in both directions (reference,
//! sections 7 to 12).
//!
//! Each is a [`Payload`](super::frame::Payload). Answers that name their topic check it with `check_answers`. In the others
//! only the request id must be checked, by whoever matches answers to requests.

mod partitions;
pub(crate) mod status;
pub(crate) mod topics;

pub use partitions::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
pub use status::{ClusterStatus, LogStatus, StatusRequest, StatusResponse};
pub use status::{DiscoverTopologyRequest, DiscoverTopologyResponse, Topology};
pub use topics::{CreateTopicCode, CreateTopicRequest, CreateTopicResponse};
pub use topics::{DiscoverTopicsRequest, DiscoverTopicsResponse};
pub use topics::{ReloadConfCode, ReloadConfRequest, ReloadConfResponse};

use super::error::{DecodeError, DecodeFault};

pub(super) fn check_id(found: u32, expected: u32) -> Result<(), DecodeError> {
    DecodeError::check_is("request id", found, expected, 0)
}

/// The position of the topic name, which follows the request id in every answer that has one.
fn check_topic(found: &str, expected: &str) -> Result<(), DecodeError> {
    if found == expected { Ok(()) } else { Err(DecodeError::new("topic name", DecodeFault::Name, 4)) }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::protocol::frame::Payload;

    /// Encodes to these payload bytes, decodes to the same value, and to an error if cut anywhere but at `ends`.
    pub(super) fn both_ways<T: Payload + PartialEq + Debug>(value: &T, payload: &[u8], ends: &[usize]) {
        let mut out = Vec::new();
        value.encode(&mut out).unwrap();
        assert_eq!((out[0], &out[5..]), (T::KIND as u8, payload));
        assert_eq!(out[1..5], u32::try_from(payload.len()).unwrap().to_le_bytes());
        assert_eq!(T::decode(payload).as_ref(), Ok(value));
        for end in (0..payload.len()).filter(|end| !ends.contains(end)) {
            let e = T::decode(&payload[..end]).unwrap_err();
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
