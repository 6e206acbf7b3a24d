//! The segment files of a real server in `tests/segment/files`; the README there says what they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::captures::unhex;
use crate::example::scratch;

/// Writes a partition's files to a folder, which is made.
pub fn unpack(name: &str, folder: &Path) {
    let file = crate::root().join(format!("tests/segment/files/{name}.files"));
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    fs::create_dir_all(folder).unwrap();
    for file in text.split("file ").skip(1) {
        let (name, digits) = file.split_once('\n').unwrap();
        let bytes = unhex(&digits.split_whitespace().collect::<String>()).expect("hexadecimal digits");
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// A folder with a partition's files, to be read only.
pub fn folder(name: &str) -> PathBuf {
    static UNPACKED: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());
    let mut unpacked = UNPACKED.lock().unwrap();
    if let Some((_, folder)) = unpacked.iter().find(|(known, _)| known == name) {
        return folder.clone();
    }
    let folder = scratch(&format!("segments-{name}")).with_file_name(name).join("0");
    unpack(name, &folder);
    unpacked.push((name.to_owned(), folder.clone()));
    folder
}
