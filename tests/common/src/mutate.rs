//! Damage to answers.

use crate::rng::Rng;

/// Numbers that lengths and counts like to lie with.
const LIES: [u64; 12] =
    [0, 1, 2, 0x7f, 0x80, 0xff, 0xfffe, 0xffff, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff, u64::MAX - 1];

/// Changes `bytes` in one way or another, perhaps with pieces of `other`.
pub fn damage(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        bytes.extend_from_slice(other);
    }
    let len = bytes.len();
    let at = rng.below(len);
    match rng.below(10) {
        0 | 1 => bytes[at] ^= 1 << rng.below(8),
        2 => bytes[at] = rng.next_u64() as u8,
        3 => {
            let width = rng.pick(&[1, 2, 4, 8]).min(len - at);
            bytes[at..at + width].copy_from_slice(&rng.pick(&LIES).to_le_bytes()[..width]);
        }
        4 => {
            // A little more or less than it was.
            let change = rng.pick(&[1, 2, 255, 254]);
            bytes[at] = bytes[at].wrapping_add(change);
        }
        5 => bytes.truncate(at),
        6 => drop(bytes.drain(at..(at + rng.between(1, 20)).min(len))),
        7 => {
            let piece = bytes[at..(at + rng.between(1, 60)).min(len)].to_vec();
            bytes.splice(at..at, piece);
        }
        8 => {
            let from = rng.below(other.len());
            let piece = &other[from..(from + rng.between(1, 60)).min(other.len())];
            let over = rng.pick(&[0, piece.len()]).min(len - at);
            bytes.splice(at..at + over, piece.iter().copied());
        }
        _ => {
            let varint = rng.pick(&[&[0x80, 0][..], &[0xff; 5], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0x80; 6]]);
            let over = rng.pick(&[0, 1]).min(len - at);
            bytes.splice(at..at + over, varint.iter().copied());
        }
    }
}

/// Makes a single frame's length and the length of the one chunk it may have fit again, so that damage is not found by
/// them alone.
pub fn mend_lengths(bytes: &mut [u8]) {
    let Some(payload) = bytes.len().checked_sub(5) else { return };
    bytes[1..5].copy_from_slice(&(payload as u32).to_le_bytes());
    let Some(header) = bytes.get(5..9).map(|field| u32::from_le_bytes(field.try_into().unwrap()) as usize) else {
        return;
    };
    let chunks = payload.saturating_sub(header.saturating_add(4));
    // Where the last entry is one with data, its last field is the length of the last chunk.
    if let Some(field) = header.checked_add(5).and_then(|at| bytes.get_mut(at..at + 4)) {
        if u32::from_le_bytes((&*field).try_into().unwrap()) as usize <= chunks + 64 {
            field.copy_from_slice(&(chunks as u32).to_le_bytes());
        }
    }
}
