//! Connections that end, brokers that go and come back, and data that is no use asking for again.

use std::thread;
use std::time::Duration;

use common::logs;
use common::proxy::{Cut, Proxy};
use common::rng::seeded;
use common::server::{Server, Topic, bundle, sparse};
use common::watch::{SOON, timed_in, within};
use tank_client::Compression;
use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind};
use tank_client::protocol::fetch::FetchRequest;
use tank_client::simulation::Simulation;
use tank_client::{Client, ClientBuilder, ConsumeIter, ErrorKind, Fault, Phase, Start, Subscription};

const MS: Duration = Duration::from_millis(1);
/// What a request and its answer need in the simulated network at most.
const TRIP: Duration = Duration::from_millis(5);

/// Dials again at once, almost.
fn quick(builder: ClientBuilder) -> ClientBuilder {
    builder.backoff(MS, 5 * MS)
}

/// Two partitions with all kinds of bundles; numbers are payloads.
fn fill(topic: &mut Topic) {
    for p in 0..2 {
        topic.publish_numbers(p, 1, 12, 4);
        let compressed: Vec<String> = (13..=40).map(|n| n.to_string()).collect();
        topic.publish_bundle(p, &bundle(&compressed, Compression::Snappy));
        topic.publish_sparse(p, &[50, 60, 61], Compression::None);
        topic.publish_sparse(p, &[70, 81, 90], Compression::Snappy);
        topic.publish_numbers(p, 91, 95, 2);
    }
}

/// What [`fill`] has stored, by partition.
fn stored() -> Vec<u64> {
    (1..=40).chain([50, 60, 61, 70, 81, 90]).chain(91..=95).collect()
}

/// The numbers by partition, of messages whose payloads are their numbers.
fn by_partition(iter: &mut ConsumeIter) -> [Vec<u64>; 2] {
    let mut got = [vec![], vec![]];
    for message in iter {
        let message = message.unwrap();
        assert_eq!(message.payload(), message.seq().to_string().as_bytes());
        got[usize::from(message.partition())].push(message.seq());
    }
    got
}

#[test]
fn nothing_is_lost_when_a_connection_is_cut_anywhere() {
    within(240, || {
        let server = Server::start();
        let mut topic = server.topic(2);
        fill(&mut topic);
        let want = [stored(), stored()];
        let proxy = Proxy::start(server.addr());
        let client = quick(Client::builder()).connect(proxy.addr()).unwrap();
        for fetch_size in [1 << 20, 100] {
            let all = topic.all().fetch_size(fetch_size);
            let mut whole = client.subscribe(&all).unwrap();
            assert_eq!(by_partition(&mut whole), want);
            // And the greeting's.
            let bytes = whole.stats().bytes + 5;
            assert!(bytes > 500);
            for how in [Cut::Fin, Cut::Reset] {
                // Every byte of the greeting, and some of what follows: all of that in the simulated world, below.
                for at in (0..=6).chain((7..=bytes).step_by(13)) {
                    // It takes the client's connection, so that another one is opened.
                    let hold = client.subscribe(&all).unwrap();
                    let cuts = proxy.cuts();
                    proxy.cut(at, how);
                    let mut iter = client.subscribe(&all).unwrap();
                    assert_eq!(by_partition(&mut iter), want, "{how:?} after {at} bytes");
                    let stats = iter.stats();
                    // Between two answers a cut is not even noticed.
                    assert!(stats.reconnects + stats.failed_brokers <= 1, "{how:?} after {at}: {stats:?}");
                    assert_eq!(stats.messages, 2 * stored().len() as u64);
                    proxy.wait_for_cuts(cuts + 1);
                    drop(hold);
                }
            }
        }
    });
}

#[test]
fn nothing_is_lost_when_answers_are_cut_again_and_again() {
    within(120, || {
        let server = Server::start();
        let mut topic = server.topic(2);
        fill(&mut topic);
        let proxy = Proxy::start(server.addr());
        let client = quick(Client::builder()).connect(proxy.addr()).unwrap();
        seeded(100, |rng| {
            let cuts = rng.between(2, 12);
            for _ in 0..cuts {
                proxy.cut(rng.below(400) as u64, if rng.one_in(2) { Cut::Fin } else { Cut::Reset });
            }
            let mut iter = client.subscribe(topic.all().fetch_size(100)).unwrap();
            assert_eq!(by_partition(&mut iter), [stored(), stored()]);
            proxy.pardon();
        });
    });
}

