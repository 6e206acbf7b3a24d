//! Finding a time, beginning and ending with one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tank_client::Compression;
use tank_client::broker::{Broker, BrokerBuilder, RequestKind as Kind, dense_bundle, sparse_bundle};
use tank_client::simulation::Simulation;
use tank_client::{Client, Error, ErrorKind, Fault, Record, Start, Subscription};

use common::rng::{Rng, seeded};

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn client(broker: &Broker) -> Client {
    Client::connect(broker.addr()).unwrap()
}

fn message(timestamp_ms: u64) -> Record<'static> {
    Record::new(b"some payload").timestamp_ms(timestamp_ms)
}

/// A log of random bundles, dense and sparse, in segments, some of them compacted, some of it gone: its messages'
/// numbers and time stamps, with the end.
fn random_log(rng: &mut Rng, broker: &Broker, topic: &str, ordered: bool) -> (Vec<(u64, u64)>, u64) {
    broker.create_topic(topic, 1);
    let mut log: Vec<(u64, u64)> = Vec::new();
    let (mut next, mut time) = (1, rng.below(50) as u64);
    let mut closed = 0;
    for _ in 0..rng.between(0, 40) {
        let roll = !log.is_empty() && rng.one_in(8);
        if roll {
            broker.roll_segment(topic, 0);
            closed = log.len();
        }
        let mut bundle = Vec::new();
        // A gap between two segments can kill a server.
        let sparse = !roll && rng.one_in(3);
        let most = rng.pick(&[1, 12, 12, 12, 700]);
        for index in 0..rng.between(1, most) {
            if sparse && (index > 0 || !log.is_empty()) && rng.one_in(2) {
                let gap = rng.pick(&[5, 5, 5, 100_000]);
                next += rng.below(gap) as u64;
            }
            match rng.below(6) {
                0 | 1 => {}
                2 if !ordered => time = rng.below(60) as u64,
                3 => time += rng.below(1000) as u64,
                _ => time += rng.below(3) as u64,
            }
            bundle.push((next, message(time)));
            next += 1;
        }
        log.extend(bundle.iter().map(|(seq, message)| (*seq, message.get_timestamp_ms().unwrap())));
        let compression = rng.pick(&[Compression::None, Compression::Auto, Compression::Snappy]);
        let bytes = if sparse {
            sparse_bundle(&bundle, compression)
        } else {
            dense_bundle(&bundle.iter().map(|(_, message)| *message).collect::<Vec<_>>(), compression)
        };
        broker.append(topic, 0, &bytes);
    }
    if closed > 0 && rng.one_in(3) {
        // The last one stays, for the same reason.
        let mut kept: Vec<_> = log.drain(..closed - 1).filter(|_| rng.one_in(4)).collect();
        kept.push(log.remove(0));
        let bundles: Vec<_> = kept
            .chunks(rng.between(1, 50))
            .map(|chunk| chunk.iter().map(|&(seq, time)| (seq, message(time))).collect::<Vec<_>>())
            .map(|chunk| sparse_bundle(&chunk, Compression::Auto))
            .collect();
        broker.compact(topic, 0, &bundles.iter().map(Vec::as_slice).collect::<Vec<_>>());
        log.splice(..0, kept);
    } else if !log.is_empty() && rng.one_in(3) {
        let first = log[rng.below(log.len())].0;
        broker.truncate_front(topic, 0, first);
        log.retain(|&(seq, _)| seq >= first);
    }
    (log, next)
}

#[test]
fn seq_at_equals_a_linear_scan() {
    let world = |seed, builder: BrokerBuilder| {
        let sim = Simulation::new(seed);
        let broker = sim.broker_with(&builder.index_interval(200));
        let client = sim.client().connect(broker.brokers()).unwrap();
        (sim, broker, client)
    };
    let mut present = world(0, Broker::builder());
    let (mut count, mut queries) = (0, 0);
    seeded(1000, |rng| {
        count += 1;
        if count % 250 == 0 {
            // Some with chunks that end inside a bundle.
            let builder = Broker::builder();
            present = world(count, if count % 500 == 0 { builder } else { builder.cut_chunks() });
        }
        let (_, broker, client) = &present;
        let topic = format!("log-{count}");
        let ordered = !rng.one_in(4);
        let (log, end) = random_log(rng, broker, &topic, ordered);
        let last_time = log.iter().map(|&(_, time)| time).max().unwrap_or(0);
        let one_of_them = log.get(rng.below(log.len())).map_or(0, |&(_, time)| time);
        let any = rng.below(last_time as usize + 2) as u64;
        for time in [any, rng.pick(&[one_of_them, one_of_them, 0, last_time, last_time + 1])] {
            let before = broker.stats().requests(Kind::Consume);
            let found = client.seq_at(&topic, 0, at(time)).unwrap();
            let probes = broker.stats().requests(Kind::Consume) - before;
            assert!(probes <= 64, "{probes} probes");
            queries += 1;
            if ordered {
                let scanned = log.iter().find(|message| message.1 >= time).map_or(end, |message| message.0);
                assert_eq!(found, scanned, "time {time} in {log:?}");
                continue;
            }
            let index = log.partition_point(|message| message.0 < found);
            match log.get(index) {
                Some(&(seq, found_time)) => assert!(seq == found && found_time >= time, "time {time} in {log:?}"),
                None => assert_eq!(found, end),
            }
            assert!(index == 0 || log[index - 1].1 < time, "time {time} in {log:?}: {found}");
        }
        assert_eq!(broker.killed_by(), None);
    });
    println!("{queries} queries");
}

