//! A TANK broker inside the process, for tests and first steps (feature `broker`).
//!
//! It speaks the protocol as TANK 4.0 does, down to where a chunk ends and which high-water mark an answer carries, on
//! a port of its own at 127.0.0.1, and keeps its messages in memory. On demand it fails in the ways that brokers and
//! networks do; see [`BrokerFault`].
//!
//! # A consumer and its tests
//!
//! A program that counts what customers order, and goes on where it was. Its tests say what is to become of it when things
//! go wrong. Each has a broker of its own, so they run side by side, and none of them sleeps.
//!
//! ```test_harness
//! use std::collections::BTreeMap;
//! use std::path::Path;
//!
//! use tank_client::{Checkpoint, Client, Result, Start, Subscription};
//!
//! /// Adds the orders that are new, such as `ada 3`, to what each customer has ordered before.
//! fn update(client: &Client, file: &Path, cups: &mut BTreeMap<String, u32>) -> Result<()> {
//!     let mut checkpoint = Checkpoint::open(file)?;
//!     let new = Subscription::topic("orders").start(Start::Earliest).resume(&checkpoint).stop_at_end();
//!     let mut orders = client.subscribe(new)?;
//!     while let Some(batch) = orders.next_batch()? {
//!         for order in batch {
//!             let order = String::from_utf8_lossy(order.payload());
//!             let (customer, count) = order.split_once(' ').unwrap_or((&order, "0"));
//!             *cups.entry(customer.to_owned()).or_default() += count.parse().unwrap_or(0);
//!         }
//!     }
//!     checkpoint.save(&orders.positions())
//! }
//!
//! #[cfg(test)]
//! mod tests {
//!     use std::path::PathBuf;
//!     use std::time::Duration;
//!
//!     use tank_client::Error;
//!     use tank_client::broker::{Broker, BrokerFault};
//!     use tank_client::protocol::frame::Kind;
//!
//!     use super::*;
//!
//!     /// A broker with three orders, the address to connect to, and where the program may keep its position.
//!     fn set_up(test: &str) -> (Broker, String, PathBuf) {
//!         let broker = Broker::start().unwrap();
//!         broker.create_topic("orders", 1);
//!         for order in ["ada 3", "ben 1", "ada 2"] {
//!             broker.append_payloads("orders", 0, &[order]);
//!         }
//!         let addr = broker.addr().to_string();
//!         let folder = std::env::temp_dir().join(format!("{test}-{}", std::process::id()));
//!         let _ = std::fs::remove_dir_all(&folder);
//!         std::fs::create_dir_all(&folder).unwrap();
//!         (broker, addr, folder.join("orders.checkpoint"))
//!     }
//!
//!     fn cups(ada: u32, ben: u32) -> BTreeMap<String, u32> {
//!         [("ada".to_owned(), ada), ("ben".to_owned(), ben)].into()
//!     }
//!
//!     #[test]
//!     fn goes_on_where_it_was() {
//!         let (broker, addr, file) = set_up("goes_on");
//!         let client = Client::connect(&addr).unwrap();
//!         let mut found = BTreeMap::new();
//!         update(&client, &file, &mut found).unwrap();
//!         assert_eq!(found, cups(5, 1));
//!
//!         broker.append_payloads("orders", 0, &["ben 7", "ada some"]);
//!         update(&client, &file, &mut found).unwrap();
//!         assert_eq!(found, cups(5, 8));
//!         assert_eq!(broker.killed_by(), None);
//!     }
//!
//!     #[test]
//!     fn loses_and_repeats_nothing_when_connections_break() {
//!         // After so many bytes of answers, wherever that is.
//!         for bytes in (40..140).step_by(5) {
//!             let (broker, addr, file) = set_up("breaks");
//!             let client = Client::builder().backoff(Duration::ZERO, Duration::ZERO).connect(&addr).unwrap();
//!             broker.inject(BrokerFault::CutAfter(bytes));
//!             let mut found = BTreeMap::new();
//!             update(&client, &file, &mut found).unwrap();
//!             assert_eq!((found, broker.stats().faults_fired), (cups(5, 1), 1), "after {bytes} bytes");
//!         }
//!     }
//!
//!     #[test]
//!     fn survives_a_restart_of_the_broker() {
//!         let (broker, addr, file) = set_up("restart");
//!         let client = Client::connect(&addr).unwrap();
//!         broker.restart().unwrap();
//!         let mut found = BTreeMap::new();
//!         update(&client, &file, &mut found).unwrap();
//!         assert_eq!(found, cups(5, 1));
//!     }
//!
//!     #[test]
//!     fn reports_a_broker_that_hangs() {
//!         let (broker, addr, file) = set_up("hangs");
//!         let impatient = Client::builder().io_timeout(Duration::from_millis(100)).retry_timeout(Duration::ZERO);
//!         let client = impatient.connect(&addr).unwrap();
//!         broker.inject(BrokerFault::StallAfter(80));
//!         let e = update(&client, &file, &mut BTreeMap::new()).unwrap_err();
//!         assert!(e.is_timeout(), "{e}");
//!         assert_eq!(broker.stats().faults_fired, 1);
//!     }
//!
//!     #[test]
//!     fn stops_at_damaged_data_and_saves_nothing() {
//!         let (broker, addr, file) = set_up("damage");
//!         broker.inject(BrokerFault::CorruptBundle);
//!         let e = update(&Client::connect(&addr).unwrap(), &file, &mut BTreeMap::new()).unwrap_err();
//!         assert!(matches!(e, Error::Decode { .. }), "{e}");
//!         assert!(!file.exists());
//!     }
//!
//!     #[test]
//!     fn notices_orders_that_were_deleted_unread() {
//!         let (broker, addr, file) = set_up("retention");
//!         let client = Client::connect(&addr).unwrap();
//!         update(&client, &file, &mut BTreeMap::new()).unwrap();
//!         for order in ["ada 1", "ben 1", "ada 4"] {
//!             broker.append_payloads("orders", 0, &[order]);
//!         }
//!         broker.truncate_front("orders", 0, 6);
//!         let e = update(&client, &file, &mut BTreeMap::new()).unwrap_err();
//!         assert!(matches!(e, Error::OutOfRange { requested: 4, first_available: 6, .. }), "{e}");
//!     }
//! }
//! ```
//!
//! The chapter [testing your program](crate::guide::testing) lists which fault is for what. The tests of a publisher look
//! the same; [`BrokerFault::LoseAnswer`] shows what it does if it cannot know whether something was stored.
//!
//! # Looking behind the scenes
//!
//! What clients send and are sent is counted in [`BrokerStats`], and [`Broker::requests`] has the requests themselves. For
//! programs that need several brokers there is a [`Cluster`], and for a bug report that becomes a test, [`Recorder`] and
//! [`Replay`].

