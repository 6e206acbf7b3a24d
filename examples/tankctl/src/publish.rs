//! Publishes lines, each as a message.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Result;
use tank_client::{Acks, ByKey, Compression, Error, ErrorKind, Failure, Partitioner, Producer, Record};

use crate::connect::{Connect, checked};
use crate::exit::{not_stored, undelivered};
use crate::format::unescape;
use crate::input::{self, Input, Next};
use crate::positions::Place;
use crate::progress::Progress;
use crate::{notes, signals};

/// Publish each line of a file, or of standard input, as a message
///
/// A message is a line without its line end, and is sent as soon as the line is complete. Without a partition, the key decides
/// which partition a message goes to; messages without a key go to the partitions in turn. Reports how many messages were stored,
/// even if a signal ends it, and exits with an error unless all were stored.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Where to publish
    #[arg(value_name = "TOPIC[/PARTITION]")]
    place: Place,
    /// File to publish; standard input if it is - or left out
    file: Option<PathBuf>,
    /// A line is KEY=VALUE; one without = has no key
    #[arg(long)]
    keys: bool,
    /// A line is a key, this text, and the value; -K= is the same as --keys
    #[arg(short = 'K', long, value_name = "TEXT", value_parser = key_delimiter, allow_hyphen_values = true,
          conflicts_with = "keys")]
    key_delimiter: Option<Bytes>,
    /// The key of all messages
    #[arg(short, long, conflicts_with_all = ["keys", "key_delimiter"], allow_hyphen_values = true)]
    key: Option<OsString>,
    /// What ends a message; \0, \t and \xNN stand for bytes
    #[arg(short = 'D', long, value_name = "TEXT", value_parser = delimiter, default_value = "\\n",
          allow_hyphen_values = true)]
    delimiter: Bytes,
    /// Publish the whole file, or all of standard input, as one message, unless it is empty
    #[arg(long, conflicts_with_all = ["delimiter", "key_delimiter", "keys"])]
    whole: bool,
    /// The most messages to send together
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Number the messages, so that none is stored twice after a lost answer; nothing else may publish to the topic at the same
    /// time
    #[arg(long)]
    exactly_once: bool,
    /// Which replicas must have a message before it counts as stored: all, quorum, or a number of them
    #[arg(long, default_value = "all")]
    acks: Acks,
    /// When to compress: auto, none or snappy
    #[arg(short = 'z', long, default_value = "auto")]
    compression: Compression,
}

const EXAMPLES: &str = "\
Examples:
  seq 1000000 | tankctl publish orders
  tankctl publish --keys orders/0 orders.txt
  tail -F app.log | tankctl publish logs
  tankctl publish -K: -D '\\0' orders -- -odd-file-name";

type Bytes = Arc<[u8]>;

fn delimiter(text: &str) -> Result<Bytes, String> {
    match unescape(text)? {
        bytes if bytes.is_empty() => Err("at least one byte is needed".into()),
        bytes => Ok(bytes.into()),
    }
}

/// From `-K=` clap leaves nothing.
fn key_delimiter(text: &str) -> Result<Bytes, String> {
    delimiter(if text.is_empty() { "=" } else { text })
}

/// How often the connection is checked while no line arrives.
const LOOK: Duration = Duration::from_secs(1);

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let delimiter = if args.whole { &[][..] } else { &args.delimiter };
    let mut input = Input::open(args.file.as_deref(), delimiter)?;
    let size = input.size().unwrap_or(0);
    let client = connect.client()?;
    let chosen = Arc::new(AtomicU16::new(0));
    let settings = client.producer().partitioner(InTurn { chosen: chosen.clone(), turn: 0 });
    let settings = settings.acks(args.acks).compression(args.compression).max_records(args.batch.into());
    let settings = if args.exactly_once { settings.idempotent() } else { settings };
    let producer = checked(settings.build())?;
    let mut publisher = Publisher { producer, args, chosen, lines: Lines::default() };
    signals::end_politely();
    let mut progress = if size > 0 { Progress::new("of the file", size) } else { Progress::without_end("bytes") };
    let published = publisher.publish(&mut input, &mut progress);
    drop(progress);
    let finished = publisher.finish();
    if signals::received().is_some() {
        notes::say(match input.has_rest() {
            true => "interrupted inside a line, which was not published",
            false => "interrupted",
        });
    }
    undelivered(published, finished)
}

