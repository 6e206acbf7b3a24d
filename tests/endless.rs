//! Peers that never come to an end, or say what nobody wants to hear: what comes of it is bounded, in time or in bytes.

mod common;
// For the peer.
#[allow(dead_code)]
#[path = "fuzz_targets/input.rs"]
mod input;
#[path = "fuzz_targets/peer.rs"]
mod peer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use common::watch::{SOON, timed, within};
use peer::{Peer, Reply, Script, status};
use tank_client::broker::{Broker, dense_bundle, sparse_bundle};
use tank_client::protocol::admin::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
use tank_client::protocol::bundle::{Compression, RawMessage};
use tank_client::protocol::fetch::{FetchHeader, FetchRequest, PartitionAnswer, TopicAnswer};
use tank_client::protocol::frame::{Kind, PING};
use tank_client::protocol::varint;
use tank_client::{Client, ClientBuilder, Error, Fault, Limits, Start, Subscription};

/// Answers what is asked about partitions, and then pings.
struct Pings {
    /// From the first request on.
    at_once: bool,
}

/// More than any limit, and more than the time-out lets through.
fn flood() -> Reply {
    Reply { bytes: PING.repeat(20 << 20), close: true, pieces: vec![] }
}

fn marks(payload: &[u8], states: Vec<PartitionState>) -> Reply {
    let DiscoverPartitionsRequest { request_id, topic, .. } = DiscoverPartitionsRequest::decode(payload).unwrap();
    let answer = DiscoverPartitionsResponse { request_id, topic, count: states.len() as u16, partitions: states };
    let mut bytes = Vec::new();
    answer.encode(&mut bytes).unwrap();
    Reply { bytes, ..Reply::default() }
}

impl Script for Pings {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        if id == Kind::DiscoverPartitions as u8 && !self.at_once {
            return marks(payload, vec![PartitionState::Marks { first_available: 1, high_water_mark: 9 }]);
        }
        if id == Kind::Status as u8 && !self.at_once {
            return status(payload, false);
        }
        flood()
    }
}

fn builder(peer: &Peer) -> ClientBuilder {
    let addr = peer.addr();
    Client::builder().io_timeout(Duration::from_millis(300)).retry_timeout(Duration::ZERO).map_endpoints(move |_| addr)
}

#[test]
fn pings_before_a_fetched_answer() {
    within(30, || {
        let peer = Peer::start();
        peer.play(Pings { at_once: false });
        let client = builder(&peer).connect(&peer.addr().to_string()).unwrap();
        let mut iter = client.subscribe(Subscription::partition("t", 0).from(Start::Earliest)).unwrap();
        let error = iter.next().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Decode { source } if source.is_over_limit()), "{error:?}");
        peer.end();
    });
}

#[test]
fn pings_before_another_answer() {
    within(30, || {
        let peer = Peer::start();
        peer.play(Pings { at_once: true });
        let client = builder(&peer).connect(&peer.addr().to_string()).unwrap();
        let error = client.partitions("t").unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        peer.end();
    });
}

/// Names a leader of its own for each partition; they do not know either.
struct Leaders(Arc<AtomicUsize>);

impl Script for Leaders {
    fn reply(&mut self, _: u8, payload: &[u8]) -> Reply {
        let asked = self.0.fetch_add(1, Ordering::SeqCst);
        if asked > 0 {
            return marks(payload, vec![PartitionState::NoLeader]);
        }
        let leader = |id: u16| PartitionState::Redirect(format!("10.1.1.1:{}", id + 1).parse().unwrap());
        marks(payload, (0..60_000).map(leader).collect())
    }
}

#[test]
fn leaders() {
    within(30, || {
        let peer = Peer::start();
        let asked = Arc::new(AtomicUsize::new(0));
        peer.play(Leaders(asked.clone()));
        let limits = Limits::default().nodes(50);
        let client = builder(&peer).limits(limits).connect(&peer.addr().to_string()).unwrap();
        assert!(client.partitions("t").is_err());
        assert!(asked.load(Ordering::SeqCst) <= 51, "{asked:?}");
        peer.end();
    });
}

/// Knows nothing of leaders, whatever it is asked.
struct Ignorant(Arc<AtomicUsize>);

impl Script for Ignorant {
    fn reply(&mut self, _: u8, payload: &[u8]) -> Reply {
        self.0.fetch_add(1, Ordering::SeqCst);
        marks(payload, vec![PartitionState::NoLeader])
    }
}

/// One broker that does not know is no reason not to ask the others.
#[test]
fn a_broker_that_never_knows_a_leader() {
    within(30, || {
        let (peer, broker) = (Peer::start(), Broker::start().unwrap());
        broker.create_topic("t", 1);
        broker.append_payloads("t", 0, &["1", "2"]);
        let asked = Arc::new(AtomicUsize::new(0));
        peer.play(Ignorant(asked.clone()));
        let list = format!("{},{}", peer.addr(), broker.addr());
        let quick = || Client::builder().backoff(Duration::from_millis(1), Duration::from_millis(1));
        let client = quick().connect(&list).unwrap();
        let error = client.partitions("t").unwrap_err();
        assert!(matches!(error, Error::Broker { fault: Fault::NoLeader, .. }), "{error:?}");
        assert_eq!(client.partitions("t").unwrap()[0].high_water_mark, 2);
        // Within one call, if that may wait.
        let client = quick().connect(&list).unwrap();
        assert_eq!(client.seq_at("t", 0, SystemTime::now()).unwrap(), 3);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        peer.end();
    });
}

