//! The whole consume loop over a real socket, against a peer that follows the input: it ends with messages or a typed error,
//! never with a message twice, out of turn or out of nothing.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tank_client::Compression;
use tank_client::Limits;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::admin::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
use tank_client::protocol::bundle::BundleBuilder;
use tank_client::protocol::fetch::{FetchHeader, FetchPartition, FetchRequest, PartitionAnswer, SEQ_TAIL, TopicAnswer};
use tank_client::protocol::frame::{PING, Payload};
use tank_client::{Client, ConsumeIter, Error, ErrorKind, Message, OutOfRange, Start, Subscription};

use crate::generate;
use crate::input::Input;
use crate::peer::{Peer, Reply, Script, status};
use crate::rng::Rng;

const TOPIC: &str = "t";

/// The most answers to fetches; then the peer hangs up.
const MOST_REPLIES: usize = 6;

static PEER: LazyLock<Peer> = LazyLock::new(Peer::start);

/// What the peer knows that it sent in good order, by partition.
type Sent = Arc<Mutex<Ledger>>;

#[derive(Default)]
struct Ledger {
    messages: HashMap<u16, Vec<Sample>>,
    /// Something was sent that is not in the ledger.
    tampered: bool,
}

/// A message as far as both ends can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    seq: u64,
    timestamp_ms: u64,
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
}

impl Sample {
    fn of(message: &Message) -> Sample {
        Sample {
            seq: message.seq(),
            timestamp_ms: message.timestamp_ms(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().to_vec(),
        }
    }
}

/// Settings (`u8` each: how to read, what to want, partitions, start, messages), first number `u64`, sizes of pieces behind a
/// `u8`, marks (`u64` twice), and then answers: what kind `u8`, with what that takes.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (reading, wanting) = (input.u8(), input.u8());
    let partitions = u16::from(input.u8() % 3 + 1);
    let (start, limit) = (input.u8(), input.u8());
    // The number above is never assigned, which the caller is told.
    let seq = input.number::<8>().min(u64::MAX - 1);
    let script = Play::new(&mut input, partitions, reading & 0x80 != 0, wanting & 32 != 0);
    let sent = script.sent.clone();
    PEER.play(script);

    let mut subscription = Subscription::topic(TOPIC).max_wait(Duration::ZERO).start(match start % 3 {
        0 => Start::Earliest,
        1 => Start::At(seq),
        _ => Start::Latest,
    });
    if wanting & 1 != 0 {
        subscription = subscription.stop_at_end();
    }
    let out_of_range = match wanting >> 1 & 3 {
        0 => OutOfRange::Earliest,
        1 => OutOfRange::Latest,
        _ => OutOfRange::Fail,
    };
    let stays = out_of_range == OutOfRange::Fail;
    subscription = subscription.out_of_range(out_of_range);
    if wanting & 8 != 0 {
        subscription = subscription.stop_at_seq(seq.saturating_add(4));
    }
    if limit > 0 {
        subscription = subscription.limit(limit.into());
    }
    let limits = match wanting & 16 {
        0 => Limits::default(),
        _ => Limits::default().fetch_frame(2000).frame(300).fetch_header(60).bundle(100).message_set(200).messages(20),
    };
    let peer = PEER.addr();
    let client = Client::builder()
        .connect_timeout(Duration::from_secs(2))
        .io_timeout(Duration::from_secs(2))
        .retry_timeout(Duration::ZERO)
        .backoff(Duration::from_millis(1), Duration::from_millis(1))
        .limits(limits)
        // Whatever it names as a leader, it is the peer that is asked.
        .map_endpoints(move |_| peer)
        .connect(peer);
    let iter = client.and_then(|client| client.subscribe(subscription));
    let delivered = match iter {
        Ok(mut iter) => {
            let delivered = read(&mut iter, reading, stays);
            if limit > 0 {
                assert!(delivered.values().map(Vec::len).sum::<usize>() <= limit.into());
            }
            delivered
        }
        Err(e) => {
            typed(&e);
            HashMap::new()
        }
    };
    PEER.end();
    let sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
    for (partition, messages) in &delivered {
        assert!(*partition < partitions || sent.tampered, "a message of partition {partition}");
        // The peer may send those who let it elsewhere, and there begin anew.
        let in_turn = messages.is_sorted_by(|a, b| a.seq < b.seq);
        assert!(in_turn || !stays, "a message twice, or out of turn: {messages:?}");
        let known = sent.messages.get(partition).map_or(&[][..], Vec::as_slice);
        assert!(sent.tampered || known.starts_with(messages), "{messages:?} delivered of {known:?}");
    }
}

