//! A worker that may be killed at any moment: it keeps its positions in a file and goes on from there.
//!
//! ```sh
//! cargo run --example checkpointed_worker -- 127.0.0.1:11011 orders /var/lib/worker/orders.checkpoint
//! ```

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use tank_client::{Checkpoint, Client, Message, OutOfRange, Start, Subscription};

const USAGE: &str = "\
usage: checkpointed_worker [options] BROKERS TOPIC FILE

Does its work with each message of a topic: prints partition, number and payload, one message a line. FILE keeps how far
it came. A message whose work was done when the worker was killed may be worked on once more, but none is left out.

options:
  --every N     save after N messages, and whenever there are no more for now (1000)
  --to-end      stop at the present end
  --help        this text";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some(args) = parse(args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let causes = std::iter::successors(Some(&*e), |e| e.source()).map(ToString::to_string);
            eprintln!("checkpointed_worker: {}", causes.collect::<Vec<_>>().join(": "));
            ExitCode::FAILURE
        }
    }
}

struct Args {
    brokers: String,
    topic: String,
    file: String,
    every: u64,
    to_end: bool,
}

fn parse(args: Vec<String>) -> Option<Args> {
    let mut args = args.into_iter();
    let (mut every, mut to_end, mut operands) = (1000, false, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--every" => every = args.next()?.parse().ok()?,
            "--to-end" => to_end = true,
            _ if arg.starts_with('-') => return None,
            _ => operands.push(arg),
        }
    }
    let [brokers, topic, file] = <[String; 3]>::try_from(operands).ok()?;
    Some(Args { brokers, topic, file, every, to_end })
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let mut checkpoint = Checkpoint::open(&args.file)?;
    // Partitions that the checkpoint does not know yet begin with their first message, lest any is left out.
    let mut what = Subscription::topic(&args.topic).from(Start::Earliest).resume(&checkpoint);
    what = what.out_of_range(OutOfRange::Earliest);
    if args.to_end {
        what = what.stop_at_end();
    }
    let mut messages = Client::connect(&args.brokers)?.subscribe(what)?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;

    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut unsaved = 0;
    let mut gaps = 0;
    while !messages.is_finished() {
        let message = messages.next_timeout(Duration::from_millis(if unsaved > 0 { 0 } else { 1000 }))?;
        if let Some(message) = &message {
            work(&mut out, message)?;
            unsaved += 1;
        }
        for gap in &messages.gaps()[gaps..] {
            eprintln!("{}/{}: {} to {} were gone before they were read", gap.topic, gap.partition, gap.first, gap.last);
            gaps += 1;
        }
        if unsaved >= args.every || unsaved > 0 && message.is_none() {
            // In this order: what is saved as done has to be done.
            out.flush()?;
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
