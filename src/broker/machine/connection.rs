//! Connections: opened, greeted, listened to, ended (reference, section 2).
//!
//! ```text
//! accept() ──> open ──── a request that hangs up, FIN ───> sends what is queued ──> Pull::Close
//!                └────── hang_up, cuts, silence, kill ──────────────────────────> Pull::Close or Pull::Reset
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::answer::Answer;
use super::schedule::Event;
use super::{Conn, End, Machine};
use crate::broker::BrokerFault;
use crate::broker::faults::{Cut, Greeting};
use crate::broker::stats::Request;
use crate::net::Time;
use crate::protocol::frame::{FrameHeader, HEADER_LEN, Kind, MAX_REQUEST, PING};

/// How many connections that never sent a byte a node keeps (reference, section 2.5).
const MAX_SILENT: usize = 64;

/// Bytes of a request's memory that are kept for the next one.
const KEPT_INPUT: usize = 64 << 10;

/// The shortest time between two looks for the silence of a connection that is busy.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) from: IpAddr,
    /// What was received and not executed: the beginning of a request, or whatever came while the node hung.
    input: Vec<u8>,
    /// Whether the client has closed its side, after what is unread.
    ended: bool,
    /// Answers to be sent.
    pub(super) queue: VecDeque<Answer>,
    /// Nothing is sent before that.
    pub(super) quiet_until: Time,
    /// Whether it ever sent a byte, and when it last did or was opened.
    heard: bool,
    last_heard: Time,
    pub(super) closing: Closing,
    /// Its waiting requests.
    pub(super) waits: BTreeSet<u64>,
    /// Whether a fault keeps it silent.
    pub(super) stalled: bool,
    /// Whether it is among those that may have something to send.
    pub(super) ready: bool,
}

/// Whether and when a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    No,
    /// Once the answers in its queue are sent.
    WhenSent,
    /// With what was pulled already.
    Now(Cut),
    /// As [`Now`](Closing::Now), without what the transport holds.
    Torn(Cut),
}

impl Closing {
    /// How it ends if that is now.
    pub(super) fn now(self) -> Option<Cut> {
        match self {
            Closing::Now(cut) | Closing::Torn(cut) => Some(cut),
            Closing::No | Closing::WhenSent => None,
        }
    }
}

impl Connection {
    fn new(now: Time, from: IpAddr) -> Connection {
        Connection {
            from,
            input: Vec::new(),
            ended: false,
            queue: VecDeque::new(),
            quiet_until: Time::ZERO,
            heard: false,
            last_heard: now,
            closing: Closing::No,
            waits: BTreeSet::new(),
            stalled: false,
            ready: false,
        }
    }

    pub(super) fn close_when_sent(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::WhenSent;
        }
    }
}

/// The connection is to be closed.
#[derive(Debug)]
pub(super) struct HangUp;

/// The first frame of some bytes.
enum Frame {
    /// There is more to come.
    Part,
    TooLong,
    /// Its kind, if that is known, and its length with the header.
    Whole(Option<Kind>, usize),
}

fn first_frame(bytes: &[u8]) -> Frame {
    let Some(&[_, a, b, c, d]) = bytes.first_chunk::<HEADER_LEN>() else { return Frame::Part };
    let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    match len {
        _ if len > MAX_REQUEST => Frame::TooLong,
        _ if bytes.len() < HEADER_LEN + len => Frame::Part,
        _ => {
            let header = FrameHeader::decode(bytes).ok().flatten();
            Frame::Whole(header.map(|header| header.kind), HEADER_LEN + len)
        }
    }
}

