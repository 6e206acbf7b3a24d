//! A partition's log at one node: its segments, and the numbers in them (reference, sections 5.4, 5.8 and 6.5).

use super::Layout;
use super::segment::{Chunk, Segment, StoredBundle};

/// A segment's numbers are kept as distances from its first one; a larger distance kills a server.
const MAX_DISTANCE: u64 = i32::MAX as u64;

/// Where a bundle was stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredAt {
    pub(super) segment: u64,
    pub(super) at: u64,
    pub(super) len: u64,
    /// Numbers of its first and last message.
    pub(super) base: u64,
    pub(super) last: u64,
    pub(super) sparse: bool,
}

/// What a log says to a wanted number.
#[derive(Debug)]
pub(super) enum Lookup {
    Data(Chunk),
    /// Exactly at the end.
    End,
    OutOfRange,
    /// A server dies of it.
    Deadly(&'static str),
}

/// Why a bundle was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendError {
    /// A number that is not above the last one, or a range that runs backwards.
    Number,
    /// A server dies of it.
    Deadly(&'static str),
}

/// A partition's log at one node.
#[derive(Debug, Default, Clone)]
pub(super) struct Log {
    segments: Vec<Segment>,
    /// How many segments there have been.
    segments_made: u64,
    /// 0 if there never was a message.
    pub(super) first_available: u64,
    /// Last number assigned.
    pub(super) last: u64,
    /// The high-water mark of empty answers, which counts a bundle's messages only modulo 65,536.
    pub(super) mark: u64,
    /// Whether the last segment takes no more bundles.
    closed: bool,
}

impl Log {
    /// Stores a bundle, numbered by itself, from `first_seq` on, or if that is 0 after the last one; refuses numbers that
    /// are not above `floor`.
    pub(super) fn append(
        &mut self,
        bundle: &StoredBundle,
        first_seq: u64,
        floor: u64,
        layout: Layout,
    ) -> Result<StoredAt, AppendError> {
        let head = bundle.head;
        let (first, last) = match head.sparse {
            Some((first, last)) if last < first => return Err(AppendError::Number),
            Some(range) => range,
            None => {
                let first = if first_seq == 0 { self.last + 1 } else { first_seq };
                (first, first.checked_add(u64::from(head.count) - 1).ok_or(AppendError::Number)?)
            }
        };
        if first <= floor || last == u64::MAX {
            return Err(AppendError::Number);
        }
        if self.must_roll(layout) {
            self.roll(first);
        } else if let Some(active) = self.segments.last() {
            if head.sparse.is_some() && last.saturating_sub(active.base) > MAX_DISTANCE {
                return Err(AppendError::Deadly("a sparse bundle 2^31 or more above its segment's first number"));
            }
        }
        let Some(active) = self.segments.last_mut() else { return Err(AppendError::Number) };
        let (at, len) = active.push(first, last, bundle.clone(), layout.index_interval);
        let segment = active.id;
        self.last = last;
        self.mark = first.wrapping_add(u64::from(head.count & 0xffff)).wrapping_sub(1);
        Ok(StoredAt { segment, at, len, base: first, last, sparse: head.sparse.is_some() })
    }

    fn must_roll(&self, layout: Layout) -> bool {
        self.closed || self.segments.last().is_none_or(|active| active.len() > layout.segment_bytes)
    }

    /// Makes the next bundle begin a segment.
    pub(super) fn close_segment(&mut self) {
        self.closed = true;
    }

    /// Begins a segment with the number `first`.
    fn roll(&mut self, first: u64) {
        if self.first_available == 0 {
            self.first_available = first;
        }
        self.closed = false;
        self.segments.push(Segment::new(self.segments_made, first));
        self.segments_made += 1;
    }

    /// Stores dense bundles `times` over, in a segment of its own that holds them once.
    pub(super) fn append_repeated(
        &mut self,
        bundles: &[StoredBundle],
        times: u64,
        layout: Layout,
    ) -> Result<(), AppendError> {
        let base = self.last + 1;
        let mut segment = Segment::new(self.segments_made, base);
        let mut next = base;
        for bundle in bundles {
            if bundle.head.sparse.is_some() {
                return Err(AppendError::Number);
            }
            let after = bundle.head.next(next);
            segment.push(next, after - 1, bundle.clone(), layout.index_interval);
            next = after;
        }
        // No file is longer.
        let fits = segment.set_len.checked_mul(times).is_some_and(|len| len <= i64::MAX as u64);
        if times == 0 || segment.set.is_empty() || !fits {
            return Err(AppendError::Number);
        }
        segment.times = times;
        let last = segment.set_span.checked_mul(times).and_then(|span| base.checked_add(span - 1));
        segment.last = last.filter(|&last| last < u64::MAX).ok_or(AppendError::Number)?;
        self.last = segment.last;
        self.mark = segment.last;
        if self.first_available == 0 {
            self.first_available = base;
        }
        self.closed = true;
        self.segments_made += 1;
        self.segments.push(segment);
        Ok(())
    }

