//! What the examples share: arguments, exit codes, tables.

// Each example uses its part of it.
#![allow(dead_code, unreachable_pub)]

pub mod print;
pub mod progress;
pub mod range;
pub mod time;
mod warnings;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

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

    /// The value of an option as a span of time.
    pub fn span(&self, name: &str) -> Result<Option<Duration>, Usage> {
        let parse = |text| time::parse_span(text).ok_or(Usage(format!("{name} {text}: no span of time, such as 10s")));
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

/// What every usage text ends with.
const ENDING: &str = "
  --help           this text

exit code: 0 done, 1 failed, 2 wrong arguments";

/// Runs an example with its arguments, of which `valued` options are followed by a value, also as `--option=value`.
pub fn run(usage: &str, flags: &[&str], valued: &[&str], body: fn(&Args) -> Result<(), Box<dyn Error>>) -> ExitCode {
    let mut given = std::env::args();
    let name = given.next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut args = Args { options: Vec::new(), operands: Vec::new() };
    let mut problem = None;
    while let Some(arg) = given.next() {
        let (option, value) = match arg.split_once('=') {
            Some((option, value)) if arg.starts_with("--") => (option, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        if arg == "--help" || arg == "-h" {
            println!("{usage}{ENDING}");
            return ExitCode::SUCCESS;
        } else if flags.contains(&arg.as_str()) {
            args.options.push((arg, String::new()));
        } else if valued.contains(&option) {
            match value.or_else(|| given.next()) {
                Some(value) => args.options.push((option.to_owned(), value)),
                None => problem = Some(format!("{arg} needs a value")),
            }
        } else if arg.starts_with('-') {
            problem = Some(format!("unknown option {arg}"));
        } else {
            args.operands.push(arg);
        }
    }
    warnings::show();
    let done = match problem {
        Some(problem) => Err(Usage(problem).into()),
        None => body(&args),
    };
    let Err(e) = done else { return ExitCode::SUCCESS };
    if let Some(problem) = e.downcast_ref::<Usage>() {
        eprintln!("{name}: {problem}\n\n{usage}{ENDING}");
        return ExitCode::from(2);
    }
    // Only what we print to can be a pipe here. A reader that has seen enough, as `head` has, is no failure.
    if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("{name}: {}", chain(&*e));
    ExitCode::FAILURE
}

/// An error with its causes.
pub fn chain(e: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(e), |&e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// `TOPIC` or `TOPIC/PARTITION`.
pub fn place(text: &str) -> Result<(&str, Option<u16>), Usage> {
    match text.split_once('/') {
        None => Ok((text, None)),
        Some((topic, id)) => match id.parse() {
            Ok(id) => Ok((topic, Some(id))),
            Err(_) => Err(Usage(format!("{text}: {id:?} is no partition"))),
        },
    }
}
