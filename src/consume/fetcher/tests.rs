mod connections;

use std::sync::Arc;

use super::super::partition::tests::marks;
use super::super::partition::{Partition, Rules, State};
use super::super::subscription::Subscription;
use super::*;
use crate::config::Config;
use crate::error::{ErrorKind, Fault, Phase};
use crate::message::Names;
use crate::net::scripted::{Scripted, Wire};
use crate::net::{Network, RetryPolicy, parse_brokers, wait};
use crate::protocol::fetch::{FetchHeader, MAX_PARTITIONS, TopicAnswer};
use crate::protocol::frame::{Kind, PING};

const EMPTY: PartitionAnswer = PartitionAnswer::Data { base: Some(1), high_water_mark: 9, len: 0 };

/// A dense bundle of one message, with its length.
const BUNDLE: [u8; 12] = [11, 1 << 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Setting {
    net: Scripted,
    session: Session,
    all: Partitions,
    inbox: Inbox,
    fetcher: Fetcher,
}

impl Setting {
    /// A topic of this many partitions, each with the numbers 1 to 9, read from `seq` on; nothing is asked for yet.
    fn new(count: u16, seq: u64, what: fn(Subscription) -> Subscription) -> Setting {
        let net = Scripted::new();
        let broker = parse_brokers("10.0.0.1:5").unwrap().remove(0);
        let session = Session::new(Config::default(), vec![broker.clone()], Arc::new(net.clone()));
        let options = what(Subscription::topic("t")).options;
        let partition = |index| Partition::new(index, seq, marks(1, 9), &options);
        let list = (0..count.into()).map(partition).collect();
        let retry = session.retry_policy();
        let names = Names::of_topic("t", count);
        let all = Partitions::new(list, &[], Rules { names, options, in_cluster: false, bundle_limit: 1 << 28, retry });
        let fetcher = Fetcher::new(&broker, &session, &all.rules.names);
        Setting { net, session, all, inbox: Inbox::default(), fetcher }
    }

    /// As [`new`](Setting::new), on a connection that is up, with everything asked for.
    fn asked(count: u16, seq: u64, what: fn(Subscription) -> Subscription) -> Setting {
        let mut s = Setting::new(count, seq, what);
        s.ask();
        s.greet(0);
        s.ask();
        assert!(!s.fetcher.is_coming_up() && !s.fetcher.is_idle());
        s
    }

    fn wire<T>(&self, index: usize, act: impl FnOnce(&mut Wire) -> T) -> T {
        self.net.wire(index, act)
    }

    fn greet(&self, index: usize) {
        self.wire(index, |wire| {
            wire.connected = true;
            wire.incoming.extend(PING);
        });
    }

    /// Lets the network tell what has come, at once.
    fn look(&mut self) {
        wait(&self.net, &mut std::iter::once(&mut self.fetcher.channel), None, self.net.now()).unwrap();
    }

    /// Lets time pass that is not the caller's own.
    fn pass(&mut self, time: Duration) -> Time {
        let (began, now) = (self.net.now(), self.net.pass(time));
        self.fetcher.channel.on_waited(now, began);
        now
    }

    /// Asks for what is due, as the iterator does.
    fn ask(&mut self) {
        self.look();
        let now = self.session.now();
        self.all.wake(now);
        while let Some(index) = self.all.next_due() {
            self.fetcher.wanted.push(index, self.all.get(index).risk());
            self.all.with(index, |partition, _| partition.set_leader(self.fetcher.channel.broker().clone()));
        }
        let mut cx = Context { now, partitions: &mut self.all, inbox: &mut self.inbox, session: &self.session };
        self.fetcher.ask(&mut cx, LookUp::Never);
    }

    /// An answer on its way, cut after some bytes.
    fn send(&self, wire: usize, request_id: u32, answers: &[PartitionAnswer], chunks: &[u8], cut: usize) {
        let topic = TopicAnswer { name: "t".into(), partitions: (0..).zip(answers.iter().copied()).collect() };
        let mut out = Vec::new();
        FetchHeader { request_id, topics: vec![topic] }.encode(&mut out).unwrap();
        out.extend_from_slice(chunks);
        out.truncate(out.len() - cut);
        self.wire(wire, |wire| wire.incoming.extend(out));
    }

    /// Receives all there is.
    fn receive(&mut self) {
        let now = self.session.now();
        loop {
            self.look();
            let mut cx = Context { now, partitions: &mut self.all, inbox: &mut self.inbox, session: &self.session };
            if !self.fetcher.receive(&mut cx) {
                break;
            }
        }
    }

    /// Receives and decodes all there is; how many messages.
    fn messages(&mut self) -> u64 {
        self.receive();
        let mut count = 0;
        while self.inbox.has_bundles() {
            count += self.inbox.decode_next(&mut self.all, &self.session.config.limits, u64::MAX);
            while self.inbox.decoded.take_one().is_some() {}
        }
        count
    }

    fn state(&self, partition: u32) -> State {
        self.all.get(partition).state()
    }

    /// Ends the connection after it was last seen alive at this moment, and lets the fetcher see it.
    fn end(&mut self, wire: usize) {
        self.receive();
        self.wire(wire, |wire| wire.ended = true);
        self.receive();
    }
}

fn data(len: usize) -> PartitionAnswer {
    PartitionAnswer::Data { base: Some(1), high_water_mark: 9, len: len as u32 }
}

#[test]
fn it_connects_when_something_is_wanted_and_asks_with_one_request() {
    let mut s = Setting::new(3, 1, |s| s);
    assert!(!s.fetcher.is_used() && !s.fetcher.is_coming_up() && s.fetcher.is_at_ends() && s.net.dialed().is_empty());
    s.ask();
    assert!(s.fetcher.is_used() && s.fetcher.is_coming_up() && !s.fetcher.is_at_ends() && s.fetcher.is_idle());
    s.receive();
    assert!(s.fetcher.is_coming_up(), "there is no connection to read");
    s.greet(0);
    s.ask();
    assert!(s.fetcher.is_used() && !s.fetcher.is_coming_up() && !s.fetcher.is_idle());
    assert_eq!(s.fetcher.conn.load, Load { risky: 3, suspects: 0 });
    assert!(!s.fetcher.is_at_ends(), "there are messages");
    assert_eq!(s.fetcher.channel.last_heard(), None);
    s.send(0, 1, &[EMPTY; 3], &[], 0);
    s.receive();
    assert_eq!(s.fetcher.channel.last_heard(), Some(s.net.now()));
    assert!(!s.fetcher.is_used() && s.fetcher.is_at_ends() && s.fetcher.conn.load == Load::default());
    assert_eq!((s.all.stats.fetches, s.all.stats.empty_fetches), (1, 1));
    assert!(s.all.stats.bytes > 0 && s.net.dialed().len() == 1);
}

#[test]
fn what_lies_above_the_marks_alone_is_the_end() {
    let s = Setting::asked(1, 10, |s| s);
    assert!(s.fetcher.is_at_ends() && s.fetcher.is_used());
}

#[test]
fn an_empty_answer_that_comes_before_a_broker_can_have_waited_is_followed_by_a_pause() {
    let (usual, short): (fn(_) -> _, fn(_) -> _) = (|s| s, |s: Subscription| s.max_wait(ms(20)));
    for (max_wait, after, pauses) in [(usual, 49, true), (usual, 50, false), (short, 19, true), (short, 20, false)] {
        let mut s = Setting::asked(1, 10, max_wait);
        s.net.pass(ms(after));
        s.send(0, 1, &[EMPTY], &[], 0);
        s.receive();
        assert_eq!(matches!(s.state(0), State::Paused(_)), pauses, "after {after} ms");
    }
    // What says something else than "nothing" is no reason.
    let mut s = Setting::asked(2, 1, |s| s);
    s.send(0, 1, &[EMPTY, data(12)], &BUNDLE, 0);
    assert!(s.messages() == 1 && !matches!(s.state(0), State::Paused(_)));
    let mut s = Setting::asked(2, 1, |s| s);
    s.send(0, 1, &[EMPTY, PartitionAnswer::NoLeader], &[], 0);
    s.receive();
    assert_eq!(s.state(0), State::Idle);
}

#[test]
fn the_next_fetch_is_sent_before_the_messages_of_an_answer_are_handed_out() {
    for (prefetches, sent) in [(true, 1), (false, 0)] {
        let mut s = Setting::asked(1, 1, |s| s);
        if !prefetches {
            s = Setting::asked(1, 1, |mut s| {
                s.options.prefetch = false;
                s
            });
        }
        s.send(0, 1, &[data(12)], &BUNDLE, 0);
        s.receive();
        assert!(s.inbox.has_bundles() && !s.fetcher.is_receiving());
        assert_eq!(s.fetcher.in_flight.len(), sent);
    }
    // Where the log is read to its end, whoever waits may do so first.
    let mut s = Setting::asked(1, 9, |s| s);
    s.send(0, 1, &[PartitionAnswer::Data { base: Some(9), high_water_mark: 9, len: 12 }], &BUNDLE, 0);
    assert_eq!((s.messages(), s.fetcher.in_flight.len()), (1, 0));
}

#[test]
fn an_error_of_one_partition_waits_for_the_rest_of_its_answer() {
    for (cut, malformed) in [(0, false), (0, true), (3, false)] {
        let mut s = Setting::asked(3, 1, |s| s);
        let rest = if malformed { [0xff; 12] } else { BUNDLE };
        let answers = [data(12), PartitionAnswer::UnknownPartition, data(12)];
        s.send(0, 1, &answers, &[BUNDLE, rest].concat(), cut);
        // Whatever ends the answer, the first error is the one that counts, after what came before it.
        let mut count = s.messages();
        if cut > 0 {
            assert!(s.inbox.take_error().is_none(), "the answer is not over");
            s.wire(0, |wire| wire.ended = true);
            count += s.messages();
        }
        assert_eq!(count, if malformed || cut > 0 { 1 } else { 2 });
        let e = s.inbox.take_error().expect("once the answer is over");
        assert!(e.fault() == Some(Fault::UnknownPartition) && e.partition() == Some(1), "{e:?}");
    }
}

#[test]
fn a_broker_that_repeats_a_redirect_or_knows_no_leader_is_asked_after_others() {
    let to = std::net::SocketAddrV4::new([10, 0, 0, 2].into(), 5);
    let other: BrokerAddr = parse_brokers("10.0.0.2:5").unwrap().remove(0);
    let mut s = Setting::asked(1, 1, |s| s);
    let (topic, here): (Arc<str>, _) = ("t".into(), s.fetcher.channel.broker().clone());
    let first = |s: &Setting| s.session.book.brokers().remove(0);
    for (request, redirects) in [(1, 1), (2, 2)] {
        s.send(0, request, &[PartitionAnswer::Redirect(to)], &[], 0);
        s.receive();
        assert_eq!((s.all.stats.redirects, s.session.book.leader_or_any(&topic, 0)), (redirects, other.clone()));
        assert_eq!(first(&s), if redirects == 1 { here.clone() } else { other.clone() });
        // It is asked again in spite of what it said.
        s.net.pass(ms(100));
        s.ask();
    }
    s.send(0, 3, &[PartitionAnswer::NoLeader], &[], 0);
    s.receive();
    assert_eq!((s.all.stats.no_leader, s.session.book.leader_or_any(&topic, 0)), (1, other));
    assert!(matches!(s.state(0), State::Paused(_)) && s.inbox.take_error().is_none());
}

#[test]
fn the_first_of_several_faults_in_an_answer_ends_the_subscription() {
    let mut s = Setting::asked(2, 1, |s| s);
    s.send(0, 1, &[PartitionAnswer::SystemError, PartitionAnswer::UnknownPartition], &[], 0);
    s.receive();
    let e = s.inbox.take_error().expect("the answer is over");
    assert_eq!((e.partition(), e.fault()), (Some(0), Some(Fault::System)), "{e:?}");
}

#[test]
fn malformed_data_ends_the_subscription_and_the_connection() {
    let mut s = Setting::asked(1, 1, |s| s);
    s.wire(0, |wire| wire.incoming.extend([0xff; 20]));
    s.receive();
    assert!(matches!(s.inbox.take_error(), Some(Error { kind: ErrorKind::Decode, .. })));
    assert!(s.wire(0, |wire| wire.dropped) && s.all.stats.reconnects == 0);
}

#[test]
fn topics_are_named_once_and_share_what_is_asked_for_ahead() {
    let options = Subscription::topic("t").options;
    let mut names = Names::with_capacity(4);
    [("b", 0), ("a", 3), ("b", 1), ("a", 0)].into_iter().for_each(|(topic, id)| names.push(&topic.into(), id));
    let list = (0..4).map(|index| Partition::new(index, 1, None, &options)).collect();
    let retry = RetryPolicy::default();
    let rules = Rules { names: names.into(), options: options.clone(), in_cluster: false, bundle_limit: 1, retry };
    let all = Partitions::new(list, &[], rules);
    let want = |fetch_size: u32, is_risky| Want {
        seq: 1,
        fetch_size: fetch_size << 20,
        waits: false,
        alone: false,
        risk: if is_risky { Risk::Risky } else { Risk::Harmless },
    };
    let request = vec![(2, want(1, false)), (3, want(1, true)), (0, want(4, true)), (1, want(1, false))];
    let (topics, partitions) = slots(&request, &all.rules.names, 2 << 20);
    assert_eq!(partitions, [1, 3, 0, 2], "in the order of the subscription");
    let asked = |topic: &FetchTopic| {
        (
            topic.name.to_string(),
            topic.partitions.iter().map(|of| (of.partition, of.fetch_size >> 20)).collect::<Vec<_>>(),
        )
    };
    let asked: Vec<_> = topics.iter().map(asked).collect();
    assert_eq!(asked, [("a".into(), vec![(3, 1), (0, 2)]), ("b".into(), vec![(0, 4), (1, 1)])]);
}

#[test]
fn a_line_that_was_idle_is_asked_for_what_it_carries_in_sixteen_such_waits() {
    const MIB: u64 = 1 << 20;
    for (bytes, wait, took, after) in [
        // 25 MiB/s over 100 ms: sixteen times as much at first, then the most there is.
        (MIB, 100, 40, 16 * MIB),
        (16 * MIB, 100, 640, 32 * MIB),
        // Over 20 ms: 8 MiB, whatever came before.
        (2 * MIB, 20, 80, 8 * MIB),
        (16 * MIB, 20, 640, 8 * MIB),
        // A narrow line is busy nearly all the time; where little is there, little comes.
        (MIB, 100, 1000, MIB * 16 / 10),
        (1000, 100, 0, 16_000),
        (0, 100, 0, 0),
        // A short line, and a caller who is late.
        (MIB, 10, 1, 16 * MIB),
        (MIB, 9, 1, 0),
        (u64::MAX, u64::MAX >> 1, 0, 32 * MIB),
    ] {
        assert_eq!(fetch_total(bytes, ms(wait), ms(took)), after, "{bytes} bytes in {took} ms after {wait} ms");
    }
    for (ahead, partitions, fetch_size, share_of_each) in [
        (32 * MIB, 1, 1 << 20, 32 << 20),
        (24 * MIB, 3, 1 << 20, 8 << 20),
        (24 * MIB, 255, 1 << 20, 98_689),
        (24 * MIB, 1, 1000, 32_000),
        (24 * MIB, 0, 64 << 20, 24 << 20),
        (0, 1, 1000, 0),
    ] {
        assert_eq!(
            share(ahead, partitions, fetch_size),
            share_of_each,
            "{ahead} bytes for {partitions} of {fetch_size}"
        );
    }
}

#[test]
fn a_line_is_idle_from_when_nothing_was_there_to_read() {
    // Milliseconds from the fetch to a look that finds nothing, from there to the first byte, from there to the last; and how many
    // bytes the next fetch then asks for.
    for (idle, begun, ended, ahead) in [(0, 100, 101, 380), (90, 9, 1, 0), (90, 10, 40, 96), (0, 100, 1000, 38)] {
        let mut s = Setting::asked(2, 1, |s| s);
        s.net.pass(ms(idle));
        s.receive();
        s.net.pass(ms(begun));
        s.send(0, 1, &[data(12), data(12)], &[BUNDLE; 2].concat(), 12);
        s.receive();
        s.net.pass(ms(ended));
        s.receive();
        s.wire(0, |wire| wire.incoming.extend(BUNDLE));
        s.receive();
        assert_eq!(s.fetcher.conn.fetch_total, ahead, "{idle} {begun} {ended}");
    }
    // What a broker may have waited with says nothing, and what another connection carried neither.
    let mut s = Setting::asked(1, 10, |s| s);
    s.receive();
    s.net.pass(ms(3000));
    s.send(0, 1, &[PartitionAnswer::Data { base: Some(10), high_water_mark: 20, len: 12 }], &BUNDLE, 0);
    s.receive();
    assert_eq!(s.fetcher.conn.fetch_total, 0);
    let mut s = Setting::asked(1, 1, |s| s);
    s.receive();
    s.net.pass(ms(100));
    s.send(0, 1, &[data(12)], &BUNDLE, 0);
    s.receive();
    assert_eq!(s.fetcher.conn.fetch_total, 192);
    s.end(0);
    assert_eq!((s.fetcher.conn.fetch_total, s.fetcher.conn.idle_since), (0, None));
}

#[test]
fn a_bundle_that_is_malformed_comes_after_the_messages_joined_with_it() {
    let mut s = Setting::asked(1, 1, |s| s);
    let mut bad = BUNDLE;
    bad[11] = 5;
    s.send(0, 1, &[data(36)], &[BUNDLE, bad, BUNDLE].concat(), 0);
    assert_eq!(s.messages(), 1);
    assert_eq!(s.inbox.delivered().map(|of| of.position), Some(2), "the bad bundle is what is left");
    assert!(matches!(s.inbox.take_error(), Some(Error { kind: ErrorKind::Decode, .. })));
}

#[test]
fn the_messages_of_a_cut_bundle_count_before_it_is_asked_for_again() {
    let mut s = Setting::asked(1, 1, |s| s);
    // Three messages, and the third is not whole.
    let bundle = [&[31, 3 << 2][..], &[0; 30]].concat();
    s.send(0, 1, &[data(30)], &bundle[..30], 0);
    let now = s.session.now();
    let mut count = 0;
    for _ in 0..9 {
        s.look();
        let mut cx = Context { now, partitions: &mut s.all, inbox: &mut s.inbox, session: &s.session };
        s.fetcher.receive(&mut cx);
        count += s.inbox.decode_next(&mut s.all, &s.session.config.limits, u64::MAX);
        let delivered = s.inbox.delivered();
        while s.inbox.decoded.take_one().is_some() {}
        if let Some(of) = s.inbox.delivered().or(delivered) {
            s.all.with(0, |partition, _| partition.advance(of.position));
        }
    }
    let want = s.all.get(0).wants(&s.all.rules).unwrap().unwrap();
    assert_eq!((count, want.seq, want.fetch_size), (2, 3, 1 << 20));
}

#[test]
fn an_answer_is_being_received_from_its_first_byte_to_its_last() {
    let mut s = Setting::asked(1, 1, |s| s);
    let whole = {
        s.send(0, 1, &[data(12)], &BUNDLE, 0);
        s.wire(0, |wire| std::mem::take(&mut wire.incoming))
    };
    for (at, byte) in whole.iter().copied().enumerate() {
        assert_eq!(
            s.fetcher.channel.phase(),
            if at == 0 { Phase::Wait } else { Phase::Read },
            "{at} of {}",
            whole.len()
        );
        s.wire(0, |wire| wire.incoming.push_back(byte));
        s.receive();
        assert_eq!(s.fetcher.is_receiving(), at + 1 < whole.len(), "{at} of {}", whole.len());
    }
    assert!(!s.fetcher.is_receiving() && s.fetcher.channel.phase() != Phase::Read);
    assert_eq!(s.messages(), 1);
}

#[test]
fn an_answer_ends_although_the_next_one_has_begun_to_arrive() {
    // More than a request may ask for: two are in flight.
    let mut s = Setting::asked(MAX_PARTITIONS as u16 + 1, 1, |s| s);
    let first = [EMPTY; MAX_PARTITIONS];
    s.send(0, 1, &first, &[], 0);
    s.wire(0, |wire| wire.incoming.push_back(Kind::Consume as u8));
    s.look();
    let now = s.session.now();
    let mut cx = Context { now, partitions: &mut s.all, inbox: &mut s.inbox, session: &s.session };
    // The first look finds out how much the decoder needs.
    assert!(s.fetcher.receive(&mut cx) && s.fetcher.receive(&mut cx));
    assert!(s.fetcher.is_receiving() && !s.fetcher.decoder.is_in_answer(&[]), "it is the others' turn");
}

#[test]
fn what_is_read_has_the_names_that_there_were_when_it_was_asked_for() {
    let mut s = Setting::asked(1, 1, |s| s);
    let names = s.all.rules.names.clone();
    assert!(Arc::ptr_eq(&s.fetcher.buf.block().tag, &names));
    s.all.rules.names = Arc::new((*names).clone());
    s.net.pass(ms(400));
    s.send(0, 1, &[EMPTY], &[], 0);
    s.receive();
    s.ask();
    assert!(!s.fetcher.is_idle() && Arc::ptr_eq(&s.fetcher.buf.block().tag, &s.all.rules.names));
}
