//! The producer: when it sends, what comes back, and that the order holds whatever happens.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::logs;
use common::rng::{Rng, seeded};
use common::server::Server;
use common::watch::{SOON, timed_in, within};
use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind};
use tank_client::protocol::produce::ProduceRequest;
use tank_client::simulation::Simulation;
use tank_client::{
    Client, ClientBuilder, CloseHandle, Error, ErrorKind, Failure, Fault, Producer, ProducerBuilder, Record, Start,
    Subscription,
};

const MS: Duration = Duration::from_millis(1);

pub(crate) fn impatient(builder: ClientBuilder) -> ClientBuilder {
    let builder = builder.backoff(MS, 10 * MS).retry_timeout(300 * MS);
    builder.io_timeout(200 * MS).ack_timeout(100 * MS).connect_timeout(2000 * MS)
}

pub(crate) fn patient(builder: ClientBuilder) -> ClientBuilder {
    builder.backoff(MS, 10 * MS).retry_timeout(Duration::from_secs(60))
}

/// A simulated broker with a topic of four partitions, and a producer that sends only what it is told to.
fn simulated(
    settings: impl Fn(ClientBuilder) -> ClientBuilder,
    change: impl Fn(ProducerBuilder) -> ProducerBuilder,
) -> (Simulation, Arc<Broker>, Producer) {
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.create_topic("orders", 4);
    let client = settings(sim.client()).connect(broker.brokers()).unwrap();
    let producer = change(client.producer().max_age(Duration::from_secs(3600))).build().unwrap();
    (sim, broker, producer)
}

pub(crate) fn requests(broker: &Broker) -> u64 {
    broker.stats().requests(Kind::Produce) + broker.stats().requests(Kind::ProduceWithSeqnum)
}

/// The numbers that a partition's payloads are.
pub(crate) fn numbers(client: &Client, topic: &str, partition: u16) -> Vec<u64> {
    let what = Subscription::partition(topic, partition).start(Start::Earliest).stop_at_end();
    let number = |payload: &[u8]| std::str::from_utf8(payload).unwrap().parse().unwrap();
    client.subscribe(what).unwrap().map(|message| number(message.unwrap().payload())).collect()
}

fn stored(sim: &Simulation, broker: &Broker, partition: u16) -> Vec<u64> {
    numbers(&sim.client().connect(broker.brokers()).unwrap(), "orders", partition)
}

pub(crate) fn send(producer: &mut Producer, partition: u16, number: u64) -> Result<(), Error> {
    producer.send_to("orders", partition, Record::new(number.to_string().as_bytes()))
}

pub(crate) fn send_all(producer: &mut Producer, partition: u16, numbers: std::ops::RangeInclusive<u64>) {
    numbers.for_each(|number| send(producer, partition, number).unwrap());
}

/// The numbers in records that came back.
pub(crate) fn returned(failures: &[Failure]) -> Vec<u64> {
    let payloads = failures.iter().flat_map(Failure::records).map(|record| record.payload());
    payloads.map(|payload| std::str::from_utf8(payload).unwrap().parse().unwrap()).collect()
}

#[test]
fn a_flush_on_a_closed_client_sends_nothing_and_keeps_the_records() {
    let shutdown = CloseHandle::new();
    let (_sim, broker, mut producer) = simulated(|client| client.close_with(&shutdown), |producer| producer);
    // The connection is open, so that nothing would have to wait.
    send(&mut producer, 0, 1).unwrap();
    producer.flush().unwrap();
    shutdown.close();
    send(&mut producer, 0, 2).unwrap();
    let e = producer.flush().unwrap_err();
    assert_eq!((e.kind, requests(&broker), producer.pending()), (ErrorKind::Closed, 1, 1));
}

