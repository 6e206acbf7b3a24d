//! What carries bundles to the leaders and answers back to the queues: one connection a leader, several requests in flight.
//!
//! ```text
//!   PartitionQueue ──next()──> one request per leader ──> Channel
//!         ^                                                  │
//!         └───── on_reply(), on_lost() <── next_answer() <───┘
//! ```

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;

use log::{debug, trace, warn};

use super::bundle::BrokerId;
use super::leader::{Content, Leader, MAX_CONSIDERED, MAX_UNSENT, SentRequest, group};
use super::outcome::Reply;
use super::queue::{Delivery, PartitionQueue, ToSend};
use crate::config::PublishOptions;
use crate::error::{Error, Fault, Result};
use crate::net::{BrokerAddr, LookUp, Time};
use crate::protocol::produce::{CLIENT_VERSION, ProduceRequest};
use crate::session::Session;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Driver {
    session: Arc<Session>,
    options: PublishOptions,
    /// Requests with bundles in flight to a leader at a time, not counting late ones; numbered ones are one a partition.
    window: usize,
    /// Whether bundles bring their own numbers.
    numbered: bool,
    leaders: Vec<Leader>,
    by_addr: HashMap<BrokerAddr, BrokerId>,
    /// Queues that may have something to send.
    ready: BTreeSet<usize>,
    /// What has become of bundles since somebody looked, and whose they are.
    deliveries: Vec<(usize, Delivery)>,
    /// Topics whose partitions are to be counted, by whatever broker is asked next, and counts that have come: 0 if it does not
    /// know the topic.
    pub(super) uncounted: Vec<Arc<str>>,
    pub(super) counts: Vec<(Arc<str>, usize)>,
    /// Whether a connection was lost, since somebody looked.
    pub(super) connection_lost: bool,
    /// The moment of the last step.
    pub(super) stepped: Time,
    process: u32,
}

impl Driver {
    pub(super) fn new(session: Arc<Session>, options: PublishOptions, window: usize, numbered: bool) -> Driver {
        Driver {
            process: session.net.process(),
            session,
            options,
            window,
            numbered,
            leaders: Vec::new(),
            by_addr: HashMap::new(),
            ready: BTreeSet::new(),
            deliveries: Vec::new(),
            uncounted: Vec::new(),
            counts: Vec::new(),
            connection_lost: false,
            stepped: Time::ZERO,
        }
    }

    /// Notes that a queue may have something to send.
    pub(super) fn wake(&mut self, queue: usize) {
        self.ready.insert(queue);
    }

