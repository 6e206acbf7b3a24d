//! Consuming when all goes well, and when the caller or the log asks for trouble.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::server::{Server, bundle, sparse, unique_name};
use common::watch::within;
use tank_client::Compression;
use tank_client::broker::{Broker, Request, RequestKind as Kind, dense_bundle};
use tank_client::simulation::{LinkSettings, Simulation};
use tank_client::{
    Batch, Client, CloseHandle, ConsumeIter, Error, ErrorKind, Fault, Limits, Message, OutOfRange, Record, Start,
    Subscription,
};

/// The numbers of all messages to come, whose payloads have to be these numbers.
fn numbers(iter: &mut ConsumeIter) -> Vec<u64> {
    iter.map(|message| number(&message.unwrap())).collect()
}

fn number(message: &Message) -> u64 {
    assert_eq!(message.payload(), message.seq().to_string().as_bytes());
    message.seq()
}

fn range(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

fn embedded() -> (Broker, Client) {
    let broker = Broker::start().unwrap();
    let client = Client::connect(broker.addr()).unwrap();
    (broker, client)
}

/// The fetch sizes that a broker was asked for, one partition a request.
fn fetch_sizes(broker: &Broker) -> Vec<u32> {
    let fetches = broker.requests().into_iter().filter(|request| request.kind == Kind::Consume);
    fetches.map(|request| common::fetch(&request).unwrap().topics[0].partitions[0].fetch_size).collect()
}

#[test]
fn a_subscription_starts_where_it_was_told() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 100, 7);
        let from = |start| Subscription::partition(&*topic.name, 0).start(start).stop_at_end();
        for (start, first) in [
            (Start::Earliest, 1),
            (Start::At(0), 1),
            (Start::At(1), 1),
            (Start::At(37), 37),
            (Start::At(100), 100),
            (Start::At(101), 101),
            (Start::Latest, 101),
        ] {
            assert_eq!(numbers(&mut client.subscribe(from(start)).unwrap()), range(first, 100), "{start:?}");
        }
        assert_eq!(numbers(&mut client.subscribe(topic.all()).unwrap()), range(1, 100));

        let mut latest = client.subscribe(Subscription::topic(&*topic.name).limit(5)).unwrap();
        let mut next = client.subscribe(Subscription::topic(&*topic.name).start(Start::At(101)).limit(5)).unwrap();
        topic.publish_numbers(0, 101, 105, 2);
        assert_eq!(numbers(&mut latest), range(101, 105));
        assert_eq!(numbers(&mut next), range(101, 105));
    });
}

#[test]
fn empty_partitions_are_waited_for() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let mut topic = server.topic(3);
        for start in [Start::Earliest, Start::Latest, Start::At(0), Start::At(1)] {
            let mut iter = client.subscribe(topic.all().start(start)).unwrap();
            assert!(iter.next().is_none() && iter.is_finished(), "{start:?}");
            let mut iter = client.subscribe(Subscription::topic(&*topic.name).start(start).limit(1)).unwrap();
            assert!(iter.next_timeout(Duration::from_millis(20)).unwrap().is_none() && !iter.is_finished());
        }
        let mut earliest = client.subscribe(Subscription::topic(&*topic.name).start(Start::Earliest).limit(2)).unwrap();
        topic.publish_sparse(2, &[7, 9], Compression::None);
        assert_eq!(numbers(&mut earliest), [7, 9]);
    });
}

/// Topics take turns in the subscription while a request groups them.
#[test]
fn many_topics_and_partitions_each_with_its_own_start() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let mut topics: Vec<_> = (0..4).map(|_| server.topic(4)).collect();
        for (t, topic) in topics.iter_mut().enumerate() {
            for p in 0..4u16 {
                let payloads: Vec<_> = (1..=20).map(|n| format!("{t}/{p}:{n}")).collect();
                payloads.chunks(6).for_each(|some| topic.publish(p, some));
            }
        }
        let mut subscription = Subscription::partition(&*topics[0].name, 0).start(Start::At(1));
        let mut want = HashMap::from([((0, 0), 1)]);
        for (p, t) in (0..4u16).flat_map(|p| (0..4).map(move |t| (p, t))).skip(1) {
            let first = u64::from(p) * 4 + t as u64 + 1;
            subscription = subscription.and_partition(&*topics[t].name, p, Start::At(first));
            want.insert((t, p), first);
        }
        let mut iter = client.subscribe(subscription.stop_at_end()).unwrap();
        let mut count = 0;
        for message in &mut iter {
            let message = message.unwrap();
            let t = topics.iter().position(|topic| topic.name == message.topic()).unwrap();
            let next = want.get_mut(&(t, message.partition())).unwrap();
            let text = format!("{t}/{}:{next}", message.partition());
            assert_eq!((message.seq(), message.payload()), (*next, text.as_bytes()));
            *next += 1;
            count += 1;
        }
        assert_eq!(count, (0..16).map(|skipped| 20 - skipped).sum::<u32>());
        assert!(want.values().all(|&next| next == 21));
        assert!(iter.positions().iter().all(|position| position.seq == 21));
    });
}

#[test]
fn a_whole_topic_beside_a_partition_of_another() {
    within(60, || {
        let server = Server::start();
        let (mut a, mut b) = (server.topic(3), server.topic(2));
        (0..3).for_each(|p| a.publish_numbers(p, 1, 10, 3));
        (0..2).for_each(|p| b.publish_numbers(p, 1, 10, 3));
        let both = Subscription::partition(&*b.name, 1).start(Start::At(8)).and_topic(&*a.name, Start::At(10));
        let mut iter = server.client().subscribe(both.stop_at_end()).unwrap();
        let mut got: Vec<_> = (&mut iter)
            .map(|message| message.unwrap())
            .map(|message| (message.topic() == a.name, message.partition(), number(&message)))
            .collect();
        got.sort_unstable();
        assert_eq!(got, [(false, 1, 8), (false, 1, 9), (false, 1, 10), (true, 0, 10), (true, 1, 10), (true, 2, 10)]);
    });
}

