//! What there is and what comes.

use std::fs::OpenOptions;
use std::process::Stdio;
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::SystemTime;

use common::rng::Rng;
use common::server::Server;
use common::watch::within;
use rustix::process::Signal;
use tank_client::broker::{Broker, BrokerFault};
use tank_client::{Client, Record};

use crate::support::{COUNTS, MORNING, ORDERS, Running, cells, orders, run, run_at, tool};

#[test]
fn it_prints_what_is_there() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(2).name;
        let keyed = Record::new(b"milk").key(b"ada").timestamp_ms(7);
        server.client().publish(&topic, 1, &[Record::new(b"tea").timestamp_ms(5), keyed]).unwrap();
        let (code, out, err) = run_at(server.addr(), &["consume", "--from", "earliest", "--to-end", &topic]);
        assert_eq!((code, &*out), (0, "1\t1\t5\t-\ttea\n1\t2\t7\tada\tmilk\n"), "{err}");
        assert_eq!(err, "reading 2 partitions, lag 2\n2 messages\n");

        let (code, out, err) = run_at(server.addr(), &["consume", "--from", "4", &format!("{topic}/1")]);
        assert!(code == 1 && out.is_empty() && err.contains("sequence number 4 is beyond the end"), "{err}");
        let (code, _, err) = run_at(server.addr(), &["consume", "no-such-topic"]);
        assert!(code == 1 && err.contains("no-such-topic: no such topic"), "{err}");
    });
}

#[test]
fn it_follows_until_ctrl_c() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let mut tool = Running::at(server.addr(), &["consume", &topic]);
        assert_eq!(tool.note().unwrap(), "following 1 partition, lag 0");
        for round in 1..=3 {
            let payload = format!("news {round}");
            server.client().publish(&topic, 0, &[Record::new(payload.as_bytes()).timestamp_ms(1)]).unwrap();
            assert_eq!(tool.line().unwrap(), format!("0\t{round}\t1\t-\t{payload}"), "printed while it still waits");
        }
        tool.signal(Signal::INT);
        assert_eq!(tool.end(), (130, String::new(), "3 messages\n".into()));
    });
}

/// What is printed of a topic with these options.
fn printed(server: &Server, place: &str, options: &str) -> String {
    let options: Vec<&str> = options.split_whitespace().collect();
    let (code, out, err) = run_at(server.addr(), &[&["consume"], &options[..], &[place]].concat());
    assert_eq!(code, 0, "{options:?}: {err}");
    out
}

#[test]
fn it_prints_the_fields_it_is_asked_for() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let all = "--from earliest --to-end";
        let place = format!("{topic}/0");
        let out = printed(&server, &place, &format!("{all} --fields size,content,ts,topic"));
        let expected = [
            format!("3\ttea\t2024-02-29T08:30:00.000Z\t{topic}\n"),
            format!("4\tmilk\t2024-02-29T08:30:01.000Z\t{topic}\n"),
            format!("0\t\t2024-02-29T08:30:01.000Z\t{topic}\n"),
            format!("16\thoney\tand \"milk\"\t2024-02-29T08:30:04.000Z\t{topic}\n"),
        ];
        assert_eq!(out, expected.concat());
        assert!(printed(&server, &place, &format!("{all} -F ts -n1 --zone +05:30")).ends_with("T14:00:00.000+05:30\n"));

        let json = printed(&server, &topic, &format!("{all} --json"));
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

        let (aged, hours) = (server.topic(1).name, 5 * 3_600_000);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
        let then = now - hours;
        let record = Record::new(b"\xff\x00").key(b"\xfe").timestamp_ms(then);
        server.client().publish(&aged, 0, &[record]).unwrap();
        assert_eq!(printed(&server, &aged, &format!("{all} --fields time_since,size")), "5 h 0 min\t2\n");
        let line = printed(&server, &aged, &format!("{all} --json --fields topic,time_since,key,content,size"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let age = value["time_since_ms"].as_u64().unwrap();
        assert!((hours..hours + 60_000).contains(&age), "{age}");
        let hex = r#""key_hex":"fe","content_hex":"ff00","size":2"#;
        assert_eq!(line, format!("{{\"topic\":\"{aged}\",\"time_since_ms\":{age},{hex}}}\n"));
    });
}