#[test]
fn settings_outside_their_bounds_are_refused() {
    within(60, || {
        let (_sim, _broker, producer) = simulated(impatient, |settings| settings);
        assert_eq!((producer.stored(), producer.pending()), (0, 0));
        let broker = Broker::start().unwrap();
        let client = Client::connect(broker.addr()).unwrap();
        let text = |settings: ProducerBuilder| settings.build().unwrap_err().to_string();
        assert_eq!(text(client.producer().max_records(0)), "producer: records: 0 given, 1 to 65535 allowed");
        assert_eq!(text(client.producer().max_records(65_536)), "producer: records: 65536 given, 1 to 65535 allowed");
        assert_eq!(text(client.producer().max_bytes(0)), "producer: bytes: 0 given, 1 to 33554432 allowed");
        assert!(text(client.producer().window(0)).contains("at least 1 needed"));
        assert!(text(client.producer().ack_timeout(Duration::ZERO)).starts_with("ack time-out"));
    });
}

#[test]
fn records_go_by_count_and_by_bytes() {
    within(60, || {
        let (_sim, broker, mut producer) = simulated(impatient, |settings| settings.max_records(3));
        send_all(&mut producer, 0, 1..=2);
        send_all(&mut producer, 1, 1..=2);
        assert_eq!((requests(&broker), producer.pending()), (0, 4));
        send_all(&mut producer, 0, 3..=3);
        assert!(broker.wait_until(SOON, |stats| stats.requests(Kind::Produce) == 1));
        producer.flush().unwrap();
        assert_eq!((requests(&broker), producer.stored(), producer.pending()), (2, 5, 0));
        producer.flush().unwrap();
        assert_eq!(requests(&broker), 2, "nothing to send");

        let (_sim, broker, mut producer) = simulated(impatient, |settings| settings.max_bytes(1000));
        producer.send_to("orders", 0, Record::new(&[b'x'; 600])).unwrap();
        assert_eq!(requests(&broker), 0);
        producer.send_to("orders", 0, Record::new(&[b'x'; 600])).unwrap();
        assert!(broker.wait_until(SOON, |stats| stats.requests(Kind::Produce) == 1));
        // One that is larger goes alone, behind what is there.
        producer.send_to("orders", 0, Record::new(&[b'x'; 6000])).unwrap();
        assert!(broker.wait_until(SOON, |stats| stats.requests(Kind::Produce) == 3));
        producer.flush().unwrap();
        assert_eq!((requests(&broker), broker.high_water_mark("orders", 0)), (3, 3));
    });
}

#[test]
fn a_flush_takes_all_partitions_in_one_request() {
    within(60, || {
        let (_sim, broker, mut producer) = simulated(impatient, |settings| settings);
        broker.create_topic("clicks", 300);
        for id in 0..4 {
            send_all(&mut producer, id, 1..=10);
        }
        producer.flush().unwrap();
        assert_eq!(requests(&broker), 1);
        // More partitions than a request takes.
        for id in 0..300 {
            producer.send_to("clicks", id, Record::new(b"1")).unwrap();
            producer.send_to("orders", id % 4, Record::new(b"11")).unwrap();
        }
        producer.flush().unwrap();
        assert_eq!((requests(&broker), producer.stored()), (3, 640));
        assert_eq!(broker.killed_by(), None);
    });
}

