//! Recorded answers, damaged in thousands of ways, through the whole client over a real socket: it ends with messages or a
//! typed error, in time, and holds no more memory than the answer is worth.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use common::alloc;
use common::captures::{self, Capture};
use common::feed::{Feeder, Found};
use common::mutate;
use common::peer::{Peer, Reply, Script, status};
use common::rng::{Rng, seeded};
use common::watch::{SOON, within};
use tank_client::Limits;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::admin::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
use tank_client::protocol::fetch::{FetchRequest, SEQ_EARLIEST, SEQ_TAIL};
use tank_client::protocol::frame::{HEADER_LEN, PING, Payload};
use tank_client::{Client, Error, ErrorKind, Result, Start, Subscription};

const RUNS: u64 = 2000;

/// What a client and a subscription may hold whatever they are sent: two read buffers, and the settled part of decoding.
const AT_REST: isize = 1 << 20;

/// How many bytes may be held for one that was sent: Snappy makes up to 22 of it, and a message of two takes an entry of
/// 48 in a list that may just have been grown.
const FOR_A_BYTE: isize = 160;

/// An exchange that a client can be brought to repeat.
#[derive(Clone)]
struct Exchange {
    name: Arc<str>,
    request: FetchRequest,
    answer: Arc<[u8]>,
}

fn exchanges() -> Vec<Exchange> {
    let exchange = |capture: &Capture| {
        let mut requests = capture.fetches();
        let request = requests.drain(..).next()?;
        let answer = capture.stream();
        let repeatable = request.encode(&mut Vec::new()).is_ok()
            && request.slots().all(|(_, wanted)| wanted.partition < 300)
            && requests.is_empty()
            && (HEADER_LEN + 8..100_000).contains(&answer.len());
        repeatable.then(|| Exchange { name: capture.name.as_str().into(), request, answer: answer.into() })
    };
    let all: Vec<Exchange> = captures::consuming().filter_map(exchange).collect();
    assert!(all.len() > 100, "{}", all.len());
    all
}

/// Subscribes as the recorded request asks.
fn subscription(request: &FetchRequest) -> Subscription {
    let start = |seq| match seq {
        SEQ_EARLIEST => Start::Earliest,
        SEQ_TAIL => Start::Latest,
        seq => Start::At(seq),
    };
    let mut slots = request.slots();
    let (topic, wanted) = slots.next().unwrap();
    let mut all = Subscription::partition(&**topic, wanted.partition).start(start(wanted.seq));
    for (topic, wanted) in slots {
        all = all.and_partition(&**topic, wanted.partition, start(wanted.seq));
    }
    all.max_wait(Duration::ZERO)
}

/// Says that every topic has enough partitions, gives its answers in turn, and hangs up.
struct Playback {
    answers: std::vec::IntoIter<Vec<u8>>,
    pieces: Vec<u8>,
    /// Falls silent instead of hanging up.
    silent: bool,
}

impl Script for Playback {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        if id == Kind::DiscoverPartitions as u8 {
            let DiscoverPartitionsRequest { request_id, topic, .. } =
                DiscoverPartitionsRequest::decode(payload).unwrap();
            let marks = PartitionState::Marks { first_available: 1, high_water_mark: 9 };
            let answer = DiscoverPartitionsResponse { request_id, topic, count: 300, partitions: vec![marks; 300] };
            let mut bytes = Vec::new();
            answer.encode(&mut bytes).unwrap();
            return Reply { bytes, ..Reply::default() };
        }
        if id == Kind::Status as u8 {
            return status(payload, false);
        }
        let request = FetchRequest::decode(payload).unwrap();
        let Some(mut bytes) = self.answers.next() else { return Reply { close: !self.silent, ..Reply::default() } };
        // The recorded id is not the client's.
        let at = if bytes.starts_with(&PING) { 2 * HEADER_LEN + 4 } else { HEADER_LEN + 4 };
        if let Some(id) = bytes.get_mut(at..at + 4) {
            id.copy_from_slice(&request.request_id.to_le_bytes());
        }
        let close = self.answers.len() == 0 && !self.silent;
        Reply { bytes, close, pieces: self.pieces.clone() }
    }
}

