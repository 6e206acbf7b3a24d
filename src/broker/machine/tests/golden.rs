//! The broker's answers, byte for byte those of a real server.
//!
//! The recordings are replayed in the order they were made; what a partition held at the time is taken from the answers
//! themselves, and made up where no answer shows it.
//!
//! Each exchange is repeated with the machine alone, and with a broker over sockets.

use crate::broker::{Broker, BrokerBuilder};
use crate::message::Record;
use crate::protocol::bundle::Compression;
use crate::protocol::varint;
use common::captures::Capture;

use super::captures::{Seen, parts, seen, standalone};
use super::raw::{self, Raw, SOON};
use super::sockets;

/// Captures in which data arrives while their request waits.
const ARRIVES: [&str; 10] = [
    "consume_wait_explicit_data_arrives",
    "consume_wait_max_data_arrives",
    "consume_wait_snappy_arrives",
    "consume_wait_more_than_fetch_size",
    "consume_wait_min_bytes_reached",
    "consume_wait_min_bytes_not_reached",
    "consume_max_min_bytes_not_reached",
    "consume_wait_sparse_arrives",
    "consume_several_wait_one_arrives",
    "consume_several_wait_two_arrive",
];

/// How a client that knows nothing reaches a broker.
#[derive(Clone, Copy)]
struct Transport {
    start: fn(&BrokerBuilder) -> Broker,
    connect: fn(&Broker) -> Box<dyn Raw>,
}

const TRANSPORTS: [Transport; 2] = [
    Transport { start: raw::start, connect: raw::connect },
    Transport { start: sockets::start, connect: sockets::connect },
];

fn exchange(over: Transport, broker: &Broker, capture: &Capture, meanwhile: impl FnOnce()) {
    let mut raw = (over.connect)(broker);
    raw.send(&capture.request);
    meanwhile();
    let answer = if capture.response.is_empty() {
        raw.rest()
    } else {
        raw.read(capture.response.len()).unwrap_or_else(|e| panic!("{}: {e}", capture.name))
    };
    assert!(answer == capture.response, "{}\n{:02x?}\n{:02x?}", capture.name, answer, capture.response);
    assert_eq!(broker.killed_by(), None, "{}", capture.name);
}

/// A dense bundle of this many messages, of which a server reads the header alone.
fn filler(count: u64, len: usize) -> Vec<u8> {
    let mut bundle = vec![0];
    varint::encode(u32::try_from(count).unwrap(), &mut bundle);
    bundle.resize(len.max(bundle.len()), 0);
    bundle
}

struct Replay {
    over: Transport,
    broker: Broker,
    seen: Seen,
}

impl Replay {
    fn new(over: Transport, builder: &BrokerBuilder, captures: &[&Capture], topics: &[(&str, u16)]) -> Replay {
        let broker = (over.start)(builder);
        topics.iter().for_each(|(topic, partitions)| broker.create_topic(topic, *partitions));
        Replay { over, broker, seen: seen(captures) }
    }

    /// Appends what is known, or else something, up to number `last`.
    fn grow(&self, topic: &str, partition: u16, last: u64) {
        let known = self.seen.get(&(topic.to_owned(), partition));
        loop {
            let now = self.broker.high_water_mark(topic, partition);
            let mut ahead = known.into_iter().flat_map(|bundles| bundles.range(now + 1..));
            match ahead.next() {
                Some((_, bundle))
                    if bundle.last <= last && (bundle.first == now + 1 || bundle.bytes[0] & 0x40 != 0) =>
                {
                    self.broker.append(topic, partition, &bundle.bytes);
                }
                Some((&first, bundle)) if bundle.last <= last => {
                    self.broker.append(topic, partition, &filler(first - now - 1, 300));
                }
                _ if now < last => {
                    self.broker.append(topic, partition, &filler(last - now, 20));
                }
                _ => return,
            }
        }
    }

