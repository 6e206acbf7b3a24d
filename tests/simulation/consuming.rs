//! Consuming in the simulated world: trouble that is noticed, got over, or reported in time.

use std::time::Duration;

use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind, dense_bundle};
use tank_client::simulation::{LinkSettings, Service, Simulation};
use tank_client::{Client, Compression, ConsumeIter, Error, ErrorKind, Fault, OutOfRange, Record, Start, Subscription};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn numbers(count: u64) -> Vec<String> {
    (1..=count).map(|n| n.to_string()).collect()
}

/// Polls without waiting, every 5 ms, until something happens or that time is over.
fn poll(sim: &Simulation, all: &mut ConsumeIter, most: Duration) -> tank_client::Result<Option<u64>> {
    let begun = sim.now();
    while sim.now() - begun < most {
        let before = sim.now();
        let found = all.next_timeout(Duration::ZERO);
        assert_eq!(sim.now(), before, "it waited");
        if let Some(message) = found? {
            return Ok(Some(message.seq()));
        }
        sim.sleep(5 * MS);
    }
    Ok(None)
}

#[test]
fn who_only_polls_notices_a_broker_that_hangs() {
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    broker.append_payloads("orders", 0, &["tea"]);
    let client = sim.client().io_timeout(2 * SECOND).retry_timeout(Duration::ZERO).connect(broker.brokers()).unwrap();
    let from_start = Subscription::topic("orders").start(Start::Earliest).max_wait(SECOND);
    let mut orders = client.subscribe(from_start).unwrap();
    assert_eq!(poll(&sim, &mut orders, SECOND).unwrap(), Some(1));
    assert_eq!(poll(&sim, &mut orders, 10 * SECOND).unwrap(), None);
    broker.pause();
    let begun = sim.now();
    assert!(poll(&sim, &mut orders, 10 * SECOND).unwrap_err().is_timeout());
    assert!(sim.now() - begun < 4 * SECOND, "{:?}", sim.now() - begun);
}

#[test]
fn who_only_polls_follows_a_new_leader() {
    let sim = Simulation::new(2);
    let cluster = sim.cluster(3);
    cluster.create_topic("orders", 1);
    let client = sim.client().io_timeout(2 * SECOND).connect(cluster.brokers()).unwrap();
    client.publish("orders", 0, &[Record::new("tea")]).unwrap();
    let mut orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
    assert_eq!(poll(&sim, &mut orders, SECOND).unwrap(), Some(1));
    let leader = cluster.leader("orders", 0).unwrap();
    cluster.node(leader).pause();
    sim.sleep(30 * SECOND);
    assert_ne!(cluster.leader("orders", 0), Some(leader));
    sim.client().connect(cluster.brokers()).unwrap().publish("orders", 0, &[Record::new("milk")]).unwrap();
    assert!(poll(&sim, &mut orders, 30 * SECOND).unwrap().is_some());
}

#[test]
fn who_looks_in_rarely_gets_over_lost_connections() {
    // A broker hangs up after 16 s without a byte. Over the longer line a call is too short for a handshake.
    for (latency, greets_after, pause) in [(MS, 30 * MS, 20 * SECOND), (40 * MS, Duration::ZERO, 10 * SECOND)] {
        let sim = Simulation::new(3);
        let broker = sim.broker();
        broker.create_topic("orders", 1);
        broker.inject_times(BrokerFault::LatePing(greets_after), u64::MAX);
        sim.set_links(&LinkSettings::default().latency(latency..latency + MS));
        let client = sim.client().retry_timeout(6 * SECOND).connect(broker.brokers()).unwrap();
        let mut orders = client.subscribe(Subscription::partition("orders", 0)).unwrap();
        orders.next_timeout(SECOND).unwrap();
        for n in 1..=10 {
            assert_eq!(orders.next_timeout(5 * MS).unwrap(), None);
            sim.sleep(pause);
            sim.cut("broker");
            sim.sleep(pause);
            broker.append_payloads("orders", 0, &["tea"]);
            let found = (0..6).find_map(|_| {
                sim.sleep(pause);
                orders.next_timeout(5 * MS).unwrap()
            });
            assert_eq!(found.map(|message| message.seq()), Some(n), "with {latency:?}");
        }
    }
}

