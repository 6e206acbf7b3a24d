//! Partitions merged into one stream by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use anyhow::Result;
use tank_client::{Client, ConsumeIter, Message, Positions};

use crate::connect::checked;
use crate::positions::{Place, Range};

/// The messages of several partitions up to their present ends. Of the messages that are next in their partitions, the one with
/// the lowest time stamp comes first; if several have it, that of the first partition. So if time stamps never go back in any
/// partition, they never go back in the stream. The order within a partition never changes.
///
/// Each partition has its own subscription, and so its own connection, because the merge decides which one continues.
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

    /// How many numbers are still to be read, in all partitions together.
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
            // While a head is missing there is no order.
            self.order.clear();
            self.taken.clear();
            return Some(Err(e));
        }
        // After a signal, heads may be missing, and those may be earlier than the ones that are here.
        if self.lanes.iter().any(|lane| lane.close_handle().is_closed()) {
            return None;
        }
        let Reverse((_, lane)) = self.order.pop()?;
        self.taken.push(lane);
        self.heads[lane].take().map(Ok)
    }
}
