//! Connections of a fetcher that end, cannot be made, or are given back.

use super::*;

#[test]
fn a_lost_connection_gives_back_what_was_asked_for_and_rests() {
    let mut s = Setting::asked(2, 2, |s| s);
    let now = s.net.pass(ms(1));
    s.end(0);
    assert!(s.fetcher.retry.is_in_trouble() && s.fetcher.is_resting(now) && !s.fetcher.is_used());
    let until = s.fetcher.channel.due();
    assert!(until > now && !s.fetcher.is_resting(until));
    assert_eq!((s.all.stats.reconnects, s.all.stats.failed_brokers), (1, 0));
    assert!(matches!((s.state(0), s.state(1)), (State::Paused(_), State::Paused(_))));
    assert!(s.all.get(0).needs_mark() && s.all.get(0).leader().is_none());
    // It is not dialed before its time, and then one by one.
    s.ask();
    assert_eq!(s.net.dialed().len(), 1);
    let now = s.net.pass(s.all.next_wake().since(now) + ms(100));
    assert!(!s.fetcher.is_resting(now));
    s.ask();
    assert_eq!(s.net.dialed().len(), 2);
    s.greet(1);
    s.ask();
    // A harmless question first, for both of them.
    assert_eq!((s.fetcher.conn.load, s.fetcher.in_flight.len()), (Load::default(), 1));
    s.send(1, 2, &[PartitionAnswer::OutOfRange { high_water_mark: 9, first_available: 1 }; 2], &[], 0);
    s.receive();
    assert!(!s.fetcher.retry.is_in_trouble());
    s.ask();
    assert_eq!((s.fetcher.conn.load, s.fetcher.in_flight.len()), (Load { risky: 1, suspects: 1 }, 1));
    s.send(1, 3, &[EMPTY], &[], 0);
    s.receive();
    assert_eq!((s.fetcher.conn.load, s.fetcher.in_flight.len()), (Load { risky: 1, suspects: 1 }, 1), "the other one");
    // Nothing else was in flight: it is to blame.
    s.end(1);
    let e = s.inbox.take_error();
    assert!(
        matches!(e, Some(Error { kind: ErrorKind::Broker { fault: Fault::Deadly { seq: 2, mark: 9 }, .. }, .. })),
        "{e:?}"
    );
}

#[test]
fn a_connection_that_ended_late_or_inside_an_answer_did_not_die_of_the_fetch() {
    for (after, begun, suspect) in [(9_999, 0, true), (10_000, 0, false), (0, 2, false), (0, 12, false)] {
        let mut s = Setting::asked(1, 1, |s| s);
        s.net.pass(ms(after));
        if begun > 0 {
            // Some bytes of the answer, or all but its bundle, are missing.
            s.send(0, 1, &[data(12)], &BUNDLE, begun + if begun == 2 { 12 } else { 0 });
            s.receive();
        }
        s.end(0);
        assert_eq!(s.all.get(0).needs_mark(), suspect, "{after}, {begun}");
    }
    // Nor of one that had not gone out.
    let mut s = Setting::new(1, 1, |s| s);
    s.ask();
    s.greet(0);
    s.wire(0, |wire| wire.room = 10);
    s.ask();
    s.end(0);
    assert!(!s.all.get(0).needs_mark());
}

#[test]
fn a_broker_that_cannot_be_reached_is_counted_as_such() {
    let mut s = Setting::new(1, 1, |s| s);
    s.net.refuse("10.0.0.1:5".parse().unwrap(), 111);
    s.ask();
    assert_eq!((s.all.stats.reconnects, s.all.stats.failed_brokers), (0, 1));
    assert!(s.fetcher.retry.is_in_trouble() && s.inbox.take_error().is_none());
    // What this machine lacks is said at once.
    let mut s = Setting::new(1, 1, |s| s);
    s.net.refuse("10.0.0.1:5".parse().unwrap(), 24);
    s.ask();
    assert!(matches!(s.inbox.take_error(), Some(Error { kind: ErrorKind::Connect, .. })));
}

