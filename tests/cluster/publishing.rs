//! Publishing and asking in a cluster.

use std::time::{Duration, UNIX_EPOCH};

use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind};
use tank_client::simulation::Simulation;
use tank_client::{Acks, Client, Error, ErrorKind, Fault, PartitionRecords, Record, TopicConfig};

use crate::support::{TRIP, addrs, all, append, orders, quick, quickly, simulated, take, v4};
use common::watch::{SOON, timed_in, within};

/// A record for each partition, all of them with the same number.
fn publish_all(client: &Client, partitions: u16, number: u64) -> Vec<Result<(), Error>> {
    let payload = number.to_string();
    let records = [Record::new(payload.as_bytes())];
    let by_partition: Vec<_> = (0..partitions).map(|id| PartitionRecords::new("orders", id, &records)).collect();
    client.publish_all(&by_partition).unwrap()
}

#[test]
fn every_partition_is_published_at_its_leader() {
    within(60, || {
        let (cluster, client) = orders(3, 7);
        let mut iter = client.subscribe(all()).unwrap();
        for n in 1..=3 {
            publish_all(&client, 7, n).into_iter().for_each(Result::unwrap);
            (0..7).for_each(|p| cluster.set_leader("orders", p, Some(usize::from(p + n as u16) % 3)));
        }
        assert!(take(&mut iter, 21).values().all(|numbers| *numbers == [1, 2, 3]));
        cluster.nodes().iter().for_each(Broker::forget_requests);
        publish_all(&client, 7, 4).into_iter().for_each(Result::unwrap);
        take(&mut iter, 7);
        assert_eq!(cluster.killed_by(), None);
    });
}

/// One that cannot be written, one without a leader, one whose node says what it likes: the others are stored.
#[test]
fn a_faulty_partition_takes_no_other_along() {
    let (sim, cluster, _) = simulated(3, 6, 3);
    let client = quickly(sim.client()).retry_timeout(Duration::from_millis(300)).connect(cluster.brokers()).unwrap();
    publish_all(&client, 6, 1).into_iter().for_each(Result::unwrap);
    cluster.node(0).set_broken("orders", 0, true);
    cluster.set_leader("orders", 4, None);
    let results = publish_all(&client, 6, 2);
    for (partition, result) in results.iter().enumerate() {
        match (partition, result) {
            (0, Err(_)) | (4, Err(Error { kind: ErrorKind::Broker { fault: Fault::NoLeader, .. }, .. })) => {}
            (1 | 2 | 3 | 5, Ok(())) => {}
            _ => panic!("{partition}: {result:?}"),
        }
    }
    let marks: Vec<_> = (0..6).map(|p| cluster.node(0).high_water_mark("orders", p)).collect();
    assert_eq!(marks, [1, 2, 2, 2, 1, 2]);
    assert_eq!(cluster.killed_by(), None);
}

#[test]
fn acks_are_those_that_were_asked_for() {
    let (sim, cluster, _) = simulated(3, 1, 3);
    let with = |acks| {
        let builder = quickly(sim.client()).acks(acks).ack_timeout(Duration::from_millis(100));
        builder.retry_timeout(Duration::from_millis(200)).connect(cluster.brokers()).unwrap()
    };
    let publish = |acks, n: u64| with(acks).publish("orders", 0, &[Record::new(n.to_string().as_bytes())]);
    for (acks, n) in [(Acks::All, 1), (Acks::Quorum, 2), (Acks::Peers(2), 3)] {
        publish(acks, n).unwrap();
    }
    let e = publish(Acks::Peers(3), 4).unwrap_err();
    assert!(e.fault() == Some(Fault::InsufficientReplicas) && e.is_retryable(), "{e:?}");
    // Stored, but how well nobody knows.
    cluster.node(1).pause();
    cluster.node(2).pause();
    let e = publish(Acks::All, 4).unwrap_err();
    assert_eq!(e.kind, ErrorKind::OutcomeUnknown);
    assert_eq!(e.cause().and_then(Error::fault), Some(Fault::NotConfirmed));
    assert!(!e.is_retryable());
    cluster.node(1).resume();
    cluster.node(2).resume();
    assert_eq!(take(&mut with(Acks::All).subscribe(all()).unwrap(), 4), [(0, vec![1, 2, 3, 4])].into());
    assert_eq!(cluster.killed_by(), None);
}

