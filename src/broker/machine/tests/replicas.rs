//! Clusters at their worst: copies that lag, marks that stay, numbers that are given twice.

use std::time::Duration;

use super::*;
use crate::broker::machine::behaviour::Replication;
use crate::broker::machine::{Appended, FailOver};

/// The worst, with certain times in the place of random ones.
fn plain() -> Behaviour {
    let ms = Duration::from_millis;
    Behaviour {
        replication: Some(Replication {
            delay: (ms(10), ms(10)),
            rebundle: 128,
            partial: 0,
            out_of_sync_after: ms(10_000),
        }),
        fail_over: Some(FailOver { silent: (ms(18_000), ms(18_000)), in_order: (ms(1_000), ms(1_000)) }),
        wrong_wait_numbers: 0,
        early_waits: 0,
        forgotten_waits: 0,
        ..Behaviour::worst(1)
    }
}

/// The marks that DiscoverPartitions tells, if the node leads.
fn mark(machine: &mut Machine, now: Time, node: usize) -> u64 {
    let conn = open(machine, now, node);
    let answer = ask(machine, now, conn, b"\x06\x0b\0\0\0\x01\0\0\0\x06orders");
    machine.ended(now, conn, crate::broker::machine::End::Reset);
    u64::from_le_bytes(answer[answer.len() - 8..].try_into().unwrap())
}

/// The end of the leader's own log, as a boundary fault tells it.
fn end(machine: &mut Machine, now: Time, node: usize) -> u64 {
    let conn = open(machine, now, node);
    let answer = ask(machine, now, conn, &fetch(0, u64::MAX - 1, 1));
    machine.ended(now, conn, crate::broker::machine::End::Reset);
    assert_eq!(answer[24], 1, "{answer:02x?}");
    u64::from_le_bytes(answer[33..41].try_into().unwrap())
}

#[test]
fn replicas_lag_rebundle_and_confirm_with_their_next_fetch() {
    let mut machine = cluster(3, 3, plain());
    let conn = open(&mut machine, ms(0), 0);
    assert!(ask(&mut machine, ms(0), conn, &publish(0, 0, &dense(300))).is_empty(), "nobody has it yet");
    assert_eq!([0, 1, 2].map(|node| numbers(&machine, node).len()), [300, 0, 0]);
    assert_eq!((mark(&mut machine, ms(5), 0), end(&mut machine, ms(5), 0)), (0, 300));
    pass(&mut machine, ms(10));
    assert_eq!([1, 2].map(|node| numbers(&machine, node).len()), [300, 300]);
    assert!(sent(&mut machine, ms(10), conn).is_empty(), "not confirmed before the next fetch");
    pass(&mut machine, ms(20));
    assert_eq!(code(&sent(&mut machine, ms(20), conn)), 0);
    assert_eq!([0, 1, 2].map(|node| machine.committed(node, "orders", 0)), [Some(300), Some(0), Some(0)]);
    // The payloads are the same, in sparse bundles of at most 128.
    assert_eq!(machine.log_messages(0, "orders", 0), machine.log_messages(1, "orders", 0));
    machine.set_leader(ms(30), "orders", 0, Some(1));
    let conn = open(&mut machine, ms(30), 1);
    let answer = ask(&mut machine, ms(30), conn, &fetch(0, 129, 1));
    let bundle = 24 + 1 + 8 + 4;
    assert_eq!((answer[24], answer[bundle + 2] & 0x7c), (0xfe, 0x40), "{:02x?}", &answer[..50]);
    assert_eq!(answer[bundle + 3..bundle + 4], [128]);
    assert_eq!(
        (mark(&mut machine, ms(30), 1), end(&mut machine, ms(30), 1)),
        (0, 300),
        "a replica never moves its mark"
    );
}

