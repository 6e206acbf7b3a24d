//! All partitions of a subscription: who is due, and what their answers come to.
//!
//! ```text
//!   pauses ──wake(now)──> due ──next_due()──> the leader's list ──next_request()──> in flight
//!     ^                    ^                                                          │
//!     └────────────────────┴───────────── on_end(), on_lost() <───────────────────────┘
//! ```
//!
//! An idle partition is in exactly one of these places, so the cost of an answer depends on the partitions it names, not on
//! how many there are. Like its machines, this module knows no socket and no clock; it adds the names.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used))]

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::sync::Arc;

use log::{debug, info, warn};

use super::partition::{Failure, Lookahead, Lost, Next, Partition, Rules, State, Want};
use super::position::{Position, Positions};
use super::stats::Stats;
use crate::error::{Error, Fault};
use crate::message::{Gap, TopicPartition, TopicPartitions};
use crate::net::{BrokerAddr, Time};
use crate::protocol::bundle::Entry;
use crate::protocol::fetch::{MAX_PARTITIONS, PartitionAnswer};
use crate::protocol::stream::{Bundle, ChunkEnd};
use crate::protocol::{DecodeError, DecodeFault};

/// The most bytes to ask for with one request. The answer's length is a 32-bit number that brokers do not guard, and they
/// may send more than was asked for.
const MAX_ASKED: u64 = 1 << 30;

/// The highest id of a partition.
const MAX_ID: u16 = u16::MAX - 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Partitions {
    names: TopicPartitions,
    names_changed: bool,
    places: HashMap<Arc<str>, HashMap<u16, usize>>,
    list: Vec<Partition>,
    rules: Rules,
    /// Those to be sent to a leader's list.
    due: VecDeque<usize>,
    pauses: BTreeSet<(Time, usize)>,
    /// How many are not done, and how many may have ended a connection.
    open: usize,
    suspects: usize,
    /// For each topic subscribed to as a whole, the partition that comes after its last one.
    probes: Vec<usize>,
    pub(super) stats: Stats,
    pub(super) gaps: Vec<Gap>,
}

/// What an answer has brought so far. Answers of several leaders are read side by side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AnswerSummary {
    pub(super) has_data: bool,
    pub(super) has_fault: bool,
    /// A partition has no leader, as far as the broker knows, or none that it leads to.
    pub(super) knows_no_leader: bool,
}

/// What the shell must do about a partition.
#[derive(Debug)]
pub(super) enum Told {
    Nothing,
    /// Look up who that is, for [`Partitions::on_named`].
    AskAt(SocketAddrV4),
    /// Forget in the address book who leads it.
    Forget,
    /// End with this error, once all that came before it is handed out.
    Fail(Error),
}

/// What may be asked for at a leader while an earlier fetch is in flight there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OnTheWay {
    /// A number at or below the mark, which may be why a connection ends.
    pub(super) behind: bool,
    /// Something that may have ended one already.
    pub(super) suspect: bool,
}

/// A fetch of several partitions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) partitions: Vec<(usize, Want)>,
    pub(super) waits: bool,
}

impl Request {
    /// How many of the partitions want it so.
    pub(super) fn count(&self, is: impl Fn(&Want) -> bool) -> usize {
        self.partitions.iter().filter(|(_, want)| is(want)).count()
    }
}

impl Partitions {
    /// Those of a subscription; `whole` are the topics subscribed to as a whole, with the number of their partitions.
    pub(super) fn new(
        partitions: Vec<(TopicPartition, Partition)>,
        whole: &[(Arc<str>, u16)],
        rules: Rules,
    ) -> Partitions {
        let (mut names, mut list): (Vec<_>, Vec<_>) = partitions.into_iter().unzip();
        let mut probes = Vec::new();
        for (topic, count) in whole.iter().filter(|(_, count)| *count <= MAX_ID) {
            probes.push(list.len());
            names.push(TopicPartition { topic: topic.clone(), partition: *count });
            list.push(Partition::dormant(&rules.options));
        }
        let mut places: HashMap<Arc<str>, HashMap<u16, usize>> = HashMap::new();
        for (index, TopicPartition { topic, partition }) in names.iter().enumerate() {
            places.entry(topic.clone()).or_default().insert(*partition, index);
        }
        let due: VecDeque<_> =
            list.iter().enumerate().filter(|(_, p)| p.state() == State::Idle).map(|(i, _)| i).collect();
        let open = due.len();
        let (names, pauses, stats, gaps) = (names.into(), BTreeSet::new(), Stats::default(), Vec::new());
        Partitions {
            names,
            names_changed: false,
            places,
            list,
            rules,
            due,
            pauses,
            open,
            suspects: 0,
            probes,
            stats,
            gaps,
        }
    }

