//! Positions that outlive the process: a small file, replaced as a whole.
//!
//! Magic, version (`u16`), number of entries (`u32`), for each the topic (`str8`), partition (`u16`) and next number
//! (`u64`), then the CRC32 of all before it. Every later version must keep the magic, the version's place and the CRC32
//! at the end, so that a newer file can be told from a torn one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::position::{Position, Positions};
use crate::error::{CheckpointFault, Error, Result};
use crate::protocol::DecodeError;
use crate::protocol::cursor::{Cursor, put_topic};

const MAGIC: &[u8; 8] = b"TANKCKPT";
const VERSION: u16 = 1;

/// Magic, version and count; the checksum.
const HEAD: usize = 8 + 2 + 4;
const TAIL: usize = 4;

/// Larger than 65,535 partitions with the longest names: what is larger is no checkpoint.
const MAX_BYTES: u64 = 32 << 20;

/// A file that keeps the positions of a subscription, so that a program continues where it was after it ended or was killed.
///
/// Process the messages first, then [`save`](Checkpoint::save) the positions: what came after the last save comes again
/// after a crash, and nothing is lost. A save replaces the file in one step. Killing the process or the machine in the
/// middle of it leaves the file as it was before; the generation before is kept beside it as `NAME.prev`.
///
/// One process at a time may save to a file. New partitions, of which it knows nothing yet, begin where the subscription
/// says: give it [`Start::Earliest`](crate::Start::Earliest), or their first messages are missed.
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
///     let mut orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest).resume(&checkpoint))?;
///     let order = orders.next().unwrap()?;
///     assert_eq!(order.payload(), expected.as_bytes());
///     checkpoint.save(&orders.positions())?;
/// }
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    positions: Positions,
    /// Whether the file is intact, and so worth keeping as the previous generation.
    intact: bool,
}

impl Checkpoint {
    /// Reads the file; it is empty, and made by the first save, if there is none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that is torn, is no checkpoint, was written by a newer version of this crate,
    /// or is gone while its previous generation is there; [`Error::File`] if it cannot be read. Nothing is changed
    /// then: look at [`open_previous`](Checkpoint::open_previous), or remove both files to start over.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let found = match read(path)? {
            Some(bytes) => decode(&bytes),
            None if with_suffix(path, PREVIOUS).exists() => Err(CheckpointFault::Missing),
            None => return Ok(Checkpoint { path: path.into(), positions: Positions::default(), intact: false }),
        };
        match found {
            Ok(positions) => Ok(Checkpoint { path: path.into(), positions, intact: true }),
            Err(fault) => {
                let previous = matches!(read(&with_suffix(path, PREVIOUS)), Ok(Some(bytes)) if decode(&bytes).is_ok());
                Err(Error::Checkpoint { path: path.into(), fault, previous })
            }
        }
    }

    /// Reads the generation before the last save, of the same file: a way out when [`open`](Checkpoint::open) fails.
    /// What was processed since then is delivered again. It stays the previous generation until the second save from
    /// here on.
    ///
    /// # Errors
    /// As [`open`](Checkpoint::open), about the previous generation; [`Error::File`] if there is none.
    pub fn open_previous(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let previous = with_suffix(path.as_ref(), PREVIOUS);
        let bytes = read(&previous)?.ok_or_else(|| Error::file(&previous, io::ErrorKind::NotFound.into()))?;
        match decode(&bytes) {
            Ok(positions) => Ok(Checkpoint { path: path.as_ref().into(), positions, intact: false }),
            Err(fault) => Err(Error::Checkpoint { path: previous, fault, previous: false }),
        }
    }

    /// The file it is kept in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was read or saved last.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Saves these positions and keeps those it has of other partitions. The file is on the disk when this returns;
    /// nothing is written if nothing changed.
    ///
    /// # Errors
    /// [`Error::File`]; the file then holds either what it held before or what was to be saved. [`Error::Config`] for a
    /// topic name that is empty or longer than 255 bytes.
    pub fn save(&mut self, positions: &Positions) -> Result<()> {
        let mut merged = self.positions.clone();
        merged.set_all(positions.iter().cloned());
        if self.intact && merged == self.positions {
            return Ok(());
        }
        let bytes = encode(&merged)?;
        replace(&mut Os, &self.path, &bytes, self.intact).map_err(|e| Error::file(&self.path, e))?;
        self.positions = merged;
        self.intact = true;
        Ok(())
    }
}

