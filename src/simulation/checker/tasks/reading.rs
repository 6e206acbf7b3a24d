//! What a consumer does in a run, and that it keeps pace.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use super::super::model::{Outcome, Property, payload};
use super::super::plan::Place;
use super::super::plan::worlds::{AWAY_FROM, BEGINS_LATE, World};
use super::TaskContext;
use crate::simulation::random::Random;
use crate::{
    Client, CloseHandle, ConsumeIter, Error, ErrorKind, Fault, Message, OutOfRange, Positions, Record, Start,
    Subscription,
};

/// Fetches a second that may bring nothing, for each partition, and that may bring data without a message, all together.
const EMPTY_FETCHES: u64 = 10;
const FULL_FETCHES: u64 = 20;
/// Fetches of a partition that bring what lies above the mark, in two times eight seconds of it: with pauses that double.
const ABOVE_MARKS: u64 = 40;
/// That of the world with much to read, which has short lines.
const ROUND_TRIP: Duration = Duration::from_millis(12);
/// How long before the end of all work somebody begins to read up to the end.
const READS_BEFORE: Duration = Duration::from_millis(100);

/// Reads with every kind of call; now and then it begins again from positions it has saved, as if it had been killed.
pub(in super::super) fn consume(cx: &TaskContext, places: &[Place], restarts: bool) {
    let mut random = cx.random();
    let mut saved: BTreeMap<Place, u64> = places.iter().map(|&place| (place, 0)).collect();
    let mut client = connect_in_time(cx, &mut random);
    let mut subscribed = cx.sim.now();
    let mut messages = subscribe(cx, &client, &mut random, &saved);
    let mut closing: Option<CloseHandle> = None;
    while !cx.is_over() {
        let got = match random.below(9) {
            _ if cx.plan.world == World::Polled => poll(cx, &mut messages),
            0 => batch(cx, &mut messages),
            1 => many(cx, &mut random, &mut messages),
            n => one(cx, &mut random, &mut messages, n == 2),
        };
        match got {
            Err(e) if recovers(cx, &e, subscribed, &mut saved) => {
                check_pace(cx, &messages, subscribed);
                closing = None;
                subscribed = cx.sim.now();
                messages = subscribe(cx, &client, &mut random, &saved);
                continue;
            }
            Err(e) if !cx.is_over() => cx.model.failed(&format!("consumer {}", cx.task), &e),
            _ => {}
        }
        if closing.as_ref().is_some_and(|handle: &CloseHandle| handle.is_closed()) && !cx.is_over() {
            // `None` for ever, at once, whatever there is.
            if cx.timed("next of a closed iterator", Duration::ZERO, || messages.next()).is_some() {
                cx.model.violated(Property::Delivery, "a closed iterator goes on");
            }
            check_pace(cx, &messages, subscribed);
            save(cx, &messages, &mut saved);
            subscribed = cx.sim.now();
            messages = subscribe(cx, &client, &mut random, &saved);
            closing = None;
            cx.model.count("closed", 1);
            continue;
        }
        // What is subscribed to by its name begins with its first messages.
        if closing.is_none() && random.one_in(100) && cx.works() && cx.plan.world != World::Grows {
            let handle = messages.close_handle();
            closing = Some(handle.clone());
            cx.sim.after(Duration::from_millis(random.below(3000)), move || handle.close());
        }
        if messages.is_finished() && !cx.is_over() {
            cx.model.violated(Property::Progress, &format!("consumer {} ends of itself", cx.task));
        }
        if random.one_in(10) {
            save(cx, &messages, &mut saved);
        }
        if restarts && random.one_in(60) && cx.works() {
            check_pace(cx, &messages, subscribed);
            drop(messages);
            if random.one_in(2) {
                client = cx.client();
            }
            closing = None;
            subscribed = cx.sim.now();
            messages = subscribe(cx, &client, &mut random, &saved);
        }
        rest(cx, &mut random);
    }
    check_pace(cx, &messages, subscribed);
}

/// Connects, and waits until the moment at which this world's consumers begin.
fn connect_in_time(cx: &TaskContext, random: &mut Random) -> Client {
    if matches!(cx.plan.world, World::Backlog | World::SlowLine | World::Exact) {
        cx.sim.sleep(BEGINS_LATE);
    }
    let client = cx.client();
    // Brokers say who leads, and are gone when they are asked whether they form a cluster.
    if cx.plan.world == World::AllAway {
        let begins = Duration::from_millis(AWAY_FROM - 140 + random.below(80));
        cx.sim.sleep(begins.saturating_sub(cx.sim.now()));
    }
    client
}