/// Like [`ByKey`], but remembers what was chosen, also for messages without a key.
struct InTurn {
    chosen: Arc<AtomicU16>,
    turn: u16,
}

impl Partitioner for InTurn {
    fn partition(&mut self, topic: &str, key: Option<&[u8]>, partitions: u16) -> Option<u16> {
        let id = ByKey.partition(topic, key, partitions).unwrap_or_else(|| {
            self.turn = self.turn.wrapping_add(1) % partitions;
            self.turn
        });
        self.chosen.store(id, Ordering::Relaxed);
        Some(id)
    }
}

struct Publisher<'a> {
    producer: Producer,
    args: &'a Args,
    chosen: Arc<AtomicU16>,
    lines: Lines,
}

impl Publisher<'_> {
    fn publish(&mut self, input: &mut Input, progress: &mut Progress) -> Result<()> {
        let mut bytes = 0;
        for number in 1.. {
            if !self.next_line(input)? {
                break;
            }
            self.send(number, input.line())?;
            bytes += input.line().len() as u64 + 1;
            progress.set(|| bytes);
        }
        Ok(())
    }

    /// Goes to the next line. Before it waits for one, everything is stored.
    fn next_line(&mut self, input: &mut Input) -> Result<bool> {
        let mut wait = Duration::ZERO;
        loop {
            match input.next(wait)? {
                Next::Line => return Ok(true),
                Next::End => return Ok(false),
                Next::Quiet if self.producer.pending() > 0 => self.producer.flush()?,
                Next::Quiet => {
                    self.producer.poll()?;
                    wait = LOOK;
                }
            }
        }
    }

    fn send(&mut self, number: u64, line: &[u8]) -> Result<()> {
        let args = self.args;
        let delimiter = args.key_delimiter.as_deref().or(args.keys.then_some(b"="));
        let split = delimiter.and_then(|delimiter| Some((input::find(line, delimiter)?, delimiter.len())));
        let record = match (split, &args.key) {
            (Some((at, len)), _) => Record::new(&line[at + len..]).key(&line[..at]),
            (None, Some(key)) => Record::new(line).key(key.as_bytes()),
            (None, None) => Record::new(line),
        };
        let sent = match self.send_record(record) {
            // All messages of this partition are on their way: there will be room again later.
            Err(Error { kind: ErrorKind::Full { .. }, .. }) => {
                self.producer.flush()?;
                self.send_record(record)
            }
            sent => sent,
        };
        match sent {
            Ok(()) => {}
            // Earlier failures are reported with their own lines.
            Err(e @ Error { kind: ErrorKind::Undelivered { .. }, .. }) => return Err(e.into()),
            Err(e) => return Err(anyhow::Error::new(e).context(format!("line {number}"))),
        }
        self.lines.add(args.place.partition.unwrap_or_else(|| self.chosen.load(Ordering::Relaxed)), number);
        if self.lines.count > 100_000 {
            self.lines.keep_last(number - self.producer.stored());
        }
        Ok(())
    }

    fn send_record(&mut self, record: Record<'_>) -> tank_client::Result<()> {
        match self.args.place.partition {
            Some(id) => self.producer.send_to(&self.args.place.topic, id, record),
            None => self.producer.send(&self.args.place.topic, record),
        }
    }

    /// Waits until everything is stored, and says so; otherwise says what became of the rest.
    fn finish(&mut self) -> Result<()> {
        let flushed = self.producer.flush();
        notes::say(&format!("{} stored", notes::count(self.producer.stored(), "message")));
        let failures = self.producer.take_failures();
        for (id, mut lines) in self.lines.last_of(&failures) {
            for failure in failures.iter().filter(|failure| failure.partition() == id) {
                let some: Vec<u64> = lines.drain(..failure.count().min(lines.len())).collect();
                notes::say(&format!("{}: {}", show_lines(&some), notes::fate(failure)));
            }
        }
        if failures.is_empty() { Ok(flushed?) } else { Err(not_stored(&failures)) }
    }
}