/// What was not stored goes to the successor; what may have been does not.
#[test]
fn publishing_while_leaders_go() {
    within(60, || {
        let (cluster, client) = orders(3, 3);
        publish_all(&client, 3, 1).into_iter().for_each(Result::unwrap);
        cluster.node(1).stop();
        cluster.fail_over(1);
        publish_all(&client, 3, 2).into_iter().for_each(Result::unwrap);
        cluster.node(2).inject(BrokerFault::RefuseProduce(Fault::NoLeader));
        publish_all(&client, 3, 3).into_iter().for_each(Result::unwrap);
        cluster.node(2).inject(BrokerFault::LoseAnswer(Kind::Produce));
        let results = publish_all(&client, 3, 4);
        for (partition, result) in (0..).zip(results) {
            match (cluster.leader("orders", partition), result) {
                (Some(2), Err(Error { kind: ErrorKind::OutcomeUnknown, .. })) | (Some(0), Ok(())) => {}
                (leader, result) => panic!("{partition} at {leader:?}: {result:?}"),
            }
        }
        assert!(take(&mut client.subscribe(all()).unwrap(), 12).values().all(|numbers| *numbers == [1, 2, 3, 4]));
        assert_eq!(cluster.killed_by(), None);
    });
}

/// A produce request that comes too early kills a node.
#[test]
fn a_new_topic_can_be_used_at_once() {
    let sim = Simulation::new(1);
    let cluster = sim.cluster_with(&Broker::cluster_builder(3).election_time(Duration::from_millis(300)));
    let client = quickly(sim.client()).connect(cluster.brokers()).unwrap();
    let config = TopicConfig::new();
    let (created, took) = timed_in(&sim, || client.create_topic("orders", 64, &config));
    created.unwrap();
    assert!(took >= Duration::from_millis(250), "{took:?}");
    publish_all(&client, 64, 1).into_iter().for_each(Result::unwrap);
    assert_eq!(take(&mut client.subscribe(all()).unwrap(), 64).len(), 64);
    let e = client.create_topic("orders", 1, &config).unwrap_err();
    assert!(e.fault() == Some(Fault::TopicExists), "{e:?}");

    let sent = |kind| cluster.nodes().iter().map(|node| node.stats().requests(kind)).sum::<u64>();
    let before = sent(Kind::CreateTopic);
    for too_many in [65, 256, 65_535] {
        let e = client.create_topic("more", too_many, &config).unwrap_err();
        assert!(matches!(e.kind, ErrorKind::Config { .. }), "{e:?}");
    }
    assert_eq!(sent(Kind::CreateTopic), before);
    assert_eq!(client.topics().unwrap().len(), 1);
    assert_eq!(cluster.killed_by(), None);
}

