//! [`Fetcher`]: one leader of a subscription, with its connection, its decoder and the fetches in flight.
//!
//! ```text
//!   wanted ──ask()──> in flight ──step(): an answer begins──> current ──step(): it ends──> finished
//!      ^                  └───────────────┬──────────────────────┘
//!      └── the shell, once it is due <── lose(): the connection failed
//! ```

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use log::trace;

use super::inbox::Inbox;
use super::partition::{Lookahead, Lost};
use super::partitions::{AnswerSummary, OnTheWay, Partitions, Request, Told};
use crate::error::{Error, Result};
use crate::message::{JOINED, TopicPartitions};
use crate::net::{BrokerAddr, Channel, Fill, LookUp, ReadBuf, RetryPolicy, RetryState, Time};
use crate::protocol::fetch::{
    FLAG_PREFER_LOCAL, FetchPartition, FetchRequest, FetchTopic, PartitionAnswer, WAIT_SLACK_MS, adjusted_wait_ms,
};
use crate::protocol::stream::{Event, FetchDecoder, Step};
use crate::session::Session;

/// Bytes of the read buffer at rest: room for many bundles of the usual sizes, because a partial last one is moved to the
/// front, yet small enough for a core's cache.
const READ_BUFFER: usize = 512 << 10;

/// Brokers that are asked to wait for data wait longer than this.
const SOON: Duration = Duration::from_millis(50);

/// How long it may take to learn that a connection had ended before it was used again.
const JUST_REVIVED: Duration = Duration::from_secs(1);

/// A connection that has brought a byte this recently is alive.
const ALIVE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Fetcher {
    channel: Channel,
    decoder: FetchDecoder,
    buf: ReadBuf<TopicPartitions>,
    /// The partitions to be asked for here.
    pub(super) wanted: VecDeque<usize>,
    in_flight: HashMap<u32, InFlight>,
    /// How many partitions of them are wanted at or below their mark, and how many may have ended a connection.
    behind: usize,
    suspects: usize,
    /// The fetch whose answer is being read.
    current: Option<InFlight>,
    /// How many more bytes the decoder needs before it can continue.
    need: usize,
    /// Failed attempts to connect and lost connections since the last answer.
    retry: RetryState,
    /// Since a fetch on a connection that had been idle, while nothing has come back.
    revived: Option<Time>,
    last_byte: Time,
    /// Bytes received on the connection that the statistics have already.
    counted: u64,
}

/// A fetch on its way: the subscription's partitions, by slot.
#[derive(Debug)]
struct InFlight {
    request_id: u32,
    partitions: Vec<usize>,
    max_wait_ms: u64,
    sent: Time,
    /// How many of them are wanted at or below their mark, and how many may have ended a connection.
    behind: usize,
    suspects: usize,
    /// The connection was alive when it was sent.
    alive: bool,
    summary: AnswerSummary,
}

/// What a step came to.
#[derive(Debug)]
pub(super) enum Stepped {
    /// There is more to be read first.
    Need,
    Bundles(Lookahead),
    /// What an answer says of a partition.
    Partition(usize, Told),
    End(Answer),
}

/// An answer that is complete.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) request_id: u32,
    pub(super) partitions: Vec<usize>,
    pub(super) summary: AnswerSummary,
    /// It came empty, and so soon that the broker cannot have waited as it was asked to.
    pub(super) soon: bool,
}

impl Fetcher {
    pub(super) fn new(broker: &BrokerAddr, session: &Session, names: &TopicPartitions) -> Fetcher {
        let channel = session.pool.take(broker);
        Fetcher {
            counted: channel.received(),
            last_byte: channel.heard(),
            channel,
            decoder: new_decoder(session),
            buf: ReadBuf::new(READ_BUFFER, names.clone()),
            wanted: VecDeque::new(),
            in_flight: HashMap::new(),
            behind: 0,
            suspects: 0,
            current: None,
            need: 0,
            retry: RetryState::default(),
            revived: None,
        }
    }

