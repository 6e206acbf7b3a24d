//! What is measured.

use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use common::sets::Set;
use rustix::time::{ClockId, clock_gettime};
use tank_client::broker::{Broker, dense_bundle};
use tank_client::protocol::bundle::RawMessage;
use tank_client::protocol::varint;
use tank_client::segment::Segments;
use tank_client::{Client, Compression, Record, Start, Subscription};

/// Each point is the least of this many measurements: whatever else runs can only add.
const TRIES: usize = 3;

/// What one of `number` costs.
pub struct Point {
    pub number: u64,
    pub nanos: f64,
    /// What a bare loop over the same bytes takes.
    pub plain: Option<f64>,
}

pub struct Curve {
    pub name: &'static str,
    pub points: Vec<Point>,
}

type Measure = fn(&'static str) -> Curve;

pub const ALL: [(&str, Measure); 8] = [
    ("a message read", messages),
    ("a one-message bundle read", bundles),
    ("a named partition, subscribed to and read to its end", partitions),
    ("an answer, while this many partitions are idle", idle),
    ("a record published", records),
    ("a partition published to and flushed", published_partitions),
    ("a leader, with ten partitions read to their ends", leaders),
    ("a segment file", files),
];

impl Curve {
    /// By least squares: total cost grows as the number to this power.
    pub fn exponent(&self) -> f64 {
        let logs: Vec<(f64, f64)> = self
            .points
            .iter()
            .map(|point| ((point.number as f64).ln(), (point.nanos * point.number as f64).ln()))
            .collect();
        let n = logs.len() as f64;
        let (x, y) = logs.iter().fold((0.0, 0.0), |(x, y), (a, b)| (x + a / n, y + b / n));
        let over: f64 = logs.iter().map(|(a, b)| (a - x) * (b - y)).sum();
        over / logs.iter().map(|(a, _)| (a - x).powi(2)).sum::<f64>()
    }
}

fn thread_nanos() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The least processor time of this thread over some runs, divided by `number`.
fn cost(number: u64, mut run: impl FnMut()) -> f64 {
    let once = |_| {
        let began = thread_nanos();
        run();
        (thread_nanos() - began) / number as f64
    };
    (0..TRIES).map(once).fold(f64::INFINITY, f64::min)
}

fn curve(name: &'static str, numbers: &[u64], point: impl Fn(u64) -> (f64, Option<f64>)) -> Curve {
    let points = numbers.iter().map(|&number| {
        let (nanos, plain) = point(number);
        Point { number, nanos, plain }
    });
    Curve { name, points: points.collect() }
}

/// Reads to the end of the topic.
fn drain(client: &Client, subscription: Subscription) -> u64 {
    let messages = client.subscribe(subscription.stop_at_end()).expect("a subscription");
    messages.fold(0, |count, message| {
        black_box(message.expect("a message"));
        count + 1
    })
}

fn read(set: &str, number: u64) -> (f64, Option<f64>) {
    let set = Set::named(set).expect("a set of that name");
    let broker = Broker::start().expect("a broker");
    broker.create_topic("t", 1);
    let bundles = set.bundles();
    let bundles: Vec<&[u8]> = bundles.iter().map(Vec::as_slice).collect();
    let round = u64::from(set.count) * bundles.len() as u64;
    let times = number.div_ceil(round);
    broker.append_repeated("t", 0, &bundles, times);
    let client = Client::connect(broker.addr()).expect("a connection");
    let nanos = cost(round * times, || {
        assert_eq!(drain(&client, Subscription::partition("t", 0).start(Start::Earliest)), round * times);
    });
    let bytes = bundles.iter().map(|bundle| bundle.len() as u64).sum::<u64>() * times;
    (nanos, Some(receive(bytes) / (round * times) as f64))
}

/// Processor time to receive this many bytes and look at none.
fn receive(bytes: u64) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let sender = thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a connection");
        let piece = vec![7; 1 << 20];
        let mut left = bytes as usize;
        while left > 0 {
            let n = left.min(piece.len());
            peer.write_all(&piece[..n]).expect("the other side reads");
            left -= n;
        }
    });
    let mut stream = TcpStream::connect(addr).expect("a connection");
    let mut room = vec![0; 512 << 10];
    let began = thread_nanos();
    while stream.read(&mut room).expect("bytes") > 0 {}
    let nanos = thread_nanos() - began;
    sender.join().expect("the sender ends");
    nanos
}

fn messages(name: &'static str) -> Curve {
    curve(name, &[20_000, 200_000, 2_000_000], |number| read("plain100", number))
}

fn bundles(name: &'static str) -> Curve {
    curve(name, &[1_000, 10_000, 100_000, 500_000], |number| read("single100", number))
}

