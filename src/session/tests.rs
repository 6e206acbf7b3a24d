use std::net::SocketAddr;
use std::sync::Mutex;

use super::*;
use crate::error::{ErrorKind, Fault};
use crate::net::parse_brokers;
use crate::net::scripted::Scripted;
use crate::protocol::admin::StatusResponse;
use crate::protocol::fetch::{FetchHeader, FetchRequest, PartitionAnswer, TopicAnswer};
use crate::protocol::frame::{FrameHeader, HEADER_LEN, PING, Payload, request_id};

fn session(brokers: &str, net: &Scripted) -> Session {
    let config =
        Config { connect_timeout: Duration::from_secs(8), io_timeout: Duration::from_secs(10), ..Config::default() };
    Session::new(config, parse_brokers(brokers).unwrap(), Arc::new(net.clone()))
}

/// What each attempt is told that it may take, in milliseconds, if each takes so long and fails.
fn shares(session: &Session, net: &Scripted, took: impl Fn(Duration) -> Duration) -> Vec<(String, u128)> {
    let mut shares = Vec::new();
    let failed = session.any_broker(&ONCE, &mut |addr, share| {
        let patience = share.until.since(net.now());
        shares.push((addr.to_string(), patience.as_millis()));
        net.pass(took(patience));
        Err(Error::disconnected(addr, crate::Phase::Wait))
    });
    assert!(failed.is_err_and(|e| e.is_transient()));
    shares
}

fn times(shares: &[(String, u128)]) -> Vec<u128> {
    shares.iter().map(|(_, patience)| *patience).collect()
}

#[test]
fn brokers_share_the_time_for_connecting_and_the_last_may_answer_late() {
    // None greets; each greets and does not answer: they have the time for connecting together, and the last one for its answer.
    for (answers, most) in [(false, 8), (true, 6 + 10)] {
        let net = Scripted::new();
        let session = session("10.0.0.1:1,10.0.0.2:1,10.0.0.3:1,10.0.0.4:1", &net);
        let began = net.now();
        if answers {
            serve(&net, |_, _, _| Does::Hangs);
            session.call_any(&mut StatusRequest { request_id: 0 }, None, &ONCE).unwrap_err();
        } else {
            session.connect(Duration::ZERO).unwrap_err();
        }
        assert_eq!(net.now().since(began), Duration::from_secs(most));
    }

    let net = Scripted::new();
    let some = || session("a:1,b:2,c:3,d:4", &net);
    // What one does not need is left to the others.
    assert_eq!(times(&shares(&some(), &net, |_| Duration::ZERO)), [2000, 2666, 4000, 8000]);
    assert_eq!(times(&shares(&some(), &net, |patience| patience)), [2000; 4]);
    // One that takes all of it leaves a part of it to each.
    assert_eq!(times(&shares(&some(), &net, |_| Duration::from_secs(9))), [2000; 4]);
    assert_eq!(times(&shares(&session("a:1", &net), &net, |patience| patience)), [8000]);
}

#[test]
fn a_broker_that_greets_later_than_its_share_is_still_used() {
    let brokers: Vec<String> = (1..=10).map(|n| format!("10.0.0.{n}:1")).collect();
    // Each has 0.8 s. The first one also comes first when it has taken nearly all of the 8 s.
    for (greets_after, dialed) in [(1500, 2), (7800, 10)] {
        let net = Scripted::new();
        let session = session(&brokers.join(","), &net);
        // The third one hangs up while the others wait.
        let (clock, began, mut dialed_at) = (net.clone(), net.now(), Vec::new());
        net.serve(move |to, index, wire| {
            // Each look takes some time.
            let now = clock.pass(Duration::from_millis(if index == 0 { 100 } else { 0 }));
            dialed_at.resize(dialed_at.len().max(index + 1), now);
            if !wire.connected && now >= dialed_at[index].after(Duration::from_millis(greets_after as u64)) {
                wire.connected = true;
                wire.incoming.extend(PING);
            }
            wire.ended |= to.ip().to_string() == "10.0.0.3" && now >= dialed_at[index].after(Duration::from_secs(1));
            true
        });
        session.connect(Duration::ZERO).unwrap();
        let addr = &parse_brokers(&brokers[0]).unwrap()[0];
        assert!(session.pool.take(addr).is_up());
        assert_eq!((net.dialed().len(), net.now().since(began).as_millis()), (dialed, greets_after + 100));
    }
}

