use std::io;
use std::time::Duration;

use super::super::network::Network;
use super::super::scripted::Scripted;
use super::*;
use crate::config::Config;
use crate::error::ErrorKind;
use crate::net::parse_brokers;

const CONNECT: Duration = Duration::from_secs(10);
const IO: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

pub(in crate::net) fn settings(net: &Scripted) -> Arc<ChannelSettings> {
    let config = Config { connect_timeout: CONNECT, io_timeout: IO, keepalive: None, ..Config::default() };
    Arc::new(ChannelSettings::new(Arc::new(net.clone()), Arc::new(config)))
}

fn channel(net: &Scripted, broker: &str) -> Channel {
    Channel::new(parse_brokers(broker).unwrap().remove(0), settings(net))
}

fn open(channel: &mut Channel, net: &Scripted) -> Result<bool> {
    look(channel, net);
    channel.open(net.now(), LookUp::Allowed)
}

/// Lets the network tell what has come, at once.
fn look(channel: &mut Channel, net: &Scripted) {
    net.poll(&mut channel.interests().collect::<Vec<_>>(), None, net.now()).unwrap();
}

/// Lets time pass that is not the caller's own.
fn pass(channel: &mut Channel, net: &Scripted, time: Duration) {
    let began = net.now();
    channel.on_waited(net.pass(time), began);
}

pub(in crate::net) fn queue(channel: &mut Channel, now: Time, id: u32, allowance: Duration, frame: &[u8]) {
    channel.queue(now, id, allowance, frame.to_vec());
}

/// A channel on which the first connection is up.
pub(in crate::net) fn up(net: &Scripted) -> Channel {
    let mut channel = channel(net, "10.0.0.1:5");
    bring_up(&mut channel, net);
    channel
}

pub(in crate::net) fn bring_up(channel: &mut Channel, net: &Scripted) {
    assert!(!open(channel, net).unwrap());
    greet(net, net.dialed().len() - 1);
    assert!(open(channel, net).unwrap());
}

fn greet(net: &Scripted, index: usize) {
    net.wire(index, |wire| {
        wire.connected = true;
        wire.incoming.extend(PING);
    });
}

fn arrive(net: &Scripted, bytes: usize) {
    net.wire(0, |wire| wire.incoming.extend(std::iter::repeat_n(7, bytes)));
}

fn read(channel: &mut Channel, net: &Scripted) -> Result<usize> {
    channel.read(net.now(), &mut vec![0; 1 << 20])
}

/// Whether a read that brings nothing would find something overdue.
fn is_overdue(channel: &Channel, net: &Scripted) -> bool {
    channel.up().unwrap().answer_due(IO).is_some_and(|(due, ..)| net.now() >= due)
}

fn phase(e: &Error) -> Phase {
    match &e.kind {
        ErrorKind::Timeout { phase, .. } | ErrorKind::Disconnected { phase } | ErrorKind::Io { phase } => *phase,
        other => panic!("{other:?}"),
    }
}

fn address(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 5).into()
}

#[test]
fn an_empty_ping_goes_first_and_nothing_else_before_the_greeting() {
    let net = Scripted::new();
    let mut channel = channel(&net, "10.0.0.1:5");
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.wire(0, |wire| wire.sent.clone()), b"");
    net.wire(0, |wire| wire.connected = true);
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.wire(0, |wire| wire.sent.clone()), PING);
    // Nobody may queue on it yet; if somebody does all the same, nothing goes out.
    queue(&mut channel, net.now(), 1, SECOND, b"request");
    assert!(channel.write(net.now()).is_err());
    net.wire(0, |wire| wire.incoming.extend(&PING[..3]));
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.wire(0, |wire| wire.sent.len()), PING.len());
    net.wire(0, |wire| wire.incoming.extend(&PING[3..]));
    assert!(open(&mut channel, &net).unwrap());
    queue(&mut channel, net.now(), 1, SECOND, b"request");
    assert!(channel.write(net.now()).unwrap());
    assert_eq!(net.wire(0, |wire| wire.sent[5..].to_vec()), b"request");
}

#[test]
fn a_ping_that_goes_out_in_pieces_is_sent_to_its_end() {
    let net = Scripted::new();
    let mut channel = channel(&net, "10.0.0.1:5");
    assert!(!open(&mut channel, &net).unwrap());
    greet(&net, 0);
    for (room, sent) in [(0, 0), (2, 2), (0, 2), (2, 4)] {
        net.wire(0, |wire| wire.room = room);
        assert!(!open(&mut channel, &net).unwrap());
        assert_eq!(net.wire(0, |wire| wire.sent.clone()), PING[..sent], "the rest of the ping comes before its answer");
    }
    net.wire(0, |wire| wire.room = usize::MAX);
    assert!(open(&mut channel, &net).unwrap());
    assert_eq!(net.wire(0, |wire| wire.sent.clone()), PING);
}