    pub(super) fn broker(&self) -> &BrokerAddr {
        self.channel.broker()
    }

    pub(super) fn channel_mut(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Gives the partitions other names, or adds some.
    pub(super) fn set_names(&mut self, names: &TopicPartitions) {
        self.buf.set_tag(names.clone());
    }

    /// Bytes received since the last call.
    pub(super) fn take_bytes(&mut self) -> u64 {
        let bytes = self.bytes();
        self.counted = self.channel.received();
        bytes
    }

    /// As [`take_bytes`](Fetcher::take_bytes), without taking.
    pub(super) fn bytes(&self) -> u64 {
        let received = self.channel.received();
        // Fewer than before: an idle connection had ended, and this is another one.
        received.checked_sub(self.counted).unwrap_or(received)
    }

    /// Whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.current.is_none()
    }

    /// Whether anything is asked of it, or is to be.
    pub(super) fn is_used(&self) -> bool {
        !self.wanted.is_empty() || !self.is_idle()
    }

    /// Whether it failed and is not to be tried again yet.
    pub(super) fn is_resting(&self, now: Time) -> bool {
        self.channel.resting_until().is_some_and(|until| now < until)
    }

    /// Whether a connection is wanted and not there yet.
    pub(super) fn is_coming_up(&self) -> bool {
        !self.wanted.is_empty() && !self.channel.is_up()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.retry.is_in_trouble()
    }

    /// Asks for what is wanted, with as many requests as needed, once the connection is up; until then brings it up as far as
    /// possible without blocking.
    ///
    /// # Errors
    /// The broker cannot be reached, the connection has failed, or a partition cannot be asked for.
    pub(super) fn ask(&mut self, now: Time, look_up: LookUp, all: &mut Partitions, session: &Session) -> Result<()> {
        if self.wanted.is_empty() || !self.channel.open(now, look_up)? {
            return Ok(());
        }
        loop {
            let way = OnTheWay { behind: self.behind > 0, suspect: self.suspects > 0 };
            match all.next_request(&mut self.wanted, way)? {
                Some(request) => self.send(now, request, all, session)?,
                None => return self.channel.write(now).map(drop),
            }
        }
    }

    fn send(&mut self, now: Time, request: Request, all: &Partitions, session: &Session) -> Result<()> {
        let options = &all.rules().options;
        let max_wait_ms = if request.waits { options.max_wait_ms() } else { 0 };
        let request_id = session.next_request_id();
        let (topics, partitions) = slots(&request, all);
        let fetch = FetchRequest {
            client_version: if options.prefer_local { 3 } else { 2 },
            request_id,
            client_id: session.config.client_id.clone(),
            max_wait_ms,
            min_bytes: options.min_bytes,
            flags: if options.prefer_local { FLAG_PREFER_LOCAL } else { 0 },
            topics,
        };
        trace!("{}: fetch {request_id} of {} partitions", self.broker(), partitions.len());
        let is_fresh = self.channel.is_fresh();
        if self.is_idle() && !is_fresh {
            self.revived = Some(now);
        }
        let (behind, suspects) = (request.count(|want| want.is_behind), request.count(|want| want.is_suspect));
        self.behind += behind;
        self.suspects += suspects;
        let fetch_in_flight = InFlight {
            request_id,
            partitions,
            max_wait_ms,
            sent: now,
            behind,
            suspects,
            alive: is_fresh || now.since(self.last_byte) < ALIVE,
            summary: AnswerSummary::default(),
        };
        self.in_flight.insert(request_id, fetch_in_flight);
        let wait = if max_wait_ms > 0 { adjusted_wait_ms(max_wait_ms) + WAIT_SLACK_MS } else { 0 };
        let allowance = session.config.io_timeout.saturating_add(Duration::from_millis(wait));
        self.channel.queue(now, request_id, allowance, |out| fetch.encode(out))?;
        self.decoder.expect(fetch);
        Ok(())
    }

