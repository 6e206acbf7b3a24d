use std::time::Duration;

use super::super::partition::tests::marks;
use super::super::subscription::Subscription;
use super::*;
use crate::message::Names;
use crate::net::{RetryPolicy, parse_brokers};

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn rules(count: u16, in_cluster: bool) -> Rules {
    let pauses = (Duration::from_millis(100), Duration::from_secs(1));
    let retry = RetryPolicy { timeout: Duration::from_secs(60), pauses, seed: 7 };
    Rules {
        names: Names::of_topic("t", count),
        options: Subscription::topic("t").options,
        in_cluster,
        bundle_limit: 1 << 28,
        retry,
    }
}

/// A topic of this many partitions, each with numbers 1 to `mark`, of which the first was read.
fn topic(count: u16, mark: u64, in_cluster: bool) -> Partitions {
    let rules = rules(count, in_cluster);
    let partition = |index| Partition::new(index, 2.min(mark), marks(1, mark), &rules.options);
    let list = (0..count.into()).map(partition).collect();
    Partitions::new(list, &[("t".into(), count)], rules)
}

fn broker() -> BrokerAddr {
    parse_brokers("b:1").unwrap().remove(0)
}

fn due(all: &mut Partitions) -> VecDeque<u32> {
    std::iter::from_fn(|| all.next_due()).collect()
}

/// These partitions, as a fetcher wants them.
fn wanted(all: &Partitions, indices: impl IntoIterator<Item = u32>) -> Wanted {
    let mut wanted = Wanted::default();
    indices.into_iter().for_each(|index| wanted.push(index, all.get(index).risk()));
    wanted
}

/// All that are due.
fn wanted_now(all: &mut Partitions) -> Wanted {
    let due = due(all);
    wanted(all, due)
}

/// The partitions of the next request.
fn next(all: &mut Partitions, list: &mut Wanted) -> Vec<u32> {
    all.next_request(list, Load::default()).unwrap().into_iter().map(|(index, _)| index).collect()
}

const EMPTY: PartitionAnswer = PartitionAnswer::Data { base: Some(1), high_water_mark: 0, len: 0 };

#[test]
fn each_partition_is_asked_for_once_with_as_few_requests_as_there_can_be() {
    let mut all = topic(600, 0, false);
    assert!(all.has_due());
    let mut list = wanted_now(&mut all);
    assert!(list.harmless.len() == 600 && !all.has_due());
    // What is in the list twice is still asked for once.
    list.push(3, Risk::Harmless);
    let mut seen = Vec::new();
    while !list.is_empty() {
        let request = all.next_request(&mut list, Load::default()).unwrap();
        assert!(request.len() <= MAX_PARTITIONS && request.iter().all(|(_, want)| want.waits));
        seen.push(request.into_iter().map(|(index, _)| index).collect::<Vec<_>>());
    }
    assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [250, 250, 100]);
    assert!(seen.concat().into_iter().eq(0..600) && due(&mut all).is_empty());
    // An answer frees what it names.
    assert!(matches!(all.on_answer(at(0), 7, EMPTY), Next::Go));
    assert!(!all.on_end(at(0), 7, false, Some(&broker())));
    assert_eq!(due(&mut all), [7]);
}

#[test]
fn what_only_waits_is_asked_for_with_what_is_there_if_its_broker_may_do_both_at_once() {
    let mut all = topic(3, 9, false);
    all.with(1, |partition, _| partition.advance(10));
    let mut list = wanted_now(&mut all);
    assert_eq!((list.harmless.len(), list.risky.len()), (1, 2));
    assert_eq!(next(&mut all, &mut list), [1, 0, 2]);
    // What is in flight already keeps nobody from a turn.
    let (e, how) = (Error::disconnected(&"b:1", crate::Phase::Wait), Lost { while_idle: true, ..Lost::default() });
    all.on_lost(at(0), 2, how, &e).unwrap();
    let mut list = Wanted::default();
    list.push(0, Risk::Risky);
    list.push(2, Risk::Suspect);
    assert_eq!(next(&mut all, &mut list), [2]);
    assert!(list.is_empty());
}

#[test]
fn in_a_cluster_what_is_there_is_asked_for_together_and_the_rest_waited_for_alone() {
    let mut all = topic(3, 9, true);
    let mut list = wanted_now(&mut all);
    let request = all.next_request(&mut list, Load::default()).unwrap();
    assert!(request.len() == 3 && request.iter().all(|(_, want)| !want.waits));
    for index in 0..3 {
        all.on_answer(at(0), index, EMPTY);
        all.on_end(at(0), index, false, None);
    }
    let mut list = wanted_now(&mut all);
    for index in 0..3 {
        let request = all.next_request(&mut list, Load::default()).unwrap();
        assert!(matches!(request[..], [(alone, Want { waits: true, .. })] if alone == index), "{request:?}");
    }
}

