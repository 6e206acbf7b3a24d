//! What the tests of clusters share.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tank_client::broker::{Broker, Cluster};
use tank_client::simulation::Simulation;
use tank_client::{Client, ClientBuilder, ConsumeIter, Message, Start, Subscription};

use common::watch::SOON;

/// What a connection, a request and its answer need in the simulated network at most.
pub(crate) const TRIP: Duration = Duration::from_millis(5);

/// Tries again at once, almost.
pub(crate) fn quick() -> ClientBuilder {
    quickly(Client::builder())
}

pub(crate) fn quickly(builder: ClientBuilder) -> ClientBuilder {
    builder.backoff(Duration::from_millis(1), Duration::from_millis(20))
}

/// The addresses of all nodes, as a user would give them.
pub(crate) fn addrs(cluster: &Cluster) -> String {
    cluster.addrs().iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A cluster with a topic of so many partitions, and a client of it.
pub(crate) fn orders(nodes: usize, partitions: u16) -> (Arc<Cluster>, Client) {
    let cluster = Broker::cluster(nodes).unwrap();
    cluster.create_topic("orders", partitions);
    let client = quick().connect(addrs(&cluster)).unwrap();
    (Arc::new(cluster), client)
}

/// The same in a world of its own, whose nodes confirm nothing that their replicas do not have; `copies` of each message.
pub(crate) fn simulated(nodes: usize, partitions: u16, copies: usize) -> (Simulation, Arc<Cluster>, Client) {
    let sim = Simulation::new(1);
    let cluster = sim.cluster_with(&Broker::cluster_builder(nodes).replication_factor(copies));
    cluster.create_topic("orders", partitions);
    let client = quickly(sim.client()).connect(cluster.brokers()).unwrap();
    (sim, cluster, client)
}

pub(crate) fn all() -> Subscription {
    Subscription::topic("orders").start(Start::Earliest)
}

/// Appends numbers `from..=to`, each in a bundle of its own.
pub(crate) fn append(cluster: &Cluster, partition: u16, from: u64, to: u64) {
    for n in from..=to {
        cluster.node(0).append_payloads("orders", partition, &[n.to_string()]);
    }
}

/// The number of a message that has it for a payload.
pub(crate) fn number(message: &Message) -> u64 {
    assert_eq!(message.payload(), message.seq().to_string().as_bytes());
    message.seq()
}

/// The next `count` messages by partition; their numbers must be their payloads, and follow on each other.
pub(crate) fn take(iter: &mut ConsumeIter, count: usize) -> HashMap<u16, Vec<u64>> {
    let mut got: HashMap<u16, Vec<u64>> = HashMap::new();
    for _ in 0..count {
        let message = iter.next_timeout(SOON).unwrap().expect("a message soon");
        let numbers = got.entry(message.partition()).or_default();
        assert!(numbers.last().is_none_or(|last| last + 1 == number(&message)), "{numbers:?}, then {message:?}");
        numbers.push(message.seq());
    }
    got
}

/// Goes on iterating until the condition holds; nothing may come.
#[track_caller]
pub(crate) fn idle_until(iter: &mut ConsumeIter, condition: impl Fn(&ConsumeIter) -> bool) {
    let short = Duration::from_millis(5);
    for _ in 0..SOON.as_millis() / short.as_millis() {
        if condition(iter) {
            return;
        }
        assert!(iter.next_timeout(short).unwrap().is_none());
    }
    panic!("{:?}", iter.stats());
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> SocketAddrV4 {
    v4(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

pub(crate) fn v4(addr: SocketAddr) -> SocketAddrV4 {
    let SocketAddr::V4(addr) = addr else { panic!("{addr} is not IPv4") };
    addr
}
