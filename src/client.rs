//! [`Client`] and its settings. Its calls go to the [`Session`] and the machines, which do the work.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use crate::TopicConfig;
use crate::admin::{self, BrokerStatus, PartitionInfo};
use crate::brokers::Brokers;
use crate::config::{Acks, Config, EndpointMap, setters};
use crate::consume::{CloseHandle, ConsumeIter, Subscription, seq_at, subscribe};
use crate::error::Result;
use crate::message::Record;
use crate::net::{Closed, Network, System, parse_brokers};
use crate::produce::{PartitionRecords, ProducerBuilder, Publish, Publisher};
use crate::protocol::Limits;
use crate::protocol::admin::Topology;
use crate::protocol::admin::topics::TopicInfo;
use crate::protocol::bundle::Compression;
use crate::session::Session;

/// A connection to TANK: to one broker or to a cluster.
///
/// A client is cheap to clone, and threads may share it. A [`ConsumeIter`] has its own connections, so a client can publish
/// while you iterate.
///
/// The guide has a [table](crate::guide::time_outs#what-each-call-waits-for) of how long each call may wait.
#[derive(Clone)]
pub struct Client {
    pub(crate) session: Arc<Session>,
    /// Made by the first call that publishes.
    publisher: Arc<OnceLock<Box<dyn Publish>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brokers: Vec<String> = self.session.book.brokers().iter().take(3).map(ToString::to_string).collect();
        f.debug_struct("Client").field("brokers", &brokers).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects with default settings to the first of the [brokers](Brokers) that answers: `host`, `host:port`, several
    /// separated by commas, a [`SocketAddr`](std::net::SocketAddr), or a list of these. The port defaults to 11011.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) for a malformed address; otherwise a
    /// [network error](crate::guide::errors#network-errors).
    pub fn connect(brokers: impl Into<Brokers>) -> Result<Client> {
        Client::builder().connect(brokers)
    }

    /// Returns settings to connect with, all at their defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Starts to read. When this returns, the first fetches (Consume requests) have been sent, so nothing published
    /// afterwards is missed, unless a cluster's partition has no leader.
    ///
    /// If no broker can be reached, it retries for up to [`retry_timeout`](ClientBuilder::retry_timeout). It does not wait
    /// for a partition without a leader, or for a leader that is unreachable. Such a partition starts when its leader
    /// answers: with a stand-alone broker, at the position it had when you subscribed. In a cluster,
    /// [`Latest`](crate::Start::Latest) and [`Last`](crate::Start::Last) then count from the end of the log at that time.
    /// Only a [start by time](crate::Start::Time) waits for the partition's leader, for up to `retry_timeout`.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) for a subscription that cannot work; [`Broker`](crate::ErrorKind::Broker) for an
    /// unknown topic or partition; [`Closed`](crate::ErrorKind::Closed) if a [handle](Subscription::close_with) was closed
    /// before it returned; otherwise a [network error](crate::guide::errors#network-errors).
    pub fn subscribe(&self, what: impl Into<Subscription>) -> Result<ConsumeIter> {
        subscribe(&self.session, what.into())
    }

    /// Returns the number of the first message with this time stamp or a later one, or the high-water mark + 1 if there is none.
    ///
    /// The search is a bisection: at most 64 or so fetches of a bundle each. It assumes that time stamps never decrease. If
    /// they do, messages before the one found may have such a time stamp, too: subtract from `time` as much as your clocks
    /// may differ.
    ///
    /// # Errors
    /// The [errors of reading](ConsumeIter#errors), or [`Closed`](crate::ErrorKind::Closed).
    pub fn seq_at(&self, topic: &str, partition: u16, time: SystemTime) -> Result<u64> {
        seq_at(&self.session, topic, partition, time)
    }

    /// Returns the partitions of a topic with their first and last sequence numbers (a DiscoverPartitions request to any
    /// broker). In a cluster, each leader is also asked for the ends of its logs.
    ///
    /// # Errors
    /// [`Broker`](crate::ErrorKind::Broker) if the topic is unknown, or a partition cannot be opened or has no leader now;
    /// otherwise a [network error](crate::guide::errors#network-errors).
    pub fn partitions(&self, topic: &str) -> Result<Vec<PartitionInfo>> {
        admin::partitions(&self.session, topic)
    }

