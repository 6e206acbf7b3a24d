//! The queues, and what carries their bundles to the leaders and answers back: one connection a leader, several requests in flight.
//!
//! ```text
//!                      ┌── pauses <─┐
//!                      v            │
//!   PartitionQueue ─> changed ──> line_up() ──> backlog of a leader ──next()──> request ──> Channel
//!         ^                                                                                    │
//!         └─────────────────── on_answer(), on_lost() <────────── next_answer() <──────────────┘
//! ```
//!
//! A step looks at the queues that have changed and at those that it sends for, not at those that wait.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use log::{Level, debug, info, log, warn};

use super::bundle::{BrokerId, Bundle, Spares};
use super::leader::{Content, FULL_REQUEST, Leader, MAX_BUNDLES, SentRequest, group, states_request};
use super::numbering::Numbering;
use super::outcome::{Answer, Reply};
use super::queue::{PartitionQueue, ToSend};
use super::records::Failure;
use crate::config::PublishOptions;
use crate::error::{Error, Fault, Result};
use crate::net::{BrokerAddr, Channel, LookUp, Refusal, Time, wait};
use crate::protocol::produce::{CLIENT_VERSION, ProduceRequest};
use crate::session::Session;

/// A bundle of at most this many bytes is copied into its request: that costs less than a piece of its own.
const SMALL_BUNDLE: usize = 4 << 10;

/// How long queues are in line for a leader that is being dialed, before the address book is asked again who leads them.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// See the [module](self).
pub(super) struct Driver {
    session: Arc<Session>,
    options: PublishOptions,
    /// The most requests with bundles in flight to a leader, not counting late ones. Any number of those with a numbered bundle: they
    /// go one per partition.
    window: usize,
    /// Whether bundles have explicit numbers.
    numbered: bool,
    /// One for each partition, which is known by its index.
    pub(super) queues: Vec<PartitionQueue>,
    pub(super) spares: Spares,
    /// Bytes that all queues hold for records that are neither stored nor have failed.
    pub(super) pending_bytes: usize,
    pub(super) leaders: Vec<Leader>,
    by_addr: BTreeMap<BrokerAddr, BrokerId>,
    /// Queues that may have changed since a step looked at what they have to send.
    changed: Vec<usize>,
    /// The ends of pauses, and which queue each concerns. Some may not be of interest any more.
    pauses: BTreeSet<(Time, usize)>,
    /// Records that were not stored, or may not have been, in order within each partition.
    pub(super) failures: Vec<Failure>,
    /// Topics and how many partitions each has, and whether a connection was lost since these were counted: then they are counted
    /// again by the next broker that a request goes to.
    pub(super) counts: Vec<(Arc<str>, u16)>,
    connection_lost: bool,
    /// The moment of the last step.
    pub(super) stepped: Time,
    /// Whether there was a wait since then.
    has_waited: bool,
}

impl Driver {
    pub(super) fn new(session: &Arc<Session>, options: PublishOptions, window: usize, numbered: bool) -> Driver {
        Driver {
            session: session.clone(),
            options,
            window: if numbered { usize::MAX } else { window },
            numbered,
            queues: Vec::new(),
            spares: Spares::default(),
            pending_bytes: 0,
            leaders: Vec::new(),
            by_addr: BTreeMap::new(),
            changed: Vec::new(),
            pauses: BTreeSet::new(),
            failures: Vec::new(),
            counts: Vec::new(),
            connection_lost: false,
            stepped: Time::ZERO,
            has_waited: false,
        }
    }

    /// Adds a partition, and returns its index.
    pub(super) fn add(&mut self, topic: Arc<str>, partition: u16, numbering: Option<Numbering>) -> usize {
        let (compression, policy) = (self.options.compression, self.session.leader_policy());
        let queue = PartitionQueue { topic, partition, compression, policy, numbering, ..PartitionQueue::default() };
        self.queues.push(queue);
        self.queues.len() - 1
    }

    /// Removes all partitions, of which none may have anything to send.
    pub(super) fn clear(&mut self) {
        self.queues.clear();
        self.pauses.clear();
        self.leaders.iter_mut().for_each(|leader| leader.backlog.clear());
    }

