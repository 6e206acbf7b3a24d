//! Consume answers: in whatever pieces they come, the same is found in them, as early as possible, in steps that the
//! bytes bound; and it is what the plain decoder of the differential test finds.

use tank_client::Limits;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::DecodeError;
use tank_client::protocol::cursor::Cursor;
use tank_client::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionAnswer, UNKNOWN_TOPIC};
use tank_client::protocol::frame::{FrameHeader, HEADER_LEN, Payload};
use tank_client::protocol::stream::{Bundle, Event};

use crate::compare::compare;
use crate::feed::{Feeder, Found, Message, Unpacker};
use crate::input::{Input, Pieces};

/// The requests are made to fit what the stream says, and only the numbers wanted are taken from the input.
const FITTING: u8 = 1;
/// Limits that small input can pass.
const TIGHT: u8 = 2;

/// What came of a stream.
#[derive(Debug, PartialEq)]
struct Seen {
    found: Vec<Found>,
    /// How much is consumed and what it would need to continue, or why it cannot.
    end: Result<(usize, usize), DecodeError>,
}

/// Settings `u8`, sizes of pieces after a `u8`, requests after a `u16`, then the stream.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let settings = input.u8();
    let pieces = input.short();
    let requests = input.long();
    let stream = input.0;
    let requests = if settings & FITTING == 0 { requests_in(requests) } else { requests_for(stream, requests) };
    let (limits, most) = match settings & TIGHT {
        0 => (Limits::default(), (256 << 20, 1 << 20)),
        _ => {
            (Limits::default().fetch_frame(3000).fetch_header(60).bundle(100).message_set(150).messages(20), (100, 20))
        }
    };

    let whole = seen(&requests, stream, &limits, &mut Pieces::new(&[]));
    check(&requests, stream, &limits, most, &whole);
    assert_eq!(seen(&requests, stream, &limits, &mut Pieces::new(pieces)), whole);
    // Byte by byte.
    assert_eq!(seen(&requests, stream, &limits, &mut Pieces::new(&[0])), whole);
    for (most, pieces) in [(3, pieces), (256, &[][..])] {
        let joined = seen_by(Feeder::joining(&requests, stream, &limits, most), stream, &mut Pieces::new(pieces));
        assert_eq!(joined.end, whole.end);
        assert_eq!(content(&joined.found, stream, &limits), content(&whole.found, stream, &limits));
    }
    if settings & TIGHT == 0 {
        compare(&requests, stream);
    }
}

fn requests_in(mut bytes: &[u8]) -> Vec<FetchRequest> {
    let mut requests: Vec<FetchRequest> = Vec::new();
    while let Ok(Some(FrameHeader { kind: Kind::Consume, len })) = FrameHeader::decode(bytes) {
        let Some((payload, rest)) = bytes[HEADER_LEN..].split_at_checked(len as usize) else { break };
        bytes = rest;
        let Ok(request) = FetchRequest::decode(payload) else { break };
        if requests.iter().all(|other| other.request_id != request.request_id) {
            requests.push(request);
        }
    }
    requests
}

/// A request for each answer in the stream as far as its frames are whole, wanting what is in `seqs` in turn.
fn requests_for(mut stream: &[u8], seqs: &[u8]) -> Vec<FetchRequest> {
    let mut requests: Vec<FetchRequest> = Vec::new();
    let mut seqs = seqs.chunks_exact(8).map(|seq| u64::from_le_bytes(seq.try_into().unwrap())).cycle();
    while let Ok(Some(FrameHeader { kind, len })) = FrameHeader::decode(stream) {
        let Some((payload, rest)) = stream[HEADER_LEN..].split_at_checked(len as usize) else { break };
        stream = rest;
        let Some(request) = (if kind == Kind::Consume { request_for(payload, &mut seqs) } else { None }) else {
            continue;
        };
        if requests.iter().all(|other| other.request_id != request.request_id) {
            requests.push(request);
        }
    }
    requests
}

fn request_for(payload: &[u8], seqs: &mut impl Iterator<Item = u64>) -> Option<FetchRequest> {
    let mut cursor = Cursor::new(payload, 0);
    let len = cursor.u32("header length").ok()?;
    let mut header = cursor.sub(len as usize, "header").ok()?;
    let request_id = header.u32("request id").ok()?;
    let mut topics: Vec<FetchTopic> = Vec::new();
    // As far as it can be read.
    let _ = topics_in(&mut header, seqs, &mut topics);
    let client_id = "".into();
    Some(FetchRequest { client_version: 2, request_id, client_id, max_wait_ms: 0, min_bytes: 0, flags: 0, topics })
}

fn topics_in(
    c: &mut Cursor<'_>,
    seqs: &mut impl Iterator<Item = u64>,
    topics: &mut Vec<FetchTopic>,
) -> Result<(), DecodeError> {
    for _ in 0..c.u8("topic count")? {
        let name = String::from_utf8_lossy(c.str8("topic name")?).into();
        let (count, known) = (c.u8("partition count")?, !c.rest().starts_with(&UNKNOWN_TOPIC));
        if !known {
            c.u16("partition id")?;
        }
        let partition = |partition| FetchPartition { partition, seq: 0, fetch_size: 0 };
        let asked = if known { 0 } else { count.into() };
        topics.push(FetchTopic { name, partitions: (0..asked).map(partition).collect() });
        for _ in 0..if known { count } else { 0 } {
            let id = c.u16("partition id")?;
            PartitionAnswer::decode(c)?;
            let entry = FetchPartition { seq: seqs.next().unwrap_or(0), ..partition(id) };
            topics.last_mut().unwrap().partitions.push(entry);
        }
    }
    Ok(())
}

