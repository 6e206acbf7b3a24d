//! Connecting: to nobody, to somebody else, to one of several.

use std::error::Error as _;
use std::io;
use std::net::{SocketAddr, SocketAddrV6, TcpListener, ToSocketAddrs};
use std::time::Duration;

use common::proxy::Proxy;
use common::server::Server;
use common::watch::{timed_in, within};
use tank_client::broker::{Broker, BrokerFault};
use tank_client::simulation::{Service, Simulation};
use tank_client::{Brokers, Client, ClientBuilder, Error, ErrorKind, Limits, Phase};

/// What a connection needs in the simulated network at most.
const TRIP: Duration = Duration::from_millis(5);

fn quick(sim: &Simulation) -> ClientBuilder {
    sim.client().connect_timeout(Duration::from_millis(300))
}

/// The address of a broker that is down: its port stays refused.
fn down() -> (Broker, String) {
    let broker = Broker::start().unwrap();
    broker.stop();
    let addr = broker.addr().to_string();
    (broker, addr)
}

/// The whole chain of causes.
fn chain(e: &Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn a_refused_port_is_an_error_at_once() {
    within(60, || {
        let (_broker, addr) = down();
        let e = Client::connect(&addr).unwrap_err();
        assert_eq!((&e.kind, e.broker()), (&ErrorKind::Connect, Some(&*addr)));
        assert_eq!(io::Error::from(e.clone()).kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(e.to_string(), format!("cannot connect to {addr}"), "the source says why");
        assert!(e.is_retryable() && !e.is_timeout());
    });
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.stop();
    let (e, took) = timed_in(&sim, || sim.client().connect(broker.brokers()).unwrap_err());
    assert!(e.kind == ErrorKind::Connect && took <= TRIP, "{took:?}: {e:#}");
}

#[test]
fn an_unknown_host_is_an_error_that_names_it() {
    within(120, || {
        let e = Client::connect("no-such-host.invalid:11011").unwrap_err();
        assert!(e.kind == ErrorKind::Connect && e.broker() == Some("no-such-host.invalid:11011"), "{e:?}");
        let server = Server::start();
        Client::connect(format!("no-such-host.invalid,{}", server.addr())).unwrap();
    });
}

#[test]
fn brokers_are_given_in_whatever_form_they_are_at_hand() {
    within(60, || {
        let (a, b) = (Broker::start().unwrap(), Broker::start().unwrap());
        let addrs = [a.addr(), b.addr()];
        let texts = addrs.map(|addr| addr.to_string());
        let parts = texts.each_ref().map(String::as_str);
        let list = texts.join(",");
        let one: [Brokers; 6] = [
            parts[0].into(),
            (&parts[0]).into(),
            (&texts[0]).into(),
            texts[0].clone().into(),
            addrs[0].into(),
            [addrs[0]].into(),
        ];
        let both: [Brokers; 12] = [
            (&*list).into(),
            addrs.into(),
            (&addrs).into(),
            addrs.to_vec().into(),
            (&addrs[..]).into(),
            (&addrs.to_vec()).into(),
            parts.into(),
            (&parts).into(),
            (&texts).into(),
            texts.to_vec().into(),
            addrs.iter().collect(),
            parts.iter().chain(&parts[..0]).collect(),
        ];
        for (forms, text) in [(&one[..], &texts[0]), (&both[..], &list)] {
            for brokers in forms {
                assert_eq!(brokers.to_string(), *text);
                Client::connect(brokers).unwrap();
            }
        }
        // The settings are still there, for the next one.
        let builder = Client::builder();
        builder.connect(addrs).unwrap();
        a.stop();
        builder.connect(addrs).unwrap();

        let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 9));
        assert_eq!(Brokers::from(v6).to_string(), "[::1]:9");
        let none = Client::connect(Vec::<String>::new()).unwrap_err();
        assert_eq!(none.to_string(), "broker address \"\": no host");
        let scoped = SocketAddrV6::new([0xfe80, 0, 0, 0, 0, 0, 0, 1].into(), 9, 0, 3);
        let e = Client::builder().connect_timeout(Duration::from_millis(50)).connect(scoped).unwrap_err();
        assert!(!matches!(e.kind, ErrorKind::Config { .. }), "a scoped address is one: {e:?}");
        assert!(matches!(
            Client::connect(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap_err().kind,
            ErrorKind::Config { .. }
        ));
    });
}

#[test]
fn what_is_no_address_is_refused_without_dialing() {
    within(60, || {
        for addr in ["", "a:0", "a:65536", "a:port", ":11011", "a b", "http://a", "[::1", "1:2:3", "a:1,,b:2"] {
            let e = Client::connect(addr).unwrap_err();
            assert!(matches!(e.kind, ErrorKind::Config { .. }) && !e.is_retryable(), "{addr}: {e:?}");
            assert!(e.to_string().starts_with("broker address"), "{e}");
        }
        for (builder, text) in [
            (Client::builder().client_id("x".repeat(256)), "client id: 256 bytes, at most 255 allowed"),
            (Client::builder().connect_timeout(Duration::ZERO), "connect and io time-outs must be above zero"),
            (Client::builder().io_timeout(Duration::ZERO), "connect and io time-outs must be above zero"),
        ] {
            assert_eq!(builder.connect("127.0.0.1").unwrap_err().to_string(), text);
        }
    });
}

#[test]
fn another_service_is_told_by_its_greeting() {
    within(60, || {
        let broker = Broker::start().unwrap();
        let addr = broker.addr().to_string();
        for (greeting, shown) in [
            (&b"220 mail.example.org ESMTP\r\n"[..], "220 m"),
            (b"HTTP/1.1 400 Bad Request\r\n", "HTTP/"),
            (b"\"\xff\r\n\\", r#"\"\xff\r\n\\"#),
            (&[3, 1, 0, 0, 0, 0], r"\x03\x01\x00\x00\x00"),
            (&[2, 0, 0, 0, 0], r"\x02\x00\x00\x00\x00"),
        ] {
            broker.inject(BrokerFault::Greeting(greeting.to_vec()));
            let e = Client::connect(&addr).unwrap_err();
            assert_eq!(e.kind, ErrorKind::NotTank);
            let text = format!("{addr}: not a TANK broker: it greets with \"{shown}\", not with a ping");
            assert_eq!((format!("{e:#}"), io::Error::from(e).kind()), (text, io::ErrorKind::InvalidData));
        }
        broker.inject(BrokerFault::CloseOnAccept);
        let e = Client::connect(&addr).unwrap_err();
        let ended = matches!(
            e.kind,
            ErrorKind::Disconnected { phase: Phase::Greet, .. } | ErrorKind::Io { phase: Phase::Greet, .. }
        );
        assert!(ended, "{e:?}");
        Client::connect(&addr).unwrap();
    });
}

#[test]
fn one_of_several_will_do() {
    within(60, || {
        let server = Server::start();
        let topic = server.topic(1);
        let ((_a, refused), (_b, also_refused)) = (down(), down());
        let strange = Broker::start().unwrap();
        strange.inject_times(BrokerFault::Greeting(b"220 mail".to_vec()), u64::MAX);
        let strange = strange.addr();
        let all = [refused, also_refused, strange.to_string(), server.addr().to_owned()];
        for first in 0..all.len() {
            let mut order = all.clone();
            order.rotate_left(first);
            let client = Client::builder().connect(order.join(" , ")).unwrap();
            assert_eq!(client.partitions(&topic.name).unwrap().len(), 1);
            assert_eq!(client.subscribe(topic.all()).unwrap().count(), 0);
        }
    });
    let sim = Simulation::new(2);
    let all = beside_strangers(&sim);
    for first in 0..all.len() {
        let mut order = all.clone();
        order.rotate_left(first);
        let client = quick(&sim).connect(order.join(",")).unwrap();
        // The one that works is the one to begin with from now on.
        let (count, took) = timed_in(&sim, || client.topics().unwrap().len());
        assert!(count == 0 && took <= TRIP, "{took:?}");
    }
}

/// Addresses: of one that refuses, one that says nothing, one that speaks something else, and a broker.
fn beside_strangers(sim: &Simulation) -> [String; 4] {
    let brokers = [sim.broker(), sim.broker(), sim.broker(), sim.broker()];
    brokers[0].stop();
    sim.take_over("broker-2", Service::Mute);
    sim.take_over("broker-3", Service::Greeting(b"220 mail".to_vec()));
    brokers.map(|broker| broker.addr().to_string())
}

#[test]
fn when_none_of_several_answers_the_error_names_each() {
    let sim = Simulation::new(3);
    let [refused, silent, strange, _] = beside_strangers(&sim);
    let list = format!("{refused},{silent},{strange}");
    let (e, took) = timed_in(&sim, || quick(&sim).connect(&list).unwrap_err());
    assert!(e.kind == ErrorKind::Connect && e.broker() == Some(&list), "{e:?}");
    assert!(took <= Duration::from_millis(300) + TRIP, "{took:?}");
    let text = chain(&e);
    for part in [
        format!("cannot connect to {list}: cannot connect to {refused}: "),
        format!("; {silent}: timed out after "),
        format!("; {strange}: not a TANK broker: "),
    ] {
        assert!(text.contains(&part), "{part:?} in {text:?}");
    }
    assert_eq!(e.source().unwrap().to_string().matches("; ").count(), 2);
}

/// `localhost` may have two addresses of which a server listens on one.
#[test]
fn host_names_and_ipv6_addresses_are_dialed() {
    within(60, || {
        let server = Server::start();
        let port = server.addr().rsplit(':').next().unwrap();
        let topic = server.topic(1);
        let client = Client::connect(format!("localhost:{port}")).unwrap();
        assert_eq!(client.subscribe(topic.all()).unwrap().count(), 0);

        let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
        let proxy = Proxy::on(listener, server.addr());
        assert!(proxy.addr().starts_with("[::1]:"));
        let client = Client::connect(proxy.addr()).unwrap();
        assert_eq!(client.subscribe(topic.all()).unwrap().count(), 0);
        assert_eq!(proxy.accepted(), 1, "what the client opened does for its subscriptions too");
        let is_v6 = ("localhost", 1).to_socket_addrs().is_ok_and(|mut found| found.any(|address| address.is_ipv6()));
        if is_v6 {
            let port = proxy.addr().rsplit(':').next().unwrap().to_owned();
            Client::connect(format!("localhost:{port}")).unwrap();
        }
    });
}

#[test]
fn socket_settings_do_not_disturb_a_client() {
    within(60, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 100, 10);
        let (zero, brief) = (Duration::ZERO, Duration::from_millis(1500));
        for builder in [
            Client::builder().keepalive(None).tcp_user_timeout(None),
            Client::builder().keepalive(Some(zero)).tcp_user_timeout(Some(zero)),
            Client::builder().keepalive(Some(brief)).tcp_user_timeout(Some(brief)),
            Client::builder().keepalive(Some(Duration::from_secs(3))),
            Client::builder().keepalive(Some(Duration::MAX)).tcp_user_timeout(Some(Duration::MAX)),
            Client::builder().receive_buffer(1).send_buffer(1),
            Client::builder().receive_buffer(1 << 20).send_buffer(1 << 20).client_id(""),
            Client::builder().client_id("x".repeat(255)),
        ] {
            let client = builder.connect(server.addr()).unwrap_or_else(|e| panic!("{}: {builder:?}", chain(&e)));
            assert_eq!(client.subscribe(topic.all()).unwrap().count(), 100);
        }
    });
}

