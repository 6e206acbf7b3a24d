//! [`Producer`]: collects records per partition and sends them in bundles.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use log::{debug, warn};

use super::builder::ProducerBuilder;
use super::failure::Failure;
use super::lane::{Lane, Ledger};
use super::link::{InFlight, Link};
use super::parcel::{check_place, check_record, now_ms, takes};
use super::patience::Verdict;
use super::publish::{MAX_ENTRIES, MAX_REQUEST};
use crate::consume::check_topic;
use crate::error::{Error, Fault, Phase, Result};
use crate::message::Record;
use crate::net::{BrokerAddr, Deadline, Interest, wait};
use crate::protocol::admin::PartitionState;
use crate::protocol::produce::{ProduceCode, ProducePartition, ProduceTopic};

/// How many sealed bundles of a partition may wait before a call blocks.
const MAX_WAITING: usize = 2;

/// Collects records per partition, and sends those of a partition as a bundle once they are many, large or old enough.
///
/// It has no thread: all of it happens within calls, which block only while too much is on its way or waits. Requests go out
/// without waiting for the answers to those before. Call [`flush`](Producer::flush) at the end, and whenever what was sent has
/// to be stored: dropping a producer neither sends nor waits, and logs how many records it drops.
///
/// The records of a partition are stored in the order in which they were given. What certainly was not stored is sent again
/// for as long as [`retry_timeout`](crate::ClientBuilder::retry_timeout) allows, as
/// [`publish`](crate::Client::publish) does, unless something behind it was stored meanwhile. What could not be stored, or
/// perhaps was, comes back: see [`take_failures`](Producer::take_failures).
///
/// ```no_run
/// # use tank_client::{Client, Record};
/// # let client = Client::connect("localhost")?;
/// let mut producer = client.producer().build()?;
/// for line in ["two pounds of tea", "milk"] {
///     producer.send("orders", Record::new(line.as_bytes()).key(b"customer 7"))?;
/// }
/// producer.flush()?;
/// # Ok::<(), tank_client::Error>(())
/// ```
pub struct Producer {
    settings: ProducerBuilder,
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, usize>,
    /// The topic used last.
    latest: usize,
    lanes: Vec<Lane>,
    /// Lanes with something waiting.
    ready: Vec<usize>,
    links: Vec<Link>,
    /// Not after the first lane is due.
    next_due: Option<Deadline>,
    ledger: Ledger,
    frame: Vec<u8>,
    codes: Vec<ProduceCode>,
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
                let states = self.settings.shared.partition_states(&topic.name)?;
                let partitions = u16::try_from(states.len()).unwrap_or(u16::MAX).max(1);
                topic.partitions = Some(partitions);
                partitions
            }
        };
        match self.settings.partitioner.partition(&topic.name, record.key_bytes(), partitions) {
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
            self.lanes[index].next_seq = Some(self.settings.shared.high_water_mark(name, partition)? + 1);
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

    /// Makes a bundle of what a lane has collected; blocks while too many wait already.
    fn seal(&mut self, index: usize) {
        while self.lanes[index].waiting.len() >= MAX_WAITING {
            self.advance();
            if self.lanes[index].waiting.len() >= MAX_WAITING {
                self.wait();
            }
        }
        let lane = &mut self.lanes[index];
        // It is empty too if a failure has just taken it along.
        if lane.builder.is_empty() {
            return;
        }
        if let Err(e) = lane.seal(&self.settings.options, &mut self.ledger) {
            warn!("{}/{}: {e}", lane.topic, lane.partition);
        }
        if !lane.is_ready {
            lane.is_ready = true;
            self.ready.push(index);
        }
    }

    /// Sends what is old enough.
    #[inline]
    fn send_due(&mut self) {
        if self.next_due.is_some_and(Deadline::has_passed) {
            self.next_due = None;
            for index in 0..self.lanes.len() {
                match self.lanes[index].due {
                    Some(due) if due.has_passed() => self.seal(index),
                    Some(due) => self.next_due = Some(self.next_due.map_or(due, |next| next.earlier(due))),
                    None => {}
                }
            }
            self.advance();
        }
    }

    /// Takes in answers and sends what may be sent, without waiting for anything but a new connection.
    fn advance(&mut self) {
        for index in 0..self.links.len() {
            self.take_answers(index);
        }
        while self.send_ready() {}
    }

    fn take_answers(&mut self, index: usize) {
        let limit = self.settings.shared.config.limits.frame;
        loop {
            self.codes.clear();
            let link = &mut self.links[index];
            match link.poll(limit, &mut self.codes) {
                Ok(Some(request)) => self.answered(&request),
                Ok(None) if link.deadline().has_passed() => {
                    let after = self.settings.shared.produce_timeout(&self.settings.options);
                    return self.lose(index, &Error::Timeout { phase: Phase::Wait, after });
                }
                Ok(None) => return,
                Err(e) => return self.lose(index, &e),
            }
        }
    }

    fn answered(&mut self, request: &InFlight) {
        let shared = &self.settings.shared;
        for (&lane, &code) in request.lanes.iter().zip(&self.codes) {
            let lane = &mut self.lanes[lane];
            let verdict = lane.judge(shared, request.request_id, code);
            lane.answered(shared, request.request_id, verdict, &mut self.ledger);
        }
        self.note_ready(&request.lanes);
    }

    /// What came back waits to be sent again.
    fn note_ready(&mut self, lanes: &[usize]) {
        for &index in lanes {
            let lane = &mut self.lanes[index];
            if !lane.is_ready && !lane.waiting.is_empty() {
                lane.is_ready = true;
                self.ready.push(index);
            }
        }
    }

    /// Gives up a link: what became of the requests on their way is unknown.
    fn lose(&mut self, index: usize, e: &Error) {
        let link = &mut self.links[index];
        warn!("{}: {e}", link.addr);
        if e.is_retryable() {
            self.settings.shared.cluster.failed(&link.addr);
        }
        for request in link.drop_connection() {
            for &lane in &request.lanes {
                let verdict = Verdict::Unknown(e.copy());
                let shared = &self.settings.shared;
                self.lanes[lane].answered(shared, request.request_id, verdict, &mut self.ledger);
            }
            self.note_ready(&request.lanes);
        }
    }

    /// Sends a request to each broker for which something waits; whether anything changed by that.
    fn send_ready(&mut self) -> bool {
        let mut groups: Vec<(BrokerAddr, Vec<usize>)> = Vec::new();
        for index in std::mem::take(&mut self.ready) {
            self.resolve(index);
            let lane = &mut self.lanes[index];
            lane.is_ready = !lane.waiting.is_empty();
            if !lane.is_ready {
                continue;
            }
            self.ready.push(index);
            if !lane.may_send() || lane.in_doubt {
                continue;
            }
            // Behind those on their way, whoever leads by now.
            let addr = match &lane.addr {
                Some(addr) => addr.clone(),
                None => self.settings.shared.cluster.broker_for(&lane.topic, lane.partition),
            };
            match groups.iter_mut().find(|(leader, _)| *leader == addr) {
                Some((_, lanes)) => lanes.push(index),
                None => groups.push((addr, vec![index])),
            }
        }
        let mut changed = false;
        for (addr, lanes) in groups {
            changed |= self.ship(addr, lanes);
        }
        changed
    }

    /// Finds out how much of a lane in doubt is stored.
    fn resolve(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if !lane.in_doubt || !lane.may_send() {
            return;
        }
        let shared = &self.settings.shared;
        let mark = shared.partition_states(&lane.topic).and_then(|states| {
            match states.get(usize::from(lane.partition)) {
                Some(&PartitionState::Marks { high_water_mark, .. }) => Ok(high_water_mark),
                Some(PartitionState::SystemError) => Err(Fault::System),
                Some(_) => Err(Fault::NoLeader),
                None => Err(Fault::UnknownPartition),
            }
            .map_err(|fault| Error::broker(&lane.topic, lane.partition, fault))
        });
        let (e, passing) = match mark {
            Ok(mark) if lane.reached(mark, &mut self.ledger) => {
                debug!("{}/{}: stored up to {mark}", lane.topic, lane.partition);
                lane.in_doubt = false;
                return;
            }
            Ok(_) => (Error::broker(&lane.topic, lane.partition, Fault::NotConfirmed), true),
            Err(e) => {
                let passing = e.is_retryable();
                (e, passing)
            }
        };
        if !passing || !lane.patience.wait(shared) {
            lane.give_up(e, &mut self.ledger);
        }
    }

    /// Sends a broker the first waiting bundle of each of these lanes; whether anything changed by that.
    fn ship(&mut self, addr: BrokerAddr, mut lanes: Vec<usize>) -> bool {
        let index = match self.links.iter().position(|link| link.addr == addr) {
            Some(index) => index,
            None => {
                self.links.push(Link::new(addr));
                self.links.len() - 1
            }
        };
        let shared = &self.settings.shared;
        let link = &mut self.links[index];
        if link.in_flight() >= self.settings.window {
            return false;
        }
        let sent = link.bring_up(shared).map_err(|e| (e, false)).and_then(|reused| {
            let request_id = shared.next_request_id();
            let topics = group(&self.lanes, &mut lanes);
            let options = &self.settings.options;
            let request = options.request(&shared.config.client_id, request_id, self.settings.idempotent, topics);
            self.frame.clear();
            request.encode(&mut self.frame).map_err(|e| (e.into(), false))?;
            let shape = request.shape().collect();
            let deadline = Deadline::after(shared.produce_timeout(options));
            let request = InFlight { request_id, lanes: lanes.clone(), shape, deadline };
            let sent = link.send(&self.frame, request, shared.config.io_timeout);
            sent.map(|()| request_id).map_err(|e| (e, reused))
        });
        match sent {
            Ok(request_id) => {
                for &lane in &lanes {
                    let lane = &mut self.lanes[lane];
                    lane.addr = Some(link.addr.clone());
                    lane.sent(request_id);
                }
            }
            Err((e, reused)) => {
                // Answers that came before the end count.
                self.take_answers(index);
                self.lose(index, &e);
                let addr = &self.links[index].addr;
                for &lane in &lanes {
                    let lane = &mut self.lanes[lane];
                    if !lane.patience.after_unsent(&self.settings.shared, addr, &e, reused) {
                        lane.give_up(e.copy(), &mut self.ledger);
                    }
                }
            }
        }
        true
    }

    /// Blocks until something can go on.
    fn wait(&self) {
        let mut deadline = Deadline::NEVER;
        for link in &self.links {
            deadline = deadline.earlier(link.deadline());
        }
        for &lane in &self.ready {
            deadline = deadline.earlier(self.lanes[lane].patience.pause().unwrap_or(Deadline::NEVER));
        }
        let interests: Vec<Interest<'_>> = self.links.iter().filter_map(Link::interest).collect();
        if interests.is_empty() && deadline == Deadline::NEVER {
            return;
        }
        if let Err(e) = wait(&interests, deadline) {
            warn!("waiting for answers: {e}");
        }
    }
}

