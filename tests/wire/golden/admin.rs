//! Topics, partitions, nodes, status and configuration.

use std::fmt::Debug;

use common::captures::Capture;
use serde_json::{Value, json};
use tank_client::Limits;
use tank_client::TopicConfig;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::admin::{
    CreateTopicCode, CreateTopicRequest, CreateTopicResponse, DiscoverPartitionsRequest, DiscoverPartitionsResponse,
    DiscoverTopicsRequest, DiscoverTopicsResponse, DiscoverTopologyRequest, DiscoverTopologyResponse, PartitionState,
    ReloadConfCode, ReloadConfRequest, ReloadConfResponse, StatusRequest, StatusResponse,
};
use tank_client::protocol::frame::Payload;
use tank_client::protocol::request::Request;
use tank_client::protocol::{DecodeError, EncodeError};

use super::parts::{self, Frame};

/// Captures with a request that a client must not be able to send, and the field on which it is refused.
const REFUSED: [(&str, &str); 1] = [("create_topic_name_empty", "topic name, bytes")];

/// Decodes to `expected`, and encodes to its bytes.
fn both_ways<T: Debug>(
    capture: &Capture,
    frame: &Frame<'_>,
    expected: &Value,
    decoded: Result<T, DecodeError>,
    to_json: impl Fn(&T) -> Value,
    encode: impl Fn(&T, &mut Vec<u8>) -> Result<(), EncodeError>,
) -> Option<T> {
    let name = &capture.name;
    let decoded = decoded.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(&to_json(&decoded), expected, "{name}");
    let mut out = vec![0xaa];
    let encoded = encode(&decoded, &mut out);
    if let Err(e) = encoded {
        let refused = REFUSED.iter().find(|(refused, _)| refused == name);
        assert_eq!((Some(e.field), out.as_slice()), (refused.map(|(_, field)| *field), &[0xaa][..]), "{name}");
        return None;
    }
    if name == "reload_conf_unknown_topic_old" && out[1..] != *frame.bytes {
        // Read from an older code, written as the one that servers send.
        assert_eq!((out.pop(), frame.bytes.last()), (Some(11), Some(&1)));
        assert_eq!(out[1..], frame.bytes[..frame.bytes.len() - 1]);
        return Some(decoded);
    }
    assert_eq!(&out[1..], frame.bytes, "{name}");
    Some(decoded)
}

pub(crate) fn request(capture: &Capture, frame: &Frame<'_>, expected: &Value) {
    let (c, f, e, p) = (capture, frame, expected, frame.payload);
    match frame.kind {
        Kind::CreateTopic => {
            let json = |r: &CreateTopicRequest| {
                json!({
                    "type": "create_topic",
                    "request_id": r.request_id,
                    "topic": r.topic,
                    "partitions": r.partitions,
                    "config": r.config,
                })
            };
            both_ways(c, f, e, CreateTopicRequest::decode(p), json, CreateTopicRequest::encode);
        }
        Kind::DiscoverPartitions => {
            let json = |r: &DiscoverPartitionsRequest| {
                let mut json = json!({ "type": "discover_partitions", "request_id": r.request_id, "topic": r.topic });
                if !r.partitions.is_empty() {
                    json["partitions"] = r.partitions.clone().into();
                }
                json
            };
            both_ways(c, f, e, DiscoverPartitionsRequest::decode(p), json, DiscoverPartitionsRequest::encode);
        }
        Kind::DiscoverTopics => {
            let json = |r: &DiscoverTopicsRequest| json!({ "type": "discover_topics", "request_id": r.request_id, "flags": r.flags });
            both_ways(c, f, e, DiscoverTopicsRequest::decode(p), json, DiscoverTopicsRequest::encode);
        }
        Kind::DiscoverTopology => {
            let json = |r: &DiscoverTopologyRequest| json!({ "type": "discover_topology", "request_id": r.request_id, "flags": r.flags });
            both_ways(c, f, e, DiscoverTopologyRequest::decode(p), json, DiscoverTopologyRequest::encode);
        }
        Kind::Status => {
            let json = |r: &StatusRequest| json!({ "type": "status", "request_id": r.request_id });
            both_ways(c, f, e, StatusRequest::decode(p), json, StatusRequest::encode);
        }
        Kind::ReloadConf => {
            let json = |r: &ReloadConfRequest| {
                json!({
                    "type": "reload_conf",
                    "request_id": r.request_id,
                    "topic": r.topic,
                    "partition": r.partition,
                })
            };
            both_ways(c, f, e, ReloadConfRequest::decode(p), json, ReloadConfRequest::encode);
        }
        other => panic!("{}: {other:?}", capture.name),
    }
}

