//! What there is of links and connections: values without behaviour. What happens to them stands in `wires` and `serve`.

use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::hosts::ServerSide;
use super::pipe::{Ending, Pipe};
use crate::net::Time;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    Connecting,
    Open,
    Failed(io::ErrorKind),
}

/// A task that waits for a connection, void unless it is still in the same wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) task: u16,
    pub(super) wait: u64,
    pub(super) read: bool,
    pub(super) write: bool,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) client: HostId,
    pub(super) server: Option<HostId>,
    pub(super) to: SocketAddr,
    pub(super) handshake: Handshake,
    pub(super) attempts: u32,
    /// Whether the client still has its socket.
    pub(super) held: bool,
    pub(super) waiters: Vec<Waiter>,
    pub(super) far: ServerSide,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    /// Ended by something on the way: the client may not know it yet.
    pub(super) cut: bool,
    /// Whether the server's program was told of the client's FIN.
    pub(super) told_of_fin: bool,
    /// Whether the client has written since it last read something.
    pub(super) has_asked: bool,
    /// Whether the program has more for it than there is room for.
    pub(super) has_more: bool,
    /// What the client's system does when packets stay unacknowledged.
    pub(super) user_timeout: Option<Duration>,
}

impl Conn {
    pub(super) fn pipe(&mut self, way: Way) -> &mut Pipe {
        if way == Way::Up { &mut self.up } else { &mut self.down }
    }

    /// Sender and receiver of a direction.
    pub(super) fn ends(&self, way: Way) -> Option<(HostId, HostId)> {
        let server = self.server?;
        Some(if way == Way::Up { (self.client, server) } else { (server, self.client) })
    }

    pub(super) fn is_readable(&self) -> bool {
        self.down.is_readable() || matches!(self.handshake, Handshake::Failed(_))
    }

    pub(super) fn is_writable(&self) -> bool {
        match self.handshake {
            Handshake::Connecting => false,
            Handshake::Failed(_) => true,
            Handshake::Open => self.up.free() > 0 || self.down.reset == Ending::Arrived,
        }
    }
}

/// All connections that are or were just open.
#[derive(Debug, Default)]
pub(super) struct Conns {
    slots: Vec<Option<(u32, Conn)>>,
    free: Vec<u32>,
    serial: u32,
}

impl Conns {
    pub(super) fn insert(&mut self, conn: Conn) -> ConnId {
        self.serial += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some((self.serial, conn));
        ConnId { slot, serial: self.serial }
    }

    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        match self.slots.get_mut(id.slot as usize) {
            Some(Some((serial, conn))) if *serial == id.serial => Some(conn),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, id: ConnId) {
        if self.get(id).is_some() {
            self.slots[id.slot as usize] = None;
            self.free.push(id.slot);
        }
    }

    /// Those that are to a condition, in the order of their slots.
    pub(super) fn which(&self, wanted: impl Fn(&Conn) -> bool) -> Vec<ConnId> {
        let all = self.slots.iter().enumerate();
        let found = all.filter_map(|(slot, entry)| entry.as_ref().map(|(serial, conn)| (slot, *serial, conn)));
        found
            .filter(|(_, _, conn)| wanted(conn))
            .map(|(slot, serial, _)| ConnId { slot: slot as u32, serial })
            .collect()
    }
}

/// A host, by number.
pub(super) type HostId = u16;

/// The direction of a stream: up to the server, or down to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

/// A connection: where it is kept, and its serial number, which no other one ever has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnId {
    pub(super) slot: u32,
    pub(super) serial: u32,
}

impl ConnId {
    pub(super) fn number(self) -> u64 {
        u64::from(self.slot) | u64::from(self.serial) << 32
    }

    pub(super) fn from_number(number: u64) -> ConnId {
        ConnId { slot: number as u32, serial: (number >> 32) as u32 }
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.serial)
    }
}

/// A link from one host to another.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Nanoseconds on the way, chosen for each packet.
    pub(super) latency: Range<u64>,
    /// Bytes a second; 0 for no limit.
    pub(super) bandwidth: u64,
    /// One packet in this many is cut in two; 0 for none.
    pub(super) fragments: u64,
    pub(super) blocked: bool,
    pub(super) blocked_since: Time,
    /// When it is free for the next packet, and when the last one arrives.
    pub(super) free_at: Time,
    pub(super) last: Time,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            latency: 50_000..500_000,
            bandwidth: 125_000_000,
            fragments: 16,
            blocked: false,
            blocked_since: Time::ZERO,
            free_at: Time::ZERO,
            last: Time::ZERO,
        }
    }
}

/// All links, from each host to each.
#[derive(Debug, Default)]
pub(super) struct Links {
    from: Vec<Vec<Link>>,
    /// What new ones begin with.
    pub(super) model: Link,
}

impl Links {
    pub(super) fn get(&mut self, from: HostId, to: HostId) -> &mut Link {
        let model = &self.model;
        let most = usize::from(from.max(to)) + 1;
        if self.from.len() < most {
            self.from.resize_with(most, Vec::new);
        }
        let row = &mut self.from[usize::from(from)];
        if row.len() < most {
            row.resize_with(most, || model.clone());
        }
        &mut row[usize::from(to)]
    }
}
