//! Reading a partition's files, without a broker: for audits, back-ups and work offline.
//!
//! A TANK server keeps each partition in a directory of its own, `DATA/TOPIC/PARTITION`. Files named
//! `FIRST-LAST_TIME.ilog` are closed segments, the one named `FIRST_TIME.log` is being appended to; older servers leave
//! the time out. Each holds one bundle after the other in the form in which they are sent, each preceded by its length. The
//! index files are not needed.
//!
//! ```
//! use tank_client::segment::Segments;
//!
//! # let dir = "tests/segments/plain/0";
//! for message in Segments::open(dir)?.start_at(120) {
//!     let message = message?;
//!     println!("{}: {}", message.seq(), String::from_utf8_lossy(message.payload()));
//! }
//! # Ok::<(), tank_client::Error>(())
//! ```

mod file;

use std::fs;
use std::io;
use std::iter::FusedIterator;
use std::path::{Path, PathBuf};

pub use file::SegmentFile;
use file::{OpenFile, range_of};

use crate::error::{Error, Result};
use crate::message::{Batch, DecodedBundle, Message, TopicPartition, TopicPartitions};
use crate::protocol::Limits;

/// How often to look again when a file is gone that was there a moment ago: a live server closes, merges and removes.
const LOOKS: u32 = 10;

/// The messages in a partition's directory, in the order of their numbers, up to where the last file ends.
///
/// It only reads, so the server that writes there may be running. If the last file ends inside a bundle, because the server is
/// writing it, was cut off, or a copy was made meanwhile, the messages end before that bundle, and
/// [`cut_tail`](Segments::cut_tail) says where. Any other damage ends it with [`Error::Corrupt`]. After one `Err` it is
/// finished.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    limits: Limits,
    /// The next number to hand out; 0: the first there is.
    position: u64,
    file: Option<OpenFile>,
    cut_tail: Option<(PathBuf, u64)>,
    finished: bool,
    sources: TopicPartitions,
    decoded: DecodedBundle,
    /// What is wrong with the bundle after them.
    failure: Option<Error>,
}

impl Segments {
    /// Opens the directory of a partition. Its last two names are the topic and the partition, as a server lays it out;
    /// where they are not, the topic is the last name and the partition 0.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such directory.
    pub fn open(dir: impl AsRef<Path>) -> Result<Segments> {
        let dir = dir.as_ref().canonicalize().map_err(|e| Error::file(dir.as_ref(), e))?;
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let id = name(&dir).parse();
        let (topic, partition) = match (id, dir.parent()) {
            (Ok(id), Some(parent)) => (name(parent), id),
            _ => (name(&dir), 0),
        };
        let sources: TopicPartitions = [TopicPartition { topic: topic.into(), partition }].into();
        let segments = Segments {
            dir,
            limits: Limits::default(),
            position: 0,
            file: None,
            cut_tail: None,
            finished: false,
            decoded: DecodedBundle::new(&sources),
            failure: None,
            sources,
        };
        segments.files()?;
        Ok(segments)
    }

    /// Gives the messages that are still to come another topic and partition than the directory's names say.
    #[must_use]
    pub fn named(mut self, topic: impl AsRef<str>, partition: u16) -> Segments {
        self.position = self.position();
        self.sources = [TopicPartition { topic: topic.as_ref().into(), partition }].into();
        self.decoded = DecodedBundle::new(&self.sources);
        (self.file, self.failure) = (None, None);
        self
    }

    /// Begins with this number, or the first one above it; default 0, the first there is. It does not matter what was read
    /// before, or whether it was finished.
    #[must_use]
    pub fn start_at(mut self, seq: u64) -> Segments {
        self.position = seq;
        self.decoded.detach();
        (self.file, self.failure, self.cut_tail, self.finished) = (None, None, None, false);
        self
    }

