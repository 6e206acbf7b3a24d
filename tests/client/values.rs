//! The values that callers hold: what they say, how they compare, and that what is shown of them holds no payload.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use common::server::Server;
use common::watch::within;
use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind};
use tank_client::simulation::Simulation;
use tank_client::{
    Acks, Client, Compression, ConsumeIter, Error, ErrorKind, Message, OutOfRange, PartitionRecords, Position,
    Positions, Record, Start, Subscription,
};

const SECRET: &[u8] = b"\xbe\xef secret";

/// That neither the bytes nor their numbers are in what is shown.
fn hides(shown: impl std::fmt::Debug) -> String {
    let text = format!("{shown:?}");
    assert!(!text.contains("secret") && !text.contains("190, 239"), "{text}");
    text
}

/// Three messages: with a key, with an empty one, and without.
fn messages(client: &Client, topic: &str) -> Vec<Message> {
    let of = |n: u64, record| -> Record<'_> { Record::timestamp_ms(record, 1000 + n) };
    let records = [
        of(1, Record::new(SECRET).key(b"key of 1")),
        of(2, Record::new(b"two").key(b"")),
        of(u64::MAX - 1000, Record::new(b"")),
    ];
    client.publish(topic, 0, &records).unwrap();
    let all = Subscription::topic(topic).start(Start::Earliest).stop_at_end();
    client.subscribe(all).unwrap().map(Result::unwrap).collect()
}

#[test]
fn messages_say_what_was_published() {
    within(60, || {
        let server = Server::start();
        for compression in [Compression::None, Compression::Snappy] {
            let topic = server.topic(1);
            let client = Client::builder().compression(compression).connect(server.addr()).unwrap();
            let found = messages(&client, &topic.name);
            let parts = |m: &Message| (m.seq(), m.timestamp_ms(), m.key().map(<[u8]>::to_vec), m.payload().to_vec());
            let expected = [
                (1, 1001, Some(b"key of 1".to_vec()), SECRET.to_vec()),
                (2, 1002, None, b"two".to_vec()),
                (3, u64::MAX, None, vec![]),
            ];
            assert_eq!(found.iter().map(parts).collect::<Vec<_>>(), expected);
            assert!(found.iter().all(|message| (message.topic(), message.partition()) == (&*topic.name, 0)));
            assert_eq!(found[0].timestamp(), UNIX_EPOCH + Duration::from_millis(1001));
            assert!(found[2].timestamp() > found[1].timestamp(), "far off, and no panic");

            let copies: Vec<Message> = found.iter().map(Message::detach).collect();
            assert_eq!(copies, found);
            assert_eq!(copies.iter().map(parts).collect::<Vec<_>>(), expected);
            assert_eq!(found[0].clone(), found[0]);
            assert_ne!(found[0], found[1]);
            assert_eq!(
                hides(&found[0]),
                format!(
                    "Message {{ topic: {:?}, partition: 0, seq: 1, timestamp_ms: 1001, key_len: Some(8), payload_len: 9 }}",
                    topic.name
                )
            );
            assert_eq!(hides(&copies[0]), hides(&found[0]));
        }
    });
}

#[test]
fn batches_say_the_same_as_their_messages() {
    within(60, || {
        let server = Server::start();
        let topic = server.topic(1);
        let client = server.client();
        let found = messages(&client, &topic.name);
        let mut iter = client.subscribe(topic.all()).unwrap();
        let batch = iter.next_batch().unwrap().unwrap();
        assert_eq!((batch.topic(), batch.partition(), batch.len(), batch.is_empty()), (&*topic.name, 0, 3, false));
        assert!(batch.get(3).is_none());
        assert_eq!(
            hides(batch),
            format!("Batch {{ topic: {:?}, partition: 0, first: Some(1), last: Some(3), len: 3 }}", topic.name)
        );
        for (index, message) in batch.into_iter().enumerate() {
            assert_eq!((message.topic(), message.partition()), (batch.topic(), batch.partition()));
            assert_eq!(message.to_message(), found[index]);
            assert_eq!((message.seq(), message.timestamp_ms()), (found[index].seq(), found[index].timestamp_ms()));
            assert_eq!(message.timestamp(), found[index].timestamp());
            assert_eq!((message.key(), message.payload()), (found[index].key(), found[index].payload()));
            assert_eq!(hides(message), hides(&found[index]));
        }
        let mut both = (&batch).into_iter();
        assert_eq!(both.len(), 3);
        assert_eq!(both.next_back().map(|message| message.seq()), Some(3));
        assert_eq!(both.next().map(|message| message.seq()), Some(1));
        assert_eq!((both.size_hint(), both.clone().count()), ((1, Some(1)), 1));
        hides(both);
    });
}