#[test]
fn another_service_a_silence_and_an_end_are_told_apart() {
    let net = Scripted::new();
    let mut channel = channel(&net, "10.0.0.1:5");
    for index in 0..4 {
        assert!(!open(&mut channel, &net).unwrap());
        net.wire(index, |wire| wire.connected = true);
        let e = match index {
            0 => {
                net.wire(index, |wire| wire.incoming.extend(b"HTTP/1.1 400"));
                open(&mut channel, &net).unwrap_err()
            }
            1 => {
                net.wire(index, |wire| wire.ended = true);
                open(&mut channel, &net).unwrap_err()
            }
            _ => {
                net.wire(index, |wire| wire.connected = index == 2);
                assert!(!open(&mut channel, &net).unwrap());
                assert_eq!(channel.due(), net.now().after(CONNECT));
                net.pass(CONNECT);
                open(&mut channel, &net).unwrap_err()
            }
        };
        match index {
            0 => assert!(e.kind == ErrorKind::NotTank && e.broker() == Some("10.0.0.1:5"), "{e:?}"),
            1 => assert!(matches!(e.kind, ErrorKind::Disconnected { phase: Phase::Greet, .. }), "{e:?}"),
            2 => assert!(matches!(e.kind, ErrorKind::Timeout { phase: Phase::Greet, after: CONNECT, .. }), "{e:?}"),
            _ => assert!(matches!(e.kind, ErrorKind::Timeout { phase: Phase::Connect, .. }), "{e:?}"),
        }
    }
}

#[test]
fn a_dead_address_delays_the_next_one_briefly_and_the_good_one_goes_first_from_then_on() {
    let net = Scripted::new();
    net.name("tank", Ok((1..=3).map(address).collect()));
    net.refuse(address(2), 113);
    let mut channel = channel(&net, "tank:5");
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.dialed(), [address(1)]);
    assert_eq!(channel.due(), net.now().after(Duration::from_millis(250)));
    net.pass(Duration::from_millis(250));
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.dialed(), [address(1), address(3)], "one that is refused at once costs no time");
    greet(&net, 1);
    assert!(open(&mut channel, &net).unwrap());
    assert!(net.wire(0, |wire| wire.dropped), "the other attempt is given up");
    assert_eq!(channel.address(), Some(address(3)));
    channel.reset();
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.dialed()[2], address(3));
}

#[test]
fn names_are_looked_up_only_where_that_may_take_its_time() {
    let net = Scripted::new();
    net.name("tank", Ok(vec![address(1)]));
    let mut channel = channel(&net, "tank:5");
    let e = channel.open(net.now(), LookUp::Never).unwrap_err();
    assert!(e.kind == ErrorKind::Connect && e.is_transient(), "others may be known: {e:?}");
    assert_eq!((net.looked_up(), net.dialed().len()), (0, 0));
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!((net.looked_up(), net.dialed().len()), (1, 1));
    channel.reset();
    assert!(!channel.open(net.now(), LookUp::Never).unwrap());
    assert_eq!((net.looked_up(), net.dialed().len()), (1, 2), "what it stood for then");
    net.name("tank", Err(io::ErrorKind::TimedOut.into()));
    channel.reset();
    let e = open(&mut channel, &net).unwrap_err();
    assert!(e.kind == ErrorKind::Connect && e.broker() == Some("tank:5"), "{e:?}");
}

#[test]
fn without_a_look_up_all_addresses_are_tried_that_are_known() {
    let net = Scripted::new();
    net.name("tank", Ok(vec![address(1), address(2)]));
    let mut channel = channel(&net, "tank:5");
    bring_up(&mut channel, &net);
    assert_eq!(channel.address(), Some(address(1)));
    channel.reset();
    net.refuse(address(1), 111);
    assert!(!channel.open(net.now(), LookUp::Never).unwrap());
    assert_eq!((net.looked_up(), net.dialed()), (1, vec![address(1), address(2)]));
}

