//! All partitions of a subscription: who is due, and what follows from their answers.
//!
//! ```text
//!   pauses ──wake(now)──> due ──next_due()──> the leader's list ──next_request()──> in flight
//!     ^                    ^                                                          │
//!     └────────────────────┴───────────── on_end(), on_lost() <───────────────────────┘
//! ```
//!
//! An idle partition is in exactly one of these places, so the cost of an answer depends on the partitions that it names, not on
//! how many there are. Like its machines, this module knows no socket and no clock.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used))]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use log::info;

use super::partition::{Lost, Next, Partition, Risk, Rules, State, Want};
use super::position::Stats;
use crate::error::{Error, Result};
use crate::message::{Gap, Names, in_order};
use crate::net::{BrokerAddr, Time};
use crate::protocol::fetch::{MAX_PARTITIONS, PartitionAnswer};

/// The most bytes to ask for with one request. The answer's length is a 32-bit number that brokers do not check for overflow, and
/// they may send more than was asked for.
const MAX_ASKED: u64 = 1 << 30;

/// The highest id of a partition.
const MAX_ID: u16 = u16::MAX - 1;

/// The most gaps to remember.
const MAX_GAPS: usize = 1000;

/// See the module.
pub(super) struct Partitions {
    /// Their indices, in the order of their names.
    order: Vec<u32>,
    list: Vec<Partition>,
    pub(super) rules: Rules,
    /// Those to be sent to a leader's list.
    due: VecDeque<u32>,
    pauses: BinaryHeap<Reverse<(Time, u32)>>,
    /// How many are not done.
    open: usize,
    /// For each topic subscribed to as a whole, the partition that comes after its last one.
    probes: Vec<u32>,
    /// Whether to ask for those once all others are only waiting.
    pub(super) looks_for_added: bool,
    pub(super) stats: Stats,
    pub(super) gaps: Vec<Gap>,
}

/// How many partitions in flight at a leader may be the reason why a connection ends, and how many of them may have ended one
/// already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) risky: usize,
    pub(super) suspects: usize,
}

/// The partitions that a leader is to be asked for, by what a fetch of them may do to it.
#[derive(Default)]
pub(super) struct Wanted {
    harmless: VecDeque<u32>,
    risky: VecDeque<u32>,
    suspects: VecDeque<u32>,
    /// Whether it is a suspect's turn, where there are others that are risky.
    suspects_turn: bool,
}

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        self.harmless.is_empty() && self.risky.is_empty() && self.suspects.is_empty()
    }

    pub(super) fn push(&mut self, index: u32, risk: Risk) {
        self.of(risk).push_back(index);
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = u32> {
        self.suspects.drain(..).chain(self.risky.drain(..)).chain(self.harmless.drain(..))
    }

    fn of(&mut self, risk: Risk) -> &mut VecDeque<u32> {
        match risk {
            Risk::Harmless => &mut self.harmless,
            Risk::Risky => &mut self.risky,
            Risk::Suspect => &mut self.suspects,
        }
    }

    /// Returns which kind may join what is in flight; what is harmless always may. A suspect travels alone, so that it is clear
    /// what ended a connection. The others are asked for together, in turn with the suspects.
    fn next_kind(&self, load: Load) -> Option<Risk> {
        if !self.suspects.is_empty() && (self.suspects_turn || self.risky.is_empty()) {
            return (load.risky == 0).then_some(Risk::Suspect);
        }
        (load.suspects == 0 && !self.risky.is_empty()).then_some(Risk::Risky)
    }
}

impl Partitions {
    /// Creates the partitions of a subscription. `whole` are the topics subscribed to as a whole, with their numbers of partitions.
    pub(super) fn new(mut list: Vec<Partition>, whole: &[(Arc<str>, u16)], mut rules: Rules) -> Partitions {
        let mut probes = Vec::new();
        for (topic, count) in whole.iter().filter(|(_, count)| *count <= MAX_ID) {
            let index = rules.names.len();
            probes.push(index);
            list.push(Partition::dormant(index, topic, *count, &rules.options));
            Arc::make_mut(&mut rules.names).push(topic, *count);
        }
        let order = in_order(&mut (0..rules.names.len()).map(|index| name(&rules.names, index)));
        let idle = (0..).zip(&list).filter(|(_, partition)| partition.state() == State::Idle);
        let due: VecDeque<u32> = idle.map(|(index, _)| index).collect();
        Partitions {
            order,
            rules,
            open: due.len(),
            due,
            pauses: BinaryHeap::new(),
            probes,
            looks_for_added: false,
            list,
            stats: Stats::default(),
            gaps: Vec::new(),
        }
    }

