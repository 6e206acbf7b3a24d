//! Everything that is neither produced nor consumed (reference, sections 7 to 12).

use std::sync::Arc;
use std::time::Duration;

use super::answer::Part;
use super::connection::HangUp;
use super::partition::{Leadership, Partition, Topic};
use super::schedule::Event;
use super::{Conn, Layout, Machine, lenient};
use crate::TopicConfig;
use crate::protocol::admin::status::{NodeInfo, Topology};
use crate::protocol::admin::topics::TopicInfo;
use crate::protocol::admin::{
    ClusterStatus, CreateTopicCode, CreateTopicRequest, CreateTopicResponse, DiscoverPartitionsRequest,
    DiscoverPartitionsResponse, DiscoverTopicsRequest, DiscoverTopicsResponse, DiscoverTopologyRequest,
    DiscoverTopologyResponse, LogStatus, PartitionState, ReloadConfCode, ReloadConfRequest, ReloadConfResponse,
    StatusRequest, StatusResponse,
};
use crate::protocol::frame::{Kind, Payload};
use crate::protocol::{DecodeError, DecodeFault};

/// Major version times 100 plus minor version.
const VERSION: u32 = 400;

const MAX_TOPIC_NAME: usize = 64;

/// The most partitions a cluster makes.
const MAX_CLUSTER_PARTITIONS: u16 = 64;

impl Machine {
    pub(super) fn administer(&mut self, conn: Conn, kind: Kind, payload: &[u8]) -> Result<(), HangUp> {
        let mut out = Vec::new();
        let encoded = match kind {
            Kind::Status => {
                let request = lenient(payload, StatusRequest::decode).map_err(|_| HangUp)?;
                self.status(request.request_id).encode(&mut out)
            }
            Kind::DiscoverTopics => {
                let request = lenient(payload, DiscoverTopicsRequest::decode).map_err(|_| HangUp)?;
                self.discover_topics(request.request_id).encode(&mut out)
            }
            Kind::DiscoverTopology => {
                let request = lenient(payload, DiscoverTopologyRequest::decode).map_err(|_| HangUp)?;
                self.topology(request.request_id).encode(&mut out)
            }
            Kind::ReloadConf => {
                let request = lenient(payload, ReloadConfRequest::decode).map_err(|_| HangUp)?;
                self.reload(request).encode(&mut out)
            }
            Kind::CreateTopic => {
                let request = lenient(payload, CreateTopicRequest::decode);
                let request = request.map_err(|e| self.overrun(conn, payload, &e, "a create topic request"))?;
                self.create(request).encode(&mut out)
            }
            Kind::DiscoverPartitions => {
                // A server passes over half a number at the end.
                let whole = payload.split_last().map_or(payload, |(_, rest)| rest);
                let request = DiscoverPartitionsRequest::decode(payload)
                    .or_else(|e| DiscoverPartitionsRequest::decode(whole).map_err(|_| e));
                let request = request.map_err(|e| self.overrun(conn, payload, &e, "a discover partitions request"))?;
                self.discover_partitions(conn.node, request)?.encode(&mut out)
            }
            _ => return Err(HangUp),
        };
        encoded.map_err(|_| HangUp)?;
        self.answer(conn, kind, vec![Part::bytes(out)]);
        Ok(())
    }

    /// A server hangs up on less than the fixed fields, and otherwise believes every length.
    fn overrun(&mut self, conn: Conn, payload: &[u8], e: &DecodeError, what: &str) -> HangUp {
        if payload.len() >= 6 && matches!(e.fault(), DecodeFault::Short { .. }) {
            self.deadly(conn.node, &format!("{what} whose lengths exceed the frame"));
        }
        HangUp
    }

    fn create(&mut self, request: CreateTopicRequest) -> CreateTopicResponse {
        let layout = layout(&request.config, self.options.layout);
        let name = request.topic.as_str();
        let code = match layout {
            _ if request.partitions == 0 || !is_name(name) => CreateTopicCode::InvalidRequest,
            None => CreateTopicCode::InvalidConfig,
            Some(_) if self.options.read_only => CreateTopicCode::ReadOnly,
            Some(_) if self.topics.contains_key(name) || self.announced.contains(name) => CreateTopicCode::Exists,
            Some(layout) => {
                if self.cluster.is_none() {
                    self.create_topic_with(name, request.partitions, Some(1), layout);
                } else {
                    // Cut to eight bits first.
                    self.announce(name, (request.partitions & 0xff).min(MAX_CLUSTER_PARTITIONS));
                }
                CreateTopicCode::Created
            }
        };
        CreateTopicResponse { request_id: request.request_id, topic: request.topic, code }
    }

    /// Tells the nodes of a new topic.
    fn announce(&mut self, name: &str, partitions: u16) {
        match self.options.behaviour.unknown_at_first {
            _ if partitions == 0 => {}
            None => self.make_topic(name, partitions),
            Some(span) => {
                let topic: Arc<str> = name.into();
                self.announced.insert(Arc::clone(&topic));
                let at = self.now.after(self.chance.within(span));
                self.schedule.at(at, Event::MakeTopic { topic, partitions });
            }
        }
    }