impl Machine {
    /// A client has connected to a node; `None` if it is refused, or closed at once. The greeting is output.
    pub(crate) fn accept(&mut self, now: Time, node: usize, from: IpAddr) -> Option<Conn> {
        self.at(now);
        let this = self.nodes.get_mut(node).filter(|node| node.listening)?;
        this.stats.accepted += 1;
        let conn = Conn { node, id: this.stats.accepted };
        let (greeting, hold) = match this.faults.greeting() {
            Greeting::Close => return None,
            Greeting::Ping => (PING.to_vec(), None),
            Greeting::Late(after) => (PING.to_vec(), Some(after)),
            Greeting::Bytes(bytes) => (bytes, None),
            Greeting::Nothing => (Vec::new(), None),
        };
        this.stats.open += 1;
        let mut connection = Connection::new(self.now, from);
        connection.queue.push_back(Answer::greeting(greeting, hold));
        self.conns.insert(conn, connection);
        self.make_ready(conn);
        let limits = [self.options.silent_timeout, self.options.idle_timeout];
        if let Some(limit) = limits.into_iter().flatten().min() {
            self.schedule.at(self.now.after(limit), Event::CheckSilence(conn));
        }
        self.close_oldest_silent(node);
        Some(conn)
    }

    fn close_oldest_silent(&mut self, node: usize) {
        let silent = self.conns.range(Conn::all_of(node)).filter(|(_, connection)| !connection.heard);
        if silent.clone().count() > MAX_SILENT {
            let mut open = silent.filter(|(_, connection)| connection.closing == Closing::No);
            if let Some(oldest) = open.next().map(|(conn, _)| *conn) {
                self.hang_up(oldest);
            }
        }
    }

    /// Returns whether a node reads from a connection. While it does not, what arrives stays with the transport.
    pub(crate) fn reads(&self, conn: Conn) -> bool {
        let paused = self.nodes.get(conn.node).is_none_or(|node| node.paused);
        !paused && self.conns.get(&conn).is_some_and(|connection| connection.closing == Closing::No)
    }

    /// Bytes have arrived.
    pub(crate) fn handle(&mut self, now: Time, conn: Conn, bytes: &[u8]) {
        self.at(now);
        let Some(connection) = self.conns.get_mut(&conn).filter(|connection| connection.closing == Closing::No) else {
            return;
        };
        if bytes.is_empty() {
            return;
        }
        connection.heard = true;
        connection.last_heard = self.now;
        if self.nodes.get(conn.node).is_some_and(|node| node.paused) {
            connection.input.extend_from_slice(bytes);
            return;
        }
        if connection.input.is_empty() {
            // The usual case: nothing is copied.
            let rest = self.execute_all(conn, bytes);
            if let (Some(connection), Some(rest)) = (self.conns.get_mut(&conn), bytes.get(rest..)) {
                connection.input.extend_from_slice(rest);
            }
            return;
        }
        connection.input.extend_from_slice(bytes);
        self.execute_unread(conn);
    }