#[test]
fn more_partitions_than_a_request_may_name() {
    within(120, || {
        let server = Server::start();
        let mut topic = server.topic(600);
        for p in 0..600 {
            topic.publish(p, &[format!("{p}"), format!("{p}")]);
        }
        let mut seen = vec![0; 600];
        for message in server.client().subscribe(topic.all()).unwrap() {
            let message = message.unwrap();
            assert_eq!(message.payload(), message.partition().to_string().as_bytes());
            seen[usize::from(message.partition())] += 1;
        }
        assert_eq!(seen, [2; 600]);
        let mut tail = server.client().subscribe(Subscription::topic(&*topic.name).limit(600)).unwrap();
        for p in (0..600).rev() {
            topic.publish(p, &["3"]);
        }
        let mut seen: Vec<_> = (&mut tail).map(|message| message.unwrap().partition()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..600).collect::<Vec<_>>());
    });
}

#[test]
fn no_request_names_more_than_250_partitions_and_none_is_left_out() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("a", 400);
        broker.create_topic("b", 200);
        let both = Subscription::topic("a").start(Start::Earliest).and_topic("b", Start::Earliest);
        let mut iter = client.subscribe(both.limit(1)).unwrap();
        assert!(broker.wait_until(Duration::from_secs(20), |stats| stats.waiting == 3));
        let mut named = Vec::new();
        for request in broker.requests().iter().filter(|request| request.kind == Kind::Consume) {
            let fetch = common::fetch(request).unwrap();
            assert!(fetch.slots().count() <= 250);
            assert!(fetch.topics.iter().all(|topic| !topic.partitions.is_empty()));
            named.extend(fetch.slots().map(|(topic, wanted)| (topic.to_string(), wanted.partition)));
        }
        named.sort_unstable();
        let all = |topic: &str, count: u16| (0..count).map(move |p| (topic.to_owned(), p)).collect::<Vec<_>>();
        assert_eq!(named, [all("a", 400), all("b", 200)].concat());
        broker.append_payloads("b", 199, &["1"]);
        assert_eq!(iter.next().unwrap().unwrap().partition(), 199);
        assert_eq!(broker.killed_by(), None);
    });
}

/// 64 partitions at the largest fetch size are more than an answer can be.
#[test]
fn no_request_asks_for_more_than_an_answer_can_hold() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("wide", 64);
        let wide = Subscription::topic("wide").fetch_size(64 << 20).start(Start::Earliest).stop_at_end();
        assert_eq!(client.subscribe(wide).unwrap().count(), 0);
        let mut named = 0;
        for request in broker.requests().iter().filter(|request| request.kind == Kind::Consume) {
            let fetch = common::fetch(request).unwrap();
            let asked: u64 = fetch.slots().map(|(_, wanted)| u64::from(wanted.fetch_size)).sum();
            assert!(asked <= 1 << 30, "{asked}");
            named += fetch.slots().count();
        }
        assert_eq!(named, 64);
    });
}

#[test]
fn no_partition_starves_another() {
    within(60, || {
        // Where time is simulated no answer is late, and no fetch asks for more because of that.
        let sim = Simulation::new(1);
        let broker = sim.broker();
        let client = sim.client().connect(broker.brokers()).unwrap();
        broker.create_topic("mixed", 3);
        let large = bundle(&[vec![b'x'; 60_000]], Compression::None);
        for huge in [0, 2] {
            broker.append_repeated("mixed", huge, &[&large], 1_000_000);
        }
        broker.append_payloads("mixed", 1, &["1"]);
        let mut iter = client.subscribe(Subscription::topic("mixed").start(Start::Earliest)).unwrap();
        let mut counts = [0u32; 3];
        while counts.contains(&0) {
            counts[usize::from(iter.next().unwrap().unwrap().partition())] += 1;
        }
        assert!(counts[0] <= 20, "one fetch size of the first one came before the others: {counts:?}");
        for _ in 0..2000 {
            counts[usize::from(iter.next().unwrap().unwrap().partition())] += 1;
        }
        assert!(counts[0].abs_diff(counts[2]) <= 20, "{counts:?}");

        // Over several requests, too.
        broker.create_topic("many", 600);
        for p in 0..600 {
            broker.append_repeated("many", p, &[&bundle(&["x"; 100], Compression::None)], 1000);
        }
        let mut last = 0;
        let mut early = client.subscribe(Subscription::topic("many").start(Start::Earliest).fetch_size(1000)).unwrap();
        let mut seen = vec![0u32; 600];
        while seen.contains(&0) {
            last = early.next_batch().unwrap().unwrap().partition();
            seen[usize::from(last)] += 1;
        }
        let most = seen.iter().max().unwrap();
        assert!(*most <= 60, "{most} bundles of one partition before the first of {last}");
    });
}

#[test]
fn the_end_is_the_one_at_the_start_even_if_the_topic_goes_on_growing() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(2);
        (0..2).for_each(|p| topic.publish_numbers(p, 1, 1000, 10));
        let all = topic.all().fetch_size(500);
        let done = Arc::new(AtomicBool::new(false));
        let enough = done.clone();
        let mut iter = server.client().subscribe(all).unwrap();
        let writer = thread::spawn(move || {
            let mut next = 1001;
            while !enough.load(Ordering::Relaxed) {
                (0..2).for_each(|p| topic.publish_numbers(p, next, next + 99, 10));
                next += 100;
            }
            next
        });
        let got: Vec<_> = (&mut iter).map(|message| message.unwrap()).map(|m| (m.partition(), number(&m))).collect();
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        for p in 0..2 {
            let of_one: Vec<_> = got.iter().filter(|(partition, _)| *partition == p).map(|&(_, n)| n).collect();
            // The first answer, which says where the end is, may come after the first messages that are new.
            assert_eq!(of_one, range(1, of_one.len() as u64));
            assert!((1000..3000).contains(&of_one.len()), "{}", of_one.len());
        }
        assert!(iter.is_finished());
    });
}

#[test]
fn the_end_lies_where_the_broker_had_it_when_subscribing() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("growing", 1);
        for n in 1..=50 {
            broker.append_payloads("growing", 0, &[n.to_string()]);
        }
        let mut iter = client
            .subscribe(Subscription::topic("growing").start(Start::Earliest).fetch_size(1).stop_at_end())
            .unwrap();
        assert!(broker.wait_until(Duration::from_secs(20), |stats| stats.requests(Kind::Consume) == 1));
        for n in 51..=1000 {
            broker.append_payloads("growing", 0, &[n.to_string()]);
        }
        assert_eq!(numbers(&mut iter), range(1, 50));
        assert_eq!((iter.position_of("growing", 0), iter.lag()), (Some(51), 950));
    });
}

