//! What consuming takes of the heap, whatever the fetch size. A process of its own: the allocator counts.

use std::time::Duration;

use common::alloc;
use common::server::bundle;
use common::watch::within;
use tank_client::Compression;
use tank_client::broker::{Broker, BrokerFault};
use tank_client::{Client, ConsumeIter, Start, Subscription};

const GIB: u64 = 1 << 30;
const PAYLOAD: usize = 1000;
/// Messages of a bundle of 64 KiB.
const PER_BUNDLE: usize = (64 << 10) / (PAYLOAD + 3);

/// Reads this many bytes of bundles of 64 KiB in a thread whose memory is weighed; the most it held at a time.
fn weighed(compression: Compression, bytes: u64, read: impl FnOnce(ConsumeIter) -> u64 + Send + 'static) -> isize {
    weighed_from(Broker::start().unwrap(), compression, bytes, read)
}

fn weighed_from(
    broker: Broker,
    compression: Compression,
    bytes: u64,
    read: impl FnOnce(ConsumeIter) -> u64 + Send + 'static,
) -> isize {
    broker.create_topic("large", 1);
    let payloads = [[b'x'; PAYLOAD]; PER_BUNDLE];
    let times = bytes / (64 << 10);
    broker.append_repeated("large", 0, &[&bundle(&payloads, compression)], times);
    let addr = broker.addr().to_string();
    let reader = move || {
        let _weighed = alloc::weigh_this_thread();
        let before = alloc::held();
        alloc::reset_peak();
        let client = Client::connect(&addr).unwrap();
        let all = Subscription::topic("large").start(Start::Earliest).stop_at_end().fetch_size(64 << 20);
        assert_eq!(read(client.subscribe(all).unwrap()), times * PER_BUNDLE as u64);
        drop(client);
        assert_eq!(alloc::held(), before, "all of it was given back");
        alloc::peak() - before
    };
    std::thread::spawn(reader).join().unwrap()
}

#[test]
fn a_gibibyte_in_less_than_two_mebibytes() {
    within(240, || {
        let peak = weighed(Compression::None, GIB, |mut iter| {
            let mut count = 0;
            while let Some(batch) = iter.next_batch().unwrap() {
                count += batch.len() as u64;
            }
            count
        });
        assert!(peak < 2 << 20, "{peak} bytes");
    });
}

#[test]
fn in_a_for_loop_too() {
    within(240, || {
        for compression in [Compression::None, Compression::Snappy] {
            let peak = weighed(compression, GIB / 4, |iter| {
                let mut next = 1;
                for message in iter {
                    let message = message.unwrap();
                    assert_eq!((message.seq(), message.payload().len()), (next, PAYLOAD));
                    next += 1;
                }
                next - 1
            });
            assert!(peak < 2 << 20, "{compression:?}: {peak} bytes");
        }
    });
}

/// A message that is kept while the next ones come keeps its block alive, and no more.
#[test]
fn kept_messages_keep_their_own_blocks_only() {
    within(240, || {
        let peak = weighed(Compression::None, GIB / 8, |iter| {
            let mut kept = Vec::with_capacity(16);
            let mut count = 0;
            for message in iter {
                count += 1;
                if count % 1000 == 0 {
                    if kept.len() == 16 {
                        kept.clear();
                    }
                    kept.push(message.unwrap());
                }
            }
            count
        });
        assert!(peak < 16 << 20, "{peak} bytes");
    });
}

#[test]
fn batches_allocate_nothing_once_warm() {
    within(240, || {
        for compression in [Compression::None, Compression::Snappy] {
            weighed(compression, GIB / 8, |mut iter| {
                let (mut count, mut bundles, mut warm) = (0, 0, (0, 0));
                while let Some(batch) = iter.next_batch().unwrap() {
                    let bytes: usize = batch.iter().map(|message| message.payload().len()).sum();
                    count += batch.len() as u64;
                    assert_eq!(bytes, batch.len() * PAYLOAD);
                    bundles += 1;
                    if bundles == 100 {
                        warm = (alloc::calls(), iter.stats().fetches);
                    }
                }
                let (calls, fetches) = (alloc::calls() - warm.0, iter.stats().fetches - warm.1);
                assert!(calls <= 20 * (fetches + 1), "{calls} allocations for {bundles} bundles in {fetches} fetches");
                count
            });
        }
    });
}

/// Nor if every one of them has to be waited for.
#[test]
fn waiting_allocates_nothing() {
    within(240, || {
        let broker = Broker::start().unwrap();
        // Of the discovery's answer and the only fetch's.
        broker.inject_times(BrokerFault::Trickle { bytes: 30_000, pause: Duration::from_micros(100) }, 2);
        weighed_from(broker, Compression::None, 1000 * (64 << 10), |mut iter| {
            let (mut count, mut bundles, mut warm) = (0, 0, 0);
            while let Some(batch) = iter.next_batch().unwrap() {
                count += batch.len() as u64;
                bundles += 1;
                if bundles == 100 {
                    warm = alloc::calls();
                }
            }
            assert!(alloc::calls() - warm <= 20, "{} allocations", alloc::calls() - warm);
            count
        });
    });
}

#[test]
fn a_for_loop_allocates_at_most_once_for_a_bundle() {
    within(240, || {
        for compression in [Compression::None, Compression::Snappy] {
            weighed(compression, GIB / 8, |mut iter| {
                let (mut count, mut warm) = (0, (0, 0));
                while let Some(message) = iter.next() {
                    message.unwrap();
                    count += 1;
                    if count == 100 * PER_BUNDLE as u64 {
                        warm = (alloc::calls(), iter.stats().bundles);
                    }
                }
                let (calls, bundles) = (alloc::calls() - warm.0, iter.stats().bundles - warm.1);
                assert!(calls <= bundles, "{calls} allocations for {bundles} bundles");
                count
            });
        }
    });
}
