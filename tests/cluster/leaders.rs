//! Leaders that are named, wrongly named, gone, and that change.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tank_client::broker::{Broker, BrokerFault};
use tank_client::simulation::Simulation;
use tank_client::{Error, ErrorKind, Fault, Record, Start, Subscription};

use crate::support::{TRIP, addrs, all, append, idle_until, nobody, orders, quick, quickly, simulated, take, v4};
use common::logs;
use common::proxy::Proxy;
use common::watch::{SOON, timed_in, within};

const PATIENCE: Duration = Duration::from_millis(300);

/// What a node says that takes this one for the leader.
fn to(last: SocketAddrV4) -> Fault {
    Fault::Redirects { hops: 1, last }
}

#[test]
fn two_nodes_that_name_each_other() {
    let (sim, cluster, _) = simulated(2, 2, 2);
    for (node, other) in [(0, 1), (1, 0)] {
        let other = v4(cluster.node(other).addr());
        let named = BrokerFault::RefuseConsume(to(other));
        cluster.node(node).inject_times(named, u64::MAX);
    }
    let client = quickly(sim.client()).retry_timeout(PATIENCE).connect(cluster.brokers()).unwrap();
    let mut iter = client.subscribe(all()).unwrap();
    let (e, took) = timed_in(&sim, || iter.next().unwrap().unwrap_err());
    assert!(took <= PATIENCE + TRIP, "{took:?}");
    let Some(Fault::Redirects { hops, last }) = e.fault() else { panic!("{e:?}") };
    assert!(e.topic() == Some("orders") && e.partition().is_some(), "{e:?}");
    assert!(hops >= 2 && cluster.addrs().contains(&SocketAddr::V4(last)), "{e}");
    assert!(e.to_string().contains(&format!("still redirected after {hops} redirects, the last one to {last}")), "{e}");
    assert!(e.is_retryable() && iter.next().is_none());
    let stats = iter.stats();
    assert!(stats.redirects >= u64::from(hops) && stats.redirects < 200, "no busy loop: {stats:?}");

    // A quarrel that is settled in time is none.
    let client = quickly(sim.client()).connect(cluster.brokers()).unwrap();
    let mut iter = client.subscribe(all()).unwrap();
    idle_until(&mut iter, |iter| iter.stats().redirects > 4);
    cluster.nodes().iter().for_each(Broker::clear_faults);
    (0..2).for_each(|p| append(&cluster, p, 1, 5));
    assert_eq!(take(&mut iter, 10).len(), 2);
    assert_eq!(cluster.killed_by(), None);
}

/// A dead node, no node at all in three ways, an answer that there is none: the same trouble, waited out alike.
#[test]
fn partitions_without_a_leader_are_waited_for() {
    let nowhere = |ip: Ipv4Addr, port| to(SocketAddrV4::new(ip, port));
    for (answer, is_dead) in [
        (Fault::NoLeader, false),
        (nowhere(Ipv4Addr::UNSPECIFIED, 0), false),
        (nowhere(Ipv4Addr::BROADCAST, 11011), false),
        (nowhere(Ipv4Addr::LOCALHOST, 0), false),
        (to(nobody()), true),
    ] {
        let sim = Simulation::new(1);
        let broker = sim.broker();
        let dead = sim.broker();
        dead.stop();
        let answer = if is_dead { to(v4(dead.addr())) } else { answer };
        broker.create_topic("orders", 2);
        broker.inject_times(BrokerFault::RefuseConsume(answer), u64::MAX);
        let addr = broker.addr().to_string();
        let client = quickly(sim.client()).retry_timeout(PATIENCE).connect(&addr).unwrap();
        let mut iter = client.subscribe(all()).unwrap();
        let (e, took) = timed_in(&sim, || iter.next().unwrap().unwrap_err());
        assert!(took <= PATIENCE + TRIP, "{answer:?}: {took:?}");
        match (&e, is_dead) {
            (Error { kind: ErrorKind::Broker { fault: Fault::NoLeader, .. }, .. }, false) => {}
            (
                Error { kind: ErrorKind::Broker { fault: Fault::Redirects { .. }, .. }, .. }
                | Error { kind: ErrorKind::Connect, .. },
                true,
            ) => {}
            _ => panic!("{answer:?}: {e:?}"),
        }
        assert!(e.is_retryable());
        let stats = iter.stats();
        let (no_leader, redirects, failed) = (stats.no_leader, stats.redirects, stats.failed_brokers);
        assert_eq!((no_leader == 0, failed == 0), (is_dead, !is_dead), "{answer:?}: {stats:?}");
        assert!(redirects + no_leader < 400 && stats.reconnects == 0, "no busy loop: {stats:?}");

        let client = quickly(sim.client()).connect(&addr).unwrap();
        let mut iter = client.subscribe(all()).unwrap();
        idle_until(&mut iter, |iter| iter.stats().redirects + iter.stats().no_leader > 6);
        broker.clear_faults();
        (0..2).for_each(|p| assert_eq!(broker.append_payloads("orders", p, &["1"]), 1));
        assert_eq!(take(&mut iter, 2).len(), 2);
        assert_eq!(broker.killed_by(), None);
    }
}