    /// Makes a bundle of what a partition has collected, to be sent by the next step.
    pub(super) fn seal(&mut self, queue: usize) -> Result<()> {
        self.changed.push(queue);
        let queue = &mut self.queues[queue];
        if queue.is_idle() {
            queue.progressed = self.session.net.coarse_now();
        }
        queue.seal(&mut self.spares).map(|()| queue.recount(&mut self.pending_bytes))
    }

    /// Takes back failures, to send them again.
    pub(super) fn take_back(&mut self, queue: usize, bundle: Bundle) {
        self.queues[queue].take_back(bundle);
        self.touch(queue);
    }

    /// Returns whether something is in flight or waits to be sent.
    pub(super) fn is_busy(&mut self) -> bool {
        !self.pauses.is_empty() || self.leaders.iter_mut().any(|leader| leader.awaited().is_some())
    }

    /// Takes in the answers that have arrived and sends what may be sent, without waiting for anything.
    pub(super) fn step(&mut self, look_up: LookUp) {
        if !mem::take(&mut self.has_waited) && self.leaders.iter_mut().any(|leader| leader.awaited().is_some()) {
            // Only this tells what has come. If this machine cannot wait, the next wait says so.
            _ = wait(&*self.session.net, &mut self.leaders.iter_mut().filter_map(Leader::awaited), None, Time::ZERO);
        }
        let now = self.session.now();
        self.stepped = now;
        for id in 0..self.leaders.len() {
            if !self.leaders[id].in_flight.is_empty() {
                self.carry(id, now).unwrap_or_else(|e| self.lose(id, now, &e));
            }
        }
        loop {
            self.line_up(now);
            for id in 0..self.leaders.len() {
                self.send_to(id, now, look_up);
            }
            if self.changed.is_empty() {
                break;
            }
        }
    }

    /// Blocks until there may be something to do, but no longer than `until`.
    pub(super) fn wait(&mut self, until: Time) -> Result<()> {
        // Work that was due at the last step could not continue then, and waits for something to arrive. Work that has become due
        // since then is due at once.
        let backlogs = self.leaders.iter().filter(|leader| !leader.backlog.is_empty());
        // Late requests make room for others.
        let late = backlogs.clone().flat_map(|leader| leader.in_flight.iter().map(SentRequest::is_late_at));
        let looks = backlogs.filter(|leader| !leader.channel.is_up()).map(|leader| leader.look_at);
        let times = looks.chain(self.pauses.first().map(|(end, _)| *end));
        let due = times.chain(late).filter(|time| *time > self.stepped).fold(until, Time::min);
        self.has_waited = true;
        self.session.wait(&mut self.leaders.iter_mut().filter_map(Leader::awaited), due).map(drop)
    }

    /// Puts each queue that has changed, or whose pause is over, where it belongs: in line for its leader, among those that pause,
    /// or nowhere, if it has nothing to send.
    fn line_up(&mut self, now: Time) {
        while let Some(&(end, index)) = self.pauses.first().filter(|(end, _)| *end <= now) {
            self.pauses.remove(&(end, index));
            self.changed.push(index);
        }
        for at in 0..self.changed.len() {
            let index = self.changed[at];
            let queue = &mut self.queues[index];
            let (line, pause_until) = (queue.line.take(), queue.retry.pause_until);
            // A window of one keeps the order, whatever is refused.
            if !queue.has_work() || (self.window == 1 && queue.leader.is_some()) {
                continue;
            }
            if pause_until > now {
                self.pauses.insert((pause_until, index));
                continue;
            }
            // After the bundles in flight, or to the broker that leads by now.
            let id = queue.leader.unwrap_or_else(|| self.leader_of(index));
            let (leader, queue) = (&mut self.leaders[id], &mut self.queues[index]);
            leader.look_at = leader.look_at.min(queue.retry.gives_up_at(&queue.policy)).min(now.after(LOOK_AGAIN));
            queue.line = Some(id);
            if line != queue.line {
                leader.backlog.push_back(index);
            }
        }
        self.changed.clear();
    }

    /// Returns the broker that leads a queue's partition, as far as that is known.
    fn leader_of(&mut self, index: usize) -> BrokerId {
        let queue = &self.queues[index];
        let addr = self.session.book.leader_or_any(&queue.topic, queue.partition);
        *self.by_addr.entry(addr).or_insert_with_key(|addr| {
            self.leaders.push(Leader::new(self.session.pool.take(addr), &self.session.config.limits));
            self.leaders.len() - 1
        })
    }

