//! Silence: whose time counts, and what is left after it. In the simulated world, where a time-out is exact and takes no time;
//! what needs no trouble also runs against a real server.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::rng::{Rng, seeded};
use common::server::{Server, bundle};
use common::watch::{not_before, timed_in, within};
use tank_client::Compression;
use tank_client::broker::{Broker, BrokerFault};
use tank_client::simulation::{Service, Simulation};
use tank_client::{Client, ClientBuilder, ConsumeIter, Error, ErrorKind, Phase, Start, Subscription};

const SHORT: Duration = Duration::from_millis(400);
/// Longer than any time-out here.
const LONG: Duration = Duration::from_secs(20);
/// What a connection, a request and its answer need in the simulated network at most.
const TRIP: Duration = Duration::from_millis(5);

fn micros(n: usize) -> Duration {
    Duration::from_micros(n as u64)
}

/// Gives up with the first trouble, and soon.
fn strict(builder: ClientBuilder) -> ClientBuilder {
    builder.io_timeout(SHORT).connect_timeout(SHORT).retry_timeout(Duration::ZERO)
}

#[track_caller]
fn assert_timeout(e: &Error, phase: Phase, took: Duration) {
    let ErrorKind::Timeout { phase: found, after, .. } = e.kind else { panic!("{e:?}") };
    // The time may have begun a little before the call, with the last byte that came, or a little after it.
    assert!(took + TRIP >= after && took <= after + TRIP, "{after:?} announced, {took:?} taken");
    assert_eq!(found, phase);
    assert!(e.is_timeout() && e.is_retryable());
}

/// A broker with 40 numbered messages in 8 bundles.
fn numbered() -> (Simulation, Arc<Broker>) {
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    for n in 0..8 {
        let numbers: Vec<String> = (n * 5 + 1..=n * 5 + 5).map(|n| n.to_string()).collect();
        broker.append_payloads("orders", 0, &numbers);
    }
    (sim, broker)
}

fn orders() -> Subscription {
    Subscription::topic("orders").start(Start::Earliest).stop_at_end()
}

/// Takes all messages with time-outs that leave no time for most of them.
fn impatiently(iter: &mut ConsumeIter, rng: &mut Rng, most_micros: usize) -> Vec<u64> {
    let mut got = Vec::new();
    while !iter.is_finished() {
        match rng.below(4) {
            0 => got.extend(iter.next_timeout(Duration::ZERO).unwrap().map(|message| message.seq())),
            _ => {
                let wait = micros(rng.below(most_micros));
                got.extend(iter.next_timeout(wait).unwrap().map(|message| message.seq()));
            }
        }
        let positions = iter.positions();
        let position = positions.iter().next().unwrap();
        assert_eq!(position.seq, got.last().map_or(0, |last| last + 1));
    }
    got
}

#[test]
fn running_out_of_time_neither_loses_nor_repeats() {
    let (sim, broker) = numbered();
    let client = sim.client().connect(broker.brokers()).unwrap();
    seeded(40, |rng| {
        let fetch_size = [1, 60, 1 << 20][rng.below(3)];
        match rng.below(3) {
            0 => broker.inject_times(
                BrokerFault::Trickle { bytes: rng.between(1, 20), pause: micros(rng.between(100, 2000)) },
                u64::MAX,
            ),
            1 => broker.inject_times(BrokerFault::Delay(micros(rng.below(20_000))), u64::MAX),
            _ => broker.inject_times(BrokerFault::PingBeforeAnswer, u64::MAX),
        }
        let mut iter = client.subscribe(orders().fetch_size(fetch_size)).unwrap();
        assert_eq!(impatiently(&mut iter, rng, 3000), (1..=40).collect::<Vec<_>>());
        broker.clear_faults();
    });
}

