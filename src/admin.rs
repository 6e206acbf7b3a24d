//! Topics, partitions, nodes and their state: the values, and what the client's calls about them do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::debug;

use crate::TopicConfig;
use crate::error::{Error, Fault, Result};
use crate::message::check_topic;
use crate::net::RetryState;
use crate::protocol::admin::topics::TopicInfo;
use crate::protocol::admin::{
    CreateTopicCode, CreateTopicRequest, DiscoverTopicsRequest, DiscoverTopologyRequest, PartitionState,
    ReloadConfCode, ReloadConfRequest, StatusRequest, Topology,
};
use crate::session::{Discovered, Marks, ONCE, Session, marks_of_state, partition_count};

/// The most partitions that a cluster creates. It does not refuse more, but leaves them out.
const MAX_CLUSTER_PARTITIONS: u16 = 64;

/// The most characters of a new topic's name.
const MAX_TOPIC_NAME: usize = 64;

/// A partition and the two ends of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PartitionInfo {
    /// The partition.
    pub id: u16,
    /// The first sequence number that is still there; 0 if there never was a message.
    pub first_available: u64,
    /// The last sequence number; 0 if there never was a message. In a cluster it is the end of the leader's own log, of which
    /// a fail-over can lose the last messages.
    pub high_water_mark: u64,
}

/// The state of a broker, from [`Client::status`](crate::Client::status).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct BrokerStatus {
    /// How many topics there are.
    pub topics: u32,
    /// How many partitions they have together.
    pub partitions: u32,
    /// The name of the cluster it is part of, if any.
    pub cluster: Option<String>,
    /// How many nodes of the cluster are available.
    pub nodes: Option<u32>,
    /// How many partitions it has open; this and all following fields are `None` from an old version.
    pub open_partitions: Option<u32>,
    /// How long it took to open them.
    pub open_time: Option<Duration>,
    /// When it started, to the second.
    pub started: Option<SystemTime>,
    /// Its major and minor version.
    pub version: Option<(u32, u32)>,
}

pub(crate) fn partitions(session: &Session, topic: &str) -> Result<Vec<PartitionInfo>> {
    check_topic(topic)?;
    let Discovered { broker, states } = session.discover(topic)?;
    let ids: Vec<u16> = (0..partition_count(&states)).collect();
    // A broker that stands alone leads everything.
    let led_elsewhere = |state| matches!(state, &PartitionState::Redirect(_) | &PartitionState::NoLeader);
    let marks = if states.iter().any(led_elsewhere) || session.is_cluster() {
        session.log_ends(topic, &ids, &session.leader_policy())?
    } else {
        let marks = |(&id, state)| {
            marks_of_state(state).map_err(|refusal| Error::refused(topic, id, refusal.fault(1)).at(&broker))
        };
        ids.iter().zip(&states).map(marks).collect()
    };
    let info = |(id, marks): (u16, Result<Marks>)| {
        let Marks { first_available, high_water_mark } = marks?;
        Ok(PartitionInfo { id, first_available, high_water_mark })
    };
    ids.into_iter().zip(marks).map(info).collect()
}

pub(crate) fn create_topic(session: &Session, topic: &str, partitions: u16, config: &TopicConfig) -> Result<()> {
    check_new_topic(topic, partitions)?;
    let (_, status) = session.call(&mut StatusRequest { request_id: 0 })?;
    let in_cluster = status.cluster.is_some();
    if in_cluster && partitions > MAX_CLUSTER_PARTITIONS {
        let most = MAX_CLUSTER_PARTITIONS;
        return Err(Error::config(format!("{topic}: {partitions} partitions given, 1 to {most} in a cluster")));
    }
    let config = config.to_string();
    let mut request = CreateTopicRequest { request_id: 0, topic: topic.to_owned(), partitions, config };
    let (broker, code) = session.call_unrepeatable(&mut request, topic)?;
    let fault = match code {
        CreateTopicCode::Created if in_cluster => return await_leaders(session, topic, partitions),
        CreateTopicCode::Created => return Ok(()),
        CreateTopicCode::Exists => Fault::TopicExists,
        CreateTopicCode::SystemError => Fault::System,
        CreateTopicCode::InvalidConfig => Fault::InvalidConfig,
        CreateTopicCode::ReadOnly => Fault::ReadOnly,
        CreateTopicCode::InvalidRequest => Fault::InvalidTopic,
        CreateTopicCode::Unsupported => Fault::Unsupported,
    };
    Err(Error::refused(topic, None, fault).at(&broker))
}