    /// Notes a leader's addresses, and takes what a leader with one in common holds for held by this one: they may be one broker,
    /// which does not confirm itself. A name may also stand for several brokers: then only marks confirm what they hold.
    fn note_addresses(&mut self, id: BrokerId, queue: usize) {
        let leader = &mut self.leaders[id];
        let Some(address) = leader.channel.address().filter(|_| self.numbered) else { return };
        let known = leader.channel.addresses(LookUp::Never).unwrap_or_default();
        leader.addresses.extend(known.into_iter().chain([address]));
        let of = |leader: BrokerId| &self.leaders[leader].addresses;
        let held = self.queues[queue].bundles.iter_mut().map_while(|next| next.range.and(Some(&mut next.held_at)));
        held.flatten().filter(|holder| !of(**holder).is_disjoint(of(id))).for_each(|holder| *holder = id);
    }

    /// Sends a leader what is in line for it, while there is room.
    fn send_to(&mut self, id: BrokerId, now: Time, look_up: LookUp) {
        let leader = &mut self.leaders[id];
        // Some may be in line elsewhere by now.
        while leader.backlog.front().is_some_and(|&index| self.queues[index].line != Some(id)) {
            leader.backlog.pop_front();
        }
        if !leader.may_send(now, self.window) || !self.open(id, now, look_up) {
            return;
        }
        if self.leaders[id].in_flight.is_empty() {
            self.note_first_use(id);
        }
        if mem::take(&mut self.connection_lost) {
            for (topic, _) in &self.counts {
                let request_id = self.session.next_request_id();
                let question = Content::PartitionCount(states_request(request_id, topic));
                self.leaders[id].ask(now, request_id, vec![], question, self.session.config.io_timeout);
            }
        }
        while self.leaders[id].may_send(now, self.window) {
            self.send_next(id, now);
        }
        if let Err(e) = self.leaders[id].channel.write(now) {
            self.lose(id, now, &e);
        }
    }

    /// Opens the connection to a leader. Returns whether it is open; if it cannot be opened, the queues in line are told.
    fn open(&mut self, id: BrokerId, now: Time, look_up: LookUp) -> bool {
        let leader = &mut self.leaders[id];
        // The fate of numbered bundles is decided on a connection that was dialed after the previous one was reset.
        if !leader.used && !self.numbered {
            self.session.pool.replace(&mut leader.channel);
        }
        match leader.channel.open(now, look_up) {
            Ok(true) => return true,
            // Others may have found out meanwhile who leads.
            Ok(false) if now >= leader.look_at => self.dissolve(id, &|queue| queue.give_up_if_expired(now)),
            Ok(false) => {}
            Err(e) => {
                debug!("{e:#}");
                self.session.book.demote_failed(leader.channel.broker(), now);
                let brokers = self.session.book.brokers().len();
                self.dissolve(id, &|queue| queue.on_unreachable(now, &e, brokers));
            }
        }
        false
    }

    /// Notes that something is sent to a leader from which no answer is awaited, perhaps on another connection than before.
    fn note_first_use(&mut self, id: BrokerId) {
        let leader = &mut self.leaders[id];
        let was_used = mem::replace(&mut leader.used, true);
        if !leader.channel.is_fresh() {
            return;
        }
        leader.answers.clear();
        // A connection that had ended while idle was dialed again silently.
        self.connection_lost |= was_used;
        for numbering in self.queues.iter_mut().map_while(|queue| queue.numbering.as_mut()) {
            // This leader may have lost what its log ended with.
            numbering.leader.take_if(|leader| *leader == id);
        }
    }

    /// Sends a request with the bundles of those next in line, as many as it takes, and asks the questions of those before them.
    fn send_next(&mut self, id: BrokerId, now: Time) {
        // An answer waits for the replicas of its slowest partition, and the next numbered bundle must wait for the answer.
        let max = if self.numbered { 1 } else { MAX_BUNDLES };
        let mut from = Vec::new();
        let mut bytes = 0;
        while from.len() < max {
            let leader = &mut self.leaders[id];
            let Some(index) = leader.backlog.pop_front() else { break };
            let queue = &mut self.queues[index];
            if queue.line.take_if(|line| *line == id).is_none() {
                continue;
            }
            match queue.next(now, id) {
                Some(ToSend::Bundle) => {
                    bytes += queue.first_waiting().map_or(0, |bundle| bundle.bytes().len());
                    if bytes > FULL_REQUEST && !from.is_empty() {
                        queue.line = Some(id);
                        leader.backlog.push_front(index);
                        break;
                    }
                    from.push(index);
                }
                Some(question) => self.send_question(id, now, index, question),
                None => {}
            }
        }
        if !from.is_empty() {
            self.send_bundles(id, now, from);
        }
    }

