//! Records of a partition on their way in, with the checks that all of them must pass, and on their way back.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::warn;

use super::bundle::{Bundle, Unpacked};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::message::{Record, check_topic};
use crate::net::{Network, Time};
use crate::protocol::bundle::{MAX_KEY, RawMessage};

/// The most bytes of key and payload in a record: with everything around it, a request stays below the 256 MiB that servers
/// accept.
const MAX_RECORD: usize = 255 << 20;

/// Beyond this many bytes, uncompressed, a bundle takes no further record: readers must hold it whole.
pub(super) const MAX_SET: usize = 32 << 20;

/// The most bytes that surround a record's key and payload.
const RECORD_OVERHEAD: usize = 1 + 5 + 8 + 1 + 5;

/// A number must lie less than this above the last one stored, and above the first one of its bundle (reference, section 19).
const TOO_FAR: u64 = 1 << 31;

/// Records for a partition, for [`Client::publish_all`](crate::Client::publish_all).
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct PartitionRecords<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u16,
    records: Records<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Records<'a> {
    /// Records that get their numbers from the broker.
    Plain(&'a [Record<'a>]),
    /// Records with explicit numbers.
    Numbered(&'a [(u64, Record<'a>)]),
}

impl<'a> PartitionRecords<'a> {
    /// Creates the list of records for a partition, in the order in which they are to be stored.
    pub fn new(topic: &'a str, partition: u16, plain: &'a [Record<'a>]) -> PartitionRecords<'a> {
        PartitionRecords { topic, partition, records: Records::Plain(plain) }
    }

    /// Creates a list of records with explicit numbers.
    pub(crate) fn numbered(topic: &'a str, partition: u16, numbered: &'a [(u64, Record<'a>)]) -> PartitionRecords<'a> {
        PartitionRecords { topic, partition, records: Records::Numbered(numbered) }
    }

    pub(super) fn len(&self) -> usize {
        match self.records {
            Records::Plain(records) => records.len(),
            Records::Numbered(records) => records.len(),
        }
    }

    pub(super) fn is_numbered(&self) -> bool {
        matches!(self.records, Records::Numbered(_))
    }

    /// Returns a record, and its explicit number if it has one.
    pub(super) fn get(&self, index: usize) -> Option<(Option<u64>, Record<'a>)> {
        match self.records {
            Records::Plain(records) => records.get(index).map(|&record| (None, record)),
            Records::Numbered(records) => records.get(index).map(|&(seq, record)| (Some(seq), record)),
        }
    }

    /// Refuses records that cannot be sent.
    pub(super) fn check(&self) -> Result<()> {
        let PartitionRecords { topic, partition, .. } = *self;
        check_partition(topic, partition)?;
        if self.len() == 0 {
            return Err(Error::config(format!("{topic}/{partition}: no records to publish")));
        }
        let mut before = 0;
        for (index, (seq, record)) in (0..).map_while(|index| Some((index, self.get(index)?))) {
            check_record(topic, partition, &record).map_err(|e| match e.kind {
                ErrorKind::Config { reason } => Error::config(format!("record {index}: {reason}")),
                _ => e,
            })?;
            let Some(seq) = seq else { continue };
            if seq <= before || seq == u64::MAX {
                let (low, high) = (before + 1, u64::MAX - 1);
                let reason = format!("record {index}: sequence number {seq} given, {low} to {high} allowed");
                return Err(Error::config(reason));
            }
            before = seq;
        }
        Ok(())
    }

    /// Refuses numbers that a partition whose log ends at `end` does not accept, or that could kill its server. Warns of gaps.
    pub(super) fn check_numbers(&self, end: u64) -> Result<()> {
        let PartitionRecords { topic, partition, records: Records::Numbered(numbered) } = *self else { return Ok(()) };
        let (Some(&(first, _)), Some(&(last, _))) = (numbered.first(), numbered.last()) else { return Ok(()) };
        let refused = |fault| Err(Error::refused(topic, partition, fault));
        if first <= end {
            return refused(Fault::SeqNotAbove { seq: first });
        }
        // The first bundle of a partition may begin anywhere.
        let base = if end == 0 { first } else { end };
        if last - base >= TOO_FAR {
            return refused(Fault::SeqTooFar { seq: last });
        }
        let base = if end == 0 { first - 1 } else { end };
        let before = [base].into_iter().chain(numbered.iter().map(|&(seq, _)| seq));
        let mut gaps = before.zip(numbered).filter(|(before, (seq, _))| seq - before > 1);
        if let Some((before, (seq, _))) = gaps.next() {
            let (from, to, count) = (before + 1, seq - 1, 1 + gaps.count());
            warn!(
                "{topic}/{partition}: gaps in the numbers: {count}, the first from {from} to {to}; \
                a fetch inside one may kill the server"
            );
        }
        Ok(())
    }
}

/// Records of a partition that a [`Producer`](crate::Producer) could not store, or may have stored, and the reason.
///
/// It holds the bundle as it would be sent; [`records`](Failure::records) decodes it.
pub struct Failure {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
    pub(super) bundle: Bundle,
    pub(super) error: Error,
    /// Its queue.
    pub(super) queue: usize,
    pub(super) unpacked: OnceLock<Unpacked>,
}

impl Failure {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition of the topic.
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// The reason: [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown) if the records may be stored nevertheless; with any
    /// other error they are not.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Returns whether the records may be stored nevertheless: all of them or none. (After a fail-over, a new leader may have
    /// only the first ones.)
    pub fn is_unknown(&self) -> bool {
        self.error.kind == ErrorKind::OutcomeUnknown
    }

    /// Returns the number of records.
    pub fn count(&self) -> usize {
        self.bundle.count as usize
    }

    /// Returns the records, in the order in which they were given, each with its time stamp.
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        let (set, entries) = self.unpacked.get_or_init(|| {
            // It was encoded here, so it decodes.
            let unpacked = self.bundle.unpack().unwrap_or_default();
            debug_assert_eq!(unpacked.1.len(), self.count());
            unpacked
        });
        entries.iter().map(|entry| {
            let record = Record::new(&set[entry.payload()]).timestamp_ms(entry.timestamp_ms);
            entry.key().map_or(record, |key| record.key(&set[key]))
        })
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Failure");
        shown.field("topic", &self.topic).field("partition", &self.partition);
        shown.field("records", &self.count()).field("error", &self.error).finish()
    }
}

/// The most bytes a record takes in a bundle.
#[inline]
pub(super) fn max_bytes_of(raw: &RawMessage<'_>) -> usize {
    raw.payload.len() + raw.key.map_or(0, <[u8]>::len) + RECORD_OVERHEAD
}

/// Refuses names and partitions that the wire has no room for.
pub(super) fn check_partition(topic: &str, partition: u16) -> Result<()> {
    check_topic(topic)?;
    if partition == u16::MAX {
        return Err(Error::config(format!("{topic}: partition 65535 given, 0 to 65534 allowed")));
    }
    Ok(())
}

/// Refuses a record that fits into no bundle.
#[inline]
pub(super) fn check_record(topic: &str, partition: u16, record: &Record<'_>) -> Result<()> {
    let key = record.get_key().map_or(0, <[u8]>::len);
    let len = key + record.payload().len();
    if key > MAX_KEY || len > MAX_RECORD { Err(refusal(topic, partition, key, len)) } else { Ok(()) }
}

#[cold]
fn refusal(topic: &str, partition: u16, key: usize, len: usize) -> Error {
    if key > MAX_KEY {
        return Error::config(format!("{topic}/{partition}: key of {key} bytes given, 0 to {MAX_KEY} allowed"));
    }
    let (needed, limit) = (len as u64, MAX_RECORD as u64);
    Error::new(ErrorKind::BundleTooLarge { needed, limit }).about(topic, partition)
}

/// Milliseconds since 1970 for records without a time stamp. Each look reads one clock.
#[derive(Default)]
pub(super) struct WallClock {
    /// When the wall clock was read, and what it said.
    read: Option<(Time, u64)>,
}

impl WallClock {
    /// For this long the monotonic clock tells how far the wall clock has moved. A jump is noticed after that at the latest.
    const TRUSTED: Duration = Duration::from_millis(100);

    #[inline]
    pub(super) fn millis(&mut self, now: Time, net: &dyn Network) -> u64 {
        match self.read {
            Some((then, ms)) if now.since(then) < WallClock::TRUSTED => ms + u64::from(now.since(then).subsec_millis()),
            _ => {
                // In this order, so that no record gets a time stamp in the future.
                let wall = millis(net.wall());
                self.read.insert((net.now(), wall)).1
            }
        }
    }
}

/// A time of the wall clock in milliseconds since 1970.
#[inline]
pub(super) fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
