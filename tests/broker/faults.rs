//! Every fault does what its description says.

use std::io::ErrorKind;
use std::time::Duration;

use common::watch::not_before;
use tank_client::Fault;
use tank_client::broker::{Broker, BrokerFault, RequestKind as Kind};
use tank_client::protocol::frame::PING;

use crate::raw::{Raw, SOON, fetch};

fn broker() -> (Broker, Vec<u8>, Vec<u8>) {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 2);
    broker.append_payloads("orders", 0, &["one", "two", "three"]);
    let request = fetch(9, 0, "orders", &[(0, 1, 1000)]);
    let answer = Raw::connect(&broker).ask(&request);
    (broker, request, answer)
}

#[test]
fn a_broker_can_greet_late_wrongly_or_not_at_all() {
    let (broker, request, answer) = broker();
    broker.inject(BrokerFault::CloseOnAccept);
    broker.inject(BrokerFault::NoPing);
    broker.inject(BrokerFault::Greeting(b"220 mail".to_vec()));
    broker.inject(BrokerFault::LatePing(Duration::from_millis(100)));
    assert!(Raw::dial(broker.addr()).is_closed());
    assert_eq!(Raw::dial(broker.addr()).ask(&request), answer);
    assert_eq!(Raw::dial(broker.addr()).read(8).unwrap(), b"220 mail");
    let mut late = not_before(Duration::from_millis(100), || {
        let mut late = Raw::dial(broker.addr());
        late.send(&request);
        assert_eq!(late.frame().unwrap(), PING);
        late
    });
    assert_eq!(late.frame().unwrap(), answer);
    assert_eq!((broker.pending_faults(), broker.stats().faults_fired), (0, 4));
}

#[test]
fn an_answer_can_be_cut_at_every_byte() {
    let (broker, request, answer) = broker();
    for at in 0..=answer.len() {
        broker.inject(BrokerFault::CutAfter(at as u64));
        let mut raw = Raw::connect(&broker);
        raw.send(&request);
        let (got, orderly) = raw.rest();
        assert_eq!((got.as_slice(), orderly), (&answer[..at], true), "cut at {at}");
    }
    broker.inject(BrokerFault::CutAfter(answer.len() as u64 + 1));
    let mut raw = Raw::connect(&broker);
    assert_eq!(raw.ask(&request), answer);
    raw.send(&request);
    assert_eq!(raw.rest().0, answer[..1]);
}

#[test]
fn a_reset_is_no_orderly_end() {
    let (broker, request, _) = broker();
    broker.inject(BrokerFault::ResetAfter(10));
    let mut raw = Raw::connect(&broker);
    raw.send(&request);
    assert!(!raw.rest().1);
    assert!(broker.wait_until(SOON, |stats| stats.open == 0));
}

#[test]
fn an_answer_stalls_until_it_is_released() {
    let (broker, request, answer) = broker();
    broker.inject(BrokerFault::StallAfter(7));
    let mut raw = Raw::connect(&broker);
    raw.send(&request);
    assert_eq!(raw.read(7).unwrap(), answer[..7]);
    assert!(broker.wait_until(SOON, |stats| stats.stalled == 1));
    raw.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(raw.read(1).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(Raw::connect(&broker).ask(&request), answer, "the others continue");
    broker.release();
    raw.stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(raw.read(answer.len() - 7).unwrap(), answer[7..]);

    broker.inject(BrokerFault::StallAfter(0));
    raw.send(&request);
    assert!(broker.wait_until(SOON, |stats| stats.stalled == 1));
    broker.stop();
    assert_eq!((raw.is_closed(), broker.stats().stalled), (true, 0));
}

#[test]
fn answers_are_damaged_where_asked_for() {
    let (broker, request, answer) = broker();
    let mut raw = Raw::connect(&broker);
    let differs = |got: &[u8]| -> Vec<usize> { (0..answer.len()).filter(|&i| got[i] != answer[i]).collect() };
    broker.inject(BrokerFault::WrongRequestId);
    assert_eq!(differs(&raw.ask(&request)), [9]);
    broker.inject(BrokerFault::CorruptBundle);
    let flags = answer.len() - 26;
    assert_eq!(differs(&raw.ask(&request)), [flags]);
    broker.inject(BrokerFault::FlipAfter(20));
    assert_eq!(differs(&raw.ask(&request)), [20]);
    broker.inject(BrokerFault::GarbageAfter(3, b"xyz".to_vec()));
    raw.send(&request);
    assert_eq!(raw.read(6).unwrap(), [&answer[..3], b"xyz"].concat());
    assert_eq!(raw.read(answer.len() - 3).unwrap(), answer[3..]);
    broker.inject(BrokerFault::PingBeforeAnswer);
    assert_eq!(raw.ask(&request), PING);
    assert_eq!(raw.frame().unwrap(), answer);
    assert_eq!(raw.ask(&request), answer, "what is stored stays whole");
}

#[test]
fn answers_can_be_slow() {
    let (broker, request, answer) = broker();
    let mut raw = Raw::connect(&broker);
    let pieces = Duration::from_millis(10) * (answer.len() as u32 / 10 - 1);
    for (fault, least) in [
        (BrokerFault::Delay(Duration::from_millis(80)), Duration::from_millis(80)),
        (BrokerFault::Trickle { bytes: 10, pause: Duration::from_millis(10) }, pieces),
    ] {
        broker.inject(fault);
        assert_eq!(not_before(least, || raw.ask(&request)), answer);
    }
}

#[test]
fn requests_can_be_left_without_an_answer() {
    let (broker, request, answer) = broker();
    broker.inject(BrokerFault::CloseOnRequest(Kind::Consume));
    let mut raw = Raw::connect(&broker);
    raw.send(&request);
    assert!(raw.is_closed());
    broker.inject_times(BrokerFault::LoseAnswer(Kind::Consume), 2);
    for _ in 0..2 {
        let mut raw = Raw::connect(&broker);
        raw.send(&request);
        assert!(raw.is_closed());
    }
    broker.inject_times(BrokerFault::RefuseConsume(Fault::NoLeader), u64::MAX);
    let mut raw = Raw::connect(&broker);
    for _ in 0..3 {
        assert_eq!(raw.ask(&request).last(), Some(&0xfd));
    }
    broker.clear_faults();
    assert_eq!(raw.ask(&request), answer);
}
