//! A bundle on its way through a queue: its bytes as they are sent, and what is known about it.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::net::Piece;
use crate::protocol::DecodeError;
use crate::protocol::bundle::{BundleBuilder, Compression, Entry, unpack};

/// A leader, by its index in the driver's list.
pub(super) type LeaderIndex = usize;

/// Records sealed for sending.
///
/// A bundle of an idempotent producer is sealed with the number 1 and gets its own number when it is first sent. Its records are
/// numbered without gaps, so only the first number in the header changes.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    pub(super) stage: Stage,
    /// The bundle, from `at` on.
    pub(super) memory: Arc<Vec<u8>>,
    at: usize,
    pub(super) count: u32,
    /// Bytes that count as pending: its message set before compression, and the spare capacity of its memory, which is not given
    /// back.
    pub(super) size: usize,
    /// The numbers of its first and last record, if it has numbers.
    pub(super) range: Option<(u64, u64)>,
    /// Whether a later one was stored. Sent again now, it would be out of order.
    pub(super) later_one_stored: bool,
    /// Whether a copy was sent and got no clear answer: it may be stored, or may still be.
    pub(super) outcome_open: bool,
    /// The leader whose log has it unconfirmed.
    pub(super) held_at: Option<LeaderIndex>,
}

/// How far a bundle has come.
#[derive(Debug, Default)]
pub(super) enum Stage {
    #[default]
    Waiting,
    /// Sent with this request.
    InFlight(u32),
    /// In the leader's log, but not confirmed by its replicas.
    Held,
    /// Back: once the answers to the others have come, it is sent again, or fails with them.
    Returned(Failed),
}

/// What follows a failed attempt.
#[derive(Debug, Clone)]
pub(super) enum Failed {
    Retry(Error),
    GiveUp(Error),
}

/// A decompressed message set, and where its messages lie in it.
pub(super) type Unpacked = (Vec<u8>, Vec<Entry>);

impl Bundle {
    /// Seals what `builder` has collected, and leaves it `spare` memory in exchange.
    pub(super) fn seal(builder: &mut BundleBuilder, spare: Vec<u8>, compression: Compression) -> Result<Bundle> {
        let count = builder.count();
        let set_len = builder.set_len();
        let range = builder.sparse_range();
        let (memory, at) = builder.take(compression, spare).map_err(Error::encode)?;
        let size = set_len + memory.capacity() - memory.len();
        Ok(Bundle { memory: Arc::new(memory), at, count, size, range, ..Bundle::default() })
    }

    /// Returns the bytes that are sent.
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(self.at..).unwrap_or_default()
    }

    /// Returns the same bytes, to be sent without a copy.
    pub(super) fn piece(&self) -> Piece {
        (self.memory.clone(), self.at..self.memory.len())
    }

    /// Returns the number that goes with it in a request: 0 for a dense bundle.
    pub(super) fn first_seq(&self) -> u64 {
        self.range.map_or(0, |(first, _)| first)
    }

    /// Returns the number after that of its last record, if it has numbers.
    pub(super) fn end(&self) -> Option<u64> {
        self.range.map(|(_, last)| last.saturating_add(1))
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self.stage, Stage::Held)
    }

    /// Notes that this leader has it unconfirmed.
    pub(super) fn hold(&mut self, leader: LeaderIndex) {
        self.stage = Stage::Held;
        self.held_at = Some(leader);
        self.outcome_open = false;
    }

    /// Notes that no log has it: it waits to be sent again.
    pub(super) fn requeue(&mut self) {
        self.stage = Stage::Waiting;
        self.held_at = None;
        self.outcome_open = false;
    }

    /// Returns why it fails, if it is back for good or cannot be sent again in order.
    pub(super) fn failure(&self) -> Option<&Error> {
        match &self.stage {
            Stage::Returned(Failed::Retry(e)) if self.later_one_stored => Some(e),
            Stage::Returned(Failed::GiveUp(e)) => Some(e),
            _ => None,
        }
    }

    /// Returns whether it may be in some leader's log.
    pub(super) fn may_be_stored(&self) -> bool {
        self.outcome_open || self.held_at.is_some()
    }

    /// Gives its records the numbers from `first` on.
    pub(super) fn number(&mut self, first: u64) {
        self.range = Some((first, first.saturating_add(u64::from(self.count)).saturating_sub(1)));
        // The header is never compressed: flags, the count if it is above 15, and the first number.
        let at = self.at + 1 + if self.count > 15 { crate::protocol::varint::len(self.count) } else { 0 };
        if let Some(field) = Arc::make_mut(&mut self.memory).get_mut(at..at + 8) {
            field.copy_from_slice(&first.to_le_bytes());
        }
    }

    /// Divides it after the record with the number `end`, which lies inside it.
    pub(super) fn cut(&self, end: u64) -> Option<(Bundle, Bundle)> {
        let (set, entries) = self.unpack().ok()?;
        let mut builder = BundleBuilder::default();
        let mut part = |entries: &[Entry]| {
            for entry in entries {
                builder.push_at(entry.seq, &entry.message(&set)).ok()?;
            }
            let part = Bundle::seal(&mut builder, Vec::new(), Compression::Auto).ok()?;
            Some(Bundle { held_at: self.held_at, size: 0, ..part })
        };
        let (head, tail) = entries.split_at(entries.partition_point(|entry| entry.seq <= end));
        Some((part(head)?, Bundle { size: self.size, ..part(tail)? }))
    }

    /// Decodes its records.
    pub(super) fn unpack(&self) -> Result<Unpacked, DecodeError> {
        let (set, entries) = unpack(self.bytes(), 1)?;
        Ok((set.into_owned(), entries))
    }
}

