//! Bundles: header, message set, dense and sparse numbers, shared time stamps (reference, section 4).

use std::borrow::Cow;
use std::ops::Range;

use super::compress;
use super::cursor::Cursor;
use super::error::{DecodeError, DecodeFault, Decoded, EncodeError};
pub(crate) use super::limits::Compression;
use super::{Limits, varint};

/// The most bytes a bundle's header takes: flags, count, first number, last delta.
pub const MAX_HEADER_LEN: usize = 1 + varint::MAX_LEN + 8 + varint::MAX_LEN;

/// The most messages to put into a bundle (reference, section 19).
pub const MAX_MESSAGES: u32 = 65_535;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 255;

/// A message set of at least this many bytes is handed over with its memory; a smaller one is copied.
pub(crate) const LARGE: usize = 64 << 10;

const FLAG_SPARSE: u8 = 1 << 6;
const FLAG_RESERVED: u8 = 1 << 7;

const MESSAGE_KEY: u8 = 1;
const MESSAGE_SAME_TIME: u8 = 1 << 1;
const MESSAGE_NEXT_SEQ: u8 = 1 << 2;

/// How a message set is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// Snappy, raw block format.
    Snappy,
}

/// A bundle's header (reference, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleHeader {
    /// How the message set is compressed.
    pub codec: Codec,
    /// Number of messages, at least 1.
    pub count: u32,
    /// First and last sequence number, if the bundle is sparse.
    pub sparse: Option<(u64, u64)>,
    /// Bytes the header took.
    pub len: usize,
}

impl BundleHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// [`DecodeFault::Short`] if the header is incomplete; an undefined codec or flag; a count of 0 or above the limit;
    /// numbers that overflow, or a range too small for the count.
    // Inlined: passing the result costs more than reading it.
    #[inline(always)]
    pub fn decode(cursor: &mut Cursor<'_>, limits: &Limits) -> Result<BundleHeader, DecodeError> {
        let start = cursor.left();
        let flags = cursor.u8("bundle flags")?;
        let unsupported = |value| DecodeFault::Unsupported { value };
        if flags & FLAG_RESERVED != 0 {
            return Err(cursor.error("bundle flags", unsupported(flags.into())));
        }
        let codec = match flags & 3 {
            0 => Codec::None,
            1 => Codec::Snappy,
            other => return Err(cursor.error("bundle codec", unsupported(other.into()))),
        };
        let count = match u32::from(flags >> 2 & 0xf) {
            0 => cursor.varint("message count")?,
            small => small,
        };
        if count == 0 {
            return Err(DecodeError::undefined("message count", count, cursor.at()));
        }
        DecodeError::check("message count", count, limits.messages, cursor.at())?;
        let sparse = if flags & FLAG_SPARSE == 0 { None } else { Some(sparse_range(cursor, count)?) };
        Ok(BundleHeader { codec, count, sparse, len: start - cursor.left() })
    }

    /// Returns the first and last sequence number. A dense bundle begins with `next`.
    ///
    /// # Errors
    /// A dense bundle without a number to count from (`None`, or 0, which is never assigned), or one whose numbers
    /// reach 2^64−1.
    #[inline]
    pub fn range(&self, next: Option<u64>, at: u64) -> Result<(u64, u64), DecodeError> {
        if let Some(range) = self.sparse {
            return Ok(range);
        }
        let first = next.filter(|&first| first != 0);
        let first = first.ok_or_else(|| DecodeError::unexpected("bundle flags", 0, FLAG_SPARSE.into(), at))?;
        match first.checked_add(u64::from(self.count) - 1) {
            Some(last) if last < u64::MAX => Ok((first, last)),
            _ => Err(seq_range(first, 1, u64::MAX - u64::from(self.count), at)),
        }
    }
}

fn sparse_range(cursor: &mut Cursor<'_>, count: u32) -> Result<(u64, u64), DecodeError> {
    let first = cursor.u64("first sequence number")?;
    let last = match count {
        1 => Some(first),
        _ => first.checked_add(u64::from(cursor.varint("last delta")?) + 1),
    };
    let (low, high, at) = (first.saturating_add(u64::from(count) - 1), u64::MAX - 1, cursor.at());
    match last {
        Some(last) if first > 0 && (low..=high).contains(&last) => Ok((first, last)),
        Some(last) if first > 0 => Err(seq_range(last, low, high, at)),
        _ => Err(seq_range(first, 1, high, at)),
    }
}

