//! Produce requests, with and without sequence numbers (reference, section 6).

use std::time::{Duration, Instant};

use super::answer::Part;
use super::connection::HangUp;
use super::faults::BrokerFault;
use super::log::Refused;
use super::state::{Leadership, Shared, State};
use super::{consume, lenient};
use crate::protocol::frame::Kind;
use crate::protocol::produce::{ACKS_QUORUM, ProduceCode, ProducePartition, ProduceRequest, ProduceResponse};

/// Above this many acks a server never has enough replicas.
const MAX_ACKS: u8 = 200;

const ACK_TIMEOUT: Duration = Duration::from_secs(8);

pub(super) fn execute(
    shared: &Shared,
    state: &mut State,
    node: usize,
    conn: u64,
    kind: Kind,
    payload: &[u8],
) -> Result<(), HangUp> {
    // A server takes the low byte of the client version for the length of a string here.
    let odd = payload.first().map_or(0, |&low| usize::from(low) + 6);
    if payload.len() < 7 || odd >= payload.len() {
        return Err(HangUp);
    }
    let request = lenient(payload, |payload| ProduceRequest::decode(kind, payload)).map_err(|_| HangUp)?;
    let refused = state.nodes[node].faults.take(|fault| match fault {
        BrokerFault::RefuseProduce(code) => Some(*code),
        _ => None,
    });
    let mut codes = Vec::new();
    let mut shape: Vec<usize> = Vec::new();
    let mut late = false;
    let mut before = None;
    for topic in &request.topics {
        let whole = match refused {
            Some(code) => Some(code),
            None if shared.options.read_only => Some(ProduceCode::ReadOnly),
            None if !state.topics.contains_key(&*topic.name) => Some(ProduceCode::UnknownTopic),
            None => None,
        };
        match &mut shape[..] {
            // Entries of the same refused topic next to each other get one code.
            [.., last] if whole.is_some() && before == Some(&topic.name) => *last += topic.partitions.len(),
            _ => shape.push(topic.partitions.len()),
        }
        before = Some(&topic.name);
        for entry in &topic.partitions {
            codes.push(match whole {
                Some(code) => code,
                None => {
                    let (code, unconfirmed) = store(state, node, &topic.name, entry, request.required_acks)?;
                    late |= unconfirmed;
                    code
                }
            });
        }
    }
    let mut bytes = Vec::new();
    let response = ProduceResponse { request_id: request.request_id, codes };
    response.encode(shape, &mut bytes).map_err(|_| HangUp)?;
    let timeout = match request.ack_timeout_ms {
        0 => ACK_TIMEOUT,
        ms => Duration::from_millis(ms.into()),
    };
    match late {
        false => state.answer(node, conn, kind, vec![Part::Bytes(bytes)]),
        true => state.answer_later(node, conn, Instant::now() + timeout, kind, vec![Part::Bytes(bytes)]),
    }
    Ok(())
}

/// Stores a bundle; its code, and whether that is given only once the ack time-out is over.
fn store(
    state: &mut State,
    node: usize,
    topic: &str,
    entry: &ProducePartition<'_>,
    acks: u8,
) -> Result<(ProduceCode, bool), HangUp> {
    let id = entry.partition;
    if state.partition(topic, id).is_none() {
        return Ok((ProduceCode::UnknownPartition, false));
    }
    let leadership = state.leadership(topic, id, node);
    let mut peers = Peers::default();
    if state.cluster.is_some() {
        if leadership == Leadership::Electing {
            state.kill("a produce request for a topic just created, before its partitions have leaders");
            return Err(HangUp);
        }
        peers = in_sync_peers(state, topic, id);
        if peers.nodes == 0 {
            state.kill("a produce request for a partition without a replica in sync");
            return Err(HangUp);
        }
        let wanted = match acks {
            0 => peers.in_sync,
            ACKS_QUORUM => peers.in_sync / 2 + 1,
            other => other.into(),
        };
        if wanted > MAX_ACKS.into() || wanted + 1 > peers.factor || wanted + 1 > peers.nodes {
            return Ok((ProduceCode::InsufficientReplicas, false));
        }
        peers.wanted = wanted;
    }
    match leadership {
        Leadership::Here => {}
        Leadership::Elsewhere(endpoint) => return Ok((ProduceCode::Redirect(endpoint), false)),
        Leadership::Nobody | Leadership::Electing => return Ok((ProduceCode::NoLeader, false)),
    }
    let Some(partition) = state.partition(topic, id) else { return Ok((ProduceCode::UnknownPartition, false)) };
    if partition.broken {
        // A server looks at the header first.
        return Ok((ProduceCode::SystemError, false));
    }
    partition.open = true;
    match partition.log.append(entry.bundle, entry.first_seq, partition.layout) {
        Ok(chunk) => {
            if peers.factor <= 1 || (peers.in_sync > 0 && peers.alive == peers.in_sync) {
                partition.committed = partition.log.last;
            }
            consume::arrived(state, topic, id, &chunk);
        }
        Err(Refused::Number) => return Ok((ProduceCode::InvalidSeq, false)),
        Err(Refused::Deadly(reason)) => {
            state.kill(reason);
            return Err(HangUp);
        }
    }
    // One confirmation is enough once the time is over, as a cluster was seen to do (reference, section 6.4).
    let late = peers.wanted > 0 && peers.alive < peers.in_sync;
    let code = if late && peers.alive == 0 { ProduceCode::NotConfirmed } else { ProduceCode::Stored };
    Ok((code, late))
}

/// The other nodes that matter for a partition's acks.
#[derive(Default)]
struct Peers {
    factor: usize,
    /// Nodes in sync, and those besides the leader, as a server counts them: no more than there should be.
    nodes: usize,
    in_sync: usize,
    /// Those in sync that neither hang nor are gone.
    alive: usize,
    wanted: usize,
}

fn in_sync_peers(state: &mut State, topic: &str, id: u16) -> Peers {
    let factor = state.topics.get(topic).map_or(0, |topic| topic.factor);
    let Some(partition) = state.partition(topic, id) else { return Peers::default() };
    let (leader, nodes) = (partition.leader, partition.in_sync.clone());
    let in_sync = nodes.len().min(factor).saturating_sub(1);
    let alive = nodes.iter().filter(|&&peer| Some(peer) != leader && state.nodes[peer].is_alive()).count();
    Peers { factor, nodes: nodes.len(), in_sync, alive: alive.min(in_sync), wanted: 0 }
}
