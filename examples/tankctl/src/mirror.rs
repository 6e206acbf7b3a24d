//! Copies topics from one broker to another, with their numbers.
//!
//! The destination's high-water marks say how far an earlier run came. Before anything is copied, the last message there is
//! compared with the one with its number at the source: a destination that differs is left alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tank_client::{Client, ConsumeIter, ErrorKind, Message, OutOfRange, Record, Start, Subscription, TopicConfig};

use crate::connect::{Connect, checked};
use crate::progress::Progress;
use crate::{notes, signals};

/// Copy topics to other brokers, with their numbers
///
/// Copies all partitions up to their present ends: numbers, keys, time stamps and contents. A second run continues where the
/// first one stopped. It begins by comparing the last message of each partition at the destination with the source's, and
/// refuses a destination that differs; nothing else may publish there. At the end it reads back what it copied, compares counts
/// and checksums, and says what was not compared.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tankctl mirror --brokers 10.0.0.1 --to 10.0.0.2 orders")]
pub struct Args {
    /// The brokers to copy to
    #[arg(short, long, value_name = "BROKERS")]
    to: String,
    /// Topics to copy
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// How many messages to store at a time
    #[arg(long, value_name = "COUNT", default_value_t = 5000, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
}

/// Records are stored when there are this many bytes of them.
const BYTES: usize = 1 << 20;

/// After how many failed attempts to store it gives up, and the first and the longest pause between two attempts.
const ATTEMPTS: u32 = 8;
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A partition on its way.
struct Lane {
    partition: u16,
    /// The last number that the destination had; 0 for none.
    before: u64,
    /// Why what it had was not compared.
    unknown: Option<String>,
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

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let (source, target) = (connect.client()?, connect.client_of(&args.to)?);
    for topic in &args.topics {
        let mirror = Mirror { source: &source, target: &target, topic, batch: args.batch.into() };
        mirror.run()?;
        if signals::received().is_some() {
            break;
        }
    }
    Ok(())
}

struct Mirror<'a> {
    source: &'a Client,
    target: &'a Client,
    topic: &'a str,
    batch: usize,
}

