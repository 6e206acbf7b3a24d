//! How long a fail-over takes, with a client's usual settings.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use tank_client::Client;
use tank_client::broker::Broker;

use crate::support::{addrs, all, append, take};
use common::watch::{SOON, within};

/// Kills a leader, names its successor after `until_named`, and appends a message; how long after the kill each was.
fn fail_over(until_named: Duration) -> (Duration, Duration) {
    let cluster = Broker::cluster(3).unwrap();
    cluster.create_topic("orders", 3);
    let client = Client::connect(addrs(&cluster)).unwrap();
    let mut iter = client.subscribe(all()).unwrap();
    (0..3).for_each(|p| append(&cluster, p, 1, 1));
    take(&mut iter, 3);
    let (delivered, first) = channel();
    let reader = thread::spawn(move || {
        let message = iter.next_timeout(SOON * 2).unwrap().expect("a message");
        delivered.send((message.partition(), Instant::now())).unwrap();
        iter
    });
    assert!(cluster.node(1).wait_until(SOON, |stats| stats.waiting > 0));
    let killed = Instant::now();
    cluster.node(1).stop();
    thread::sleep(until_named);
    cluster.fail_over(1);
    let named = killed.elapsed();
    append(&cluster, 1, 2, 2);
    let (partition, at) = first.recv().unwrap();
    assert_eq!(partition, 1);
    assert_eq!(reader.join().unwrap().stats().messages, 4);
    assert_eq!(cluster.killed_by(), None);
    (named, at - killed)
}

fn table(times: &[u64]) {
    for &time in times {
        let (named, delivered) = fail_over(Duration::from_millis(time));
        let later = delivered - named;
        println!("successor named after {named:.3?}, its first message after {delivered:.3?}: {later:.3?} later");
        // The longest pause, and time for a busy machine.
        assert!(later < Duration::from_secs(3), "{later:?}");
    }
}

#[test]
fn a_successor_is_found_soon() {
    within(60, || table(&[0, 100, 1000]));
}

/// As long as real clusters need to name one.
#[test]
#[ignore = "takes two minutes"]
fn a_successor_is_found_soon_after_a_long_time() {
    within(300, || table(&[2000, 5000, 10_000, 16_000, 18_000, 20_000, 23_000]));
}
