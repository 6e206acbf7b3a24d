//! [`Fetcher`]: one leader of a subscription, with its connection, its decoder and the fetches in flight.
//!
//! ```text
//!   wanted ──ask()──> in flight ──receive(): an answer begins──> current ──it ends──> wanted again, or due later
//!      ^                  └──────────────────┬─────────────────────┘
//!      └── the shell, once it is due <── on_failure(): the connection failed
//! ```
//!
//! # How much to ask for
//! The next fetch goes out when an answer has ended, so between two answers the link is idle for a round trip:
//!
//! ```text
//!   sent              begins                      ends, the next is sent
//!    │───── wait ───────│━━━━━━ bytes in `took` ━━━━━│───── wait ───────│━━━━━
//! ```
//!
//! If the wait is not short, the next fetch asks for as much as the link carries in [`WAITS_WORTH`] such waits, so that the link
//! is rarely idle. It asks for at most [`MOST_GROWTH`] times what came last, so that one hiccup does little, and for at most
//! [`MOST_AHEAD`], shared by the partitions that are known to have more, so that none waits long for its turn. Each partition is
//! asked for at least its fetch size, and at most [`MOST_GROWN`] times as much. If the wait is short, or little came, the fetch
//! sizes are as configured again. It does not matter whether a chunk ends inside a bundle or after one.
//!
//! The wait counts from the moment when the caller looked for bytes and found none. A slow caller finds bytes ready, so its wait is
//! zero and the size does not grow. Time that the broker was allowed to wait for data does not count. The read buffer holds an
//! answer of any size in parts.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, trace, warn};

use super::inbox::Inbox;
use super::partition::{Lost, Next, Risk, Want};
use super::partitions::{Load, Partitions, Wanted};
use super::position::Stats;
use crate::error::{Error, Result, rounded_up_to_ms};
use crate::message::{JOINED, TopicPartitions, in_order};
use crate::net::{BrokerAddr, Channel, LookUp, ReadBuf, RetryPolicy, RetryState, Time};
use crate::protocol::fetch::{
    FLAG_PREFER_LOCAL, FetchPartition, FetchRequest, FetchTopic, PartitionAnswer, WAIT_SLACK_MS, adjusted_wait_ms,
};
use crate::protocol::frame::Payload;
use crate::protocol::stream::{Event, FetchDecoder, Step};
use crate::session::Session;

/// Bytes of the read buffer at rest: room for many bundles of the usual sizes, because a partial last one is moved to the
/// front, and yet small enough for a core's cache.
const READ_BUFFER: usize = 512 << 10;

/// How long the link may be idle before an answer begins: at the usual fetch size that still allows 100 MB/s.
const SHORT_WAIT: Duration = Duration::from_millis(10);

/// An answer should keep the link busy for this many times as long as the wait before it.
const WAITS_WORTH: u128 = 16;

/// How much more may be asked for at a time than the last answer brought: two steps lead from the usual fetch size to the most.
const MOST_GROWTH: u64 = 16;

/// How many times its fetch size a partition may be asked for.
const MOST_GROWN: u32 = 32;

/// What the partitions of a fetch share, unless their fetch sizes add up to more: enough to keep a link of 20 MB/s with a round
/// trip of 100 ms busy.
const MOST_AHEAD: u64 = 32 << 20;

/// Brokers that are asked to wait for data wait longer than this.
const SOON: Duration = Duration::from_millis(50);

/// How long it may take to learn that a connection had ended before it was used again.
const JUST_REVIVED: Duration = Duration::from_secs(1);

/// How long a server may take to die from a fetch: it may write its memory to disk first.
const DIES_WITHIN: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Fetcher {
    pub(super) channel: Channel,
    pub(super) decoder: FetchDecoder,
    buf: ReadBuf<TopicPartitions>,
    /// The partitions to ask this leader for.
    pub(super) wanted: Wanted,
    /// Failed attempts to connect and lost connections since the last answer, and how long to rest after them.
    pub(super) retry: RetryState,
    /// The fetches in flight, by their ids.
    in_flight: HashMap<u32, InFlight>,
    line: Line,
}

