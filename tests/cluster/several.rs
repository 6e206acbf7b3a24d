//! One subscription over several leaders.

use std::fs;
use std::time::Duration;

use tank_client::broker::{Broker, BrokerFault, Cluster};
use tank_client::{ErrorKind, Start, Subscription};

use crate::support::{TRIP, addrs, all, append, idle_until, orders, quick, quickly, simulated, take};
use common::watch::{SOON, timed_in, within};

/// Messages arrive at one of five leaders while the others wait.
#[test]
fn a_message_is_handed_out_at_once_while_other_leaders_are_quiet() {
    let (sim, cluster, client) = simulated(5, 5, 1);
    let mut iter = client.subscribe(all().max_wait(Duration::from_secs(60)).limit(100)).unwrap();
    let (world, appending, mut n) = (sim.clone(), cluster.clone(), 0);
    sim.every(Duration::from_millis(250), move || {
        let now = world.now().as_nanos().to_string();
        appending.node(0).append_payloads("orders", n % 5, &[now]);
        n += 1;
    });
    let mut count = 0;
    for message in &mut iter {
        let message = message.unwrap();
        let sent: u64 = std::str::from_utf8(message.payload()).unwrap().parse().unwrap();
        let delay = sim.now() - Duration::from_nanos(sent);
        assert!(delay <= TRIP, "{delay:?}");
        count += 1;
    }
    assert_eq!(count, 100);
    assert_eq!(cluster.killed_by(), None);
}

/// The processor time this thread has used.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

#[test]
#[cfg(target_os = "linux")]
fn an_idle_subscription_uses_no_processor_time() {
    within(60, || {
        let (cluster, client) = orders(5, 20);
        (0..20).for_each(|p| append(&cluster, p, 1, 1));
        let mut iter = client.subscribe(all().max_wait(Duration::from_secs(60))).unwrap();
        take(&mut iter, 20);
        idle_until(&mut iter, |_| cluster.nodes().iter().all(|node| node.stats().waiting > 0));
        let (before, fetches) = (processor_time(), iter.stats().fetches);
        assert!(iter.next_timeout(Duration::from_millis(500)).unwrap().is_none());
        let used = processor_time() - before;
        println!("{used:?} in half an idle second");
        assert!(used < Duration::from_millis(10), "{used:?}");
        assert!(iter.stats().fetches <= fetches + 5, "{:?}", iter.stats());
        assert_eq!(cluster.killed_by(), None);
    });
}

/// Brings node 1, which leads partitions 1 and 4, into this trouble.
fn strike(cluster: &Cluster, how: &str) {
    match how {
        "killed" => cluster.node(1).stop(),
        "stopped in order" => cluster.stop_in_order(1),
        "hung" => cluster.node(1).pause(),
        "hung when connecting" => {
            cluster.node(1).pause();
            cluster.node(1).disconnect_all();
        }
        "mute" => cluster.node(1).inject(BrokerFault::StallAfter(0)),
        "nobody" => [1, 4].iter().for_each(|&p| cluster.set_leader("orders", p, None)),
        other => panic!("{other}"),
    }
}

/// One of the leaders is gone, hangs, or refuses; the others' messages come as if it were not so.
#[test]
fn a_leader_in_trouble_stalls_its_own_partitions_only() {
    for how in ["killed", "stopped in order", "hung", "hung when connecting", "mute"] {
        let (sim, cluster, _) = simulated(3, 6, 1);
        let client = quickly(sim.client())
            .connect_timeout(Duration::from_millis(500))
            .retry_timeout(SOON * 2)
            .connect(cluster.brokers());
        let client = client.unwrap();
        let mut iter = client.subscribe(all()).unwrap();
        (0..6).for_each(|p| append(&cluster, p, 1, 1));
        take(&mut iter, 6);
        strike(&cluster, how);
        let (_, took) = timed_in(&sim, || {
            for n in 2..=30 {
                [0, 2, 3, 5].iter().for_each(|&p| append(&cluster, p, n, n));
                let got = take(&mut iter, 4);
                assert!(got.len() == 4 && got.values().all(|numbers| *numbers == [n]), "{how}: {got:?}");
            }
        });
        assert!(took <= 29 * 4 * TRIP, "{how}: {took:?}");
        assert!(iter.position_of("orders", 1) == Some(2) && iter.position_of("orders", 4) == Some(2));
        assert_eq!(cluster.killed_by(), None);
    }
}