#[test]
fn acknowledgements_time_out_although_the_leader_has_it() {
    let mut machine = cluster(2, 2, plain());
    machine.kill(ms(0), 1);
    let conn = open(&mut machine, ms(1), 0);
    assert!(ask(&mut machine, ms(1), conn, &publish(1, 0, &sparse([1, 2]))).is_empty());
    assert_eq!(pass(&mut machine, ms(1500)), ms(1001));
    assert_eq!(code(&sent(&mut machine, ms(1500), conn)), 3);
    // Numbers are checked against the mark, which has not moved: stored twice.
    machine.handle(ms(1500), conn, &publish(1, 0, &sparse([1, 2])));
    pass(&mut machine, ms(2600));
    assert_eq!(code(&sent(&mut machine, ms(2600), conn)), 3);
    assert_eq!(numbers(&machine, 0), [1, 2, 1, 2]);
    // When the replica is out of the way nothing is waited for, but the mark still does not move.
    pass(&mut machine, ms(30_000));
    assert_eq!(machine.in_sync("orders", 0), Some(vec![0]));
    assert_eq!(code(&ask(&mut machine, ms(30_000), conn, &publish(101, 0, &sparse([101])))), 0);
    assert_eq!((mark(&mut machine, ms(30_000), 0), end(&mut machine, ms(30_000), 0)), (0, 101));
    assert_eq!(code(&ask(&mut machine, ms(30_000), conn, &publish(1, 0, &sparse([1, 2, 3])))), 0);
    assert_eq!(end(&mut machine, ms(30_000), 0), 3, "numbers that run backwards are a log's end too");
    let journal: Vec<_> = std::iter::from_fn(|| machine.appended()).collect();
    let numbers = |a: &Appended| a.messages().iter().map(|(seq, _)| *seq).collect::<Vec<_>>();
    assert_eq!(journal.iter().map(numbers).collect::<Vec<_>>(), [vec![1, 2], vec![1, 2], vec![101], vec![1, 2, 3]]);
    assert!(journal.iter().all(|a| a.node == 0 && &*a.topic == "orders" && a.partition == 0 && a.bundle.len() > 20));
    assert_eq!(journal.iter().map(|a| a.at).collect::<Vec<_>>(), [1, 1500, 30_000, 30_000].map(ms));
}

#[test]
fn a_leader_dies_with_messages_whose_numbers_its_successor_gives_again() {
    let mut machine = cluster(3, 3, plain());
    let conn = open(&mut machine, ms(0), 0);
    machine.handle(ms(0), conn, &publish(0, 0, &dense(2)));
    pass(&mut machine, ms(100));
    machine.handle(ms(100), conn, &publish(0, 0, &dense(5)));
    machine.kill(ms(105), 0);
    let other = open(&mut machine, ms(200), 1);
    assert_eq!(ask(&mut machine, ms(200), other, &fetch(0, 1, 100))[24], 0xfc, "redirects lead to the dead");
    pass(&mut machine, ms(18_104));
    assert_eq!(machine.leader("orders", 0), Some(Some(0)));
    pass(&mut machine, ms(18_105));
    assert_eq!((machine.leader("orders", 0), machine.in_sync("orders", 0)), (Some(Some(1)), Some(vec![1, 2])));
    assert_eq!([0, 1, 2].map(|node| numbers(&machine, node).len()), [7, 2, 2]);
    machine.handle(ms(18_200), other, &publish(0, 0, &dense(1)));
    pass(&mut machine, ms(18_300));
    let answer = sent(&mut machine, ms(18_300), other);
    assert_eq!(code(&answer), 0);
    assert_eq!((numbers(&machine, 2), machine.committed(1, "orders", 0)), (vec![1, 2, 3], Some(3)));
    // The old leader comes back with all it had, opens its log again, and nobody truncates it.
    machine.start(ms(20_000), 0);
    pass(&mut machine, ms(21_000));
    assert_eq!((numbers(&machine, 0).len(), machine.committed(0, "orders", 0)), (7, Some(7)));
    assert_eq!(machine.in_sync("orders", 0), Some(vec![1, 2, 0]));
    let payload = |machine: &Machine, node: usize| machine.log_messages(node, "orders", 0)[2].clone();
    assert_eq!((payload(&machine, 0), payload(&machine, 1)), ((3, b"0".to_vec()), (3, b"0".to_vec())));
}

