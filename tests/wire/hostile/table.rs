//! The table of decoding rules names the tests that show each row; all of them are there.

use std::fs;
use std::path::{Path, PathBuf};

use common::captures;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// All text of an area's tests, of a module of them, or of a module of `protocol` that has tests.
fn source(name: &str) -> Option<String> {
    let root = root();
    let areas = fs::read_dir(root.join("tests")).unwrap().map(|area| area.unwrap().path());
    let rooms = ["src/protocol", "src/protocol/admin"].map(|room| root.join(room));
    let files = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().map(|file| file.unwrap().path());
    let mut places: Vec<PathBuf> = files(root.join("tests").join(name)).collect();
    for room in areas.chain(rooms) {
        places.push(room.join(format!("{name}.rs")));
        places.extend(files(room.join(name)));
    }
    let text: String = places.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    text.contains("#[test]").then_some(text)
}

#[test]
fn every_rule_is_shown_by_tests_that_exist() {
    let text = fs::read_to_string(root().join("src/protocol/mod.rs")).unwrap();
    let recordings: Vec<&str> = captures::all().iter().map(|capture| capture.name.as_str()).collect();
    let mut rows = 0;
    for line in text.lines().filter(|line| line.starts_with("//! | ") && !line.contains("---")).skip(1) {
        let columns: Vec<&str> = line.trim_start_matches("//! |").trim_end_matches('|').split(" | ").collect();
        let [input, .., shown] = columns[..] else { panic!("{line}") };
        let names: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing shows {input}");
        for name in names {
            let found = match name.split_once("::") {
                Some((file, test)) => source(file).is_some_and(|text| text.contains(&format!("fn {test}("))),
                None => {
                    let recorded = |start: &str| recordings.iter().any(|name| name.starts_with(start));
                    let exact = recordings.contains(&name);
                    source(name).is_some() || exact || name.strip_suffix('*').is_some_and(recorded)
                }
            };
            assert!(found, "{input}: there is no {name}");
        }
        rows += 1;
    }
    assert!(rows > 25, "{rows} rows");
}
