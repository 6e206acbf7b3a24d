//! Consuming: in a for loop, by batches, and discarding what the same fetches bring.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tank_client::protocol::Limits;
use tank_client::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic};
use tank_client::protocol::frame::HEADER_LEN;
use tank_client::protocol::stream::{Event, FetchDecoder, Step};
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
    let (mut growth, mut starts) = (0, Vec::new());
    for run in 0..options.runs {
        loops.push(for_loop(&client, &subscription)?);
        batches.push(by_batches(&client, &subscription)?);
        if run == 0 {
            // Before the walk, which holds whole answers.
            growth = peak_memory().saturating_sub(before);
            starts = walk(broker, topic, options.fetch_size)?;
        }
        discards.push(discard(broker, topic, options.fetch_size, &starts)?);
    }
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
    let all = Subscription::partition(topic, 0).start(Start::Earliest).stop_at_end();
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

/// A connection of its own, over which the same is asked for as the client asks for.
struct Raw {
    socket: TcpStream,
    topic: Arc<str>,
    fetch_size: u32,
    room: Vec<u8>,
}

impl Raw {
    fn connect(broker: &str, topic: &str, fetch_size: u32) -> Result<Raw, Box<dyn Error>> {
        let mut socket = TcpStream::connect(broker)?;
        socket.set_nodelay(true)?;
        let mut room = vec![0; 256 << 10];
        socket.read_exact(&mut room[..HEADER_LEN])?;
        Ok(Raw { socket, topic: topic.into(), fetch_size, room })
    }

    fn request(&self, seq: u64) -> FetchRequest {
        let wanted = FetchPartition { partition: 0, seq, fetch_size: self.fetch_size };
        FetchRequest {
            client_version: 2,
            request_id: 1,
            client_id: "discard".into(),
            max_wait_ms: 0,
            min_bytes: 0,
            flags: 0,
            topics: vec![FetchTopic { name: self.topic.clone(), partitions: vec![wanted] }],
        }
    }

    /// Fetches from a number on; `see` is given all bytes of the answer, piece by piece. How many bytes there were.
    fn fetch(&mut self, seq: u64, mut see: impl FnMut(&[u8])) -> Result<u64, Box<dyn Error>> {
        let mut request = Vec::new();
        self.request(seq).encode(&mut request)?;
        self.socket.write_all(&request)?;
        self.socket.read_exact(&mut self.room[..HEADER_LEN])?;
        see(&self.room[..HEADER_LEN]);
        let len = u32::from_le_bytes(self.room[1..HEADER_LEN].try_into()?);
        let mut left = len as usize;
        while left > 0 {
            let most = left.min(self.room.len());
            let n = self.socket.read(&mut self.room[..most])?;
            if n == 0 {
                return Err("the broker closed the connection".into());
            }
            see(&self.room[..n]);
            left -= n;
        }
        Ok(HEADER_LEN as u64 + u64::from(len))
    }

    /// The number after the last whole bundle of an answer to a fetch from `seq` on; `None` if there is none.
    fn next(&self, seq: u64, answer: &[u8]) -> Result<Option<u64>, Box<dyn Error>> {
        let mut decoder = FetchDecoder::new(Limits::default());
        decoder.expect(self.request(seq));
        let (mut at, mut bundles, mut next) = (0, Vec::new(), None);
        loop {
            let (used, step) = decoder.step(&answer[at..], &mut bundles)?;
            at += used;
            next = bundles.drain(..).filter(|bundle| !bundle.cut).map(|bundle| bundle.last + 1).next_back().or(next);
            match step {
                Step::Event(Event::End { .. }) => return Ok(next),
                Step::Need(_) => return Err("an answer shorter than it claims".into()),
                Step::Event(_) | Step::Bundles => {}
            }
        }
    }
}

/// The numbers from which a reader of the whole partition fetches.
fn walk(broker: &str, topic: &str, fetch_size: u32) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut raw = Raw::connect(broker, topic, fetch_size)?;
    let (mut starts, mut answer, mut seq) = (Vec::new(), Vec::new(), 0);
    loop {
        answer.clear();
        raw.fetch(seq, |bytes| answer.extend_from_slice(bytes))?;
        starts.push(seq);
        match raw.next(seq, &answer)? {
            Some(next) => seq = next,
            None => return Ok(starts),
        }
    }
}

/// Reads the answers to the same fetches, and does nothing with them.
fn discard(broker: &str, topic: &str, fetch_size: u32, starts: &[u64]) -> Result<Pass, Box<dyn Error>> {
    let mut raw = Raw::connect(broker, topic, fetch_size)?;
    let start = Instant::now();
    let mut wire = 0;
    for &seq in starts {
        wire += raw.fetch(seq, |_| {})?;
    }
    Ok(Pass { messages: 0, payload: 0, wire, time: start.elapsed() })
}

/// The most memory the process had so far, in KiB; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
