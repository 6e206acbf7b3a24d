//! One segment file: its name and its bundles, one after another. Also, which files a partition's directory has.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::LOOKS;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{JOINED, TopicPartitions};
use crate::net::ReadBuf;
use crate::protocol::chunk::{Bundle, Chunk, Found};
use crate::protocol::{DecodeError, DecodeFault, Limits};

/// Bytes of the read buffer at rest, unless the file is smaller.
const READ_BUFFER: u64 = 512 << 10;

/// How much to read at once while bundles are skipped.
const SKIP_READ: usize = 8 << 10;

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
    file: File,
    /// The buffer in which the last bundle lies.
    pub(super) buf: ReadBuf<TopicPartitions>,
    /// What is left of it, from the position that it was opened for.
    pub(super) chunk: Chunk,
    /// The size of the file in bytes when it was last looked at.
    len: u64,
}

impl OpenFile {
    /// Opens it at its beginning, to read the numbers from `from` up.
    pub(super) fn open(is: &SegmentFile, from: u64, sources: &TopicPartitions) -> io::Result<OpenFile> {
        let file = File::open(&is.path)?;
        let len = file.metadata()?.len();
        let unit = len.clamp(SKIP_READ as u64, READ_BUFFER) as usize;
        let (left, to) = (u64::MAX, u64::MAX - 1);
        let chunk = Chunk { owner: 0, at: 0, left, from, to, next: Some(is.first), next_is_floor: true };
        Ok(OpenFile { is: is.clone(), file, buf: ReadBuf::new(unit, sources.clone()), chunk, len })
    }

    /// The lowest number that the next bundle may begin with.
    pub(super) fn next(&self) -> u64 {
        self.chunk.next.unwrap_or(0)
    }

    /// Where its last bundle begins, if the file ends inside it, or where it ends, if its name says that there was more. Known once
    /// no whole one is left.
    pub(super) fn cut_at(&self) -> Option<u64> {
        let is_short = self.is.last.is_some_and(|last| self.next() <= last);
        (is_short || self.chunk.at < self.len).then_some(self.chunk.at)
    }

    pub(super) fn corrupt(&self, at: u64, source: DecodeError) -> Error {
        Error::new(ErrorKind::Corrupt { at }).in_file(&self.is.path).because(source)
    }

    /// Returns the next wanted bundle, or several small ones, as a range of the buffer's block, and where in the file it begins;
    /// `None` if no whole one is left. The block is a new one if the old one is still shared.
    pub(super) fn bundle(&mut self, limits: &Limits) -> Result<Option<(u64, Bundle)>> {
        loop {
            let before = self.chunk;
            match self.chunk.take(self.buf.data(), JOINED, limits) {
                Ok(Found::Bundle(mut bundle, _)) => {
                    let start = self.buf.start();
                    self.buf.consume(bundle.set.end);
                    bundle.shift(start);
                    return Ok(Some((before.at, bundle)));
                }
                Ok(Found::Need(need)) if self.read(need)? => {}
                Ok(Found::Skip(bytes)) if self.skip(bytes)? => {}
                Ok(_) => {
                    self.chunk = before;
                    return Ok(None);
                }
                Err(e) => return Err(self.corrupt(before.at, e)),
            }
        }
    }

    /// Reads at least what is needed. Returns `false` if the file ends before that.
    fn read(&mut self, need: usize) -> Result<bool> {
        let wanted = self.buf.data().len() + need;
        // Most of what lies below the position is skipped.
        let most = if self.next() < self.chunk.from { need.max(SKIP_READ) } else { usize::MAX };
        while self.buf.data().len() < wanted {
            let need = wanted - self.buf.data().len();
            let room = self.buf.room(need);
            let most = most.min(room.len());
            match self.file.read(&mut room[..most]) {
                Ok(0) => {
                    self.len = self.chunk.at + self.buf.data().len() as u64;
                    return Ok(false);
                }
                Ok(n) => self.buf.filled(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::file(&self.is.path, e)),
            }
        }
        Ok(true)
    }

    /// Skips a bundle of this many bytes, as the chunk has done. Returns `false` if the file ends inside it.
    fn skip(&mut self, bytes: u64) -> Result<bool> {
        let buffered = bytes.min(self.buf.data().len() as u64);
        let rest = bytes - buffered;
        if rest > 0 {
            if self.chunk.at > self.len {
                self.len = self.file.metadata().map_err(|e| Error::file(&self.is.path, e))?.len();
            }
            if self.chunk.at > self.len {
                return Ok(false);
            }
            self.file.seek(SeekFrom::Current(rest as i64)).map_err(|e| Error::file(&self.is.path, e))?;
        }
        self.buf.consume(buffered as usize);
        Ok(true)
    }

