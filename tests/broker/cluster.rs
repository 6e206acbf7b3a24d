//! Several nodes: who leads, who redirects, whose acknowledgement counts; against recordings of a real cluster.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::watch::not_before;
use tank_client::broker::{Broker, Cluster, dense_bundle};
use tank_client::{Compression, Record};

use crate::raw::{Raw, SOON, fetch};
use crate::rules::{message, publish};

/// The recorded cluster: three topics, replication factors 3, 2 and 1, its leaders; one and three messages in each
/// partition.
fn recorded() -> Cluster {
    let cluster = Broker::cluster(3).unwrap();
    for (topic, factor) in [("events", 3), ("pairs", 2), ("single", 1)] {
        cluster.create_topic_with(topic, 6, factor);
        for partition in 0..6 {
            cluster.set_leader(topic, partition, Some([2, 1, 0][usize::from(partition % 3)]));
            let (_, answer) = captured("consume_local");
            // Two bundles: one message, three messages.
            let chunk = &answer[answer.len() - 43..];
            let first = usize::from(chunk[0]);
            cluster.node(0).append(topic, partition, &chunk[1..1 + first]);
            cluster.node(0).append(topic, partition, &chunk[2 + first..]);
        }
    }
    cluster
}

/// The recorded bytes with the recorded endpoints replaced by those of the nodes here.
fn with_endpoints(recorded: &[u8], cluster: &Cluster) -> Vec<u8> {
    let mut bytes = recorded.to_vec();
    for node in 0..3u8 {
        let there = [127, 0, 0, node + 1, 0xc5 + node, 0x6d];
        let SocketAddr::V4(addr) = cluster.node(node.into()).addr() else { panic!("IPv4") };
        let here = [&addr.ip().octets()[..], &addr.port().to_le_bytes()].concat();
        for at in 0..bytes.len().saturating_sub(5) {
            if bytes[at..at + 6] == there {
                bytes[at..at + 6].copy_from_slice(&here);
            }
        }
    }
    bytes
}

fn check(cluster: &Cluster, node: usize, name: &str) {
    let (request, response) = captured(name);
    let mut raw = Raw::connect(cluster.node(node));
    let answer = raw.ask(request);
    let expected = with_endpoints(response, cluster);
    assert!(answer == expected, "{name}\n{answer:02x?}\n{expected:02x?}");
}

/// What was sent and what came back in an exchange with a cluster.
fn captured(name: &str) -> (&'static [u8], &'static [u8]) {
    let capture = common::captures::capture(&format!("cluster/{name}"));
    (&capture.request, &capture.response)
}

#[test]
fn recorded_answers_of_a_healthy_cluster() {
    let cluster = recorded();
    for name in [
        "discover_partitions_all",
        "discover_partitions_listed",
        "discover_partitions_unknown_topic",
        "reload_conf",
        "consume_redirect",
        "consume_redirect_v3",
        "consume_redirect_twice",
        "consume_local",
        "consume_mixed",
        "consume_mixed_tail",
        "produce_redirect",
        "produce_mixed",
        "consume_boundary",
        "consume_tail_timeout",
        "produce_redirect_acks255_rf1",
    ] {
        check(&cluster, 0, name);
    }
    for (factor, topic) in [(1, "single"), (2, "pairs"), (3, "events")] {
        for acks in ["0", "1", "2", "3", "255"] {
            check(&cluster, 2, &format!("produce_rf{factor}_acks{acks}"));
        }
        assert_eq!(cluster.node(0).high_water_mark(topic, 0), 4 + [1, 3, 4][factor - 1]);
    }
    for name in ["create_topic", "create_topic_exists", "create_topic_bad_name", "create_topic_zero"] {
        check(&cluster, 1, name);
    }
    for name in ["create_topic_bad_config", "create_topic_config", "create_topic_65", "create_topic_256"] {
        check(&cluster, 1, name);
    }
    let partitions = |topic| (0..).take_while(|&id| has_partition(&cluster, topic, id)).count();
    assert_eq!((partitions("made1e"), partitions("made1f")), (64, 0));
    assert_eq!(cluster.killed_by(), None);
}

