//! What happens in a run, all of it from the seed; and its trouble as it is scheduled: each kind begins, and each is over when its
//! time has come.

pub(super) mod worlds;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::Fault;
use crate::broker::BrokerFault;
use crate::broker::host::Host;
use crate::broker::machine::{Behaviour, FailOver, Machine, Options};
use crate::net::Time;
use crate::protocol::frame::Kind;
use crate::simulation::nodes::SimulatedNodes;
use crate::simulation::random::Random;
use crate::simulation::{Direction, LinkSettings, Service, Simulation};
use worlds::{ADDED_AT, World};

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) topic: usize,
    pub(super) partition: u16,
}

/// What a task does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// Sends through a producer.
    Producer {
        idempotent: bool,
        places: Vec<Place>,
    },
    /// Publishes, one call after the other.
    Publisher {
        places: Vec<Place>,
        rarely: bool,
    },
    Consumer {
        places: Vec<Place>,
        restarts: bool,
    },
    /// Publishes with numbers of its own, which no other one does there.
    Mirror {
        place: Place,
    },
    /// Asks for topics, partitions, states and numbers, and makes a topic.
    Administrator,
    /// Reads up to the end, once the work is nearly done.
    Reader {
        places: Vec<Place>,
    },
}

/// The kind of trouble in which clients find no descriptors left, and say so at once.
pub(super) const NO_DESCRIPTORS: u64 = 24;
/// That in which connections fall silent, idle ones too.
pub(super) const SILENT: u64 = 11;
/// That in which names take long to look up, and how long at least.
pub(super) const SLOW_NAME: u64 = 22;
/// That in which answers say that what they bring is not confirmed, in a world of its own.
pub(super) const LOW_MARKS: u64 = 25;
/// That in which a node's disk is full, in a world of its own.
pub(super) const FULL_DISK: u64 = 26;
pub(super) const SLOW: Duration = Duration::from_millis(1);

/// Something that goes wrong, and how long it lasts.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) kind: u64,
    pub(super) node: usize,
    pub(super) begins: Duration,
    pub(super) lasts: Duration,
    pub(super) number: u64,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            0 | 1 => "killed".to_owned(),
            2 => "stopped in order".to_owned(),
            3 | 4 => "hangs".to_owned(),
            5 => "isolated".to_owned(),
            6 => "separate from clients".to_owned(),
            7 => "hears no client".to_owned(),
            8 => "not heard by clients".to_owned(),
            9 => "cut".to_owned(),
            10 => "reset".to_owned(),
            SILENT => "falls silent".to_owned(),
            12 => "slow".to_owned(),
            13 => "taken over".to_owned(),
            14 => "clock jumps".to_owned(),
            15 => "refuses".to_owned(),
            16 => "disconnects all".to_owned(),
            SLOW_NAME => "has a slow name".to_owned(),
            23 => "has no name".to_owned(),
            NO_DESCRIPTORS => "no descriptors".to_owned(),
            LOW_MARKS => "names low marks".to_owned(),
            FULL_DISK => "has a full disk".to_owned(),
            _ => format!("{:?} {} times", fault(self.number), times(self.number)),
        };
        write!(f, "node {} {what} at {:?} for {:?}", self.node, self.begins, self.lasts)
    }
}

/// The broker's fault that a number stands for, and how often.
pub(super) fn fault(number: u64) -> BrokerFault {
    let bytes = number >> 8 & 0x3ff;
    let kind = [Kind::Produce, Kind::Consume, Kind::ProduceWithSeqnum][(number >> 24) as usize % 3];
    let faults = [Fault::NoLeader, Fault::InsufficientReplicas];
    match number % 12 {
        0 => BrokerFault::CloseOnAccept,
        1 => BrokerFault::NoPing,
        2 => BrokerFault::LatePing(Duration::from_millis(bytes * 4)),
        3 => BrokerFault::CloseOnRequest(kind),
        4 => BrokerFault::LoseAnswer(kind),
        5 => BrokerFault::Delay(Duration::from_millis(bytes * 4)),
        6 => BrokerFault::PingBeforeAnswer,
        7 => BrokerFault::Trickle { bytes: 1 + bytes as usize, pause: Duration::from_millis(20) },
        8 => BrokerFault::CutAfter(bytes),
        9 => BrokerFault::ResetAfter(bytes),
        10 => BrokerFault::StallAfter(bytes),
        _ => BrokerFault::RefuseProduce(faults[(number >> 32) as usize % 2]),
    }
}

