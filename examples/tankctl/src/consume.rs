//! Prints the messages of topics, and new ones as they come.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tank_client::{Checkpoint, ConsumeIter, Message, OutOfRange, Start};

use crate::connect::{Connect, checked};
use crate::exit::usage;
use crate::format::{Field, FormatArgs, Printer};
use crate::merge::Merge;
use crate::positions::{Place, Range, RangeArgs};
use crate::progress::Progress;
use crate::summary::Summary;
use crate::table::TableArgs;
use crate::{input, notes, output, signals};

/// Print the messages of topics, and new ones as they come
///
/// Prints one message per line and waits for new ones until Ctrl-C. Begins with new messages unless told otherwise. On a
/// terminal, control characters are shown as escapes; anywhere else keys and contents are printed as they are.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to read
    #[arg(required = true, value_name = "TOPIC[/PARTITION]")]
    places: Vec<Place>,
    #[command(flatten)]
    range: RangeArgs,
    /// Stop at the present end; implied by an --until in the past
    #[arg(short = 'e', long, help_heading = "Range")]
    to_end: bool,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true,
          help_heading = "Range")]
    limit: u64,
    /// Print only messages whose content contains this
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Range")]
    grep: Option<OsString>,
    /// If retention deleted wanted messages, continue with the first one that is left
    #[arg(long, help_heading = "Range")]
    skip_lost: bool,
    /// Print up to the present end, in the order of time stamps
    #[arg(long, conflicts_with_all = ["checkpoint", "limit_bytes"], help_heading = "Range")]
    merge: bool,
    /// Begin at the positions in this file, and save the new positions there
    #[arg(short, long, value_name = "FILE", help_heading = "Range")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    format: FormatArgs,
    /// Count the messages instead of printing them
    #[arg(short, long, conflicts_with_all = ["fields", "format"], help_heading = "Format")]
    stats: bool,
    /// Bytes to ask for at a time
    #[arg(long = "fetch-size", value_name = "BYTES", default_value_t = 1 << 20, id = "limit_bytes",
          help_heading = "Connection")]
    fetch_size: u32,
    /// In a cluster, read from a replica on this host
    #[arg(long, help_heading = "Connection")]
    prefer_local: bool,
}

const EXAMPLES: &str = "\
Examples:
  tankctl consume orders                                new messages
  tankctl consume -o earliest -e --json orders          all messages, as JSON
  tankctl consume -o -10 -e orders/0                    the last ten numbers of a partition
  tankctl consume --since 1h30m --grep tea orders       messages of the last 90 minutes that contain \"tea\", then new ones
  tankctl consume -o earliest -e --stats orders         counts of all messages
  tankctl consume -f '%k=%s\\n' -c orders.position orders
                                                        continue after the last run, in kcat's format
  tankctl consume --merge --since 1h orders clicks      two topics merged by time";

/// Where wanted messages go.
enum Sink {
    Lines(Printer),
    Counts(Summary),
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let start = if args.merge { Start::Earliest } else { Start::Latest };
    let range = args.range.range(start)?;
    for (index, place) in args.places.iter().enumerate() {
        if args.places[..index].iter().any(|other| {
            other.topic == place.topic
                && (other.partition == place.partition || other.partition.is_none() || place.partition.is_none())
        }) {
            let id = place.partition.map_or(String::new(), |id| format!("/{id}"));
            return usage(format!("{}{id}: given twice", place.topic));
        }
    }
    let printer = args.format.printer(&fields(args), &args.range.zone);
    output::watch_reader();
    if args.merge { merge(connect, args, range, printer) } else { follow(connect, args, range, printer) }
}

fn fields(args: &Args) -> Vec<Field> {
    use Field::{Content, Key, Partition, SeqNum, Topic, Ts, TsMs};
    match (args.merge, args.places.len()) {
        (true, _) => vec![Ts, Topic, Partition, SeqNum, Key, Content],
        (false, 1) => vec![Partition, SeqNum, TsMs, Key, Content],
        (false, _) => vec![Topic, Partition, SeqNum, TsMs, Key, Content],
    }
}