#[test]
fn partitions_that_may_have_ended_a_connection_are_asked_for_one_by_one() {
    let mut all = topic(3, 9, false);
    let mut list = wanted_now(&mut all);
    assert_eq!(next(&mut all, &mut list), [0, 1, 2]);
    let e = Error::disconnected(&"b:1", crate::Phase::Wait);
    let how = Lost { while_idle: false, healthy_for: Duration::ZERO, unanswered: true, alone: false };
    (0..3).for_each(|index| all.on_lost(at(0), index, how, &e).unwrap());
    assert_eq!(all.next_due(), None);
    all.wake(all.next_wake());
    let mut list = wanted_now(&mut all);
    assert_eq!(list.harmless.len(), 3, "the same pause for all of them");
    // A harmless question first, for all of them together.
    assert_eq!(next(&mut all, &mut list), [0, 1, 2]);
    for index in 0..3 {
        let mark = PartitionAnswer::OutOfRange { high_water_mark: 9, first_available: 1 };
        all.on_answer(at(1), index, mark);
        all.on_end(at(1), index, false, None);
    }
    let mut list = wanted_now(&mut all);
    let request = all.next_request(&mut list, Load::default()).unwrap();
    assert!(matches!(request[..], [(0, Want { waits: false, .. })]), "{request:?}");
    let load = Load { risky: 1, suspects: 1 };
    assert_eq!(all.next_request(&mut list, load).unwrap(), [], "not before it is answered");
    assert_eq!(list.suspects.len(), 2, "nor looked at");
    let data = PartitionAnswer::Data { base: Some(1), high_water_mark: 9, len: 50 };
    all.on_answer(at(1), 0, data);
    all.on_end(at(1), 0, false, None);
    assert_eq!(next(&mut all, &mut list), [1]);
    let how = Lost { while_idle: false, healthy_for: Duration::ZERO, unanswered: true, alone: true };
    let e = all.on_lost(at(2), 1, how, &e).unwrap_err();
    assert!(e.to_string().starts_with("t/1: ") && e.to_string().contains("Start::At(9)"), "{e}");
}

#[test]
fn pauses_end_in_order_and_the_last_open_partition_ends_all() {
    let mut all = topic(2, 0, false);
    let mut list = wanted_now(&mut all);
    next(&mut all, &mut list);
    assert!(matches!(all.on_answer(at(5), 0, PartitionAnswer::NoLeader), Next::NoLeader));
    assert!(matches!(all.on_answer(at(9), 1, PartitionAnswer::NoLeader), Next::NoLeader));
    assert_eq!(all.next_wake(), Time::NEVER, "the answer is still being read");
    (0..2).for_each(|index| _ = all.on_end(at(9), index, false, None));
    let first = all.next_wake();
    all.wake(first);
    assert_eq!(due(&mut all), [0]);
    let second = all.next_wake();
    assert!(second > first);
    all.wake(second);
    assert_eq!((due(&mut all), all.next_wake()), ([1].into(), Time::NEVER));
    all.with(0, |partition, _| partition.set_state(State::Done));
    assert!(!all.all_done());
    (0..2).for_each(|_| all.with(1, |partition, _| partition.set_state(State::Done)));
    assert!(all.all_done());
}

#[test]
fn a_partition_that_was_added_is_found_and_then_the_next_one_is_looked_for() {
    let mut all = topic(2, 0, false);
    assert_eq!((all.list.len(), all.find("t", 2).is_none()), (3, true));
    due(&mut all);
    all.probe();
    let mut list = wanted_now(&mut all);
    assert_eq!(next(&mut all, &mut list), [2]);
    all.on_answer(at(0), 2, EMPTY);
    assert_eq!((all.find("t", 2).map(|(index, _)| index), all.rules.names.len()), (Some(2), 4));
    assert_eq!(all.iter().filter(|(_, partition)| partition.has_begun()).count(), 3);
    let mut list = wanted_now(&mut all);
    assert_eq!(next(&mut all, &mut list), [3]);
    all.on_answer(at(0), 3, PartitionAnswer::UnknownPartition);
    all.on_end(at(0), 3, false, None);
    assert_eq!((all.find("t", 3).is_none(), due(&mut all).len()), (true, 0));
}

