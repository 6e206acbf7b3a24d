//! What the threads of a broker share: topics, nodes, connections, waiting requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::answer::{Answer, Part};
use super::connection::Link;
use super::faults::Faults;
use super::lock;
use super::log::{Chunk, Layout, Log};
use super::stats::{BrokerStats, Request};
use crate::protocol::frame::Kind;

/// How a broker behaves, fixed when it starts.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) layout: Layout,
    pub(super) exact_waits: bool,
    pub(super) cut_chunks: bool,
    pub(super) read_only: bool,
    pub(super) silent_timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
}

/// How many connections that never sent a byte a node keeps (reference, section 2.5).
pub(super) const MAX_SILENT: usize = 64;

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Signalled when anything in the state changes that someone may wait for, other than a connection's own affairs.
    pub(super) changed: Condvar,
    pub(super) options: Options,
    /// Zero of the clock to which waits are rounded.
    pub(super) started: Instant,
    /// The same, in seconds since 1970.
    pub(super) start_time: u32,
}

impl Shared {
    pub(super) fn new(options: Options, state: State) -> Shared {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            options,
            started: Instant::now(),
            start_time: u32::try_from(since_1970).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock::mutex(&self.state)
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) topics: BTreeMap<Arc<str>, Topic>,
    pub(super) nodes: Vec<Node>,
    /// Consume requests that wait for data, in the order they came.
    pub(super) waits: BTreeMap<u64, Wait>,
    pub(super) next_wait: u64,
    pub(super) killed_by: Option<String>,
    /// What the nodes have in common, unless there is one that stands alone.
    pub(super) cluster: Option<ClusterState>,
}

#[derive(Debug)]
pub(super) struct ClusterState {
    pub(super) name: String,
    /// Replication factor of new topics.
    pub(super) factor: usize,
    /// How long a topic created over the network has no leaders.
    pub(super) election: Duration,
}

impl State {
    pub(super) fn partition(&mut self, topic: &str, partition: u16) -> Option<&mut Partition> {
        self.topics.get_mut(topic)?.partitions.get_mut(usize::from(partition))
    }

    /// Creates a topic, its partitions spread over the nodes in turn.
    pub(super) fn create_topic(&mut self, name: &str, partitions: u16, factor: usize, layout: Layout) {
        let nodes = self.nodes.len();
        let partition = |id: u16| Partition::new(layout, (0..factor).map(|n| (usize::from(id) + n) % nodes).collect());
        self.topics.insert(name.into(), Topic { partitions: (0..partitions).map(partition).collect(), factor });
    }

    /// Whether `node` leads a partition, or who does. A partition that does not exist has no leader.
    pub(super) fn leadership(&self, topic: &str, partition: u16, node: usize) -> Leadership {
        let partition = self.topics.get(topic).and_then(|topic| topic.partitions.get(usize::from(partition)));
        let Some(partition) = partition else { return Leadership::Nobody };
        if partition.electing_until.is_some_and(|until| Instant::now() < until) {
            return Leadership::Electing;
        }
        match partition.leader {
            None => Leadership::Nobody,
            Some(leader) if leader == node => Leadership::Here,
            Some(leader) => Leadership::Elsewhere(self.nodes[leader].endpoint()),
        }
    }

    /// Notes that a real server would have died of a request.
    pub(super) fn kill(&mut self, reason: &str) {
        log::warn!(target: "tank_client::broker", "a request that kills a server: {reason}");
        self.killed_by.get_or_insert_with(|| reason.to_owned());
    }

    /// Takes a waiting request out of all lists.
    pub(super) fn take_wait(&mut self, id: u64) -> Option<Wait> {
        let wait = self.waits.remove(&id)?;
        for slot in &wait.slots {
            if let Some(partition) = self.partition(&slot.topic, slot.partition) {
                partition.waiting.retain(|&(waiting, _)| waiting != id);
            }
        }
        let node = &mut self.nodes[wait.node];
        node.stats.waiting -= 1;
        if let Some(conn) = node.conns.get_mut(&wait.conn) {
            conn.waits.remove(&(wait.deadline, id));
        }
        Some(wait)
    }
}

