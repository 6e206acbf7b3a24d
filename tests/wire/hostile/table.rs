//! `tests/wire/README.md` names the tests that prove each decoding rule; all of them exist.

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

/// The rows of a page's table, each as its columns.
fn rows(page: &str, prefix: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let row = |line: &str| {
        let columns = line.strip_prefix(prefix)?.strip_prefix("| ")?.strip_suffix('|')?.split('|');
        Some(columns.map(|column| column.trim().to_owned()).collect())
    };
    // Below the title and a line of dashes.
    text.lines().filter_map(row).skip(2).collect()
}

#[test]
fn every_rule_is_proven_by_tests_that_exist() {
    let rules = rows("src/protocol/mod.rs", "//! ");
    let proofs = rows("tests/wire/README.md", "");
    let inputs = |rows: &[Vec<String>]| rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(inputs(&rules), inputs(&proofs));
    assert!(rules.len() > 25, "{} rules", rules.len());
    let recordings: Vec<&str> = captures::all().iter().map(|capture| capture.name.as_str()).collect();
    for row in proofs {
        let [input, tests] = &row[..] else { panic!("{row:?}") };
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing proves {input}");
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
    }
}
