//! Beside the command-line tool of TANK itself: `TANK_BROKER` names a server, and `tank-cli` is found.

use std::env;
use std::process::Command;

use crate::shared::{ORDERS, cells, orders};
use common::example::run;
use common::server::Server;
use common::watch::within;

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

/// What tail prints, as `tank-cli` would with `-F ts_ms,seqnum,size,key,content`.
fn tail(server: &Server, topic: &str, args: &str) -> Vec<u8> {
    let fields = ["--fields", "ts_ms,seqnum,size,key,content", "--json", server.addr(), topic];
    let (code, out, err) = run("tail", &[&args.split_whitespace().collect::<Vec<_>>()[..], &fields].concat());
    assert_eq!(code, 0, "{err}");
    let mut lines = Vec::new();
    for line in out.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let [time, seq, size] = ["ts_ms", "seqnum", "size"].map(|name| &value[name]);
        let key = value["key"].as_str().unwrap_or("");
        lines.extend_from_slice(format!("{time}:seq={seq}:size={size}:[{key}]:").as_bytes());
        match value["content"].as_str() {
            Some(content) => lines.extend_from_slice(content.as_bytes()),
            None => {
                let hex = value["content_hex"].as_str().unwrap();
                let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
                lines.extend((0..hex.len()).step_by(2).map(byte));
            }
        }
        lines.push(b'\n');
    }
    lines
}

#[test]
fn tail_prints_what_tank_cli_get_prints() {
    within(300, || {
        let Some(server) = server() else { return };
        let topic = orders(&server);
        let fields = "-F ts_ms,seqnum,size,key,content";
        for (theirs, ours) in [
            ("-d 0", "--from earliest --to-end"),
            ("-d 2", "--from 2 --to-end"),
            ("-d -E 2 0", "--from earliest --to-seq 2"),
            ("-d -l 2 0", "--from earliest --limit 2"),
            ("-d -f milk 0", "--from earliest --to-end --grep milk"),
            ("-d -f milk -l 1 0", "--from earliest --to-end --grep milk --limit 1"),
            ("-d -P 0", "--from earliest --to-end --prefer-local"),
            ("-d -Z 4096 0", "--from earliest --to-end --fetch-size 4096"),
            // Their bisection passes over messages of just that time, so these times lie between messages.
            ("-d -T 2024.02.29@08:29:59", "--since 2024-02-29T08:29:59 --to-end"),
            ("-d -T 2024.02.29@08:30:02", "--since 2024-02-29T08:30:02 --to-end"),
            // Their span ends with a whole second more, ours where it says.
            ("-d -T 2024.02.29@08:30:02+1s", "--since 2024-02-29T08:30:02 --until 2024-02-29T08:30:04"),
        ] {
            for id in 0..2 {
                let place = format!("{topic}/{id}");
                let theirs_printed = upstream(&server, &place, &format!("get {fields} {theirs}"));
                let ours_printed = tail(&server, &place, ours);
                let texts = [&theirs_printed, &ours_printed].map(|printed| String::from_utf8_lossy(printed));
                assert_eq!(theirs_printed, ours_printed, "{theirs}: {texts:#?}");
            }
        }
        // Without options they print contents only.
        let contents: Vec<u8> = ORDERS[..4].iter().flat_map(|order| [order.3, b"\n"].concat()).collect();
        assert_eq!(upstream(&server, &topic, "get -d 0"), contents);
        let args = ["--from", "earliest", "--to-end", "--fields", "content", server.addr(), &format!("{topic}/0")];
        assert_eq!(run("tail", &args).1.into_bytes(), contents);
    });
}

#[test]
fn many_messages_are_the_same_too() {
    within(300, || {
        let Some(server) = server() else { return };
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 200_000, 5000);
        let theirs = upstream(&server, &topic.name, "get -d -F ts_ms,seqnum,size,key,content 0");
        assert_eq!(theirs.iter().filter(|&&byte| byte == b'\n').count(), 200_000);
        assert!(theirs == tail(&server, &topic.name, "--from earliest --to-end"));
        // Its -S counts every message twice; its lines do not.
        let (_, out, _) = run("read_to_now", &[server.addr(), &topic.name]);
        assert_eq!(cells(&out)[1][1..5], ["200000", "1088895", "1", "200000"]);
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
        let (_, out, _) = run("admin", &[server.addr(), "watermarks", &topic]);
        assert_eq!(cells(&out)[1..], theirs, "{table}");
        let (_, page, _) = run("doctor", &[server.addr(), &topic]);
        for row in theirs {
            let [id, first, last] = row[..] else { unreachable!("three cells") };
            assert!(page.contains(&format!("ok    {topic}/{id}: {first} to {last}, ")), "{page}");
        }
    });
}
