//! Produce, with and without numbers.

use serde_json::{Value, json};
use tank_client::protocol::bundle::{Codec, Compression};
use tank_client::protocol::frame;
use tank_client::protocol::produce::{ProduceCode, ProduceRequest, ProduceResponse};

use super::manifest::{self, Bundle, Capture, Frame, hex_code, remove, rename};

/// Captures with a request that a client must not be able to send, and the field on which it is refused.
const REFUSED: [(&str, &str); 2] =
    [("produce_without_topics", "topics in a request"), ("closed_produce_client_version", "client version, low byte")];

pub(crate) fn request(capture: &Capture, frame: &Frame<'_>, expected: &Value) {
    let name = &capture.name;
    let request = ProduceRequest::decode(frame.kind, frame.payload).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut decoded = to_json(&request);
    if capture.cluster {
        // Which gives the number of messages alone.
        for_each_partition(&mut decoded, |partition| {
            remove(partition, &["bundle_len", "bundle_flags", "messages"]);
        });
    }
    assert_eq!(&decoded, expected, "{name}");

    let mut out = vec![0xaa];
    let encoded = request.encode(&mut out);
    if let Some((_, field)) = REFUSED.iter().find(|(refused, _)| refused == name) {
        assert_eq!((encoded.unwrap_err().field, out.as_slice()), (*field, &[0xaa][..]), "{name}");
        return;
    }
    assert_eq!(encoded, Ok(()), "{name}");
    assert_eq!(&out[1..], frame.bytes, "{name}");
    for partition in request.topics.iter().flat_map(|topic| &topic.partitions) {
        rebuild(name, partition.bundle);
    }
}

/// The builder makes the same bundle of the same messages, or, compressed, one with the same contents.
fn rebuild(name: &str, bytes: &[u8]) {
    let bundle = manifest::bundle(bytes, 1).unwrap_or_else(|e| panic!("{name}: {e}"));
    let build = |compression| bundle.again(compression).unwrap_or_else(|e| panic!("{name}: {e}"));
    match bundle.header.codec {
        Codec::None => {
            assert_eq!(build(Compression::None), bytes, "{name}");
            assert_eq!(build(Compression::Auto), bytes, "{name}");
        }
        Codec::Snappy => {
            let ours = build(Compression::Snappy);
            let head = bundle.header.len;
            assert_eq!(ours[..head], bytes[..head], "{name}");
            let again = manifest::bundle(&ours, 1).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((again.header, again.set), (bundle.header, bundle.set), "{name}");
        }
    }
}

pub(crate) fn response(capture: &Capture, frame: &Frame<'_>, expected: &Value, request: &Value) {
    let name = &capture.name;
    let id = frame::request_id(frame.payload).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(request["request_id"], id, "{name}");
    let shape = shape(request);
    let response =
        ProduceResponse::decode(frame.payload, shape.iter().copied()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut expected = expected.clone();
    remove_timing(&mut expected);
    assert_eq!(answer_json(&response, request), expected, "{name}");
    let mut out = Vec::new();
    response.encode(shape, &mut out).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(out, frame.bytes, "{name}");
}

pub(crate) fn hostile(capture: &Capture) {
    let frames = manifest::frames(&capture.response).unwrap();
    let [frame] = frames.as_slice() else { panic!("{}: not one frame", capture.name) };
    let e = ProduceResponse::decode(frame.payload, shape(&capture.requests[0])).unwrap_err();
    capture.assert_expected(&e);
}

fn partitions(topic: &Value) -> &[Value] {
    topic["partitions"].as_array().expect("partitions")
}

fn topics(message: &Value) -> &[Value] {
    message["topics"].as_array().expect("topics")
}

fn shape(request: &Value) -> Vec<usize> {
    topics(request).iter().map(|topic| partitions(topic).len()).collect()
}

fn for_each_partition(message: &mut Value, change: impl Fn(&mut Value)) {
    for topic in message["topics"].as_array_mut().expect("topics") {
        topic["partitions"].as_array_mut().expect("partitions").iter_mut().for_each(&change);
    }
}

/// When an answer came is not in it.
pub(crate) fn remove_timing(message: &mut Value) {
    remove(message, &["arrived_after_ms_about"]);
}

fn to_json(request: &ProduceRequest<'_>) -> Value {
    let topic_json = |topic: &tank_client::protocol::produce::ProduceTopic<'_>| {
        let partitions = topic.partitions.iter().map(|entry| {
            let bundle = manifest::bundle(entry.bundle, 1).unwrap();
            let mut partition = json!({
                "partition": entry.partition,
                "bundle_len": entry.bundle.len(),
                "bundle_flags": entry.bundle[0],
                "count": bundle.header.count,
                "messages": messages(&bundle),
            });
            if request.with_seqnum {
                partition["first_seq"] = entry.first_seq.into();
            }
            partition
        });
        json!({ "name": topic.name, "partitions": partitions.collect::<Vec<_>>() })
    };
    json!({
        "type": if request.with_seqnum { "produce_with_seqnum" } else { "produce" },
        "client_version": request.client_version,
        "request_id": request.request_id,
        "client_id": request.client_id,
        "required_acks": request.required_acks,
        "ack_timeout_ms": request.ack_timeout_ms,
        "topics": request.topics.iter().map(topic_json).collect::<Vec<_>>(),
    })
}

