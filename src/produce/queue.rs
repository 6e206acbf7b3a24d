//! One partition of a producer: its records in order, and what became of them.
//!
//! ```text
//!             seal()           sent()               on_code()
//!   collected ─────> waiting ─────────> in flight ────────────> stored
//!                       ^                   │  │ └──(numbered)─> held ──> stored
//!                       └── for now refused ┘  │                  │
//!                                              └──> failing <─────┘   the answers to all in flight are awaited,
//!                                                      │              then all that is not stored comes back in order
//!                                                      v
//!                                                    failed: take_back() or dropped()
//! ```
//!
//! Several bundles may be in flight. One that the broker refuses for now is sent again only if none after it was stored; until
//! that is clear nothing else is sent. Numbered bundles go one at a time, see [`numbering`](super::numbering). The shell asks
//! [`next`](PartitionQueue::next) and feeds the answers back; nothing here touches a socket or reads a clock.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::bundle::{BrokerId, Bundle, Spares};
use super::numbering::Numbering;
use crate::error::{Error, Fault, Result};
use crate::net::{BrokerAddr, RetryPolicy, RetryState, Time};
use crate::protocol::bundle::{BundleBuilder, Compression, RawMessage};
use crate::protocol::produce::ProduceCode;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct PartitionQueue {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
    pub(super) how: Sealing,
    pub(super) policy: RetryPolicy,
    collected: Option<BundleBuilder>,
    pub(super) waiting: VecDeque<Bundle>,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Where those in flight went.
    pub(super) leader: Option<BrokerId>,
    /// The broker that answered last, for errors.
    pub(super) answered_by: Option<BrokerAddr>,
    pub(super) numbering: Option<Numbering>,
    /// The question for the log's end or its mark, on its way.
    pub(super) question: Option<u32>,
    pub(super) retry: RetryState,
    /// Attempts in a row that reached no broker, and redirects in a row.
    pub(super) unsent: usize,
    pub(super) hops: u32,
    /// What went wrong last.
    pub(super) trouble: Option<Error>,
    /// Why the first bundle failed, until nothing is in flight any more.
    pub(super) cause: Option<Arc<Error>>,
    pub(super) failed: Vec<(Bundle, Arc<Error>)>,
    pub(super) deliveries: VecDeque<Delivery>,
    /// Bytes of records that are neither stored nor have failed.
    bytes: usize,
    sealed: u64,
    /// The last in order of those stored.
    pub(super) stored: u64,
    another_writer: bool,
    /// When what is collected must be sent, and when the partition last made progress: the producer's notes.
    pub(super) send_by: Time,
    pub(super) progressed: Time,
}

/// How bundles are made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sealing {
    pub(super) compression: Compression,
    /// Whether the producer gives the numbers.
    pub(super) numbering: bool,
}

/// A bundle in flight, or one that was refused for now and waits for the answers to the others.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: u32,
    pub(super) bundle: Bundle,
    pub(super) refused: Option<Error>,
}

/// What a queue wants the driver to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToSend {
    /// The first that waits.
    Bundle,
    /// The question for the end of the leader's log.
    End,
    /// The question for the mark up to which replicas have confirmed.
    Mark,
}

/// A connection that was lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost<'a> {
    pub(super) error: &'a Error,
    /// Whether all of the request may have reached the broker.
    pub(super) handed_over: bool,
    /// How long the connection had been up with nothing overdue.
    pub(super) well_for: Duration,
}

/// What became of a bundle.
#[derive(Debug)]
pub(super) enum Delivery {
    Stored(Bundle),
    Failed(Bundle, Arc<Error>),
    /// Numbers, first and last, that are missing at the end of the log.
    Gap(u64, u64),
}

impl PartitionQueue {
    pub(super) fn new(topic: Arc<str>, partition: u16, how: Sealing, policy: RetryPolicy) -> PartitionQueue {
        let numbering = how.numbering.then(Numbering::default);
        PartitionQueue { topic, partition, how, policy, numbering, send_by: Time::NEVER, ..PartitionQueue::default() }
    }

    /// Takes a record. Returns how many are collected now, and the bytes of their message set.
    #[inline]
    pub(super) fn push(&mut self, raw: &RawMessage<'_>, spares: &mut Spares) -> Result<(u32, usize)> {
        let builder = self.collected.get_or_insert_with(|| spares.builder());
        let before = builder.set_len();
        if self.how.numbering {
            builder.push_at(u64::from(builder.count()) + 1, raw).map_err(Error::encode)?;
        } else {
            builder.push(raw).map_err(Error::encode)?;
        }
        self.bytes += builder.set_len() - before;
        Ok((builder.count(), builder.set_len()))
    }

    /// Records collected, and the bytes of their message set.
    #[inline]
    pub(super) fn collected(&self) -> (u32, usize) {
        self.collected.as_ref().map_or((0, 0), |builder| (builder.count(), builder.set_len()))
    }

