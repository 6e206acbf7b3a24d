//! How long trouble is tolerated, and how long to pause between two attempts: one policy for every call.

use std::time::Duration;

use super::network::Time;

/// A connection that has been up and on time for this long was healthy: later trouble is new trouble.
pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// The shortest pause: even settings without pauses must not make a busy loop.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// The retry budget, and the pauses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RetryPolicy {
    /// How long trouble may last, from its first failure.
    pub(crate) timeout: Duration,
    /// The shortest and the longest pause.
    pub(crate) pauses: (Duration, Duration),
    /// Spreads the pauses, so that clients that were cut off together do not all come back at the same moment.
    pub(crate) seed: u64,
}

impl RetryPolicy {
    /// Returns the policy for what nobody waits for: a redirect is followed at once, and there is no time for more.
    pub(crate) fn following_one_redirect(self) -> RetryPolicy {
        RetryPolicy { timeout: MIN_PAUSE, ..self }
    }

    /// Returns the pause after the `failures`-th failure in a row. It doubles each time, and up to half of it is taken off at random.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let (least, most) = self.pauses;
        let full = least.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(most.max(least));
        full.mul_f64(0.5 + unit(self.seed ^ u64::from(failures)) / 2.0).max(MIN_PAUSE)
    }
}

/// A number in 0..1 that depends on nothing but `n` (the mixing function of SplitMix64).
fn unit(n: u64) -> f64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Since when there has been trouble, and until when to pause.
///
/// ```text
///   well ──retry_or_fail()──> pausing ──until has passed──> trying again ──reset()──> well
///                                ^───────retry_or_fail()───────┘ └── the budget is spent: None
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RetryState {
    began: Option<Time>,
    failures: u32,
    /// No attempt is made before this moment.
    pub(crate) pause_until: Time,
}

impl RetryState {
    /// Notes a failure. Returns when to try again, or `None` once trouble has lasted for longer than the policy allows.
    #[cold]
    pub(crate) fn retry_or_fail(&mut self, now: Time, policy: &RetryPolicy) -> Option<Time> {
        self.failures = self.failures.saturating_add(1);
        let began = *self.began.get_or_insert(now);
        let give_up = began.after(policy.timeout);
        if now >= give_up {
            return None;
        }
        // The last attempt comes when the budget ends, not after it.
        self.pause_until = now.after(policy.pause(self.failures)).min(give_up);
        Some(self.pause_until)
    }

    /// As [`retry_or_fail`](RetryState::retry_or_fail) for something that is never given up, such as a broker: when the budget is
    /// spent, it begins again. No pause ends after the budget, because who depends on it makes a last attempt then.
    #[cold]
    pub(crate) fn retry_for_ever(&mut self, now: Time, policy: &RetryPolicy) -> Time {
        let policy = RetryPolicy { timeout: policy.timeout.max(policy.pause(1)), ..*policy };
        if self.gives_up_at(&policy) <= now {
            self.reset();
        }
        self.retry_or_fail(now, &policy).unwrap_or(now)
    }

    /// Notes a failure that an immediate second attempt may mend, such as the first redirect: no pause, the same budget. Returns
    /// `false` once trouble has lasted for longer than the policy allows.
    pub(crate) fn retry_at_once(&mut self, now: Time, policy: &RetryPolicy) -> bool {
        let began = *self.began.get_or_insert(now);
        self.pause_until = now;
        now < began.after(policy.timeout)
    }

    /// Notes for how long the connection in use had been up with nothing overdue when the next failure came.
    pub(crate) fn was_healthy_for(&mut self, time: Duration) {
        if time >= HEALTHY_AFTER {
            self.reset();
        }
    }

    /// Ends the trouble.
    pub(crate) fn reset(&mut self) {
        *self = RetryState::default();
    }

    pub(crate) fn is_in_trouble(&self) -> bool {
        self.began.is_some()
    }

    /// Returns when the budget ends; `NEVER` without trouble. Even without a budget a second attempt may be made at once.
    pub(crate) fn gives_up_at(&self, policy: &RetryPolicy) -> Time {
        let is_budgeted = |_: &Time| self.failures > 0 || !policy.timeout.is_zero();
        self.began.filter(is_budgeted).map_or(Time::NEVER, |began| began.after(policy.timeout))
    }
}

#[cfg(test)]
mod tests;
