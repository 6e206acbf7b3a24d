//! A worker that may be killed at any moment: it keeps its positions in a file and continues from there.
//!
//! ```sh
//! cargo run --example checkpointed_worker -- 127.0.0.1:11011 orders /var/lib/worker/orders.checkpoint
//! ```

mod common;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use common::{Args, Usage};
use tank_client::{Checkpoint, Client, Message, OutOfRange, Start, Subscription};

const USAGE: &str = "\
usage: checkpointed_worker [options] BROKERS TOPIC FILE

Does its work with each message of a topic: prints partition, number and payload, one message a line. FILE keeps how far
it came. A message whose work was done when the worker was killed may be worked on once more, but none is left out.

options:
  --every N        save after N messages, and whenever there are no more for now (1000)
  --to-end         stop at the present end";

fn main() -> ExitCode {
    common::run(USAGE, &["--to-end"], &["--every"], run)
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [brokers, topic, file] = &*args.operands else {
        return Err(Usage("a broker, a topic and a file are needed".into()).into());
    };
    let every = args.number("--every")?.unwrap_or(1000);
    let mut checkpoint = Checkpoint::open(file)?;
    // Partitions that the checkpoint does not know yet begin with their first message, lest any is left out.
    let mut what = Subscription::topic(topic).start(Start::Earliest).resume(&checkpoint);
    what = what.out_of_range(OutOfRange::Earliest);
    if args.option("--to-end").is_some() {
        what = what.stop_at_end();
    }
    let mut messages = Client::connect(brokers)?.subscribe(what)?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;

    let mut out = io::BufWriter::new(io::stdout().lock());
    // Work that nobody takes is not done, so that a reader who went away is a failure here.
    let undone = |e: io::Error| format!("cannot hand out: {e}");
    let mut unsaved = 0;
    let mut gaps = 0;
    while !messages.is_finished() {
        let message = messages.next_timeout(Duration::from_millis(if unsaved > 0 { 0 } else { 1000 }))?;
        if let Some(message) = &message {
            work(&mut out, message).map_err(undone)?;
            unsaved += 1;
        }
        for gap in &messages.gaps()[gaps..] {
            eprintln!("{}/{}: {} to {} were gone before they were read", gap.topic, gap.partition, gap.first, gap.last);
            gaps += 1;
        }
        if unsaved >= every || unsaved > 0 && message.is_none() {
            // In this order: what is saved as done must be done.
            out.flush().map_err(undone)?;
            checkpoint.save(&messages.positions())?;
            unsaved = 0;
        }
    }
    Ok(())
}

fn work(out: &mut impl Write, message: &Message) -> io::Result<()> {
    write!(out, "{}\t{}\t", message.partition(), message.seq())?;
    out.write_all(message.payload())?;
    out.write_all(b"\n")
}
