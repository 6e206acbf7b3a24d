//! Worlds of their own: situations that the usual mix of trouble meets too rarely.
//!
//! Nine seeds of 32 stand for them, in turn; all others for the mix. The dense ones alone: `FROM=6 STEP=224`, and so on.
//! Those that one exact bound belongs to come last.

use std::time::Duration;

use super::{FULL_DISK, LOW_MARKS, NO_DESCRIPTORS, PATIENT, Place, Plan, Role, Trouble, ms};
use crate::broker::machine::{Behaviour, FailOver};
use crate::simulation::LinkSettings;
use crate::simulation::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum World {
    /// The usual mix.
    Mixed,
    /// One trouble after the other, each of them short.
    Dense,
    /// A line on which an answer takes longer than the time-outs, and arrives all the same.
    SlowLine,
    /// Connections end now and then and may be made again at once; in between consumers wait long for messages. A client needs
    /// hardly any patience.
    Spaced,
    /// One node of a cluster dies and never returns.
    StaysAway,
    /// No broker can be reached for longer than clients try.
    AllAway,
    /// A consumer begins late, and there is much to be read from each of several leaders.
    Backlog,
    /// A writer leaves gaps before the active segment, which kill a node that is asked for a number there.
    Gaps,
    /// A replica is away, so that nothing is confirmed, and the leaders' connections end again and again.
    Held,
    /// Long trouble, and then connections that end now and then and may be made again at once.
    Recovers,
    /// A leader dies and never returns; whoever reads its partitions finds the next one soon.
    Succession,
    /// Consumers poll without ever waiting.
    Polled,
    /// A consumer takes bundles just as large as the largest there is.
    Exact,
    /// Clients have no descriptors left when their connections end.
    Descriptors,
    /// The first address of each name is that of nobody.
    Addresses,
    /// Many threads publish with one client.
    Crowd,
    /// More leaders than a subscription keeps unused connections to.
    ManyLeaders,
    /// A partition is added to a topic that is being read.
    Grows,
    /// Somebody reads up to the end of logs that become shorter.
    ToTheEnd,
    /// One of several fetches on a connection is never answered.
    Unanswered,
    /// What a broker sends lies above the mark that it names, for a while.
    LowMark,
    /// Somebody reads up to a time, which one partition has reached when its leader no longer knows who leads it.
    UntilTime,
    /// A node's disk is full for a while.
    FullDisk,
    /// The usual mix on three nodes with twelve partitions, by which speed is measured. No seed stands for it.
    Standard,
}

/// The seeds that stand for them: remainders that those had not with which the mix has found something.
const AT: [u64; 4] = [6, 7, 22, 31];
const EXACT_AT: [u64; 4] = [12, 14, 19, 24];
const ADDED_LATER_AT: u64 = 11;

impl World {
    pub(super) fn of(seed: u64) -> World {
        const WORLDS: [World; 7] = [
            World::Dense,
            World::SlowLine,
            World::Spaced,
            World::StaysAway,
            World::AllAway,
            World::Backlog,
            World::Gaps,
        ];
        const EXACT: [World; 13] = [
            World::Held,
            World::Recovers,
            World::Succession,
            World::Polled,
            World::Exact,
            World::Descriptors,
            World::Addresses,
            World::Crowd,
            World::ManyLeaders,
            World::Grows,
            World::ToTheEnd,
            World::Unanswered,
            World::LowMark,
        ];
        match seed % 32 {
            at if AT.contains(&at) => WORLDS[(seed / 32 % 7) as usize],
            at if EXACT_AT.contains(&at) => EXACT[(seed / 32 % 13) as usize],
            ADDED_LATER_AT => [World::UntilTime, World::FullDisk][(seed / 32 % 2) as usize],
            _ => World::Mixed,
        }
    }

    /// How many nodes it needs, and copies of a partition.
    pub(super) fn nodes(self) -> Option<(usize, usize)> {
        match self {
            World::StaysAway => Some((3, 3)),
            World::AllAway => Some((5, 1)),
            World::SlowLine => Some((1, 1)),
            World::Backlog => Some((3, 1)),
            World::Gaps => Some((1, 1)),
            World::Held => Some((3, 2)),
            // Nothing is waited for but connections.
            World::Descriptors => Some((3, 1)),
            World::Succession => Some((3, 3)),
            World::ToTheEnd | World::Unanswered => Some((3, 2)),
            World::UntilTime => Some((2, 1)),
            World::Recovers | World::Exact | World::Crowd | World::LowMark | World::FullDisk => Some((1, 1)),
            World::ManyLeaders => Some((LEADERS, 1)),
            World::Standard => Some((3, 2)),
            _ => None,
        }
    }
}