    fn run(&self, capture: &Capture) {
        let arrives = ARRIVES.contains(&capture.name.as_str());
        for part in parts(capture) {
            let before = match part.bundles.first() {
                Some(first) if arrives => first.first - 1,
                None if capture.name.ends_with("min_bytes_not_reached") => part.high_water_mark - 1,
                _ => part.high_water_mark,
            };
            // A sparse bundle leaves the mark of an empty answer behind.
            if before > self.broker.high_water_mark(&part.topic, part.partition) && !overtaken(&capture.name) {
                self.grow(&part.topic, part.partition, before);
            }
        }
        exchange(self.over, &self.broker, capture, || {
            if !arrives {
                return;
            }
            assert!(self.broker.wait_until(SOON, |stats| stats.waiting == 1), "{}", capture.name);
            for part in parts(capture) {
                match part.bundles.len() {
                    0 => self.grow(&part.topic, part.partition, part.high_water_mark),
                    _ => part.bundles.iter().for_each(|bundle| {
                        self.broker.append(&part.topic, part.partition, &bundle.bytes);
                    }),
                }
            }
        });
    }
}

/// Captures that are not to be prepared: what they show comes about in its own way.
fn overtaken(name: &str) -> bool {
    let produced = "consume_wait_and_produce_same_connection";
    let gap = "consume_wait_sparse_arrives";
    [produced, gap, "consume_no_progress", "consume_eof_max_after_70000"].contains(&name)
}

#[test]
fn consume_captures_come_out_of_the_broker() {
    TRANSPORTS.into_iter().for_each(consume);
}

fn consume(over: Transport) {
    let captures = standalone("consume_single_message", "reference_produce_with_seqnum");
    let topics =
        [("events", 1), ("empty", 1), ("counts", 6), ("shapes", 5), ("many", 1), ("mirror", 5), ("compacted", 1)];
    let replay = Replay::new(over, &Broker::builder().exact_waits(), &captures, &topics);
    replay.broker.append("counts", 4, &filler(70_000, 20));
    replay.broker.append("counts", 5, &replay.seen[&("counts".to_owned(), 5)][&1].bytes);
    replay.broker.append_at("counts", 5, 100, &replay.seen[&("counts".to_owned(), 5)][&3].bytes);
    replay.broker.append("compacted", 0, &filler(56, 20));
    replay.broker.roll_segment("compacted", 0);
    replay.broker.append("compacted", 0, &filler(4, 20));
    let compacted: Vec<_> = replay.seen[&("compacted".to_owned(), 0)].values().map(|b| b.bytes.as_slice()).collect();
    replay.broker.compact("compacted", 0, &compacted);
    assert!(captures.len() > 70);
    captures.iter().for_each(|capture| replay.run(capture));
}

#[test]
fn what_the_reference_client_mirrored_comes_out_of_the_broker() {
    TRANSPORTS.into_iter().for_each(consume_what_the_reference_client_mirrored);
}

fn consume_what_the_reference_client_mirrored(over: Transport) {
    let captures = standalone("reference_produce_with_seqnum", "consume_topics_and_partitions");
    let replay = Replay::new(over, &Broker::builder().exact_waits(), &[], &[("mirror", 1)]);
    assert_eq!(captures.len(), 2);
    captures.iter().for_each(|capture| exchange(over, &replay.broker, capture, || {}));
}

#[test]
fn captures_of_several_partitions_come_out_of_the_broker() {
    TRANSPORTS.into_iter().for_each(consume_several_partitions);
}

fn consume_several_partitions(over: Transport) {
    let captures = standalone("consume_topics_and_partitions", "");
    let topics = [("alpha", 3), ("beta", 4), ("gamma", 1), ("wide", 250), ("segments", 1)];
    let replay = Replay::new(over, &Broker::builder().exact_waits(), &captures, &topics);
    // Three segments, the first of them gone again, bounded where the recorded chunks are.
    let (grow, roll) = (|last| replay.grow("segments", 0, last), || replay.broker.roll_segment("segments", 0));
    grow(20);
    roll();
    grow(38);
    roll();
    grow(60);
    replay.broker.truncate_front("segments", 0, 21);
    assert!(captures.len() > 16);
    for capture in &captures {
        match capture.name.as_str() {
            "status_later" => status(over, &replay.broker, capture),
            "discover_partitions_retention" => exchange(over, &replay.broker, capture, || {}),
            _ => replay.run(capture),
        }
    }
}

