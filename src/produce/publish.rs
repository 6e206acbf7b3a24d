//! Publishing in one call: with the queues and the driver of a producer, until every record is stored or has failed.

use std::mem;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Mutex};

use super::driver::{Destination, Driver};
use super::records::{MAX_SET, PartitionRecords, max_bytes_of, millis};
use crate::error::{Error, ErrorKind, Result};
use crate::net::{LookUp, Time, locked};
use crate::protocol::bundle::MAX_MESSAGES;
use crate::protocol::cursor::sorted;
use crate::session::Session;

/// At most this many drivers are kept, each with at most this many partitions and leaders, and a few pieces of memory up to this size.
const MAX_IDLE_DRIVERS: usize = 8;
const MAX_IDLE_PARTITIONS: usize = 8;
const MAX_IDLE_PIECE: usize = 128 << 10;

/// What the publishing calls of a client share: the drivers that calls without trouble leave to later ones, so that these need not
/// allocate everything again. They hold no connection.
#[derive(Default)]
pub(crate) struct Publisher(Mutex<Vec<Driver>>);

/// Implemented by [`Publisher`]. A client knows no more of it, so that only programs that publish contain a driver's code.
pub(crate) trait Publish: Send + Sync + UnwindSafe + RefUnwindSafe {
    /// As [`Client::publish_all`](crate::Client::publish_all).
    fn publish_all(&self, session: &Arc<Session>, all: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>>;
}

impl Publish for Publisher {
    fn publish_all(&self, session: &Arc<Session>, all: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>> {
        if session.is_closed() {
            return Err(Error::new(ErrorKind::Closed));
        }
        for records in all {
            records.check()?;
            if records.is_numbered() {
                records.check_numbers(session.log_end(records.topic, records.partition)?.high_water_mark)?;
            }
        }
        // An idle driver may be a parent process's.
        session.pool.settings.look_at_process();
        let numbered = all.iter().any(PartitionRecords::is_numbered);
        let idle = if numbered { None } else { locked(&self.0).pop() };
        // A queue has one bundle at a time, so that any number of requests keeps the order.
        let mut driver = idle.unwrap_or_else(|| Driver::new(session, session.config.publish, usize::MAX, numbered));
        driver.spares.largest = MAX_IDLE_PIECE;
        let known = driver.destinations.iter().map(|known| (&*known.queue.topic, known.queue.partition));
        if known.eq(all.iter().map(|given| (given.topic, given.partition))) {
            for destination in &mut driver.destinations {
                destination.stored = 0;
            }
        } else {
            let partitions = sorted(&mut all.iter().map(|given| (given.topic, given.partition.into())));
            if let Some([((topic, id), _), ..]) = partitions.windows(2).find(|two| two[0].0 == two[1].0) {
                return Err(Error::config(format!("{topic}/{id}: given twice")));
            }
            driver.clear();
            for given in all {
                driver.add(given.topic.into(), given.partition, false);
            }
        }
        let outcomes = drive(session, &mut driver, all)?;
        driver.release();
        let mut idle = locked(&self.0);
        let is_small = all.len() <= MAX_IDLE_PARTITIONS && driver.leaders.len() <= MAX_IDLE_PARTITIONS;
        if !numbered && is_small && idle.len() < MAX_IDLE_DRIVERS && outcomes.iter().all(Result::is_ok) {
            idle.push(driver);
        }
        Ok(outcomes)
    }
}

/// Sends all records, and waits until each is stored or has failed. Returns a result for each partition.
fn drive(session: &Session, driver: &mut Driver, given: &[PartitionRecords<'_>]) -> Result<Vec<Result<()>>> {
    let mut failed: Vec<Option<Error>> = vec![None; given.len()];
    loop {
        let (mut has_more, mut is_done) = (false, true);
        for (index, given) in given.iter().enumerate().filter(|(index, _)| failed[*index].is_none()) {
            let destination = &driver.destinations[index];
            let left = destination.stored < given.len() as u64;
            if left && destination.queue.is_idle() {
                give_next(session, driver, index, given)?;
                has_more = true;
            }
            is_done &= !left;
        }
        if is_done {
            let of =
                |(e, destination): (Option<Error>, &Destination)| e.map_or(Ok(()), |e| Err(partly(destination, e)));
            return Ok(failed.into_iter().zip(&driver.destinations).map(of).collect());
        }
        let waited = if has_more { Ok(()) } else { driver.wait(Time::NEVER) };
        match waited {
            Ok(()) => driver.step(LookUp::Allowed),
            // If the wait was ended, or this machine cannot wait, the outcome of what is in flight is unknown.
            Err(e) => {
                for (Destination { queue, .. }, failed) in driver.destinations.iter().zip(&mut failed) {
                    if queue.is_in_flight() {
                        failed.get_or_insert(Error::unknown(&queue.topic, queue.partition, e.clone()));
                    } else if !queue.is_idle() {
                        failed.get_or_insert(e.clone());
                    }
                }
            }
        }
        for failure in mem::take(&mut driver.failures) {
            failed[failure.queue].get_or_insert(failure.error);
        }
    }
}

/// Gives a queue the next bundle of its records once the previous one is stored.
fn give_next(session: &Session, driver: &mut Driver, index: usize, given: &PartitionRecords<'_>) -> Result<()> {
    let now_ms = millis(session.net.wall());
    let Destination { queue, stored, .. } = &mut driver.destinations[index];
    queue.ensure_buffer(&mut driver.spares);
    for (seq, record) in (*stored as usize..).map_while(|next| given.get(next)) {
        let raw = record.to_raw(|| now_ms);
        if !queue.takes(max_bytes_of(&raw), MAX_MESSAGES, MAX_SET) {
            break;
        }
        queue.push(seq, &raw)?;
    }
    driver.seal(index)
}

/// Returns the error for a partition of which some records may be stored.
fn partly(destination: &Destination, e: Error) -> Error {
    match (destination.stored as usize, &destination.queue) {
        (0, _) => e,
        (stored, queue) => {
            Error::new(ErrorKind::PartlyStored { stored }).about(&queue.topic, queue.partition).because(e)
        }
    }
}
