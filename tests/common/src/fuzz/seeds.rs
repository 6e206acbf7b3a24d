//! What the fuzzer starts from: recorded exchanges that are short, and some that chance makes.

use tank_client::Compression;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::bundle::BundleBuilder;
use tank_client::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic, SEQ_TAIL};
use tank_client::protocol::frame::Payload;
use tank_client::protocol::produce::ProduceRequest;
use tank_client::protocol::varint;

use crate::captures::{self, Capture, frames};
use crate::generate::{self, Exchange, Shape};
use crate::rng::Rng;

/// Files, by name.
pub type Seeds = Vec<(String, Vec<u8>)>;

const TINY: Shape = Shape { topics: 2, partitions: 2, bundles: 2, messages: 4, payload: 12 };

/// The targets that have seeds.
pub const TARGETS: [&str; 7] = ["varint", "bundle", "fetch_stream", "responses", "roundtrip", "simulation", "broker"];

/// A target's seeds.
pub fn of(target: &str) -> Seeds {
    match target {
        "varint" => varints(),
        "bundle" => bundles(&recorded()),
        "fetch_stream" => fetch_streams(&recorded()),
        "responses" => responses(&recorded()),
        "roundtrip" => chance(32, 600),
        "simulation" => simulations(),
        "broker" => brokers(&recorded()),
        other => panic!("no target is called {other}"),
    }
}

/// All that is recorded, in the order of the names.
fn recorded() -> Vec<&'static Capture> {
    let mut all: Vec<&Capture> = captures::all().iter().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn short(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![bytes.len() as u8];
    out.extend_from_slice(bytes);
    out
}

fn long(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u16).to_le_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

fn varints() -> Seeds {
    let values = [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455, 268_435_456, u32::MAX];
    let mut seeds: Seeds = Vec::new();
    for value in values {
        let mut bytes = Vec::new();
        varint::encode(value, &mut bytes);
        seeds.push((format!("{value}"), bytes));
    }
    seeds.push(("too_long".into(), vec![0x80, 0x80, 0x80, 0x80, 0x80, 0]));
    seeds.push(("too_large".into(), vec![0xff, 0xff, 0xff, 0xff, 0x10]));
    seeds.push(("longer_than_needed".into(), vec![0x80, 0x80, 0, 0x81, 0]));
    seeds
}

/// A peer's scripts, and worlds that chance makes.
fn simulations() -> Seeds {
    let mut rng = Rng::new(11);
    let worlds = (0..8).map(|n| (format!("world_{n}"), [vec![0], rng.bytes(40 + n)].concat()));
    let worlds: Seeds = worlds.collect();
    let scripts = consume_loops().into_iter().map(|(name, script)| (name, [vec![1], script].concat()));
    scripts.chain(worlds).collect()
}

fn bundles(recorded: &[&Capture]) -> Seeds {
    let seed = |settings: u8, bundle: &[u8]| {
        let numbers = [0, u64::MAX, 100].map(u64::to_le_bytes).concat();
        [&[settings][..], &numbers, bundle].concat()
    };
    let mut seeds: Seeds = Vec::new();
    for Capture { name, request, .. } in recorded.iter().filter(|recorded| recorded.name.starts_with("produce")) {
        for (index, (kind, payload, _)) in frames(request).into_iter().enumerate() {
            let Some(Ok(request)) = Kind::from_id(kind).map(|kind| ProduceRequest::decode(kind, payload)) else {
                continue;
            };
            let entry = request.topics.iter().flat_map(|topic| &topic.partitions).last();
            if let Some(entry) = entry.filter(|entry| entry.bundle.len() <= 600) {
                seeds.push((format!("{name}_{index}"), seed(index as u8 % 4, entry.bundle)));
            }
        }
    }
    for index in 0..24 {
        let rng = &mut Rng::new(index);
        let sparse = index % 2 == 1;
        let (first, count) = (rng.pick(&[1, 100, 1 << 40]), rng.between(1, 6));
        let messages = generate::messages(rng, first, count, 20, sparse);
        let packed = match index % 3 {
            0 => generate::pack_oddly(rng, messages, sparse),
            1 => generate::pack(&mut BundleBuilder::default(), messages, sparse, Compression::None),
            _ => generate::pack(&mut BundleBuilder::default(), messages, sparse, Compression::Snappy),
        };
        seeds.push((format!("made_{index}"), seed(index as u8 % 8, &packed.bytes)));
    }
    seeds
}

