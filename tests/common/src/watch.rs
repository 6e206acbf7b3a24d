//! Time limits for tests.

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tank_client::simulation::Simulation;

/// Long enough for anything that must happen.
pub const SOON: Duration = Duration::from_secs(20);

/// Runs `body`, and fails if it takes longer than this many seconds.
#[track_caller]
pub fn within(seconds: u64, body: impl FnOnce() + Send + 'static) {
    let (done, ended) = channel::<()>();
    let thread = thread::spawn(move || {
        let _done = done;
        body();
    });
    if ended.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
        panic!("still running after {seconds} s");
    }
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
}

/// The value of `act`, and how much virtual time it took: the same on every machine, however busy.
pub fn timed_in<T>(sim: &Simulation, act: impl FnOnce() -> T) -> (T, Duration) {
    let began = sim.now();
    let value = act();
    (value, sim.now() - began)
}

/// The value of `act`, which must not return before this time is over. A bound that a busy machine keeps too.
#[track_caller]
pub fn not_before<T>(time: Duration, act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let value = act();
    let took = began.elapsed();
    assert!(took >= time, "{took:?} of {time:?}");
    value
}