/// Twice in a row on fresh connections looks like a request that kills the server: clients may give up then.
pub(super) fn times(number: u64) -> u64 {
    match fault(number) {
        BrokerFault::CloseOnRequest(Kind::Consume) | BrokerFault::LoseAnswer(Kind::Consume) => 1,
        _ => 1 + (number >> 40) % 3,
    }
}

/// The longest that patient clients try again: longer than all trouble, and than one silent wait after it.
pub(super) const PATIENT: Duration = Duration::from_secs(150);

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) world: World,
    pub(super) nodes: usize,
    pub(super) factor: usize,
    pub(super) partitions: Vec<u16>,
    pub(super) links: LinkSettings,
    pub(super) roles: Vec<Role>,
    pub(super) troubles: Vec<Trouble>,
    /// The node that never comes back.
    pub(super) stays_away: Option<usize>,
    /// When the last trouble is over, and the tasks stop making records.
    pub(super) trouble_ends: Duration,
    pub(super) work_ends: Duration,
    /// What every node has in common.
    pub(super) options: Options,
    /// The longest that looking up a name takes.
    pub(super) look_up: Duration,
    /// Whether retention takes the first messages now and then.
    pub(super) retention: bool,
    /// How long clients try again: longer than all trouble, or hardly at all.
    pub(super) retry: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) io_timeout: Duration,
    /// Who reads is given something this soon, if there is something and nothing is wrong.
    pub(super) prompt: Option<Duration>,
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Plan {
    /// What a seed stands for; bytes that are given decide first.
    pub(super) fn new(seed: u64, bytes: &[u8], time: Duration) -> Plan {
        Plan::of(World::of(seed), seed, bytes, time)
    }

    /// As [`new`](Plan::new), in a world that the seed does not decide.
    pub(super) fn of(world: World, seed: u64, bytes: &[u8], time: Duration) -> Plan {
        let mut random = Random::given(seed, 10, bytes);
        let nodes = [1, 1, 3, 3, 3, 5][random.below(6) as usize];
        let factor = 1 + random.below(nodes.min(3) as u64) as usize;
        let (nodes, factor) = world.nodes().unwrap_or((nodes, factor));
        let worst = !random.one_in(8);
        let behaviour = if worst { behave(&mut random, seed) } else { Behaviour::at_once() };
        let options = options(&mut random, behaviour);
        let many = match random.below(1000) {
            0 => 1500,
            1..=33 => 100,
            _ => 6,
        };
        let partitions: Vec<u16> = (0..1 + random.below(2)).map(|_| 1 + random.below(many) as u16).collect();
        let latency = [ms(0)..ms(1), ms(0)..ms(1), ms(1)..ms(20), ms(20)..ms(150)][random.below(4) as usize].clone();
        let bandwidth = [125_000_000, 125_000_000, 2_000_000][random.below(3) as usize];
        let links = LinkSettings::default().latency(latency).bandwidth(bandwidth).fragment_one_in(1 + random.below(16));
        let work_ends = time.mul_f64(0.8);
        let troubles = if random.one_in(10) { Vec::new() } else { troubles(&mut random, nodes, work_ends) };
        let look_up = ms([0, 0, 0, 100, 3000][random.below(5) as usize]);
        let plan = Plan {
            world,
            nodes,
            factor,
            options,
            look_up,
            retention: nodes == 1 && random.one_in(3),
            roles: roles(&mut random, &partitions, nodes),
            partitions,
            links,
            troubles,
            stays_away: None,
            trouble_ends: work_ends,
            work_ends,
            connect_timeout: ms([2_000, 5_000, 10_000][random.below(3) as usize]),
            io_timeout: ms([3_000, 10_000, 30_000][random.below(3) as usize]),
            // Looking names up takes from it, too.
            prompt: None,
            retry: if random.one_in(4) { ms(1_000 + random.below(10_000)) + look_up * 4 } else { PATIENT },
        };
        plan.in_world(&mut random)
    }
}

