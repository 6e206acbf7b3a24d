//! Produce requests, with and without sequence numbers, and their answer, in both directions (reference, section 6).

use std::borrow::Cow;
use std::net::SocketAddrV4;

use super::bundle::{BundleHeader, MAX_MESSAGES};
use super::cursor::{self, Cursor, Topic};
use super::error::{DecodeError, DecodeFault, EncodeError};
use super::field::{Field, codes, field};
use super::frame::{self, Kind};
use super::{Limits, varint};

/// The client version to send. Its low byte must stay small (reference, section 6.2).
pub const CLIENT_VERSION: u16 = 2;

/// Acks from half of the other replicas, rounded down, plus one. Any other value is a number of replicas in addition to the
/// leader; 0 means all that are in sync.
pub const ACKS_QUORUM: u8 = 255;

/// A produce request that borrows its names and bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceRequest<'a> {
    /// [`CLIENT_VERSION`].
    pub client_version: u16,
    /// Repeated by the answer.
    pub request_id: u32,
    /// For tracing; at most 255 bytes.
    pub client_id: Cow<'a, str>,
    /// How many replicas in addition to the leader must have the messages. Only for a cluster.
    pub required_acks: u8,
    /// How long the server waits for them, in milliseconds; 0 for its default of 8 s.
    pub ack_timeout_ms: u32,
    /// `true` if the partitions' [`first_seq`](ProducePartition::first_seq) is sent, as `ProduceWithSeqnum`.
    pub with_seqnum: bool,
    /// The topics to store to, each once, with at least one partition.
    pub topics: Vec<ProduceTopic<'a>>,
}

/// A topic in a produce request.
pub type ProduceTopic<'a> = Topic<Cow<'a, str>, ProducePartition<'a>>;

/// A partition in a produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducePartition<'a> {
    /// The partition.
    pub partition: u16,
    /// The first number of a sparse bundle, else 0. Only `ProduceWithSeqnum` sends it.
    pub first_seq: u64,
    /// One bundle.
    pub bundle: &'a [u8],
}

impl<'a> ProduceRequest<'a> {
    /// Returns `Kind::Produce` or `Kind::ProduceWithSeqnum`.
    pub fn kind(&self) -> Kind {
        if self.with_seqnum { Kind::ProduceWithSeqnum } else { Kind::Produce }
    }

    /// Returns how many partitions each topic has, in the order of the request. The answer can be read only with these.
    pub fn shape(&self) -> impl Iterator<Item = usize> {
        self.topics.iter().map(|topic| topic.partitions.len())
    }