pub(crate) fn topics(session: &Session) -> Result<Vec<TopicInfo>> {
    let (_, answer) = session.call(&mut DiscoverTopicsRequest { request_id: 0, flags: 0 })?;
    let mut topics = answer.topics;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

pub(crate) fn topology(session: &Session) -> Result<Topology> {
    let (_, answer) = session.call(&mut DiscoverTopologyRequest { request_id: 0, flags: 0 })?;
    let mut topology = answer.topology;
    topology.nodes.sort_by_key(|node| node.id);
    Ok(topology)
}

pub(crate) fn status(session: &Session) -> Result<BrokerStatus> {
    let (_, answer) = session.call(&mut StatusRequest { request_id: 0 })?;
    let log = answer.log;
    Ok(BrokerStatus {
        topics: answer.topics,
        partitions: answer.partitions,
        nodes: answer.cluster.as_ref().map(|cluster| cluster.nodes),
        cluster: answer.cluster.map(|cluster| cluster.name),
        open_partitions: log.map(|log| log.open_partitions),
        open_time: log.map(|log| Duration::from_millis(log.open_time_ms.into())),
        started: log.map(|log| UNIX_EPOCH + Duration::from_secs(log.start_time.into())),
        version: log.and_then(|log| log.version).map(|version| (version / 100, version % 100)),
    })
}

pub(crate) fn reload_config(session: &Session, topic: &str, partition: u16) -> Result<()> {
    check_topic(topic)?;
    let mut request = ReloadConfRequest { request_id: 0, topic: topic.to_owned(), partition };
    let (broker, code) = session.call(&mut request)?;
    let fault = match code {
        ReloadConfCode::Reloaded => return Ok(()),
        ReloadConfCode::SystemError | ReloadConfCode::InvalidConfig => Fault::InvalidConfig,
        ReloadConfCode::UnknownPartition => Fault::UnknownPartition,
        ReloadConfCode::UnknownTopic => return Err(Error::refused(topic, None, Fault::UnknownTopic).at(&broker)),
        ReloadConfCode::Unsupported => Fault::Unsupported,
    };
    Err(Error::refused(topic, partition, fault).at(&broker))
}

/// Waits until the leaders of a new topic's partitions know of it: a produce request before that can kill a node.
fn await_leaders(session: &Session, topic: &str, partitions: u16) -> Result<()> {
    let policy = session.leader_policy();
    let mut state = RetryState::default();
    let ids: Vec<u16> = (0..partitions).collect();
    loop {
        let Err(e) = find_leaders(session, topic, &ids) else { return Ok(()) };
        let passes = e.is_transient() || e.is_unknown_topic();
        match state.retry_or_fail(session.now(), &policy) {
            Some(until) if passes => {
                debug!("{topic}: created, but cannot be used yet: {e:#}");
                session.pause(until)?;
            }
            _ => return Err(e),
        }
    }
}

/// Finds the leaders of all of these partitions, once.
fn find_leaders(session: &Session, topic: &str, ids: &[u16]) -> Result<()> {
    if session.discover(topic)?.states.len() < ids.len() {
        return Err(Error::refused(topic, None, Fault::NoLeader));
    }
    session.log_ends(topic, ids, &ONCE)?.into_iter().try_for_each(|end| end.map(drop))
}

/// Refuses what no broker accepts (reference, section 7.2).
fn check_new_topic(topic: &str, partitions: u16) -> Result<()> {
    let marks = ['-', '_'];
    let fits = (1..=MAX_TOPIC_NAME).contains(&topic.len());
    let is_allowed = topic.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(&c));
    if !fits || !is_allowed || topic.trim_matches(marks) != topic {
        let rule = "1 to 64 letters, digits and, between them, - and _";
        return Err(Error::config(format!("topic name {topic:?} given; allowed: {rule}")));
    }
    if partitions == 0 {
        return Err(Error::config(format!("{topic}: 0 partitions given, 1 to 65535 allowed")));
    }
    Ok(())
}