#[cold]
fn seq_range(seq: u64, low: u64, high: u64, at: u64) -> DecodeError {
    DecodeError::new("sequence number", DecodeFault::SeqRange { seq, low, high }, at)
}

/// Returns how many messages a bundle with these flags has, if the flags are its whole header: it is then uncompressed and
/// dense, with at most 15 messages.
#[inline]
pub(super) fn count_in_flags(flags: u8) -> Option<u32> {
    (flags & !(0xf << 2) == 0 && flags != 0).then_some(u32::from(flags >> 2))
}

/// Where a message is in the memory that holds its decompressed message set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Sequence number.
    pub seq: u64,
    /// Time stamp, by convention milliseconds since 1970.
    pub timestamp_ms: u64,
    pub(super) place: Place,
}

/// Where a message's payload is, and the key before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    payload_at: usize,
    payload_len: u32,
    /// The key's length, plus 256 times the bytes between key and payload: one number costs a message less than two.
    key: u32,
}

const NO_KEY: u32 = u32::MAX;

impl Entry {
    /// Returns the same message, in memory that holds only its key, if any, and then its payload.
    pub(crate) fn alone(self) -> Entry {
        let (payload_at, key) = self.key().map_or((0, NO_KEY), |key| (key.len(), self.place.key & 0xff));
        Entry { place: Place { payload_at, key, ..self.place }, ..self }
    }

    /// The bytes of the key.
    #[inline]
    pub fn key(&self) -> Option<Range<usize>> {
        let Place { payload_at, key, .. } = self.place;
        (key != NO_KEY).then(|| {
            let end = payload_at - (key >> 8) as usize;
            end - (key & 0xff) as usize..end
        })
    }

    /// The bytes of the payload.
    #[inline]
    pub fn payload(&self) -> Range<usize> {
        let Place { payload_at, payload_len, .. } = self.place;
        payload_at..payload_at + payload_len as usize
    }

    /// Returns the message, given the memory that it lies in.
    pub(crate) fn message(self, memory: &[u8]) -> RawMessage<'_> {
        let key = self.key().and_then(|key| memory.get(key));
        RawMessage { timestamp_ms: self.timestamp_ms, key, payload: memory.get(self.payload()).unwrap_or_default() }
    }
}

/// Decodes a whole bundle: its message set, decompressed, and where each message lies in that. A dense bundle begins with the
/// number `base`.
///
/// # Errors
/// As [`BundleHeader::decode`], [`compress::decompress`] and [`MessageSet::decode`].
pub(crate) fn unpack(bundle: &[u8], base: u64) -> Result<(Cow<'_, [u8]>, Vec<Entry>), DecodeError> {
    let limits = Limits::default().message_set(u32::MAX);
    let mut cursor = Cursor::new(bundle, 0);
    let header = BundleHeader::decode(&mut cursor, &limits)?;
    let set = match header.codec {
        Codec::None => Cow::Borrowed(cursor.rest()),
        Codec::Snappy => {
            let mut set = Vec::new();
            compress::decompress(&mut snap::raw::Decoder::new(), cursor.rest(), &limits, 0, &mut set)?;
            Cow::Owned(set)
        }
    };
    let (first, last) = header.range(Some(base), 0)?;
    let (count, sparse) = (header.count, header.sparse.is_some());
    // Each message takes two bytes at least.
    let mut entries = Vec::with_capacity((set.len() / 2).min(count as usize));
    MessageSet { bytes: &set, at: 0, count, first, last, sparse, cut: false }.decode(0, u64::MAX, &mut entries)?;
    Ok((set, entries))
}

/// A message set to decode, with what its bundle's header says about it.
#[derive(Debug, Clone, Copy)]
pub struct MessageSet<'a> {
    /// The bytes, decompressed.
    pub bytes: &'a [u8],
    /// Where they begin in the memory that entries point into.
    pub at: usize,
    /// The number of messages, as the header says.
    pub count: u32,
    /// Number of the first message.
    pub first: u64,
    /// Number of the last message.
    pub last: u64,
    /// `true` if the bundle contains its messages' numbers.
    pub sparse: bool,
    /// `true` if the bytes are only the beginning of the set: then complete messages count, and an incomplete one is no error.
    pub cut: bool,
}