#[test]
fn connections_lost_in_long_healthy_waits_are_not_one_long_trouble() {
    let sim = Simulation::new(4);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().retry_timeout(2 * SECOND).connect(broker.brokers()).unwrap();
    let mut orders = client.subscribe(Subscription::topic("orders").max_wait(600 * SECOND)).unwrap();
    let world = sim.clone();
    sim.every(100 * SECOND, move || world.cut("broker"));
    let late = broker.clone();
    sim.after(1050 * SECOND, move || _ = late.append_payloads("orders", 0, &["tea"]));
    assert_eq!(orders.next().unwrap().unwrap().seq(), 1);
}

#[test]
fn the_last_attempt_comes_when_the_budget_ends_however_long_the_pauses() {
    for budget in [2, 9, 20] {
        let sim = Simulation::new(4);
        let broker = sim.broker();
        broker.create_topic("orders", 3);
        let client = sim.client().retry_timeout(budget * SECOND).backoff(SECOND, 60 * SECOND);
        let client = client.connect(broker.brokers()).unwrap();
        let mut orders = client.subscribe(Subscription::topic("orders")).unwrap();
        assert_eq!(orders.next_timeout(SECOND).unwrap(), None);
        broker.stop();
        let begun = sim.now();
        orders.next().unwrap().unwrap_err();
        let took = sim.now() - begun;
        assert!((budget * SECOND..budget * SECOND + SECOND / 10).contains(&took), "{budget} s: {took:?}");
    }
}

#[test]
fn without_a_budget_a_look_for_new_partitions_does_not_storm_a_broker_that_is_gone() {
    let sim = Simulation::new(4);
    let cluster = sim.cluster(2);
    cluster.create_topic_with("orders", 1, 1);
    let leader = cluster.leader("orders", 0).unwrap();
    let both: Vec<String> = [1 - leader, leader].map(|node| cluster.addrs()[node].to_string()).into();
    let client = sim.client().retry_timeout(Duration::ZERO).connect(&*both.join(",")).unwrap();
    let mut orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
    // Nothing is in flight while its caller has a message.
    cluster.node(leader).append_payloads("orders", 0, &["tea"]);
    assert!(orders.next().is_some());
    cluster.kill(1 - leader);
    cluster.node(leader).disconnect_all();
    let before = sim.counts().connections;
    assert_eq!(orders.next_timeout(10 * SECOND).unwrap(), None);
    let connections = sim.counts().connections - before;
    assert!((1..10).contains(&connections), "{connections}");
    cluster.node(leader).append_payloads("orders", 0, &["milk"]);
    assert!(orders.next_timeout(SECOND).unwrap().is_some());
}

#[test]
fn a_stop_condition_that_holds_already_ends_it_at_once() {
    let sim = Simulation::new(5);
    let broker = sim.broker();
    broker.create_topic("orders", 2);
    broker.append_payloads("orders", 0, &numbers(20));
    let client = sim.client().connect(broker.brokers()).unwrap();
    for (partition, start, stop) in [
        (0, Start::At(11), 5),
        (0, Start::At(6), 5),
        (0, Start::Latest, 3),
        (1, Start::Earliest, 0),
        (1, Start::Latest, 0),
    ] {
        let all = Subscription::partition("orders", partition).start(start).stop_at_seq(stop).max_wait(3600 * SECOND);
        let mut all = client.subscribe(all).unwrap();
        let begun = sim.now();
        assert!(all.next().is_none() && all.is_finished());
        assert!(sim.now() - begun < SECOND, "{start:?} up to {stop} of {partition}");
    }
}

