//! Everything at once: nodes that die, hang and come back, leaders that move, connections that break, while records are
//! published and followed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tank_client::broker::{Broker, BrokerFault, Cluster, RequestKind as Kind};
use tank_client::{Client, Fault, Producer, Record, Start, Subscription};

use crate::support::{addrs, quick};
use common::rng::{Rng, seeded};
use common::watch::within;

const PARTITIONS: u16 = 12;
const PUBLISHERS: u16 = 3;
const FOLLOWERS: u64 = 2;

#[test]
fn nothing_is_lost_or_delivered_twice() {
    within(240, || seeded(1, |rng| storm(rng, 50)));
}

#[test]
#[ignore = "takes ten minutes"]
fn nothing_is_lost_or_delivered_twice_for_long() {
    within(3600, || seeded(20, |rng| storm(rng, 400)));
}

/// What all threads share.
struct Sea {
    cluster: Cluster,
    /// Acknowledged numbers of each partition.
    stored: Vec<AtomicU64>,
    /// Nothing more is published.
    over: AtomicBool,
}

fn storm(rng: &mut Rng, troubles: usize) {
    let cluster = Broker::cluster(3).unwrap();
    cluster.create_topic("orders", PARTITIONS);
    let stored = (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect();
    let sea = Arc::new(Sea { cluster, stored, over: AtomicBool::new(false) });
    let calm = Arc::new(AtomicBool::new(false));
    let publisher = |first| {
        let (sea, mut rng, calm) = (sea.clone(), Rng::new(rng.next_u64()), calm.clone());
        thread::spawn(move || publish(&sea, &mut rng, first, &calm))
    };
    let publishers: Vec<_> = (0..PUBLISHERS).map(publisher).collect();
    let follower = |_| {
        let (sea, mut rng) = (sea.clone(), Rng::new(rng.next_u64()));
        thread::spawn(move || follow(&sea, &mut rng))
    };
    let followers: Vec<_> = (0..FOLLOWERS).map(follower).collect();
    weather(&sea.cluster, rng, troubles);
    calm.store(true, Ordering::SeqCst);
    publishers.into_iter().for_each(|thread| thread.join().unwrap());
    sea.over.store(true, Ordering::SeqCst);
    followers.into_iter().for_each(|thread| thread.join().unwrap());
    for (partition, stored) in (0..).zip(&sea.stored) {
        assert_eq!(sea.cluster.node(0).high_water_mark("orders", partition), stored.load(Ordering::SeqCst));
    }
    let total: u64 = sea.stored.iter().map(|stored| stored.load(Ordering::SeqCst)).sum();
    println!("{total} records");
    assert!(total > 100, "{total} records are no test");
    assert_eq!(sea.cluster.killed_by(), None);
}

fn client(cluster: &Cluster) -> Client {
    let soon = Duration::from_millis(500);
    let builder = quick().connect_timeout(soon).io_timeout(soon).ack_timeout(soon / 2);
    builder.retry_timeout(Duration::from_secs(60)).connect(addrs(cluster)).unwrap()
}

/// Publishes to every third partition, each record under the number it will have, until all is calm; then flushes.
///
/// The numbers come from the producer alone: that a record has the one it expects shows that none was stored twice.
fn publish(sea: &Sea, rng: &mut Rng, first: u16, calm: &AtomicBool) {
    let mut producer = client(&sea.cluster).producer().idempotent().max_records(16).build().unwrap();
    let mut given = vec![0; usize::from(PARTITIONS)];
    while !calm.load(Ordering::SeqCst) {
        let partition = first + PUBLISHERS * rng.below(usize::from(PARTITIONS / PUBLISHERS)) as u16;
        for _ in 0..rng.between(1, 20) {
            let given = &mut given[usize::from(partition)];
            *given += 1;
            let payload = format!("{partition}:{given}");
            producer.send_to("orders", partition, Record::new(payload.as_bytes())).unwrap();
        }
        match rng.below(3) {
            0 => producer.poll().unwrap(),
            1 => acknowledge(sea, &mut producer, &given),
            _ => {}
        }
    }
    acknowledge(sea, &mut producer, &given);
}

/// Waits until all that was given is stored, which is what the producer promises then.
fn acknowledge(sea: &Sea, producer: &mut Producer, given: &[u64]) {
    producer.flush().unwrap_or_else(|e| panic!("{e:?}: {:?}", producer.take_failures()));
    assert_eq!((producer.stored(), producer.pending()), (given.iter().sum(), 0));
    for (stored, &given) in sea.stored.iter().zip(given) {
        stored.fetch_max(given, Ordering::SeqCst);
    }
}

/// Reads every partition to its last record, leaving and resuming by position now and then.
fn follow(sea: &Sea, rng: &mut Rng) {
    let client = client(&sea.cluster);
    let mut next = vec![1; usize::from(PARTITIONS)];
    let is_through = |next: &[u64]| {
        sea.over.load(Ordering::SeqCst)
            && next.iter().zip(&sea.stored).all(|(&next, stored)| next > stored.load(Ordering::SeqCst))
    };
    while !is_through(&next) {
        let at = |partition: u16| Start::At(next[usize::from(partition)]);
        let one = Subscription::partition("orders", 0).start(at(0));
        let subscription = (1..PARTITIONS).fold(one, |all, p| all.and_partition("orders", p, at(p)));
        let mut iter = match client.subscribe(subscription.max_wait(Duration::from_millis(200))) {
            Ok(iter) => iter,
            Err(e) if e.is_retryable() => continue,
            Err(e) => panic!("{e:?}"),
        };
        let leave = rng.between(1, 2000);
        for _ in 0..leave {
            let found = match iter.next_timeout(Duration::from_millis(100)) {
                Ok(found) => found,
                // Two losses by chance look like it.
                Err(e) if matches!(e.fault(), Some(Fault::Deadly { .. })) => break,
                Err(e) => panic!("{e:?}"),
            };
            if let Some(message) = found {
                let next = &mut next[usize::from(message.partition())];
                assert_eq!(
                    (message.seq(), message.payload()),
                    (*next, format!("{}:{next}", message.partition()).as_bytes())
                );
                *next += 1;
            } else if is_through(&next) {
                break;
            }
        }
        for (partition, next) in (0..).zip(&mut next) {
            assert_eq!(iter.position_of("orders", partition), Some(*next));
        }
    }
}

/// Brings one trouble after the other over the cluster, and ends with none.
fn weather(cluster: &Cluster, rng: &mut Rng, troubles: usize) {
    let mut down: Option<(usize, bool)> = None;
    for _ in 0..troubles {
        // The next trouble comes after some more requests, or after a while if a node gets none.
        let (node, more) = (rng.below(3), rng.between(1, 500) as u64);
        let asked = cluster.node(node).stats().all_requests();
        cluster.node(node).wait_until(Duration::from_millis(75), |stats| stats.all_requests() >= asked + more);
        match down {
            Some((gone, noticed)) => match rng.below(4) {
                0 if !noticed => {
                    cluster.fail_over(gone);
                    down = Some((gone, true));
                }
                1 => {
                    revive(cluster, gone);
                    down = None;
                }
                _ => {}
            },
            None => match rng.below(10) {
                0 | 1 => {
                    cluster.node(node).stop();
                    down = Some((node, false));
                }
                2 => {
                    cluster.stop_in_order(node);
                    down = Some((node, false));
                }
                3 => {
                    cluster.node(node).pause();
                    down = Some((node, false));
                }
                4 => cluster.node(node).disconnect_all(),
                5 => cluster.node(node).inject(BrokerFault::ResetAfter(rng.below(3000) as u64)),
                6 => cluster.node(node).inject(BrokerFault::CutAfter(rng.below(3000) as u64)),
                7 => cluster.node(node).inject(BrokerFault::LoseAnswer(Kind::Produce)),
                8 => cluster.set_leader("orders", rng.below(usize::from(PARTITIONS)) as u16, None),
                _ => (0..PARTITIONS).for_each(|p| {
                    if rng.one_in(3) {
                        cluster.set_leader("orders", p, Some(rng.below(3)));
                    }
                }),
            },
        }
    }
    if let Some((gone, _)) = down {
        revive(cluster, gone);
    }
    cluster.nodes().iter().for_each(Broker::clear_faults);
    (0..PARTITIONS).for_each(|p| cluster.set_leader("orders", p, Some(rng.below(3))));
}

/// Brings a node back, and gives partitions that lost their leaders new ones.
fn revive(cluster: &Cluster, node: usize) {
    cluster.node(node).resume();
    cluster.node(node).restart().unwrap();
    for partition in 0..PARTITIONS {
        if cluster.leader("orders", partition).is_none() {
            cluster.set_leader("orders", partition, Some(node));
        }
    }
}