    /// Reads what the decoder needs, as far as it has arrived. Returns whether all of it is there.
    ///
    /// # Errors
    /// The connection has failed, or something on it is overdue.
    pub(super) fn read(&mut self, now: Time) -> Result<bool> {
        if self.is_idle() || !self.channel.is_up() {
            return Ok(false);
        }
        self.channel.write(now)?;
        while self.need > 0 {
            match self.channel.read(now, self.buf.room(self.need))? {
                Fill::Bytes(n) => {
                    self.buf.filled(n);
                    self.need = self.need.saturating_sub(n);
                    (self.last_byte, self.revived) = (now, None);
                    self.channel.answer_begins(now);
                }
                Fill::Later => return self.channel.overdue(now).map_or(Ok(false), Err),
                Fill::End => return Err(Error::disconnected(self.broker(), self.channel.phase())),
            }
        }
        Ok(true)
    }

    /// Continues with what has been read.
    ///
    /// # Errors
    /// Malformed data.
    pub(super) fn step(&mut self, now: Time, all: &mut Partitions, inbox: &mut Inbox) -> Result<Stepped> {
        let (start, bundles) = (self.buf.start(), inbox.bundles_mut());
        let new = bundles.len();
        let step = self.decoder.step(self.buf.data(), bundles);
        let (used, step) = step.map_err(|e| Error::decode(self.channel.broker(), e))?;
        self.buf.consume(used);
        Ok(match step {
            Step::Need(need) => {
                self.need = need;
                match self.decoder.is_between_frames() && self.buf.data().is_empty() {
                    true => self.channel.answer_ends(now, None),
                    false => self.channel.answer_begins(now),
                }
                Stepped::Need
            }
            Step::Bundles => {
                // All of one chunk.
                let partition = self.partition(bundles.get(new).map_or(0, |bundle| bundle.slot));
                for bundle in bundles.iter_mut().skip(new) {
                    bundle.slot = partition;
                    bundle.set = start + bundle.set.start..start + bundle.set.end;
                }
                self.retry.reset();
                Stepped::Bundles(inbox.accept(new, all, &self.buf, self.channel.broker()))
            }
            Step::Event(event) => self.on_event(now, event, all),
        })
    }

    fn on_event(&mut self, now: Time, event: Event, all: &mut Partitions) -> Stepped {
        match event {
            Event::Response { request_id } => {
                all.on_response();
                self.current = self.in_flight.remove(&request_id);
                Stepped::Bundles(Lookahead::Clear)
            }
            Event::Partition { slot, answer } => self.on_answer(now, slot, answer, all),
            Event::ChunkEnd { slot, end } => {
                let partition = self.partition(slot);
                Stepped::Partition(partition, all.on_chunk_end(now, partition, end))
            }
            Event::End { request_id } => {
                self.channel.answer_ends(now, Some(request_id));
                self.retry.reset();
                let Some(fetch) = self.current.take() else { return Stepped::Bundles(Lookahead::Clear) };
                self.behind -= fetch.behind;
                self.suspects -= fetch.suspects;
                let (partitions, summary) = (fetch.partitions, fetch.summary);
                let is_early = now.since(fetch.sent) < SOON.min(Duration::from_millis(fetch.max_wait_ms));
                let soon = is_early && !summary.has_data && !summary.has_fault;
                Stepped::End(Answer { request_id, partitions, summary, soon })
            }
        }
    }

    fn on_answer(&mut self, now: Time, slot: usize, answer: PartitionAnswer, all: &mut Partitions) -> Stepped {
        let partition = self.partition(slot);
        let told = match &mut self.current {
            Some(fetch) => all.on_answer(now, partition, answer, &mut fetch.summary),
            None => Told::Nothing,
        };
        Stepped::Partition(partition, told)
    }

    /// The partition that a slot of the answer being read stands for.
    fn partition(&self, slot: usize) -> usize {
        self.current.as_ref().and_then(|fetch| fetch.partitions.get(slot)).copied().unwrap_or(0)
    }

