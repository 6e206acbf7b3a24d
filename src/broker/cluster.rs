//! Several nodes that share their topics (reference, section 14).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::state::{ClusterState, Node, Partition, Shared, State};
use super::{Broker, BrokerBuilder, consume};

/// Settings of a [`Cluster`] that hold from its start on.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    nodes: usize,
    factor: usize,
    election: Duration,
    own_addresses: bool,
    broker: BrokerBuilder,
}

impl ClusterBuilder {
    /// On how many nodes each partition has a copy, at most on all of them. Default all of them.
    #[must_use]
    pub fn replication_factor(mut self, nodes: usize) -> ClusterBuilder {
        self.factor = nodes.clamp(1, self.nodes);
        self
    }

    /// How long the partitions of a topic created over the network have no leader. Default zero; some 0.4 s with real
    /// servers, which a produce request in that time can kill.
    #[must_use]
    pub fn election_time(mut self, time: Duration) -> ClusterBuilder {
        self.election = time;
        self
    }

    /// Lets the first node listen at 127.0.0.1, the second at 127.0.0.2 and so on, which only some systems can, so that
    /// just the first is on the host of a client that connects from 127.0.0.1 and prefers a replica there.
    #[must_use]
    pub fn own_addresses(mut self) -> ClusterBuilder {
        self.own_addresses = true;
        self
    }

    /// What every node has in common with a broker that stands alone.
    #[must_use]
    pub fn broker(mut self, settings: BrokerBuilder) -> ClusterBuilder {
        self.broker = settings;
        self
    }

    /// Starts all nodes.
    ///
    /// # Errors
    /// No port, no thread, or no such address.
    pub fn start(&self) -> io::Result<Cluster> {
        let ip = |index: usize| match u8::try_from(index + 1) {
            Ok(last) if self.own_addresses => Ipv4Addr::new(127, 0, 0, last),
            _ => Ipv4Addr::LOCALHOST,
        };
        let nodes: Vec<Node> = (0..self.nodes).map(|index| Node::reserve(ip(index))).collect::<io::Result<_>>()?;
        let cluster = ClusterState { name: "embedded".into(), factor: self.factor, election: self.election };
        let state = State { nodes, cluster: Some(cluster), ..State::default() };
        let shared = Arc::new(Shared::new(self.broker.options.clone(), state));
        let nodes: Vec<Broker> = (0..self.nodes).map(|node| Broker { shared: Arc::clone(&shared), node }).collect();
        nodes.iter().try_for_each(|node| shared.listen(node.node))?;
        Ok(Cluster { shared, nodes })
    }
}

/// Brokers that share their topics; each partition is led by one of them.
///
/// Nodes are counted from 0 here; in a topology their numbers begin with 1. What a node's own methods do to a log, such as
/// [`Broker::append`], happens at all its replicas at once, whoever leads. Nothing changes by itself: a partition whose
/// leader is gone keeps it until [`fail_over`](Cluster::fail_over) or [`set_leader`](Cluster::set_leader), as it does for
/// some 20 s with real servers.
///
/// ```
/// use tank_client::broker::Broker;
///
/// let cluster = Broker::cluster(3)?;
/// cluster.create_topic("orders", 6);
/// assert_eq!(cluster.leader("orders", 4), Some(1));
/// cluster.node(1).stop();
/// cluster.fail_over(1);
/// assert_eq!(cluster.leader("orders", 4), Some(2));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    nodes: Vec<Broker>,
}

impl Broker {
    /// Starts a cluster of so many nodes, at least one, with every setting at its default.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn cluster(nodes: usize) -> io::Result<Cluster> {
        Broker::cluster_builder(nodes).start()
    }

    /// Settings to choose before a cluster of so many nodes, at least one, starts.
    pub fn cluster_builder(nodes: usize) -> ClusterBuilder {
        let nodes = nodes.max(1);
        let election = Duration::ZERO;
        ClusterBuilder { nodes, factor: nodes, election, own_addresses: false, broker: BrokerBuilder::default() }
    }
}

impl Cluster {
    /// A node: its address, counters, faults; stopping, hanging and restarting it.
    ///
    /// # Panics
    /// If there is no such node.
    #[track_caller]
    pub fn node(&self, node: usize) -> &Broker {
        &self.nodes[node]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Broker] {
        &self.nodes
    }