#[test]
fn equal_keys_choose_the_same_partition() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let topic = server.topic(7).name;
        let mut producer = client.producer().build().unwrap();
        let keys: Vec<String> = (0..700).map(|n| format!("key-{n}")).collect();
        for key in &keys {
            producer.send(&topic, Record::new(key.as_bytes()).key(key.as_bytes())).unwrap();
        }
        for _ in 0..700 {
            producer.send(&topic, Record::new(b"-")).unwrap();
            producer.send(&topic, Record::new(b"-").key(b"")).unwrap();
        }
        producer.flush().unwrap();
        for id in 0..7 {
            let what = Subscription::partition(&*topic, id).start(Start::Earliest).stop_at_end();
            let back: Vec<_> = client.subscribe(what).unwrap().map(Result::unwrap).collect();
            let (keyed, plain): (Vec<_>, Vec<_>) = back.into_iter().partition(|message| message.key().is_some());
            assert_eq!(plain.len(), 200, "spread evenly");
            let mine = keys.iter().filter(|key| crc32fast::hash(key.as_bytes()) % 7 == u32::from(id));
            assert!(keyed.iter().map(|message| message.payload()).eq(mine.map(|key| key.as_bytes())));
        }

        let odd = |_: &str, key: Option<&[u8]>, partitions: u16| key.map(|key| u16::from(key[0]) % (partitions + 1));
        let mut producer = client.producer().partitioner(odd).build().unwrap();
        producer.send(&topic, Record::new(b"x").key(&[8])).unwrap();
        let e = producer.send(&topic, Record::new(b"x").key(&[7])).unwrap_err();
        assert_eq!(e.to_string(), format!("{topic}: the partitioner chose 7 of 7 partitions"));
        producer.flush().unwrap();
        let marks = client.partitions(&topic).unwrap().into_iter().map(|info| info.high_water_mark);
        let before = |id| 200 + keys.iter().filter(|key| crc32fast::hash(key.as_bytes()) % 7 == id).count() as u64;
        assert!(marks.eq((0..7).map(|id| before(id) + u64::from(id == 0))), "8 % 8 is 0");
        let e = producer.send("no-such-topic-at-all", Record::new(b"x")).unwrap_err();
        assert!(e.fault() == Some(Fault::UnknownTopic) && e.partition().is_none(), "{e}");
    });
}

#[test]
fn what_cannot_be_sent_is_not_taken() {
    within(60, || {
        let (sim, broker, mut producer) = simulated(impatient, |settings| settings);
        let (long, huge) = ([b'k'; 256], vec![0; (255 << 20) + 1]);
        let mut refused = |topic: &str, id, record| producer.send_to(topic, id, record).unwrap_err();
        assert!(matches!(refused("", 0, Record::new(b"x")).kind, ErrorKind::Config { .. }));
        assert!(matches!(refused("orders", u16::MAX, Record::new(b"x")).kind, ErrorKind::Config { .. }));
        assert!(matches!(refused("orders", 0, Record::new(b"x").key(&long)).kind, ErrorKind::Config { .. }));
        assert!(matches!(refused("orders", 0, Record::new(&huge)).kind, ErrorKind::BundleTooLarge { .. }));
        send(&mut producer, 0, 1).unwrap();
        producer.flush().unwrap();
        assert_eq!((stored(&sim, &broker, 0), producer.stored()), (vec![1], 1));
    });
}

#[test]
fn failures_come_back_for_the_exact_records() {
    within(60, || {
        let (_sim, broker, mut producer) = simulated(impatient, |settings| settings);
        let key = [b'k'; 255];
        producer.send_to("gone", 2, Record::new(b"lost").key(&key).timestamp_ms(77)).unwrap();
        producer.send_to("gone", 2, Record::new(&[b'x'; 5000])).unwrap();
        send(&mut producer, 9, 5).unwrap();
        send_all(&mut producer, 1, 1..=3);
        let e = producer.flush().unwrap_err();
        assert_eq!(e.to_string(), "records that may not have been stored: 3; retry or take the producer's failures");
        assert!(matches!(producer.poll(), Err(Error { kind: ErrorKind::Undelivered { records: 3, .. }, .. })));
        assert!(matches!(send(&mut producer, 1, 4), Err(Error { kind: ErrorKind::Undelivered { .. }, .. })));
        assert_eq!((producer.stored(), producer.pending()), (3, 0));

        let failures = producer.take_failures();
        let place = |failure: &Failure| (failure.topic().to_owned(), failure.partition(), failure.count());
        let mut places: Vec<_> = failures.iter().map(place).collect();
        places.sort();
        assert_eq!(places, [("gone".to_owned(), 2, 2), ("orders".to_owned(), 9, 1)]);
        let gone = failures.iter().find(|failure| failure.topic() == "gone").unwrap();
        assert!(!gone.is_unknown());
        assert_eq!(gone.error().to_string(), format!("{}: gone: no such topic", broker.addr()));
        let records: Vec<_> = gone.records().collect();
        assert_eq!(records[0], Record::new(b"lost").key(&key).timestamp_ms(77));
        assert_eq!((records[1].payload().len(), records[1].get_key()), (5000, None));
        assert!(producer.take_failures().is_empty());

        // Given again, where they can be stored.
        broker.create_topic("gone", 3);
        for record in records {
            producer.send_to("gone", 2, record).unwrap();
        }
        producer.flush().unwrap();
        assert_eq!(broker.high_water_mark("gone", 2), 2);
    });
}

