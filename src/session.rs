//! What a client, its subscriptions and its producers share, and the one way to send a broker a request that may be repeated.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use log::{debug, warn};

use crate::config::Config;
use crate::error::{Error, Fault, Result};
use crate::net::{
    AddressBook, BrokerAddr, Channel, ChannelSettings, Closed, Event, Fill, LookUp, Network, Openings, Pool, ReadBuf,
    RetryPolicy, RetryState, SocketOptions, Time, wait,
};
use crate::protocol::admin::{DiscoverPartitionsRequest, PartitionState, StatusRequest};
use crate::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic, MAX_PARTITIONS, PartitionAnswer};
use crate::protocol::frame::Kind;
use crate::protocol::frames::{Frame, Frames};
use crate::protocol::request::Request;
use crate::protocol::{DecodeError, DecodeFault};

/// Most answers fit into this many bytes.
const ANSWER: usize = 2 << 10;

/// How often a request is sent again at once if a connection that had been idle ends before its answer begins.
const MOST_STALE: u32 = 3;

/// The longest pause between two looks for a partition's leader, so that its successor is found soon.
const MAX_LEADER_PAUSE: Duration = Duration::from_secs(1);

/// A number beyond the end of every log, but not the one that stands for the end: the answer to that tells no numbers.
const BEYOND_END: u64 = u64::MAX - 1;

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) net: Arc<dyn Network>,
    pub(crate) config: Arc<Config>,
    pub(crate) book: AddressBook,
    pub(crate) pool: Pool,
    /// Whether the brokers form a cluster, once they have said so.
    in_cluster: OnceLock<bool>,
    request_id: AtomicU32,
}

/// How far a failed request had come.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Whether the broker may have the whole request.
    pub(crate) handed_over: bool,
    /// Whether it failed because a connection that had been idle had ended: that says nothing about the broker.
    stale: bool,
    pub(crate) error: Error,
}

/// First available number and high-water mark of a partition: the last number assigned. Both 0 if there never was a message.
pub(crate) type Marks = (u64, u64);

impl Session {
    pub(crate) fn new(config: Config, brokers: Vec<BrokerAddr>, net: Arc<dyn Network>) -> Session {
        let config = Arc::new(config);
        let settings = Arc::new(ChannelSettings {
            net: net.clone(),
            options: SocketOptions {
                keepalive: config.keepalive,
                user_timeout: config.tcp_user_timeout,
                receive_buffer: config.receive_buffer,
                send_buffer: config.send_buffer,
            },
            openings: Openings::default(),
            connect_timeout: config.connect_timeout,
            io_timeout: config.io_timeout,
        });
        Session {
            pool: Pool::new(settings),
            book: AddressBook::new(brokers, config.clone(), &*net),
            config,
            net,
            in_cluster: OnceLock::new(),
            request_id: AtomicU32::new(1),
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.net.now()
    }

    pub(crate) fn next_request_id(&self) -> u32 {
        self.request_id.fetch_add(1, Ordering::Relaxed)
    }

    /// How to try again where brokers are in trouble.
    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        let (timeout, pauses) = (self.config.retry_timeout, self.config.backoff);
        RetryPolicy { timeout, pauses, seed: self.net.random() }
    }

    /// How to try again where a partition has no leader.
    pub(crate) fn leader_policy(&self) -> RetryPolicy {
        let (least, most) = self.config.backoff;
        RetryPolicy { pauses: (least, most.min(MAX_LEADER_PAUSE)), ..self.retry_policy() }
    }

    /// Makes sure that a broker can be reached, trying all of them once, and again until `patience` is over.
    ///
    /// # Errors
    /// No broker can be reached.
    pub(crate) fn connect(&self, patience: Duration) -> Result<()> {
        let policy = RetryPolicy { timeout: patience, ..self.retry_policy() };
        self.retry(&policy, None, |session| session.any_broker(None, |addr, share| session.reach(addr, share)))
    }

    /// Makes sure that there is an idle connection to this broker.
    pub(crate) fn reach(&self, addr: &BrokerAddr, timeout: Duration) -> Result<()> {
        let mut channel = self.pool.take(addr);
        self.bring_up(&mut channel, timeout.min(self.config.connect_timeout), None)?;
        self.pool.put(channel);
        Ok(())
    }

