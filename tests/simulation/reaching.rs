//! Names, addresses and descriptors in the simulated world: how brokers are reached, and when that is given up.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tank_client::simulation::{Direction, LinkSettings, Simulation};
use tank_client::{Record, Start, Subscription};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn nobody(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 9, 9, n).into()
}

#[test]
fn a_look_up_may_take_longer_than_connecting() {
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    sim.set_name("tank-1", &[sim.address_of("broker")]);
    sim.delay_name("tank-1", 11 * SECOND);
    let client = sim.client().connect_timeout(2 * SECOND).connect("tank-1").unwrap();
    assert!(sim.now() < 13 * SECOND, "{:?}", sim.now());
    // A lost connection must be dialed again, also by callers that may not wait for a look-up.
    let mut orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
    let mut producer = client.producer().max_records(1).build().unwrap();
    producer.send_to("orders", 0, Record::new("tea")).unwrap();
    producer.flush().unwrap();
    assert!(orders.next().unwrap().is_ok());
    for n in 0..3 {
        sim.cut("broker");
        sim.sleep(SECOND);
        producer.send_to("orders", 0, Record::new("tea")).unwrap();
        let found = (0..1000).find_map(|_| {
            let begun = sim.now();
            producer.poll().unwrap();
            let found = orders.next_timeout(Duration::ZERO).unwrap();
            assert_eq!(sim.now(), begun, "a look-up in a call that must not wait");
            sim.sleep(20 * MS);
            found
        });
        assert!(found.is_some(), "round {n}");
    }
}

#[test]
fn a_name_of_many_addresses_is_reached_over_a_long_line() {
    for (count, timeout) in [(8, 3), (32, 10)] {
        let sim = Simulation::new(2);
        let broker = sim.broker();
        let mut addresses: Vec<IpAddr> = (1..count).map(nobody).collect();
        // Only the last one is alive.
        addresses.push(sim.address_of("broker"));
        sim.set_name("many", &addresses);
        sim.set_links(&LinkSettings::default().latency(125 * MS..126 * MS));
        let client = sim.client().connect_timeout(timeout * SECOND).connect("many").unwrap();
        client.ping().unwrap();
        drop(broker);
    }
}

#[test]
fn a_dead_first_address_costs_a_moment_once() {
    let sim = Simulation::new(3);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    sim.set_name("dual", &[nobody(1), sim.address_of("broker")]);
    let client = sim.client().connect("dual").unwrap();
    assert!(sim.now() < 400 * MS, "{:?}", sim.now());
    for n in 0..5 {
        sim.cut("broker");
        sim.sleep(SECOND);
        let begun = sim.now();
        client.publish("orders", 0, &[Record::new("tea")]).unwrap();
        client.status().unwrap();
        let took = sim.now() - begun;
        assert!(took < 400 * MS, "round {n}: {took:?}");
    }
}

#[test]
fn redirects_to_known_brokers_take_no_look_up_later() {
    let sim = Simulation::new(4);
    let cluster = sim.cluster(3);
    cluster.create_topic("orders", 3);
    for node in 0..3 {
        let name = format!("tank-{node}");
        sim.set_name(&name, &[sim.address_of(&format!("node-{node}"))]);
    }
    let client = sim.client().known_brokers_only(true).connect("tank-0,tank-1,tank-2").unwrap();
    (0..3).for_each(|node| sim.delay_name(&format!("tank-{node}"), 20 * SECOND));
    let begun = sim.now();
    (0..3).for_each(|partition| client.publish("orders", partition, &[Record::new("tea")]).unwrap());
    let all = client.subscribe(Subscription::topic("orders").start(Start::Earliest).stop_at_end()).unwrap();
    assert_eq!(all.inspect(|message| assert!(message.is_ok())).count(), 3);
    assert!(sim.now() - begun < 5 * SECOND, "{:?}", sim.now() - begun);
}

