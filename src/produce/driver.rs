//! The queues, and what carries their bundles to the leaders and answers back: one connection a leader, several requests in flight.
//!
//! ```text
//!                      ┌── pauses <─┐
//!                      v            │
//!   PartitionQueue ─> changed ─> enqueue_changed() ─> backlog of a leader ─> prepare_next() ─> request ─> Channel
//!         ^                                                                                                  │
//!         └───────────────── on_answer(), on_lost() <────────── next_answer() <──────────────────────────────┘
//! ```
//!
//! A step looks at the queues that have changed and at those that it sends for, not at those that wait.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use log::{Level, debug, info, log, warn};

use super::bundle::{Bundle, LeaderIndex, Spares};
use super::leader::{Content, FULL_REQUEST, Leader, MAX_PER_REQUEST, SentRequest, states_request};
use super::queue::{Answer, PartitionQueue, Reply, ToSend};
use super::records::Failure;
use crate::config::PublishOptions;
use crate::error::{Error, Fault, Result};
use crate::net::{BrokerAddr, Channel, LookUp, Refusal, Time, wait};
use crate::protocol::produce::{CLIENT_VERSION, ProducePartition, ProduceRequest, ProduceTopic};
use crate::session::Session;

/// A bundle of at most this many bytes is copied into its request: that costs less than a piece of its own.
const SMALL_BUNDLE: usize = 4 << 10;

/// How long queues are in line for a leader that is being dialed, before the address book is asked again who leads them.
const RECHECK_LEADER_AFTER: Duration = Duration::from_millis(250);

/// Sends what the queues of a producer or a publish have, and tells them the outcomes.
pub(super) struct Driver {
    session: Arc<Session>,
    options: PublishOptions,
    /// The most requests with bundles in flight to a leader, not counting late ones. No limit for numbered bundles, of which each
    /// partition has at most one in flight.
    window: usize,
    /// Whether bundles have explicit numbers.
    numbered: bool,
    /// One for each partition, which is known by its index.
    pub(super) destinations: Vec<Destination>,
    pub(super) spares: Spares,
    /// Bytes that all queues hold for records that are neither stored nor have failed.
    pub(super) pending_bytes: usize,
    pub(super) leaders: Vec<Leader>,
    by_addr: BTreeMap<BrokerAddr, LeaderIndex>,
    /// Queues that may have changed since a step looked at what they have to send.
    changed: Vec<usize>,
    /// The ends of pauses, and which queue each concerns. Some may not be of interest any more.
    pauses: BTreeSet<(Time, usize)>,
    /// Records that were not stored, or may not have been, in order within each partition.
    pub(super) failures: Vec<Failure>,
    pub(super) counts: Vec<PartitionCount>,
    /// Whether a connection was lost since the partitions were counted: the next broker that a request goes to counts them again.
    connection_lost: bool,
    /// The moment of the last step.
    pub(super) last_step: Time,
    /// Whether there was a wait since then.
    has_waited: bool,
}

/// A partition to publish to: its queue, and what the driver keeps beside it.
#[derive(Default)]
pub(super) struct Destination {
    pub(super) queue: PartitionQueue,
    /// The leader whose backlog it is in.
    backlog_of: Option<LeaderIndex>,
    /// When it last made progress.
    pub(super) progressed: Time,
    /// Records stored so far.
    pub(super) stored: u64,
    /// The bytes that the queue held at the last count.
    counted: usize,
}

/// How many partitions a topic has.
pub(super) struct PartitionCount {
    pub(super) topic: Arc<str>,
    pub(super) count: u16,
}

impl Driver {
    pub(super) fn new(session: &Arc<Session>, options: PublishOptions, window: usize, numbered: bool) -> Driver {
        Driver {
            session: session.clone(),
            options,
            window: if numbered { usize::MAX } else { window },
            numbered,
            destinations: Vec::new(),
            spares: Spares::default(),
            pending_bytes: 0,
            leaders: Vec::new(),
            by_addr: BTreeMap::new(),
            changed: Vec::new(),
            pauses: BTreeSet::new(),
            failures: Vec::new(),
            counts: Vec::new(),
            connection_lost: false,
            last_step: Time::ZERO,
            has_waited: false,
        }
    }