#[test]
fn a_lack_of_descriptors_is_told_at_once() {
    let net = Scripted::new();
    net.name("tank", Ok(vec![address(1), address(2)]));
    net.refuse(address(1), 24);
    let e = open(&mut channel(&net, "tank:5"), &net).unwrap_err();
    assert!(matches!(&e.kind, ErrorKind::Connect) && !e.is_transient(), "{e:?}");
    assert_eq!(net.dialed(), []);
}

#[test]
fn what_ended_while_idle_is_dialed_again_quietly_but_not_for_ever() {
    let net = Scripted::new();
    let mut channel = up(&net);
    for index in 0..2 {
        net.wire(index, |wire| wire.ended = true);
        assert!(!open(&mut channel, &net).unwrap());
        greet(&net, index + 1);
        assert!(open(&mut channel, &net).unwrap());
    }
    net.wire(2, |wire| wire.ended = true);
    assert!(matches!(open(&mut channel, &net), Err(Error { kind: ErrorKind::Disconnected { .. }, .. })));
    assert_eq!(net.dialed().len(), 3);
    // An answer begins the count afresh.
    assert!(!open(&mut channel, &net).unwrap());
    greet(&net, 3);
    assert!(open(&mut channel, &net).unwrap());
    net.wire(3, |wire| wire.incoming.push_back(1));
    read(&mut channel, &net).unwrap();
    net.wire(3, |wire| wire.ended = true);
    assert!(!open(&mut channel, &net).unwrap());
}

#[test]
fn a_connection_just_greeted_that_has_ended_is_never_used() {
    let net = Scripted::new();
    let mut channel = channel(&net, "10.0.0.1:5");
    assert!(!open(&mut channel, &net).unwrap());
    greet(&net, 0);
    net.wire(0, |wire| wire.ended = true);
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.dialed().len(), 2);
}

#[test]
fn waiting_for_a_turn_fails_when_it_has_taken_as_long_as_connecting_may() {
    let net = Scripted::new();
    let settings = settings(&net);
    let broker = parse_brokers("10.0.0.1:5").unwrap().remove(0);
    let others = |now| std::iter::from_fn(|| settings.begin_opening(now, &broker)).collect::<Vec<_>>();
    let mut held = others(net.now());
    let mut channel = Channel::new(broker.clone(), settings.clone());
    assert!(!open(&mut channel, &net).unwrap());
    net.pass(CONNECT / 2);
    held.clear();
    held.extend(others(net.now()));
    assert!(!open(&mut channel, &net).unwrap());
    net.pass(CONNECT / 2);
    let e = open(&mut channel, &net).unwrap_err();
    assert!(e.kind == ErrorKind::Timeout { phase: Phase::Connect, after: CONNECT }, "{e}");
    // It begins again, and whoever gets a turn has the whole time to connect.
    assert!(!open(&mut channel, &net).unwrap());
    assert!(net.dialed().is_empty() && channel.due() < net.now().after(SECOND));
    net.pass(CONNECT / 2);
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!((net.dialed().len(), channel.due()), (1, net.now().after(CONNECT)));
}

#[test]
fn pings_on_an_idle_connection_are_passed_over_and_anything_else_ends_it() {
    for (pings, rest, is_used) in
        [(1, &[][..], true), (7, &[], true), (0, &[4], false), (2, &[3, 0], false), (1, &PING.map(|_| 3), false)]
    {
        let net = Scripted::new();
        let mut channel = up(&net);
        net.wire(0, |wire| wire.incoming.extend(PING.repeat(pings).iter().chain(rest)));
        assert_eq!(open(&mut channel, &net).unwrap(), is_used, "{pings} pings, then {rest:?}");
        assert!(!is_used || channel.is_fresh(), "a ping is no answer");
    }
    // The end is seen after pings, too, and nobody sends so many.
    for (pings, ended) in [(1, true), (5_000, false)] {
        let net = Scripted::new();
        let mut channel = up(&net);
        net.wire(0, |wire| wire.incoming.extend(PING.repeat(pings)));
        net.wire(0, |wire| wire.ended = ended);
        assert!(!open(&mut channel, &net).unwrap());
    }
}

