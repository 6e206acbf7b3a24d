use std::net::SocketAddr;

use super::*;
use crate::config::Config;
use crate::net::scripted::Scripted;
use crate::net::{Refusal, parse_brokers};
use crate::protocol::bundle::RawMessage;
use crate::protocol::frame::PING;
use crate::protocol::produce::{ProduceCode, ProduceResponse};

const WINDOW: usize = 2;

/// A driver that has a bundle for each of this many partitions, which one broker leads.
fn driver(partitions: u16) -> (Scripted, Driver) {
    let net = Scripted::new();
    let session = Session::new(Config::default(), parse_brokers("10.0.0.1:5").unwrap(), Arc::new(net.clone()));
    let mut driver = Driver::new(&Arc::new(session), PublishOptions::default(), WINDOW, false);
    for partition in 0..partitions {
        let index = driver.add("t".into(), partition, false);
        driver.destinations[index].queue.push(None, &RawMessage::default()).unwrap();
        driver.seal(index).unwrap();
    }
    driver.step(LookUp::Never);
    (net, driver)
}

fn greet(net: &Scripted, driver: &mut Driver) {
    net.wire(0, |wire| (wire.connected, wire.incoming) = (true, PING.into()));
    go_on(net, driver);
}

fn answer(net: &Scripted, driver: &mut Driver, code: ProduceCode) {
    answer_before(&[], net, driver, code);
}

fn answer_before(more: &[u8], net: &Scripted, driver: &mut Driver, code: ProduceCode) {
    let request = &driver.leaders[0].in_flight[0];
    let (request_id, number, mut out) = (request.id, request.queues.len(), Vec::new());
    ProduceResponse { request_id, codes: vec![code; number] }.encode([number], &mut out).unwrap();
    net.wire(0, |wire| wire.incoming.extend(out.iter().chain(more)));
    go_on(net, driver);
}

fn go_on(net: &Scripted, driver: &mut Driver) {
    driver.wait(net.pass(Duration::from_millis(1))).unwrap();
    driver.step(LookUp::Never);
}

/// Goes on while all but the first queues are taken away: a look at one of the others panics.
fn go_on_with_only(first: usize, net: &Scripted, driver: &mut Driver) {
    let others = driver.destinations.split_off(first);
    (0..3).for_each(|_| go_on(net, driver));
    driver.destinations.extend(others);
}

#[test]
fn a_step_looks_at_none_of_the_queues_that_wait() {
    let (net, mut driver) = driver(2000);
    // The one whose turn is next is looked at.
    go_on_with_only(1, &net, &mut driver);
    greet(&net, &mut driver);
    let is_left = |Destination { queue, .. }: &Destination| queue.leader.is_none() && !queue.is_idle();
    for answered in 0..3 {
        let sent = (WINDOW + answered) * MAX_PER_REQUEST;
        assert_eq!(driver.destinations.iter().position(is_left), Some(sent));
        go_on_with_only(sent + 1, &net, &mut driver);
        answer(&net, &mut driver, ProduceCode::Stored);
    }
    // A request that is late makes room.
    driver.wait(Time::NEVER).unwrap();
    driver.step(LookUp::Never);
    assert_eq!(driver.leaders[0].in_flight.len(), WINDOW + 1);
    assert!(driver.failures.is_empty() && driver.changed.is_empty());
}

#[test]
fn queues_that_pause_are_not_looked_at_before_their_pause_is_over() {
    let (net, mut driver) = driver(MAX_PER_REQUEST as u16);
    greet(&net, &mut driver);
    answer(&net, &mut driver, ProduceCode::NoLeader);
    assert!(driver.is_busy() && driver.leaders[0].in_flight.is_empty());
    go_on_with_only(0, &net, &mut driver);
    driver.wait(Time::NEVER).unwrap();
    driver.step(LookUp::Never);
    assert!(driver.pauses.is_empty() && !driver.leaders[0].in_flight.is_empty());
    answer(&net, &mut driver, ProduceCode::Stored);
    assert!(!driver.is_busy() && driver.destinations.iter().all(|destination| destination.queue.is_idle()));
}

