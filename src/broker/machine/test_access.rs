//! What a test puts into logs and looks up there, past the network.

use std::sync::Arc;

use super::log::{AppendError, Log, StoredAt};
use super::partition::Partition;
use super::replication::{copy, with_messages};
use super::segment::StoredBundle;
use super::{Layout, Machine};
use crate::net::Time;

/// A bundle that a leader has stored for a client.
#[derive(Debug, Clone)]
pub(crate) struct Appended {
    pub(crate) at: Time,
    pub(crate) node: usize,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: u16,
    /// The number of its first message.
    pub(crate) first: u64,
    /// With its length prefix.
    pub(crate) bundle: Arc<[u8]>,
}

impl Machine {
    pub(super) fn note(
        &mut self,
        node: usize,
        topic: &Arc<str>,
        partition: u16,
        bundle: &StoredBundle,
        stored: &StoredAt,
    ) {
        if self.options.journal {
            let (topic, bundle) = (Arc::clone(topic), bundle.shared());
            self.journal.push_back(Appended { at: self.now, node, topic, partition, first: stored.base, bundle });
        }
    }

    /// Returns whether there is something new to ask for, in the journal, or in who leads since leaders had changed this often.
    pub(crate) fn has_news(&self, leader_changes: u64) -> bool {
        !self.journal.is_empty() || self.leader_changes != leader_changes
    }

    /// How often leaders have changed and topics were made.
    pub(crate) fn leader_changes(&self) -> u64 {
        self.leader_changes
    }

    /// The oldest bundle stored by request that was not asked for yet, if the options say that they are noted.
    pub(crate) fn appended(&mut self) -> Option<Appended> {
        self.journal.pop_front()
    }

    /// Stores a bundle at all replicas at once, as if it had been published; the number of its first message.
    pub(crate) fn append(
        &mut self,
        now: Time,
        topic: &str,
        id: u16,
        first: u64,
        bundle: &[u8],
    ) -> Option<Result<u64, AppendError>> {
        self.at(now);
        let leader = self.partition(topic, id)?.seen_from(self.partition(topic, id)?.leader.unwrap_or(0))?.node;
        let partition = self.partition_mut(topic, id)?;
        let bundle = match StoredBundle::new(bundle) {
            Ok(bundle) => bundle,
            Err(reason) => return Some(Err(AppendError::Deadly(reason))),
        };
        let stored = match partition.append(leader, &bundle, first, false)? {
            Ok(stored) => stored,
            Err(refused) => return Some(Err(refused)),
        };
        let topic = &*self.topic_name(topic)?;
        self.complete_all(topic, id, leader, &bundle, &stored);
        self.commit_all(topic, id);
        self.arrived(topic, id, leader, &stored);
        Some(Ok(stored.base))
    }

    /// Brings all copies to the end of the leader's.
    fn complete_all(&mut self, topic: &str, id: u16, leader: usize, bundle: &StoredBundle, stored: &StoredAt) {
        let rebundle = self.options.behaviour.replication.as_ref().map(|replication| replication.rebundle);
        let Some(partition) = self.partition_mut(topic, id) else { return };
        match rebundle {
            None => partition.copy_to_all(leader, bundle, stored),
            Some(rebundle) => partition.nodes().for_each(|node| copy(partition, leader, node, usize::MAX, rebundle)),
        }
    }

    /// Takes everything for committed that is in the logs, as far as nodes can know.
    fn commit_all(&mut self, topic: &str, id: u16) {
        let at_once = self.options.behaviour.replication.is_none();
        let Some(partition) = self.partition_mut(topic, id) else { return };
        for replica in &mut partition.replicas {
            replica.confirmed = replica.log.last;
            if at_once || Some(replica.node) == partition.leader {
                replica.committed = replica.log.last;
            }
        }
        if let Some(topic) = self.topic_name(topic) {
            self.recommit(&topic, id);
        }
    }

    /// Changes a partition's log at all replicas at once; `None` if there is no such partition.
    fn change<T>(&mut self, topic: &str, id: u16, act: impl FnMut(&mut Log, Layout) -> T) -> Option<T> {
        self.partition_mut(topic, id)?.change_all(act)
    }

    pub(crate) fn append_repeated(
        &mut self,
        topic: &str,
        id: u16,
        bundles: &[&[u8]],
        times: u64,
    ) -> Option<Result<(), AppendError>> {
        let bundles: Result<Vec<StoredBundle>, _> = bundles.iter().map(|bundle| StoredBundle::new(bundle)).collect();
        match bundles {
            Ok(bundles) => self.change(topic, id, |log, layout| log.append_repeated(&bundles, times, layout)),
            Err(reason) => Some(Err(AppendError::Deadly(reason))),
        }
    }

    pub(crate) fn truncate_front(&mut self, topic: &str, id: u16, first: u64) -> Option<()> {
        self.change(topic, id, |log, _| log.truncate_front(first))
    }

    pub(crate) fn truncate_back(&mut self, topic: &str, id: u16, last: u64) -> Option<()> {
        self.change(topic, id, |log, layout| log.truncate_back(last, layout))
    }

    pub(crate) fn roll_segment(&mut self, topic: &str, id: u16) -> Option<()> {
        self.change(topic, id, |log, _| log.close_segment())
    }

    pub(crate) fn compact(&mut self, topic: &str, id: u16, bundles: &[&[u8]]) -> Option<Result<(), AppendError>> {
        let bundles: Result<Vec<StoredBundle>, _> = bundles.iter().map(|bundle| StoredBundle::new(bundle)).collect();
        match bundles {
            Ok(bundles) => self.change(topic, id, |log, layout| log.compact(&bundles, layout)),
            Err(reason) => Some(Err(AppendError::Deadly(reason))),
        }
    }