impl MessageSet<'_> {
    /// Appends an entry for each message with a number from `from` to `to`, inclusive.
    ///
    /// # Errors
    /// Contents that disagree with the header: a message past the end, bytes after the last one, a number outside the
    /// bundle's range. The entries appended before that stay.
    pub fn decode(&self, from: u64, to: u64, out: &mut Vec<Entry>) -> Result<(), DecodeError> {
        match (self.sparse, self.first >= from && self.last <= to) {
            (false, true) => self.decode_messages::<false>(|_| true, out),
            (true, true) => self.decode_messages::<true>(|_| true, out),
            (false, false) => self.decode_messages::<false>(|seq| seq >= from && seq <= to, out),
            (true, false) => self.decode_messages::<true>(|seq| seq >= from && seq <= to, out),
        }
    }

    fn decode_messages<const SPARSE: bool>(&self, wanted: impl Fn(u64) -> bool, out: &mut Vec<Entry>) -> Decoded {
        let mut cursor = Cursor::new(self.bytes, 0);
        let (mut seq, mut timestamp_ms) = (self.first.wrapping_sub(1), 0);
        for index in 0..self.count {
            match self.message::<SPARSE>(&mut cursor, index, &mut seq, &mut timestamp_ms) {
                Ok(place) => {
                    if wanted(seq) {
                        out.push(Entry { seq, timestamp_ms, place });
                    }
                }
                Err(e) if self.cut && matches!(e.fault(), DecodeFault::Short { .. }) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        if self.cut {
            // All messages are here, yet the bundle has at least one more byte. A whole bundle must not have it either.
            return Err(cursor.error("message set", DecodeFault::Spare { extra: cursor.left() as u64 + 1 }));
        }
        cursor.finish("message set")
    }

    /// Reads the message with this index. `seq` and `timestamp_ms` are those of the message before and become its own.
    // Inlined into loops over messages: a call costs a third more instructions per message.
    #[inline(always)]
    pub(super) fn message<const SPARSE: bool>(
        &self,
        cursor: &mut Cursor<'_>,
        index: u32,
        seq: &mut u64,
        timestamp_ms: &mut u64,
    ) -> Result<Place, DecodeError> {
        let flags = cursor.u8("message flags")?;
        *seq = if SPARSE && index > 0 { self.sparse_seq(cursor, flags, index, *seq)? } else { seq.wrapping_add(1) };
        if flags & MESSAGE_SAME_TIME == 0 {
            *timestamp_ms = cursor.u64("time stamp")?;
        }
        let payload = |cursor: &mut Cursor<'_>| {
            let payload_len = cursor.varint("payload length")?;
            let payload_at = self.at + self.bytes.len() - cursor.left();
            cursor.bytes(payload_len as usize, "payload").map(|_| Place { payload_at, payload_len, key: NO_KEY })
        };
        if flags & MESSAGE_KEY == 0 {
            return payload(cursor);
        }
        let key_len = cursor.str8("key")?.len();
        let key_end = self.at + self.bytes.len() - cursor.left();
        let place = payload(cursor)?;
        let key = u32::try_from((place.payload_at - key_end) << 8 | key_len).unwrap_or(NO_KEY);
        Ok(Place { key, ..place })
    }

    fn sparse_seq(&self, cursor: &mut Cursor<'_>, flags: u8, index: u32, previous: u64) -> Result<u64, DecodeError> {
        let is_last = index + 1 == self.count;
        let seq = if flags & MESSAGE_NEXT_SEQ != 0 {
            previous.saturating_add(1)
        } else if is_last {
            return Ok(self.last);
        } else {
            previous.saturating_add(1).saturating_add(cursor.varint("sequence number delta")?.into())
        };
        // Every later message needs a distinct number up to `last`, and the last message must have exactly `last`.
        let high = self.last.saturating_sub(u64::from(self.count - 1 - index));
        let low = if is_last { self.last } else { previous.saturating_add(1) };
        if seq < low || seq > high {
            return Err(seq_range(seq, low, high, cursor.at()));
        }
        Ok(seq)
    }
}

