//! Consuming from the embedded broker, over loopback.
//!
//! ```sh
//! cargo bench --bench end_to_end
//! ```

use common::sets::Set;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use tank_client::broker::Broker;
use tank_client::{Client, Start, Subscription};

/// About how many bytes of messages a topic holds.
const TOPIC: u64 = 64 << 20;
/// How many bundles to spread over partitions: more than caches hold.
const BUNDLES: usize = 8000;
const SETS: [&str; 5] = ["plain100", "snappy100", "plain1k", "snappy1k", "single100"];

fn main() {
    divan::main();
}

/// A broker with a topic of one set; how many messages it holds.
fn fill(set: &str) -> (Broker, u64, u64) {
    let set = Set::named(set).expect("a set of that name");
    let broker = Broker::start().expect("a broker");
    broker.create_topic(set.name, 1);
    let bundles = set.bundles();
    let bundles: Vec<&[u8]> = bundles.iter().map(Vec::as_slice).collect();
    let round = u64::from(set.count) * bundles.len() as u64;
    let times = TOPIC.div_ceil(round * set.payload as u64);
    broker.append_repeated(set.name, 0, &bundles, times);
    (broker, round * times, round * times * set.payload as u64)
}

/// The same, with as many messages and as many bytes of the broker's memory over however many partitions.
fn fill_partitions(set: &str, partitions: u16) -> (Broker, u64, u64) {
    let set = Set::named(set).expect("a set of that name");
    let broker = Broker::start().expect("a broker");
    broker.create_topic(set.name, partitions);
    let bundles = set.bundles();
    let count = BUNDLES / usize::from(partitions);
    let bundles: Vec<&[u8]> = bundles.iter().map(Vec::as_slice).cycle().take(count).collect();
    (0..partitions).for_each(|partition| broker.append_repeated(set.name, partition, &bundles, 1));
    let messages = u64::from(partitions) * u64::from(set.count) * count as u64;
    (broker, messages, messages * set.payload as u64)
}

fn consume(bencher: Bencher<'_, '_>, set: &str, (broker, messages, payload): (Broker, u64, u64)) {
    let client = Client::connect(broker.addr()).expect("a connection");
    bencher.counter(ItemsCount::new(messages)).counter(BytesCount::new(payload)).bench_local(|| {
        let subscription = Subscription::topic(set).start(Start::Earliest).stop_at_end();
        let iter = client.subscribe(subscription).expect("a subscription");
        let count = iter.fold(0, |count, message| {
            black_box(message.expect("a message"));
            count + 1
        });
        assert_eq!(count, messages);
    });
}

#[divan::bench(args = SETS)]
fn for_loop(bencher: Bencher<'_, '_>, set: &str) {
    consume(bencher, set, fill(set));
}

#[divan::bench(args = [1, 1000])]
fn partitions(bencher: Bencher<'_, '_>, partitions: u16) {
    consume(bencher, "plain100", fill_partitions("plain100", partitions));
}

#[divan::bench(args = SETS)]
fn next_batch(bencher: Bencher<'_, '_>, set: &str) {
    let (broker, messages, payload) = fill(set);
    let client = Client::connect(broker.addr()).expect("a connection");
    bencher.counter(ItemsCount::new(messages)).counter(BytesCount::new(payload)).bench_local(|| {
        let subscription = Subscription::topic(set).start(Start::Earliest).stop_at_end();
        let mut iter = client.subscribe(subscription).expect("a subscription");
        let mut count = 0;
        while let Some(batch) = iter.next_batch().expect("a batch") {
            for message in batch {
                black_box(message);
                count += 1;
            }
        }
        assert_eq!(count, messages);
    });
}