/// The same by the embedded broker's own faults, at every byte of the answers.
#[test]
fn nothing_is_lost_when_an_answer_is_cut_at_any_byte() {
    let sim = Simulation::new(11);
    let broker = sim.broker();
    broker.create_topic("orders", 2);
    for p in 0..2 {
        let numbers = |from: u64, to: u64| (from..=to).map(|n| n.to_string()).collect::<Vec<_>>();
        for from in [1, 5, 9] {
            broker.append_payloads("orders", p, &numbers(from, from + 3));
        }
        broker.append("orders", p, &bundle(&numbers(13, 40), Compression::Snappy));
        broker.append("orders", p, &sparse(&[50, 60, 61], Compression::None));
        broker.append("orders", p, &sparse(&[70, 81, 90], Compression::Snappy));
        for from in [91, 93] {
            broker.append_payloads("orders", p, &numbers(from, from + 1));
        }
        broker.append_payloads("orders", p, &["95"]);
    }
    let client = quick(sim.client()).connect(broker.brokers()).unwrap();
    let want = [stored(), stored()];
    for fetch_size in [1 << 20, 100] {
        let all = Subscription::topic("orders").start(Start::Earliest).stop_at_end().fetch_size(fetch_size);
        let mut whole = client.subscribe(&all).unwrap();
        assert_eq!(by_partition(&mut whole), want);
        let bytes = whole.stats().bytes;
        assert!(bytes > 500);
        // Every byte of the one long answer, some of many short ones.
        for at in (0..=bytes).step_by(if fetch_size == 100 { 5 } else { 1 }) {
            for fault in [BrokerFault::CutAfter(at), BrokerFault::ResetAfter(at)] {
                broker.inject(fault.clone());
                let mut iter = client.subscribe(&all).unwrap();
                assert_eq!(by_partition(&mut iter), want, "{fault:?}");
                let stats = iter.stats();
                assert!(stats.reconnects + stats.failed_brokers <= 1, "{fault:?}: {stats:?}");
                assert_eq!(stats.messages, 2 * stored().len() as u64);
                broker.clear_faults();
            }
        }
    }
}

/// The same for somebody who waits for more than there is.
#[test]
fn an_answer_that_was_cut_is_asked_for_again() {
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    broker.append_payloads("orders", 0, &["1", "2", "3"]);
    broker.append("orders", 0, &sparse(&[7, 9], Compression::Snappy));
    let client = quick(sim.client()).connect(broker.brokers()).unwrap();
    let tail = Subscription::partition("orders", 0).start(Start::Earliest).limit(6);
    for at in 0..150 {
        for fault in [BrokerFault::CutAfter(at), BrokerFault::ResetAfter(at)] {
            let mut iter = client.subscribe(&tail).unwrap();
            broker.inject(fault.clone());
            let got: Vec<_> = (&mut iter).take(5).map(|message| message.unwrap().seq()).collect();
            assert_eq!(got, [1, 2, 3, 7, 9], "{fault:?}");
            broker.clear_faults();
        }
    }
}

#[test]
fn a_restart_half_way_loses_nothing() {
    within(120, || {
        logs::keep();
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 2);
        for n in 0..200 {
            let payloads: Vec<String> = (n * 5 + 1..=n * 5 + 5).map(|n| n.to_string()).collect();
            (0..2).for_each(|p| _ = broker.append_payloads("orders", p, &payloads));
        }
        let addr = broker.addr().to_string();
        let client = quick(Client::builder()).connect(&addr).unwrap();
        let all = Subscription::topic("orders").start(Start::Earliest).stop_at_end().fetch_size(500);
        let mut iter = client.subscribe(all).unwrap();
        let mut got = [0; 2];
        for round in 0..2000 {
            let message = iter.next().unwrap().unwrap();
            let last = &mut got[usize::from(message.partition())];
            *last += 1;
            assert_eq!(message.seq(), *last);
            match round {
                500 => {
                    broker.stop();
                    broker.restart().unwrap();
                }
                1000 => broker.disconnect_all(),
                _ => {}
            }
        }
        assert!(iter.next().is_none());
        assert!(iter.stats().reconnects <= 2, "{:?}", iter.stats());
        assert_eq!(client.partitions("orders").unwrap().len(), 2, "the client's own connection had ended too");

        // Waiting for what does not come yet, while the broker is away for some time.
        let mut tail = client.subscribe(Subscription::topic("orders").limit(1)).unwrap();
        broker.stop();
        let waiting = thread::spawn(move || tail.next().unwrap().unwrap().seq());
        logs::wait_for(5, &["WARN", &addr, "cannot connect to", "refused", "trying again in"]);
        broker.restart().unwrap();
        broker.append_payloads("orders", 1, &["new"]);
        assert_eq!(waiting.join().unwrap(), 1001);
    });
}

