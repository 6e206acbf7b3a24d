use std::iter;
use std::time::Duration;

use super::super::channel::tests::{bring_up, queue, settings, up};
use super::super::scripted::Scripted;
use super::*;
use crate::error::ErrorKind;
use crate::net::{LookUp, parse_brokers};
use crate::protocol::frame::PING;

const SECOND: Duration = Duration::from_secs(1);

/// An answer of this kind, as a frame.
fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&[kind as u8][..], &(payload.len() as u32).to_le_bytes(), payload].concat()
}

fn arrive(net: &Scripted, bytes: &[u8]) {
    net.wire(0, |wire| wire.incoming.extend(bytes));
}

/// The next answer of what has come.
fn next(answers: &mut AnswerReader, channel: &mut Channel, net: &Scripted) -> Result<Option<(Kind, Range<usize>)>> {
    wait(net, &mut iter::once(&mut *channel), None, net.now())?;
    answers.next(channel, net.now())
}

#[test]
fn an_answer_is_returned_once_it_has_come_whole_and_pings_are_passed_over() {
    let net = Scripted::new();
    let (mut channel, mut answers) = (up(&net), AnswerReader::new(1 << 20));
    // Where nothing is awaited nothing is read, so the end of the connection is not noticed either.
    net.wire(0, |wire| wire.ended = true);
    assert_eq!(next(&mut answers, &mut channel, &net).unwrap(), None);
    net.wire(0, |wire| wire.ended = false);

    for id in [1, 2] {
        queue(&mut channel, net.now(), id, SECOND, b"request");
    }
    channel.write(net.now()).unwrap();
    let long = vec![7; 3 * ANSWER_BUFFER];
    let bytes = [&PING[..], &frame(Kind::Status, b"first"), &PING, &frame(Kind::Produce, &long)].concat();
    let mut found = Vec::new();
    for piece in bytes.chunks(999) {
        arrive(&net, piece);
        while let Some((kind, payload)) = next(&mut answers, &mut channel, &net).unwrap() {
            found.push((kind, answers.data()[payload].to_vec()));
            channel.on_answer_end(net.now(), found.len() as u32);
        }
    }
    assert_eq!(found, [(Kind::Status, b"first".to_vec()), (Kind::Produce, long)]);
    assert!(channel.is_idle() && answers.data().is_empty());
}

#[test]
fn an_answer_that_stops_is_overdue_and_one_that_ends_is_lost() {
    for (some, phase) in [(&b""[..], Phase::Wait), (&[Kind::Status as u8, 9], Phase::Read)] {
        for ends in [false, true] {
            let net = Scripted::new();
            let (mut channel, mut answers) = (up(&net), AnswerReader::new(1 << 20));
            queue(&mut channel, net.now(), 1, SECOND, b"request");
            channel.write(net.now()).unwrap();
            arrive(&net, some);
            assert_eq!(next(&mut answers, &mut channel, &net).unwrap(), None);
            net.wire(0, |wire| wire.ended = ends);
            wait(&net, &mut iter::once(&mut channel), None, net.now().after(60 * SECOND)).unwrap();
            let e = next(&mut answers, &mut channel, &net).unwrap_err();
            match e.kind {
                ErrorKind::Disconnected { phase: found } => assert!(ends && found == phase, "{e:?}"),
                ErrorKind::Timeout { phase: found, .. } => assert!(!ends && found == phase, "{e:?}"),
                _ => panic!("{e:?}"),
            }
        }
    }
}