/// A message to be encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawMessage<'a> {
    /// By convention milliseconds since 1970.
    pub timestamp_ms: u64,
    /// At most [`MAX_KEY`] bytes.
    pub key: Option<&'a [u8]>,
    /// At most 2^32−1 bytes.
    pub payload: &'a [u8],
}

/// Collects messages and writes them as a bundle. Afterwards it is empty.
#[derive(Debug, Default)]
pub struct BundleBuilder {
    /// The message set, after room for the bundle's header.
    set: Vec<u8>,
    count: u32,
    content: usize,
    time: u64,
    first: u64,
    last: u64,
    /// Where the number delta of the current last message goes, and that delta. It is written when another message follows.
    owed: Option<(usize, u32)>,
    /// Made when it is first needed: it takes 2 KiB, and a producer may have a builder for each of thousands of partitions.
    snappy: Option<Box<snap::raw::Encoder>>,
    packed: Vec<u8>,
}

impl BundleBuilder {
    /// Returns the number of messages so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns the uncompressed length of the message set so far, in bytes.
    pub fn set_len(&self) -> usize {
        self.set.len().saturating_sub(MAX_HEADER_LEN)
    }

    /// Bytes of memory it keeps.
    pub(crate) fn capacity(&self) -> usize {
        self.set.capacity().max(self.packed.capacity())
    }

    /// Makes room for a message that takes up to this many bytes; returns how long the message set can become in the memory that
    /// is there.
    pub(crate) fn reserve(&mut self, message: usize) -> usize {
        let header = if self.set.is_empty() { MAX_HEADER_LEN } else { 0 };
        self.set.reserve(header + message);
        self.set.capacity() - MAX_HEADER_LEN
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        let BundleBuilder { mut set, snappy, packed, .. } = std::mem::take(self);
        set.clear();
        *self = BundleBuilder { set, snappy, packed, ..BundleBuilder::default() };
    }

    /// Appends a message to a dense bundle.
    ///
    /// # Errors
    /// A key or payload that is too long, or a full bundle. Nothing is appended then.
    #[inline(always)]
    pub fn push(&mut self, message: &RawMessage<'_>) -> Result<(), EncodeError> {
        self.check(message)?;
        self.append(message);
        Ok(())
    }

    /// Appends a message with its number to a sparse bundle. A bundle takes either `push` or `push_at`, not both.
    ///
    /// # Errors
    /// As [`push`](BundleBuilder::push), and a number that is not above the previous one, is 0 or 2^64−1, or lies more than
    /// 2^32 above the previous or the first one.
    pub fn push_at(&mut self, seq: u64, message: &RawMessage<'_>) -> Result<(), EncodeError> {
        self.check(message)?;
        let out_of_order = |min, max| EncodeError { field: "sequence number", given: seq, min, max };
        if self.count == 0 {
            if seq == 0 || seq == u64::MAX {
                return Err(out_of_order(1, u64::MAX - 1));
            }
            self.first = seq;
            self.last = seq;
            self.append(message);
            return Ok(());
        }
        let (low, high) = (self.last + 1, self.first.saturating_add(1 << 32).min(u64::MAX - 1));
        if seq < low || seq > high {
            return Err(out_of_order(low, high));
        }
        match self.owed.take() {
            Some((at, 0)) => {
                if let Some(flags) = self.set.get_mut(at - 1) {
                    *flags |= MESSAGE_NEXT_SEQ;
                }
            }
            Some((at, delta)) => {
                let mut bytes = Vec::with_capacity(varint::MAX_LEN);
                varint::encode(delta, &mut bytes);
                self.set.splice(at..at, bytes);
            }
            None => {}
        }
        let delta = u32::try_from(seq - low).unwrap_or(u32::MAX);
        self.last = seq;
        let at = self.set.len() + 1;
        self.append(message);
        self.owed = Some((at, delta));
        Ok(())
    }

    /// Returns the first and last number of a sparse bundle, if it has any message.
    pub fn sparse_range(&self) -> Option<(u64, u64)> {
        (self.first != 0).then_some((self.first, self.last))
    }

