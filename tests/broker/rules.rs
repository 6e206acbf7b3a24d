//! What the recordings do not show: how long waits take, what is hung up on, what would kill a server, and how much
//! memory an answer takes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::watch::{not_before, timed_in};
use tank_client::broker::{Broker, BrokerBuilder, BrokerFault, RequestKind as Kind, dense_bundle, sparse_bundle};
use tank_client::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic};
use tank_client::protocol::frame::Payload;
use tank_client::protocol::produce::{ProduceCode, ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use tank_client::simulation::Simulation;
use tank_client::{Compression, Fault, Record, Subscription};

use crate::raw::{Raw, SOON, fetch};

pub(crate) fn message(payload: &[u8]) -> Record<'_> {
    Record::new(payload).timestamp_ms(1)
}

/// A produce frame as careless as wanted.
pub(crate) fn publish(acks: u8, timeout_ms: u32, topic: &str, bundles: &[(u16, &[u8])]) -> Vec<u8> {
    let mut payload = b"\x02\0\x07\0\0\0\0".to_vec();
    payload.push(acks);
    payload.extend(timeout_ms.to_le_bytes());
    payload.extend([1, u8::try_from(topic.len()).unwrap()]);
    payload.extend(topic.as_bytes());
    payload.push(u8::try_from(bundles.len()).unwrap());
    for (partition, bundle) in bundles {
        payload.extend(partition.to_le_bytes());
        tank_client::protocol::varint::encode(u32::try_from(bundle.len()).unwrap(), &mut payload);
        payload.extend(*bundle);
    }
    frame(1, &payload)
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind][..], &u32::try_from(payload.len()).unwrap().to_le_bytes(), payload].concat()
}

fn many(request_id: u32, max_wait_ms: u64, min_bytes: u32, partitions: u16) -> Vec<u8> {
    let wanted = |partition| FetchPartition { partition, seq: u64::MAX, fetch_size: 1000 };
    let topics = vec![FetchTopic { name: "orders".into(), partitions: (0..partitions).map(wanted).collect() }];
    let client_id = "".into();
    let request = FetchRequest { client_version: 2, request_id, client_id, max_wait_ms, min_bytes, flags: 0, topics };
    let mut out = Vec::new();
    request.encode(&mut out).unwrap();
    out
}

#[test]
fn waits_are_rounded_up_unless_they_are_to_be_exact() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let least = Duration::from_millis(320);
    not_before(least, || Raw::connect(&broker).ask(&fetch(1, 1, "orders", &[(0, 1, 1000)])));
    // How long exactly they are, virtual time tells.
    let lasts = |builder: BrokerBuilder| {
        let sim = Simulation::new(1);
        let broker = sim.broker_with(&builder);
        broker.create_topic("orders", 1);
        let client = sim.client().connect(broker.brokers()).unwrap();
        let wait = Subscription::partition("orders", 0).max_wait(Duration::from_millis(1)).limit(1);
        let mut iter = client.subscribe(wait).unwrap();
        broker.forget_requests();
        let asked = broker.stats().requests(Kind::Consume);
        let (_, took) = timed_in(&sim, || iter.next_timeout(Duration::from_secs(60)).unwrap());
        took / (broker.stats().requests(Kind::Consume) - asked) as u32
    };
    assert!(lasts(Broker::builder()) >= least);
    assert!(lasts(Broker::builder().exact_waits()) < least);
}

#[test]
fn waiting_requests_expire_on_their_own_and_are_overtaken() {
    let broker = Broker::builder().exact_waits().start().unwrap();
    broker.create_topic("orders", 2);
    let mut raw = Raw::connect(&broker);
    for (id, wait) in [(1, 3_600_000), (2, 120), (3, 60), (4, 0)] {
        raw.send(&fetch(id, wait, "orders", &[(0, 1, 1000)]));
    }
    let id = |frame: Vec<u8>| frame[9];
    assert_eq!([id(raw.frame().unwrap()), id(raw.frame().unwrap()), id(raw.frame().unwrap())], [4, 3, 2]);
    broker.append_payloads("orders", 1, &["elsewhere"]);
    assert_eq!(broker.stats().waiting, 1);
    broker.append_payloads("orders", 0, &["here"]);
    assert_eq!(id(raw.frame().unwrap()), 1);
    raw.send(&fetch(5, 3_600_000, "orders", &[(0, 2, 1000)]));
    assert!(broker.wait_until(SOON, |stats| stats.waiting == 1));
    drop(raw);
    assert!(broker.wait_until(SOON, |stats| stats.waiting == 0 && stats.open == 0));
    broker.append_payloads("orders", 0, &["to nobody"]);
}

