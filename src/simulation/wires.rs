//! Connections and the links they run over.
//!
//! ```text
//!   connect ─ SYN ─> host ─┬─ refused ──────> Failed
//!      ^        (lost:     └─ SYN-ACK ──────> Open ── FIN or RST each way ──> gone
//!      └──────── again)
//! ```
//!
//! A link goes one way, from host to host. It keeps the order of what it carries, so that a reset is never overtaken by a
//! later handshake. What a blocked link swallows is sent again once it is free; what a silent connection swallows is not.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::conns::{Conn, ConnId, Handshake, HostId, Waiter, Way};
use super::hosts::ServerSide;
use super::pipe::{Ending, Pipe};
use super::trace::TraceEvent;
use super::world::{Event, State};
use crate::config::Config;
use crate::net::Time;

/// The largest packet. Far above what networks take: an event for each 1,460 bytes would show nothing more.
const PACKET: usize = 64 << 10;
/// Buffers, unless set: what the sender's and the receiver's system holds for a connection.
const SEND_BUFFER: usize = 256 << 10;
const WINDOW: usize = 512 << 10;
/// A handshake is tried again after 1, 3, 7, 15, 31 and 63 seconds, and given up after 127.
const HANDSHAKES: u32 = 7;

impl State {
    /// When something that is sent now from one host to another arrives, unless the link is blocked or a host is off.
    fn passage(&mut self, from: HostId, to: HostId, len: usize) -> Option<Time> {
        if !self.hosts[from as usize].up || !self.hosts[to as usize].up {
            return None;
        }
        let slow = self.hosts[from as usize].delay.clone();
        let delay = self.random.within(&slow);
        let link = self.links.get(from, to);
        if link.blocked {
            return None;
        }
        let mut leaves = self.now.max(link.free_at);
        if let Some(nanos) = (len as u64).saturating_mul(1_000_000_000).checked_div(link.bandwidth) {
            leaves = leaves.after(Duration::from_nanos(nanos));
            link.free_at = leaves;
        }
        let latency = self.random.within(&link.latency) + delay;
        link.last = leaves.after(Duration::from_nanos(latency)).max(link.last);
        Some(link.last)
    }

    fn is_cut_off(&mut self, from: HostId, to: HostId) -> bool {
        !self.hosts[from as usize].up || !self.hosts[to as usize].up || self.links.get(from, to).blocked
    }

    pub(super) fn connect(&mut self, from: HostId, to: SocketAddr, config: &Config) -> io::Result<ConnId> {
        let host = &mut self.hosts[from as usize];
        if host.open >= host.descriptors {
            // EMFILE, which has no kind of its own.
            return Err(io::Error::from_raw_os_error(24));
        }
        host.open += 1;
        let server = self.hosts.iter().position(|host| host.ip == to.ip()).map(|at| at as HostId);
        self.to_nobody += u64::from(server.is_none());
        let conn = self.conns.insert(Conn {
            client: from,
            server,
            to,
            handshake: Handshake::Connecting,
            attempts: 0,
            held: true,
            waiters: Vec::new(),
            far: ServerSide::None,
            up: Pipe::new(config.send_buffer.unwrap_or(SEND_BUFFER), WINDOW),
            down: Pipe::new(SEND_BUFFER, config.receive_buffer.unwrap_or(WINDOW)),
            cut: false,
            told_of_fin: false,
            has_asked: false,
            has_more: false,
            user_timeout: config.tcp_user_timeout,
        });
        self.note(TraceEvent::Connects { conn, from, to: server, port: to.port() });
        self.handshake(conn);
        Ok(conn)
    }

    /// Sends a SYN, or finds that enough were sent.
    pub(super) fn handshake(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.handshake != Handshake::Connecting {
            return;
        }
        if conn.attempts == HANDSHAKES {
            conn.handshake = Handshake::Failed(io::ErrorKind::TimedOut);
            self.note(TraceEvent::Unreachable(id));
            return self.wake(id, true, true);
        }
        conn.attempts += 1;
        let again = self.now.after(Duration::from_secs(1 << (conn.attempts - 1)));
        let ends = conn.ends(Way::Up);
        self.schedule(again, Event::Handshake(id));
        if let Some(arrives) = ends.and_then(|(from, to)| self.passage(from, to, 0)) {
            self.schedule(arrives, Event::Syn(id));
        }
    }