    /// Appends the request as a frame.
    ///
    /// # Errors
    /// A request that must not be sent to a server (reference, sections 6.1, 6.2, 6.5 and 19): no topic, a repeated topic or
    /// partition, a topic without partitions, more than 255 of either, a name of 0 or more than 255 bytes; a bundle that is
    /// empty or has no messages or more than [`MAX_MESSAGES`]; with numbers, a `first_seq` that is not the sparse bundle's
    /// own, or not 0 for a dense one; a client version that servers misread; more than 256 MiB in total. `out` is then
    /// unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put(self.kind(), out, |out| self.put(out, &mut |bundle, out| out.extend_from_slice(bundle)))
    }

    /// Returns the request as [`encode`](ProduceRequest::encode) appends it, but without its bundles of more than `small` bytes,
    /// and where each of these belongs: whoever keeps them anyway need not copy them.
    pub(crate) fn encode_around(&self, small: usize) -> Result<(Vec<u8>, Vec<usize>), EncodeError> {
        let (mut out, mut places, mut left_out) = (Vec::with_capacity(256), Vec::new(), 0);
        frame::put_head(self.kind(), &mut out, |out| {
            let start = out.len();
            self.put(out, &mut |bundle, out| {
                if bundle.len() <= small {
                    return out.extend_from_slice(bundle);
                }
                places.push(out.len());
                left_out += bundle.len();
            })?;
            let len = out.len() - start + left_out;
            EncodeError::check("request, bytes", len, 0, frame::MAX_REQUEST as u64).map(|()| left_out as u64)
        })?;
        Ok((out, places))
    }

    fn put(&self, out: &mut Vec<u8>, put_bundle: &mut dyn FnMut(&[u8], &mut Vec<u8>)) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(&self.client_version.to_le_bytes());
        out.extend_from_slice(&self.request_id.to_le_bytes());
        cursor::put_str8(self.client_id.as_bytes(), "client id, bytes", out)?;
        out.push(self.required_acks);
        out.extend_from_slice(&self.ack_timeout_ms.to_le_bytes());
        cursor::put_topics(
            &self.topics,
            |entry| entry.partition,
            out,
            |entry, out| {
                // Checked before copying, not only when the frame is complete.
                let len = out.len() - start + entry.bundle.len();
                EncodeError::check("request, bytes", len, 0, frame::MAX_REQUEST as u64)?;
                entry.put(self.with_seqnum, out)?;
                put_bundle(entry.bundle, out);
                Ok(())
            },
        )?;
        // The server reads the low byte of the version as the length of a string, and hangs up if that is too long.
        let [low, _] = self.client_version.to_le_bytes();
        let most = (out.len() - start).saturating_sub(7) as u64;
        EncodeError::check("client version, low byte", low.into(), 0, most)
    }

    /// Reads a request from the payload of a frame of this kind, without the checks of [`encode`](ProduceRequest::encode).
    ///
    /// # Errors
    /// Another kind, a payload that ends early or has bytes left over, or a topic name that is not UTF-8.
    pub fn decode(kind: Kind, payload: &'a [u8]) -> Result<ProduceRequest<'a>, DecodeError> {
        let with_seqnum = kind == Kind::ProduceWithSeqnum;
        if !with_seqnum {
            DecodeError::check_is("message id", kind as u8, Kind::Produce as u8, 0)?;
        }
        let mut c = Cursor::new(payload, 0);
        let client_version = c.u16("client version")?;
        let request_id = c.u32("request id")?;
        let client_id = String::from_utf8_lossy(c.str8("client id")?);
        let required_acks = c.u8("required acks")?;
        let ack_timeout_ms = c.u32("ack time-out")?;
        let topics = cursor::take_topics(&mut c, |c| {
            let (partition, len) = (c.u16("partition id")?, c.varint("bundle length")?);
            let first_seq = if with_seqnum { c.u64("first seq")? } else { 0 };
            Ok(ProducePartition { partition, first_seq, bundle: c.bytes(len as usize, "bundle")? })
        })?;
        c.finish("produce request")?;
        Ok(ProduceRequest { client_version, request_id, client_id, required_acks, ack_timeout_ms, with_seqnum, topics })
    }
}

impl ProducePartition<'_> {
    fn put(&self, with_seqnum: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        EncodeError::check("bundle, bytes", self.bundle.len(), 1, frame::MAX_REQUEST as u64)?;
        let limits = Limits::default().messages(MAX_MESSAGES);
        let header = BundleHeader::decode(&mut Cursor::new(self.bundle, 0), &limits).map_err(|e| refusal(&e))?;
        out.extend_from_slice(&self.partition.to_le_bytes());
        varint::encode(u32::try_from(self.bundle.len()).unwrap_or(u32::MAX), out);
        let first = if with_seqnum { header.sparse.map_or(0, |(first, _)| first) } else { 0 };
        EncodeError::check_is("first seq", self.first_seq, first)?;
        if with_seqnum {
            out.extend_from_slice(&self.first_seq.to_le_bytes());
        }
        Ok(())
    }
}

#[cold]
fn refusal(e: &DecodeError) -> EncodeError {
    let field = e.field();
    match e.fault() {
        DecodeFault::Undefined { value } => EncodeError { field, given: value, min: 1, max: MAX_MESSAGES.into() },
        DecodeFault::OverLimit { claimed, limit } => EncodeError { field, given: claimed, min: 1, max: limit },
        DecodeFault::Unsupported { value } => EncodeError { field, given: value, min: 0, max: 1 },
        DecodeFault::SeqRange { seq, low, high } => EncodeError { field, given: seq, min: low, max: high },
        DecodeFault::Short { needed, left } => EncodeError { field, given: left, min: needed, max: needed },
        _ => EncodeError { field, given: u64::MAX, min: 0, max: u32::MAX.into() },
    }
}