#[test]
fn a_queue_that_another_broker_leads_by_now_does_not_wait_for_the_dial_to_the_last_one() {
    let net = Scripted::new();
    let brokers = parse_brokers("10.0.0.1:5,10.0.0.2:5").unwrap();
    let session = Arc::new(Session::new(Config::default(), brokers.clone(), Arc::new(net.clone())));
    let mut driver = Driver::new(&session, PublishOptions::default(), WINDOW, false);
    for partition in 0..2 {
        let index = driver.add("t".into(), partition, false);
        driver.destinations[index].queue.push(None, &RawMessage::default()).unwrap();
        driver.seal(index).unwrap();
    }
    driver.step(LookUp::Never);
    // Another call of the client finds out who leads one of them.
    session.book.set_leader(&"t".into(), 1, brokers[1].clone(), session.now());
    driver.wait(Time::NEVER).unwrap();
    driver.step(LookUp::Never);
    let dialed = net.dialed().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(dialed, ["10.0.0.1:5", "10.0.0.2:5"]);
}

/// Returns whether the first queue has a bundle that is neither in flight nor waits.
fn is_held(driver: &Driver) -> bool {
    let queue = &driver.destinations[0].queue;
    queue.pending() > 0 && queue.first_waiting().is_none() && !queue.is_in_flight()
}

#[test]
fn a_broker_with_several_addresses_does_not_confirm_what_it_holds_itself() {
    for is_redirected in [false, true] {
        let net = Scripted::new();
        let addresses = [1, 2].map(|n| SocketAddr::from(([10, n, 0, 1], 5)));
        net.name("tank", Ok(addresses.to_vec()));
        let session = Session::new(Config::default(), parse_brokers("tank:5").unwrap(), Arc::new(net.clone()));
        let session = Arc::new(session);
        let mut driver = Driver::new(&session, PublishOptions::default(), WINDOW, true);
        driver.add("t".into(), 0, true);
        driver.destinations[0].queue.push(None, &RawMessage::default()).unwrap();
        driver.seal(0).unwrap();
        driver.step(LookUp::Allowed);
        greet(&net, &mut driver);
        let answer = |driver: &mut Driver, from: usize, answer: Answer| {
            let request = driver.leaders[from].in_flight.pop_front().unwrap();
            driver.on_answer(from, session.now(), &request, answer, 0);
            driver.collect_outcomes(0);
            driver.step(LookUp::Allowed);
        };
        answer(&mut driver, 0, Ok(Reply::LogEnd(0)));
        answer(&mut driver, 0, Err(Refusal::Fault(Fault::NotConfirmed)));
        assert!(is_held(&driver));
        net.wire(0, |wire| wire.ended = true);
        net.refuse(addresses[0], 111);
        if is_redirected {
            session.book.set_leader(&"t".into(), 0, parse_brokers("10.2.0.1:5").unwrap().remove(0), session.now());
        }
        while net.dialed().last() != Some(&addresses[1]) {
            driver.wait(net.pass(Duration::from_millis(1))).unwrap();
            driver.step(LookUp::Allowed);
        }
        net.wire(1, |wire| (wire.connected, wire.incoming) = (true, PING.into()));
        go_on(&net, &mut driver);
        answer(&mut driver, usize::from(is_redirected), Ok(Reply::LogEnd(1)));
        assert_eq!(driver.destinations[0].stored, 0, "redirected: {is_redirected}");
        assert!(is_held(&driver));
    }
}

#[test]
fn a_released_connection_on_which_half_a_ping_has_come_is_closed() {
    for n in [0, 2, PING.len()] {
        let (net, mut driver) = driver(1);
        greet(&net, &mut driver);
        answer_before(&PING[..n], &net, &mut driver, ProduceCode::Stored);
        driver.release();
        assert_eq!(net.wire(0, |wire| wire.dropped), n == 2, "{n} bytes");
        // Another one is used as soon as there is something to send.
        driver.destinations[0].queue.push(None, &RawMessage::default()).unwrap();
        driver.seal(0).unwrap();
        driver.step(LookUp::Never);
        assert_eq!(net.dialed().len(), if n == 2 { 2 } else { 1 });
    }
}
