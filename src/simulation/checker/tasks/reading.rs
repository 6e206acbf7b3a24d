//! What a consumer does in a run, and that it keeps pace.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::super::model::Property;
use super::super::plan::Place;
use super::super::plan::worlds::{BEGINS_LATE, World};
use super::Desk;
use crate::simulation::random::Random;
use crate::{Client, CloseHandle, ConsumeIter, Error, ErrorKind, Fault, Message, OutOfRange, Start, Subscription};

/// Fetches a second that may bring nothing, for each partition, and that may bring data without a message, all together.
const EMPTY_FETCHES: u64 = 10;
const FULL_FETCHES: u64 = 20;

/// Reads with every kind of call; now and then it begins again from positions it has saved, as if it had been killed.
pub(in super::super) fn consume(at: &Desk, places: &[Place], restarts: bool) {
    let mut random = at.random();
    let mut saved: BTreeMap<Place, u64> = places.iter().map(|&place| (place, 0)).collect();
    if matches!(at.plan.world, World::Backlog | World::SlowLine) {
        at.sim.sleep(BEGINS_LATE);
    }
    let mut client = at.client();
    let mut subscribed = at.sim.now();
    let mut messages = subscribe(at, &client, &mut random, &saved);
    let mut closing: Option<CloseHandle> = None;
    while !at.is_over() {
        let got = match random.below(9) {
            0 => batch(at, &mut messages),
            1 => many(at, &mut random, &mut messages),
            n => one(at, &mut random, &mut messages, n == 2),
        };
        match got {
            Err(e) if recovers(at, &e, subscribed, &mut saved) => {
                check_pace(at, &messages, subscribed);
                closing = None;
                subscribed = at.sim.now();
                messages = subscribe(at, &client, &mut random, &saved);
                continue;
            }
            Err(e) if !at.is_over() => at.model.failed(&format!("consumer {}", at.task), &e),
            _ => {}
        }
        if closing.as_ref().is_some_and(|handle: &CloseHandle| handle.is_closed()) && !at.is_over() {
            // `None` for ever, at once, whatever there is.
            if at.timed("next of a closed iterator", Duration::ZERO, || messages.next()).is_some() {
                at.model.violated(Property::Delivery, "a closed iterator goes on");
            }
            check_pace(at, &messages, subscribed);
            save(at, &messages, &mut saved);
            subscribed = at.sim.now();
            messages = subscribe(at, &client, &mut random, &saved);
            (closing, _) = (None, at.model.count("closed", 1));
            continue;
        }
        if closing.is_none() && random.one_in(100) && at.works() {
            let handle = messages.close_handle();
            closing = Some(handle.clone());
            at.sim.after(Duration::from_millis(random.below(3000)), move || handle.close());
        }
        if messages.is_finished() && !at.is_over() {
            at.model.violated(Property::Progress, &format!("consumer {} ends of itself", at.task));
        }
        if random.one_in(10) {
            save(at, &messages, &mut saved);
        }
        if restarts && random.one_in(60) && at.works() {
            check_pace(at, &messages, subscribed);
            drop(messages);
            if random.one_in(2) {
                client = at.client();
            }
            closing = None;
            subscribed = at.sim.now();
            messages = subscribe(at, &client, &mut random, &saved);
        }
        // Once the work is done there is only the rest to be read.
        at.sim.sleep(Duration::from_millis(random.below(if at.works() { 60 } else { 5 })));
    }
    check_pace(at, &messages, subscribed);
}

fn save(at: &Desk, messages: &ConsumeIter, saved: &mut BTreeMap<Place, u64>) {
    let positions = messages.positions();
    for (place, seq) in saved {
        *seq = positions.get(at.topic(*place), place.partition).unwrap_or(*seq);
    }
}

/// A subscription asks without a pause only while that brings something.
fn check_pace(at: &Desk, messages: &ConsumeIter, subscribed: Duration) {
    let stats = messages.stats();
    let time = (at.sim.now() - subscribed).as_secs() + 2;
    let empty = time * stats.partitions.len() as u64 * EMPTY_FETCHES;
    let full = 4 * stats.messages + time * FULL_FETCHES;
    if stats.empty_fetches > empty || stats.fetches - stats.empty_fetches > full {
        let text = format!(
            "consumer {} fetched {} times for {} messages, and {} times for nothing, in {:?}",
            at.task,
            stats.fetches - stats.empty_fetches,
            stats.messages,
            stats.empty_fetches,
            at.sim.now() - subscribed
        );
        at.model.violated(Property::Quiet, &text);
    }
}

