//! Works out where each partition of a subscription begins, and finds a time in a partition.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use super::iter::ConsumeIter;
use super::partition::{Partition, before_end};
use super::subscription::{Options, OutOfRange, Subscription};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::message::{Names, Start, check_topic, in_order, millis_at_or_after};
use crate::session::{Discovered, Marks, Session, marks_of_state, partition_count};

/// Finds the partitions, works out where each begins, and starts the iterator.
pub(crate) fn subscribe(session: &Arc<Session>, mut subscription: Subscription) -> Result<ConsumeIter> {
    subscription.check()?;
    let closer = subscription.closer.take().map(|closer| closer.closed);
    let closed = closer.or_else(|| session.closed.clone()).unwrap_or_default();
    let session = &Arc::new(session.closed_by(&closed));
    let Found { names, mut beginnings, whole } = discover_all(session, &subscription)?;
    // This may send a request, so it is called once.
    let in_cluster = session.is_cluster();
    if in_cluster {
        ask_for_ends(session, &names, &mut beginnings)?;
    }
    let mut partitions = Vec::with_capacity(beginnings.len() + whole.len());
    for (index, beginning) in (0..).zip(beginnings) {
        partitions.push(beginning.partition(session, &names, index, &subscription.options)?);
    }
    ConsumeIter::new(session, subscription, Arc::new(names), partitions, &whole, in_cluster).start_fetching()
}

/// The partitions of a subscription.
struct Found {
    names: Names,
    /// Of each partition. A vector of its own keeps the peak of memory low: a subscription may have tens of thousands.
    beginnings: Vec<Beginning>,
    /// The topics that are subscribed to as a whole, with their numbers of partitions.
    whole: Vec<(Arc<str>, u16)>,
}

/// What is known about where a partition begins.
struct Beginning {
    start: Start,
    marks: Option<Marks>,
}

/// A topic, and what a broker knows of its partitions.
struct Topic {
    name: Arc<str>,
    discovered: Discovered,
}

/// Asks for the partitions of each topic, once for each.
fn discover_all(session: &Session, subscription: &Subscription) -> Result<Found> {
    let names = Names::with_capacity(subscription.wanted.len());
    let mut found = Found { names, beginnings: Vec::new(), whole: Vec::new() };
    let mut topics = HashMap::new();
    for wanted in &subscription.wanted {
        let topic = match topics.entry(wanted.topic.as_str()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let discovered = session.discover(&wanted.topic)?;
                new.insert(Topic { name: wanted.topic.as_str().into(), discovered })
            }
        };
        let start = wanted.start.unwrap_or(subscription.start);
        let ids = topic.ids(wanted.partition)?;
        if wanted.partition.is_none() {
            found.whole.push((topic.name.clone(), ids.end));
        }
        for id in ids {
            let start = subscription.options.resume.get(&topic.name, id).map_or(start, Start::At);
            let marks = topic.discovered.states.get(usize::from(id)).and_then(|state| marks_of_state(state).ok());
            found.beginnings.push(Beginning { start, marks });
            found.names.push(&topic.name, id);
        }
    }
    Ok(found)
}

impl Topic {
    /// Returns the ids of the wanted partitions: one, or all.
    fn ids(&self, wanted: Option<u16>) -> Result<Range<u16>> {
        let count = partition_count(&self.discovered.states);
        match wanted {
            None => Ok(0..count),
            Some(id) if id < count => Ok(id..id + 1),
            Some(id) => Err(Error::refused(&self.name, id, Fault::UnknownPartition).at(&self.discovered.broker)),
        }
    }
}

impl Beginning {
    fn partition(mut self, session: &Arc<Session>, names: &Names, index: u32, options: &Options) -> Result<Partition> {
        let back = if let Start::Last(back) = self.start { back } else { 0 };
        let seq = match (self.start, self.marks) {
            (Start::Earliest, _) => 0,
            (Start::At(seq), _) => seq,
            (Start::Time(time), marks) => {
                let (topic, id) = names.get(index);
                let known = marks.map_or_else(|| session.log_end(topic, id), Ok)?;
                self.marks = Some(known);
                bisect(session, (topic, id), known, time)?
            }
            (Start::Latest | Start::Last(_), None) => return Ok(Partition::before_end(index, back, options)),
            (Start::Latest | Start::Last(_), Some(marks)) => before_end(back, marks),
        };
        Ok(Partition::new(index, seq, self.marks, options))
    }
}

/// Asks a cluster's leaders, who alone know the ends of logs, for those that are needed, without waiting for those that are gone.
fn ask_for_ends(session: &Session, names: &Names, beginnings: &mut [Beginning]) -> Result<()> {
    for beginning in &mut *beginnings {
        beginning.marks = None;
    }
    let policy = session.leader_policy().following_one_redirect();
    // Grouped by topic, so that few requests are needed whatever order the partitions were named in.
    let mut order = in_order(&mut (0..names.len()).map(|index| (&**names.get(index).0, 0)));
    order.retain(|&index| !matches!(beginnings[index as usize].start, Start::Earliest | Start::At(_)));
    for of_topic in order.chunk_by(|&a, &b| names.get(a).0 == names.get(b).0) {
        let ids: Vec<u16> = of_topic.iter().map(|&index| names.get(index).1).collect();
        let ends = session.log_ends(names.get(of_topic[0]).0, &ids, &policy)?;
        for (&index, end) in of_topic.iter().zip(ends) {
            match end {
                Ok(marks) => beginnings[index as usize].marks = Some(marks),
                Err(e) if e.is_transient() => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// As [`Client::seq_at`](crate::Client::seq_at).
pub(crate) fn seq_at(session: &Arc<Session>, topic: &str, id: u16, time: SystemTime) -> Result<u64> {
    check_topic(topic)?;
    let marks = session.log_end(topic, id)?;
    bisect(session, (topic, id), marks, time)
}

/// Bytes to ask for with each probe. Only the first bundle is looked at, or the first small ones.
const PROBE_SIZE: u32 = 4 << 10;

/// Returns the number of the first message at or after a time, given the first available number and the high-water mark; that
/// mark + 1 if there is none.
fn bisect(session: &Arc<Session>, (topic, id): (&str, u16), marks: Marks, time: SystemTime) -> Result<u64> {
    let Marks { first_available, high_water_mark } = marks;
    let wanted = millis_at_or_after(time);
    let end = high_water_mark.saturating_add(1);
    // All messages below this are too early.
    let mut low = first_available.max(1);
    // There is no message from `high` up to below `found`, and `found` is late enough or the end.
    let mut high = end;
    let mut found = end;
    if low >= high {
        return Ok(end);
    }
    let all = Subscription::partition(topic, id).fetch_size(PROBE_SIZE);
    // If the log became shorter meanwhile, it is read from its beginning.
    let all = all.out_of_range(OutOfRange::Earliest).beyond_end(OutOfRange::Earliest);
    let mut all = all.stop_at_seq(high_water_mark).stop_at_end();
    // The next probe is elsewhere.
    all.options.prefetch = false;
    let names = Names::one(topic, id);
    let in_cluster = session.is_cluster();
    while low < high {
        let middle = low + (high - low) / 2;
        let partition = Partition::new(0, middle, Some(marks), &all.options);
        let mut probe = ConsumeIter::new(session, all.clone(), names.clone(), vec![partition], &[], in_cluster);
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