#[test]
fn it_prints_the_formats_of_kcat() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let args = ["consume", "-o", "earliest", "-n2", "-f"];
        let print = |format: &str, place: &str| {
            let (code, out, err) = run_at(server.addr(), &[&args[..], &[format, place]].concat());
            assert_eq!(code, 0, "{format}: {err}");
            out
        };
        let place = format!("{topic}/0");
        assert_eq!(print("%t/%p/%o %k=%s\\n", &place), format!("{topic}/0/1 ada=tea\n{topic}/0/2 ben=milk\n"));
        assert_eq!(
            print("%K,%S,%T,%d%%\\t\\x41", &place)[..51],
            *"3,3,1709195400000,2024-02-29T08:30:00.000Z%\tA3,4,17"
        );
        assert_eq!(print("%R%s", &place), "\0\0\0\u{3}tea\0\0\0\u{4}milk");
        let (_, out, _) = run_at(server.addr(), &["consume", "-o-1", "-e", "-f", "[%k]%K", &place]);
        assert_eq!(out, "[]-1");
    });
}

#[test]
fn it_leaves_out_what_is_not_wanted() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        for (id, options, expected) in [
            (0, "--from earliest --to-end --grep milk", &["2", "4"][..]),
            (0, "--from earliest --to-end --grep milk --limit 1", &["2"]),
            (0, "--from earliest --to-end --grep MILK", &[]),
            (0, "--from 2 --to-seq 3", &["2", "3"]),
            (0, "--from 3 --to-end", &["3", "4"]),
            (0, "--from -3 --to-end", &["2", "3", "4"]),
            (0, "-o-1 -e", &["4"]),
            (0, "--from earliest --limit 2", &["1", "2"]),
            (0, "--from earliest --limit 0", &[]),
            (0, "--since 2024-02-29T08:30:01 --to-end", &["2", "3", "4"]),
            (0, "--since 2024-02-29T10:30:01+02:00 --to-end", &["2", "3", "4"]),
            (0, "--since 2024-02-29T10:30:01 --zone +02 --to-end", &["2", "3", "4"]),
            (0, "--since 2024-02-29T08:30:01.001Z --until 2024-02-29T08:30:04", &[]),
            // A time that has passed is an end, also in a partition without a later message.
            (0, "--from earliest --until 2024-02-29T08:30:04 --fetch-size 100", &["1", "2", "3"]),
            (0, "--from earliest --until 1h30m", &["1", "2", "3", "4"]),
            (1, "--since 1709195400501 --until 1709195403001", &["2", "3"]),
            (1, "--from earliest --to-end --prefer-local", &["1", "2", "3"]),
        ] {
            let out = printed(&server, &format!("{topic}/{id}"), &format!("{options} --fields seqnum"));
            assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{options}");
        }

        // What is older is left out though it comes later.
        let topic = server.topic(1).name;
        for time in [100, 1000, 1000, 1000, 1000, 1000, 500, 1000] {
            server.client().publish(&topic, 0, &[Record::new(b"x").timestamp_ms(MORNING + time)]).unwrap();
        }
        let options = format!("--since {} --to-end --fields seqnum", MORNING + 600);
        assert_eq!(printed(&server, &topic, &options).replace('\n', " "), "2 3 4 5 6 8 ");
    });
}

#[test]
fn it_counts_instead_of_printing() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let out = printed(&server, &topic, "--from earliest --to-end --stats");
        assert_eq!(cells(&out.replace(&topic, "orders")), cells(COUNTS));
        let place = format!("{topic}/1");
        let out = printed(&server, &place, "--from earliest --to-end --stats --grep nothing-holds-this");
        let expected = "\
PARTITION  MESSAGES  BYTES  FIRST  LAST  OLDEST  NEWEST
orders/1          0      0  -      -     -       -
";
        assert_eq!(cells(&out.replace(&topic, "orders")), cells(expected));
        let out = printed(&server, &topic, "-o earliest -e --stats --json");
        assert!(out.lines().count() == 2 && out.contains(r#""messages":4,"bytes":32,"first":1,"last":4"#), "{out}");
    });
}