    /// Sets how much a bundle may claim.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Segments {
        self.limits = limits;
        self
    }

    /// Returns the partition's files, in the order of their first numbers, as they are now.
    ///
    /// # Errors
    /// [`Error::File`] if the directory cannot be read.
    pub fn files(&self) -> Result<Vec<SegmentFile>> {
        let trouble = |e| Error::file(&self.dir, e);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(trouble)? {
            let path = entry.map_err(trouble)?.path();
            let range = path.file_name().and_then(|name| name.to_str()).and_then(range_of);
            files.extend(range.map(|(first, last)| SegmentFile { path, first, last }));
        }
        files.sort_by(|a, b| (a.first, a.last.unwrap_or(u64::MAX)).cmp(&(b.first, b.last.unwrap_or(u64::MAX))));
        Ok(files)
    }

    /// Returns the next number to be handed out: where to begin in order to continue later. 0 while nothing has come from
    /// the beginning.
    pub fn position(&self) -> u64 {
        self.decoded.entries().get(self.decoded.taken()).map_or(self.position, |entry| entry.seq)
    }

    /// If the last file ends inside a bundle, returns the file and the byte at which that bundle begins. Known once the
    /// messages have ended.
    pub fn cut_tail(&self) -> Option<(&Path, u64)> {
        self.cut_tail.as_ref().map(|(path, at)| (path.as_path(), *at))
    }

    /// Returns the messages of the next bundle, or of several small ones, or what [`next`](Iterator::next) has left of the
    /// present ones. They are borrowed: no allocation, no reference counts. `Ok(None)` means finished.
    ///
    /// # Errors
    /// As the items of the iterator; it is then finished.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>> {
        if !self.decoded.has_messages() && !self.load()? {
            return Ok(None);
        }
        Ok(self.decoded.take_all())
    }

    /// Decodes the next bundle with a message that is wanted, or several small ones; `false` at the end.
    fn load(&mut self) -> Result<bool> {
        self.decoded.detach();
        if let Some(e) = self.failure.take() {
            self.finished = true;
            return Err(e);
        }
        while !self.finished {
            match self.try_load() {
                Ok(false) => self.decoded.detach(),
                done => {
                    self.finished = done.is_err();
                    return done;
                }
            }
        }
        Ok(false)
    }

    /// Continues by a bundle or a file; whether there are messages now.
    fn try_load(&mut self) -> Result<bool> {
        let found = match &mut self.file {
            Some(file) => file.bundle(&self.limits)?.map(|(at, bundle)| (file, at, bundle)),
            None => None,
        };
        let Some((file, at, bundle)) = found else {
            self.finished = !self.open_next()?;
            return Ok(false);
        };
        self.decoded.attach(file.buf());
        match self.decoded.decode(&bundle, 0, &self.limits) {
            Ok(()) => self.position = bundle.last + 1,
            Err(e) => {
                let e = file.corrupt(at + self.decoded.good().bytes, e);
                let Some(last) = self.decoded.entries().last() else { return Err(e) };
                self.position = last.seq + 1;
                self.failure = Some(e);
            }
        }
        Ok(self.decoded.has_messages())
    }

    /// Opens the first file that may hold the position, other than the present one; `false` if there is none.
    fn open_next(&mut self) -> Result<bool> {
        for look in 1.. {
            let done = self.file.as_ref();
            // Everything in the present file has been delivered or skipped.
            let position = done.map_or(self.position, |file| self.position.max(file.next()));
            let may_hold = |file: &SegmentFile| {
                // A file that brought nothing makes way for later ones, or for itself if it was closed meanwhile.
                let is_other = |done: &OpenFile| {
                    let closed = done.is.last.is_none() && file.last.is_some();
                    done.is.path != file.path && (file.first > done.is.first || position > done.opened_at() || closed)
                };
                done.is_none_or(is_other) && file.last.is_none_or(|last| last >= position)
            };
            let files = self.files()?;
            // Not simply the first one: there may be another that begins later and is being appended to.
            let before = files.iter().rev().filter(|file| may_hold(file)).find(|file| file.first <= position);
            let next = before.or_else(|| files.iter().find(|file| may_hold(file) && file.first > position));
            let Some(next) = next else {
                self.cut_tail = done.and_then(|file| Some((file.is.path.clone(), file.cut_at()?)));
                return Ok(false);
            };
            if let Some(done) = done.filter(|done| done.is.first != next.first) {
                done.check_end()?;
            }
            match OpenFile::open(next, position, &self.sources) {
                Ok(file) => {
                    self.file = Some(file);
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound && look < LOOKS => {}
                Err(e) => return Err(Error::file(&next.path, e)),
            }
        }
        Ok(false)
    }
}

impl Iterator for Segments {
    type Item = Result<Message>;

    #[inline]
    fn next(&mut self) -> Option<Result<Message>> {
        if let Some(message) = self.decoded.take_one() {
            return Some(Ok(message));
        }
        match self.load() {
            Ok(_) => self.decoded.take_one().map(Ok),
            Err(e) => Some(Err(e)),
        }
    }
}

impl FusedIterator for Segments {}
