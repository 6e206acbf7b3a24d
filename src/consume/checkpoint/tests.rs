use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tank-checkpoint-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn file(&self) -> PathBuf {
        self.0.join("orders.checkpoint")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn positions(list: &[(&str, u16, u64)]) -> Positions {
    let mut positions = Positions::default();
    list.iter().for_each(|&(topic, partition, seq)| positions.set(topic, partition, seq));
    positions
}

/// A generation that differs from all others, in length too.
fn generation(n: u64) -> Positions {
    let mut all = positions(&[("orders", 0, n), ("clicks", 65_534, u64::MAX - n)]);
    (0..n).for_each(|extra| all.set(&"x".repeat(extra as usize + 1), 7, 0));
    all
}

fn fault(opened: Result<Checkpoint>) -> (CheckpointFault, bool) {
    match opened.unwrap_err() {
        Error::Checkpoint { fault, previous, .. } => (fault, previous),
        other => panic!("{other}"),
    }
}

#[test]
fn saves_come_back_and_other_partitions_stay() {
    let dir = Dir::new();
    let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
    assert_eq!((checkpoint.positions(), checkpoint.path()), (&Positions::default(), &*dir.file()));
    assert!(!dir.file().exists(), "opening writes nothing");
    checkpoint.save(&positions(&[("a", 0, 1), ("b", 3, u64::MAX)])).unwrap();
    checkpoint.save(&positions(&[("a", 0, 2), ("a", 1, 0)])).unwrap();
    let expected = positions(&[("a", 0, 2), ("b", 3, u64::MAX), ("a", 1, 0)]);
    assert_eq!(checkpoint.positions(), &expected);
    assert_eq!(Checkpoint::open(dir.file()).unwrap().positions(), &expected);
    let before = Checkpoint::open_previous(dir.file()).unwrap();
    assert_eq!(before.positions(), &positions(&[("a", 0, 1), ("b", 3, u64::MAX)]));
    checkpoint.save(&positions(&[("a", 1, 0)])).unwrap();
    assert_eq!(Checkpoint::open_previous(dir.file()).unwrap().positions(), before.positions(), "nothing changed");
    let mut names: Vec<_> = fs::read_dir(&dir.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["orders.checkpoint", "orders.checkpoint.prev"]);
}

#[test]
fn a_file_cut_or_changed_anywhere_is_torn_and_the_previous_one_is_offered() {
    let dir = Dir::new();
    let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
    checkpoint.save(&generation(1)).unwrap();
    checkpoint.save(&generation(2)).unwrap();
    let whole = fs::read(dir.file()).unwrap();
    for cut in 0..whole.len() {
        fs::write(dir.file(), &whole[..cut]).unwrap();
        assert_eq!(fault(Checkpoint::open(dir.file())), (CheckpointFault::Torn, true), "cut at {cut}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(dir.file(), &bytes).unwrap();
        let expected = if at < MAGIC.len() { CheckpointFault::Foreign } else { CheckpointFault::Torn };
        assert_eq!(fault(Checkpoint::open(dir.file())), (expected, true), "changed at {at}");
    }
    fs::write(dir.file(), [&whole[..], &[0]].concat()).unwrap();
    assert_eq!(fault(Checkpoint::open(dir.file())).0, CheckpointFault::Torn);
    fs::write(dir.file(), vec![0; whole.len()]).unwrap();
    assert_eq!(fault(Checkpoint::open(dir.file())).0, CheckpointFault::Torn, "what a crash leaves of a file at times");

    // Going on with the previous generation keeps it until there are two good ones again.
    let mut older = Checkpoint::open_previous(dir.file()).unwrap();
    assert_eq!(older.positions(), &generation(1));
    older.save(&generation(3)).unwrap();
    assert_eq!(Checkpoint::open(dir.file()).unwrap().positions(), older.positions());
    assert_eq!(Checkpoint::open_previous(dir.file()).unwrap().positions(), &generation(1));
}

#[test]
fn foreign_newer_and_missing_files_are_told_apart() {
    let dir = Dir::new();
    for foreign in ["x", "orders 0 17\n", "TANKCKPX and more of it"] {
        fs::write(dir.file(), foreign).unwrap();
        assert_eq!(fault(Checkpoint::open(dir.file())), (CheckpointFault::Foreign, false));
    }
    let sealed = |content: &[u8]| [content, &crc32fast::hash(content).to_le_bytes()].concat();
    let newer = [MAGIC, &[2, 0][..], b"what will it be"].concat();
    fs::write(dir.file(), sealed(&newer)).unwrap();
    let e = Checkpoint::open(dir.file()).unwrap_err();
    assert!(e.to_string().ends_with("a checkpoint of version 2, this program knows 1"), "{e}");
    assert_eq!(fault(Err(e)), (CheckpointFault::Newer { version: 2, known: 1 }, false));
    for content in [&[1, 0, 1, 0, 0, 0, 0][..], &[1, 0, 0, 0, 0, 0, 9], &[0, 0, 0, 0, 0, 0]] {
        fs::write(dir.file(), sealed(&[MAGIC, content].concat())).unwrap();
        assert_eq!(fault(Checkpoint::open(dir.file())).0, CheckpointFault::Foreign, "{content:?}");
    }
    fs::remove_file(dir.file()).unwrap();
    assert!(matches!(Checkpoint::open_previous(dir.file()), Err(Error::File { .. })));
    let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
    checkpoint.save(&generation(1)).unwrap();
    checkpoint.save(&generation(2)).unwrap();
    fs::remove_file(dir.file()).unwrap();
    let e = Checkpoint::open(dir.file()).unwrap_err();
    assert!(e.to_string().ends_with("previous generation; its previous generation is intact"), "{e}");
    assert_eq!(fault(Err(e)), (CheckpointFault::Missing, true));
    assert!(matches!(Checkpoint::open(&dir.0), Err(Error::File { .. })), "a directory");
    assert!(matches!(Checkpoint::open(dir.0.join("no/where")).unwrap().save(&generation(1)), Err(Error::File { .. })));
}

/// A disk that loses, when the machine stops, what was not stored: it knows the content of files and, apart from that,
/// which names were given and which of that is stored.
#[derive(Clone, Default)]
struct Model {
    files: Vec<Vec<u8>>,
    names: BTreeMap<PathBuf, usize>,
    /// The names as they are stored, and all states they went through since.
    stored: Vec<BTreeMap<PathBuf, usize>>,
    /// Operations until the process is killed, and how many bytes a write gets done by then.
    left: usize,
    cut: usize,
}

impl Model {
    fn step(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::Other)?;
        Ok(())
    }

    fn named(&mut self) {
        self.stored.push(self.names.clone());
    }
}

impl Disk for Model {
    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.names.insert(path.into(), self.files.len());
        self.named();
        let done = self.step();
        self.files.push(if done.is_ok() { bytes.to_vec() } else { bytes[..self.cut.min(bytes.len())].to_vec() });
        done
    }

    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        assert!(!self.names.contains_key(to), "a link must not replace anything");
        self.names.insert(to.into(), self.names[from]);
        self.named();
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        // Two names of one file: POSIX says nothing happens.
        if self.names.get(from) != self.names.get(to) {
            let file = self.names.remove(from).unwrap();
            self.names.insert(to.into(), file);
        }
        self.named();
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.names.remove(path);
        self.named();
        Ok(())
    }

    fn sync_names(&mut self, _: &Path) -> io::Result<()> {
        self.step()?;
        self.stored.clear();
        self.named();
        Ok(())
    }
}

