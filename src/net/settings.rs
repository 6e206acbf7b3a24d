//! What all channels of a client have in common.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::addr::BrokerAddr;
use super::network::{Network, SocketOptions};
use super::openings::Openings;
use crate::config::Config;

/// See the module.
#[derive(Debug)]
pub(crate) struct ChannelSettings {
    pub(crate) net: Arc<dyn Network>,
    pub(crate) options: SocketOptions,
    pub(crate) openings: Openings,
    /// From the first address tried to the greeting.
    pub(crate) connect_timeout: Duration,
    /// For sending and for receiving 16 KiB.
    pub(crate) io_timeout: Duration,
    /// What each broker's name stood for when it was last looked up.
    names: Mutex<HashMap<BrokerAddr, Vec<SocketAddr>>>,
}

impl ChannelSettings {
    pub(crate) fn new(net: Arc<dyn Network>, config: &Config) -> ChannelSettings {
        ChannelSettings {
            net,
            options: SocketOptions {
                keepalive: config.keepalive,
                user_timeout: config.tcp_user_timeout,
                receive_buffer: config.receive_buffer,
                send_buffer: config.send_buffer,
            },
            openings: Openings::default(),
            connect_timeout: config.connect_timeout,
            io_timeout: config.io_timeout,
            names: Mutex::default(),
        }
    }

    /// Looks up the broker's name, and remembers what it stands for now.
    pub(super) fn look_up(&self, broker: &BrokerAddr) -> io::Result<Vec<SocketAddr>> {
        let found = self.net.resolve(broker.host(), broker.port())?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(broker.clone(), found.clone());
        Ok(found)
    }

    /// Whether a broker's name stood for this address when it was last looked up.
    pub(super) fn has_name(&self, address: SocketAddr) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.values().flatten().any(|known| *known == address)
    }
}
