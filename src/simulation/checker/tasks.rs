//! What the tasks of a run do: ordinary code of a careful user, that tells the model what it is told.

mod reading;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::model::{Model, Outcome, Property, client_id, id_of, payload};
use super::plan::worlds::{WRITTEN_AT, World};
use super::plan::{NO_DESCRIPTORS, PATIENT, Place, Plan, SLOW, SLOW_NAME};
use crate::protocol::Limits;
use crate::simulation::Simulation;
use crate::simulation::random::Random;
use crate::{Client, CloseHandle, Error, ErrorKind, Failure, Fault, Producer, Record, TopicConfig};
pub(super) use reading::{consume, read_to_the_end, read_up_to_a_time};

/// Of `partitions`, each of which has a retry budget of its own: who leads them, and where their logs end.
const STEPS: u32 = 2;
/// Bytes that the system takes of a request at a time, over a slow line.
const SMALL_BUFFER: usize = 16 << 10;
/// A node that was away for less than half a second, and then no descriptors: there is nothing to wait for.
const AT_ONCE: Duration = Duration::from_secs(3);

/// What every task has.
#[derive(Clone)]
pub(super) struct TaskContext {
    pub(super) sim: Simulation,
    pub(super) model: Arc<Model>,
    pub(super) plan: Arc<Plan>,
    pub(super) brokers: String,
    pub(super) task: usize,
    pub(super) over: Arc<AtomicBool>,
    pub(super) handles: Arc<Mutex<Vec<CloseHandle>>>,
    /// The client of all tasks, if they have but one.
    pub(super) shared: Option<Client>,
}