/// Memory for later bundles: a few pieces, and none that a large record has made large.
#[derive(Default)]
pub(super) struct Spares {
    pub(super) builders: Vec<BundleBuilder>,
    pub(super) buffers: Vec<Vec<u8>>,
    /// The largest piece to keep, in bytes.
    pub(super) largest: usize,
}

/// How many pieces of either kind to keep.
const MAX_SPARES: usize = 4;

impl Spares {
    pub(super) fn put_buffer(&mut self, bytes: Arc<Vec<u8>>) {
        let Some(mut bytes) = Arc::into_inner(bytes) else { return };
        bytes.clear();
        if self.buffers.len() < MAX_SPARES && bytes.capacity() <= self.largest {
            self.buffers.push(bytes);
        }
    }

    pub(super) fn put_builder(&mut self, builder: BundleBuilder) {
        if self.builders.len() < MAX_SPARES && (1..=self.largest).contains(&builder.capacity()) {
            self.builders.push(builder);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::protocol::bundle::RawMessage;

    pub(in crate::produce) fn numbered(texts: &[&str]) -> Bundle {
        let mut builder = BundleBuilder::default();
        for (seq, text) in (1..).zip(texts) {
            let raw = RawMessage { timestamp_ms: 7, key: Some(b"k"), payload: text.as_bytes() };
            builder.push_at(seq, &raw).unwrap();
        }
        Bundle { range: None, ..Bundle::seal(&mut builder, Vec::new(), Compression::Auto).unwrap() }
    }

    pub(in crate::produce) fn contents(bundle: &Bundle) -> Vec<(u64, String)> {
        let (set, entries) = bundle.unpack().unwrap();
        let text = |entry: &Entry| String::from_utf8(set[entry.payload()].to_vec()).unwrap();
        entries.iter().map(|entry| (entry.seq, text(entry))).collect()
    }

    #[test]
    fn numbers_are_given_after_sealing_whatever_the_size() {
        let long = "x".repeat(300);
        for count in [1, 2, 15, 16, 127, 128, 700] {
            for text in ["", "x", &long] {
                let mut bundle = numbered(&vec![text; count]);
                assert_eq!((bundle.range, bundle.first_seq()), (None, 0));
                bundle.number(1 << 40);
                let last = (1 << 40) + count as u64 - 1;
                assert_eq!(bundle.range, Some((1 << 40, last)));
                let back = contents(&bundle);
                assert!(back.iter().map(|(seq, _)| *seq).eq(1 << 40..=last), "{count}");
                assert!(back.iter().all(|(_, back)| back == text));
            }
        }
    }

    #[test]
    fn a_bundle_is_cut_anywhere() {
        let texts: Vec<String> = (0..40).map(|n| format!("{n} {}", "x".repeat(n))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for end in 100..139 {
            let mut bundle = numbered(&texts);
            bundle.number(100);
            bundle.held_at = Some(1);
            let whole = contents(&bundle);
            let (head, tail) = bundle.cut(end).unwrap();
            assert_eq!((head.held_at, tail.held_at), (Some(1), Some(1)));
            assert_eq!((head.size, tail.size), (0, bundle.size), "what is pending is counted once");
            assert_eq!((head.range, tail.range), (Some((100, end)), Some((end + 1, 139))));
            assert_eq!([contents(&head), contents(&tail)].concat(), whole);
        }
    }

    #[test]
    fn spares_are_few_and_small() {
        for largest in [1 << 20, 32 << 10] {
            let mut spares = Spares { largest, ..Spares::default() };
            for size in [0, 10, largest + 1, 10, 10, 10, 10, 10] {
                spares.put_buffer(Arc::new(Vec::with_capacity(size)));
            }
            assert!(
                spares.buffers.len() == MAX_SPARES && spares.buffers.iter().all(|spare| spare.capacity() <= largest)
            );
        }
    }
}
