//! Names, and what a resolver says of them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) delay: Duration,
    pub(super) fails: bool,
}

#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, Entry>);

impl Names {
    pub(super) fn entry(&mut self, name: &str) -> &mut Entry {
        self.0.entry(name.to_ascii_lowercase()).or_default()
    }

    /// How long it takes to look a name up; none for an address, which needs no resolver.
    pub(super) fn delay(&self, name: &str) -> Option<Duration> {
        if name.parse::<IpAddr>().is_ok() {
            return None;
        }
        Some(self.0.get(&name.to_ascii_lowercase()).map_or(Duration::ZERO, |entry| entry.delay))
    }

    pub(super) fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let unknown = || io::Error::other(format!("failed to lookup address information: {name} is not known"));
        match self.0.get(&name.to_ascii_lowercase()) {
            Some(entry) if !entry.fails && !entry.addresses.is_empty() => {
                Ok(entry.addresses.iter().map(|&ip| SocketAddr::new(ip, port)).collect())
            }
            _ => Err(unknown()),
        }
    }
}