#[test]
fn an_orderly_stop_is_noticed_soon_and_takes_the_address_along() {
    let mut machine = cluster(2, 2, plain());
    machine.stop_in_order(ms(0), 0);
    let conn = open(&mut machine, ms(500), 1);
    assert_eq!(ask(&mut machine, ms(500), conn, &fetch(0, 0, 1))[24..31], [0xfc, 0, 0, 0, 0, 0, 0]);
    pass(&mut machine, ms(1000));
    assert_eq!(machine.leader("orders", 0), Some(Some(1)));
}

#[test]
fn the_last_in_sync_leads_again_when_it_comes_back() {
    let mut machine = cluster(2, 1, plain());
    machine.kill(ms(0), 0);
    pass(&mut machine, ms(30_000));
    assert_eq!((machine.leader("orders", 0), machine.in_sync("orders", 0)), (Some(None), Some(vec![0])));
    machine.start(ms(30_000), 0);
    assert_eq!(machine.leader("orders", 0), Some(Some(0)));
}

#[test]
fn a_replica_that_is_cut_off_falls_out_of_sync_and_comes_back() {
    let mut machine = cluster(3, 3, plain());
    machine.isolate(ms(0), 2, true);
    let conn = open(&mut machine, ms(0), 0);
    machine.handle(ms(0), conn, &publish(0, 0, &dense(3)));
    pass(&mut machine, ms(9_999));
    // One confirmation is enough once the time is over.
    assert_eq!(code(&sent(&mut machine, ms(9_999), conn)), 0);
    assert_eq!((machine.in_sync("orders", 0), machine.committed(0, "orders", 0)), (Some(vec![0, 1, 2]), Some(0)));
    pass(&mut machine, ms(10_000));
    assert_eq!((machine.in_sync("orders", 0), machine.committed(0, "orders", 0)), (Some(vec![0, 1]), Some(3)));
    machine.isolate(ms(11_000), 2, false);
    pass(&mut machine, ms(11_100));
    assert_eq!((machine.in_sync("orders", 0), numbers(&machine, 2)), (Some(vec![0, 1, 2]), vec![1, 2, 3]));
    pass(&mut machine, ms(60_000));
    assert_eq!(machine.due(), Time::NEVER, "a cluster at rest does nothing");
}

#[test]
fn a_fetch_may_take_a_part_that_ends_inside_a_bundle() {
    let mut behaviour = plain();
    behaviour.replication.as_mut().unwrap().partial = 1000;
    let mut machine = cluster(2, 2, behaviour);
    let conn = open(&mut machine, ms(0), 0);
    machine.handle(ms(0), conn, &publish(0, 0, &dense(100)));
    pass(&mut machine, ms(10));
    let part = numbers(&machine, 1);
    assert!((1..=20).contains(&part.len()), "{part:?}");
    pass(&mut machine, ms(1100));
    assert_eq!(numbers(&machine, 1), (1..=100).collect::<Vec<_>>());
    assert_eq!(code(&sent(&mut machine, ms(1100), conn)), 0);
}

#[test]
fn a_deposed_leader_that_hung_goes_on_for_a_while() {
    let second = Duration::from_secs(1);
    let mut machine = cluster(3, 3, Behaviour { deposed_leads_on: Some((second, second)), ..plain() });
    let conn = open(&mut machine, ms(0), 0);
    machine.pause(ms(0), 0);
    pass(&mut machine, ms(20_000));
    assert_eq!(machine.leader("orders", 0), Some(Some(1)));
    machine.resume(ms(20_000), 0);
    machine.handle(ms(20_500), conn, &publish(0, 0, &dense(1)));
    assert_eq!(numbers(&machine, 0), [1]);
    pass(&mut machine, ms(22_000));
    assert_eq!(code(&sent(&mut machine, ms(22_000), conn)), 3);
    assert_eq!(ask(&mut machine, ms(22_000), conn, &publish(0, 0, &dense(1)))[9], 0xfc);
    assert!(numbers(&machine, 1).is_empty());
}

