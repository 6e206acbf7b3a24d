//! What all channels of a client have in common.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::addr::BrokerAddr;
use super::network::{Network, Time};
use crate::config::Config;

/// See the module.
#[derive(Debug)]
pub(crate) struct ChannelSettings {
    pub(crate) net: Arc<dyn Network>,
    pub(crate) config: Arc<Config>,
    pub(super) openings: Openings,
    /// What each broker's name stood for when it was last looked up.
    names: Mutex<HashMap<BrokerAddr, Vec<SocketAddr>>>,
    /// Memory for the next request: to take it from the system for each costs more than to fill it, and of many connections few
    /// are sending.
    spare: Mutex<Vec<u8>>,
}

/// The most bytes of it to keep.
const LARGEST_SPARE: usize = 4 << 20;

impl ChannelSettings {
    pub(crate) fn new(net: Arc<dyn Network>, config: Arc<Config>) -> ChannelSettings {
        ChannelSettings { net, config, openings: Openings::default(), names: Mutex::default(), spare: Mutex::default() }
    }

    /// Looks up the broker's name, and remembers what it stands for now.
    pub(super) fn look_up(&self, broker: &BrokerAddr) -> io::Result<Vec<SocketAddr>> {
        let found = self.net.resolve(&broker.host, broker.port)?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(broker.clone(), found.clone());
        Ok(found)
    }

    pub(super) fn take_spare(&self) -> Vec<u8> {
        std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn put_spare(&self, mut bytes: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if (spare.capacity()..=LARGEST_SPARE).contains(&bytes.capacity()) {
            bytes.clear();
            *spare = bytes;
        }
    }

    /// What a broker's name stood for when it was last looked up.
    pub(super) fn known(&self, broker: &BrokerAddr) -> Option<Vec<SocketAddr>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(broker).cloned()
    }

    /// Whether a broker's name stood for this address when it was last looked up.
    pub(super) fn has_name(&self, address: SocketAddr) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.values().flatten().any(|known| *known == address)
    }
}

/// Half of what a broker bears: another client may be at it too.
const MOST: usize = 32;

/// Above this many brokers, those with nothing on its way are forgotten.
const MOST_BROKERS: usize = 256;

/// A greeted connection counts until its first answer, but no longer than this: a broker that is well has read the ping.
const GREETED: Duration = Duration::from_millis(250);

/// How long to leave a broker alone that has enough to greet.
pub(super) const TURN: Duration = Duration::from_millis(5);

/// The connections of a client that a broker may not have heard from.
///
/// A broker hangs up on the oldest of more than 64 connections from which it has not read a byte yet (reference, section 2.5),
/// also if the byte is on its way: a request sent on one of those would be lost. So many threads that begin at once take turns.
#[derive(Debug, Default)]
pub(crate) struct Openings(Mutex<HashMap<BrokerAddr, Vec<Weak<Opening>>>>);

/// One of them, for as long as somebody holds it.
#[derive(Debug)]
pub(super) struct Opening {
    /// When it counts no more, in nanoseconds.
    until: AtomicU64,
}

impl Openings {
    /// Lets another connection be begun, unless too many are on their way.
    ///
    /// It counts no longer than `most`: whoever opens it may not come back for hours.
    pub(super) fn begin(&self, broker: &BrokerAddr, now: Time, most: Duration) -> Option<Arc<Opening>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = |opening: &Weak<Opening>| {
            opening.upgrade().is_some_and(|opening| now.as_nanos() < opening.until.load(Ordering::Relaxed))
        };
        // Any number of brokers may be named.
        if all.len() > MOST_BROKERS {
            all.retain(|_, openings| openings.iter().any(counts));
        }
        let openings = all.entry(broker.clone()).or_default();
        openings.retain(counts);
        (openings.len() < MOST).then(|| {
            let opening = Arc::new(Opening { until: AtomicU64::new(now.after(most).as_nanos()) });
            openings.push(Arc::downgrade(&opening));
            opening
        })
    }
}

impl Opening {
    /// Notes that the broker has greeted.
    pub(super) fn greeted(&self, now: Time) {
        self.until.store(now.after(GREETED).as_nanos(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST_TIME: Duration = Duration::from_secs(10);

    #[test]
    fn no_more_are_on_their_way_than_a_broker_bears() {
        let openings = Openings::default();
        let [a, b] = [1, 2].map(|port| BrokerAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], port))));
        let now = Time::from_nanos(1);
        let mut held: Vec<_> = (0..MOST).map(|_| openings.begin(&a, now, MOST_TIME).unwrap()).collect();
        assert!(openings.begin(&a, now, MOST_TIME).is_none());
        assert!(openings.begin(&b, now, MOST_TIME).is_some(), "each broker has its own");
        // One that was answered, or given up, makes room; so does one that was greeted some time ago.
        held.pop();
        held.push(openings.begin(&a, now, MOST_TIME).unwrap());
        assert!(openings.begin(&a, now, MOST_TIME).is_none());
        held[0].greeted(now);
        assert!(openings.begin(&a, now.after(GREETED / 2), MOST_TIME).is_none());
        assert!(openings.begin(&a, now.after(GREETED), MOST_TIME).is_some());
        assert!((0..MOST).all(|_| openings.begin(&a, now.after(MOST_TIME), MOST_TIME).is_some()), "all are forgotten");
    }
}
