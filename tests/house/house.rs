//! The house: which room may use which, and how large a file and a function may be. Held against the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::visit::Visit;

/// Each room, and all that it may use beside itself. What a room may touch lies below it.
const ROOMS: [(&str, &[&str]); 14] = [
    ("text", &["consume", "message", "config", "error", "protocol"]),
    (
        "client",
        &[
            "admin",
            "consume",
            "produce",
            "session",
            "message",
            "net",
            "config",
            "brokers",
            "error",
            "topic_config",
            "protocol",
        ],
    ),
    ("admin", &["session", "message", "net", "error", "topic_config", "protocol"]),
    ("consume", &["session", "message", "net", "config", "error", "protocol"]),
    ("produce", &["session", "message", "net", "config", "error", "protocol"]),
    ("segment", &["message", "net", "error", "protocol"]),
    ("session", &["net", "config", "error", "protocol"]),
    ("message", &["net", "error", "protocol"]),
    ("net", &["config", "error", "protocol"]),
    ("config", &["error", "protocol"]),
    ("topic_config", &["error"]),
    ("error", &["protocol"]),
    ("protocol", &[]),
    ("brokers", &[]),
];

/// The embedded broker and the simulated world use what lies below them; nobody else knows that they exist.
const TEST_ROOMS: [(&str, &[&str]); 2] = [
    ("broker", &["message", "net", "error", "topic_config", "protocol"]),
    ("simulation", &["broker", "client", "consume", "produce", "message", "net", "config", "error", "protocol"]),
];

/// Where the machine's clock and sockets may be touched.
const AT_THE_MACHINE: [&str; 2] = ["net/system.rs", "broker/server.rs"];

/// What that looks like.
const OF_THE_MACHINE: [&str; 6] =
    ["Instant::now", "SystemTime::now", "TcpStream", "socket2", "rustix", "thread::sleep"];

/// Files that record what goes through real sockets, and nothing else.
const RECORDS_SOCKETS: [&str; 1] = ["broker/capture.rs"];

/// Files outside `src` that may sleep, and why.
const SLEEPS: [(&str, &str); 3] = [
    ("tests/bench/growth/line.rs", "is a line on which bytes take their time"),
    ("tests/cluster/real.rs", "paces what it does to a real cluster, which must be asked for"),
    ("tests/house/house.rs", "names what others may not do"),
];

/// Files outside `src` that may look at a real clock, and why. What has a time to keep runs in the simulated world.
const CLOCKS: [(&str, &str); 9] = [
    ("tests/bench/beside.rs", "measures whole processes"),
    ("tests/bench/growth/line.rs", "is a line on which bytes take their time"),
    ("tests/cluster/real.rs", "measures a real cluster, which must be asked for"),
    ("tests/common/src/logs.rs", "gives up after 20 seconds"),
    ("tests/common/src/proxy.rs", "gives up after 20 seconds"),
    ("tests/common/src/watch.rs", "has a lower bound, which a busy machine keeps"),
    ("tests/house/house.rs", "names what others may not do"),
    ("tests/simulation/checker.rs", "says how fast it ran"),
    ("tests/wire/hostile/mod.rs", "gives up after 10 seconds with what takes milliseconds"),
];

/// Lines of code, without blanks, comments and tests, that a file may have.
const FILE: usize = 450;

/// Files that may be longer, and why.
const LONG_FILES: [(&str, &str); 0] = [];

/// Lines and parameters that a function may have.
const FUNCTION: (usize, usize) = (70, 6);

/// Functions that may be longer, and why.
const LONG_FUNCTIONS: [(&str, &str, &str); 0] = [];

/// Folders in which files may need each other, and why.
const CIRCLES: [(&str, &str); 0] = [];

/// The most lines of code that the crate may have without broker and simulation.
const CRATE: usize = 10_635;

struct Source {
    /// Below `src`, with slashes.
    name: String,
    text: String,
    file: syn::File,
}

impl Source {
    fn room(&self) -> String {
        self.name.split(['/', '.']).next().unwrap_or_default().to_owned()
    }

    /// The names of the modules from the crate down to this file's.
    fn module(&self) -> Vec<String> {
        let mut parts: Vec<String> = self.name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| last == "mod") {
            parts.pop();
        }
        parts
    }

    fn is_test(&self) -> bool {
        self.name.ends_with("/tests.rs") || self.name.contains("/tests/") || self.name == "net/scripted.rs"
    }
}

