//! The crate's examples, built and run as a user would.

use std::path::PathBuf;
use std::process::{Command, Output};

/// An example, ready to be run.
pub fn example(name: &str) -> Command {
    // Next to this program's folder, and up to date whichever tests were asked for.
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let profile = deps.parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    build.env("CARGO_TARGET_DIR", profile.parent().unwrap());
    assert!(build.status().unwrap().success(), "building {name}");
    Command::new(profile.join("examples").join(name))
}

/// Runs an example to its end: exit code, standard output, standard error.
pub fn run(name: &str, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = example(name).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// A path for a file of a test, where there is none yet.
pub fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}
