//! One segment file: its name, and one bundle after the other.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::protocol::bundle::{BundleHeader, MAX_HEADER_LEN};
use crate::protocol::cursor::Cursor;
use crate::protocol::{DecodeError, DecodeFault, Limits, varint};

/// A file of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentFile {
    /// Where it is.
    pub path: PathBuf,
    /// The first number that it may hold.
    pub first: u64,
    /// The last number that it holds; `None` for the one that is being appended to.
    pub last: Option<u64>,
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) is: SegmentFile,
    reader: BufReader<File>,
    /// The position it was opened for.
    pub(super) opened_at: u64,
    /// Bytes of the file when last looked at, and those read or passed over.
    pub(super) len: u64,
    pub(super) at: u64,
    /// Number of the next dense bundle's first message.
    pub(super) next: u64,
}

/// The front of a bundle that is all there.
pub(super) struct Front {
    /// Where the bundle begins in its file, length prefix included, and where it goes on.
    pub(super) at: u64,
    body_at: u64,
    /// Bytes without the length prefix, the first of which are in `head`.
    pub(super) len: usize,
    head: [u8; MAX_HEADER_LEN],
}

impl OpenFile {
    /// From its beginning, for the sake of a position.
    pub(super) fn new(is: SegmentFile, file: File, opened_at: u64) -> OpenFile {
        let next = is.first;
        OpenFile { is, reader: BufReader::new(file), opened_at, len: 0, at: 0, next }
    }

    pub(super) fn corrupt(&self, at: u64, source: DecodeError) -> Error {
        Error::Corrupt { path: self.is.path.clone(), at, source }
    }

    fn trouble(&self, e: io::Error) -> Error {
        Error::file(&self.is.path, e)
    }

    /// Whether the file reaches as far as byte `end`.
    fn reaches(&mut self, end: u64) -> Result<bool> {
        if end > self.len {
            self.len = self.reader.get_ref().metadata().map_err(|e| self.trouble(e))?.len();
        }
        Ok(end <= self.len)
    }

    fn read(&mut self, out: &mut [u8]) -> Result<()> {
        self.reader.read_exact(out).map_err(|e| self.trouble(e))
    }

    /// The front of the next bundle; `None` if no whole one is left.
    pub(super) fn front(&mut self, limits: &Limits) -> Result<Option<Front>> {
        let mut partial = varint::Partial::default();
        let (at, mut body_at) = (self.at, self.at);
        let len = loop {
            if !self.reaches(body_at + 1)? {
                return Ok(None);
            }
            let mut byte = [0];
            self.read(&mut byte)?;
            body_at += 1;
            match partial.push(byte[0], "bundle length", body_at - 1) {
                Ok(None) => {}
                Ok(Some(len)) => break len,
                Err(e) => return Err(self.corrupt(at, e)),
            }
        };
        let fault = match len {
            0 => Some(DecodeFault::Undefined { value: 0 }),
            _ if len > limits.bundle => {
                Some(DecodeFault::OverLimit { claimed: len.into(), limit: limits.bundle.into() })
            }
            _ => None,
        };
        if let Some(fault) = fault {
            return Err(self.corrupt(at, DecodeError::new("bundle length", fault, at)));
        }
        if !self.reaches(body_at + u64::from(len))? {
            return Ok(None);
        }
        let mut front = Front { at, body_at, len: len as usize, head: [0; MAX_HEADER_LEN] };
        let in_head = front.in_head();
        self.read(&mut front.head[..in_head])?;
        Ok(Some(front))
    }

    pub(super) fn header(&self, front: &Front, limits: &Limits) -> Result<BundleHeader> {
        let mut cursor = Cursor::new(&front.head[..front.in_head()], front.body_at);
        BundleHeader::decode(&mut cursor, limits).map_err(|e| self.corrupt(front.at, e))
    }

    /// Counts the bundle as passed; its first and last number.
    pub(super) fn advance(&mut self, front: &Front, header: &BundleHeader) -> Result<(u64, u64)> {
        let at = front.body_at;
        let (first, last) = header.range(Some(self.next), at).map_err(|e| self.corrupt(front.at, e))?;
        if first < self.next {
            let fault = DecodeFault::SeqRange { seq: first, low: self.next, high: u64::MAX - 1 };
            return Err(self.corrupt(front.at, DecodeError::new("first sequence number", fault, at)));
        }
        self.next = last + 1;
        self.at = front.body_at + front.len as u64;
        Ok((first, last))
    }

    pub(super) fn pass_over(&mut self, front: &Front) -> Result<()> {
        let rest = (front.len - front.in_head()) as i64;
        self.reader.seek_relative(rest).map_err(|e| self.trouble(e))
    }

    /// Reads the whole bundle, without its length prefix, to the front of `out`.
    pub(super) fn body(&mut self, front: &Front, out: &mut Vec<u8>) -> Result<()> {
        if out.len() < front.len {
            out.resize(front.len, 0);
        }
        let (head, rest) = out[..front.len].split_at_mut(front.in_head());
        head.copy_from_slice(&front.head[..head.len()]);
        self.read(rest)
    }

    /// Checks that a file which others follow is complete.
    pub(super) fn check_end(&self) -> Result<()> {
        let missing = |field, fault| Err(self.corrupt(self.at, DecodeError::new(field, fault, self.at)));
        // Nobody writes a file whose first number is 0, but one may be named so.
        let last = self.next.saturating_sub(1);
        match self.is.last {
            _ if self.at < self.len => {
                let left = self.len - self.at;
                missing("bundle", DecodeFault::Short { needed: left + 1, left })
            }
            Some(named) if named > last => {
                missing("last sequence number", DecodeFault::SeqRange { seq: last, low: named, high: named })
            }
            _ => Ok(()),
        }
    }
}

impl Front {
    fn in_head(&self) -> usize {
        self.len.min(MAX_HEADER_LEN)
    }
}

/// First and last number of a segment by its file's name.
pub(super) fn range_of(name: &str) -> Option<(u64, Option<u64>)> {
    let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    // A merge puts new files in the place of old ones, which are `old` by then and complete till the end.
    let (range, closed) = match name.strip_suffix(".old").unwrap_or(name).split_once('.')? {
        (range, "ilog") => (range, true),
        (range, "log") => (range, false),
        _ => return None,
    };
    let range = match range.split_once('_') {
        Some((range, time)) => number(time).map(|_: u64| range)?,
        None => range,
    };
    if !closed {
        return Some((number(range)?, None));
    }
    let (first, last) = range.split_once('-')?;
    Some((number(first)?, Some(number(last)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (name, expected) in [
            ("1.log", Some((1, None))),
            ("721_1795380799.log", Some((721, None))),
            ("1-565_1795380799.ilog", Some((1, Some(565)))),
            ("566-18446744073709551614.ilog", Some((566, Some(u64::MAX - 1)))),
            ("1-565.ilog.old", Some((1, Some(565)))),
            ("1-565_1795380799.ilog.cleaned", None),
            ("1-565_1795380799.ilog.swap", None),
            ("1.index", None),
            ("1_64.index", None),
            ("config", None),
            (".cleanup.log", None),
            ("1-2.log", None),
            ("1.ilog", None),
            ("+1.log", None),
            ("18446744073709551616.log", None),
            ("1_x.log", None),
        ] {
            assert_eq!(range_of(name), expected, "{name}");
        }
    }
}
