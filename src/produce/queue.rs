//! One partition of a producer: its records in order, and what became of them.
//!
//! ```text
//!             seal()           sent()             on_answer()
//!   collected ─────> waiting ─────────> in flight ────────────> stored
//!                       ^                   │  │ └──(numbered)─> held ──> stored
//!                       └── for now refused ┘  │                  │
//!                                              └──> failing <─────┘   the answers to all in flight are awaited,
//!                                                      │              then all that is not stored comes back in order
//!                                                      v
//!                                                    failed: take_back() or dropped()
//! ```
//!
//! Several bundles may be in flight. A bundle that the broker refuses for now is sent again only if no later one was stored; until
//! that is clear nothing else is sent. Numbered bundles go one at a time, see [`numbering`](super::numbering). The shell asks
//! [`prepare_next`](PartitionQueue::prepare_next) and feeds the answers back; nothing here touches a socket or reads a clock.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

mod outcome;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use super::bundle::{Bundle, LeaderIndex, Spares, Stage};
use super::numbering::Numbering;
use crate::error::{Error, Result};
use crate::net::{BrokerAddr, Refusal, RetryPolicy, RetryState, Time};
use crate::protocol::bundle::{BundleBuilder, Compression, LARGE, RawMessage};

/// Bytes that a bundle takes besides its own, until it is stored: here, in shared memory, and in a request.
const BUNDLE_OVERHEAD: usize = 2 * size_of::<Bundle>();

/// The room for bundles that an idle queue keeps.
const IDLE_CAPACITY: usize = 4;

/// The records of one partition, from the first that is collected to the last that is not known to be stored.
#[derive(Debug, Default)]
pub(super) struct PartitionQueue {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
    /// The broker that answered last, for errors.
    pub(super) answered_by: Option<BrokerAddr>,
    compression: Compression,
    policy: RetryPolicy,
    collected: BundleBuilder,
    /// The bundles that are not resolved, in order: those that were sent, then those that wait.
    bundles: VecDeque<Bundle>,
    /// The leader that those in flight went to.
    pub(super) leader: Option<LeaderIndex>,
    pub(super) numbering: Numbering,
    /// The id of the request with the question in flight.
    question: Option<u32>,
    retry: RetryState,
    /// Attempts in a row that reached no broker.
    unsent: usize,
    /// Redirects in a row.
    pub(super) redirects: u32,
    /// The last error, if it is being retried.
    trouble: Option<Error>,
    /// Outcomes of bundles, for the driver to take out.
    deliveries: Vec<Delivery>,
    /// Numbers, first and last, that are missing at the end of the log, for the driver to report.
    pub(super) missing: Option<(u64, u64)>,
    /// Bytes that its bundles hold, before compression.
    bytes: usize,
    /// How many bytes can be collected without a look at the limits, in memory that is already allocated and counted.
    fill_to: usize,
}

/// What a queue wants the driver to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToSend {
    /// The first bundle that waits.
    Bundle,
    /// The question for the end of the leader's log.
    End,
    /// The question for the mark up to which replicas have confirmed.
    Mark,
}

/// What a broker answers about a partition: that it did what it was asked to do, or why not.
pub(super) type Answer = Result<Reply, Refusal>;

/// What a broker did, or the number that it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// The bundle is stored.
    Stored,
    /// The last number in the leader's own log.
    LogEnd(u64),
    /// The mark up to which replicas have confirmed.
    Mark(u64),
    /// How many partitions the topic has.
    Partitions(u16),
}

/// A limit that a record would exceed, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) pending: usize,
    pub(super) limit: usize,
    /// Whether it is the limit of all partitions rather than of this one.
    pub(super) of_all: bool,
}

/// The outcome of a bundle: stored, or why not.
pub(super) type Delivery = (Bundle, Result<()>);

impl PartitionQueue {
    pub(super) fn new(topic: Arc<str>, partition: u16, compression: Compression, policy: RetryPolicy) -> Self {
        PartitionQueue { topic, partition, compression, policy, ..PartitionQueue::default() }
    }

