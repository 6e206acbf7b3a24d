//! Follows a topic: one message a line on stdout, everything else on stderr. Ctrl-C ends it.
//!
//! ```sh
//! cargo run --example tail -- --from earliest 127.0.0.1:11011 orders
//! ```

use std::io::{self, Write};
use std::process::ExitCode;

use tank_client::{Client, Message, OutOfRange, Start, Subscription};

const USAGE: &str = "\
usage: tail [options] BROKERS TOPIC[/PARTITION]

Prints the messages of a topic, one a line: partition, number, time stamp in milliseconds, key (- if none), payload.

options:
  --from earliest|latest|NUMBER   where to begin (latest)
  --limit N                       stop after N messages
  --to-end                        stop at the present end
  --help                          this text";

struct Args {
    brokers: String,
    subscription: Subscription,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let args = match parse(args) {
        Ok(args) => args,
        Err(problem) => {
            eprintln!("tail: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(args) {
        Ok(count) => {
            eprintln!("{count} messages");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprint!("tail: {e}");
            let mut cause = e.source();
            while let Some(e) = cause {
                eprint!(": {e}");
                cause = e.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn parse(args: Vec<String>) -> Result<Args, String> {
    let mut args = args.into_iter();
    let (mut start, mut limit, mut to_end, mut operands) = (Start::Latest, None, false, Vec::new());
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--from" => {
                start = match value()?.as_str() {
                    "earliest" => Start::Earliest,
                    "latest" => Start::Latest,
                    number => Start::At(number.parse().map_err(|_| format!("--from {number}: no such place"))?),
                }
            }
            "--limit" => limit = Some(value()?.parse().map_err(|_| "--limit: not a number")?),
            "--to-end" => to_end = true,
            _ if arg.starts_with('-') => return Err(format!("unknown option {arg}")),
            _ => operands.push(arg),
        }
    }
    let [brokers, topic] = <[String; 2]>::try_from(operands).map_err(|_| "a broker and a topic are needed")?;
    let mut subscription = match topic.split_once('/') {
        Some((topic, id)) => Subscription::partition(topic, id.parse().map_err(|_| format!("{id}: no partition"))?),
        None => Subscription::topic(topic),
    };
    subscription = subscription.from(start).out_of_range(OutOfRange::Earliest);
    if let Some(limit) = limit {
        subscription = subscription.limit(limit);
    }
    if to_end {
        subscription = subscription.stop_at_end();
    }
    Ok(Args { brokers, subscription })
}

fn run(args: Args) -> Result<u64, Box<dyn std::error::Error>> {
    let client = Client::connect(&args.brokers)?;
    let mut messages = client.subscribe(args.subscription)?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;
    eprintln!("following {} partitions, {} messages behind", messages.positions().iter().count(), messages.lag());

    let mut out = io::BufWriter::new(io::stdout().lock());
    loop {
        // What is there goes out before the next wait, so that a pipe sees every message at once.
        let message = match messages.next_timeout(std::time::Duration::ZERO)? {
            Some(message) => message,
            None => {
                flush(&mut out)?;
                match messages.next() {
                    Some(message) => message?,
                    None => break,
                }
            }
        };
        if print(&mut out, &message).is_err() {
            break;
        }
    }
    flush(&mut out)?;
    for gap in messages.gaps() {
        eprintln!("{}/{}: {} to {} are gone", gap.topic, gap.partition, gap.first, gap.last);
    }
    Ok(messages.stats().messages)
}

fn print(out: &mut impl Write, message: &Message) -> io::Result<()> {
    let key = message.key().map_or("-".into(), String::from_utf8_lossy);
    let payload = String::from_utf8_lossy(message.payload());
    writeln!(out, "{}\t{}\t{}\t{key}\t{payload}", message.partition(), message.seq(), message.timestamp_ms())
}

/// A reader that has seen enough, as `head` has, is no failure.
fn flush(out: &mut impl Write) -> io::Result<()> {
    match out.flush() {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
