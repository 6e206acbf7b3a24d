//! What an outcome means for a [`PartitionQueue`]: stored, held, again, or failed, and when to stop trying.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

use std::net::SocketAddrV4;
use std::sync::Arc;

use super::bundle::{Bundle, Spares};
use super::numbering::Numbering;
use super::queue::{Delivery, InFlight, PartitionQueue};
use crate::error::{Error, Fault};
use crate::net::Time;

/// Noted trouble, to be tried again, or the error itself once the budget is spent.
type Again = std::result::Result<Error, Error>;

impl PartitionQueue {
    /// A question was answered with a fault.
    pub(super) fn on_question_failed(&mut self, now: Time, id: u32, fault: Fault) {
        if self.question.take_if(|question| *question == id).is_none() {
            return;
        }
        self.unsent = 0;
        if let Some(numbering) = &mut self.numbering {
            // Who leads now is not known, but it may be another one.
            numbering.doubt();
        }
        match fault {
            Fault::Redirects { last, .. } => {
                let redirected = self.redirected(now, last);
                self.go_on_or_give_up(redirected);
            }
            fault if fault.is_retryable() => self.pause_or_give_up(now, self.fault(fault)),
            fault => self.give_up(self.fault(fault)),
        }
    }

    pub(super) fn index_of(&self, id: u32) -> Option<usize> {
        self.in_flight.iter().position(|flying| flying.id == id && flying.refused.is_none())
    }

    pub(super) fn fault(&self, fault: Fault) -> Error {
        let partition = Some(self.partition).filter(|_| fault != Fault::UnknownTopic);
        let e = Error::broker(&self.topic, partition, fault);
        self.answered_by.iter().fold(e, Error::at)
    }

    pub(super) fn deliver(&mut self, bundle: Bundle) {
        self.stored = self.stored.max(bundle.order);
        self.retry.reset();
        self.hops = 0;
        self.trouble = None;
        self.deliveries.push_back(Delivery::Stored(bundle));
    }

    pub(super) fn on_stored(&mut self, index: usize) {
        // Replicas fetch in order: past this one they are past all before.
        let held = self.numbering.as_mut().map(Numbering::take_held).unwrap_or_default();
        held.into_iter().for_each(|bundle| self.deliver(bundle));
        if let Some(flying) = self.in_flight.remove(index) {
            self.deliver(flying.bundle);
        }
    }

    pub(super) fn on_held(&mut self, now: Time, index: usize) {
        self.hops = 0;
        if let (Some(numbering), Some(flying)) = (&mut self.numbering, self.in_flight.remove(index)) {
            numbering.hold(flying.bundle);
        }
        let in_time = self.retry.retry_at_once(now, &self.policy);
        self.trouble = Some(self.fault(Fault::NotConfirmed));
        if !in_time {
            self.give_up(self.fault(Fault::NotConfirmed));
        }
    }

    /// Notes trouble; the error itself once the budget is spent.
    pub(super) fn try_again(&mut self, now: Time, error: Error) -> Again {
        // Of several that come back for the same reason only the first counts.
        let is_counted = self.in_flight.iter().any(|flying| flying.refused.is_some());
        if is_counted || self.retry.retry_or_fail(now, &self.policy).is_some() { Ok(error) } else { Err(error) }
    }

    /// Notes a redirect: the first is how leaders are found; a second one in a row needs time to settle.
    pub(super) fn redirected(&mut self, now: Time, last: SocketAddrV4) -> Again {
        self.hops += 1;
        let e = self.fault(Fault::Redirects { hops: self.hops, last });
        match self.hops {
            1 if self.retry.retry_at_once(now, &self.policy) => Ok(e),
            _ => self.try_again(now, e),
        }
    }

    pub(super) fn refused_for_now(&mut self, now: Time, index: usize, fault: Fault) {
        self.hops = 0;
        let again = self.try_again(now, self.fault(fault));
        self.not_now(index, again);
    }

    pub(super) fn refused(&mut self, now: Time, index: usize, fault: Fault) {
        match self.in_flight.get(index) {
            // This copy is not stored, but another one may be.
            Some(flying) if self.numbering.is_some() && flying.bundle.at_large => {
                self.in_doubt(now, index, self.fault(fault))
            }
            _ => self.fail(index, self.fault(fault)),
        }
    }

