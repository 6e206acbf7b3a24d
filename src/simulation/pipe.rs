//! One direction of a connection: a stream of bytes on its way, as a state machine.
//!
//! ```text
//!   head          arrived         sent           end
//!    |── unread ─────|── in flight ──|── unsent ────|
//!    `──── at the receiver,          `──── in the sender's buffer
//!          at most a window
//! ```
//!
//! The marks only move right; bytes that were read go when enough have gathered. Nothing here knows the time.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used))]

use std::collections::VecDeque;

/// How the sending side of a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    No,
    /// Asked for: what was written before goes first.
    Wanted,
    /// On its way.
    Sent,
    Arrived,
}

#[derive(Debug)]
pub(super) struct Pipe {
    buf: Vec<u8>,
    head: usize,
    arrived: usize,
    sent: usize,
    /// The lengths of what is in flight, in order; 0 is a FIN.
    packets: VecDeque<usize>,
    /// What the sender's system buffers, and what the receiver's does.
    room: usize,
    window: usize,
    /// Raised when what is in flight is lost: events about it are void then.
    pub(super) epoch: u32,
    pub(super) fin: Ending,
    pub(super) reset: Ending,
    /// What is sent gets lost for ever, and nobody is told.
    pub(super) silent: bool,
}

/// Bytes that were read are dropped from the front beyond this many.
const COMPACT: usize = 64 << 10;

impl Pipe {
    pub(super) fn new(room: usize, window: usize) -> Pipe {
        Pipe {
            buf: Vec::new(),
            head: 0,
            arrived: 0,
            sent: 0,
            packets: VecDeque::new(),
            room: room.max(1),
            window: window.max(1),
            epoch: 0,
            fin: Ending::No,
            reset: Ending::No,
            silent: false,
        }
    }

    /// Takes as many of the bytes as the sender's system has room for.
    pub(super) fn write(&mut self, from: &[u8]) -> usize {
        let n = from.len().min(self.free());
        self.buf.extend_from_slice(from.get(..n).unwrap_or_default());
        n
    }

    /// How much can be written now.
    pub(super) fn free(&self) -> usize {
        self.room.saturating_sub(self.buf.len() - self.arrived)
    }

    /// The bytes that arrived and were not read.
    pub(super) fn unread(&self) -> &[u8] {
        self.buf.get(self.head..self.arrived).unwrap_or_default()
    }

    /// Marks this many of the unread bytes as read.
    pub(super) fn read(&mut self, n: usize) {
        self.head = self.arrived.min(self.head + n);
        if self.head == self.buf.len() {
            self.buf.clear();
            (self.head, self.arrived, self.sent) = (0, 0, 0);
        } else if self.head > COMPACT && self.head > self.buf.len() / 2 {
            self.buf.drain(..self.head);
            (self.arrived, self.sent) = (self.arrived - self.head, self.sent - self.head);
            self.head = 0;
        }
    }

    /// How many bytes may be sent now as one packet of at most `most`.
    pub(super) fn sendable(&self, most: usize) -> usize {
        let window = self.window.saturating_sub(self.sent - self.head);
        (self.buf.len() - self.sent).min(window).min(most)
    }

    /// Returns whether the FIN is to be sent now.
    pub(super) fn fin_is_due(&self) -> bool {
        self.fin == Ending::Wanted && self.sent == self.buf.len()
    }

    /// Sends that many bytes; 0 is the FIN.
    pub(super) fn send(&mut self, n: usize) {
        if n == 0 {
            self.fin = Ending::Sent;
        }
        self.sent += n;
        self.packets.push_back(n);
    }

    /// The next packet arrives: its bytes, none for a FIN.
    pub(super) fn arrive(&mut self) -> &[u8] {
        let from = self.arrived;
        match self.packets.pop_front() {
            Some(0) => self.fin = Ending::Arrived,
            Some(n) => self.arrived += n,
            None => {}
        }
        self.buf.get(from..self.arrived).unwrap_or_default()
    }

