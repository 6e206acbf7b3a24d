//! What of publishing depends on time: in the simulated world, where a wait takes none and no machine is slow.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::rng::Rng;
use tank_client::broker::{Broker, BrokerFault};
use tank_client::simulation::Simulation;
use tank_client::{Acks, Client, ClientBuilder, Error, ErrorKind, Producer, ProducerBuilder, Record};

use crate::producer::{give_back, impatient, numbers, patient, requests, returned, send, send_all};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A broker with a topic of eight partitions, a client, and a producer that sends only what it is told to.
struct World {
    sim: Simulation,
    broker: Arc<Broker>,
    client: Client,
    producer: Producer,
}

impl World {
    fn new(
        seed: u64,
        settings: impl Fn(ClientBuilder) -> ClientBuilder,
        change: impl Fn(ProducerBuilder) -> ProducerBuilder,
    ) -> World {
        let sim = Simulation::new(seed);
        let broker = sim.broker();
        broker.create_topic("orders", 8);
        let client = settings(sim.client()).connect(broker.brokers()).unwrap();
        let producer = change(client.producer().max_age(3600 * SECOND)).build().unwrap();
        World { sim, broker, client, producer }
    }

    fn stored(&self, partition: u16) -> Vec<u64> {
        numbers(&self.sim.client().connect(self.broker.brokers()).unwrap(), "orders", partition)
    }

    /// Stops the broker, and waits until the client can know it.
    fn stop(&self) {
        self.broker.stop();
        self.sim.sleep(10 * MS);
    }

    /// What `act` returns, and how much virtual time it took.
    fn timed<T>(&mut self, act: impl FnOnce(&mut Producer) -> T) -> (T, Duration) {
        let began = self.sim.now();
        let value = act(&mut self.producer);
        (value, self.sim.now() - began)
    }
}

/// Buffers count whole, so those that are used again must leave room for all partitions.
#[test]
fn buffers_of_large_bundles_do_not_use_up_a_small_limit() {
    let mut world = World::new(12, patient, |settings| settings.max_pending_bytes(1 << 20));
    let large = [b'x'; 50_000];
    for n in 0..100 {
        world.producer.send_to("orders", n % 4, Record::new(&large)).unwrap();
    }
    world.producer.flush().unwrap();
    let before = requests(&world.broker);
    for n in 0..800 {
        send(&mut world.producer, n % 8, 1).unwrap();
    }
    world.sim.sleep(SECOND);
    assert_eq!(requests(&world.broker), before, "800 small records fit");
}

#[test]
fn records_that_are_old_enough_go_with_the_next_call() {
    let mut world = World::new(1, impatient, |settings| settings.max_age(600 * MS));
    let sim = world.sim.clone();
    send(&mut world.producer, 0, 1).unwrap();
    sim.sleep(400 * MS);
    send(&mut world.producer, 1, 1).unwrap();
    sim.sleep(300 * MS);
    assert_eq!(requests(&world.broker), 0, "not without a call");
    send(&mut world.producer, 1, 2).unwrap();
    sim.sleep(100 * MS);
    assert_eq!((requests(&world.broker), world.broker.high_water_mark("orders", 1)), (1, 0), "that is not due");
    sim.sleep(600 * MS);
    world.producer.poll().unwrap();
    sim.sleep(100 * MS);
    assert_eq!(requests(&world.broker), 2);
    world.producer.flush().unwrap();
    assert_eq!((world.stored(0), world.stored(1)), (vec![1], vec![1, 2]));
}

#[test]
fn several_requests_are_on_their_way() {
    for (window, idempotent, at_a_time) in [(1, false, 1), (5, false, 5), (5, true, 1)] {
        let change = |settings: ProducerBuilder| {
            let settings = settings.window(window).max_records(1);
            if idempotent { settings.idempotent() } else { settings }
        };
        let World { sim, broker, client, mut producer } =
            World::new(2, |client| impatient(client).io_timeout(10 * SECOND), change);
        send_all(&mut producer, 0, 1..=1);
        producer.flush().unwrap();
        broker.inject(BrokerFault::StallAfter(0));
        let task = sim.spawn("producer", move || {
            send_all(&mut producer, 0, 2..=20);
            producer.flush().unwrap();
        });
        sim.sleep(400 * MS);
        assert_eq!(requests(&broker) - 1, at_a_time, "as long as no answer comes");
        broker.release();
        task.join();
        assert_eq!(numbers(&client, "orders", 0), (1..=20).collect::<Vec<_>>());
    }
}