/// Falls silent at every byte, and is let go again a little later.
#[test]
fn a_half_received_answer_stays_for_the_next_call() {
    let (sim, broker) = numbered();
    let client = sim.client().connect(broker.brokers()).unwrap();
    let releasing = broker.clone();
    sim.every(Duration::from_millis(2), move || releasing.release());
    let before = broker.stats().bytes_sent;
    assert_eq!(client.subscribe(orders()).unwrap().count(), 40);
    let answer = broker.stats().bytes_sent - before;
    assert!(answer > 250, "{answer}");
    seeded(20, |rng| {
        for at in (rng.below(10) as u64..answer).step_by(10) {
            broker.inject(BrokerFault::StallAfter(at));
            let mut iter = client.subscribe(orders()).unwrap();
            assert_eq!(impatiently(&mut iter, rng, 500), (1..=40).collect::<Vec<_>>(), "stalled at {at}");
            assert_eq!(iter.stats().reconnects, 0);
            broker.clear_faults();
        }
    });
}

#[test]
fn impatience_loses_nothing_while_somebody_publishes() {
    within(120, || {
        let server = Server::start();
        let client = server.client();
        seeded(5, |rng| {
            let mut topic = server.topic(1);
            let name = topic.name.clone();
            let some = Subscription::partition(&*name, 0).start(Start::Earliest).limit(300).fetch_size(100);
            let mut iter = client.subscribe(some).unwrap();
            let writer = thread::spawn(move || {
                (0..30).for_each(|n| topic.publish_numbers(0, n * 10 + 1, n * 10 + 10, 3));
            });
            assert_eq!(impatiently(&mut iter, rng, 2000), (1..=300).collect::<Vec<_>>());
            writer.join().unwrap();
        });
    });
}

#[test]
fn a_time_out_lasts_as_long_as_it_says() {
    let (sim, broker) = numbered();
    let mut iter = sim.client().connect(broker.brokers()).unwrap().subscribe("orders").unwrap();
    for millis in [0, 1, 20, 200, 60_000] {
        let wait = Duration::from_millis(millis);
        let (got, took) = timed_in(&sim, || iter.next_timeout(wait).unwrap());
        assert!(got.is_none() && !iter.is_finished());
        assert_eq!(took, wait);
    }
}

/// On the system's clock and sockets, too, a time-out is no shorter than it says, and ends.
#[test]
fn the_systems_time_outs_last_and_end() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        let mut iter = server.client().subscribe(&*topic.name).unwrap();
        for millis in [0, 1, 20] {
            let wait = Duration::from_millis(millis);
            assert!(not_before(wait, || iter.next_timeout(wait).unwrap()).is_none() && !iter.is_finished());
        }
        topic.publish_numbers(0, 1, 1, 1);
        assert_eq!(iter.next().unwrap().unwrap().seq(), 1);

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = silent.local_addr().unwrap().to_string();
        let brief = Duration::from_millis(50);
        let strict = strict(Client::builder()).connect_timeout(brief);
        let e = not_before(brief, || strict.connect(&addr).unwrap_err());
        assert!(matches!(e.kind, ErrorKind::Timeout { phase: Phase::Greet, .. }), "{e:?}");
        assert_eq!(e.to_string(), format!("{addr}: timed out after 50ms waiting for its greeting"));
    });
}

#[test]
fn peers_that_accept_and_stay_silent() {
    let (sim, broker) = numbered();
    let connect = || strict(sim.client()).connect(broker.brokers());
    sim.take_over("broker", Service::Mute);
    let (e, took) = timed_in(&sim, || connect().unwrap_err());
    assert_timeout(&e, Phase::Greet, took);
    assert_eq!(e.to_string(), format!("{}: timed out after 400ms waiting for its greeting", broker.addr()));
    sim.take_over("broker", None);
    // Half a greeting is as good as none.
    for greeting in [BrokerFault::NoPing, BrokerFault::Greeting(vec![3, 0])] {
        broker.inject(greeting);
        let (e, took) = timed_in(&sim, || connect().unwrap_err());
        assert_timeout(&e, Phase::Greet, took);
    }
    broker.inject(BrokerFault::LatePing(Duration::from_millis(20)));
    assert_eq!(connect().unwrap().subscribe(orders()).unwrap().count(), 40);
}