    /// Takes a record, with its explicit number if it has one.
    #[inline(always)]
    pub(super) fn push(&mut self, seq: Option<u64>, raw: &RawMessage<'_>) -> Result<()> {
        let builder = &mut self.collected;
        // An idempotent producer numbers a bundle when it is sent.
        match seq.or_else(|| self.numbering.is_on.then(|| u64::from(builder.count()) + 1)) {
            Some(seq) => builder.push_at(seq, raw),
            None => builder.push(raw),
        }
        .map_err(Error::encode)
    }

    /// Takes memory for a bundle, unless it has some.
    pub(super) fn ensure_buffer(&mut self, spares: &mut Spares) {
        if self.collected.capacity() == 0 {
            self.collected = spares.builders.pop().unwrap_or_default();
        }
    }

    /// Returns whether a record of up to this many bytes can be collected without a look at the limits.
    #[inline]
    pub(super) fn has_room(&self, record: usize) -> bool {
        self.collected().1 + record <= self.fill_to
    }

    /// Makes room for a record of up to this many bytes, which no limit forbids, and for later ones up to two limits: `most` for this
    /// bundle, and `limit` for all queues.
    pub(super) fn make_room(&mut self, record: usize, most: usize, limit: usize, spares: &mut Spares) {
        self.ensure_buffer(spares);
        let room = self.collected.reserve(record);
        let least = self.collected.set_len() + record;
        self.fill_to = room.min(most).min((limit / 4).saturating_sub(self.bytes)).max(least);
    }

    /// Returns how many bytes it holds. Buffers count at their full capacity, and each bundle counts for more than its bytes.
    pub(super) fn held(&self) -> usize {
        self.bytes + self.collected.capacity() + self.bundles.len() * BUNDLE_OVERHEAD
    }

    /// Returns whether the bundle being collected takes another record of up to this many bytes, given the most records and bytes
    /// that it may have. An empty one takes any record.
    pub(super) fn takes(&self, record: usize, records: u32, bytes: usize) -> bool {
        let (count, len) = self.collected();
        count == 0 || (count < records && len + record <= bytes)
    }

    /// Returns the limit that a record of up to this many bytes would exceed, given what all partitions hold and may hold.
    pub(super) fn excess(&self, all: usize, bytes: usize, limit: usize) -> Option<Excess> {
        let mine = self.bytes + self.collected.set_len();
        let of_all = Excess { pending: all, limit, of_all: true };
        let of_this = Excess { pending: mine, limit: limit / 4, of_all: false };
        [of_all, of_this].into_iter().find(|excess| excess.pending > 0 && excess.pending + bytes > excess.limit)
    }

    /// Returns how many records are collected, and the bytes of their message set.
    #[inline]
    pub(super) fn collected(&self) -> (u32, usize) {
        (self.collected.count(), self.collected.set_len())
    }

    /// Makes a bundle of the collected records.
    pub(super) fn seal(&mut self, spares: &mut Spares) -> Result<()> {
        self.fill_to = 0;
        let mut builder = mem::take(&mut self.collected);
        if builder.count() > 0 {
            // A small bundle is copied to memory of its size.
            let spare = if builder.set_len() >= LARGE { spares.buffers.pop() } else { None };
            let mut bundle = Bundle::seal(&mut builder, spare.unwrap_or_default(), self.compression)?;
            // An idempotent producer gives the numbers later.
            if self.numbering.is_on {
                bundle.range = None;
            }
            self.bytes += bundle.size;
            self.bundles.push_back(bundle);
        }
        spares.put_builder(builder);
        Ok(())
    }

    /// Returns what to send to this leader now. A bundle of an idempotent producer gets its numbers here.
    pub(super) fn prepare_next(&mut self, now: Time, leader: LeaderIndex) -> Option<ToSend> {
        if !self.has_work() || self.retry.pause_until > now {
            return None;
        }
        if self.numbering.must_ask(leader, self.bundles.front()) {
            return Some(ToSend::End);
        }
        let waiting = self.bundles.iter_mut().find(|bundle| bundle.is_waiting());
        let Some(bundle) = waiting else { return Some(ToSend::Mark) };
        self.numbering.assign(bundle);
        debug_assert!(!self.numbering.is_on || !bundle.outcome_open, "a copy of it may still be executed");
        Some(ToSend::Bundle)
    }

    /// Returns the first bundle that waits to be sent.
    pub(super) fn first_waiting(&self) -> Option<&Bundle> {
        self.bundles.iter().find(|bundle| bundle.is_waiting())
    }

