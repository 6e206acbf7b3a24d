//! Trouble of a partition: whose it is, when it ends, and how long it pauses.

use super::*;

#[test]
fn two_policies_for_two_directions() {
    let rules = alone(|s| s.out_of_range(OutOfRange::Earliest));
    let mut p = Partition::new(0, 5, marks(1, 20), &rules.options);
    ask(&mut p, &rules);
    // Retention is faster, three times: each try comes nearer, so there is no pause and no end of patience.
    for (n, first) in [(0, 10), (100_000, 12), (200_000, 15)] {
        let from = p.fetch_from;
        assert_eq!(p.on_answer(at(n), out_of_range(first, 20), &rules), Next::Gap(from, first - 1));
        p.on_end(at(n), false, &rules);
        assert_eq!(ask(&mut p, &rules).seq, first);
    }
    // The same again is trouble: at once, then with pauses, then for too long.
    p.on_answer(at(200_000), out_of_range(15, 20), &rules);
    p.on_end(at(200_000), false, &rules);
    assert_eq!(p.state, State::Idle);
    ask(&mut p, &rules);
    p.on_answer(at(200_000), out_of_range(15, 20), &rules);
    assert!(pause(&p) > at(200_000));
    p.wake(pause(&p));
    assert_eq!(p.on_answer(at(260_000), out_of_range(15, 20), &rules), not_there(15, 15));

    let mut p = Partition::new(0, 30, None, &rules.options);
    assert_eq!(p.on_answer(at(0), out_of_range(1, 20), &rules), not_there(30, 1));
    let rules = alone(|s| s.beyond_end(OutOfRange::Latest));
    let mut p = Partition::new(0, 30, None, &rules.options);
    assert_eq!(p.on_answer(at(0), out_of_range(1, 20), &rules), Next::Go);
    assert_eq!(p.position, 21);
}

#[test]
fn one_redirect_after_a_rest_is_followed_at_once_and_the_budget_is_one() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 1, None, &rules.options);
    let mut now = at(0);
    let mut hops = 0;
    loop {
        ask(&mut p, &rules);
        assert_eq!(p.on_answer(now, PartitionAnswer::Redirect(endpoint()), &rules), Next::AskAt(endpoint()));
        hops += 1;
        let next = p.on_named(now, endpoint(), Ok(Some(leader())), &rules);
        if next != Next::Go {
            let e = Error::refused("t", 0, Fault::Redirects { hops, last: endpoint() }).at(&leader());
            assert_eq!(next, Next::Fail(e));
            break;
        }
        p.on_end(now, false, &rules);
        assert_eq!((p.leader.as_ref(), hops % 2 == 1), (Some(&leader()), p.state == State::Idle));
        if hops % 2 == 0 {
            now = pause(&p);
            p.wake(now);
        }
    }
    assert_eq!((now, hops > 30), (at(60_000), true), "{hops}");
    // Nobody is named: as if there were none.
    let mut p = Partition::new(0, 1, None, &rules.options);
    ask(&mut p, &rules);
    assert_eq!(p.on_named(at(0), endpoint(), Ok(None), &rules), Next::NoLeader);
    assert!(p.leader.is_none() && pause(&p) > at(0));
    p.wake(pause(&p));
    // Without a budget the first redirect still leads somewhere.
    let mut rules = rules;
    rules.retry.timeout = Duration::ZERO;
    let mut p = Partition::new(0, 1, None, &rules.options);
    assert_eq!(p.on_named(at(0), endpoint(), Ok(Some(leader())), &rules), Next::Go);
    let e = Error::refused("t", 0, Fault::NoLeader).at(&leader());
    assert_eq!(p.on_answer(at(0), PartitionAnswer::NoLeader, &rules), Next::Fail(e));
}

