//! Whatever a fuzzer found once, and every seed it starts from, through the same functions that it runs.

use std::fs;
use std::path::{Path, PathBuf};

use common::fuzz::{self as targets, seeds};

fn dir(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target)
}

fn replay(target: &str, run: fn(&[u8])) {
    struct Name(PathBuf);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with {}", self.0.display());
            }
        }
    }
    run(&[]);
    let mut seeds = 0;
    for kind in ["fuzz/seeds", "tests/regressions"] {
        let Ok(files) = fs::read_dir(dir(kind, target)) else { continue };
        for file in files {
            let name = Name(file.unwrap().path());
            run(&fs::read(&name.0).unwrap());
            seeds += usize::from(kind == "fuzz/seeds");
        }
    }
    // The published package has no folder `fuzz`.
    assert!(seeds > 0 || !dir("fuzz", "").exists(), "no seeds");
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

replay!(varint, bundle, fetch_stream, responses, roundtrip, consume_loop, broker);

#[test]
#[ignore = "writes fuzz/seeds again"]
fn make_seeds() {
    for (target, seeds) in seeds::all() {
        let dir = dir("fuzz/seeds", target);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in seeds {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}
