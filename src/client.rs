//! [`Client`]: the brokers, who leads what, and single requests.

use std::collections::HashSet;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use log::debug;

use crate::brokers::Brokers;
use crate::config::{ClientBuilder, Config};
use crate::consume::{ConsumeIter, Subscription, check_topic, find_time, subscribe};
use crate::error::{Error, Fault, Result};
use crate::net::{BrokerAddr, Cluster, Deadline, Pool};
use crate::protocol::admin::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
use crate::protocol::frame::{self, Kind};
use crate::protocol::{DecodeError, DecodeFault, EncodeError, Limits};

/// A connection to TANK: to one broker or to a cluster.
///
/// Cheap to clone; clones and threads share it freely. A [`ConsumeIter`] has connections of its own, so that a client can
/// publish while it is being iterated.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// What a client and its subscriptions have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) cluster: Cluster,
    pub(crate) pool: Pool,
    /// Whether the brokers form a cluster, once they have said so.
    pub(crate) in_cluster: OnceLock<bool>,
    request_id: AtomicU32,
}

/// A request that can be repeated without harm, and its answer.
pub(crate) trait Ask {
    type Answer;
    const ANSWER: Kind;

    fn encode(&self, request_id: u32, out: &mut Vec<u8>) -> std::result::Result<(), EncodeError>;

    fn decode(
        &self,
        request_id: u32,
        payload: &[u8],
        limits: &Limits,
    ) -> std::result::Result<Self::Answer, DecodeError>;
}

/// A partition's marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionInfo {
    /// The partition.
    pub id: u16,
    /// The first sequence number that is still there; 0 if there never was a message.
    pub first_available: u64,
    /// The last sequence number; 0 if there never was a message. In a cluster the last one that enough replicas have,
    /// which may lag behind what consumers already see.
    pub high_water_mark: u64,
}

impl Client {
    /// Connects with default settings to the first of the [brokers](Brokers) that answers: `host`, `host:port`, several with
    /// commas between, a [`SocketAddr`](std::net::SocketAddr), or a list of either; port 11011 if absent.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub fn connect(brokers: impl Into<Brokers>) -> Result<Client> {
        Client::builder().connect(brokers)
    }

    /// Settings to connect with.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn open(config: Config, brokers: Vec<BrokerAddr>) -> Result<Client> {
        let config = Arc::new(config);
        let shared = Shared {
            pool: Pool::new(config.clone()),
            cluster: Cluster::new(brokers, config.clone()),
            config,
            in_cluster: OnceLock::new(),
            request_id: AtomicU32::new(1),
        };
        shared.any_broker(|_, _| Ok(()))?;
        Ok(Client { shared: Arc::new(shared) })
    }

    /// Begins to read. The first fetches (Consume requests) are under way when this returns, so nothing published afterwards
    /// is missed.
    ///
    /// In a cluster nothing waits for partitions whose leader is gone, but to find out: that may take some two
    /// [connect time-outs](ClientBuilder::connect_timeout), if brokers say nothing at all. They join in when they have a
    /// leader; only a [start](crate::Start::Time) that has to be searched there is waited for, up to
    /// [`retry_timeout`](ClientBuilder::retry_timeout).
    ///
    /// # Errors
    /// [`Error::Config`] for a subscription that cannot work; [`Error::Broker`] for an unknown topic or partition;
    /// otherwise as [`ClientBuilder::connect`].
    pub fn subscribe(&self, what: impl Into<Subscription>) -> Result<ConsumeIter> {
        subscribe(self, what.into())
    }

    /// The number of the first message with this time stamp or a later one; the high-water mark + 1 if there is none.
    ///
    /// Found by bisection, with at most some 64 fetches of a bundle each. That takes time stamps that do not go back. If
    /// they do, the message that is found has such a time stamp and the one before it, if any, does not, but an earlier
    /// one may have one too: ask for a time as much earlier as clocks may differ.
    ///
    /// # Errors
    /// As [`subscribe`](Client::subscribe), and as the items of a [`ConsumeIter`].
    pub fn seq_at(&self, topic: &str, partition: u16, time: SystemTime) -> Result<u64> {
        find_time(self, topic, partition, time)
    }

    /// The partitions of a topic with their first and last sequence numbers: a DiscoverPartitions request to any broker, and in
    /// a cluster to each leader.
    ///
    /// # Errors
    /// [`Error::Broker`] if the topic is unknown, or a partition cannot be opened or has no leader now; otherwise as
    /// [`ClientBuilder::connect`].
    pub fn partitions(&self, topic: &str) -> Result<Vec<PartitionInfo>> {
        check_topic(topic)?;
        let states = self.shared.partition_states(topic)?;
        let info = |(id, state): (usize, &PartitionState)| {
            let id = u16::try_from(id).unwrap_or(u16::MAX);
            match *state {
                PartitionState::Marks { first_available, high_water_mark } => {
                    Ok(PartitionInfo { id, first_available, high_water_mark })
                }
                PartitionState::SystemError => Err(Error::broker(topic, id, Fault::System)),
                PartitionState::NoLeader | PartitionState::Redirect(_) => {
                    Err(Error::broker(topic, id, Fault::NoLeader))
                }
            }
        };
        states.iter().enumerate().map(info).collect()
    }
}

