//! What brokers do, as a machine: all nodes of a cluster, or a stand-alone one, with a log for each node and partition.
//!
//! ```text
//!               accept, handle, ended                 pull
//!   transport ─────────────────────────> Machine ─────────────> transport      (real sockets, or a simulated network)
//!                                          ^ │
//!                              tick(now) ──┘ └──> due()
//! ```
//!
//! Bytes go in and come out, at a given time: nothing here reads a clock, touches a socket, waits or locks. Later events stand in
//! a schedule: the transport asks for [`Machine::due`] after every call, and calls [`Machine::tick`] at that time. Faults act
//! where answers leave ([`pull`](Machine::pull)), so they work with every transport.
//!
//! With [`Behaviour::at_once`] every copy of a partition is complete at any time and nothing happens by itself; with
//! [`Behaviour::worst`] nodes do what real ones were seen to do.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::iter_over_hash_type
)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::cast_possible_truncation))]

mod admin;
mod answer;
mod behaviour;
mod connection;
mod consume;
mod log;
mod nodes;
mod output;
mod partition;
mod produce;
mod replication;
mod schedule;
mod segment;
mod test_access;
#[cfg(test)]
mod tests;
mod waits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddrV4;
use std::ops::RangeInclusive;
use std::sync::Arc;

use self::connection::Connection;
use self::nodes::Node;
use self::partition::Topic;
use self::produce::Unconfirmed;
use self::schedule::{Event, Schedule};
use self::waits::Wait;
use crate::net::Time;
use crate::protocol::{DecodeError, DecodeFault};

use behaviour::Chance;
pub(crate) use behaviour::{Behaviour, ClusterOptions, FailOver, Layout, Options, split_mix};
pub(crate) use log::AppendError;
pub(crate) use test_access::Appended;

/// A connection: its node, and which of that node's connections it is, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Conn {
    pub(crate) node: usize,
    pub(crate) id: u64,
}

impl Conn {
    /// All there can be of a node.
    fn all_of(node: usize) -> RangeInclusive<Conn> {
        Conn { node, id: 0 }..=Conn { node, id: u64::MAX }
    }
}

/// How a client has ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It sends nothing more: what is unread is still executed.
    Fin,
    /// It is gone: what is unread is dropped.
    Reset,
}

/// What a connection must send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pull {
    /// This many bytes, now in the room that was given.
    Bytes(usize),
    /// Nothing now: it is among the ready ones again when it has.
    Nothing,
    /// It ends in order. The machine has forgotten it.
    Close,
    /// As [`Close`](Pull::Close), with a reset.
    Reset,
}

#[derive(Debug)]
pub(crate) struct Machine {
    options: Options,
    /// The present moment: that of the latest call.
    now: Time,
    /// Zero of the clock to which waits are rounded, and the same in seconds since 1970.
    started: Time,
    start_time: u32,
    cluster: Option<ClusterOptions>,
    nodes: Vec<Node>,
    conns: BTreeMap<Conn, Connection>,
    /// Connections that may have something to send.
    ready: VecDeque<Conn>,
    topics: BTreeMap<Arc<str>, Topic>,
    /// Topics that were created and that no node has heard of.
    announced: BTreeSet<Arc<str>>,
    /// Consume requests that wait for data, in the order they came.
    waits: BTreeMap<u64, Wait>,
    /// Produce requests that wait for acknowledgements.
    unconfirmed: BTreeMap<u64, Unconfirmed>,
    /// Waits and produce requests there ever were.
    last_id: u64,
    schedule: Schedule,
    chance: Chance,
    killed_by: Option<String>,
    /// How often a fetch of this client for a partition and this number has killed a node.
    fetch_deaths: BTreeMap<(Arc<str>, Arc<str>, u16), BTreeMap<u64, u64>>,
    /// How often leaders have changed and topics were made.
    leader_changes: u64,
    journal: VecDeque<Appended>,
}

impl Machine {
    /// Nodes at these addresses that do not run yet; of one that stands alone there is no `cluster`.
    pub(crate) fn new(
        now: Time,
        start_time: u32,
        options: Options,
        addrs: &[SocketAddrV4],
        cluster: Option<ClusterOptions>,
    ) -> Machine {
        Machine {
            chance: Chance::new(options.behaviour.seed),
            options,
            now,
            started: now,
            start_time,
            cluster,
            nodes: addrs.iter().copied().map(Node::new).collect(),
            conns: BTreeMap::new(),
            ready: VecDeque::new(),
            topics: BTreeMap::new(),
            announced: BTreeSet::new(),
            waits: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
            last_id: 0,
            schedule: Schedule::default(),
            killed_by: None,
            fetch_deaths: BTreeMap::new(),
            leader_changes: 0,
            journal: VecDeque::new(),
        }
    }

    fn at(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// When the next event is due.
    pub(crate) fn due(&self) -> Time {
        self.schedule.due()
    }

    /// Does what is due. Returns when the next event is due.
    pub(crate) fn tick(&mut self, now: Time) -> Time {
        self.at(now);
        while let Some(event) = self.schedule.pop(self.now) {
            match event.node().and_then(|node| self.nodes.get_mut(node)).filter(|node| node.paused) {
                Some(node) => node.deferred.push(event),
                None => self.happen(event),
            }
        }
        self.due()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::WaitExpires { wait, .. } => self.finish_wait(wait, false),
            Event::AcksExpire { produce, .. } => self.acks_expire(produce),
            Event::MaySend(conn) => self.make_ready(conn),
            Event::CheckSilence(conn) => self.check_silence(conn),
            Event::MakeTopic { topic, partitions } => self.make_topic(&topic, partitions),
            Event::Fetch { topic, partition, replica } => self.fetch(&topic, partition, replica),
            Event::CheckInSync { topic, partition, replica } => self.check_in_sync(&topic, partition, replica),
            Event::FailOver { node, life } => self.notice(node, life),
            Event::Start { node, life } => self.come_back(node, life),
        }
    }

    /// Returns the next connection that may have something to send. [Pull](Machine::pull) from it until there is nothing left;
    /// it is not returned again before that.
    pub(crate) fn ready(&mut self) -> Option<Conn> {
        loop {
            let conn = self.ready.pop_front()?;
            if self.conns.get(&conn).is_some_and(|connection| connection.ready) {
                return Some(conn);
            }
        }
    }

    /// A number for a wait or a produce request.
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Notes a request that kills a real node; with [`Behaviour::deadly`] it kills this one too.
    fn deadly(&mut self, node: usize, reason: &str) {
        ::log::warn!(target: "tank_client::broker", "a request that kills a server: {reason}");
        self.killed_by.get_or_insert_with(|| reason.to_owned());
        if let Some(this) = self.nodes.get_mut(node) {
            this.deaths += 1;
        }
        if let Some(back) = self.options.behaviour.deadly {
            self.kill(self.now, node);
            let life = self.nodes.get(node).map_or(0, |node| node.life);
            self.schedule.at(self.now.after(back), Event::Start { node, life });
        }
    }

    /// Why a real node would have died, if any client has ever sent a request that kills one.
    pub(crate) fn killed_by(&self) -> Option<&str> {
        self.killed_by.as_deref()
    }
}

/// Decodes a request; like a server, whatever follows it.
fn lenient<'a, T>(payload: &'a [u8], decode: impl Fn(&'a [u8]) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    decode(payload).or_else(|e| match e.fault() {
        DecodeFault::Spare { extra } => {
            let len = payload.len().saturating_sub(usize::try_from(extra).unwrap_or(usize::MAX));
            decode(payload.get(..len).unwrap_or(payload))
        }
        _ => Err(e),
    })
}
