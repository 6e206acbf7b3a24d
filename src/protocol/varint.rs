//! Unsigned 32-bit varints: seven bits per byte, low bits first, bit 7 set in every byte but the last (reference, section 1).

use super::error::DecodeFault;

/// The most bytes a varint takes.
pub const MAX_LEN: usize = 5;

/// Returns the length of `value` in bytes, in its shortest form, the only one that encoders write.
pub fn len(value: u32) -> usize {
    // Even 0 takes a byte.
    (u32::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Appends `value` in its shortest form.
#[inline]
pub fn encode(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Returns the varint at the front of `bytes` and what follows it, if it takes one or two bytes, as most do.
#[inline]
pub(super) fn short(bytes: &[u8]) -> Option<(u32, &[u8])> {
    match *bytes {
        [byte, ref rest @ ..] if byte < 0x80 => Some((byte.into(), rest)),
        [low, high, ref rest @ ..] if high < 0x80 => Some((u32::from(low & 0x7f) | u32::from(high) << 7, rest)),
        _ => None,
    }
}

/// Returns the varint at the front of `bytes`, of any length, and what follows it.
///
/// # Errors
/// [`DecodeFault::Short`] if it is incomplete; a sixth byte, or a value above 2^32−1.
#[cold]
pub(super) fn long(bytes: &[u8]) -> Result<(u32, &[u8]), DecodeFault> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        // A fifth byte has four bits to give, and must be the last.
        if index == MAX_LEN - 1 && byte > 0x0f {
            return Err(DecodeFault::Varint);
        }
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok((value, bytes.get(index + 1..).unwrap_or_default()));
        }
    }
    let left = bytes.len() as u64;
    Err(DecodeFault::Short { needed: left + 1, left })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number and its length, both ways of reading it.
    fn decode(bytes: &[u8]) -> Result<(u32, usize), DecodeFault> {
        let read = long(bytes).map(|(value, rest)| (value, bytes.len() - rest.len()));
        if let Some((value, rest)) = short(bytes) {
            assert_eq!(read, Ok((value, bytes.len() - rest.len())));
        }
        read
    }

    #[test]
    fn numbers_at_the_ends_of_each_length_are_read_back() {
        let table: [(u32, &[u8]); 11] = [
            (0, &[0]),
            (1, &[1]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 1]),
            (2_097_151, &[0xff, 0xff, 0x7f]),
            (2_097_152, &[0x80, 0x80, 0x80, 1]),
            (268_435_455, &[0xff, 0xff, 0xff, 0x7f]),
            (268_435_456, &[0x80, 0x80, 0x80, 0x80, 1]),
            (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ];
        for (value, bytes) in table {
            let mut out = Vec::new();
            encode(value, &mut out);
            assert_eq!((out.as_slice(), len(value)), (bytes, bytes.len()));
            assert_eq!(decode(bytes), Ok((value, bytes.len())));
            let left = bytes.len() as u64 - 1;
            let cut = DecodeFault::Short { needed: left + 1, left };
            assert_eq!(decode(&bytes[..bytes.len() - 1]), Err(cut), "{value} cut");
        }
    }

    #[test]
    fn longer_than_needed_is_accepted_too_long_or_too_large_is_not() {
        assert_eq!(decode(&[0x81, 0]), Ok((1, 2)));
        assert_eq!(decode(&[0x80, 0x80, 0x80, 0x80, 0]), Ok((0, 5)));
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0x10]), Err(DecodeFault::Varint));
        assert_eq!(decode(&[0x80, 0x80, 0x80, 0x80, 0x80]), Err(DecodeFault::Varint));
    }
}
