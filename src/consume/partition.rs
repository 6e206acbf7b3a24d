//! One partition of a subscription, as a state machine.
//!
//! ```text
//!          wants(), on_sent()       on_answer() .. on_end()
//!   Idle ─────────────────────> InFlight ──────────────────> Idle      data, or nothing yet
//!    ^                             │  │
//!    │                             │  └────────────────────> Done      a stop condition is met
//!    └──── wake(): it is over ── Paused <── no leader, a lost connection, or nothing moves
//! ```
//!
//! It is in flight until all of its answer has been read, even if the answer says to pause: that may take longer than the pause.
//!
//! The shell asks every idle partition what it wants, sends few fetches for many partitions, and feeds the answers back.
//! Nothing here touches a socket or reads a clock: every method that depends on time takes `now`. Its name is looked up only for
//! errors and the log. A subscription may have tens of thousands of partitions, so each is kept small.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used))]

mod answers;

use super::subscription::{MAX_FETCH_SIZE, Options};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::net::{BrokerAddr, RetryState, Time};
use crate::protocol::bundle::Entry;
use crate::protocol::fetch::{SEQ_BEYOND_END, SEQ_TAIL};
use crate::protocol::stream::Bundle;
use crate::protocol::{DecodeError, DecodeFault, varint};
use crate::session::Marks;
pub(super) use answers::{Lost, Next, Risk, Rules, Want};

/// See the module. Others look at its fields, set its leader, and leave the rest alone.
#[derive(Default)]
pub(super) struct Partition {
    /// Its index in the subscription.
    index: u32,
    pub(super) state: State,
    begin: Begin,
    /// The next number to deliver; 0 stands for the first there is. If it begins relative to the end: how many numbers before it.
    pub(super) position: u64,
    /// The next number to ask for. What lies between `position` and this has arrived.
    fetch_from: u64,
    /// The time stamp of the last delivered message.
    pub(super) timestamp_ms: Option<u64>,
    /// The mark that was heard last.
    first_available: u64,
    pub(super) high_water_mark: Option<u64>,
    /// The last number to deliver; without a limit, the highest number there can be.
    end: u64,
    /// Whether `stop_at_end` must still learn the end.
    end_unknown: bool,
    /// The broker to ask, according to the last answer or the address book.
    pub(super) leader: Option<BrokerAddr>,
    /// Whether the broker may wait before it answers the fetch in flight.
    waits: bool,
    last_was_empty: bool,
    /// Whether the last answer ended a wait, with data that cannot be relied on.
    wait_ended: bool,
    chunks: Chunks,
    /// Answers in a row that moved nothing although nothing was wrong, and whether the one being read is another.
    quiet: u8,
    is_quiet: bool,
    suspicion: Suspicion,
    /// Kept apart, because few partitions are in trouble at a time.
    trouble: Option<Box<Trouble>>,
}

/// What has gone wrong since a partition's last messages, or since an answer said that there are none.
#[derive(Default)]
struct Trouble {
    /// Attempts to get an answer from its leader, and how many answers in a row named another one.
    retry: RetryState,
    hops: u32,
    /// A redirect was followed at once since the last pause.
    followed: bool,
    /// For answers of its leader that bring no progress: chunks above the mark, and rejections of numbers that it has just named.
    standstill: RetryState,
    /// The highest first available number that an answer has named.
    highest_first: u64,
    /// The mark of the last chunk that lay all above it.
    above: Option<u64>,
}

/// Whether asking for the next number may kill a server.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Suspicion {
    #[default]
    Clear,
    /// A connection ended after a fetch, before any byte of an answer. The mark must be asked for first, which is harmless.
    MustAskMark,
    /// The mark says that the number should exist.
    Confirmed,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum State {
    /// To be asked for.
    #[default]
    Idle,
    /// Asked for, and not to be asked for again before that moment.
    InFlight(Time),
    /// Not to be asked for before that moment.
    Paused(Time),
    /// Nothing more is wanted of it.
    Done,
}

/// Where a partition begins.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Begin {
    /// At its position.
    #[default]
    Known,
    /// A number of messages before its end, which is not known yet.
    BeforeEnd,
    /// With its first message, if the partition exists, which is not known yet.
    Probe,
}

impl Partition {
    /// Creates a partition that begins at this number, with its first number and its high-water mark if they are known.
    pub(super) fn new(index: u32, position: u64, marks: Option<Marks>, options: &Options) -> Partition {
        let mut partition = Partition {
            index,
            position,
            fetch_from: position,
            first_available: marks.map_or(0, |(first, _)| first),
            high_water_mark: marks.map(|(_, mark)| mark),
            end: options.stop_at_seq.unwrap_or(u64::MAX),
            end_unknown: options.stop_at_end,
            chunks: Chunks::new(options.fetch_size),
            ..Partition::default()
        };
        partition.check_end();
        partition
    }

