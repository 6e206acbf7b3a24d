//! The requests a producer sends, and how their answers are read.

use std::collections::VecDeque;
use std::time::Duration;

use super::queue::{PartitionQueue, ToSend};
use crate::net::Time;
use crate::protocol::admin::{DiscoverPartitionsRequest, PartitionState};
use crate::protocol::cursor::Cursor;
use crate::protocol::fetch::{FetchRequest, PartitionAnswer};
use crate::protocol::frame::{self, Kind};
use crate::protocol::produce::{ProduceCode, ProducePartition, ProduceResponse, ProduceTopic};
use crate::protocol::request::Request;
use crate::protocol::{DecodeError, DecodeFault, EncodeError, Limits};
use crate::session::Session;

/// The most topics in a request, and partitions of one.
pub(super) const MAX_ENTRIES: usize = 255;

/// A request takes no further bundle beyond this many bytes.
const MAX_REQUEST: usize = 64 << 20;

/// A request that is older waits for replicas or a leader in trouble, and must not hold up others.
const LATE: Duration = Duration::from_millis(500);

/// A request whose answer is awaited.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: u32,
    pub(super) since: Time,
    pub(super) sent: Sent,
}

/// What a request holds or asks, and for which queues.
#[derive(Debug)]
pub(super) enum Sent {
    /// A bundle of each queue, in the order of the entries; the number of partitions of each topic.
    Bundles { queues: Vec<usize>, shape: Vec<usize> },
    /// The end of the leader's log.
    End(usize, FetchRequest),
    /// The committed mark.
    Mark(usize, DiscoverPartitionsRequest),
    /// The number of a topic's partitions, by key.
    Count(usize, DiscoverPartitionsRequest),
}

/// What an answer says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The codes of the bundles.
    Codes,
    /// The number that was asked for, or why it is not told.
    Number(std::result::Result<u64, ProduceCode>),
    /// How many partitions the topic has; none if it is unknown.
    Count(usize),
}

impl InFlight {
    pub(super) fn has_bundles(&self) -> bool {
        matches!(self.sent, Sent::Bundles { .. })
    }

    pub(super) fn is_young(&self, now: Time) -> bool {
        self.has_bundles() && now < self.is_late_at()
    }

    pub(super) fn is_late_at(&self) -> Time {
        self.since.after(LATE)
    }

    fn answer_kind(&self) -> Kind {
        match self.sent {
            Sent::Bundles { .. } => Kind::Produce,
            Sent::End(..) => Kind::Consume,
            Sent::Mark(..) | Sent::Count(..) => Kind::DiscoverPartitions,
        }
    }

    /// Appends a question as a frame.
    pub(super) fn put_question(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match &self.sent {
            Sent::Bundles { .. } => Ok(()),
            Sent::End(_, request) => request.put(out),
            Sent::Mark(_, request) | Sent::Count(_, request) => request.put(out),
        }
    }

    /// Reads its answer; the codes of bundles go to `codes`. `partition` is that of its queue.
    pub(super) fn read(
        &self,
        payload: &[u8],
        limits: &Limits,
        partition: u16,
        codes: &mut Vec<ProduceCode>,
    ) -> Result<Answer, DecodeError> {
        Ok(match &self.sent {
            Sent::Bundles { shape, .. } => {
                ProduceResponse::decode_into(payload, shape.iter().copied(), codes)?;
                Answer::Codes
            }
            Sent::End(_, request) => Answer::Number(match request.read_answer(payload, limits)?.pop() {
                Some(
                    PartitionAnswer::OutOfRange { high_water_mark: end, .. }
                    | PartitionAnswer::Data { high_water_mark: end, .. },
                ) => Ok(end),
                Some(PartitionAnswer::Redirect(to)) => Err(ProduceCode::Redirect(to)),
                Some(PartitionAnswer::NoLeader) => Err(ProduceCode::NoLeader),
                Some(PartitionAnswer::SystemError) => Err(ProduceCode::SystemError),
                Some(PartitionAnswer::UnknownPartition) => Err(ProduceCode::UnknownPartition),
                Some(PartitionAnswer::UnknownTopic) | None => Err(ProduceCode::UnknownTopic),
            }),
            Sent::Mark(_, request) => Answer::Number(match request.read_answer(payload, limits)? {
                None => Err(ProduceCode::UnknownTopic),
                Some(states) => match states.get(usize::from(partition)) {
                    Some(PartitionState::Marks { high_water_mark, .. }) => Ok(*high_water_mark),
                    Some(PartitionState::Redirect(to)) => Err(ProduceCode::Redirect(*to)),
                    Some(PartitionState::NoLeader) => Err(ProduceCode::NoLeader),
                    Some(PartitionState::SystemError) => Err(ProduceCode::SystemError),
                    None => Err(ProduceCode::UnknownPartition),
                },
            }),
            Sent::Count(_, request) => {
                Answer::Count(request.read_answer(payload, limits)?.map_or(0, |states| states.len()))
            }
        })
    }

    /// The queues it is about.
    pub(super) fn queues(&self) -> &[usize] {
        match &self.sent {
            Sent::Bundles { queues, .. } => queues,
            Sent::End(queue, _) | Sent::Mark(queue, _) => std::slice::from_ref(queue),
            Sent::Count(..) => &[],
        }
    }
}

/// The request that an answer is to.
pub(super) fn find(in_flight: &VecDeque<InFlight>, kind: Kind, payload: &[u8]) -> Result<usize, DecodeError> {
    let unexpected = |expected| Err(DecodeError::unexpected("message id", kind as u64, expected as u64, 0));
    if !in_flight.iter().any(|request| request.answer_kind() == kind) {
        return unexpected(in_flight.front().map_or(Kind::Produce, InFlight::answer_kind));
    }
    let id = match kind {
        Kind::Consume => {
            let mut cursor = Cursor::new(payload, 0);
            cursor.u32("header length")?;
            cursor.u32("request id")?
        }
        _ => frame::request_id(payload)?,
    };
    let Some(index) = in_flight.iter().position(|request| request.id == id) else {
        return Err(DecodeError::new("request id", DecodeFault::Undefined { value: id.into() }, 0));
    };
    match in_flight.get(index).map(InFlight::answer_kind) {
        Some(expected) if expected != kind => unexpected(expected),
        _ => Ok(index),
    }
}

/// A queue's question.
pub(super) fn ask(session: &Session, queue: &PartitionQueue, index: usize, question: ToSend, id: u32) -> Sent {
    if question == ToSend::Mark {
        return Sent::Mark(index, discover(id, &queue.topic));
    }
    let mut request = session.end_request(&queue.topic, std::iter::once(queue.partition));
    request.request_id = id;
    Sent::End(index, request)
}

pub(super) fn discover(request_id: u32, topic: &str) -> DiscoverPartitionsRequest {
    // The form that lists partitions can kill a server.
    DiscoverPartitionsRequest { request_id, topic: topic.to_owned(), partitions: Vec::new() }
}

/// The first bundles of these queues by topic, as many as a request takes; the others are dropped from `from`.
pub(super) fn group<'a>(queues: &'a [PartitionQueue], from: &mut Vec<usize>) -> Vec<ProduceTopic<'a>> {
    from.sort_by(|&a, &b| queues[a].topic.cmp(&queues[b].topic));
    let mut topics: Vec<ProduceTopic<'a>> = Vec::new();
    let mut bytes = 0;
    from.retain(|&index| {
        let queue = &queues[index];
        let Some(bundle) = queue.waiting.front() else { return false };
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
