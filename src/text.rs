//! Settings as text, for command lines and configuration files: `parse` reads what `Display` writes.

use std::fmt;
use std::str::FromStr;

use crate::config::{Acks, MAX_PEERS};
use crate::consume::OutOfRange;
use crate::error::{Error, Result};
use crate::message::Start;
use crate::protocol::bundle::Compression;
use crate::utc;

fn malformed<T>(what: &str, text: &str, allowed: &str) -> Result<T> {
    Err(Error::config(format!("{what}: {text:?} given, {allowed} allowed")))
}

/// Writes `earliest`, `latest`, a sequence number, `last:` and how many, or a time in UTC in the form of RFC 3339.
impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Start::Earliest => f.pad("earliest"),
            Start::Latest => f.pad("latest"),
            Start::At(seq) => seq.fmt(f),
            Start::Last(n) => write!(f, "last:{n}"),
            Start::Time(time) => utc::write(f, time),
        }
    }
}

/// Reads `earliest`, `latest`, a sequence number such as `1000`, `last:100` for the last hundred numbers, or a date in UTC,
/// with or without a time of day: `2026-11-22` or `2026-11-22T08:30:00Z`.
impl FromStr for Start {
    type Err = Error;

    fn from_str(text: &str) -> Result<Start> {
        match text {
            "earliest" => return Ok(Start::Earliest),
            "latest" => return Ok(Start::Latest),
            _ => {}
        }
        if let Ok(seq) = text.parse() {
            return Ok(Start::At(seq));
        }
        if let Some(Ok(n)) = text.strip_prefix("last:").map(str::parse) {
            return Ok(Start::Last(n));
        }
        match utc::parse(text) {
            Some(time) => Ok(Start::Time(time)),
            None => {
                malformed("start", text, "earliest, latest, a number, last:100, or a time such as 2026-11-22T08:30:00Z")
            }
        }
    }
}

/// Writes `all`, `quorum`, or the number of peers.
impl fmt::Display for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Acks::All => f.pad("all"),
            Acks::Quorum => f.pad("quorum"),
            Acks::Peers(count) => count.fmt(f),
        }
    }
}

/// Reads `all`, `quorum`, or a number of peers from 1 to 200.
impl FromStr for Acks {
    type Err = Error;

    fn from_str(text: &str) -> Result<Acks> {
        match (text, text.parse()) {
            ("all", _) => Ok(Acks::All),
            ("quorum", _) => Ok(Acks::Quorum),
            (_, Ok(count @ 1..=MAX_PEERS)) => Ok(Acks::Peers(count)),
            _ => malformed("acks", text, &format!("all, quorum, or 1 to {MAX_PEERS}")),
        }
    }
}

/// Gives the variants of a type names.
macro_rules! named {
    ($what:literal, $type:ident, $doc:literal, $($name:literal => $variant:ident),*) => {
        #[doc = $doc]
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $($type::$variant => $name),*
                })
            }
        }

        #[doc = concat!("Reads ", $doc)]
        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<$type> {
                match text {
                    $($name => Ok($type::$variant),)*
                    _ => malformed($what, text, &[$($name),*].join(", ")),
                }
            }
        }
    };
}

named!("compression", Compression, "`auto`, `none` or `snappy`.", "auto" => Auto, "none" => None, "snappy" => Snappy);
named!("policy", OutOfRange, "`fail`, `earliest` or `latest`.", "fail" => Fail, "earliest" => Earliest, "latest" => Latest);
