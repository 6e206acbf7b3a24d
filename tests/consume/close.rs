//! Ending an iteration from another thread. That it ends in the same moment is shown in the simulated world; that the system's
//! poll is woken, with real threads, by waits that would last longer than the watchdog lets them.

use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::logs;
use common::rng::seeded;
use common::server::Server;
use common::watch::{SOON, timed_in, within};
use tank_client::broker::{Broker, BrokerFault};
use tank_client::simulation::Simulation;
use tank_client::{Client, ClientBuilder, CloseHandle, ConsumeIter, Error, ErrorKind, Record, Start, Subscription};

const MS: Duration = Duration::from_millis(1);
/// Longer than any watchdog's patience.
const HOUR: Duration = Duration::from_secs(3600);

/// Lasts longer than the watchdog lets it, whatever it waits for.
fn builder(builder: ClientBuilder) -> ClientBuilder {
    builder.backoff(HOUR, HOUR).retry_timeout(HOUR).connect_timeout(HOUR).io_timeout(HOUR)
}

/// Reads on until it is closed.
fn read_on(mut iter: ConsumeIter) -> ConsumeIter {
    iter.by_ref().for_each(|message| drop(message.unwrap()));
    assert!(iter.is_finished() && iter.next().is_none());
    assert!(iter.next_batch().unwrap().is_none() && iter.next_timeout(HOUR).unwrap().is_none());
    iter
}

/// The same in a thread.
fn block(iter: ConsumeIter) -> JoinHandle<ConsumeIter> {
    thread::spawn(move || read_on(iter))
}

/// Closes after some time what `act` waits for, which must end in that moment.
fn ends_when_closed<T>(sim: &Simulation, handle: &CloseHandle, act: impl FnOnce() -> T) -> T {
    let (time, closing) = (250 * MS, handle.clone());
    sim.after(time, move || closing.close());
    let (value, took) = timed_in(sim, act);
    assert_eq!(took, time);
    value
}

#[test]
fn whatever_waits_ends_in_the_moment_of_closing() {
    let calls: [fn(ConsumeIter) -> ConsumeIter; 3] = [
        read_on,
        |mut iter| {
            assert!(iter.next_batch().unwrap().is_none() && iter.is_finished());
            iter
        },
        |mut iter| {
            assert!(iter.next_timeout(HOUR).unwrap().is_none() && iter.is_finished());
            iter
        },
    ];
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.create_topic("quiet", 3);
    let subscribe = || builder(sim.client()).connect(broker.brokers()).unwrap().subscribe("quiet").unwrap();
    for call in calls {
        let iter = subscribe();
        let handle = iter.close_handle();
        drop(ends_when_closed(&sim, &handle, || call(iter)));
        // In the back-off after a failed dial.
        let iter = subscribe();
        let handle = iter.close_handle();
        broker.stop();
        let iter = ends_when_closed(&sim, &handle, || call(iter));
        assert_eq!(iter.stats().reconnects + iter.stats().failed_brokers, 1);
        broker.restart().unwrap();
        // While it waits for a greeting.
        let iter = subscribe();
        let handle = iter.close_handle();
        broker.pause();
        broker.disconnect_all();
        drop(ends_when_closed(&sim, &handle, || call(iter)));
        broker.resume();
    }
    // In the middle of an answer, and after it.
    broker.append_payloads("quiet", 0, &["1", "2", "3"]);
    let client = builder(sim.client()).connect(broker.brokers()).unwrap();
    for bytes in 0..150 {
        let iter = client.subscribe(Subscription::topic("quiet").start(Start::Earliest)).unwrap();
        broker.inject(BrokerFault::StallAfter(bytes));
        let handle = iter.close_handle();
        drop(ends_when_closed(&sim, &handle, || read_on(iter)));
        broker.clear_faults();
        broker.release();
    }
    assert!(broker.stats().faults_fired > 50, "{:?}", broker.stats());
}

