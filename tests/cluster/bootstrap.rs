//! The brokers a client begins with, one or several, up or down.

use std::error::Error as _;
use std::time::Duration;

use tank_client::broker::{Broker, BrokerFault};
use tank_client::simulation::{Service, Simulation};
use tank_client::{ErrorKind, Record};

use crate::support::{TRIP, all, append, orders, quick, quickly, simulated, take};
use common::watch::{timed_in, within};

/// However many brokers say nothing, connecting takes no longer than it may.
#[test]
fn silent_brokers_share_the_time_to_connect() {
    let sim = Simulation::new(1);
    let budget = Duration::from_millis(600);
    let brokers: Vec<_> = (0..4).map(|_| sim.broker()).collect();
    ["broker", "broker-2", "broker-3", "broker-4"].iter().for_each(|host| sim.take_over(host, Service::Mute));
    let addrs: Vec<_> = brokers.iter().map(|broker| broker.addr()).collect();
    let connect = || sim.client().connect_timeout(budget).connect(&addrs);
    let (e, took) = timed_in(&sim, || connect().unwrap_err());
    assert!(took >= budget && took <= budget + TRIP, "{took:?}");
    let text = e.source().unwrap().to_string();
    for addr in &addrs {
        assert!(text.contains(&format!("{addr}: timed out after ")), "{text}");
    }
    // The last one has what the others left.
    brokers[..3].iter().for_each(|broker| broker.stop());
    ["broker", "broker-2", "broker-3", "broker-4"].iter().for_each(|host| sim.take_over(host, None));
    brokers[3].inject(BrokerFault::LatePing(budget / 2));
    connect().unwrap();
}

#[test]
fn all_brokers_down_and_back_again() {
    let (sim, cluster, _) = simulated(3, 3, 3);
    let budget = Duration::from_secs(2);
    let client =
        quickly(sim.client()).connect_timeout(budget).retry_timeout(Duration::ZERO).connect(cluster.brokers()).unwrap();
    (0..3).for_each(|p| append(&cluster, p, 1, 5));
    cluster.nodes().iter().for_each(Broker::stop);
    let (errors, took) = timed_in(&sim, || {
        [
            quickly(sim.client()).connect_timeout(budget).connect(cluster.brokers()).unwrap_err(),
            client.subscribe(all()).unwrap_err(),
            client.partitions("orders").unwrap_err(),
            client.topics().unwrap_err(),
            client.ping().unwrap_err(),
        ]
    });
    assert!(took <= 5 * TRIP, "{took:?}");
    for e in errors {
        assert!(e.kind == ErrorKind::Connect && e.is_retryable(), "{e:?}");
        let text = e.source().unwrap().to_string();
        for addr in cluster.addrs() {
            assert!(text.contains(&format!("cannot connect to {addr}: ")), "{text}");
        }
    }
    let e = client.publish("orders", 0, &[Record::new(b"6")]).unwrap_err();
    assert!(e.kind == ErrorKind::Connect, "{e:?}");
    cluster.nodes().iter().for_each(|node| node.restart().unwrap());
    assert_eq!(take(&mut client.subscribe(all().stop_at_end()).unwrap(), 15).len(), 3);
    client.publish("orders", 0, &[Record::new(b"6")]).unwrap();
    assert_eq!(cluster.killed_by(), None);
}

/// Leaders that were heard of are asked too, once the one broker that was given is gone.
#[test]
fn one_broker_is_enough_to_begin_with() {
    within(60, || {
        let (cluster, _) = orders(3, 3);
        let client = quick().connect(cluster.node(0).addr()).unwrap();
        let mut iter = client.subscribe(all()).unwrap();
        (0..3).for_each(|p| append(&cluster, p, 1, 5));
        take(&mut iter, 15);
        cluster.node(0).stop();
        cluster.fail_over(0);
        (0..3).for_each(|p| append(&cluster, p, 6, 9));
        assert_eq!(take(&mut iter, 12).len(), 3);
        assert_eq!(client.partitions("orders").unwrap().len(), 3);
        client.publish("orders", 0, &[Record::new(b"10")]).unwrap();
        assert_eq!(take(&mut iter, 1), [(0, vec![10])].into());
        assert_eq!(cluster.killed_by(), None);
    });
}

#[test]
fn every_broker_is_as_good_to_begin_with() {
    within(60, || {
        let (cluster, _) = orders(3, 7);
        (0..7).for_each(|p| append(&cluster, p, 1, 3));
        for node in cluster.nodes() {
            let client = quick().connect(node.addr()).unwrap();
            let marks: Vec<_> = client.partitions("orders").unwrap();
            assert!(marks.iter().all(|p| (p.first_available, p.high_water_mark) == (1, 3)) && marks.len() == 7);
            let mut iter = client.subscribe(all().stop_at_end()).unwrap();
            assert_eq!(take(&mut iter, 21).len(), 7);
            assert!(iter.next().is_none());
            // Leaders are known from then on.
            cluster.nodes().iter().for_each(Broker::forget_requests);
            let mut iter = client.subscribe(all().stop_at_end()).unwrap();
            assert_eq!((&mut iter).count(), 21);
            assert_eq!(iter.stats().redirects, 0);
        }
        assert_eq!(cluster.killed_by(), None);
    });
}
