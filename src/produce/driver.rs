//! What carries bundles to the leaders and answers back to the queues: one connection a leader, several requests in flight.
//!
//! ```text
//!   PartitionQueue ──next()──> one request per leader ──> Channel
//!         ^                                                  │
//!         └───── on_code(), on_end(), on_lost() <── Frames <─┘
//! ```

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::bundle::BrokerId;
use super::queue::{PartitionQueue, ToSend};
use super::request::{self, InFlight, Sent};
use crate::config::PublishOptions;
use crate::error::{Error, Result};
use crate::net::{AnswerReader, BrokerAddr, Channel, Event, LookUp, Time, wait};
use crate::protocol::produce::{CLIENT_VERSION, ProduceCode, ProduceRequest};
use crate::session::Session;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) session: Arc<Session>,
    options: PublishOptions,
    /// Requests with bundles in flight to a leader at a time, not counting late ones; numbered ones are one a partition.
    window: usize,
    /// Whether bundles bring their own numbers.
    numbered: bool,
    pub(super) leaders: Vec<Leader>,
    by_addr: HashMap<BrokerAddr, BrokerId>,
    /// Queues that may have something to send, each once.
    ready: Vec<usize>,
    is_ready: Vec<bool>,
    /// Queues whose outcomes have not been looked at.
    pub(super) changed: Vec<usize>,
    /// Topics whose partitions are to be counted, and counts that were asked for, by key.
    uncounted: Vec<(usize, Arc<str>)>,
    pub(super) counts: Vec<(usize, usize)>,
    /// Whether a connection was lost, since somebody looked.
    pub(super) connection_lost: bool,
    /// The moment of the last step.
    stepped: Time,
    process: u32,
    pub(super) codes: Vec<ProduceCode>,
}

/// A broker that leads partitions which are published to.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) channel: Channel,
    pub(super) answers: AnswerReader,
    /// In the order in which they were sent, which is mostly that of the answers.
    pub(super) in_flight: VecDeque<InFlight>,
    /// Whether something was sent to it before.
    used: bool,
    /// Whether something waits for room in the window.
    is_full: bool,
    /// Queues with something to send here; kept while the connection is being opened.
    pub(super) wanted: Vec<usize>,
}

impl Leader {
    pub(super) fn broker(&self) -> &BrokerAddr {
        self.channel.broker()
    }

