//! Consume requests and answers to them, with what must come of each.

use std::net::SocketAddrV4;

use tank_client::Compression;
use tank_client::protocol::bundle::{BundleBuilder, RawMessage};
use tank_client::protocol::fetch::{
    FetchHeader, FetchPartition, FetchRequest, FetchTopic, MAX_PARTITIONS, PartitionAnswer, SEQ_TAIL, TopicAnswer,
};
use tank_client::protocol::stream::ChunkEnd;

use crate::feed::Message;
use crate::rng::Rng;

/// The most there is of everything.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub topics: usize,
    pub partitions: usize,
    pub bundles: usize,
    pub messages: usize,
    pub payload: usize,
}

impl Shape {
    pub const SMALL: Shape = Shape { topics: 3, partitions: 3, bundles: 3, messages: 6, payload: 20 };
}

/// What must come of a partition.
#[derive(Debug)]
pub struct Expected {
    pub answer: PartitionAnswer,
    pub messages: Vec<Message>,
    pub end: Option<ChunkEnd>,
}

/// A request and its answer.
#[derive(Debug)]
pub struct Exchange {
    pub request: FetchRequest,
    pub expected: Vec<Expected>,
    pub frame: Vec<u8>,
}

/// A bundle, and what is in it.
pub struct Packed {
    pub bytes: Vec<u8>,
    pub messages: Vec<Message>,
    /// Where the header ends, and then each message; without the messages if they are compressed.
    pub ends: Vec<usize>,
}

impl Packed {
    fn first(&self) -> u64 {
        self.messages[0].seq
    }

    fn last(&self) -> u64 {
        self.messages[self.messages.len() - 1].seq
    }

    fn compressed(&self) -> bool {
        self.ends.len() == 1
    }
}

/// Messages from `first` on, with gaps between them if the bundle is to be `sparse`.
pub fn messages(rng: &mut Rng, first: u64, count: usize, most: usize, sparse: bool) -> Vec<Message> {
    let mut seq = first;
    let mut timestamp_ms = rng.pick(&[0, 1_700_000_000_000, u64::MAX]);
    let message = |index| {
        if index > 0 {
            seq += 1;
            if sparse && rng.one_in(2) {
                seq += rng.pick(&[1, 2, 127, 128, 300, 16_384]);
            }
        }
        timestamp_ms = match rng.below(4) {
            0 => timestamp_ms.wrapping_add(rng.below(1000) as u64),
            1 => timestamp_ms.wrapping_sub(rng.below(1000) as u64),
            _ => timestamp_ms,
        };
        let key = match rng.below(8) {
            0 => Some(rng.between(0, 255)),
            1 => Some(rng.pick(&[0, 1, 254, 255])),
            2 => Some(rng.below(10)),
            _ => None,
        };
        let payload = if rng.one_in(4) { rng.pick(&[0, 1, 127, 128]) } else { rng.between(0, most) };
        let payload = payload.min(most);
        Message { seq, timestamp_ms, key: key.map(|len| rng.bytes(len)), payload: rng.bytes(payload) }
    };
    (0..count).map(message).collect()
}

pub fn raw(message: &Message) -> RawMessage<'_> {
    RawMessage { timestamp_ms: message.timestamp_ms, key: message.key.as_deref(), payload: &message.payload }
}

pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The messages as the crate packs them.
pub fn pack(builder: &mut BundleBuilder, messages: Vec<Message>, sparse: bool, compression: Compression) -> Packed {
    for message in &messages {
        match sparse {
            true => builder.push_at(message.seq, &raw(message)).unwrap(),
            false => builder.push(&raw(message)).unwrap(),
        }
    }
    let set = builder.set_len();
    let mut bytes = Vec::new();
    builder.finish(compression, &mut bytes).unwrap();
    assert!(builder.count() == 0 && builder.set_len() == 0 && builder.sparse_range().is_none());
    let ends = match bytes[0] & 1 {
        0 => plain_ends(&messages, sparse, bytes.len()),
        _ => vec![header_len(&messages, sparse)],
    };
    if ends.len() > 1 {
        assert_eq!(ends[ends.len() - 1] - ends[0], set);
    }
    Packed { bytes, messages, ends }
}

fn varint_len(value: u64) -> usize {
    let mut bytes = Vec::new();
    put_varint(value, &mut bytes);
    bytes.len()
}

