//! A partition's messages: segments of bundles with an index, read like files (reference, sections 4.3, 5.4 and 6.5).

use std::sync::{Arc, RwLock};

use super::lock;
use crate::protocol::DecodeError;
use crate::protocol::cursor::Cursor;
use crate::protocol::varint;

const FLAG_SPARSE: u8 = 1 << 6;

/// A segment's numbers are kept as distances from its first one; a server dies of a larger one.
const MAX_DISTANCE: u64 = i32::MAX as u64;

/// What a server looks at in a bundle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) count: u32,
    /// First and last number, if the bundle is sparse; nothing is known of their order.
    pub(super) sparse: Option<(u64, u64)>,
}

impl Head {
    /// Reads a bundle's header as unsuspectingly as a server does; the error is what a server dies of.
    pub(super) fn decode(bundle: &[u8]) -> Result<Head, &'static str> {
        fn fields(c: &mut Cursor<'_>) -> Result<Head, DecodeError> {
            let flags = c.u8("bundle flags")?;
            let count = match u32::from(flags >> 2 & 0xf) {
                0 => c.varint("message count")?,
                small => small,
            };
            if flags & FLAG_SPARSE == 0 {
                return Ok(Head { count, sparse: None });
            }
            let first = c.u64("first sequence number")?;
            let ahead = if count == 1 { 0 } else { u64::from(c.varint("last delta")?) + 1 };
            Ok(Head { count, sparse: Some((first, first.wrapping_add(ahead))) })
        }
        if bundle.is_empty() {
            return Err("a bundle of no bytes");
        }
        match fields(&mut Cursor::new(bundle, 0)) {
            Ok(Head { count: 0, .. }) => Err("a bundle of no messages"),
            Ok(head) => Ok(head),
            Err(_) => Err("a bundle that ends inside its header"),
        }
    }

    /// The number after the bundle's last one, as readers count.
    fn next(&self, base: u64) -> u64 {
        match self.sparse {
            Some((_, last)) => last.wrapping_add(1),
            None => base.wrapping_add(self.count.into()),
        }
    }
}

#[derive(Debug)]
struct Stored {
    /// Where it begins in its segment, length prefix included.
    at: u64,
    head: Head,
    /// With its length prefix.
    bytes: Arc<[u8]>,
}

/// A file of bundles: a set of them, usually once, or repeated with the numbers counting on.
#[derive(Debug)]
pub(super) struct Segment {
    /// Number of the first message.
    base: u64,
    body: RwLock<Body>,
}

#[derive(Debug)]
struct Body {
    set: Vec<Stored>,
    /// Bytes of the set, and how far its numbers reach.
    set_len: u64,
    set_span: u64,
    times: u64,
    /// Distance from the base, and place, of some bundles of the set, the first one included.
    index: Vec<(u64, u64)>,
    /// Bytes since the last entry.
    since: u64,
    last: u64,
}

impl Body {
    fn len(&self) -> u64 {
        self.set_len * self.times
    }

    fn index_len(&self) -> usize {
        self.index.len() * usize::try_from(self.times).unwrap_or(usize::MAX)
    }

    /// Number and place of the `k`-th index entry.
    fn entry(&self, base: u64, k: usize) -> (u64, u64) {
        let (distance, at) = self.index[k % self.index.len()];
        let round = (k / self.index.len()) as u64;
        (base + round * self.set_span + distance, round * self.set_len + at)
    }

    /// How many index entries, from the first one on, are in range.
    fn entries_while(&self, base: u64, in_range: impl Fn(u64, u64) -> bool) -> usize {
        let (mut low, mut high) = (0, self.index_len());
        while low < high {
            let mid = low + (high - low) / 2;
            let (seq, at) = self.entry(base, mid);
            if in_range(seq, at) {
                low = mid + 1;
            } else {
                high = mid;
            }
        }
        low
    }

    /// The bundle that covers the byte `at`, and where in it that byte lies.
    fn bundle_at(&self, at: u64) -> (&Stored, u64) {
        let at = at % self.set_len;
        let stored = &self.set[self.set.partition_point(|stored| stored.at <= at) - 1];
        (stored, at - stored.at)
    }

