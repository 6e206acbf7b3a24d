//! Examples that read up to the present end.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;

use tank_client::broker::{Broker, BrokerFault};
use tank_client::{Client, Record};

use crate::shared::{COUNTS, MORNING, cells, orders};
use common::example::{example, run};
use common::rng::Rng;
use common::server::Server;
use common::watch::within;

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
fn read_to_now_counts_what_is_there_and_ends() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let (code, out, err) = run("read_to_now", &[server.addr(), &topic]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(cells(&out.replace(&topic, "orders")), cells(COUNTS));
        let args = ["--since", "2024-02-29T08:30:01", "--to-seq", "3", server.addr(), &format!("{topic}/0")];
        let (code, out, err) = run("read_to_now", &args);
        assert_eq!((code, err.as_str()), (0, ""));
        let rows = cells(&out);
        assert_eq!(rows[1][1..], ["2", "10", "2", "3", "2024-02-29T08:30:01.000Z", "2024-02-29T08:30:01.000Z"]);
        assert_eq!(rows.len(), 2);
    });
}

#[test]
fn read_to_now_does_not_wait_for_what_comes_later() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        broker.append_payloads("orders", 0, &["tea"; 1000]);
        // Somebody publishes all the time: without an end of its own it would never come to one.
        let (stop, stopped) = channel::<()>();
        let (publisher, addr) = (broker.addr().to_string(), broker.addr().to_string());
        let publisher = thread::spawn(move || {
            let client = Client::connect(&publisher).unwrap();
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                client.publish("orders", 0, &[Record::new(b"milk"); 100]).unwrap();
            }
        });
        let before = broker.high_water_mark("orders", 0);
        let (code, out, _) = run("read_to_now", &[&addr, "orders"]);
        drop(stop);
        publisher.join().unwrap();
        let after = broker.high_water_mark("orders", 0);
        let last: u64 = cells(&out)[1][4].parse().unwrap();
        assert!(code == 0 && (before..=after).contains(&last), "{before} {last} {after}");
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
fn several_topics_become_one_stream_in_the_order_of_time() {
    within(300, || {
        let server = Server::start();
        let (orders, clicks) = (orders(&server), server.topic(1).name);
        for (content, time) in [("a", MORNING - 1), ("b", MORNING + 1000), ("c", MORNING + 900), ("d", MORNING + 9000)]
        {
            server.client().publish(&clicks, 0, &[Record::new(content.as_bytes()).timestamp_ms(time)]).unwrap();
        }
        let (code, out, err) = run("fan_in", &["--until", "2024-02-29T08:30:02", server.addr(), &orders, &clicks]);
        let expected = "\
2024-02-29T08:29:59.999Z clicks 0 1 - a
2024-02-29T08:30:00.000Z orders 0 1 ada tea
2024-02-29T08:30:00.500Z orders 1 1 cleo coffee
2024-02-29T08:30:01.000Z orders 0 2 ben milk
2024-02-29T08:30:01.000Z orders 0 3 ada EMPTY
2024-02-29T08:30:01.000Z orders 1 2 ben rum
2024-02-29T08:30:01.000Z clicks 0 2 - b
2024-02-29T08:30:00.900Z clicks 0 3 - c
";
        let out = out.replace(&orders, "orders").replace(&clicks, "clicks");
        assert_eq!(out, expected.replace(' ', "\t").replace("EMPTY", ""));
        assert_eq!(code, 0);
        assert_eq!(err, "3 partitions, at most 11 messages to merge\n8 messages, 1 of them older than one before\n");

        let args = ["--since", "2024-02-29T08:30:01", "--limit", "3", "--fields", "partition,seqnum"];
        let places = [1, 0].map(|id| format!("{orders}/{id}"));
        let (code, out, err) = run("fan_in", &[&args[..], &[server.addr(), &places[0], &places[1]]].concat());
        assert_eq!((code, out.as_str()), (0, "1\t2\n0\t2\n0\t3\n"), "of equal times the first argument's: {err}");
    });
}

