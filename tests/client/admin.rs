//! Topics, nodes and their state.

use std::net::SocketAddrV4;
use std::time::{Duration, SystemTime};

use common::server::{Server, unique_name};
use common::watch::{timed_in, within};
use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind};
use tank_client::simulation::Simulation;
use tank_client::{Client, ClientBuilder, Error, ErrorKind, Fault, Record, TopicConfig};

const MS: Duration = Duration::from_millis(1);

fn impatient(builder: ClientBuilder) -> ClientBuilder {
    builder.backoff(MS, 10 * MS).retry_timeout(300 * MS).io_timeout(200 * MS)
}

fn fault(done: Result<(), Error>) -> (String, Option<u16>, Fault) {
    let e = done.unwrap_err();
    (e.topic().unwrap().to_owned(), e.partition(), e.fault().unwrap())
}

#[test]
fn topics_are_created_and_listed() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let (one, many) = (unique_name(), unique_name());
        client.create_topic(&one, 1, &TopicConfig::new()).unwrap();
        let config = TopicConfig::new()
            .set("log.segment.bytes", "1mb")
            .and_then(|config| config.set("log.retention.secs", "1h"))
            .and_then(|config| config.set("log.index.interval.bytes", "4kb"))
            .and_then(|config| config.set("log.cleanup.policy", "cleanup"));
        client.create_topic(&many, 300, &config.unwrap()).unwrap();
        let topics = client.topics().unwrap();
        assert!(topics.is_sorted_by(|a, b| a.name < b.name));
        for (name, partitions) in [(&one, 1), (&many, 300)] {
            let info = topics.iter().find(|info| info.name == **name).unwrap();
            assert_eq!((info.partitions, info.enabled, info.replication_factor), (partitions, true, None));
        }
        // It can be used at once.
        client.publish(&many, 299, &[Record::new(b"x")]).unwrap();
        let infos = client.partitions(&many).unwrap();
        assert_eq!(infos.len(), 300);
        assert_eq!((infos[0].first_available, infos[0].high_water_mark), (0, 0));
        assert_eq!((infos[299].id, infos[299].first_available, infos[299].high_water_mark), (299, 1, 1));
        let again = client.create_topic(&one, 1, &TopicConfig::new());
        assert_eq!(fault(again), (one, None, Fault::TopicExists));
    });
}

#[test]
fn names_and_counts_are_checked_before_anything_is_sent() {
    within(60, || {
        let broker = Broker::start().unwrap();
        let client = Client::connect(broker.addr()).unwrap();
        let long = "x".repeat(65);
        for name in ["", "-", "a-", "-a", "_a", "a_", "a.b", "a b", "ä", &long, "--", "a/b"] {
            let e = client.create_topic(name, 1, &TopicConfig::new()).unwrap_err();
            assert!(matches!(e.kind, ErrorKind::Config { .. }), "{name:?}: {e}");
        }
        let e = client.create_topic("orders", 0, &TopicConfig::new()).unwrap_err();
        assert_eq!(e.to_string(), "orders: 0 partitions given, 1 to 65535 allowed");
        assert!(matches!(client.reload_config("", 0), Err(Error { kind: ErrorKind::Config { .. }, .. })));
        assert_eq!(broker.stats().all_requests(), 0);
        for name in ["a", "1", "a-b_c", "A--b", &long[..64]] {
            client.create_topic(name, 1, &TopicConfig::new()).unwrap();
        }
        client.create_topic("wide", 65_535, &TopicConfig::new()).unwrap();
        assert_eq!(broker.killed_by(), None);
    });
}