    fn check(&self, message: &RawMessage<'_>) -> Result<(), EncodeError> {
        EncodeError::check("messages in a bundle", self.count as usize + 1, 1, MAX_MESSAGES.into())?;
        EncodeError::check("key, bytes", message.key.map_or(0, <[u8]>::len), 0, MAX_KEY as u64)?;
        EncodeError::check("payload, bytes", message.payload.len(), 0, u32::MAX.into())
    }

    #[inline(always)]
    fn append(&mut self, message: &RawMessage<'_>) {
        if self.count == 0 {
            self.set.resize(MAX_HEADER_LEN, 0);
        }
        let same_time = self.count > 0 && message.timestamp_ms == self.time;
        let flag = |set, flag| if set { flag } else { 0 };
        self.set.push(flag(message.key.is_some(), MESSAGE_KEY) | flag(same_time, MESSAGE_SAME_TIME));
        if !same_time {
            self.set.extend_from_slice(&message.timestamp_ms.to_le_bytes());
            self.time = message.timestamp_ms;
        }
        if let Some(key) = message.key {
            self.set.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
            self.set.extend_from_slice(key);
            self.content += key.len();
        }
        varint::encode(u32::try_from(message.payload.len()).unwrap_or(u32::MAX), &mut self.set);
        self.set.extend_from_slice(message.payload);
        self.content += message.payload.len();
        self.count += 1;
    }

    /// Appends the bundle to `out` and forgets its messages.
    ///
    /// # Errors
    /// A bundle without messages, which would kill a server (reference, section 19).
    pub fn finish(&mut self, compression: Compression, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (bundle, at) = self.take(compression, Vec::new())?;
        out.extend_from_slice(bundle.get(at..).unwrap_or_default());
        Ok(())
    }

    /// As [`finish`](BundleBuilder::finish), but returns the bundle and where it begins: a small one in the memory of `spare`, a
    /// large one in the memory of the message set, without copying it. In that case the next set is collected in `spare`.
    pub(crate) fn take(
        &mut self,
        compression: Compression,
        mut spare: Vec<u8>,
    ) -> Result<(Vec<u8>, usize), EncodeError> {
        let (header, pack) = self.seal(compression)?;
        // Copying a small one costs less than replacing its memory, which grew by doubling.
        if pack || self.set.len() < LARGE {
            let set = if pack { &self.packed } else { self.set.get(MAX_HEADER_LEN..).unwrap_or_default() };
            spare.reserve_exact(header.len() + set.len());
            spare.extend_from_slice(&header);
            spare.extend_from_slice(set);
            self.clear();
            return Ok((spare, 0));
        }
        let at = MAX_HEADER_LEN - header.len();
        self.set.iter_mut().skip(at).zip(header).for_each(|(to, byte)| *to = byte);
        std::mem::swap(&mut self.set, &mut spare);
        self.clear();
        Ok((spare, at))
    }

    /// Returns the header, and whether the message set is sent as it was packed.
    fn seal(&mut self, compression: Compression) -> Result<(Vec<u8>, bool), EncodeError> {
        EncodeError::check("messages in a bundle", self.count as usize, 1, MAX_MESSAGES.into())?;
        let worth_trying = match compression {
            Compression::Auto => self.count > 512 || self.content > 1024,
            Compression::None => false,
            Compression::Snappy => true,
        };
        self.packed.clear();
        if worth_trying {
            let set = self.set.get(MAX_HEADER_LEN..).unwrap_or_default();
            let snappy = self.snappy.get_or_insert_with(|| Box::new(snap::raw::Encoder::new()));
            compress::compress(snappy, set, &mut self.packed);
        }
        let pack = worth_trying && (compression == Compression::Snappy || self.packed.len() < self.set_len());
        let mut flags = u8::from(pack);
        let small = u8::try_from(self.count).ok().filter(|&count| count <= 15);
        flags |= small.unwrap_or(0) << 2;
        if self.first != 0 {
            flags |= FLAG_SPARSE;
        }
        let mut header = vec![flags];
        if small.is_none() {
            varint::encode(self.count, &mut header);
        }
        if self.first != 0 {
            header.extend_from_slice(&self.first.to_le_bytes());
            if self.count != 1 {
                varint::encode(u32::try_from(self.last - self.first - 1).unwrap_or(u32::MAX), &mut header);
            }
        }
        Ok((header, pack))
    }
}

#[cfg(test)]
mod tests;