#[test]
fn what_lies_behind_a_failure_comes_back_in_order() {
    within(60, || {
        let (sim, broker, mut producer) = simulated(impatient, |settings| settings.max_records(10));
        // The first request is executed and its answer lost, with more of them on their way.
        broker.inject(BrokerFault::LoseAnswer(Kind::Produce));
        let mut sent = 0;
        while sent < 1000 && send(&mut producer, 0, sent + 1).is_ok() {
            sent += 1;
        }
        let _ = producer.flush();
        let failures = producer.take_failures();
        assert!(failures[0].is_unknown(), "{failures:?}");
        assert_eq!(returned(&failures), (1..=sent).collect::<Vec<_>>());
        let not_sent = |failure: &Failure| failure.error().kind == ErrorKind::NotSent;
        let unknown = failures.iter().take_while(|failure| failure.is_unknown()).count();
        assert!(unknown <= 5 && failures[unknown..].iter().all(not_sent));
        assert!(stored(&sim, &broker, 0).into_iter().eq(1..=broker.high_water_mark("orders", 0)));
        // All of it again: the first bundle twice, but nothing out of order.
        for record in failures.iter().flat_map(Failure::records) {
            producer.send_to("orders", 0, record).unwrap();
        }
        producer.flush().unwrap();
        assert!(stored(&sim, &broker, 0).ends_with(&(1..=sent).collect::<Vec<_>>()));
    });
}

#[test]
fn a_refusal_for_now_is_sent_again_unless_that_changed_the_order() {
    within(60, || {
        let (sim, broker, mut producer) = simulated(impatient, |settings| settings.window(1).max_records(10));
        broker.inject_times(BrokerFault::RefuseProduce(Fault::NoLeader), 3);
        send_all(&mut producer, 0, 1..=100);
        producer.flush().unwrap();
        assert_eq!(stored(&sim, &broker, 0), (1..=100).collect::<Vec<_>>());

        // With several on their way the ones behind are stored: what was refused comes back.
        let (sim, broker, mut producer) = simulated(impatient, |settings| settings.window(5).max_records(10));
        broker.pause();
        send_all(&mut producer, 0, 1..=30);
        broker.inject(BrokerFault::RefuseProduce(Fault::NoLeader));
        broker.resume();
        let e = producer.flush().unwrap_err();
        assert!(matches!(e.kind, ErrorKind::Undelivered { records: 10, .. }), "{e}");
        let failures = producer.take_failures();
        assert_eq!(returned(&failures), (1..=10).collect::<Vec<_>>());
        assert!(failures[0].error().fault() == Some(Fault::NoLeader));
        assert_eq!(stored(&sim, &broker, 0), (11..=30).collect::<Vec<_>>());

        // If all of them are refused, nothing is lost.
        let (sim, broker, mut producer) = simulated(impatient, |settings| settings.window(5).max_records(10));
        broker.pause();
        send_all(&mut producer, 0, 1..=50);
        broker.inject_times(BrokerFault::RefuseProduce(Fault::InsufficientReplicas), 5);
        broker.resume();
        producer.flush().unwrap();
        assert_eq!(stored(&sim, &broker, 0), (1..=50).collect::<Vec<_>>());

        // And if that goes on, all of it comes back.
        broker.inject_times(BrokerFault::RefuseProduce(Fault::NoLeader), u64::MAX);
        for number in 1..=25 {
            send(&mut producer, 1, number).unwrap();
        }
        let (done, took) = timed_in(&sim, || producer.flush());
        assert!(
            matches!(done, Err(Error { kind: ErrorKind::Undelivered { records: 25, .. }, .. })) && took >= 250 * MS
        );
        assert_eq!(returned(&producer.take_failures()), (1..=25).collect::<Vec<_>>());
        assert_eq!(broker.high_water_mark("orders", 1), 0);
    });
}

