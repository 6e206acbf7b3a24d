//! Consume requests that wait for data (reference, sections 5.6 and 5.7).

use std::sync::Arc;
use std::time::Duration;

use super::answer::Part;
use super::log::StoredAt;
use super::partition::Partition;
use super::schedule::{Event, Ticket};
use super::{Conn, Machine};
use crate::net::Time;
use crate::protocol::fetch::{self, FetchHeader, FetchRequest, PartitionAnswer, TopicAnswer};

/// To what fetch size and min bytes are cut.
pub(super) const MAX_FETCH: u32 = 64 << 20;

/// The server's clock for expiring waits, in milliseconds.
const CLOCK_MS: u64 = 128;

#[derive(Debug)]
pub(super) struct Wait {
    conn: Conn,
    request_id: u32,
    deadline: Ticket,
    min_bytes: u64,
    /// Bytes that arrived, as far as a server counts them.
    captured: u64,
    slots: Vec<WaitSlot>,
}

#[derive(Debug)]
pub(super) struct WaitSlot {
    topic: Arc<str>,
    partition: u16,
    /// In a cluster, the number an answer with data begins with here.
    start: Option<u64>,
    /// Whether it waits at a replica, where nothing wakes it.
    never_woken: bool,
    /// What arrived, if anything did.
    arrived: Option<StoredAt>,
}

impl WaitSlot {
    pub(super) fn new(topic: Arc<str>, partition: u16, start: Option<u64>, never_woken: bool) -> WaitSlot {
        WaitSlot { topic, partition, start, never_woken, arrived: None }
    }
}