    /// Asks any broker, and tries again within the retry budget.
    pub(crate) fn call<R: Request>(&self, request: &mut R, closed: Option<&Closed>) -> Result<R::Answer> {
        self.retry(&self.retry_policy(), closed, |session| {
            session.any_broker(closed, |addr, patience| session.call_at(addr, request, patience, closed))
        })
    }

    /// Asks one broker something that must not be asked twice: a failure after the whole request was handed over is turned
    /// into an error by `unknown`.
    pub(crate) fn call_once<R: Request>(&self, request: &R, unknown: &dyn Fn(Error) -> Error) -> Result<R::Answer> {
        let id = self.next_request_id();
        let mut request = request.clone();
        request.set_request_id(id);
        self.any_broker(None, |addr, share| {
            let mut channel = self.pool.take(addr);
            self.bring_up(&mut channel, share.min(self.config.connect_timeout), None)?;
            let answer = self.exchange(channel, id, &request, self.config.io_timeout, None);
            answer.map_err(|failed| if failed.handed_over { unknown(failed.error) } else { failed.error })
        })
    }

    /// Tries until it works, the trouble will not pass by itself, or it has lasted too long.
    pub(crate) fn retry<T>(
        &self,
        policy: &RetryPolicy,
        closed: Option<&Closed>,
        mut attempt: impl FnMut(&Session) -> Result<T>,
    ) -> Result<T> {
        let mut state = RetryState::default();
        loop {
            let e = match attempt(self) {
                Err(e) if e.is_transient() => e,
                done => return done,
            };
            let Some(until) = state.retry_or_fail(self.now(), policy) else { return Err(e) };
            warn!("{}, trying again in {:?}", e.chain(), until.since(self.now()));
            self.pause(until, closed)?;
        }
    }

    /// Blocks until this moment.
    ///
    /// # Errors
    /// The handle was closed meanwhile.
    pub(crate) fn pause(&self, until: Time, closed: Option<&Closed>) -> Result<()> {
        while self.now() < until {
            if wait(&*self.net, std::iter::empty(), closed, until)? == Event::Closed {
                return Err(Error::Closed);
            }
        }
        Ok(())
    }

    /// Tries the brokers in turn, the most promising one first, until the attempt works with one. They share the connect
    /// time-out: each gets an even part of what is left. While others remain, waiting longer for an answer is not worth it
    /// either, so the attempt is told its share.
    pub(crate) fn any_broker<T>(
        &self,
        closed: Option<&Closed>,
        mut attempt: impl FnMut(&BrokerAddr, Duration) -> Result<T>,
    ) -> Result<T> {
        let brokers = self.book.brokers();
        let timeout = self.config.connect_timeout;
        let budget = self.now().after(timeout);
        // Brokers that were only named by others could keep a caller waiting one after the other.
        let enough = budget.after(self.config.io_timeout);
        let mut failures = Vec::new();
        for (index, addr) in brokers.iter().enumerate() {
            if closed.is_some_and(Closed::is_closed) {
                return Err(Error::Closed);
            }
            if self.now() >= enough && !self.book.is_given(addr) {
                continue;
            }
            // Time spent on an answer that never came must leave some for the others.
            let least = timeout / brokers.len() as u32;
            let left = brokers.len() - index;
            let share = (budget.since(self.now()) / left as u32).max(least);
            let patience = if left > 1 { share } else { self.config.io_timeout.max(share) };
            match attempt(addr, patience) {
                Err(e) if e.is_transient() => {
                    debug!("{}", e.chain());
                    self.book.failed(addr, self.now());
                    failures.push((addr.clone(), e));
                }
                done => return done,
            }
        }
        if failures.len() == 1 {
            return Err(failures.remove(0).1);
        }
        let addr = brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        Err(Error::connect(&addr, io::Error::other(AllFailed(failures))))
    }

