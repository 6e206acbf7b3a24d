//! Chunks: consecutive bundles of one partition, as in an answer or in a partition's file (reference, sections 4 and 5).

use std::ops::Range;

use super::bundle::{BundleHeader, Codec, Entry, MAX_HEADER_LEN, MessageSet};
use super::cursor::Cursor;
use super::error::{DecodeError, DecodeFault};
use super::{Limits, run};

/// How a chunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEnd {
    /// After a whole bundle.
    Whole,
    /// Inside its last bundle.
    Cut {
        /// The length of the whole bundle in bytes, with its length prefix, if the chunk still contains that prefix.
        bundle_len: Option<u64>,
    },
    /// At the high-water mark; the rest was skipped.
    AboveMark,
}

/// A bundle with messages that may be delivered, or several small ones together. Its bytes are in the decoder's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Its partition, by the number that the reader has for it. In an answer, the index in
    /// [`FetchRequest::slots`](super::fetch::FetchRequest::slots), which the caller may replace.
    pub owner: u32,
    /// The number of bundles: more than one only as [`join_up_to`](super::stream::FetchDecoder::join_up_to) allows.
    pub bundles: u32,
    /// How the message set is compressed.
    pub codec: Codec,
    /// The number of messages, as the header or headers say.
    pub count: u32,
    /// The number of its first message.
    pub first: u64,
    /// The number of its last message.
    pub last: u64,
    /// `true` if it contains its messages' numbers.
    pub sparse: bool,
    /// `true` if the chunk ends inside it. It is then uncompressed, and its complete messages count.
    pub cut: bool,
    /// The lowest number that may be delivered.
    pub from: u64,
    /// The highest number that may be delivered.
    pub to: u64,
    /// The bytes of the message set, as a range of the input of the step that found it. For several bundles: all of their
    /// bytes, beginning with the first one's length.
    pub set: Range<usize>,
    /// Where those bytes begin in the frame's payload, or in the file.
    pub at: u64,
}

impl Bundle {
    /// Adds to its range what lies before the input of the step that found it.
    pub(crate) fn shift(&mut self, by: usize) {
        self.set = by + self.set.start..by + self.set.end;
    }

    /// Appends an entry for each message of the decompressed message set that may be delivered. The set's bytes begin at
    /// `at` in the memory that the entries point into.
    ///
    /// # Errors
    /// As [`MessageSet::decode`], but the entries of bundles without an error stay, and are counted in `good`.
    #[inline]
    pub fn decode(
        &self,
        bytes: &[u8],
        at: usize,
        entries: &mut Vec<Entry>,
        good: &mut Good,
    ) -> Result<(), DecodeError> {
        let Bundle { bundles, count, first, last, sparse, cut, from, to, .. } = *self;
        let set = MessageSet { bytes, at, count, first, last, sparse, cut };
        if bundles > 1 {
            return run::decode(&set, bundles, to, entries, good);
        }
        let before = entries.len();
        set.decode(from, to, entries).inspect_err(|_| entries.truncate(before))?;
        good.bundles += 1;
        Ok(())
    }
}

/// The bundles without an error among those that were decoded together.
#[derive(Debug, Default)]
pub struct Good {
    /// How many.
    pub bundles: u64,
    /// Bytes of the good bundles before a bad one.
    pub bytes: u64,
}

/// The rest of a chunk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chunk {
    /// Its partition, by the number that the reader has for it.
    pub(crate) owner: u32,
    /// Where its next byte is in the frame's payload, or in the file.
    pub(crate) at: u64,
    /// Bytes left.
    pub(crate) left: u64,
    /// The lowest number that may be delivered.
    pub(crate) from: u64,
    /// The highest number that may be delivered.
    pub(crate) to: u64,
    /// The first number of the next bundle, if that is dense.
    pub(crate) next: Option<u64>,
    /// Whether no number may be below `next`. The first bundle of an answer may begin below it; later ones, and those of a file,
    /// may not.
    pub(crate) next_is_floor: bool,
}

/// What was found where a bundle should begin.
pub(crate) enum Found {
    /// A wanted bundle, or several small ones: consume the bytes up to the end of its set. If the chunk ends with it: how.
    Bundle(Bundle, Option<ChunkEnd>),
    /// This many more bytes are needed.
    Need(usize),
    /// A bundle below the wanted number: skip this many bytes.
    Skip(u64),
    /// The end of the chunk, or something that ends it.
    End(ChunkEnd),
}

