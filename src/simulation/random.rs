//! Random numbers that depend on nothing but a seed.

use std::ops::Range;

use crate::broker::machine::split_mix;

/// One of the streams of random numbers of a seed.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
    /// What the first draws begin with, the last byte first.
    given: Vec<u8>,
}

impl Random {
    /// Streams of one seed are independent, so that one more draw from one of them changes none of the others.
    pub(crate) fn new(seed: u64, stream: u64) -> Random {
        let mut state = seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95);
        split_mix(&mut state);
        Random { state, given: Vec::new() }
    }

    /// As [`new`](Random::new), but these bytes decide, one a draw, for as long as there are any.
    pub(crate) fn given(seed: u64, stream: u64, bytes: &[u8]) -> Random {
        Random { given: bytes.iter().rev().copied().collect(), ..Random::new(seed, stream) }
    }

    pub(crate) fn next(&mut self) -> u64 {
        let number = split_mix(&mut self.state);
        self.given.pop().map_or(number, |first| u64::from(first) << 56 | number >> 8)
    }

    /// A number below `n`; 0 if `n` is.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number of the range, or its start if it is empty.
    pub(crate) fn within(&mut self, range: &Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// True in one of `n` cases.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_range_and_streams_differ() {
        let mut random = Random::new(1, 0);
        assert!((0..1000).all(|_| (5..9).contains(&random.within(&(5..9)))));
        assert_eq!((random.below(0), random.below(1), random.within(&(7..7))), (0, 0, 7));
        assert_ne!(Random::new(1, 0).next(), Random::new(1, 1).next());
        assert_eq!(Random::new(1, 2).next(), Random::new(1, 2).next());
        let mut given = Random::given(1, 0, &[0, 255, 128]);
        assert_eq!([given.below(10), given.below(10), given.below(10)], [0, 9, 5]);
    }
}
