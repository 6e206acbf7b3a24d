//! Replays the messages of a topic at their original pace.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tank_client::{Error, ErrorKind, Message, Producer, Record, Start};

use crate::connect::{Connect, checked};
use crate::exit::{not_stored, undelivered, usage};
use crate::format::{Field, FormatArgs, Printer};
use crate::merge::Merge;
use crate::positions::{Place, RangeArgs};
use crate::progress::Progress;
use crate::times::{parse_span, show_span};
use crate::{notes, output, signals};

/// Replay the messages of a topic at their original pace
///
/// Replays the messages up to the present end, in the order of their time stamps and with the pauses between them. Prints them,
/// or publishes them with their keys to another topic: to the partition with the same number, or, if that topic has a different
/// number of partitions, to the partition that the key decides.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tankctl replay --since 1h --speed 10 --max-pause 5s --into orders-test orders")]
pub struct Args {
    /// What to replay
    #[arg(value_name = "TOPIC[/PARTITION]")]
    place: Place,
    /// How many times as fast; max for no pauses
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = parse_speed)]
    speed: f64,
    /// The longest pause, such as 500ms or 10s [default: none]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    max_pause: Option<Duration>,
    /// Publish to this topic instead of printing
    #[arg(long, value_name = "TOPIC")]
    into: Option<String>,
    /// Brokers of that topic [default: those of --brokers]
    #[arg(short, long, value_name = "BROKERS", requires = "into")]
    to: Option<String>,
    /// Publish with the current time instead of the messages' own time stamps
    #[arg(long, requires = "into")]
    restamp: bool,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// A longer pause is announced.
const LONG: Duration = Duration::from_secs(20);

/// How often the connection is checked during a pause.
const LOOK: Duration = Duration::from_secs(1);

fn parse_speed(text: &str) -> Result<f64, String> {
    match text {
        "max" => Ok(f64::INFINITY),
        text => match text.parse() {
            Ok(speed) if speed > 0.0 => Ok(speed),
            _ => Err("max or a number above 0 is expected".into()),
        },
    }
}

enum Sink {
    Lines(Printer),
    Topic(Box<Target>),
}

struct Target {
    producer: Producer,
    topic: String,
    /// Whether it has as many partitions as the topic that the messages come from.
    same: bool,
    restamp: bool,
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let range = args.range.range(Start::Earliest)?;
    let fields = [Field::Ts, Field::Partition, Field::SeqNum, Field::Key, Field::Content];
    let printer = args.format.printer(&fields, &args.range.zone);
    if args.into.as_ref() == Some(&args.place.topic) && args.to.is_none() {
        return usage(format!("{}: the topic cannot be replayed into itself", args.place.topic));
    }
    let client = connect.client()?;
    signals::end_politely();
    let messages = Merge::new(&client, std::slice::from_ref(&args.place), range)?;
    let mut sink = match &args.into {
        None => {
            output::watch_reader();
            Sink::Lines(printer)
        }
        Some(into) => {
            let target = args.to.as_ref().map_or(Ok(client.clone()), |brokers| connect.client_of(brokers))?;
            let same = target.partitions(into)?.len() == client.partitions(&args.place.topic)?.len();
            let producer = checked(target.producer().build())?;
            Sink::Topic(Box::new(Target { producer, topic: into.clone(), same, restamp: args.restamp }))
        }
    };
    notes::say(&format!("at most {} to play", notes::count(messages.lag(), "message")));
    let (mut count, longest) = (0, args.max_pause.unwrap_or(Duration::MAX));
    let played = play(messages, &mut sink, args.speed, longest, &mut count);
    let finished = match &mut sink {
        Sink::Lines(printer) => printer.out.flush(),
        Sink::Topic(target) => target.finish(),
    };
    output::check_reader()?;
    if signals::received().is_some() {
        notes::say(&format!("interrupted after {}", notes::count(count, "message")));
    }
    undelivered(played, finished)
}

fn play(messages: Merge, sink: &mut Sink, speed: f64, longest: Duration, count: &mut u64) -> Result<()> {
    let mut progress = match sink {
        Sink::Lines(_) => Progress::while_printing("played", messages.lag()),
        Sink::Topic(_) => Progress::new("played", messages.lag()),
    };
    let (mut due, mut time) = (Instant::now(), None);
    for message in messages {
        let message = message?;
        let before = time.unwrap_or(message.timestamp_ms());
        let pause = Duration::from_millis(message.timestamp_ms().saturating_sub(before));
        let pause = Duration::try_from_secs_f64(pause.as_secs_f64() / speed).unwrap_or(Duration::MAX).min(longest);
        // If it is late it does not pause, and so catches up.
        let Some(next) = due.checked_add(pause) else { bail!("a pause of {} has no end", show_span(pause)) };
        due = next;
        time = Some(before.max(message.timestamp_ms()));
        if !sink.pause_until(due)? {
            return Ok(());
        }
        sink.take(&message)?;
        *count += 1;
        progress.set(|| *count);
    }
    Ok(())
}

impl Sink {
    /// Waits, once everything so far is printed or stored. Returns `false` if it was interrupted.
    fn pause_until(&mut self, due: Instant) -> Result<bool> {
        let wait = due.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(!signals::wait_until(due));
        }
        match self {
            Sink::Lines(printer) => printer.out.flush()?,
            Sink::Topic(target) => target.producer.flush()?,
        }
        if wait > LONG {
            notes::say(&format!("the next message is due in {}; --max-pause makes pauses shorter", show_span(wait)));
        }
        loop {
            if signals::wait_until(due.min(Instant::now() + LOOK)) {
                return Ok(false);
            }
            if Instant::now() >= due {
                return Ok(true);
            }
            if let Sink::Topic(target) = self {
                target.producer.poll()?;
            }
        }
    }

    fn take(&mut self, message: &Message) -> Result<()> {
        match self {
            Sink::Lines(printer) => printer.print(message),
            Sink::Topic(target) => target.take(message),
        }
    }
}

impl Target {
    fn take(&mut self, message: &Message) -> Result<()> {
        let record = Record::new(message.payload());
        let record = message.key().map_or(record, |key| record.key(key));
        let record = if self.restamp { record } else { record.timestamp_ms(message.timestamp_ms()) };
        match self.send(message.partition(), record) {
            // There will be room again later.
            Err(Error { kind: ErrorKind::Full { .. }, .. }) => {
                self.producer.flush()?;
                Ok(self.send(message.partition(), record)?)
            }
            sent => Ok(sent?),
        }
    }

    fn send(&mut self, partition: u16, record: Record<'_>) -> tank_client::Result<()> {
        match self.same {
            true => self.producer.send_to(&self.topic, partition, record),
            false => self.producer.send(&self.topic, record),
        }
    }

    /// Waits until everything is stored, and says so; otherwise says what became of the rest.
    fn finish(&mut self) -> Result<()> {
        let flushed = self.producer.flush();
        notes::say(&format!("{} stored", notes::count(self.producer.stored(), "message")));
        let failures = self.producer.take_failures();
        for failure in &failures {
            notes::say(&format!("{} {}", notes::count(failure.count() as u64, "message"), notes::fate(failure)));
        }
        if failures.is_empty() { Ok(flushed?) } else { Err(not_stored(&failures)) }
    }
}
