//! Chunks: one bundle after the other, as an answer carries them for a partition, and as a partition's file holds them
//! (reference, sections 4 and 5).

use std::ops::Range;

use super::bundle::{BundleHeader, Codec, Entry, MAX_HEADER_LEN, MessageSet};
use super::cursor::Cursor;
use super::error::{DecodeError, DecodeFault};
use super::{Limits, compress, run};

/// How a chunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEnd {
    /// With a whole bundle.
    Whole,
    /// Inside its last bundle.
    Cut {
        /// Bytes of the whole bundle including its length prefix, if the cut left enough to tell.
        bundle_len: Option<u64>,
    },
    /// At the high-water mark; what lay above was passed over.
    AboveMark,
}

/// A bundle with messages that may be delivered, or several small ones together; it lies in the decoder's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The partition's index in [`FetchRequest::slots`](super::fetch::FetchRequest::slots).
    pub slot: usize,
    /// How many bundles it stands for: more than one only as
    /// [`join_up_to`](super::stream::FetchDecoder::join_up_to) allows.
    pub bundles: u32,
    /// How the message set is packed.
    pub codec: Codec,
    /// Messages the header announces, or the headers of all of them.
    pub count: u32,
    /// Number of its first message.
    pub first: u64,
    /// Number of its last message.
    pub last: u64,
    /// Whether it numbers its messages itself.
    pub sparse: bool,
    /// Whether the chunk ends inside it; then it is not compressed, and its complete messages count.
    pub cut: bool,
    /// The lowest number that may be delivered.
    pub from: u64,
    /// The highest number that may be delivered.
    pub to: u64,
    /// The message set's bytes, as a range of the input of the step that found it; of several bundles all bytes, from
    /// the length of the first one on.
    pub set: Range<usize>,
    /// Where those bytes begin in the frame's payload, or in the file.
    pub at: u64,
}