const PREVIOUS: &str = ".prev";

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The file's bytes; `None` if there is no file.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file(path, e)),
    }
}

fn encode(positions: &Positions) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(positions.iter().len() as u32).to_le_bytes());
    for position in positions {
        put_topic(&position.topic, &mut out)?;
        out.extend_from_slice(&position.partition.to_le_bytes());
        out.extend_from_slice(&position.seq.to_le_bytes());
    }
    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    Ok(out)
}

fn decode(bytes: &[u8]) -> std::result::Result<Positions, CheckpointFault> {
    let torn = MAGIC.starts_with(bytes) || bytes.iter().all(|&byte| byte == 0);
    if !torn && (!bytes.starts_with(MAGIC) || bytes.len() as u64 > MAX_BYTES) {
        return Err(CheckpointFault::Foreign);
    }
    if torn || bytes.len() < HEAD + TAIL {
        return Err(CheckpointFault::Torn);
    }
    let (content, checksum) = bytes.split_at(bytes.len() - TAIL);
    if crc32fast::hash(content).to_le_bytes() != checksum {
        return Err(CheckpointFault::Torn);
    }
    let version = u16::from_le_bytes([content[MAGIC.len()], content[MAGIC.len() + 1]]);
    if version > VERSION {
        return Err(CheckpointFault::Newer { version, known: VERSION });
    }
    // The checksum holds: what does not parse was written by somebody else.
    let parsed = entries(&content[MAGIC.len() + 2..]).ok().filter(|_| version == VERSION);
    parsed.ok_or(CheckpointFault::Foreign)
}

fn entries(bytes: &[u8]) -> std::result::Result<Positions, DecodeError> {
    let mut cursor = Cursor::new(bytes, 0);
    let mut all = Vec::new();
    for _ in 0..cursor.u32("entries")? {
        let topic = cursor.text("topic")?.into();
        all.push(Position { topic, partition: cursor.u16("partition")?, seq: cursor.u64("next number")? });
    }
    cursor.finish("checkpoint")?;
    let mut positions = Positions::default();
    positions.set_all(all.into_iter());
    Ok(positions)
}

/// What a save does to files, so that tests can stop it anywhere.
trait Disk {
    /// Makes or empties a file, writes it and waits until it is stored.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Gives a file one more name.
    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file if it is there.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
    /// Waits until the names in a file's directory are stored.
    fn sync_names(&mut self, path: &Path) -> io::Result<()>;
}

/// Replaces the file at `path`, which is there with its old or its new content at any moment.
fn replace(disk: &mut impl Disk, path: &Path, bytes: &[u8], keep: bool) -> io::Result<()> {
    let [new, kept, previous] = [".new", ".prev.new", PREVIOUS].map(|suffix| with_suffix(path, suffix));
    disk.write(&new, bytes)?;
    if keep {
        disk.remove(&kept)?;
        disk.link(path, &kept)?;
        disk.rename(&kept, &previous)?;
    }
    disk.rename(&new, path)?;
    disk.sync_names(path)
}

struct Os;

impl Disk for Os {
    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        // Not every file system has hard links.
        fs::hard_link(from, to).or_else(|_| self.write(to, &fs::read(from)?))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn sync_names(&mut self, path: &Path) -> io::Result<()> {
        // Elsewhere directories cannot be opened, or need not be.
        if !cfg!(unix) {
            return Ok(());
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests;