    /// Makes a topic that has no leaders for some time.
    pub(super) fn make_topic(&mut self, name: &str, partitions: u16) {
        self.announced.remove(name);
        self.create_topic(name, partitions, None);
        let until = self.now.after(self.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.election));
        // Only nodes that are there can be elected.
        let alive: Vec<bool> = self.nodes.iter().map(super::nodes::Node::is_alive).collect();
        let is_alive = |node: usize| alive.get(node).is_some_and(|alive| *alive);
        for partition in self.topics.get_mut(name).into_iter().flat_map(|topic| &mut topic.partitions) {
            partition.electing_until = until;
            if partition.in_sync.iter().any(|&node| is_alive(node)) {
                partition.in_sync.retain(|&node| is_alive(node));
                partition.leader = partition.in_sync.first().copied();
            }
        }
    }

    fn discover_partitions(
        &mut self,
        node: usize,
        request: DiscoverPartitionsRequest,
    ) -> Result<DiscoverPartitionsResponse, HangUp> {
        let DiscoverPartitionsRequest { request_id, topic, partitions: listed } = request;
        let Some(count) = self.topics.get(topic.as_str()).map(|topic| topic.partitions.len()) else {
            return Ok(DiscoverPartitionsResponse { request_id, topic, count: 0, partitions: Vec::new() });
        };
        let all = u16::try_from(count).unwrap_or(u16::MAX);
        let list = if listed.is_empty() { (0..all).collect() } else { listed.clone() };
        let mut partitions = Vec::with_capacity(list.len());
        for id in list {
            let Some(state) = self.partition_state(node, &topic, id, !listed.is_empty()) else {
                self.deadly(node, "a discover partitions request that lists an unknown partition");
                return Err(HangUp);
            };
            partitions.push(state);
        }
        let count = u16::try_from(partitions.len()).unwrap_or(u16::MAX);
        Ok(DiscoverPartitionsResponse { request_id, topic, count, partitions })
    }

    fn partition_state(&mut self, node: usize, topic: &str, id: u16, listed: bool) -> Option<PartitionState> {
        let alone = self.cluster.is_none();
        let leadership = self.leadership(topic, id, node);
        let partition = self.partition_mut(topic, id)?;
        Some(match leadership {
            // One that stands alone keeps no leaders, which is what the long form asks for.
            _ if alone && listed => PartitionState::NoLeader,
            Leadership::Nobody | Leadership::Electing => PartitionState::NoLeader,
            Leadership::Elsewhere(endpoint) => PartitionState::Redirect(endpoint),
            Leadership::Here if partition.broken => PartitionState::SystemError,
            Leadership::Here => {
                partition.open = true;
                let Some(replica) = partition.replica(node) else { return Some(PartitionState::NoLeader) };
                let high_water_mark = if alone { replica.log.last } else { replica.committed };
                PartitionState::Marks { first_available: replica.log.first_available, high_water_mark }
            }
        })
    }

    fn discover_topics(&self, request_id: u32) -> DiscoverTopicsResponse {
        let cluster = self.cluster.is_some();
        let entry = |(name, topic): (&Arc<str>, &Topic)| TopicInfo {
            name: name.to_string(),
            enabled: true,
            partitions: u16::try_from(topic.partitions.len()).unwrap_or(u16::MAX),
            replication_factor: cluster.then(|| u8::try_from(topic.factor).unwrap_or(u8::MAX)),
        };
        DiscoverTopicsResponse { request_id, cluster, topics: self.topics.iter().map(entry).collect() }
    }

    fn topology(&self, request_id: u32) -> DiscoverTopologyResponse {
        let cluster = self.cluster.as_ref().map(|cluster| {
            let nodes = self.nodes.iter().enumerate().map(|(index, node)| {
                let copies = self.all_partitions().filter(|(_, _, partition)| partition.replica(index).is_some());
                NodeInfo {
                    id: u16::try_from(index + 1).unwrap_or(u16::MAX),
                    available: node.running,
                    blocked: false,
                    endpoint: node.registered.then(|| node.addr()),
                    partitions: u16::try_from(copies.count()).unwrap_or(u16::MAX),
                }
            });
            Topology { cluster: Some(cluster.name.clone()), nodes: nodes.collect() }
        });
        DiscoverTopologyResponse { request_id, topology: cluster.unwrap_or_default() }
    }

    fn status(&self, request_id: u32) -> StatusResponse {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        StatusResponse {
            request_id,
            flags: 0,
            topics: number(self.topics.len()),
            partitions: number(self.all_partitions().count()),
            cluster: self.cluster.as_ref().map(|cluster| ClusterStatus {
                flags: 0,
                name: cluster.name.clone(),
                nodes: number(self.nodes.iter().filter(|node| node.running).count()),
            }),
            log: Some(LogStatus {
                open_partitions: number(self.all_partitions().filter(|(_, _, partition)| partition.open).count()),
                open_time_ms: 0,
                start_time: self.start_time,
                version: Some(VERSION),
            }),
        }
    }

    fn reload(&mut self, request: ReloadConfRequest) -> ReloadConfResponse {
        let known = self.topics.contains_key(request.topic.as_str());
        let alone = self.cluster.is_none();
        let otherwise = self.options.layout;
        let code = match self.partition_mut(&request.topic, request.partition) {
            _ if !alone => ReloadConfCode::Unsupported,
            _ if !known => ReloadConfCode::UnknownTopic,
            None => ReloadConfCode::UnknownPartition,
            Some(partition) => reload(partition, otherwise),
        };
        let ReloadConfRequest { request_id, topic, partition } = request;
        ReloadConfResponse { request_id, topic, partition, code }
    }
}

fn reload(partition: &mut Partition, otherwise: Layout) -> ReloadConfCode {
    match partition.config.as_deref() {
        None | Some("") => ReloadConfCode::SystemError,
        Some(text) => match layout(text, otherwise) {
            Some(layout) => {
                partition.layout = layout;
                ReloadConfCode::Reloaded
            }
            None => ReloadConfCode::InvalidConfig,
        },
    }
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
    bytes.len() <= MAX_TOPIC_NAME
        && bytes.iter().all(inner)
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}