fn has_partition(cluster: &Cluster, topic: &str, id: u16) -> bool {
    let answer = Raw::connect(cluster.node(0)).ask(&fetch(1, 0, topic, &[(id, 0, 1)]));
    !matches!(answer.last(), Some(0xff))
}

#[test]
fn a_waiting_request_is_woken_as_recorded() {
    let cluster = recorded();
    let (request, response) = captured("tail_woken");
    let mut raw = Raw::connect(cluster.node(2));
    raw.send(request);
    assert!(cluster.node(2).wait_until(SOON, |stats| stats.waiting == 1));
    cluster.node(0).append("events", 0, &response[response.len() - 25..]);
    assert_eq!(raw.frame().unwrap(), response);
}

#[test]
fn recorded_answers_without_a_leader() {
    let cluster = recorded();
    cluster.node(2).stop();
    for name in ["dead_rf1_consume", "dead_rf1_produce", "dead_rf1_discover"] {
        check(&cluster, 0, name);
    }
    cluster.set_leader("single", 0, None);
    cluster.set_leader("single", 1, Some(1));
    cluster.set_leader("single", 2, Some(0));
    cluster.set_leader("single", 3, Some(1));
    cluster.set_leader("single", 4, Some(0));
    cluster.set_leader("single", 5, Some(2));
    for name in [
        "no_leader_consume",
        "no_leader_produce",
        "no_leader_discover_all",
        "no_leader_discover_listed",
        "no_leader_mixed",
    ] {
        check(&cluster, 0, name);
    }
}

#[test]
fn recorded_answers_after_an_orderly_stop() {
    let cluster = recorded();
    cluster.stop_in_order(0);
    for name in ["graceful_rf1_consume", "graceful_rf1_produce", "graceful_rf1_discover"] {
        check(&cluster, 1, name);
    }
    assert!(TcpStream::connect(cluster.node(0).addr()).is_err());
    cluster.node(0).restart().unwrap();
    Raw::connect(cluster.node(0));
}

#[test]
fn topology_status_and_topics_are_those_of_the_cluster() {
    let cluster = recorded();
    let shape = |node: usize| {
        let (request, _) = captured("discover_topology");
        Raw::connect(cluster.node(node)).ask(request)[9..].to_vec()
    };
    let entry = |node: u8, flags: u8, partitions: u8| {
        let SocketAddr::V4(addr) = cluster.node(node.into()).addr() else { panic!("IPv4") };
        let endpoint = [&addr.ip().octets()[..], &addr.port().to_le_bytes()].concat();
        let endpoint = if flags & 1 == 1 { endpoint } else { Vec::new() };
        [&[node + 1, 0, flags][..], &endpoint, &[partitions, 0]].concat()
    };
    let topology = |flags: [u8; 3]| {
        let copies = |node: u8| {
            let holds = |topic: &str, id| cluster.replicas(topic, id).contains(&node.into());
            ["events", "pairs", "single"]
                .iter()
                .flat_map(|&t| (0..6).map(move |id| (t, id)))
                .filter(|(t, id)| holds(t, *id))
                .count()
        };
        let nodes =
            (0..3u8).flat_map(|node| entry(node, flags[usize::from(node)], u8::try_from(copies(node)).unwrap()));
        [&b"\x03\0\x08embedded"[..], &nodes.collect::<Vec<u8>>()].concat()
    };
    assert_eq!(shape(0), topology([3, 3, 3]));
    cluster.node(1).stop();
    assert_eq!(shape(0), topology([3, 1, 3]));
    cluster.stop_in_order(2);
    assert_eq!(shape(0), topology([3, 1, 0]));

    let (request, _) = captured("status");
    let status = Raw::connect(cluster.node(0)).ask(request);
    assert_eq!(status[9..33], *b"\0\x01\x03\0\0\0\x12\0\0\0\0\x08embedded\x01\0\0\0");
    let (request, _) = captured("discover_topics");
    let topics = Raw::connect(cluster.node(0)).ask(request);
    assert_eq!(topics[9..], *b"\x03\0\0\0\x01\x06events\x01\x06\0\x03\x05pairs\x01\x06\0\x02\x06single\x01\x06\0\x01");
}