    /// What is sent to a reader that wants `seq`, 0 for the first message there is.
    pub(super) fn find(&self, seq: u64, fetch_size: u32, cut: bool) -> Lookup {
        let fetch_size = u64::from(fetch_size);
        let mut seq = if seq == 0 { self.first_available } else { seq };
        if seq == 0 || seq == self.last + 1 {
            return Lookup::End;
        }
        if seq > self.last || seq < self.first_available {
            return Lookup::OutOfRange;
        }
        let Some((active, closed)) = self.segments.split_last() else { return Lookup::OutOfRange };
        if seq >= active.base {
            return Lookup::Data(active.find(seq, fetch_size, self.last, cut));
        }
        let at_or_below = closed.partition_point(|segment| segment.base <= seq);
        if at_or_below == 0 {
            let first = closed.first().unwrap_or(active);
            return Lookup::Data(first.chunk(0, first.len(), first.base, false));
        }
        for (index, segment) in closed.iter().enumerate().skip(at_or_below - 1) {
            if index >= at_or_below {
                seq = segment.base;
            }
            if seq <= segment.last {
                return Lookup::Data(segment.find(seq, fetch_size, self.last, cut));
            }
        }
        Lookup::Deadly("a number in the gap between the last closed segment and the active one")
    }

    /// What lies at a place it named before, as far as it is still there.
    pub(super) fn chunk(&self, stretch: &StoredAt) -> Option<Chunk> {
        let segment = self.segments.iter().rev().find(|segment| segment.id == stretch.segment)?;
        Some(segment.chunk(stretch.at, stretch.len, stretch.base, stretch.sparse))
    }

    /// What a replica is sent that has everything up to `seq`: bundles, the first of which may begin at or below it, each
    /// with the number it begins with.
    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = (u64, &StoredBundle)> {
        let segments = self.segments.iter().skip_while(move |segment| segment.last <= seq);
        let bundles = segments.flat_map(move |segment| {
            let entry = segment.entries_while(|entry, _| entry <= seq).saturating_sub(1);
            segment.bundles_from(segment.entry(entry))
        });
        bundles.filter(move |(base, bundle)| bundle.head.next(*base).wrapping_sub(1) > seq)
    }

    /// All bundles in the order of the file, each with the number it begins with as readers count.
    pub(super) fn bundles(&self) -> impl Iterator<Item = (u64, &StoredBundle)> {
        self.segments.iter().flat_map(Segment::bundles)
    }

    /// Makes `first` the first number available and lets go of the segments wholly below it.
    pub(super) fn truncate_front(&mut self, first: u64) {
        self.first_available = first;
        let active = self.segments.pop();
        self.segments.retain(|segment| segment.last >= first);
        self.segments.extend(active);
    }

    /// Lets go of every bundle with a number above `last`.
    pub(super) fn truncate_back(&mut self, last: u64, layout: Layout) {
        let mut shorter =
            Log { first_available: self.first_available, segments_made: self.segments_made, ..Log::default() };
        // A segment is closed by hand here, never by its size.
        let whole = Layout { segment_bytes: u64::MAX, ..layout };
        for segment in &self.segments {
            let mut rolled = false;
            for (base, bundle) in segment.bundles() {
                if bundle.head.next(base).wrapping_sub(1) > last {
                    break;
                }
                if !rolled {
                    shorter.roll(base);
                    rolled = true;
                }
                if shorter.append(bundle, base, shorter.last, whole).is_err() {
                    break;
                }
            }
        }
        if shorter.segments.is_empty() && shorter.first_available != 0 {
            shorter.last = shorter.first_available - 1;
            shorter.mark = shorter.last;
        }
        *self = shorter;
    }

    /// Puts `bundles` in the place of the closed segments, as compaction does: the first number available stays what it was.
    pub(super) fn compact(&mut self, bundles: &[StoredBundle], layout: Layout) -> Result<(), AppendError> {
        let mut front = Log { segments_made: self.segments_made, ..Log::default() };
        for bundle in bundles {
            front.append(bundle, 0, front.last, Layout { segment_bytes: u64::MAX, ..layout })?;
        }
        let active = self.segments.pop();
        self.segments = front.segments;
        self.segments_made = front.segments_made;
        self.segments.extend(active);
        Ok(())
    }

    /// Empties it: its next message is number 1 again.
    pub(super) fn clear(&mut self) {
        *self = Log { segments_made: self.segments_made, ..Log::default() };
    }