    /// Asks what a queue must know before it can send its next bundle.
    fn send_question(&mut self, id: BrokerId, now: Time, index: usize, question: ToSend) {
        let request_id = self.session.next_request_id();
        let queue = &mut self.queues[index];
        let (topic, partition) = (&queue.topic, queue.partition);
        let content = match question {
            ToSend::Mark => Content::Mark { request: states_request(request_id, topic), partition },
            _ => Content::End(self.session.end_request(request_id, topic, &[partition])),
        };
        self.leaders[id].ask(now, request_id, vec![index], content, self.session.config.io_timeout);
        queue.sent(request_id, id, question);
    }

    /// Sends one request with the first bundles of these queues.
    fn send_bundles(&mut self, id: BrokerId, now: Time, mut from: Vec<usize>) {
        let request_id = self.session.next_request_id();
        let topics = group(&self.queues, &mut from);
        let request = ProduceRequest {
            client_version: CLIENT_VERSION,
            request_id,
            client_id: Cow::Borrowed(&self.session.config.client_id),
            required_acks: self.options.required_acks(),
            ack_timeout_ms: self.options.ack_timeout_ms(),
            with_seqnum: self.numbered,
            topics,
        };
        let shape = request.shape().collect();
        let first_seq = self.queues[from[0]].first_waiting().map_or(0, Bundle::first_seq);
        let allowance = self.session.config.io_timeout.saturating_add(self.options.ack_timeout);
        let encoded = request.encode_around(SMALL_BUNDLE);
        // Records that cannot be encoded were refused when they came in.
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        let Ok((head, places)) = encoded else { return };
        let head = Arc::new(head);
        let bundles = from.iter().filter_map(|&queue| self.queues[queue].first_waiting());
        let large = bundles.filter(|bundle| bundle.bytes().len() > SMALL_BUNDLE);
        let mut pieces = Vec::with_capacity(2 * places.len() + 1);
        let mut start = 0;
        for (bundle, place) in large.zip(places) {
            pieces.push((head.clone(), start..place));
            pieces.push(bundle.piece());
            start = place;
        }
        if start < head.len() {
            pieces.push((head.clone(), start..head.len()));
        }
        self.leaders[id].channel.queue_pieces(now, request_id, allowance, &mut pieces.into_iter());
        for &queue in &from {
            self.queues[queue].sent(request_id, id, ToSend::Bundle);
            self.changed.push(queue);
        }
        let content = Content::Bundles { shape, first_seq };
        self.leaders[id].in_flight.push_back(SentRequest { id: request_id, since: now, queues: from, content });
    }

    /// Moves bytes both ways and takes in answers, as far as possible without waiting.
    fn carry(&mut self, id: BrokerId, now: Time) -> Result<()> {
        // Answers that came before a connection failed count.
        let written = self.leaders[id].channel.write(now).map(drop);
        while let Some((request, answers)) = self.leaders[id].next_answer(now, &self.session.config.limits)? {
            if let (Content::PartitionCount(asked), [Ok(Reply::Partitions(count))]) = (&request.content, &*answers) {
                self.on_partition_count(&asked.topic, *count);
            }
            for (&queue, answer) in request.queues.iter().zip(answers) {
                self.on_answer(id, now, &request, answer, queue);
                self.touch(queue);
            }
        }
        written
    }

    fn on_partition_count(&mut self, topic: &str, count: u16) {
        if let Some((topic, before)) = self.counts.iter_mut().find(|(counted, _)| **counted == *topic) {
            if count > 0 && *before != count {
                info!("{topic}: {count} partitions, {before} before");
                *before = count;
            }
        }
    }

