//! How far a long job is, on the standard error output.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// A line on a terminal that shows how far a long job is; a plain line now and then anywhere else.
pub struct Progress {
    what: &'static str,
    total: u64,
    started: Instant,
    due: Instant,
    is_bar: bool,
    is_shown: bool,
    is_silent: bool,
}

/// Jobs that are done sooner show no bar.
const LONG: Duration = Duration::from_millis(500);

/// How often a plain line is written.
const PLAIN: Duration = Duration::from_secs(10);

const WIDTH: usize = 30;

impl Progress {
    /// A job of `total` steps; 0 if nobody knows how many.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let (started, is_bar) = (Instant::now(), stderr().is_terminal());
        let due = started + if is_bar { LONG } else { PLAIN };
        Progress { what, total, started, due, is_bar, is_shown: false, is_silent: false }
    }

    /// A job that prints. Where that goes to a pipe, whoever reads it may write on the same terminal: no bar then.
    pub fn while_printing(what: &'static str, total: u64) -> Progress {
        let to_file = std::fs::metadata("/dev/stdout").is_ok_and(|stdout| stdout.is_file());
        let progress = Progress::new(what, total);
        Progress { is_silent: progress.is_bar && !to_file, ..progress }
    }

    /// Shows that so much is done, some times a second at most.
    pub fn set(&mut self, done: u64) {
        if self.is_silent || Instant::now() < self.due {
            return;
        }
        let line = line(self.what, done, self.total, self.started.elapsed(), self.is_bar);
        let _ = if self.is_bar { write!(stderr(), "\r{line}\x1b[K") } else { writeln!(stderr(), "{line}") };
        self.due = Instant::now() + if self.is_bar { LONG / 4 } else { PLAIN };
        self.is_shown = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_bar && self.is_shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

pub fn line(what: &str, done: u64, total: u64, elapsed: Duration, is_bar: bool) -> String {
    let rate = done as f64 / elapsed.as_secs_f64();
    if total == 0 {
        return format!("{done} {what} ({rate:.0}/s)");
    }
    let share = (done as f64 / total as f64).min(1.0);
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    let counts = format!("{:3.0} % {what} ({rate:.0}/s, {left:.0} s left)", share * 100.0);
    if !is_bar {
        return counts.trim_start().to_owned();
    }
    let full = (share * WIDTH as f64) as usize;
    format!("[{}{}] {counts}", "#".repeat(full), "-".repeat(WIDTH - full))
}