/// What belongs to the connection. It stays if another one is dialed because that had ended while idle.
#[derive(Default)]
struct Line {
    /// Of all fetches in flight.
    load: Load,
    /// How many more bytes the decoder needs before it can continue.
    need: usize,
    /// Since when there is nothing to read, after a fetch was sent and while no answer has begun.
    idle_since: Option<Time>,
    /// The fetch whose answer is being read.
    current: u32,
    /// When that answer began, how long the link was idle before, and what it has brought so far.
    began: Time,
    wait: Duration,
    bytes: u64,
    has_fault: bool,
    /// The error that ends the subscription after the rest of that answer.
    failure: Option<Error>,
    /// How many bytes to ask for in total, if the partitions have more than their fetch sizes.
    ahead: u64,
    /// Since a fetch on a connection that had been idle, while nothing has come back.
    revived: Option<Time>,
    /// Whether the previous connection ended just as it was used again. Until messages or the answer to a wait have come, another
    /// such end is trouble.
    excused: bool,
}

/// A fetch in flight: the subscription's partitions, by slot.
struct InFlight {
    request: FetchRequest,
    partitions: Vec<u32>,
    sent: Time,
    load: Load,
}

/// A fetcher's turn: the moment, and what it works on.
pub(super) struct Turn<'a> {
    pub(super) now: Time,
    pub(super) all: &'a mut Partitions,
    pub(super) inbox: &'a mut Inbox,
    pub(super) session: &'a Session,
}

impl Fetcher {
    pub(super) fn new(broker: &BrokerAddr, session: &Session, names: &TopicPartitions) -> Fetcher {
        Fetcher {
            channel: session.pool.take(broker),
            decoder: new_decoder(session),
            buf: ReadBuf::new(READ_BUFFER, names.clone()),
            wanted: Wanted::default(),
            retry: RetryState::default(),
            in_flight: HashMap::new(),
            line: Line::default(),
        }
    }

    /// Returns whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Returns whether an answer is being received.
    pub(super) fn is_receiving(&self) -> bool {
        self.decoder.is_in_answer(self.buf.data())
    }

    /// Returns whether it was asked for anything, or will be.
    pub(super) fn is_used(&self) -> bool {
        !self.wanted.is_empty() || !self.is_idle()
    }

    /// Returns whether it only waits for messages above the high-water marks.
    pub(super) fn is_at_ends(&self) -> bool {
        self.wanted.is_empty() && !self.is_receiving() && self.line.load.risky == 0
    }

    /// Returns whether it failed and must not be tried again yet.
    pub(super) fn is_resting(&self, now: Time) -> bool {
        now < self.retry.pause_until
    }

    /// Returns whether it needs a connection that is not up yet.
    pub(super) fn is_coming_up(&self) -> bool {
        !self.wanted.is_empty() && !self.channel.is_up()
    }

    /// Asks for what is wanted, with as many requests as needed, if the connection is up. Otherwise brings it up as far as possible
    /// without blocking.
    pub(super) fn ask(&mut self, turn: &mut Turn<'_>, look_up: LookUp) {
        self.try_ask(turn, look_up).unwrap_or_else(|e| self.on_failure(turn, &e));
    }

    fn try_ask(&mut self, turn: &mut Turn<'_>, look_up: LookUp) -> Result<()> {
        if self.wanted.is_empty() || !self.channel.open(turn.now, look_up)? {
            return Ok(());
        }
        loop {
            match turn.all.next_request(&mut self.wanted, self.line.load)? {
                request if request.is_empty() => return self.channel.write(turn.now).map(drop),
                request => self.send(turn, request)?,
            }
        }
    }

