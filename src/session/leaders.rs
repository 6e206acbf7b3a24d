//! Who leads a topic's partitions, and where their logs begin and end.

use std::collections::HashMap;
use std::sync::Arc;

use log::warn;

use super::{Marks, Session};
use crate::error::{Error, ErrorKind, Fault, Result, rounded_up_to_ms};
use crate::net::{BrokerAddr, Refusal, RetryPolicy, RetryState};
use crate::protocol::admin::{DiscoverPartitionsRequest, PartitionState};
use crate::protocol::fetch::{
    FetchPartition, FetchRequest, FetchTopic, MAX_PARTITIONS, PartitionAnswer, SEQ_BEYOND_END,
};

/// Each leader gets at least one part in this many of the time, so after as many silent ones the others are not asked.
const MAX_SILENT: u32 = 8;

/// What a broker knows of a topic's partitions.
pub(crate) struct Discovered {
    pub(crate) broker: BrokerAddr,
    /// In the order of the partitions' ids.
    pub(crate) states: Vec<PartitionState>,
}

/// Returns the number of partitions with these states, which the wire has as a `u16`.
pub(crate) fn partition_count(states: &[PartitionState]) -> u16 {
    u16::try_from(states.len()).unwrap_or(u16::MAX)
}

impl Session {
    /// Asks any broker for the partitions of a topic, and notes who leads which. In a cluster the numbers in the answer are not the
    /// ends of logs: see [`log_ends`](Session::log_ends).
    pub(crate) fn discover(&self, topic: &str) -> Result<Discovered> {
        // The form that lists partitions can kill a server.
        let mut request = DiscoverPartitionsRequest { request_id: 0, topic: topic.to_owned(), partitions: Vec::new() };
        let (broker, states) = self.call(&mut request)?;
        let states = states.ok_or_else(|| Error::refused(topic, None, Fault::UnknownTopic).at(&broker))?;
        let name: Arc<str> = topic.into();
        let now = self.now();
        for (state, id) in states.iter().zip(0..) {
            // The broker that answers is no worse for knowing of a partition without a leader.
            let leader = match *state {
                PartitionState::Marks { .. } => Some(broker.clone()),
                PartitionState::Redirect(endpoint) => self.book.resolve_redirect(endpoint).ok().flatten(),
                PartitionState::NoLeader | PartitionState::SystemError => None,
            };
            if let Some(leader) = leader {
                self.book.set_leader(&name, id, leader, now);
            }
        }
        Ok(Discovered { broker, states })
    }

    /// Returns first number and end of one partition's log, from its leader.
    pub(crate) fn log_end(&self, topic: &str, partition: u16) -> Result<Marks> {
        let found = self.log_ends(topic, &[partition], &self.leader_policy())?.pop();
        found.unwrap_or_else(|| Err(Error::refused(topic, partition, Fault::UnknownPartition)))
    }

    /// Asks for first number and end of the logs of these partitions, at their leaders: the boundary fault of a Consume for a number
    /// beyond every end, the only answer that tells the end of a leader's own log (reference, section 6.5). Returns one result
    /// for each partition, once all are known or the retry budget is spent.
    pub(crate) fn log_ends(&self, topic: &str, ids: &[u16], policy: &RetryPolicy) -> Result<Vec<Result<Marks>>> {
        let name: Arc<str> = topic.into();
        let no_leader = |&id: &u16| Err(Error::refused(topic, id, Fault::NoLeader));
        let mut found: Vec<Result<Marks>> = ids.iter().map(no_leader).collect();
        let mut open: Vec<usize> = (0..ids.len()).collect();
        let mut state = RetryState::default();
        for round in 0.. {
            self.ask_leaders(&name, ids, &open, &mut found)?;
            open.retain(|&index| found[index].as_ref().is_err_and(Error::is_transient));
            if open.is_empty() {
                break;
            }
            // The first redirect is how leaders are found; after a second one the cluster needs time to settle.
            let now = self.now();
            let is_found = round == 0 && open.iter().all(|&index| found[index].as_ref().is_err_and(Error::is_redirect));
            let until = if is_found { Some(now) } else { state.retry_or_fail(now, policy) };
            let Some(until) = until else { break };
            if let Err(e) = &found[open[0]] {
                warn!("{e:#}, trying again in {:?}", rounded_up_to_ms(until.since(now)));
            }
            self.pause(until)?;
        }
        Ok(found)
    }

