//! What all channels of a client have in common.

use std::sync::Arc;
use std::time::Duration;

use super::network::{Network, SocketOptions};
use super::openings::Openings;

/// See the module.
#[derive(Debug)]
pub(crate) struct ChannelSettings {
    pub(crate) net: Arc<dyn Network>,
    pub(crate) options: SocketOptions,
    pub(crate) openings: Openings,
    /// From the first address tried to the greeting.
    pub(crate) connect_timeout: Duration,
    /// For sending and for receiving 16 KiB.
    pub(crate) io_timeout: Duration,
}