#[test]
fn a_connection_that_had_ended_while_idle_is_dialed_again_without_trouble() {
    for (after, quiet) in [(999, true), (1000, false)] {
        let mut s = Setting::asked(1, 10, |s| s);
        s.net.pass(ms(400));
        s.send(0, 1, &[EMPTY], &[], 0);
        s.receive();
        assert!(s.fetcher.is_idle());
        s.ask();
        assert!(!s.fetcher.is_idle() && !s.all.looks_for_added);
        s.net.pass(ms(after));
        s.end(0);
        assert_eq!(
            (s.all.stats.reconnects, s.fetcher.retry.is_in_trouble()),
            (u64::from(!quiet), !quiet),
            "after {after} ms"
        );
        assert_eq!((s.all.looks_for_added, s.state(0) == State::Idle), (quiet, quiet));
    }
}

#[test]
fn connections_that_end_after_answers_without_messages_are_trouble() {
    let pause =
        |s: &Setting| Some(s.all.next_wake()).filter(|wake| *wake < Time::NEVER).map(|wake| wake.since(s.net.now()));
    // After the question for the marks, or an empty answer that no wait came before. The number after the mark is no suspect.
    // However long the way is: the answer came at once.
    let marks = PartitionAnswer::OutOfRange { high_water_mark: 9, first_available: 1 };
    for (answer, way) in [(marks, ms(0)), (EMPTY, ms(0)), (EMPTY, ms(100)), (EMPTY, ms(400))] {
        let mut s = Setting::asked(1, 10, |s| s);
        let mut paused = Duration::ZERO;
        for wire in 0..100 {
            s.end(wire);
            paused += pause(&s).unwrap_or_default();
            s.net.pass(pause(&s).unwrap_or(ms(1)));
            s.ask();
            s.greet(wire + 1);
            s.ask();
            let id = *s.fetcher.in_flight.keys().next().unwrap();
            s.net.pass(way);
            s.send(wire + 1, id, &[answer], &[], 0);
            s.receive();
            paused += pause(&s).unwrap_or_default();
            if paused >= Duration::from_secs(2) {
                break;
            }
            s.net.pass(pause(&s).unwrap_or_default());
            s.ask();
        }
        assert!(paused >= Duration::from_secs(2), "{answer:?} over {way:?}: a hundred with pauses of {paused:?}");
    }
}

#[test]
fn in_a_forked_child_what_the_parent_had_in_flight_is_asked_for_again() {
    for is_wanted in [false, true] {
        let mut s = Setting::asked(1, 1, |s| s);
        s.net.fork();
        s.session.pool.settings.look_at_process();
        if is_wanted {
            // Then the connection is left when it is to be used.
            s.fetcher.wanted.push(0, Risk::Risky);
            s.ask();
        }
        s.receive();
        // That is no trouble, so it needs no budget.
        assert_eq!(
            (s.fetcher.is_idle(), s.state(0), s.all.stats.failed_brokers),
            (true, State::Idle, 0),
            "{is_wanted}"
        );
        assert!(!s.all.get(0).needs_mark() && s.inbox.take_error().is_none());
        s.ask();
        s.greet(s.net.dialed().len() - 1);
        s.ask();
        assert_eq!(s.fetcher.in_flight.len(), 1);
    }
}

#[test]
fn malformed_data_from_a_leader_that_was_lost_since_names_no_broker() {
    let mut s = Setting::asked(300, 1, |s| s);
    assert_eq!(s.fetcher.in_flight.len(), 2);
    // It says that it is compressed, and is not.
    let mut bundle = BUNDLE;
    bundle[1] |= 1;
    s.send(0, 1, &[[data(12)].as_slice(), &[EMPTY; 249]].concat(), &bundle, 0);
    s.receive();
    assert!(s.inbox.has_bundles());
    s.end(0);
    assert_eq!(s.messages(), 0);
    let e = s.inbox.take_error().unwrap();
    assert_eq!((&e.kind, e.broker()), (&ErrorKind::Decode, None), "{e}");
}

