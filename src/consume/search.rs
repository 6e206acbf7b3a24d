//! Finding a time in a partition.

use std::sync::Arc;
use std::time::SystemTime;

use super::iter::ConsumeIter;
use super::partition::Partition;
use super::subscription::{OutOfRange, Subscription};
use crate::error::Result;
use crate::message::{TopicPartition, millis_at_or_after};
use crate::session::{Marks, Session};

/// Bytes to ask for with each probe, of which the first bundle is looked at, or the first small ones.
const PROBE_SIZE: u32 = 4 << 10;

/// The number of the first message at or after a time, given the first available number and the high-water mark; that
/// mark + 1 if there is none.
pub(super) fn seq_at(
    session: &Arc<Session>,
    name: &TopicPartition,
    (first_available, high_water_mark): Marks,
    time: SystemTime,
) -> Result<u64> {
    let wanted = millis_at_or_after(time);
    let end = high_water_mark.saturating_add(1);
    // No message from `high` to below `found` is there, and `found` is late enough or the end; what lies below `low`
    // is too early.
    let (mut low, mut high, mut found) = (first_available.max(1), end, end);
    if low >= high {
        return Ok(end);
    }
    let all = Subscription::partition(&*name.topic, name.partition).fetch_size(PROBE_SIZE);
    // A log that became shorter meanwhile is read from its beginning instead.
    let all = all.out_of_range(OutOfRange::Earliest).beyond_end(OutOfRange::Earliest);
    let mut all = all.stop_at_seq(high_water_mark).stop_at_end();
    // The next probe is elsewhere.
    all.options.prefetch = false;
    let place = Partition::new(name.clone(), low, Some((first_available, high_water_mark)), &all.options);
    let mut probes = ConsumeIter::new(session, all, vec![place], &[], session.is_cluster());
    while low < high {
        let middle = low + (high - low) / 2;
        let batch = probes.batch_at(middle)?;
        let batch = batch.filter(|batch| batch.get(0).is_some_and(|message| (middle..high).contains(&message.seq())));
        let Some(batch) = batch else {
            high = middle;
            continue;
        };
        let late_enough = batch.iter().position(|message| message.timestamp_ms() >= wanted);
        let seq = |index: usize| batch.get(index).map_or(end, |message| message.seq());
        match late_enough {
            Some(0) => (high, found) = (middle, seq(0)),
            // The one before it is too early.
            Some(index) => return Ok(seq(index)),
            None => low = seq(batch.len() - 1) + 1,
        }
    }
    Ok(found)
}
