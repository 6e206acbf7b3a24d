use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use common::watch::within;

use super::disk::Disk;
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

#[test]
fn a_relative_path_is_that_of_the_folder_it_was_opened_in() {
    let opened = Checkpoint::open("no-such.checkpoint").unwrap();
    assert_eq!(opened.files.file, std::env::current_dir().unwrap().join("no-such.checkpoint"));
    assert_eq!(opened.path(), Path::new("no-such.checkpoint"));
    assert!(Checkpoint::open("").is_err());
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

fn fault(opened: Result<Checkpoint>) -> (String, bool) {
    match opened.unwrap_err().kind {
        ErrorKind::Checkpoint { reason, previous } => (reason, previous),
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
        assert_eq!(fault(Checkpoint::open(dir.file())), (TORN.to_owned(), true), "cut at {cut}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(dir.file(), &bytes).unwrap();
        let expected = if at < MAGIC.len() { FOREIGN } else { TORN }.to_owned();
        assert_eq!(fault(Checkpoint::open(dir.file())), (expected, true), "changed at {at}");
    }
    fs::write(dir.file(), [&whole[..], &[0]].concat()).unwrap();
    assert_eq!(fault(Checkpoint::open(dir.file())).0, TORN.to_owned());
    fs::write(dir.file(), vec![0; whole.len()]).unwrap();
    assert_eq!(fault(Checkpoint::open(dir.file())).0, TORN.to_owned(), "what a crash leaves of a file at times");

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
    for foreign in ["x", "orders 0 17\n", "TANKCKPX and more of it", "TANKCKPT\x01\0"] {
        fs::write(dir.file(), foreign).unwrap();
        assert_eq!(fault(Checkpoint::open(dir.file())), (FOREIGN.to_owned(), false));
    }
    let sealed = |rest: &str| {
        let content = format!("{MAGIC}{rest}");
        format!("{content} {}\n", checksum_of(&content))
    };
    fs::write(dir.file(), sealed("3 what will it be")).unwrap();
    let e = Checkpoint::open(dir.file()).unwrap_err();
    assert!(e.to_string().ends_with("a checkpoint of version 3 (this program knows 2)"), "{e}");
    assert_eq!(fault(Err(e)), ("a checkpoint of version 3 (this program knows 2)".to_owned(), false));
    for rest in ["", "2", "1 a/0=1", "x a/0=1", "2 a/0", "2 a/0=1 a/0=2", "2 /0=1"] {
        fs::write(dir.file(), sealed(rest)).unwrap();
        assert_eq!(fault(Checkpoint::open(dir.file())).0, FOREIGN.to_owned(), "{rest:?}");
    }
    let whole = sealed("2 a/0=1 b%20c/7=2");
    fs::write(dir.file(), &whole).unwrap();
    assert_eq!(*Checkpoint::open(dir.file()).unwrap().positions(), positions(&[("a", 0, 1), ("b c", 7, 2)]));
    for torn in [&whole[..9], "TANKCKPT 2", "TANKCKPT 2\n", &whole.to_uppercase(), &whole.replace('2', "3")] {
        fs::write(dir.file(), torn).unwrap();
        assert_eq!(fault(Checkpoint::open(dir.file())).0, TORN.to_owned(), "{torn:?}");
    }
    fs::remove_file(dir.file()).unwrap();
    assert!(matches!(Checkpoint::open_previous(dir.file()), Err(Error { kind: ErrorKind::File, .. })));
    let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
    checkpoint.save(&generation(1)).unwrap();
    checkpoint.save(&generation(2)).unwrap();
    fs::remove_file(dir.file()).unwrap();
    let e = Checkpoint::open(dir.file()).unwrap_err();
    assert!(e.to_string().ends_with("was saved before; its previous generation is intact"), "{e}");
    assert_eq!(fault(Err(e)), (MISSING.to_owned(), true));
    assert!(matches!(Checkpoint::open(&dir.0), Err(Error { kind: ErrorKind::File, .. })), "a directory");
}

/// A disk that loses, when the machine stops, what was not stored: it knows the content of files and, apart from that,
/// which names were given and which of that is stored.
#[derive(Clone, Default)]
struct Model {
    files: Vec<Vec<u8>>,
    names: BTreeMap<PathBuf, usize>,
    /// The names as they are stored, and all states they went through since.
    stored: Vec<BTreeMap<PathBuf, usize>>,
    /// Nothing can be renamed to the checkpoint, for this reason, and it can have no second name: it is mounted, say.
    refused: Option<io::ErrorKind>,
    /// Operations until the process is killed, how many bytes a write gets done by then, and whether one was at it.
    left: usize,
    cut: usize,
    was_cut: bool,
}

impl Model {
    fn step(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::Other)?;
        Ok(())
    }

    /// How many of these bytes are written, and whether all are.
    fn write_step(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let done = self.step();
        self.was_cut |= done.is_err();
        (if done.is_ok() { bytes.len() } else { self.cut.min(bytes.len()) }, done)
    }

    fn named(&mut self) {
        self.stored.push(self.names.clone());
    }

    /// What opening the checkpoint finds: the first file, or else what was to be saved.
    fn reads(&self, names: &BTreeMap<PathBuf, usize>) -> Option<u64> {
        let number = |name| {
            let positions = decode(&self.files[*names.get(Path::new(name))?]).ok()?;
            positions.get("orders", 0)
        };
        number("c").or_else(|| number("c.new"))
    }

    /// Everything that later saves and stops depend on.
    fn content(&self) -> Vec<Vec<(PathBuf, Vec<u8>)>> {
        let content = |(name, &file): (&PathBuf, &usize)| (name.clone(), self.files[file].clone());
        let mut states: Vec<_> = self.stored.iter().map(|names| names.iter().map(content).collect()).collect();
        states.dedup();
        states.push(self.names.iter().map(content).collect());
        states
    }

    fn save(&mut self, n: u64) -> bool {
        let old = self.names.get(Path::new("c")).map(|&file| self.files[file].clone());
        let old = old.filter(|bytes| decode(bytes).is_ok());
        replace(self, &Files::of("c".into()), &encode(&generation(n)).unwrap(), old.as_deref()).is_ok()
    }
}

impl Disk for Model {
    fn write(&mut self, path: &Path, bytes: &[u8], _: &Path) -> io::Result<bool> {
        assert!(!self.names.contains_key(path), "what is there must not be followed");
        self.names.insert(path.into(), self.files.len());
        self.named();
        let (written, done) = self.write_step(bytes);
        self.files.push(bytes[..written].to_vec());
        done.map(|()| true)
    }

    fn overwrite(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.names[path];
        let (written, done) = self.write_step(bytes);
        let rest = if done.is_ok() { &[] } else { self.files[file].get(written..).unwrap_or_default() };
        self.files[file] = [&bytes[..written], rest].concat();
        done
    }

    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if let Some(reason) = self.refused {
            return Err(reason.into());
        }
        self.step()?;
        let file = self.names[from];
        assert!(self.names.insert(to.into(), file).is_none(), "what is there must not be replaced");
        self.named();
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        if let Some(reason) = self.refused.filter(|_| to == Path::new("c")) {
            return Err(reason.into());
        }
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

/// Stops saves anywhere, one after the other. Returns how many states of the disk were gone through.
fn stop_saves(disk: Model) -> usize {
    // Every save so far was stopped somewhere or done, and the next one is. Which one was the last to be done?
    let mut states = vec![(disk, 0)];
    for n in 1..4 {
        let mut next: Vec<(Model, u64)> = Vec::new();
        let mut known = BTreeSet::new();
        for (before, floor) in states {
            let visible = before.reads(&before.names).unwrap_or(0);
            for left in 0..14 {
                // Cut anywhere the first time, then here and there.
                for cut in (0..).step_by(if n == 1 { 1 } else { 16 }) {
                    let mut disk = Model { left, cut, was_cut: false, ..before.clone() };
                    let done = disk.save(n);
                    // The process was killed: the names are as it left them.
                    let now = disk.reads(&disk.names).unwrap_or(0);
                    assert!(now == n || now == visible && !done, "{visible}, save {n}: {now} after {left} steps");
                    let floor = if done { n } else { floor };
                    // The machine stopped: the names are as they were at some moment since they were stored.
                    for names in &disk.stored {
                        let now = disk.reads(names).unwrap_or(0);
                        assert!(now >= floor, "save {n}: {now} after {left} steps, {floor} was done");
                        let previous = names.get(Path::new("c.prev")).map(|&file| decode(&disk.files[file]).unwrap());
                        assert!(previous.is_none_or(|before| before.get("orders", 0).unwrap() <= now));
                    }
                    // Of the cuts, a few are enough to continue from.
                    let was_cut = disk.was_cut;
                    if (!was_cut || cut % 32 == 0) && known.insert((floor, disk.content())) {
                        next.push((disk, floor));
                    }
                    if !was_cut || cut > 200 {
                        break;
                    }
                }
            }
        }
        states = next;
    }
    states.len()
}

#[test]
fn a_save_stopped_anywhere_loses_at_most_itself() {
    assert!(stop_saves(Model::default()) > 100);
}

#[test]
fn a_mounted_file_is_overwritten_and_a_save_stopped_anywhere_loses_at_most_itself() {
    let names = BTreeMap::from([(PathBuf::from("c"), 0)]);
    let refused = Some(io::ErrorKind::ResourceBusy);
    let mounted = Model { files: vec![vec![]], stored: vec![names.clone()], names, refused, ..Model::default() };
    let mut disk = Model { left: usize::MAX, ..mounted.clone() };
    for n in 1..4 {
        assert!(disk.save(n));
        let names: Vec<_> = disk.names.keys().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(names, ["c", "c.prev"][..(n as usize).min(2)], "nothing else is left");
        assert_eq!((disk.names[Path::new("c")], disk.reads(&disk.names)), (0, Some(n)));
    }
    assert!(stop_saves(mounted) > 100);
}

#[test]
fn a_file_that_cannot_be_replaced_for_another_reason_stays_as_it_is() {
    let mut disk = Model { left: usize::MAX, ..Model::default() };
    assert!(disk.save(1));
    disk.refused = Some(io::ErrorKind::StorageFull);
    assert!(!disk.save(2) && disk.reads(&disk.names) == Some(1));
}

#[test]
fn the_real_files_change_as_the_model_says() {
    let dir = Dir::new();
    let files = Files::of(dir.file());
    for n in 1..5 {
        let old = read(&files.file).unwrap();
        replace(&mut Os, &files, &encode(&generation(n)).unwrap(), old.as_deref()).unwrap();
        assert_eq!(decode(&fs::read(dir.file()).unwrap()).unwrap(), generation(n));
        let previous = read(&files.previous).unwrap();
        assert_eq!(previous.map(|bytes| decode(&bytes).unwrap()), (n > 1).then(|| generation(n - 1)));
    }
    // Left over from a save that was stopped between the two renames.
    fs::hard_link(dir.file(), dir.0.join("orders.checkpoint.prev.new")).unwrap();
    fs::write(&files.new, "half").unwrap();
    let old = read(&files.file).unwrap();
    replace(&mut Os, &files, &encode(&generation(5)).unwrap(), old.as_deref()).unwrap();
    assert_eq!(decode(&fs::read(dir.file()).unwrap()).unwrap(), generation(5));
    assert_eq!(read(&files.previous).unwrap(), old);
    // What is in the way and is no file is an error.
    fs::create_dir(dir.0.join("orders.checkpoint.prev.new")).unwrap();
    assert!(Os.remove(&dir.0.join("orders.checkpoint.prev.new")).is_err());
    Os.sync_names(Path::new("a file in the working directory")).unwrap();
    Os.overwrite(&dir.file(), b"other").unwrap();
    assert_eq!(fs::read(dir.file()).unwrap(), b"other");
}

#[test]
fn what_an_overwriting_save_left_is_completed_by_the_next_opening() {
    let dir = Dir::new();
    let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
    checkpoint.save(&generation(1)).unwrap();
    checkpoint.save(&generation(2)).unwrap();
    let whole = fs::read(dir.file()).unwrap();
    fs::write(dir.0.join("orders.checkpoint.new"), encode(&generation(3)).unwrap()).unwrap();
    assert_eq!(Checkpoint::open(dir.file()).unwrap().positions(), &generation(2), "it had not begun to overwrite");
    fs::write(dir.file(), &whole[..whole.len() - 9]).unwrap();
    let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
    assert_eq!(checkpoint.positions(), &generation(3));
    checkpoint.save(&Positions::default()).unwrap();
    assert_eq!(Checkpoint::open(dir.file()).unwrap().positions(), &generation(3));
}

#[test]
fn more_than_anybody_has_is_saved_and_read() {
    let dir = Dir::new();
    let topics: Vec<Arc<str>> = (0..2).map(|n| format!("{n:x>255}").into()).collect();
    let ids = topics.iter().flat_map(|topic| (0..65_535).map(move |id| (topic.clone(), id)));
    let many = ids.map(|(topic, partition)| (topic, partition, 7)).collect::<Positions>();
    Checkpoint::open(dir.file()).unwrap().save(&many).unwrap();
    assert!(fs::metadata(dir.file()).unwrap().len() > 32 << 20);
    assert!(*Checkpoint::open(dir.file()).unwrap().positions() == many);
}

#[test]
fn a_file_that_was_removed_is_made_anew_by_the_next_save() {
    let dir = Dir::new();
    let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
    for n in [1, 1, 2, 2] {
        checkpoint.save(&generation(n)).unwrap();
        assert_eq!(Checkpoint::open(dir.file()).unwrap().positions(), &generation(n));
        fs::remove_file(dir.file()).unwrap();
    }
}

#[test]
fn the_second_of_two_that_save_is_told_and_changes_nothing() {
    let dir = Dir::new();
    let mut both = [Checkpoint::open(dir.file()).unwrap(), Checkpoint::open(dir.file()).unwrap()];
    for round in 1..4 {
        let [first, second] = &mut both;
        first.save(&generation(round)).unwrap();
        let e = second.save(&generation(0)).unwrap_err();
        assert!(e.to_string().contains("changed by somebody else"), "{e}");
        assert_eq!(fault(Err(e)), (CHANGED.to_owned(), false));
        assert_eq!(Checkpoint::open(dir.file()).unwrap().positions(), &generation(round));
        both = [Checkpoint::open(dir.file()).unwrap(), Checkpoint::open(dir.file()).unwrap()];
    }
}

#[test]
fn what_cannot_be_saved_to_is_known_when_it_is_opened() {
    let dir = Dir::new();
    let opened = |path: PathBuf| {
        let e = Checkpoint::open(&path).unwrap_err();
        assert!(e.kind == ErrorKind::File && e.path() == Some(&path), "{e}");
        io::Error::from(e).kind()
    };
    assert_eq!(opened(dir.0.join("no/where")), io::ErrorKind::NotFound);
    assert_eq!(opened(dir.0.clone()), io::ErrorKind::InvalidInput);
    assert!(Checkpoint::open("/proc/orders.checkpoint").is_err() || !cfg!(target_os = "linux"));
    // Put there to be mounted.
    fs::write(dir.file(), "").unwrap();
    Checkpoint::open(dir.file()).unwrap().save(&generation(1)).unwrap();
    assert_eq!(Checkpoint::open(dir.file()).unwrap().positions(), &generation(1));
}

#[cfg(unix)]
#[test]
fn a_pipe_where_a_file_should_be_keeps_nobody_waiting() {
    within(30, || {
        let dir = Dir::new();
        fs::write(dir.file(), MAGIC).unwrap();
        let files = Files::of(dir.file());
        for pipe in [&files.new, &files.previous] {
            assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        }
        assert_eq!(fault(Checkpoint::open(dir.file())), (TORN.to_owned(), false));
        assert!(Checkpoint::open_previous(dir.file()).is_err());
        fs::remove_file(files.previous).unwrap();
        fs::write(dir.file(), "").unwrap();
        let mut opened = Checkpoint::open(dir.file()).unwrap();
        fs::remove_file(dir.file()).unwrap();
        fs::rename(files.new, dir.file()).unwrap();
        opened.save(&generation(1)).unwrap();
        assert_eq!(Checkpoint::open(dir.file()).unwrap().positions(), &generation(1));
    });
}

#[test]
fn a_name_as_long_as_names_may_be_is_saved_as_any_other() {
    // The longest that leaves room for every suffix keeps its name; of longer ones as much as there is room for.
    for (len, kept) in [(28, 28), (246, 246), (247, 235), (255, 235)] {
        let name = "n".repeat(len);
        let files = Files::of(name.clone().into());
        let previous = files.previous.to_str().unwrap();
        assert!(previous.starts_with(&name[..kept]) && previous.ends_with(".prev"), "{previous}");
        assert_eq!(previous.len(), kept + if kept == len { 5 } else { 14 });
    }
    let dir = Dir::new();
    for (name, other) in [("n".repeat(255), "n".repeat(254) + "m"), ("ü".repeat(127), "ü".repeat(126) + "uu")] {
        let files = [dir.0.join(name), dir.0.join(other)];
        for n in 1..4 {
            for (file, n) in files.iter().zip([n, 10 + n]) {
                Checkpoint::open(file).unwrap().save(&generation(n)).unwrap();
            }
        }
        for (file, n) in files.iter().zip([3, 13]) {
            assert_eq!(Checkpoint::open(file).unwrap().positions(), &generation(n));
            assert_eq!(Checkpoint::open_previous(file).unwrap().positions(), &generation(n - 1));
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_link_stays_and_leads_to_what_is_saved_even_if_it_is_not_there_yet() {
        let dir = Dir::new();
        fs::create_dir(dir.0.join("volume")).unwrap();
        let target = dir.0.join("volume/orders");
        symlink("volume/orders", dir.0.join("second")).unwrap();
        symlink(dir.0.join("second"), dir.file()).unwrap();
        for n in 1..4 {
            let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
            checkpoint.save(&generation(n)).unwrap();
            assert_eq!(
                (Checkpoint::open(&target).unwrap().positions(), checkpoint.path()),
                (&generation(n), &*dir.file())
            );
            assert!(fs::symlink_metadata(dir.file()).unwrap().is_symlink());
        }
        assert_eq!(Checkpoint::open_previous(dir.file()).unwrap().positions(), &generation(2));
        symlink("orders.checkpoint", dir.0.join("a")).unwrap();
        fs::remove_file(dir.file()).unwrap();
        symlink("a", dir.file()).unwrap();
        assert!(matches!(Checkpoint::open(dir.file()), Err(Error { kind: ErrorKind::File, .. })), "a circle");
    }

    #[test]
    fn a_folder_that_was_away_for_a_moment_hinders_no_later_save() {
        let dir = Dir::new();
        let [real, gone, new, folder] = ["real", "gone", "new", "folder"].map(|name| dir.0.join(name));
        fs::create_dir(&real).unwrap();
        let lead_to = |target: &Path| {
            symlink(target, &new).unwrap();
            fs::rename(&new, &folder).unwrap();
        };
        lead_to(&real);
        let mut checkpoint = Checkpoint::open(folder.join("orders")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // To itself, so that nothing can be read, and to where nothing is.
                    for away in [&folder, &gone] {
                        lead_to(away);
                        lead_to(&real);
                    }
                }
            });
            let mut fails = |n: &u64| checkpoint.save(&positions(&[("orders", 0, *n)])).is_err();
            assert_eq!((0..).filter(&mut fails).take(200).count(), 200);
            done.store(true, Ordering::Relaxed);
        });
        checkpoint.save(&generation(1)).unwrap();
        assert_eq!(Checkpoint::open(folder.join("orders")).unwrap().positions(), &generation(1));
    }

    #[test]
    fn a_previous_generation_that_cannot_be_read_is_one_all_the_same() {
        let dir = Dir::new();
        let previous = Files::of(dir.file()).previous;
        // A link to itself: not even root can read it.
        symlink(&previous, &previous).unwrap();
        assert_eq!(fault(Checkpoint::open(dir.file())), (MISSING.to_owned(), false), "no first run");
    }

    #[test]
    fn links_planted_beside_it_are_not_followed() {
        let dir = Dir::new();
        let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
        fs::write(dir.0.join("secret"), "secret").unwrap();
        for n in 1..4 {
            for planted in [".new", ".prev.new", ".prev", ".try"] {
                let planted = dir.0.join(format!("orders.checkpoint{planted}"));
                let _ = fs::remove_file(&planted);
                symlink(dir.0.join("secret"), planted).unwrap();
            }
            checkpoint.save(&generation(n)).unwrap();
            assert_eq!(fs::read(dir.0.join("secret")).unwrap(), b"secret");
            assert_eq!(Checkpoint::open(dir.file()).unwrap().positions(), &generation(n));
        }
    }

    #[test]
    fn access_rights_stay_and_are_those_of_the_previous_generation_too() {
        let dir = Dir::new();
        let mut checkpoint = Checkpoint::open(dir.file()).unwrap();
        checkpoint.save(&generation(1)).unwrap();
        for (n, mode) in [(2, 0o600), (3, 0o640), (4, 0o666)] {
            fs::set_permissions(dir.file(), fs::Permissions::from_mode(mode)).unwrap();
            let root = fs::metadata(dir.file()).unwrap().uid() == 0;
            if root {
                std::os::unix::fs::chown(dir.file(), Some(65_534), Some(12)).unwrap();
            }
            checkpoint.save(&generation(n)).unwrap();
            for file in [dir.file(), dir.0.join("orders.checkpoint.prev")] {
                let is = fs::metadata(file).unwrap();
                assert_eq!(is.mode() & 0o777, mode);
                assert!(!root || (is.uid(), is.gid()) == (65_534, 12));
            }
            if root {
                std::os::unix::fs::chown(dir.file(), Some(0), Some(0)).unwrap();
            }
        }
    }
}