fn messages(bundle: &Bundle) -> Vec<Value> {
    bundle.entries.iter().map(|entry| bundle.message(entry)).collect()
}

fn answer_json(response: &ProduceResponse, request: &Value) -> Value {
    let mut codes = response.codes.iter();
    let topics = topics(request).iter().map(|topic| {
        let partitions = partitions(topic).iter().map(|partition| {
            let code = codes.next().expect("a code");
            let (id, result) = words(*code);
            let mut answer = json!({ "partition": partition["partition"], "code": id, "result": result });
            if let ProduceCode::Redirect(endpoint) = code {
                answer["endpoint"] = endpoint.to_string().into();
            }
            answer
        });
        json!({ "name": topic["name"], "partitions": partitions.collect::<Vec<_>>() })
    });
    json!({ "type": "produce", "request_id": response.request_id, "topics": topics.collect::<Vec<_>>() })
}

fn words(code: ProduceCode) -> (u8, &'static str) {
    match code {
        ProduceCode::Stored => (0, "ok"),
        ProduceCode::UnknownPartition => (1, "unknown_partition"),
        ProduceCode::SystemError => (2, "system"),
        ProduceCode::NotConfirmed => (3, "acks_missing"),
        ProduceCode::InsufficientReplicas => (4, "insufficient_replicas"),
        ProduceCode::InvalidSeq => (10, "invalid_seqnum"),
        ProduceCode::Redirect(_) => (0xfc, "redirect"),
        ProduceCode::NoLeader => (0xfd, "no_leader"),
        ProduceCode::ReadOnly => (0xfe, "read_only"),
        ProduceCode::UnknownTopic => (0xff, "unknown_topic"),
    }
}

/// The words that the cluster's manifest has for a code.
fn result_of(code: u8, meaning: &str) -> &'static str {
    match (code, meaning) {
        (0, "ok") => "ok",
        (1, "unknown partition") => "unknown_partition",
        (3, "acknowledgements pending") => "acks_missing",
        (4, "insufficient replicas") => "insufficient_replicas",
        (0xfc, "other leader") => "redirect",
        (0xfd, "no leader") => "no_leader",
        (0xff, "unknown topic") => "unknown_topic",
        other => panic!("no result {other:?}"),
    }
}

/// Gives an exchange of the cluster's manifest the form of the server's.
pub(crate) fn from_cluster(request: &mut Value, response: &mut Value) {
    for topic in request["topics"].as_array_mut().expect("topics") {
        rename(topic, "topic", "name");
    }
    for_each_partition(request, |partition| rename(partition, "messages_in_bundle", "count"));
    if response.is_null() {
        return;
    }
    let mut results = response["results"].as_array().expect("results").iter();
    let answers = topics(request).iter().map(|topic| {
        let mut of_topic: Option<&Value> = None;
        let answers = partitions(topic).iter().map(|partition| {
            let result = of_topic.unwrap_or_else(|| results.next().expect("a result"));
            assert_eq!(result["topic"], topic["name"]);
            if result["partition"].is_null() {
                of_topic = Some(result);
            } else {
                assert_eq!(result["partition"], partition["partition"]);
            }
            let code = hex_code(&result["error"]);
            let meaning = result_of(code, result["meaning"].as_str().expect("a meaning"));
            let mut answer = json!({ "partition": partition["partition"], "code": code, "result": meaning });
            if let Some(endpoint) = result["redirect"].get("endpoint") {
                answer["endpoint"] = endpoint.clone();
            }
            answer
        });
        json!({ "name": topic["name"], "partitions": answers.collect::<Vec<_>>() })
    });
    let answers: Vec<_> = answers.collect();
    assert!(results.next().is_none());
    response["topics"] = answers.into();
    remove(response, &["results"]);
}