    /// A SYN arrives.
    pub(super) fn syn(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let (Some((from, to)), Handshake::Connecting) = (conn.ends(Way::Up), conn.handshake) else { return };
        let port = conn.to.port();
        let known = conn.far != ServerSide::None;
        if self.is_cut_off(from, to) {
            return;
        }
        let refused = !known && !self.listens(to, port);
        if let Some(arrives) = self.passage(to, from, 0) {
            self.schedule(arrives, if refused { Event::Refused(id) } else { Event::SynAck(id) });
        }
        if !refused && !known {
            if let Some(conn) = self.conns.get(id) {
                conn.far = ServerSide::Backlog;
            }
            self.accept(id);
        }
    }

    pub(super) fn answered(&mut self, id: ConnId, refused: bool) {
        let Some(conn) = self.conns.get(id) else { return };
        let (Some((from, to)), Handshake::Connecting) = (conn.ends(Way::Down), conn.handshake) else { return };
        if self.is_cut_off(from, to) {
            return;
        }
        let Some(conn) = self.conns.get(id) else { return };
        conn.handshake = if refused { Handshake::Failed(io::ErrorKind::ConnectionRefused) } else { Handshake::Open };
        self.note(if refused { TraceEvent::Refused(id) } else { TraceEvent::Connected(id) });
        self.wake(id, true, true);
    }

    /// Sends what can be sent now.
    pub(super) fn pump(&mut self, id: ConnId, way: Way) {
        loop {
            let Some(conn) = self.conns.get(id) else { return };
            let Some((from, to)) = conn.ends(way) else { return };
            let pipe = conn.pipe(way);
            if pipe.reset != Ending::No {
                return;
            }
            let mut n = pipe.sendable(PACKET);
            if n == 0 && !pipe.fin_is_due() {
                return;
            }
            let epoch = pipe.epoch;
            if n > 1 {
                let fragments = self.links.get(from, to).fragments;
                if fragments > 0 && self.random.one_in(fragments) {
                    n = 1 + self.random.below(n as u64 - 1) as usize;
                }
            }
            let arrives = self.passage(from, to, n);
            let Some(conn) = self.conns.get(id) else { return };
            let timeout = conn.user_timeout;
            let pipe = conn.pipe(way);
            if arrives.is_none() || pipe.silent {
                // The system notices in the end, if it is set to.
                if let (Some(timeout), Way::Up, 1..) = (timeout, way, n) {
                    let end = self.now.after(timeout);
                    self.schedule(end, Event::GiveUp { conn: id, epoch });
                }
            }
            match arrives {
                None => return,
                Some(arrives) => {
                    let Some(conn) = self.conns.get(id) else { return };
                    let pipe = conn.pipe(way);
                    pipe.send(n);
                    if !pipe.silent {
                        self.schedule(arrives, Event::Packet { conn: id, way, epoch });
                    }
                }
            }
        }
    }