    /// Adds a partition, and returns its index.
    pub(super) fn add(&mut self, topic: Arc<str>, partition: u16, is_idempotent: bool) -> usize {
        let policy = self.session.leader_policy();
        let mut queue = PartitionQueue::new(topic, partition, self.options.compression, policy);
        queue.numbering.is_on = is_idempotent;
        self.destinations.push(Destination { queue, ..Destination::default() });
        self.destinations.len() - 1
    }

    /// Removes all partitions, of which none may have anything to send.
    pub(super) fn clear(&mut self) {
        self.destinations.clear();
        self.pauses.clear();
        for leader in &mut self.leaders {
            leader.backlog.clear();
        }
    }

    /// Makes a bundle of what a partition has collected, to be sent by the next step.
    pub(super) fn seal(&mut self, index: usize) -> Result<()> {
        self.changed.push(index);
        let destination = &mut self.destinations[index];
        if destination.queue.is_idle() {
            destination.progressed = self.session.net.coarse_now();
        }
        destination.queue.seal(&mut self.spares)?;
        self.recount(index);
        Ok(())
    }

    /// Updates the sum of the bytes that all queues hold.
    pub(super) fn recount(&mut self, index: usize) {
        let Destination { queue, counted, .. } = &mut self.destinations[index];
        self.pending_bytes = self.pending_bytes + queue.held() - mem::replace(counted, queue.held());
    }

    /// Takes back failures, to send them again.
    pub(super) fn take_back(&mut self, index: usize, bundle: Bundle) {
        self.destinations[index].queue.take_back(bundle);
        self.collect_outcomes(index);
    }

    /// Returns whether something is in flight or waits to be sent.
    pub(super) fn is_busy(&mut self) -> bool {
        !self.pauses.is_empty() || self.leaders.iter_mut().any(|leader| leader.awaited().is_some())
    }