#[test]
fn trouble_ends_with_an_answer_or_a_connection_that_was_well() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 1, marks(1, 0), &rules.options);
    let ended = |healthy_for| Lost { while_idle: false, healthy_for, unanswered: false, alone: false };
    let lose = |p: &mut Partition, now, how| {
        ask(p, &rules);
        let next = lose(p, now, how, &rules);
        p.state = State::Idle;
        next
    };
    assert_eq!(lose(&mut p, at(0), ended(Duration::ZERO)), Next::Go);
    assert_eq!(lose(&mut p, at(60_000), ended(Duration::from_secs(10))), Next::Go, "new trouble");
    assert_eq!(lose(&mut p, at(119_000), Lost::default()), Next::Go);
    let failure = Error::disconnected(&"b:1", crate::Phase::Wait).about("t", 0);
    assert_eq!(lose(&mut p, at(120_000), Lost::default()), Next::Fail(failure));
    ask(&mut p, &rules);
    p.on_answer(at(121_000), data(0, 0), &rules);
    p.on_end(at(121_000), false, &rules);
    assert_eq!(lose(&mut p, at(500_000), ended(Duration::ZERO)), Next::Go);
    let while_idle = Lost { while_idle: true, healthy_for: Duration::ZERO, unanswered: false, alone: true };
    assert_eq!(lose(&mut p, at(600_000), while_idle), Next::Go, "that is no trouble");
    // With a short budget, a connection need not have been well for longer than that.
    let mut hasty = alone(|s| s);
    hasty.retry.timeout = Duration::from_secs(2);
    let mut p = Partition::new(0, 1, marks(1, 0), &hasty.options);
    for (ms, healthy_ms, is_over) in [(0, 0, false), (3000, 2000, false), (6000, 1999, true)] {
        p.state = State::InFlight;
        let how = ended(Duration::from_millis(healthy_ms));
        assert_eq!(super::lose(&mut p, at(ms), how, &hasty) != Next::Go, is_over, "{ms}");
    }
}

#[test]
fn an_answer_about_it_ends_the_trouble_of_reaching_its_leader() {
    let rules = alone(|s| s.beyond_end(OutOfRange::Latest).out_of_range(OutOfRange::Latest));
    // A lost leader and redirects, for a minute; then an answer that moves nothing.
    let troubled = || {
        let mut p = Partition::new(0, 30, None, &rules.options);
        for ms in [0, 30_000, 59_000] {
            assert_eq!(lose(&mut p, at(ms), Lost::default(), &rules), Next::Go);
            p.wake(pause(&p));
            assert_eq!(p.on_named(at(ms), endpoint(), Ok(Some(leader())), &rules), Next::Go);
            p.state = State::Idle;
        }
        p
    };
    let mut p = troubled();
    ask(&mut p, &rules);
    assert_eq!((p.on_answer(at(61_000), out_of_range(1, 20), &rules), p.position), (Next::Go, 21));
    p.on_end(at(61_000), false, &rules);
    assert_eq!(p.state, State::Idle, "at once, for the number that was named");
    assert_eq!(lose(&mut p, at(62_000), Lost::default(), &rules), Next::Go, "new trouble");
    // That the number is rejected again has a budget of its own, which redirects in between do not prolong.
    let mut now = at(62_000);
    let end = loop {
        p.state = State::InFlight;
        now = now.after(Duration::from_millis(1));
        match p.on_answer(now, out_of_range(1, 20), &rules) {
            Next::Fail(e) => break e,
            _ => now = pause(&p),
        }
        p.state = State::InFlight;
        assert_eq!(p.on_named(now, endpoint(), Ok(Some(leader())), &rules), Next::Go);
        assert_eq!(p.state, State::InFlight, "the first redirect after an answer is followed at once");
    };
    assert!(matches!(end.kind, ErrorKind::OutOfRange { .. }), "{end:?}");
    assert!(now.since(at(61_000)) >= FOR_LONG && now.since(at(61_000)) < FOR_LONG + Duration::from_secs(2), "{now:?}");
    // So has a chunk above the mark.
    let mut p = troubled();
    for (now, next) in [(61_000, Next::Go), (120_000, Next::Go), (121_000, fail(Fault::Stuck { seq: 30 }))] {
        p.state = State::InFlight;
        p.on_answer(at(now), data(20, 100), &rules);
        let next = match next {
            Next::Fail(e) => Next::Fail(e.at(&leader())),
            next => next,
        };
        assert_eq!(p.on_chunk_end(at(now), ChunkEnd::AboveMark, &rules), next);
    }
    // Both end with a connection that was well.
    let well = Lost { healthy_for: Duration::from_secs(10), ..Lost::default() };
    p.state = State::InFlight;
    assert_eq!(lose(&mut p, at(200_000), well, &rules), Next::Go);
    p.state = State::InFlight;
    p.on_answer(at(200_000), data(20, 100), &rules);
    assert_eq!(p.on_chunk_end(at(200_000), ChunkEnd::AboveMark, &rules), Next::Go);
}

