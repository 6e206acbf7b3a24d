//! [`Producer`]: collects records per partition and sends them in bundles.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, mem};

use log::warn;

use super::builder::ProducerBuilder;
use super::driver::{Driver, PartitionCount};
use super::queue::Excess;
use super::records::{Failure, WallClock, check_partition, check_record, max_bytes_of};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Record, check_topic};
use crate::net::{LookUp, Time};
use crate::session::partition_count;

/// While something is in flight, calls look for answers at least this often.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The largest piece of memory to keep, in bytes.
const MAX_SPARE: usize = 1 << 20;

/// A full partition that has made no progress for this long does not make callers wait: they may have records for others.
const STALLED: Duration = Duration::from_millis(500);

/// Collects records by partition, and sends a partition's records as a bundle once they are many, large or old enough.
///
/// It has no thread: everything happens within calls. [`poll`](Producer::poll) never blocks. [`send`](Producer::send) blocks
/// only while the producer [holds too much](ProducerBuilder::max_pending_bytes), or until it knows how many partitions a new
/// topic has. Requests are sent without waiting for the answers to earlier ones. A bundle that must wait for a connection or
/// for its partition's leader is sent by a later call and does not delay bundles for other brokers.
///
/// Call [`flush`](Producer::flush) at the end, and whenever you need to know that everything is stored. Dropping a producer
/// neither sends nor waits: it gives up what is in flight, and logs how many records it drops.
///
/// The records of a partition are stored in the order in which they were given. A bundle that was certainly not stored is
/// retried for up to [`retry_timeout`](crate::ClientBuilder::retry_timeout), as by [`publish`](crate::Client::publish). If a
/// later bundle of its partition was stored in the meantime, it is not retried, because that would change the order: it
/// becomes a failure. Records that were not stored, or may not have been, come back: see
/// [`retry_failures`](Producer::retry_failures), [`take_failures`](Producer::take_failures) and [the
/// guide](crate::guide::publishing).
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
/// A forked child cannot use its parent's producer: calls that use the network, such as every [`flush`](Producer::flush),
/// return [`Config`](crate::ErrorKind::Config). A `send` that only collects its record does not notice.
pub struct Producer {
    settings: ProducerBuilder,
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, usize>,
    /// The topic that was used last.
    latest: usize,
    driver: Driver,
    /// The partitions that have collected records, each once, by when these must be sent.
    collecting: BTreeSet<(Time, usize)>,
    /// When the records collected last for each partition must be sent, or had to be.
    send_by: Vec<Time>,
    wall: WallClock,
    /// The process that made it.
    process: u32,
    /// When a call must do more than take its record: at the latest when the first collected record is due.
    next_step: Time,
}

struct Topic {
    name: Arc<str>,
    /// The index of its number of partitions in the driver, once that was asked for.
    count: Option<usize>,
    /// The index in the driver of each partition that is used.
    partitions: Vec<Option<usize>>,
    /// The partition whose turn it is.
    turn: u16,
}

impl ProducerBuilder {
    /// Creates the producer. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) for a setting out of its range.
    pub fn build(self) -> Result<Producer> {
        self.check()?;
        let mut driver = Driver::new(&self.session, self.options, self.window, self.idempotent);
        // A piece counts at its full capacity once it is used again, and most of the limit must be left for other partitions.
        driver.spares.largest = MAX_SPARE.min(self.max_pending_bytes / 32);
        Ok(Producer {
            driver,
            process: self.session.net.process(),
            settings: self,
            topics: Vec::new(),
            by_name: HashMap::new(),
            latest: 0,
            collecting: BTreeSet::new(),
            send_by: Vec::new(),
            wall: WallClock::default(),
            next_step: Time::NEVER,
        })
    }
}

