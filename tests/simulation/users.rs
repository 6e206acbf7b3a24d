//! What users do with the simulated world: tests of consumers and publishers.

use std::time::Duration;

use tank_client::simulation::{Direction, LinkSettings, Service, Simulation};
use tank_client::{Client, ErrorKind, Record, Result, Start, Subscription};

/// A program: the sum of all orders so far.
fn cups(client: &Client) -> Result<u64> {
    let orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest).stop_at_end())?;
    orders.map(|order| Ok(String::from_utf8_lossy(order?.payload()).parse().unwrap_or(0))).sum()
}

#[test]
fn a_consumer_reads_on_after_a_fail_over() {
    let sim = Simulation::new(1);
    let cluster = sim.cluster(3);
    cluster.create_topic("orders", 1);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    client.publish("orders", 0, &[Record::new("3"), Record::new("4")]).unwrap();

    let nodes = cluster.clone();
    sim.after(Duration::from_secs(5), move || nodes.node(0).stop());
    let mut orders = client.subscribe(Subscription::partition("orders", 0).start(Start::Earliest)).unwrap();
    assert_eq!(orders.next().unwrap().unwrap().payload(), b"3");
    assert_eq!(orders.next().unwrap().unwrap().payload(), b"4");
    sim.sleep(Duration::from_secs(10));

    // The others notice after some 20 seconds, for which both calls wait.
    let publisher = sim.client().connect(cluster.brokers()).unwrap();
    let task = sim.spawn("publisher", move || publisher.publish("orders", 0, &[Record::new("5")]));
    assert_eq!(orders.next().unwrap().unwrap().payload(), b"5");
    task.join().unwrap();
    let time = sim.now();
    assert!(time > Duration::from_secs(20) && time < Duration::from_secs(40), "{time:?}");
    assert_ne!(cluster.leader("orders", 0), Some(0));
}

#[test]
fn a_consumer_waits_for_a_broker_that_hangs_for_a_minute() {
    let sim = Simulation::new(2);
    let broker = sim.broker();
    broker.create_topic("orders", 2);
    broker.append_payloads("orders", 1, &["7"]);
    let client = sim.client().retry_timeout(Duration::from_secs(120)).connect(broker.brokers()).unwrap();
    broker.pause();
    let hanging = broker.clone();
    sim.after(Duration::from_secs(60), move || hanging.resume());
    assert_eq!(cups(&client).unwrap(), 7);
    assert!(sim.now() >= Duration::from_secs(60));
}

#[test]
fn a_broker_that_hangs_for_longer_than_patience_lasts_is_an_error() {
    let sim = Simulation::new(3);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().io_timeout(Duration::from_secs(5)).retry_timeout(Duration::from_secs(20));
    let client = client.connect(broker.brokers()).unwrap();
    broker.pause();
    let e = cups(&client).unwrap_err();
    assert!(e.is_timeout() || e.kind == ErrorKind::Connect, "{e}");
    assert!(sim.now() < Duration::from_secs(60), "{:?}", sim.now());
}

#[test]
fn a_full_day_of_quiet_is_quiet_and_ends_with_the_message() {
    let sim = Simulation::new(4);
    let broker = sim.broker();
    broker.create_topic("orders", 4);
    let client = sim.client().connect(broker.brokers()).unwrap();
    let day = Duration::from_secs(86_400);
    let late = broker.clone();
    sim.after(day, move || {
        late.append_payloads("orders", 2, &["late"]);
    });
    let max_wait = Duration::from_secs(60);
    let mut orders = client.subscribe(Subscription::topic("orders").max_wait(max_wait)).unwrap();
    assert_eq!(orders.next().unwrap().unwrap().payload(), b"late");
    assert!(sim.now() - day < Duration::from_secs(1));
    let requests = broker.stats().all_requests();
    assert!(requests < 2000, "{requests} requests in a day");
    assert!(broker.stats().accepted <= 3, "{:?}", broker.stats());
}

#[test]
fn a_publisher_is_told_that_an_outcome_is_unknown() {
    let sim = Simulation::new(5);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().io_timeout(Duration::from_secs(10)).connect(broker.brokers()).unwrap();
    client.topics().unwrap();
    sim.silence("broker", Direction::ToClient);
    let e = client.publish("orders", 0, &[Record::new("tea")]).unwrap_err();
    assert!(e.kind == ErrorKind::OutcomeUnknown, "{e}");
    assert_eq!(broker.high_water_mark("orders", 0), 1);
}

#[test]
fn two_tasks_talk_through_a_topic_over_a_slow_line() {
    let sim = Simulation::new(6);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let line = Duration::from_millis(100)..Duration::from_millis(300);
    sim.set_links(&LinkSettings::default().latency(line).bandwidth(20_000));
    let client = sim.client().connect(broker.brokers()).unwrap();
    let mut orders = client.subscribe("orders").unwrap();
    let reader = sim.spawn("reader", move || orders.by_ref().take(100).map(|order| order.unwrap().seq()).sum::<u64>());
    let mut producer = client.producer().build().unwrap();
    for n in 0..100 {
        producer.send("orders", Record::new(&format!("{n:1000}"))).unwrap();
    }
    producer.flush().unwrap();
    assert_eq!(reader.join(), 5050);
    assert!(sim.now() > Duration::from_secs(2), "{:?}", sim.now());
}

#[test]
fn a_web_server_at_a_brokers_address_is_waited_out() {
    let sim = Simulation::new(7);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    broker.append_payloads("orders", 0, &["2"]);
    let client = sim.client().connect(broker.brokers()).unwrap();
    sim.take_over("broker", Service::Greeting(b"220 mail.example ESMTP\r\n".to_vec()));
    let world = sim.clone();
    sim.after(Duration::from_secs(20), move || world.take_over("broker", None));
    assert_eq!(cups(&client).unwrap(), 2);
}

#[test]
fn a_broker_can_be_asked_what_it_has_after_its_world_has_ended() {
    let sim = Simulation::new(21);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().connect(broker.brokers()).unwrap();
    client.publish("orders", 0, &[Record::new("3")]).unwrap();
    drop(sim);
    assert_eq!((broker.high_water_mark("orders", 0), broker.killed_by()), (1, None));
}
