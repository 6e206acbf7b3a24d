//! Runs: consecutive small bundles that are found and decoded together. A bundle's fixed cost, many times that of a message,
//! is then paid once for all of them.
//!
//! The bundles of a run have a header of flags only: uncompressed, dense, at most 15 messages (reference, section 4.1).
//! Their lengths take at most two bytes, so they are at most 16,383.

use super::bundle::{Entry, MessageSet, count_in_flags};
use super::chunk::Good;
use super::cursor::Cursor;
use super::error::{DecodeError, DecodeFault};
use super::varint;

/// The bounds of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The number of its first message, at least 1.
    pub(super) first: u64,
    /// The highest number allowed, at most 2^64−2.
    pub(super) top: u64,
    /// The most messages in all bundles together.
    pub(super) messages: u32,
    /// The most bytes in a bundle.
    pub(super) bundle: u32,
}

/// Several consecutive bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) bundles: u32,
    pub(super) messages: u32,
    /// The number of the last message.
    pub(super) last: u64,
    /// Bytes, including the length of each bundle.
    pub(super) len: usize,
}

/// Returns the run at the front of `bytes`, if at least two bundles are complete and within the bounds.
pub(super) fn find(bytes: &[u8], bounds: Bounds) -> Option<Run> {
    let Bounds { top, .. } = bounds;
    let mut rest = bytes;
    let (mut bundles, mut messages, mut next) = (0, 0u32, bounds.first);
    while let Some((len, prefix)) = varint::short(rest, 0) {
        let Some(count) = rest.get(prefix).and_then(|&flags| count_in_flags(flags)) else { break };
        let all = messages.checked_add(count).filter(|&all| all <= bounds.messages);
        let Some(all) = all.filter(|_| (1..=bounds.bundle).contains(&len)) else { break };
        if next > top || u64::from(count) - 1 > top - next {
            break;
        }
        let Some(after) = rest.get(prefix + len as usize..) else { break };
        (bundles, messages, next, rest) = (bundles + 1, all, next + u64::from(count), after);
    }
    (bundles > 1).then(|| Run { bundles, messages, last: next - 1, len: bytes.len() - rest.len() })
}

/// Appends an entry for each message of a run with a number up to `to`, inclusive, but only for bundles without an error,
/// which are added to `good`. `run` is a message set of all bytes of the run.
///
/// # Errors
/// As [`MessageSet::decode`] for the first bad bundle.
pub(super) fn decode(
    run: &MessageSet<'_>,
    bundles: u32,
    to: u64,
    out: &mut Vec<Entry>,
    good: &mut Good,
) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(run.bytes, 0);
    let mut seq = run.first.wrapping_sub(1);
    for _ in 0..bundles {
        if seq >= to {
            break;
        }
        let len = cursor.varint("bundle length")? as usize;
        let end = cursor.read().saturating_add(len);
        let count = count_in_flags(cursor.u8("bundle flags")?).unwrap_or(0);
        let (start, first, before) = (cursor.read(), seq + 1, out.len());
        let (mut timestamp_ms, mut is_good) = (0, true);
        for index in 0..count {
            let Ok(place) = run.message::<false>(&mut cursor, index, &mut seq, &mut timestamp_ms) else {
                is_good = false;
                break;
            };
            if seq <= to {
                out.push(Entry { seq, timestamp_ms, place });
            }
        }
        if !is_good || cursor.read() != end {
            out.truncate(before);
            // Decoding it by itself yields the error.
            let bytes = run.bytes.get(start..end).unwrap_or_default();
            let last = first.saturating_add(u64::from(count).saturating_sub(1));
            let alone = MessageSet { bytes, count, first, last, ..*run };
            alone.decode(first, to, &mut Vec::new())?;
            // Only for bytes other than those in which `find` found the run.
            return Err(cursor.error("bundle length", DecodeFault::Undefined { value: len as u64 }));
        }
        good.bundles += 1;
        good.bytes = end as u64;
    }
    Ok(())
}