/// One of the leaders is gone before there is a subscription: the others' messages come, from their ends on.
#[test]
fn a_subscription_does_not_wait_for_a_leader_that_is_gone() {
    for how in ["killed", "stopped in order", "hung", "hung when connecting", "nobody"] {
        let (sim, cluster, _) = simulated(3, 6, 3);
        (0..6).for_each(|p| append(&cluster, p, 1, 3));
        let soon = Duration::from_millis(300);
        // The first to be asked is the one that will be gone.
        let list = [1, 0, 2].map(|node| cluster.node(node).addr());
        let client = quickly(sim.client()).connect_timeout(3 * soon).connect(list).unwrap();
        client.topics().unwrap();
        strike(&cluster, how);
        // The time that trouble is waited out is a minute.
        let latest = Subscription::topic("orders").max_wait(soon);
        let (iter, took) = timed_in(&sim, || client.subscribe(latest.clone()));
        let mut iter = iter.unwrap();
        assert!(took <= 2 * 3 * soon + TRIP, "{how}: {took:?}");
        assert_eq!(iter.position_of("orders", 0), Some(4));
        assert_eq!((iter.position_of("orders", 1), iter.high_water_mark("orders", 1), iter.lag()), (None, None, 0));
        let positions = iter.positions();
        assert_eq!(positions.iter().map(|p| (p.partition, p.seq)).collect::<Vec<_>>(), [0, 2, 3, 5].map(|p| (p, 4)));
        for n in 4..=10 {
            [0, 2, 3, 5].iter().for_each(|&p| append(&cluster, p, n, n));
            let got = take(&mut iter, 4);
            assert!(got.len() == 4 && got.values().all(|numbers| *numbers == [n]), "{how}: {got:?}");
        }
        assert_eq!(iter.position_of("orders", 4), None);

        // They begin behind what there is when they have a leader.
        [1, 4].iter().for_each(|&p| cluster.set_leader("orders", p, Some(2)));
        idle_until(&mut iter, |iter| [1, 4].iter().all(|&p| iter.position_of("orders", p) == Some(4)));
        assert_eq!((iter.gaps(), iter.lag(), iter.positions().iter().count()), (&[][..], 0, 6));
        [1, 4].iter().for_each(|&p| append(&cluster, p, 4, 5));
        assert_eq!(take(&mut iter, 4), [(1, vec![4, 5]), (4, vec![4, 5])].into());

        // One without messages; and only as far as the end.
        cluster.create_topic("empty", 1);
        cluster.set_leader("empty", 0, None);
        let mut iter = client.subscribe(Subscription::topic("empty").max_wait(soon)).unwrap();
        let mut ended = client.subscribe(Subscription::topic("empty").max_wait(soon).stop_at_end()).unwrap();
        cluster.set_leader("empty", 0, Some(0));
        idle_until(&mut iter, |iter| iter.position_of("empty", 0) == Some(1));
        assert!(ended.next().is_none() && iter.high_water_mark("empty", 0) == Some(0));
        cluster.node(0).append_payloads("empty", 0, &["1"]);
        assert_eq!(take(&mut iter, 1), [(0, vec![1])].into());
        assert_eq!(cluster.killed_by(), None);
    }
}

/// A start that has to be searched for takes a leader, but not longer than trouble is waited out.
#[test]
fn a_time_is_searched_once_there_is_a_leader() {
    let (sim, cluster, _) = simulated(2, 1, 2);
    append(&cluster, 0, 1, 3);
    cluster.set_leader("orders", 0, None);
    let patience = Duration::from_millis(200);
    let client = quickly(sim.client()).retry_timeout(patience).connect(cluster.brokers()).unwrap();
    let since = || Subscription::topic("orders").start(Start::Time(std::time::UNIX_EPOCH));
    let (e, took) = timed_in(&sim, || client.subscribe(since()).unwrap_err());
    let no_leader = tank_client::Fault::NoLeader;
    assert!(e.fault() == Some(no_leader) && e.partition() == Some(0), "{e:?}");
    assert!(took + Duration::from_millis(20) >= patience && took <= patience + TRIP, "{took:?}");
    let client = quickly(sim.client()).connect(cluster.brokers()).unwrap();
    let electing = cluster.clone();
    let before = cluster.node(0).stats().all_requests() + cluster.node(1).stats().all_requests();
    sim.after(Duration::from_secs(3), move || electing.set_leader("orders", 0, Some(1)));
    assert_eq!(take(&mut client.subscribe(since()).unwrap(), 3), [(0, vec![1, 2, 3])].into());
    assert!(cluster.nodes().iter().map(|node| node.stats().all_requests()).sum::<u64>() >= before + 5);
    assert_eq!(cluster.killed_by(), None);
}