#[test]
fn answers_that_do_not_come() {
    let (sim, broker) = numbered();
    let client = strict(sim.client()).connect(broker.brokers()).unwrap();
    // The broker's own wait comes first.
    for (wait, least) in [(0, 320), (1, 320), (400, 448)] {
        let waiting = Subscription::partition("orders", 0).max_wait(Duration::from_millis(wait));
        let mut iter = client.subscribe(waiting).unwrap();
        broker.inject_times(BrokerFault::Delay(LONG), u64::MAX);
        let (e, took) = timed_in(&sim, || iter.next().unwrap().unwrap_err());
        let ErrorKind::Timeout { after, .. } = e.kind else { panic!("{e:?}") };
        let slack = after - SHORT - Duration::from_millis(least);
        assert!(slack <= Duration::from_millis(200), "{after:?} for a wait of {wait} ms");
        assert_timeout(&e, Phase::Wait, took);
        assert!(iter.next().is_none() && iter.is_finished());
        broker.clear_faults();
    }
    assert_eq!(client.subscribe(orders()).unwrap().count(), 40);
}

/// The deadline is one for each bundle, and its phase tells whether the answer had begun.
#[test]
fn answers_that_stop_in_the_middle() {
    let (sim, broker) = numbered();
    let client = strict(sim.client()).connect(broker.brokers()).unwrap();
    // The first subscription asks for the broker's state too.
    drop(client.subscribe(orders()).unwrap());
    assert!(broker.wait_until(LONG, |stats| stats.open == 0));
    let before = broker.stats().bytes_sent;
    assert_eq!(client.subscribe(orders()).unwrap().count(), 40);
    let answer = broker.stats().bytes_sent - before - DISCOVERED;
    for at in (0..answer).step_by(17) {
        broker.inject(BrokerFault::StallAfter(DISCOVERED + at));
        let mut iter = client.subscribe(orders()).unwrap();
        let mut got = Vec::new();
        let e = loop {
            match timed_in(&sim, || iter.next().unwrap()) {
                (Ok(message), _) => got.push(message.seq()),
                (Err(e), took) => {
                    assert_timeout(&e, if at == 0 { Phase::Wait } else { Phase::Read }, took);
                    break e;
                }
            }
        };
        assert!(matches!(e.kind, ErrorKind::Timeout { after: SHORT, .. }));
        assert_eq!(got, (1..=got.len() as u64).collect::<Vec<_>>());
        assert!(iter.next().is_none());
        broker.clear_faults();
        drop(iter);
        broker.release();
        let from = Subscription::topic("orders").start(Start::At(got.len() as u64 + 1)).stop_at_end();
        assert_eq!(client.subscribe(from).unwrap().count(), 40 - got.len(), "the next one continues");
    }
}

/// Bytes of the answer that says where the partition of `orders` begins and ends.
const DISCOVERED: u64 = 5 + 4 + 1 + 6 + 2 + 16;

#[test]
fn a_silent_broker_is_dialed_anew_and_nothing_is_lost() {
    let (sim, broker) = numbered();
    let patient = sim.client().io_timeout(SHORT).backoff(Duration::from_millis(1), Duration::from_millis(5));
    let client = patient.connect(broker.brokers()).unwrap();
    // The first subscription asks for the broker's state too.
    drop(client.subscribe(orders()).unwrap());
    assert!(broker.wait_until(LONG, |stats| stats.open == 0));
    for at in [0, 3, 50, 100, 150, 200] {
        broker.inject(BrokerFault::StallAfter(DISCOVERED + at));
        let mut iter = client.subscribe(orders()).unwrap();
        let got: Vec<_> = (&mut iter).map(|message| message.unwrap().seq()).collect();
        assert_eq!((got, iter.stats().reconnects), ((1..=40).collect(), 1), "stalled after {at}");
        // What it still sends to nobody counts too.
        drop(iter);
        broker.release();
        assert!(broker.wait_until(LONG, |stats| stats.open <= 1));
    }
    broker.inject_times(BrokerFault::Delay(LONG), 3);
    let client = strict(sim.client()).connect(broker.brokers()).unwrap();
    let (count, took) = timed_in(&sim, || client.subscribe(orders()));
    assert!(matches!(count, Err(Error { kind: ErrorKind::Timeout { phase: Phase::Wait, .. }, .. })), "{count:?}");
    assert!(took <= SHORT + SHORT + TRIP, "{took:?}");
    broker.clear_faults();
}

