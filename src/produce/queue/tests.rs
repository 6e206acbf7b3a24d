use std::collections::VecDeque;
use std::time::Duration;

use super::super::bundle::tests::contents;
use super::*;
use crate::error::{ErrorKind, Fault, Phase};
use crate::net::Refusal;

mod model;

const POLICY: RetryPolicy = RetryPolicy {
    timeout: Duration::from_secs(60),
    pauses: (Duration::from_millis(100), Duration::from_secs(1)),
    seed: 7,
};

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn queue(numbering: bool) -> PartitionQueue {
    let mut queue = PartitionQueue::new("orders".into(), 3, Compression::default(), POLICY);
    queue.numbering.is_on = numbering;
    queue
}

/// Gives the queue a bundle with a record for each text.
fn give(queue: &mut PartitionQueue, texts: &[&str]) {
    let mut spares = Spares::default();
    for text in texts {
        let raw = RawMessage { timestamp_ms: 1, key: None, payload: text.as_bytes() };
        queue.push(None, &raw).unwrap();
    }
    queue.seal(&mut spares).unwrap();
}

/// Sends what the queue wants to send.
fn send(queue: &mut PartitionQueue, now: Time, leader: LeaderIndex, id: u32) -> Option<ToSend> {
    let what = queue.prepare_next(now, leader)?;
    queue.sent(id, leader, what);
    Some(what)
}

fn lost(queue: &mut PartitionQueue, now: Time, id: u32, handed_over: bool) {
    let error = Error::disconnected(&"a:1", Phase::Wait);
    queue.on_lost(now, id, &error, Duration::ZERO, handed_over);
    queue.numbering.leader = None; // the next connection is a new one
}

/// What has become of the records, in order: stored `+`, unknown `?`, otherwise not stored `-`; a gap as its numbers.
fn outcomes(queue: &mut PartitionQueue) -> Vec<String> {
    let gap = queue.missing.take().map(|(first, last)| format!("gap {first}..{last}"));
    let mut out = Vec::from_iter(gap);
    for (bundle, outcome) in queue.take_deliveries() {
        let mark = match outcome {
            Ok(()) => '+',
            Err(e) if e.kind == ErrorKind::OutcomeUnknown => '?',
            Err(_) => '-',
        };
        out.extend(contents(&bundle).into_iter().map(|(_, text)| format!("{mark}{text}")));
    }
    out
}

/// Takes out all failures.
fn failures(queue: &mut PartitionQueue) -> Vec<(Bundle, Error)> {
    queue.take_deliveries().into_iter().filter_map(|(bundle, outcome)| Some((bundle, outcome.err()?))).collect()
}

/// When the queue wants to send something.
fn due(queue: &PartitionQueue) -> Time {
    if queue.has_work() { queue.retry.pause_until } else { Time::NEVER }
}

fn in_flight(queue: &PartitionQueue) -> &Bundle {
    queue.bundles.iter().find(|bundle| matches!(bundle.stage, Stage::InFlight(_))).unwrap()
}

const A: LeaderIndex = 0;
const B: LeaderIndex = 1;

const STORED: Answer = Ok(Reply::Stored);

fn log_end(end: u64) -> Answer {
    Ok(Reply::LogEnd(end))
}

fn mark(mark: u64) -> Answer {
    Ok(Reply::Mark(mark))
}

const fn refused(fault: Fault) -> Answer {
    Err(Refusal::Fault(fault))
}

fn redirect() -> Answer {
    Err(Refusal::Redirect("10.0.0.1:11011".parse().unwrap()))
}

#[test]
fn several_go_at_a_time_and_answers_may_come_in_any_order() {
    let mut queue = queue(false);
    ["1", "2", "3"].iter().for_each(|text| give(&mut queue, &[text]));
    assert!(!queue.is_idle() && queue.bytes > 0);
    (1..=3).for_each(|id| assert_eq!(send(&mut queue, at(0), A, id), Some(ToSend::Bundle)));
    assert_eq!((queue.prepare_next(at(0), A), queue.leader), (None, Some(A)));
    for id in [2, 3, 1] {
        queue.on_answer(at(1), A, id, STORED);
    }
    assert_eq!(outcomes(&mut queue), ["+2", "+3", "+1"]);
    assert!(queue.is_idle() && queue.bytes == 0 && queue.leader.is_none());
}

