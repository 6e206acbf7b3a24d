//! Copies a topic from one broker to another, with its numbers.
//!
//! Killed and started again, it continues where it was: the destination's high-water marks say how far it had come.
//!
//! ```sh
//! cargo run --release --example mirror -- 10.0.0.1:11011 10.0.0.2:11011 orders
//! ```

mod common;

use std::error::Error;
use std::process::ExitCode;

use common::progress::Progress;
use common::{Args, Usage};
use tank_client::{Client, ConsumeIter, Message, OutOfRange, Record, Start, Subscription, TopicConfig};

const USAGE: &str = "\
usage: mirror [options] FROM TO TOPIC

Copies all partitions of a topic up to their present ends: numbers, keys, time stamps and payloads. Goes on behind what
the destination has. Nobody else may publish to the destination's topic. In the end it reads back what it has copied and
compares counts and checksums, and fails unless they are the same.

options:
  --batch N        how many messages to store at a time (5000)";

fn main() -> ExitCode {
    common::run(USAGE, &[], &["--batch"], run)
}

/// A partition on its way.
struct Lane {
    partition: u16,
    /// Read but not stored.
    messages: Vec<Message>,
    bytes: usize,
    copied: Sum,
}

/// Counts and adds up messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    count: u64,
    checksum: u32,
}

impl Sum {
    fn add(&mut self, message: &Message) {
        let key = message.key().unwrap_or_default();
        let mut hasher = crc32fast::Hasher::new_with_initial(self.checksum);
        for number in [message.seq(), message.timestamp_ms(), key.len() as u64, message.payload().len() as u64] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(key);
        hasher.update(message.payload());
        *self = Sum { count: self.count + 1, checksum: hasher.finalize() };
    }
}

/// Above this many bytes records are stored.
const BYTES: usize = 1 << 20;

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [from, to, topic] = &args.operands[..] else {
        return Err(Usage("two brokers and a topic are needed".into()).into());
    };
    let batch = args.number("--batch")?.unwrap_or(5000).clamp(1, 65_535);
    let (source, target) = (Client::connect(from)?, Client::connect(to)?);
    let ends = source.partitions(topic)?;
    if !target.topics()?.iter().any(|info| info.name == *topic) {
        target.create_topic(topic, ends.len().try_into()?, &TopicConfig::new())?;
    }
    let begins = target.partitions(topic)?;
    if begins.len() != ends.len() {
        return Err(format!("{topic} has {} partitions there and {} here", ends.len(), begins.len()).into());
    }
    let mut lanes = Vec::new();
    let mut wanted = Vec::new();
    for (end, begin) in ends.iter().zip(&begins) {
        if begin.high_water_mark > end.high_water_mark {
            return Err(format!("{topic}/{}: the destination is ahead of the source", end.id).into());
        }
        let start = if begin.high_water_mark == 0 { Start::Earliest } else { Start::At(begin.high_water_mark + 1) };
        wanted.push((end.id, start));
        lanes.push(Lane { partition: end.id, messages: Vec::new(), bytes: 0, copied: Sum::default() });
    }
    let mut messages = source.subscribe(subscription(topic, &wanted))?;
    let behind = messages.lag();
    eprintln!("{topic}: {} partitions, {behind} numbers to go", lanes.len());
    let mut progress = Progress::new("copied", behind);
    while let Some(message) = messages.next() {
        let message = message?;
        let lane = &mut lanes[usize::from(message.partition())];
        lane.bytes += message.payload().len();
        lane.messages.push(message);
        if lane.messages.len() == batch || lane.bytes >= BYTES {
            lane.store(&target, topic)?;
            progress.set(behind.saturating_sub(messages.lag()));
        }
    }
    for lane in &mut lanes {
        lane.store(&target, topic)?;
    }
    drop(progress);
    for gap in messages.gaps() {
        eprintln!("{topic}/{}: {} to {} are gone at the source", gap.partition, gap.first, gap.last);
    }
    verify(target.subscribe(subscription(topic, &wanted))?, topic, &lanes)
}

/// What lies between these starts and the present ends.
fn subscription(topic: &str, wanted: &[(u16, Start)]) -> Subscription {
    let (id, start) = wanted[0];
    let first = Subscription::partition(topic, id).start(start).stop_at_end().out_of_range(OutOfRange::Earliest);
    wanted[1..].iter().fold(first, |all, &(id, start)| all.and_partition(topic, id, start))
}

impl Lane {
    /// Stores what was read; in order, for nothing else is on its way.
    fn store(&mut self, target: &Client, topic: &str) -> Result<(), Box<dyn Error>> {
        let mut records = Vec::with_capacity(self.messages.len());
        for message in &self.messages {
            self.copied.add(message);
            let record = Record::new(message.payload()).timestamp_ms(message.timestamp_ms());
            records.push((message.seq(), message.key().map_or(record, |key| record.key(key))));
        }
        let mut rest = &records[..];
        while !rest.is_empty() {
            match target.publish_at(topic, self.partition, rest) {
                Ok(()) => break,
                // Numbers make it safe to look, and to continue after what is there.
                Err(e @ tank_client::Error::OutcomeUnknown { .. }) => {
                    eprintln!("{e}");
                    let mark = target.partitions(topic)?[usize::from(self.partition)].high_water_mark;
                    rest = &rest[rest.partition_point(|&(seq, _)| seq <= mark)..];
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.messages.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Reads back what was copied.
fn verify(messages: ConsumeIter, topic: &str, lanes: &[Lane]) -> Result<(), Box<dyn Error>> {
    let total: u64 = lanes.iter().map(|lane| lane.copied.count).sum();
    let mut progress = Progress::new("verified", total);
    let mut found = vec![Sum::default(); lanes.len()];
    for (done, message) in (0..).zip(messages) {
        let message = message?;
        found[usize::from(message.partition())].add(&message);
        progress.set(done);
    }
    drop(progress);
    for (lane, found) in lanes.iter().zip(&found) {
        if lane.copied != *found {
            let (copied, partition) = (lane.copied, lane.partition);
            return Err(format!("{topic}/{partition}: {copied:?} copied, {found:?} read back").into());
        }
    }
    let checksum = found.iter().fold(0, |sum: u32, found| sum.rotate_left(1) ^ found.checksum);
    eprintln!("{total} messages copied and verified, checksum {checksum:08x}");
    Ok(())
}
