//! Works out where each partition of a subscription begins.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::close::CloseHandle;
use super::iter::ConsumeIter;
use super::partition::{Partition, before_end};
use super::search::seq_at;
use super::subscription::{Options, Subscription};
use crate::error::{Error, Fault, Result};
use crate::message::{Start, TopicPartition, check_topic};
use crate::net::RetryPolicy;
use crate::protocol::admin::PartitionState;
use crate::session::{Marks, Session};

/// How long to look for a leader where a subscription does not wait for one: long enough to follow a redirect.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Finds the partitions, works out where each begins, and starts the iterator.
pub(crate) fn subscribe(session: &Arc<Session>, mut subscription: Subscription) -> Result<ConsumeIter> {
    subscription.check()?;
    let closer = subscription.closer.take().unwrap_or_else(|| CloseHandle::of(session.closed.as_ref()));
    let session = &Arc::new(session.closed_by(closer.closed()));
    let mut topics: HashMap<&str, (Arc<str>, Vec<PartitionState>)> = HashMap::new();
    let (mut places, mut whole) = (Vec::new(), Vec::new());
    for wanted in &subscription.wanted {
        let name = &*wanted.topic;
        if !topics.contains_key(name) {
            topics.insert(name, (name.into(), session.discover(name)?));
        }
        let Some((topic, states)) = topics.get(name) else { continue };
        let count = u16::try_from(states.len()).unwrap_or(u16::MAX);
        let ids = match wanted.partition {
            None => 0..count,
            Some(id) if id < count => id..id + 1,
            Some(id) => return Err(Error::broker(topic, id, Fault::UnknownPartition)),
        };
        if wanted.partition.is_none() {
            whole.push((topic.clone(), count));
        }
        let start = wanted.start.unwrap_or(subscription.start);
        for partition in ids {
            let start = subscription.resume.get(name, partition).map_or(start, Start::At);
            let marks = match states.get(usize::from(partition)) {
                Some(&PartitionState::Marks { first_available, high_water_mark }) if !session.is_cluster() => {
                    Some((first_available, high_water_mark))
                }
                // Of a cluster's logs only leaders know the end.
                _ => None,
            };
            places.push(Place { name: TopicPartition { topic: topic.clone(), partition }, start, marks });
        }
    }
    let in_cluster = session.is_cluster();
    if in_cluster {
        find_ends(session, &mut places)?;
    }
    let begin = |place: Place| place.begin(session, &subscription.options);
    let partitions = places.into_iter().map(begin).collect::<Result<_>>()?;
    ConsumeIter::new(session, subscription, partitions, &whole, in_cluster).begin()
}

/// A partition, and what is known of where it begins.
struct Place {
    name: TopicPartition,
    start: Start,
    marks: Option<Marks>,
}

impl Place {
    /// Whether the log's end tells where it begins.
    fn needs_end(&self) -> bool {
        !matches!(self.start, Start::Earliest | Start::At(_))
    }

    fn begin(self, session: &Arc<Session>, options: &Options) -> Result<Partition> {
        let Place { name, start, mut marks } = self;
        let seq = match (start, marks) {
            (Start::Earliest, _) => 0,
            (Start::At(seq), _) => seq,
            (Start::Time(time), _) => {
                let known = marks.map_or_else(|| session.log_end(&name.topic, name.partition), Ok)?;
                marks = Some(known);
                seq_at(session, &name, known, time)?
            }
            (Start::Latest, None) => return Ok(Partition::before_end(name, 0, options)),
            (Start::Last(n), None) => return Ok(Partition::before_end(name, n, options)),
            (Start::Latest, Some((_, mark))) => mark.saturating_add(1),
            (Start::Last(n), Some((first, mark))) => before_end(n, first, mark),
        };
        Ok(Partition::new(name, seq, marks, options))
    }
}

/// Asks a cluster's leaders for the ends that are needed, without waiting for those that are gone.
fn find_ends(session: &Session, places: &mut [Place]) -> Result<()> {
    let mut open: Vec<&mut Place> = places.iter_mut().filter(|place| place.needs_end()).collect();
    // With few requests, in whatever order the partitions were named.
    open.sort_by(|a, b| a.name.topic.cmp(&b.name.topic));
    for of_topic in open.chunk_by_mut(|a, b| a.name.topic == b.name.topic) {
        let topic = of_topic.first().map_or("".into(), |place| place.name.topic.clone());
        let ids: Vec<u16> = of_topic.iter().map(|place| place.name.partition).collect();
        let policy = RetryPolicy { timeout: AT_ONCE, ..session.leader_policy() };
        for (place, end) in of_topic.iter_mut().zip(session.log_ends(&topic, &ids, &policy)?) {
            match end {
                Ok(marks) => place.marks = Some(marks),
                Err(e) if e.is_transient() => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// As [`Client::seq_at`](crate::Client::seq_at).
pub(crate) fn find_time(session: &Arc<Session>, topic: &str, id: u16, time: SystemTime) -> Result<u64> {
    check_topic(topic)?;
    let marks = session.log_end(topic, id)?;
    seq_at(session, &TopicPartition { topic: topic.into(), partition: id }, marks, time)
}
