//! What an outcome means for a [`PartitionQueue`]: stored, held, sent again, or failed; and when to give up.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

use std::mem;
use std::time::Duration;

use super::{Answer, PartitionQueue, Reply};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::net::{Refusal, Time};
use crate::produce::bundle::{Bundle, Failed, LeaderIndex, Spares, Stage};

impl PartitionQueue {
    /// Handles the answer of this leader to a request.
    pub(in crate::produce) fn on_answer(&mut self, now: Time, from: LeaderIndex, id: u32, answer: Answer) {
        let index = self.index_of(id);
        let was_asked = self.question.take_if(|question| *question == id).is_some();
        self.unsent = 0;
        if !matches!(answer, Err(Refusal::Redirect(_))) {
            self.redirects = 0;
        }
        match (answer, index) {
            (Ok(Reply::Stored), Some(index)) => self.on_stored(index),
            (Err(refusal), Some(index)) => self.on_refused(now, index, refusal),
            (Ok(Reply::LogEnd(end)), None) if was_asked => self.on_end(from, end),
            (Ok(Reply::Mark(mark)), None) if was_asked => self.on_mark(now, mark),
            (Err(refusal), None) if was_asked => {
                // Which broker leads now is not known, but it may be another one.
                self.numbering.must_compare = true;
                let failed = self.retry_after_refusal(now, refusal);
                self.note_failure(None, failed);
            }
            _ => {}
        }
        self.resolve_if_quiet();
    }

    /// Handles the loss of the connection with this request, which is then reset. It had been healthy for that long. If the request
    /// was not `handed_over`, the broker has not received all of it.
    pub(in crate::produce) fn on_lost(
        &mut self,
        now: Time,
        id: u32,
        e: &Error,
        healthy_for: Duration,
        handed_over: bool,
    ) {
        self.retry.was_healthy_for(healthy_for);
        let index = self.index_of(id);
        if index.is_none() && self.question.take_if(|question| *question == id).is_none() {
            return;
        }
        self.redirects = 0;
        if let Some(bundle) = index.and_then(|index| self.bundles.get_mut(index)) {
            bundle.outcome_open |= handed_over;
        }
        // Without numbers nobody could tell whether a second copy is one too many.
        let gives_up = index.is_some() && handed_over && !self.numbering.is_on;
        let failed = if gives_up { Failed::GiveUp(e.clone()) } else { self.retry_or_fail(now, e.clone()) };
        self.note_failure(index, failed);
        self.resolve_if_quiet();
    }

    /// Notes that no connection could be opened. `brokers` is how many are known.
    pub(in crate::produce) fn on_unreachable(&mut self, now: Time, error: &Error, brokers: usize) {
        // `redirects` stays: a redirect to an unreachable leader must back off like a second redirect.
        self.unsent += 1;
        let others = self.unsent % brokers.max(1) != 0;
        let failed = if !error.is_transient() {
            Failed::GiveUp(error.clone())
        } else if others && self.retry.retry_at_once(now, &self.policy) {
            Failed::Retry(error.clone())
        } else {
            self.retry_or_fail(now, error.clone())
        };
        self.note_failure(None, failed);
        self.resolve_if_quiet();
    }

    /// Gives up what still waits for a connection once the budget is spent.
    pub(in crate::produce) fn give_up_if_expired(&mut self, now: Time) {
        if self.has_work() && self.gives_up_at() <= now {
            let e = self.trouble.take().unwrap_or_else(|| self.fault(Fault::NoLeader));
            self.give_up(e);
            self.resolve_if_quiet();
        }
    }

    /// Handles the end of this leader's own log.
    fn on_end(&mut self, leader: LeaderIndex, end: u64) {
        let Some(found) = self.numbering.compare(leader, end, &mut self.bundles) else {
            return self.give_up(self.fault(Fault::AnotherWriter { end }));
        };
        self.missing = found.missing;
        self.resolve_stored(found.stored);
    }

    /// Handles the mark up to which replicas have confirmed.
    fn on_mark(&mut self, now: Time, mark: u64) {
        self.confirm(mark);
        if self.bundles.front().is_some_and(Bundle::is_held) {
            let failed = self.retry_or_fail(now, self.fault(Fault::NotConfirmed));
            self.note_failure(None, failed);
        }
    }

    /// Delivers the bundles that the leader holds at or below the mark.
    fn confirm(&mut self, mark: u64) {
        let is_confirmed = |bundle: &&Bundle| bundle.end().is_some_and(|end| end <= mark.saturating_add(1));
        let confirmed = self.bundles.iter().take_while(|bundle| bundle.is_held()).take_while(is_confirmed).count();
        self.resolve_stored(confirmed);
    }

    /// Notes that this many bundles at the front are stored.
    fn resolve_stored(&mut self, count: usize) {
        for bundle in self.bundles.drain(..count).collect::<Vec<_>>() {
            self.resolve(bundle, Ok(()));
        }
    }

    fn on_refused(&mut self, now: Time, index: usize, refusal: Refusal) {
        let Some(bundle) = self.bundles.get_mut(index) else { return };
        let failed = match refusal {
            Refusal::Fault(fault @ Fault::NotConfirmed) if self.numbering.is_on => {
                if let Some(leader) = self.leader {
                    bundle.hold(leader);
                }
                let e = self.fault(fault);
                let may_retry = self.retry.retry_at_once(now, &self.policy);
                return self.note_failure(None, if may_retry { Failed::Retry(e) } else { Failed::GiveUp(e) });
            }
            Refusal::Fault(fault @ (Fault::NotConfirmed | Fault::System)) => {
                bundle.outcome_open = true;
                Failed::GiveUp(self.fault(fault))
            }
            _ => self.retry_after_refusal(now, refusal),
        };
        self.numbering.another_writer |= matches!(refusal, Refusal::Fault(Fault::SeqNotAbove { .. }));
        self.note_failure(Some(index), failed);
    }