    /// Creates a partition that begins `back` numbers before its end, wherever that is.
    pub(super) fn before_end(index: u32, back: u64, options: &Options) -> Partition {
        let new = Partition::new(index, 0, None, options);
        Partition { begin: Begin::BeforeEnd, position: back, fetch_from: SEQ_BEYOND_END, ..new }
    }

    /// Creates a partition that may not exist: dormant until [`probe`](Partition::probe).
    pub(super) fn dormant(index: u32, options: &Options) -> Partition {
        Partition { begin: Begin::Probe, state: State::Done, ..Partition::new(index, 0, None, options) }
    }

    /// Returns whether it is known where it begins, and that it exists.
    pub(super) fn has_begun(&self) -> bool {
        self.begin == Begin::Known
    }

    pub(super) fn is_probe(&self) -> bool {
        self.begin == Begin::Probe
    }

    /// Returns how many numbers there are from `position` up to the high-water mark, if that is known.
    pub(super) fn lag(&self, position: u64) -> Option<u64> {
        let next = if self.has_begun() { position.max(self.first_available).max(1) } else { u64::MAX };
        self.high_water_mark.map(|mark| mark.saturating_add(1).saturating_sub(next))
    }

    /// Returns whether it must rest before it is asked for again.
    pub(super) fn rests(&self) -> bool {
        matches!(self.state, State::Paused(until) | State::InFlight(until) if until > Time::ZERO)
    }

    /// Returns whether it has more than has arrived.
    pub(super) fn is_behind(&self) -> bool {
        self.lag(self.fetch_from) > Some(0)
    }

    /// Returns whether the number to ask for may lie in a gap that kills a server: it is not above the mark, as far as that is known.
    pub(super) fn risk(&self) -> Risk {
        match self.suspicion {
            _ if !self.is_behind() && (self.high_water_mark.is_some() || !self.has_begun()) => Risk::Harmless,
            Suspicion::Clear => Risk::Risky,
            Suspicion::MustAskMark => Risk::Harmless,
            Suspicion::Confirmed => Risk::Suspect,
        }
    }

    /// Returns whether to ask for its mark, which is harmless, before asking again for a number that may have ended a connection.
    pub(super) fn needs_mark(&self) -> bool {
        self.suspicion == Suspicion::MustAskMark
    }

    /// Returns what to ask for, if it may be asked for now.
    ///
    /// # Errors
    /// The next number cannot exist.
    pub(super) fn wants(&self, rules: &Rules) -> Result<Option<Want>> {
        if self.state != State::Idle {
            return Ok(None);
        }
        if self.fetch_from == SEQ_TAIL {
            // This number stands for whatever comes next. Only a broker that claims messages right up to it leads here.
            let fault = DecodeFault::SeqRange { seq: SEQ_TAIL, low: 0, high: SEQ_TAIL - 1 };
            return Err(self.malformed(DecodeError::new("next sequence number", fault, 0), rules));
        }
        let risk = self.risk();
        // While something must be found out, or must exist, a broker's wait would only hide that it does not.
        let asks_at_once = !self.has_begun() || rules.options.stop_at_end || self.suspicion != Suspicion::Clear;
        let is_drained =
            (self.last_was_empty || self.high_water_mark.is_some() && !self.is_behind()) && !self.wait_ended;
        let waits = !asks_at_once && (is_drained || !rules.in_cluster);
        let alone = risk == Risk::Suspect || self.is_probe() || (rules.in_cluster && waits);
        let seq = if self.needs_mark() { SEQ_BEYOND_END } else { self.fetch_from };
        Ok(Some(Want { seq, fetch_size: self.chunks.fetch_size, waits, alone, risk }))
    }

    /// Notes that it was asked for; `waits`: the broker may wait for data.
    pub(super) fn on_sent(&mut self, waits: bool) {
        self.state = State::InFlight(Time::ZERO);
        self.waits = waits;
    }

    /// Ends a pause that is over.
    pub(super) fn wake(&mut self, now: Time) {
        if matches!(self.state, State::Paused(until) if until <= now) {
            self.state = State::Idle;
        }
    }

    /// Lets a dormant partition be asked for once: it may exist by now.
    pub(super) fn probe(&mut self) {
        if self.is_probe() && self.state == State::Done {
            self.state = State::Idle;
        }
    }

    /// Returns whether nothing from this number on is wanted.
    pub(super) fn ends_before(&self, seq: u64) -> bool {
        seq > self.end
    }

    /// Returns whether everything that is wanted of a bundle's numbers comes with it.
    pub(super) fn takes_whole(&self, bundle: &Bundle) -> bool {
        !bundle.cut && (bundle.last <= bundle.to || self.end == bundle.to)
    }

    /// Notes that there are messages to hand out.
    pub(super) fn on_messages(&mut self, rules: &Rules) {
        self.chunks.on_messages(rules.options.fetch_size);
        self.quiet = 0;
        self.trouble = None;
    }