/// Nobody should have to wonder why nothing comes.
#[test]
fn a_warning_says_that_a_partition_has_no_leader() {
    logs::keep();
    let sim = Simulation::new(1);
    let cluster = sim.cluster(2);
    for topic in ["quiet", "silent"] {
        cluster.create_topic(topic, 1);
        cluster.set_leader(topic, 0, None);
    }
    let client = quickly(sim.client()).retry_timeout(PATIENCE).connect(cluster.brokers()).unwrap();
    let e = client.subscribe(Subscription::topic("quiet").start(Start::Earliest)).unwrap().next().unwrap().unwrap_err();
    assert_eq!((e.fault(), e.broker().is_some()), (Some(Fault::NoLeader), true), "{e:?}");
    client.partitions("silent").unwrap_err();
    for topic in ["quiet/0", "silent/0"] {
        logs::wait_for(3, &["WARN", topic, ": the partition has no leader now, trying again in"]);
    }
}

/// Cut off from the others, a node may never learn who leads; or name for ever a leader that is gone.
#[test]
fn a_node_that_knows_no_leader_is_not_the_only_one_asked() {
    within(60, || {
        for answer in [Fault::NoLeader, to(nobody())] {
            let (cluster, client) = orders(3, 2);
            cluster.set_leader("orders", 0, Some(1));
            let mut iter = client.subscribe(all()).unwrap();
            (0..2).for_each(|p| append(&cluster, p, 1, 3));
            take(&mut iter, 6);
            cluster.node(0).inject_times(BrokerFault::RefuseConsume(answer), u64::MAX);
            // Who leads now is forgotten with the connection, and node 0 is the first to be asked.
            cluster.node(1).stop();
            (0..2).for_each(|p| cluster.set_leader("orders", p, Some(2)));
            (0..2).for_each(|p| append(&cluster, p, 4, 6));
            assert_eq!(take(&mut iter, 6).len(), 2);
            let stats = iter.stats();
            assert!(stats.no_leader + stats.redirects > 1 && stats.no_leader < 50, "{answer:?}: {stats:?}");
            assert_eq!(cluster.killed_by(), None);
        }

        for answer in [Fault::NoLeader, to(nobody()), to("0.0.0.0:0".parse().unwrap())] {
            let (cluster, _) = orders(3, 1);
            cluster.set_leader("orders", 0, Some(1));
            cluster.node(0).inject_times(BrokerFault::RefuseProduce(answer), u64::MAX);
            let client = || quick().retry_timeout(SOON).connect(addrs(&cluster)).unwrap();
            client().publish("orders", 0, &[Record::new(b"1")]).unwrap_or_else(|e| panic!("{answer:?}: {e:?}"));
            let mut producer = client().producer().build().unwrap();
            producer.send_to("orders", 0, Record::new(b"2")).unwrap();
            producer.flush().unwrap();
            assert_eq!(take(&mut client().subscribe(all()).unwrap(), 2), [(0, vec![1, 2])].into());
            assert_eq!(cluster.killed_by(), None);
        }
    });
}

#[test]
fn an_unknown_code_is_malformed_data() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        broker.inject_times(BrokerFault::RefuseConsume(Fault::NoLeader), u64::MAX);
        let client = quick().connect(broker.addr()).unwrap();
        let mut iter = client.subscribe(all()).unwrap();
        // The partitions, the status, and the first fetch; the next one takes a call.
        assert!(broker.wait_until(SOON, |stats| stats.answered == 3));
        // The code follows on frame header, header length, request id, counts, name and partition; 0xfd becomes 2.
        broker.inject(BrokerFault::FlipAfter(24));
        let e = iter.next().unwrap().unwrap_err();
        assert_eq!(e.kind, ErrorKind::Decode);
        let source = common::malformed(&e);
        assert!(source.to_string().contains("err_flags") || source.field() == "err_flags", "{source}");
        assert!(!e.is_retryable());
        assert_eq!(broker.killed_by(), None);
    });
}

