//! Consume requests, answered at once or after a wait (reference, sections 5.2 to 5.8).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Part;
use super::connection::HangUp;
use super::faults::BrokerFault;
use super::lenient;
use super::log::{Chunk, Lookup};
use super::state::{Leadership, Shared, State, Wait, WaitSlot};
use crate::protocol::fetch::{self, FetchHeader, FetchPartition, FetchRequest, PartitionAnswer, SEQ_TAIL, TopicAnswer};
use crate::protocol::frame::Kind;

/// To what fetch size and min bytes are cut.
const MAX_FETCH: u32 = 64 << 20;

/// The most partitions a request may wait for.
const MAX_WAITING: usize = 256;

/// The server's clock for expiring waits, in milliseconds.
const CLOCK_MS: u128 = 128;

/// What a partition's part of the answer is to be.
enum Found {
    Answer(PartitionAnswer),
    Data(PartitionAnswer, Chunk),
    /// Nothing yet, and nothing wrong; in a cluster, with the number that data will begin with.
    End(PartitionAnswer, Option<u64>),
}

pub(super) fn execute(
    shared: &Shared,
    state: &mut State,
    node: usize,
    conn: u64,
    payload: &[u8],
) -> Result<(), HangUp> {
    let request = lenient(payload, FetchRequest::decode).map_err(|_| HangUp)?;
    if request.topics.is_empty() {
        return Err(HangUp);
    }
    let refused = state.nodes[node].faults.take(|fault| match fault {
        BrokerFault::RefuseConsume(answer) => Some(*answer),
        _ => None,
    });
    let mut header = FetchHeader { request_id: request.request_id, topics: Vec::with_capacity(request.topics.len()) };
    let mut chunks = Vec::new();
    let mut slots = Vec::new();
    let mut now = request.max_wait_ms == 0;
    for topic in &request.topics {
        let known = state.topics.contains_key(&topic.name) && refused != Some(PartitionAnswer::UnknownTopic);
        now |= !known;
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let found = match refused {
                _ if !known => Found::Answer(PartitionAnswer::UnknownTopic),
                Some(answer) => Found::Answer(answer),
                None => find(shared, state, (node, conn), &topic.name, wanted, request.flags)?,
            };
            let answer = match found {
                Found::Answer(answer) => {
                    now = true;
                    answer
                }
                Found::Data(answer, chunk) => {
                    now = true;
                    chunks.push(Part::Chunk(chunk));
                    answer
                }
                Found::End(answer, start) => {
                    slots.push(WaitSlot {
                        topic: Arc::clone(&topic.name),
                        partition: wanted.partition,
                        start,
                        deaf: state.leadership(&topic.name, wanted.partition, node) != Leadership::Here,
                        arrived: None,
                    });
                    answer
                }
            };
            partitions.push((wanted.partition, answer));
        }
        header.topics.push(TopicAnswer { name: Arc::clone(&topic.name), partitions, known });
    }
    if now {
        return send(state, node, conn, &header, chunks);
    }
    if slots.len() > MAX_WAITING {
        state.kill("a consume request that waits for more than 256 partitions");
        return Err(HangUp);
    }
    wait(shared, state, node, conn, &request, slots);
    Ok(())
}