#[test]
fn partitions_do_not_hurt_each_other() {
    within(60, || {
        let (sim, broker, mut producer) = simulated(impatient, |settings| settings.max_records(5));
        broker.set_broken("orders", 2, true);
        let mut accepted = [0; 4];
        for round in 0..200 {
            let id = round % 4;
            match send(&mut producer, id as u16, accepted[id] + 1) {
                Ok(()) => accepted[id] += 1,
                Err(Error { kind: ErrorKind::Undelivered { .. }, .. }) => {
                    for failure in producer.take_failures() {
                        assert_eq!(failure.partition(), 2);
                    }
                }
                Err(e) => panic!("{e}"),
            }
        }
        let _ = producer.flush();
        let failures = producer.take_failures();
        assert!(failures.iter().all(|failure| failure.partition() == 2));
        for id in [0, 1, 3] {
            assert_eq!(stored(&sim, &broker, id), (1..=accepted[usize::from(id)]).collect::<Vec<_>>());
        }
    });
}

#[test]
fn drop_neither_sends_nor_waits_but_says_so() {
    within(60, || {
        logs::keep();
        let (sim, broker, mut producer) = simulated(patient, |settings| settings.max_records(1000));
        send_all(&mut producer, 0, 1..=17);
        let ((), took) = timed_in(&sim, || drop(producer));
        assert_eq!(took, Duration::ZERO);
        logs::wait_for(1, &["WARN", "producer dropped: records not known to be stored: 17, failed: 0"]);
        assert_eq!(requests(&broker), 0);

        let (sim, broker, mut producer) = simulated(patient, |settings| settings.max_records(10));
        broker.pause();
        send_all(&mut producer, 0, 1..=25);
        let ((), took) = timed_in(&sim, || drop(producer));
        assert_eq!(took, Duration::ZERO);
        logs::wait_for(1, &["WARN", "producer dropped: records not known to be stored: 25"]);
    });
}

#[test]
fn a_broker_that_restarts_between_flushes_is_no_trouble() {
    within(60, || {
        let (sim, broker, mut producer) = simulated(patient, |settings| settings);
        for round in 0..10 {
            send_all(&mut producer, 0, round * 10 + 1..=round * 10 + 10);
            producer.flush().unwrap();
            broker.restart().unwrap();
            // The end of the old connection is on its way.
            sim.sleep(5 * MS);
        }
        assert_eq!(stored(&sim, &broker, 0), (1..=100).collect::<Vec<_>>());
    });
}

