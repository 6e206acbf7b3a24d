//! Time limits for tests.

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

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

/// The value of `act`, and how long it took.
pub fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let value = act();
    (value, started.elapsed())
}