    fn fault(&self, fault: Fault) -> Error {
        let partition = if fault == Fault::UnknownTopic { None } else { Some(self.partition) };
        let e = Error::refused(&self.topic, partition, fault);
        if let Some(broker) = &self.answered_by { e.at(broker) } else { e }
    }

    /// Notes the outcome of a bundle. Either way the trouble is over.
    fn resolve(&mut self, bundle: Bundle, outcome: Result<()>) {
        self.bytes -= bundle.size;
        self.retry.reset();
        self.unsent = 0;
        self.redirects = 0;
        self.trouble = None;
        self.deliveries.push((bundle, outcome));
    }

    fn on_stored(&mut self, index: usize) {
        let stored = self.bundles.remove(index);
        for earlier in self.bundles.iter_mut().take(index) {
            earlier.later_one_stored = true;
        }
        // Replicas fetch in order: if they have this one, they have all before it.
        self.confirm(u64::MAX);
        if let Some(bundle) = stored {
            self.resolve(bundle, Ok(()));
        }
    }

    /// Tries again after a redirect or a fault that waiting can mend.
    fn retry_after_refusal(&mut self, now: Time, refusal: Refusal) -> Failed {
        match refusal {
            Refusal::Redirect(_) => {
                self.redirects += 1;
                let e = self.fault(refusal.fault(self.redirects));
                let is_new = !self.retry.is_in_trouble();
                match self.redirects {
                    // The first redirect is how leaders are found; after a second one in a row the cluster needs time to settle.
                    1 if self.retry.retry_at_once(now, &self.policy) || is_new => Failed::Retry(e),
                    _ => self.retry_or_fail(now, e),
                }
            }
            Refusal::Fault(fault) if fault.is_retryable() => self.retry_or_fail(now, self.fault(fault)),
            Refusal::Fault(fault) => Failed::GiveUp(self.fault(fault)),
        }
    }

    fn retry_or_fail(&mut self, now: Time, error: Error) -> Failed {
        // Of several bundles that come back for the same reason, only the first counts.
        let is_retried = |bundle: &Bundle| matches!(bundle.stage, Stage::Returned(Failed::Retry(_)));
        let may_retry = self.bundles.iter().any(is_retried) || self.retry.retry_or_fail(now, &self.policy).is_some();
        if may_retry { Failed::Retry(error) } else { Failed::GiveUp(error) }
    }

    /// Notes that a bundle in flight has failed, or without an index, an attempt for the whole partition.
    fn note_failure(&mut self, index: Option<usize>, failed: Failed) {
        if let Failed::Retry(e) = &failed {
            self.trouble = Some(e.clone());
        }
        if let Some(bundle) = index.and_then(|index| self.bundles.get_mut(index)) {
            bundle.stage = Stage::Returned(failed);
        } else if let Failed::GiveUp(e) = failed {
            self.give_up(e);
        }
    }

    /// Fails the bundles that are held, and those that wait.
    fn give_up(&mut self, error: Error) {
        let held = self.bundles.iter().take_while(|bundle| bundle.is_held()).count();
        let waiting = self.bundles.iter().position(Bundle::is_waiting);
        debug_assert!(held > 0 || waiting.is_some(), "nothing is left to tell the error of");
        for index in (0..held).chain(waiting) {
            self.note_failure(Some(index), Failed::GiveUp(error.clone()));
        }
    }

    /// Returns the error to report: as an unknown outcome if the bundle may be stored nevertheless.
    fn failure_of(&self, bundle: &Bundle, error: Error) -> Error {
        let is_said = error.kind == ErrorKind::OutcomeUnknown || !bundle.may_be_stored();
        if is_said { error } else { Error::unknown(&self.topic, self.partition, error) }
    }

    /// Once every answer has come, takes back what can be sent again, or after a failure reports everything that is left.
    fn resolve_if_quiet(&mut self) {
        if self.is_in_flight() {
            return;
        }
        self.leader = None;
        let cause = |bundle: &Bundle| bundle.failure().map(|e| self.failure_of(bundle, e.clone()));
        let Some(cause) = self.bundles.iter().find_map(cause) else {
            for bundle in self.bundles.iter_mut().filter(|bundle| !bundle.is_held()) {
                bundle.stage = Stage::Waiting;
            }
            return;
        };
        // The records were accepted, so they can be sealed.
        let _ = self.seal(&mut Spares::default());
        for mut bundle in mem::take(&mut self.bundles) {
            let error = match mem::take(&mut bundle.stage) {
                Stage::Returned(Failed::Retry(e) | Failed::GiveUp(e)) => self.failure_of(&bundle, e),
                Stage::Held => self.failure_of(&bundle, self.fault(Fault::NotConfirmed)),
                _ if bundle.may_be_stored() => self.failure_of(&bundle, cause.clone()),
                _ => Error::new(ErrorKind::NotSent).about(&self.topic, self.partition).because(cause.clone()),
            };
            self.resolve(bundle, Err(error));
        }
    }
}
