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
//! The shell asks every idle partition what it wants, sends few fetches for many partitions, and feeds the answers back.
//! Nothing here knows a name, touches a socket or reads a clock: every method that depends on time takes `now`.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used))]

mod chunks;
mod terms;

use std::net::SocketAddrV4;
use std::time::Duration;

use super::subscription::{Options, OutOfRange};
use crate::error::Fault;
use crate::net::{BrokerAddr, RetryPolicy, RetryState, Time};
use crate::protocol::bundle::Entry;
use crate::protocol::fetch::{PartitionAnswer, SEQ_TAIL};
use crate::protocol::stream::{Bundle, ChunkEnd};
use chunks::Chunks;
pub(super) use terms::{Failure, Lookahead, Lost, Next, Rules, Want};

/// A number beyond the end of every log, other than the one that stands for the end: the answer to it tells where the end
/// is, which no other answer does reliably.
const BEYOND_END: u64 = u64::MAX - 1;

/// Pauses while nothing moves and nothing is wrong: a broker that does not wait as it was asked to, or whose wait is ended
/// by data that is not there.
const QUIET: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How many redirects to follow for a partition that may not be there.
const MOST_HOPS: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Partition {
    state: State,
    begin: Begin,
    /// The next number to deliver; 0: the first there is.
    position: u64,
    /// The next number to ask for: what lies between the two has arrived.
    fetch_from: u64,
    /// As last heard of.
    first_available: u64,
    high_water_mark: Option<u64>,
    /// The last number to deliver.
    end: Option<u64>,
    /// `stop_at_end` has still to learn the end.
    end_unknown: bool,
    /// Where the last answer, or the address book, said to ask.
    leader: Option<BrokerAddr>,
    /// The broker may wait with the fetch in flight.
    waits: bool,
    last_was_empty: bool,
    /// The last answer ended a wait with data not to be relied on.
    wait_ended: bool,
    chunks: Chunks,
    /// Answers in a row that moved nothing although nothing was wrong, and whether the one being read is another.
    quiet: u32,
    is_quiet: bool,
    retry: RetryState,
    /// Answers in a row that named another leader, or numbers that another answer rejected.
    failed_attempts: u32,
    /// The highest first available number that an answer has named.
    highest_first: u64,
    /// Connections in a row that ended on a fetch of what should be there, before any byte of an answer.
    deaths: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// To be asked for.
    Idle,
    InFlight,
    /// Not to be asked for before that moment.
    Paused(Time),
    /// Nothing more is wanted of it.
    Done,
}

/// Where a partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// At its position.
    Known,
    /// At its position, which a checkpoint named; no answer has shown yet that there is such a place.
    Resumed,
    /// This many numbers before its end, which is not known yet.
    BeforeEnd(u64),
    /// With its first message if there is such a partition, which is not known yet.
    Probe,
}

impl Partition {
    /// A partition that begins at this number, with its first number and its high-water mark if they are known.
    pub(super) fn new(position: u64, marks: Option<(u64, u64)>, options: &Options) -> Partition {
        let mut partition = Partition {
            state: State::Idle,
            begin: Begin::Known,
            position,
            fetch_from: position,
            first_available: marks.map_or(0, |(first, _)| first),
            high_water_mark: marks.map(|(_, mark)| mark),
            end: options.stop_at_seq,
            end_unknown: options.stop_at_end,
            leader: None,
            waits: false,
            last_was_empty: false,
            wait_ended: false,
            chunks: Chunks::new(options.fetch_size),
            quiet: 0,
            is_quiet: false,
            retry: RetryState::default(),
            failed_attempts: 0,
            highest_first: 0,
            deaths: 0,
        };
        partition.check_end();
        partition
    }

    /// As [`new`](Partition::new), where a checkpoint says.
    pub(super) fn resumed(position: u64, marks: Option<(u64, u64)>, options: &Options) -> Partition {
        Partition { begin: Begin::Resumed, ..Partition::new(position, marks, options) }
    }

    /// A partition that begins `back` numbers before its end, wherever that is.
    pub(super) fn before_end(back: u64, options: &Options) -> Partition {
        let state = if options.stop_at_seq == Some(0) { State::Done } else { State::Idle };
        let new = Partition::new(0, None, options);
        Partition { begin: Begin::BeforeEnd(back), position: BEYOND_END, fetch_from: BEYOND_END, state, ..new }
    }

