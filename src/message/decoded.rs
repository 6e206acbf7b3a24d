//! [`DecodedBundle`]: the messages of a bundle, or of several small ones, and the memory they lie in.
//!
//! ```text
//!   ReadBuf ──attach──> decode ──> entries ──take_one──> Message
//!                         │                                 │ keeps alive
//!                         ├── where it lies  ───────────────┤ the read buffer's block
//!                         └── copied or decompressed ───────┘ a scratch block of its size
//! ```

use std::sync::Arc;

use super::batch::Batch;
use super::{Message, TopicPartitions};
use crate::net::{Block, ReadBuf};
use crate::protocol::bundle::{Codec, Entry};
use crate::protocol::chunk::{Bundle, Good};
use crate::protocol::{DecodeError, Limits, compress};

/// The most messages of small bundles that are decoded together: enough to share the cost of a batch, and few enough for their
/// entries to stay in a core's nearest cache.
pub(crate) const JOINED: u32 = 256;

/// The largest block, in bytes, that any message in it may keep alive. A larger one is kept alive only by bundles that fill a
/// quarter of it.
const SHARED_BLOCK: usize = 1 << 20;

/// Bytes of the scratch blocks. A larger bundle gets a block of its size.
const SCRATCH: [usize; 6] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Room for this many entries, a megabyte, is always kept.
const KEPT_ENTRIES: usize = 32 << 10;

/// Decoded messages of one partition, in the order in which they are handed out.
#[derive(Debug, Default)]
pub(crate) struct DecodedBundle {
    /// The read buffer's block while bundles in it are wanted, and whether enough of it is filled for messages to keep it.
    attached: Option<Arc<Block<TopicPartitions>>>,
    is_filled: bool,
    scratch: Scratch,
    snappy: snap::raw::Decoder,
    /// The block that the current messages point into.
    block: Option<Arc<Block<TopicPartitions>>>,
    /// All messages, and how many of them were handed out.
    entries: Vec<Entry>,
    taken: usize,
    /// The partition of all of them, by its index in the block's [`TopicPartitions`].
    partition_index: u32,
    /// Which of the decoded bundles were good.
    good: Good,
}

impl DecodedBundle {
    /// Until [`detach`](DecodedBundle::detach), bundles are ranges of this buffer's block, and the names of their messages come
    /// from it. A buffer that is read into meanwhile takes a new block.
    pub(crate) fn attach(&mut self, buf: &ReadBuf<TopicPartitions>) {
        if self.attached.is_none() {
            self.attached = Some(buf.block().clone());
            self.is_filled = buf.is_worth_sharing();
        }
    }

    /// Forgets the messages.
    pub(crate) fn clear(&mut self) {
        self.block = None;
        self.entries.clear();
        self.taken = 0;
        self.good = Good::default();
    }

    /// Forgets the messages and lets go of the buffer, which can then be read into without a new block.
    pub(crate) fn detach(&mut self) {
        self.clear();
        self.attached = None;
    }

    /// Decodes a bundle of this partition, which replaces what was decoded before.
    ///
    /// # Errors
    /// A bundle that breaks a rule or a limit. The messages of the good bundles before it are kept.
    pub(crate) fn decode(&mut self, bundle: &Bundle, partition_index: u32, limits: &Limits) -> Result<(), DecodeError> {
        self.clear();
        // The room for an outsized bundle is not kept, since another one may never come.
        self.entries.shrink_to(KEPT_ENTRIES.max((bundle.count as usize).saturating_mul(4)));
        self.partition_index = partition_index;
        let Some(attached) = &self.attached else { return Ok(()) };
        let bytes = &attached.bytes;
        let set = bytes.get(bundle.set.clone()).unwrap_or_default();
        let may_keep = self.is_filled && bytes.len() <= SHARED_BLOCK.max(4 * set.len());
        if may_keep && bundle.codec == Codec::None {
            self.block = Some(attached.clone());
            return bundle.decode(set, bundle.set.start, &mut self.entries, &mut self.good);
        }
        let len = match bundle.codec {
            Codec::None => set.len(),
            Codec::Snappy => compress::decompressed_len(set, limits.message_set, bundle.at)?,
        };
        let scratch = block_of(&mut self.scratch, len, &attached.tag);
        // `block_of` returns a block that is not shared.
        let Some(block) = Arc::get_mut(scratch) else { return Ok(()) };
        match bundle.codec {
            Codec::None => block.bytes.get_mut(..len).unwrap_or_default().copy_from_slice(set),
            Codec::Snappy => _ = compress::decompress(&mut self.snappy, set, limits, bundle.at, &mut block.bytes)?,
        }
        let block = self.block.insert(scratch.clone());
        bundle.decode(block.bytes.get(..len).unwrap_or_default(), 0, &mut self.entries, &mut self.good)
    }

    /// Returns all messages, whether they were handed out or not.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the messages that were handed out.
    pub(crate) fn taken(&self) -> &[Entry] {
        self.entries.get(..self.taken).unwrap_or_default()
    }

    /// Returns which of the decoded bundles were good.
    pub(crate) fn good(&self) -> &Good {
        &self.good
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Takes away all messages but the first `len`, before any are handed out.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
    }

    /// Returns the number of the next message to hand out.
    pub(crate) fn next_seq(&self) -> Option<u64> {
        self.entries.get(self.taken).map(|entry| entry.seq)
    }

    /// Returns whether there are messages to hand out.
    #[inline]
    pub(crate) fn has_messages(&self) -> bool {
        self.taken < self.entries.len()
    }

    /// Returns the next message, counted as handed out.
    #[inline]
    pub(crate) fn take_one(&mut self) -> Option<Message> {
        let entry = self.entries.get(self.taken)?;
        let block = self.block.clone()?;
        self.taken += 1;
        Some(Message { block, entry: *entry, partition_index: self.partition_index })
    }

    /// Returns the messages that are left, counted as handed out; `None` if there are none.
    pub(crate) fn take_all(&mut self) -> Option<Batch<'_>> {
        let entries = self.entries.get(self.taken..)?;
        self.taken = self.entries.len();
        if entries.is_empty() {
            return None;
        }
        Some(Batch { block: self.block.as_ref()?, partition_index: self.partition_index, entries })
    }
}

/// Memory for bundles that were compressed, or that lie in a block which messages may not keep alive. There is a block for each
/// size, so that a small bundle after a large one does not keep the large one's memory alive.
type Scratch = [Option<Arc<Block<TopicPartitions>>>; SCRATCH.len() + 1];

/// Returns a block that is not shared, of at least `len` bytes, and at most four times as many or the smallest size.
fn block_of<'a>(blocks: &'a mut Scratch, len: usize, names: &TopicPartitions) -> &'a mut Arc<Block<TopicPartitions>> {
    let class = SCRATCH.iter().position(|&size| len <= size).unwrap_or(SCRATCH.len());
    let size = SCRATCH.get(class).copied().unwrap_or(len);
    let [.., large] = blocks;
    // An outsized block is not kept, since another bundle of that size may never come.
    if class < SCRATCH.len() || large.as_ref().is_some_and(|block| !(len..=4 * len).contains(&block.bytes.len())) {
        *large = None;
    }
    let slot = &mut blocks[class];
    slot.take_if(|block| !Arc::ptr_eq(&block.tag, names) || Arc::get_mut(block).is_none());
    slot.get_or_insert_with(|| Block::new(vec![0; size], names.clone()))
}