/// Answers fetches of its only partition with these chunks in turn, and then with nothing new.
struct Chunks {
    base: u64,
    mark: u64,
    chunks: Vec<Vec<u8>>,
}

impl Script for Chunks {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        match id {
            id if id == Kind::DiscoverPartitions as u8 => {
                return marks(payload, vec![PartitionState::Marks { first_available: 1, high_water_mark: self.mark }]);
            }
            id if id == Kind::Status as u8 => return status(payload, false),
            _ => assert_eq!(id, Kind::Consume as u8),
        }
        let request = FetchRequest::decode(payload).unwrap();
        let chunk = if self.chunks.is_empty() { Vec::new() } else { self.chunks.remove(0) };
        let answer =
            PartitionAnswer::Data { base: Some(self.base), high_water_mark: self.mark, len: chunk.len() as u32 };
        let topic = TopicAnswer { name: "t".into(), partitions: vec![(0, answer)], known: true };
        let mut bytes = Vec::new();
        FetchHeader { request_id: request.request_id, topics: vec![topic] }.encode(&mut bytes).unwrap();
        bytes.extend(chunk);
        Reply { bytes, ..Reply::default() }
    }
}

fn message(payload: &[u8]) -> RawMessage<'_> {
    RawMessage { timestamp_ms: 1, key: None, payload }
}

/// Bundles as they follow each other in a chunk.
fn chunk<'a>(bundles: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for bundle in bundles {
        varint::encode(bundle.len() as u32, &mut bytes);
        bytes.extend(bundle);
    }
    bytes
}

/// Millions of bundles that nothing is wanted of, as fast as they can be read.
#[test]
fn a_time_out_holds_while_bundles_are_passed_over() {
    within(120, || {
        let peer = Peer::start();
        let (stale, count) = (dense_bundle(&[message(b"")], Compression::None), 4_000_000);
        let wanted = sparse_bundle(&[(count + 1, message(b"wanted"))], Compression::None);
        let whole = chunk(std::iter::repeat_n(&stale, count as usize).chain([&wanted]));
        let bytes = whole.len() as u64;
        peer.play(Chunks { base: 1, mark: count + 1, chunks: vec![whole] });
        let client = Client::connect(&peer.addr().to_string()).unwrap();
        let mut iter = client.subscribe(Subscription::partition("t", 0).from(Start::At(count + 1))).unwrap();
        let mut longest = Duration::ZERO;
        let mut quiet = 0;
        let (found, total) = timed(|| {
            loop {
                let before = iter.stats().bytes;
                let (next, took) = timed(|| iter.next_timeout(Duration::from_millis(1)).unwrap());
                // What one call reads without a look at the time.
                let read = iter.stats().bytes - before;
                assert!(read < bytes / 4, "{read} of {bytes} bytes in {took:?}");
                longest = longest.max(took);
                match next {
                    Some(message) => break message,
                    None => quiet += 1,
                }
            }
        });
        println!("{bytes} bytes in {total:?}: {quiet} calls of at most {longest:?}");
        assert_eq!((found.seq(), found.payload()), (count + 1, &b"wanted"[..]));
        assert_eq!(iter.position("t", 0), Some(count + 2));
        peer.end();
    });
}

/// As a restarted replica that is preferred for being near was seen to do: it may hand out anything twice.
#[test]
fn numbers_that_run_backwards_are_refused() {
    within(30, || {
        let first = dense_bundle(&[message(b"10"), message(b"11"), message(b"12")], Compression::None);
        for (low, refused) in [(5, true), (12, true), (13, false)] {
            for count in [1, 3] {
                let peer = Peer::start();
                let payloads: Vec<_> = (low..low + count).map(|seq| (seq, seq.to_string())).collect();
                let later: Vec<_> = payloads.iter().map(|(seq, text)| (*seq, message(text.as_bytes()))).collect();
                let later = sparse_bundle(&later, Compression::None);
                peer.play(Chunks { base: 10, mark: 20, chunks: vec![chunk([&first, &later])] });
                let client = Client::connect(&peer.addr().to_string()).unwrap();
                let subscription = Subscription::partition("t", 0).from(Start::At(10)).prefer_local();
                let mut iter = client.subscribe(subscription).unwrap();
                for seq in 10..=12 {
                    let message = iter.next().unwrap().unwrap();
                    assert_eq!((message.seq(), message.payload()), (seq, seq.to_string().as_bytes()));
                }
                if !refused {
                    assert_eq!(iter.next_timeout(SOON).unwrap().unwrap().seq(), 13);
                    continue;
                }
                let error = iter.next().unwrap().unwrap_err();
                let Error::Decode { source } = &error else { panic!("{error:?}") };
                assert_eq!((source.field(), source.partition()), ("first sequence number", Some(("t", 0))));
                let text = source.to_string();
                assert!(text.contains(&low.to_string()) && text.contains("13"), "{text}");
                assert!(!error.is_retryable() && iter.next().is_none());
                peer.end();
            }
        }
    });
}
