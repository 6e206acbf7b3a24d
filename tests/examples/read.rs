//! Examples that read.

use std::process::Stdio;

use common::example::{example, run, scratch};
use common::server::Server;
use common::watch::within;
use tank_client::Record;
use tank_client::broker::{Broker, BrokerFault};

use crate::shared::orders;

#[test]
fn the_quickstart_reads_back_what_it_publishes() {
    within(300, || {
        let (code, out, err) = run("quickstart", &[]);
        assert!(code == 0 && err.is_empty(), "{err}");
        assert!(out.contains("orders/2 seq 1: eva   order 2: 3 cups of tea"), "{out}");
        assert!(out.contains("consumed 300 messages in 300 bundles") && out.contains("orders/0: next is 101"), "{out}");
    });
}

#[test]
fn the_latest_of_each_key() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let (code, out, err) = run("latest_per_key", &["--json", server.addr(), &topic]);
        let expected = "\
{\"key\":\"ada\",\"content\":\"\"}
{\"key\":\"ben\",\"content\":\"rum\"}
{\"key\":\"cleo\",\"content_hex\":\"ff00\"}
";
        assert_eq!((code, out.as_str()), (0, expected), "of equal times the highest partition's: {err}");
        assert_eq!(err, "7 messages: 3 keys, 0 deleted, 1 messages without a key\n");

        let args = ["--deletes", "--fields", "key,partition,seqnum", server.addr(), &topic];
        let (code, out, err) = run("latest_per_key", &args);
        assert_eq!((code, out.as_str()), (0, "ben\t1\t2\ncleo\t1\t3\n"));
        assert_eq!(err, "7 messages: 2 keys, 1 deleted, 1 messages without a key\n");

        // A later message brings a key back; within a partition numbers count, not times.
        let back = Record::new(b"cocoa").key(b"ada").timestamp_ms(5);
        server.client().publish(&topic, 0, &[back]).unwrap();
        let (_, out, _) = run("latest_per_key", &["--deletes", server.addr(), &format!("{topic}/0")]);
        assert_eq!(out, "ada\tcocoa\nben\tmilk\n");
    });
}

#[test]
fn what_cannot_be_read_is_a_failure_with_its_cause() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        broker.append_payloads("orders", 0, &["tea", "milk"]);
        let addr = broker.addr().to_string();
        broker.inject(BrokerFault::CorruptBundle);
        let (code, out, err) = run("latest_per_key", &[&addr, "orders"]);
        let last = err.lines().last().unwrap();
        let told = format!("latest_per_key: {addr}: malformed data from the broker: ");
        assert!(code == 1 && out.is_empty() && last.starts_with(&told), "{out} {err}");
    });
}

#[test]
fn a_worker_whose_output_nobody_reads_fails_and_saves_nothing() {
    within(300, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 60_000, 1000);
        let file = scratch("unread");
        let mut worker = example("checkpointed_worker");
        worker.args(["--to-end", server.addr(), &topic.name]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut worker = worker.spawn().unwrap();
        drop(worker.stdout.take());
        let output = worker.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        let told = err.starts_with("checkpointed_worker: cannot hand out: ");
        assert!(output.status.code() == Some(1) && told && !file.exists(), "{err}");
    });
}
