//! How fast consuming and publishing are here, beside reading and discarding the same bytes.
//!
//! ```sh
//! cargo run --release --example throughput                                    # all sets, embedded broker
//! cargo run --release --example throughput -- --set plain100 --megabytes 1000
//! cargo run --release --example throughput -- --broker 127.0.0.1:11011 --topic plain100
//! ```

#[path = "common/sets.rs"]
mod sets;

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sets::Set;
use tank_client::broker::Broker;
use tank_client::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic};
use tank_client::protocol::frame::HEADER_LEN;
use tank_client::{Client, Start, Subscription};

const USAGE: &str = "\
usage: throughput [options]

Consumes each set of messages three ways: in a for loop, by batches, and discarding the bytes as they come. Prints
messages and payload bytes a second, the growth of peak memory, and the ratio to discarding, from the same run.

options:
  --set NAME         plain100, snappy100, plain1k, snappy1k or single100 (all of them)
  --megabytes N      payload of a set in the embedded broker (200)
  --broker ADDR      a broker to read from instead, with
  --topic NAME       a topic of it, partition 0
  --fetch-size N     bytes (1048576)
  --runs N           runs of each, of which the median is shown (5)
  --help             this text";

struct Args {
    sets: Vec<Set>,
    megabytes: u64,
    target: Option<(String, String)>,
    fetch_size: u32,
    runs: usize,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("throughput: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("throughput: {e}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
    let mut parsed = Args { sets: Set::ALL.to_vec(), megabytes: 200, target: None, fetch_size: 1 << 20, runs: 5 };
    let (mut broker, mut topic) = (None, None);
    while let Some(arg) = args.next() {
        if arg == "--help" {
            return Ok(None);
        }
        let value = args.next().ok_or(format!("{arg} needs a value"))?;
        let bad = || format!("{arg} {value}: no such value");
        match arg.as_str() {
            "--set" => parsed.sets = vec![Set::named(&value).ok_or_else(bad)?],
            "--megabytes" => parsed.megabytes = value.parse().map_err(|_| bad())?,
            "--broker" => broker = Some(value),
            "--topic" => topic = Some(value),
            "--fetch-size" => parsed.fetch_size = value.parse().map_err(|_| bad())?,
            "--runs" => parsed.runs = value.parse().ok().filter(|&runs| runs > 0).ok_or_else(bad)?,
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    parsed.target = match (broker, topic) {
        (Some(broker), Some(topic)) => Some((broker, topic)),
        (None, None) => None,
        _ => return Err("--broker and --topic go together".into()),
    };
    Ok(Some(parsed))
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    println!(
        "{:<12} {:<10} {:>12} {:>10} {:>12} {:>14}",
        "set", "way", "messages/s", "MB/s", "peak growth", "of discarding"
    );
    if let Some((broker, topic)) = &args.target {
        return measure(args, broker, topic);
    }
    for set in &args.sets {
        let broker = Broker::start()?;
        broker.create_topic(set.name, 1);
        let bundles = set.bundles();
        let bundles: Vec<&[u8]> = bundles.iter().map(Vec::as_slice).collect();
        let round = set.payload as u64 * u64::from(set.count) * bundles.len() as u64;
        broker.append_repeated(set.name, 0, &bundles, (args.megabytes * 1_000_000).div_ceil(round));
        measure(args, &broker.addr().to_string(), set.name)?;
    }
    Ok(())
}

/// What a pass over the topic came to.
struct Pass {
    messages: u64,
    payload: u64,
    wire: u64,
    time: Duration,
}

fn measure(args: &Args, broker: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(broker)?;
    let subscription =
        Subscription::partition(topic, 0).from(Start::Earliest).fetch_size(args.fetch_size).stop_at_end();

    let before = peak_memory();
    let (mut loops, mut batches, mut discards) = (Vec::new(), Vec::new(), Vec::new());
    // The ways take turns, so that whatever else the machine does hits all of them.
    for _ in 0..args.runs {
        loops.push(for_loop(&client, &subscription)?);
        batches.push(by_batches(&client, &subscription)?);
        discards.push(discard(broker, topic, args.fetch_size, loops[0].wire)?);
    }
    let growth = peak_memory().saturating_sub(before);
    let discard = median(discards);
    let raw = discard.wire as f64 / discard.time.as_secs_f64();
    for (way, pass) in [("for loop", median(loops)), ("next_batch", median(batches))] {
        let seconds = pass.time.as_secs_f64();
        println!(
            "{topic:<12} {way:<10} {:>10.2} M {:>10.0} {:>9} KiB {:>14.2}",
            pass.messages as f64 / seconds / 1e6,
            pass.payload as f64 / seconds / 1e6,
            growth,
            pass.wire as f64 / seconds / raw,
        );
    }
    println!("{topic:<12} {:<10} {:>12} {:>10.0}", "discarding", "", raw / 1e6);
    Ok(())
}

fn median(mut passes: Vec<Pass>) -> Pass {
    passes.sort_by_key(|pass| pass.time);
    passes.swap_remove(passes.len() / 2)
}

fn for_loop(client: &Client, subscription: &Subscription) -> Result<Pass, Box<dyn Error>> {
    let start = Instant::now();
    let (mut messages, mut payload) = (0, 0);
    let mut iter = client.subscribe(subscription)?;
    for message in &mut iter {
        payload += message?.payload().len() as u64;
        messages += 1;
    }
    Ok(Pass { messages, payload, wire: iter.stats().bytes, time: start.elapsed() })
}

fn by_batches(client: &Client, subscription: &Subscription) -> Result<Pass, Box<dyn Error>> {
    let start = Instant::now();
    let (mut messages, mut payload) = (0, 0);
    let mut iter = client.subscribe(subscription)?;
    while let Some(batch) = iter.next_batch()? {
        for message in batch {
            payload += message.payload().len() as u64;
            messages += 1;
        }
    }
    Ok(Pass { messages, payload, wire: iter.stats().bytes, time: start.elapsed() })
}

/// Asks for the beginning of the partition over and over, until as many bytes as the others read are through.
fn discard(broker: &str, topic: &str, fetch_size: u32, wire: u64) -> Result<Pass, Box<dyn Error>> {
    let mut socket = TcpStream::connect(broker)?;
    socket.set_nodelay(true)?;
    let mut room = vec![0; 256 << 10];
    socket.read_exact(&mut room[..HEADER_LEN])?;
    let start = Instant::now();
    let (mut request_id, mut read) = (0, 0);
    while read < wire {
        request_id += 1;
        let mut request = Vec::new();
        let wanted = FetchPartition { partition: 0, seq: 1, fetch_size };
        FetchRequest {
            client_version: 2,
            request_id,
            client_id: "discard".into(),
            max_wait_ms: 0,
            min_bytes: 0,
            flags: 0,
            topics: vec![FetchTopic { name: topic.into(), partitions: vec![wanted] }],
        }
        .encode(&mut request)?;
        socket.write_all(&request)?;
        socket.read_exact(&mut room[..HEADER_LEN])?;
        let mut left = u32::from_le_bytes(room[1..HEADER_LEN].try_into()?) as usize;
        while left > 0 {
            let most = left.min(room.len());
            let n = socket.read(&mut room[..most])?;
            if n == 0 {
                return Err("the broker closed the connection".into());
            }
            left -= n;
            read += n as u64;
        }
        read += HEADER_LEN as u64;
    }
    Ok(Pass { messages: 0, payload: 0, wire: read, time: start.elapsed() })
}

/// The most memory the process had so far, in KiB; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
