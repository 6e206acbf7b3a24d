//! What a client, its subscriptions and its producers share, and the one way to send a broker a request that may be repeated.

mod leaders;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{io, iter, mem};

use log::{debug, warn};

pub(crate) use self::leaders::{Discovered, marks_of_answer, marks_of_state, partition_count};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Phase, Result, rounded_up_to_ms};
use crate::net::{
    AddressBook, AnswerReader, BrokerAddr, Channel, ChannelSettings, Closed, LookUp, Network, Pool, RetryPolicy,
    RetryState, Time, wait,
};
use crate::protocol::admin::StatusRequest;
use crate::protocol::frame::{Kind, PING};
use crate::protocol::request::Request;
use crate::protocol::{DecodeError, DecodeFault};

/// Tries once.
pub(crate) const ONCE: RetryPolicy =
    RetryPolicy { timeout: Duration::ZERO, pauses: (Duration::ZERO, Duration::ZERO), seed: 0 };

/// The longest pause between two looks for a partition's leader, so that its successor is found soon.
const MAX_LEADER_PAUSE: Duration = Duration::from_secs(1);

/// The settings, addresses and idle connections of a client, with which it asks brokers.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) net: Arc<dyn Network>,
    pub(crate) config: Arc<Config>,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) pool: Arc<Pool>,
    /// Ends whatever waits.
    pub(crate) closed: Option<Arc<Closed>>,
    /// Whether the brokers form a cluster, once they have said so.
    in_cluster: Arc<OnceLock<bool>>,
    request_id: Arc<AtomicU32>,
}

/// A request as it is sent.
struct EncodedRequest<'a> {
    id: u32,
    kind: Kind,
    frame: Arc<Vec<u8>>,
    /// The topic it is about, if it must not be sent twice: its outcome is unknown if it fails once the broker may have it.
    unrepeatable: Option<&'a str>,
    /// Reads the payload of the answer. Until that has succeeded, the connection must not be used for anything else.
    read: &'a mut dyn FnMut(&[u8]) -> Result<(), DecodeError>,
}

impl EncodedRequest<'_> {
    /// Reads the answer, which must be of the request's kind, and followed by nothing but pings.
    fn read_answer(&mut self, kind: Kind, payload: &[u8], rest: &[u8]) -> Result<(), DecodeError> {
        if kind != self.kind {
            return Err(DecodeError::unexpected("message id", kind as u64, self.kind as u64, 0));
        }
        if !rest.chunks(PING.len()).all(|ping| PING.starts_with(ping)) {
            let extra = DecodeFault::Spare { extra: rest.len() as u64 };
            return Err(DecodeError::new("answer", extra, payload.len() as u64));
        }
        (self.read)(payload)
    }
}

/// An attempt at one broker, within its share of the time. Returns which broker answered: perhaps one that was tried before.
type TryBroker<'a> = &'a mut dyn FnMut(&BrokerAddr, &mut Share) -> Result<BrokerAddr>;

/// A way to ask: which broker, and how often. Returns which broker answered.
type Ask<'a> = &'a mut dyn FnMut(&mut EncodedRequest<'_>) -> Result<BrokerAddr>;

/// Which broker answered, and what.
type Answered<R> = Result<(BrokerAddr, <R as Request>::Answer)>;

/// When the connection to a broker must be open, and how long the broker may take to answer.
struct Share {
    until: Time,
    answer: Duration,
    /// Connections that were not open in time, to brokers tried before. The first one that opens is used: on a slow line no broker
    /// may greet within its share.
    late: Vec<Channel>,
}

/// The two ends of a partition's log. Both are 0 if there never was a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) first_available: u64,
    /// The last number assigned.
    pub(crate) high_water_mark: u64,
}