#[test]
fn a_broker_that_refuses_for_a_while_is_waited_for() {
    let sim = Simulation::new(2);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = quick(sim.client()).connect(broker.brokers()).unwrap();
    let mut iter = client.subscribe(Subscription::topic("orders")).unwrap();
    for n in 1..=5 {
        broker.refuse_connections();
        broker.disconnect_all();
        assert!(iter.next_timeout(Duration::from_millis(30)).unwrap().is_none());
        assert!(iter.stats().failed_brokers >= n);
        broker.append_payloads("orders", 0, &["missed by nobody"]);
        broker.accept_connections().unwrap();
        assert_eq!(iter.next().unwrap().unwrap().seq(), n);
    }
    let stats = iter.stats();
    assert!(stats.failed_brokers >= 5 && stats.failed_brokers < 500, "{stats:?}");
    // Cut while being accepted, or before the fetch is answered.
    broker.inject_times(BrokerFault::CloseOnAccept, 3);
    broker.disconnect_all();
    broker.inject_times(BrokerFault::CloseOnRequest(Kind::Consume), 2);
    broker.inject_times(BrokerFault::LoseAnswer(Kind::Consume), 2);
    broker.append_payloads("orders", 0, &["6"]);
    assert_eq!(iter.next().unwrap().unwrap().seq(), 6);
    assert_eq!(broker.pending_faults(), 0);
}

#[test]
fn trouble_is_tolerated_for_so_long() {
    let sim = Simulation::new(3);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    broker.append_payloads("orders", 0, &["1"]);
    let addr = broker.addr().to_string();
    let all = || Subscription::topic("orders").start(Start::Earliest);
    for patience in [Duration::ZERO, 200 * MS] {
        let tolerant = quick(sim.client()).retry_timeout(patience);
        let mut iter = tolerant.connect(&addr).unwrap().subscribe(all()).unwrap();
        assert_eq!(iter.next().unwrap().unwrap().seq(), 1);
        assert!(iter.next_timeout(Duration::from_millis(1)).unwrap().is_none());
        broker.stop();
        let (e, took) = timed_in(&sim, || iter.next().unwrap().unwrap_err());
        assert!(e.kind == ErrorKind::Connect && e.broker() == Some(&addr), "{e:?}");
        assert!(took + 5 * MS >= patience && took <= patience + TRIP, "{took:?}");
        assert!(e.is_retryable() && iter.next().is_none() && iter.is_finished());
        let stats = iter.stats();
        assert!(stats.reconnects + stats.failed_brokers < 200, "no busy loop: {stats:?}");
        broker.restart().unwrap();
    }
    // Progress buys new time: many short troubles are not one long one.
    let tolerant = quick(sim.client()).retry_timeout(Duration::from_millis(100));
    let mut iter = tolerant.connect(&addr).unwrap().subscribe(all()).unwrap();
    for n in 1..=20 {
        broker.disconnect_all();
        assert_eq!(iter.next().unwrap().unwrap().seq(), n);
        broker.append_payloads("orders", 0, &["next"]);
        sim.sleep(10 * MS);
    }
}

