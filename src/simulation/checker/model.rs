//! The model that sees both ends: every record handed in, every log, every answer delivered, every outcome reported.

mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::plan::worlds::World;
use super::plan::{Place, Plan};
use crate::broker::BrokerFault;
use crate::broker::host::Host;
use crate::broker::machine::{Appended, Machine};
use crate::net::Time;
use crate::simulation::Simulation;
use crate::simulation::nodes::SimulatedNodes;
use crate::{Error, Fault, Gap, Message};
pub(super) use verdict::client_id;

/// What is checked in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// What was reported stored is stored once, what was reported not stored is not, and in order.
    Truth,
    /// Each message once and in order, and every gap reported.
    Delivery,
    /// No call takes longer than documented.
    Time,
    /// When faults end, everything is through within a bound, and nothing fails that patience would have saved.
    Progress,
    /// Requests, connections and polls stay within bounds.
    Quiet,
    /// Sockets and pending bytes stay within the limits set.
    Room,
}

/// What a task was told of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Pending,
    Stored,
    NotStored,
    Unknown,
}

#[derive(Debug)]
struct Given {
    task: usize,
    place: Place,
    numbered: bool,
    outcome: Outcome,
    /// Since when it is to be stored.
    since: Duration,
    appends: Vec<Append>,
}

#[derive(Debug, Clone, Copy)]
struct Append {
    at: Time,
    node: usize,
    seq: u64,
}

/// Who leads a partition since when, and how far that node's own log went then.
#[derive(Debug, Clone, Copy)]
struct Term {
    at: Time,
    leader: Option<usize>,
    end: u64,
}

/// What a consumer was given of a partition, in the order in which it was.
#[derive(Debug, Default)]
struct Deliveries {
    all: Vec<(Time, u64, u32)>,
    /// The next number that is due, from the start of the present subscription on.
    position: u64,
    /// Where the present subscription begins in the list.
    began: usize,
    /// Something here kills nodes, and was skipped.
    skips: bool,
    /// How often its fetches had killed a node when the present subscription began, by number.
    deaths: BTreeMap<u64, u64>,
    /// Since when the present subscription stands, if it does.
    stands: Option<Time>,
}

impl Deliveries {
    fn session(&self) -> &[(Time, u64, u32)] {
        &self.all[self.began..]
    }
}

#[derive(Debug, Default)]
struct Inner {
    given: Vec<Given>,
    /// Every record that was ever at this number.
    contents: BTreeMap<(Place, u64), Vec<u32>>,
    /// The last record of a task that was appended to a partition.
    latest: BTreeMap<(usize, Place), u32>,
    leaders: BTreeMap<Place, Vec<Term>>,
    deliveries: BTreeMap<(usize, Place), Deliveries>,
    /// Partitions whose log may end in the middle of a bundle: nobody writes there any more.
    torn: BTreeSet<Place>,
    /// What retention has taken up to, without it.
    first: BTreeMap<Place, u64>,
    counts: BTreeMap<&'static str, u64>,
    /// How often leaders had changed at the last look.
    moves: u64,
}

/// What a run has handed in, stored, delivered and been told, each held against the others as soon as it is known.
pub(super) struct Model {
    sim: Simulation,
    nodes: Arc<SimulatedNodes>,
    pub(super) topics: Vec<String>,
    cluster: bool,
    retention: bool,
    /// Whether anything goes wrong in this run.
    pub(super) troubled: bool,
    troubles: String,
    prompt: Option<verdict::Prompt>,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Model")
    }
}

/// The payload of a record: its number, then this many more bytes.
pub(super) fn payload(id: u32, padding: usize) -> Vec<u8> {
    let mut payload = format!("{id:08x}").into_bytes();
    payload.resize(8 + padding, b'.');
    payload
}

pub(super) fn id_of(payload: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(payload.get(..8)?).ok()?, 16).ok()
}

