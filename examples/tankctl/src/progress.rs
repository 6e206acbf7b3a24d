//! The progress of a long job.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::termios::tcgetwinsize;

use crate::{notes, output};

/// Shorter jobs show no bar.
const LONG: Duration = Duration::from_millis(500);

/// How often a plain line is written.
const PLAIN: Duration = Duration::from_secs(10);

/// The progress of a long job: a bar as wide as the terminal, or a plain line now and then if there is no terminal.
pub struct Progress {
    what: &'static str,
    total: u64,
    started: Instant,
    due: Instant,
    mode: Mode,
    bar: Option<ProgressBar>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Bar,
    Lines,
    Silent,
}

impl Progress {
    /// A job of `total` steps; 0 if their number is not known.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let mode = if is_capable_terminal() { Mode::Bar } else { Mode::Lines };
        let started = Instant::now();
        let due = started + if mode == Mode::Bar { LONG } else { PLAIN };
        Progress { what, total, started, due, mode, bar: None }
    }

    /// A job that prints. There is no bar if it prints to a terminal or a pipe: the pipe's reader may write to the same terminal.
    pub fn while_printing(what: &'static str, total: u64) -> Progress {
        let mut progress = Progress::new(what, total);
        if stderr().is_terminal() && !output::is_to_file() {
            progress.mode = Mode::Silent;
        }
        progress
    }

    /// A job that may go on for ever: its progress is shown only on a terminal.
    pub fn without_end(what: &'static str) -> Progress {
        let mut progress = Progress::new(what, 0);
        if progress.mode == Mode::Lines {
            progress.mode = Mode::Silent;
        }
        progress
    }

    /// Shows how much is done, at most a few times a second. Only then is it counted.
    pub fn set(&mut self, done: impl FnOnce() -> u64) {
        if self.mode == Mode::Silent || Instant::now() < self.due {
            return;
        }
        let done = done();
        match self.mode {
            Mode::Bar => {
                let bar = self.bar.get_or_insert_with(|| bar(self.what, self.total, self.started));
                if self.total == 0 {
                    // Cut to the width of the terminal.
                    bar.set_message(line(self.what, done, 0, self.started.elapsed()));
                }
                bar.set_position(done);
                self.due = Instant::now() + LONG / 4;
            }
            _ => {
                notes::say(&line(self.what, done, self.total, self.started.elapsed()));
                self.due = Instant::now() + PLAIN;
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            notes::BARS.remove(bar);
        }
    }
}

/// Whether standard error can move its cursor.
fn is_capable_terminal() -> bool {
    stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn bar(what: &'static str, total: u64, started: Instant) -> ProgressBar {
    let bar = notes::BARS.add(if total == 0 { ProgressBar::no_length() } else { ProgressBar::new(total) });
    let columns = tcgetwinsize(stderr()).map_or(0, |size| size.ws_col);
    let template = match total {
        0 => "{wide_msg}",
        _ if columns < 40 => "{percent:>3} % {wide_bar}",
        _ => "{percent:>3} % {prefix} {wide_bar} {eta} left",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("#>-"));
    bar.set_prefix(what);
    bar.with_elapsed(started.elapsed())
}

fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64();
    if total == 0 {
        return format!("{done} {what} ({rate:.0}/s)");
    }
    let share = (done as f64 / total as f64).min(1.0);
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    format!("{:.0} % {what} ({rate:.0}/s, {left:.0} s left)", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_it_is() {
        let second = Duration::from_secs(1);
        assert_eq!(line("copied", 250, 1000, 2 * second), "25 % copied (125/s, 6 s left)");
        assert_eq!(line("read", 250, 0, 2 * second), "250 read (125/s)");
        // More than was expected.
        assert_eq!(line("copied", 1001, 1000, second), "100 % copied (1001/s, 0 s left)");
        assert_eq!(line("copied", 0, 7, second), "0 % copied (0/s, 7 s left)");
    }
}