#[test]
fn brokers_that_others_have_named_are_passed_over_once_the_time_is_over() {
    for (each, tried) in [(8_999, 3), (9_000, 2)] {
        let net = Scripted::new();
        let session = session("a:1,b:2", &net);
        let named = parse_brokers("10.0.0.1:1,10.0.0.2:1").unwrap();
        for (addr, partition) in named.iter().zip(0..) {
            session.book.set_leader(&"orders".into(), partition, addr.clone(), session.now());
        }
        // Two that were given have taken 18 s, for connecting and for an answer.
        let shares = shares(&session, &net, |_| Duration::from_millis(each));
        assert_eq!(shares.len(), tried, "{shares:?}");
    }
}

#[test]
fn those_that_fail_are_asked_last_and_what_will_not_pass_ends_it() {
    let net = Scripted::new();
    let session = session("a:1,b:2,c:3", &net);
    let lost = |addr: &BrokerAddr| Err(Error::disconnected(addr, crate::Phase::Wait));
    let found = session.any_broker(&ONCE, &mut |addr, _| match addr.to_string().as_str() {
        "a:1" => lost(addr),
        _ => Ok(addr.clone()),
    });
    assert_eq!(found.unwrap().to_string(), "b:2");
    let order = || session.book.brokers().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(order(), ["b:2", "c:3", "a:1"]);
    let mut tried = 0;
    let refused = session.any_broker(&ONCE, &mut |addr, _| {
        tried += 1;
        Err(Error::refused("orders", 0, Fault::UnknownPartition).at(addr))
    });
    assert!(matches!(refused, Err(Error { kind: ErrorKind::Broker { .. }, .. })) && tried == 1);
    // Of several failures each is told, of one just that.
    let failed = session.any_broker(&ONCE, &mut |addr, _| lost(addr));
    let text = format!("{:#}", failed.unwrap_err());
    assert!(["a:1", "b:2", "c:3"].iter().all(|addr| text.matches(addr).count() == 2), "{text}");
    let failed = self::session("a:1", &net).any_broker(&ONCE, &mut |addr, _| lost(addr));
    assert!(matches!(failed, Err(Error { kind: ErrorKind::Disconnected { .. }, .. })));
}

/// What a broker does with a request.
enum Does {
    Answer(Vec<u8>),
    Hangs,
    HangsUp,
}

/// Which broker was asked for what, in order.
type Asked = Arc<Mutex<Vec<(String, Kind)>>>;

/// Lets every broker greet and do with each request what `act` says, given its address and the request's payload.
fn serve(net: &Scripted, mut act: impl FnMut(SocketAddr, Kind, &[u8]) -> Does + Send + 'static) -> Asked {
    let asked = Asked::default();
    let noted = asked.clone();
    let mut read: Vec<usize> = Vec::new();
    net.serve(move |to, index, wire| {
        read.resize(read.len().max(index + 1), 0);
        let mut has_come = !wire.connected;
        if !wire.connected {
            wire.connected = true;
            wire.incoming.extend(PING);
        }
        while let Some(header) = FrameHeader::decode(&wire.sent[read[index]..]).unwrap() {
            let payload = read[index] + HEADER_LEN;
            read[index] = payload + header.len as usize;
            if header.kind == Kind::Ping {
                continue;
            }
            noted.lock().unwrap().push((to.to_string(), header.kind));
            has_come = true;
            match act(to, header.kind, &wire.sent[payload..read[index]]) {
                Does::Answer(bytes) => wire.incoming.extend(bytes),
                Does::Hangs => {}
                Does::HangsUp => wire.ended = true,
            }
        }
        has_come
    });
    asked
}

fn answer(payload: &impl Payload) -> Does {
    let mut bytes = Vec::new();
    payload.encode(&mut bytes).unwrap();
    Does::Answer(bytes)
}

