//! The read buffer, and the blocks of memory that messages share with it.

use std::fmt;
use std::sync::Arc;

/// Memory that messages share, with what all of them need to know, so that a message holds one reference count.
pub(crate) struct Block<T> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tag: T,
}

impl<T> Block<T> {
    pub(crate) fn new(bytes: Vec<u8>, tag: T) -> Arc<Block<T>> {
        Arc::new(Block { bytes, tag })
    }
}

/// Shows how many bytes it holds, not which.
impl<T: fmt::Debug> fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("len", &self.bytes.len()).field("tag", &self.tag).finish()
    }
}

/// Bytes that have arrived and have not been used up.
#[derive(Debug)]
pub(crate) struct ReadBuf<T> {
    block: Arc<Block<T>>,
    start: usize,
    end: usize,
    /// The size of the block when little is in it.
    unit: usize,
}

impl<T: Clone> ReadBuf<T> {
    /// Creates an empty buffer. The first read allocates `unit` bytes; more are allocated only for a longer piece.
    pub(crate) fn new(unit: usize, tag: T) -> ReadBuf<T> {
        ReadBuf { block: Block::new(Vec::new(), tag), start: 0, end: 0, unit }
    }

    /// Returns the bytes that have not been used up.
    #[inline]
    pub(crate) fn data(&self) -> &[u8] {
        self.block.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Uses up `n` bytes. They stay readable in the [`block`](ReadBuf::block) until the next fill.
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Returns where [`data`](ReadBuf::data) begins in the block.
    #[inline]
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Returns the memory of the buffer.
    #[inline]
    pub(crate) fn block(&self) -> &Arc<Block<T>> {
        &self.block
    }

    /// Returns whether enough of the block is filled for messages to keep it alive: then they pin at most four times what was
    /// received.
    #[inline]
    pub(crate) fn is_worth_sharing(&self) -> bool {
        self.end >= self.block.bytes.len() / 4
    }

    /// Shares another tag from now on; blocks shared before keep theirs.
    pub(crate) fn set_tag(&mut self, tag: T) {
        match Arc::get_mut(&mut self.block) {
            Some(block) => block.tag = tag,
            None => self.block = Block::new(self.block.bytes.clone(), tag),
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Returns room after the bytes that are there, for some or all of the `need` wanted bytes. [`filled`](ReadBuf::filled)
    /// takes in what was read into it.
    pub(crate) fn room(&mut self, need: usize) -> &mut [u8] {
        self.make_room(need);
        // After `make_room` the block is not shared.
        let block = Arc::get_mut(&mut self.block);
        block.and_then(|block| block.bytes.get_mut(self.end..)).unwrap_or_default()
    }

    /// Takes in the first `n` bytes of the [`room`](ReadBuf::room).
    pub(crate) fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.block.bytes.len());
    }

    /// Makes sure that the block is not shared, and that there is room after the data: for all of `need` if that is little,
    /// otherwise for as many bytes as there are already, so that a peer's claim alone reserves no memory.
    fn make_room(&mut self, need: usize) {
        let len = self.end - self.start;
        let wanted = len + need.min(len.max(self.unit - self.unit / 4)).max(1);
        let size = wanted.next_multiple_of(self.unit);
        let is_right = |block: &&mut Block<T>| (wanted..=4 * size).contains(&block.bytes.len());
        match Arc::get_mut(&mut self.block).filter(is_right) {
            Some(block) => {
                if self.start > 0
                    && (self.start == self.end || block.bytes.len() - self.start < wanted.max(self.unit / 2))
                {
                    block.bytes.copy_within(self.start..self.end, 0);
                    self.start = 0;
                    self.end = len;
                }
            }
            // Messages still share the block, or it is too small or far too large. The system zeroes the memory of a new one, and
            // pages that are never filled cost nothing.
            None => {
                let mut bytes = vec![0; size];
                if let (Some(to), Some(from)) = (bytes.get_mut(..len), self.block.bytes.get(self.start..self.end)) {
                    to.copy_from_slice(from);
                }
                self.block = Block::new(bytes, self.block.tag.clone());
                self.start = 0;
                self.end = len;
            }
        }
    }
}
