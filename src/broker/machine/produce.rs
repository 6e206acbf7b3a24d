//! Produce requests, with and without sequence numbers, and the acknowledgements they wait for (reference, section 6).

use std::sync::Arc;
use std::time::Duration;

use super::answer::Part;
use super::connection::HangUp;
use super::log::AppendError;
use super::partition::Leadership;
use super::schedule::{Event, Ticket};
use super::segment::StoredBundle;
use super::{Conn, Machine, lenient};
use crate::broker::BrokerFault;
use crate::protocol::frame::Kind;
use crate::protocol::produce::{ACKS_QUORUM, ProduceCode, ProducePartition, ProduceRequest, ProduceResponse};

/// Above this many acks a server never has enough replicas.
const MAX_ACKS: u8 = 200;

const ACK_TIMEOUT: Duration = Duration::from_secs(8);

/// A produce request that waits for acknowledgements.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    conn: Conn,
    kind: Kind,
    response: ProduceResponse,
    /// Partitions that share a code, one after the other.
    shape: Vec<usize>,
    /// What is to be confirmed.
    stored: Vec<Stored>,
    deadline: Ticket,
}

/// What was stored of a request in a partition.
#[derive(Debug)]
struct Stored {
    topic: Arc<str>,
    partition: u16,
    /// Which of the request's codes is its.
    code: usize,
    last: u64,
}

impl Machine {
    pub(super) fn produce(&mut self, conn: Conn, kind: Kind, payload: &[u8]) -> Result<(), HangUp> {
        // A server takes the low byte of the client version for the length of a string here.
        let odd = payload.first().map_or(0, |&low| usize::from(low) + 6);
        if payload.len() < 7 || odd >= payload.len() {
            return Err(HangUp);
        }
        let request = lenient(payload, |payload| ProduceRequest::decode(kind, payload)).map_err(|_| HangUp)?;
        let refused = self.nodes.get_mut(conn.node).and_then(|node| node.faults.take(BrokerFault::produce_code));
        let mut codes = Vec::new();
        let mut shape: Vec<usize> = Vec::new();
        let mut stored = Vec::new();
        let mut before = None;
        for topic in &request.topics {
            let known = self.topic_name(&topic.name);
            let whole = match (refused, &known) {
                (Some(code), _) => Some(code),
                _ if self.options.read_only => Some(ProduceCode::ReadOnly),
                (None, None) => Some(ProduceCode::UnknownTopic),
                _ => None,
            };
            match shape.last_mut() {
                // Entries of the same refused topic next to each other get one code.
                Some(last) if whole.is_some() && before == Some(&topic.name) => *last += topic.partitions.len(),
                _ => shape.push(topic.partitions.len()),
            }
            before = Some(&topic.name);
            for entry in &topic.partitions {
                let code = match (whole, &known) {
                    (None, Some(name)) => {
                        let (code, last) = self.store(conn.node, name, entry, request.required_acks)?;
                        let (topic, partition) = (Arc::clone(name), entry.partition);
                        stored.extend(last.map(|last| Stored { topic, partition, code: codes.len(), last }));
                        code
                    }
                    _ => whole.unwrap_or(ProduceCode::UnknownTopic),
                };
                codes.push(code);
            }
        }
        let timeout = match request.ack_timeout_ms {
            0 => ACK_TIMEOUT,
            ms => Duration::from_millis(ms.into()),
        };
        let response = ProduceResponse { request_id: request.request_id, codes };
        self.answer_when_confirmed(conn, kind, response, shape, stored, timeout)
    }

    /// Stores a bundle; its code, and the number to be confirmed before that is given.
    fn store(
        &mut self,
        node: usize,
        topic: &Arc<str>,
        entry: &ProducePartition<'_>,
        acks: u8,
    ) -> Result<(ProduceCode, Option<u64>), HangUp> {
        let id = entry.partition;
        if self.partition(topic, id).is_none() {
            return Ok((ProduceCode::UnknownPartition, None));
        }
        let leadership = self.leadership(topic, id, node);
        let mut wanted = 0;
        if self.cluster.is_some() {
            if leadership == Leadership::Electing {
                let reason = "a produce request for a topic just created, before its partitions have leaders";
                self.deadly(node, reason);
                return Err(HangUp);
            }
            match self.acks_wanted(topic, id, acks) {
                None => {
                    self.deadly(node, "a produce request for a partition without a replica in sync");
                    return Err(HangUp);
                }
                Some(Err(code)) => return Ok((code, None)),
                Some(Ok(acks)) => wanted = acks,
            }
        }
        match leadership {
            Leadership::Here => {}
            Leadership::Elsewhere(endpoint) => return Ok((ProduceCode::Redirect(endpoint), None)),
            Leadership::Nobody | Leadership::Electing => return Ok((ProduceCode::NoLeader, None)),
        }
        let is_full = self.nodes.get(node).is_some_and(|node| node.full);
        let checks_mark_only = self.cluster.is_some() && self.options.behaviour.checks_mark_only;
        let Some(partition) = self.partition_mut(topic, id) else { return Ok((ProduceCode::UnknownPartition, None)) };
        partition.torn |= is_full;
        if partition.broken || is_full {
            return Ok((ProduceCode::SystemError, None));
        }
        if partition.torn {
            return Ok((ProduceCode::Stored, None));
        }
        partition.open = true;
        let bundle = StoredBundle::new(entry.bundle).map_err(AppendError::Deadly);
        let appended = bundle.and_then(|bundle| {
            let stretch = partition.append(node, &bundle, entry.first_seq, checks_mark_only);
            stretch.unwrap_or(Err(AppendError::Number)).map(|stretch| (bundle, stretch))
        });
        match appended {
            Ok((bundle, stretch)) => {
                self.note(node, topic, id, &bundle, &stretch);
                self.replicate(topic, id, node, &bundle, &stretch);
                self.arrived(topic, id, node, &stretch);
                Ok((ProduceCode::Stored, (wanted > 0).then_some(stretch.last)))
            }
            Err(AppendError::Number) => Ok((ProduceCode::InvalidSeq, None)),
            Err(AppendError::Deadly(reason)) => {
                self.deadly(node, reason);
                Err(HangUp)
            }
        }
    }

