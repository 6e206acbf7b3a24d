//! Everything that is neither produced nor consumed (reference, sections 7 to 12).

use std::time::{Duration, Instant};

use super::answer::Part;
use super::connection::HangUp;
use super::lenient;
use super::log::Layout;
use super::state::{Leadership, Partition, Shared, State, Topic};
use crate::TopicConfig;
use crate::protocol::admin::{
    ClusterStatus, ClusterTopology, CreateTopicCode, CreateTopicRequest, CreateTopicResponse,
    DiscoverPartitionsRequest, DiscoverPartitionsResponse, DiscoverTopicsRequest, DiscoverTopicsResponse,
    DiscoverTopologyRequest, DiscoverTopologyResponse, LogStatus, NodeEntry, PartitionState, ReloadConfCode,
    ReloadConfRequest, ReloadConfResponse, StatusRequest, StatusResponse, TopicEntry,
};
use crate::protocol::frame::Kind;
use crate::protocol::{DecodeError, DecodeFault};

/// Major version times 100 plus minor version.
const VERSION: u32 = 400;

const MAX_NAME: usize = 64;

/// The most partitions a cluster makes.
const MAX_CLUSTER_PARTITIONS: u16 = 64;

pub(super) fn execute(
    shared: &Shared,
    state: &mut State,
    node: usize,
    conn: u64,
    kind: Kind,
    payload: &[u8],
) -> Result<(), HangUp> {
    let mut out = Vec::new();
    let encoded = match kind {
        Kind::Status => {
            let request = lenient(payload, StatusRequest::decode).map_err(|_| HangUp)?;
            status(shared, state, request.request_id).encode(&mut out)
        }
        Kind::DiscoverTopics => {
            let request = lenient(payload, DiscoverTopicsRequest::decode).map_err(|_| HangUp)?;
            topics(state, request.request_id).encode(&mut out)
        }
        Kind::DiscoverTopology => {
            let request = lenient(payload, DiscoverTopologyRequest::decode).map_err(|_| HangUp)?;
            topology(state, request.request_id).encode(&mut out)
        }
        Kind::ReloadConf => {
            let request = lenient(payload, ReloadConfRequest::decode).map_err(|_| HangUp)?;
            reload(shared, state, request).encode(&mut out)
        }
        Kind::CreateTopic => {
            let request = lenient(payload, CreateTopicRequest::decode);
            let request = request.map_err(|e| overrun(state, payload, &e, "a create topic request"))?;
            create(shared, state, request).encode(&mut out)
        }
        Kind::DiscoverPartitions => {
            // A server passes over half a number at the end.
            let whole = payload.split_last().map_or(payload, |(_, rest)| rest);
            let request = DiscoverPartitionsRequest::decode(payload)
                .or_else(|e| DiscoverPartitionsRequest::decode(whole).map_err(|_| e));
            let request = request.map_err(|e| overrun(state, payload, &e, "a discover partitions request"))?;
            partitions(state, node, request)?.encode(&mut out)
        }
        _ => return Err(HangUp),
    };
    encoded.map_err(|_| HangUp)?;
    state.answer(node, conn, kind, vec![Part::Bytes(out)]);
    Ok(())
}

/// A server hangs up on less than the fixed fields, and otherwise believes every length.
fn overrun(state: &mut State, payload: &[u8], e: &DecodeError, what: &str) -> HangUp {
    if payload.len() >= 6 && matches!(e.fault(), DecodeFault::Short { .. }) {
        state.kill(&format!("{what} whose lengths exceed the frame"));
    }
    HangUp
}

/// The text of a configuration as far as it says how logs are laid out, if a server takes it.
pub(super) fn layout(text: &str, otherwise: Layout) -> Option<Layout> {
    let config: TopicConfig = text.parse().ok()?;
    let size = |key, otherwise| config.get(key).and_then(|bytes| bytes.parse().ok()).unwrap_or(otherwise);
    Some(Layout {
        segment_bytes: size("log.segment.bytes", otherwise.segment_bytes),
        index_interval: size("log.index.interval.bytes", otherwise.index_interval),
    })
}

fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    bytes.len() <= MAX_NAME
        && bytes.iter().all(inner)
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

fn create(shared: &Shared, state: &mut State, request: CreateTopicRequest) -> CreateTopicResponse {
    let layout = layout(&request.config, shared.options.layout);
    let code = match layout {
        _ if request.partitions == 0 || !is_name(&request.topic) => CreateTopicCode::InvalidRequest,
        None => CreateTopicCode::InvalidConfig,
        Some(_) if shared.options.read_only => CreateTopicCode::ReadOnly,
        Some(_) if state.topics.contains_key(request.topic.as_str()) => CreateTopicCode::Exists,
        Some(layout) => {
            match &state.cluster {
                None => state.create_topic(&request.topic, request.partitions, 1, layout),
                Some(cluster) => {
                    let (factor, election) = (cluster.factor, cluster.election);
                    let partitions = (request.partitions & 0xff).min(MAX_CLUSTER_PARTITIONS);
                    if partitions > 0 {
                        state.create_topic(&request.topic, partitions, factor, shared.options.layout);
                        elect_later(state, &request.topic, election);
                    }
                }
            }
            CreateTopicCode::Created
        }
    };
    CreateTopicResponse { request_id: request.request_id, topic: request.topic, code }
}

