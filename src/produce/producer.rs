//! [`Producer`]: collects records per partition and sends them in bundles.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use log::warn;

use super::builder::ProducerBuilder;
use super::failure::Failure;
use super::lane::{Lane, Ledger};
use super::link::Link;
use super::parcel::{check_place, check_record, now_ms, takes};
use crate::consume::check_topic;
use crate::error::{Error, Result};
use crate::message::Record;
use crate::net::old::Deadline;
use crate::protocol::produce::ProduceCode;

/// Collects records per partition, and sends those of a partition as a bundle once they are many, large or old enough.
///
/// It has no thread: all of it happens within calls, which block only while too much is on its way or waits. Requests go out
/// without waiting for the answers to those before; what has to wait for a connection to be opened goes with a later call,
/// and holds up nothing that goes to other brokers. Call [`flush`](Producer::flush) at the end, and whenever what was sent has
/// to be stored: dropping a producer neither sends nor waits, and logs how many records it drops.
///
/// The records of a partition are stored in the order in which they were given. What certainly was not stored is sent again
/// for as long as [`retry_timeout`](crate::ClientBuilder::retry_timeout) allows, as
/// [`publish`](crate::Client::publish) does, unless something behind it was stored meanwhile. What could not be stored, or
/// perhaps was, comes back: see [`take_failures`](Producer::take_failures), and [the guide](crate::guide::publishing) for a
/// program that does so.
///
/// ```no_run
/// # use tank_client::{Client, Record};
/// # let client = Client::connect("localhost")?;
/// let mut producer = client.producer().build()?;
/// for line in ["two pounds of tea", "milk"] {
///     producer.send("orders", Record::new(line).key("customer 7"))?;
/// }
/// producer.flush()?;
/// # Ok::<(), tank_client::Error>(())
/// ```
pub struct Producer {
    pub(super) settings: ProducerBuilder,
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, usize>,
    /// The topic used last.
    latest: usize,
    pub(super) lanes: Vec<Lane>,
    /// Lanes with something waiting.
    pub(super) ready: Vec<usize>,
    pub(super) links: Vec<Link>,
    /// Not after the first lane is due.
    pub(super) next_due: Option<Deadline>,
    pub(super) ledger: Ledger,
    pub(super) frame: Vec<u8>,
    pub(super) codes: Vec<ProduceCode>,
}

struct Topic {
    name: Arc<str>,
    /// How many partitions it has, if that was asked for.
    partitions: Option<u16>,
    /// Lanes by partition.
    lanes: Vec<Option<usize>>,
    /// Whose turn it is among the partitions.
    turn: u16,
}

impl Producer {
    pub(super) fn new(settings: ProducerBuilder) -> Producer {
        Producer {
            settings,
            topics: Vec::new(),
            by_name: HashMap::new(),
            latest: 0,
            lanes: Vec::new(),
            ready: Vec::new(),
            links: Vec::new(),
            next_due: None,
            ledger: Ledger::default(),
            frame: Vec::new(),
            codes: Vec::new(),
        }
    }