#[test]
fn each_request_is_due_by_itself_on_a_clock_that_stands_still_while_an_answer_comes() {
    let net = Scripted::new();
    let mut channel = up(&net);
    let start = net.now();
    queue(&mut channel, start, 1, 5 * SECOND, b"a");
    queue(&mut channel, start, 2, 9 * SECOND, b"b");
    assert_eq!(channel.due(), start.after(IO), "sending has a deadline of its own");
    channel.write(start).unwrap();
    assert_eq!(channel.due(), start.after(5 * SECOND));
    // The first answer begins in time, and takes 20 s, steadily.
    pass(&mut channel, &net, 4 * SECOND);
    channel.on_answer_begin(net.now());
    for _ in 0..20 {
        assert!(!is_overdue(&channel, &net));
        pass(&mut channel, &net, SECOND);
        arrive(&net, PROGRESS);
        read(&mut channel, &net).unwrap();
    }
    channel.on_answer_end(net.now(), 1);
    assert_eq!(channel.due(), start.after(29 * SECOND), "5 s are left of the second one's 9");
    pass(&mut channel, &net, 5 * SECOND);
    let e = read(&mut channel, &net).unwrap_err();
    assert!(e.kind == ErrorKind::Timeout { phase: Phase::Wait, after: 9 * SECOND } && e.broker() == Some("10.0.0.1:5"));
}

#[test]
fn one_that_is_forgotten_is_noticed_however_many_others_are_answered() {
    let net = Scripted::new();
    let mut channel = up(&net);
    queue(&mut channel, net.now(), 0, 60 * SECOND, b"forgotten");
    channel.write(net.now()).unwrap();
    for id in 1..60 {
        queue(&mut channel, net.now(), id, 60 * SECOND, b"x");
        channel.write(net.now()).unwrap();
        pass(&mut channel, &net, SECOND);
        assert!(!is_overdue(&channel, &net), "{id}");
        arrive(&net, 9);
        read(&mut channel, &net).unwrap();
        channel.on_answer_begin(net.now());
        channel.on_answer_end(net.now(), id);
    }
    pass(&mut channel, &net, SECOND);
    assert_eq!(phase(&read(&mut channel, &net).unwrap_err()), Phase::Wait);
}

#[test]
fn slow_but_steady_gets_through_and_a_trickle_does_not() {
    for (bytes, passes) in [(PROGRESS, true), (PROGRESS / 2, false)] {
        let net = Scripted::new();
        let mut channel = up(&net);
        queue(&mut channel, net.now(), 1, SECOND, b"x");
        channel.write(net.now()).unwrap();
        arrive(&net, 1);
        read(&mut channel, &net).unwrap();
        channel.on_answer_begin(net.now());
        let mut late = None;
        for _ in 0..10 {
            pass(&mut channel, &net, IO - SECOND);
            arrive(&net, bytes);
            read(&mut channel, &net).unwrap();
            late = late.or(read(&mut channel, &net).err());
        }
        assert_eq!(late.is_none(), passes, "{bytes}: {late:?}");
    }
    // What comes at the deadline comes too late.
    for (after, passes) in [(IO - Duration::from_nanos(1), true), (IO, false)] {
        let net = Scripted::new();
        let mut channel = up(&net);
        queue(&mut channel, net.now(), 1, SECOND, b"x");
        channel.write(net.now()).unwrap();
        channel.on_answer_begin(net.now());
        pass(&mut channel, &net, after);
        arrive(&net, PROGRESS);
        read(&mut channel, &net).unwrap();
        pass(&mut channel, &net, SECOND);
        assert_eq!(read(&mut channel, &net).is_ok(), passes);
    }
}

#[test]
fn a_caller_who_was_away_is_excused_by_bytes_that_waited_and_by_nothing_else() {
    for (waiting, begun, excused) in [(1, false, true), (1, true, true), (0, false, false), (0, true, false)] {
        let net = Scripted::new();
        let mut channel = up(&net);
        queue(&mut channel, net.now(), 1, SECOND, b"x");
        queue(&mut channel, net.now(), 2, SECOND, b"x");
        channel.write(net.now()).unwrap();
        if begun {
            arrive(&net, 1);
            read(&mut channel, &net).unwrap();
            channel.on_answer_begin(net.now());
        }
        net.pass(3600 * SECOND);
        arrive(&net, waiting);
        let nothing =
            (0..=waiting).find_map(|_| read(&mut channel, &net).map_or(Some(false), |n| (n == 0).then_some(true)));
        assert_eq!(nothing, Some(excused), "{waiting} {begun}");
    }
}

