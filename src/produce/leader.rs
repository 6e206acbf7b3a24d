//! A broker that leads partitions to publish to: the connection, the requests in flight on it, and their answers.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use log::trace;

use super::queue::{Answer, Reply};
use crate::error::{Error, Fault, Result};
use crate::net::{AnswerReader, Channel, Refusal, Time};
use crate::protocol::admin::{DiscoverPartitionsRequest, PartitionState};
use crate::protocol::fetch::{FetchRequest, PartitionAnswer};
use crate::protocol::frame::{Kind, Payload, request_id};
use crate::protocol::produce::{ProduceCode, ProduceResponse};
use crate::protocol::request::Request;
use crate::protocol::{DecodeError, DecodeFault, Limits};
use crate::session::{marks_of_answer, marks_of_state, partition_count};

/// The most bundles in a request. They always fit, because a request holds as many topics, and as many partitions of each.
pub(super) const MAX_PER_REQUEST: usize = 255;

/// Beyond this many bytes a request takes no further bundle, so that small ones do not wait long for the answer to large ones.
pub(super) const FULL_REQUEST: usize = 8 << 20;

/// No request is added while this many bytes are still to be sent.
const MAX_UNSENT: usize = 1 << 20;

/// An older request waits for replicas or for a leader in trouble, and must not hold up others.
const SLOW_ANSWER: Duration = Duration::from_millis(500);

/// The connection to a broker that leads partitions, and what is in flight on it.
pub(super) struct Leader {
    pub(super) channel: Channel,
    /// Where it was connected, and what its name stood for, if bundles are numbered.
    pub(super) addresses: BTreeSet<SocketAddr>,
    pub(super) answers: AnswerReader,
    /// In the order in which they were sent, which is usually that of the answers.
    pub(super) in_flight: VecDeque<SentRequest>,
    /// Whether anything was sent to it before.
    pub(super) used: bool,
    /// Queues with something to send here, in the order of their turns, while they wait for room in the window or for the connection
    /// to be opened. Those that are in another backlog by now do not count.
    pub(super) backlog: VecDeque<usize>,
    /// When to look at all of these again while the connection is being opened: the budget of one may end, and others may have
    /// another leader.
    pub(super) recheck_at: Time,
}

/// A request that was not answered yet.
pub(super) struct SentRequest {
    pub(super) id: u32,
    pub(super) since: Time,
    /// The queues it is about.
    pub(super) queues: Vec<usize>,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// A bundle of each queue: the number of partitions of each topic, and the first number. If bundles are numbered, there is one.
    Bundles { shape: Vec<usize>, first_seq: u64 },
    /// The question for the end of the leader's log.
    End(FetchRequest),
    /// The question for the states of a topic's partitions, to learn the committed mark of this one.
    Mark { request: DiscoverPartitionsRequest, partition: u16 },
    /// The same question, to learn how many partitions there are.
    PartitionCount(DiscoverPartitionsRequest),
}

impl Leader {
    pub(super) fn new(channel: Channel, limits: &Limits) -> Leader {
        let (answers, in_flight, backlog) = (AnswerReader::new(limits.frame), VecDeque::new(), VecDeque::new());
        Leader {
            channel,
            addresses: BTreeSet::new(),
            answers,
            in_flight,
            used: false,
            backlog,
            recheck_at: Time::NEVER,
        }
    }

    /// Returns the connection, if something is awaited on it.
    pub(super) fn awaited(&mut self) -> Option<&mut Channel> {
        (!self.in_flight.is_empty() || !self.backlog.is_empty()).then_some(&mut self.channel)
    }

    /// Returns whether something is in line, and another request with bundles may be sent: fewer than `window`, not counting late
    /// ones, are in flight.
    pub(super) fn may_send(&self, now: Time, window: usize) -> bool {
        let is_young = |sent: &&SentRequest| matches!(sent.content, Content::Bundles { .. }) && now < sent.is_late_at();
        let has_room = || self.in_flight.len() < window || self.in_flight.iter().filter(is_young).count() < window;
        !self.backlog.is_empty() && self.channel.unsent() < MAX_UNSENT && has_room()
    }

    /// Sends a question for these queues.
    pub(super) fn ask(&mut self, now: Time, id: u32, queues: Vec<usize>, content: Content, timeout: Duration) {
        let mut frame = Vec::new();
        let encoded = match &content {
            Content::Bundles { .. } => Ok(()),
            Content::End(request) => request.encode(&mut frame),
            Content::Mark { request, .. } | Content::PartitionCount(request) => request.encode(&mut frame),
        };
        debug_assert!(encoded.is_ok(), "names were checked");
        self.channel.queue(now, id, timeout, frame);
        self.in_flight.push_back(SentRequest { id, since: now, queues, content });
    }