impl Mirror<'_> {
    fn run(&self) -> Result<()> {
        let topic = self.topic;
        let mut lanes = self.lanes()?;
        signals::end_politely();
        let mut messages = checked(self.source.subscribe(self.subscription(&lanes)))?;
        // The last message both have is not copied.
        let both = lanes.iter().filter(|lane| lane.before > 0 && lane.unknown.is_none()).count();
        let behind = messages.lag().saturating_sub(both as u64);
        let partitions = notes::count(lanes.len() as u64, "partition");
        notes::say(&format!("{topic}: {partitions}, {} to go", notes::count(behind, "number")));
        self.copy(&mut messages, &mut lanes)?;
        for gap in messages.gaps() {
            notes::say(&format!("{topic}/{}: {} at the source", gap.partition, notes::gone(gap.first, gap.last)));
        }
        let total = notes::count(lanes.iter().map(|lane| lane.copied.count).sum::<u64>(), "message");
        if signals::received().is_some() {
            notes::say(&format!("{topic}: interrupted: {total} copied, none verified"));
            return Ok(());
        }
        let checksum = self.verify(&lanes)?;
        if signals::received().is_some() {
            notes::say(&format!("{topic}: interrupted: {total} copied, not all verified"));
            return Ok(());
        }
        for Lane { partition, before, unknown, .. } in lanes.iter().filter(|lane| lane.before > 0) {
            let compared = unknown.as_deref().unwrap_or("the last one was compared");
            notes::say(&format!("{topic}/{partition}: the destination already had those up to {before}: {compared}"));
        }
        notes::say(&format!("{total} copied and verified, checksum {checksum:08x}"));
        Ok(())
    }

    /// The partitions, after a look at what the destination has of them.
    fn lanes(&self) -> Result<Vec<Lane>> {
        let topic = self.topic;
        let ends = self.source.partitions(topic)?;
        if !self.target.topics()?.iter().any(|info| info.name == *topic) {
            checked(self.target.create_topic(topic, ends.len().try_into()?, &TopicConfig::new()))?;
        }
        let begins = self.target.partitions(topic)?;
        if begins.len() != ends.len() {
            bail!("{topic}: partitions: {} at the source, {} at the destination", ends.len(), begins.len());
        }
        let mut lanes = Vec::new();
        for (end, begin) in ends.iter().zip(&begins) {
            let (partition, before) = (end.id, begin.high_water_mark);
            if before > end.high_water_mark {
                let mark = end.high_water_mark;
                bail!(
                    "{topic}/{partition}: the destination is ahead of the source: it has {before}, the source {mark}"
                );
            }
            let unknown = if before == 0 { None } else { self.compare(partition, before, end.first_available)? };
            lanes.push(Lane { partition, before, unknown, messages: Vec::new(), bytes: 0, copied: Sum::default() });
        }
        Ok(lanes)
    }

    /// Compares the message with this number, the destination's last one, on both sides. Returns why that was not possible.
    ///
    /// That number exists unless the two differ: to ask for one inside a gap can kill a server.
    fn compare(&self, partition: u16, seq: u64, first_available: u64) -> Result<Option<String>> {
        let topic = self.topic;
        let at = |client: &Client| -> Result<Option<Message>> {
            let one = Subscription::partition(topic, partition).start(Start::At(seq)).stop_at_end().stop_at_seq(seq);
            Ok(client.subscribe(one.out_of_range(OutOfRange::Earliest))?.next().transpose()?)
        };
        let Some(theirs) = at(self.target)?.filter(|message| message.seq() == seq) else {
            return Ok(Some("not compared, because it has none of them any more".into()));
        };
        if first_available > seq {
            return Ok(Some(format!("not compared, because the source's messages begin with {first_available}")));
        }
        let differ = |how: &str| anyhow!("{topic}/{partition}: the destination is not a copy of the source: {how}");
        let ours = at(self.source)?.filter(|message| message.seq() == seq);
        let ours = ours.ok_or_else(|| differ(&format!("its last message, {seq}, is not there")))?;
        let parts = |message: &Message| (message.timestamp_ms(), message.key().map(<[u8]>::to_vec));
        if parts(&ours) != parts(&theirs) || ours.payload() != theirs.payload() {
            return Err(differ(&format!("message {seq} differs")));
        }
        Ok(None)
    }

    /// What follows the destination's last messages, up to the present ends.
    ///
    /// It begins with the last message both have, which is left out: that number exists, while the next one may lie in a gap.
    fn subscription(&self, lanes: &[Lane]) -> Subscription {
        let start = |lane: &Lane| if lane.before == 0 { Start::Earliest } else { Start::At(lane.before) };
        let first = Subscription::partition(self.topic, lanes[0].partition).start(start(&lanes[0]));
        let first = first.stop_at_end().out_of_range(OutOfRange::Earliest).close_with(signals::closer());
        lanes[1..].iter().fold(first, |all, lane| all.and_partition(self.topic, lane.partition, start(lane)))
    }

    fn copy(&self, messages: &mut ConsumeIter, lanes: &mut [Lane]) -> Result<()> {
        let behind = messages.lag();
        let mut progress = Progress::new("copied", behind);
        let mut read = Ok(());
        while let Some(message) = messages.next() {
            let message = match message {
                Ok(message) => message,
                Err(e) => {
                    read = Err(e);
                    break;
                }
            };
            let lane = &mut lanes[usize::from(message.partition())];
            if message.seq() <= lane.before {
                continue;
            }
            lane.bytes += message.payload().len();
            lane.messages.push(message);
            if lane.messages.len() == self.batch || lane.bytes >= BYTES {
                self.store(lane)?;
                progress.set(|| behind.saturating_sub(messages.lag()));
            }
        }
        // Also after a signal or an error, so that nothing is read twice.
        lanes.iter_mut().try_for_each(|lane| self.store(lane))?;
        Ok(read?)
    }

    /// Stores what was read. It stays in order, because only one call publishes at a time.
    fn store(&self, lane: &mut Lane) -> Result<()> {
        let mut records = Vec::with_capacity(lane.messages.len());
        for message in &lane.messages {
            lane.copied.add(message);
            let record = Record::new(message.payload()).timestamp_ms(message.timestamp_ms());
            records.push((message.seq(), message.key().map_or(record, |key| record.key(key))));
        }
        let mut rest = &records[..];
        let (mut attempts, mut pause) = (0, PAUSES.0);
        while !rest.is_empty() {
            let Err(e) = self.target.publish_at(self.topic, lane.partition, rest) else { break };
            let may_pass =
                matches!(e.kind, ErrorKind::OutcomeUnknown | ErrorKind::PartlyStored { .. }) || e.is_retryable();
            attempts += 1;
            if !may_pass || attempts == ATTEMPTS {
                return Err(e).with_context(|| format!("gave up after {} to store", notes::count(attempts, "attempt")));
            }
            log::warn!("{}, trying again in {pause:?}", crate::exit::chain(&e));
            if signals::wait_until(Instant::now() + pause) {
                return Err(e).context("interrupted");
            }
            pause = PAUSES.1.min(pause * 2);
            // With numbers it is safe to look what is there, and to continue after it.
            let mark = self.target.partitions(self.topic)?[usize::from(lane.partition)].high_water_mark;
            let stored = rest.partition_point(|&(seq, _)| seq <= mark);
            if stored > 0 {
                (attempts, pause) = (0, PAUSES.0);
            }
            rest = &rest[stored..];
        }
        lane.messages.clear();
        lane.bytes = 0;
        Ok(())
    }

    /// Reads back what was copied, and returns a checksum of all.
    fn verify(&self, lanes: &[Lane]) -> Result<u32> {
        let topic = self.topic;
        let total: u64 = lanes.iter().map(|lane| lane.copied.count).sum();
        let mut progress = Progress::new("verified", total);
        let mut found = vec![Sum::default(); lanes.len()];
        let mut done = 0;
        for message in checked(self.target.subscribe(self.subscription(lanes)))? {
            let message = message?;
            let index = usize::from(message.partition());
            if message.seq() > lanes[index].before {
                found[index].add(&message);
                done += 1;
                progress.set(|| done);
            }
        }
        drop(progress);
        if signals::received().is_some() {
            return Ok(0);
        }
        for (lane, found) in lanes.iter().zip(&found) {
            if lane.copied != *found {
                let say = |sum: Sum| format!("{}, checksum {:08x}", notes::count(sum.count, "message"), sum.checksum);
                bail!("{topic}/{}: copied {}; read back {}", lane.partition, say(lane.copied), say(*found));
            }
        }
        Ok(found.iter().fold(0, |sum: u32, found| sum.rotate_left(1) ^ found.checksum))
    }
}
