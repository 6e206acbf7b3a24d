//! Unsigned 32-bit varints: seven bits per byte, low bits first, bit 7 set in every byte but the last (reference, section 1).

use super::error::{DecodeError, DecodeFault};

/// The most bytes a varint takes.
pub const MAX_LEN: usize = 5;

/// Returns the length of `value` in bytes, in its shortest form, the only one that encoders write.
pub fn len(value: u32) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        0x20_0000..=0xfff_ffff => 4,
        _ => MAX_LEN,
    }
}

/// Appends `value` in its shortest form.
pub fn encode(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Returns the varint at a position of `bytes`, and its length, if that is one or two bytes, as for most.
#[inline]
pub fn short(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    match *bytes.get(at)? {
        byte if byte < 0x80 => Some((u32::from(byte), 1)),
        low => match *bytes.get(at + 1)? {
            high if high < 0x80 => Some((u32::from(low & 0x7f) | u32::from(high) << 7, 2)),
            _ => None,
        },
    }
}

/// A varint that arrives byte by byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Partial {
    value: u32,
    len: u8,
}

impl Partial {
    /// Takes the next byte. Returns the number if this byte was its last.
    ///
    /// # Errors
    /// A sixth byte, or a value above 2^32−1.
    #[inline]
    pub fn push(&mut self, byte: u8, field: &'static str, at: u64) -> Result<Option<u32>, DecodeError> {
        if usize::from(self.len) == MAX_LEN - 1 && byte > 0x0f {
            return Err(DecodeError::new(field, DecodeFault::Varint, at));
        }
        self.value |= u32::from(byte & 0x7f) << (7 * self.len);
        self.len += 1;
        Ok((byte < 0x80).then_some(self.value))
    }

    /// Returns how many bytes it has taken.
    pub fn len(self) -> usize {
        usize::from(self.len)
    }

    /// Returns whether it has taken no byte.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Option<Result<(u32, usize), DecodeFault>> {
        let mut partial = Partial::default();
        for &byte in bytes {
            match partial.push(byte, "n", 0) {
                Ok(Some(value)) => return Some(Ok((value, partial.len()))),
                Ok(None) => {}
                Err(e) => return Some(Err(e.fault())),
            }
        }
        None
    }

    #[test]
    fn boundaries() {
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
            assert_eq!(decode(bytes), Some(Ok((value, bytes.len()))));
            assert_eq!(decode(&bytes[..bytes.len() - 1]), None, "{value} cut");
        }
    }

    #[test]
    fn longer_than_needed_is_accepted_too_long_or_too_large_is_not() {
        assert_eq!(decode(&[0x81, 0]), Some(Ok((1, 2))));
        assert_eq!(decode(&[0x80, 0x80, 0x80, 0x80, 0]), Some(Ok((0, 5))));
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0x10]), Some(Err(DecodeFault::Varint)));
        assert_eq!(decode(&[0x80, 0x80, 0x80, 0x80, 0x80]), Some(Err(DecodeFault::Varint)));
    }
}
