//! Plays what happened once more, at its own pace: to stdout, or into another topic.
//!
//! ```sh
//! cargo run --example replay -- --since 1h --speed 10 127.0.0.1:11011 orders
//! cargo run --example replay -- --into orders-test --into-brokers 127.0.0.1:21011 127.0.0.1:11011 orders
//! ```

mod common;

use std::error::Error;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use common::merge::Merge;
use common::print::{self, Printer};
use common::progress::Progress;
use common::range::{self, Range};
use common::{Args, Usage, finish, place};
use tank_client::{Client, Message, Producer, Record, Start};

const USAGE: &str = "\
usage: replay [options] BROKERS TOPIC[/PARTITION]

Plays the messages of a topic up to its present end, all partitions by time stamp, with the pauses that lay between
them: prints them, or publishes them to another topic, with their keys and to the partition of the same number; where
their keys belong if that topic has not as many partitions. Ctrl-C ends it, as a failure.

options:
  --speed X        so many times as fast (1), or max: without pauses
  --max-pause SPAN
                   no pause is longer than this, such as 500ms or 10s
  --into TOPIC     publish to this topic instead of printing
  --into-brokers BROKERS
                   which these have (the same as it comes from)
  --restamp        publish with the present time instead of the messages' own time stamps";

fn main() -> ExitCode {
    let usage = [USAGE, range::OPTIONS, print::OPTIONS].concat();
    let valued = ["--speed", "--max-pause", "--into", "--into-brokers", "--fields"];
    common::run(&usage, &["--restamp", "--json"], &[&range::NAMES[..], &valued].concat(), run)
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [brokers, topic] = &*args.operands else { return Err(Usage("a broker and a topic are needed".into()).into()) };
    let place = place(topic)?;
    let range = Range::new(args, Start::Earliest)?;
    let speed = match args.option("--speed") {
        Some("max") => f64::INFINITY,
        Some(text) => match text.parse() {
            Ok(speed) if speed > 0.0 => speed,
            _ => return Err(Usage(format!("--speed {text}: max or a number above 0 is needed")).into()),
        },
        None => 1.0,
    };
    let longest = args.span("--max-pause")?.unwrap_or(Duration::from_secs(u32::MAX.into()));
    let printer = Printer::new(args, "ts,partition,seqnum,key,content")?;
    if args.option("--into").is_none() && (args.option("--into-brokers").or(args.option("--restamp"))).is_some() {
        return Err(Usage("--into-brokers and --restamp go with --into".into()).into());
    }

    let client = Client::connect(brokers)?;
    let messages = Merge::new(&client, &[place], range)?;
    let mut output = match args.option("--into") {
        None => Output::Lines(printer),
        Some(into) => {
            let target = args.option("--into-brokers").map_or(Ok(client.clone()), Client::connect)?;
            let same = target.partitions(into)?.len() == client.partitions(place.0)?.len();
            let restamp = args.option("--restamp").is_some();
            Output::Topic { producer: target.producer().build()?.into(), topic: into.to_owned(), same, restamp }
        }
    };
    let (stop, stopped) = channel();
    let handles = messages.close_handles();
    ctrlc::set_handler(move || {
        let _ = stop.send(());
        handles.iter().for_each(tank_client::CloseHandle::close);
    })?;
    eprintln!("at most {} messages to play", messages.lag());
    let played = play(messages, &mut output, speed, longest, &stopped);
    if let Output::Topic { producer, .. } = &mut output {
        finish(producer)?;
    }
    played
}

enum Output {
    Lines(Printer),
    /// With `same` partitions as the messages came from.
    Topic {
        producer: Box<Producer>,
        topic: String,
        same: bool,
        restamp: bool,
    },
}

fn play(
    messages: Merge,
    output: &mut Output,
    speed: f64,
    longest: Duration,
    stopped: &Receiver<()>,
) -> Result<(), Box<dyn Error>> {
    let mut progress = match output {
        Output::Lines(_) => Progress::while_printing("played", messages.lag()),
        Output::Topic { .. } => Progress::new("played", messages.lag()),
    };
    let (mut due, mut time) = (Instant::now(), None);
    for (count, message) in (1..).zip(messages) {
        let message = message?;
        let before = time.unwrap_or(message.timestamp_ms());
        let pause = Duration::from_millis(message.timestamp_ms().saturating_sub(before));
        // Who is late does not pause, and so catches up.
        due += Duration::try_from_secs_f64(pause.as_secs_f64() / speed).unwrap_or(Duration::MAX).min(longest);
        time = Some(before.max(message.timestamp_ms()));
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            output.flush()?;
        }
        if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return Err(format!("interrupted after {} messages", count - 1).into());
        }
        output.take(&message)?;
        progress.set(count);
    }
    if stopped.try_recv().is_ok() {
        return Err("interrupted".into());
    }
    output.flush()
}

impl Output {
    fn take(&mut self, message: &Message) -> Result<(), Box<dyn Error>> {
        match self {
            Output::Lines(printer) => printer.print(message)?,
            Output::Topic { producer, topic, same, restamp } => {
                let record = Record::new(message.payload());
                let record = message.key().map_or(record, |key| record.key(key));
                let record = if *restamp { record } else { record.timestamp_ms(message.timestamp_ms()) };
                match same {
                    true => producer.send_to(topic, message.partition(), record)?,
                    false => producer.send(topic, record)?,
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Box<dyn Error>> {
        match self {
            Output::Lines(printer) => Ok(printer.flush()?),
            Output::Topic { producer, .. } => Ok(producer.flush()?),
        }
    }
}
