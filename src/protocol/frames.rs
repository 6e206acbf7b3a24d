//! [`Frames`]: whole frames, one after the other, as they arrive (reference, section 2).
//!
//! For everything that is held whole before it is looked at: the answers to all requests but Consume. What comes as a stream
//! is read by [`FetchDecoder`](super::stream::FetchDecoder).

use std::ops::Range;

use super::error::{DecodeError, DecodeFault};
use super::frame::{FrameHeader, HEADER_LEN, Kind};

/// Bytes of pings to take before a frame: servers send none after the greeting, and this many only to waste time.
const MAX_PINGS: u64 = 1 << 20;

/// What stands at the front of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Nothing can be said before this many more bytes have come.
    Need(usize),
    /// A ping of this many bytes, header included: pass over them.
    Ping(usize),
    /// A frame: its payload is this range of the input, and ends where the frame does.
    Whole(Kind, Range<usize>),
}

/// Finds the frames of one connection.
#[derive(Debug)]
pub struct Frames {
    /// The longest payload taken, in bytes.
    limit: u32,
    /// Bytes of pings since the last frame.
    pings: u64,
}

impl Frames {
    /// Takes payloads of up to `limit` bytes.
    pub fn new(limit: u32) -> Frames {
        Frames { limit, pings: 0 }
    }

    /// Returns what stands at the front of `input`, which begins with the first byte that was not passed over. Call it again
    /// once more bytes have come, or this frame was passed over.
    ///
    /// # Errors
    /// An unknown message id, a frame above the limit (on the header alone), or pings without end.
    pub fn first(&mut self, input: &[u8]) -> Result<Frame, DecodeError> {
        let Some(header) = FrameHeader::decode(input)? else {
            return Ok(Frame::Need(HEADER_LEN - input.len()));
        };
        if header.len > self.limit {
            return Err(DecodeError::over_limit("frame length", header.len, self.limit, 0));
        }
        let whole = HEADER_LEN.saturating_add(header.len as usize);
        if header.kind == Kind::Ping && self.pings.saturating_add(whole as u64) > MAX_PINGS {
            let fault = DecodeFault::Implausible { claimed: self.pings.saturating_add(whole as u64), most: MAX_PINGS };
            return Err(DecodeError::new("pings before an answer, bytes", fault, 0));
        }
        if input.len() < whole {
            return Ok(Frame::Need(whole - input.len()));
        }
        if header.kind == Kind::Ping {
            self.pings += whole as u64;
            return Ok(Frame::Ping(whole));
        }
        self.pings = 0;
        Ok(Frame::Whole(header.kind, HEADER_LEN..whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::PING;

    const STATUS: [u8; 8] = [0x0a, 3, 0, 0, 0, 1, 2, 3];

    #[test]
    fn a_frame_is_found_once_all_of_it_is_there() {
        let mut frames = Frames::new(3);
        for end in 0..5 {
            assert_eq!(frames.first(&STATUS[..end]), Ok(Frame::Need(5 - end)));
        }
        for end in 5..8 {
            assert_eq!(frames.first(&STATUS[..end]), Ok(Frame::Need(8 - end)));
        }
        assert_eq!(frames.first(&STATUS), Ok(Frame::Whole(Kind::Status, 5..8)));
        assert_eq!(frames.first(&[&STATUS[..], &PING].concat()), Ok(Frame::Whole(Kind::Status, 5..8)));
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused_on_its_header() {
        let e = Frames::new(2).first(&STATUS[..5]).unwrap_err();
        assert_eq!(e.fault(), DecodeFault::OverLimit { claimed: 3, limit: 2 });
        assert_eq!(Frames::new(2).first(&[4, 0, 0, 0, 0]).unwrap_err().fault(), DecodeFault::Undefined { value: 4 });
    }

    #[test]
    fn pings_are_passed_over_but_not_without_end() {
        let mut frames = Frames::new(1 << 10);
        assert_eq!(frames.first(&PING), Ok(Frame::Ping(5)));
        let long = [&[3, 0, 4, 0, 0][..], &[0; 1 << 10]].concat();
        let mut taken = 5;
        while taken + long.len() <= 1 << 20 {
            assert_eq!(frames.first(&long), Ok(Frame::Ping(long.len())));
            taken += long.len();
        }
        assert!(matches!(frames.first(&long).unwrap_err().fault(), DecodeFault::Implausible { .. }));
        // Any other frame begins the count afresh.
        assert!(frames.first(&STATUS).is_ok());
        assert_eq!(frames.first(&long), Ok(Frame::Ping(long.len())));
    }
}
