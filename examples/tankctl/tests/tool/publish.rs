//! Lines become messages.

use std::io::Write;
use std::process::Stdio;

use common::server::{Server, unique_name};
use common::watch::within;
use rustix::process::Signal;
use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind};

use crate::support::{Running, messages, run, run_at, run_with, tool};

#[test]
fn lines_are_published_without_loss() {
    within(300, || {
        let server = Server::start();
        let client = server.client();
        let topic = server.topic(3).name;
        let target = format!("{topic}/1");
        let lines: Vec<String> = (0..100_000).map(|n| format!("line {n}{}", "\r".repeat(n % 2))).collect();
        // An empty line is a message; a line end at the end is not one more.
        let input = format!("{}\n\nlast without a line end", lines.join("\n"));
        let (code, out, err) = run_with(&["publish", "-b", server.addr(), &target], input.as_bytes());
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", "100002 messages stored\n"));
        let back = messages(&client, &topic);
        let mut expected: Vec<&str> = lines.iter().map(String::as_str).collect();
        expected.extend(["", "last without a line end"]);
        assert!(back[1].iter().map(|message| message.payload()).eq(expected.iter().map(|line| line.as_bytes())));
        assert!(back[0].is_empty() && back[2].is_empty());

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        std::fs::write(&path, b"a=1\nb=x=2\nplain\n=3\n\xff").unwrap();
        let other = server.topic(1).name;
        for option in ["--keys", "--exactly-once"] {
            let keys = if option == "--keys" { &["--keys"][..] } else { &["-K=", option] };
            let args = [&["publish"], keys, &[&other, path.to_str().unwrap()]].concat();
            let (code, _, err) = run_at(server.addr(), &args);
            assert_eq!((code, err.as_str()), (0, "5 messages stored\n"));
        }
        let back = messages(&client, &other).remove(0);
        let found: Vec<_> = back.iter().map(|message| (message.key(), message.payload())).collect();
        let once = [(Some(&b"a"[..]), &b"1"[..]), (Some(b"b"), b"x=2"), (None, b"plain"), (None, b"3")];
        assert_eq!(found[..4], once);
        assert_eq!((found.len(), found[5..9] == once), (10, true));

        let (code, _, err) = run_with(&["publish", "-b", server.addr(), "no-such-topic-at-all/0"], b"x\ny");
        assert!(code == 1 && err.contains("0 messages stored") && err.contains("no such topic"), "{err}");
        assert!(err.contains("lines 1 to 2: not stored"), "{err}");
    });
}

#[test]
fn messages_are_parted_as_was_said() {
    within(300, || {
        let server = Server::start();
        for (options, input, expected) in [
            (&["-D", "\\0"][..], &b"a\nb\0c\0"[..], &[(None, &b"a\nb"[..]), (None, b"c")][..]),
            (&["-D", "--"], b"a-b--c--", &[(None, b"a-b"), (None, b"c")]),
            (&["-K", "::"], b"k::v\nw:x\n", &[(Some(&b"k"[..]), b"v"), (None, b"w:x")]),
            (&["-k", "same"], b"a\nb\n", &[(Some(b"same"), b"a"), (Some(b"same"), b"b")]),
            (&["--whole", "-z", "snappy"], b"a\nb\n", &[(None, b"a\nb\n")]),
            (&["--acks", "quorum", "-z", "none", "--batch", "1"], b"", &[]),
        ] {
            let topic = server.topic(1).name;
            let args = [&["publish", "-b", server.addr()], options, &[&topic, "-"]].concat();
            let (code, _, err) = run_with(&args, input);
            let stored = format!("{} message{} stored\n", expected.len(), if expected.len() == 1 { "" } else { "s" });
            assert_eq!((code, err), (0, stored), "{options:?}");
            let back = messages(&server.client(), &topic).remove(0);
            let found: Vec<_> = back.iter().map(|message| (message.key(), message.payload())).collect();
            assert_eq!(found, expected, "{options:?}");
        }
    });
}