    /// Opens it as a new process does: the mark of empty answers is right again.
    pub(super) fn reopen(&mut self) {
        self.mark = self.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::bundle::{BundleBuilder, Compression, RawMessage};

    const LAYOUT: Layout = Layout { segment_bytes: 1 << 30, index_interval: 4096 };

    fn bundle(count: u8, payload: usize) -> StoredBundle {
        let mut builder = BundleBuilder::default();
        let payload = vec![b'x'; payload];
        for _ in 0..count {
            builder.push(&RawMessage { timestamp_ms: 1, key: None, payload: &payload }).unwrap();
        }
        let mut out = Vec::new();
        builder.finish(Compression::None, &mut out).unwrap();
        StoredBundle::new(&out).unwrap()
    }

    fn append(log: &mut Log, bundle: &StoredBundle, layout: Layout) -> Result<StoredAt, AppendError> {
        log.append(bundle, 0, log.last, layout)
    }

    fn data(log: &Log, seq: u64, fetch_size: u32) -> (u64, u64, u64) {
        match log.find(seq, fetch_size, false) {
            Lookup::Data(chunk) => (place(&chunk), chunk.len(), chunk.base),
            other => panic!("{other:?}"),
        }
    }

    /// Where it begins in its segment, of those that are not repeated.
    fn place(chunk: &Chunk) -> u64 {
        chunk.blocks[0][chunk.bundle].at + chunk.skip as u64
    }

    #[test]
    fn a_chunk_ends_at_an_index_entry_or_at_a_bundle() {
        let mut log = Log::default();
        let one = bundle(1, 400);
        let len = one.len();
        for _ in 0..100 {
            append(&mut log, &one, LAYOUT).unwrap();
        }
        let step = 4096 / len + 1;
        assert_eq!(data(&log, 1, 1 << 20), (0, 100 * len, 1));
        assert_eq!(data(&log, 1, 9000), (0, 2 * step * len, 1), "the last entry within the fetch size");
        assert_eq!(data(&log, 2, 1000), (len, 3 * len, 2), "no entry within it: the first bundle's end that passes it");
        assert_eq!(data(&log, 2, 0), (len, len, 2));
        assert_eq!(data(&log, 90, 10_000), (89 * len, 11 * len, 90));
    }

    #[test]
    fn a_repeated_set_reads_like_the_same_bundles_one_by_one() {
        let set: Vec<StoredBundle> = (1..=20).map(|n| bundle(n, 40 * usize::from(n))).collect();
        let mut repeated = Log::default();
        repeated.append_repeated(&set, 5, LAYOUT).unwrap();
        let mut plain = Log::default();
        for bundle in std::iter::repeat_n(&set, 5).flatten() {
            append(&mut plain, bundle, LAYOUT).unwrap();
        }
        assert_eq!((repeated.first_available, repeated.last, repeated.last), (1, plain.last, 5 * 210));
        for seq in 1..=plain.last {
            let (Lookup::Data(mut a), Lookup::Data(mut b)) =
                (repeated.find(seq, u32::MAX, false), plain.find(seq, u32::MAX, false))
            else {
                panic!("{seq}");
            };
            assert_eq!((a.len(), a.base), (b.len(), b.base));
            let (mut left, mut right) = (vec![0; 1000], vec![0; 1000]);
            let n = a.read(&mut left);
            assert_eq!(n, b.read(&mut right));
            assert_eq!(left[..n], right[..n], "{seq}");
        }
    }

    #[test]
    fn segments_numbers_and_gaps() {
        let mut log = Log::default();
        let layout = Layout { segment_bytes: 100, ..LAYOUT };
        let mut sparse = BundleBuilder::default();
        let mut one = |seq: u64| {
            let payload = [b'y'; 120];
            sparse.push_at(seq, &RawMessage { timestamp_ms: 1, key: None, payload: &payload }).unwrap();
            let mut out = Vec::new();
            sparse.finish(Compression::None, &mut out).unwrap();
            StoredBundle::new(&out).unwrap()
        };
        for seq in [5, 10, 20] {
            append(&mut log, &one(seq), layout).unwrap();
        }
        assert_eq!(log.segments.len(), 3);
        assert_eq!(append(&mut log, &one(20), layout).unwrap_err(), AppendError::Number);
        assert_eq!((log.first_available, log.last, log.mark), (5, 20, 20));
        assert!(matches!(log.find(4, 10, false), Lookup::OutOfRange));
        assert!(matches!(log.find(22, 10, false), Lookup::OutOfRange));
        assert!(matches!(log.find(21, 10, false), Lookup::End));
        assert_eq!(data(&log, 7, 10).2, 10, "a gap between closed segments");
        assert!(matches!(log.find(15, 10, false), Lookup::Deadly(_)));
        log.truncate_front(10);
        assert_eq!((log.segments.len(), data(&log, 0, 10).2), (2, 10));
        log.truncate_back(15, layout);
        assert_eq!((log.segments.len(), log.last), (1, 10));
        log.truncate_back(9, layout);
        assert_eq!((log.segments.len(), log.first_available, log.last), (0, 10, 9));
        assert!(matches!(log.find(0, 10, false), Lookup::End));
    }
}
