//! What carries bundles to the leaders and answers back to the queues: one connection a leader, several requests in flight.
//!
//! ```text
//!   PartitionQueue ──next()──> one request per leader ──> Channel
//!         ^                                                  │
//!         └───── on_code(), on_end(), on_lost() <── Frames <─┘
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use log::{debug, trace, warn};

use super::bundle::{BrokerId, Spares};
use super::options::Options;
use super::queue::{Lost, PartitionQueue, ToSend};
use super::request::{self, InFlight, Sent};
use crate::error::{Error, Fault, Result};
use crate::net::{BrokerAddr, Channel, Fill, LookUp, ReadBuf, Time, wait};
use crate::protocol::admin::PartitionState;
use crate::protocol::fetch::PartitionAnswer;
use crate::protocol::frame::Kind;
use crate::protocol::frames::{Frame, Frames};
use crate::protocol::produce::ProduceCode;
use crate::session::Session;

/// Bytes that several answers fit into.
const ANSWERS: usize = 2 << 10;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) session: Arc<Session>,
    options: Options,
    /// Requests with bundles in flight to a leader at a time.
    window: usize,
    /// Whether bundles bring their own numbers.
    numbered: bool,
    leaders: Vec<Leader>,
    by_addr: HashMap<BrokerAddr, BrokerId>,
    /// Queues that may have something to send, each once.
    ready: Vec<usize>,
    is_ready: Vec<bool>,
    /// Queues whose outcomes have not been looked at.
    changed: Vec<usize>,
    /// Topics whose partitions are to be counted, and their counts.
    uncounted: Vec<(usize, Arc<str>)>,
    counts: Vec<(usize, usize)>,
    connection_lost: bool,
    /// The moment of the last step.
    stepped: Time,
    process: u32,
    frame: Vec<u8>,
    codes: Vec<ProduceCode>,
}

/// A broker that leads partitions which are published to.
#[derive(Debug)]
struct Leader {
    channel: Channel,
    frames: Frames,
    buf: ReadBuf<()>,
    in_flight: Vec<InFlight>,
    /// Queues with something to send here; kept while the connection is being opened.
    wanted: Vec<usize>,
}

impl Leader {
    fn broker(&self) -> &BrokerAddr {
        self.channel.broker()
    }

    /// Whether something is awaited of the connection.
    fn is_awaited(&self) -> bool {
        !self.in_flight.is_empty() || (!self.wanted.is_empty() && self.channel.is_dialing())
    }
}

impl Driver {
    pub(super) fn new(session: Arc<Session>, options: Options, window: usize, numbered: bool) -> Driver {
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
            frame: Vec::new(),
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

    /// Numbers of partitions that were asked for, by key.
    pub(super) fn take_counts(&mut self) -> Vec<(usize, usize)> {
        std::mem::take(&mut self.counts)
    }

    /// Whether a connection was lost since the last call.
    pub(super) fn take_connection_lost(&mut self) -> bool {
        std::mem::take(&mut self.connection_lost)
    }

    /// Queues that may have outcomes.
    pub(super) fn take_changed(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.changed)
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
        // What was due at the last step could not go on then, and waits for something to arrive; what has become due since is
        // due at once.
        let times = self.ready.iter().flat_map(|&queue| queues[queue].times());
        let due = times.filter(|time| *time > self.stepped).fold(until, Time::min);
        let awaited = self.leaders.iter_mut().filter(|leader| leader.is_awaited());
        wait(&*self.session.net, awaited.map(|leader| &mut leader.channel), None, due).map(drop)
    }

    /// Gives the connections back that others can use.
    pub(super) fn finish(&mut self) {
        for leader in std::mem::take(&mut self.leaders) {
            if leader.in_flight.is_empty() {
                self.session.pool.put(leader.channel);
            }
        }
    }

