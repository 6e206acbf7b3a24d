//! Trouble of one kind each, and what a client makes of it.

use std::time::Duration;

use tank_client::broker::{Broker, BrokerFault};
use tank_client::simulation::{Service, Simulation, Task};
use tank_client::{ConsumeIter, ErrorKind, Producer, Record, Start, Subscription};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn want_of_descriptors_is_reported_at_once() {
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().connect(broker.brokers()).unwrap();
    let mut orders = client.subscribe("orders").unwrap();
    sim.limit_descriptors("client", Some(0));
    sim.cut("broker");
    let e = orders.next().unwrap().unwrap_err();
    let mut causes = vec![e.to_string()];
    let mut cause = std::error::Error::source(&e);
    while let Some(e) = cause {
        causes.push(e.to_string());
        cause = e.source();
    }
    assert!(causes.last().unwrap().contains("os error 24"), "{causes:?}");
    assert!(sim.now() < SECOND, "{:?}", sim.now());
}

#[test]
fn a_name_may_take_longer_to_look_up_than_connecting_may() {
    let sim = Simulation::new(2);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    sim.delay_name("broker", 8 * SECOND);
    let client = sim.client().connect_timeout(2 * SECOND).connect("broker").unwrap();
    assert_eq!(client.topics().unwrap().len(), 1);
    assert!(sim.now() < 17 * SECOND, "{:?}", sim.now());
}

#[test]
fn a_leader_whose_address_is_a_mail_servers_makes_no_storm() {
    for seed in 0..20 {
        let sim = Simulation::new(seed);
        let cluster = sim.cluster(3);
        cluster.create_topic("orders", 1);
        let client = sim.client().connect(cluster.brokers()).unwrap();
        let mut producer = client.producer().idempotent().build().unwrap();
        producer.send_to("orders", 0, Record::new("tea")).unwrap();
        producer.flush().unwrap();
        let leader = format!("node-{}", cluster.leader("orders", 0).unwrap());
        sim.take_over(&leader, Service::Greeting(b"220 mail.example ESMTP\r\n".to_vec()));
        let world = sim.clone();
        sim.after(10 * SECOND, move || world.take_over(&leader, None));
        producer.send_to("orders", 0, Record::new("milk")).unwrap();
        producer.flush().unwrap();
        let connections = sim.counts().connections;
        assert!(connections < 80, "seed {seed}: {connections} connections");
    }
}

#[test]
fn one_record_every_eighteen_seconds_is_stored() {
    let sim = Simulation::new(3);
    let broker = sim.broker_with(&Broker::builder().idle_timeout(5 * SECOND));
    broker.create_topic("orders", 1);
    let client = sim.client().connect(broker.brokers()).unwrap();
    let mut producer = client.producer().build().unwrap();
    for n in 1..200 {
        producer.send_to("orders", 0, Record::new("tea")).unwrap();
        producer.flush().unwrap();
        client.publish("orders", 0, &[Record::new("milk")]).unwrap();
        assert_eq!(broker.high_water_mark("orders", 0), 2 * n);
        sim.sleep(18 * SECOND);
    }
}

#[test]
fn poll_never_blocks_and_healthy_partitions_never_wait() {
    let sim = Simulation::new(4);
    let cluster = sim.cluster_with(&Broker::cluster_builder(3).replication_factor(1));
    cluster.create_topic("orders", 3);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    let mut producer = client.producer().max_age(Duration::ZERO).build().unwrap();
    let dead = cluster.leader("orders", 2).unwrap();
    cluster.node(dead).pause();
    let healthy: Vec<u16> = (0..3).filter(|&id| cluster.leader("orders", id) != Some(dead)).collect();
    for n in 0..100 {
        for id in 0..3 {
            let before = sim.now();
            producer.send_to("orders", id, Record::new("tea")).unwrap();
            let _ = producer.poll();
            assert_eq!(sim.now(), before, "record {n} of partition {id}");
        }
        sim.sleep(SECOND / 10);
    }
    for id in healthy {
        let leader = cluster.leader("orders", id).unwrap();
        assert!(cluster.node(leader).high_water_mark("orders", id) > 90, "partition {id}");
    }
}

#[test]
fn who_only_ever_looks_gets_everything() {
    let sim = Simulation::new(5);
    let cluster = sim.cluster(3);
    cluster.create_topic("orders", 1);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    let mut orders = client.subscribe(Subscription::partition("orders", 0).start(Start::Earliest)).unwrap();
    let nodes = cluster.clone();
    sim.after(5 * SECOND, move || nodes.node(0).stop());
    let publisher = client.clone();
    let task = sim.spawn("publisher", move || {
        (0..20).for_each(|_| publisher.publish("orders", 0, &[Record::new("tea")]).unwrap_or(()));
    });
    let mut seen = 0;
    while seen < 19 && sim.now() < 300 * SECOND {
        let before = sim.now();
        let message = orders.next_timeout(Duration::ZERO).unwrap();
        assert_eq!(sim.now(), before);
        seen += u32::from(message.is_some());
        sim.sleep(SECOND / 100);
    }
    task.join();
    assert!(seen >= 19, "{seen}");
}