/// Each of them is tried again and again, but not for ever, and not without a pause.
#[test]
fn all_of_several_brokers_go_away() {
    let sim = Simulation::new(4);
    let brokers = [sim.broker(), sim.broker(), sim.broker()];
    for broker in &brokers {
        broker.create_topic("orders", 2);
        broker.append_payloads("orders", 0, &["1", "2"]);
    }
    let addrs = brokers.iter().map(|broker| broker.addr().to_string()).collect::<Vec<_>>().join(",");
    let patience = Duration::from_millis(300);
    let builder = sim.client().backoff(Duration::from_millis(10), Duration::from_millis(50));
    let client = builder.retry_timeout(patience).connect(&addrs).unwrap();
    let mut iter = client.subscribe(Subscription::topic("orders").start(Start::At(1)).limit(4)).unwrap();
    assert_eq!(iter.next().unwrap().unwrap().seq(), 1);
    assert_eq!(iter.next().unwrap().unwrap().seq(), 2);
    // One is enough.
    brokers[0].stop();
    brokers[1].stop();
    brokers[2].append_payloads("orders", 0, &["3"]);
    assert_eq!(iter.next().unwrap().unwrap().seq(), 3);
    brokers[2].stop();
    let (e, took) = timed_in(&sim, || iter.next().unwrap().unwrap_err());
    assert!(e.kind == ErrorKind::Connect, "{e:?}");
    assert!(took + 50 * MS >= patience && took <= patience + TRIP, "{took:?}");
    let stats = iter.stats();
    assert!((4..200).contains(&stats.failed_brokers), "{stats:?}");
    assert!(iter.next().is_none());
    brokers[1].restart().unwrap();
    assert_eq!(client.partitions("orders").unwrap().len(), 2);
}

/// What ended while nobody used it is dialed again quietly, whatever the settings.
#[test]
fn idle_connections_of_the_client() {
    let sim = Simulation::new(5);
    let broker = sim.broker_with(&Broker::builder().silent_timeout(Some(50 * MS)).idle_timeout(50 * MS));
    broker.create_topic("orders", 1);
    let strict = sim.client().retry_timeout(Duration::ZERO);
    let client = strict.connect(broker.brokers()).unwrap();
    for round in 2..10 {
        assert!(broker.wait_until(SOON, |stats| stats.open == 0));
        assert_eq!(client.partitions("orders").unwrap().len(), 1);
        assert_eq!(broker.stats().accepted, round);
    }
    broker.stop();
    broker.restart().unwrap();
    assert_eq!(client.partitions("orders").unwrap().len(), 1);
    // Before any byte of the answer, on a connection that was used before.
    for fault in
        [BrokerFault::CutAfter(0), BrokerFault::ResetAfter(0), BrokerFault::CloseOnRequest(Kind::DiscoverPartitions)]
    {
        broker.inject(fault);
        assert_eq!(client.partitions("orders").unwrap().len(), 1);
        assert_eq!(broker.pending_faults(), 0);
    }
}

/// So it is with a subscription's, if the connection ends between the look at it and the fetch.
#[test]
fn connections_that_end_as_they_are_used_again() {
    let sim = Simulation::new(6);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    for n in 1..=60 {
        broker.append_payloads("orders", 0, &[n.to_string()]);
    }
    let strict = sim.client().retry_timeout(Duration::ZERO);
    let client = strict.connect(broker.brokers()).unwrap();
    let all = Subscription::topic("orders").start(Start::Earliest).fetch_size(1);
    let mut iter = client.subscribe(&all).unwrap();
    for n in 1..=60 {
        assert_eq!(iter.next().unwrap().unwrap().seq(), n);
        // Some answers apart: the next fetch goes out before the messages of the last are all handed out.
        if n % 12 == 0 {
            broker.inject(BrokerFault::CloseOnRequest(Kind::Consume));
        }
    }
    assert_eq!(iter.stats().reconnects, 0);
    // Not if it happens again, nor to one that is new, nor in an answer.
    broker.inject(BrokerFault::CloseOnRequest(Kind::Consume));
    let e = iter.next().unwrap().unwrap_err();
    assert!(matches!(e.kind, ErrorKind::Disconnected { phase: Phase::Wait, .. } | ErrorKind::Io { .. }), "{e:?}");
    let mut iter = client.subscribe(&all).unwrap();
    assert_eq!(iter.next().unwrap().unwrap().seq(), 1);
    broker.inject(BrokerFault::CutAfter(1));
    let e = iter.find_map(Result::err).unwrap();
    assert!(matches!(e.kind, ErrorKind::Disconnected { phase: Phase::Read, .. }), "{e:?}");
}

