//! What an answer, or the loss of one, means for a [`Partition`]: data, another leader, nothing yet, or the end.

use std::mem;
use std::net::SocketAddrV4;
use std::time::Duration;

use log::{debug, warn};

use super::{Begin, Lost, Next, Partition, Rules, State, Suspicion, before_end};
use crate::consume::subscription::{Options, OutOfRange};
use crate::error::{Error, ErrorKind, Fault, Result, rounded_up_to_ms};
use crate::net::{BrokerAddr, HEALTHY_AFTER, Refusal, RetryPolicy, Time};
use crate::protocol::fetch::PartitionAnswer;
use crate::protocol::stream::{Bundle, ChunkEnd};
use crate::session::{Marks, marks_of_answer};

/// Pauses while there is no progress and nothing is wrong: a broker does not wait as it was asked to, or ends a wait for data that
/// it then does not have.
pub(super) const IDLE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How many redirects to follow for a partition that may not exist.
pub(super) const MAX_REDIRECTS: u32 = 3;

impl Partition {
    /// Takes in what an answer says about it.
    pub(in crate::consume) fn on_answer(&mut self, now: Time, answer: PartitionAnswer, rules: &Rules) -> Next {
        self.chunks.len = answer.chunk_len();
        self.chunks.had_messages = false;
        self.is_idle_answer = false;
        if self.state == State::Done {
            return Next::Go;
        }
        // A redirect or a fault does not tell whether it is safe to look for the number.
        if !self.needs_mark() && marks_of_answer(answer).is_ok() {
            self.suspicion = Suspicion::Clear;
        }
        if self.is_probe() {
            // Only its leader knows that it exists.
            let exists = matches!(answer, PartitionAnswer::Data { .. } | PartitionAnswer::OutOfRange { .. });
            let leads_on = matches!(answer, PartitionAnswer::Redirect(_)) && self.trouble().redirects < MAX_REDIRECTS;
            if !exists && !leads_on {
                // It does not exist, as far as this broker knows.
                self.trouble = None;
                return Next::Go;
            }
        }
        let asked_for_marks = self.needs_mark() || !self.has_begun();
        match (answer, marks_of_answer(answer)) {
            (PartitionAnswer::Data { high_water_mark, len, .. }, _) if !asked_for_marks => {
                self.on_data(high_water_mark, len, rules)
            }
            (_, Ok(marks)) => self.on_marks(now, marks, rules),
            (_, Err(Refusal::Redirect(endpoint))) => Next::AskAt(endpoint),
            (_, Err(Refusal::Fault(Fault::NoLeader))) => self.on_no_leader(now, rules),
            (_, Err(Refusal::Fault(fault))) => Next::Fail(self.fault(fault, rules)),
        }
    }

    fn on_data(&mut self, high_water_mark: u64, len: u32, rules: &Rules) -> Next {
        self.last_was_empty = len == 0;
        let wait_was_ended = mem::replace(&mut self.wait_ended, rules.in_cluster && self.may_wait && len > 0);
        if len > 0 {
            self.high_water_mark = Some(high_water_mark);
            self.learn_end(high_water_mark);
        } else {
            // Nothing is left from the position on, even if more was known before. The mark of an empty answer may be too low.
            self.high_water_mark = Some(high_water_mark.max(self.fetch_from.saturating_sub(1)));
            self.trouble = None;
            self.is_idle_answer = wait_was_ended;
            // The end existed once: if nothing is left before it, the log has become shorter.
            if rules.options.stop_at_end {
                self.state = State::Done;
            }
        }
        self.check_end();
        Next::Go
    }

