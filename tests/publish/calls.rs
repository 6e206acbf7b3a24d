//! Publishing in one call: what arrives, and which of the three outcomes a failure has.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::logs;
use common::rng::{Rng, seeded};
use common::server::{Server, unique_name};
use common::watch::{timed_in, within};
use socket2::SockRef;
use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind};
use tank_client::protocol::frame::{HEADER_LEN, PING};
use tank_client::protocol::produce::ProduceRequest;
use tank_client::simulation::Simulation;
use tank_client::{
    Acks, Client, ClientBuilder, Compression, Error, ErrorKind, Fault, Message, PartitionRecords, Record, Start,
    Subscription,
};

use crate::producer::impatient;

const MS: Duration = Duration::from_millis(1);
/// What a connection, a request and its answer need in the simulated network at most.
const TRIP: Duration = Duration::from_millis(5);

/// A simulated broker, and a client that reports soon what trouble stays.
fn simulated() -> (Simulation, Arc<Broker>, Client) {
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.create_topic("orders", 3);
    let client = impatient(sim.client()).connect(broker.brokers()).unwrap();
    (sim, broker, client)
}

fn read_back(client: &Client, topic: &str, partition: u16) -> Vec<Message> {
    let what = Subscription::partition(topic, partition).start(Start::Earliest).stop_at_end();
    client.subscribe(what).unwrap().map(Result::unwrap).collect()
}

/// A record that owns what it is made of.
#[derive(Debug, Clone, PartialEq)]
struct Owned {
    key: Option<Vec<u8>>,
    timestamp_ms: u64,
    payload: Vec<u8>,
}

impl Owned {
    fn new(key_len: usize, payload_len: usize, rng: &mut Rng) -> Owned {
        let key = (key_len > 0).then(|| rng.bytes(key_len));
        Owned { key, timestamp_ms: rng.next_u64() >> rng.below(64), payload: rng.bytes(payload_len) }
    }

    fn record(&self) -> Record<'_> {
        let record = Record::new(&self.payload).timestamp_ms(self.timestamp_ms);
        self.key.iter().fold(record, |record, key| record.key(key))
    }
}

fn owned(message: &Message) -> Owned {
    let key = message.key().map(<[u8]>::to_vec);
    Owned { key, timestamp_ms: message.timestamp_ms(), payload: message.payload().to_vec() }
}

#[test]
fn records_of_all_sizes_keys_and_compressions_come_back() {
    within(120, || {
        let server = Server::start();
        let topic = server.topic(3).name;
        let mut rng = Rng::new(1);
        let mut records = Vec::new();
        for payload in [0, 1, 2, 127, 128, 1023, 1024, 1025, 16_383, 16_384, 65_536, 2_097_151, 2_097_152, 5_000_000] {
            records.push(Owned::new(0, payload, &mut rng));
        }
        records.extend((1..=255).map(|key| Owned::new(key, key, &mut rng)));
        let compressions = [Compression::Auto, Compression::None, Compression::Snappy];
        for (partition, compression) in (0..).zip(compressions) {
            let client = Client::builder().compression(compression).connect(server.addr()).unwrap();
            let plain: Vec<_> = records.iter().map(Owned::record).collect();
            // Each alone, then all in one bundle.
            for record in &plain {
                client.publish(&topic, partition, std::slice::from_ref(record)).unwrap();
            }
            client.publish(&topic, partition, &plain).unwrap();
            let back: Vec<_> = read_back(&client, &topic, partition).iter().map(owned).collect();
            assert_eq!(back.len(), 2 * records.len());
            assert!(back.chunks(records.len()).all(|half| half == records), "{compression:?}");
        }
    });
}

#[test]
fn counts_up_to_several_bundles() {
    within(120, || {
        let server = Server::start();
        let client = server.client();
        let counts = [1, 2, 14, 15, 16, 127, 128, 512, 513, 16_383, 16_384, 65_534, 65_535, 65_536, 131_071];
        let topic = server.topic(counts.len() as u16).name;
        let numbers: Vec<String> = (0..131_071).map(|n| n.to_string()).collect();
        for (partition, count) in (0..).zip(counts) {
            let records: Vec<_> = numbers[..count].iter().map(|n| Record::new(n.as_bytes())).collect();
            client.publish(&topic, partition, &records).unwrap();
            let back = read_back(&client, &topic, partition);
            assert_eq!(back.len(), count);
            for (message, number) in back.iter().zip(&numbers) {
                assert_eq!(message.payload(), number.as_bytes());
            }
        }
    });
}