fn header_len(messages: &[Message], sparse: bool) -> usize {
    let count = if messages.len() < 16 { 0 } else { varint_len(messages.len() as u64) };
    let (first, last) = (messages[0].seq, messages[messages.len() - 1].seq);
    let range = if messages.len() == 1 { 8 } else { 8 + varint_len(last - first - u64::from(last > first)) };
    1 + count + if sparse { range } else { 0 }
}

/// Where the header and the messages end in a bundle of the crate's own making, counted from its end back.
fn plain_ends(messages: &[Message], sparse: bool, len: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let shared = index > 0 && messages[index - 1].timestamp_ms == message.timestamp_ms;
        let numbered = sparse && index > 0 && index + 1 < messages.len();
        // A direct successor is marked by a flag.
        let gap = if numbered { message.seq - messages[index - 1].seq - 1 } else { 0 };
        let delta = if gap > 0 { varint_len(gap) } else { 0 };
        let key = message.key.as_ref().map_or(0, |key| 1 + key.len());
        let payload = varint_len(message.payload.len() as u64) + message.payload.len();
        sizes.push(1 + delta + if shared { 0 } else { 8 } + key + payload);
    }
    let header = header_len(messages, sparse);
    let ends: Vec<usize> = std::iter::once(header).chain(sizes).scan(0, |at, size| Some(add(at, size))).collect();
    assert_eq!(ends[ends.len() - 1], len);
    ends
}

fn add(at: &mut usize, size: usize) -> usize {
    *at += size;
    *at
}

/// The messages as somebody else might pack them: legal, but with liberties that the crate does not take.
pub fn pack_oddly(rng: &mut Rng, messages: Vec<Message>, sparse: bool) -> Packed {
    let (count, first, last) = (messages.len(), messages[0].seq, messages[messages.len() - 1].seq);
    let (mut set, mut sizes) = (Vec::new(), Vec::new());
    let mut time = 0;
    for (index, message) in messages.iter().enumerate() {
        let before = set.len();
        let shared = message.timestamp_ms == time && rng.one_in(2);
        let follows = index > 0 && message.seq == messages[index - 1].seq + 1;
        let next = if sparse { follows && rng.one_in(2) } else { rng.one_in(8) };
        let unused = if rng.one_in(8) { 0xf8 & rng.next_u64() as u8 } else { 0 };
        set.push(u8::from(message.key.is_some()) | u8::from(shared) << 1 | u8::from(next) << 2 | unused);
        if sparse && index > 0 && index + 1 < count && !next {
            put_varint(message.seq - messages[index - 1].seq - 1, &mut set);
        }
        if !shared {
            set.extend_from_slice(&message.timestamp_ms.to_le_bytes());
            time = message.timestamp_ms;
        }
        if let Some(key) = &message.key {
            set.push(key.len() as u8);
            set.extend_from_slice(key);
        }
        put_varint(message.payload.len() as u64, &mut set);
        if rng.one_in(8) && message.payload.len() < 128 {
            *set.last_mut().unwrap() |= 0x80;
            set.push(0);
        }
        set.extend_from_slice(&message.payload);
        sizes.push(set.len() - before);
    }
    let compressed = rng.one_in(3);
    let in_flags = count < 16 && !rng.one_in(4);
    let mut bytes = vec![u8::from(compressed) | if in_flags { (count as u8) << 2 } else { 0 } | u8::from(sparse) << 6];
    if !in_flags {
        put_varint(count as u64, &mut bytes);
    }
    if sparse {
        bytes.extend_from_slice(&first.to_le_bytes());
        if count > 1 {
            put_varint(last - first - 1, &mut bytes);
        }
    }
    let mut ends = vec![bytes.len()];
    if compressed {
        bytes.extend_from_slice(&snap::raw::Encoder::new().compress_vec(&set).unwrap());
    } else {
        bytes.extend_from_slice(&set);
        ends = std::iter::once(ends[0]).chain(sizes).scan(0, |at, size| Some(add(at, size))).collect();
    }
    Packed { bytes, messages, ends }
}