    pub(super) fn not_now(&mut self, index: usize, again: Again) {
        match again {
            Ok(e) => {
                if let Some(flying) = self.in_flight.get_mut(index) {
                    if let Some(numbering) = self.numbering.as_mut().filter(|_| flying.bundle.at_large) {
                        numbering.doubt();
                    }
                    self.trouble = Some(e.clone());
                    flying.refused = Some(e);
                }
            }
            Err(e) => self.fail(index, e),
        }
    }

    pub(super) fn in_doubt(&mut self, now: Time, index: usize, error: Error) {
        if let Some(flying) = self.in_flight.get_mut(index) {
            flying.bundle.at_large = true;
        }
        let again = self.try_again(now, error);
        self.not_now(index, again);
    }

    pub(super) fn unknown(&mut self, index: usize, error: Error) {
        if let Some(flying) = self.in_flight.get_mut(index) {
            flying.bundle.at_large = true;
        }
        self.fail(index, error);
    }

    pub(super) fn fail(&mut self, index: usize, error: Error) {
        if let Some(flying) = self.in_flight.remove(index) {
            self.fail_bundle(flying.bundle, error);
        }
    }

    pub(super) fn fail_bundle(&mut self, bundle: Bundle, error: Error) {
        let error = match error {
            Error::OutcomeUnknown { .. } => error,
            e if bundle.may_be_stored() => Error::unknown(&self.topic, self.partition, e),
            e => e,
        };
        let error = Arc::new(error);
        self.cause.get_or_insert_with(|| error.clone());
        self.failed.push((bundle, error));
    }

    pub(super) fn pause_or_give_up(&mut self, now: Time, error: Error) {
        let again = self.try_again(now, error);
        self.go_on_or_give_up(again);
    }

    pub(super) fn go_on_or_give_up(&mut self, again: Again) {
        match again {
            Ok(e) => self.trouble = Some(e),
            Err(e) => self.give_up(e),
        }
    }

    /// Fails what is held, and what waits.
    pub(super) fn give_up(&mut self, error: Error) {
        let held = self.numbering.as_mut().map(Numbering::take_held).unwrap_or_default();
        held.into_iter().for_each(|bundle| self.fail_bundle(bundle, error.clone()));
        match self.waiting.pop_front() {
            Some(bundle) => self.fail_bundle(bundle, error),
            None => drop(self.cause.get_or_insert_with(|| Arc::new(error))),
        }
    }

    /// Once every answer is there: takes back what can be sent again, or after a failure reports all that is left.
    pub(super) fn settle(&mut self) {
        // Sending again what lies before something stored would change the order.
        let passed = |flying: &InFlight, stored| flying.refused.is_some() && flying.bundle.order < stored;
        while let Some(index) = self.in_flight.iter().position(|flying| passed(flying, self.stored)) {
            let Some(InFlight { bundle, refused: Some(e), .. }) = self.in_flight.remove(index) else { break };
            self.fail_bundle(bundle, e);
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
            self.fail_bundle(flying.bundle, e);
        }
        for bundle in self.numbering.as_mut().map(Numbering::take_held).unwrap_or_default() {
            self.fail_bundle(bundle, self.fault(Fault::NotConfirmed));
        }
        // It was taken, so it can be sealed.
        let _ = self.seal(&mut Spares::default());
        while let Some(bundle) = self.waiting.pop_front() {
            let (topic, partition) = (self.topic.to_string(), self.partition);
            let e = match bundle.may_be_stored() {
                true => (*cause).clone(),
                false => Error::NotSent { topic, partition, source: cause.clone() },
            };
            self.fail_bundle(bundle, e);
        }
        self.failed.sort_by_key(|(bundle, _)| bundle.order);
        let failed = std::mem::take(&mut self.failed);
        self.deliveries.extend(failed.into_iter().map(|(bundle, e)| Delivery::Failed(bundle, e)));
        self.retry.reset();
        (self.question, self.trouble, self.cause) = (None, None, None);
        (self.unsent, self.hops) = (0, 0);
    }
}
