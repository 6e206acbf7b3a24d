//! Connections that nobody uses at the moment, lent as whole channels.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::addr::BrokerAddr;
use super::channel::Channel;
use super::settings::ChannelSettings;

/// Idle connections to keep for each broker, and for all together: a broker may name any number of others.
const KEPT: usize = 16;
const KEPT_IN_ALL: usize = 64;

/// The idle connections of a client.
#[derive(Debug)]
pub(crate) struct Pool {
    settings: Arc<ChannelSettings>,
    /// The one used last at the end.
    idle: Mutex<VecDeque<Channel>>,
}

impl Pool {
    pub(crate) fn new(settings: Arc<ChannelSettings>) -> Pool {
        Pool { settings, idle: Mutex::new(VecDeque::new()) }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self, broker: &BrokerAddr) -> Option<Channel> {
        let mut idle = self.idle();
        idle.iter().rposition(|channel| channel.broker() == broker).and_then(|index| idle.remove(index))
    }

    /// A channel to this broker: the one used last if any is idle, or one that is still to be opened.
    pub(crate) fn take(&self, broker: &BrokerAddr) -> Channel {
        self.take_idle(broker).unwrap_or_else(|| Channel::new(broker.clone(), self.settings.clone()))
    }

    /// Puts an idle channel in the place of one that waits for its turn to be dialed, if there is one by now.
    pub(crate) fn replace(&self, channel: &mut Channel) {
        if channel.is_down() {
            if let Some(idle) = self.take_idle(channel.broker()) {
                *channel = idle;
            }
        }
    }

    /// Drops the idle connections to a broker that did not answer in time: the line under them may be gone as well.
    pub(crate) fn forget(&self, broker: &BrokerAddr) {
        self.idle().retain(|channel| channel.broker() != broker);
    }

    /// Takes back a channel; kept if it is open and nothing is awaited on it.
    pub(crate) fn put(&self, channel: Channel) {
        if !channel.is_up() || !channel.is_idle() {
            return;
        }
        let mut idle = self.idle();
        let same = idle.iter().filter(|kept| kept.broker() == channel.broker()).count();
        let oldest = match same >= KEPT {
            true => idle.iter().position(|kept| kept.broker() == channel.broker()),
            false => (idle.len() >= KEPT_IN_ALL).then_some(0),
        };
        let dropped = oldest.and_then(|index| idle.remove(index));
        idle.push_back(channel);
        // Closing a socket may take time.
        drop(idle);
        drop(dropped);
    }
}
