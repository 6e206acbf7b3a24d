//! The consume exchanges: requests, whole answers, and answers that must be refused.

use std::fs;
use std::net::SocketAddrV4;

use serde_json::Value;
use tank_client::protocol::bundle::Codec;
use tank_client::protocol::fetch::{
    FetchHeader, FetchPartition, FetchRequest, FetchTopic, PartitionAnswer, SEQ_TAIL, TopicAnswer,
};
use tank_client::protocol::frame::{FrameHeader, Kind};
use tank_client::protocol::stream::ChunkEnd;
use tank_client::protocol::{DecodeFault, Limits, varint};

use common::captures::{self, Capture, frames};
use common::feed::{self, Answer, Message, Part};

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn fits<T: TryFrom<u64>>(value: &Value) -> T {
    T::try_from(number(value)).unwrap_or_else(|_| panic!("{value} is out of range"))
}

/// The request of a manifest, where the cluster's one calls some keys otherwise.
fn request(entry: &Value) -> FetchRequest {
    let name = |topic: &Value| topic.get("name").unwrap_or(&topic["topic"]).as_str().unwrap().into();
    let flags = entry.get("flags").or(entry.get("op_flags"));
    let partition = |wanted: &Value| FetchPartition {
        partition: fits(&wanted["partition"]),
        seq: number(&wanted["seq"]),
        fetch_size: fits(&wanted["fetch_size"]),
    };
    FetchRequest {
        client_version: fits(&entry["client_version"]),
        request_id: fits(&entry["request_id"]),
        client_id: entry["client_id"].as_str().unwrap().into(),
        max_wait_ms: number(&entry["max_wait_ms"]),
        min_bytes: fits(&entry["min_bytes"]),
        flags: flags.map_or(0, fits),
        topics: list(&entry["topics"])
            .iter()
            .map(|topic| FetchTopic {
                name: name(topic),
                partitions: list(&topic["partitions"]).iter().map(partition).collect(),
            })
            .collect(),
    }
}

/// What a client must not send, though a test did (reference, section 5.2).
fn forbidden(request: &FetchRequest) -> bool {
    let twice = |names: Vec<&str>| (1..names.len()).any(|n| names[..n].contains(&names[n]));
    request.topics.is_empty()
        || request.topics.iter().any(|topic| topic.partitions.is_empty())
        || twice(request.topics.iter().map(|topic| &*topic.name).collect())
}

#[test]
fn requests_decode_to_the_manifest_and_encode_to_the_same_bytes() {
    let mut refused = Vec::new();
    let mut encoded = 0;
    for capture in captures::standalone().iter().chain(&captures::cluster()) {
        let name = &capture.name;
        let entries = match capture.entry.get("request") {
            Some(entry) => std::slice::from_ref(entry),
            None => list(&capture.entry["requests"]),
        };
        let sent = frames(&capture.request);
        assert_eq!(sent.len(), entries.len(), "{name}");
        for ((kind, payload, frame), entry) in sent.into_iter().zip(entries) {
            if kind != Kind::Consume as u8 {
                continue;
            }
            assert!(frame.starts_with(&[2]), "{name}");
            let decoded = FetchRequest::decode(payload).unwrap();
            assert_eq!(decoded, request(entry), "{name}");
            let mut out = Vec::new();
            if forbidden(&decoded) {
                decoded.encode(&mut out).unwrap_err();
                refused.push(name.clone());
            } else {
                decoded.encode(&mut out).unwrap();
                assert_eq!(out, frame, "{name}");
                encoded += 1;
            }
        }
    }
    refused.sort();
    let harmful =
        ["closed_consume_without_topics", "consume_topic_listed_twice_eof_wait", "consume_topic_without_partitions"];
    assert_eq!(refused, harmful);
    assert_eq!(encoded, 191);
}

