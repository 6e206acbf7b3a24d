//! What the model makes of what it has seen.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Append, Model, Outcome, Property, id_of};
use crate::Gap;
use crate::broker::host::Host;
use crate::broker::machine::Machine;
use crate::net::Time;
use crate::simulation::checker::plan::{Place, Plan};

/// Messages of two leaders in one turn: two answers, each of up to fifty records and a bundle that was on its way.
const TURN: usize = 150;

impl Model {
    /// What can only be said when everything is over.
    pub(in super::super) fn finish(&self) {
        self.observe();
        let read: Vec<(usize, Place)> = self.lock().deliveries.keys().copied().collect();
        for (consumer, place) in read {
            self.check_deaths(consumer, place);
        }
        let places: Vec<Place> = self.ends().into_keys().collect();
        for place in places {
            let mut log = Vec::new();
            self.nodes.look(&mut |machine: &Machine| {
                let topic = &self.topics[place.topic];
                if let Some(leader) = machine.leader(topic, place.partition).flatten() {
                    log = machine.log_messages(leader, topic, place.partition);
                }
            });
            let log: Vec<(u64, u32)> =
                log.into_iter().filter_map(|(seq, payload)| Some((seq, id_of(&payload)?))).collect();
            self.check_log(place, &log);
            self.check_deliveries(place, &log);
        }
    }

    /// A consumer that had much to read from each of its partitions was soon given something of each.
    pub(in super::super) fn check_turns(&self, consumer: usize) {
        let inner = self.lock();
        let read = inner.deliveries.iter().filter(|((task, _), _)| *task == consumer);
        let firsts: Vec<(Place, Time)> =
            read.clone().filter_map(|((_, place), of)| Some((*place, of.all.first()?.0))).collect();
        let before = |time: Time| read.clone().flat_map(|(_, of)| &of.all).filter(|(at, ..)| *at < time).count();
        let late = firsts.into_iter().map(|(place, time)| (place, before(time))).find(|(_, count)| *count > TURN);
        drop(inner);
        if let Some((place, count)) = late {
            let text =
                format!("consumer {consumer} is given {count} messages before the first of {}", self.name(place));
            self.violated(Property::Progress, &text);
        }
    }

    fn check_log(&self, place: Place, log: &[(u64, u32)]) {
        for pair in log.windows(2) {
            if let [(before, _), (seq, id)] = *pair {
                if seq <= before {
                    let text = format!("{}: {id:08x} has number {seq} after {before}", self.name(place));
                    self.violated(Property::Truth, &text);
                }
            }
        }
        let mut at: BTreeMap<u32, u64> = BTreeMap::new();
        for &(seq, id) in log {
            if let Some(first) = at.insert(id, seq) {
                let text = format!("{}: {id:08x} is stored twice, at {first} and {seq}", self.name(place));
                self.violated(Property::Truth, &text);
            }
        }
        let inner = self.lock();
        let changes = inner.leaders.get(&place);
        let mut missing = None;
        for (given, id) in inner.given.iter().zip(0u32..) {
            if given.place != place || given.outcome != Outcome::Stored || at.contains_key(&id) {
                continue;
            }
            // It may have gone with a leader that died, if another node has led since: an injected loss.
            let since = given.appends.first().map_or(Time::ZERO, |append| append.at);
            let is_other = |node: usize| given.appends.iter().all(|append| append.node != node);
            let mut moves = changes.into_iter().flatten();
            let moved = moves.any(|term| term.at > since && term.leader.is_some_and(is_other));
            if !(self.retention || moved) {
                missing.get_or_insert(id);
            }
        }
        drop(inner);
        if let Some(id) = missing {
            let text = format!("{id:08x} was reported stored and is not in {}", self.name(place));
            self.violated(Property::Truth, &text);
        }
    }

