//! Ctrl-C, SIGTERM and SIGHUP.
//!
//! After [`end_politely`], the first signal closes [`closer`] and wakes whoever waits here. The command then stores and prints
//! what it has, and the tool exits with 128 plus the number of the signal. Before that call, and on a second signal, the tool
//! exits at once.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use tank_client::CloseHandle;

struct State {
    now: Mutex<Now>,
    changed: Condvar,
    closer: CloseHandle,
    /// Becomes readable with the first signal or another end, and is never read.
    wake: (UnixStream, UnixStream),
}

#[derive(Debug, Clone, Copy, Default)]
struct Now {
    polite: bool,
    /// Whether waits must end.
    ended: bool,
    received: Option<i32>,
}

static STATE: LazyLock<State> = LazyLock::new(|| State {
    now: Mutex::default(),
    changed: Condvar::new(),
    closer: CloseHandle::new(),
    wake: UnixStream::pair().expect("a pair of sockets"),
});

/// Takes over the signals from now on. If the system refuses that, they end the process as usual.
pub fn install() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    thread::spawn(move || {
        for signal in signals.forever() {
            let mut now = STATE.now.lock().unwrap_or_else(PoisonError::into_inner);
            if !now.polite || now.received.is_some() {
                low_level::exit(code(signal).into());
            }
            now.received = Some(signal);
            drop(now);
            end();
        }
    });
}

/// Ends subscriptions and waits as a signal does.
pub fn end() {
    STATE.now.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
    STATE.closer.close();
    let _ = (&STATE.wake.0).write(&[1]);
    STATE.changed.notify_all();
}

/// From now on the first signal does not end the process: the caller ends in order.
pub fn end_politely() {
    STATE.now.lock().unwrap_or_else(PoisonError::into_inner).polite = true;
}

/// Closed by the first signal: give it to subscriptions.
pub fn closer() -> &'static CloseHandle {
    &STATE.closer
}

/// The first signal that came.
pub fn received() -> Option<i32> {
    STATE.now.lock().unwrap_or_else(PoisonError::into_inner).received
}

/// The exit code that shells expect after a signal.
pub fn code(signal: i32) -> u8 {
    128 + u8::try_from(signal).unwrap_or(0)
}

/// Waits for a signal, or another [`end`], but no longer than `until`. Returns whether one has come.
pub fn wait_until(until: Instant) -> bool {
    let mut now = STATE.now.lock().unwrap_or_else(PoisonError::into_inner);
    while !now.ended {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        now = STATE.changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    true
}

/// Waits for a signal, or another [`end`].
pub fn wait() {
    while !wait_until(Instant::now() + Duration::from_secs(3600)) {}
}

/// Readable as soon as a signal, or another [`end`], has come.
pub fn wake() -> BorrowedFd<'static> {
    STATE.wake.1.as_fd()
}