#[test]
fn stop_at_end_ends_where_the_log_became_shorter() {
    let sim = Simulation::new(6);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    (0..10).for_each(|_| _ = broker.append_payloads("orders", 0, &["tea"]));
    let client = sim.client().connect(broker.brokers()).unwrap();
    let all = Subscription::partition("orders", 0).start(Start::Earliest).stop_at_end().fetch_size(1);
    let mut all = client.subscribe(all).unwrap();
    (1..=3).for_each(|n| assert_eq!(all.next().unwrap().unwrap().seq(), n));
    broker.truncate_back("orders", 0, 6);
    assert!(all.all(|message| message.unwrap().seq() <= 6));
    assert!(all.is_finished() && sim.now() < 30 * SECOND, "{:?}", sim.now());
}

#[test]
fn waits_too_short_to_ask_for_are_no_flood() {
    for wait in [Duration::ZERO, Duration::from_micros(900)] {
        let sim = Simulation::new(7);
        let broker = sim.broker();
        broker.create_topic("orders", 1);
        let client = sim.client().connect(broker.brokers()).unwrap();
        let mut orders = client.subscribe(Subscription::partition("orders", 0).max_wait(wait)).unwrap();
        assert_eq!(orders.next_timeout(10 * SECOND).unwrap(), None);
        assert!(orders.stats().fetches < 1000, "{wait:?}: {} fetches in 10 s", orders.stats().fetches);
    }
}

#[test]
fn a_leader_that_is_slow_to_greet_costs_no_loop() {
    let sim = Simulation::new(8);
    let cluster = sim.cluster_with(&Broker::cluster_builder(2).replication_factor(1));
    cluster.create_topic("orders", 2);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    for node in cluster.nodes() {
        node.disconnect_all();
        node.inject(BrokerFault::LatePing(4 * SECOND));
    }
    sim.sleep(SECOND);
    let before = sim.counts().waits;
    let mut orders = client.subscribe("orders").unwrap();
    orders.next_timeout(10 * SECOND).unwrap();
    let waits = sim.counts().waits - before;
    assert!(waits < 200, "{waits} looks in {:?}", sim.now());
}

#[test]
fn next_timeout_holds_while_a_request_trickles_out() {
    let sim = Simulation::new(9);
    let broker = sim.broker();
    let topics: Vec<String> = (0..200).map(|n| format!("{n:0200}")).collect();
    topics.iter().for_each(|topic| broker.create_topic(topic, 1));
    let client = sim.client().connect(broker.brokers()).unwrap();
    let mut all = Subscription::partition(topics[0].clone(), 0).start(Start::At(1));
    for topic in &topics[1..] {
        all = all.and_partition(topic.clone(), 0, Start::At(1));
    }
    sim.set_links(&LinkSettings::default().bandwidth(5_000));
    let mut all = client.subscribe(all).unwrap();
    broker.append_payloads(&topics[7], 0, &["tea"]);
    let found = (0..2000).find_map(|_| {
        let begun = sim.now();
        let found = all.next_timeout(200 * MS).unwrap();
        assert!(sim.now() - begun <= 201 * MS, "{:?}", sim.now() - begun);
        found
    });
    assert_eq!(found.unwrap().payload(), b"tea");
}

#[test]
fn another_service_at_the_leaders_address_is_waited_out_and_then_reported() {
    for service in [Service::Http, Service::Mute, Service::Greeting(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())] {
        let sim = Simulation::new(10);
        let broker = sim.broker();
        broker.create_topic("orders", 1);
        let client = sim.client().connect_timeout(2 * SECOND).connect(broker.brokers()).unwrap();
        let mut orders = client.subscribe("orders").unwrap();
        assert_eq!(orders.next_timeout(SECOND).unwrap(), None);
        sim.take_over("broker", service.clone());
        let (world, late) = (sim.clone(), broker.clone());
        sim.after(20 * SECOND, move || {
            world.take_over("broker", None);
            late.append_payloads("orders", 0, &["tea"]);
        });
        assert_eq!(orders.next().unwrap().unwrap().payload(), b"tea");
        sim.take_over("broker", service);
        let begun = sim.now();
        orders.next().unwrap().unwrap_err();
        let took = sim.now() - begun;
        assert!(took >= 55 * SECOND && took < 75 * SECOND, "{took:?}");
    }
}