    /// Returns the request that was answered next, and what is answered about each of its queues, or the count asked for.
    ///
    /// # Errors
    /// The connection has failed, or what came is not an answer to a request in flight.
    pub(super) fn next_answer(&mut self, now: Time, limits: &Limits) -> Result<Option<(SentRequest, Vec<Answer>)>> {
        let Some((kind, payload)) = self.answers.next(&mut self.channel, now)? else { return Ok(None) };
        let payload = self.answers.data().get(payload).unwrap_or_default();
        // Not in order: a cluster answers once replicas have confirmed.
        let read = find(&self.in_flight, kind, payload)
            .and_then(|index| Ok((index, self.in_flight[index].content.read(payload, limits)?)));
        let (index, answer) = read.map_err(|e| Error::decode(e).at(self.channel.broker()))?;
        let Some(request) = self.in_flight.remove(index) else { return Ok(None) };
        trace!("{}: answer to request {}: {answer:?}", self.channel.broker(), request.id);
        self.channel.on_answer_end(now, request.id);
        Ok(Some((request, answer)))
    }
}

impl SentRequest {
    pub(super) fn is_late_at(&self) -> Time {
        self.since.after(SLOW_ANSWER)
    }

    fn answer_kind(&self) -> Kind {
        match self.content {
            Content::Bundles { .. } => Kind::Produce,
            Content::End(_) => Kind::Consume,
            Content::Mark { .. } | Content::PartitionCount(_) => Kind::DiscoverPartitions,
        }
    }
}

impl Content {
    fn read(&self, payload: &[u8], limits: &Limits) -> Result<Vec<Answer>, DecodeError> {
        let answer = match self {
            Content::Bundles { shape, first_seq } => {
                let response = ProduceResponse::decode(payload, shape.iter().copied())?;
                return Ok(response.codes.into_iter().map(|code| answer_of_code(code, *first_seq)).collect());
            }
            Content::End(request) => end_of(request.read_answer(payload, limits)?.pop()),
            Content::Mark { request, partition } => mark_of(request.read_answer(payload, limits)?, *partition),
            Content::PartitionCount(request) => match request.read_answer(payload, limits)? {
                Some(states) => Ok(Reply::Partitions(partition_count(&states))),
                None => Err(Refusal::Fault(Fault::UnknownTopic)),
            },
        };
        Ok(vec![answer])
    }
}

/// Returns the end of the log, from the answer about its partition.
fn end_of(answer: Option<PartitionAnswer>) -> Answer {
    let answer = answer.ok_or(Refusal::Fault(Fault::UnknownTopic))?;
    marks_of_answer(answer).map(|marks| Reply::LogEnd(marks.high_water_mark))
}

/// Returns the mark of this partition, from the states of all.
fn mark_of(states: Option<Vec<PartitionState>>, partition: u16) -> Answer {
    let states = states.ok_or(Refusal::Fault(Fault::UnknownTopic))?;
    let state = states.get(usize::from(partition)).ok_or(Refusal::Fault(Fault::UnknownPartition))?;
    marks_of_state(state).map(|marks| Reply::Mark(marks.high_water_mark))
}

/// Returns the question for the states of this topic's partitions.
pub(super) fn states_request(request_id: u32, topic: &str) -> DiscoverPartitionsRequest {
    // The form that lists partitions can kill a server.
    DiscoverPartitionsRequest { request_id, topic: topic.to_owned(), partitions: Vec::new() }
}

/// Returns what this code says about a bundle whose first number is `seq`.
fn answer_of_code(code: ProduceCode, seq: u64) -> Answer {
    let fault = match code {
        ProduceCode::Stored => return Ok(Reply::Stored),
        ProduceCode::Redirect(endpoint) => return Err(Refusal::Redirect(endpoint)),
        ProduceCode::UnknownPartition => Fault::UnknownPartition,
        ProduceCode::SystemError => Fault::System,
        ProduceCode::NotConfirmed => Fault::NotConfirmed,
        ProduceCode::InsufficientReplicas => Fault::InsufficientReplicas,
        ProduceCode::InvalidSeq => Fault::SeqNotAbove { seq },
        ProduceCode::NoLeader => Fault::NoLeader,
        ProduceCode::ReadOnly => Fault::ReadOnly,
        ProduceCode::UnknownTopic => Fault::UnknownTopic,
    };
    Err(Refusal::Fault(fault))
}

/// Finds the request that an answer belongs to. Their ids count up.
fn find(sent: &VecDeque<SentRequest>, kind: Kind, payload: &[u8]) -> Result<usize, DecodeError> {
    if !sent.iter().any(|request| request.answer_kind() == kind) {
        let expected = sent.front().map_or(Kind::Produce, SentRequest::answer_kind);
        return Err(DecodeError::unexpected("message id", kind as u64, expected as u64, 0));
    }
    let before = if kind == Kind::Consume { 4 } else { 0 };
    let id = request_id(payload.get(before..).unwrap_or_default())?;
    let since_first = |id: u32| id.wrapping_sub(sent.front().map_or(id, |first| first.id));
    let found = sent.binary_search_by_key(&since_first(id), |request| since_first(request.id));
    let undefined = || DecodeError::new("request id", DecodeFault::Undefined { value: id.into() }, 0);
    found.ok().filter(|&index| sent[index].answer_kind() == kind).ok_or_else(undefined)
}