#[test]
fn limits_count_messages_of_all_partitions() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let mut topic = server.topic(2);
        (0..2).for_each(|p| topic.publish_numbers(p, 1, 50, 10));
        for limit in [0, 1, 9, 10, 11, 55, 100] {
            let mut iter = client.subscribe(topic.all().limit(limit)).unwrap();
            assert_eq!(iter.by_ref().inspect(|message| _ = number(message.as_ref().unwrap())).count() as u64, limit);
            assert!(iter.is_finished() && iter.next().is_none());
            assert_eq!(iter.stats().messages, limit);
            let delivered: u64 = iter.positions().iter().map(|position| position.seq.max(1) - 1).sum();
            assert_eq!(delivered, limit, "positions are those of what was delivered");
            let mut iter = client.subscribe(topic.all().limit(limit)).unwrap();
            let mut count = 0;
            while let Some(batch) = iter.next_batch().unwrap() {
                count += batch.len() as u64;
            }
            assert_eq!(count, limit);
        }
    });
}

#[test]
fn a_subscription_ends_at_a_number() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let mut topic = server.topic(2);
        (0..2).for_each(|p| topic.publish_numbers(p, 1, 100, 7));
        for last in [1, 6, 7, 8, 50, 100] {
            let up_to = Subscription::topic(&*topic.name).start(Start::Earliest).stop_at_seq(last);
            let mut iter = client.subscribe(up_to).unwrap();
            let mut got = numbers(&mut iter);
            got.sort_unstable();
            assert_eq!(got, (1..=last).flat_map(|n| [n, n]).collect::<Vec<_>>());
            assert!(iter.positions().iter().all(|position| position.seq == last + 1));
        }
        let nothing = Subscription::topic(&*topic.name).start(Start::At(10)).stop_at_seq(9);
        assert_eq!(client.subscribe(nothing).unwrap().count(), 0);
        let end_first = topic.all().stop_at_seq(1000);
        assert_eq!(client.subscribe(end_first).unwrap().count(), 200);
        // A number still to come.
        let mut tail = client.subscribe(Subscription::partition(&*topic.name, 0).stop_at_seq(102)).unwrap();
        topic.publish_numbers(0, 101, 110, 10);
        assert_eq!(numbers(&mut tail), [101, 102]);
    });
}

/// The last wanted number need not be that of a message, nor end a bundle.
#[test]
fn ends_at_a_number_in_a_gap() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        for compression in [Compression::None, Compression::Snappy] {
            let mut topic = server.topic(1);
            topic.publish_sparse(0, &[10, 20, 30], compression);
            topic.publish_sparse(0, &[40, 50], compression);
            for last in 1..=50 {
                let up_to = Subscription::topic(&*topic.name).start(Start::Earliest).stop_at_seq(last);
                let mut iter = client.subscribe(&up_to).unwrap();
                assert_eq!(numbers(&mut iter), (1..=last / 10).map(|n| n * 10).collect::<Vec<_>>(), "up to {last}");
                assert!(iter.stats().fetches <= 1, "up to {last}: {:?}", iter.stats());
                for first in 10..=last {
                    let mut iter = client.subscribe(up_to.clone().start(Start::At(first))).unwrap();
                    assert_eq!(numbers(&mut iter), (first..=last).filter(|n| n % 10 == 0).collect::<Vec<_>>());
                }
            }
        }
    });
}

#[test]
fn sparse_plain_and_compressed_bundles() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        let mut want = Vec::new();
        let mut next = 1;
        for round in 0..30u64 {
            let compression = if round % 2 == 0 { Compression::None } else { Compression::Snappy };
            if round % 3 == 0 {
                let some: Vec<u64> = (1..=round + 1).map(|n| next + n * n).collect();
                topic.publish_sparse(0, &some, compression);
                want.extend(some);
            } else {
                let some = range(next, next + round);
                let payloads: Vec<String> = some.iter().map(u64::to_string).collect();
                topic.publish_bundle(0, &bundle(&payloads, compression));
                want.extend(some);
            }
            next = want.last().unwrap() + 1;
        }
        let client = server.client();
        for fetch_size in [1, 100, 1000, 1 << 20] {
            let all = topic.all().fetch_size(fetch_size);
            assert_eq!(numbers(&mut client.subscribe(all).unwrap()), want);
        }
        for first in 1..want[100] {
            let from = topic.all().start(Start::At(first)).limit(3);
            if first < want[0] {
                let e = client.subscribe(from).unwrap().next().unwrap().unwrap_err();
                assert!(
                    matches!(e.kind, ErrorKind::OutOfRange { first_available, .. } if first_available == want[0]),
                    "{e}"
                );
                continue;
            }
            let at = want.partition_point(|&n| n < first);
            assert_eq!(numbers(&mut client.subscribe(from).unwrap()), want[at..at + 3], "from {first}");
        }
    });
}

#[test]
fn keys_and_time_stamps_arrive_as_they_were_sent() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        let keys = [None, Some(&b"k"[..]), Some(&[0xff; 255][..])];
        let record = |n: usize| {
            let record = Record::new(&[b'p'; 200][..n]).timestamp_ms([0, 5, 5, 3, u64::MAX][n % 5]);
            keys[n % 3].map_or(record, |key| record.key(key))
        };
        let records: Vec<_> = (0..60).map(record).collect();
        topic.publish_bundle(0, &dense_bundle(&records, Compression::Auto));
        let mut left = records.iter();
        let client = server.client();
        let mut iter = client.subscribe(topic.all().start(Start::At(31))).unwrap();
        let mut got = 0;
        for message in &mut iter {
            let (message, want) = (message.unwrap(), left.nth(if got == 0 { 30 } else { 0 }).unwrap());
            assert_eq!((message.timestamp_ms(), message.key()), (want.get_timestamp_ms().unwrap(), want.get_key()));
            assert_eq!(message.payload(), want.payload());
            got += 1;
        }
        assert_eq!(got, 30);
    });
}