    fn push(&mut self, base: u64, first: u64, last: u64, head: Head, bundle: &[u8], interval: u64) -> (u64, u64) {
        let mut bytes = Vec::with_capacity(varint::MAX_LEN + bundle.len());
        varint::encode(u32::try_from(bundle.len()).unwrap_or(u32::MAX), &mut bytes);
        bytes.extend_from_slice(bundle);
        let (at, len) = (self.set_len, bytes.len() as u64);
        if self.set.is_empty() || self.since > interval {
            self.index.push((first - base, at));
            self.since = 0;
        }
        self.since += len;
        self.set.push(Stored { at, head, bytes: bytes.into() });
        self.set_len += len;
        self.set_span = last - base + 1;
        self.last = last;
        (at, len)
    }
}

impl Segment {
    fn new(base: u64) -> Segment {
        let body =
            Body { set: Vec::new(), set_len: 0, set_span: 0, times: 1, index: Vec::new(), since: 0, last: base - 1 };
        Segment { base, body: RwLock::new(body) }
    }

    /// Copies bytes from `at` on; how many, 0 only at the end.
    pub(super) fn read_at(&self, at: u64, out: &mut [u8]) -> usize {
        let body = lock::read(&self.body);
        let end = body.len();
        let mut done = 0;
        while done < out.len() && at + (done as u64) < end {
            let (stored, skip) = body.bundle_at(at + done as u64);
            let rest = &stored.bytes[usize::try_from(skip).unwrap_or(usize::MAX)..];
            let now = rest.len().min(out.len() - done);
            out[done..done + now].copy_from_slice(&rest[..now]);
            done += now;
        }
        done
    }

    fn last(&self) -> u64 {
        lock::read(&self.body).last
    }

    /// Where an answer that wants `seq` begins and ends; the rule of the reference, section 5.4.
    fn find(self: &Arc<Segment>, seq: u64, fetch_size: u64, last_assigned: u64, cut: bool) -> Chunk {
        let body = lock::read(&self.body);
        let size = body.len();
        let entry = body.entries_while(self.base, |entry, _| entry <= seq).saturating_sub(1);
        let (mut base, mut at) = body.entry(self.base, entry);
        let mut sparse = false;
        let (mut next, mut ahead) = (base, at);
        while ahead < size {
            let (stored, _) = body.bundle_at(ahead);
            sparse = stored.head.sparse.is_some();
            let after = stored.head.next(next);
            if seq < after {
                (base, at) = (next, ahead);
                break;
            }
            next = after;
            ahead += stored.bytes.len() as u64;
        }
        let chunk = |end: u64| Chunk { segment: Arc::clone(self), at, len: end - at, base, sparse };
        let wanted_end = at + fetch_size;
        if size <= wanted_end || cut {
            return chunk(size.min(wanted_end));
        }
        let within = body.entries_while(self.base, |_, entry| entry <= wanted_end).saturating_sub(1);
        let (_, indexed) = body.entry(self.base, within);
        if indexed > at {
            return chunk(indexed);
        }
        let (mut next, mut end) = (base, at);
        // A server compares places in the file here, and never stops below byte 32 of it.
        let limit = wanted_end.max(32);
        while end < size && (end < limit || next <= seq) && next <= last_assigned {
            let (stored, _) = body.bundle_at(end);
            next = stored.head.next(next);
            end += stored.bytes.len() as u64;
        }
        chunk(end)
    }
}

/// A range of a segment, to be sent.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) segment: Arc<Segment>,
    pub(super) at: u64,
    pub(super) len: u64,
    /// Number of its first message.
    pub(super) base: u64,
    /// Whether it begins with a sparse bundle.
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
pub(super) enum Refused {
    /// A number that is not above the last one, or a range that runs backwards.
    Number,
    /// A server dies of it.
    Deadly(&'static str),
}

/// How a partition's log is laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) segment_bytes: u64,
    pub(super) index_interval: u64,
}