    fn send(&mut self, turn: &mut Turn<'_>, request: Vec<(u32, Want)>) -> Result<()> {
        let line = &mut self.line;
        if self.in_flight.is_empty() {
            line.revived = (!self.channel.is_fresh() && !line.excused).then_some(turn.now);
            // All fetches before were answered, so a connection without an answer is another one.
            if line.began > Time::ZERO && self.channel.is_fresh() {
                turn.all.looks_for_added = true;
                self.buf.clear();
            }
        }
        let options = &turn.all.rules.options;
        let max_wait_ms = if request.iter().all(|(_, want)| want.waits) { options.max_wait_ms } else { 0 };
        let request_id = turn.session.next_request_id();
        let count = |risk| request.iter().filter(|(_, want)| want.risk >= risk).count();
        let load = Load { risky: count(Risk::Risky), suspects: count(Risk::Suspect) };
        let (topics, partitions) = slots(&request, turn.all, share(line.ahead, load.risky, options.fetch_size));
        let request = FetchRequest {
            client_version: if options.prefer_local { 3 } else { 2 },
            request_id,
            client_id: turn.session.config.client_id.clone(),
            max_wait_ms,
            min_bytes: options.min_bytes,
            flags: if options.prefer_local { FLAG_PREFER_LOCAL } else { 0 },
            topics,
        };
        trace!("{}: fetch {request_id} of {} partitions", self.channel.broker(), partitions.len());
        line.load.risky += load.risky;
        line.load.suspects += load.suspects;
        line.idle_since = None;
        // Partitions were added.
        if !Arc::ptr_eq(&self.buf.block().tag, &turn.all.rules.names) {
            self.buf.set_tag(turn.all.rules.names.clone());
        }
        let wait = if max_wait_ms > 0 { adjusted_wait_ms(max_wait_ms) + WAIT_SLACK_MS } else { 0 };
        let allowance = turn.session.config.io_timeout.saturating_add(Duration::from_millis(wait));
        let mut frame = Vec::new();
        let queued = request.encode(&mut frame).map(|()| self.channel.queue(turn.now, request_id, allowance, frame));
        self.in_flight.insert(request_id, InFlight { request, partitions, sent: turn.now, load });
        queued.map_err(Error::encode)
    }

    /// Takes in what has arrived, up to the end of an answer or as much as is decoded at once. Returns whether there was anything.
    pub(super) fn receive(&mut self, turn: &mut Turn<'_>) -> bool {
        self.try_receive(turn).unwrap_or_else(|e| {
            self.on_failure(turn, &e);
            true
        })
    }

    fn try_receive(&mut self, turn: &mut Turn<'_>) -> Result<bool> {
        let now = turn.now;
        if !self.read(now, &mut turn.all.stats)? {
            return Ok(false);
        }
        loop {
            let (start, bundles) = (self.buf.start(), &mut turn.inbox.bundles);
            let new = bundles.len();
            let asked = |id| self.in_flight.get(&id).map(|fetch| &fetch.request);
            let step = self.decoder.step(self.buf.data(), &asked, bundles);
            let (used, step) = step.map_err(|e| Error::decode(self.channel.broker(), e))?;
            self.buf.consume(used);
            match step {
                Step::Need(need) => {
                    self.line.need = need;
                    self.note_beginning(now);
                    return Ok(true);
                }
                Step::Bundles => {
                    // All of one chunk.
                    let partition = self.partition(bundles.get(new).map_or(0, |bundle| bundle.slot));
                    for bundle in bundles.iter_mut().skip(new) {
                        bundle.slot = partition as usize;
                        bundle.set = start + bundle.set.start..start + bundle.set.end;
                    }
                    self.retry.reset();
                    let goes_on = turn.inbox.accept(new, turn.all, &self.buf);
                    self.line.excused &= !turn.inbox.has_bundles();
                    if !goes_on {
                        return Ok(true);
                    }
                }
                Step::Event(Event::Response { request_id }) => {
                    let line = &mut self.line;
                    (line.current, line.began, line.bytes, line.has_fault) = (request_id, now, 0, false);
                    line.wait = now.since(line.idle_since.take().unwrap_or(now));
                }
                Step::Event(Event::Partition { slot, answer }) => self.on_answer(turn, slot, answer),
                Step::Event(Event::ChunkEnd { slot, end }) => {
                    let partition = self.partition(slot);
                    let next = turn.all.with(partition, |partition, rules| partition.on_chunk_end(now, end, rules));
                    self.act(turn, partition, next);
                }
                Step::Event(Event::End { request_id }) => {
                    self.in_flight.remove(&request_id).into_iter().for_each(|fetch| self.on_end(turn, fetch));
                    return Ok(true);
                }
            }
        }
    }