#[test]
fn a_wait_that_data_ends_may_be_numbered_wrongly_or_end_early() {
    let mut machine = cluster(1, 1, Behaviour { wrong_wait_numbers: 1000, early_waits: 1000, ..plain() });
    let conn = open(&mut machine, ms(0), 0);
    assert_eq!(code(&ask(&mut machine, ms(0), conn, &publish(0, 0, &dense(14)))), 0);
    machine.handle(ms(0), conn, &fetch(60_000, 15, 1000));
    let answer = ask(&mut machine, ms(0), conn, &publish(0, 0, &dense(3)));
    assert_eq!((answer[24], answer[25]), (0, 14), "15 to 17 are labelled 14 to 16");
    machine.handle(ms(0), conn, &fetch(60_000, 18, 1000));
    pass(&mut machine, ms(59_000));
    assert_eq!(sent(&mut machine, ms(59_000), conn).len(), 45);
}

/// Random trouble, and everything that leaves the nodes in it.
fn storm(seed: u64) -> (Vec<u8>, Vec<Vec<(u64, Vec<u8>)>>) {
    let mut machine = cluster(3, 3, Behaviour::worst(seed));
    let mut chance = super::super::behaviour::Chance::new(seed ^ 99);
    let mut conns: Vec<Conn> = Vec::new();
    let mut trace = Vec::new();
    let mut now = Time::ZERO;
    for _ in 0..2000 {
        now = now.after(Duration::from_micros(chance.below(60_000)));
        pass(&mut machine, now);
        let node = chance.below(3) as usize;
        match chance.below(40) {
            0 => machine.kill(now, node),
            1 | 2 => machine.start(now, node),
            3 => machine.pause(now, node),
            4 | 5 => machine.resume(now, node),
            6 => machine.isolate(now, node, true),
            7 => machine.isolate(now, node, false),
            8 => machine.disconnect_all(now, node),
            9..15 => conns.extend(machine.accept(now, node, HERE)),
            n if !conns.is_empty() => {
                let conn = conns[chance.below(conns.len() as u64) as usize];
                let request = match n % 3 {
                    0 => publish(0, 0, &dense(1 + chance.below(200) as usize)),
                    1 => fetch(chance.below(2000), chance.below(100), chance.below(10_000) as u32),
                    _ => b"\x06\x0b\0\0\0\x01\0\0\0\x06orders".to_vec(),
                };
                machine.handle(now, conn, &request);
            }
            _ => {}
        }
        while let Some(conn) = machine.ready() {
            let (bytes, end) = output(&mut machine, now, conn, 1 + chance.below(5000) as usize);
            trace.extend_from_slice(&bytes);
            if end != Pull::Nothing {
                trace.push(u8::from(end == Pull::Close));
                conns.retain(|other| *other != conn);
            }
        }
    }
    assert_eq!(machine.killed_by(), None);
    // Trouble is over: all copies come to have all of the leader's log, or keep what they had of an older one.
    (0..3).for_each(|node| machine.isolate(now, node, false));
    (0..3).for_each(|node| machine.resume(now, node));
    (0..3).for_each(|node| machine.start(now, node));
    let quiet = now.after(Duration::from_secs(60));
    pass(&mut machine, quiet);
    assert!(machine.leader("orders", 0).unwrap().is_some());
    let mut in_sync = machine.in_sync("orders", 0).unwrap();
    in_sync.sort_unstable();
    assert_eq!(in_sync, [0, 1, 2]);
    (trace, (0..3).map(|node| machine.log_messages(node, "orders", 0)).collect())
}