#[test]
fn the_widest_log_takes_64_probes() {
    let broker = Broker::start().unwrap();
    broker.create_topic("wide", 1);
    for seq in [1, 1 << 40, 1 << 50, u64::MAX - 3] {
        broker.append("wide", 0, &sparse_bundle(&[(seq, message(seq >> 32))], Compression::Auto));
        broker.roll_segment("wide", 0);
    }
    // A gap in front of the active segment would kill a server.
    broker.append("wide", 0, &dense_bundle(&[message(u64::MAX >> 32)], Compression::Auto));
    let client = client(&broker);
    for (time, expected) in [(0, 1), (1 << 8, 1 << 40), (1 << 18, 1 << 50), (u64::from(u32::MAX), u64::MAX - 3)] {
        assert_eq!(client.seq_at("wide", 0, at(time)).unwrap(), expected);
    }
    // One more asks where the log ends.
    assert!(broker.stats().requests(Kind::Consume) <= 4 * (1 + 64));
}

#[test]
fn times_are_whole_milliseconds_and_before_1970_is_the_beginning() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 2);
    broker.append(
        "orders",
        0,
        &dense_bundle(&[message(0), message(5), message(6), message(u64::MAX)], Compression::Auto),
    );
    let client = client(&broker);
    let seq = |time| client.seq_at("orders", 0, time).unwrap();
    assert_eq!(seq(UNIX_EPOCH - Duration::from_secs(1)), 1);
    assert_eq!((seq(at(1)), seq(at(5)), seq(at(5) + Duration::from_nanos(1)), seq(at(7))), (2, 2, 3, 4));
    assert_eq!(client.seq_at("orders", 1, at(7)).unwrap(), 1, "a partition that never had a message");
    let fault = |topic, id| client.seq_at(topic, id, at(7)).unwrap_err().fault().unwrap();
    assert_eq!((fault("orders", 2), fault("none", 0)), (Fault::UnknownPartition, Fault::UnknownTopic));
    assert!(matches!(client.seq_at("", 0, at(7)), Err(Error { kind: ErrorKind::Config { .. }, .. })));
}

#[test]
fn old_servers_and_lost_connections_change_nothing() {
    let broker = Broker::builder().cut_chunks().start().unwrap();
    broker.create_topic("orders", 1);
    for bundle in 0..50 {
        let times: Vec<_> = (0..700).map(|n| message(bundle * 700 + n)).collect();
        broker.append(
            "orders",
            0,
            &dense_bundle(&times, if bundle % 2 == 0 { Compression::None } else { Compression::Snappy }),
        );
    }
    let client = Client::builder().backoff(Duration::ZERO, Duration::ZERO).connect(broker.addr()).unwrap();
    for time in (0..35_000).step_by(777) {
        broker.inject(tank_client::broker::BrokerFault::CutAfter(time));
        assert_eq!(client.seq_at("orders", 0, at(time)).unwrap(), time + 1);
    }
}

fn seqs(messages: tank_client::ConsumeIter) -> Vec<(u16, u64)> {
    let mut seqs: Vec<_> = messages.map(|message| message.unwrap()).map(|m| (m.partition(), m.seq())).collect();
    seqs.sort();
    seqs
}

#[test]
fn a_window_of_time_is_read() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 3);
    broker.append("orders", 0, &dense_bundle(&[10, 20, 30, 40, 50].map(message), Compression::Auto));
    for time in [10, 20, 25, 26, 40, 5] {
        broker.append("orders", 2, &dense_bundle(&[message(time)], Compression::Auto));
    }
    let client = client(&broker);
    let window = Subscription::topic("orders").start(Start::Time(at(20))).stop_at_time(at(40)).stop_at_end();
    let iter = client.subscribe(&window).unwrap();
    assert_eq!(iter.position_of("orders", 1), Some(1));
    assert_eq!(seqs(iter), [(0, 2), (0, 3), (2, 2), (2, 3), (2, 4)]);

    // Without an end, it is the first message at or after the time that ends a partition.
    let window = Subscription::partition("orders", 1).start(Start::Time(at(20))).stop_at_time(at(40));
    let mut iter = client.subscribe(window).unwrap();
    broker.append("orders", 1, &dense_bundle(&[3, 39, 40, 2].map(message), Compression::Auto));
    assert_eq!(iter.by_ref().map(|message| message.unwrap().seq()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(iter.position_of("orders", 1), Some(3));
    assert!(iter.is_finished());

    // Nothing at all lies before the time.
    let none = Subscription::topic("orders").start(Start::At(4)).stop_at_time(at(2));
    assert_eq!(seqs(client.subscribe(none).unwrap()), []);
    // The end of a bundle is no end, and other conditions hold as well.
    let some = Subscription::partition("orders", 2).start(Start::Earliest).stop_at_time(at(1000)).stop_at_seq(3);
    assert_eq!(seqs(client.subscribe(some).unwrap()), [(2, 1), (2, 2), (2, 3)]);
}
