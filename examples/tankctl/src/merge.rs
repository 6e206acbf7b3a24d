//! Partitions merged into one stream by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use anyhow::Result;
use tank_client::{Client, ConsumeIter, Message, Positions};

use crate::connect::checked;
use crate::positions::{Place, Range};

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
    pub fn new(client: &Client, places: &[Place], range: Range) -> Result<Merge> {
        let mut lanes = Vec::new();
        for place in places {
            let ids: Vec<u16> = match place.partition {
                Some(id) => vec![id],
                None => client.partitions(&place.topic)?.iter().map(|info| info.id).collect(),
            };
            for id in ids {
                let lane = Place { topic: place.topic.clone(), partition: Some(id) };
                lanes.push(checked(client.subscribe(range.of(&[lane]).stop_at_end()))?);
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

    pub fn positions(&self) -> Positions {
        let mut all = Positions::default();
        for lane in &self.lanes {
            lane.positions().iter().for_each(|place| all.set(&place.topic, place.partition, place.seq));
        }
        all
    }

    fn refill(&mut self) -> tank_client::Result<()> {
        let range = self.range;
        let wanted =
            |message: &tank_client::Result<Message>| message.as_ref().map_or(true, |message| range.has(message));
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
    type Item = tank_client::Result<Message>;

    fn next(&mut self) -> Option<tank_client::Result<Message>> {
        if let Err(e) = self.refill() {
            // Without the head that is missing there is no order.
            self.order.clear();
            self.taken.clear();
            return Some(Err(e));
        }
        // After a signal the heads that are missing may be earlier.
        if self.lanes.iter().any(|lane| lane.close_handle().is_closed()) {
            return None;
        }
        let Reverse((_, lane)) = self.order.pop()?;
        self.taken.push(lane);
        self.heads[lane].take().map(Ok)
    }
}
