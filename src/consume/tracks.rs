//! Where each partition of a subscription stands, and what an answer means for it. No I/O.

use std::sync::Arc;
use std::time::Duration;

use log::{debug, warn};

use super::position::{Gap, Position, Positions};
use super::stats::Stats;
use super::subscription::{MAX_FETCH_SIZE, Options, OutOfRange};
use crate::config::Config;
use crate::error::{Error, Fault, Result};
use crate::message::{Source, Sources};
use crate::net::old::{Backoff, Deadline};
use crate::net::{AddressBook as Cluster, BrokerAddr, Time};
use crate::protocol::bundle::Entry;
use crate::protocol::fetch::{PartitionAnswer, SEQ_TAIL};
use crate::protocol::stream::{Bundle, ChunkEnd};
use crate::protocol::{DecodeError, DecodeFault, varint};

/// How long to leave a partition alone that has only messages above its high-water mark, or of which a broker says at
/// once that it has none, without waiting for any.
const NOTHING_YET_PAUSE: Duration = Duration::from_millis(100);

/// A number that lies beyond the end of every log, but is not the one that stands for the end: the answer to that does not
/// tell where it is.
const BEYOND_END: u64 = u64::MAX - 1;

/// One partition of a subscription.
#[derive(Debug)]
pub(super) struct Track {
    /// The next number to deliver; 0: the first there is.
    pub(super) position: u64,
    /// The next number to ask for: what lies between the two has arrived.
    pub(super) fetch_from: u64,
    /// The first number that was there when last heard of.
    pub(super) first_available: u64,
    pub(super) high_water_mark: Option<u64>,
    /// Begins at the end, which is not known yet: a number beyond it is asked for, and the answer tells.
    at_end: bool,
    /// Begins where a checkpoint says, and no answer has shown yet that there is such a place.
    pub(super) resumed: bool,
    /// The last number to deliver.
    pub(super) end: Option<u64>,
    /// `stop_at_end` has still to learn where the end is.
    end_unknown: bool,
    /// What to ask for next: grown while a bundle is larger than the configured size.
    pub(super) fetch_size: u32,
    pub(super) state: TrackState,
    /// The broker that the last answer pointed at.
    pub(super) leader: Option<BrokerAddr>,
    /// The last answer had nothing.
    drained: bool,
    /// The last answer ended a wait with data not to be relied on.
    woken: bool,
    /// Messages found in the chunk that is being read.
    found: bool,
    /// Length of the chunk that is being read, and of the last one that lay all below the position.
    pub(super) chunk_len: u32,
    stale_len: Option<u32>,
    /// Answers in a row that could not be followed.
    hops: u32,
    /// Since the first trouble without progress: when to give up.
    give_up: Option<Deadline>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrackState {
    /// To be asked for with the next fetch.
    Idle,
    /// Asked for.
    InFlight,
    /// Not to be asked for before that moment.
    Paused(Deadline),
    /// Nothing more is wanted of it.
    Done,
}

/// All partitions of a subscription.
#[derive(Debug)]
pub(super) struct Tracks {
    pub(super) sources: Sources,
    pub(super) tracks: Vec<Track>,
    pub(super) options: Options,
    /// Nodes of a cluster die when they wait for several partitions with one fetch and data comes for one of them; and
    /// the data with which they end a wait may be numbered wrongly. So there each partition is waited for alone, and what
    /// ends a wait only says that it is time to ask again.
    in_cluster: bool,
    pub(super) stats: Stats,
    pub(super) gaps: Vec<Gap>,
    retry_timeout: Duration,
    backoff: Backoff,
    bundle_limit: u32,
    /// Whether any partition is to be given up some time.
    in_trouble: bool,
    /// Whether any partition may have to be asked for, or none any more.
    changed: bool,
    /// How many partitions are paused.
    paused: usize,
}

/// What an answer came to so far. Those of several leaders are read side by side.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The broker was asked to wait for data.
    waited: bool,
    has_data: bool,
    has_fault: bool,
    /// A partition has no leader, as far as the broker knows, or none that it leads to.
    pub(super) knows_no_leader: bool,
    /// What the caller shall learn once the answer is through.
    error: Option<Error>,
}