#[test]
fn a_creation_whose_answer_is_lost_is_reported_as_that() {
    within(60, || {
        for (trouble, created) in [
            (BrokerFault::LoseAnswer(Kind::CreateTopic), true),
            (BrokerFault::CloseOnRequest(Kind::CreateTopic), false),
        ] {
            let sim = Simulation::new(3);
            let broker = sim.broker();
            let client = impatient(sim.client()).connect(broker.addr()).unwrap();
            broker.inject(trouble);
            let e = client.create_topic("orders", 2, &TopicConfig::new()).unwrap_err();
            assert!(e.kind == ErrorKind::OutcomeUnknown && e.topic() == Some("orders"), "{e}");
            assert_eq!((e.is_retryable(), broker.stats().requests(Kind::CreateTopic)), (false, 1));
            assert_eq!(client.topics().unwrap().len(), usize::from(created));
        }
        let sim = Simulation::new(4);
        // With several brokers the next one is not asked either, unless the first cannot be reached.
        let cluster = sim.cluster(2);
        // The other needs some time to notice that the first is gone.
        let client = impatient(sim.client()).retry_timeout(60_000 * MS).connect(cluster.brokers()).unwrap();
        cluster.node(0).inject(BrokerFault::LoseAnswer(Kind::CreateTopic));
        let e = client.create_topic("orders", 2, &TopicConfig::new()).unwrap_err();
        assert!(e.kind == ErrorKind::OutcomeUnknown, "{e}");
        assert_eq!(cluster.node(1).stats().requests(Kind::CreateTopic), 0);
        cluster.node(0).stop();
        client.create_topic("clicks", 2, &TopicConfig::new()).unwrap();
        assert_eq!(cluster.node(1).stats().requests(Kind::CreateTopic), 1);
    });
}

#[test]
fn a_read_only_broker_creates_and_stores_nothing() {
    within(60, || {
        let sim = Simulation::new(4);
        let broker = sim.broker_with(&Broker::builder().read_only());
        broker.create_topic("orders", 1);
        let client = impatient(sim.client()).connect(broker.addr()).unwrap();
        let created = client.create_topic("clicks", 1, &TopicConfig::new());
        assert_eq!(fault(created), ("clicks".into(), None, Fault::ReadOnly));
        let stored = client.publish("orders", 0, &[Record::new(b"x")]);
        assert_eq!(fault(stored), ("orders".into(), Some(0), Fault::ReadOnly));
    });
}

#[test]
fn a_topic_in_a_cluster_is_ready_once_created() {
    let sim = Simulation::new(1);
    let cluster = sim.cluster_with(&Broker::cluster_builder(3).election_time(200 * MS));
    let client = impatient(sim.client()).retry_timeout(Duration::from_secs(20)).connect(cluster.node(0).addr());
    let client = client.unwrap();
    let e = client.create_topic("orders", 65, &TopicConfig::new()).unwrap_err();
    assert_eq!(e.to_string(), "orders: 65 partitions given, 1 to 64 in a cluster");
    client.create_topic("orders", 64, &TopicConfig::new()).unwrap();
    for id in 0..64 {
        client.publish("orders", id, &[Record::new(b"x")]).unwrap();
    }
    assert_eq!(cluster.killed_by(), None, "a produce request too early kills a node");
    let info = &client.topics().unwrap()[0];
    assert_eq!((info.partitions, info.replication_factor), (64, Some(3)));

    // Leaders that are never found.
    let sim = Simulation::new(2);
    let cluster = sim.cluster_with(&Broker::cluster_builder(2).election_time(Duration::from_secs(60)));
    let client = impatient(sim.client()).connect(cluster.node(0).addr()).unwrap();
    let created = client.create_topic("orders", 2, &TopicConfig::new());
    assert_eq!(fault(created), ("orders".into(), Some(0), Fault::NoLeader));
}

#[test]
fn a_topology_lists_the_nodes_of_a_cluster() {
    within(60, || {
        let broker = Broker::start().unwrap();
        let alone = Client::connect(broker.addr()).unwrap().topology().unwrap();
        assert_eq!((alone.cluster, alone.nodes.len()), (None, 0));

        let cluster = Broker::cluster(3).unwrap();
        cluster.create_topic_with("orders", 6, 2);
        cluster.stop_in_order(2);
        cluster.node(1).stop();
        let topology = Client::connect(cluster.node(0).addr()).unwrap().topology().unwrap();
        assert_eq!(topology.cluster.as_deref(), Some("embedded"));
        let endpoint = |node: usize| match cluster.node(node).addr() {
            std::net::SocketAddr::V4(addr) => Some(addr),
            std::net::SocketAddr::V6(_) => None::<SocketAddrV4>,
        };
        let nodes: Vec<_> = topology.nodes.iter().map(|node| (node.id, node.endpoint, node.available)).collect();
        assert_eq!(nodes, [(1, endpoint(0), true), (2, endpoint(1), false), (3, None, false)]);
        assert_eq!(topology.nodes.iter().map(|node| node.partitions).sum::<u16>(), 12);
    });
}

