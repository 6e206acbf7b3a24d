//! Follows a topic: one message a line on stdout, everything else on stderr. Ctrl-C ends it.
//!
//! ```sh
//! cargo run --example tail -- --from earliest 127.0.0.1:11011 orders
//! ```

mod common;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use common::{Args, Usage, place};
use tank_client::{Client, Message, Start, Subscription};

const USAGE: &str = "\
usage: tail [options] BROKERS TOPIC[/PARTITION]

Prints the messages of a topic, one a line: partition, number, time stamp in milliseconds, key (- if none), payload.

options:
  --from earliest|latest|NUMBER   where to begin (latest)
  --limit N                       stop after N messages
  --to-end                        stop at the present end
  --help                          this text";

fn main() -> ExitCode {
    common::run(USAGE, &["--to-end"], &["--from", "--limit"], run)
}

fn subscription(args: &Args, topic: &str) -> Result<Subscription, Usage> {
    let start = match args.option("--from") {
        None | Some("latest") => Start::Latest,
        Some("earliest") => Start::Earliest,
        Some(seq) => Start::At(seq.parse().map_err(|_| Usage(format!("--from {seq}: no such place")))?),
    };
    let subscription = match place(topic)? {
        (topic, Some(id)) => Subscription::partition(topic, id),
        (topic, None) => Subscription::topic(topic),
    };
    let subscription = match args.number("--limit")? {
        Some(limit) => subscription.limit(limit),
        None => subscription,
    };
    let subscription = if args.option("--to-end").is_some() { subscription.stop_at_end() } else { subscription };
    Ok(subscription.from(start))
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [brokers, topic] = &*args.operands else { return Err(Usage("a broker and a topic are needed".into()).into()) };
    let subscription = subscription(args, topic)?;
    let mut messages = Client::connect(brokers)?.subscribe(subscription)?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;
    eprintln!("following {} partitions, {} messages behind", messages.positions().iter().count(), messages.lag());

    let mut out = io::BufWriter::new(io::stdout().lock());
    loop {
        // What is there goes out before the next wait, so that a pipe sees every message at once.
        let message = match messages.next_timeout(Duration::ZERO)? {
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
    eprintln!("{} messages", messages.stats().messages);
    Ok(())
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