/// What came of a run.
#[derive(Debug, Default)]
struct Outcome {
    messages: usize,
    error: Option<Error>,
}

fn run(peer: &Peer, exchange: &Exchange, answers: Vec<Vec<u8>>, pieces: Vec<u8>, silent: bool) -> Outcome {
    peer.play(Playback { answers: answers.into_iter(), pieces, silent });
    let addr = peer.addr();
    let io_timeout = Duration::from_millis(if silent { 30 } else { 10_000 });
    let client = Client::builder()
        .io_timeout(io_timeout)
        .retry_timeout(Duration::ZERO)
        .backoff(Duration::from_millis(1), Duration::from_millis(1))
        .map_endpoints(move |_| addr);
    let mut outcome = Outcome::default();
    let consumed: Result<()> = client.connect(addr).and_then(|client| {
        let mut iter = client.subscribe(subscription(&exchange.request))?;
        let consumed = iter.by_ref().try_for_each(|message| {
            let message = message?;
            assert!(message.seq() > 0 && message.seq() < u64::MAX);
            outcome.messages += 1;
            Ok(())
        });
        assert!(iter.is_finished() && iter.next().is_none(), "it has ended for good");
        consumed
    });
    peer.end();
    outcome.error = consumed.err();
    outcome
}

/// Fails the whole program if one of the runs that begin takes too long: a hang could not be left otherwise.
fn watchdog(begins: &Receiver<u64>) {
    let mut running = None;
    loop {
        match begins.recv_timeout(SOON) {
            Ok(seed) => running = Some(seed),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("hangs with TANK_SEED={running:?}");
                std::process::abort();
            }
        }
    }
}

#[test]
fn undamaged_answers_are_delivered() {
    within(60, || {
        let peer = Peer::start();
        for exchange in exchanges() {
            // The one lie that does not survive: ids are put right here.
            let hostile = exchange.name.starts_with("hostile") && &*exchange.name != "hostile_wrong_request_id";
            let outcome = run(&peer, &exchange, vec![exchange.answer.to_vec()], vec![], false);
            let error = outcome.error.unwrap();
            // It ends with the connection, or with what the answer says.
            let refused = error.kind == ErrorKind::Decode;
            // Numbers that run backwards, and answers to requests that only the recorded client made: this one sorts topics.
            let odd = exchange.name.starts_with("consume_pipelined")
                || ["prefer_local_tail_restarted_replica", "reference_consume"].contains(&&*exchange.name)
                || !exchange.request.topics.is_sorted_by_key(|topic| &topic.name);
            assert!(refused == hostile || odd, "{}: {error:?}", exchange.name);
        }
    });
}

#[test]
fn damaged_answers_through_the_whole_client() {
    let (run_begins, begins) = mpsc::channel();
    let dog = thread::spawn(move || watchdog(&begins));
    let exchanges = exchanges();
    let peer = Peer::start();
    let _weighed = alloc::weigh_this_thread();
    let (mut seed, mut heaviest) = (0, 0);
    let (mut delivered, mut refused, mut ended, mut faults, mut late) = (0, 0, 0, 0, 0);
    seeded(RUNS, |rng| {
        run_begins.send(seed).unwrap();
        seed += 1;
        let exchange = rng.pick(&exchanges);
        let answers = damaged(rng, &exchange, &exchanges);
        let sent: usize = answers.iter().map(Vec::len).sum();
        let sizes = rng.pick(&[0, 0, 1, 4]);
        let pieces = rng.bytes(sizes);
        let silent = rng.one_in(100);
        let before = alloc::held();
        alloc::reset_peak();
        let outcome = run(&peer, &exchange, answers, pieces, silent);
        let peak = alloc::peak() - before;
        let allowed = AT_REST + FOR_A_BYTE * sent as isize;
        assert!(peak <= allowed, "{}: {peak} bytes held for {sent}", exchange.name);
        heaviest = heaviest.max(peak);
        delivered += usize::from(outcome.messages > 0);
        let error = outcome.error.expect("the peer always ends it");
        match error.kind {
            ErrorKind::Decode => refused += 1,
            ErrorKind::Disconnected { .. } | ErrorKind::Io { .. } | ErrorKind::Connect => ended += 1,
            ErrorKind::Broker { .. } | ErrorKind::OutOfRange { .. } | ErrorKind::BundleTooLarge { .. } => faults += 1,
            ErrorKind::Timeout { .. } if silent => late += 1,
            _ => panic!("{}: {error}", exchange.name),
        }
    });
    drop(run_begins);
    dog.join().unwrap();
    eprintln!(
        "{delivered} with messages; {refused} refused, {ended} ended, {faults} faults, {late} late; {heaviest} bytes"
    );
    let all = [delivered, refused, ended, faults];
    assert!(seed < RUNS || (all.iter().all(|n| *n > 100) && late > 0), "damage that always does the same tests little");
}

