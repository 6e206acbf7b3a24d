//! What can be chosen before a broker starts.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use super::host::Host;
use super::machine::Options;
use super::server::Server;
use crate::protocol::limits::setters;

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
#[must_use = "settings do nothing until a broker starts with them"]
pub struct BrokerBuilder {
    port: u16,
    options: Options,
}

impl BrokerBuilder {
    setters! {
        /// The port to listen at. Default 0: any free one. The nodes of a cluster that share an address take the ports after it.
        port(port: u16) => port = port;

        /// The size in bytes at which a partition's segment is closed; no chunk reaches into the next one. Default 1 GiB.
        segment_bytes(bytes: u64) => options.layout.segment_bytes = bytes;

        /// The distance in bytes between two entries of a segment's index; most chunks end at an entry. Default 4,096.
        index_interval(bytes: u64) => options.layout.index_interval = bytes;

        /// Makes fetches wait exactly the time they ask for. A server rounds to its clock and waits at least 320 ms.
        exact_waits() => options.exact_waits = true;

        /// Ends every chunk after exactly the number of bytes asked for, even inside a bundle, as old servers did.
        cut_chunks() => options.cut_chunks = true;

        /// Refuses to store messages and create topics over the network. Methods such as [`Broker::append`] still work.
        read_only() => options.read_only = true;

        /// How long a connection that never sent a byte may stay open; `None` for ever. Default 16 seconds.
        silent_timeout(time: Option<Duration>) => options.silent_timeout = time;

        /// Closes any connection that sends nothing for this long and has no request waiting, as some networks do. Default: never.
        idle_timeout(time: Duration) => options.idle_timeout = Some(time);
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