/// A status differs in when the server started and how long it took to open logs.
fn status(over: Transport, broker: &Broker, capture: &Capture) {
    let mut answer = (over.connect)(broker).ask(&capture.request);
    let times = answer.len() - 12..answer.len() - 4;
    answer[times.clone()].copy_from_slice(&capture.response[times]);
    assert_eq!(answer, capture.response, "{}", capture.name);
}

#[test]
fn produce_captures_come_out_of_the_broker() {
    TRANSPORTS.into_iter().for_each(produce);
}

fn produce(over: Transport) {
    let captures = standalone("produce_single", "produce_read_only");
    let replay = Replay::new(over, &Broker::builder().exact_waits(), &[], &[("orders", 3), ("clicks", 3)]);
    assert!(captures.len() > 19);
    captures.iter().for_each(|capture| exchange(over, &replay.broker, capture, || {}));
    assert_eq!(replay.broker.high_water_mark("clicks", 1), 230);
}

#[test]
fn a_read_only_broker_answers_as_captured() {
    TRANSPORTS.into_iter().for_each(read_only);
}

fn read_only(over: Transport) {
    let broker = (over.start)(&Broker::builder().read_only());
    broker.create_topic("orders", 2);
    let captures = standalone("produce_read_only", "produce_system_error");
    assert_eq!(captures.len(), 2);
    captures.iter().for_each(|capture| exchange(over, &broker, capture, || {}));
    assert_eq!(broker.high_water_mark("orders", 0), 0);
}

#[test]
fn a_log_that_cannot_be_opened_answers_as_captured() {
    TRANSPORTS.into_iter().for_each(a_log_that_cannot_be_opened);
}

fn a_log_that_cannot_be_opened(over: Transport) {
    let broker = (over.start)(&Broker::builder());
    broker.create_topic("orders", 2);
    broker.set_broken("orders", 1, true);
    let captures = standalone("produce_system_error", "consume_single_message");
    assert_eq!(captures.len(), 3);
    captures.iter().for_each(|capture| exchange(over, &broker, capture, || {}));
}

#[test]
fn topics_and_all_that_closes_a_connection_answer_as_captured() {
    TRANSPORTS.into_iter().for_each(topics_and_all_that_closes_a_connection);
}

fn topics_and_all_that_closes_a_connection(over: Transport) {
    let broker = (over.start)(&Broker::builder());
    let captures = standalone("create_topic_ok", "produce_single");
    assert!(captures.len() > 30);
    for capture in &captures {
        match capture.name.as_str() {
            "discover_partitions_all" => {
                let records = [Record::new(""); 4];
                broker.append("orders", 1, &crate::broker::dense_bundle(&records, Compression::None));
            }
            "reload_conf_empty_file" => broker.set_config("orders", 0, Some("")),
            "reload_conf_ok" => broker.set_config("orders", 0, Some("log.segment.bytes=1mb")),
            "reload_conf_invalid" => broker.set_config("orders", 0, Some("log.segment.bytes=1")),
            _ => {}
        }
        match capture.name.as_str() {
            "status" | "reference_status" => status(over, &broker, capture),
            "discover_topics" | "reference_discover_topics" => {
                let answer = (over.connect)(&broker).ask(&capture.request);
                assert_eq!(sorted_topics(&answer), sorted_topics(&capture.response), "{}", capture.name);
            }
            _ => exchange(over, &broker, capture, || {}),
        }
    }
}

/// The answer with its topics, which come in the order of a hash table, in the order of their names.
fn sorted_topics(answer: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (head, mut rest) = answer.split_at(5 + 4 + 4 + 1);
    let mut topics = Vec::new();
    while !rest.is_empty() {
        let (topic, after) = rest.split_at(1 + usize::from(rest[0]) + 1 + 2);
        topics.push(topic.to_vec());
        rest = after;
    }
    topics.sort();
    (head.to_vec(), topics)
}
