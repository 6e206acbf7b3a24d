//! [`ConsumeIter`]: hands out messages, and asks for more when it has none.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::time::Duration;

use log::debug;

use super::batch::Batch;
use super::close::CloseHandle;
use super::leader::Leader;
use super::position::{Gap, Positions};
use super::stats::Stats;
use super::tracks::{TrackState, Tracks, Verdict};
use crate::client::Shared;
use crate::error::{Error, Result};
use crate::message::{Message, Sources};
use crate::net::{Block, BrokerAddr, Deadline, Stopwatch, wait};
use crate::protocol::bundle::{Codec, Entry};
use crate::protocol::fetch::{FLAG_PREFER_LOCAL, FetchPartition, FetchRequest, FetchTopic, MAX_PARTITIONS};
use crate::protocol::stream::{Bundle, Event};

/// The most bytes to ask for with one request. The answer's length is a 32-bit number that brokers do not guard, and
/// they may send more than was asked for.
const MAX_ASKED: u64 = 1 << 30;

/// The longest chunk to read to its end when no more of it is wanted, in bytes; more than that is not worth keeping a
/// connection for.
const MAX_PASSED_OVER: u32 = 1 << 20;

/// How long to block at most while a connection is being opened: `close` has no socket then to wake us with.
const CLOSE_CHECK: Duration = Duration::from_millis(50);

/// The most bytes of a scratch block to keep for the next bundle, if that needs much less.
const KEPT_SCRATCH: usize = 1 << 20;

/// The messages of a [`Subscription`](crate::Subscription), in the order of their numbers within each partition.
///
/// It owns its connections: it can move to another thread, and dropping it closes them without waiting for anything.
/// Bytes that the caller has not asked for stay in the broker and the network.
///
/// After one `Err` it is finished, and so it is after the last wanted message or a
/// [`close`](CloseHandle::close): then `next` is `None` for ever. `None` alone never hides trouble.
///
/// A connection that ends is dialed anew and the fetch repeated from the position, for as long as
/// [`retry_timeout`](crate::ClientBuilder::retry_timeout) allows. Nothing is lost or delivered twice by that.
#[derive(Debug)]
pub struct ConsumeIter {
    shared: Arc<Shared>,
    tracks: Tracks,
    leaders: Vec<Leader>,
    /// The leader whose turn it is to hand out what it sent.
    turn: usize,
    loaded: Loaded,
    scratch: Arc<Block<Sources>>,
    snappy: snap::raw::Decoder,
    closer: CloseHandle,
    /// Messages that may still be handed out.
    remaining: u64,
    finished: bool,
    request: Vec<u8>,
    next_request_id: u32,
}

/// The bundle that is being handed out.
#[derive(Debug)]
struct Loaded {
    entries: Vec<Entry>,
    /// The first entry not handed out.
    next: usize,
    /// The block its bytes lie in, and where its message set begins in that.
    home: Home,
    base: usize,
    /// The partition, and its position once all entries are handed out.
    partition: usize,
    after: u64,
}

#[derive(Debug, Clone, Copy)]
enum Home {
    ReadBuf(usize),
    Scratch,
}

/// What waiting for the next bundle came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pulled {
    Bundle,
    Quiet,
    Finished,
}

/// What a leader's turn came to.
enum Turn {
    Bundle,
    /// An answer, or a bundle that nothing is wanted of, is through: there may be many of those in a row.
    Passed,
    Event,
    Dry,
}

impl ConsumeIter {
    /// Connects and sends the first fetches.
    pub(super) fn start(shared: Arc<Shared>, tracks: Tracks, limit: Option<u64>) -> Result<ConsumeIter> {
        let scratch = Block::new(Vec::new(), tracks.sources.clone());
        let mut iter = ConsumeIter {
            shared,
            tracks,
            leaders: Vec::new(),
            turn: 0,
            loaded: Loaded { entries: Vec::new(), next: 0, home: Home::Scratch, base: 0, partition: 0, after: 0 },
            scratch,
            snappy: snap::raw::Decoder::new(),
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
            Pulled::Bundle => Ok(self.pop()),
            Pulled::Quiet | Pulled::Finished => Ok(None),
        }
    }