/// A log whose numbers jump where its active segment begins: a server that is asked for one of them dies.
fn leave_a_gap(broker: &Broker) {
    use tank_client::Compression;
    use tank_client::broker::sparse_bundle;
    broker.append_payloads("orders", 0, &numbers(10));
    broker.roll_segment("orders", 0);
    broker.append_payloads("orders", 0, &["11"]);
    let message = |payload| Record::new(payload).timestamp_ms(1000);
    broker.compact("orders", 0, &[&sparse_bundle(&[(2, message(b"2")), (5, message(b"5"))], Compression::None)]);
}

/// How often a broker was asked for a number in that gap.
fn deaths(broker: &Broker) -> usize {
    let fetches = broker.requests().into_iter().filter_map(|request| common::fetch(&request).ok());
    fetches.filter(|fetch| fetch.slots().any(|(_, slot)| (6..=10).contains(&slot.seq))).count()
}

#[test]
fn a_gap_that_kills_a_server_kills_it_twice_at_most_and_says_how_to_skip_it() {
    let sim = Simulation::new(11);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    leave_a_gap(&broker);
    let client = sim.client().connect(broker.brokers()).unwrap();
    broker.forget_requests();
    let mut all = client.subscribe(Subscription::topic("orders").start(Start::Earliest).stop_at_end()).unwrap();
    assert_eq!([2, 5].map(|_| all.next().unwrap().unwrap().seq()), [2, 5]);
    let e = all.next().unwrap().unwrap_err();
    assert!(e.fault() == Some(Fault::Deadly { seq: 6, mark: 11 }), "{e:?}");
    assert!(e.to_string().contains("11"), "{e}");
    assert!(deaths(&broker) <= 2, "sent {} times", deaths(&broker));
    let skipped = Subscription::partition("orders", 0).start(Start::At(11)).stop_at_end();
    assert_eq!(client.subscribe(skipped).unwrap().map(|message| message.unwrap().seq()).collect::<Vec<_>>(), [11]);
    sim.sleep(10 * SECOND);
    broker.forget_requests();
    drop(client.seq_at("orders", 0, std::time::UNIX_EPOCH + 5 * SECOND));
    assert!(deaths(&broker) <= 2, "seq_at sent it {} times", deaths(&broker));
}

#[test]
fn whoever_begins_in_a_deadly_gap_kills_a_leader_twice_at_most() {
    // Nobody but the leader knows the mark. The connection to it is a new one, or one that has been idle for a while.
    for is_pooled in [false, true] {
        let sim = Simulation::new(15);
        let cluster = sim.cluster_with(&Broker::cluster_builder(3).replication_factor(1));
        cluster.create_topic("orders", 1);
        let leader = cluster.node(cluster.leader("orders", 0).unwrap());
        leave_a_gap(leader);
        let client = sim.client().connect(cluster.brokers()).unwrap();
        if is_pooled {
            client.publish("orders", 0, &[Record::new("12")]).unwrap();
            sim.sleep(5 * SECOND);
        }
        leader.forget_requests();
        let mut all = client.subscribe(Subscription::partition("orders", 0).start(Start::At(6))).unwrap();
        let e = all.next().unwrap().unwrap_err();
        let mark = if is_pooled { 12 } else { 11 };
        let is_named =
            matches!(e.kind, ErrorKind::Broker { fault: Fault::Deadly { seq: 6, mark: named }, .. } if named == mark);
        assert!(is_named, "{e:?}");
        assert!((1..=2).contains(&deaths(leader)), "sent {} times", deaths(leader));
    }
}

