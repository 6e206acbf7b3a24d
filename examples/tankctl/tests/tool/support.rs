//! What the tests share: how the tool is run, and what there is to read.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;

use common::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use tank_client::{Client, Message, Record, Start, Subscription};

/// The tool, ready to be run with these arguments and no settings of whoever runs the tests.
pub fn tool<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tankctl"));
    command.env_remove("TANK_BROKERS").env_remove("RUST_LOG").env_remove("TZ").args(args);
    command
}

/// Runs the tool to its end: exit code, standard output, standard error output.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> (i32, String, String) {
    run_with(args, b"")
}

/// As [`run`], for brokers.
pub fn run_at(brokers: &str, args: &[&str]) -> (i32, String, String) {
    run(&[&["--brokers", brokers], args].concat())
}

/// As [`run`], with this on its standard input.
pub fn run_with<S: AsRef<OsStr>>(args: &[S], input: &[u8]) -> (i32, String, String) {
    let mut running = Running::start(tool(args).stdin(Stdio::piped()));
    let (mut stdin, input) = (running.child.stdin.take().unwrap(), input.to_vec());
    let writer = thread::spawn(move || stdin.write_all(&input));
    let ended = running.end();
    // A tool that failed need not have read all of it.
    let _ = writer.join().unwrap();
    ended
}

/// A tool that runs, and is killed when its test ends before it.
pub struct Running {
    pub child: Child,
    pub out: Option<BufReader<ChildStdout>>,
    pub err: Option<BufReader<ChildStderr>>,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        Running { child, out: out.map(BufReader::new), err: err.map(BufReader::new) }
    }

    /// Starts it for brokers.
    pub fn at(brokers: &str, args: &[&str]) -> Running {
        Running::start(&mut tool(&[&["--brokers", brokers], args].concat()))
    }

    /// Its next line of output.
    pub fn line(&mut self) -> Option<String> {
        next(self.out.as_mut().unwrap())
    }

    /// Its next line of notes.
    pub fn note(&mut self) -> Option<String> {
        next(self.err.as_mut().unwrap())
    }

    /// Closes what reads its output.
    pub fn close_output(&mut self) {
        self.out = None;
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Waits for its end; the exit code, and what it wrote that was not read yet.
    pub fn end(&mut self) -> (i32, String, String) {
        let err = self.err.take();
        let notes = thread::spawn(move || err.map(rest).unwrap_or_default());
        let out = self.out.take().map(rest).unwrap_or_default();
        (self.wait().code().unwrap_or(-1), out, notes.join().unwrap())
    }
}

fn next(lines: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    let len = lines.read_line(&mut line).unwrap();
    (len > 0).then(|| line.trim_end_matches('\n').to_owned())
}

fn rest(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A message of [`orders`]: partition, time stamp, key, content.
pub type Order = (u16, u64, &'static str, &'static [u8]);

/// 2024-02-29T08:30:00Z
pub const MORNING: u64 = 1_709_195_400_000;

/// Two partitions, with time stamps that do not go back in either.
pub const ORDERS: [Order; 7] = [
    (0, MORNING, "ada", b"tea"),
    (0, MORNING + 1000, "ben", b"milk"),
    (0, MORNING + 1000, "ada", b""),
    (0, MORNING + 4000, "", b"honey\tand \"milk\""),
    (1, MORNING + 500, "cleo", b"coffee"),
    (1, MORNING + 1000, "ben", b"rum"),
    (1, MORNING + 3000, "cleo", "caf\u{e9} \u{1b}[2J".as_bytes()),
];

/// [`ORDERS`], counted.
pub const COUNTS: &str = "\
PARTITION  MESSAGES  BYTES  FIRST  LAST  OLDEST                    NEWEST
orders/0          4     32      1     4  2024-02-29T08:30:00.000Z  2024-02-29T08:30:04.000Z
orders/1          3     30      1     3  2024-02-29T08:30:00.500Z  2024-02-29T08:30:03.000Z
all               7     62      -     -  2024-02-29T08:30:00.000Z  2024-02-29T08:30:04.000Z
";

/// A table without the spaces between its columns, whose width depends on the topic's name.
pub fn cells(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// A topic with [`ORDERS`].
pub fn orders(server: &Server) -> String {
    let topic = server.topic(2).name;
    for (partition, timestamp_ms, key, content) in ORDERS {
        let record = Record::new(content).key(key.as_bytes()).timestamp_ms(timestamp_ms);
        server.client().publish(&topic, partition, &[record]).unwrap();
    }
    topic
}

/// Everything that a topic has, by partition.
pub fn messages(client: &Client, topic: &str) -> Vec<Vec<Message>> {
    let partitions = 0..client.partitions(topic).unwrap().len() as u16;
    let all = |id| Subscription::partition(topic, id).start(Start::Earliest).stop_at_end();
    partitions.map(|id| client.subscribe(all(id)).unwrap().map(Result::unwrap).collect()).collect()
}
