//! Reads all that a topic has when it starts, and ends: the frame of every batch job. What comes meanwhile is for the next
//! run.
//!
//! ```sh
//! cargo run --release --example read_to_now -- 127.0.0.1:11011 orders
//! ```

mod common;

use std::error::Error;
use std::process::ExitCode;

use common::progress::Progress;
use common::range::{self, Range};
use common::summary::Summary;
use common::{Args, Usage, place};
use tank_client::{Client, Start};

const USAGE: &str = "\
usage: read_to_now [options] BROKERS TOPIC[/PARTITION]

Reads a topic from its first message to the last one it has now, and prints for each partition how many messages and
bytes (keys and contents) it came to, the first and last number, the oldest and newest time stamp.

options:";

fn main() -> ExitCode {
    common::run(&[USAGE, range::OPTIONS].concat(), &[], &range::NAMES, run)
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [brokers, topic] = &*args.operands else { return Err(Usage("a broker and a topic are needed".into()).into()) };
    let (topic, partition) = place(topic)?;
    let range = Range::new(args, Start::Earliest)?;
    let mut messages = Client::connect(brokers)?.subscribe(range.of(topic, partition).stop_at_end())?;
    let behind = messages.lag();
    let mut progress = Progress::new("read", behind);
    let mut summary = Summary::new(&messages.positions());
    while let Some(message) = messages.next().transpose()? {
        if range.has(&message) {
            summary.add(&message);
        }
        progress.set(behind.saturating_sub(messages.lag()));
    }
    drop(progress);
    Ok(summary.print()?)
}
