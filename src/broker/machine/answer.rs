//! An answer in pieces: bytes of its own, chunks of a log, and what is sent beside it.
//!
//! Nothing is copied before the transport has room for it: a part is a header's few bytes, or a reference into a log.

use std::collections::VecDeque;
use std::time::Duration;

use super::segment::Chunk;
use crate::protocol::frame::{HEADER_LEN, Kind};

/// A part of an answer.
#[derive(Debug)]
pub(super) enum Part {
    Bytes(Bytes),
    Chunk(Chunk),
    /// A ping or a fault's bytes: no part of the answer proper, and out of the reach of the faults that count its bytes.
    Aside(Bytes),
}

/// Bytes, as far as they are still to be sent.
#[derive(Debug)]
pub(super) struct Bytes {
    bytes: Vec<u8>,
    at: usize,
}

impl Bytes {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or(&[])
    }

    fn read(&mut self, out: &mut [u8]) -> usize {
        let len = self.rest().len().min(out.len());
        let (Some(to), Some(from)) = (out.get_mut(..len), self.rest().get(..len)) else { return 0 };
        to.copy_from_slice(from);
        self.at += len;
        len
    }
}

impl Part {
    pub(super) fn bytes(bytes: Vec<u8>) -> Part {
        Part::Bytes(Bytes { bytes, at: 0 })
    }

    pub(super) fn aside(bytes: Vec<u8>) -> Part {
        Part::Aside(Bytes { bytes, at: 0 })
    }

    pub(super) fn is_done(&self) -> bool {
        match self {
            Part::Bytes(bytes) | Part::Aside(bytes) => bytes.rest().is_empty(),
            Part::Chunk(chunk) => chunk.len() == 0,
        }
    }

    pub(super) fn left(&self) -> usize {
        match self {
            Part::Bytes(bytes) | Part::Aside(bytes) => bytes.rest().len(),
            Part::Chunk(chunk) => usize::try_from(chunk.len()).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        match self {
            Part::Bytes(bytes) | Part::Aside(bytes) => bytes.read(out),
            Part::Chunk(chunk) => chunk.read(out),
        }
    }
}

/// How an answer is sent in pieces.
#[derive(Debug)]
pub(super) struct Trickle {
    /// Bytes of a piece, and what is left of this one.
    pub(super) bytes: usize,
    pub(super) left: usize,
    /// The time between two of them.
    pub(super) pause: Duration,
}

/// An answer to be sent, or a greeting.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) parts: VecDeque<Part>,
    /// For how long it is held back.
    pub(super) hold: Option<Duration>,
    pub(super) trickle: Option<Trickle>,
    /// Whether it is an answer, and not a greeting.
    pub(super) counts: bool,
}

impl Answer {
    pub(super) fn greeting(bytes: Vec<u8>, hold: Option<Duration>) -> Answer {
        Answer { parts: [Part::aside(bytes)].into(), hold, trickle: None, counts: false }
    }
}

pub(super) fn change_request_id(kind: Kind, parts: &mut VecDeque<Part>) {
    let at = HEADER_LEN + if kind == Kind::Consume { 4 } else { 0 };
    if let Some(Part::Bytes(bytes)) = parts.front_mut() {
        if let Some(byte) = bytes.bytes.get_mut(at) {
            *byte = byte.wrapping_add(1);
        }
    }
}

/// Changes the message count in the header of the first bundle.
pub(super) fn corrupt(parts: &mut VecDeque<Part>) {
    let Some(at) = parts.iter().position(|part| matches!(part, Part::Chunk(_))) else { return };
    let Some(Part::Chunk(chunk)) = parts.get_mut(at) else { return };
    let mut head = vec![0; usize::try_from(chunk.len()).map_or(16, |len| len.min(16))];
    chunk.read(&mut head);
    let flags = head.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
    let count = head.get(flags).map_or(0, |byte| byte >> 2 & 0xf);
    if let Some(byte) = head.get_mut(if count == 0 { flags + 1 } else { flags }) {
        match count {
            0 => *byte ^= 1,
            15 => *byte -= 1 << 2,
            _ => *byte += 1 << 2,
        }
    }
    parts.insert(at, Part::bytes(head));
}
