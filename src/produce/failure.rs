//! Records that come back.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::bundle::{Bundle, Unpacked};
use crate::error::Error;
use crate::message::Record;

/// Records of a partition that a [`Producer`](crate::Producer) could not store, or perhaps did, as they were given to it, and
/// why.
///
/// It holds the bundle as it would be sent; [`records`](Failure::records) decodes it.
pub struct Failure {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
    pub(super) bundle: Bundle,
    pub(super) error: Arc<Error>,
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

    /// The reason: [`Error::OutcomeUnknown`] if they may be stored all the same; with any other error they are not.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Returns whether they may be stored all the same: all of them or none. In a cluster, a new leader may have only the
    /// first of them.
    pub fn is_unknown(&self) -> bool {
        matches!(*self.error, Error::OutcomeUnknown { .. })
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
        f.debug_struct("Failure")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("records", &self.count())
            .field("error", &self.error)
            .finish()
    }
}
