#![allow(clippy::cast_possible_truncation)]

mod trouble;

use std::net::Ipv4Addr;

use super::super::subscription::{MAX_FETCH_SIZE, OutOfRange, Subscription};
use super::answers::{IDLE_PAUSES, MAX_REDIRECTS};
use super::*;
use crate::message::Names;
use crate::net::parse_brokers;
use crate::protocol::bundle::Codec;
use crate::protocol::fetch::PartitionAnswer;
use crate::protocol::stream::ChunkEnd;

pub(in crate::consume) fn marks(first_available: u64, high_water_mark: u64) -> Option<Marks> {
    Some(Marks { first_available, high_water_mark })
}

impl Partition {
    pub(in crate::consume) fn set_state(&mut self, state: State) {
        self.state = state;
    }
}

const FOR_LONG: Duration = Duration::from_secs(60);

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn rules(what: fn(Subscription) -> Subscription, in_cluster: bool) -> Rules {
    let options = what(Subscription::partition("t", 0)).options;
    let retry =
        RetryPolicy { timeout: FOR_LONG, pauses: (Duration::from_millis(100), Duration::from_secs(1)), seed: 7 };
    Rules { names: Names::one("t", 0), options, in_cluster, bundle_limit: 1 << 28, retry }
}

fn alone(what: fn(Subscription) -> Subscription) -> Rules {
    rules(what, false)
}

fn data(mark: u64, len: u32) -> PartitionAnswer {
    PartitionAnswer::Data { base: Some(1), high_water_mark: mark, len }
}

fn out_of_range(first_available: u64, high_water_mark: u64) -> PartitionAnswer {
    PartitionAnswer::OutOfRange { high_water_mark, first_available }
}

fn endpoint() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, 11011)
}

impl PartialEq for Next {
    fn eq(&self, other: &Next) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

/// What comes of a fault.
fn fail(fault: Fault) -> Next {
    Next::Fail(Error::refused("t", 0, fault))
}

/// Of a log that ends at 20.
fn not_there(requested: u64, first_available: u64) -> Next {
    let kind = ErrorKind::OutOfRange { requested, first_available, high_water_mark: 20 };
    Next::Fail(Error::new(kind).about("t", 0))
}

/// Takes it back from a connection; whether that is the end of it.
fn lose(partition: &mut Partition, now: Time, how: Lost, rules: &Rules) -> Next {
    let e = Error::disconnected(&"b:1", crate::Phase::Wait);
    partition.on_lost(now, how, &e, rules).map_or_else(Next::Fail, |()| Next::Go)
}

fn leader() -> BrokerAddr {
    parse_brokers("b:1").unwrap().remove(0)
}

fn bundle(first: u64, last: u64, mark: u64, cut: bool) -> Bundle {
    let (count, codec) = ((last - first + 1) as u32, Codec::None);
    Bundle {
        owner: 0,
        bundles: 1,
        codec,
        count,
        first,
        last,
        sparse: false,
        cut,
        from: first,
        to: mark,
        set: 0..9,
        at: 0,
    }
}

/// Asks, as the shell does; what it wanted.
fn ask(partition: &mut Partition, rules: &Rules) -> Want {
    let want = partition.wants(rules).unwrap().expect("idle");
    partition.on_sent(want.waits);
    assert!(partition.wants(rules).unwrap().is_none(), "asked for once at a time");
    want
}

/// Answers with numbers up to `last` in one bundle.
fn bring(partition: &mut Partition, now: Time, first: u64, last: u64, mark: u64, rules: &Rules) -> Vec<Bundle> {
    assert_eq!(partition.on_answer(now, data(mark, 100), rules), Next::Go);
    let mut found = vec![bundle(first, last, mark, false)];
    partition.on_bundles(&mut found, 0, rules);
    assert_eq!(partition.on_chunk_end(now, ChunkEnd::Whole, rules), Next::Go);
    partition.on_end(now, false, rules);
    found
}

fn lost(unanswered: bool, alone: bool) -> Lost {
    Lost { while_idle: false, healthy_for: Duration::ZERO, unanswered, alone }
}

fn pause(partition: &Partition) -> Time {
    match partition.state {
        State::Paused(until) | State::InFlightThenPaused(until) => until,
        state => panic!("{state:?}"),
    }
}

#[test]
fn it_continues_after_what_arrived_and_waits_at_the_end() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 0, marks(1, 20), &rules.options);
    assert_eq!((ask(&mut p, &rules).seq, p.lag(p.position)), (0, Some(20)));
    assert_eq!(bring(&mut p, at(1), 1, 10, 20, &rules).len(), 1);
    assert_eq!((p.position, ask(&mut p, &rules).seq), (0, 11), "delivered is what was handed out");
    p.advance(11);
    bring(&mut p, at(2), 11, 20, 20, &rules);
    assert!(!p.is_behind());
    let want = ask(&mut p, &rules);
    assert!(want.waits && !want.alone && want.risk == Risk::Harmless, "{want:?}");
    // An empty answer moves nothing, whatever it says.
    assert_eq!(p.on_answer(at(3), data(3, 0), &rules), Next::Go);
    p.on_end(at(3), false, &rules);
    assert_eq!((p.high_water_mark, ask(&mut p, &rules).seq), (Some(20), 21));
}

