//! The wire format in memory: decoding beside a bare loop over the same bytes, encoding, varints.
//!
//! ```sh
//! cargo bench --bench codec
//! ```

use std::io::Read;
use std::sync::Arc;

use common::sets::Set;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use tank_client::Limits;
use tank_client::protocol::bundle::{BundleBuilder, Codec, Entry, RawMessage};
use tank_client::protocol::compress;
use tank_client::protocol::fetch::{
    FetchHeader, FetchPartition, FetchRequest, FetchTopic, PartitionAnswer, TopicAnswer,
};
use tank_client::protocol::stream::{Event, FetchDecoder, Good, Step};
use tank_client::protocol::varint;
use tank_client::segment::Segments;

/// About how many bytes of messages an answer holds: more than caches do, as with what really comes from a broker.
const ANSWER: usize = 64 << 20;
/// How much of it the decoder is given at once: a consumer's read buffer.
const READ_BUFFER: usize = 512 << 10;
const SETS: [&str; 5] = ["plain100", "snappy100", "plain1k", "snappy1k", "single100"];

fn main() {
    divan::main();
}

/// An answer to `request` with nothing but bundles of one set.
struct Answer {
    request: FetchRequest,
    bytes: Vec<u8>,
    chunk: usize,
    messages: u64,
    payload: u64,
}

fn answer(name: &str) -> Answer {
    let set = Set::named(name).expect("a set of that name");
    let bundles = set.bundles();
    let mut chunk = Vec::new();
    let mut count = 0;
    while count * set.payload < ANSWER {
        let bundle = &bundles[count / set.count as usize % bundles.len()];
        varint::encode(bundle.len() as u32, &mut chunk);
        chunk.extend_from_slice(bundle);
        count += set.count as usize;
    }
    let wanted = FetchPartition { partition: 0, seq: 1, fetch_size: 1 << 20 };
    let request = FetchRequest {
        client_version: 2,
        request_id: 1,
        client_id: "bench".into(),
        max_wait_ms: 0,
        min_bytes: 0,
        flags: 0,
        topics: vec![FetchTopic { name: name.into(), partitions: vec![wanted] }],
    };
    let data = PartitionAnswer::Data { base: Some(1), high_water_mark: count as u64, len: chunk.len() as u32 };
    let topic = TopicAnswer { name: name.into(), partitions: vec![(0, data)] };
    let mut bytes = Vec::new();
    FetchHeader { request_id: 1, topics: vec![topic] }.encode(&mut bytes).expect("a header that fits");
    let head = bytes.len();
    bytes.extend_from_slice(&chunk);
    Answer { request, bytes, chunk: head, messages: count as u64, payload: (count * set.payload) as u64 }
}

/// What every way of reading does with a message.
fn touch(sum: u64, payload: &[u8], timestamp_ms: u64) -> u64 {
    sum.wrapping_add(u64::from(payload.first().copied().unwrap_or(0))).wrapping_add(timestamp_ms + payload.len() as u64)
}

#[divan::bench(args = SETS)]
fn decode(bencher: Bencher<'_, '_>, set: &str) {
    let answer = answer(set);
    let limits = Limits::default();
    let (mut bundles, mut entries, mut scratch): (_, Vec<Entry>, Vec<u8>) = (Vec::new(), Vec::new(), Vec::new());
    let mut snappy = snap_decoder();
    bencher.counter(ItemsCount::new(answer.messages)).counter(BytesCount::new(answer.payload)).bench_local(|| {
        let mut decoder = FetchDecoder::new(limits.clone());
        decoder.join_up_to(256);
        let (mut at, mut sum) = (0, 0);
        loop {
            let input = &answer.bytes[at..(at + READ_BUFFER).min(answer.bytes.len())];
            bundles.clear();
            let (used, step) = decoder.step(input, &|_| Some(&answer.request), &mut bundles).expect("a good answer");
            at += used;
            match step {
                Step::Bundles => {
                    for bundle in &bundles {
                        let set = &input[bundle.set.clone()];
                        let bytes = match bundle.codec {
                            Codec::None => set,
                            Codec::Snappy => {
                                let len = compress::decompress(&mut snappy, set, &limits, bundle.at, &mut scratch);
                                &scratch[..len.expect("good data")]
                            }
                        };
                        entries.clear();
                        bundle.decode(bytes, 0, &mut entries, &mut Good::default()).expect("good data");
                        let touch_it = |sum, entry: &Entry| touch(sum, &bytes[entry.payload()], entry.timestamp_ms);
                        sum = entries.iter().fold(sum, touch_it);
                    }
                }
                Step::Event(Event::End { .. }) => return black_box(sum),
                Step::Event(_) => {}
                Step::Need(n) => panic!("{n} bytes short"),
            }
        }
    });
}

