//! Settings for a producer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::partitioner::{ByKey, Partitioner};
use super::producer::Producer;
use super::records::MAX_SET;
use crate::config::{Acks, PublishOptions};
use crate::error::{Error, Result};
use crate::protocol::bundle::{Compression, MAX_MESSAGES};
use crate::session::Session;

/// The least value of `max_pending_bytes`.
const LEAST_PENDING: usize = 1 << 20;

/// Settings for a [`Producer`], from [`Client::producer`](crate::Client::producer).
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

    /// How many bytes of a partition to collect before they are sent, 1 to 32 MiB. Counted before compression, with a few
    /// bytes for each record. Default 512 KiB. A larger record goes alone.
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

    /// How many bytes of records that are neither stored nor have failed the producer holds at most, counted before
    /// compression. A single partition may hold a quarter of that. Default 64 MiB, at least 1 MiB. A call to
    /// [`send`](Producer::send) that would exceed it waits, as described there, and then returns [`Error::Full`]. A record
    /// larger than the limit is taken when nothing else is held.
    pub fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.max_pending_bytes = bytes;
        self
    }

    /// How many requests may be in flight to a broker at a time, at least 1. Default 5. A request that is not answered within
    /// half a second is no longer counted: it waits for replicas, and must not hold up other partitions. With 1, each partition
    /// has one request in flight, so a temporary refusal can never change the order.
    pub fn window(mut self, requests: usize) -> Self {
        self.window = requests;
        self
    }

    /// When to compress. Default: the client's [setting](crate::ClientBuilder::compression).
    pub fn compression(mut self, compression: Compression) -> Self {
        self.options.compression = compression;
        self
    }

    /// Which replicas must have the records. Default: the client's [setting](crate::ClientBuilder::acks).
    pub fn acks(mut self, acks: Acks) -> Self {
        self.options.acks = acks;
        self
    }

    /// How long a cluster waits for those replicas. Default: the client's
    /// [setting](crate::ClientBuilder::ack_timeout).
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.options.ack_timeout = timeout;
        self
    }

    /// What chooses the partition of a record that is given without one. Default [`ByKey`].
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.partitioner = Box::new(partitioner);
        self
    }

    /// Stores every record exactly once, across lost connections and changes of leader: the producer gives the records their
    /// sequence numbers (ProduceWithSeqnum requests). When the outcome of a request is unknown it asks the leader for the end
    /// of its log, on a new connection, and sends again what is not there. The guarantee lasts as long as the producer, not
    /// across a restart of the program: after one, wait for an [`io_timeout`](crate::ClientBuilder::io_timeout) before you
    /// publish with a new idempotent producer.
    ///
    /// **One writer per partition.** While this producer exists, nobody else may publish to its partitions: no other producer,
    /// no other process, not this client's [`publish`](crate::Client::publish) either. Where the producer sees another writer's
    /// messages, records fail with [`Fault::AnotherWriter`](crate::Fault::AnotherWriter) or
    /// [`Fault::SeqNotAbove`](crate::Fault::SeqNotAbove); it cannot see all of them.
    ///
    /// One request at a time is in flight for each partition. Records that the leader has stored, but its replicas have not
    /// confirmed in time, are held until they are confirmed; at the end of
    /// [`retry_timeout`](crate::ClientBuilder::retry_timeout) they fail as unknown. Failures keep their numbers:
    /// [`retry_failures`](Producer::retry_failures) still stores them exactly once. If you drop failures that may be stored,
    /// and they are not, their numbers remain unused: a gap.
    ///
    /// Three things can still store records twice or lose them: a proxy that delivers what it had buffered, two nodes that
    /// both believe they lead, and a leader that comes back with a log that should have been cut.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Creates the producer. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting out of its range.
    pub fn build(self) -> Result<Producer> {
        self.options.check()?;
        let refused = |what: &str, given: usize, most: usize| {
            Err(Error::config(format!("producer: {what}: {given} given, 1 to {most} allowed")))
        };
        if self.max_records == 0 || self.max_records > MAX_MESSAGES {
            return refused("records", self.max_records as usize, MAX_MESSAGES as usize);
        }
        if self.max_bytes == 0 || self.max_bytes > MAX_SET {
            return refused("bytes", self.max_bytes, MAX_SET);
        }
        if self.max_pending_bytes < LEAST_PENDING {
            let given = self.max_pending_bytes;
            return Err(Error::config(format!(
                "producer: pending bytes: {given} given, at least {LEAST_PENDING} needed"
            )));
        }
        if self.window == 0 {
            return Err(Error::config("producer: window: 0 requests given, at least 1 needed"));
        }
        Ok(Producer::new(self))
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
