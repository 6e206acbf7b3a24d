//! The numbers of an idempotent producer's bundles in one partition.
//!
//! ```text
//!   unknown ──on_end──> settled ──another leader, a new connection, numbers taken back or dropped──> to be compared
//!                          ^────────────────────────────── on_end ────────────────────────────────────────┘
//! ```
//!
//! The bundles that are not resolved, in order: first those *held*, which the leader's log has unconfirmed; then those at the front
//! of the queue that have numbers. The first of these is sent next, or is in flight.
//!
//! While they are to be compared, the end of the present leader's own log is asked for, on a connection that is dialed after the
//! lost one was reset. Everything that had reached that leader is executed or dropped by then. So a bundle above the end is in no
//! log and may be sent again, and one below is ours, since no number ever names two contents.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

use std::collections::VecDeque;

use super::bundle::{Bundle, LeaderIndex};

/// Nothing is appended to a log that claims to end above this.
const LAST_END: u64 = u64::MAX - (1 << 32);

/// The numbers that the bundles of a partition get.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    /// Whether the producer gives the numbers. If not, nothing is ever asked or assigned here.
    pub(super) is_on: bool,
    /// The number of the next record to be sent for the first time, once the log's end is known.
    next: Option<u64>,
    /// The highest number that was ever sent.
    sent: u64,
    /// Numbers below this may name records that the user has dropped.
    floor: u64,
    /// The leader whose log the numbers were last compared with, on the connection that is open.
    pub(super) leader: Option<LeaderIndex>,
    /// Whether they must be compared again before anything is sent.
    pub(super) must_compare: bool,
    /// Whether the log has numbers that were not sent from here.
    pub(super) another_writer: bool,
}

/// What the end of a leader's log says.
pub(super) struct Comparison {
    /// The numbers that are missing there, first and last.
    pub(super) missing: Option<(u64, u64)>,
    /// How many bundles at the front are stored, because an earlier leader held them and a replica has them now.
    pub(super) stored: usize,
}

impl Numbering {
    /// Returns whether this leader must be asked for the end of its log before anything else is sent, given the first bundle.
    pub(super) fn must_ask(&self, leader: LeaderIndex, front: Option<&Bundle>) -> bool {
        let unresolved = front.is_some_and(|bundle| bundle.range.is_some());
        match self.next {
            _ if !self.is_on => false,
            None => front.is_some(),
            Some(_) => self.must_compare || (unresolved && self.leader != Some(leader)),
        }
    }

    /// Gives a bundle its numbers, unless it has some.
    pub(super) fn assign(&mut self, bundle: &mut Bundle) {
        if let (None, Some(next)) = (bundle.range, self.next) {
            bundle.number(next);
            self.next = bundle.end();
        }
    }

    /// Notes that a bundle was sent to this leader.
    pub(super) fn on_sent(&mut self, leader: LeaderIndex, bundle: &Bundle) {
        self.sent = self.sent.max(bundle.range.map_or(0, |(_, last)| last));
        self.leader = Some(leader);
    }

    /// Compares the numbers of the unresolved bundles with the end of this leader's log. Returns `None` if the log has numbers that
    /// were not sent from here.
    pub(super) fn compare(&mut self, id: LeaderIndex, end: u64, bundles: &mut VecDeque<Bundle>) -> Option<Comparison> {
        // Above this there would be no number left for a bundle.
        let highest = if self.next.is_some() { self.sent } else { LAST_END };
        if end > highest {
            self.another_writer = true;
            return None;
        }
        let after = end.saturating_add(1);
        if self.next.is_none() {
            self.next = Some(after.max(self.floor));
            self.sent = end.max(self.floor.saturating_sub(1));
        }
        self.must_compare = false;
        self.leader = Some(id);
        let first = bundles.front().and_then(|bundle| bundle.range).map(|(first, _)| first).or(self.next);
        let missing = first.filter(|&first| first > after).map(|first| (after, first - 1));
        cut_after(end, bundles);
        let is_below = |bundle: &Bundle| bundle.end().is_some_and(|next| next <= after);
        let below = bundles.iter().take_while(|bundle| is_below(bundle)).count();
        for bundle in bundles.iter_mut().skip(below).take_while(|bundle| bundle.range.is_some()) {
            bundle.requeue();
        }
        // Replicas fetch in order: one that has a bundle of an earlier leader has all before it.
        let is_replicated = |bundle: &Bundle| bundle.held_at.is_some_and(|holder| holder != id);
        let stored = bundles.iter().take(below).rposition(is_replicated).map_or(0, |last| last + 1);
        for bundle in bundles.iter_mut().take(below).skip(stored) {
            bundle.hold(id);
        }
        Some(Comparison { missing, stored })
    }

    /// Notes that the user has dropped these bundles, in order, and where the numbers of those end that were kept, if any were.
    ///
    /// Numbers that may be stored are never given to other records. Numbers of which every copy was refused are free again, unless
    /// later ones are kept.
    pub(super) fn dropped<'a>(&mut self, bundles: impl Iterator<Item = &'a Bundle>, kept: Option<u64>) {
        let mut free = None;
        let another_writer = std::mem::take(&mut self.another_writer);
        for bundle in bundles {
            if bundle.may_be_stored() {
                self.floor = self.floor.max(bundle.end().unwrap_or(0));
                self.must_compare = true;
                free = None;
            } else if free.is_none() {
                free = bundle.range.map(|(first, _)| first).filter(|first| kept.is_none_or(|end| end <= *first));
            }
        }
        if let Some(free) = free {
            self.next = Some(free);
            self.sent = self.sent.min(free.saturating_sub(1));
        }
        if another_writer && kept.is_none() {
            self.next = None;
        }
    }
}

/// Divides the bundle that is stored up to this number, if there is one.
fn cut_after(end: u64, bundles: &mut VecDeque<Bundle>) {
    let is_cut = |bundle: &Bundle| bundle.range.is_some_and(|(first, last)| first <= end && end < last);
    let Some(index) = bundles.iter().position(is_cut) else { return };
    if let Some((head, tail)) = bundles.get(index).and_then(|bundle| bundle.cut(end)) {
        bundles.remove(index);
        bundles.insert(index, tail);
        bundles.insert(index, head);
    }
}