#[test]
fn acks_are_waited_for_as_long_as_the_request_allows() {
    let cluster = Broker::cluster(3).unwrap();
    cluster.create_topic("orders", 1);
    let bundle = dense_bundle(&[message(b"x")], Compression::None);
    let mut raw = Raw::connect(cluster.node(0));
    // What need not wait comes long before its hour has passed.
    let (at_once, late) = (Duration::ZERO, Duration::from_millis(100));
    let mut ask = |acks, least: Duration| {
        let timeout = if least == at_once { 3_600_000 } else { 100 };
        not_before(least, || raw.ask(&publish(acks, timeout, "orders", &[(0, &bundle)])))[9]
    };
    let committed = || {
        let answer = Raw::connect(cluster.node(0)).ask(b"\x06\x0b\0\0\0\x01\0\0\0\x06orders");
        answer[answer.len() - 8]
    };
    assert_eq!((ask(2, at_once), committed()), (0, 1));
    cluster.node(1).pause();
    assert_eq!([ask(0, late), ask(1, late), ask(2, late), ask(3, at_once)], [0, 0, 0, 4]);
    cluster.node(2).pause();
    assert_eq!((ask(0, late), committed()), (3, 1));
    assert_eq!(cluster.node(0).high_water_mark("orders", 0), 5, "stored all the same");
    cluster.node(1).resume();
    cluster.node(2).resume();
    assert_eq!((committed(), ask(2, at_once)), (5, 0));
    cluster.node(1).stop();
    cluster.fail_over(1);
    assert_eq!([1, 2, 255].map(|acks| ask(acks, at_once)), [0, 4, 0]);
    cluster.node(2).stop();
    cluster.fail_over(2);
    assert_eq!([0, 1, 255].map(|acks| ask(acks, at_once)), [0, 4, 4]);
    assert_eq!((cluster.node(0).high_water_mark("orders", 0), committed()), (9, 8));
    cluster.node(1).restart().unwrap();
    assert_eq!([1, 2].map(|acks| ask(acks, at_once)), [0, 4]);
}