impl Chunk {
    /// Takes the bundle at the front of `bytes`, the next bytes of the chunk, or several small ones with up to `joined`
    /// messages together.
    // Inlined into loops over bundles, as what it calls is, so that nothing passes through memory.
    #[inline(always)]
    pub(crate) fn take(&mut self, bytes: &[u8], joined: u32, limits: &Limits) -> Result<Found, DecodeError> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = bytes.get(..left).unwrap_or(bytes);
        if let Some(run) = self.take_run(bytes, joined, limits) {
            return Ok(Found::Bundle(run, None));
        }
        if left == 0 {
            return Ok(Found::End(ChunkEnd::Whole));
        }
        let mut cursor = Cursor::new(bytes, self.at);
        let Some(len) = length(&mut cursor)? else {
            let is_cut = bytes.len() == left;
            return Ok(if is_cut { Found::End(ChunkEnd::Cut { bundle_len: None }) } else { Found::Need(1) });
        };
        let prefix = bytes.len() - cursor.left();
        let body = len.min((left - prefix) as u64);
        let cut = len > body;
        let cut_end = || ChunkEnd::Cut { bundle_len: Some(len + prefix as u64) };
        let body_len = usize::try_from(body).unwrap_or(usize::MAX);
        let header_len = body_len.min(MAX_HEADER_LEN);
        let Some(head) = cursor.rest().get(..header_len) else { return Ok(Found::Need(header_len - cursor.left())) };
        let at = cursor.at();
        let header = match BundleHeader::decode(&mut Cursor::new(head, at), limits) {
            Ok(header) => header,
            Err(e) if cut && matches!(e.fault(), DecodeFault::Short { .. }) => return Ok(Found::End(cut_end())),
            Err(e) => return Err(e),
        };
        let (first, last) = self.range(&header, at)?;
        if first > self.to {
            return Ok(Found::End(ChunkEnd::AboveMark));
        }
        if cut && (last < self.from || header.codec == Codec::Snappy) {
            return Ok(Found::End(cut_end()));
        }
        let whole = prefix as u64 + len;
        if last < self.from {
            self.pass(whole, last);
            return Ok(Found::Skip(whole));
        }
        if body > u64::from(limits.bundle) {
            DecodeError::check("bundle length", len, limits.bundle, at)?;
        }
        let end = prefix + body_len;
        if bytes.len() < end {
            return Ok(Found::Need(end - bytes.len()));
        }
        let start = prefix + header.len;
        let Chunk { owner, from, to, .. } = *self;
        let BundleHeader { codec, count, sparse, .. } = header;
        let at = self.at + start as u64;
        self.pass(end as u64, last);
        let (sparse, set) = (sparse.is_some(), start..end);
        let bundle = Bundle { owner, bundles: 1, codec, count, first, last, sparse, cut, from, to, set, at };
        let chunk_end = if cut { Some(cut_end()) } else { (last > to).then_some(ChunkEnd::AboveMark) };
        Ok(Found::Bundle(bundle, chunk_end))
    }

    /// Takes the run that begins here, if all of it is wanted.
    // Inlined, it takes registers from the loop over bundles: 12 instructions more for each bundle of one message.
    #[inline(never)]
    fn take_run(&mut self, bytes: &[u8], joined: u32, limits: &Limits) -> Option<Bundle> {
        let Chunk { owner, at, from, to, next, .. } = *self;
        let first = next.filter(|&next| next >= from.max(1))?;
        // Room below the highest number wanted, and 2^64-1 is none.
        let room = to.min(u64::MAX - 1).checked_sub(first - 1)?;
        let most = joined.min(limits.messages).min(u32::try_from(room).unwrap_or(u32::MAX));
        let run::Run { bundles, messages: count, len } = run::find(bytes, most, limits.bundle)?;
        let last = first + u64::from(count) - 1;
        self.pass(len as u64, last);
        let (codec, sparse, cut, set) = (Codec::None, false, false, 0..len);
        Some(Bundle { owner, bundles, codec, count, first, last, sparse, cut, from, to, set, at })
    }

    /// Returns the first and last number of a bundle with this header, if it may follow the bundles before it.
    #[inline(always)]
    fn range(&self, header: &BundleHeader, at: u64) -> Result<(u64, u64), DecodeError> {
        let (first, last) = header.range(self.next, at)?;
        let low = self.next.unwrap_or(0);
        if self.next_is_floor && first < low {
            let fault = DecodeFault::SeqRange { seq: first, low, high: u64::MAX - 1 };
            return Err(DecodeError::new("first sequence number", fault, at));
        }
        Ok((first, last))
    }

    /// Moves past `len` bytes of bundles whose last number is `last`.
    fn pass(&mut self, len: u64, last: u64) {
        self.at += len;
        self.left -= len;
        self.next = Some(last + 1);
        self.next_is_floor = true;
    }
}

/// Reads the length of a bundle; `None` if it is incomplete.
#[inline(always)]
fn length(cursor: &mut Cursor<'_>) -> Result<Option<u64>, DecodeError> {
    match cursor.varint("bundle length") {
        Ok(0) => Err(DecodeError::undefined("bundle length", 0u64, cursor.at() - 1)),
        Ok(len) => Ok(Some(len.into())),
        Err(e) if matches!(e.fault(), DecodeFault::Short { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