/// As old servers sent them: a chunk ends at any byte.
#[test]
fn chunks_cut_at_any_byte() {
    within(120, || {
        let broker = Broker::builder().cut_chunks().start().unwrap();
        let client = Client::connect(broker.addr()).unwrap();
        broker.create_topic("cut", 2);
        for p in 0..2 {
            for round in 0..6 {
                let compression = if round % 2 == 0 { Compression::None } else { Compression::Snappy };
                let next = broker.high_water_mark("cut", p) + 1;
                let step = if round < 4 { 1 } else { 3 };
                let numbers: Vec<u64> = (0..20).map(|n| next + n * step).collect();
                let dense = || bundle(&numbers.iter().map(u64::to_string).collect::<Vec<_>>(), compression);
                let bytes = if step == 1 { dense() } else { sparse(&numbers, compression) };
                broker.append("cut", p, &bytes);
            }
        }
        let all = Subscription::topic("cut").start(Start::Earliest).stop_at_end();
        let want = numbers(&mut client.subscribe(all.clone()).unwrap());
        assert_eq!(want.len(), 240);
        for fetch_size in (1..400).chain([500, 700, 1000, 1500]) {
            let mut iter = client.subscribe(all.clone().fetch_size(fetch_size)).unwrap();
            let mut got: [Vec<u64>; 2] = Default::default();
            while let Some(batch) = iter.next_batch().unwrap() {
                for message in batch {
                    assert_eq!(message.payload(), message.seq().to_string().as_bytes());
                    got[usize::from(message.partition())].push(message.seq());
                }
            }
            assert_eq!((&got[0], &got[1]), (&want[..120].to_vec(), &want[120..].to_vec()), "fetch size {fetch_size}");
        }
    });
}

#[test]
fn the_fetch_size_grows_for_a_big_bundle_and_falls_back() {
    within(60, || {
        let sim = Simulation::new(1);
        let broker = sim.broker_with(&Broker::builder().cut_chunks());
        let client = sim.client().connect(broker.brokers()).unwrap();
        broker.create_topic("big", 1);
        let append = |len: usize, compression| {
            let noise: Vec<u8> = (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
            let bytes = bundle(&[noise], compression);
            broker.append("big", 0, &bytes);
            bytes.len() as u32 + if bytes.len() < 1 << 14 { 2 } else { 3 }
        };
        append(500, Compression::None);
        let compressed = append(50_000, Compression::Snappy);
        append(500, Compression::None);
        let plain = append(300_000, Compression::None);
        append(500, Compression::None);
        append(500, Compression::None);
        let all = Subscription::topic("big").start(Start::Earliest).stop_at_end().fetch_size(1000);
        let mut iter = client.subscribe(all).unwrap();
        let lens: Vec<_> = (&mut iter).map(|message| message.unwrap().payload().len()).collect();
        assert_eq!(lens, [500, 50_000, 500, 300_000, 500, 500]);
        assert_eq!(fetch_sizes(&broker), [1000, compressed, 1000, plain, 1000, 1000]);
    });
}

/// Before an answer begins the line is idle for 20 ms, in which it could carry 400 kB: so the next fetch asks for more. Where it
/// is idle for 1 ms it does not.
#[test]
fn a_long_line_is_kept_busy() {
    let rate = |latency: u64, partitions: u16, bytes: u64| {
        let sim = Simulation::new(1);
        let latency = Duration::from_micros(latency);
        let line = LinkSettings::default().latency(latency..latency + Duration::from_micros(1));
        sim.set_links(&line.bandwidth(20_000_000).fragment_one_in(0));
        let broker = sim.broker();
        broker.create_topic("far", partitions);
        for id in 0..partitions {
            let times = bytes / u64::from(partitions) / 50_000;
            broker.append_repeated("far", id, &[&bundle(&[vec![b'x'; 50_000]], Compression::None)], times);
        }
        let client = sim.client().connect(broker.brokers()).unwrap();
        let mut far = client
            .subscribe(Subscription::topic("far").start(Start::Earliest).stop_at_end().fetch_size(200_000))
            .unwrap();
        let (begun, mut count, mut ahead) = (sim.now(), 0, vec![0; usize::from(partitions)]);
        let mut most_ahead = 0;
        while let Some(batch) = far.next_batch().unwrap() {
            count += batch.len() as u64;
            ahead[usize::from(batch.partition())] += batch.len();
            most_ahead = most_ahead.max(ahead.iter().max().unwrap() - ahead.iter().min().unwrap());
        }
        let sizes = broker.requests().into_iter().filter(|request| request.kind == Kind::Consume);
        let of_one =
            |request| common::fetch(&request).unwrap().topics[0].partitions.iter().map(|of| of.fetch_size).max();
        let largest = sizes.filter_map(of_one).max().unwrap();
        (count * 50_000 * 1_000 / (sim.now() - begun).as_millis() as u64, largest, most_ahead * 50_000)
    };
    within(240, move || {
        let (far, largest, _) = rate(10_000, 1, 50_000_000);
        assert!(far > 18_000_000 && largest > 6_000_000, "{far} bytes a second with {largest} at a time");
        let (far, largest, ahead) = rate(10_000, 4, 50_000_000);
        assert!(far > 18_000_000 && largest < 2_200_000, "{far} bytes a second with {largest} of each at a time");
        assert!(ahead <= 2_200_000, "one partition was {ahead} bytes before another");
        let (near, largest, ahead) = rate(500, 4, 50_000_000);
        assert!(near > 18_000_000 && largest == 200_000, "{near} bytes a second with {largest} of each at a time");
        assert!(ahead <= 300_000, "one partition was {ahead} bytes before another");
    });
}

/// Small bundles are decoded together: what comes before a bad one is handed out all the same, and only then is it told.
#[test]
fn small_bundles_before_a_bad_one() {
    within(60, || {
        let broker = Broker::start().unwrap();
        let client = Client::connect(broker.addr()).unwrap();
        for bad in [1u64, 2, 3, 255, 256, 257, 300] {
            let topic = format!("bad{bad}");
            broker.create_topic(&topic, 1);
            for seq in 1..=300 {
                let mut bytes = dense_bundle(&[Record::new(b"payload").timestamp_ms(seq)], Compression::None);
                if seq == bad {
                    // Claims a longer payload than there is.
                    let at = bytes.len() - b"payload".len() - 1;
                    bytes[at] += 1;
                }
                broker.append(&topic, 0, &bytes);
            }
            let all = Subscription::topic(&topic).start(Start::Earliest);
            let early = std::time::UNIX_EPOCH + Duration::from_millis(bad.saturating_sub(1));
            for (wanted, count, is_told) in [
                (all.clone(), bad - 1, true),
                (all.clone().limit(bad), bad - 1, true),
                (all.clone().limit(bad - 1), bad - 1, false),
                (all.clone().stop_at_seq(bad - 1), bad - 1, false),
                (all.clone().stop_at_time(early), bad.saturating_sub(2), bad == 1),
            ] {
                let mut iter = client.subscribe(wanted.clone()).unwrap();
                for seq in 1..=count {
                    assert_eq!(iter.position_of(&topic, 0), Some(if seq == 1 { 0 } else { seq }));
                    assert_eq!(iter.next().unwrap().unwrap().seq(), seq);
                }
                match iter.next() {
                    Some(Err(e)) if is_told && e.kind == ErrorKind::Decode => {
                        let e = common::malformed(&e);
                        assert_eq!((e.field(), e.partition()), ("payload", Some((topic.as_str(), 0))));
                    }
                    None if !is_told => {}
                    other => panic!("bad {bad}, {wanted:?}: {other:?}"),
                }
                let position = if count == 0 { 0 } else { count + 1 };
                assert_eq!(iter.position_of(&topic, 0), Some(position), "bad {bad}, {wanted:?}");
                assert!(iter.next().is_none() && iter.is_finished());
                let stats = iter.stats();
                assert_eq!(stats.messages, count);
                assert!(stats.bundles >= count && stats.bundles < bad, "{} with bad {bad}, {wanted:?}", stats.bundles);
            }
        }
    });
}

/// The length of a cut bundle may be cut itself.
#[test]
fn the_fetch_size_grows_from_next_to_nothing() {
    within(60, || {
        let sim = Simulation::new(1);
        let broker = sim.broker_with(&Broker::builder().cut_chunks());
        let client = sim.client().connect(broker.brokers()).unwrap();
        broker.create_topic("big", 1);
        let bytes = bundle(&[vec![b'x'; 20_000]], Compression::None);
        broker.append("big", 0, &bytes);
        let all = Subscription::topic("big").start(Start::Earliest).stop_at_end().fetch_size(1);
        assert_eq!(client.subscribe(all).unwrap().map(Result::unwrap).count(), 1);
        assert_eq!(fetch_sizes(&broker), [1, 2, 4, bytes.len() as u32 + 3]);
    });
}

/// Numbers above a gap that no reader can see (reference, section 19): what the broker sends for them lies below.
#[test]
fn a_log_that_cannot_be_got_past_ends_in_an_error() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("gap", 1);
        broker.append_payloads("gap", 0, &["1", "2", "3"]);
        broker.append_at("gap", 0, 1000, &bundle(&["a", "b"], Compression::None));
        let mut iter = client.subscribe(Subscription::topic("gap").start(Start::At(500))).unwrap();
        let e = iter.next().unwrap().unwrap_err();
        assert!(e.fault() == Some(Fault::Stuck { seq: 500 }) && e.partition() == Some(0), "{e}");
        let text =
            "cannot get past sequence number 500: all that the broker sends lies below it or above the high-water mark";
        assert_eq!(e.to_string(), format!("{}: gap/0: {text}", broker.addr()));
        assert!(iter.next().is_none() && iter.is_finished());
        let sizes = fetch_sizes(&broker);
        assert_eq!(sizes, [1 << 20, 2 << 20], "never the same again unchanged");
        assert_eq!(client.partitions("gap").unwrap()[0].high_water_mark, 1001);
    });
}