    fn check_deliveries(&self, place: Place, log: &[(u64, u32)]) {
        let inner = self.lock();
        let mut missed = None;
        for ((consumer, of), entry) in &inner.deliveries {
            if *of != place || entry.skips {
                continue;
            }
            let mut seen: Vec<(u64, u32)> = entry.all.iter().map(|&(_, seq, id)| (seq, id)).collect();
            seen.sort_unstable();
            for &(seq, id) in log {
                let was_taken = inner.first.get(&place).is_some_and(|&first| seq < first);
                if was_taken || seen.binary_search(&(seq, id)).is_ok() {
                    continue;
                }
                // The log of a leader that came back is not cut: this consumer was given what another one had there.
                if entry.all.iter().any(|&(_, other, _)| other == seq) {
                    continue;
                }
                // Given again below a position that was reached before.
                let passed = entry.all.iter().find(|(_, other, _)| *other >= seq).map(|(when, _, _)| *when);
                let appends = inner.given.get(id as usize).map(|given| given.appends.as_slice()).unwrap_or_default();
                let appended = appends.iter().map(|append| append.at).max().unwrap_or(Time::ZERO);
                if passed.is_none_or(|passed| passed >= appended) {
                    missed.get_or_insert((*consumer, seq, id));
                }
            }
        }
        drop(inner);
        if let Some((consumer, seq, id)) = missed {
            let inner = self.lock();
            let around = inner.deliveries.get(&(consumer, place)).map_or(Vec::new(), |entry| {
                entry.all.iter().filter(|(_, other, _)| other.abs_diff(seq) < 4).copied().collect()
            });
            let appends = inner.given.get(id as usize).map(|given| given.appends.clone());
            let leaders = inner.leaders.get(&place).cloned();
            drop(inner);
            let text = format!(
                "consumer {consumer} was never given {id:08x}, which is {} {seq}; around it {around:?}; \
                appended {appends:?}; leaders {leaders:?}",
                self.name(place)
            );
            self.violated(Property::Delivery, &text);
        }
    }

    /// What is reported stored is at another replica, whoever leads now; unless the server itself has promised more than there
    /// was.
    pub(super) fn check_confirmed(&self, id: u32, place: Place) {
        let Some(Append { at, node, seq }) = self.lock().given[id as usize].appends.last().copied() else { return };
        let mut may = false;
        self.nodes.look(&mut |machine: &Machine| {
            may = machine.may_confirm(node, &self.topics[place.topic], place.partition, seq, at);
        });
        if !may {
            let appends = self.lock().given[id as usize].appends.clone();
            let text = format!(
                "{id:08x} is reported stored, and no replica of {} has {seq}; appended {appends:?}; {}",
                self.name(place),
                self.unsettled()
            );
            self.violated(Property::Truth, &text);
        }
    }

    /// Of a log that loses nothing but by retention, each message that is passed over lies in a gap that was reported, and
    /// no gap claims more than was taken.
    pub(super) fn check_skipped(&self, consumer: usize, place: Place, position: u64, seq: u64, gaps: &[Gap]) {
        // From the earliest message on nothing can be missing.
        if self.cluster || position == 0 || position >= seq {
            return;
        }
        let mine = |gap: &&Gap| gap.partition == place.partition && *gap.topic == self.topics[place.topic];
        let inner = self.lock();
        let mut passed = inner.contents.range((place, position)..(place, seq)).map(|((_, seq), _)| *seq);
        let missed = passed.find(|seq| !gaps.iter().filter(mine).any(|gap| (gap.first..=gap.last).contains(seq)));
        drop(inner);
        if let Some(missed) = missed {
            let text = format!("consumer {consumer} passes over {} {missed} without a word", self.name(place));
            self.violated(Property::Delivery, &text);
        }
    }

    /// The state of every partition that is not the same everywhere.
    pub(in super::super) fn unsettled(&self) -> String {
        let mut text = String::new();
        self.nodes.look(&mut |machine: &Machine| {
            for (topic, count) in machine.topics() {
                for id in 0..count {
                    let nodes = machine.replicas(&topic, id).unwrap_or_default();
                    let state = |&node| (node, machine.log_end(node, &topic, id), machine.committed(node, &topic, id));
                    let states: Vec<_> = nodes.iter().map(state).collect();
                    let (leader, in_sync) = (machine.leader(&topic, id), machine.in_sync(&topic, id));
                    if states.windows(2).any(|pair| pair[0].1 != pair[1].1) || leader == Some(None) {
                        text += &format!(
                            "{topic}/{id}: leader {leader:?}, in sync {in_sync:?}, (node, end, mark) {states:?}; "
                        );
                    }
                }
            }
        });
        text
    }