#[test]
fn records_are_made_of_anything_that_is_bytes() {
    let record = Record::new("payload");
    assert_eq!((record.payload(), record.get_key(), record.get_timestamp_ms()), (&b"payload"[..], None, None));
    let full = record.key("key").timestamp_ms(7);
    assert_eq!(
        (full.payload(), full.get_key(), full.get_timestamp_ms()),
        (&b"payload"[..], Some(&b"key"[..]), Some(7))
    );

    let (text, bytes) = ("payload".to_owned(), b"payload".to_vec());
    let all = [
        Record::new(&text),
        Record::new(&*text),
        Record::new(&bytes),
        Record::new(&bytes[..]),
        Record::new(b"payload"),
    ];
    assert_eq!(all, [record; 5]);
    let texts = ["payload"; 2];
    assert_eq!(texts.iter().map(Record::new).collect::<Vec<_>>(), [record; 2]);
    let key = vec![b'k', b'e', b'y'];
    assert_eq!(record.key(&key).timestamp_ms(7), full);
}

/// What is shown is read again.
fn round_trip<T: FromStr<Err = Error> + Display + PartialEq + Debug>(table: &[(T, &str)]) {
    for (value, text) in table {
        assert_eq!(value.to_string(), *text);
        assert_eq!(text.parse::<T>().unwrap(), *value, "{text}");
    }
}

#[test]
fn settings_are_written_and_read_as_text() {
    let at = |seconds: i64, nanos| {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
        Start::Time(time + Duration::from_nanos(nanos))
    };
    round_trip(&[(Compression::Auto, "auto"), (Compression::None, "none"), (Compression::Snappy, "snappy")]);
    round_trip(&[(OutOfRange::Fail, "fail"), (OutOfRange::Earliest, "earliest"), (OutOfRange::Latest, "latest")]);
    round_trip(&[(Acks::All, "all"), (Acks::Quorum, "quorum"), (Acks::Peers(1), "1"), (Acks::Peers(200), "200")]);
    round_trip(&[
        (Start::Earliest, "earliest"),
        (Start::Latest, "latest"),
        (Start::At(0), "0"),
        (Start::At(u64::MAX), "18446744073709551615"),
        (Start::Last(10), "last:10"),
        (at(0, 0), "@0"),
        (at(951_782_400, 0), "@951782400"),
        (at(951_782_399, 500_000_000), "@951782399.5"),
        (at(1_795_336_200, 1_000), "@1795336200.000001"),
        (at(-1, 0), "@-1"),
        (at(-86_401, 250_000_000), "@-86400.75"),
    ]);
    assert_eq!(format!("{:>8}|{:<5}|{:03}", Start::Latest, Acks::All, Start::At(7)), "  latest|all  |007");
}

#[test]
fn text_that_names_no_setting_is_refused_with_what_is_allowed() {
    for text in [
        "",
        "Earliest",
        "earliest ",
        "-1",
        "18446744073709551616",
        "last:",
        "last:-1",
        "1795336200.5",
        "@",
        "@-",
        "@.5",
        "@1.",
        "@+1",
        "@1.0123456789",
        "@1.+5",
        "@--1",
        "@1.5.5",
        "@1é",
        "@18446744073709551615",
        "@-18446744073709551615",
        "2026-11-22T08:30:00Z",
    ] {
        let e = text.parse::<Start>().unwrap_err();
        let wanted = "earliest, latest, a number, last:100, or a time such as @1795336200.5 allowed";
        assert_eq!(e.to_string(), format!("start: {text:?} given, {wanted}"));
    }
    let text = |e: Error| e.to_string();
    for given in ["", "0", "201", "-1", "ALL", "half"] {
        let wanted = format!("acks: {given:?} given, all, quorum, or 1 to 200 allowed");
        assert_eq!(given.parse::<Acks>().map_err(text), Err(wanted));
    }
    let wanted = "compression: \"gzip\" given, auto, none, snappy allowed";
    assert_eq!("gzip".parse::<Compression>().map_err(text), Err(wanted.into()));
    let wanted = "policy: \"none\" given, fail, earliest, latest allowed";
    assert_eq!("none".parse::<OutOfRange>().map_err(text), Err(wanted.into()));
}

