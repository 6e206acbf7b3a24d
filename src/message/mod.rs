//! The values that users hold, and the decoded bundles that they point into.

/// Where messages are from.
macro_rules! place_getters {
    ($life:lifetime) => {
        /// The topic.
        pub fn topic(&self) -> &$life str {
            self.block.tag.get(self.partition_index).0
        }

        /// The partition of the topic.
        pub fn partition(&self) -> u16 {
            self.block.tag.get(self.partition_index).1
        }
    };
}

/// What a message says about itself, whether it is owned or borrowed.
macro_rules! getters {
    ($life:lifetime) => {
        place_getters!($life);

        /// The sequence number, from 1 up, within the partition: what Kafka calls an offset.
        #[inline]
        pub fn seq(&self) -> u64 {
            self.entry.seq
        }

        /// The producer's time stamp, by convention in milliseconds since 1970 UTC. Brokers do not check it.
        #[inline]
        pub fn timestamp_ms(&self) -> u64 {
            self.entry.timestamp_ms
        }

        /// Returns the time stamp as a time, read as milliseconds since 1970 UTC. A time stamp beyond the latest time that every
        /// system can represent, in the year 30828, becomes that time.
        pub fn timestamp(&self) -> SystemTime {
            time_of(self.entry.timestamp_ms)
        }

        /// The payload.
        #[inline]
        pub fn payload(&self) -> &$life [u8] {
            &self.block.bytes[self.entry.payload()]
        }

        /// The key, if it has one. To other clients, an empty key and no key mean the same.
        #[inline]
        pub fn key(&self) -> Option<&$life [u8]> {
            self.entry.key().map(|range| &self.block.bytes[range])
        }
    };
}

mod batch;
mod decoded;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use batch::{Batch, BatchIter, MessageRef};
pub(crate) use decoded::{DecodedBundle, JOINED};

use crate::error::{Error, Result, ms_rounded_up};
use crate::net::Block;
use crate::protocol::bundle::{Entry, RawMessage};
use crate::protocol::cursor::sorted;
use crate::protocol::limits::setters;

/// Returns the indices of names in their order, by topic and then by a number. Equal ones stay in the order given.
pub(crate) fn in_order(names: &mut dyn Iterator<Item = (&str, u32)>) -> Vec<u32> {
    sorted(names).iter().map(|(_, index)| *index).collect()
}

/// Refuses names that do not fit on the wire. Brokers are stricter when a topic is created, but serve other names, too.
pub(crate) fn check_topic(topic: &str) -> Result<()> {
    if topic.is_empty() || topic.len() > 255 {
        return Err(Error::config(format!("topic name: {} bytes given, 1 to 255 allowed", topic.len())));
    }
    Ok(())
}

/// The names of a subscription's partitions, shared by all of its messages. A message has the index of its own.
pub(crate) type TopicPartitions = Arc<Names>;

/// The names of partitions, by index. A topic's name is kept once for all of its partitions that follow each other.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    topics: Vec<Arc<str>>,
    /// For each partition, the index of its topic in `topics`, and its number.
    partitions: Vec<(u32, u16)>,
}

impl Names {
    pub(crate) fn one(topic: impl Into<Arc<str>>, partition: u16) -> TopicPartitions {
        Arc::new(Names { topics: vec![topic.into()], partitions: vec![(0, partition)] })
    }

    /// The first `count` partitions of a topic.
    #[cfg(test)]
    pub(crate) fn of_topic(topic: &str, count: u16) -> TopicPartitions {
        let mut names = Names::with_capacity(count.into());
        let topic = topic.into();
        for id in 0..count {
            names.push(&topic, id);
        }
        Arc::new(names)
    }

    pub(crate) fn with_capacity(partitions: usize) -> Names {
        Names { topics: Vec::new(), partitions: Vec::with_capacity(partitions) }
    }

    pub(crate) fn push(&mut self, topic: &Arc<str>, partition: u16) {
        if self.topics.last() != Some(topic) {
            self.topics.push(topic.clone());
        }
        self.partitions.push((self.topics.len() as u32 - 1, partition));
    }

