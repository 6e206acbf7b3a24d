//! Settings.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use crate::brokers::Brokers;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::net::{Backoff, parse_brokers};
use crate::produce::{Acks, Options};
use crate::protocol::Limits;
use crate::protocol::bundle::Compression;

/// The most that may be in memory in one piece, in bytes: messages find theirs by 32-bit numbers.
const MAX_IN_MEMORY: u32 = 2 << 30;

/// How long to leave a partition alone at most whose leader is not known or gone: its successor wants to be found soon.
const MAX_LEADER_PAUSE: Duration = Duration::from_secs(1);

/// Settings that all connections of a client share.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) client_id: Arc<str>,
    pub(crate) connect_timeout: Duration,
    pub(crate) io_timeout: Duration,
    pub(crate) retry_timeout: Duration,
    pub(crate) backoff: (Duration, Duration),
    pub(crate) keepalive: Option<Duration>,
    #[cfg_attr(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")), allow(dead_code))]
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) limits: Limits,
    pub(crate) publish: Options,
    pub(crate) redirects: Redirects,
    pub(crate) endpoints: Option<EndpointMap>,
}

/// Which redirects to follow when a broker names another one as a partition's leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Redirects {
    /// All of them, wherever they lead.
    #[default]
    Follow,
    /// Those to the brokers that were given to connect to; others are
    /// [`Fault::RedirectRefused`](crate::Fault::RedirectRefused).
    KnownBrokers,
}

/// From the address that a broker advertises to the one it can be reached at.
#[derive(Clone)]
pub(crate) struct EndpointMap(Arc<dyn Fn(SocketAddrV4) -> SocketAddr + Send + Sync>);

impl EndpointMap {
    pub(crate) fn reachable(&self, advertised: SocketAddrV4) -> SocketAddr {
        (self.0)(advertised)
    }
}

impl fmt::Debug for EndpointMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointMap")
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            client_id: "tank-client".into(),
            connect_timeout: Duration::from_secs(10),
            io_timeout: Duration::from_secs(30),
            retry_timeout: Duration::from_secs(60),
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
            keepalive: Some(Duration::from_secs(60)),
            tcp_user_timeout: Some(Duration::from_secs(60)),
            receive_buffer: None,
            send_buffer: None,
            limits: Limits::default(),
            publish: Options::default(),
            redirects: Redirects::Follow,
            endpoints: None,
        }
    }
}

impl Config {
    pub(crate) fn new_backoff(&self) -> Backoff {
        Backoff::new(self.backoff.0, self.backoff.1)
    }

    /// As [`new_backoff`](Config::new_backoff), for as long as a partition's leader is looked for.
    pub(crate) fn leader_backoff(&self) -> Backoff {
        Backoff::new(self.backoff.0, self.backoff.1.min(MAX_LEADER_PAUSE))
    }
}

/// Settings for a [`Client`], from [`Client::builder`].
///
/// ```no_run
/// use std::time::Duration;
/// use tank_client::Client;
///
/// let client = Client::builder().client_id("billing").connect_timeout(Duration::from_secs(3)).connect("tank:11011")?;
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ClientBuilder {
    config: Config,
}

impl ClientBuilder {
    /// A name for the broker's traces, at most 255 bytes. Default `tank-client`.
    pub fn client_id(mut self, id: impl AsRef<str>) -> Self {
        self.config.client_id = id.as_ref().into();
        self
    }

    /// How long opening a connection may take, the broker's greeting included and all its addresses together; with several
    /// brokers to choose from, all of them together. Default 10 seconds; more than zero. Looking up a host name takes as long
    /// as the system's resolver needs.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// How long to block for a request to be taken, for a fetch's answer to begin, for the next bundle of it to be complete,
    /// or for the whole answer to anything else. Default 30 seconds; more than zero. For a fetch it is counted from the end of
    /// the time the broker was asked to wait; the caller's own time between two calls never counts. With several brokers to
    /// choose from, one that does not answer is left for the next already after its part of the
    /// [connect time-out](ClientBuilder::connect_timeout).
    pub fn io_timeout(mut self, timeout: Duration) -> Self {
        self.config.io_timeout = timeout;
        self
    }