#[test]
fn the_same_seed_is_the_same_run_to_the_byte() {
    let mut differ = 0;
    for seed in 0..4 {
        let (one, other) = (storm(seed), storm(seed));
        assert!(one == other, "{seed}");
        assert!(one.0.len() > 10_000, "{} bytes are no test", one.0.len());
        differ += usize::from(one != storm(seed + 100));
    }
    assert_eq!(differ, 4);
}

#[test]
fn copies_are_complete_at_once_without_the_switches() {
    let mut machine = cluster(3, 3, Behaviour::at_once());
    machine.kill(ms(0), 2);
    let conn = open(&mut machine, ms(0), 0);
    machine.handle(ms(0), conn, &publish(0, 0, &dense(3)));
    assert_eq!([0, 1, 2].map(|node| numbers(&machine, node)), [1, 2, 3].map(|_| vec![1, 2, 3]));
    assert_eq!(machine.log_end(2, "orders", 0), Some(3));
    assert_eq!((machine.topics().len(), machine.replicas("orders", 0)), (1, Some(vec![0, 1, 2])));
    pass(&mut machine, ms(1000));
    assert_eq!(code(&sent(&mut machine, ms(1000), conn)), 0);
    machine.fail_over(ms(2000), 2);
    assert_eq!(machine.committed(2, "orders", 0), Some(3));
    let waits = open(&mut machine, ms(2000), 0);
    machine.handle(ms(2000), waits, &fetch(60_000, 4, 100));
    machine.set_leader(ms(2001), "orders", 0, Some(1));
    let answer = sent(&mut machine, ms(2001), waits);
    assert_eq!((answer.len(), answer[24], answer[25]), (45, 0, 4), "empty, with the number that was waited for");
}

#[test]
fn what_a_test_appends_is_at_all_copies_at_once_however_far_behind() {
    let mut machine = cluster(3, 3, plain());
    let conn = open(&mut machine, ms(0), 0);
    machine.handle(ms(0), conn, &publish(0, 0, &dense(3)));
    assert_eq!(machine.append(ms(1), "orders", 0, 0, &dense(2)), Some(Ok(4)));
    assert_eq!([0, 1, 2].map(|node| numbers(&machine, node)), [1, 2, 3].map(|_| vec![1, 2, 3, 4, 5]));
    assert_eq!([0, 1, 2].map(|node| machine.committed(node, "orders", 0)), [Some(5), Some(0), Some(0)]);
    assert_eq!(code(&sent(&mut machine, ms(1), conn)), 0);
}

#[test]
fn a_new_topic_is_unknown_at_first_and_then_without_a_leader() {
    let options = Options { behaviour: plain(), ..Options::default() };
    let cluster = ClusterOptions { name: "test".into(), factor: 1, election: Duration::from_millis(400) };
    let mut machine = Machine::new(Time::ZERO, 0, options, &addrs(1), Some(cluster));
    machine.start(Time::ZERO, 0);
    let conn = open(&mut machine, ms(0), 0);
    let create = b"\x07\x0e\0\0\0\x01\0\0\0\x06orders\x02\0\0";
    assert_eq!(ask(&mut machine, ms(0), conn, create).last(), Some(&0));
    assert_eq!(ask(&mut machine, ms(0), conn, create).last(), Some(&1), "it exists");
    assert_eq!(ask(&mut machine, ms(0), conn, &fetch(0, 1, 1))[22..24], [0xff, 0xff], "unknown");
    pass(&mut machine, ms(20));
    assert_eq!(ask(&mut machine, ms(20), conn, &fetch(0, 1, 1))[24], 0xfd);
    pass(&mut machine, ms(420));
    assert_eq!(ask(&mut machine, ms(420), conn, &fetch(0, 1, 1))[24], 0);
}