/// Reads until the end, in one way or another; unless it is sent elsewhere, it `stays` above its positions.
fn read(iter: &mut ConsumeIter, how: u8, stays: bool) -> HashMap<u16, Vec<Sample>> {
    let mut delivered: HashMap<u16, Vec<Sample>> = HashMap::new();
    let mut kept: Vec<(Message, Sample)> = Vec::new();
    let mut positions: HashMap<u16, u64> = HashMap::new();
    for turn in 0.. {
        let next = match (how + if how & 4 == 0 { 0 } else { turn }) % 3 {
            0 => iter.next().transpose(),
            1 => iter.next_timeout(Duration::from_secs(10)),
            _ => match iter.next_batch() {
                Ok(Some(batch)) => {
                    assert!(!batch.is_empty());
                    for message in batch.iter() {
                        let message = message.to_message();
                        delivered.entry(message.partition()).or_default().push(Sample::of(&message));
                    }
                    continue;
                }
                Ok(None) => Ok(None),
                Err(e) => Err(e),
            },
        };
        match next {
            Ok(Some(message)) => {
                assert_eq!(message.topic(), TOPIC);
                let (sample, partition) = (Sample::of(&message), message.partition());
                // Further than the next number where it is known that nothing lies between.
                let position = iter.position_of(TOPIC, partition).unwrap();
                assert!(position > message.seq());
                let promised = positions.insert(partition, position);
                assert!(!stays || promised.is_none_or(|promised| message.seq() >= promised), "below the position");
                delivered.entry(partition).or_default().push(sample.clone());
                kept.push((message, sample));
            }
            Ok(None) => {
                assert!(iter.is_finished());
                break;
            }
            Err(e) => {
                typed(&e);
                break;
            }
        }
    }
    assert!(iter.is_finished() && iter.next().is_none(), "it has ended for good");
    // What was handed out does not change by what came later.
    assert!(kept.iter().all(|(message, sample)| Sample::of(message) == *sample));
    delivered
}

/// Every error can be shown, and names what it is about.
fn typed(e: &Error) {
    assert!(!e.to_string().is_empty() && !format!("{e:?}").is_empty());
    assert!(!matches!(e.kind, ErrorKind::Config { .. }), "{e}");
    assert!(!e.is_timeout(), "the peer never keeps anybody waiting: {e}");
}

struct Play {
    partitions: u16,
    cluster: bool,
    marks: (u64, u64),
    greeting: Option<Vec<u8>>,
    pieces: Vec<u8>,
    answers: std::vec::IntoIter<Answer>,
    sent: Sent,
}

#[derive(Debug)]
enum Answer {
    /// Instead of the next answer, whatever it is; then the peer hangs up.
    Raw(Vec<u8>),
    /// In a frame of its own, behind the request's id if it is to follow one.
    Payload(Vec<u8>),
    /// Chunks as they are.
    Chunks(Vec<(u8, u64, Vec<u8>)>),
    /// Bundles from the number that was asked for on, with a byte changed somewhere in the answer unless by 0.
    Bundles {
        seed: u64,
        at: u16,
        by: u8,
    },
    Fault(u8),
    Close,
}

impl Play {
    fn new(input: &mut Input<'_>, partitions: u16, odd_greeting: bool, cluster: bool) -> Play {
        let greeting = odd_greeting.then(|| input.short().to_vec());
        let pieces = input.short().to_vec();
        let marks = (input.number::<8>(), input.number::<8>());
        let mut answers = Vec::new();
        while answers.len() < MOST_REPLIES && !input.0.is_empty() {
            answers.push(match input.u8() % 8 {
                0 => Answer::Raw(input.long().to_vec()),
                1 => Answer::Payload(input.long().to_vec()),
                2 | 3 => {
                    let chunk = |_| (input.u8(), input.number::<8>(), input.long().to_vec());
                    Answer::Chunks((0..partitions).map(chunk).collect())
                }
                4 | 5 => Answer::Bundles { seed: input.number::<2>(), at: input.number::<2>() as u16, by: input.u8() },
                6 => Answer::Fault(input.u8()),
                _ => Answer::Close,
            });
        }
        Play { partitions, cluster, marks, greeting, pieces, answers: answers.into_iter(), sent: Sent::default() }
    }

