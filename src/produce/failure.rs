//! Records that come back.

use std::fmt;
use std::sync::Arc;

use super::lane::Bundle;
use crate::error::Error;
use crate::message::Record;
use crate::protocol::bundle::{BundleHeader, Codec, Entry, MessageSet};
use crate::protocol::compress;
use crate::protocol::cursor::Cursor;
use crate::protocol::{DecodeError, Limits};

/// Records of a partition that a [`Producer`](crate::Producer) could not have stored, as they were given to it, and why.
pub struct Failure {
    topic: Arc<str>,
    partition: u16,
    set: Vec<u8>,
    entries: Vec<Entry>,
    error: Arc<Error>,
}

impl Failure {
    pub(super) fn new(topic: Arc<str>, partition: u16, bundle: &Bundle, error: Arc<Error>) -> Failure {
        // We encoded it ourselves, so it decodes.
        let (set, entries) = unpack(&bundle.bytes).unwrap_or_default();
        debug_assert_eq!(entries.len(), bundle.count as usize);
        Failure { topic, partition, set, entries, error }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition of the topic.
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// Why: [`Error::OutcomeUnknown`] if they may be stored nevertheless; otherwise they are not.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Whether they may be stored nevertheless: all of them or none.
    pub fn is_unknown(&self) -> bool {
        matches!(*self.error, Error::OutcomeUnknown { .. })
    }

    pub(super) fn shared_error(&self) -> &Arc<Error> {
        &self.error
    }

    /// How many records.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// The records, in the order in which they were given, each with its time stamp.
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.entries.iter().map(|entry| {
            let record = Record::new(&self.set[entry.payload()]).timestamp_ms(entry.timestamp_ms);
            entry.key().map_or(record, |key| record.key(&self.set[key]))
        })
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("records", &self.entries.len())
            .field("error", &self.error)
            .finish()
    }
}

/// The message set of a bundle, decompressed, and where its messages lie in it.
fn unpack(bundle: &[u8]) -> Result<(Vec<u8>, Vec<Entry>), DecodeError> {
    let mut cursor = Cursor::new(bundle, 0);
    let header = BundleHeader::decode(&mut cursor, &Limits::default())?;
    let set = match header.codec {
        Codec::None => cursor.rest().to_vec(),
        Codec::Snappy => {
            let mut set = vec![0; compress::decompressed_len(cursor.rest(), u32::MAX, 0)?];
            compress::decompress(&mut snap::raw::Decoder::new(), cursor.rest(), &mut set, 0)?;
            set
        }
    };
    let (first, last) = header.range(Some(1), 0)?;
    let mut entries = Vec::with_capacity(header.count as usize);
    let (count, sparse) = (header.count, header.sparse.is_some());
    MessageSet { bytes: &set, at: 0, count, first, last, sparse, cut: false }.decode(0, u64::MAX, &mut entries)?;
    Ok((set, entries))
}
