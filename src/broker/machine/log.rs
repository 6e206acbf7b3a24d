//! A partition's messages: segments of bundles with an index, read like files (reference, sections 4.3, 5.4 and 6.5).

use std::collections::VecDeque;
use std::sync::Arc;

use super::Layout;
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

/// A bundle as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Bundle {
    head: Head,
    /// With its length prefix.
    bytes: Arc<[u8]>,
}

impl Bundle {
    /// Takes a bundle as a server does; the error is what a server dies of.
    pub(super) fn new(bundle: &[u8]) -> Result<Bundle, &'static str> {
        let head = Head::decode(bundle)?;
        let mut bytes = Vec::with_capacity(varint::MAX_LEN + bundle.len());
        varint::encode(u32::try_from(bundle.len()).unwrap_or(u32::MAX), &mut bytes);
        bytes.extend_from_slice(bundle);
        Ok(Bundle { head, bytes: bytes.into() })
    }

    /// Without its length prefix.
    pub(super) fn bytes(&self) -> &[u8] {
        let prefix = self.bytes.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
        self.bytes.get(prefix..).unwrap_or(&[])
    }

    pub(super) fn shared(&self) -> Arc<[u8]> {
        Arc::clone(&self.bytes)
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

#[derive(Debug, Clone)]
struct Stored {
    /// Where it begins in its segment, length prefix included.
    at: u64,
    bundle: Bundle,
}

/// Some bundles of a segment, one after the other. An answer under way shares them with the log, which goes on in a copy of
/// the last one then: so nothing needs a lock, and what is truncated is still sent.
type Block = Vec<Stored>;

/// Bundles in a block: what an append copies at most, and what an answer of many small bundles needs to name.
const BLOCK: usize = 64;

/// A file of bundles: a set of them, usually once, or repeated with the numbers counting on.
#[derive(Debug, Clone)]
struct Segment {
    /// One of a kind in its log.
    id: u64,
    /// Number of the first message.
    base: u64,
    set: Vec<Arc<Block>>,
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

impl Segment {
    fn new(id: u64, base: u64) -> Segment {
        let last = base.wrapping_sub(1);
        Segment { id, base, set: Vec::new(), set_len: 0, set_span: 0, times: 1, index: Vec::new(), since: 0, last }
    }

    fn len(&self) -> u64 {
        self.set_len * self.times
    }

    fn index_len(&self) -> usize {
        self.index.len().saturating_mul(usize::try_from(self.times).unwrap_or(usize::MAX))
    }

    /// Number and place of the `k`-th index entry.
    fn entry(&self, k: usize) -> (u64, u64) {
        let (round, k) = (k.checked_div(self.index.len()).unwrap_or(0), k.checked_rem(self.index.len()).unwrap_or(0));
        let (distance, at) = self.index.get(k).copied().unwrap_or((0, 0));
        (self.base + round as u64 * self.set_span + distance, round as u64 * self.set_len + at)
    }

    /// How many index entries, from the first one on, are in range.
    fn entries_while(&self, in_range: impl Fn(u64, u64) -> bool) -> usize {
        let (mut low, mut high) = (0, self.index_len());
        while low < high {
            let mid = low + (high - low) / 2;
            let (seq, at) = self.entry(mid);
            if in_range(seq, at) {
                low = mid + 1;
            } else {
                high = mid;
            }
        }
        low
    }

    /// Which bundle of the set covers the byte `at`: its block, and its place there.
    fn place(&self, at: u64) -> (usize, usize) {
        let at = at.checked_rem(self.set_len).unwrap_or(0);
        let starts_by = |block: &Arc<Block>| block.first().is_some_and(|first| first.at <= at);
        let block = self.set.partition_point(starts_by).saturating_sub(1);
        let inside = self.set.get(block).map_or(0, |block| block.partition_point(|stored| stored.at <= at));
        (block, inside.saturating_sub(1))
    }

    fn bundle_at(&self, at: u64) -> Option<&Bundle> {
        let (block, inside) = self.place(at);
        Some(&self.set.get(block)?.get(inside)?.bundle)
    }

    /// All bundles as they lie in the file, each with the number it begins with as readers count.
    fn bundles(&self) -> impl Iterator<Item = (u64, &Bundle)> {
        let all = (0..self.times).flat_map(|_| self.set.iter().flat_map(|block| block.iter()));
        all.scan(self.base, |next, stored| {
            let base = stored.bundle.head.sparse.map_or(*next, |(first, _)| first);
            *next = stored.bundle.head.next(*next);
            Some((base, &stored.bundle))
        })
    }

    /// The same from an index entry on.
    fn bundles_from(&self, (number, at): (u64, u64)) -> impl Iterator<Item = (u64, &Bundle)> {
        let (mut next, mut at) = (number, at);
        std::iter::from_fn(move || {
            let bundle = self.bundle_at(at).filter(|_| at < self.len())?;
            let base = bundle.head.sparse.map_or(next, |(first, _)| first);
            next = bundle.head.next(next);
            at += bundle.len();
            Some((base, bundle))
        })
    }

    fn push(&mut self, first: u64, last: u64, bundle: Bundle, interval: u64) -> (u64, u64) {
        let (at, len) = (self.set_len, bundle.len());
        if self.set.is_empty() || self.since > interval {
            self.index.push((first.saturating_sub(self.base), at));
            self.since = 0;
        }
        self.since += len;
        let stored = Stored { at, bundle };
        match self.set.last_mut() {
            Some(block) if block.len() < BLOCK => Arc::make_mut(block).push(stored),
            _ => self.set.push(Arc::new(vec![stored])),
        }
        self.set_len += len;
        self.set_span = (last.saturating_sub(self.base)).saturating_add(1);
        self.last = last;
        (at, len)
    }

    fn chunk(&self, at: u64, len: u64, base: u64, sparse: bool) -> Chunk {
        let len = len.min(self.len().saturating_sub(at));
        let (block, bundle) = self.place(at);
        let in_set = at.checked_rem(self.set_len).unwrap_or(0);
        let starts = self.set.get(block).and_then(|block| block.get(bundle)).map_or(0, |stored| stored.at);
        let skip = usize::try_from(in_set.saturating_sub(starts)).unwrap_or(usize::MAX);
        let mut blocks = VecDeque::new();
        let end_of = |block: &Block| block.last().map_or(0, |last| last.at + last.bundle.len());
        let (mut covered, mut from) = (0, in_set);
        for block in self.set.iter().cycle().skip(block) {
            if covered >= len {
                break;
            }
            covered += end_of(block) - from;
            from = end_of(block).checked_rem(self.set_len).unwrap_or(0);
            blocks.push_back(Arc::clone(block));
        }
        Chunk { blocks, bundle, skip, left: len, base, sparse }
    }

    /// Where an answer that wants `seq` begins and ends; the rule of the reference, section 5.4.
    fn find(&self, seq: u64, fetch_size: u64, last_assigned: u64, cut: bool) -> Chunk {
        let size = self.len();
        let entry = self.entries_while(|entry, _| entry <= seq).saturating_sub(1);
        let (mut base, mut at) = self.entry(entry);
        let mut sparse = false;
        let (mut next, mut ahead) = (base, at);
        while let Some(bundle) = self.bundle_at(ahead).filter(|_| ahead < size) {
            sparse = bundle.head.sparse.is_some();
            let after = bundle.head.next(next);
            if seq < after {
                (base, at) = (next, ahead);
                break;
            }
            next = after;
            ahead += bundle.len();
        }
        let chunk = |end: u64| self.chunk(at, end - at, base, sparse);
        let wanted_end = at + fetch_size;
        if size <= wanted_end || cut {
            return chunk(size.min(wanted_end));
        }
        let within = self.entries_while(|_, entry| entry <= wanted_end).saturating_sub(1);
        let (_, indexed) = self.entry(within);
        if indexed > at {
            return chunk(indexed);
        }
        let (mut next, mut end) = (base, at);
        // A server compares places in the file here, and never stops below byte 32 of it.
        let limit = wanted_end.max(32);
        while end < size && (end < limit || next <= seq) && next <= last_assigned {
            let Some(bundle) = self.bundle_at(end) else { break };
            next = bundle.head.next(next);
            end += bundle.len();
        }
        chunk(end)
    }
}

/// A range of a segment, to be sent; it is what is left of it.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    /// The blocks it reaches over, the first of them from `skip` bytes into its bundle number `bundle` on.
    blocks: VecDeque<Arc<Block>>,
    bundle: usize,
    skip: usize,
    left: u64,
    /// Number of its first message.
    pub(super) base: u64,
    /// Whether it begins with a sparse bundle.
    pub(super) sparse: bool,
}

impl Chunk {
    pub(super) fn len(&self) -> u64 {
        self.left
    }

    /// Takes its next bytes; how many, less than `out` takes only at the end.
    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        while self.left > 0 {
            let (Some(block), Some(out)) = (self.blocks.front(), out.get_mut(done..).filter(|out| !out.is_empty()))
            else {
                break;
            };
            let Some(stored) = block.get(self.bundle) else {
                self.blocks.pop_front();
                self.bundle = 0;
                continue;
            };
            let rest = stored.bundle.bytes.get(self.skip..).unwrap_or(&[]);
            let now = rest.len().min(out.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (Some(to), Some(from)) = (out.get_mut(..now), rest.get(..now)) else { break };
            to.copy_from_slice(from);
            done += now;
            self.left -= now as u64;
            if now == rest.len() {
                self.bundle += 1;
                self.skip = 0;
            } else {
                self.skip += now;
            }
        }
        done
    }
}

/// Where a bundle was stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
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
pub(crate) enum Refused {
    /// A number that is not above the last one, or a range that runs backwards.
    Number,
    /// A server dies of it.
    Deadly(&'static str),
}

/// A partition's log at one node.
#[derive(Debug, Default, Clone)]
pub(super) struct Log {
    segments: Vec<Segment>,
    /// Segments there ever were.
    made: u64,
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
        bundle: &Bundle,
        first_seq: u64,
        floor: u64,
        layout: Layout,
    ) -> Result<Stretch, Refused> {
        let head = bundle.head;
        let (first, last) = match head.sparse {
            Some((first, last)) if last < first => return Err(Refused::Number),
            Some(range) => range,
            None => {
                let first = if first_seq == 0 { self.last + 1 } else { first_seq };
                (first, first.checked_add(u64::from(head.count) - 1).ok_or(Refused::Number)?)
            }
        };
        if first <= floor || last == u64::MAX {
            return Err(Refused::Number);
        }
        if self.must_roll(layout) {
            self.roll(first);
        } else if let Some(active) = self.segments.last() {
            if head.sparse.is_some() && last.saturating_sub(active.base) > MAX_DISTANCE {
                return Err(Refused::Deadly("a sparse bundle 2^31 or more above its segment's first number"));
            }
        }
        let Some(active) = self.segments.last_mut() else { return Err(Refused::Number) };
        let (at, len) = active.push(first, last, bundle.clone(), layout.index_interval);
        let segment = active.id;
        self.last = last;
        self.mark = first.wrapping_add(u64::from(head.count & 0xffff)).wrapping_sub(1);
        Ok(Stretch { segment, at, len, base: first, last, sparse: head.sparse.is_some() })
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
        self.segments.push(Segment::new(self.made, first));
        self.made += 1;
    }

    /// Stores dense bundles `times` over, in a segment of its own that holds them once.
    pub(super) fn append_repeated(&mut self, bundles: &[Bundle], times: u64, layout: Layout) -> Result<(), Refused> {
        let base = self.last + 1;
        let mut segment = Segment::new(self.made, base);
        let mut next = base;
        for bundle in bundles {
            if bundle.head.sparse.is_some() {
                return Err(Refused::Number);
            }
            let after = bundle.head.next(next);
            segment.push(next, after - 1, bundle.clone(), layout.index_interval);
            next = after;
        }
        if times == 0 || segment.set.is_empty() {
            return Err(Refused::Number);
        }
        segment.times = times;
        let last = segment.set_span.checked_mul(times).and_then(|span| base.checked_add(span - 1));
        segment.last = last.filter(|&last| last < u64::MAX).ok_or(Refused::Number)?;
        (self.last, self.mark) = (segment.last, segment.last);
        if self.first_available == 0 {
            self.first_available = base;
        }
        self.closed = true;
        self.made += 1;
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
    pub(super) fn chunk(&self, stretch: &Stretch) -> Option<Chunk> {
        let segment = self.segments.iter().rev().find(|segment| segment.id == stretch.segment)?;
        Some(segment.chunk(stretch.at, stretch.len, stretch.base, stretch.sparse))
    }

    /// What a replica is sent that has everything up to `seq`: bundles, the first of which may begin at or below it, each
    /// with the number it begins with.
    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = (u64, &Bundle)> {
        let segments = self.segments.iter().skip_while(move |segment| segment.last <= seq);
        let bundles = segments.flat_map(move |segment| {
            let entry = segment.entries_while(|entry, _| entry <= seq).saturating_sub(1);
            segment.bundles_from(segment.entry(entry))
        });
        bundles.filter(move |(base, bundle)| bundle.head.next(*base).wrapping_sub(1) > seq)
    }

    /// All bundles in the order of the file, each with the number it begins with as readers count.
    pub(super) fn bundles(&self) -> impl Iterator<Item = (u64, &Bundle)> {
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
        let mut shorter = Log { first_available: self.first_available, made: self.made, ..Log::default() };
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

    /// Puts `bundles` in the place of the closed segments, as compaction does: what was the first number available stays
    /// so.
    pub(super) fn compact(&mut self, bundles: &[Bundle], layout: Layout) -> Result<(), Refused> {
        let mut front = Log { made: self.made, ..Log::default() };
        for bundle in bundles {
            front.append(bundle, 0, front.last, Layout { segment_bytes: u64::MAX, ..layout })?;
        }
        let active = self.segments.pop();
        self.segments = front.segments;
        self.made = front.made;
        self.segments.extend(active);
        Ok(())
    }

    /// Empties it: its next message is number 1 again.
    pub(super) fn clear(&mut self) {
        *self = Log { made: self.made, ..Log::default() };
    }

    /// What a process finds that opens it: the mark of empty answers is right again.
    pub(super) fn reopen(&mut self) {
        self.mark = self.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::bundle::{BundleBuilder, Compression, RawMessage};

    const LAYOUT: Layout = Layout { segment_bytes: 1 << 30, index_interval: 4096 };

    fn bundle(count: u8, payload: usize) -> Bundle {
        let mut builder = BundleBuilder::new();
        let payload = vec![b'x'; payload];
        for _ in 0..count {
            builder.push(&RawMessage { timestamp_ms: 1, key: None, payload: &payload }).unwrap();
        }
        let mut out = Vec::new();
        builder.finish(Compression::None, &mut out).unwrap();
        Bundle::new(&out).unwrap()
    }

    fn append(log: &mut Log, bundle: &Bundle, layout: Layout) -> Result<Stretch, Refused> {
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
        let set: Vec<Bundle> = (1..=20).map(|n| bundle(n, 40 * usize::from(n))).collect();
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
        let mut sparse = BundleBuilder::new();
        let mut one = |seq: u64| {
            let payload = [b'y'; 120];
            sparse.push_at(seq, &RawMessage { timestamp_ms: 1, key: None, payload: &payload }).unwrap();
            let mut out = Vec::new();
            sparse.finish(Compression::None, &mut out).unwrap();
            Bundle::new(&out).unwrap()
        };
        for seq in [5, 10, 20] {
            append(&mut log, &one(seq), layout).unwrap();
        }
        assert_eq!(log.segments.len(), 3);
        assert_eq!(append(&mut log, &one(20), layout).unwrap_err(), Refused::Number);
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
