//! What an answer, or the loss of one, means for a [`Partition`]: data, another leader, nothing yet, or the end.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::{Begin, Partition, State, Suspicion, before_end};
use crate::consume::subscription::{Options, OutOfRange};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::message::TopicPartitions;
use crate::net::{BrokerAddr, RetryPolicy, Time, WELL};
use crate::protocol::fetch::PartitionAnswer;
use crate::protocol::stream::{Bundle, ChunkEnd};
use crate::session::marks_of_answer;
use log::{debug, warn};

/// Pauses while there is no progress and nothing is wrong: a broker does not wait as it was asked to, or ends a wait for data that
/// it then does not have.
pub(super) const QUIET: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How many redirects to follow for a partition that may not exist.
pub(super) const MOST_HOPS: u32 = 3;

impl Partition {
    /// Takes in what an answer says about it.
    pub(in crate::consume) fn on_answer(&mut self, now: Time, answer: PartitionAnswer, rules: &Rules) -> Next {
        (self.chunks.len, self.chunks.had_messages) = (answer.chunk_len(), false);
        self.is_quiet = false;
        if self.state == State::Done {
            return Next::Go;
        }
        if !self.needs_mark() {
            self.suspicion = Suspicion::Clear;
        }
        if self.is_probe() {
            // Only its leader knows that it exists.
            let exists = matches!(answer, PartitionAnswer::Data { .. } | PartitionAnswer::OutOfRange { .. });
            let leads_on = matches!(answer, PartitionAnswer::Redirect(_)) && self.trouble().hops < MOST_HOPS;
            if !exists && !leads_on {
                // It does not exist, as far as this broker knows.
                self.trouble = None;
                return Next::Go;
            }
        }
        let asked_for_marks = self.needs_mark() || self.begin == Begin::BeforeEnd;
        match (answer, marks_of_answer(answer)) {
            (PartitionAnswer::Data { high_water_mark, len, .. }, _) if !asked_for_marks => {
                self.on_data(high_water_mark, len, rules)
            }
            (_, Ok((first_available, mark))) => self.on_out_of_range(now, first_available, mark, rules),
            (PartitionAnswer::Redirect(endpoint), _) => Next::AskAt(endpoint),
            (PartitionAnswer::NoLeader, _) => self.on_no_leader(now, rules),
            (_, Err(fault)) => Next::Fail(self.fault(fault, rules)),
        }
    }

    fn on_data(&mut self, high_water_mark: u64, len: u32, rules: &Rules) -> Next {
        self.begin = Begin::Known;
        self.last_was_empty = len == 0;
        let wait_was_ended = std::mem::replace(&mut self.wait_ended, rules.in_cluster && self.waits && len > 0);
        if len > 0 {
            self.high_water_mark = Some(high_water_mark);
            self.learn_end(high_water_mark);
        } else {
            // The mark of an empty answer may be too low, but nothing lies below the position either.
            let known = self.high_water_mark.unwrap_or(0).max(self.fetch_from.saturating_sub(1));
            self.high_water_mark = Some(known.max(high_water_mark));
            self.trouble = None;
            self.is_quiet = wait_was_ended;
            // The end existed once: if nothing is left before it, the log has become shorter.
            if rules.options.stop_at_end {
                self.state = State::Done;
            }
        }
        self.check_end();
        Next::Go
    }