#[test]
fn it_is_asked_for_again_only_when_its_answer_has_been_read_however_long_that_takes() {
    let rules = rules(|s| s, true);
    let end = |p: &mut Partition, lost| match lost {
        true => assert_eq!(lose(p, at(5_000), Lost::default(), &rules), Next::Go),
        false => p.on_end(at(5_000), false, &rules),
    };
    for lost in [false, true] {
        let mut p = Partition::new(0, 6, marks(1, 11), &rules.options);
        ask(&mut p, &rules);
        assert!(matches!(p.on_answer(at(0), PartitionAnswer::NoLeader, &rules), Next::NoLeader));
        let until = pause(&p);
        p.wake(at(4_000));
        assert!(until < at(4_000) && p.wants(&rules).unwrap().is_none(), "its answer is still being read");
        end(&mut p, lost);
        assert_eq!(p.state, State::Paused(until), "for as long as the answer said");
        p.wake(at(5_000));
        assert_eq!(ask(&mut p, &rules).seq, 6);
    }
}

#[test]
fn what_ends_two_connections_is_not_asked_for_again() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 6, marks(1, 11), &rules.options);
    assert_eq!(ask(&mut p, &rules).risk, Risk::Risky);
    assert_eq!(lose(&mut p, at(0), lost(true, false), &rules), Next::Go);
    assert!(p.needs_mark());
    // A connection that ends on a harmless question proves nothing: it is asked again.
    let answer_mark = |p: &mut Partition| {
        p.wake(pause(p));
        let want = ask(p, &rules);
        assert!(want.seq == SEQ_BEYOND_END && want.risk == Risk::Harmless && !want.waits, "{want:?}");
        assert_eq!(p.on_answer(at(1), out_of_range(1, 12), &rules), Next::Go);
        p.on_end(at(1), false, &rules);
    };
    for _ in 0..3 {
        p.wake(pause(&p));
        assert_eq!(ask(&mut p, &rules).seq, SEQ_BEYOND_END);
        assert_eq!(lose(&mut p, at(0), lost(true, true), &rules), Next::Go);
    }
    answer_mark(&mut p);
    let want = ask(&mut p, &rules);
    assert!(want.seq == 6 && want.alone && want.risk == Risk::Suspect && !want.waits, "{want:?}");
    let deadly = fail(Fault::Deadly { seq: 6, mark: 12 });
    assert_eq!(lose(&mut p, at(1), lost(true, true), &rules), deadly);
    // Among others it cannot be known; an answer clears it; and the number after the mark is safe.
    let mut p = Partition::new(0, 6, marks(1, 11), &rules.options);
    for _ in 0..3 {
        ask(&mut p, &rules);
        assert_eq!(lose(&mut p, at(0), lost(true, false), &rules), Next::Go);
        answer_mark(&mut p);
    }
    ask(&mut p, &rules);
    bring(&mut p, at(1), 6, 6, 11, &rules);
    assert!(p.suspicion == Suspicion::Clear);
    let mut p = Partition::new(0, 13, marks(1, 12), &rules.options);
    for _ in 0..3 {
        let want = ask(&mut p, &rules);
        assert!(want.seq == 13 && want.risk == Risk::Harmless, "{want:?}");
        assert_eq!(lose(&mut p, at(0), lost(true, true), &rules), Next::Go);
        answer_mark(&mut p);
        assert!(p.suspicion == Suspicion::Clear);
    }
    // Unless the log has grown meanwhile: then it may lie in a gap.
    let mut p = Partition::new(0, 12, marks(1, 11), &rules.options);
    ask(&mut p, &rules);
    assert_eq!(lose(&mut p, at(0), lost(true, true), &rules), Next::Go);
    answer_mark(&mut p);
    assert_eq!(ask(&mut p, &rules).risk, Risk::Suspect);
    let deadly = fail(Fault::Deadly { seq: 12, mark: 12 });
    assert_eq!(lose(&mut p, at(1), lost(true, true), &rules), deadly);
}

#[test]
fn brokers_that_do_not_lead_it_leave_it_suspect() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 6, marks(1, 11), &rules.options);
    ask(&mut p, &rules);
    lose(&mut p, at(0), lost(true, true), &rules);
    p.wake(pause(&p));
    for answer in [out_of_range(1, 12), PartitionAnswer::Redirect(endpoint()), PartitionAnswer::NoLeader] {
        ask(&mut p, &rules);
        if let Next::AskAt(named) = p.on_answer(at(1), answer, &rules) {
            p.on_named(at(1), named, Ok(Some(leader())), &rules);
        }
        p.on_end(at(1), false, &rules);
        p.wake(at(60_000));
    }
    let want = ask(&mut p, &rules);
    assert_eq!((want.seq, want.risk), (6, Risk::Suspect));
    let deadly = fail(Fault::Deadly { seq: 6, mark: 12 });
    assert_eq!(lose(&mut p, at(60_000), lost(true, true), &rules), deadly, "not at a third one");
}

