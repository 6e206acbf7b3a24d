//! [`Fetcher`]: one leader of a subscription, with its connection, its decoder and the fetches in flight.
//!
//! ```text
//!   wanted ──ask()──> in flight ──step(): an answer begins──> current ──step(): it ends──> finished
//!      ^                  └───────────────┬──────────────────────┘
//!      └── the shell, once it is due <── lose(): the connection failed
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use log::trace;

use super::inbox::Inbox;
use super::partition::{Lookahead, Lost, Next, Want};
use super::partitions::{AnswerSummary, Load, Partitions};
use super::position::{LeaderStats, Stats};
use crate::error::{Error, Result};
use crate::message::{JOINED, TopicPartition, TopicPartitions};
use crate::net::{BrokerAddr, Channel, Fill, LookUp, ReadBuf, RetryPolicy, RetryState, Time};
use crate::protocol::fetch::{
    FLAG_PREFER_LOCAL, FetchPartition, FetchRequest, FetchTopic, WAIT_SLACK_MS, adjusted_wait_ms,
};
use crate::protocol::stream::{Event, FetchDecoder, Step};
use crate::session::Session;

/// Bytes of the read buffer at rest: room for many bundles of the usual sizes, because a partial last one is moved to the
/// front, yet small enough for a core's cache.
const READ_BUFFER: usize = 512 << 10;

/// Bytes that the partitions of a fetch share if they grow beyond the fetch size: enough to keep 80 MB/s busy over 100 ms.
const MOST_AHEAD: u32 = 8 << 20;

/// Brokers that are asked to wait for data wait longer than this.
const SOON: Duration = Duration::from_millis(50);

/// How long it may take to learn that a connection had ended before it was used again.
const JUST_REVIVED: Duration = Duration::from_secs(1);

/// How long a server may take to die of a fetch: it may write its memory to disk first.
const DIES_WITHIN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Fetcher {
    channel: Channel,
    decoder: FetchDecoder,
    buf: ReadBuf<TopicPartitions>,
    /// The partitions to be asked for here.
    pub(super) wanted: VecDeque<usize>,
    in_flight: HashMap<u32, InFlight>,
    /// What is in flight.
    way: Load,
    /// The fetch whose answer is being read.
    pub(super) current: Option<InFlight>,
    /// How many more bytes the decoder needs before it can continue.
    need: usize,
    /// Failed attempts to connect and lost connections since the last answer.
    retry: RetryState,
    /// Since a fetch on a connection that had been idle, while nothing has come back.
    revived: Option<Time>,
    /// A fetch was sent on the connection, or on one that had ended before it was used again.
    was_up: bool,
}

/// A fetch on its way: the subscription's partitions, by slot.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) request_id: u32,
    pub(super) partitions: Vec<usize>,
    max_wait_ms: u64,
    sent: Time,
    load: Load,
    pub(super) summary: AnswerSummary,
}

/// What a step came to.
#[derive(Debug)]
pub(super) enum Stepped {
    /// There is more to be read first.
    Need,
    Bundles(Lookahead),
    /// What is to be done about a partition.
    Partition(usize, Next),
    /// The answer to this fetch is complete.
    End(InFlight),
}

impl InFlight {
    /// Whether the answer came empty, and so soon that the broker cannot have waited as it was asked to.
    pub(super) fn is_soon(&self, now: Time) -> bool {
        let is_early = now.since(self.sent) < SOON.min(Duration::from_millis(self.max_wait_ms));
        is_early && !self.summary.has_data && !self.summary.has_fault
    }
}

impl Fetcher {
    pub(super) fn new(broker: &BrokerAddr, session: &Session, names: &TopicPartitions) -> Fetcher {
        let channel = session.pool.take(broker);
        Fetcher {
            channel,
            decoder: new_decoder(session),
            buf: ReadBuf::new(READ_BUFFER, names.clone()),
            wanted: VecDeque::new(),
            in_flight: HashMap::new(),
            way: Load::default(),
            current: None,
            need: 0,
            retry: RetryState::default(),
            revived: None,
            was_up: false,
        }
    }

    pub(super) fn broker(&self) -> &BrokerAddr {
        self.channel.broker()
    }

    pub(super) fn stats(&self, now: Time) -> LeaderStats {
        let heard = Some(self.channel.heard()).filter(|&heard| heard > Time::ZERO);
        LeaderStats { broker: self.broker().to_string(), silence: heard.map(|heard| now.since(heard)) }
    }

    pub(super) fn channel_mut(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.current.is_none()
    }

    /// Whether anything is asked of it, or is to be.
    pub(super) fn is_used(&self) -> bool {
        !self.wanted.is_empty() || !self.is_idle()
    }