#[test]
fn an_idle_connection_that_ends_in_a_gap_counts_too() {
    // Who looks in rarely finds it ended long after that.
    for pause in [5 * SECOND, 40 * SECOND] {
        let sim = Simulation::new(16);
        let broker = sim.broker();
        broker.create_topic("orders", 1);
        leave_a_gap(&broker);
        let client = sim.client().retry_timeout(600 * SECOND).connect(broker.brokers()).unwrap();
        let mut all = client.subscribe(Subscription::topic("orders").start(Start::Earliest).fetch_size(1)).unwrap();
        broker.forget_requests();
        let e = (0..100).find_map(|_| {
            sim.sleep(pause);
            all.next_timeout(5 * MS).err()
        });
        let is_named =
            matches!(e, Some(Error { kind: ErrorKind::Broker { fault: Fault::Deadly { seq: 6, mark: 11 }, .. }, .. }));
        assert!(is_named && deaths(&broker) <= 2, "{} times: {e:?}", deaths(&broker));
    }
}

#[test]
fn partitions_added_while_an_idle_connection_had_ended_are_found() {
    let sim = Simulation::new(17);
    let (before, after) = (sim.broker(), sim.broker());
    before.create_topic("orders", 1);
    after.create_topic("orders", 2);
    after.append_payloads("orders", 1, &["milk"]);
    sim.set_name("log", &[before.addr().ip()]);
    let client = sim.client().connect(format!("log:{}", before.addr().port())).unwrap();
    let mut orders = client.subscribe("orders").unwrap();
    assert_eq!(orders.next_timeout(SECOND).unwrap(), None);
    // The answer to its wait has come meanwhile; the connection ends, and the server comes back with one more folder.
    sim.sleep(30 * SECOND);
    before.disconnect_all();
    sim.set_name("log", &[after.addr().ip()]);
    sim.sleep(SECOND);
    let found = orders.next_timeout(4 * SECOND).unwrap().expect("the first message of the new partition");
    assert_eq!((found.partition(), found.payload()), (1, &b"milk"[..]));
    assert_eq!(orders.stats().reconnects, 0, "nothing was lost");
    assert_eq!(orders.next_timeout(20 * SECOND).unwrap(), None);
    let asked = after.requests().into_iter().filter_map(|request| common::fetch(&request).ok());
    let probes = asked.filter(|fetch| fetch.slots().any(|(_, slot)| slot.partition == 2)).count();
    assert_eq!(probes, 1, "asked for once a connection");
}

#[test]
fn a_partition_that_is_found_later_continues_where_it_is_resumed() {
    let sim = Simulation::new(18);
    // A node that does not know the whole topic yet, and one that does.
    let (before, after) = (sim.broker(), sim.broker());
    before.create_topic("orders", 1);
    after.create_topic("orders", 3);
    numbers(3).iter().for_each(|n| _ = after.append_payloads("orders", 1, &[n]));
    numbers(2).iter().for_each(|n| _ = after.append_payloads("orders", 2, &[n]));
    sim.set_name("log", &[before.addr().ip()]);
    let client = sim.client().connect(format!("log:{}", before.addr().port())).unwrap();
    let done = "orders/0=1 orders/1=3".parse().unwrap();
    let mut orders = client.subscribe(Subscription::topic("orders").resume(&done)).unwrap();
    assert_eq!(orders.next_timeout(SECOND).unwrap(), None);
    before.stop();
    sim.set_name("log", &[after.addr().ip()]);
    let mut found = orders.next_many(9, 20 * SECOND).unwrap();
    found.sort_by_key(|message| (message.partition(), message.seq()));
    assert_eq!(
        found.iter().map(|message| (message.partition(), message.seq())).collect::<Vec<_>>(),
        [(1, 3), (2, 1), (2, 2)]
    );
    assert_eq!(orders.positions().to_string(), "orders/0=1 orders/1=4 orders/2=3");
}