impl Producer {
    /// Accepts a record for the partition that the [`Partitioner`](crate::Partitioner) chooses. The first record of a topic
    /// waits until the number of its partitions is known. They are counted again whenever a connection was lost.
    ///
    /// Apart from that, it blocks only while the producer holds more than [it may](ProducerBuilder::max_pending_bytes), or this
    /// partition more than its quarter, and at most for [`retry_timeout`](crate::ClientBuilder::retry_timeout). If only this
    /// partition is full, and it is in trouble or has made no progress for half a second, the call returns
    /// [`Full`](crate::ErrorKind::Full) at once, so that you can send to other partitions. It does wait if the producer has no
    /// other partitions.
    ///
    /// # Errors
    /// Any error means that this record was not accepted. [`Config`](crate::ErrorKind::Config) or
    /// [`BundleTooLarge`](crate::ErrorKind::BundleTooLarge) for a record that cannot be sent;
    /// [`Full`](crate::ErrorKind::Full) if there was no room for it in time; [`Undelivered`](crate::ErrorKind::Undelivered)
    /// while [failures](Producer::failures) wait to be retried or taken out; [`Broker`](crate::ErrorKind::Broker) if the
    /// topic is unknown; otherwise a [network error](crate::guide::errors#network-errors).
    pub fn send(&mut self, topic: &str, record: Record<'_>) -> Result<()> {
        let topic = self.topic(topic)?;
        let partition = self.choose(topic, &record)?;
        self.push(topic, partition, &record)
    }

    /// Accepts a record for this partition.
    ///
    /// # Errors
    /// Those of [`send`](Producer::send), except that an unknown topic or partition comes back as a failure.
    pub fn send_to(&mut self, topic: &str, partition: u16, record: Record<'_>) -> Result<()> {
        let topic = self.topic(topic)?;
        self.push(topic, partition, &record)
    }

    /// Sends what is due and handles the answers that have arrived. Never blocks, and never looks up a host name: it connects
    /// to the addresses that were found last.
    ///
    /// # Errors
    /// [`Undelivered`](crate::ErrorKind::Undelivered) while [failures](Producer::failures) wait to be sent again or taken out.
    pub fn poll(&mut self) -> Result<()> {
        self.send_due(self.settings.session.now(), LookUp::Never)?;
        self.check_failures()
    }

    /// Sends everything that was collected, and waits until every record is stored or has failed. A record in trouble fails
    /// when [`retry_timeout`](crate::ClientBuilder::retry_timeout) is over.
    ///
    /// # Errors
    /// [`Undelivered`](crate::ErrorKind::Undelivered) while [failures](Producer::failures) wait to be sent again or taken
    /// out. All other records are stored. [`Closed`](crate::ErrorKind::Closed) if the client's
    /// [handle](crate::ClientBuilder::close_with) is closed. If it was closed before the call, nothing is sent; the outcome
    /// of what was in flight is unknown. The producer keeps its records.
    pub fn flush(&mut self) -> Result<()> {
        if self.settings.session.is_closed() {
            return Err(Error::new(ErrorKind::Closed));
        }
        self.send_due(Time::NEVER, LookUp::Allowed)?;
        // Once idle, a queue stays so.
        for index in 0..self.driver.destinations.len() {
            while !self.driver.destinations[index].queue.is_idle() {
                self.driver.wait(Time::NEVER)?;
                self.step(LookUp::Allowed)?;
            }
        }
        self.check_failures()
    }