/// Rows of a database, lines of text and positions stand for each other, whatever the topics are called.
#[test]
fn positions_are_rows_and_lines() {
    let two: Positions = [("orders", 1, 4), ("orders", 0, 3), ("orders", 0, 17)].into_iter().collect();
    assert_eq!(two.get("orders", 0), Some(17), "the later one counts");
    let kept = |p: &Position| (p.topic.to_string(), p.partition, p.seq);
    assert_eq!(two.iter().map(kept).collect::<Positions>(), two);
    let (by_value, by_reference) = (two.clone().into_iter(), (&two).into_iter());
    assert!(by_value.eq(by_reference.cloned()));
    let mut more = two.clone();
    more.extend(Positions::from_iter([("clicks", 9, 1), ("orders", 1, 5)]));
    more.set("orders", 0, 18);
    more.set("a", 65_534, u64::MAX);

    let odd = Positions::from_iter([("a b%/0=1\u{a0}\n", 0, 1), ("é/=", 1, 2)]);
    round_trip(&[
        (Positions::default(), ""),
        (two, "orders/0=17 orders/1=4"),
        (more, "a/65534=18446744073709551615 clicks/9=1 orders/0=18 orders/1=5"),
        (odd, "a%20b%25/0=1%c2%a0%0a/0=1 é/=/1=2"),
    ]);
    assert_eq!(" orders/1=4\n orders/0=17\t".parse::<Positions>().unwrap().to_string(), "orders/0=17 orders/1=4");

    let long = format!("{:a<256}/0=1", "");
    for text in ["orders", "orders/0", "orders=1", "orders/65536=1", "orders/0=-1", "%2/0=1", "%é/0=1", "%ff/0=1"] {
        let e = format!("x/0=1 {text}").parse::<Positions>().unwrap_err();
        assert_eq!(e.to_string(), format!("position: {text:?} given, one such as orders/0=17 allowed"));
    }
    for (text, wanted) in [
        ("/0=1", "topic name: 0 bytes given, 1 to 255 allowed"),
        (&long, "topic name: 256 bytes given, 1 to 255 allowed"),
        ("a/0=1 a/1=1 a/0=2", "positions: \"a/0=2\" given, one of each partition allowed"),
    ] {
        assert_eq!(text.parse::<Positions>().unwrap_err().to_string(), wanted);
    }
}

/// A subscription is made of what names a topic.
#[test]
fn subscriptions_are_made_of_names() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 2);
        let client = Client::connect(broker.addr()).unwrap();
        let name = "orders".to_owned();
        let count = |what: Subscription| client.subscribe(what).unwrap().positions().iter().count();
        assert_eq!([count("orders".into()), count((&name).into()), count(name.clone().into())], [2; 3]);
        assert_eq!(count(Subscription::from("orders").start(Start::Earliest)), 2);
        let _ = client.subscribe(&name).unwrap();
    });
}

/// What a program may well write to its log.
#[test]
fn nothing_that_is_shown_holds_a_payload() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        broker.append_payloads("orders", 0, &[SECRET, SECRET]);
        let client = Client::builder().retry_timeout(Duration::ZERO).map_endpoints(Into::into);
        let client = client.connect(broker.addr()).unwrap();
        let mut iter = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
        iter.next().unwrap().unwrap();
        // One more is in its memory.
        let shown = hides(&iter);
        assert!(shown.contains("partitions: 1"), "{shown}");

        let builder = client.producer().max_records(2).max_age(Duration::from_secs(3600));
        assert!(hides(&builder).contains("max_records: 2"));
        let mut producer = builder.build().unwrap();
        let record = Record::new(SECRET).key(SECRET);
        assert_eq!(hides(record), "Record { timestamp_ms: None, key_len: Some(9), payload_len: 9 }");
        hides(PartitionRecords::new("orders", 0, &[record]));
        producer.send_to("orders", 0, record).unwrap();
        let text = hides(&producer);
        assert!(text.contains("partitions: 1, stored: 0, pending: 1, pending_bytes: "), "{text}");
        broker.inject(BrokerFault::LoseAnswer(Kind::Produce));
        producer.flush().unwrap_err();
        let failures = producer.take_failures();
        let text = hides(&failures[0]);
        assert!(text.starts_with(r#"Failure { topic: "orders", partition: 0, records: 1, error: "#), "{text}");
        assert_eq!((failures[0].topic(), failures[0].partition(), failures[0].count()), ("orders", 0, 1));
        assert!(failures[0].error().kind == ErrorKind::OutcomeUnknown);
        hides(&client);
    });
}

