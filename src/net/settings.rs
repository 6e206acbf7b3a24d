//! What all channels of a client have in common.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::addr::BrokerAddr;
use super::network::{Network, SocketOptions, Time};

/// See the module.
#[derive(Debug)]
pub(crate) struct ChannelSettings {
    pub(crate) net: Arc<dyn Network>,
    pub(crate) options: SocketOptions,
    /// From the first address tried to the greeting.
    pub(crate) connect_timeout: Duration,
    /// For sending and for receiving 16 KiB.
    pub(crate) io_timeout: Duration,
    pub(crate) dials: Arc<Dials>,
}

/// How many connections to a broker may be opened at a time. It closes the oldest of more than 64 that it has not heard
/// from yet, and there are other programs.
const MOST_DIALS: usize = 16;

/// The connections that are being opened.
#[derive(Debug, Default)]
pub(crate) struct Dials(Mutex<Vec<Dialing>>);

#[derive(Debug)]
struct Dialing {
    id: u64,
    broker: BrokerAddr,
    until: Time,
}

/// Leave to open a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct DialPermit(Arc<Dials>, u64);

impl Dials {
    fn list(&self) -> MutexGuard<'_, Vec<Dialing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for leave; none if there are enough. One that has not been looked at in time counts no more.
    pub(super) fn begin(self: &Arc<Dials>, broker: &BrokerAddr, now: Time, until: Time) -> Option<DialPermit> {
        let mut list = self.list();
        list.retain(|dialing| now < dialing.until);
        if list.iter().filter(|dialing| dialing.broker == *broker).count() >= MOST_DIALS {
            return None;
        }
        let id = list.last().map_or(0, |last| last.id.wrapping_add(1));
        list.push(Dialing { id, broker: broker.clone(), until });
        Some(DialPermit(self.clone(), id))
    }
}

impl Drop for DialPermit {
    fn drop(&mut self) {
        self.0.list().retain(|dialing| dialing.id != self.1);
    }
}
