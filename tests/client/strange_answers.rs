//! Single requests that are answered with something else: each call ends with an error that says what is wrong, and what may
//! have been stored is not sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::mutate;
use common::peer::{Peer, Reply, Script, status};
use common::rng::seeded;
use common::watch::within;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::fetch::{FetchHeader, FetchRequest, FetchTopic, PartitionAnswer, TopicAnswer};
use tank_client::protocol::frame::Payload;
use tank_client::{Client, Error, ErrorKind, Limits, Record, Result, TopicConfig};

/// Answers one kind of request with these bytes, of which the request's id is put in its place if it belongs there.
struct Strange {
    to: Kind,
    answer: Vec<u8>,
    fill_id: bool,
    asked: Arc<AtomicUsize>,
}

impl Script for Strange {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        let kind = Kind::from_id(id).unwrap();
        if kind != self.to {
            return match kind {
                Kind::Consume => consumed(payload, PartitionAnswer::NoLeader),
                kind => {
                    assert_eq!(kind, Kind::Status, "what comes before");
                    status(payload, false)
                }
            };
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut bytes = self.answer.clone();
        let at = if kind == Kind::Produce { 2 } else { 0 };
        if let Some(field) = bytes.get_mut(5..9).filter(|_| self.fill_id) {
            field.copy_from_slice(&payload[at..at + 4]);
        }
        Reply { bytes, close: true, ..Reply::default() }
    }
}

/// Says the same of each partition of a fetch.
fn consumed(payload: &[u8], answer: PartitionAnswer) -> Reply {
    let request = FetchRequest::decode(payload).unwrap();
    let topic = |topic: &FetchTopic| TopicAnswer {
        name: topic.name.clone(),
        partitions: topic.partitions.iter().map(|wanted| (wanted.partition, answer)).collect(),
    };
    let mut reply = Reply::default();
    let topics = request.topics.iter().map(topic).collect();
    FetchHeader { request_id: request.request_id, topics }.encode(&mut reply.bytes).unwrap();
    reply
}

type Call = fn(&Client) -> Result<()>;

fn produced(client: &Client) -> Result<()> {
    let mut producer = client.producer().build()?;
    producer.send_to("t", 0, Record::new(b"x"))?;
    match producer.flush() {
        Err(e @ Error { kind: ErrorKind::Undelivered { .. }, .. }) => {
            let failures = producer.take_failures();
            assert_eq!((failures.len(), failures[0].count()), (1, 1));
            drop(failures);
            drop(producer);
            Err(e.cause().expect("that of the first record").clone())
        }
        done => done,
    }
}

/// Each call, what it sends last, the payload of a good answer to it, and whether it could do something twice.
fn calls() -> Vec<(&'static str, Call, Kind, Vec<u8>, bool)> {
    let id = [0; 4];
    let with = |rest: &[u8]| [&id, rest].concat();
    let marks = [&b"\x01t\x01\0"[..], &[0; 16]].concat();
    vec![
        ("publish", |client| client.publish("t", 0, &[Record::new(b"x")]), Kind::Produce, with(&[0]), true),
        ("producer", produced, Kind::Produce, with(&[0]), true),
        (
            "create_topic",
            |client| client.create_topic("t", 1, &TopicConfig::new()),
            Kind::CreateTopic,
            with(b"\x01t\0"),
            true,
        ),
        ("reload_config", |client| client.reload_config("t", 0), Kind::ReloadConf, with(b"\x01t\0\0\0"), false),
        ("topics", |client| client.topics().map(drop), Kind::DiscoverTopics, with(&[0; 5]), false),
        ("topology", |client| client.topology().map(drop), Kind::DiscoverTopology, with(&[0xff; 2]), false),
        ("partitions", |client| client.partitions("t").map(drop), Kind::DiscoverPartitions, with(&marks), false),
        ("status", |client| client.status().map(drop), Kind::Status, with(&[0; 10]), false),
        ("ping", |client| client.ping().map(drop), Kind::Status, with(&[0; 10]), false),
    ]
}

/// Makes the call; what it came to, and how often it was sent.
fn ask(call: Call, to: Kind, answer: &[u8], fill_id: bool) -> (Result<()>, usize) {
    let (peer, asked) = (Peer::start(), Arc::new(AtomicUsize::new(0)));
    peer.play(Strange { to, answer: answer.to_vec(), fill_id, asked: asked.clone() });
    let client = Client::builder().retry_timeout(Duration::ZERO).limits(Limits::default().frame(1000));
    let client = client.connect(peer.addr()).unwrap();
    let done = call(&client);
    peer.end();
    (done, asked.load(Ordering::SeqCst))
}

fn framed(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&[kind as u8][..], &(payload.len() as u32).to_le_bytes(), payload].concat()
}

/// The error beneath one that only says that the outcome is unknown.
fn cause(e: Error, doubtful: bool) -> Error {
    assert_eq!(e.kind == ErrorKind::OutcomeUnknown, doubtful, "{e:?}");
    if doubtful { e.cause().expect("why").clone() } else { e }
}