#[test]
fn a_blocked_next_returns_at_once() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("quiet", 3);
        let client = Client::connect(broker.addr()).unwrap();
        // More rounds than a client could end in time that looks now and then whether it was closed.
        for _ in 0..200 {
            let iter = client.subscribe("quiet").unwrap();
            let handle = iter.close_handle();
            let blocked = block(iter);
            assert!(broker.wait_until(SOON, |stats| stats.waiting == 1));
            handle.clone().close();
            drop(blocked.join().unwrap());
            assert!(handle.is_closed());
            assert!(broker.wait_until(SOON, |stats| stats.open == 0));
        }
        assert_eq!(client.partitions("quiet").unwrap().len(), 3);
    });
}

#[test]
fn so_do_the_other_calls() {
    within(60, || {
        let server = Server::start();
        let topic = server.topic(1);
        let client = server.client();
        for round in 0..20 {
            let mut iter = client.subscribe(&*topic.name).unwrap();
            let handle = iter.close_handle();
            let (about_to_block, blocking) = channel();
            let blocked = thread::spawn(move || {
                about_to_block.send(()).unwrap();
                if round % 2 == 0 {
                    assert!(iter.next_batch().unwrap().is_none());
                } else {
                    assert!(iter.next_timeout(HOUR).unwrap().is_none());
                }
                assert!(iter.is_finished());
            });
            blocking.recv().unwrap();
            handle.close();
            blocked.join().unwrap();
        }
    });
}

#[test]
fn closing_ends_a_back_off() {
    within(60, || {
        logs::keep();
        let broker = Broker::start().unwrap();
        broker.create_topic("quiet", 1);
        let addr = broker.addr().to_string();
        for round in 1..=20 {
            let iter = builder(Client::builder()).connect(&addr).unwrap().subscribe("quiet").unwrap();
            let handle = iter.close_handle();
            let blocked = block(iter);
            broker.stop();
            logs::wait_for(round, &["WARN", &addr, "trying again in"]);
            handle.close();
            let iter = blocked.join().unwrap();
            assert_eq!(iter.stats().reconnects + iter.stats().failed_brokers, 1);
            broker.restart().unwrap();
        }
    });
}

/// The broker accepts but does not greet.
#[test]
fn closing_ends_a_dial() {
    within(60, || {
        logs::keep();
        let broker = Broker::start().unwrap();
        broker.create_topic("quiet", 1);
        let addr = broker.addr().to_string();
        let quick = builder(Client::builder()).backoff(MS, MS);
        for round in 1..=20 {
            let client = quick.clone().connect(&addr).unwrap();
            let iter = client.subscribe("quiet").unwrap();
            let handle = iter.close_handle();
            let blocked = block(iter);
            broker.pause();
            broker.disconnect_all();
            // It dials within a millisecond then.
            logs::wait_for(round, &[&addr, "again"]);
            handle.close();
            drop(blocked.join().unwrap());
            broker.resume();
        }
    });
}

#[test]
fn in_the_middle_of_an_answer() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("stalling", 1);
        broker.append_payloads("stalling", 0, &["1", "2", "3"]);
        let client = builder(Client::builder()).connect(broker.addr()).unwrap();
        // The first subscription asks for the broker's state too.
        drop(client.subscribe("stalling").unwrap());
        assert!(broker.wait_until(SOON, |stats| stats.open == 0));
        // Frame header, request id, name, count, marks.
        let discovered = 5 + 4 + 1 + 8 + 2 + 16;
        for bytes in 0.. {
            broker.inject(BrokerFault::StallAfter(discovered + bytes));
            let iter = client.subscribe(Subscription::topic("stalling").start(Start::Earliest)).unwrap();
            let handle = iter.close_handle();
            let blocked = block(iter);
            assert!(broker.wait_until(SOON, |stats| stats.stalled == 1 || stats.waiting == 1));
            let whole = broker.stats().stalled == 0;
            handle.close();
            drop(blocked.join().unwrap());
            if whole {
                assert!(bytes > 50, "{bytes}");
                return;
            }
            // It does not notice before.
            broker.release();
            assert!(broker.wait_until(SOON, |stats| stats.open == 0));
        }
    });
}

