//! Several nodes that share their topics (reference, section 14).

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::host::{self, Host};
use super::machine::{ClusterOptions, Machine};
use super::server::Server;
use super::{Broker, BrokerBuilder, there};
use crate::Brokers;
use crate::net::Time;
use crate::protocol::limits::setters;

/// Settings of a [`Cluster`].
///
/// ```
/// use std::time::Duration;
/// use tank_client::Client;
/// use tank_client::broker::{Broker, Cluster, ClusterBuilder};
///
/// let election = Duration::from_millis(50);
/// let settings: ClusterBuilder = Broker::cluster_builder(3).election_time(election);
/// # #[cfg(target_os = "linux")] // has all of 127.0.0.0/8
/// let settings = settings.own_addresses();
/// let cluster: Cluster = settings.broker(Broker::builder().exact_waits()).start()?;
/// let client = Client::connect(cluster.brokers())?;
/// client.create_topic("orders", 4, &Default::default())?; // waits for the leaders
/// assert!(client.topology()?.nodes.len() == 3 && cluster.leader("orders", 3).is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "settings do nothing until a cluster starts with them"]
pub struct ClusterBuilder {
    nodes: usize,
    factor: usize,
    election: Duration,
    own_addresses: bool,
    broker: BrokerBuilder,
}

impl ClusterBuilder {
    setters! {
        /// How long the partitions of a topic created over the network have no leader. Default zero. With real servers it is
        /// some 0.4 seconds, and a produce request in that time can kill one.
        election_time(time: Duration) => election = time;

        /// Lets the first node listen at 127.0.0.1, the second at 127.0.0.2 and so on, which only some systems can. Then only the
        /// first is on the same host as a client that connects from 127.0.0.1 and
        /// [prefers a replica there](crate::Subscription::prefer_local).
        own_addresses() => own_addresses = true;

        /// The settings that nodes share with a stand-alone broker.
        broker(settings: BrokerBuilder) => broker = settings;
    }

    /// How many nodes have a copy of each partition, at most all of them. Default: all of them.
    pub fn replication_factor(mut self, nodes: usize) -> ClusterBuilder {
        self.factor = nodes.clamp(1, self.nodes);
        self
    }

    /// Starts all nodes.
    ///
    /// # Errors
    /// No port is free, no thread can be started, or the system has no such address.
    pub fn start(&self) -> io::Result<Cluster> {
        let addr = |index: usize| match u8::try_from(index + 1) {
            Ok(last) if self.own_addresses => {
                Ok(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), self.broker.port_of(0)?))
            }
            _ => self.broker.port_of(index).map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)),
        };
        let addrs: Vec<SocketAddrV4> = (0..self.nodes).map(addr).collect::<io::Result<_>>()?;
        let server = Server::start(&addrs, self.broker.options().clone(), Some(self.cluster_options()))?;
        let cluster = Cluster::on(Arc::new(server), self.nodes);
        cluster.nodes.iter().try_for_each(Broker::accept_connections)?;
        Ok(cluster)
    }

    /// How many nodes it has, and what each of them is like.
    pub(crate) fn parts(&self) -> (usize, &BrokerBuilder) {
        (self.nodes, &self.broker)
    }

    /// What the nodes have in common.
    pub(crate) fn cluster_options(&self) -> ClusterOptions {
        ClusterOptions { name: "embedded".into(), factor: self.factor, election: self.election }
    }
}

/// Brokers that share their topics. Each partition is led by one of them.
///
/// Nodes are counted from 0 here; in a topology their numbers begin with 1. Methods that change a node's log, such as
/// [`Broker::append`], act on all replicas at once, whichever node leads. Over real sockets, nothing changes by itself: a
/// partition whose leader is gone keeps it until [`fail_over`](Cluster::fail_over) or [`set_leader`](Cluster::set_leader).
/// (Real servers take some 20 seconds.)
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
    host: Arc<dyn Host>,
    nodes: Vec<Broker>,
}

impl Broker {
    /// Starts a cluster of `nodes` nodes, at least one, with every setting at its default.
    ///
    /// # Errors
    /// No port is free, or no thread can be started.
    pub fn cluster(nodes: usize) -> io::Result<Cluster> {
        Broker::cluster_builder(nodes).start()
    }

    /// Returns settings for a cluster of `nodes` nodes, at least one.
    pub fn cluster_builder(nodes: usize) -> ClusterBuilder {
        let nodes = nodes.max(1);
        let election = Duration::ZERO;
        ClusterBuilder { nodes, factor: nodes, election, own_addresses: false, broker: BrokerBuilder::default() }
    }
}

impl Cluster {
    /// The nodes of the machine that `host` has.
    pub(crate) fn on(host: Arc<dyn Host>, nodes: usize) -> Cluster {
        let nodes = (0..nodes).map(|node| Broker::on(Arc::clone(&host), node)).collect();
        Cluster { host, nodes }
    }