#[test]
fn an_empty_answer_to_the_question_for_the_marks_has_the_marks() {
    let rules = alone(|s| s.out_of_range(OutOfRange::Earliest));
    let mut p = Partition::new(0, 6, marks(1, 11), &rules.options);
    ask(&mut p, &rules);
    lose(&mut p, at(0), lost(true, false), &rules);
    p.wake(pause(&p));
    assert_eq!(ask(&mut p, &rules).seq, SEQ_BEYOND_END);
    assert_eq!(p.on_answer(at(1), data(12, 0), &rules), Next::Go);
    p.on_end(at(1), false, &rules);
    let want = ask(&mut p, &rules);
    assert_eq!((want.seq, want.risk), (6, Risk::Suspect), "it is not asked for the marks for ever");
    // Nor does it count as messages of a partition whose begin is not known yet.
    let mut p = Partition::before_end(0, 5, &rules.options);
    ask(&mut p, &rules);
    assert_eq!(p.on_answer(at(1), data(12, 0), &rules), Next::Go);
    p.on_end(at(1), false, &rules);
    assert_eq!((p.position, ask(&mut p, &rules).seq), (8, 8));
}

#[test]
fn a_fault_that_contradicts_itself_leads_neither_back_nor_past_what_is_there() {
    for rules in [alone(|s| s.out_of_range(OutOfRange::Earliest)), alone(|s| s.out_of_range(OutOfRange::Latest))] {
        let policy = rules.options.out_of_range;
        let mut p = Partition::new(0, 4, marks(1, 11), &rules.options);
        for _ in 0..3 {
            assert_eq!(ask(&mut p, &rules).seq, 4, "{policy}");
            assert_eq!(p.on_answer(at(0), out_of_range(1, 9), &rules), Next::Go);
            p.on_end(at(0), false, &rules);
            p.wake(at(60_000));
        }
        // Where retention took the number, the policy says what follows.
        p.on_answer(at(0), out_of_range(7, 9), &rules);
        assert_eq!(p.position, if policy == OutOfRange::Latest { 10 } else { 7 });
    }
}

#[test]
fn a_redirect_that_follows_a_pause_without_a_leader_is_followed_at_once() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 1, None, &rules.options);
    ask(&mut p, &rules);
    assert_eq!(p.on_answer(at(0), PartitionAnswer::NoLeader, &rules), Next::NoLeader);
    p.on_end(at(0), false, &rules);
    p.wake(pause(&p));
    ask(&mut p, &rules);
    assert_eq!(p.on_named(at(1000), endpoint(), Ok(Some(leader())), &rules), Next::Go);
    p.on_end(at(1000), false, &rules);
    ask(&mut p, &rules);
    // Whoever is named knows of nobody either.
    assert_eq!(p.on_answer(at(1001), PartitionAnswer::NoLeader, &rules), Next::NoLeader);
    assert!(pause(&p) > at(1001));
}

#[test]
fn a_redirect_that_follows_a_lost_connection_is_followed_at_once() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 1, None, &rules.options);
    for ms in [0, 30_000, 60_000] {
        ask(&mut p, &rules);
        assert_eq!(p.on_named(at(ms), endpoint(), Ok(Some(leader())), &rules), Next::Go);
        p.on_end(at(ms), false, &rules);
        assert_eq!(p.state, State::Idle, "also when the budget has ended in the pause");
        if ms < 60_000 {
            assert_eq!(lose(&mut p, at(ms + 1), Lost::default(), &rules), Next::Go);
            p.wake(pause(&p));
        }
    }
}