fn status(request: &[u8]) -> StatusResponse {
    let request_id = request_id(request).unwrap();
    StatusResponse { request_id, flags: 0, topics: 3, partitions: 4, cluster: None, log: None }
}

const ASK: StatusRequest = StatusRequest { request_id: 0 };

#[test]
fn requests_go_over_one_connection_and_those_that_had_ended_are_replaced_by_a_new_one() {
    for (idle, works) in [(0, true), (1, true), (4, true), (4, false)] {
        let net = Scripted::new();
        let session = session("10.0.0.1:5", &net);
        let addr = session.book.brokers().remove(0);
        // Connections that had been idle end with the next request; so does the new one, unless it works.
        let (mut answered, mut ended) = (0, 0);
        let asked = serve(&net, move |_, _, request| {
            answered += 1;
            if answered > idle && ended < usize::from(idle > 0) + usize::from(!works) {
                ended += 1;
                return Does::HangsUp;
            }
            answer(&status(request))
        });
        let ask = || session.call_any(&mut ASK.clone(), None, &ONCE).map(|(_, answer)| answer.topics);
        let held: Vec<Channel> = (0..idle).map(|_| (ask().unwrap(), session.pool.take(&addr)).1).collect();
        held.into_iter().for_each(|channel| session.pool.put(channel));
        let before = net.now();
        match ask() {
            Ok(topics) => assert!(topics == 3 && works && ask().is_ok()),
            Err(e) => assert!(e.is_connection_lost() && !works, "{idle}: {e:?}"),
        }
        assert_eq!(net.now(), before, "without a pause");
        let tries = asked.lock().unwrap().len() - idle;
        assert_eq!((tries, net.dialed().len()), (1 + usize::from(idle > 0) + usize::from(works), idle + 1));
    }
}

#[test]
fn what_may_have_been_done_is_told_from_what_was_not_asked_for() {
    for (does, is_unknown) in [(0, true), (1, true), (2, true), (3, false)] {
        let net = Scripted::new();
        let session = session("10.0.0.1:5", &net);
        let asked = serve(&net, move |_, _, _| match does {
            0 => Does::HangsUp,
            1 => Does::Hangs,
            _ => Does::Answer(vec![Kind::Status as u8, 1, 0, 0, 0, 7]),
        });
        if does == 3 {
            net.refuse(([10, 0, 0, 1], 5).into(), 111);
        }
        let e = session.call_unrepeatable(&mut ASK.clone(), "orders").unwrap_err();
        assert_eq!((e.kind == ErrorKind::OutcomeUnknown, asked.lock().unwrap().len()), (is_unknown, is_unknown.into()));
        assert!(does > 1 || net.wire(0, |wire| wire.aborted), "it is reset, so that nothing is done later");
        assert!(!is_unknown || net.wire(0, |wire| wire.dropped), "it is not used again");
    }
    // A part of it is not enough for a broker.
    let net = Scripted::new();
    net.serve(|_, _, wire| {
        if !wire.connected {
            wire.connected = true;
            wire.incoming.extend(PING);
            wire.room = 10;
        }
        wire.ended = wire.room == 0;
        true
    });
    let e = session("10.0.0.1:5", &net).call_unrepeatable(&mut ASK.clone(), "orders").unwrap_err();
    assert!(e.kind != ErrorKind::OutcomeUnknown && net.wire(0, |wire| wire.sent.len()) == 10, "{e:?}");
}