#[test]
fn what_is_refused_for_now_is_sent_again_in_order_unless_a_later_one_is_stored() {
    for code in [refused(Fault::NoLeader), refused(Fault::InsufficientReplicas), redirect()] {
        let mut queue = queue(false);
        ["1", "2"].iter().for_each(|text| give(&mut queue, &[text]));
        (1..=2).for_each(|id| assert!(send(&mut queue, at(0), A, id).is_some()));
        queue.on_answer(at(1), A, 1, code);
        give(&mut queue, &["3"]);
        assert_eq!(queue.prepare_next(at(1), A), None, "until the other answer is there");
        queue.on_answer(at(1), A, 2, code);
        let now = due(&queue);
        assert!(now >= at(1) && now <= at(101), "{now:?}");
        assert_eq!(send(&mut queue, now, B, 3), Some(ToSend::Bundle));
        assert_eq!(queue.prepare_next(now, B), None, "one alone finds out whether the trouble is over");
        queue.on_answer(now, A, 3, STORED);
        assert_eq!(outcomes(&mut queue), ["+1"]);
        give(&mut queue, &["4"]);
        (4..=6).for_each(|id| assert_eq!(send(&mut queue, now, B, id), Some(ToSend::Bundle)));
        // Now the third is stored and the second is not.
        queue.on_answer(now, A, 4, code);
        queue.on_answer(now, A, 5, STORED);
        assert_eq!(outcomes(&mut queue), ["+3"], "4 may be stored yet");
        give(&mut queue, &["5"]);
        queue.on_answer(now, A, 6, STORED);
        assert_eq!(outcomes(&mut queue), ["+4", "-2", "-5"]);
        assert_eq!((due(&queue), queue.bytes), (Time::NEVER, 0));
    }
}

#[test]
fn failures_come_back_in_order_however_the_answers_come() {
    let ends: [&[(u32, Option<Answer>)]; 4] = [
        &[(1, Some(refused(Fault::InsufficientReplicas))), (2, Some(refused(Fault::NotConfirmed))), (3, None)],
        &[(1, Some(refused(Fault::NoLeader))), (2, None), (3, None)],
        &[
            (2, Some(refused(Fault::NotConfirmed))),
            (3, Some(refused(Fault::ReadOnly))),
            (1, Some(refused(Fault::System))),
        ],
        &[(3, Some(refused(Fault::UnknownTopic))), (1, None), (2, Some(redirect()))],
    ];
    for answers in ends {
        let mut queue = queue(false);
        ["1", "2", "3", "4"].iter().for_each(|text| give(&mut queue, &[text]));
        (1..=3).for_each(|id| assert!(send(&mut queue, at(0), A, id).is_some()));
        queue.push(None, &RawMessage { payload: b"5", ..RawMessage::default() }).unwrap();
        for (done, &(id, code)) in (1..).zip(answers) {
            match code {
                Some(code) => queue.on_answer(at(1), A, id, code),
                None => lost(&mut queue, at(1), id, true),
            }
            assert!(done == 3 || outcomes(&mut queue).is_empty(), "not before all answers are there");
        }
        let back: String = outcomes(&mut queue).iter().map(|text| text[1..].to_owned()).collect();
        assert_eq!(back, "12345", "{answers:?}");
        assert!(queue.is_idle() && queue.bytes == 0 && !queue.is_in_trouble());
    }
}

#[test]
fn a_request_not_handed_over_is_sent_again_and_others_are_unknown() {
    let mut queue = queue(false);
    ["1", "2"].iter().for_each(|text| give(&mut queue, &[text]));
    (1..=2).for_each(|id| assert!(send(&mut queue, at(0), A, id).is_some()));
    (1..=2).for_each(|id| lost(&mut queue, at(1), id, false));
    let now = due(&queue);
    assert!(outcomes(&mut queue).is_empty() && now > at(1));
    assert!(send(&mut queue, now, A, 3).is_some());
    queue.on_answer(now, A, 3, STORED);
    give(&mut queue, &["3"]);
    (4..=5).for_each(|id| assert!(send(&mut queue, now, A, id).is_some()));
    lost(&mut queue, now, 4, true);
    lost(&mut queue, now, 5, false);
    assert_eq!(outcomes(&mut queue), ["+1", "?2", "-3"]);
}

