//! Consume: what the piecewise decoder reports of each answer.

use std::fs;

use serde_json::{Map, Value, json};
use tank_client::protocol::bundle::Codec;
use tank_client::protocol::fetch::{
    FetchHeader, FetchPartition, FetchRequest, FetchTopic, PartitionAnswer, SEQ_TAIL, TopicAnswer,
};
use tank_client::protocol::frame::{HEADER_LEN, Kind};
use tank_client::protocol::stream::ChunkEnd;
use tank_client::protocol::{DecodeError, Limits, varint};

use crate::captures::{self, Capture, Frame, hex_code, remove, rename};
use crate::common::captures::merge_topics;
use crate::common::feed::{self, Message, Part};

/// Captures with a request that a client must not be able to send, and the field on which it is refused.
const REFUSED: [(&str, &str); 3] = [
    ("closed_consume_without_topics", "partitions in a request"),
    ("consume_topic_listed_twice_eof_wait", "entries of a topic"),
    ("consume_topic_without_partitions", "partitions of a topic"),
];

/// Recorded answers that must be refused, and the field: numbers that run backwards inside a chunk (reference, section
/// 14.4), and one entry for two of a request that cannot be sent (section 5.2).
const BROKEN: [(&str, &str); 2] = [
    ("prefer_local_tail_restarted_replica", "first sequence number"),
    ("consume_topic_listed_twice_eof_wait", "topic count"),
];

/// Every hostile answer with the field that gives it away.
const HOSTILE: [(&str, &str); 37] = [
    ("hostile_0xfe_without_sparse", "bundle flags"),
    ("hostile_base_overflow", "sequence number"),
    ("hostile_bundle_len_zero", "bundle length"),
    ("hostile_chunk_len_past_end", "chunk length"),
    ("hostile_chunk_len_wraps", "chunk length"),
    ("hostile_codec_2", "bundle codec"),
    ("hostile_count_huge", "message count"),
    ("hostile_count_too_big", "message flags"),
    ("hostile_count_too_small", "message set"),
    ("hostile_count_zero", "message count"),
    ("hostile_cut_then_closed", "partition count"),
    ("hostile_flag_bit_7", "bundle flags"),
    ("hostile_frame_len_max", "frame length"),
    ("hostile_header_len_max", "header length"),
    ("hostile_header_len_too_big", "header length"),
    ("hostile_header_len_too_small", "high-water mark"),
    ("hostile_header_past_bundle", "first sequence number"),
    ("hostile_key_past_bundle", "key"),
    ("hostile_message_past_bundle", "payload"),
    ("hostile_other_partition", "partition id"),
    ("hostile_other_topic", "topic name"),
    ("hostile_payload_len_max", "payload"),
    ("hostile_same_partition_twice", "partition id"),
    ("hostile_snappy_bomb", "decompressed length"),
    ("hostile_snappy_garbage", "message set"),
    ("hostile_snappy_short", "message set"),
    ("hostile_spare_bytes", "answer"),
    ("hostile_sparse_backwards", "first sequence number"),
    ("hostile_sparse_delta_past_last", "sequence number"),
    ("hostile_sparse_overflow", "sequence number"),
    ("hostile_sparse_range_too_small", "sequence number"),
    ("hostile_too_few_partitions", "partition count"),
    ("hostile_unknown_error_code", "err_flags"),
    ("hostile_unknown_frame_type", "message id"),
    ("hostile_varint_overflow", "bundle length"),
    ("hostile_varint_too_long", "bundle length"),
    ("hostile_wrong_request_id", "request id"),
];

pub(crate) fn request(capture: &Capture, frame: &Frame<'_>, expected: &Value) {
    let name = &capture.name;
    let request = FetchRequest::decode(frame.payload).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(&request_json(&request), expected, "{name}");
    let mut out = vec![0xaa];
    let encoded = request.encode(&mut out);
    if let Some((_, field)) = REFUSED.iter().find(|(refused, _)| refused == name) {
        assert_eq!((encoded.unwrap_err().field, out.as_slice()), (*field, &[0xaa][..]), "{name}");
        return;
    }
    assert_eq!(encoded, Ok(()), "{name}");
    assert_eq!(&out[1..], frame.bytes, "{name}");
}

