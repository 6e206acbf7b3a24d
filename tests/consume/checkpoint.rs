//! Resuming: from where a checkpoint says, and what if that is not there any more.

use std::path::PathBuf;

use tank_client::broker::Broker;
use tank_client::{Checkpoint, Client, ErrorKind, Message, OutOfRange, Positions, Result, Start, Subscription};

fn client(broker: &Broker) -> Client {
    Client::connect(broker.addr()).unwrap()
}

fn file(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("checkpoints");
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let _ = std::fs::remove_file(file.with_extension("prev"));
    file
}

/// A checkpoint of these next numbers, read back from its file.
fn checkpoint(name: &str, list: &[(&str, u16, u64)]) -> Checkpoint {
    let file = file(name);
    let mut positions = Positions::default();
    list.iter().for_each(|&(topic, partition, seq)| positions.set(topic, partition, seq));
    Checkpoint::open(&file).unwrap().save(&positions).unwrap();
    Checkpoint::open(&file).unwrap()
}

fn payloads(messages: impl Iterator<Item = Result<Message>>) -> Vec<String> {
    messages.map(|message| String::from_utf8_lossy(message.unwrap().payload()).into_owned()).collect()
}

fn all(topic: &str) -> Subscription {
    Subscription::topic(topic).start(Start::Earliest).stop_at_end()
}

#[test]
fn a_checkpoint_overrides_the_start_of_the_partitions_it_has() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 3);
    for partition in 0..3 {
        let payloads: Vec<_> = (1..=3).map(|n| format!("{partition}-{n}")).collect();
        broker.append_payloads("orders", partition, &payloads);
    }
    let known = checkpoint("overrides", &[("orders", 0, 3), ("orders", 2, 4), ("other", 1, 99)]);
    let mut iter = client(&broker).subscribe(all("orders").resume(known.positions())).unwrap();
    assert_eq!(iter.position_of("orders", 2), Some(4));
    let mut found = payloads(&mut iter);
    found.sort();
    assert_eq!(found, ["0-3", "1-1", "1-2", "1-3"]);

    let one = Subscription::partition("orders", 0).start(Start::Latest).stop_at_end();
    assert_eq!(payloads(client(&broker).subscribe(one.resume(known.positions())).unwrap()), ["0-3"]);
    assert!(iter.gaps().is_empty());
}

#[test]
fn a_position_that_retention_took_is_a_gap() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    for payload in ["a", "b", "c", "d"] {
        broker.append_payloads("orders", 0, &[payload]);
        broker.roll_segment("orders", 0);
    }
    broker.truncate_front("orders", 0, 3);
    let known = checkpoint("retention", &[("orders", 0, 2)]);
    let e = client(&broker).subscribe(all("orders").resume(known.positions())).unwrap().next().unwrap().unwrap_err();
    assert!(
        matches!(e.kind, ErrorKind::OutOfRange { requested: 2, first_available: 3, high_water_mark: 4, .. }),
        "{e}"
    );
    let what = all("orders").resume(known.positions()).out_of_range(OutOfRange::Earliest).beyond_end(OutOfRange::Fail);
    let mut iter = client(&broker).subscribe(what).unwrap();
    assert_eq!(payloads(&mut iter), ["c", "d"]);
    let gaps: Vec<_> = iter.gaps().iter().map(|gap| (gap.partition, gap.first, gap.last)).collect();
    assert_eq!(gaps, [(0, 2, 2)]);
}

#[test]
fn a_position_beyond_the_end_means_another_log() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    broker.append_payloads("orders", 0, &["a", "b"]);
    // Just behind the last message is no trouble.
    let end = checkpoint("end", &[("orders", 0, 3)]);
    assert!(payloads(client(&broker).subscribe(all("orders").resume(end.positions())).unwrap()).is_empty());

    for messages in [2, 0] {
        if messages == 0 {
            broker.clear("orders", 0);
        }
        let beyond = checkpoint("beyond", &[("orders", 0, 4)]);
        let resumed = all("orders").out_of_range(OutOfRange::Earliest).resume(beyond.positions());
        let mut iter = client(&broker).subscribe(resumed.clone()).unwrap();
        let e = iter.next().unwrap().unwrap_err();
        assert!(
            matches!(e.kind, ErrorKind::OutOfRange { requested: 4, high_water_mark, .. } if high_water_mark == messages),
            "{e}"
        );
        let text = format!("{}: orders/0: sequence number 4 is beyond the end, high-water mark", broker.addr());
        assert!(e.to_string().starts_with(&text), "{e}");
        assert!(iter.next().is_none() && iter.is_finished());

        let from_the_start = client(&broker).subscribe(resumed.clone().beyond_end(OutOfRange::Earliest)).unwrap();
        assert_eq!(payloads(from_the_start).len() as u64, messages);
        let mut late = client(&broker).subscribe(resumed.beyond_end(OutOfRange::Latest)).unwrap();
        assert!(payloads(&mut late).is_empty());
        assert_eq!(late.position_of("orders", 0), Some(messages + 1));
    }
}

#[test]
fn what_was_not_begun_is_resumed_as_not_begun() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let path = file("not-begun");
    let mut saved = Checkpoint::open(&path).unwrap();
    let client = client(&broker);
    saved.save(&client.subscribe(all("orders")).unwrap().positions()).unwrap();
    broker.append_payloads("orders", 0, &["a"]);
    let again = Checkpoint::open(&path).unwrap();
    assert_eq!(
        payloads(client.subscribe(Subscription::topic("orders").stop_at_end().resume(again.positions())).unwrap()),
        ["a"]
    );
}