/// What the manifest says of a partition, in the decoder's words.
fn expected_answer(part: &Value) -> PartitionAnswer {
    let high_water_mark = || number(&part["high_water_mark"]);
    let err_flags = match &part["err_flags"] {
        Value::Null => part["error_or_flags"].as_str().map(|text| hex(&text[2..])[0]).unwrap(),
        flags => fits(flags),
    };
    let endpoint = part.get("endpoint").unwrap_or(&part["redirect"]["endpoint"]);
    match err_flags {
        0x00 | 0xfe => PartitionAnswer::Data {
            base: part["base_seq"].as_u64(),
            high_water_mark: high_water_mark(),
            len: fits(part.get("chunk_len").unwrap_or(&part["chunk_length"])),
        },
        0x01 => PartitionAnswer::OutOfRange {
            high_water_mark: high_water_mark(),
            first_available: number(&part["first_available_seq"]),
        },
        0xfb => PartitionAnswer::SystemError,
        0xfc => PartitionAnswer::Redirect(endpoint.as_str().unwrap().parse::<SocketAddrV4>().unwrap()),
        0xfd => PartitionAnswer::NoLeader,
        0xff => PartitionAnswer::UnknownPartition,
        other => panic!("err_flags {other}"),
    }
}

/// Each partition asked for with its entry in the manifest; `None` where the topic is unknown.
fn entries<'a>(request: &FetchRequest, answer: &'a Value) -> Vec<Option<&'a Value>> {
    let topics = list(&answer["topics"]);
    assert_eq!(topics.len(), request.topics.len());
    let mut out = Vec::new();
    for (topic, wanted) in topics.iter().zip(&request.topics) {
        assert_eq!(topic.get("name").unwrap_or(&topic["topic"]), &*wanted.name);
        let parts = list(&topic["partitions"]);
        if topic["error"] == "unknown_topic" || topic["unknown_topic"] == true {
            out.extend(wanted.partitions.iter().map(|_| None));
            continue;
        }
        assert_eq!(parts.len(), wanted.partitions.len());
        for (part, wanted) in parts.iter().zip(&wanted.partitions) {
            assert_eq!(part["partition"], wanted.partition);
            out.push(Some(part));
        }
    }
    out
}

/// A message's payload as the manifest gives it: bytes, or length and CRC-32.
enum Payload {
    Bytes(Vec<u8>),
    Sum(usize, u32),
}

fn expected_messages(capture: &Capture, part: &Value) -> Vec<(u64, u64, Option<Vec<u8>>, Payload)> {
    if let Some(file) = part["messages_file"].as_str() {
        let text = fs::read_to_string(capture.dir.join(file)).unwrap();
        let line = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            let key = fields[2].strip_prefix('k').map(hex);
            assert!(key.is_some() || fields[2] == "-");
            let payload = match fields[3].strip_prefix('p') {
                Some(bytes) => Payload::Bytes(hex(bytes)),
                None => {
                    let (len, sum) = fields[3].strip_prefix('#').unwrap().split_once(':').unwrap();
                    Payload::Sum(len.parse().unwrap(), u32::from_str_radix(sum, 16).unwrap())
                }
            };
            (fields[0].parse().unwrap(), fields[1].parse().unwrap(), key, payload)
        };
        return text.lines().skip(1).map(line).collect();
    }
    let message = |message: &Value| {
        let payload = match message["payload"].as_str() {
            Some(bytes) => Payload::Bytes(hex(bytes)),
            None => Payload::Sum(fits(&message["payload_len"]), sum(&message["payload_crc32"])),
        };
        (number(&message["seq"]), number(&message["ts"]), message["key"].as_str().map(hex), payload)
    };
    list(&part["messages"]).iter().map(message).collect()
}

fn sum(value: &Value) -> u32 {
    match value.as_str() {
        Some(text) => u32::from_str_radix(text, 16).unwrap(),
        None => fits(value),
    }
}

fn compare_messages(name: &str, got: &[Message], expected: &[(u64, u64, Option<Vec<u8>>, Payload)]) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (got, (seq, ts, key, payload)) in got.iter().zip(expected) {
        assert_eq!((got.seq, got.timestamp_ms, &got.key), (*seq, *ts, key), "{name}");
        match payload {
            Payload::Bytes(bytes) => assert_eq!(&got.payload, bytes, "{name}"),
            Payload::Sum(len, sum) => {
                assert_eq!((got.payload.len(), crc32fast::hash(&got.payload)), (*len, *sum), "{name}");
            }
        }
    }
}

