//! What happens between a host and the program on it: connections are accepted, bytes handed in and carried away.

use std::net::IpAddr;
use std::time::Duration;

use super::conns::{ConnId, HostId, Way};
use super::hosts::{End, Host, Pull, ServerSide, Service};
use super::pipe::Ending;
use super::trace::TraceEvent;
use super::world::State;

const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The most that a program is asked for at once.
const ROOM: usize = 64 << 10;

impl State {
    pub(super) fn add_host(&mut self, name: &str, ip: IpAddr, port: u16, program: Option<(usize, usize)>) -> HostId {
        self.hosts.push(Host {
            name: name.to_owned(),
            ip,
            port,
            up: true,
            program,
            service: None,
            open: 0,
            descriptors: usize::MAX,
            delay: 0..0,
        });
        (self.hosts.len() - 1) as HostId
    }

    pub(super) fn listens(&self, host: HostId, port: u16) -> bool {
        let host = &self.hosts[usize::from(host)];
        let program = host.program.is_some_and(|(program, node)| self.programs[program].listens(node));
        host.port == port && (host.service.is_some() || program)
    }

    /// Has a connection that waits in the backlog accepted, if its program takes any.
    pub(super) fn accept(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.get(id) else { return };
        let (Some(server), ServerSide::Backlog) = (conn.server, conn.far) else { return };
        let from = self.hosts[usize::from(conn.client)].ip;
        let host = &self.hosts[usize::from(server)];
        if let Some(service) = &host.service {
            conn.far = ServerSide::Service;
            let greeting = if let Service::Greeting(bytes) = service { bytes.clone() } else { Vec::new() };
            self.note(TraceEvent::Accepted(id));
            return self.say(id, &greeting);
        }
        let Some((program, node)) = host.program else { return };
        if !self.programs[program].accepts(node) {
            return;
        }
        match self.programs[program].accept(now, node, from) {
            Some(call) => {
                conn.far = ServerSide::Program(program, call);
                self.calls.insert((program, call), id);
                self.note(TraceEvent::Accepted(id));
                self.carry(program);
                self.deliver(id);
            }
            None => self.close_far(id, false),
        }
    }

    /// Hands what has come up to the server's side.
    pub(super) fn deliver(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.get(id) else { return };
        match conn.far {
            ServerSide::Program(program, call) => {
                let machine = &mut self.programs[program];
                let unread = conn.up.unread();
                let before = !unread.is_empty();
                if conn.up.reset == Ending::Arrived {
                    conn.up.drop_unread();
                    machine.ended(now, call, End::Reset);
                    conn.far = ServerSide::Gone;
                    self.calls.remove(&(program, call));
                } else if machine.reads(call) {
                    if before {
                        machine.handle(now, call, unread);
                        conn.up.drop_unread();
                    }
                    if conn.up.fin == Ending::Arrived && !conn.told_of_fin {
                        conn.told_of_fin = true;
                        machine.ended(now, call, End::Fin);
                    } else if before {
                        self.pump(id, Way::Up);
                    }
                }
                self.carry(program);
            }
            ServerSide::Service => self.serve(id),
            ServerSide::Gone => {
                let any = !conn.up.unread().is_empty();
                conn.up.drop_unread();
                if any {
                    self.reset(id, Way::Down);
                }
            }
            ServerSide::None | ServerSide::Backlog => {
                if conn.up.reset == Ending::Arrived {
                    conn.far = ServerSide::Gone;
                }
            }
        }
        self.forget(id);
    }

    fn serve(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let asked = !conn.up.unread().is_empty();
        let ended = conn.up.has_ended();
        conn.up.drop_unread();
        let Some(server) = conn.server else { return };
        let http = self.hosts[usize::from(server)].service == Some(Service::Http);
        if http && asked {
            self.say(id, BAD_REQUEST);
        }
        if ended || http && asked {
            self.close_far(id, false);
        }
    }

    fn say(&mut self, id: ConnId, bytes: &[u8]) {
        if let Some(conn) = self.conns.get(id) {
            conn.down.write(bytes);
            self.pump(id, Way::Down);
        }
    }

    /// Carries away what a program has for its connections.
    pub(super) fn carry(&mut self, program: usize) {
        while let Some(call) = self.programs[program].ready() {
            if let Some(&id) = self.calls.get(&(program, call)) {
                self.pull(id);
            }
        }
    }

    /// Takes what a program has for a connection, as far as there is room.
    pub(super) fn pull(&mut self, id: ConnId) {
        let now = self.now;
        loop {
            let Some(conn) = self.conns.get(id) else { return };
            let ServerSide::Program(program, call) = conn.far else { return };
            let room = conn.down.free().min(ROOM);
            conn.has_more = room == 0;
            if room == 0 {
                return;
            }
            match self.programs[program].pull(now, call, &mut self.scratch[..room]) {
                Pull::Bytes(len) => {
                    conn.down.write(&self.scratch[..len]);
                    self.note(TraceEvent::Written { conn: id, way: Way::Down, len });
                    self.pump(id, Way::Down);
                }
                Pull::Nothing => return,
                end => {
                    self.calls.remove(&(program, call));
                    return self.close_far(id, end == Pull::Reset);
                }
            }
        }
    }

    /// After something was done to a program: what waited for it may go on.
    pub(super) fn changed(&mut self, program: usize) {
        self.carry(program);
        let waits =
            |far: ServerSide| far == ServerSide::Backlog || matches!(far, ServerSide::Program(of, _) if of == program);
        for id in self.conns.which(|conn| waits(conn.far)) {
            self.accept(id);
            self.deliver(id);
        }
    }

    /// Takes power from a host: whoever talks to it hears nothing more.
    pub(super) fn power_off(&mut self, host: HostId) {
        let now = self.now;
        self.hosts[usize::from(host)].up = false;
        for id in self.conns.which(|conn| conn.server == Some(host)) {
            let Some(conn) = self.conns.get(id) else { continue };
            if let ServerSide::Program(program, call) = conn.far {
                self.calls.remove(&(program, call));
                self.programs[program].ended(now, call, End::Reset);
            }
            if let Some(conn) = self.conns.get(id) {
                conn.far = ServerSide::Gone;
                conn.up.drop_unread();
                // What it had written is gone with it.
                conn.down.lose();
                conn.down.drop_unsent();
            }
            self.forget(id);
        }
        if let Some((program, node)) = self.hosts[usize::from(host)].program {
            self.programs[program].killed(now, node);
            self.carry(program);
        }
    }

    pub(super) fn power_on(&mut self, host: HostId) {
        self.hosts[usize::from(host)].up = true;
        for from in 0..self.hosts.len() as HostId {
            self.resend(from, host, Duration::from_secs(1));
        }
    }
}