#[test]
fn malformed_data_is_not_asked_for_again() {
    let sim = Simulation::new(7);
    let broker = sim.broker();
    broker.create_topic("orders", 2);
    (0..2).for_each(|p| _ = broker.append_payloads("orders", p, &["1", "2", "3"]));
    let client = quick(sim.client()).connect(broker.brokers()).unwrap();
    let all = || Subscription::topic("orders").start(Start::Earliest).stop_at_end();
    let damaging = [
        BrokerFault::WrongRequestId,
        BrokerFault::CorruptBundle,
        BrokerFault::FlipAfter(0),
        BrokerFault::FlipAfter(4),
        BrokerFault::FlipAfter(13),
        BrokerFault::GarbageAfter(0, b"HTTP/1.1 400 Bad Request\r\n".to_vec()),
    ];
    for fault in damaging {
        let before = broker.stats();
        // Behind the discovery's answer.
        let discovered = 5 + 4 + 1 + 6 + 2 + 2 * 16;
        let fault = match fault {
            BrokerFault::FlipAfter(n) => BrokerFault::FlipAfter(discovered + n),
            BrokerFault::GarbageAfter(n, bytes) => BrokerFault::GarbageAfter(discovered + n, bytes),
            BrokerFault::WrongRequestId => {
                broker.inject(fault);
                let e = client.subscribe(all()).unwrap_err();
                assert!(e.kind == ErrorKind::Decode, "{e:?}");
                assert_eq!(broker.stats().all_requests(), before.all_requests() + 1);
                let mut iter = client.subscribe(Subscription::partition("orders", 0)).unwrap();
                assert!(iter.next_timeout(Duration::ZERO).unwrap().is_none());
                broker.inject(BrokerFault::WrongRequestId);
                broker.append_payloads("orders", 0, &["4"]);
                let e = iter.next().unwrap().unwrap_err();
                let text = std::error::Error::source(&e).unwrap().to_string();
                assert!(text.contains("request id"), "{text}");
                assert!(iter.next().is_none());
                continue;
            }
            fault => fault,
        };
        broker.inject(fault.clone());
        let mut iter = client.subscribe(all()).unwrap();
        let e = iter.find_map(Result::err).unwrap_or_else(|| panic!("{fault:?} went unnoticed"));
        assert!(e.kind == ErrorKind::Decode && !e.is_retryable(), "{fault:?}: {e:?}");
        assert!(std::error::Error::source(&e).is_some());
        assert!(iter.next().is_none() && iter.next_batch().unwrap().is_none() && iter.is_finished());
        let after = broker.stats();
        assert!(after.accepted <= before.accepted + 1, "{fault:?}: not dialed again");
        assert_eq!(after.requests(Kind::Consume), before.requests(Kind::Consume) + 1);
        assert_eq!((iter.stats().reconnects, iter.stats().failed_brokers), (0, 0));
        assert_eq!(broker.pending_faults(), 0);
        assert!(client.subscribe(all()).unwrap().count() >= 6, "the next one, after {fault:?}");
    }
}

/// An inverted byte anywhere in an answer ends in an error, or changes what only the broker knows; it never panics, and
/// the next call works.
#[test]
fn any_inverted_byte_ends_in_an_error_or_in_the_same_messages() {
    let sim = Simulation::new(8);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    broker.append_payloads("orders", 0, &["1", "2", "3"]);
    broker.append("orders", 0, &sparse(&[7, 9, 20], Compression::Snappy));
    let impatient = sim.client().io_timeout(Duration::from_millis(50)).retry_timeout(Duration::ZERO);
    let impatient = impatient.connect(broker.brokers()).unwrap();
    let client = sim.client().connect(broker.brokers()).unwrap();
    let all = Subscription::topic("orders").start(Start::Earliest).stop_at_end();
    let mut whole = client.subscribe(&all).unwrap();
    assert_eq!((&mut whole).count(), 6);
    for at in 0..whole.stats().bytes + 36 {
        broker.inject(BrokerFault::FlipAfter(at));
        match impatient.subscribe(&all) {
            Ok(mut iter) => loop {
                // A mark that is too high must be waited for.
                match iter.next_timeout(Duration::from_millis(30)) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => {
                        assert!(iter.is_finished() && iter.next().is_none(), "at {at}");
                        break;
                    }
                }
            },
            Err(e) => {
                let is_named =
                    matches!(e.kind, ErrorKind::Decode | ErrorKind::Timeout { .. } | ErrorKind::Broker { .. });
                assert!(is_named, "at {at}: {e:?}");
            }
        }
        broker.clear_faults();
        assert_eq!(client.subscribe(&all).unwrap().map(Result::unwrap).count(), 6, "at {at}");
    }
}

