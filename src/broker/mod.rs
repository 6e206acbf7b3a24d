//! A TANK broker inside the process, for tests and first steps (feature `broker`).
//!
//! It listens on a port of its own at 127.0.0.1 and keeps its messages in memory. It speaks the protocol as TANK 4.0 does, down
//! to where a chunk ends and which high-water mark an answer carries. On demand it fails in the ways that brokers and networks
//! do: see [`BrokerFault`].
//!
//! # A consumer and its tests
//!
//! This program counts what customers order, and continues where it stopped. Its tests say what it should do when things go
//! wrong. Each has a broker of its own, so they run side by side, and none of them sleeps.
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
//!     let new = Subscription::topic("orders").start(Start::Earliest).resume(checkpoint.positions()).stop_at_end();
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
//!     use tank_client::ErrorKind;
//!     use tank_client::broker::{Broker, BrokerFault, RequestKind};
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
//!     fn continues_where_it_was() {
//!         let (broker, addr, file) = set_up("continues");
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
//!         // After this many bytes of answers, wherever that is.
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
//!         assert!(e.kind == ErrorKind::Decode, "{e}");
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
//!         assert!(matches!(e.kind, ErrorKind::OutOfRange { requested: 4, first_available: 6, .. }), "{e}");
//!     }
//! }
//! ```
//!
//! The chapter [testing your program](crate::guide::testing) lists what each fault is for. The tests of a publisher look the
//! same; [`BrokerFault::LoseAnswer`] shows what a publisher does if it cannot know whether something was stored.
//!
//! # What clients did
//!
//! [`BrokerStats`] counts what clients sent and were sent, and [`Broker::requests`] returns the requests themselves. Programs
//! that need several brokers use a [`Cluster`]. [`Recorder`] and [`Replay`] turn a bug report into a test.
//!
//! Tests that need time-outs, slow networks or fail-overs run faster, and the same way each time, in a
//! [simulation](crate::simulation), which has the same nodes and faults in virtual time.

mod builder;
mod capture;
mod cluster;
mod faults;
pub(crate) mod host;
pub(crate) mod machine;
mod server;
mod stats;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use self::host::Host;
use self::machine::{AppendError, Machine};
use crate::Brokers;
use crate::message::Record;
use crate::net::Time;
use crate::protocol::EncodeError;
use crate::protocol::bundle::{BundleBuilder, Compression};

pub use builder::BrokerBuilder;
pub use capture::{Recorder, Replay};
pub use cluster::{Cluster, ClusterBuilder};
pub use faults::BrokerFault;
pub use stats::{BrokerStats, Request};

pub use crate::protocol::kind::Kind as RequestKind;

/// A broker that serves clients from a thread of this process until it is dropped.
///
/// Its own methods act on it directly, not over the network. Those that name a topic or partition panic if it does not exist:
/// the test is wrong then.
#[derive(Debug)]
pub struct Broker {
    host: Arc<dyn Host>,
    node: usize,
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !self.host.outlives_its_handles() {
            self.stop();
        }
    }
}

impl Broker {
    /// A node of the machine that `host` has.
    pub(crate) fn on(host: Arc<dyn Host>, node: usize) -> Broker {
        Broker { host, node }
    }

    /// What carries it.
    #[cfg(test)]
    pub(crate) fn host(&self) -> Arc<dyn Host> {
        Arc::clone(&self.host)
    }

    /// Starts a broker without topics, with every setting at its default.
    ///
    /// # Errors
    /// No port is free, or no thread can be started.
    pub fn start() -> io::Result<Broker> {
        BrokerBuilder::default().start()
    }

    /// Returns settings for a broker.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Returns the address at which it listens: 127.0.0.1 and a port that stays the same across restarts.
    pub fn addr(&self) -> SocketAddr {
        let unknown = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        self.look(|machine| machine.addr(self.node)).unwrap_or(unknown).into()
    }

    /// Returns what a client connects to.
    pub fn brokers(&self) -> Brokers {
        self.addr().into()
    }

    /// Closes the listener and all connections. Connecting is refused until [`restart`](Broker::restart); topics and
    /// messages stay.
    pub fn stop(&self) {
        self.act(|machine, now| machine.kill(now, self.node));
        self.host.wait_closed();
    }