fn rest(cx: &TaskContext, random: &mut Random) {
    // Once the work is done there is only the rest to be read.
    let pause = Duration::from_millis(random.below(if cx.works() { 60 } else { 5 }));
    // Long enough for all leaders to have answered.
    cx.sim.sleep(if cx.plan.world == World::Backlog { pause.max(ROUND_TRIP) } else { pause });
}

fn save(cx: &TaskContext, messages: &ConsumeIter, saved: &mut BTreeMap<Place, u64>) {
    let positions = messages.positions();
    for (place, seq) in saved {
        *seq = positions.get(cx.topic(*place), place.partition).unwrap_or(*seq);
    }
}

/// A subscription asks without a pause only while that brings something.
fn check_pace(cx: &TaskContext, messages: &ConsumeIter, subscribed: Duration) {
    let stats = messages.stats();
    let time = (cx.sim.now() - subscribed).as_secs() + 2;
    let empty = time * stats.partitions.len() as u64 * EMPTY_FETCHES;
    let full = match cx.plan.world {
        World::LowMark => stats.bundles + ABOVE_MARKS * stats.partitions.len() as u64,
        _ => 4 * stats.messages + time * FULL_FETCHES,
    };
    if stats.empty_fetches > empty || stats.fetches - stats.empty_fetches > full {
        let text = format!(
            "consumer {} fetched {} times for {} messages, and {} times for nothing, in {:?}",
            cx.task,
            stats.fetches - stats.empty_fetches,
            stats.messages,
            stats.empty_fetches,
            cx.sim.now() - subscribed
        );
        cx.model.violated(Property::Quiet, &text);
    }
}

/// Returns whether a consumer may go on after this error, from what it has saved.
fn recovers(cx: &TaskContext, e: &Error, subscribed: Duration, saved: &mut BTreeMap<Place, u64>) -> bool {
    let ErrorKind::Broker { fault: Fault::Deadly { mark, .. }, .. } = e.kind else {
        let recovers = cx.lacks_descriptors(e) || cx.gave_up("a consumer", subscribed, e);
        cx.model.count("given up", recovers.into());
        return recovers;
    };
    // Two connections in a row that ended under its fetch: the client cannot tell that from a deadly request. Or it is one: a
    // number in a gap before the active segment, which a careful user skips as the error says.
    let of = |place: &Place| Some(cx.topic(*place)) == e.topic() && Some(place.partition) == e.partition();
    let Some((&place, seq)) = saved.iter_mut().find(|(place, _)| of(place)) else { return false };
    if cx.model.is_deadly(cx.task, place) {
        cx.model.count("deadly", 1);
        cx.model.skips(cx.task, place);
        *seq = mark.max(1);
    } else {
        cx.model.count("wrongly taken for deadly", 1);
    }
    cx.model.troubled
}

fn subscribe(cx: &TaskContext, client: &Client, random: &mut Random, from: &BTreeMap<Place, u64>) -> ConsumeIter {
    let mut what: Option<Subscription> = None;
    let mut positions = Positions::default();
    for (&place, &seq) in from {
        cx.model.begins(cx.task, place, seq);
        let (topic, id) = (cx.topic(place), place.partition);
        if seq > 0 {
            positions.set(topic, id, seq);
        }
        what = Some(match what {
            None => Subscription::partition(topic, id).start(Start::Earliest),
            Some(what) => what.and_partition(topic, id, Start::Earliest),
        });
    }
    if cx.plan.world == World::Grows {
        what = Some(Subscription::topic("topic-0").start(Start::Earliest));
    }
    // As who keeps them in a checkpoint or a database, which is a text.
    let saved: Positions = positions.to_string().parse().expect("positions are read as they are written");
    let what = what.expect("a consumer has partitions").resume(&saved).beyond_end(OutOfRange::Latest);
    // A log whose first numbers died with a leader begins with the ones after them.
    let begins_later = cx.plan.retention || cx.plan.nodes > 1;
    let what = if begins_later { what.out_of_range(OutOfRange::Earliest) } else { what };
    let longest = random.below(4) as usize;
    let longest = if cx.plan.world == World::Spaced { 3 } else { longest };
    let what = what.max_wait(Duration::from_micros([300, 500_000, 5_000_000, 30_000_000][longest]));
    let size = random.below(3) as usize;
    let size = match cx.plan.world {
        World::Backlog | World::Exact | World::ToTheEnd => 0,
        World::SlowLine | World::LowMark => 2,
        _ => size,
    };
    let what = what.fetch_size([100, 5000, 1 << 20][size]);
    let messages = cx.patiently("subscribe", cx.most(), || client.subscribe(what.clone()));
    cx.model.subscribed(cx.task);
    cx.handles.lock().unwrap_or_else(PoisonError::into_inner).push(messages.close_handle());
    messages
}

