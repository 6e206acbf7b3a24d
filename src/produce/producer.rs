//! [`Producer`]: collects records per partition and sends them in bundles.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, mem};

use log::{info, warn};

use super::builder::ProducerBuilder;
use super::bundle::{Bundle, Spares, Unpacked};
use super::driver::Driver;
use super::numbering::Numbering;
use super::queue::PartitionQueue;
use super::records::{WallClock, check_place, check_record, most_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Record, check_topic};
use crate::net::{LookUp, Time};

/// While something is in flight, a call looks for answers at least this often.
const LOOK: Duration = Duration::from_millis(5);

/// A full partition that makes no progress for this long does not make callers wait: they may have records for others.
const STALLED: Duration = Duration::from_millis(500);

/// Collects records per partition, and sends those of a partition as a bundle once they are many, large or old enough.
///
/// It has no thread: everything happens within calls. [`poll`](Producer::poll) never blocks, and [`send`](Producer::send) only
/// while the producer [holds too much](ProducerBuilder::max_pending_bytes). Requests go out without waiting for the answers to
/// earlier ones. What must wait for a connection, or for a partition's leader, is sent by a later call, and delays nothing
/// that goes to other brokers. Call [`flush`](Producer::flush) at the end, and whenever you need to know that everything is
/// stored: dropping a producer neither sends nor waits, gives up what is in flight, and logs how many records it drops.
///
/// The records of a partition are stored in the order in which they were given. What certainly was not stored is sent again
/// for up to [`retry_timeout`](crate::ClientBuilder::retry_timeout), as [`publish`](crate::Client::publish) does, unless
/// something after it was stored meanwhile. Records that were not stored, or may not have been, come back: see
/// [`retry_failures`](Producer::retry_failures), [`take_failures`](Producer::take_failures) and
/// [the guide](crate::guide::publishing).
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
///
/// A forked child cannot use the producer of its parent: calls return [`Config`](crate::ErrorKind::Config).
pub struct Producer {
    settings: ProducerBuilder,
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, usize>,
    /// The topic used last.
    latest: usize,
    queues: Vec<PartitionQueue>,
    driver: Driver,
    spares: Spares,
    wall: WallClock,
    /// When a call must look at more than its record: at the latest when the first collected record is due.
    next_look: Time,
    /// Bytes of all records that are neither stored nor have failed.
    pending_bytes: usize,
    stored: u64,
    failures: Vec<Failure>,
}

struct Topic {
    name: Arc<str>,
    /// How many partitions it has, if that was asked for.
    partitions: Option<u16>,
    /// Queues by partition.
    queues: Vec<Option<usize>>,
    /// Whose turn it is among the partitions.
    turn: u16,
}

impl ProducerBuilder {
    /// Creates the producer. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) for a setting out of its range.
    pub fn build(self) -> Result<Producer> {
        self.check()?;
        Ok(Producer {
            driver: Driver::new(self.session.clone(), self.options, self.window, self.idempotent),
            settings: self,
            topics: Vec::new(),
            by_name: HashMap::new(),
            latest: 0,
            queues: Vec::new(),
            spares: Spares::default(),
            wall: WallClock::default(),
            next_look: Time::NEVER,
            pending_bytes: 0,
            stored: 0,
            failures: Vec::new(),
        })
    }
}

