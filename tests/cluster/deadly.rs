//! What kills real nodes, or damages their logs, is never sent (reference, section 19; for clusters also 14).

use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use tank_client::broker::{Broker, Cluster, Request, RequestKind as Kind};
use tank_client::protocol::admin::{CreateTopicRequest, DiscoverPartitionsRequest};
use tank_client::protocol::bundle::BundleHeader;
use tank_client::protocol::cursor::Cursor;
use tank_client::protocol::fetch::SEQ_TAIL;
use tank_client::protocol::frame::Payload;
use tank_client::protocol::produce::ProduceRequest;
use tank_client::{Client, Error, ErrorKind, Limits, PartitionRecords, Record, Start, Subscription, TopicConfig};

use crate::support::{addrs, idle_until, orders, quick};
use common::watch::{SOON, within};

/// Looks at all that was asked since the last time, and says what it was.
fn check(nodes: &[Broker], in_cluster: bool, seen: &mut HashSet<Kind>) {
    for request in nodes.iter().flat_map(Broker::requests) {
        check_request(&request, in_cluster);
        seen.insert(request.kind);
    }
    nodes.iter().for_each(Broker::forget_requests);
    assert_eq!(nodes[0].killed_by(), None);
}

fn check_request(request: &Request, in_cluster: bool) {
    match request.kind {
        Kind::Consume => {
            let fetch = common::fetch(request).unwrap();
            let slots: Vec<_> = fetch.slots().map(|(topic, slot)| (topic, slot.partition)).collect();
            let sizes: u64 = fetch.slots().map(|(_, slot)| u64::from(slot.fetch_size)).sum();
            assert!((1..=250).contains(&slots.len()) && sizes < 1 << 31, "{fetch:?}");
            assert!(!in_cluster || fetch.max_wait_ms == 0 || slots.len() == 1, "{fetch:?}");
            assert!(fetch.slots().all(|(_, slot)| slot.seq != SEQ_TAIL), "{fetch:?}");
            assert!(fetch.topics.iter().all(|topic| !topic.partitions.is_empty()), "{fetch:?}");
            assert_eq!(slots.iter().collect::<HashSet<_>>().len(), slots.len(), "{fetch:?}");
            assert_eq!(fetch.topics.iter().map(|topic| &topic.name).collect::<HashSet<_>>().len(), fetch.topics.len());
        }
        Kind::Produce | Kind::ProduceWithSeqnum => {
            let produce = ProduceRequest::decode(request.kind, &request.payload).unwrap();
            let mut places = HashSet::new();
            for topic in &produce.topics {
                assert!(!topic.partitions.is_empty(), "{produce:?}");
                for entry in &topic.partitions {
                    assert!(places.insert((&topic.name, entry.partition)), "{produce:?}");
                    let header = BundleHeader::decode(&mut Cursor::new(entry.bundle, 0), &Limits::default()).unwrap();
                    assert!(header.count > 0, "{produce:?}");
                    // A dense bundle with a number of its own, or a sparse one without, leaves readers astray.
                    let first = header.sparse.map_or(0, |(first, _)| first);
                    assert_eq!((first, request.kind == Kind::ProduceWithSeqnum), (entry.first_seq, first > 0));
                }
            }
        }
        Kind::DiscoverPartitions => {
            let discover = DiscoverPartitionsRequest::decode(&request.payload).unwrap();
            assert!(discover.partitions.is_empty(), "{discover:?}");
        }
        Kind::CreateTopic => {
            let create = CreateTopicRequest::decode(&request.payload).unwrap();
            assert!(create.partitions > 0 && (!in_cluster || create.partitions <= 64), "{create:?}");
        }
        _ => {}
    }
}

