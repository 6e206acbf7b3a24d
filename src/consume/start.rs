//! From what is wanted to where each partition begins.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::iter::ConsumeIter;
use super::search::seq_at;
use super::subscription::{Subscription, Wanted, check_topic};
use super::tracks::{Track, Tracks};
use crate::client::{Client, Shared};
use crate::error::{Error, Fault, Result};
use crate::message::{Source, Start};
use crate::net::{Deadline, sleep};
use crate::protocol::admin::PartitionState;

/// Finds the partitions, works out where each begins, and starts the iterator.
pub(crate) fn subscribe(client: &Client, subscription: Subscription) -> Result<ConsumeIter> {
    subscription.check()?;
    let shared = &client.shared;
    let mut partitions = Vec::new();
    let mut topics: Vec<(Arc<str>, Vec<PartitionState>)> = Vec::new();
    let kept = subscription.resume.iter().map(|position| ((&*position.topic, position.partition), position.seq));
    let kept: HashMap<(&str, u16), u64> = kept.collect();
    for Wanted { topic, partition, start } in &subscription.wanted {
        let start = start.unwrap_or(subscription.start);
        let index = match topics.iter().position(|(known, _)| **known == **topic) {
            Some(index) => index,
            None => {
                topics.push((topic.as_str().into(), shared.partition_states(topic)?));
                topics.len() - 1
            }
        };
        let (topic, states) = &mut topics[index];
        let count = u16::try_from(states.len()).unwrap_or(u16::MAX);
        let ids = match *partition {
            None => 0..count,
            Some(id) if id < count => id..id + 1,
            Some(id) => return Err(Error::broker(topic, id, Fault::UnknownPartition)),
        };
        for id in ids {
            let resumed = kept.get(&(&**topic, id)).copied();
            let start = resumed.map_or(start, Start::At);
            if matches!(start, Start::Latest | Start::Time(_)) {
                await_marks(shared, topic, id, states)?;
            }
            let (first_available, mark) = match states[usize::from(id)] {
                PartitionState::Marks { first_available, high_water_mark } => (first_available, Some(high_water_mark)),
                _ => (0, None),
            };
            let position = match start {
                Start::Earliest => 0,
                Start::At(seq) => seq,
                Start::Latest => mark.unwrap_or(0).saturating_add(1),
                Start::Time(time) => seq_at(shared, topic, id, (first_available, mark.unwrap_or(0)), time)?,
            };
            let mut track = Track::new(position, first_available, mark, &subscription.options);
            track.resumed = resumed.is_some();
            partitions.push((Source { topic: topic.clone(), partition: id }, track));
        }
    }
    let tracks = Tracks::new(partitions, subscription.options, shared.is_cluster(), &shared.config);
    ConsumeIter::start(shared.clone(), tracks, subscription.limit)
}

/// As [`Client::seq_at`].
pub(crate) fn find_time(client: &Client, topic: &str, id: u16, time: SystemTime) -> Result<u64> {
    check_topic(topic)?;
    let shared = &client.shared;
    let mut states = shared.partition_states(topic)?;
    await_marks(shared, topic, id, &mut states)?;
    let Some(&PartitionState::Marks { first_available, high_water_mark }) = states.get(usize::from(id)) else {
        return Err(Error::broker(topic, id, Fault::UnknownPartition));
    };
    seq_at(shared, &topic.into(), id, (first_available, high_water_mark), time)
}

/// Waits until the end of a partition is known, which takes a leader.
pub(crate) fn await_marks(shared: &Shared, topic: &str, id: u16, states: &mut Vec<PartitionState>) -> Result<()> {
    let give_up = Deadline::after(shared.config.retry_timeout);
    let mut backoff = shared.config.new_backoff();
    loop {
        let fault = match states.get(usize::from(id)) {
            Some(PartitionState::Marks { .. }) => return Ok(()),
            Some(PartitionState::SystemError) => Fault::System,
            Some(PartitionState::Redirect(_) | PartitionState::NoLeader) => Fault::NoLeader,
            None => Fault::UnknownPartition,
        };
        if fault != Fault::NoLeader || give_up.has_passed() {
            return Err(Error::broker(topic, id, fault));
        }
        sleep(backoff.next_pause());
        *states = shared.partition_states(topic)?;
    }
}
