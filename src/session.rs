//! What a client, its subscriptions and its producers share, and the one way to send a broker a request that may be repeated.

mod leaders;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use log::{debug, warn};

pub(crate) use self::leaders::{marks_of_answer, marks_of_state};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::net::{
    AddressBook, AnswerReader, BrokerAddr, Channel, ChannelSettings, Closed, LookUp, Network, Pool, RetryPolicy,
    RetryState, Time, wait,
};
use crate::protocol::admin::StatusRequest;
use crate::protocol::frame::Kind;
use crate::protocol::request::Request;
use crate::protocol::{DecodeError, DecodeFault};

/// How often a request is sent again at once if a connection that had been idle ends before its answer begins.
const MOST_STALE: u32 = 3;

/// The longest pause between two looks for a partition's leader, so that its successor is found soon.
const MAX_LEADER_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Clone)]
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

/// How far a failed request had come.
#[derive(Debug)]
struct Failed {
    /// Whether the broker may have the whole request.
    handed_over: bool,
    /// Whether it failed because a connection that had been idle had ended: that says nothing about the broker.
    stale: bool,
    error: Error,
}

/// First available number and high-water mark of a partition: the last number assigned. Both 0 if there never was a message.
pub(crate) type Marks = (u64, u64);

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

    /// The same session, whose waits this handle ends.
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
        self.retry(&policy, |session| session.any_broker(|addr, share| session.reach(addr, share)))
    }

    /// Makes sure that there is an idle connection to this broker.
    pub(crate) fn reach(&self, addr: &BrokerAddr, timeout: Duration) -> Result<()> {
        let mut channel = self.pool.take(addr);
        self.bring_up(&mut channel, timeout.min(self.config.connect_timeout))?;
        self.pool.put(channel);
        Ok(())
    }

    /// Asks any broker, and tries again within the retry budget. Returns also which one answered.
    pub(crate) fn call<R: Request>(&self, request: &mut R) -> Result<(BrokerAddr, R::Answer)> {
        self.retry(&self.retry_policy(), |session| {
            session.any_broker(|addr, patience| Ok((addr.clone(), session.call_at(addr, request, patience)?)))
        })
    }

    /// Asks one broker something that must not be asked twice: a failure after the whole request was handed over is turned
    /// into an error by `unknown`.
    pub(crate) fn call_once<R: Request>(
        &self,
        request: &R,
        unknown: &dyn Fn(Error) -> Error,
    ) -> Result<(BrokerAddr, R::Answer)> {
        self.any_broker(|addr, share| {
            let answer = self.exchange(addr, &mut request.clone(), share, self.config.io_timeout);
            let lost = |failed: Failed| if failed.handed_over { unknown(failed.error) } else { failed.error };
            Ok((addr.clone(), answer.map_err(lost)?))
        })
    }

    /// Tries until it works, the trouble will not pass by itself, or it has lasted too long.
    pub(crate) fn retry<T>(&self, policy: &RetryPolicy, mut attempt: impl FnMut(&Session) -> Result<T>) -> Result<T> {
        let mut state = RetryState::default();
        loop {
            let e = match attempt(self) {
                Err(e) if e.is_transient() => e,
                done => return done,
            };
            let Some(until) = state.retry_or_fail(self.now(), policy) else { return Err(e) };
            warn!("{e:#}, trying again in {:?}", until.since(self.now()));
            self.pause(until)?;
        }
    }

    /// Blocks until this moment.
    ///
    /// # Errors
    /// The handle was closed meanwhile.
    pub(crate) fn pause(&self, until: Time) -> Result<()> {
        while self.now() < until {
            self.wait(std::iter::empty(), until)?;
        }
        Ok(())
    }

    /// Blocks until a channel has something to do or this moment has come; returns whether it has.
    ///
    /// # Errors
    /// The handle was closed meanwhile, or the system cannot wait.
    pub(crate) fn wait<'a>(&self, channels: impl Iterator<Item = &'a mut Channel>, until: Time) -> Result<bool> {
        let is_due = wait(&*self.net, channels, self.closed.as_deref(), until)?;
        if self.is_closed() { Err(Error::new(ErrorKind::Closed)) } else { Ok(is_due) }
    }

    /// Tries the brokers in turn, the most promising one first, until the attempt works with one. They share the connect
    /// time-out: each gets an even part of what is left. While others remain, waiting longer for an answer is not worth it
    /// either, so the attempt is told its share.
    pub(crate) fn any_broker<T>(&self, mut attempt: impl FnMut(&BrokerAddr, Duration) -> Result<T>) -> Result<T> {
        let brokers = self.book.brokers();
        let timeout = self.config.connect_timeout;
        let budget = self.now().after(timeout);
        // Brokers that were only named by others could keep a caller waiting one after the other.
        let enough = budget.after(self.config.io_timeout);
        let mut failures = Vec::new();
        for (index, addr) in brokers.iter().enumerate() {
            if self.is_closed() {
                return Err(Error::new(ErrorKind::Closed));
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
                    debug!("{e:#}");
                    self.book.failed(addr, self.now());
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
        Err(Error::connect(&addr, io::Error::other(causes)))
    }

    /// Asks this broker. Connecting, and then waiting for the answer, may take `patience`, but no longer than the settings
    /// say.
    pub(crate) fn call_at<R: Request>(
        &self,
        addr: &BrokerAddr,
        request: &mut R,
        patience: Duration,
    ) -> Result<R::Answer> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.exchange(addr, request, patience, patience.min(self.config.io_timeout)) {
                Err(failed) if failed.stale && tries < MOST_STALE => debug!("{:#}", failed.error),
                answer => return answer.map_err(|failed| failed.error),
            }
        }
    }

    /// Opens a connection, blocking.
    fn bring_up(&self, channel: &mut Channel, timeout: Duration) -> Result<()> {
        let mut until = self.now().after(timeout);
        loop {
            let began = self.now();
            self.pool.replace(channel);
            if channel.open(began, LookUp::Allowed)? {
                return Ok(());
            }
            // Looking up a name has a clock of its own.
            until = until.after(self.now().since(began));
            let is_due = self.wait(std::iter::once(&mut *channel), until)?;
            // One more look: the time may have been spent elsewhere.
            if is_due && !channel.open(self.now(), LookUp::Never)? {
                return Err(Error::timeout(channel.broker(), channel.phase(), timeout));
            }
        }
    }

    /// Sends a request to this broker and waits for its answer. Connecting may take `patience`, but no longer than the settings
    /// say, and the answer `allowance`.
    fn exchange<R: Request>(
        &self,
        addr: &BrokerAddr,
        request: &mut R,
        patience: Duration,
        allowance: Duration,
    ) -> Result<R::Answer, Failed> {
        let id = self.next_request_id();
        request.set_request_id(id);
        let mut channel = self.pool.take(addr);
        let opened = self.bring_up(&mut channel, patience.min(self.config.connect_timeout));
        let (reused, mut answered) = (!channel.is_fresh(), false);
        let answer = opened.and_then(|()| {
            channel.queue(self.now(), id, allowance, |out| request.encode(out)).map_err(Error::encode)?;
            let payload = self.receive(&mut channel, id, R::KIND)?;
            answered = true;
            request.read_answer(&payload, &self.config.limits).map_err(|e| Error::decode(addr, e))
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
                if error.is_timeout() {
                    self.pool.forget(addr);
                }
                Err(Failed { handed_over, stale, error })
            }
        }
    }

    /// The payload of the next frame, which must be of this kind, and the only one.
    fn receive(&self, channel: &mut Channel, id: u32, kind: Kind) -> Result<Vec<u8>> {
        let mut answers = AnswerReader::new(self.config.limits.frame);
        loop {
            let now = self.now();
            channel.write(now)?;
            if let Some((found, payload)) = answers.next(channel, now)? {
                let extra = answers.data().len() - payload.end;
                let malformed = if found != kind {
                    DecodeError::unexpected("message id", found as u64, kind as u64, 0)
                } else if extra > 0 {
                    DecodeError::new("answer", DecodeFault::Spare { extra: extra as u64 }, payload.len() as u64)
                } else {
                    channel.answer_ends(now, Some(id));
                    return Ok(answers.data()[payload].to_vec());
                };
                return Err(Error::decode(channel.broker(), malformed));
            }
            self.wait(std::iter::once(&mut *channel), Time::NEVER)?;
        }
    }

    /// Whether the brokers form a cluster; also, to be safe, if they do not say at once: whoever asks has trouble of his own to
    /// spend the retry budget on.
    pub(crate) fn is_cluster(&self) -> bool {
        if let Some(&known) = self.in_cluster.get() {
            return known;
        }
        let mut request = StatusRequest { request_id: 0 };
        match self.any_broker(|addr, patience| self.call_at(addr, &mut request, patience)) {
            Ok(answer) => *self.in_cluster.get_or_init(|| answer.cluster.is_some()),
            Err(e) => {
                debug!("taken for a cluster: {e:#}");
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
