//! Reading: messages, bundles, partitions, idle ones and busy ones, and files.

use std::fs;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use common::sets::Set;
use common::turns::Turns;
use tank_client::broker::{Broker, Cluster, RequestKind as Kind, dense_bundle};
use tank_client::protocol::varint;
use tank_client::segment::Segments;
use tank_client::{Client, Compression, Record, Start, Subscription};

use super::curve::{Curve, cost, thread_nanos};
use super::plain::{exchange, receive};

/// Reads to the end of what it asks for.
pub fn drain(client: &Client, subscription: Subscription) -> u64 {
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
    (nanos, Some(receive(bytes, 1) / (round * times) as f64))
}

pub fn messages(name: &'static str) -> Curve {
    Curve::measure(name, &[2_000, 20_000, 200_000, 2_000_000], |number| read("plain100", number))
}

pub fn bundles(name: &'static str) -> Curve {
    Curve::measure(name, &[500, 5_000, 50_000, 500_000], |number| read("single100", number))
}

/// All partitions of a topic, each by its name.
fn named(partitions: u64) -> Subscription {
    let first = Subscription::partition("t", 0).start(Start::Earliest);
    (1..partitions as u16).fold(first, |all, id| all.and_partition("t", id, Start::Earliest))
}

pub fn named_partitions(name: &'static str) -> Curve {
    Curve::measure(name, &[60, 600, 6_000, 60_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", number as u16);
        let client = Client::connect(broker.addr()).expect("a connection");
        let before = broker.stats().bytes_sent;
        let mut runs = 0;
        let nanos = cost(number, || {
            drop(black_box(client.subscribe(named(number)).expect("a subscription")));
            runs += 1;
        });
        (nanos, Some(receive((broker.stats().bytes_sent - before) / runs, 1) / number as f64))
    })
}

pub fn ends_of_partitions(name: &'static str) -> Curve {
    Curve::measure(name, &[60, 600, 6_000, 60_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", number as u16);
        let client = Client::connect(broker.addr()).expect("a connection");
        let before = broker.stats().bytes_sent;
        let mut runs = 0;
        let nanos = cost(number, || {
            assert_eq!(drain(&client, named(number)), 0);
            runs += 1;
        });
        (nanos, Some(receive((broker.stats().bytes_sent - before) / runs, 1) / number as f64))
    })
}

/// A cluster with a topic of this many partitions, which its nodes lead in turn.
pub fn cluster(nodes: u64, partitions: u64) -> Cluster {
    let cluster = Broker::cluster_builder(nodes as usize).replication_factor(1).start().expect("a cluster");
    create(&cluster, "t", partitions);
    cluster
}

fn create(cluster: &Cluster, topic: &str, partitions: u64) {
    cluster.create_topic_with(topic, partitions as u16, 1);
    for partition in 0..partitions as u16 {
        cluster.set_leader(topic, partition, Some(usize::from(partition) % cluster.nodes().len()));
    }
}

pub fn sent_by(cluster: &Cluster) -> u64 {
    cluster.nodes().iter().map(|node| node.stats().bytes_sent).sum()
}

pub fn idle(name: &'static str) -> Curve {
    const NODES: u64 = 4;
    const MESSAGES: u64 = 200;
    Curve::measure(name, &[16, 160, 1_600, 16_000], |number| {
        let cluster = cluster(NODES, number);
        let client = Client::connect(cluster.brokers()).expect("a connection");
        let mut all = client.subscribe(Subscription::topic("t").start(Start::Latest)).expect("a subscription");
        // The first answers say where each partition ends.
        assert!(all.next_timeout(Duration::from_millis(500)).expect("no error").is_none());
        let before = (sent_by(&cluster), all.stats().fetches);
        let mut runs = 0;
        let nanos = cost(MESSAGES, || {
            runs += 1;
            // In a thread of its own: what it costs to append is not the reader's.
            thread::scope(|scope| {
                scope.spawn(|| append_in_turn(&cluster, number, MESSAGES));
                (0..MESSAGES).for_each(|_| _ = black_box(all.next().expect("a message").expect("no error")));
            });
        });
        // Several for a message, if data that ends a wait is asked for again.
        let answers = all.stats().fetches - before.1;
        println!("{number:>10} partitions: {:.2} answers a message", answers as f64 / (runs * MESSAGES) as f64);
        let answer = (sent_by(&cluster) - before.0) / answers;
        (nanos * (runs * MESSAGES) as f64 / answers as f64, Some(exchange(40, answer.max(1))))
    })
}

/// Appends messages here and there, each once the reader of the one before has asked for more.
fn append_in_turn(cluster: &Cluster, partitions: u64, count: u64) {
    for n in 0..count {
        let partition = n * 7919 % partitions;
        let node = cluster.node(partition as usize % cluster.nodes().len());
        let asked = node.stats().requests(Kind::Consume);
        node.append_payloads("t", partition as u16, &["x"]);
        assert!(node.wait_until(Duration::from_secs(60), |stats| stats.requests(Kind::Consume) > asked));
    }
}

/// How many messages are read, however many partitions they lie in.
const BUSY_MESSAGES: u64 = 2_000_000;

