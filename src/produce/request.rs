//! The requests a producer sends, and how their answers are read.

use std::collections::VecDeque;
use std::time::Duration;

use super::outcome::Reply;
use super::queue::PartitionQueue;
use crate::error::Fault;
use crate::net::Time;
use crate::protocol::admin::{DiscoverPartitionsRequest, PartitionState};
use crate::protocol::cursor::Cursor;
use crate::protocol::fetch::FetchRequest;
use crate::protocol::frame::{self, Kind};
use crate::protocol::produce::{ProduceCode, ProducePartition, ProduceResponse, ProduceTopic};
use crate::protocol::request::Request;
use crate::protocol::{DecodeError, DecodeFault, EncodeError, Limits};
use crate::session::{marks_of_answer, marks_of_state};

/// The most topics in a request, and partitions of one.
pub(super) const MAX_ENTRIES: usize = 255;

/// A request takes no further bundle beyond this many bytes.
const MAX_REQUEST: usize = 64 << 20;

/// A request that is older waits for replicas or a leader in trouble, and must not hold up others.
const LATE: Duration = Duration::from_millis(500);

/// A request whose answer is awaited.
#[derive(Debug)]
pub(super) struct SentRequest {
    pub(super) id: u32,
    pub(super) since: Time,
    /// The queues it is about.
    pub(super) queues: Vec<usize>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A bundle of each queue; the number of partitions of each topic.
    Bundles(Vec<usize>),
    /// The question for the end of the leader's log.
    End(FetchRequest),
    /// The question for the states of a topic's partitions: for the committed mark of the queue, or to count them.
    States(DiscoverPartitionsRequest),
}

/// What an answer says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The codes of the bundles, one for each queue, stand in the vector that they were read into.
    Codes,
    End(Reply),
    /// `None`: there is no such topic.
    States(Option<Vec<PartitionState>>),
}

impl SentRequest {
    pub(super) fn is_young(&self, now: Time) -> bool {
        matches!(self.content, Content::Bundles(_)) && now < self.is_late_at()
    }

    pub(super) fn is_late_at(&self) -> Time {
        self.since.after(LATE)
    }

    fn answer_kind(&self) -> Kind {
        match self.content {
            Content::Bundles(_) => Kind::Produce,
            Content::End(_) => Kind::Consume,
            Content::States(_) => Kind::DiscoverPartitions,
        }
    }
}

impl Content {
    /// The question for the states of this topic's partitions.
    pub(super) fn states(request_id: u32, topic: &str) -> Content {
        // The form that lists partitions can kill a server.
        let partitions = Vec::new();
        Content::States(DiscoverPartitionsRequest { request_id, topic: topic.to_owned(), partitions })
    }

    /// Appends a question as a frame.
    pub(super) fn put_question(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Content::Bundles(_) => Ok(()),
            Content::End(request) => request.put(out),
            Content::States(request) => request.put(out),
        }
    }

    /// Reads its answer; the codes of bundles go to `codes`.
    pub(super) fn read(
        &self,
        payload: &[u8],
        limits: &Limits,
        codes: &mut Vec<ProduceCode>,
    ) -> Result<Answer, DecodeError> {
        Ok(match self {
            Content::Bundles(shape) => {
                codes.clear();
                ProduceResponse::decode_into(payload, shape.iter().copied(), codes)?;
                Answer::Codes
            }
            Content::End(request) => {
                let answer = request.read_answer(payload, limits)?.pop();
                let marks = answer.map_or(Err(Fault::UnknownTopic), marks_of_answer);
                Answer::End(marks.map(|(_, end)| end))
            }
            Content::States(request) => Answer::States(request.read_answer(payload, limits)?),
        })
    }
}

/// What this code says of a bundle.
pub(super) fn reply_of_code(code: ProduceCode) -> Reply {
    Err(match code {
        ProduceCode::Stored => return Ok(0),
        ProduceCode::UnknownPartition => Fault::UnknownPartition,
        ProduceCode::SystemError => Fault::System,
        ProduceCode::NotConfirmed => Fault::NotConfirmed,
        ProduceCode::InsufficientReplicas => Fault::InsufficientReplicas,
        ProduceCode::InvalidSeq => Fault::SeqNotAbove { seq: 0 },
        ProduceCode::Redirect(last) => Fault::Redirects { hops: 0, last },
        ProduceCode::NoLeader => Fault::NoLeader,
        ProduceCode::ReadOnly => Fault::ReadOnly,
        ProduceCode::UnknownTopic => Fault::UnknownTopic,
    })
}

/// The committed mark of a partition of the topic.
pub(super) fn committed_mark(states: Option<&[PartitionState]>, partition: u16) -> Reply {
    let states = states.ok_or(Fault::UnknownTopic)?;
    let state = states.get(usize::from(partition)).ok_or(Fault::UnknownPartition)?;
    marks_of_state(state).map(|(_, mark)| mark)
}

/// The request that an answer is to.
pub(super) fn find(sent: &VecDeque<SentRequest>, kind: Kind, payload: &[u8]) -> Result<usize, DecodeError> {
    if !sent.iter().any(|request| request.answer_kind() == kind) {
        let expected = sent.front().map_or(Kind::Produce, SentRequest::answer_kind);
        return Err(DecodeError::unexpected("message id", kind as u64, expected as u64, 0));
    }
    let id = match kind {
        Kind::Consume => {
            let mut cursor = Cursor::new(payload, 0);
            cursor.u32("header length")?;
            cursor.u32("request id")?
        }
        _ => frame::request_id(payload)?,
    };
    let is_answered = |request: &SentRequest| request.id == id && request.answer_kind() == kind;
    let undefined = || DecodeError::new("request id", DecodeFault::Undefined { value: id.into() }, 0);
    sent.iter().position(is_answered).ok_or_else(undefined)
}

/// The first bundles of these queues by topic, as many as a request takes; the others are dropped from `from`.
pub(super) fn group<'a>(queues: &'a [PartitionQueue], from: &mut Vec<usize>) -> Vec<ProduceTopic<'a>> {
    from.sort_by(|&a, &b| queues[a].topic.cmp(&queues[b].topic));
    let mut topics: Vec<ProduceTopic<'a>> = Vec::new();
    let mut bytes = 0;
    from.retain(|&index| {
        let queue = &queues[index];
        let Some(bundle) = queue.first_waiting() else { return false };
        let (is_first, is_full) = (topics.is_empty(), topics.len() == MAX_ENTRIES);
        bytes += bundle.bytes.len();
        if !is_first && bytes > MAX_REQUEST {
            return false;
        }
        let entry =
            ProducePartition { partition: queue.partition, first_seq: bundle.first_seq(), bundle: &bundle.bytes };
        match topics.last_mut() {
            Some(topic) if *topic.name == *queue.topic => {
                if topic.partitions.len() == MAX_ENTRIES {
                    return false;
                }
                topic.partitions.push(entry);
            }
            _ if is_full => return false,
            _ => topics.push(ProduceTopic { name: (&*queue.topic).into(), partitions: vec![entry] }),
        }
        true
    });
    topics
}
