//! Standard output, whatever is at its other end: a file, a terminal, or a pipe that is full, closed or does not block.
//!
//! [`Output::flush`] writes everything or fails: with [`ReaderGone`] if the reader has closed its end, which is no failure of the
//! tool, and with the system's reason otherwise. It waits for a pipe that is full. After a first signal it waits only for a
//! moment, and then the error says how much was not written.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use crate::{notes, signals};

/// A pipe or terminal that is ready takes this much without blocking.
const PIECE: usize = 4096;

/// Once this much was printed it is written.
const MUCH: usize = 64 << 10;

/// How long after the first signal to wait for an output that nobody reads.
const GRACE: Duration = Duration::from_secs(1);

/// Whoever reads the output has gone.
#[derive(Debug)]
pub struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whoever reads standard output has gone")
    }
}

impl std::error::Error for ReaderGone {}

/// Set by the thread that [`watch_reader`] starts.
static READER_GONE: AtomicBool = AtomicBool::new(false);

/// Collects what is printed, and writes it when there is enough of it or when it is flushed.
pub struct Output {
    bytes: Vec<u8>,
    is_file: bool,
    is_terminal: bool,
}

impl Output {
    pub fn stdout() -> Output {
        Output { bytes: Vec::new(), is_file: is_file(io::stdout()), is_terminal: io::stdout().is_terminal() }
    }

    /// Whether a terminal shows it: then what a message contains must not control that terminal.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// What was not written yet, to append to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Says that what was appended may be written. The reader gets half a line only if there is an error.
    pub fn end_line(&mut self) -> Result<()> {
        if self.bytes.len() >= MUCH { self.flush() } else { Ok(()) }
    }

    /// Writes all there is.
    pub fn flush(&mut self) -> Result<()> {
        let mut at = 0;
        let written = loop {
            let Some(rest) = self.bytes.get(at..).filter(|rest| !rest.is_empty()) else { break Ok(()) };
            let piece = if self.is_file { rest } else { &rest[..rest.len().min(PIECE)] };
            if !self.is_file && !is_ready(io::stdout())? {
                break Err(anyhow!(
                    "nobody reads standard output: {} not written",
                    notes::count(rest.len() as u64, "byte")
                ));
            }
            match rustix::io::write(io::stdout(), piece) {
                Ok(n) => at += n,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::PIPE) => break Err(ReaderGone.into()),
                Err(e) => break Err(anyhow!(io::Error::from(e)).context("cannot write to standard output")),
            }
        };
        // Also after a failure: what was written must not be written again.
        self.bytes.clear();
        written
    }
}

fn is_file(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file())
}

/// Whether standard output is a regular file.
pub fn is_to_file() -> bool {
    is_file(io::stdout())
}

/// Waits until an output takes some bytes. Returns `false` if it does not for [`GRACE`] after a signal.
fn is_ready(out: impl AsFd) -> Result<bool> {
    let mut give_up = None;
    loop {
        if give_up.is_none() && signals::received().is_some() {
            give_up = Some(Instant::now() + GRACE);
        }
        let mut fds = vec![PollFd::new(&out, PollFlags::OUT)];
        // If the reader has gone, the wait ends too; the write then says so.
        if give_up.is_none() {
            fds.push(PollFd::from_borrowed_fd(signals::wake(), PollFlags::IN));
        }
        let left = give_up.map(|at: Instant| at.saturating_duration_since(Instant::now()));
        wait(&mut fds, left)?;
        // Also on an error: the write then says which.
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
    }
}

/// Like `poll`, for at most this long.
pub fn wait(fds: &mut [PollFd<'_>], longest: Option<Duration>) -> Result<()> {
    let longest = longest.map(|time| Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 }));
    match poll(fds, longest.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(io::Error::from(e).into()),
    }
}

/// Writes to standard error, even if it does not block. What cannot be written is lost: there is nobody to tell.
pub fn write_to_stderr(mut bytes: &[u8]) {
    /// Set once a wait for it has timed out.
    static UNREAD: AtomicBool = AtomicBool::new(false);
    while !bytes.is_empty() && !UNREAD.load(Ordering::Relaxed) {
        if !is_ready(io::stderr()).unwrap_or(false) {
            UNREAD.store(true, Ordering::Relaxed);
            return;
        }
        match rustix::io::write(io::stderr(), &bytes[..bytes.len().min(PIECE)]) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

/// From now on, subscriptions end as after a signal if the reader of standard output goes away, even while no message comes.
/// Call [`check_reader`] afterwards.
pub fn watch_reader() {
    thread::spawn(|| {
        let stdout = io::stdout();
        let fd: BorrowedFd<'_> = stdout.as_fd();
        let gone = PollFlags::ERR | PollFlags::HUP;
        loop {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
            if wait(&mut fds, None).is_err() || fds[0].revents().contains(PollFlags::NVAL) {
                return;
            }
            if fds[0].revents().intersects(gone) {
                READER_GONE.store(true, Ordering::SeqCst);
                signals::end();
                return;
            }
        }
    });
}

/// Fails if [`watch_reader`] has seen the reader go away.
pub fn check_reader() -> Result<()> {
    if READER_GONE.load(Ordering::SeqCst) { Err(ReaderGone.into()) } else { Ok(()) }
}