/// The bundles the decoder must report: none that is skipped, lies above the mark, or is cut and compressed. `chunk` is
/// where the chunk begins in the frame's payload.
fn compare_bundles(name: &str, part: &Part, entry: &Value, chunk: u64) {
    let mark = number(&entry["high_water_mark"]);
    let reported = |bundle: &&Value| bundle.get("delivered").is_some() && number(&bundle["first"]) <= mark;
    let expected: Vec<&Value> = list(&entry["bundles"]).iter().filter(reported).collect();
    assert_eq!(part.bundles.len(), expected.len(), "{name}");
    for ((got, delivered), expected) in part.bundles.iter().zip(&part.delivered).zip(expected) {
        let codec = if expected["codec"] == 0 { Codec::None } else { Codec::Snappy };
        assert_eq!((got.codec, u64::from(got.count)), (codec, number(&expected["count"])), "{name}");
        assert_eq!((got.first, got.last), (number(&expected["first"]), number(&expected["last"])), "{name}");
        assert_eq!((got.sparse, !got.cut), (expected["sparse"] == true, expected["complete"] == true), "{name}");
        assert_eq!(*delivered as u64, number(&expected["delivered"]), "{name}");
        let length: u32 = fits(&expected["length"]);
        let end = number(&expected["offset"]) + varint::len(length) as u64 + u64::from(length);
        let end = end.min(number(&entry["chunk_len"]));
        assert_eq!(got.at + got.set.len() as u64, chunk + end, "{name}: where the message set ends");
    }
}

/// What the next request must at least ask for: 1,024 means whatever it likes (reference, section 15, step 10).
fn next_min_fetch_size(part: &Part) -> u64 {
    match part.end {
        Some(ChunkEnd::Cut { bundle_len: Some(len) }) => len,
        _ => 1024,
    }
}

fn compare_part(capture: &Capture, part: &Part, entry: &Value, wanted: &FetchPartition, chunk: u64) {
    let name = &format!("{}, partition {}", capture.name, wanted.partition);
    assert_eq!(part.answer, expected_answer(entry), "{name}");
    if entry["bundles"].is_null() {
        assert!(part.messages.is_empty() && part.bundles.is_empty() && part.end.is_none(), "{name}");
        return;
    }
    compare_bundles(name, part, entry, chunk);
    if entry["messages"].is_array() || entry["messages_file"].is_string() {
        compare_messages(name, &part.messages, &expected_messages(capture, entry));
    }
    assert_eq!(part.messages.len() as u64, number(&entry["message_count"]), "{name}");
    let drained = part.answer.chunk_len() == 0;
    assert_eq!((drained, part.end.is_none()), (entry["drained"] == true, drained), "{name}");
    assert_eq!(next_min_fetch_size(part), number(&entry["next_min_fetch_size"]), "{name}");
    let position = part.messages.last().map_or(wanted.seq, |message| message.seq + 1);
    // For the tail the manifest has what the C++ client asks for next, which loses messages (reference, 5.7).
    if !(drained && wanted.seq == SEQ_TAIL) {
        assert_eq!(position, number(&entry["next_seq"]), "{name}");
    }
    let above = part.end == Some(ChunkEnd::AboveMark);
    assert_eq!(above, entry["cut_at_high_water_mark"] == true, "{name}");
    let cut = matches!(part.end, Some(ChunkEnd::Cut { .. }));
    assert_eq!(cut, entry.get("partial").is_some(), "{name}");
    if entry["partial"]["why"] == "length varint cut" {
        assert_eq!(part.end, Some(ChunkEnd::Cut { bundle_len: None }), "{name}");
    }
}

