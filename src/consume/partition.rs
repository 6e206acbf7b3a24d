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

use std::mem;
use std::net::SocketAddrV4;
use std::time::Duration;

use super::subscription::{MAX_FETCH_SIZE, Options};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::message::TopicPartitions;
use crate::net::{BrokerAddr, RetryPolicy, RetryState, Time};
use crate::protocol::bundle::Entry;
use crate::protocol::fetch::{SEQ_BEYOND_END, SEQ_TAIL};
use crate::protocol::stream::Bundle;
use crate::protocol::{DecodeError, DecodeFault, varint};
use crate::session::Marks;

/// One partition of a subscription: how far it has come, what to ask for next, and what its answers mean.
#[derive(Default)]
pub(super) struct Partition {
    /// Its index in the subscription.
    index: u32,
    state: State,
    begin: Begin,
    /// The next number to deliver; 0 stands for the first there is. Until `BeforeEnd` is resolved, which needs no position yet, how
    /// many numbers before the end: a field of its own would make each partition larger.
    position: u64,
    /// The next number to ask for. What lies between `position` and this has arrived.
    fetch_from: u64,
    /// The time stamp of the last delivered message.
    timestamp_ms: Option<u64>,
    /// The marks that were heard last.
    first_available: u64,
    high_water_mark: Option<u64>,
    /// The last number to deliver; without a limit, the highest number there can be.
    end: u64,
    /// Whether `end` must be lowered to the first high-water mark that is heard.
    end_unknown: bool,
    /// The broker to ask, according to the last answer or the address book.
    leader: Option<BrokerAddr>,
    /// Whether the broker may wait before it answers the fetch in flight.
    may_wait: bool,
    last_was_empty: bool,
    /// Whether the last answer ended a wait, with data that cannot be relied on.
    wait_ended: bool,
    chunks: Chunks,
    /// Consecutive answers without progress or fault, and whether the current one will be counted.
    idle_answers: u8,
    is_idle_answer: bool,
    suspicion: Suspicion,
    /// Kept apart, because few partitions are in trouble at a time.
    trouble: Option<Box<Trouble>>,
}

/// What has gone wrong since a partition's last messages, or since an answer said that there are none.
#[derive(Default)]
struct Trouble {
    /// Attempts to get an answer from its leader, and how many answers in a row named another one.
    retry: RetryState,
    redirects: u32,
    /// A redirect was followed at once since the last pause.
    redirected_without_pause: bool,
    /// For answers of its leader that bring no progress: chunks above the mark, and rejections of numbers that it has just named.
    no_progress: RetryState,
    /// The highest first available number that an answer has named.
    retention_seen: u64,
    /// The mark of the last chunk that lay entirely above it.
    low_mark: Option<u64>,
}

impl Trouble {
    /// Ends the search for a leader: it has answered.
    fn on_leader_found(&mut self) {
        self.retry.reset();
        self.redirects = 0;
        self.redirected_without_pause = false;
    }
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
    /// Asked for.
    InFlight,
    /// Asked for, and then not to be asked for again before that moment.
    InFlightThenPaused(Time),
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
    /// A number of messages before its end, which is not known yet. That number is in `position`.
    BeforeEnd,
    /// At its position, if the partition exists, which is not known yet.
    Probe,
}

/// What all partitions of a subscription have in common.
#[derive(Debug)]
pub(super) struct Rules {
    /// The names of the partitions, by their indices.
    pub(super) names: TopicPartitions,
    pub(super) options: Options,
    /// Nodes of a cluster die when they wait for several partitions with one fetch and data comes for one of them, and the
    /// data that ends a wait may be numbered wrongly. So each partition is waited for alone there, and what ends a wait
    /// only says that it is time to ask again.
    pub(super) in_cluster: bool,
    /// The largest bundle accepted, in bytes.
    pub(super) bundle_limit: u32,
    pub(super) retry: RetryPolicy,
}

/// What a partition wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) seq: u64,
    pub(super) fetch_size: u32,
    /// Whether the broker may wait for data.
    pub(super) waits: bool,
    /// Whether it needs a fetch of its own.
    pub(super) alone: bool,
    pub(super) risk: Risk,
}

/// Whether a fetch of a partition may be the reason if the connection ends unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Risk {
    /// It only waits, or asks for what is known to do no harm.
    Harmless,
    Risky,
    /// Perhaps it has ended one already.
    Suspect,
}

/// What the shell must do after an answer to a partition.
#[derive(Debug)]
pub(super) enum Next {
    /// Continue as the state says.
    Go,
    /// Find out who leads at this address, and tell [`Partition::on_named`].
    AskAt(SocketAddrV4),
    /// Forget who leads it.
    NoLeader,
    /// Note that retention took these numbers, the first to the last.
    Gap(u64, u64),
    /// End the subscription with this error, once everything before it is handed out.
    Fail(Error),
}

/// How a fetch was lost. By default no connection could be opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Whether the connection had been idle and ended just before it was used again, which does not count as trouble.
    pub(super) while_idle: bool,
    /// How long it had been up with nothing overdue.
    pub(super) healthy_for: Duration,
    /// Whether it ended soon after the fetch was handed over, before any byte of an answer.
    pub(super) unanswered: bool,
    /// Whether nothing else that is risky was in flight on it.
    pub(super) alone: bool,
}