/// The request itself, to check an answer against.
fn sent<T>(capture: &Capture, request: &Value, decode: impl Fn(&[u8]) -> Result<T, DecodeError>) -> T {
    let index = capture.requests.iter().position(|other| other == request).expect("one of the capture's");
    decode(parts::request_frames(capture)[index].payload).unwrap_or_else(|e| panic!("{}: {e}", capture.name))
}

pub(crate) fn response(capture: &Capture, frame: &Frame<'_>, expected: &Value, request: &Value) {
    let limits = Limits::default();
    let (c, f, e, p) = (capture, frame, expected, frame.payload);
    match frame.kind {
        Kind::CreateTopic => {
            let answer = both_ways(c, f, e, CreateTopicResponse::decode(p), created_json, CreateTopicResponse::encode);
            let request = sent(c, request, CreateTopicRequest::decode);
            let answer = answer.expect("an answer that encodes");
            assert_eq!(request.read_answer(p, &limits), Ok(answer.code), "{}", c.name);
            // What the server says of a configuration is what our reading of it says.
            let config = request.config.parse::<TopicConfig>();
            match answer.code {
                CreateTopicCode::InvalidConfig => assert!(config.is_err(), "{}", c.name),
                _ => assert!(config.is_ok(), "{}: {config:?}", c.name),
            }
        }
        Kind::DiscoverPartitions => {
            let request = sent(c, request, DiscoverPartitionsRequest::decode);
            let json = |r: &DiscoverPartitionsResponse| partitions_json(r, &request.partitions);
            let decoded = DiscoverPartitionsResponse::decode(p);
            let answer = both_ways(c, f, e, decoded, json, DiscoverPartitionsResponse::encode);
            let states = answer.map(|answer| (answer.count > 0).then_some(answer.partitions));
            assert_eq!(request.read_answer(p, &limits).ok(), states, "{}", c.name);
        }
        Kind::DiscoverTopics => {
            let decoded = DiscoverTopicsResponse::decode_within(p, &limits);
            both_ways(c, f, e, decoded, topics_json, DiscoverTopicsResponse::encode);
        }
        Kind::DiscoverTopology => {
            let decoded = DiscoverTopologyResponse::decode_within(p, &limits);
            both_ways(c, f, e, decoded, topology_json, DiscoverTopologyResponse::encode);
        }
        Kind::Status => {
            both_ways(c, f, e, StatusResponse::decode(p), status_json, StatusResponse::encode);
        }
        Kind::ReloadConf => {
            let code = e["code"].clone();
            let json = |r: &ReloadConfResponse| reloaded_json(r, &code);
            let answer = both_ways(c, f, e, ReloadConfResponse::decode(p), json, ReloadConfResponse::encode);
            let request = sent(c, request, ReloadConfRequest::decode);
            assert_eq!(request.read_answer(p, &limits).ok(), answer.map(|answer| answer.code), "{}", c.name);
        }
        other => panic!("{}: {other:?}", capture.name),
    }
}

pub(crate) fn hostile(capture: &Capture) {
    let frames = parts::frames(&capture.response).unwrap();
    let [frame] = frames.as_slice() else { panic!("{}: not one frame", capture.name) };
    // A count is refused by its limit; without one, by what is missing.
    for limits in [Limits::default(), Limits::default().topics(u32::MAX)] {
        let e = match frame.kind {
            Kind::DiscoverTopics => DiscoverTopicsResponse::decode_within(frame.payload, &limits).unwrap_err(),
            Kind::Status => StatusResponse::decode(frame.payload).unwrap_err(),
            other => panic!("{}: {other:?}", capture.name),
        };
        parts::assert_expected(capture, &e);
    }
}