#[test]
fn a_save_stopped_anywhere_loses_at_most_itself() {
    let bytes = |n| encode(&generation(n)).unwrap();
    let save = |disk: &mut Model, n| replace(disk, Path::new("c"), &bytes(n), disk.names.contains_key(Path::new("c")));
    let found = |names: &BTreeMap<PathBuf, usize>, files: &[Vec<u8>], name| {
        let bytes = names.get(Path::new(name)).map(|&file| decode(&files[file]).unwrap());
        bytes.map_or(0, |positions| positions.get("orders", 0).unwrap())
    };
    // Every save so far was stopped somewhere or done, and the next one is. Which one was the last to be done?
    let mut states = vec![(Model::default(), 0)];
    for n in 1..4 {
        let mut next: Vec<(Model, u64)> = Vec::new();
        for (before, floor) in states {
            let visible = found(&before.names, &before.files, "c");
            for left in 0..7 {
                let cuts = if left == 0 { bytes(n).len() + 1 } else { 1 };
                for cut in 0..cuts {
                    let mut disk = Model { left, cut, ..before.clone() };
                    let done = save(&mut disk, n).is_ok();
                    // The process was killed: the names are as it left them.
                    let now = found(&disk.names, &disk.files, "c");
                    assert!(now == n || now == visible && !done, "{visible}, save {n}: {now} after {left} steps");
                    let floor = if done { n } else { floor };
                    // The machine stopped: the names are as they were at some moment since they were stored.
                    for names in &disk.stored {
                        let (now, previous) = (found(names, &disk.files, "c"), found(names, &disk.files, "c.prev"));
                        assert!(now >= floor, "save {n}: {now} after {left} steps, {floor} was done");
                        assert!(previous <= now);
                    }
                    // Of the cuts, a few are enough to continue from.
                    if cuts == 1 || cut % 16 == 0 {
                        next.push((disk, floor));
                    }
                }
            }
        }
        states = next;
    }
    assert!(states.len() > 500, "{}", states.len());
}

#[test]
fn the_real_files_change_as_the_model_says() {
    let dir = Dir::new();
    let path = dir.file();
    for n in 1..5 {
        replace(&mut Os, &path, &encode(&generation(n)).unwrap(), n > 1).unwrap();
        assert_eq!(decode(&fs::read(&path).unwrap()).unwrap(), generation(n));
        let previous = read(&with_suffix(&path, PREVIOUS)).unwrap();
        assert_eq!(previous.map(|bytes| decode(&bytes).unwrap()), (n > 1).then(|| generation(n - 1)));
    }
    // Left over from a save that was stopped between the two renames.
    fs::hard_link(&path, with_suffix(&path, ".prev.new")).unwrap();
    fs::write(with_suffix(&path, ".new"), "half").unwrap();
    replace(&mut Os, &path, &encode(&generation(5)).unwrap(), true).unwrap();
    assert_eq!(decode(&fs::read(&path).unwrap()).unwrap(), generation(5));
}