    /// Returns whether there is something to send, now or later.
    pub(super) fn has_work(&self) -> bool {
        // After trouble, one bundle alone finds out whether it is over.
        let may_follow = |bundle: &Bundle| match bundle.stage {
            Stage::Held => true,
            Stage::InFlight(_) => !self.numbering.is_on && !self.retry.is_in_trouble(),
            _ => false,
        };
        self.bundles.back().is_some_and(|last| matches!(last.stage, Stage::Waiting | Stage::Held))
            && self.question.is_none()
            && self.sent_bundles().all(may_follow)
    }

    fn sent_bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.bundles.iter().take_while(|bundle| !bundle.is_waiting())
    }

    /// Returns the moment before which nothing is sent.
    pub(super) fn pause_until(&self) -> Time {
        self.retry.pause_until
    }

    /// Returns when it gives up; `NEVER` without trouble.
    pub(super) fn gives_up_at(&self) -> Time {
        self.retry.gives_up_at(&self.policy)
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.sent_bundles().any(|bundle| matches!(bundle.stage, Stage::InFlight(_)))
    }

    /// Returns the index of the bundle that was sent with this request.
    pub(super) fn index_of(&self, request: u32) -> Option<usize> {
        self.sent_bundles().position(|bundle| matches!(bundle.stage, Stage::InFlight(id) if id == request))
    }

    /// Notes that what it wanted was sent to this leader.
    pub(super) fn sent(&mut self, id: u32, leader: LeaderIndex, what: ToSend) {
        if what != ToSend::Bundle {
            self.question = Some(id);
        } else if let Some(bundle) = self.bundles.iter_mut().find(|bundle| bundle.is_waiting()) {
            self.numbering.on_sent(leader, bundle);
            self.leader = Some(leader);
            bundle.stage = Stage::InFlight(id);
        }
    }

    /// Counts bundles as held by this leader if they are held by one that is the same broker.
    pub(super) fn move_held(&mut self, to: LeaderIndex, is_same: impl Fn(LeaderIndex) -> bool) {
        for bundle in self.bundles.iter_mut().take_while(|bundle| bundle.range.is_some()) {
            if bundle.held_at.is_some_and(&is_same) {
                bundle.held_at = Some(to);
            }
        }
    }

    /// Takes back a failed bundle, to send it again. They come in order.
    pub(super) fn take_back(&mut self, mut bundle: Bundle) {
        if bundle.range.is_some() {
            self.numbering.must_compare = true;
            self.numbering.another_writer = false;
        }
        self.bytes += bundle.size;
        self.fill_to = 0;
        bundle.later_one_stored = false;
        self.bundles.push_back(bundle);
    }

    /// Notes the failures that will not be sent again, in order, after the others were taken back.
    pub(super) fn dropped<'a>(&mut self, bundles: impl Iterator<Item = &'a Bundle>) {
        let kept = self.bundles.iter().filter_map(Bundle::end).max();
        self.numbering.dropped(bundles, kept);
    }

    /// Returns the number of records that are neither stored nor have failed.
    pub(super) fn pending(&self) -> u64 {
        u64::from(self.collected().0) + self.bundles.iter().map(|bundle| u64::from(bundle.count)).sum::<u64>()
    }

    /// Returns whether every sealed bundle is resolved.
    pub(super) fn is_idle(&self) -> bool {
        self.bundles.is_empty()
    }

    /// Returns the outcomes of bundles, and gives back the memory of the list: there may be thousands of queues.
    pub(super) fn take_deliveries(&mut self) -> Vec<Delivery> {
        self.bundles.shrink_to(IDLE_CAPACITY);
        mem::take(&mut self.deliveries)
    }

    /// Returns whether everything that is not stored comes back once nothing is in flight any more.
    pub(super) fn is_failing(&self) -> bool {
        self.sent_bundles().any(|bundle| bundle.failure().is_some())
    }

    /// Returns the last error, if it is being retried. While other answers are awaited before it fails, there is none.
    pub(super) fn trouble(&self) -> Option<&Error> {
        if self.is_failing() { None } else { self.trouble.as_ref() }
    }

    /// Returns whether something has gone wrong since the last bundle was stored.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.is_failing() || self.retry.is_in_trouble()
    }
}

#[cfg(test)]
mod tests;