#[test]
fn a_broker_that_is_gone_is_waited_for() {
    let mut world = World::new(3, patient, |settings| settings.max_records(10));
    world.stop();
    let back = world.broker.clone();
    world.sim.after(SECOND, move || back.restart().unwrap());
    send_all(&mut world.producer, 0, 1..=100);
    world.producer.flush().unwrap();
    assert_eq!(world.stored(0), (1..=100).collect::<Vec<_>>());

    let mut world = World::new(4, impatient, |settings| settings.max_records(10));
    world.stop();
    send_all(&mut world.producer, 0, 1..=15);
    let (done, took) = world.timed(Producer::flush);
    assert!(matches!(done, Err(Error { kind: ErrorKind::Undelivered { records: 15, .. }, .. })), "{done:?}");
    assert!(took >= 250 * MS && took < 400 * MS, "{took:?}");
    let failures = world.producer.take_failures();
    assert!(failures[0].error().kind == ErrorKind::Connect, "{failures:?}");
    assert!(failures[1].error().kind == ErrorKind::NotSent, "{failures:?}");
    assert_eq!(returned(&failures), (1..=15).collect::<Vec<_>>());
}

#[test]
fn poll_never_waits_and_a_full_partition_holds_up_no_other() {
    let mut world = World::new(
        5,
        |client| impatient(client).retry_timeout(400 * MS).io_timeout(30 * SECOND),
        |settings| settings.window(1).max_records(1).max_pending_bytes(1 << 20),
    );
    send_all(&mut world.producer, 0, 1..=1);
    world.producer.flush().unwrap();
    world.broker.pause();
    let large = [b'x'; 50 << 10];
    let give = |producer: &mut Producer, id| producer.send_to("orders", id, Record::new(&large));
    let (_, took) = world.timed(|producer| {
        for _ in 0..5 {
            give(producer, 0).unwrap();
            producer.poll().unwrap();
        }
    });
    assert_eq!(took, Duration::ZERO);
    // Its quarter is full. As long as there is no other partition, room is waited for.
    let (done, took) = world.timed(|producer| give(producer, 0));
    assert!(matches!(done, Err(Error { kind: ErrorKind::Full { limit: 262_144, .. }, .. })), "{done:?}");
    assert!(took >= 400 * MS && took < 500 * MS, "{took:?}");
    // After that one without progress makes nobody wait.
    let (_, took) = world.timed(|producer| (0..5).for_each(|_| give(producer, 1).unwrap()));
    assert_eq!(took, Duration::ZERO);
    world.sim.sleep(500 * MS);
    let (_, took) = world.timed(|producer| {
        (0..5).for_each(|_| drop(give(producer, 0).unwrap_err()));
        (0..5).for_each(|_| give(producer, 2).unwrap());
        producer.poll().unwrap();
    });
    assert_eq!(took, Duration::ZERO);
    world.broker.resume();
    world.producer.flush().unwrap();
    assert_eq!((world.producer.stored(), world.producer.pending()), (16, 0));
    // A record above the limit goes alone.
    let larger = vec![b'x'; 3 << 20];
    (0..2).for_each(|_| world.producer.send_to("orders", 3, Record::new(&larger)).unwrap());
    world.producer.flush().unwrap();
    assert_eq!(world.broker.high_water_mark("orders", 3), 2);
    let least = "producer: pending bytes: 1048575 given, at least 1048576 needed";
    assert_eq!(world.client.producer().max_pending_bytes((1 << 20) - 1).build().unwrap_err().to_string(), least);
}

