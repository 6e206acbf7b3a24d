//! How a producer goes on: bundles to their leaders, answers back to their partitions.

use log::{debug, warn};

use super::lane::Lane;
use super::link::{InFlight, Link};
use super::patience::Verdict;
use super::producer::Producer;
use super::publish::{MAX_ENTRIES, MAX_REQUEST};
use crate::error::{Error, Fault, Phase};
use crate::net::BrokerAddr;
use crate::net::old::{Deadline, Interest, wait};
use crate::protocol::produce::{ProducePartition, ProduceTopic};

/// From how many brokers on those are forgotten that nothing is on its way to: any number may be named as leaders.
const MAX_LINKS: usize = 64;

/// How many sealed bundles of a partition may wait before a call blocks.
const MAX_WAITING: usize = 2;

impl Producer {
    /// Makes a bundle of what a lane has collected; blocks while too many wait already.
    pub(super) fn seal(&mut self, index: usize) {
        while self.lanes[index].waiting.len() >= MAX_WAITING {
            self.advance();
            if self.lanes[index].waiting.len() >= MAX_WAITING {
                self.wait();
            }
        }
        let lane = &mut self.lanes[index];
        // It is empty too if a failure has just taken it along.
        if lane.builder.is_empty() {
            return;
        }
        if let Err(e) = lane.seal(&self.settings.options, &mut self.ledger) {
            warn!("{}/{}: {e}", lane.topic, lane.partition);
        }
        if !lane.is_ready {
            lane.is_ready = true;
            self.ready.push(index);
        }
    }

    /// Sends what is old enough.
    #[inline]
    pub(super) fn send_due(&mut self) {
        if self.next_due.is_some_and(Deadline::has_passed) {
            self.next_due = None;
            for index in 0..self.lanes.len() {
                match self.lanes[index].due {
                    Some(due) if due.has_passed() => self.seal(index),
                    Some(due) => self.next_due = Some(self.next_due.map_or(due, |next| next.earlier(due))),
                    None => {}
                }
            }
            self.advance();
        }
    }

    /// Takes in answers and sends what may be sent, without waiting for anything but a broker that has to be asked what is
    /// stored.
    pub(super) fn advance(&mut self) {
        for index in 0..self.links.len() {
            self.take_answers(index);
        }
        while self.send_ready() {}
    }

    fn take_answers(&mut self, index: usize) {
        let limit = self.settings.shared.config.limits.frame;
        loop {
            self.codes.clear();
            let link = &mut self.links[index];
            match link.poll(limit, &mut self.codes) {
                Ok(Some(request)) => self.answered(index, &request),
                Ok(None) if link.is_overdue() => {
                    let after = self.settings.shared.produce_timeout(&self.settings.options);
                    return self.lose(index, &Error::timeout(&self.links[index].addr, Phase::Wait, after));
                }
                Ok(None) => return,
                Err(e) => return self.lose(index, &e),
            }
        }
    }

    fn answered(&mut self, index: usize, request: &InFlight) {
        let (shared, from) = (&self.settings.shared, &self.links[index].addr);
        for (&lane, &code) in request.lanes.iter().zip(&self.codes) {
            let lane = &mut self.lanes[lane];
            let verdict = lane.judge(shared, from, request.request_id, code);
            lane.answered(shared, request.request_id, verdict, &mut self.ledger);
        }
        self.note_ready(&request.lanes);
    }

    /// What came back waits to be sent again.
    fn note_ready(&mut self, lanes: &[usize]) {
        for &index in lanes {
            let lane = &mut self.lanes[index];
            if !lane.is_ready && !lane.waiting.is_empty() {
                lane.is_ready = true;
                self.ready.push(index);
            }
        }
    }

    /// Gives up a link: what became of the requests on their way is unknown.
    fn lose(&mut self, index: usize, e: &Error) {
        let link = &mut self.links[index];
        warn!("{}: {e}", link.addr);
        if e.is_retryable() {
            self.settings.shared.book.failed(&link.addr, self.settings.shared.now());
        }
        for request in link.drop_connection() {
            for &lane in &request.lanes {
                let verdict = Verdict::Unknown(e.clone());
                let shared = &self.settings.shared;
                self.lanes[lane].answered(shared, request.request_id, verdict, &mut self.ledger);
            }
            self.note_ready(&request.lanes);
        }
    }

    /// Sends a request to each broker for which something waits; whether anything changed by that.
    fn send_ready(&mut self) -> bool {
        let mut groups: Vec<(BrokerAddr, Vec<usize>)> = Vec::new();
        for index in std::mem::take(&mut self.ready) {
            self.resolve(index);
            let lane = &mut self.lanes[index];
            lane.is_ready = !lane.waiting.is_empty();
            if !lane.is_ready {
                continue;
            }
            self.ready.push(index);
            if !lane.may_send() || lane.in_doubt {
                continue;
            }
            // Behind those on their way, whoever leads by now.
            let addr = match &lane.addr {
                Some(addr) => addr.clone(),
                None => self.settings.shared.book.broker_for(&lane.topic, lane.partition),
            };
            match groups.iter_mut().find(|(leader, _)| *leader == addr) {
                Some((_, lanes)) => lanes.push(index),
                None => groups.push((addr, vec![index])),
            }
        }
        let mut changed = false;
        self.links.iter_mut().for_each(|link| link.set_wanted(false));
        for (addr, lanes) in groups {
            changed |= self.ship(addr, lanes);
        }
        self.links.iter_mut().for_each(Link::drop_unwanted);
        changed
    }