#[test]
fn it_does_not_wait_for_what_comes_later() {
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
        let (code, out, _) = run_at(&addr, &["consume", "-o", "earliest", "-e", "--stats", "orders"]);
        drop(stop);
        publisher.join().unwrap();
        let after = broker.high_water_mark("orders", 0);
        let last: u64 = cells(&out)[1][4].parse().unwrap();
        assert!(code == 0 && (before..=after).contains(&last), "{before} {last} {after}");
    });
}

#[test]
fn it_goes_on_when_the_broker_comes_back_and_says_so() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        broker.append_payloads("orders", 0, &["tea"]);
        let addr = broker.addr().to_string();
        let args = ["consume", "--from", "earliest", "--limit", "2", "--fields", "seqnum,content", "orders"];
        let mut tool = Running::at(&addr, &args);
        assert_eq!(tool.line().unwrap(), "1\ttea");
        assert_eq!(tool.note().unwrap(), "following 1 partition, lag 1");
        broker.stop();
        let note = tool.note().unwrap();
        assert!(note.starts_with("warning: ") && note.contains(&addr), "{note}");
        let pause = note.split_once(", trying again in ").and_then(|(_, pause)| pause.strip_suffix("ms"));
        assert!(pause.is_some_and(|ms| ms.parse::<u32>().is_ok()), "{note}");
        broker.restart().unwrap();
        broker.append_payloads("orders", 0, &["milk"]);
        assert_eq!(tool.line().unwrap(), "2\tmilk");
        assert_eq!(tool.end().0, 0);
    });
}

#[test]
fn what_cannot_be_read_is_a_failure_with_its_cause() {
    within(300, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        broker.append_payloads("orders", 0, &["tea", "milk"]);
        let addr = broker.addr().to_string();
        for args in
            [&["consume", "--merge"][..], &["replay"], &["consume", "-oearliest"], &["consume", "-oearliest", "-s"]]
        {
            broker.inject(BrokerFault::CorruptBundle);
            let (code, _, err) = run_at(&addr, &[args, &["orders"]].concat());
            let told = format!("tankctl: {addr}: malformed data from the broker: ");
            assert!(code == 1 && err.lines().last().unwrap().starts_with(&told), "{args:?}: {err}");
        }

        // What came before the trouble is printed.
        let mut tool = Running::at(&addr, &["consume", "-oearliest", "-Fcontent", "orders"]);
        assert_eq!((tool.line().unwrap(), tool.line().unwrap()), ("tea".into(), "milk".into()));
        broker.inject(BrokerFault::CorruptBundle);
        broker.append_payloads("orders", 0, &["rum"]);
        let (code, out, err) = tool.end();
        assert!(code == 1 && out.is_empty() && err.contains(": malformed data from the broker: "), "{err}");

        // Also what had not gone out yet.
        broker.create_topic("clicks", 1);
        broker.append_payloads("clicks", 0, &["home", "cart"]);
        let mut rng = Rng::new(3);
        let noise: Vec<Vec<u8>> = (0..3000).map(|_| rng.bytes(100)).collect();
        broker.append_payloads("clicks", 0, &noise);
        broker.inject(BrokerFault::GarbageAfter(100_000, vec![0xff; 64]));
        let (code, out, err) = run_at(&addr, &["consume", "--merge", "-Fcontent", "clicks"]);
        assert!(code == 1 && out == "home\ncart\n", "{} bytes: {err}", out.len());

        // What retention took is an error, or told.
        broker.append_payloads("orders", 0, &["x"; 100]);
        broker.truncate_front("orders", 0, 2);
        let (code, out, err) = run_at(&addr, &["consume", "-o1", "-e", "-f%o ", "orders"]);
        assert!(code == 1 && out.is_empty() && err.contains("sequence number 1 is gone"), "{err}");
        let (code, out, err) = run_at(&addr, &["consume", "-o1", "-e", "-n2", "-f%o ", "--skip-lost", "orders"]);
        assert!(code == 0 && err.contains("orders/0: 1 is gone\n"), "{out} {err}");
    });
}

