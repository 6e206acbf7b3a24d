//! How to publish, as values.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::protocol::bundle::Compression;
use crate::protocol::produce::ACKS_QUORUM;

/// The most replicas to ask for; above it servers never have enough.
pub(crate) const MAX_PEERS: u8 = 200;

/// Which replicas besides the leader must have the messages before a cluster counts them as stored. A stand-alone broker
/// ignores it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Acks {
    /// All that are in sync at the moment; none if there is only the leader.
    #[default]
    All,
    /// Half of those in sync, rounded down, plus one: never met if there is only the leader.
    Quorum,
    /// This many of them, 1 to 200.
    Peers(u8),
}

/// Settings of all publishing requests of a client or producer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublishOptions {
    pub(crate) compression: Compression,
    pub(crate) acks: Acks,
    pub(crate) ack_timeout: Duration,
}

impl Default for PublishOptions {
    fn default() -> PublishOptions {
        PublishOptions { compression: Compression::Auto, acks: Acks::All, ack_timeout: Duration::from_secs(8) }
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
    fn bounds() {
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
