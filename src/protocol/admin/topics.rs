//! Discover topics (reference, section 9).

use super::bool8;
use crate::protocol::Limits;
use crate::protocol::cursor::{self, Cursor};
use crate::protocol::error::{DecodeError, EncodeError};
use crate::protocol::frame::{self, Kind};

/// The fewest bytes an entry takes: an empty name, a flag, a count.
const MIN_ENTRY: usize = 4;

/// Asks for all topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoverTopicsRequest {
    /// Repeated by the answer.
    pub request_id: u32,
    /// 0.
    pub flags: u8,
}

impl DiscoverTopicsRequest {
    /// Appends the request as a frame.
    ///
    /// # Errors
    /// None.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put_request(Kind::DiscoverTopics, out, |out| {
            out.extend_from_slice(&self.request_id.to_le_bytes());
            out.push(self.flags);
            Ok(())
        })
    }

    /// Reads a request from a frame's payload.
    ///
    /// # Errors
    /// A payload that ends early or has bytes left over.
    pub fn decode(payload: &[u8]) -> Result<DiscoverTopicsRequest, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let request = DiscoverTopicsRequest { request_id: c.u32("request id")?, flags: c.u8("flags")? };
        c.finish("topics request")?;
        Ok(request)
    }
}

/// A topic in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicEntry {
    /// At most 255 bytes.
    pub name: String,
    /// Whether it can be used.
    pub enabled: bool,
    /// How many partitions it has.
    pub partitions: u16,
    /// How many nodes have a copy of each partition. Only in a cluster.
    pub replication_factor: Option<u8>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverTopicsResponse {
    /// The request's id.
    pub request_id: u32,
    /// Whether the server is part of a cluster.
    pub cluster: bool,
    /// In no particular order.
    pub topics: Vec<TopicEntry>,
}

impl DiscoverTopicsResponse {
    /// Appends the answer as a frame.
    ///
    /// # Errors
    /// A name above 255 bytes, or a replication factor missing in a cluster or given without one. `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put_answer(Kind::DiscoverTopics, out, |out| {
            EncodeError::check("topics in an answer", self.topics.len(), 0, u32::MAX.into())?;
            out.extend_from_slice(&self.request_id.to_le_bytes());
            out.extend_from_slice(&u32::try_from(self.topics.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.push(self.cluster.into());
            for topic in &self.topics {
                cursor::put_str8(topic.name.as_bytes(), "topic name, bytes", out)?;
                out.push(topic.enabled.into());
                out.extend_from_slice(&topic.partitions.to_le_bytes());
                let (given, wanted) = (topic.replication_factor.is_some(), self.cluster);
                EncodeError::check("replication factors of a topic", given.into(), wanted.into(), wanted.into())?;
                out.extend(topic.replication_factor);
            }
            Ok(())
        })
    }

    /// Reads an answer from a frame's payload.
    ///
    /// # Errors
    /// A payload that ends early or has bytes left over, a flag that is not 0 or 1, or more topics than [`Limits::topics`].
    pub fn decode(payload: &[u8], limits: &Limits) -> Result<DiscoverTopicsResponse, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let request_id = c.u32("request id")?;
        let count = c.u32("topic count")?;
        if count > limits.topics {
            return Err(DecodeError::over_limit("topic count", count, limits.topics, 4));
        }
        let cluster = bool8(&mut c, "cluster flag")?;
        let mut topics = Vec::with_capacity((count as usize).min(c.left() / MIN_ENTRY));
        for _ in 0..count {
            topics.push(TopicEntry {
                name: c.name("topic name")?,
                enabled: bool8(&mut c, "enabled flag")?,
                partitions: c.u16("partition count")?,
                replication_factor: if cluster { Some(c.u8("replication factor")?) } else { None },
            });
        }
        c.finish("topics answer")?;
        Ok(DiscoverTopicsResponse { request_id, cluster, topics })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::both_ways;
    use super::*;
    use crate::protocol::DecodeFault;

    fn entry(name: &str, replication_factor: Option<u8>) -> TopicEntry {
        TopicEntry { name: name.into(), enabled: !name.is_empty(), partitions: 0x201, replication_factor }
    }

    #[test]
    fn requests_and_answers() {
        let request = DiscoverTopicsRequest { request_id: 1, flags: 2 };
        let bytes = (Kind::DiscoverTopics, b"\x01\0\0\0\x02".as_slice());
        both_ways(&request, bytes, DiscoverTopicsRequest::encode, DiscoverTopicsRequest::decode, &[]);

        let decode = |payload: &[u8]| DiscoverTopicsResponse::decode(payload, &Limits::default());
        let both = |cluster, topics, payload: &[u8]| {
            let response = DiscoverTopicsResponse { request_id: 1, cluster, topics };
            both_ways(&response, (Kind::DiscoverTopics, payload), DiscoverTopicsResponse::encode, decode, &[]);
        };
        both(false, vec![], b"\x01\0\0\0\0\0\0\0\0");
        both(false, vec![entry("", None)], b"\x01\0\0\0\x01\0\0\0\0\0\0\x01\x02");
        let topics = vec![entry("ab", Some(3)), entry("", Some(255))];
        both(true, topics, b"\x01\0\0\0\x02\0\0\0\x01\x02ab\x01\x01\x02\x03\0\0\x01\x02\xff");
    }

    #[test]
    fn counts_are_bounded() {
        let decode = |payload: &[u8], most| {
            DiscoverTopicsResponse::decode(payload, &Limits::default().topics(most)).unwrap_err()
        };
        let payload = b"\x01\0\0\0\x02\0\0\0\0";
        assert_eq!(decode(payload, 1).fault(), DecodeFault::OverLimit { claimed: 2, limit: 1 });
        assert_eq!(decode(payload, 2).fault(), DecodeFault::Short { needed: 1, left: 0 });
        let e = decode(b"\x01\0\0\0\xff\xff\xff\xff\0", u32::MAX);
        assert_eq!(e.fault(), DecodeFault::Short { needed: 1, left: 0 });
    }

    #[test]
    fn flags_and_replication_factors() {
        let decode = |payload: &[u8]| DiscoverTopicsResponse::decode(payload, &Limits::default()).unwrap_err();
        assert_eq!(decode(b"\x01\0\0\0\0\0\0\0\x02").fault(), DecodeFault::Undefined { value: 2 });
        assert_eq!(decode(b"\x01\0\0\0\x01\0\0\0\0\0\x03\x01\x02").fault(), DecodeFault::Undefined { value: 3 });
        for (cluster, factor) in [(true, None), (false, Some(1))] {
            let response = DiscoverTopicsResponse { request_id: 1, cluster, topics: vec![entry("a", factor)] };
            assert_eq!(response.encode(&mut Vec::new()).unwrap_err().field, "replication factors of a topic");
        }
    }
}