fn snap_decoder() -> snap::raw::Decoder {
    snap::raw::Decoder::new()
}

/// The least that reading dense bundles takes: no limits, no checks but the language's own.
#[divan::bench(args = SETS)]
fn bare_loop(bencher: Bencher<'_, '_>, set: &str) {
    let answer = answer(set);
    let (mut snappy, mut scratch) = (snap_decoder(), vec![0; 1 << 20]);
    bencher.counter(ItemsCount::new(answer.messages)).counter(BytesCount::new(answer.payload)).bench_local(|| {
        let mut sum = 0;
        bare(&answer.bytes[answer.chunk..], &mut snappy, &mut scratch, |payload, timestamp_ms| {
            sum = touch(sum, payload, timestamp_ms);
        });
        black_box(sum)
    });
}

/// The same with a reference count taken and dropped for each message: the least that messages cost which are values of
/// their own and share memory.
#[divan::bench(args = SETS)]
fn bare_loop_counted(bencher: Bencher<'_, '_>, set: &str) {
    let answer = answer(set);
    let (mut snappy, mut scratch, memory) = (snap_decoder(), vec![0; 1 << 20], Arc::new(0u64));
    bencher.counter(ItemsCount::new(answer.messages)).counter(BytesCount::new(answer.payload)).bench_local(|| {
        let mut sum = 0;
        bare(&answer.bytes[answer.chunk..], &mut snappy, &mut scratch, |payload, timestamp_ms| {
            let shared = black_box(memory.clone());
            sum = touch(sum, payload, timestamp_ms + *shared);
        });
        black_box(sum)
    });
}

/// Calls `each` with payload and time stamp of every message of the whole bundles in `chunk`; how many bytes those are.
fn bare(chunk: &[u8], snappy: &mut snap::raw::Decoder, scratch: &mut [u8], mut each: impl FnMut(&[u8], u64)) -> usize {
    let mut begin = 0;
    while begin < chunk.len() {
        let mut at = begin;
        // The longest length that the sets have takes three bytes.
        if chunk.len() - at < 3 {
            break;
        }
        let end = bare_varint(chunk, &mut at) + at;
        if end > chunk.len() {
            break;
        }
        let flags = chunk[at];
        at += 1;
        let count = match usize::from(flags >> 2 & 15) {
            0 => bare_varint(chunk, &mut at),
            small => small,
        };
        let set = match flags & 3 {
            0 => &chunk[at..end],
            _ => {
                let len = snappy.decompress(&chunk[at..end], scratch).expect("good data");
                &scratch[..len]
            }
        };
        let (mut q, mut timestamp_ms) = (0, 0);
        for _ in 0..count {
            let flags = set[q];
            q += 1;
            if flags & 2 == 0 {
                timestamp_ms = u64::from_le_bytes(set[q..q + 8].try_into().expect("eight bytes"));
                q += 8;
            }
            if flags & 1 != 0 {
                q += 1 + usize::from(set[q]);
            }
            let len = bare_varint(set, &mut q);
            each(&set[q..q + len], timestamp_ms);
            q += len;
        }
        begin = end;
    }
    begin
}

/// The bytes as a partition's file, in a folder that is removed at the end.
struct File {
    dir: std::path::PathBuf,
    answer: Answer,
}