    /// The messages of the next bundle, or what [`next`](Iterator::next) has left of the present one, borrowed: no
    /// allocation, no reference counts. `Ok(None)`: finished.
    ///
    /// All of them count as delivered with this call.
    ///
    /// # Errors
    /// As the items of the iterator; it is then finished.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>> {
        let has_rest = self.loaded.next < self.loaded.entries.len() && !self.closer.is_closed();
        if !has_rest && self.pull(Deadline::NEVER)? != Pulled::Bundle {
            return Ok(None);
        }
        let from = std::mem::replace(&mut self.loaded.next, self.loaded.entries.len());
        Ok(Some(self.batch(from)))
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
    ///
    /// On a `&mut ConsumeIter` write `(*iter).position(…)`: there `Iterator::position` comes first.
    pub fn position(&self, topic: &str, partition: u16) -> Option<u64> {
        let index = self.tracks.find(topic, partition).filter(|&index| self.tracks.has_position(index))?;
        Some(self.position_of(index))
    }

    fn position_of(&self, index: usize) -> u64 {
        self.loaded.position_of(index).unwrap_or(self.tracks.tracks[index].position)
    }

    /// The next number of every partition that has a [position](ConsumeIter::position).
    pub fn positions(&self) -> Positions {
        self.tracks.positions(|index| self.position_of(index))
    }

    /// The highest number of a partition that the broker was heard to have, 0 if it has none; `None` if it was not
    /// heard of. It moves with the answers to fetches.
    pub fn high_water_mark(&self, topic: &str, partition: u16) -> Option<u64> {
        self.tracks.find(topic, partition).and_then(|index| self.tracks.tracks[index].high_water_mark)
    }

    /// How many numbers lie between the positions and the high-water marks, all partitions together. Numbers that
    /// no message has count too.
    pub fn lag(&self) -> u64 {
        self.tracks.lag(|index| self.position_of(index))
    }

    /// What retention took before it was delivered.
    pub fn gaps(&self) -> &[Gap] {
        &self.tracks.gaps
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.tracks.stats;
        stats.messages += self.loaded.next as u64;
        stats.bundles += u64::from(self.loaded.next > 0);
        stats.bytes += self.leaders.iter().map(|leader| leader.bytes).sum::<u64>();
        stats
    }

    /// The next message of the loaded bundle.
    #[inline]
    fn pop(&mut self) -> Option<Message> {
        if self.loaded.next == self.loaded.entries.len() || self.closer.is_closed() {
            return None;
        }
        let message = self.batch(self.loaded.next).get(0).map(|message| message.to_message());
        self.loaded.next += 1;
        message
    }

