//! What can be chosen before a broker starts.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use super::host::Host;
use super::machine::Options;
use super::server::Server;

/// Settings of a [`Broker`].
///
/// ```
/// use std::time::Duration;
/// use tank_client::broker::{Broker, BrokerBuilder};
/// use tank_client::{Client, Error, Fault, Record};
///
/// // Small segments and chunks, to have their borders within a test's few messages.
/// let small: BrokerBuilder = Broker::builder().segment_bytes(1_000).index_interval(100).cut_chunks();
/// // Waits that are not rounded, and connections that end soon.
/// let quick = small.exact_waits().silent_timeout(None).idle_timeout(Duration::from_secs(1));
///
/// let broker = quick.read_only().start()?;
/// broker.create_topic("orders", 1);
/// let client = Client::connect(broker.addr())?;
/// let e = client.publish("orders", 0, &[Record::new("tea")]).unwrap_err();
/// assert!(e.fault() == Some(Fault::ReadOnly), "{e}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct BrokerBuilder {
    port: u16,
    options: Options,
}

impl BrokerBuilder {
    /// Sets the port to listen at. Default 0: any free one. The nodes of a cluster that share an address take the ports after
    /// it.
    #[must_use]
    pub fn port(mut self, port: u16) -> BrokerBuilder {
        self.port = port;
        self
    }

    /// Sets the size in bytes at which a partition's segment is closed; no chunk reaches into the next one. Default 1 GiB.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> BrokerBuilder {
        self.options.layout.segment_bytes = bytes;
        self
    }

    /// Sets the distance in bytes between two entries of a segment's index; most chunks end at an entry. Default 4,096.
    #[must_use]
    pub fn index_interval(mut self, bytes: u64) -> BrokerBuilder {
        self.options.layout.index_interval = bytes;
        self
    }

    /// Makes fetches wait exactly the time they ask for. A server rounds to its clock and waits at least 320 ms.
    #[must_use]
    pub fn exact_waits(mut self) -> BrokerBuilder {
        self.options.exact_waits = true;
        self
    }

    /// Ends every chunk after exactly the number of bytes asked for, even inside a bundle, as old servers did.
    #[must_use]
    pub fn cut_chunks(mut self) -> BrokerBuilder {
        self.options.cut_chunks = true;
        self
    }

    /// Refuses to store messages and create topics over the network. Methods such as [`Broker::append`] still work.
    #[must_use]
    pub fn read_only(mut self) -> BrokerBuilder {
        self.options.read_only = true;
        self
    }

    /// Sets how long a connection that never sent a byte may stay open; `None` for ever. Default 16 seconds.
    #[must_use]
    pub fn silent_timeout(mut self, time: Option<Duration>) -> BrokerBuilder {
        self.options.silent_timeout = time;
        self
    }

    /// Closes any connection that sends nothing for this long and has no request waiting, as some networks do. Default: never.
    #[must_use]
    pub fn idle_timeout(mut self, time: Duration) -> BrokerBuilder {
        self.options.idle_timeout = Some(time);
        self
    }

    /// Starts the broker.
    ///
    /// # Errors
    /// No port is free, or no thread can be started.
    pub fn start(&self) -> io::Result<Broker> {
        let addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port_of(0)?);
        let host: Arc<dyn Host> = Arc::new(Server::start(&[addr], self.options.clone(), None)?);
        let broker = Broker::on(host, 0);
        broker.accept_connections()?;
        Ok(broker)
    }

    /// How the machine is to behave.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The port of the node with this index among those that share an address, 0 for any.
    pub(super) fn port_of(&self, node: usize) -> io::Result<u16> {
        match self.port {
            0 => Ok(0),
            first => {
                let port = u16::try_from(node).ok().and_then(|node| first.checked_add(node));
                port.ok_or_else(|| io::ErrorKind::InvalidInput.into())
            }
        }
    }
}
