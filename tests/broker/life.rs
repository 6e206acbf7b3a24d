//! Starting, stopping, hanging; the counters.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use common::watch::within;
use tank_client::broker::{Broker, RequestKind as Kind, dense_bundle};
use tank_client::protocol::frame::PING;
use tank_client::{Compression, Record};

use crate::raw::{Raw, SOON, fetch};
use crate::rules::{message, publish};

#[test]
fn stop_and_restart_keep_port_and_data() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    broker.append_payloads("orders", 0, &["one", "two"]);
    let request = fetch(1, 0, "orders", &[(0, 0, 1000)]);
    let before = Raw::connect(&broker).ask(&request);
    let addr = broker.addr();
    for _ in 0..20 {
        let mut open = Raw::connect(&broker);
        broker.stop();
        assert!(open.is_closed());
        assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        broker.restart().unwrap();
        assert_eq!(broker.addr(), addr);
        assert_eq!(Raw::connect(&broker).ask(&request), before);
    }
    broker.restart().unwrap();
    assert_eq!(Raw::connect(&broker).ask(&request), before);
}

#[test]
fn a_port_can_be_chosen() {
    let first = Broker::start().unwrap();
    let again = Broker::builder().port(first.addr().port());
    assert_eq!(again.start().unwrap_err().kind(), ErrorKind::AddrInUse);
    let addr = first.addr();
    drop(first);
    let broker = again.start().unwrap();
    assert_eq!(broker.addr(), addr);
    Raw::connect(&broker);
    assert!(Broker::cluster_builder(2).broker(Broker::builder().port(u16::MAX)).start().is_err(), "no port follows");
}

#[test]
fn drop_ends_everything_at_once() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let mut clients: Vec<Raw> = (0..50).map(|_| Raw::connect(&broker)).collect();
    for client in &mut clients {
        client.send(&fetch(1, 3_600_000, "orders", &[(0, 1, 1000)]));
    }
    assert!(broker.wait_until(SOON, |stats| stats.waiting == 50));
    within(60, move || drop(broker));
    assert!(clients.iter_mut().all(Raw::is_closed));
}

#[test]
fn drop_does_not_wait_for_a_client_that_does_not_read() {
    let broker = Broker::start().unwrap();
    broker.create_topic("big", 1);
    let payload = vec![7u8; 1 << 20];
    let bundle = dense_bundle(&[Record::new(&payload).timestamp_ms(1)], Compression::None);
    broker.append_repeated("big", 0, &[&bundle], 1024);
    let mut client = Raw::connect(&broker);
    for id in 0..20 {
        client.send(&fetch(id, 0, "big", &[(0, 1, 64 << 20)]));
    }
    assert!(broker.wait_until(SOON, |stats| stats.requests(Kind::Consume) == 20 && stats.bytes_sent > 100_000));
    assert!(broker.stats().answered < 20);
    drop(broker);
}

#[test]
fn refusing_leaves_open_connections_alone() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let mut open = Raw::connect(&broker);
    broker.refuse_connections();
    assert_eq!(TcpStream::connect(broker.addr()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    open.ask(&fetch(1, 0, "orders", &[(0, 1, 1000)]));
    broker.accept_connections().unwrap();
    Raw::connect(&broker);
}

#[test]
fn a_paused_broker_is_silent_and_then_goes_on() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let mut open = Raw::connect(&broker);
    broker.pause();
    open.send(&fetch(1, 0, "orders", &[(0, 1, 1000)]));
    let mut late = Raw::dial(broker.addr());
    for raw in [&mut open, &mut late] {
        raw.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(raw.read(1).unwrap_err().kind(), ErrorKind::WouldBlock);
        raw.stream.set_read_timeout(Some(SOON)).unwrap();
    }
    broker.resume();
    assert_eq!(open.frame().unwrap()[0], 2);
    assert_eq!(late.frame().unwrap(), PING);
    broker.pause();
    open.send(&fetch(1, 0, "orders", &[(0, 1, 1000)]));
    broker.disconnect_all();
    assert!(open.is_closed());
    assert!(broker.wait_until(SOON, |stats| stats.open == 0));
    broker.stop();
    broker.restart().unwrap();
    Raw::connect(&broker);
}

