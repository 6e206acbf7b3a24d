//! The ends of pipes: closed, full, without waiting.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use common::server::Server;
use common::watch::within;
use rustix::io::ioctl_fionread;
use rustix::process::Signal;

use crate::support::{Running, messages, tool};

/// A topic with as many messages as no pipe holds.
fn much(server: &Server) -> String {
    let mut topic = server.topic(1);
    topic.publish_numbers(0, 1, 60_000, 1000);
    topic.name
}

#[test]
fn whoever_reads_the_output_may_stop() {
    within(300, || {
        let server = Server::start();
        let topic = much(&server);
        let all: [&[&str]; 4] = [
            &["consume", "--from", "earliest", "--to-end"],
            &["consume", "--from", "earliest"],
            &["consume", "--merge"],
            &["replay", "--speed", "max"],
        ];
        for args in all {
            let mut tool = Running::at(server.addr(), &[args, &[&topic]].concat());
            tool.line().unwrap();
            tool.close_output();
            let (code, _, err) = tool.end();
            assert!(code == 0 && !err.contains("pipe"), "{args:?}: {code} {err}");
        }
    });
}

#[test]
fn a_reader_that_has_gone_is_noticed_while_nothing_comes() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let mut tool = Running::at(server.addr(), &["consume", &topic]);
        assert!(tool.note().unwrap().starts_with("following"));
        tool.close_output();
        assert_eq!(tool.end().0, 0);
    });
}

#[test]
fn a_full_pipe_is_waited_for_and_nothing_is_lost() {
    within(300, || {
        let server = Server::start();
        let topic = much(&server);
        // A socket that does not block, as some programs leave their pipes behind; for notes, too.
        for nonblocking in [false, true] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(nonblocking).unwrap();
            let mut command = tool(&["consume", "-b", server.addr(), "-oearliest", "-e", "-Fcontent", &topic]);
            let notes: OwnedFd = theirs.try_clone().unwrap().into();
            let mut child = command.stdout(OwnedFd::from(theirs)).stderr(notes).spawn().unwrap();
            drop(command);
            let mut all = String::new();
            ours.read_to_string(&mut all).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0));
            let lines = all.lines().filter(|line| line.parse::<u64>().is_ok());
            assert!(lines.eq((1..=60_000).map(|n| n.to_string())), "nonblocking: {nonblocking}");
        }
    });
}

#[test]
fn a_pipe_that_nobody_reads_does_not_keep_it_from_ending() {
    within(300, || {
        let server = Server::start();
        let topic = much(&server);
        let args = ["consume", "--from", "earliest", &*topic];
        for signals in [1, 2] {
            let mut tool = Running::at(server.addr(), &args);
            // Until it is full: a pipe holds 64 KiB, and is written in pieces.
            while ioctl_fionread(tool.out.as_ref().unwrap().get_ref()).unwrap() <= 60_000 {
                std::thread::yield_now();
            }
            for _ in 0..signals {
                tool.signal(Signal::TERM);
            }
            // Its output stays open and full meanwhile.
            assert_eq!(tool.wait().code(), Some(143));
            let err = std::iter::from_fn(|| tool.note()).last().unwrap();
            let told = err.starts_with("tankctl: nobody reads standard output: ") && err.ends_with(" not written");
            assert!(signals == 2 || told, "{err}");
        }
    });
}

#[test]
fn notes_that_nobody_reads_do_not_keep_it_from_ending() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lines");
        std::fs::write(&file, "x\n".repeat(3000)).unwrap();
        let args = ["publish", "-vv", "--batch", "1", &topic, file.to_str().unwrap()];
        let mut tool = Running::at(server.addr(), &args);
        while ioctl_fionread(tool.err.as_ref().unwrap().get_ref()).unwrap() <= 50_000 {
            std::thread::yield_now();
        }
        tool.signal(Signal::TERM);
        assert_eq!(tool.wait().code(), Some(143));
    });
}

#[test]
fn an_output_that_cannot_be_written_is_a_failure() {
    within(300, || {
        let server = Server::start();
        let topic = much(&server);
        for args in [
            &["consume", "-oearliest", "-e", &topic][..],
            &["consume", "-oearliest", "-e", "--stats", &topic],
            &["consume", "--merge", &topic],
            &["replay", "--speed", "max", &topic],
            &["topics"],
            &["watermarks", &topic],
            &["status"],
            &["completions", "bash"],
            &["--help"],
            &["--version"],
        ] {
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let args = [&["-b", server.addr()], args].concat();
            let output = tool(&args).stdout(full).stderr(Stdio::piped()).output().unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{args:?}: {err}");
            assert!(err.lines().last().unwrap().starts_with("tankctl: cannot write to standard output: "), "{err}");
        }
    });
}

#[test]
fn notes_that_cannot_be_written_change_nothing() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut child =
            tool(&["publish", "-b", server.addr(), &topic]).stdin(Stdio::piped()).stderr(full).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        // Closed ones: both of them.
        let script =
            format!("'{}' publish -b {} {topic} </dev/null 2>&-", env!("CARGO_BIN_EXE_tankctl"), server.addr());
        assert_eq!(Command::new("sh").args(["-c", &script]).status().unwrap().code(), Some(0));
        let script = format!("'{}' topics -b {} 1>&- 2>&- <&-", env!("CARGO_BIN_EXE_tankctl"), server.addr());
        assert_eq!(Command::new("sh").args(["-c", &script]).status().unwrap().code(), Some(0));
        assert_eq!(messages(&server.client(), &topic).concat().len(), 2);
    });
}

#[test]
fn an_input_that_does_not_block_is_waited_for() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut running = Running::start(tool(&["publish", "-b", server.addr(), &topic]).stdin(OwnedFd::from(theirs)));
        for round in 1..=3 {
            ours.write_all(b"line\nand ").unwrap();
            while messages(&server.client(), &topic).concat().len() < round {
                std::thread::yield_now();
            }
        }
        drop(ours);
        assert_eq!(running.end(), (0, String::new(), "4 messages stored\n".into()));
    });
}

#[test]
fn a_closed_input_is_an_end() {
    within(300, || {
        let server = Server::start();
        let topic = server.topic(1).name;
        let script = format!("'{}' publish -b {} {topic} <&-", env!("CARGO_BIN_EXE_tankctl"), server.addr());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "0 messages stored\n");
    });
}