fn request_json(request: &FetchRequest) -> Value {
    let partition = |wanted: &FetchPartition| json!({ "partition": wanted.partition, "seq": wanted.seq, "fetch_size": wanted.fetch_size });
    let topic = |topic: &FetchTopic| {
        let partitions: Vec<_> = topic.partitions.iter().map(partition).collect();
        json!({ "name": &*topic.name, "partitions": partitions })
    };
    let mut json = json!({
        "type": "consume",
        "client_version": request.client_version,
        "request_id": request.request_id,
        "client_id": &*request.client_id,
        "max_wait_ms": request.max_wait_ms,
        "min_bytes": request.min_bytes,
        "topics": request.topics.iter().map(topic).collect::<Vec<_>>(),
    });
    if request.client_version >= 3 {
        json["flags"] = request.flags.into();
    }
    json
}

/// Why an answer was not read to its end.
enum Failure {
    Malformed(DecodeError),
    /// The bytes ended.
    Lost,
}

/// The consume requests that were sent.
fn requests(capture: &Capture) -> Vec<FetchRequest> {
    let frames = capture.request_frames();
    let consume = frames.iter().filter(|frame| frame.kind == Kind::Consume);
    consume
        .map(|frame| FetchRequest::decode(frame.payload).unwrap_or_else(|e| panic!("{}: {e}", capture.name)))
        .collect()
}

/// Reads one answer to any of `requests` from all of its bytes: that request, and its partitions.
fn decode(requests: &[FetchRequest], bytes: &[u8]) -> Result<(FetchRequest, Vec<Part>), Failure> {
    let mut outcome = feed::decode(requests, bytes, &Limits::default());
    let answer = match (outcome.error, outcome.answers.pop()) {
        (Some(e), _) => return Err(Failure::Malformed(e)),
        (None, None) => return Err(Failure::Lost),
        (None, Some(answer)) => answer,
    };
    assert_eq!(outcome.ends, [bytes.len()], "the answer ends with its last byte");
    let request = requests.iter().find(|request| request.request_id == answer.request_id);
    Ok((request.expect("the answer to a request").clone(), answer.parts))
}

pub(crate) fn response(capture: &Capture, frame: &Frame<'_>, expected: &Value, _: &Value) {
    let name = &capture.name;
    let mut sent = requests(capture);
    let mut decoded = decode(&sent, frame.bytes);
    if let Some((_, field)) = BROKEN.iter().find(|(broken, _)| broken == name) {
        assert!(matches!(decoded, Err(Failure::Malformed(e)) if e.field() == *field), "{name}");
        // The server merges a topic that is listed twice; asked for as it is answered, it is as good as any.
        if !sent.iter_mut().any(merge_topics) {
            return;
        }
        decoded = decode(&sent, frame.bytes);
    }
    let (request, partitions) = match decoded {
        Ok(decoded) => decoded,
        Err(Failure::Malformed(e)) => panic!("{name}: {e}"),
        Err(Failure::Lost) => panic!("{name}: cut"),
    };
    assert_eq!(expected["request_id"], request.request_id, "{name}");
    let topics = expected["topics"].as_array().expect("topics");
    assert_eq!(topics.len(), request.topics.len(), "{name}");
    let mut reported = partitions.iter();
    let mut chunk = 4 + expected["header_len"].as_u64().expect("a length");
    for (topic, wanted) in topics.iter().zip(&request.topics) {
        let mut partitions: Vec<_> = wanted.partitions.iter().zip(reported.by_ref()).collect();
        assert_eq!(topic["name"], *wanted.name, "{name}");
        assert_eq!(topic["partitions_announced"], partitions.len(), "{name}");
        if topic["error"] == "unknown_topic" {
            partitions.retain(|(_, partition)| partition.answer != PartitionAnswer::UnknownTopic);
        } else {
            assert_eq!(topic["error"], Value::Null, "{name}");
        }
        let expected = topic["partitions"].as_array().expect("partitions");
        assert_eq!(expected.len(), partitions.len(), "{name}");
        for (expected, (wanted, partition)) in expected.iter().zip(partitions) {
            check_partition(capture, expected, wanted, partition, chunk);
            chunk += u64::from(partition.answer.chunk_len());
        }
    }
    assert_eq!(chunk, frame.payload.len() as u64, "{name}");
    check_header(capture, frame, expected, &request, &partitions);
}