#[test]
fn a_request_counts_as_handed_over_with_its_last_byte() {
    let net = Scripted::new();
    let mut channel = up(&net);
    net.wire(0, |wire| wire.room = 7);
    queue(&mut channel, net.now(), 1, SECOND, b"first");
    queue(&mut channel, net.now(), 2, SECOND, b"second");
    assert_eq!(channel.unsent(), 11);
    assert!(!channel.write(net.now()).unwrap());
    assert_eq!(channel.unsent(), 4);
    assert_eq!((channel.handed_over(1), channel.handed_over(2)), (true, false));
    assert!(!channel.is_idle());
    net.wire(0, |wire| wire.room = 100);
    assert!(channel.write(net.now()).unwrap());
    assert!(channel.handed_over(2));
    channel.on_answer_end(net.now(), 1);
    channel.on_answer_end(net.now(), 2);
    assert!(channel.is_idle());
}

#[test]
fn sending_has_time_for_as_long_as_the_network_takes_something() {
    let net = Scripted::new();
    let mut channel = up(&net);
    queue(&mut channel, net.now(), 1, SECOND, &vec![0; 10 * PROGRESS]);
    for _ in 0..9 {
        net.wire(0, |wire| wire.room = PROGRESS);
        assert!(!channel.write(net.now()).unwrap());
        pass(&mut channel, &net, IO - SECOND);
    }
    assert!(!channel.write(net.now()).unwrap());
    pass(&mut channel, &net, SECOND);
    let e = channel.write(net.now()).unwrap_err();
    assert_eq!(phase(&e), Phase::Send);
}

#[test]
fn a_reset_drops_what_is_under_way_and_a_close_does_not() {
    let net = Scripted::new();
    let mut channel = up(&net);
    channel.reset();
    assert!(net.wire(0, |wire| wire.aborted));
    assert!(!open(&mut channel, &net).unwrap());
    greet(&net, 1);
    assert!(open(&mut channel, &net).unwrap());
    channel.close();
    assert!(net.wire(1, |wire| wire.dropped && !wire.aborted));
}

#[test]
fn in_a_forked_child_the_connection_is_left_to_the_parent() {
    let net = Scripted::new();
    let mut channel = up(&net);
    queue(&mut channel, net.now(), 1, SECOND, b"x");
    net.fork();
    channel.settings.look_at_process();
    assert!(channel.write(net.now()).is_err(), "what was queued is the parent's");
    assert!(net.wire(0, |wire| wire.dropped && !wire.aborted && wire.sent == PING));
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.dialed().len(), 2);
}

#[test]
fn a_channel_that_rests_is_not_dialed() {
    let net = Scripted::new();
    let mut channel = up(&net);
    let until = net.now().after(SECOND);
    channel.rest_until(until);
    assert_eq!(channel.due(), until);
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.dialed().len(), 1);
    net.pass(SECOND);
    assert!(!open(&mut channel, &net).unwrap());
    assert_eq!(net.dialed().len(), 2);
}

#[test]
fn how_long_it_was_well_is_counted_to_the_last_look() {
    let net = Scripted::new();
    let mut channel = up(&net);
    pass(&mut channel, &net, 12 * SECOND);
    net.pass(3600 * SECOND);
    assert_eq!(channel.healthy_for(), 12 * SECOND);
    // A read is a look, whether it brings bytes or none, unless it finds the end, which may have come long before.
    for (bytes, healthy_for) in [(0, 3612 * SECOND), (1, 3613 * SECOND)] {
        arrive(&net, bytes);
        read(&mut channel, &net).unwrap();
        assert_eq!((channel.healthy_for(), channel.last_look()), (healthy_for, net.now()));
        net.pass(SECOND);
    }
    net.wire(0, |wire| wire.ended = true);
    assert!(read(&mut channel, &net).unwrap_err().is_connection_lost());
    assert_eq!(channel.healthy_for(), 3613 * SECOND);
    channel.reset();
    assert_eq!(channel.healthy_for(), Duration::ZERO);
}

