//! What a partition and those around it tell each other.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::super::subscription::Options;
use crate::error::Error;
use crate::net::RetryPolicy;

/// What holds for all partitions of a subscription.
#[derive(Debug)]
pub(in crate::consume) struct Rules {
    pub(in crate::consume) options: Options,
    /// Nodes of a cluster die when they wait for several partitions with one fetch and data comes for one of them, and the
    /// data that ends a wait may be numbered wrongly. So each partition is waited for alone there, and what ends a wait
    /// only says that it is time to ask again.
    pub(in crate::consume) in_cluster: bool,
    /// The largest bundle taken, in bytes.
    pub(in crate::consume) bundle_limit: u32,
    pub(in crate::consume) retry: RetryPolicy,
}

/// What a partition wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::consume) struct Want {
    pub(in crate::consume) seq: u64,
    pub(in crate::consume) fetch_size: u32,
    /// How many bytes to ask for if few others are asked for: more than the fetch size while its chunks come filled.
    pub(in crate::consume) ahead: u32,
    /// The broker may wait for data.
    pub(in crate::consume) waits: bool,
    /// With a fetch of its own.
    pub(in crate::consume) alone: bool,
    /// If the connection ends unanswered, this may be why.
    pub(in crate::consume) is_risky: bool,
    /// It may have ended a connection, so nothing else that is risky may be in flight with it.
    pub(in crate::consume) is_suspect: bool,
}

/// What the shell must do after an answer to a partition.
#[derive(Debug)]
pub(in crate::consume) enum Next {
    /// Nothing but what the state says.
    Go,
    /// Find out who that is, and tell it to [`Partition::on_named`].
    AskAt(SocketAddrV4),
    /// Forget who leads it.
    NoLeader,
    /// Note that retention took these numbers, the first to the last.
    Gap(u64, u64),
    /// End the subscription, once all that came before is handed out.
    Fail(Error),
}

/// How a fetch was lost. By default no connection could be opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::consume) struct Lost {
    /// The connection had been idle and ended just before it was used again: that does not count as trouble.
    pub(in crate::consume) while_idle: bool,
    /// For how long it had been up with nothing overdue.
    pub(in crate::consume) well_for: Duration,
    /// It ended soon after the fetch was handed over, before any byte of an answer.
    pub(in crate::consume) unanswered: bool,
    /// Nothing else that is risky was in flight on it.
    pub(in crate::consume) alone: bool,
}

/// Whether the next fetch is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::consume) enum Lookahead {
    /// It continues after what was found.
    Clear,
    /// The messages of the last bundle tell where it continues.
    SeeFirst,
}