/// A hung leader is noticed by its silence, once a fetch should long have been answered.
#[test]
fn a_hung_leader_is_left_when_its_time_is_over() {
    let (sim, cluster, _) = simulated(3, 3, 3);
    let builder =
        quickly(sim.client()).io_timeout(Duration::from_millis(400)).connect_timeout(Duration::from_millis(400));
    let client = builder.connect(cluster.brokers()).unwrap();
    let mut iter = client.subscribe(all().max_wait(Duration::from_millis(300))).unwrap();
    (0..3).for_each(|p| append(&cluster, p, 1, 1));
    take(&mut iter, 3);
    cluster.node(1).pause();
    cluster.fail_over(1);
    (0..3).for_each(|p| append(&cluster, p, 2, 2));
    assert_eq!(take(&mut iter, 3).len(), 3);
    assert!(iter.stats().reconnects >= 1);
    assert_eq!(cluster.killed_by(), None);
}

/// Real nodes die of a wait for several partitions that ends with data, and number that data wrongly at times.
#[test]
fn each_partition_is_waited_for_alone() {
    within(60, || {
        let (cluster, client) = orders(2, 8);
        let mut iter = client.subscribe(all()).unwrap();
        for n in 1..=20 {
            (0..8).for_each(|p| append(&cluster, p, n, n));
            assert_eq!(take(&mut iter, 8).len(), 8);
            if n % 5 == 0 {
                idle_until(&mut iter, |_| cluster.nodes().iter().all(|node| node.stats().waiting == 4));
            }
        }
        assert_eq!(take(&mut client.subscribe(all()).unwrap(), 160).len(), 8);
        let requests = cluster.nodes().iter().flat_map(Broker::requests);
        let fetches: Vec<_> = requests.filter_map(|request| common::fetch(&request).ok()).collect();
        let waits = fetches.iter().filter(|fetch| fetch.max_wait_ms > 0);
        assert!(waits.clone().count() >= 32 && waits.clone().all(|fetch| fetch.slots().count() == 1));
        assert!(fetches.iter().any(|fetch| fetch.slots().count() > 1), "what is there is asked for together");
        assert_eq!(cluster.killed_by(), None);
    });
}