#[test]
fn connections_that_are_cut_now_and_then_for_an_hour_are_no_trouble() {
    let sim = Simulation::new(6);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().retry_timeout(20 * SECOND).connect(broker.brokers()).unwrap();
    let world = sim.clone();
    sim.every(50 * SECOND, move || world.cut("broker"));
    let late = broker.clone();
    sim.after(3600 * SECOND, move || {
        late.append_payloads("orders", 0, &["tea"]);
    });
    let mut orders = client.subscribe(Subscription::topic("orders").max_wait(600 * SECOND)).unwrap();
    assert_eq!(orders.next().unwrap().unwrap().payload(), b"tea");
    assert!(sim.counts().connections < 200, "{:?}", sim.counts());
}

#[test]
fn a_hundred_tasks_share_a_client() {
    let sim = Simulation::new(7);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().connect(broker.brokers()).unwrap();
    let publish = |n: u32| {
        let client = client.clone();
        sim.spawn(&format!("publisher {n}"), move || {
            (0..5).try_for_each(|_| client.publish("orders", 0, &[Record::new("tea")]))
        })
    };
    let tasks: Vec<_> = (0..100).map(publish).collect();
    for task in tasks {
        task.join().unwrap();
    }
    assert_eq!(broker.high_water_mark("orders", 0), 500);
}

#[test]
fn however_many_wait_for_a_broker_that_never_greets_each_ends_in_time() {
    let sim = Simulation::new(10);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let time = SECOND / 5;
    let impatient = sim.client().connect_timeout(time).io_timeout(time).retry_timeout(3 * time);
    let client = impatient.connect(broker.brokers()).unwrap();
    let subscribe = |_| client.subscribe(Subscription::topic("orders").max_wait(time)).unwrap();
    let subscriptions: Vec<ConsumeIter> = (0..200).map(subscribe).collect();
    let producers: Vec<Producer> = (0..50).map(|_| client.producer().build().unwrap()).collect();
    broker.inject_times(BrokerFault::NoPing, u64::MAX);
    sim.cut("broker");
    let began = sim.now();
    // An attempt may wait for its turn, to connect, for the broker to wait, and for the answer.
    let most = 3 * time + 2 * 4 * time;
    let mut tasks = Vec::new();
    for mut orders in subscriptions {
        let sim = sim.clone();
        tasks.push(sim.clone().spawn("reader", move || (orders.next().unwrap().unwrap_err(), sim.now() - began)));
    }
    for mut producer in producers {
        let sim = sim.clone();
        tasks.push(sim.clone().spawn("writer", move || {
            producer.send_to("orders", 0, Record::new("tea")).unwrap();
            (producer.flush().unwrap_err(), sim.now() - began)
        }));
    }
    let ended: Vec<_> = tasks.into_iter().map(Task::join).collect();
    let slowest = ended.iter().map(|(_, time)| *time).max().unwrap();
    let mut errors: Vec<String> = ended.iter().map(|(e, _)| format!("{e:#}")).collect();
    errors.sort();
    errors.dedup();
    assert!(slowest <= most, "{slowest:?}: {errors:?}");
}

#[test]
fn closing_ends_what_waits_at_the_moment_it_happens() {
    let sim = Simulation::new(8);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().connect(broker.brokers()).unwrap();
    let mut orders = client.subscribe("orders").unwrap();
    let handle = orders.close_handle();
    broker.pause();
    let before = sim.now();
    sim.after(7 * SECOND, move || handle.close());
    assert!(orders.next().is_none());
    assert_eq!(sim.now() - before, 7 * SECOND);
}

#[test]
fn a_publish_that_was_given_up_is_not_executed_when_the_broker_goes_on() {
    let sim = Simulation::new(9);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().io_timeout(SECOND).retry_timeout(Duration::ZERO).connect(broker.brokers()).unwrap();
    client.publish("orders", 0, &[Record::new("tea")]).unwrap();
    broker.pause();
    let e = client.publish("orders", 0, &[Record::new("milk")]).unwrap_err();
    assert!(e.kind == ErrorKind::OutcomeUnknown, "{e}");
    // The reset is on its way.
    sim.sleep(SECOND);
    broker.resume();
    sim.sleep(10 * SECOND);
    assert_eq!(broker.high_water_mark("orders", 0), 1);
}