/// What was received but not handed out is not delivered any more, and the positions say so.
#[test]
fn messages_already_received_stay_undelivered() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 100, 20);
        let client = server.client();
        for delivered in 0..=25u64 {
            let mut iter = client.subscribe(Subscription::topic(&*topic.name).start(Start::At(1))).unwrap();
            for n in 1..=delivered {
                assert_eq!(iter.next().unwrap().unwrap().seq(), n);
            }
            let handle = iter.close_handle();
            thread::spawn(move || handle.close()).join().unwrap();
            assert!(iter.is_finished());
            assert_eq!(iter.position_of(&topic.name, 0), Some(delivered + 1), "before the next call");
            assert!(iter.next().is_none() && iter.next_batch().unwrap().is_none());
            assert_eq!(iter.position_of(&topic.name, 0), Some(delivered + 1), "after it");
            assert_eq!(iter.positions().get(&topic.name, 0), Some(delivered + 1));
            assert_eq!((iter.stats().messages, iter.stats().bundles), (delivered, delivered.div_ceil(20)));
        }
    });
}

#[test]
fn a_closed_handle_lets_no_subscription_begin() {
    within(60, || {
        let server = Server::start();
        let (client, topic, handle) = (server.client(), server.topic(1), CloseHandle::new());
        handle.close();
        for start in [Start::Earliest, Start::Latest, Start::At(1), Start::Last(1)] {
            for what in [Subscription::topic(&topic.name), Subscription::partition(&topic.name, 0)] {
                let e = client.subscribe(what.start(start).close_with(&handle)).unwrap_err();
                assert!(e.kind == ErrorKind::Closed, "{start}: {e:#}");
            }
        }
    });
}

#[test]
fn handles_are_harmless_after_the_end() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 10, 10);
        let client = server.client();
        let mut iter = client.subscribe(topic.all()).unwrap();
        let (handle, other) = (iter.close_handle(), client.subscribe(topic.all()).unwrap());
        handle.close();
        handle.close();
        assert!(iter.next().is_none(), "closed before the first call");
        assert_eq!(other.count(), 10, "only that one");
        drop(iter);
        handle.close();
        let mut iter = client.subscribe(topic.all()).unwrap();
        let handle = iter.close_handle();
        assert_eq!((&mut iter).count(), 10);
        assert!(iter.is_finished() && !handle.is_closed());
        handle.close();
        assert!(iter.next().is_none());
    });
}

/// Closing at any moment of a busy life, with a broker that comes and goes.
#[test]
fn closing_at_any_moment_ends_the_iteration() {
    within(120, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("busy", 3);
        for n in 1..=2000 {
            (0..3).for_each(|p| _ = broker.append_payloads("busy", p, &[n.to_string()]));
        }
        let quick = builder(Client::builder()).backoff(MS, 5 * MS);
        seeded(100, |rng| {
            broker.restart().unwrap();
            let client = quick.clone().connect(broker.addr()).unwrap();
            let busy = Subscription::topic("busy").start(Start::At(1)).fetch_size(5000);
            let mut iter = client.subscribe(busy).unwrap();
            let handle = iter.close_handle();
            let reader = thread::spawn(move || {
                let mut next = [1; 3];
                for message in iter.by_ref() {
                    let message = message.unwrap();
                    assert_eq!(message.seq(), next[usize::from(message.partition())]);
                    next[usize::from(message.partition())] += 1;
                }
                assert_eq!(iter.positions().iter().map(|p| p.seq).collect::<Vec<_>>(), next);
            });
            let (_never, nothing) = channel::<()>();
            let idle = |micros| _ = nothing.recv_timeout(Duration::from_micros(micros as u64));
            idle(rng.below(20_000));
            if rng.one_in(2) {
                broker.stop();
                idle(rng.below(20_000));
            }
            handle.close();
            reader.join().unwrap();
        });
    });
}