#[test]
fn leaders_are_followed_in_order() {
    within(60, || {
        for idempotent in [false, true] {
            let cluster = Broker::cluster(3).unwrap();
            cluster.create_topic("orders", 4);
            let addrs = cluster.addrs().iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
            let client = patient(Client::builder()).connect(&addrs).unwrap();
            let settings = client.producer().max_records(7).max_age(Duration::from_secs(60));
            let mut producer = if idempotent { settings.idempotent() } else { settings }.build().unwrap();
            let mut rng = Rng::new(7);
            let mut sent = vec![Vec::new(); 4];
            for number in 1..=4000 {
                let id = rng.below(4);
                if rng.one_in(100) {
                    cluster.set_leader("orders", rng.below(4) as u16, Some(rng.below(3)));
                }
                match send(&mut producer, id as u16, number) {
                    Ok(()) => sent[id].push(number),
                    // Refused by the old leader, with more behind it that reached the new one by then.
                    Err(Error { kind: ErrorKind::Undelivered { .. }, .. }) if !idempotent => {
                        for number in returned(&producer.take_failures()) {
                            sent.iter_mut().for_each(|sent| sent.retain(|&other| other != number));
                        }
                    }
                    Err(e) => panic!("{e}"),
                }
            }
            if producer.flush().is_err() {
                assert!(!idempotent);
                for number in returned(&producer.take_failures()) {
                    sent.iter_mut().for_each(|sent| sent.retain(|&other| other != number));
                }
            }
            assert!(sent.iter().map(Vec::len).sum::<usize>() > 3000);
            for (id, sent) in (0..).zip(&sent) {
                assert_eq!(&numbers(&client, "orders", id), sent);
            }
            assert_eq!(cluster.killed_by(), None);
        }
    });
}

#[test]
fn a_numbering_writer_stores_everything_once() {
    within(120, || {
        // Those that make the answer to the question for the mark a lie come once.
        let troubles = [
            BrokerFault::LoseAnswer(Kind::ProduceWithSeqnum),
            BrokerFault::CloseOnRequest(Kind::ProduceWithSeqnum),
            BrokerFault::CutAfter(0),
            BrokerFault::CutAfter(25),
            BrokerFault::ResetAfter(37),
            BrokerFault::StallAfter(12),
            BrokerFault::Delay(1000 * MS),
            BrokerFault::WrongRequestId,
            BrokerFault::FlipAfter(30),
            BrokerFault::RefuseProduce(Fault::NoLeader),
            BrokerFault::RefuseProduce(Fault::System),
            BrokerFault::CloseOnAccept,
        ];
        for trouble in troubles {
            let settings = |client| impatient(client).retry_timeout(Duration::from_secs(20));
            let (sim, broker, mut producer) = simulated(settings, |settings| settings.idempotent().max_records(10));
            broker.append_payloads("orders", 0, &["1", "2", "3"]);
            send_all(&mut producer, 0, 4..=60);
            let lies = matches!(trouble, BrokerFault::WrongRequestId | BrokerFault::FlipAfter(_));
            broker.inject_times(trouble.clone(), if lies { 1 } else { 3 });
            if trouble == BrokerFault::CloseOnAccept {
                broker.disconnect_all();
            }
            // What a broker with trouble of its own may have stored comes back, and is stored once all the same.
            let comes_back = trouble == BrokerFault::RefuseProduce(Fault::System);
            for number in 61..=200 {
                while let Err(e) = send(&mut producer, 0, number) {
                    assert!(comes_back && producer.failures()[0].is_unknown(), "{trouble:?}: {e}");
                    producer.retry_failures(|_| true);
                }
            }
            while let Err(e) = producer.flush() {
                assert!(comes_back && producer.failures()[0].is_unknown(), "{trouble:?}: {e}");
                producer.retry_failures(|_| true);
            }
            assert_eq!(stored(&sim, &broker, 0), (1..=200).collect::<Vec<_>>(), "{trouble:?}");
            assert_eq!((producer.stored(), broker.killed_by()), (197, None));
            assert!(broker.stats().faults_fired > 0, "{trouble:?}");
            broker.release();
        }
    });
}

