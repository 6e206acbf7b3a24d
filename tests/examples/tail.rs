//! What there is and what comes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use tank_client::Record;
use tank_client::broker::Broker;

use crate::parts::time::{millis, show};
use crate::shared::{COUNTS, MORNING, ORDERS, cells, orders};
use common::example::{example, run, scratch};
use common::server::Server;
use common::watch::within;

#[test]
fn tail_prints_what_is_there() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(2).name;
        let keyed = Record::new(b"milk").key(b"ada").timestamp_ms(7);
        server.client().publish(&topic, 1, &[Record::new(b"tea").timestamp_ms(5), keyed]).unwrap();
        let (code, out, err) = run("tail", &["--from", "earliest", "--to-end", server.addr(), &topic]);
        assert_eq!((code, &*out), (0, "1\t1\t5\t-\ttea\n1\t2\t7\tada\tmilk\n"), "{err}");
        assert!(err.contains("reading 2 partitions, 2 messages behind") && err.contains("2 messages\n"), "{err}");

        let (code, out, err) = run("tail", &["--from", "4", server.addr(), &format!("{topic}/1")]);
        assert!(code == 1 && out.is_empty() && err.contains("4 is out of range"), "{err}");
        let (code, _, err) = run("tail", &[server.addr(), "no-such-topic"]);
        assert!(code == 1 && err.contains("no-such-topic: no such topic"), "{err}");
    });
}

#[cfg(unix)]
#[test]
fn tail_follows_until_ctrl_c() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let mut tail = example("tail");
        let mut tail =
            tail.args([server.addr(), &*topic]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut notes = BufReader::new(tail.stderr.take().unwrap()).lines();
        assert_eq!(notes.next().unwrap().unwrap(), "following 1 partitions, 0 messages behind");
        let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
        for round in 0..3 {
            let payload = format!("news {round}");
            server.client().publish(&topic, 0, &[Record::new(payload.as_bytes()).timestamp_ms(1)]).unwrap();
            let line = lines.next().unwrap().unwrap();
            assert_eq!(line, format!("0\t{}\t1\t-\t{payload}", round + 1), "printed while it still waits");
        }
        let signal = Command::new("kill").args(["-INT", &tail.id().to_string()]).status().unwrap();
        assert!(signal.success());
        assert_eq!(tail.wait().unwrap().code(), Some(0));
        assert!(lines.next().is_none());
        assert_eq!(notes.next().unwrap().unwrap(), "3 messages");
    });
}

/// What tail prints of [`ORDERS`] with these options.
fn tail(server: &Server, topic: &str, options: &str) -> String {
    let options: Vec<&str> = options.split_whitespace().collect();
    let (code, out, err) = run("tail", &[&options[..], &[server.addr(), topic]].concat());
    assert_eq!(code, 0, "{options:?}: {err}");
    out
}