    /// Where the nodes listen.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Broker::addr).collect()
    }

    /// Creates a topic whose partitions are led by the nodes in turn, partition 0 by node 0.
    ///
    /// # Panics
    /// If the topic exists.
    #[track_caller]
    pub fn create_topic(&self, topic: &str, partitions: u16) {
        self.nodes[0].create_topic(topic, partitions);
    }

    /// As [`create_topic`](Cluster::create_topic), with a copy of each partition on so many nodes.
    ///
    /// # Panics
    /// If the topic exists.
    #[track_caller]
    pub fn create_topic_with(&self, topic: &str, partitions: u16, replication_factor: usize) {
        self.nodes[0].create_topic_with(topic, partitions, replication_factor.clamp(1, self.nodes.len()));
    }

    #[track_caller]
    fn with<T>(&self, topic: &str, partition: u16, act: impl FnOnce(&mut Partition) -> T) -> T {
        self.nodes[0].with(topic, partition, act)
    }

    /// Which node leads the partition, whether it runs or not.
    ///
    /// # Panics
    /// If there is no such partition.
    #[track_caller]
    pub fn leader(&self, topic: &str, partition: u16) -> Option<usize> {
        self.with(topic, partition, |partition| partition.leader)
    }

    /// Makes a node the partition's leader, or no node. If it has no copy, it gets one in the place of the last replica.
    /// Requests that wait at the leader before are answered, empty.
    ///
    /// # Panics
    /// If there is no such partition or node.
    #[track_caller]
    pub fn set_leader(&self, topic: &str, partition: u16, leader: Option<usize>) {
        assert!(leader.is_none_or(|leader| leader < self.nodes.len()), "no node {leader:?}");
        self.with(topic, partition, |partition| {
            partition.leader = leader;
            partition.electing_until = None;
            let Some(leader) = leader else { return };
            if !partition.replicas.contains(&leader) {
                let replaced = partition.replicas.pop();
                partition.in_sync.retain(|&node| Some(node) != replaced);
                partition.replicas.push(leader);
            }
            if !partition.in_sync.contains(&leader) {
                partition.in_sync.push(leader);
            }
        });
        consume::wake(&mut self.shared.lock(), topic, partition);
        self.shared.changed.notify_all();
    }

    /// Which nodes have a copy of the partition.
    ///
    /// # Panics
    /// If there is no such partition.
    #[track_caller]
    pub fn replicas(&self, topic: &str, partition: u16) -> Vec<usize> {
        self.with(topic, partition, |partition| partition.replicas.clone())
    }

    /// Says which replicas of the partition are in sync, which decides about required acks. With none, a produce request
    /// kills a server.
    ///
    /// # Panics
    /// If there is no such partition.
    #[track_caller]
    pub fn set_in_sync(&self, topic: &str, partition: u16, nodes: &[usize]) {
        self.with(topic, partition, |partition| partition.in_sync = nodes.to_vec());
    }

    /// Notices that a node is gone: takes it out of all in-sync sets where it is not the last, and gives each partition it
    /// leads to the next replica in sync that runs, or to no node.
    pub fn fail_over(&self, node: usize) {
        let mut state = self.shared.lock();
        let mut moved = Vec::new();
        let alive: Vec<bool> = state.nodes.iter().map(Node::is_alive).collect();
        for (name, topic) in &mut state.topics {
            for (id, partition) in topic.partitions.iter_mut().enumerate() {
                if partition.in_sync != [node] {
                    partition.in_sync.retain(|&replica| replica != node);
                }
                if partition.leader == Some(node) {
                    let mut replicas = partition.replicas.iter().copied();
                    partition.leader = replicas.find(|&to| partition.in_sync.contains(&to) && alive[to]);
                    moved.push((Arc::clone(name), u16::try_from(id).unwrap_or(u16::MAX)));
                }
            }
        }
        for (topic, partition) in moved {
            consume::wake(&mut state, &topic, partition);
        }
        self.shared.changed.notify_all();
    }

    /// Stops a node the orderly way: it takes its address back, so that until a fail-over clients are sent to 0.0.0.0:0
    /// for what it leads. [`Broker::stop`] is the other way: clients are sent to where nobody answers.
    ///
    /// # Panics
    /// If there is no such node.
    #[track_caller]
    pub fn stop_in_order(&self, node: usize) {
        self.nodes[node].stop();
        self.shared.lock().nodes[node].registered = false;
    }

    /// See [`Broker::killed_by`]; of all nodes together.
    pub fn killed_by(&self) -> Option<String> {
        self.nodes[0].killed_by()
    }
}