    /// Reads what the decoder needs, as far as it has arrived. Returns whether all of it is there.
    ///
    /// # Errors
    /// The connection has failed, or something on it is overdue.
    fn read(&mut self, now: Time, stats: &mut Stats) -> Result<bool> {
        if self.is_idle() {
            return Ok(false);
        }
        self.channel.write(now)?;
        while self.line.need > 0 {
            let is_readable = self.channel.is_readable(now);
            let n = if is_readable { self.channel.read(now, self.buf.room(self.line.need))? } else { 0 };
            if n == 0 {
                if !self.is_receiving() {
                    self.line.idle_since.get_or_insert(now);
                }
                return Ok(false);
            }
            self.buf.filled(n);
            stats.bytes += n as u64;
            self.line.need = self.line.need.saturating_sub(n);
            self.line.revived = None;
            self.note_beginning(now);
        }
        Ok(true)
    }

    fn note_beginning(&mut self, now: Time) {
        if self.is_receiving() {
            self.channel.on_answer_begin(now);
        }
    }

    /// Returns the partition that a slot of the answer being read stands for.
    fn partition(&self, slot: usize) -> u32 {
        self.in_flight.get(&self.line.current).and_then(|fetch| fetch.partitions.get(slot)).copied().unwrap_or(0)
    }

    fn on_answer(&mut self, turn: &mut Turn<'_>, slot: usize, answer: PartitionAnswer) {
        match answer {
            PartitionAnswer::Data { len, .. } => self.line.bytes += u64::from(len),
            _ => self.line.has_fault = true,
        }
        let partition = self.partition(slot);
        let next = turn.all.on_answer(turn.now, partition, answer);
        self.act(turn, partition, next);
    }

    /// Does what a partition cannot do for itself.
    fn act(&mut self, turn: &mut Turn<'_>, index: u32, next: Next) {
        let Turn { now, all, session: Session { book, .. }, .. } = turn;
        match next {
            Next::Go => {}
            Next::AskAt(endpoint) => {
                let found = book.resolve_redirect(endpoint);
                // A replica on this host must never be taken for the leader, to which messages are published.
                if let (Ok(Some(leader)), false) = (&found, all.rules.options.prefer_local) {
                    let (topic, partition) = all.name(index);
                    book.set_leader(topic, partition, leader.clone(), *now);
                }
                all.stats.redirects += 1;
                let next = all.with(index, |partition, rules| partition.on_named(*now, endpoint, found, rules));
                // The first redirect is how leaders are found; the broker that repeats one may not know better.
                if all.get(index).rests() {
                    book.demote(self.channel.broker(), *now);
                }
                self.act(turn, index, next);
            }
            Next::NoLeader => {
                let (topic, partition) = all.name(index);
                book.clear_leader(topic, partition);
                book.demote(self.channel.broker(), *now);
                all.stats.no_leader += 1;
            }
            Next::Gap(first, last) => all.add_gap(index, first, last),
            Next::Fail(e) => _ = self.line.failure.get_or_insert(e),
        }
    }

