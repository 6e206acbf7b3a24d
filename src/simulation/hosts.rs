//! What stands at the addresses of a world: hosts, the programs and services that run on them, and names.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use crate::broker::machine::Machine;
// A program has a name of its own for a connection.
pub(super) use crate::broker::machine::{Conn as Call, End, Pull};
use crate::net::Time;

/// A server program, which may run on several hosts: a state machine that is given bytes and the time.
pub(super) trait Program: Debug + Send {
    /// Returns whether it has a listener; if not, connecting is refused.
    fn listens(&self, node: usize) -> bool;
    /// Returns whether it takes connections: if not, although it listens, they wait for it.
    fn accepts(&self, node: usize) -> bool;
    fn accept(&mut self, now: Time, node: usize, from: IpAddr) -> Option<Call>;
    /// Returns whether it takes bytes now.
    fn reads(&self, call: Call) -> bool;
    fn handle(&mut self, now: Time, call: Call, bytes: &[u8]);
    fn ended(&mut self, now: Time, call: Call, how: End);
    /// A connection that it has something for.
    fn ready(&mut self) -> Option<Call>;
    fn pull(&mut self, now: Time, call: Call, room: &mut [u8]) -> Pull;
    fn tick(&mut self, now: Time);
    /// When it is to be called again.
    fn due(&self) -> Time;
    /// The host it ran on is gone, from one moment to the next.
    fn killed(&mut self, now: Time, node: usize);
    /// The embedded broker, if it is that.
    fn machine(&self) -> Option<&Machine> {
        None
    }
    fn machine_mut(&mut self) -> Option<&mut Machine> {
        None
    }
}

/// A service that has taken over a broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Service {
    /// A web server: it waits for a request, answers with an error and hangs up.
    Http,
    /// Another protocol's server, which greets with these bytes and then says nothing more.
    Greeting(Vec<u8>),
    /// One that accepts connections and never sends anything.
    Mute,
}

/// What has a connection on the server's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerSide {
    /// Nothing yet: the handshake has not arrived.
    None,
    /// The system, until the program accepts it.
    Backlog,
    Program(usize, Call),
    Service,
    /// Nothing any more.
    Gone,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    /// Whether it has power: if not, it is silent.
    pub(super) up: bool,
    pub(super) program: Option<(usize, usize)>,
    pub(super) service: Option<Service>,
    /// Sockets that clients on it have open, and may have.
    pub(super) open: usize,
    pub(super) descriptors: usize,
    /// Nanoseconds that all it sends is late.
    pub(super) delay: Range<u64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct NameRecord {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) delay: Duration,
    pub(super) fails: bool,
}

#[derive(Debug, Default)]
pub(super) struct Dns(BTreeMap<String, NameRecord>);

impl Dns {
    pub(super) fn entry(&mut self, name: &str) -> &mut NameRecord {
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