    /// The answer being read: its fetch, and what it came to so far.
    pub(super) fn current(&mut self) -> Option<(u32, &mut AnswerSummary)> {
        self.current.as_mut().map(|fetch| (fetch.request_id, &mut fetch.summary))
    }

    /// Forgets everything that belongs to the connection, which failed with `e`. Returns the partitions that were asked for
    /// or wanted, and how they were lost.
    pub(super) fn lose(&mut self, now: Time, e: &Error, session: &Session) -> Vec<(usize, Lost)> {
        let was_up = self.channel.is_up();
        let while_idle = self.revived.is_some_and(|since| now.since(since) < JUST_REVIVED) && e.is_connection_lost();
        let is_silent = self.current.is_none() && self.buf.data().is_empty() && e.is_connection_lost();
        let is_fresh = self.channel.is_fresh();
        // A silence that ended in a time-out does not count as time well spent.
        let well_for = match e.is_timeout() {
            true if is_fresh => Duration::ZERO,
            true => self.channel.well_for().saturating_sub(now.since(self.last_byte)),
            false => self.channel.well_for(),
        };
        let alone = self.behind == 1;
        let mut fetches: Vec<_> = self.in_flight.drain().map(|(_, fetch)| fetch).chain(self.current.take()).collect();
        fetches.sort_by_key(|fetch| fetch.request_id);
        let mut lost = Vec::new();
        for fetch in fetches {
            let unanswered = is_silent && fetch.alive && (is_fresh || self.last_byte <= fetch.sent);
            let how = Lost::Ended { while_idle, well_for, unanswered, alone };
            lost.extend(fetch.partitions.into_iter().map(|partition| (partition, how)));
        }
        let unsent = Lost::Ended { while_idle: true, well_for, unanswered: false, alone: false };
        let how = if was_up { unsent } else { Lost::Unreachable };
        lost.extend(self.wanted.drain(..).map(|partition| (partition, how)));
        self.channel.close();
        self.decoder = new_decoder(session);
        self.buf.clear();
        (self.behind, self.suspects) = (0, 0);
        (self.need, self.counted, self.revived) = (0, 0, None);
        lost
    }

    /// Leaves it alone for a while after a failure. Returns for how long.
    pub(super) fn rest(&mut self, now: Time, policy: &RetryPolicy) -> Duration {
        let policy = RetryPolicy { timeout: Duration::MAX, ..*policy };
        let until = self.retry.retry_or_fail(now, &policy).unwrap_or(now);
        self.channel.rest_until(until);
        until.since(now)
    }

    /// Gives the connection back, if nothing is awaited on it.
    pub(super) fn give_back(self, session: &Session) {
        if self.is_idle() && self.buf.data().is_empty() {
            session.pool.put(self.channel);
        }
    }
}

/// The topics of a request, each once, and which partitions its slots are.
fn slots(request: &Request, all: &Partitions) -> (Vec<FetchTopic>, Vec<usize>) {
    let mut topics: Vec<(FetchTopic, Vec<usize>)> = Vec::new();
    for &(index, want) in &request.partitions {
        let name = all.name(index);
        let wanted = FetchPartition { partition: name.partition, seq: want.seq, fetch_size: want.fetch_size };
        match topics.iter_mut().rev().find(|(topic, _)| topic.name == name.topic) {
            Some((topic, slots)) => {
                topic.partitions.push(wanted);
                slots.push(index);
            }
            None => topics.push((FetchTopic { name: name.topic.clone(), partitions: vec![wanted] }, vec![index])),
        }
    }
    let (topics, slots): (Vec<_>, Vec<_>) = topics.into_iter().unzip();
    (topics, slots.concat())
}

fn new_decoder(session: &Session) -> FetchDecoder {
    let mut decoder = FetchDecoder::new(session.config.limits.clone());
    decoder.join_up_to(JOINED);
    decoder
}