    /// Asks this broker. Connecting, and then waiting for the answer, may take `patience`, but no longer than the settings
    /// say.
    pub(crate) fn call_at<R: Request>(
        &self,
        addr: &BrokerAddr,
        request: &mut R,
        patience: Duration,
        closed: Option<&Closed>,
    ) -> Result<R::Answer> {
        let mut tries = 0;
        loop {
            let id = self.next_request_id();
            request.set_request_id(id);
            let mut channel = self.pool.take(addr);
            self.bring_up(&mut channel, patience.min(self.config.connect_timeout), closed)?;
            tries += 1;
            match self.exchange(channel, id, request, patience.min(self.config.io_timeout), closed) {
                Err(failed) if failed.stale && tries < MOST_STALE => debug!("{}", failed.error.chain()),
                Err(failed) => return Err(failed.error),
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// Opens a connection, blocking.
    pub(crate) fn bring_up(&self, channel: &mut Channel, timeout: Duration, closed: Option<&Closed>) -> Result<()> {
        let mut until = self.now().after(timeout);
        loop {
            let began = self.now();
            self.pool.replace(channel);
            if channel.open(began, LookUp::Allowed)? {
                return Ok(());
            }
            // Looking up a name has a clock of its own.
            until = until.after(self.now().since(began));
            match wait(&*self.net, std::iter::once(&mut *channel), closed, until)? {
                Event::Ready => {}
                Event::Closed => return Err(Error::Closed),
                // One more look: the time may have been spent elsewhere.
                Event::Due if channel.open(self.now(), LookUp::Never)? => return Ok(()),
                Event::Due => return Err(Error::timeout(channel.broker(), channel.phase(), timeout)),
            }
        }
    }

    /// Sends a request on an open connection and waits for its answer, which may take `allowance`.
    pub(crate) fn exchange<R: Request>(
        &self,
        mut channel: Channel,
        id: u32,
        request: &R,
        allowance: Duration,
        closed: Option<&Closed>,
    ) -> std::result::Result<R::Answer, Failed> {
        let reused = !channel.is_fresh();
        let mut frame = Vec::new();
        let encoded = request.put(&mut frame).map_err(Error::from);
        let mut answered = false;
        let answer = encoded.and_then(|()| {
            channel.queue(self.now(), id, allowance, &frame);
            let payload = self.receive(&mut channel, id, R::ANSWER, closed)?;
            answered = true;
            request.read_answer(&payload, &self.config.limits).map_err(|e| Error::decode(channel.broker(), e))
        });
        match answer {
            Ok(answer) => {
                self.pool.put(channel);
                Ok(answer)
            }
            Err(error) => {
                let stale = reused && error.is_connection_lost();
                let handed_over = answered || channel.handed_over(id);
                channel.reset();
                Err(Failed { handed_over, stale, error })
            }
        }
    }

    /// The payload of the next frame, which must be of this kind.
    fn receive(&self, channel: &mut Channel, id: u32, kind: Kind, closed: Option<&Closed>) -> Result<Vec<u8>> {
        let mut frames = Frames::new(self.config.limits.frame);
        let mut buf = ReadBuf::new(ANSWER, ());
        let refused = |channel: &Channel, e| Error::decode(channel.broker(), e);
        loop {
            let now = self.now();
            channel.write(now)?;
            match frames.first(buf.data()).map_err(|e| refused(channel, e))? {
                Frame::Ping(len) => {
                    buf.consume(len);
                    channel.answer_ends(now, None);
                }
                Frame::Whole(found, payload) => {
                    let (end, all) = (payload.end, buf.data());
                    if found != kind {
                        let e = DecodeError::unexpected("message id", found as u64, kind as u64, 0);
                        return Err(refused(channel, e));
                    }
                    if all.len() > end {
                        let fault = DecodeFault::Spare { extra: (all.len() - end) as u64 };
                        return Err(refused(channel, DecodeError::new("answer", fault, payload.len() as u64)));
                    }
                    channel.answer_ends(now, Some(id));
                    return Ok(all[payload].to_vec());
                }
                Frame::Need(need) => {
                    if !buf.data().is_empty() {
                        channel.answer_begins(now);
                    }
                    match channel.read(now, buf.room(need))? {
                        Fill::Bytes(n) => buf.filled(n),
                        Fill::End => return Err(Error::disconnected(channel.broker(), channel.phase())),
                        Fill::Later => {
                            if let Some(e) = channel.overdue(now) {
                                return Err(e);
                            }
                            if wait(&*self.net, std::iter::once(&mut *channel), closed, Time::NEVER)? == Event::Closed {
                                return Err(Error::Closed);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether the brokers form a cluster; also, to be safe, if they do not say.
    pub(crate) fn is_cluster(&self) -> bool {
        if let Some(&known) = self.in_cluster.get() {
            return known;
        }
        match self.call(&mut StatusRequest { request_id: 0 }, None) {
            Ok(answer) => *self.in_cluster.get_or_init(|| answer.cluster.is_some()),
            Err(e) => {
                debug!("taken for a cluster: {}", e.chain());
                true
            }
        }
    }

    /// Asks any broker for the partitions of a topic, and notes who leads which. In a cluster the numbers in its answer are not
    /// the ends of logs: see [`log_ends`](Session::log_ends).
    pub(crate) fn discover(&self, topic: &str, closed: Option<&Closed>) -> Result<Vec<PartitionState>> {
        // The form that lists partitions can kill a server.
        let mut request = DiscoverPartitionsRequest { request_id: 0, topic: topic.to_owned(), partitions: Vec::new() };
        let (from, states) = self.retry(&self.retry_policy(), closed, |session| {
            session.any_broker(closed, |addr, patience| {
                Ok((addr.clone(), session.call_at(addr, &mut request, patience, closed)?))
            })
        })?;
        let states = states.ok_or_else(|| Error::broker(topic, None, Fault::UnknownTopic))?;
        let (name, now): (Arc<str>, _) = (topic.into(), self.now());
        for (state, id) in states.iter().zip(0..) {
            match state {
                PartitionState::Marks { .. } => self.book.learn(&name, id, from.clone(), now),
                PartitionState::Redirect(endpoint) => {
                    if let Some(leader) = self.book.named(*endpoint).ok().flatten() {
                        self.book.learn(&name, id, leader, now);
                    }
                }
                PartitionState::SystemError | PartitionState::NoLeader => {}
            }
        }
        Ok(states)
    }

    /// First number and end of one partition's log, from its leader.
    pub(crate) fn log_end(&self, topic: &str, partition: u16, closed: Option<&Closed>) -> Result<Marks> {
        let found = self.log_ends(topic, &[partition], &self.leader_policy(), closed)?.pop();
        found.unwrap_or_else(|| Err(Error::broker(topic, partition, Fault::UnknownPartition)))
    }

    /// First number and end of the logs of these partitions, from their leaders: the boundary fault of a Consume for a number
    /// beyond every end, the only answer that tells the end of a leader's own log (reference, section 6.5). One result for
    /// each partition, once it is known or the budget for trying again is spent.
    pub(crate) fn log_ends(
        &self,
        topic: &str,
        ids: &[u16],
        policy: &RetryPolicy,
        closed: Option<&Closed>,
    ) -> Result<Vec<Result<Marks>>> {
        let name: Arc<str> = topic.into();
        let no_leader = |&id: &u16| Err(Error::broker(topic, id, Fault::NoLeader));
        let mut found: Vec<Result<Marks>> = ids.iter().map(no_leader).collect();
        let mut open: Vec<usize> = (0..ids.len()).collect();
        let mut state = RetryState::default();
        for round in 0.. {
            self.ask_leaders(&name, ids, &open, &mut found, closed)?;
            open.retain(|&index| found[index].as_ref().is_err_and(Error::is_transient));
            let now = self.now();
            // The first redirect is how leaders are found; after a second one the cluster needs time to settle.
            let until =
                match round == 0 && open.iter().all(|&index| found[index].as_ref().is_err_and(Error::is_redirect)) {
                    true => state.retry_at_once(now, policy).then_some(now),
                    false => state.retry_or_fail(now, policy),
                };
            match until.filter(|_| !open.is_empty()) {
                Some(until) => self.pause(until, closed)?,
                None => break,
            }
        }
        Ok(found)
    }

    /// Asks the leaders of these partitions once, as far as they are known, each for all that it leads.
    fn ask_leaders(
        &self,
        topic: &Arc<str>,
        ids: &[u16],
        open: &[usize],
        found: &mut [Result<Marks>],
        closed: Option<&Closed>,
    ) -> Result<()> {
        let mut at_leaders: Vec<(BrokerAddr, Vec<usize>)> = Vec::new();
        for &index in open {
            let leader = self.book.broker_for(topic, ids[index]);
            match at_leaders.iter_mut().find(|(addr, list)| *addr == leader && list.len() < MAX_PARTITIONS) {
                Some((_, list)) => list.push(index),
                None => at_leaders.push((leader, vec![index])),
            }
        }
        // A broker may name any number of leaders, each of which may keep a caller waiting: they share the time.
        at_leaders.truncate(self.config.limits.nodes as usize);
        let until = self.now().after(self.config.connect_timeout);
        for (left, (leader, list)) in (1..=at_leaders.len() as u32).rev().zip(&at_leaders) {
            if self.now() >= until {
                break;
            }
            let share = (until.since(self.now()) / left).max(self.config.connect_timeout / 8);
            let patience = if left > 1 { share } else { self.config.io_timeout };
            match self.ask_log_ends(leader, topic, ids, list, patience, closed) {
                Ok(answers) => list.iter().zip(answers).for_each(|(&index, end)| found[index] = end),
                Err(Error::Closed) => return Err(Error::Closed),
                Err(e) => {
                    self.book.failed(leader, self.now());
                    list.iter().for_each(|&index| found[index] = Err(e.clone()));
                }
            }
        }
        Ok(())
    }

    /// Asks one broker for the ends of some of the logs.
    fn ask_log_ends(
        &self,
        leader: &BrokerAddr,
        topic: &Arc<str>,
        ids: &[u16],
        list: &[usize],
        patience: Duration,
        closed: Option<&Closed>,
    ) -> Result<Vec<Result<Marks>>> {
        let mut request = self.end_request(topic, list.iter().map(|&index| ids[index]));
        let answers = self.call_at(leader, &mut request, patience, closed)?;
        let end = |(&index, answer): (&usize, PartitionAnswer)| {
            let (id, now) = (ids[index], self.now());
            let end = match answer {
                PartitionAnswer::OutOfRange { high_water_mark, first_available } => {
                    self.book.learn(topic, id, leader.clone(), now);
                    Ok((first_available, high_water_mark))
                }
                // No message has such a number.
                PartitionAnswer::Data { base, high_water_mark, .. } => Ok((base.unwrap_or(0), high_water_mark)),
                PartitionAnswer::Redirect(endpoint) => Err(match self.book.named(endpoint) {
                    Ok(Some(to)) => {
                        self.book.learn(topic, id, to, now);
                        Fault::Redirects { hops: 1, last: endpoint }
                    }
                    Ok(None) => self.no_leader(leader, topic, id, now),
                    Err(refused) => refused,
                }),
                PartitionAnswer::NoLeader => Err(self.no_leader(leader, topic, id, now)),
                PartitionAnswer::SystemError => Err(Fault::System),
                PartitionAnswer::UnknownPartition => Err(Fault::UnknownPartition),
                PartitionAnswer::UnknownTopic => Err(Fault::UnknownTopic),
            };
            end.map_err(|fault| Error::broker(topic, id, fault))
        };
        Ok(list.iter().zip(answers).map(end).collect())
    }

    /// Asks for the ends of these partitions' logs.
    pub(crate) fn end_request(&self, topic: &Arc<str>, ids: impl Iterator<Item = u16>) -> FetchRequest {
        let wanted = |partition| FetchPartition { partition, seq: BEYOND_END, fetch_size: 1 };
        FetchRequest {
            client_version: 2,
            request_id: 0,
            client_id: self.config.client_id.clone(),
            max_wait_ms: 0,
            min_bytes: 0,
            flags: 0,
            topics: vec![FetchTopic { name: topic.clone(), partitions: ids.map(wanted).collect() }],
        }
    }

    fn no_leader(&self, from: &BrokerAddr, topic: &str, partition: u16, now: Time) -> Fault {
        self.book.forget(topic, partition);
        self.book.knew_no_leader(from, now);
        Fault::NoLeader
    }
}

/// Why each of several brokers failed.
#[derive(Debug)]
struct AllFailed(Vec<(BrokerAddr, Error)>);

impl fmt::Display for AllFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (_, e)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}", e.chain())?;
        }
        Ok(())
    }
}

impl std::error::Error for AllFailed {}
