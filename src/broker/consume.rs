//! Consume requests, answered at once or after a wait (reference, sections 5.2 to 5.8).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{HangUp, Part};
use super::faults::Fault;
use super::log::{Chunk, Lookup};
use super::state::{Shared, State, Wait, WaitSlot};
use crate::protocol::DecodeFault;
use crate::protocol::fetch::{self, FetchHeader, FetchRequest, PartitionAnswer, SEQ_TAIL, TopicAnswer};
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
    /// Nothing yet, and nothing wrong.
    End(PartitionAnswer),
}

pub(super) fn execute(
    shared: &Shared,
    state: &mut State,
    node: usize,
    conn: u64,
    payload: &[u8],
) -> Result<(), HangUp> {
    let request = decode(payload).ok_or(HangUp)?;
    if request.topics.is_empty() {
        return Err(HangUp);
    }
    let refused = state.nodes[node].faults.take(|fault| match fault {
        Fault::RefuseConsume(answer) => Some(*answer),
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
                None => find(shared, state, &topic.name, wanted)?,
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
                Found::End(answer) => {
                    slots.push(WaitSlot { topic: Arc::clone(&topic.name), partition: wanted.partition, arrived: None });
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

/// Reads a request; like a server, whatever follows it.
fn decode(payload: &[u8]) -> Option<FetchRequest> {
    match FetchRequest::decode(payload) {
        Ok(request) => Some(request),
        Err(e) => match e.fault() {
            DecodeFault::Spare { extra } => {
                let len = payload.len().checked_sub(usize::try_from(extra).ok()?)?;
                FetchRequest::decode(payload.get(..len)?).ok()
            }
            _ => None,
        },
    }
}

fn find(shared: &Shared, state: &mut State, topic: &str, wanted: &fetch::FetchPartition) -> Result<Found, HangUp> {
    let Some(partition) = state.partition(topic, wanted.partition) else {
        return Ok(Found::Answer(PartitionAnswer::UnknownPartition));
    };
    if partition.broken {
        return Ok(Found::Answer(PartitionAnswer::SystemError));
    }
    let log = &partition.log;
    let end =
        || Found::End(PartitionAnswer::Data { base: Some(log.first_available), high_water_mark: log.mark, len: 0 });
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
    for (index, slot) in slots.iter().enumerate() {
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
        let (mark, last) = state.partition(&slot.topic, slot.partition).map_or((0, 0), |p| (p.log.mark, p.log.last));
        let arrived = if with_data { slot.arrived } else { None };
        let (base, len) = arrived.as_ref().map_or((0, 0), |chunk| (chunk.base, chunk.len));
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
        finish(state, id, true);
    }
}