impl Session {
    pub(crate) fn new(config: Config, brokers: Vec<BrokerAddr>, net: Arc<dyn Network>) -> Session {
        let config = Arc::new(config);
        let settings = Arc::new(ChannelSettings::new(net.clone(), config.clone()));
        Session {
            book: Arc::new(AddressBook::new(brokers, settings.clone())),
            pool: Arc::new(Pool::new(settings)),
            closed: None,
            config,
            net,
            in_cluster: Arc::default(),
            request_id: Arc::new(AtomicU32::new(1)),
        }
    }

    /// Returns the same session with waits that this handle ends.
    pub(crate) fn closed_by(&self, closed: &Arc<Closed>) -> Session {
        Session { closed: Some(closed.clone()), ..self.clone() }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.as_deref().is_some_and(Closed::is_closed)
    }

    pub(crate) fn now(&self) -> Time {
        self.net.now()
    }

    pub(crate) fn next_request_id(&self) -> u32 {
        self.request_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns how to try again where brokers are in trouble.
    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy { timeout: self.config.retry_timeout, pauses: self.config.backoff, seed: self.net.random() }
    }

    /// Returns how to try again where a partition has no leader.
    pub(crate) fn leader_policy(&self) -> RetryPolicy {
        let (least, most) = self.config.backoff;
        RetryPolicy { pauses: (least.min(MAX_LEADER_PAUSE), most.min(MAX_LEADER_PAUSE)), ..self.retry_policy() }
    }

    /// Makes sure that a broker can be reached. Tries all of them once, and again until `patience` is over.
    ///
    /// # Errors
    /// No broker can be reached.
    pub(crate) fn connect(&self, patience: Duration) -> Result<()> {
        let policy = RetryPolicy { timeout: patience, ..self.retry_policy() };
        self.any_broker(&policy, &mut |addr, share| self.ensure_connection(addr, share)).map(drop)
    }

    /// Makes sure that there is an idle connection to this broker.
    fn ensure_connection(&self, addr: &BrokerAddr, share: &mut Share) -> Result<BrokerAddr> {
        Ok(self.return_to_pool(self.open(addr, share)?))
    }

    fn return_to_pool(&self, channel: Channel) -> BrokerAddr {
        let addr = channel.broker().clone();
        self.pool.put(channel);
        addr
    }

    /// Asks any broker, and tries again within the retry budget. Returns also which one answered.
    pub(crate) fn call<R: Request>(&self, request: &mut R) -> Answered<R> {
        self.call_any(request, None, &self.retry_policy())
    }

    /// Asks any broker, without a second try. The outcome of a failure is unknown once the broker may have the whole request, which
    /// is about this topic.
    pub(crate) fn call_unrepeatable<R: Request>(&self, request: &mut R, topic: &str) -> Answered<R> {
        self.call_any(request, Some(topic), &ONCE)
    }

    fn call_any<R: Request>(&self, request: &mut R, unrepeatable: Option<&str>, policy: &RetryPolicy) -> Answered<R> {
        self.call_with(request, unrepeatable, &mut |request| {
            self.any_broker(policy, &mut |addr, share| self.ask(addr, request, share))
        })
    }

    /// Encodes a request, asks as `ask` does, and reads the answer. Returns also which broker answered.
    fn call_with<R: Request>(&self, request: &mut R, unrepeatable: Option<&str>, ask: Ask<'_>) -> Answered<R> {
        let id = self.next_request_id();
        request.set_request_id(id);
        let mut frame = Vec::new();
        request.encode(&mut frame).map_err(Error::encode)?;
        let mut answer = None;
        let mut read = |payload: &[u8]| {
            answer = Some(request.read_answer(payload, &self.config.limits)?);
            Ok(())
        };
        let frame = Arc::new(frame);
        let from = ask(&mut EncodedRequest { id, kind: R::KIND, frame, unrepeatable, read: &mut read })?;
        let answer = answer.ok_or_else(|| Error::disconnected(&from, Phase::Wait))?;
        Ok((from, answer))
    }

    /// Blocks until this moment.
    ///
    /// # Errors
    /// The handle was closed meanwhile.
    pub(crate) fn pause(&self, until: Time) -> Result<()> {
        while self.now() < until {
            self.wait(&mut iter::empty(), until)?;
        }
        Ok(())
    }

