//! What a subscription counts.

/// Counts what a subscription has done so far; from [`ConsumeIter::stats`](crate::ConsumeIter::stats).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
}
