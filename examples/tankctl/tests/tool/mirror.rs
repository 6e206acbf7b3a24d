//! Copies.

use std::thread;

use common::rng::Rng;
use common::server::{Server, unique_name};
use common::watch::within;
use rustix::process::Signal;
use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind};
use tank_client::{Client, Message, Record, TopicConfig};

use crate::support::{Running, messages, run_at};

/// A topic with gaps, keys, repeated and decreasing time stamps, in bundles of all sizes.
fn fill(client: &Client, topic: &str, partitions: u16, rounds: usize) {
    let mut rng = Rng::new(5);
    client.create_topic(topic, partitions, &TopicConfig::new()).unwrap();
    let mut last = vec![0; usize::from(partitions)];
    for _ in 0..rounds {
        let id = rng.below(last.len());
        let count = if rng.one_in(5) { rng.between(100, 3000) } else { rng.between(1, 30) };
        let (key, payload) = (rng.bytes(300), rng.bytes(300));
        let mut records = Vec::new();
        for _ in 0..count {
            last[id] += if rng.one_in(10) { rng.between(2, 5000) as u64 } else { 1 };
            let record = Record::new(&payload[rng.below(300)..]).timestamp_ms(rng.below(3) as u64);
            records.push((last[id], if rng.one_in(2) { record.key(&key[rng.between(45, 300)..]) } else { record }));
        }
        client.publish_at(topic, id as u16, &records).unwrap();
    }
}

#[test]
fn a_mirror_has_the_same_messages_also_after_it_was_ended() {
    within(300, || {
        let (from, to) = (Broker::start().unwrap(), Server::start());
        let (topic, source, target) = (unique_name(), from.addr().to_string(), to.client());
        let client = Client::connect(&source).unwrap();
        fill(&client, &topic, 3, 150);
        let expected = messages(&client, &topic);
        let total: usize = expected.iter().map(Vec::len).sum();
        let args = ["mirror", "--batch", "100", "--to", to.addr(), &topic];

        let stored = || match target.partitions(&topic) {
            Ok(infos) => infos.iter().map(|info| info.high_water_mark).sum::<u64>(),
            Err(_) => 0,
        };
        let end: u64 = expected.iter().filter_map(|messages| messages.last()).map(Message::seq).sum();
        let mut ended = 0;
        for (part, signal, code) in [(1, Signal::KILL, -1), (2, Signal::TERM, 143), (3, Signal::KILL, -1)] {
            let mut mirror = Running::at(&source, &args);
            while stored() < end * part / 5 && mirror.child.try_wait().unwrap().is_none() {
                thread::yield_now();
            }
            ended += usize::from(mirror.child.try_wait().unwrap().is_none());
            mirror.signal(signal);
            let (found, _, err) = mirror.end();
            assert!(found == code || found == 0, "{found} {err}");
            assert!(found != 143 || err.contains("interrupted: "), "{err}");
        }
        assert!(ended > 0, "it was faster than this test");
        let (code, _, err) = run_at(&source, &args);
        assert!(code == 0 && err.contains("messages copied and verified, checksum"), "{err}");
        assert!(err.contains(": the last one was compared\n"), "{err}");
        assert!(messages(&target, &topic) == expected);

        // Nothing more to do; then a little.
        let (code, _, err) = run_at(&source, &args);
        assert!(code == 0 && err.contains("partitions, 0 numbers to go\n"), "{err}");
        assert!(err.contains("\n0 messages copied and verified"), "{err}");
        client.publish(&topic, 1, &[Record::new(b"one more").timestamp_ms(1)]).unwrap();
        let (code, _, err) = run_at(&source, &args);
        assert!(code == 0 && err.contains("\n1 message copied and verified"), "{err}");
        assert_eq!(messages(&target, &topic).concat().len(), total + 1);

        // Whoever writes to the destination is found out.
        target.publish(&topic, 0, &[Record::new(b"mine")]).unwrap();
        let (code, _, err) = run_at(&source, &args);
        assert!(code == 1 && err.contains("the destination is ahead of the source"), "{err}");
        assert_eq!(from.killed_by(), None);
    });
}

#[test]
fn a_destination_that_differs_is_left_alone() {
    within(300, || {
        let (from, to) = (Broker::start().unwrap(), Server::start());
        let (topic, source, target) = (unique_name(), from.addr().to_string(), to.client());
        let client = Client::connect(&source).unwrap();
        let publish = |client: &Client, text: &str, count: usize| {
            let records = vec![Record::new(text).timestamp_ms(1); count];
            client.publish(&topic, 0, &records).unwrap();
        };
        client.create_topic(&topic, 1, &TopicConfig::new()).unwrap();
        target.create_topic(&topic, 1, &TopicConfig::new()).unwrap();
        publish(&client, "tea", 9);
        publish(&target, "milk", 5);
        let args = ["mirror", "--to", to.addr(), &topic];
        let (code, _, err) = run_at(&source, &args);
        let told = format!("tankctl: {topic}/0: the destination is not a copy of the source: message 5 differs\n");
        assert_eq!((code, err), (1, told));
        assert_eq!(messages(&target, &topic)[0].len(), 5, "nothing was copied");

        // What the source has no longer cannot be compared, and that is told.
        from.roll_segment(&topic, 0);
        publish(&client, "tea", 3);
        from.truncate_front(&topic, 0, 10);
        let (code, _, err) = run_at(&source, &args);
        assert!(code == 0 && err.contains("not compared, because the source's messages begin with 10"), "{err}");
        assert!(err.contains("are gone at the source") && err.contains("3 messages copied and verified"), "{err}");
        let numbers: Vec<u64> = messages(&target, &topic)[0].iter().map(Message::seq).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 10, 11, 12]);

        let several = to.topic(3).name;
        client.create_topic(&several, 2, &TopicConfig::new()).unwrap();
        let (code, _, err) = run_at(&source, &["mirror", "--to", to.addr(), &several]);
        assert!(code == 1 && err.contains("partitions: 2 at the source, 3 at the destination"), "{err}");
    });
}

#[test]
fn a_destination_that_refuses_is_tried_some_times_with_pauses() {
    within(300, || {
        let (from, to) = (Broker::start().unwrap(), Broker::start().unwrap());
        from.create_topic("orders", 1);
        to.create_topic("orders", 1);
        from.append_payloads("orders", 0, &["tea"; 10]);
        to.inject_times(BrokerFault::LoseAnswer(Kind::ProduceWithSeqnum), 3);
        let args = ["mirror", "--to", &to.addr().to_string(), "orders"];
        let (code, _, err) = run_at(&from.addr().to_string(), &args);
        assert!(code == 0 && err.contains("10 messages copied and verified"), "{err}");
        assert_eq!(to.high_water_mark("orders", 0), 10);

        from.append_payloads("orders", 0, &["tea"; 10]);
        to.forget_requests();
        to.set_broken("orders", 0, true);
        let (code, _, err) = run_at(&from.addr().to_string(), &args);
        assert!(code == 1 && err.lines().last().unwrap().starts_with("tankctl: "), "{err}");
        assert!(to.requests().len() < 100, "{} requests", to.requests().len());
    });
}