fn find(
    shared: &Shared,
    state: &mut State,
    (node, conn): (usize, u64),
    topic: &str,
    wanted: &FetchPartition,
    flags: u8,
) -> Result<Found, HangUp> {
    let cluster = state.cluster.is_some();
    let mut leadership = state.leadership(topic, wanted.partition, node);
    if cluster && flags & fetch::FLAG_PREFER_LOCAL != 0 {
        leadership = provider(state, (node, conn), topic, wanted.partition).unwrap_or(leadership);
    }
    let Some(partition) = state.partition(topic, wanted.partition) else {
        return Ok(Found::Answer(PartitionAnswer::UnknownPartition));
    };
    match leadership {
        Leadership::Here => {}
        Leadership::Elsewhere(endpoint) => return Ok(Found::Answer(PartitionAnswer::Redirect(endpoint))),
        Leadership::Nobody | Leadership::Electing => return Ok(Found::Answer(PartitionAnswer::NoLeader)),
    }
    if partition.broken {
        return Ok(Found::Answer(PartitionAnswer::SystemError));
    }
    partition.open = true;
    let log = &partition.log;
    let high_water_mark = if cluster { partition.committed } else { log.mark };
    let end = || {
        let answer = PartitionAnswer::Data { base: Some(log.first_available), high_water_mark, len: 0 };
        Found::End(answer, cluster.then_some(log.last + 1))
    };
    if wanted.seq == SEQ_TAIL {
        return Ok(end());
    }
    Ok(match log.find(wanted.seq, wanted.fetch_size.min(MAX_FETCH), shared.options.cut_chunks) {
        Lookup::End => end(),
        Lookup::OutOfRange => Found::Answer(PartitionAnswer::OutOfRange {
            high_water_mark: log.last,
            first_available: log.first_available,
        }),
        Lookup::Data(chunk) => {
            let base = if chunk.sparse { None } else { Some(chunk.base) };
            let len = u32::try_from(chunk.len).map_err(|_| HangUp)?;
            Found::Data(PartitionAnswer::Data { base, high_water_mark: log.last, len }, chunk)
        }
        Lookup::Deadly(reason) => {
            state.kill(reason);
            return Err(HangUp);
        }
    })
}

fn send(state: &mut State, node: usize, conn: u64, header: &FetchHeader, chunks: Vec<Part>) -> Result<(), HangUp> {
    let mut bytes = Vec::new();
    header.encode(&mut bytes).map_err(|_| HangUp)?;
    let parts = std::iter::once(Part::Bytes(bytes)).chain(chunks).collect();
    state.answer(node, conn, Kind::Consume, parts);
    Ok(())
}

fn wait(shared: &Shared, state: &mut State, node: usize, conn: u64, request: &FetchRequest, slots: Vec<WaitSlot>) {
    let id = state.next_wait;
    state.next_wait += 1;
    for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| !slot.deaf) {
        if let Some(partition) = state.partition(&slot.topic, slot.partition) {
            partition.waiting.push((id, index));
        }
    }
    let deadline = deadline(shared, request.max_wait_ms);
    let this = &mut state.nodes[node];
    let Some(connection) = this.conns.get_mut(&conn) else { return };
    connection.waits.insert((deadline, id));
    connection.link.wake.notify_all();
    this.stats.waiting += 1;
    let min_bytes = request.min_bytes.min(MAX_FETCH).into();
    let request_id = request.request_id;
    state.waits.insert(id, Wait { node, conn, request_id, deadline, min_bytes, captured: 0, slots });
}

fn deadline(shared: &Shared, max_wait_ms: u64) -> Instant {
    if shared.options.exact_waits {
        return Instant::now() + Duration::from_millis(max_wait_ms.min(fetch::MAX_WAIT_MS));
    }
    let end = shared.started.elapsed() + Duration::from_millis(fetch::adjusted_wait_ms(max_wait_ms));
    let ticks = end.as_millis().next_multiple_of(CLOCK_MS);
    shared.started + Duration::from_millis(u64::try_from(ticks).unwrap_or(u64::MAX))
}

/// Who serves a client that prefers a replica on its own host, if one is there.
fn provider(state: &State, (node, conn): (usize, u64), topic: &str, partition: u16) -> Option<Leadership> {
    let client = state.nodes[node].conns.get(&conn)?.link.stream.peer_addr().ok()?.ip();
    let partition = state.topics.get(topic)?.partitions.get(usize::from(partition))?;
    let provider = *partition.in_sync.iter().find(|&&peer| IpAddr::V4(*state.nodes[peer].addr.ip()) == client)?;
    Some(if provider == node { Leadership::Here } else { Leadership::Elsewhere(state.nodes[provider].addr) })
}

/// Answers a waiting request whose time is over, without the data that may have arrived (reference, section 5.7).
pub(super) fn expire(state: &mut State, id: u64) {
    finish(state, id, false);
}

