//! The decoder against a second one, as plain as can be: on what servers sent, on what chance makes, and on both
//! damaged, they find the same messages or both refuse.

#[path = "../common/mod.rs"]
mod common;
#[allow(unreachable_pub)]
mod plain;

use common::feed::{self, Outcome};
use common::generate::{self, Packed, Shape};
use common::rng::{Rng, seeded};
use common::{captures, mutate};
use plain::{End, No, Part, Says, Topic, Wanted};
use tank_client::protocol::Limits;
use tank_client::protocol::bundle::{BundleBuilder, Compression};
use tank_client::protocol::fetch::{FetchRequest, PartitionAnswer};
use tank_client::protocol::stream::ChunkEnd;

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
enum Verdict {
    Accepted,
    Refused,
    Unfinished,
}

fn compare(requests: &[FetchRequest], bytes: &[u8]) -> Verdict {
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

/// Requests and the bytes that answer them.
type Case = (Vec<FetchRequest>, Vec<u8>);

fn recorded() -> Vec<Case> {
    let captures = captures::standalone().into_iter().chain(captures::cluster());
    captures.map(|capture| (capture.answered_requests(), capture.stream())).collect()
}

fn generated(rng: &mut Rng) -> Case {
    let exchange = generate::exchange(rng, Shape::SMALL);
    (vec![exchange.request], exchange.frame)
}

#[test]
fn recorded_answers() {
    let verdicts: Vec<Verdict> = recorded().iter().map(|(requests, bytes)| compare(requests, bytes)).collect();
    let count = |verdict| verdicts.iter().filter(|other| **other == verdict).count();
    // All but the hostile ones, one from a confused replica, and four connections that ended.
    assert_eq!([Verdict::Accepted, Verdict::Refused, Verdict::Unfinished].map(count), [148, 38, 4]);
}

#[test]
fn generated_answers() {
    seeded(2000, |rng| {
        let (requests, bytes) = generated(rng);
        assert_eq!(compare(&requests, &bytes), Verdict::Accepted);
    });
}

#[test]
fn damaged_answers() {
    let recorded: Vec<Case> = recorded().into_iter().filter(|(_, bytes)| (1..5000).contains(&bytes.len())).collect();
    let mut verdicts = [0; 3];
    seeded(20_000, |rng| {
        let (requests, mut bytes) = if rng.one_in(2) { rng.pick(&recorded) } else { generated(rng) };
        let other = &recorded[rng.below(recorded.len())].1;
        for _ in 0..rng.pick(&[1, 1, 1, 2, 5]) {
            mutate::damage(rng, &mut bytes, other);
        }
        if !rng.one_in(4) {
            mutate::mend_lengths(&mut bytes);
        }
        verdicts[compare(&requests, &bytes) as usize] += 1;
    });
    // Damage that is always seen at once, or never, would test little.
    let enough = verdicts.iter().sum::<usize>() < 20_000 || verdicts.iter().all(|count| *count > 500);
    assert!(enough, "{verdicts:?}");
}

/// Damage inside a bundle, around which everything fits; also to what is compressed afterwards.
#[test]
fn damaged_bundles() {
    let mut verdicts = [0; 3];
    seeded(10_000, |rng| {
        let sparse = rng.one_in(2);
        let (count, first) = (rng.between(1, 6), rng.pick(&[1, 100, u64::MAX - (1 << 17)]));
        let messages = generate::messages(rng, first, count, 20, sparse);
        let Packed { bytes: mut bundle, ends, .. } =
            generate::pack(&mut BundleBuilder::new(), messages, sparse, Compression::None);
        let other = rng.bytes(40);
        mutate::damage(rng, &mut bundle, &other);
        if rng.one_in(2) && !bundle.is_empty() {
            let header = ends[0].min(bundle.len());
            bundle[0] = bundle[0] & !3 | 1;
            let set = snap::raw::Encoder::new().compress_vec(&bundle[header..]).unwrap();
            bundle.truncate(header);
            bundle.extend_from_slice(&set);
        }
        let mut chunk = Vec::new();
        for _ in 0..rng.pick(&[1, 1, 2]) {
            generate::put_varint(bundle.len() as u64, &mut chunk);
            chunk.extend_from_slice(&bundle);
        }
        if rng.one_in(3) {
            chunk.truncate(rng.between(1, chunk.len()));
        }
        let mark = rng.pick(&[u64::MAX, first + 1, first + count as u64]);
        let (request, bytes) = generate::one_chunk(rng.pick(&[0, first, first + 1]), Some(first), mark, &chunk);
        verdicts[compare(&[request], &bytes) as usize] += 1;
    });
    let enough = verdicts.iter().sum::<usize>() < 10_000 || (verdicts[0] > 1000 && verdicts[1] > 1000);
    assert!(enough && verdicts[2] == 0, "{verdicts:?}");
}