#[test]
fn the_budget_runs_from_the_first_failure_and_begins_again_afterwards() {
    let mut queue = queue(false);
    let error = Error::connect(&"a:1", std::io::ErrorKind::ConnectionRefused.into());
    for start in [0, 1_000_000] {
        give(&mut queue, &["1"]);
        give(&mut queue, &["2"]);
        let (mut now, mut tries) = (at(start), 0);
        while queue.prepare_next(now, A).is_some() {
            queue.on_unreachable(now, &error, 1);
            (now, tries) = (due(&queue), tries + 1);
            if now == Time::NEVER {
                break;
            }
            assert!(now <= at(start + 60_000));
        }
        assert!((60..130).contains(&tries), "{tries}");
        let failed = failures(&mut queue);
        assert!(failed[0].1.kind == ErrorKind::Connect && failed[1].1.kind == ErrorKind::NotSent);
    }
    // Other brokers are tried at once; and who waits for a connection does not wait longer.
    give(&mut queue, &["3"]);
    let began = at(3_000_000);
    (0..2).for_each(|_| queue.on_unreachable(began, &error, 3));
    assert_eq!(due(&queue), began);
    queue.on_unreachable(began, &error, 3);
    assert!(due(&queue) > began);
    queue.give_up_if_expired(at(3_059_999));
    assert!(outcomes(&mut queue).is_empty());
    queue.give_up_if_expired(at(3_060_000));
    assert_eq!(outcomes(&mut queue), ["-3"]);
}

#[test]
fn failures_taken_back_keep_their_order() {
    let mut queue = queue(false);
    ["1", "2", "3"].iter().for_each(|text| give(&mut queue, &[text]));
    send(&mut queue, at(0), A, 1);
    queue.on_answer(at(0), A, 1, refused(Fault::ReadOnly));
    failures(&mut queue).into_iter().for_each(|(bundle, _)| queue.take_back(bundle));
    for id in 2..=4 {
        send(&mut queue, at(0), A, id);
        queue.on_answer(at(0), A, id, STORED);
    }
    assert_eq!(outcomes(&mut queue), ["+1", "+2", "+3"]);
}

/// A numbering queue at leader A whose log ends at `end`.
fn numbered(end: u64) -> PartitionQueue {
    let mut queue = queue(true);
    give(&mut queue, &["a", "b", "c"]);
    assert_eq!(send(&mut queue, at(0), A, 1), Some(ToSend::End));
    assert_eq!(queue.prepare_next(at(0), A), None, "until the end is known");
    queue.on_answer(at(0), A, 1, log_end(end));
    assert_eq!(send(&mut queue, at(0), A, 2), Some(ToSend::Bundle));
    assert_eq!(in_flight(&queue).range, Some((end + 1, end + 3)));
    queue
}

#[test]
fn numbers_begin_after_the_end_and_go_one_bundle_at_a_time() {
    let mut queue = numbered(10);
    give(&mut queue, &["d"]);
    assert_eq!(queue.prepare_next(at(0), A), None);
    queue.on_answer(at(0), A, 2, STORED);
    assert_eq!(send(&mut queue, at(0), A, 3), Some(ToSend::Bundle));
    assert_eq!(in_flight(&queue).range, Some((14, 14)));
    queue.on_answer(at(0), A, 3, STORED);
    assert_eq!(outcomes(&mut queue), ["+a", "+b", "+c", "+d"]);
    // Nothing unresolved: another leader needs no question.
    give(&mut queue, &["e"]);
    assert_eq!(send(&mut queue, at(0), B, 4), Some(ToSend::Bundle));
}