fn one(cx: &TaskContext, random: &mut Random, messages: &mut ConsumeIter, unbounded: bool) -> crate::Result<()> {
    let message = if unbounded {
        messages.next().transpose()?
    } else {
        let most = Duration::from_micros([0, 1, 1000, 50_000, 700_000, 3_000_000][random.below(6) as usize]);
        cx.timed("next_timeout", most, || messages.next_timeout(most))?
    };
    if let Some(message) = message {
        cx.model.delivered(cx.task, &message, messages.gaps());
    }
    Ok(())
}

fn poll(cx: &TaskContext, messages: &mut ConsumeIter) -> crate::Result<()> {
    let message = cx.timed("next_timeout", Duration::ZERO, || messages.next_timeout(Duration::ZERO))?;
    message.iter().for_each(|message| cx.model.delivered(cx.task, message, messages.gaps()));
    Ok(())
}

fn many(cx: &TaskContext, random: &mut Random, messages: &mut ConsumeIter) -> crate::Result<()> {
    let most = Duration::from_millis(random.below(500));
    let list = cx.timed("next_many", most, || messages.next_many(20, most))?;
    for message in list {
        cx.model.delivered(cx.task, &message, messages.gaps());
    }
    Ok(())
}

fn batch(cx: &TaskContext, messages: &mut ConsumeIter) -> crate::Result<()> {
    let list: Vec<Message> = match messages.next_batch()? {
        Some(batch) => batch.iter().map(|message| message.to_message()).collect(),
        None => Vec::new(),
    };
    for message in list {
        cx.model.delivered(cx.task, &message, messages.gaps());
    }
    Ok(())
}

/// Reads up to the end, however the logs change meanwhile.
pub(in super::super) fn read_to_the_end(cx: &TaskContext, places: &[Place]) {
    let client = cx.client();
    cx.sim.sleep(cx.plan.work_ends - READS_BEFORE);
    let mut what = Subscription::topic("topic-0");
    for (&place, number) in places.iter().zip(0..) {
        let (topic, id) = (cx.topic(place), place.partition);
        what = match number {
            0 => Subscription::partition(topic, id).start(Start::Earliest),
            _ => what.and_partition(topic, id, Start::Earliest),
        };
    }
    let what = what.beyond_end(OutOfRange::Latest).fetch_size(100).stop_at_end();
    for message in cx.patiently("subscribe", cx.most(), || client.subscribe(what.clone())) {
        message.map(drop).unwrap_or_else(|e| cx.model.failed("reading to the end", &e));
        cx.model.count("read to the end", 1);
        cx.sim.sleep(Duration::from_millis(5));
    }
}

/// Messages of a bundle, and up to which of the second one is read.
const BUNDLE: u64 = 10;
const WANTED: u64 = 15;

/// Reads up to a time that the first of two partitions reaches at once. What its leader says of it then, in an answer that was on
/// its way, must neither end the subscription nor begin the partition again: the other one is read on.
pub(in super::super) fn read_up_to_a_time(cx: &TaskContext, places: &[Place]) {
    let client = cx.client();
    let (first, second) = (places[0], places[1]);
    let topic = cx.topic(first);
    let now_ms = cx.sim.wall_clock().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let ends = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
    for bundle in 0..3 {
        let ids: Vec<u32> = (0..BUNDLE).map(|_| cx.model.give(cx.task, first, false)).collect();
        let payloads: Vec<Vec<u8>> = ids.iter().map(|&id| payload(id, 100)).collect();
        let times = (bundle * BUNDLE..).map(|number| now_ms + number - WANTED);
        let records: Vec<_> =
            payloads.iter().zip(times).map(|(bytes, ms)| Record::new(bytes).timestamp_ms(ms)).collect();
        client.publish(topic, first.partition, &records).unwrap_or_else(|e| cx.model.failed("publish", &e));
        cx.model.reported(ids, Outcome::Stored, "");
    }
    let what = Subscription::partition(topic, first.partition).start(Start::Earliest);
    let what = what.and_partition(topic, second.partition, Start::Earliest).fetch_size(100).stop_at_time(ends);
    let mut read = Vec::new();
    for message in cx.patiently("subscribe", cx.most(), || client.subscribe(what.clone())) {
        let message = message.unwrap_or_else(|e| cx.model.failed("reading up to a time", &e));
        read.push((message.partition(), message.seq()));
        if read.len() as u64 == BUNDLE + 1 {
            cx.model.knows_no_leader(0);
        }
        cx.sim.sleep(Duration::from_millis(5));
    }
    if read != (1..=WANTED).map(|seq| (first.partition, seq)).collect::<Vec<_>>() {
        cx.model.violated(Property::Delivery, &format!("up to a time are read, of {WANTED} messages: {read:?}"));
    }
}