    /// Executes the requests that lie in a connection's memory.
    pub(super) fn execute_unread(&mut self, conn: Conn) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let mut input = std::mem::take(&mut connection.input);
        let done = self.execute_all(conn, &input);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        // While a large request still comes nothing is moved, or it would cost the square of its length.
        if done > 0 {
            input.drain(..done.min(input.len()));
            input.shrink_to(KEPT_INPUT.max(input.len()));
        }
        connection.input = input;
        if connection.ended {
            self.no_more_requests(conn);
        }
    }

    /// Executes whole requests one after the other; the bytes they took.
    fn execute_all(&mut self, conn: Conn, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..) {
            let executed = match first_frame(rest) {
                Frame::Part => return at,
                Frame::TooLong => Err(HangUp),
                Frame::Whole(kind, len) => {
                    at += len;
                    let payload = rest.get(HEADER_LEN..len).unwrap_or(&[]);
                    kind.ok_or(HangUp).and_then(|kind| self.execute(conn, kind, payload))
                }
            };
            if executed.is_err() {
                self.no_more_requests(conn);
            }
            // Whatever else it said is of no interest, if that was its end.
            if !self.conns.get(&conn).is_some_and(|connection| connection.closing == Closing::No) {
                return bytes.len();
            }
        }
        at
    }

    fn execute(&mut self, conn: Conn, kind: Kind, payload: &[u8]) -> Result<(), HangUp> {
        let node = self.nodes.get_mut(conn.node).ok_or(HangUp)?;
        node.stats.count(kind);
        node.requests.push(Request::new(conn.id, kind, payload), self.options.kept_requests);
        if node.faults.take_equal(&BrokerFault::CloseOnRequest(kind)) {
            return Err(HangUp);
        }
        match kind {
            Kind::Ping => Ok(()),
            Kind::Consume => self.consume(conn, payload),
            Kind::Produce | Kind::ProduceWithSeqnum => self.produce(conn, kind, payload),
            _ => self.administer(conn, kind, payload),
        }
    }

    /// A connection's input has ended. After FIN what is unread is executed, though perhaps not yet; after RST it is dropped,
    /// and the connection forgotten.
    pub(crate) fn ended(&mut self, now: Time, conn: Conn, how: End) {
        self.at(now);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        match how {
            End::Reset => self.forget(conn),
            End::Fin if self.nodes.get(conn.node).is_some_and(|node| node.paused) => connection.ended = true,
            End::Fin => self.no_more_requests(conn),
        }
    }

    /// Drops what waits on a connection; it ends once its answers are sent.
    fn no_more_requests(&mut self, conn: Conn) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.close_when_sent();
        connection.input = Vec::new();
        let waits: Vec<u64> = connection.waits.iter().copied().collect();
        for wait in waits {
            self.take_wait(wait);
        }
        self.make_ready(conn);
    }

    /// Ends a connection at once.
    pub(super) fn hang_up(&mut self, conn: Conn) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.closing = Closing::Torn(Cut::Fin);
            self.make_ready_again(conn);
        }
    }

    /// Ends a connection as the death of its process does. What a process that hung had not read makes it a reset.
    pub(super) fn tear_down(&mut self, conn: Conn, hung: bool) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let unread = hung && !connection.input.is_empty();
        connection.closing = Closing::Torn(if unread { Cut::Reset } else { Cut::Fin });
        connection.queue = VecDeque::new();
        self.no_more_requests(conn);
        self.make_ready_again(conn);
    }

    /// Forgets a connection and all that waits on it.
    pub(super) fn forget(&mut self, conn: Conn) {
        let Some(connection) = self.conns.remove(&conn) else { return };
        for wait in connection.waits {
            self.take_wait(wait);
        }
        if let Some(node) = self.nodes.get_mut(conn.node) {
            node.stats.open -= 1;
            node.stats.stalled -= usize::from(connection.stalled);
        }
    }

    /// Puts a connection among those that may have something to send.
    pub(super) fn make_ready(&mut self, conn: Conn) {
        if let Some(connection) = self.conns.get_mut(&conn).filter(|connection| !connection.ready) {
            connection.ready = true;
            self.ready.push_back(conn);
        }
    }

    /// Puts it there also if the transport knows of it already, and waits until it has room.
    fn make_ready_again(&mut self, conn: Conn) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.ready = false;
        }
        self.make_ready(conn);
    }

    /// Returns whether the connection ends at once, without what the transport has pulled and not sent.
    pub(crate) fn is_torn(&self, conn: Conn) -> bool {
        self.conns.get(&conn).is_some_and(|connection| matches!(connection.closing, Closing::Torn(_)))
    }

    /// Closes a connection that has said nothing for too long, or looks again later.
    pub(super) fn check_silence(&mut self, conn: Conn) {
        let Some(connection) = self.conns.get_mut(&conn).filter(|connection| connection.closing == Closing::No) else {
            return;
        };
        let silent = self.options.silent_timeout.filter(|_| !connection.heard);
        let busy = !connection.waits.is_empty() || !connection.queue.is_empty();
        let limit = silent.into_iter().chain(self.options.idle_timeout).min();
        let Some(limit) = limit else { return };
        let end = connection.last_heard.after(limit);
        if busy {
            self.schedule.at(self.now.after(limit.max(LOOK)), Event::CheckSilence(conn));
        } else if end <= self.now {
            self.hang_up(conn);
        } else {
            self.schedule.at(end, Event::CheckSilence(conn));
        }
    }
}
