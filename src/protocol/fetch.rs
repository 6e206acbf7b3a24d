//! Consume requests and the headers of their answers, in both directions (reference, section 5).

use std::net::SocketAddrV4;
use std::sync::Arc;

use super::Limits;
use super::cursor::{self, Cursor, Topic};
use super::error::{DecodeError, DecodeFault, EncodeError};
use super::field::{Field, field, message};
use super::frame::{self, Kind, NO_LEADER, Payload, REDIRECT, SYSTEM_ERROR};

/// The most partitions in one request, over all topics: a waiting request with more can kill a server.
pub const MAX_PARTITIONS: usize = 250;

/// Asks for a partition's messages from the first one on.
pub const SEQ_EARLIEST: u64 = 0;

/// Asks for messages that arrive from now on. A client that must not lose any asks for numbers instead.
pub const SEQ_TAIL: u64 = u64::MAX;

/// A number beyond the end of every log: the answer to it tells where the end is, which no other answer does reliably.
pub const SEQ_BEYOND_END: u64 = u64::MAX - 1;

/// Prefers a replica on the client's own host. Only for request version 3, and only in a cluster.
pub const FLAG_PREFER_LOCAL: u8 = 1;

/// The shortest time a server waits, even if the request says less, in milliseconds.
pub const MIN_WAIT_MS: u64 = 320;

/// The longest time a server waits, in milliseconds.
pub const MAX_WAIT_MS: u64 = 3_600_000;

/// How much later than [`adjusted_wait_ms`] an answer may come, in milliseconds.
pub const WAIT_SLACK_MS: u64 = 128;

const ERR_NONE: u8 = 0;
const ERR_OUT_OF_RANGE: u8 = 0x01;
const ERR_SPARSE: u8 = 0xfe;
const ERR_UNKNOWN_PARTITION: u8 = 0xff;
/// Replaces the id of the first partition if the topic is unknown; no entries follow.
pub const UNKNOWN_TOPIC: [u8; 2] = [0xff, 0xff];

/// Returns how long a server waits if a request says `max_wait_ms`; up to [`WAIT_SLACK_MS`] longer (reference, section 5.6).
pub fn adjusted_wait_ms(max_wait_ms: u64) -> u64 {
    match max_wait_ms.min(MAX_WAIT_MS) {
        0 => 0,
        wait => wait.next_multiple_of(64).max(MIN_WAIT_MS),
    }
}

message! {
    /// A consume request.
    ///
    /// What must not be sent does not encode (reference, section 5.2): no topic, a repeated topic or partition, a topic without
    /// partitions, more than [`MAX_PARTITIONS`] partitions, partition 65,535, a name of 0 or more than 255 bytes. None of this is
    /// checked when a request is read; bytes of its client id that are not UTF-8 become replacement characters.
    FetchRequest: Consume {
        /// From version 3 on, `flags` is on the wire.
        client_version: u16 = "client version",
        /// Repeated by the answer. No other outstanding request on the connection may have it.
        request_id: u32 = "request id",
        /// For tracing; at most 255 bytes.
        client_id: Arc<str> = "client id",
        /// How long the server may wait for data, in milliseconds.
        max_wait_ms: u64 = "max wait",
        /// How many bytes of data end a wait.
        min_bytes: u32 = "min bytes",
        /// [`FLAG_PREFER_LOCAL`] or 0.
        flags: u8 = "flags" from client_version 3,
        /// The topics wanted, each once, with at least one partition.
        topics: Vec<FetchTopic> as Topics = "topics",
    }
}

/// A topic in a consume request.
pub type FetchTopic = Topic<Arc<str>, FetchPartition>;

message! {
    /// A partition in a consume request.
    #[derive(Copy)]
    FetchPartition {
        /// The partition.
        partition: u16 = "partition id",
        /// The first number wanted, [`SEQ_EARLIEST`] or [`SEQ_TAIL`].
        seq: u64 = "sequence number",
        /// How many bytes to send, as a hint.
        fetch_size: u32 = "fetch size",
    }
}

impl FetchRequest {
    /// Returns every partition with its topic, in the order of the request.
    pub fn slots(&self) -> impl Iterator<Item = (&Arc<str>, &FetchPartition)> {
        self.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (&topic.name, partition)))
    }
}

/// The topics of a request.
struct Topics;

