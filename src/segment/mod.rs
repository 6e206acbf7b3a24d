//! Reading a partition's files, without a broker: for audits, back-ups and work offline.
//!
//! A TANK server keeps each partition in a directory of its own, `DATA/TOPIC/PARTITION`. Files named
//! `FIRST-LAST_TIME.ilog` are closed segments, the one named `FIRST_TIME.log` is being appended to; older servers leave
//! the time out. Each holds one bundle after the other, as they travel, each behind its length. The indexes beside
//! them are not needed.
//!
//! ```
//! use tank_client::segment::Segments;
//!
//! # let dir = "tests/segments/plain/0";
//! for message in Segments::open(dir)?.from(120) {
//!     let message = message?;
//!     println!("{}: {}", message.seq(), String::from_utf8_lossy(message.payload()));
//! }
//! # Ok::<(), tank_client::Error>(())
//! ```

mod file;

use std::fs::{self, File};
use std::io;
use std::iter::FusedIterator;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use file::SegmentFile;
use file::{OpenFile, range_of};

use crate::consume::Batch;
use crate::error::{Error, Result};
use crate::message::{Message, Source, Sources};
use crate::net::Block;
use crate::protocol::bundle::{Codec, Entry, MessageSet};
use crate::protocol::{DecodeError, Limits, compress};

/// How often to look again when a file is gone that was there a moment ago: a live server closes, merges and removes.
const LOOKS: u32 = 10;