impl Model {
    pub(super) fn new(
        sim: Simulation,
        nodes: Arc<SimulatedNodes>,
        topics: Vec<String>,
        cluster: bool,
        plan: &Plan,
    ) -> Model {
        let list: Vec<String> = plan.troubles.iter().map(ToString::to_string).collect();
        // A broker that closes idle connections may do so just as a request comes.
        let troubled = !list.is_empty() || plan.options.idle_timeout.is_some() || plan.world == World::Gaps;
        let (troubles, prompt, inner) = (list.join(", "), verdict::Prompt::of(plan), Mutex::default());
        Model { sim, nodes, topics, cluster, retention: plan.retention, troubled, troubles, prompt, inner }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the run: the simulation adds the seed and the last events.
    pub(super) fn violated(&self, property: Property, what: &str) -> ! {
        let mut killed = None;
        self.nodes.look(&mut |machine: &Machine| killed = machine.killed_by().map(str::to_owned));
        let killed = killed.map_or_else(String::new, |why| format!(" (a node has died of: {why})"));
        panic!("{property:?} violated: {what}{killed}\ntrouble: {}", self.troubles)
    }

    pub(super) fn count(&self, what: &'static str, n: u64) {
        *self.lock().counts.entry(what).or_default() += n;
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counts.clone()
    }

    fn place_of(&self, topic: &str, partition: u16) -> Option<Place> {
        let topic = self.topics.iter().position(|name| name == topic)?;
        Some(Place { topic, partition })
    }

    pub(super) fn name(&self, place: Place) -> String {
        format!("{}/{}", self.topics[place.topic], place.partition)
    }

    /// A new record of a task for this partition.
    pub(super) fn give(&self, task: usize, place: Place, numbered: bool) -> u32 {
        let mut inner = self.lock();
        let (outcome, since) = (Outcome::Pending, self.sim.now());
        inner.given.push(Given { task, place, numbered, outcome, since, appends: Vec::new() });
        *inner.counts.entry("records").or_default() += 1;
        inner.given.len() as u32 - 1
    }

    /// Takes in what has been appended since the last look, and who leads.
    pub(super) fn observe(&self) {
        let (mut news, mut leaders): (Vec<Appended>, _) = (Vec::new(), Vec::new());
        let (seen, mut moves, mut is_new) = (self.lock().moves, 0, false);
        self.nodes.look(&mut |machine: &Machine| is_new = machine.has_news(seen));
        if !is_new {
            return;
        }
        self.nodes.act(&mut |machine: &mut Machine, _| {
            news.extend(std::iter::from_fn(|| machine.appended()));
            moves = machine.leader_changes();
            if moves == seen {
                return;
            }
            for (topic, partitions) in machine.topics() {
                let Some(index) = self.topics.iter().position(|name| **name == *topic) else { continue };
                for partition in 0..partitions {
                    let place = Place { topic: index, partition };
                    let leader = machine.leader(&topic, partition).flatten();
                    let end = leader.and_then(|leader| machine.log_end(leader, &topic, partition));
                    leaders.push((place, leader, end.unwrap_or(0)));
                }
            }
        });
        self.lock().moves = moves;
        let now = Time::ZERO.after(self.sim.now());
        for (place, leader, end) in leaders {
            let mut inner = self.lock();
            let changes = inner.leaders.entry(place).or_default();
            if changes.last().is_none_or(|last| last.leader != leader) {
                changes.push(Term { at: now, leader, end });
            }
        }
        for appended in news {
            self.appended(&appended);
        }
    }

    /// As [`observe`](Model::observe), and counts the sockets.
    pub(super) fn look_around(&self, most: usize) {
        self.observe();
        let open = self.sim.open_sockets(super::plan::CLIENT);
        self.check_prompt();
        if open > most {
            self.violated(Property::Room, &format!("{open} sockets are open, at most {most} are needed"));
        }
    }

    /// Retention takes about half of each log.
    pub(super) fn take_first(&self) {
        self.observe();
        for (place, end) in self.ends().into_iter().filter(|(_, end)| *end > 1) {
            let topic = &self.topics[place.topic];
            self.nodes.act(&mut |machine: &mut Machine, _| {
                machine.truncate_front(topic, place.partition, end / 2);
            });
            self.lock().first.insert(place, end / 2);
        }
    }

    pub(super) fn tears(&self, place: Place) {
        self.lock().torn.insert(place);
    }

    pub(super) fn is_torn(&self, place: Place) -> bool {
        self.lock().torn.contains(&place)
    }

    /// From now on a node says of all partitions that they have no leader.
    pub(super) fn knows_no_leader(&self, node: usize) {
        let fault = BrokerFault::RefuseConsume(Fault::NoLeader);
        self.nodes.act(&mut |machine: &mut Machine, _| machine.inject(node, fault.clone(), u64::from(u16::MAX)));
    }

    /// Lets the next bundle begin a segment.
    pub(super) fn begin_segment(&self, place: Place) {
        let topic = &self.topics[place.topic];
        self.nodes.act(&mut |machine: &mut Machine, _| {
            machine.roll_segment(topic, place.partition);
        });
    }

    fn appended(&self, appended: &Appended) {
        let Some(place) = self.place_of(&appended.topic, appended.partition) else { return };
        for (seq, payload) in appended.messages() {
            let Some(id) = id_of(&payload) else { continue };
            let mut inner = self.lock();
            let ids = inner.contents.entry((place, seq)).or_default();
            let others = ids.clone();
            if !ids.contains(&id) {
                ids.push(id);
            }
            let other = others.into_iter().find(|&other| other != id && inner.given[other as usize].numbered);
            let Some(given) = inner.given.get_mut(id as usize) else { continue };
            let before = given.appends.clone();
            given.appends.push(Append { at: appended.at, node: appended.node, seq });
            let (outcome, numbered, task) = (given.outcome, given.numbered, given.task);
            let latest = inner.latest.get(&(task, place)).copied();
            if before.is_empty() {
                *inner.counts.entry("appended").or_default() += 1;
                inner.latest.insert((task, place), id);
            }
            drop(inner);
            let what = || format!("record {id:08x} of task {task} in {} at {seq}", self.name(place));
            if outcome == Outcome::NotStored {
                self.violated(Property::Truth, &format!("{} is appended after it was reported not stored", what()));
            }
            if !numbered && !before.is_empty() {
                self.violated(Property::Truth, &format!("{} is appended twice", what()));
            }
            // Whoever numbers its records never gives a number to two of them.
            if let Some(other) = other.filter(|_| numbered) {
                self.violated(Property::Truth, &format!("{}, a number that {other:08x} had", what()));
            }
            if let Some(other) = before.iter().find(|other| other.seq != seq) {
                let text = format!("{} is appended at {} too, on node {}", what(), other.seq, other.node);
                self.violated(Property::Truth, &text);
            }
            if let Some(later) = latest.filter(|&later| before.is_empty() && later > id) {
                self.violated(Property::Truth, &format!("{} is appended after {later:08x}", what()));
            }
        }
    }

    /// Notes what a task was told of its records.
    pub(super) fn reported(&self, ids: impl IntoIterator<Item = u32>, outcome: Outcome, why: &str) {
        self.observe();
        for id in ids {
            let mut inner = self.lock();
            let given = &mut inner.given[id as usize];
            given.outcome = outcome;
            if outcome == Outcome::Pending {
                given.since = self.sim.now();
            }
            let (appended, place) = (!given.appends.is_empty(), given.place);
            *inner
                .counts
                .entry(match outcome {
                    Outcome::Stored => "stored",
                    Outcome::NotStored => "not stored",
                    Outcome::Unknown => "unknown",
                    Outcome::Pending => "again",
                })
                .or_default() += 1;
            drop(inner);
            let what = || format!("record {id:08x} for {}", self.name(place));
            match outcome {
                Outcome::Stored if !appended => {
                    self.violated(Property::Truth, &format!("{} is reported stored and in no log", what()));
                }
                Outcome::Stored => self.check_confirmed(id, place),
                Outcome::NotStored if appended => {
                    self.violated(Property::Truth, &format!("{} is reported not stored and in a log: {why}", what()));
                }
                Outcome::NotStored | Outcome::Unknown if !self.troubled => {
                    self.violated(Property::Progress, &format!("{} fails in a world without trouble: {why}", what()));
                }
                _ => {}
            }
        }
    }

    /// A consumer is given a message.
    pub(super) fn delivered(&self, consumer: usize, message: &Message, gaps: &[Gap]) {
        let (topic, partition, seq) = (message.topic(), message.partition(), message.seq());
        let payload = message.payload();
        self.observe();
        let place = self.place_of(topic, partition);
        let (Some(place), Some(id)) = (place, id_of(payload)) else {
            self.violated(Property::Delivery, &format!("a message of {topic}/{partition} that nobody sent"))
        };
        let now = Time::ZERO.after(self.sim.now());
        let mut inner = self.lock();
        let known = inner.contents.get(&(place, seq)).is_some_and(|ids| ids.contains(&id));
        *inner.counts.entry("delivered").or_default() += 1;
        let Inner { leaders, deliveries, given, .. } = &mut *inner;
        let entry = deliveries.entry((consumer, place)).or_default();
        let position = std::mem::replace(&mut entry.position, seq + 1);
        // Numbers that were lost with a leader and given to other records; or the same record, if a leader has led meanwhile
        // whose log ended below it: the subscription's policy has moved the position back to that end.
        let terms = leaders.get(&place).map_or(&[][..], Vec::as_slice);
        let again = seq < position && terms.len() > 1 && {
            let before =
                entry.session().iter().rfind(|&&(_, old, other)| (old, other) == (seq, id)).map(|(at, ..)| *at);
            let appends = given.get(id as usize).map_or(&[][..], |given| &given.appends);
            let was_short = |term: &Term| term.leader.is_some() && term.end < seq;
            before.is_none_or(|before| {
                appends.iter().any(|append| append.at > before)
                    || terms.iter().any(|term| term.at > before && was_short(term))
            })
        };
        entry.all.push((now, seq, id));
        if again {
            *inner.counts.entry("given again").or_default() += 1;
        }
        drop(inner);
        let what = || format!("consumer {consumer} is given {id:08x} as {} {seq}", self.name(place));
        if !known {
            self.violated(Property::Delivery, &format!("{}, which was never there", what()));
        }
        self.check_skipped(consumer, place, position, seq, gaps);
        if seq < position && !again {
            let inner = self.lock();
            let leaders = inner.leaders.get(&place).cloned();
            let last: Vec<_> =
                inner.deliveries[&(consumer, place)].session().iter().rev().skip(1).take(3).copied().collect();
            let appends = inner.given.get(id as usize).map(|given| given.appends.clone());
            drop(inner);
            let text = format!(
                "{}, after {}; before {last:x?}; appended {appends:?}; leaders {leaders:?}; {}",
                what(),
                position - 1,
                self.unsettled()
            );
            self.violated(Property::Delivery, &text);
        }
    }

    /// The end of every partition's log at its leader.
    pub(super) fn ends(&self) -> BTreeMap<Place, u64> {
        let mut ends = BTreeMap::new();
        self.nodes.look(&mut |machine: &Machine| {
            for (index, topic) in self.topics.iter().enumerate() {
                let count = machine.topics().into_iter().find(|(name, _)| **name == **topic).map_or(0, |(_, n)| n);
                for partition in 0..count {
                    let leader = machine.leader(topic, partition).flatten();
                    let end = leader.and_then(|leader| machine.log_end(leader, topic, partition));
                    ends.insert(Place { topic: index, partition }, end.unwrap_or(0));
                }
            }
        });
        ends
    }

    /// The position of a consumer.
    pub(super) fn position(&self, consumer: usize, place: Place) -> u64 {
        let inner = self.lock();
        inner.deliveries.get(&(consumer, place)).map_or(0, |entry| if entry.skips { u64::MAX } else { entry.position })
    }

    /// Calls something that must not take longer than this.
    pub(super) fn timed<T>(&self, what: &str, most: Duration, call: impl FnOnce() -> T) -> T {
        let began = self.sim.now();
        let value = call();
        let took = self.sim.now() - began;
        if took > most {
            self.violated(Property::Time, &format!("{what} takes {took:?}, at most {most:?} are documented"));
        }
        value
    }

    /// An error in a world whose trouble is shorter than the patience of its clients.
    pub(super) fn failed(&self, what: &str, e: &Error) -> ! {
        self.violated(Property::Progress, &format!("{what} fails: {e:?}"))
    }
}
