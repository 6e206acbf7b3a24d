//! What the fuzzer starts from: recorded exchanges that are short, and some that chance makes.

use std::fs;
use std::path::Path;

use tank_client::protocol::bundle::{BundleBuilder, Compression};
use tank_client::protocol::frame::Kind;
use tank_client::protocol::produce::ProduceRequest;
use tank_client::protocol::varint;

use crate::common::captures::frames;
use crate::common::generate::{self, Exchange, Shape};
use crate::common::rng::Rng;

/// Files, by name.
type Seeds = Vec<(String, Vec<u8>)>;

const TINY: Shape = Shape { topics: 2, partitions: 2, bundles: 2, messages: 4, payload: 12 };

/// A recorded exchange: its name, what was sent and what came.
struct Recorded {
    name: String,
    request: Vec<u8>,
    response: Vec<u8>,
}

pub(crate) fn all() -> Vec<(&'static str, Seeds)> {
    let recorded = recorded();
    vec![("varint", varints()), ("bundle", bundles(&recorded)), ("fetch_stream", fetch_streams(&recorded))]
}

/// All that is recorded in `tests/golden`, in the order of the names.
fn recorded() -> Vec<Recorded> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut all = Vec::new();
    for dir in ["", "derived", "cluster"] {
        for file in fs::read_dir(golden.join(dir)).unwrap() {
            let path = file.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            let Some(name) = file.strip_suffix(".request.bin") else { continue };
            let response = fs::read(path.with_file_name(format!("{name}.response.bin"))).unwrap();
            all.push(Recorded { name: name.to_owned(), request: fs::read(&path).unwrap(), response });
        }
    }
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

fn bundles(recorded: &[Recorded]) -> Seeds {
    let seed = |settings: u8, bundle: &[u8]| {
        let numbers = [0, u64::MAX, 100].map(u64::to_le_bytes).concat();
        [&[settings][..], &numbers, bundle].concat()
    };
    let mut seeds: Seeds = Vec::new();
    for Recorded { name, request, .. } in recorded.iter().filter(|recorded| recorded.name.starts_with("produce")) {
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
            1 => generate::pack(&mut BundleBuilder::new(), messages, sparse, Compression::None),
            _ => generate::pack(&mut BundleBuilder::new(), messages, sparse, Compression::Snappy),
        };
        seeds.push((format!("made_{index}"), seed(index as u8 % 8, &packed.bytes)));
    }
    seeds
}

fn fetch_streams(recorded: &[Recorded]) -> Seeds {
    let seed = |settings: u8, requests: &[u8], stream: &[u8]| {
        [&[settings][..], &short(&[0, 4, settings * 10]), &long(requests), stream].concat()
    };
    let mut seeds: Seeds = Vec::new();
    for (index, Recorded { name, request, response }) in recorded.iter().enumerate() {
        let is_consume = request.first() == Some(&(Kind::Consume as u8));
        // All that servers send is much alike; what they never send is worth more.
        let most = if name.starts_with("hostile") { 400 } else { 150 };
        if is_consume && (10..most).contains(&response.len()) && request.len() < 300 {
            seeds.push((name.clone(), seed(index as u8 % 4 & 2, request, response)));
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
