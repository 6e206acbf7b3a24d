//! Publishing in one call: the same queues and the same driver as a producer's, until all is stored or not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::bundle::Spares;
use super::driver::Driver;
use super::leader::MAX_ENTRIES;
use super::queue::{Delivery, PartitionQueue};
use super::records::{MAX_SET, PartitionRecords, millis, most_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::net::{LookUp, Time};
use crate::protocol::bundle::MAX_MESSAGES;
use crate::session::Session;

/// As [`Client::publish`](crate::Client::publish), and [`Client::publish_at`](crate::Client::publish_at) with numbers.
pub(crate) fn publish(session: &Arc<Session>, given: &PartitionRecords<'_>) -> Result<()> {
    given.check()?;
    if given.is_numbered() {
        let (_, end) = session.log_end(given.topic, given.partition)?;
        given.check_numbers(end)?;
    }
    run(session, std::slice::from_ref(given))?.pop().unwrap_or(Ok(()))
}

/// As [`Client::publish_all`](crate::Client::publish_all).
pub(crate) fn publish_all(session: &Arc<Session>, given: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>> {
    let mut topics: HashMap<&str, HashSet<u16>> = HashMap::new();
    for records in given {
        records.check()?;
        let (topic, id) = (records.topic, records.partition);
        if !topics.entry(topic).or_default().insert(id) {
            return Err(Error::config(format!("{topic}/{id}: given twice")));
        }
    }
    let most = topics.values().map(HashSet::len).max().unwrap_or(0);
    if topics.len().max(most) > MAX_ENTRIES {
        let given = format!("{} topics with up to {most} partitions each", topics.len());
        return Err(Error::config(format!("publish: {given} given, {MAX_ENTRIES} of either allowed")));
    }
    run(session, given)
}

/// What one call publishes to a partition.
struct Job<'a> {
    given: &'a PartitionRecords<'a>,
    /// Records stored: the next bundle begins after them.
    stored: usize,
    outcome: Option<Result<()>>,
}

/// Publishes all of them; a result for each, in their order.
fn run(session: &Arc<Session>, given: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>> {
    let options = session.config.publish;
    let numbered = given.iter().any(PartitionRecords::is_numbered);
    let mut driver = Driver::new(session.clone(), options, 1, numbered);
    let policy = session.leader_policy();
    let queue = |given: &PartitionRecords<'_>| {
        PartitionQueue::new(given.topic.into(), given.partition, options.compression, None, policy)
    };
    let mut queues: Vec<PartitionQueue> = given.iter().map(queue).collect();
    let mut jobs: Vec<Job<'_>> = given.iter().map(|given| Job { given, stored: 0, outcome: None }).collect();
    let mut spares = Spares::default();
    loop {
        let mut has_more = false;
        for (index, (job, queue)) in jobs.iter_mut().zip(&mut queues).enumerate() {
            if job.outcome.is_none() && queue.is_idle() {
                job.give_next(session, queue, &mut spares)?;
                driver.wake(index);
                has_more = true;
            }
        }
        if jobs.iter().all(|job| job.outcome.is_some()) {
            return Ok(jobs.into_iter().map(|job| job.outcome.unwrap_or(Ok(()))).collect());
        }
        let waited = if has_more { Ok(()) } else { driver.wait(&queues, Time::NEVER) };
        match waited {
            Ok(()) => {
                for (index, delivery) in driver.step(&mut queues, LookUp::Allowed)? {
                    jobs[index].take_in(delivery, &mut spares);
                }
            }
            // If waiting was ended, or this machine cannot wait, what is in flight is in doubt.
            Err(e) => jobs.iter_mut().zip(&queues).for_each(|(job, queue)| {
                let unknown = |e| Error::unknown(job.given.topic, job.given.partition, e);
                job.fail(if queue.is_in_flight() { unknown(e.clone()) } else { e.clone() });
            }),
        }
    }
}

impl Job<'_> {
    /// Gives the queue the next bundle, once the one before is stored.
    fn give_next(&self, session: &Session, queue: &mut PartitionQueue, spares: &mut Spares) -> Result<()> {
        let now_ms = millis(session.net.wall());
        for (seq, record) in (self.stored..).map_while(|index| self.given.records.get(index)) {
            let raw = record.to_raw(|| now_ms);
            if !queue.takes(most_bytes(&raw), MAX_MESSAGES, MAX_SET) {
                break;
            }
            queue.push(seq, &raw, spares)?;
        }
        queue.seal(spares)
    }

    fn take_in(&mut self, (bundle, outcome): Delivery, spares: &mut Spares) {
        match outcome {
            Ok(()) => {
                self.stored += bundle.count as usize;
                spares.put_buffer(bundle.memory);
                if self.stored == self.given.records.len() {
                    self.outcome = Some(Ok(()));
                }
            }
            Err(e) => self.fail(e),
        }
    }

    fn fail(&mut self, e: Error) {
        let partly = ErrorKind::PartlyStored { stored: self.stored };
        self.outcome.get_or_insert(Err(match self.stored {
            0 => e,
            _ => Error::new(partly).about(self.given.topic, self.given.partition).because(e),
        }));
    }
}