/// The messages in a partition's directory, in the order of their numbers, up to where the last file ends.
///
/// Only reads, so the server that writes there may be running. If the last file ends inside a bundle, because the server
/// is at it or a copy was made meanwhile, the messages end before it, and [`cut_tail`](Segments::cut_tail) says
/// where. Anything else that is not as it should be ends it with [`Error::Corrupt`]. After one `Err` it is finished.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    limits: Limits,
    /// The next number to hand out; 0: the first there is.
    position: u64,
    file: Option<OpenFile>,
    cut_tail: Option<(PathBuf, u64)>,
    finished: bool,
    packed: Vec<u8>,
    snappy: snap::raw::Decoder,
    /// The bundle that is being handed out: its bytes, where the message set begins in them, the first entry left.
    block: Arc<Block<Sources>>,
    entries: Vec<Entry>,
    next: usize,
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
        let segments = Segments {
            dir,
            limits: Limits::default(),
            position: 0,
            file: None,
            cut_tail: None,
            finished: false,
            packed: Vec::new(),
            snappy: snap::raw::Decoder::new(),
            block: Block::new(Vec::new(), Vec::new().into()),
            entries: Vec::new(),
            next: 0,
        };
        segments.files()?;
        Ok(segments.named(topic, partition))
    }

    /// Gives the messages another topic and partition than the directory's names say.
    #[must_use]
    pub fn named(mut self, topic: impl AsRef<str>, partition: u16) -> Segments {
        let source = Source { topic: topic.as_ref().into(), partition };
        self.block = Block::new(Vec::new(), [source].into());
        self
    }

    /// Begins with this number, or the first one above it; default 0, the first there is.
    #[must_use]
    pub fn from(mut self, seq: u64) -> Segments {
        self.position = seq;
        self
    }

    /// How much a bundle may claim.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Segments {
        self.limits = limits;
        self
    }

    /// The partition's files, by their first numbers, as they are now.
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

    /// The next number to be handed out: where to begin in order to go on later. 0 as long as nothing came from the
    /// beginning.
    pub fn position(&self) -> u64 {
        self.entries.get(self.next).map_or(self.position, |entry| entry.seq)
    }

    /// Where the last file ends inside a bundle, if it does: the file, and the byte at which that bundle begins. Known
    /// once the messages have ended.
    pub fn cut_tail(&self) -> Option<(&Path, u64)> {
        self.cut_tail.as_ref().map(|(path, at)| (path.as_path(), *at))
    }

    /// The messages of the next bundle, or what [`next`](Iterator::next) has left of the present one, borrowed: no
    /// allocation, no reference counts. `Ok(None)`: finished.
    ///
    /// # Errors
    /// As the items of the iterator; it is then finished.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>> {
        if self.next == self.entries.len() && !self.load()? {
            return Ok(None);
        }
        let from = std::mem::replace(&mut self.next, self.entries.len());
        Ok(Some(self.batch(from)))
    }

    #[inline]
    fn batch(&self, from: usize) -> Batch<'_> {
        Batch { block: &self.block, source: 0, entries: &self.entries[from..] }
    }

    /// Loads the next bundle with a message that is wanted; `false` at the end.
    fn load(&mut self) -> Result<bool> {
        self.next = 0;
        self.entries.clear();
        while !self.finished {
            match self.try_load() {
                Ok(false) => {}
                done => {
                    self.finished = done.is_err();
                    return done;
                }
            }
        }
        Ok(false)
    }

    /// Goes on by a bundle or a file; whether there are messages now.
    fn try_load(&mut self) -> Result<bool> {
        let Some(file) = &mut self.file else {
            self.finished = !self.open_next()?;
            return Ok(false);
        };
        let Some(front) = file.front(&self.limits)? else {
            self.finished = !self.open_next()?;
            return Ok(false);
        };
        let header = file.header(&front, &self.limits)?;
        let (first, last) = file.advance(&front, &header)?;
        if last < self.position {
            file.pass_over(&front)?;
            return Ok(false);
        }
        let block = own(&mut self.block);
        let unpacked = if header.codec == Codec::None {
            file.body(&front, block)?;
            Ok((header.len, front.len))
        } else {
            file.body(&front, &mut self.packed)?;
            unpack(&mut self.snappy, &self.packed[header.len..front.len], &self.limits, block).map(|len| (0, len))
        };
        let decoded = unpacked.and_then(|(at, end)| {
            let bytes = &block[at..end];
            let set =
                MessageSet { bytes, at, count: header.count, first, last, sparse: header.sparse.is_some(), cut: false };
            set.decode(self.position, u64::MAX - 1, &mut self.entries)
        });
        if let Err(e) = decoded {
            self.entries.clear();
            return Err(file.corrupt(front.at, e));
        }
        self.position = last + 1;
        Ok(!self.entries.is_empty())
    }

    /// Opens the first file that may hold the position, other than the present one; `false` if there is none.
    fn open_next(&mut self) -> Result<bool> {
        for look in 1.. {
            let done = self.file.as_ref();
            // What the present file has to offer is done with, or passed over.
            let position = done.map_or(self.position, |file| self.position.max(file.next));
            let may_hold = |file: &SegmentFile| {
                // A file that brought nothing makes way for later ones, or for itself if it was closed meanwhile.
                let is_other = |done: &OpenFile| {
                    let closed = done.is.last.is_none() && file.last.is_some();
                    done.is.path != file.path && (file.first > done.is.first || position > done.opened_at || closed)
                };
                done.is_none_or(is_other) && file.last.is_none_or(|last| last >= position)
            };
            let files = self.files()?;
            // Not the first one of all: there may be another, of a later beginning, that is being appended to.
            let before = files.iter().rev().filter(|file| may_hold(file)).find(|file| file.first <= position);
            let next = before.or_else(|| files.iter().find(|file| may_hold(file) && file.first > position));
            let Some(next) = next else {
                self.cut_tail = done.filter(|file| file.at < file.len).map(|file| (file.is.path.clone(), file.at));
                return Ok(false);
            };
            if let Some(done) = done.filter(|done| done.is.first != next.first) {
                done.check_end()?;
            }
            match File::open(&next.path) {
                Ok(file) => {
                    self.file = Some(OpenFile::new(next.clone(), file, position));
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound && look < LOOKS => {}
                Err(e) => return Err(Error::file(&next.path, e)),
            }
        }
        Ok(false)
    }
}

/// The block's memory for a bundle: a new one if messages still share the old one.
fn own(block: &mut Arc<Block<Sources>>) -> &mut Vec<u8> {
    if Arc::get_mut(block).is_none() {
        *block = Block::new(Vec::new(), block.tag.clone());
    }
    // Just made ours alone.
    &mut Arc::get_mut(block).unwrap_or_else(|| unreachable!("a block that nobody shares")).bytes
}

/// Decompresses to the front of `out`; the length.
fn unpack(
    snappy: &mut snap::raw::Decoder,
    packed: &[u8],
    limits: &Limits,
    out: &mut Vec<u8>,
) -> std::result::Result<usize, DecodeError> {
    let len = compress::decompressed_len(packed, limits.message_set, 0)?;
    if out.len() < len {
        out.resize(len, 0);
    }
    compress::decompress(snappy, packed, &mut out[..len], 0)?;
    Ok(len)
}

impl Iterator for Segments {
    type Item = Result<Message>;

    #[inline]
    fn next(&mut self) -> Option<Result<Message>> {
        if self.next == self.entries.len() {
            match self.load() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => return Some(Err(e)),
            }
        }
        let message = self.batch(self.next).get(0)?.to_message();
        self.next += 1;
        Some(Ok(message))
    }
}

impl FusedIterator for Segments {}