    /// Serves again on the same port; a broker that still runs is [stopped](Broker::stop) first.
    ///
    /// # Errors
    /// Something else has taken the port, which only some systems allow.
    pub fn restart(&self) -> io::Result<()> {
        self.stop();
        self.host.listen(self.node)
    }

    /// Closes the listener only: connecting is refused until [`accept_connections`](Broker::accept_connections), while
    /// connections that are open are still served.
    ///
    /// ```
    /// use tank_client::Client;
    /// use tank_client::broker::Broker;
    ///
    /// let broker = Broker::start()?;
    /// let client = Client::connect(broker.addr())?;
    /// broker.refuse_connections();
    /// assert!(Client::connect(broker.addr()).is_err());
    /// client.topics()?; // has its connection
    /// broker.disconnect_all();
    /// broker.accept_connections()?;
    /// client.topics()?; // on a new one
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refuse_connections(&self) {
        self.act(|machine, _| machine.refuse(self.node));
        self.host.wait_closed();
    }

    /// Listens again.
    ///
    /// # Errors
    /// As [`restart`](Broker::restart).
    pub fn accept_connections(&self) -> io::Result<()> {
        self.host.listen(self.node)
    }

    /// Makes the broker hang, like a process stopped in a debugger: connections open but get no ping, requests arrive but get
    /// no answer.
    pub fn pause(&self) {
        self.act(|machine, now| machine.pause(now, self.node));
    }

    /// Continues after a [`pause`](Broker::pause), with everything that arrived during it.
    pub fn resume(&self) {
        self.act(|machine, now| machine.resume(now, self.node));
    }

    /// Closes every connection that is open now.
    pub fn disconnect_all(&self) {
        self.act(|machine, now| machine.disconnect_all(now, self.node));
        self.host.wait_closed();
    }

    /// Creates a topic with partitions 0 to `partitions` − 1, all empty.
    ///
    /// # Panics
    /// If the topic exists.
    #[track_caller]
    pub fn create_topic(&self, topic: &str, partitions: u16) {
        self.create_topic_with(topic, partitions, None);
    }

    #[track_caller]
    fn create_topic_with(&self, topic: &str, partitions: u16, factor: Option<usize>) {
        let made = self.act(|machine, _| machine.create_topic(topic, partitions, factor));
        assert!(made, "topic {topic} exists");
    }

    fn act<T>(&self, act: impl FnOnce(&mut Machine, Time) -> T) -> T {
        host::act(&*self.host, act)
    }

    fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        host::look(&*self.host, look)
    }

    /// Stores a bundle as if it had been published. Returns the number of its first message: a dense bundle is numbered after
    /// the last message, a sparse one has its own numbers.
    ///
    /// # Panics
    /// If a server would refuse the bundle's numbers, or be killed by them.
    #[track_caller]
    pub fn append(&self, topic: &str, partition: u16, bundle: &[u8]) -> u64 {
        self.append_at(topic, partition, 0, bundle)
    }

    /// Does the same as [`append`](Broker::append), but numbers a dense bundle from `first` on, as ProduceWithSeqnum does. That
    /// leaves a gap that readers cannot see.
    ///
    /// # Panics
    /// As [`append`](Broker::append).
    ///
    /// ```
    /// use tank_client::broker::{Broker, dense_bundle};
    /// use tank_client::{Client, Compression, Record, Start, Subscription};
    ///
    /// let broker = Broker::start()?;
    /// broker.create_topic("orders", 1);
    /// broker.append_at("orders", 0, 10, &dense_bundle(&[Record::new("tea")], Compression::None));
    /// let orders = Subscription::topic("orders").start(Start::Earliest).limit(1);
    /// let order = Client::connect(broker.addr())?.subscribe(orders)?.next().unwrap()?;
    /// assert_eq!(order.seq(), 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn append_at(&self, topic: &str, partition: u16, first: u64, bundle: &[u8]) -> u64 {
        match self.act(|machine, now| machine.append(now, topic, partition, first, bundle)) {
            Some(Ok(first)) => first,
            Some(Err(AppendError::Number)) => panic!("numbers not above the last one of {topic}/{partition}"),
            Some(Err(AppendError::Deadly(reason))) => panic!("{reason}"),
            None => no_partition(topic, partition),
        }
    }

    /// Stores messages with these payloads, no keys and the time stamp 0 as one dense bundle. Returns the number of the first.
    ///
    /// # Panics
    /// If there are no payloads, or more than a bundle takes.
    #[track_caller]
    pub fn append_payloads(&self, topic: &str, partition: u16, payloads: &[impl AsRef<[u8]>]) -> u64 {
        let records: Vec<_> = payloads.iter().map(Record::new).collect();
        self.append(topic, partition, &dense_bundle(&records, Compression::Auto))
    }

    /// Stores dense bundles `times` over, numbered consecutively, in the memory of one copy. This makes a log of any size.
    ///
    /// # Panics
    /// If there are no bundles, a sparse one, or too many for a log.
    #[track_caller]
    pub fn append_repeated(&self, topic: &str, partition: u16, bundles: &[&[u8]], times: u64) {
        let stored = self.act(|machine, _| machine.append_repeated(topic, partition, bundles, times));
        assert!(there(stored, topic, partition).is_ok(), "nothing to repeat, a sparse bundle, or too many");
    }

    /// Makes `first` the first number available, as retention does. A bundle that begins below it and ends above it stays whole.
    #[track_caller]
    pub fn truncate_front(&self, topic: &str, partition: u16, first: u64) {
        there(self.act(|machine, _| machine.truncate_front(topic, partition, first)), topic, partition);
    }

    /// Removes every bundle with a number above `last`, as a fail-over can.
    ///
    /// ```
    /// use tank_client::broker::Broker;
    /// use tank_client::{Client, ErrorKind, Positions, Subscription};
    ///
    /// let broker = Broker::start()?;
    /// broker.create_topic("orders", 1);
    /// broker.append_payloads("orders", 0, &["tea"]);
    /// broker.append_payloads("orders", 0, &["milk"]);
    /// let saved: Positions = "orders/0=3".parse()?;
    /// broker.truncate_back("orders", 0, 1);
    /// let orders = Subscription::topic("orders").resume(&saved);
    /// let mut orders = Client::connect(broker.addr())?.subscribe(orders)?;
    /// let e = orders.next().unwrap().unwrap_err();
    /// assert!(matches!(e.kind, ErrorKind::OutOfRange { requested: 3, high_water_mark: 1, .. }), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn truncate_back(&self, topic: &str, partition: u16, last: u64) {
        there(self.act(|machine, _| machine.truncate_back(topic, partition, last)), topic, partition);
    }

    /// Closes the active segment: the next bundle begins a new one.
    #[track_caller]
    pub fn roll_segment(&self, topic: &str, partition: u16) {
        there(self.act(|machine, _| machine.roll_segment(topic, partition)), topic, partition);
    }

    /// Replaces the closed segments with these (sparse) bundles, as compaction does. The first available number does not
    /// change.
    ///
    /// ```
    /// use tank_client::broker::{Broker, sparse_bundle};
    /// use tank_client::{Client, Compression, Record, Start, Subscription};
    ///
    /// let broker = Broker::start()?;
    /// broker.create_topic("orders", 1);
    /// broker.append_payloads("orders", 0, &["1", "2", "3", "4"]);
    /// broker.roll_segment("orders", 0);
    /// broker.append_payloads("orders", 0, &["5"]);
    /// // Of the first four only the second and the last are left.
    /// let kept = sparse_bundle(&[(2, Record::new("2")), (4, Record::new("4"))], Compression::None);
    /// broker.compact("orders", 0, &[&kept]);
    /// let orders = Subscription::topic("orders").start(Start::Earliest).stop_at_end();
    /// let orders = Client::connect(broker.addr())?.subscribe(orders)?;
    /// let seqs = orders.map(|order| Ok(order?.seq())).collect::<tank_client::Result<Vec<_>>>()?;
    /// assert_eq!(seqs, [2, 4, 5]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If the bundles' numbers do not grow.
    #[track_caller]
    pub fn compact(&self, topic: &str, partition: u16, bundles: &[&[u8]]) {
        let done = self.act(|machine, _| machine.compact(topic, partition, bundles));
        assert!(there(done, topic, partition).is_ok(), "bundles whose numbers do not grow");
    }

    /// Empties the partition. Its next message has number 1 again, as in a topic that was deleted and created again.
    ///
    /// ```
    /// use tank_client::broker::Broker;
    ///
    /// let broker = Broker::start()?;
    /// broker.create_topic("orders", 1);
    /// broker.append_payloads("orders", 0, &["tea"]);
    /// broker.clear("orders", 0);
    /// assert_eq!(broker.append_payloads("orders", 0, &["milk"]), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn clear(&self, topic: &str, partition: u16) {
        there(self.act(|machine, _| machine.clear(topic, partition)), topic, partition);
    }

    /// Sets the contents of the partition's file `config`, which [`reload_config`](crate::Client::reload_config) makes a broker
    /// read; `None` removes the file.
    ///
    /// ```
    /// use tank_client::Client;
    /// use tank_client::broker::Broker;
    ///
    /// let broker = Broker::start()?;
    /// broker.create_topic("orders", 1);
    /// let client = Client::connect(broker.addr())?;
    /// broker.set_config("orders", 0, Some("log.retention.secs=3600"));
    /// client.reload_config("orders", 0)?;
    /// broker.set_config("orders", 0, None);
    /// assert!(client.reload_config("orders", 0).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn set_config(&self, topic: &str, partition: u16, text: Option<&str>) {
        there(self.act(|machine, _| machine.set_config(topic, partition, text)), topic, partition);
    }

    /// Makes the partition's log impossible to open, or repairs it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tank_client::broker::Broker;
    /// use tank_client::{Client, Error, Fault, Record};
    ///
    /// let broker = Broker::start()?;
    /// broker.create_topic("orders", 1);
    /// broker.set_broken("orders", 0, true);
    /// let client = Client::builder().retry_timeout(Duration::ZERO).connect(broker.addr())?;
    /// let e = client.publish("orders", 0, &[Record::new("tea")]).unwrap_err();
    /// assert!(e.is_outcome_unknown(), "{e:#}"); // it may have been written in part
    ///
    /// broker.set_broken("orders", 0, false);
    /// broker.forget_requests();
    /// client.publish("orders", 0, &[Record::new("tea")])?;
    /// assert_eq!(broker.requests().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn set_broken(&self, topic: &str, partition: u16, broken: bool) {
        there(self.act(|machine, _| machine.set_broken(topic, partition, broken)), topic, partition);
    }

    /// Returns the number of the partition's last message, 0 if there never was one.
    #[track_caller]
    pub fn high_water_mark(&self, topic: &str, partition: u16) -> u64 {
        there(self.look(|machine| machine.bounds(self.node, topic, partition)), topic, partition).1
    }

    /// Returns the number of the first message available, 0 if there never was one.
    #[track_caller]
    pub fn first_available(&self, topic: &str, partition: u16) -> u64 {
        there(self.look(|machine| machine.bounds(self.node, topic, partition)), topic, partition).0
    }

    /// Arms a fault, to fire once.
    ///
    /// # Panics
    /// On a refusal that no broker's answer has.
    ///
    /// ```
    /// use tank_client::broker::{Broker, BrokerFault};
    ///
    /// let broker = Broker::start()?;
    /// broker.inject(BrokerFault::CutAfter(1000));
    /// assert_eq!(broker.pending_faults(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn inject(&self, fault: BrokerFault) {
        self.inject_times(fault, 1);
    }

    /// Arms a fault, to fire this many times, `u64::MAX` for always.
    ///
    /// # Panics
    /// As [`inject`](Broker::inject).
    #[track_caller]
    pub fn inject_times(&self, fault: BrokerFault, times: u64) {
        assert!(fault.is_possible(), "no broker's answer says {fault:?}");
        self.act(|machine, _| machine.inject(self.node, fault, times));
    }

    /// Disarms all faults. A connection that one keeps silent stays so.
    ///
    /// ```
    /// use tank_client::broker::{Broker, BrokerFault};
    ///
    /// let broker = Broker::start()?;
    /// broker.inject_times(BrokerFault::PingBeforeAnswer, u64::MAX);
    /// broker.clear_faults();
    /// assert_eq!(broker.pending_faults(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn clear_faults(&self) {
        self.act(|machine, _| machine.clear_faults(self.node));
    }

    /// Returns how many injected faults have not fired yet.
    pub fn pending_faults(&self) -> usize {
        self.look(|machine| machine.pending_faults(self.node))
    }

    /// Releases the connections that a [`BrokerFault::StallAfter`] keeps silent.
    pub fn release(&self) {
        self.act(|machine, _| machine.release(self.node));
    }

    /// Returns the counters as they are now.
    pub fn stats(&self) -> BrokerStats {
        self.look(|machine| machine.stats(self.node))
    }

    /// Blocks until the counters meet `condition`, but no longer than `timeout`. Returns whether they did. The condition must
    /// not use the broker itself, which is locked during the call.
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
        self.host.wait_until(timeout, &mut |machine| condition(&machine.stats(self.node)))
    }

    /// Returns the requests that arrived, oldest first: the last 1,024 of them.
    pub fn requests(&self) -> Vec<Request> {
        self.look(|machine| machine.requests(self.node))
    }

    /// Forgets the requests that arrived so far. The counters keep them.
    pub fn forget_requests(&self) {
        self.act(|machine, _| machine.forget_requests(self.node));
    }

    /// Returns why a real server would have died, if any client has sent a request that kills one
    /// ([reference](crate::protocol::reference), section 19). This broker closes the connection instead. End tests with
    /// `assert_eq!(broker.killed_by(), None)`.
    pub fn killed_by(&self) -> Option<String> {
        self.look(|machine| machine.killed_by().map(str::to_owned))
    }
}