impl Machine {
    pub(super) fn wait(&mut self, conn: Conn, request: &FetchRequest, slots: Vec<WaitSlot>) {
        if self.chance.happens(self.options.behaviour.forgotten_waits) {
            return;
        }
        let id = self.next_id();
        for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| !slot.never_woken) {
            if let Some(partition) = self.partition_mut(&slot.topic, slot.partition) {
                partition.waiting.push((id, index));
            }
        }
        let mut deadline = self.deadline(request.max_wait_ms);
        if self.chance.happens(self.options.behaviour.early_waits) {
            deadline = self.now.after(self.chance.within((Duration::ZERO, deadline.since(self.now))));
        }
        let deadline = self.schedule.at(deadline, Event::WaitExpires { node: conn.node, wait: id });
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.waits.insert(id);
        }
        if let Some(node) = self.nodes.get_mut(conn.node) {
            node.stats.waiting += 1;
        }
        let min_bytes = request.min_bytes.min(MAX_FETCH).into();
        self.waits.insert(id, Wait { conn, request_id: request.request_id, deadline, min_bytes, captured: 0, slots });
    }

    fn deadline(&self, max_wait_ms: u64) -> Time {
        if self.options.exact_waits {
            return self.now.after(Duration::from_millis(max_wait_ms.min(fetch::MAX_WAIT_MS)));
        }
        let end = self.now.since(self.started) + Duration::from_millis(fetch::adjusted_wait_ms(max_wait_ms));
        let ticks = u64::try_from(end.as_millis()).unwrap_or(u64::MAX / 2).next_multiple_of(CLOCK_MS);
        self.started.after(Duration::from_millis(ticks))
    }

    /// Takes a waiting request out of all lists.
    pub(super) fn take_wait(&mut self, id: u64) -> Option<Wait> {
        let wait = self.waits.remove(&id)?;
        self.schedule.cancel(wait.deadline);
        for slot in &wait.slots {
            if let Some(partition) = self.partition_mut(&slot.topic, slot.partition) {
                partition.waiting.retain(|&(waiting, _)| waiting != id);
            }
        }
        if let Some(node) = self.nodes.get_mut(wait.conn.node) {
            node.stats.waiting -= 1;
        }
        if let Some(connection) = self.conns.get_mut(&wait.conn) {
            connection.waits.remove(&id);
        }
        Some(wait)
    }

    /// Answers a waiting request: with what has arrived, or, when its time is over, without it (reference, section 5.7).
    pub(super) fn finish_wait(&mut self, id: u64, with_data: bool) {
        let Some(wait) = self.take_wait(id) else { return };
        let wrong =
            with_data && self.cluster.is_some() && self.chance.happens(self.options.behaviour.wrong_wait_numbers);
        let mut header = FetchHeader { request_id: wait.request_id, topics: Vec::new() };
        let mut chunks = Vec::new();
        for slot in wait.slots {
            let seen = self.partition(&slot.topic, slot.partition).filter(|_| !slot.never_woken);
            let log = seen.and_then(|partition| Some(&partition.replica(wait.conn.node)?.log));
            let (mark, last) = self.marks(seen, wait.conn.node);
            let arrived = match (slot.arrived, log) {
                (Some(stored), Some(log)) if with_data => log.chunk(&stored),
                _ => None,
            };
            let (base, len) = arrived.as_ref().map_or((0, 0), |chunk| (chunk.base, chunk.len()));
            let base = if with_data { slot.start.unwrap_or(base) } else { base };
            let answer = PartitionAnswer::Data {
                base: Some(if wrong && len > 0 && base > 1 { base - 1 } else { base }),
                high_water_mark: if with_data { last } else { mark },
                len: u32::try_from(len).unwrap_or(u32::MAX),
            };
            chunks.extend(arrived.map(Part::Chunk));
            // Topics next to each other become one entry.
            match header.topics.last_mut() {
                Some(topic) if topic.name == slot.topic => topic.partitions.push((slot.partition, answer)),
                _ => header.topics.push(TopicAnswer { name: slot.topic, partitions: vec![(slot.partition, answer)] }),
            }
        }
        if self.answer_fetch(wait.conn, &header, chunks).is_err() {
            self.hang_up(wait.conn);
        }
    }

    /// The mark of an empty answer, and the last number assigned.
    fn marks(&self, partition: Option<&Partition>, node: usize) -> (u64, u64) {
        match partition.and_then(|partition| partition.replica(node)) {
            Some(replica) if self.cluster.is_some() => (replica.committed, replica.log.last),
            Some(replica) => (replica.log.mark, replica.log.last),
            None => (0, 0),
        }
    }

    /// Answers all requests that wait for a partition, as when its leader changes.
    pub(super) fn wake_waits(&mut self, topic: &str, partition: u16) {
        let waiting = self.partition(topic, partition).map_or(Vec::new(), |partition| partition.waiting.clone());
        for (id, _) in waiting {
            self.finish_wait(id, true);
        }
    }

    /// Tells the requests that wait at a node for a partition of a bundle that was stored there.
    pub(super) fn arrived(&mut self, topic: &str, partition: u16, node: usize, stored: &StoredAt) {
        let Some(waiting) = self.partition(topic, partition).map(|partition| &partition.waiting) else { return };
        if waiting.is_empty() {
            return;
        }
        let mut awake = Vec::new();
        for (id, index) in waiting.clone() {
            let Some(wait) = self.waits.get_mut(&id).filter(|wait| wait.conn.node == node) else { continue };
            let Some(slot) = wait.slots.get_mut(index) else { continue };
            let mut switched = false;
            match &mut slot.arrived {
                None => {
                    slot.arrived = Some(*stored);
                    wait.captured = stored.len;
                }
                Some(arrived) if arrived.segment == stored.segment => {
                    arrived.len += stored.len;
                    wait.captured += stored.len;
                }
                Some(_) => switched = true,
            }
            if switched || wait.captured >= wait.min_bytes {
                awake.push(id);
            }
        }
        for id in awake {
            if self.sends_nothing(id) {
                if let Some(wait) = self.take_wait(id) {
                    self.hang_up(wait.conn);
                }
                self.deadly(node, "a consume request in a cluster that waits for several partitions");
            } else {
                self.finish_wait(id, true);
            }
        }
    }

    /// Returns whether the answer would have an empty piece of a file in it, of which nodes of a cluster die.
    fn sends_nothing(&self, id: u64) -> bool {
        let Some(wait) = self.waits.get(&id) else { return false };
        if self.cluster.is_none() {
            return false;
        }
        let holds = |slot: &WaitSlot| {
            let partition = self.partition(&slot.topic, slot.partition);
            partition
                .and_then(|partition| partition.replica(wait.conn.node))
                .is_some_and(|replica| replica.log.last > 0)
        };
        wait.slots.iter().any(|slot| slot.arrived.is_none() && !slot.never_woken && holds(slot))
    }
}