    /// Blocks until a channel has something to do or this moment has come. Returns whether the moment has come.
    ///
    /// # Errors
    /// The handle was closed meanwhile, or the system cannot wait.
    pub(crate) fn wait(&self, on: &mut dyn Iterator<Item = &mut Channel>, until: Time) -> Result<bool> {
        let is_due = wait(&*self.net, on, self.closed.as_deref(), until)?;
        if self.is_closed() { Err(Error::new(ErrorKind::Closed)) } else { Ok(is_due) }
    }

    /// Tries the brokers in turn, the most promising one first, until an attempt succeeds, fails in a way that waiting cannot
    /// mend, or the trouble has lasted too long.
    fn any_broker(&self, policy: &RetryPolicy, attempt: TryBroker<'_>) -> Result<BrokerAddr> {
        let mut state = RetryState::default();
        loop {
            let e = match self.each_broker(attempt) {
                Err(e) if e.is_transient() => e,
                done => return done,
            };
            let now = self.now();
            let Some(until) = state.retry_or_fail(now, policy) else { return Err(e) };
            warn!("{e:#}, trying again in {:?}", rounded_up_to_ms(until.since(now)));
            self.pause(until)?;
        }
    }

    fn each_broker(&self, attempt: TryBroker<'_>) -> Result<BrokerAddr> {
        let brokers = self.book.brokers();
        let budget = self.now().after(self.config.connect_timeout);
        // Brokers that only others have named could keep a caller waiting one after the other.
        let enough = budget.after(self.config.io_timeout);
        let mut failures = Vec::new();
        let mut late = Vec::new();
        for (index, addr) in brokers.iter().enumerate() {
            if self.is_closed() {
                return Err(Error::new(ErrorKind::Closed));
            }
            if self.now() >= enough && !self.book.is_configured(addr) {
                continue;
            }
            let mut share = Share { late, ..self.share(budget, brokers.len() - index, brokers.len()) };
            let done = attempt(addr, &mut share);
            late = share.late;
            match done {
                Err(e) if e.is_transient() => {
                    debug!("{e:#}");
                    self.book.demote_failed(addr, self.now());
                    failures.push(e);
                }
                done => return done,
            }
        }
        if failures.len() == 1 {
            return Err(failures.remove(0));
        }
        let addr = brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let causes = failures.iter().map(|e| format!("{e:#}")).collect::<Vec<_>>().join("; ");
        // The same trouble at all of them is told as that of one.
        let mut kinds = failures.iter().map(Error::io_kind);
        let kind = kinds.next().filter(|first| kinds.all(|kind| kind == *first)).unwrap_or(io::ErrorKind::Other);
        Err(Error::connect(&addr, io::Error::new(kind, causes)))
    }

    /// Divides the time until the `budget` ends evenly among the brokers that are `left`, but gives the next one at least
    /// `connect_timeout / parts`: time spent on an answer that never came must leave some for the others. While others remain, the
    /// share limits the wait for an answer, too.
    fn share(&self, budget: Time, left: usize, parts: usize) -> Share {
        let now = self.now();
        let least = self.config.connect_timeout / parts as u32;
        let share = (budget.since(now) / left as u32).max(least);
        let answer = if left == 1 { self.config.io_timeout } else { share.min(self.config.io_timeout) };
        Share { until: now.after(share), answer, late: Vec::new() }
    }

