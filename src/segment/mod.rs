//! Reading a partition's files, without a broker: for audits, back-ups and work offline.
//!
//! A TANK server keeps each partition in a directory of its own, `DATA/TOPIC/PARTITION`. Files named
//! `FIRST-LAST_TIME.ilog` are closed segments, and the one named `FIRST_TIME.log` is being appended to; older servers leave
//! the time out. Each file holds bundles one after another, in the form in which they are sent, each preceded by its length.
//! The index files are not needed.
//!
//! ```
//! use tank_client::segment::Segments;
//!
//! # let dir = std::env::temp_dir().join(format!("tank-client-segments-{}", std::process::id()));
//! # std::fs::create_dir_all(&dir).unwrap();
//! for message in Segments::open(&dir)?.start_at(120) {
//!     let message = message?;
//!     println!("{}: {}", message.seq(), String::from_utf8_lossy(message.payload()));
//! }
//! # std::fs::remove_dir(&dir).unwrap();
//! # Ok::<(), tank_client::Error>(())
//! ```

mod file;

use std::io;
use std::iter::FusedIterator;
use std::path::{Path, PathBuf};

pub use file::SegmentFile;
use file::{Listing, OpenFile, list};

use crate::error::{Error, Result};
use crate::message::{Batch, DecodedBundle, Gap, Message, Names, TopicPartitions};
use crate::protocol::Limits;
use crate::protocol::limits::setters;

/// How often to look again when files are not where they were a moment ago: a live server closes, merges and removes them.
const LOOKS: u32 = 10;

/// The messages in a partition's directory, in the order of their numbers, up to the end of the last file.
///
/// It only reads, so the server that writes there may be running. The last file may end inside a bundle, because the server is
/// writing it or was stopped, or because the file was copied while it was written. Then the messages end before that bundle,
/// and [`cut_tail`](Segments::cut_tail) says where. It also does if a closed file ends before the last number in its name.
/// Numbers that no file has are left out, and [`gaps`](Segments::gaps) lists them. Any other damage ends the iteration with
/// [`Corrupt`](crate::ErrorKind::Corrupt). After one `Err` it is finished.
#[derive(Debug)]
#[must_use = "iterators are lazy: files are read when messages are asked for"]
pub struct Segments {
    dir: PathBuf,
    limits: Limits,
    sources: TopicPartitions,
    state: State,
}

/// How far it has come.
#[derive(Debug, Default)]
struct State {
    /// The files as they were when last looked at.
    listing: Option<Listing>,
    gaps: Vec<Gap>,
    /// The next number to hand out; 0 stands for the first one there is.
    position: u64,
    file: Option<OpenFile>,
    cut_tail: Option<(PathBuf, u64)>,
    finished: bool,
    decoded: DecodedBundle,
    /// What is wrong with the bundle after them.
    failure: Option<Error>,
}

impl Segments {
    /// Opens the directory of a partition. The last two names of its path are taken as the topic and the partition, as on a
    /// server. If the last one is not a number, it is taken as the topic, and the partition is 0.
    ///
    /// # Errors
    /// [`File`](crate::ErrorKind::File) if there is no such directory.
    pub fn open(dir: impl AsRef<Path>) -> Result<Segments> {
        let dir = dir.as_ref().canonicalize().map_err(|e| Error::file(dir.as_ref(), e))?;
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let id = name(&dir).parse();
        let (topic, partition) = match (id, dir.parent()) {
            (Ok(id), Some(parent)) => (name(parent), id),
            _ => (name(&dir), 0),
        };
        let sources = Names::one(topic, partition);
        let segments = Segments { dir, limits: Limits::default(), sources, state: State::default() };
        segments.list()?;
        Ok(segments)
    }

    /// Sets the topic and partition that messages name from now on, instead of those in the directory's path.
    pub fn named(mut self, topic: impl AsRef<str>, partition: u16) -> Segments {
        self.state.position = self.position();
        self.sources = Names::one(topic.as_ref(), partition);
        self.state.decoded.detach();
        self.state.file = None;
        self.state.failure = None;
        self
    }

    setters! {
        /// Begins with this number, or the first one above it. Default 0: the first number. It can be called at any time, even
        /// after the end or an error.
        start_at(seq: u64) => state = State { position: seq, ..State::default() };

        /// The limits of a bundle: its bytes, compressed and decompressed, and its messages.
        limits(limits: Limits) => limits = limits;
    }

    /// Returns the partition's files, in the order of their first numbers, as they are now.
    ///
    /// # Errors
    /// [`File`](crate::ErrorKind::File) if the directory cannot be read.
    pub fn files(&self) -> Result<Vec<SegmentFile>> {
        Ok(self.list()?.files)
    }

    fn list(&self) -> Result<Listing> {
        Listing::stable(|| list(&self.dir)).map_err(|e| Error::file(&self.dir, e))
    }

    /// Returns the numbers found missing so far, from the start if one was set, and between one file and the next: their messages
    /// are lost, or never existed because the publisher chose the numbers.
    pub fn gaps(&self) -> &[Gap] {
        &self.state.gaps
    }