/// The Rust files below a folder of the repository, sorted.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.append(&mut files_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src");
    let files = files_below(&root);
    let source = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        Source { name, text, file }
    };
    files.into_iter().map(source).filter(|source| !source.is_test()).collect()
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute.path().is_ident("cfg").then(|| attribute.parse_args::<syn::Path>().ok()).flatten();
        list.is_some_and(|path| path.is_ident("test"))
    })
}

/// The rooms of the names that the front page shows.
fn front_page(sources: &[Source]) -> BTreeMap<String, String> {
    let lib = sources.iter().find(|source| source.name == "lib.rs").unwrap();
    let mut shown = Imports { module: Vec::new(), paths: Vec::new(), relative: true };
    shown.visit_file(&lib.file);
    shown.paths.into_iter().map(|path| (path[path.len() - 1].clone(), path[0].clone())).collect()
}

/// Gathers, outside tests: the rooms that are named, functions with their sizes, and which lines are tests.
struct Reader {
    module: Vec<String>,
    used: BTreeSet<String>,
    functions: Vec<(String, usize, usize)>,
    test_lines: BTreeSet<usize>,
}

impl Reader {
    fn of(source: &Source) -> Reader {
        let mut reader = Reader {
            module: source.module(),
            used: BTreeSet::new(),
            functions: Vec::new(),
            test_lines: BTreeSet::new(),
        };
        reader.visit_file(&source.file);
        reader
    }

    /// Notes the room that a path leads to, if it begins with `crate` or leaves the room upwards.
    fn note(&mut self, path: &[String]) {
        let mut at = self.module.clone();
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("crate") => {
                at.clear();
                rest = &path[1..];
            }
            Some("super") => {
                while rest.first().is_some_and(|part| part == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
                if !at.is_empty() {
                    return;
                }
            }
            _ => return,
        }
        self.used.extend(rest.first().cloned());
    }

