//! Works out where each partition of a subscription begins, and finds a time in a partition.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::iter::ConsumeIter;
use super::partition::{Partition, before_end};
use super::subscription::{Options, OutOfRange, Subscription};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::message::{Names, Start, check_topic, in_order, millis_at_or_after};
use crate::net::{BrokerAddr, RetryPolicy};
use crate::protocol::admin::PartitionState;
use crate::session::{Marks, Session, marks_of_state};

/// How long to look for a leader if the subscription does not wait for one: long enough to follow a redirect.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Finds the partitions, works out where each begins, and starts the iterator.
pub(crate) fn subscribe(session: &Arc<Session>, mut subscription: Subscription) -> Result<ConsumeIter> {
    subscription.check()?;
    let closer = subscription.closer.take().map(|closer| closer.closed);
    let closed = closer.or_else(|| session.closed.clone()).unwrap_or_default();
    let session = &Arc::new(session.closed_by(&closed));
    let (mut topics, mut whole) = (HashMap::<&str, (Arc<str>, BrokerAddr, Vec<PartitionState>)>::new(), Vec::new());
    let (mut names, mut places) = (Names::with_capacity(subscription.wanted.len()), Vec::new());
    for wanted in &subscription.wanted {
        let (topic, broker, states) = match topics.entry(&wanted.topic) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                let (broker, states) = session.discover(&wanted.topic)?;
                place.insert((wanted.topic.as_str().into(), broker, states))
            }
        };
        let count = u16::try_from(states.len()).unwrap_or(u16::MAX);
        let ids = match wanted.partition {
            Some(id) if id >= count => return Err(Error::refused(topic, id, Fault::UnknownPartition).at(broker)),
            Some(id) => id..id + 1,
            None => {
                whole.push((topic.clone(), count));
                0..count
            }
        };
        let start = wanted.start.unwrap_or(subscription.start);
        for id in ids {
            let start = subscription.resume.get(topic, id).map_or(start, Start::At);
            let marks = states.get(usize::from(id)).and_then(|state| marks_of_state(state).ok());
            places.push(Place { start, marks });
            names.push(topic, id);
        }
    }
    drop(topics);
    // This may send a request, so it is called once.
    let in_cluster = session.is_cluster();
    if in_cluster {
        ask_for_ends(session, &names, &mut places)?;
    }
    let mut list = Vec::with_capacity(places.len() + whole.len());
    for (index, place) in (0..).zip(places) {
        list.push(place.begin(session, &names, index, &subscription.options)?);
    }
    ConsumeIter::new(session, subscription, Arc::new(names), list, &whole, in_cluster).begin()
}

/// What is known about where a partition begins.
struct Place {
    start: Start,
    marks: Option<Marks>,
}

impl Place {
    fn begin(mut self, session: &Arc<Session>, names: &Names, index: u32, options: &Options) -> Result<Partition> {
        let seq = match (self.start, self.marks) {
            (Start::Earliest, _) => 0,
            (Start::At(seq), _) => seq,
            (Start::Time(time), marks) => {
                let (topic, partition) = names.get(index);
                let known = marks.map_or_else(|| session.log_end(topic, partition), Ok)?;
                self.marks = Some(known);
                seq_at(session, (topic, partition), known, time)?
            }
            (Start::Latest, None) => return Ok(Partition::before_end(index, 0, options)),
            (Start::Last(back), None) => return Ok(Partition::before_end(index, back, options)),
            (Start::Latest, Some((first, mark))) => before_end(0, first, mark),
            (Start::Last(back), Some((first, mark))) => before_end(back, first, mark),
        };
        Ok(Partition::new(index, seq, self.marks, options))
    }
}

/// Asks a cluster's leaders, who alone know the ends of logs, for those that are needed, without waiting for those that are gone.
fn ask_for_ends(session: &Session, names: &Names, places: &mut [Place]) -> Result<()> {
    places.iter_mut().for_each(|place| place.marks = None);
    let policy = RetryPolicy { timeout: AT_ONCE, ..session.leader_policy() };
    // Grouped by topic, so that few requests are needed whatever order the partitions were named in.
    let mut order = in_order(&mut (0..names.len()).map(|index| (&**names.get(index).0, 0)));
    order.retain(|&index| !matches!(places[index as usize].start, Start::Earliest | Start::At(_)));
    for of_topic in order.chunk_by(|&a, &b| names.get(a).0 == names.get(b).0) {
        let ids: Vec<u16> = of_topic.iter().map(|&index| names.get(index).1).collect();
        let ends = session.log_ends(names.get(of_topic[0]).0, &ids, &policy)?;
        for (&index, end) in of_topic.iter().zip(ends) {
            places[index as usize].marks =
                end.map(Some).or_else(|e| if e.is_transient() { Ok(None) } else { Err(e) })?;
        }
    }
    Ok(())
}

/// As [`Client::seq_at`](crate::Client::seq_at).
pub(crate) fn find_time(session: &Arc<Session>, topic: &str, id: u16, time: SystemTime) -> Result<u64> {
    check_topic(topic)?;
    let marks = session.log_end(topic, id)?;
    seq_at(session, (topic, id), marks, time)
}

/// Bytes to ask for with each probe. Only the first bundle is looked at, or the first small ones.
const PROBE_SIZE: u32 = 4 << 10;

/// Returns the number of the first message at or after a time, given the first available number and the high-water mark; that
/// mark + 1 if there is none.
fn seq_at(session: &Arc<Session>, (topic, id): (&str, u16), marks: Marks, time: SystemTime) -> Result<u64> {
    let (first_available, high_water_mark) = marks;
    let wanted = millis_at_or_after(time);
    let end = high_water_mark.saturating_add(1);
    // There is no message from `high` up to below `found`, and `found` is late enough or the end. All messages below `low` are too
    // early.
    let (mut low, mut high, mut found) = (first_available.max(1), end, end);
    if low >= high {
        return Ok(end);
    }
    let all = Subscription::partition(topic, id).fetch_size(PROBE_SIZE);
    // If the log became shorter meanwhile, it is read from its beginning.
    let all = all.out_of_range(OutOfRange::Earliest).beyond_end(OutOfRange::Earliest);
    let mut all = all.stop_at_seq(high_water_mark).stop_at_end();
    // The next probe is elsewhere.
    all.options.prefetch = false;
    let (names, in_cluster) = (Names::one(topic, id), session.is_cluster());
    while low < high {
        let middle = low + (high - low) / 2;
        let place = Partition::new(0, middle, Some(marks), &all.options);
        let mut probe = ConsumeIter::new(session, all.clone(), names.clone(), vec![place], &[], in_cluster);
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