    /// Finds out how much of a lane in doubt is stored.
    fn resolve(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if !lane.in_doubt || !lane.may_send() {
            return;
        }
        let shared = &self.settings.shared;
        let mark = shared.log_end(&lane.topic, lane.partition, None).map(|end| end.last);
        let (e, passing) = match mark {
            Ok(mark) if lane.reached(mark, &mut self.ledger) => {
                debug!("{}/{}: stored up to {mark}", lane.topic, lane.partition);
                lane.in_doubt = false;
                return;
            }
            Ok(_) => (Error::broker(&lane.topic, lane.partition, Fault::NotConfirmed), true),
            Err(e) => {
                let passing = e.is_retryable();
                (e, passing)
            }
        };
        if !passing || !lane.patience.wait(shared) {
            lane.give_up(e, &mut self.ledger);
        }
    }

    /// Sends a broker the first waiting bundle of each of these lanes; whether anything changed by that.
    fn ship(&mut self, addr: BrokerAddr, mut lanes: Vec<usize>) -> bool {
        let index = match self.links.iter().position(|link| link.addr == addr) {
            Some(index) => index,
            None => {
                if self.links.len() >= MAX_LINKS {
                    self.links.retain(|link| link.in_flight() > 0);
                }
                self.links.push(Link::new(addr));
                self.links.len() - 1
            }
        };
        let shared = &self.settings.shared;
        let link = &mut self.links[index];
        if link.in_flight() >= self.settings.window {
            return false;
        }
        let sent = match link.bring_up(shared) {
            Ok(false) => return false,
            Ok(true) => {
                let request_id = shared.next_request_id();
                let topics = group(&self.lanes, &mut lanes);
                let options = &self.settings.options;
                let request = options.request(&shared.config.client_id, request_id, self.settings.idempotent, topics);
                self.frame.clear();
                let encoded = request.encode(&mut self.frame).map_err(|e| (e.into(), false));
                let shape = request.shape().collect();
                let deadline = Deadline::after(shared.produce_timeout(options));
                let request = InFlight { request_id, lanes: lanes.clone(), shape, deadline };
                let sent = encoded.and_then(|()| link.send(&self.frame, request, shared.config.io_timeout));
                sent.map(|()| request_id)
            }
            Err(e) => Err((e, false)),
        };
        match sent {
            Ok(request_id) => {
                for &lane in &lanes {
                    let lane = &mut self.lanes[lane];
                    lane.addr = Some(link.addr.clone());
                    lane.sent(request_id);
                }
            }
            Err((e, reused)) => {
                // Answers that came before the end count.
                self.take_answers(index);
                self.lose(index, &e);
                let addr = &self.links[index].addr;
                for &lane in &lanes {
                    let lane = &mut self.lanes[lane];
                    if !lane.patience.after_unsent(&self.settings.shared, addr, &e, reused) {
                        lane.give_up(e.clone(), &mut self.ledger);
                    }
                }
            }
        }
        true
    }

    /// Blocks until something can go on.
    pub(super) fn wait(&self) {
        let mut deadline = Deadline::NEVER;
        for link in &self.links {
            deadline = deadline.earlier(link.deadline());
        }
        for &lane in &self.ready {
            deadline = deadline.earlier(self.lanes[lane].patience.pause().unwrap_or(Deadline::NEVER));
        }
        let interests: Vec<Interest<'_>> = self.links.iter().filter_map(Link::interest).collect();
        if interests.is_empty() && deadline == Deadline::NEVER {
            return;
        }
        if let Err(e) = wait(&interests, deadline) {
            warn!("waiting for answers: {e}");
        }
    }
}

/// The first waiting bundles of these lanes by topic, as many as a request takes; the others are dropped from `lanes`.
fn group<'a>(all: &'a [Lane], lanes: &mut Vec<usize>) -> Vec<ProduceTopic<'a>> {
    lanes.sort_by(|&a, &b| all[a].topic.cmp(&all[b].topic));
    let mut topics: Vec<ProduceTopic<'a>> = Vec::new();
    let mut bytes = 0;
    lanes.retain(|&index| {
        let lane = &all[index];
        let Some(bundle) = lane.waiting.front() else { return false };
        let (is_first, is_full) = (topics.is_empty(), topics.len() == MAX_ENTRIES);
        bytes += bundle.bytes.len();
        if !is_first && bytes > MAX_REQUEST {
            return false;
        }
        let first_seq = bundle.range.map_or(0, |(first, _)| first);
        let entry = ProducePartition { partition: lane.partition, first_seq, bundle: &bundle.bytes };
        match topics.last_mut() {
            Some(topic) if *topic.name == *lane.topic => {
                if topic.partitions.len() == MAX_ENTRIES {
                    return false;
                }
                topic.partitions.push(entry);
            }
            _ if is_full => return false,
            _ => topics.push(ProduceTopic { name: (&*lane.topic).into(), partitions: vec![entry] }),
        }
        true
    });
    topics
}
