//! Warnings of the library on the standard error output: that it reconnects, for one.

use std::io::{IsTerminal, Write, stderr};

use log::{LevelFilter, Log, Metadata, Record};

struct Warnings;

impl Log for Warnings {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // In place of a progress bar, should there be one.
        let clear = if stderr().is_terminal() { "\r\x1b[K" } else { "" };
        let _ = writeln!(stderr(), "{clear}{}", record.args());
    }

    fn flush(&self) {}
}

pub fn show() {
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}