    /// What is in flight is lost; it will be sent again from the first lost byte on.
    pub(super) fn lose(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.packets.clear();
        self.sent = self.arrived;
        if self.fin == Ending::Sent {
            self.fin = Ending::Wanted;
        }
    }

    /// The sender gives up what it has not sent.
    pub(super) fn drop_unsent(&mut self) {
        self.buf.truncate(self.sent);
        if self.fin == Ending::Wanted {
            self.fin = Ending::No;
        }
    }

    /// The receiver gives up what it has not read.
    pub(super) fn drop_unread(&mut self) {
        self.read(self.arrived - self.head);
    }

    /// Returns whether something is neither read nor lost.
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.buf.len() && self.packets.is_empty() && self.fin != Ending::Wanted
    }

    /// Bytes written and not arrived.
    pub(super) fn outstanding(&self) -> usize {
        self.buf.len() - self.arrived
    }

    /// Returns whether there is something to read: bytes or the end.
    pub(super) fn is_readable(&self) -> bool {
        self.arrived > self.head || self.has_ended()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.fin == Ending::Arrived || self.reset == Ending::Arrived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_finite_on_both_sides() {
        let mut pipe = Pipe::new(10, 6);
        assert_eq!(pipe.write(b"0123456789abc"), 10);
        assert_eq!((pipe.write(b"x"), pipe.free()), (0, 0));
        assert_eq!(pipe.sendable(4), 4);
        pipe.send(4);
        assert_eq!(pipe.sendable(4), 2, "the window");
        pipe.send(2);
        assert_eq!((pipe.sendable(4), pipe.arrive()), (0, b"0123".as_slice()));
        assert_eq!((pipe.free(), pipe.unread()), (4, b"0123".as_slice()));
        pipe.read(3);
        assert_eq!((pipe.sendable(9), pipe.unread()), (3, b"3".as_slice()));
    }

    #[test]
    fn the_end_comes_after_all_bytes_and_what_is_lost_is_sent_again() {
        let mut pipe = Pipe::new(100, 100);
        pipe.write(b"abcdef");
        pipe.fin = Ending::Wanted;
        assert!(!pipe.fin_is_due());
        pipe.send(3);
        pipe.send(3);
        assert!(pipe.fin_is_due());
        pipe.send(0);
        assert_eq!(pipe.arrive(), b"abc");
        let epoch = pipe.epoch;
        pipe.lose();
        assert_eq!((pipe.sendable(100), pipe.fin, pipe.epoch), (3, Ending::Wanted, epoch + 1));
        pipe.send(3);
        pipe.send(0);
        assert_eq!(pipe.arrive(), b"def");
        assert!(!pipe.has_ended());
        assert!(pipe.arrive().is_empty() && pipe.has_ended() && pipe.is_readable());
        pipe.read(6);
        assert!(pipe.is_empty());
    }

    #[test]
    fn a_reset_drops_what_was_not_sent() {
        let mut pipe = Pipe::new(100, 2);
        pipe.write(b"abcdef");
        pipe.send(2);
        pipe.drop_unsent();
        assert_eq!((pipe.sendable(9), pipe.arrive()), (0, b"ab".as_slice()));
        pipe.drop_unread();
        assert!(pipe.is_empty() && !pipe.is_readable());
    }

    #[test]
    fn what_was_read_is_forgotten_now_and_then() {
        let mut pipe = Pipe::new(usize::MAX, usize::MAX);
        let (block, mut read) = (vec![7; 100_000], 0);
        for _ in 0..10 {
            pipe.write(&block);
            pipe.send(100_000);
            pipe.arrive();
            let n = pipe.unread().len() - 1;
            pipe.read(n);
            read += n;
        }
        assert!(pipe.buf.capacity() < 1 << 20, "{}", pipe.buf.capacity());
        assert_eq!(read, 999_999);
    }
}
