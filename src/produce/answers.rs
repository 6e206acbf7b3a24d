//! What comes back to a [`Driver`]: answers to their queues, and the news that a connection is lost.

use std::mem;
use std::ops::Range;

use log::{debug, trace, warn};

use super::bundle::BrokerId;
use super::driver::Driver;
use super::outcome::Reply;
use super::queue::PartitionQueue;
use super::request::{Answer, Content, SentRequest, committed_mark, find, reply_of_code};
use crate::error::{Error, Fault, Result};
use crate::net::Time;
use crate::protocol::frame::Kind;

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
        let index = find(&leader.in_flight, kind, payload).map_err(malformed)?;
        let content = &leader.in_flight[index].content;
        let answer = content.read(payload, &self.session.config.limits, &mut self.codes).map_err(malformed)?;
        let Some(request) = leader.in_flight.remove(index) else { return Ok(()) };
        trace!("{}: answer to {}", leader.channel.broker(), request.id);
        leader.channel.answer_ends(now, Some(request.id));
        for (at, &queue) in request.queues.iter().enumerate() {
            let reply = match &answer {
                Answer::Codes => reply_of_code(self.codes[at]),
                Answer::End(end) => *end,
                Answer::States(states) => committed_mark(states.as_deref(), queues[queue].partition),
            };
            self.on_reply(id, now, &request, reply, &mut queues[queue]);
            self.touch(queue);
        }
        if let (Content::States(request), Answer::States(Some(states))) = (request.content, answer) {
            self.counts.push((request.topic.into(), states.len()));
        }
        Ok(())
    }

    /// Tells a queue what the answer to a request says about it.
    fn on_reply(&mut self, from: BrokerId, now: Time, request: &SentRequest, reply: Reply, queue: &mut PartitionQueue) {
        let (book, broker) = (&self.session.book, self.leaders[from].broker());
        let (topic, partition) = (&queue.topic, queue.partition);
        match (&request.content, reply) {
            (Content::End(_), Ok(end)) => debug!("{topic}/{partition}: the log at {broker} ends at {end}"),
            (Content::Bundles(_), Err(Fault::System)) if queue.numbering.is_some() => {
                warn!("{topic}/{partition}: {broker} has trouble with its files: the end of its log may be damaged");
            }
            _ => {}
        }
        queue.answered_by = Some(broker.clone());
        let followed = book.note_reply(broker, topic, partition, now, reply);
        queue.on_reply(now, self.node(from), request.id, followed);
        if queue.redirects > 1 {
            // It may be the only node to say so, or the leader it named before could not be reached.
            book.knew_no_leader(broker, now);
        }
        match queue.trouble() {
            Some(e) if e.is_redirect() => debug!("{e:#}, trying again"),
            Some(e) => warn!("{e:#}, trying again"),
            None => {}
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
        for queue in mem::take(&mut leader.wanted) {
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
        let requests = mem::take(&mut leader.in_flight);
        let handed_over: Vec<bool> = requests.iter().map(|request| leader.channel.handed_over(request.id)).collect();
        leader.channel.reset();
        leader.answers.clear();
        self.connection_lost = true;
        for (request, handed_over) in requests.into_iter().zip(handed_over) {
            for queue in request.queues {
                queues[queue].retry.was_well_for(well_for);
                queues[queue].on_lost(now, request.id, e, handed_over);
                self.touch(queue);
            }
        }
    }
}
