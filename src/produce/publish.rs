//! Publishing in one call: the same queues and the same driver as a producer's, until all is stored or not.

use std::sync::Arc;

use super::bundle::{Bundle, Spares};
use super::driver::Driver;
use super::queue::{Delivery, PartitionQueue, Sealing};
use super::records::{PartitionRecords, Records, millis};
use super::request::MAX_ENTRIES;
use crate::error::{Error, Result};
use crate::net::{LookUp, Time};
use crate::session::Session;

/// As [`Client::publish`](crate::Client::publish).
pub(crate) fn publish(session: &Arc<Session>, given: &PartitionRecords<'_>) -> Result<()> {
    given.check()?;
    run(session, std::slice::from_ref(given))?.pop().unwrap_or(Ok(()))
}

/// As [`Client::publish_all`](crate::Client::publish_all).
pub(crate) fn publish_all(session: &Arc<Session>, given: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>> {
    let mut topics: Vec<(&str, Vec<u16>)> = Vec::new();
    for records in given {
        records.check()?;
        let (topic, id) = (records.topic, records.partition);
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
    run(session, given)
}

/// As [`Client::publish_at`](crate::Client::publish_at).
pub(crate) fn publish_at(session: &Arc<Session>, given: &PartitionRecords<'_>) -> Result<()> {
    given.check()?;
    let (_, end) = session.log_end(given.topic, given.partition, None)?;
    given.check_numbers(end)?;
    run(session, std::slice::from_ref(given))?.pop().unwrap_or(Ok(()))
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
        let changed = std::mem::take(&mut driver.changed);
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
            // If waiting was ended, or this machine cannot wait, what is in flight is in doubt.
            if let Err(e) = driver.wait(&queues, Time::NEVER) {
                for (job, queue) in jobs.iter_mut().zip(&queues) {
                    let unknown = |e| Error::unknown(job.given.topic, job.given.partition, e);
                    job.fail(if queue.in_flight.is_empty() { e.clone() } else { unknown(e.clone()) });
                }
            }
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
            Delivery::Failed(_, e) => self.fail(Arc::unwrap_or_clone(e)),
            Delivery::Gap(..) => {}
        }
    }

    fn fail(&mut self, e: Error) {
        let (topic, partition, stored) = (self.given.topic.to_owned(), self.given.partition, self.stored);
        self.outcome.get_or_insert(Err(match stored {
            0 => e,
            _ => Error::PartlyStored { topic, partition, stored, source: Box::new(e) },
        }));
    }
}