    /// Whether nothing is wanted or awaited but what lies above the marks.
    pub(super) fn is_at_ends(&self) -> bool {
        self.wanted.is_empty() && self.current.is_none() && self.way.risky == 0
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
            match all.next_request(&mut self.wanted, self.way)? {
                request if request.is_empty() => return self.channel.write(now).map(drop),
                request => self.send(now, request, all, session)?,
            }
        }
    }

    fn send(&mut self, now: Time, request: Vec<(usize, Want)>, all: &mut Partitions, session: &Session) -> Result<()> {
        if self.is_idle() {
            self.revived = (!self.channel.is_fresh()).then_some(now);
            all.looks_for_added |= self.was_up && self.channel.is_fresh();
            self.was_up = true;
        }
        let options = &all.rules().options;
        let max_wait_ms = if request.iter().all(|(_, want)| want.waits) { options.max_wait_ms() } else { 0 };
        let request_id = session.next_request_id();
        let count = |is: fn(&Want) -> bool| request.iter().filter(|(_, want)| is(want)).count();
        let load = Load { risky: count(|want| want.is_risky), suspects: count(|want| want.is_suspect) };
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
        self.way.risky += load.risky;
        self.way.suspects += load.suspects;
        // Partitions were added.
        if !Arc::ptr_eq(&self.buf.block().tag, all.names()) {
            self.buf.set_tag(all.names().clone());
        }
        let fetch_in_flight =
            InFlight { request_id, partitions, max_wait_ms, sent: now, load, summary: AnswerSummary::default() };
        self.in_flight.insert(request_id, fetch_in_flight);
        let wait = if max_wait_ms > 0 { adjusted_wait_ms(max_wait_ms) + WAIT_SLACK_MS } else { 0 };
        let allowance = session.config.io_timeout.saturating_add(Duration::from_millis(wait));
        self.channel.queue(now, request_id, allowance, |out| fetch.encode(out)).map_err(Error::encode)?;
        self.decoder.expect(fetch);
        Ok(())
    }

    /// Reads what the decoder needs, as far as it has arrived. Returns whether all of it is there.
    ///
    /// # Errors
    /// The connection has failed, or something on it is overdue.
    pub(super) fn read(&mut self, now: Time, stats: &mut Stats) -> Result<bool> {
        if self.is_idle() || !self.channel.is_up() {
            return Ok(false);
        }
        self.channel.write(now)?;
        while self.need > 0 {
            match self.channel.read(now, self.buf.room(self.need))? {
                Fill::Bytes(n) => {
                    self.buf.filled(n);
                    stats.bytes += n as u64;
                    self.need = self.need.saturating_sub(n);
                    self.revived = None;
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
                self.current = self.in_flight.remove(&request_id);
                Stepped::Bundles(Lookahead::Clear)
            }
            Event::Partition { slot, answer } => {
                let partition = self.partition(slot);
                let Some(fetch) = &mut self.current else { return Stepped::Bundles(Lookahead::Clear) };
                Stepped::Partition(partition, all.on_answer(now, partition, answer, &mut fetch.summary))
            }
            Event::ChunkEnd { slot, end } => {
                let partition = self.partition(slot);
                let next = all.with(partition, |partition, rules| partition.on_chunk_end(now, end, rules));
                Stepped::Partition(partition, next)
            }
            Event::End { request_id } => {
                self.channel.answer_ends(now, Some(request_id));
                self.retry.reset();
                let Some(fetch) = self.current.take() else { return Stepped::Bundles(Lookahead::Clear) };
                self.way.risky -= fetch.load.risky;
                self.way.suspects -= fetch.load.suspects;
                all.stats.fetches += 1;
                all.stats.empty_fetches += u64::from(!fetch.summary.has_data);
                Stepped::End(fetch)
            }
        }
    }

    /// The partition that a slot of the answer being read stands for.
    fn partition(&self, slot: usize) -> usize {
        self.current.as_ref().and_then(|fetch| fetch.partitions.get(slot)).copied().unwrap_or(0)
    }

    /// Forgets everything that belongs to the connection, which failed with `e`. Returns the partitions that were asked for
    /// or wanted, and how they were lost.
    pub(super) fn lose(&mut self, now: Time, e: &Error, session: &Session) -> Vec<(usize, Lost)> {
        let (is_lost, looked) = (e.is_connection_lost(), self.channel.looked_at());
        let ended_within = |time: Duration, sent: Time| is_lost && looked.since(sent) < time;
        let while_idle = self.revived.is_some_and(|since| ended_within(JUST_REVIVED, since));
        let is_silent = self.current.is_none() && self.buf.data().is_empty();
        // A silence that ended in a time-out does not count as time well spent.
        let well_for = match e.is_timeout() {
            true if self.channel.is_fresh() => Duration::ZERO,
            true => self.channel.well_for().saturating_sub(now.since(self.channel.heard())),
            false => self.channel.well_for(),
        };
        let alone = self.way.risky == 1;
        let mut fetches: Vec<_> = self.in_flight.drain().map(|(_, fetch)| fetch).chain(self.current.take()).collect();
        fetches.sort_by_key(|fetch| fetch.request_id);
        let mut lost = Vec::new();
        for fetch in fetches {
            let is_handed_over = self.channel.handed_over(fetch.request_id);
            let unanswered = is_silent && is_handed_over && ended_within(DIES_WITHIN, fetch.sent);
            let how = Lost { while_idle, well_for, unanswered, alone };
            lost.extend(fetch.partitions.into_iter().map(|partition| (partition, how)));
        }
        let how = Lost { while_idle: self.channel.is_up(), well_for, ..Lost::default() };
        lost.extend(self.wanted.drain(..).map(|partition| (partition, how)));
        self.channel.close();
        self.decoder = new_decoder(session);
        self.buf.clear();
        (self.way, self.need, self.revived, self.was_up) = (Load::default(), 0, None, false);
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

/// The topics of a request, each once, in the order in which they come first, and which partitions its slots are.
fn slots(request: &[(usize, Want)], all: &Partitions) -> (Vec<FetchTopic>, Vec<usize>) {
    let mut topics: Vec<(FetchTopic, Vec<usize>)> = Vec::new();
    let share = MOST_AHEAD / u32::try_from(request.len()).unwrap_or(u32::MAX).max(1);
    for &(index, Want { seq, fetch_size, ahead, .. }) in request {
        let TopicPartition { topic: name, partition } = all.get(index).name().clone();
        let wanted = FetchPartition { partition, seq, fetch_size: fetch_size.max(ahead.min(share)) };
        match topics.iter_mut().rev().find(|(topic, _)| topic.name == name) {
            Some((topic, slots)) => {
                topic.partitions.push(wanted);
                slots.push(index);
            }
            None => topics.push((FetchTopic { name, partitions: vec![wanted] }, vec![index])),
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