    /// Whether an answer is awaited on the connection.
    fn is_awaited(&self) -> bool {
        !self.in_flight.is_empty() || (!self.wanted.is_empty() && self.channel.is_dialing())
    }
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
            ready: Vec::new(),
            is_ready: Vec::new(),
            changed: Vec::new(),
            uncounted: Vec::new(),
            counts: Vec::new(),
            connection_lost: false,
            stepped: Time::ZERO,
            codes: Vec::new(),
        }
    }

    /// Notes that a queue may have something to send.
    pub(super) fn wake(&mut self, queue: usize) {
        if self.is_ready.len() <= queue {
            self.is_ready.resize(queue + 1, false);
        }
        if !std::mem::replace(&mut self.is_ready[queue], true) {
            self.ready.push(queue);
        }
    }

    /// Has the partitions of a topic counted, by whatever broker is asked next.
    pub(super) fn count_partitions(&mut self, key: usize, topic: Arc<str>) {
        if !self.uncounted.iter().any(|(other, _)| *other == key) {
            self.uncounted.push((key, topic));
        }
    }

    /// Whether something is in flight or waits to be sent.
    pub(super) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || self.leaders.iter().any(|leader| !leader.in_flight.is_empty())
    }

    /// Takes in the answers that have arrived and sends what may be sent, without waiting for anything.
    ///
    /// # Errors
    /// Another process than the one it was made in.
    pub(super) fn step(&mut self, queues: &mut [PartitionQueue], look_up: LookUp) -> Result<()> {
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
        Ok(())
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
        let late = full.flat_map(|leader| leader.in_flight.iter().map(InFlight::is_late_at));
        let due = times.chain(late).filter(|time| *time > self.stepped).fold(until, Time::min);
        let awaited = self.leaders.iter_mut().filter(|leader| leader.is_awaited());
        let closed = self.session.closed.as_deref();
        match wait(&*self.session.net, awaited.map(|leader| &mut leader.channel), closed, due)? {
            Event::Closed => Err(Error::Closed),
            Event::Ready | Event::Due => Ok(()),
        }
    }

    /// Gives the connections back that others can use.
    pub(super) fn finish(&mut self) {
        for leader in std::mem::take(&mut self.leaders) {
            if leader.in_flight.is_empty() {
                self.session.pool.put(leader.channel);
            }
        }
    }

    /// Sends to each leader what the queues have for it. Returns whether anything changed.
    fn send_ready(&mut self, now: Time, queues: &mut [PartitionQueue], look_up: LookUp) -> bool {
        for leader in &mut self.leaders {
            leader.wanted.clear();
            leader.is_full = false;
        }
        let mut at = Vec::new();
        let mut kept = 0;
        for index in 0..self.ready.len() {
            let queue_index = self.ready[index];
            let queue = &queues[queue_index];
            if !queue.has_work() {
                self.is_ready[queue_index] = false;
                continue;
            }
            self.ready[kept] = queue_index;
            kept += 1;
            if !queue.wants_to_send(now) {
                continue;
            }
            // After those in flight, whoever leads by now.
            let leader = match queue.leader {
                Some(leader) => leader,
                None => self.leader_of(queue),
            };
            if self.leaders[leader].wanted.is_empty() {
                at.push(leader);
            }
            self.leaders[leader].wanted.push(queue_index);
        }
        self.ready.truncate(kept);
        let mut changed = false;
        for leader in at {
            changed |= self.send_to(leader, now, queues, look_up);
        }
        changed
    }

    fn leader_of(&mut self, queue: &PartitionQueue) -> BrokerId {
        let addr = self.session.book.broker_for(&queue.topic, queue.partition);
        if let Some(&id) = self.by_addr.get(&addr) {
            return id;
        }
        let id = self.leaders.len();
        self.leaders.push(Leader {
            channel: self.session.pool.take(&addr),
            answers: AnswerReader::new(self.session.config.limits.frame),
            in_flight: VecDeque::new(),
            used: false,
            is_full: false,
            wanted: Vec::new(),
        });
        self.by_addr.insert(addr, id);
        id
    }

    /// What numbering calls a broker: the same, whether it is known by its name or by its address. What the one holds the
    /// other does not confirm.
    pub(super) fn node(&self, id: BrokerId) -> BrokerId {
        let address = self.leaders[id].channel.address().filter(|_| self.numbered);
        let twin = self.leaders.iter().position(|leader| address.is_some() && leader.channel.address() == address);
        twin.unwrap_or(id)
    }

    fn send_to(&mut self, id: BrokerId, now: Time, queues: &mut [PartitionQueue], look_up: LookUp) -> bool {
        let leader = &mut self.leaders[id];
        let young = |leader: &Leader| leader.in_flight.iter().filter(|request| request.is_young(now)).count();
        leader.is_full = !self.numbered && young(leader) >= self.window;
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
                for &queue in &leader.wanted {
                    queues[queue].give_up_if_expired(now);
                    self.changed.push(queue);
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
            self.connection_lost |= std::mem::replace(&mut leader.used, true) && leader.channel.is_fresh();
        }
        self.ask_counts(id, now);
        let node = self.node(id);
        let mut bundles = Vec::new();
        let mut sent = false;
        for queue in std::mem::take(&mut self.leaders[id].wanted) {
            // A window of one keeps the order whatever is refused.
            let must_wait = self.window == 1 && queues[queue].leader.is_some();
            match queues[queue].next(now, node).filter(|_| !must_wait) {
                None => {}
                Some(ToSend::Bundle) => bundles.push(queue),
                Some(question) => {
                    let request_id = self.session.next_request_id();
                    let asked = request::ask(&self.session, &queues[queue], queue, question, request_id);
                    queues[queue].sent(request_id, node, question);
                    self.queue_question(id, now, InFlight { id: request_id, since: now, sent: asked });
                    sent = true;
                }
            }
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
        let topics = request::group(queues, &mut from);
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
        let leader = &mut self.leaders[id];
        from.iter().for_each(|&queue| queues[queue].sent(request_id, node, ToSend::Bundle));
        let sent = Sent::Bundles { queues: from, shape };
        leader.in_flight.push_back(InFlight { id: request_id, since: now, sent });
        true
    }

    /// Queues a question.
    fn queue_question(&mut self, id: BrokerId, now: Time, asked: InFlight) {
        let leader = &mut self.leaders[id];
        let allowance = self.session.config.io_timeout;
        let queued = leader.channel.queue(now, asked.id, allowance, |out| asked.put_question(out));
        debug_assert!(queued.is_ok(), "names were checked");
        leader.in_flight.push_back(asked);
    }

    fn ask_counts(&mut self, id: BrokerId, now: Time) {
        for (key, topic) in std::mem::take(&mut self.uncounted) {
            let request_id = self.session.next_request_id();
            let sent = Sent::Count(key, request::discover(request_id, &topic));
            self.queue_question(id, now, InFlight { id: request_id, since: now, sent });
        }
    }
}

impl Drop for Driver {
    /// Neither reads nor waits.
    fn drop(&mut self) {
        // In a forked child they are the parent's.
        if self.check_process().is_ok() {
            let given_up = self.leaders.iter_mut().filter(|leader| !leader.in_flight.is_empty());
            given_up.for_each(|leader| leader.channel.reset());
            self.finish();
        }
    }
}