    /// Takes a record for the partition that the [`Partitioner`](crate::Partitioner) chooses. The topic's partitions are
    /// those it has at its first record.
    ///
    /// # Errors
    /// Any error means that this record was not taken. [`Error::Config`] or [`Error::BundleTooLarge`] for one that
    /// cannot be sent; [`Error::Undelivered`] while records that failed wait to be taken back; [`Error::Broker`] if the topic
    /// is unknown; otherwise as [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    pub fn send(&mut self, topic: &str, record: Record<'_>) -> Result<()> {
        let topic = self.topic(topic)?;
        let partition = self.choose(topic, &record)?;
        self.push(topic, partition, &record)
    }

    /// Takes a record for this partition.
    ///
    /// # Errors
    /// As [`send`](Producer::send). That the topic or partition is unknown comes back as a failure.
    pub fn send_to(&mut self, topic: &str, partition: u16, record: Record<'_>) -> Result<()> {
        let topic = self.topic(topic)?;
        self.push(topic, partition, &record)
    }

    /// Sends what is due and takes in the answers that have arrived, without waiting for any.
    ///
    /// # Errors
    /// [`Error::Undelivered`] if records that failed wait to be taken back.
    pub fn poll(&mut self) -> Result<()> {
        self.send_due();
        self.advance();
        self.check_failures()
    }

    /// Sends all that was collected and waits until every record is stored or has failed.
    ///
    /// # Errors
    /// [`Error::Undelivered`] if records that failed wait to be taken back. All others are stored.
    pub fn flush(&mut self) -> Result<()> {
        for lane in 0..self.lanes.len() {
            self.seal(lane);
        }
        self.advance();
        while !self.lanes.iter().all(Lane::is_idle) {
            self.wait();
            self.advance();
        }
        self.check_failures()
    }

    /// The records that could not be stored, or perhaps were, each bundle's with the reason, in their order within each
    /// partition. While any wait here no record is taken.
    ///
    /// When records of a partition fail, all behind them that are not stored come back too, those that were not sent with
    /// [`Error::NotSent`]. So whoever gives all of them to the producer again, in this order, keeps the order; whether to do
    /// so with those that [may be stored](Failure::is_unknown) is the caller's choice between twice and not at all.
    pub fn take_failures(&mut self) -> Vec<Failure> {
        // What follows a failure must not come back in a later call.
        while self.lanes.iter().any(Lane::is_failing) {
            self.wait();
            self.advance();
        }
        std::mem::take(&mut self.ledger.failures)
    }

    /// How many records are stored for certain.
    pub fn stored(&self) -> u64 {
        self.ledger.stored
    }

    /// How many records were taken that are neither stored nor have failed.
    pub fn pending(&self) -> u64 {
        self.lanes.iter().map(Lane::pending).sum()
    }

    fn check_failures(&self) -> Result<()> {
        match self.ledger.failures.first() {
            None => Ok(()),
            Some(first) => {
                let records = self.ledger.failures.iter().map(Failure::count).sum();
                Err(Error::Undelivered { records, source: first.shared_error().clone() })
            }
        }
    }

    /// The topic of this name.
    #[inline]
    fn topic(&mut self, name: &str) -> Result<usize> {
        if self.topics.get(self.latest).is_some_and(|topic| *topic.name == *name) {
            return Ok(self.latest);
        }
        self.latest = match self.by_name.get(name) {
            Some(&index) => index,
            None => {
                check_topic(name)?;
                let name: Arc<str> = name.into();
                self.by_name.insert(name.clone(), self.topics.len());
                self.topics.push(Topic { name, partitions: None, lanes: Vec::new(), turn: 0 });
                self.topics.len() - 1
            }
        };
        Ok(self.latest)
    }

    fn choose(&mut self, topic: usize, record: &Record<'_>) -> Result<u16> {
        let topic = &mut self.topics[topic];
        let partitions = match topic.partitions {
            Some(partitions) => partitions,
            None => {
                let states = self.settings.shared.discover(&topic.name, None)?;
                let partitions = u16::try_from(states.len()).unwrap_or(u16::MAX).max(1);
                topic.partitions = Some(partitions);
                partitions
            }
        };
        match self.settings.partitioner.partition(&topic.name, record.get_key(), partitions) {
            Some(partition) if partition < partitions => Ok(partition),
            Some(partition) => {
                let name = &topic.name;
                let reason = format!("{name}: the partitioner chose {partition} of {partitions} partitions");
                Err(Error::config(reason))
            }
            None => {
                let partition = topic.turn % partitions;
                topic.turn = (partition + 1) % partitions;
                Ok(partition)
            }
        }
    }

    fn lane(&mut self, topic: usize, partition: u16) -> Result<usize> {
        let index = usize::from(partition);
        let entry = &mut self.topics[topic];
        if let Some(&Some(lane)) = entry.lanes.get(index) {
            return Ok(lane);
        }
        check_place(&entry.name, partition)?;
        if entry.lanes.len() <= index {
            entry.lanes.resize(index + 1, None);
        }
        entry.lanes[index] = Some(self.lanes.len());
        self.lanes.push(Lane::new(entry.name.clone(), partition));
        Ok(self.lanes.len() - 1)
    }

    fn push(&mut self, topic: usize, partition: u16, record: &Record<'_>) -> Result<()> {
        self.send_due();
        self.check_failures()?;
        let index = self.lane(topic, partition)?;
        check_record(&self.topics[topic].name, partition, record)?;
        let raw = record.to_raw(now_ms);
        let (count, bytes) = (self.settings.max_records, self.settings.max_bytes);
        if !self.lanes[index].builder.is_empty() && !takes(&self.lanes[index].builder, &raw, count, bytes) {
            self.seal(index);
            self.advance();
            self.check_failures()?;
        }
        if self.settings.idempotent && self.lanes[index].next_seq.is_none() {
            let name = &self.topics[topic].name;
            self.lanes[index].next_seq = Some(self.settings.shared.high_water_mark(name, partition)?.saturating_add(1));
        }
        let lane = &mut self.lanes[index];
        lane.push(&raw)?;
        if lane.builder.count() == 1 {
            let due = Deadline::after(self.settings.max_age);
            lane.due = Some(due);
            self.next_due.get_or_insert(due);
        }
        if lane.builder.count() >= count || lane.builder.set_len() >= bytes {
            self.seal(index);
            self.advance();
        }
        Ok(())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let (pending, failed) = (self.pending(), self.ledger.failures.iter().map(Failure::count).sum::<usize>());
        if pending > 0 || failed > 0 {
            warn!("producer dropped with {pending} records not known to be stored, and {failed} that failed");
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("settings", &self.settings)
            .field("partitions", &self.lanes.len())
            .field("stored", &self.stored())
            .field("pending", &self.pending())
            .field("failures", &self.ledger.failures.len())
            .finish_non_exhaustive()
    }
}