    /// The loaded messages from one on.
    #[inline]
    fn batch(&self, from: usize) -> Batch<'_> {
        let block = match self.loaded.home {
            Home::ReadBuf(leader) => self.leaders[leader].buf().block(),
            Home::Scratch => &self.scratch,
        };
        let source = self.loaded.partition as u32;
        Batch { block, base: self.loaded.base, source, entries: &self.loaded.entries[from..] }
    }

    /// Loads the next bundle, blocking up to the deadline.
    fn pull(&mut self, until: Deadline) -> Result<Pulled> {
        let pulled = self.try_pull(until);
        if !matches!(pulled, Ok(Pulled::Bundle | Pulled::Quiet)) {
            self.finished = true;
            self.tracks.stats.bytes += self.leaders.iter_mut().map(Leader::take_bytes).sum::<u64>();
            self.leaders.clear();
            self.loaded.clear();
        }
        pulled
    }

    fn try_pull(&mut self, until: Deadline) -> Result<Pulled> {
        self.unload();
        let mut passed = false;
        loop {
            if self.finished || self.closer.is_closed() || self.remaining == 0 {
                return Ok(Pulled::Finished);
            }
            if self.tracks.take_changed() {
                if self.tracks.all_done() {
                    return Ok(Pulled::Finished);
                }
                self.dispatch()?;
            }
            if passed && until.has_passed() {
                return Ok(Pulled::Quiet);
            }
            let turn = self.take_turns()?;
            passed = matches!(turn, Turn::Passed);
            match turn {
                Turn::Bundle => return Ok(Pulled::Bundle),
                Turn::Passed | Turn::Event => {}
                Turn::Dry if !self.wait(until)? => return Ok(Pulled::Quiet),
                Turn::Dry => {}
            }
        }
    }

    /// The first bundle with a message at or above `seq`, up to `end`: for a subscription to one partition, whatever was
    /// asked for before. `None` if there is no such message now.
    pub(super) fn bundle_at(&mut self, seq: u64, end: u64) -> Result<Option<Batch<'_>>> {
        self.loaded.clear();
        self.tracks.tracks[0].state = TrackState::Done;
        if self.tracks.tracks[0].chunk_len > MAX_PASSED_OVER {
            self.leaders.clear();
        }
        while self.leaders.iter().any(|leader| !leader.is_idle()) {
            if matches!(self.take_turns()?, Turn::Dry) {
                self.wait(Deadline::NEVER)?;
            }
        }
        self.tracks.seek(0, seq, end);
        match self.try_pull(Deadline::NEVER)? {
            Pulled::Bundle => Ok(Some(self.batch(0))),
            Pulled::Quiet | Pulled::Finished => Ok(None),
        }
    }

    /// Counts what was handed out of the bundle as delivered.
    fn unload(&mut self) {
        if let Some(position) = self.loaded.position_of(self.loaded.partition) {
            self.tracks.stats.messages += self.loaded.next as u64;
            self.tracks.stats.bundles += 1;
            self.tracks.advance(self.loaded.partition, position);
        }
        self.loaded.clear();
    }

    /// Lets the leaders go on in turn until there is an event, beginning with the one that had the last.
    fn take_turns(&mut self) -> Result<Turn> {
        for _ in 0..self.leaders.len() {
            if self.turn >= self.leaders.len() {
                self.turn = 0;
            }
            let turn = self.turn;
            match self.leaders[turn].poll() {
                Ok(Some((event, start))) => return self.on_event(turn, event, start),
                Ok(None) => self.turn += 1,
                Err(e) => {
                    self.on_failure(turn, e, &[])?;
                    return Ok(Turn::Event);
                }
            }
        }
        Ok(Turn::Dry)
    }

    fn on_event(&mut self, turn: usize, event: Event, start: usize) -> Result<Turn> {
        match event {
            Event::Response { .. } => self.tracks.on_response(),
            Event::Partition { slot, answer } => {
                if let Some((index, outcome)) = self.leaders[turn].answer(slot) {
                    self.tracks.on_answer(index, answer, outcome, &self.shared.cluster);
                }
            }
            Event::Bundle(bundle) => {
                let index = self.leaders[turn].partition(bundle.slot);
                let is_loaded = self.load(turn, index, bundle, start)?;
                return Ok(if is_loaded { Turn::Bundle } else { Turn::Passed });
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
                    self.shared.cluster.knew_no_leader(&leader.addr);
                }
                // The others' turn, however fast this one may answer again.
                self.turn += 1;
                self.tracks.on_progress(&partitions);
                self.tracks.on_end(&partitions, outcome, soon)?;
                return Ok(Turn::Passed);
            }
        }
        Ok(Turn::Event)
    }

    /// Decodes a bundle of a partition; whether any of its messages are to be handed out.
    fn load(&mut self, turn: usize, index: usize, mut bundle: Bundle, start: usize) -> Result<bool> {
        if self.tracks.on_bundle(index, &mut bundle) == Verdict::Skip {
            return Ok(false);
        }
        let loaded = &mut self.loaded;
        loaded.partition = index;
        let leader = &mut self.leaders[turn];
        let buf = leader.buf();
        let set = &buf.block().bytes[start + bundle.set.start..start + bundle.set.end];
        let decoded = if bundle.codec == Codec::None && buf.is_worth_sharing() {
            (loaded.home, loaded.base) = (Home::ReadBuf(turn), start + bundle.set.start);
            bundle.decode(set, &mut loaded.entries)
        } else {
            (loaded.home, loaded.base) = (Home::Scratch, 0);
            let scratch = own_scratch(&mut self.scratch, set.len());
            let unpacked = match bundle.codec {
                Codec::Snappy => bundle.decompress(&mut self.snappy, set, &self.shared.config.limits, scratch),
                Codec::None => {
                    if scratch.len() < set.len() {
                        scratch.resize(set.len(), 0);
                    }
                    scratch[..set.len()].copy_from_slice(set);
                    Ok(set.len())
                }
            };
            unpacked.and_then(|len| bundle.decode(&scratch[..len], &mut loaded.entries))
        };
        if let Err(e) = decoded {
            loaded.clear();
            let source = &self.tracks.sources[index];
            return Err(e.in_partition(&source.topic, source.partition).into());
        }
        let stopped = self.tracks.stop_at_time(index, &mut loaded.entries);
        // Nothing more is wanted of it than what was found.
        let through = !stopped && !bundle.cut && (bundle.last <= bundle.to || self.tracks.ends_at(index, bundle.to));
        let fits = loaded.entries.len() as u64 <= self.remaining;
        loaded.entries.truncate(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let after = bundle.last.min(bundle.to) + 1;
        let Some(last) = loaded.entries.last() else {
            if through {
                self.tracks.advance(index, after);
            }
            return Ok(false);
        };
        loaded.after = if through && fits { after } else { last.seq + 1 };
        self.remaining -= loaded.entries.len() as u64;
        leader.has_progressed();
        self.tracks.on_progress(leader.partitions());
        self.tracks.on_found(index);
        Ok(true)
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
        self.shared.cluster.failed(&leader.addr);
        Ok(())
    }

    /// Asks the leaders for all partitions that are free to be asked for.
    fn dispatch(&mut self) -> Result<()> {
        let mut wanted: Vec<(BrokerAddr, Vec<usize>)> = Vec::new();
        for index in 0..self.tracks.tracks.len() {
            if self.tracks.wake(index) != TrackState::Idle {
                continue;
            }
            let addr = self.broker_for(index);
            match wanted.iter_mut().find(|(leader, _)| *leader == addr) {
                Some((_, partitions)) => partitions.push(index),
                None => wanted.push((addr, vec![index])),
            }
        }
        self.drop_unused_leaders(&wanted);
        for (addr, partitions) in wanted {
            let turn = self.leaders.iter().position(|leader| leader.addr == addr).unwrap_or_else(|| {
                debug!("{addr}: joining the subscription");
                self.leaders.push(Leader::new(addr, &self.shared.config, &self.tracks.sources));
                self.leaders.len() - 1
            });
            let sent = match self.leaders[turn].bring_up(&self.closer) {
                Ok(true) => self.fetch(turn, &partitions),
                Ok(false) => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = sent {
                self.on_failure(turn, e, &partitions)?;
            }
        }
        Ok(())
    }

    /// The broker to ask for a partition: its leader, or while that one is down, another one that may know a successor.
    fn broker_for(&self, index: usize) -> BrokerAddr {
        let cluster = &self.shared.cluster;
        let leader = self.tracks.leader(index, cluster);
        let is_resting = |addr: &BrokerAddr| self.leaders.iter().any(|known| known.addr == *addr && known.is_resting());
        if !is_resting(&leader) {
            return leader;
        }
        cluster.brokers().into_iter().find(|addr| !is_resting(addr)).unwrap_or(leader)
    }

    /// Drops leaders that nothing is wanted of any more. Must not be called while a bundle is loaded.
    fn drop_unused_leaders(&mut self, wanted: &[(BrokerAddr, Vec<usize>)]) {
        let paused = self.tracks.any_paused();
        for leader in &mut self.leaders {
            leader.set_wanted(wanted.iter().any(|(addr, _)| *addr == leader.addr));
        }
        self.leaders.retain(|leader| leader.is_used() || paused);
    }

    /// Sends as many requests for these partitions as it takes.
    fn fetch(&mut self, turn: usize, partitions: &[usize]) -> Result<()> {
        if !partitions.iter().any(|&index| self.tracks.waits_alone(index)) {
            return self.fetch_together(turn, partitions);
        }
        let (alone, together): (Vec<_>, Vec<_>) = partitions.iter().partition(|&&index| self.tracks.waits_alone(index));
        self.fetch_together(turn, &together)?;
        alone.into_iter().try_for_each(|index| self.fetch_together(turn, &[index]))
    }

    fn fetch_together(&mut self, turn: usize, partitions: &[usize]) -> Result<()> {
        let mut rest = partitions;
        while !rest.is_empty() {
            let mut asked = 0;
            let fits = |&&index: &&usize| {
                asked += u64::from(self.tracks.tracks[index].fetch_size);
                asked <= MAX_ASKED
            };
            let count = rest.iter().take(MAX_PARTITIONS).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            let (request, slots) = self.request_for(now);
            for &index in now {
                self.tracks.tracks[index].state = TrackState::InFlight;
            }
            self.leaders[turn].send(request, slots, &mut self.request)?;
        }
        Ok(())
    }

    /// A request for these partitions, and which of them its slots are: it names every topic once.
    fn request_for(&mut self, partitions: &[usize]) -> (FetchRequest, Vec<usize>) {
        let options = &self.tracks.options;
        let at_once = self.tracks.must_not_wait(partitions);
        let mut topics: Vec<(FetchTopic, Vec<usize>)> = Vec::new();
        for &index in partitions {
            let (source, track) = (&self.tracks.sources[index], &self.tracks.tracks[index]);
            let wanted =
                FetchPartition { partition: source.partition, seq: track.position, fetch_size: track.fetch_size };
            match topics.iter_mut().find(|(topic, _)| topic.name == source.topic) {
                Some((topic, slots)) => {
                    topic.partitions.push(wanted);
                    slots.push(index);
                }
                None => {
                    topics.push((FetchTopic { name: source.topic.clone(), partitions: vec![wanted] }, vec![index]));
                }
            }
        }
        let (topics, slots): (Vec<_>, Vec<_>) = topics.into_iter().unzip();
        let request_id = self.next_request_id;
        self.next_request_id = request_id.wrapping_add(1);
        let request = FetchRequest {
            client_version: if options.prefer_local { 3 } else { 2 },
            request_id,
            client_id: self.shared.config.client_id.clone(),
            max_wait_ms: if at_once { 0 } else { options.max_wait_ms() },
            min_bytes: options.min_bytes,
            flags: if options.prefer_local { FLAG_PREFER_LOCAL } else { 0 },
            topics,
        };
        (request, slots.concat())
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
        waited.map_err(|e| Error::io(crate::Phase::Wait, e))?;
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

impl Loaded {
    fn clear(&mut self) {
        self.entries.clear();
        self.next = 0;
    }

    /// Where a partition stands, if it is the one that is being handed out and any of it was.
    fn position_of(&self, partition: usize) -> Option<u64> {
        let last = self.next.checked_sub(1).filter(|_| partition == self.partition)?;
        if self.next == self.entries.len() {
            Some(self.after)
        } else {
            self.entries.get(last).map(|entry| entry.seq + 1)
        }
    }
}

/// The scratch block's memory for a bundle of `len` bytes: a new one if messages still share the old one.
fn own_scratch(scratch: &mut Arc<Block<Sources>>, len: usize) -> &mut Vec<u8> {
    let outsized = scratch.bytes.len() > KEPT_SCRATCH.max(8 * len);
    if outsized || Arc::get_mut(scratch).is_none() {
        *scratch = Block::new(Vec::new(), scratch.tag.clone());
    }
    // Just made ours alone.
    &mut Arc::get_mut(scratch).unwrap_or_else(|| unreachable!("a block that nobody shares")).bytes
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