fn fetch_streams(recorded: &[&Capture]) -> Seeds {
    let seed = |settings: u8, requests: &[u8], stream: &[u8]| {
        [&[settings][..], &short(&[0, 4, settings * 10]), &long(requests), stream].concat()
    };
    let mut seeds: Seeds = Vec::new();
    for (index, Capture { name, request, response, .. }) in recorded.iter().enumerate() {
        let is_consume = request.first() == Some(&(Kind::Consume as u8));
        // All that servers send is much alike; what they never send is worth more.
        let most = if name.starts_with("hostile") { 400 } else { 150 };
        let chosen = index % 4 == 0 || most == 400;
        if is_consume && chosen && (10..most).contains(&response.len()) && request.len() < 300 {
            seeds.push((name.clone(), seed(index as u8 / 4 % 2 * 2, request, response)));
        }
    }
    for index in 0..24 {
        let Exchange { request, frame, .. } = generate::exchange(&mut Rng::new(index), TINY);
        let mut bytes = Vec::new();
        request.encode(&mut bytes).unwrap();
        let fitting = 1u64.to_le_bytes();
        let (settings, requests) = if index % 2 == 0 { (0, &bytes[..]) } else { (1, &fitting[..]) };
        seeds.push((format!("made_{index}"), seed(settings, requests, &frame)));
    }
    seeds
}

/// One answer of each kind, and some scripts that chance makes.
fn consume_loops() -> Seeds {
    let script = |settings: [u8; 5], marks: (u64, u64), answers: &[u8]| {
        let (pieces, seq) = (short(&[6, 40]), 1u64.to_le_bytes());
        [&settings[..], &seq, &pieces, &marks.0.to_le_bytes(), &marks.1.to_le_bytes(), answers].concat()
    };
    let mut seeds: Seeds = Vec::new();
    for seed in 0..16 {
        let rng = &mut Rng::new(seed);
        let bundles = |rng: &mut Rng, by| [&[4][..], &(rng.below(500) as u16).to_le_bytes(), &[90, 0, by]].concat();
        let mut answers = Vec::new();
        for _ in 0..rng.between(1, 5) {
            match rng.below(3) {
                0 => answers.extend([6, 64 | rng.pick(&[1, 5, 7, 7])]),
                _ => answers.extend(bundles(rng, 0)),
            }
        }
        if rng.one_in(3) {
            let by = 1 << rng.below(8);
            answers.extend(bundles(rng, by));
        }
        let settings = [rng.below(8) as u8, rng.below(8) as u8, rng.below(3) as u8, rng.below(3) as u8, 0];
        seeds.push((format!("good_{seed}"), script(settings, (1, 9), &answers)));
    }
    for fault in 0..8 {
        seeds.push((format!("fault_{fault}"), script([0; 5], (1, 9), &[6, fault, 6, fault])));
    }
    for index in 0..8 {
        let Exchange { frame, .. } = generate::exchange(&mut Rng::new(index), TINY);
        let raw = [&[0][..], &long(&frame)].concat();
        seeds.push((format!("raw_{index}"), script([0; 5], (1, 9), &raw)));
        let payload = [&[1][..], &long(&frame[5..])].concat();
        seeds.push((format!("payload_{index}"), script([0; 5], (1, 9), &payload)));
        let rng = &mut Rng::new(index);
        let messages = generate::messages(rng, 1, 3, 20, index % 2 == 1);
        let packed = generate::pack_oddly(rng, messages, index % 2 == 1);
        let mut chunk = Vec::new();
        generate::put_varint(packed.bytes.len() as u64, &mut chunk);
        chunk.extend_from_slice(&packed.bytes);
        chunk.truncate(rng.between(chunk.len() / 2, chunk.len()));
        let chunk = [&[2, 5][..], &9u64.to_le_bytes(), &long(&chunk)].concat();
        seeds.push((format!("chunk_{index}"), script([2, 0, 0, 1, 0], (1, 9), &chunk)));
    }
    seeds
}