/// Closing takes no time itself, whatever the socket does.
#[test]
fn closing_does_not_block() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("quiet", 1);
        let iter = builder(Client::builder()).connect(broker.addr()).unwrap().subscribe("quiet").unwrap();
        // It never reads what is sent to it.
        broker.pause();
        iter.close_handle().close();
        drop(iter);
        broker.resume();
    });
    let sim = Simulation::new(2);
    let broker = sim.broker();
    broker.create_topic("quiet", 1);
    let iter = sim.client().connect(broker.brokers()).unwrap().subscribe("quiet").unwrap();
    broker.pause();
    let ((), took) = timed_in(&sim, || {
        iter.close_handle().close();
        drop(iter);
    });
    assert_eq!(took, Duration::ZERO);
}

/// One handle for all that a client does: what waits ends at once, and what was sent by then has an unknown outcome.
#[test]
fn a_clients_handle_ends_whatever_waits() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let closes = |call: fn(Client) -> Error| {
            let handle = CloseHandle::new();
            let client = builder(Client::builder()).close_with(&handle).connect(broker.addr()).unwrap();
            let asked = broker.stats().all_requests();
            broker.inject(BrokerFault::StallAfter(0));
            let waiting = thread::spawn(move || call(client));
            assert!(broker.wait_until(SOON, |stats| stats.all_requests() > asked));
            handle.close();
            let e = waiting.join().unwrap();
            broker.release();
            e
        };
        let record = [Record::new("tea")];
        let e = closes(|client| client.publish("orders", 0, &[Record::new("tea")]).unwrap_err());
        assert!(e.kind == ErrorKind::OutcomeUnknown && e.cause().unwrap().kind == ErrorKind::Closed, "{e:#}");
        let e = closes(|client| {
            let mut producer = client.producer().build().unwrap();
            producer.send_to("orders", 0, Record::new("milk")).unwrap();
            let e = producer.flush().unwrap_err();
            assert_eq!(producer.pending(), 1);
            e
        });
        assert!(e.kind == ErrorKind::Closed, "{e:#}");

        let handle = CloseHandle::new();
        let client = builder(Client::builder()).close_with(&handle).connect(broker.addr()).unwrap();
        let blocked = block(client.subscribe("orders").unwrap());
        let settings = builder(Client::builder()).close_with(&handle).wait_for_brokers(HOUR);
        let connecting = thread::spawn(move || settings.connect("127.0.0.1:1").unwrap_err());
        assert!(broker.wait_until(SOON, |stats| stats.waiting == 1));
        handle.close();
        drop(blocked.join().unwrap());
        assert!(connecting.join().unwrap().kind == ErrorKind::Closed);
        let sent = broker.stats().all_requests();
        assert!(client.publish("orders", 0, &record).unwrap_err().kind == ErrorKind::Closed);
        assert_eq!(broker.stats().all_requests(), sent, "nothing is published after a close");
    });
    let sim = Simulation::new(3);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let record = [Record::new("tea")];
    let calls: [fn(&Client) -> Error; 3] = [
        |client| client.publish("orders", 0, &[Record::new("tea")]).unwrap_err(),
        |client| {
            let mut producer = client.producer().build().unwrap();
            producer.send_to("orders", 0, Record::new("milk")).unwrap();
            producer.flush().unwrap_err()
        },
        |client| client.topics().unwrap_err(),
    ];
    for call in calls {
        let handle = CloseHandle::new();
        let client = builder(sim.client()).close_with(&handle).connect(broker.brokers()).unwrap();
        client.publish("orders", 0, &record).unwrap();
        broker.pause();
        ends_when_closed(&sim, &handle, || call(&client));
        broker.resume();
    }
    let handle = CloseHandle::new();
    broker.stop();
    let waits = builder(sim.client()).close_with(&handle).wait_for_brokers(HOUR);
    let e = ends_when_closed(&sim, &handle, || waits.connect(broker.brokers()).unwrap_err());
    assert!(e.kind == ErrorKind::Closed, "{e:#}");
}