/// A ping may come late, and stand in front of any answer.
#[test]
fn pings_before_any_answer_are_passed_over() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        broker.append_payloads("orders", 0, &["1", "2"]);
        broker.inject_times(BrokerFault::LatePing(Duration::from_millis(50)), 2);
        broker.inject_times(BrokerFault::PingBeforeAnswer, u64::MAX);
        let client = Client::connect(broker.addr()).unwrap();
        let mut iter = client.subscribe(tank_client::Subscription::topic("orders").stop_at_seq(4)).unwrap();
        broker.append_payloads("orders", 0, &["3"]);
        assert_eq!(iter.next().unwrap().unwrap().seq(), 3);
        broker.append_payloads("orders", 0, &["4"]);
        assert_eq!(iter.next().unwrap().unwrap().seq(), 4);
        assert!(iter.next().is_none());
        assert_eq!(client.partitions("orders").unwrap()[0].high_water_mark, 4);
    });
}

#[test]
fn a_broker_may_greet_more_than_once() {
    within(60, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        for pings in 1..4 {
            broker.inject_times(BrokerFault::Greeting([3, 0, 0, 0, 0].repeat(pings)), u64::MAX);
            let client = Client::builder().retry_timeout(Duration::ZERO).connect(broker.addr()).unwrap();
            assert_eq!(client.topics().unwrap().len(), 1);
            broker.clear_faults();
        }
    });
}

#[test]
fn limits_that_no_memory_answers_to_are_refused() {
    let (_broker, addr) = down();
    let most = u32::try_from(isize::MAX / 4).unwrap_or(2 << 30);
    for (limits, name, given) in [
        (Limits::default().bundle(most + 1), "bundle", most + 1),
        (Limits::default().message_set(u32::MAX), "message set", u32::MAX),
    ] {
        let reason = format!("limit of a {name}: {given} bytes given, at most {most} allowed");
        assert_eq!(Client::builder().limits(limits).connect(&addr).unwrap_err().to_string(), reason);
    }
    let e = Client::builder().limits(Limits::default().bundle(most).message_set(most)).connect(&addr).unwrap_err();
    assert!(e.kind == ErrorKind::Connect, "{e}");
}