#[test]
fn gaps_that_follow_each_other_are_one() {
    let mut all = topic(2, 0, false);
    all.add_gap(0, 1, 5);
    all.add_gap(0, 6, 9);
    all.add_gap(1, 10, 12);
    all.add_gap(0, 10, 11);
    all.add_gap(0, 20, 21);
    let gaps = |all: &Partitions| all.gaps.iter().map(|gap| (gap.partition, gap.first, gap.last)).collect::<Vec<_>>();
    assert_eq!(gaps(&all), [(0, 1, 11), (1, 10, 12), (0, 20, 21)]);
    // However long retention is faster than the reader.
    (30..3000).step_by(2).for_each(|seq| all.add_gap(1, seq, seq));
    assert_eq!((all.gaps.len(), gaps(&all)[MAX_GAPS - 1]), (MAX_GAPS, (1, 2998, 2998)));
}

#[test]
fn a_request_asks_for_a_gigabyte_at_most() {
    let mut rules = rules(40, false);
    rules.options.fetch_size = 64 << 20;
    let partition = |index| Partition::new(index, 0, marks(1, 9), &rules.options);
    let mut all = Partitions::new((0..40).map(partition).collect(), &[], rules);
    let mut list = wanted_now(&mut all);
    let sizes: Vec<usize> = std::iter::from_fn(|| Some(next(&mut all, &mut list).len()).filter(|&n| n > 0)).collect();
    assert_eq!(sizes, [16, 16, 8]);
}

#[test]
fn suspects_take_turns_with_the_others_which_are_asked_for_together() {
    let mut all = topic(300, 9, false);
    let mut list = wanted_now(&mut all);
    assert_eq!((next(&mut all, &mut list).len(), next(&mut all, &mut list).len()), (250, 50));
    let e = Error::disconnected(&"b:1", crate::Phase::Wait);
    for index in 0..300 {
        let how = Lost { while_idle: true, healthy_for: Duration::ZERO, unanswered: index < 2, alone: false };
        all.on_lost(at(0), index, how, &e).unwrap();
    }
    // The harmless questions come first, whatever is in flight.
    let mut list = wanted_now(&mut all);
    let request = all.next_request(&mut list, Load { risky: 1, suspects: 1 }).unwrap();
    assert_eq!(
        request.iter().map(|(index, want)| (*index, want.risk)).collect::<Vec<_>>(),
        [(0, Risk::Harmless), (1, Risk::Harmless)]
    );
    for index in 0..2 {
        all.on_answer(at(1), index, PartitionAnswer::OutOfRange { high_water_mark: 9, first_available: 1 });
        all.on_end(at(1), index, false, None);
        all.next_due();
        list.push(index, all.get(index).risk());
    }
    for (expected, load) in [
        (250, Load { risky: 250, suspects: 0 }),
        (1, Load { risky: 1, suspects: 1 }),
        (48, Load { risky: 48, suspects: 0 }),
        (1, Load { risky: 1, suspects: 1 }),
    ] {
        assert_eq!(next(&mut all, &mut list).len(), expected);
        let early = all.next_request(&mut list, load).unwrap();
        assert!(early.is_empty(), "not before it is answered");
    }
    // One that is asked for elsewhere concerns nobody here.
    assert!(list.is_empty());
    let mut list = wanted(&all, [7, 8]);
    (7..9).for_each(|index| all.on_lost(at(2), index, Lost { while_idle: true, ..Lost::default() }, &e).unwrap());
    assert_eq!(next(&mut all, &mut list), [7, 8]);
}

#[test]
fn the_first_number_that_a_log_has_is_as_harmless_as_the_one_after_its_last() {
    let e = Error::disconnected(&"b:1", crate::Phase::Wait);
    for (first_available, risk) in [(1, Risk::Suspect), (2, Risk::Harmless), (3, Risk::Harmless)] {
        let mut all = topic(1, 9, false);
        let mut list = wanted_now(&mut all);
        next(&mut all, &mut list);
        let how = Lost { while_idle: true, healthy_for: Duration::ZERO, unanswered: true, alone: false };
        all.on_lost(at(0), 0, how, &e).unwrap();
        let mut list = wanted_now(&mut all);
        next(&mut all, &mut list);
        all.on_answer(at(1), 0, PartitionAnswer::OutOfRange { high_water_mark: 9, first_available });
        all.on_end(at(1), 0, false, None);
        assert_eq!(all.get(0).risk() == Risk::Suspect, risk == Risk::Suspect, "from {first_available}");
    }
}

