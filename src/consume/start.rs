//! From what is wanted to where each partition begins.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use log::debug;

use super::iter::ConsumeIter;
use super::search::seq_at;
use super::subscription::{Subscription, Wanted, check_topic};
use super::tracks::{Track, Tracks};
use crate::client::Client;
use crate::error::{Error, Fault, Result};
use crate::message::{Source, Start};
use crate::net::old::{Deadline, sleep};
use crate::protocol::admin::PartitionState;
use crate::session::Session as Shared;

/// Finds the partitions, works out where each begins, and starts the iterator.
pub(crate) fn subscribe(client: &Client, subscription: Subscription) -> Result<ConsumeIter> {
    subscription.check()?;
    let shared = &client.session;
    let mut partitions = Vec::new();
    let mut topics: Vec<(Arc<str>, Vec<PartitionState>)> = Vec::new();
    let kept = subscription.resume.iter().map(|position| ((&*position.topic, position.partition), position.seq));
    let kept: HashMap<(&str, u16), u64> = kept.collect();
    for Wanted { topic, partition, start } in &subscription.wanted {
        let start = start.unwrap_or(subscription.start);
        let index = match topics.iter().position(|(known, _)| **known == **topic) {
            Some(index) => index,
            None => {
                topics.push((topic.as_str().into(), shared.discover(topic, None)?));
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
            let marks = match states[usize::from(id)] {
                PartitionState::Marks { first_available, high_water_mark } => Some((first_available, high_water_mark)),
                PartitionState::SystemError if matches!(start, Start::Latest | Start::Time(_)) => {
                    return Err(Error::broker(topic, id, Fault::System));
                }
                _ => None,
            };
            let options = &subscription.options;
            let mut track = match (start, marks) {
                (Start::Earliest, _) => Track::new(0, marks, options),
                (Start::At(seq), _) => Track::new(seq, marks, options),
                (Start::Latest, Some((_, mark))) => Track::new(mark.saturating_add(1), marks, options),
                (Start::Latest, None) => Track::at_end(options),
                (Start::Time(time), _) => {
                    let marks = marks.map_or_else(|| await_marks(shared, topic, id), Ok)?;
                    Track::new(seq_at(shared, topic, id, marks, time)?, Some(marks), options)
                }
            };
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
    let shared = &client.session;
    let marks = await_marks(shared, topic, id)?;
    seq_at(shared, &topic.into(), id, marks, time)
}

/// The first number and the high-water mark of a partition, once it has a leader that can be reached.
pub(crate) fn await_marks(shared: &Shared, topic: &str, id: u16) -> Result<(u64, u64)> {
    let give_up = Deadline::after(shared.config.retry_timeout);
    let mut backoff = shared.config.leader_backoff();
    loop {
        let e = match shared.log_end(topic, id, None).map(|end| (end.first_available, end.last)) {
            Ok(marks) => return Ok(marks),
            Err(e) => e,
        };
        let is_passing = match &e {
            Error::Broker { fault, .. } => *fault == Fault::NoLeader,
            e => e.is_retryable(),
        };
        if !is_passing || give_up.has_passed() {
            return Err(e);
        }
        debug!("{topic}/{id}: its end is not known yet: {e}");
        sleep(backoff.next_pause());
    }
}