impl Producer {
    /// Takes a record for the partition that the [`Partitioner`](crate::Partitioner) chooses. The first record of a topic waits
    /// until the topic's partitions are known; they are counted again whenever a connection was lost.
    ///
    /// Blocks only while the producer holds more than [it may](ProducerBuilder::max_pending_bytes), or this partition more than
    /// its quarter, and for [`retry_timeout`](crate::ClientBuilder::retry_timeout) at most. If this partition is full and the
    /// producer is not, it does not wait once the partition is in trouble or has made no progress for half a second: it
    /// returns [`Full`](crate::ErrorKind::Full), so that you can send to other partitions.
    ///
    /// # Errors
    /// Any error means that this record was not taken. [`Config`](crate::ErrorKind::Config) or
    /// [`BundleTooLarge`](crate::ErrorKind::BundleTooLarge) for a record that cannot be sent; [`Full`](crate::ErrorKind::Full)
    /// if there was no room for it in time; [`Undelivered`](crate::ErrorKind::Undelivered) while [failures](Producer::failures)
    /// wait to be sent again or taken out; [`Broker`](crate::ErrorKind::Broker) if the topic is unknown; otherwise as
    /// [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    pub fn send(&mut self, topic: &str, record: Record<'_>) -> Result<()> {
        let topic = self.topic(topic)?;
        let partition = self.choose(topic, &record)?;
        self.push(topic, partition, &record)
    }

    /// Takes a record for this partition.
    ///
    /// # Errors
    /// As [`send`](Producer::send), except that an unknown topic or partition comes back as a failure.
    pub fn send_to(&mut self, topic: &str, partition: u16, record: Record<'_>) -> Result<()> {
        let topic = self.topic(topic)?;
        self.push(topic, partition, &record)
    }

    /// Sends what is due and takes in the answers that have arrived. Never blocks, and never looks up a host name.
    ///
    /// # Errors
    /// [`Undelivered`](crate::ErrorKind::Undelivered) while [failures](Producer::failures) wait to be sent again or taken out.
    pub fn poll(&mut self) -> Result<()> {
        let now = self.settings.session.now();
        self.look(now, now, LookUp::Never)?;
        self.check_failures()
    }

    /// Sends everything that was collected and waits until every record is stored or has failed. A record in trouble fails
    /// when [`retry_timeout`](crate::ClientBuilder::retry_timeout) is over.
    ///
    /// # Errors
    /// [`Undelivered`](crate::ErrorKind::Undelivered) while [failures](Producer::failures) wait to be sent again or taken out.
    /// All other records are stored. [`Closed`](crate::ErrorKind::Closed) if it had to wait and the client's
    /// [handle](crate::ClientBuilder::close_with) is closed; the producer keeps its records.
    pub fn flush(&mut self) -> Result<()> {
        self.look(self.settings.session.now(), Time::NEVER, LookUp::Allowed)?;
        while !self.queues.iter().all(PartitionQueue::is_idle) {
            self.driver.wait(&self.queues, Time::NEVER)?;
            self.step(LookUp::Allowed)?;
        }
        self.check_failures()
    }

    /// Queues those [`failures`](Producer::failures) again for which `again` returns `true`, in their order and before
    /// everything else of their partitions. Returns the others, which the producer forgets.
    ///
    /// `|_| true` is *at least once*: records that [may be stored](Failure::is_unknown) may then be stored twice, unless the
    /// producer is [idempotent](ProducerBuilder::idempotent), which stores them exactly once.
    /// `|failure| !failure.is_unknown()` is *at most once*.
    ///
    /// ```no_run
    /// # use tank_client::{Client, Error, ErrorKind, Producer};
    /// /// Gives up after three tries.
    /// fn flush(producer: &mut Producer) -> Result<(), Error> {
    ///     for _ in 0..3 {
    ///         match producer.flush() {
    ///             Err(Error { kind: ErrorKind::Undelivered { .. }, .. }) => producer.retry_failures(|_| true),
    ///             done => return done,
    ///         };
    ///     }
    ///     producer.flush()
    /// }
    /// ```
    pub fn retry_failures(&mut self, again: impl FnMut(&Failure) -> bool) -> Vec<Failure> {
        let (again, dropped): (Vec<_>, Vec<_>) = mem::take(&mut self.failures).into_iter().partition(again);
        for failure in again {
            self.pending_bytes += failure.bundle.size;
            self.driver.wake(failure.queue);
            self.queues[failure.queue].take_back(failure.bundle);
        }
        // Those of a partition have come together.
        for failures in dropped.chunk_by(|a, b| a.queue == b.queue) {
            self.queues[failures[0].queue].dropped(failures.iter().map(|failure| &failure.bundle));
        }
        dropped
    }

    /// Returns the records that were not stored, or may not have been, with the reason, in their order within each partition.
    /// While there are any, the producer takes no further record.
    ///
    /// When records of a partition fail, all later ones that are not stored come back with them, so that all can be sent
    /// again in order. Those that were never sent have [`NotSent`](crate::ErrorKind::NotSent) as their reason.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Takes out the [`failures`](Producer::failures): the producer forgets them.
    #[must_use = "records that failed are lost with it"]
    pub fn take_failures(&mut self) -> Vec<Failure> {
        self.retry_failures(|_| false)
    }

    /// Returns how many records are known to be stored.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Returns how many records were taken that are not stored yet and have not failed.
    pub fn pending(&self) -> u64 {
        self.queues.iter().map(PartitionQueue::pending).sum()
    }
}