#[test]
fn an_empty_answer_lowers_the_mark_to_the_end_of_a_log_that_became_shorter() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 81, None, &rules.options);
    ask(&mut p, &rules);
    bring(&mut p, at(0), 81, 90, 100, &rules);
    p.advance(91);
    assert_eq!(p.lag(91), Some(10));
    ask(&mut p, &rules);
    p.on_answer(at(1), data(90, 0), &rules);
    assert_eq!((p.high_water_mark, p.lag(91), p.risk()), (Some(90), Some(0), Risk::Harmless));
}

#[test]
fn in_a_cluster_it_waits_alone_and_what_ends_a_wait_is_asked_for_again() {
    let rules = rules(|s| s, true);
    let mut p = Partition::new(0, 0, None, &rules.options);
    assert!(!ask(&mut p, &rules).waits, "there may be something");
    assert_eq!(p.on_answer(at(0), data(0, 0), &rules), Next::Go);
    p.on_end(at(0), false, &rules);
    for (round, least) in [(1, 50), (2, 100), (3, 200)] {
        let want = ask(&mut p, &rules);
        assert!(want.waits && want.alone, "{want:?}");
        p.on_answer(at(0), data(0, 0), &rules);
        p.on_end(at(0), false, &rules);
        assert!(ask(&mut p, &rules).waits, "a wait that ended with nothing is begun again");
        p.on_answer(at(0), data(5, 100), &rules);
        let mut found = vec![bundle(3, 5, 5, false)];
        p.on_bundles(&mut found, 0, &rules);
        assert!(found.is_empty(), "it may be numbered wrongly");
        for end in [ChunkEnd::Whole, ChunkEnd::Whole, ChunkEnd::AboveMark, ChunkEnd::Cut { bundle_len: Some(1 << 30) }]
        {
            assert_eq!((p.on_chunk_end(at(0), end, &rules), p.state), (Next::Go, State::InFlight), "{end:?}");
        }
        p.on_end(at(0), false, &rules);
        let want = ask(&mut p, &rules);
        assert!(!want.waits && want.seq == 0, "{want:?}");
        // It is not there: the more often, the longer the pause.
        p.on_answer(at(0), data(5, 0), &rules);
        p.on_end(at(0), false, &rules);
        let until = pause(&p);
        p.wake(at(least - 1));
        assert!(until >= at(least) && p.state == State::Paused(until), "round {round}: {until:?}");
        p.wake(until);
        assert_eq!(p.state, State::Idle);
    }
}

