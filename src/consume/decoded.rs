//! The messages of a bundle, or of several small ones, and the memory they lie in.

use std::sync::Arc;

use super::batch::Batch;
use crate::message::{Message, Sources};
use crate::net::{Block, ReadBuf};

use crate::protocol::bundle::{Codec, Entry};
use crate::protocol::chunk::{Bundle, Good};
use crate::protocol::{DecodeError, Limits};

/// Small bundles are decoded together, up to so many messages: what there is to do for each batch is then shared by many
/// of them, and their entries still stay in a core's nearest cache.
pub(crate) const JOINED: u32 = 256;

/// The most bytes of a scratch block to keep for the next bundle, if that needs much less.
const KEPT_SCRATCH: usize = 1 << 20;

/// Decoded messages, in the order in which they are handed out.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// The read buffer's memory, as long as anything in it is wanted, and whether messages may keep it alive.
    home: Option<Arc<Block<Sources>>>,
    is_shared: bool,
    /// Memory for what was compressed or is not worth sharing.
    scratch: Arc<Block<Sources>>,
    snappy: snap::raw::Decoder,
    /// The one of them that the messages lie in: found once for all of them.
    block: Option<Arc<Block<Sources>>>,
    entries: Vec<Entry>,
    /// The first that is not handed out.
    next: usize,
    /// The partition of all of them, by its place in the block's [`Sources`].
    source: u32,
    good: Good,
}

impl Decoded {
    pub(crate) fn new(sources: &Sources) -> Decoded {
        Decoded {
            home: None,
            is_shared: false,
            scratch: Block::new(Vec::new(), sources.clone()),
            snappy: snap::raw::Decoder::new(),
            block: None,
            entries: Vec::new(),
            next: 0,
            source: 0,
            good: Good::default(),
        }
    }

    /// Takes the bundles that are decoded from now on for ranges of this buffer's block, until [`leave`](Decoded::leave):
    /// if the buffer is read into before that, it takes a new block.
    pub(crate) fn settle_in(&mut self, buf: &ReadBuf<Sources>) {
        if self.home.is_none() {
            self.home = Some(buf.block().clone());
            self.is_shared = buf.is_worth_sharing();
        }
    }

    /// Forgets the messages.
    pub(crate) fn clear(&mut self) {
        self.block = None;
        self.entries.clear();
        self.next = 0;
        self.good = Good::default();
    }

    /// Forgets the messages, and lets the buffer be read into again.
    pub(crate) fn leave(&mut self) {
        self.clear();
        self.home = None;
    }

    /// Decodes a bundle of this partition, in place of what was decoded before: where it lies, from a copy, or from what
    /// it decompresses to.
    ///
    /// # Errors
    /// A bundle that breaks a rule or a limit. The messages of good ones joined before it are there.
    pub(crate) fn decode(&mut self, bundle: &Bundle, source: u32, limits: &Limits) -> Result<(), DecodeError> {
        self.clear();
        self.source = source;
        let home = self.home.as_ref().map_or(&[][..], |home| &home.bytes);
        let set = home.get(bundle.set.clone()).unwrap_or_default();
        let (entries, good) = (&mut self.entries, &mut self.good);
        if self.is_shared && bundle.codec == Codec::None {
            self.block.clone_from(&self.home);
            return bundle.decode_good(set, bundle.set.start, entries, good);
        }
        let scratch = own_scratch(&mut self.scratch, set.len());
        let len = unpack(bundle, set, &mut self.snappy, limits, scratch)?;
        self.block = Some(self.scratch.clone());
        bundle.decode_good(&self.scratch.bytes[..len], 0, entries, good)
    }

    /// What was good of the bundles decoded.
    pub(crate) fn good(&self) -> &Good {
        &self.good
    }

    /// All messages, whether handed out or not.
    #[inline]
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The same, before any are handed out, for some to be taken away.
    pub(crate) fn entries_mut(&mut self) -> &mut Vec<Entry> {
        &mut self.entries
    }

    /// How many were handed out.
    #[inline]
    pub(crate) fn taken(&self) -> usize {
        self.next
    }

    /// Whether there are messages to hand out.
    #[inline]
    pub(crate) fn has_messages(&self) -> bool {
        self.next < self.entries.len()
    }

    /// The next message, counted as handed out.
    #[inline]
    pub(crate) fn take_one(&mut self) -> Option<Message> {
        let entry = self.entries.get(self.next)?;
        let block = self.block.clone()?;
        self.next += 1;
        Some(Message { block, entry: *entry, source: self.source })
    }

    /// Counts all messages as handed out; how many were before.
    pub(crate) fn take_all(&mut self) -> usize {
        std::mem::replace(&mut self.next, self.entries.len())
    }

    /// The messages from one on.
    #[inline]
    pub(crate) fn batch(&self, from: usize) -> Batch<'_> {
        Batch {
            block: self.block.as_ref().unwrap_or(&self.scratch),
            source: self.source,
            entries: &self.entries[from..],
        }
    }
}

/// Decompresses or copies a message set to the front of `scratch`; its length.
fn unpack(
    bundle: &Bundle,
    set: &[u8],
    snappy: &mut snap::raw::Decoder,
    limits: &Limits,
    scratch: &mut Vec<u8>,
) -> Result<usize, DecodeError> {
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