/// More than a subscription keeps unused connections to.
const LEADERS: usize = 68;

/// When all brokers go away in the world of that name, in milliseconds.
pub(in super::super) const AWAY_FROM: u64 = 5_000;

/// When a consumer begins that has much to read.
pub(in super::super) const BEGINS_LATE: Duration = Duration::from_secs(14);

/// The kinds of trouble that end connections and are over at once: a cut, a reset, a broker that closes all.
const ENDS: [u64; 3] = [9, 10, 16];
const KILLED: u64 = 0;
const HANGS: u64 = 3;
const SEPARATE: u64 = 6;

fn trouble(kind: u64, node: usize, begins: u64, lasts: u64, number: u64) -> Trouble {
    Trouble { kind, node, begins: ms(begins), lasts: ms(lasts), number }
}

impl Plan {
    /// Makes it that of a world of its own.
    pub(super) fn in_world(mut self, random: &mut Random) -> Plan {
        let end = self.work_ends.as_millis() as u64;
        let nodes = self.nodes as u64;
        match self.world {
            World::Mixed => {}
            World::Standard => self.make_standard(),
            World::Dense => self.make_dense(random),
            World::SlowLine => {
                // 64 KiB, which arrive together, take less than the time-out.
                self.links = self.links.bandwidth(40_000 + random.below(20_000)).latency(ms(1)..ms(20));
                (self.troubles, self.look_up) = (Vec::new(), Duration::ZERO);
                self.options.idle_timeout = None;
                (self.io_timeout, self.retry) = (ms(2_000), PATIENT);
                // Large bundles, which are read late.
                self.work_ends = ms(1_000);
                let places = self.first_places(1);
                let producer = Role::Producer { idempotent: true, places: places.clone() };
                self.roles = vec![producer, Role::Consumer { places, restarts: false }];
            }
            World::Spaced => self.space_out(random),
            World::StaysAway => {
                let (node, at) = (random.below(nodes) as usize, 1_000 + random.below(end / 2));
                self.troubles = vec![trouble(KILLED, node, at, 3_600_000, 0)];
                self.stays_away = Some(node);
                if self.options.behaviour.fail_over.is_none() {
                    self.options.behaviour = Behaviour::worst(random.next());
                }
            }
            World::AllAway => {
                self.links = LinkSettings::default().latency(ms(20)..ms(40));
                self.retry = ms(1_000 + random.below(2_000));
                (self.connect_timeout, self.io_timeout, self.look_up) = (ms(10_000), ms(3_000), Duration::ZERO);
                self.troubles = (0..self.nodes).map(|node| trouble(SEPARATE, node, AWAY_FROM, 60_000, 0)).collect();
                self.work_ends = ms(70_000);
            }
            World::Backlog => {
                self.links = LinkSettings::default().latency(ms(0)..ms(5));
                (self.troubles, self.look_up, self.retry) = (Vec::new(), Duration::ZERO, PATIENT);
                self.options.idle_timeout = None;
                // One of each leader.
                let places = self.first_places(3);
                let producer = Role::Producer { idempotent: false, places: places.clone() };
                self.roles = vec![producer; 4];
                self.roles.push(Role::Consumer { places, restarts: false });
            }
            World::Gaps => {
                (self.troubles, self.look_up, self.retry) = (Vec::new(), Duration::ZERO, PATIENT);
                self.options.behaviour = Behaviour::worst(random.next());
                let places = self.first_places(self.partitions[0]);
                let mirror = Role::Mirror { place: places[0] };
                let consumer = Role::Consumer { places, restarts: true };
                self.roles = vec![mirror, consumer.clone(), consumer];
            }
            _ => self.make_exact(random),
        }
        self.trouble_ends = self.work_ends;
        // Who gives up before a node that died of a request is back never learns what it died of.
        if let Some(back) = &mut self.options.behaviour.deadly {
            *back = self.retry.div_f64(3.0).min(*back);
        }
        self
    }

    fn make_standard(&mut self) {
        let places = self.first_places(12);
        let (numbered, others) = places.split_at(3);
        self.roles = vec![
            Role::Producer { idempotent: true, places: numbered.to_vec() },
            Role::Producer { idempotent: false, places: others.to_vec() },
            Role::Publisher { places: others.to_vec(), rarely: false },
            Role::Consumer { places, restarts: true },
        ];
    }