    /// How many peers are to confirm, decided up front, before the leader is looked at; `None` kills a server.
    fn acks_wanted(&self, topic: &str, id: u16, acks: u8) -> Option<Result<usize, ProduceCode>> {
        let factor = self.topics.get(topic).map_or(0, |topic| topic.factor);
        // A server counts no more nodes in sync than there should be.
        let nodes = self.partition(topic, id).map_or(0, |partition| partition.in_sync.len());
        let peers = nodes.min(factor).checked_sub(1)?;
        let wanted = match acks {
            0 => peers,
            ACKS_QUORUM => peers / 2 + 1,
            other => other.into(),
        };
        let too_many = wanted > MAX_ACKS.into() || wanted + 1 > factor || wanted + 1 > nodes;
        Some(if too_many { Err(ProduceCode::InsufficientReplicas) } else { Ok(wanted) })
    }

    /// Answers a produce request, at once if nothing is left to be confirmed.
    fn answer_when_confirmed(
        &mut self,
        conn: Conn,
        kind: Kind,
        response: ProduceResponse,
        shape: Vec<usize>,
        stored: Vec<Stored>,
        timeout: Duration,
    ) -> Result<(), HangUp> {
        if stored.iter().all(|stored| self.is_confirmed(conn.node, stored)) {
            return self.answer_produce(conn, kind, &response, shape);
        }
        let id = self.next_id();
        for stored in &stored {
            if let Some(partition) = self.partition_mut(&stored.topic, stored.partition) {
                partition.unconfirmed.push(id);
            }
        }
        let deadline = self.schedule.at(self.now.after(timeout), Event::AcksExpire { node: conn.node, produce: id });
        self.unconfirmed.insert(id, Unconfirmed { conn, kind, response, shape, stored, deadline });
        Ok(())
    }

    /// Returns whether all peers in sync have confirmed, for which a server waits whatever the number of acks.
    fn is_confirmed(&self, node: usize, stored: &Stored) -> bool {
        let Some(partition) = self.partition(&stored.topic, stored.partition) else { return false };
        let (confirmed, peers) = self.confirmations(partition, stored.last);
        partition.leader == Some(node) && confirmed > 0 && confirmed == peers
    }

    pub(super) fn answer_if_confirmed(&mut self, id: u64) {
        let Some(produce) = self.unconfirmed.get(&id) else { return };
        if produce.stored.iter().all(|stored| self.is_confirmed(produce.conn.node, stored)) {
            self.answer_unconfirmed(id);
        }
    }

    /// The time for acknowledgements is over. One confirmation is enough then, as a cluster was seen to do (reference,
    /// section 6.4).
    pub(super) fn acks_expire(&mut self, id: u64) {
        let Some(produce) = self.unconfirmed.get(&id) else { return };
        let mut late = Vec::new();
        for stored in &produce.stored {
            let confirmed = self.partition(&stored.topic, stored.partition).is_some_and(|partition| {
                partition.leader == Some(produce.conn.node) && self.confirmations(partition, stored.last).0 > 0
            });
            late.extend((!confirmed).then_some(stored.code));
        }
        if let Some(produce) = self.unconfirmed.get_mut(&id) {
            for code in late {
                if let Some(code) = produce.response.codes.get_mut(code) {
                    *code = ProduceCode::NotConfirmed;
                }
            }
        }
        self.answer_unconfirmed(id);
    }

    fn answer_unconfirmed(&mut self, id: u64) {
        let Some(produce) = self.take_unconfirmed(id) else { return };
        if self.answer_produce(produce.conn, produce.kind, &produce.response, produce.shape).is_err() {
            self.hang_up(produce.conn);
        }
    }

    fn take_unconfirmed(&mut self, id: u64) -> Option<Unconfirmed> {
        let produce = self.unconfirmed.remove(&id)?;
        self.schedule.cancel(produce.deadline);
        for stored in &produce.stored {
            if let Some(partition) = self.partition_mut(&stored.topic, stored.partition) {
                partition.unconfirmed.retain(|&other| other != id);
            }
        }
        Some(produce)
    }

    /// Nobody is answered any more by a process that died.
    pub(super) fn drop_unconfirmed_of(&mut self, node: usize) {
        let of_node = self.unconfirmed.iter().filter(|(_, produce)| produce.conn.node == node);
        let ids: Vec<u64> = of_node.map(|(id, _)| *id).collect();
        for id in ids {
            self.take_unconfirmed(id);
        }
    }

    fn answer_produce(
        &mut self,
        conn: Conn,
        kind: Kind,
        response: &ProduceResponse,
        shape: Vec<usize>,
    ) -> Result<(), HangUp> {
        let mut bytes = Vec::new();
        response.encode(shape, &mut bytes).map_err(|_| HangUp)?;
        self.answer(conn, kind, vec![Part::bytes(bytes)]);
        Ok(())
    }
}
