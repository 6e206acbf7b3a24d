//! Where a subscription stands, and what retention took before it got there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// The next sequence number to be delivered from a partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Position {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// The next number; 0 while a partition that begins with its earliest message has delivered nothing.
    pub seq: u64,
}

/// The positions of a subscription: what to store in order to continue later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(pub(super) Vec<Position>);

impl Positions {
    /// All of them, in the order of the subscription.
    pub fn iter(&self) -> std::slice::Iter<'_, Position> {
        self.0.iter()
    }

    /// The next number of a partition, if it belongs to the subscription.
    pub fn get(&self, topic: &str, partition: u16) -> Option<u64> {
        self.0.iter().find(|p| &*p.topic == topic && p.partition == partition).map(|p| p.seq)
    }

    /// As [`set`](Positions::set) for many, however many there are.
    pub(super) fn set_all(&mut self, others: impl Iterator<Item = Position>) {
        let place = |(index, p): (usize, &Position)| ((p.topic.clone(), p.partition), index);
        let mut places: HashMap<_, _> = self.0.iter().enumerate().map(place).collect();
        for position in others {
            match places.entry((position.topic.clone(), position.partition)) {
                Entry::Occupied(place) => self.0[*place.get()].seq = position.seq,
                Entry::Vacant(place) => {
                    place.insert(self.0.len());
                    self.0.push(position);
                }
            }
        }
    }

    /// Sets the next number of a partition, in place of the one it had: for a program that processes messages in another
    /// order than they arrive in.
    pub fn set(&mut self, topic: &str, partition: u16, seq: u64) {
        match self.0.iter_mut().find(|p| &*p.topic == topic && p.partition == partition) {
            Some(position) => position.seq = seq,
            None => self.0.push(Position { topic: topic.into(), partition, seq }),
        }
    }
}

impl<'a> IntoIterator for &'a Positions {
    type Item = &'a Position;
    type IntoIter = std::slice::Iter<'a, Position>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