    pub(super) fn names(&self) -> &TopicPartitions {
        &self.names
    }

    pub(super) fn name(&self, index: usize) -> &TopicPartition {
        #[allow(clippy::indexing_slicing)] // Indices come from here.
        &self.names[index]
    }

    pub(super) fn get(&self, index: usize) -> &Partition {
        #[allow(clippy::indexing_slicing)]
        &self.list[index]
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The index of a partition, if it belongs to the subscription.
    pub(super) fn find(&self, topic: &str, partition: u16) -> Option<usize> {
        let index = *self.places.get(topic)?.get(&partition)?;
        (!self.get(index).is_probe()).then_some(index)
    }

    pub(super) fn all_done(&self) -> bool {
        self.open == 0
    }

    /// All positions, given where each partition stands with what is being handed out.
    pub(super) fn positions(&self, next_seq: impl Fn(usize) -> u64) -> Positions {
        let begun = (0..self.list.len()).filter(|&index| self.get(index).has_begun());
        let position = |index| {
            let TopicPartition { topic, partition } = self.name(index).clone();
            Position { topic, partition, seq: next_seq(index) }
        };
        Positions(begun.map(position).collect())
    }

    /// The numbers between the positions and the high-water marks.
    pub(super) fn lag(&self, next_seq: impl Fn(usize) -> u64) -> u64 {
        let lags = self.list.iter().enumerate().map(|(index, partition)| partition.lag(next_seq(index)));
        lags.fold(0, u64::saturating_add)
    }

    /// Changes a partition, and keeps the lists in step with its state.
    fn with<R>(&mut self, index: usize, act: impl FnOnce(&mut Partition, &Rules) -> R) -> R {
        #[allow(clippy::indexing_slicing)]
        let partition = &mut self.list[index];
        let (before, was_suspect) = (partition.state(), partition.is_suspect());
        let done = act(partition, &self.rules);
        let (after, is_suspect) = (partition.state(), partition.is_suspect());
        self.suspects = self.suspects + usize::from(is_suspect) - usize::from(was_suspect);
        if before != after {
            self.open = self.open + usize::from(after != State::Done) - usize::from(before != State::Done);
            if let State::Paused(until) = after {
                self.pauses.insert((until, index));
            }
        }
        done
    }

    /// Ends the pauses that are over.
    pub(super) fn wake(&mut self, now: Time) {
        while let Some(&(until, index)) = self.pauses.first().filter(|(until, _)| *until <= now) {
            self.pauses.remove(&(until, index));
            if self.with(index, |partition, _| partition.wake(now)) {
                self.due.push_back(index);
            }
        }
    }

    /// When the next pause ends.
    pub(super) fn next_wake(&self) -> Time {
        self.pauses.first().map_or(Time::NEVER, |(until, _)| *until)
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The next partition that is to go to a leader's list.
    pub(super) fn next_due(&mut self) -> Option<usize> {
        loop {
            let index = self.due.pop_front()?;
            if self.get(index).state() == State::Idle {
                return Some(index);
            }
        }
    }

    /// Notes where a partition is asked for.
    pub(super) fn set_leader(&mut self, index: usize, leader: BrokerAddr) {
        self.with(index, |partition, _| partition.set_leader(leader));
    }

    /// Takes from a leader's list what the next request names; `None`: nothing, or not before what is on the way has been
    /// answered.
    ///
    /// # Errors
    /// A partition whose next number cannot exist.
    pub(super) fn next_request(&mut self, list: &mut VecDeque<usize>, way: OnTheWay) -> Result<Option<Request>, Error> {
        let (mut request, mut asked, mut kept) = (Request { partitions: Vec::new(), waits: false }, 0, Vec::new());
        let has_suspect = self.suspects > 0 && (way.suspect || list.iter().any(|&index| self.get(index).is_suspect()));
        while let Some(index) = list.pop_front() {
            let want = match self.get(index).wants(&self.rules) {
                Ok(Some(want)) => want,
                Ok(None) => continue,
                Err(failure) => return Err(self.error(index, failure, None)),
            };
            // One at a time, so that the one that ends a connection is known by it.
            let by_itself = want.alone || (has_suspect && want.is_behind);
            let is_first = request.partitions.is_empty();
            let fits = is_first
                || (!by_itself && request.waits == want.waits && asked + u64::from(want.fetch_size) <= MAX_ASKED);
            if !fits || (has_suspect && want.is_behind && way.behind) {
                kept.push(index);
                continue;
            }
            (request.waits, asked) = (want.waits, asked + u64::from(want.fetch_size));
            request.partitions.push((index, want));
            self.with(index, |partition, _| partition.on_sent(want.waits));
            if by_itself || request.partitions.len() == MAX_PARTITIONS {
                break;
            }
        }
        kept.into_iter().rev().for_each(|index| list.push_front(index));
        Ok((!request.partitions.is_empty()).then_some(request))
    }

    /// Counts an answer, as one without data until there is some.
    pub(super) fn on_response(&mut self) {
        self.stats.fetches += 1;
        self.stats.empty_fetches += 1;
    }

    /// Takes in what an answer says of a partition.
    pub(super) fn on_answer(
        &mut self,
        now: Time,
        index: usize,
        answer: PartitionAnswer,
        summary: &mut AnswerSummary,
    ) -> Told {
        match answer {
            PartitionAnswer::Data { len, .. } => {
                if len > 0 && !std::mem::replace(&mut summary.has_data, true) {
                    self.stats.empty_fetches -= 1;
                }
            }
            _ => summary.has_fault = true,
        }
        let was_probe = self.get(index).is_probe();
        let next = self.with(index, |partition, rules| partition.on_answer(now, answer, rules));
        if was_probe && !self.get(index).is_probe() {
            self.on_new_partition(index);
        }
        self.told(index, next, summary)
    }

    /// Takes in who the leader is that an answer named; `None`: nobody.
    pub(super) fn on_named(
        &mut self,
        now: Time,
        index: usize,
        named: SocketAddrV4,
        found: Result<Option<BrokerAddr>, Fault>,
        summary: &mut AnswerSummary,
    ) -> Told {
        self.stats.redirects += 1;
        if let Ok(Some(addr)) = &found {
            warn!("{}: redirected to {addr}", self.name(index));
        }
        let next = self.with(index, |partition, rules| partition.on_named(now, named, found, rules));
        // The first redirect is how leaders are found; the broker that repeats one may not know better.
        summary.knows_no_leader |= matches!(self.get(index).state(), State::Paused(_));
        self.told(index, next, summary)
    }

    fn told(&mut self, index: usize, next: Next, summary: &mut AnswerSummary) -> Told {
        match next {
            Next::Go => {}
            Next::AskAt(endpoint) => return Told::AskAt(endpoint),
            Next::NoLeader => {
                self.stats.no_leader += 1;
                summary.knows_no_leader = true;
                return Told::Forget;
            }
            Next::Begins(seq) => debug!("{}: begins with {seq}", self.name(index)),
            Next::Skips { from, to, gap } => {
                warn!("{}: {from} is out of range, continuing with {to}", self.name(index));
                if let Some((first, last)) = gap {
                    self.add_gap(index, first, last);
                }
            }
            Next::Fail(failure) => return Told::Fail(self.error(index, failure, None)),
        }
        Told::Nothing
    }

    fn add_gap(&mut self, index: usize, first: u64, last: u64) {
        let TopicPartition { topic, partition } = self.name(index).clone();
        // If retention is faster than we are, that is one growing gap, not many small ones.
        let same = self.gaps.last_mut().filter(|gap| gap.topic == topic && gap.partition == partition);
        match same.filter(|gap| gap.last + 1 == first) {
            Some(gap) => gap.last = last,
            None => self.gaps.push(Gap { topic, partition, first, last }),
        }
    }

    /// A partition was added to a topic: it belongs to the subscription, and another one may come after it.
    fn on_new_partition(&mut self, index: usize) {
        let name = self.name(index).clone();
        info!("{name}: a new partition, read from its first message on");
        self.probes.retain(|&probe| probe != index);
        if let Some(partition) = name.partition.checked_add(1).filter(|&id| id <= MAX_ID) {
            let (next, topic) = (self.list.len(), name.topic);
            self.places.entry(topic.clone()).or_default().insert(partition, next);
            self.names = self.names.iter().cloned().chain([TopicPartition { topic, partition }]).collect();
            self.list.push(Partition::dormant(&self.rules.options));
            self.probes.push(next);
            self.names_changed = true;
            self.probe_at(next);
        }
    }

    /// Whether partitions were added since the last call.
    pub(super) fn take_names_changed(&mut self) -> bool {
        std::mem::take(&mut self.names_changed)
    }

    /// Looks for partitions that were added.
    pub(super) fn probe(&mut self) {
        self.probes.clone().into_iter().for_each(|index| self.probe_at(index));
    }

    fn probe_at(&mut self, index: usize) {
        if self.with(index, |partition, _| partition.probe()) {
            self.due.push_back(index);
        }
    }

    /// Takes in the bundles that were just found, from `new` on, all of one partition; removes those that are not wanted.
    #[inline]
    pub(super) fn on_bundles(&mut self, found: &mut Vec<Bundle>, new: usize) -> Lookahead {
        let Some(index) = found.get(new).map(|bundle| bundle.slot) else { return Lookahead::Clear };
        self.with(index, |partition, rules| partition.on_bundles(found, new, rules))
    }

    pub(super) fn stop_at_time(&mut self, index: usize, first: u64, entries: &mut Vec<Entry>) -> bool {
        self.with(index, |partition, rules| partition.stop_at_time(first, entries, rules))
    }

    pub(super) fn on_messages(&mut self, index: usize) {
        self.with(index, |partition, rules| partition.on_messages(rules));
    }

    pub(super) fn advance(&mut self, index: usize, position: u64) {
        self.with(index, |partition, _| partition.advance(position));
    }

    /// Ends a chunk: its messages and numbers decide what to ask for next.
    pub(super) fn on_chunk_end(&mut self, now: Time, index: usize, end: ChunkEnd) -> Told {
        let next = self.with(index, |partition, rules| partition.on_chunk_end(now, end, rules));
        match next {
            Next::Fail(failure) => Told::Fail(self.error(index, failure, None)),
            _ => Told::Nothing,
        }
    }

    /// Ends an answer about a partition. Returns whether it may be asked for again at `leader` at once: there is more of it
    /// than has arrived, and it is led there.
    pub(super) fn on_end(&mut self, now: Time, index: usize, soon: bool, leader: Option<&BrokerAddr>) -> bool {
        self.with(index, |partition, rules| partition.on_end(now, soon, rules));
        let partition = self.get(index);
        if partition.state() != State::Idle {
            return false;
        }
        let again = leader.is_some() && partition.leader() == leader && partition.is_behind();
        if !again {
            self.due.push_back(index);
        }
        again
    }

    /// Takes a partition back from a connection that failed with `e`.
    ///
    /// # Errors
    /// It has been in trouble for too long.
    pub(super) fn on_lost(&mut self, now: Time, index: usize, how: Lost, e: &Error) -> Result<(), Error> {
        let next = self.with(index, |partition, rules| partition.on_lost(now, how, rules));
        if let Next::Fail(failure) = next {
            return Err(self.error(index, failure, Some(e)));
        }
        if self.get(index).state() == State::Idle {
            self.due.push_back(index);
        }
        Ok(())
    }

    /// Ends a partition; an answer that is still in flight is ignored.
    pub(super) fn end(&mut self, index: usize) {
        self.with(index, |partition, _| partition.end());
    }

    /// Turns to another part of a partition, of which nothing may be in flight.
    pub(super) fn seek(&mut self, index: usize, seq: u64, end: u64) {
        self.with(index, |partition, rules| partition.seek(seq, end, rules));
        self.due.push_back(index);
    }

    /// The error that ends the subscription, now with names.
    fn error(&self, index: usize, failure: Failure, e: Option<&Error>) -> Error {
        let TopicPartition { topic, partition } = self.name(index);
        let (name, partition) = (topic.to_string(), *partition);
        match failure {
            Failure::Broker(fault) => Error::broker(topic, partition, fault),
            Failure::OutOfRange { requested, first_available, high_water_mark } => {
                Error::OutOfRange { topic: name, partition, requested, first_available, high_water_mark }
            }
            Failure::Recreated { position, high_water_mark } => {
                Error::Recreated { topic: name, partition, position, high_water_mark }
            }
            Failure::BundleTooLarge { needed } => {
                Error::BundleTooLarge { topic: name, partition, needed, limit: self.rules.bundle_limit.into() }
            }
            Failure::NoSuchSeq => {
                let fault = DecodeFault::SeqRange { seq: u64::MAX, low: 0, high: u64::MAX - 1 };
                let e = DecodeError::new("next sequence number", fault, 0).in_partition(topic, partition);
                Error::decode(&"the leader", e)
            }
            Failure::Connection => e.cloned().unwrap_or(Error::Closed),
        }
    }
}

#[cfg(test)]
mod tests;