#[test]
fn what_is_led_here_and_not_at_its_end_is_asked_for_again_at_once() {
    let other: BrokerAddr = parse_brokers("b:2").unwrap().remove(0);
    let (here, there) = (broker(), &other);
    for (leader, mark, again) in
        [(Some(&here), 9, true), (Some(there), 9, false), (None, 9, false), (Some(&here), 0, false)]
    {
        let mut all = topic(1, mark, false);
        let mut list = wanted_now(&mut all);
        next(&mut all, &mut list);
        all.with(0, |partition, _| partition.set_leader(broker()));
        assert_eq!(all.on_end(at(0), 0, false, leader), again);
        assert_eq!(due(&mut all).len(), usize::from(!again), "either here, or wherever it is led");
    }
    // Not after a pause, nor when it is done.
    let mut all = topic(1, 9, false);
    let mut list = wanted_now(&mut all);
    next(&mut all, &mut list);
    all.with(0, |partition, _| partition.set_leader(broker()));
    assert!(!all.on_end(at(0), 0, true, Some(&broker())) && due(&mut all).is_empty());
    assert!(all.next_wake() > at(0) && all.next_wake() < Time::NEVER);
}

#[test]
fn the_last_partition_that_there_can_be_is_followed_by_none() {
    let all = |count| Partitions::new(Vec::new(), &[("t".into(), count)], rules(0, false));
    assert_eq!(all(u16::MAX).rules.names.len(), 0);
    let mut all = all(MAX_ID);
    assert_eq!((all.list.len(), all.name(0).1, all.all_done()), (1, MAX_ID, true));
    all.probe();
    let mut list = wanted_now(&mut all);
    next(&mut all, &mut list);
    all.on_answer(at(0), 0, EMPTY);
    assert_eq!((all.list.len(), all.find("t", MAX_ID).is_some()), (1, true));
}

#[test]
fn what_a_broker_may_wait_for_is_not_asked_for_with_what_it_must_answer() {
    let rules = rules(3, false);
    let list = vec![
        Partition::new(0, 10, marks(1, 9), &rules.options),
        Partition::before_end(1, 0, &rules.options),
        Partition::new(2, 10, marks(1, 9), &rules.options),
    ];
    let mut all = Partitions::new(list, &[], rules);
    let mut list = wanted_now(&mut all);
    assert_eq!((next(&mut all, &mut list), next(&mut all, &mut list)), (vec![0, 2], vec![1]));
    // What is safe to ask for does not wait for suspects.
    let mut all = topic(1, 0, false);
    let mut list = wanted_now(&mut all);
    assert_eq!(all.next_request(&mut list, Load { risky: 1, suspects: 1 }).unwrap().len(), 1);
}

#[test]
fn what_was_wanted_of_a_connection_that_had_ended_is_due_again() {
    let mut all = topic(1, 9, false);
    assert_eq!(due(&mut all), [0], "to be asked for by a fetcher");
    let e = Error::disconnected(&"b:1", crate::Phase::Wait);
    let how = Lost { while_idle: true, healthy_for: Duration::ZERO, unanswered: false, alone: false };
    all.on_lost(at(0), 0, how, &e).unwrap();
    assert_eq!(due(&mut all), [0]);
}

#[test]
fn each_topic_has_a_partition_that_is_looked_for() {
    let whole = [("a".into(), 0), ("b".into(), 0)];
    let mut all = Partitions::new(Vec::new(), &whole, rules(0, false));
    for round in 0..3 {
        all.probe();
        let mut list = wanted_now(&mut all);
        // The first topic grows by one partition each time, the second does not.
        while let [index] = next(&mut all, &mut list)[..] {
            let grows = &**all.name(index).0 == "a";
            all.on_answer(at(0), index, if grows { EMPTY } else { PartitionAnswer::UnknownPartition });
            all.on_end(at(0), index, false, None);
        }
        let found: Vec<_> =
            all.iter().map(|(index, _)| all.name(index)).map(|(topic, id)| (topic.to_string(), id)).collect();
        assert_eq!(found, (0..=round).map(|id| ("a".to_owned(), id)).collect::<Vec<_>>());
        all.probe();
        let wanted =
            |topic: &str, id| all.probes.iter().any(|&probe| (&**all.name(probe).0, all.name(probe).1) == (topic, id));
        assert!(wanted("a", round + 1) && wanted("b", 0));
    }
}
