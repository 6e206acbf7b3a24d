//! Answers on their way to a connection, and the faults that hit them there.

use std::time::{Duration, Instant};

use super::faults::BrokerFault;
use super::log::Chunk;
use super::state::{End, State};
use crate::protocol::frame::{HEADER_LEN, Kind};

/// A part of an answer.
#[derive(Debug)]
pub(super) enum Part {
    Bytes(Vec<u8>),
    Chunk(Chunk),
}

/// An answer to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) parts: Vec<Part>,
    /// For how long it is held back.
    pub(super) hold: Option<Duration>,
    /// Whether a ping goes before it.
    pub(super) ping: bool,
    /// Of how many bytes its pieces are, and the time between two of them.
    pub(super) trickle: Option<(usize, Duration)>,
}

impl State {
    /// Queues the answer to a request of this kind, with whatever faults wait for it.
    pub(super) fn answer(&mut self, node: usize, conn: u64, kind: Kind, mut parts: Vec<Part>) {
        let node = &mut self.nodes[node];
        let Some(conn) = node.conns.get_mut(&conn) else { return };
        conn.link.wake.notify_all();
        let faults = &mut node.faults;
        if faults.take_equal(&BrokerFault::LoseAnswer(kind)) {
            conn.end = End::WhenSent;
            return;
        }
        if faults.take_equal(&BrokerFault::WrongRequestId) {
            change_request_id(kind, &mut parts);
        }
        if parts.iter().any(|part| matches!(part, Part::Chunk(_))) && faults.take_equal(&BrokerFault::CorruptBundle) {
            parts = corrupt(parts);
        }
        conn.queue.push_back(Answer {
            parts,
            hold: faults.take(|fault| if let BrokerFault::Delay(time) = fault { Some(*time) } else { None }),
            ping: faults.take_equal(&BrokerFault::PingBeforeAnswer),
            trickle: faults.take(|fault| match *fault {
                BrokerFault::Trickle { bytes, pause } => Some((bytes.max(1), pause)),
                _ => None,
            }),
        });
    }

    /// Queues an answer at a certain time.
    pub(super) fn answer_later(&mut self, node: usize, conn: u64, at: Instant, kind: Kind, parts: Vec<Part>) {
        if let Some(conn) = self.nodes[node].conns.get_mut(&conn) {
            conn.later.push((at, kind, parts));
            conn.link.wake.notify_all();
        }
    }
}

fn change_request_id(kind: Kind, parts: &mut [Part]) {
    let at = HEADER_LEN + if kind == Kind::Consume { 4 } else { 0 };
    if let Some(Part::Bytes(bytes)) = parts.first_mut() {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = byte.wrapping_add(1);
        }
    }
}

/// Changes the message count in the header of the first bundle.
fn corrupt(parts: Vec<Part>) -> Vec<Part> {
    let mut out = Vec::with_capacity(parts.len() + 1);
    let mut done = false;
    for part in parts {
        let Part::Chunk(mut chunk) = part else {
            out.push(part);
            continue;
        };
        if !done {
            let mut head = vec![0; usize::try_from(chunk.len).map_or(16, |len| len.min(16))];
            chunk.segment.read_at(chunk.at, &mut head);
            let flags = head.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
            match head.get(flags).map(|byte| byte >> 2 & 0xf) {
                Some(0) => head.get_mut(flags + 1).into_iter().for_each(|byte| *byte ^= 1),
                Some(15) => head[flags] -= 1 << 2,
                Some(_) => head[flags] += 1 << 2,
                None => {}
            }
            chunk.at += head.len() as u64;
            chunk.len -= head.len() as u64;
            out.push(Part::Bytes(head));
            done = true;
        }
        out.push(Part::Chunk(chunk));
    }
    out
}
