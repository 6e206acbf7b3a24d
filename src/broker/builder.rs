//! What can be chosen before a broker starts.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use super::log::Layout;
use super::state::{Node, Options, Shared, State};

/// Settings of a [`Broker`] that hold from its start on.
#[derive(Debug, Clone)]
pub struct BrokerBuilder {
    pub(super) options: Options,
}

impl Default for BrokerBuilder {
    fn default() -> BrokerBuilder {
        let layout = Layout { segment_bytes: 1 << 30, index_interval: 4096 };
        BrokerBuilder {
            options: Options {
                layout,
                exact_waits: false,
                cut_chunks: false,
                read_only: false,
                silent_timeout: Some(Duration::from_secs(16)),
                idle_timeout: None,
            },
        }
    }
}

impl BrokerBuilder {
    /// After how many bytes a partition's segment is closed; no chunk crosses from one into the next. Default 1 GiB.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> BrokerBuilder {
        self.options.layout.segment_bytes = bytes;
        self
    }

    /// After how many bytes a bundle gets an index entry, at one of which most chunks end. Default 4,096.
    #[must_use]
    pub fn index_interval(mut self, bytes: u64) -> BrokerBuilder {
        self.options.layout.index_interval = bytes;
        self
    }

    /// Makes consume requests wait just as long as they ask to. A server rounds to its clock and waits 320 ms at least.
    #[must_use]
    pub fn exact_waits(mut self) -> BrokerBuilder {
        self.options.exact_waits = true;
        self
    }

    /// Ends every chunk after just as many bytes as were asked for, inside a bundle if need be, as old servers did.
    #[must_use]
    pub fn cut_chunks(mut self) -> BrokerBuilder {
        self.options.cut_chunks = true;
        self
    }

    /// Refuses to store messages and create topics over the network. [`Broker::append`] and the like still work.
    #[must_use]
    pub fn read_only(mut self) -> BrokerBuilder {
        self.options.read_only = true;
        self
    }

    /// How long a connection may stay open that never sent a byte; `None` for ever. Default 16 s.
    #[must_use]
    pub fn silent_timeout(mut self, time: Option<Duration>) -> BrokerBuilder {
        self.options.silent_timeout = time;
        self
    }

    /// Closes any connection that sends nothing for this long and has no request waiting, as some networks do.
    /// Default: never.
    #[must_use]
    pub fn idle_timeout(mut self, time: Duration) -> BrokerBuilder {
        self.options.idle_timeout = Some(time);
        self
    }

    /// Starts the broker.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn start(&self) -> io::Result<Broker> {
        let state = State { nodes: vec![Node::reserve(Ipv4Addr::LOCALHOST)?], ..State::default() };
        let broker = Broker { shared: Arc::new(Shared::new(self.options.clone(), state)), node: 0 };
        broker.shared.listen(0)?;
        Ok(broker)
    }
}