#[test]
fn a_line_is_stored_when_it_is_there() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let mut tail = Running::at(server.addr(), &["consume", "-Fcontent", "-oearliest", &topic]);
        let mut publish = Running::start(tool(&["publish", "-b", server.addr(), &topic]).stdin(Stdio::piped()));
        let mut stdin = publish.child.stdin.take().unwrap();
        for line in ["tea", "milk", ""] {
            writeln!(stdin, "{line}").unwrap();
            assert_eq!(tail.line().unwrap(), line, "while it waits for more");
        }
        write!(stdin, "half a line").unwrap();
        publish.signal(Signal::TERM);
        let notes = "3 messages stored\ninterrupted inside a line, which was not published\n";
        let (code, _, err) = publish.end();
        // Whether half a line had been read when the signal came, nobody knows.
        assert!(code == 143 && notes.starts_with(err.trim_end()), "{code} {err}");
    });
}

#[test]
fn it_is_ended_with_everything_stored_that_was_read() {
    within(300, || {
        let server = Server::start();
        for (signal, expected) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
            let topic = server.topic(2).name;
            let mut publish = Running::start(tool(&["publish", "-b", server.addr(), &topic]).stdin(Stdio::piped()));
            let mut stdin = publish.child.stdin.take().unwrap();
            // Without end: until nobody reads any more.
            let writer = std::thread::spawn(move || while stdin.write_all(b"some line\n").is_ok() {});
            while messages(&server.client(), &topic).concat().is_empty() {
                std::thread::yield_now();
            }
            publish.signal(signal);
            let (code, _, err) = publish.end();
            writer.join().unwrap();
            let stored = messages(&server.client(), &topic).concat().len();
            assert_eq!((code, err.lines().next().unwrap()), (expected, &*format!("{stored} messages stored")));
        }
    });
}

#[test]
fn a_rejected_line_names_its_number() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(3).name;
        let input = format!("a=1\nb=2\n{}=3\nc=4\n", "k".repeat(300));
        let (code, _, err) = run_with(&["publish", "-b", server.addr(), "--keys", &topic], input.as_bytes());
        assert!(code == 1 && err.starts_with("2 messages stored\ntankctl: line 3: "), "{err}");
        assert!(err.contains("300") && err.contains("255"), "{err}");

        // By their partitions, in whatever order these are told.
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 2);
        broker.set_broken("orders", 1, true);
        let input: String = (1..=6).map(|n| format!("line {n}\n")).collect();
        let args = ["publish", "-b", &broker.addr().to_string(), "--retry", "100ms", "orders"];
        let (code, _, err) = run_with(&args, input.as_bytes());
        assert!(code == 1 && err.starts_with("3 messages stored\nlines 1, 3, 5: "), "{err}");
        assert!(
            err.contains(": orders/1: ") && err.ends_with("tankctl: 3 messages may not have been stored\n"),
            "{err}"
        );
    });
}

#[test]
fn a_line_that_was_not_stored_is_told_while_more_may_come() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let addr = broker.addr().to_string();
        let mut publish = Running::start(tool(&["publish", "-b", &addr, "orders/9"]).stdin(Stdio::piped()));
        let mut stdin = publish.child.stdin.take().unwrap();
        writeln!(stdin, "tea").unwrap();
        let (code, _, err) = publish.end();
        let why = format!("{addr}: orders/9: no such partition");
        let told = format!("0 messages stored\nline 1: not stored: {why}\ntankctl: 1 message not stored\n");
        assert_eq!((code, err), (1, told));
    });
}

#[test]
fn nothing_is_stored_twice_when_an_answer_is_lost() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let addr = broker.addr().to_string();
        broker.inject(BrokerFault::LoseAnswer(Kind::ProduceWithSeqnum));
        let (code, _, err) = run_with(&["publish", "-b", &addr, "--exactly-once", "orders"], b"a\nb\nc\n");
        assert!(code == 0 && err.ends_with("3 messages stored\n"), "{err}");
        assert_eq!(broker.high_water_mark("orders", 0), 3);
        broker.inject(BrokerFault::LoseAnswer(Kind::Produce));
        let (code, _, err) = run_with(&["publish", "-b", &addr, "orders"], b"d\ne\n");
        assert!(code == 1 && err.contains("lines 1 to 2: perhaps stored"), "{err}");
    });
}

#[test]
fn files_that_are_not_there_are_failures() {
    within(300, || {
        let topic = unique_name();
        let (code, _, err) = run(&["publish", &topic, "/no/such/file"]);
        assert!(code == 1 && err.starts_with("tankctl: /no/such/file: No such file"), "{err}");
        let (code, _, err) = run(&["publish", &topic, "/"]);
        assert!(code == 1 && err.starts_with("tankctl: "), "{err}");
    });
}