#[test]
fn good_answers_are_taken() {
    within(60, || {
        for (name, call, kind, good, _) in calls() {
            let (done, asked) = ask(call, kind, &framed(kind, &good), true);
            assert_eq!((done.map_err(|e| e.to_string()), asked), (Ok(()), 1), "{name}");
        }
    });
}

#[test]
fn answers_to_something_else_are_refused_once() {
    within(120, || {
        for (name, call, kind, good, doubtful) in calls() {
            let other = if kind == Kind::Status { Kind::DiscoverTopics } else { Kind::Status };
            let mut too_long = framed(kind, &good);
            too_long[1..5].copy_from_slice(&1001u32.to_le_bytes());
            let mut unknown_kind = framed(kind, &good);
            unknown_kind[0] = 99;
            let spare = [&good[..], &[0; 3]].concat();
            let table = [
                (framed(other, &good), true, "message id"),
                (framed(Kind::Consume, &good), true, "message id"),
                (unknown_kind, true, "message id"),
                (too_long, true, "frame length"),
                (framed(kind, &good[..3]), false, "request id"),
                (framed(kind, &[]), false, "request id"),
                (framed(kind, &[&[0xee; 4], &good[4..]].concat()), false, "request id"),
                (framed(kind, &spare), true, ""),
                (framed(kind, &good[..good.len() - 1]), true, ""),
            ];
            for (answer, fill_id, field) in table {
                let (done, asked) = ask(call, kind, &answer, fill_id);
                let e = cause(done.expect_err(name), doubtful);
                assert_eq!(e.kind, ErrorKind::Decode, "{name}: {e:?} for {answer:02x?}");
                let source = common::malformed(&e);
                assert!(field.is_empty() || source.field() == field, "{name}: {source} instead of {field}");
                assert_eq!(source.is_over_limit(), field == "frame length", "{name}: {source}");
                assert_eq!((asked, e.is_retryable()), (1, false), "{name}: {source}");
            }
            // Not even one whole answer.
            let whole = framed(kind, &good);
            for cut in [0, 1, 5, whole.len() - 1] {
                let (done, asked) = ask(call, kind, &whole[..cut], false);
                let e = cause(done.expect_err(name), doubtful);
                assert!(matches!(e.kind, ErrorKind::Disconnected { .. } | ErrorKind::Io { .. }), "{name}: {e:?}");
                // What does nothing twice is asked once more on a new connection: the old one may have ended while idle.
                assert!(asked == 1 || !doubtful && asked == 2, "{name}: {asked}");
            }
        }
    });
}

/// Names and codes in answers are those that were asked about and that there are.
#[test]
fn other_names_and_undefined_codes_are_refused() {
    within(60, || {
        let marks = [&b"\x01u\x01\0"[..], &[0; 16]].concat();
        let reason = [&b"\x01t\x01\0"[..], &[0xff; 16], &[0xfe]].concat();
        for (name, rest, field) in [
            ("publish", &[77][..], "produce code"),
            ("producer", &[77], "produce code"),
            ("create_topic", b"\x01t\x03", "create topic code"),
            ("create_topic", b"\x01u\0", "topic name"),
            ("create_topic", b"\x02t\0\0", "topic name"),
            ("reload_config", b"\x01t\0\0\x04", "reload code"),
            ("reload_config", b"\x01u\0\0\0", "topic name"),
            ("reload_config", b"\x01t\x01\0\0", "partition id"),
            ("topics", &[0, 0, 0, 0, 2], "cluster flag"),
            ("partitions", &marks, "topic name"),
            ("partitions", &reason, "reason"),
            ("status", &[0, 2, 0, 0, 0, 0, 0, 0, 0, 0], "cluster flag"),
        ] {
            let (_, call, kind, _, doubtful) = calls().into_iter().find(|(other, ..)| *other == name).unwrap();
            let (done, asked) = ask(call, kind, &framed(kind, &[&[0; 4], rest].concat()), true);
            let e = cause(done.expect_err(name), doubtful);
            assert_eq!(e.kind, ErrorKind::Decode, "{name}: {e:?}");
            let source = common::malformed(&e);
            assert_eq!((source.field(), asked), (field, 1), "{name}: {source}");
        }
    });
}

/// Thousands of damaged answers: each ends with the call's value or a typed error, whatever is left of them.
#[test]
fn damaged_answers_are_refused_or_say_the_same() {
    within(120, || {
        let calls = calls();
        let (mut good, mut bad) = (0, 0);
        seeded(2500, |rng| {
            let (name, call, kind, payload, doubtful) = &calls[rng.below(calls.len())];
            let mut answer = framed(*kind, payload);
            let other = calls[rng.below(calls.len())].3.clone();
            for _ in 0..rng.pick(&[1, 1, 2, 4]) {
                mutate::damage(rng, &mut answer, &other);
            }
            if rng.one_in(2) {
                let len = answer.len().saturating_sub(5) as u32;
                answer.iter_mut().skip(1).zip(len.to_le_bytes()).for_each(|(at, byte)| *at = byte);
            }
            let (done, asked) = ask(*call, *kind, &answer, !rng.one_in(4));
            assert!(asked <= if *doubtful { 1 } else { 2 }, "{name}: {asked}");
            match done {
                Ok(()) => good += 1,
                Err(e) => {
                    bad += 1;
                    let typed = matches!(
                        e.kind,
                        ErrorKind::Decode
                            | ErrorKind::Disconnected { .. }
                            | ErrorKind::Io { .. }
                            | ErrorKind::Broker { .. }
                            | ErrorKind::Connect
                            | ErrorKind::OutcomeUnknown
                    );
                    assert!(typed, "{name}: {e:?} for {answer:02x?}");
                }
            }
        });
        assert!(good + bad < 2500 || (good > 100 && bad > 1000), "{good} good, {bad} bad");
    });
}

