//! The one seam between the crate and the machine it runs on: time, names, sockets, waiting, randomness.
//!
//! There are two implementations: the system's, and the simulated one of `simulation`. Everything above answers two questions,
//! *what next?* and *by when?*, and [`Network::poll`] is the only call in the crate that blocks.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::addr::BrokerAddr;
use crate::config::Config;
use crate::error::{Error, Phase, Result};

/// A moment of a network's monotonic clock: nanoseconds since some moment in the past.
///
/// It is a number because a simulated clock must make up moments, and an `Instant` cannot be made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Time(u64);

impl Time {
    /// The moment before every other: what is due then is due at once.
    pub(crate) const ZERO: Time = Time(0);
    /// The moment after every other.
    pub(crate) const NEVER: Time = Time(u64::MAX);

    pub(crate) const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    pub(crate) const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the moment `wait` later; [`NEVER`](Time::NEVER) if that cannot be represented.
    #[must_use]
    pub(crate) fn after(self, wait: Duration) -> Time {
        Time(u64::try_from(wait.as_nanos()).map_or(u64::MAX, |wait| self.0.saturating_add(wait)))
    }

    /// Returns the time from `earlier` to this moment; zero if it is not earlier.
    pub(crate) fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What a socket is to the network that made it.
#[derive(Clone, Copy)]
pub(crate) enum Handle<'a> {
    /// A socket of the operating system.
    #[cfg(unix)]
    System(std::os::fd::BorrowedFd<'a>),
    /// A socket of the operating system.
    #[cfg(windows)]
    System(std::os::windows::io::BorrowedSocket<'a>),
    /// A socket of a simulated network, by number.
    #[cfg_attr(not(feature = "broker"), allow(dead_code))]
    Simulated(u64, std::marker::PhantomData<&'a ()>),
}

/// A connection, or one that is being opened. Nothing here blocks.
pub(crate) trait Socket: Send + Sync + UnwindSafe + RefUnwindSafe {
    /// Returns whether the connection is open: `Ok(false)` while it is being opened.
    ///
    /// # Errors
    /// It cannot be opened.
    fn finish_connect(&self) -> io::Result<bool>;

    /// Reads what has arrived; 0 at the end of the stream, [`io::ErrorKind::WouldBlock`] if there is nothing now.
    fn read(&self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes as many of the bytes as the network has room for; [`io::ErrorKind::WouldBlock`] if that is none now.
    fn write(&self, from: &[u8]) -> io::Result<usize>;

    /// As [`write`](Socket::write), for several pieces in turn.
    fn write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(&from.iter().map(|piece| &**piece).collect::<Vec<_>>().concat())
    }

    /// Resets the connection: what was sent and not yet delivered is dropped, which a plain close would not do.
    fn abort(self: Box<Self>);

    /// What [`Network::poll`] waits for.
    fn handle(&self) -> Handle<'_>;
}

/// Reads or writes a piece that is not empty, as `step` does. Returns how many bytes have passed; 0 if none can now.
///
/// # Errors
/// The connection to the broker has failed or ended.
pub(super) fn read_or_write(
    broker: &BrokerAddr,
    phase: Phase,
    step: &mut dyn FnMut() -> io::Result<usize>,
) -> Result<usize> {
    loop {
        return match step() {
            Ok(0) => Err(Error::disconnected(broker, phase)),
            Ok(n) => Ok(n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => Err(Error::io(broker, phase, e)),
        };
    }
}

/// A socket, and what to wait for.
pub(crate) struct Interest<'a> {
    pub(crate) socket: &'a dyn Socket,
    /// Bytes to read, or the end of the stream.
    pub(crate) read: bool,
    /// Room for bytes to write, or the end of connecting.
    pub(crate) write: bool,
    /// Set by the wait: whether any of that may have come, or a failure.
    pub(crate) ready: &'a mut bool,
}

/// Everything that the crate needs from the machine it runs on.
pub(crate) trait Network: Send + Sync + UnwindSafe + RefUnwindSafe {
    /// The present moment of the monotonic clock.
    fn now(&self) -> Time;

    /// The present moment or one up to 10 ms before it, where that costs less.
    fn coarse_now(&self) -> Time {
        self.now()
    }

    /// The present time of the wall clock, which may jump.
    fn wall(&self) -> SystemTime;

    /// A random number, for jitter.
    fn random(&self) -> u64;

    /// The id of the process, which changes with a fork.
    fn process(&self) -> u32;

    /// The addresses of a host name. It takes as long as the resolver needs, which nothing can limit.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// Begins to open a connection. The settings are for its socket options.
    fn connect(&self, to: SocketAddr, config: &Config) -> io::Result<Box<dyn Socket>>;

    /// Blocks until something that is awaited has come, `until` has passed, or the handle is closed. May return early.
    fn poll(&self, on: &mut [Interest<'_>], closed: Option<&Closed>, until: Time) -> io::Result<()>;
}

/// Debug output ends at the seam.
impl fmt::Debug for dyn Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

/// Wakes everybody who is blocked in [`Network::poll`]. Once used, it stays awake for ever.
pub(crate) trait Waker: Send + Sync + UnwindSafe + RefUnwindSafe {
    /// Wakes the waits of the process that made it; does nothing in another process.
    fn wake(&self);

    /// What becomes readable with [`wake`](Waker::wake).
    fn handle(&self) -> Handle<'_>;
}

/// A flag that ends waiting, set once and for all.
#[derive(Default)]
pub(crate) struct Closed {
    flag: AtomicBool,
    /// Made by the first wait of this process; never drained, so that it wakes every waiter of every thread.
    waker: Mutex<Option<(u32, Arc<dyn Waker>)>>,
}

impl fmt::Debug for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Closed").field(&self.is_closed()).finish()
    }
}

impl Closed {
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        // The flag first: a wait that wakes must find it set.
        self.flag.store(true, Ordering::SeqCst);
        if let Some((_, waker)) = &*locked(&self.waker) {
            waker.wake();
        }
    }

    /// Returns the waker, which is made now if this is the first wait in this process: a forked child shares its parent's
    /// sockets, but not its flag. Look at the flag after this call, not before.
    pub(crate) fn waker(
        &self,
        process: u32,
        make: impl FnOnce() -> io::Result<Arc<dyn Waker>>,
    ) -> io::Result<Arc<dyn Waker>> {
        let mut waker = locked(&self.waker);
        match &*waker {
            Some((made_in, waker)) if *made_in == process => Ok(waker.clone()),
            _ => Ok(waker.insert((process, make()?)).1.clone()),
        }
    }
}

/// Locks what several threads share, even after one of them has panicked: no change to it is left half done.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_saturate() {
        let t = Time::from_nanos(5);
        assert_eq!(t.after(Duration::from_nanos(3)), Time::from_nanos(8));
        assert_eq!(t.after(Duration::MAX), Time::NEVER);
        assert_eq!(Time::NEVER.after(Duration::from_secs(1)), Time::NEVER);
        assert_eq!(t.since(Time::from_nanos(8)), Duration::ZERO);
        assert_eq!(Time::from_nanos(8).since(t), Duration::from_nanos(3));
        assert!(Time::ZERO < t && t < Time::NEVER);
    }
}
