//! A segment: bundles one after the other with an index, read like a file (reference, sections 4.3 and 5.4).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::protocol::DecodeError;
use crate::protocol::cursor::Cursor;
use crate::protocol::varint;

const FLAG_SPARSE: u8 = 1 << 6;

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
    pub(super) fn next(&self, base: u64) -> u64 {
        match self.sparse {
            Some((_, last)) => last.wrapping_add(1),
            None => base.wrapping_add(self.count.into()),
        }
    }
}

/// A bundle as it is stored.
#[derive(Debug, Clone)]
pub(super) struct StoredBundle {
    pub(super) head: Head,
    /// With its length prefix.
    bytes: Arc<[u8]>,
}

impl StoredBundle {
    /// Takes a bundle as a server does; the error is what a server dies of.
    pub(super) fn new(bundle: &[u8]) -> Result<StoredBundle, &'static str> {
        let head = Head::decode(bundle)?;
        let mut bytes = Vec::with_capacity(varint::MAX_LEN + bundle.len());
        varint::encode(u32::try_from(bundle.len()).unwrap_or(u32::MAX), &mut bytes);
        bytes.extend_from_slice(bundle);
        Ok(StoredBundle { head, bytes: bytes.into() })
    }

    /// Without its length prefix.
    pub(super) fn bytes(&self) -> &[u8] {
        let prefix = self.bytes.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
        self.bytes.get(prefix..).unwrap_or(&[])
    }

    pub(super) fn shared(&self) -> Arc<[u8]> {
        Arc::clone(&self.bytes)
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Where it begins in its segment, length prefix included.
    pub(super) at: u64,
    bundle: StoredBundle,
}

/// Some bundles of a segment, one after the other. An answer under way shares them with the log, which continues in a copy of
/// the last one then: so nothing needs a lock, and what is truncated is still sent.
pub(super) type Block = Vec<Stored>;

/// Bundles in a block: what an append copies at most, and what an answer of many small bundles needs to name.
const BLOCK: usize = 64;

/// A file of bundles: a set of them, usually once, or repeated with the numbers counting on.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    /// One of a kind in its log.
    pub(super) id: u64,
    /// Number of the first message.
    pub(super) base: u64,
    pub(super) set: Vec<Arc<Block>>,
    /// Bytes of the set, and how far its numbers reach.
    pub(super) set_len: u64,
    pub(super) set_span: u64,
    pub(super) times: u64,
    /// Distance from the base, and place, of some bundles of the set, the first one included.
    index: Vec<(u64, u64)>,
    /// Bytes since the last entry.
    since: u64,
    pub(super) last: u64,
}

impl Segment {
    pub(super) fn new(id: u64, base: u64) -> Segment {
        let last = base.wrapping_sub(1);
        Segment { id, base, set: Vec::new(), set_len: 0, set_span: 0, times: 1, index: Vec::new(), since: 0, last }
    }

    pub(super) fn len(&self) -> u64 {
        self.set_len * self.times
    }

    fn index_len(&self) -> usize {
        self.index.len().saturating_mul(usize::try_from(self.times).unwrap_or(usize::MAX))
    }

    /// Number and place of the `k`-th index entry.
    pub(super) fn entry(&self, k: usize) -> (u64, u64) {
        let round = k.checked_div(self.index.len()).unwrap_or(0) as u64;
        let in_round = k.checked_rem(self.index.len()).unwrap_or(0);
        let (distance, at) = self.index.get(in_round).copied().unwrap_or((0, 0));
        (self.base + round * self.set_span + distance, round * self.set_len + at)
    }

    /// How many index entries, from the first one on, are in range.
    pub(super) fn entries_while(&self, in_range: impl Fn(u64, u64) -> bool) -> usize {
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

    /// All bundles as they lie in the file, each with the number it begins with as readers count.
    pub(super) fn bundles(&self) -> impl Iterator<Item = (u64, &StoredBundle)> {
        let all = (0..self.times).flat_map(|_| self.set.iter().flat_map(|block| block.iter()));
        all.scan(self.base, |next, stored| {
            let base = stored.bundle.head.sparse.map_or(*next, |(first, _)| first);
            *next = stored.bundle.head.next(*next);
            Some((base, &stored.bundle))
        })
    }

    /// The bundles from the one on that covers the byte `at`, to the segment's end.
    fn walk(&self, at: u64) -> impl Iterator<Item = &StoredBundle> {
        let (block, inside) = self.place(at);
        let mut left = self.len().saturating_sub(at);
        let mut blocks = self.set.iter().cycle().skip(block);
        let first = blocks.next().and_then(|block| block.get(inside..)).unwrap_or(&[]);
        let all = first.iter().chain(blocks.flat_map(|block| block.iter()));
        all.map_while(move |stored| {
            let is_covered = left > 0;
            left = left.saturating_sub(stored.bundle.len());
            is_covered.then_some(&stored.bundle)
        })
    }

    /// As [`bundles`](Segment::bundles), from an index entry on.
    pub(super) fn bundles_from(&self, (number, at): (u64, u64)) -> impl Iterator<Item = (u64, &StoredBundle)> {
        self.walk(at).scan(number, |next, bundle| {
            let base = bundle.head.sparse.map_or(*next, |(first, _)| first);
            *next = bundle.head.next(*next);
            Some((base, bundle))
        })
    }

    pub(super) fn push(&mut self, first: u64, last: u64, bundle: StoredBundle, interval: u64) -> (u64, u64) {
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

    pub(super) fn chunk(&self, at: u64, len: u64, base: u64, sparse: bool) -> Chunk {
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
    pub(super) fn find(&self, seq: u64, fetch_size: u64, last_assigned: u64, cut: bool) -> Chunk {
        let size = self.len();
        let entry = self.entries_while(|entry, _| entry <= seq).saturating_sub(1);
        let (mut base, mut at) = self.entry(entry);
        let mut sparse = false;
        let (mut next, mut ahead) = (base, at);
        for bundle in self.walk(at) {
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
        for bundle in self.walk(at) {
            if !((end < limit || next <= seq) && next <= last_assigned) {
                break;
            }
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
    pub(super) blocks: VecDeque<Arc<Block>>,
    pub(super) bundle: usize,
    pub(super) skip: usize,
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
