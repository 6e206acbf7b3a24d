//! Topics and partitions: who leads, who has a copy, and each copy's log.

use std::net::SocketAddrV4;
use std::sync::Arc;

use super::log::{AppendError, Log, StoredAt};
use super::segment::StoredBundle;
use super::{Layout, Machine};
use crate::net::Time;

/// Who leads a partition, from a node's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leadership {
    Here,
    Elsewhere(SocketAddrV4),
    Nobody,
    /// Nobody yet: the topic is new.
    Electing,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) partitions: Vec<Partition>,
    /// How many nodes have a copy of each partition.
    pub(super) factor: usize,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) layout: Layout,
    /// Whether its log was ever used.
    pub(super) open: bool,
    pub(super) leader: Option<usize>,
    pub(super) electing_until: Time,
    /// The copies; the first one's node leads at first.
    pub(super) replicas: Vec<Replica>,
    /// Nodes whose acknowledgements count.
    pub(super) in_sync: Vec<usize>,
    /// Until when the leader was the only one in sync, if it was: what it stored then it confirmed alone.
    pub(super) alone_until: Time,
    /// Requests that wait for it, and which of their slots it is.
    pub(super) waiting: Vec<(u64, usize)>,
    /// Produce requests whose acknowledgements are awaited.
    pub(super) unconfirmed: Vec<u64>,
    /// Whether its log cannot be opened.
    pub(super) broken: bool,
    /// Whether its log ends in the middle of a bundle, so that nobody can read what is stored from now on.
    pub(super) torn: bool,
    /// What stands in its file `config`, if there is one.
    pub(super) config: Option<String>,
}

/// A node's copy of a partition.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) node: usize,
    pub(super) log: Log,
    /// The mark as this node knows it: the last message that all replicas in sync have. A replica never moves its own.
    pub(super) committed: u64,
    /// Up to where the present leader knows this copy to be complete.
    pub(super) confirmed: u64,
    /// Whether a fetch of it is under way.
    pub(super) fetching: bool,
    /// What the leader had when it fetched last, and since when it has not kept up with that.
    pub(super) target: u64,
    pub(super) behind_since: Option<Time>,
    /// Whether that is going to be looked at.
    pub(super) checking: bool,
    /// Until when the node takes itself for the leader although it was deposed.
    pub(super) leads_on_until: Time,
}

impl Replica {
    pub(super) fn new(node: usize, log: Log) -> Replica {
        Replica {
            node,
            committed: 0,
            confirmed: 0,
            fetching: false,
            target: 0,
            behind_since: None,
            checking: false,
            leads_on_until: Time::ZERO,
            log,
        }
    }
}

impl Partition {
    /// An empty one, led by the first of its replicas.
    pub(super) fn new(layout: Layout, nodes: Vec<usize>) -> Partition {
        Partition {
            layout,
            open: false,
            leader: nodes.first().copied(),
            electing_until: Time::ZERO,
            replicas: nodes.iter().map(|&node| Replica::new(node, Log::default())).collect(),
            in_sync: nodes,
            alone_until: Time::ZERO,
            waiting: Vec::new(),
            unconfirmed: Vec::new(),
            broken: false,
            torn: false,
            config: None,
        }
    }

    pub(super) fn replica(&self, node: usize) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    pub(super) fn replica_mut(&mut self, node: usize) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| replica.node == node)
    }

    /// The nodes that have a copy.
    pub(super) fn nodes(&self) -> std::vec::IntoIter<usize> {
        self.replicas.iter().map(|replica| replica.node).collect::<Vec<_>>().into_iter()
    }

    /// The leader's copy.
    pub(super) fn led(&self) -> Option<&Replica> {
        self.replica(self.leader?)
    }

    /// A node's own copy, or else the leader's, or any.
    pub(super) fn seen_from(&self, node: usize) -> Option<&Replica> {
        self.replica(node).or_else(|| self.led()).or_else(|| self.replicas.first())
    }

    /// The nodes besides the leader whose acknowledgements count.
    pub(super) fn peers(&self) -> impl Iterator<Item = usize> {
        self.in_sync.iter().copied().filter(|&node| Some(node) != self.leader)
    }

    /// Changes every copy in the same way, and takes all of it for committed; what the change of the last one returned.
    pub(super) fn change_all<T>(&mut self, mut act: impl FnMut(&mut Log, Layout) -> T) -> Option<T> {
        let layout = self.layout;
        let mut value = None;
        for replica in &mut self.replicas {
            value = Some(act(&mut replica.log, layout));
            replica.committed = replica.log.last;
            replica.confirmed = replica.log.last;
        }
        value
    }

    /// Stores a bundle at one node.
    pub(super) fn append(
        &mut self,
        node: usize,
        bundle: &StoredBundle,
        first_seq: u64,
        checks_mark_only: bool,
    ) -> Option<Result<StoredAt, AppendError>> {
        let layout = self.layout;
        let replica = self.replica_mut(node)?;
        let floor = if checks_mark_only { replica.committed } else { replica.log.last };
        Some(replica.log.append(bundle, first_seq, floor, layout))
    }

    /// Stores what the log of `node` has taken everywhere else too, at once and as it is.
    pub(super) fn copy_to_all(&mut self, node: usize, bundle: &StoredBundle, stored: &StoredAt) {
        let layout = self.layout;
        for replica in self.replicas.iter_mut().filter(|replica| replica.node != node) {
            // Refused only by a copy that differs already, which none does here.
            let _ = replica.log.append(bundle, stored.base, replica.log.last, layout);
        }
    }
}