#[test]
fn min_bytes_hold_an_answer_back_until_a_segment_ends() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let mut raw = Raw::connect(&broker);
    raw.send(&many(1, 3_600_000, 60, 1));
    assert!(broker.wait_until(SOON, |stats| stats.waiting == 1));
    let bundle = dense_bundle(&[message(&[7; 20])], Compression::None);
    broker.append("orders", 0, &bundle);
    assert_eq!(broker.stats().waiting, 1);
    broker.append("orders", 0, &bundle);
    assert_eq!(raw.frame().unwrap().len(), 45 + 2 * (bundle.len() + 1));
    raw.send(&many(2, 3_600_000, 60, 1));
    assert!(broker.wait_until(SOON, |stats| stats.waiting == 1));
    broker.append("orders", 0, &bundle);
    broker.roll_segment("orders", 0);
    broker.append("orders", 0, &bundle);
    assert_eq!(raw.frame().unwrap().len(), 45 + bundle.len() + 1, "without what the next segment holds");
}

#[test]
fn cut_chunks_end_at_the_fetch_size() {
    let broker = Broker::builder().cut_chunks().start().unwrap();
    broker.create_topic("orders", 1);
    broker.append_payloads("orders", 0, &["one", "two"]);
    broker.append_payloads("orders", 0, &["three"]);
    let mut raw = Raw::connect(&broker);
    let whole = raw.ask(&fetch(1, 0, "orders", &[(0, 1, 1000)]));
    for size in 0..whole.len() - 45 {
        let cut = raw.ask(&fetch(1, 0, "orders", &[(0, 1, u32::try_from(size).unwrap())]));
        assert_eq!(cut[45..], whole[45..45 + size]);
    }
}

#[test]
fn malformed_requests_are_hung_up_on() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let consume = fetch(1, 0, "orders", &[(0, 1, 1000)]);
    let bundle = dense_bundle(&[message(b"x")], Compression::None);
    let produce = publish(0, 0, "orders", &[(0, &bundle)]);
    let mut hostile = vec![
        vec![2, 1, 0, 0, 16],
        vec![4, 0, 0, 0, 0],
        vec![9, 0, 0, 0, 0],
        frame(0x0a, &[1, 2, 3]),
        frame(0x0b, &[1, 2, 3, 4]),
        frame(8, b"\x01\0\0\0\x05ab"),
        frame(6, b"\x01\0\0\0\x01"),
        frame(7, b"\x01\0\0\0\x01"),
    ];
    hostile.extend((0..consume.len() - 5).map(|len| frame(2, &consume[5..5 + len])));
    hostile.extend((0..produce.len() - 5).map(|len| frame(1, &produce[5..5 + len])));
    for request in hostile {
        let mut raw = Raw::connect(&broker);
        raw.send(&request);
        assert!(raw.is_closed(), "{request:02x?}");
    }
    assert_eq!((broker.killed_by(), broker.high_water_mark("orders", 0)), (None, 0));
    let mut raw = Raw::connect(&broker);
    let longer = frame(2, &[&consume[5..], b"more"].concat());
    assert_eq!(raw.ask(&longer), raw.ask(&consume), "what follows is passed over");
}

/// An answer repeats the topic's name, which here is text: of other bytes it would be longer than it may be, or another one.
#[test]
fn names_that_are_not_utf_8_are_hung_up_on() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let bundle = dense_bundle(&[message(b"x")], Compression::None);
    for name in [vec![0xff; 255], vec![0xff; 86], vec![0xff], b"orders\xc3".to_vec()] {
        let str8 = [&[name.len() as u8][..], &name].concat();
        let request = |head: &[u8], tail: &[u8]| [head, &str8, tail].concat();
        let consume = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
        let produce = [&[1, 0, 0, bundle.len() as u8][..], &bundle].concat();
        let requests = [
            frame(2, &request(&[2, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], &consume)),
            frame(1, &request(&[2, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], &produce)),
            frame(6, &request(&[7, 0, 0, 0], &[])),
            frame(7, &request(&[7, 0, 0, 0], &[1, 0, 0])),
            frame(8, &request(&[7, 0, 0, 0], &[0, 0])),
        ];
        for request in requests {
            let mut raw = Raw::connect(&broker);
            raw.send(&request);
            assert!(raw.is_closed(), "{request:02x?}");
            // The same with a name of that length which is text is answered.
            let at = request.windows(name.len()).rposition(|bytes| bytes == name).unwrap();
            let mut good = request.clone();
            good[at..at + name.len()].fill(b'x');
            let mut raw = Raw::connect(&broker);
            assert_eq!(raw.ask(&good)[0], good[0]);
        }
    }
    assert_eq!((broker.killed_by(), broker.high_water_mark("orders", 0)), (None, 0));
}

