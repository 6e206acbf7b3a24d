//! Publishes lines, each as a message, and says how many were stored.
//!
//! ```sh
//! seq 1000000 | cargo run --release --example publish -- 127.0.0.1:11011 orders
//! ```

mod common;

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::process::ExitCode;

use common::progress::Progress;
use common::{Args, Usage, finish, place};
use tank_client::{Client, Producer, Record};

const USAGE: &str = "\
usage: publish [options] BROKERS TOPIC[/PARTITION] [FILE]

Publishes each line of a file, or of the standard input, as a message: all of its bytes but the line end. Without a
partition, messages with a key go where their key belongs, the others in turn. Says how many were stored, and fails
unless all were.

options:
  --keys           a line is KEY=VALUE; one without = has no key
  --exactly-once   number the messages, so that none is stored twice after a lost answer;
                   nobody else may publish to the topic meanwhile";

fn main() -> ExitCode {
    common::run(USAGE, &["--keys", "--exactly-once"], &[], run)
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let (brokers, target, file) = match &args.operands[..] {
        [brokers, target] => (brokers, target, None),
        [brokers, target, file] => (brokers, target, Some(file)),
        _ => return Err(Usage("a broker and a topic are needed".into()).into()),
    };
    let (topic, partition) = place(target)?;
    let (mut input, size): (Box<dyn BufRead>, u64) = match file {
        None => (Box::new(stdin().lock()), 0),
        Some(path) => {
            let file = File::open(path).map_err(|e| format!("{path}: {e}"))?;
            let size = file.metadata()?.len();
            (Box::new(BufReader::with_capacity(1 << 20, file)), size)
        }
    };
    let client = Client::connect(brokers)?;
    let settings = client.producer();
    let exactly_once = args.option("--exactly-once").is_some();
    let mut producer = if exactly_once { settings.idempotent() } else { settings }.build()?;
    let published = publish(&mut input, size, &mut producer, topic, partition, args.option("--keys").is_some());
    let finished = finish(&mut producer);
    published?;
    finished
}

fn publish(
    input: &mut dyn BufRead,
    size: u64,
    producer: &mut Producer,
    topic: &str,
    partition: Option<u16>,
    keys: bool,
) -> Result<(), Box<dyn Error>> {
    let mut progress = Progress::new(if size > 0 { "of the file" } else { "bytes" }, size);
    let (mut line, mut bytes) = (Vec::new(), 0);
    loop {
        line.clear();
        let len = input.read_until(b'\n', &mut line)?;
        if len == 0 {
            return Ok(());
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let record = match text.iter().position(|&byte| byte == b'=').filter(|_| keys) {
            Some(at) => Record::new(&text[at + 1..]).key(&text[..at]),
            None => Record::new(text),
        };
        match partition {
            Some(id) => producer.send_to(topic, id, record)?,
            None => producer.send(topic, record)?,
        }
        bytes += len as u64;
        progress.set(bytes);
    }
}
