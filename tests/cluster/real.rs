//! Against a real cluster that is brought into trouble meanwhile.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, thread};

use tank_client::{Client, Error, OutOfRange, Record, Start, Subscription};

use crate::common::watch::within;

/// A record's number among those published to its partition, and when it was stored or delivered.
type Moments = HashMap<u16, Vec<(u64, Instant)>>;

/// Publishes to all partitions of `TANK_TOPIC` (default `events`, replicated) and follows them, while `TANK_TROUBLE`, a
/// shell command, is run after three seconds. What was acknowledged is delivered, in order and once; prints for each
/// partition how long nothing was stored, and how long nothing was delivered.
#[test]
#[ignore = "needs a real cluster: TANK_CLUSTER=host:port,... and TANK_TROUBLE=command"]
fn in_trouble() {
    within(300, || {
        let brokers = env::var("TANK_CLUSTER").expect("TANK_CLUSTER");
        let topic = env::var("TANK_TOPIC").unwrap_or("events".into());
        let seconds = env::var("TANK_SECONDS").map_or(40, |text| text.parse().unwrap());
        let client = Client::connect(&brokers).unwrap();
        let subscription = Subscription::topic(&*topic).from(Start::Latest).out_of_range(OutOfRange::Latest);
        let mut iter = client.subscribe(subscription).unwrap();
        let (over, stored) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Moments::new())));
        let ids: Vec<u16> = client.partitions(&topic).unwrap().iter().map(|partition| partition.id).collect();
        let publishers: Vec<_> = ids
            .iter()
            .map(|&id| {
                let (client, topic, over, stored) = (client.clone(), topic.clone(), over.clone(), stored.clone());
                thread::spawn(move || publish(&client, &topic, id, &over, &stored))
            })
            .collect();
        let trouble = thread::spawn(|| {
            thread::sleep(Duration::from_secs(3));
            let now = Instant::now();
            let command = env::var("TANK_TROUBLE").unwrap_or_default();
            assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
            now
        });
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut delivered = Moments::new();
        loop {
            match iter.next_timeout(Duration::from_secs(1)).unwrap() {
                Some(message) => {
                    let number = std::str::from_utf8(message.payload()).unwrap().parse().unwrap();
                    delivered.entry(message.partition()).or_default().push((number, Instant::now()));
                }
                None if over.load(Ordering::SeqCst) && publishers.iter().all(|thread| thread.is_finished()) => break,
                None => {}
            }
            over.fetch_or(Instant::now() >= end, Ordering::SeqCst);
        }
        publishers.into_iter().for_each(|thread| thread.join().unwrap());
        let (trouble, stored) = (trouble.join().unwrap(), stored.lock().unwrap());
        println!("{:?}, lag {}", iter.stats(), iter.lag());
        for id in ids {
            let (stored, delivered) = (&stored[&id], &delivered[&id]);
            let turned = delivered.windows(2).find(|pair| pair[0].0 >= pair[1].0);
            assert!(turned.is_none(), "{id}: {turned:?}");
            for (number, _) in stored {
                assert!(delivered.binary_search_by_key(number, |(number, _)| *number).is_ok(), "{id}: {number} lost");
            }
            let [stored, delivered] = [longest_silence(stored, trouble), longest_silence(delivered, trouble)];
            println!(
                "{id}: nothing stored until {stored:.2?} after the trouble, nothing delivered until {delivered:.2?}"
            );
        }
    });
}

/// Publishes numbers; a record whose fate is unknown is not published again.
fn publish(client: &Client, topic: &str, id: u16, over: &AtomicBool, stored: &Mutex<Moments>) {
    for number in 1u64.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        match client.publish(topic, id, &[Record::new(number.to_string().as_bytes())]) {
            Ok(()) => stored.lock().unwrap().entry(id).or_default().push((number, Instant::now())),
            Err(Error::OutcomeUnknown { .. }) => {}
            Err(e) if e.is_retryable() => {}
            Err(e) => panic!("{e:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// How long after the trouble the longest silence ended.
fn longest_silence(moments: &[(u64, Instant)], trouble: Instant) -> Duration {
    let pairs = moments.windows(2).map(|pair| (pair[1].1 - pair[0].1, pair[1].1));
    let (_, end) = pairs.max().expect("two messages");
    end.saturating_duration_since(trouble)
}