#[test]
fn a_stop_condition_that_is_met_when_it_begins_takes_no_request() {
    for (position, seq, met) in [(0, 0, true), (1, 0, true), (11, 5, true), (6, 5, true), (5, 5, false), (0, 1, false)]
    {
        let mut rules = alone(|s| s);
        rules.options.stop_at_seq = Some(seq);
        let p = Partition::new(0, position, None, &rules.options);
        assert_eq!(p.state == State::Done, met, "{position}, up to {seq}");
        let p = Partition::before_end(0, 3, &rules.options);
        assert_eq!(p.state == State::Done, seq == 0, "before the end, up to {seq}");
    }
    let rules = alone(|s| s.stop_at_end());
    let mut p = Partition::before_end(0, 0, &rules.options);
    assert_eq!(ask(&mut p, &rules).seq, SEQ_BEYOND_END);
    assert_eq!(p.on_answer(at(0), out_of_range(1, 9), &rules), Next::Go);
    assert_eq!((p.state, p.position), (State::Done, 10));
}

#[test]
fn it_begins_before_the_end_that_its_leader_tells() {
    for (back, first, mark, begins) in [(0, 1, 9, 10), (3, 1, 9, 7), (20, 4, 9, 4), (0, 0, 0, 1), (5, 0, 0, 1)] {
        let rules = alone(|s| s);
        let mut p = Partition::before_end(0, back, &rules.options);
        assert!(!p.has_begun() && p.lag(p.position).is_none());
        let want = ask(&mut p, &rules);
        assert!(want.seq == SEQ_BEYOND_END && !want.waits, "{want:?}");
        assert_eq!(p.on_answer(at(0), out_of_range(first, mark), &rules), Next::Go);
        p.on_end(at(0), false, &rules);
        assert_eq!((ask(&mut p, &rules).seq, p.position), (begins, begins), "{back} of {first}..={mark}");
    }
}

#[test]
fn stop_at_end_takes_its_end_from_the_answer_and_ends_when_the_log_became_shorter() {
    let rules = alone(|s| s.stop_at_end());
    let mut p = Partition::new(0, 1, marks(1, 50), &rules.options);
    assert!(!ask(&mut p, &rules).waits);
    bring(&mut p, at(0), 1, 4, 10, &rules);
    assert_eq!((p.state, ask(&mut p, &rules).waits), (State::Idle, false));
    p.on_answer(at(1), data(4, 0), &rules);
    assert_eq!(p.state, State::Done, "nothing is left before the end");
    let mut p = Partition::new(0, 1, marks(1, 50), &rules.options);
    ask(&mut p, &rules);
    let found = bring(&mut p, at(0), 1, 12, 10, &rules);
    assert_eq!((found[0].to, p.state), (10, State::Done));
    // Where the next number lies beyond the end, the policy decides.
    let mut p = Partition::new(0, 30, marks(1, 50), &rules.options);
    ask(&mut p, &rules);
    assert_eq!(p.on_answer(at(0), out_of_range(1, 20), &rules), not_there(30, 1));
}

#[test]
fn answers_about_a_partition_that_is_done_change_nothing() {
    let rules = alone(|s| s.stop_at_seq(4));
    for answer in [
        data(9, 100),
        out_of_range(5, 9),
        PartitionAnswer::Redirect(endpoint()),
        PartitionAnswer::NoLeader,
        PartitionAnswer::SystemError,
        PartitionAnswer::UnknownPartition,
        PartitionAnswer::UnknownTopic,
    ] {
        let mut p = Partition::new(0, 1, marks(1, 9), &rules.options);
        ask(&mut p, &rules);
        bring(&mut p, at(0), 1, 4, 9, &rules);
        assert_eq!((p.state, p.on_answer(at(1), answer, &rules)), (State::Done, Next::Go));
        p.on_bundles(&mut vec![bundle(5, 9, 9, false)], 0, &rules);
        assert_eq!(p.on_chunk_end(at(1), ChunkEnd::Cut { bundle_len: Some(1 << 30) }, &rules), Next::Go);
        p.on_end(at(1), true, &rules);
        assert_eq!((lose(&mut p, at(1), Lost::default(), &rules), p.state), (Next::Go, State::Done));
    }
}

