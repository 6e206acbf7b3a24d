//! How replicas follow their leader, and what that confirms (reference, 6.4 and 6.5).
//!
//! ```text
//!   append at the leader ──> Fetch of each replica, after a delay ──> its log grows, re-bundled, perhaps in part
//!                                ^                                        │
//!                                └─────── the next Fetch confirms it ─────┘ ──> mark, acknowledgements, in-sync set
//! ```
//!
//! With [`Behaviour::at_once`](super::Behaviour::at_once) every copy has everything already, and a node confirms by being alive.

use std::sync::Arc;

use super::Machine;
use super::log::{Log, StoredAt};
use super::partition::Partition;
use super::schedule::Event;
use super::segment::StoredBundle;
use crate::net::Time;
use crate::protocol::bundle::{BundleBuilder, Compression, RawMessage, unpack};

/// The most messages that one fetch of a replica takes.
const FETCH: usize = 2048;

impl Machine {
    /// What a leader has stored is on its way to the replicas.
    pub(super) fn replicate(
        &mut self,
        topic: &Arc<str>,
        id: u16,
        leader: usize,
        bundle: &StoredBundle,
        stored: &StoredAt,
    ) {
        if self.options.behaviour.replication.is_some() {
            self.kick(topic, id);
            return;
        }
        let alive: Vec<bool> = self.nodes.iter().map(super::nodes::Node::is_alive).collect();
        let Some(partition) = self.partition_mut(topic, id) else { return };
        partition.copy_to_all(leader, bundle, stored);
        for replica in partition.replicas.iter_mut().filter(|r| alive.get(r.node).is_some_and(|alive| *alive)) {
            replica.confirmed = replica.log.last;
        }
        self.recommit(topic, id);
    }

    /// Lets the replicas of a partition that have not everything, or have not confirmed it, fetch.
    pub(super) fn kick(&mut self, topic: &Arc<str>, id: u16) {
        let Some(behaviour) = self.options.behaviour.replication.clone() else {
            self.recommit(topic, id);
            return;
        };
        let Some(partition) = self.topics.get_mut(topic).and_then(|t| t.partitions.get_mut(usize::from(id))) else {
            return;
        };
        let Some(leader) = partition.leader else { return };
        let last = partition.led().map_or(0, |led| led.log.last);
        for replica in partition.replicas.iter_mut().filter(|replica| replica.node != leader) {
            if replica.confirmed >= last && partition.in_sync.contains(&replica.node) {
                continue;
            }
            let event = |replica| (Arc::clone(topic), id, replica);
            let since = *replica.behind_since.get_or_insert(self.now);
            if !replica.checking {
                replica.checking = true;
                let (topic, partition, replica) = event(replica.node);
                let at = since.after(behaviour.out_of_sync_after);
                self.schedule.at(at, Event::CheckInSync { topic, partition, replica });
            }
            if !replica.fetching {
                replica.fetching = true;
                let (topic, partition, replica) = event(replica.node);
                let at = self.now.after(self.chance.within(behaviour.delay));
                self.schedule.at(at, Event::Fetch { topic, partition, replica });
            }
        }
        self.recommit(topic, id);
    }

    /// A replica's fetch reaches the leader: it confirms what the replica has, and takes what it has not.
    pub(super) fn fetch(&mut self, topic: &Arc<str>, id: u16, node: usize) {
        let Some(leader) = self.partition(topic, id).and_then(|partition| partition.leader) else {
            self.stop_fetching(topic, id, node);
            return;
        };
        if leader == node || !self.are_connected(leader, node) {
            self.stop_fetching(topic, id, node);
            return;
        }
        let Some(behaviour) = self.options.behaviour.replication.clone() else { return };
        let is_partial = self.chance.happens(behaviour.partial);
        let most = if is_partial { usize::try_from(self.chance.below(20)).unwrap_or(0) + 1 } else { FETCH };
        let Some(partition) = self.partition_mut(topic, id) else { return };
        let Some(last) = partition.led().map(|led| led.log.last) else { return };
        let Some(replica) = partition.replica_mut(node) else { return };
        let has = replica.log.last;
        replica.fetching = false;
        replica.confirmed = has;
        if has >= std::mem::replace(&mut replica.target, last) {
            replica.behind_since = None;
        }
        if has >= last {
            if !partition.in_sync.contains(&node) {
                partition.in_sync.push(node);
            }
        } else {
            copy(partition, leader, node, most, behaviour.rebundle);
        }
        self.kick(topic, id);
    }

    fn stop_fetching(&mut self, topic: &str, id: u16, node: usize) {
        if let Some(replica) = self.partition_mut(topic, id).and_then(|partition| partition.replica_mut(node)) {
            replica.fetching = false;
        }
    }

    /// Takes a replica out of the in-sync set that has not kept up for too long.
    pub(super) fn check_in_sync(&mut self, topic: &Arc<str>, id: u16, node: usize) {
        let Some(limit) = self.options.behaviour.replication.as_ref().map(|r| r.out_of_sync_after) else { return };
        let now = self.now;
        // A leader that is gone judges nobody.
        let leader = self.partition(topic, id).and_then(|partition| partition.leader);
        let judged = leader.is_some_and(|leader| self.is_alive(leader));
        let Some(partition) = self.partition_mut(topic, id) else { return };
        let leads = partition.leader == Some(node);
        let Some(replica) = partition.replica_mut(node) else { return };
        replica.checking = false;
        if !judged {
            replica.behind_since = None;
        }
        let Some(since) = replica.behind_since else { return };
        if leads {
            return;
        }
        if since.after(limit) > now {
            replica.checking = true;
            let again = Event::CheckInSync { topic: Arc::clone(topic), partition: id, replica: node };
            self.schedule.at(since.after(limit), again);
            return;
        }
        partition.in_sync.retain(|&replica| replica != node);
        self.recommit(topic, id);
    }