    pub(super) fn get(&self, index: u32) -> &Partition {
        #[allow(clippy::indexing_slicing)] // Indices come from here.
        &self.list[index as usize]
    }

    /// Returns a partition's topic and id.
    pub(super) fn name(&self, index: u32) -> (&Arc<str>, u16) {
        self.rules.names.get(index)
    }

    /// Returns a partition and its index, if it belongs to the subscription.
    pub(super) fn find(&self, topic: &str, id: u16) -> Option<(u32, &Partition)> {
        let names = &self.rules.names;
        let at = self.order.binary_search_by_key(&(topic, id.into()), |&index| name(names, index)).ok()?;
        let index = *self.order.get(at)?;
        let partition = self.get(index);
        (!partition.is_probe()).then_some((index, partition))
    }

    pub(super) fn all_done(&self) -> bool {
        self.open == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Partition)> {
        (0..).zip(&self.list).filter(|(_, partition)| !partition.is_probe())
    }

    fn get_mut(&mut self, index: u32) -> (&mut Partition, &Rules) {
        #[allow(clippy::indexing_slicing)]
        (&mut self.list[index as usize], &self.rules)
    }

    /// Changes a partition, and keeps the lists in step with its state.
    pub(super) fn with<R>(&mut self, index: u32, change: impl FnOnce(&mut Partition, &Rules) -> R) -> R {
        let (partition, rules) = self.get_mut(index);
        let before = partition.state();
        let result = change(partition, rules);
        if partition.state() != before {
            self.place(index, before);
        }
        result
    }

    /// Puts a partition whose state was `before` into the list of its state, if there is one.
    fn place(&mut self, index: u32, before: State) {
        let state = self.get(index).state();
        self.open = self.open + usize::from(state != State::Done) - usize::from(before != State::Done);
        match state {
            State::Idle => self.due.push_back(index),
            State::Paused(until) => self.pauses.push(Reverse((until, index))),
            State::InFlight | State::InFlightThenPaused(_) | State::Done => {}
        }
    }

    /// Ends the pauses that are over.
    pub(super) fn wake(&mut self, now: Time) {
        while self.next_wake() <= now {
            let Some(Reverse((_, index))) = self.pauses.pop() else { return };
            self.with(index, |partition, _| partition.wake(now));
        }
    }