    fn on_out_of_range(&mut self, now: Time, first_available: u64, high_water_mark: u64, rules: &Rules) -> Next {
        (self.first_available, self.high_water_mark) = (first_available, Some(high_water_mark));
        if self.needs_mark() {
            // The first number and the one after the mark are safe.
            let is_inside = self.fetch_from > first_available && self.is_behind();
            self.suspicion = if is_inside { Suspicion::Confirmed } else { Suspicion::Clear };
            return Next::Go;
        }
        let end = high_water_mark.saturating_add(1);
        let (requested, begin) = (self.fetch_from, std::mem::replace(&mut self.begin, Begin::Known));
        if begin == Begin::BeforeEnd {
            self.learn_end(high_water_mark);
            self.go_to(before_end(self.position, first_available, high_water_mark));
            self.trouble = None;
            debug!("{}: begins with {}", rules.names.show(self.index), self.position);
            return Next::Go;
        }
        let is_beyond = requested > end;
        let failure = self.error(ErrorKind::OutOfRange { requested, first_available, high_water_mark }, rules);
        let to = match if is_beyond { rules.options.beyond_end } else { rules.options.out_of_range } {
            OutOfRange::Fail => return Next::Fail(failure),
            // Where a broker contradicts itself, neither back nor past what is there.
            _ if !is_beyond && requested >= first_available => requested,
            OutOfRange::Earliest => first_available,
            OutOfRange::Latest => end,
        };
        self.go_to(to);
        let is_done = self.state == State::Done;
        let trouble = self.trouble();
        (trouble.retry, trouble.hops, trouble.followed) = Default::default();
        let moved = first_available > trouble.highest_first;
        trouble.highest_first = trouble.highest_first.max(first_available);
        if !is_beyond && moved {
            // Retention was faster: each attempt comes nearer.
            trouble.standstill.reset();
        } else if !trouble.standstill.is_in_trouble() {
            trouble.standstill.retry_at_once(now, &rules.retry);
        } else if !is_done {
            let until = trouble.standstill.retry_or_fail(now, &rules.retry);
            if !self.pause(until) {
                return Next::Fail(failure);
            }
        }
        warn!("{}: {requested} is out of range, continuing with {to}", rules.names.show(self.index));
        if requested < first_available { Next::Gap(requested, first_available - 1) } else { Next::Go }
    }

    /// Ends it with this number if it must stop at the end, which was not known until now.
    fn learn_end(&mut self, high_water_mark: u64) {
        if std::mem::take(&mut self.end_unknown) {
            self.end = self.end.min(high_water_mark);
        }
    }

    /// Takes in the leader that an answer named; `None` means nobody.
    pub(in crate::consume) fn on_named(
        &mut self,
        now: Time,
        named: SocketAddrV4,
        found: std::result::Result<Option<BrokerAddr>, Fault>,
        rules: &Rules,
    ) -> Next {
        if let Ok(Some(leader)) = &found {
            warn!("{}: redirected to {leader}", rules.names.show(self.index));
        }
        if self.is_probe() {
            self.trouble().hops += 1;
            self.leader = found.ok().flatten();
            return Next::Go;
        }
        match found {
            Err(fault) => Next::Fail(self.fault(fault, rules)),
            Ok(None) => self.on_no_leader(now, rules),
            Ok(leader) => {
                self.leader = leader;
                let trouble = self.trouble();
                trouble.hops += 1;
                let hops = trouble.hops;
                // This is how leaders are found, also when one has changed during a pause; two in a row need a rest.
                trouble.followed = !trouble.followed;
                if trouble.followed {
                    trouble.retry.retry_at_once(now, &rules.retry);
                    return Next::Go;
                }
                let until = trouble.retry.retry_or_fail(now, &rules.retry);
                self.pause_or_fail(until, Fault::Redirects { hops, last: named }, rules)
            }
        }
    }

    fn on_no_leader(&mut self, now: Time, rules: &Rules) -> Next {
        self.leader = None;
        let trouble = self.trouble();
        trouble.hops += 1;
        trouble.followed = false;
        let until = trouble.retry.retry_or_fail(now, &rules.retry);
        if self.pause(until) { Next::NoLeader } else { Next::Fail(self.fault(Fault::NoLeader, rules)) }
    }

    /// Pauses until then, but not before what is in flight has ended. Returns `false` if the retry budget is spent.
    fn pause(&mut self, until: Option<Time>) -> bool {
        let in_flight = matches!(self.state, State::InFlight(_));
        let state = |until| if in_flight { State::InFlight(until) } else { State::Paused(until) };
        until.map(|until| self.state = state(until)).is_some()
    }