#[test]
fn the_fetch_size_never_creeps() {
    let rules = alone(|s| s.fetch_size(1000));
    let mut p = Partition::new(0, 1, marks(1, 9), &rules.options);
    let mut sizes = Vec::new();
    // Each time one byte more would have been enough, it says.
    for _ in 0..6 {
        let size = ask(&mut p, &rules).fetch_size;
        sizes.push(size);
        p.on_answer(at(0), data(9, size), &rules);
        p.on_chunk_end(at(0), ChunkEnd::Cut { bundle_len: Some(u64::from(size) + 1) }, &rules);
        p.on_end(at(0), false, &rules);
    }
    assert_eq!(sizes, [1000, 1001, 2002, 4004, 8008, 16016]);
    // All below the position, and longer by a byte each time: up to the limit, and no further.
    let mut p = Partition::new(0, 1, marks(1, 9), &rules.options);
    for n in 0.. {
        let size = ask(&mut p, &rules).fetch_size;
        p.on_answer(at(0), data(9, 1000 + n), &rules);
        match p.on_chunk_end(at(0), ChunkEnd::Whole, &rules) {
            Next::Go => p.on_end(at(0), false, &rules),
            next => {
                assert_eq!(next, fail(Fault::Stuck { seq: 1 }));
                assert_eq!(size, MAX_FETCH_SIZE);
                break;
            }
        }
    }
    let mut p = Partition::new(0, 1, marks(1, 9), &rules.options);
    let limit = 1 << 28;
    let cut = ChunkEnd::Cut { bundle_len: Some(limit + 100) };
    let e = Error::new(ErrorKind::BundleTooLarge { needed: limit + 100, limit: 1 << 28 }).about("t", 0);
    assert_eq!(p.on_chunk_end(at(0), cut, &rules), Next::Fail(e));
    // The same length again: more was asked for, and did not help.
    let mut p = Partition::new(0, 1, marks(1, 9), &rules.options);
    for next in [Next::Go, fail(Fault::Stuck { seq: 1 })] {
        ask(&mut p, &rules);
        p.on_answer(at(0), data(9, 1000), &rules);
        assert_eq!(p.on_chunk_end(at(0), ChunkEnd::Whole, &rules), next);
        p.on_end(at(0), false, &rules);
    }
    // The largest bundle that is taken, with its length.
    let mut p = Partition::new(0, 1, marks(1, 9), &rules.options);
    let largest = limit + varint::MAX_LEN as u64;
    assert_eq!(p.on_chunk_end(at(0), ChunkEnd::Cut { bundle_len: Some(largest) }, &rules), Next::Go);
    assert_eq!(u64::from(ask(&mut p, &rules).fetch_size), largest);
    // With that much not even its length has come: it takes one byte more, at least.
    p.on_answer(at(0), data(9, 1000), &rules);
    let e = Error::new(ErrorKind::BundleTooLarge { needed: largest + 1, limit: 1 << 28 }).about("t", 0);
    assert_eq!(p.on_chunk_end(at(0), ChunkEnd::Cut { bundle_len: None }, &rules), Next::Fail(e));
}

#[test]
fn a_cut_bundle_is_looked_at_only_where_there_is_nothing_else() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 1, marks(1, 20), &rules.options);
    ask(&mut p, &rules);
    p.on_answer(at(0), data(20, 100), &rules);
    let mut found = vec![bundle(1, 5, 20, false), bundle(6, 20, 20, true)];
    assert!(p.on_bundles(&mut found, 0, &rules));
    assert_eq!((found.len(), p.fetch_from), (1, 6));
    let mut p = Partition::new(0, 1, marks(1, 20), &rules.options);
    ask(&mut p, &rules);
    p.on_answer(at(0), data(20, 100), &rules);
    let mut found = vec![bundle(1, 20, 20, true)];
    assert!(!p.on_bundles(&mut found, 0, &rules));
    assert!(!p.takes_whole(&found[0]));
    p.on_messages(&rules);
    p.advance(8);
    p.on_chunk_end(at(0), ChunkEnd::Cut { bundle_len: Some(5000) }, &rules);
    p.on_end(at(0), false, &rules);
    let want = ask(&mut p, &rules);
    assert_eq!((want.seq, want.fetch_size), (8, rules.options.fetch_size.max(5000)));
}

