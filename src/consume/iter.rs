//! [`ConsumeIter`]: hands out messages, and asks for more when it has none.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::time::Duration;

use log::debug;

use super::arrived::Arrived;
use super::batch::Batch;
use super::close::CloseHandle;
use super::leader::Leader;
use super::position::{Gap, Positions};
use super::stats::Stats;
use super::tracks::{TrackState, Tracks};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::net::old::{Deadline, Stopwatch, wait};
use crate::protocol::stream::{Event, Step};
use crate::session::Session as Shared;

mod ask;

/// The longest chunk to read to its end when no more of it is wanted, in bytes; more than that is not worth keeping a
/// connection for.
const MAX_PASSED_OVER: u32 = 1 << 20;

/// How many turns leaders may take before whoever waits looks at the time: there may be any number of answers, and of
/// bundles that are passed over, in a row.
const MOST_TURNS: usize = 16;

/// How long to block at most while a connection is being opened: `close` has no socket then to wake us with.
const CLOSE_CHECK: Duration = Duration::from_millis(50);

/// The messages of a [`Subscription`](crate::Subscription), in the order of their numbers within each partition.
///
/// It owns its connections: it can move to another thread, and dropping it closes them without waiting for anything.
/// What the caller does not get to stays in the broker and the network: one fetch a partition is under way, the next one
/// sent when the last of an answer has been read.
///
/// After one `Err` it is finished, and so it is after the last wanted message or a
/// [`close`](CloseHandle::close): then `next` is `None` for ever. `None` alone never hides trouble.
///
/// A connection that ends is dialed anew and the fetch repeated from the position, for as long as
/// [`retry_timeout`](crate::ClientBuilder::retry_timeout) allows. Nothing is lost or delivered twice by that.
///
/// The guide says more about [positions](crate::guide::positions), [back-pressure](crate::guide::back_pressure) and
/// [time-outs and closing](crate::guide::time_outs).
///
/// # Errors
/// The items' errors are:
/// * [`Error::OutOfRange`], or for a checkpoint's position [`Error::Recreated`]: the number wanted next is not there.
/// * [`Error::Broker`]: no such topic or partition, a partition that cannot be opened or whose numbering is broken; one
///   without a leader, or with leaders that name each other, for longer than can be waited.
/// * [`Error::Connect`], [`Error::Io`], [`Error::Timeout`], [`Error::Disconnected`]: trouble with a broker for longer than
///   can be waited.
/// * [`Error::Decode`], [`Error::BundleTooLarge`]: malformed data, or more than [`Limits`](crate::Limits) allow.
#[derive(Debug)]
pub struct ConsumeIter {
    shared: Arc<Shared>,
    tracks: Tracks,
    leaders: Vec<Leader>,
    /// The leader whose turn it is to have read what it sent.
    turn: usize,
    arrived: Arrived,
    /// Whether to ask for more before all that has arrived is handed out.
    looks_ahead: bool,
    /// What to end with once all that has arrived is handed out.
    failure: Option<Error>,
    closer: CloseHandle,
    /// Messages that may still be handed out.
    remaining: u64,
    finished: bool,
    request: Vec<u8>,
    next_request_id: u32,
}

/// What waiting for messages came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pulled {
    Messages,
    Quiet,
    Finished,
}

impl ConsumeIter {
    /// Connects and sends the first fetches.
    pub(super) fn start(shared: Arc<Shared>, tracks: Tracks, limit: Option<u64>) -> Result<ConsumeIter> {
        let arrived = Arrived::new(&tracks.sources);
        let mut iter = ConsumeIter {
            shared,
            tracks,
            leaders: Vec::new(),
            turn: 0,
            arrived,
            looks_ahead: true,
            failure: None,
            closer: CloseHandle::default(),
            remaining: limit.unwrap_or(u64::MAX),
            finished: false,
            request: Vec::new(),
            next_request_id: 1,
        };
        iter.tracks.take_changed();
        iter.dispatch()?;
        while iter.leaders.iter().any(|leader| leader.is_coming_up()) {
            iter.wait(Deadline::NEVER)?;
            iter.dispatch()?;
        }
        Ok(iter)
    }

