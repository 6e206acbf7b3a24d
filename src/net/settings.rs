//! What all channels of a client have in common: settings, the addresses of brokers, and how many connections are being opened.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::addr::BrokerAddr;
use super::network::{Network, Time, locked};
use crate::config::Config;

/// What a channel needs besides its broker's address.
pub(crate) struct ChannelSettings {
    pub(crate) net: Arc<dyn Network>,
    pub(crate) config: Arc<Config>,
    brokers: Mutex<KnownBrokers>,
    /// The process id when it was last looked at.
    process: AtomicU32,
}

/// What is known of the brokers that were dialed.
#[derive(Default)]
struct KnownBrokers {
    known: HashMap<BrokerAddr, KnownBroker>,
    /// Above this many, those of which nothing needs to be known are forgotten.
    forget_above: usize,
}

/// What is known of a broker.
#[derive(Default)]
struct KnownBroker {
    /// What its name stood for when it was last looked up.
    addresses: Vec<SocketAddr>,
    /// The connections from which it may not have read a byte yet. Each counts until this moment, and only while it is held.
    openings: Vec<Weak<Opening>>,
}

/// Until when a connection that is being opened counts, in nanoseconds.
pub(super) type Opening = AtomicU64;

impl ChannelSettings {
    pub(crate) fn new(net: Arc<dyn Network>, config: Arc<Config>) -> ChannelSettings {
        let process = AtomicU32::new(net.process());
        ChannelSettings { net, config, brokers: Mutex::default(), process }
    }

    /// Looks which process this is, so that channels know whether they belong to a parent process. Call this before using channels
    /// that were made earlier. Once per call of the user is enough, because no fork happens within one; each look is a system call.
    pub(crate) fn look_at_process(&self) {
        self.process.store(self.net.process(), Ordering::Relaxed);
    }

    pub(super) fn process(&self) -> u32 {
        self.process.load(Ordering::Relaxed)
    }

    /// Looks up the broker's name, and remembers what it stands for now.
    pub(super) fn look_up(&self, broker: &BrokerAddr) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = broker.host_and_port().ok_or(io::ErrorKind::InvalidInput)?;
        let found = self.net.resolve(host, port)?;
        locked(&self.brokers).known.entry(broker.clone()).or_default().addresses.clone_from(&found);
        Ok(found)
    }

    /// Returns what a broker's name stood for when it was last looked up.
    pub(super) fn known(&self, broker: &BrokerAddr) -> io::Result<Vec<SocketAddr>> {
        let known = locked(&self.brokers).known.get(broker).map(|known| known.addresses.clone());
        let unknown = || io::Error::other("its name is not looked up by calls that never wait");
        known.filter(|addresses| !addresses.is_empty()).ok_or_else(unknown)
    }

    /// Returns whether a broker's name stood for this address when it was last looked up.
    pub(super) fn has_name(&self, address: SocketAddr) -> bool {
        locked(&self.brokers).known.values().any(|known| known.addresses.contains(&address))
    }

    /// Lets another connection begin, unless too many are being opened.
    ///
    /// A broker hangs up on the oldest of more than 64 connections from which it has not read a byte yet (reference, section
    /// 2.5), even if the byte is on its way: a request sent on one of those would be lost. So many threads that begin at once
    /// take turns. A connection counts no longer than connecting may take, because its thread may not come back for hours.
    pub(super) fn begin_opening(&self, now: Time, broker: &BrokerAddr) -> Option<Arc<Opening>> {
        let counts = |opening: &Weak<Opening>| {
            opening.upgrade().is_some_and(|until| now.as_nanos() < until.load(Ordering::Relaxed))
        };
        let KnownBrokers { known, forget_above } = &mut *locked(&self.brokers);
        // Answers may name any number of brokers.
        if known.len() > *forget_above {
            known.retain(|_, known| !known.addresses.is_empty() || known.openings.iter().any(counts));
            // If all are needed, it is not worth another look soon.
            *forget_above = MAX_UNUSED.max(2 * known.len());
        }
        let openings = &mut known.entry(broker.clone()).or_default().openings;
        openings.retain(counts);
        if openings.len() >= MAX_OPENING {
            return None;
        }
        let opening = Arc::new(Opening::new(now.after(self.config.connect_timeout).as_nanos()));
        openings.push(Arc::downgrade(&opening));
        Some(opening)
    }
}

/// Half of what a broker tolerates: another client may be connecting, too.
const MAX_OPENING: usize = 32;

/// Up to this many brokers are remembered to which no connection is being opened.
const MAX_UNUSED: usize = 256;

/// A greeted connection counts as being opened until its first answer or for this long, whichever is shorter: by then a healthy
/// broker has read the ping.
pub(super) const GREETED_COUNTS_FOR: Duration = Duration::from_millis(250);

/// How long to leave a broker alone that has enough connections to greet.
pub(super) const OPENING_PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::super::channel::tests::settings;
    use super::super::scripted::Scripted;
    use super::*;

    #[test]
    fn no_more_are_on_their_way_than_a_broker_bears() {
        let settings = settings(&Scripted::new());
        let [a, b] = [1, 2].map(|port| BrokerAddr::from(SocketAddr::from(([127, 0, 0, 1], port))));
        let now = Time::from_nanos(1);
        let mut held: Vec<_> = (0..MAX_OPENING).map(|_| settings.begin_opening(now, &a).unwrap()).collect();
        assert!(settings.begin_opening(now, &a).is_none());
        assert!(settings.begin_opening(now, &b).is_some(), "each broker has its own");
        // A connection that was answered or given up makes room; so does one that was greeted some time ago.
        held.pop();
        held.push(settings.begin_opening(now, &a).unwrap());
        assert!(settings.begin_opening(now, &a).is_none());
        held[0].store(now.after(GREETED_COUNTS_FOR).as_nanos(), Ordering::Relaxed);
        assert!(settings.begin_opening(now.after(GREETED_COUNTS_FOR / 2), &a).is_none());
        assert!(settings.begin_opening(now.after(GREETED_COUNTS_FOR), &a).is_some());
        let later = now.after(settings.config.connect_timeout);
        assert!((0..MAX_OPENING).all(|_| settings.begin_opening(later, &a).is_some()), "all are forgotten");
    }
}