field!(Topics as Vec<FetchTopic>: |topics, _name, out| {
    let count = topics.iter().map(|topic| topic.partitions.len()).sum();
    EncodeError::check("partitions in a request", count, 1, MAX_PARTITIONS as u64)?;
    cursor::put_topics(topics, |wanted| wanted.partition, out, |wanted, out| {
        // In an answer, 65,535 means that the topic does not exist.
        EncodeError::check("partition id", wanted.partition.into(), 0, 65_534)?;
        FetchPartition::put(wanted, "", out)
    })
}, |_name, cursor| cursor::take_topics(cursor, |cursor| FetchPartition::take("", cursor)));

/// What an answer says about a partition (reference, section 5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionAnswer {
    /// Data, or no data if `len` is 0.
    Data {
        /// The number of the chunk's first message. `None`: the first bundle contains its own numbers.
        base: Option<u64>,
        /// The highest number that may be delivered. How accurate it is varies (reference, section 5.3).
        high_water_mark: u64,
        /// The length of the chunk in bytes.
        len: u32,
    },
    /// The requested number is not there.
    OutOfRange {
        /// The last number assigned.
        high_water_mark: u64,
        /// The first number still there; 0 if the partition never had a message.
        first_available: u64,
    },
    /// The server could not open the partition.
    SystemError,
    /// Another node leads the partition.
    Redirect(SocketAddrV4),
    /// No node leads the partition now.
    NoLeader,
    /// The topic has no such partition.
    UnknownPartition,
    /// There is no such topic. Applies to all of its partitions.
    UnknownTopic,
}

impl PartitionAnswer {
    /// Returns the length of the partition's chunk in bytes.
    pub fn chunk_len(&self) -> u32 {
        if let PartitionAnswer::Data { len, .. } = self { *len } else { 0 }
    }

    /// Appends what follows a partition's id; nothing for [`UnknownTopic`](PartitionAnswer::UnknownTopic).
    fn put(&self, out: &mut Vec<u8>) {
        let mut numbers = |flags, base: Option<u64>, high_water_mark: u64, len: u32| {
            out.push(flags);
            base.into_iter().chain([high_water_mark]).for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
            out.extend_from_slice(&len.to_le_bytes());
        };
        match *self {
            PartitionAnswer::Data { base, high_water_mark, len } => {
                numbers(if base.is_some() { ERR_NONE } else { ERR_SPARSE }, base, high_water_mark, len)
            }
            PartitionAnswer::OutOfRange { high_water_mark, first_available } => {
                numbers(ERR_OUT_OF_RANGE, Some(0), high_water_mark, 0);
                out.extend_from_slice(&first_available.to_le_bytes());
            }
            PartitionAnswer::SystemError => out.push(SYSTEM_ERROR),
            PartitionAnswer::Redirect(endpoint) => {
                out.push(REDIRECT);
                cursor::put_endpoint(endpoint, out);
            }
            PartitionAnswer::NoLeader => out.push(NO_LEADER),
            PartitionAnswer::UnknownPartition => out.push(ERR_UNKNOWN_PARTITION),
            PartitionAnswer::UnknownTopic => {}
        }
    }

    /// Reads what follows a partition's id.
    ///
    /// # Errors
    /// An entry that ends early, an undefined code, or a boundary fault with a chunk.
    pub fn decode(c: &mut Cursor<'_>) -> Result<PartitionAnswer, DecodeError> {
        let flags = c.u8("err_flags")?;
        let base = match flags {
            ERR_NONE | ERR_OUT_OF_RANGE => Some(c.u64("base seq")?),
            ERR_SPARSE => None,
            SYSTEM_ERROR => return Ok(PartitionAnswer::SystemError),
            REDIRECT => return c.endpoint("leader endpoint").map(PartitionAnswer::Redirect),
            NO_LEADER => return Ok(PartitionAnswer::NoLeader),
            ERR_UNKNOWN_PARTITION => return Ok(PartitionAnswer::UnknownPartition),
            other => return Err(c.error("err_flags", DecodeFault::Undefined { value: other.into() })),
        };
        let high_water_mark = c.u64("high-water mark")?;
        let len = c.u32("chunk length")?;
        if flags != ERR_OUT_OF_RANGE {
            return Ok(PartitionAnswer::Data { base, high_water_mark, len });
        }
        DecodeError::check_is("chunk length of a boundary fault", len, 0u64, c.at())?;
        Ok(PartitionAnswer::OutOfRange { high_water_mark, first_available: c.u64("first available")? })
    }
}