mod admin;
mod answer;
mod builder;
mod capture;
mod cluster;
mod connection;
mod consume;
mod faults;
mod lock;
mod log;
mod node;
mod produce;
mod state;
mod stats;
mod writer;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::protocol::bundle::{BundleBuilder, Compression, RawMessage};
use crate::protocol::{DecodeError, DecodeFault};

pub use builder::BrokerBuilder;
pub use capture::{Recorder, Replay};
pub use cluster::{Cluster, ClusterBuilder};
pub use faults::BrokerFault;
use log::{Layout, Log, Refused};
use state::{Node, Partition, Shared, State};
pub use stats::{BrokerStats, Request};

/// A broker that serves clients from threads of this process until it is dropped.
///
/// Its own methods act on it directly, not over the network. Those that name a topic or partition panic if there is no
/// such one: in a test that is a mistake of the test.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    node: usize,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shared.stop(self.node);
    }
}

impl Broker {
    /// Starts a broker without topics, with every setting at its default.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn start() -> io::Result<Broker> {
        BrokerBuilder::default().start()
    }

    /// Settings to choose before the start.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Where it listens: 127.0.0.1 and a port that stays the same over restarts.
    pub fn addr(&self) -> SocketAddr {
        self.shared.lock().nodes[self.node].addr.into()
    }

    /// Closes the listener and all connections. Connecting is refused until [`restart`](Broker::restart); topics and
    /// messages stay.
    pub fn stop(&self) {
        self.shared.stop(self.node);
    }

    /// Serves again on the same port, after a [`stop`](Broker::stop) of whatever still ran.
    ///
    /// # Errors
    /// The port is taken, which can only be where the system does not let it be kept.
    pub fn restart(&self) -> io::Result<()> {
        self.shared.stop(self.node);
        self.shared.listen(self.node)
    }

    /// Closes the listener only: connecting is refused until [`accept_connections`](Broker::accept_connections), while
    /// connections that are open go on.
    pub fn refuse_connections(&self) {
        self.shared.close_listener(self.node);
    }

    /// Listens again.
    ///
    /// # Errors
    /// As [`restart`](Broker::restart).
    pub fn accept_connections(&self) -> io::Result<()> {
        self.shared.listen(self.node)
    }

    /// Hangs, as a stopped process does: connections open but get no ping, requests arrive but get no answer.
    pub fn pause(&self) {
        self.shared.lock().nodes[self.node].paused = true;
    }

    /// Goes on after a [`pause`](Broker::pause), with all that came in meanwhile.
    pub fn resume(&self) {
        let mut state = self.shared.lock();
        let node = &mut state.nodes[self.node];
        node.paused = false;
        node.wake();
        state.rejoin(self.node);
        self.shared.changed.notify_all();
    }

    /// Closes every connection that is open now.
    pub fn disconnect_all(&self) {
        self.shared.lock().nodes[self.node].conns.values_mut().for_each(State::hang_up);
        self.shared.changed.notify_all();
    }

    /// Creates a topic with partitions 0 to `partitions` − 1, all empty.
    ///
    /// # Panics
    /// If the topic exists.
    #[track_caller]
    pub fn create_topic(&self, topic: &str, partitions: u16) {
        let factor = self.shared.lock().cluster.as_ref().map_or(1, |cluster| cluster.factor);
        self.create_topic_with(topic, partitions, factor);
    }

    #[track_caller]
    fn create_topic_with(&self, topic: &str, partitions: u16, factor: usize) {
        let mut state = self.shared.lock();
        let exists = state.topics.contains_key(topic);
        if !exists {
            state.create_topic(topic, partitions, factor, self.shared.options.layout);
        }
        drop(state);
        assert!(!exists, "topic {topic} exists");
    }

    #[track_caller]
    fn with<T>(&self, topic: &str, partition: u16, act: impl FnOnce(&mut Partition) -> T) -> T {
        let mut state = self.shared.lock();
        let value = state.partition(topic, partition).map(act);
        drop(state);
        self.shared.changed.notify_all();
        value.unwrap_or_else(|| panic!("no partition {topic}/{partition}"))
    }

    /// Changes a log, in a cluster at all replicas at once.
    #[track_caller]
    fn change<T>(&self, topic: &str, partition: u16, act: impl FnOnce(&mut Log, Layout) -> T) -> T {
        self.with(topic, partition, |partition| {
            let value = act(&mut partition.log, partition.layout);
            partition.committed = partition.log.last;
            value
        })
    }

    /// Stores a bundle as if it had been published; the number of its first message. A dense one is numbered after the
    /// last message, a sparse one by itself.
    ///
    /// # Panics
    /// On a bundle that a server would refuse for its numbers, or die of.
    #[track_caller]
    pub fn append(&self, topic: &str, partition: u16, bundle: &[u8]) -> u64 {
        self.append_at(topic, partition, 0, bundle)
    }

    /// As [`append`](Broker::append), but a dense bundle is numbered from `first` on, as ProduceWithSeqnum does it. That
    /// leaves a gap that readers cannot see.
    ///
    /// # Panics
    /// As [`append`](Broker::append).
    #[track_caller]
    pub fn append_at(&self, topic: &str, partition: u16, first: u64, bundle: &[u8]) -> u64 {
        let mut state = self.shared.lock();
        let stored = state.partition(topic, partition).map(|partition| {
            let stored = partition.log.append(bundle, first, partition.layout);
            partition.committed = partition.log.last;
            stored
        });
        if let Some(Ok(chunk)) = &stored {
            consume::arrived(&mut state, topic, partition, chunk);
        }
        drop(state);
        self.shared.changed.notify_all();
        match stored {
            Some(Ok(chunk)) => chunk.base,
            Some(Err(Refused::Number)) => panic!("numbers not above the last one of {topic}/{partition}"),
            Some(Err(Refused::Deadly(reason))) => panic!("{reason}"),
            None => panic!("no partition {topic}/{partition}"),
        }
    }

    /// Stores messages with these payloads, no keys and the time stamp 0 as one dense bundle; the number of the first.
    ///
    /// # Panics
    /// Without payloads, or on more than a bundle takes.
    #[track_caller]
    pub fn append_payloads(&self, topic: &str, partition: u16, payloads: &[impl AsRef<[u8]>]) -> u64 {
        let message = |payload| RawMessage { timestamp_ms: 0, key: None, payload };
        let messages: Vec<_> = payloads.iter().map(|payload| message(payload.as_ref())).collect();
        self.append_records(topic, partition, &messages)
    }

    /// Stores the messages as one dense bundle, compressed as producers do; the number of the first.
    ///
    /// # Panics
    /// Without messages, or on one that does not fit into a bundle.
    #[track_caller]
    pub fn append_records(&self, topic: &str, partition: u16, messages: &[RawMessage<'_>]) -> u64 {
        self.append(topic, partition, &dense_bundle(messages, Compression::Auto))
    }

    /// Stores the messages as one sparse bundle with these numbers; the first of them.
    ///
    /// # Panics
    /// Without messages, or on numbers that do not grow from the partition's last one on.
    #[track_caller]
    pub fn append_sparse(&self, topic: &str, partition: u16, messages: &[(u64, RawMessage<'_>)]) -> u64 {
        self.append(topic, partition, &sparse_bundle(messages, Compression::Auto))
    }

    /// Stores dense bundles `times` over, numbered consecutively, in the memory that once takes: a log of any size.
    ///
    /// # Panics
    /// Without bundles, or on a sparse one.
    #[track_caller]
    pub fn append_repeated(&self, topic: &str, partition: u16, bundles: &[&[u8]], times: u64) {
        let stored = self.change(topic, partition, |log, layout| log.append_repeated(bundles, times, layout));
        assert!(stored.is_ok(), "nothing to repeat, or a sparse bundle");
    }

    /// Makes `first` the first number available, as retention does. A bundle that reaches over it stays whole.
    #[track_caller]
    pub fn truncate_front(&self, topic: &str, partition: u16, first: u64) {
        self.change(topic, partition, |log, _| log.truncate_front(first));
    }

    /// Takes away every bundle with a number above `last`, as a fail-over can.
    #[track_caller]
    pub fn truncate_back(&self, topic: &str, partition: u16, last: u64) {
        self.change(topic, partition, |log, layout| log.truncate_back(last, layout));
    }

    /// Closes the active segment: the next bundle begins a new one.
    #[track_caller]
    pub fn roll_segment(&self, topic: &str, partition: u16) {
        self.change(topic, partition, |log, _| log.close_segment());
    }

    /// Puts these (sparse) bundles in the place of the closed segments, as compaction does; the first number available
    /// stays what it was.
    ///
    /// # Panics
    /// On bundles whose numbers do not grow.
    #[track_caller]
    pub fn compact(&self, topic: &str, partition: u16, bundles: &[&[u8]]) {
        let done = self.change(topic, partition, |log, layout| log.compact(bundles, layout));
        assert!(done.is_ok(), "bundles whose numbers do not grow");
    }

    /// Empties the partition: its next message is number 1 again, as after a topic was created anew.
    #[track_caller]
    pub fn clear(&self, topic: &str, partition: u16) {
        self.change(topic, partition, |log, _| *log = Log::default());
    }

    /// What stands in the partition's file `config`, which ReloadConf reads; `None` if there is no such file.
    #[track_caller]
    pub fn set_config(&self, topic: &str, partition: u16, text: Option<&str>) {
        self.with(topic, partition, |partition| partition.config = text.map(str::to_owned));
    }

    /// Makes the partition's log one that cannot be opened, or heals it.
    #[track_caller]
    pub fn set_broken(&self, topic: &str, partition: u16, broken: bool) {
        self.with(topic, partition, |partition| partition.broken = broken);
    }

    /// Number of the partition's last message, 0 if there never was one.
    #[track_caller]
    pub fn high_water_mark(&self, topic: &str, partition: u16) -> u64 {
        self.with(topic, partition, |partition| partition.log.last)
    }

    /// Number of the first message available, 0 if there never was one.
    #[track_caller]
    pub fn first_available(&self, topic: &str, partition: u16) -> u64 {
        self.with(topic, partition, |partition| partition.log.first_available)
    }

    /// Arms a fault, to fire once.
    ///
    /// ```
    /// use tank_client::broker::{Broker, BrokerFault};
    ///
    /// let broker = Broker::start()?;
    /// broker.inject(BrokerFault::CutAfter(1000));
    /// assert_eq!(broker.pending_faults(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn inject(&self, fault: BrokerFault) {
        self.inject_times(fault, 1);
    }

    /// Arms a fault, to fire so many times, `u64::MAX` for always.
    pub fn inject_times(&self, fault: BrokerFault, times: u64) {
        self.shared.lock().nodes[self.node].faults.arm(fault, times);
    }

    /// Disarms all faults. A connection that one keeps silent stays so.
    pub fn clear_faults(&self) {
        self.shared.lock().nodes[self.node].faults.clear();
    }

    /// How many injected faults have not fired as often as they are to.
    pub fn pending_faults(&self) -> usize {
        self.shared.lock().nodes[self.node].faults.pending()
    }

    /// Lets the connections go on that a [`BrokerFault::StallAfter`] keeps silent.
    pub fn release(&self) {
        let mut state = self.shared.lock();
        let node = &mut state.nodes[self.node];
        for conn in node.conns.values_mut() {
            node.stats.stalled -= usize::from(conn.stalled);
            conn.stalled = false;
        }
        node.wake();
        self.shared.changed.notify_all();
    }

    /// The counters as they stand.
    pub fn stats(&self) -> BrokerStats {
        stats(&self.shared.lock().nodes[self.node])
    }

    /// Blocks until the counters meet `condition`; whether they did before the time was over. The condition must not use
    /// the broker itself, which waits for it.
    ///
    /// ```
    /// use std::net::TcpStream;
    /// use std::time::Duration;
    /// use tank_client::broker::Broker;
    ///
    /// let broker = Broker::start()?;
    /// let _connection = TcpStream::connect(broker.addr())?;
    /// assert!(broker.wait_until(Duration::from_secs(10), |stats| stats.open == 1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait_until(&self, timeout: Duration, mut condition: impl FnMut(&BrokerStats) -> bool) -> bool {
        let end = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            if condition(&stats(&state.nodes[self.node])) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The requests that arrived, oldest first; of more than 1,024 the latest.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().nodes[self.node].requests.iter().cloned().collect()
    }

    /// Forgets the requests that arrived so far. The counters keep them.
    pub fn forget_requests(&self) {
        self.shared.lock().nodes[self.node].requests.clear();
    }

    /// Why a real server would have died, if any client has ever sent a request that kills one (reference, section 19).
    /// This broker closes the connection instead. No client may do that, so let tests end with
    /// `assert_eq!(broker.killed_by(), None)`.
    pub fn killed_by(&self) -> Option<String> {
        self.shared.lock().killed_by.clone()
    }
}

