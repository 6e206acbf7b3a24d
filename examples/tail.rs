//! Prints the messages of a topic, and those that come: one a line on stdout, everything else on stderr. Ctrl-C ends it.
//!
//! ```sh
//! cargo run --example tail -- --since 1h --grep milk 127.0.0.1:11011 orders
//! cargo run --example tail -- --from earliest --to-end --json 127.0.0.1:11011 orders | jq .key
//! ```

mod common;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use common::print::{self, Printer};
use common::progress::Progress;
use common::range::{self, Range};
use common::summary::Summary;
use common::{Args, Usage, place};
use tank_client::{Client, ConsumeIter, Message, Start};

const USAGE: &str = "\
usage: tail [options] BROKERS TOPIC[/PARTITION]

Prints the messages of a topic, one a line, and goes on with those that come, until Ctrl-C. Begins with what comes from
now on unless told otherwise.

options:";

const MORE: &str = "
  --to-end         stop at the present end; so does an --until that has passed
  --limit N        stop after N messages
  --grep TEXT      only messages whose content holds TEXT
  --stats          count the messages instead of printing them
  --fetch-size N   bytes to ask for at a time (1048576)
  --prefer-local   in a cluster, read from a replica on this host";

fn main() -> ExitCode {
    let usage = [USAGE, range::OPTIONS, MORE, print::OPTIONS].concat();
    let valued = [&range::NAMES[..], &["--limit", "--grep", "--fetch-size", "--fields"]].concat();
    common::run(&usage, &["--to-end", "--stats", "--prefer-local", "--json"], &valued, run)
}

/// Where messages go that are wanted.
enum Output {
    Lines(Printer),
    Counts(Summary),
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [brokers, topic] = &*args.operands else { return Err(Usage("a broker and a topic are needed".into()).into()) };
    let (topic, partition) = place(topic)?;
    let range = Range::new(args, Start::Latest)?;
    let printer = Printer::new(args, "partition,seqnum,ts_ms,key,content")?;
    let limit = args.number("--limit")?.unwrap_or(u64::MAX);
    let mut subscription = range.of(topic, partition);
    if let Some(size) = args.number("--fetch-size")? {
        subscription = subscription.fetch_size(size);
    }
    if args.option("--prefer-local").is_some() {
        subscription = subscription.prefer_local();
    }
    let is_bounded = args.option("--to-end").is_some() || range.is_past;
    if is_bounded {
        subscription = subscription.stop_at_end();
    }

    let mut messages = Client::connect(brokers)?.subscribe(subscription)?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;
    let (partitions, behind) = (messages.positions().iter().count(), messages.lag());
    let doing = if is_bounded { "reading" } else { "following" };
    eprintln!("{doing} {partitions} partitions, {behind} messages behind");
    let mut output = match args.option("--stats") {
        Some(_) => Output::Counts(Summary::new(&messages.positions())),
        None => Output::Lines(printer),
    };
    let total = if is_bounded { behind } else { 0 };
    let mut progress = match output {
        Output::Counts(_) => Progress::new("read", total),
        Output::Lines(_) => Progress::while_printing("read", total),
    };

    let grep = args.option("--grep").unwrap_or_default();
    let mut count = 0;
    while count < limit {
        let Some(message) = next(&mut messages, &mut output)? else { break };
        progress.set(if is_bounded { behind.saturating_sub(messages.lag()) } else { messages.stats().messages });
        if range.has(&message) && holds(message.payload(), grep.as_bytes()) {
            output.take(&message)?;
            count += 1;
        }
    }
    drop(progress);
    output.finish()?;
    eprintln!("{count} messages");
    Ok(())
}

/// The next message. What was printed goes out before a wait for it, so that a pipe sees every message at once.
fn next(messages: &mut ConsumeIter, output: &mut Output) -> Result<Option<Message>, Box<dyn Error>> {
    if let Some(message) = messages.next_timeout(Duration::ZERO)? {
        return Ok(Some(message));
    }
    if let Output::Lines(printer) = output {
        printer.flush()?;
    }
    Ok(messages.next().transpose()?)
}

fn holds(content: &[u8], text: &[u8]) -> bool {
    text.is_empty() || content.windows(text.len()).any(|part| part == text)
}

impl Output {
    fn take(&mut self, message: &Message) -> std::io::Result<()> {
        match self {
            Output::Lines(printer) => printer.print(message),
            Output::Counts(summary) => {
                summary.add(message);
                Ok(())
            }
        }
    }

    fn finish(&mut self) -> std::io::Result<()> {
        match self {
            Output::Lines(printer) => printer.flush(),
            Output::Counts(summary) => summary.print(),
        }
    }
}
