//! What has arrived and is to be handed out: bundles, and the messages of those that are decoded.

use super::decoded::Decoded;
use super::leader::Leader;
use super::tracks::{Tracks, Verdict};
use crate::error::{Error, Result};
use crate::message::Sources;
use crate::protocol::stream::{Bundle, Step};
use crate::protocol::{DecodeError, Limits};

/// With how many bundles to begin decoding, wherever the answer ends.
const MAX_BUNDLES: usize = 1024;

/// Bundles of one leader's answer, in the order they came in, and the messages decoded of the first of them.
#[derive(Debug)]
pub(super) struct Arrived {
    /// The bundles, with the subscription's partitions for slots and as ranges of the read buffer's block, and how many
    /// are through.
    bundles: Vec<Bundle>,
    taken: usize,
    decoded: Decoded,
    /// The partition of what is decoded, and its position once all of that is handed out.
    partition: usize,
    after: u64,
    /// What is wrong with the bundle behind it, to be told once all of that is handed out.
    failure: Option<DecodeError>,
}

/// What was handed out of the decoded messages.
pub(super) struct Delivered {
    pub(super) partition: usize,
    pub(super) position: u64,
    pub(super) messages: u64,
    pub(super) bundles: u64,
}

impl Arrived {
    pub(super) fn new(sources: &Sources) -> Arrived {
        let decoded = Decoded::new(sources);
        Arrived { bundles: Vec::new(), taken: 0, decoded, partition: 0, after: 0, failure: None }
    }

    /// Goes on with a leader, and takes in the bundles found, as far as they are wanted. Nothing must be read into its
    /// buffer before all bundles are through. What was found, and whether its messages have to be seen before more is.
    pub(super) fn step(&mut self, leader: &mut Leader, tracks: &mut Tracks) -> Result<(Step, bool)> {
        let before = self.bundles.len();
        let step = leader.step(&mut self.bundles)?;
        let see = tracks.on_bundles(&mut self.bundles, before) == Verdict::SeeFirst;
        if self.bundles.len() > before {
            leader.has_progressed();
            tracks.on_progress(leader.partitions());
            self.decoded.settle_in(leader.buf());
        }
        Ok((step, see))
    }

    /// Whether there are bundles to decode, or there is something to be told of one that was.
    #[inline]
    pub(super) fn has_bundles(&self) -> bool {
        self.taken < self.bundles.len() || self.failure.is_some()
    }

    /// Whether no more should be added before some are decoded.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.bundles.len() >= MAX_BUNDLES
    }

    /// The messages that are decoded.
    #[inline]
    pub(super) fn decoded(&mut self) -> &mut Decoded {
        &mut self.decoded
    }

    /// What was handed out so far of the messages that are decoded, if anything.
    pub(super) fn delivered(&self) -> Option<Delivered> {
        let taken = self.decoded.taken();
        let last = taken.checked_sub(1)?;
        let position = match self.decoded.has_messages() {
            false => self.after,
            true => self.decoded.entries().get(last)?.seq + 1,
        };
        let bundles = self.decoded.good().bundles;
        Some(Delivered { partition: self.partition, position, messages: taken as u64, bundles })
    }

    /// Forgets the decoded messages, and the bundles that are through.
    pub(super) fn unload(&mut self) {
        self.decoded.clear();
        if !self.has_bundles() {
            self.bundles.clear();
            self.taken = 0;
            self.decoded.leave();
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bundles.clear();
        self.taken = 0;
        self.failure = None;
        self.unload();
    }

    /// Decodes bundles until there are messages, at most `most`, that are to be handed out; how many there are.
    ///
    /// # Errors
    /// A bundle that breaks a rule or a limit, once all messages before it are handed out.
    pub(super) fn load(&mut self, tracks: &mut Tracks, limits: &Limits, most: u64) -> Result<u64> {
        self.unload();
        if let Some(e) = self.failure.take() {
            return Err(self.error(e, tracks));
        }
        while self.decoded.entries().is_empty() {
            let Some(bundle) = self.bundles.get(self.taken) else { break };
            let (partition, first) = (bundle.slot, bundle.first);
            // A time to stop at may have been found since it came in.
            if tracks.ends_before(partition, first) {
                self.taken += 1;
                continue;
            }
            self.partition = partition;
            self.failure = self.decoded.decode(bundle, partition as u32, limits).err();
            let is_whole = self.failure.is_none() && tracks.takes_whole(bundle);
            let entries = self.decoded.entries_mut();
            if let Some(e) = self.failure.take_if(|_| entries.is_empty()) {
                return Err(self.error(e, tracks));
            }
            let stopped = tracks.stop_at_time(partition, first, entries);
            let fits = entries.len() as u64 <= most;
            entries.truncate(usize::try_from(most).unwrap_or(usize::MAX));
            let all = (is_whole && fits && !stopped).then(|| bundle.last.min(bundle.to) + 1);
            match (all, entries.last()) {
                (None, None) => {}
                (Some(after), None) => tracks.advance(partition, after),
                (all, Some(entry)) => {
                    self.after = all.unwrap_or(entry.seq + 1);
                    if !is_whole {
                        tracks.on_found(partition);
                    }
                }
            }
            if stopped {
                self.failure = None;
            }
            self.taken += 1;
        }
        Ok(self.decoded.entries().len() as u64)
    }

    fn error(&self, e: DecodeError, tracks: &Tracks) -> Error {
        let source = &tracks.sources[self.partition];
        Error::decode(&"the leader", e.in_partition(&source.topic, source.partition))
    }
}