    /// Queues the [`failures`](Producer::failures) for which `again` returns `true` once more, in their order and ahead of
    /// all other records of their partitions. Returns the others, which the producer forgets.
    ///
    /// `|_| true` means *at least once*: records that [may be stored](Failure::is_unknown) may then be stored twice. (An
    /// [idempotent](ProducerBuilder::idempotent) producer stores them exactly once.) `|failure| !failure.is_unknown()` means
    /// *at most once*.
    ///
    /// ```no_run
    /// # use tank_client::{Client, Error, ErrorKind, Producer};
    /// /// Gives up after three attempts.
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
        let (again, dropped): (Vec<_>, Vec<_>) = mem::take(&mut self.driver.failures).into_iter().partition(again);
        for failure in again {
            self.driver.take_back(failure.queue, failure.bundle);
        }
        // The failures of a partition have come together.
        for failures in dropped.chunk_by(|a, b| a.queue == b.queue) {
            let bundles = failures.iter().map(|failure| &failure.bundle);
            self.driver.destinations[failures[0].queue].queue.dropped(bundles);
        }
        dropped
    }

    /// Returns the records that were not stored, or may not have been, with the reason, in their order within each partition.
    /// While there are any, the producer accepts no further record.
    ///
    /// When records of a partition fail, all later ones that are not stored come back with them, so that all can be retried
    /// in order. Those that were never sent have [`NotSent`](crate::ErrorKind::NotSent) as their reason.
    pub fn failures(&self) -> &[Failure] {
        &self.driver.failures
    }

    /// Takes out the [`failures`](Producer::failures): the producer forgets them.
    #[must_use = "records that failed are lost with it"]
    pub fn take_failures(&mut self) -> Vec<Failure> {
        self.retry_failures(|_| false)
    }

    /// Returns how many records are known to be stored.
    pub fn stored(&self) -> u64 {
        self.driver.destinations.iter().map(|destination| destination.stored).sum()
    }

    /// Returns how many of the accepted records are neither stored nor have failed.
    pub fn pending(&self) -> u64 {
        self.driver.destinations.iter().map(|destination| destination.queue.pending()).sum()
    }

    /// Returns the index of the topic with this name.
    #[inline]
    fn topic(&mut self, name: &str) -> Result<usize> {
        match self.topics.get(self.latest) {
            Some(topic) if *topic.name == *name => Ok(self.latest),
            _ => self.other_topic(name),
        }
    }

    #[cold]
    fn other_topic(&mut self, name: &str) -> Result<usize> {
        self.latest = match self.by_name.get(name) {
            Some(&index) => index,
            None => {
                check_topic(name)?;
                let name: Arc<str> = name.into();
                self.by_name.insert(name.clone(), self.topics.len());
                self.topics.push(Topic { name, count: None, partitions: Vec::new(), turn: 0 });
                self.topics.len() - 1
            }
        };
        Ok(self.latest)
    }

    fn choose(&mut self, topic: usize, record: &Record<'_>) -> Result<u16> {
        let topic = &mut self.topics[topic];
        let index = match topic.count {
            Some(index) => index,
            None => {
                let states = self.settings.session.discover(&topic.name)?.states;
                let count = partition_count(&states).max(1);
                self.driver.counts.push(PartitionCount { topic: topic.name.clone(), count });
                *topic.count.insert(self.driver.counts.len() - 1)
            }
        };
        let partitions = self.driver.counts[index].count;
        match self.settings.partitioner.partition(&topic.name, record.get_key(), partitions) {
            None => {
                let partition = topic.turn % partitions;
                topic.turn = (partition + 1) % partitions;
                Ok(partition)
            }
            Some(partition) if partition < partitions => Ok(partition),
            Some(partition) => Err(Error::config(format!(
                "{}: the partitioner chose {partition} of {partitions} partitions",
                topic.name
            ))),
        }
    }

    /// Returns the index of a partition in the driver.
    #[inline]
    fn index(&mut self, topic: usize, partition: u16) -> Result<usize> {
        match self.topics[topic].partitions.get(usize::from(partition)) {
            Some(&Some(index)) => Ok(index),
            _ => self.add_partition(topic, partition),
        }
    }

    #[cold]
    fn add_partition(&mut self, topic: usize, partition: u16) -> Result<usize> {
        let topic = &mut self.topics[topic];
        check_partition(&topic.name, partition)?;
        let index = self.driver.add(topic.name.clone(), partition, self.settings.idempotent);
        self.send_by.push(Time::ZERO);
        topic.partitions.resize(topic.partitions.len().max(usize::from(partition) + 1), None);
        Ok(*topic.partitions[usize::from(partition)].insert(index))
    }

    #[inline(always)]
    fn push(&mut self, topic: usize, partition: u16, record: &Record<'_>) -> Result<()> {
        let net = &*self.settings.session.net;
        // A record with a time stamp needs no exact time, which would cost more than everything else here.
        let now = if record.get_timestamp_ms().is_some() { net.coarse_now() } else { net.now() };
        if now >= self.next_step {
            self.send_due(now, LookUp::Allowed)?;
        }
        if !self.driver.failures.is_empty() {
            return self.check_failures();
        }
        let index = self.index(topic, partition)?;
        let mut queue = &mut self.driver.destinations[index].queue;
        check_record(&queue.topic, partition, record)?;
        let raw = record.to_raw(|| self.wall.millis(now, &*self.settings.session.net));
        let most = max_bytes_of(&raw);
        if !queue.has_room(most) {
            self.make_room(index, most)?;
            queue = &mut self.driver.destinations[index].queue;
        }
        queue.push(None, &raw)?;
        let (collected, len) = queue.collected();
        if collected == 1 {
            self.start_bundle(index, now);
        }
        if collected >= self.settings.max_records || len >= self.settings.max_bytes {
            self.seal(index)?;
            self.step(LookUp::Allowed)?;
        }
        Ok(())
    }

    /// Makes room for a record of this many bytes: sends what is collected if the record does not fit in, and waits if all limits
    /// are reached.
    #[cold]
    fn make_room(&mut self, index: usize, bytes: usize) -> Result<()> {
        if !self.driver.destinations[index].queue.takes(bytes, self.settings.max_records, self.settings.max_bytes) {
            self.seal(index)?;
            self.step(LookUp::Allowed)?;
            self.check_failures()?;
        }
        let limit = self.settings.max_pending_bytes;
        let give_up = self.settings.session.now().after(self.settings.session.config.retry_timeout);
        while self.driver.destinations[index].queue.excess(self.driver.pending_bytes, bytes, limit).is_some() {
            // Records that are only collected would never make room.
            self.send_due(Time::NEVER, LookUp::Allowed)?;
            self.check_failures()?;
            let destination = &self.driver.destinations[index];
            let queue = &destination.queue;
            let excess = queue.excess(self.driver.pending_bytes, bytes, limit);
            let Some(Excess { pending, limit, of_all }) = excess else { break };
            let until = if of_all || self.driver.destinations.len() == 1 {
                give_up
            } else if queue.is_in_trouble() {
                Time::ZERO
            } else {
                give_up.min(destination.progressed.after(STALLED))
            };
            if self.settings.session.now() >= until {
                return Err(Error::new(ErrorKind::Full { pending, limit }).about(&queue.topic, queue.partition));
            }
            self.driver.wait(until)?;
        }
        let queue = &mut self.driver.destinations[index].queue;
        queue.make_room(bytes, self.settings.max_bytes, limit, &mut self.driver.spares);
        self.driver.recount(index);
        Ok(())
    }

    /// Sends what must be sent by `due`, and looks for answers.
    fn send_due(&mut self, due: Time, look_up: LookUp) -> Result<()> {
        self.next_step = Time::NEVER;
        while let Some(&(send_by, index)) = self.collecting.first() {
            if send_by > due {
                self.next_step = send_by;
                break;
            }
            self.seal(index)?;
        }
        self.step(look_up)
    }

    /// Begins a bundle, which must be sent once its first record is old enough.
    fn start_bundle(&mut self, index: usize, now: Time) {
        let send_by = now.after(self.settings.max_age);
        let before = mem::replace(&mut self.send_by[index], send_by);
        // It is there if what was collected has failed together with earlier records.
        self.collecting.remove(&(before, index));
        self.collecting.insert((send_by, index));
        self.next_step = self.next_step.min(send_by);
    }

    /// Ends a bundle, which a step then sends.
    fn seal(&mut self, index: usize) -> Result<()> {
        self.collecting.remove(&(self.send_by[index], index));
        self.driver.seal(index)
    }

    /// Lets the driver continue, and notes the outcomes.
    fn step(&mut self, look_up: LookUp) -> Result<()> {
        let (made, here) = (self.process, self.settings.session.net.process());
        if made != here {
            let reason = "which was forked: its records are that process's";
            return Err(Error::config(format!("a producer of process {made} is used in process {here}, {reason}")));
        }
        self.driver.step(look_up);
        if self.driver.is_busy() {
            self.next_step = self.next_step.min(self.driver.last_step.after(POLL_INTERVAL));
        }
        Ok(())
    }

    fn check_failures(&self) -> Result<()> {
        // What may be stored comes first: sending it again, as one may do with the others, could store it twice.
        let Some(first) = self.failures().iter().min_by_key(|failure| !failure.is_unknown()) else { return Ok(()) };
        let records = self.failures().iter().map(Failure::count).sum();
        Err(Error::new(ErrorKind::Undelivered { records }).because(first.error.clone()))
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let (pending, failed) = (self.pending(), self.failures().iter().map(Failure::count).sum::<usize>());
        if pending > 0 || failed > 0 {
            warn!("producer dropped: records not known to be stored: {pending}, failed: {failed}");
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Driver { destinations, pending_bytes, failures, .. } = &self.driver;
        let mut shown = f.debug_struct("Producer");
        shown
            .field("partitions", &destinations.len())
            .field("stored", &self.stored())
            .field("pending", &self.pending());
        shown.field("pending_bytes", pending_bytes).field("failures", &failures.len()).finish_non_exhaustive()
    }
}