#[test]
fn a_lost_answer_is_decided_by_the_end_of_the_log() {
    for (end, resent, stored) in [(10, Some((11, 13)), ""), (12, Some((13, 13)), "ab"), (13, None, "abc")] {
        let mut queue = numbered(10);
        lost(&mut queue, at(0), 2, true);
        let now = due(&queue);
        assert_eq!(send(&mut queue, now, A, 3), Some(ToSend::End));
        queue.on_answer(at(0), A, 3, log_end(end));
        assert!(outcomes(&mut queue).is_empty(), "the leader alone has it");
        match resent {
            Some(range) => {
                assert_eq!(send(&mut queue, now, A, 4), Some(ToSend::Bundle));
                assert_eq!(in_flight(&queue).range, Some(range));
                queue.on_answer(now, A, 4, STORED);
            }
            None => {
                assert_eq!(send(&mut queue, now, A, 4), Some(ToSend::Mark));
                queue.on_answer(now, A, 4, mark(12));
                assert!(due(&queue) > now && outcomes(&mut queue).is_empty());
                let now = due(&queue);
                assert_eq!(send(&mut queue, now, A, 5), Some(ToSend::Mark));
                queue.on_answer(now, A, 5, mark(13));
            }
        }
        assert_eq!(outcomes(&mut queue), ["+a", "+b", "+c"], "{stored}");
        assert!(queue.is_idle() && queue.bytes == 0 && !queue.is_in_trouble());
    }
}

#[test]
fn code_3_is_held_until_a_later_yes_or_a_leader_that_has_it_too() {
    for by_leader in [false, true] {
        let mut queue = numbered(0);
        queue.on_answer(at(0), A, 2, refused(Fault::NotConfirmed));
        give(&mut queue, &["d"]);
        assert_eq!(send(&mut queue, at(0), A, 3), Some(ToSend::Bundle), "the next one may go");
        if by_leader {
            queue.on_answer(at(1), A, 3, redirect());
            assert_eq!(send(&mut queue, at(1), B, 4), Some(ToSend::End));
            queue.on_answer(at(0), B, 4, log_end(3));
            assert_eq!(outcomes(&mut queue), ["+a", "+b", "+c"]);
            assert_eq!(send(&mut queue, at(1), B, 5), Some(ToSend::Bundle));
            queue.on_answer(at(1), A, 5, STORED);
            assert_eq!(outcomes(&mut queue), ["+d"]);
        } else {
            assert!(outcomes(&mut queue).is_empty());
            queue.on_answer(at(0), A, 3, STORED);
            assert_eq!(outcomes(&mut queue), ["+a", "+b", "+c", "+d"]);
        }
    }
}

#[test]
fn a_new_leader_without_them_gets_them_again_and_lost_ones_are_said() {
    let mut queue = numbered(10);
    queue.on_answer(at(0), A, 2, refused(Fault::NotConfirmed));
    assert_eq!(send(&mut queue, at(0), B, 3), Some(ToSend::End));
    queue.on_answer(at(0), B, 3, log_end(8));
    assert_eq!(outcomes(&mut queue), ["gap 9..10"]);
    assert_eq!(send(&mut queue, at(0), B, 4), Some(ToSend::Bundle));
    assert_eq!(in_flight(&queue).range, Some((11, 13)), "their own numbers");
    queue.on_answer(at(0), A, 4, STORED);
    assert_eq!(outcomes(&mut queue), ["+a", "+b", "+c"]);
}

#[test]
fn what_stays_unconfirmed_is_unknown_at_the_end_of_the_budget_and_can_be_sent_again() {
    let mut queue = numbered(0);
    queue.on_answer(at(0), A, 2, refused(Fault::NotConfirmed));
    let (mut now, mut id) = (at(0), 3);
    while due(&queue) != Time::NEVER {
        now = due(&queue);
        assert_eq!(send(&mut queue, now, A, id), Some(ToSend::Mark));
        queue.on_answer(now, A, id, mark(0));
        id += 1;
    }
    assert!(now == at(60_000) && id < 130);
    let failed = failures(&mut queue);
    assert!(failed[0].1.kind == ErrorKind::OutcomeUnknown);
    failed.into_iter().for_each(|(bundle, _)| queue.take_back(bundle));
    give(&mut queue, &["d"]);
    assert_eq!(send(&mut queue, now, A, 1000), Some(ToSend::End));
    queue.on_answer(at(0), A, 1000, log_end(3));
    assert_eq!(send(&mut queue, now, A, 1001), Some(ToSend::Bundle));
    assert_eq!(in_flight(&queue).range, Some((4, 4)));
    queue.on_answer(now, A, 1001, STORED);
    assert_eq!(outcomes(&mut queue), ["+a", "+b", "+c", "+d"]);
}