/// A partition's log.
#[derive(Debug, Default)]
pub(super) struct Log {
    segments: Vec<Arc<Segment>>,
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
    /// Stores a bundle, numbered by itself, from `first_seq` on, or if that is 0 after the last one.
    pub(super) fn append(&mut self, bundle: &[u8], first_seq: u64, layout: Layout) -> Result<Chunk, Refused> {
        let head = Head::decode(bundle).map_err(Refused::Deadly)?;
        let (first, last) = match head.sparse {
            Some((first, last)) if last < first => return Err(Refused::Number),
            Some(range) => range,
            None => {
                let first = if first_seq == 0 { self.last + 1 } else { first_seq };
                (first, first.checked_add(u64::from(head.count) - 1).ok_or(Refused::Number)?)
            }
        };
        if first <= self.last || last == u64::MAX {
            return Err(Refused::Number);
        }
        let segment = match self.segments.last() {
            Some(active) if !self.must_roll(layout) => {
                if head.sparse.is_some() && last - active.base > MAX_DISTANCE {
                    return Err(Refused::Deadly("a sparse bundle 2^31 or more above its segment's first number"));
                }
                Arc::clone(active)
            }
            _ => self.roll(first),
        };
        let mut body = lock::write(&segment.body);
        let (at, len) = body.push(segment.base, first, last, head, bundle, layout.index_interval);
        drop(body);
        self.last = last;
        self.mark = first.wrapping_add(u64::from(head.count & 0xffff)).wrapping_sub(1);
        Ok(Chunk { segment, at, len, base: first, sparse: head.sparse.is_some() })
    }

    fn must_roll(&self, layout: Layout) -> bool {
        self.closed
            || self.segments.last().is_none_or(|active| {
                let body = lock::read(&active.body);
                body.len() > layout.segment_bytes
            })
    }

    /// Makes the next bundle begin a segment.
    pub(super) fn close_segment(&mut self) {
        self.closed = true;
    }

    /// Begins a segment with the number `first`.
    fn roll(&mut self, first: u64) -> Arc<Segment> {
        if self.first_available == 0 {
            self.first_available = first;
        }
        self.closed = false;
        let segment = Arc::new(Segment::new(first));
        self.segments.push(Arc::clone(&segment));
        segment
    }

