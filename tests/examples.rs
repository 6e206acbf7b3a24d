//! The examples as users run them.

mod common;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use common::rng::Rng;
use common::server::{Server, unique_name};
use common::watch::within;
use tank_client::broker::Broker;
use tank_client::{Client, Message, Record, Start, Subscription, TopicConfig};

/// The program of an example, built if it is not yet, as when this test is run alone.
fn example(name: &str) -> Command {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        // target/PROFILE/deps/examples-HASH
        let profile = env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
        let mut cargo = Command::new(env::var("CARGO").unwrap_or("cargo".into()));
        cargo.args(["build", "--quiet", "--examples", "--target-dir"]).arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        profile.join("examples")
    });
    Command::new(dir.join(name))
}

/// Runs an example; its exit code, output and messages.
fn run(name: &str, args: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = example(name);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = thread::spawn(move || stdin.write_all(&input));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn messages(client: &Client, topic: &str) -> Vec<Vec<Message>> {
    let partitions = 0..client.partitions(topic).unwrap().len() as u16;
    let all = |id| Subscription::partition(topic, id).from(Start::Earliest).stop_at_end();
    partitions.map(|id| client.subscribe(all(id)).unwrap().map(Result::unwrap).collect()).collect()
}

#[test]
fn help_and_wrong_arguments() {
    within(300, || {
        for name in ["publish", "admin", "mirror", "tail"] {
            let (code, out, err) = run(name, &["--help"], b"");
            assert!(code == 0 && out.starts_with(&format!("usage: {name} ")) && err.is_empty(), "{out}{err}");
            for args in [&[][..], &["--nonsense"], &["localhost:1", "x", "y", "z", "a", "b"]] {
                let (code, out, err) = run(name, args, b"");
                assert!(code == 2 && out.is_empty() && err.contains("usage: "), "{name} {args:?}: {err}");
            }
        }
        let (code, _, err) = run("admin", &["127.0.0.1:1", "status"], b"");
        assert!(code == 1 && err.starts_with("admin: cannot connect to 127.0.0.1:1: "), "{err}");
    });
}

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
        let (code, out, err) = run("publish", &[server.addr(), &target], input.as_bytes());
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", "100002 messages stored\n"));
        let back = messages(&client, &topic);
        let mut expected: Vec<&str> = lines.iter().map(String::as_str).collect();
        expected.extend(["", "last without a line end"]);
        assert!(back[1].iter().map(|message| message.payload()).eq(expected.iter().map(|line| line.as_bytes())));
        assert!(back[0].is_empty() && back[2].is_empty());

        let path = env::temp_dir().join(unique_name());
        std::fs::write(&path, b"a=1\nb=x=2\nplain\n=3\n\xff").unwrap();
        let other = server.topic(1).name;
        for option in ["--keys", "--exactly-once"] {
            let args = ["--keys", option, server.addr(), &other, path.to_str().unwrap()];
            let (code, _, err) = run("publish", &args, b"");
            assert_eq!((code, err.as_str()), (0, "5 messages stored\n"));
        }
        std::fs::remove_file(path).unwrap();
        let back = messages(&client, &other).remove(0);
        let found: Vec<_> = back.iter().map(|message| (message.key(), message.payload())).collect();
        let once = [(Some(&b"a"[..]), &b"1"[..]), (Some(b"b"), b"x=2"), (None, b"plain"), (None, b"3")];
        assert_eq!(found[..4], once);
        assert_eq!((found.len(), found[5..9] == once), (10, true));

        let (code, _, err) = run("publish", &[server.addr(), "no-such-topic-at-all/0"], b"x\ny");
        assert!(code == 1 && err.contains("0 messages stored") && err.contains("no such topic"), "{err}");
    });
}

#[test]
fn administration() {
    within(300, || {
        let server = Server::start();
        let topic = unique_name();
        let admin = |args: &[&str]| run("admin", &[&[server.addr()], args].concat(), b"");
        let (code, _, err) = admin(&["create", &topic, "2", "log.segment.bytes=1mb", "log.retention.secs=1week"]);
        assert_eq!((code, err), (0, format!("{topic}: created with 2 partitions\n")));
        assert_eq!(admin(&["create", &topic, "2"]).0, 1);
        assert_eq!(admin(&["create", &topic, "2", "log.segment.bytes=1"]).0, 2);
        assert_eq!(admin(&["create", &topic, "many"]).0, 2);
        server.client().publish(&topic, 1, &[Record::new(b"x"); 12]).unwrap();
        let (_, out, _) = admin(&["list"]);
        let line = out.lines().find(|line| line.starts_with(&topic)).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), [&topic, "2", "1", "yes"]);
        let (code, out, err) = admin(&["watermarks", &topic]);
        assert_eq!((code, err.as_str()), (0, ""));
        let expected = "\
PARTITION  FIRST  LAST
        0      0     0
        1      1    12
";
        assert_eq!(out, expected);
        let (code, out, err) = admin(&["topology"]);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", "the broker stands alone\n"));
        let (code, out, _) = admin(&["status"]);
        assert!(code == 0 && out.contains("version") && out.contains("4.0"), "{out}");
        let (code, _, err) = admin(&["reload", &format!("{topic}/7")]);
        assert_eq!((code, err), (1, format!("admin: {topic}/7: no such partition\n")));

        let cluster = Broker::cluster(2).unwrap();
        let (code, out, _) = run("admin", &[&cluster.node(0).addr().to_string(), "topology"], b"");
        assert!(code == 0 && out.lines().count() == 3 && out.contains(&cluster.node(1).addr().to_string()), "{out}");
    });
}