/// One answer or several, with lies, cuts, and pieces of others.
fn damaged(rng: &mut Rng, exchange: &Exchange, exchanges: &[Exchange]) -> Vec<Vec<u8>> {
    let mut answers = vec![exchange.answer.to_vec(); rng.pick(&[1, 1, 1, 2, 3])];
    let last = answers.len() - 1;
    let other = rng.pick(exchanges).answer;
    let bytes = &mut answers[last];
    for _ in 0..rng.pick(&[1, 1, 1, 2, 5]) {
        mutate::damage(rng, bytes, &other);
    }
    match rng.below(8) {
        0..=3 => mutate::mend_lengths(bytes),
        // A whole answer a second time, which nobody asked for.
        4 => bytes.extend_from_slice(&exchange.answer),
        _ => {}
    }
    answers
}

/// How often decoding looks at a byte: whatever the bytes are, and whether they come at once, one by one or as needed, the
/// steps and the bytes that are offered again grow with the bytes alone.
#[test]
fn steps_are_linear_in_the_bytes() {
    let exchanges: Vec<Exchange> = exchanges().into_iter().filter(|exchange| exchange.answer.len() < 10_000).collect();
    seeded(1500, |rng| {
        let exchange = rng.pick(&exchanges);
        let answers = damaged(rng, &exchange, &exchanges);
        let bytes = answers.concat();
        let slots = exchange.request.slots().count();
        for pace in [Pace::AtOnce, Pace::AsNeeded, Pace::OneByOne] {
            let work = decode(&exchange.request, &bytes, pace);
            let most = 2 * (slots + 1) + bytes.len() / 2 + work.arrivals + 2;
            assert!(work.steps <= most, "{}: {} steps for {} bytes", exchange.name, work.steps, bytes.len());
            if pace == Pace::AsNeeded {
                assert!(work.offered <= 3 * bytes.len(), "{}: {} of {}", exchange.name, work.offered, bytes.len());
            }
        }
    });
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pace {
    AtOnce,
    AsNeeded,
    OneByOne,
}

#[derive(Debug, Default)]
struct Work {
    steps: usize,
    arrivals: usize,
    /// Bytes that a step was given, all steps together.
    offered: usize,
}

fn decode(request: &FetchRequest, bytes: &[u8], pace: Pace) -> Work {
    let limits = Limits::default();
    let requests = [request.clone()];
    let mut feeder = Feeder::new(&requests, bytes, &limits);
    let mut work = Work::default();
    if pace == Pace::AtOnce {
        feeder.arrive(usize::MAX);
    }
    loop {
        let window = feeder.arrived() - feeder.consumed();
        work.steps += 1;
        match feeder.step() {
            Err(_) => break,
            Ok(Found::Need(_)) if feeder.arrived() == bytes.len() => break,
            Ok(Found::Need(n)) => {
                work.offered += window;
                work.arrivals += 1;
                feeder.arrive(feeder.arrived() + if pace == Pace::OneByOne { 1 } else { n });
            }
            Ok(Found::Bundle(bundle)) => work.offered += bundle.set.len(),
            Ok(Found::Event(_)) => {}
        }
    }
    work
}
