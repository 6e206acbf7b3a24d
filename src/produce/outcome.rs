//! What an outcome means for a [`PartitionQueue`]: stored, held, sent again, or failed; and when to give up.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

use std::mem;

use super::bundle::{BrokerId, Bundle, RetryDecision, Spares, Stage};
use super::queue::{PartitionQueue, ToSend};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::net::Time;

/// What a broker answers about a partition: the number that was asked for, or that a bundle is stored; or the fault.
pub(super) type Reply = Result<u64, Fault>;

impl PartitionQueue {
    /// Takes in the reply of this broker to a request.
    pub(super) fn on_reply(&mut self, now: Time, from: BrokerId, id: u32, reply: Reply) {
        let index = self.index_of(id);
        let question = self.question.take_if(|(question, _)| *question == id);
        self.unsent = 0;
        if !matches!(reply, Err(Fault::Redirects { .. })) {
            self.redirects = 0;
        }
        match (reply, index, question) {
            (Ok(_), Some(index), _) => self.on_stored(index),
            (Err(fault), Some(index), _) => self.on_refused(now, index, fault),
            (Ok(end), None, Some((_, ToSend::End))) => self.on_end(from, end),
            (Ok(mark), None, Some(_)) => self.on_mark(now, mark),
            (Err(fault), None, Some(_)) => {
                // Which broker leads now is not known, but it may be another one.
                self.numbering.iter_mut().for_each(|numbering| numbering.unsure = true);
                let again = self.again(now, fault, false);
                self.conclude(None, again);
            }
            (_, None, None) => {}
        }
        self.settle();
    }

    /// Takes in that the connection with this request was lost, and was reset. If the request was not `handed_over`, the broker has
    /// not received all of it.
    pub(super) fn on_lost(&mut self, now: Time, id: u32, error: &Error, handed_over: bool) {
        let index = self.index_of(id);
        if index.is_none() && self.question.take_if(|(question, _)| *question == id).is_none() {
            return;
        }
        self.redirects = 0;
        let bundle = index.and_then(|index| self.bundles.get_mut(index)).filter(|_| handed_over);
        let is_in_doubt = bundle.map(|bundle| bundle.at_large = true).is_some();
        let again = match is_in_doubt && self.numbering.is_none() {
            true => Err(error.clone()),
            false => self.try_again(now, error.clone()),
        };
        self.conclude(index, again);
        self.settle();
    }

    /// Takes in that no connection could be opened. `brokers` is how many are known.
    pub(super) fn on_unreachable(&mut self, now: Time, error: &Error, brokers: usize) {
        // The redirects in a row still count: a redirect to a leader that is gone needs time, as two in a row do.
        self.unsent += 1;
        let others = self.unsent % brokers.max(1) != 0;
        let again = match error.is_transient() {
            false => Err(error.clone()),
            true if others && self.retry.retry_at_once(now, &self.policy) => Ok(error.clone()),
            true => self.try_again(now, error.clone()),
        };
        self.conclude(None, again);
        self.settle();
    }

    /// Gives up what still waits for a connection once the budget is spent.
    pub(super) fn give_up_if_expired(&mut self, now: Time) {
        if self.has_work() && self.retry.gives_up_at(&self.policy) <= now {
            let e = self.trouble.take().unwrap_or_else(|| self.fault(Fault::NoLeader));
            self.give_up(e);
            self.settle();
        }
    }

    /// Takes in the end of this leader's own log.
    fn on_end(&mut self, leader: BrokerId, end: u64) {
        let Some(numbering) = &mut self.numbering else { return };
        match numbering.compare(leader, end, &mut self.bundles) {
            Some((gap, stored)) => {
                self.gap = gap;
                stored.into_iter().for_each(|bundle| self.resolve(bundle, Ok(())));
            }
            None => self.give_up(self.fault(Fault::AnotherWriter { end })),
        }
    }

    /// Takes in the mark up to which replicas have confirmed.
    fn on_mark(&mut self, now: Time, mark: u64) {
        self.confirm(mark);
        if self.bundles.front().is_some_and(Bundle::is_held) {
            let again = self.try_again(now, self.fault(Fault::NotConfirmed));
            self.conclude(None, again);
        }
    }

    /// Delivers the bundles that the leader holds at or below the mark.
    fn confirm(&mut self, mark: u64) {
        let is_confirmed = |bundle: &&Bundle| bundle.end().is_some_and(|end| end <= mark.saturating_add(1));
        let confirmed = self.bundles.iter().take_while(|bundle| bundle.is_held()).take_while(is_confirmed).count();
        for _ in 0..confirmed {
            self.bundles.pop_front().into_iter().for_each(|bundle| self.resolve(bundle, Ok(())));
        }
    }

    fn on_refused(&mut self, now: Time, index: usize, fault: Fault) {
        let Some(bundle) = self.bundles.get_mut(index) else { return };
        // This copy is not stored, but another one may be.
        let in_doubt = bundle.at_large && self.numbering.is_some();
        let again = match fault {
            Fault::NotConfirmed if self.numbering.is_some() => {
                self.leader.into_iter().for_each(|leader| bundle.hold(leader));
                let e = self.fault(fault);
                let again = if self.retry.retry_at_once(now, &self.policy) { Ok(e) } else { Err(e) };
                return self.conclude(None, again);
            }
            Fault::NotConfirmed | Fault::System => {
                bundle.at_large = true;
                Err(self.fault(fault))
            }
            Fault::SeqNotAbove { .. } => {
                let seq = bundle.first_seq();
                self.numbering.iter_mut().for_each(|numbering| numbering.another_writer = !in_doubt);
                self.again(now, Fault::SeqNotAbove { seq }, in_doubt)
            }
            fault => self.again(now, fault, in_doubt),
        };
        self.conclude(Some(index), again);
    }

