//! What has arrived and is to be handed out: bundles, and the messages of those that are decoded.

use std::sync::Arc;

use super::batch::Batch;
use super::leader::Leader;
use super::tracks::{Tracks, Verdict};
use crate::error::{Error, Result};
use crate::message::{Message, Sources};
use crate::net::Block;
use crate::protocol::bundle::{Codec, Entry};
use crate::protocol::stream::{Bundle, Step};
use crate::protocol::{DecodeError, Limits};

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
    /// What is wrong with the bundle behind them.
    failure: Option<DecodeError>,
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
            failure: None,
        }
    }

    /// Goes on with a leader, and takes in the bundles found, as far as they are wanted. Nothing must be read into its
    /// buffer before all bundles are through. What was found, and whether its messages have to be seen before more is.
    pub(super) fn step(&mut self, leader: &mut Leader, tracks: &mut Tracks) -> Result<(Step, bool)> {
        let before = self.bundles.len();
        let step = leader.step(&mut self.bundles)?;
        let see = tracks.on_bundles(&mut self.bundles, before) == Verdict::SeeFirst;
        if self.bundles.len() > before {
            leader.has_progressed();
            tracks.on_progress(leader.partitions());
            if self.home.is_none() {
                self.home = Some(leader.buf().block().clone());
                self.is_shared = leader.buf().is_worth_sharing();
            }
        }
        Ok((step, see))
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

    /// The next message, counted as handed out.
    #[inline]
    pub(super) fn take_one(&mut self) -> Option<Message> {
        let entry = self.entries.get(self.next)?;
        self.next += 1;
        Some(Message { block: self.block().clone(), entry: *entry, source: self.partition as u32 })
    }

    /// Counts all messages as handed out; the place of the first that was not before.
    pub(super) fn take_all(&mut self) -> usize {
        std::mem::replace(&mut self.next, self.entries.len())
    }

    /// The messages from one on.
    #[inline]
    pub(super) fn batch(&self, from: usize) -> Batch<'_> {
        Batch { block: self.block(), source: self.partition as u32, entries: &self.entries[from..] }
    }

    /// Where the decoded messages lie.
    #[inline]
    fn block(&self) -> &Arc<Block<Sources>> {
        match &self.home {
            Some(home) if !self.in_scratch => home,
            _ => &self.scratch,
        }
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
        self.failure = None;
        self.unload();
    }

    /// Decodes bundles until there are messages, at most `most`, that are to be handed out; how many there are.
    ///
    /// # Errors
    /// A bundle that breaks a rule or a limit, once all messages before it are handed out.
    pub(super) fn load(&mut self, tracks: &mut Tracks, limits: &Limits, most: u64) -> Result<u64> {
        self.unload();
        if let Some(e) = self.failure.take() {
            return Err(self.error(e, tracks));
        }
        while self.entries.is_empty() {
            let Some(&Bundle { slot: partition, first, .. }) = self.bundles.get(self.taken) else { break };
            // A time to stop at may have been found since it came in.
            if tracks.ends_before(partition, first) {
                self.taken += 1;
                continue;
            }
            self.partition = partition;
            self.from_bundles = 0;
            self.failure = match self.decode(limits) {
                Err(e) if self.entries.is_empty() => return Err(self.error(e, tracks)),
                decoded => decoded.err(),
            };
            let bundle = &self.bundles[self.taken];
            let is_whole = self.failure.is_none() && tracks.takes_whole(bundle);
            let stopped = tracks.stop_at_time(partition, first, &mut self.entries);
            let fits = self.entries.len() as u64 <= most;
            self.entries.truncate(usize::try_from(most).unwrap_or(usize::MAX));
            let all = (is_whole && fits && !stopped).then(|| bundle.last.min(bundle.to) + 1);
            match (all, self.entries.last()) {
                (None, None) => {}
                (Some(after), None) => tracks.advance(partition, after),
                (all, Some(entry)) => {
                    self.after = all.unwrap_or(entry.seq + 1);
                    if !is_whole {
                        tracks.on_found(partition);
                    }
                }
            }
            if stopped {
                self.failure = None;
            }
            // A bad one stays the next, so that what is wrong with it is told once what came before it is handed out.
            self.taken += usize::from(self.failure.is_none());
        }
        Ok(self.entries.len() as u64)
    }

    fn error(&self, e: DecodeError, tracks: &Tracks) -> Error {
        let source = &tracks.sources[self.partition];
        e.in_partition(&source.topic, source.partition).into()
    }

    /// Decodes the next bundle: where it lies, or from a copy, or from what it decompresses to.
    fn decode(&mut self, limits: &Limits) -> std::result::Result<(), DecodeError> {
        let Some(bundle) = self.bundles.get(self.taken) else { return Ok(()) };
        let home = self.home.as_ref().map_or(&[][..], |home| &home.bytes);
        let set = home.get(bundle.set.clone()).unwrap_or_default();
        let (entries, good) = (&mut self.entries, &mut self.from_bundles);
        self.in_scratch = !(self.is_shared && bundle.codec == Codec::None);
        if !self.in_scratch {
            return bundle.decode_counted(set, bundle.set.start, entries, good);
        }
        let scratch = own_scratch(&mut self.scratch, set.len());
        let len = unpack(bundle, set, &mut self.snappy, limits, scratch)?;
        bundle.decode_counted(&scratch[..len], 0, entries, good)
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
