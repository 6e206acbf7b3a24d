//! The tool in a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use common::server::Server;
use common::watch::within;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tank_client::Record;

use crate::support::{messages, orders, tool};

/// What a program shows on a terminal with so many columns.
struct Terminal {
    shown: Receiver<Vec<u8>>,
    theirs: OwnedFd,
}

impl Terminal {
    fn new(columns: u16) -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&theirs, size).unwrap();
        let (show, shown) = channel();
        thread::spawn(move || {
            let (mut ours, mut bytes) = (File::from(ours), [0; 4096]);
            // The end is an error: nobody has the other side open any more.
            while let Ok(n @ 1..) = ours.read(&mut bytes) {
                if show.send(bytes[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { shown, theirs }
    }

    fn side(&self) -> Stdio {
        self.theirs.try_clone().unwrap().into()
    }

    /// Everything that is shown until the programs have ended.
    fn rest(self, command: Command) -> String {
        drop((self.theirs, command));
        String::from_utf8(self.shown.iter().flatten().collect()).unwrap()
    }
}

/// The lines as they are written one over the other, without what moves the cursor.
fn lines(shown: &str) -> Vec<String> {
    let mut text = String::new();
    let mut rest = shown;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        text += before;
        let end = after.find(|c: char| c.is_ascii_alphabetic()).unwrap();
        // Up, down and erasing begin a line afresh; colours do not.
        text += if after[end..].starts_with('m') { "" } else { "\r" };
        rest = &after[end + 1..];
    }
    text += rest;
    text.split(['\r', '\n']).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn bars_fit_into_the_terminal() {
    within(300, || {
        let server = Server::start();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lines");
        std::fs::write(&file, "a line of some bytes\n".repeat(3_000_000)).unwrap();
        for columns in [20, 40, 200] {
            // A file has an end, so there is a bar; the standard input has none.
            for with_end in [true, false] {
                let (terminal, topic) = (Terminal::new(columns), server.topic(1).name);
                let mut command = tool(&["publish", "-b", server.addr(), &topic]);
                command.env("TERM", "xterm").stderr(terminal.side()).stdin(Stdio::piped());
                if with_end {
                    command.arg(&file);
                }
                let mut child = Ended(command.spawn().unwrap());
                let mut stdin = child.0.stdin.take().unwrap();
                let writer =
                    thread::spawn(move || while !with_end && stdin.write_all(b"a line of some bytes\n").is_ok() {});
                let mut shown = String::new();
                let sign = if with_end { '%' } else { '(' };
                while !shown.contains(sign) {
                    let bytes = terminal.shown.recv().expect("it ended without a bar");
                    shown += &String::from_utf8_lossy(&bytes);
                }
                drop(child);
                writer.join().unwrap();
                let lines = lines(&(shown + &terminal.rest(command)));
                let widest = lines.iter().map(|line| line.trim_end().chars().count()).max().unwrap();
                assert!(widest <= usize::from(columns), "{columns}: {lines:?}");
                let bar = lines.iter().find(|line| line.contains(sign)).unwrap();
                assert!(!with_end || columns < 40 || bar.contains('-'), "{columns}: {bar:?}");
            }
        }
    });
}

#[test]
fn there_is_no_bar_on_a_dumb_terminal() {
    within(300, || {
        let (server, terminal) = (Server::start(), Terminal::new(80));
        let topic = server.topic(1).name;
        let mut command = tool(&["publish", "-b", server.addr(), &topic]);
        command.env("TERM", "dumb").stderr(terminal.side()).stdin(Stdio::piped());
        let mut child = Ended(command.spawn().unwrap());
        child.0.stdin.take().unwrap().write_all("x\n".repeat(200_000).as_bytes()).unwrap();
        assert!(child.0.wait().unwrap().success());
        assert_eq!(terminal.rest(command), "200000 messages stored\r\n");
    });
}

#[test]
fn payloads_do_not_drive_a_terminal() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        server.client().publish(&topic, 1, &[Record::new(b"\x9b31m\xff\x07\x7f\r").key(b"\x1b]0;k")]).unwrap();
        for (options, expected) in [
            (&["-Fkey,content"][..], "cleo\tcaf\u{e9} \\u{1b}[2J\r\n\\u{1b}]0;k\t\\x9b31m\\xff\\u{7}\\u{7f}\\r\r\n"),
            (
                &["-f%k\\x1b[0m%s\\n"],
                "cleo\u{1b}[0mcaf\u{e9} \\u{1b}[2J\r\n\\u{1b}]0;k\u{1b}[0m\\x9b31m\\xff\\u{7}\\u{7f}\\r\r\n",
            ),
            (
                &["-J", "-Fcontent"],
                "{\"content\":\"caf\u{e9} \\u001b[2J\"}\r\n{\"content_hex\":\"9b33316dff077f0d\"}\r\n",
            ),
        ] {
            let terminal = Terminal::new(80);
            let place = format!("{topic}/1");
            let mut command = tool(&[&["consume", "-b", server.addr(), "-o3", "-e"], options, &[&place]].concat());
            command.stdout(terminal.side()).stderr(Stdio::null());
            let mut child = Ended(command.spawn().unwrap());
            assert!(child.0.wait().unwrap().success());
            assert_eq!(terminal.rest(command), expected, "{options:?}");
        }
        // Elsewhere they are what they are.
        let output =
            tool(&["consume", "-b", server.addr(), "-o3", "-e", "-Fcontent", &format!("{topic}/1")]).output().unwrap();
        assert_eq!(output.stdout, b"caf\xc3\xa9 \x1b[2J\n\x9b31m\xff\x07\x7f\r\n");
    });
}

#[test]
fn every_command_runs_in_a_terminal_of_any_width() {
    within(300, || {
        let server = Server::start();
        let topic = orders(&server);
        let (to, place) = (server.topic(2).name, format!("{topic}/0"));
        for columns in [20, 40, 200] {
            for args in [
                &["consume", "-oearliest", "-e", &topic][..],
                &["consume", "-oearliest", "-e", "--stats", &topic],
                &["replay", "--speed", "max", "--into", &to, &topic],
                &["publish", &place, "/dev/null"],
                &["topics"],
                &["watermarks", &topic],
                &["status"],
                &["topology"],
                &["doctor", &topic],
                &["completions", "zsh"],
                &["consume", "--help"],
            ] {
                let terminal = Terminal::new(columns);
                let mut command = tool(&[&["-b", server.addr()], args].concat());
                command.env("TERM", "xterm").stdout(terminal.side()).stderr(terminal.side());
                let mut child = Ended(command.spawn().unwrap());
                // Read meanwhile: a terminal does not hold much.
                let mut shown = Vec::new();
                while child.0.try_wait().unwrap().is_none() {
                    shown.extend(terminal.shown.try_iter().flatten());
                    thread::yield_now();
                }
                let code = child.0.wait().unwrap().code();
                assert_eq!(code, Some(0), "{columns} {args:?}: {}", String::from_utf8_lossy(&shown));
            }
        }
        assert!(!messages(&server.client(), &to).concat().is_empty());
    });
}