    fn make_dense(&mut self, random: &mut Random) {
        let (end, nodes) = (self.work_ends.as_millis() as u64, self.nodes as u64);
        self.troubles = (0..30 + random.below(50))
            .map(|_| {
                let begins = 500 + random.below(end - 2500);
                let (node, number) = (random.below(nodes) as usize, random.next());
                trouble(random.below(25), node, begins, random.below(1500), number)
            })
            .collect();
    }

    fn space_out(&mut self, random: &mut Random) {
        self.retry = ms(2_000 + random.below(2_000));
        (self.look_up, self.options.idle_timeout) = (Duration::ZERO, None);
        self.roles.retain(|role| !matches!(role, Role::Producer { idempotent: false, .. } | Role::Publisher { .. }));
        self.troubles.clear();
        let mut at = 3_000 + random.below(3_000);
        while at < 30_000 {
            let kind = ENDS[random.below(3) as usize];
            self.troubles.extend((0..self.nodes).map(|node| trouble(kind, node, at, 0, 0)));
            at += 12_000 + random.below(3_000);
        }
        self.work_ends = ms(36_000);
    }

    /// Makes one topic of this many partitions.
    fn first_places(&mut self, count: u16) -> Vec<Place> {
        self.partitions = vec![count];
        (0..count).map(|partition| Place { topic: 0, partition }).collect()
    }
}

/// The partition that is added to the first topic, when, and when somebody begins to write there.
pub(in super::super) const ADDED_AT: u64 = 6_000;
pub(in super::super) const WRITTEN_AT: u64 = 9_000;

/// A limit of descriptors that is reached at once.
const NONE_LEFT: u64 = 0;

impl Plan {
    fn make_exact(&mut self, random: &mut Random) {
        self.links = LinkSettings::default().latency(ms(0)..ms(5));
        (self.troubles, self.look_up, self.retry) = (Vec::new(), Duration::ZERO, PATIENT);
        (self.options.idle_timeout, self.retention) = (None, false);
        match self.world {
            World::Held => self.hold(random),
            World::Recovers => {
                let away = 8_000 + random.below(4_000);
                self.troubles = vec![trouble(KILLED, 0, 3_000, away, 0)];
                self.work_ends = ms(30_000);
                // The longest pause has ended by then.
                self.end_connections(random, away + 9_000);
                self.prompt = Some(ms(1_500));
                self.read_all(4);
            }
            World::Succession => self.succeed(random),
            World::Polled => {
                self.end_connections(random, 3_000);
                let node = random.below(self.nodes as u64) as usize;
                self.troubles.push(trouble(KILLED, node, 4_000, 2_000, 0));
                self.read_all(3);
            }
            World::Exact => {
                let places = self.first_places(1);
                self.work_ends = ms(6_000);
                let publisher = Role::Publisher { places: places.clone(), rarely: false };
                self.roles = vec![publisher, Role::Consumer { places, restarts: false }];
            }
            World::Descriptors => {
                let nodes = 0..self.nodes;
                self.troubles = nodes.map(|node| trouble(KILLED, node, 3_800, 400, 0)).collect();
                self.troubles.push(trouble(NO_DESCRIPTORS, 0, 4_000, 12_000, NONE_LEFT));
                self.read_all(3);
                self.roles.push(Role::Administrator);
            }
            World::Addresses => {
                self.end_connections(random, 3_000);
                self.prompt = Some(ms(1_500));
                self.read_all(3);
            }
            World::Crowd => {
                let places = self.first_places(2);
                self.work_ends = ms(5_000);
                self.roles = vec![Role::Publisher { places: places.clone(), rarely: false }; 70];
                self.roles.push(Role::Consumer { places, restarts: false });
            }
            World::ManyLeaders => {
                self.work_ends = ms(8_000);
                self.read_all(LEADERS as u16);
            }
            World::Grows => self.grow(random),
            World::Unanswered => {
                self.io_timeout = ms(3_000);
                self.options.behaviour.forgotten_waits = 5;
                self.read_all(9);
            }
            World::LowMark => {
                let marks = |second: u64| trouble(LOW_MARKS, 0, second * 1_000, 8_000, 0);
                self.troubles = vec![marks(4), marks(14)];
                self.options.cut_chunks = false;
                self.read_all(2);
            }
            World::UntilTime => self.read_up_to_a_time(random),
            World::FullDisk => self.fill_a_disk(random),
            _ => self.shorten(random),
        }
    }

    /// One producer and one consumer of this many partitions.
    fn read_all(&mut self, count: u16) {
        let places = self.first_places(count);
        let producer = Role::Producer { idempotent: false, places: places.clone() };
        self.roles = vec![producer, Role::Consumer { places, restarts: false }];
    }

