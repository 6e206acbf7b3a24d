//! The frame header, five bytes, and the message ids (reference, sections 2 and 3).

use std::ops::Range;

use super::Limits;
use super::cursor::Cursor;
use super::error::{DecodeError, EncodeError, Encoded};
use super::field::Field;
pub(crate) use super::kind::Kind;

/// The length of a frame's header in bytes: message id and payload length.
pub const HEADER_LEN: usize = 5;

/// The ping that a server sends as its greeting: a header without a payload.
pub const PING: [u8; HEADER_LEN] = [Kind::Ping as u8, 0, 0, 0, 0];

/// The longest payload a server accepts: 256 MiB, inclusive (reference, section 2.5).
pub const MAX_REQUEST: usize = 256 << 20;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload contains.
    pub kind: Kind,
    /// The length of the payload that follows, in bytes.
    pub len: u32,
}

impl FrameHeader {
    /// Reads a header. Returns `Ok(None)` if there are fewer than [`HEADER_LEN`] bytes.
    ///
    /// # Errors
    /// An unknown message id.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Option<FrameHeader>, DecodeError> {
        if bytes.len() < HEADER_LEN {
            return Ok(None);
        }
        let mut cursor = Cursor::new(bytes, 0);
        let kind = Kind::take("message id", &mut cursor)?;
        Ok(Some(FrameHeader { kind, len: cursor.u32("frame length")? }))
    }

    /// Returns how many bytes of pings have come since the last answer, this one and `before` of others: without a limit they
    /// could keep a reader busy for ever.
    pub(super) fn pings_after(self, before: u64) -> Result<u64, DecodeError> {
        let claimed = before.saturating_add(HEADER_LEN as u64 + u64::from(self.len));
        DecodeError::check_possible("pings before an answer, bytes", claimed, MAX_PINGS, 0).map(|()| claimed)
    }
}

/// Returns the request id, with which the payload of every answer but a consume answer begins. It identifies the request
/// before the rest of the answer is read.
///
/// # Errors
/// Fewer than four bytes.
pub fn request_id(payload: &[u8]) -> Result<u32, DecodeError> {
    Cursor::new(payload, 0).u32("request id")
}

/// Appends a frame, or nothing if `body` or its length is refused: above [`MAX_REQUEST`] a server would hang up.
pub(crate) fn put(kind: Kind, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> Encoded) -> Encoded {
    put_head(kind, out, |out| {
        let start = out.len();
        body(out)?;
        EncodeError::check("request, bytes", out.len() - start, 0, MAX_REQUEST as u64).map(|()| 0)
    })
}

/// Appends a frame without the last bytes of its payload, or nothing if that is refused. `head` returns how many bytes will follow.
pub(super) fn put_head(kind: Kind, out: &mut Vec<u8>, head: impl FnOnce(&mut Vec<u8>) -> Encoded<u64>) -> Encoded {
    let before = out.len();
    out.extend_from_slice(&[kind as u8, 0, 0, 0, 0]);
    let start = out.len();
    head(out).and_then(|later| put_len(start, later, out)).inspect_err(|_| out.truncate(before))
}

/// Writes the length of what begins at `start`, with `later` bytes that follow, into the four bytes before it.
pub(super) fn put_len(start: usize, later: u64, out: &mut [u8]) -> Result<(), EncodeError> {
    let given = (out.len() - start) as u64 + later;
    let max = u32::MAX.into();
    let len = u32::try_from(given).map_err(|_| EncodeError { field: "answer, bytes", given, min: 0, max })?;
    if let Some(field) = out.get_mut(start - 4..start) {
        field.copy_from_slice(&len.to_le_bytes());
    }
    Ok(())
}

/// A request or an answer that is held whole before it is looked at.
pub trait Payload: Sized {
    /// The frame's message id.
    const KIND: Kind;

    /// Appends the fields.
    ///
    /// # Errors
    /// A value that the wire has no room for, or that a server must not be sent.
    fn put_fields(&self, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Reads the fields.
    ///
    /// # Errors
    /// A payload that ends early, an undefined code or flag, a name in a request that is not UTF-8, or more than `limits` allow.
    fn take_fields(c: &mut Cursor<'_>, limits: &Limits) -> Result<Self, DecodeError>;

    /// Appends it as a frame.
    ///
    /// # Errors
    /// A value that the wire has no room for, or that a server must not be sent. `out` is then unchanged.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put(Self::KIND, out, |out| self.put_fields(out))
    }

    /// Reads it from a frame's payload, within the default limits.
    ///
    /// # Errors
    /// As [`decode_within`](Payload::decode_within).
    fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_within(payload, &Limits::default())
    }

    /// Reads it from a frame's payload.
    ///
    /// # Errors
    /// As [`take_fields`](Payload::take_fields), and bytes left over.
    fn decode_within(payload: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let mut c = Cursor::new(payload, 0);
        let read = Self::take_fields(&mut c, limits)?;
        c.finish("payload").map(|()| read)
    }
}

// Codes with the same meaning in several answers (reference, sections 5.5, 6.3 and 8).

/// The partition could not be opened. Produce answers have another code for this.
pub(super) const SYSTEM_ERROR: u8 = 0xfb;

/// Another node leads the partition; its endpoint follows.
pub(super) const REDIRECT: u8 = 0xfc;

/// No node leads the partition now.
pub(super) const NO_LEADER: u8 = 0xfd;

// Whole frames, one after another, as they arrive. Answers to all requests but Consume are held whole before they are looked at;
// a Consume answer is read as a stream, by [`FetchDecoder`](super::stream::FetchDecoder).

