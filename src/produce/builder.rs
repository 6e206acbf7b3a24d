//! Settings for a producer, and which partition a record goes to.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use super::records::MAX_SET;
use crate::config::{Acks, PublishOptions, setters};
use crate::error::{Error, Result};
use crate::protocol::bundle::{Compression, MAX_MESSAGES};
use crate::session::Session;

/// The least value of `max_pending_bytes`.
const MIN_PENDING: usize = 1 << 20;

/// Settings for a [`Producer`](crate::Producer), from [`Client::producer`](crate::Client::producer).
#[must_use = "settings do nothing until `build` is called"]
pub struct ProducerBuilder {
    pub(super) session: Arc<Session>,
    pub(super) options: PublishOptions,
    /// `AssertUnwindSafe` is sound: it runs before a record is taken, so a panic in it breaks no invariant.
    pub(super) partitioner: AssertUnwindSafe<Box<dyn Partitioner>>,
    pub(super) max_records: u32,
    pub(super) max_bytes: usize,
    pub(super) max_age: Duration,
    pub(super) max_pending_bytes: usize,
    pub(super) window: usize,
    pub(super) idempotent: bool,
}

impl ProducerBuilder {
    pub(crate) fn new(session: Arc<Session>) -> ProducerBuilder {
        ProducerBuilder {
            options: session.config.publish,
            session,
            partitioner: AssertUnwindSafe(Box::new(ByKey)),
            max_records: 10_000,
            max_bytes: 512 << 10,
            max_age: Duration::from_millis(50),
            max_pending_bytes: 64 << 20,
            window: 5,
            idempotent: false,
        }
    }

    setters! {
        /// How many records of a partition to collect before they are sent, 1 to 65,535. Default 10,000.
        max_records(records: u32) => max_records = records;

        /// How many bytes of a partition to collect before they are sent, 1 to 32 MiB. Counted before compression, with a few
        /// bytes for each record. Default 512 KiB. A larger record goes alone.
        max_bytes(bytes: usize) => max_bytes = bytes;

        /// How old the first record collected for a partition may become before the next call sends it with the others.
        /// Default 50 milliseconds; up to 10 more for records with a time stamp, for which the exact time is not read.
        /// Without a call nothing is sent.
        max_age(age: Duration) => max_age = age;

        /// The most bytes of records, counted before compression, that the producer holds until they are stored or have
        /// failed. Default 64 MiB, at least 1 MiB. A single partition may hold a quarter of that. A
        /// [`send`](crate::Producer::send) that would exceed the limit waits, and then returns
        /// [`Full`](crate::ErrorKind::Full).
        ///
        /// Buffers count at their full capacity, and each bundle adds a few hundred bytes. A record larger than the limit is
        /// accepted when the producer holds nothing else. Requests and buffers kept for reuse take less than 16 MiB more.
        max_pending_bytes(bytes: usize) => max_pending_bytes = bytes;

        /// How many requests may be in flight to a broker at a time, at least 1. Default 5. A request that is not answered
        /// within half a second no longer counts: it waits for replicas and must not hold up other partitions. With 1, each
        /// partition has at most one request in flight, so no record can be stored before an earlier one that was refused.
        window(requests: usize) => window = requests;

        /// When to compress. Default: the client's [setting](crate::ClientBuilder::compression).
        compression(compression: Compression) => options.compression = compression;

        /// How many replicas a publish requires. Default: the client's [setting](crate::ClientBuilder::acks).
        acks(acks: Acks) => options.acks = acks;

        /// How long a cluster waits for those replicas. Default: the client's
        /// [setting](crate::ClientBuilder::ack_timeout).
        ack_timeout(timeout: Duration) => options.ack_timeout = timeout;

        /// What chooses the partition of a record that is given without one. Default [`ByKey`].
        partitioner(partitioner: impl Partitioner + 'static) =>
            partitioner = AssertUnwindSafe(Box::new(partitioner));

        /// Stores every record exactly once, across lost connections and changes of leader: the producer gives the records
        /// their sequence numbers (ProduceWithSeqnum requests). When the outcome of a request is unknown, it asks the leader
        /// for the end of its log, on a new connection, and sends again what is missing there. The guarantee ends with the
        /// producer: after a restart, wait for more than [`tcp_user_timeout`](crate::ClientBuilder::tcp_user_timeout) before
        /// you publish with a new one: an old request may be on its way.
        ///
        /// **One writer per partition.** While this producer exists, nothing else may publish to its partitions: no other
        /// producer, no other process, and not this client's [`publish`](crate::Client::publish). If the producer notices
        /// messages of another writer, records fail with [`Fault::AnotherWriter`](crate::Fault::AnotherWriter) or
        /// [`Fault::SeqNotAbove`](crate::Fault::SeqNotAbove). It cannot notice all of them.
        ///
        /// One request at a time is in flight for each partition. If the leader has stored records and its replicas have not
        /// confirmed them in time, the producer waits for that for up to
        /// [`retry_timeout`](crate::ClientBuilder::retry_timeout); then they fail with an unknown outcome. Failures keep
        /// their numbers: [`retry_failures`](crate::Producer::retry_failures) still stores them exactly once. If you drop
        /// failures that may be stored but are not, their numbers remain unused: a gap.
        ///
        /// Records can still be stored twice or lost through a proxy that delivers late, a lost reset, a leader that dies as
        /// the last one in sync, two nodes that both believe they lead, or a log that should have been truncated.
        idempotent() => idempotent = true;
    }

    pub(super) fn check(&self) -> Result<()> {
        self.options.check()?;
        let ProducerBuilder { max_records: records, max_bytes: bytes, max_pending_bytes: pending, window, .. } = *self;
        let reason = if records == 0 || records > MAX_MESSAGES {
            format!("records: {records} given, 1 to {MAX_MESSAGES} allowed")
        } else if bytes == 0 || bytes > MAX_SET {
            format!("bytes: {bytes} given, 1 to {MAX_SET} allowed")
        } else if pending < MIN_PENDING {
            format!("pending bytes: {pending} given, at least {MIN_PENDING} needed")
        } else if window == 0 {
            "window: 0 requests given, at least 1 needed".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::config(format!("producer: {reason}")))
    }
}

impl fmt::Debug for ProducerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ProducerBuilder");
        shown.field("options", &self.options).field("max_records", &self.max_records).finish_non_exhaustive()
    }
}

