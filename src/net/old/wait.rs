//! Waiting for several sockets at once.

use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clock::Deadline;
use super::connection::Connection;
use super::dial::Dial;

/// A socket and what it is waited for.
#[derive(Debug)]
pub(crate) enum Interest<'a> {
    /// Data from a broker, or its end.
    Read(&'a Connection),
    /// Room for more of a request.
    Write(&'a Connection),
    /// The next step of a dial.
    Dial(&'a Dial),
}

impl<'a> Interest<'a> {
    fn fd(&self) -> PollFd<'a> {
        match *self {
            Interest::Read(connection) => PollFd::new(connection.stream(), PollFlags::IN),
            Interest::Write(connection) => PollFd::new(connection.stream(), PollFlags::OUT),
            Interest::Dial(dial) if dial.is_connecting() => PollFd::new(dial.stream(), PollFlags::OUT),
            Interest::Dial(dial) => PollFd::new(dial.stream(), PollFlags::IN),
        }
    }
}

/// Blocks until one of the sockets has something to do (`true`), or the deadline passes (`false`).
pub(crate) fn wait(interests: &[Interest<'_>], deadline: Deadline) -> io::Result<bool> {
    match interests {
        // The usual case, perhaps for every bundle: allocates nothing.
        [one] => wait_for(&mut [one.fd()], deadline),
        several => wait_for(&mut several.iter().map(Interest::fd).collect::<Vec<_>>(), deadline),
    }
}

fn wait_for(fds: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<bool> {
    loop {
        let left = deadline.left();
        // Rounded up to the millisecond: where the system's poll counts in those, waking early would be a busy loop.
        let timeout = left.map(|left| {
            let millis = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
            Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
        });
        match poll(fds, timeout.as_ref()) {
            Ok(0) if !deadline.has_passed() => {}
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