/// Whether a consumer may go on after this error, from what it has saved.
fn recovers(at: &Desk, e: &Error, subscribed: Duration, saved: &mut BTreeMap<Place, u64>) -> bool {
    let ErrorKind::Broker { fault: Fault::Deadly { mark, .. }, .. } = e.kind else {
        let recovers = at.lacks_descriptors(e) || at.gave_up("a consumer", subscribed, e);
        at.model.count("given up", recovers.into());
        return recovers;
    };
    // Two connections in a row that ended under its fetch: the client cannot tell that from a deadly request. Or it is one: a
    // number in a gap before the active segment, which a careful user skips as the error says.
    let of = |place: &Place| Some(at.topic(*place)) == e.topic() && Some(place.partition) == e.partition();
    let Some((&place, seq)) = saved.iter_mut().find(|(place, _)| of(place)) else { return false };
    if at.model.is_deadly(at.task, place) {
        at.model.count("deadly", 1);
        at.model.skips(at.task, place);
        *seq = mark.max(1);
    } else {
        at.model.count("wrongly taken for deadly", 1);
    }
    at.model.troubled
}

fn subscribe(at: &Desk, client: &Client, random: &mut Random, from: &BTreeMap<Place, u64>) -> ConsumeIter {
    let mut what: Option<Subscription> = None;
    for (&place, &seq) in from {
        let start = if seq == 0 { Start::Earliest } else { Start::At(seq) };
        at.model.begins(at.task, place, seq);
        let (topic, id) = (at.topic(place), place.partition);
        what = Some(match what {
            None => Subscription::partition(topic, id).start(start),
            Some(what) => what.and_partition(topic, id, start),
        });
    }
    let what = what.expect("a consumer has partitions").beyond_end(OutOfRange::Latest);
    let what = if at.plan.retention { what.out_of_range(OutOfRange::Earliest) } else { what };
    let longest = random.below(4) as usize;
    let longest = if at.plan.world == World::Spaced { 3 } else { longest };
    let what = what.max_wait(Duration::from_micros([300, 500_000, 5_000_000, 30_000_000][longest]));
    let size = random.below(3) as usize;
    let size = match at.plan.world {
        World::Backlog => 0,
        World::SlowLine => 2,
        _ => size,
    };
    let what = what.fetch_size([100, 5000, 1 << 20][size]);
    let messages = at.patiently("subscribe", 1, || client.subscribe(what.clone()));
    at.handles.lock().unwrap_or_else(PoisonError::into_inner).push(messages.close_handle());
    messages
}

fn one(at: &Desk, random: &mut Random, messages: &mut ConsumeIter, unbounded: bool) -> crate::Result<()> {
    let message = if unbounded {
        messages.next().transpose()?
    } else {
        let most = Duration::from_micros([0, 1, 1000, 50_000, 700_000, 3_000_000][random.below(6) as usize]);
        at.timed("next_timeout", most, || messages.next_timeout(most))?
    };
    if let Some(message) = message {
        at.model.delivered(at.task, &message, messages.gaps());
    }
    Ok(())
}

fn many(at: &Desk, random: &mut Random, messages: &mut ConsumeIter) -> crate::Result<()> {
    let most = Duration::from_millis(random.below(500));
    let list = at.timed("next_many", most, || messages.next_many(20, most))?;
    for message in list {
        at.model.delivered(at.task, &message, messages.gaps());
    }
    Ok(())
}

fn batch(at: &Desk, messages: &mut ConsumeIter) -> crate::Result<()> {
    let list: Vec<Message> = match messages.next_batch()? {
        Some(batch) => batch.iter().map(|message| message.to_message()).collect(),
        None => Vec::new(),
    };
    for message in list {
        at.model.delivered(at.task, &message, messages.gaps());
    }
    Ok(())
}
