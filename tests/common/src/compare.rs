//! Holds the decoder to the plain one.

use tank_client::Limits;
use tank_client::protocol::fetch::{FetchRequest, PartitionAnswer};
use tank_client::protocol::stream::ChunkEnd;

use crate::feed::{self, Outcome};
use crate::plain::{self, End, No, Part, Says, Topic, Wanted};

fn wanted(request: &FetchRequest) -> Wanted {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| (wanted.partition, wanted.seq)).collect();
        Topic { name: topic.name.as_bytes().to_vec(), partitions }
    });
    Wanted { request_id: request.request_id, topics: topics.collect() }
}

fn translate(part: &feed::Part) -> Part {
    let says = match part.answer {
        PartitionAnswer::Data { base, high_water_mark, len } => Says::Data { base, mark: high_water_mark, len },
        PartitionAnswer::OutOfRange { high_water_mark, first_available } => {
            Says::Boundary { mark: high_water_mark, first: first_available }
        }
        PartitionAnswer::SystemError => Says::System,
        PartitionAnswer::Redirect(to) => {
            let ([a, b, c, d], [low, high]) = (to.ip().octets(), to.port().to_le_bytes());
            Says::Redirect([a, b, c, d, low, high])
        }
        PartitionAnswer::NoLeader => Says::NoLeader,
        PartitionAnswer::UnknownPartition => Says::NoPartition,
        PartitionAnswer::UnknownTopic => Says::NoTopic,
    };
    let message = |message: &feed::Message| plain::Message {
        seq: message.seq,
        time: message.timestamp_ms,
        key: message.key.clone(),
        payload: message.payload.clone(),
    };
    let end = part.end.map(|end| match end {
        ChunkEnd::Whole => End::Whole,
        ChunkEnd::Cut { bundle_len: None } => End::CutInLength,
        ChunkEnd::Cut { bundle_len: Some(len) } => End::Cut(len),
        ChunkEnd::AboveMark => End::AboveMark,
    });
    Part { says, messages: part.messages.iter().map(message).collect(), end }
}

/// What became of a case, the same for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    Refused,
    Unfinished,
}

/// Decodes with both; panics if they disagree.
pub fn compare(requests: &[FetchRequest], bytes: &[u8]) -> Verdict {
    let Outcome { answers, error, unanswered, .. } = feed::decode(requests, bytes, &Limits::default());
    let wanted: Vec<Wanted> = requests.iter().map(wanted).collect();
    let (plain_answers, trouble) = plain::answers(&wanted, bytes);
    let translated: Vec<(u32, Vec<Part>)> =
        answers.iter().map(|answer| (answer.request_id, answer.parts.iter().map(translate).collect())).collect();
    if translated != plain_answers || error.is_some() != matches!(trouble, Some(No::Bad(_))) {
        // Half an answer is nothing to the plain decoder, while the other one may have seen enough of it to refuse it.
        let early = translated == plain_answers && error.is_some() && trouble == Some(No::More);
        assert!(early, "{error:?} against {trouble:?}\n{requests:?}\n{bytes:02x?}");
    }
    match (error, unanswered) {
        (Some(_), _) => Verdict::Refused,
        (None, 0) => Verdict::Accepted,
        (None, _) => Verdict::Unfinished,
    }
}
