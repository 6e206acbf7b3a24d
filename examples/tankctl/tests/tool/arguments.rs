//! Arguments and exit codes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use common::server::{Server, unique_name};
use common::watch::within;
use tank_client::Record;
use tank_client::broker::Broker;

use crate::support::{Running, messages, run, run_at, run_with, tool};

const ALL: [&str; 15] = [
    "bench",
    "checkpoint",
    "completions",
    "consume",
    "create",
    "doctor",
    "mirror",
    "publish",
    "reload",
    "replay",
    "segments",
    "serve",
    "status",
    "topics",
    "watermarks",
];

#[test]
fn help_is_no_error_and_wrong_arguments_are_told() {
    within(300, || {
        let (code, out, err) = run(&["--help"]);
        assert!(code == 0 && err.is_empty() && out.contains("Exit codes: 0"), "{out}{err}");
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        for name in ALL {
            assert!(out.contains(&format!("\n  {name} ")) && readme.contains(&format!("tankctl {name}")), "{name}");
            for flag in ["--help", "-h"] {
                let (code, out, err) = run(&[name, flag]);
                assert!(code == 0 && out.contains(&format!("Usage: tankctl {name}")) && err.is_empty(), "{out}{err}");
                assert!(out.lines().all(|line| line.chars().count() <= 120), "{name}: too wide for a terminal");
                assert!(flag == "--help" || !out.contains(" \n"), "an argument without a description: {out}");
            }
            for args in [&[name, "--nonsense"][..], &[name, "-y"], &[name, "--brokers"], &["--nonsense", name]] {
                let (code, out, err) = run(args);
                let told = code == 2 && out.is_empty() && err.starts_with("error: ") && err.contains("Usage: tankctl");
                assert!(told, "{args:?}: {code} {out} {err}");
            }
        }
        let (code, out, _) = run(&["--version"]);
        assert_eq!((code, out.as_str()), (0, concat!("tankctl ", env!("CARGO_PKG_VERSION"), "\n")));
        for args in
            [&[][..], &["nonsense"], &["consume"], &["publish"], &["mirror", "x"], &["segments"], &["checkpoint"]]
        {
            let (code, out, err) = run(args);
            assert!(code == 2 && out.is_empty() && err.contains("Usage: tankctl"), "{args:?}: {code} {out} {err}");
        }
    });
}

#[test]
fn wrong_values_are_told_before_anybody_is_asked() {
    within(300, || {
        for (args, problem) in [
            (&["consume", "--from", "nowhere"][..], "earliest, latest, a number, or -N for the last N is expected"),
            (&["consume", "--since=yesterday"], "--since: \"yesterday\" is not a time: expected now, a span"),
            (&["consume", "--until", "2026-02-29"], "--until: \"2026-02-29\" is not a time: "),
            (&["consume", "--since", "1h", "--from", "3"], "cannot be used with"),
            (&["consume", "--limit", "-1"], "'-1'"),
            (&["consume", "--fields", "key,seq"], "there is no field \"seq\""),
            (&["consume", "--format", "%h"], "no headers"),
            (&["consume", "--format", "%s", "--json"], "cannot be used with"),
            (&["consume", "--zone", "Nowhere/Else"], "'Nowhere/Else'"),
            (&["consume", "--merge", "--to-seq", "x"], "'x'"),
            (&["consume", "orders/1"], "given twice"),
            (&["consume", "orders/x"], "\"x\" is not a partition"),
            (&["publish", "-z", "gzip"], "auto, none, snappy allowed"),
            (&["publish", "--acks", "0"], "all, quorum, or 1 to 200 allowed"),
            (&["publish", "--acks", "201"], "all, quorum, or 1 to 200 allowed"),
            (&["publish", "--batch", "0"], "0 is not in 1..=65535"),
            (&["checkpoint", "set", "file", "orders/0=x"], "Usage: tankctl checkpoint set "),
            (&["checkpoint", "set", "file", "orders/0=18446744073709551615"], "is not a sequence number"),
            (&["publish", "-D", ""], "at least one byte is needed"),
            (&["create", "x", "0"], "0 is not in 1..=65535"),
            (&["create", "x", "70000"], "70000 is not in 1..=65535"),
            (&["replay", "--speed", "0"], "max or a number above 0 is expected"),
            (&["replay", "--speed", "NaN"], "max or a number above 0 is expected"),
            (&["replay", "--max-pause", "5"], "a duration with units is expected, such as 10s"),
            (&["replay", "--restamp"], "--into"),
            (&["doctor", "--timeout", "soon"], "a duration with units is expected, such as 10s"),
        ] {
            // Nobody is there; who asks fails with 1.
            let (code, out, err) = run(&[&["--brokers", "127.0.0.1:1"], args, &["orders"]].concat());
            let told = code == 2 && out.is_empty() && err.contains(problem) && err.contains("Usage: tankctl");
            assert!(told, "{args:?}: {code} {err}");
        }
        let (code, _, err) = run(&["--brokers", "a:b:c", "topics"]);
        assert!(code == 2 && err.contains("neither host:port nor an IPv6 address"), "{err}");
    });
}