impl Shared {
    pub(crate) fn next_request_id(&self) -> u32 {
        self.request_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Connects to the brokers in turn, the most promising one first, and does something with the first one with which
    /// it works. They share the connect time-out: each gets an even part of what is left. As long as there are others, an
    /// answer is not worth waiting longer for either: the attempt is told for how long it is.
    pub(crate) fn any_broker<R>(&self, attempt: impl Fn(&BrokerAddr, Duration) -> Result<R>) -> Result<R> {
        let brokers = self.cluster.brokers();
        let timeout = self.config.connect_timeout;
        let budget = Deadline::after(timeout);
        // Brokers that were only heard of could keep a caller waiting one after the other.
        let enough = Deadline::after(timeout.saturating_add(self.config.io_timeout));
        let mut failures = Vec::new();
        for (index, addr) in brokers.iter().enumerate() {
            if enough.has_passed() && !self.cluster.is_given(addr) {
                continue;
            }
            // Time spent on an answer that did not come must leave some for the others.
            let least = timeout / brokers.len() as u32;
            let left = brokers.len() - index;
            let share = (budget.left().unwrap_or(timeout) / left as u32).max(least);
            let io_timeout = self.config.io_timeout;
            let patience = if left > 1 { io_timeout.min(share) } else { io_timeout };
            match self.pool.connect(addr, share).and_then(|()| attempt(addr, patience)) {
                Err(e) if e.is_retryable() || matches!(e, Error::Decode { .. }) => {
                    debug!("{addr}: {e}");
                    self.cluster.failed(addr);
                    failures.push((addr.clone(), e));
                }
                done => return done,
            }
        }
        if failures.len() == 1 {
            return Err(failures.remove(0).1);
        }
        let addr = brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        Err(Error::Connect { addr, source: io::Error::other(AllFailed(failures)) })
    }

    /// Asks any broker.
    pub(crate) fn ask<A: Ask>(&self, request: &A) -> Result<A::Answer> {
        self.any_broker(|addr, patience| self.ask_at(addr, request, patience))
    }

    /// Asks this broker, and waits so long for its answer.
    pub(crate) fn ask_at<A: Ask>(&self, addr: &BrokerAddr, request: &A, timeout: Duration) -> Result<A::Answer> {
        let request_id = self.next_request_id();
        let mut frame = Vec::new();
        request.encode(request_id, &mut frame)?;
        let payload = loop {
            match self.pool.exchange(addr, &frame, A::ANSWER, timeout) {
                Ok(payload) => break payload,
                // The connection had ended while idle, only just unnoticed.
                Err(failed) if failed.reused && !failed.error.is_timeout() && failed.error.is_retryable() => {}
                Err(failed) => return Err(failed.error),
            }
        };
        check_request_id(&payload, request_id)?;
        Ok(request.decode(request_id, &payload, &self.config.limits)?)
    }

    /// What is known of each partition of a topic, completed over the leaders that any broker names.
    pub(crate) fn partition_states(&self, topic: &str) -> Result<Vec<PartitionState>> {
        self.states_of(topic, None)
    }

    /// The first number and the high-water mark of one partition, whatever is the matter with the leaders of others.
    ///
    /// # Errors
    /// [`Fault::NoLeader`] also for one that cannot be asked.
    pub(crate) fn marks_of(&self, topic: &str, partition: u16) -> Result<(u64, u64)> {
        let states = self.states_of(topic, Some(partition))?;
        let fault = match states.get(usize::from(partition)) {
            Some(&PartitionState::Marks { first_available, high_water_mark }) => {
                return Ok((first_available, high_water_mark));
            }
            Some(PartitionState::SystemError) => Fault::System,
            Some(PartitionState::Redirect(_) | PartitionState::NoLeader) => Fault::NoLeader,
            None => Fault::UnknownPartition,
        };
        Err(Error::broker(topic, partition, fault))
    }

    /// The states of all partitions; those that any broker cannot tell are asked of their leaders, for all of them or
    /// just for one.
    fn states_of(&self, topic: &str, only: Option<u16>) -> Result<Vec<PartitionState>> {
        let request = PartitionsOf(topic);
        let unknown = || Error::broker(topic, None, Fault::UnknownTopic);
        let (first, states) =
            self.any_broker(|addr, patience| Ok((addr.clone(), self.ask_at(addr, &request, patience)?)))?;
        let mut states = states.ok_or_else(unknown)?;
        let name: Arc<str> = topic.into();
        for (state, id) in states.iter().zip(0..) {
            if matches!(state, PartitionState::Marks { .. }) {
                self.cluster.learn(&name, id, first.clone());
            }
        }
        // A broker may name leaders without end, and those let us wait in turn: they share the time there is to connect.
        let timeout = self.config.connect_timeout;
        let budget = Deadline::after(timeout);
        let most = self.config.limits.nodes as usize;
        let leaders = leaders(wanted(&states, only));
        let count = leaders.len().min(most);
        for (index, leader) in leaders.into_iter().take(most).enumerate() {
            let is_needed = |state: &PartitionState| *state == PartitionState::Redirect(leader);
            if budget.has_passed() {
                break;
            }
            if !states.iter().any(is_needed) {
                continue;
            }
            let Some(addr) = self.cluster.named(leader).map_err(|fault| Error::broker(topic, None, fault))? else {
                continue;
            };
            let share = budget.left().unwrap_or(timeout) / (count - index) as u32;
            let answer = self.pool.connect(&addr, share).and_then(|()| self.ask_at(&addr, &request, share));
            let theirs = match answer {
                Ok(theirs) => theirs.unwrap_or_default(),
                Err(e) => {
                    debug!("{addr}: leader of {topic} cannot be asked: {e}");
                    self.cluster.failed(&addr);
                    continue;
                }
            };
            for ((state, theirs), id) in states.iter_mut().zip(theirs).zip(0..) {
                if !matches!(state, PartitionState::Marks { .. }) && matches!(theirs, PartitionState::Marks { .. }) {
                    self.cluster.learn(&name, id, addr.clone());
                    *state = theirs;
                }
            }
        }
        let is_open = |state: &PartitionState| matches!(state, PartitionState::NoLeader | PartitionState::Redirect(_));
        if wanted(&states, only).any(is_open) {
            self.cluster.knew_no_leader(&first);
        }
        Ok(states)
    }
}

/// Refuses an answer to another request.
pub(crate) fn check_request_id(payload: &[u8], expected: u32) -> std::result::Result<(), DecodeError> {
    let found = frame::request_id(payload)?;
    if found == expected {
        return Ok(());
    }
    let fault = DecodeFault::Unexpected { found: found.into(), expected: expected.into() };
    Err(DecodeError::new("request id", fault, 0))
}

/// The states of all partitions, or of one.
fn wanted(states: &[PartitionState], only: Option<u16>) -> impl Iterator<Item = &PartitionState> {
    let range = only.map_or(0..states.len(), |id| usize::from(id)..usize::from(id) + 1);
    states.get(range).unwrap_or_default().iter()
}

/// The leaders that are named, each once, in that order.
fn leaders<'a>(states: impl Iterator<Item = &'a PartitionState>) -> Vec<SocketAddrV4> {
    let mut known = HashSet::new();
    let named = states.filter_map(|state| match state {
        PartitionState::Redirect(to) => Some(*to),
        _ => None,
    });
    named.filter(|leader| known.insert(*leader)).collect()
}