/// Everything a client can do that takes a partition.
fn use_all(client: &Client, topic: &str, partitions: u16) {
    let records = [Record::new(b"1")];
    let by_partition: Vec<_> = (0..partitions).map(|id| PartitionRecords::new(topic, id, &records)).collect();
    for some in by_partition.chunks(200) {
        client.publish_all(some).unwrap().into_iter().for_each(Result::unwrap);
    }
    let mark = client.partitions(topic).unwrap()[0].high_water_mark;
    client.publish_at(topic, 0, &[(mark + 5, records[0]), (mark + 9, records[0])]).unwrap();
    let e = client.publish_at(topic, 0, &[(mark + 10 + (1 << 31), records[0])]).unwrap_err();
    assert!(matches!(e.kind, ErrorKind::Broker { .. }), "{e:?}");
    let mut producer = client.producer().idempotent().build().unwrap();
    (0..partitions).for_each(|id| producer.send_to(topic, id, records[0]).unwrap());
    producer.flush().unwrap();
    let mut producer = client.producer().max_records(1).build().unwrap();
    (0..partitions).for_each(|_| producer.send(topic, records[0]).unwrap());
    producer.flush().unwrap();
    assert_eq!(client.seq_at(topic, 0, UNIX_EPOCH).unwrap(), 1);
    let e = client.partitions("nowhere").unwrap_err();
    assert!(matches!(e.kind, ErrorKind::Broker { .. }), "{e:?}");
    let unknown = Subscription::partition(topic, partitions).start(Start::Earliest);
    assert!(matches!(client.subscribe(unknown), Err(Error { kind: ErrorKind::Broker { .. }, .. })));
    assert!(client.publish(topic, partitions, &records).is_err());
    assert!(client.publish(topic, 0, &[]).is_err());
    client.topics().unwrap();
    client.topology().unwrap();
    client.status().unwrap();
    let _ = client.reload_config(topic, 0);
}

fn in_trouble(cluster: &Cluster, partitions: u16) {
    cluster.node(1).stop();
    cluster.fail_over(1);
    (0..partitions).for_each(|p| cluster.set_leader("orders", p, Some(usize::from(p % 2) * 2)));
}

#[test]
fn nothing_deadly_is_sent_to_a_cluster() {
    within(120, || {
        let (cluster, client) = orders(3, 64);
        let mut seen = HashSet::new();
        client.create_topic("more", 64, &TopicConfig::new()).unwrap();
        assert!(client.create_topic("most", 65, &TopicConfig::new()).is_err());
        for topic in ["orders", "more"] {
            use_all(&client, topic, 64);
            check(cluster.nodes(), true, &mut seen);
        }
        for prefer_local in [false, true] {
            let both = Subscription::topic("orders").and_topic("more", Start::Earliest).start(Start::Earliest);
            let mut iter = client.subscribe(if prefer_local { both.prefer_local() } else { both }).unwrap();
            for _ in 0..3 {
                while iter.next_timeout(Duration::from_millis(50)).unwrap().is_some() {}
                idle_until(&mut iter, |iter| iter.lag() == 0);
                check(cluster.nodes(), true, &mut seen);
                use_all(&client, "orders", 64);
                in_trouble(&cluster, 64);
                cluster.fail_over(1);
                client.publish("orders", 1, &[Record::new(b"1")]).unwrap();
                assert!(iter.next_timeout(SOON).unwrap().is_some());
                cluster.node(1).restart().unwrap();
                check(cluster.nodes(), true, &mut seen);
            }
        }
        let late = quick().connect(addrs(&cluster)).unwrap();
        cluster.set_leader("orders", 0, None);
        let mut iter = late.subscribe(Subscription::topic("orders")).unwrap();
        idle_until(&mut iter, |iter| iter.stats().no_leader > 2);
        cluster.set_leader("orders", 0, Some(1));
        idle_until(&mut iter, |iter| iter.position_of("orders", 0).is_some());
        check(cluster.nodes(), true, &mut seen);
        let all = [Kind::Consume, Kind::Produce, Kind::ProduceWithSeqnum, Kind::DiscoverPartitions, Kind::CreateTopic];
        assert!(all.iter().all(|kind| seen.contains(kind)), "{seen:?}");
    });
}

#[test]
fn nothing_deadly_is_sent_to_a_broker() {
    within(120, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 600);
        let client = quick().connect(broker.addr()).unwrap();
        let mut seen = HashSet::new();
        use_all(&client, "orders", 600);
        check(std::slice::from_ref(&broker), false, &mut seen);
        let mut iter = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
        while iter.next_timeout(Duration::from_millis(50)).unwrap().is_some() {}
        // All of them are waited for, with several requests.
        idle_until(&mut iter, |_| broker.stats().waiting == 3);
        broker.append_payloads("orders", 599, &["1"]);
        assert_eq!(iter.next_timeout(SOON).unwrap().unwrap().partition(), 599);
        check(std::slice::from_ref(&broker), false, &mut seen);
        assert!(seen.contains(&Kind::Consume) && seen.contains(&Kind::ProduceWithSeqnum), "{seen:?}");
    });
}