#[test]
fn bundles_have_as_many_messages_as_they_may() {
    within(60, || {
        let (sim, broker, client) = simulated();
        let records = vec![Record::new(b""); 2 * 65_535 + 1];
        client.publish("orders", 0, &records).unwrap();
        assert_eq!(broker.stats().requests(Kind::Produce), 3);
        assert_eq!(broker.high_water_mark("orders", 0), 2 * 65_535 + 1);
        // Large ones are parted too, and one that is larger than a bundle's usual limit goes alone.
        let (large, larger) = (vec![1; 17 << 20], vec![2; 40 << 20]);
        let records = [Record::new(&large), Record::new(&larger), Record::new(&large), Record::new(b"")];
        let client = sim.client().connect(broker.brokers()).unwrap();
        client.publish("orders", 1, &records).unwrap();
        assert_eq!(broker.stats().requests(Kind::Produce), 3 + 3);
        assert_eq!(broker.high_water_mark("orders", 1), 4);
    });
}

#[test]
fn time_stamps_are_the_given_ones_or_now() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let topic = server.topic(1).name;
        let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let before = now_ms();
        let given = |ms| Record::new(b"x").timestamp_ms(ms);
        let records = [given(7), given(7), given(u64::MAX), given(0), Record::new(b""), Record::new(b""), given(7)];
        client.publish(&topic, 0, &records).unwrap();
        let back: Vec<u64> = read_back(&client, &topic, 0).iter().map(Message::timestamp_ms).collect();
        assert_eq!((&back[..4], back[6]), (&[7, 7, u64::MAX, 0][..], 7));
        assert!(before <= back[4] && back[4] == back[5] && back[5] <= now_ms());
    });
}

#[test]
fn several_partitions_in_one_request() {
    within(60, || {
        let (_sim, broker, client) = simulated();
        broker.create_topic("clicks", 1);
        let (a, b) = ([Record::new(b"a")], [Record::new(b"b"), Record::new(b"c")]);
        let by_partition = [
            PartitionRecords::new("orders", 2, &a),
            PartitionRecords::new("gone", 1, &a),
            PartitionRecords::new("clicks", 0, &b),
            PartitionRecords::new("orders", 0, &b),
            PartitionRecords::new("gone", 0, &b),
            PartitionRecords::new("orders", 3, &a),
        ];
        let results = client.publish_all(&by_partition).unwrap();
        let texts: Vec<_> = results.iter().map(|r| r.as_ref().map_err(ToString::to_string).copied()).collect();
        let at = broker.addr();
        let gone = || Err(format!("{at}: gone: no such topic"));
        assert_eq!(texts, [Ok(()), gone(), Ok(()), Ok(()), gone(), Err(format!("{at}: orders/3: no such partition"))]);
        assert_eq!(broker.stats().requests(Kind::Produce), 1);
        let marks = [("orders", 0, 2), ("orders", 1, 0), ("orders", 2, 1), ("clicks", 0, 2)];
        for (topic, partition, mark) in marks {
            assert_eq!(broker.high_water_mark(topic, partition), mark);
        }
        assert!(client.publish_all(&[]).unwrap().is_empty());
        assert_eq!(broker.killed_by(), None);
    });
}

#[test]
fn publish_all_takes_any_number_of_records() {
    within(120, || {
        let server = Server::start();
        let client = server.client();
        let topic = server.topic(300).name;
        // 300 partitions, more than a request takes, of which some take three bundles and the others one.
        let records = vec![Record::new(b"payload").key(b"key"); 140_000];
        let count = |id: u16| if id % 100 == 0 { records.len() } else { 1 + usize::from(id) };
        let by_partition: Vec<_> =
            (0..300).map(|id| PartitionRecords::new(&topic, id, &records[..count(id)])).collect();
        for result in client.publish_all(&by_partition).unwrap() {
            result.unwrap();
        }
        for info in client.partitions(&topic).unwrap() {
            assert_eq!(info.high_water_mark, count(info.id) as u64);
        }
    });
}

#[test]
fn topics_and_partitions_beyond_those_of_a_request_go_in_another_one() {
    within(60, || {
        let (_sim, broker, client) = simulated();
        let one = [Record::new(b"x")];
        let names: Vec<_> = (0..256).map(|n| format!("topic-{n}")).collect();
        names.iter().for_each(|name| broker.create_topic(name, 1));
        broker.create_topic("wide", 256);
        let topics: Vec<_> = names.iter().map(|name| PartitionRecords::new(name, 0, &one)).collect();
        let partitions: Vec<_> = (0..256).map(|id| PartitionRecords::new("wide", id, &one)).collect();
        for many in [&topics, &partitions] {
            let before = broker.stats().requests(Kind::Produce);
            client.publish_all(many).unwrap().into_iter().for_each(Result::unwrap);
            assert_eq!(broker.stats().requests(Kind::Produce) - before, 2);
        }
        assert_eq!(broker.high_water_mark(&names[255], 0), 1);
        assert_eq!(broker.high_water_mark("wide", 255), 1);
        assert_eq!(broker.killed_by(), None);
    });
}