    /// What the model knows of the end of a partition, and of what a consumer was given there.
    pub(in super::super) fn story(&self, consumer: usize, place: Place) -> String {
        let inner = self.lock();
        let last = inner.contents.range((place, 0)..=(place, u64::MAX)).next_back();
        let appends = last.map(|(_, ids)| ids.iter().map(|&id| (id, inner.given.get(id as usize))).collect::<Vec<_>>());
        let given =
            inner.deliveries.get(&(consumer, place)).map(|entry| entry.all.iter().rev().take(3).collect::<Vec<_>>());
        format!("last there: {appends:?}; last given: {given:?}; leaders {:?}", inner.leaders.get(&place))
    }
}

/// The client id of a task, as long as the usual one.
pub(in super::super) fn client_id(task: usize) -> String {
    format!("task {task:06}")
}

impl Model {
    /// How often fetches of a task for a partition have killed a node, by number.
    fn fetch_deaths(&self, task: usize, place: Place) -> BTreeMap<u64, u64> {
        let mut deaths = BTreeMap::new();
        let (client, topic) = (client_id(task), &self.topics[place.topic]);
        self.nodes.look(&mut |machine: &Machine| deaths = machine.fetch_deaths(&client, topic, place.partition));
        deaths
    }

    /// A consumer skips what kills nodes: nothing is asked of it there any more.
    pub(in super::super) fn skips(&self, consumer: usize, place: Place) {
        self.lock().deliveries.entry((consumer, place)).or_default().skips = true;
    }

    /// Returns whether a fetch of the present subscription for a partition has killed a node.
    pub(in super::super) fn is_deadly(&self, consumer: usize, place: Place) -> bool {
        let deaths = self.fetch_deaths(consumer, place);
        self.lock().deliveries.get(&(consumer, place)).is_some_and(|entry| deaths != entry.deaths)
    }

    /// A subscription to a partition is over, or begins: each number there may have killed two nodes, and one with the last
    /// request of the subscription before it, which a server executes late.
    pub(super) fn check_deaths(&self, consumer: usize, place: Place) {
        let deaths = self.fetch_deaths(consumer, place);
        let mut inner = self.lock();
        let entry = inner.deliveries.entry((consumer, place)).or_default();
        let before = std::mem::replace(&mut entry.deaths, deaths.clone());
        drop(inner);
        let new = |(seq, count): (&u64, &u64)| (*seq, count - before.get(seq).copied().unwrap_or(0));
        if let Some((seq, count)) = deaths.iter().map(new).find(|(_, count)| *count > 3) {
            let name = self.name(place);
            let text = format!("a subscription of consumer {consumer} killed {count} nodes with {seq} of {name}");
            self.violated(Property::Quiet, &text);
        }
    }

    /// A consumer begins, or begins again, at these numbers.
    pub(in super::super) fn begins(&self, consumer: usize, place: Place, position: u64) {
        self.check_deaths(consumer, place);
        let mut inner = self.lock();
        let entry = inner.deliveries.entry((consumer, place)).or_default();
        entry.position = position;
        entry.began = entry.all.len();
        entry.stands = None;
    }
}

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is promised, and what excuses delay.
#[derive(Debug)]
pub(super) struct Prompt {
    within: Duration,
    /// When each trouble begins and ends, but for nodes that never return: for those partitions get another leader.
    troubles: Vec<(Duration, Duration)>,
}

impl Prompt {
    pub(super) fn of(plan: &Plan) -> Option<Prompt> {
        let ends = plan.troubles.iter().filter(|_| plan.stays_away.is_none());
        let pause = |lasts: Duration| if lasts.is_zero() { lasts } else { LONGEST_PAUSE };
        let end = |lasts: Duration| lasts + pause(lasts);
        let troubles = ends.map(|trouble| (trouble.begins, trouble.begins + end(trouble.lasts))).collect();
        plan.prompt.map(|within| Prompt { within, troubles })
    }

