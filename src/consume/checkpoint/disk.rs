//! How a checkpoint's file is replaced, with the others beside it.
//!
//! ```text
//! NAME.new complete ──> old content complete in NAME.prev ──> NAME.new renamed to NAME
//!                             │ NAME is mounted, or its owner cannot be kept
//!                             └──> NAME overwritten ──> NAME.new removed
//! ```

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::MAGIC;

/// A larger file that does not begin like a checkpoint is not one, and need not be read to its end.
const MAX_FOREIGN: u64 = 32 << 20;

/// The most bytes in a name on the usual file systems.
const MAX_FILE_NAME: usize = 255;

/// How many links may follow each other; the same as on Linux.
const MAX_LINKS: usize = 40;

/// The file, and those beside it.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) file: PathBuf,
    pub(super) new: PathBuf,
    pub(super) previous: PathBuf,
    /// What becomes the new or the previous generation.
    kept: PathBuf,
}

impl Files {
    pub(super) fn of(file: PathBuf) -> Files {
        let [new, previous, kept] = [".new", ".prev", ".prev.new"].map(|suffix| beside(&file, suffix));
        Files { file, new, previous, kept }
    }
}

/// The file's name with a suffix. All suffixes are cut to the same length, so that they still differ.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let name = file.file_name().unwrap_or_default();
    let mut longer = OsString::from(name);
    if name.len() + ".prev.new".len() > MAX_FILE_NAME {
        let text = name.to_string_lossy();
        let cut = text.char_indices().map(|(at, _)| at).take_while(|&at| at <= MAX_FILE_NAME - 20).last();
        longer = format!("{}.{:08x}", &text[..cut.unwrap_or(0)], crc32fast::hash(name.as_encoded_bytes())).into();
    }
    longer.push(suffix);
    file.with_file_name(longer)
}

/// Follows links. The file that they lead to need not exist yet.
pub(super) fn resolve(path: &Path) -> io::Result<Files> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    // A program may change its working directory later.
    let mut file = std::path::absolute(path)?;
    for _ in 0..MAX_LINKS {
        match found(fs::symlink_metadata(&file))? {
            // The target of a link is relative to the link's folder, unless it is absolute.
            Some(link) if link.is_symlink() => file = file.with_file_name(fs::read_link(&file)?),
            Some(other) if !other.is_file() => return refused("not a file"),
            _ => return Ok(Files::of(file)),
        }
    }
    refused("too many links")
}

/// Creates and removes a file, to find out now whether a save can create files.
pub(super) fn try_out(file: &Path) -> io::Result<()> {
    let tried = beside(file, ".try");
    match OpenOptions::new().write(true).create_new(true).open(&tried) {
        Ok(_) => fs::remove_file(&tried),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

fn found<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

/// The file's bytes; `None` if there is no file.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Opening a pipe would block.
    if found(fs::metadata(path))?.is_none_or(|there| !there.is_file()) {
        return Ok(None);
    }
    let mut file = File::open(path)?.take(MAX_FOREIGN);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    if bytes.starts_with(MAGIC.as_bytes()) {
        file.set_limit(u64::MAX);
        file.read_to_end(&mut bytes)?;
    }
    Ok(Some(bytes))
}

/// What a save does to files, so that tests can stop it anywhere.
pub(super) trait Disk {
    /// Creates a file with the access rights of another, if that exists, writes it and waits until it is stored. The name must
    /// be free, so that a link that somebody has put there is not followed. Returns whether the owner is the same.
    fn write(&mut self, path: &Path, bytes: &[u8], like: &Path) -> io::Result<bool>;
    /// Writes a file in its place and waits until it is stored.
    fn overwrite(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Gives a file a second name.
    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file if it is there.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
    /// Waits until the names in a file's directory are stored.
    fn sync_names(&mut self, path: &Path) -> io::Result<()>;
}

/// Replaces the file, and keeps its `old` content as the previous generation, if there is one worth keeping. At any moment the file
/// has its old or its new content, or else the new content is complete beside it.
pub(super) fn replace(disk: &mut impl Disk, files: &Files, bytes: &[u8], old: Option<&[u8]>) -> io::Result<()> {
    let Files { file, new, previous, kept } = files;
    disk.remove(kept)?;
    let replaceable = disk.write(kept, bytes, file)?;
    disk.rename(kept, new)?;
    if let Some(old) = old {
        // A second name costs no wait for the disk. But not every file system has them, a mounted file cannot have one, and that of
        // a file that is overwritten would be overwritten, too.
        if !replaceable || disk.link(file, kept).is_err() {
            disk.write(kept, old, file)?;
        }
        disk.rename(kept, previous)?;
    }
    if replaceable {
        match disk.rename(new, file) {
            Err(e) if matches!(e.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices) => {}
            done => return done.and_then(|()| disk.sync_names(file)),
        }
    }
    disk.sync_names(file)?;
    disk.overwrite(file, bytes)?;
    disk.remove(new)
}

pub(super) struct Os;

impl Disk for Os {
    fn write(&mut self, path: &Path, bytes: &[u8], like: &Path) -> io::Result<bool> {
        let like = found(fs::metadata(like))?;
        let (mut file, is_same_owner) = create_like(path, like.as_ref())?;
        match like {
            Some(like) if is_same_owner => file.set_permissions(like.permissions())?,
            _ => {}
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        if !has_name(&file, path)? {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "somebody else is saving to it"));
        }
        Ok(is_same_owner)
    }

    fn overwrite(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()
    }

    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        found(fs::remove_file(path)).map(drop)
    }

    fn sync_names(&mut self, path: &Path) -> io::Result<()> {
        // On other systems directories cannot be opened, or need not be.
        if !cfg!(unix) {
            return Ok(());
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match File::open(dir) {
            // A directory that may be written but not read: the usual file systems store the name with the file.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => File::open(path)?.sync_all(),
            dir => dir?.sync_all(),
        }
    }
}

/// Creates a file that belongs to the owner of another one, if there is another one. Returns `false` if that cannot be.
#[cfg(unix)]
fn create_like(path: &Path, like: Option<&Metadata>) -> io::Result<(File, bool)> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
    let mode = if like.is_some() { 0o600 } else { 0o666 };
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let Some(like) = like else { return Ok((file, true)) };
    let own = file.metadata()?;
    let is_same_owner =
        (own.uid(), own.gid()) == (like.uid(), like.gid()) || fchown(&file, Some(like.uid()), Some(like.gid())).is_ok();
    Ok((file, is_same_owner))
}

#[cfg(not(unix))]
fn create_like(path: &Path, _like: Option<&Metadata>) -> io::Result<(File, bool)> {
    Ok((OpenOptions::new().write(true).create_new(true).open(path)?, true))
}

/// Returns whether this is still the file of that name.
#[cfg(unix)]
fn has_name(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata()?;
    let there = fs::symlink_metadata(path)?;
    Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn has_name(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}
