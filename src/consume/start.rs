//! Works out where each partition of a subscription begins.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::close::CloseHandle;
use super::iter::ConsumeIter;
use super::partition::{Partition, Rules, before_end};
use super::partitions::Partitions;
use super::search::seq_at;
use super::subscription::{Options, Subscription, Wanted};
use crate::error::{Error, Fault, Result};
use crate::message::{Start, TopicPartition, check_topic};
use crate::net::RetryPolicy;
use crate::protocol::admin::PartitionState;
use crate::session::Session;

/// How long to look for a leader where a subscription does not wait for one: long enough to follow a redirect.
const AT_ONCE: Duration = Duration::from_millis(1);

/// First available number and high-water mark.
pub(crate) type Marks = (u64, u64);

/// Finds the partitions, works out where each begins, and starts the iterator.
pub(crate) fn subscribe(session: &Arc<Session>, subscription: Subscription) -> Result<ConsumeIter> {
    subscription.check()?;
    let closer = subscription.closer.clone().unwrap_or_default();
    let mut topics: HashMap<&str, (Arc<str>, Vec<PartitionState>)> = HashMap::new();
    let kept = subscription.resume.iter().map(|position| ((&*position.topic, position.partition), position.seq));
    let kept: HashMap<(&str, u16), u64> = kept.collect();
    let (mut partitions, mut whole) = (Vec::new(), Vec::new());
    for wanted in &subscription.wanted {
        let name = &*wanted.topic;
        if !topics.contains_key(name) {
            topics.insert(name, (name.into(), session.discover(name, Some(closer.closed()))?));
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
        let in_cluster = session.is_cluster();
        let begin = Beginning { session, closer: &closer, in_cluster, topic, options: &subscription.options };
        let places = ids.map(|id| Place::new(id, wanted, &subscription, kept.get(&(name, id)).copied(), states));
        begin.begin(places.collect::<Result<_>>()?, &mut partitions)?;
    }
    let rules = rules(session, subscription.options, session.is_cluster());
    let partitions = Partitions::new(partitions, &whole, rules);
    ConsumeIter::new(session.clone(), partitions, subscription.limit, closer).begin()
}

/// What holds for all partitions.
pub(super) fn rules(session: &Session, options: Options, in_cluster: bool) -> Rules {
    let retry = if in_cluster { session.leader_policy() } else { session.retry_policy() };
    Rules { options, in_cluster, bundle_limit: session.config.limits.bundle, retry }
}

/// A partition, and what is known of where it begins.
struct Place {
    id: u16,
    start: Start,
    /// A checkpoint says so.
    resumed: bool,
    /// As any broker knows them.
    marks: Option<Marks>,
}

impl Place {
    fn new(
        id: u16,
        wanted: &Wanted,
        subscription: &Subscription,
        resumed: Option<u64>,
        states: &[PartitionState],
    ) -> Result<Place> {
        let start = resumed.map_or(wanted.start.unwrap_or(subscription.start), Start::At);
        let marks = match states.get(usize::from(id)) {
            Some(&PartitionState::Marks { first_available, high_water_mark }) => {
                Some((first_available, high_water_mark))
            }
            Some(PartitionState::SystemError) if !matches!(start, Start::Earliest | Start::At(_)) => {
                return Err(Error::broker(&wanted.topic, id, Fault::System));
            }
            _ => None,
        };
        Ok(Place { id, start, resumed: resumed.is_some(), marks })
    }

    /// Whether the log's end tells where it begins.
    fn needs_end(&self) -> bool {
        !matches!(self.start, Start::Earliest | Start::At(_))
    }
}

/// Works out where the partitions of a topic begin.
struct Beginning<'a> {
    session: &'a Arc<Session>,
    closer: &'a CloseHandle,
    in_cluster: bool,
    topic: &'a Arc<str>,
    options: &'a Options,
}

impl Beginning<'_> {
    fn begin(&self, mut places: Vec<Place>, out: &mut Vec<(TopicPartition, Partition)>) -> Result<()> {
        if self.in_cluster {
            // The marks of the others are no end of a log.
            places.iter_mut().for_each(|place| place.marks = None);
            self.find_ends(&mut places)?;
        }
        for place in places {
            let partition = self.partition(&place)?;
            out.push((TopicPartition { topic: self.topic.clone(), partition: place.id }, partition));
        }
        Ok(())
    }

    /// Asks the leaders for the ends that are needed, without waiting for those that are gone.
    fn find_ends(&self, places: &mut [Place]) -> Result<()> {
        let ids: Vec<u16> = places.iter().filter(|place| place.needs_end()).map(|place| place.id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let policy = RetryPolicy { timeout: AT_ONCE, ..self.session.leader_policy() };
        let ends = self.session.log_ends(self.topic, &ids, &policy, Some(self.closer.closed()))?;
        for (place, end) in places.iter_mut().filter(|place| place.needs_end()).zip(ends) {
            match end {
                Ok(end) => place.marks = Some((end.first_available, end.last)),
                Err(e) if e.is_transient() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn partition(&self, place: &Place) -> Result<Partition> {
        let (marks, options) = (place.marks, self.options);
        let back = match place.start {
            Start::Earliest => return Ok(Partition::new(0, marks, options)),
            Start::At(seq) if place.resumed => return Ok(Partition::resumed(seq, marks, options)),
            Start::At(seq) => return Ok(Partition::new(seq, marks, options)),
            Start::Time(time) => {
                let marks = marks.map_or_else(|| self.await_marks(place.id), Ok)?;
                let found = seq_at(self.session, self.closer, self.topic, place.id, marks, time)?;
                return Ok(Partition::new(found, Some(marks), options));
            }
            Start::Latest => 0,
            Start::Last(n) => n,
        };
        Ok(match marks {
            Some((first, mark)) => Partition::new(before_end(back, first, mark), marks, options),
            None => Partition::before_end(back, options),
        })
    }

    fn await_marks(&self, id: u16) -> Result<Marks> {
        let end = self.session.log_end(self.topic, id, Some(self.closer.closed()))?;
        Ok((end.first_available, end.last))
    }
}

/// As [`Client::seq_at`](crate::Client::seq_at).
pub(crate) fn find_time(session: &Arc<Session>, topic: &str, id: u16, time: SystemTime) -> Result<u64> {
    check_topic(topic)?;
    let marks = await_marks(session, topic, id)?;
    seq_at(session, &CloseHandle::new(), &topic.into(), id, marks, time)
}

/// The first number and the high-water mark of a partition, once it has a leader that can be reached.
pub(crate) fn await_marks(session: &Session, topic: &str, id: u16) -> Result<Marks> {
    if !session.is_cluster() {
        match session.discover(topic, None)?.get(usize::from(id)) {
            Some(&PartitionState::Marks { first_available, high_water_mark }) => {
                return Ok((first_available, high_water_mark));
            }
            Some(PartitionState::SystemError) => return Err(Error::broker(topic, id, Fault::System)),
            // It stands alone, as it says, and yet another one leads.
            Some(PartitionState::Redirect(_) | PartitionState::NoLeader) => {}
            None => return Err(Error::broker(topic, id, Fault::UnknownPartition)),
        }
    }
    session.log_end(topic, id, None).map(|end| (end.first_available, end.last))
}
