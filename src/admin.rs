//! What else a broker can be asked: topics, nodes, their state.

use std::net::SocketAddrV4;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::debug;

use crate::TopicConfig;
use crate::client::{Ask, Client, Shared, check_request_id};
use crate::consume::check_topic;
use crate::error::{Error, Fault, Result};
use crate::net::{Deadline, Stopwatch, sleep};
use crate::protocol::admin::{
    CreateTopicCode, CreateTopicRequest, CreateTopicResponse, DiscoverTopicsRequest, DiscoverTopicsResponse,
    DiscoverTopologyRequest, DiscoverTopologyResponse, PartitionState, ReloadConfCode, ReloadConfRequest,
    ReloadConfResponse, StatusRequest, StatusResponse,
};
use crate::protocol::frame::Kind;
use crate::protocol::{DecodeError, EncodeError, Limits};

/// The most partitions a cluster makes; more are not refused but left out.
const MAX_CLUSTER_PARTITIONS: u16 = 64;

/// The most characters of a new topic's name.
const MAX_NAME: usize = 64;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// How many partitions it has, with the ids from 0 on.
    pub partitions: u16,
    /// Whether it can be used.
    pub enabled: bool,
    /// On how many nodes each partition has a copy; `None` for a broker that stands alone.
    pub replication_factor: Option<u8>,
}

/// The nodes of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topology {
    /// The cluster's name; `None` for a broker that stands alone.
    pub cluster: Option<String>,
    /// The nodes by their numbers; none for a broker that stands alone.
    pub nodes: Vec<NodeInfo>,
}

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its number.
    pub id: u16,
    /// Where it listens. It stays when the node dies, but not when it was stopped in order.
    pub endpoint: Option<SocketAddrV4>,
    /// Whether the cluster reaches it.
    pub available: bool,
    /// Whether it is kept from leading.
    pub blocked: bool,
    /// Of how many partitions it has a copy.
    pub partitions: u16,
}

/// How a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerStatus {
    /// How many topics there are.
    pub topics: u32,
    /// How many partitions they have together.
    pub partitions: u32,
    /// The cluster it is part of, if any.
    pub cluster: Option<ClusterInfo>,
    /// How many partitions it has open; `None` from an old version, as with all that follows.
    pub open_partitions: Option<u32>,
    /// How long it took to open them.
    pub open_time: Option<Duration>,
    /// When it started, to the second.
    pub started: Option<SystemTime>,
    /// Its major and minor version.
    pub version: Option<(u32, u32)>,
}

/// What a node says of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterInfo {
    /// Its name.
    pub name: String,
    /// How many nodes are available.
    pub nodes: u32,
}

