//! What a subscription counts and measures.

use std::sync::Arc;
use std::time::Duration;

/// What a subscription has done so far and where it stands, from [`ConsumeIter::stats`](crate::ConsumeIter::stats). The guide
/// [exports it](crate::guide::metrics) to Prometheus and to `tracing`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages handed out.
    pub messages: u64,
    /// Bytes received, all of TANK's framing included.
    pub bytes: u64,
    /// Bundles of which messages were handed out. Small ones that were decoded together all count as soon as the first
    /// message of any of them is handed out, even if a limit keeps back the rest.
    pub bundles: u64,
    /// Fetches answered.
    pub fetches: u64,
    /// Fetches answered without any data.
    pub empty_fetches: u64,
    /// Connections that were lost.
    pub reconnects: u64,
    /// Brokers that could not be reached when a connection to them was wanted.
    pub failed_brokers: u64,
    /// Answers that named another leader.
    pub redirects: u64,
    /// Answers that a partition has no leader.
    pub no_leader: u64,
    /// The partitions, in the order of the subscription.
    pub partitions: Vec<PartitionStats>,
    /// The brokers that are asked for them.
    pub leaders: Vec<LeaderStats>,
}

/// A partition of [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PartitionStats {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// As [`ConsumeIter::lag_of`](crate::ConsumeIter::lag_of).
    pub lag: Option<u64>,
    /// How long before now the last message handed out was published, according to its time stamp; zero if that lies in the
    /// future, `None` before the first message.
    pub age: Option<Duration>,
}

/// A leader of [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LeaderStats {
    /// The broker.
    pub broker: String,
    /// How long ago it last sent a byte of an answer; `None` while it has sent none on the present connection. The leader of a
    /// quiet topic answers once in each [`max_wait`](crate::Subscription::max_wait).
    pub silence: Option<Duration>,
}