/// The broker's side writes the same header.
fn check_header(capture: &Capture, frame: &Frame<'_>, expected: &Value, request: &FetchRequest, partitions: &[Part]) {
    let mut answers = partitions.iter().map(|partition| partition.answer);
    let topics = request.topics.iter().map(|topic| {
        let partitions: Vec<_> = topic.partitions.iter().map(|p| p.partition).zip(answers.by_ref()).collect();
        let known = partitions.iter().all(|(_, answer)| *answer != PartitionAnswer::UnknownTopic);
        // One without partitions can only be told by what was recorded.
        let known = known
            && !expected["topics"].as_array().unwrap().iter().any(|other| {
                other["name"] == *topic.name && other["error"] == "unknown_topic" && partitions.is_empty()
            });
        TopicAnswer { name: topic.name.clone(), partitions, known }
    });
    let header = FetchHeader { request_id: request.request_id, topics: topics.collect() };
    let mut out = Vec::new();
    header.encode(&mut out).unwrap_or_else(|e| panic!("{}: {e}", capture.name));
    assert_eq!(expected["header_len"], out.len() - HEADER_LEN - 4, "{}", capture.name);
    assert_eq!(out, frame.bytes[..out.len()], "{}", capture.name);
}

fn message_json(message: &Message) -> Value {
    let mut json = captures::message(message.timestamp_ms, message.key.as_deref(), &message.payload);
    json["seq"] = message.seq.into();
    json
}

/// `chunk` is where the partition's chunk begins in the payload.
fn check_partition(capture: &Capture, expected: &Value, wanted: &FetchPartition, partition: &Part, chunk: u64) {
    let place = format!("{}, partition {}", capture.name, wanted.partition);
    let mut ours = answer_json(&partition.answer);
    ours.insert("partition".into(), wanted.partition.into());
    for (key, value) in &ours {
        assert_eq!(&expected[key], value, "{place}: {key}");
    }
    for key in ["base_seq", "high_water_mark", "chunk_len", "first_available_seq", "endpoint"] {
        assert!(expected.get(key).is_none() || ours.contains_key(key), "{place}: {key}");
    }
    let delivered: Vec<Value> = partition.messages.iter().map(message_json).collect();
    assert_eq!(messages(expected, capture.cluster), bare(&delivered, capture.cluster), "{place}");
    check_bundles(&place, expected, partition, chunk);
    if capture.cluster || !expected["error"].is_null() {
        return;
    }
    assert_eq!(expected["message_count"], partition.messages.len(), "{place}");
    let chunk_len = ours["chunk_len"].as_u64().expect("a length");
    assert_eq!(expected["drained"], chunk_len == 0, "{place}");
    assert_eq!(partition.end.is_none(), chunk_len == 0, "{place}");
    // The manifest says what the C++ client asks for after an empty tail, which a careful one must not.
    let next = match partition.messages.last() {
        Some(last) => Some(last.seq + 1),
        None => (wanted.seq != SEQ_TAIL).then_some(wanted.seq),
    };
    if let Some(next) = next {
        assert_eq!(expected["next_seq"], next, "{place}");
    }
    let (cut, needed) = match partition.end {
        Some(ChunkEnd::Cut { bundle_len }) => (true, bundle_len.unwrap_or(1024)),
        _ => (false, 1024),
    };
    assert_eq!(!expected["partial"].is_null(), cut, "{place}");
    assert_eq!(expected["next_min_fetch_size"], needed, "{place}");
    assert_eq!(expected["cut_at_high_water_mark"] == true, partition.end == Some(ChunkEnd::AboveMark), "{place}");
}

/// All bundles with something to deliver are reported, as they are recorded.
fn check_bundles(place: &str, expected: &Value, partition: &Part, chunk: u64) {
    let recorded: &[Value] = expected["bundles"].as_array().map_or(&[], Vec::as_slice);
    let mut recorded = recorded.iter();
    for (bundle, delivered) in partition.bundles.iter().zip(&partition.delivered) {
        let codec: u8 = if bundle.codec == Codec::Snappy { 1 } else { 0 };
        let ours = json!({
            "codec": codec, "sparse": bundle.sparse, "count": bundle.count, "first": bundle.first, "last": bundle.last,
        });
        let found = recorded.by_ref().find(|recorded| {
            let same = ours.as_object().unwrap().iter().all(|(key, value)| recorded[key] == *value);
            assert!(same || recorded["delivered"].as_u64().unwrap_or(0) == 0, "{place}: {recorded} is missing");
            same
        });
        let found = found.unwrap_or_else(|| panic!("{place}: {ours} is not recorded"));
        assert_eq!(found["complete"], !bundle.cut, "{place}");
        assert_eq!(found["delivered"], *delivered, "{place}");
        if let (Some(offset), Some(length)) = (found["offset"].as_u64(), found["length"].as_u64()) {
            let end = offset + varint::len(length as u32) as u64 + length;
            let end = chunk + end.min(partition.answer.chunk_len().into());
            assert_eq!(bundle.at + bundle.set.len() as u64, end, "{place}: where the message set ends");
        }
    }
    let missing = recorded.find(|recorded| recorded["delivered"].as_u64().unwrap_or(0) > 0);
    assert_eq!(missing, None, "{place}");
}