/// A closed segment that compaction emptied at its front is sent whole from its beginning, whatever is wanted of it.
#[test]
fn a_whole_segment_below_the_position_is_passed_over() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("old", 1);
        for n in 1..=40 {
            broker.append_payloads("old", 0, &[n.to_string()]);
        }
        broker.roll_segment("old", 0);
        for n in 41..=50 {
            broker.append_payloads("old", 0, &[n.to_string()]);
        }
        broker.compact("old", 0, &[&sparse(&[20, 25, 33, 40], Compression::None)]);
        for (first, want) in
            [(1, vec![20, 25, 33, 40]), (10, vec![20, 25, 33, 40]), (21, vec![25, 33, 40]), (34, vec![40])]
        {
            let from = Subscription::topic("old").start(Start::At(first)).stop_at_end().fetch_size(1);
            let got = numbers(&mut client.subscribe(from).unwrap());
            assert_eq!(got, [want, range(41, 50)].concat(), "from {first}");
        }
        let all = Subscription::topic("old").start(Start::Earliest).stop_at_end();
        assert_eq!(numbers(&mut client.subscribe(all).unwrap()), [vec![20, 25, 33, 40], range(41, 50)].concat());
    });
}

#[test]
fn a_bundle_over_the_limit() {
    within(60, || {
        for cut in [false, true] {
            let builder = Broker::builder();
            let broker = if cut { builder.cut_chunks() } else { builder }.start().unwrap();
            let limits = Limits::default().bundle(10_000);
            let client = Client::builder().limits(limits).connect(broker.addr()).unwrap();
            broker.create_topic("big", 2);
            let fits = bundle(&[vec![b'x'; 9_900]], Compression::None);
            let over = bundle(&[vec![b'x'; 20_000]], Compression::None);
            broker.append("big", 1, &fits);
            broker.append("big", 1, &over);
            let all = Subscription::topic("big").start(Start::Earliest).fetch_size(100);
            let mut iter = client.subscribe(all).unwrap();
            assert_eq!(iter.next().unwrap().unwrap().payload().len(), 9_900);
            let e = iter.next().unwrap().unwrap_err();
            let whole = over.len() as u64;
            let ErrorKind::BundleTooLarge { needed, limit: 10_000, .. } = e.kind else { panic!("{e}") };
            assert_eq!((e.topic(), e.partition()), (Some("big"), Some(1)));
            assert!((whole..=whole + 3).contains(&needed), "{e}");
            assert!(iter.next().is_none());
            assert_eq!(client.partitions("big").unwrap().len(), 2);
        }
    });
}