    /// Takes in what the leader says that it has: it was asked for that, or rejects the number that it was asked for.
    fn on_marks(&mut self, now: Time, marks: Marks, rules: &Rules) -> Next {
        let Marks { first_available, high_water_mark } = marks;
        self.first_available = first_available;
        self.high_water_mark = Some(high_water_mark);
        if self.needs_mark() {
            // The first number and the one after the mark are safe.
            let is_inside = self.fetch_from > first_available && self.is_behind();
            self.suspicion = if is_inside { Suspicion::Confirmed } else { Suspicion::Clear };
            return Next::Go;
        }
        match mem::replace(&mut self.begin, Begin::Known) {
            Begin::Known => return self.on_out_of_range(now, marks, rules),
            Begin::BeforeEnd => self.position = before_end(self.position, marks),
            Begin::Probe => {}
        }
        self.learn_end(high_water_mark);
        self.go_to(self.position);
        self.trouble = None;
        debug!("{}: begins with {}", rules.names.show(self.index), self.position);
        Next::Go
    }

    fn on_out_of_range(&mut self, now: Time, marks: Marks, rules: &Rules) -> Next {
        let Marks { first_available, high_water_mark } = marks;
        let requested = self.fetch_from;
        let failure = self.error(ErrorKind::OutOfRange { requested, first_available, high_water_mark }, rules);
        let Some(to) = restart_at(requested, marks, &rules.options) else { return Next::Fail(failure) };
        self.go_to(to);
        if !self.may_restart(now, requested, marks, rules) {
            return Next::Fail(failure);
        }
        warn!("{}: {requested} is out of range, continuing with {to}", rules.names.show(self.index));
        if requested < first_available { Next::Gap(requested, first_available - 1) } else { Next::Go }
    }

    /// Returns `false` if the leader has rejected what it should have for too long, and pauses if it has just done so before.
    fn may_restart(&mut self, now: Time, requested: u64, marks: Marks, rules: &Rules) -> bool {
        let Marks { first_available, high_water_mark } = marks;
        let is_done = self.state == State::Done;
        let trouble = self.trouble();
        trouble.on_leader_found();
        let retention_moved = first_available > trouble.retention_seen;
        trouble.retention_seen = trouble.retention_seen.max(first_available);
        if retention_moved && requested <= high_water_mark.saturating_add(1) {
            // Retention was faster: each attempt comes nearer.
            trouble.no_progress.reset();
            true
        } else if !trouble.no_progress.is_in_trouble() {
            trouble.no_progress.retry_at_once(now, &rules.retry);
            true
        } else {
            let until = trouble.no_progress.retry_or_fail(now, &rules.retry);
            is_done || self.pause(until)
        }
    }

    /// Ends it with this number if it must stop at the end, which was not known until now.
    fn learn_end(&mut self, high_water_mark: u64) {
        if mem::take(&mut self.end_unknown) {
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
            self.trouble().redirects += 1;
            self.leader = found.ok().flatten();
            return Next::Go;
        }
        match found {
            Err(fault) => Next::Fail(self.fault(fault, rules)),
            Ok(None) => self.on_no_leader(now, rules),
            Ok(leader) => {
                self.leader = leader;
                let trouble = self.trouble();
                trouble.redirects += 1;
                let hops = trouble.redirects;
                // This is how leaders are found, also when one has changed during a pause; two in a row need a rest.
                if !mem::replace(&mut trouble.redirected_without_pause, true) {
                    trouble.retry.retry_at_once(now, &rules.retry);
                    return Next::Go;
                }
                let until = trouble.retry.retry_or_fail(now, &rules.retry);
                self.pause_or_fail(until, Fault::Redirects { hops, last: named }, rules)
            }
        }
    }

    fn on_no_leader(&mut self, now: Time, rules: &Rules) -> Next {
        let failure = self.fault(Fault::NoLeader, rules);
        self.leader = None;
        let Some(until) = self.trouble().retry.retry_or_fail(now, &rules.retry) else { return Next::Fail(failure) };
        warn!("{failure}, trying again in {:?}", rounded_up_to_ms(until.since(now)));
        self.pause(Some(until));
        Next::NoLeader
    }

