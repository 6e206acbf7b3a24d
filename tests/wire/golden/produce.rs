//! Produce, with and without numbers.

use common::captures::Capture;
use serde_json::{Value, json};
use tank_client::Compression;
use tank_client::protocol::bundle::Codec;
use tank_client::protocol::frame;
use tank_client::protocol::produce::{ProduceCode, ProduceRequest, ProduceResponse};

use super::parts::{self, Bundle, Frame};

/// Captures with a request that a client must not be able to send, and the field on which it is refused.
const REFUSED: [(&str, &str); 2] =
    [("produce_without_topics", "topics in a request"), ("closed_produce_client_version", "client version, low byte")];

pub(crate) fn request(capture: &Capture, frame: &Frame<'_>, expected: &Value) {
    let name = &capture.name;
    let request = ProduceRequest::decode(frame.kind, frame.payload).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(&to_json(&request), expected, "{name}");

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
    let bundle = parts::bundle(bytes, 1).unwrap_or_else(|e| panic!("{name}: {e}"));
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
            let again = parts::bundle(&ours, 1).unwrap_or_else(|e| panic!("{name}: {e}"));
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
    assert_eq!(&answer_json(&response, request), expected, "{name}");
    let mut out = Vec::new();
    response.encode(shape, &mut out).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(out, frame.bytes, "{name}");
}

pub(crate) fn hostile(capture: &Capture) {
    let frames = parts::frames(&capture.response).unwrap();
    let [frame] = frames.as_slice() else { panic!("{}: not one frame", capture.name) };
    let e = ProduceResponse::decode(frame.payload, shape(&capture.requests[0])).unwrap_err();
    parts::assert_expected(capture, &e);
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

fn to_json(request: &ProduceRequest<'_>) -> Value {
    let topic_json = |topic: &tank_client::protocol::produce::ProduceTopic<'_>| {
        let partitions = topic.partitions.iter().map(|entry| {
            let bundle = parts::bundle(entry.bundle, 1).unwrap();
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
