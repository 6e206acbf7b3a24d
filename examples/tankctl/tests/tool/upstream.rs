//! Beside the command-line tool of TANK itself: `TANK_BROKER` names a server, and `tank-cli` is found.

use std::env;
use std::process::Command;

use common::server::Server;
use common::watch::within;

use crate::support::{cells, orders, run_at, tool};

/// The server, if there is what to compare with.
fn server() -> Option<Server> {
    if env::var("TANK_BROKER").is_err() {
        eprintln!("left out: TANK_BROKER names no server");
        return None;
    }
    if Command::new("tank-cli").output().is_err() {
        eprintln!("left out: no tank-cli is found");
        return None;
    }
    Some(Server::start())
}

/// What `tank-cli` prints.
fn upstream(server: &Server, topic: &str, args: &str) -> Vec<u8> {
    let mut command = Command::new("tank-cli");
    // Its times are local ones.
    command.env("TZ", "UTC").args(["-b", server.addr(), "-t", topic]).args(args.split_whitespace());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args}: {output:?}");
    output.stdout
}

/// All that a message has, as an option of `tank-cli get`, and as our format that prints the same.
const ALL: (&str, &str) = ("ts_ms,seqnum,size,key,content", "%T:seq=%o:size=%S:[%k]:%s\\n");

/// What the tool prints in this format.
fn consume(server: &Server, topic: &str, format: &str, args: &str) -> Vec<u8> {
    let front = ["consume", "-b", server.addr(), "-f", format, topic];
    let output = tool(&[&front[..], &args.split_whitespace().collect::<Vec<_>>()].concat()).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What to read, as `tank-cli get` and `tankctl consume` are told it.
const RANGES: [(&str, &str); 17] = [
    ("-d 0", "--from earliest --to-end"),
    ("-d 2", "--from 2 --to-end"),
    // In one partition the last message, in the other what comes after it.
    ("-d 4", "--from 4 --to-end"),
    ("-d EOF", "--from latest --to-end"),
    ("-d -E 2 0", "--from earliest --to-seq 2"),
    ("-d -E 3 2", "--from 2 --to-seq 3"),
    ("-d -l 2 0", "--from earliest --limit 2"),
    ("-d -l 1 3", "--from 3 --limit 1"),
    ("-d -f milk 0", "--from earliest --to-end --grep milk"),
    ("-d -f milk -l 1 0", "--from earliest --to-end --grep milk --limit 1"),
    ("-d -f cocoa 0", "--from earliest --to-end --grep cocoa"),
    ("-d -L 0", "--from earliest --to-end"),
    ("-d -P 0", "--from earliest --to-end --prefer-local"),
    ("-d -Z 4096 0", "--from earliest --to-end --fetch-size 4096"),
    // Their bisection passes over messages of just that time, so these times lie between messages.
    ("-d -T 2024.02.29@08:29:59", "--since 2024-02-29T08:29:59 --to-end"),
    ("-d -T 2024.02.29@08:30:02", "--since 2024-02-29T08:30:02 --to-end"),
    // Their span ends with a whole second more, ours where it says.
    ("-d -T 2024.02.29@08:30:02+1s", "--since 2024-02-29T08:30:02 --until 2024-02-29T08:30:04"),
];

#[test]
fn it_prints_what_tank_cli_get_prints() {
    within(300, || {
        let Some(server) = server() else { return };
        let topic = orders(&server);
        let mut compared = 0;
        let mut compare = |(fields, format): (&str, &str), theirs: &str, ours: &str| {
            for id in 0..2 {
                let place = format!("{topic}/{id}");
                let fields = if fields.is_empty() { String::new() } else { format!("-F {fields}") };
                let printed = [
                    upstream(&server, &place, &format!("get {fields} {theirs}")),
                    consume(&server, &place, format, ours),
                ];
                let texts = [0, 1].map(|who: usize| String::from_utf8_lossy(&printed[who]));
                assert!(printed[0] == printed[1], "{place} {fields} {theirs}: {texts:#?}");
                compared += 1;
            }
        };
        for (theirs, ours) in RANGES {
            compare(ALL, theirs, ours);
        }
        // Without options they print contents only.
        for fields in [("", "%s\\n"), ("seqnum,key", "seq=%o:[%k]:\\n"), ("size,content", "size=%S:%s\\n")] {
            compare(fields, "-d 0", "--from earliest --to-end");
        }
        eprintln!("{compared} of {compared} outputs are the same");
        assert_eq!(compared, 40);
    });
}

#[test]
fn many_messages_are_the_same_too() {
    within(300, || {
        let Some(server) = server() else { return };
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 200_000, 5000);
        let theirs = upstream(&server, &topic.name, &format!("get -d -F {} 0", ALL.0));
        assert_eq!(theirs.iter().filter(|&&byte| byte == b'\n').count(), 200_000);
        assert!(theirs == consume(&server, &topic.name, ALL.1, "--from earliest --to-end"));
        // Its -S counts every message twice; its lines do not.
        let (_, out, _) = run_at(server.addr(), &["consume", "-oearliest", "-e", "--stats", &topic.name]);
        assert_eq!(cells(&out)[1][1..5], ["200000", "1088895", "1", "200000"]);
    });
}

#[test]
fn what_it_publishes_tank_cli_reads() {
    within(300, || {
        let Some(server) = server() else { return };
        let topic = server.topic(1).name;
        let (code, _, err) =
            crate::support::run_with(&["publish", "-b", server.addr(), "--keys", &topic], b"a=1\nb\n\xff\n");
        assert_eq!(code, 0, "{err}");
        assert_eq!(upstream(&server, &topic, "get -d -F key,content 0"), b"[a]:1\n[]:b\n[]:\xff\n");
    });
}

#[test]
fn the_marks_are_those_of_discover_partitions() {
    within(300, || {
        let Some(server) = server() else { return };
        let topic = orders(&server);
        let table = String::from_utf8(upstream(&server, &topic, "discover_partitions")).unwrap();
        let is_row = |row: &Vec<&str>| row.len() == 3 && row[0].parse::<u16>().is_ok();
        let theirs: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .filter(is_row)
            .collect();
        let (_, out, _) = run_at(server.addr(), &["watermarks", &topic]);
        assert_eq!(cells(&out)[1..], theirs, "{table}");
        let (_, page, _) = run_at(server.addr(), &["doctor", &topic]);
        for row in theirs {
            let [id, first, last] = row[..] else { unreachable!("three cells") };
            assert!(page.contains(&format!("ok    {topic}/{id}: {first} to {last}, ")), "{page}");
        }
    });
}
