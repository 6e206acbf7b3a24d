//! Against a real cluster that is brought into trouble meanwhile.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, thread};

use tank_client::{Client, Error, ErrorKind, Message, OutOfRange, Record, Start, Subscription};

use common::watch::{SOON, within};

/// A record's number among those published to its partition, and when it was stored or delivered.
type Moments = HashMap<u16, Vec<(u64, Instant)>>;

fn brokers_and_topic() -> (String, String) {
    (env::var("TANK_CLUSTER").expect("TANK_CLUSTER"), env::var("TANK_TOPIC").unwrap_or("events".into()))
}

fn make_trouble() -> Instant {
    let now = Instant::now();
    let command = env::var("TANK_TROUBLE").unwrap_or_default();
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    now
}

/// When all partitions had leaders that answer, and when one of them had not, in turn.
fn watch(brokers: &str, topic: &str, over: &AtomicBool) -> Vec<(bool, Instant)> {
    let soon = Duration::from_millis(500);
    let settings = Client::builder().connect_timeout(soon).io_timeout(soon).retry_timeout(Duration::ZERO);
    let client = settings.connect(brokers).unwrap();
    let mut seen: Vec<(bool, Instant)> = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let is_led = client.partitions(topic).is_ok();
        if seen.last().is_none_or(|(before, _)| *before != is_led) {
            seen.push((is_led, Instant::now()));
        }
        thread::sleep(Duration::from_millis(10));
    }
    seen
}

/// Publishes to all partitions of `TANK_TOPIC` (default `events`, replicated) and follows them, while `TANK_TROUBLE`, a
/// shell command, is run after three seconds. What was acknowledged is delivered, in order and once; prints for each
/// partition how long nothing was stored, and how long nothing was delivered, both also as multiples of the time until all
/// partitions were led again.
#[test]
#[ignore = "needs a real cluster: TANK_CLUSTER=host:port,... and TANK_TROUBLE=command"]
fn a_real_cluster_in_trouble_loses_nothing_it_confirmed() {
    within(300, || {
        let (brokers, topic) = brokers_and_topic();
        let seconds = env::var("TANK_SECONDS").map_or(40, |text| text.parse().unwrap());
        let client = Client::connect(&brokers).unwrap();
        let subscription = Subscription::topic(&*topic).start(Start::Latest).out_of_range(OutOfRange::Latest);
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
            make_trouble()
        });
        let (watched, until) = (topic.clone(), over.clone());
        let watcher = thread::spawn(move || watch(&brokers, &watched, &until));
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
        let seen = watcher.join().unwrap();
        for (is_led, at) in seen.iter().filter(|(_, at)| *at > trouble) {
            println!("all partitions led {:.2?} after the trouble: {is_led}", *at - trouble);
        }
        let led = seen.iter().rfind(|(is_led, at)| *is_led && *at > trouble).map(|(_, at)| *at - trouble);
        for id in ids {
            let (stored, delivered) = (&stored[&id], &delivered[&id]);
            let turned = delivered.windows(2).find(|pair| pair[0].0 >= pair[1].0);
            assert!(turned.is_none(), "{id}: {turned:?}");
            for (number, _) in stored {
                assert!(delivered.binary_search_by_key(number, |(number, _)| *number).is_ok(), "{id}: {number} lost");
            }
            let [stored, delivered] = [longest_silence(stored, trouble), longest_silence(delivered, trouble)];
            let ratio = |time: Duration| led.map_or(f64::NAN, |led| time.as_secs_f64() / led.as_secs_f64());
            println!(
                "{id}: nothing stored until {stored:.2?} after the trouble ({:.2}), nothing delivered until {delivered:.2?} ({:.2})",
                ratio(stored),
                ratio(delivered)
            );
        }
    });
}

/// `TANK_TROUBLE` comes first: whatever it is, subscribing to the ends of all partitions takes no longer than connecting
/// may, those that are led are read meanwhile, and all of them in the end.
#[test]
#[ignore = "needs a real cluster: TANK_CLUSTER=host:port,... and TANK_TROUBLE=command"]
fn a_subscription_begins_while_a_real_cluster_is_in_trouble() {
    within(300, || {
        let (brokers, topic) = brokers_and_topic();
        let budget = Duration::from_secs(2);
        let client = Client::builder().connect_timeout(budget).connect(&brokers).unwrap();
        let marks: HashMap<_, _> =
            client.partitions(&topic).unwrap().into_iter().map(|p| (p.id, p.high_water_mark)).collect();
        let trouble = make_trouble();
        let begun = Instant::now();
        let iter = client.subscribe(Subscription::topic(&*topic).max_wait(budget));
        let took = begun.elapsed();
        let mut iter = iter.unwrap();
        let known = iter.positions().iter().count();
        println!("subscribed within {took:.2?}, to {known} partitions of {}", marks.len());
        assert!(took < 2 * budget, "{took:?}");
        let end = trouble + Duration::from_secs(60);
        while iter.positions().iter().count() < marks.len() {
            assert!(Instant::now() < end, "{:?}", iter.positions());
            assert!(iter.next_timeout(Duration::from_millis(50)).unwrap().is_none());
        }
        println!("all of them {:.2?} after the trouble, {:?}", trouble.elapsed(), iter.stats());
        for position in &iter.positions() {
            assert_eq!(position.seq, marks[&position.partition] + 1, "{position:?}");
        }
        for &id in marks.keys() {
            client.publish(&topic, id, &[Record::new(b"1")]).unwrap();
        }
        let mut found: Vec<_> = (0..marks.len()).map(|_| iter.next_timeout(SOON).unwrap().unwrap()).collect();
        found.sort_by_key(Message::partition);
        assert!(found.iter().all(|message| message.seq() == marks[&message.partition()] + 1), "{found:?}");
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
            Err(Error { kind: ErrorKind::OutcomeUnknown, .. }) => {}
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