/// The answer as a broker encodes it, with the chunks of the recorded one.
pub(crate) fn encode_again(request: &FetchRequest, answer: &Answer, frame: &[u8]) -> Vec<u8> {
    let mut parts = answer.parts.iter();
    let topic = |topic: &FetchTopic| {
        let partitions: Vec<(u16, PartitionAnswer)> =
            topic.partitions.iter().map(|wanted| (wanted.partition, parts.next().unwrap().answer)).collect();
        let known = partitions.iter().all(|(_, answer)| *answer != PartitionAnswer::UnknownTopic);
        TopicAnswer { name: topic.name.clone(), partitions, known }
    };
    let header = FetchHeader { request_id: answer.request_id, topics: request.topics.iter().map(topic).collect() };
    let mut out = Vec::new();
    header.encode(&mut out).unwrap();
    out.extend_from_slice(&frame[out.len().min(frame.len())..]);
    out
}

#[test]
fn standalone_answers_decode_to_the_manifest_and_encode_to_the_same_bytes() {
    let (mut answers, mut messages, mut pipelined) = (0, 0, 0);
    for capture in captures::standalone().iter().filter(|capture| !capture.hostile()) {
        let requests = capture.answered_requests();
        let stream = capture.stream();
        let manifest = list(&capture.entry["responses"]);
        let consumed: Vec<&Value> = manifest.iter().filter(|answer| answer["type"] == "consume").collect();
        if consumed.is_empty() {
            assert_eq!(capture.entry["connection_closed"], true);
            assert!(stream.is_empty());
            continue;
        }
        pipelined += usize::from(requests.len() > 1);
        let got = feed::decode(&requests, &stream, &Limits::default()).complete();
        let received = frames(&stream);
        let received = received.iter().filter(|frame| frame.0 == Kind::Consume as u8);
        assert_eq!(got.len(), consumed.len(), "{}", capture.name);
        for ((got, expected), (_, payload, frame)) in got.iter().zip(consumed).zip(received) {
            assert_eq!(got.request_id, fits::<u32>(&expected["request_id"]), "{}", capture.name);
            let request = requests.iter().find(|request| request.request_id == got.request_id).unwrap();
            let mut chunk = 4 + number(&expected["header_len"]);
            let entries = entries(request, expected);
            assert_eq!(got.parts.len(), entries.len(), "{}", capture.name);
            for ((part, entry), (_, wanted)) in got.parts.iter().zip(entries).zip(request.slots()) {
                match entry {
                    Some(entry) => compare_part(capture, part, entry, wanted, chunk),
                    None => assert_eq!(part.answer, PartitionAnswer::UnknownTopic, "{}", capture.name),
                }
                chunk += u64::from(part.answer.chunk_len());
                messages += part.messages.len();
            }
            assert_eq!(chunk, payload.len() as u64, "{}", capture.name);
            assert!(encode_again(request, got, frame) == *frame, "{}", capture.name);
            answers += 1;
        }
    }
    assert_eq!((answers, messages, pipelined), (117, 17_705, 3));
}

#[test]
fn cluster_answers_decode_to_the_manifest_and_encode_to_the_same_bytes() {
    let (mut whole, mut lost) = (0, Vec::new());
    for capture in captures::cluster() {
        let name = &capture.name;
        let requests = capture.requests();
        let expected = &capture.entry["response"];
        let outcome = feed::decode(&requests, &capture.stream(), &Limits::default());
        if expected.is_null() {
            assert!(capture.entry["connection_ended"].is_string(), "{name}");
            assert_eq!((outcome.error, outcome.unanswered), (None, 1), "{name}");
            lost.push(name.clone());
            continue;
        }
        if name == "prefer_local_tail_restarted_replica" {
            // A wrong base number with older bundles after it: the numbers run backwards (reference, 14.4).
            let e = outcome.error.unwrap();
            assert_eq!((e.field(), e.partition()), ("first sequence number", Some(("pairs", 0))), "{name}");
            assert!(matches!(e.fault(), DecodeFault::SeqRange { seq: 11, low: 14, .. }), "{name}: {e}");
            continue;
        }
        let answers = outcome.complete();
        let [answer] = answers.as_slice() else { panic!("{name}: {} answers", answers.len()) };
        let request = &requests[0];
        assert_eq!(answer.request_id, fits::<u32>(&expected["request_id"]), "{name}");
        for ((part, entry), (_, wanted)) in answer.parts.iter().zip(entries(request, expected)).zip(request.slots()) {
            let Some(entry) = entry else {
                assert_eq!(part.answer, PartitionAnswer::UnknownTopic, "{name}");
                continue;
            };
            assert_eq!(part.answer, expected_answer(entry), "{name}");
            compare_cluster_bundles(name, part, entry, wanted);
        }
        assert_eq!(encode_again(request, answer, &capture.response), capture.response, "{name}");
        whole += 1;
    }
    assert_eq!(whole, 35);
    assert_eq!(lost, ["failover_tail", "graceful_tail", "moved_tail_again"]);
}