impl Partition {
    /// Creates a partition that begins at this number, with its first number and its high-water mark if they are known.
    pub(super) fn new(index: u32, position: u64, marks: Option<Marks>, options: &Options) -> Partition {
        let mut partition = Partition {
            index,
            position,
            fetch_from: position,
            first_available: marks.map_or(0, |marks| marks.first_available),
            high_water_mark: marks.map(|marks| marks.high_water_mark),
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
    pub(super) fn dormant(index: u32, topic: &str, id: u16, options: &Options) -> Partition {
        let new = Partition::new(index, options.resume.get(topic, id).unwrap_or(0), None, options);
        Partition { begin: Begin::Probe, state: State::Done, fetch_from: SEQ_BEYOND_END, ..new }
    }

    /// Returns whether it is known where it begins, and that it exists.
    pub(super) fn has_begun(&self) -> bool {
        self.begin == Begin::Known
    }

    pub(super) fn is_probe(&self) -> bool {
        self.begin == Begin::Probe
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn timestamp_ms(&self) -> Option<u64> {
        self.timestamp_ms
    }

    pub(super) fn high_water_mark(&self) -> Option<u64> {
        self.high_water_mark
    }

    pub(super) fn leader(&self) -> Option<&BrokerAddr> {
        self.leader.as_ref()
    }

    pub(super) fn set_leader(&mut self, leader: BrokerAddr) {
        self.leader = Some(leader);
    }

    /// Returns how many numbers there are from `position` up to the high-water mark, if that is known.
    pub(super) fn lag(&self, position: u64) -> Option<u64> {
        let next = if self.has_begun() { position.max(self.first_available).max(1) } else { u64::MAX };
        self.high_water_mark.map(|mark| mark.saturating_add(1).saturating_sub(next))
    }

    /// Returns whether it must rest before it is asked for again.
    pub(super) fn rests(&self) -> bool {
        matches!(self.state, State::Paused(_) | State::InFlightThenPaused(_))
    }

    /// Returns whether it has more than has arrived.
    pub(super) fn is_behind(&self) -> bool {
        self.lag(self.fetch_from) > Some(0)
    }

    /// Returns whether the number to ask for may lie in a gap that kills a server: it is not above the mark, as far as that is known.
    pub(super) fn risk(&self) -> Risk {
        let is_above_mark = !self.is_behind() && (self.high_water_mark.is_some() || !self.has_begun());
        match self.suspicion {
            _ if is_above_mark => Risk::Harmless,
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
        let may_wait = !asks_at_once && (is_drained || !rules.in_cluster);
        let alone = risk == Risk::Suspect || self.is_probe() || (rules.in_cluster && may_wait);
        let seq = if self.needs_mark() { SEQ_BEYOND_END } else { self.fetch_from };
        Ok(Some(Want { seq, fetch_size: self.chunks.fetch_size, waits: may_wait, alone, risk }))
    }

    /// Notes that it was asked for, and whether the broker may wait for data.
    pub(super) fn on_sent(&mut self, may_wait: bool) {
        self.state = State::InFlight;
        self.may_wait = may_wait;
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
        self.idle_answers = 0;
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
        Some(left)
    }

    /// Notes that messages up to just below `position` were delivered, the last of them with this time stamp.
    pub(super) fn on_delivered(&mut self, position: u64, timestamp_ms: u64) {
        self.timestamp_ms = Some(timestamp_ms);
        self.advance(position);
    }

    /// Moves on: nothing below `position` is left to deliver.
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
        self.at_leader(Error::new(kind).about(topic, partition))
    }

    /// Returns the error for what its leader has sent.
    #[cold]
    pub(super) fn malformed(&self, e: DecodeError, rules: &Rules) -> Error {
        let (topic, partition) = rules.names.get(self.index);
        self.at_leader(Error::decode(e.in_partition(topic, partition)))
    }

    fn at_leader(&self, e: Error) -> Error {
        if let Some(leader) = &self.leader { e.at(leader) } else { e }
    }

    fn go_to(&mut self, seq: u64) {
        self.position = seq;
        self.fetch_from = seq;
        self.check_end();
    }

    fn check_end(&mut self) {
        if self.ends_before(self.fetch_from.max(1)) {
            self.state = State::Done;
        }
    }
}

/// Returns the first of the last `back` numbers, or the first number there is.
pub(super) fn before_end(back: u64, marks: Marks) -> u64 {
    let end = marks.high_water_mark.saturating_add(1);
    end.saturating_sub(back).max(marks.first_available).max(1).min(end)
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
        let len = self.len;
        let asked = self.fetch_size;
        self.fetch_size = asked.saturating_mul(2).min(MAX_FETCH_SIZE).max(asked);
        let before = mem::replace(&mut self.stale_len, len);
        len > before && self.fetch_size > asked
    }

    /// Asks for a cut bundle that takes `needed` bytes with its length prefix. If that prefix was cut, too, `needed` is 0, and more
    /// is asked for than before.
    ///
    /// # Errors
    /// The least number of bytes that it takes, if more than are allowed.
    pub(super) fn on_cut(&mut self, needed: u64, bundle_limit: u32) -> Result<(), u64> {
        let limit = u64::from(bundle_limit) + varint::MAX_LEN as u64;
        let asked = u64::from(self.fetch_size);
        let found = self.had_messages;
        if !found && (needed > limit || asked >= limit) {
            return Err(needed.max(asked + 1));
        }
        // A bundle that is cut again, or another one than before, must not make the size grow in small steps.
        let creeps = mem::replace(&mut self.was_cut, !found) || needed <= asked;
        let size = if !found && creeps { needed.max(asked * 2) } else { needed.max(asked) };
        self.fetch_size = u32::try_from(size.min(limit)).unwrap_or(u32::MAX);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
