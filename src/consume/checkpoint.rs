//! Positions that outlive the process: a small file, replaced as a whole.
//!
//! One line: magic, version, the positions in their usual text form, and the CRC-32 of everything before the last space, in
//! eight hexadecimal digits. Every later version must keep the magic, the place of the version and the CRC-32 at the end, so
//! that a newer file can be told from a torn one.
//!
//! ```text
//! TANKCKPT 2 orders/0=17 orders/1=4 0c9d3a5e
//! ```

mod disk;

use std::io;
use std::path::{Path, PathBuf};

use disk::{Files, Os, read, replace, resolve, try_out};

use super::position::Positions;
use crate::error::{Error, ErrorKind, Result};
use crate::message::check_topic;

const MAGIC: &str = "TANKCKPT ";
const VERSION: u16 = 2;

/// A file that keeps the positions of a subscription, so that a program that ended or was killed can continue where it was.
///
/// Process the messages first, then [`save`](Checkpoint::save) the positions. After a crash, messages that came after the last
/// save are delivered again, and none is lost. A save replaces the file in one step and keeps its owner and mode. If the process
/// or the machine is killed during a save, the file holds the old positions or the new ones. The previous generation is kept as
/// `NAME.prev`.
///
/// Links are followed when the file is opened, and a relative path is resolved against the working directory at that moment. A
/// file that cannot be replaced, because it is a mount point or belongs to another user, is overwritten; until that is done,
/// the new content is also kept as `NAME.new`. (It is better to mount the folder.) If `NAME` is too long for a suffix, the
/// names of these two files are shortened and get a checksum.
///
/// Only one process at a time may save to a file; if another one has saved since, that is an error. Partitions that are not in
/// the file begin where the subscription says: give it [`Start::Earliest`](crate::Start::Earliest), or their first messages
/// are missed.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("checkpoint-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # let path = dir.join("orders.checkpoint");
/// use tank_client::broker::Broker;
/// use tank_client::{Checkpoint, Client, Start, Subscription};
///
/// let broker = Broker::start()?;
/// broker.create_topic("orders", 1);
/// broker.append_payloads("orders", 0, &["tea", "milk", "bread"]);
/// let client = Client::connect(broker.addr())?;
///
/// for expected in ["tea", "milk", "bread"] {
///     let mut checkpoint = Checkpoint::open(&path)?;
///     let mut orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest).resume(checkpoint.positions()))?;
///     let order = orders.next().unwrap()?;
///     assert_eq!(order.payload(), expected.as_bytes());
///     checkpoint.save(&orders.positions())?;
/// }
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a checkpoint does nothing by itself: resume from it and save to it"]
pub struct Checkpoint {
    path: PathBuf,
    /// The file that the links lead to, and those beside it.
    files: Files,
    positions: Positions,
    /// The contents of the file, if any, when it was last read or saved; `None` if unknown after a save that failed.
    seen: Option<Option<Vec<u8>>>,
    /// Whether these are intact, and so worth keeping as the previous generation.
    intact: bool,
}