fn compare_cluster_bundles(name: &str, part: &Part, entry: &Value, wanted: &FetchPartition) {
    let from = if wanted.seq == SEQ_TAIL { 0 } else { wanted.seq };
    let bundles = list(&entry["bundles"]);
    assert_eq!(part.bundles.len(), bundles.len(), "{name}");
    for (got, expected) in part.bundles.iter().zip(bundles) {
        assert_eq!((got.codec, expected["codec"].as_u64()), (Codec::None, Some(0)), "{name}");
        assert_eq!(u64::from(got.count), number(&expected["messages"]), "{name}");
        assert_eq!(got.sparse, expected["sparse"] == true, "{name}");
        if got.sparse {
            assert_eq!(
                (got.first, got.last),
                (number(&expected["first_seq"]), number(&expected["last_seq"])),
                "{name}"
            );
        }
    }
    let messages = bundles.iter().flat_map(|bundle| list(&bundle["set"]));
    let messages = messages.filter(|message| number(&message["seq"]) >= from);
    let expected: Vec<(u64, &str)> =
        messages.map(|message| (number(&message["seq"]), message["text"].as_str().unwrap())).collect();
    let got: Vec<(u64, &str)> =
        part.messages.iter().map(|message| (message.seq, std::str::from_utf8(&message.payload).unwrap())).collect();
    assert_eq!(got, expected, "{name}");
}

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

#[test]
fn hostile_answers_are_refused_for_the_right_reason() {
    let mut seen = Vec::new();
    for capture in captures::standalone().iter().filter(|capture| capture.hostile()) {
        let name = capture.name.as_str();
        let outcome = feed::decode(&capture.requests(), &capture.stream(), &Limits::default());
        assert!(outcome.answers.is_empty(), "{name}");
        let e = outcome.error.unwrap_or_else(|| panic!("{name} is accepted"));
        let unsupported = matches!(e.fault(), DecodeFault::Unsupported { .. });
        match capture.entry["expect"].as_str() {
            Some("unsupported") => assert!(unsupported, "{name}: {e}"),
            Some("protocol_error") => assert!(!unsupported, "{name}: {e}"),
            // What stands before the cut answers two partitions where the request names one: refused on sight.
            Some("connection_lost") => assert_eq!(name, "hostile_cut_then_closed"),
            other => panic!("{name}: {other:?}"),
        }
        seen.push((name.to_owned(), e.field()));
    }
    seen.sort();
    assert_eq!(seen, HOSTILE.map(|(name, field)| (name.to_owned(), field)));
}

#[test]
fn a_cut_answer_is_waited_for() {
    let captures = captures::standalone();
    let capture = captures.iter().find(|capture| capture.name == "hostile_cut_then_closed").unwrap();
    let mut requests = capture.requests();
    let wanted = FetchPartition { partition: 1, ..requests[0].topics[0].partitions[0] };
    requests[0].topics[0].partitions.push(wanted);
    let outcome = feed::decode(&requests, &capture.stream(), &Limits::default());
    assert_eq!((outcome.error, outcome.unanswered, outcome.answers.len()), (None, 1, 0));
    assert!(outcome.loose > 0, "what came before the cut was delivered");
}

#[test]
fn the_greeting_is_an_empty_ping() {
    let greeting = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ping_on_connect.response.bin")).unwrap();
    assert_eq!(FrameHeader::decode(&greeting), Ok(Some(FrameHeader { kind: Kind::Ping, len: 0 })));
    assert_eq!(greeting, tank_client::protocol::frame::PING);
}