/// What there is of a partition.
#[track_caller]
fn there<T>(found: Option<T>, topic: &str, partition: u16) -> T {
    found.unwrap_or_else(|| no_partition(topic, partition))
}

#[track_caller]
fn no_partition(topic: &str, partition: u16) -> ! {
    panic!("no partition {topic}/{partition}")
}

/// Encodes records as a dense bundle, which the broker numbers consecutively. Records without a time stamp get 0.
///
/// # Panics
/// If there are no records, or one does not fit into a bundle.
pub fn dense_bundle(records: &[Record<'_>], compression: Compression) -> Vec<u8> {
    bundle(compression, |bundle| records.iter().try_for_each(|record| bundle.push(&record.to_raw(|| 0))))
}

/// Encodes records as a sparse bundle, which holds their numbers. Records without a time stamp get 0.
///
/// # Panics
/// If there are no records, their numbers do not grow, or one does not fit into a bundle.
///
/// ```
/// use tank_client::broker::{Broker, dense_bundle, sparse_bundle};
/// use tank_client::{Compression, Record};
///
/// let broker = Broker::start()?;
/// broker.create_topic("orders", 1);
/// let ada = |ms, payload| Record::new(payload).key("ada").timestamp_ms(ms);
/// let dense = dense_bundle(&[ada(1, "tea"), ada(2, "milk")], Compression::Auto);
/// let sparse = sparse_bundle(&[(5, ada(3, "bread")), (9, ada(4, "salt"))], Compression::Auto);
/// assert_eq!([dense, sparse].map(|bundle| broker.append("orders", 0, &bundle)), [1, 5]);
/// assert_eq!(broker.high_water_mark("orders", 0), 9);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn sparse_bundle(records: &[(u64, Record<'_>)], compression: Compression) -> Vec<u8> {
    bundle(compression, |bundle| {
        records.iter().try_for_each(|(seq, record)| bundle.push_at(*seq, &record.to_raw(|| 0)))
    })
}

fn bundle(compression: Compression, fill: impl FnOnce(&mut BundleBuilder) -> Result<(), EncodeError>) -> Vec<u8> {
    let (mut builder, mut out) = (BundleBuilder::default(), Vec::new());
    fill(&mut builder).and_then(|()| builder.finish(compression, &mut out)).unwrap_or_else(|e| panic!("{e}"));
    out
}