/// Answers a waiting request with what has arrived.
fn finish(state: &mut State, id: u64, with_data: bool) {
    let Some(wait) = state.take_wait(id) else { return };
    let mut header = FetchHeader { request_id: wait.request_id, topics: Vec::new() };
    let mut chunks = Vec::new();
    for slot in wait.slots {
        let in_cluster = state.cluster.is_some();
        let (mark, last) = match state.partition(&slot.topic, slot.partition) {
            _ if slot.deaf => (0, 0),
            Some(partition) if in_cluster => (partition.committed, partition.log.last),
            Some(partition) => (partition.log.mark, partition.log.last),
            None => (0, 0),
        };
        let arrived = if with_data { slot.arrived } else { None };
        let (base, len) = arrived.as_ref().map_or((0, 0), |chunk| (chunk.base, chunk.len));
        let base = slot.start.filter(|_| with_data).unwrap_or(base);
        let answer = PartitionAnswer::Data {
            base: Some(base),
            high_water_mark: if with_data { last } else { mark },
            len: u32::try_from(len).unwrap_or(u32::MAX),
        };
        chunks.extend(arrived.map(Part::Chunk));
        // Topics next to each other become one entry.
        match header.topics.last_mut() {
            Some(topic) if topic.name == slot.topic => topic.partitions.push((slot.partition, answer)),
            _ => header.topics.push(TopicAnswer {
                name: slot.topic,
                partitions: vec![(slot.partition, answer)],
                known: true,
            }),
        }
    }
    if send(state, wait.node, wait.conn, &header, chunks).is_err() {
        let _ = state.nodes[wait.node].conns.get_mut(&wait.conn).map(State::hang_up);
    }
}

/// Answers all requests that wait for a partition, as when its leader changes.
pub(super) fn wake(state: &mut State, topic: &str, partition: u16) {
    let waiting = state.partition(topic, partition).map_or(Vec::new(), |partition| partition.waiting.clone());
    for (id, _) in waiting {
        finish(state, id, true);
    }
}

/// Tells the requests that wait for a partition of a bundle that was stored there.
pub(super) fn arrived(state: &mut State, topic: &str, partition: u16, stored: &Chunk) {
    let Some(waiting) = state.partition(topic, partition).map(|partition| partition.waiting.clone()) else { return };
    let mut awake = Vec::new();
    for (id, index) in waiting {
        let Some(wait) = state.waits.get_mut(&id) else { continue };
        let Some(slot) = wait.slots.get_mut(index) else { continue };
        let mut switched = false;
        match &mut slot.arrived {
            None => {
                slot.arrived = Some(stored.clone());
                wait.captured = stored.len;
            }
            Some(chunk) if Arc::ptr_eq(&chunk.segment, &stored.segment) => {
                chunk.len += stored.len;
                wait.captured += stored.len;
            }
            Some(_) => switched = true,
        }
        if switched || wait.captured >= wait.min_bytes {
            awake.push(id);
        }
    }
    for id in awake {
        if sends_nothing(state, id) {
            state.kill("a consume request in a cluster that waits for several partitions");
            let wait = state.take_wait(id);
            let conn = wait.and_then(|wait| state.nodes[wait.node].conns.get_mut(&wait.conn));
            let _ = conn.map(State::hang_up);
        } else {
            finish(state, id, true);
        }
    }
}

/// Whether the answer would have an empty piece of a file in it, of which nodes of a cluster die.
fn sends_nothing(state: &mut State, id: u64) -> bool {
    if state.cluster.is_none() {
        return false;
    }
    let Some(wait) = state.waits.get(&id) else { return false };
    let quiet = wait.slots.iter().filter(|slot| slot.arrived.is_none() && !slot.deaf);
    let quiet: Vec<_> = quiet.map(|slot| (Arc::clone(&slot.topic), slot.partition)).collect();
    quiet.iter().any(|(topic, id)| state.partition(topic, *id).is_some_and(|partition| partition.log.last > 0))
}
