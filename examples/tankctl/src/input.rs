//! Lines from a file or from standard input, which is never waited for without saying so.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::{output, signals};

/// How many bytes to read at a time.
const PIECE: usize = 256 << 10;

/// The most bytes in a line: no message takes more.
const MOST: usize = 255 << 20;

/// What a look at the input found.
pub enum Next {
    /// The next line is in [`Input::line`].
    Line,
    /// Nothing has arrived in time.
    Quiet,
    /// There are no more lines, or a signal came.
    End,
}

/// The pieces between delimiters. What follows the last delimiter is a piece too, unless it is empty.
pub struct Input {
    file: Option<File>,
    name: String,
    delimiter: Vec<u8>,
    bytes: Vec<u8>,
    /// Where the bytes begin that were not handed out yet.
    at: usize,
    /// From here on there may be a delimiter.
    searched: usize,
    line: std::ops::Range<usize>,
    is_at_end: bool,
}

impl Input {
    /// Opens a file; standard input for `-` or without a path.
    ///
    /// Without a delimiter everything is one line.
    pub fn open(path: Option<&Path>, delimiter: &[u8]) -> Result<Input> {
        let path = path.filter(|path| *path != Path::new("-"));
        let name = path.map_or("standard input".to_owned(), |path| path.display().to_string());
        let file = path.map(File::open).transpose().with_context(|| name.clone())?;
        let delimiter = delimiter.to_vec();
        Ok(Input { file, name, delimiter, bytes: Vec::new(), at: 0, searched: 0, line: 0..0, is_at_end: false })
    }

    /// The size of the file in bytes.
    pub fn size(&self) -> Option<u64> {
        let metadata = self.file.as_ref()?.metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    /// The line that [`next`](Input::next) found, without its delimiter.
    pub fn line(&self) -> &[u8] {
        &self.bytes[self.line.clone()]
    }

    /// Whether the input stops inside a line.
    pub fn has_rest(&self) -> bool {
        !self.is_at_end && self.at < self.bytes.len()
    }

    /// Finds the next line. Waits for it at most this long.
    pub fn next(&mut self, longest: Duration) -> Result<Next> {
        loop {
            let found = find(&self.bytes[self.searched..], &self.delimiter).filter(|_| !self.delimiter.is_empty());
            if let Some(found) = found {
                let end = self.searched + found;
                self.line = self.at..end;
                self.at = end + self.delimiter.len();
                self.searched = self.at;
                return Ok(Next::Line);
            }
            if self.is_at_end {
                self.line = self.at..self.bytes.len();
                (self.at, self.searched) = (self.bytes.len(), self.bytes.len());
                return Ok(if self.line.is_empty() { Next::End } else { Next::Line });
            }
            // A delimiter may begin at the end of what is there.
            self.searched = self.at.max((self.bytes.len() + 1).saturating_sub(self.delimiter.len().max(1)));
            if self.bytes.len() - self.at > MOST {
                bail!("more than {MOST} bytes without a line end: no message may be that large");
            }
            if signals::received().is_some() {
                return Ok(Next::End);
            }
            if !self.fill(longest)? {
                return Ok(if signals::received().is_some() { Next::End } else { Next::Quiet });
            }
        }
    }

    /// Reads what is there. Returns `false` if there is nothing.
    fn fill(&mut self, longest: Duration) -> Result<bool> {
        let stdin = io::stdin();
        let fd: BorrowedFd<'_> = self.file.as_ref().map_or(stdin.as_fd(), AsFd::as_fd);
        let mut fds =
            [PollFd::from_borrowed_fd(fd, PollFlags::IN), PollFd::from_borrowed_fd(signals::wake(), PollFlags::IN)];
        output::wait(&mut fds, Some(longest))?;
        if fds[0].revents().is_empty() {
            return Ok(false);
        }
        // Lines that were handed out make room.
        self.bytes.drain(..self.at);
        self.searched -= self.at;
        self.at = 0;
        let len = self.bytes.len();
        self.bytes.resize(len + PIECE, 0);
        let read = rustix::io::read(fd, &mut self.bytes[len..]);
        self.bytes.truncate(len + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => self.is_at_end = true,
            Ok(_) => {}
            Err(Errno::INTR | Errno::AGAIN) => return Ok(false),
            Err(e) => return Err(anyhow!(io::Error::from(e)).context(format!("cannot read {}", self.name))),
        }
        Ok(true)
    }
}

/// Where a text begins in these bytes.
pub fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    match text {
        [] => Some(0),
        [byte] => bytes.iter().position(|other| other == byte),
        text => bytes.windows(text.len()).position(|part| part == text),
    }
}
