//! The last message of each key: what a topic would be after perfect compaction, a table made of a log.
//!
//! ```sh
//! cargo run --example latest_per_key -- --deletes 127.0.0.1:11011 prices
//! ```

mod common;

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;

use common::print::{self, Printer};
use common::progress::Progress;
use common::range::{self, Range};
use common::{Args, Usage, place};
use tank_client::{Client, Message, Start};

const USAGE: &str = "\
usage: latest_per_key [options] BROKERS TOPIC[/PARTITION]

Reads a topic up to its present end and prints the last message of each key, by key. In a partition the last one is that
with the highest number. A key in several partitions has a last message in each; the one with the latest time stamp is
printed, of equal ones that of the highest partition. Messages without a key are only counted.

options:
  --deletes        a message without content deletes its key";

fn main() -> ExitCode {
    let usage = [USAGE, range::OPTIONS, print::OPTIONS].concat();
    common::run(&usage, &["--deletes", "--json"], &[&range::NAMES[..], &["--fields"]].concat(), run)
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [brokers, topic] = &*args.operands else { return Err(Usage("a broker and a topic are needed".into()).into()) };
    let (topic, partition) = place(topic)?;
    let range = Range::new(args, Start::Earliest)?;
    let mut printer = Printer::new(args, "key,content")?;
    let mut messages = Client::connect(brokers)?.subscribe(range.of(topic, partition).stop_at_end())?;
    let behind = messages.lag();
    let mut progress = Progress::new("read", behind);

    let mut partitions: HashMap<u16, HashMap<Vec<u8>, Message>> = HashMap::new();
    let mut unkeyed = 0;
    while let Some(message) = messages.next().transpose()? {
        progress.set(behind.saturating_sub(messages.lag()));
        match message.key() {
            _ if !range.has(&message) => {}
            None | Some(b"") => unkeyed += 1,
            // Detached, for the few messages that stay would keep all the memory alive that they were read into.
            Some(key) => {
                let latest = partitions.entry(message.partition()).or_default();
                latest.insert(key.to_vec(), message.detach());
            }
        }
    }
    drop(progress);

    let mut latest: Vec<(Vec<u8>, Message)> = partitions.into_values().flatten().collect();
    latest.sort_by(|(a, x), (b, y)| {
        a.cmp(b).then(y.timestamp_ms().cmp(&x.timestamp_ms())).then(y.partition().cmp(&x.partition()))
    });
    latest.dedup_by(|(later, _), (first, _)| later == first);
    let keys = latest.len();
    if args.option("--deletes").is_some() {
        latest.retain(|(_, message)| !message.payload().is_empty());
    }
    for (_, message) in &latest {
        printer.print(message)?;
    }
    printer.flush()?;
    let (read, deleted) = (messages.stats().messages, keys - latest.len());
    eprintln!("{read} messages: {} keys, {deleted} deleted, {unkeyed} messages without a key", latest.len());
    Ok(())
}