/// At their worst; often with leaders that are replaced sooner than real ones and replicas that lag more, so that a short run
/// sees more of it.
fn behave(random: &mut Random, seed: u64) -> Behaviour {
    let mut behaviour = Behaviour::worst(seed);
    if random.one_in(2) {
        behaviour.fail_over = Some(FailOver { silent: (ms(1_500), ms(4_000)), in_order: (ms(200), ms(1_000)) });
    }
    if let Some(replication) = behaviour.replication.as_mut().filter(|_| random.one_in(3)) {
        replication.delay = (ms(1), ms(300));
        replication.partial = 150;
    }
    behaviour
}

fn options(random: &mut Random, behaviour: Behaviour) -> Options {
    let mut options = Options { behaviour, journal: true, kept_requests: 0, ..Options::default() };
    if random.one_in(3) {
        options.layout.segment_bytes = 2_000 + random.below(50_000);
    }
    if random.one_in(5) {
        options.idle_timeout = Some(ms(500 + random.below(10_000)));
    }
    options.cut_chunks = random.one_in(8);
    options
}

fn roles(random: &mut Random, partitions: &[u16], nodes: usize) -> Vec<Role> {
    let mut free: Vec<Place> = partitions
        .iter()
        .enumerate()
        .flat_map(|(topic, &count)| (0..count).map(move |partition| Place { topic, partition }))
        .collect();
    let all = free.clone();
    let mut roles = Vec::new();
    // Whoever numbers its records is alone in its partitions.
    let mut shared = Vec::new();
    for _ in 0..1 + random.below(2) {
        let count = 1 + random.below(3) as usize;
        let places: Vec<Place> =
            (0..count.min(free.len())).map(|_| free.swap_remove(random.below(free.len() as u64) as usize)).collect();
        if !places.is_empty() {
            roles.push(Role::Producer { idempotent: true, places });
        }
    }
    // After an unknown outcome it asks for the mark, which in a cluster says little.
    if nodes == 1 && random.one_in(3) {
        roles.extend(free.pop().map(|place| Role::Mirror { place }));
    }
    shared.append(&mut free);
    if !shared.is_empty() {
        roles.extend((0..random.below(3)).map(|_| Role::Producer { idempotent: false, places: shared.clone() }));
        if random.one_in(2) {
            roles.push(Role::Publisher { places: shared.clone(), rarely: random.one_in(4) });
        }
    }
    for _ in 0..1 + random.below(3) {
        let places: Vec<Place> = all.iter().copied().filter(|_| !random.one_in(3)).collect();
        let places = if places.is_empty() { all.clone() } else { places };
        roles.push(Role::Consumer { places, restarts: random.one_in(2) });
    }
    if random.one_in(2) {
        roles.push(Role::Administrator);
    }
    roles
}

fn troubles(random: &mut Random, nodes: usize, end: Duration) -> Vec<Trouble> {
    let end = end.as_millis() as u64;
    (0..1 + random.below(8))
        .map(|_| {
            let begins = 500 + random.below(end - 1000);
            let node = random.below(nodes as u64) as usize;
            Trouble {
                kind: random.below(25),
                node,
                begins: ms(begins),
                lasts: ms(random.below(end - begins)),
                number: random.next(),
            }
        })
        .collect()
}

/// The host that clients are on.
pub(super) const CLIENT: &str = "client";

fn act(nodes: &SimulatedNodes, mut act: impl FnMut(&mut Machine, Time)) {
    nodes.act(&mut |machine, now| act(machine, now));
}

pub(super) fn schedule(sim: &Simulation, nodes: &Arc<SimulatedNodes>, plan: &Plan, hosts: &[String]) {
    let look_up = plan.look_up;
    hosts.iter().for_each(|host| sim.delay_name(host, look_up));
    for trouble in &plan.troubles {
        let (begin, end) = (trouble.clone(), trouble.clone());
        let (world, machine, names) = (sim.clone(), nodes.clone(), hosts.to_vec());
        sim.after(trouble.begins, move || begins(&world, &machine, &begin, &names, look_up));
        let (world, machine, names) = (sim.clone(), nodes.clone(), hosts.to_vec());
        sim.after(trouble.begins + trouble.lasts, move || ends(&world, &machine, &end, &names, look_up));
    }
    match plan.world {
        World::Grows => {
            let machine = nodes.clone();
            let add = move || act(&machine, |machine, _| machine.add_partition("topic-0"));
            sim.after(ms(ADDED_AT), add);
        }
        World::Addresses => {
            for (host, number) in hosts.iter().zip(1..) {
                sim.set_name(host, &[IpAddr::from([10, 9, 9, number]), sim.address_of(host)]);
            }
        }
        _ => {}
    }
    let (world, machine, names, away) = (sim.clone(), nodes.clone(), hosts.to_vec(), plan.stays_away);
    sim.after(plan.trouble_ends, move || heal(&world, &machine, &names, away));
}

