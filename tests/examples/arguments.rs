//! Arguments, exit codes, and how times and progress read.

use std::time::{Duration, UNIX_EPOCH};

use crate::parts::progress::line;
use crate::parts::time::{parse, parse_span, show, show_span};
use common::example::{run, scratch};
use common::server::{Server, unique_name};
use common::watch::within;

const ALL: [&str; 14] = [
    "admin",
    "checkpointed_worker",
    "doctor",
    "fan_in",
    "latest_per_key",
    "mirror",
    "publish",
    "quickstart",
    "read_to_now",
    "replay",
    "segment_dump",
    "tail",
    "throughput",
    "two_topics",
];

#[test]
fn none_is_left_out_here() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let example = |name: String| match name.strip_suffix(".rs") {
        Some(name) => Some(name.to_owned()),
        None => std::path::Path::new(dir).join(&name).join("main.rs").exists().then_some(name),
    };
    let mut names: Vec<_> = names.filter_map(example).collect();
    names.sort();
    assert_eq!(names, ALL);
    let index = std::fs::read_to_string(format!("{dir}/README.md")).unwrap();
    for name in ALL {
        assert!(index.contains(&format!("## {name}\n")), "{name} is not in the index");
    }
}

#[test]
fn help_is_no_error_and_wrong_arguments_are_told() {
    within(300, || {
        for name in ALL {
            let (code, out, err) = run(name, &["--help"]);
            assert!(code == 0 && out.starts_with(&format!("usage: {name}")) && err.is_empty(), "{out}{err}");
            assert!(out.lines().all(|line| line.len() <= 120), "{name}: too wide for a terminal");
            let seven = ["127.0.0.1:1", "x/y", "z", "a", "b", "c", "d"];
            for args in [&["--nonsense"][..], &["-x"], &["--nonsense=1", "localhost", "x"], &seven] {
                let (code, out, err) = run(name, args);
                assert!(code == 2 && out.is_empty() && err.contains("usage: "), "{name} {args:?}: {code} {out} {err}");
            }
            if !["quickstart", "throughput"].contains(&name) {
                let (code, out, err) = run(name, &[]);
                assert!(code == 2 && out.is_empty() && err.contains("usage: "), "{name}: {code} {out} {err}");
            }
        }
    });
}

#[test]
fn wrong_values_are_told_before_anybody_is_asked() {
    within(300, || {
        for (args, problem) in [
            (&["tail", "--from", "nowhere"][..], "tail: --from nowhere: no such place"),
            (&["tail", "--since=yesterday"], "tail: --since yesterday: no such time"),
            (&["tail", "--until", "2026-02-29"], "tail: --until 2026-02-29: no such time"),
            (&["tail", "--since", "1h", "--from", "3"], "tail: --from and --since: one place to begin is enough"),
            (&["tail", "--limit", "-1"], "tail: --limit -1: not a number that fits"),
            (&["tail", "--fields", "key,seq"], "tail: --fields: no field is called \"seq\""),
            (&["fan_in", "--to-seq", "x"], "fan_in: --to-seq x: not a number that fits"),
            (&["replay", "--speed", "0"], "replay: --speed 0: max or a number above 0 is needed"),
            (&["replay", "--speed", "NaN"], "replay: --speed NaN: max or a number above 0 is needed"),
            (&["replay", "--max-pause", "5"], "replay: --max-pause 5: no span of time, such as 10s"),
            (&["replay", "--restamp"], "replay: --into-brokers and --restamp go with --into"),
            (&["doctor", "--timeout", "soon"], "doctor: --timeout soon: no span of time, such as 10s"),
        ] {
            // Nobody is there; who asks fails with 1.
            let (code, out, err) = run(args[0], &[&args[1..], &["127.0.0.1:1", "orders"]].concat());
            assert_eq!((code, out.as_str(), err.lines().next()), (2, "", Some(problem)));
        }
        let (code, _, err) = run("tail", &["127.0.0.1:1", "orders", "--limit"]);
        assert!(code == 2 && err.starts_with("tail: --limit needs a value\n"), "{err}");
        let (code, _, err) = run("fan_in", &["127.0.0.1:1", "orders", "clicks", "orders/1"]);
        assert!(code == 2 && err.starts_with("fan_in: orders/1: given twice\n"), "{err}");
    });
}