#[test]
fn what_a_cluster_says_of_itself() {
    within(60, || {
        let (cluster, client) = orders(3, 6);
        (0..6).for_each(|p| append(&cluster, p, 1, u64::from(p)));
        let marks: Vec<_> = client.partitions("orders").unwrap().iter().map(|p| (p.id, p.high_water_mark)).collect();
        assert_eq!(marks, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
        let topics = client.topics().unwrap();
        assert_eq!((topics[0].partitions, topics[0].replication_factor), (6, Some(3)));
        assert_eq!(client.status().unwrap().nodes, Some(3));
        let topology = client.topology().unwrap();
        let endpoints: Vec<_> = topology.nodes.iter().map(|node| node.endpoint.unwrap()).collect();
        assert_eq!(endpoints, cluster.addrs().into_iter().map(v4).collect::<Vec<_>>());
        assert!(topology.nodes.iter().all(|node| node.available && !node.blocked && node.partitions == 6));
        let e = client.reload_config("orders", 0).unwrap_err();
        assert!(e.fault() == Some(Fault::Unsupported), "{e:?}");
        // Without all leaders not all marks are known.
        cluster.stop_in_order(1);
        let client = quick().retry_timeout(Duration::ZERO).connect(addrs(&cluster)).unwrap();
        let e = client.partitions("orders").unwrap_err();
        assert!(e.fault() == Some(Fault::NoLeader) && e.partition() == Some(1), "{e:?}");
        let topology = client.topology().unwrap();
        assert!(topology.nodes[1].endpoint.is_none() && !topology.nodes[1].available);
        assert_eq!(client.status().unwrap().nodes, Some(2));
        assert_eq!(cluster.killed_by(), None);
    });
}

/// Leaders that say nothing share the time there is to connect; who asks for one partition waits for none of them.
#[test]
fn silent_leaders_hold_up_no_more_than_they_must() {
    let (sim, cluster, _) = simulated(5, 5, 1);
    (0..5).for_each(|p| append(&cluster, p, 1, 3));
    let budget = Duration::from_secs(2);
    let builder = || quickly(sim.client()).connect_timeout(budget).retry_timeout(Duration::ZERO);
    for connected in [true, false] {
        let client = builder().connect(cluster.brokers()).unwrap();
        if connected {
            // To all leaders, which answer then.
            assert_eq!(client.partitions("orders").unwrap().len(), 5);
        }
        [1, 2, 3].iter().for_each(|&node| cluster.node(node).pause());
        if !connected {
            [1, 2, 3].iter().for_each(|&node| cluster.node(node).disconnect_all());
        }
        let (seq, took) = timed_in(&sim, || client.seq_at("orders", 0, UNIX_EPOCH));
        assert!(seq.unwrap() == 1 && took <= TRIP, "{took:?}");
        let (e, took) = timed_in(&sim, || client.partitions("orders").unwrap_err());
        assert!(matches!(e.kind, ErrorKind::Timeout { .. }), "{e:?}");
        // Far less than the time-outs of three leaders, each of which may take 30 s to answer.
        assert!(took > budget / 2 && took <= budget + TRIP, "{took:?}");
        [1, 2, 3].iter().for_each(|&node| cluster.node(node).resume());
    }
    assert_eq!(cluster.killed_by(), None);
}

/// A producer waits for none of its brokers while others can go on, not even to be connected.
#[test]
fn a_producer_is_not_held_up_by_a_leader_that_hangs() {
    for connected in [true, false] {
        let (sim, cluster, _) = simulated(3, 1, 1);
        // With a copy each nobody's confirmation is waited for.
        cluster.create_topic_with("alone", 3, 1);
        let client = quickly(sim.client()).connect_timeout(SOON).connect(cluster.brokers()).unwrap();
        let mut producer = client.producer().max_records(1).build().unwrap();
        (0..3).for_each(|p| producer.send_to("alone", p, Record::new(b"1")).unwrap());
        producer.flush().unwrap();
        cluster.node(1).pause();
        if !connected {
            cluster.node(1).disconnect_all();
            sim.sleep(TRIP);
        }
        let (_, took) = timed_in(&sim, || {
            for n in 2..=20 {
                // No more than may be on its way and wait there.
                if n <= 3 {
                    producer.send_to("alone", 1, Record::new(b"1")).unwrap();
                }
                [0, 2].iter().for_each(|&p| producer.send_to("alone", p, Record::new(b"1")).unwrap());
                let mark = |node: u16| cluster.node(node.into()).high_water_mark("alone", node);
                while mark(0) < n || mark(2) < n {
                    producer.poll().unwrap();
                    sim.sleep(Duration::from_millis(1));
                }
            }
        });
        assert!(took <= 19 * TRIP, "{connected}: {took:?}");
        cluster.node(1).resume();
        producer.flush().unwrap();
        assert_eq!((producer.stored(), cluster.node(1).high_water_mark("alone", 1)), (3 + 2 + 38, 3));
        assert_eq!(cluster.killed_by(), None);
    }
}

/// What the leader alone has is held until its replicas confirm it, and stored once.
#[test]
fn numbered_records_that_replicas_confirm_late_are_stored_once() {
    let (sim, cluster, _) = simulated(3, 1, 3);
    let builder = quickly(sim.client()).ack_timeout(Duration::from_millis(50));
    let client = builder.retry_timeout(Duration::from_secs(20)).connect(cluster.brokers()).unwrap();
    let mut producer = client.producer().max_records(1).idempotent().build().unwrap();
    let send = |producer: &mut tank_client::Producer, n: u64| {
        producer.send_to("orders", 0, Record::new(n.to_string().as_bytes())).unwrap();
    };
    send(&mut producer, 1);
    producer.flush().unwrap();
    [1, 2].iter().for_each(|&node| cluster.node(node).pause());
    (2..=4).for_each(|n| send(&mut producer, n));
    for _ in 0..400 {
        producer.poll().unwrap();
        sim.sleep(Duration::from_millis(1));
    }
    assert_eq!((producer.stored(), producer.pending()), (1, 3));
    let (asked, behind) = (cluster.node(0).stats().all_requests(), cluster.clone());
    sim.after(Duration::from_secs(2), move || {
        assert!(behind.node(0).stats().all_requests() >= asked + 3, "its leader is asked for the mark");
        [1, 2].iter().for_each(|&node| behind.node(node).resume());
    });
    producer.flush().unwrap();
    assert_eq!(producer.stored(), 4);
    send(&mut producer, 5);
    producer.flush().unwrap();
    assert_eq!(take(&mut client.subscribe(all()).unwrap(), 5), [(0, vec![1, 2, 3, 4, 5])].into());
    assert_eq!(cluster.killed_by(), None);
}

/// One connection a leader, however many there are and however late they greet.
#[test]
fn a_producer_opens_one_connection_a_leader() {
    within(60, || {
        const NODES: usize = 80;
        let cluster = Broker::cluster_builder(NODES).replication_factor(1).start().unwrap();
        cluster.create_topic("orders", NODES as u16);
        let late = BrokerFault::LatePing(Duration::from_millis(20));
        cluster.nodes().iter().for_each(|node| node.inject_times(late.clone(), u64::MAX));
        let client = quick().connect(cluster.addrs()[0]).unwrap();
        let mut producer = client.producer().build().unwrap();
        for round in 1..=3 {
            (0..NODES as u16).for_each(|id| producer.send_to("orders", id, Record::new("x")).unwrap());
            producer.flush().unwrap();
            let accepted: u64 = cluster.nodes().iter().map(|node| node.stats().accepted).sum();
            assert!(accepted <= NODES as u64 + 1, "{accepted} connections after round {round}");
        }
    });
}