fn answer_json(answer: &PartitionAnswer) -> Map<String, Value> {
    let json = match *answer {
        PartitionAnswer::Data { base, high_water_mark, len } => json!({
            "err_flags": if base.is_some() { 0 } else { 0xfe },
            "error": null,
            "base_seq": base,
            "high_water_mark": high_water_mark,
            "chunk_len": len,
        }),
        PartitionAnswer::OutOfRange { high_water_mark, first_available } => json!({
            "err_flags": 1,
            "error": "boundary",
            "base_seq": 0,
            "high_water_mark": high_water_mark,
            "chunk_len": 0,
            "first_available_seq": first_available,
        }),
        PartitionAnswer::SystemError => json!({ "err_flags": 0xfb, "error": "system" }),
        PartitionAnswer::Redirect(endpoint) => {
            json!({ "err_flags": 0xfc, "error": "redirect", "endpoint": endpoint.to_string() })
        }
        PartitionAnswer::NoLeader => json!({ "err_flags": 0xfd, "error": "no_leader" }),
        PartitionAnswer::UnknownPartition => json!({ "err_flags": 0xff, "error": "unknown_partition" }),
        PartitionAnswer::UnknownTopic => panic!("a topic's answer"),
    };
    match json {
        Value::Object(map) => map,
        _ => unreachable!("an object"),
    }
}

/// The messages that are to be delivered, from the manifest or a file of their own.
fn messages(expected: &Value, cluster: bool) -> Vec<Value> {
    let Some(file) = expected["messages_file"].as_str() else {
        return bare(expected["messages"].as_array().map_or(&[], Vec::as_slice), cluster);
    };
    let text = fs::read_to_string(captures::directory().join(file)).expect("a list of messages");
    let line = |line: &str| {
        let [seq, ts, key, payload] = line.split('\t').collect::<Vec<_>>().try_into().expect("four columns");
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let mut json = json!({ "seq": number(seq), "ts": number(ts), "key": key.strip_prefix('k') });
        match payload.strip_prefix('p') {
            Some(hex) => json["payload"] = hex.into(),
            None => {
                let (len, crc) = payload.strip_prefix('#').and_then(|rest| rest.split_once(':')).expect("#length:crc");
                json["payload_len"] = number(len).into();
                json["payload_crc32"] = crc.into();
            }
        }
        json
    };
    text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).map(line).collect()
}

/// The cluster's manifest has numbers and contents only.
fn bare(messages: &[Value], cluster: bool) -> Vec<Value> {
    let mut messages = messages.to_vec();
    if cluster {
        messages.iter_mut().for_each(|message| remove(message, &["ts", "key"]));
    }
    messages
}

pub(crate) fn hostile(capture: &Capture) {
    let mut requests = requests(capture);
    let name = &capture.name;
    let Some((_, field)) = HOSTILE.iter().find(|(hostile, _)| hostile == name) else { panic!("{name} is not listed") };
    if capture.expect.as_deref() == Some("connection_lost") {
        // The answer has two partitions where its request names one, which is seen before the bytes end.
        assert!(matches!(decode(&requests, &capture.response), Err(Failure::Malformed(e)) if e.field() == *field));
        let second = FetchPartition { partition: 1, ..requests[0].topics[0].partitions[0] };
        requests[0].topics[0].partitions.push(second);
    }
    match decode(&requests, &capture.response) {
        Ok(_) => panic!("{name}: read to its end"),
        Err(Failure::Malformed(e)) => {
            capture.assert_expected(&e);
            assert_eq!(e.field(), *field, "{name}");
        }
        Err(Failure::Lost) => assert_eq!(capture.expect.as_deref(), Some("connection_lost"), "{name}"),
    }
}