/// Why none of several brokers would do.
#[derive(Debug)]
struct AllFailed(Vec<(BrokerAddr, Error)>);

impl fmt::Display for AllFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (addr, e)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            match std::error::Error::source(e) {
                Some(source) => write!(f, "{separator}{addr}: {e}: {source}")?,
                None => write!(f, "{separator}{addr}: {e}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for AllFailed {}

/// Asks for the marks of all partitions; `None`: no such topic.
struct PartitionsOf<'a>(&'a str);

impl PartitionsOf<'_> {
    fn request(&self, request_id: u32) -> DiscoverPartitionsRequest {
        // The form that lists partitions can kill a server.
        DiscoverPartitionsRequest { request_id, topic: self.0.to_owned(), partitions: Vec::new() }
    }
}

impl Ask for PartitionsOf<'_> {
    type Answer = Option<Vec<PartitionState>>;
    const ANSWER: Kind = Kind::DiscoverPartitions;

    fn encode(&self, request_id: u32, out: &mut Vec<u8>) -> std::result::Result<(), EncodeError> {
        self.request(request_id).encode(out)
    }

    fn decode(&self, request_id: u32, payload: &[u8], _: &Limits) -> std::result::Result<Self::Answer, DecodeError> {
        let answer = DiscoverPartitionsResponse::decode(payload)?;
        answer.check_answers(&self.request(request_id))?;
        Ok(answer.is_known().then_some(answer.partitions))
    }
}
