//! What a broker counts and remembers, for a test's assertions.

use crate::Position;
use crate::protocol::fetch::FetchRequest;
use crate::protocol::frame::Payload;
use crate::protocol::kind::Kind;

/// What a node has counted since it was created. A restart does not reset it.
///
/// ```
/// use tank_client::Client;
/// use tank_client::broker::{Broker, BrokerStats, RequestKind};
///
/// let broker = Broker::start()?;
/// let client = Client::connect(broker.addr())?;
/// client.topics()?;
/// let stats: BrokerStats = broker.stats();
/// assert_eq!((stats.accepted, stats.open, stats.answered), (1, 1, 1));
/// assert_eq!(stats.requests(RequestKind::DiscoverTopics), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: usize,
    /// Bytes sent, pings included.
    pub bytes_sent: u64,
    /// Answers whose last byte was sent.
    pub answered: u64,
    /// Fetches (Consume requests) waiting for messages now.
    pub waiting: usize,
    /// Connections that a [`BrokerFault::StallAfter`](super::BrokerFault::StallAfter) keeps silent now.
    pub stalled: usize,
    /// Faults that have fired.
    pub faults_fired: u64,
    /// Requests by message id.
    requests: [u64; 16],
}

impl BrokerStats {
    /// Returns how many requests of this kind arrived whole.
    pub fn requests(&self, kind: Kind) -> u64 {
        self.requests[usize::from(kind as u8)]
    }

    /// Returns how many requests arrived whole, not counting pings.
    pub fn all_requests(&self) -> u64 {
        self.requests.iter().sum::<u64>() - self.requests(Kind::Ping)
    }

    pub(super) fn count(&mut self, kind: Kind) {
        self.requests[usize::from(kind as u8)] += 1;
    }
}

/// How many bytes of a request are remembered.
const KEPT_BYTES: usize = 128 << 10;

/// A request that arrived whole.
///
/// ```
/// use std::time::Duration;
/// use tank_client::broker::{Broker, Request, RequestKind};
/// use tank_client::{Client, Position, Start, Subscription};
///
/// let broker = Broker::start()?;
/// broker.create_topic("orders", 1);
/// let client = Client::connect(broker.addr())?;
/// let orders = Subscription::topic("orders").start(Start::At(1));
/// let next = client.subscribe(orders)?.next_timeout(Duration::from_millis(500))?;
/// assert_eq!(next, None);
/// let last: Request = broker.requests().pop().unwrap();
/// assert_eq!((last.kind, last.connection), (RequestKind::Consume, 1));
/// assert_eq!(last.positions(), [Position::new("orders", 0, 1)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The connection it came on, counted from 1 in the order in which the node accepted them.
    pub connection: u64,
    /// The kind of request.
    pub kind: Kind,
    /// The frame's payload, or its first 128 KiB.
    pub payload: Vec<u8>,
}

impl Request {
    pub(super) fn new(connection: u64, kind: Kind, payload: &[u8]) -> Request {
        Request { connection, kind, payload: payload.iter().take(KEPT_BYTES).copied().collect() }
    }

    /// Returns what a fetch (Consume request) asks for: each partition and its first wanted number. Empty for any other
    /// request.
    pub fn positions(&self) -> Vec<Position> {
        if self.kind != Kind::Consume {
            return Vec::new();
        }
        let Ok(fetch) = FetchRequest::decode(&self.payload) else { return Vec::new() };
        fetch.slots().map(|(topic, wanted)| Position::new(&**topic, wanted.partition, wanted.seq)).collect()
    }
}