    /// Tells a queue what was answered about it.
    fn on_answer(&mut self, from: BrokerId, now: Time, request: &SentRequest, answer: Answer, queue: usize) {
        self.note_addresses(from, queue);
        let queue = &mut self.queues[queue];
        let (book, broker) = (&self.session.book, self.leaders[from].channel.broker());
        let (topic, partition) = (&queue.topic, queue.partition);
        let is_torn =
            matches!(request.content, Content::Bundles { .. }) && answer == Err(Refusal::Fault(Fault::System));
        if is_torn && queue.numbering.is_some() {
            warn!("{topic}/{partition}: {broker} has trouble with its files: the end of its log may be damaged");
        }
        queue.answered_by = Some(broker.clone());
        let followed = book.note_reply(broker, topic, partition, now, answer);
        queue.on_answer(now, from, request.id, followed);
        if queue.redirects > 1 {
            // It may be the only node that says so, or the leader that it named before could not be reached.
            book.demote(broker, now);
        }
        if let Some((first, last)) = queue.gap.take() {
            warn!("{}/{partition}: numbers {first} to {last} are missing at the end of the leader's log", queue.topic);
        }
        // Not while it must wait for other answers before it fails.
        if let Some(e) = queue.trouble.as_ref().filter(|_| !queue.is_failing()) {
            log!(if e.is_redirect() { Level::Debug } else { Level::Warn }, "{e:#}, trying again");
        }
    }

    /// Takes in the changes of a queue.
    fn touch(&mut self, index: usize) {
        self.changed.push(index);
        let queue = &mut self.queues[index];
        queue.recount(&mut self.pending_bytes);
        for (bundle, outcome) in queue.take_deliveries() {
            queue.progressed = self.stepped;
            let Err(error) = outcome else {
                queue.stored += u64::from(bundle.count);
                self.spares.put_buffer(bundle.memory);
                continue;
            };
            let (topic, partition, unpacked) = (queue.topic.clone(), queue.partition, OnceLock::new());
            self.failures.push(Failure { topic, partition, bundle, error, queue: index, unpacked });
        }
    }

    /// Takes all queues out of line for a leader, and tells each of them why.
    fn dissolve(&mut self, id: BrokerId, tell: &dyn Fn(&mut PartitionQueue)) {
        self.leaders[id].look_at = Time::NEVER;
        for index in mem::take(&mut self.leaders[id].backlog) {
            if self.queues[index].line.take_if(|line| *line == id).is_some() {
                tell(&mut self.queues[index]);
                self.touch(index);
            }
        }
    }

    /// Lets others use the connections on which nothing is awaited.
    pub(super) fn release(&mut self) {
        let pool = &self.session.pool;
        for leader in self.leaders.iter_mut().filter(|leader| leader.in_flight.is_empty()) {
            let down = Channel::new(leader.channel.broker().clone(), pool.settings.clone());
            // Whoever used it next would find the end of a ping whose beginning was read here.
            let clean = Some(mem::replace(&mut leader.channel, down)).filter(|_| leader.answers.data().is_empty());
            clean.into_iter().for_each(|channel| pool.put(channel));
            leader.answers.clear();
            leader.used = false;
        }
    }

    /// Gives a connection up with a reset, so that unanswered requests are not executed later.
    fn lose(&mut self, id: BrokerId, now: Time, e: &Error) {
        let leader = &mut self.leaders[id];
        warn!("{e:#}");
        if e.is_transient() {
            self.session.book.demote_failed(leader.channel.broker(), now);
        }
        let healthy_for = leader.channel.healthy_for();
        for request in mem::take(&mut leader.in_flight) {
            let handed_over = self.leaders[id].channel.handed_over(request.id);
            for queue in request.queues {
                // The wait for an answer that did not come is no sign of health, nor is one for the request to get through.
                self.queues[queue].retry.was_healthy_for(healthy_for.saturating_sub(now.since(request.since)));
                self.queues[queue].on_lost(now, request.id, e, handed_over);
                self.touch(queue);
            }
        }
        // Others may lead now.
        self.dissolve(id, &|_| {});
        self.leaders[id].channel.reset();
        self.leaders[id].answers.clear();
        self.connection_lost = true;
    }
}

impl Drop for Driver {
    /// Neither reads nor waits.
    fn drop(&mut self) {
        self.release();
        // In a forked child the others are the parent's.
        self.session.pool.settings.look_at_process();
        self.leaders.iter_mut().for_each(|leader| leader.channel.reset());
    }
}

#[cfg(test)]
mod tests;
