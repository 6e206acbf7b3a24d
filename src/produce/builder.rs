//! Settings for a producer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::partitioner::{ByKey, Partitioner};
use super::records::MAX_SET;
use crate::config::{Acks, PublishOptions};
use crate::error::{Error, Result};
use crate::protocol::bundle::{Compression, MAX_MESSAGES};
use crate::session::Session;

/// The least of pending bytes that may be allowed.
const LEAST_PENDING: usize = 1 << 20;

/// Settings for a [`Producer`](crate::Producer), from [`Client::producer`](crate::Client::producer).
#[must_use]
pub struct ProducerBuilder {
    pub(super) session: Arc<Session>,
    pub(super) options: PublishOptions,
    pub(super) partitioner: Box<dyn Partitioner>,
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
            partitioner: Box::new(ByKey),
            max_records: 10_000,
            max_bytes: 512 << 10,
            max_age: Duration::from_millis(50),
            max_pending_bytes: 64 << 20,
            window: 5,
            idempotent: false,
        }
    }

    /// How many records of a partition to collect before they are sent, 1 to 65,535. Default 10,000.
    pub fn max_records(mut self, records: u32) -> Self {
        self.max_records = records;
        self
    }

    /// How many bytes of a partition to collect before they are sent, before compression and some bytes for each record
    /// included: 1 to 32 MiB. Default 512 KiB. A larger record goes alone.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How old the first record collected for a partition may become before the next call sends it with the others. Default
    /// 50 milliseconds. Without a call nothing is sent.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// How many bytes the producer holds at most of records that are neither stored nor have failed, before compression; a
    /// quarter of them for one partition. Default 64 MiB, at least 1 MiB. A call to [`send`](crate::Producer::send) that would exceed
    /// it waits, as described there. A larger record is taken alone.
    pub fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.max_pending_bytes = bytes;
        self
    }

    /// How many requests may be in flight to a broker at a time, at least 1. Default 5. One that is not answered within half a
    /// second is not counted any more: it waits for replicas, and must not hold up other
    /// partitions. With 1, each partition has one request in flight, and what is refused for now never changes the order.
    pub fn window(mut self, requests: usize) -> Self {
        self.window = requests;
        self
    }

    /// When to compress. Default: as the client was [told](crate::ClientBuilder::compression).
    pub fn compression(mut self, compression: Compression) -> Self {
        self.options.compression = compression;
        self
    }

    /// Which replicas must have the records. Default: as the client was [told](crate::ClientBuilder::acks).
    pub fn acks(mut self, acks: Acks) -> Self {
        self.options.acks = acks;
        self
    }

    /// How long a cluster waits for those replicas. Default: as the client was
    /// [told](crate::ClientBuilder::ack_timeout).
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.options.ack_timeout = timeout;
        self
    }

    /// What chooses the partition of a record that is given without one. Default [`ByKey`].
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.partitioner = Box::new(partitioner);
        self
    }

    /// Stores every record exactly once, whatever connections and leaders do: the producer gives the records their sequence
    /// numbers, and where the outcome of a request is unknown it asks the leader for the end of its log, on a new connection,
    /// and sends again what is not there (ProduceWithSeqnum requests). That holds while the producer lives, not over a restart
    /// of the program: after one, wait for an [`io_timeout`](crate::ClientBuilder::io_timeout) before the next producer numbers.
    ///
    /// **One writer per partition.** Nobody else may publish to the partitions this producer publishes to, for as long as it
    /// lives: no other producer, no other process, not this client's [`publish`](crate::Client::publish) either. Where another
    /// writer's messages are seen, records fail with [`Fault::AnotherWriter`](crate::Fault::AnotherWriter) or
    /// [`Fault::SeqNotAbove`](crate::Fault::SeqNotAbove); there may be some that are not seen.
    ///
    /// One request at a time is in flight for each partition. Records that a leader has and its replicas have not confirmed in
    /// time are held until they have; at the end of [`retry_timeout`](crate::ClientBuilder::retry_timeout) they fail, as unknown.
    /// Failures keep their numbers: [`retry_failures`](crate::Producer::retry_failures) stores them exactly once even then, while dropping
    /// those that may be stored leaves a gap in the numbers if they are not.
    ///
    /// What remains: a proxy that delivers what it had buffered, two nodes that both believe they lead, or a leader that comes
    /// back with a log that should have been cut may still store records twice or not at all.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        self.options.check()?;
        let refused = |what: &str| Err(Error::config(format!("producer: {what}")));
        if self.max_records == 0 || self.max_records > MAX_MESSAGES {
            return refused(&format!("records: {} given, 1 to {MAX_MESSAGES} allowed", self.max_records));
        }
        if self.max_bytes == 0 || self.max_bytes > MAX_SET {
            return refused(&format!("bytes: {} given, 1 to {MAX_SET} allowed", self.max_bytes));
        }
        if self.max_pending_bytes < LEAST_PENDING {
            let given = self.max_pending_bytes;
            return refused(&format!("pending bytes: {given} given, at least {LEAST_PENDING} needed"));
        }
        if self.window == 0 {
            return refused("a window of no requests given, at least 1 needed");
        }
        Ok(())
    }
}

impl fmt::Debug for ProducerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerBuilder")
            .field("options", &self.options)
            .field("max_records", &self.max_records)
            .field("max_bytes", &self.max_bytes)
            .field("max_age", &self.max_age)
            .field("max_pending_bytes", &self.max_pending_bytes)
            .field("window", &self.window)
            .field("idempotent", &self.idempotent)
            .finish_non_exhaustive()
    }
}