    fn act<T>(&self, act: impl FnOnce(&mut Machine, Time) -> T) -> T {
        host::act(&*self.host, act)
    }

    fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        host::look(&*self.host, look)
    }

    /// Returns a node: for its address, counters and faults, and to stop, pause or restart it.
    ///
    /// # Panics
    /// If there is no such node.
    #[track_caller]
    pub fn node(&self, node: usize) -> &Broker {
        &self.nodes[node]
    }

    /// Returns all nodes.
    pub fn nodes(&self) -> &[Broker] {
        &self.nodes
    }

    /// Returns the addresses at which the nodes listen.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Broker::addr).collect()
    }

    /// Returns what a client connects to: all nodes.
    pub fn brokers(&self) -> Brokers {
        self.addrs().into()
    }

    /// Creates a topic whose partitions are led by the nodes in turn, partition 0 by node 0.
    ///
    /// # Panics
    /// If the topic exists.
    #[track_caller]
    pub fn create_topic(&self, topic: &str, partitions: u16) {
        self.nodes[0].create_topic(topic, partitions);
    }

    /// Creates a topic like [`create_topic`](Cluster::create_topic), with a copy of each partition on this many nodes.
    ///
    /// # Panics
    /// If the topic exists.
    #[track_caller]
    pub fn create_topic_with(&self, topic: &str, partitions: u16, replication_factor: usize) {
        self.nodes[0].create_topic_with(topic, partitions, Some(replication_factor));
    }

    /// Returns the node that leads the partition, whether it runs or not.
    ///
    /// # Panics
    /// If there is no such partition.
    #[track_caller]
    pub fn leader(&self, topic: &str, partition: u16) -> Option<usize> {
        there(self.look(|machine| machine.leader(topic, partition)), topic, partition)
    }

    /// Makes a node the partition's leader, or no node. If it has no copy, it gets one in the place of the last replica.
    /// Fetches that wait at the earlier leader are answered without data.
    ///
    /// # Panics
    /// If there is no such partition or node.
    #[track_caller]
    pub fn set_leader(&self, topic: &str, partition: u16, leader: Option<usize>) {
        assert!(leader.is_none_or(|leader| leader < self.nodes.len()), "no node {leader:?}");
        self.leader(topic, partition);
        self.act(|machine, now| machine.set_leader(now, topic, partition, leader));
    }

    /// Returns the nodes that have a copy of the partition.
    ///
    /// # Panics
    /// If there is no such partition.
    #[track_caller]
    pub fn replicas(&self, topic: &str, partition: u16) -> Vec<usize> {
        there(self.look(|machine| machine.replicas(topic, partition)), topic, partition)
    }

    /// Sets which replicas of the partition are in sync, on which required [`Acks`](crate::Acks) depend. With none in sync, a
    /// produce request kills a real server.
    ///
    /// # Panics
    /// If there is no such partition.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tank_client::broker::Broker;
    /// use tank_client::{Acks, Client, Error, Fault, Record};
    ///
    /// let cluster = Broker::cluster(3)?;
    /// cluster.create_topic_with("orders", 1, 3);
    /// cluster.set_leader("orders", 0, Some(2));
    /// cluster.set_in_sync("orders", 0, &[2]);
    /// let impatient = Client::builder().acks(Acks::Quorum).retry_timeout(Duration::ZERO);
    /// let client = impatient.connect(cluster.brokers())?;
    /// let e = client.publish("orders", 0, &[Record::new("tea")]).unwrap_err();
    /// assert!(e.fault() == Some(Fault::InsufficientReplicas), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn set_in_sync(&self, topic: &str, partition: u16, nodes: &[usize]) {
        there(self.act(|machine, now| machine.set_in_sync(now, topic, partition, nodes)), topic, partition);
    }

    /// Makes the cluster notice that a node is gone. The node no longer counts as in sync, except where it is the last one.
    /// Each partition that it led goes to the next running replica in sync, or to no node.
    pub fn fail_over(&self, node: usize) {
        self.act(|machine, now| machine.fail_over(now, node));
    }

    /// Kills a node, as [`Broker::stop`] does. Until a fail-over, clients are redirected to an address where nothing answers.
    ///
    /// # Panics
    /// If there is no such node.
    #[track_caller]
    pub fn kill(&self, node: usize) {
        self.node(node).stop();
    }

    /// Shuts a node down properly. Unlike a [killed](Cluster::kill) node it withdraws its address: until a fail-over, clients
    /// are redirected to 0.0.0.0:0 for the partitions it leads.
    ///
    /// # Panics
    /// If there is no such node.
    #[track_caller]
    pub fn stop_in_order(&self, node: usize) {
        assert!(node < self.nodes.len(), "no node {node}");
        self.act(|machine, now| machine.stop_in_order(now, node));
        self.host.wait_closed();
    }

    /// Returns what [`Broker::killed_by`] does, for all nodes.
    pub fn killed_by(&self) -> Option<String> {
        self.nodes[0].killed_by()
    }
}