/// Every code that says no, and what becomes of it.
#[test]
fn each_refusal_is_told_as_what_it_is() {
    use tank_client::Fault as F;

    within(60, || {
        let create = |code: u8| [b"\x01t", &[code][..]].concat();
        let reload = |code: u8| [b"\x01t\0\0", &[code][..]].concat();
        let states = |reason: u8| [&b"\x01t\x01\0"[..], &[0xff; 16], &[reason]].concat();
        let unavailable = [&states(0xfc)[..], &[0, 0, 0, 0, 0, 0]].concat();
        for (name, rest, fault, unknown) in [
            ("publish", vec![1], F::UnknownPartition, false),
            ("publish", vec![2], F::System, true),
            ("publish", vec![3], F::NotConfirmed, true),
            ("publish", vec![4], F::InsufficientReplicas, false),
            ("publish", vec![10], F::SeqNotAbove { seq: 0 }, false),
            ("publish", vec![0xfc, 0, 0, 0, 0, 0, 0], F::NoLeader, false),
            ("publish", vec![0xfd], F::NoLeader, false),
            ("publish", vec![0xfe], F::ReadOnly, false),
            ("publish", vec![0xff], F::UnknownTopic, false),
            ("create_topic", create(1), F::TopicExists, false),
            ("create_topic", create(2), F::System, false),
            ("create_topic", create(4), F::InvalidConfig, false),
            ("create_topic", create(5), F::ReadOnly, false),
            ("create_topic", create(10), F::InvalidTopic, false),
            ("create_topic", create(11), F::Unsupported, false),
            ("reload_config", reload(1), F::UnknownTopic, false),
            ("reload_config", reload(2), F::InvalidConfig, false),
            ("reload_config", reload(3), F::InvalidConfig, false),
            ("reload_config", reload(10), F::UnknownPartition, false),
            ("reload_config", reload(11), F::UnknownTopic, false),
            ("reload_config", reload(12), F::Unsupported, false),
            ("partitions", b"\x01t\0\0".to_vec(), F::UnknownTopic, false),
            ("partitions", states(0xfb), F::System, false),
            ("partitions", states(0xfd), F::NoLeader, false),
            ("partitions", unavailable, F::NoLeader, false),
        ] {
            let (_, call, kind, ..) = calls().into_iter().find(|(other, ..)| *other == name).unwrap();
            let (done, asked) = ask(call, kind, &framed(kind, &[&[0; 4], &rest[..]].concat()), true);
            let e = cause(done.expect_err(name), unknown);
            assert_eq!((e.topic(), e.fault(), asked), (Some("t"), Some(fault), 1), "{name}");
        }
    });
}

/// An idempotent producer in doubt asks for the end of the log, and reports what it is told instead.
#[test]
fn doubts_that_are_not_resolved() {
    use tank_client::Fault as F;

    struct Doubtful(PartitionAnswer, usize);

    impl Script for Doubtful {
        fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
            let mut reply = Reply::default();
            match Kind::from_id(id).unwrap() {
                Kind::Status => return status(payload, false),
                Kind::Consume => {
                    self.1 += 1;
                    let empty = PartitionAnswer::OutOfRange { high_water_mark: 0, first_available: 0 };
                    return consumed(payload, if self.1 == 1 { empty } else { self.0 });
                }
                // The answer is lost.
                _ => reply.close = true,
            }
            reply
        }
    }

    within(60, || {
        for (answer, fault) in [
            (PartitionAnswer::SystemError, F::System),
            (PartitionAnswer::NoLeader, F::NoLeader),
            (PartitionAnswer::UnknownTopic, F::UnknownTopic),
            (PartitionAnswer::UnknownPartition, F::UnknownPartition),
        ] {
            let peer = Peer::start();
            peer.play(Doubtful(answer, 0));
            let client = Client::builder().retry_timeout(Duration::from_millis(200));
            let client = client.backoff(Duration::from_millis(1), Duration::from_millis(10));
            let client = client.connect(peer.addr()).unwrap();
            let mut producer = client.producer().idempotent().build().unwrap();
            producer.send_to("t", 0, Record::new(b"x")).unwrap();
            producer.flush().unwrap_err();
            let failures = producer.take_failures();
            assert!(failures.len() == 1 && failures[0].is_unknown() && failures[0].count() == 1);
            let e = failures[0].error();
            assert_eq!((&e.kind, e.cause().and_then(Error::fault)), (&ErrorKind::OutcomeUnknown, Some(fault)));
            peer.end();
        }
    });
}
