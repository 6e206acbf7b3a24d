//! One node: what comes in, what goes out, and when a connection ends.

use std::time::Duration;

use super::*;
use crate::broker::BrokerFault;
use crate::broker::machine::End;
use crate::protocol::frame::Kind;

fn with_orders(options: Options, messages: usize) -> Machine {
    let mut machine = alone(options);
    assert!(machine.create_topic("orders", 1, None));
    if messages > 0 {
        machine.append(Time::ZERO, "orders", 0, 0, &dense(messages)).unwrap().unwrap();
    }
    machine
}

#[test]
fn requests_arrive_and_answers_leave_in_pieces_of_any_size() {
    let mut machine = with_orders(Options::default(), 5);
    let request = [fetch(0, 1, 1000), fetch(0, 3, 1000)].concat();
    let conn = open(&mut machine, ms(1), 0);
    let whole = ask(&mut machine, ms(1), conn, &request);
    for size in 1..whole.len() {
        let conn = open(&mut machine, ms(2), 0);
        request.chunks(size).for_each(|piece| machine.handle(ms(2), conn, piece));
        assert_eq!(output(&mut machine, ms(2), conn, size), (whole.clone(), Pull::Nothing), "{size}");
    }
}

/// What is to be sent stays in the log until there is room for it.
#[test]
fn a_client_that_does_not_read_costs_nothing() {
    let mut machine = with_orders(Options::default(), 0);
    let bundle = crate::broker::dense_bundle(&[message(&[7; 1 << 20])], Compression::None);
    machine.append_repeated("orders", 0, &[&bundle], 1 << 20).unwrap().unwrap();
    let conn = open(&mut machine, ms(1), 0);
    (0..100).for_each(|_| machine.handle(ms(1), conn, &fetch(0, 1, 64 << 20)));
    let stats = machine.stats(0);
    assert_eq!((stats.requests(Kind::Consume), stats.answered, stats.bytes_sent), (100, 0, 5));
    // It continues where it was, and still gets what it has not read of a log that is gone.
    machine.clear("orders", 0).unwrap();
    let mut room = vec![0; 1 << 20];
    let mut left = 0u64;
    for _ in 0..10 {
        let Pull::Bytes(n) = machine.pull(ms(2), conn, &mut room) else { panic!("all sent") };
        if left == 0 {
            left = u64::from(u32::from_le_bytes(room[1..5].try_into().unwrap())) + 5;
        }
        left -= n as u64;
    }
    assert_eq!((machine.stats(0).answered, left / (1 << 20)), (0, 53));
}

#[test]
fn what_is_unread_is_executed_after_fin_and_dropped_after_reset() {
    for (how, stored) in [(End::Fin, 2), (End::Reset, 0)] {
        let mut machine = with_orders(Options::default(), 0);
        let conn = open(&mut machine, ms(1), 0);
        machine.pause(ms(2), 0);
        assert!(!machine.reads(conn) && !machine.accepts(0) && machine.listens(0));
        machine.handle(ms(3), conn, &[publish(0, 0, &dense(1)), publish(0, 0, &dense(1))].concat());
        machine.ended(ms(4), conn, how);
        machine.resume(ms(5), 0);
        assert_eq!(machine.bounds(0, "orders", 0), Some((stored.min(1), stored)));
        let end = output(&mut machine, ms(5), conn, 100);
        assert_eq!(
            end,
            if stored > 0 { ([1, 5, 0, 0, 0, 8, 0, 0, 0, 0].repeat(2), Pull::Close) } else { (vec![], Pull::Nothing) }
        );
        assert_eq!(machine.stats(0).open, 0);
    }
}

#[test]
fn a_death_ends_connections_as_a_system_does() {
    let mut machine = with_orders(Options::default(), 1);
    let [idle, waits, unread] = [0; 3].map(|_| open(&mut machine, ms(1), 0));
    machine.handle(ms(2), waits, &fetch(3_600_000, 2, 1));
    machine.handle(ms(2), idle, &fetch(0, 1, 1));
    assert_eq!(machine.stats(0).waiting, 1);
    machine.pause(ms(2), 0);
    machine.handle(ms(3), unread, &PING);
    machine.kill(ms(3), 0);
    assert!(machine.accept(ms(3), 0, HERE).is_none() && !machine.listens(0));
    let ends = [idle, waits, unread].map(|conn| {
        assert!(machine.is_torn(conn));
        output(&mut machine, ms(3), conn, 100)
    });
    assert_eq!(ends, [(vec![], Pull::Close), (vec![], Pull::Close), (vec![], Pull::Reset)]);
    assert_eq!((machine.stats(0).open, machine.stats(0).waiting, machine.due()), (0, 0, ms(16_001)));
    machine.start(ms(4), 0);
    let conn = open(&mut machine, ms(4), 0);
    assert_eq!(ask(&mut machine, ms(4), conn, &fetch(0, 1, 100)).len(), 45 + 13);
}

#[test]
fn a_connection_that_never_sent_a_byte_is_closed_after_sixteen_seconds() {
    let mut machine = with_orders(Options::default(), 1);
    let (silent, used) = (open(&mut machine, ms(0), 0), open(&mut machine, ms(0), 0));
    machine.handle(ms(15_999), used, &[2]);
    pass(&mut machine, ms(15_999));
    assert_eq!(machine.ready(), None);
    pass(&mut machine, ms(100_000));
    assert_eq!(machine.ready(), Some(silent));
    assert_eq!(machine.pull(ms(100_000), silent, &mut [0; 9]), Pull::Close);
    assert_eq!((machine.ready(), machine.due()), (None, Time::NEVER));
}