#[test]
fn nobody_there_and_unknown_topics_are_failures_that_name_them() {
    within(300, || {
        let server = Server::start();
        let (addr, nobody) = (server.addr(), "127.0.0.1:1");
        let (there, unknown) = (server.topic(1).name, unique_name());
        let refused = format!("tankctl: cannot connect to {nobody}: Connection refused");
        for args in [&["consume"][..], &["consume", "--merge"], &["replay"], &["watermarks"], &["mirror", "--to", addr]]
        {
            let args = [args, &[&*unknown]].concat();
            let (code, out, err) = run_at(nobody, &args);
            assert!(code == 1 && out.is_empty() && err.starts_with(&refused), "{args:?}: {code} {err}");
            let (code, out, err) = run_at(addr, &args);
            assert_eq!((code, out.as_str(), err), (1, "", format!("tankctl: {addr}: {unknown}: no such topic\n")));
        }
        for args in [&["status"][..], &["topics"], &["publish", &there, "/dev/null"], &["create", &unknown, "1"]] {
            let (code, _, err) = run_at(nobody, args);
            assert!(code == 1 && err.starts_with(&refused), "{args:?}: {code} {err}");
        }
        for (args, told) in [
            (&["mirror", "--to", nobody, &there][..], refused.clone()),
            (&["replay", "--into", &unknown, &there], format!("{unknown}: no such topic")),
            (&["consume", &format!("{there}/7")], format!("{there}/7: no such partition")),
        ] {
            let (code, _, err) = run_at(addr, args);
            assert!(code == 1 && err.contains(&told), "{args:?}: {code} {err}");
        }
    });
}

#[test]
fn with_retry_the_tool_waits_for_brokers_to_start() {
    within(300, || {
        let broker = Broker::start().unwrap();
        let addr = broker.addr().to_string();
        broker.stop();
        let mut tool = Running::at(&addr, &["topics", "--retry", "5m"]);
        let note = tool.note().unwrap();
        assert!(note.contains("Connection refused") && note.contains("trying again"), "{note}");
        broker.restart().unwrap();
        let (code, out, err) = tool.end();
        assert!(code == 0 && out.starts_with("TOPIC "), "{code} {out} {err}");
    });
}

#[test]
fn the_environment_names_brokers_and_what_is_logged() {
    within(300, || {
        let server = Server::start();
        let output = tool(&["topics"]).env("TANK_BROKERS", server.addr()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let output = tool(&["topics", "-b", server.addr()]).env("TANK_BROKERS", "127.0.0.1:1").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "an argument counts more");
        let output = tool(&["topics", "-b", server.addr()]).env("RUST_LOG", "debug").output().unwrap();
        assert!(String::from_utf8(output.stderr).unwrap().contains("DEBUG tank_client"));
        let (_, _, err) = run_at(server.addr(), &["topics", "-v"]);
        assert!(err.contains("DEBUG tank_client"), "{err}");
        let output = tool(&["topics"]).env("TANK_BROKERS", OsStr::from_bytes(b"\xff")).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    });
}

#[test]
fn arguments_need_not_be_text() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let odd = OsStr::from_bytes(b"\xff\xfe");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(odd);
        std::fs::write(&path, b"from \xff a file\n").unwrap();
        let args = |args: &[&OsStr]| -> Vec<OsString> {
            let front = [OsStr::new("-b"), OsStr::new(server.addr())];
            front.iter().chain(args).map(|arg| arg.to_os_string()).collect()
        };
        let text = OsStr::new;
        let (code, _, err) = run(&args(&[text("publish"), text("-k"), odd, text(&topic), path.as_os_str()]));
        assert_eq!((code, err.as_str()), (0, "1 message stored\n"));
        let back = messages(&server.client(), &topic).concat();
        assert_eq!((back[0].key(), back[0].payload()), (Some(odd.as_bytes()), &b"from \xff a file"[..]));
        let grep =
            [text("consume"), text("-oearliest"), text("-e"), text("-Fseqnum"), text("-g"), OsStr::from_bytes(b"\xff")];
        let (code, out, err) = run(&args(&[&grep[..], &[text(&topic)]].concat()));
        assert_eq!((code, out.as_str()), (0, "1\n"), "{err}");
        for wrong in [&[text("consume"), odd][..], &[odd], &[text("topics"), text("--brokers"), odd]] {
            let (code, _, err) = run(&args(wrong));
            assert!(code == 2 && err.contains("invalid UTF-8") | err.contains("unrecognized"), "{wrong:?}: {err}");
        }
    });
}

#[test]
fn dashes_are_what_they_are_everywhere() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let (code, _, err) = run_with(&["publish", "-b", server.addr(), &topic, "-"], b"a\n");
        assert_eq!((code, err.as_str()), (0, "1 message stored\n"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("-file"), b"b\n").unwrap();
        let mut command = tool(&["publish", "-b", server.addr(), "--", &topic, "-file"]);
        assert_eq!(command.current_dir(dir.path()).output().unwrap().status.code(), Some(0));
        server.client().publish(&topic, 0, &[Record::new(b"-c")]).unwrap();
        let (_, out, _) = run_at(server.addr(), &["consume", "-oearliest", "-e", "-Fcontent", "--", &topic]);
        assert_eq!(out, "a\nb\n-c\n");
        let (_, out, _) = run_at(server.addr(), &["consume", "-oearliest", "-e", "-Fcontent", "--grep", "-c", &topic]);
        assert_eq!(out, "-c\n");
        let (code, _, err) = run_at(server.addr(), &["consume", "--", "-e"]);
        assert!(code == 1 && err.ends_with("-e: no such topic\n"), "{code} {err}");
    });
}
