//! The page for a ticket.

use std::fs::OpenOptions;
use std::process::Stdio;

use common::server::{Server, unique_name};
use common::watch::within;
use tank_client::broker::{Broker, BrokerFault, RequestKind};

use crate::support::{Running, orders, run_at, tool};

/// Checks that each line begins with one of these, in this order, and that there are no other lines.
#[track_caller]
fn check(out: &str, begins: &[String]) {
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == begins.len(), "{out}\n{begins:#?}");
    for (line, begin) in lines.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line}\n{begin}");
    }
    assert!(lines[0].ends_with(concat!("Z, tankctl ", env!("CARGO_PKG_VERSION"))), "{out}");
}

#[test]
fn all_is_well() {
    within(300, || {
        let server = Server::start();
        let (topic, empty, addr) = (orders(&server), server.topic(1).name, server.addr());
        let (code, out, err) = run_at(addr, &["doctor", &topic, &empty]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        let begins = [
            "20".into(),
            format!("ok    resolve {addr}: {addr}"),
            format!("ok    connect {addr}: "),
            format!("ok    ping {addr}: "),
            format!("ok    status {addr}: "),
            "ok    topology: stands alone".into(),
            "ok    topics: ".into(),
            format!("ok    {topic}/0: 1 to 4, the last one of 2024-02-29T08:30:04.000Z, "),
            format!("ok    {topic}/1: 1 to 3, the last one of 2024-02-29T08:30:03.000Z, "),
            format!("ok    fetch {topic}/0: the last message, "),
            format!("ok    {empty}/0: no messages yet"),
        ];
        check(&out, &begins);
    });
}

#[test]
fn what_fails_is_told_and_the_rest_goes_on() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 3);
        broker.append_payloads("orders", 0, &["tea"; 5000]);
        broker.append_payloads("orders", 2, &["tea", "milk"]);
        broker.truncate_front("orders", 2, 3);
        broker.set_broken("orders", 1, true);
        let (addr, unknown) = (broker.addr().to_string(), unique_name());
        let brokers = format!("{addr}, 127.0.0.1:1,host.invalid");
        let (code, out, err) = run_at(&brokers, &["doctor", "--timeout", "3s", &unknown, "orders", "orders/7"]);
        let begins = [
            "20".into(),
            format!("ok    resolve {addr}: {addr}"),
            format!("ok    connect {addr}: "),
            format!("ok    ping {addr}: "),
            format!("ok    status {addr}: 1 topic, 3 partitions"),
            "ok    resolve 127.0.0.1:1: 127.0.0.1:1".into(),
            "FAIL  connect 127.0.0.1:1: Connection refused".into(),
            "FAIL  resolve host.invalid: ".into(),
            "FAIL  connect host.invalid: failed to lookup address".into(),
            "ok    topology: stands alone".into(),
            "ok    topics: 1".into(),
            format!("FAIL  topic {unknown}: the broker lists no such topic"),
            "ok    orders/0: 1 to 5000, the last one of ".into(),
            format!("FAIL  orders/1: {addr}: the broker has trouble with its files"),
            "ok    orders/2: no messages left, the last number was 2".into(),
            "ok    fetch orders/0: the last message, ".into(),
            format!("FAIL  orders/7: {addr}: no such partition"),
        ];
        check(&out, &begins);
        assert_eq!((code, err.as_str()), (1, "tankctl: 6 steps failed\n"));

        broker.stop();
        let (code, out, err) = run_at(&addr, &["doctor", "--timeout", "1s", "orders"]);
        let begins =
            ["20".into(), format!("ok    resolve {addr}"), format!("FAIL  connect {addr}: Connection refused")];
        check(&out, &begins);
        assert_eq!((code, err.as_str()), (1, "tankctl: 1 step failed\n"));
    });
}

#[test]
fn a_step_is_tried_once() {
    within(300, || {
        let broker = Broker::start().unwrap();
        let addr = broker.addr().to_string();
        for (more, begin) in [(&[][..], "FAIL "), (&["--retry", "10s"], "ok   ")] {
            broker.inject(BrokerFault::CloseOnRequest(RequestKind::DiscoverTopology));
            let (code, out, _) = run_at(&addr, &[&["doctor"], more].concat());
            let nodes = out.lines().find(|line| line.contains(" topology: ")).unwrap();
            assert!(nodes.starts_with(begin) && code == i32::from(begin == "FAIL "), "{out}");
        }
    });
}

#[test]
fn the_nodes_of_a_cluster() {
    within(300, || {
        let cluster = Broker::cluster(3).unwrap();
        cluster.create_topic("orders", 1);
        cluster.node(2).stop();
        cluster.fail_over(2);
        let addr = cluster.node(0).addr().to_string();
        let (code, out, err) = run_at(&addr, &["doctor", "--timeout", "10s", "orders"]);
        assert!(out.contains("ok    topology: cluster ") && out.contains(" 3 nodes\nok    node 1: "), "{out}");
        assert!(out.contains("ok    node 2: ") && out.contains("ok    orders/0: no messages yet\n"), "{out}");
        let last = out.lines().find(|line| line.contains("node 3: ")).unwrap();
        assert!(last.starts_with("FAIL  ") && last.ends_with(", gone"), "{last}");
        assert_eq!((code, err.as_str()), (1, "tankctl: 1 step failed\n"), "{out}");
    });
}

#[test]
fn no_number_inside_a_gap_is_asked_for() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let client = tank_client::Client::connect(broker.brokers()).unwrap();
        // A gap exactly where a segment ends: asked for a number inside, a server dies.
        let numbers =
            |from: u64| (from..from + 10).map(|seq| (seq, tank_client::Record::new(b"x"))).collect::<Vec<_>>();
        client.publish_at("orders", 0, &numbers(1)).unwrap();
        broker.roll_segment("orders", 0);
        client.publish_at("orders", 0, &numbers(1500)).unwrap();
        let (code, out, err) = run_at(&broker.addr().to_string(), &["doctor", "orders"]);
        assert_eq!((code, broker.killed_by()), (0, None), "{out}{err}");
        assert!(out.contains("orders/0: 1 to 1509, "), "{out}");
    });
}

#[test]
fn a_page_that_cannot_be_written_is_a_failure() {
    within(300, || {
        let server = Server::start();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = tool(&["doctor", "-b", server.addr()]).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && err.starts_with("tankctl: cannot write the page: "), "{err}");
        let mut running = Running::at(server.addr(), &["doctor"]);
        running.close_output();
        let (code, _, err) = running.end();
        // It may have been faster than the reader that went away.
        assert!(code == 0 && err.is_empty() || code == 1 && err.contains("cannot write the page"), "{code} {err}");
    });
}