/// A chunk for a request from `from` on, perhaps cut, perhaps with messages above the mark.
fn chunk(rng: &mut Rng, shape: Shape, bundles: &[Packed], from: u64, mark: u64, out: &mut Vec<u8>) -> Expected {
    let start = out.len();
    let mut messages = Vec::new();
    let mut end = (!bundles.is_empty()).then_some(ChunkEnd::Whole);
    let cut_last = rng.one_in(3) && shape.bundles > 0;
    let mut through = false;
    for (index, bundle) in bundles.iter().enumerate() {
        let before = out.len();
        put_varint(bundle.bytes.len() as u64, out);
        if rng.one_in(5) && out.len() - before < 5 {
            // Longer than it needs to be, which nobody forbids.
            *out.last_mut().unwrap() |= 0x80;
            out.push(0);
        }
        let prefix = out.len() - before;
        out.extend_from_slice(&bundle.bytes);
        let cut = cut_last && index + 1 == bundles.len();
        let bundle_len = (prefix + bundle.bytes.len()) as u64;
        let mut here = bundle.bytes.len();
        if cut {
            let most = if rng.one_in(4) { prefix } else { prefix + bundle.bytes.len() - 1 };
            let keep = rng.between(1, most);
            out.truncate(before + keep);
            if !through && keep < prefix {
                (end, through) = (Some(ChunkEnd::Cut { bundle_len: None }), true);
            }
            here = keep.saturating_sub(prefix);
            if !through && here < bundle.ends[0] {
                (end, through) = (Some(ChunkEnd::Cut { bundle_len: Some(bundle_len) }), true);
            }
        }
        if through {
            continue;
        }
        if bundle.first() > mark {
            (end, through) = (Some(ChunkEnd::AboveMark), true);
            continue;
        }
        if bundle.last() >= from && !(cut && bundle.compressed()) {
            let there = bundle.messages.iter().enumerate().filter(|(n, _)| !cut || bundle.ends[n + 1] <= here);
            let wanted = there.filter(|(_, message)| message.seq >= from && message.seq <= mark);
            messages.extend(wanted.map(|(_, message)| message.clone()));
        }
        if cut {
            (end, through) = (Some(ChunkEnd::Cut { bundle_len: Some(bundle_len) }), true);
        } else if bundle.last() > mark && bundle.last() >= from {
            (end, through) = (Some(ChunkEnd::AboveMark), true);
        }
    }
    let base = match bundles.first() {
        Some(bundle) if bundle.bytes[0] & 0x40 == 0 => Some(bundle.first()),
        Some(_) if rng.one_in(2) => None,
        _ => Some(rng.next_u64()),
    };
    let len = u32::try_from(out.len() - start).unwrap();
    Expected { answer: PartitionAnswer::Data { base, high_water_mark: mark, len }, messages, end }
}

fn data(rng: &mut Rng, shape: Shape, builder: &mut BundleBuilder, out: &mut Vec<u8>) -> (u64, Expected) {
    let mut seq = rng.pick(&[1, 2, 1000, 1 << 40, u64::MAX - (1 << 32)]);
    let mut bundles: Vec<Packed> = Vec::new();
    for index in 0..rng.between(0, shape.bundles) {
        let sparse = rng.one_in(3);
        if sparse && index > 0 {
            seq += rng.below(100) as u64;
        }
        let count = if rng.one_in(2) { rng.between(1, shape.messages.min(20)) } else { rng.between(1, shape.messages) };
        let most = if count > 50 { shape.payload.min(60) } else { shape.payload };
        let messages = messages(rng, seq, count, most, sparse);
        let bundle = if rng.one_in(3) {
            pack_oddly(rng, messages, sparse)
        } else {
            pack(builder, messages, sparse, rng.pick(&[Compression::Auto, Compression::None, Compression::Snappy]))
        };
        seq = bundle.last() + 1;
        bundles.push(bundle);
    }
    let seqs: Vec<u64> = bundles.iter().flat_map(|bundle| &bundle.messages).map(|message| message.seq).collect();
    let anywhere = |rng: &mut Rng| if seqs.is_empty() { 1 } else { rng.pick(&seqs) };
    let from = match rng.below(6) {
        0 => 0,
        1 => SEQ_TAIL,
        2 => anywhere(rng) + 1,
        3 => anywhere(rng),
        _ => seqs.first().copied().unwrap_or(1),
    };
    let mark = match rng.below(6) {
        0 => anywhere(rng),
        1 => anywhere(rng) - 1,
        2 => u64::MAX,
        _ => seqs.last().copied().unwrap_or(0),
    };
    let lowest = if from == SEQ_TAIL { 0 } else { from };
    (from, chunk(rng, shape, &bundles, lowest, mark, out))
}

