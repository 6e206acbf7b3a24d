//! What a partition's last chunks held, and how much to ask for next: after a chunk without a wanted message never the same
//! again, and never only a little more.

use super::super::subscription::MAX_FETCH_SIZE;
use crate::protocol::varint;

/// The fetch size grows eightfold at most.
const MOST_DOUBLINGS: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Bytes to ask for next: grown while a bundle is larger than the configured size.
    pub(super) fetch_size: u32,
    /// Bytes of the chunk being read, and whether messages were found in it.
    pub(super) len: u32,
    pub(super) had_messages: bool,
    /// Chunks in a row that were filled with messages to the size asked for.
    full: u32,
    /// Bytes of the last chunk that lay all below the position.
    stale_len: Option<u32>,
    /// The last chunk held only part of one bundle.
    was_cut: bool,
    /// The mark of the last chunk that lay all above it.
    above: Option<u64>,
}

impl Chunks {
    pub(super) fn new(fetch_size: u32) -> Chunks {
        Chunks { fetch_size, ..Chunks::default() }
    }

    pub(super) fn begin(&mut self, len: u32) {
        (self.len, self.had_messages) = (len, false);
    }

    pub(super) fn on_messages(&mut self, fetch_size: u32) {
        *self = Chunks { len: self.len, had_messages: true, full: self.full, ..Chunks::new(fetch_size) };
    }

    /// Notes a chunk that was not filled.
    pub(super) fn on_whole(&mut self) {
        self.full = 0;
    }

    /// How much to ask for, where there is that much, if the fetch size is `configured`: it doubles while chunks are filled, so
    /// that a long line does not stand idle for most of each round trip.
    pub(super) fn ahead(&self, configured: u32) -> u32 {
        configured << self.full.min(MOST_DOUBLINGS)
    }

    /// Asks for more after a chunk that lay entirely below the position. Returns `false` if that did not or cannot help.
    pub(super) fn on_stale(&mut self) -> bool {
        let (len, asked) = (self.len, self.fetch_size);
        self.fetch_size = asked.saturating_mul(2).min(MAX_FETCH_SIZE).max(asked);
        let grew = self.stale_len.replace(len).is_none_or(|before| len > before);
        grew && self.fetch_size > asked
    }

    /// Asks for a cut bundle of `needed` bytes with its length prefix, 0 if that was cut too, or for more than before.
    ///
    /// # Errors
    /// The bytes that it takes, at least: more than are allowed.
    pub(super) fn on_cut(&mut self, needed: u64, bundle_limit: u32) -> Result<(), u64> {
        let limit = u64::from(bundle_limit) + varint::MAX_LEN as u64;
        let (asked, found) = (u64::from(self.fetch_size), self.had_messages);
        self.full = if found { self.full.saturating_add(1) } else { 0 };
        if !found && (needed > limit || asked >= limit) {
            return Err(needed.max(asked + 1));
        }
        // A bundle that is cut again, or not the one that was cut before, must not make this creep.
        let creeps = std::mem::replace(&mut self.was_cut, !found) || needed <= asked;
        let size = if !found && creeps { needed.max(asked * 2) } else { needed.max(asked) };
        self.fetch_size = u32::try_from(size.min(limit)).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Whether the mark has moved since the last chunk that lay all above it, as this one does.
    pub(super) fn mark_moved(&mut self, mark: u64) -> bool {
        self.above.replace(mark).is_some_and(|before| before != mark)
    }
}