/// Empty answers that come at once are no reason to ask again at once.
#[test]
fn a_broker_that_does_not_wait_is_not_pestered() {
    let sim = Simulation::new(9);
    let broker = sim.broker();
    broker.create_topic("orders", 3);
    broker.inject_times(BrokerFault::NoData, u64::MAX);
    let client = sim.client().connect(broker.brokers()).unwrap();
    let mut iter = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
    assert!(iter.next_timeout(Duration::from_millis(500)).unwrap().is_none());
    let asked = broker.stats().requests(Kind::Consume);
    assert!((2..10).contains(&asked), "{asked} fetches in half a second");
    assert!(broker.requests().iter().rev().take(2).all(|fetch| common::fetch(fetch).unwrap().slots().count() == 3));
    broker.clear_faults();
    broker.append_payloads("orders", 1, &["1"]);
    assert_eq!(iter.next().unwrap().unwrap().seq(), 1);
}

/// A gap where the active segment begins kills a TANK server that is asked for a number in it.
#[test]
fn a_gap_kills_a_server_twice_at_most() {
    let sim = Simulation::new(10);
    let broker = sim.broker();
    broker.create_topic("t", 2);
    let numbers: Vec<String> = (1..=10).map(|n| n.to_string()).collect();
    (0..2).for_each(|p| _ = broker.append_payloads("t", p, &numbers));
    broker.roll_segment("t", 0);
    broker.append_payloads("t", 0, &["11"]);
    broker.compact("t", 0, &[&sparse(&[2, 5], Compression::None)]);
    let client = quick(sim.client()).connect(broker.brokers()).unwrap();
    for partition in [0, 1] {
        // With another partition beside it, it takes one more death to tell which of them it was.
        let (all, most) = match partition {
            0 => (Subscription::partition("t", 0), 2),
            _ => (Subscription::topic("t"), 3),
        };
        let mut iter = client.subscribe(all.start(Start::Earliest).stop_at_end()).unwrap();
        broker.forget_requests();
        let e = iter.find_map(Result::err).unwrap();
        assert_eq!((e.fault(), e.partition()), (Some(Fault::Deadly { seq: 6, mark: 11 }), Some(0)));
        let fetches = broker.requests().into_iter().filter_map(|request| common::fetch(&request).ok());
        let deadly = |fetch: &FetchRequest| fetch.slots().any(|(_, slot)| (slot.partition, slot.seq) == (0, 6));
        let sent = fetches.filter(deadly).count();
        assert!(sent <= most, "sent {sent} times, with {} partitions", partition + 1);
        assert!(iter.next().is_none());
    }
    let skip = Subscription::partition("t", 0).start(Start::At(11)).stop_at_end();
    assert_eq!(client.subscribe(skip).unwrap().count(), 1);
}

/// As a server that is started with one more folder for a topic: it reads them once.
#[test]
fn partitions_added_later_are_read_from_their_first_message_after_a_connection_was_lost() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let addr = broker.addr();
        let client = quick(Client::builder()).retry_timeout(Duration::from_secs(30)).connect(addr).unwrap();
        let mut iter = client.subscribe("orders").unwrap();
        assert!(iter.next_timeout(Duration::from_millis(100)).unwrap().is_none());
        drop(broker);
        let broker = Broker::builder().port(addr.port()).start().unwrap();
        broker.create_topic("orders", 3);
        (1..3).for_each(|partition| _ = broker.append_payloads("orders", partition, &["1"]));
        let mut found =
            [0; 2].map(|_| iter.next().unwrap().map(|message| (message.partition(), message.seq())).unwrap());
        found.sort();
        assert_eq!(found, [(1, 1), (2, 1)]);
        assert_eq!(iter.positions().iter().len(), 3);
    });
}
