//! Worlds in which one bound is exact, because little else happens.

use std::time::Duration;

use super::{ENDS, HANGS, KILLED, LEADERS, World, trouble};
use crate::broker::machine::{Behaviour, FailOver};
use crate::simulation::LinkSettings;
use crate::simulation::checker::plan::{LOW_MARKS, NO_DESCRIPTORS, PATIENT, Place, Plan, Role, ms};
use crate::simulation::random::Random;

/// The partition that is added to the first topic, when, and when somebody begins to write there.
pub(in super::super::super) const ADDED_AT: u64 = 6_000;
pub(in super::super::super) const WRITTEN_AT: u64 = 9_000;

/// A limit of descriptors that is reached at once.
const NONE_LEFT: u64 = 0;

impl Plan {
    pub(super) fn make_exact(&mut self, random: &mut Random) {
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
        self.prompt = Some(ms(3_000));
        self.partitions = vec![6];
        let places: Vec<Place> = [node, node + 3].map(|id| Place { topic: 0, partition: id as u16 }).to_vec();
        let producer = Role::Producer { idempotent: false, places: places.clone() };
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
