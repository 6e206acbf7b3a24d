//! This crate beside another client: whole processes that take turns, and the processor time that each of them took.
//!
//! ```sh
//! cargo bench --bench beside -- read HOST:PORT TOPIC COMMAND…      # reads partition 0 from first to last
//! cargo bench --bench beside -- write HOST:PORT TOPIC COUNT COMMAND…   # appends messages of 100 bytes to partition 0
//! ```
//!
//! COMMAND is a program that does the same with the other client; it says what it likes, and ends with 0. Beside both, a bare
//! loop over a blocking socket fetches or sends the same bytes: what neither can do without. `RUNS=15` is how often
//! each has its turn. The processor time of a process is exact; the kernel only estimates the user's share of it.

use std::env;
use std::error::Error;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use tank_client::Limits;
use tank_client::protocol::bundle::{BundleBuilder, RawMessage};
use tank_client::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionAnswer, SEQ_EARLIEST};
use tank_client::protocol::frame::{FrameHeader, HEADER_LEN, PING, Payload};
use tank_client::protocol::produce::{ProduceCode, ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use tank_client::protocol::stream::{Event, FetchDecoder, Step};
use tank_client::{Client, Compression, Record, Start, Subscription};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Messages that a request of `publish` takes.
const BATCH: u64 = 1_000;

/// Messages of small bundles that a reader takes together.
const JOINED: u32 = 256;

/// Bytes of a producer's bundles.
const BUNDLE: usize = 512 << 10;

const PAYLOAD: &[u8] = &[b'x'; 100];

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["read", broker, topic, ref command @ ..] if !command.is_empty() => {
            let [by_loop, by_batches, bare] = ["loop", "batch", "bare"].map(|name| [name, broker, topic]);
            compare(&[&by_loop, &by_batches, &bare], command)
        }
        ["write", broker, topic, count, ref command @ ..] if !command.is_empty() => {
            let [publish, producer, bare] = ["publish", "producer", "bare"].map(|name| [name, broker, topic, count]);
            compare(&[&publish, &producer, &bare], command)
        }
        ["loop", broker, topic] => by_loop(broker, topic),
        ["batch", broker, topic] => by_batches(broker, topic),
        ["bare", broker, topic] => bare_read(broker, topic),
        ["publish", broker, topic, count] => publish(broker, topic, count.parse()?),
        ["producer", broker, topic, count] => produce(broker, topic, count.parse()?),
        ["bare", broker, topic, count] => bare_write(broker, topic, count.parse()?),
        // Without a command there is nothing to stand beside: `cargo bench` runs the others.
        _ => {
            println!("usage: beside read BROKER TOPIC COMMAND… | beside write BROKER TOPIC COUNT COMMAND…");
            Ok(())
        }
    }
}

fn everything(topic: &str) -> Subscription {
    Subscription::partition(topic, 0).start(Start::Earliest).stop_at_end().fetch_size(1 << 20)
}

fn by_loop(broker: &str, topic: &str) -> Result<()> {
    for message in Client::connect(broker)?.subscribe(everything(topic))? {
        black_box(message?.payload());
    }
    Ok(())
}

fn by_batches(broker: &str, topic: &str) -> Result<()> {
    let mut all = Client::connect(broker)?.subscribe(everything(topic))?;
    while let Some(batch) = all.next_batch()? {
        batch.iter().for_each(|message| _ = black_box(message.payload()));
    }
    Ok(())
}

/// What every client must do: send the fetches, take in the answers, and find where the next one continues. It blocks until an
/// answer is there, and looks at no message.
fn bare_read(broker: &str, topic: &str) -> Result<()> {
    let mut stream = TcpStream::connect(broker)?;
    stream.set_nodelay(true)?;
    let (mut seq, mut last, mut end) = (SEQ_EARLIEST, 0, u64::MAX);
    let (mut answer, mut bundles) = (vec![0; HEADER_LEN], Vec::new());
    while last < end {
        let partitions = vec![FetchPartition { partition: 0, seq, fetch_size: 1 << 20 }];
        let request = FetchRequest {
            client_version: 2,
            request_id: 1,
            client_id: "bare".into(),
            max_wait_ms: 0,
            min_bytes: 0,
            flags: 0,
            topics: vec![FetchTopic { name: topic.into(), partitions }],
        };
        let mut frame = Vec::new();
        request.encode(&mut frame)?;
        stream.write_all(&frame)?;
        let len = read_frame(&mut stream, &mut answer)?;
        let (mut decoder, mut rest) = (FetchDecoder::new(Limits::default()), &answer[..len]);
        decoder.join_up_to(JOINED);
        while !rest.is_empty() {
            let (used, step) = decoder.step(rest, &|_| Some(&request), &mut bundles)?;
            rest = &rest[used..];
            if let Step::Event(Event::Partition { answer: PartitionAnswer::Data { high_water_mark, .. }, .. }) = step {
                end = high_water_mark;
            }
        }
        last = bundles.drain(..).rfind(|bundle| !bundle.cut).ok_or("no whole bundle")?.last;
        seq = last + 1;
    }
    Ok(())
}

