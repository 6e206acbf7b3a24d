//! What one call publishes to a partition, and the checks that all records must pass.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::warn;

use crate::error::{Error, ErrorKind, Fault, Result};
use crate::message::{Record, check_topic};
use crate::net::{Network, Time};
use crate::protocol::bundle::{MAX_KEY, RawMessage};

/// The most bytes of key and payload in a record: with all that surrounds it in a request it stays below the 256 MiB that
/// servers take.
const MAX_RECORD: usize = 255 << 20;

/// A bundle takes no further record beyond this many bytes, uncompressed: readers must hold it whole.
pub(super) const MAX_SET: usize = 32 << 20;

/// The most bytes that surround a record's key and payload.
const RECORD_OVERHEAD: usize = 1 + 5 + 8 + 1 + 5;

/// How far above the last one stored, and above its bundle's first one, a number may not lie (reference, section 19).
const TOO_FAR: u64 = 1 << 31;

/// Records for a partition, as [`Client::publish_all`](crate::Client::publish_all) takes them.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct PartitionRecords<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u16,
    pub(super) records: Records<'a>,
}

/// Records with or without numbers of their own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Records<'a> {
    Plain(&'a [Record<'a>]),
    Numbered(&'a [(u64, Record<'a>)]),
}

impl<'a> Records<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Records::Plain(records) => records.len(),
            Records::Numbered(records) => records.len(),
        }
    }

    /// A record, and its number if it has one of its own.
    pub(super) fn get(&self, index: usize) -> Option<(Option<u64>, Record<'a>)> {
        match self {
            Records::Plain(records) => records.get(index).map(|&record| (None, record)),
            Records::Numbered(records) => records.get(index).map(|&(seq, record)| (Some(seq), record)),
        }
    }
}

impl<'a> PartitionRecords<'a> {
    /// Creates the list of records for a partition, in the order in which they are to be stored.
    pub fn new(topic: &'a str, partition: u16, records: &'a [Record<'a>]) -> PartitionRecords<'a> {
        PartitionRecords { topic, partition, records: Records::Plain(records) }
    }

    /// These records, with numbers of their own.
    pub(crate) fn numbered(topic: &'a str, partition: u16, records: &'a [(u64, Record<'a>)]) -> PartitionRecords<'a> {
        PartitionRecords { topic, partition, records: Records::Numbered(records) }
    }

    /// Whether the records have numbers of their own.
    pub(super) fn is_numbered(&self) -> bool {
        self.records.get(0).is_some_and(|(seq, _)| seq.is_some())
    }

    /// Refuses what cannot be sent.
    pub(super) fn check(&self) -> Result<()> {
        let PartitionRecords { topic, partition, records } = *self;
        check_place(topic, partition)?;
        if records.len() == 0 {
            return Err(Error::config(format!("{topic}/{partition}: no records to publish")));
        }
        let mut before = 0;
        for (index, (seq, record)) in (0..).map_while(|index| Some((index, records.get(index)?))) {
            check_record(topic, partition, &record).map_err(|e| at(index, e))?;
            let Some(seq) = seq else { continue };
            if seq <= before || seq == u64::MAX {
                let (low, high) = (before + 1, u64::MAX - 1);
                return Err(Error::config(format!(
                    "record {index}: sequence number {seq} given, {low} to {high} allowed"
                )));
            }
            before = seq;
        }
        Ok(())
    }

    /// Refuses numbers that a partition whose log ends at `end` does not take, or that could kill its server; warns of a gap.
    pub(super) fn check_numbers(&self, end: u64) -> Result<()> {
        let number = |index| self.records.get(index).and_then(|(seq, _)| seq);
        let (Some(first), Some(last)) = (number(0), number(self.records.len() - 1)) else { return Ok(()) };
        let PartitionRecords { topic, partition, .. } = *self;
        let refused = |fault| Err(Error::refused(topic, partition, fault));
        if first <= end {
            return refused(Fault::SeqNotAbove { seq: first });
        }
        // The first bundle of a partition may begin anywhere.
        let base = if end == 0 { first } else { end };
        if last - base >= TOO_FAR {
            return refused(Fault::SeqTooFar { seq: last });
        }
        if end != 0 && first - end > 1 {
            let (from, to) = (end + 1, first - 1);
            warn!(
                "{topic}/{partition}: numbers {from} to {to} are left out; a fetch of one of them may kill the server"
            );
        }
        Ok(())
    }
}

/// The most bytes a record takes in a bundle.
#[inline]
pub(super) fn most_bytes(raw: &RawMessage<'_>) -> usize {
    raw.payload.len() + raw.key.map_or(0, <[u8]>::len) + RECORD_OVERHEAD
}

/// Refuses names and partitions that the wire has no room for.
pub(super) fn check_place(topic: &str, partition: u16) -> Result<()> {
    check_topic(topic)?;
    if partition == u16::MAX {
        return Err(Error::config(format!("{topic}: partition 65535 given, 0 to 65534 allowed")));
    }
    Ok(())
}

/// Refuses a record that no bundle takes.
#[inline]
pub(super) fn check_record(topic: &str, partition: u16, record: &Record<'_>) -> Result<()> {
    let key = record.get_key().map_or(0, <[u8]>::len);
    if key > MAX_KEY {
        return Err(Error::config(format!("{topic}/{partition}: key of {key} bytes given, 0 to {MAX_KEY} allowed")));
    }
    let len = key + record.payload().len();
    if len > MAX_RECORD {
        let (needed, limit) = (len as u64, MAX_RECORD as u64);
        return Err(Error::new(ErrorKind::BundleTooLarge { needed, limit }).about(topic, partition));
    }
    Ok(())
}

/// Names the record that a call's error is about.
fn at(index: usize, e: Error) -> Error {
    match e.kind {
        ErrorKind::Config { reason } => Error::config(format!("record {index}: {reason}")),
        _ => e,
    }
}

/// Milliseconds since 1970 for records without a time stamp, at one look at one clock each.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// When the wall clock was read, and what it said.
    read: Option<(Time, u64)>,
}

impl WallClock {
    /// For this long the monotonic clock tells how far the wall clock has moved; a jump is noticed no later.
    const TRUSTED: Duration = Duration::from_millis(100);

    #[inline]
    pub(super) fn millis(&mut self, now: Time, net: &dyn Network) -> u64 {
        match self.read {
            Some((then, ms)) if now.since(then) < WallClock::TRUSTED => ms + u64::from(now.since(then).subsec_millis()),
            _ => {
                // In this order: no record is to be stamped with a time that is still to come.
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
