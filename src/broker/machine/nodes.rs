//! Nodes and who leads: starting, dying, hanging, coming back; leaders that move (cluster.md, "Fail-over").
//!
//! ```text
//!            kill, stop_in_order                 pause
//!   down <───────────────────────── running ───────────────> hangs
//!    └─────────────────────────────>  ^  <──────────────────── │
//!                start                │         resume         │
//!                                     └── FailOver, unless it came back: its partitions get other leaders
//! ```

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::partition::{Partition, Replica};
use super::schedule::Event;
use super::{Conn, Machine};
use crate::broker::faults::Faults;
use crate::broker::stats::Request;
use crate::broker::{BrokerFault, BrokerStats};
use crate::net::Time;

#[derive(Debug)]
pub(super) struct Node {
    addr: SocketAddrV4,
    /// Whether the process runs, and whether it takes connections.
    pub(super) running: bool,
    pub(super) listening: bool,
    pub(super) paused: bool,
    /// Whether the cluster has an address for it.
    pub(super) registered: bool,
    /// Whether no other node reaches it.
    pub(super) isolated: bool,
    /// Whether its disk has no room left.
    pub(super) full: bool,
    /// How many times it has started.
    pub(super) life: u64,
    /// When its process last opened its logs, which takes all that is in them for committed.
    pub(super) opened: Time,
    /// What was due while it hung.
    pub(super) deferred: Vec<Event>,
    pub(super) faults: Faults,
    pub(super) stats: BrokerStats,
    pub(super) requests: Requests,
    /// How many requests would have killed it.
    pub(super) deaths: u64,
}

impl Node {
    pub(super) fn new(addr: SocketAddrV4) -> Node {
        Node {
            addr,
            running: false,
            listening: false,
            paused: false,
            registered: true,
            isolated: false,
            full: false,
            life: 0,
            opened: Time::ZERO,
            deferred: Vec::new(),
            faults: Faults::default(),
            stats: BrokerStats::default(),
            requests: Requests::default(),
            deaths: 0,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.running && !self.paused
    }

    /// Where others send clients that ask for what it leads.
    pub(super) fn endpoint(&self) -> SocketAddrV4 {
        if self.registered { self.addr } else { SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0) }
    }

    pub(super) fn addr(&self) -> SocketAddrV4 {
        self.addr
    }
}

/// The latest requests: at most the number wanted, in a limited amount of memory.
#[derive(Debug, Default)]
pub(super) struct Requests {
    kept: VecDeque<Request>,
    bytes: usize,
}

/// Bytes of remembered requests.
const KEPT_BYTES: usize = 32 << 20;

impl Requests {
    pub(super) fn push(&mut self, request: Request, most: usize) {
        self.bytes += request.payload.len();
        self.kept.push_back(request);
        while self.kept.len() > most || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.payload.len();
        }
    }
}

impl Machine {
    pub(super) fn is_alive(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(Node::is_alive)
    }

    /// Returns whether two nodes reach each other.
    pub(super) fn are_connected(&self, one: usize, other: usize) -> bool {
        [one, other].iter().all(|&node| self.nodes.get(node).is_some_and(|node| node.is_alive() && !node.isolated))
    }

    /// Where a node listens.
    pub(crate) fn addr(&self, node: usize) -> Option<SocketAddrV4> {
        self.nodes.get(node).map(Node::addr)
    }

