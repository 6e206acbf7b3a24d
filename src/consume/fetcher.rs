//! [`Fetcher`]: one leader of a subscription, with its connection, its decoder and the fetches in flight.
//!
//! ```text
//!   wanted ──ask()──> in flight ──receive(): an answer begins──> being read ──it ends──> wanted again, or due later
//!      ^                  └──────────────────┬──────────────────────┘
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
//! is rarely idle. It asks for at most [`MAX_STEP_FACTOR`] times what came last, so that one hiccup does little, and for at most
//! [`MAX_FETCH_TOTAL`], shared by the partitions that are known to have more, so that none waits long for its turn. Each
//! partition is asked for at least its fetch size, and at most [`MAX_FETCH_FACTOR`] times as much. If the wait is short, or
//! little came, the fetch sizes are as configured again. It does not matter whether a chunk ends inside a bundle or after one.
//!
//! The wait counts from the moment when the caller looked for bytes and found none. A slow caller finds bytes ready, so its wait is
//! zero and the size does not grow. Time that the broker was allowed to wait for data does not count.

use std::collections::HashMap;
use std::mem;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, trace, warn};

use super::inbox::Inbox;
use super::partition::{Lost, Next, Risk, Rules, Want};
use super::partitions::{Load, Partitions, Wanted};
use super::position::Stats;
use crate::error::{Error, Result, rounded_up_to_ms};
use crate::message::{JOINED, Names, TopicPartitions, in_order};
use crate::net::{BrokerAddr, Channel, LookUp, ReadBuf, RetryState, Time};
use crate::protocol::fetch::{
    FLAG_PREFER_LOCAL, FetchPartition, FetchRequest, FetchTopic, PartitionAnswer, SEQ_BEYOND_END, WAIT_SLACK_MS,
    adjusted_wait_ms,
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

/// How many times as much as the last answer brought may be asked for: two steps lead from the usual fetch size to the most.
const MAX_STEP_FACTOR: u64 = 16;

/// How many times its fetch size a partition may be asked for.
const MAX_FETCH_FACTOR: u32 = 32;

/// What the partitions of a fetch share, unless their fetch sizes add up to more: enough to keep a link of 20 MB/s with a round
/// trip of 100 ms busy.
const MAX_FETCH_TOTAL: u64 = 32 << 20;

/// Brokers that are asked to wait for data wait longer than this.
const MIN_BROKER_WAIT: Duration = Duration::from_millis(50);

/// How long it may take to learn that a connection had ended before it was used again.
const REUSE_FAILS_WITHIN: Duration = Duration::from_secs(1);

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
    conn: Connection,
    answer: Answer,
}

/// State of the connection. A connection that ended while idle is redialed without resetting it.
#[derive(Default)]
struct Connection {
    /// Of all fetches in flight.
    load: Load,
    /// How many more bytes the decoder needs before it can continue.
    need: usize,
    /// Since when there is nothing to read, after a fetch was sent and while no answer has begun.
    idle_since: Option<Time>,
    /// How many bytes to ask for in total, if the partitions have more than their fetch sizes.
    fetch_total: u64,
    has_answered: bool,
    /// When a fetch was sent on a reused connection; `None` once it has answered with any byte.
    reused_at: Option<Time>,
    /// Whether the previous connection had ended while idle. That is forgiven once: until this one has delivered messages or
    /// served a whole wait, a second such end counts as a failure.
    was_redialed: bool,
}

/// What has come of the answer that is being read.
#[derive(Default)]
struct Answer {
    request_id: u32,
    began: Time,
    /// How long the link was idle before.
    waited: Duration,
    /// Bytes of its chunks.
    bytes: u64,
    has_fault: bool,
    /// The error that ends the subscription after the rest of the answer.
    failure: Option<Error>,
}

/// A fetch in flight, with the index of the partition in each of its slots.
struct InFlight {
    request: FetchRequest,
    indices: Vec<u32>,
    sent: Time,
    load: Load,
}