#[test]
fn a_status_and_a_ping_are_answered() {
    within(60, || {
        let server = Server::start();
        let client = server.client();
        let before = client.status().unwrap();
        server.topic(5);
        let status = client.status().unwrap();
        assert!(status.topics > before.topics && status.partitions >= before.partitions + 5);
        assert_eq!((status.cluster, status.version), (None, Some((4, 0))));
        assert!(status.open_partitions.is_some() && status.open_time.is_some());
        assert!(status.started.unwrap() <= SystemTime::now() + Duration::from_secs(1));
        assert!(client.ping().unwrap() > Duration::ZERO);

        let cluster = Broker::cluster(3).unwrap();
        cluster.node(2).stop();
        let status = Client::connect(cluster.node(0).addr()).unwrap().status().unwrap();
        assert_eq!((status.cluster.as_deref(), status.nodes), (Some("embedded"), Some(2)));
    });
}

#[test]
fn a_ping_takes_as_long_as_the_answer() {
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.inject(BrokerFault::LatePing(150 * MS));
    broker.inject(BrokerFault::LatePing(150 * MS));
    let client = impatient(sim.client()).connect(broker.brokers()).unwrap();
    broker.disconnect_all();
    let trip = 5 * MS;
    sim.sleep(trip);
    let (ping, took) = timed_in(&sim, || client.ping().unwrap());
    assert!(ping <= trip && took >= 150 * MS, "dialing does not count: {ping:?} of {took:?}");
    broker.inject(BrokerFault::Delay(100 * MS));
    let ping = client.ping().unwrap();
    assert!(ping >= 100 * MS && ping <= 100 * MS + trip, "{ping:?}");
    broker.inject(BrokerFault::Delay(5000 * MS));
    assert!(client.ping().unwrap_err().is_timeout());
}

#[test]
fn reloading_a_configuration_says_what_came_of_it() {
    within(60, || {
        let sim = Simulation::new(5);
        let broker = sim.broker();
        broker.create_topic("orders", 2);
        let client = impatient(sim.client()).connect(broker.addr()).unwrap();
        let orders = |id| ("orders".to_owned(), Some(id));
        let place = |(topic, partition, fault)| ((topic, partition), fault);
        assert_eq!(place(fault(client.reload_config("orders", 0))), (orders(0), Fault::InvalidConfig));
        broker.set_config("orders", 0, Some("log.segment.bytes = what"));
        assert_eq!(place(fault(client.reload_config("orders", 0))), (orders(0), Fault::InvalidConfig));
        broker.set_config("orders", 0, Some("log.segment.bytes = 1mb"));
        client.reload_config("orders", 0).unwrap();
        assert_eq!(place(fault(client.reload_config("orders", 2))), (orders(2), Fault::UnknownPartition));
        assert_eq!(fault(client.reload_config("gone", 0)), ("gone".into(), None, Fault::UnknownTopic));

        let cluster = sim.cluster(2);
        cluster.create_topic("orders", 1);
        let client = impatient(sim.client()).connect(cluster.node(0).addr()).unwrap();
        assert_eq!(place(fault(client.reload_config("orders", 0))), (orders(0), Fault::Unsupported));
    });
}

#[test]
fn any_of_several_brokers_will_do() {
    within(60, || {
        let sim = Simulation::new(6);
        let cluster = sim.cluster(3);
        cluster.create_topic("orders", 1);
        let client = impatient(sim.client()).connect(cluster.brokers()).unwrap();
        cluster.node(0).stop();
        assert_eq!(client.topics().unwrap().len(), 1);
        cluster.node(1).stop();
        assert_eq!(client.topics().unwrap().len(), 1);
        cluster.node(2).stop();
        let e = client.topics().unwrap_err();
        assert!(e.kind == ErrorKind::Connect && e.broker().unwrap().split(',').count() == 3, "{e}");
        cluster.node(1).restart().unwrap();
        assert_eq!(client.topics().unwrap().len(), 1);
    });
}

#[test]
fn a_partition_that_cannot_be_opened_is_reported_with_its_broker() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 2);
    broker.set_broken("orders", 1, true);
    let e = Client::connect(broker.addr()).unwrap().partitions("orders").unwrap_err();
    let addr = broker.addr().to_string();
    assert_eq!((e.broker(), e.partition(), e.fault()), (Some(addr.as_str()), Some(1), Some(Fault::System)));
}
