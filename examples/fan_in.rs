//! Several topics as one stream, ordered by time.
//!
//! ```sh
//! cargo run --example fan_in -- --since 1h 127.0.0.1:11011 orders clicks payments/3
//! ```

mod common;

use std::error::Error;
use std::process::ExitCode;

use common::merge::Merge;
use common::print::{self, Printer};
use common::progress::Progress;
use common::range::{self, Range};
use common::{Args, Usage, place};
use tank_client::{Client, Start};

const USAGE: &str = "\
usage: fan_in [options] BROKERS TOPIC[/PARTITION]...

Merges all partitions of some topics by time stamp, up to their present ends, and prints the messages. Equal time stamps
come in the order of the arguments and partitions. No partition's own order is changed: where its time stamps go back,
so does the stream, and how often that was is told in the end.

It ends because a live stream cannot have this order: nobody knows whether a quiet partition is about to get a message
that is older than what the others have. To go on, run it again from the last time stamp it printed, or follow one topic
with tail in the order messages arrive.

options:
  --limit N        stop after N messages";

fn main() -> ExitCode {
    let usage = [USAGE, range::OPTIONS, print::OPTIONS].concat();
    common::run(&usage, &["--json"], &[&range::NAMES[..], &["--limit", "--fields"]].concat(), run)
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [brokers, topics @ ..] = &*args.operands else { return Err(Usage("a broker is needed".into()).into()) };
    let places = topics.iter().map(|topic| place(topic)).collect::<Result<Vec<_>, _>>()?;
    if places.is_empty() {
        return Err(Usage("a topic is needed".into()).into());
    }
    for (index, &(topic, id)) in places.iter().enumerate() {
        let is_same = |&(other, of): &(&str, Option<u16>)| other == topic && (of == id || of.is_none() || id.is_none());
        if places[..index].iter().any(is_same) {
            return Err(Usage(format!("{}: given twice", topics[index])).into());
        }
    }
    let range = Range::new(args, Start::Earliest)?;
    let mut printer = Printer::new(args, "ts,topic,partition,seqnum,key,content")?;
    let limit = args.number("--limit")?.unwrap_or(u64::MAX);
    let mut messages = Merge::new(&Client::connect(brokers)?, &places, range)?;
    let (partitions, behind) = (messages.partitions(), messages.lag());
    eprintln!("{partitions} partitions, at most {behind} messages to merge");
    let mut progress = Progress::while_printing("merged", behind);
    let (mut count, mut latest, mut back) = (0, 0, 0);
    while count < limit {
        let Some(message) = messages.next().transpose()? else { break };
        printer.print(&message)?;
        back += u64::from(message.timestamp_ms() < latest);
        latest = latest.max(message.timestamp_ms());
        count += 1;
        progress.set(count);
    }
    drop(progress);
    printer.flush()?;
    eprintln!("{count} messages, {back} of them older than one before");
    Ok(())
}