#[test]
fn an_announced_request_reserves_nothing() {
    let broker = Broker::start().unwrap();
    let before = resident();
    let mut clients: Vec<Raw> = (0..60).map(|_| Raw::connect(&broker)).collect();
    for raw in &mut clients {
        raw.send(&[1, 0, 0, 0, 16, 2, 0]);
    }
    Raw::connect(&broker);
    assert!(resident() < before + (256 << 20));
    drop(clients);
    assert!(broker.wait_until(SOON, |stats| stats.open == 0));
}

/// Bytes of memory the process has, where that is easy to tell.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
    4096 * pages.unwrap_or(0u64)
}

#[test]
fn a_large_log_takes_no_memory_to_keep_or_to_send() {
    let broker = Broker::start().unwrap();
    broker.create_topic("large", 1);
    let set: Vec<Vec<u8>> = (0..64).map(|n| dense_bundle(&[message(&vec![n; 16 << 10])], Compression::None)).collect();
    let set: Vec<&[u8]> = set.iter().map(Vec::as_slice).collect();
    let before = resident();
    broker.append_repeated("large", 0, &set, 1024);
    assert_eq!(broker.high_water_mark("large", 0), 65_536);
    let mut raw = Raw::connect(&broker);
    let mut buffer = vec![0; 64 << 10];
    for seq in [1, 30_000] {
        raw.send(&fetch(1, 0, "large", &[(0, seq, u32::MAX)]));
        let head = raw.read(5).unwrap();
        let mut left = u32::from_le_bytes(head[1..].try_into().unwrap()) as usize;
        assert!((60 << 20..=64 << 20).contains(&left), "{left}");
        while left > 0 {
            let now = left.min(buffer.len());
            std::io::Read::read_exact(&mut raw.stream, &mut buffer[..now]).unwrap();
            left -= now;
            assert!(resident() < before + (48 << 20), "{}", resident() - before);
        }
    }
}

#[test]
fn hundreds_of_connections_are_served() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let mut clients = Vec::new();
    for id in 0..400 {
        let mut raw = Raw::connect(&broker);
        raw.send(&fetch(id, 3_600_000, "orders", &[(0, 1, 1000)]));
        clients.push(raw);
    }
    assert!(broker.wait_until(SOON, |stats| stats.waiting == 400));
    broker.append_payloads("orders", 0, &["to all"]);
    for (id, raw) in (0u32..).zip(&mut clients) {
        assert_eq!(raw.frame().unwrap()[9..13], id.to_le_bytes());
    }
    broker.stop();
    assert_eq!(broker.stats().open, 0);
}

