//! Warnings of the library on the standard error output: such as a lost connection.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};

/// How long the same warning is not repeated.
const QUIET: Duration = Duration::from_secs(10);

struct Warnings {
    /// What was written, and when.
    recent: Mutex<BTreeMap<String, Instant>>,
}

impl Log for Warnings {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        // The pause before the next attempt is another one each time.
        let what = text.split(", trying again").next().unwrap_or_default();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, at| at.elapsed() < QUIET);
        if recent.contains_key(what) {
            return;
        }
        recent.insert(what.to_owned(), Instant::now());
        // In place of a progress bar, should there be one.
        let clear = if stderr().is_terminal() { "\r\x1b[K" } else { "" };
        let _ = writeln!(stderr(), "{clear}{text}");
    }

    fn flush(&self) {}
}

pub fn show() {
    static WARNINGS: Warnings = Warnings { recent: Mutex::new(BTreeMap::new()) };
    if log::set_logger(&WARNINGS).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}