/// Chooses the partition for a record.
///
/// A function or closure with the same arguments implements this trait:
///
/// ```no_run
/// # use tank_client::{Client, Record};
/// # let client = Client::connect("localhost")?;
/// let by_first_byte = |_: &str, key: Option<&[u8]>, partitions: u16| {
///     key.and_then(|key| key.first()).map(|&byte| u16::from(byte) % partitions)
/// };
/// let mut producer = client.producer().partitioner(by_first_byte).build()?;
/// producer.send("orders", Record::new("two pounds of tea").key("customer 7"))?;
/// # Ok::<(), tank_client::Error>(())
/// ```
pub trait Partitioner: Send {
    /// Returns the partition for a record with this key, from 0 to `partitions` − 1; `partitions` is at least 1. Records for which
    /// it returns `None` go to the topic's partitions in turn. For any other partition [`send`](crate::Producer::send) returns
    /// [`Config`](crate::ErrorKind::Config).
    fn partition(&mut self, topic: &str, key: Option<&[u8]>, partitions: u16) -> Option<u16>;
}

impl<F: FnMut(&str, Option<&[u8]>, u16) -> Option<u16> + Send> Partitioner for F {
    fn partition(&mut self, topic: &str, key: Option<&[u8]>, partitions: u16) -> Option<u16> {
        self(topic, key, partitions)
    }
}

/// The default partitioner: the CRC-32 of the key modulo the number of partitions, which is librdkafka's `consistent`. Records
/// without a key, or with an empty one, go to the topic's partitions in turn. If there are 0 partitions, it returns `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByKey;

impl Partitioner for ByKey {
    fn partition(&mut self, _: &str, key: Option<&[u8]>, partitions: u16) -> Option<u16> {
        let key = key.filter(|key| !key.is_empty())?;
        let index = crc32fast::hash(key).checked_rem(partitions.into())?;
        u16::try_from(index).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_those_of_librdkafka() {
        // CRC-32 of "123456789" is 0xcbf43926, the usual check value.
        let table = [(&b"123456789"[..], 7, 0xcbf4_3926_u32 % 7), (b"a", 100, 0xe8b7_be43 % 100), (b"x", 1, 0)];
        for (key, partitions, want) in table {
            assert_eq!(ByKey.partition("t", Some(key), partitions).map(u32::from), Some(want));
        }
        assert_eq!((ByKey.partition("t", None, 3), ByKey.partition("t", Some(b""), 3)), (None, None));
        assert_eq!(ByKey.partition("t", Some(b"a"), 0), None);
    }
}