/// The moment, and what a fetcher works on.
pub(super) struct Context<'a> {
    pub(super) now: Time,
    pub(super) partitions: &'a mut Partitions,
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
            conn: Connection::default(),
            answer: Answer::default(),
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
        self.wanted.is_empty() && !self.is_receiving() && self.conn.load.risky == 0
    }

    /// Returns whether it failed and must not be tried again yet.
    pub(super) fn is_resting(&self, now: Time) -> bool {
        now < self.retry.pause_until
    }

    /// Returns whether it needs a connection that is not up yet.
    pub(super) fn is_coming_up(&self) -> bool {
        !self.wanted.is_empty() && !self.channel.is_up()
    }

    /// Asks for what is wanted, with as many requests as needed, if the connection is up. Otherwise continues to bring it up,
    /// without blocking.
    pub(super) fn ask(&mut self, cx: &mut Context<'_>, look_up: LookUp) {
        self.try_ask(cx, look_up).unwrap_or_else(|e| self.on_failure(cx, &e));
    }

    fn try_ask(&mut self, cx: &mut Context<'_>, look_up: LookUp) -> Result<()> {
        if self.wanted.is_empty() || !self.channel.open(cx.now, look_up)? {
            return Ok(());
        }
        loop {
            let wants = cx.partitions.next_request(&mut self.wanted, self.conn.load)?;
            if wants.is_empty() {
                return self.channel.write(cx.now).map(drop);
            }
            self.send(cx, &wants)?;
        }
    }

    fn send(&mut self, cx: &mut Context<'_>, wants: &[(u32, Want)]) -> Result<()> {
        let conn = &mut self.conn;
        if self.in_flight.is_empty() {
            conn.reused_at = (!self.channel.is_fresh() && !conn.was_redialed).then_some(cx.now);
            // All fetches before were answered, so a connection without an answer is another one.
            if conn.has_answered && self.channel.is_fresh() {
                cx.partitions.looks_for_added = true;
                self.buf.clear();
            }
        }
        let count = |risk| wants.iter().filter(|(_, want)| want.risk >= risk).count();
        let load = Load { risky: count(Risk::Risky), suspects: count(Risk::Suspect) };
        conn.load.risky += load.risky;
        conn.load.suspects += load.suspects;
        conn.idle_since = None;
        let Rules { options, names, .. } = &cx.partitions.rules;
        if !Arc::ptr_eq(&self.buf.block().tag, names) {
            self.buf.set_tag(names.clone());
        }
        let may_wait = wants.iter().all(|(_, want)| want.waits);
        // Only its leader knows where a partition ends.
        let prefer_local = options.prefer_local && wants.iter().all(|(_, want)| want.seq != SEQ_BEYOND_END);
        let share = share(conn.fetch_total, load.risky, options.fetch_size);
        let (topics, indices) = slots(wants, names, share);
        let request = FetchRequest {
            client_version: if prefer_local { 3 } else { 2 },
            request_id: cx.session.next_request_id(),
            client_id: cx.session.config.client_id.clone(),
            max_wait_ms: if may_wait { options.max_wait_ms } else { 0 },
            min_bytes: options.min_bytes,
            flags: if prefer_local { FLAG_PREFER_LOCAL } else { 0 },
            topics,
        };
        let id = request.request_id;
        trace!("{}: fetch {id} of {} partitions", self.channel.broker(), indices.len());
        let fetch = InFlight { request, indices, sent: cx.now, load };
        let wait = if fetch.request.max_wait_ms > 0 { allowed_wait(&fetch.request) } else { Duration::ZERO };
        let allowance = cx.session.config.io_timeout.saturating_add(wait);
        let mut frame = Vec::new();
        let encoded = fetch.request.encode(&mut frame);
        let queued = encoded.map(|()| self.channel.queue(cx.now, id, allowance, frame));
        self.in_flight.insert(id, fetch);
        queued.map_err(Error::encode)
    }

    /// Handles what has arrived, up to the end of an answer or as much as is decoded at once. Returns whether there was anything.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        self.try_receive(cx).unwrap_or_else(|e| {
            self.on_failure(cx, &e);
            true
        })
    }

    fn try_receive(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let now = cx.now;
        if !self.read(now, &mut cx.partitions.stats)? {
            return Ok(false);
        }
        loop {
            let start = self.buf.start();
            let new = cx.inbox.bundles.len();
            let asked = |id| self.in_flight.get(&id).map(|fetch| &fetch.request);
            let step = self.decoder.step(self.buf.data(), &asked, &mut cx.inbox.bundles);
            let (used, step) = step.map_err(|e| Error::decode(e).at(self.channel.broker()))?;
            self.buf.consume(used);
            match step {
                Step::Need(need) => {
                    self.conn.need = need;
                    self.note_beginning(now);
                    return Ok(true);
                }
                Step::Bundles => {
                    if !self.on_bundles(cx, new, start) {
                        return Ok(true);
                    }
                }
                Step::Event(Event::Response { request_id }) => {
                    let waited = self.conn.idle_since.take().map_or(Duration::ZERO, |since| now.since(since));
                    self.conn.has_answered = true;
                    self.answer = Answer { request_id, began: now, waited, ..Answer::default() };
                }
                Step::Event(Event::Partition { slot, answer }) => self.on_answer(cx, slot, answer),
                Step::Event(Event::ChunkEnd { slot, end }) => {
                    let index = self.index(slot);
                    let next = cx.partitions.with(index, |partition, rules| partition.on_chunk_end(now, end, rules));
                    self.perform(cx, index, next);
                }
                Step::Event(Event::End { request_id }) => {
                    if let Some(fetch) = self.in_flight.remove(&request_id) {
                        self.on_end(cx, fetch);
                    }
                    return Ok(true);
                }
            }
        }
    }

    /// Reads what has arrived, but no more than the decoder needs. Returns whether the decoder has enough.
    ///
    /// # Errors
    /// The connection has failed, or something on it is overdue.
    fn read(&mut self, now: Time, stats: &mut Stats) -> Result<bool> {
        if self.is_idle() {
            return Ok(false);
        }
        self.channel.write(now)?;
        while self.conn.need > 0 {
            let is_readable = self.channel.is_readable(now);
            let n = if is_readable { self.channel.read(now, self.buf.room(self.conn.need))? } else { 0 };
            if n == 0 {
                if !self.is_receiving() {
                    self.conn.idle_since.get_or_insert(now);
                }
                return Ok(false);
            }
            self.buf.filled(n);
            stats.bytes += n as u64;
            self.conn.need = self.conn.need.saturating_sub(n);
            self.conn.reused_at = None;
            self.note_beginning(now);
        }
        Ok(true)
    }

    fn note_beginning(&mut self, now: Time) {
        if self.is_receiving() {
            self.channel.on_answer_begin(now);
        }
    }

    /// Returns the index of the partition in this slot of the answer being read.
    fn index(&self, slot: usize) -> u32 {
        self.in_flight[&self.answer.request_id].indices[slot]
    }

    fn on_answer(&mut self, cx: &mut Context<'_>, slot: usize, answer: PartitionAnswer) {
        match answer {
            PartitionAnswer::Data { len, .. } => self.answer.bytes += u64::from(len),
            _ => self.answer.has_fault = true,
        }
        let index = self.index(slot);
        let next = cx.partitions.on_answer(cx.now, index, answer);
        self.perform(cx, index, next);
    }

    /// Hands the bundles of one chunk, from `new` on, to the inbox. Their ranges begin at `start` in the buffer's block. Returns
    /// whether more may be read before some are decoded.
    fn on_bundles(&mut self, cx: &mut Context<'_>, new: usize, start: usize) -> bool {
        let bundles = &mut cx.inbox.bundles[new..];
        let index = self.index(bundles[0].owner as usize);
        for bundle in bundles {
            bundle.owner = index;
            bundle.shift(start);
        }
        self.retry.reset();
        let may_continue = cx.inbox.accept(new, cx.partitions, &self.buf);
        self.conn.was_redialed &= !cx.inbox.has_bundles();
        may_continue
    }

    /// Does what a partition cannot do for itself.
    fn perform(&mut self, cx: &mut Context<'_>, index: u32, next: Next) {
        match next {
            Next::Go => {}
            Next::AskAt(endpoint) => self.on_redirect(cx, index, endpoint),
            Next::NoLeader => {
                let (topic, id) = cx.partitions.name(index);
                cx.session.book.clear_leader(topic, id);
                cx.session.book.demote(self.channel.broker(), cx.now);
                cx.partitions.stats.no_leader += 1;
            }
            Next::Gap(first, last) => cx.partitions.add_gap(index, first, last),
            Next::Fail(e) => _ = self.answer.failure.get_or_insert(e),
        }
    }

    fn on_redirect(&mut self, cx: &mut Context<'_>, index: u32, endpoint: SocketAddrV4) {
        let Context { now, partitions, session: Session { book, .. }, .. } = cx;
        let found = book.resolve_redirect(endpoint);
        // A replica on this host must never be taken for the leader, to which messages are published.
        if let (Ok(Some(leader)), false) = (&found, partitions.rules.options.prefer_local) {
            let (topic, id) = partitions.name(index);
            book.set_leader(topic, id, leader.clone(), *now);
        }
        partitions.stats.redirects += 1;
        let next = partitions.with(index, |partition, rules| partition.on_named(*now, endpoint, found, rules));
        // The first redirect is how leaders are found; the broker that repeats one may not know better.
        if partitions.get(index).rests() {
            book.demote(self.channel.broker(), *now);
        }
        self.perform(cx, index, next);
    }

    /// Ends an answer. A partition that has more is asked for at once, so that the leader sends while the messages of this answer
    /// are handed out.
    fn on_end(&mut self, cx: &mut Context<'_>, fetch: InFlight) {
        let answer = mem::take(&mut self.answer);
        let is_empty = answer.bytes == 0;
        let took = cx.now.since(fetch.sent);
        let max_wait_ms = fetch.request.max_wait_ms;
        self.channel.on_answer_end(cx.now, fetch.request.request_id);
        self.retry.reset();
        self.conn.load.risky -= fetch.load.risky;
        self.conn.load.suspects -= fetch.load.suspects;
        // Over a slow link, an answer without a wait takes long, too.
        let has_waited = max_wait_ms > 0 && took >= Duration::from_millis(adjusted_wait_ms(max_wait_ms));
        if has_waited && !answer.has_fault {
            self.conn.was_redialed = false;
        }
        if fetch.load.risky > 0 {
            self.conn.fetch_total = fetch_total(answer.bytes, answer.waited, cx.now.since(answer.began));
        }
        cx.partitions.stats.fetches += 1;
        cx.partitions.stats.empty_fetches += u64::from(is_empty);
        // The broker cannot have waited as it was asked to.
        let came_early =
            is_empty && !answer.has_fault && took < MIN_BROKER_WAIT.min(Duration::from_millis(max_wait_ms));
        let prefetches = cx.partitions.rules.options.prefetch && cx.inbox.has_bundles();
        let leader = prefetches.then_some(self.channel.broker());
        for index in fetch.indices {
            if cx.partitions.on_end(cx.now, index, came_early, leader) {
                self.wanted.push(index, cx.partitions.get(index).risk());
            }
        }
        if let Some(e) = answer.failure {
            cx.inbox.fail(e);
        }
        self.ask(cx, LookUp::Never);
    }

    /// Drops the connection after `e`, so that its partitions are asked for again.
    #[cold]
    fn on_failure(&mut self, cx: &mut Context<'_>, e: &Error) {
        if let Some(failure) = mem::take(&mut self.answer).failure {
            cx.inbox.fail(failure);
        }
        let was_up = self.channel.is_up();
        // A forked child leaves a connection with its parent's fetches in flight.
        let had_ended_while_idle = self.ended_while_idle(e) || !was_up && !self.is_idle();
        let lost = self.take_lost(e, had_ended_while_idle);
        self.channel.close();
        self.decoder = new_decoder(cx.session);
        self.buf.clear();
        self.conn = Connection { was_redialed: had_ended_while_idle, ..Connection::default() };
        if !e.is_transient() {
            return cx.inbox.fail(e.clone());
        }
        let mut given_up = None;
        for (index, how) in lost {
            given_up = cx.partitions.on_lost(cx.now, index, how, e).err().or(given_up);
        }
        if had_ended_while_idle && given_up.is_none() {
            cx.partitions.looks_for_added = true;
            return debug!("{e:#}, had ended while idle, dialing again");
        }
        let until = self.retry.retry_for_ever(cx.now, &cx.session.retry_policy());
        self.channel.rest_until(until);
        let Stats { reconnects, failed_brokers, .. } = &mut cx.partitions.stats;
        let count = if was_up { reconnects } else { failed_brokers };
        *count += 1;
        cx.session.book.demote_failed(self.channel.broker(), cx.now);
        match given_up {
            Some(e) => cx.inbox.fail(e),
            None => warn!("{e:#}, trying again in {:?}", rounded_up_to_ms(until.since(cx.now))),
        }
        // Probing after the last partition is done would keep the subscription alive on a broker that drops every connection.
        if !cx.partitions.all_done() {
            cx.partitions.probe();
        }
    }

    /// Takes away all partitions that were asked for or wanted when the connection failed with `e`. Returns their indices, in
    /// order, and how each was lost.
    fn take_lost(&mut self, e: &Error, while_idle: bool) -> Vec<(u32, Lost)> {
        let mut lost = Vec::new();
        for fetch in mem::take(&mut self.in_flight).into_values() {
            let how = Lost { while_idle, ..self.how_lost(&fetch, e) };
            lost.extend(fetch.indices.iter().map(|&index| (index, how)));
        }
        let how = Lost { while_idle: while_idle || self.channel.is_up(), ..Lost::default() };
        lost.extend(self.wanted.drain().map(|index| (index, how)));
        // A hash map has no order, and a simulation must repeat.
        lost.sort_by_key(|(index, _)| *index);
        lost
    }

    /// Returns what the end of the connection says about one fetch.
    fn how_lost(&self, fetch: &InFlight, e: &Error) -> Lost {
        let waited = self.channel.last_look().since(fetch.sent);
        let is_silent = !self.is_receiving();
        let is_overdue = e.is_timeout() || is_silent && waited > allowed_wait(&fetch.request);
        let may_be_deadly = is_silent && e.is_connection_lost() && waited < DIES_WITHIN;
        let healthy_for = self.channel.healthy_for();
        Lost {
            // Waiting for an overdue answer is not a sign of health; waiting that the request allowed is.
            healthy_for: if is_overdue { healthy_for.saturating_sub(waited) } else { healthy_for },
            unanswered: may_be_deadly && self.channel.handed_over(fetch.request.request_id),
            alone: self.conn.load.risky == 1,
            ..Lost::default()
        }
    }

    fn ended_while_idle(&self, e: &Error) -> bool {
        let ended_soon_after = |sent| self.channel.last_look().since(sent) < REUSE_FAILS_WITHIN;
        e.is_connection_lost() && self.conn.reused_at.is_some_and(ended_soon_after)
    }

    /// Returns the connection to the pool if nothing is awaited on it.
    pub(super) fn give_back(self, session: &Session) {
        if self.is_idle() && self.buf.data().is_empty() {
            session.pool.put(self.channel);
        }
    }
}