    /// How long trouble that may pass is waited out: a broker that cannot be reached, a partition without a leader.
    /// Default 60 seconds, counted from the last progress; zero reports the first trouble at once. A subscription then
    /// ends with the error.
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.config.retry_timeout = timeout;
        self
    }

    /// The shortest and longest pause between two tries. They double from the one to the other, with a random part of
    /// up to half. Default 100 milliseconds to 5 seconds; a partition whose leader is looked for is asked for every second
    /// at least.
    pub fn backoff(mut self, least: Duration, most: Duration) -> Self {
        self.config.backoff = (least, most);
        self
    }

    /// After how long without traffic TCP probes whether the broker is still there, and again after each quarter of that;
    /// `None` never. Default 60 seconds; whole seconds from 1 to 32,767, what lies outside is taken for the nearest.
    pub fn keepalive(mut self, idle: Option<Duration>) -> Self {
        self.config.keepalive = idle;
        self
    }

    /// For how long sent data may stay unacknowledged before the system gives the connection up; `None` leaves it to
    /// the system. Default 60 seconds; Linux only, elsewhere without effect.
    pub fn tcp_user_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.config.tcp_user_timeout = timeout;
        self
    }

    /// Bytes of a socket's receive buffer; left to the system by default, which grows it as needed.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.config.receive_buffer = Some(bytes);
        self
    }

    /// Bytes of a socket's send buffer; left to the system by default.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.config.send_buffer = Some(bytes);
        self
    }

    /// How much a broker may claim, in bytes and counts. The defaults take everything a TANK server sends.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// When to compress what is published. Default [`Compression::Auto`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.config.publish.compression = compression;
        self
    }

    /// Which replicas must have what is published before it counts as stored. Default [`Acks::All`].
    pub fn acks(mut self, acks: Acks) -> Self {
        self.config.publish.acks = acks;
        self
    }

    /// How long a cluster waits for those replicas, 1 millisecond to 49 days. Default 8 seconds. The answer to a publish is
    /// waited for so much longer than [`io_timeout`](ClientBuilder::io_timeout).
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.config.publish.ack_timeout = timeout;
        self
    }

    /// Which redirects to follow in a cluster. Default [`Redirects::Follow`].
    pub fn redirects(mut self, redirects: Redirects) -> Self {
        self.config.redirects = redirects;
        self
    }

    /// Where to reach a cluster's node instead of the IPv4 address and port that it advertises: for address translation
    /// and forwarded ports. Default: there.
    pub fn map_endpoints(mut self, map: impl Fn(SocketAddrV4) -> SocketAddr + Send + Sync + 'static) -> Self {
        self.config.endpoints = Some(EndpointMap(Arc::new(map)));
        self
    }

    /// Connects to the first of the [brokers](Brokers) that answers: `host`, `host:port`, several with commas between, a
    /// [`SocketAddr`], or a list of either; port 11011 if absent. The settings can be used again, for another client.
    ///
    /// # Errors
    /// [`Error::Config`] for a malformed address or setting. [`Error::Connect`], [`Error::Io`],
    /// [`Error::Timeout`], [`Error::Disconnected`] or [`Error::Decode`] if the broker cannot be reached or is none; with
    /// several brokers, one [`Error::Connect`] that lists each with its cause.
    pub fn connect(&self, brokers: impl Into<Brokers>) -> Result<Client> {
        if self.config.client_id.len() > 255 {
            let len = self.config.client_id.len();
            return Err(Error::config(format!("client id: {len} bytes, at most 255 allowed")));
        }
        if self.config.connect_timeout.is_zero() || self.config.io_timeout.is_zero() {
            return Err(Error::config("connect and io time-outs must be above zero"));
        }
        let Limits { bundle, message_set, .. } = self.config.limits;
        for (name, given) in [("bundle", bundle), ("message set", message_set)] {
            if given > MAX_IN_MEMORY {
                let reason = format!("limit of a {name}: {given} bytes given, at most {MAX_IN_MEMORY} allowed");
                return Err(Error::config(reason));
            }
        }
        self.config.publish.check()?;
        Client::open(self.config.clone(), parse_brokers(brokers.into().as_str())?)
    }
}
