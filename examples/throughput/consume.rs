//! Consuming: in a for loop, by batches, and discarding the same bytes.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tank_client::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic};
use tank_client::protocol::frame::HEADER_LEN;
use tank_client::{Client, Start, Subscription};

use crate::Options;

/// What a pass over the topic came to.
pub struct Pass {
    messages: u64,
    payload: u64,
    wire: u64,
    time: Duration,
}

impl Pass {
    fn per_second(&self, what: u64) -> f64 {
        what as f64 / self.time.as_secs_f64() / 1e6
    }
}

pub fn print_heading() {
    println!(
        "{:<12} {:<10} {:>12} {:>10} {:>12} {:>14}",
        "set", "way", "messages/s", "MB/s", "peak growth", "of discarding"
    );
}

/// All three ways in turn, so that whatever else the machine does hits all of them.
pub fn compare(broker: &str, topic: &str, options: &Options) -> Result<(), Box<dyn Error>> {
    let (client, subscription) = prepare(broker, topic, options)?;
    let before = peak_memory();
    let (mut loops, mut batches, mut discards) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs {
        loops.push(for_loop(&client, &subscription)?);
        batches.push(by_batches(&client, &subscription)?);
        discards.push(discard(broker, topic, options.fetch_size, loops[0].wire)?);
    }
    let growth = peak_memory().saturating_sub(before);
    let discard = median(discards);
    let raw = discard.per_second(discard.wire);
    for (way, pass) in [("for loop", median(loops)), ("next_batch", median(batches))] {
        println!(
            "{topic:<12} {way:<10} {:>10.2} M {:>10.0} {:>8} KiB {:>14.2}",
            pass.per_second(pass.messages),
            pass.per_second(pass.payload),
            growth,
            pass.per_second(pass.wire) / raw,
        );
    }
    println!("{topic:<12} {:<10} {:>12} {:>10.0}", "discarding", "", raw);
    Ok(())
}

type Way = fn(&Client, &Subscription) -> Result<Pass, Box<dyn Error>>;

pub fn repeat(broker: &str, topic: &str, options: &Options, way: Way) -> Result<(), Box<dyn Error>> {
    let (client, subscription) = prepare(broker, topic, options)?;
    let passes: Result<Vec<Pass>, _> = (0..options.runs).map(|_| way(&client, &subscription)).collect();
    let pass = median(passes?);
    println!("{topic:<12} {:>10.2} M messages/s, {} messages", pass.per_second(pass.messages), pass.messages);
    Ok(())
}

fn prepare(broker: &str, topic: &str, options: &Options) -> Result<(Client, Subscription), Box<dyn Error>> {
    let all = Subscription::partition(topic, 0).from(Start::Earliest).stop_at_end();
    Ok((Client::connect(broker)?, all.fetch_size(options.fetch_size)))
}

fn median(mut passes: Vec<Pass>) -> Pass {
    passes.sort_by_key(|pass| pass.time);
    passes.swap_remove(passes.len() / 2)
}

pub fn for_loop(client: &Client, subscription: &Subscription) -> Result<Pass, Box<dyn Error>> {
    let start = Instant::now();
    let (mut messages, mut payload) = (0, 0);
    let mut iter = client.subscribe(subscription)?;
    for message in &mut iter {
        payload += message?.payload().len() as u64;
        messages += 1;
    }
    Ok(Pass { messages, payload, wire: iter.stats().bytes, time: start.elapsed() })
}

pub fn by_batches(client: &Client, subscription: &Subscription) -> Result<Pass, Box<dyn Error>> {
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