impl Client {
    /// Creates a topic with partitions 0 to `partitions` − 1 (a CreateTopic request), and returns once it can be used.
    ///
    /// A cluster takes no configuration, 64 partitions at most, and some time to find leaders for them.
    ///
    /// ```no_run
    /// # use tank_client::{Client, TopicConfig};
    /// # let client = Client::connect("localhost")?;
    /// client.create_topic("orders", 8, &TopicConfig::new())?;
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`], before anything is sent, for a name or number of partitions that a broker refuses: a name has 1
    /// to 64 letters, digits, `-` and `_`, the latter two neither first nor last. [`Error::Broker`] if the topic exists,
    /// the broker is read-only or has trouble with its files, or if the partitions, though created, find no leader within
    /// [`retry_timeout`](crate::ClientBuilder::retry_timeout). [`Error::OutcomeUnknown`] if the request was sent and its
    /// answer lost: the topic may exist or not. Otherwise as [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    pub fn create_topic(&self, topic: &str, partitions: u16, config: &TopicConfig) -> Result<()> {
        check_new_topic(topic, partitions)?;
        let shared = &self.shared;
        let in_cluster = self.status()?.cluster.is_some();
        if in_cluster && partitions > MAX_CLUSTER_PARTITIONS {
            let most = MAX_CLUSTER_PARTITIONS;
            return Err(Error::config(format!("{topic}: {partitions} partitions given, 1 to {most} in a cluster")));
        }
        let (topic, config) = (topic.to_owned(), config.to_string());
        let request = CreateTopicRequest { request_id: shared.next_request_id(), topic, partitions, config };
        let topic = request.topic.as_str();
        match shared.create(&request)? {
            CreateTopicCode::Created if in_cluster => shared.await_leaders(topic, partitions),
            CreateTopicCode::Created => Ok(()),
            refused => Err(Error::broker(topic, None, fault_of_create(refused))),
        }
    }

    /// The topics, by name: a DiscoverTopics request.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    pub fn topics(&self) -> Result<Vec<TopicInfo>> {
        let answer = self.shared.ask(&Topics)?;
        let info = |topic: crate::protocol::admin::TopicEntry| TopicInfo {
            name: topic.name,
            partitions: topic.partitions,
            enabled: topic.enabled,
            replication_factor: topic.replication_factor,
        };
        let mut topics: Vec<_> = answer.topics.into_iter().map(info).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// The nodes of the cluster: a DiscoverTopology request.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    pub fn topology(&self) -> Result<Topology> {
        let Some(cluster) = self.shared.ask(&Nodes)?.cluster else { return Ok(Topology::default()) };
        let info = |node: crate::protocol::admin::NodeEntry| NodeInfo {
            id: node.id,
            endpoint: node.endpoint,
            available: node.available,
            blocked: node.blocked,
            partitions: node.partitions,
        };
        let mut nodes: Vec<_> = cluster.nodes.into_iter().map(info).collect();
        nodes.sort_by_key(|node| node.id);
        Ok(Topology { cluster: Some(cluster.name), nodes })
    }

    /// How the broker is, the first that answers if there are several: a Status request.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    pub fn status(&self) -> Result<BrokerStatus> {
        let answer = self.shared.ask(&Status)?;
        let log = answer.log;
        Ok(BrokerStatus {
            topics: answer.topics,
            partitions: answer.partitions,
            cluster: answer.cluster.map(|cluster| ClusterInfo { name: cluster.name, nodes: cluster.nodes }),
            open_partitions: log.map(|log| log.open_partitions),
            open_time: log.map(|log| Duration::from_millis(log.open_time_ms.into())),
            started: log.map(|log| UNIX_EPOCH + Duration::from_secs(log.start_time.into())),
            version: log.and_then(|log| log.version).map(|version| (version / 100, version % 100)),
        })
    }

    /// Makes the broker read the file `config` in the partition's folder again: a ReloadConf request.
    ///
    /// # Errors
    /// [`Error::Broker`] if the topic or partition is unknown, if the file is missing, empty or does not parse, or if the
    /// broker is part of a cluster; otherwise as [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    pub fn reload_config(&self, topic: &str, partition: u16) -> Result<()> {
        check_topic(topic)?;
        let fault = match self.shared.ask(&Reload { topic, partition })? {
            ReloadConfCode::Reloaded => return Ok(()),
            ReloadConfCode::SystemError => Fault::ConfigUnreadable,
            ReloadConfCode::InvalidConfig => Fault::InvalidConfig,
            ReloadConfCode::UnknownPartition => Fault::UnknownPartition,
            ReloadConfCode::UnknownTopic => return Err(Error::broker(topic, None, Fault::UnknownTopic)),
            ReloadConfCode::Unsupported => Fault::Unsupported,
        };
        Err(Error::broker(topic, partition, fault))
    }

    /// How long the broker takes to answer the smallest request, Status, on a connection that is open already. TANK's own
    /// ping is a greeting, which nobody answers.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    pub fn ping(&self) -> Result<Duration> {
        let shared = &self.shared;
        shared.any_broker(|addr, patience| {
            let watch = Stopwatch::start();
            shared.ask_at(addr, &Status, patience)?;
            Ok(watch.elapsed())
        })
    }
}

/// Refuses what no broker accepts (reference, section 7.2).
fn check_new_topic(topic: &str, partitions: u16) -> Result<()> {
    let bytes = topic.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if bytes.len() > MAX_NAME
        || !bytes.iter().all(allowed)
        || !ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
    {
        let rule = "1 to 64 letters, digits, - and _, the latter two neither first nor last";
        return Err(Error::config(format!("topic name {topic:?} given, allowed are {rule}")));
    }
    if partitions == 0 {
        return Err(Error::config(format!("{topic}: 0 partitions given, 1 to 65535 allowed")));
    }
    Ok(())
}

fn fault_of_create(code: CreateTopicCode) -> Fault {
    match code {
        CreateTopicCode::Created | CreateTopicCode::Exists => Fault::TopicExists,
        CreateTopicCode::SystemError => Fault::System,
        CreateTopicCode::InvalidConfig => Fault::InvalidConfig,
        CreateTopicCode::ReadOnly => Fault::ReadOnly,
        CreateTopicCode::InvalidRequest => Fault::InvalidTopic,
        CreateTopicCode::Unsupported => Fault::Unsupported,
    }
}

impl Shared {
    /// Whether the brokers form a cluster; to be on the safe side also if they do not say.
    pub(crate) fn is_cluster(&self) -> bool {
        if let Some(&known) = self.in_cluster.get() {
            return known;
        }
        match self.ask(&Status) {
            Ok(answer) => *self.in_cluster.get_or_init(|| answer.cluster.is_some()),
            Err(e) => {
                debug!("taken for a cluster: {e}");
                true
            }
        }
    }

    /// Sends the request to one broker only, for it cannot be repeated without harm.
    fn create(&self, request: &CreateTopicRequest) -> Result<CreateTopicCode> {
        let mut frame = Vec::new();
        request.encode(&mut frame)?;
        let unknown = |e| Error::unknown(&request.topic, 0, e);
        self.any_broker(|addr, _| {
            let payload = loop {
                match self.pool.exchange(addr, &frame, Kind::CreateTopic, self.config.io_timeout) {
                    Ok(payload) => break payload,
                    Err(failed) if failed.sent => return Err(unknown(failed.error)),
                    Err(failed) if failed.reused && !failed.error.is_timeout() && failed.error.is_retryable() => {}
                    Err(failed) => return Err(failed.error),
                }
            };
            let answer = check_request_id(&payload, request.request_id)
                .and_then(|()| CreateTopicResponse::decode(&payload))
                .and_then(|answer| answer.check_answers(request).map(|()| answer.code));
            answer.map_err(|e| unknown(Error::decode(addr, e)))
        })
    }

    /// Waits until the leaders of a new topic's partitions know of it: a produce request before that can kill a node.
    fn await_leaders(&self, topic: &str, partitions: u16) -> Result<()> {
        let give_up = Deadline::after(self.config.retry_timeout);
        let mut backoff = self.config.leader_backoff();
        let is_led = |state: &PartitionState| matches!(state, PartitionState::Marks { .. });
        loop {
            let e = match self.partition_states(topic) {
                Ok(states) if states.len() == usize::from(partitions) && states.iter().all(is_led) => return Ok(()),
                Ok(_) => Error::broker(topic, None, Fault::NoLeader),
                Err(e) => e,
            };
            let passing = e.is_retryable() || matches!(e, Error::Broker { fault: Fault::UnknownTopic, .. });
            if !passing || give_up.has_passed() {
                return Err(e);
            }
            debug!("{topic}: created, but cannot be used yet: {e}");
            sleep(backoff.next_pause());
        }
    }
}

struct Topics;

impl Ask for Topics {
    type Answer = DiscoverTopicsResponse;
    const ANSWER: Kind = Kind::DiscoverTopics;

    fn encode(&self, request_id: u32, out: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
        DiscoverTopicsRequest { request_id, flags: 0 }.encode(out)
    }

    fn decode(&self, _: u32, payload: &[u8], limits: &Limits) -> std::result::Result<Self::Answer, DecodeError> {
        DiscoverTopicsResponse::decode(payload, limits)
    }
}

struct Nodes;

impl Ask for Nodes {
    type Answer = DiscoverTopologyResponse;
    const ANSWER: Kind = Kind::DiscoverTopology;

    fn encode(&self, request_id: u32, out: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
        DiscoverTopologyRequest { request_id, flags: 0 }.encode(out)
    }

    fn decode(&self, _: u32, payload: &[u8], limits: &Limits) -> std::result::Result<Self::Answer, DecodeError> {
        DiscoverTopologyResponse::decode(payload, limits)
    }
}

struct Status;

impl Ask for Status {
    type Answer = StatusResponse;
    const ANSWER: Kind = Kind::Status;

    fn encode(&self, request_id: u32, out: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
        StatusRequest { request_id }.encode(out)
    }

    fn decode(&self, _: u32, payload: &[u8], _: &Limits) -> std::result::Result<Self::Answer, DecodeError> {
        StatusResponse::decode(payload)
    }
}

struct Reload<'a> {
    topic: &'a str,
    partition: u16,
}

impl Reload<'_> {
    fn request(&self, request_id: u32) -> ReloadConfRequest {
        ReloadConfRequest { request_id, topic: self.topic.to_owned(), partition: self.partition }
    }
}

impl Ask for Reload<'_> {
    type Answer = ReloadConfCode;
    const ANSWER: Kind = Kind::ReloadConf;

    fn encode(&self, request_id: u32, out: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
        self.request(request_id).encode(out)
    }

    fn decode(&self, request_id: u32, payload: &[u8], _: &Limits) -> std::result::Result<Self::Answer, DecodeError> {
        let answer = ReloadConfResponse::decode(payload)?;
        answer.check_answers(&self.request(request_id))?;
        Ok(answer.code)
    }
}
