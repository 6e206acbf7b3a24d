//! Publishing in one call: with the queues and the driver of a producer, until every record is stored or has failed.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use super::driver::Driver;
use super::queue::PartitionQueue;
use super::records::{MAX_SET, PartitionRecords, millis, most_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::net::{LookUp, Time};
use crate::protocol::bundle::MAX_MESSAGES;
use crate::session::Session;

/// As [`Client::publish`](crate::Client::publish), and [`Client::publish_at`](crate::Client::publish_at) with numbers.
pub(crate) fn publish(session: &Arc<Session>, given: &PartitionRecords<'_>) -> Result<()> {
    publish_all(session, std::slice::from_ref(given))?.pop().unwrap_or(Ok(()))
}

/// As [`Client::publish_all`](crate::Client::publish_all).
pub(crate) fn publish_all(session: &Arc<Session>, given: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>> {
    let mut places = HashSet::new();
    for records in given {
        records.check()?;
        let (topic, id) = (records.topic, records.partition);
        if !places.insert((topic, id)) {
            return Err(Error::config(format!("{topic}/{id}: given twice")));
        }
        if !records.numbered.is_empty() {
            records.check_numbers(session.log_end(topic, id)?.1)?;
        }
    }
    let numbered = given.iter().any(|given| !given.numbered.is_empty());
    // A queue has one bundle at a time, so that any number of requests keeps the order.
    let mut driver = Driver::new(session.clone(), session.config.publish, usize::MAX, numbered);
    given.iter().for_each(|given| _ = driver.add(given.topic.into(), given.partition, None));
    let mut failed: Vec<Option<Error>> = vec![None; given.len()];
    loop {
        let (mut has_more, mut is_done) = (false, true);
        for (index, given) in given.iter().enumerate().filter(|(index, _)| failed[*index].is_none()) {
            let left = driver.queues[index].stored < given.len() as u64;
            if left && driver.queues[index].is_idle() {
                give_next(session, &mut driver, index, given)?;
                has_more = true;
            }
            is_done &= !left;
        }
        if is_done {
            let outcome = |(e, queue): (Option<Error>, &PartitionQueue)| e.map_or(Ok(()), |e| Err(partly(queue, e)));
            return Ok(failed.into_iter().zip(&driver.queues).map(outcome).collect());
        }
        let waited = if has_more { Ok(()) } else { driver.wait(Time::NEVER) };
        match waited {
            Ok(()) => driver.step(LookUp::Allowed)?,
            // If the wait was ended, or this machine cannot wait, the outcome of what is in flight is unknown.
            Err(e) => {
                for (queue, failed) in driver.queues.iter().zip(&mut failed).filter(|(queue, _)| !queue.is_idle()) {
                    let unknown = Error::unknown(&queue.topic, queue.partition, e.clone());
                    failed.get_or_insert(if queue.is_in_flight() { unknown } else { e.clone() });
                }
            }
        }
        for failure in mem::take(&mut driver.failures) {
            failed[failure.queue].get_or_insert(failure.error);
        }
    }
}

/// Gives a queue the next bundle of its records once the previous one is stored.
fn give_next(session: &Session, driver: &mut Driver, queue: usize, given: &PartitionRecords<'_>) -> Result<()> {
    let now_ms = millis(session.net.wall());
    for (seq, record) in (driver.queues[queue].stored as usize..).map_while(|index| given.get(index)) {
        let raw = record.to_raw(|| now_ms);
        if !driver.queues[queue].takes(most_bytes(&raw), MAX_MESSAGES, MAX_SET) {
            break;
        }
        driver.queues[queue].push(seq, &raw, &mut driver.spares)?;
    }
    driver.seal(queue)
}

/// Returns the error for a partition of which some records may be stored.
fn partly(queue: &PartitionQueue, e: Error) -> Error {
    match queue.stored as usize {
        0 => e,
        stored => Error::new(ErrorKind::PartlyStored { stored }).about(&queue.topic, queue.partition).because(e),
    }
}