fn partitions(name: &'static str) -> Curve {
    curve(name, &[60, 600, 6_000, 60_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", number as u16);
        let client = Client::connect(broker.addr()).expect("a connection");
        let nanos = cost(number, || {
            let first = Subscription::partition("t", 0).start(Start::Earliest);
            let all = (1..number as u16).fold(first, |all, id| all.and_partition("t", id, Start::Earliest));
            assert_eq!(drain(&client, all), 0);
        });
        (nanos, None)
    })
}

fn idle(name: &'static str) -> Curve {
    const ANSWERS: u64 = 200;
    curve(name, &[16, 160, 1_600, 16_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", number as u16);
        let client = Client::connect(broker.addr()).expect("a connection");
        let mut all = client.subscribe(Subscription::topic("t").start(Start::Latest)).expect("a subscription");
        // The first answers say where each partition ends.
        assert!(all.next_timeout(Duration::from_millis(500)).expect("no error").is_none());
        let nanos = cost(ANSWERS, || {
            for n in 0..ANSWERS {
                broker.append_payloads("t", (n * 7919 % number) as u16, &["x"]);
                black_box(all.next().expect("a message").expect("no error"));
            }
        });
        (nanos, None)
    })
}

fn records(name: &'static str) -> Curve {
    let payload = [b'x'; 100];
    curve(name, &[10_000, 100_000, 1_000_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", 1);
        let client = Client::builder().compression(Compression::None).connect(broker.addr()).expect("a connection");
        let mut producer = client.producer().build().expect("a producer");
        let nanos = cost(number, || {
            (0..number).for_each(|_| producer.send_to("t", 0, Record::new(&payload)).expect("room"));
            producer.flush().expect("stored");
        });
        (nanos, Some(send(number, &payload)))
    })
}

/// Processor time for a record, to put it into a buffer that is written whenever it is full.
fn send(number: u64, payload: &[u8]) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let receiver = thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a connection");
        let mut room = vec![0; 1 << 20];
        while peer.read(&mut room).expect("bytes") > 0 {}
    });
    let stream = TcpStream::connect(addr).expect("a connection");
    let mut buffer = std::io::BufWriter::with_capacity(512 << 10, stream);
    let nanos = cost(number, || {
        (0..number).for_each(|_| buffer.write_all(black_box(payload)).expect("the other side reads"));
        buffer.flush().expect("the other side reads");
    });
    drop(buffer);
    receiver.join().expect("the receiver ends");
    nanos
}

fn published_partitions(name: &'static str) -> Curve {
    curve(name, &[10, 100, 1_000, 10_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", number as u16);
        let client = Client::connect(broker.addr()).expect("a connection");
        let mut producer = client.producer().build().expect("a producer");
        let nanos = cost(number, || {
            (0..number as u16).for_each(|id| producer.send_to("t", id, Record::new("x")).expect("room"));
            producer.flush().expect("stored");
        });
        (nanos, None)
    })
}

fn leaders(name: &'static str) -> Curve {
    curve(name, &[1, 4, 16, 64, 256], |number| {
        let cluster = Broker::cluster_builder(number as usize).replication_factor(1).start().expect("a cluster");
        let partitions = 10 * number as u16;
        cluster.create_topic_with("t", partitions, 1);
        for partition in 0..partitions {
            cluster.set_leader("t", partition, Some(usize::from(partition) % number as usize));
            cluster.node(usize::from(partition) % number as usize).append_payloads("t", partition, &["x"]);
        }
        let client = Client::connect(cluster.brokers()).expect("a connection");
        let nanos = cost(number, || {
            let all = Subscription::topic("t").start(Start::Earliest);
            assert_eq!(drain(&client, all), u64::from(partitions));
        });
        (nanos, None)
    })
}

fn files(name: &'static str) -> Curve {
    curve(name, &[4, 40, 400, 4_000], |number| {
        let dir = tempfile::tempdir().expect("a folder");
        let partition = dir.path().join("t").join("0");
        fs::create_dir_all(&partition).expect("a folder");
        let message = RawMessage { timestamp_ms: 1, key: None, payload: b"x" };
        let bundle = dense_bundle(&[message], Compression::None);
        let mut bytes = Vec::new();
        varint::encode(bundle.len() as u32, &mut bytes);
        bytes.extend_from_slice(&bundle);
        for n in 1..=number {
            fs::write(partition.join(format!("{n}-{n}_1.ilog")), &bytes).expect("a file");
        }
        let nanos = cost(number, || {
            let segments = Segments::open(&partition).expect("a log");
            assert_eq!(segments.filter(Result::is_ok).count() as u64, number);
        });
        (nanos, None)
    })
}