impl Checkpoint {
    /// Reads the file, and checks that files can be created in its folder. If there is no such file, the checkpoint is empty
    /// and the first save creates it.
    ///
    /// # Errors
    /// [`Checkpoint`](crate::ErrorKind::Checkpoint) for a file that is torn, is not a checkpoint, was written by a newer version
    /// of this crate, or is gone while its previous generation exists; [`File`](crate::ErrorKind::File) if it cannot be read,
    /// or no file can be created in its folder. Nothing is changed then: try [`open_previous`](Checkpoint::open_previous), or
    /// remove both files to start over.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let opened = Checkpoint::look(path.as_ref())?;
        let decoded = |path: &Path| read(path).map(|bytes| bytes.map(|bytes| decode(&bytes)));
        let seen = opened.seen.as_ref().and_then(Option::as_deref);
        let reason = match seen.map(decode) {
            Some(Ok(positions)) => return Ok(Checkpoint { positions, intact: true, ..opened }),
            Some(Err(reason)) => reason,
            None => MISSING.into(),
        };
        // A save that overwrites was stopped: its content is complete in the file beside it.
        if reason == TORN {
            if let Ok(Some(Ok(positions))) = decoded(&opened.files.new) {
                return Ok(Checkpoint { positions, ..opened });
            }
        }
        match decoded(&opened.files.previous) {
            // An empty file was created as a mount point.
            Ok(None) if seen.is_none_or(<[u8]>::is_empty) => Ok(opened),
            previous => Err(unusable(&opened.path, &reason, matches!(previous, Ok(Some(Ok(_)))))),
        }
    }

    /// Reads the generation before the last save of the same file: a way out when [`open`](Checkpoint::open) fails. Messages
    /// that were processed since then are delivered again. It stays the previous generation until the second save after this.
    ///
    /// # Errors
    /// Those of [`open`](Checkpoint::open), about the previous generation; [`File`](crate::ErrorKind::File) if there is none.
    pub fn open_previous(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let opened = Checkpoint::look(path.as_ref())?;
        let none = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        let bytes = read(&opened.files.previous).and_then(|bytes| bytes.ok_or_else(none));
        match decode(&bytes.map_err(|e| Error::file(&opened.files.previous, e))?) {
            Ok(positions) => Ok(Checkpoint { positions, ..opened }),
            Err(reason) => Err(unusable(&opened.files.previous, &reason, false)),
        }
    }

    /// Finds its files, and reads the first of them without decoding it.
    fn look(path: &Path) -> Result<Checkpoint> {
        let look = || {
            let files = resolve(path)?;
            let seen = Some(read(&files.file)?);
            try_out(&files.file)?;
            Ok(Checkpoint { path: path.into(), files, positions: Positions::default(), seen, intact: false })
        };
        look().map_err(|e| Error::file(path, e))
    }

    /// Returns the file it is kept in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what was read or saved last.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Saves these positions, and keeps those of other partitions. The file is on the disk when this returns. Nothing is
    /// written if nothing changed. A file that was removed in the meantime is created again.
    ///
    /// # Errors
    /// [`File`](crate::ErrorKind::File) if it cannot be written; the file then holds either the old positions or the new ones.
    /// [`Checkpoint`](crate::ErrorKind::Checkpoint) if something else has changed the file, which is then left as it is.
    /// [`Config`](crate::ErrorKind::Config) for a topic name that is empty or longer than 255 bytes.
    pub fn save(&mut self, positions: &Positions) -> Result<()> {
        let now = read(&self.files.file).map_err(|e| Error::file(&self.path, e))?;
        if now.is_some() && self.seen.as_ref().is_some_and(|seen| now != *seen) {
            return Err(unusable(&self.path, CHANGED, false));
        }
        let mut merged = self.positions.clone();
        merged.extend(positions.iter().cloned());
        let old = if self.intact { now } else { None };
        if old.is_some() && merged == self.positions {
            return Ok(());
        }
        let bytes = encode(&merged)?;
        if let Err(e) = replace(&mut Os, &self.files, &bytes, old.as_deref()) {
            // The file may now be the old one, the new one, half of each, or out of reach.
            self.seen = read(&self.files.file).ok().flatten().map(Some);
            self.intact = false;
            return Err(Error::file(&self.path, e));
        }
        self.seen = Some(Some(bytes));
        self.intact = true;
        self.positions = merged;
        Ok(())
    }
}

fn encode(positions: &Positions) -> Result<Vec<u8>> {
    for position in positions {
        check_topic(&position.topic)?;
    }
    let content = format!("{MAGIC}{VERSION} {positions}");
    Ok(format!("{content} {}\n", checksum_of(&content)).into())
}

fn checksum_of(content: &str) -> String {
    format!("{:08x}", crc32fast::hash(content.as_bytes()))
}

const TORN: &str = "a torn or damaged checkpoint";
const FOREIGN: &str = "not a checkpoint";
const MISSING: &str = "the checkpoint is gone, although it was saved before";
const CHANGED: &str =
    "the checkpoint was changed by somebody else since it was opened; one program at a time may save to it";

fn unusable(path: &Path, reason: &str, previous: bool) -> Error {
    Error::new(ErrorKind::Checkpoint { reason: reason.into(), previous }).in_file(path)
}

/// Reads the positions.
///
/// # Errors
/// What is wrong with the file.
fn decode(bytes: &[u8]) -> Result<Positions, String> {
    let whole = std::str::from_utf8(bytes).ok().and_then(|text| {
        let (content, checksum) = text.strip_suffix('\n')?.rsplit_once(' ')?;
        let rest = content.strip_prefix(MAGIC)?;
        (checksum == checksum_of(content)).then_some(rest)
    });
    let Some(rest) = whole else {
        let magic = MAGIC.as_bytes();
        let is_ours = bytes.starts_with(magic) || magic.starts_with(bytes) || bytes.iter().all(|&byte| byte == 0);
        return Err(if is_ours { TORN } else { FOREIGN }.into());
    };
    // The checksum is right, so what does not parse was written by another program.
    let (version, positions) = rest.split_once(' ').ok_or(FOREIGN)?;
    match version.parse() {
        Ok(VERSION) => positions.parse().map_err(|_| FOREIGN.into()),
        Ok(version) if version > VERSION => {
            Err(format!("a checkpoint of version {version} (this program knows {VERSION})"))
        }
        _ => Err(FOREIGN.into()),
    }
}

#[cfg(test)]
mod tests;