    /// A partition that may not be there: dormant until [`probe`](Partition::probe).
    pub(super) fn dormant(options: &Options) -> Partition {
        Partition { begin: Begin::Probe, state: State::Done, ..Partition::new(0, None, options) }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn position(&self) -> u64 {
        self.position
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

    pub(super) fn chunk_len(&self) -> u32 {
        self.chunks.len
    }

    /// Whether it is known where it begins, and that it is there.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.begin, Begin::Known | Begin::Resumed)
    }

    /// Whether it may have ended a connection.
    pub(super) fn is_suspect(&self) -> bool {
        self.deaths > 0
    }

    pub(super) fn is_probe(&self) -> bool {
        self.begin == Begin::Probe
    }

    /// The numbers from `position` up to the high-water mark.
    pub(super) fn lag(&self, position: u64) -> u64 {
        let next = position.max(self.first_available).max(1);
        let next = if self.has_begun() { next } else { u64::MAX };
        self.high_water_mark.map_or(0, |mark| mark.saturating_add(1).saturating_sub(next))
    }

    /// Whether there is more of it than has arrived.
    pub(super) fn is_behind(&self) -> bool {
        self.lag(self.fetch_from) > 0
    }

    /// What to ask for, if it may be asked for now.
    ///
    /// # Errors
    /// The next number cannot exist.
    pub(super) fn wants(&self, rules: &Rules) -> Result<Option<Want>, Failure> {
        if self.state != State::Idle {
            return Ok(None);
        }
        if self.fetch_from == SEQ_TAIL {
            return Err(Failure::NoSuchSeq);
        }
        let (is_behind, is_suspect) = (self.is_behind(), self.is_suspect());
        // While something must be found out, or must be there, a broker's wait would only hide that it is not.
        let asks_at_once = !self.has_begun() || rules.options.stop_at_end || self.end_unknown || is_suspect;
        let is_drained = (self.last_was_empty || self.high_water_mark.is_some() && !is_behind) && !self.wait_ended;
        let waits = !asks_at_once && (is_drained || !rules.in_cluster);
        let alone = is_suspect || self.is_probe() || (rules.in_cluster && waits);
        let (seq, fetch_size) = (self.fetch_from, self.chunks.fetch_size);
        Ok(Some(Want { seq, fetch_size, waits, alone, is_behind, is_suspect }))
    }

    /// Notes that it was asked for; `waits`: the broker may wait for data.
    pub(super) fn on_sent(&mut self, waits: bool) {
        self.state = State::InFlight;
        self.waits = waits;
    }

    /// Ends a pause that is over.
    pub(super) fn wake(&mut self, now: Time) -> bool {
        let over = matches!(self.state, State::Paused(until) if until <= now);
        if over {
            self.state = State::Idle;
        }
        over
    }

    /// Lets a dormant partition be asked for once: it may exist by now.
    pub(super) fn probe(&mut self) -> bool {
        let dormant = self.is_probe() && self.state == State::Done;
        if dormant {
            self.state = State::Idle;
        }
        dormant
    }

    /// Takes in what an answer says of it.
    pub(super) fn on_answer(&mut self, now: Time, answer: PartitionAnswer, rules: &Rules) -> Next {
        self.chunks.begin(answer.chunk_len());
        self.is_quiet = false;
        if self.state == State::Done {
            return Next::Go;
        }
        self.deaths = 0;
        if self.is_probe() {
            match answer {
                // Only its leader knows that it exists.
                PartitionAnswer::Data { .. } | PartitionAnswer::OutOfRange { .. } => self.begin = Begin::Known,
                PartitionAnswer::Redirect(_) if self.failed_attempts < MOST_HOPS => {}
                _ => {
                    (self.state, self.failed_attempts) = (State::Done, 0);
                    return Next::Go;
                }
            }
        }
        match answer {
            PartitionAnswer::Data { high_water_mark, len, .. } => {
                self.on_data(high_water_mark, len, rules);
                Next::Go
            }
            PartitionAnswer::OutOfRange { high_water_mark, first_available } => {
                self.on_out_of_range(now, first_available, high_water_mark, rules)
            }
            PartitionAnswer::Redirect(endpoint) => Next::AskAt(endpoint),
            PartitionAnswer::NoLeader => self.on_no_leader(now, rules),
            PartitionAnswer::SystemError => Next::Fail(Failure::Broker(Fault::System)),
            PartitionAnswer::UnknownPartition => Next::Fail(Failure::Broker(Fault::UnknownPartition)),
            PartitionAnswer::UnknownTopic => Next::Fail(Failure::Broker(Fault::UnknownTopic)),
        }
    }

    fn on_data(&mut self, high_water_mark: u64, len: u32, rules: &Rules) {
        self.begin = Begin::Known;
        self.failed_attempts = 0;
        self.last_was_empty = len == 0;
        let wait_was_ended = std::mem::replace(&mut self.wait_ended, rules.in_cluster && self.waits && len > 0);
        if len > 0 {
            self.high_water_mark = Some(high_water_mark);
            if std::mem::take(&mut self.end_unknown) {
                self.end = Some(self.end.unwrap_or(u64::MAX).min(high_water_mark));
            }
        } else {
            // The mark of an empty answer may be too low, but nothing lies below the position either.
            let known = self.high_water_mark.unwrap_or(0).max(self.fetch_from.saturating_sub(1));
            self.high_water_mark = Some(known.max(high_water_mark));
            self.retry.reset();
            self.is_quiet = wait_was_ended;
            // The end was there once: if nothing is left before it, the log has become shorter.
            if rules.options.stop_at_end || self.end_unknown {
                self.state = State::Done;
            }
        }
        self.check_end();
    }

    fn on_out_of_range(&mut self, now: Time, first_available: u64, high_water_mark: u64, rules: &Rules) -> Next {
        self.high_water_mark = Some(high_water_mark);
        self.first_available = first_available;
        let moved = first_available > self.highest_first;
        self.highest_first = self.highest_first.max(first_available);
        let end = high_water_mark.saturating_add(1);
        let (requested, begin) = (self.fetch_from, std::mem::replace(&mut self.begin, Begin::Known));
        if let Begin::BeforeEnd(back) = begin {
            self.retry.reset();
            self.failed_attempts = 0;
            self.go_to(before_end(back, first_available, high_water_mark));
            if rules.options.stop_at_end {
                self.end_unknown = false;
                self.end = Some(self.end.unwrap_or(u64::MAX).min(high_water_mark));
            }
            self.check_end();
            return Next::Begins(self.position);
        }
        let is_beyond = requested > end;
        let failure = match (begin, is_beyond) {
            (Begin::Resumed, true) => Failure::Recreated { position: requested, high_water_mark },
            _ => Failure::OutOfRange { requested, first_available, high_water_mark },
        };
        let to = match if is_beyond { rules.options.beyond_end } else { rules.options.out_of_range } {
            OutOfRange::Fail => return Next::Fail(failure),
            OutOfRange::Earliest => first_available,
            OutOfRange::Latest => end,
        };
        self.go_to(to);
        if !is_beyond && moved {
            // Retention was faster: each try comes nearer.
            self.retry.reset();
            self.failed_attempts = 0;
        } else if self.state != State::Done && !self.try_again(now, rules) {
            return Next::Fail(failure);
        }
        let gap = (requested < first_available).then(|| (requested, first_available - 1));
        Next::Skips { from: requested, to, gap }
    }

    /// Takes in who the leader is that an answer named; `None`: nobody.
    pub(super) fn on_named(
        &mut self,
        now: Time,
        named: SocketAddrV4,
        found: Result<Option<BrokerAddr>, Fault>,
        rules: &Rules,
    ) -> Next {
        if self.is_probe() {
            self.failed_attempts += 1;
            self.leader = found.ok().flatten();
            return Next::Go;
        }
        match found {
            Err(fault) => Next::Fail(Failure::Broker(fault)),
            Ok(None) => self.on_no_leader(now, rules),
            Ok(leader) => {
                self.leader = leader;
                let hops = self.failed_attempts + 1;
                match self.try_again(now, rules) {
                    true => Next::Go,
                    false => Next::Fail(Failure::Broker(Fault::Redirects { hops, last: named })),
                }
            }
        }
    }

    fn on_no_leader(&mut self, now: Time, rules: &Rules) -> Next {
        self.leader = None;
        self.failed_attempts += 1;
        match self.pause_or_fail(now, rules) {
            true => Next::NoLeader,
            false => Next::Fail(Failure::Broker(Fault::NoLeader)),
        }
    }

    /// Tries again: the first time in a row at once, since that is how leaders are found; then after a pause. `false` once
    /// that has lasted too long.
    fn try_again(&mut self, now: Time, rules: &Rules) -> bool {
        self.failed_attempts += 1;
        if self.failed_attempts == 1 {
            self.retry.retry_at_once(now, &rules.retry);
            return true;
        }
        self.pause_or_fail(now, rules)
    }

    fn pause_or_fail(&mut self, now: Time, rules: &Rules) -> bool {
        let until = self.retry.retry_or_fail(now, &rules.retry);
        if let Some(until) = until {
            self.state = State::Paused(until);
        }
        until.is_some()
    }

    /// Whether nothing from this number on is wanted.
    pub(super) fn ends_before(&self, seq: u64) -> bool {
        self.end.is_some_and(|end| seq > end)
    }

    /// Whether all that is wanted of a bundle's numbers comes with it.
    pub(super) fn takes_whole(&self, bundle: &Bundle) -> bool {
        !bundle.cut && (bundle.last <= bundle.to || self.end == Some(bundle.to))
    }

    /// Takes in the bundles that were just found, from `new` on; removes those that are not wanted, and sets up to which
    /// number to take the last.
    pub(super) fn on_bundles(&mut self, found: &mut Vec<Bundle>, new: usize, rules: &Rules) -> Lookahead {
        if self.wait_ended || self.state == State::Done {
            found.truncate(new);
            return Lookahead::Clear;
        }
        if let Some(end) = self.end {
            // Their numbers rise.
            let wanted = found.get(new..).unwrap_or_default().partition_point(|bundle| bundle.first <= end);
            if new + wanted < found.len() {
                self.state = State::Done;
            }
            found.truncate(new + wanted);
            if let Some(last) = found.get_mut(new..).and_then(<[Bundle]>::last_mut) {
                last.to = last.to.min(end);
            }
        }
        // What is cut comes again, whole; only where there is nothing else it is worth looking at.
        if found.last().is_some_and(|last| last.cut) && (self.chunks.had_messages || found.len() > new + 1) {
            found.pop();
        }
        let Some(last) = found.get(new..).and_then(<[Bundle]>::last) else { return Lookahead::Clear };
        let (is_whole, after) = (self.takes_whole(last), last.last.min(last.to).saturating_add(1));
        if is_whole || found.len() > new + 1 {
            self.on_messages(rules);
        }
        if !is_whole {
            return Lookahead::SeeFirst;
        }
        self.fetch_from = after;
        self.check_end();
        Lookahead::Clear
    }

    /// Notes that there are messages to be handed out.
    pub(super) fn on_messages(&mut self, rules: &Rules) {
        self.chunks.on_messages(rules.options.fetch_size);
        self.quiet = 0;
        self.retry.reset();
    }

    /// Takes away the messages from the first at or after the time to stop at on, of those decoded of bundles that begin
    /// with the number `first`, and ends the partition before it. Returns whether there was one.
    pub(super) fn stop_at_time(&mut self, first: u64, entries: &mut Vec<Entry>, rules: &Rules) -> bool {
        let Some(time) = rules.options.stop_at_time else { return false };
        let Some(at) = entries.iter().position(|entry| entry.timestamp_ms >= time) else { return false };
        entries.truncate(at);
        self.end = Some(entries.last().map_or(first.saturating_sub(1), |last| last.seq));
        self.state = State::Done;
        true
    }

    /// Moves on once messages up to just below `position` were handed out.
    pub(super) fn advance(&mut self, position: u64) {
        self.position = position;
        self.fetch_from = self.fetch_from.max(position);
        self.high_water_mark = self.high_water_mark.max(Some(position.saturating_sub(1)));
        self.check_end();
    }

    /// Ends a chunk: its messages and numbers decide what to ask for next.
    pub(super) fn on_chunk_end(&mut self, now: Time, end: ChunkEnd, rules: &Rules) -> Next {
        if self.wait_ended {
            self.retry.reset();
        }
        if self.state == State::Done || self.wait_ended {
            return Next::Go;
        }
        let found = self.chunks.had_messages;
        if end != ChunkEnd::AboveMark || found {
            self.retry.reset();
        }
        match end {
            ChunkEnd::Cut { bundle_len } => match self.chunks.on_cut(bundle_len.unwrap_or(0), rules.bundle_limit) {
                Ok(()) => Next::Go,
                Err(needed) => Next::Fail(Failure::BundleTooLarge { needed }),
            },
            ChunkEnd::AboveMark if !found => {
                if self.chunks.mark_moved(self.high_water_mark.unwrap_or(0)) {
                    // What lies above it will be there.
                    self.retry.reset();
                    return Next::Go;
                }
                match self.pause_or_fail(now, rules) {
                    true => Next::Go,
                    false => Next::Fail(Failure::Broker(Fault::AboveMark { seq: self.fetch_from })),
                }
            }
            ChunkEnd::Whole if !found && !self.chunks.on_stale() => {
                Next::Fail(Failure::Broker(Fault::Stuck { seq: self.fetch_from }))
            }
            ChunkEnd::AboveMark | ChunkEnd::Whole => Next::Go,
        }
    }

    /// Ends an answer: it can be asked for again, after a pause if the answer was empty and came too `soon`.
    pub(super) fn on_end(&mut self, now: Time, soon: bool, rules: &Rules) {
        if self.state != State::InFlight {
            return;
        }
        self.state = State::Idle;
        if soon || self.is_quiet {
            self.quiet = self.quiet.saturating_add(1);
            let pauses = RetryPolicy { pauses: QUIET, ..rules.retry };
            self.state = State::Paused(now.after(pauses.pause(self.quiet)));
        }
    }

    /// Takes it back from a connection that was lost or could not be opened.
    pub(super) fn on_lost(&mut self, now: Time, how: Lost, rules: &Rules) -> Next {
        if !matches!(self.state, State::Idle | State::InFlight) {
            return Next::Go;
        }
        if self.is_probe() {
            // It is looked for after a lost connection, so it will be looked for again after this one.
            self.state = State::Done;
            return Next::Go;
        }
        self.state = State::Idle;
        if let Lost::Ended { while_idle, well_for, unanswered, alone } = how {
            self.retry.was_well_for(well_for);
            if well_for >= rules.retry.timeout {
                // Trouble that began before has not lasted until now.
                self.retry.reset();
            }
            if unanswered && self.is_behind() {
                self.deaths += 1;
                if self.deaths > 1 && alone {
                    let mark = self.high_water_mark.unwrap_or(0);
                    return Next::Fail(Failure::Broker(Fault::Deadly { seq: self.fetch_from, mark }));
                }
            }
            if while_idle {
                return Next::Go;
            }
        }
        self.leader = None;
        match self.pause_or_fail(now, rules) {
            true => Next::Go,
            false => Next::Fail(Failure::Connection),
        }
    }

    /// Ends it; an answer that is still in flight is ignored.
    pub(super) fn end(&mut self) {
        self.state = State::Done;
    }

    /// Turns to another part of it. Nothing may be in flight.
    pub(super) fn seek(&mut self, seq: u64, end: u64, rules: &Rules) {
        self.go_to(seq);
        (self.end, self.end_unknown, self.begin) = (Some(end), true, Begin::Known);
        (self.state, self.chunks) = (State::Idle, Chunks::new(rules.options.fetch_size));
    }

    fn go_to(&mut self, seq: u64) {
        (self.position, self.fetch_from) = (seq, seq);
        self.check_end();
    }

    fn check_end(&mut self) {
        if self.ends_before(self.fetch_from.max(1)) && self.has_begun() {
            self.state = State::Done;
        }
    }
}

/// The number that `back` numbers are from to the end, or the first there is.
pub(super) fn before_end(back: u64, first_available: u64, high_water_mark: u64) -> u64 {
    let end = high_water_mark.saturating_add(1);
    end.saturating_sub(back).max(first_available).max(1).min(end)
}

#[cfg(test)]
mod tests;