/// A broker that keeps sending, but too little, has no more time than one that is silent.
#[test]
fn a_trickle_is_no_way_around_the_deadline() {
    let sim = Simulation::new(6);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    broker.append("orders", 0, &bundle(&[vec![b'x'; 10_000]], Compression::None));
    let client = strict(sim.client()).connect(broker.brokers()).unwrap();
    let slow = Subscription::partition("orders", 0).max_wait(Duration::from_millis(1));
    let mut iter = client.subscribe(slow).unwrap();
    broker.inject(BrokerFault::Trickle { bytes: 100, pause: Duration::from_millis(20) });
    broker.append("orders", 0, &bundle(&[vec![b'y'; 10_000]], Compression::None));
    let (e, took) = timed_in(&sim, || iter.next().unwrap().unwrap_err());
    assert_timeout(&e, Phase::Read, took);
}

#[test]
fn the_callers_own_time_does_not_count() {
    let (sim, broker) = numbered();
    let client = strict(sim.client()).connect(broker.brokers()).unwrap();
    // Bytes are counted below: what is asked for but once is out of the way.
    drop(client.subscribe(orders()).unwrap());
    for at in [0, 20, 60, 200] {
        // What it still sends to nobody counts too.
        sim.sleep(TRIP);
        broker.inject(BrokerFault::StallAfter(DISCOVERED + at));
        let mut iter = client.subscribe(orders()).unwrap();
        let mut got = Vec::new();
        while let Some(message) = iter.next_timeout(SHORT / 10).unwrap() {
            got.push(message.seq());
        }
        assert_eq!(broker.stats().stalled, 1);
        // Twice what would be a time-out; but bytes are waiting by the end of it.
        sim.sleep(2 * SHORT);
        broker.release();
        assert!(broker.wait_until(LONG, |stats| stats.stalled == 0));
        sim.sleep(SHORT / 10);
        got.extend((&mut iter).map(|message| message.unwrap().seq()));
        assert_eq!((got, iter.stats().reconnects), ((1..=40).collect(), 0));
    }
}

#[test]
fn single_requests_time_out_in_the_phase_that_hung() {
    let (sim, broker) = numbered();
    let client = strict(sim.client()).connect(broker.brokers()).unwrap();
    for (fault, phase) in [
        (BrokerFault::Delay(LONG), Phase::Wait),
        (BrokerFault::StallAfter(0), Phase::Wait),
        (BrokerFault::StallAfter(1), Phase::Read),
        (BrokerFault::StallAfter(DISCOVERED - 1), Phase::Read),
        (BrokerFault::Trickle { bytes: 1, pause: Duration::from_millis(50) }, Phase::Read),
    ] {
        broker.inject(fault.clone());
        let (e, took) = timed_in(&sim, || client.partitions("orders").unwrap_err());
        assert_timeout(&e, phase, took);
        broker.clear_faults();
        broker.release();
        assert_eq!(client.partitions("orders").unwrap().len(), 1, "after {fault:?}");
    }
    broker.pause();
    let (e, took) = timed_in(&sim, || client.subscribe(orders()).unwrap_err());
    assert_timeout(&e, Phase::Wait, took);
    let (e, took) = timed_in(&sim, || client.subscribe(orders()).unwrap_err());
    assert_timeout(&e, Phase::Greet, took);
    broker.resume();
    assert_eq!(client.subscribe(orders()).unwrap().count(), 40);
}

#[test]
fn endless_times_are_allowed() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 10, 10);
        let endless = Client::builder().io_timeout(Duration::MAX).connect_timeout(Duration::MAX);
        let client = endless.retry_timeout(Duration::MAX).connect(server.addr()).unwrap();
        let mut iter = client.subscribe(topic.all().max_wait(Duration::MAX)).unwrap();
        assert_eq!(iter.next_timeout(Duration::MAX).unwrap().unwrap().seq(), 1);
        assert_eq!(iter.count(), 9);
        let tail = Subscription::topic(&*topic.name).max_wait(Duration::MAX);
        let mut tail = client.subscribe(tail).unwrap();
        assert!(tail.next_timeout(Duration::from_millis(10)).unwrap().is_none());
        topic.publish_numbers(0, 11, 11, 1);
        assert_eq!(tail.next_timeout(Duration::MAX).unwrap().unwrap().seq(), 11);
    });
}