#[test]
fn numbers_that_may_be_stored_are_never_used_again() {
    let mut queue = numbered(0);
    queue.on_answer(at(0), A, 2, refused(Fault::System));
    let failed = failures(&mut queue);
    assert!(failed[0].1.kind == ErrorKind::OutcomeUnknown);
    queue.dropped(failed.iter().map(|(bundle, _)| bundle));
    give(&mut queue, &["d"]);
    assert_eq!(send(&mut queue, at(0), A, 3), Some(ToSend::End));
    queue.on_answer(at(0), A, 3, log_end(0));
    assert_eq!(outcomes(&mut queue), ["gap 1..3"]);
    send(&mut queue, at(0), A, 4);
    assert_eq!(in_flight(&queue).range, Some((4, 4)));

    // Those that no leader took are free.
    let mut queue = numbered(0);
    queue.on_answer(at(0), A, 2, refused(Fault::ReadOnly));
    let failed = failures(&mut queue);
    queue.dropped(failed.iter().map(|(bundle, _)| bundle));
    give(&mut queue, &["d"]);
    assert_eq!(send(&mut queue, at(0), A, 3), Some(ToSend::Bundle));
    assert_eq!(in_flight(&queue).range, Some((1, 1)));
}

#[test]
fn numbers_before_those_that_are_kept_are_not_used_again() {
    let mut queue = numbered(0);
    give(&mut queue, &["d"]);
    queue.on_answer(at(0), A, 2, refused(Fault::NotConfirmed));
    assert_eq!(send(&mut queue, at(0), A, 3), Some(ToSend::Bundle));
    lost(&mut queue, at(0), 3, true);
    queue.give_up_if_expired(at(60_000));
    let mut failed = failures(&mut queue);
    assert_eq!(failed.iter().map(|(bundle, _)| bundle.range).collect::<Vec<_>>(), [Some((1, 3)), Some((4, 4))]);
    // The first is dropped and the second kept.
    queue.take_back(failed.remove(1).0);
    queue.dropped(failed.iter().map(|(bundle, _)| bundle));
    give(&mut queue, &["e"]);
    assert_eq!(send(&mut queue, at(0), A, 4), Some(ToSend::End));
    queue.on_answer(at(0), A, 4, log_end(0));
    assert_eq!(outcomes(&mut queue), ["gap 1..3"]);
    for (id, number) in [(5, 4), (6, 5)] {
        assert_eq!(send(&mut queue, at(0), A, id), Some(ToSend::Bundle));
        assert_eq!(in_flight(&queue).range, Some((number, number)));
        queue.on_answer(at(0), A, id, STORED);
    }
    assert_eq!(outcomes(&mut queue), ["+d", "+e"]);
}

#[test]
fn refused_numbers_after_those_that_are_kept_are_used_again() {
    let mut queue = numbered(0);
    give(&mut queue, &["d"]);
    queue.on_answer(at(0), A, 2, refused(Fault::NotConfirmed));
    assert_eq!(send(&mut queue, at(0), A, 3), Some(ToSend::Bundle));
    queue.on_answer(at(0), A, 3, refused(Fault::ReadOnly));
    let mut failed = failures(&mut queue);
    assert_eq!(failed.iter().map(|(bundle, _)| bundle.range).collect::<Vec<_>>(), [Some((1, 3)), Some((4, 4))]);
    // The first is kept, and the second, which is in no log, is dropped.
    queue.take_back(failed.remove(0).0);
    queue.dropped(failed.iter().map(|(bundle, _)| bundle));
    give(&mut queue, &["e"]);
    assert_eq!(send(&mut queue, at(0), A, 4), Some(ToSend::End));
    queue.on_answer(at(0), A, 4, log_end(0));
    for (id, range) in [(5, (1, 3)), (6, (4, 4))] {
        assert_eq!(send(&mut queue, at(0), A, id), Some(ToSend::Bundle));
        assert_eq!(in_flight(&queue).range, Some(range));
        queue.on_answer(at(0), A, id, STORED);
    }
    assert_eq!(outcomes(&mut queue), ["+a", "+b", "+c", "+e"]);
}