/// The numbers of the lines that were sent to each partition, or at least of the last ones.
#[derive(Default)]
struct Lines {
    sent: BTreeMap<u16, VecDeque<u64>>,
    count: usize,
}

impl Lines {
    fn add(&mut self, partition: u16, number: u64) {
        self.sent.entry(partition).or_default().push_back(number);
        self.count += 1;
    }

    /// Forgets all but the last of each partition: whatever is not stored is among them.
    fn keep_last(&mut self, not_stored: u64) {
        let most = usize::try_from(not_stored).unwrap_or(usize::MAX);
        for lines in self.sent.values_mut() {
            lines.drain(..lines.len().saturating_sub(most));
        }
        self.count = 0;
    }

    /// The lines of these failures: those that were sent to their partition last.
    fn last_of(&self, failures: &[Failure]) -> BTreeMap<u16, Vec<u64>> {
        let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
        failures.iter().for_each(|failure| *counts.entry(failure.partition()).or_default() += failure.count());
        let last = |(id, count): (u16, usize)| {
            let lines = self.sent.get(&id).cloned().unwrap_or_default();
            (id, lines.iter().skip(lines.len().saturating_sub(count)).copied().collect())
        };
        counts.into_iter().map(last).collect()
    }
}

/// `line 7` or `lines 3 to 9, 12`; shortened if there are many.
fn show_lines(numbers: &[u64]) -> String {
    const MOST: usize = 8;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let show =
        |&(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first} to {last}") };
    let shown: Vec<String> = ranges.iter().take(MOST).map(show).collect();
    let more = if ranges.len() > MOST { format!(", … ({} in all)", numbers.len()) } else { String::new() };
    format!("line{} {}{more}", if numbers.len() == 1 { "" } else { "s" }, shown.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tank_client::Fault;
    use tank_client::broker::BrokerFault;
    use tank_client::simulation::Simulation;

    use super::*;

    #[derive(Parser)]
    struct Tool {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn lines_that_were_not_stored_are_never_forgotten() {
        let sim = Simulation::new(1);
        let broker = sim.broker();
        broker.create_topic("orders", 1);
        let client = sim.client().connect(broker.brokers()).unwrap();
        let tool = Tool::parse_from(["publish", "orders/0"]);
        let producer = client.producer().max_records(1).build().unwrap();
        let lines = Lines { count: 99_999, ..Lines::default() };
        let mut publisher = Publisher { producer, args: &tool.args, chosen: Arc::default(), lines };
        broker.inject(BrokerFault::RefuseProduce(Fault::ReadOnly));
        publisher.send(1, b"tea").unwrap();
        // The next line is accepted, and then the answer to the first one is read.
        sim.sleep(Duration::from_millis(3));
        publisher.send(2, b"milk").unwrap();
        let failures = publisher.producer.take_failures();
        assert_eq!(publisher.lines.last_of(&failures)[&0], [1, 2]);
    }

    #[test]
    fn lines_are_told_in_short() {
        assert_eq!(show_lines(&[7]), "line 7");
        assert_eq!(show_lines(&[3, 4, 5, 9]), "lines 3 to 5, 9");
        let odd: Vec<u64> = (0..50).map(|n| 2 * n + 1).collect();
        assert_eq!(show_lines(&odd), "lines 1, 3, 5, 7, 9, 11, 13, 15, … (50 in all)");
    }
}