fn fault(rng: &mut Rng) -> PartitionAnswer {
    match rng.below(5) {
        0 => PartitionAnswer::OutOfRange { high_water_mark: rng.next_u64(), first_available: rng.next_u64() },
        1 => PartitionAnswer::SystemError,
        2 => PartitionAnswer::Redirect(SocketAddrV4::new(
            (rng.next_u64() as u32).to_be_bytes().into(),
            rng.next_u64() as u16,
        )),
        3 => PartitionAnswer::NoLeader,
        _ => PartitionAnswer::UnknownPartition,
    }
}

/// A request, with no answer yet: every topic and partition once.
pub fn request(rng: &mut Rng, topics: usize, partitions: usize) -> FetchRequest {
    let mut left = MAX_PARTITIONS;
    let mut names: Vec<String> = Vec::new();
    let mut all = Vec::new();
    for index in 0..topics {
        let long = rng.one_in(10).then(|| "x".repeat(rng.between(200, 250)));
        names.push(format!("{}t{index}", long.unwrap_or_default()));
        let count = partitions.min(left - (topics - index - 1));
        left -= count;
        let step = rng.between(1, 200) as u16;
        let wanted = |n: usize| FetchPartition {
            partition: (n as u16 * step) % 65_535,
            seq: rng.pick(&[0, 1, SEQ_TAIL, 1 << 33]),
            fetch_size: rng.next_u64() as u32,
        };
        all.push(FetchTopic { name: names[index].as_str().into(), partitions: (0..count).map(wanted).collect() });
    }
    let client_version = rng.between(0, 4) as u16;
    FetchRequest {
        client_version,
        request_id: rng.next_u64() as u32,
        client_id: rng.pick(&["", "c++", "a client"]).into(),
        max_wait_ms: rng.next_u64(),
        min_bytes: rng.next_u64() as u32,
        flags: if client_version >= 3 { rng.below(2) as u8 } else { 0 },
        topics: all,
    }
}

/// A request and an answer to it.
pub fn exchange(rng: &mut Rng, shape: Shape) -> Exchange {
    let (topics, partitions) = (rng.between(1, shape.topics), rng.between(1, shape.partitions));
    let mut request = request(rng, topics, partitions);
    let mut builder = BundleBuilder::default();
    let mut header = FetchHeader { request_id: request.request_id, topics: Vec::new() };
    let (mut chunks, mut expected) = (Vec::new(), Vec::new());
    for topic in &mut request.topics {
        let known = !rng.one_in(8);
        let mut answers = Vec::new();
        for wanted in &mut topic.partitions {
            let part = if !known {
                Expected { answer: PartitionAnswer::UnknownTopic, messages: vec![], end: None }
            } else if rng.one_in(5) {
                Expected { answer: fault(rng), messages: vec![], end: None }
            } else {
                let (from, part) = data(rng, shape, &mut builder, &mut chunks);
                wanted.seq = from;
                part
            };
            answers.push((wanted.partition, part.answer));
            expected.push(part);
        }
        header.topics.push(TopicAnswer { name: topic.name.clone(), partitions: answers });
    }
    let mut frame = Vec::new();
    header.encode(&mut frame).unwrap();
    frame.extend_from_slice(&chunks);
    Exchange { request, expected, frame }
}

/// A request for one partition, and an answer with this chunk.
pub fn one_chunk(from: u64, base: Option<u64>, mark: u64, chunk: &[u8]) -> (FetchRequest, Vec<u8>) {
    let mut request = request(&mut Rng::new(0), 1, 1);
    request.topics[0].partitions[0].seq = from;
    let data = PartitionAnswer::Data { base, high_water_mark: mark, len: chunk.len() as u32 };
    let partitions = vec![(request.topics[0].partitions[0].partition, data)];
    let topic = TopicAnswer { name: request.topics[0].name.clone(), partitions };
    let mut bytes = Vec::new();
    FetchHeader { request_id: request.request_id, topics: vec![topic] }.encode(&mut bytes).unwrap();
    bytes.extend_from_slice(chunk);
    (request, bytes)
}

/// An answer that knows none of the request's topics.
pub fn unknown_topics(request: &FetchRequest) -> Vec<u8> {
    let topic = |topic: &FetchTopic| {
        let partitions = topic.partitions.iter().map(|wanted| (wanted.partition, PartitionAnswer::UnknownTopic));
        TopicAnswer { name: topic.name.clone(), partitions: partitions.collect() }
    };
    let mut bytes = Vec::new();
    let topics = request.topics.iter().map(topic).collect();
    FetchHeader { request_id: request.request_id, topics }.encode(&mut bytes).unwrap();
    bytes
}
