//! Consume requests, answered at once or after a wait (reference, sections 5.2 to 5.5).

use std::net::IpAddr;
use std::sync::Arc;

use super::answer::Part;
use super::connection::HangUp;
use super::log::Lookup;
use super::partition::Leadership;
use super::segment::Chunk;
use super::waits::{MAX_FETCH, WaitSlot};
use super::{Conn, Machine, lenient};
use crate::broker::BrokerFault;
use crate::protocol::fetch::{self, FetchHeader, FetchPartition, FetchRequest, PartitionAnswer, SEQ_TAIL, TopicAnswer};
use crate::protocol::frame::{Kind, Payload};

/// The most partitions a request may wait for.
const MAX_WAITING: usize = 256;

/// What a partition's part of the answer is to be.
enum Found {
    Answer(PartitionAnswer),
    Data(PartitionAnswer, Chunk),
    /// Nothing yet, and nothing wrong; in a cluster, with the number that data will begin with.
    End(PartitionAnswer, Option<u64>),
}

impl Machine {
    pub(super) fn consume(&mut self, conn: Conn, payload: &[u8]) -> Result<(), HangUp> {
        let request = lenient(payload, FetchRequest::decode).map_err(|_| HangUp)?;
        if request.topics.is_empty() {
            return Err(HangUp);
        }
        let refused = self.nodes.get_mut(conn.node).and_then(|node| node.faults.take(BrokerFault::consume_answer));
        let mut header =
            FetchHeader { request_id: request.request_id, topics: Vec::with_capacity(request.topics.len()) };
        let mut chunks = Vec::new();
        let mut slots = Vec::new();
        let mut now = request.max_wait_ms == 0;
        for topic in &request.topics {
            let known = self.topics.contains_key(&topic.name) && refused != Some(PartitionAnswer::UnknownTopic);
            now |= !known;
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for wanted in &topic.partitions {
                let found = match refused {
                    _ if !known => Found::Answer(PartitionAnswer::UnknownTopic),
                    Some(answer) => Found::Answer(answer),
                    None => self.look_up(conn, &topic.name, wanted, &request)?,
                };
                let answer = match found {
                    Found::Answer(answer) => {
                        now = true;
                        answer
                    }
                    Found::Data(mut answer, chunk) => {
                        now = true;
                        let faults = self.nodes.get_mut(conn.node).map(|node| &mut node.faults);
                        let low =
                            |fault: &BrokerFault| if let BrokerFault::LowMark(n) = fault { Some(*n) } else { None };
                        if let (Some(low), PartitionAnswer::Data { high_water_mark, .. }) =
                            (faults.and_then(|faults| faults.take(low)), &mut answer)
                        {
                            *high_water_mark = low;
                        }
                        chunks.push(Part::Chunk(chunk));
                        answer
                    }
                    Found::End(answer, start) => {
                        let never_woken = self.leadership(&topic.name, wanted.partition, conn.node) != Leadership::Here;
                        slots.push(WaitSlot::new(Arc::clone(&topic.name), wanted.partition, start, never_woken));
                        answer
                    }
                };
                partitions.push((wanted.partition, answer));
            }
            header.topics.push(TopicAnswer { name: Arc::clone(&topic.name), partitions });
        }
        if now {
            return self.answer_fetch(conn, &header, chunks);
        }
        if slots.len() > MAX_WAITING {
            self.deadly(conn.node, "a consume request that waits for more than 256 partitions");
            return Err(HangUp);
        }
        self.wait(conn, &request, slots);
        Ok(())
    }

    fn look_up(
        &mut self,
        conn: Conn,
        topic: &Arc<str>,
        wanted: &FetchPartition,
        request: &FetchRequest,
    ) -> Result<Found, HangUp> {
        let cluster = self.cluster.is_some();
        let mut leadership = self.leadership(topic, wanted.partition, conn.node);
        if cluster && request.flags & fetch::FLAG_PREFER_LOCAL != 0 {
            leadership = self.provider(conn, topic, wanted.partition).unwrap_or(leadership);
        }
        let cut_chunks = self.options.cut_chunks;
        let Some(partition) = self.partition_mut(topic, wanted.partition) else {
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
        let Some(replica) = partition.replica(conn.node) else {
            return Ok(Found::Answer(PartitionAnswer::NoLeader));
        };
        let (log, committed) = (&replica.log, replica.committed);
        let end = || {
            let high_water_mark = if cluster { committed } else { log.mark };
            let answer = PartitionAnswer::Data { base: Some(log.first_available), high_water_mark, len: 0 };
            Found::End(answer, cluster.then_some(log.last + 1))
        };
        if wanted.seq == SEQ_TAIL {
            return Ok(end());
        }
        Ok(match log.find(wanted.seq, wanted.fetch_size.min(MAX_FETCH), cut_chunks) {
            Lookup::End => end(),
            Lookup::OutOfRange => Found::Answer(PartitionAnswer::OutOfRange {
                high_water_mark: if cluster { log.last.max(committed) } else { log.last },
                first_available: log.first_available,
            }),
            Lookup::Data(chunk) => {
                let base = if chunk.sparse { None } else { Some(chunk.base) };
                let len = u32::try_from(chunk.len()).map_err(|_| HangUp)?;
                Found::Data(PartitionAnswer::Data { base, high_water_mark: log.last, len }, chunk)
            }
            Lookup::Deadly(reason) => {
                let place = (Arc::clone(&request.client_id), Arc::clone(topic), wanted.partition);
                *self.fetch_deaths.entry(place).or_default().entry(wanted.seq).or_default() += 1;
                self.deadly(conn.node, reason);
                return Err(HangUp);
            }
        })
    }

    pub(super) fn answer_fetch(&mut self, conn: Conn, header: &FetchHeader, chunks: Vec<Part>) -> Result<(), HangUp> {
        let mut bytes = Vec::new();
        header.encode(&mut bytes).map_err(|_| HangUp)?;
        self.answer(conn, Kind::Consume, std::iter::once(Part::bytes(bytes)).chain(chunks).collect());
        Ok(())
    }

    /// Who serves a client that prefers a replica on its own host, if one is there.
    fn provider(&self, conn: Conn, topic: &str, partition: u16) -> Option<Leadership> {
        let client = self.conns.get(&conn)?.from;
        let partition = self.partition(topic, partition)?;
        let is_local = |node: &usize| self.nodes.get(*node).is_some_and(|node| IpAddr::V4(*node.addr().ip()) == client);
        let provider = partition.in_sync.iter().copied().find(is_local)?;
        let here = provider == conn.node;
        Some(if here { Leadership::Here } else { Leadership::Elsewhere(self.addr(provider)?) })
    }
}
