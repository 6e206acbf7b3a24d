//! The numbers of an idempotent producer's bundles in one partition.
//!
//! ```text
//!   unknown ──on_end──> settled ──a copy at large, another leader, numbers dropped──> unsure
//!                          ^──────────────────────── on_end ────────────────────────────┘
//! ```
//!
//! The bundles that are not resolved, in order: those *held*, which the leader's log has unconfirmed, and then those at the front
//! of the queue that have numbers, of which the first is *open*: sent next, or on its way. While nothing is certain, the end of
//! the present leader's own log is asked for, on a connection dialed after the one that was lost had been reset: what had
//! reached that leader is executed or dropped by then, so that a bundle above the end is in no log and may be sent again,
//! and one below is ours, since no number ever names two contents.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

use std::collections::VecDeque;

use super::bundle::{BrokerId, Bundle};
use crate::error::Fault;

/// A log that claims to end above this is no log to append to.
const LAST_END: u64 = u64::MAX - (1 << 32);

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Numbering {
    /// The number of the next record that is sent for the first time, once the log's end is known.
    next: Option<u64>,
    /// The highest number that was ever sent.
    sent: u64,
    /// Numbers below it may name records that the user has dropped.
    floor: u64,
    /// Whose log the numbers were last compared with.
    leader: Option<BrokerId>,
    /// Whether that must be done again before anything is sent.
    unsure: bool,
    held: VecDeque<Bundle>,
    another_writer: bool,
}

/// What the end of a leader's log says: numbers that are missing there, first and last, and bundles that are stored, since a
/// leader before this one held them, so that a replica has them.
pub(super) type Comparison = (Option<(u64, u64)>, Vec<Bundle>);

impl Numbering {
    /// Whether this leader must be asked for the end of its log before the bundle in front is sent.
    pub(super) fn must_ask(&self, leader: BrokerId, front: Option<&Bundle>) -> bool {
        let unresolved = !self.held.is_empty() || front.is_some_and(|bundle| bundle.range.is_some());
        match self.next {
            None => front.is_some(),
            Some(_) => self.unsure || (unresolved && self.leader != Some(leader)),
        }
    }

    /// Nothing is certain any more.
    pub(super) fn doubt(&mut self) {
        self.unsure = true;
    }

    /// The leader's log has numbers that were not sent from here.
    pub(super) fn meet_another_writer(&mut self) {
        self.another_writer = true;
    }

    /// Notes that bundles with numbers, which have failed, are to be sent again.
    pub(super) fn take_back(&mut self) {
        (self.unsure, self.another_writer) = (true, false);
    }

    /// Gives a bundle its numbers, unless it has some.
    pub(super) fn assign(&mut self, bundle: &mut Bundle) {
        if let (None, Some(next)) = (bundle.range, self.next) {
            bundle.number(next);
            self.next = bundle.end();
        }
    }

    /// Notes that a bundle was sent to this leader.
    pub(super) fn on_sent(&mut self, leader: BrokerId, bundle: &Bundle) {
        self.sent = self.sent.max(bundle.range.map_or(0, |(_, last)| last));
        self.leader = Some(leader);
    }

    /// Takes a bundle that the leader has stored unconfirmed.
    pub(super) fn hold(&mut self, mut bundle: Bundle) {
        bundle.held_at = self.leader;
        bundle.at_large = false;
        self.held.push_back(bundle);
    }

    pub(super) fn held(&self) -> &VecDeque<Bundle> {
        &self.held
    }

    /// All that were held: what the leader confirmed later makes them stored, or the partition has failed.
    pub(super) fn take_held(&mut self) -> VecDeque<Bundle> {
        std::mem::take(&mut self.held)
    }

    /// Those that lie at or below the mark up to which replicas have confirmed.
    pub(super) fn confirm(&mut self, mark: u64) -> Vec<Bundle> {
        let confirmed =
            self.held.iter().take_while(|bundle| bundle.end().is_some_and(|end| end <= mark.saturating_add(1))).count();
        self.held.drain(..confirmed).collect()
    }

    /// Compares the numbers of what is unresolved with the end of this leader's log.
    ///
    /// # Errors
    /// The log has numbers that were not sent from here.
    pub(super) fn compare(
        &mut self,
        leader: BrokerId,
        end: u64,
        waiting: &mut VecDeque<Bundle>,
    ) -> Result<Comparison, Fault> {
        let after = end.saturating_add(1);
        // Above the last number there would be none left for a bundle.
        if end > self.next.map_or(LAST_END, |_| self.sent) {
            self.another_writer = true;
            return Err(Fault::AnotherWriter { end });
        }
        if self.next.is_none() {
            self.next = Some(after.max(self.floor));
            self.sent = end.max(self.floor.saturating_sub(1));
        }
        (self.unsure, self.leader) = (false, Some(leader));
        let numbered = waiting.iter().take_while(|bundle| bundle.range.is_some()).count();
        let unresolved: Vec<Bundle> = self.take_held().into_iter().chain(waiting.drain(..numbered)).collect();
        let first = unresolved.first().and_then(|bundle| bundle.range).map(|(first, _)| first).or(self.next);
        let gap = first.filter(|&first| first > after).map(|first| (after, first - 1));
        let (mut stored, mut again) = (Vec::new(), Vec::new());
        for mut bundle in unresolved {
            let Some((first, last)) = bundle.range else { continue };
            if last <= end {
                self.on_leader(bundle, &mut stored);
                continue;
            }
            if first <= end {
                if let Ok((mut head, tail)) = bundle.cut(end) {
                    head.held_at = bundle.held_at;
                    self.on_leader(head, &mut stored);
                    bundle = tail;
                }
            }
            (bundle.at_large, bundle.held_at) = (false, None);
            again.push(bundle);
        }
        again.into_iter().rev().for_each(|bundle| waiting.push_front(bundle));
        Ok((gap, stored))
    }

    fn on_leader(&mut self, bundle: Bundle, stored: &mut Vec<Bundle>) {
        if bundle.held_at.is_some_and(|holder| Some(holder) != self.leader) {
            stored.extend(self.held.drain(..));
            stored.push(bundle);
        } else {
            self.hold(bundle);
        }
    }

    /// Notes that the user has dropped these bundles, in order, and whether others that have numbers were kept.
    ///
    /// Numbers that may be stored stay theirs for ever. Those of which every copy was refused are free again, unless later ones
    /// are kept.
    pub(super) fn dropped<'a>(&mut self, bundles: impl Iterator<Item = &'a Bundle>, keeps: bool) {
        let (mut free, another_writer) = (None, std::mem::take(&mut self.another_writer));
        for bundle in bundles {
            if bundle.may_be_stored() {
                self.floor = self.floor.max(bundle.end().unwrap_or(0));
                self.unsure = true;
                free = None;
            } else if free.is_none() {
                free = bundle.range.map(|(first, _)| first);
            }
        }
        if keeps {
            return;
        }
        if let Some(free) = free {
            self.next = Some(free);
            self.sent = self.sent.min(free.saturating_sub(1));
        }
        if another_writer {
            self.next = None;
        }
    }
}