/// Leaves a new topic without leaders for some time.
fn elect_later(state: &mut State, topic: &str, election: Duration) {
    if election.is_zero() {
        return;
    }
    let until = Instant::now() + election;
    let partitions = state.topics.get_mut(topic).into_iter().flat_map(|topic: &mut Topic| &mut topic.partitions);
    partitions.for_each(|partition| partition.electing_until = Some(until));
}

fn partitions(
    state: &mut State,
    node: usize,
    request: DiscoverPartitionsRequest,
) -> Result<DiscoverPartitionsResponse, HangUp> {
    let DiscoverPartitionsRequest { request_id, topic, partitions: listed } = request;
    let Some(count) = state.topics.get(topic.as_str()).map(|topic| topic.partitions.len()) else {
        return Ok(DiscoverPartitionsResponse { request_id, topic, count: 0, partitions: Vec::new() });
    };
    let alone = state.cluster.is_none();
    let all = u16::try_from(count).unwrap_or(u16::MAX);
    let list = if listed.is_empty() { (0..all).collect() } else { listed.clone() };
    let mut partitions = Vec::with_capacity(list.len());
    for id in list {
        let leadership = state.leadership(&topic, id, node);
        let Some(partition) = state.partition(&topic, id) else {
            state.kill("a discover partitions request that lists an unknown partition");
            return Err(HangUp);
        };
        partitions.push(match leadership {
            // It keeps no leaders, which is what the long form asks for.
            _ if alone && !listed.is_empty() => PartitionState::NoLeader,
            Leadership::Nobody | Leadership::Electing => PartitionState::NoLeader,
            Leadership::Elsewhere(endpoint) => PartitionState::Redirect(endpoint),
            Leadership::Here if partition.broken => PartitionState::SystemError,
            Leadership::Here => {
                partition.open = true;
                let high_water_mark = if alone { partition.log.last } else { partition.committed };
                PartitionState::Marks { first_available: partition.log.first_available, high_water_mark }
            }
        });
    }
    let count = u16::try_from(partitions.len()).unwrap_or(u16::MAX);
    Ok(DiscoverPartitionsResponse { request_id, topic, count, partitions })
}

fn topics(state: &State, request_id: u32) -> DiscoverTopicsResponse {
    let cluster = state.cluster.is_some();
    let entry = |(name, topic): (&std::sync::Arc<str>, &Topic)| TopicEntry {
        name: name.to_string(),
        enabled: true,
        partitions: u16::try_from(topic.partitions.len()).unwrap_or(u16::MAX),
        replication_factor: cluster.then(|| u8::try_from(topic.factor).unwrap_or(u8::MAX)),
    };
    DiscoverTopicsResponse { request_id, cluster, topics: state.topics.iter().map(entry).collect() }
}

fn topology(state: &State, request_id: u32) -> DiscoverTopologyResponse {
    let cluster = state.cluster.as_ref().map(|cluster| {
        let nodes = state.nodes.iter().enumerate().map(|(index, node)| {
            let copies = all_partitions(state).filter(|partition| partition.replicas.contains(&index)).count();
            NodeEntry {
                id: u16::try_from(index + 1).unwrap_or(u16::MAX),
                available: node.running,
                blocked: false,
                endpoint: node.registered.then_some(node.addr),
                partitions: u16::try_from(copies).unwrap_or(u16::MAX),
            }
        });
        ClusterTopology { name: cluster.name.clone(), nodes: nodes.collect() }
    });
    DiscoverTopologyResponse { request_id, cluster }
}

fn all_partitions(state: &State) -> impl Iterator<Item = &Partition> {
    state.topics.values().flat_map(|topic| &topic.partitions)
}

fn status(shared: &Shared, state: &State, request_id: u32) -> StatusResponse {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    StatusResponse {
        request_id,
        flags: 0,
        topics: number(state.topics.len()),
        partitions: number(all_partitions(state).count()),
        cluster: state.cluster.as_ref().map(|cluster| ClusterStatus {
            flags: 0,
            name: cluster.name.clone(),
            nodes: number(state.nodes.iter().filter(|node| node.running).count()),
        }),
        log: Some(LogStatus {
            open_partitions: number(all_partitions(state).filter(|partition| partition.open).count()),
            open_time_ms: 0,
            start_time: shared.start_time,
            version: Some(VERSION),
        }),
    }
}

fn reload(shared: &Shared, state: &mut State, request: ReloadConfRequest) -> ReloadConfResponse {
    let known = state.topics.contains_key(request.topic.as_str());
    let alone = state.cluster.is_none();
    let code = match state.partition(&request.topic, request.partition) {
        _ if !alone => ReloadConfCode::Unsupported,
        _ if !known => ReloadConfCode::UnknownTopic,
        None => ReloadConfCode::UnknownPartition,
        Some(partition) => match partition.config.as_deref() {
            None | Some("") => ReloadConfCode::SystemError,
            Some(text) => match layout(text, shared.options.layout) {
                Some(layout) => {
                    partition.layout = layout;
                    ReloadConfCode::Reloaded
                }
                None => ReloadConfCode::InvalidConfig,
            },
        },
    };
    let ReloadConfRequest { request_id, topic, partition } = request;
    ReloadConfResponse { request_id, topic, partition, code }
}