    /// Sends to each leader what the queues want to have sent there; whether anything changed by that.
    fn send_ready(&mut self, now: Time, queues: &mut [PartitionQueue], look_up: LookUp) -> bool {
        self.leaders.iter_mut().for_each(|leader| leader.wanted.clear());
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
            let leader = match queue.leader() {
                Some(leader) => leader,
                None => self.leader_of(queue),
            };
            if self.leaders[leader].wanted.is_empty() {
                at.push(leader);
            }
            self.leaders[leader].wanted.push(queue_index);
        }
        self.ready.truncate(kept);
        at.into_iter().fold(false, |changed, leader| self.send_to(leader, now, queues, look_up) || changed)
    }

    fn leader_of(&mut self, queue: &PartitionQueue) -> BrokerId {
        let addr = self.session.book.broker_for(&queue.topic, queue.partition);
        if let Some(&id) = self.by_addr.get(&addr) {
            return id;
        }
        let id = self.leaders.len();
        self.leaders.push(Leader {
            channel: self.session.pool.take(&addr),
            frames: Frames::new(self.session.config.limits.frame),
            buf: ReadBuf::new(ANSWERS, ()),
            in_flight: Vec::new(),
            wanted: Vec::new(),
        });
        self.by_addr.insert(addr, id);
        id
    }

    fn send_to(&mut self, id: BrokerId, now: Time, queues: &mut [PartitionQueue], look_up: LookUp) -> bool {
        let leader = &mut self.leaders[id];
        if leader.in_flight.iter().filter(|request| request.has_bundles()).count() >= self.window {
            return false;
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
            leader.buf.clear();
            leader.frames = Frames::new(self.session.config.limits.frame);
        }
        self.ask_counts(id, now);
        let mut bundles = Vec::new();
        let mut sent = false;
        for queue in std::mem::take(&mut self.leaders[id].wanted) {
            match queues[queue].next(now, id) {
                None => {}
                Some(ToSend::Bundle) => bundles.push(queue),
                Some(question) => {
                    let request_id = self.session.next_request_id();
                    let asked = request::ask(&self.session, &queues[queue], queue, question, request_id);
                    queues[queue].sent(request_id, id, question);
                    sent |= self.queue_question(id, now, asked);
                }
            }
        }
        if !bundles.is_empty() {
            sent |= self.send_bundles(id, now, bundles, queues);
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
        let request = self.options.request(&self.session.config.client_id, request_id, self.numbered, topics);
        let sent = Sent::Bundles { queues: from, shape: request.shape().collect() };
        if let Err(e) = request.encode(&mut self.frame) {
            // What can't be encoded is refused before it is taken.
            debug_assert!(false, "{e}");
            return false;
        }
        let Sent::Bundles { queues: from, .. } = &sent else { return false };
        from.iter().for_each(|&queue| queues[queue].sent(request_id, id, ToSend::Bundle));
        let allowance = self.session.config.io_timeout.saturating_add(self.options.ack_timeout);
        let leader = &mut self.leaders[id];
        leader.channel.queue(now, request_id, allowance, &self.frame);
        leader.in_flight.push(InFlight { id: request_id, sent });
        Spares::clear(&mut self.frame);
        true
    }

    /// Queues a question.
    fn queue_question(&mut self, id: BrokerId, now: Time, asked: InFlight) -> bool {
        if !asked.encode(&mut self.frame) {
            return false;
        }
        let leader = &mut self.leaders[id];
        leader.channel.queue(now, asked.id, self.session.config.io_timeout, &self.frame);
        leader.in_flight.push(asked);
        Spares::clear(&mut self.frame);
        true
    }

    fn ask_counts(&mut self, id: BrokerId, now: Time) {
        for (key, topic) in std::mem::take(&mut self.uncounted) {
            let asked = request::ask_count(self.session.next_request_id(), key, topic);
            self.queue_question(id, now, asked);
        }
    }
}

/// What comes back.
impl Driver {
    /// Moves bytes both ways and takes in the answers, as far as that goes without waiting.
    fn carry(&mut self, id: BrokerId, now: Time, queues: &mut [PartitionQueue]) -> Result<()> {
        // Answers that came before a connection failed count.
        let written = self.leaders[id].channel.write(now).map(drop);
        loop {
            let leader = &mut self.leaders[id];
            match leader.frames.first(leader.buf.data()).map_err(|e| Error::decode(leader.channel.broker(), e))? {
                Frame::Ping(len) => {
                    leader.buf.consume(len);
                    leader.channel.answer_ends(now, None);
                }
                Frame::Whole(kind, payload) => {
                    let end = payload.end;
                    self.answered(id, now, kind, payload, queues)?;
                    self.leaders[id].buf.consume(end);
                }
                Frame::Need(_) if leader.in_flight.is_empty() && leader.buf.data().is_empty() => return written,
                Frame::Need(need) => {
                    if !leader.buf.data().is_empty() {
                        leader.channel.answer_begins(now);
                    }
                    match leader.channel.read(now, leader.buf.room(need))? {
                        Fill::Bytes(n) => leader.buf.filled(n),
                        Fill::Later => return written.and_then(|()| leader.channel.overdue(now).map_or(Ok(()), Err)),
                        Fill::End => return Err(Error::disconnected(leader.broker(), leader.channel.phase())),
                    }
                }
            }
        }
    }