/// A topic with gaps, keys, repeated and decreasing time stamps, in bundles of all sizes.
fn fill(client: &Client, topic: &str, partitions: u16, rounds: usize) {
    let mut rng = Rng::new(5);
    client.create_topic(topic, partitions, &TopicConfig::new()).unwrap();
    let mut last = vec![0; usize::from(partitions)];
    for _ in 0..rounds {
        let id = rng.below(last.len());
        let count = if rng.one_in(5) { rng.between(100, 3000) } else { rng.between(1, 30) };
        let (key, payload) = (rng.bytes(300), rng.bytes(300));
        let mut records = Vec::new();
        for _ in 0..count {
            last[id] += if rng.one_in(10) { rng.between(2, 5000) as u64 } else { 1 };
            let record = Record::new(&payload[rng.below(300)..]).timestamp_ms(rng.below(3) as u64);
            records.push((last[id], if rng.one_in(2) { record.key(&key[rng.between(45, 300)..]) } else { record }));
        }
        client.publish_at(topic, id as u16, &records).unwrap();
    }
}

#[test]
fn a_mirror_has_the_same_messages_also_after_it_was_killed() {
    within(300, || {
        let (from, to) = (Broker::start().unwrap(), Server::start());
        let (topic, source, target) = (unique_name(), from.addr().to_string(), to.client());
        let client = Client::connect(&source).unwrap();
        fill(&client, &topic, 3, 150);
        let expected = messages(&client, &topic);
        let total: usize = expected.iter().map(Vec::len).sum();
        let args = ["--batch", "100", &source, to.addr(), &topic];

        let stored = || match target.partitions(&topic) {
            Ok(infos) => infos.iter().map(|info| info.high_water_mark).sum::<u64>(),
            Err(_) => 0,
        };
        let end: u64 = expected.iter().filter_map(|messages| messages.last()).map(Message::seq).sum();
        let mut kills = 0;
        for part in 1..=3 {
            let mut mirror = example("mirror").args(args).stderr(Stdio::null()).spawn().unwrap();
            while stored() < end * part / 5 && mirror.try_wait().unwrap().is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            kills += usize::from(mirror.try_wait().unwrap().is_none());
            mirror.kill().unwrap();
            mirror.wait().unwrap();
        }
        assert!(kills > 0, "it was faster than this test");
        let (code, _, err) = run("mirror", &args, b"");
        assert!(code == 0 && err.contains("messages copied and verified, checksum"), "{err}");
        assert!(messages(&target, &topic) == expected);

        // Nothing more to do; then a little.
        let (code, _, err) = run("mirror", &args, b"");
        assert!(code == 0 && err.contains("\n0 messages copied and verified"), "{err}");
        client.publish(&topic, 1, &[Record::new(b"one more").timestamp_ms(1)]).unwrap();
        let (code, _, err) = run("mirror", &args, b"");
        assert!(code == 0 && err.contains("\n1 messages copied and verified"), "{err}");
        assert_eq!(messages(&target, &topic).concat().len(), total + 1);

        // Whoever writes to the destination is found out.
        target.publish(&topic, 0, &[Record::new(b"mine")]).unwrap();
        let (code, _, err) = run("mirror", &args, b"");
        assert!(code == 1 && err.contains("the destination is ahead of the source"), "{err}");
        assert_eq!(from.killed_by(), None);
    });
}

#[test]
fn the_quickstart_reads_back_what_it_publishes() {
    within(300, || {
        let (code, out, err) = run("quickstart", &[], b"");
        assert!(code == 0 && err.is_empty(), "{err}");
        assert!(out.contains("orders/2 seq 1: eva   order 2: 3 cups of tea"), "{out}");
        assert!(out.contains("consumed 300 messages in 300 bundles") && out.contains("orders/0: next is 101"), "{out}");
    });
}

#[test]
fn tail_prints_what_is_there() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(2).name;
        let keyed = Record::new(b"milk").key(b"ada").timestamp_ms(7);
        server.client().publish(&topic, 1, &[Record::new(b"tea").timestamp_ms(5), keyed]).unwrap();
        let (code, out, err) = run("tail", &["--from", "earliest", "--to-end", server.addr(), &topic], b"");
        assert_eq!((code, &*out), (0, "1\t1\t5\t-\ttea\n1\t2\t7\tada\tmilk\n"), "{err}");
        assert!(err.contains("following 2 partitions, 2 messages behind") && err.contains("2 messages\n"), "{err}");

        let (code, out, err) = run("tail", &["--from", "4", server.addr(), &format!("{topic}/1")], b"");
        assert!(code == 1 && out.is_empty() && err.contains("4 is out of range"), "{err}");
        let (code, _, err) = run("tail", &[server.addr(), "no-such-topic"], b"");
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