    /// Ends an answer. A partition that has more is asked for at once, so that the leader sends while the messages of this answer
    /// are handed out.
    fn on_end(&mut self, turn: &mut Turn<'_>, fetch: InFlight) {
        self.channel.on_answer_end(turn.now, fetch.request.request_id);
        self.retry.reset();
        let line = &mut self.line;
        line.load.risky -= fetch.load.risky;
        line.load.suspects -= fetch.load.suspects;
        let (took, wait_ms) = (turn.now.since(fetch.sent), fetch.request.max_wait_ms);
        // Over a slow link, an answer without a wait takes long, too.
        line.excused &= line.has_fault || wait_ms == 0 || took < Duration::from_millis(adjusted_wait_ms(wait_ms));
        turn.all.stats.fetches += 1;
        turn.all.stats.empty_fetches += u64::from(line.bytes == 0);
        let prefetches = turn.all.rules.options.prefetch && turn.inbox.has_bundles();
        // The answer was empty, and came so soon that the broker cannot have waited as it was asked to.
        let soon = line.bytes == 0 && !line.has_fault && took < SOON.min(Duration::from_millis(wait_ms));
        if fetch.load.risky > 0 {
            line.ahead = ahead(line.bytes, line.wait, turn.now.since(line.began));
        }
        for partition in fetch.partitions {
            if turn.all.on_end(turn.now, partition, soon, prefetches.then_some(self.channel.broker())) {
                self.wanted.push(partition, turn.all.get(partition).risk());
            }
        }
        self.line.failure.take().into_iter().for_each(|e| turn.inbox.fail(e));
        self.ask(turn, LookUp::Never);
    }

    /// Drops the connection after `e`, so that its partitions are asked for again.
    #[cold]
    fn on_failure(&mut self, turn: &mut Turn<'_>, e: &Error) {
        let was_up = self.channel.is_up();
        self.line.failure.take().into_iter().for_each(|e| turn.inbox.fail(e));
        let lost = self.lose(e, turn.session);
        if !e.is_transient() {
            return turn.inbox.fail(e.clone());
        }
        let mut failed = None;
        // In a fixed order: a hash map has none, and a simulation must repeat.
        for place in in_order(&mut lost.iter().map(|(partition, _)| ("", *partition))) {
            let (partition, how) = lost[place as usize];
            failed = turn.all.on_lost(turn.now, partition, how, e).err().or(failed);
        }
        if self.line.excused && failed.is_none() {
            turn.all.looks_for_added = true;
            return debug!("{e:#}, had ended while idle, dialing again");
        }
        // It rests at most until the budget ends, so that partitions lost with it get their last attempt then. If it goes on after
        // that, the pauses begin again.
        let policy = turn.session.retry_policy();
        let policy = RetryPolicy { timeout: policy.timeout.max(policy.pause(1)), ..policy };
        self.retry = if self.retry.gives_up_at(&policy) > turn.now { self.retry } else { RetryState::default() };
        let until = self.retry.retry_or_fail(turn.now, &policy).unwrap_or(turn.now);
        self.channel.rest_until(until);
        *(if was_up { &mut turn.all.stats.reconnects } else { &mut turn.all.stats.failed_brokers }) += 1;
        turn.session.book.demote_failed(self.channel.broker(), turn.now);
        match failed {
            Some(e) => turn.inbox.fail(e),
            None => warn!("{e:#}, trying again in {:?}", rounded_up_to_ms(until.since(turn.now))),
        }
        // When all others are done, one look is enough: a broker that ends each connection would keep this one from ending.
        if !turn.all.all_done() {
            turn.all.probe();
        }
    }