    /// Publishes records to a partition, as one bundle (a Produce request), and waits until they are stored.
    ///
    /// More than 65,535 records, or more than 32 MiB of them, take several bundles, which are sent one after the other. Either
    /// all records of a bundle are stored or none; after a fail-over, a new leader may have only the first ones.
    ///
    /// A bundle that was certainly not stored is retried for up to [`retry_timeout`](crate::ClientBuilder::retry_timeout) if
    /// the broker cannot be reached or closed the connection before it had the whole request, if another node leads the
    /// partition or none does, or if too few replicas are in sync.
    ///
    /// ```no_run
    /// # use tank_client::{Client, Record};
    /// # let client = Client::connect("localhost")?;
    /// client.publish("orders", 0, &[Record::new("two pounds of tea").key("customer 7"), Record::new("milk")])?;
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// * Not stored: [`Config`](crate::ErrorKind::Config) or [`BundleTooLarge`](crate::ErrorKind::BundleTooLarge) for records
    ///   that cannot be sent; [`Broker`](crate::ErrorKind::Broker) if the topic or partition is unknown, read-only or without
    ///   a leader, or too few replicas are in sync; otherwise a [network error](crate::guide::errors#network-errors).
    /// * Perhaps stored: [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown), if the request was sent and its answer was
    ///   lost, or if it says that the broker had trouble while writing or that too few replicas confirmed in time. The
    ///   records are not sent again, because that could store them twice.
    /// * Partly stored: [`PartlyStored`](crate::ErrorKind::PartlyStored), if there were several bundles and a later one failed.
    pub fn publish(&self, topic: &str, partition: u16, records: &[Record<'_>]) -> Result<()> {
        self.publish_one(PartitionRecords::new(topic, partition, records))
    }

    /// Publishes records to several partitions, of any topics, and waits until each is stored or has failed. Returns a result
    /// for each partition, in the order given.
    ///
    /// Records for the same broker share a request of up to 255 partitions and about 8 MiB; the rest goes into the next request.
    /// A larger bundle is sent in a request of its own. Partitions do not depend on each other: some may be stored while others
    /// fail.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) or [`BundleTooLarge`](crate::ErrorKind::BundleTooLarge), before anything is sent,
    /// if some of the records cannot be sent, or two lists are for the same partition. The results of partitions are those of
    /// [`publish`](Client::publish).
    pub fn publish_all(&self, records: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>> {
        self.publisher.get_or_init(|| Box::new(Publisher::default())).publish_all(&self.session, records)
    }

    fn publish_one(&self, records: PartitionRecords<'_>) -> Result<()> {
        self.publish_all(&[records])?.pop().unwrap_or(Ok(()))
    }

    /// Publishes records with explicit sequence numbers, which grow from record to record and may leave gaps (a
    /// ProduceWithSeqnum request). Use it to copy a partition.
    ///
    /// The numbers must lie above the partition's high-water mark, which the client asks for first, so there can be only one
    /// writer at a time. Numbers that lie 2^31 or more above the mark can kill a server and are refused. In an empty
    /// partition, they are counted from the first number of the call. The client does not notice if several calls together
    /// stretch a segment that far.
    ///
    /// Gaps are logged, in one warning per call, because a TANK server can die when a consumer asks for a number [inside a
    /// gap](crate::guide::positions#a-gap-that-kills-a-server).
    ///
    /// # Errors
    /// [`Broker`](crate::ErrorKind::Broker) with [`Fault::SeqNotAbove`](crate::Fault::SeqNotAbove) or
    /// [`Fault::SeqTooFar`](crate::Fault::SeqTooFar) for numbers that the partition does not accept; otherwise those of
    /// [`publish`](Client::publish). After [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown) the high-water mark tells
    /// what was stored: a bundle is stored whole or not at all, and no number twice.
    pub fn publish_at(&self, topic: &str, partition: u16, records: &[(u64, Record<'_>)]) -> Result<()> {
        self.publish_one(PartitionRecords::numbered(topic, partition, records))
    }

    /// Returns settings for a producer, which collects records and sends them in bundles.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.session.clone())
    }

    /// Creates a topic with partitions 0 to `partitions` − 1 (a CreateTopic request), and returns once it can be used.
    ///
    /// A cluster accepts at most 64 partitions, takes a moment to find leaders for them, and ignores the configuration.
    ///
    /// ```no_run
    /// # use tank_client::{Client, TopicConfig};
    /// # let client = Client::connect("localhost")?;
    /// client.create_topic("orders", 8, &TopicConfig::new())?;
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config), with nothing created, for a name or number of partitions that a broker refuses:
    /// a name has 1 to 64 ASCII letters, digits and, between them, `-` and `_`. [`Broker`](crate::ErrorKind::Broker) if the
    /// topic exists, the broker is read-only or has trouble with its files, or if the partitions were created but have no
    /// leader within [`retry_timeout`](crate::ClientBuilder::retry_timeout).
    /// [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown) if the request was sent and its answer lost: the topic may exist
    /// or not. Otherwise a [network error](crate::guide::errors#network-errors).
    pub fn create_topic(&self, topic: &str, partitions: u16, config: &TopicConfig) -> Result<()> {
        admin::create_topic(&self.session, topic, partitions, config)
    }

    /// Returns the topics in the order of their names (a DiscoverTopics request).
    ///
    /// # Errors
    /// A [network error](crate::guide::errors#network-errors).
    pub fn topics(&self) -> Result<Vec<TopicInfo>> {
        admin::topics(&self.session)
    }

    /// Returns the nodes of the cluster (a DiscoverTopology request).
    ///
    /// # Errors
    /// A [network error](crate::guide::errors#network-errors).
    pub fn topology(&self) -> Result<Topology> {
        admin::topology(&self.session)
    }

    /// Returns the state of the broker, or of the first one that answers (a Status request).
    ///
    /// # Errors
    /// A [network error](crate::guide::errors#network-errors).
    pub fn status(&self) -> Result<BrokerStatus> {
        admin::status(&self.session)
    }

    /// Makes the broker read the file `config` in the partition's folder again (a ReloadConf request).
    ///
    /// # Errors
    /// [`Broker`](crate::ErrorKind::Broker) if the topic or partition is unknown, if the file is missing, empty or does not
    /// parse, or if the broker is part of a cluster; otherwise a [network error](crate::guide::errors#network-errors).
    pub fn reload_config(&self, topic: &str, partition: u16) -> Result<()> {
        admin::reload_config(&self.session, topic, partition)
    }

    /// Measures how long the broker takes to answer the smallest request, Status, on a connection that is already open.
    /// (TANK's own ping is a greeting and has no answer.) It does not retry.
    ///
    /// # Errors
    /// A [network error](crate::guide::errors#network-errors).
    pub fn ping(&self) -> Result<Duration> {
        self.session.ping()
    }
}

/// Settings for a [`Client`], from [`Client::builder`].
///
/// ```no_run
/// use std::time::Duration;
/// use tank_client::Client;
///
/// let client = Client::builder().client_id("billing").connect_timeout(Duration::from_secs(3)).connect("tank:11011")?;
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "settings do nothing until `connect` is called"]
pub struct ClientBuilder {
    config: Config,
    wait_for_brokers: Duration,
    closed: Option<Arc<Closed>>,
    network: Option<Arc<dyn Network>>,
}

impl ClientBuilder {
    setters! {
        /// A name for the broker's traces, at most 255 bytes. Default `tank-client`.
        client_id(id: impl AsRef<str>) => config.client_id = id.as_ref().into();

        /// How long opening a connection may take, including the broker's greeting and all addresses of its name. If any of
        /// several brokers will do, they share this time: when one has had its share, the next one is tried as well. Default
        /// 10 seconds; more than zero. Looking up a host name is not included and takes as long as the system's resolver
        /// needs.
        connect_timeout(timeout: Duration) => config.connect_timeout = timeout;

        /// How long a broker may take to begin an answer, to send the next 16 KiB of it, or to accept the next 16 KiB of a
        /// request. A slow but steady transfer gets through, a trickle does not. Default 30 seconds; more than zero.
        ///
        /// For a fetch it counts from the end of the time the broker was asked to wait, for a publish from the end of the
        /// [ack time-out](ClientBuilder::ack_timeout). Time between two calls of your program counts, unless data has arrived
        /// by the next call. If any of several brokers will do, the client moves on to the next one when a broker has not
        /// answered within its share of the [connect time-out](ClientBuilder::connect_timeout).
        io_timeout(timeout: Duration) => config.io_timeout = timeout;

        /// How long a call retries when there is trouble that may pass: a broker that cannot be reached, a partition without
        /// a leader. Default 60 seconds, counted from the first failure; zero reports the first failure at once. The last
        /// attempt starts when this time is over and has its own time-outs.
        ///
        /// Trouble ends with an answer, or when a connection has been up with nothing overdue for 10 seconds (in a
        /// subscription for `retry_timeout`, if that is shorter); the wait for an answer that never came does not count. The
        /// next failure then starts a new `retry_timeout`.
        retry_timeout(timeout: Duration) => config.retry_timeout = timeout;

        /// The shortest and the longest pause between two attempts. Pauses double from the shortest to the longest; up to half
        /// of each is taken off at random. Default 100 milliseconds to 5 seconds. A call that waits for a partition's leader
        /// never pauses longer than a second.
        backoff(least: Duration, most: Duration) => config.backoff = (least, most);

        /// How long a connection may be idle before TCP probes it, and then again after each quarter of that time; `None`
        /// means never. Default 60 seconds. Whole seconds from 1 to 32,767; other values are clamped to that range.
        keepalive(idle: Option<Duration>) => config.keepalive = idle;

        /// How long sent data may stay unacknowledged before the system gives up the connection; `None` leaves it to the system.
        /// Default 60 seconds. Whole milliseconds from 1 to 2^31 − 1; other values are clamped to that range. Linux only;
        /// elsewhere it has no effect.
        tcp_user_timeout(timeout: Option<Duration>) => config.tcp_user_timeout = timeout;

        /// The size of a socket's receive buffer in bytes. By default the system chooses it, and lets it grow as needed.
        receive_buffer(bytes: usize) => config.receive_buffer = Some(bytes);

        /// The size of a socket's send buffer in bytes. By default the system chooses it.
        send_buffer(bytes: usize) => config.send_buffer = Some(bytes);

        /// The most that a broker may send or announce, in bytes and counts. The defaults accept everything that a TANK
        /// server sends.
        limits(limits: Limits) => config.limits = limits;

        /// When to compress published records. Default [`Compression::Auto`].
        compression(compression: Compression) => config.publish.compression = compression;

        /// How many replicas a publish requires: see [`Acks`]. Default [`Acks::All`].
        acks(acks: Acks) => config.publish.acks = acks;

        /// How long a cluster waits for those replicas, 1 millisecond to 49 days. Default 8 seconds. The answer to a publish may
        /// take this much longer than [`io_timeout`](ClientBuilder::io_timeout).
        ack_timeout(timeout: Duration) => config.publish.ack_timeout = timeout;

        /// Follows a cluster's redirects only to the brokers that you named; any other ends in
        /// [`Fault::RedirectRefused`](crate::Fault::RedirectRefused). Default `false`: it follows them wherever they lead.
        known_brokers_only(only: bool) => config.known_brokers_only = only;

        /// Translates the IPv4 address and port that a node of a cluster advertises into the address where it can be reached, for
        /// example behind address translation or forwarded ports. Default: the advertised one.
        map_endpoints(map: impl Fn(SocketAddrV4) -> SocketAddr + Send + Sync + 'static) =>
            config.endpoints = Some(EndpointMap(Arc::new(map)));

        /// How long [`connect`](ClientBuilder::connect) keeps trying while no broker can be reached, with pauses as set by
        /// [`backoff`](ClientBuilder::backoff). Default zero: it tries each broker once.
        wait_for_brokers(time: Duration) => wait_for_brokers = time;

        /// Lets [`CloseHandle::close`] of this handle end every wait. [`connect`](ClientBuilder::connect) and the calls of
        /// this client and its producers then return [`Closed`](crate::ErrorKind::Closed). Its iterators end, too, unless
        /// their subscriptions have [another handle](Subscription::close_with). A publish that was already sent has an
        /// unknown outcome.
        close_with(handle: &CloseHandle) => closed = Some(handle.closed.clone());
    }

    /// Makes the client use this network instead of the system's.
    #[cfg(feature = "broker")]
    pub(crate) fn on_network(mut self, network: Arc<dyn Network>) -> Self {
        self.network = Some(network);
        self
    }

    /// Connects to the first of the [brokers](Brokers) that answers: `host`, `host:port`, several separated by commas, a
    /// [`SocketAddr`], or a list of these. The port defaults to 11011. The settings can be used again for another client.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) for a malformed address or setting; otherwise a [network
    /// error](crate::guide::errors#network-errors).
    pub fn connect(&self, brokers: impl Into<Brokers>) -> Result<Client> {
        self.config.check()?;
        let brokers = parse_brokers(&brokers.into().0)?;
        let net = self.network.clone().unwrap_or_else(|| Arc::new(System::new()));
        let mut session = Session::new(self.config.clone(), brokers, net);
        session.closed = self.closed.clone();
        session.connect(self.wait_for_brokers)?;
        Ok(Client { session: Arc::new(session), publisher: Arc::default() })
    }
}