#[test]
fn tail_prints_the_fields_it_is_asked_for() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let all = "--from earliest --to-end";
        let place = format!("{topic}/0");
        let out = tail(&server, &place, &format!("{all} --fields size,content,ts,topic"));
        let expected = [
            format!("3\ttea\t2024-02-29T08:30:00.000Z\t{topic}\n"),
            format!("4\tmilk\t2024-02-29T08:30:01.000Z\t{topic}\n"),
            format!("0\t\t2024-02-29T08:30:01.000Z\t{topic}\n"),
            format!("16\thoney\tand \"milk\"\t2024-02-29T08:30:04.000Z\t{topic}\n"),
        ];
        assert_eq!(out, expected.concat());

        let json = tail(&server, &topic, &format!("{all} --json"));
        let mut lines: Vec<&str> = json.lines().collect();
        lines.sort();
        let first = format!(r#"{{"partition":0,"seqnum":1,"ts_ms":{MORNING},"key":"ada","content":"tea"}}"#);
        assert_eq!(lines[0], first);
        let values: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(values.len(), ORDERS.len());
        for (value, (partition, time, key, content)) in values.iter().zip(ORDERS) {
            assert_eq!((&value["partition"], &value["ts_ms"]), (&partition.into(), &time.into()));
            assert_eq!(value["key"].as_str().unwrap_or(""), key);
            assert_eq!(value["key"].is_null(), key.is_empty());
            assert_eq!(value["content"].as_str(), std::str::from_utf8(content).ok());
        }
        assert_eq!(values[6]["content_hex"], "ff00");

        let (aged, hours) = (server.topic(1).name, 5 * 3_600_000);
        let then = millis(SystemTime::now()) - hours;
        server.client().publish(&aged, 0, &[Record::new(b"tea").timestamp_ms(then)]).unwrap();
        assert_eq!(tail(&server, &aged, &format!("{all} --fields time_since,size")), "5 h 0 min\t3\n");
        let line = tail(&server, &aged, &format!("{all} --json --fields topic,ts,time_since,size"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let age = value["time_since_ms"].as_u64().unwrap();
        assert!((hours..hours + 60_000).contains(&age), "{age}");
        let expected = format!(r#"{{"topic":"{aged}","ts":"{}","time_since_ms":{age},"size":3}}"#, show(then));
        assert_eq!(line.trim_end(), expected);
    });
}

#[test]
fn tail_leaves_out_what_is_not_wanted() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let place = |id| format!("{topic}/{id}");
        for (id, options, expected) in [
            (0, "--from earliest --to-end --grep milk", &["2", "4"][..]),
            (0, "--from earliest --to-end --grep milk --limit 1", &["2"]),
            (0, "--from earliest --to-end --grep MILK", &[]),
            (0, "--from 2 --to-seq 3", &["2", "3"]),
            (0, "--from 3 --to-end", &["3", "4"]),
            (0, "--from earliest --limit 2", &["1", "2"]),
            (0, "--from earliest --limit 0", &[]),
            (0, "--since 2024-02-29T08:30:01 --to-end", &["2", "3", "4"]),
            (0, "--since 2024-02-29T08:30:01.001Z --until 2024-02-29T08:30:04", &[]),
            // A time that has passed is an end, also in a partition without a later message.
            (0, "--from earliest --until 2024-02-29T08:30:04 --fetch-size 100", &["1", "2", "3"]),
            (1, "--since 1709195400501 --until 1709195403001", &["2", "3"]),
            (1, "--from earliest --to-end --prefer-local", &["1", "2", "3"]),
        ] {
            let out = tail(&server, &place(id), &format!("{options} --fields seqnum"));
            assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{options}");
        }
    });
}

#[test]
fn tail_leaves_out_what_is_older_though_it_comes_later() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        for time in [100, 1000, 1000, 1000, 1000, 1000, 500, 1000] {
            server.client().publish(&topic, 0, &[Record::new(b"x").timestamp_ms(MORNING + time)]).unwrap();
        }
        let options = format!("--since {} --to-end --fields seqnum", MORNING + 600);
        assert_eq!(tail(&server, &topic, &options).replace('\n', " "), "2 3 4 5 6 8 ");
    });
}

#[test]
fn tail_counts_instead_of_printing() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let out = tail(&server, &topic, "--from earliest --to-end --stats");
        assert_eq!(cells(&out.replace(&topic, "orders")), cells(COUNTS));
        let out = tail(&server, &format!("{topic}/1"), "--from earliest --to-end --stats --grep nothing-holds-this");
        let expected = "\
PARTITION  MESSAGES  BYTES  FIRST  LAST  OLDEST  NEWEST
orders/1          0      0  -      -     -       -
";
        assert_eq!(cells(&out.replace(&topic, "orders")), cells(expected));
    });
}

#[test]
fn whoever_reads_its_output_may_stop() {
    within(300, || {
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 60_000, 1000);
        for args in [&["tail", "--from", "earliest", "--to-end"][..], &["fan_in"], &["replay", "--speed", "max"]] {
            let mut command = example(args[0]);
            command.args(&args[1..]).args([server.addr(), &topic.name]).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut program = command.spawn().unwrap();
            let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
            lines.next().unwrap().unwrap();
            drop(lines);
            let output = program.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(0) && !err.contains("pipe"), "{args:?}: {err}");
        }

        // For a worker it is a failure: what it handed out may be lost.
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

#[test]
fn tail_goes_on_when_the_broker_comes_back_and_says_so() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        broker.append_payloads("orders", 0, &["tea"]);
        let addr = broker.addr().to_string();
        let mut tail = example("tail");
        tail.args(["--from", "earliest", "--limit", "2", "--fields", "seqnum,content", &addr, "orders"]);
        let mut tail = tail.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
        let mut notes = BufReader::new(tail.stderr.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "1\ttea");
        assert_eq!(notes.next().unwrap().unwrap(), "following 1 partitions, 1 messages behind");
        broker.stop();
        let note = notes.next().unwrap().unwrap();
        assert!(note.contains(&addr) && note.contains("trying again"), "{note}");
        broker.restart().unwrap();
        broker.append_payloads("orders", 0, &["milk"]);
        assert_eq!(lines.next().unwrap().unwrap(), "2\tmilk");
        assert_eq!(tail.wait().unwrap().code(), Some(0));
    });
}