#[test]
fn a_fetch_is_overdue_once_the_broker_has_had_time_to_wait_and_to_answer() {
    // It waits for up to 5 seconds and some more, and has 30 to answer.
    let mut s = Setting::asked(1, 10, |s| s);
    s.net.pass(Duration::from_secs(35));
    s.receive();
    assert_eq!(s.all.stats.reconnects, 0);
    s.net.pass(Duration::from_secs(1));
    s.receive();
    assert_eq!(s.all.stats.reconnects, 1);
    // Pings are no answer, however slowly they come.
    let mut s = Setting::asked(1, 10, |s| s);
    for byte in PING.into_iter().cycle().take(36) {
        assert_eq!(s.all.stats.reconnects, 0);
        s.pass(Duration::from_secs(1));
        s.wire(0, |wire| wire.incoming.push_back(byte));
        s.receive();
    }
    s.receive();
    assert_eq!(s.all.stats.reconnects, 1);
    // It does not wait where there is something.
    let mut s = Setting::asked(1, 1, |s| s.stop_at_end());
    s.net.pass(ms(29_999));
    s.receive();
    assert_eq!(s.all.stats.reconnects, 0);
    s.net.pass(ms(1));
    s.receive();
    assert_eq!(s.all.stats.reconnects, 1);
}

#[test]
fn a_time_out_on_a_fresh_connection_does_not_end_trouble() {
    let mut s = Setting::asked(1, 10, |s| s);
    for wire in 0..3 {
        assert!(s.inbox.take_error().is_none(), "{wire}");
        let now = s.net.pass(Duration::from_secs(36));
        s.receive();
        assert_eq!(s.all.stats.reconnects, wire + 1);
        s.net.pass(Duration::from_secs(5).min(s.all.next_wake().since(now)) + ms(200));
        s.ask();
        if s.net.dialed().len() > wire as usize + 1 {
            s.greet(wire as usize + 1);
            s.ask();
        }
    }
    let e = s.inbox.take_error();
    assert!(matches!(e, Some(Error { kind: ErrorKind::Timeout { .. }, .. })), "after more than a minute: {e:?}");
}

#[test]
fn connections_that_are_lost_without_an_answer_are_one_trouble_however_long_they_last() {
    for (seconds, is_trouble) in [(4, false), (15, true), (25, true)] {
        let mut s = Setting::asked(1, 10, |s| s);
        let (mut wire, mut e, began) = (0, None, s.net.now());
        while e.is_none() && s.net.now().since(began) < Duration::from_secs(200) {
            if !is_trouble {
                // An answer comes first, and the connection ends in a wait that was asked for.
                s.pass(Duration::from_secs(10));
                let id = *s.fetcher.in_flight.keys().next().unwrap();
                s.send(wire, id, &[EMPTY], &[], 0);
                s.receive();
                s.ask();
            }
            s.pass(Duration::from_secs(seconds));
            s.end(wire);
            e = s.inbox.take_error();
            while e.is_none() && s.fetcher.is_idle() {
                s.net.pass(ms(100));
                s.ask();
                if s.net.dialed().len() > wire + 1 {
                    wire += 1;
                    s.greet(wire);
                    s.ask();
                }
            }
        }
        assert_eq!(e.map(|e| e.is_connection_lost()), is_trouble.then_some(true), "after {seconds} s");
    }
}

#[test]
fn a_connection_that_answered_had_not_ended_while_idle() {
    let mut s = Setting::asked(1, 10, |s| s);
    s.net.pass(ms(400));
    s.send(0, 1, &[EMPTY], &[], 0);
    s.receive();
    s.ask();
    s.send(0, 2, &[EMPTY], &[], 2);
    s.end(0);
    assert_eq!((s.all.stats.reconnects, s.all.looks_for_added), (1, false));
}