fn stats(node: &Node) -> BrokerStats {
    let mut stats = node.stats.clone();
    stats.faults_fired = node.faults.fired;
    stats
}

/// Decodes a request; like a server, whatever follows it.
fn lenient<'a, T>(payload: &'a [u8], decode: impl Fn(&'a [u8]) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    decode(payload).or_else(|e| match e.fault() {
        DecodeFault::Spare { extra } => {
            let len = payload.len().saturating_sub(usize::try_from(extra).unwrap_or(usize::MAX));
            decode(&payload[..len])
        }
        _ => Err(e),
    })
}

/// A dense bundle of these messages, to be appended or sent.
///
/// # Panics
/// Without messages, or on one that does not fit into a bundle.
pub fn dense_bundle(messages: &[RawMessage<'_>], compression: Compression) -> Vec<u8> {
    let mut builder = BundleBuilder::new();
    let mut out = Vec::new();
    let pushed = messages.iter().try_for_each(|message| builder.push(message));
    pushed.and_then(|()| builder.finish(compression, &mut out)).unwrap_or_else(|e| panic!("{e}"));
    out
}

/// A sparse bundle of these messages with these numbers, to be appended or sent.
///
/// # Panics
/// Without messages, or on numbers that do not grow.
pub fn sparse_bundle(messages: &[(u64, RawMessage<'_>)], compression: Compression) -> Vec<u8> {
    let mut builder = BundleBuilder::new();
    let mut out = Vec::new();
    let pushed = messages.iter().try_for_each(|(seq, message)| builder.push_at(*seq, message));
    pushed.and_then(|()| builder.finish(compression, &mut out)).unwrap_or_else(|e| panic!("{e}"));
    out
}