    pub(crate) fn len(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// Returns the topic and the number of a partition.
    pub(crate) fn get(&self, index: u32) -> (&Arc<str>, u16) {
        let (topic, partition) = self.partitions[index as usize];
        (&self.topics[topic as usize], partition)
    }

    /// Returns a partition's name as errors show it.
    pub(crate) fn show(&self, index: u32) -> impl fmt::Display {
        let (topic, partition) = self.get(index);
        format!("{topic}/{partition}")
    }
}

/// A message of a partition.
///
/// It shares the memory it was decoded in with its neighbours, so cloning is cheap. A message that you keep also keeps that
/// memory: at most a megabyte of what was received with it, or four times its own bundle. [`detach`](Message::detach) messages
/// that you keep for long.
#[derive(Clone)]
pub struct Message {
    pub(crate) block: Arc<Block<TopicPartitions>>,
    pub(crate) entry: Entry,
    pub(crate) partition_index: u32,
}

impl Message {
    getters!('_);

    /// Returns a copy that shares no memory with other messages.
    pub fn detach(&self) -> Message {
        let bytes = [self.key().unwrap_or_default(), self.payload()].concat();
        let block = Block::new(bytes, Names::one(self.topic(), self.partition()));
        Message { block, entry: self.entry.alone(), partition_index: 0 }
    }
}

/// The latest time that every system can represent, in the year 30828: Windows counts 100 ns since 1601 in 63 bits.
const LATEST_MS: u64 = (i64::MAX as u64 - 116_444_736_000_000_000) / 10_000;

/// A broker's time stamp as a time.
pub(crate) fn time_of(timestamp_ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(timestamp_ms.min(LATEST_MS))
}

/// The first time stamp at or after a time: whole milliseconds since 1970, 0 for any time before that.
pub(crate) fn millis_at_or_after(time: SystemTime) -> u64 {
    ms_rounded_up(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Equal messages have the same topic, partition, number, time stamp, key and payload.
impl PartialEq for Message {
    fn eq(&self, other: &Message) -> bool {
        (self.topic(), self.partition(), self.seq(), self.timestamp_ms(), self.key(), self.payload())
            == (other.topic(), other.partition(), other.seq(), other.timestamp_ms(), other.key(), other.payload())
    }
}

impl Eq for Message {}

/// Shows how long key and payload are, not what they hold.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic())
            .field("partition", &self.partition())
            .field("seq", &self.seq())
            .field("timestamp_ms", &self.timestamp_ms())
            .field("key_len", &self.key().map(<[u8]>::len))
            .field("payload_len", &self.payload().len())
            .finish()
    }
}

/// A message to publish.
///
/// Payload and key are borrowed from any type with bytes, such as `&str`, `String`, `[u8]` and `Vec<u8>`. [`key`](Record::key)
/// and [`timestamp_ms`](Record::timestamp_ms) set a value, and `get_key` and `get_timestamp_ms` return it.
///
/// ```
/// use tank_client::Record;
///
/// let record = Record::new("2 x tea").key("ada").timestamp_ms(1_700_000_000_000);
/// assert_eq!(record.payload(), b"2 x tea");
/// assert_eq!(record.get_key(), Some(&b"ada"[..]));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct Record<'a> {
    payload: &'a [u8],
    key: Option<&'a [u8]>,
    timestamp_ms: Option<u64>,
}

impl<'a> Record<'a> {
    /// Creates a record without a key. Its time stamp will be the time at which it is published.
    pub fn new(payload: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Record { payload: payload.as_ref(), key: None, timestamp_ms: None }
    }

    setters! {
        /// Sets the key, at most 255 bytes. An empty key is sent as no key, as the other clients do.
        key(key: &'a (impl AsRef<[u8]> + ?Sized)) => key = Some(key.as_ref());

        /// Sets the time stamp, in milliseconds since 1970 UTC.
        timestamp_ms(ms: u64) => timestamp_ms = Some(ms);
    }

    /// Returns the payload.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Returns the key that was set, if any.
    pub fn get_key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// Returns the time stamp that was set, if any.
    pub fn get_timestamp_ms(&self) -> Option<u64> {
        self.timestamp_ms
    }

    /// Returns the record as it is sent, with `now_ms` as its time stamp unless one was set.
    #[inline]
    pub(crate) fn to_raw(self, now_ms: impl FnOnce() -> u64) -> RawMessage<'a> {
        RawMessage {
            timestamp_ms: self.timestamp_ms.unwrap_or_else(now_ms),
            key: self.key.filter(|key| !key.is_empty()),
            payload: self.payload,
        }
    }
}

/// Shows how long key and payload are, not what they hold.
impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("timestamp_ms", &self.timestamp_ms)
            .field("key_len", &self.key.map(<[u8]>::len))
            .field("payload_len", &self.payload.len())
            .finish()
    }
}

/// Where a subscription begins to read a partition.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use tank_client::Start;
///
/// assert_eq!("earliest".parse::<Start>()?, Start::Earliest);
/// assert_eq!("1000".parse::<Start>()?, Start::At(1000));
/// assert_eq!("last:100".parse::<Start>()?, Start::Last(100));
/// assert_eq!("@1795336200".parse::<Start>()?, Start::Time(UNIX_EPOCH + Duration::from_secs(1_795_336_200)));
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Start {
    /// With the first message that still exists.
    Earliest,
    /// With the first message that arrives from now on. If a cluster's partition has no leader at that moment, with the first
    /// one that arrives once its next leader has been found, which takes up to a second.
    Latest,
    /// With this sequence number; 0 is [`Earliest`](Start::Earliest).
    At(u64),
    /// With the last `n` numbers. That is fewer messages if the numbers have gaps.
    Last(u64),
    /// With the first message that has this time stamp or a later one, as [`Client::seq_at`](crate::Client::seq_at) finds it
    /// when the subscription begins. If there is none, with the first one that arrives from then on, whatever its time stamp.
    Time(SystemTime),
}

/// Numbers whose messages are not delivered: retention deleted them, or no file has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Gap {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// The first number that is gone.
    pub first: u64,
    /// The last number that is gone.
    pub last: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_not_every_clock_can_say_is_the_latest_that_it_can() {
        for (ms, expected) in [
            (0, 0),
            (1_700_000_000_000, 1_700_000_000_000),
            (910_692_730_085_477, 910_692_730_085_477),
            (910_692_730_085_478, 910_692_730_085_477),
            // Nanoseconds instead of milliseconds.
            (1_700_000_000_000_000_000, 910_692_730_085_477),
            (u64::MAX, 910_692_730_085_477),
        ] {
            assert_eq!(time_of(ms), UNIX_EPOCH + Duration::from_millis(expected), "{ms}");
        }
    }
}
