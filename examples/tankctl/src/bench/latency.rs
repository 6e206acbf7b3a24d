//! From publishing to delivery, beside bare sockets at the same broker, and as many bytes through a bare relay.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tank_client::{Client, Record, Start, Subscription};

use super::bare::{Bare, Waiting, record};
use super::cost::percentiles;
use super::{Args, Target};
use crate::table::{Table, TableArgs};

const PAYLOAD: [u8; 100] = [b'x'; 100];

pub fn measure(target: &Target<'_>, args: &Args) -> Result<()> {
    let count = args.count.unwrap_or(10_000).max(100) as usize;
    let per_run = count.div_ceil(args.runs as usize);
    let exchange = Exchange::learn(target)?;
    let (mut delivered, mut bare, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.runs {
        delivered.extend(through_tank(target, per_run, args.leaders.is_some())?);
        bare.extend(exchange.through_bare_sockets(target, per_run)?);
        relayed.extend(exchange.through_relay(per_run)?);
    }
    let mut table = Table::new(&["microseconds", "p50", "p90", "p99", "p50 of bare", "p99 of bare"]);
    let [bare_p50, _, bare_p99] = percentiles(&mut bare);
    for (way, times) in
        [("publish to delivery", &mut delivered), ("bare sockets", &mut bare), ("bare relay", &mut relayed)]
    {
        let [p50, p90, p99] = percentiles(times);
        let shown = |time: f64| format!("{time:.1}");
        let of = |time: f64, bare: f64| format!("{:.2}", time / bare);
        table.row(&[&way, &shown(p50), &shown(p90), &shown(p99), &of(p50, bare_p50), &of(p99, bare_p99)]);
    }
    table.print(&TableArgs { json: false })
}

fn follow(client: &Client, target: &Target<'_>, count: usize) -> Result<tank_client::ConsumeIter> {
    let latest = Subscription::partition(target.topic, target.partition).start(Start::Latest);
    Ok(client.subscribe(latest.limit(count as u64))?)
}

/// Publishes again and again, each time once the last message is delivered. The follower may wait at all leaders of the topic.
fn through_tank(target: &Target<'_>, count: usize, follow_all: bool) -> Result<Vec<Duration>> {
    let client = Client::connect(target.brokers)?;
    let mut messages = match follow_all {
        true => client.subscribe(Subscription::topic(target.topic).start(Start::Latest))?,
        false => follow(&client, target, count)?,
    };
    let handle = messages.close_handle();
    let (arrived, arrivals) = channel();
    let follower = thread::spawn(move || {
        for message in &mut messages {
            let outcome = message.map(|_| Instant::now()).map_err(Into::into);
            if arrived.send(outcome).is_err() {
                break;
            }
        }
    });
    let publish = || Ok(client.publish(target.topic, target.partition, &[Record::new(&PAYLOAD)])?);
    let times = times(count, &arrivals, publish)?;
    handle.close();
    follower.join().map_err(|_| anyhow!("the follower panicked"))?;
    Ok(times)
}

/// What the client sends to publish a message, and to have it delivered.
struct Exchange {
    publish: Vec<u8>,
    /// Each is sent once the one before is answered. In a cluster there may be several for a message.
    fetches: Vec<Fetch>,
    /// Bytes of the answer to a fetch.
    answer: usize,
}

/// A request for one partition, and where it says which number it wants.
#[derive(Clone)]
struct Fetch {
    bytes: Vec<u8>,
    number_at: usize,
}

impl Fetch {
    /// The partition's id is before the number.
    fn wanting(&mut self, partition: u16, seq: u64) -> &[u8] {
        let at = self.number_at;
        self.bytes[at - 2..at].copy_from_slice(&partition.to_le_bytes());
        self.bytes[at..at + 8].copy_from_slice(&seq.to_le_bytes());
        &self.bytes
    }
}

impl Exchange {
    /// Records both once.
    fn learn(target: &Target<'_>) -> Result<Exchange> {
        let record_publish = |brokers: &str| -> Result<()> {
            Ok(Client::connect(brokers)?.publish(target.topic, target.partition, &[Record::new(&PAYLOAD)])?)
        };
        let publish = record(target.brokers, record_publish)?;
        // Some numbers on, so that the number is not mistaken for something else.
        let client = Client::connect(target.brokers)?;
        client.publish(target.topic, target.partition, &vec![Record::new(b"x"); 65_000])?;
        let mut wanted = 0;
        let fetch = record(target.brokers, |relay| {
            let mut messages = follow(&Client::connect(relay)?, target, 3)?;
            // The second message is waited for as all that come later.
            for _ in 0..2 {
                messages.next_timeout(Duration::from_millis(100))?;
                wanted = messages.position_of(target.topic, target.partition).unwrap_or(0);
                record_publish(target.brokers)?;
                messages.next().transpose()?;
            }
            Ok(())
        })?;
        let number: [u8; 8] = wanted.to_le_bytes();
        let find = |bytes: &Vec<u8>| bytes.windows(8).position(|part| part == number);
        let fetches =
            fetch.requests.into_iter().filter_map(|(_, bytes)| Some(Fetch { number_at: find(&bytes)?, bytes }));
        let fetches: Vec<Fetch> = fetches.collect();
        ensure!(!fetches.is_empty(), "no fetch was recorded");
        let publish = publish.requests.into_iter().next_back().context("no request was recorded")?.1;
        // A header, what comes before the message, and the message.
        Ok(Exchange { publish, fetches, answer: PAYLOAD.len() + 60 })
    }

    /// The same requests and answers, without anything of a client: what the broker and the network take. The follower also waits
    /// at all other leaders that are known.
    fn through_bare_sockets(&self, target: &Target<'_>, count: usize) -> Result<Vec<Duration>> {
        let (mut publisher, mut follower) = (Bare::connect(target.brokers)?, Waiting::new(target.brokers)?);
        let partitions = Client::connect(target.brokers)?.partitions(target.topic)?;
        let info = partitions.iter().find(|info| info.id == target.partition);
        let mut seq = info.ok_or_else(|| anyhow!("no such partition"))?.high_water_mark + 1;
        let mut fetches = self.fetches.clone();
        for (partition, broker) in (0..).zip(&target.leaders).filter(|(partition, _)| *partition != target.partition) {
            follower.wait_at(broker, fetches[0].wanting(partition, 1).to_vec())?;
        }
        let (partition, (arrived, arrivals)) = (target.partition, channel());
        thread::spawn(move || {
            for _ in 0..count {
                let mut exchanges = fetches.iter_mut().map(|fetch| follower.exchange(fetch.wanting(partition, seq)));
                let outcome = exchanges.find(Result::is_err).unwrap_or(Ok(())).map(|()| Instant::now());
                seq += 1;
                if arrived.send(outcome).is_err() {
                    break;
                }
            }
        });
        times(count, &arrivals, || publisher.exchange(&self.publish))
    }

    /// As many bytes with two bare sockets and a thread between them that passes bytes on.
    fn through_relay(&self, count: usize) -> Result<Vec<Duration>> {
        const ACK: usize = 10;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let connect = || -> io::Result<(TcpStream, TcpStream)> {
            let ours = TcpStream::connect(listener.local_addr()?)?;
            let theirs = listener.accept()?.0;
            ours.set_nodelay(true)?;
            theirs.set_nodelay(true)?;
            Ok((ours, theirs))
        };
        let ((mut publisher, mut from_publisher), (mut follower, mut to_follower)) = (connect()?, connect()?);
        let (mut request, answer) = (vec![0; self.publish.len()], vec![0; self.answer]);
        thread::spawn(move || -> io::Result<()> {
            loop {
                from_publisher.read_exact(&mut request)?;
                to_follower.write_all(&answer)?;
                from_publisher.write_all(&[0; ACK])?;
            }
        });
        let (arrived, arrivals): (Sender<Result<Instant>>, _) = channel();
        let mut answer = vec![0; self.answer];
        thread::spawn(
            move || {
                while follower.read_exact(&mut answer).is_ok() && arrived.send(Ok(Instant::now())).is_ok() {}
            },
        );
        times(count, &arrivals, || {
            publisher.write_all(&self.publish)?;
            Ok(publisher.read_exact(&mut [0; ACK])?)
        })
    }
}

/// How long it takes from the beginning of `publish` until the message has arrived.
fn times(
    count: usize,
    arrivals: &Receiver<Result<Instant>>,
    mut publish: impl FnMut() -> Result<()>,
) -> Result<Vec<Duration>> {
    let one = |_| -> Result<Duration> {
        // The follower waits for the next message by now, as it does all day long.
        thread::sleep(Duration::from_micros(200));
        let start = Instant::now();
        publish()?;
        Ok(arrivals.recv()??.duration_since(start))
    };
    (0..count).map(one).collect()
}