    /// Since when nothing is wrong, if nothing is.
    fn well_since(&self, now: Duration) -> Option<Time> {
        let begun = self.troubles.iter().filter(|(begin, _)| *begin <= now);
        let last = begun.map(|(_, end)| *end).max().unwrap_or(Duration::ZERO);
        (last <= now).then_some(Time::ZERO.after(last))
    }
}

impl Model {
    /// A subscription that stands.
    pub(in super::super) fn subscribed(&self, consumer: usize) {
        let now = Time::ZERO.after(self.sim.now());
        let mut inner = self.lock();
        let mine = inner.deliveries.iter_mut().filter(|((task, _), _)| *task == consumer);
        mine.for_each(|(_, entry)| entry.stands = Some(now));
    }

    /// Whoever could be given something was given something lately.
    pub(super) fn check_prompt(&self) {
        let Some(prompt) = &self.prompt else { return };
        let now = self.sim.now();
        let Some(well) = prompt.well_since(now) else { return };
        let inner = self.lock();
        let mut given: BTreeMap<usize, Time> = BTreeMap::new();
        let mut waiting: BTreeMap<usize, (Time, Place)> = BTreeMap::new();
        for (&(consumer, place), entry) in &inner.deliveries {
            let last = entry.all.last().map_or(Time::ZERO, |(at, ..)| *at);
            given.entry(consumer).and_modify(|at| *at = last.max(*at)).or_insert(last);
            let next = inner.contents.range((place, entry.position.max(1))..=(place, u64::MAX)).next();
            let appended = next.and_then(|(_, ids)| inner.given.get(*ids.last()? as usize)?.appends.last());
            let led = inner.leaders.get(&place).and_then(|terms| terms.last()).filter(|term| term.leader.is_some());
            let (Some(stands), Some(appended), Some(led)) = (entry.stands, appended, led) else { continue };
            let since = well.max(stands).max(appended.at).max(led.at);
            waiting.entry(consumer).and_modify(|first| *first = (since, place).min(*first)).or_insert((since, place));
        }
        drop(inner);
        let late = |(consumer, (since, _)): &(usize, (Time, Place))| {
            Time::ZERO.after(now).since(given[consumer].max(*since)) > prompt.within
        };
        let Some((consumer, (since, place))) = waiting.into_iter().find(late) else { return };
        if self.is_led_by_the_living() {
            let name = self.name(place);
            let text = format!("consumer {consumer} is given nothing, at {now:?}, of {name} since {since:?}");
            self.violated(Property::Progress, &text);
        }
    }

    /// Returns whether no partition waits for another leader.
    pub(in super::super) fn is_led_by_the_living(&self) -> bool {
        let mut all = true;
        self.nodes.look(&mut |machine: &Machine| {
            for (topic, count) in machine.topics() {
                let leads = |id| machine.leader(&topic, id).flatten().is_some_and(|node| machine.listens(node));
                all &= (0..count).all(leads);
            }
        });
        all
    }

    /// Since when a record is to be stored.
    pub(in super::super) fn pending_since(&self, id: u32) -> Duration {
        self.lock().given.get(id as usize).map_or(Duration::ZERO, |given| given.since)
    }

    /// Returns whether a record that the task gave for the same partition after the first of these is in a log.
    pub(in super::super) fn has_later(&self, task: usize, ids: &[u32]) -> bool {
        self.observe();
        let inner = self.lock();
        let Some(&first) = ids.iter().min() else { return false };
        let place = inner.given.get(first as usize).map(|given| given.place);
        let later = inner.given.iter().skip(first as usize + 1);
        later.into_iter().any(|given| given.task == task && Some(given.place) == place && !given.appends.is_empty())
    }

    /// Bytes of the largest bundle of the first topic.
    pub(in super::super) fn largest_bundle(&self) -> u32 {
        let mut most = 0;
        self.nodes.look(&mut |machine: &Machine| most = machine.largest_bundle(&self.topics[0], 0));
        u32::try_from(most).unwrap_or(u32::MAX).max(1)
    }
}
