//! What happened, once more.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use tank_client::{Client, Record};

use crate::shared::{MORNING, messages, orders};
use common::example::{example, run};
use common::server::{Server, Topic};
use common::watch::{timed, within};

const EXPECTED: &str = "0/1 1/1 0/2 0/3 1/2 1/3 0/4";

fn places(out: &str) -> String {
    out.lines().map(|line| line.replace('\t', "/")).collect::<Vec<_>>().join(" ")
}

#[test]
fn messages_are_played_with_the_pauses_between_them() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let play = |options: &[&str]| {
            let rest = ["--fields", "partition,seqnum", server.addr(), &topic];
            let ((code, out, err), took) = timed(|| run("replay", &[options, &rest].concat()));
            assert_eq!((code, err.as_str()), (0, "at most 7 messages to play\n"));
            assert_eq!(places(&out), EXPECTED);
            took
        };
        // Built before anything is timed.
        play(&["--speed", "max"]);
        let took = play(&["--speed", "8"]);
        assert!(took >= Duration::from_millis(500), "4 seconds, 8 times as fast, took {took:?}");
        let took = play(&["--max-pause", "100ms"]);
        assert!(took >= Duration::from_millis(400), "4 pauses took {took:?}");
        // A day in less than a second.
        for option in ["--speed=100000", "--speed=max", "--max-pause=100ms"] {
            let args = [option, "--fields", "content", server.addr(), &a_day(&server).name];
            let (code, out, err) = run("replay", &args);
            assert_eq!((code, out.as_str(), err.as_str()), (0, "tea\nmilk\n", "at most 2 messages to play\n"));
        }
    });
}

#[test]
fn a_part_is_played_into_another_topic() {
    within(300, || {
        let (server, other) = (Server::start(), Server::start());
        let topic = orders(&server);
        let play = |options: &[&str], into: &str| {
            let args = [&["--speed", "max", "--into", into, "--into-brokers", other.addr()], options].concat();
            let (code, out, err) = run("replay", &[&args[..], &[server.addr(), &topic]].concat());
            assert_eq!((code, out.as_str()), (0, ""), "{err}");
            err
        };
        let contents = |client: &Client, topic: &str| -> Vec<Vec<(u64, Vec<u8>, Vec<u8>)>> {
            let of = |message: &tank_client::Message| {
                (message.timestamp_ms(), message.key().unwrap_or_default().to_vec(), message.payload().to_vec())
            };
            messages(client, topic).iter().map(|messages| messages.iter().map(of).collect()).collect()
        };
        let (from, to) = (server.client(), other.client());

        let twin = other.topic(2).name;
        assert_eq!(play(&[], &twin), "at most 7 messages to play\n7 messages stored\n");
        assert_eq!(contents(&to, &twin), contents(&from, &topic), "partition by partition");

        // As many partitions are not there: by key.
        let single = other.topic(1).name;
        assert_eq!(play(&["--until", "2024-02-29T08:30:01"], &single).lines().last(), Some("2 messages stored"));
        let found = contents(&to, &single);
        let expected = [(MORNING, "ada", "tea"), (MORNING + 500, "cleo", "coffee")];
        assert_eq!(found[0], expected.map(|(time, key, content)| (time, key.into(), content.into())));

        let restamped = other.topic(2).name;
        play(&["--restamp"], &restamped);
        assert!(messages(&to, &restamped).concat().iter().all(|message| message.timestamp_ms() > MORNING + 4000));
    });
}

/// Two messages, a day between them.
fn a_day(server: &Server) -> Topic {
    let topic = server.topic(1);
    for (content, time) in [("tea", MORNING), ("milk", MORNING + 86_400_000)] {
        server.client().publish(&topic.name, 0, &[Record::new(content.as_bytes()).timestamp_ms(time)]).unwrap();
    }
    topic
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_in_a_pause_with_everything_so_far_done() {
    within(300, || {
        let server = Server::start();
        let (topic, into) = (a_day(&server).name, server.topic(1).name);
        let interrupt = |program: &std::process::Child| {
            let signal = Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap();
            assert!(signal.success());
        };
        let mut replay = example("replay");
        replay.args(["--fields", "content", server.addr(), &topic]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut replay = replay.spawn().unwrap();
        let mut lines = BufReader::new(replay.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "tea", "printed before the pause");
        interrupt(&replay);
        assert!(lines.next().is_none());
        let output = replay.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), err.as_str()),
            (Some(1), "at most 2 messages to play\nreplay: interrupted after 1 messages\n")
        );

        let mut replay = example("replay");
        replay.args(["--into", &into, server.addr(), &topic]).stderr(Stdio::piped());
        let replay = replay.spawn().unwrap();
        while messages(&server.client(), &into)[0].is_empty() {
            std::thread::yield_now();
        }
        interrupt(&replay);
        let output = replay.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        let expected = "at most 2 messages to play\n1 messages stored\nreplay: interrupted after 1 messages\n";
        assert_eq!((output.status.code(), err.as_str()), (Some(1), expected));
    });
}