impl Outcome {
    pub(super) fn new(waited: bool) -> Outcome {
        Outcome { waited, ..Outcome::default() }
    }

    fn fail(&mut self, e: Error) {
        self.error.get_or_insert(e);
    }
}

/// Whether the next fetch is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on behind what was found.
    Clear,
    /// The messages of the last bundle tell where it goes on.
    SeeFirst,
}

impl Tracks {
    pub(super) fn new(partitions: Vec<(Source, Track)>, options: Options, in_cluster: bool, config: &Config) -> Tracks {
        let (sources, tracks): (Vec<_>, Vec<_>) = partitions.into_iter().unzip();
        Tracks {
            sources: sources.into(),
            tracks,
            options,
            in_cluster,
            stats: Stats::default(),
            gaps: Vec::new(),
            retry_timeout: config.retry_timeout,
            backoff: config.leader_backoff(),
            bundle_limit: config.limits.bundle,
            in_trouble: false,
            changed: true,
            paused: 0,
        }
    }

    pub(super) fn find(&self, topic: &str, partition: u16) -> Option<usize> {
        self.sources.iter().position(|source| &*source.topic == topic && source.partition == partition)
    }

    /// Whether something happened that calls for another look at all partitions.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn set_changed(&mut self) {
        self.changed = true;
    }

    pub(super) fn all_done(&self) -> bool {
        self.tracks.iter().all(|track| track.state == TrackState::Done)
    }

    /// All positions, given where each partition stands with what is being handed out.
    pub(super) fn positions(&self, position_of: impl Fn(usize) -> u64) -> Positions {
        let position = |(index, source): (usize, &Source)| {
            let (topic, partition) = (source.topic.clone(), source.partition);
            self.has_position(index).then(|| Position { topic, partition, seq: position_of(index) })
        };
        Positions(self.sources.iter().enumerate().filter_map(position).collect())
    }

    /// Whether a partition stands anywhere: not if it begins at an end that is not known yet.
    pub(super) fn has_position(&self, index: usize) -> bool {
        !self.tracks[index].at_end
    }

    /// The sum of what all partitions are behind, given where each stands.
    pub(super) fn lag(&self, position_of: impl Fn(usize) -> u64) -> u64 {
        let lags = self.tracks.iter().enumerate().map(|(index, track)| track.lag(position_of(index)));
        lags.fold(0, u64::saturating_add)
    }

    /// The broker to ask for a partition.
    pub(super) fn leader(&self, index: usize, cluster: &Cluster) -> BrokerAddr {
        let source = &self.sources[index];
        let known = self.tracks[index].leader.clone();
        known.unwrap_or_else(|| cluster.broker_for(&source.topic, source.partition))
    }

    /// Ends a partition's pause if it is over; its state.
    pub(super) fn wake(&mut self, index: usize) -> TrackState {
        let track = &mut self.tracks[index];
        if matches!(track.state, TrackState::Paused(until) if until.has_passed()) {
            track.state = TrackState::Idle;
            self.paused -= 1;
        }
        track.state
    }

    /// Whether there is more of a partition that could be asked for, than has arrived.
    pub(super) fn is_behind(&self, index: usize) -> bool {
        let track = &self.tracks[index];
        track.state == TrackState::Idle && track.lag(track.fetch_from) > 0
    }

    /// Refuses to ask for the number that stands for whatever comes next: only a broker that claims messages right up to
    /// it leads there.
    pub(super) fn check_position(&self, index: usize) -> Result<()> {
        let position = self.tracks[index].fetch_from;
        if position != SEQ_TAIL {
            return Ok(());
        }
        let fault = DecodeFault::SeqRange { seq: position, low: 0, high: SEQ_TAIL - 1 };
        let Source { topic, partition } = &self.sources[index];
        let e = DecodeError::new("next sequence number", fault, 0).in_partition(topic, *partition);
        Err(Error::decode(&"the leader", e))
    }

    pub(super) fn any_paused(&self) -> bool {
        self.paused > 0
    }

    /// When the next pause ends.
    pub(super) fn next_wake(&self) -> Deadline {
        if self.paused == 0 {
            return Deadline::NEVER;
        }
        self.tracks.iter().fold(Deadline::NEVER, |next, track| match track.state {
            TrackState::Paused(until) => next.earlier(until),
            _ => next,
        })
    }

    /// Takes back partitions that were asked for in vain, and sends none to the broker that failed unless it is named
    /// again. Whether it is worth another try.
    pub(super) fn on_lost(&mut self, partitions: &[usize], failed: &BrokerAddr) -> bool {
        for track in &mut self.tracks {
            if track.leader.as_ref() == Some(failed) {
                track.leader = None;
            }
        }
        self.release(partitions);
        partitions.iter().all(|&index| self.is_tolerated(index))
    }

    /// Notes that a partition makes no progress; whether that has not lasted for too long.
    fn is_tolerated(&mut self, index: usize) -> bool {
        self.in_trouble = true;
        let retry_timeout = self.retry_timeout;
        !self.tracks[index].give_up.get_or_insert_with(|| Deadline::after(retry_timeout)).has_passed()
    }

    /// Notes that an answer about these partitions gets on.
    pub(super) fn on_progress(&mut self, partitions: &[usize]) {
        if self.in_trouble {
            for &index in partitions {
                let track = &mut self.tracks[index];
                track.give_up = track.give_up.filter(|_| track.hops > 0);
            }
            self.in_trouble = self.tracks.iter().any(|track| track.give_up.is_some());
        }
    }

    /// Whether a fetch for these partitions has to be answered at once.
    pub(super) fn must_not_wait(&self, partitions: &[usize]) -> bool {
        let alone = matches!(*partitions, [index] if self.waits_alone(index));
        (self.in_cluster && !alone) || partitions.iter().any(|&index| self.tracks[index].end_unknown)
    }

    /// Whether this partition is to be waited for, with a fetch of its own.
    pub(super) fn waits_alone(&self, index: usize) -> bool {
        let track = &self.tracks[index];
        self.in_cluster && !track.end_unknown && !track.woken && (track.drained || track.lag(track.fetch_from) == 0)
    }

    /// Counts an answer, as one without data until there is some.
    pub(super) fn on_response(&mut self) {
        self.stats.fetches += 1;
        self.stats.empty_fetches += 1;
    }

    /// Takes in what an answer says of a partition.
    pub(super) fn on_answer(
        &mut self,
        index: usize,
        answer: PartitionAnswer,
        outcome: &mut Outcome,
        cluster: &Cluster,
        now: Time,
    ) {
        outcome.has_fault |= !matches!(answer, PartitionAnswer::Data { .. });
        let Source { topic, partition } = self.sources[index].clone();
        let track = &mut self.tracks[index];
        track.found = false;
        track.chunk_len = answer.chunk_len();
        if !matches!(
            answer,
            PartitionAnswer::Redirect(_) | PartitionAnswer::NoLeader | PartitionAnswer::OutOfRange { .. }
        ) {
            track.hops = 0;
        }
        let fault = match answer {
            PartitionAnswer::Data { high_water_mark, len, .. } => {
                if len > 0 && !std::mem::replace(&mut outcome.has_data, true) {
                    self.stats.empty_fetches -= 1;
                }
                track.woken = self.in_cluster && outcome.waited && len > 0;
                track.on_data(high_water_mark, len);
                return;
            }
            PartitionAnswer::OutOfRange { high_water_mark, first_available } => {
                return self.on_out_of_range(index, first_available, high_water_mark, outcome);
            }
            PartitionAnswer::Redirect(endpoint) => {
                self.stats.redirects += 1;
                match cluster.named(endpoint) {
                    Err(fault) => fault,
                    Ok(None) => return self.on_no_leader(index, outcome, cluster),
                    Ok(Some(addr)) => {
                        warn!("{topic}/{partition}: redirected to {addr}");
                        // A replica near us must never be taken for the leader that messages are published to.
                        if !self.options.prefer_local {
                            cluster.learn(&topic, partition, addr.clone(), now);
                        }
                        track.leader = Some(addr);
                        // The first redirect is how leaders are found; a second one in a row wants time to settle.
                        let (hops, pause) = (track.hops + 1, track.hops > 0);
                        outcome.knows_no_leader |= pause;
                        let e = Error::broker(&topic, partition, Fault::Redirects { hops, last: endpoint });
                        return self.wait_or_give_up(index, pause, e, outcome);
                    }
                }
            }
            PartitionAnswer::NoLeader => return self.on_no_leader(index, outcome, cluster),
            PartitionAnswer::SystemError => Fault::System,
            PartitionAnswer::UnknownPartition => Fault::UnknownPartition,
            PartitionAnswer::UnknownTopic => Fault::UnknownTopic,
        };
        outcome.fail(Error::broker(&topic, partition, fault));
    }

    fn on_no_leader(&mut self, index: usize, outcome: &mut Outcome, cluster: &Cluster) {
        let Source { topic, partition } = &self.sources[index];
        cluster.forget(topic, *partition);
        let e = Error::broker(topic, *partition, Fault::NoLeader);
        self.tracks[index].leader = None;
        self.stats.no_leader += 1;
        outcome.knows_no_leader = true;
        self.wait_or_give_up(index, true, e, outcome);
    }

    fn wait_or_give_up(&mut self, index: usize, pause: bool, e: Error, outcome: &mut Outcome) {
        let tolerated = self.is_tolerated(index);
        let track = &mut self.tracks[index];
        track.hops += 1;
        if !tolerated && pause {
            return outcome.fail(e);
        }
        if pause {
            let wait = self.backoff.pause_after(track.hops);
            self.pause(index, Deadline::after(wait));
        }
    }

    fn pause(&mut self, index: usize, until: Deadline) {
        self.paused += 1;
        self.tracks[index].state = TrackState::Paused(until);
    }

    fn on_out_of_range(&mut self, index: usize, first_available: u64, high_water_mark: u64, outcome: &mut Outcome) {
        let Source { topic, partition } = &self.sources[index];
        let track = &mut self.tracks[index];
        track.high_water_mark = Some(high_water_mark);
        track.first_available = first_available;
        let requested = track.fetch_from;
        if std::mem::take(&mut track.at_end) {
            track.position = high_water_mark.saturating_add(1);
            track.fetch_from = track.position;
            debug!("{topic}/{partition}: begins at the end, with {}", track.position);
            return track.check_end();
        }
        let recreated = std::mem::take(&mut track.resumed) && requested > high_water_mark.saturating_add(1);
        let policy = if recreated { self.options.beyond_end } else { self.options.out_of_range };
        let e = |topic: &Arc<str>| {
            let (topic, partition) = (topic.to_string(), *partition);
            match recreated {
                true => Error::Recreated { topic, partition, position: requested, high_water_mark },
                false => Error::OutOfRange { topic, partition, requested, first_available, high_water_mark },
            }
        };
        match policy {
            OutOfRange::Fail => return outcome.fail(e(topic)),
            OutOfRange::Earliest => track.position = first_available,
            OutOfRange::Latest => track.position = high_water_mark.saturating_add(1),
        }
        track.fetch_from = track.position;
        warn!("{topic}/{partition}: {requested} is out of range, going on with {}", track.position);
        if requested < first_available {
            let (topic, partition) = (topic.clone(), *partition);
            self.gaps.push(Gap { topic, partition, first: requested, last: first_available - 1 });
        }
        track.check_end();
        if track.state != TrackState::Done {
            // Where a broker sends us there is something; if not, and again not, it will not end by itself.
            let (e, pause) = (e(topic), track.hops > 0);
            self.wait_or_give_up(index, pause, e, outcome);
        }
    }

    /// Whether nothing from this number on is wanted of a partition.
    pub(super) fn ends_before(&self, index: usize, seq: u64) -> bool {
        self.tracks[index].end.is_some_and(|end| seq > end)
    }

    /// Whether all that is wanted of a bundle's numbers comes with it.
    pub(super) fn takes_whole(&self, bundle: &Bundle) -> bool {
        !bundle.cut && (bundle.last <= bundle.to || self.tracks[bundle.slot].end == Some(bundle.to))
    }

    /// Takes in the bundles of a partition that were just found, from `new` on; removes those that are not wanted, and
    /// sets up to which number to take the last.
    pub(super) fn on_bundles(&mut self, bundles: &mut Vec<Bundle>, new: usize) -> Verdict {
        let Some(index) = bundles.get(new).map(|bundle| bundle.slot) else { return Verdict::Clear };
        let track = &mut self.tracks[index];
        if track.woken || track.state == TrackState::Done {
            self.changed |= !track.woken;
            bundles.truncate(new);
            return Verdict::Clear;
        }
        if let Some(end) = track.end {
            // Their numbers rise.
            let wanted = bundles[new..].partition_point(|bundle| bundle.first <= end);
            if new + wanted < bundles.len() {
                track.state = TrackState::Done;
                self.changed = true;
            }
            bundles.truncate(new + wanted);
            if let Some(last) = bundles[new..].last_mut() {
                last.to = last.to.min(end);
            }
        }
        // What is cut comes again, whole; only where there is nothing else it is worth looking at.
        if bundles.last().is_some_and(|last| last.cut) && (track.found || bundles.len() - new > 1) {
            bundles.pop();
        }
        let Some(last) = bundles[new..].last() else { return Verdict::Clear };
        let (is_whole, after) = (self.takes_whole(last), last.last.min(last.to) + 1);
        if is_whole || bundles.len() - new > 1 {
            self.on_found(index);
        }
        if !is_whole {
            return Verdict::SeeFirst;
        }
        let track = &mut self.tracks[index];
        track.fetch_from = after;
        track.check_end();
        Verdict::Clear
    }

    /// Takes away the messages from the first at or after the time to stop at on, of those decoded of bundles that begin
    /// with the number `first`, and ends the partition before it; whether there was one.
    pub(super) fn stop_at_time(&mut self, index: usize, first: u64, entries: &mut Vec<Entry>) -> bool {
        let Some(time) = self.options.stop_at_time else { return false };
        let Some(at) = entries.iter().position(|entry| entry.timestamp_ms >= time) else { return false };
        entries.truncate(at);
        let track = &mut self.tracks[index];
        track.end = Some(entries.last().map_or(first - 1, |last| last.seq));
        track.state = TrackState::Done;
        self.changed = true;
        true
    }

    /// Turns to another part of a partition, of which nothing may be under way.
    pub(super) fn seek(&mut self, index: usize, seq: u64, end: u64) {
        let track = &mut self.tracks[index];
        (track.position, track.fetch_from) = (seq, seq);
        (track.end, track.end_unknown) = (Some(end), true);
        (track.state, track.stale_len) = (TrackState::Idle, None);
        track.fetch_size = self.options.fetch_size;
        self.changed = true;
    }

    /// Notes that there are messages to be handed out.
    pub(super) fn on_found(&mut self, index: usize) {
        let track = &mut self.tracks[index];
        track.found = true;
        track.stale_len = None;
        track.fetch_size = self.options.fetch_size;
    }

    /// Moves a partition on once messages up to just below `position` were handed out.
    pub(super) fn advance(&mut self, index: usize, position: u64) {
        let track = &mut self.tracks[index];
        track.position = position;
        track.fetch_from = track.fetch_from.max(position);
        track.high_water_mark = track.high_water_mark.max(Some(position - 1));
        track.check_end();
        self.changed |= track.state == TrackState::Done;
    }

    /// Draws the conclusions from a chunk that is through.
    pub(super) fn on_chunk_end(&mut self, index: usize, end: ChunkEnd, outcome: &mut Outcome) {
        let track = &mut self.tracks[index];
        if track.state == TrackState::Done || track.woken {
            return;
        }
        match end {
            ChunkEnd::Cut { bundle_len } => self.on_cut(index, bundle_len.unwrap_or(0), outcome),
            ChunkEnd::AboveMark if !track.found => {
                self.pause(index, Deadline::after(NOTHING_YET_PAUSE));
            }
            ChunkEnd::Whole if !track.found => {
                if track.stale_len.is_some_and(|before| track.chunk_len <= before) {
                    let Source { topic, partition } = &self.sources[index];
                    let e = Error::broker(topic, *partition, Fault::Stuck { seq: track.fetch_from });
                    return outcome.fail(e);
                }
                track.stale_len = Some(track.chunk_len);
                let doubled = u64::from(track.fetch_size) * 2;
                track.fetch_size = doubled.min(MAX_FETCH_SIZE.into()) as u32;
            }
            ChunkEnd::AboveMark | ChunkEnd::Whole => {}
        }
    }

    /// Asks for a cut bundle of `needed` bytes with its length prefix, 0 if that was cut too, or for more than before.
    fn on_cut(&mut self, index: usize, needed: u64, outcome: &mut Outcome) {
        let limit = u64::from(self.bundle_limit) + varint::MAX_LEN as u64;
        let track = &mut self.tracks[index];
        let asked = u64::from(track.fetch_size);
        if !track.found && (needed > limit || asked >= limit) {
            let Source { topic, partition } = &self.sources[index];
            let (topic, partition, limit) = (topic.to_string(), *partition, self.bundle_limit.into());
            let needed = needed.max(asked + 1);
            return outcome.fail(Error::BundleTooLarge { topic, partition, needed, limit });
        }
        let size = if track.found || needed > asked { needed.max(asked) } else { asked * 2 };
        track.fetch_size = u32::try_from(size.min(limit)).unwrap_or(u32::MAX);
        debug!("{}: next fetch size {} for a cut bundle", self.sources[index], track.fetch_size);
    }

    /// Ends an answer: its partitions can be asked for again, after a pause if it came `soon` and empty for no reason.
    ///
    /// # Errors
    /// What the answer said of a partition and the caller has to know, now that its other partitions are delivered.
    pub(super) fn on_end(&mut self, partitions: &[usize], outcome: Outcome, soon: bool) -> Result<()> {
        if soon && !outcome.has_data && !outcome.has_fault {
            let until = Deadline::after(NOTHING_YET_PAUSE);
            for &index in partitions {
                if self.tracks[index].state == TrackState::InFlight {
                    self.pause(index, until);
                }
            }
        }
        self.release(partitions);
        outcome.error.map_or(Ok(()), Err)
    }

    /// Makes partitions that were asked for free to be asked for again.
    pub(super) fn release(&mut self, partitions: &[usize]) {
        self.changed = true;
        for &index in partitions {
            let track = &mut self.tracks[index];
            if track.state == TrackState::InFlight {
                track.state = TrackState::Idle;
            }
        }
    }
}