impl TaskContext {
    fn random(&self) -> Random {
        Random::new(self.sim.seed(), 100 + self.task as u64)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn works(&self) -> bool {
        self.sim.now() < self.plan.work_ends
    }

    /// Bound of a call that tries again: the budget, and one try that began as it ended.
    fn most(&self) -> Duration {
        match self.plan.world {
            World::Descriptors => AT_ONCE,
            _ => self.plan.retry + 2 * self.plan.connect_timeout + self.plan.io_timeout + Duration::from_secs(9),
        }
    }

    /// As [`Model::timed`], for a call that may have to look names up, which nothing bounds.
    fn timed<T>(&self, what: &str, most: Duration, call: impl FnOnce() -> T) -> T {
        let names = if most.is_zero() { Duration::ZERO } else { self.slow_names() };
        self.model.timed(what, most + names, call)
    }

    fn slow_names(&self) -> Duration {
        let is_slow = self.plan.troubles.iter().any(|trouble| trouble.kind == SLOW_NAME);
        let each = if is_slow { self.plan.look_up.max(SLOW) } else { self.plan.look_up };
        each * (4 * self.plan.nodes as u32)
    }

    /// Returns whether this is a failure of a client that has not the patience for what happens; it must have tried for as long
    /// as it was told to.
    fn gave_up(&self, what: &str, began: Duration, e: &Error) -> bool {
        let took = self.sim.now() - began;
        if e.is_transient() && took < self.plan.retry {
            let text = format!("{what} gives up after {took:?} of {:?}: {e:?}", self.plan.retry);
            self.model.violated(Property::Progress, &text);
        }
        let is_impatient = self.plan.retry < PATIENT && self.plan.world != World::Spaced;
        self.model.troubled && is_impatient && e.is_transient()
    }

    /// Calls until it is not for want of descriptors that it fails, which is said at once, or for want of patience.
    fn patiently<T>(&self, what: &str, most: Duration, call: impl Fn() -> crate::Result<T>) -> T {
        loop {
            let began = self.sim.now();
            match self.timed(what, most, &call) {
                Ok(value) => return value,
                Err(e) if self.lacks_descriptors(&e) || self.gave_up(what, began, &e) => {
                    self.sim.sleep(Duration::from_millis(200));
                }
                Err(e) => self.model.failed(what, &e),
            }
        }
    }

    fn lacks_descriptors(&self, e: &Error) -> bool {
        let is_planned = self.plan.troubles.iter().any(|trouble| trouble.kind == NO_DESCRIPTORS);
        is_planned && format!("{e:#}").contains("os error 24")
    }

    pub(super) fn client(&self) -> Client {
        if let Some(client) = &self.shared {
            return client.clone();
        }
        let builder = self.sim.client().connect_timeout(self.plan.connect_timeout).io_timeout(self.plan.io_timeout);
        let builder =
            builder.client_id(client_id(self.task)).retry_timeout(self.plan.retry).wait_for_brokers(self.plan.retry);
        let builder = match self.plan.world {
            // A large request takes longer to send than a time-out, piece by piece.
            World::SlowLine => builder.send_buffer(SMALL_BUFFER),
            World::Exact => builder.limits(Limits::default().bundle(self.model.largest_bundle())),
            _ => builder,
        };
        self.patiently("connect", self.most(), || builder.connect(self.brokers.as_str()))
    }

    fn topic(&self, place: Place) -> &str {
        &self.model.topics[place.topic]
    }

    /// Some records, and their numbers.
    fn records(&self, random: &mut Random, place: Place, numbered: bool) -> Vec<(u32, Vec<u8>)> {
        let most = [2, 10, 40][random.below(3) as usize];
        let count = 1 + random.below(most);
        (0..count)
            .map(|_| {
                let id = self.model.give(self.task, place, numbered);
                // A bundle may be larger than what is read at once.
                let (is_slow, is_large) = (self.plan.world == World::SlowLine, self.plan.world == World::Exact);
                let size = if is_large { 400_000 } else { 20_000 };
                let is_long = random.one_in(if is_slow {
                    5
                } else if is_large {
                    8
                } else {
                    50
                });
                let padding = if is_long { size } else { random.below(200) as usize };
                let mut payload = payload(id, padding);
                // What compresses well is soon through.
                payload.iter_mut().skip(8).filter(|_| is_slow || is_large).for_each(|byte| *byte = random.next() as u8);
                (id, payload)
            })
            .collect()
    }
}

/// A producer that sends, looks, flushes, and takes back what failed.
pub(super) fn produce(cx: &TaskContext, idempotent: bool, places: &[Place]) {
    let mut random = cx.random();
    let client = cx.client();
    let builder = client.producer().max_age(Duration::from_millis(random.below(200)));
    let builder = builder.max_records(1 + random.below(50) as u32).window(1 + random.below(5) as usize);
    let built = if idempotent { builder.idempotent() } else { builder }.build();
    let mut producer = built.unwrap_or_else(|e| cx.model.failed("build", &e));
    let mut pending: BTreeMap<Place, Vec<u32>> = BTreeMap::new();
    while cx.works() {
        let place = places[random.below(places.len() as u64) as usize];
        let records = if cx.model.is_torn(place) { Vec::new() } else { cx.records(&mut random, place, idempotent) };
        for (id, payload) in records {
            let mut sent = send(cx, &mut producer, place, &payload);
            while let Err(Error { kind: ErrorKind::Undelivered { .. }, .. }) = sent {
                take_back(cx, &mut random, &mut producer, idempotent, &mut pending);
                if cx.model.is_torn(place) {
                    break;
                }
                sent = send(cx, &mut producer, place, &payload);
            }
            match sent {
                Ok(()) => pending.entry(place).or_default().push(id),
                Err(e @ Error { kind: ErrorKind::Full { .. } | ErrorKind::Undelivered { .. }, .. }) => {
                    cx.model.reported([id], Outcome::NotStored, &e.to_string())
                }
                Err(e) => cx.model.failed("send", &e),
            }
        }
        cx.sim.sleep(Duration::from_millis(random.below(400)));
        if random.one_in(6) {
            flush(cx, &mut random, &mut producer, idempotent, &mut pending);
        } else if cx.timed("poll", Duration::ZERO, || producer.poll()).is_err() {
            take_back(cx, &mut random, &mut producer, idempotent, &mut pending);
        }
    }
    while !flush(cx, &mut random, &mut producer, idempotent, &mut pending) {}
}

fn send(cx: &TaskContext, producer: &mut Producer, place: Place, payload: &[u8]) -> crate::Result<()> {
    // No workload fills a producer, so that it only ever waits for names.
    cx.model.timed("send", cx.slow_names(), || producer.send_to(cx.topic(place), place.partition, Record::new(payload)))
}

/// Returns whether everything is stored.
fn flush(
    cx: &TaskContext,
    random: &mut Random,
    producer: &mut Producer,
    idempotent: bool,
    pending: &mut BTreeMap<Place, Vec<u32>>,
) -> bool {
    // Each bundle that is stored in between gives those after it a budget of their own.
    let most = if cx.plan.retry < PATIENT { cx.most() * 10 } else { cx.most() * 2 };
    let flushed = cx.timed("flush", most, || producer.flush());
    match flushed {
        Ok(()) => {}
        Err(Error { kind: ErrorKind::Undelivered { .. }, .. }) => take_back(cx, random, producer, idempotent, pending),
        Err(e) => cx.model.failed("flush", &e),
    }
    if producer.pending() > 0 {
        return false;
    }
    let stored: Vec<u32> = std::mem::take(pending).into_values().flatten().collect();
    cx.model.reported(stored, Outcome::Stored, "");
    true
}

fn ids_of(failure: &Failure) -> Vec<u32> {
    failure.records().map(|record| id_of(record.payload()).unwrap_or(u32::MAX)).collect()
}

/// What fails for want of patience was tried for as long as it was to be: the first record of its partition that comes back has
/// waited for so long.
fn check_patience(cx: &TaskContext, failures: &[Failure]) {
    for of_partition in failures.chunk_by(|a, b| (a.topic(), a.partition()) == (b.topic(), b.partition())) {
        // What was in flight with a record of unknown outcome fails with it.
        if of_partition.iter().any(Failure::is_unknown) {
            continue;
        }
        let is_spent = |failure: &&Failure| failure.error().is_transient();
        let ids: Vec<u32> = of_partition.iter().flat_map(ids_of).collect();
        let Some(failure) = of_partition.iter().find(is_spent) else { continue };
        let since = ids.iter().map(|&id| cx.model.pending_since(id)).min().unwrap_or_default();
        let took = cx.sim.now() - since;
        // What lies before something stored is not sent again: that would change the order.
        if took < cx.plan.retry && !cx.model.has_later(cx.task, &ids) {
            let text = format!("a producer gives up after {took:?} of {:?}: {:#}", cx.plan.retry, failure.error());
            cx.model.violated(Property::Progress, &text);
        }
    }
}

/// Returns whether a log may end in the middle of a bundle: whoever stores more there stores what nobody can read.
fn is_trouble_with_files(e: &Error) -> bool {
    e.fault() == Some(Fault::System)
}

/// Takes back what failed: an idempotent producer may send all of it again, a plain one drops it.
fn take_back(
    cx: &TaskContext,
    random: &mut Random,
    producer: &mut Producer,
    idempotent: bool,
    pending: &mut BTreeMap<Place, Vec<u32>>,
) {
    let mut failed: BTreeMap<Place, u32> = BTreeMap::new();
    let mut ids = Vec::new();
    check_patience(cx, producer.failures());
    for failure in producer.failures() {
        let topic = cx.model.topics.iter().position(|name| name == failure.topic()).unwrap_or(0);
        let place = Place { topic, partition: failure.partition() };
        let outcome = if failure.is_unknown() { Outcome::Unknown } else { Outcome::NotStored };
        let why = format!("{:#}", failure.error());
        if [Some(failure.error()), failure.error().cause()].into_iter().flatten().any(is_trouble_with_files) {
            cx.model.tears(place);
        }
        // Of one node no log comes back, and nobody else writes there.
        if cx.plan.nodes == 1
            && matches!(
                failure.error().kind,
                ErrorKind::Broker { fault: Fault::AnotherWriter { .. } | Fault::SeqNotAbove { .. }, .. }
            )
        {
            cx.model
                .violated(Property::Truth, &format!("{} is said to have another writer: {why}", cx.model.name(place)));
        }
        for id in ids_of(failure) {
            if let Some(before) = failed.insert(place, id).filter(|&before| before > id) {
                let text = format!("{id:08x} comes back after {before:08x} from {}", cx.model.name(place));
                cx.model.violated(Property::Truth, &text);
            }
            ids.push((place, id, outcome, why.to_string()));
        }
    }
    for (place, id, outcome, why) in &ids {
        cx.model.reported([*id], *outcome, why);
        let known = pending.entry(*place).or_default();
        match known.iter().position(|known| known == id) {
            Some(index) => drop(known.remove(index)),
            None => cx.model.violated(Property::Truth, &format!("{id:08x} comes back and was not pending")),
        }
    }
    if idempotent && !random.one_in(4) {
        let is_torn = |topic: &str, partition| {
            let topic = cx.model.topics.iter().position(|name| name == topic).unwrap_or(0);
            cx.model.is_torn(Place { topic, partition })
        };
        let _ = producer.retry_failures(|failure| !is_torn(failure.topic(), failure.partition()));
        for (place, id, ..) in ids.into_iter().filter(|(place, ..)| !cx.model.is_torn(*place)) {
            cx.model.reported([id], Outcome::Pending, "");
            let known = pending.entry(place).or_default();
            let index = known.partition_point(|&known| known < id);
            known.insert(index, id);
        }
    } else {
        drop(producer.take_failures());
    }
}

/// Publishes, one call after the other.
pub(super) fn publish(cx: &TaskContext, places: &[Place], rarely: bool) {
    let mut random = cx.random();
    let client = cx.client();
    if matches!(cx.plan.world, World::Grows | World::UntilTime) {
        cx.sim.sleep(Duration::from_millis(WRITTEN_AT));
    }
    while cx.works() {
        let place = places[random.below(places.len() as u64) as usize];
        let records = cx.records(&mut random, place, false);
        let list: Vec<Record<'_>> = records.iter().map(|(_, payload)| Record::new(payload)).collect();
        let began = cx.sim.now();
        let published = cx.timed("publish", cx.most(), || client.publish(cx.topic(place), place.partition, &list));
        let ids = records.iter().map(|(id, _)| *id);
        match published {
            Ok(()) => cx.model.reported(ids, Outcome::Stored, ""),
            Err(e @ Error { kind: ErrorKind::OutcomeUnknown, .. }) => {
                cx.model.reported(ids, Outcome::Unknown, &format!("{e:#}"))
            }
            Err(e) => {
                cx.gave_up("publish", began, &e);
                cx.model.reported(ids, Outcome::NotStored, &format!("{e:#}"));
            }
        }
        cx.sim.sleep(Duration::from_millis(random.below(if rarely { 18_500 } else { 1500 })));
    }
}

/// Copies into a partition of its own, with numbers; what became of an unknown outcome it asks the only broker.
pub(super) fn mirror(cx: &TaskContext, place: Place) {
    let mut random = cx.random();
    let client = cx.client();
    let (topic, mut next) = (cx.topic(place), 1);
    while cx.works() {
        if cx.plan.world == World::Gaps && next > 1 && random.one_in(4) {
            cx.model.begin_segment(place);
            next += 1 + random.below(20);
        }
        let records = cx.records(&mut random, place, true);
        let list: Vec<(u64, Record<'_>)> =
            (next..).zip(records.iter().map(|(_, payload)| Record::new(payload))).collect();
        let ids: Vec<u32> = records.iter().map(|(id, _)| *id).collect();
        loop {
            let published = cx.timed("publish_at", cx.most() * 2, || client.publish_at(topic, place.partition, &list));
            let Err(e) = published else {
                next += ids.len() as u64;
                break cx.model.reported(ids, Outcome::Stored, "");
            };
            let unknown = e.kind == ErrorKind::OutcomeUnknown;
            cx.model.reported(
                ids.clone(),
                if unknown { Outcome::Unknown } else { Outcome::NotStored },
                &format!("{e:#}"),
            );
            let found = cx.patiently("partitions", cx.most() * STEPS, || client.partitions(topic));
            if found[usize::from(place.partition)].high_water_mark >= next {
                next += ids.len() as u64;
                break cx.model.reported(ids, Outcome::Stored, "");
            }
            cx.model.reported(ids.clone(), Outcome::Pending, "");
            cx.sim.sleep(Duration::from_millis(random.below(500)));
        }
        cx.sim.sleep(Duration::from_millis(random.below(1500)));
    }
}

/// Makes a topic, which is there once that has succeeded.
fn make(cx: &TaskContext, client: &Client, partitions: u16) {
    let name = format!("made-{}", cx.task);
    match client.create_topic(&name, partitions, &TopicConfig::new()) {
        Ok(()) => {
            let found = cx.patiently("partitions", cx.most() * STEPS, || client.partitions(&name));
            if found.len() != usize::from(partitions) {
                cx.model.violated(
                    Property::Truth,
                    &format!("{name} was made with {partitions} partitions, not {}", found.len()),
                );
            }
        }
        Err(e) if cx.model.troubled || cx.plan.retry < PATIENT => {
            cx.model.count(if e.is_transient() { "not made" } else { "perhaps made" }, 1)
        }
        Err(e) => cx.model.failed("create_topic", &e),
    }
}

/// Asks for the number at a time: one of the log, or the one after it.
fn search(cx: &TaskContext, client: &Client, random: &mut Random) {
    let topic = random.below(cx.plan.partitions.len() as u64) as usize;
    let place = Place { topic, partition: random.below(cx.plan.partitions[topic].into()) as u16 };
    let time = cx.sim.wall_clock() - Duration::from_millis(random.below(20_000));
    match client.seq_at(cx.topic(place), place.partition, time) {
        // A new leader may have less.
        Ok(seq) if cx.plan.nodes == 1 && !(1..=cx.model.ends()[&place] + 1).contains(&seq) => {
            cx.model.violated(Property::Delivery, &format!("{} has {seq} at {time:?}", cx.model.name(place)));
        }
        Ok(_) => cx.model.count("searches", 1),
        Err(_) if cx.model.troubled => cx.model.count("searches that failed", 1),
        Err(e) => cx.model.failed("seq_at", &e),
    }
}

/// Asks brokers what they know.
pub(super) fn administer(cx: &TaskContext) {
    let mut random = cx.random();
    let client = cx.client();
    if random.one_in(3) {
        cx.sim.sleep(Duration::from_millis(random.below(10_000)));
        make(cx, &client, 1 + random.below(4) as u16);
    }
    while cx.works() {
        let began = cx.sim.now();
        let failed = match random.below(5) {
            0 => cx.timed("topics", cx.most(), || client.topics()).err(),
            1 => cx.timed("status", cx.most(), || client.status()).err(),
            2 => {
                search(cx, &client, &mut random);
                None
            }
            _ => {
                let topic = random.below(cx.plan.partitions.len() as u64) as usize;
                let name = &cx.model.topics[topic];
                match cx.timed("partitions", cx.most() * STEPS, || client.partitions(name)) {
                    Ok(found) if found.len() != usize::from(cx.plan.partitions[topic]) => {
                        cx.model.violated(Property::Truth, &format!("{name} has {} partitions", found.len()))
                    }
                    found => found.err(),
                }
            }
        };
        let excused = |e: &Error| cx.lacks_descriptors(e) || cx.gave_up("an administrator", began, e);
        if let Some(e) = failed.filter(|e| !excused(e)) {
            cx.model.failed("an administrator's question", &e);
        }
        cx.sim.sleep(Duration::from_millis(random.below(3000)));
    }
}