/// Who leads a partition, from a node's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leadership {
    Here,
    Elsewhere(SocketAddrV4),
    Nobody,
    /// Nobody yet: the topic is new.
    Electing,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) partitions: Vec<Partition>,
    /// How many nodes have a copy of each partition.
    pub(super) factor: usize,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) log: Log,
    pub(super) layout: Layout,
    /// Whether its log was ever used.
    pub(super) open: bool,
    pub(super) leader: Option<usize>,
    pub(super) electing_until: Option<Instant>,
    pub(super) replicas: Vec<usize>,
    pub(super) in_sync: Vec<usize>,
    /// Number of the last message that all replicas in sync have; matters in a cluster only.
    pub(super) committed: u64,
    /// Requests that wait for it, and which of their slots it is.
    pub(super) waiting: Vec<(u64, usize)>,
    /// Whether its log cannot be opened.
    pub(super) broken: bool,
    /// What stands in its file `config`, if there is one.
    pub(super) config: Option<String>,
}

impl Partition {
    /// An empty one, led by the first of its replicas.
    fn new(layout: Layout, replicas: Vec<usize>) -> Partition {
        Partition {
            log: Log::default(),
            layout,
            open: false,
            leader: replicas.first().copied(),
            electing_until: None,
            in_sync: replicas.clone(),
            replicas,
            committed: 0,
            waiting: Vec::new(),
            broken: false,
            config: None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) addr: SocketAddrV4,
    /// Keeps the port ours while nothing listens on it.
    pub(super) holder: Option<socket2::Socket>,
    pub(super) listener: Option<Arc<TcpListener>>,
    pub(super) acceptor: Option<JoinHandle<()>>,
    /// Threads of connections, some of which may have ended.
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) running: bool,
    pub(super) paused: bool,
    /// Whether the cluster has an address for it.
    pub(super) registered: bool,
    pub(super) conns: BTreeMap<u64, Conn>,
    pub(super) faults: Faults,
    pub(super) stats: BrokerStats,
    pub(super) requests: VecDeque<Request>,
}

impl Node {
    pub(super) fn is_alive(&self) -> bool {
        self.running && !self.paused
    }

    /// Where others send clients that ask for what it leads.
    fn endpoint(&self) -> SocketAddrV4 {
        if self.registered { self.addr } else { SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0) }
    }
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) link: Arc<Link>,
    /// Answers to be sent.
    pub(super) queue: VecDeque<Answer>,
    /// Answers to be queued at a certain time, with the kinds of their requests.
    pub(super) later: Vec<(Instant, Kind, Vec<Part>)>,
    /// Whether it ever sent a byte, and when it last did or was opened.
    pub(super) heard: bool,
    pub(super) last_heard: Instant,
    pub(super) end: End,
    /// Deadlines and numbers of its waiting requests.
    pub(super) waits: BTreeSet<(Instant, u64)>,
    /// Whether a fault keeps it silent.
    pub(super) stalled: bool,
}

/// When a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// Once the answers in its queue are sent.
    WhenSent,
    Now,
}

/// A consume request that waits for data (reference, section 5.6).
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) node: usize,
    pub(super) conn: u64,
    pub(super) request_id: u32,
    pub(super) deadline: Instant,
    pub(super) min_bytes: u64,
    /// Bytes that arrived, as far as a server counts them.
    pub(super) captured: u64,
    pub(super) slots: Vec<WaitSlot>,
}

#[derive(Debug)]
pub(super) struct WaitSlot {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
    /// In a cluster, the number an answer with data begins with here.
    pub(super) start: Option<u64>,
    /// Whether it waits at a replica, where nothing wakes it.
    pub(super) deaf: bool,
    /// What arrived, if anything did.
    pub(super) arrived: Option<Chunk>,
}