#[test]
fn a_merge_is_as_good_as_sorting() {
    within(300, || {
        let server = Server::start();
        let mut rng = Rng::new(11);
        let topic = server.topic(4).name;
        let mut expected = Vec::new();
        for partition in 0..4 {
            let mut time = MORNING;
            let times: Vec<u64> = (0..rng.between(1, 3000)).map(|_| (time += rng.below(3) as u64, time).1).collect();
            let records: Vec<_> = times.iter().map(|&time| Record::new(b"x").timestamp_ms(time)).collect();
            server.client().publish(&topic, partition, &records).unwrap();
            expected.extend(times.iter().zip(1..).map(|(&time, seq)| (time, partition, seq)));
        }
        expected.sort();
        let lines: Vec<String> =
            expected.iter().map(|(time, partition, seq)| format!("{time}\t{partition}\t{seq}")).collect();
        let (code, out, _) = run("fan_in", &["--fields", "ts_ms,partition,seqnum", server.addr(), &topic]);
        assert_eq!(code, 0);
        assert!(out.lines().eq(lines.iter().map(String::as_str)), "{} lines", expected.len());
    });
}

#[test]
fn throughput_prints_a_table() {
    within(300, || {
        let check = |out: &str, sets: &[&str]| {
            let rows = cells(out);
            assert_eq!(rows[0].join(" "), "set way messages/s MB/s peak growth of discarding");
            let names: Vec<_> = rows[1..].iter().map(|row| (row[0], row[1])).collect();
            let ways = |&name| [(name, "for"), (name, "next_batch"), (name, "discarding")];
            assert_eq!(names, sets.iter().flat_map(ways).collect::<Vec<_>>());
            for row in &rows[1..] {
                let number = |cell: &str| cell.parse::<f64>().is_ok_and(|number| number >= 0.0);
                assert!(
                    row.iter().filter(|cell| number(cell)).count() == if row[1] == "discarding" { 1 } else { 4 },
                    "{row:?}"
                );
            }
        };
        let (code, out, err) = run("throughput", &["--set", "snappy1k", "--megabytes", "1", "--runs", "1"]);
        assert_eq!((code, err.as_str()), (0, ""));
        check(&out, &["snappy1k"]);
        let (server, runs) = (Server::start(), ["--runs", "3"]);
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 5000, 100);
        let args = [&runs[..], &["--broker", server.addr(), "--topic", &topic.name]].concat();
        let (code, out, err) = run("throughput", &args);
        assert_eq!((code, err.as_str()), (0, ""));
        check(&out, &[&topic.name]);
    });
}

#[test]
fn what_cannot_be_read_is_a_failure_with_its_cause() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        broker.append_payloads("orders", 0, &["tea", "milk"]);
        let addr = broker.addr().to_string();
        for args in [
            &["fan_in"][..],
            &["latest_per_key"],
            &["read_to_now"],
            &["replay"],
            &["tail", "--from", "earliest"],
            &["tail", "--from", "earliest", "--stats"],
        ] {
            broker.inject(BrokerFault::CorruptBundle);
            let (code, out, err) = run(args[0], &[&args[1..], &[&addr, "orders"]].concat());
            let last = err.lines().last().unwrap();
            let told = format!("{}: {addr}: malformed data from the broker: ", args[0]);
            assert!(code == 1 && out.is_empty() && last.starts_with(&told), "{args:?}: {out} {err}");
        }

        // What came before the trouble is printed: also what had not gone out yet.
        broker.create_topic("clicks", 1);
        broker.append_payloads("clicks", 0, &["home", "cart"]);
        let mut rng = Rng::new(3);
        let noise: Vec<Vec<u8>> = (0..3000).map(|_| rng.bytes(100)).collect();
        broker.append_payloads("clicks", 0, &noise);
        broker.inject(BrokerFault::GarbageAfter(100_000, vec![0xff; 64]));
        let (code, out, err) = run("fan_in", &["--fields", "content", &addr, "clicks"]);
        assert!(code == 1 && out == "home\ncart\n", "{} bytes: {err}", out.len());
        let mut tail = example("tail");
        tail.args(["--from", "earliest", "--fields", "content", &addr, "orders"]);
        let mut tail = tail.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.by_ref().take(2).collect::<Vec<_>>(), ["tea", "milk"]);
        broker.inject(BrokerFault::CorruptBundle);
        broker.append_payloads("orders", 0, &["rum"]);
        assert_eq!(lines.next(), None);
        let Output { status, stderr, .. } = tail.wait_with_output().unwrap();
        let err = String::from_utf8(stderr).unwrap();
        let told = format!("\ntail: {addr}: malformed data from the broker: ");
        assert!(status.code() == Some(1) && err.contains(&told), "{err}");
    });
}
