//! What comes back to a [`Driver`]: answers to their queues, and the news that a connection is lost.

use std::ops::Range;

use log::{debug, trace, warn};

use super::bundle::BrokerId;
use super::driver::Driver;
use super::queue::{Lost, PartitionQueue};
use super::request::{self, Answer, InFlight, Sent};
use crate::error::{Error, Fault, Result};
use crate::net::Time;
use crate::protocol::frame::Kind;
use crate::protocol::produce::ProduceCode;

impl Driver {
    /// Moves bytes both ways and takes in the answers, as far as that goes without waiting.
    pub(super) fn carry(&mut self, id: BrokerId, now: Time, queues: &mut [PartitionQueue]) -> Result<()> {
        // Answers that came before a connection failed count.
        let written = self.leaders[id].channel.write(now).map(drop);
        loop {
            let leader = &mut self.leaders[id];
            match leader.answers.next(&mut leader.channel, now)? {
                Some((kind, payload)) => self.answered(id, now, kind, payload, queues)?,
                None => return written,
            }
        }
    }

    /// Takes in an answer.
    fn answered(
        &mut self,
        id: BrokerId,
        now: Time,
        kind: Kind,
        payload: Range<usize>,
        queues: &mut [PartitionQueue],
    ) -> Result<()> {
        let leader = &mut self.leaders[id];
        let payload = leader.answers.data().get(payload).unwrap_or_default();
        let malformed = |e| Error::decode(leader.channel.broker(), e);
        // Not by order: a cluster answers once replicas have confirmed.
        let index = request::find(&leader.in_flight, kind, payload).map_err(malformed)?;
        let partition = leader.in_flight[index].queues().first().map_or(0, |&queue| queues[queue].partition);
        self.codes.clear();
        let limits = &self.session.config.limits;
        let answer = leader.in_flight[index].read(payload, limits, partition, &mut self.codes).map_err(malformed)?;
        let Some(request) = leader.in_flight.remove(index) else { return Ok(()) };
        trace!("{}: answer to {}", leader.channel.broker(), request.id);
        leader.channel.answer_ends(now, Some(request.id));
        for (index, &queue) in request.queues().iter().enumerate() {
            let code = match answer {
                Answer::Number(Ok(number)) => Ok(number),
                Answer::Number(Err(code)) => Err(code),
                _ => Err(self.codes[index]),
            };
            self.on_answer(id, now, &request, code, &mut queues[queue]);
            self.touch(queue);
        }
        if let (Sent::Count(key, _), Answer::Count(count)) = (&request.sent, answer) {
            self.counts.push((*key, count));
        }
        Ok(())
    }

    /// Tells a queue what an answer says about it.
    fn on_answer(
        &mut self,
        from: BrokerId,
        now: Time,
        request: &InFlight,
        said: Result<u64, ProduceCode>,
        queue: &mut PartitionQueue,
    ) {
        let (id, broker) = (request.id, self.leaders[from].broker());
        queue.answered_by = Some(broker.clone());
        let followed = said.map_err(|code| self.follow(from, now, code, queue));
        match followed {
            Ok(mark) if matches!(request.sent, Sent::Mark(..)) => queue.on_mark(now, id, mark),
            Ok(end) => {
                debug!("{}/{}: the log at {broker} ends at {end}", queue.topic, queue.partition);
                return queue.on_end(self.node(from), id, end);
            }
            Err(Ok(code)) => queue.on_code(now, id, code),
            Err(Err(fault)) => queue.on_refused(now, id, fault),
        }
        if said == Err(ProduceCode::SystemError) && queue.how.numbering && request.has_bundles() {
            let (topic, partition) = (&queue.topic, queue.partition);
            warn!("{topic}/{partition}: {broker} has trouble with its files: the end of its log may be damaged");
        }
        if queue.wanders() {
            // It may be the only node to say so, or the leader it named before could not be reached.
            self.session.book.knew_no_leader(broker, now);
        }
        match queue.trouble() {
            Some(e) if e.is_redirect() => debug!("{e:#}, trying again"),
            Some(e) => warn!("{e:#}, trying again"),
            None => {}
        }
    }

    /// Notes what an answer says about the partition's leader. A redirect to nobody says that there is none; one that may not
    /// be followed is a fault.
    fn follow(
        &self,
        from: BrokerId,
        now: Time,
        code: ProduceCode,
        queue: &PartitionQueue,
    ) -> Result<ProduceCode, Fault> {
        let (book, broker) = (&self.session.book, self.leaders[from].broker());
        let (topic, partition) = (&queue.topic, queue.partition);
        let leader = match code {
            ProduceCode::NoLeader => None,
            ProduceCode::Redirect(to) => book.named(to)?,
            ProduceCode::Stored | ProduceCode::NotConfirmed => Some(broker.clone()),
            code => return Ok(code),
        };
        match leader {
            Some(leader) => {
                book.learn(topic, partition, leader, now);
                Ok(code)
            }
            None => {
                book.forget(topic, partition);
                book.knew_no_leader(broker, now);
                Ok(ProduceCode::NoLeader)
            }
        }
    }

    /// Notes that something has happened to a queue.
    fn touch(&mut self, queue: usize) {
        self.changed.push(queue);
        self.wake(queue);
    }

    /// No connection to a leader can be opened.
    pub(super) fn unreachable(&mut self, id: BrokerId, now: Time, e: &Error, queues: &mut [PartitionQueue]) {
        let leader = &mut self.leaders[id];
        debug!("{e:#}");
        self.session.book.failed(leader.channel.broker(), now);
        let brokers = self.session.book.brokers().len();
        for queue in std::mem::take(&mut leader.wanted) {
            queues[queue].on_unreachable(now, e, brokers);
            self.touch(queue);
        }
    }

    /// Gives a connection up, with a reset: what is unanswered must not be executed later.
    pub(super) fn lose(&mut self, id: BrokerId, now: Time, e: &Error, queues: &mut [PartitionQueue]) {
        let leader = &mut self.leaders[id];
        warn!("{e:#}");
        if e.is_transient() {
            self.session.book.failed(leader.channel.broker(), now);
        }
        let well_for = leader.channel.well_for();
        let requests = std::mem::take(&mut leader.in_flight);
        let handed_over: Vec<bool> = requests.iter().map(|request| leader.channel.handed_over(request.id)).collect();
        leader.channel.reset();
        leader.answers.clear();
        self.connection_lost = true;
        for (request, handed_over) in requests.into_iter().zip(handed_over) {
            let lost = Lost { error: e, handed_over, well_for };
            for &queue in request.queues() {
                queues[queue].on_lost(now, request.id, lost);
                self.touch(queue);
            }
            if let Sent::Count(key, request) = request.sent {
                self.count_partitions(key, request.topic.as_str().into());
            }
        }
    }
}