#[test]
fn what_cannot_be_sent_is_refused_before_a_byte_is() {
    within(60, || {
        let (_sim, broker, client) = simulated();
        let asked = broker.stats().all_requests();
        let (one, long) = ([Record::new(b"x")], [b'k'; 256]);
        let refused = |done: Result<(), Error>| match done.unwrap_err().kind {
            ErrorKind::Config { reason, .. } => reason,
            other => panic!("{other}"),
        };
        let publish = |topic: &str, id, records: &[_]| refused(client.publish(topic, id, records));
        assert_eq!(publish("orders", 0, &[]), "orders/0: no records to publish");
        assert_eq!(publish("", 0, &one), "topic name: 0 bytes given, 1 to 255 allowed");
        assert_eq!(publish(&"x".repeat(256), 0, &one), "topic name: 256 bytes given, 1 to 255 allowed");
        assert_eq!(publish("orders", u16::MAX, &one), "orders: partition 65535 given, 0 to 65534 allowed");
        assert_eq!(
            publish("orders", 0, &[Record::new(b"x"), Record::new(b"x").key(&long)]),
            "record 1: orders/0: key of 256 bytes given, 0 to 255 allowed"
        );
        let huge = vec![0; (255 << 20) + 1];
        let e = client.publish("orders", 0, &[Record::new(&huge)]).unwrap_err();
        assert!(matches!(e.kind, ErrorKind::BundleTooLarge { needed, limit, .. } if needed == limit + 1), "{e}");

        let all = |by_partition: &[PartitionRecords<'_>]| refused(client.publish_all(by_partition).map(|_| ()));
        assert_eq!(
            all(&[PartitionRecords::new("a", 0, &one), PartitionRecords::new("a", 0, &one)]),
            "a/0: given twice"
        );
        assert_eq!(
            all(&[PartitionRecords::new("a", 0, &one), PartitionRecords::new("a", 1, &[])]),
            "a/1: no records to publish"
        );

        let at = |records: &[_]| refused(client.publish_at("orders", 0, records));
        assert_eq!(at(&[]), "orders/0: no records to publish");
        assert_eq!(at(&[(0, one[0])]), "record 0: sequence number 0 given, 1 to 18446744073709551614 allowed");
        let text = "record 1: sequence number 5 given, 6 to 18446744073709551614 allowed";
        assert_eq!(at(&[(5, one[0]), (5, one[0])]), text);
        assert!(at(&[(u64::MAX, one[0])]).starts_with("record 0: sequence number 18446744073709551615 given"));
        assert_eq!(broker.stats().all_requests(), asked, "nothing was sent");

        let bad = |builder: ClientBuilder| refused(builder.connect("localhost:1").map(|_| ()));
        assert_eq!(bad(Client::builder().acks(Acks::Peers(0))), "acks: 0 peers given, 1 to 200 allowed");
        assert_eq!(bad(Client::builder().acks(Acks::Peers(201))), "acks: 201 peers given, 1 to 200 allowed");
        assert_eq!(
            bad(Client::builder().ack_timeout(Duration::ZERO)),
            "ack time-out: 0ns given, 1 ms to 2^32-1 ms allowed"
        );
    });
}

#[test]
fn acks_and_client_id_reach_the_broker() {
    within(60, || {
        let (sim, broker, _) = simulated();
        let addr = broker.addr().to_string();
        for (acks, wire) in [(Acks::All, 0), (Acks::Quorum, 255), (Acks::Peers(2), 2)] {
            let client = sim.client().client_id("me").acks(acks).ack_timeout(250 * MS).connect(&addr).unwrap();
            client.publish("orders", 0, &[Record::new(b"x")]).unwrap();
            let sent = broker.requests().pop().unwrap();
            let request = ProduceRequest::decode(sent.kind, &sent.payload).unwrap();
            assert_eq!((request.required_acks, request.ack_timeout_ms, &*request.client_id), (wire, 250, "me"));
        }
    });
}

/// What a publish comes to if the next answers carry this code.
fn refused_with(fault: Fault, times: u64) -> (Result<(), Error>, u64) {
    let (_sim, broker, client) = simulated();
    broker.inject_times(BrokerFault::RefuseProduce(fault), times);
    let done = client.publish("orders", 1, &[Record::new(b"x")]);
    let stored = broker.high_water_mark("orders", 1);
    assert_eq!(stored, u64::from(done.is_ok()));
    assert_eq!(broker.killed_by(), None);
    (done, broker.stats().requests(Kind::Produce))
}

#[test]
fn refusals_name_topic_partition_and_reason() {
    within(60, || {
        let once = [
            (Fault::UnknownTopic, "orders: no such topic"),
            (Fault::UnknownPartition, "orders/1: no such partition"),
            (Fault::ReadOnly, "orders/1: the broker is read-only"),
        ];
        for (fault, text) in once {
            let (done, requests) = refused_with(fault, 1);
            let e = done.unwrap_err();
            assert!(e.fault() == Some(fault), "{e}");
            let text = format!("10.1.0.1:11011: {text}");
            assert_eq!((e.to_string(), requests, e.is_retryable()), (text, 1, false));
        }
    });
}

#[test]
fn what_was_not_stored_is_tried_again_where_that_can_help() {
    within(60, || {
        let nobody = Fault::Redirects { hops: 1, last: SocketAddrV4::new([0; 4].into(), 0) };
        let passing = [
            (Fault::NoLeader, Fault::NoLeader),
            (Fault::InsufficientReplicas, Fault::InsufficientReplicas),
            (nobody, Fault::NoLeader),
        ];
        for (said, fault) in passing {
            let (done, requests) = refused_with(said, 2);
            assert!(done.is_ok() && requests == 3, "{said:?}: {done:?} after {requests} requests");
            let (done, requests) = refused_with(said, u64::MAX);
            let e = done.unwrap_err();
            assert!(e.fault() == Some(fault) && e.partition() == Some(1), "{e}");
            assert!(requests > 5 && e.is_retryable());
        }
    });
}

#[test]
fn answers_that_leave_it_open() {
    within(60, || {
        for fault in [Fault::System, Fault::NotConfirmed] {
            let (done, requests) = refused_with(fault, 1);
            let e = done.unwrap_err();
            assert_eq!((&e.kind, e.topic(), e.partition()), (&ErrorKind::OutcomeUnknown, Some("orders"), Some(1)));
            assert_eq!(e.cause().and_then(Error::fault), Some(fault));
            assert_eq!((requests, e.is_retryable()), (1, false));
        }
    });
}

#[test]
fn a_broker_that_is_gone_before_the_write() {
    within(60, || {
        let (sim, broker, client) = simulated();
        let publish = || client.publish("orders", 0, &[Record::new(b"x")]);
        publish().unwrap();
        // The connection ended while it was idle: dialed again, quietly.
        broker.disconnect_all();
        sim.sleep(TRIP);
        publish().unwrap();
        assert_eq!(broker.high_water_mark("orders", 0), 2);
        // Nobody there, for as long as the client is willing to wait.
        broker.stop();
        sim.sleep(TRIP);
        let (done, took) = timed_in(&sim, publish);
        let e = done.unwrap_err();
        assert!(e.kind == ErrorKind::Connect && e.is_retryable(), "{e}");
        assert!(took + 10 * MS >= 300 * MS && took <= 300 * MS + TRIP, "{took:?}");
        broker.restart().unwrap();
        // And without patience.
        let hasty = impatient(sim.client()).retry_timeout(Duration::ZERO).connect(broker.addr()).unwrap();
        broker.stop();
        sim.sleep(TRIP);
        let (done, took) = timed_in(&sim, || hasty.publish("orders", 0, &[Record::new(b"x")]));
        assert!(matches!(done, Err(Error { kind: ErrorKind::Connect, .. })), "{done:?}");
        assert!(took <= TRIP, "{took:?}");
    });
}

#[test]
fn a_broker_that_closes_idle_connections() {
    within(60, || {
        let sim = Simulation::new(1);
        let broker = sim.broker_with(&Broker::builder().idle_timeout(20 * MS));
        broker.create_topic("orders", 1);
        let client = sim.client().connect(broker.brokers()).unwrap();
        for round in 1..=5 {
            client.publish("orders", 0, &[Record::new(b"x")]).unwrap();
            assert_eq!(broker.high_water_mark("orders", 0), round);
            assert!(broker.wait_until(20 * MS + TRIP, |stats| stats.open == 0));
            sim.sleep(TRIP);
        }
        assert!(broker.stats().accepted >= 5);
    });
}

/// Reads a whole request; pings are swallowed, as servers do.
fn read_frame(stream: impl Read) -> Vec<u8> {
    try_read_frame(stream).unwrap()
}

/// As `read_frame`; `None` if the connection ends first.
fn try_read_frame(mut stream: impl Read) -> Option<Vec<u8>> {
    let mut frame = vec![0; HEADER_LEN];
    while frame[0] == 0 || frame == PING {
        stream.read_exact(&mut frame).ok()?;
    }
    let len = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
    frame.resize(HEADER_LEN + len as usize, 0);
    stream.read_exact(&mut frame[HEADER_LEN..]).ok()?;
    Some(frame)
}

/// Between two requests a connection may hold the first bytes of a ping.
#[test]
fn a_ping_may_begin_after_one_answer_and_end_before_the_next() {
    within(60, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let serve = |mut stream: TcpStream| {
            stream.write_all(&PING).unwrap();
            for round in 0.. {
                let Some(frame) = try_read_frame(&stream) else { break };
                let before = &PING[if round == 0 { PING.len() } else { 2 }..];
                let answer = [before, &[1, 5, 0, 0, 0], &frame[7..11], &[0], &PING[..2]].concat();
                stream.write_all(&answer).unwrap();
            }
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || serve(stream.unwrap()));
            }
        });
        let client = Client::connect(addr).unwrap();
        (0..3).for_each(|_| client.publish("orders", 0, &[Record::new(b"x")]).unwrap());
        let mut producer = client.producer().build().unwrap();
        for _ in 0..3 {
            producer.send_to("orders", 0, Record::new(b"x")).unwrap();
            producer.flush().unwrap();
        }
        drop(producer);
        client.publish("orders", 0, &[Record::new(b"x")]).unwrap();
    });
}