fn follow(connect: &Connect, args: &Args, range: Range, printer: Printer) -> Result<()> {
    let mut checkpoint = args.checkpoint.as_ref().map(Checkpoint::open).transpose()?;
    let mut subscription = range.of(&args.places).fetch_size(args.fetch_size);
    if let Some(checkpoint) = &checkpoint {
        subscription = subscription.resume(checkpoint.positions());
    }
    if args.skip_lost {
        subscription = subscription.out_of_range(OutOfRange::Earliest);
    }
    if args.prefer_local {
        subscription = subscription.prefer_local();
    }
    let is_bounded = args.to_end || range.is_past;
    if is_bounded {
        subscription = subscription.stop_at_end();
    }
    let client = connect.client()?;
    signals::end_politely();
    let mut messages = checked(client.subscribe(subscription))?;

    let (partitions, behind) = (messages.positions().iter().count() as u64, messages.lag());
    let doing = if is_bounded { "reading" } else { "following" };
    notes::say(&format!("{doing} {}, lag {behind}", notes::count(partitions, "partition")));
    let total = if is_bounded { behind } else { 0 };
    let (mut sink, mut progress) = match args.stats {
        true => (Sink::Counts(Summary::new(&messages.positions())), Progress::new("read", total)),
        false => (Sink::Lines(printer), Progress::while_printing("read", total)),
    };
    let grep = args.grep.as_ref().map_or(&b""[..], |grep| grep.as_bytes());
    let mut count = 0;
    let read = loop {
        if count == args.limit {
            break Ok(());
        }
        let message = match next(&mut messages, &mut sink, checkpoint.as_mut())? {
            Ok(Some(message)) => message,
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        };
        progress.set(|| if is_bounded { behind.saturating_sub(messages.lag()) } else { messages.stats().messages });
        if range.has(&message) && input::find(message.payload(), grep).is_some() {
            sink.take(&message)?;
            count += 1;
        }
    };
    drop(progress);
    output::check_reader()?;
    // Also after an error: what was read before it counts.
    finish(sink, args)?;
    if let Some(checkpoint) = &mut checkpoint {
        checkpoint.save(&messages.positions())?;
    }
    for gap in messages.gaps() {
        notes::say(&format!("{}/{}: {}", gap.topic, gap.partition, notes::gone(gap.first, gap.last)));
    }
    read?;
    notes::say(&notes::count(count, "message"));
    Ok(())
}

/// The next message, or why it cannot be read. What was printed is flushed before a wait for it, so that a pipe gets every
/// message at once.
///
/// # Errors
/// What was read could not be printed or saved: then no position may be saved any more.
fn next(
    messages: &mut ConsumeIter,
    sink: &mut Sink,
    checkpoint: Option<&mut Checkpoint>,
) -> Result<tank_client::Result<Option<Message>>> {
    let there = messages.next_timeout(Duration::ZERO);
    if !matches!(there, Ok(None)) {
        return Ok(there);
    }
    if let Sink::Lines(printer) = sink {
        printer.out.flush()?;
        // Counts are printed at the end, so no position is saved before.
        if let Some(checkpoint) = checkpoint {
            checkpoint.save(&messages.positions())?;
        }
    }
    Ok(messages.next().transpose())
}

fn merge(connect: &Connect, args: &Args, range: Range, printer: Printer) -> Result<()> {
    let client = connect.client()?;
    signals::end_politely();
    let mut messages = Merge::new(&client, &args.places, range)?;
    let total = messages.lag();
    let partitions = notes::count(messages.partitions() as u64, "partition");
    notes::say(&format!("{partitions}, at most {} to merge", notes::count(total, "message")));
    let mut sink = if args.stats { Sink::Counts(Summary::new(&messages.positions())) } else { Sink::Lines(printer) };
    let mut progress = Progress::while_printing("merged", total);
    let grep = args.grep.as_ref().map_or(&b""[..], |grep| grep.as_bytes());
    let (mut count, mut back, mut latest) = (0, 0, 0);
    let mut merged = Ok(());
    while count < args.limit {
        let message = match messages.next() {
            None => break,
            Some(Ok(message)) => message,
            Some(Err(e)) => {
                merged = Err(e);
                break;
            }
        };
        if input::find(message.payload(), grep).is_none() {
            continue;
        }
        back += u64::from(message.timestamp_ms() < latest);
        latest = latest.max(message.timestamp_ms());
        sink.take(&message)?;
        count += 1;
        progress.set(|| count);
    }
    drop(progress);
    output::check_reader()?;
    finish(sink, args)?;
    merged?;
    notes::say(&format!("{}, {back} of them older than one before", notes::count(count, "message")));
    Ok(())
}

impl Sink {
    fn take(&mut self, message: &Message) -> Result<()> {
        match self {
            Sink::Lines(printer) => printer.print(message),
            Sink::Counts(summary) => {
                summary.add(message);
                Ok(())
            }
        }
    }
}

fn finish(sink: Sink, args: &Args) -> Result<()> {
    match sink {
        Sink::Lines(mut printer) => printer.out.flush(),
        Sink::Counts(summary) => summary.print(&TableArgs { json: args.format.is_json() }, &args.range.zone),
    }
}