#[test]
fn what_it_waits_for_follows_from_what_was_queued_sent_and_answered() {
    let net = Scripted::new();
    let mut channel = channel(&net, "10.0.0.1:5");
    // Phase, whether it is idle, and what is awaited: reading, writing.
    let state = |channel: &mut Channel| {
        let awaited = channel.interests().map(|interest| (interest.read, interest.write)).next();
        (channel.phase(), channel.is_idle(), awaited)
    };
    assert!(!channel.is_up());
    assert_eq!(state(&mut channel), (Phase::Connect, true, None));
    assert!(!open(&mut channel, &net).unwrap());
    assert!(!channel.is_up());
    assert_eq!(
        state(&mut channel),
        (Phase::Connect, true, Some((false, true))),
        "the network tells when it is connected"
    );
    greet(&net, 0);
    assert!(open(&mut channel, &net).unwrap());
    assert!(channel.is_up());
    assert_eq!((state(&mut channel), channel.due()), ((Phase::Wait, true, None), Time::NEVER));
    net.wire(0, |wire| wire.room = 1);
    queue(&mut channel, net.now(), 1, SECOND, b"a");
    assert_eq!(state(&mut channel), (Phase::Send, false, Some((true, true))));
    assert!(channel.write(net.now()).unwrap());
    assert_eq!(state(&mut channel), (Phase::Wait, false, Some((true, false))));
    queue(&mut channel, net.now(), 2, SECOND, b"b");
    assert_eq!(state(&mut channel), (Phase::Wait, false, Some((true, true))), "an answer is awaited all the same");
    channel.on_answer_begin(net.now());
    assert_eq!(channel.phase(), Phase::Read);
    channel.on_answer_end(net.now(), 1);
    assert_eq!(state(&mut channel), (Phase::Send, false, Some((true, true))));
    net.wire(0, |wire| wire.room = 1);
    assert!(channel.write(net.now()).unwrap());
    channel.on_answer_end(net.now(), 2);
    assert_eq!(state(&mut channel), (Phase::Wait, true, None));
}

#[test]
fn only_what_a_wait_has_found_is_read_until_there_is_no_more_or_the_answer_is_over() {
    let net = Scripted::new();
    let mut channel = up(&net);
    assert!(!channel.is_readable(net.now()));
    queue(&mut channel, net.now(), 1, SECOND, b"a");
    queue(&mut channel, net.now(), 2, SECOND, b"b");
    channel.write(net.now()).unwrap();
    let found = |channel: &mut Channel, arrived| {
        arrive(&net, arrived);
        let before = channel.is_readable(net.now());
        look(channel, &net);
        (before, channel.is_readable(net.now()))
    };
    assert_eq!(found(&mut channel, 0), (false, false));
    assert_eq!(found(&mut channel, 20), (false, true));
    // More may have come than there was room for.
    channel.read(net.now(), &mut [0; 15]).unwrap();
    assert!(channel.is_readable(net.now()));
    channel.read(net.now(), &mut [0; 15]).unwrap();
    assert_eq!(found(&mut channel, 15), (false, true));
    // The next answer waits until others had their turn.
    channel.read(net.now(), &mut [0; 15]).unwrap();
    channel.on_answer_end(net.now(), 1);
    assert_eq!(found(&mut channel, 9), (false, true));
    read(&mut channel, &net).unwrap();
    // The end is something to be read.
    net.wire(0, |wire| wire.ended = true);
    assert_eq!(found(&mut channel, 0), (false, true));
    assert!(read(&mut channel, &net).is_err());
    // Whoever reads a channel that is down is told so.
    channel.close();
    assert!(channel.is_readable(net.now()));
}

#[test]
fn what_is_overdue_is_read_whatever_the_last_wait_found() {
    let net = Scripted::new();
    let mut channel = up(&net);
    queue(&mut channel, net.now(), 1, SECOND, b"a");
    channel.write(net.now()).unwrap();
    net.pass(SECOND - Duration::from_nanos(1));
    assert!(!channel.is_readable(net.now()));
    net.pass(Duration::from_nanos(1));
    assert!(channel.is_readable(net.now()));
    // What came before an idle connection was used again is nothing that was asked for now.
    channel.on_answer_end(net.now(), 1);
    arrive(&net, 1);
    read(&mut channel, &net).unwrap();
    queue(&mut channel, net.now(), 2, SECOND, b"b");
    assert!(!channel.is_readable(net.now()));
}

#[test]
fn a_wait_excuses_a_caller_who_was_away_if_something_comes_sooner_than_that() {
    for (away, waited, excused) in [(3, 2, true), (2, 2, false), (0, 2, false)] {
        let net = Scripted::new();
        let mut channel = up(&net);
        let start = net.now();
        queue(&mut channel, start, 1, 9 * SECOND, b"a");
        queue(&mut channel, start, 2, 9 * SECOND, b"b");
        channel.write(start).unwrap();
        let began = net.pass(away * SECOND);
        net.pass(waited * SECOND);
        arrive(&net, 1);
        look(&mut channel, &net);
        channel.on_waited(net.now(), began);
        read(&mut channel, &net).unwrap();
        let excuse = if excused { away } else { 0 };
        assert_eq!(channel.due(), start.after((9 + excuse) * SECOND), "{away} {waited}");
    }
}