    fn pause_or_fail(&mut self, until: Option<Time>, fault: Fault, rules: &Rules) -> Next {
        if self.pause(until) { Next::Go } else { Next::Fail(self.fault(fault, rules)) }
    }

    /// Takes in the bundles that were just found, from `new` on. Removes those that are not wanted, and sets up to which number to
    /// take the last one. Returns whether it is known where the next fetch continues; if not, the messages of the last bundle tell.
    pub(in crate::consume) fn on_bundles(&mut self, found: &mut Vec<Bundle>, new: usize, rules: &Rules) -> bool {
        if self.wait_ended || self.state == State::Done {
            found.truncate(new);
            return true;
        }
        // Their numbers rise.
        let wanted = found.get(new..).unwrap_or_default().partition_point(|bundle| bundle.first <= self.end);
        if new + wanted < found.len() {
            self.state = State::Done;
            found.truncate(new + wanted);
        }
        // A cut bundle will come again as a whole; it is worth decoding only if there is nothing else.
        if found.last().is_some_and(|last| last.cut) && (self.chunks.had_messages || found.len() > new + 1) {
            found.pop();
        }
        let Some(last) = found.get_mut(new..).and_then(<[Bundle]>::last_mut) else { return true };
        last.to = last.to.min(self.end);
        let (is_whole, after) = (self.takes_whole(last), last.last.min(last.to).saturating_add(1));
        if is_whole || found.len() > new + 1 {
            self.on_messages(rules);
        }
        if is_whole {
            self.fetch_from = after;
            self.check_end();
        }
        is_whole
    }

    /// Ends a chunk: its messages and numbers decide what to ask for next.
    pub(in crate::consume) fn on_chunk_end(&mut self, now: Time, end: ChunkEnd, rules: &Rules) -> Next {
        if let Some(trouble) = &mut self.trouble {
            (trouble.retry, trouble.hops, trouble.followed) = Default::default();
        }
        let found = self.chunks.had_messages;
        if self.state == State::Done || self.wait_ended {
            return Next::Go;
        }
        if end != ChunkEnd::AboveMark {
            self.trouble = None;
        }
        match end {
            ChunkEnd::Cut { bundle_len } => {
                let limit = rules.bundle_limit;
                let cut = self.chunks.on_cut(bundle_len.unwrap_or(0), limit).err();
                let too_large = |needed| self.error(ErrorKind::BundleTooLarge { needed, limit: limit.into() }, rules);
                cut.map_or(Next::Go, |needed| Next::Fail(too_large(needed)))
            }
            ChunkEnd::AboveMark if !found => {
                let mark = self.high_water_mark.unwrap_or(0);
                let trouble = self.trouble();
                let mut policy = rules.retry;
                if trouble.above.replace(mark).is_some_and(|before| before != mark) {
                    // It has moved: the messages above it will become visible. No failure, then, but a reason to pause.
                    trouble.standstill.reset();
                    policy.timeout = Duration::MAX;
                }
                let until = trouble.standstill.retry_or_fail(now, &policy);
                self.pause_or_fail(until, Fault::Stuck { seq: self.fetch_from }, rules)
            }
            ChunkEnd::Whole if !found && !self.chunks.on_stale() => {
                Next::Fail(self.fault(Fault::Stuck { seq: self.fetch_from }, rules))
            }
            ChunkEnd::AboveMark | ChunkEnd::Whole => Next::Go,
        }
    }