    /// Takes in an answer.
    fn answered(
        &mut self,
        id: BrokerId,
        now: Time,
        kind: Kind,
        payload: std::ops::Range<usize>,
        queues: &mut [PartitionQueue],
    ) -> Result<()> {
        let leader = &mut self.leaders[id];
        let payload = leader.buf.data().get(payload).unwrap_or_default();
        let malformed = |e| Error::decode(leader.channel.broker(), e);
        // Not by order: a cluster answers once replicas have confirmed.
        let index = request::find(&leader.in_flight, kind, payload).map_err(malformed)?;
        let limits = &self.session.config.limits;
        self.codes.clear();
        let answer = leader.in_flight[index].read(payload, limits, &mut self.codes).map_err(malformed)?;
        let request = leader.in_flight.remove(index);
        trace!("{}: answer to {}", leader.channel.broker(), request.id);
        leader.channel.answer_ends(now, Some(request.id));
        match request.sent {
            Sent::Bundles { queues: from, .. } => {
                for (queue, code) in from.into_iter().zip(std::mem::take(&mut self.codes)) {
                    self.on_code(id, now, request.id, code, &mut queues[queue]);
                    self.touch(queue);
                }
            }
            Sent::End(queue, _) => {
                self.on_end(id, now, request.id, answer.end, &mut queues[queue]);
                self.touch(queue);
            }
            Sent::Mark(queue, _) => {
                self.on_mark(id, now, request.id, answer.states, &mut queues[queue]);
                self.touch(queue);
            }
            Sent::Count(key, _) => {
                let count = answer.states.map_or(0, |states| states.len());
                self.counts.push((key, count));
            }
        }
        Ok(())
    }

    /// Notes that something has happened to a queue.
    fn touch(&mut self, queue: usize) {
        self.changed.push(queue);
        self.wake(queue);
    }

    fn on_code(&mut self, from: BrokerId, now: Time, id: u32, code: ProduceCode, queue: &mut PartitionQueue) {
        match self.look_at_leader(from, now, code, queue) {
            Ok(code) => queue.on_code(now, id, code),
            Err(fault) => queue.on_refused(now, id, fault),
        }
        if code == ProduceCode::SystemError && queue.how.numbering {
            let (topic, partition, broker) = (&queue.topic, queue.partition, self.leaders[from].broker());
            warn!("{topic}/{partition}: {broker} has trouble with its files, and the end of its log may be damaged");
        }
        self.after_answer(from, now, queue);
    }

    /// Notes what an answer says about the partition's leader; a redirect to nobody says that there is none.
    fn look_at_leader(
        &mut self,
        from: BrokerId,
        now: Time,
        code: ProduceCode,
        queue: &PartitionQueue,
    ) -> std::result::Result<ProduceCode, Fault> {
        let book = &self.session.book;
        let nobody = || {
            book.forget(&queue.topic, queue.partition);
            book.knew_no_leader(self.leaders[from].broker(), now);
            Ok(ProduceCode::NoLeader)
        };
        match code {
            ProduceCode::NoLeader => nobody(),
            ProduceCode::Redirect(to) => match book.named(to)? {
                None => nobody(),
                Some(leader) => {
                    debug!("{}/{}: redirected to {leader}", queue.topic, queue.partition);
                    book.learn(&queue.topic, queue.partition, leader, now);
                    Ok(code)
                }
            },
            ProduceCode::Stored | ProduceCode::NotConfirmed => {
                book.learn(&queue.topic, queue.partition, self.leaders[from].broker().clone(), now);
                Ok(code)
            }
            code => Ok(code),
        }
    }

    fn after_answer(&self, from: BrokerId, now: Time, queue: &PartitionQueue) {
        if queue.wanders() {
            // It may be the only one to think so, or whom it named before could not be reached.
            self.session.book.knew_no_leader(self.leaders[from].broker(), now);
        }
        match queue.trouble() {
            Some(e) if e.is_redirect() => debug!("{}, trying again", e.chain()),
            Some(e) => warn!("{}, trying again", e.chain()),
            None => {}
        }
    }