#[test]
fn only_the_one_answer_that_was_asked_for_is_taken() {
    fn changed(request: &[u8], change: fn(&mut Vec<u8>)) -> Does {
        let Does::Answer(mut bytes) = answer(&status(request)) else { unreachable!() };
        change(&mut bytes);
        Does::Answer(bytes)
    }
    let changes: [(fn(&mut Vec<u8>), bool, &str); 8] = [
        (|_| {}, true, ""),
        (|bytes| bytes.splice(0..0, PING).for_each(drop), true, ""),
        (|bytes| bytes.extend([PING, PING].concat()), true, ""),
        (|bytes| bytes.extend(&PING[..3]), false, ""),
        (|bytes| bytes[0] = Kind::Produce as u8, false, "message id"),
        (|bytes| bytes.push(Kind::Status as u8), false, "answer"),
        (|bytes| bytes.extend([PING[0], 1, 0, 0, 0]), false, "answer"),
        (|bytes| bytes[HEADER_LEN] ^= 1, false, "request id"),
    ];
    for (change, is_kept, refused) in changes {
        let net = Scripted::new();
        let session = session("10.0.0.1:5", &net);
        serve(&net, move |_, _, request| changed(request, change));
        let done = session.call(&mut ASK.clone());
        assert_eq!(done.is_ok(), refused.is_empty(), "{done:?}");
        let kept = session.pool.take(&session.book.brokers()[0]);
        assert_eq!(kept.is_up(), is_kept, "the rest of a ping would be taken for an answer: {done:?}");
        if let Err(e) = done {
            assert!(e.kind == ErrorKind::Decode && format!("{e:#}").contains(refused), "{e:#}");
        }
    }
}

#[test]
fn trouble_is_tried_again_until_its_time_is_over_and_what_will_not_pass_once() {
    let net = Scripted::new();
    let session = session("10.0.0.1:5", &net);
    let policy = RetryPolicy { timeout: Duration::from_secs(20), ..session.retry_policy() };
    let began = net.now();
    let tries = |e: Error| {
        let mut tries = 0;
        let done = session.any_broker(&policy, &mut |_, _| {
            tries += 1;
            Err(e.clone())
        });
        assert_eq!(done.unwrap_err().kind, e.kind);
        (tries, net.now().since(began))
    };
    assert_eq!(tries(Error::refused("orders", 0, Fault::UnknownPartition)), (1, Duration::ZERO));
    let (count, took) = tries(Error::disconnected(&"a:1", crate::Phase::Wait));
    assert!((4..50).contains(&count) && took == policy.timeout, "{count} tries in {took:?}");
    // A client that is to wait for its brokers does so for as long as it was told, any other not at all.
    net.refuse(([10, 0, 0, 1], 5).into(), 111);
    for patience in [Duration::ZERO, Duration::from_secs(7)] {
        let began = net.now();
        assert!(session.connect(patience).unwrap_err().is_transient());
        assert_eq!(net.now().since(began), patience);
    }
    // Where a leader is missing its successor is looked for every second.
    let config = Config { backoff: (Duration::from_millis(50), Duration::from_secs(9)), ..Config::default() };
    let session = Session::new(config, parse_brokers("a:1").unwrap(), Arc::new(net.clone()));
    assert_eq!(session.leader_policy().pauses, (Duration::from_millis(50), Duration::from_secs(1)));
    assert_eq!(session.leader_policy().timeout, session.config.retry_timeout);
}

#[test]
fn a_connection_has_its_time_to_come_up_and_one_more_look_at_its_end() {
    let (timeout, far) = (Duration::from_secs(3), ([10, 0, 0, 1], 5));
    let net = Scripted::new();
    let session = session("10.0.0.1:5", &net);
    let addr = session.book.brokers().remove(0);
    let began = net.now();
    let e = session
        .open(&addr, &mut Share { until: net.now().after(timeout), answer: timeout, late: Vec::new() })
        .err()
        .unwrap();
    assert!(matches!(e.kind, ErrorKind::Timeout { after, .. } if after == timeout), "{e:?}");
    assert_eq!((net.now().since(began), net.dialed()), (timeout, vec![far.into()]));
    // The greeting comes with the end of the time.
    let clock = net.clone();
    net.serve(move |_, _, wire| {
        clock.pass(timeout);
        wire.connected = true;
        wire.incoming.extend(PING);
        true
    });
    assert!(
        session
            .open(&addr, &mut Share { until: net.now().after(timeout), answer: timeout, late: Vec::new() })
            .unwrap()
            .is_up()
    );
}

