//! The crate's examples, built and run as a user would.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;

/// An example, ready to be run.
pub fn example(name: &str) -> Command {
    static BUILT: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    // Next to this program's folder, and up to date whichever tests were asked for.
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let profile = deps.parent().unwrap();
    let mut built = BUILT.lock().unwrap();
    if built.get_or_insert_default().insert(name.to_owned()) {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--example", name]).current_dir(crate::root());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.env("CARGO_TARGET_DIR", profile.parent().unwrap());
        assert!(build.status().unwrap().success(), "building {name}");
    }
    Command::new(profile.join("examples").join(name))
}

/// Runs an example to its end: exit code, standard output, standard error.
pub fn run(name: &str, args: &[&str]) -> (i32, String, String) {
    run_with(name, args, b"")
}

/// As [`run`], with this on its standard input.
pub fn run_with(name: &str, args: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = example(name);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = thread::spawn(move || stdin.write_all(&input));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    // A program that failed need not have read all of it.
    let _ = writer.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// A path for a file of a test, where there is none yet.
pub fn scratch(name: &str) -> PathBuf {
    // Beside this program's folder.
    let program = std::env::current_exe().unwrap();
    let dir = program.ancestors().nth(3).unwrap().join("tmp").join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}
