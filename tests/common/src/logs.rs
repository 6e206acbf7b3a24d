//! What the library logs, as a sign of what it is doing.

use std::sync::{Condvar, Mutex, Once};
use std::time::Instant;

use log::{LevelFilter, Log, Metadata, Record};

use crate::watch::SOON;

struct Logs {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

static LOGS: Logs = Logs { lines: Mutex::new(Vec::new()), more: Condvar::new() };

impl Log for Logs {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.lines.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
        self.more.notify_all();
    }

    fn flush(&self) {}
}

/// Begins to keep what is logged.
pub fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOGS).unwrap();
        log::set_max_level(LevelFilter::Debug);
    });
}

/// Waits until this many lines hold all of `words`.
#[track_caller]
pub fn wait_for(count: usize, words: &[&str]) {
    let end = Instant::now() + SOON;
    let mut lines = LOGS.lines.lock().unwrap();
    loop {
        let found = lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count();
        if found >= count {
            return;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{found} of {count} lines with {words:?} among {lines:#?}");
        lines = LOGS.more.wait_timeout(lines, left).unwrap().0;
    }
}