    fn send(&self, bytes: Vec<u8>, close: bool) -> Reply {
        Reply { bytes, close, pieces: self.pieces.clone() }
    }

    fn tampered(&self) {
        self.sent.lock().unwrap().tampered = true;
    }

    fn discover(&mut self, request: &DiscoverPartitionsRequest) -> Reply {
        assert!(request.partitions.is_empty(), "the form that can kill a server");
        let (first_available, high_water_mark) = self.marks;
        let state = PartitionState::Marks { first_available, high_water_mark };
        let answer = DiscoverPartitionsResponse {
            request_id: request.request_id,
            topic: request.topic.clone(),
            count: self.partitions,
            partitions: vec![state; self.partitions.into()],
        };
        let mut bytes = Vec::new();
        // Marks that stand for none.
        if answer.encode(&mut bytes).is_err() {
            return self.send(bytes, true);
        }
        self.send(bytes, false)
    }

    fn fetch(&mut self, request: &FetchRequest) -> Reply {
        check(request);
        let wanted: Vec<FetchPartition> = request.topics.iter().flat_map(|topic| topic.partitions.clone()).collect();
        let mut bytes = Vec::new();
        let mut close = true;
        match self.answers.next() {
            None | Some(Answer::Close) => {}
            Some(Answer::Raw(raw)) => {
                self.tampered();
                bytes = raw;
            }
            Some(Answer::Payload(mut payload)) => {
                self.tampered();
                if let Some(id) = payload.get_mut(4..8) {
                    id.copy_from_slice(&request.request_id.to_le_bytes());
                }
                bytes = [&[Kind::Consume as u8][..], &(payload.len() as u32).to_le_bytes(), &payload].concat();
            }
            Some(Answer::Chunks(given)) => {
                self.tampered();
                let mut chunks = Vec::new();
                let mut answers = Vec::new();
                for (wanted, (settings, high_water_mark, chunk)) in wanted.iter().zip(given) {
                    let from = wanted.seq.max(1);
                    let base = match settings % 4 {
                        0 => None,
                        1 => Some(from),
                        2 => Some(from.saturating_sub(1)),
                        _ => Some(settings.into()),
                    };
                    let high_water_mark = if settings & 4 == 0 { high_water_mark } else { u64::MAX };
                    answers.push((
                        wanted.partition,
                        PartitionAnswer::Data { base, high_water_mark, len: chunk.len() as u32 },
                    ));
                    chunks.extend_from_slice(&chunk);
                }
                close = false;
                bytes = answer(request, answers, &chunks);
            }
            Some(Answer::Bundles { seed, at, by }) => {
                let (answers, chunks) = self.bundles(&wanted, seed);
                bytes = answer(request, answers, &chunks);
                if by != 0 {
                    self.tampered();
                    let at = usize::from(at) % bytes.len();
                    bytes[at] ^= by;
                }
                // What was damaged may leave the client waiting for more.
                close = by != 0;
            }
            Some(Answer::Fault(which)) => {
                let fault = |(index, wanted): (usize, &FetchPartition)| {
                    (wanted.partition, fault(which.wrapping_add(index as u8)))
                };
                bytes = answer(request, wanted.iter().enumerate().map(fault).collect(), &[]);
                // Pings may stand before any answer.
                bytes.splice(0..0, PING.repeat(usize::from(which >> 6)));
                close = false;
            }
        }
        self.send(bytes, close)
    }

