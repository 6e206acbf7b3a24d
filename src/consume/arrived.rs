//! What has arrived and is to be handed out: bundles, and the messages of those that are decoded.

use std::sync::Arc;

use super::batch::Batch;
use super::leader::Leader;
use super::tracks::Tracks;
use crate::error::Result;
use crate::message::Sources;
use crate::net::Block;
use crate::protocol::bundle::{Codec, Entry};
use crate::protocol::stream::{Bundle, Step};
use crate::protocol::{DecodeError, Limits};

/// Small bundles that follow each other are decoded together, up to so many messages: what there is to do for each
/// batch is then shared by many of them, and both entries and bytes stay in a core's nearest cache.
const RUN: usize = 256;

/// With how many bundles to begin decoding, wherever the answer ends.
const MAX_BUNDLES: usize = 1024;

/// The most bytes of a scratch block to keep for the next bundle, if that needs much less.
const KEPT_SCRATCH: usize = 1 << 20;

/// Bundles of one leader's answer, in the order they came in, and the messages decoded of the first of them.
#[derive(Debug)]
pub(super) struct Arrived {
    /// The bundles, with the subscription's partitions for slots and as ranges of `home`, and how many are through.
    bundles: Vec<Bundle>,
    taken: usize,
    /// The read buffer's memory, as long as anything in it is wanted, and whether messages may keep it alive.
    home: Option<Arc<Block<Sources>>>,
    is_shared: bool,
    /// Memory for what was compressed or is not worth sharing.
    scratch: Arc<Block<Sources>>,
    snappy: snap::raw::Decoder,
    /// The decoded messages, of which those from `next` on are not handed out, and whether they lie in the scratch block.
    entries: Vec<Entry>,
    next: usize,
    in_scratch: bool,
    /// Their partition, its position once all of them are handed out, and how many bundles they come from.
    partition: usize,
    after: u64,
    from_bundles: u64,
}

/// What was handed out of the decoded messages.
pub(super) struct Delivered {
    pub(super) partition: usize,
    pub(super) position: u64,
    pub(super) messages: u64,
    pub(super) bundles: u64,
}

impl Arrived {
    pub(super) fn new(sources: &Sources) -> Arrived {
        Arrived {
            bundles: Vec::new(),
            taken: 0,
            home: None,
            is_shared: false,
            scratch: Block::new(Vec::new(), sources.clone()),
            snappy: snap::raw::Decoder::new(),
            entries: Vec::new(),
            next: 0,
            in_scratch: true,
            partition: 0,
            after: 0,
            from_bundles: 0,
        }
    }

    /// Adds what a leader found in its read buffer, as far as `wants` it; that may change what is wanted of a bundle.
    /// Nothing must be read into the buffer before all bundles are through.
    pub(super) fn step(&mut self, leader: &mut Leader, mut wants: impl FnMut(&mut Bundle) -> bool) -> Result<Step> {
        let mut kept = self.bundles.len();
        let step = leader.step(&mut self.bundles)?;
        for index in kept..self.bundles.len() {
            if wants(&mut self.bundles[index]) {
                self.bundles.swap(kept, index);
                kept += 1;
            }
        }
        self.bundles.truncate(kept);
        if kept > 0 && self.home.is_none() {
            self.home = Some(leader.buf().block().clone());
            self.is_shared = leader.buf().is_worth_sharing();
        }
        Ok(step)
    }

    /// Whether there are bundles to decode.
    #[inline]
    pub(super) fn has_bundles(&self) -> bool {
        self.taken < self.bundles.len()
    }

