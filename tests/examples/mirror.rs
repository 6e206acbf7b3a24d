//! Copies.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use tank_client::broker::Broker;
use tank_client::{Client, Message, Record, TopicConfig};

use crate::shared::messages;
use common::example::{example, run};
use common::rng::Rng;
use common::server::{Server, unique_name};
use common::watch::within;

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
fn a_mirror_has_the_same_messages_also_after_it_was_killed() {
    within(300, || {
        let (from, to) = (Broker::start().unwrap(), Server::start());
        let (topic, source, target) = (unique_name(), from.addr().to_string(), to.client());
        let client = Client::connect(&source).unwrap();
        fill(&client, &topic, 3, 150);
        let expected = messages(&client, &topic);
        let total: usize = expected.iter().map(Vec::len).sum();
        let args = ["--batch", "100", &source, to.addr(), &topic];

        let stored = || match target.partitions(&topic) {
            Ok(infos) => infos.iter().map(|info| info.high_water_mark).sum::<u64>(),
            Err(_) => 0,
        };
        let end: u64 = expected.iter().filter_map(|messages| messages.last()).map(Message::seq).sum();
        let mut kills = 0;
        for part in 1..=3 {
            let mut mirror = example("mirror").args(args).stderr(Stdio::null()).spawn().unwrap();
            while stored() < end * part / 5 && mirror.try_wait().unwrap().is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            kills += usize::from(mirror.try_wait().unwrap().is_none());
            mirror.kill().unwrap();
            mirror.wait().unwrap();
        }
        assert!(kills > 0, "it was faster than this test");
        let (code, _, err) = run("mirror", &args);
        assert!(code == 0 && err.contains("messages copied and verified, checksum"), "{err}");
        assert!(messages(&target, &topic) == expected);

        // Nothing more to do; then a little.
        let (code, _, err) = run("mirror", &args);
        assert!(code == 0 && err.contains("\n0 messages copied and verified"), "{err}");
        client.publish(&topic, 1, &[Record::new(b"one more").timestamp_ms(1)]).unwrap();
        let (code, _, err) = run("mirror", &args);
        assert!(code == 0 && err.contains("\n1 messages copied and verified"), "{err}");
        assert_eq!(messages(&target, &topic).concat().len(), total + 1);

        // Whoever writes to the destination is found out.
        target.publish(&topic, 0, &[Record::new(b"mine")]).unwrap();
        let (code, _, err) = run("mirror", &args);
        assert!(code == 1 && err.contains("the destination is ahead of the source"), "{err}");
        assert_eq!(from.killed_by(), None);
    });
}
