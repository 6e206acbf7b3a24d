//! Publishing in one call: the same queues and the same driver as a producer's, until all is stored or not.

use std::sync::Arc;

use super::bundle::{Bundle, Spares};
use super::driver::Driver;
use super::queue::{Delivery, PartitionQueue, Sealing};
use super::records::{PartitionRecords, Records, millis};
use super::request::MAX_ENTRIES;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::message::Record;
use crate::net::{LookUp, Time};
use crate::session::Session;

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
        self.publish_one(&parcel)
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
        run(&self.session, parcels)
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
        parcel.check_numbers(self.session.log_end(topic, partition, None)?.last)?;
        self.publish_one(&parcel)
    }

    fn publish_one(&self, parcel: &PartitionRecords<'_>) -> Result<()> {
        let outcome = run(&self.session, std::slice::from_ref(parcel))?.pop();
        outcome.unwrap_or(Ok(()))
    }
}

/// What one call publishes to a partition.
struct Job<'a> {
    given: &'a PartitionRecords<'a>,
    /// Records sealed, and stored.
    sealed: usize,
    stored: usize,
    outcome: Option<Result<()>>,
}

/// Publishes all of them; a result for each, in their order.
fn run(session: &Arc<Session>, given: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>> {
    let options = session.config.publish;
    let numbered = given.iter().any(|given| matches!(given.records, Records::Numbered(_)));
    let mut driver = Driver::new(session.clone(), options, 1, numbered);
    let how = Sealing { compression: options.compression, numbering: false };
    let policy = session.leader_policy();
    let queue = |given: &PartitionRecords<'_>| PartitionQueue::new(given.topic.into(), given.partition, how, policy);
    let mut queues: Vec<PartitionQueue> = given.iter().map(queue).collect();
    let mut jobs: Vec<Job<'_>> = given.iter().map(|given| Job { given, sealed: 0, stored: 0, outcome: None }).collect();
    let mut spares = Spares::default();
    for (index, (job, queue)) in jobs.iter_mut().zip(&mut queues).enumerate() {
        job.give_next(session, queue, &mut spares)?;
        driver.wake(index);
    }
    loop {
        driver.step(&mut queues, LookUp::Allowed)?;
        let changed = driver.take_changed();
        let mut has_more = false;
        for index in changed {
            let (job, queue) = (&mut jobs[index], &mut queues[index]);
            while let Some(delivery) = queue.outcome() {
                job.take_in(delivery, &mut spares);
            }
            if job.outcome.is_none() && queue.is_idle() {
                job.give_next(session, queue, &mut spares)?;
                driver.wake(index);
                has_more = true;
            }
        }
        if jobs.iter().all(|job| job.outcome.is_some()) {
            return Ok(jobs.into_iter().map(|job| job.outcome.unwrap_or(Ok(()))).collect());
        }
        if !has_more {
            driver.wait(&queues, Time::NEVER)?;
        }
    }
}

impl Job<'_> {
    /// Gives the queue the next bundle, once the one before is stored.
    fn give_next(&mut self, session: &Session, queue: &mut PartitionQueue, spares: &mut Spares) -> Result<()> {
        let mut builder = spares.builder();
        self.sealed += self.given.fill(self.sealed, millis(session.net.wall()), &mut builder)?;
        queue.enqueue(Bundle::seal(&mut builder, spares.buffer(), queue.how.compression, false)?);
        spares.put_builder(builder);
        Ok(())
    }

    fn take_in(&mut self, delivery: Delivery, spares: &mut Spares) {
        match delivery {
            Delivery::Stored(bundle) => {
                self.stored = self.sealed;
                spares.put_buffer(bundle.bytes);
                if self.stored == self.given.records.len() {
                    self.outcome = Some(Ok(()));
                }
            }
            Delivery::Failed(_, e) => {
                let PartitionRecords { topic, partition, .. } = *self.given;
                let (topic, stored) = (topic.to_owned(), self.stored);
                let e = Arc::unwrap_or_clone(e);
                self.outcome.get_or_insert(Err(match stored {
                    0 => e,
                    _ => Error::PartlyStored { topic, partition, stored, source: Box::new(e) },
                }));
            }
            Delivery::Gap(..) => {}
        }
    }
}