#[test]
fn a_broker_that_dies_during_the_write() {
    within(60, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let broker = thread::spawn(move || {
            for reset in [true, false] {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(&PING).unwrap();
                stream.read_exact(&mut [0; 100_000]).unwrap();
                // The first time the rest of it is lost with a reset, the second time with an orderly end.
                if reset {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
            }
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&PING).unwrap();
            let frame = read_frame(&stream);
            let answer = [&[1, 5, 0, 0, 0][..], &frame[7..11], &[0]].concat();
            stream.write_all(&answer).unwrap();
            frame
        });
        // More than all buffers on the way hold.
        let payload = vec![b'x'; 32 << 20];
        let client = Client::builder().compression(Compression::None).backoff(MS, MS).connect(addr);
        client.unwrap().publish("orders", 0, &[Record::new(&payload)]).unwrap();
        let frame = broker.join().unwrap();
        let request = ProduceRequest::decode(Kind::Produce, &frame[HEADER_LEN..]).unwrap();
        assert!(request.topics[0].partitions[0].bundle.ends_with(&payload));
    });
}

#[test]
fn a_broker_that_dies_after_the_write() {
    within(60, || {
        let cases = [
            (BrokerFault::LoseAnswer(Kind::Produce), true),
            (BrokerFault::CloseOnRequest(Kind::Produce), false),
            (BrokerFault::CutAfter(0), true),
            (BrokerFault::CutAfter(7), true),
            (BrokerFault::ResetAfter(3), true),
            (BrokerFault::StallAfter(0), true),
            (BrokerFault::StallAfter(9), true),
            (BrokerFault::Delay(2000 * MS), true),
            (BrokerFault::WrongRequestId, true),
            (BrokerFault::FlipAfter(0), true),
            (BrokerFault::FlipAfter(1), true),
            (BrokerFault::FlipAfter(6), true),
            (BrokerFault::GarbageAfter(5, vec![1]), true),
        ];
        for (trouble, stored) in cases {
            let (sim, broker, client) = simulated();
            broker.inject(trouble.clone());
            let (done, took) = timed_in(&sim, || client.publish("orders", 2, &[Record::new(b"x")]));
            let e = done.unwrap_err();
            assert!(matches!(&e.kind, ErrorKind::OutcomeUnknown) && e.partition() == Some(2), "{trouble:?}: {e}");
            let waited =
                matches!(trouble, BrokerFault::StallAfter(_) | BrokerFault::Delay(_) | BrokerFault::FlipAfter(1));
            assert_eq!(e.is_timeout(), waited, "{trouble:?}: {e}");
            // An answer that has begun has a deadline of its own.
            let begun = matches!(trouble, BrokerFault::StallAfter(9) | BrokerFault::FlipAfter(1));
            let least = if begun { 200 * MS } else { 300 * MS };
            assert!(!waited || took >= least && took <= least + TRIP, "the acks' time-out counts too: {took:?}");
            assert_eq!(broker.stats().requests(Kind::Produce), 1, "{trouble:?}: not sent again");
            assert_eq!(broker.high_water_mark("orders", 2), u64::from(stored));
            // What comes next does not suffer.
            client.publish("orders", 0, &[Record::new(b"y")]).unwrap();
            assert_eq!(broker.high_water_mark("orders", 0), 1);
        }
    });
}