/// Taking a record.
impl Producer {
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
                self.topics.push(Topic { name, partitions: None, queues: Vec::new(), turn: 0 });
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
                let (_, states) = self.settings.session.discover(&topic.name)?;
                let partitions = u16::try_from(states.len()).unwrap_or(u16::MAX).max(1);
                *topic.partitions.insert(partitions)
            }
        };
        match self.settings.partitioner.partition(&topic.name, record.get_key(), partitions) {
            None => {
                let partition = topic.turn % partitions;
                topic.turn = (partition + 1) % partitions;
                Ok(partition)
            }
            Some(partition) if partition < partitions => Ok(partition),
            Some(partition) => {
                let name = &topic.name;
                Err(Error::config(format!("{name}: the partitioner chose {partition} of {partitions} partitions")))
            }
        }
    }

    #[inline]
    fn queue(&mut self, topic: usize, partition: u16) -> Result<usize> {
        match self.topics[topic].queues.get(usize::from(partition)) {
            Some(&Some(queue)) => Ok(queue),
            _ => self.new_queue(topic, partition),
        }
    }

    fn new_queue(&mut self, topic: usize, partition: u16) -> Result<usize> {
        let (topic, index) = (&mut self.topics[topic], usize::from(partition));
        check_place(&topic.name, partition)?;
        if topic.queues.len() <= index {
            topic.queues.resize(index + 1, None);
        }
        let (compression, policy) = (self.settings.options.compression, self.settings.session.leader_policy());
        let numbering = self.settings.idempotent.then(Numbering::default);
        self.queues.push(PartitionQueue::new(topic.name.clone(), partition, compression, numbering, policy));
        Ok(*topic.queues[index].insert(self.queues.len() - 1))
    }

    #[inline]
    fn push(&mut self, topic: usize, partition: u16, record: &Record<'_>) -> Result<()> {
        let now = self.settings.session.now();
        if now >= self.next_look {
            self.look(now, now, LookUp::Allowed)?;
        }
        self.check_failures()?;
        let index = self.queue(topic, partition)?;
        check_record(&self.topics[topic].name, partition, record)?;
        let raw = record.to_raw(|| self.wall.millis(now, &*self.settings.session.net));
        let (records, bytes, most) = (self.settings.max_records, self.settings.max_bytes, most_bytes(&raw));
        let mut queue = &mut self.queues[index];
        let has_room = queue.excess(self.pending_bytes, most, self.settings.max_pending_bytes).is_none();
        if !queue.takes(most, records, bytes) || !has_room {
            self.make_room(index, most, now)?;
            queue = &mut self.queues[index];
        }
        let (collected, len, added) = queue.push(None, &raw, &mut self.spares)?;
        self.pending_bytes += added;
        if collected == 1 {
            queue.send_by = now.after(self.settings.max_age);
            self.next_look = self.next_look.min(queue.send_by);
        }
        if collected >= records || len >= bytes {
            self.send_collected(index, now)?;
        }
        Ok(())
    }

    /// Sends what is collected if a record of this many bytes does not fit in, and waits until there is room for it.
    #[cold]
    fn make_room(&mut self, index: usize, bytes: usize, now: Time) -> Result<()> {
        if !self.queues[index].takes(bytes, self.settings.max_records, self.settings.max_bytes) {
            self.send_collected(index, now)?;
            self.check_failures()?;
        }
        let limit = self.settings.max_pending_bytes;
        if self.queues[index].excess(self.pending_bytes, bytes, limit).is_none() {
            return Ok(());
        }
        let give_up = self.settings.session.now().after(self.settings.session.config.retry_timeout);
        loop {
            // What is merely collected would never make room.
            self.look(self.settings.session.now(), Time::NEVER, LookUp::Allowed)?;
            self.check_failures()?;
            let excess = self.queues[index].excess(self.pending_bytes, bytes, limit);
            let Some((pending, limit, is_all)) = excess else { return Ok(()) };
            let queue = &self.queues[index];
            let until = match is_all || self.queues.len() == 1 {
                true => give_up,
                false if queue.is_in_trouble() => Time::ZERO,
                false => give_up.min(queue.progressed.after(STALLED)),
            };
            if self.settings.session.now() >= until {
                return Err(Error::new(ErrorKind::Full { pending, limit }).about(&queue.topic, queue.partition));
            }
            self.driver.wait(&self.queues, until)?;
        }
    }
}

/// Sending.
impl Producer {
    /// Makes a bundle of what a partition has collected.
    fn seal(&mut self, index: usize, now: Time) -> Result<()> {
        let queue = &mut self.queues[index];
        if queue.is_idle() {
            queue.progressed = now;
        }
        queue.seal(&mut self.spares)?;
        self.driver.wake(index);
        Ok(())
    }