    /// Returns whether a connection to the node is opened; if not it is refused.
    pub(crate) fn listens(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|node| node.listening)
    }

    /// Returns whether the node accepts connections that its system has opened for it; not while it hangs.
    pub(crate) fn accepts(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|node| node.listening && !node.paused)
    }

    fn conns_of(&self, node: usize) -> Vec<Conn> {
        self.conns.range(Conn::all_of(node)).map(|(conn, _)| *conn).collect()
    }

    /// Starts the node's process if it does not run, and lets it listen.
    pub(crate) fn start(&mut self, now: Time, node: usize) {
        self.at(now);
        let Some(this) = self.nodes.get_mut(node) else { return };
        let was_down = !this.running;
        this.running = true;
        this.listening = true;
        this.registered = true;
        this.life += 1;
        if was_down {
            this.opened = now;
        }
        if was_down && self.options.behaviour.replication.is_some() {
            self.reopen_logs(node);
        }
        self.rejoin(node);
    }

    /// Comes back after a request has killed it.
    pub(super) fn come_back(&mut self, node: usize, life: u64) {
        if self.nodes.get(node).is_some_and(|node| node.life == life) {
            self.start(self.now, node);
        }
    }

    fn reopen_logs(&mut self, node: usize) {
        let partitions = self.topics.values_mut().flat_map(|topic| &mut topic.partitions);
        for replica in partitions.flat_map(|partition| partition.replica_mut(node)) {
            replica.log.reopen();
            replica.committed = replica.log.last;
        }
    }

    /// Closes the node's listener; open connections are still served.
    pub(crate) fn refuse(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.listening = false;
        }
    }

    /// The death of a process: its system ends all connections, those with unread requests by a reset.
    pub(crate) fn kill(&mut self, now: Time, node: usize) {
        self.at(now);
        let Some(this) = self.nodes.get_mut(node) else { return };
        let hung = this.paused;
        this.running = false;
        this.listening = false;
        this.paused = false;
        this.life += 1;
        this.deferred = Vec::new();
        for conn in self.conns_of(node) {
            self.tear_down(conn, hung);
        }
        self.drop_unconfirmed_of(node);
        let span = self.options.behaviour.fail_over.as_ref().map(|fail_over| fail_over.silent);
        self.notice_later(node, span);
    }

    /// Shuts a node down properly: it withdraws its address first.
    pub(crate) fn stop_in_order(&mut self, now: Time, node: usize) {
        self.kill(now, node);
        if let Some(this) = self.nodes.get_mut(node) {
            this.registered = false;
        }
        let span = self.options.behaviour.fail_over.as_ref().map(|fail_over| fail_over.in_order);
        self.notice_later(node, span);
    }

    /// Lets a node hang: connections open but are not greeted, requests arrive but are not executed.
    pub(crate) fn pause(&mut self, now: Time, node: usize) {
        self.at(now);
        if let Some(this) = self.nodes.get_mut(node) {
            this.paused = true;
        }
        let span = self.options.behaviour.fail_over.as_ref().map(|fail_over| fail_over.silent);
        self.notice_later(node, span);
    }

    /// Lets a node that hung continue, with all that came in meanwhile.
    pub(crate) fn resume(&mut self, now: Time, node: usize) {
        self.at(now);
        let Some(this) = self.nodes.get_mut(node) else { return };
        if std::mem::take(&mut this.paused) {
            this.life += 1;
            for event in std::mem::take(&mut this.deferred) {
                self.schedule.at(self.now, event);
            }
            self.lead_on(node);
            for conn in self.conns_of(node) {
                self.make_ready(conn);
                self.execute_unread(conn);
            }
        }
        self.rejoin(node);
    }

    /// Lets a node that was deposed while it hung continue as the leader it was.
    fn lead_on(&mut self, node: usize) {
        let Some(span) = self.options.behaviour.deposed_leads_on else { return };
        let until = self.now.after(self.chance.within(span));
        let partitions = self.topics.values_mut().flat_map(|topic| &mut topic.partitions);
        for replica in partitions.flat_map(|partition| partition.replica_mut(node)) {
            // Set by whoever deposed it.
            if replica.leads_on_until == Time::NEVER {
                replica.leads_on_until = until;
            }
        }
    }

    /// Closes every connection to the node that is open now.
    pub(crate) fn disconnect_all(&mut self, now: Time, node: usize) {
        self.at(now);
        for conn in self.conns_of(node) {
            self.hang_up(conn);
        }
    }

    /// Cuts a node off from the others, or joins it to them again; clients reach it all the same.
    pub(crate) fn isolate(&mut self, now: Time, node: usize, isolated: bool) {
        self.at(now);
        if let Some(this) = self.nodes.get_mut(node) {
            this.isolated = isolated;
        }
        if !isolated {
            self.rejoin(node);
        }
    }

    /// Leaves a node's disk without room, or frees some. Whatever is written to meanwhile ends in the middle of a bundle then, and
    /// nothing after that can be read (reference, 19).
    pub(crate) fn fill_disk(&mut self, node: usize, full: bool) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.full = full;
        }
    }

    /// Lets the connections continue that a fault keeps silent.
    pub(crate) fn release(&mut self, node: usize) {
        for conn in self.conns_of(node) {
            if let Some(connection) = self.conns.get_mut(&conn).filter(|connection| connection.stalled) {
                connection.stalled = false;
                if let Some(node) = self.nodes.get_mut(node) {
                    node.stats.stalled -= 1;
                }
                self.make_ready(conn);
            }
        }
    }

    fn notice_later(&mut self, node: usize, span: Option<super::behaviour::Span>) {
        let (Some(span), Some(this)) = (span, self.nodes.get(node)) else { return };
        let life = this.life;
        let at = self.now.after(self.chance.within(span));
        self.schedule.at(at, Event::FailOver { node, life });
    }

    pub(super) fn notice(&mut self, node: usize, life: u64) {
        if self.nodes.get(node).is_some_and(|this| this.life == life && !this.is_alive()) {
            self.fail_over(self.now, node);
        }
    }

    /// Notices that a node is gone: takes it out of all in-sync sets where it is not the last, and gives each partition it
    /// leads to the next replica in sync that runs, or to no node.
    pub(crate) fn fail_over(&mut self, now: Time, node: usize) {
        self.at(now);
        for (topic, id) in self.partitions_where(|p| p.leader == Some(node) || p.in_sync.contains(&node)) {
            let Some(partition) = self.partition_mut(&topic, id) else { continue };
            if partition.in_sync != [node] {
                partition.in_sync.retain(|&replica| replica != node);
            }
            if partition.leader == Some(node) {
                let next = self.next_leader(&topic, id);
                self.lead(&topic, id, next);
            } else {
                self.recommit(&topic, id);
            }
        }
    }

    /// The first replica in sync that runs.
    fn next_leader(&self, topic: &str, id: u16) -> Option<usize> {
        let partition = self.partition(topic, id)?;
        let mut nodes = partition.replicas.iter().map(|replica| replica.node);
        nodes.find(|node| partition.in_sync.contains(node) && self.is_alive(*node))
    }

    /// Gives partitions without a leader one that has come back.
    pub(super) fn elect_again(&mut self, node: usize) {
        if self.options.behaviour.fail_over.is_none() {
            return;
        }
        for (topic, id) in self.partitions_where(|p| p.leader.is_none() && p.in_sync.contains(&node)) {
            let next = self.next_leader(&topic, id);
            self.lead(&topic, id, next);
        }
    }

    /// Makes a node the partition's leader, or no node. If it has no copy, it gets one in the place of the last replica.
    pub(crate) fn set_leader(&mut self, now: Time, topic: &str, id: u16, leader: Option<usize>) {
        self.at(now);
        let Some(partition) = self.partition_mut(topic, id) else { return };
        partition.electing_until = Time::ZERO;
        if let Some(leader) = leader {
            give_copy(partition, leader);
            if !partition.in_sync.contains(&leader) {
                partition.in_sync.push(leader);
            }
        }
        if let Some(topic) = self.topic_name(topic) {
            self.lead(&topic, id, leader);
        }
    }

    /// Moves the leadership, and answers what waits at the leader before.
    fn lead(&mut self, topic: &Arc<str>, id: u16, leader: Option<usize>) {
        self.leader_changes += 1;
        let at_once = self.options.behaviour.replication.is_none();
        let deposed = self.partition(topic, id).and_then(|partition| partition.leader);
        let hangs = |node: usize| self.nodes.get(node).is_some_and(|node| node.paused);
        let may_lead_on = self.options.behaviour.deposed_leads_on.is_some();
        let leads_on = deposed.filter(|&node| may_lead_on && Some(node) != leader && hangs(node));
        let Some(partition) = self.partition_mut(topic, id) else { return };
        if deposed != leader && !at_once {
            for replica in &mut partition.replicas {
                replica.confirmed = 0;
                replica.behind_since = None;
            }
        }
        partition.leader = leader;
        if let Some(replica) = leads_on.and_then(|node| partition.replica_mut(node)) {
            replica.leads_on_until = Time::NEVER;
        }
        if let Some(replica) = leader.and_then(|node| partition.replica_mut(node)) {
            replica.leads_on_until = Time::ZERO;
        }
        self.wake_waits(topic, id);
        self.kick(topic, id);
    }

    pub(crate) fn inject(&mut self, node: usize, fault: BrokerFault, times: u64) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.faults.arm(fault, times);
        }
    }

    pub(crate) fn clear_faults(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.faults.clear();
        }
    }

    pub(crate) fn pending_faults(&self, node: usize) -> usize {
        self.nodes.get(node).map_or(0, |node| node.faults.pending())
    }

    pub(crate) fn stats(&self, node: usize) -> BrokerStats {
        let Some(node) = self.nodes.get(node) else { return BrokerStats::default() };
        let mut stats = node.stats.clone();
        stats.faults_fired = node.faults.fired;
        stats
    }

    pub(crate) fn requests(&self, node: usize) -> Vec<Request> {
        self.nodes.get(node).map_or(Vec::new(), |node| node.requests.kept.iter().cloned().collect())
    }

    pub(crate) fn forget_requests(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.requests = Requests::default();
        }
    }

    /// How many requests would have killed a node.
    pub(crate) fn deaths(&self, node: usize) -> u64 {
        self.nodes.get(node).map_or(0, |node| node.deaths)
    }

    /// How often fetches of this client for a partition have killed a node, by number.
    pub(crate) fn fetch_deaths(&self, client: &str, topic: &str, partition: u16) -> BTreeMap<u64, u64> {
        self.fetch_deaths.get(&(client.into(), topic.into(), partition)).cloned().unwrap_or_default()
    }
}

/// Gives a node a copy of what the leader has, in the place of the last replica, unless it has one.
fn give_copy(partition: &mut Partition, node: usize) {
    if partition.replica(node).is_some() {
        return;
    }
    let log = partition.seen_from(node).map(|replica| (replica.log.clone(), replica.committed));
    if let Some(replaced) = partition.replicas.pop() {
        partition.in_sync.retain(|&node| node != replaced.node);
    }
    let (log, committed) = log.unwrap_or_default();
    let confirmed = log.last;
    partition.replicas.push(Replica { committed, confirmed, ..Replica::new(node, log) });
}