#[test]
fn a_ping_before_the_answer_is_passed_over() {
    within(60, || {
        let (_sim, broker, client) = simulated();
        broker.inject(BrokerFault::PingBeforeAnswer);
        client.publish("orders", 0, &[Record::new(b"x")]).unwrap();
        broker.inject(BrokerFault::Trickle { bytes: 1, pause: MS });
        client.publish("orders", 0, &[Record::new(b"x")]).unwrap();
        assert_eq!((broker.stats().faults_fired, broker.high_water_mark("orders", 0)), (2, 2));
    });
}

#[test]
fn a_publish_in_parts_says_how_much_is_stored() {
    within(60, || {
        let (_sim, broker, client) = simulated();
        let records = vec![Record::new(b"x"); 3 * 65_535];
        // An answer has ten bytes: the second one does not come.
        broker.inject(BrokerFault::StallAfter(10));
        let e = client.publish("orders", 0, &records).unwrap_err();
        assert!(matches!(e.kind, ErrorKind::PartlyStored { stored: 65_535, .. }), "{e}");
        assert_eq!(e.cause().unwrap().kind, ErrorKind::OutcomeUnknown);
        assert!(e.is_timeout() && !e.is_retryable());
        assert_eq!(broker.stats().requests(Kind::Produce), 2);
    });
}