    /// Opens a connection to this broker, or takes an idle one, unless one of those that are late opens first.
    fn open(&self, addr: &BrokerAddr, share: &mut Share) -> Result<Channel> {
        let mut channel = self.pool.take(addr);
        let timeout = share.until.since(self.now());
        let mut look_up = LookUp::Allowed;
        loop {
            let began = self.now();
            self.pool.replace(&mut channel);
            if channel.open(began, look_up)? {
                return Ok(channel);
            }
            // Looking up a name has a clock of its own.
            share.until = share.until.after(self.now().since(began));
            share.late.retain_mut(|late| late.open(began, LookUp::Never).is_ok());
            if let Some(open) = share.late.iter_mut().find(|late| late.is_up()) {
                return Ok(mem::replace(open, channel));
            }
            if look_up == LookUp::Never {
                let e = Error::timeout(addr, channel.phase(), timeout);
                share.late.push(channel);
                return Err(e);
            }
            if self.wait(&mut iter::once(&mut channel).chain(&mut share.late), share.until)? {
                // One more look: the time may have been spent elsewhere.
                look_up = LookUp::Never;
            }
        }
    }

    /// Asks this broker. Connecting may take the broker's share of the time, and so may the answer, unless no other broker can be
    /// asked; a request that must not be sent twice waits as long as the settings allow. If a connection that had been idle ends
    /// before its answer begins, that says nothing about the broker, which is asked again at once on another connection.
    fn ask(&self, addr: &BrokerAddr, request: &mut EncodedRequest<'_>, share: &mut Share) -> Result<BrokerAddr> {
        let allowance = if request.unrepeatable.is_some() { self.config.io_timeout } else { share.answer };
        loop {
            let mut channel = self.open(addr, share)?;
            let reused = !channel.is_fresh();
            let Err(e) = self.exchange(&mut channel, request, allowance) else {
                return Ok(self.return_to_pool(channel));
            };
            let handed_over = channel.handed_over(request.id);
            channel.reset();
            if e.is_transient() {
                // The network below the others may be gone as well.
                self.pool.forget(channel.broker());
            }
            match request.unrepeatable {
                Some(topic) if handed_over => return Err(Error::unknown(topic, None, e)),
                _ if reused && e.is_connection_lost() && self.now() < share.until => debug!("{e:#}"),
                _ => return Err(e),
            }
        }
    }

    /// Sends a request and waits for its answer, which is the next frame that is no ping.
    fn exchange(&self, channel: &mut Channel, request: &mut EncodedRequest<'_>, allowance: Duration) -> Result<()> {
        let mut answers = AnswerReader::new(self.config.limits.frame);
        let frame = (request.frame.clone(), 0..request.frame.len());
        channel.queue_pieces(self.now(), request.id, allowance, &mut iter::once(frame));
        loop {
            let now = self.now();
            channel.write(now)?;
            if let Some((kind, payload)) = answers.next(channel, now)? {
                let (answer, rest) = answers.data().split_at(payload.end);
                let read = request.read_answer(kind, &answer[payload], rest);
                read.map_err(|e| Error::decode(e).at(channel.broker()))?;
                channel.on_answer_end(now, request.id);
                if rest.len() % PING.len() > 0 {
                    // Whoever used it next would find the end of a ping there.
                    channel.close();
                }
                return Ok(());
            }
            self.wait(&mut iter::once(&mut *channel), Time::NEVER)?;
        }
    }

    /// Measures how long a broker takes to answer the smallest request, on a connection that is already open.
    pub(crate) fn ping(&self) -> Result<Duration> {
        let mut began = Time::ZERO;
        self.call_with(&mut StatusRequest { request_id: 0 }, None, &mut |request| {
            self.any_broker(&ONCE, &mut |addr, share| {
                // Opening a connection does not count.
                let addr = self.ensure_connection(addr, share)?;
                began = self.now();
                self.ask(&addr, request, share)
            })
        })?;
        Ok(self.now().since(began))
    }

    /// Returns whether the brokers form a cluster. To be safe, also true if they do not say at once: the caller then retries on
    /// its own budget.
    pub(crate) fn is_cluster(&self) -> bool {
        if let Some(&known) = self.in_cluster.get() {
            return known;
        }
        match self.call_any(&mut StatusRequest { request_id: 0 }, None, &ONCE) {
            Ok((_, answer)) => *self.in_cluster.get_or_init(|| answer.cluster.is_some()),
            Err(e) => {
                debug!("taken for a cluster: {e:#}");
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
