//! What the examples share: arguments, exit codes, a progress bar.

// Each example uses its part of it.
#![allow(dead_code, unreachable_pub)]

use std::error::Error;
use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Arguments: options with their values, and the rest.
pub struct Args {
    options: Vec<(String, String)>,
    pub operands: Vec<String>,
}

impl Args {
    /// The value of an option, the empty text if it takes none.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rfind(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The value of an option as a number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Usage> {
        let parse = |text: &str| text.parse().map_err(|_| Usage(format!("{name} {text}: not a number that fits")));
        self.option(name).map(parse).transpose()
    }
}

/// Arguments that make no sense.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

/// Runs an example with its arguments. Exit code 0 if all is done, 1 if it failed, 2 for arguments that make no sense.
pub fn run(usage: &str, flags: &[&str], valued: &[&str], body: fn(&Args) -> Result<(), Box<dyn Error>>) -> ExitCode {
    let mut given = std::env::args();
    let name = given.next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut args = Args { options: Vec::new(), operands: Vec::new() };
    let mut problem = None;
    while let Some(arg) = given.next() {
        if arg == "--help" {
            println!("{usage}");
            return ExitCode::SUCCESS;
        } else if flags.contains(&arg.as_str()) {
            args.options.push((arg, String::new()));
        } else if valued.contains(&arg.as_str()) {
            match given.next() {
                Some(value) => args.options.push((arg, value)),
                None => problem = Some(format!("{arg} needs a value")),
            }
        } else if arg.starts_with("--") {
            problem = Some(format!("unknown option {arg}"));
        } else {
            args.operands.push(arg);
        }
    }
    let done = match problem {
        Some(problem) => Err(Usage(problem).into()),
        None => body(&args),
    };
    let Err(e) = done else { return ExitCode::SUCCESS };
    if let Some(problem) = e.downcast_ref::<Usage>() {
        eprintln!("{name}: {problem}\n\n{usage}");
        return ExitCode::from(2);
    }
    let mut text = format!("{name}: {e}");
    let mut cause = e.source();
    while let Some(e) = cause {
        text += &format!(": {e}");
        cause = e.source();
    }
    eprintln!("{text}");
    ExitCode::FAILURE
}

/// `TOPIC` or `TOPIC/PARTITION`.
pub fn place(text: &str) -> Result<(&str, Option<u16>), Usage> {
    match text.split_once('/') {
        None => Ok((text, None)),
        Some((topic, id)) => match id.parse() {
            Ok(id) => Ok((topic, Some(id))),
            Err(_) => Err(Usage(format!("{text}: {id} is no partition"))),
        },
    }
}

/// A line on a terminal that shows how far a long job is; nothing anywhere else.
pub struct Progress {
    what: &'static str,
    total: u64,
    started: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

/// Jobs that are done sooner show no bar.
const LONG: Duration = Duration::from_millis(500);

const WIDTH: usize = 30;

impl Progress {
    /// A job of so many steps; 0 if nobody knows.
    pub fn new(what: &'static str, total: u64) -> Progress {
        Progress { what, total, started: Instant::now(), shown: None, is_terminal: stderr().is_terminal() }
    }

    /// Shows that so much is done, some times a second at most.
    pub fn set(&mut self, done: u64) {
        let recent = self.shown.map_or(self.started + LONG, |shown| shown + LONG / 4);
        if !self.is_terminal || Instant::now() < recent {
            return;
        }
        self.shown = Some(Instant::now());
        let rate = done as f64 / self.started.elapsed().as_secs_f64();
        let line = match (done as f64 / self.total as f64, self.total) {
            (_, 0) => format!("{done} {} ({rate:.0}/s)", self.what),
            (share, total) => {
                let full = ((share * WIDTH as f64) as usize).min(WIDTH);
                let bar = "#".repeat(full) + &"-".repeat(WIDTH - full);
                let left = total.saturating_sub(done) as f64 / rate.max(1.0);
                format!("[{bar}] {:3.0} % {} ({rate:.0}/s, {left:.0} s left)", share * 100.0, self.what)
            }
        };
        let _ = write!(stderr(), "\r{line}\x1b[K");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// Prints rows as columns as wide as they need; numbers to the right.
pub fn print_table(rows: &[Vec<String>]) -> std::io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = std::io::stdout().lock();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let is_number = !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit());
            line += &if is_number { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