    fn note_tree(&mut self, tree: &syn::UseTree, mut path: Vec<String>) {
        match tree {
            syn::UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.note_tree(&part.tree, path);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(tree, path.clone())),
            syn::UseTree::Name(name) => {
                path.push(name.ident.to_string());
                self.note(&path);
            }
            syn::UseTree::Rename(name) => {
                path.push(name.ident.to_string());
                self.note(&path);
            }
            syn::UseTree::Glob(_) => self.note(&path),
        }
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let span = block.span();
        let parameters = signature.inputs.iter().filter(|input| matches!(input, syn::FnArg::Typed(_))).count();
        self.functions.push((signature.ident.to_string(), span.end().line - span.start().line + 1, parameters));
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test_only(&item.attrs) {
            self.note_tree(&item.tree, Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.note(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_test_only(&item.attrs) {
            self.test_lines.extend(item.span().start().line..=item.span().end().line);
        } else {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }
}

/// A file's lines of code: no blanks, comments or tests.
fn code(source: &Source) -> Vec<(usize, &str)> {
    let tests = Reader::of(source).test_lines;
    let lines = source.text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let is_code = |&(number, line): &(usize, &str)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("//") && !tests.contains(&number)
    };
    lines.filter(is_code).collect()
}

#[test]
fn every_room_uses_only_what_lies_below_it() {
    let may: BTreeMap<&str, &[&str]> = ROOMS.into_iter().chain(TEST_ROOMS).collect();
    let (mut wrong, sources) = (Vec::new(), sources());
    let shown = front_page(&sources);
    for source in &sources {
        let room = source.room();
        // The front page shows all of them, and the guide is text.
        if matches!(room.as_str(), "lib" | "guide") {
            continue;
        }
        let Some(allowed) = may.get(room.as_str()) else {
            wrong.push(format!("{}: no such room in the table", source.name));
            continue;
        };
        for used in Reader::of(source).used {
            let used = shown.get(&used).unwrap_or(&used);
            if *used != room && !allowed.contains(&used.as_str()) && may.contains_key(used.as_str()) {
                wrong.push(format!("{}: uses {used}", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_of_rooms_has_no_circle() {
    let may: BTreeMap<&str, &[&str]> = ROOMS.into_iter().chain(TEST_ROOMS).collect();
    let mut left: BTreeSet<&str> = may.keys().copied().collect();
    while let Some(&free) = left.iter().find(|room| may[*room].iter().all(|used| !left.contains(used))) {
        left.remove(free);
    }
    assert!(left.is_empty(), "these use each other: {left:?}");
    for (room, used) in ROOMS {
        assert!(!used.iter().any(|used| matches!(*used, "broker" | "simulation" | "text")), "{room}");
    }
}

#[test]
fn the_files_of_a_room_do_not_need_each_other() {
    let sources = sources();
    let names: BTreeMap<Vec<String>, &str> =
        sources.iter().map(|source| (source.module(), source.name.as_str())).collect();
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.name.ends_with("mod.rs") && source.name != "lib.rs") {
        let mut files = Imports { module: source.module(), paths: Vec::new(), relative: false };
        files.visit_file(&source.file);
        for path in files.paths {
            let file = (1..=path.len()).rev().find_map(|len| names.get(&path[..len]).copied());
            // What a folder's own file shows may come from any file of it: only direct imports are looked at.
            let direct = file.filter(|file| !file.ends_with("mod.rs") && *file != source.name && *file != "lib.rs");
            // A file may show and use the files it owns.
            let owns = |file: &str| file.starts_with(source.name.trim_end_matches(".rs"));
            uses.entry(&source.name).or_default().extend(direct.filter(|file| !owns(file)));
        }
    }
    let mut left: BTreeSet<&str> = uses.keys().copied().collect();
    while let Some(&free) = left.iter().find(|file| uses[*file].iter().all(|used| !left.contains(used))) {
        left.remove(free);
    }
    // Of what is left, some only use a circle: take those away too.
    while let Some(&top) = left.iter().find(|file| !left.iter().any(|other| uses[other].contains(*file))) {
        left.remove(top);
    }
    let excused = |file: &&str| CIRCLES.iter().find(|(folder, _)| file.split('/').next() == Some(*folder));
    let needed: BTreeSet<&str> = left.iter().filter_map(excused).map(|(folder, _)| *folder).collect();
    left.retain(|file| excused(file).is_none());
    assert!(left.is_empty(), "these files need each other: {left:?}");
    assert_eq!(needed.len(), CIRCLES.len(), "excused without need: {CIRCLES:?}");
}

/// The paths that a file imports, from the crate down.
struct Imports {
    module: Vec<String>,
    paths: Vec<Vec<String>>,
    /// Whether names that begin with neither `crate` nor `super` are the crate's too.
    relative: bool,
}

impl Imports {
    fn tree(&mut self, tree: &syn::UseTree, mut path: Vec<String>) {
        match tree {
            syn::UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.tree(&part.tree, path);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, path.clone())),
            _ => self.path(path),
        }
    }

    fn path(&mut self, path: Vec<String>) {
        let mut at = self.module.clone();
        let mut rest = path.as_slice();
        match rest.first().map(String::as_str) {
            Some("crate") => {
                at.clear();
                rest = &rest[1..];
            }
            Some("super") => {
                while rest.first().is_some_and(|part| part == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            _ if self.relative => {}
            _ => return,
        }
        at.extend_from_slice(rest);
        self.paths.push(at);
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, Vec::new());
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }
}

#[test]
fn the_clock_and_sockets_are_touched_in_one_place() {
    let mut wrong = Vec::new();
    for source in sources() {
        let name = source.name.as_str();
        if AT_THE_MACHINE.contains(&name) || RECORDS_SOCKETS.contains(&name) || name.starts_with("guide") {
            continue;
        }
        for (number, line) in code(&source) {
            let found = OF_THE_MACHINE.iter().filter(|word| line.contains(*word));
            wrong.extend(found.map(|word| format!("{name}:{number}: {word}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_test_sleeps() {
    nobody_says(&["thread::sleep"], &SLEEPS);
}

/// A test that compares real time with a bound fails on a machine that is busy enough.
#[test]
fn no_test_depends_on_the_machines_load() {
    nobody_says(&["Instant::now", ".elapsed()"], &CLOCKS);
}

/// Holds that of all files outside `src` only the excused ones have one of these words, and that they have.
fn nobody_says(words: &[&str], excuses: &[(&str, &str)]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tests =
        ["tests", "examples/tankctl/tests", "examples/exactly_once_sqlite"].map(|dir| files_below(&root.join(dir)));
    let mut wrong = Vec::new();
    for path in tests.concat() {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let is_excused = excuses.iter().any(|(excused, _)| name == *excused);
        let text = fs::read_to_string(&path).unwrap();
        if words.iter().any(|word| text.contains(word)) != is_excused {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "one of {words:?}, or an excuse without it: {wrong:#?}");
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = code(&source).len();
        let excused = LONG_FILES.iter().any(|(name, _)| *name == source.name);
        if (lines > FILE) != excused {
            wrong.push(format!("{}: {lines} lines of code", source.name));
        }
    }
    assert!(wrong.is_empty(), "above {FILE}, or excused without need: {wrong:#?}");
}

#[test]
fn no_function_is_too_long_or_takes_too_much() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (function, lines, parameters) in Reader::of(&source).functions {
            let excused = LONG_FUNCTIONS.iter().any(|(file, name, _)| *file == source.name && *name == function);
            if (lines > FUNCTION.0 || parameters > FUNCTION.1) != excused {
                wrong.push(format!("{}: {function}: {lines} lines, {parameters} parameters", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "above {FUNCTION:?}, or excused without need: {wrong:#?}");
}

/// Prints what each room comes to: `cargo test --test house -- --nocapture lines_of_code`.
#[test]
fn lines_of_code_are_counted_by_room() {
    let mut rooms: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources() {
        *rooms.entry(source.room()).or_default() += code(&source).len();
    }
    let crate_alone: usize =
        rooms.iter().filter(|(room, _)| !matches!(room.as_str(), "broker" | "simulation")).map(|(_, n)| n).sum();
    println!("{rooms:#?}\nwithout broker and simulation: {crate_alone}");
    assert!(crate_alone <= CRATE, "{crate_alone}");
}

/// Gathers the names of public types, functions, variants and fields, outside tests.
struct Public(BTreeSet<String>);

impl Public {
    fn add(&mut self, visibility: &syn::Visibility, name: &syn::Ident) {
        if matches!(visibility, syn::Visibility::Public(_)) {
            self.0.insert(name.to_string());
        }
    }

    fn fields(&mut self, fields: &syn::Fields) {
        fields.iter().for_each(|field| field.ident.iter().for_each(|name| self.add(&field.vis, name)));
    }
}

impl<'ast> Visit<'ast> for Public {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.add(&item.vis, &item.ident);
        self.fields(&item.fields);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.add(&item.vis, &item.ident);
        item.variants.iter().for_each(|variant| self.add(&item.vis, &variant.ident));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.add(&item.vis, &item.ident);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.vis, &item.sig.ident);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.vis, &item.sig.ident);
    }
}

/// The code that the pages show: what stands between fences in comments and chapters, and the examples.
fn shown_code(root: &Path) -> String {
    fn add(dir: &Path, code: &mut String) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                add(&path, code);
            } else if name.ends_with(".rs") || name.ends_with(".md") {
                let text = fs::read_to_string(&path).unwrap();
                let page = |line: &str| match name.ends_with(".md") {
                    true => Some(line.to_owned()),
                    false => {
                        line.trim_start().strip_prefix("//").map(|line| line[line.len().min(1)..].trim().to_owned())
                    }
                };
                let mut fenced = false;
                for line in text.lines().filter_map(page) {
                    fenced ^= line.starts_with("```");
                    if fenced {
                        *code += &line;
                        *code += "\n";
                    }
                }
            }
        }
    }
    let mut code = String::new();
    add(&root.join("src"), &mut code);
    for entry in fs::read_dir(root.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            code += &fs::read_to_string(&path).unwrap();
        }
    }
    code
}

/// Of `protocol`, whose readers work with captures and the reference, only what the other rooms show counts.
#[test]
fn every_public_item_is_in_an_example() {
    let code = shown_code(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let mut missing = Vec::new();
    for source in sources() {
        let mut public = Public(BTreeSet::new());
        public.visit_file(&source.file);
        let is_shown = !matches!(source.room().as_str(), "protocol" | "guide") && !source.name.contains("checker");
        let unseen = public.0.into_iter().filter(|name| is_shown && !words.contains(name.as_str()));
        missing.extend(unseen.map(|name| format!("{}: {name}", source.name)));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
