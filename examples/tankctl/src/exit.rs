//! How the tool ends: what it says last, and its exit code.

use std::fmt;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::{Error, Result, anyhow};
use clap::CommandFactory;
use clap::error::ErrorKind;
use tank_client::Failure;

use crate::output::{Output, ReaderGone};
use crate::{Cli, notes, output, signals};

/// What the help says of exit codes.
pub const CODES: &str = "\
Exit codes: 0 done, or the reader has closed the output; 1 failed; 2 wrong arguments; 129, 130, 143 ended by SIGHUP, Ctrl-C, \
SIGTERM. The first such signal ends the work in order, a second one ends the tool at once.";

/// Arguments that make no sense; nothing was done.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A usage error with this text, as an [`anyhow::Error`].
pub fn usage<T>(problem: impl Into<String>) -> Result<T> {
    Err(Usage(problem.into()).into())
}

/// The text of an error with its causes.
pub fn chain(e: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(e), |&e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The error of records that a producer has not stored, or may not have.
pub fn not_stored(failures: &[Failure]) -> Error {
    let count: usize = failures.iter().map(Failure::count).sum();
    let fate = if failures.iter().any(Failure::is_unknown) { "may not have been stored" } else { "not stored" };
    anyhow!("{} {fate}", notes::count(count as u64, "message"))
}

/// The outcome of publishing. What `finished` says of undelivered records is written for users of the tool.
pub fn undelivered(published: Result<()>, finished: Result<()>) -> Result<()> {
    let is_undelivered = |e: &Error| matches!(kind(e), Some(tank_client::ErrorKind::Undelivered { .. }));
    if published.as_ref().is_err_and(is_undelivered) { finished.and(published) } else { published.and(finished) }
}

fn kind(e: &Error) -> Option<&tank_client::ErrorKind> {
    e.downcast_ref().map(|e: &tank_client::Error| &e.kind)
}

/// The exit code of what was done; if it failed, the reason goes to standard error.
pub fn code(outcome: Result<()>) -> ExitCode {
    let signal = signals::received();
    match outcome {
        Err(e) if e.is::<Usage>() => {
            let text = format!(
                "{e}

For more information, try '--help'.
"
            );
            of_parsing(&clap::Error::raw(ErrorKind::ValueValidation, text))
        }
        Err(e) if e.is::<ReaderGone>() => ExitCode::from(signal.map_or(0, signals::code)),
        // A signal came, or the reader went, while a call was waiting.
        Err(e) if kind(&e) == Some(&tank_client::ErrorKind::Closed) => {
            signal.is_some().then(|| notes::say("interrupted"));
            ExitCode::from(signal.map_or(0, signals::code))
        }
        Err(e) => {
            notes::say(&format!("tankctl: {}", text(&e)));
            ExitCode::from(signal.map_or(1, signals::code))
        }
        Ok(()) => ExitCode::from(signal.map_or(0, signals::code)),
    }
}

fn text(e: &Error) -> String {
    e.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Shows the outcome of parsing the arguments if it is not a command: the help, the version, or what is wrong.
pub fn of_parsing(e: &clap::Error) -> ExitCode {
    if e.use_stderr() {
        let text = rendered(e, io::stderr().is_terminal());
        output::write_to_stderr(with_usage(text).as_bytes());
        return ExitCode::from(2);
    }
    let mut out = Output::stdout();
    let text = rendered(e, out.is_terminal());
    out.bytes().extend_from_slice(text.as_bytes());
    code(out.flush())
}

fn rendered(e: &clap::Error, in_colour: bool) -> String {
    let in_colour = in_colour && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if in_colour { e.render().ansi().to_string() } else { e.render().to_string() }
}

/// Adds a short usage where there is none.
fn with_usage(text: String) -> String {
    if text.contains("Usage:") {
        return text;
    }
    let mut command = Cli::command();
    command.build();
    let mut command = &mut command;
    for arg in std::env::args_os().skip(1) {
        if command.find_subcommand(&arg).is_some() {
            command = command.find_subcommand_mut(&arg).expect("it was found");
        }
    }
    let usage = command.render_usage();
    text.replacen("For more information", &format!("{usage}\n\nFor more information"), 1)
}