impl File {
    fn new(set: &str) -> File {
        let (dir, answer) =
            (std::env::temp_dir().join(format!("tank-bench-{}-{set}", std::process::id())), answer(set));
        std::fs::create_dir_all(&dir).expect("a folder");
        std::fs::write(dir.join("1.log"), &answer.bytes[answer.chunk..]).expect("a file");
        File { dir, answer }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The bare loop over the bytes of such a file, read as a consumer's buffer is filled.
#[divan::bench(args = SETS)]
fn segment_bare_loop(bencher: Bencher<'_, '_>, set: &str) {
    let file = File::new(set);
    let (messages, payload) = (file.answer.messages, file.answer.payload);
    let (mut snappy, mut scratch, mut buffer) = (snap_decoder(), vec![0; 1 << 20], vec![0; READ_BUFFER]);
    bencher.counter(ItemsCount::new(messages)).counter(BytesCount::new(payload)).bench_local(|| {
        let mut file = std::fs::File::open(file.dir.join("1.log")).expect("a file");
        let (mut len, mut sum) = (0, 0);
        loop {
            let read = file.read(&mut buffer[len..]).expect("bytes");
            if read == 0 {
                return black_box(sum);
            }
            len += read;
            let used = bare(&buffer[..len], &mut snappy, &mut scratch, |payload, timestamp_ms| {
                sum = touch(sum, payload, timestamp_ms);
            });
            buffer.copy_within(used..len, 0);
            len -= used;
        }
    });
}

/// A `for` loop over messages that are values of their own, from a file in the system's cache.
#[divan::bench(args = SETS)]
fn segment_for_loop(bencher: Bencher<'_, '_>, set: &str) {
    let file = File::new(set);
    let (messages, payload) = (file.answer.messages, file.answer.payload);
    bencher.counter(ItemsCount::new(messages)).counter(BytesCount::new(payload)).bench_local(|| {
        let messages = Segments::open(&file.dir).expect("a folder").map(|message| message.expect("good data"));
        messages.fold(0, |sum, message| touch(sum, message.payload(), message.timestamp_ms()))
    });
}

/// The same by batches.
#[divan::bench(args = SETS)]
fn segment_next_batch(bencher: Bencher<'_, '_>, set: &str) {
    let file = File::new(set);
    let (messages, payload) = (file.answer.messages, file.answer.payload);
    bencher.counter(ItemsCount::new(messages)).counter(BytesCount::new(payload)).bench_local(|| {
        let (mut segments, mut sum) = (Segments::open(&file.dir).expect("a folder"), 0);
        while let Some(batch) = segments.next_batch().expect("good data") {
            sum = batch.iter().fold(sum, |sum, message| touch(sum, message.payload(), message.timestamp_ms()));
        }
        sum
    });
}

fn bare_varint(bytes: &[u8], at: &mut usize) -> usize {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= usize::from(byte & 127) << shift;
        if byte < 128 {
            return value;
        }
        shift += 7;
    }
}

#[divan::bench(args = SETS)]
fn encode(bencher: Bencher<'_, '_>, set: &str) {
    let set = Set::named(set).expect("a set of that name");
    let payload = vec![b'x'; set.payload];
    let message = RawMessage { timestamp_ms: 1_700_000_000_000, key: None, payload: &payload };
    let (mut builder, mut out) = (BundleBuilder::default(), Vec::new());
    bencher.counter(ItemsCount::new(set.count)).bench_local(|| {
        out.clear();
        for _ in 0..set.count {
            builder.push(black_box(&message)).expect("a message that fits");
        }
        builder.finish(set.compression, &mut out).expect("a bundle that fits");
        black_box(out.len())
    });
}

#[divan::bench(args = [1, 200, 20_000, 3_000_000, u32::MAX])]
fn varints(bencher: Bencher<'_, '_>, value: u32) {
    let mut bytes = Vec::new();
    (0..1000).for_each(|_| varint::encode(value, &mut bytes));
    bencher.counter(ItemsCount::new(1000u32)).bench_local(|| {
        let mut cursor = tank_client::protocol::cursor::Cursor::new(black_box(&bytes), 0);
        (0..1000).fold(0u32, |sum, _| sum ^ cursor.varint("number").expect("a varint"))
    });
}
