//! Ending an iteration from another thread.

use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::rng::seeded;
use common::server::Server;
use common::watch::{SOON, within};
use common::{logs, watch};
use tank_client::broker::{Broker, BrokerFault};
use tank_client::{Client, ClientBuilder, CloseHandle, ConsumeIter, Error, ErrorKind, Record, Start, Subscription};

/// How soon a blocked call must return, and what it is given on a machine that is busy with other tests too.
const AT_ONCE: Duration = Duration::from_millis(100);
const AT_ONCE_WHEN_BUSY: Duration = Duration::from_secs(2);

fn builder() -> ClientBuilder {
    Client::builder().backoff(Duration::from_secs(60), Duration::from_secs(60))
}

/// Calls `next` in a thread; when it returned, once it did.
fn block(mut iter: ConsumeIter) -> JoinHandle<(ConsumeIter, Instant)> {
    thread::spawn(move || {
        assert!(iter.next().is_none());
        let ended = Instant::now();
        assert!(iter.is_finished() && iter.next().is_none());
        assert!(iter.next_batch().unwrap().is_none() && iter.next_timeout(SOON).unwrap().is_none());
        (iter, ended)
    })
}

#[track_caller]
fn ended_at_once(closed: Instant, blocked: JoinHandle<(ConsumeIter, Instant)>) -> ConsumeIter {
    let (iter, ended) = blocked.join().unwrap();
    let took = ended.saturating_duration_since(closed);
    assert!(took < AT_ONCE_WHEN_BUSY, "{took:?}");
    iter
}

#[test]
fn a_blocked_next_returns_at_once() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("quiet", 3);
        let client = Client::connect(broker.addr()).unwrap();
        let mut fastest = Duration::MAX;
        for _ in 0..200 {
            let iter = client.subscribe("quiet").unwrap();
            let handle = iter.close_handle();
            let blocked = block(iter);
            assert!(broker.wait_until(SOON, |stats| stats.waiting == 1));
            let closed = Instant::now();
            handle.clone().close();
            drop(ended_at_once(closed, blocked));
            fastest = fastest.min(closed.elapsed());
            assert!(handle.is_closed());
            assert!(broker.wait_until(SOON, |stats| stats.open == 0));
        }
        assert!(fastest < AT_ONCE, "{fastest:?}");
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
                    assert!(iter.next_timeout(SOON).unwrap().is_none());
                }
                let ended = Instant::now();
                assert!(iter.is_finished());
                (iter, ended)
            });
            blocking.recv().unwrap();
            let closed = Instant::now();
            handle.close();
            drop(ended_at_once(closed, blocked));
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
            let iter = builder().connect(&addr).unwrap().subscribe("quiet").unwrap();
            let handle = iter.close_handle();
            let blocked = block(iter);
            broker.stop();
            logs::wait_for(round, &["WARN", &addr, "trying again in"]);
            let closed = Instant::now();
            handle.close();
            let iter = ended_at_once(closed, blocked);
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
        let quick = Client::builder().backoff(Duration::from_millis(1), Duration::from_millis(1));
        for round in 1..=20 {
            let client = quick.clone().connect(&addr).unwrap();
            let iter = client.subscribe("quiet").unwrap();
            let handle = iter.close_handle();
            let blocked = block(iter);
            broker.pause();
            broker.disconnect_all();
            // It dials within a millisecond then.
            logs::wait_for(round, &[&addr, "again"]);
            let closed = Instant::now();
            handle.close();
            drop(ended_at_once(closed, blocked));
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
        let client = Client::connect(broker.addr()).unwrap();
        // The first subscription asks for the broker's state too.
        drop(client.subscribe("stalling").unwrap());
        assert!(broker.wait_until(SOON, |stats| stats.open == 0));
        // Frame header, request id, name, count, marks.
        let discovered = 5 + 4 + 1 + 8 + 2 + 16;
        for bytes in 0.. {
            broker.inject(BrokerFault::StallAfter(discovered + bytes));
            let iter = client.subscribe(Subscription::topic("stalling").start(Start::Earliest)).unwrap();
            let handle = iter.close_handle();
            let blocked = thread::spawn(move || {
                let mut iter = iter;
                for message in iter.by_ref() {
                    message.unwrap();
                }
                (iter, Instant::now())
            });
            assert!(broker.wait_until(SOON, |stats| stats.stalled == 1 || stats.waiting == 1));
            let whole = broker.stats().stalled == 0;
            let closed = Instant::now();
            handle.close();
            drop(ended_at_once(closed, blocked));
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
        let quick = Client::builder().backoff(Duration::from_millis(1), Duration::from_millis(5));
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
                let ended = Instant::now();
                assert_eq!(iter.positions().iter().map(|p| p.seq).collect::<Vec<_>>(), next);
                (iter, ended)
            });
            let (_never, nothing) = channel::<()>();
            let idle = |micros| _ = nothing.recv_timeout(Duration::from_micros(micros as u64));
            idle(rng.below(20_000));
            if rng.one_in(2) {
                broker.stop();
                idle(rng.below(20_000));
            }
            let closed = Instant::now();
            handle.close();
            drop(ended_at_once(closed, reader));
        });
    });
}

/// Closing takes no time itself, whatever the socket does.
#[test]
fn closing_does_not_block() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("quiet", 1);
        let iter = Client::connect(broker.addr()).unwrap().subscribe("quiet").unwrap();
        broker.pause();
        let ((), took) = watch::timed(|| iter.close_handle().close());
        assert!(took < AT_ONCE_WHEN_BUSY, "{took:?}");
        let ((), took) = watch::timed(|| drop(iter));
        assert!(took < AT_ONCE_WHEN_BUSY, "{took:?}");
        broker.resume();
    });
}

/// One handle for all that a client does: what waits ends at once, and what was sent by then has an unknown outcome.
#[test]
fn a_clients_handle_ends_whatever_waits() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let closes = |call: fn(Client) -> Error| {
            let handle = CloseHandle::new();
            let client = Client::builder().close_with(&handle).connect(broker.addr()).unwrap();
            let asked = broker.stats().all_requests();
            broker.inject(BrokerFault::StallAfter(0));
            let waiting = thread::spawn(move || call(client));
            assert!(broker.wait_until(SOON, |stats| stats.all_requests() > asked));
            let closed = Instant::now();
            handle.close();
            let e = waiting.join().unwrap();
            assert!(closed.elapsed() < AT_ONCE_WHEN_BUSY, "{e:#}");
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
        let client = Client::builder().close_with(&handle).connect(broker.addr()).unwrap();
        let blocked = block(client.subscribe("orders").unwrap());
        let settings = Client::builder().close_with(&handle).wait_for_brokers(SOON * 2);
        let connecting = thread::spawn(move || settings.connect("127.0.0.1:1").unwrap_err());
        assert!(broker.wait_until(SOON, |stats| stats.waiting == 1));
        let closed = Instant::now();
        handle.close();
        drop(ended_at_once(closed, blocked));
        assert!(connecting.join().unwrap().kind == ErrorKind::Closed);
        assert!(closed.elapsed() < AT_ONCE_WHEN_BUSY);
        assert!(matches!(client.publish("orders", 0, &record), Err(Error { kind: ErrorKind::Closed, .. }) | Ok(())));
    });
}