#[test]
fn the_number_for_whatever_comes_next_is_never_asked_for() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, SEQ_TAIL, None, &rules.options);
    p.leader = Some(leader());
    let e = p.wants(&rules).unwrap_err();
    assert!(e.kind == ErrorKind::Decode && e.broker() == Some("b:1"), "{e:?}");
    assert!(format!("{e:#}").contains(&(SEQ_TAIL - 1).to_string()), "the highest there can be: {e:#}");
}

#[test]
fn a_broker_waits_only_for_what_is_not_there_and_in_a_cluster_for_one_at_a_time() {
    fn plain(s: Subscription) -> Subscription {
        s
    }
    type What = (fn(Subscription) -> Subscription, fn(&mut Partition));
    let behind: What = (plain, |_| {});
    let at_end: What = (plain, |p| p.fetch_from = 10);
    let empty: What = (plain, |p| p.last_was_empty = true);
    let unknown: What = (plain, |p| p.high_water_mark = None);
    let ended: What = (plain, |p| (p.fetch_from, p.wait_ended) = (10, true));
    let to_the_end: What = (|s| s.stop_at_end(), |p| p.fetch_from = 10);
    let unbegun: What = (plain, |p| p.begin = Begin::BeforeEnd);
    let nothing: What = (plain, |p| (p.begin, p.high_water_mark) = (Begin::BeforeEnd, None));
    let probe: What = (plain, |p| p.begin = Begin::Probe);
    let suspect: What = (plain, |p| (p.fetch_from, p.suspicion) = (10, Suspicion::Confirmed));
    // Whether the broker may wait, alone, and whether it is risky: at a single broker, and in a cluster.
    for (case, (what, change), single, cluster) in [
        ("behind", behind, (true, false, true), (false, false, true)),
        ("at the end", at_end, (true, false, false), (true, true, false)),
        ("behind, though the last was empty", empty, (true, false, true), (true, true, true)),
        ("mark unknown", unknown, (true, false, true), (false, false, true)),
        ("after a wait", ended, (true, false, false), (false, false, false)),
        ("stop_at_end", to_the_end, (false, false, false), (false, false, false)),
        ("not begun", unbegun, (false, false, false), (false, false, false)),
        ("not begun, mark unknown", nothing, (false, false, false), (false, false, false)),
        ("a probe", probe, (false, true, false), (false, true, false)),
        ("a suspect at the end", suspect, (false, false, false), (false, false, false)),
    ] {
        for (in_cluster, expected) in [(false, single), (true, cluster)] {
            let rules = rules(what, in_cluster);
            let mut p = Partition::new(0, 1, marks(1, 9), &rules.options);
            change(&mut p);
            let want = p.wants(&rules).unwrap().unwrap();
            assert_eq!(
                (want.waits, want.alone, want.risk > Risk::Harmless),
                expected,
                "{case}, in a cluster: {in_cluster}"
            );
        }
    }
}

#[test]
fn what_has_not_begun_or_was_taken_does_not_count_as_lag() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 0, marks(5, 9), &rules.options);
    assert_eq!((p.lag(0), p.lag(7), p.lag(10), p.lag(20)), (Some(5), Some(3), Some(0), Some(0)));
    p.first_available = 0;
    assert_eq!((p.lag(0), p.lag(1)), (Some(9), Some(9)));
    p.begin = Begin::BeforeEnd;
    assert_eq!(p.lag(0), Some(0));
    p.high_water_mark = None;
    assert_eq!(p.lag(0), None);
}

#[test]
fn a_bundle_is_taken_whole_up_to_the_mark_or_the_last_wanted_number() {
    let rules = alone(|s| s.stop_at_seq(6));
    let p = Partition::new(0, 1, marks(1, 9), &rules.options);
    let up_to = |to, cut| Bundle { to, ..bundle(1, 8, 9, cut) };
    assert!(p.takes_whole(&up_to(8, false)) && p.takes_whole(&up_to(6, false)));
    assert!(!p.takes_whole(&up_to(7, false)) && !p.takes_whole(&up_to(8, true)) && !p.takes_whole(&up_to(6, true)));
    assert!(!p.ends_before(6) && p.ends_before(7));
}