    /// Ends an answer. The partition can be asked for again, after a pause if the answer said so, or was empty and came too `soon`.
    pub(in crate::consume) fn on_end(&mut self, now: Time, soon: bool, rules: &Rules) {
        let State::InFlight(until) = self.state else { return };
        self.state = match until {
            // It was looked for and not found, and no other broker may know it.
            Time::ZERO if self.is_probe() && self.trouble.is_none() => State::Done,
            Time::ZERO if soon || self.is_quiet => {
                self.quiet = self.quiet.saturating_add(1);
                let pauses = RetryPolicy { pauses: QUIET, ..rules.retry };
                State::Paused(now.after(pauses.pause(self.quiet.into())))
            }
            Time::ZERO => State::Idle,
            _ => State::Paused(until),
        };
    }

    /// Takes it back from a connection that failed with `e`, or could not be opened.
    ///
    /// # Errors
    /// It has been in trouble for too long, or what was asked for ends connections.
    pub(in crate::consume) fn on_lost(&mut self, now: Time, how: Lost, e: &Error, rules: &Rules) -> Result<()> {
        self.state = match self.state {
            // It is looked for after each lost connection, so it will be looked for again after this one.
            State::Idle | State::InFlight(Time::ZERO) if self.is_probe() => State::Done,
            State::Idle | State::InFlight(Time::ZERO) => State::Idle,
            // The pause that its answer asked for still counts.
            State::InFlight(until) => State::Paused(until),
            other => other,
        };
        if self.state != State::Idle {
            return Ok(());
        }
        if how.well_for >= WELL.min(rules.retry.timeout) {
            // Earlier trouble has ended in between.
            self.trouble = None;
        }
        if how.unanswered && self.has_begun() {
            let before = std::mem::replace(&mut self.suspicion, Suspicion::MustAskMark);
            if before == Suspicion::Confirmed && how.alone {
                let mark = self.high_water_mark.unwrap_or(0);
                return Err(self.fault(Fault::Deadly { seq: self.fetch_from, mark }, rules));
            }
        }
        if how.while_idle {
            return Ok(());
        }
        self.leader = None;
        let until = self.trouble().retry.retry_or_fail(now, &rules.retry);
        let (topic, partition) = rules.names.get(self.index);
        if self.pause(until) { Ok(()) } else { Err(e.clone().about(topic, partition)) }
    }
}

/// What all partitions of a subscription have in common.
#[derive(Debug)]
pub(in crate::consume) struct Rules {
    /// The names of the partitions, by their indices.
    pub(in crate::consume) names: TopicPartitions,
    pub(in crate::consume) options: Options,
    /// Nodes of a cluster die when they wait for several partitions with one fetch and data comes for one of them, and the
    /// data that ends a wait may be numbered wrongly. So each partition is waited for alone there, and what ends a wait
    /// only says that it is time to ask again.
    pub(in crate::consume) in_cluster: bool,
    /// The largest bundle accepted, in bytes.
    pub(in crate::consume) bundle_limit: u32,
    pub(in crate::consume) retry: RetryPolicy,
}

/// What a partition wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::consume) struct Want {
    pub(in crate::consume) seq: u64,
    pub(in crate::consume) fetch_size: u32,
    /// Whether the broker may wait for data.
    pub(in crate::consume) waits: bool,
    /// Whether it needs a fetch of its own.
    pub(in crate::consume) alone: bool,
    pub(in crate::consume) risk: Risk,
}

/// Whether a fetch of a partition may be the reason if the connection ends unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::consume) enum Risk {
    /// It only waits, or asks for what certainly does nothing.
    Harmless,
    Risky,
    /// Perhaps it has ended one already.
    Suspect,
}

/// What the shell must do after an answer to a partition.
#[derive(Debug)]
pub(in crate::consume) enum Next {
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
pub(in crate::consume) struct Lost {
    /// Whether the connection had been idle and ended just before it was used again, which does not count as trouble.
    pub(in crate::consume) while_idle: bool,
    /// How long it had been up with nothing overdue.
    pub(in crate::consume) well_for: Duration,
    /// Whether it ended soon after the fetch was handed over, before any byte of an answer.
    pub(in crate::consume) unanswered: bool,
    /// Whether nothing else that is risky was in flight on it.
    pub(in crate::consume) alone: bool,
}
