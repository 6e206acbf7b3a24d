//! Publishing in the simulated world: what is stored, what is not, and how long that takes to find out.

use std::time::Duration;

use tank_client::broker::{BrokerFault, RequestKind};
use tank_client::simulation::{LinkSettings, Simulation};
use tank_client::{Compression, ErrorKind, Fault, Record, Start, Subscription};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Every payload of a partition, in order.
fn stored(client: &tank_client::Client, topic: &str, partition: u16) -> Vec<String> {
    let all = Subscription::partition(topic, partition).start(Start::Earliest).stop_at_end();
    let text = |message: tank_client::Result<_>| -> String {
        let message: tank_client::Message = message.unwrap();
        String::from_utf8_lossy(message.payload()).into_owned()
    };
    client.subscribe(all).unwrap().map(text).collect()
}

#[test]
fn a_record_each_18_seconds_is_stored_however_far_away_the_broker_is() {
    for latency in [50 * MS / 1000, 5 * MS, 300 * MS] {
        let sim = Simulation::new(1);
        let broker = sim.broker();
        broker.create_topic("orders", 1);
        sim.set_links(&LinkSettings::default().latency(latency..latency + MS / 100));
        let client = sim.client().connect(broker.brokers()).unwrap();
        let mut producer = client.producer().max_records(1).build().unwrap();
        for n in 0..20 {
            producer.send_to("orders", 0, Record::new(&format!("{n}"))).unwrap();
            sim.sleep(18 * SECOND);
            client.publish("orders", 0, &[Record::new("beside")]).unwrap();
            sim.sleep(18 * SECOND);
        }
        producer.flush().unwrap();
        let all = stored(&client, "orders", 0);
        let sent: Vec<_> = all.iter().filter(|payload| *payload != "beside").cloned().collect();
        assert_eq!(sent, (0..20).map(|n| n.to_string()).collect::<Vec<_>>(), "{latency:?}");
        assert_eq!(all.len(), 40);
        assert!(broker.stats().accepted < 10, "{:?}", broker.stats());
    }
}

#[test]
fn poll_takes_no_time_and_healthy_partitions_are_stored_while_a_leader_hangs() {
    let sim = Simulation::new(2);
    let settings = tank_client::broker::Broker::cluster_builder(3).replication_factor(1);
    let cluster = sim.cluster_with(&settings);
    cluster.create_topic("orders", 6);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    let mut producer = client.producer().max_records(1).build().unwrap();
    for partition in 0..6 {
        producer.send_to("orders", partition, Record::new("first")).unwrap();
    }
    producer.flush().unwrap();
    let hung = cluster.leader("orders", 0).unwrap();
    cluster.node(hung).pause();
    let healthy: Vec<u16> = (0..6).filter(|&id| cluster.leader("orders", id) != Some(hung)).collect();
    producer.send_to("orders", 0, Record::new("into the void")).unwrap();
    for n in 1..300 {
        let begun = sim.now();
        for &partition in &healthy {
            producer.send_to("orders", partition, Record::new("more")).unwrap();
        }
        producer.poll().unwrap();
        assert_eq!(sim.now(), begun, "round {n}");
        sim.sleep(100 * MS);
        producer.poll().unwrap();
        if n % 10 == 0 {
            sim.sleep(100 * MS);
            producer.poll().unwrap();
            for &partition in &healthy {
                let mark =
                    cluster.node(cluster.leader("orders", partition).unwrap()).high_water_mark("orders", partition);
                assert_eq!(mark, 1 + n, "partition {partition}");
            }
        }
    }
}

