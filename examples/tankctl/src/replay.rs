//! Plays what happened once more, at its own pace.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tank_client::{Error, ErrorKind, Message, Producer, Record, Start};

use crate::connect::{Connect, checked};
use crate::exit::{chain, usage};
use crate::format::{Field, FormatArgs, Printer};
use crate::merge::Merge;
use crate::positions::{Place, RangeArgs};
use crate::progress::Progress;
use crate::times::{parse_span, show_span};
use crate::{notes, output, signals};

/// Play the messages of a topic once more, at their own pace
///
/// Plays the messages up to the present end, all partitions by time stamp, with the pauses that lay between them: prints them,
/// or publishes them to another topic, with their keys and to the partition of the same number; where their keys belong if
/// that topic has not as many partitions.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tankctl replay --since 1h --speed 10 --max-pause 5s --into orders-test orders")]
pub struct Args {
    #[arg(value_name = "TOPIC[/PARTITION]")]
    place: Place,
    /// How many times as fast, or max: without pauses
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = parse_speed)]
    speed: f64,
    /// No pause is longer than this, such as 500ms or 10s
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    max_pause: Option<Duration>,
    /// Publish to this topic instead of printing
    #[arg(long, value_name = "TOPIC")]
    into: Option<String>,
    /// The brokers that have that topic [default: those it comes from]
    #[arg(short, long, value_name = "BROKERS", requires = "into")]
    to: Option<String>,
    /// Publish with the present time instead of the messages' own time stamps
    #[arg(long, requires = "into")]
    restamp: bool,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// A pause that takes longer is announced.
const LONG: Duration = Duration::from_secs(20);

/// How often a connection is looked at in a pause.
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
    /// It has as many partitions as the messages come from.
    same: bool,
    restamp: bool,
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let range = args.range.range(Start::Earliest)?;
    let fields = [Field::Ts, Field::Partition, Field::SeqNum, Field::Key, Field::Content];
    let printer = args.format.printer(&fields, &args.range.zone);
    if args.into.as_ref() == Some(&args.place.topic) && args.to.is_none() {
        return usage(format!("{}: it would be played into itself", args.place.topic));
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
    notes::say(&format!("at most {} messages to play", messages.lag()));
    let (mut count, longest) = (0, args.max_pause.unwrap_or(Duration::MAX));
    let played = play(messages, &mut sink, args.speed, longest, &mut count);
    let finished = match &mut sink {
        Sink::Lines(printer) => printer.out.flush(),
        Sink::Topic(target) => target.finish(),
    };
    output::check_reader()?;
    if signals::received().is_some() {
        notes::say(&format!("interrupted after {count} messages"));
    }
    played.and(finished)
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
        // Who is late does not pause, and so catches up.
        let Some(next) = due.checked_add(pause) else { bail!("a pause of {} has no end", show_span(pause)) };
        due = next;
        time = Some(before.max(message.timestamp_ms()));
        if !sink.pause_until(due)? {
            return Ok(());
        }
        sink.take(&message)?;
        *count += 1;
        progress.set(*count);
    }
    Ok(())
}

impl Sink {
    /// Waits, with everything so far done. Returns `false` if it was interrupted.
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
            // Later there is room again.
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

    /// Waits until all is stored, and says so, or what became of the rest.
    fn finish(&mut self) -> Result<()> {
        let flushed = self.producer.flush();
        notes::say(&format!("{} messages stored", self.producer.stored()));
        for failure in self.producer.take_failures() {
            let (topic, partition, count) = (failure.topic(), failure.partition(), failure.count());
            let fate = if failure.is_unknown() { "perhaps stored" } else { "not stored" };
            notes::say(&format!("{topic}/{partition}: {count} messages {fate}: {}", chain(failure.error())));
        }
        Ok(flushed?)
    }
}
