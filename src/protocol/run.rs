//! Runs: consecutive small bundles that are found and decoded together. A bundle's fixed cost, many times that of a message,
//! is then paid once for all of them.
//!
//! The bundles of a run have a header of flags only: uncompressed, dense, at most 15 messages (reference, section 4.1).
//! Their lengths take at most two bytes, so they are at most 16,383.

use super::bundle::{Entry, MessageSet, count_in_flags};
use super::chunk::Good;
use super::cursor::Cursor;
use super::error::Decoded;
use super::varint;

/// Several consecutive bundles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) bundles: u32,
    pub(super) messages: u32,
    /// Bytes, including the length of each bundle.
    pub(super) len: usize,
}

/// Returns the run at the front of `bytes`, if at least two bundles are complete: of at most `bundle` bytes each, and with at
/// most `messages` messages together.
pub(super) fn find(bytes: &[u8], messages: u32, bundle: u32) -> Option<Run> {
    let (mut bundles, mut left, mut rest) = (0, messages, bytes);
    while let Some((len, after)) = varint::short(rest) {
        let Some((found, after)) = after.split_at_checked(len as usize) else { break };
        let Some(count) = found.first().and_then(|&flags| count_in_flags(flags)) else { break };
        if count > left || len > bundle {
            break;
        }
        (bundles, left, rest) = (bundles + 1, left - count, after);
    }
    (bundles > 1).then(|| Run { bundles, messages: messages - left, len: bytes.len() - rest.len() })
}

/// Appends an entry for each message of a run with a number up to `to`, inclusive, but only for bundles without an error,
/// which are added to `good`. `run` is a message set of all bytes of the run.
///
/// # Errors
/// As [`MessageSet::decode`] for the first bad bundle.
pub(super) fn decode(run: &MessageSet<'_>, bundles: u32, to: u64, out: &mut Vec<Entry>, good: &mut Good) -> Decoded {
    let before = out.len();
    if run.last <= to && decode_all(run, bundles, out).is_some() {
        good.bundles += u64::from(bundles);
        return Ok(());
    }
    out.truncate(before);
    decode_each(run, bundles, to, out, good)
}

/// Appends an entry for each message, if all bundles are good. It does not say what is wrong, because keeping track of that would
/// cost too much here.
fn decode_all(run: &MessageSet<'_>, bundles: u32, out: &mut Vec<Entry>) -> Option<()> {
    let mut cursor = Cursor::new(run.bytes, 0);
    let mut seq = run.first.wrapping_sub(1);
    for _ in 0..bundles {
        let len = cursor.varint("bundle length").ok()?;
        let left = cursor.left().checked_sub(len as usize)?;
        let count = count_in_flags(cursor.u8("bundle flags").ok()?)?;
        let mut timestamp_ms = 0;
        for index in 0..count {
            let place = run.message::<false>(&mut cursor, index, &mut seq, &mut timestamp_ms).ok()?;
            out.push(Entry { seq, timestamp_ms, place });
        }
        if cursor.left() != left {
            return None;
        }
    }
    Some(())
}

/// The same, bundle by bundle, up to a number or to the first bad one.
#[cold]
fn decode_each(run: &MessageSet<'_>, bundles: u32, to: u64, out: &mut Vec<Entry>, good: &mut Good) -> Decoded {
    let (mut cursor, mut first) = (Cursor::new(run.bytes, 0), run.first);
    for _ in 0..bundles {
        if first > to {
            break;
        }
        let len = cursor.varint("bundle length")?;
        let mut bundle = cursor.sub(len as usize, "bundle")?;
        let count = count_in_flags(bundle.u8("bundle flags")?).unwrap_or(0);
        let (bytes, after, before) = (bundle.rest(), first.saturating_add(count.into()), out.len());
        let at = run.at + run.bytes.len() - cursor.left() - bytes.len();
        let set = MessageSet { bytes, at, count, first, last: after.saturating_sub(1), ..*run };
        set.decode(first, to, out).inspect_err(|_| out.truncate(before))?;
        first = after;
        good.bundles += 1;
        good.bytes = (run.bytes.len() - cursor.left()) as u64;
    }
    Ok(())
}