    /// Returns when the next pause ends.
    pub(super) fn next_wake(&self) -> Time {
        self.pauses.peek().map_or(Time::NEVER, |Reverse((until, _))| *until)
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Returns the next partition that must go to a leader's list.
    pub(super) fn next_due(&mut self) -> Option<u32> {
        while self.get(*self.due.front()?).state() != State::Idle {
            self.due.pop_front();
        }
        self.due.pop_front()
    }

    /// Takes the partitions that the next request names from those that a leader is to be asked for. Empty if there are none, or if
    /// what is in flight must be answered first.
    ///
    /// # Errors
    /// A partition whose next number cannot exist.
    pub(super) fn next_request(&mut self, wanted: &mut Wanted, load: Load) -> Result<Vec<(u32, Want)>> {
        // A list whose front is idle yields a request; others have been asked for since, or are done.
        for list in [&mut wanted.harmless, &mut wanted.risky, &mut wanted.suspects] {
            while list.front().is_some_and(|&index| self.get(index).state() != State::Idle) {
                list.pop_front();
            }
        }
        let mut request = Vec::new();
        let is_full = self.take_from(&mut wanted.harmless, &mut request)?;
        let harmless = request.len();
        if let (Some(kind), false) = (wanted.next_kind(load), is_full) {
            self.take_from(wanted.of(kind), &mut request)?;
            if request.len() > harmless {
                wanted.suspects_turn = kind == Risk::Risky;
            }
        }
        Ok(request)
    }

    /// Moves partitions from a list to a request, as many as it takes together. Returns whether it takes no more of any list.
    fn take_from(&mut self, list: &mut VecDeque<u32>, request: &mut Vec<(u32, Want)>) -> Result<bool> {
        let mut asked: u64 = request.iter().map(|(_, want)| u64::from(want.fetch_size)).sum();
        let mut others = Vec::new();
        let mut is_full = false;
        while !is_full {
            let Some(index) = list.pop_front() else { break };
            let Some(want) = self.get(index).wants(&self.rules)? else { continue };
            let first = request.first();
            if first.is_some_and(|(_, first)| want.alone || first.waits != want.waits) {
                others.push(index);
                continue;
            }
            asked += u64::from(want.fetch_size);
            if first.is_some() && asked > MAX_ASKED {
                list.push_front(index);
                is_full = true;
                continue;
            }
            request.push((index, want));
            self.with(index, |partition, _| partition.on_sent(want.waits));
            is_full = want.alone || request.len() == MAX_PARTITIONS;
        }
        for index in others.into_iter().rev() {
            list.push_front(index);
        }
        Ok(is_full)
    }

    /// Handles what an answer says about a partition. Returns what is left to do.
    pub(super) fn on_answer(&mut self, now: Time, index: u32, answer: PartitionAnswer) -> Next {
        let was_probe = self.get(index).is_probe();
        let next = self.with(index, |partition, rules| partition.on_answer(now, answer, rules));
        if was_probe && !self.get(index).is_probe() {
            self.on_new_partition(index);
        }
        next
    }

    /// Notes that retention took these numbers.
    pub(super) fn add_gap(&mut self, index: u32, first: u64, last: u64) {
        let (topic, id) = self.rules.names.get(index);
        let latest = self.gaps.iter_mut().rfind(|gap| gap.partition == id && gap.topic == *topic);
        match latest.filter(|gap| gap.last + 1 == first) {
            // Nothing was delivered in between.
            Some(gap) => gap.last = last,
            None => self.gaps.push(Gap { topic: topic.clone(), partition: id, first, last }),
        }
        // While retention is faster than the reader there is one more for each answer.
        if self.gaps.len() > MAX_GAPS {
            self.gaps.remove(0);
        }
    }

    /// Handles a partition that was added to a topic: it belongs to the subscription now, and another one may come after it.
    fn on_new_partition(&mut self, index: u32) {
        let (topic, id) = self.name(index);
        let topic = topic.clone();
        info!("{topic}/{id}: a new partition");
        self.probes.retain(|&probe| probe != index);
        if id >= MAX_ID {
            return;
        }
        let next_id = id + 1;
        let names = &mut self.rules.names;
        let next = names.len();
        let at = self.order.partition_point(|&index| names.get(index) < (&topic, next_id));
        self.order.insert(at, next);
        self.list.push(Partition::dormant(next, &topic, next_id, &self.rules.options));
        Arc::make_mut(names).push(&topic, next_id);
        self.probes.push(next);
        self.with(next, |partition, _| partition.probe());
    }

    /// Looks for partitions that were added.
    pub(super) fn probe(&mut self) {
        self.looks_for_added = false;
        for index in self.probes.clone() {
            self.with(index, |partition, _| partition.probe());
        }
    }

    /// Ends an answer about a partition. Returns whether it may be asked for again at `leader` at once: it has more than has
    /// arrived, and `leader` leads it.
    pub(super) fn on_end(&mut self, now: Time, index: u32, came_early: bool, leader: Option<&BrokerAddr>) -> bool {
        let (partition, rules) = self.get_mut(index);
        let before = partition.state();
        partition.on_end(now, came_early, rules);
        let is_led_here = leader.is_some() && partition.leader() == leader;
        let again = is_led_here && partition.state() == State::Idle && partition.is_behind();
        if !again {
            self.place(index, before);
        }
        again
    }

    /// Takes a partition back from a connection that failed with `e`.
    ///
    /// # Errors
    /// As [`Partition::on_lost`].
    pub(super) fn on_lost(&mut self, now: Time, index: u32, how: Lost, e: &Error) -> Result<()> {
        let (partition, rules) = self.get_mut(index);
        let before = partition.state();
        let lost = partition.on_lost(now, how, e, rules);
        self.place(index, before);
        lost
    }
}

/// A partition's topic and id, as they sort.
fn name(names: &Names, index: u32) -> (&str, u32) {
    let (topic, id) = names.get(index);
    (topic, id.into())
}

#[cfg(test)]
mod tests;