    fn fault(&self, fault: Fault) -> Error {
        let partition = Some(self.partition).filter(|_| fault != Fault::UnknownTopic);
        self.answered_by.iter().fold(Error::refused(&self.topic, partition, fault), |e, broker| e.at(broker))
    }

    /// Notes the outcome of a bundle. Either way the trouble is over.
    fn resolve(&mut self, bundle: Bundle, outcome: Result<()>) {
        self.bytes -= bundle.size;
        self.retry.reset();
        (self.unsent, self.redirects, self.trouble) = (0, 0, None);
        self.deliveries.push((bundle, outcome));
    }

    fn on_stored(&mut self, index: usize) {
        let stored = self.bundles.remove(index);
        self.bundles.iter_mut().take(index).for_each(|earlier| earlier.overtaken = true);
        // Replicas fetch in order: if they have this one, they have all before it.
        self.confirm(u64::MAX);
        stored.into_iter().for_each(|bundle| self.resolve(bundle, Ok(())));
    }

    /// Tries again after a fault that waiting can mend, or if the outcome is in doubt.
    fn again(&mut self, now: Time, fault: Fault, in_doubt: bool) -> RetryDecision {
        match fault {
            Fault::Redirects { last, .. } => {
                self.redirects += 1;
                let e = self.fault(Fault::Redirects { hops: self.redirects, last });
                let is_new = !self.retry.is_in_trouble();
                match self.redirects {
                    // The first redirect is how leaders are found; after a second one in a row the cluster needs time to settle.
                    1 if self.retry.retry_at_once(now, &self.policy) || is_new => Ok(e),
                    _ => self.try_again(now, e),
                }
            }
            fault if in_doubt || fault.is_retryable() => self.try_again(now, self.fault(fault)),
            fault => Err(self.fault(fault)),
        }
    }

    fn try_again(&mut self, now: Time, error: Error) -> RetryDecision {
        // Of several bundles that come back for the same reason, only the first counts.
        let is_counted = self.bundles.iter().any(|bundle| matches!(bundle.stage, Stage::Returned(Ok(_))));
        if is_counted || self.retry.retry_or_fail(now, &self.policy).is_some() { Ok(error) } else { Err(error) }
    }

    /// Notes trouble of a bundle in flight or of the partition, or gives it up.
    fn conclude(&mut self, index: Option<usize>, again: RetryDecision) {
        if let Ok(e) = &again {
            self.trouble = Some(e.clone());
        }
        match index.and_then(|index| self.bundles.get_mut(index)) {
            Some(bundle) => {
                self.numbering.iter_mut().for_each(|numbering| numbering.unsure |= bundle.at_large);
                bundle.stage = Stage::Returned(again);
            }
            None => again.err().into_iter().for_each(|e| self.give_up(e)),
        }
    }

    /// Fails the bundles that are held, and those that wait.
    fn give_up(&mut self, error: Error) {
        let held = self.bundles.iter().take_while(|bundle| bundle.is_held()).count();
        let waiting = self.bundles.iter().position(Bundle::is_waiting);
        debug_assert!(held > 0 || waiting.is_some(), "nothing is left to tell the error of");
        for index in (0..held).chain(waiting) {
            self.conclude(Some(index), Err(error.clone()));
        }
    }

    /// Returns the error to report: as an unknown outcome if the bundle may be stored nevertheless.
    fn failure_of(&self, bundle: &Bundle, error: Error) -> Error {
        let is_said = error.kind == ErrorKind::OutcomeUnknown || !bundle.may_be_stored();
        if is_said { error } else { Error::unknown(&self.topic, self.partition, error) }
    }

    /// Once every answer has come, takes back what can be sent again, or after a failure reports everything that is left.
    fn settle(&mut self) {
        if self.is_in_flight() {
            return;
        }
        self.leader = None;
        let cause = |bundle: &Bundle| bundle.failure().map(|e| self.failure_of(bundle, e.clone()));
        let Some(cause) = self.bundles.iter().find_map(cause) else {
            let returned = self.bundles.iter_mut().filter(|bundle| !bundle.is_held());
            returned.for_each(|bundle| bundle.stage = Stage::Waiting);
            return;
        };
        // The records were accepted, so they can be sealed.
        let _ = self.seal(&mut Spares::default());
        for mut bundle in mem::take(&mut self.bundles) {
            let error = match mem::take(&mut bundle.stage) {
                Stage::Returned(Ok(e) | Err(e)) => self.failure_of(&bundle, e),
                Stage::Held => self.failure_of(&bundle, self.fault(Fault::NotConfirmed)),
                _ if bundle.may_be_stored() => self.failure_of(&bundle, cause.clone()),
                _ => Error::new(ErrorKind::NotSent).about(&self.topic, self.partition).because(cause.clone()),
            };
            self.resolve(bundle, Err(error));
        }
    }
}