#[test]
fn beyond_the_end_as_the_caller_chose() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 10, 5);
        let beyond = Subscription::topic(&*topic.name).start(Start::At(12));
        let mut iter = client.subscribe(&beyond).unwrap();
        let e = iter.next().unwrap().unwrap_err();
        assert_eq!((e.topic(), e.partition()), (Some(&*topic.name), Some(0)));
        assert!(
            matches!(e.kind, ErrorKind::OutOfRange { requested: 12, first_available: 1, high_water_mark: 10, .. }),
            "{e}"
        );
        assert!(iter.next().is_none() && iter.is_finished());
        let mut first = client.subscribe(beyond.clone().beyond_end(OutOfRange::Earliest).stop_at_end()).unwrap();
        assert_eq!((numbers(&mut first), first.gaps()), (range(1, 10), &[][..]));
        let mut end = client.subscribe(beyond.clone().beyond_end(OutOfRange::Latest).stop_at_end()).unwrap();
        assert_eq!((end.count(), client.partitions(&topic.name).unwrap()[0].high_water_mark), (0, 10));
        end = client.subscribe(beyond.beyond_end(OutOfRange::Latest).limit(2)).unwrap();
        assert!(end.next_timeout(Duration::from_millis(100)).unwrap().is_none());
        topic.publish_numbers(0, 11, 12, 1);
        assert_eq!(numbers(&mut end), [11, 12]);

        for policy in [OutOfRange::Earliest, OutOfRange::Latest] {
            let mut empty = server.topic(1);
            let beyond = Subscription::topic(&*empty.name).start(Start::At(5));
            let e = client.subscribe(&beyond).unwrap().next().unwrap().unwrap_err();
            assert!(
                matches!(e.kind, ErrorKind::OutOfRange { requested: 5, first_available: 0, high_water_mark: 0, .. }),
                "{e}"
            );
            let mut iter = client.subscribe(beyond.beyond_end(policy).limit(1)).unwrap();
            assert!(iter.next_timeout(Duration::from_millis(50)).unwrap().is_none());
            empty.publish_numbers(0, 1, 1, 1);
            assert_eq!((numbers(&mut iter), iter.gaps()), (vec![1], &[][..]));
        }
    });
}

#[test]
fn what_retention_took_is_reported() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("kept", 2);
        for n in 1..=100 {
            broker.append_payloads("kept", 0, &[n.to_string()]);
        }
        broker.roll_segment("kept", 0);
        for n in 101..=110 {
            broker.append_payloads("kept", 0, &[n.to_string()]);
        }
        let from = Subscription::partition("kept", 0).start(Start::At(10)).fetch_size(1).stop_at_seq(110);
        let reading = |policy| client.subscribe(from.clone().out_of_range(policy)).unwrap();
        let (mut fail, mut first, mut last) =
            (reading(OutOfRange::Fail), reading(OutOfRange::Earliest), reading(OutOfRange::Latest));
        for iter in [&mut fail, &mut first, &mut last] {
            assert_eq!(number(&iter.next().unwrap().unwrap()), 10);
        }
        broker.truncate_front("kept", 0, 101);
        let e = fail.find_map(Result::err).unwrap();
        let ErrorKind::OutOfRange { requested: 11..=100, first_available: 101, high_water_mark: 110, .. } = e.kind
        else {
            panic!("{e}");
        };
        assert_eq!(e.partition(), Some(0));
        let rest = numbers(&mut first);
        let gap = &first.gaps()[0];
        assert_eq!((&*gap.topic, gap.partition, gap.last, first.gaps().len()), ("kept", 0, 100, 1));
        // What was asked for before retention came is still delivered.
        assert_eq!(rest, [range(11, gap.first - 1), range(101, 110)].concat());
        let rest = numbers(&mut last);
        let gap = &last.gaps()[0];
        assert_eq!((rest, gap.last, last.gaps().len()), (range(11, gap.first - 1), 100, 1));
        assert_eq!(last.position_of("kept", 0), Some(111));
    });
}

#[test]
fn marks_positions_lag_and_stats() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("counted", 2);
        // Smaller ones would count together.
        for n in 0..5u64 {
            let payloads: Vec<String> = (n * 20 + 1..=n * 20 + 20).map(|n| n.to_string()).collect();
            broker.append_payloads("counted", 0, &payloads);
        }
        let all = Subscription::topic("counted").start(Start::Earliest);
        let mut iter = client.subscribe(all).unwrap();
        assert_eq!(
            (iter.position_of("counted", 0), iter.position_of("counted", 2), iter.position_of("x", 0)),
            (Some(0), None, None)
        );
        assert_eq!((iter.high_water_mark("counted", 0), iter.high_water_mark("counted", 1)), (Some(100), Some(0)));
        assert_eq!((iter.high_water_mark("counted", 2), iter.lag()), (None, 100));
        for n in 1..=100 {
            assert_eq!(number(&iter.next().unwrap().unwrap()), n);
            assert_eq!((iter.position_of("counted", 0), iter.position_of("counted", 1)), (Some(n + 1), Some(0)));
            assert_eq!(iter.positions().get("counted", 0), Some(n + 1));
            assert_eq!(iter.lag(), 100 - n);
            let stats = iter.stats();
            assert_eq!((stats.messages, stats.bundles), (n, n.div_ceil(20)));
        }
        assert!(iter.next_timeout(Duration::ZERO).unwrap().is_none());
        assert!(broker.wait_until(Duration::from_secs(20), |stats| stats.waiting == 1));
        broker.append_payloads("counted", 1, &["1", "2"]);
        assert_eq!(number(&iter.next().unwrap().unwrap()), 1);
        assert_eq!((iter.high_water_mark("counted", 1), iter.lag()), (Some(2), 1));
        assert_eq!(iter.next_batch().unwrap().unwrap().len(), 1);
        assert!(iter.next_timeout(Duration::ZERO).unwrap().is_none());
        let stats = iter.stats();
        assert_eq!((stats.messages, stats.bundles, stats.fetches, stats.empty_fetches), (102, 6, 2, 0));
        assert_eq!((stats.reconnects, stats.redirects, stats.no_leader), (0, 0, 0));
        // For the partitions, and whether there is a cluster.
        let is_about = |request: &&Request| !matches!(request.kind, Kind::Consume | Kind::Ping);
        assert_eq!(broker.requests().iter().filter(is_about).count(), 2);

        let end = Subscription::topic("counted").start(Start::Earliest).stop_at_end();
        let before = broker.stats();
        let mut whole = client.subscribe(end).unwrap();
        assert_eq!((&mut whole).count(), 102);
        let stats = whole.stats();
        assert_eq!((stats.fetches, stats.empty_fetches, stats.bundles), (1, 0, 6));
        assert!(broker.wait_until(Duration::from_secs(20), |stats| stats.answered == before.answered + 2));
        let discovered = 5 + 4 + 1 + 7 + 2 + 2 * 16;
        assert_eq!(stats.bytes, broker.stats().bytes_sent - before.bytes_sent - discovered - 5);
        let empty = Subscription::partition("counted", 1).start(Start::At(3)).stop_at_end();
        let mut empty = client.subscribe(empty).unwrap();
        assert!(empty.next().is_none());
        assert_eq!((empty.stats().fetches, empty.stats().empty_fetches, empty.lag()), (1, 1, 0));
    });
}