codes! {
    /// The outcome for a partition's bundle (reference, section 6.3).
    ProduceCode {
        /// Stored.
        Stored = 0x00,
        /// The topic has no such partition.
        UnknownPartition = 0x01,
        /// The log could not be opened or written. If it could not be written, the bundle may be stored.
        SystemError = 0x02,
        /// Stored by the leader, but not confirmed by enough replicas in time.
        NotConfirmed = 0x03,
        /// Not enough replicas in sync for the acks that were asked for; not stored.
        InsufficientReplicas = 0x04,
        /// The bundle's numbers are not above the last one stored; not stored.
        InvalidSeq = 0x0a,
        /// Another node leads the partition; not stored. An unspecified address or port 0 means that none does.
        Redirect(endpoint: SocketAddrV4 = "leader endpoint") = 0xfc,
        /// No node leads the partition now; not stored.
        NoLeader = 0xfd,
        /// The server is read-only. Applies to all partitions of a topic.
        ReadOnly = 0xfe,
        /// There is no such topic. Applies to all of its partitions.
        UnknownTopic = 0xff,
    }
}

impl ProduceCode {
    /// Returns the byte of a code that is sent once for all partitions of its topic.
    fn of_topic(self) -> Option<u8> {
        match self {
            ProduceCode::ReadOnly => Some(0xfe),
            ProduceCode::UnknownTopic => Some(0xff),
            _ => None,
        }
    }
}

/// The answer to either produce request. It contains no names and no counts, so it can be read only with the
/// [`shape`](ProduceRequest::shape) of its request, which [`frame::request_id`] identifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceResponse {
    /// The request's id.
    pub request_id: u32,
    /// One code for each partition, in the order of the request. A code sent once for a topic is repeated.
    pub codes: Vec<ProduceCode>,
}

impl ProduceResponse {
    /// Appends the answer to a request of this shape as a frame.
    ///
    /// # Errors
    /// More or fewer codes than the shape has partitions, or a code for a whole topic together with another code. `out` is
    /// then unchanged.
    pub fn encode(&self, shape: impl IntoIterator<Item = usize>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame::put(Kind::Produce, out, |out| {
            out.extend_from_slice(&self.request_id.to_le_bytes());
            let mut rest = self.codes.as_slice();
            for partitions in shape {
                let Some((topic, later)) = rest.split_at_checked(partitions) else {
                    return EncodeError::check_is("codes of a topic", rest.len() as u64, partitions as u64);
                };
                rest = later;
                match topic.iter().find(|code| code.of_topic().is_some()) {
                    Some(code) => {
                        let same = topic.iter().filter(|other| *other == code).count();
                        EncodeError::check_is("codes of a topic", same as u64, partitions as u64)?;
                        ProduceCode::put(code, "", out)?;
                    }
                    None => topic.iter().try_for_each(|code| ProduceCode::put(code, "", out))?,
                }
            }
            EncodeError::check_is("codes of no topic", rest.len() as u64, 0)
        })
    }

    /// Reads the answer to a request of this shape from a frame's payload.
    ///
    /// # Errors
    /// Fewer or more codes than the request has partitions, a code that is not defined, or one for a whole topic after
    /// another one of the same topic.
    pub fn decode(payload: &[u8], shape: impl IntoIterator<Item = usize>) -> Result<ProduceResponse, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let request_id = c.u32("request id")?;
        let mut codes = Vec::new();
        for partitions in shape {
            let mut left = partitions;
            while left > 0 {
                let (at, code) = (c.at(), ProduceCode::take("produce code", &mut c)?);
                let covers = match code.of_topic() {
                    None => 1,
                    Some(_) if left == partitions => partitions,
                    Some(id) => return Err(DecodeError::undefined("produce code", id, at)),
                };
                codes.resize(codes.len() + covers, code);
                left -= covers;
            }
        }
        c.finish("produce answer").map(|()| ProduceResponse { request_id, codes })
    }
}

#[cfg(test)]
mod tests;