#[test]
fn redirects_to_known_brokers_count_names_that_could_not_be_looked_up_at_first_or_stand_for_something_else_now() {
    let sim = Simulation::new(6);
    let cluster = sim.cluster(2);
    cluster.create_topic("orders", 2);
    let at = |node: u8| sim.address_of(&format!("node-{node}"));
    sim.set_name("tank-0", &[at(0)]);
    // A service that has moved since, and a name server that knows nothing yet.
    sim.set_name("tank-1", &[nobody(1)]);
    sim.fail_name("tank-1", true);
    let client = sim.client().known_brokers_only(true).connect("tank-0,tank-1").unwrap();
    let publish = || (0..2).map(|id| client.publish("orders", id, &[Record::new("tea")]));
    let refused: Vec<_> = publish().filter_map(Result::err).collect();
    assert!(
        matches!(refused[..], [tank_client::Error { kind: tank_client::ErrorKind::Broker { .. }, .. }]),
        "{refused:?}"
    );
    sim.fail_name("tank-1", false);
    sim.set_name("tank-1", &[at(1)]);
    // With the first broker out of reach for a while, the second one is dialed by its name.
    sim.separate("client", "node-0");
    client.status().unwrap();
    sim.rejoin("client", "node-0");
    sim.sleep(20 * SECOND);
    publish().for_each(|done| done.unwrap());
}

#[test]
fn a_lack_of_descriptors_is_reported_at_once() {
    let sim = Simulation::new(5);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().connect(broker.brokers()).unwrap();
    sim.cut("broker");
    sim.sleep(SECOND);
    sim.limit_descriptors("client", Some(0));
    let told = |what: &str, done: Result<(), tank_client::Error>| {
        let begun = sim.now();
        let e = done.unwrap_err();
        let causes = std::iter::successors(Some(&e as &dyn std::error::Error), |e| e.source());
        let causes: Vec<_> = causes.map(ToString::to_string).collect();
        assert!(causes.join(": ").contains("open files"), "{what}: {causes:?}");
        assert!(sim.now() - begun < SECOND);
    };
    let begun = sim.now();
    told("publish", client.publish("orders", 0, &[Record::new("tea")]));
    told("partitions", client.partitions("orders").map(drop));
    told("subscribe", client.subscribe("orders").and_then(|mut orders| orders.next().unwrap()).map(drop));
    let mut producer = client.producer().build().unwrap();
    let sent = producer.send_to("orders", 0, Record::new("tea")).and_then(|()| producer.flush());
    assert!(sent.is_err());
    assert!(sim.now() - begun < SECOND, "{:?}", sim.now() - begun);
    sim.limit_descriptors("client", None);
    client.publish("orders", 0, &[Record::new("tea")]).unwrap();
}

#[test]
fn a_time_out_on_one_connection_is_not_repeated_on_each_that_was_idle_beside_it() {
    let sim = Simulation::new(7);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().connect(broker.brokers()).unwrap();
    let ask = |n: usize| {
        let client = client.clone();
        sim.spawn(&format!("asker-{n}"), move || client.status().map(drop).unwrap())
    };
    let askers: Vec<_> = (0..4).map(ask).collect();
    askers.into_iter().for_each(|asker| asker.join());
    // An asker may take what another one has just given back.
    assert!(sim.open_sockets("client") >= 3);
    sim.silence("broker", Direction::Both);
    let begun = sim.now();
    client.status().unwrap();
    let took = sim.now() - begun;
    assert!(took > 29 * SECOND && took < 32 * SECOND, "{took:?}");
}

#[test]
fn a_world_has_room_for_hundreds_of_hosts() {
    let sim = Simulation::new(20);
    let broker = sim.broker();
    for n in 0..300 {
        sim.client_on(&format!("shop-{n}")).connect(broker.brokers()).unwrap();
    }
}

#[test]
fn what_befalls_all_brokers_is_the_kind_of_the_error() {
    let sim = Simulation::new(22);
    let cluster = sim.cluster(2);
    let failure = || sim.client().connect(cluster.brokers()).unwrap_err();
    cluster.nodes().iter().for_each(|node| node.pause());
    assert!(failure().is_timeout(), "{:#}", failure());
    cluster.node(0).stop();
    assert!(!failure().is_timeout(), "{:#}", failure());
    cluster.node(1).stop();
    assert_eq!(std::io::Error::from(failure()).kind(), std::io::ErrorKind::ConnectionRefused);
}
