//! What there is of connections: values without behaviour. What happens to them stands in `wires`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::host::Far;
use super::ids::{ConnId, HostId, Way};
use super::pipe::{Ending, Pipe};

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
    pub(super) far: Far,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    /// Ended by something on the way: the client may not know it yet.
    pub(super) cut: bool,
    /// Whether the server's program was told of the client's FIN.
    pub(super) told: bool,
    /// Whether the client has written since it last read something.
    pub(super) asked: bool,
    /// Whether the program has more for it than there is room for.
    pub(super) more: bool,
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