    /// Returns the next number to be handed out: start there to continue later. It is 0 until the first message, unless a start
    /// was set.
    pub fn position(&self) -> u64 {
        self.state.decoded.next_seq().unwrap_or(self.state.position)
    }

    /// If the last file ends inside a bundle, returns the file and the byte at which that bundle begins. If it is a closed file
    /// whose last bundles are missing, returns the byte at which it ends. Known once the messages have ended.
    pub fn cut_tail(&self) -> Option<(&Path, u64)> {
        self.state.cut_tail.as_ref().map(|(path, at)| (path.as_path(), *at))
    }

    /// Returns the messages of the next bundle, or of several small ones. If [`next`](Iterator::next) has returned only some of
    /// them, it returns the rest. They are borrowed: nothing is allocated, and no reference count changes. `Ok(None)` means
    /// that the iterator is finished.
    ///
    /// # Errors
    /// One of the items' errors; the iterator is then finished.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>> {
        self.load()?;
        Ok(self.state.decoded.take_all())
    }

    /// Decodes the next bundle with a wanted message, or several small ones, if there is any.
    fn load(&mut self) -> Result<()> {
        while !self.state.finished && !self.state.decoded.has_messages() {
            self.try_load().inspect_err(|_| self.state.finished = true)?;
        }
        Ok(())
    }

    /// Continues by a bundle or a file.
    fn try_load(&mut self) -> Result<()> {
        self.state.decoded.detach();
        if let Some(e) = self.state.failure.take() {
            return Err(e);
        }
        let found = match &mut self.state.file {
            Some(file) => file.bundle(&self.limits)?.map(|(at, bundle)| (file, at, bundle)),
            None => None,
        };
        let Some((file, at, bundle)) = found else {
            self.state.finished = !self.open_next()?;
            return Ok(());
        };
        self.state.decoded.attach(&file.buf);
        match self.state.decoded.decode(&bundle, 0, &self.limits) {
            Ok(()) => self.state.position = bundle.last + 1,
            Err(e) => {
                let e = file.corrupt(at + self.state.decoded.good().bytes, e);
                let Some(last) = self.state.decoded.entries().last() else { return Err(e) };
                self.state.position = last.seq + 1;
                self.state.failure = Some(e);
            }
        }
        Ok(())
    }

    /// Opens the first file that may hold the position, other than the present one, unless that has grown. Returns `false` if there
    /// is none.
    fn open_next(&mut self) -> Result<bool> {
        let done = self.state.file.as_ref();
        // Everything in the present file has been delivered or skipped.
        let position = done.map_or(self.state.position, |file| self.state.position.max(file.next()));
        for look in 1.. {
            let Some(next) = self.find_next(position)? else { break };
            if let Some(done) = self.state.file.as_ref().filter(|done| done.is.first != next.first) {
                if done.check_end()? {
                    self.state.listing = None;
                    return Ok(true);
                }
            }
            match OpenFile::open(&next, position, &self.sources) {
                Ok(file) => {
                    self.note_gap(position, next.first);
                    self.state.file = Some(file);
                    return Ok(true);
                }
                // It has been renamed or removed since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound && look < LOOKS => self.state.listing = None,
                Err(e) => return Err(Error::file(&next.path, e)),
            }
        }
        let done = self.state.file.as_ref();
        self.state.cut_tail = done.and_then(|file| Some((file.is.path.clone(), file.cut_at()?)));
        Ok(false)
    }

    /// Returns the file that continues at the position. The directory is listed again if the files that are known have none.
    fn find_next(&mut self, position: u64) -> Result<Option<SegmentFile>> {
        let done = self.state.file.as_ref();
        let known = self.state.listing.take().filter(|known| known.next(position, done).is_some());
        let mut listing = if let Some(known) = known { known } else { self.list()? };
        let mut gap_before = None;
        for _ in 1..LOOKS {
            let Some(next) = listing.next(position, done) else { break };
            let is_gap = position > 0 && next.first > position;
            if !is_gap || listing.is_confirmed || gap_before == Some(next.first) {
                break;
            }
            // A file that was renamed while its directory was listed may have been missed.
            gap_before = Some(next.first);
            let mut again = self.list()?;
            again.is_confirmed = again.files == listing.files;
            listing = again;
        }
        let next = listing.next(position, done).cloned();
        self.state.listing = Some(listing);
        Ok(next)
    }

    /// Notes the numbers that are missing before a file which begins with `first`.
    fn note_gap(&mut self, position: u64, first: u64) {
        if position > 0 && first > position {
            let (topic, partition) = self.sources.get(0);
            let topic = topic.clone();
            self.state.gaps.push(Gap { topic, partition, first: position, last: first - 1 });
        }
    }
}

impl Iterator for Segments {
    type Item = Result<Message>;

    #[inline]
    fn next(&mut self) -> Option<Result<Message>> {
        if let Some(message) = self.state.decoded.take_one() {
            return Some(Ok(message));
        }
        self.load().map(|()| self.state.decoded.take_one()).transpose()
    }
}

impl FusedIterator for Segments {}