    /// Good bundles from what is wanted on, which go into the ledger.
    fn bundles(&self, wanted: &[FetchPartition], seed: u64) -> (Vec<(u16, PartitionAnswer)>, Vec<u8>) {
        let rng = &mut Rng::new(seed);
        let (mut answers, mut chunks) = (Vec::new(), Vec::new());
        let mut sent = self.sent.lock().unwrap();
        for wanted in wanted {
            let start = chunks.len();
            let first = wanted.seq.max(1);
            let mut next = first;
            let mut starts_sparse = false;
            for index in 0..rng.between(0, 3) {
                // So near the end of all numbers there is nothing good to be sent.
                if next > u64::MAX - 1_000_000 {
                    break;
                }
                let sparse = rng.one_in(3);
                starts_sparse |= index == 0 && sparse;
                let count = rng.between(1, 5);
                let messages = generate::messages(rng, next, count, 30, sparse);
                next = messages[messages.len() - 1].seq + 1;
                let samples = messages.iter().map(|message| Sample {
                    seq: message.seq,
                    timestamp_ms: message.timestamp_ms,
                    key: message.key.clone(),
                    payload: message.payload.clone(),
                });
                sent.messages.entry(wanted.partition).or_default().extend(samples);
                let compression = rng.pick(&[Compression::None, Compression::None, Compression::Snappy]);
                let packed = match rng.below(2) {
                    0 => generate::pack_oddly(rng, messages, sparse),
                    _ => generate::pack(&mut BundleBuilder::default(), messages, sparse, compression),
                };
                generate::put_varint(packed.bytes.len() as u64, &mut chunks);
                chunks.extend_from_slice(&packed.bytes);
            }
            let base = if starts_sparse && rng.one_in(2) { None } else { Some(first) };
            let high_water_mark = next - 1 + rng.below(2) as u64;
            let len = (chunks.len() - start) as u32;
            answers.push((wanted.partition, PartitionAnswer::Data { base, high_water_mark, len }));
        }
        (answers, chunks)
    }
}

fn fault(which: u8) -> PartitionAnswer {
    match which % 8 {
        0 => PartitionAnswer::SystemError,
        1 => PartitionAnswer::Redirect("10.0.0.1:11011".parse().unwrap()),
        2 => PartitionAnswer::Redirect("0.0.0.0:0".parse().unwrap()),
        3 => PartitionAnswer::NoLeader,
        4 => PartitionAnswer::UnknownPartition,
        5 => PartitionAnswer::OutOfRange { high_water_mark: u64::from(which) << 56 | 9, first_available: which.into() },
        6 => PartitionAnswer::OutOfRange { high_water_mark: 0, first_available: 0 },
        _ => PartitionAnswer::Data { base: Some(0), high_water_mark: which.into(), len: 0 },
    }
}

fn answer(request: &FetchRequest, answers: Vec<(u16, PartitionAnswer)>, chunks: &[u8]) -> Vec<u8> {
    let mut answers = answers.into_iter();
    let topic = |topic: &tank_client::protocol::fetch::FetchTopic| TopicAnswer {
        name: topic.name.clone(),
        partitions: answers.by_ref().take(topic.partitions.len()).collect(),
    };
    let header = FetchHeader { request_id: request.request_id, topics: request.topics.iter().map(topic).collect() };
    let mut bytes = Vec::new();
    header.encode(&mut bytes).unwrap();
    bytes.extend_from_slice(chunks);
    bytes
}

/// A request is one that a server may be sent.
fn check(request: &FetchRequest) {
    let mut bytes = Vec::new();
    request.encode(&mut bytes).unwrap();
    // Whatever came next would be no answer to where the client stands.
    assert!(request.slots().all(|(_, wanted)| wanted.seq != SEQ_TAIL));
    assert!(request.slots().all(|(_, wanted)| wanted.fetch_size > 0 && wanted.fetch_size <= (256 << 20) + 5));
}

impl Script for Play {
    fn greeting(&mut self) -> Reply {
        match self.greeting.take() {
            Some(bytes) => {
                let whole = bytes.len() >= PING.len();
                self.send(bytes, !whole)
            }
            None => self.send(PING.to_vec(), false),
        }
    }

    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        match Kind::from_id(id) {
            Some(Kind::Consume) => self.fetch(&FetchRequest::decode(payload).unwrap()),
            Some(Kind::DiscoverPartitions) => self.discover(&DiscoverPartitionsRequest::decode(payload).unwrap()),
            Some(Kind::Status) => status(payload, self.cluster),
            other => panic!("a request of kind {other:?}"),
        }
    }
}
