//! What has arrived and waits to be handed out: bundles, the messages of the one that is decoded, and after them the error that
//! ends the subscription.
//!
//! ```text
//!   Fetcher ──accept──> bundles ──decode_next──> messages ──pop──> the caller
//!                                                             error, once nothing is left before it
//! ```
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used))]

use super::partitions::Partitions;
use crate::error::Error;
use crate::message::{DecodedBundle, TopicPartitions};
use crate::net::ReadBuf;
use crate::protocol::Limits;
use crate::protocol::stream::Bundle;

/// At this many bundles decoding begins, even if the answer has more.
const DECODE_AT: usize = 1024;

/// The bundles of one leader's answer, in the order in which they came, and the decoded messages of the first of them.
#[derive(Default)]
pub(super) struct Inbox {
    /// The bundles, and how many of them have been decoded. Their owners are the subscription's partitions, and their ranges lie in
    /// the read buffer's block.
    pub(super) bundles: Vec<Bundle>,
    taken: usize,
    pub(super) decoded: DecodedBundle,
    /// The partition of the decoded messages, and its position once all of them are handed out.
    index: u32,
    after: u64,
    /// What ends the subscription.
    error: Option<Error>,
}

/// What was handed out of the decoded messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) index: u32,
    pub(super) position: u64,
    pub(super) timestamp_ms: u64,
    pub(super) messages: u64,
    pub(super) bundles: u64,
}

impl Inbox {
    /// Adds the bundles of one partition found in this buffer, those from `new` on, but keeps only the wanted ones. Until all of them are
    /// decoded, the buffer takes a new block if it is read into. Returns `false` when decoding must happen first: too many bundles
    /// are waiting, or only their messages tell where the next fetch starts.
    #[inline]
    pub(super) fn accept(&mut self, new: usize, partitions: &mut Partitions, buf: &ReadBuf<TopicPartitions>) -> bool {
        let found = &mut self.bundles;
        let Some(&Bundle { owner: index, .. }) = found.get(new) else { return true };
        let is_clear = partitions.with(index, |partition, rules| partition.on_bundles(found, new, rules));
        if self.bundles.len() > new {
            self.decoded.attach(buf);
        }
        is_clear && self.bundles.len() < DECODE_AT
    }

    /// Returns whether there are bundles to decode.
    #[inline]
    pub(super) fn has_bundles(&self) -> bool {
        self.taken < self.bundles.len()
    }

    /// Returns what was handed out so far of the decoded messages, if anything.
    pub(super) fn delivered(&self) -> Option<Delivered> {
        let taken = self.decoded.taken();
        let last = taken.last()?;
        let position = if self.decoded.has_messages() { last.seq.saturating_add(1) } else { self.after };
        let messages = taken.len() as u64;
        let bundles = self.decoded.good().bundles;
        Some(Delivered { index: self.index, position, timestamp_ms: last.timestamp_ms, messages, bundles })
    }

    /// Forgets the decoded messages, and releases the buffer once all bundles are decoded.
    pub(super) fn release(&mut self) {
        self.decoded.clear();
        if !self.has_bundles() {
            self.bundles.clear();
            self.taken = 0;
            self.decoded.detach();
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.error = None;
        self.taken = self.bundles.len();
        self.release();
    }

    /// Decodes bundles until there are messages to hand out, at most `max`. Returns how many there are.
    pub(super) fn decode_next(&mut self, partitions: &mut Partitions, limits: &Limits, max: u64) -> u64 {
        self.release();
        while self.decoded.entries().is_empty() && self.decode_one(partitions, limits, max) {}
        let count = self.decoded.entries().len() as u64;
        if count == 0 {
            // The next bundles may lie in another block.
            self.release();
        }
        count
    }

    /// Decodes the next bundle. Returns whether there is one.
    fn decode_one(&mut self, partitions: &mut Partitions, limits: &Limits, max: u64) -> bool {
        let Some(bundle) = self.bundles.get(self.taken) else { return false };
        let Bundle { owner: index, first, .. } = *bundle;
        self.taken += 1;
        // The time to stop at may have been found since the bundle came in.
        if partitions.get(index).ends_before(first) {
            return true;
        }
        self.index = index;
        let failure = self.decoded.decode(bundle, index, limits).err();
        let is_whole = failure.is_none() && partitions.get(index).takes_whole(bundle);
        let end = bundle.last.min(bundle.to).saturating_add(1);
        let entries = self.decoded.entries();
        let stop = partitions.with(index, |partition, rules| partition.stop_at_time(first, entries, rules));
        let wanted = stop.unwrap_or(entries.len());
        self.decoded.truncate(wanted.min(usize::try_from(max).unwrap_or(usize::MAX)));
        let hands_out_all = is_whole && stop.is_none() && wanted as u64 <= max;
        if let Some(last) = self.decoded.entries().last() {
            self.after = if hands_out_all { end } else { last.seq.saturating_add(1) };
            if !is_whole {
                partitions.with(index, |partition, rules| partition.on_messages(rules));
            }
        } else if hands_out_all {
            partitions.with(index, |partition, _| partition.advance(end));
        }
        if let Some(e) = failure {
            if stop.is_none() {
                // It comes before everything else that has arrived.
                self.error = Some(partitions.get(index).malformed(e, &partitions.rules));
                self.taken = self.bundles.len();
            }
        }
        true
    }

    /// Ends the subscription with this error, after everything that came before it. The first error counts.
    pub(super) fn fail(&mut self, e: Error) {
        self.error.get_or_insert(e);
    }

    /// Returns whether there is an error and nothing left before it.
    pub(super) fn is_error_due(&self) -> bool {
        self.error.is_some() && !self.has_bundles() && !self.decoded.has_messages()
    }

    /// Takes the error, once nothing is left before it.
    pub(super) fn take_error(&mut self) -> Option<Error> {
        let is_due = self.is_error_due();
        self.error.take_if(|_| is_due)
    }
}

#[cfg(test)]
mod tests;