    /// Checks that a file followed by others is complete. Returns whether it has grown since its end was found: retention may have
    /// removed it meanwhile, so that only this handle still reads the rest.
    pub(super) fn check_end(&self) -> Result<bool> {
        // No server writes a file whose first number is 0, but one may have that name.
        if self.file.metadata().is_ok_and(|now| now.len() > self.len) {
            return Ok(true);
        }
        let at = self.chunk.at;
        let left = self.len.saturating_sub(at);
        let last = self.next().saturating_sub(1);
        let (field, fault) = match self.is.last {
            _ if left > 0 => ("bundle", DecodeFault::Short { needed: left + 1, left }),
            Some(named) if named > last => {
                ("last sequence number", DecodeFault::SeqRange { seq: last, low: named, high: named })
            }
            _ => return Ok(false),
        };
        Err(self.corrupt(at, DecodeError::new(field, fault, at)))
    }
}

/// Returns the first and last number of a segment, by the name of its file.
pub(super) fn range_of(name: &str) -> Option<(u64, Option<u64>)> {
    let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    // A merge replaces old files with new ones; the old ones are then named `old`, and stay complete to the end.
    let (range, kind) = name.strip_suffix(".old").unwrap_or(name).split_once('.')?;
    let (range, time) = range.split_once('_').unwrap_or((range, "0"));
    number(time)?;
    match (kind, range.split_once('-')) {
        ("ilog", Some((first, last))) => Some((number(first)?, Some(number(last)?))),
        ("log", None) => Some((number(range)?, None)),
        _ => None,
    }
}

/// The files in the order of their first numbers.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) files: Vec<SegmentFile>,
    /// For each, the highest number that it or one before it may hold.
    highest: Vec<u64>,
    /// Whether an earlier listing was the same.
    pub(super) is_confirmed: bool,
}

impl Listing {
    /// Lists until two listings agree, because a listing takes several calls and may miss files that are renamed meanwhile. If
    /// they never agree, the last one must do.
    pub(super) fn stable(mut list: impl FnMut() -> io::Result<Vec<SegmentFile>>) -> io::Result<Listing> {
        let mut files = list()?;
        for _ in 0..LOOKS {
            let before = std::mem::replace(&mut files, list()?);
            if files == before {
                break;
            }
        }
        let highest = files.iter().scan(0, |highest, file| {
            *highest = file.last.unwrap_or(u64::MAX).max(*highest);
            Some(*highest)
        });
        Ok(Listing { highest: highest.collect(), files, is_confirmed: false })
    }

    /// Returns the file that continues after the present one, at this position.
    pub(super) fn next(&self, position: u64, done: Option<&OpenFile>) -> Option<&SegmentFile> {
        let may_hold = |file: &&SegmentFile| {
            // A file without new messages makes way for later ones, or for itself if it was closed meanwhile.
            let is_other = |done: &OpenFile| {
                let closed = done.is.last.is_none() && file.last.is_some();
                done.is.path != file.path && (file.first > done.is.first || position > done.chunk.from || closed)
            };
            done.is_none_or(is_other) && file.last.is_none_or(|last| last >= position)
        };
        let (before, after) = self.files.split_at(self.files.partition_point(|file| file.first <= position));
        // Not simply the first one: another one may begin later and be the one that is appended to.
        let before = before.iter().zip(&self.highest).rev().take_while(|(_, highest)| **highest >= position);
        before.map(|(file, _)| file).find(may_hold).or_else(|| after.iter().find(may_hold))
    }
}