#[test]
fn leaders_are_found_and_followed() {
    within(60, || {
        let sim = Simulation::new(1);
        let cluster = sim.cluster(3);
        cluster.create_topic("orders", 6);
        let client = impatient(sim.client()).connect(cluster.node(0).addr()).unwrap();
        let record = [Record::new(b"x")];
        let by_partition: Vec<_> = (0..6).map(|id| PartitionRecords::new("orders", id, &record)).collect();
        for result in client.publish_all(&by_partition).unwrap() {
            result.unwrap();
        }
        let requests = |node| cluster.node(node).stats().requests(Kind::Produce);
        assert_eq!([requests(0), requests(1), requests(2)], [1, 1, 1], "each leader gets its own");
        client.publish("orders", 1, &record).unwrap();
        assert_eq!([requests(0), requests(1), requests(2)], [1, 2, 1], "leaders are remembered");
        cluster.set_leader("orders", 1, Some(2));
        client.publish("orders", 1, &record).unwrap();
        cluster.set_leader("orders", 1, None);
        let e = client.publish("orders", 1, &record).unwrap_err();
        assert!(e.to_string().ends_with(": orders/1: the partition has no leader now"), "{e}");
        assert_eq!(cluster.node(0).high_water_mark("orders", 1), 3);
        assert_eq!(cluster.killed_by(), None);

        let addr = cluster.node(0).addr().to_string();
        let strict = impatient(sim.client()).known_brokers_only(true).connect(&addr).unwrap();
        strict.publish("orders", 0, &record).unwrap();
        let e = strict.publish("orders", 2, &record).unwrap_err();
        assert!(
            matches!(e.kind, ErrorKind::Broker { fault: Fault::RedirectRefused(_), .. }) && e.partition() == Some(2),
            "{e}"
        );
    });
}

#[test]
fn nodes_that_name_each_other() {
    within(60, || {
        let sim = Simulation::new(1);
        let cluster = sim.cluster(2);
        cluster.create_topic("orders", 1);
        for (node, other) in [(0, 1), (1, 0)] {
            let std::net::SocketAddr::V4(to) = cluster.node(other).addr() else { panic!() };
            cluster
                .node(node)
                .inject_times(BrokerFault::RefuseProduce(Fault::Redirects { hops: 1, last: to }), u64::MAX);
        }
        let client = impatient(sim.client()).connect(cluster.node(0).addr());
        let client = client.unwrap();
        let (done, took) = timed_in(&sim, || client.publish("orders", 0, &[Record::new(b"x")]));
        let e = done.unwrap_err();
        assert!(matches!(e.kind, ErrorKind::Broker { fault: Fault::Redirects { hops: 2..200, .. }, .. }), "{e}");
        assert!(took + 10 * MS >= 300 * MS && took <= 300 * MS + TRIP, "{took:?}");
        cluster.nodes().iter().for_each(Broker::clear_faults);
        client.publish("orders", 0, &[Record::new(b"x")]).unwrap();
    });
}

#[test]
fn too_few_replicas_are_told_as_not_stored() {
    within(60, || {
        let sim = Simulation::new(1);
        let cluster = sim.cluster(3);
        cluster.create_topic("orders", 1);
        ["node-1", "node-2"].iter().for_each(|node| sim.isolate(node, true));
        cluster.set_in_sync("orders", 0, &[0]);
        let addr = cluster.node(0).addr().to_string();
        let strict = impatient(sim.client()).acks(Acks::Quorum).connect(&addr).unwrap();
        let e = strict.publish("orders", 0, &[Record::new(b"x")]).unwrap_err();
        assert_eq!(e.to_string(), format!("{addr}: orders/0: not enough replicas are in sync"));
        impatient(sim.client()).connect(&addr).unwrap().publish("orders", 0, &[Record::new(b"x")]).unwrap();
        ["node-1", "node-2"].iter().for_each(|node| sim.isolate(node, false));
        cluster.set_in_sync("orders", 0, &[0, 1, 2]);
        // Replicas that hang: stored by the leader, not confirmed.
        cluster.node(1).pause();
        cluster.node(2).pause();
        let e = strict.publish("orders", 0, &[Record::new(b"x")]).unwrap_err();
        assert!(e.kind == ErrorKind::OutcomeUnknown, "{e}");
        assert_eq!(cluster.node(0).high_water_mark("orders", 0), 2);
    });
}