#[test]
fn another_writer_is_an_error() {
    // By the code for a number that is taken.
    let mut queue = numbered(0);
    queue.on_answer(at(0), A, 2, refused(Fault::SeqNotAbove { seq: 1 }));
    let failed = failures(&mut queue);
    assert!(failed[0].1.fault() == Some(Fault::SeqNotAbove { seq: 1 }));
    queue.dropped(failed.iter().map(|(bundle, _)| bundle));
    give(&mut queue, &["d"]);
    assert_eq!(send(&mut queue, at(0), A, 3), Some(ToSend::End));
    queue.on_answer(at(0), A, 3, log_end(7));
    send(&mut queue, at(0), A, 4);
    assert_eq!(in_flight(&queue).range, Some((8, 8)));

    // By an end above all that was sent.
    let mut queue = numbered(0);
    give(&mut queue, &["d"]);
    lost(&mut queue, at(0), 2, true);
    let now = due(&queue);
    send(&mut queue, now, A, 3);
    queue.on_answer(at(0), A, 3, log_end(4));
    let failed = failures(&mut queue);
    assert_eq!(failed[0].1.kind, ErrorKind::OutcomeUnknown);
    assert_eq!(failed[0].1.cause().unwrap().fault(), Some(Fault::AnotherWriter { end: 4 }));
    assert!(failed[1].1.kind == ErrorKind::NotSent);
}

#[test]
fn a_refusal_with_a_copy_at_large_is_no_answer() {
    for code in
        [refused(Fault::SeqNotAbove { seq: 1 }), refused(Fault::NoLeader), refused(Fault::UnknownTopic), redirect()]
    {
        let mut queue = numbered(0);
        lost(&mut queue, at(0), 2, true);
        // Not so after the question: no copy is at large any more.
        let now = due(&queue);
        send(&mut queue, now, A, 3);
        lost(&mut queue, now, 3, true);
        let now = due(&queue);
        assert_eq!(send(&mut queue, now, A, 4), Some(ToSend::End), "again");
        queue.on_answer(now, A, 4, refused(Fault::NoLeader));
        let now = due(&queue);
        assert_eq!(send(&mut queue, now, A, 5), Some(ToSend::End), "and again");
        queue.on_answer(at(0), A, 5, log_end(0));
        send(&mut queue, now, A, 6);
        queue.on_answer(now, A, 6, code);
        let done = outcomes(&mut queue);
        let passing = matches!(code, Err(Refusal::Redirect(_) | Refusal::Fault(Fault::NoLeader)));
        assert_eq!(done, if passing { vec![] } else { vec!["-a", "-b", "-c"] }, "{code:?}");
    }
}

#[test]
fn questions_spend_the_budget() {
    let mut queue = queue(true);
    give(&mut queue, &["a"]);
    let mut id = 0;
    while due(&queue) != Time::NEVER {
        let now = due(&queue);
        id += 1;
        assert_eq!(send(&mut queue, now, A, id), Some(ToSend::End));
        match id % 3 {
            0 => lost(&mut queue, now, id, true),
            1 => queue.on_answer(now, A, id, refused(Fault::NoLeader)),
            _ => queue.on_answer(now, A, id, redirect()),
        }
    }
    assert!((60..200).contains(&id), "{id}");
    assert_eq!(outcomes(&mut queue), ["-a"], "it was never sent");
}