pub(super) fn list(dir: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Opening a pipe would block. A link to nothing is an error once it is opened.
        let is_file = || fs::metadata(entry.path()).map_or(true, |there| there.is_file());
        let may_be_file = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_symlink() && is_file());
        let range = entry.file_name().to_str().and_then(range_of).filter(|_| may_be_file);
        files.extend(range.map(|(first, last)| SegmentFile { path: entry.path(), first, last }));
    }
    files.sort_by_cached_key(|file| (file.first, file.last.unwrap_or(u64::MAX), file.path.clone()));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_say_which_numbers_they_hold() {
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

    #[test]
    fn a_bundle_below_the_position_may_grow_whole_meanwhile() {
        let path = std::env::temp_dir().join(format!("tank-client-{}-grows.log", std::process::id()));
        // Twice a bundle of one message of 20,000 bytes.
        let message = [&[0; 9][..], &[0xa0, 0x9c, 0x01], &[b'x'; 20_000]].concat();
        let len = message.len() as u32 + 1;
        let mut bundle = Vec::new();
        crate::protocol::varint::encode(len, &mut bundle);
        bundle.push(1 << 2);
        bundle.extend_from_slice(&message);
        std::fs::write(&path, &bundle[..10_000]).unwrap();
        let is = SegmentFile { path: path.clone(), first: 1, last: None };
        let sources = crate::message::Names::one("t", 0);
        let mut file = OpenFile::open(&is, 2, &sources).unwrap();
        assert_eq!(file.bundle(&Limits::default()).unwrap(), None);
        assert_eq!((file.cut_at(), file.next()), (Some(0), 1));
        assert!(file.check_end().is_err(), "it is cut");
        std::fs::write(&path, bundle.repeat(2)).unwrap();
        assert!(file.check_end().unwrap(), "it was not complete yet");
        let (at, found) = file.bundle(&Limits::default()).unwrap().unwrap();
        assert_eq!((at, found.first, found.last, file.cut_at()), (bundle.len() as u64, 2, 2, None));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_was_appended_before_a_file_was_removed_is_read_from_its_handle() {
        let dir = std::env::temp_dir().join(format!("tank-client-{}-removed", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let bundle = [11, 1 << 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (cut, expected) in [(0, vec![2, 3, 4]), (5, vec![2])] {
            std::fs::write(dir.join("1.log"), bundle).unwrap();
            let mut segments = super::super::Segments::open(&dir).unwrap();
            assert_eq!(segments.next().unwrap().unwrap().seq(), 1);
            // It has found no more, and looks for the next file.
            let appended = bundle.repeat(2);
            std::fs::write(dir.join("1.log"), [&bundle[..], &appended[..24 - cut]].concat()).unwrap();
            std::fs::write(dir.join("4.log"), bundle).unwrap();
            std::fs::remove_file(dir.join("1.log")).unwrap();
            assert!(segments.open_next().unwrap());
            let read: Vec<_> = segments.by_ref().map_while(Result::ok).map(|message| message.seq()).collect();
            assert_eq!((read, segments.gaps()), (expected, &[][..]), "without the last {cut} bytes");
            std::fs::remove_file(dir.join("4.log")).unwrap();
        }
        std::fs::remove_dir(&dir).unwrap();
    }

    fn file(name: &str) -> SegmentFile {
        let (first, last) = range_of(name).unwrap();
        SegmentFile { path: name.into(), first, last }
    }

    #[test]
    fn a_file_that_one_listing_missed_is_found_by_the_next() {
        let mut listings =
            [&["1-2.ilog", "5.log"][..], &["1-2.ilog", "3-4.ilog", "5.log"], &["1-2.ilog", "3-4.ilog", "5.log"]]
                .map(|names| names.iter().map(|name| file(name)).collect::<Vec<_>>())
                .into_iter();
        let listing = Listing::stable(|| Ok(listings.next().expect("listed once more than needed"))).unwrap();
        assert_eq!(listing.next(3, None), Some(&file("3-4.ilog")));
        assert!(listings.next().is_none());
    }

    #[test]
    fn where_no_two_listings_agree_it_does_not_list_for_ever() {
        let mut n = 0;
        let listing = Listing::stable(|| {
            n += 1;
            Ok(vec![file(&format!("{n}.log"))])
        });
        assert_eq!((listing.unwrap().files, n), (vec![file("11.log")], 11));
    }

    #[test]
    fn the_file_with_the_position_comes_next_or_else_the_one_after_it() {
        let names = ["1-9.ilog.old", "1-4.ilog", "3-20.ilog", "5-9.ilog", "21.log", "40.log"];
        let listing = Listing::stable(|| Ok(names.iter().map(|name| file(name)).collect())).unwrap();
        for (position, expected) in [(0, 0), (1, 1), (4, 2), (5, 3), (10, 2), (20, 2), (21, 4), (41, 5)] {
            assert_eq!(listing.next(position, None), Some(&file(names[expected])), "{position}");
        }
    }
}