#[test]
fn partitions_named_one_by_one_cost_as_many_requests_as_all_of_them() {
    let sim = Simulation::new(19);
    let cluster = sim.cluster_with(&Broker::cluster_builder(3).replication_factor(1));
    cluster.create_topic("orders", 60);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    drop(client.subscribe("orders").unwrap());
    let asked = |all: Subscription| {
        cluster.nodes().iter().for_each(Broker::forget_requests);
        drop(client.subscribe(all).unwrap());
        cluster.nodes().iter().map(|node| node.requests().len()).sum::<usize>()
    };
    let whole = asked("orders".into());
    let named =
        (1..60).fold(Subscription::partition("orders", 0), |all, id| all.and_partition("orders", id, Start::Latest));
    assert_eq!(asked(named), whole);
    // Each partition is waited for by itself.
    assert!(whole <= 60 + 10, "{whole} requests");
}

#[test]
fn three_messages_that_are_lost_do_not_bring_back_all_others() {
    for policy in [OutOfRange::Fail, OutOfRange::Latest, OutOfRange::Earliest] {
        let sim = Simulation::new(12);
        let broker = sim.broker();
        broker.create_topic("orders", 1);
        (0..100).for_each(|_| _ = broker.append_payloads("orders", 0, &["tea"]));
        let client = sim.client().connect(broker.brokers()).unwrap();
        let all = Subscription::topic("orders").start(Start::Earliest).out_of_range(OutOfRange::Earliest);
        let mut all = client.subscribe(all.beyond_end(policy)).unwrap();
        (1..=100).for_each(|n| assert_eq!(all.next().unwrap().unwrap().seq(), n));
        broker.stop();
        broker.truncate_back("orders", 0, 97);
        broker.restart().unwrap();
        let next = all.next_timeout(20 * SECOND);
        match policy {
            OutOfRange::Earliest => assert_eq!(next.unwrap().unwrap().seq(), 1, "as was asked for"),
            OutOfRange::Latest => {
                assert_eq!(next.unwrap(), None);
                broker.append_payloads("orders", 0, &["milk"]);
                assert_eq!(all.next().unwrap().unwrap().seq(), 98);
            }
            _ => assert!(matches!(next, Err(Error { kind: ErrorKind::OutOfRange { .. }, .. })), "{next:?}"),
        }
    }
}

#[test]
fn a_retention_that_moves_on_does_not_starve_a_reader() {
    let sim = Simulation::new(14);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    for n in 1..=2000u64 {
        broker.append_payloads("orders", 0, &[n.to_string()]);
        broker.roll_segment("orders", 0);
    }
    sim.set_links(&LinkSettings::default().latency(10 * MS..20 * MS));
    let client = sim.client().retry_timeout(5 * SECOND).connect(broker.brokers()).unwrap();
    let all = Subscription::topic("orders").start(Start::At(1)).out_of_range(OutOfRange::Earliest);
    let moving = broker.clone();
    // One message goes every 30 ms, for as long as a minute.
    sim.every(30 * MS, move || {
        let first = moving.first_available("orders", 0);
        if first < 2000 {
            moving.truncate_front("orders", 0, first + 1);
        }
    });
    let mut all = client.subscribe(all).unwrap();
    assert!(all.next_timeout(10 * SECOND).unwrap().is_some(), "{:?} at {:?}", all.stats(), all.positions());
}

#[test]
fn what_lies_above_the_mark_is_asked_for_with_pauses_and_reported_unless_the_mark_moves() {
    let sim = Simulation::new(18);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    (1..=20).for_each(|_| _ = broker.append_payloads("orders", 0, &["tea"]));
    let client = sim.client().retry_timeout(6 * SECOND).connect(broker.brokers()).unwrap();
    let all = || client.subscribe(Subscription::partition("orders", 0).start(Start::At(11))).unwrap();
    // It moves, more slowly than anybody would wait for it to stand still.
    (1..=8).for_each(|n| broker.inject_times(BrokerFault::LowMark(n), 5));
    let mut messages = all();
    assert_eq!(messages.next().unwrap().unwrap().seq(), 11);
    assert!(sim.now() > 6 * SECOND, "after {:?}", sim.now());
    drop(messages);
    // It stands still.
    broker.clear_faults();
    broker.inject_times(BrokerFault::LowMark(10), u64::MAX);
    let (begun, mut messages) = (sim.now(), all());
    let e = messages.next().unwrap().unwrap_err();
    assert!(e.fault() == Some(Fault::Stuck { seq: 11 }), "{e:?}");
    let (took, fetches) = (sim.now() - begun, messages.stats().fetches);
    assert!(took >= 6 * SECOND && took < 7 * SECOND && fetches < 50, "{fetches} fetches in {took:?}");
}