/// The bytes received so far count even in the middle of an answer.
#[test]
fn bytes_are_counted_as_they_come() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("wide", 1);
        broker.append_repeated("wide", 0, &[&bundle(&[vec![b'x'; 60_000]], Compression::None)], 100);
        let mut iter = client.subscribe(Subscription::topic("wide").start(Start::Earliest)).unwrap();
        for n in 1..=10 {
            iter.next().unwrap().unwrap();
            assert!(iter.stats().bytes > n * 60_000, "{:?}", iter.stats());
        }
    });
}

#[test]
fn less_than_min_bytes_comes_late_but_comes() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 5, 5);
        let patient = Subscription::topic(&*topic.name).min_bytes(1 << 20).max_wait(Duration::from_millis(400));
        let mut iter = server.client().subscribe(patient.limit(3)).unwrap();
        for n in 6..=8 {
            topic.publish_numbers(0, n, n, 1);
            assert_eq!(number(&iter.next().unwrap().unwrap()), n);
        }
        assert!(iter.next().is_none());
    });
}

#[test]
fn batches_and_messages_in_turn() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 100, 20);
        let mut iter = server.client().subscribe(topic.all()).unwrap();
        let mut got = Vec::new();
        let mut take = 0;
        loop {
            for _ in 0..take % 13 {
                match iter.next() {
                    Some(message) => got.push(number(&message.unwrap())),
                    None => break,
                }
            }
            take += 1;
            let Some(batch) = iter.next_batch().unwrap() else { break };
            assert!(!batch.is_empty() && batch.len() <= 20);
            assert_eq!((batch.topic(), batch.partition()), (&*topic.name, 0));
            assert_eq!(batch.iter().rev().map(|m| m.seq()).min(), batch.get(0).map(|m| m.seq()));
            assert!(batch.get(batch.len()).is_none());
            got.extend(batch.iter().map(|message| number(&message.to_message())));
            let last = batch.iter().next_back().unwrap().seq();
            assert_eq!(iter.position_of(&topic.name, 0), Some(last + 1));
            if let Some(message) = iter.next_timeout(Duration::from_secs(10)).unwrap() {
                got.push(number(&message));
            }
        }
        assert_eq!(got, range(1, 100));
        assert!(iter.next_batch().unwrap().is_none() && iter.next().is_none());
        assert!(iter.next_timeout(Duration::ZERO).unwrap().is_none());
    });
}

/// Messages share memory with their neighbours, which is not to be overwritten while they live.
#[test]
fn messages_keep_their_contents() {
    within(120, || {
        let server = Server::start();
        for compression in [Compression::None, Compression::Snappy] {
            let mut topic = server.topic(2);
            let payload = |p: u16, n: u64| format!("{p}:{n}:{}", "x".repeat((n * 37 % 1000) as usize)).into_bytes();
            for p in 0..2 {
                let payloads: Vec<_> = (1..=2000).map(|n| payload(p, n)).collect();
                payloads.chunks(23).for_each(|some| topic.publish_bundle(p, &bundle(some, compression)));
            }
            let client = server.client();
            for fetch_size in [1, 5000, 1 << 20] {
                let mut held = Vec::new();
                for (index, message) in client.subscribe(topic.all().fetch_size(fetch_size)).unwrap().enumerate() {
                    let message = message.unwrap();
                    match index % 7 {
                        0 => held.push(message.detach()),
                        1..=3 => held.push(message.clone()),
                        4 => {}
                        _ => held.push(message),
                    }
                }
                assert!(held.len() > 3000);
                for message in &held {
                    assert_eq!(message.payload(), payload(message.partition(), message.seq()));
                    assert_eq!(message.topic(), topic.name);
                    assert_eq!(message.detach(), *message);
                }
                thread::spawn(move || drop(held)).join().unwrap();
            }
        }
    });
}

#[test]
fn unknown_topics_and_partitions_are_errors() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let topic = server.topic(2);
        let nowhere = unique_name();
        for subscription in [Subscription::topic(&*nowhere), topic.all().and_partition(&*nowhere, 0, Start::Latest)] {
            let e = client.subscribe(subscription).unwrap_err();
            assert_eq!(e.to_string(), format!("{}: {nowhere}: no such topic", server.addr()));
            assert!(e.fault() == Some(Fault::UnknownTopic));
        }
        let e = client.subscribe(Subscription::partition(&*topic.name, 2)).unwrap_err();
        assert_eq!(e.to_string(), format!("{}: {}/2: no such partition", server.addr(), topic.name));
        assert!(e.fault() == Some(Fault::UnknownPartition) && e.partition() == Some(2));
        assert_eq!(client.partitions(&topic.name).unwrap().len(), 2);
        assert_eq!(client.subscribe(topic.all()).unwrap().count(), 0);
    });
}

/// Topics can vanish while they are read; the other partitions' messages come first.
#[test]
fn faults_of_a_partition_come_after_the_messages_of_the_others() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("orders", 2);
        broker.append_payloads("orders", 1, &["1", "2"]);
        broker.set_broken("orders", 0, true);
        let mut iter = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
        assert_eq!(number(&iter.next().unwrap().unwrap()), 1);
        assert_eq!(number(&iter.next().unwrap().unwrap()), 2);
        let e = iter.next().unwrap().unwrap_err();
        assert_eq!(e.to_string(), format!("{}: orders/0: the broker has trouble with its files", broker.addr()));
        assert!(iter.next().is_none());
        broker.set_broken("orders", 0, false);
        for fault in [Fault::UnknownTopic, Fault::UnknownPartition, Fault::System] {
            broker.inject(tank_client::broker::BrokerFault::RefuseConsume(fault));
            let mut iter = client.subscribe(Subscription::partition("orders", 1).start(Start::Earliest)).unwrap();
            let e = iter.next().unwrap().unwrap_err();
            assert_eq!((e.fault(), e.topic(), e.partition()), (Some(fault), Some("orders"), Some(1)));
            assert!(iter.next().is_none());
            assert_eq!(
                client.subscribe(Subscription::topic("orders").start(Start::Earliest).limit(2)).unwrap().count(),
                2
            );
        }
    });
}