#[test]
fn records_are_stored_under_numbers_of_ones_own() {
    within(60, || {
        logs::keep();
        let server = Server::start();
        let client = server.client();
        let topic = server.topic(3).name;
        let numbers = [3, 4, 5, 9, 10, 1000, 1001, 2_000_000];
        let texts = numbers.map(|n: u64| n.to_string());
        let records: Vec<_> = numbers.iter().zip(&texts).map(|(&n, t)| (n, Record::new(t.as_bytes()))).collect();
        client.publish_at(&topic, 0, &records[..3]).unwrap();
        client.publish_at(&topic, 0, &records[3..]).unwrap();
        logs::wait_for(1, &["WARN", &topic, "gaps in the numbers: 3, the first from 6 to 8;"]);
        let back: Vec<_> = read_back(&client, &topic, 0);
        assert_eq!(back.iter().map(Message::seq).collect::<Vec<_>>(), numbers);
        assert!(back.iter().all(|message| message.payload() == message.seq().to_string().as_bytes()));

        let x = Record::new(b"x");
        let refused = |records: &[_]| client.publish_at(&topic, 0, records).unwrap_err().fault().unwrap();
        assert_eq!(refused(&[(2_000_000, x)]), Fault::SeqNotAbove { seq: 2_000_000 });
        assert_eq!(refused(&[(1, x), (3_000_000, x)]), Fault::SeqNotAbove { seq: 1 });
        let far = 2_000_000 + (1 << 31);
        assert_eq!(refused(&[(far, x)]), Fault::SeqTooFar { seq: far });
        assert_eq!(refused(&[(2_000_001, x), (far, x)]), Fault::SeqTooFar { seq: far });
        // An ordinary publish counts on.
        client.publish(&topic, 0, &[x]).unwrap();
        assert_eq!(read_back(&client, &topic, 0).last().unwrap().seq(), 2_000_001);

        // A partition's first bundle may begin anywhere, but no bundle may reach too far.
        let base = 1 << 40;
        let e = client.publish_at(&topic, 1, &[(base, x), (base + (1 << 31), x)]).unwrap_err();
        assert!(matches!(e.kind, ErrorKind::Broker { fault: Fault::SeqTooFar { .. }, .. }), "{e}");
        client.publish_at(&topic, 1, &[(base, x), (base + (1 << 31) - 1, x)]).unwrap();
        let back: Vec<_> = read_back(&client, &topic, 1).iter().map(Message::seq).collect();
        assert_eq!(back, [base, base + (1 << 31) - 1]);

        // More than a bundle takes, with a gap after each.
        let records: Vec<_> = (1..=70_000).map(|n| (n * 3, x)).collect();
        client.publish_at(&topic, 2, &records).unwrap();
        logs::wait_for(1, &["WARN", &topic, "gaps in the numbers: 69999, the first from 4 to 5;"]);
        let back = read_back(&client, &topic, 2);
        assert!(back.iter().map(Message::seq).eq((1..=70_000).map(|n| n * 3)));

        let e = client.publish_at(&topic, 3, &records).unwrap_err();
        assert!(e.fault() == Some(Fault::UnknownPartition) && e.partition() == Some(3), "{e}");
        let e = client.publish_at(&unique_name(), 0, &records).unwrap_err();
        assert!(e.fault() == Some(Fault::UnknownTopic), "{e}");
    });
}

#[test]
fn numbers_that_somebody_else_took() {
    within(60, || {
        let (_sim, broker, client) = simulated();
        broker.inject(BrokerFault::RefuseProduce(Fault::SeqNotAbove { seq: 0 }));
        let e = client.publish_at("orders", 0, &[(7, Record::new(b"x"))]).unwrap_err();
        assert_eq!(
            e.to_string(),
            format!("{}: orders/0: sequence number 7 is not above the last one stored", broker.addr())
        );
        assert!(!e.is_retryable());
        broker.inject(BrokerFault::LoseAnswer(Kind::ProduceWithSeqnum));
        let e = client.publish_at("orders", 0, &[(7, Record::new(b"x"))]).unwrap_err();
        assert!(e.kind == ErrorKind::OutcomeUnknown, "{e}");
        assert_eq!(client.partitions("orders").unwrap()[0].high_water_mark, 7, "which tells");
        assert_eq!(broker.killed_by(), None);
    });
}

