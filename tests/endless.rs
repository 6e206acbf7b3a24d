//! Peers that never come to an end: what they do is bounded, in time or in bytes.

mod common;
// For the peer.
#[allow(dead_code)]
#[path = "fuzz_targets/input.rs"]
mod input;
#[path = "fuzz_targets/peer.rs"]
mod peer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::watch::within;
use peer::{Peer, Reply, Script};
use tank_client::protocol::admin::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
use tank_client::protocol::frame::{Kind, PING};
use tank_client::{Client, ClientBuilder, Error, Limits, Start, Subscription};

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