#[test]
fn what_was_handed_out_moves_only_forward() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 1, None, &rules.options);
    ask(&mut p, &rules);
    bring(&mut p, at(0), 1, 10, 20, &rules);
    p.advance(5);
    assert_eq!((p.position, ask(&mut p, &rules).seq, p.high_water_mark), (5, 11, Some(20)));
    let mut p = Partition::new(0, 1, None, &rules.options);
    p.advance(8);
    assert_eq!(p.high_water_mark, Some(7), "there are that many");
}

#[test]
fn the_number_after_the_mark_is_not_beyond_the_end_and_what_is_there_is_no_gap() {
    let rules = alone(|s| s.beyond_end(OutOfRange::Latest));
    let mut p = Partition::new(0, 21, None, &rules.options);
    assert_eq!(p.on_answer(at(0), out_of_range(1, 20), &rules), not_there(21, 1));
    let rules = alone(|s| s.out_of_range(OutOfRange::Earliest));
    let mut p = Partition::new(0, 15, None, &rules.options);
    assert_eq!(p.on_answer(at(0), out_of_range(15, 20), &rules), Next::Go);
    let mut p = Partition::new(0, 14, None, &rules.options);
    assert_eq!(p.on_answer(at(0), out_of_range(15, 20), &rules), Next::Gap(14, 14));
}

#[test]
fn a_chunk_that_goes_on_above_the_mark_had_messages_all_the_same() {
    let rules = alone(|s| s);
    let begin = || {
        let mut p = Partition::new(0, 1, marks(1, 20), &rules.options);
        ask(&mut p, &rules);
        p.on_answer(at(0), data(20, 100), &rules);
        p
    };
    let above = || Bundle { to: 7, ..bundle(6, 20, 20, false) };
    let mut p = begin();
    assert!(!p.on_bundles(&mut vec![bundle(1, 5, 20, false), above()], 0, &rules));
    assert_eq!((p.on_chunk_end(at(0), ChunkEnd::AboveMark, &rules), p.state), (Next::Go, State::InFlight));
    let mut p = begin();
    p.on_bundles(&mut vec![above()], 0, &rules);
    p.on_chunk_end(at(0), ChunkEnd::AboveMark, &rules);
    assert!(pause(&p) > at(0));
    // A cut bundle after messages of the same chunk is not looked at.
    let mut p = begin();
    p.on_bundles(&mut vec![bundle(1, 5, 20, false)], 0, &rules);
    let mut cut = vec![bundle(6, 20, 20, true)];
    assert!(p.on_bundles(&mut cut, 0, &rules) && cut.is_empty());
}

#[test]
fn data_that_was_not_waited_for_is_taken_in_a_cluster() {
    let rules = rules(|s| s, true);
    for (waits, taken) in [(false, 1), (true, 0)] {
        let mut p = Partition::new(0, 1, marks(1, 20), &rules.options);
        p.on_sent(waits);
        p.on_answer(at(0), data(20, 100), &rules);
        let mut found = vec![bundle(1, 5, 20, false)];
        p.on_bundles(&mut found, 0, &rules);
        assert_eq!(found.len(), taken);
    }
}

#[test]
fn bundles_after_the_last_wanted_number_are_removed_from_those_just_found_alone() {
    let rules = alone(|s| s.stop_at_seq(12));
    let mut p = Partition::new(0, 1, marks(1, 20), &rules.options);
    ask(&mut p, &rules);
    p.on_answer(at(0), data(20, 100), &rules);
    // Two of other partitions are still to be decoded.
    let mut found = vec![bundle(90, 95, 99, false), bundle(90, 95, 99, false)];
    found.extend([
        bundle(1, 5, 20, false),
        bundle(6, 10, 20, false),
        bundle(11, 14, 20, false),
        bundle(15, 20, 20, false),
    ]);
    assert!(p.on_bundles(&mut found, 2, &rules));
    assert_eq!(found.iter().map(|bundle| bundle.to).collect::<Vec<_>>(), [99, 99, 20, 20, 12]);
    assert_eq!(p.state, State::Done);
}

/// A subscription may have sixty thousand of them.
#[test]
fn it_takes_little_room() {
    assert!(size_of::<Partition>() <= 128, "{} bytes", size_of::<Partition>());
}
