//! Whatever a fuzzer found once, and every seed it starts from, generated or committed, through the functions that it runs.

use std::fs;
use std::path::PathBuf;

use common::fuzz::{self as targets, seeds};

fn dir(kind: &str, target: &str) -> PathBuf {
    common::root().join(kind).join(target)
}

fn replay(target: &str, run: fn(&[u8])) {
    struct Name(String);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with {}", self.0);
            }
        }
    }
    run(&[]);
    for (name, bytes) in seeds::of(target) {
        let _name = Name(format!("the generated seed {name}"));
        run(&bytes);
    }
    let mut committed = 0;
    for kind in ["fuzz/seeds", "tests/regressions"] {
        for file in fs::read_dir(dir(kind, target)).into_iter().flatten() {
            let path = file.unwrap().path();
            let _name = Name(path.display().to_string());
            run(&fs::read(&path).unwrap());
            committed += usize::from(kind == "fuzz/seeds");
        }
    }
    assert!(
        (1..=10).contains(&committed),
        "{committed} seeds committed: a handful to begin with, the rest is generated"
    );
}

macro_rules! replay {
    ($($target:ident),*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), targets::$target::run);
            }
        )*
    };
}

replay!(varint, bundle, fetch_stream, responses, roundtrip, simulation, broker);

#[test]
#[ignore = "writes to fuzz/corpus, where the fuzzer begins"]
fn make_seeds() {
    for target in seeds::TARGETS {
        let dir = dir("fuzz/corpus", target);
        fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in seeds::of(target) {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}