    fn trouble(&mut self) -> &mut Trouble {
        self.trouble.get_or_insert_default()
    }

    /// Looks for the first message at or after the time to stop at, among those decoded from bundles that begin with the number
    /// `first`. If there is one, ends the partition before it, and returns how many messages are left.
    pub(super) fn stop_at_time(&mut self, first: u64, entries: &[Entry], rules: &Rules) -> Option<usize> {
        let time = rules.options.stop_at_time?;
        let left = entries.iter().position(|entry| entry.timestamp_ms >= time)?;
        let last = entries.get(..left).and_then(<[Entry]>::last);
        self.end = last.map_or(first.saturating_sub(1), |last| last.seq);
        self.state = State::Done;
        true
    }

    /// Moves on after messages up to just below `position` were handed out.
    pub(super) fn advance(&mut self, position: u64) {
        self.position = position;
        self.fetch_from = self.fetch_from.max(position);
        self.high_water_mark = self.high_water_mark.max(Some(position.saturating_sub(1)));
        self.check_end();
    }

    fn fault(&self, fault: Fault, rules: &Rules) -> Error {
        self.error(ErrorKind::Broker { fault }, rules)
    }

    #[cold]
    fn error(&self, kind: ErrorKind, rules: &Rules) -> Error {
        let (topic, partition) = rules.names.get(self.index);
        let e = Error::new(kind).about(topic, partition);
        if let Some(leader) = &self.leader { e.at(leader) } else { e }
    }

    /// Returns the error for what its leader has sent.
    #[cold]
    pub(super) fn malformed(&self, e: DecodeError, rules: &Rules) -> Error {
        let (topic, partition) = rules.names.get(self.index);
        let leader = self.leader.as_ref().map_or_else(String::new, ToString::to_string);
        Error::decode(&leader, e.in_partition(topic, partition))
    }

    fn go_to(&mut self, seq: u64) {
        (self.position, self.fetch_from) = (seq, seq);
        self.check_end();
    }

    fn check_end(&mut self) {
        if self.ends_before(self.fetch_from.max(1)) {
            self.state = State::Done;
        }
    }
}

/// Returns the first of the last `back` numbers, or the first number there is.
pub(super) fn before_end(back: u64, first_available: u64, high_water_mark: u64) -> u64 {
    let end = high_water_mark.saturating_add(1);
    end.saturating_sub(back).max(first_available).max(1).min(end)
}

/// What a partition's last chunks held, and how much to ask for next: after a chunk without a wanted message, never the same
/// amount again, and never only a little more.
#[derive(Default)]
pub(super) struct Chunks {
    /// Bytes to ask for next: grown while a bundle is larger than the configured size.
    pub(super) fetch_size: u32,
    /// Bytes of the chunk being read, and whether messages were found in it.
    pub(super) len: u32,
    pub(super) had_messages: bool,
    /// Bytes of the last chunk, if all of it lay below the position; otherwise 0.
    stale_len: u32,
    /// Whether the last chunk held only part of one bundle.
    was_cut: bool,
}

impl Chunks {
    pub(super) fn new(fetch_size: u32) -> Chunks {
        Chunks { fetch_size, ..Chunks::default() }
    }

    pub(super) fn on_messages(&mut self, fetch_size: u32) {
        *self = Chunks { len: self.len, had_messages: true, ..Chunks::new(fetch_size) };
    }

    /// Asks for more after a chunk that lay entirely below the position. Returns `false` if that did not or cannot help.
    pub(super) fn on_stale(&mut self) -> bool {
        let (len, asked) = (self.len, self.fetch_size);
        self.fetch_size = asked.saturating_mul(2).min(MAX_FETCH_SIZE).max(asked);
        let before = std::mem::replace(&mut self.stale_len, len);
        len > before && self.fetch_size > asked
    }

    /// Asks for a cut bundle that takes `needed` bytes with its length prefix. If that prefix was cut, too, `needed` is 0, and more
    /// is asked for than before.
    ///
    /// # Errors
    /// The least number of bytes that it takes, if more than are allowed.
    pub(super) fn on_cut(&mut self, needed: u64, bundle_limit: u32) -> Result<(), u64> {
        let limit = u64::from(bundle_limit) + varint::MAX_LEN as u64;
        let (asked, found) = (u64::from(self.fetch_size), self.had_messages);
        if !found && (needed > limit || asked >= limit) {
            return Err(needed.max(asked + 1));
        }
        // A bundle that is cut again, or another one than before, must not make the size grow in small steps.
        let creeps = std::mem::replace(&mut self.was_cut, !found) || needed <= asked;
        let size = if !found && creeps { needed.max(asked * 2) } else { needed.max(asked) };
        self.fetch_size = u32::try_from(size.min(limit)).unwrap_or(u32::MAX);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
