//! The consume exchanges: requests, whole answers, and answers that must be refused.

use std::fmt::Write;
use std::net::SocketAddrV4;

use common::captures::{self, Capture, frames};
use common::feed::{self, Answer, Message, Part};
use serde_json::Value;
use tank_client::Limits;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::bundle::Codec;
use tank_client::protocol::fetch::{
    FetchHeader, FetchPartition, FetchRequest, FetchTopic, PartitionAnswer, SEQ_TAIL, TopicAnswer,
};
use tank_client::protocol::frame::{FrameHeader, Payload};
use tank_client::protocol::stream::ChunkEnd;
use tank_client::protocol::{DecodeFault, varint};

use super::parts;

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

fn fits<T: TryFrom<u64>>(value: &Value) -> T {
    T::try_from(number(value)).unwrap_or_else(|_| panic!("{value} is out of range"))
}

/// The request that a capture says was sent.
fn request(entry: &Value) -> FetchRequest {
    let partition = |wanted: &Value| FetchPartition {
        partition: fits(&wanted["partition"]),
        seq: number(&wanted["seq"]),
        fetch_size: fits(&wanted["fetch_size"]),
    };
    let topic = |topic: &Value| FetchTopic {
        name: topic["name"].as_str().unwrap().into(),
        partitions: list(&topic["partitions"]).iter().map(partition).collect(),
    };
    FetchRequest {
        client_version: fits(&entry["client_version"]),
        request_id: fits(&entry["request_id"]),
        client_id: entry["client_id"].as_str().unwrap().into(),
        max_wait_ms: number(&entry["max_wait_ms"]),
        min_bytes: fits(&entry["min_bytes"]),
        flags: entry.get("flags").map_or(0, fits),
        topics: list(&entry["topics"]).iter().map(topic).collect(),
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
fn requests_say_what_the_captures_say_and_encode_to_the_same_bytes() {
    let mut refused = Vec::new();
    let mut encoded = 0;
    for capture in captures::consuming() {
        let name = &capture.name;
        let sent = frames(&capture.request);
        assert_eq!(sent.len(), capture.requests.len(), "{name}");
        for ((kind, payload, frame), entry) in sent.into_iter().zip(&capture.requests) {
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

/// What the capture says of a partition, in the decoder's words.
fn expected_answer(part: &Value) -> PartitionAnswer {
    let high_water_mark = || number(&part["high_water_mark"]);
    match number(&part["err_flags"]) {
        0x00 | 0xfe => PartitionAnswer::Data {
            base: part["base_seq"].as_u64(),
            high_water_mark: high_water_mark(),
            len: fits(&part["chunk_len"]),
        },
        0x01 => PartitionAnswer::OutOfRange {
            high_water_mark: high_water_mark(),
            first_available: number(&part["first_available_seq"]),
        },
        0xfb => PartitionAnswer::SystemError,
        0xfc => PartitionAnswer::Redirect(part["endpoint"].as_str().unwrap().parse::<SocketAddrV4>().unwrap()),
        0xfd => PartitionAnswer::NoLeader,
        0xff => PartitionAnswer::UnknownPartition,
        other => panic!("err_flags {other}"),
    }
}

/// Each partition asked for with what the capture says of it; `None` where the topic is unknown.
fn entries<'a>(request: &FetchRequest, answer: &'a Value) -> Vec<Option<&'a Value>> {
    let topics = list(&answer["topics"]);
    assert_eq!(topics.len(), request.topics.len());
    let mut out = Vec::new();
    for (topic, wanted) in topics.iter().zip(&request.topics) {
        assert_eq!(topic["name"], *wanted.name);
        let parts = list(&topic["partitions"]);
        if topic["error"] == "unknown_topic" {
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

/// A message as the captures have it: number, time stamp, key, payload, the last two in hexadecimal digits, or of a long
/// payload its length and CRC-32.
fn words(message: &Message) -> (u64, u64, Option<String>, String) {
    (message.seq, message.timestamp_ms, message.key.as_deref().map(parts::hex), payload_words(&message.payload))
}

fn payload_words(payload: &[u8]) -> String {
    match payload.len() {
        0..=64 => parts::hex(payload),
        len => format!("{len}:{:08x}", crc32fast::hash(payload)),
    }
}

fn expected_words(message: &Value) -> (u64, u64, Option<String>, String) {
    let payload = match message["payload"].as_str() {
        Some(bytes) => bytes.to_owned(),
        None => format!("{}:{}", message["payload_len"], message["payload_crc32"].as_str().unwrap()),
    };
    (number(&message["seq"]), number(&message["ts"]), message["key"].as_str().map(str::to_owned), payload)
}

/// The sum that stands for a long list: CRC-32 of a line for each message, with tabs between.
fn sum(messages: &[Message]) -> String {
    let mut lines = String::new();
    for message in messages {
        let key = message.key.as_deref().map_or("-".to_owned(), |key| format!("k{}", parts::hex(key)));
        let mark = if message.payload.len() > 64 { '#' } else { 'p' };
        let payload = payload_words(&message.payload);
        writeln!(lines, "{}\t{}\t{key}\t{mark}{payload}", message.seq, message.timestamp_ms).unwrap();
    }
    format!("{:08x}", crc32fast::hash(lines.as_bytes()))
}

fn compare_messages(name: &str, got: &[Message], entry: &Value) {
    if let Some(expected) = entry["messages_crc32"].as_str() {
        assert_eq!(sum(got), expected, "{name}");
        return;
    }
    let expected: Vec<_> = list(&entry["messages"]).iter().map(expected_words).collect();
    assert_eq!(got.iter().map(words).collect::<Vec<_>>(), expected, "{name}");
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
    compare_messages(name, &part.messages, entry);
    assert_eq!(part.messages.len() as u64, number(&entry["message_count"]), "{name}");
    let drained = part.answer.chunk_len() == 0;
    assert_eq!((drained, part.end.is_none()), (entry["drained"] == true, drained), "{name}");
    assert_eq!(next_min_fetch_size(part), number(&entry["next_min_fetch_size"]), "{name}");
    let position = part.messages.last().map_or(wanted.seq, |message| message.seq + 1);
    // An empty answer from the tail says nothing of where it is (reference, 5.7).
    let expected = if drained && wanted.seq == SEQ_TAIL { &Value::Null } else { &Value::from(position) };
    assert_eq!(entry.get("next_seq").unwrap_or(&Value::Null), expected, "{name}");
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
        TopicAnswer { name: topic.name.clone(), partitions }
    };
    let header = FetchHeader { request_id: answer.request_id, topics: request.topics.iter().map(topic).collect() };
    let mut out = Vec::new();
    header.encode(&mut out).unwrap();
    out.extend_from_slice(&frame[out.len().min(frame.len())..]);
    out
}

#[test]
fn answers_say_what_the_captures_say_and_encode_to_the_same_bytes() {
    let (mut answers, mut messages, mut pipelined, mut ended) = (0, 0, 0, Vec::new());
    for capture in captures::consuming().filter(|capture| !capture.hostile()) {
        let requests = capture.answered_fetches();
        let stream = capture.stream();
        let consumed: Vec<&Value> = capture.responses.iter().filter(|answer| answer["type"] == "consume").collect();
        if consumed.is_empty() {
            assert!(capture.closed() && stream.is_empty(), "{}", capture.name);
            let outcome = feed::decode(&requests, &stream, &Limits::default());
            assert_eq!((outcome.error, outcome.unanswered), (None, 1), "{}", capture.name);
            ended.push(capture.name.as_str());
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
    assert_eq!((answers, messages, pipelined), (152, 17_806, 3));
    assert_eq!(ended, ["closed_consume_without_topics", "failover_tail", "graceful_tail", "moved_tail_again"]);
}

/// Every hostile answer with the field that gives it away.
const HOSTILE: [(&str, &str); 38] = [
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
    // A wrong base number with older bundles after it: the numbers run backwards (reference, 14.4).
    ("prefer_local_tail_restarted_replica", "first sequence number"),
];

#[test]
fn hostile_answers_are_refused_for_the_right_reason() {
    let mut seen = Vec::new();
    for capture in captures::consuming().filter(|capture| capture.hostile()) {
        let name = capture.name.as_str();
        let outcome = feed::decode(&capture.fetches(), &capture.stream(), &Limits::default());
        assert!(outcome.answers.is_empty(), "{name}");
        let e = outcome.error.unwrap_or_else(|| panic!("{name} is accepted"));
        if name == "prefer_local_tail_restarted_replica" {
            assert_eq!(e.partition(), Some(("pairs", 0)), "{name}");
            assert!(matches!(e.fault(), DecodeFault::SeqRange { seq: 11, low: 14, .. }), "{name}: {e}");
        }
        let unsupported = matches!(e.fault(), DecodeFault::Unsupported { .. });
        match capture.expect() {
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
    let capture = captures::capture("derived/hostile_cut_then_closed");
    let mut requests = capture.fetches();
    let wanted = FetchPartition { partition: 1, ..requests[0].topics[0].partitions[0] };
    requests[0].topics[0].partitions.push(wanted);
    let outcome = feed::decode(&requests, &capture.stream(), &Limits::default());
    assert_eq!((outcome.error, outcome.unanswered, outcome.answers.len()), (None, 1, 0));
    assert!(outcome.loose > 0, "what came before the cut was delivered");
}

#[test]
fn the_greeting_is_an_empty_ping() {
    let greeting = &captures::capture("standalone/ping_on_connect").response;
    assert_eq!(FrameHeader::decode(greeting), Ok(Some(FrameHeader { kind: Kind::Ping, len: 0 })));
    assert_eq!(greeting[..], tank_client::protocol::frame::PING);
}