    /// Whether no more should be added before some are decoded.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.bundles.len() >= MAX_BUNDLES
    }

    /// Whether there are messages to hand out.
    #[inline]
    pub(super) fn has_messages(&self) -> bool {
        self.next < self.entries.len()
    }

    /// Counts a message as handed out.
    #[inline]
    pub(super) fn take_one(&mut self) {
        self.next += 1;
    }

    /// Counts all messages as handed out; the place of the first that was not before.
    pub(super) fn take_all(&mut self) -> usize {
        std::mem::replace(&mut self.next, self.entries.len())
    }

    /// The place of the next message.
    #[inline]
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// The messages from one on.
    #[inline]
    pub(super) fn batch(&self, from: usize) -> Batch<'_> {
        let block = match &self.home {
            Some(home) if !self.in_scratch => home,
            _ => &self.scratch,
        };
        Batch { block, source: self.partition as u32, entries: &self.entries[from..] }
    }

    /// What was handed out so far of the messages that are decoded, if anything.
    pub(super) fn delivered(&self) -> Option<Delivered> {
        let last = self.next.checked_sub(1)?;
        let position = match self.has_messages() {
            false => self.after,
            true => self.entries.get(last)?.seq + 1,
        };
        let (messages, bundles) = (self.next as u64, self.from_bundles);
        Some(Delivered { partition: self.partition, position, messages, bundles })
    }

    /// Forgets the decoded messages, and the bundles that are through.
    pub(super) fn unload(&mut self) {
        self.entries.clear();
        self.next = 0;
        self.from_bundles = 0;
        if !self.has_bundles() {
            self.bundles.clear();
            self.taken = 0;
            self.home = None;
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bundles.clear();
        self.taken = 0;
        self.unload();
    }

    /// Decodes bundles until there are messages, at most `most`, that are to be handed out; how many there are.
    ///
    /// # Errors
    /// A bundle that breaks a rule or a limit, once all messages before it are handed out.
    pub(super) fn load(&mut self, tracks: &mut Tracks, limits: &Limits, most: u64) -> Result<u64> {
        self.unload();
        while let Some(bundle) = self.bundles.get(self.taken) {
            let partition = bundle.slot;
            let before = self.entries.len();
            let stays = bundle.codec == Codec::None && self.is_shared;
            let joins = stays && !self.in_scratch && partition == self.partition;
            let together = joins && before + bundle.count as usize <= RUN && (before as u64) < most;
            if before > 0 && !together {
                break;
            }
            // A time to stop at may have been found since it came in.
            if tracks.ends_before(partition, bundle.first) {
                self.taken += 1;
                continue;
            }
            (self.partition, self.in_scratch) = (partition, !stays);
            let home = self.home.as_ref().map_or(&[][..], |home| &home.bytes);
            let set = home.get(bundle.set.clone()).unwrap_or_default();
            let decoded = if stays {
                bundle.decode(set, bundle.set.start, &mut self.entries)
            } else {
                let scratch = own_scratch(&mut self.scratch, set.len());
                let unpacked = unpack(bundle, set, &mut self.snappy, limits, scratch);
                unpacked.and_then(|len| bundle.decode(&scratch[..len], 0, &mut self.entries))
            };
            if let Err(e) = decoded {
                self.entries.truncate(before);
                if before > 0 {
                    break;
                }
                let source = &tracks.sources[partition];
                return Err(e.in_partition(&source.topic, source.partition).into());
            }
            let stopped = tracks.stop_at_time(partition, bundle.first, &mut self.entries, before);
            let whole = tracks.takes_whole(partition, bundle);
            let through = whole && !stopped && self.entries.len() as u64 <= most;
            self.taken += 1;
            self.entries.truncate(usize::try_from(most).unwrap_or(usize::MAX));
            if self.entries.len() > before {
                self.from_bundles += 1;
                if !whole {
                    tracks.on_found(partition);
                }
            }
            match self.entries.last() {
                _ if through => self.after = bundle.last.min(bundle.to) + 1,
                Some(last) if self.entries.len() > before => self.after = last.seq + 1,
                _ => continue,
            }
            if self.entries.is_empty() {
                tracks.advance(partition, self.after);
            }
        }
        Ok(self.entries.len() as u64)
    }
}

/// Decompresses or copies a message set to the front of `scratch`; its length.
fn unpack(
    bundle: &Bundle,
    set: &[u8],
    snappy: &mut snap::raw::Decoder,
    limits: &Limits,
    scratch: &mut Vec<u8>,
) -> std::result::Result<usize, DecodeError> {
    if bundle.codec == Codec::Snappy {
        return bundle.decompress(snappy, set, limits, scratch);
    }
    if scratch.len() < set.len() {
        scratch.resize(set.len(), 0);
    }
    scratch[..set.len()].copy_from_slice(set);
    Ok(set.len())
}

/// The scratch block's memory for a bundle of `len` bytes: a new one if messages still share the old one.
fn own_scratch(scratch: &mut Arc<Block<Sources>>, len: usize) -> &mut Vec<u8> {
    let outsized = scratch.bytes.len() > KEPT_SCRATCH.max(8 * len);
    if outsized || Arc::get_mut(scratch).is_none() {
        *scratch = Block::new(Vec::new(), scratch.tag.clone());
    }
    // Just made ours alone.
    &mut Arc::get_mut(scratch).unwrap_or_else(|| unreachable!("a block that nobody shares")).bytes
}