#[test]
fn retry_timeout_holds_however_many_brokers_hang() {
    for nodes in [1, 3, 12] {
        let sim = Simulation::new(3);
        let settings = tank_client::broker::Broker::cluster_builder(nodes).replication_factor(1);
        let cluster = sim.cluster_with(&settings);
        cluster.create_topic("orders", nodes as u16);
        let client = sim.client().retry_timeout(SECOND).connect_timeout(SECOND).io_timeout(SECOND).ack_timeout(SECOND);
        let client = client.connect(cluster.brokers()).unwrap();
        client.partitions("orders").unwrap();
        cluster.nodes().iter().for_each(|node| node.disconnect_all());
        cluster.nodes().iter().for_each(|node| node.pause());
        sim.sleep(100 * MS);
        let timed = |what: &str, call: &mut dyn FnMut() -> bool| {
            let begun = sim.now();
            assert!(!call(), "{what} with {nodes} brokers that hang");
            let took = sim.now() - begun;
            assert!(took < 4 * SECOND, "{what} with {nodes} brokers that hang: {took:?}");
        };
        timed("publish", &mut || client.publish("orders", 0, &[Record::new("x")]).is_ok());
        timed("partitions", &mut || client.partitions("orders").is_ok());
        timed("subscribe", &mut || client.subscribe("orders").and_then(|mut all| all.next().unwrap()).is_ok());
        let mut producer = client.producer().build().unwrap();
        producer.send_to("orders", 0, Record::new("x")).unwrap();
        timed("flush", &mut || producer.flush().is_ok());
    }
}

