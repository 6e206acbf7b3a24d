//! The embedded broker's machine, on simulated hosts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::hosts::{Call, End, Program, Pull};
use super::task::WaitFor;
use super::trace::TraceEvent;
use super::world::World;
use super::{Simulation, net};
use crate::broker::host::Host;
use crate::broker::machine::{Behaviour, ClusterOptions, Machine, Options};
use crate::broker::{Broker, BrokerBuilder, Cluster, ClusterBuilder};
use crate::net::Time;

/// Where brokers listen.
pub(super) const PORT: u16 = 11011;

impl Program for Machine {
    fn listens(&self, node: usize) -> bool {
        Machine::listens(self, node)
    }

    fn accepts(&self, node: usize) -> bool {
        Machine::accepts(self, node)
    }

    fn accept(&mut self, now: Time, node: usize, from: IpAddr) -> Option<Call> {
        Machine::accept(self, now, node, from)
    }

    fn reads(&self, call: Call) -> bool {
        Machine::reads(self, call)
    }

    fn handle(&mut self, now: Time, call: Call, bytes: &[u8]) {
        Machine::handle(self, now, call, bytes);
    }

    fn ended(&mut self, now: Time, call: Call, how: End) {
        Machine::ended(self, now, call, how);
    }

    fn ready(&mut self) -> Option<Call> {
        Machine::ready(self)
    }

    fn pull(&mut self, now: Time, call: Call, room: &mut [u8]) -> Pull {
        Machine::pull(self, now, call, room)
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

    fn machine(&self) -> Option<&Machine> {
        Some(self)
    }

    fn machine_mut(&mut self) -> Option<&mut Machine> {
        Some(self)
    }
}

/// What a broker or a cluster in a simulation is controlled by.
#[derive(Debug)]
pub(super) struct SimulatedNodes {
    world: Arc<World>,
    program: usize,
}

impl Host for SimulatedNodes {
    fn act(&self, act: &mut dyn FnMut(&mut Machine, Time)) {
        let mut state = self.world.lock();
        let now = state.now;
        if let Some(machine) = state.programs.get_mut(self.program).and_then(|program| program.machine_mut()) {
            act(machine, now);
            state.note(TraceEvent::Acts(self.program as u16));
            state.changed(self.program);
        }
    }

    fn look(&self, look: &mut dyn FnMut(&Machine)) {
        let state = self.world.lock();
        if let Some(machine) = state.programs.get(self.program).and_then(|program| program.machine()) {
            look(machine);
        }
    }

    fn listen(&self, node: usize) -> io::Result<()> {
        self.act(&mut |machine, now| machine.start(now, node));
        Ok(())
    }

    fn outlives_its_handles(&self) -> bool {
        true
    }

    fn wait_closed(&self) {}

    fn wait_until(&self, timeout: Duration, condition: &mut dyn FnMut(&Machine) -> bool) -> bool {
        let end = self.world.now().after(timeout);
        loop {
            let mut met = false;
            self.look(&mut |machine| met = condition(machine));
            let now = self.world.now();
            if met || now >= end {
                return met;
            }
            self.world.sleep_until(now.after(Duration::from_millis(1)).min(end), WaitFor::Sleep);
        }
    }
}

/// Brokers and clusters. Their nodes run until the world ends, even if their handles are dropped.
impl Simulation {
    /// Starts a broker on the host `broker`, with every setting at its default. It behaves as real ones do at their worst.
    pub fn broker(&self) -> Arc<Broker> {
        self.broker_with(&Broker::builder())
    }

    /// Starts a [broker](Simulation::broker) with settings.
    ///
    /// ```
    /// use tank_client::broker::Broker;
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let broker = sim.broker_with(&Broker::builder().segment_bytes(1 << 20));
    /// let client = sim.client().connect(broker.brokers())?;
    /// assert!(client.topics()?.is_empty());
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    pub fn broker_with(&self, settings: &BrokerBuilder) -> Arc<Broker> {
        let nodes = place(self, &self.fresh(1, "broker"), self.worst(settings), None);
        Arc::new(Broker::on(Arc::new(nodes), 0))
    }

    /// Starts a cluster of `n` nodes, at least one, on the hosts `node-0`, `node-1` and so on. They behave as real ones do at
    /// their worst: each has a log of its own, replicas lag and re-bundle messages, and when a leader dies, the messages that
    /// the others did not get are lost. They notice its death after some 20 seconds.
    pub fn cluster(&self, n: usize) -> Arc<Cluster> {
        self.cluster_with(&Broker::cluster_builder(n).election_time(Duration::from_millis(400)))
    }

    /// Starts a [cluster](Simulation::cluster) with settings.
    ///
    /// ```
    /// use tank_client::broker::Broker;
    /// use tank_client::simulation::Simulation;
    ///
    /// let sim = Simulation::new(1);
    /// let cluster = sim.cluster_with(&Broker::cluster_builder(5).replication_factor(3));
    /// cluster.create_topic("orders", 10);
    /// assert_eq!(cluster.replicas("orders", 4), [4, 0, 1]);
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    pub fn cluster_with(&self, settings: &ClusterBuilder) -> Arc<Cluster> {
        let (n, broker) = settings.parts();
        let nodes = place(self, &self.fresh(n, "node"), self.worst(broker), Some(settings.cluster_options()));
        Arc::new(Cluster::on(Arc::new(nodes), n))
    }

    fn worst(&self, settings: &BrokerBuilder) -> Options {
        Options { behaviour: Behaviour::worst(self.seed()), ..settings.options().clone() }
    }

    /// Names for hosts.
    fn fresh(&self, n: usize, name: &str) -> Vec<String> {
        let name = match self.world.lock().programs.len() {
            0 => name.to_owned(),
            before => format!("{name}-{}", before + 1),
        };
        if n == 1 && name.starts_with("broker") {
            vec![name]
        } else {
            (0..n).map(|node| format!("{name}-{node}")).collect()
        }
    }
}

/// Puts the nodes of a machine on hosts of their own, named after `name`, and starts them.
pub(super) fn place(
    sim: &Simulation,
    names: &[String],
    options: Options,
    cluster: Option<ClusterOptions>,
) -> SimulatedNodes {
    let mut state = sim.world.lock();
    let program = state.programs.len();
    let ip = |node: usize| Ipv4Addr::new(10, 1 + (node / 254) as u8, program as u8, (node % 254) as u8 + 1);
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
    SimulatedNodes { world: sim.world.clone(), program }
}