fn begins(sim: &Simulation, nodes: &SimulatedNodes, trouble: &Trouble, hosts: &[String], look_up: Duration) {
    let (node, host) = (trouble.node, hosts[trouble.node].as_str());
    match trouble.kind {
        0 | 1 => act(nodes, |machine, now| machine.kill(now, node)),
        2 => act(nodes, |machine, now| machine.stop_in_order(now, node)),
        3 | 4 => act(nodes, |machine, now| machine.pause(now, node)),
        5 => act(nodes, |machine, now| machine.isolate(now, node, true)),
        6 => sim.separate(CLIENT, host),
        7 => sim.separate_one_way(CLIENT, host),
        8 => sim.separate_one_way(host, CLIENT),
        9 => sim.cut(host),
        10 => sim.reset(host),
        SILENT => sim.silence(host, Direction::ToClient),
        12 => sim.slow_down(host, Duration::ZERO..Duration::from_millis(trouble.number % 2000)),
        13 => {
            let services = [Service::Http, Service::Mute, Service::Greeting(b"220 mail.example ESMTP\r\n".to_vec())];
            sim.take_over(host, services[trouble.number as usize % 3].clone());
        }
        14 => sim.jump_wall_clock((trouble.number % 7_200_000) as i64 - 3_600_000),
        15 => act(nodes, |machine, _| machine.refuse(node)),
        16 => act(nodes, |machine, now| machine.disconnect_all(now, node)),
        SLOW_NAME => sim.delay_name(host, look_up.max(SLOW)),
        23 => sim.fail_name(host, true),
        NO_DESCRIPTORS => sim.limit_descriptors(CLIENT, Some(sim.open_sockets(CLIENT) + (trouble.number % 3) as usize)),
        FULL_DISK => act(nodes, |machine, _| machine.fill_disk(node, true)),
        LOW_MARKS => act(nodes, |machine, _| machine.inject(node, BrokerFault::LowMark(1), u64::from(u16::MAX))),
        _ => act(nodes, |machine, _| machine.inject(node, fault(trouble.number), times(trouble.number))),
    }
}

fn ends(sim: &Simulation, nodes: &SimulatedNodes, trouble: &Trouble, hosts: &[String], look_up: Duration) {
    let (node, host) = (trouble.node, hosts[trouble.node].as_str());
    match trouble.kind {
        0..=2 | 15 => act(nodes, |machine, now| machine.start(now, node)),
        3 | 4 => act(nodes, |machine, now| machine.resume(now, node)),
        5 => act(nodes, |machine, now| machine.isolate(now, node, false)),
        6..=8 => sim.rejoin(CLIENT, host),
        12 => sim.slow_down(host, Duration::ZERO..Duration::ZERO),
        13 => sim.take_over(host, None),
        SLOW_NAME => sim.delay_name(host, look_up),
        23 => sim.fail_name(host, false),
        NO_DESCRIPTORS => sim.limit_descriptors(CLIENT, None),
        FULL_DISK => act(nodes, |machine, _| machine.fill_disk(node, false)),
        17.. => act(nodes, |machine, _| {
            machine.clear_faults(node);
            machine.release(node);
        }),
        _ => {}
    }
}

/// Ends all trouble, whatever overlapped, but that of a node that stays away.
fn heal(sim: &Simulation, nodes: &SimulatedNodes, hosts: &[String], away: Option<usize>) {
    sim.limit_descriptors(CLIENT, None);
    for (node, host) in hosts.iter().enumerate() {
        sim.rejoin(CLIENT, host);
        sim.slow_down(host, Duration::ZERO..Duration::ZERO);
        sim.take_over(host, None);
        sim.fail_name(host, false);
        act(nodes, |machine, now| {
            machine.resume(now, node);
            if Some(node) != away {
                machine.start(now, node);
            }
            machine.isolate(now, node, false);
            machine.clear_faults(node);
            machine.release(node);
        });
    }
}