/// Returns how long a broker may take to answer if there is no data.
fn allowed_wait(request: &FetchRequest) -> Duration {
    Duration::from_millis(adjusted_wait_ms(request.max_wait_ms) + WAIT_SLACK_MS)
}

/// Returns how many bytes to ask for next, after this wait and an answer of this many bytes that took this long.
fn fetch_total(bytes: u64, waited: Duration, took: Duration) -> u64 {
    if waited < SHORT_WAIT {
        return 0;
    }
    let carried = waited.as_nanos().saturating_mul(WAITS_WORTH * u128::from(bytes)) / took.as_nanos().max(1);
    u64::try_from(carried).unwrap_or(u64::MAX).min(bytes.saturating_mul(MAX_STEP_FACTOR)).min(MAX_FETCH_TOTAL)
}

/// Returns how many bytes each of the partitions that have more may be asked for.
fn share(fetch_total: u64, partitions: usize, fetch_size: u32) -> u32 {
    let share = u32::try_from(fetch_total / partitions.max(1) as u64).unwrap_or(u32::MAX);
    share.min(fetch_size.saturating_mul(MAX_FETCH_FACTOR))
}

/// Returns the topics of a request, each once, with their partitions in the order of the subscription, and the index of the
/// partition in each slot. Those that have more are asked for at least `share` bytes.
fn slots(wants: &[(u32, Want)], names: &Names, share: u32) -> (Vec<FetchTopic>, Vec<u32>) {
    let topic = |of: &(u32, Want)| names.get(of.0).0;
    let order = in_order(&mut wants.iter().map(|of| (&**topic(of), of.0)));
    let wants: Vec<(u32, Want)> = order.iter().map(|&at| wants[at as usize]).collect();
    let topics = wants.chunk_by(|a, b| topic(a) == topic(b)).map(|of_topic| {
        let partitions = of_topic.iter().map(|&(index, Want { seq, fetch_size, risk, .. })| {
            let fetch_size = if risk > Risk::Harmless { fetch_size.max(share) } else { fetch_size };
            FetchPartition { partition: names.get(index).1, seq, fetch_size }
        });
        FetchTopic { name: topic(&of_topic[0]).clone(), partitions: partitions.collect() }
    });
    (topics.collect(), wants.iter().map(|(index, _)| *index).collect())
}

fn new_decoder(session: &Session) -> FetchDecoder {
    let mut decoder = FetchDecoder::new(session.config.limits.clone());
    decoder.join_up_to(JOINED);
    decoder
}

#[cfg(test)]
mod tests;