    /// Moves the leader's mark to what all its peers in sync have confirmed, and answers whom that concerns. Without peers
    /// it stays, unless there is to be one copy only.
    pub(super) fn recommit(&mut self, topic: &Arc<str>, id: u16) {
        let at_once = self.options.behaviour.replication.is_none();
        let now = self.now;
        let alive: Vec<bool> = self.nodes.iter().map(super::nodes::Node::is_alive).collect();
        let Some(topic_state) = self.topics.get_mut(topic) else { return };
        let factor = topic_state.factor;
        let Some(partition) = topic_state.partitions.get_mut(usize::from(id)) else { return };
        let Some(last) = partition.led().map(|led| led.log.last) else { return };
        let confirmed = partition.peers().map(|node| confirms(partition, &alive, node)).min();
        if confirmed.is_none() && factor > 1 {
            partition.alone_until = Time::NEVER;
        } else if partition.alone_until == Time::NEVER {
            partition.alone_until = now;
        }
        let mark = match confirmed {
            _ if factor <= 1 => last,
            Some(confirmed) => confirmed.min(last),
            None => 0,
        };
        for replica in &mut partition.replicas {
            if at_once || Some(replica.node) == partition.leader {
                replica.committed = replica.committed.max(mark);
            }
        }
        for produce in partition.unconfirmed.clone() {
            self.answer_if_confirmed(produce);
        }
    }

    /// Lets a node that answers again catch up with the partitions it has copies of.
    pub(super) fn rejoin(&mut self, node: usize) {
        let at_once = self.options.behaviour.replication.is_none();
        self.elect_again(node);
        for (topic, id) in self.partitions_where(|partition| partition.replica(node).is_some()) {
            let partition = if at_once { self.partition_mut(&topic, id) } else { None };
            if let Some(partition) = partition {
                if !partition.in_sync.contains(&node) {
                    partition.in_sync.push(node);
                }
                if let Some(replica) = partition.replica_mut(node) {
                    replica.confirmed = replica.log.last;
                }
            }
            self.kick(&topic, id);
        }
    }

    /// How many of the leader's peers in sync have confirmed a number, and how many there are.
    pub(super) fn confirmations(&self, partition: &Partition, seq: u64) -> (usize, usize) {
        let alive: Vec<bool> = self.nodes.iter().map(super::nodes::Node::is_alive).collect();
        let confirmed = partition.peers().filter(|&node| confirms(partition, &alive, node) >= seq).count();
        (confirmed, partition.peers().count())
    }
}

/// Up to which number a peer has confirmed; one without a copy, which only a test can name, confirms by being alive.
fn confirms(partition: &Partition, alive: &[bool], node: usize) -> u64 {
    match partition.replica(node) {
        Some(replica) => replica.confirmed,
        None => alive.get(node).filter(|alive| **alive).map_or(0, |_| u64::MAX),
    }
}

/// What a replica takes that has everything up to `seq`, in the bundles it makes of it: each with the number it begins with.
fn taken(log: &Log, seq: u64, most: usize, rebundle: usize) -> Vec<(u64, StoredBundle)> {
    if rebundle == 0 {
        return log.after(seq).take(most).map(|(base, bundle)| (base, bundle.clone())).collect();
    }
    let mut out = Vec::new();
    let mut group = BundleBuilder::default();
    let mut left = most;
    let finish = |group: &mut BundleBuilder, out: &mut Vec<(u64, StoredBundle)>| {
        let Some((first, _)) = group.sparse_range() else { return };
        let mut bytes = Vec::new();
        if group.finish(Compression::Auto, &mut bytes).is_ok() {
            out.extend(StoredBundle::new(&bytes).ok().map(|bundle| (first, bundle)));
        }
    };
    for (base, bundle) in log.after(seq) {
        if left == 0 {
            break;
        }
        let pushed = with_messages(bundle.bytes(), base, |from, message| {
            if from > seq && left > 0 && group.push_at(from, message).is_ok() {
                left -= 1;
                if usize::try_from(group.count()).unwrap_or(usize::MAX) >= rebundle {
                    finish(&mut group, &mut out);
                }
            }
        });
        if pushed.is_none() {
            // Nothing that can be read: as it is.
            finish(&mut group, &mut out);
            out.push((base, bundle.clone()));
            left -= 1;
        }
    }
    finish(&mut group, &mut out);
    out
}

/// Copies to one node what it lacks of the log of another, at most this many messages.
pub(super) fn copy(partition: &mut Partition, from: usize, to: usize, most: usize, rebundle: usize) {
    let layout = partition.layout;
    let has = partition.replica(to).map_or(0, |replica| replica.log.last);
    let Some(source) = partition.replica(from).filter(|_| from != to) else { return };
    let first_available = source.log.first_available;
    let bundles = taken(&source.log, has, most, rebundle);
    let Some(replica) = partition.replica_mut(to) else { return };
    for (base, bundle) in bundles {
        if replica.log.append(&bundle, base, replica.log.last, layout).is_err() {
            return;
        }
        if has == 0 {
            replica.log.first_available = first_available.min(replica.log.first_available);
        }
    }
}

/// Calls `each` with every message of a bundle that begins with the number `base`; `None` if it cannot be read.
pub(super) fn with_messages(bundle: &[u8], base: u64, mut each: impl FnMut(u64, &RawMessage<'_>)) -> Option<()> {
    let (set, entries) = unpack(bundle, base).ok()?;
    for entry in entries {
        each(entry.seq, &entry.message(&set));
    }
    Some(())
}
