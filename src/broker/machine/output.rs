//! Answers on their way to a connection, and the faults that hit them there.
//!
//! ```text
//! answer() ──> queue ──> hold ──> ping ──> parts ──> gate ──> pull()'s room
//!                │        │ a fault's delay           │ cuts, flips, garbage, stalls: by the bytes of answers
//!                │ lost   └── MaySend, later          └──> Pull::Close, Pull::Reset
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use super::answer::{Answer, Part, Trickle, change_request_id, corrupt};
use super::connection::{Closing, Connection};
use super::schedule::Event;
use super::{Conn, Machine, Pull};
use crate::broker::faults::{Cut, Faults, Gate};
use crate::broker::{BrokerFault, BrokerStats};
use crate::protocol::frame::{Kind, PING};

impl Machine {
    /// Queues the answer to a request of this kind, with whatever faults wait for it.
    pub(super) fn answer(&mut self, conn: Conn, kind: Kind, parts: Vec<Part>) {
        let (Some(connection), Some(node)) = (self.conns.get_mut(&conn), self.nodes.get_mut(conn.node)) else { return };
        if connection.closing.now().is_some() {
            return;
        }
        let faults = &mut node.faults;
        let mut parts = VecDeque::from(parts);
        if faults.take_equal(&BrokerFault::LoseAnswer(kind)) {
            connection.close_when_sent();
        } else {
            if faults.take_equal(&BrokerFault::WrongRequestId) {
                change_request_id(kind, &mut parts);
            }
            if parts.iter().any(|part| matches!(part, Part::Chunk(_))) && faults.take_equal(&BrokerFault::CorruptBundle)
            {
                corrupt(&mut parts);
            }
            let hold = faults.take(|fault| if let BrokerFault::Delay(time) = fault { Some(*time) } else { None });
            if faults.take_equal(&BrokerFault::PingBeforeAnswer) {
                parts.push_front(Part::aside(PING.to_vec()));
            }
            let trickle = faults.take(|fault| match *fault {
                BrokerFault::Trickle { bytes, pause } => {
                    Some(Trickle { bytes: bytes.max(1), left: bytes.max(1), pause })
                }
                _ => None,
            });
            connection.queue.push_back(Answer { parts, hold, trickle, counts: true });
        }
        self.make_ready(conn);
    }

    /// Copies the next bytes that a connection must send into `room`. Whatever is not [`Pull::Bytes`] takes it from the
    /// [`ready`](Machine::ready) ones; after an end it is forgotten.
    pub(crate) fn pull(&mut self, now: crate::net::Time, conn: Conn, room: &mut [u8]) -> Pull {
        self.at(now);
        let (Some(connection), Some(node)) = (self.conns.get_mut(&conn), self.nodes.get_mut(conn.node)) else {
            return Pull::Nothing;
        };
        let mut done = 0;
        let mut later = None;
        while let Some(room) = room.get_mut(done..).filter(|room| !room.is_empty()) {
            if connection.closing.now().is_some() || node.paused || connection.stalled {
                break;
            }
            if connection.quiet_until > self.now {
                break;
            }
            let Some(answer) = connection.queue.front_mut() else {
                if connection.closing == Closing::WhenSent {
                    connection.closing = Closing::Now(Cut::Fin);
                }
                break;
            };
            let pause = match answer.hold.take() {
                Some(hold) => Some(hold),
                None => {
                    let (sent, pause) = send(connection, &mut node.faults, &mut node.stats, room);
                    done += sent;
                    pause
                }
            };
            if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
                connection.quiet_until = self.now.after(pause);
                later = Some(connection.quiet_until);
            }
        }
        node.stats.bytes_sent += done as u64;
        if let Some(later) = later {
            self.schedule.at(later, Event::MaySend(conn));
        }
        match (done, connection.closing.now()) {
            (0, Some(cut)) => {
                self.forget(conn);
                match cut {
                    Cut::Fin => Pull::Close,
                    Cut::Reset => Pull::Reset,
                }
            }
            (0, _) if room.is_empty() => Pull::Bytes(0),
            (0, _) => {
                connection.ready = false;
                Pull::Nothing
            }
            _ => Pull::Bytes(done),
        }
    }
}

/// Sends a part of the connection's first answer as far as faults let it: how many bytes, and how long nothing follows.
fn send(
    connection: &mut Connection,
    faults: &mut Faults,
    stats: &mut BrokerStats,
    room: &mut [u8],
) -> (usize, Option<Duration>) {
    let Some(answer) = connection.queue.front_mut() else { return (0, None) };
    let Some(part) = answer.parts.front_mut().filter(|part| !part.is_done()) else {
        if answer.parts.pop_front().is_none() {
            stats.answered += u64::from(answer.counts);
            connection.queue.pop_front();
        }
        return (0, None);
    };
    if let Part::Aside(_) = part {
        return (part.read(room), None);
    }
    let piece = answer.trickle.as_ref().map_or(usize::MAX, |trickle| trickle.left);
    let most = piece.min(room.len()).min(part.left());
    let (passed, cut) = match faults.gate(most) {
        Gate::Pass(len, cut) => (part.read(room.get_mut(..len).unwrap_or(&mut [])), cut),
        Gate::Flip(cut) => {
            let mut byte = [0];
            let read = part.read(&mut byte);
            room.iter_mut().take(read).zip(byte).for_each(|(to, byte)| *to = !byte);
            (read, cut)
        }
        Gate::Garbage(bytes) => {
            answer.parts.push_front(Part::aside(bytes));
            return (0, None);
        }
        Gate::Stall => {
            connection.stalled = true;
            stats.stalled += 1;
            return (0, None);
        }
        Gate::Cut(cut) => (0, Some(cut)),
    };
    let pause = answer.trickle.as_mut().and_then(|trickle| {
        trickle.left -= passed;
        (trickle.left == 0).then(|| {
            trickle.left = trickle.bytes;
            trickle.pause
        })
    });
    if let Some(cut) = cut {
        connection.closing = Closing::Now(cut);
    }
    (passed, pause)
}
