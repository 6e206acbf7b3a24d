//! What memory grows with: the partitions of a subscription, and what a producer was told to hold.

use common::alloc;
use common::server::bundle;
use common::watch::within;
use tank_client::broker::Broker;
use tank_client::{Client, Compression, Record, Start, Subscription};

const MIB: isize = 1 << 20;

/// What a subscription to this many partitions takes at most while all of them are read, and what it holds when it waits.
fn taken_by_partitions(partitions: u16, fetch_size: u32) -> (isize, isize) {
    let broker = Broker::start().unwrap();
    broker.create_topic("many", partitions);
    let payloads = [[b'x'; 1000]; 10];
    let ten = bundle(&payloads, Compression::None);
    (0..partitions).for_each(|id| _ = broker.append("many", id, &ten));
    let addr = broker.addr().to_string();
    let reader = move || {
        let _weighed = alloc::weigh_this_thread();
        let client = Client::connect(&addr).unwrap();
        let before = alloc::held();
        alloc::reset_peak();
        let all = Subscription::topic("many").start(Start::Earliest).fetch_size(fetch_size);
        let mut messages = client.subscribe(all).unwrap();
        for _ in 0..u64::from(partitions) * payloads.len() as u64 {
            messages.next().unwrap().unwrap();
        }
        (alloc::peak() - before, alloc::held() - before)
    };
    std::thread::spawn(reader).join().unwrap()
}

#[test]
fn a_partition_takes_little_whatever_the_fetch_size() {
    within(240, || {
        for (partitions, fetch_size) in [(1, 64 << 20), (1_000, 1 << 20), (4_000, 64 << 20), (20_000, 1 << 20)] {
            let (peak, held) = taken_by_partitions(partitions, fetch_size);
            let allowed = MIB + 190 * isize::try_from(partitions).unwrap();
            let told = format!("{partitions} partitions of {fetch_size}: {peak} bytes at most, {held} at the end");
            assert!(peak < allowed, "{told}");
        }
    });
}

/// What a producer takes at most, and what is left when all is stored, with this many bytes to hold.
fn taken_by_producer(partitions: u16, record: usize, pending: usize, total: usize) -> (isize, isize) {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", partitions);
    let addr = broker.addr().to_string();
    let writer = move || {
        let _weighed = alloc::weigh_this_thread();
        let client = Client::connect(&addr).unwrap();
        let payload = vec![b'x'; record];
        let before = alloc::held();
        alloc::reset_peak();
        let builder = client.producer().compression(Compression::None).max_pending_bytes(pending);
        let mut producer = builder.build().unwrap();
        for n in 0..total / record {
            producer.send_to("orders", (n % usize::from(partitions)) as u16, Record::new(&payload)).unwrap();
        }
        producer.flush().unwrap();
        (alloc::peak() - before, alloc::held() - before)
    };
    std::thread::spawn(writer).join().unwrap()
}

#[test]
fn a_producer_holds_what_it_was_told_to_and_little_else() {
    within(240, || {
        for (partitions, record, pending) in
            [(1, 100, 4 << 20), (1, 1 << 20, 64 << 20), (500, 1000, 32 << 20), (5_000, 100, 8 << 20)]
        {
            let (peak, held) = taken_by_producer(partitions, record, pending, 40 << 20);
            let told =
                format!("{partitions} partitions, {record} a record, {pending} to hold: {peak}, {held} when idle");
            assert!(peak < isize::try_from(pending).unwrap() + 16 * MIB, "{told}");
            assert!(held < 16 * MIB, "{told}");
        }
    });
}

#[test]
fn an_idle_producer_keeps_nothing_large() {
    within(240, || {
        let (_, kept) = taken_by_producer(1, 64 << 20, 1 << 30, 3 * (64 << 20));
        assert!(kept < 100 << 10, "{kept} bytes after records of 64 MiB");
        let (_, kept) = taken_by_producer(500, 100 << 10, 1 << 30, 3 * 500 * (100 << 10));
        // At most four buffers of 1 MiB for records and four for bundles, whatever the number of partitions.
        assert!(kept < 5 << 20, "{kept} bytes for 500 partitions with nothing pending");
    });
}

#[test]
fn publishing_calls_leave_memory_to_later_ones_but_not_much() {
    within(240, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let addr = broker.addr().to_string();
        let writer = move || {
            let _weighed = alloc::weigh_this_thread();
            let client = Client::connect(&addr).unwrap();
            let publish = |bytes: usize| {
                let payload = vec![b'x'; bytes];
                client.publish("orders", 0, &[Record::new(&payload)]).unwrap();
            };
            publish(100);
            let (held, before) = (alloc::held(), alloc::calls());
            publish(100);
            let calls = alloc::calls() - before;
            assert!(calls <= 20, "{calls} allocations");
            publish(8 << 20);
            assert!(alloc::held() - held < MIB, "{} bytes kept", alloc::held() - held);
        };
        std::thread::spawn(writer).join().unwrap();
    });
}