/// What is printed in a log is short, however much there is behind it.
#[test]
fn clients_iterators_and_producers_are_shown_in_short() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 500);
        let client = Client::connect((0..9).map(|_| broker.addr()).collect::<Vec<_>>()).unwrap();
        let mut producer = client.producer().build().unwrap();
        (0..500).for_each(|id| producer.send_to("orders", id, Record::new("tea")).unwrap());
        let iter = client.subscribe("orders").unwrap();
        let shown = [format!("{client:?}"), format!("{producer:?}"), format!("{iter:?}")];
        for text in shown {
            assert!(text.len() < 300, "{} bytes: {text}", text.len());
        }
    });
}

#[test]
fn lag_age_and_silence_are_measured() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 2);
        let client = Client::connect(broker.addr()).unwrap();
        let ten_minutes_ago = std::time::SystemTime::now() - Duration::from_secs(600);
        let ms = ten_minutes_ago.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let tea = Record::new("tea").timestamp_ms(ms);
        client.publish("orders", 1, &[tea, tea, tea]).unwrap();
        let mut orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest).limit(2)).unwrap();
        assert!(orders.stats().partitions.iter().all(|of| of.age.is_none()));
        orders.next().unwrap().unwrap();
        let stats = orders.stats();
        assert_eq!(stats.messages, 1);
        let (age, of) = (stats.partitions[1].age.unwrap(), &stats.partitions[1]);
        assert_eq!((&*of.topic, of.partition, of.lag, stats.partitions[0].age), ("orders", 1, Some(2), None));
        assert!((600..660).contains(&age.as_secs()), "{age:?}");
        assert_eq!(stats.leaders[0].broker, broker.addr().to_string());
        assert!(stats.leaders[0].silence.unwrap() < Duration::from_secs(60));
        assert_eq!(orders.count(), 1);
    });
}

#[test]
fn only_brokers_that_messages_are_fetched_from_are_silent() {
    let (sim, minute) = (Simulation::new(1), Duration::from_secs(60));
    let cluster = sim.cluster(2);
    cluster.create_topic("orders", 2);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    let noon = sim.wall_clock() + minute;
    let mut orders = client.subscribe(Subscription::topic("orders").stop_at_time(noon)).unwrap();
    assert_eq!(orders.next_timeout(minute).unwrap(), None);
    let silence = |orders: &ConsumeIter| orders.stats().leaders.iter().filter_map(|of| of.silence).collect::<Vec<_>>();
    assert!(silence(&orders).len() == 2 && silence(&orders).iter().max() < Some(&(minute / 6)));
    // One partition ends, and its leader has nothing more to say.
    client.publish("orders", 0, &[Record::new("tea")]).unwrap();
    assert_eq!(orders.next_timeout(minute).unwrap(), None);
    assert!(silence(&orders).len() == 1 && silence(&orders)[0] < minute / 6, "{:?}", orders.stats().leaders);
}

/// Compiles if all values can be sent, shared, compared and kept in maps as their kind suggests.
#[test]
fn values_have_the_usual_traits() {
    use std::fmt::Debug;
    use std::hash::Hash;
    use std::panic::{RefUnwindSafe, UnwindSafe};
    use tank_client::*;
    fn thread_safe<T: Send + Sync + Debug + 'static>() {}
    fn value<T: Clone + Eq + Debug + Send + Sync + UnwindSafe>() {}
    fn key<T: Eq + Hash + Clone + Debug + Send + Sync + UnwindSafe>() {}
    fn ordered<T: Ord>() {}
    thread_safe::<(Client, ClientBuilder, ConsumeIter, Subscription, CloseHandle, Checkpoint, Error)>();
    thread_safe::<(Brokers, Failure, Message, Batch<'static>, segment::Segments)>();
    value::<(TopicConfig, Stats, Message)>();
    key::<(Position, Positions, Start, Acks, Compression, OutOfRange, Limits, Brokers)>();
    key::<(Fault, Phase, Gap, Record<'static>, PartitionStats, LeaderStats)>();
    key::<(PartitionInfo, TopicInfo, Topology)>();
    key::<(NodeInfo, BrokerStatus)>();
    ordered::<(Position, Positions, Gap)>();
    fn unwinds<T: UnwindSafe + RefUnwindSafe>() {}
    unwinds::<(Client, ClientBuilder, ConsumeIter, Subscription, CloseHandle, Checkpoint, Error)>();
    unwinds::<(Producer, ProducerBuilder, Failure, Message, Batch<'static>, segment::Segments)>();
    fn sent<T: Send>() {}
    sent::<(Producer, ProducerBuilder)>();
}