#[test]
fn what_lies_above_the_mark_is_waited_for_while_that_moves() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 10, marks(1, 9), &rules.options);
    let mut above = |now, mark| {
        ask(&mut p, &rules);
        p.on_answer(now, data(mark, 100), &rules);
        let next = p.on_chunk_end(now, ChunkEnd::AboveMark, &rules);
        p.on_end(now, false, &rules);
        let state = p.state;
        p.state = State::Idle;
        (next, state)
    };
    let (_, first) = above(at(0), 5);
    let (_, second) = above(at(1000), 5);
    assert!(matches!((first, second), (State::Paused(a), State::Paused(b)) if b.since(at(1000)) > a.since(at(0))));
    for (now, mark) in [(2000, 6), (62_000, 7), (122_000, 6)] {
        let (next, moved) = above(at(now), mark);
        assert!(next == Next::Go && matches!(moved, State::Paused(until) if until <= at(now + 100)), "{moved:?}");
    }
    assert!(matches!(above(at(123_000), 6), (Next::Go, State::Paused(_))));
    assert_eq!(above(at(182_000), 6).0, fail(Fault::Stuck { seq: 10 }));
}

#[test]
fn a_broker_that_does_not_wait_gets_pauses_that_grow() {
    let mut rules = alone(|s| s);
    rules.retry.pauses = (FOR_LONG, FOR_LONG);
    let mut p = Partition::new(0, 1, marks(1, 0), &rules.options);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        ask(&mut p, &rules);
        p.on_answer(at(0), data(0, 0), &rules);
        p.on_end(at(0), true, &rules);
        pauses.push(pause(&p).since(at(0)));
        p.wake(pause(&p));
    }
    assert!(pauses[0] <= IDLE_PAUSES.0 && pauses[7] > IDLE_PAUSES.1 / 2 && pauses[7] <= IDLE_PAUSES.1, "{pauses:?}");
    ask(&mut p, &rules);
    bring(&mut p, at(0), 1, 1, 1, &rules);
    ask(&mut p, &rules);
    p.on_answer(at(0), data(1, 0), &rules);
    p.on_end(at(0), true, &rules);
    assert!(pause(&p).since(at(0)) <= IDLE_PAUSES.0, "it begins again");
}

#[test]
fn a_partition_that_may_not_be_there_is_no_trouble() {
    let rules = rules(|s| s, true);
    let mut p = Partition::dormant(0, "t", 0, &rules.options);
    assert!(p.wants(&rules).unwrap().is_none());
    p.probe();
    let want = ask(&mut p, &rules);
    assert!(want.alone && !want.waits && want.seq == SEQ_BEYOND_END, "{want:?}");
    p.probe();
    assert_eq!(p.state, State::InFlight, "it is being asked for");
    for answer in [PartitionAnswer::UnknownPartition, PartitionAnswer::NoLeader, PartitionAnswer::SystemError] {
        assert_eq!(p.on_answer(at(0), answer, &rules), Next::Go);
        // A line of others that is lost lets it be looked for again, but not before this answer has been read.
        p.probe();
        assert!(p.is_probe() && p.wants(&rules).unwrap().is_none());
        p.on_end(at(0), false, &rules);
        assert_eq!(p.state, State::Done);
        p.probe();
        ask(&mut p, &rules);
    }
    // Redirected without end.
    for _ in 0..MAX_REDIRECTS {
        assert_eq!(p.on_answer(at(0), PartitionAnswer::Redirect(endpoint()), &rules), Next::AskAt(endpoint()));
        p.on_named(at(0), endpoint(), Ok(Some(leader())), &rules);
        p.on_end(at(0), false, &rules);
        ask(&mut p, &rules);
    }
    p.on_answer(at(0), PartitionAnswer::Redirect(endpoint()), &rules);
    p.on_end(at(0), false, &rules);
    assert_eq!(p.state, State::Done);
    p.probe();
    ask(&mut p, &rules);
    assert_eq!((lose(&mut p, at(0), Lost::default(), &rules), p.state), (Next::Go, State::Done));
    p.probe();
    ask(&mut p, &rules);
    p.on_answer(at(0), data(3, 0), &rules);
    assert!(!p.is_probe() && p.has_begun());
}

#[test]
fn messages_end_trouble_before_their_chunk_has_ended() {
    let rules = alone(|s| s);
    let mut p = Partition::new(0, 1, marks(1, 20), &rules.options);
    for ms in [0, 59_000] {
        assert_eq!(lose(&mut p, at(ms), Lost::default(), &rules), Next::Go);
        p.wake(pause(&p));
        ask(&mut p, &rules);
        p.on_answer(at(ms), data(20, 100), &rules);
    }
    p.on_bundles(&mut vec![bundle(1, 5, 20, false)], 0, &rules);
    assert_eq!(lose(&mut p, at(61_000), Lost::default(), &rules), Next::Go, "new trouble");
}