fn created_json(r: &CreateTopicResponse) -> Value {
    let result = match r.code {
        CreateTopicCode::Created => "ok",
        CreateTopicCode::Exists => "already_exists",
        CreateTopicCode::SystemError => "system",
        CreateTopicCode::InvalidConfig => "invalid_config",
        CreateTopicCode::ReadOnly => "read_only",
        CreateTopicCode::InvalidRequest => "invalid_request",
        CreateTopicCode::Unsupported => "unsupported",
    };
    json!({
        "type": "create_topic",
        "request_id": r.request_id,
        "topic": r.topic,
        "code": r.code as u8,
        "result": result,
    })
}

fn partitions_json(r: &DiscoverPartitionsResponse, listed: &[u16]) -> Value {
    let mut json =
        json!({ "type": "discover_partitions", "request_id": r.request_id, "topic": r.topic, "count": r.count });
    if r.count == 0 {
        json["error"] = "unknown_topic".into();
        return json;
    }
    let states = r.partitions.iter().enumerate().map(|(index, state)| {
        let partition = listed.get(index).map_or(index, |&id| id.into());
        match state {
            PartitionState::Marks { first_available, high_water_mark } => json!({
                "partition": partition,
                "error": null,
                "first_available_seq": first_available,
                "high_water_mark": high_water_mark,
            }),
            PartitionState::SystemError => json!({ "partition": partition, "error": "system" }),
            PartitionState::Redirect(endpoint) => {
                json!({ "partition": partition, "error": "redirect", "endpoint": endpoint.to_string() })
            }
            PartitionState::NoLeader => json!({ "partition": partition, "error": "no_leader" }),
        }
    });
    json["partitions"] = states.collect();
    json["error"] = Value::Null;
    json
}

fn topics_json(r: &DiscoverTopicsResponse) -> Value {
    let topics = r.topics.iter().map(|topic| {
        let mut json = json!({ "name": topic.name, "enabled": topic.enabled, "partitions": topic.partitions });
        if let Some(factor) = topic.replication_factor {
            json["replication_factor"] = factor.into();
        }
        json
    });
    json!({
        "type": "discover_topics",
        "request_id": r.request_id,
        "cluster_aware": r.cluster,
        "topics": topics.collect::<Vec<_>>(),
    })
}

fn topology_json(r: &DiscoverTopologyResponse) -> Value {
    let mut json = json!({
        "type": "discover_topology",
        "request_id": r.request_id,
        "stand_alone": r.topology.cluster.is_none(),
    });
    if let Some(name) = &r.topology.cluster {
        let nodes = r.topology.nodes.iter().map(|node| {
            json!({
                "id": node.id,
                "available": node.available,
                "blocked": node.blocked,
                "endpoint": node.endpoint.map(|endpoint| endpoint.to_string()),
                "partitions": node.partitions,
            })
        });
        json["nodes"] = nodes.collect();
        json["cluster"] = name.clone().into();
    }
    json
}

fn status_json(r: &StatusResponse) -> Value {
    let mut json = json!({
        "type": "status",
        "request_id": r.request_id,
        "global_flags": r.flags,
        "cluster_aware": r.cluster.is_some(),
        "topics": r.topics,
        "partitions": r.partitions,
    });
    if let Some(cluster) = &r.cluster {
        json["cluster_flags"] = cluster.flags.into();
        json["cluster"] = cluster.name.clone().into();
        json["available_nodes"] = cluster.nodes.into();
    }
    if let Some(log) = &r.log {
        json["open_partitions"] = log.open_partitions.into();
        json["open_partitions_time_ms"] = log.open_time_ms.into();
        json["startup_ts"] = log.start_time.into();
        json["version"] = log.version.into();
    }
    json
}

/// Two codes are read as the same; `code` is the one that was sent.
fn reloaded_json(r: &ReloadConfResponse, code: &Value) -> Value {
    let result = match r.code {
        ReloadConfCode::Reloaded => "ok",
        ReloadConfCode::SystemError => "system",
        ReloadConfCode::InvalidConfig => "invalid_config",
        ReloadConfCode::UnknownPartition => "unknown_partition",
        ReloadConfCode::UnknownTopic => "unknown_topic",
        ReloadConfCode::Unsupported => "unsupported",
    };
    let code = if r.code == ReloadConfCode::UnknownTopic { code.clone() } else { (r.code as u8).into() };
    json!({
        "type": "reload_conf",
        "request_id": r.request_id,
        "topic": r.topic,
        "partition": r.partition,
        "code": code,
        "result": result,
    })
}
