//! Everything but data: on standard error, above a progress bar if there is one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::MultiProgress;
use log::{Level, LevelFilter, Log, Metadata, Record};
use tank_client::Failure;

use crate::exit::chain;
use crate::{format, output};

/// How long the same warning is not repeated.
const QUIET: Duration = Duration::from_secs(10);

/// The bars on the terminal.
pub static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A number of things: `1 message`, `3 messages`.
pub fn count(number: impl Into<u64>, thing: &str) -> String {
    let number = number.into();
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// That these numbers are gone, of which there may be one only.
pub fn gone(first: u64, last: u64) -> String {
    if first == last { format!("{first} is gone") } else { format!("{first} to {last} are gone") }
}

/// What became of these records, and why. The place is named once.
pub fn fate(failure: &Failure) -> String {
    let (place, why) = (format!("{}/{}: ", failure.topic(), failure.partition()), chain(failure.error()));
    let place = if why.contains(&place) { "" } else { &place };
    format!("{}: {place}{why}", if failure.is_unknown() { "perhaps stored" } else { "not stored" })
}

/// Writes a line.
pub fn say(text: &str) {
    let mut line = Vec::new();
    if io::stderr().is_terminal() {
        format::visible(&mut line, text.as_bytes());
    } else {
        line.extend_from_slice(text.as_bytes());
    }
    line.push(b'\n');
    write(&line);
}

fn write(line: &[u8]) {
    BARS.suspend(|| output::write_to_stderr(line));
}

/// Shows the library's warnings, such as a lost connection; with `-v` what else it tells, or what `RUST_LOG` asks for.
pub fn show_warnings(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_default_env().target(env_logger::Target::Pipe(Box::new(Stderr)));
    builder.format(|out, record| match record.level() {
        Level::Warn => writeln!(out, "warning: {}", record.args()),
        level => writeln!(out, "{level} {}: {}", record.target(), record.args()),
    });
    let inner = builder.build();
    let most = inner.filter();
    if log::set_boxed_logger(Box::new(Warnings { inner, recent: Mutex::default() })).is_ok() {
        log::set_max_level(most);
    }
}

/// Where `env_logger` writes.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Leaves out warnings that were shown a moment ago.
struct Warnings {
    inner: env_logger::Logger,
    recent: Mutex<BTreeMap<String, Instant>>,
}

impl Log for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.inner.matches(record) {
            return;
        }
        if record.level() == Level::Warn {
            let mut text = String::new();
            let _ = write!(text, "{}", record.args());
            // The pause before the next attempt is another one each time.
            let what = text.split(", trying again").next().unwrap_or_default();
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.retain(|_, at| at.elapsed() < QUIET);
            if recent.contains_key(what) {
                return;
            }
            recent.insert(what.to_owned(), Instant::now());
        }
        self.inner.log(record);
    }

    fn flush(&self) {}
}