#[test]
fn fail_over_and_leaders_that_move() {
    let cluster = Broker::cluster(3).unwrap();
    cluster.create_topic("orders", 3);
    assert_eq!((0..3).map(|id| cluster.leader("orders", id)).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    cluster.node(0).append_payloads("orders", 0, &["one"]);
    let mut raw = Raw::connect(cluster.node(0));
    let tail = fetch(1, 3_600_000, "orders", &[(0, 2, 1000)]);
    raw.send(&tail);
    assert!(cluster.node(0).wait_until(SOON, |stats| stats.waiting == 1));
    cluster.set_leader("orders", 0, Some(1));
    let empty = raw.frame().unwrap();
    assert_eq!((empty.len(), empty[25]), (45, 2), "an empty answer with the number that was waited for");
    assert_eq!(raw.ask(&tail)[24], 0xfc);
    raw = Raw::connect(cluster.node(1));
    raw.send(&tail);
    assert!(cluster.node(1).wait_until(SOON, |stats| stats.waiting == 1));
    cluster.node(1).stop();
    assert!(raw.is_closed());
    cluster.fail_over(1);
    assert_eq!((cluster.leader("orders", 0), cluster.leader("orders", 1)), (Some(0), Some(2)));
    assert_eq!(Raw::connect(cluster.node(2)).ask(&tail)[24], 0xfc);
    cluster.set_leader("orders", 0, None);
    assert_eq!(Raw::connect(cluster.node(0)).ask(&tail)[24], 0xfd);
}

/// Seen with real nodes: an empty piece of a file is to be sent for the partition that has nothing new.
#[test]
fn a_wait_for_several_partitions_kills_a_node() {
    for (before, deadly) in [(0, false), (1, true)] {
        let cluster = Broker::cluster(1).unwrap();
        cluster.create_topic("orders", 2);
        (0..before).for_each(|_| assert_eq!(cluster.node(0).append_payloads("orders", 1, &["old"]), 1));
        let mut raw = Raw::connect(cluster.node(0));
        raw.send(&fetch(1, 3_600_000, "orders", &[(0, 1, 1000), (1, before + 1, 1000)]));
        assert!(cluster.node(0).wait_until(SOON, |stats| stats.waiting == 1));
        cluster.node(0).append_payloads("orders", 0, &["new"]);
        assert_eq!(raw.frame().is_err(), deadly);
        assert_eq!(cluster.killed_by().is_some(), deadly);
    }
}

#[test]
fn a_hung_leader_says_nothing_until_it_goes_on() {
    let cluster = Broker::cluster(2).unwrap();
    cluster.create_topic("orders", 1);
    let mut raw = Raw::connect(cluster.node(0));
    cluster.node(0).pause();
    raw.send(&fetch(1, 0, "orders", &[(0, 1, 1000)]));
    let redirect = Raw::connect(cluster.node(1)).ask(&fetch(1, 0, "orders", &[(0, 1, 1000)]));
    assert_eq!(redirect[24], 0xfc);
    cluster.fail_over(0);
    assert_eq!(cluster.leader("orders", 0), Some(1));
    cluster.node(0).resume();
    assert_eq!(raw.frame().unwrap()[24], 0xfc);
}

#[test]
fn a_new_topic_has_no_leaders_for_a_while() {
    let cluster = Broker::cluster_builder(2).election_time(Duration::from_millis(200)).start().unwrap();
    let mut raw = Raw::connect(cluster.node(0));
    let request = fetch(1, 0, "orders", &[(0, 1, 1000)]);
    let code = not_before(Duration::from_millis(200), || {
        assert_eq!(raw.ask(b"\x07\x0e\0\0\0\x01\0\0\0\x06orders\x02\0\0").last(), Some(&0));
        loop {
            match raw.ask(&request)[24] {
                0xfd => {}
                code => return code,
            }
        }
    });
    assert_eq!(code, 0);
    assert_eq!(raw.ask(b"\x07\x0f\0\0\0\x01\0\0\0\x07orders2\x02\0\0").last(), Some(&0));
    let bundle = dense_bundle(&[Record::new("")], Compression::None);
    raw.send(&publish(0, 0, "orders2", &[(0, &bundle)]));
    assert!(raw.is_closed());
    assert!(cluster.killed_by().unwrap().contains("just created"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_fetch_that_prefers_local_is_answered_by_replicas() {
    let cluster = Broker::cluster_builder(3).own_addresses().start().unwrap();
    cluster.create_topic("orders", 2);
    cluster.set_leader("orders", 0, Some(2));
    cluster.node(0).append_payloads("orders", 0, &["one"]);
    let local = |wait: u64, seq: u64| {
        let plain = fetch(1, wait, "orders", &[(0, seq, 1000)]);
        // Client version 3, and the flag after min bytes.
        [&[2, plain[1] + 1, 0, 0, 0, 3][..], &plain[6..24], &[1], &plain[24..]].concat()
    };
    let mut raw = Raw::connect(cluster.node(0));
    assert_eq!(raw.ask(&local(0, 1))[24], 0, "served by the replica on this host");
    let SocketAddr::V4(first) = cluster.node(0).addr() else { panic!("IPv4") };
    let redirect = [&[0xfc][..], &first.ip().octets(), &first.port().to_le_bytes()].concat();
    assert_eq!(Raw::connect(cluster.node(2)).ask(&local(0, 1))[24..31], redirect);
    raw.send(&local(1, 2));
    assert!(cluster.node(0).wait_until(SOON, |stats| stats.waiting == 1));
    cluster.node(0).append_payloads("orders", 0, &["two"]);
    let answer = raw.frame().unwrap();
    assert_eq!(answer[24..], [0; 21], "never woken, and with a mark of 0");
    cluster.set_in_sync("orders", 0, &[1, 2]);
    assert_eq!(raw.ask(&local(0, 1))[24], 0xfc, "no replica here: the leader");
    cluster.set_leader("orders", 0, None);
    assert_eq!(raw.ask(&local(0, 1))[24], 0xfd);
}
