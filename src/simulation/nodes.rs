//! The embedded broker's machine, on simulated hosts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::host::{Call, End, Program, Pull};
use super::task::For;
use super::trace::What;
use super::world::World;
use super::{Simulation, net};
use crate::broker::machine::{self, ClusterOptions, Conn, Machine, Options};
use crate::net::Time;

/// Where brokers listen.
const PORT: u16 = 11011;

fn conn(call: Call) -> Conn {
    Conn { node: call.0, id: call.1 }
}

fn call(conn: Conn) -> Call {
    (conn.node, conn.id)
}

impl Program for Machine {
    fn listens(&self, node: usize) -> bool {
        Machine::listens(self, node)
    }

    fn accepts(&self, node: usize) -> bool {
        Machine::accepts(self, node)
    }

    fn accept(&mut self, now: Time, node: usize, from: IpAddr) -> Option<Call> {
        Machine::accept(self, now, node, from).map(call)
    }

    fn reads(&self, call: Call) -> bool {
        Machine::reads(self, conn(call))
    }

    fn handle(&mut self, now: Time, call: Call, bytes: &[u8]) {
        Machine::handle(self, now, conn(call), bytes);
    }

    fn ended(&mut self, now: Time, call: Call, how: End) {
        let how = if how == End::Fin { machine::End::Fin } else { machine::End::Reset };
        Machine::ended(self, now, conn(call), how);
    }

    fn ready(&mut self) -> Option<Call> {
        Machine::ready(self).map(call)
    }

    fn pull(&mut self, now: Time, call: Call, room: &mut [u8]) -> Pull {
        match Machine::pull(self, now, conn(call), room) {
            machine::Pull::Bytes(n) => Pull::Bytes(n),
            machine::Pull::Nothing => Pull::Nothing,
            machine::Pull::Close => Pull::Close,
            machine::Pull::Reset => Pull::Reset,
        }
    }

    fn tick(&mut self, now: Time) {
        Machine::tick(self, now);
    }

    fn due(&self) -> Time {
        Machine::due(self)
    }

    fn killed(&mut self, now: Time, node: usize) {
        self.kill(now, node);
    }

    fn machine(&mut self) -> Option<&mut Machine> {
        Some(self)
    }
}

/// What a broker or a cluster in a simulation is controlled by.
#[derive(Debug)]
pub(super) struct Nodes {
    world: Arc<World>,
    program: usize,
}

impl Nodes {
    /// Does something to the machine, and carries what comes of it.
    pub(super) fn act(&self, act: &mut dyn FnMut(&mut Machine, Time)) {
        let mut state = self.world.lock();
        let now = state.now;
        if let Some(machine) = state.programs[self.program].machine() {
            act(machine, now);
        }
        state.note(What::Acts(self.program as u16));
        state.changed(self.program);
    }

    fn listen(&self, node: usize) -> io::Result<()> {
        self.act(&mut |machine, now| machine.start(now, node));
        Ok(())
    }

    fn wait_until(&self, timeout: Duration, condition: &mut dyn FnMut(&mut Machine) -> bool) -> bool {
        let end = self.world.now().after(timeout);
        loop {
            let mut met = false;
            self.act(&mut |machine, _| met = condition(machine));
            let now = self.world.now();
            if met || now >= end {
                return met;
            }
            self.world.sleep_until(now.after(Duration::from_millis(1)).min(end), For::Sleep);
        }
    }
}

/// Puts the nodes of a machine on hosts of their own, named after `name`, and starts them.
pub(super) fn place(
    sim: &Simulation,
    names: &[String],
    options: Options,
    cluster: Option<ClusterOptions>,
) -> Nodes {
    let mut state = sim.world.lock();
    let program = state.programs.len();
    let ip = |node: usize| Ipv4Addr::new(10, 1, program as u8, node as u8 + 1);
    let addrs: Vec<SocketAddrV4> = (0..names.len()).map(|node| SocketAddrV4::new(ip(node), PORT)).collect();
    let wall = net::wall(state.now, state.wall_offset_ms);
    let seconds = wall.duration_since(std::time::SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32);
    let mut machine = Machine::new(state.now, seconds, options, &addrs, cluster);
    let now = state.now;
    (0..names.len()).for_each(|node| machine.start(now, node));
    state.programs.push(Box::new(machine));
    for (node, name) in names.iter().enumerate() {
        let ip = IpAddr::V4(ip(node));
        state.add_host(name, ip, PORT, Some((program, node)));
        state.names.entry(name).addresses = vec![ip];
    }
    drop(state);
    Nodes { world: sim.world.clone(), program }
}