/// Bytes of pings to take before a frame: servers send none after the greeting, and this many only to waste time.
const MAX_PINGS: u64 = 1 << 20;

/// What is at the front of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Part of a frame: this many more bytes are needed.
    Need(usize),
    /// A ping of this many bytes, header included: skip them.
    Ping(usize),
    /// A frame: its payload is this range of the input, and ends where the frame does.
    Whole(Kind, Range<usize>),
}

/// Finds the frames of one connection.
#[derive(Debug)]
pub struct Frames {
    /// The longest payload taken, in bytes.
    limit: u32,
    /// Bytes of pings since the last frame.
    pings: u64,
}

impl Frames {
    /// Takes payloads of up to `limit` bytes.
    pub fn new(limit: u32) -> Frames {
        Frames { limit, pings: 0 }
    }

    /// Returns what is at the front of `input`, which begins with the first byte that was not skipped. Call it again once more
    /// bytes have come, or after skipping this frame.
    ///
    /// # Errors
    /// An unknown message id, a frame above the limit (on the header alone), or pings without end.
    pub fn first(&mut self, input: &[u8]) -> Result<Frame, DecodeError> {
        let Some(header) = FrameHeader::decode(input)? else {
            return Ok(Frame::Need(HEADER_LEN - input.len()));
        };
        DecodeError::check("frame length", header.len, self.limit, 0)?;
        let whole = HEADER_LEN.saturating_add(header.len as usize);
        let pings = if header.kind == Kind::Ping { header.pings_after(self.pings)? } else { 0 };
        if input.len() < whole {
            return Ok(Frame::Need(whole - input.len()));
        }
        self.pings = pings;
        Ok(if header.kind == Kind::Ping { Frame::Ping(whole) } else { Frame::Whole(header.kind, HEADER_LEN..whole) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DecodeFault;
    use crate::protocol::frame::PING;

    #[test]
    fn headers_have_a_known_kind_and_any_length() {
        assert_eq!(FrameHeader::decode(&PING[..4]), Ok(None));
        assert_eq!(FrameHeader::decode(&PING), Ok(Some(FrameHeader { kind: Kind::Ping, len: 0 })));
        assert_eq!(FrameHeader::decode(&[2, 42, 0, 0, 0, 9]), Ok(Some(FrameHeader { kind: Kind::Consume, len: 42 })));
        for id in [0u8, 4, 9, 13, 72, 255] {
            let e = FrameHeader::decode(&[id, 0, 0, 0, 0]).unwrap_err();
            assert_eq!(e.fault(), DecodeFault::Undefined { value: id.into() });
        }
    }

    #[test]
    fn every_id_is_its_own_inverse() {
        for id in 0..=255u8 {
            if let Some(kind) = Kind::from_id(id) {
                assert_eq!(kind as u8, id);
            }
        }
    }

    #[test]
    fn frames_are_measured() {
        let mut out = vec![7];
        put(Kind::Status, &mut out, |out| {
            out.extend_from_slice(&[1, 2, 3]);
            Ok(())
        })
        .unwrap();
        assert_eq!(out, [7, 0x0a, 3, 0, 0, 0, 1, 2, 3]);
    }

    #[test]
    fn a_frame_that_a_server_hangs_up_on_is_not_written() {
        let mut out = vec![7];
        let mut put = |len| {
            let put = put(Kind::Status, &mut out, |out| {
                out.resize(out.len() + len, 0);
                Ok(())
            });
            (put.map_err(|e| e.given), out.len())
        };
        assert_eq!(put(MAX_REQUEST + 1), (Err(MAX_REQUEST as u64 + 1), 1));
        assert_eq!(put(MAX_REQUEST), (Ok(()), 1 + HEADER_LEN + MAX_REQUEST));
    }

    const STATUS: [u8; 8] = [0x0a, 3, 0, 0, 0, 1, 2, 3];

    #[test]
    fn a_frame_is_found_once_all_of_it_is_there() {
        let mut frames = Frames::new(3);
        for end in 0..5 {
            assert_eq!(frames.first(&STATUS[..end]), Ok(Frame::Need(5 - end)));
        }
        for end in 5..8 {
            assert_eq!(frames.first(&STATUS[..end]), Ok(Frame::Need(8 - end)));
        }
        assert_eq!(frames.first(&STATUS), Ok(Frame::Whole(Kind::Status, 5..8)));
        assert_eq!(frames.first(&[&STATUS[..], &PING].concat()), Ok(Frame::Whole(Kind::Status, 5..8)));
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused_on_its_header() {
        let e = Frames::new(2).first(&STATUS[..5]).unwrap_err();
        assert_eq!(e.fault(), DecodeFault::OverLimit { claimed: 3, limit: 2 });
        assert_eq!(Frames::new(2).first(&[4, 0, 0, 0, 0]).unwrap_err().fault(), DecodeFault::Undefined { value: 4 });
    }

    #[test]
    fn pings_are_passed_over_but_not_without_end() {
        let mut frames = Frames::new(1 << 10);
        assert_eq!(frames.first(&PING), Ok(Frame::Ping(5)));
        let long = [&[3, 0, 4, 0, 0][..], &[0; 1 << 10]].concat();
        let mut taken = 5;
        while taken + long.len() <= 1 << 20 {
            assert_eq!(frames.first(&long), Ok(Frame::Ping(long.len())));
            taken += long.len();
        }
        assert!(matches!(frames.first(&long).unwrap_err().fault(), DecodeFault::Implausible { .. }));
        // Any other frame begins the count afresh.
        assert!(frames.first(&STATUS).is_ok());
        assert_eq!(frames.first(&long), Ok(Frame::Ping(long.len())));
    }
}