    /// All connections end now and then from this moment on.
    fn end_connections(&mut self, random: &mut Random, from: u64) {
        let (mut at, end) = (from, self.work_ends.as_millis() as u64);
        while at < end {
            let kind = ENDS[random.below(3) as usize];
            self.troubles.extend((0..self.nodes).map(|node| trouble(kind, node, at, 0, 0)));
            at += 2_500 + random.below(1_500);
        }
    }

    /// The first node is known by its name until it falls silent, when it has said that a replica lags; by its address then.
    fn hold(&mut self, random: &mut Random) {
        self.options.behaviour = Behaviour::worst(random.next());
        if let Some(replication) = &mut self.options.behaviour.replication {
            replication.out_of_sync_after = ms(30_000);
        }
        self.io_timeout = ms(3_000);
        self.troubles = vec![
            trouble(KILLED, 1, 2_000 + random.below(1_000), 16_000, 0),
            trouble(HANGS, 0, 11_500 + random.below(2_000), 5_000, 0),
        ];
        let places = self.first_places(6);
        let (some, others) = places.split_at(3);
        let producer = |places: &[Place]| Role::Producer { idempotent: true, places: places.to_vec() };
        self.roles = vec![producer(some), producer(others), Role::Consumer { places, restarts: false }];
    }

    /// The node that dies leads every partition that is written to.
    fn succeed(&mut self, random: &mut Random) {
        let node = random.below(3) as usize;
        self.options.behaviour = Behaviour::worst(random.next());
        self.work_ends = ms(36_000);
        self.troubles = vec![trouble(KILLED, node, 3_000 + random.below(4_000), 3_600_000, 0)];
        self.stays_away = Some(node);
        // Three pauses of up to a second: one that had begun, one after asking the dead node again, which is not distrusted for
        // ever, and one after the redirect.
        self.prompt = Some(ms(3_200));
        self.partitions = vec![6];
        let places: Vec<Place> = [node, node + 3].map(|id| Place { topic: 0, partition: id as u16 }).to_vec();
        let producer = Role::Producer { idempotent: false, places: places.clone() };
        self.roles = vec![producer, Role::Consumer { places, restarts: false }];
    }

    fn read_up_to_a_time(&mut self, random: &mut Random) {
        // The next fetch is on its way for longer than it takes to see that nothing more is wanted.
        self.links = LinkSettings::default().latency(ms(20)..ms(40));
        (self.retry, self.work_ends) = (ms(2_000 + random.below(2_000)), ms(15_000));
        let places = self.first_places(2);
        let publisher = Role::Publisher { places: vec![places[1]], rarely: false };
        self.roles = vec![Role::Reader { places }, publisher];
    }

    fn fill_a_disk(&mut self, random: &mut Random) {
        self.troubles = vec![trouble(FULL_DISK, 0, 4_000 + random.below(4_000), 1_000, 0)];
        let places = self.first_places(4);
        let producer = Role::Producer { idempotent: true, places: places.clone() };
        self.roles = vec![producer, Role::Consumer { places, restarts: false }];
    }

    fn grow(&mut self, random: &mut Random) {
        self.end_connections(random, ADDED_AT + 1_000);
        let count = 1 + random.below(3) as u16;
        let mut places = self.first_places(count);
        let producer = Role::Producer { idempotent: false, places: places.clone() };
        let added = Place { topic: 0, partition: count };
        places.push(added);
        let publisher = Role::Publisher { places: vec![added], rarely: false };
        self.roles = vec![producer, publisher, Role::Consumer { places, restarts: false }];
    }

    /// Writing ends just before a leader dies with what no replica has.
    fn shorten(&mut self, random: &mut Random) {
        self.options.behaviour = Behaviour::worst(random.next());
        self.options.behaviour.fail_over =
            Some(FailOver { silent: (ms(1_500), ms(4_000)), in_order: (ms(200), ms(1_000)) });
        if let Some(replication) = &mut self.options.behaviour.replication {
            (replication.delay, replication.partial) = ((ms(100), ms(300)), 300);
        }
        let (node, dies) = (random.below(3) as usize, 5_000 + random.below(60));
        self.work_ends = ms(5_000);
        self.troubles = vec![trouble(KILLED, node, dies, 3_600_000, 0)];
        self.stays_away = Some(node);
        let places = self.first_places(3);
        let producer = Role::Producer { idempotent: false, places: places.clone() };
        let reader = Role::Reader { places: places.clone() };
        self.roles =
            vec![producer.clone(), producer, reader.clone(), reader, Role::Consumer { places, restarts: false }];
    }
}
