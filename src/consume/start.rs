//! Works out where each partition of a subscription begins, and finds a time in a partition.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::close::CloseHandle;
use super::iter::ConsumeIter;
use super::partition::{Partition, before_end};
use super::subscription::{Options, OutOfRange, Subscription};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::message::{Start, TopicPartition, check_topic, millis_at_or_after};
use crate::net::{BrokerAddr, RetryPolicy};
use crate::protocol::admin::PartitionState;
use crate::session::{Marks, Session, marks_of_state};

/// How long to look for a leader where a subscription does not wait for one: long enough to follow a redirect.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Finds the partitions, works out where each begins, and starts the iterator.
pub(crate) fn subscribe(session: &Arc<Session>, mut subscription: Subscription) -> Result<ConsumeIter> {
    subscription.check()?;
    let closer = subscription.closer.take().unwrap_or_else(|| CloseHandle::of(session.closed.as_ref()));
    let session = &Arc::new(session.closed_by(closer.closed()));
    let mut topics: HashMap<&str, (Arc<str>, BrokerAddr, Vec<PartitionState>)> = HashMap::new();
    let (mut places, mut whole) = (Vec::new(), Vec::new());
    for wanted in &subscription.wanted {
        let name = &*wanted.topic;
        if !topics.contains_key(name) {
            let (broker, states) = session.discover(name)?;
            topics.insert(name, (name.into(), broker, states));
        }
        let Some((topic, broker, states)) = topics.get(name) else { continue };
        let count = u16::try_from(states.len()).unwrap_or(u16::MAX);
        let ids = match wanted.partition {
            None => 0..count,
            Some(id) if id < count => id..id + 1,
            Some(id) => return Err(Error::refused(topic, id, Fault::UnknownPartition).at(broker)),
        };
        if wanted.partition.is_none() {
            whole.push((topic.clone(), count));
        }
        let start = wanted.start.unwrap_or(subscription.start);
        for partition in ids {
            let start = subscription.resume.get(name, partition).map_or(start, Start::At);
            let marks = states.get(usize::from(partition)).and_then(|state| marks_of_state(state).ok());
            places.push(Place { name: TopicPartition { topic: topic.clone(), partition }, start, marks });
        }
    }
    // It may ask, so it is asked once.
    let in_cluster = session.is_cluster();
    if in_cluster {
        find_ends(session, &mut places)?;
    }
    let mut partitions = Vec::with_capacity(places.len() + whole.len());
    for place in places {
        partitions.push(place.begin(session, &subscription.options)?);
    }
    ConsumeIter::new(session, subscription, partitions, &whole, in_cluster).begin()
}

/// A partition, and what is known of where it begins.
struct Place {
    name: TopicPartition,
    start: Start,
    marks: Option<Marks>,
}

impl Place {
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
            (Start::Latest | Start::Last(_), marks) => {
                let back = if let Start::Last(n) = start { n } else { 0 };
                let Some((first, mark)) = marks else { return Ok(Partition::before_end(name, back, options)) };
                before_end(back, first, mark)
            }
        };
        Ok(Partition::new(name, seq, marks, options))
    }
}

/// Asks a cluster's leaders for the ends that are needed, without waiting for those that are gone.
fn find_ends(session: &Session, places: &mut [Place]) -> Result<()> {
    let policy = RetryPolicy { timeout: AT_ONCE, ..session.leader_policy() };
    // With few requests, in whatever order the partitions were named.
    let mut by_topic: BTreeMap<Arc<str>, Vec<&mut Place>> = BTreeMap::new();
    for place in places {
        // Only leaders know the end of a log.
        place.marks = None;
        if !matches!(place.start, Start::Earliest | Start::At(_)) {
            by_topic.entry(place.name.topic.clone()).or_default().push(place);
        }
    }
    for (topic, open) in by_topic {
        let ids: Vec<u16> = open.iter().map(|place| place.name.partition).collect();
        for (place, end) in open.into_iter().zip(session.log_ends(&topic, &ids, &policy)?) {
            place.marks = end.map(Some).or_else(|e| if e.is_transient() { Ok(None) } else { Err(e) })?;
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
    let in_cluster = session.is_cluster();
    while low < high {
        let middle = low + (high - low) / 2;
        let place = Partition::new(name.clone(), middle, Some((first_available, high_water_mark)), &all.options);
        let mut probe = ConsumeIter::new(session, all.clone(), vec![place], &[], in_cluster);
        let batch = probe.next_batch()?;
        if batch.is_none() && session.is_closed() {
            return Err(Error::new(ErrorKind::Closed));
        }
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