#[test]
fn random_batches_come_back_equal() {
    within(180, || {
        let server = Server::start();
        let topic = server.topic(4).name;
        let expected: Mutex<Vec<Vec<(u64, Owned)>>> = Mutex::new(vec![Vec::new(); 4]);
        seeded(60, |rng| {
            let compression = rng.pick(&[Compression::Auto, Compression::None, Compression::Snappy]);
            let client = Client::builder().compression(compression).connect(server.addr()).unwrap();
            let mut expected = expected.lock().unwrap();
            let batch = |rng: &mut Rng| {
                let count = if rng.one_in(10) { rng.between(1, 3000) } else { rng.between(1, 20) };
                let sizes = rng.pick(&[0, 10, 200, 200, 5000]);
                let sizes = if count > 100 { sizes.min(50) } else { sizes };
                let mut batch: Vec<Owned> = Vec::new();
                for _ in 0..count {
                    let (key, payload) = (if rng.one_in(2) { rng.below(256) } else { 0 }, rng.below(sizes + 1));
                    let mut next = Owned::new(key, payload, rng);
                    if let Some(last) = batch.last().filter(|_| rng.one_in(2)) {
                        next.timestamp_ms = last.timestamp_ms;
                    }
                    batch.push(next);
                }
                batch
            };
            if rng.one_in(2) {
                let id = rng.below(4);
                let batch = batch(rng);
                let mut seq = expected[id].last().map_or(0, |(seq, _)| *seq);
                let mut numbered = Vec::new();
                for owned in batch {
                    seq += if rng.one_in(3) { rng.between(1, 1000) as u64 } else { 1 };
                    numbered.push((seq, owned));
                }
                let records: Vec<_> = numbered.iter().map(|(seq, owned)| (*seq, owned.record())).collect();
                client.publish_at(&topic, id as u16, &records).unwrap();
                expected[id].extend(numbered);
            } else {
                let batches: Vec<_> = (0..=rng.below(4) as u16).map(|id| (id, batch(rng))).collect();
                let records: Vec<(u16, Vec<_>)> =
                    batches.iter().map(|(id, batch)| (*id, batch.iter().map(Owned::record).collect())).collect();
                let by_partition: Vec<_> =
                    records.iter().map(|(id, records)| PartitionRecords::new(&topic, *id, records)).collect();
                client.publish_all(&by_partition).unwrap().into_iter().for_each(Result::unwrap);
                for (id, batch) in batches {
                    let expected = &mut expected[usize::from(id)];
                    let last = expected.last().map_or(0, |(seq, _)| *seq);
                    expected.extend((last + 1..).zip(batch));
                }
            }
        });
        let client = server.client();
        for (id, expected) in (0..).zip(expected.into_inner().unwrap()) {
            let back = read_back(&client, &topic, id);
            assert_eq!(back.len(), expected.len());
            for (message, (seq, expected)) in back.iter().zip(&expected) {
                assert_eq!((message.seq(), &owned(message)), (*seq, expected));
            }
        }
    });
}

/// What the reference client prints of what we publish; only where it is there, with a server to ask.
#[test]
fn the_reference_tool_prints_what_we_publish() {
    if std::env::var("TANK_BROKER").is_err() || Command::new("tank-cli").arg("-h").output().is_err() {
        return;
    }
    within(120, || {
        let server = Server::start();
        let topic = server.topic(3).name;
        let compressions = [Compression::Auto, Compression::None, Compression::Snappy];
        for (partition, compression) in (0..).zip(compressions) {
            let client = Client::builder().compression(compression).connect(server.addr()).unwrap();
            let mut expected = String::new();
            for count in [1, 15, 16, 600, 65_535] {
                let texts: Vec<String> = (0..count).map(|n| format!("payload-{n}-{}", "x".repeat(n % 70))).collect();
                let keys: Vec<String> = (0..count).map(|n| "k".repeat(1 + n % 255)).collect();
                let stamp = |n: usize| 1_700_000_000_000 + (n / 3) as u64;
                let record = |n: usize| Record::new(texts[n].as_bytes()).key(keys[n].as_bytes()).timestamp_ms(stamp(n));
                let records: Vec<_> = (0..count).map(record).collect();
                let before = expected.lines().count();
                client.publish(&topic, partition, &records).unwrap();
                for n in 0..count {
                    expected += &format!("{}:seq={}:[{}]:{}\n", stamp(n), before + n + 1, keys[n], texts[n]);
                }
            }
            let mut tool = Command::new("tank-cli");
            tool.args(["-b", server.addr(), "-t", &topic, "-p", &partition.to_string()]);
            let printed = tool.args(["get", "-d", "-F", "seqnum,key,content,ts_ms", "0"]).output().unwrap();
            let printed = String::from_utf8(printed.stdout).unwrap();
            for (got, want) in printed.lines().zip(expected.lines()) {
                assert_eq!(got, want);
            }
            assert_eq!(printed.lines().count(), expected.lines().count());
        }
    });
}
