//! Beside the command-line tool of TANK itself: `TANK_BROKER` names a server, and `tank-cli` is found.

use std::env;
use std::process::Command;

use common::server::Server;
use common::watch::within;

use crate::support::{ORDERS, cells, orders, run_at, tool};

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

/// What the tool prints, in the format of `tank-cli` with `-F ts_ms,seqnum,size,key,content`.
fn consume(server: &Server, topic: &str, args: &str) -> Vec<u8> {
    let front = ["consume", "-b", server.addr(), "-f", "%T:seq=%o:size=%S:[%k]:%s\\n", topic];
    let output = tool(&[&front[..], &args.split_whitespace().collect::<Vec<_>>()].concat()).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn it_prints_what_tank_cli_get_prints() {
    within(300, || {
        let Some(server) = server() else { return };
        let topic = orders(&server);
        let fields = "-F ts_ms,seqnum,size,key,content";
        let mut compared = 0;
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
                let ours_printed = consume(&server, &place, ours);
                let texts = [&theirs_printed, &ours_printed].map(|printed| String::from_utf8_lossy(printed));
                assert_eq!(theirs_printed, ours_printed, "{theirs}: {texts:#?}");
                compared += 1;
            }
        }
        // Without options they print contents only.
        for id in 0..2u16 {
            let orders = ORDERS.iter().filter(|order| order.0 == id);
            let contents: Vec<u8> = orders.flat_map(|order| [order.3, b"\n"].concat()).collect();
            let place = format!("{topic}/{id}");
            assert_eq!(upstream(&server, &place, "get -d 0"), contents);
            let args = ["consume", "-b", server.addr(), "-oearliest", "-e", "-Fcontent", &place];
            assert_eq!(tool(&args).output().unwrap().stdout, contents);
            compared += 1;
        }
        eprintln!("{compared} of {compared} outputs are the same");
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
        assert!(theirs == consume(&server, &topic.name, "--from earliest --to-end"));
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