/// What clients sent, about topics that the broker has.
fn brokers(recorded: &[&Capture]) -> Seeds {
    let seed = |settings: u8, request: &[u8]| [&[settings][..], &short(&[settings]), request].concat();
    let mut seeds: Seeds = Vec::new();
    for (index, Capture { name, request, .. }) in recorded.iter().enumerate() {
        let kind = request.first().copied().unwrap_or(0);
        let alike = seeds.iter().filter(|(_, other)| other[3] == kind).count();
        if (5..200).contains(&request.len()) && alike < 5 {
            seeds.push((name.clone(), seed(index as u8 & 0xf, request)));
        }
    }
    for (index, (topic, seq, max_wait_ms)) in
        [("t", 0, 0), ("t", 2, 0), ("events", 6, 0), ("t", SEQ_TAIL, 320)].into_iter().enumerate()
    {
        let partitions = [0, 1].map(|partition| FetchPartition { partition, seq, fetch_size: 100 }).to_vec();
        let request = FetchRequest {
            client_version: 2,
            request_id: 1,
            client_id: "".into(),
            max_wait_ms,
            min_bytes: 0,
            flags: 0,
            topics: vec![FetchTopic { name: topic.into(), partitions }],
        };
        let mut bytes = Vec::new();
        request.encode(&mut bytes).unwrap();
        for settings in [0, 1, 2] {
            seeds.push((format!("fetch_{index}_{settings}"), seed(settings, &bytes)));
        }
    }
    seeds
}

/// Bytes for targets that make something of any.
fn chance(files: u64, most: usize) -> Seeds {
    let file = |seed| {
        let rng = &mut Rng::new(seed);
        let len = rng.between(20, most);
        (
            format!("chance_{seed}"),
            (0..len).map(|_| if rng.one_in(3) { rng.next_u64() as u8 } else { rng.below(4) as u8 }).collect(),
        )
    };
    (0..files).map(file).collect()
}

fn responses(recorded: &[&Capture]) -> Seeds {
    let mut seeds: Seeds = Vec::new();
    for Capture { name, request, response, .. } in recorded {
        // The numbers of the decoders for the answer and the request.
        let (answer_to, request_of) = match request.first().copied().and_then(Kind::from_id) {
            Some(Kind::Produce) => (0, 9),
            Some(Kind::ProduceWithSeqnum) => (0, 10),
            Some(Kind::CreateTopic) => (1, 11),
            Some(Kind::DiscoverPartitions) => (2, 12),
            Some(Kind::DiscoverTopics) => (3, 13),
            Some(Kind::DiscoverTopology) => (4, 14),
            Some(Kind::Status) => (5, 15),
            Some(Kind::ReloadConf) => (6, 16),
            Some(Kind::Consume) => (7, 8),
            _ => continue,
        };
        let (Some(request), Some(mut payload)) = (request.get(5..), response.get(5..)) else { continue };
        if answer_to == 7 {
            let Some(header) = payload.get(..4).map(|len| u32::from_le_bytes(len.try_into().unwrap()) as usize) else {
                continue;
            };
            let Some(entries) = payload.get(8..4 + header.min(300)) else { continue };
            payload = entries;
        }
        let produced = [Kind::Produce, Kind::ProduceWithSeqnum].map(|kind| ProduceRequest::decode(kind, request));
        let shape: Vec<u8> = match produced.into_iter().flatten().next() {
            Some(request) if answer_to == 0 => request.shape().map(|partitions| partitions as u8).collect(),
            _ => Vec::new(),
        };
        let mut add = |kind, decoder: u8, seed: Vec<u8>| {
            let alike = seeds.iter().filter(|(_, other)| other[0] == decoder).count();
            if seed.len() < 200 && alike < if name.starts_with("hostile") { 8 } else { 4 } {
                seeds.push((format!("{name}_{kind}"), seed));
            }
        };
        add("answer", answer_to, [&[answer_to][..], &short(&shape), payload].concat());
        add("request", request_of, [&[request_of, 0][..], request].concat());
        if matches!(answer_to, 1 | 2 | 6) {
            add("pair", 17, [&[17, 0][..], &short(request), payload].concat());
        }
    }
    seeds
}
