//! What happened, once more.

use std::time::Duration;

use common::server::{Server, Topic};
use common::watch::{not_before, within};
use rustix::process::Signal;
use tank_client::{Client, Record};

use crate::support::{MORNING, Running, messages, orders, run_at};

const EXPECTED: &str = "0/1 1/1 0/2 0/3 1/2 1/3 0/4";

fn places(out: &str) -> String {
    out.lines().map(|line| line.replace('\t', "/")).collect::<Vec<_>>().join(" ")
}

#[test]
fn messages_are_played_with_the_pauses_between_them() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        // Without a pause; 4 seconds, 8 times as fast; 4 pauses.
        for (options, least) in [(["--speed", "max"], 0), (["--speed", "8"], 500), (["--max-pause", "100ms"], 400)] {
            let args = [&["replay"], &options[..], &["--fields", "partition,seqnum", &topic]].concat();
            let (code, out, err) = not_before(Duration::from_millis(least), || run_at(server.addr(), &args));
            assert_eq!((code, err.as_str()), (0, "at most 7 messages to play\n"));
            assert_eq!(places(&out), EXPECTED);
        }
        // A day in less than a second.
        for option in ["--speed=100000", "--speed=max", "--max-pause=100ms"] {
            let (code, out, err) = run_at(server.addr(), &["replay", option, "-Fcontent", &a_day(&server).name]);
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
            let args = ["replay", "--speed", "max", "--into", into, "--to", other.addr(), &topic];
            let (code, out, err) = run_at(server.addr(), &[&args[..], options].concat());
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

        let (code, _, err) = run_at(server.addr(), &["replay", "--into", &topic, &topic]);
        assert!(code == 2 && err.contains("into itself"), "{err}");
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

#[test]
fn a_long_pause_is_announced_and_ended_by_ctrl_c_with_everything_so_far_done() {
    within(300, || {
        let server = Server::start();
        let (topic, into) = (a_day(&server).name, server.topic(1).name);
        let mut replay = Running::at(server.addr(), &["replay", "--fields", "content", &topic]);
        assert_eq!(replay.note().unwrap(), "at most 2 messages to play");
        assert_eq!(replay.line().unwrap(), "tea", "printed before the pause");
        let note = replay.note().unwrap();
        assert!(note.starts_with("the next message is due in 23 h 59 min") && note.contains("--max-pause"), "{note}");
        replay.signal(Signal::INT);
        assert_eq!(replay.end(), (130, String::new(), "interrupted after 1 message\n".into()));

        // A reader that goes away ends it, too.
        let mut replay = Running::at(server.addr(), &["replay", "--fields", "content", &topic]);
        replay.line().unwrap();
        replay.close_output();
        assert_eq!(replay.end().0, 0);

        let mut replay = Running::at(server.addr(), &["replay", "--into", &into, &topic]);
        while messages(&server.client(), &into)[0].is_empty() {
            std::thread::yield_now();
        }
        replay.signal(Signal::TERM);
        let (code, _, err) = replay.end();
        assert_eq!((code, err.lines().last()), (143, Some("interrupted after 1 message")));
        assert!(err.contains("1 message stored\n"), "{err}");
    });
}