/// Requests under way at a time are told apart by their ids, whatever the order of their answers.
#[test]
fn whole_connections() {
    let mut several = Vec::new();
    for capture in captures::load().iter().filter(|capture| capture.expect.is_none() && !capture.closed) {
        let requests = requests(capture);
        let frames = capture.response_frames();
        let ours: Vec<&Frame<'_>> =
            frames.iter().filter(|frame| matches!(frame.kind, Kind::Consume | Kind::Ping)).collect();
        if requests.len() < 2 && ours.len() < 2 {
            continue;
        }
        let stream: Vec<u8> = ours.iter().flat_map(|frame| frame.bytes).copied().collect();
        let answers = feed::decode(&requests, &stream, &Limits::default()).complete();
        let alone = ours.iter().filter(|frame| frame.kind == Kind::Consume).map(|frame| {
            let Ok((request, parts)) = decode(&requests, frame.bytes) else { panic!("{}", capture.name) };
            (request.request_id, parts)
        });
        // Only the places of the bundles differ.
        let comparable = |parts: Vec<Part>| parts.into_iter().map(|part| (part.answer, part.messages, part.end));
        let together: Vec<_> = answers
            .into_iter()
            .map(|answer| (answer.request_id, comparable(answer.parts).collect::<Vec<_>>()))
            .collect();
        let alone: Vec<_> = alone.map(|(id, parts)| (id, comparable(parts).collect::<Vec<_>>())).collect();
        assert!(together == alone, "{}", capture.name);
        several.push(capture.name.clone());
    }
    let names = ["reference_consume", "consume_pipelined", "consume_pipelined_one_waits", "consume_ping_before_answer"];
    assert_eq!(several, names);
}

/// Gives an exchange of the cluster's manifest the form of the server's.
pub(crate) fn from_cluster(request: &mut Value, response: &mut Value) {
    rename(request, "op_flags", "flags");
    let mut wanted = Vec::new();
    for topic in request["topics"].as_array_mut().expect("topics") {
        rename(topic, "topic", "name");
        wanted.push(topic["partitions"].as_array().expect("partitions").clone());
    }
    if response.is_null() {
        return;
    }
    assert!(response["unread_header_bytes"] == 0 && response["unread_chunk_bytes"] == 0);
    rename(response, "header_length", "header_len");
    for (topic, wanted) in response["topics"].as_array_mut().expect("topics").iter_mut().zip(wanted) {
        rename(topic, "topic", "name");
        topic["partitions_announced"] = wanted.len().into();
        topic["error"] = if topic["unknown_topic"] == true { "unknown_topic".into() } else { Value::Null };
        for (partition, wanted) in topic["partitions"].as_array_mut().expect("partitions").iter_mut().zip(wanted) {
            partition_from_cluster(partition, &wanted);
        }
    }
}

fn partition_from_cluster(partition: &mut Value, wanted: &Value) {
    let code = hex_code(&partition["error_or_flags"]);
    partition["err_flags"] = code.into();
    partition["error"] = match code {
        0 | 0xfe => Value::Null,
        1 => "boundary".into(),
        0xfc => "redirect".into(),
        0xfd => "no_leader".into(),
        0xff => "unknown_partition".into(),
        other => panic!("no error {other}"),
    };
    rename(partition, "chunk_length", "chunk_len");
    if let Some(endpoint) = partition["redirect"].get("endpoint").cloned() {
        partition["endpoint"] = endpoint;
    }
    let from = wanted["seq"].as_u64().filter(|&seq| seq != SEQ_TAIL).unwrap_or(0);
    let mut messages = Vec::new();
    for bundle in partition.get_mut("bundles").and_then(Value::as_array_mut).into_iter().flatten() {
        let set = bundle["set"].as_array().expect("messages").clone();
        let delivered = set.iter().filter(|message| message["seq"].as_u64().expect("a number") >= from);
        let before = messages.len();
        messages.extend(delivered.map(|message| {
            let text = message["text"].as_str().expect("text");
            json!({ "seq": message["seq"], "payload": captures::hex(text.as_bytes()) })
        }));
        rename(bundle, "messages", "count");
        bundle["first"] = set[0]["seq"].clone();
        bundle["last"] = set[set.len() - 1]["seq"].clone();
        bundle["complete"] = true.into();
        bundle["delivered"] = (messages.len() - before).into();
    }
    partition["messages"] = messages.into();
}