#[test]
fn a_numbering_writer_that_is_not_alone_finds_out_in_time() {
    within(60, || {
        let (sim, broker, mut producer) = simulated(impatient, |settings| settings.idempotent());
        send_all(&mut producer, 0, 1..=3);
        producer.flush().unwrap();
        broker.append_payloads("orders", 0, &["77"]);
        send_all(&mut producer, 0, 4..=5);
        let e = producer.flush().unwrap_err();
        assert!(matches!(e.kind, ErrorKind::Undelivered { records: 2, .. }), "{e}");
        let failures = producer.take_failures();
        let fault = failures[0].error();
        assert!(fault.fault() == Some(Fault::SeqNotAbove { seq: 4 }), "{fault}");
        // The caller knows better than we what that means; given again, they go behind.
        for record in failures.iter().flat_map(Failure::records) {
            producer.send_to("orders", 0, record).unwrap();
        }
        producer.flush().unwrap();
        assert_eq!(stored(&sim, &broker, 0), [1, 2, 3, 77, 4, 5]);
        let request = broker.requests().into_iter().rfind(|request| request.kind == Kind::ProduceWithSeqnum).unwrap();
        let request = ProduceRequest::decode(request.kind, &request.payload).unwrap();
        assert_eq!(request.topics[0].partitions[0].first_seq, 5);
    });
}

#[test]
fn random_records_come_back_equal() {
    within(120, || {
        let server = Server::start();
        seeded(12, |rng| {
            let client = server.client();
            let topic = server.topic(3).name;
            let settings = client.producer().max_records(rng.between(1, 300) as u32).window(rng.between(1, 8));
            let settings = settings.max_bytes(rng.between(1, 20_000)).max_age(rng.below(30) as u32 * MS);
            let mut producer = if rng.one_in(2) { settings.idempotent() } else { settings }.build().unwrap();
            let mut sent = vec![Vec::new(); 3];
            for _ in 0..rng.between(1, 2000) {
                let id = rng.below(3);
                let (key_len, payload_len) = (rng.below(20), rng.below(300));
                let (key, payload) = (rng.bytes(key_len), rng.bytes(payload_len));
                let stamp = rng.next_u64() >> 20;
                let record = Record::new(&payload).key(&key).timestamp_ms(stamp);
                producer.send_to(&topic, id as u16, record).unwrap();
                sent[id].push((key, payload, stamp));
                if rng.one_in(200) {
                    producer.flush().unwrap();
                    assert_eq!(producer.pending(), 0);
                }
            }
            producer.flush().unwrap();
            for (id, sent) in (0..).zip(&sent) {
                let what = Subscription::partition(&*topic, id).start(Start::Earliest).stop_at_end();
                let back = client.subscribe(what).unwrap().map(Result::unwrap);
                let back = back.map(|message| {
                    (message.key().unwrap_or_default().to_vec(), message.payload().to_vec(), message.timestamp_ms())
                });
                assert!(back.eq(sent.iter().cloned()));
            }
        });
    });
}

/// Gives a producer again what failed, in order, until all of it is taken; how many records were left in doubt.
pub(crate) fn give_back(producer: &mut Producer) -> usize {
    let mut unknown = 0;
    let mut again: VecDeque<(u16, u64)> = VecDeque::new();
    loop {
        // What failed lies before what was not given back yet.
        for failure in producer.take_failures().iter().rev() {
            unknown += if failure.is_unknown() { failure.count() } else { 0 };
            let numbers = returned(std::slice::from_ref(failure));
            numbers.into_iter().rev().for_each(|number| again.push_front((failure.partition(), number)));
        }
        while let Some(&(partition, number)) = again.front() {
            match send(producer, partition, number) {
                Ok(()) => again.pop_front(),
                Err(Error { kind: ErrorKind::Undelivered { .. }, .. }) => break,
                Err(e) => panic!("{e}"),
            };
        }
        if again.is_empty() {
            return unknown;
        }
    }
}