/// The old leader still sends what it was asked for; the rest comes from its successor.
#[test]
fn a_leader_that_changes_in_the_middle_of_an_answer() {
    within(120, || {
        for orderly in [true, false] {
            let (cluster, client) = orders(3, 1);
            append(&cluster, 0, 1, 400);
            assert_eq!(client.subscribe(all().stop_at_end()).unwrap().count(), 400);
            // All is counted once the subscription's connection has ended.
            let bytes = || {
                assert!(cluster.node(0).wait_until(SOON, |stats| stats.open == 1));
                cluster.node(0).stats().bytes_sent
            };
            let before = bytes();
            assert_eq!(take(&mut client.subscribe(all().stop_at_end()).unwrap(), 400).len(), 1);
            let whole = bytes() - before;
            assert!(whole > 2000, "{whole}");
            // Once it has failed, somebody else says where the partition begins and ends.
            for at in [whole / 10, whole / 3, whole / 2, whole - 60] {
                cluster.set_leader("orders", 0, Some(0));
                cluster.node(0).inject(BrokerFault::StallAfter(at));
                let mut iter = client.subscribe(all().limit(400)).unwrap();
                assert!(cluster.node(0).wait_until(SOON, |stats| stats.stalled > 0));
                let first = take(&mut iter, usize::from(at > 1000));
                cluster.set_leader("orders", 0, Some(1));
                match orderly {
                    true => cluster.node(0).release(),
                    false => cluster.node(0).disconnect_all(),
                }
                let rest = take(&mut iter, 400 - first.len());
                let got: Vec<u64> = first.into_values().chain(rest.into_values()).flatten().collect();
                assert_eq!(got, (1..=400).collect::<Vec<_>>(), "{at} of {whole} bytes");
                cluster.node(0).clear_faults();
                cluster.node(0).release();
            }
            assert_eq!(cluster.killed_by(), None);
        }
    });
}

#[test]
fn leaders_are_remembered_and_forgotten() {
    within(60, || {
        let (cluster, client) = orders(3, 3);
        let mut iter = client.subscribe(all()).unwrap();
        (0..3).for_each(|p| append(&cluster, p, 1, 3));
        take(&mut iter, 9);
        // Moved from a leader that lives.
        cluster.set_leader("orders", 1, Some(2));
        append(&cluster, 1, 4, 6);
        assert_eq!(take(&mut iter, 3), [(1, vec![4, 5, 6])].into());
        let moved = iter.stats();
        assert!(moved.redirects >= 1 && moved.reconnects == 0 && moved.failed_brokers == 0, "{moved:?}");
        // Away for a while, with nobody in its place.
        cluster.node(2).stop();
        idle_until(&mut iter, |iter| iter.stats().redirects > moved.redirects + 6);
        let gone = iter.stats();
        assert!(gone.reconnects == 1 && gone.failed_brokers >= 1, "{gone:?}");
        cluster.fail_over(2);
        append(&cluster, 1, 7, 7);
        append(&cluster, 2, 4, 6);
        assert_eq!(cluster.leader("orders", 2), Some(0));
        assert_eq!(take(&mut iter, 4), [(1, vec![7]), (2, vec![4, 5, 6])].into());
        // No leader at all.
        cluster.set_leader("orders", 0, None);
        idle_until(&mut iter, |iter| iter.stats().no_leader > 3);
        cluster.set_leader("orders", 0, Some(1));
        append(&cluster, 0, 4, 4);
        assert_eq!(take(&mut iter, 1), [(0, vec![4])].into());
        assert_eq!(iter.stats().reconnects, 1);
        assert_eq!(cluster.killed_by(), None);
    });
}

#[test]
fn redirects_that_are_not_allowed_or_lead_elsewhere() {
    within(60, || {
        let (cluster, _) = orders(2, 2);
        (0..2).for_each(|p| append(&cluster, p, 1, 3));
        let first = cluster.node(0).addr().to_string();
        let client = quick().known_brokers_only(true).connect(&first).unwrap();
        let refused = Fault::RedirectRefused(v4(cluster.node(1).addr()));
        for e in [
            client.partitions("orders").unwrap_err(),
            client.subscribe(all()).and_then(|iter| iter.collect::<Result<Vec<_>, _>>()).unwrap_err(),
        ] {
            assert!(e.fault() == Some(refused), "{e:?}");
        }
        let client = quick().known_brokers_only(true).connect(addrs(&cluster)).unwrap();
        assert_eq!(take(&mut client.subscribe(all()).unwrap(), 6).len(), 2);

        // The nodes behind forwarded ports: no advertised address is dialed.
        let proxies: Vec<_> = cluster.addrs().iter().map(|addr| Proxy::start(&addr.to_string())).collect();
        let table: Vec<(SocketAddr, SocketAddr)> =
            cluster.addrs().into_iter().zip(proxies.iter().map(|proxy| proxy.addr().parse().unwrap())).collect();
        let mapped = Arc::new(AtomicUsize::new(0));
        let (before, counting) = (cluster.node(1).stats().accepted, mapped.clone());
        let map = move |advertised: SocketAddrV4| {
            counting.fetch_add(1, Ordering::SeqCst);
            table.iter().find(|(from, _)| *from == SocketAddr::V4(advertised)).unwrap().1
        };
        let client = quick().map_endpoints(map).connect(proxies[0].addr()).unwrap();
        assert_eq!(take(&mut client.subscribe(all()).unwrap(), 6).len(), 2);
        assert_eq!(client.partitions("orders").unwrap().len(), 2);
        assert!(mapped.load(Ordering::SeqCst) > 0 && proxies[1].accepted() > 0);
        assert_eq!(cluster.node(1).stats().accepted - before, proxies[1].accepted() as u64);
        assert_eq!(cluster.killed_by(), None);
    });
}