    /// Forgets everything that belongs to the connection, which failed with `e`. Returns the partitions that were asked for
    /// or wanted, and how they were lost.
    fn lose(&mut self, e: &Error, session: &Session) -> Vec<(u32, Lost)> {
        let (is_lost, looked) = (e.is_connection_lost(), self.channel.last_look());
        let ended_within = |time: Duration, sent: Time| is_lost && looked.since(sent) < time;
        let while_idle = self.line.revived.is_some_and(|since| ended_within(JUST_REVIVED, since));
        let (alone, silent, mut lost) = (self.line.load.risky == 1, !self.is_receiving(), Vec::new());
        for InFlight { request, partitions, sent, .. } in mem::take(&mut self.in_flight).into_values() {
            let unanswered = silent && self.channel.handed_over(request.request_id) && ended_within(DIES_WITHIN, sent);
            let (waited, allowed) = (looked.since(sent), adjusted_wait_ms(request.max_wait_ms) + WAIT_SLACK_MS);
            // The wait for an answer that did not come is no sign of health, whatever else has come, unless it was asked for.
            let is_overdue = e.is_timeout() || silent && waited > Duration::from_millis(allowed);
            let healthy_for =
                self.channel.healthy_for().saturating_sub(if is_overdue { waited } else { Duration::ZERO });
            let how = Lost { while_idle, healthy_for, unanswered, alone };
            lost.extend(partitions.into_iter().map(|partition| (partition, how)));
        }
        let how = Lost { while_idle: self.channel.is_up(), ..Lost::default() };
        lost.extend(self.wanted.drain().map(|partition| (partition, how)));
        self.channel.close();
        self.decoder = new_decoder(session);
        self.buf.clear();
        self.line = Line { excused: while_idle, ..Line::default() };
        lost
    }

    /// Returns the connection to the pool if nothing is awaited on it.
    pub(super) fn give_back(self, session: &Session) {
        if self.is_idle() && self.buf.data().is_empty() {
            session.pool.put(self.channel);
        }
    }
}

/// Returns how many bytes to ask for next, after this wait and an answer of this many bytes that took this long.
fn ahead(bytes: u64, wait: Duration, took: Duration) -> u64 {
    if wait < SHORT_WAIT {
        return 0;
    }
    let carried = wait.as_nanos().saturating_mul(WAITS_WORTH * u128::from(bytes)) / took.as_nanos().max(1);
    u64::try_from(carried).unwrap_or(u64::MAX).min(bytes.saturating_mul(MOST_GROWTH)).min(MOST_AHEAD)
}

/// Returns how many bytes each of the partitions that have more may be asked for.
fn share(ahead: u64, partitions: usize, fetch_size: u32) -> u32 {
    u32::try_from(ahead / partitions.max(1) as u64).unwrap_or(u32::MAX).min(fetch_size.saturating_mul(MOST_GROWN))
}

/// Returns the topics of a request, each once, with their partitions in the order of the subscription, and the partitions that its
/// slots stand for. Those that have more are asked for at least `share` bytes.
fn slots(request: &[(u32, Want)], all: &Partitions, share: u32) -> (Vec<FetchTopic>, Vec<u32>) {
    let topic = |of: &(u32, Want)| all.name(of.0).0;
    let order = in_order(&mut request.iter().map(|of| (&**topic(of), of.0)));
    let request: Vec<(u32, Want)> = order.iter().map(|&place| request[place as usize]).collect();
    let topics = request.chunk_by(|a, b| topic(a) == topic(b)).map(|of_topic| {
        let wanted = of_topic.iter().map(|&(index, Want { seq, fetch_size, risk, .. })| {
            let partition = all.name(index).1;
            FetchPartition { partition, seq, fetch_size: fetch_size.max(if risk > Risk::Harmless { share } else { 0 }) }
        });
        FetchTopic { name: topic(&of_topic[0]).clone(), partitions: wanted.collect() }
    });
    (topics.collect(), request.iter().map(|(index, _)| *index).collect())
}

fn new_decoder(session: &Session) -> FetchDecoder {
    let mut decoder = FetchDecoder::new(session.config.limits.clone());
    decoder.join_up_to(JOINED);
    decoder
}

#[cfg(test)]
mod tests;