#[test]
fn failures_are_sent_again_in_order_in_one_call() {
    within(60, || {
        for idempotent in [false, true] {
            let change = |settings: ProducerBuilder| {
                let settings = settings.max_records(10).window(1);
                if idempotent { settings.idempotent() } else { settings }
            };
            // Without patience the first trouble is a failure.
            let (sim, broker, mut producer) =
                simulated(|client| impatient(client).retry_timeout(Duration::ZERO), change);
            send_all(&mut producer, 0, 1..=10);
            producer.flush().unwrap();
            broker.inject(BrokerFault::LoseAnswer(if idempotent { Kind::ProduceWithSeqnum } else { Kind::Produce }));
            broker.pause();
            send_all(&mut producer, 0, 11..=38);
            broker.resume();
            let e = producer.flush().unwrap_err();
            assert!(matches!(e.kind, ErrorKind::Undelivered { records: 28, .. }), "{e}");
            assert!(producer.failures()[0].is_unknown() && !producer.failures()[1].is_unknown());
            assert_eq!(returned(producer.failures()), (11..=38).collect::<Vec<_>>());
            assert!(producer.retry_failures(|_| true).is_empty() && producer.pending() == 28);
            send_all(&mut producer, 0, 39..=40);
            producer.flush().unwrap();
            let twice = if idempotent { 0..0 } else { 11..21 };
            let expected: Vec<u64> = (1..=10).chain(twice).chain(11..=40).collect();
            assert_eq!(stored(&sim, &broker, 0), expected, "{idempotent}");
            // Or without what may be stored.
            broker.inject(BrokerFault::LoseAnswer(if idempotent { Kind::ProduceWithSeqnum } else { Kind::Produce }));
            broker.pause();
            send_all(&mut producer, 0, 41..=58);
            broker.resume();
            producer.flush().unwrap_err();
            let dropped = producer.retry_failures(|failure| !failure.is_unknown());
            assert_eq!((returned(&dropped), producer.pending()), ((41..=50).collect(), 8));
            producer.flush().unwrap();
            assert_eq!(stored(&sim, &broker, 0), expected.into_iter().chain(41..=58).collect::<Vec<_>>());
        }
    });
}

#[test]
fn what_a_user_drops_leaves_a_gap_only_if_it_may_be_stored() {
    within(60, || {
        logs::keep();
        let settings = |client| impatient(client).retry_timeout(Duration::ZERO);
        let (sim, broker, mut producer) = simulated(settings, |settings| settings.idempotent());
        // The log has nothing of it, but nobody knows for certain.
        broker.inject(BrokerFault::CloseOnRequest(Kind::ProduceWithSeqnum));
        send_all(&mut producer, 0, 1..=3);
        producer.flush().unwrap_err();
        assert!(producer.take_failures()[0].is_unknown());
        send_all(&mut producer, 0, 4..=5);
        producer.flush().unwrap();
        assert_eq!((stored(&sim, &broker, 0), broker.high_water_mark("orders", 0)), (vec![4, 5], 5));
        logs::wait_for(1, &["WARN", "orders/0: numbers 1 to 3 are missing at the end of the leader's log"]);
        // What was refused is not there for certain, so its numbers are free.
        broker.inject(BrokerFault::RefuseProduce(Fault::ReadOnly));
        send_all(&mut producer, 0, 6..=7);
        producer.flush().unwrap_err();
        assert!(!producer.take_failures()[0].is_unknown());
        send_all(&mut producer, 0, 8..=8);
        producer.flush().unwrap();
        assert_eq!((stored(&sim, &broker, 0), broker.high_water_mark("orders", 0)), (vec![4, 5, 8], 6));
    });
}

#[test]
fn partitions_added_later_are_used_after_a_connection_was_lost() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let addr = broker.addr();
        let client = patient(Client::builder()).connect(addr).unwrap();
        let mut producer = client.producer().max_records(1).build().unwrap();
        let mut send = || {
            producer.send("orders", Record::new("x")).unwrap();
            producer.flush().unwrap();
        };
        send();
        drop(broker);
        let broker = Broker::builder().port(addr.port()).start().unwrap();
        broker.create_topic("orders", 3);
        (0..12).for_each(|_| send());
        let marks = [0, 1, 2].map(|id| broker.high_water_mark("orders", id));
        assert!(marks.iter().sum::<u64>() == 12 && marks[1] >= 2 && marks[2] >= 2, "{marks:?}");
    });
}