    /// Handles the answers that have arrived and sends what may be sent, without waiting for anything.
    pub(super) fn step(&mut self, look_up: LookUp) {
        if !mem::take(&mut self.has_waited) && self.leaders.iter_mut().any(|leader| leader.awaited().is_some()) {
            // Only this tells what has come. If this machine cannot wait, the next wait says so.
            _ = wait(&*self.session.net, &mut self.leaders.iter_mut().filter_map(Leader::awaited), None, Time::ZERO);
        }
        let now = self.session.now();
        self.last_step = now;
        for id in 0..self.leaders.len() {
            if !self.leaders[id].in_flight.is_empty() {
                if let Err(e) = self.exchange(id, now) {
                    self.on_connection_lost(id, now, &e);
                }
            }
        }
        loop {
            self.enqueue_changed(now);
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
        // Deadlines up to the last step are ignored: that step has tried them, and now only an arrival helps.
        let backlogs = self.leaders.iter().filter(|leader| !leader.backlog.is_empty());
        // Late requests make room for others.
        let late = backlogs.clone().flat_map(|leader| leader.in_flight.iter().map(SentRequest::is_late_at));
        let looks = backlogs.filter(|leader| !leader.channel.is_up()).map(|leader| leader.recheck_at);
        let times = looks.chain(self.pauses.first().map(|(end, _)| *end));
        let due = times.chain(late).filter(|time| *time > self.last_step).fold(until, Time::min);
        self.has_waited = true;
        self.session.wait(&mut self.leaders.iter_mut().filter_map(Leader::awaited), due).map(drop)
    }

    /// Puts each queue that has changed, or whose pause is over, where it belongs: in line for its leader, among those that pause,
    /// or nowhere, if it has nothing to send.
    fn enqueue_changed(&mut self, now: Time) {
        while let Some(&(end, index)) = self.pauses.first().filter(|(end, _)| *end <= now) {
            self.pauses.remove(&(end, index));
            self.changed.push(index);
        }
        for at in 0..self.changed.len() {
            let index = self.changed[at];
            let destination = &mut self.destinations[index];
            let was_in_backlog_of = destination.backlog_of.take();
            let queue = &destination.queue;
            // With a window of one, the next bundle waits until the previous one is resolved.
            if !queue.has_work() || (self.window == 1 && queue.leader.is_some()) {
                continue;
            }
            if queue.pause_until() > now {
                self.pauses.insert((queue.pause_until(), index));
                continue;
            }
            let give_up = queue.gives_up_at();
            // After the bundles in flight, or to the broker that leads by now.
            let id = queue.leader.unwrap_or_else(|| self.leader_of(index));
            let leader = &mut self.leaders[id];
            leader.recheck_at = leader.recheck_at.min(give_up).min(now.after(RECHECK_LEADER_AFTER));
            self.destinations[index].backlog_of = Some(id);
            if was_in_backlog_of != Some(id) {
                leader.backlog.push_back(index);
            }
        }
        self.changed.clear();
    }

    /// Returns the broker that leads a queue's partition, as far as that is known.
    fn leader_of(&mut self, index: usize) -> LeaderIndex {
        let queue = &self.destinations[index].queue;
        let addr = self.session.book.leader_or_any(&queue.topic, queue.partition);
        *self.by_addr.entry(addr).or_insert_with_key(|addr| {
            self.leaders.push(Leader::new(self.session.pool.take(addr), &self.session.config.limits));
            self.leaders.len() - 1
        })
    }

    /// Notes a leader's addresses. Two names may be one broker, and a broker must not count as its own replica: bundles that are
    /// held by a leader with one of these addresses are taken for held by this one. A name may also stand for several brokers: then
    /// only marks confirm what they hold.
    fn note_addresses(&mut self, id: LeaderIndex, index: usize) {
        let leader = &mut self.leaders[id];
        let Some(address) = leader.channel.address() else { return };
        leader.addresses.insert(address);
        leader.addresses.extend(leader.channel.addresses(LookUp::Never).unwrap_or_default());
        let of = |leader: LeaderIndex| &self.leaders[leader].addresses;
        self.destinations[index].queue.move_held(id, |holder| !of(holder).is_disjoint(of(id)));
    }

    /// Sends a leader what is in line for it, while there is room.
    fn send_to(&mut self, id: LeaderIndex, now: Time, look_up: LookUp) {
        let leader = &mut self.leaders[id];
        // Some may be in line elsewhere by now.
        while leader.backlog.front().is_some_and(|&index| self.destinations[index].backlog_of != Some(id)) {
            leader.backlog.pop_front();
        }
        if !leader.may_send(now, self.window) || !self.open(id, now, look_up) {
            return;
        }
        if self.leaders[id].in_flight.is_empty() {
            self.note_first_use(id);
        }
        if mem::take(&mut self.connection_lost) {
            for PartitionCount { topic, .. } in &self.counts {
                let request_id = self.session.next_request_id();
                let question = Content::PartitionCount(states_request(request_id, topic));
                self.leaders[id].ask(now, request_id, vec![], question, self.session.config.io_timeout);
            }
        }
        while self.leaders[id].may_send(now, self.window) {
            self.send_next(id, now);
        }
        if let Err(e) = self.leaders[id].channel.write(now) {
            self.on_connection_lost(id, now, &e);
        }
    }

    /// Opens the connection to a leader. Returns whether it is open; if it cannot be opened, the queues in line are told.
    fn open(&mut self, id: LeaderIndex, now: Time, look_up: LookUp) -> bool {
        let leader = &mut self.leaders[id];
        // The fate of numbered bundles is decided on a connection that was dialed after the previous one was reset.
        if !leader.used && !self.numbered {
            self.session.pool.replace(&mut leader.channel);
        }
        match leader.channel.open(now, look_up) {
            Ok(true) => return true,
            // Others may have found out meanwhile who leads.
            Ok(false) if now >= leader.recheck_at => self.clear_backlog(id, &|queue| queue.give_up_if_expired(now)),
            Ok(false) => {}
            Err(e) => {
                debug!("{e:#}");
                self.session.book.demote_failed(leader.channel.broker(), now);
                let brokers = self.session.book.brokers().len();
                self.clear_backlog(id, &|queue| queue.on_unreachable(now, &e, brokers));
            }
        }
        false
    }

    /// Notes that something is sent to a leader from which no answer is awaited, perhaps on another connection than before.
    fn note_first_use(&mut self, id: LeaderIndex) {
        let leader = &mut self.leaders[id];
        let was_used = mem::replace(&mut leader.used, true);
        if !leader.channel.is_fresh() {
            return;
        }
        leader.answers.clear();
        // A connection that had ended while idle was dialed again silently.
        self.connection_lost |= was_used;
        for destination in self.destinations.iter_mut().take_while(|destination| destination.queue.numbering.is_on) {
            // Its log may have what the last connection lost, and may have lost what it ended with.
            destination.queue.numbering.leader.take_if(|leader| *leader == id);
        }
    }

    /// Sends a request with the bundles of those next in line, as many as it takes, and asks the questions of those before them.
    fn send_next(&mut self, id: LeaderIndex, now: Time) {
        // An answer waits for the replicas of its slowest partition, and the next numbered bundle must wait for the answer.
        let max = if self.numbered { 1 } else { MAX_PER_REQUEST };
        let mut from = Vec::new();
        let mut bytes = 0;
        while from.len() < max {
            let leader = &mut self.leaders[id];
            let Some(index) = leader.backlog.pop_front() else { break };
            let destination = &mut self.destinations[index];
            if destination.backlog_of.take_if(|leader| *leader == id).is_none() {
                continue;
            }
            let queue = &mut destination.queue;
            match queue.prepare_next(now, id) {
                Some(ToSend::Bundle) => {
                    bytes += queue.first_waiting().map_or(0, |bundle| bundle.bytes().len());
                    if bytes > FULL_REQUEST && !from.is_empty() {
                        destination.backlog_of = Some(id);
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
    fn send_question(&mut self, id: LeaderIndex, now: Time, index: usize, question: ToSend) {
        let request_id = self.session.next_request_id();
        let queue = &mut self.destinations[index].queue;
        let (topic, partition) = (&queue.topic, queue.partition);
        let content = match question {
            ToSend::Mark => Content::Mark { request: states_request(request_id, topic), partition },
            _ => Content::End(self.session.end_request(request_id, topic, &[partition])),
        };
        self.leaders[id].ask(now, request_id, vec![index], content, self.session.config.io_timeout);
        queue.sent(request_id, id, question);
    }

    /// Sends one request with the first bundles of these queues.
    fn send_bundles(&mut self, id: LeaderIndex, now: Time, mut from: Vec<usize>) {
        let request_id = self.session.next_request_id();
        let topics = self.group(&mut from);
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
        let first_seq = self.destinations[from[0]].queue.first_waiting().map_or(0, Bundle::first_seq);
        let allowance = self.session.config.io_timeout.saturating_add(self.options.ack_timeout);
        let encoded = request.encode_around(SMALL_BUNDLE);
        // Records that cannot be encoded were refused when they came in.
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        let Ok((head, places)) = encoded else { return };
        let head = Arc::new(head);
        let bundles = from.iter().filter_map(|&index| self.destinations[index].queue.first_waiting());
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
        for &index in &from {
            self.destinations[index].queue.sent(request_id, id, ToSend::Bundle);
            self.changed.push(index);
        }
        let content = Content::Bundles { shape, first_seq };
        self.leaders[id].in_flight.push_back(SentRequest { id: request_id, since: now, queues: from, content });
    }

    /// Sorts these partitions by topic, and returns the first bundle of each.
    fn group(&self, from: &mut [usize]) -> Vec<ProduceTopic<'_>> {
        let queue = |index: usize| &self.destinations[index].queue;
        from.sort_by(|&a, &b| (&queue(a).topic, queue(a).partition).cmp(&(&queue(b).topic, queue(b).partition)));
        let entry = |&index: &usize| {
            let bundle = queue(index).first_waiting()?;
            let (partition, first_seq) = (queue(index).partition, bundle.first_seq());
            Some(ProducePartition { partition, first_seq, bundle: bundle.bytes() })
        };
        let topic = |of: &[usize]| ProduceTopic {
            name: Cow::Borrowed(&*queue(of[0]).topic),
            partitions: of.iter().filter_map(entry).collect(),
        };
        from.chunk_by(|&a, &b| queue(a).topic == queue(b).topic).map(topic).collect()
    }

    /// Moves bytes both ways and handles answers, without waiting.
    fn exchange(&mut self, id: LeaderIndex, now: Time) -> Result<()> {
        // Answers that came before a connection failed count.
        let written = self.leaders[id].channel.write(now);
        while let Some((request, answers)) = self.leaders[id].next_answer(now, &self.session.config.limits)? {
            if let (Content::PartitionCount(asked), [Ok(Reply::Partitions(count))]) = (&request.content, &*answers) {
                self.on_partition_count(&asked.topic, *count);
            }
            for (&index, answer) in request.queues.iter().zip(answers) {
                self.on_answer(id, now, &request, answer, index);
                self.collect_outcomes(index);
            }
        }
        written.map(drop)
    }

    fn on_partition_count(&mut self, topic: &str, count: u16) {
        let Some(known) = self.counts.iter_mut().find(|known| *known.topic == *topic) else { return };
        if count > 0 && count != known.count {
            info!("{topic}: {count} partitions, {} before", known.count);
            known.count = count;
        }
    }

    /// Tells a queue what was answered about it.
    fn on_answer(&mut self, from: LeaderIndex, now: Time, request: &SentRequest, answer: Answer, index: usize) {
        if self.numbered {
            self.note_addresses(from, index);
        }
        let queue = &mut self.destinations[index].queue;
        let (topic, partition) = (queue.topic.clone(), queue.partition);
        let (book, broker) = (&self.session.book, self.leaders[from].channel.broker());
        let is_torn =
            matches!(request.content, Content::Bundles { .. }) && answer == Err(Refusal::Fault(Fault::System));
        if is_torn && queue.numbering.is_on {
            warn!("{topic}/{partition}: {broker} has trouble with its files: the end of its log may be damaged");
        }
        queue.answered_by = Some(broker.clone());
        let followed = book.note_reply(broker, &topic, partition, now, answer);
        queue.on_answer(now, from, request.id, followed);
        if queue.redirects > 1 {
            // It may be the only node that says so, or the leader that it named before could not be reached.
            book.demote(broker, now);
        }
        if let Some((first, last)) = queue.missing.take() {
            warn!("{topic}/{partition}: numbers {first} to {last} are missing at the end of the leader's log");
        }
        if let Some(e) = queue.trouble() {
            log!(if e.is_redirect() { Level::Debug } else { Level::Warn }, "{e:#}, trying again");
        }
    }

    /// Notes that a queue has changed, and takes out what became of its bundles.
    fn collect_outcomes(&mut self, index: usize) {
        self.changed.push(index);
        self.recount(index);
        let Destination { queue, progressed, stored, .. } = &mut self.destinations[index];
        for (bundle, outcome) in queue.take_deliveries() {
            *progressed = self.last_step;
            if let Err(error) = outcome {
                let (topic, partition, unpacked) = (queue.topic.clone(), queue.partition, OnceLock::new());
                self.failures.push(Failure { topic, partition, bundle, error, queue: index, unpacked });
            } else {
                *stored += u64::from(bundle.count);
                self.spares.put_buffer(bundle.memory);
            }
        }
    }

    /// Takes all queues out of line for a leader, and tells each of them why.
    fn clear_backlog(&mut self, id: LeaderIndex, tell: &dyn Fn(&mut PartitionQueue)) {
        self.leaders[id].recheck_at = Time::NEVER;
        for index in mem::take(&mut self.leaders[id].backlog) {
            let destination = &mut self.destinations[index];
            if destination.backlog_of.take_if(|leader| *leader == id).is_some() {
                tell(&mut destination.queue);
                self.collect_outcomes(index);
            }
        }
    }

    /// Lets others use the connections on which nothing is awaited.
    pub(super) fn release(&mut self) {
        let pool = &self.session.pool;
        for leader in self.leaders.iter_mut().filter(|leader| leader.in_flight.is_empty()) {
            let down = Channel::new(leader.channel.broker().clone(), pool.settings.clone());
            let channel = mem::replace(&mut leader.channel, down);
            // Otherwise its next user would find the end of a ping whose beginning was read here.
            if leader.answers.data().is_empty() {
                pool.put(channel);
            }
            leader.answers.clear();
            leader.used = false;
        }
    }

    /// Gives a connection up with a reset, so that unanswered requests are not executed later.
    fn on_connection_lost(&mut self, id: LeaderIndex, now: Time, e: &Error) {
        let leader = &mut self.leaders[id];
        warn!("{e:#}");
        if e.is_transient() {
            self.session.book.demote_failed(leader.channel.broker(), now);
        }
        let healthy_for = leader.channel.healthy_for();
        for request in mem::take(&mut leader.in_flight) {
            let handed_over = self.leaders[id].channel.handed_over(request.id);
            // The wait for an answer that did not come is no sign of health, nor is one for the request to get through.
            let healthy_for = healthy_for.saturating_sub(now.since(request.since));
            for index in request.queues {
                self.destinations[index].queue.on_lost(now, request.id, e, healthy_for, handed_over);
                self.collect_outcomes(index);
            }
        }
        // Others may lead now.
        self.clear_backlog(id, &|_| {});
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
        for leader in &mut self.leaders {
            leader.channel.reset();
        }
    }
}

#[cfg(test)]
mod tests;