#[test]
fn whatever_is_called_waits_while_the_broker_is_away_for_a_moment() {
    type Call = fn(&Client) -> tank_client::Result<()>;
    let calls: [(&str, Call); 11] = [
        ("publish", |client| client.publish("orders", 0, &[Record::new("x")])),
        ("publish_at", |client| client.publish_at("orders", 1, &[(1000, Record::new("x"))])),
        ("subscribe", |client| client.subscribe(Subscription::topic("orders").start(Start::Earliest)).map(drop)),
        ("partitions", |client| client.partitions("orders").map(drop)),
        ("topics", |client| client.topics().map(drop)),
        ("status", |client| client.status().map(drop)),
        ("seq_at", |client| client.seq_at("orders", 0, std::time::UNIX_EPOCH + SECOND).map(drop)),
        ("reload_config", |client| client.reload_config("orders", 0)),
        ("create_topic", |client| client.create_topic("new", 1, &tank_client::TopicConfig::new())),
        ("send", |client| {
            let mut producer = client.producer().build()?;
            producer.send("orders", Record::new("x")).and_then(|()| producer.flush())
        }),
        ("idempotent", |client| {
            let mut producer = client.producer().idempotent().build()?;
            producer.send_to("orders", 2, Record::new("x")).and_then(|()| producer.flush())
        }),
    ];
    for (name, call) in calls {
        let sim = Simulation::new(15);
        let broker = sim.broker();
        broker.create_topic("orders", 3);
        broker.set_config("orders", 0, Some("log.segment.bytes=1000000"));
        let client = sim.client().connect(broker.brokers()).unwrap();
        broker.stop();
        sim.sleep(10 * MS);
        let back = broker.clone();
        sim.after(1500 * MS, move || back.restart().unwrap());
        let done = call(&client);
        assert!(done.is_ok(), "{name}: {done:?} after {:?}", sim.now());
        assert!(sim.now() < 5 * SECOND, "{name}: {:?}", sim.now());
    }
}

#[test]
fn a_wait_that_ends_early_again_and_again_is_no_loop_without_a_pause() {
    let sim = Simulation::new(16);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().connect(broker.brokers()).unwrap();
    broker.inject_times(BrokerFault::NoData, u64::MAX);
    let mut orders = client.subscribe("orders").unwrap();
    assert_eq!(orders.next_timeout(600 * SECOND).unwrap(), None);
    let fetches = broker.stats().requests(Kind::Consume);
    assert!(fetches < 1200, "{fetches} fetches in ten minutes");
}

#[test]
fn a_long_line_is_kept_busy_without_any_setting() {
    // What the simulated sockets hold keeps this line busy. With fetches of one size it would be used to eight tenths.
    const LINE: u64 = 2_000_000;
    let sim = Simulation::new(21);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let bundle = dense_bundle(&[Record::new(&[b'x'; 1_000]); 100], Compression::None);
    broker.append_repeated("orders", 0, &[&bundle], 100);
    sim.set_links(&LinkSettings::default().latency(49 * MS..51 * MS).bandwidth(LINE));
    // As wide as systems make it by themselves on such a line.
    let client = sim.client().receive_buffer(6 << 20).connect(broker.brokers()).unwrap();
    let begun = sim.now();
    let all = client.subscribe(Subscription::topic("orders").start(Start::Earliest).stop_at_end()).unwrap();
    let bytes: usize = all.map(|message| message.unwrap().payload().len()).sum();
    assert_eq!(bytes, 10_000_000);
    let speed = bytes as f64 / (sim.now() - begun).as_secs_f64();
    assert!(speed > 0.87 * LINE as f64, "{speed:.0} bytes a second of {LINE}");
}