#[test]
fn a_closed_handle_ends_every_wait() {
    let net = Scripted::new();
    let open = session("10.0.0.1:5", &net);
    let closed = Arc::new(Closed::default());
    let session = open.closed_by(&closed);
    let later = net.now().after(Duration::from_secs(1));
    assert!(session.wait(&mut iter::empty(), later).unwrap() && net.now() == later, "it is not closed yet");
    closed.close();
    let later = net.now().after(Duration::from_secs(1));
    let is_closed = |done: Result<()>| done.unwrap_err().kind == ErrorKind::Closed;
    assert!(is_closed(session.pause(later)) && is_closed(session.wait(&mut iter::empty(), later).map(drop)));
    let mut works = |addr: &BrokerAddr, _: &mut Share| Ok(addr.clone());
    assert!(is_closed(session.any_broker(&ONCE, &mut works).map(drop)));
    assert!(open.any_broker(&ONCE, &mut works).is_ok(), "the client's own calls go on");
}

#[test]
fn brokers_are_asked_once_whether_they_form_a_cluster_and_taken_for_one_if_they_do_not_say() {
    let net = Scripted::new();
    let session = session("10.0.0.1:5", &net);
    net.refuse(([10, 0, 0, 1], 5).into(), 111);
    assert!(session.is_cluster());
    let net = Scripted::new();
    let session = self::session("10.0.0.1:5", &net);
    let asked = serve(&net, |_, _, request| answer(&status(request)));
    assert!(!session.is_cluster() && !session.is_cluster());
    assert_eq!(asked.lock().unwrap().len(), 1);
}

/// The answer of a broker to the question for the ends of logs.
fn ends(request: &[u8], mut of: impl FnMut(u16) -> PartitionAnswer) -> Does {
    let asked = FetchRequest::decode(request).unwrap();
    let partitions = asked.topics[0].partitions.iter().map(|wanted| (wanted.partition, of(wanted.partition))).collect();
    let topic = TopicAnswer { name: asked.topics[0].name.clone(), partitions };
    let mut bytes = Vec::new();
    FetchHeader { request_id: asked.request_id, topics: vec![topic] }.encode(&mut bytes).unwrap();
    Does::Answer(bytes)
}

fn end(mark: u64) -> PartitionAnswer {
    PartitionAnswer::OutOfRange { high_water_mark: mark, first_available: 1 }
}

fn ends_at(high_water_mark: u64) -> Marks {
    Marks { first_available: 1, high_water_mark }
}

#[test]
fn each_leader_is_asked_once_for_the_ends_of_all_its_logs() {
    let net = Scripted::new();
    let session = session("10.0.0.1:5,10.0.0.2:5", &net);
    let brokers = session.book.brokers();
    let ids: Vec<u16> = (0..600).collect();
    for &id in &ids {
        session.book.set_leader(&"orders".into(), id, brokers[usize::from(id % 2)].clone(), net.now());
    }
    let asked = serve(&net, |_, _, request| ends(request, |id| end(u64::from(id))));
    let found = session.log_ends("orders", &ids, &session.leader_policy()).unwrap();
    assert!(found.into_iter().map(Result::unwrap).eq((0..600).map(ends_at)));
    let asked: Vec<String> = asked.lock().unwrap().iter().map(|(addr, _)| addr.clone()).collect();
    assert_eq!(asked, ["10.0.0.1:5", "10.0.0.2:5", "10.0.0.1:5", "10.0.0.2:5"], "no request names more than 250");
}

