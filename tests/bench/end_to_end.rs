//! Consuming from the embedded broker, over loopback.
//!
//! ```sh
//! cargo bench --bench end_to_end
//! ```

#[path = "../../examples/common/sets.rs"]
mod sets;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use sets::Set;
use tank_client::broker::Broker;
use tank_client::{Client, Start, Subscription};

/// About how many bytes of messages a topic holds.
const TOPIC: u64 = 64 << 20;
const SETS: [&str; 5] = ["plain100", "snappy100", "plain1k", "snappy1k", "single100"];

fn main() {
    divan::main();
}

/// A broker with a topic of one set, spread over partitions; how many messages it holds.
fn fill(set: &str, partitions: u16) -> (Broker, u64, u64) {
    let set = Set::named(set).expect("a set of that name");
    let broker = Broker::start().expect("a broker");
    broker.create_topic(set.name, partitions);
    let bundles = set.bundles();
    let bundles: Vec<&[u8]> = bundles.iter().map(Vec::as_slice).collect();
    let round = u64::from(set.count) * bundles.len() as u64;
    let times = TOPIC.div_ceil(round * set.payload as u64 * u64::from(partitions));
    (0..partitions).for_each(|partition| broker.append_repeated(set.name, partition, &bundles, times));
    let messages = round * times * u64::from(partitions);
    (broker, messages, messages * set.payload as u64)
}

fn consume(bencher: Bencher<'_, '_>, set: &str, partitions: u16) {
    let (broker, messages, payload) = fill(set, partitions);
    let client = Client::connect(&broker.addr().to_string()).expect("a connection");
    bencher.counter(ItemsCount::new(messages)).counter(BytesCount::new(payload)).bench_local(|| {
        let subscription = Subscription::topic(set).from(Start::Earliest).stop_at_end();
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
    consume(bencher, set, 1);
}

#[divan::bench(args = [1, 1000])]
fn partitions(bencher: Bencher<'_, '_>, partitions: u16) {
    consume(bencher, "plain100", partitions);
}

#[divan::bench(args = SETS)]
fn next_batch(bencher: Bencher<'_, '_>, set: &str) {
    let (broker, messages, payload) = fill(set, 1);
    let client = Client::connect(&broker.addr().to_string()).expect("a connection");
    bencher.counter(ItemsCount::new(messages)).counter(BytesCount::new(payload)).bench_local(|| {
        let subscription = Subscription::topic(set).from(Start::Earliest).stop_at_end();
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