    /// The next packet of a direction arrives.
    pub(super) fn packet(&mut self, id: ConnId, way: Way, epoch: u32) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some((from, to)) = conn.ends(way) else { return };
        let pipe = conn.pipe(way);
        if pipe.epoch != epoch || pipe.silent {
            return;
        }
        if self.is_cut_off(from, to) {
            return self.lose(id, way);
        }
        let Some(conn) = self.conns.get(id) else { return };
        let pipe = conn.pipe(way);
        let bytes = pipe.arrive();
        let (len, sum) = (bytes.len(), crc32fast::hash(bytes));
        self.note(if len == 0 {
            TraceEvent::Ends { conn: id, way }
        } else {
            TraceEvent::Arrives { conn: id, way, len, sum }
        });
        match way {
            Way::Up => {
                self.deliver(id);
                self.wake(id, false, true);
            }
            Way::Down => {
                if self.conns.get(id).is_some_and(|conn| conn.has_more) {
                    self.pull(id);
                }
                self.received(id);
            }
        }
    }

    /// Loses what is in flight; a stream that was reset is not sent again.
    fn lose(&mut self, id: ConnId, way: Way) {
        let Some(conn) = self.conns.get(id) else { return };
        let timeout = conn.user_timeout;
        let pipe = conn.pipe(way);
        pipe.lose();
        if pipe.reset != Ending::No {
            pipe.drop_unsent();
        }
        let (outstanding, epoch) = (pipe.outstanding(), pipe.epoch);
        self.note(TraceEvent::Lost { conn: id, way });
        if let (Some(timeout), Way::Up, 1..) = (timeout, way, outstanding) {
            let end = self.now.after(timeout);
            self.schedule(end, Event::GiveUp { conn: id, epoch });
        }
    }

    /// Something came down to the client.
    fn received(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.handshake == Handshake::Connecting {
            // The answer to the handshake was lost; this one says the same.
            conn.handshake = Handshake::Open;
            return self.wake(id, true, true);
        }
        if !conn.held {
            let any = !conn.down.unread().is_empty();
            conn.down.drop_unread();
            if any {
                self.reset(id, Way::Up);
            }
            return;
        }
        self.wake(id, true, false);
    }

    /// The client's system has waited long enough for an acknowledgement.
    pub(super) fn give_up(&mut self, id: ConnId, epoch: u32) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.up.epoch != epoch || conn.up.outstanding() == 0 || !conn.held {
            return;
        }
        conn.handshake = Handshake::Failed(io::ErrorKind::TimedOut);
        self.note(TraceEvent::Unreachable(id));
        self.wake(id, true, true);
    }

    /// Sends a RST in this direction; what was not sent yet never is.
    pub(super) fn reset(&mut self, id: ConnId, way: Way) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some((from, to)) = conn.ends(way) else { return };
        let pipe = conn.pipe(way);
        if pipe.reset >= Ending::Sent {
            return;
        }
        pipe.drop_unsent();
        pipe.reset = Ending::Wanted;
        if pipe.silent {
            pipe.reset = Ending::Sent;
            return;
        }
        if let Some(arrives) = self.passage(from, to, 0) {
            if let Some(conn) = self.conns.get(id) {
                conn.pipe(way).reset = Ending::Sent;
            }
            self.schedule(arrives, Event::Reset { conn: id, way });
        }
    }

    /// A RST arrives.
    pub(super) fn was_reset(&mut self, id: ConnId, way: Way) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some((from, to)) = conn.ends(way) else { return };
        let pipe = conn.pipe(way);
        if pipe.silent {
            return;
        }
        if self.is_cut_off(from, to) {
            // It is sent again when the link is free: a peer that keeps sending is told again.
            if let Some(conn) = self.conns.get(id) {
                conn.pipe(way).reset = Ending::Wanted;
            }
            return self.lose(id, way);
        }
        let lossy = self.random.one_in(2);
        let Some(conn) = self.conns.get(id) else { return };
        conn.pipe(way).reset = Ending::Arrived;
        self.note(TraceEvent::Resets { conn: id, way });
        match way {
            Way::Up => self.deliver(id),
            Way::Down => {
                let Some(conn) = self.conns.get(id) else { return };
                // Systems differ in what becomes of bytes that were received and not read.
                if lossy {
                    conn.down.drop_unread();
                }
                self.wake(id, true, true);
                self.forget(id);
            }
        }
    }

    /// The client writes.
    pub(super) fn write(&mut self, id: ConnId, from: &[u8]) -> io::Result<usize> {
        let Some(conn) = self.conns.get(id) else { return Err(io::ErrorKind::NotConnected.into()) };
        match conn.handshake {
            Handshake::Connecting => return Err(io::ErrorKind::NotConnected.into()),
            Handshake::Failed(kind) => return Err(kind.into()),
            Handshake::Open if conn.down.reset == Ending::Arrived => {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Handshake::Open => {}
        }
        if conn.cut {
            // Taken, and answered by a reset, as by a host that knows no such connection.
            self.reset(id, Way::Down);
            return Ok(from.len());
        }
        let stale = !std::mem::replace(&mut conn.has_asked, true) && conn.down.has_ended();
        let room = conn.up.free().min(from.len());
        // Now and then less than there is room for.
        let some = if room > 1 && self.random.one_in(64) { 1 + self.random.below(room as u64) as usize } else { room };
        self.counts.stale += u64::from(stale);
        let Some(conn) = self.conns.get(id) else { return Err(io::ErrorKind::NotConnected.into()) };
        let len = conn.up.write(&from[..some]);
        if len == 0 && !from.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.note(TraceEvent::Written { conn: id, way: Way::Up, len });
        self.pump(id, Way::Up);
        Ok(len)
    }

    /// The client reads.
    pub(super) fn read(&mut self, id: ConnId, into: &mut [u8]) -> io::Result<usize> {
        let Some(conn) = self.conns.get(id) else { return Err(io::ErrorKind::NotConnected.into()) };
        let unread = conn.down.unread();
        if unread.is_empty() {
            return match conn.handshake {
                Handshake::Failed(kind) => Err(kind.into()),
                _ if conn.down.reset == Ending::Arrived => Err(io::ErrorKind::ConnectionReset.into()),
                _ if conn.down.fin == Ending::Arrived => Ok(0),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        conn.has_asked = false;
        let unread = conn.down.unread();
        let n = unread.len().min(into.len());
        into[..n].copy_from_slice(&unread[..n]);
        conn.down.read(n);
        if !conn.down.is_empty() {
            self.pump(id, Way::Down);
        }
        Ok(n)
    }

    /// The client gives up its socket: with a FIN after what it wrote, or with a RST, which drops that. A system resets
    /// also if something received was not read.
    pub(super) fn close(&mut self, id: ConnId, abort: bool) {
        let Some(conn) = self.conns.get(id) else { return };
        if !conn.held {
            return;
        }
        conn.held = false;
        let host = conn.client;
        let abort = abort || !conn.down.unread().is_empty() || conn.handshake != Handshake::Open;
        self.hosts[host as usize].open -= 1;
        let way = Way::Up;
        self.note(if abort { TraceEvent::Aborts { conn: id, way } } else { TraceEvent::Closes { conn: id, way } });
        if abort {
            self.reset(id, way);
        } else if let Some(conn) = self.conns.get(id) {
            if conn.up.fin == Ending::No {
                conn.up.fin = Ending::Wanted;
            }
            self.pump(id, way);
        }
        self.forget(id);
    }

    /// The server's side is closed: with a FIN after what it wrote, or with a RST.
    pub(super) fn close_far(&mut self, id: ConnId, abort: bool) {
        let Some(conn) = self.conns.get(id) else { return };
        let abort = abort || !conn.up.unread().is_empty();
        conn.far = ServerSide::Gone;
        conn.up.drop_unread();
        let way = Way::Down;
        self.note(if abort { TraceEvent::Aborts { conn: id, way } } else { TraceEvent::Closes { conn: id, way } });
        if abort {
            self.reset(id, way);
        } else if let Some(conn) = self.conns.get(id) {
            if conn.down.fin == Ending::No {
                conn.down.fin = Ending::Wanted;
            }
            self.pump(id, way);
        }
        self.forget(id);
    }

    /// Removes a connection that neither side knows any more.
    pub(super) fn forget(&mut self, id: ConnId) {
        if self.conns.get(id).is_some_and(|conn| !conn.held && matches!(conn.far, ServerSide::Gone | ServerSide::None))
        {
            self.conns.remove(id);
        }
    }

    /// Something on the way ends a connection: both sides see a FIN, or a RST.
    pub(super) fn sever(&mut self, id: ConnId, abort: bool) {
        for way in [Way::Up, Way::Down] {
            if abort {
                self.reset(id, way);
            } else if let Some(conn) = self.conns.get(id) {
                conn.cut = true;
                let pipe = conn.pipe(way);
                if pipe.fin == Ending::No {
                    pipe.fin = Ending::Wanted;
                }
                self.pump(id, way);
            }
        }
    }

    /// Blocks a link or frees it. Once it is free, senders notice after a while: the longer it took, the later.
    pub(super) fn set_blocked(&mut self, from: HostId, to: HostId, blocked: bool) {
        let now = self.now;
        let link = self.links.get(from, to);
        if link.blocked == blocked {
            return;
        }
        link.blocked = blocked;
        if blocked {
            link.blocked_since = now;
        } else {
            let outage = now.since(link.blocked_since);
            self.resend(from, to, outage);
        }
    }

    /// Has everything that waits for a link sent again, within some time.
    pub(super) fn resend(&mut self, from: HostId, to: HostId, outage: Duration) {
        let most = (outage / 2).clamp(Duration::from_millis(200), Duration::from_secs(5)).as_nanos() as u64;
        for way in [Way::Up, Way::Down] {
            for id in self.conns.which(|conn| conn.ends(way) == Some((from, to))) {
                let at = self.now.after(Duration::from_nanos(self.random.below(most)));
                let Some(conn) = self.conns.get(id) else { continue };
                if conn.pipe(way).reset == Ending::Wanted {
                    // Before any handshake that follows.
                    self.reset(id, way);
                } else {
                    self.schedule(at, Event::Pump { conn: id, way });
                }
            }
        }
    }

    /// Has a task woken when there is something to read or room to write.
    pub(super) fn watch(&mut self, id: ConnId, task: u16, wait: u64, read: bool, write: bool) {
        let tasks = &self.tasks;
        if let Some(conn) = self.conns.get(id) {
            conn.waiters.retain(|waiter| tasks.is_in(waiter.task, waiter.wait));
            conn.waiters.push(Waiter { task, wait, read, write });
        }
    }

    pub(super) fn wake(&mut self, id: ConnId, read: bool, write: bool) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.waiters.is_empty() {
            return;
        }
        let read = read && conn.is_readable();
        let write = write && conn.is_writable();
        for at in 0.. {
            let Some(conn) = self.conns.get(id) else { return };
            let Some(&waiter) = conn.waiters.get(at) else { return };
            if waiter.read && read || waiter.write && write {
                self.tasks.wake(waiter.task, Some(waiter.wait));
            }
        }
    }
}