#[test]
fn silent_connections_end_and_used_ones_stay() {
    let broker = Broker::builder().silent_timeout(Some(Duration::from_millis(500))).start().unwrap();
    let mut used = Raw::connect(&broker);
    used.send(&[2]);
    let mut silent = Raw::connect(&broker);
    assert!(silent.is_closed());
    assert!(broker.wait_until(SOON, |stats| stats.open == 1));
    drop(used);
    assert!(broker.wait_until(SOON, |stats| stats.open == 0));

    let broker = Broker::builder().idle_timeout(Duration::from_millis(500)).start().unwrap();
    broker.create_topic("orders", 1);
    let mut used = Raw::connect(&broker);
    used.ask(&fetch(1, 700, "orders", &[(0, 1, 1000)]));
    assert!(used.is_closed());
}

#[test]
fn the_oldest_of_too_many_silent_connections_goes() {
    let broker = Broker::start().unwrap();
    let mut clients: Vec<Raw> = (0..64).map(|_| Raw::connect(&broker)).collect();
    assert_eq!(broker.stats().open, 64);
    let _one_more = Raw::connect(&broker);
    assert!(clients[0].is_closed());
    assert!(broker.wait_until(SOON, |stats| stats.open == 64));
}

#[test]
fn requests_are_counted_and_remembered() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1);
    let mut raw = Raw::connect(&broker);
    raw.send(&PING);
    raw.ask(&fetch(7, 0, "orders", &[(0, 1, 1000)]));
    assert!(broker.wait_until(SOON, |stats| stats.answered == 1));
    let stats = broker.stats();
    assert_eq!((stats.requests(Kind::Consume), stats.requests(Kind::Ping), stats.all_requests()), (1, 1, 1));
    assert_eq!((stats.accepted, stats.open, stats.bytes_sent), (1, 1, 5 + 45));
    let requests = broker.requests();
    assert_eq!((requests.len(), requests[1].kind, requests[1].connection), (2, Kind::Consume, 1));
    assert_eq!(common::fetch(&requests[1]).unwrap().request_id, 7);
    broker.forget_requests();
    assert!(broker.requests().is_empty());
    assert!(!broker.wait_until(Duration::from_millis(1), |stats| stats.open == 2));
    broker.disconnect_all();
    assert!(raw.is_closed());
}

#[test]
fn limits_of_no_time_do_not_keep_it_busy() {
    within(60, || {
        for settings in
            [Broker::builder().idle_timeout(Duration::ZERO), Broker::builder().silent_timeout(Some(Duration::ZERO))]
        {
            let broker = settings.start().unwrap();
            let _client = TcpStream::connect(broker.addr()).unwrap();
            assert!(broker.wait_until(SOON, |stats| stats.accepted == 1));
        }
    });
}

#[test]
fn a_wait_may_have_any_limit() {
    let broker = Broker::start().unwrap();
    assert!(broker.wait_until(Duration::MAX, |stats| stats.open == 0));
}

/// A program's logger, which the broker's thread calls.
struct Strict;

impl log::Log for Strict {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        assert!(!record.args().to_string().contains("without a replica in sync"), "{}", record.args());
    }

    fn flush(&self) {}
}

#[test]
fn a_panic_in_its_thread_leaves_nobody_waiting() {
    log::set_logger(&Strict).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let cluster = Broker::cluster(2).unwrap();
    cluster.create_topic("orders", 1);
    cluster.set_in_sync("orders", 0, &[]);
    let mut raw = Raw::connect(cluster.node(0));
    raw.send(&publish(0, 0, "orders", &[(0, &dense_bundle(&[message(b"x")], Compression::None))]));
    assert!(raw.is_closed());
    within(60, move || {
        cluster.node(0).stop();
        drop(cluster);
    });
}