#[test]
fn a_bundle_takes_records_up_to_the_most_and_the_first_one_whatever_its_size() {
    let mut queue = queue(false);
    let mut spares = Spares::default();
    let raw = RawMessage { timestamp_ms: 1, key: None, payload: b"some text" };
    assert!(queue.takes(20, 1, 0) && queue.collected() == (0, 0));
    queue.push(None, &raw).unwrap();
    let (count, len) = queue.collected();
    assert!(count == 1 && len >= 9 && queue.pending() == 1, "{len}");
    assert!(queue.takes(20, 2, len + 20) && !queue.takes(20, 1, len + 20) && !queue.takes(20, 2, len + 19));
    queue.push(None, &raw).unwrap();
    assert!(queue.collected().0 == 2 && queue.collected().1 > len);
    assert!(queue.first_waiting().is_none());
    queue.seal(&mut spares).unwrap();
    assert_eq!((queue.collected(), queue.pending()), ((0, 0), 2));
    assert_eq!(queue.first_waiting().map(|bundle| bundle.count), Some(2));
}

#[test]
fn trouble_is_over_when_its_answers_are_all_there_and_an_unknown_topic_has_no_partition() {
    let mut queue = queue(false);
    ["1", "2"].iter().for_each(|text| give(&mut queue, &[text]));
    assert!(!queue.is_in_trouble());
    (1..=2).for_each(|id| assert!(send(&mut queue, at(0), A, id).is_some()));
    queue.on_answer(at(1), A, 1, refused(Fault::UnknownTopic));
    assert!(queue.is_in_trouble(), "until the other one is answered");
    queue.on_answer(at(1), A, 2, refused(Fault::ReadOnly));
    assert!(!queue.is_in_trouble() && queue.bytes == 0);
    let failed = failures(&mut queue);
    let about: Vec<_> = failed.iter().map(|(_, e)| (e.fault(), e.partition())).collect();
    assert_eq!(about, [(Some(Fault::UnknownTopic), None), (Some(Fault::ReadOnly), Some(3))]);
    give(&mut queue, &["3"]);
    assert!(send(&mut queue, at(2), A, 3).is_some());
    queue.on_answer(at(2), A, 3, refused(Fault::NoLeader));
    assert!(queue.is_in_trouble(), "it is tried again");
}

#[test]
fn what_is_held_when_a_later_bundle_fails_is_unknown_and_says_that_it_was_not_confirmed() {
    let mut queue = numbered(0);
    queue.on_answer(at(1), A, 2, refused(Fault::NotConfirmed));
    give(&mut queue, &["d"]);
    assert_eq!(send(&mut queue, at(2), A, 3), Some(ToSend::Bundle));
    queue.on_answer(at(2), A, 3, refused(Fault::ReadOnly));
    let failed = failures(&mut queue);
    let about: Vec<_> = failed.iter().map(|(_, e)| (e.kind == ErrorKind::OutcomeUnknown, format!("{e:#}"))).collect();
    assert!(about.len() == 2 && about[0].0 && !about[1].0, "{about:?}");
    assert!(about[0].1.contains(&Fault::NotConfirmed.to_string()), "{about:?}");
}

#[test]
fn the_first_redirect_in_a_row_is_followed_at_once_and_the_next_after_a_pause() {
    let mut queue = queue(false);
    give(&mut queue, &["1"]);
    let mut now = at(0);
    for (id, answer, at_once) in [
        (1, redirect(), true),
        (2, redirect(), false),
        (3, refused(Fault::InsufficientReplicas), false),
        (4, redirect(), true),
    ] {
        assert_eq!(send(&mut queue, now, A, id), Some(ToSend::Bundle));
        queue.on_answer(now, A, id, answer);
        assert_eq!(due(&queue) <= now, at_once, "{id}");
        now = due(&queue);
    }
}