#[test]
fn subscriptions_that_cannot_work_are_refused() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("a", 2);
        let long = "x".repeat(256);
        let a = || Subscription::partition("a", 0);
        for (subscription, text) in [
            (Subscription::topic(""), "topic name: 0 bytes given, 1 to 255 allowed"),
            (Subscription::topic(&*long), "topic name: 256 bytes given, 1 to 255 allowed"),
            (a().and_topic("", Start::Latest), "topic name: 0 bytes given, 1 to 255 allowed"),
            (a().and_partition("a", 0, Start::Latest), "subscribed to the same partition twice: a/0 and a/0"),
            (a().and_topic("a", Start::Latest), "subscribed to the same partition twice: a and a/0"),
            (
                Subscription::topic("a").and_partition("a", 1, Start::Latest),
                "subscribed to the same partition twice: a and a/1",
            ),
            (Subscription::partition("a", 65_535), "a: partition 65535 given, 0 to 65534 allowed"),
            (a().fetch_size(0), "fetch size: 0 bytes given, 1 to 67108864 allowed"),
            (a().fetch_size((64 << 20) + 1), "fetch size: 67108865 bytes given, 1 to 67108864 allowed"),
            (a().start(Start::At(u64::MAX)), "sequence number: 18446744073709551615 is never assigned"),
            (a().and_partition("a", 1, Start::At(u64::MAX)), "sequence number: 18446744073709551615 is never assigned"),
        ] {
            let e = client.subscribe(subscription).unwrap_err();
            assert!(matches!(e.kind, ErrorKind::Config { .. }), "{e}");
            assert_eq!(e.to_string(), text);
        }
        for name in ["", &long] {
            assert!(matches!(client.partitions(name).unwrap_err().kind, ErrorKind::Config { .. }));
        }
        assert_eq!(broker.stats().all_requests(), 0, "nothing was sent");
        let _ = client.subscribe("a").unwrap();
        let again = Subscription::topic("a");
        let _ = client.subscribe(&again).unwrap();
        let _ = client.subscribe(again).unwrap();
        let e = client.subscribe(Subscription::topic("x".repeat(255))).unwrap_err();
        assert!(e.fault() == Some(Fault::UnknownTopic), "{e}");
    });
}

#[test]
fn the_last_n_messages_are_read() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("t", 2);
        for n in 1..=10 {
            broker.append_payloads("t", 0, &[n.to_string()]);
        }
        let last = |n| client.subscribe(Subscription::topic("t").start(Start::Last(n)).stop_at_end()).unwrap();
        for (n, expected) in [(0, range(11, 10)), (3, range(8, 10)), (10, range(1, 10)), (99, range(1, 10))] {
            assert_eq!(numbers(&mut last(n)), expected, "the last {n}");
        }
        broker.truncate_front("t", 0, 5);
        assert_eq!(numbers(&mut last(99)), range(5, 10));
    });
}

#[test]
fn what_comes_faster_than_it_is_taken_does_not_hold_a_call_beyond_its_time() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("t", 1);
        broker.append_repeated("t", 0, &[&bundle(&["x"; 100], Compression::None)], 10_000);
        let mut iter = client.subscribe(Subscription::topic("t").start(Start::Earliest).stop_at_end()).unwrap();
        let (mut calls, mut total) = (0, 0);
        while !iter.is_finished() {
            let some = iter.next_many(usize::MAX, Duration::ZERO).unwrap().len();
            calls += usize::from(some > 0);
            total += some;
        }
        // The topic holds 10 MB, and a read buffer half of one.
        assert!(total == 1_000_000 && calls >= 5, "{total} messages in {calls} calls");
    });
}

#[test]
fn many_messages_are_taken_at_a_time() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("t", 1);
        for n in 1..=10 {
            broker.append_payloads("t", 0, &[n.to_string()]);
        }
        let mut iter = client.subscribe(Subscription::topic("t").start(Start::Earliest).limit(12)).unwrap();
        assert_eq!((iter.lag_of("t", 0), iter.lag_of("t", 1)), (Some(10), None));
        let mut many = |most, wait| -> Vec<u64> {
            iter.next_many(most, Duration::from_millis(wait)).unwrap().iter().map(number).collect()
        };
        assert_eq!((many(0, 1000), many(4, 60_000)), (vec![], range(1, 4)));
        assert_eq!(many(100, 200), range(5, 10), "those that came in time");
        assert!(many(100, 0).is_empty());
        broker.append_payloads("t", 0, &["11", "12", "13"]);
        assert_eq!(many(100, 60_000), [11, 12], "the limit");
        assert!(many(100, 60_000).is_empty());
        assert_eq!((iter.lag_of("t", 0), iter.is_finished()), (Some(1), true));
        // An error comes after all that came before it.
        let mut iter = client.subscribe(Subscription::topic("t").start(Start::Earliest).fetch_size(1)).unwrap();
        assert_eq!(number(&iter.next().unwrap().unwrap()), 1);
        broker.truncate_front("t", 0, 12);
        let got = iter.next_many(100, Duration::from_secs(60)).unwrap();
        assert!(got.first().is_some_and(|message| message.seq() == 2), "{got:?}");
        let e = iter.next_many(100, Duration::from_secs(60)).unwrap_err();
        assert!(matches!(e.kind, ErrorKind::OutOfRange { .. }), "{e}");
        assert!(iter.next_many(100, Duration::from_secs(60)).unwrap().is_empty() && iter.next().is_none());
    });
}

#[test]
fn one_handle_ends_many_iterations() {
    within(60, || {
        let (broker, client) = embedded();
        broker.create_topic("t", 1);
        let handle = CloseHandle::new();
        let mut workers = Vec::new();
        for _ in 0..5 {
            let iter = client.subscribe(Subscription::topic("t").close_with(&handle)).unwrap();
            workers.push(std::thread::spawn(move || iter.count()));
        }
        assert!(broker.wait_until(Duration::from_secs(20), |stats| stats.waiting == 5));
        handle.close();
        workers.into_iter().for_each(|worker| assert_eq!(worker.join().unwrap(), 0));
        let e = client.subscribe(Subscription::topic("t").close_with(&handle)).map(|iter| iter.is_finished());
        assert!(matches!(e, Ok(true) | Err(Error { kind: ErrorKind::Closed, .. })), "{e:?}");
    });
}

#[test]
fn clients_iterators_and_messages_cross_threads() {
    fn send<T: Send + 'static>() {}
    fn sync<T: Sync>() {}
    send::<Client>();
    sync::<Client>();
    send::<ConsumeIter>();
    sync::<ConsumeIter>();
    send::<CloseHandle>();
    sync::<CloseHandle>();
    send::<Message>();
    sync::<Message>();
    send::<Error>();
    sync::<Error>();
    send::<Subscription>();
    sync::<Subscription>();
    sync::<Batch<'static>>();
    fn fused<T: std::iter::FusedIterator>() {}
    fused::<ConsumeIter>();
}