    fn on_end(&mut self, from: BrokerId, now: Time, id: u32, end: Option<PartitionAnswer>, queue: &mut PartitionQueue) {
        let code = match end {
            Some(PartitionAnswer::OutOfRange { high_water_mark: last, .. })
            | Some(PartitionAnswer::Data { high_water_mark: last, .. }) => {
                debug!("{}/{}: the log ends at {last}", queue.topic, queue.partition);
                self.session.book.learn(&queue.topic, queue.partition, self.leaders[from].broker().clone(), now);
                return queue.on_end(from, id, last);
            }
            Some(PartitionAnswer::Redirect(to)) => ProduceCode::Redirect(to),
            Some(PartitionAnswer::NoLeader) => ProduceCode::NoLeader,
            Some(PartitionAnswer::SystemError) => return queue.on_question_failed(now, id, Fault::System),
            Some(PartitionAnswer::UnknownPartition) => {
                return queue.on_question_failed(now, id, Fault::UnknownPartition);
            }
            Some(PartitionAnswer::UnknownTopic) | None => {
                return queue.on_question_failed(now, id, Fault::UnknownTopic);
            }
        };
        self.question_redirected(from, now, id, code, queue);
    }

    fn on_mark(
        &mut self,
        from: BrokerId,
        now: Time,
        id: u32,
        states: Option<Vec<PartitionState>>,
        queue: &mut PartitionQueue,
    ) {
        let Some(states) = states else { return queue.on_question_failed(now, id, Fault::UnknownTopic) };
        let code = match states.get(usize::from(queue.partition)) {
            Some(&PartitionState::Marks { high_water_mark, .. }) => return queue.on_mark(now, id, high_water_mark),
            Some(&PartitionState::Redirect(to)) => ProduceCode::Redirect(to),
            Some(PartitionState::NoLeader) => ProduceCode::NoLeader,
            Some(PartitionState::SystemError) => return queue.on_question_failed(now, id, Fault::System),
            None => return queue.on_question_failed(now, id, Fault::UnknownPartition),
        };
        self.question_redirected(from, now, id, code, queue);
    }

    fn question_redirected(
        &mut self,
        from: BrokerId,
        now: Time,
        id: u32,
        code: ProduceCode,
        queue: &mut PartitionQueue,
    ) {
        match self.look_at_leader(from, now, code, queue) {
            Ok(ProduceCode::Redirect(last)) => queue.on_question_failed(now, id, Fault::Redirects { hops: 1, last }),
            Ok(_) => queue.on_question_failed(now, id, Fault::NoLeader),
            Err(fault) => queue.on_question_failed(now, id, fault),
        }
        self.after_answer(from, now, queue);
    }

    /// No connection to a leader can be opened.
    fn unreachable(&mut self, id: BrokerId, now: Time, e: &Error, queues: &mut [PartitionQueue]) {
        let leader = &mut self.leaders[id];
        debug!("{}", e.chain());
        self.session.book.failed(leader.channel.broker(), now);
        let brokers = self.session.book.brokers().len();
        for queue in std::mem::take(&mut leader.wanted) {
            queues[queue].on_unreachable(now, e, brokers);
            self.touch(queue);
        }
    }

    /// Gives a connection up, with a reset: what is unanswered must not be executed later.
    fn lose(&mut self, id: BrokerId, now: Time, e: &Error, queues: &mut [PartitionQueue]) {
        let leader = &mut self.leaders[id];
        warn!("{}", e.chain());
        if e.is_transient() {
            self.session.book.failed(leader.channel.broker(), now);
        }
        let well_for = leader.channel.well_for();
        let requests = std::mem::take(&mut leader.in_flight);
        let handed_over: Vec<bool> = requests.iter().map(|request| leader.channel.handed_over(request.id)).collect();
        leader.channel.reset();
        leader.buf.clear();
        self.connection_lost = true;
        for (request, handed_over) in requests.into_iter().zip(handed_over) {
            let lost = Lost { error: e, handed_over, well_for };
            match request.sent {
                Sent::Bundles { queues: from, .. } => {
                    for queue in from {
                        queues[queue].on_lost(now, request.id, lost);
                        self.touch(queue);
                    }
                }
                Sent::End(queue, _) | Sent::Mark(queue, _) => {
                    queues[queue].on_lost(now, request.id, lost);
                    self.touch(queue);
                }
                Sent::Count(key, request) => self.count_partitions(key, request.topic.as_str().into()),
            }
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