#[test]
fn several_topics_become_one_stream_in_the_order_of_time() {
    within(300, || {
        let server = Server::start();
        let (orders, clicks) = (orders(&server), server.topic(1).name);
        let times = [("a", MORNING - 1), ("b", MORNING + 1000), ("c", MORNING + 900), ("d", MORNING + 9000)];
        for (content, time) in times {
            server.client().publish(&clicks, 0, &[Record::new(content.as_bytes()).timestamp_ms(time)]).unwrap();
        }
        let args = ["consume", "--merge", "--until", "2024-02-29T08:30:02", &orders, &clicks];
        let (code, out, err) = run_at(server.addr(), &args);
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

        let args = ["consume", "--merge", "--since", "2024-02-29T08:30:01", "-n3", "-F", "partition,seqnum"];
        let places = [1, 0].map(|id| format!("{orders}/{id}"));
        let (code, out, err) = run_at(server.addr(), &[&args[..], &[&places[0], &places[1]]].concat());
        assert_eq!((code, out.as_str()), (0, "1\t2\n0\t2\n0\t3\n"), "of equal times the first argument's: {err}");

        // Without merging: all of them, each with its topic.
        let out = run_at(server.addr(), &["consume", "-oearliest", "-e", &orders, &format!("{clicks}/0")]).1;
        assert_eq!((out.lines().count(), out.matches(&clicks).count()), (11, 4));
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
        let (code, out, _) = run_at(server.addr(), &["consume", "--merge", "-Fts_ms,partition,seqnum", &topic]);
        assert_eq!(code, 0);
        assert!(out.lines().eq(lines.iter().map(String::as_str)), "{} lines", expected.len());
    });
}

#[test]
fn a_checkpoint_has_what_was_printed_and_no_more() {
    within(300, || {
        let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 500, 100);
        let file = dir.path().join("position").to_str().unwrap().to_owned();
        let args = ["consume", "-oearliest", "-e", "-c", &file, "-fcontent %s\\n", &topic.name];
        let mut all = String::new();
        for limit in [120, 1, 300, 1000, 1000] {
            let limit = format!("-n{limit}");
            let (code, out, err) = run_at(server.addr(), &[&args[..], &[&limit]].concat());
            assert_eq!(code, 0, "{err}");
            all += &out;
        }
        assert!(all.lines().eq((1..=500).map(|n| format!("content {n}"))), "each once");

        // Following: saved before it waits, and by a signal.
        let mut tool = Running::at(server.addr(), &["consume", "-c", &file, "-Fseqnum", &topic.name]);
        topic.publish(0, &["x"]);
        assert_eq!(tool.line().unwrap(), "501");
        tool.signal(Signal::TERM);
        assert_eq!(tool.end().0, 143);
        let shown = run_at(server.addr(), &["checkpoint", "show", "-J", &file]).1;
        assert!(shown.contains("\"next\":502"), "{shown}");
    });
}

#[test]
fn a_checkpoint_never_passes_what_could_not_be_printed() {
    within(300, || {
        let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 500, 100);
        for options in [&["-Fseqnum"][..], &["--stats", "-J"]] {
            let file = dir.path().join(options[0]).to_str().unwrap().to_owned();
            let args = ["consume", "-b", server.addr(), "-oearliest", "-e", "-c", &file, &topic.name];
            let args = [&args[..], options].concat();
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let mut failed = tool(&args).stdout(full).stderr(Stdio::null()).spawn().unwrap();
            assert_eq!(failed.wait().unwrap().code(), Some(1), "{options:?}");
            let (code, out, err) = run(&args);
            assert_eq!(code, 0, "{err}");
            let is_all = out.lines().count() == 500 || out.contains("\"messages\":500,");
            assert!(is_all, "{options:?}: {out}{err}");
        }
    });
}