    pub(crate) fn clear(&mut self, topic: &str, id: u16) -> Option<()> {
        self.change(topic, id, |log, _| log.clear())
    }

    pub(crate) fn set_config(&mut self, topic: &str, id: u16, text: Option<&str>) -> Option<()> {
        self.partition_mut(topic, id)?.config = text.map(str::to_owned);
        Some(())
    }

    pub(crate) fn set_broken(&mut self, topic: &str, id: u16, broken: bool) -> Option<()> {
        self.partition_mut(topic, id)?.broken = broken;
        Some(())
    }

    /// First number available and last one assigned, at a node or, if that has no copy, at the leader.
    pub(crate) fn bounds(&self, node: usize, topic: &str, id: u16) -> Option<(u64, u64)> {
        let log = &self.partition(topic, id)?.seen_from(node)?.log;
        Some((log.first_available, log.last))
    }

    /// Who leads a partition; the outer `None`: there is no such partition.
    pub(crate) fn leader(&self, topic: &str, id: u16) -> Option<Option<usize>> {
        Some(self.partition(topic, id)?.leader)
    }

    /// Which nodes have a copy of a partition.
    pub(crate) fn replicas(&self, topic: &str, id: u16) -> Option<Vec<usize>> {
        Some(self.partition(topic, id)?.replicas.iter().map(|replica| replica.node).collect())
    }

    /// Which of them are in sync.
    pub(crate) fn in_sync(&self, topic: &str, id: u16) -> Option<Vec<usize>> {
        Some(self.partition(topic, id)?.in_sync.clone())
    }

    pub(crate) fn set_in_sync(&mut self, now: Time, topic: &str, id: u16, nodes: &[usize]) -> Option<()> {
        self.at(now);
        self.partition_mut(topic, id)?.in_sync = nodes.to_vec();
        let topic = self.topic_name(topic)?;
        self.kick(&topic, id);
        Some(())
    }

    /// All topics, and how many partitions they have.
    pub(crate) fn topics(&self) -> Vec<(Arc<str>, u16)> {
        let count = |partitions: &[Partition]| u16::try_from(partitions.len()).unwrap_or(u16::MAX);
        self.topics.iter().map(|(name, topic)| (Arc::clone(name), count(&topic.partitions))).collect()
    }

    /// The payloads in a node's own log, with their numbers, in the order of the file: numbers may repeat and run back.
    pub(crate) fn log_messages(&self, node: usize, topic: &str, id: u16) -> Vec<(u64, Vec<u8>)> {
        let mut messages = Vec::new();
        let log = self.partition(topic, id).and_then(|partition| partition.replica(node)).map(|replica| &replica.log);
        for (base, bundle) in log.into_iter().flat_map(Log::bundles) {
            let _ = with_messages(bundle.bytes(), base, |seq, message| messages.push((seq, message.payload.to_vec())));
        }
        messages
    }

    /// Bytes of the largest bundle of a partition.
    pub(crate) fn largest_bundle(&self, topic: &str, id: u16) -> usize {
        let replicas = self.partition(topic, id).map_or(&[][..], |partition| &partition.replicas);
        let bundles = replicas.iter().flat_map(|replica| replica.log.bundles());
        bundles.map(|(_, bundle)| bundle.bytes().len()).max().unwrap_or(0)
    }

    /// The last number assigned in a node's own log; `None` if it has none.
    pub(crate) fn log_end(&self, node: usize, topic: &str, id: u16) -> Option<u64> {
        Some(self.partition(topic, id)?.replica(node)?.log.last)
    }

    /// Returns whether a node that has stored a number since then may say that it is stored. Another replica has it too, or the
    /// node promises it alone: as the only one in sync, or with a log that it has opened since and takes for committed.
    pub(crate) fn may_confirm(&self, node: usize, topic: &str, id: u16, seq: u64, since: Time) -> bool {
        let Some(partition) = self.partition(topic, id) else { return false };
        let opened = self.nodes.get(node).map_or(Time::ZERO, |node| node.opened);
        let has = |log: &Log| log.after(seq - 1).any(|(base, bundle)| holds(bundle, base, seq));
        partition.replicas.len() == 1
            || partition.alone_until >= since
            || opened >= since
            || partition.replicas.iter().any(|replica| replica.node != node && has(&replica.log))
    }

    /// The mark as a node knows it; `None` if it has no copy.
    pub(crate) fn committed(&self, node: usize, topic: &str, id: u16) -> Option<u64> {
        Some(self.partition(topic, id)?.replica(node)?.committed)
    }
}

fn holds(bundle: &StoredBundle, base: u64, seq: u64) -> bool {
    let next = bundle.head.next(base);
    if !(base..next).contains(&seq) || u64::from(bundle.head.count) == next - base {
        return (base..next).contains(&seq);
    }
    let mut found = false;
    let _ = with_messages(bundle.bytes(), base, |at, _| found |= at == seq);
    found
}

impl Appended {
    /// The payloads with their numbers.
    pub(crate) fn messages(&self) -> Vec<(u64, Vec<u8>)> {
        let mut messages = Vec::new();
        let prefix = self.bundle.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
        let bundle = self.bundle.get(prefix..).unwrap_or_default();
        let _ = with_messages(bundle, self.first, |seq, message| messages.push((seq, message.payload.to_vec())));
        messages
    }
}
