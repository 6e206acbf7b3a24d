//! The tool in a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use common::server::Server;
use common::watch::{SOON, within};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tank_client::Record;

use crate::support::{MORNING, messages, orders, tool};

/// A terminal that no program runs in yet.
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

    /// Runs a command that has this terminal for some of its sides.
    fn run(self, mut command: Command) -> Running {
        // The command and `theirs` are dropped here: only the program has its side open now, so its end ends the reading.
        Running { child: command.spawn().unwrap(), shown: self.shown }
    }
}

/// A program in a terminal, killed when its test ends before it.
struct Running {
    child: Child,
    shown: Receiver<Vec<u8>>,
}

impl Running {
    /// What it shows up to the first of these signs.
    fn shown_until(&mut self, sign: char) -> String {
        let mut shown = String::new();
        while !shown.contains(sign) {
            let bytes = self.shown.recv_timeout(SOON).unwrap_or_else(|e| panic!("{e}, no {sign:?} in {shown:?}"));
            shown += &String::from_utf8_lossy(&bytes);
        }
        shown
    }

    /// Kills it, and returns what else it had shown.
    fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.end().1
    }

    /// Its exit code, and everything that it showed to its end.
    fn end(mut self) -> (Option<i32>, String) {
        let shown = self.shown.iter().flatten().collect();
        (self.child.wait().unwrap().code(), String::from_utf8(shown).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

fn assert_fits(lines: &[String], columns: u16) {
    let widest = lines.iter().map(|line| line.trim_end().chars().count()).max().unwrap();
    assert!(widest <= usize::from(columns), "{columns}: {lines:?}");
}

#[test]
fn bars_fit_into_the_terminal() {
    within(300, || {
        let server = Server::start();
        let [from, to] = [(); 2].map(|()| server.topic(1).name);
        // A message a second: the replay is long on a fast machine too.
        let second = |n: u64| Record::new("x").timestamp_ms(MORNING + 1000 * n);
        server.client().publish(&from, 0, &(0..100).map(second).collect::<Vec<_>>()).unwrap();
        for columns in [20, 40, 200] {
            let terminal = Terminal::new(columns);
            let mut command = tool(&["replay", "-b", server.addr(), "--into", &to, &from]);
            command.env("TERM", "xterm").stderr(terminal.side());
            let mut running = terminal.run(command);
            let shown = running.shown_until('%') + &running.kill();
            // Notes come first, and the terminal breaks those that are too long.
            let bar: Vec<String> = lines(&shown).into_iter().skip_while(|line| !line.contains('%')).collect();
            assert_fits(&bar, columns);
            assert!(columns < 40 || bar[0].contains('-'), "{columns}: {bar:?}");
        }
    });
}

#[test]
fn a_count_without_an_end_fits_into_the_terminal() {
    within(300, || {
        let server = Server::start();
        for columns in [20, 40, 200] {
            let (terminal, topic) = (Terminal::new(columns), server.topic(1).name);
            let mut command = tool(&["publish", "-b", server.addr(), &topic]);
            command.env("TERM", "xterm").stderr(terminal.side()).stdin(Stdio::piped());
            let mut running = terminal.run(command);
            let mut stdin = running.child.stdin.take().unwrap();
            // Until it is killed.
            let writer = thread::spawn(move || while stdin.write_all(b"a line of some bytes\n").is_ok() {});
            let shown = running.shown_until('(') + &running.kill();
            writer.join().unwrap();
            assert_fits(&lines(&shown), columns);
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
        let mut running = terminal.run(command);
        running.child.stdin.take().unwrap().write_all("x\n".repeat(200_000).as_bytes()).unwrap();
        assert_eq!(running.end(), (Some(0), "200000 messages stored\r\n".to_owned()));
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
            assert_eq!(terminal.run(command).end(), (Some(0), expected.to_owned()), "{options:?}");
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
                let (code, shown) = terminal.run(command).end();
                assert_eq!(code, Some(0), "{columns} {args:?}: {shown}");
            }
        }
        assert!(!messages(&server.client(), &to).concat().is_empty());
    });
}
