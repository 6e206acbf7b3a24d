//! Leaving an iteration early, and what it leaves behind. A process of its own: its open files are counted.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use common::server::{Server, bundle};
use common::watch::{SOON, timed_in, within};
use tank_client::broker::{Broker, BrokerFault};
use tank_client::simulation::Simulation;
use tank_client::{Client, Compression, ConsumeIter, Start, Subscription};

/// Longer than any watchdog's patience.
const HOUR: Duration = Duration::from_secs(3600);

/// The tests count the open files of the process, so one must wait for the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Open files of this process that are sockets.
fn open_sockets() -> usize {
    let files = fs::read_dir("/proc/self/fd").unwrap();
    let target = |file: fs::DirEntry| fs::read_link(file.path()).map_or(String::new(), |to| to.display().to_string());
    files.map(|file| target(file.unwrap())).filter(|target| target.starts_with("socket:")).count()
}

/// The embedded broker's ends are in this process too, and close a little later: before the watchdog gives up.
fn wait_until_closed_down_to(before: usize) {
    while open_sockets() > before {
        thread::yield_now();
    }
}

#[test]
fn leaving_early_again_and_again() {
    within(120, || {
        let _alone = alone();
        let server = Server::start();
        let mut topic = server.topic(3);
        for p in 0..3 {
            topic.publish_numbers(p, 1, 1000, 10);
        }
        let client = server.client();
        let before = open_sockets();
        for round in 0..500 {
            let from = 1 + round % 100;
            let all = Subscription::topic(&*topic.name).start(Start::At(from)).fetch_size(1000);
            let mut next = [from; 3];
            for message in client.subscribe(all).unwrap().take((round % 50) as usize) {
                let message = message.unwrap();
                let next = &mut next[usize::from(message.partition())];
                assert_eq!(message.seq(), *next);
                *next += 1;
            }
        }
        assert_eq!(client.subscribe(topic.all()).unwrap().count(), 3000);
        assert_eq!(client.partitions(&topic.name).unwrap().len(), 3);
        wait_until_closed_down_to(before);
    });
}

#[test]
fn the_broker_is_left_by_all_but_the_client() {
    within(120, || {
        let _alone = alone();
        let broker = Broker::start().unwrap();
        broker.create_topic("huge", 1);
        broker.append_repeated("huge", 0, &[&bundle(&[vec![b'x'; 60_000]], Compression::None)], 10_000);
        let before = open_sockets();
        let client = Client::connect(broker.addr()).unwrap();
        for round in 0..300 {
            let all = Subscription::topic("huge").start(Start::Earliest).fetch_size(64 << 20);
            let mut iter = client.subscribe(all).unwrap();
            for _ in 0..round % 4 {
                iter.next().unwrap().unwrap();
            }
            // With most of an answer to come: reading it up, 300 times 64 MiB, would take longer than the watchdog lets it.
            drop(iter);
        }
        assert!(broker.wait_until(SOON, |stats| stats.open == 0));
        assert_eq!(broker.stats().accepted, 300);
        drop(client);
        assert!(broker.wait_until(SOON, |stats| stats.open == 0));
        wait_until_closed_down_to(before);
    });
}

#[test]
fn subscriptions_outlive_the_client() {
    within(60, || {
        let _alone = alone();
        let server = Server::start();
        let mut topic = server.topic(1);
        topic.publish_numbers(0, 1, 10, 1);
        let iter = server.client().subscribe(topic.all().fetch_size(1)).unwrap();
        assert_eq!(iter.map(Result::unwrap).count(), 10);
    });
}

/// A broker that hangs, before and in the middle of an answer, keeps nobody from leaving: here, with the system's sockets, not
/// for as long as the watchdog waits; in the simulated world not for a moment.
#[test]
fn dropping_an_iterator_does_not_wait() {
    within(60, || {
        let _alone = alone();
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1);
        let client = Client::builder().io_timeout(HOUR).connect_timeout(HOUR).connect(broker.addr()).unwrap();
        leave_in_trouble(&broker, &client, &mut drop);
    });
    let sim = Simulation::new(1);
    let broker = sim.broker();
    broker.create_topic("orders", 1);
    let client = sim.client().io_timeout(HOUR).connect_timeout(HOUR).connect(broker.brokers()).unwrap();
    leave_in_trouble(&broker, &client, &mut |iter| {
        let ((), took) = timed_in(&sim, || drop(iter));
        assert_eq!(took, Duration::ZERO);
        // The end of the connection is on its way.
        sim.sleep(Duration::from_millis(5));
    });
}

fn leave_in_trouble(broker: &Broker, client: &Client, leave: &mut dyn FnMut(ConsumeIter)) {
    broker.append_payloads("orders", 0, &["1", "2", "3"]);
    // The first subscription asks for the broker's state too.
    leave(client.subscribe("orders").unwrap());
    assert!(broker.wait_until(SOON, |stats| stats.open == 0));
    for stall in [40, 50, 100, 110] {
        broker.inject(BrokerFault::StallAfter(stall));
        let mut iter = client.subscribe(Subscription::topic("orders").start(Start::Earliest)).unwrap();
        while iter.next_timeout(Duration::from_millis(50)).unwrap().is_some() {}
        leave(iter);
        broker.clear_faults();
        broker.release();
        // What is still on its way to nobody would count as bytes before the next stall.
        assert!(broker.wait_until(SOON, |stats| stats.open == 0));
    }
    let mut waiting = client.subscribe("orders").unwrap();
    assert!(waiting.next_timeout(Duration::from_millis(1)).unwrap().is_none());
    broker.stop();
    assert!(waiting.next_timeout(Duration::from_millis(50)).unwrap().is_none(), "in back-off");
    leave(waiting);
    broker.restart().unwrap();
    assert_eq!(client.partitions("orders").unwrap()[0].high_water_mark, 3);
}