#[test]
fn the_oldest_of_more_than_sixty_four_that_never_sent_a_byte_goes() {
    let mut machine = with_orders(Options::default(), 0);
    let used = open(&mut machine, ms(0), 0);
    machine.handle(ms(0), used, &PING);
    let silent: Vec<Conn> = (0..65).map(|n| open(&mut machine, ms(n), 0)).collect();
    assert_eq!(machine.pull(ms(65), silent[0], &mut [0; 9]), Pull::Close);
    assert!(silent[1..].iter().all(|conn| machine.pull(ms(65), *conn, &mut [0; 9]) == Pull::Nothing));
}

#[test]
fn waits_end_when_a_real_clock_lets_them() {
    let patient = || with_orders(Options { silent_timeout: None, ..Options::default() }, 1);
    let mut machine = patient();
    let conn = open(&mut machine, ms(3), 0);
    for (asked, at, ends) in [(1, 10, 384), (400, 1000, 1536), (u64::MAX, 2000, 3_602_048)] {
        machine.handle(ms(at), conn, &fetch(asked, 2, 100));
        assert_eq!(pass(&mut machine, ms(5_000_000)), ms(ends), "{asked}");
        let answer = sent(&mut machine, ms(5_000_000), conn);
        assert_eq!((answer[24], answer.len()), (0, 45));
        machine = patient();
        assert_eq!(open(&mut machine, ms(3), 0), conn);
    }
}

#[test]
fn data_wakes_a_wait_and_a_later_request_overtakes_it() {
    let mut machine = with_orders(Options::default(), 1);
    let (waits, other) = (open(&mut machine, ms(1), 0), open(&mut machine, ms(1), 0));
    assert!(ask(&mut machine, ms(1), waits, &fetch(1000, 2, 100)).is_empty());
    assert_eq!(ask(&mut machine, ms(2), waits, &fetch(0, 1, 100)).len(), 45 + 13);
    while machine.ready().is_some() {}
    assert_eq!(code(&ask(&mut machine, ms(3), other, &publish(0, 0, &dense(1)))), 0);
    assert_eq!(machine.ready(), Some(waits));
    let answer = sent(&mut machine, ms(3), waits);
    assert_eq!((answer.len(), answer[25]), (45 + 13, 2), "number 2");
}

#[test]
fn faults_delay_and_trickle_in_virtual_time() {
    let mut machine = with_orders(Options::default(), 1);
    let conn = open(&mut machine, ms(0), 0);
    machine.inject(0, BrokerFault::Delay(Duration::from_secs(60)), 1);
    assert!(ask(&mut machine, ms(1), conn, &fetch(0, 1, 100)).is_empty());
    assert_eq!(pass(&mut machine, ms(100_000)), ms(60_001));
    assert_eq!(sent(&mut machine, ms(60_001), conn).len(), 58);

    machine.inject(0, BrokerFault::Trickle { bytes: 10, pause: Duration::from_secs(1) }, 1);
    machine.handle(ms(100_000), conn, &fetch(0, 1, 100));
    for second in 0..6 {
        let now = ms(100_000 + 1000 * second);
        machine.tick(now);
        assert_eq!(sent(&mut machine, now, conn).len(), if second < 5 { 10 } else { 8 });
    }
    assert_eq!(machine.stats(0).answered, 2);
}

#[test]
fn faults_cut_after_every_byte_whatever_the_room() {
    let mut machine = with_orders(Options::default(), 3);
    let conn = open(&mut machine, ms(0), 0);
    let answer = ask(&mut machine, ms(0), conn, &fetch(0, 1, 100));
    for at in 0..=answer.len() {
        for (fault, end) in
            [(BrokerFault::CutAfter(at as u64), Pull::Close), (BrokerFault::ResetAfter(at as u64), Pull::Reset)]
        {
            let conn = open(&mut machine, ms(0), 0);
            machine.inject(0, fault, 1);
            machine.handle(ms(0), conn, &fetch(0, 1, 100));
            assert_eq!(output(&mut machine, ms(0), conn, 1 + at % 7), (answer[..at].to_vec(), end));
        }
    }
    machine.inject(0, BrokerFault::StallAfter(20), 1);
    let start = ask(&mut machine, ms(0), conn, &fetch(0, 1, 100));
    assert_eq!((start.len(), machine.stats(0).stalled), (20, 1));
    machine.release(0);
    assert_eq!(sent(&mut machine, ms(1), conn), answer[20..]);
}

#[test]
fn a_deadly_request_kills_the_node_for_a_while() {
    let behaviour = Behaviour { deadly: Some(Duration::from_secs(3)), ..Behaviour::at_once() };
    let mut machine = with_orders(Options { behaviour, ..Options::default() }, 1);
    let (conn, other) = (open(&mut machine, ms(0), 0), open(&mut machine, ms(0), 0));
    let list = b"\x06\x0d\0\0\0\x01\0\0\0\x06orders\x09\0";
    machine.handle(ms(1), conn, list);
    assert_eq!([conn, other].map(|conn| machine.pull(ms(1), conn, &mut [0; 9])), [Pull::Close, Pull::Close]);
    assert!(machine.killed_by().unwrap().contains("unknown partition") && machine.deaths(0) == 1);
    assert!(!machine.listens(0));
    pass(&mut machine, ms(3001));
    assert!(machine.listens(0));
    open(&mut machine, ms(3001), 0);
}
