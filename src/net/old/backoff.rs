//! How long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubling pauses with jitter, between a least and a most.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    failures: u32,
    random: RandomState,
}

impl Backoff {
    pub(crate) fn new(least: Duration, most: Duration) -> Backoff {
        Backoff { least, most: most.max(least), failures: 0, random: RandomState::new() }
    }

    /// The pause after one more failure.
    pub(crate) fn next_pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.pause_after(self.failures)
    }

    /// The pause after so many failures, at least 1: half of the doubled pause for sure, up to all of it at random, so
    /// that clients cut off together do not come back together.
    pub(crate) fn pause_after(&self, failures: u32) -> Duration {
        let full = self.least.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(self.most);
        let share = (self.random.hash_one(failures) >> 32) as f64 / f64::from(u32::MAX);
        full.mul_f64(0.5 + share / 2.0)
    }

    /// Whether there was a failure since the last [`reset`](Backoff::reset).
    pub(crate) fn is_running(&self) -> bool {
        self.failures > 0
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_start_anew_after_a_success() {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(least, most);
        for n in 0..200 {
            let full = least.saturating_mul(1 << n.min(20)).min(most);
            let pause = backoff.next_pause();
            assert!(pause >= full / 2 && pause <= full, "{n}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.next_pause() <= least);
    }
}
