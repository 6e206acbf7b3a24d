//! Why brokers refuse.

use std::net::SocketAddrV4;

use crate::protocol::texts;

/// Why a broker refused, or why what it says cannot be followed.
///
/// Most stand for a code in an answer. `Redirects`, `RedirectRefused`, `AnotherWriter`, `Stuck` and `Deadly` are
/// the client's own conclusions. With `SeqTooFar`, and often with `SeqNotAbove`, no request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// There is no such topic.
    UnknownTopic,
    /// The topic has no such partition, or it is disabled.
    UnknownPartition,
    /// The broker could not open or write its files.
    System,
    /// No node leads the partition now.
    NoLeader,
    /// Nodes kept naming each other, or nodes that cannot be reached.
    Redirects {
        /// How many redirects were followed.
        hops: u32,
        /// The node that was named last.
        last: SocketAddrV4,
    },
    /// A redirect to a node that [`ClientBuilder::known_brokers_only`](crate::ClientBuilder::known_brokers_only) does not allow.
    RedirectRefused(SocketAddrV4),
    /// The broker takes no messages and creates no topics.
    ReadOnly,
    /// Fewer replicas are in sync than acknowledgements were required.
    InsufficientReplicas,
    /// Stored by the leader, but not confirmed by enough replicas in time.
    NotConfirmed,
    /// A sequence number at or below the last one stored.
    SeqNotAbove {
        /// The number that was to be stored.
        seq: u64,
    },
    /// The log ends at a number that an [idempotent](crate::ProducerBuilder::idempotent) producer has not sent.
    AnotherWriter {
        /// The last number in the leader's log.
        end: u64,
    },
    /// A sequence number so far above the last one stored, or above the bundle's first one, that it can kill a server.
    SeqTooFar {
        /// The number that was to be stored.
        seq: u64,
    },
    /// The topic to create exists already.
    TopicExists,
    /// The configuration does not parse, or its file is missing, unreadable or empty.
    InvalidConfig,
    /// The topic's name is invalid, or it has no partitions.
    InvalidTopic,
    /// The broker does not support the request, or no cluster does.
    Unsupported,
    /// All that the broker sends for this number lies below it, however much is asked for: the partition's numbering is broken.
    /// Or all of it lies above a high-water mark that has not moved for
    /// [`retry_timeout`](crate::ClientBuilder::retry_timeout).
    Stuck {
        /// The number asked for.
        seq: u64,
    },
    /// Two connections in a row ended when this number was asked for, the second one just after the broker had answered a
    /// harmless question about the partition. A gap in the numbers before a partition's active segment kills a TANK server that
    /// is asked for it, so it is not asked for again. A client cannot see why a server ended: another cause that strikes twice at
    /// such moments looks the same, and a new subscription at the same number gets past it.
    Deadly {
        /// The number asked for.
        seq: u64,
        /// The high-water mark.
        mark: u64,
    },
}

texts! {
    Fault:
    Self::UnknownTopic => "no such topic";
    Self::UnknownPartition => "no such partition";
    Self::System => "the broker has trouble with its files";
    Self::NoLeader => "the partition has no leader now";
    Self::Redirects { hops, last } => "still redirected after {hops} redirects, the last one to {last}";
    Self::RedirectRefused(node) => "redirected to {node}, which the client's settings do not allow";
    Self::ReadOnly => "the broker is read-only";
    Self::InsufficientReplicas => "not enough replicas are in sync";
    Self::NotConfirmed => "not confirmed by enough replicas in time";
    Self::SeqNotAbove { seq } => "sequence number {seq} is not above the last one stored";
    Self::AnotherWriter { end } =>
        "the log ends at {end}, above all numbers this producer has sent: another writer publishes to the partition";
    Self::SeqTooFar { seq } => "sequence number {seq} lies 2^31 or more above the one before, which can kill a server";
    Self::TopicExists => "the topic exists already";
    Self::InvalidConfig => "the configuration is missing or does not parse";
    Self::InvalidTopic => "invalid topic name or number of partitions";
    Self::Unsupported => "not supported by this broker";
    Self::Stuck { seq } =>
        "cannot get past sequence number {seq}: all that the broker sends lies below it or above the high-water mark";
    Self::Deadly { seq, mark } =>
        "two connections ended when sequence number {seq} was asked for: a gap in the numbers there may kill the \
         server; Start::At({mark}) skips to the last message";
}

impl Fault {
    /// Whether waiting can help.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Fault::NoLeader | Fault::Redirects { .. } | Fault::InsufficientReplicas | Fault::System)
    }
}
