//! Snappy's raw block format, with a limit on the output (reference, section 4.1).

use super::Limits;
use super::error::{DecodeError, DecodeFault};

/// Snappy's best case is a 3-byte tag that copies 64 bytes, so no output is longer than this many times its input.
const MAX_RATIO: u64 = 22;

/// Returns the output length that `compressed` claims, if it is at most `limit` bytes and Snappy can produce it.
///
/// # Errors
/// A malformed length; [`DecodeFault::Implausible`] for a length that this input cannot produce, regardless of the limit;
/// [`DecodeFault::OverLimit`] for one above `limit`. Reserves nothing.
pub fn decompressed_len(compressed: &[u8], limit: u32, at: u64) -> Result<usize, DecodeError> {
    let field = "decompressed length";
    let len = snap::raw::decompress_len(compressed).map_err(|e| error(&e, at))?;
    let most = (compressed.len() as u64).saturating_mul(MAX_RATIO);
    DecodeError::check_possible(field, len as u64, most, at)?;
    DecodeError::check(field, len as u64, limit, at).map(|()| len)
}

/// Decompresses `compressed` into `out`, which grows as needed and never shrinks. Returns the length.
///
/// # Errors
/// As [`decompressed_len`]; data that does not decompress to exactly that many bytes.
pub fn decompress(
    decoder: &mut snap::raw::Decoder,
    compressed: &[u8],
    limits: &Limits,
    at: u64,
    out: &mut Vec<u8>,
) -> Result<usize, DecodeError> {
    let claimed = decompressed_len(compressed, limits.message_set, at)?;
    out.resize(out.len().max(claimed), 0);
    match decoder.decompress(compressed, out.get_mut(..claimed).unwrap_or_default()) {
        Ok(len) if len == claimed => Ok(len),
        Ok(_) => Err(DecodeError::new("message set", DecodeFault::Snappy { reason: "output too short" }, at)),
        Err(e) => Err(error(&e, at)),
    }
}

/// Appends the compressed form of `plain`.
pub fn compress(encoder: &mut snap::raw::Encoder, plain: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + snap::raw::max_compress_len(plain.len()), 0);
    let written = out.get_mut(start..).map_or(0, |room| encoder.compress(plain, room).unwrap_or(0));
    out.truncate(start + written);
}

#[cold]
fn error(e: &snap::Error, at: u64) -> DecodeError {
    use snap::Error as E;
    let reason = match e {
        E::Empty | E::Header => "malformed length",
        E::HeaderMismatch { .. } => "output length differs from the announced one",
        E::CopyWrite { .. } | E::TooBig { .. } | E::BufferTooSmall { .. } => "more output than announced",
        E::Offset { .. } => "copy from before the start",
        _ => "data past the end of the input",
    };
    DecodeError::new("message set", DecodeFault::Snappy { reason }, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_ceilings() {
        let plain = vec![b'x'; 100_000];
        let mut packed = Vec::new();
        compress(&mut snap::raw::Encoder::new(), &plain, &mut packed);
        assert_eq!(decompressed_len(&packed, 100_000, 0), Ok(100_000));
        let e = decompressed_len(&packed, 99_999, 7).unwrap_err();
        assert_eq!((e.fault(), e.at()), (DecodeFault::OverLimit { claimed: 100_000, limit: 99_999 }, 7));
        let mut out = vec![1; 9];
        assert_eq!(decompress(&mut snap::raw::Decoder::new(), &packed, &Limits::default(), 0, &mut out), Ok(100_000));
        assert_eq!(out, plain);
    }

    #[test]
    fn a_claim_beyond_snappys_ratio_is_refused_before_decompressing() {
        let bomb = [0xff, 0xff, 0xff, 0x7f, 0, 0];
        let e = decompressed_len(&bomb, u32::MAX, 0).unwrap_err();
        assert_eq!(e.fault(), DecodeFault::Implausible { claimed: 268_435_455, most: 6 * MAX_RATIO });
        assert!(!e.is_over_limit(), "no limit would let it through");
        assert_eq!(decompressed_len(&bomb, 0, 0), Err(e));
    }

    #[test]
    fn the_best_case_of_snappy_stays_within_the_ratio() {
        for len in [64usize, 1 << 10, 1 << 16, 1 << 20] {
            let mut packed = Vec::new();
            compress(&mut snap::raw::Encoder::new(), &vec![0; len], &mut packed);
            assert_eq!(decompressed_len(&packed, u32::MAX, 0), Ok(len));
        }
    }
}