    /// Asks the leaders of these partitions once, as far as they are known; each for all the partitions that it leads.
    fn ask_leaders(&self, topic: &Arc<str>, ids: &[u16], open: &[usize], found: &mut [Result<Marks>]) -> Result<()> {
        let mut requests: Vec<(BrokerAddr, Vec<usize>)> = Vec::new();
        let mut latest = HashMap::new();
        for &index in open {
            let leader = self.book.leader_or_any(topic, ids[index]);
            let request = latest.get(&leader).and_then(|&request: &usize| requests.get_mut(request));
            match request.filter(|(_, list)| list.len() < MAX_PARTITIONS) {
                Some((_, list)) => list.push(index),
                None => {
                    latest.insert(leader.clone(), requests.len());
                    requests.push((leader, vec![index]));
                }
            }
        }
        // A broker may name any number of leaders, each of which may keep a caller waiting: they share the time.
        requests.truncate((self.config.limits.nodes as usize).max(MAX_SILENT as usize));
        let budget = self.now().after(self.config.connect_timeout);
        for (number, (leader, list)) in requests.iter().enumerate() {
            if self.now().after(self.config.connect_timeout / MAX_SILENT) > budget {
                break;
            }
            let mut share = self.share(budget, requests.len() - number, MAX_SILENT as usize);
            let asked: Vec<u16> = list.iter().map(|&index| ids[index]).collect();
            let mut request = self.end_request(0, topic, &asked);
            match self.call_with(&mut request, None, &mut |request| self.ask(leader, request, &mut share)) {
                Ok((_, answers)) => {
                    for ((&index, id), answer) in list.iter().zip(asked).zip(answers) {
                        let marks = self.book.note_reply(leader, topic, id, self.now(), marks_of_answer(answer));
                        let redirects = match found[index].as_ref().err().and_then(Error::fault) {
                            Some(Fault::Redirects { hops, .. }) => hops + 1,
                            _ => 1,
                        };
                        let error = |refusal: Refusal| Error::refused(topic, id, refusal.fault(redirects)).at(leader);
                        found[index] = marks.map_err(error);
                    }
                }
                Err(e) if e.kind == ErrorKind::Closed => return Err(e),
                Err(e) => {
                    self.book.demote_failed(leader, self.now());
                    for &index in list {
                        found[index] = Err(e.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks for the ends of these partitions' logs.
    pub(crate) fn end_request(&self, request_id: u32, topic: &Arc<str>, ids: &[u16]) -> FetchRequest {
        let wanted = |&partition| FetchPartition { partition, seq: SEQ_BEYOND_END, fetch_size: 1 };
        FetchRequest {
            client_version: 2,
            request_id,
            client_id: self.config.client_id.clone(),
            max_wait_ms: 0,
            min_bytes: 0,
            flags: 0,
            topics: vec![FetchTopic { name: topic.clone(), partitions: ids.iter().map(wanted).collect() }],
        }
    }
}

/// Returns the marks in an answer without data.
pub(crate) fn marks_of_answer(answer: PartitionAnswer) -> Result<Marks, Refusal> {
    let fault = match answer {
        PartitionAnswer::OutOfRange { first_available, high_water_mark } => {
            return Ok(Marks { first_available, high_water_mark });
        }
        // No message has such a number.
        PartitionAnswer::Data { base, high_water_mark, .. } => {
            return Ok(Marks { first_available: base.unwrap_or(0), high_water_mark });
        }
        PartitionAnswer::Redirect(endpoint) => return Err(Refusal::Redirect(endpoint)),
        PartitionAnswer::NoLeader => Fault::NoLeader,
        PartitionAnswer::SystemError => Fault::System,
        PartitionAnswer::UnknownPartition => Fault::UnknownPartition,
        PartitionAnswer::UnknownTopic => Fault::UnknownTopic,
    };
    Err(Refusal::Fault(fault))
}

/// Returns the marks that a broker knows of a partition.
pub(crate) fn marks_of_state(state: &PartitionState) -> Result<Marks, Refusal> {
    match *state {
        PartitionState::Marks { first_available, high_water_mark } => Ok(Marks { first_available, high_water_mark }),
        PartitionState::Redirect(endpoint) => Err(Refusal::Redirect(endpoint)),
        PartitionState::NoLeader => Err(Refusal::Fault(Fault::NoLeader)),
        PartitionState::SystemError => Err(Refusal::Fault(Fault::System)),
    }
}
