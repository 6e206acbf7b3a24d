//! All requests other than produce and consume: topics, partitions, nodes and their state, in both directions (reference,
//! sections 7 to 12).
//!
//! Each is a [`Payload`](super::frame::Payload). [`Request::read_answer`](super::request::Request::read_answer) reads an answer and
//! checks it against its request.

mod partitions;
pub(crate) mod status;
pub(crate) mod topics;

pub use partitions::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
pub use status::{ClusterStatus, LogStatus, StatusRequest, StatusResponse};
pub use status::{DiscoverTopologyRequest, DiscoverTopologyResponse, Topology};
pub use topics::{CreateTopicCode, CreateTopicRequest, CreateTopicResponse};
pub use topics::{DiscoverTopicsRequest, DiscoverTopicsResponse};
pub use topics::{ReloadConfCode, ReloadConfRequest, ReloadConfResponse};

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::protocol::frame::Payload;
    use crate::protocol::request::Request;
    use crate::protocol::{DecodeError, DecodeFault, Limits};

    /// What a request makes of an answer.
    pub(super) fn answer<R: Request>(request: &R, response: &impl Payload) -> Result<R::Answer, DecodeError> {
        let mut out = Vec::new();
        response.encode(&mut out).unwrap();
        request.read_answer(&out[5..], &Limits::default())
    }

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
        let request = CreateTopicRequest { request_id: 1, topic: "a".into(), partitions: 1, config: "".into() };
        let says = |request_id, topic: &str| {
            let code = CreateTopicCode::Created;
            answer(&request, &CreateTopicResponse { request_id, topic: topic.into(), code })
        };
        assert_eq!(says(1, "a"), Ok(CreateTopicCode::Created));
        let e = says(2, "a").unwrap_err();
        assert_eq!((e.fault(), e.at()), (DecodeFault::Unexpected { found: 2, expected: 1 }, 0));
        let e = says(1, "b").unwrap_err();
        assert_eq!((e.fault(), e.at()), (DecodeFault::Name, 4));
    }
}