/// Numbers through a producer while the broker is restarted all the time.
fn through_restarts(idempotent: bool) {
    const COUNT: u64 = 200_000;
    let change = |settings: ProducerBuilder| {
        let settings = settings.max_records(500).max_age(5 * MS);
        if idempotent { settings.idempotent() } else { settings }
    };
    let World { sim, broker, client, mut producer } = World::new(6, patient, change);
    let done = Arc::new(AtomicBool::new(false));
    let trouble = sim.spawn("trouble", {
        let (sim, broker, done) = (sim.clone(), broker.clone(), done.clone());
        move || {
            let mut rng = Rng::new(12);
            while !done.load(Ordering::SeqCst) {
                sim.sleep(20 * MS + rng.below(20) as u32 * MS);
                match rng.below(4) {
                    0 => broker.disconnect_all(),
                    1 => {
                        broker.stop();
                        sim.sleep(rng.below(20) as u32 * MS);
                        broker.restart().unwrap();
                    }
                    _ => broker.restart().unwrap(),
                }
            }
        }
    });
    let mut rng = Rng::new(11);
    let mut sent = vec![Vec::new(); 8];
    for number in 0..COUNT {
        let id = rng.below(8);
        while let Err(e) = send(&mut producer, id as u16, number) {
            assert!(!idempotent, "{e}");
            give_back(&mut producer);
        }
        sent[id].push(number);
        // The program's own time, in which the broker goes on.
        if rng.one_in(100) {
            sim.sleep(MS);
        }
        if rng.one_in(20_000) {
            while producer.flush().is_err() {
                give_back(&mut producer);
            }
        }
    }
    while let Err(e) = producer.flush() {
        assert!(!idempotent, "{e}");
        give_back(&mut producer);
    }
    done.store(true, Ordering::SeqCst);
    trouble.join();
    assert_eq!(broker.killed_by(), None);
    for (id, sent) in (0..).zip(&sent) {
        let mut back = numbers(&client, "orders", id);
        if !idempotent {
            let mut seen = HashSet::new();
            back.retain(|&number| seen.insert(number));
        }
        assert!(&back == sent, "orders/{id}: {} of {}", back.len(), sent.len());
    }
    assert!(broker.stats().accepted > 30, "{:?}", broker.stats());
}

#[test]
fn restarts_lose_nothing_that_was_acknowledged() {
    through_restarts(false);
}

#[test]
fn restarts_do_not_hurt_a_numbering_writer() {
    through_restarts(true);
}

#[test]
fn a_publish_waits_for_a_broker_that_comes_back() {
    let world = World::new(7, |client| client.retry_timeout(30 * SECOND), |settings| settings);
    world.stop();
    let World { sim, broker, client, .. } = world;
    let back = broker.clone();
    sim.after(SECOND, move || back.restart().unwrap());
    client.publish("orders", 0, &[Record::new("x")]).unwrap();
    assert!(sim.now() >= SECOND && sim.now() < 5 * SECOND, "{:?}", sim.now());
    assert_eq!(broker.high_water_mark("orders", 0), 1);
}

#[test]
fn a_leader_that_dies_is_waited_out() {
    for in_order in [false, true] {
        let sim = Simulation::new(8);
        let cluster = sim.cluster(3);
        cluster.create_topic("orders", 3);
        let client = sim.client().retry_timeout(60 * SECOND).connect(cluster.brokers()).unwrap();
        let record = [Record::new("x")];
        for id in 0..3 {
            client.publish("orders", id, &record).unwrap();
        }
        let leader = cluster.leader("orders", 1).unwrap();
        match in_order {
            true => cluster.stop_in_order(leader),
            false => cluster.node(leader).stop(),
        }
        sim.sleep(10 * MS);
        let began = sim.now();
        client.publish("orders", 1, &record).unwrap();
        let took = sim.now() - began;
        assert!(took >= 250 * MS && took < 60 * SECOND, "{took:?}");
        assert_ne!(cluster.leader("orders", 1), Some(leader));
        assert_eq!(cluster.killed_by(), None);
    }
}

#[test]
fn a_publish_waits_for_replicas_that_come_back() {
    let sim = Simulation::new(9);
    let cluster = sim.cluster(3);
    cluster.create_topic("orders", 1);
    cluster.set_in_sync("orders", 0, &[cluster.leader("orders", 0).unwrap()]);
    let client = sim.client().acks(Acks::Peers(2)).connect(cluster.brokers()).unwrap();
    client.publish("orders", 0, &[Record::new("x")]).unwrap();
    assert!(sim.now() > 100 * MS && sim.now() < 10 * SECOND, "{:?}", sim.now());
}