fn publish(broker: &str, topic: &str, count: u64) -> Result<()> {
    let client = Client::builder().compression(Compression::None).connect(broker)?;
    let records = vec![Record::new(PAYLOAD); BATCH as usize];
    for _ in 0..count / BATCH {
        client.publish(topic, 0, &records)?;
    }
    Ok(())
}

fn produce(broker: &str, topic: &str, count: u64) -> Result<()> {
    let client = Client::builder().compression(Compression::None).connect(broker)?;
    let mut producer = client.producer().build()?;
    for _ in 0..count {
        producer.send_to(topic, 0, Record::new(PAYLOAD))?;
    }
    Ok(producer.flush().map(drop)?)
}

/// What every producer must do: for each record look at the clock and copy its bytes, and send as many at a time as a
/// [`Producer`](tank_client::Producer) puts into a bundle.
fn bare_write(broker: &str, topic: &str, count: u64) -> Result<()> {
    let mut builder = BundleBuilder::default();
    while builder.set_len() + 2 * PAYLOAD.len() < BUNDLE {
        builder.push(&RawMessage { timestamp_ms: 1, key: None, payload: PAYLOAD })?;
    }
    let (records, mut bundle) = (u64::from(builder.count()), Vec::new());
    builder.finish(Compression::None, &mut bundle)?;
    let partitions = vec![ProducePartition { partition: 0, first_seq: 0, bundle: &bundle }];
    let request = ProduceRequest {
        client_version: 1,
        request_id: 1,
        client_id: "bare".into(),
        required_acks: 1,
        ack_timeout_ms: 1_000,
        with_seqnum: false,
        topics: vec![ProduceTopic { name: topic.into(), partitions }],
    };
    let mut frame = Vec::new();
    request.encode(&mut frame)?;
    let mut stream = TcpStream::connect(broker)?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::new();
    for _ in 0..count.div_ceil(records) {
        // Each ends with its payload, after flags and a length.
        for record in frame.rchunks_exact_mut(2 + PAYLOAD.len()).take(records as usize) {
            black_box(SystemTime::now());
            record[2..].copy_from_slice(black_box(PAYLOAD));
        }
        stream.write_all(&frame)?;
        let len = read_frame(&mut stream, &mut answer)?;
        let codes = ProduceResponse::decode(&answer[HEADER_LEN..len], request.shape())?.codes;
        if codes != [ProduceCode::Stored] {
            return Err(format!("{topic}: {codes:?}").into());
        }
    }
    Ok(())
}

/// Reads the next answer into the front of a buffer. Returns its length.
fn read_frame(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<usize> {
    loop {
        buffer.resize(buffer.len().max(HEADER_LEN), 0);
        stream.read_exact(&mut buffer[..HEADER_LEN])?;
        let header = FrameHeader::decode(&buffer[..HEADER_LEN])?.ok_or("a header")?;
        let len = HEADER_LEN + header.len as usize;
        buffer.resize(buffer.len().max(len), 0);
        stream.read_exact(&mut buffer[HEADER_LEN..len])?;
        if buffer[0] != PING[0] {
            return Ok(len);
        }
    }
}

/// What runs of one program took: processor time, and time.
#[derive(Default)]
struct Runs {
    processor: Vec<Duration>,
    time: Vec<Duration>,
}

/// Lets this program with each of these arguments, and the other one, take turns.
fn compare(ours: &[&[&str]], command: &[&str]) -> Result<()> {
    let own = env::current_exe()?;
    let runs = env::var("RUNS").map_or(Ok(15), |runs| runs.parse())?;
    let mut all: Vec<Runs> = (0..=ours.len()).map(|_| Runs::default()).collect();
    for _ in 0..runs {
        for (args, runs) in ours.iter().zip(&mut all) {
            run(Command::new(&own).args(*args), runs)?;
        }
        run(Command::new(command[0]).args(&command[1..]), &mut all[ours.len()])?;
    }
    let names = ours.iter().map(|args| args[0]).chain([command[0]]);
    let (least, median) = (|times: &[Duration]| times[0], |times: &[Duration]| times[times.len() / 2]);
    all.iter_mut().for_each(|Runs { processor, time }| [processor, time].into_iter().for_each(|times| times.sort()));
    let other = &all[ours.len()];
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "MEDIANS", "PROCESSOR", "RATIO", "LEAST", "RATIO", "TIME", "RATIO"
    );
    for (name, Runs { processor, time }) in names.zip(&all) {
        let name = name.rsplit('/').next().unwrap_or(name);
        print!("{name:<12}");
        let columns = [
            (median(processor), median(&other.processor)),
            (least(processor), least(&other.processor)),
            (median(time), median(&other.time)),
        ];
        for (ours, theirs) in columns {
            print!(" {:>7.1}ms {:>9.2}", ours.as_secs_f64() * 1e3, ours.as_secs_f64() / theirs.as_secs_f64());
        }
        println!();
    }
    Ok(())
}

fn run(command: &mut Command, runs: &mut Runs) -> Result<()> {
    let (before, began) = (of_children()?, Instant::now());
    let status = command.stdout(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    runs.time.push(began.elapsed());
    runs.processor.push(of_children()? - before);
    Ok(())
}

/// The processor time of all processes that have ended.
fn of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let duration =
        |time: TimeVal| Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64);
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}