#[test]
fn nobody_there_and_unknown_topics_are_failures_that_name_them() {
    within(300, || {
        let server = Server::start();
        let (addr, nobody) = (server.addr(), "127.0.0.1:1");
        let (path, there) = (scratch("checkpoint"), server.topic(1).name);
        let (path, unknown) = (path.to_str().unwrap(), unique_name());
        for (name, before, after) in [
            ("checkpointed_worker", &[][..], &[path][..]),
            ("fan_in", &[], &[]),
            ("latest_per_key", &[], &[]),
            ("publish", &[], &["/dev/null"]),
            ("read_to_now", &[], &[]),
            ("replay", &[], &[]),
            ("tail", &[], &[]),
            ("two_topics", &[], &[&there, path]),
        ] {
            let (code, out, err) = run(name, &[before, &[nobody, &unknown], after].concat());
            let told = format!("{name}: cannot connect to {nobody}: Connection refused");
            assert!(code == 1 && out.is_empty() && err.starts_with(&told), "{name}: {code} {out} {err}");
            if name != "publish" {
                let (code, out, err) = run(name, &[before, &[addr, &unknown], after].concat());
                let told = format!("{name}: {unknown}: no such topic\n");
                assert_eq!((code, out.as_str(), err), (1, "", told));
            }
        }
        for (args, told) in [
            (&["admin", nobody, "status"][..], format!("admin: cannot connect to {nobody}: Connection refused")),
            (&["admin", addr, "watermarks", &unknown], format!("admin: {unknown}: no such topic")),
            (&["mirror", addr, nobody, &there], format!("mirror: cannot connect to {nobody}: Connection refused")),
            (&["mirror", addr, addr, &unknown], format!("mirror: {unknown}: no such topic")),
            (&["replay", "--into", &unknown, addr, &there], format!("replay: {unknown}: no such topic")),
            (&["throughput", "--broker", addr, "--topic", &unknown], format!("throughput: {unknown}: no such topic")),
            (&["throughput", "--broker", nobody, "--topic", "x"], format!("throughput: cannot connect to {nobody}")),
            (&["tail", addr, &format!("{there}/7")], format!("tail: {there}/7: no such partition")),
            (&["segment_dump", "/nowhere"], "segment_dump: cannot read or write /nowhere: No such file".into()),
        ] {
            let (code, _, err) = run(args[0], &args[1..]);
            assert!(code == 1 && err.starts_with(&told), "{args:?}: {code} {err}");
        }
    });
}

#[test]
fn times_are_read_and_shown() {
    let now = UNIX_EPOCH + Duration::from_millis(1_795_336_200_123);
    let ms = |text: &str| Some(parse(text, now)?.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    for (text, expected) in [
        ("now", 1_795_336_200_123),
        ("1795336200123", 1_795_336_200_123),
        ("250ms", 1_795_336_199_873),
        ("90s", 1_795_336_110_123),
        ("15m", 1_795_335_300_123),
        ("1h", 1_795_332_600_123),
        ("2d", 1_795_163_400_123),
        ("1w", 1_794_731_400_123),
        ("1970-01-01", 0),
        ("2000-02-29", 951_782_400_000),
        ("2026-11-22", 1_795_305_600_000),
        ("2026-11-22T08:30", 1_795_336_200_000),
        ("2026-11-22 08:30:00", 1_795_336_200_000),
        ("2026-11-22T08:30:00.1Z", 1_795_336_200_100),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ] {
        assert_eq!(ms(text), Some(expected), "{text}");
    }
    let wrong = "- h 1y -1h 99999999999999999999h 0 60 2026 1795336200 2026-11 2026-13-01 2026-00-01 2026-11-00 \
                 2026-11-31 2026-02-29 2026-11-22T 2026-11-22T24:00 2026-11-22T08 2026-11-22T08:60 2026-11-22T08:30:60 \
                 2026-11-22T08:30:00. 2026-11-22T08:30:00.1234 2026-11-22T08:30:00+01:00 1969-12-31 10000-01-01 \
                 +2026-11-22 99999999999999999999";
    for text in wrong.split(' ').chain([""]) {
        assert_eq!(ms(text), None, "{text:?}");
    }
    assert_eq!(parse_span("1"), None);

    for day in (0..2_932_897).step_by(13) {
        let at = day * 86_400_000 + 43_200_001;
        let text = show(at);
        assert_eq!(ms(&text), Some(at), "{text}");
    }
    assert_eq!(show(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(show(1_795_336_200_123), "2026-11-22T08:30:00.123Z");
    assert_eq!(show(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
    assert_eq!(show(253_402_300_800_000), "253402300800000");
    assert_eq!(show(u64::MAX), u64::MAX.to_string());

    for (micros, expected) in [
        (60, "0.06 ms"),
        (9_990, "9.99 ms"),
        (10_000, "10 ms"),
        (9_999_999, "9999 ms"),
        (10_000_000, "10 s"),
        (185_000_000, "3 min 5 s"),
        (7_260_000_000, "2 h 1 min"),
        (180_000_000_000, "2 d 2 h"),
    ] {
        assert_eq!(show_span(Duration::from_micros(micros)), expected);
    }
}

#[test]
fn progress_is_a_bar_on_a_terminal_and_a_line_elsewhere() {
    let second = Duration::from_secs(1);
    let bar = line("copied", 250, 1000, 2 * second, true);
    assert_eq!(bar, "[#######-----------------------]  25 % copied (125/s, 6 s left)");
    assert_eq!(line("copied", 250, 1000, 2 * second, false), "25 % copied (125/s, 6 s left)");
    assert_eq!(line("read", 250, 0, 2 * second, false), "250 read (125/s)");
    // More than was expected.
    let full = line("copied", 1001, 1000, second, true);
    assert_eq!(full, "[##############################] 100 % copied (1001/s, 0 s left)");
    assert_eq!(line("copied", 0, 7, second, false), "0 % copied (0/s, 7 s left)");
}