/// The header of a consume answer, as a broker writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchHeader {
    /// The request's id.
    pub request_id: u32,
    /// The request's topics, in the same order.
    pub topics: Vec<TopicAnswer>,
}

/// A topic in a [`FetchHeader`], with the request's partitions, in the same order. If it is unknown, only their number is sent.
pub type TopicAnswer = Topic<Arc<str>, (u16, PartitionAnswer)>;

impl FetchHeader {
    /// Appends the answer's frame header and this header. The chunks must follow, in order and without separators.
    ///
    /// # Errors
    /// More than 255 topics or partitions, or a name above 255 bytes. `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put_head(Kind::Consume, out, |out| self.put(out))
    }

    /// Returns how many bytes of chunks follow.
    fn put(&self, out: &mut Vec<u8>) -> Result<u64, EncodeError> {
        // The header's own length comes first.
        out.extend_from_slice(&[0; 4]);
        let header = out.len();
        out.extend_from_slice(&self.request_id.to_le_bytes());
        cursor::put_count8(self.topics.len(), "topics in an answer", 0, out)?;
        let mut chunks = 0u64;
        for topic in &self.topics {
            cursor::put_str8(topic.name.as_bytes(), "topic name, bytes", out)?;
            cursor::put_count8(topic.partitions.len(), "partitions of a topic", 0, out)?;
            if topic.partitions.iter().any(|(_, answer)| *answer == PartitionAnswer::UnknownTopic) {
                out.extend_from_slice(&UNKNOWN_TOPIC);
                continue;
            }
            for (partition, answer) in &topic.partitions {
                out.extend_from_slice(&partition.to_le_bytes());
                answer.put(out);
                chunks += u64::from(answer.chunk_len());
            }
        }
        frame::put_len(header, 0, out).map(|()| chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> FetchRequest {
        let wanted = |partition| FetchPartition { partition, seq: 1, fetch_size: 1 << 20 };
        FetchRequest {
            client_version: 2,
            request_id: 66,
            client_id: "".into(),
            max_wait_ms: 0,
            min_bytes: 0,
            flags: 0,
            topics: vec![FetchTopic { name: "events".into(), partitions: vec![wanted(0), wanted(1)] }],
        }
    }

    #[test]
    fn requests_that_harm_a_server_do_not_encode() {
        let refused = |change: fn(&mut FetchRequest)| {
            let mut request = request();
            change(&mut request);
            let mut out = vec![1];
            let e = request.encode(&mut out).unwrap_err();
            assert_eq!(out, [1], "nothing is left behind");
            e.field
        };
        assert_eq!(refused(|r| r.topics.clear()), "partitions in a request");
        assert_eq!(refused(|r| r.topics[0].partitions[1].partition = 0), "entries of a partition");
        assert_eq!(refused(|r| r.topics[0].partitions[1].partition = 65_535), "partition id");
        assert_eq!(refused(|r| r.topics.push(r.topics[0].clone())), "entries of a topic");
        assert_eq!(
            refused(|r| r.topics.push(FetchTopic { name: "x".into(), partitions: vec![] })),
            "partitions of a topic"
        );
        assert_eq!(refused(|r| r.topics[0].name = "".into()), "topic name, bytes");
        assert_eq!(refused(|r| r.topics[0].name = "x".repeat(256).into()), "topic name, bytes");
        assert_eq!(refused(|r| r.client_id = "x".repeat(256).into()), "client id, bytes");
        assert_eq!(
            refused(|r| {
                let partition = |partition| FetchPartition { partition, seq: 0, fetch_size: 0 };
                r.topics[0].partitions = (0..251).map(partition).collect();
            }),
            "partitions in a request"
        );
    }

    #[test]
    fn the_flags_byte_exists_from_version_3_on() {
        for (version, flags) in [(0, 0), (2, 0), (3, 0), (3, 1)] {
            let request = FetchRequest { client_version: version, flags, ..request() };
            let mut out = Vec::new();
            request.encode(&mut out).unwrap();
            assert_eq!(FetchRequest::decode(&out[5..]), Ok(request));
        }
    }

    #[test]
    fn waits_are_adjusted_as_the_server_does() {
        for (asked, waits) in [(0, 0), (1, 320), (320, 320), (321, 384), (1000, 1024), (u64::MAX, 3_600_000)] {
            assert_eq!(adjusted_wait_ms(asked), waits, "{asked}");
        }
    }
}