#[test]
fn a_replica_on_this_host_is_not_asked_where_a_partition_ends() {
    let sim = Simulation::new(7);
    let cluster = sim.cluster(3);
    cluster.create_topic("orders", 1);
    cluster.set_leader("orders", 0, Some(1));
    let reader = sim.client_on("node-0").connect_timeout(SECOND).connect(cluster.brokers()).unwrap();
    // The replica does not get these for a while, which is too short for it to be out of sync.
    sim.isolate("node-0", true);
    let client = sim.client().ack_timeout(SECOND).connect(cluster.brokers()).unwrap();
    client.publish("orders", 0, &[Record::new("tea"), Record::new("milk")]).unwrap();
    sim.separate("node-0", "node-1");
    let mut orders = reader.subscribe(Subscription::partition("orders", 0).prefer_local()).unwrap();
    assert_eq!((orders.position_of("orders", 0), orders.next_timeout(SECOND).unwrap()), (None, None));
    sim.rejoin("node-0", "node-1");
    sim.isolate("node-0", false);
    assert_eq!(orders.next_timeout(10 * SECOND).unwrap(), None, "these are from before");
    assert_eq!(orders.position_of("orders", 0), Some(3));
}

#[test]
fn a_slow_reader_gets_back_the_connections_to_all_leaders_while_one_has_more() {
    let sim = Simulation::new(8);
    let cluster = sim.cluster(6);
    cluster.create_topic_with("orders", 6, 1);
    let leaders: Vec<_> = (0..6).map(|partition| cluster.leader("orders", partition).unwrap()).collect();
    sim.set_links(&LinkSettings::default().latency(10 * MS..60 * MS));
    // Each message is a bundle that fills the read buffer.
    let large = vec![b'x'; 512 << 10];
    let bundle = dense_bundle(&[Record::new(&large)], Compression::None);
    cluster.node(0).append_repeated("orders", 0, &[&bundle], 20);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    let mut orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
    for (partition, leader) in leaders.iter().enumerate().skip(1) {
        sim.cut(&format!("node-{leader}"));
        cluster.node(0).append_payloads("orders", partition as u16, &["tea"]);
    }
    let mut from = Vec::new();
    for _ in 0..20 {
        from.push(orders.next().unwrap().unwrap().partition());
        sim.sleep(20 * SECOND);
    }
    assert!((1..6).all(|partition| from.contains(&partition)), "{from:?}");
}

#[test]
fn a_leader_that_died_after_its_connection_does_not_slow_down_the_others() {
    let sim = Simulation::new(9);
    let cluster = sim.cluster(2);
    cluster.create_topic_with("orders", 2, 1);
    sim.set_links(&LinkSettings::default().latency(20 * MS..25 * MS));
    let dies = format!("node-{}", cluster.leader("orders", 1).unwrap());
    let large = vec![b'x'; 512 << 10];
    let bundle = dense_bundle(&[Record::new(&large)], Compression::None);
    cluster.node(0).append_repeated("orders", 0, &[&bundle], 33);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    let mut orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
    sim.cut(&dies);
    // It is dialed in one of these calls, and hangs up in the pause after that.
    for _ in 0..3 {
        orders.next().unwrap().unwrap();
        sim.sleep(20 * SECOND);
    }
    sim.separate("client", &dies);
    let begun = sim.now();
    assert_eq!(orders.by_ref().take(30).map(Result::unwrap).count(), 30);
    assert!(sim.now() - begun < 2 * SECOND, "{:?}", sim.now() - begun);
}