    fn send_collected(&mut self, index: usize, now: Time) -> Result<()> {
        self.seal(index, now)?;
        self.step(LookUp::Allowed)
    }

    /// Sends what must be sent by `due`, and looks for answers.
    fn look(&mut self, now: Time, due: Time, look_up: LookUp) -> Result<()> {
        self.next_look = Time::NEVER;
        for index in 0..self.queues.len() {
            if self.queues[index].collected().0 > 0 && self.queues[index].send_by <= due {
                self.seal(index, now)?;
            }
            self.next_look = self.next_look.min(self.queues[index].send_by);
        }
        self.step(look_up)
    }

    /// Lets the driver continue, and takes in what became of the records.
    fn step(&mut self, look_up: LookUp) -> Result<()> {
        let deliveries = self.driver.step(&mut self.queues, look_up)?;
        let now = self.driver.stepped;
        for (index, (bundle, outcome)) in deliveries {
            let queue = &mut self.queues[index];
            queue.progressed = now;
            self.pending_bytes -= bundle.size;
            match outcome {
                Ok(()) => {
                    self.stored += u64::from(bundle.count);
                    self.spares.put_buffer(bundle.memory);
                }
                Err(error) => {
                    let (topic, partition, unpacked) = (queue.topic.clone(), queue.partition, OnceLock::new());
                    self.failures.push(Failure { topic, partition, bundle, error, queue: index, unpacked });
                }
            }
        }
        for (name, count) in mem::take(&mut self.driver.counts) {
            let Some(topic) = self.by_name.get(&name).map(|&topic| &mut self.topics[topic]) else { continue };
            let count = u16::try_from(count).unwrap_or(u16::MAX);
            if let Some(before) = topic.partitions.filter(|before| count > 0 && *before != count) {
                info!("{name}: {count} partitions, {before} before");
                topic.partitions = Some(count);
            }
        }
        if mem::take(&mut self.driver.connection_lost) {
            let counted = self.topics.iter().filter(|topic| topic.partitions.is_some());
            self.driver.uncounted = counted.map(|topic| topic.name.clone()).collect();
        }
        if self.driver.is_busy() {
            self.next_look = self.next_look.min(now.after(LOOK));
        }
        Ok(())
    }

    #[inline]
    fn check_failures(&self) -> Result<()> {
        match self.failures.first() {
            None => Ok(()),
            Some(first) => {
                let records = self.failures.iter().map(Failure::count).sum();
                Err(Error::new(ErrorKind::Undelivered { records }).because(first.error.clone()))
            }
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let (pending, failed) = (self.pending(), self.failures.iter().map(Failure::count).sum::<usize>());
        if pending > 0 || failed > 0 {
            warn!("producer dropped: {pending} records are not known to be stored, and {failed} have failed");
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Producer");
        shown.field("partitions", &self.queues.len()).field("stored", &self.stored).field("pending", &self.pending());
        shown.field("pending_bytes", &self.pending_bytes).field("failures", &self.failures.len());
        shown.finish_non_exhaustive()
    }
}

/// Records of a partition that a [`Producer`](crate::Producer) could not store, or may have stored, as they were given to it,
/// and why.
///
/// It holds the bundle as it would be sent; [`records`](Failure::records) decodes it.
pub struct Failure {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
    pub(super) bundle: Bundle,
    pub(super) error: Error,
    /// Its queue.
    pub(super) queue: usize,
    pub(super) unpacked: OnceLock<Unpacked>,
}

impl Failure {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition of the topic.
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// The reason: [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown) if they may be stored all the same; with any other
    /// error they are not.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Returns whether they may be stored all the same: all of them or none. In a cluster, a new leader may have only the
    /// first of them.
    pub fn is_unknown(&self) -> bool {
        self.error.kind == ErrorKind::OutcomeUnknown
    }

    /// Returns the number of records.
    pub fn count(&self) -> usize {
        self.bundle.count as usize
    }

    /// Returns the records, in the order in which they were given, each with its time stamp.
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        let (set, entries) = self.unpacked.get_or_init(|| {
            // It was encoded here, so it decodes.
            let unpacked = self.bundle.unpack().unwrap_or_default();
            debug_assert_eq!(unpacked.1.len(), self.count());
            unpacked
        });
        entries.iter().map(|entry| {
            let record = Record::new(&set[entry.payload()]).timestamp_ms(entry.timestamp_ms);
            entry.key().map_or(record, |key| record.key(&set[key]))
        })
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("records", &self.count())
            .field("error", &self.error)
            .finish()
    }
}
