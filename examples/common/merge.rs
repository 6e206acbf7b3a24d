//! Partitions merged into one stream by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tank_client::{Client, CloseHandle, ConsumeIter, Message, Result};

use super::range::Range;

/// The messages of several partitions up to their present ends: always the one with the lowest time stamp of those that
/// are next in their partitions, the first partition's of equal ones. So partitions whose time stamps do not go back give a
/// stream that does not either; and no partition's own order is ever changed.
///
/// Each partition has a subscription, and so a connection, of its own: the merge must say which of them continues.
pub struct Merge {
    lanes: Vec<ConsumeIter>,
    heads: Vec<Option<Message>>,
    /// Time stamp and lane of each head.
    order: BinaryHeap<Reverse<(u64, usize)>>,
    /// Lanes whose head was handed out.
    taken: Vec<usize>,
    range: Range,
}

impl Merge {
    pub fn new(client: &Client, places: &[(&str, Option<u16>)], range: Range) -> Result<Merge> {
        let mut lanes = Vec::new();
        for &(topic, partition) in places {
            let ids: Vec<u16> = match partition {
                Some(id) => vec![id],
                None => client.partitions(topic)?.iter().map(|info| info.id).collect(),
            };
            for id in ids {
                lanes.push(client.subscribe(range.of(topic, Some(id)).stop_at_end())?);
            }
        }
        let (heads, taken) = (vec![None; lanes.len()], (0..lanes.len()).collect());
        Ok(Merge { lanes, heads, order: BinaryHeap::new(), taken, range })
    }

    pub fn partitions(&self) -> usize {
        self.lanes.len()
    }

    /// How many numbers are ahead, all partitions together.
    pub fn lag(&self) -> u64 {
        self.lanes.iter().map(ConsumeIter::lag).sum()
    }

    pub fn close_handles(&self) -> Vec<CloseHandle> {
        self.lanes.iter().map(ConsumeIter::close_handle).collect()
    }

    fn refill(&mut self) -> Result<()> {
        let range = self.range;
        let wanted = |message: &Result<Message>| message.as_ref().map_or(true, |message| range.has(message));
        while let Some(lane) = self.taken.pop() {
            self.heads[lane] = self.lanes[lane].find(wanted).transpose()?;
            if let Some(head) = &self.heads[lane] {
                self.order.push(Reverse((head.timestamp_ms(), lane)));
            }
        }
        Ok(())
    }
}

impl Iterator for Merge {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Result<Message>> {
        if let Err(e) = self.refill() {
            // Without the head that is missing there is no order.
            self.order.clear();
            self.taken.clear();
            return Some(Err(e));
        }
        let Reverse((_, lane)) = self.order.pop()?;
        self.taken.push(lane);
        self.heads[lane].take().map(Ok)
    }
}