/// Feeds the stream piece by piece. The feeder checks that each `Need` is honest.
fn seen(requests: &[FetchRequest], stream: &[u8], limits: &Limits, pieces: &mut Pieces<'_>) -> Seen {
    seen_by(Feeder::new(requests, stream, limits), stream, pieces)
}

fn seen_by(mut feeder: Feeder<'_>, stream: &[u8], pieces: &mut Pieces<'_>) -> Seen {
    let mut found = Vec::new();
    let mut arrivals = 0;
    let end = loop {
        match feeder.step() {
            Ok(Found::Need(n)) if feeder.arrived() == stream.len() => break Ok((feeder.consumed(), n)),
            Ok(Found::Need(_)) => {
                arrivals += 1;
                feeder.arrive(feeder.arrived().saturating_add(pieces.size()));
            }
            Ok(something) => found.push(something),
            Err(e) => {
                assert_eq!(feeder.step(), Err(e.clone()), "an error is not got over");
                break Err(e);
            }
        }
        assert!(feeder.steps <= found.len() + arrivals + 1);
    };
    Seen { found, end }
}

/// What was found, however bundles are put together.
#[derive(Debug, PartialEq)]
enum Content {
    Event(Event),
    Message(usize, Message),
    Bad(DecodeError),
}

/// All of it up to the first bundle that is bad inside.
fn content(found: &[Found], stream: &[u8], limits: &Limits) -> Vec<Content> {
    let mut unpacker = Unpacker::default();
    let mut all = Vec::new();
    for found in found {
        match found {
            Found::Need(_) => unreachable!("nothing found"),
            Found::Event(event) => all.push(Content::Event(event.clone())),
            Found::Bundle(bundle) => {
                let (messages, bad) = unpacker.unpack_good(bundle, &stream[bundle.set.clone()], limits);
                all.extend(messages.into_iter().map(|message| Content::Message(bundle.owner as usize, message)));
                if let Some(bad) = bad {
                    all.push(Content::Bad(bad));
                    break;
                }
            }
        }
    }
    all
}

/// `most`: bytes and messages of a bundle, as in the limits.
fn check(requests: &[FetchRequest], stream: &[u8], limits: &Limits, most: (usize, u32), seen: &Seen) {
    let slots: usize = requests.iter().map(|request| request.slots().count()).sum();
    // Every bundle takes two bytes at least, and every other event belongs to a slot or a request.
    assert!(seen.found.len() <= stream.len() / 2 + 2 * slots + 2 * requests.len());
    let mut unpacker = Unpacker::default();
    let mut current: Option<&FetchRequest> = None;
    let (mut partitions, mut ended) = (0, None);
    let mut before: Option<&Bundle> = None;
    for found in &seen.found {
        match found {
            Found::Need(_) => unreachable!("nothing found"),
            Found::Event(Event::Response { request_id }) => {
                assert!(current.is_none());
                current = requests.iter().find(|request| request.request_id == *request_id);
                assert!(current.is_some(), "an answer that nobody waits for");
                (partitions, ended, before) = (0, None, None);
            }
            Found::Event(Event::Partition { slot, .. }) => {
                assert_eq!(*slot, partitions);
                assert!(before.is_none() && ended.is_none());
                partitions += 1;
            }
            Found::Bundle(bundle) => {
                let request = current.unwrap();
                assert_eq!(partitions, request.slots().count());
                let slot = bundle.owner as usize;
                assert!(slot < partitions && ended.is_none_or(|ended| slot > ended));
                if let Some(before) = before.filter(|before| before.owner == bundle.owner) {
                    assert!(bundle.first > before.last && !before.cut && before.last <= before.to);
                }
                let wanted = request.slots().nth(slot).unwrap().1.seq;
                assert_eq!(bundle.from, if wanted == u64::MAX { 0 } else { wanted });
                assert!(bundle.last >= bundle.from && bundle.first <= bundle.to && bundle.set.len() <= stream.len());
                assert!(bundle.set.len() <= most.0 && bundle.count <= most.1);
                if let Ok(messages) = unpacker.unpack(bundle, &stream[bundle.set.clone()], limits) {
                    assert!(messages.iter().all(|m| m.seq >= bundle.from && m.seq <= bundle.to));
                    assert!(messages.is_sorted_by(|a, b| a.seq < b.seq));
                }
                before = Some(bundle);
            }
            Found::Event(Event::ChunkEnd { slot, .. }) => {
                assert!(*slot < partitions && ended.is_none_or(|ended| *slot > ended));
                assert!(before.is_none_or(|before| before.owner as usize <= *slot));
                ended = Some(*slot);
            }
            Found::Event(Event::End { request_id }) => {
                assert_eq!(current.take().unwrap().request_id, *request_id);
            }
        }
    }
}