    /// Makes a bundle of what is collected.
    pub(super) fn seal(&mut self, spares: &mut Spares) -> Result<()> {
        self.send_by = Time::NEVER;
        let Some(mut builder) = self.collected.take() else { return Ok(()) };
        if !builder.is_empty() {
            let bundle = Bundle::seal(&mut builder, spares.buffer(), self.how.compression, self.how.numbering)?;
            self.bytes -= bundle.size;
            self.enqueue(bundle);
        }
        spares.put_builder(builder);
        Ok(())
    }

    /// Takes a sealed bundle.
    pub(super) fn enqueue(&mut self, bundle: Bundle) {
        self.sealed += 1;
        self.bytes += bundle.size;
        self.waiting.push_back(Bundle { order: self.sealed, ..bundle });
    }

    /// What to send to this leader now.
    pub(super) fn next(&mut self, now: Time, leader: BrokerId) -> Option<ToSend> {
        if !self.wants_to_send(now) {
            return None;
        }
        if let Some(numbering) = &mut self.numbering {
            if numbering.must_ask(leader, self.waiting.front()) {
                return Some(ToSend::End);
            }
            let Some(front) = self.waiting.front_mut() else {
                return (!numbering.held().is_empty()).then_some(ToSend::Mark);
            };
            numbering.assign(front);
        }
        Some(ToSend::Bundle)
    }

    /// Whether there is something to send now, to whatever leader.
    pub(super) fn wants_to_send(&self, now: Time) -> bool {
        self.has_work() && self.retry.pause_until() <= now
    }

    /// Whether there is something to send, now or later.
    pub(super) fn has_work(&self) -> bool {
        let may_go = match &self.numbering {
            Some(numbering) => {
                self.question.is_none()
                    && self.in_flight.is_empty()
                    && !(self.waiting.is_empty() && numbering.held().is_empty())
            }
            // After trouble one alone finds out whether it is over.
            None => {
                let may_follow = |flying: &InFlight| flying.refused.is_none() && !self.retry.is_in_trouble();
                !self.waiting.is_empty() && self.in_flight.iter().all(may_follow)
            }
        };
        may_go && self.cause.is_none()
    }

    /// When to look at it again if nothing arrives: at the end of its pause, and of its budget.
    pub(super) fn times(&self) -> [Time; 2] {
        [self.retry.pause_until(), self.retry.gives_up_at(&self.policy)]
    }

    /// Notes that what it wanted went to this leader.
    pub(super) fn sent(&mut self, id: u32, leader: BrokerId, what: ToSend) {
        if what != ToSend::Bundle {
            self.question = Some(id);
        } else if let Some(bundle) = self.waiting.pop_front() {
            if let Some(numbering) = &mut self.numbering {
                numbering.on_sent(leader, &bundle);
            }
            self.leader = Some(leader);
            self.in_flight.push_back(InFlight { id, bundle, refused: None });
        }
    }

    /// Takes in the code in the answer to a request, or what a question was answered with in place of a number.
    pub(super) fn on_code(&mut self, now: Time, id: u32, code: ProduceCode) {
        let Some(index) = self.index_of(id) else {
            return match code {
                ProduceCode::Redirect(last) => self.on_refused(now, id, Fault::Redirects { hops: 0, last }),
                ProduceCode::SystemError => self.on_refused(now, id, Fault::System),
                ProduceCode::UnknownPartition => self.on_refused(now, id, Fault::UnknownPartition),
                ProduceCode::UnknownTopic => self.on_refused(now, id, Fault::UnknownTopic),
                _ => self.on_refused(now, id, Fault::NoLeader),
            };
        };
        self.unsent = 0;
        let at_large = self.in_flight.get(index).is_some_and(|flying| flying.bundle.at_large);
        let numbered = self.numbering.is_some();
        match code {
            ProduceCode::Stored => self.on_stored(index),
            ProduceCode::Redirect(last) => {
                let redirected = self.redirected(now, last);
                self.not_now(index, redirected);
            }
            ProduceCode::NoLeader => self.refused_for_now(now, index, Fault::NoLeader),
            ProduceCode::InsufficientReplicas => self.refused_for_now(now, index, Fault::InsufficientReplicas),
            ProduceCode::NotConfirmed if numbered => self.on_held(now, index),
            ProduceCode::NotConfirmed => self.unknown(index, self.fault(Fault::NotConfirmed)),
            ProduceCode::SystemError => self.unknown(index, self.fault(Fault::System)),
            ProduceCode::InvalidSeq => {
                let seq = self.in_flight.get(index).map_or(0, |flying| flying.bundle.first_seq());
                self.another_writer = !at_large;
                self.refused(now, index, Fault::SeqNotAbove { seq });
            }
            ProduceCode::UnknownPartition => self.refused(now, index, Fault::UnknownPartition),
            ProduceCode::ReadOnly => self.refused(now, index, Fault::ReadOnly),
            ProduceCode::UnknownTopic => self.refused(now, index, Fault::UnknownTopic),
        }
        self.settle();
    }

    /// Takes in a fault in place of a code: the leader that an answer names may not be followed.
    pub(super) fn on_refused(&mut self, now: Time, id: u32, fault: Fault) {
        match self.index_of(id) {
            Some(index) => self.refused(now, index, fault),
            None => self.on_question_failed(now, id, fault),
        }
        self.settle();
    }