impl Machine {
    pub(super) fn partition(&self, topic: &str, partition: u16) -> Option<&Partition> {
        self.topics.get(topic)?.partitions.get(usize::from(partition))
    }

    pub(super) fn partition_mut(&mut self, topic: &str, partition: u16) -> Option<&mut Partition> {
        self.topics.get_mut(topic)?.partitions.get_mut(usize::from(partition))
    }

    pub(super) fn topic_name(&self, topic: &str) -> Option<Arc<str>> {
        self.topics.get_key_value(topic).map(|(name, _)| Arc::clone(name))
    }

    /// All partitions with their topics' names.
    pub(super) fn all_partitions(&self) -> impl Iterator<Item = (&Arc<str>, u16, &Partition)> {
        self.topics.iter().flat_map(|(name, topic)| (0..).zip(&topic.partitions).map(move |(id, p)| (name, id, p)))
    }

    /// The names and numbers of the partitions for which `wanted` holds.
    pub(super) fn partitions_where(&self, wanted: impl Fn(&Partition) -> bool) -> Vec<(Arc<str>, u16)> {
        let wanted = self.all_partitions().filter(|(_, _, partition)| wanted(partition));
        wanted.map(|(name, id, _)| (Arc::clone(name), id)).collect()
    }

    /// Creates a topic, its partitions spread over the nodes in turn; whether there was none of that name.
    pub(crate) fn create_topic(&mut self, name: &str, partitions: u16, factor: Option<usize>) -> bool {
        self.create_topic_with(name, partitions, factor, self.options.layout)
    }

    pub(super) fn create_topic_with(
        &mut self,
        name: &str,
        partitions: u16,
        factor: Option<usize>,
        layout: Layout,
    ) -> bool {
        if self.topics.contains_key(name) {
            return false;
        }
        let nodes = self.nodes.len().max(1);
        let factor = factor.or_else(|| Some(self.cluster.as_ref()?.factor)).unwrap_or(1).clamp(1, nodes);
        let copies = |id: u16| (0..factor).map(|n| (usize::from(id) + n) % nodes).collect();
        let partitions = (0..partitions).map(|id| Partition::new(layout, copies(id))).collect();
        self.topics.insert(name.into(), Topic { partitions, factor });
        self.leader_changes += 1;
        true
    }

    /// Adds a partition to a topic, empty, in the way of [`create_topic`](Machine::create_topic).
    pub(crate) fn add_partition(&mut self, name: &str) {
        let nodes = self.nodes.len().max(1);
        let layout = self.options.layout;
        let Some(topic) = self.topics.get_mut(name) else { return };
        let copies = (0..topic.factor).map(|n| (topic.partitions.len() + n) % nodes).collect();
        topic.partitions.push(Partition::new(layout, copies));
        self.leader_changes += 1;
    }

    /// Returns whether `node` leads a partition, or who does. A partition that does not exist has no leader.
    pub(super) fn leadership(&self, topic: &str, partition: u16, node: usize) -> Leadership {
        let Some(partition) = self.partition(topic, partition) else { return Leadership::Nobody };
        if self.now < partition.electing_until {
            return Leadership::Electing;
        }
        if partition.replica(node).is_some_and(|replica| self.now < replica.leads_on_until) {
            return Leadership::Here;
        }
        match partition.leader {
            None => Leadership::Nobody,
            Some(leader) if leader == node => Leadership::Here,
            Some(leader) => self.nodes.get(leader).map_or(Leadership::Nobody, |n| Leadership::Elsewhere(n.endpoint())),
        }
    }
}
