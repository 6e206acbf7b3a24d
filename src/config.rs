//! The settings of a client and of what it publishes, as values.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::protocol::Limits;
use crate::protocol::bundle::Compression;
use crate::protocol::produce::ACKS_QUORUM;

pub(crate) use crate::protocol::limits::setters;
use crate::protocol::limits::settings;

/// The most bytes that may have to be in memory in one piece. A buffer may take four times as many, and never more than
/// `isize::MAX`, which matters on 32-bit systems.
const MAX_IN_MEMORY: u32 = if isize::MAX as u64 / 4 < 2 << 30 { (isize::MAX as u64 / 4) as u32 } else { 2 << 30 };

settings! {
    /// Settings that all connections of a client share.
    #[derive(Debug, Clone)]
    pub(crate) struct Config {
        client_id: Arc<str> = "tank-client".into(),
        connect_timeout: Duration = Duration::from_secs(10),
        io_timeout: Duration = Duration::from_secs(30),
        retry_timeout: Duration = Duration::from_secs(60),
        backoff: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5)),
        keepalive: Option<Duration> = Some(Duration::from_secs(60)),
        #[cfg_attr(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")), allow(dead_code))]
        tcp_user_timeout: Option<Duration> = Some(Duration::from_secs(60)),
        receive_buffer: Option<usize> = None,
        send_buffer: Option<usize> = None,
        limits: Limits = Limits::default(),
        publish: PublishOptions = PublishOptions::default(),
        known_brokers_only: bool = false,
        endpoints: Option<EndpointMap> = None,
    }
}

/// Maps the address that a broker advertises to the one where it can be reached.
#[derive(Clone)]
pub(crate) struct EndpointMap(pub(crate) Arc<dyn Fn(SocketAddrV4) -> SocketAddr + Send + Sync>);

// Sound, because nothing is half done while the function runs: a panic in it breaks no invariant.
impl UnwindSafe for EndpointMap {}
impl RefUnwindSafe for EndpointMap {}

impl fmt::Debug for EndpointMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointMap")
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

/// The most replicas to ask for; above it servers never have enough.
pub(crate) const MAX_PEERS: u8 = 200;

/// How many replicas besides the leader must be in sync. At the ack time-out, one that has the messages is enough. A
/// stand-alone broker ignores it.
///
/// ```
/// use tank_client::{Acks, Client};
///
/// let settings = Client::builder().acks(Acks::All);
/// assert_eq!("quorum".parse::<Acks>()?, Acks::Quorum);
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Acks {
    /// All replicas in sync at the moment: none if there is only the leader.
    #[default]
    All,
    /// Half of those in sync, rounded down, plus one: never met if there is only the leader.
    Quorum,
    /// This many of them, 1 to 200.
    Peers(u8),
}

settings! {
    /// Settings of all publishing requests of a client or producer.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct PublishOptions {
        compression: Compression = Compression::Auto,
        acks: Acks = Acks::All,
        ack_timeout: Duration = Duration::from_secs(8),
    }
}

impl PublishOptions {
    pub(crate) fn check(&self) -> Result<()> {
        if matches!(self.acks, Acks::Peers(count) if !(1..=MAX_PEERS).contains(&count)) {
            return Err(Error::config(format!("acks: {} peers given, 1 to {MAX_PEERS} allowed", self.acks)));
        }
        let ms = self.ack_timeout.as_millis();
        if self.ack_timeout.is_zero() || ms > u32::MAX.into() {
            let given = self.ack_timeout;
            return Err(Error::config(format!("ack time-out: {given:?} given, 1 ms to 2^32-1 ms allowed")));
        }
        Ok(())
    }

    /// The acks as they are sent.
    pub(crate) fn required_acks(&self) -> u8 {
        match self.acks {
            Acks::All => 0,
            Acks::Quorum => ACKS_QUORUM,
            Acks::Peers(count) => count,
        }
    }

    /// The ack time-out in milliseconds, at least 1: 0 means the server's own.
    pub(crate) fn ack_timeout_ms(&self) -> u32 {
        u32::try_from(self.ack_timeout.as_millis()).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_times_the_most_in_memory_is_no_more_than_a_system_allows() {
        const { assert!(4 * MAX_IN_MEMORY as u64 <= isize::MAX as u64) };
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let acks = |acks| PublishOptions { acks, ..PublishOptions::default() };
        for (options, ok) in [
            (acks(Acks::All), true),
            (acks(Acks::Quorum), true),
            (acks(Acks::Peers(0)), false),
            (acks(Acks::Peers(1)), true),
            (acks(Acks::Peers(200)), true),
            (acks(Acks::Peers(201)), false),
            (PublishOptions { ack_timeout: Duration::ZERO, ..PublishOptions::default() }, false),
            (PublishOptions { ack_timeout: Duration::from_nanos(1), ..PublishOptions::default() }, true),
            (PublishOptions { ack_timeout: Duration::from_secs(1 << 32), ..PublishOptions::default() }, false),
        ] {
            assert_eq!(options.check().is_ok(), ok, "{options:?}");
        }
        assert_eq!(
            PublishOptions { ack_timeout: Duration::from_nanos(1), ..PublishOptions::default() }.ack_timeout_ms(),
            1
        );
    }
}
