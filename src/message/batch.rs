//! Messages that were decoded together, borrowed from where they lie.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Message, TopicPartitions, time_of};
use crate::net::Block;
use crate::protocol::bundle::Entry;

/// Consecutive messages of one partition, at least one: those of a bundle that belong to the subscription, or of several
/// small bundles.
///
/// They are borrowed from the iterator: nothing is allocated for them, and no reference count changes.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub(crate) block: &'a Arc<Block<TopicPartitions>>,
    pub(crate) partition_index: u32,
    pub(crate) entries: &'a [Entry],
}

impl<'a> Batch<'a> {
    place_getters!('a);

    #[inline]
    fn message(&self, entry: &'a Entry) -> MessageRef<'a> {
        MessageRef { block: self.block, entry, partition_index: self.partition_index }
    }

    /// Returns how many messages there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns `false`: a batch has at least one message.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the message at this index, counted from 0.
    #[inline]
    pub fn get(&self, index: usize) -> Option<MessageRef<'a>> {
        self.entries.get(index).map(|entry| self.message(entry))
    }

    /// Returns the messages in the order of their numbers.
    pub fn iter(&self) -> BatchIter<'a> {
        BatchIter { batch: *self, entries: self.entries.iter() }
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("topic", &self.topic())
            .field("partition", &self.partition())
            .field("first", &self.entries.first().map(|e| e.seq))
            .field("last", &self.entries.last().map(|e| e.seq))
            .field("len", &self.len())
            .finish()
    }
}

impl<'a> IntoIterator for Batch<'a> {
    type Item = MessageRef<'a>;
    type IntoIter = BatchIter<'a>;

    fn into_iter(self) -> BatchIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &Batch<'a> {
    type Item = MessageRef<'a>;
    type IntoIter = BatchIter<'a>;

    fn into_iter(self) -> BatchIter<'a> {
        self.iter()
    }
}

/// The messages of a [`Batch`].
#[derive(Debug, Clone)]
pub struct BatchIter<'a> {
    batch: Batch<'a>,
    entries: std::slice::Iter<'a, Entry>,
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = MessageRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<MessageRef<'a>> {
        self.entries.next().map(|entry| self.batch.message(entry))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl DoubleEndedIterator for BatchIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entries.next_back().map(|entry| self.batch.message(entry))
    }
}

impl ExactSizeIterator for BatchIter<'_> {}
impl std::iter::FusedIterator for BatchIter<'_> {}

/// A message of a [`Batch`], borrowed.
#[derive(Clone, Copy)]
pub struct MessageRef<'a> {
    block: &'a Arc<Block<TopicPartitions>>,
    entry: &'a Entry,
    partition_index: u32,
}

impl<'a> MessageRef<'a> {
    getters!('a);

    /// Returns an owned message. It shares its memory with its neighbours.
    #[inline]
    pub fn to_message(&self) -> Message {
        Message { block: self.block.clone(), entry: *self.entry, partition_index: self.partition_index }
    }
}

impl fmt::Debug for MessageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_message().fmt(f)
    }
}