    /// Stores dense bundles `times` over, in a segment of its own that holds them once.
    pub(super) fn append_repeated(&mut self, bundles: &[&[u8]], times: u64, layout: Layout) -> Result<(), Refused> {
        let base = self.last + 1;
        let segment = Segment::new(base);
        let mut body = lock::write(&segment.body);
        let mut next = base;
        for bundle in bundles {
            let head = Head::decode(bundle).map_err(Refused::Deadly)?;
            if head.sparse.is_some() {
                return Err(Refused::Number);
            }
            let after = head.next(next);
            body.push(base, next, after - 1, head, bundle, layout.index_interval);
            next = after;
        }
        if times == 0 || body.set.is_empty() {
            return Err(Refused::Number);
        }
        body.times = times;
        let last = body.set_span.checked_mul(times).and_then(|span| base.checked_add(span - 1));
        body.last = last.filter(|&last| last < u64::MAX).ok_or(Refused::Number)?;
        (self.last, self.mark) = (body.last, body.last);
        drop(body);
        if self.first_available == 0 {
            self.first_available = base;
        }
        self.closed = true;
        self.segments.push(Arc::new(segment));
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
            let len = lock::read(&first.body).len();
            return Lookup::Data(Chunk { segment: Arc::clone(first), at: 0, len, base: first.base, sparse: false });
        }
        for (index, segment) in closed.iter().enumerate().skip(at_or_below - 1) {
            if index >= at_or_below {
                seq = segment.base;
            }
            if seq <= segment.last() {
                return Lookup::Data(segment.find(seq, fetch_size, self.last, cut));
            }
        }
        Lookup::Deadly("a number in the gap between the last closed segment and the active one")
    }

    /// Makes `first` the first number available and lets go of the segments wholly below it.
    pub(super) fn truncate_front(&mut self, first: u64) {
        self.first_available = first;
        let active = self.segments.pop();
        self.segments.retain(|segment| segment.last() >= first);
        self.segments.extend(active);
    }

    /// Lets go of every bundle with a number above `last`.
    pub(super) fn truncate_back(&mut self, last: u64, layout: Layout) {
        let mut shorter = Log { first_available: self.first_available, ..Log::default() };
        for segment in &self.segments {
            let body = lock::read(&segment.body);
            let mut rolled = false;
            let mut next = segment.base;
            for stored in (0..body.times).flat_map(|_| &body.set) {
                let after = stored.head.next(next);
                if after - 1 > last {
                    break;
                }
                if !rolled {
                    shorter.roll(stored.head.sparse.map_or(next, |(first, _)| first));
                    rolled = true;
                }
                let prefix = stored.bytes.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
                // A segment is closed by hand here, never by its size.
                let whole = Layout { segment_bytes: u64::MAX, ..layout };
                if shorter.append(&stored.bytes[prefix..], next, whole).is_err() {
                    break;
                }
                next = after;
            }
        }
        if shorter.segments.is_empty() && shorter.first_available != 0 {
            shorter.last = shorter.first_available - 1;
            shorter.mark = shorter.last;
        }
        *self = shorter;
    }

    /// Puts `bundles` in the place of the closed segments, as compaction does: what was the first number available stays
    /// so.
    pub(super) fn compact(&mut self, bundles: &[&[u8]], layout: Layout) -> Result<(), Refused> {
        let active = self.segments.pop();
        let mut front = Log::default();
        for bundle in bundles {
            front.append(bundle, 0, Layout { segment_bytes: u64::MAX, ..layout })?;
        }
        self.segments = front.segments;
        self.segments.extend(active);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::bundle::{BundleBuilder, Compression, RawMessage};

    const LAYOUT: Layout = Layout { segment_bytes: 1 << 30, index_interval: 4096 };

    fn bundle(count: u8, payload: usize) -> Vec<u8> {
        let mut builder = BundleBuilder::new();
        let payload = vec![b'x'; payload];
        for _ in 0..count {
            builder.push(&RawMessage { timestamp_ms: 1, key: None, payload: &payload }).unwrap();
        }
        let mut out = Vec::new();
        builder.finish(Compression::None, &mut out).unwrap();
        out
    }

    fn data(log: &Log, seq: u64, fetch_size: u32) -> (u64, u64, u64) {
        match log.find(seq, fetch_size, false) {
            Lookup::Data(chunk) => (chunk.at, chunk.len, chunk.base),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_chunk_ends_at_an_index_entry_or_at_a_bundle() {
        let mut log = Log::default();
        let one = bundle(1, 400);
        let len = one.len() as u64 + 2;
        for _ in 0..100 {
            log.append(&one, 0, LAYOUT).unwrap();
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
        let set: Vec<Vec<u8>> = (1..=20).map(|n| bundle(n, 40 * usize::from(n))).collect();
        let set: Vec<&[u8]> = set.iter().map(Vec::as_slice).collect();
        let mut repeated = Log::default();
        repeated.append_repeated(&set, 5, LAYOUT).unwrap();
        let mut plain = Log::default();
        for bundle in std::iter::repeat_n(&set, 5).flatten() {
            plain.append(bundle, 0, LAYOUT).unwrap();
        }
        assert_eq!((repeated.first_available, repeated.last, repeated.last), (1, plain.last, 5 * 210));
        for seq in 1..=plain.last {
            let (Lookup::Data(a), Lookup::Data(b)) =
                (repeated.find(seq, u32::MAX, false), plain.find(seq, u32::MAX, false))
            else {
                panic!("{seq}");
            };
            assert_eq!((a.at, a.len, a.base), (b.at, b.len, b.base));
            let (mut left, mut right) = (vec![0; 1000], vec![0; 1000]);
            let n = a.segment.read_at(a.at, &mut left);
            assert_eq!(n, b.segment.read_at(b.at, &mut right));
            assert_eq!(left[..n], right[..n], "{seq}");
        }
    }

    #[test]
    fn segments_numbers_and_gaps() {
        let mut log = Log::default();
        let layout = Layout { segment_bytes: 100, ..LAYOUT };
        let mut sparse = BundleBuilder::new();
        let mut one = |seq: u64| {
            let payload = [b'y'; 120];
            sparse.push_at(seq, &RawMessage { timestamp_ms: 1, key: None, payload: &payload }).unwrap();
            let mut out = Vec::new();
            sparse.finish(Compression::None, &mut out).unwrap();
            out
        };
        for seq in [5, 10, 20] {
            log.append(&one(seq), 0, layout).unwrap();
        }
        assert_eq!(log.segments.len(), 3);
        assert_eq!(log.append(&one(20), 0, layout).unwrap_err(), Refused::Number);
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