    /// Takes in that the connection with this request was lost, and was reset.
    pub(super) fn on_lost(&mut self, now: Time, id: u32, lost: Lost<'_>) {
        self.retry.was_well_for(lost.well_for);
        self.hops = 0;
        if self.question == Some(id) {
            self.question = None;
            self.pause_or_give_up(now, lost.error.clone());
        } else if let Some(index) = self.index_of(id) {
            if !lost.handed_over {
                let again = self.try_again(now, lost.error.clone());
                self.not_now(index, again);
            } else if self.numbering.is_some() {
                self.in_doubt(now, index, lost.error.clone());
            } else {
                self.unknown(index, lost.error.clone());
            }
        }
        self.settle();
    }

    /// Takes in that no connection could be opened; how many brokers are known.
    pub(super) fn on_unreachable(&mut self, now: Time, error: &Error, brokers: usize) {
        // Not the redirects in a row: one that leads to a leader that is gone needs time as much as two in a row do.
        self.unsent += 1;
        let others = self.unsent % brokers.max(1) != 0;
        if others && self.retry.retry_at_once(now, &self.policy) {
            self.trouble = Some(error.clone());
        } else if error.is_transient() {
            self.pause_or_give_up(now, error.clone());
        } else {
            self.give_up(error.clone());
        }
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

    /// Takes in the end of this leader's own log.
    pub(super) fn on_end(&mut self, leader: BrokerId, id: u32, end: u64) {
        if self.question.take_if(|question| *question == id).is_none() {
            return;
        }
        (self.unsent, self.hops) = (0, 0);
        let Some(numbering) = &mut self.numbering else { return };
        let comparison = numbering.compare(leader, end, &mut self.waiting);
        if let Some((first, last)) = comparison.gap {
            self.deliveries.push_back(Delivery::Gap(first, last));
        }
        comparison.stored.into_iter().for_each(|bundle| self.deliver(bundle));
        if comparison.another_writer {
            self.another_writer = true;
            self.give_up(self.fault(Fault::AnotherWriter { end }));
            self.settle();
        }
    }

    /// Takes in the mark up to which replicas have confirmed.
    pub(super) fn on_mark(&mut self, now: Time, id: u32, mark: u64) {
        if self.question.take_if(|question| *question == id).is_none() {
            return;
        }
        let confirmed = self.numbering.as_mut().map(|numbering| numbering.confirm(mark)).unwrap_or_default();
        confirmed.into_iter().for_each(|bundle| self.deliver(bundle));
        if self.numbering.as_ref().is_some_and(|numbering| !numbering.held().is_empty()) {
            self.pause_or_give_up(now, self.fault(Fault::NotConfirmed));
            self.settle();
        }
    }

    /// What became of a bundle, in order.
    pub(super) fn outcome(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        if let Delivery::Stored(bundle) | Delivery::Failed(bundle, _) = &delivery {
            self.bytes = self.bytes.saturating_sub(bundle.size);
        }
        Some(delivery)
    }

    /// Takes back what has failed, in order, to be sent again.
    pub(super) fn take_back(&mut self, bundle: Bundle) {
        if let Some(numbering) = self.numbering.as_mut().filter(|_| bundle.range.is_some()) {
            numbering.doubt();
            self.another_writer = false;
        }
        self.enqueue(bundle);
    }

    /// Notes what of the failures will not be sent again, in order, after the others were taken back.
    pub(super) fn dropped<'a>(&mut self, bundles: impl Iterator<Item = &'a Bundle>) {
        let another_writer = std::mem::take(&mut self.another_writer);
        let keeps = self.waiting.iter().any(|bundle| bundle.range.is_some());
        if let Some(numbering) = &mut self.numbering {
            numbering.dropped(bundles, keeps, another_writer);
        }
    }

    /// Whether no sealed bundle is unresolved.
    pub(super) fn is_idle(&self) -> bool {
        let none_held = self.numbering.as_ref().is_none_or(|numbering| numbering.held().is_empty());
        self.waiting.is_empty() && self.in_flight.is_empty() && none_held
    }

    /// Whether something has gone wrong since the last bundle was stored.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.cause.is_some() || self.retry.is_in_trouble()
    }

    /// What went wrong last, if it is tried again.
    pub(super) fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref().filter(|_| self.cause.is_none())
    }

    /// Redirects, or attempts that reached no broker, in a row.
    pub(super) fn wanders(&self) -> bool {
        self.hops > 1 || self.unsent > 0
    }

    /// Records that are neither stored nor have failed.
    pub(super) fn pending(&self) -> u64 {
        let held = self.numbering.iter().flat_map(|numbering| numbering.held());
        let sealed = self.waiting.iter().chain(self.in_flight.iter().map(|flying| &flying.bundle)).chain(held);
        let failing = self.failed.iter().map(|(bundle, _)| bundle);
        u64::from(self.collected().0) + sealed.chain(failing).map(|bundle| u64::from(bundle.count)).sum::<u64>()
    }

    /// Bytes of those records, before compression.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests;