impl Track {
    /// A partition that begins at this number; with its first number and its high-water mark, if they are known.
    pub(super) fn new(position: u64, marks: Option<(u64, u64)>, options: &Options) -> Track {
        Track {
            position,
            fetch_from: position,
            first_available: marks.map_or(0, |(first, _)| first),
            high_water_mark: marks.map(|(_, mark)| mark),
            at_end: false,
            resumed: false,
            end: options.stop_at_seq,
            end_unknown: options.stop_at_end,
            fetch_size: options.fetch_size,
            state: TrackState::Idle,
            leader: None,
            drained: false,
            woken: false,
            found: false,
            chunk_len: 0,
            stale_len: None,
            hops: 0,
            give_up: None,
        }
    }

    /// A partition that begins at its end, wherever that is.
    pub(super) fn at_end(options: &Options) -> Track {
        Track { at_end: true, ..Track::new(BEYOND_END, None, options) }
    }

    fn on_data(&mut self, high_water_mark: u64, len: u32) {
        self.drained = len == 0;
        (self.resumed, self.at_end) = (false, false);
        if len > 0 {
            self.high_water_mark = Some(high_water_mark);
            if std::mem::take(&mut self.end_unknown) {
                self.end = Some(self.end.unwrap_or(u64::MAX).min(high_water_mark));
            }
        } else {
            // The mark of an empty answer may be too low, but nothing lies below the position either.
            let known = self.high_water_mark.unwrap_or(0).max(self.fetch_from.saturating_sub(1));
            self.high_water_mark = Some(known.max(high_water_mark));
            if std::mem::take(&mut self.end_unknown) {
                self.state = TrackState::Done;
            }
        }
        self.check_end();
    }

    pub(super) fn check_end(&mut self) {
        if self.end.is_some_and(|end| self.fetch_from > end) {
            self.state = TrackState::Done;
        }
    }

    fn lag(&self, position: u64) -> u64 {
        let next = position.max(self.first_available).max(1);
        self.high_water_mark.map_or(0, |mark| mark.saturating_add(1).saturating_sub(next))
    }
}
