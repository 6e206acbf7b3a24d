//! The settings of a client, as values.

mod publish;

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::protocol::Limits;

/// Chainable setters, each with its documentation and what it stores.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($($given:ident: $type:ty),*) => $($field:ident).+ = $value:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self $(, $given: $type)*) -> Self {
            self.$($field).+ = $value;
            self
        }
    )*};
}

pub use publish::Acks;
pub(crate) use publish::{MAX_PEERS, PublishOptions};
pub(crate) use setters;

/// The most bytes that may be in memory in one piece: messages point into it with 32-bit numbers.
const MAX_IN_MEMORY: u32 = 2 << 30;

/// Settings that all connections of a client share.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) client_id: Arc<str>,
    pub(crate) connect_timeout: Duration,
    pub(crate) io_timeout: Duration,
    pub(crate) retry_timeout: Duration,
    pub(crate) backoff: (Duration, Duration),
    pub(crate) keepalive: Option<Duration>,
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) limits: Limits,
    pub(crate) publish: PublishOptions,
    pub(crate) redirects: Redirects,
    pub(crate) endpoints: Option<EndpointMap>,
}

/// Which redirects to follow when a broker names another one as a partition's leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Redirects {
    /// All of them, wherever they lead.
    #[default]
    Follow,
    /// Only those to the brokers that were given to connect to; others end in
    /// [`Fault::RedirectRefused`](crate::Fault::RedirectRefused).
    KnownBrokers,
}

/// Maps the address that a broker advertises to the one where it can be reached.
#[derive(Clone)]
pub(crate) struct EndpointMap(Arc<dyn Fn(SocketAddrV4) -> SocketAddr + Send + Sync>);

impl EndpointMap {
    pub(crate) fn new(map: impl Fn(SocketAddrV4) -> SocketAddr + Send + Sync + 'static) -> EndpointMap {
        EndpointMap(Arc::new(map))
    }

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
            publish: PublishOptions::default(),
            redirects: Redirects::Follow,
            endpoints: None,
        }
    }
}

impl Config {
    /// Refuses settings that cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.client_id.len() > 255 {
            let len = self.client_id.len();
            return Err(Error::config(format!("client id: {len} bytes, at most 255 allowed")));
        }
        if self.connect_timeout.is_zero() || self.io_timeout.is_zero() {
            return Err(Error::config("connect and io time-outs must be above zero"));
        }
        let Limits { bundle, message_set, .. } = self.limits;
        for (name, given) in [("bundle", bundle), ("message set", message_set)] {
            if given > MAX_IN_MEMORY {
                let reason = format!("limit of a {name}: {given} bytes given, at most {MAX_IN_MEMORY} allowed");
                return Err(Error::config(reason));
            }
        }
        self.publish.check()
    }
}