pub fn busy_partitions(name: &'static str) -> Curve {
    Curve::measure(name, &[1, 10, 100, 1_000], |number| {
        let nodes = number.min(64);
        let cluster = cluster(nodes, number);
        let set = Set::named("plain100").expect("a set of that name");
        let bundles = set.bundles();
        let bundles: Vec<&[u8]> = bundles.iter().map(Vec::as_slice).collect();
        let count = BUSY_MESSAGES / number / u64::from(set.count);
        let own: Vec<&[u8]> = bundles.iter().copied().cycle().take(count as usize).collect();
        for partition in 0..number {
            cluster.node((partition % nodes) as usize).append_repeated("t", partition as u16, &own, 1);
        }
        let client = Client::connect(cluster.brokers()).expect("a connection");
        let total = number * count * u64::from(set.count);
        let nanos = cost(total, || {
            assert_eq!(drain(&client, Subscription::topic("t").start(Start::Earliest)), total);
        });
        println!("{number:>10} partitions: none waits for more than {} rounds", rounds(&cluster, &client, number));
        let bytes: u64 = own.iter().map(|bundle| bundle.len() as u64).sum::<u64>() * number;
        (nanos, Some(receive(bytes, nodes) / total as f64))
    })
}

/// The longest wait of a partition, in rounds, if the reader is the slowest part: it works for so long in each turn that whatever
/// the brokers may send is there whenever it looks, although they share the processor with it.
fn rounds(cluster: &Cluster, client: &Client, partitions: u64) -> u32 {
    const TURNS: u64 = 20;
    const ROUND_NANOS: f64 = 100e6;
    let bundle = dense_bundle(&[Record::new(&[b'x'; 100]); 30], Compression::None);
    create(cluster, "turns", partitions);
    for partition in 0..partitions {
        let leader = partition as usize % cluster.nodes().len();
        cluster.node(leader).append_repeated("turns", partition as u16, &[&bundle], TURNS);
    }
    // A bundle and a part of the next one.
    let all = Subscription::topic("turns").start(Start::Earliest).stop_at_end().fetch_size(4_000);
    let mut messages = client.subscribe(all).expect("a subscription");
    let work = |nanos: f64| {
        let began = thread_nanos();
        while thread_nanos() - began < nanos {}
    };
    work(ROUND_NANOS);
    let mut turns = Turns::new(partitions as usize);
    while let Some(batch) = messages.next_batch().expect("no error") {
        if turns.take(batch.partition()) {
            work(ROUND_NANOS / partitions as f64);
        }
    }
    turns.longest_wait()
}

pub fn leaders(name: &'static str) -> Curve {
    Curve::measure(name, &[1, 4, 16, 64, 256], |number| {
        let partitions = 10 * number;
        let cluster = cluster(number, partitions);
        for partition in 0..partitions {
            cluster.node((partition % number) as usize).append_payloads("t", partition as u16, &["x"]);
        }
        let client = Client::connect(cluster.brokers()).expect("a connection");
        let (before, mut runs) = (sent_by(&cluster), 0);
        let nanos = cost(number, || {
            assert_eq!(drain(&client, Subscription::topic("t").start(Start::Earliest)), partitions);
            runs += 1;
        });
        let answer = (sent_by(&cluster) - before) / (runs * number);
        (nanos, Some(exchange(400, answer.max(1))))
    })
}

pub fn files(name: &'static str) -> Curve {
    Curve::measure(name, &[4, 40, 400, 4_000], |number| {
        let dir = tempfile::tempdir().expect("a folder");
        let partition = segments(dir.path(), number);
        let nanos = cost(number, || {
            let segments = Segments::open(&partition).expect("a log");
            assert_eq!(segments.filter(Result::is_ok).count() as u64, number);
        });
        (nanos, Some(cost(number, || read_all(&partition))))
    })
}

pub fn first_of_files(name: &'static str) -> Curve {
    Curve::measure(name, &[4, 40, 400, 4_000], |number| {
        let dir = tempfile::tempdir().expect("a folder");
        let partition = segments(dir.path(), number);
        let nanos = cost(number, || {
            let first = Segments::open(&partition).expect("a log").next();
            assert_eq!(first.expect("a message").expect("no error").seq(), 1);
        });
        let list = || _ = black_box(fs::read_dir(&partition).expect("a folder").count());
        (nanos, Some(cost(number, list)))
    })
}

/// A partition of this many files, with a message in each.
fn segments(dir: &Path, number: u64) -> PathBuf {
    let partition = dir.join("t").join("0");
    fs::create_dir_all(&partition).expect("a folder");
    let message = Record::new(b"x").timestamp_ms(1);
    let bundle = dense_bundle(&[message], Compression::None);
    let mut bytes = Vec::new();
    varint::encode(bundle.len() as u32, &mut bytes);
    bytes.extend_from_slice(&bundle);
    for n in 1..=number {
        fs::write(partition.join(format!("{n}-{n}_1.ilog")), &bytes).expect("a file");
    }
    partition
}

fn read_all(folder: &Path) {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let mut file = fs::File::open(entry.expect("an entry").path()).expect("a file");
        bytes.clear();
        file.read_to_end(&mut bytes).expect("its bytes");
        black_box(&bytes);
    }
}
