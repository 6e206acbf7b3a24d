//! Topics, partitions, nodes and their state: the values, and the calls that need more than one request.

use std::time::{Duration, SystemTime};

use log::debug;

use crate::TopicConfig;
use crate::error::{Error, Fault, Result};
use crate::message::check_topic;
use crate::net::RetryState;
use crate::protocol::admin::{CreateTopicCode, CreateTopicRequest, PartitionState, StatusRequest};
use crate::session::{Marks, ONCE, Session, marks_of_state};

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
    let (from, states) = session.discover(topic)?;
    let ids: Vec<u16> = (0..u16::MAX).take(states.len()).collect();
    // A broker that stands alone leads everything.
    let led_elsewhere = |state| matches!(state, &PartitionState::Redirect(_) | &PartitionState::NoLeader);
    let marks = if states.iter().any(led_elsewhere) || session.is_cluster() {
        session.log_ends(topic, &ids, &session.leader_policy())?
    } else {
        let marks = |(&id, state)| {
            marks_of_state(state).map_err(|refusal| Error::refused(topic, id, refusal.fault(1)).at(&from))
        };
        ids.iter().zip(&states).map(marks).collect()
    };
    let info = |(id, marks): (u16, Result<Marks>)| {
        marks.map(|(first_available, high_water_mark)| PartitionInfo { id, first_available, high_water_mark })
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
    let (name, config) = (topic.to_owned(), config.to_string());
    let mut request = CreateTopicRequest { request_id: 0, topic: name, partitions, config };
    let (broker, code) = session.call_once(&mut request, Some(topic))?;
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

/// Waits until the leaders of a new topic's partitions know of it: a produce request before that can kill a node.
fn await_leaders(session: &Session, topic: &str, partitions: u16) -> Result<()> {
    let (policy, mut state) = (session.leader_policy(), RetryState::default());
    let ids: Vec<u16> = (0..partitions).collect();
    loop {
        let states = session.discover(topic);
        let led: Result<()> = states.and_then(|(_, states)| match states.len() {
            found if found < ids.len() => Err(Error::refused(topic, None, Fault::NoLeader)),
            _ => session.log_ends(topic, &ids, &ONCE)?.into_iter().try_for_each(|end| end.map(drop)),
        });
        let Err(e) = led else { return Ok(()) };
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