    /// Pauses until then, but not before what is in flight has ended. Returns `false` if the retry budget is spent.
    fn pause(&mut self, until: Option<Time>) -> bool {
        let Some(until) = until else { return false };
        self.trouble().redirected_without_pause = false;
        let is_in_flight = matches!(self.state, State::InFlight | State::InFlightThenPaused(_));
        self.state = if is_in_flight { State::InFlightThenPaused(until) } else { State::Paused(until) };
        true
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
        let is_whole = self.takes_whole(last);
        let after = last.last.min(last.to).saturating_add(1);
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
            trouble.on_leader_found();
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
                let Err(needed) = self.chunks.on_cut(bundle_len.unwrap_or(0), rules.bundle_limit) else {
                    return Next::Go;
                };
                Next::Fail(self.error(ErrorKind::BundleTooLarge { needed, limit: rules.bundle_limit.into() }, rules))
            }
            ChunkEnd::AboveMark if !found => {
                let mark = self.high_water_mark.unwrap_or(0);
                let trouble = self.trouble();
                let mut policy = rules.retry;
                if trouble.low_mark.replace(mark).is_some_and(|before| before != mark) {
                    // It has moved: the messages above it will become visible. No failure, then, but a reason to pause.
                    trouble.no_progress.reset();
                    policy.timeout = Duration::MAX;
                }
                let until = trouble.no_progress.retry_or_fail(now, &policy);
                self.pause_or_fail(until, Fault::Stuck { seq: self.fetch_from }, rules)
            }
            ChunkEnd::Whole if !found && !self.chunks.on_stale() => {
                Next::Fail(self.fault(Fault::Stuck { seq: self.fetch_from }, rules))
            }
            ChunkEnd::AboveMark | ChunkEnd::Whole => Next::Go,
        }
    }

    /// Ends an answer. The partition can be asked for again, after a pause if the answer said so, or was empty and `came_early`.
    pub(in crate::consume) fn on_end(&mut self, now: Time, came_early: bool, rules: &Rules) {
        self.state = match self.state {
            // It was looked for and not found, and no other broker may know it.
            State::InFlight if self.is_probe() && self.trouble.is_none() => State::Done,
            State::InFlight if came_early || self.is_idle_answer => {
                self.idle_answers = self.idle_answers.saturating_add(1);
                let policy = RetryPolicy { pauses: IDLE_PAUSES, ..rules.retry };
                State::Paused(now.after(policy.pause(self.idle_answers.into())))
            }
            State::InFlight => State::Idle,
            State::InFlightThenPaused(until) => State::Paused(until),
            other => other,
        };
    }

    /// Takes it back from a connection that failed with `e`, or could not be opened.
    ///
    /// # Errors
    /// It has been in trouble for too long, or what was asked for ends connections.
    pub(in crate::consume) fn on_lost(&mut self, now: Time, how: Lost, e: &Error, rules: &Rules) -> Result<()> {
        self.state = match self.state {
            // It is looked for after each lost connection, so it will be looked for again after this one.
            State::Idle | State::InFlight if self.is_probe() => State::Done,
            State::Idle | State::InFlight => State::Idle,
            // The pause that its answer asked for still counts.
            State::InFlightThenPaused(until) => State::Paused(until),
            other => other,
        };
        if self.state != State::Idle {
            return Ok(());
        }
        if how.healthy_for >= HEALTHY_AFTER.min(rules.retry.timeout) {
            // Earlier trouble has ended in between.
            self.trouble = None;
        }
        if how.unanswered && self.has_begun() {
            let before = mem::replace(&mut self.suspicion, Suspicion::MustAskMark);
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

/// Returns where the policies for numbers that do not exist continue; `None` if they fail.
fn restart_at(requested: u64, marks: Marks, options: &Options) -> Option<u64> {
    let Marks { first_available, high_water_mark } = marks;
    let end = high_water_mark.saturating_add(1);
    let is_beyond = requested > end;
    match if is_beyond { options.beyond_end } else { options.out_of_range } {
        OutOfRange::Fail => None,
        // The broker rejected a number that it says it has: it is asked for the same number again.
        _ if (first_available..=end).contains(&requested) => Some(requested),
        OutOfRange::Earliest => Some(first_available),
        OutOfRange::Latest => Some(end),
    }
}
