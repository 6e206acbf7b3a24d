//! A slow caller: an unread socket and a waiting broker, and nothing that grows.

use std::time::Duration;

use common::alloc;
use common::server::bundle;
use common::watch::{SOON, within};
use tank_client::Compression;
use tank_client::broker::Broker;
use tank_client::{Client, Start, Subscription};

/// Waits until the broker has sent all that it can for now: bytes in all.
fn sent_until_it_waits(broker: &Broker) -> u64 {
    let mut sent = 0;
    while broker.wait_until(Duration::from_millis(200), |stats| stats.bytes_sent > sent) {
        sent = broker.stats().bytes_sent;
    }
    sent
}

#[test]
fn a_caller_that_does_not_go_on_holds_the_broker_back() {
    within(120, || {
        let _weighed = alloc::weigh_this_thread();
        let broker = Broker::start().unwrap();
        broker.create_topic("huge", 1);
        let payloads = [[b'x'; 1000]; 60];
        broker.append_repeated("huge", 0, &[&bundle(&payloads, Compression::None)], 1 << 20);
        let client = Client::builder().receive_buffer(64 << 10).connect(broker.addr()).unwrap();
        let all = Subscription::topic("huge").start(Start::Earliest).fetch_size(64 << 20);
        let mut iter = client.subscribe(all).unwrap();
        assert_eq!(iter.next().unwrap().unwrap().seq(), 1);
        let (held, sent) = (alloc::held(), sent_until_it_waits(&broker));
        assert!(sent < 16 << 20, "{sent} bytes of 64 MiB sent to a caller that took one message");
        for n in 2..=20_000 {
            assert_eq!(iter.next().unwrap().unwrap().seq(), n);
            if n % 4000 == 0 {
                let (taken, sent) = (n * 1014, sent_until_it_waits(&broker));
                assert!(sent < taken + (16 << 20), "{sent} bytes sent, {taken} taken");
            }
        }
        assert!(alloc::held() < held + (1 << 20), "{} bytes held, {held} before", alloc::held());
        assert_eq!(broker.stats().requests(tank_client::broker::RequestKind::Consume), 1);
    });
}

/// Connections that end while nobody waits for anything are none of the caller's business.
#[test]
fn a_pause_over_the_brokers_idle_limit_goes_unnoticed() {
    within(120, || {
        let broker = Broker::builder().idle_timeout(Duration::from_millis(150)).start().unwrap();
        broker.create_topic("orders", 2);
        for n in 1..=10 {
            (0..2).for_each(|p| _ = broker.append_payloads("orders", p, &[n.to_string(), "x".repeat(5000)]));
        }
        let strict = Client::builder().retry_timeout(Duration::ZERO);
        let client = strict.connect(broker.addr()).unwrap();
        let all = Subscription::topic("orders").start(Start::Earliest).stop_at_end().fetch_size(1);
        let mut iter = client.subscribe(all).unwrap();
        let mut got = [1; 2];
        for message in iter.by_ref() {
            let message = message.unwrap();
            let next = &mut got[usize::from(message.partition())];
            assert_eq!(message.seq(), *next);
            *next += 1;
            assert!(broker.wait_until(SOON, |stats| stats.open == 0), "the pause");
        }
        assert_eq!(got, [21; 2]);
        let stats = iter.stats();
        assert_eq!((stats.reconnects, stats.failed_brokers, stats.fetches), (0, 0, 10), "{stats:?}");
        assert!(broker.stats().accepted >= 5);
        // So it is with the client's own.
        for _ in 0..5 {
            assert!(broker.wait_until(SOON, |stats| stats.open == 0));
            assert_eq!(client.partitions("orders").unwrap().len(), 2);
        }
    });
}

/// A pause in the middle of an answer lets the rest of it wait in the network, however long.
#[test]
fn a_pause_in_an_answer_whose_connection_has_ended() {
    within(60, || {
        let broker = Broker::builder().idle_timeout(Duration::from_millis(150)).start().unwrap();
        broker.create_topic("orders", 1);
        for _ in 0..100 {
            broker.append("orders", 0, &bundle(&[vec![b'x'; 10_000]], Compression::None));
        }
        let strict = Client::builder().retry_timeout(Duration::ZERO);
        let client = strict.connect(broker.addr()).unwrap();
        let mut iter =
            client.subscribe(Subscription::topic("orders").start(Start::Earliest).fetch_size(300_000)).unwrap();
        for n in 1..=100 {
            assert_eq!(iter.next().unwrap().unwrap().seq(), n);
            if n % 7 == 0 {
                assert!(broker.wait_until(SOON, |stats| stats.open == 0));
            }
        }
        assert_eq!(iter.stats().reconnects, 0);
    });
}