    /// Whether something is in flight or waits to be sent.
    pub(super) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || self.leaders.iter().any(|leader| !leader.in_flight.is_empty())
    }

    /// Takes in the answers that have arrived and sends what may be sent, without waiting for anything. Returns what has become of
    /// the bundles, and whose they are.
    ///
    /// # Errors
    /// Another process than the one it was made in.
    pub(super) fn step(&mut self, queues: &mut [PartitionQueue], look_up: LookUp) -> Result<Vec<(usize, Delivery)>> {
        self.check_process()?;
        let now = self.session.now();
        self.stepped = now;
        for id in 0..self.leaders.len() {
            if self.leaders[id].in_flight.is_empty() {
                continue;
            }
            if let Err(e) = self.carry(id, now, queues) {
                self.lose(id, now, &e, queues);
            }
        }
        while self.send_ready(now, queues, look_up) {}
        Ok(mem::take(&mut self.deliveries))
    }

    fn check_process(&self) -> Result<()> {
        let (made, here) = (self.process, self.session.net.process());
        if made == here {
            return Ok(());
        }
        Err(Error::config(format!(
            "a producer of process {made} is used in process {here}, which was forked: its records are that process's"
        )))
    }

    /// Blocks until there may be something to do, but no longer than `until`.
    pub(super) fn wait(&mut self, queues: &[PartitionQueue], until: Time) -> Result<()> {
        // What was due at the last step could not continue then, and waits for something to arrive; what has become due
        // since is due at once.
        let times = self.ready.iter().flat_map(|&queue| queues[queue].times());
        // Late requests make room for others.
        let full = self.leaders.iter().filter(|leader| leader.is_full);
        let late = full.flat_map(|leader| leader.in_flight.iter().map(SentRequest::is_late_at));
        let due = times.chain(late).filter(|time| *time > self.stepped).fold(until, Time::min);
        let awaited = self.leaders.iter_mut().filter(|leader| leader.is_awaited());
        self.session.wait(awaited.map(|leader| &mut leader.channel), due).map(drop)
    }

    /// Sends to each leader what the queues have for it. Returns whether anything changed.
    fn send_ready(&mut self, now: Time, queues: &mut [PartitionQueue], look_up: LookUp) -> bool {
        for leader in &mut self.leaders {
            leader.wanted.clear();
            leader.is_full = false;
        }
        let mut ready = mem::take(&mut self.ready);
        ready.retain(|&queue| queues[queue].has_work());
        for &index in ready.iter().filter(|&&queue| queues[queue].wants_to_send(now)) {
            // After those in flight, whoever leads by now.
            let leader = queues[index].leader.unwrap_or_else(|| self.leader_of(&queues[index]));
            self.leaders[leader].wanted.push(index);
        }
        self.ready = ready;
        let mut changed = false;
        for leader in 0..self.leaders.len() {
            changed |= !self.leaders[leader].wanted.is_empty() && self.send_to(leader, now, queues, look_up);
        }
        changed
    }

    fn leader_of(&mut self, queue: &PartitionQueue) -> BrokerId {
        let addr = self.session.book.broker_for(&queue.topic, queue.partition);
        if let Some(&id) = self.by_addr.get(&addr) {
            return id;
        }
        self.leaders.push(Leader::new(self.session.pool.take(&addr), &self.session.config.limits));
        self.by_addr.insert(addr, self.leaders.len() - 1);
        self.leaders.len() - 1
    }

    /// What numbering calls a broker: the same, whether it is known by its name or by its address. What the one holds the
    /// other does not confirm.
    fn node(&self, id: BrokerId) -> BrokerId {
        let Some(address) = self.leaders[id].channel.address().filter(|_| self.numbered) else { return id };
        self.leaders.iter().position(|leader| leader.channel.address() == Some(address)).unwrap_or(id)
    }

    fn send_to(&mut self, id: BrokerId, now: Time, queues: &mut [PartitionQueue], look_up: LookUp) -> bool {
        let leader = &mut self.leaders[id];
        let has_room = leader.young_requests(now) < self.window && leader.channel.unsent() < MAX_UNSENT;
        leader.is_full = !self.numbered && !has_room;
        if leader.is_full {
            return false;
        }
        // Numbered bundles are decided on connections dialed after the one before was reset.
        if !leader.used && !self.numbered {
            self.session.pool.replace(&mut leader.channel);
        }
        match leader.channel.open(now, look_up) {
            Ok(true) => {}
            Ok(false) => {
                for queue in leader.wanted.clone() {
                    queues[queue].give_up_if_expired(now);
                    self.touch(queue, &mut queues[queue]);
                }
                return false;
            }
            Err(e) => {
                self.unreachable(id, now, &e, queues);
                return true;
            }
        }
        if leader.in_flight.is_empty() {
            leader.answers.clear();
            // One that had ended while idle was dialed again without a word.
            self.connection_lost |= mem::replace(&mut leader.used, true) && leader.channel.is_fresh();
        }
        let wanted = mem::take(&mut leader.wanted);
        for topic in mem::take(&mut self.uncounted) {
            leader.ask(&self.session, now, None, |id| Content::states(id, &topic, None));
        }
        let node = self.node(id);
        let mut bundles = Vec::new();
        let mut sent = false;
        for index in wanted {
            let queue = &mut queues[index];
            // A window of one keeps the order whatever is refused.
            let must_wait = self.window == 1 && queue.leader.is_some();
            let Some(what) = queue.next(now, node).filter(|_| !must_wait) else { continue };
            if what == ToSend::Bundle {
                bundles.push(index);
                if bundles.len() == MAX_CONSIDERED {
                    break;
                }
                continue;
            }
            let (session, topic, partition) = (&self.session, &queue.topic, queue.partition);
            let request_id = self.leaders[id].ask(session, now, Some(index), |id| match what {
                ToSend::Mark => Content::states(id, topic, Some(partition)),
                _ => Content::End(session.end_request(id, topic, &[partition])),
            });
            queue.sent(request_id, node, what);
            sent = true;
        }
        // An answer comes as late as the replicas of its slowest partition, and a numbered bundle must wait for it.
        let together = if self.numbered { 1 } else { bundles.len().max(1) };
        for from in bundles.chunks(together) {
            sent |= self.send_bundles(id, now, from.to_vec(), queues);
        }
        if let Err(e) = self.leaders[id].channel.write(now) {
            self.lose(id, now, &e, queues);
        }
        sent
    }

    /// Sends one request with the first bundles of these queues, of as many as fit.
    fn send_bundles(&mut self, id: BrokerId, now: Time, mut from: Vec<usize>, queues: &mut [PartitionQueue]) -> bool {
        let request_id = self.session.next_request_id();
        let topics = group(queues, &mut from);
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
        let allowance = self.session.config.io_timeout.saturating_add(self.options.ack_timeout);
        let leader = &mut self.leaders[id];
        if let Err(e) = leader.channel.queue(now, request_id, allowance, |out| request.encode(out)) {
            // What can't be encoded is refused before it is taken.
            debug_assert!(false, "{e}");
            return false;
        }
        let node = self.node(id);
        from.iter().for_each(|&queue| queues[queue].sent(request_id, node, ToSend::Bundle));
        let request = SentRequest { id: request_id, since: now, queues: from, content: Content::Bundles(shape) };
        self.leaders[id].in_flight.push_back(request);
        true
    }

    /// Moves bytes both ways and takes in the answers, as far as that goes without waiting.
    fn carry(&mut self, id: BrokerId, now: Time, queues: &mut [PartitionQueue]) -> Result<()> {
        // Answers that came before a connection failed count.
        let written = self.leaders[id].channel.write(now).map(drop);
        while let Some((request, (replies, count))) = self.leaders[id].next_answer(now, &self.session.config.limits)? {
            for (&queue, reply) in request.queues.iter().zip(replies) {
                self.on_reply(id, now, &request, reply, &mut queues[queue]);
                self.touch(queue, &mut queues[queue]);
            }
            if let Content::States(request, _) = request.content {
                self.counts.push((request.topic.into(), count));
            }
        }
        written
    }

    /// Tells a queue what the answer to a request says about it.
    fn on_reply(&mut self, from: BrokerId, now: Time, request: &SentRequest, reply: Reply, queue: &mut PartitionQueue) {
        let (book, broker) = (&self.session.book, self.leaders[from].channel.broker());
        let (topic, partition) = (&queue.topic, queue.partition);
        match (&request.content, reply) {
            (Content::End(_), Ok(end)) => debug!("{topic}/{partition}: the log at {broker} ends at {end}"),
            (Content::Bundles(_), Err(Fault::System)) if queue.numbering.is_some() => {
                warn!("{topic}/{partition}: {broker} has trouble with its files: the end of its log may be damaged");
            }
            _ => {}
        }
        trace!("{broker}: answer to {}", request.id);
        queue.answered_by = Some(broker.clone());
        let followed = book.note_reply(broker, topic, partition, now, reply);
        queue.on_reply(now, self.node(from), request.id, followed);
        if queue.redirects > 1 {
            // It may be the only node to say so, or the leader it named before could not be reached.
            book.knew_no_leader(broker, now);
        }
        if let Some((first, last)) = queue.gap.take() {
            warn!(
                "{}/{partition}: numbers {first} to {last} are missing at the end of the leader's log: lost there, or given up",
                queue.topic
            );
        }
        // Not while answers to others are awaited before it fails.
        match queue.trouble.as_ref().filter(|_| !queue.is_failing()) {
            Some(e) if e.is_redirect() => debug!("{e:#}, trying again"),
            Some(e) => warn!("{e:#}, trying again"),
            None => {}
        }
    }

    /// Notes that something has happened to a queue.
    fn touch(&mut self, index: usize, queue: &mut PartitionQueue) {
        self.deliveries.extend(queue.take_deliveries().into_iter().map(|delivery| (index, delivery)));
        self.wake(index);
    }

    /// No connection to a leader can be opened.
    fn unreachable(&mut self, id: BrokerId, now: Time, e: &Error, queues: &mut [PartitionQueue]) {
        let leader = &mut self.leaders[id];
        debug!("{e:#}");
        self.session.book.failed(leader.channel.broker(), now);
        let brokers = self.session.book.brokers().len();
        for queue in mem::take(&mut leader.wanted) {
            queues[queue].on_unreachable(now, e, brokers);
            self.touch(queue, &mut queues[queue]);
        }
    }

    /// Gives a connection up, with a reset: what is unanswered must not be executed later.
    fn lose(&mut self, id: BrokerId, now: Time, e: &Error, queues: &mut [PartitionQueue]) {
        let leader = &mut self.leaders[id];
        warn!("{e:#}");
        if e.is_transient() {
            self.session.book.failed(leader.channel.broker(), now);
        }
        let well_for = leader.channel.well_for();
        for request in mem::take(&mut leader.in_flight) {
            let handed_over = self.leaders[id].channel.handed_over(request.id);
            for queue in request.queues {
                queues[queue].retry.was_well_for(well_for);
                queues[queue].on_lost(now, request.id, e, handed_over);
                self.touch(queue, &mut queues[queue]);
            }
        }
        self.leaders[id].channel.reset();
        self.leaders[id].answers.clear();
        self.connection_lost = true;
    }
}

impl Drop for Driver {
    /// Neither reads nor waits.
    fn drop(&mut self) {
        // In a forked child they are the parent's.
        if self.check_process().is_ok() {
            for mut leader in mem::take(&mut self.leaders) {
                match leader.in_flight.is_empty() {
                    // Others can use it.
                    true => self.session.pool.put(leader.channel),
                    false => leader.channel.reset(),
                }
            }
        }
    }
}
