//! What an outcome means for a [`PartitionQueue`]: stored, held, again, or failed, and when to stop trying.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::bundle::{BrokerId, Bundle, Spares};
use super::numbering::Numbering;
use super::queue::{Delivery, InFlight, PartitionQueue, ToSend};
use crate::error::{Error, Fault};
use crate::net::Time;

/// What a broker answers about a partition: the number that was asked for, or for a bundle that it is stored; or why not.
pub(super) type Reply = std::result::Result<u64, Fault>;

/// Trouble after which to try again, or the error itself once the budget is spent, or if trying again is no use.
type Again = std::result::Result<Error, Error>;

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
                // Who leads now is not known, but it may be another one.
                self.numbering.iter_mut().for_each(Numbering::doubt);
                let again = self.again(now, fault, false);
                self.conclude(None, again);
            }
            (_, None, None) => {}
        }
        self.settle();
    }

    /// Takes in that the connection with this request was lost, and was reset. If it was not `handed_over`, the broker has not
    /// got all of it.
    pub(super) fn on_lost(&mut self, now: Time, id: u32, error: &Error, handed_over: bool) {
        let index = self.index_of(id);
        if index.is_none() && self.question.take_if(|(question, _)| *question == id).is_none() {
            return;
        }
        self.redirects = 0;
        let flying = index.and_then(|index| self.in_flight.get_mut(index)).filter(|_| handed_over);
        let is_in_doubt = flying.map(|flying| flying.bundle.at_large = true).is_some();
        let again = match is_in_doubt && self.numbering.is_none() {
            true => Err(error.clone()),
            false => self.try_again(now, error.clone()),
        };
        self.conclude(index, again);
        self.settle();
    }

    /// Takes in that no connection could be opened; how many brokers are known.
    pub(super) fn on_unreachable(&mut self, now: Time, error: &Error, brokers: usize) {
        // Not the redirects in a row: one that leads to a leader that is gone needs time as much as two in a row do.
        self.unsent += 1;
        let others = self.unsent % brokers.max(1) != 0;
        let again = match error.is_transient() {
            _ if others && self.retry.retry_at_once(now, &self.policy) => Ok(error.clone()),
            true => self.try_again(now, error.clone()),
            false => Err(error.clone()),
        };
        self.conclude(None, again);
        self.settle();
    }

    /// Gives up what still waits to be connected once the budget has ended.
    pub(super) fn give_up_if_expired(&mut self, now: Time) {
        if self.has_work() && self.retry.gives_up_at(&self.policy) <= now {
            let e = self.trouble.take().unwrap_or_else(|| self.fault(Fault::NoLeader));
            self.give_up(e);
            self.settle();
        }
    }

    /// The end of this leader's own log.
    fn on_end(&mut self, leader: BrokerId, end: u64) {
        let Some(numbering) = &mut self.numbering else { return };
        match numbering.compare(leader, end, &mut self.waiting) {
            Ok((gap, stored)) => {
                self.deliveries.extend(gap.map(|(first, last)| Delivery::Gap(first, last)));
                stored.into_iter().for_each(|bundle| self.deliver(bundle));
            }
            Err(another_writer) => self.give_up(self.fault(another_writer)),
        }
    }

    /// The mark up to which replicas have confirmed.
    fn on_mark(&mut self, now: Time, mark: u64) {
        let Some(numbering) = &mut self.numbering else { return };
        let confirmed = numbering.confirm(mark);
        let is_confirmed = numbering.held().is_empty();
        confirmed.into_iter().for_each(|bundle| self.deliver(bundle));
        if !is_confirmed {
            let again = self.try_again(now, self.fault(Fault::NotConfirmed));
            self.conclude(None, again);
        }
    }

    fn on_refused(&mut self, now: Time, index: usize, fault: Fault) {
        let Some(InFlight { bundle, .. }) = self.in_flight.get_mut(index) else { return };
        // This copy is not stored, but another one may be.
        let in_doubt = bundle.at_large && self.numbering.is_some();
        let again = match fault {
            Fault::NotConfirmed if self.numbering.is_some() => return self.on_held(now, index),
            Fault::NotConfirmed | Fault::System => {
                bundle.at_large = true;
                Err(self.fault(fault))
            }
            Fault::SeqNotAbove { .. } => {
                let seq = bundle.first_seq();
                self.numbering.iter_mut().filter(|_| !in_doubt).for_each(Numbering::meet_another_writer);
                self.again(now, Fault::SeqNotAbove { seq }, in_doubt)
            }
            fault => self.again(now, fault, in_doubt),
        };
        self.conclude(Some(index), again);
    }

    fn index_of(&self, id: u32) -> Option<usize> {
        self.in_flight.iter().position(|flying| flying.id == id && flying.refused.is_none())
    }

    fn fault(&self, fault: Fault) -> Error {
        let partition = Some(self.partition).filter(|_| fault != Fault::UnknownTopic);
        let e = Error::broker(&self.topic, partition, fault);
        self.answered_by.iter().fold(e, Error::at)
    }

    fn deliver(&mut self, bundle: Bundle) {
        self.stored = self.stored.max(bundle.order);
        self.retry.reset();
        self.redirects = 0;
        self.trouble = None;
        self.deliveries.push_back(Delivery::Stored(bundle));
    }

    fn on_stored(&mut self, index: usize) {
        // Replicas fetch in order: past this one they are past all before.
        self.take_held().into_iter().for_each(|bundle| self.deliver(bundle));
        if let Some(flying) = self.in_flight.remove(index) {
            self.deliver(flying.bundle);
        }
    }

    fn on_held(&mut self, now: Time, index: usize) {
        if let (Some(numbering), Some(flying)) = (&mut self.numbering, self.in_flight.remove(index)) {
            numbering.hold(flying.bundle);
        }
        let e = self.fault(Fault::NotConfirmed);
        let again = if self.retry.retry_at_once(now, &self.policy) { Ok(e) } else { Err(e) };
        self.conclude(None, again);
    }

    fn take_held(&mut self) -> VecDeque<Bundle> {
        self.numbering.as_mut().map(Numbering::take_held).unwrap_or_default()
    }

    /// Tries again after what waiting can mend, and where the outcome is in doubt.
    fn again(&mut self, now: Time, fault: Fault, in_doubt: bool) -> Again {
        match fault {
            Fault::Redirects { last, .. } => {
                self.redirects += 1;
                let e = self.fault(Fault::Redirects { hops: self.redirects, last });
                match self.redirects {
                    // The first is how leaders are found; a second one in a row needs time to settle.
                    1 if self.retry.retry_at_once(now, &self.policy) => Ok(e),
                    _ => self.try_again(now, e),
                }
            }
            fault if in_doubt || fault.is_retryable() => self.try_again(now, self.fault(fault)),
            fault => Err(self.fault(fault)),
        }
    }

    fn try_again(&mut self, now: Time, error: Error) -> Again {
        // Of several that come back for the same reason only the first counts.
        let is_counted = self.in_flight.iter().any(|flying| flying.refused.is_some());
        if is_counted || self.retry.retry_or_fail(now, &self.policy).is_some() { Ok(error) } else { Err(error) }
    }

    /// Notes trouble, for a bundle in flight or for the partition, or gives it up.
    fn conclude(&mut self, index: Option<usize>, again: Again) {
        match (again, index) {
            (Ok(e), _) => {
                if let Some(flying) = index.and_then(|index| self.in_flight.get_mut(index)) {
                    self.numbering.iter_mut().filter(|_| flying.bundle.at_large).for_each(Numbering::doubt);
                    flying.refused = Some(e.clone());
                }
                self.trouble = Some(e);
            }
            (Err(e), Some(index)) => {
                let failed = self.in_flight.remove(index);
                failed.into_iter().for_each(|flying| self.fail(flying.bundle, e.clone()));
            }
            (Err(e), None) => self.give_up(e),
        }
    }

    fn fail(&mut self, bundle: Bundle, error: Error) {
        let error = match error {
            Error::OutcomeUnknown { .. } => error,
            e if bundle.may_be_stored() => Error::unknown(&self.topic, self.partition, e),
            e => e,
        };
        let error = Arc::new(error);
        self.cause.get_or_insert_with(|| error.clone());
        self.failed.push((bundle, error));
    }

    /// Fails what is held, and what waits.
    fn give_up(&mut self, error: Error) {
        self.take_held().into_iter().for_each(|bundle| self.fail(bundle, error.clone()));
        match self.waiting.pop_front() {
            Some(bundle) => self.fail(bundle, error),
            None => drop(self.cause.get_or_insert_with(|| Arc::new(error))),
        }
    }

    /// Once every answer is there: takes back what can be sent again, or after a failure reports all that is left.
    fn settle(&mut self) {
        // Sending again what lies before something stored would change the order.
        let passed = |flying: &InFlight, stored| flying.refused.is_some() && flying.bundle.order < stored;
        while let Some(index) = self.in_flight.iter().position(|flying| passed(flying, self.stored)) {
            let Some(InFlight { bundle, refused: Some(e), .. }) = self.in_flight.remove(index) else { break };
            self.fail(bundle, e);
        }
        if self.in_flight.iter().any(|flying| flying.refused.is_none()) {
            return;
        }
        self.leader = None;
        let Some(cause) = self.cause.take() else {
            while let Some(flying) = self.in_flight.pop_back() {
                self.waiting.push_front(flying.bundle);
            }
            return;
        };
        while let Some(flying) = self.in_flight.pop_front() {
            let e = flying.refused.unwrap_or_else(|| (*cause).clone());
            self.fail(flying.bundle, e);
        }
        self.take_held().into_iter().for_each(|bundle| self.fail(bundle, self.fault(Fault::NotConfirmed)));
        // It was taken, so it can be sealed.
        let _ = self.seal(&mut Spares::default());
        while let Some(bundle) = self.waiting.pop_front() {
            let (topic, partition) = (self.topic.to_string(), self.partition);
            let e = match bundle.may_be_stored() {
                true => (*cause).clone(),
                false => Error::NotSent { topic, partition, source: cause.clone() },
            };
            self.fail(bundle, e);
        }
        self.failed.sort_by_key(|(bundle, _)| bundle.order);
        let failed = std::mem::take(&mut self.failed);
        self.deliveries.extend(failed.into_iter().map(|(bundle, e)| Delivery::Failed(bundle, e)));
        self.retry.reset();
        (self.question, self.trouble, self.cause) = (None, None, None);
        (self.unsent, self.redirects) = (0, 0);
    }
}