#[test]
fn a_large_request_gets_through_a_narrow_line_for_longer_than_any_time_out() {
    let sim = Simulation::new(4);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    sim.set_links(&LinkSettings::default().bandwidth(50_000));
    let client = sim.client().io_timeout(2 * SECOND).retry_timeout(Duration::ZERO).compression(Compression::None);
    let client = client.connect(broker.brokers()).unwrap();
    let large = vec![7; 4 << 20];
    client.publish("orders", 0, &[Record::new(&large)]).unwrap();
    let mut producer = client.producer().build().unwrap();
    producer.send_to("orders", 0, Record::new(&large)).unwrap();
    producer.flush().unwrap();
    assert_eq!(broker.high_water_mark("orders", 0), 2);
    assert!(sim.now() > 120 * SECOND);
    // And back.
    let all = Subscription::topic("orders").start(Start::Earliest).stop_at_end();
    assert_eq!(client.subscribe(all).unwrap().map(|message| message.unwrap().payload().len()).sum::<usize>(), 8 << 20);
    // Its bundle is not wanted; the one behind it is.
    broker.append_payloads("orders", 0, &["small"]);
    let last = Subscription::partition("orders", 0).start(Start::At(3)).stop_at_end();
    assert_eq!(client.subscribe(last).unwrap().map(|message| message.unwrap().seq()).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_hundred_leaders_that_greet_late_take_one_connection_each() {
    let sim = Simulation::new(5);
    let cluster = sim.cluster_with(&tank_client::broker::Broker::cluster_builder(100).replication_factor(1));
    cluster.create_topic("orders", 100);
    sim.set_links(&LinkSettings::default().latency(30 * MS..31 * MS));
    let client = sim.client().connect(cluster.brokers()).unwrap();
    let mut producer = client.producer().max_records(1).build().unwrap();
    for _ in 0..5 {
        (0..100).for_each(|partition| producer.send_to("orders", partition, Record::new("x")).unwrap());
        producer.flush().unwrap();
    }
    assert!(sim.counts().connections < 110, "{:?}", sim.counts());
    assert!(sim.now() < 3 * SECOND, "{:?}", sim.now());
    let all = client.subscribe(Subscription::topic("orders").start(Start::Earliest).stop_at_end()).unwrap();
    assert_eq!(all.count(), 500);
    assert!(sim.counts().connections < 220, "{:?}", sim.counts());
}

#[test]
fn connections_to_256_leaders_outlast_a_pause() {
    let sim = Simulation::new(5);
    let cluster = sim.cluster_with(&tank_client::broker::Broker::cluster_builder(256).replication_factor(1));
    cluster.create_topic("orders", 256);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    let all = Subscription::topic("orders").start(Start::Earliest).stop_at_end();
    for round in 1..4 {
        let mut producer = client.producer().build().unwrap();
        (0..256).for_each(|partition| producer.send_to("orders", partition, Record::new("x")).unwrap());
        producer.flush().unwrap();
        drop(producer);
        sim.sleep(SECOND);
        assert_eq!(client.subscribe(&all).unwrap().count(), round * 256);
        sim.sleep(SECOND);
        assert_eq!(sim.counts().connections, 256, "each is dialed once");
    }
}

#[test]
fn many_threads_share_a_client_and_none_is_left_in_doubt() {
    let sim = Simulation::new(6);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    sim.set_links(&LinkSettings::default().latency(2 * MS..20 * MS));
    let client = sim.client().connect(broker.brokers()).unwrap();
    let publish = |n: usize| {
        let client = client.clone();
        sim.spawn(&format!("publisher {n}"), move || {
            (0..5).for_each(|_| client.publish("orders", 0, &[Record::new("x")]).unwrap())
        })
    };
    let tasks: Vec<_> = (0..200).map(publish).collect();
    tasks.into_iter().for_each(|task| task.join());
    assert_eq!(broker.high_water_mark("orders", 0), 1000);
    assert!(broker.stats().accepted < 200, "{:?}", broker.stats());
}

#[test]
fn what_was_reported_unknown_is_not_stored_when_the_line_comes_back() {
    let sim = Simulation::new(7);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().io_timeout(10 * SECOND).connect(broker.brokers()).unwrap();
    client.publish("orders", 0, &[Record::new("first")]).unwrap();
    sim.separate("client", "broker");
    let e = client.publish("orders", 0, &[Record::new("lost")]).unwrap_err();
    assert!(e.kind == ErrorKind::OutcomeUnknown, "{e}");
    let world = sim.clone();
    sim.after(SECOND, move || world.rejoin("client", "broker"));
    client.publish("orders", 0, &[Record::new("last")]).unwrap();
    sim.sleep(120 * SECOND);
    assert_eq!(stored(&client, "orders", 0), ["first", "last"]);
}

#[test]
fn the_end_of_a_log_is_its_leaders_after_a_fail_over() {
    for seed in 0..5 {
        let sim = Simulation::new(seed);
        let cluster = sim.cluster_with(&tank_client::broker::Broker::cluster_builder(3).replication_factor(2));
        cluster.create_topic("orders", 1);
        let client = sim.client().connect(cluster.brokers()).unwrap();
        for n in 1..=100 {
            client.publish("orders", 0, &[Record::new(&format!("{n}"))]).unwrap();
        }
        cluster.kill(cluster.leader("orders", 0).unwrap());
        sim.sleep(40 * SECOND);
        let info = client.partitions("orders").unwrap();
        assert_eq!(info.len(), 1);
        assert_eq!(client.seq_at("orders", 0, sim.wall_clock() + SECOND).unwrap(), 101, "seed {seed}");
        let mut latest = client.subscribe(Subscription::partition("orders", 0).start(Start::Latest)).unwrap();
        assert_eq!(latest.next_timeout(10 * SECOND).unwrap(), None, "seed {seed}");
        assert!(client.publish_at("orders", 0, &[(50, Record::new("x"))]).is_err(), "seed {seed}");
        let mut producer = client.producer().idempotent().build().unwrap();
        producer.send_to("orders", 0, Record::new("101")).unwrap();
        producer.flush().unwrap();
        assert_eq!(latest.next().unwrap().unwrap().seq(), 101, "seed {seed}");
        assert_eq!(stored(&client, "orders", 0), (1..=101).map(|n| n.to_string()).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_server_in_trouble_with_its_files_stores_nothing_that_is_reported_stored() {
    use tank_client::broker::BrokerFault;
    for idempotent in [false, true] {
        let sim = Simulation::new(8);
        let broker = sim.broker();
        broker.create_topic("orders", 1);
        let client = sim.client().retry_timeout(5 * SECOND).connect(broker.brokers()).unwrap();
        let producer = client.producer().max_records(1);
        let mut producer = if idempotent { producer.idempotent() } else { producer }.build().unwrap();
        producer.send_to("orders", 0, Record::new("1")).unwrap();
        producer.flush().unwrap();
        broker.inject_times(BrokerFault::RefuseProduce(Fault::System), u64::MAX);
        for n in 2..5 {
            producer.send_to("orders", 0, Record::new(&format!("{n}"))).unwrap();
        }
        assert!(producer.flush().is_err());
        assert_eq!(producer.stored(), 1);
        let back: Vec<_> = producer.failures().iter().flat_map(|failure| failure.records()).collect();
        assert_eq!(back.iter().map(|record| record.payload()).collect::<Vec<_>>(), [b"2", b"3", b"4"]);
        broker.clear_faults();
        assert!(producer.retry_failures(|_| true).is_empty());
        producer.flush().unwrap();
        assert_eq!((producer.stored(), stored(&client, "orders", 0).len()), (4, 4));
    }
}

#[test]
fn silence_does_not_renew_the_budget_of_an_idempotent_producer() {
    for ends in [false, true] {
        let sim = Simulation::new(9);
        sim.set_time_limit(600 * SECOND);
        let broker = sim.broker();
        broker.create_topic("orders", 1);
        let client = sim.client().connect(broker.brokers()).unwrap();
        let mut producer = client.producer().idempotent().build().unwrap();
        producer.send_to("orders", 0, Record::new("x")).unwrap();
        // It greets on each connection, never answers, and may end it after a while.
        broker.inject_times(tank_client::broker::BrokerFault::StallAfter(0), u64::MAX);
        if ends {
            let world = sim.clone();
            sim.every(15 * SECOND, move || world.cut("broker"));
        }
        assert!(producer.flush().is_err());
        assert!(sim.now() < (60 + 2 * (10 + 30 + 8)) * SECOND, "{:?}", sim.now());
    }
}

#[test]
fn what_one_leader_holds_is_not_stored_because_a_later_one_has_taken_over_its_name() {
    for several in [false, true] {
        let sim = Simulation::new(10);
        let cluster = sim.cluster(3);
        cluster.create_topic("orders", 1);
        let address = |node: usize| cluster.addrs()[node].ip();
        let first = cluster.leader("orders", 0).unwrap();
        let others: Vec<usize> = (0..3).filter(|&node| node != first).collect();
        let all = [address(first), address(others[0]), address(others[1])];
        sim.set_name("tank", &all);
        let client = sim.client().ack_timeout(SECOND).connect("tank").unwrap();
        let mut producer = client.producer().idempotent().max_records(1).build().unwrap();
        producer.send_to("orders", 0, Record::new("1")).unwrap();
        producer.flush().unwrap();
        others.iter().for_each(|&node| cluster.node(node).pause());
        producer.send_to("orders", 0, Record::new("2")).unwrap();
        for _ in 0..30 {
            sim.sleep(100 * MS);
            producer.poll().unwrap();
        }
        assert_eq!(producer.pending(), 1, "no replica has it");
        cluster.kill(first);
        others.iter().for_each(|&node| cluster.node(node).resume());
        cluster.fail_over(first);
        let second = cluster.leader("orders", 0).unwrap();
        if !several {
            sim.set_name("tank", &[address(second)]);
        }
        producer.send_to("orders", 0, Record::new("3")).unwrap();
        producer.flush().unwrap();
        assert_eq!(producer.stored(), 3);
        assert_eq!(stored(&client, "orders", 0), ["1", "2", "3"], "several addresses: {several}");
    }
}

#[test]
fn what_a_leader_has_lost_since_it_held_it_is_stored_again() {
    let sim = Simulation::new(11);
    let cluster = sim.cluster(2);
    cluster.create_topic("orders", 1);
    let leader = cluster.leader("orders", 0).unwrap();
    let client = sim.client().ack_timeout(SECOND).connect(cluster.brokers()).unwrap();
    let mut producer = client.producer().idempotent().max_records(1).build().unwrap();
    producer.send_to("orders", 0, Record::new("1")).unwrap();
    producer.flush().unwrap();
    cluster.node(1 - leader).pause();
    producer.send_to("orders", 0, Record::new("2")).unwrap();
    for _ in 0..30 {
        sim.sleep(100 * MS);
        producer.poll().unwrap();
    }
    assert_eq!(producer.pending(), 1, "no replica has it");
    // Its machine restarts without what was not on its disk.
    cluster.node(leader).truncate_back("orders", 0, 1);
    cluster.node(leader).disconnect_all();
    cluster.node(1 - leader).resume();
    producer.send_to("orders", 0, Record::new("3")).unwrap();
    producer.flush().unwrap();
    assert_eq!(producer.stored(), 3);
    assert_eq!(stored(&client, "orders", 0), ["1", "2", "3"]);
}

#[test]
fn the_first_redirect_is_followed_even_without_a_budget() {
    let sim = Simulation::new(12);
    let cluster = sim.cluster(3);
    cluster.create_topic("orders", 3);
    // Nothing is known of the leaders yet.
    let client = || sim.client().retry_timeout(Duration::ZERO).connect(cluster.addrs()[0]).unwrap();
    let wall = sim.wall_clock();
    for partition in 0..3 {
        client().publish("orders", partition, &[Record::new("1")]).unwrap();
        client().publish_at("orders", partition, &[(2, Record::new("2"))]).unwrap();
        for (n, idempotent) in [(3, false), (4, true)] {
            let client = client();
            let producer = if idempotent { client.producer().idempotent() } else { client.producer() };
            let mut producer = producer.build().unwrap();
            producer.send_to("orders", partition, Record::new(&format!("{n}"))).unwrap();
            producer.flush().unwrap();
        }
        assert_eq!(client().seq_at("orders", partition, wall + 600 * SECOND).unwrap(), 5);
        assert_eq!(stored(&client(), "orders", partition), ["1", "2", "3", "4"]);
    }
}

#[test]
fn a_bundle_that_does_not_get_through_does_not_renew_its_budget() {
    let sim = Simulation::new(12);
    sim.set_time_limit(600 * SECOND);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    // Of what is sent on a connection, little arrives before it ends.
    sim.set_links(&LinkSettings::default().bandwidth(50_000));
    let client = sim.client().compression(Compression::None).connect(broker.brokers()).unwrap();
    let mut producer = client.producer().build().unwrap();
    producer.send_to("orders", 0, Record::new(&vec![7; 8 << 20])).unwrap();
    let world = sim.clone();
    sim.every(15 * SECOND, move || world.reset("broker"));
    assert!(producer.flush().is_err());
    assert!(sim.now() < (60 + 2 * (10 + 30 + 8)) * SECOND, "{:?}", sim.now());
}

#[test]
fn brokers_that_do_not_answer_are_dialed_only_while_the_budget_lasts() {
    let sim = Simulation::new(13);
    let settings = tank_client::broker::Broker::cluster_builder(5).replication_factor(1);
    let cluster = sim.cluster_with(&settings);
    cluster.create_topic("orders", 1);
    let client = sim.client().retry_timeout(SECOND).connect_timeout(10 * SECOND);
    let client = client.connect(cluster.brokers()).unwrap();
    client.partitions("orders").unwrap();
    cluster.nodes().iter().for_each(|node| node.disconnect_all());
    sim.sleep(100 * MS);
    (0..5).for_each(|node| sim.power_off(&format!("node-{node}")));
    let (begun, mut producer) = (sim.now(), client.producer().build().unwrap());
    producer.send_to("orders", 0, Record::new("x")).unwrap();
    assert!(producer.flush().is_err());
    assert!(sim.now() - begun < 13 * SECOND, "{:?}", sim.now() - begun);
}

#[test]
fn no_wait_for_a_leader_pauses_longer_than_a_second() {
    let sim = Simulation::new(14);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().backoff(5 * SECOND, 10 * SECOND).connect(broker.brokers()).unwrap();
    broker.inject(BrokerFault::RefuseProduce(Fault::NoLeader));
    client.publish("orders", 0, &[Record::new("x")]).unwrap();
    assert!(sim.now() < SECOND + 100 * MS, "{:?}", sim.now());
}

#[test]
fn undelivered_records_are_unknown_if_any_of_them_may_be_stored() {
    let sim = Simulation::new(15);
    let cluster = sim.cluster(2);
    cluster.create_topic("orders", 2);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    client.partitions("orders").unwrap();
    cluster.node(0).inject(BrokerFault::RefuseProduce(Fault::ReadOnly));
    cluster.node(1).inject(BrokerFault::LoseAnswer(RequestKind::Produce));
    let mut producer = client.producer().build().unwrap();
    (0..2).for_each(|partition| producer.send_to("orders", partition, Record::new("x")).unwrap());
    let e = producer.flush().unwrap_err();
    let fates: Vec<bool> = producer.failures().iter().map(|failure| failure.is_unknown()).collect();
    assert_eq!(fates, [false, true]);
    assert!(e.is_outcome_unknown() && e.to_string().starts_with("records that may not have been stored: 2"), "{e:#}");
}