    /// As [`next`](Iterator::next), but returns `Ok(None)` once `d` has passed without a message. The subscription goes
    /// on: nothing is lost, and an answer that was half received stays for the next call. `Ok(None)` also stands for
    /// the end, see [`is_finished`](ConsumeIter::is_finished).
    ///
    /// # Errors
    /// As the items of the iterator; it is then finished.
    pub fn next_timeout(&mut self, d: Duration) -> Result<Option<Message>> {
        if let Some(message) = self.pop() {
            return Ok(Some(message));
        }
        match self.pull(Deadline::after(d))? {
            Pulled::Messages => Ok(self.pop()),
            Pulled::Quiet | Pulled::Finished => Ok(None),
        }
    }

    /// The messages of the next bundle, or of several small ones, or what [`next`](Iterator::next) has left of those it
    /// is at, borrowed: no allocation, no reference counts. `Ok(None)`: finished.
    ///
    /// All of them count as delivered with this call.
    ///
    /// # Errors
    /// As the items of the iterator; it is then finished.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>> {
        let has_rest = self.arrived.decoded().has_messages() && !self.closer.is_closed();
        if !has_rest && self.pull(Deadline::NEVER)? != Pulled::Messages {
            return Ok(None);
        }
        let decoded = self.arrived.decoded();
        let from = decoded.take_all();
        Ok(Some(decoded.batch(from)))
    }

    /// Whether it has ended: with an error, by a stop condition, or by [`close`](CloseHandle::close).
    pub fn is_finished(&self) -> bool {
        self.finished || self.closer.is_closed()
    }

    /// A handle with which another thread can end the iteration.
    pub fn close_handle(&self) -> CloseHandle {
        self.closer.clone()
    }

    /// The next number to be delivered from a partition: what to keep in order to go on later. 0 as long as nothing
    /// came of a partition that begins with the earliest message. `None` for a partition that was not subscribed to, and
    /// for one that begins with the latest message as long as it has had no leader to say which that is.
    pub fn position_of(&self, topic: &str, partition: u16) -> Option<u64> {
        let index = self.tracks.find(topic, partition).filter(|&index| self.tracks.has_position(index))?;
        Some(self.next_seq(index))
    }

    fn next_seq(&self, index: usize) -> u64 {
        let delivered = self.arrived.delivered().filter(|delivered| delivered.partition == index);
        delivered.map_or(self.tracks.tracks[index].position, |delivered| delivered.position)
    }

    /// The next number of every partition that has a [position](ConsumeIter::position_of).
    pub fn positions(&self) -> Positions {
        self.tracks.positions(|index| self.next_seq(index))
    }

    /// The highest number of a partition that the broker was heard to have, 0 if it has none; `None` if it was not
    /// heard of. It moves with the answers to fetches.
    pub fn high_water_mark(&self, topic: &str, partition: u16) -> Option<u64> {
        self.tracks.find(topic, partition).and_then(|index| self.tracks.tracks[index].high_water_mark)
    }

    /// How many numbers lie between the positions and the high-water marks, all partitions together. Numbers that
    /// no message has count too.
    pub fn lag(&self) -> u64 {
        self.tracks.lag(|index| self.next_seq(index))
    }

    /// What retention took before it was delivered.
    pub fn gaps(&self) -> &[Gap] {
        &self.tracks.gaps
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.tracks.stats;
        if let Some(delivered) = self.arrived.delivered() {
            stats.messages += delivered.messages;
            stats.bundles += delivered.bundles;
        }
        stats.bytes += self.leaders.iter().map(|leader| leader.bytes).sum::<u64>();
        stats
    }

    /// The next of the messages that are decoded.
    #[inline]
    fn pop(&mut self) -> Option<Message> {
        if self.closer.is_closed() { None } else { self.arrived.decoded().take_one() }
    }

    /// Decodes the next messages, blocking up to the deadline for bundles.
    fn pull(&mut self, until: Deadline) -> Result<Pulled> {
        let pulled = self.try_pull(until);
        if !matches!(pulled, Ok(Pulled::Messages | Pulled::Quiet)) {
            self.finished = true;
            self.tracks.stats.bytes += self.leaders.iter_mut().map(Leader::take_bytes).sum::<u64>();
            self.leaders.clear();
            self.arrived.clear();
        }
        pulled
    }

    fn try_pull(&mut self, until: Deadline) -> Result<Pulled> {
        self.unload();
        let mut turns = 0;
        loop {
            if self.finished || self.closer.is_closed() || self.remaining == 0 {
                return Ok(Pulled::Finished);
            }
            if self.arrived.has_bundles() {
                let count = self.arrived.load(&mut self.tracks, &self.shared.config.limits, self.remaining)?;
                self.remaining -= count;
                if count > 0 {
                    return Ok(Pulled::Messages);
                }
                self.arrived.unload();
            }
            if let Some(e) = self.failure.take() {
                return Err(e);
            }
            if self.tracks.take_changed() {
                if self.tracks.all_done() {
                    return Ok(Pulled::Finished);
                }
                self.dispatch()?;
            }
            if turns > MOST_TURNS && until.has_passed() {
                return Ok(Pulled::Quiet);
            }
            turns += 1;
            if !self.take_turns()? && !self.wait(until)? {
                return Ok(Pulled::Quiet);
            }
        }
    }

    /// The first bundle with a message at or above `seq`, or several small ones, up to `end`: for a subscription to one partition, whatever was
    /// asked for before. `None` if there is no such message now.
    pub(super) fn bundle_at(&mut self, seq: u64, end: u64) -> Result<Option<Batch<'_>>> {
        self.looks_ahead = false;
        self.arrived.clear();
        self.tracks.tracks[0].state = TrackState::Done;
        if self.tracks.tracks[0].chunk_len > MAX_PASSED_OVER {
            self.leaders.clear();
        }
        while self.leaders.iter().any(|leader| !leader.is_idle()) {
            if !self.take_turns()? {
                self.wait(Deadline::NEVER)?;
            }
        }
        self.tracks.seek(0, seq, end);
        match self.try_pull(Deadline::NEVER)? {
            Pulled::Messages => Ok(Some(self.arrived.decoded().batch(0))),
            Pulled::Quiet | Pulled::Finished => Ok(None),
        }
    }

    /// Counts what was handed out as delivered.
    fn unload(&mut self) {
        if let Some(delivered) = self.arrived.delivered() {
            self.tracks.stats.messages += delivered.messages;
            self.tracks.stats.bundles += delivered.bundles;
            self.tracks.advance(delivered.partition, delivered.position);
        }
        self.arrived.unload();
    }

    /// Has the leaders go on in turn until one has something, beginning with the one that had something last. Whether
    /// one had. Nothing may have arrived that is not handed out yet.
    fn take_turns(&mut self) -> Result<bool> {
        for _ in 0..self.leaders.len() {
            if self.turn >= self.leaders.len() {
                self.turn = 0;
            }
            if self.take_turn(self.turn)? {
                return Ok(true);
            }
            self.turn += 1;
        }
        Ok(false)
    }

    /// Takes in what a leader has sent: reads until something comes of it, and then goes on to the end of the answer, as
    /// far as that has been read too. Whether anything came.
    fn take_turn(&mut self, turn: usize) -> Result<bool> {
        match self.leaders[turn].read() {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(e) => return self.on_failure(turn, e, &[]).map(|()| true),
        }
        loop {
            let done = match self.arrived.step(&mut self.leaders[turn], &mut self.tracks) {
                Ok((Step::Need(_), _)) => true,
                Ok((Step::Bundles, see_first)) => see_first || self.arrived.is_full(),
                Ok((Step::Event(event), _)) => self.on_event(turn, event)?,
                // It is met again when what arrived before it is handed out.
                Err(_) if self.arrived.has_bundles() => true,
                Err(e) => return self.on_failure(turn, e, &[]).map(|()| true),
            };
            if done {
                return Ok(true);
            }
        }
    }

    /// Takes in an event; whether it calls for another look at what to do next.
    fn on_event(&mut self, turn: usize, event: Event) -> Result<bool> {
        match event {
            Event::Response { .. } => self.tracks.on_response(),
            Event::Partition { slot, answer } => {
                if let Some((index, outcome)) = self.leaders[turn].answer(slot) {
                    self.tracks.on_answer(index, answer, outcome, &self.shared.book, self.shared.now());
                }
            }
            Event::ChunkEnd { slot, end } => {
                if let Some((index, outcome)) = self.leaders[turn].answer(slot) {
                    self.tracks.on_chunk_end(index, end, outcome);
                }
            }
            Event::End { .. } => {
                let leader = &mut self.leaders[turn];
                self.tracks.stats.bytes += leader.take_bytes();
                let (partitions, outcome, soon) = leader.finish_answer();
                if outcome.knows_no_leader {
                    self.shared.book.knew_no_leader(&leader.addr, self.shared.now());
                }
                // The others' turn, however fast this one may answer again.
                self.turn += 1;
                self.tracks.on_progress(&partitions);
                match self.tracks.on_end(&partitions, outcome, soon) {
                    Err(e) if self.arrived.has_bundles() => self.failure = Some(e),
                    Err(e) => return Err(e),
                    Ok(()) if self.looks_ahead && self.arrived.has_bundles() => self.fetch_ahead(turn, &partitions),
                    Ok(()) => {}
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Drops a leader's connection after `e`, so that its partitions, and those it was just to be asked for, are asked
    /// for again.
    fn on_failure(&mut self, turn: usize, e: Error, wanted: &[usize]) -> Result<()> {
        if self.closer.is_closed() {
            return Ok(());
        }
        let leader = &mut self.leaders[turn];
        let (was_up, ended_idle) = (!leader.is_coming_up(), leader.ended_idle(&e));
        self.tracks.stats.bytes += leader.take_bytes();
        let lost = [leader.reset().as_slice(), wanted].concat();
        if ended_idle {
            debug!("{}: {e}, had ended while idle, dialing anew", leader.addr);
            self.tracks.release(&lost);
            return Ok(());
        }
        if !e.is_retryable() || !self.tracks.on_lost(&lost, &leader.addr) {
            return Err(e);
        }
        leader.retry_later(&e);
        let stats = &mut self.tracks.stats;
        *(if was_up { &mut stats.reconnects } else { &mut stats.failed_brokers }) += 1;
        self.shared.book.failed(&leader.addr, self.shared.now());
        Ok(())
    }

    /// Blocks until a leader can go on, or something else is due; `false` once `until` has passed.
    fn wait(&mut self, until: Deadline) -> Result<bool> {
        let mut deadline = until.earlier(self.tracks.next_wake());
        let mut coming_up = false;
        for leader in &self.leaders {
            deadline = deadline.earlier(leader.deadline());
            coming_up |= leader.is_coming_up();
        }
        if coming_up || self.leaders.iter().all(|leader| leader.interest().is_none()) {
            deadline = deadline.earlier(Deadline::after(CLOSE_CHECK));
        }
        let watch = Stopwatch::start();
        let waited = match self.leaders.as_slice() {
            [leader] => wait(leader.interest().as_slice(), deadline),
            leaders => wait(&leaders.iter().filter_map(Leader::interest).collect::<Vec<_>>(), deadline),
        };
        waited.map_err(|e| Error::io(&"the network", crate::Phase::Wait, e))?;
        let blocked = watch.elapsed();
        for turn in 0..self.leaders.len() {
            if let Err(e) = self.leaders[turn].count_blocked(blocked) {
                self.on_failure(turn, e, &[])?;
            }
        }
        if coming_up || self.tracks.next_wake().has_passed() {
            self.tracks.set_changed();
        }
        Ok(!until.has_passed())
    }
}

impl Iterator for ConsumeIter {
    type Item = Result<Message>;

    /// The next message; blocks until there is one. `None` once finished, see [`ConsumeIter`].
    #[inline]
    fn next(&mut self) -> Option<Result<Message>> {
        if let Some(message) = self.pop() {
            return Some(Ok(message));
        }
        match self.pull(Deadline::NEVER) {
            Ok(_) => self.pop().map(Ok),
            Err(e) => Some(Err(e)),
        }
    }
}

impl FusedIterator for ConsumeIter {}