#[test]
fn only_a_connection_with_nothing_on_it_is_given_back() {
    for (rest, is_kept) in [(&[][..], true), (&PING[..2], false)] {
        let mut s = Setting::asked(1, 10, |s| s);
        s.send(0, 1, &[EMPTY], rest, 0);
        s.receive();
        let broker = s.fetcher.channel.broker().clone();
        s.fetcher.give_back(&s.session);
        assert_eq!(s.session.pool.take(&broker).is_up(), is_kept);
    }
    let s = Setting::asked(1, 10, |s| s);
    let broker = s.fetcher.channel.broker().clone();
    s.fetcher.give_back(&s.session);
    assert!(!s.session.pool.take(&broker).is_up(), "an answer is awaited");
}

#[test]
fn a_new_connection_in_the_place_of_one_that_was_used_is_a_reason_to_look_for_added_partitions() {
    let mut s = Setting::asked(1, 10, |s| s);
    s.net.pass(ms(400));
    // The rest of this ping never comes.
    s.send(0, 1, &[EMPTY], &PING[..2], 0);
    s.receive();
    assert!(!s.all.looks_for_added, "the first one is no reason");
    s.wire(0, |wire| wire.ended = true);
    s.receive();
    assert!(s.fetcher.channel.is_up(), "nobody reads where nothing is awaited");
    s.ask();
    s.greet(1);
    s.ask();
    assert!(s.fetcher.in_flight.len() == 1 && s.all.looks_for_added);
    assert_eq!((s.all.stats.reconnects, s.fetcher.retry.is_in_trouble()), (0, false));
    s.send(1, 2, &[EMPTY], &[], 0);
    s.receive();
    assert!(s.fetcher.is_idle() && s.inbox.take_error().is_none());
    // What was noted elsewhere stays noted.
    let mut s = Setting::new(1, 10, |s| s);
    s.all.looks_for_added = true;
    s.ask();
    s.greet(0);
    s.ask();
    assert!(!s.fetcher.is_idle() && s.all.looks_for_added);
}

#[test]
fn the_silence_before_a_time_out_is_no_time_well_spent() {
    for (heard, healthy_for) in [("", 0), ("a ping", 0), ("an answer", 30)] {
        let mut s = Setting::asked(1, 1, |s| s.stop_at_end());
        if heard == "an answer" {
            s.pass(Duration::from_secs(30));
            s.send(0, 1, &[data(12)], &BUNDLE, 0);
            assert_eq!(s.messages(), 1);
            s.ask();
        }
        s.pass(Duration::from_secs(20));
        if heard == "a ping" {
            s.wire(0, |wire| wire.incoming.extend(PING));
            s.receive();
        }
        s.pass(Duration::from_secs(5));
        let e = Error::timeout(&"b:1", Phase::Wait, Duration::from_secs(25));
        let lost = s.fetcher.take_lost(&e, false);
        assert_eq!(lost.iter().map(|(_, how)| how.healthy_for.as_secs()).collect::<Vec<_>>(), [healthy_for], "{heard}");
    }
}

#[test]
fn what_was_wanted_and_not_asked_for_had_no_part_in_the_end_of_a_connection() {
    // For a wait of 5 seconds a broker takes up to 5.184.
    for (after, healthy_for) in [(5_184, 5_184), (5_185, 0)] {
        let mut s = Setting::asked(2, 10, |s| s);
        s.pass(ms(after));
        s.fetcher.wanted.push(1, Risk::Risky);
        let e = Error::disconnected(&"b:1", Phase::Wait);
        let asked = Lost { while_idle: false, healthy_for: ms(healthy_for), unanswered: true, alone: false };
        let wanted = Lost { while_idle: true, ..Lost::default() };
        assert_eq!(s.fetcher.take_lost(&e, false), [(0, asked), (1, asked), (1, wanted)]);
    }
}
