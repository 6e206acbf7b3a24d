//! What carries bundles to the leaders and answers back to the queues: one connection a leader, several requests in flight.
//!
//! ```text
//!   PartitionQueue ──next()──> one request per leader ──> Channel
//!         ^                                                  │
//!         └───── on_code(), on_end(), on_lost() <── Frames <─┘
//! ```

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;

use super::bundle::BrokerId;
use super::queue::{PartitionQueue, ToSend};
use super::request::{Content, SentRequest, group};
use crate::config::PublishOptions;
use crate::error::{Error, Result};
use crate::net::{AnswerReader, BrokerAddr, Channel, LookUp, Time};
use crate::protocol::fetch::FetchRequest;
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
    /// Topics whose partitions are to be counted, by whatever broker is asked next, and counts that have come.
    pub(super) uncounted: Vec<Arc<str>>,
    pub(super) counts: Vec<(Arc<str>, usize)>,
    /// Whether a connection was lost, since somebody looked.
    pub(super) connection_lost: bool,
    /// The moment of the last step.
    pub(super) stepped: Time,
    process: u32,
    pub(super) codes: Vec<ProduceCode>,
}

/// A broker that leads partitions which are published to.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) channel: Channel,
    pub(super) answers: AnswerReader,
    /// In the order in which they were sent, which is mostly that of the answers.
    pub(super) in_flight: VecDeque<SentRequest>,
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
        if !mem::replace(&mut self.is_ready[queue], true) {
            self.ready.push(queue);
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
        let is_ready = &mut self.is_ready;
        self.ready.retain(|&queue| {
            is_ready[queue] = queues[queue].has_work();
            is_ready[queue]
        });
        for at in 0..self.ready.len() {
            let queue = &queues[self.ready[at]];
            if queue.wants_to_send(now) {
                // After those in flight, whoever leads by now.
                let leader = queue.leader.unwrap_or_else(|| self.leader_of(queue));
                self.leaders[leader].wanted.push(self.ready[at]);
            }
        }
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
        let Some(address) = self.leaders[id].channel.address().filter(|_| self.numbered) else { return id };
        self.leaders.iter().position(|leader| leader.channel.address() == Some(address)).unwrap_or(id)
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
            self.connection_lost |= mem::replace(&mut leader.used, true) && leader.channel.is_fresh();
        }
        let wanted = mem::take(&mut leader.wanted);
        for topic in mem::take(&mut self.uncounted) {
            self.ask(id, now, Vec::new(), |request_id, _| Content::states(request_id, &topic));
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
                continue;
            }
            let request_id = self.ask(id, now, vec![index], |request_id, session| match what {
                ToSend::Mark => Content::states(request_id, &queue.topic),
                _ => {
                    let request = session.end_request(&queue.topic, std::iter::once(queue.partition));
                    Content::End(FetchRequest { request_id, ..request })
                }
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

    /// Asks a leader a question for these queues. Returns the request's id.
    fn ask(
        &mut self,
        id: BrokerId,
        now: Time,
        queues: Vec<usize>,
        question: impl FnOnce(u32, &Session) -> Content,
    ) -> u32 {
        let request_id = self.session.next_request_id();
        let content = question(request_id, &self.session);
        let (leader, allowance) = (&mut self.leaders[id], self.session.config.io_timeout);
        let queued = leader.channel.queue(now, request_id, allowance, |out| content.put_question(out));
        debug_assert!(queued.is_ok(), "names were checked");
        leader.in_flight.push_back(SentRequest { id: request_id, since: now, queues, content });
        request_id
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