#[test]
fn pings_do_not_make_up_for_an_answer_however_slowly_they_come() {
    let net = Scripted::new();
    let (mut channel, mut answers) = (up(&net), AnswerReader::new(1 << 20));
    queue(&mut channel, net.now(), 1, 3 * SECOND, b"request");
    channel.write(net.now()).unwrap();
    let began = net.now();
    // With the last byte of each comes the first one of the next.
    let mut pings = PING.into_iter().cycle();
    arrive(&net, &[pings.next().unwrap()]);
    let e = loop {
        wait(&net, &mut iter::once(&mut channel), None, net.now().after(SECOND / 4)).unwrap();
        arrive(&net, &[pings.next().unwrap(), pings.next().unwrap()]);
        match next(&mut answers, &mut channel, &net) {
            Ok(answer) => assert!(answer.is_none() && net.now().since(began) <= 3 * SECOND),
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind, ErrorKind::Timeout { phase: Phase::Wait, after: 3 * SECOND });
}

#[test]
fn a_reader_that_begins_again_keeps_nothing_of_the_connection_before() {
    let net = Scripted::new();
    let (mut channel, mut answers) = (up(&net), AnswerReader::new(1 << 20));
    queue(&mut channel, net.now(), 1, SECOND, b"request");
    channel.write(net.now()).unwrap();
    // One answer was returned, and half of another one has come.
    arrive(&net, &[frame(Kind::Status, b"first"), frame(Kind::Status, b"second")[..8].to_vec()].concat());
    assert!(next(&mut answers, &mut channel, &net).unwrap().is_some());
    answers.clear();
    arrive(&net, &frame(Kind::Produce, b"third"));
    let (kind, payload) = next(&mut answers, &mut channel, &net).unwrap().unwrap();
    assert_eq!((kind, &answers.data()[payload]), (Kind::Produce, &b"third"[..]));
}

/// A channel of its own to this broker, which is up.
fn another(pool: &Pool, net: &Scripted, broker: &str) -> Channel {
    let mut channel = Channel::new(address(broker), pool.settings.clone());
    bring_up(&mut channel, net);
    channel
}

fn address(broker: &str) -> BrokerAddr {
    parse_brokers(broker).unwrap().remove(0)
}

#[test]
fn a_wait_ends_when_a_channel_is_due_or_its_own_time_has_come() {
    for several in [false, true] {
        let net = Scripted::new();
        let (mut channel, mut other) = (up(&net), up(&net));
        let began = net.now();
        let until = began.after(9 * SECOND);
        queue(&mut channel, began, 1, 5 * SECOND, b"x");
        queue(&mut other, began, 1, 7 * SECOND, b"x");
        channel.write(began).unwrap();
        other.write(began).unwrap();
        let mut next = |channel: &mut Channel| {
            let others = several.then_some(&mut other);
            let is_over = wait(&net, &mut iter::once(channel).chain(others), None, until).unwrap();
            (is_over, net.now().since(began))
        };
        assert_eq!(next(&mut channel), (false, 5 * SECOND), "the first answer is due");
        channel.on_answer_end(net.now(), 1);
        if several {
            assert_eq!(next(&mut channel), (false, 7 * SECOND));
            assert_eq!(other.healthy_for(), 7 * SECOND, "the time that was waited is not the caller's own");
            other.on_answer_end(net.now(), 1);
        }
        let others = several.then_some(&mut other);
        assert!(wait(&net, &mut iter::once(&mut channel).chain(others), None, until).unwrap());
        assert_eq!((net.now(), channel.healthy_for()), (until, 9 * SECOND));
    }
}

#[test]
fn in_a_forked_child_connections_that_were_kept_are_left_to_the_parent() {
    let net = Scripted::new();
    let pool = Pool::new(settings(&net));
    pool.put(another(&pool, &net, "10.0.0.1:5"));
    net.fork();
    let mut channel = pool.take(&address("10.0.0.1:5"));
    assert!(!channel.open(net.now(), LookUp::Never).unwrap());
    assert!(net.dialed().len() == 2 && net.wire(0, |wire| wire.dropped && !wire.aborted));
}

#[test]
fn the_connection_used_last_is_lent_first_and_only_those_with_nothing_on_them_are_kept() {
    let net = Scripted::new();
    let pool = Pool::new(settings(&net));
    let (a, b) = ("10.0.0.1:5", "10.0.0.2:5");
    let put = |broker| {
        net.pass(SECOND);
        pool.put(another(&pool, &net, broker));
        net.now()
    };
    let is_up = |broker| pool.take(&address(broker)).is_up();
    put(a);
    let last = put(a);
    put(b);
    assert_eq!(pool.take(&address(a)).last_look(), last);
    // A channel that waits for its turn takes what is idle by now.
    let mut waiting = Channel::new(address(a), pool.settings.clone());
    pool.replace(&mut waiting);
    assert!(waiting.is_up() && !is_up(a) && is_up(b));
    // What is in use, being opened or closed is not put back.
    queue(&mut waiting, net.now(), 1, SECOND, b"x");
    pool.put(waiting);
    assert!(!is_up(a));
    pool.put(Channel::new(address(a), pool.settings.clone()));
    assert!(!locked(&pool.idle).iter().any(|channel| *channel.broker() == address(a)));
    // The other broker's connections stay when the line to one is not trusted any more.
    put(a);
    put(b);
    pool.forget(&address(a));
    assert!(!is_up(a) && is_up(b));
}

#[test]
fn the_oldest_idle_connection_goes_when_a_broker_or_all_have_too_many() {
    let net = Scripted::new();
    let pool = Pool::new(settings(&net));
    let put = |broker: &str| pool.put(another(&pool, &net, broker));
    let idle = |broker: &str| locked(&pool.idle).iter().filter(|channel| *channel.broker() == address(broker)).count();
    put("10.0.1.1:5");
    (0..IDLE_PER_BROKER + 2).for_each(|_| put("10.0.1.2:5"));
    assert_eq!((idle("10.0.1.1:5"), idle("10.0.1.2:5")), (1, IDLE_PER_BROKER), "one broker's do not cost another's");
    (1..=IDLE_IN_ALL - IDLE_PER_BROKER).for_each(|port| put(&format!("10.0.1.3:{port}")));
    assert_eq!((idle("10.0.1.1:5"), idle("10.0.1.2:5")), (0, IDLE_PER_BROKER));
    assert_eq!(locked(&pool.idle).len(), IDLE_IN_ALL);
    // Of its wires those that were dropped are closed: the first of each.
    let dropped: Vec<usize> = (0..net.dialed().len()).filter(|&wire| net.wire(wire, |wire| wire.dropped)).collect();
    assert_eq!(dropped, [0, 1, 2]);
}