#[test]
fn deadly_requests_are_noted_by_name() {
    let consume = |broker: &Broker| {
        let layout = |seq| sparse_bundle(&[(seq, message(b"x"))], Compression::None);
        broker.append("orders", 0, &layout(10));
        broker.roll_segment("orders", 0);
        broker.append("orders", 0, &layout(20));
        fetch(1, 0, "orders", &[(0, 15, 1000)])
    };
    let produce = |bundle: &[u8]| publish(0, 0, "orders", &[(0, bundle)]);
    let far = [&[0x4c][..], &10u64.to_le_bytes(), &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    type Request = Box<dyn Fn(&Broker) -> Vec<u8>>;
    let deadly: [(&str, Request); 9] = [
        ("gap", Box::new(consume)),
        ("256 partitions", Box::new(|_| fetch_257())),
        ("no messages", Box::new(move |_| produce(&[0, 0, 1, 2, 3]))),
        ("no bytes", Box::new(move |_| produce(&[]))),
        ("inside its header", Box::new(move |_| produce(&[0x44, 1, 2]))),
        (
            "2^31",
            Box::new(move |broker| {
                broker.append_payloads("orders", 0, &["first"]);
                produce(&far)
            }),
        ),
        ("unknown partition", Box::new(|_| frame(6, b"\x01\0\0\0\x06orders\x63\0"))),
        ("exceed the frame", Box::new(|_| frame(6, b"\x01\0\0\0\x40orders"))),
        ("exceed the frame", Box::new(|_| frame(7, b"\x01\0\0\0\x06orders\x01\0\x40x=1"))),
    ];
    for (reason, request) in deadly {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let mut raw = Raw::connect(&broker);
        raw.send(&request(&broker));
        assert!(raw.is_closed(), "{reason}");
        let killed_by = broker.killed_by().unwrap_or_default();
        assert!(killed_by.contains(reason), "{reason}: {killed_by}");
        Raw::connect(&broker);
    }
}

/// More partitions than one topic's count can say.
fn fetch_257() -> Vec<u8> {
    let mut payload = b"\x02\0\x01\0\0\0\0".to_vec();
    payload.extend(60_000u64.to_le_bytes());
    payload.extend([0, 0, 0, 0, 2]);
    for count in [255u8, 2] {
        payload.extend(b"\x06orders");
        payload.push(count);
        for _ in 0..count {
            payload.extend([0, 0]);
            payload.extend(u64::MAX.to_le_bytes());
            payload.extend(1000u32.to_le_bytes());
        }
    }
    frame(2, &payload)
}

#[test]
fn publishing_is_refused_as_servers_refuse_it() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 2);
    let bundle = dense_bundle(&[message(b"x")], Compression::None);
    let entry = |partition| ProducePartition { partition, first_seq: 0, bundle: &bundle };
    let request = ProduceRequest {
        client_version: 2,
        request_id: 7,
        client_id: "".into(),
        required_acks: 0,
        ack_timeout_ms: 0,
        with_seqnum: false,
        topics: vec![ProduceTopic { name: "orders".into(), partitions: vec![entry(0), entry(1)] }],
    };
    let mut bytes = Vec::new();
    request.encode(&mut bytes).unwrap();
    let codes = |answer: &[u8]| ProduceResponse::decode(&answer[5..], request.shape()).unwrap().codes;
    let mut raw = Raw::connect(&broker);
    for (fault, code) in [
        (Fault::System, ProduceCode::SystemError),
        (Fault::ReadOnly, ProduceCode::ReadOnly),
        (Fault::NoLeader, ProduceCode::NoLeader),
        (Fault::UnknownTopic, ProduceCode::UnknownTopic),
    ] {
        broker.inject(BrokerFault::RefuseProduce(fault));
        assert_eq!(codes(&raw.ask(&bytes)), [code; 2]);
    }
    broker.inject(BrokerFault::CloseOnRequest(Kind::Produce));
    raw.send(&bytes);
    assert!(raw.is_closed());
    assert_eq!(broker.high_water_mark("orders", 1), 0);
    broker.inject(BrokerFault::LoseAnswer(Kind::Produce));
    let mut raw = Raw::connect(&broker);
    raw.send(&bytes);
    assert!(raw.is_closed());
    assert_eq!(broker.high_water_mark("orders", 1), 1, "stored all the same");
    assert_eq!(codes(&Raw::connect(&broker).ask(&bytes)), [ProduceCode::Stored; 2]);
    assert_eq!(broker.stats().requests(Kind::Produce), 7);
}

#[test]
fn a_topic_created_over_the_network_has_the_layout_its_configuration_says() {
    let broker = Broker::start().unwrap();
    let config = b"log.segment.bytes=64\nlog.index.interval.bytes=128";
    let mut payload = b"\x01\0\0\0\x05small\x01\0".to_vec();
    payload.push(u8::try_from(config.len()).unwrap());
    payload.extend(config);
    let mut raw = Raw::connect(&broker);
    assert_eq!(raw.ask(&frame(7, &payload)).last(), Some(&0));
    for _ in 0..4 {
        broker.append_payloads("small", 0, &[[7; 50]]);
    }
    let answer = raw.ask(&fetch(1, 0, "small", &[(0, 1, 1 << 20)]));
    assert_eq!(answer.len(), 44 + 2 * 62, "one segment, closed by the bundle after the one that passes its size");
    assert_eq!((broker.first_available("small", 0), broker.high_water_mark("small", 0)), (1, 4));
    broker.clear("small", 0);
    assert_eq!((broker.append_payloads("small", 0, &["again"]), broker.killed_by()), (1, None));
}

#[test]
fn a_segment_has_no_more_bytes_than_a_file_may_have() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let one = dense_bundle(&[message(b"x")], Compression::None);
    let append = |times| broker.append_repeated("orders", 0, &[&one], times);
    let with_length = one.len() as u64 + 1;
    let most = i64::MAX as u64 / with_length;
    for times in [most + 1, 1 << 61, u64::MAX / with_length + 2, u64::MAX] {
        assert!(catch_unwind(AssertUnwindSafe(|| append(times))).is_err(), "{times}");
    }
    append(most);
    for (seq, fetch_size) in [(1, u32::MAX), (most / 2, 1000), (most, 1000), (most, u32::MAX)] {
        let mut raw = Raw::connect(&broker);
        raw.send(&fetch(1, 0, "orders", &[(0, seq, fetch_size)]));
        let mut answer = Vec::new();
        while !answer.ends_with(&one) {
            answer.extend(raw.read(1).unwrap());
        }
    }
}