#[test]
fn the_first_redirect_to_a_leader_is_followed_at_once_and_another_one_after_a_pause() {
    for redirects in 0..3 {
        let net = Scripted::new();
        let session = session("10.0.0.1:5,10.0.0.2:5", &net);
        let mut left = redirects;
        let asked = serve(&net, move |to, _, request| {
            let other = if to.ip().to_string() == "10.0.0.1" { "10.0.0.2:5" } else { "10.0.0.1:5" };
            let is_told = left > 0;
            left -= i32::from(is_told);
            ends(request, |_| if is_told { PartitionAnswer::Redirect(other.parse().unwrap()) } else { end(9) })
        });
        let began = net.now();
        assert_eq!(session.log_end("orders", 0).unwrap(), ends_at(9));
        assert_eq!(net.now() == began, redirects < 2);
        assert_eq!(asked.lock().unwrap().len() as i32, redirects + 1);
    }
    // If they do not end, the error counts them.
    let (net, last) = (Scripted::new(), "10.0.0.1:5".parse().unwrap());
    let asked = serve(&net, move |_, _, request| ends(request, |_| PartitionAnswer::Redirect(last)));
    let fault = session("10.0.0.1:5", &net).log_end("orders", 0).unwrap_err().fault();
    assert_eq!(fault, Some(Fault::Redirects { hops: asked.lock().unwrap().len() as u32, last }));
    // Where one partition has no leader it is asked for again, and the others are not.
    let net = Scripted::new();
    let session = session("10.0.0.1:5", &net);
    let mut round = 0;
    let asked = serve(&net, move |_, _, request| {
        round += 1;
        ends(request, |id| if id == 1 && round < 3 { PartitionAnswer::NoLeader } else { end(round) })
    });
    let found = session.log_ends("orders", &[0, 1, 2], &session.leader_policy()).unwrap();
    assert_eq!(found.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [1, 3, 1].map(ends_at));
    assert!(asked.lock().unwrap().len() == 3 && net.now() > Time::from_nanos(1));
}

#[test]
fn leaders_are_asked_however_long_connecting_may_take() {
    let net = Scripted::new();
    let config = Config { connect_timeout: Duration::MAX, ..Config::default() };
    let session = Session::new(config, parse_brokers("10.0.0.1:5").unwrap(), Arc::new(net.clone()));
    serve(&net, |_, _, request| ends(request, |_| end(9)));
    let policy = RetryPolicy { timeout: Duration::ZERO, ..session.leader_policy() };
    let found = session.log_ends("orders", &[0], &policy).unwrap();
    assert_eq!(found[0].as_ref().unwrap(), &ends_at(9));
}

#[test]
fn a_leader_that_does_not_answer_leaves_time_for_the_others() {
    let net = Scripted::new();
    let session = session("10.0.0.1:5,10.0.0.2:5,10.0.0.3:5", &net);
    let brokers = session.book.brokers();
    for (id, broker) in (0..).zip(&brokers) {
        session.book.set_leader(&"orders".into(), id, broker.clone(), net.now());
    }
    serve(&net, |to, _, request| match to.ip().to_string().as_str() {
        "10.0.0.2" => ends(request, |_| end(9)),
        _ => Does::Hangs,
    });
    let began = net.now();
    let policy = RetryPolicy { timeout: Duration::ZERO, ..session.leader_policy() };
    let found = session.log_ends("orders", &[0, 1, 2], &policy).unwrap();
    assert!(
        found[0].is_err() && found[1].as_ref().is_ok_and(|found| *found == ends_at(9)) && found[2].is_err(),
        "{found:?}"
    );
    // A third of the 8 s for connecting, and for the last one the 10 s that an answer may take.
    assert_eq!(net.now().since(began).as_millis(), 2_666 + 10_000);
    assert_eq!(session.book.brokers()[0], brokers[1], "those that failed come last");
}

#[test]
fn nobody_else_gets_a_connection_before_its_answer_was_read() {
    for malformed in [false, true] {
        let net = Scripted::new();
        let session = session("10.0.0.1:5", &net);
        let addr = session.book.brokers().remove(0);
        serve(&net, |_, _, request| answer(&status(request)));
        let is_kept = || session.pool.take(&addr).is_up();
        let (mut frame, mut was_kept) = (Vec::new(), None);
        ASK.encode(&mut frame).unwrap();
        let mut read = |_: &[u8]| {
            was_kept = Some(is_kept());
            if malformed { Err(DecodeError::unexpected("answer", 1, 2, 0)) } else { Ok(()) }
        };
        let frame = frame.into();
        let mut request = EncodedRequest { id: 0, kind: Kind::Status, frame, unrepeatable: None, read: &mut read };
        let done = session.ask(&addr, &mut request, &mut session.share(Time::ZERO, 1, 1));
        assert_eq!((done.is_err(), was_kept, is_kept()), (malformed, Some(false), !malformed));
    }
}
