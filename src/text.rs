//! Settings and positions as text, for command lines and files: `parse` reads what `Display` writes.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{Acks, MAX_PEERS};
use crate::consume::{OutOfRange, Position, Positions};
use crate::error::{Error, Result};
use crate::message::{Start, check_topic};
use crate::protocol::bundle::Compression;

fn malformed<T>(what: &str, text: &str, allowed: &str) -> Result<T> {
    Err(Error::config(format!("{what}: {text:?} given, {allowed} allowed")))
}

/// Writes `earliest`, `latest`, a sequence number, `last:` and a count, or `@` and a time in seconds since 1970.
impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Start::Earliest => f.pad("earliest"),
            Start::Latest => f.pad("latest"),
            Start::At(seq) => seq.fmt(f),
            Start::Last(n) => write!(f, "last:{n}"),
            Start::Time(time) => f.pad(&seconds(time)),
        }
    }
}

/// Reads `earliest`, `latest`, a sequence number such as `1000`, `last:100` for the last hundred numbers, or a time in seconds
/// since 1970 such as `@1795336200.5`. Dates are left to libraries for dates.
impl FromStr for Start {
    type Err = Error;

    fn from_str(text: &str) -> Result<Start> {
        let seq = || text.parse().ok().map(Start::At);
        let last = || text.strip_prefix("last:")?.parse().ok().map(Start::Last);
        let time = || text.strip_prefix('@').and_then(parse_seconds).map(Start::Time);
        let allowed = "earliest, latest, a number, last:100, or a time such as @1795336200.5";
        match text {
            "earliest" => Ok(Start::Earliest),
            "latest" => Ok(Start::Latest),
            _ => seq().or_else(last).or_else(time).map_or_else(|| malformed("start", text, allowed), Ok),
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

/// Writes topic, partition and number: `orders/0=17`. In the topic, each byte of white space, control characters and `%` is
/// written as `%` and two hexadecimal digits: `%20` is a space.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.topic.chars() {
            if c.is_whitespace() || c.is_control() || c == '%' {
                c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "%{byte:02x}"))?;
            } else {
                f.write_char(c)?;
            }
        }
        write!(f, "/{}={}", self.partition, self.seq)
    }
}

/// Reads topic, partition and number: `orders/0=17`. In the topic, which has 1 to 255 bytes, `%` and two hexadecimal digits
/// mean a byte of UTF-8.
impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Position> {
        let parsed = text.rsplit_once('=').and_then(|(name, seq)| {
            let (topic, partition) = name.rsplit_once('/')?;
            Some(Position::new(unescape(topic)?, partition.parse().ok()?, seq.parse().ok()?))
        });
        match parsed {
            Some(position) => check_topic(&position.topic).map(|()| position),
            None => malformed("position", text, "one such as orders/0=17"),
        }
    }
}

fn unescape(topic: &str) -> Option<String> {
    let mut parts = topic.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// Writes all of them in one line, separated by spaces: `orders/0=17 orders/1=4`. The line is empty if there are none.
impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, position) in self.iter().enumerate() {
            let between = if index == 0 { "" } else { " " };
            write!(f, "{between}{position}")?;
        }
        Ok(())
    }
}

/// Reads any number of positions separated by white space: `orders/0=17 orders/1=4`. Two of the same partition are refused.
impl FromStr for Positions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Positions> {
        let mut named = HashSet::new();
        let all = text.split_whitespace().map(|one| match one.parse::<Position>() {
            Ok(p) if !named.insert((p.topic.clone(), p.partition)) => {
                malformed("positions", one, "one of each partition")
            }
            parsed => parsed,
        });
        all.collect()
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

/// Writes a time as `@` and the seconds since 1970, with as many decimal places as it has.
fn seconds(time: SystemTime) -> String {
    let (sign, span) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => ("", since),
        Err(before) => ("-", before.duration()),
    };
    let text = format!("@{sign}{}.{:09}", span.as_secs(), span.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn parse_seconds(seconds: &str) -> Option<SystemTime> {
    let span = seconds.strip_prefix('-').unwrap_or(seconds);
    let (whole, digits) = span.split_once('.').unwrap_or((span, "0"));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(digits) || !(1..=9).contains(&digits.len()) {
        return None;
    }
    let since = Duration::new(whole.parse().ok()?, format!("{digits:0<9}").parse().ok()?);
    if span == seconds { UNIX_EPOCH.checked_add(since) } else { UNIX_EPOCH.checked_sub(since) }
}
