//! What is encoded comes back: messages through bundles and answers, requests as they are. Whatever a caller gives, it is
//! either refused before a byte is written or understood at the other end.

use std::net::SocketAddrV4;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use tank_client::Compression;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::admin::{
    ClusterStatus, CreateTopicRequest, DiscoverPartitionsRequest, DiscoverPartitionsResponse, DiscoverTopicsResponse,
    DiscoverTopologyResponse, LogStatus, PartitionState, ReloadConfRequest, StatusResponse, Topology,
};
use tank_client::protocol::bundle::{BundleBuilder, RawMessage};
use tank_client::protocol::fetch::{
    FetchHeader, FetchPartition, FetchRequest, FetchTopic, MAX_PARTITIONS, PartitionAnswer, TopicAnswer,
};
use tank_client::protocol::frame::{FrameHeader, HEADER_LEN, Payload};
use tank_client::protocol::produce::{ProduceCode, ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use tank_client::protocol::{DecodeError, EncodeError, varint};
use tank_client::{Limits, NodeInfo, TopicInfo};

use crate::compare::{Verdict, compare};
use crate::feed::{Feeder, Found, Message, Unpacker};
use crate::input::Pieces;

#[derive(Debug, Arbitrary)]
struct Case {
    topics: Vec<Topic>,
    request: Request,
    pieces: Vec<u8>,
    admin: Admin,
}

#[derive(Debug, Arbitrary)]
struct Topic {
    name: Name,
    unknown: bool,
    partitions: Vec<Partition>,
}

/// Mostly short; sometimes as long as names must not be.
#[derive(Debug, Arbitrary)]
enum Name {
    Short(u8),
    Text(String),
    Long(u8),
}

impl Name {
    fn text(&self) -> String {
        match self {
            Name::Short(n) => format!("t{n}"),
            Name::Text(text) => text.clone(),
            Name::Long(more) => "x".repeat(200 + usize::from(*more)),
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Partition {
    id: u16,
    fault: Option<Fault>,
    first: u64,
    /// Counted from the first message's number.
    from: i8,
    mark: Mark,
    bundles: Vec<Bundle>,
    /// How many bytes the chunk's end lacks.
    cut: u8,
    hide_base: bool,
    produce_code: u8,
}

#[derive(Debug, Arbitrary)]
enum Mark {
    Last,
    After(u8),
    Any(u64),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Fault {
    OutOfRange { high_water_mark: u64, first_available: u64 },
    System,
    Redirect([u8; 4], u16),
    NoLeader,
    Unknown,
}

#[derive(Debug, Arbitrary)]
struct Bundle {
    sparse: bool,
    compression: u8,
    /// Added to each payload, so that there is something to compress.
    padding: u8,
    messages: Vec<Given>,
    /// The last message, over and over.
    repeat: u8,
}

#[derive(Debug, Clone, Arbitrary)]
struct Given {
    gap: Gap,
    time: Time,
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Gap {
    None,
    Small(u8),
    Large(u32),
    Absurd(u64),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Time {
    Same,
    Later(u8),
    Any(u64),
}

#[derive(Debug, Arbitrary)]
struct Request {
    client_version: u16,
    request_id: u32,
    client_id: Name,
    max_wait_ms: u64,
    min_bytes: u32,
    flags: u8,
    fetch_size: u32,
    acks: u8,
    ack_timeout_ms: u32,
    with_seqnum: bool,
}

#[derive(Debug, Arbitrary)]
struct Admin {
    name: Name,
    config: String,
    count: u16,
    ids: Vec<u16>,
    states: Vec<(u64, u64, Option<Fault>)>,
    topics: Vec<(Name, bool, u16, Option<u8>)>,
    cluster: bool,
    nodes: Vec<Node>,
    status: Status,
}

#[derive(Debug, Arbitrary)]
struct Node {
    id: u16,
    flags: u8,
    address: Option<([u8; 4], u16)>,
    partitions: u16,
}

#[derive(Debug, Arbitrary)]
struct Status {
    flags: u8,
    topics: u32,
    partitions: u32,
    cluster: Option<u8>,
    log: Option<([u32; 3], Option<u32>)>,
}

pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let packed: Vec<Vec<Packed>> =
        case.topics.iter().map(|topic| topic.partitions.iter().map(pack_partition).collect()).collect();
    consume(&case, &packed);
    produce(&case, &packed);
    admin(&case.admin, case.request.request_id);
}

/// A partition's chunk, its messages, and its bundles.
#[derive(Debug, Default)]
struct Packed {
    chunk: Vec<u8>,
    messages: Vec<Message>,
    bundles: Vec<Vec<u8>>,
    /// Of the last bundle: its messages, and whether it is compressed.
    last: (usize, bool),
    starts_sparse: bool,
}

fn pack_partition(partition: &Partition) -> Packed {
    let mut packed = Packed::default();
    let mut builder = BundleBuilder::default();
    let mut next = partition.first.max(1);
    for bundle in &partition.bundles {
        let mut seqs = Vec::new();
        let mut time = 0u64;
        let repeated = bundle.messages.last().into_iter().flat_map(|last| vec![last; bundle.repeat.into()]);
        for given in bundle.messages.iter().chain(repeated) {
            time = match given.time {
                Time::Same => time,
                Time::Later(by) => time.wrapping_add(by.into()),
                Time::Any(time) => time,
            };
            let payload = [&given.payload[..], &vec![b'p'; bundle.padding.into()]].concat();
            let key = given.key.clone();
            let raw = RawMessage { timestamp_ms: time, key: key.as_deref(), payload: &payload };
            let seq = match given.gap {
                Gap::Small(n) if bundle.sparse => next.saturating_add(n.into()),
                Gap::Large(n) if bundle.sparse => next.saturating_add(n.into()),
                Gap::Absurd(n) if bundle.sparse => n,
                _ => next,
            };
            let legal_key = key.as_ref().is_none_or(|key| key.len() <= 255);
            let before = (builder.count(), builder.set_len());
            let (pushed, legal) = if bundle.sparse {
                let first = seqs.first().copied().unwrap_or(seq);
                if seqs.is_empty() && seq < next && seq > 0 {
                    // Nothing against it in a bundle of its own, but here numbers would run backwards.
                    continue;
                }
                let in_range = (next..u64::MAX).contains(&seq) && seq - first <= 1 << 32;
                (builder.push_at(seq, &raw), legal_key && in_range)
            } else if seq == u64::MAX {
                continue;
            } else {
                (builder.push(&raw), legal_key)
            };
            assert_eq!(pushed.is_ok(), legal, "{seq} after {seqs:?}: {pushed:?}");
            if !legal {
                assert_eq!((builder.count(), builder.set_len()), before, "nothing was appended");
                continue;
            }
            seqs.push(seq);
            packed.messages.push(Message { seq, timestamp_ms: time, key, payload });
            next = seq + 1;
        }
        let compression =
            [Compression::Auto, Compression::None, Compression::Snappy][usize::from(bundle.compression % 3)];
        let mut bytes = Vec::new();
        if seqs.is_empty() {
            assert!(builder.count() == 0 && builder.finish(compression, &mut bytes).is_err() && bytes.is_empty());
            continue;
        }
        assert_eq!(builder.sparse_range(), bundle.sparse.then(|| (seqs[0], seqs[seqs.len() - 1])));
        builder.finish(compression, &mut bytes).unwrap();
        packed.starts_sparse |= packed.bundles.is_empty() && bundle.sparse;
        packed.last = (seqs.len(), bytes[0] & 1 == 1);
        varint::encode(bytes.len() as u32, &mut packed.chunk);
        packed.chunk.extend_from_slice(&bytes);
        packed.bundles.push(bytes);
    }
    packed
}

/// The frame's payload, if it encodes; then it must be well-formed.
fn frame(kind: Kind, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) -> Option<Vec<u8>> {
    let mut out = vec![0xee];
    if encode(&mut out).is_err() {
        assert_eq!(out, [0xee], "nothing is left behind");
        return None;
    }
    let header = FrameHeader { kind, len: (out.len() - 1 - HEADER_LEN) as u32 };
    assert_eq!(FrameHeader::decode(&out[1..]), Ok(Some(header)));
    Some(out.split_off(1 + HEADER_LEN))
}

fn endpoint(ip: [u8; 4], port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip.into(), port)
}

fn consume(case: &Case, packed: &[Vec<Packed>]) {
    let Request { client_version, request_id, max_wait_ms, min_bytes, fetch_size, .. } = case.request;
    let mut request = FetchRequest {
        client_version,
        request_id,
        client_id: case.request.client_id.text().into(),
        max_wait_ms,
        min_bytes,
        flags: if client_version >= 3 { case.request.flags } else { 0 },
        topics: Vec::new(),
    };
    let mut header = FetchHeader { request_id, topics: Vec::new() };
    let (mut chunks, mut expected) = (Vec::new(), Vec::new());
    for (topic, packed) in case.topics.iter().zip(packed) {
        let name: Arc<str> = topic.name.text().into();
        let (mut wanted, mut answers) = (Vec::new(), Vec::new());
        for (partition, packed) in topic.partitions.iter().zip(packed) {
            let first = packed.messages.first().map_or(1, |message| message.seq);
            let seq = first.saturating_add_signed(partition.from.into());
            wanted.push(FetchPartition { partition: partition.id, seq, fetch_size });
            let (answer, messages) = if topic.unknown {
                (PartitionAnswer::UnknownTopic, Vec::new())
            } else {
                answer_for(partition, packed, seq, &mut chunks)
            };
            answers.push((partition.id, answer));
            expected.push(messages);
        }
        request.topics.push(FetchTopic { name: name.clone(), partitions: wanted });
        header.topics.push(TopicAnswer { name, partitions: answers });
    }

    let mut names: Vec<_> = request.topics.iter().map(|topic| &topic.name).collect();
    names.sort();
    names.dedup();
    let legal = names.len() == request.topics.len()
        && names.iter().all(|name| (1..=255).contains(&name.len()))
        && (1..=255).contains(&names.len())
        && request.client_id.len() <= 255
        && (1..=MAX_PARTITIONS).contains(&request.slots().count())
        && request.topics.iter().all(|topic| {
            let mut ids: Vec<u16> = topic.partitions.iter().map(|wanted| wanted.partition).collect();
            ids.sort_unstable();
            ids.dedup();
            !ids.is_empty() && ids.len() == topic.partitions.len() && !ids.contains(&u16::MAX)
        });
    let sent = frame(Kind::Consume, |out| request.encode(out));
    assert_eq!(sent.is_some(), legal);
    let Some(sent) = sent else { return };
    assert_eq!(FetchRequest::decode(&sent).as_ref(), Ok(&request));

    let mut stream = Vec::new();
    if header.encode(&mut stream).is_err() {
        return;
    }
    stream.extend_from_slice(&chunks);
    let requests = [request];
    let mut pieces = Pieces::new(&case.pieces);
    let mut feeder = Feeder::new(&requests, &stream, &Limits::default());
    let mut unpacker = Unpacker::default();
    let mut found = vec![Vec::new(); expected.len()];
    loop {
        match feeder.step().unwrap() {
            Found::Need(_) if feeder.arrived() == stream.len() => break,
            Found::Need(_) => feeder.arrive(feeder.arrived().saturating_add(pieces.size())),
            Found::Bundle(bundle) => {
                let set = &stream[bundle.set.clone()];
                found[bundle.owner as usize].extend(unpacker.unpack(&bundle, set, &Limits::default()).unwrap());
            }
            Found::Event(_) => {}
        }
    }
    assert_eq!(feeder.outstanding(), 0, "the answer is complete");
    for (slot, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        assert!(
            found == expected,
            "slot {slot}: {} of {} messages, different from {differs:?} on: {:?} for {:?}",
            found.len(),
            expected.len(),
            differs.map(|index| &found[index]),
            differs.map(|index| &expected[index]),
        );
    }
    assert_eq!(compare(&requests, &stream), Verdict::Accepted);
}

/// What is said of a partition, and the messages that must come of it.
fn answer_for(
    partition: &Partition,
    packed: &Packed,
    from: u64,
    chunks: &mut Vec<u8>,
) -> (PartitionAnswer, Vec<Message>) {
    let fault = |fault| match fault {
        Fault::OutOfRange { high_water_mark, first_available } => {
            PartitionAnswer::OutOfRange { high_water_mark, first_available }
        }
        Fault::System => PartitionAnswer::SystemError,
        Fault::Redirect(ip, port) => PartitionAnswer::Redirect(endpoint(ip, port)),
        Fault::NoLeader => PartitionAnswer::NoLeader,
        Fault::Unknown => PartitionAnswer::UnknownPartition,
    };
    if let Some(of) = partition.fault {
        return (fault(of), Vec::new());
    }
    let (first, last) = match (packed.messages.first(), packed.messages.last()) {
        (Some(first), Some(last)) => (first.seq, last.seq),
        _ => (0, 0),
    };
    let high_water_mark = match partition.mark {
        Mark::Last => last,
        Mark::After(n) => first.saturating_add(n.into()),
        Mark::Any(mark) => mark,
    };
    // Only the last bundle can be cut, and not all of it, so that what must come of the others is plain.
    let last_len = packed.bundles.last().map_or(0, |bundle| bundle.len() + varint::len(bundle.len() as u32));
    let cut = usize::from(partition.cut).min(last_len.saturating_sub(1));
    let chunk = &packed.chunk[..packed.chunk.len() - cut];
    chunks.extend_from_slice(chunk);
    let whole = packed.messages.len() - if cut > 0 { packed.last.0 } else { 0 };
    let mut messages = packed.messages[..whole].to_vec();
    if cut > 0 && !packed.last.1 {
        messages.extend(whole_messages(packed, chunk, whole));
    }
    let wanted = if from == u64::MAX { 0 } else { from };
    messages.retain(|message| message.seq >= wanted && message.seq <= high_water_mark);
    let base = (!packed.starts_sparse || !partition.hide_base).then_some(first);
    (PartitionAnswer::Data { base, high_water_mark, len: chunk.len() as u32 }, messages)
}

/// The messages of a cut last bundle that are all there, from the sizes that the format gives them.
fn whole_messages(packed: &Packed, chunk: &[u8], whole: usize) -> Vec<Message> {
    let bundle = &packed.bundles[packed.bundles.len() - 1];
    let cut = packed.chunk.len() - chunk.len();
    let messages = &packed.messages[whole..];
    let sparse = bundle[0] & 0x40 != 0;
    // From the end back: how many bytes follow the end of each message.
    let mut after = 0;
    let mut complete = messages.len();
    for index in (0..messages.len()).rev() {
        if after >= cut {
            break;
        }
        complete = index;
        let message = &messages[index];
        let previous = index.checked_sub(1).map(|index| &messages[index]);
        let time = if previous.is_some_and(|p| p.timestamp_ms == message.timestamp_ms) { 0 } else { 8 };
        let key = message.key.as_ref().map_or(0, |key| 1 + key.len());
        let between = sparse && index > 0 && index + 1 < messages.len();
        let gap = previous.map_or(0, |previous| message.seq - previous.seq - 1);
        let delta = if between && gap > 0 { varint::len(gap as u32) } else { 0 };
        after += 1 + delta + time + key + varint::len(message.payload.len() as u32) + message.payload.len();
    }
    messages[..complete].to_vec()
}

fn produce(case: &Case, packed: &[Vec<Packed>]) {
    let given = &case.request;
    let mut request = ProduceRequest {
        client_version: given.client_version,
        request_id: given.request_id,
        client_id: given.client_id.text().into(),
        required_acks: given.acks,
        ack_timeout_ms: given.ack_timeout_ms,
        with_seqnum: given.with_seqnum,
        topics: Vec::new(),
    };
    let mut codes = Vec::new();
    for (topic, packed) in case.topics.iter().zip(packed) {
        let mut partitions = Vec::new();
        for (partition, packed) in topic.partitions.iter().zip(packed) {
            let bundle = packed.bundles.first().map_or(&[][..], Vec::as_slice);
            let first = packed.messages.first().filter(|_| packed.starts_sparse && given.with_seqnum);
            let first_seq = first.map_or(0, |message| message.seq);
            partitions.push(ProducePartition { partition: partition.id, first_seq, bundle });
            codes.push(match partition.produce_code % 10 {
                0 => ProduceCode::UnknownPartition,
                1 => ProduceCode::SystemError,
                2 => ProduceCode::NotConfirmed,
                3 => ProduceCode::InsufficientReplicas,
                4 => ProduceCode::InvalidSeq,
                5 => ProduceCode::Redirect(endpoint([1, 2, 3, partition.cut], partition.id)),
                6 => ProduceCode::NoLeader,
                7 => ProduceCode::ReadOnly,
                8 => ProduceCode::UnknownTopic,
                _ => ProduceCode::Stored,
            });
        }
        request.topics.push(ProduceTopic { name: topic.name.text().into(), partitions });
    }
    if let Some(payload) = frame(request.kind(), |out| request.encode(out)) {
        assert!(request.topics.iter().flat_map(|topic| &topic.partitions).all(|entry| !entry.bundle.is_empty()));
        assert_eq!(ProduceRequest::decode(request.kind(), &payload).as_ref(), Ok(&request));
    }
    let response = ProduceResponse { request_id: given.request_id, codes };
    if let Some(payload) = frame(Kind::Produce, |out| response.encode(request.shape(), out)) {
        assert_eq!(ProduceResponse::decode(&payload, request.shape()), Ok(response));
    }
}

fn back<T: PartialEq + std::fmt::Debug>(
    kind: Kind,
    value: &T,
    encode: impl Fn(&T, &mut Vec<u8>) -> Result<(), EncodeError>,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) {
    if let Some(payload) = frame(kind, |out| encode(value, out)) {
        assert_eq!(decode(&payload).as_ref(), Ok(value));
        assert!(payload.is_empty() || decode(&payload[..payload.len() - 1]).as_ref() != Ok(value));
    }
}

fn admin(given: &Admin, request_id: u32) {
    let topic = given.name.text();
    let create =
        CreateTopicRequest { request_id, topic: topic.clone(), partitions: given.count, config: given.config.clone() };
    back(Kind::CreateTopic, &create, CreateTopicRequest::encode, CreateTopicRequest::decode);
    let reload = ReloadConfRequest { request_id, topic: topic.clone(), partition: given.count };
    back(Kind::ReloadConf, &reload, ReloadConfRequest::encode, ReloadConfRequest::decode);
    let list = DiscoverPartitionsRequest { request_id, topic: topic.clone(), partitions: given.ids.clone() };
    back(Kind::DiscoverPartitions, &list, DiscoverPartitionsRequest::encode, DiscoverPartitionsRequest::decode);

    let state = |(first_available, high_water_mark, fault): &(u64, u64, Option<Fault>)| match *fault {
        Some(Fault::System) => PartitionState::SystemError,
        Some(Fault::Redirect(ip, port)) => PartitionState::Redirect(endpoint(ip, port)),
        Some(Fault::NoLeader) => PartitionState::NoLeader,
        _ => PartitionState::Marks { first_available: *first_available, high_water_mark: *high_water_mark },
    };
    let partitions = given.states.iter().map(state).collect();
    let marks = DiscoverPartitionsResponse { request_id, topic, count: given.count, partitions };
    back(Kind::DiscoverPartitions, &marks, DiscoverPartitionsResponse::encode, DiscoverPartitionsResponse::decode);

    let entry = |(name, enabled, partitions, factor): &(Name, bool, u16, Option<u8>)| {
        let mut topic = TopicInfo::default();
        (topic.name, topic.enabled) = (name.text(), *enabled);
        (topic.partitions, topic.replication_factor) = (*partitions, *factor);
        topic
    };
    let topics = given.topics.iter().map(entry).collect();
    let topics = DiscoverTopicsResponse { request_id, cluster: given.cluster, topics };
    let limits = Limits::default();
    back(Kind::DiscoverTopics, &topics, DiscoverTopicsResponse::encode, |bytes| {
        DiscoverTopicsResponse::decode_within(bytes, &limits)
    });

    let node = |given: &Node| {
        let mut node = NodeInfo::default();
        (node.id, node.partitions) = (given.id, given.partitions);
        (node.available, node.blocked) = (given.flags & 1 != 0, given.flags & 2 != 0);
        node.endpoint = given.address.map(|(ip, port)| endpoint(ip, port));
        node
    };
    let name = given.name.text();
    let mut topology = Topology::default();
    if given.cluster {
        (topology.cluster, topology.nodes) = (Some(name.clone()), given.nodes.iter().map(node).collect());
    }
    let topology = DiscoverTopologyResponse { request_id, topology };
    back(Kind::DiscoverTopology, &topology, DiscoverTopologyResponse::encode, |bytes| {
        DiscoverTopologyResponse::decode_within(bytes, &limits)
    });

    let Status { flags, topics, partitions, cluster, log } = given.status;
    let cluster = cluster.map(|flags| ClusterStatus { flags, name, nodes: topics });
    let log = log.map(|([open_partitions, open_time_ms, start_time], version)| LogStatus {
        open_partitions,
        open_time_ms,
        start_time,
        version,
    });
    let status = StatusResponse { request_id, flags, topics, partitions, cluster, log };
    back(Kind::Status, &status, StatusResponse::encode, StatusResponse::decode);
}
