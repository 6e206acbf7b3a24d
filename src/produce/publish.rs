//! Publishing in one call: bundles to their leaders, and what became of each.

use std::borrow::Cow;
use std::time::Duration;

use super::options::Options;
use super::parcel::{PartitionRecords, Records, check_place, now_ms};
use super::patience::{Patience, Verdict};
use crate::client::Client;
use crate::consume::await_marks;
use crate::error::{Error, Result};
use crate::message::Record;
use crate::net::BrokerAddr;
use crate::net::old::check_request_id;
use crate::net::old::{Deadline, sleep};
use crate::protocol::bundle::BundleBuilder;
use crate::protocol::frame::Kind;
use crate::protocol::produce::{CLIENT_VERSION, ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use crate::session::Session as Shared;

/// The most topics in a request, and partitions of one.
pub(super) const MAX_ENTRIES: usize = 255;

/// A request takes no further bundle beyond so many bytes.
pub(super) const MAX_REQUEST: usize = 64 << 20;

impl Client {
    /// Publishes records to a partition, as one bundle (a Produce request), and waits until they are stored.
    ///
    /// More than 65,535 records, or more than 32 MiB of them, take several bundles, which are sent one after the other.
    /// Of each bundle all records are stored or none.
    ///
    /// What certainly was not stored is tried again where that can help, within
    /// [`retry_timeout`](crate::ClientBuilder::retry_timeout): the broker cannot be reached or broke off before it had the
    /// whole request, another node leads the partition, none does, or too few replicas are in sync.
    ///
    /// ```no_run
    /// # use tank_client::{Client, Record};
    /// # let client = Client::connect("localhost")?;
    /// client.publish("orders", 0, &[Record::new("two pounds of tea").key("customer 7"), Record::new("milk")])?;
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// * Not stored: [`Error::Config`] or [`Error::BundleTooLarge`] for what cannot be sent; [`Error::Broker`] if the
    ///   topic or partition is unknown, read-only or without a leader, or too few replicas are in sync; otherwise as
    ///   [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    /// * Perhaps stored: [`Error::OutcomeUnknown`], if the request was sent and the answer is lost, or says that the broker
    ///   had trouble while it wrote, or that too few replicas confirmed in time. It is never sent again: that could store
    ///   the records twice.
    /// * Partly stored: [`Error::PartlyStored`], if there were several bundles and not the first of them failed.
    pub fn publish(&self, topic: &str, partition: u16, records: &[Record<'_>]) -> Result<()> {
        let parcel = PartitionRecords::new(topic, partition, records);
        parcel.check()?;
        self.publish_parcel(&parcel)
    }

    /// Publishes records to several partitions, of any topics, and waits until all are stored or not: a result for
    /// each partition, in the order given.
    ///
    /// All that is for the same broker goes there in one request, as far as it fits into 64 MiB. Partitions do not depend
    /// on each other: some may be stored while others fail.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::BundleTooLarge`], before anything is sent, if some of the records cannot be sent, two
    /// lists are for the same partition, or there are more than 255 topics or more than 255 partitions of one. The result of a
    /// partition is as that of [`publish`](Client::publish).
    pub fn publish_all(&self, parcels: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>> {
        let mut topics: Vec<(&str, Vec<u16>)> = Vec::new();
        for parcel in parcels {
            parcel.check()?;
            let (topic, id) = (parcel.topic, parcel.partition);
            match topics.iter_mut().find(|(name, _)| *name == topic) {
                Some((_, ids)) if ids.contains(&id) => {
                    return Err(Error::config(format!("{topic}/{id}: given twice")));
                }
                Some((_, ids)) => ids.push(id),
                None => topics.push((topic, vec![id])),
            }
        }
        let most = topics.iter().map(|(_, ids)| ids.len()).max().unwrap_or(0);
        if topics.len() > MAX_ENTRIES || most > MAX_ENTRIES {
            let given = format!("{} topics with up to {most} partitions each", topics.len());
            return Err(Error::config(format!("publish: {given} given, {MAX_ENTRIES} of either allowed")));
        }
        Ok(Publication::new(&self.session, parcels).run())
    }

    /// Publishes records with sequence numbers of their own, which grow from record to record and may leave gaps (a
    /// ProduceWithSeqnum request): what it takes to copy a partition.
    ///
    /// The numbers must lie above the partition's high-water mark, which is asked for first; one writer at a time only,
    /// therefore. Numbers that would kill a server are refused as far as that can be known: 2^31 or more above the mark,
    /// unless the partition is empty, or above the first one of the call. A segment that has grown over so many numbers by
    /// several calls cannot be known.
    ///
    /// # Errors
    /// [`Error::Broker`] with [`Fault::SeqNotAbove`](crate::Fault::SeqNotAbove) or
    /// [`Fault::SeqTooFar`](crate::Fault::SeqTooFar) for numbers that the partition does not take;
    /// otherwise as [`publish`](Client::publish). After [`Error::OutcomeUnknown`] the high-water mark tells what was
    /// stored: a bundle is stored whole or not at all, and no number twice.
    pub fn publish_at(&self, topic: &str, partition: u16, records: &[(u64, Record<'_>)]) -> Result<()> {
        let parcel = PartitionRecords { topic, partition, records: Records::Numbered(records) };
        parcel.check()?;
        parcel.check_numbers(self.session.high_water_mark(topic, partition)?)?;
        self.publish_parcel(&parcel)
    }

    fn publish_parcel(&self, parcel: &PartitionRecords<'_>) -> Result<()> {
        let outcome = Publication::new(&self.session, std::slice::from_ref(parcel)).run().pop();
        outcome.unwrap_or(Ok(()))
    }
}

impl Shared {
    /// A partition's high-water mark, once it has a leader.
    pub(crate) fn high_water_mark(&self, topic: &str, partition: u16) -> Result<u64> {
        check_place(topic, partition)?;
        await_marks(self, topic, partition).map(|(_, high_water_mark)| high_water_mark)
    }

    /// How long to wait for the answer to a produce request.
    pub(super) fn produce_timeout(&self, options: &Options) -> Duration {
        self.config.io_timeout.saturating_add(options.ack_timeout)
    }
}

/// Records of several partitions on their way.
struct Publication<'a> {
    shared: &'a Shared,
    options: Options,
    jobs: Vec<Job<'a>>,
    builder: BundleBuilder,
    frame: Vec<u8>,
}

struct Job<'a> {
    parcel: &'a PartitionRecords<'a>,
    /// Records stored.
    stored: usize,
    /// The next bundle, and how many records it holds.
    bundle: Vec<u8>,
    records: usize,
    first_seq: u64,
    patience: Patience,
    outcome: Option<Result<()>>,
}

impl<'a> Publication<'a> {
    fn new(shared: &'a Shared, parcels: &'a [PartitionRecords<'a>]) -> Publication<'a> {
        let job = |parcel| Job {
            parcel,
            stored: 0,
            bundle: Vec::new(),
            records: 0,
            first_seq: 0,
            patience: Patience::default(),
            outcome: None,
        };
        let jobs = parcels.iter().map(job).collect();
        let options = shared.config.publish;
        Publication { shared, options, jobs, builder: BundleBuilder::new(), frame: Vec::new() }
    }

    fn run(mut self) -> Vec<Result<()>> {
        while self.jobs.iter().any(|job| job.outcome.is_none()) {
            match self.next_group() {
                Ok((addr, group)) => self.exchange(&addr, &group),
                Err(pause) => sleep(pause.left().unwrap_or_default()),
            }
        }
        self.jobs.into_iter().map(|job| job.outcome.unwrap_or(Ok(()))).collect()
    }

    /// The jobs that can go to the same broker now, topic by topic; or when the next can go.
    fn next_group(&mut self) -> std::result::Result<(BrokerAddr, Vec<usize>), Deadline> {
        let mut pause = Deadline::NEVER;
        let mut leader = None;
        let mut group = Vec::new();
        let mut bytes = 0;
        for (index, job) in self.jobs.iter_mut().enumerate().filter(|(_, job)| job.outcome.is_none()) {
            if let Some(until) = job.patience.pause() {
                pause = pause.earlier(until);
                continue;
            }
            let addr = self.shared.book.broker_for(job.parcel.topic, job.parcel.partition);
            if *leader.get_or_insert_with(|| addr.clone()) != addr {
                continue;
            }
            if let Err(e) = job.load(&self.options, &mut self.builder) {
                job.end(Err(e));
                continue;
            }
            bytes += job.bundle.len();
            if group.is_empty() || bytes <= MAX_REQUEST {
                group.push(index);
            }
        }
        group.sort_by_key(|&index| self.jobs[index].parcel.topic);
        leader.map(|addr| (addr, group)).ok_or(pause)
    }

    /// Sends a request with these jobs' bundles and takes in its answer.
    fn exchange(&mut self, addr: &BrokerAddr, group: &[usize]) {
        if group.is_empty() {
            return;
        }
        let request_id = self.shared.next_request_id();
        let mut topics: Vec<ProduceTopic<'_>> = Vec::new();
        for job in group.iter().map(|&index| &self.jobs[index]) {
            let entry =
                ProducePartition { partition: job.parcel.partition, first_seq: job.first_seq, bundle: &job.bundle };
            match topics.last_mut() {
                Some(topic) if topic.name == job.parcel.topic => topic.partitions.push(entry),
                _ => topics.push(ProduceTopic { name: job.parcel.topic.into(), partitions: vec![entry] }),
            }
        }
        let with_seqnum = group.iter().any(|&index| self.jobs[index].first_seq != 0);
        let request = self.options.request(&self.shared.config.client_id, request_id, with_seqnum, topics);
        let shape: Vec<usize> = request.shape().collect();
        self.frame.clear();
        if let Err(e) = request.encode(&mut self.frame) {
            group.iter().for_each(|&index| self.jobs[index].end(Err(e.into())));
            return;
        }
        let timeout = self.shared.produce_timeout(&self.options);
        let codes = match self.shared.old_pool.exchange(addr, &self.frame, Kind::Produce, timeout) {
            Ok(payload) => check_request_id(&payload, request_id)
                .and_then(|()| ProduceResponse::decode(&payload, shape))
                .map(|answer| answer.codes)
                .map_err(|e| Error::decode(addr, e)),
            Err(failed) if failed.sent => Err(failed.error),
            Err(failed) => {
                for &index in group {
                    let job = &mut self.jobs[index];
                    if !job.patience.after_unsent(self.shared, addr, &failed.error, failed.reused) {
                        job.end(Err(failed.error.clone()));
                    }
                }
                return;
            }
        };
        match codes {
            Ok(codes) => {
                for (&index, code) in group.iter().zip(codes) {
                    let job = &mut self.jobs[index];
                    let PartitionRecords { topic, partition, .. } = *job.parcel;
                    let verdict = job.patience.judge(self.shared, addr, topic, partition, job.first_seq, code);
                    job.answered(verdict);
                }
            }
            Err(e) => {
                if e.is_retryable() {
                    self.shared.book.failed(addr, self.shared.now());
                }
                group.iter().for_each(|&index| self.jobs[index].answered(Verdict::Unknown(e.clone())));
            }
        }
    }
}

impl Job<'_> {
    /// Makes the next bundle, unless there is one.
    fn load(&mut self, options: &Options, builder: &mut BundleBuilder) -> Result<()> {
        if self.bundle.is_empty() {
            self.records = self.parcel.fill(self.stored, now_ms(), builder)?;
            self.first_seq = options.seal(builder, &mut self.bundle)?;
        }
        Ok(())
    }

    fn answered(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Stored => {
                self.stored += self.records;
                self.bundle.clear();
                if self.stored == self.parcel.records.len() {
                    self.outcome = Some(Ok(()));
                }
            }
            Verdict::NotYet(_) => {}
            Verdict::Refused(e) => self.end(Err(e)),
            Verdict::Unknown(e) => {
                let PartitionRecords { topic, partition, .. } = *self.parcel;
                self.end(Err(Error::unknown(topic, partition, e)));
            }
        }
    }

    fn end(&mut self, outcome: Result<()>) {
        let PartitionRecords { topic, partition, .. } = *self.parcel;
        let stored = self.stored;
        let partly = |e| Error::PartlyStored { topic: topic.to_owned(), partition, stored, source: Box::new(e) };
        self.outcome = Some(outcome.map_err(|e| if stored > 0 { partly(e) } else { e }));
    }
}

impl Options {
    /// A request with these bundles.
    pub(super) fn request<'a>(
        &self,
        client_id: &'a str,
        request_id: u32,
        with_seqnum: bool,
        topics: Vec<ProduceTopic<'a>>,
    ) -> ProduceRequest<'a> {
        ProduceRequest {
            client_version: CLIENT_VERSION,
            request_id,
            client_id: Cow::Borrowed(client_id),
            required_acks: self.required_acks(),
            ack_timeout_ms: self.ack_timeout_ms(),
            with_seqnum,
            topics,
        }
    }
}