impl Bundle {
    /// Decompresses the message set `packed` into `out`, which grows as needed and is never shrunk; the set's length.
    ///
    /// # Errors
    /// A claimed length above the limit or beyond what Snappy can reach; data that does not decompress to it.
    pub fn decompress(
        &self,
        decoder: &mut snap::raw::Decoder,
        packed: &[u8],
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Result<usize, DecodeError> {
        let len = compress::decompressed_len(packed, limits.message_set, self.at)?;
        if out.len() < len {
            out.resize(len, 0);
        }
        compress::decompress(decoder, packed, out.get_mut(..len).unwrap_or_default(), self.at)?;
        Ok(len)
    }

    /// Appends an entry for each message of the (decompressed) message set that may be delivered. The set's bytes begin
    /// at `at` in the memory that the entries are to point into.
    ///
    /// # Errors
    /// As [`MessageSet::decode`], but only entries of bundles that are good as a whole stay.
    pub fn decode(&self, bytes: &[u8], at: usize, entries: &mut Vec<Entry>) -> Result<(), DecodeError> {
        self.decode_good(bytes, at, entries, &mut Good::default())
    }

    /// As [`decode`](Bundle::decode); adds to what is good.
    #[inline]
    pub(crate) fn decode_good(
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

/// What is good of bundles that are decoded together.
#[derive(Debug, Default)]
pub(crate) struct Good {
    pub(crate) bundles: u64,
    /// Bytes of those joined with a bad one in front of it.
    pub(crate) bytes: u64,
}

/// What is left of a chunk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chunk {
    /// The partition, as whoever reads the chunk counts them.
    pub(crate) slot: usize,
    /// Where its next byte stands in the frame's payload, or in the file.
    pub(crate) at: u64,
    /// Bytes left.
    pub(crate) left: u64,
    /// The lowest number that may be delivered.
    pub(crate) from: u64,
    /// The highest number that may be delivered.
    pub(crate) to: u64,
    /// Number of the next dense bundle's first message.
    pub(crate) next: Option<u64>,
    /// Whether it is what no number may be below: in an answer once a bundle is through, in a file from its name on.
    pub(crate) next_is_floor: bool,
}

/// What is found where a bundle begins.
pub(crate) enum Found {
    /// A bundle that is wanted, or several small ones: use up the bytes to the end of its set. How the chunk ends with
    /// it, if it does.
    Bundle(Bundle, Option<ChunkEnd>),
    /// So many more bytes are needed.
    Need(usize),
    /// A bundle below the wanted number, to be passed over: so many bytes.
    Skip(u64),
    /// The end of the chunk, or something that ends it.
    End(ChunkEnd),
}

impl Chunk {
    /// Takes what begins with `bytes`, the first of those left: a bundle, or several small ones with up to `joined`
    /// messages together.
    // Inlined into the loops over bundles, which then pass nothing through memory.
    #[inline(always)]
    pub(crate) fn take(&mut self, bytes: &[u8], joined: u32, limits: &Limits) -> Result<Found, DecodeError> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = bytes.get(..left).unwrap_or(bytes);
        if let Some((first, run)) = self.run(bytes, joined, limits) {
            let run::Run { bundles, messages: count, last, len } = run;
            let Chunk { slot, from, to, at, .. } = *self;
            let (codec, sparse, cut, set) = (Codec::None, false, false, 0..len);
            self.pass(len as u64, last);
            let run = Bundle { slot, bundles, codec, count, first, last, sparse, cut, from, to, set, at };
            return Ok(Found::Bundle(run, None));
        }
        if left == 0 {
            return Ok(Found::End(ChunkEnd::Whole));
        }
        let mut cursor = Cursor::new(bytes, self.at);
        let len = match cursor.varint("bundle length") {
            Ok(len) => u64::from(len),
            Err(e) if !matches!(e.fault(), DecodeFault::Short { .. }) => return Err(e),
            Err(_) if bytes.len() == left => return Ok(Found::End(ChunkEnd::Cut { bundle_len: None })),
            Err(_) => return Ok(Found::Need(1)),
        };
        if len == 0 {
            let last_byte = cursor.at() - 1;
            return Err(DecodeError::new("bundle length", DecodeFault::Undefined { value: 0 }, last_byte));
        }
        let prefix = cursor.read();
        let body = len.min((left - prefix) as u64);
        let cut = len > body;
        let cut_end = || ChunkEnd::Cut { bundle_len: Some(len + prefix as u64) };
        let body_len = usize::try_from(body).unwrap_or(usize::MAX);
        let available = body_len.min(MAX_HEADER_LEN);
        let Some(head) = cursor.rest().get(..available) else {
            return Ok(Found::Need(available - cursor.left()));
        };
        let at = cursor.at();
        let mut cursor = Cursor::new(head, at);
        let header = match BundleHeader::decode(&mut cursor, limits) {
            Ok(header) => header,
            Err(e) if cut && matches!(e.fault(), DecodeFault::Short { .. }) => return Ok(Found::End(cut_end())),
            Err(e) => return Err(e),
        };
        let (first, last) = header.range(self.next, at)?;
        if self.next_is_floor && first < self.next.unwrap_or(0) {
            let low = self.next.unwrap_or(0);
            let fault = DecodeFault::SeqRange { seq: first, low, high: u64::MAX - 1 };
            return Err(DecodeError::new("first sequence number", fault, at));
        }
        let Chunk { slot, from, to, .. } = *self;
        if first > to {
            return Ok(Found::End(ChunkEnd::AboveMark));
        }
        if cut && (last < from || header.codec == Codec::Snappy) {
            return Ok(Found::End(cut_end()));
        }
        if last < from {
            let skipped = len + prefix as u64;
            self.pass(skipped, last);
            return Ok(Found::Skip(skipped));
        }
        if body > u64::from(limits.bundle) {
            let fault = DecodeFault::OverLimit { claimed: len, limit: limits.bundle.into() };
            return Err(DecodeError::new("bundle length", fault, at));
        }
        let whole = prefix + body_len;
        if bytes.len() < whole {
            return Ok(Found::Need(whole - bytes.len()));
        }
        let head = prefix + header.len;
        let BundleHeader { codec, count, .. } = header;
        let (sparse, set, at) = (header.sparse.is_some(), head..whole, self.at + head as u64);
        self.pass(whole as u64, last);
        let end = if cut { Some(cut_end()) } else { (last > to).then_some(ChunkEnd::AboveMark) };
        Ok(Found::Bundle(Bundle { slot, bundles: 1, codec, count, first, last, sparse, cut, from, to, set, at }, end))
    }

    /// The run that begins here, if it is wanted as a whole, and its first number.
    fn run(&self, bytes: &[u8], joined: u32, limits: &Limits) -> Option<(u64, run::Run)> {
        let first = self.next.filter(|&next| next >= self.from.max(1))?;
        // Within the limit all together, so each is.
        let (top, messages) = (self.to.min(u64::MAX - 1), joined.min(limits.messages));
        let run = run::find(bytes, run::Bounds { first, top, messages, bundle: limits.bundle })?;
        Some((first, run))
    }

    /// Goes on behind `len` bytes of bundles, the last number in which is `last`.
    fn pass(&mut self, len: u64, last: u64) {
        self.at += len;
        self.left -= len;
        (self.next, self.next_is_floor) = (Some(last + 1), true);
    }
}