/// The answers of two leaders are read side by side: what is wrong in one is said at its own end.
#[test]
fn a_fault_in_one_answer_waits_for_the_rest_of_that_answer() {
    within(60, || {
        let (cluster, client) = orders(2, 3);
        cluster.node(0).set_broken("orders", 0, true);
        append(&cluster, 1, 1, 20);
        append(&cluster, 2, 1, 400);
        cluster.node(0).inject(BrokerFault::StallAfter(2000));
        let mut iter = client.subscribe(all()).unwrap();
        assert!(cluster.node(0).wait_until(SOON, |stats| stats.stalled > 0));
        let mut counts = [0; 3];
        while counts[1] < 20 {
            counts[usize::from(iter.next().unwrap().unwrap().partition())] += 1;
        }
        cluster.node(0).release();
        let e = loop {
            match iter.next().unwrap() {
                Ok(message) => counts[usize::from(message.partition())] += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(counts, [0, 20, 400]);
        let system = tank_client::Fault::System;
        assert!(e.fault() == Some(system) && e.partition() == Some(0), "{e:?}");
        assert_eq!(cluster.killed_by(), None);
    });
}

/// What wakes the iterator of one broker wakes that of several, in trouble or not.
#[test]
fn closing_and_time_outs_hold_with_several_leaders() {
    for trouble in [false, true] {
        let (sim, cluster, client) = simulated(5, 5, 1);
        let mut iter = client.subscribe(all().max_wait(Duration::from_secs(600))).unwrap();
        (0..5).for_each(|p| append(&cluster, p, 1, 2));
        take(&mut iter, 10);
        if trouble {
            cluster.node(1).stop();
            cluster.node(2).pause();
            cluster.set_leader("orders", 3, None);
        }
        let short = Duration::from_millis(100);
        let (quiet, took) = timed_in(&sim, || iter.next_timeout(short).unwrap());
        assert!(quiet.is_none() && !iter.is_finished());
        assert_eq!(took, short);
        let handle = iter.close_handle();
        sim.after(50 * short, move || handle.close());
        let (next, took) = timed_in(&sim, || iter.next());
        assert!(next.is_none() && iter.is_finished());
        assert_eq!(took, 50 * short);
        drop(iter);
        assert!(cluster.node(0).wait_until(SOON, |stats| stats.waiting == 0));
        assert_eq!(cluster.killed_by(), None);
    }
}

/// So does the system's poll, woken from another thread: nothing else would end the wait before the watchdog.
#[test]
fn closing_wakes_whoever_waits_for_several_leaders() {
    within(60, || {
        let (cluster, client) = orders(5, 5);
        let mut iter = client.subscribe(all().max_wait(Duration::from_secs(600))).unwrap();
        let handle = iter.close_handle();
        let reader = std::thread::spawn(move || (iter.next().is_none(), iter.is_finished()));
        assert!(cluster.nodes().iter().all(|node| node.wait_until(SOON, |stats| stats.waiting > 0)));
        handle.close();
        assert_eq!(reader.join().unwrap(), (true, true));
        assert!(cluster.node(0).wait_until(SOON, |stats| stats.waiting == 0));
    });
}

#[test]
fn the_end_of_every_partition_at_its_leader() {
    within(60, || {
        let (cluster, client) = orders(3, 7);
        for p in 0..6 {
            append(&cluster, p, 1, u64::from(p) * 10);
        }
        let mut iter = client.subscribe(all().stop_at_end()).unwrap();
        let first = iter.next().unwrap().unwrap();
        // Too late, for those that were heard of; a partition may be asked for after this.
        let got: usize = 1 + iter.by_ref().map(Result::unwrap).count();
        assert_eq!((got, first.seq()), (150, 1));
        assert!(iter.is_finished());

        // The end is what the leader has, not what its replicas confirmed.
        cluster.node(1).pause();
        cluster.node(2).pause();
        let behind = quick().acks(tank_client::Acks::All).ack_timeout(Duration::from_millis(50));
        let behind = behind.connect(cluster.node(0).addr()).unwrap();
        let e = behind.publish("orders", 0, &[tank_client::Record::new(b"1")]).unwrap_err();
        assert!(e.kind == ErrorKind::OutcomeUnknown, "{e:?}");
        let subscription = Subscription::partition("orders", 0).start(Start::Earliest).stop_at_end();
        let got: Vec<_> = behind.subscribe(subscription).unwrap().map(|message| message.unwrap().seq()).collect();
        assert_eq!(got, [1]);
        assert_eq!(cluster.killed_by(), None);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_replica_on_this_host_is_preferred_if_asked_for() {
    use tank_client::broker::RequestKind as Kind;
    within(60, || {
        let cluster = Broker::cluster_builder(3).own_addresses().start().unwrap();
        cluster.create_topic("orders", 6);
        (0..6).for_each(|p| append(&cluster, p, 1, 10));
        let client = quick().connect(addrs(&cluster)).unwrap();
        assert_eq!(take(&mut client.subscribe(all().prefer_local().stop_at_end()).unwrap(), 60).len(), 6);
        let elsewhere = |node: usize| cluster.node(node).stats().requests(Kind::Consume);
        assert!(elsewhere(1) <= 1 && elsewhere(2) <= 1, "leaders only point here");
        // A replica is no leader: what is published goes where it belongs.
        let client = quick().connect(cluster.node(2).addr()).unwrap();
        let mut iter = client.subscribe(all().prefer_local()).unwrap();
        take(&mut iter, 60);
        assert!(iter.stats().redirects > 0, "{:?}", iter.stats());
        assert!(elsewhere(1) <= 2 && elsewhere(0) >= 2);
        let before = cluster.node(0).stats().requests(Kind::Produce);
        client.publish("orders", 2, &[tank_client::Record::new(b"11")]).unwrap();
        assert_eq!(cluster.node(0).stats().requests(Kind::Produce), before);
        assert_eq!(cluster.killed_by(), None);
    });
}