/// The first waiting bundles of these lanes by topic, as many as a request takes; the others are dropped from `lanes`.
fn group<'a>(all: &'a [Lane], lanes: &mut Vec<usize>) -> Vec<ProduceTopic<'a>> {
    lanes.sort_by(|&a, &b| all[a].topic.cmp(&all[b].topic));
    let mut topics: Vec<ProduceTopic<'a>> = Vec::new();
    let mut bytes = 0;
    lanes.retain(|&index| {
        let lane = &all[index];
        let Some(bundle) = lane.waiting.front() else { return false };
        let (is_first, is_full) = (topics.is_empty(), topics.len() == MAX_ENTRIES);
        bytes += bundle.bytes.len();
        if !is_first && bytes > MAX_REQUEST {
            return false;
        }
        let first_seq = bundle.range.map_or(0, |(first, _)| first);
        let entry = ProducePartition { partition: lane.partition, first_seq, bundle: &bundle.bytes };
        match topics.last_mut() {
            Some(topic) if *topic.name == *lane.topic => {
                if topic.partitions.len() == MAX_ENTRIES {
                    return false;
                }
                topic.partitions.push(entry);
            }
            _ if is_full => return false,
            _ => topics.push(ProduceTopic { name: (&*lane.topic).into(), partitions: vec![entry] }),
        }
        true
    });
    topics
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
