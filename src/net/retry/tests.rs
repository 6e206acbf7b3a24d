use super::*;

const POLICY: RetryPolicy = RetryPolicy {
    timeout: Duration::from_secs(60),
    pauses: (Duration::from_millis(100), Duration::from_secs(5)),
    seed: 7,
};

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

#[test]
fn pauses_double_up_to_the_longest_and_keep_at_least_half() {
    for n in 1..200u32 {
        let full = Duration::from_millis(100).saturating_mul(1 << (n - 1).min(20)).min(Duration::from_secs(5));
        let pause = POLICY.pause(n);
        assert!(pause >= full / 2 && pause <= full, "{n}: {pause:?}");
    }
    assert_ne!(POLICY.pause(3), RetryPolicy { seed: 8, ..POLICY }.pause(3), "clients differ");
}

#[test]
fn the_budget_runs_from_the_first_failure_and_its_last_try_comes_at_its_end() {
    let mut state = RetryState::default();
    let mut now = at(1000);
    let mut tries = 0;
    while let Some(until) = state.retry_or_fail(now, &POLICY) {
        assert!(until > now && until <= at(61_000), "{until:?}");
        assert_eq!(state.pause_until, until);
        (now, tries) = (until, tries + 1);
    }
    assert_eq!(now, at(61_000));
    assert!((12..30).contains(&tries), "{tries}");
    assert!(!state.retry_at_once(now, &POLICY));
    state.reset();
    assert!(!state.is_in_trouble());
    assert!(state.retry_or_fail(now, &POLICY).is_some(), "new trouble has a budget of its own");
}

#[test]
fn a_connection_that_was_healthy_for_ten_seconds_ends_the_trouble() {
    let mut state = RetryState::default();
    state.retry_or_fail(at(0), &POLICY);
    state.was_healthy_for(Duration::from_millis(9_999));
    assert_eq!(state.retry_or_fail(at(60_000), &POLICY), None);
    state.was_healthy_for(HEALTHY_AFTER);
    assert!(state.retry_or_fail(at(60_000), &POLICY).is_some());
}

#[test]
fn without_a_budget_the_first_failure_is_the_last() {
    let none = RetryPolicy { timeout: Duration::ZERO, ..POLICY };
    assert_eq!(RetryState::default().retry_or_fail(at(5), &none), None);
    assert!(!RetryState::default().retry_at_once(at(5), &none));
}

#[test]
fn no_setting_makes_a_loop_without_a_pause() {
    let none = RetryPolicy { pauses: (Duration::ZERO, Duration::ZERO), ..POLICY };
    assert_eq!(RetryState::default().retry_or_fail(at(5), &none), Some(at(6)));
}