#[test]
fn each_failure_says_what_became_of_its_own_records() {
    // One that was refused for now, and one that was refused for good.
    let mut queue = queue(false);
    ["1", "2"].iter().for_each(|text| give(&mut queue, &[text]));
    (1..=2).for_each(|id| assert!(send(&mut queue, at(0), A, id).is_some()));
    queue.on_answer(at(1), A, 1, refused(Fault::NoLeader));
    queue.on_answer(at(1), A, 2, refused(Fault::ReadOnly));
    let faults: Vec<_> = failures(&mut queue).iter().map(|(_, e)| e.fault()).collect();
    assert_eq!(faults, [Some(Fault::NoLeader), Some(Fault::ReadOnly)]);
    // What nobody confirmed is unknown at once where records have no numbers.
    give(&mut queue, &["3"]);
    assert!(send(&mut queue, at(2), A, 3).is_some());
    queue.on_answer(at(2), A, 3, refused(Fault::NotConfirmed));
    assert_eq!(outcomes(&mut queue), ["?3"]);
    // What may be stored stays unknown if another one keeps it from being sent again.
    ["4", "5"].iter().for_each(|text| give(&mut queue, &[text]));
    (4..=5).for_each(|id| assert!(send(&mut queue, at(3), A, id).is_some()));
    (4..=5).for_each(|id| lost(&mut queue, at(3), id, true));
    let failed = failures(&mut queue);
    assert!(failed.len() == 2 && failed.iter().all(|(_, e)| e.kind == ErrorKind::OutcomeUnknown));
    failed.into_iter().for_each(|(bundle, _)| queue.take_back(bundle));
    assert!(send(&mut queue, at(4), A, 6).is_some());
    queue.on_answer(at(4), A, 6, refused(Fault::ReadOnly));
    assert_eq!(outcomes(&mut queue), ["?4", "?5"]);
}

#[test]
fn a_log_that_claims_to_end_near_the_last_number_is_not_appended_to() {
    for (end, is_taken) in [(1 << 40, true), (u64::MAX - (1 << 32), true), (u64::MAX - (1 << 32) + 1, false)] {
        let mut queue = queue(true);
        give(&mut queue, &["a"]);
        send(&mut queue, at(0), A, 1);
        queue.on_answer(at(0), A, 1, log_end(end));
        assert_eq!(send(&mut queue, at(0), A, 2).is_some(), is_taken, "{end}");
        let fault = failures(&mut queue).first().map(|(_, e)| e.cause().unwrap_or(e).fault());
        assert_eq!(fault, (!is_taken).then_some(Some(Fault::AnotherWriter { end })));
    }
}

#[test]
fn a_record_waits_for_room_among_all_or_in_its_partition_unless_there_is_nothing_else() {
    let mut queue = queue(false);
    assert_eq!(queue.excess(0, 1000, 400), None, "one that is larger than the limit goes alone");
    let all = Some(Excess { pending: 300, limit: 400, of_all: true });
    assert_eq!((queue.excess(300, 100, 400), queue.excess(300, 101, 400)), (None, all));
    give(&mut queue, &["some text"]);
    let held = queue.bytes;
    let limit = 4 * (held + 10);
    let mine = Some(Excess { pending: held, limit: limit / 4, of_all: false });
    assert_eq!((queue.excess(held, 10, limit), queue.excess(held, 11, limit)), (None, mine), "a quarter is for each");
    // What has failed is not held any more.
    assert!(send(&mut queue, at(0), A, 1).is_some());
    queue.on_answer(at(0), A, 1, refused(Fault::ReadOnly));
    assert_eq!((queue.bytes, queue.excess(0, 11, 40)), (0, None));
}

#[test]
fn records_have_room_up_to_each_limit_in_memory_that_is_counted() {
    let raw = RawMessage { timestamp_ms: 1, key: None, payload: b"some text" };
    for (most, limit, end) in [(500, 1 << 20, 500), (1 << 20, 2000, 500)] {
        let mut queue = queue(false);
        let mut spares = Spares::default();
        assert!(!queue.has_room(1));
        while queue.takes(20, u32::MAX, most) && queue.excess(0, 20, limit).is_none() {
            queue.make_room(20, most, limit, &mut spares);
            let held = queue.held();
            while queue.has_room(20) {
                queue.push(None, &raw).unwrap();
                assert_eq!(queue.held(), held);
            }
        }
        assert!((end - 20..=end).contains(&queue.collected().1), "{:?}", queue.collected());
        queue.seal(&mut spares).unwrap();
        assert!(!queue.has_room(1), "it was that of the bundle");
        queue.make_room(20, most, limit, &mut spares);
        queue.take_back(Bundle::default());
        assert!(!queue.has_room(1), "more is held now");
    }
}
