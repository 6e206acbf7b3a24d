//! Settings, positions and times as text, for command lines and files: `parse` reads what `Display` writes. Times have the form
//! of RFC 3339, `2026-11-22T08:30:00Z`, always UTC.

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

/// Writes `earliest`, `latest`, a sequence number, `last:` and how many, or a time in UTC in the form of RFC 3339.
impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Start::Earliest => f.pad("earliest"),
            Start::Latest => f.pad("latest"),
            Start::At(seq) => seq.fmt(f),
            Start::Last(n) => write!(f, "last:{n}"),
            Start::Time(time) => write_utc(f, time),
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
        match parse_utc(text) {
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

/// Writes topic, partition and number: `orders/0=17`. White space, control characters and `%` in a topic are written as their
/// bytes in UTF-8, `%20` for a space; all else stays as it is.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.topic.chars() {
            match c.is_whitespace() || c.is_control() || c == '%' {
                true => c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "%{byte:02x}"))?,
                false => f.write_char(c)?,
            }
        }
        write!(f, "/{}={}", self.partition, self.seq)
    }
}

/// Reads topic, partition and number: `orders/0=17`. In the topic, which has 1 to 255 bytes, `%` and two hexadecimal digits
/// stand for a byte of UTF-8.
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

/// Writes all of them in one line, with spaces between: `orders/0=17 orders/1=4`. There is nothing in the line if there are
/// none.
impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, position) in self.iter().enumerate() {
            let between = if index == 0 { "" } else { " " };
            write!(f, "{between}{position}")?;
        }
        Ok(())
    }
}

/// Reads any number of positions with white space between: `orders/0=17 orders/1=4`. Two of the same partition are refused.
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

const DAY: i64 = 86_400;

/// Writes a time with as many digits of its second as it has. A year that needs more than four digits gets a sign, as in ISO 8601.
fn write_utc(f: &mut fmt::Formatter<'_>, time: SystemTime) -> fmt::Result {
    let (seconds, nanos) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (seconds(since), since.subsec_nanos()),
        Err(before) => match before.duration() {
            until if until.subsec_nanos() == 0 => (-seconds(until), 0),
            until => (-seconds(until) - 1, 1_000_000_000 - until.subsec_nanos()),
        },
    };
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    if (0..=9999).contains(&year) {
        write!(f, "{year:04}")?
    } else {
        write!(f, "{year:+05}")?
    }
    write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
    if nanos > 0 {
        write!(f, ".{}", format!("{nanos:09}").trim_end_matches('0'))?;
    }
    f.write_str("Z")
}

/// Reads a date, which stands for its first moment, or a date and a time of day.
fn parse_utc(text: &str) -> Option<SystemTime> {
    let (date, of_day) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let (unsigned, sign) = match (date.strip_prefix('-'), date.strip_prefix('+')) {
        (Some(date), _) => (date, -1),
        (_, Some(date)) => (date, 1),
        _ => (date, 1),
    };
    let digits = if unsigned == date { 4..=4 } else { 4..=12 };
    let (year, month, day) = three(unsigned, '-', digits)?;
    let year = sign * year;
    let of_day = of_day.strip_suffix('Z')?;
    let (of_day, digits) = of_day.split_once('.').unwrap_or((of_day, "0"));
    let (hour, minute, second) = three(of_day, ':', 2..=2)?;
    let days = days(year, month, day);
    if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let nanos = number(digits, 1..=9).and_then(|_| number(&format!("{digits:0<9}"), 9..=9))?;
    let seconds = days.checked_mul(DAY)?.checked_add(hour * 3600 + minute * 60 + second)?;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    time?.checked_add(Duration::from_nanos(nanos.unsigned_abs()))
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// Reads a number of that many digits and two numbers of two digits each.
fn three(text: &str, between: char, digits: std::ops::RangeInclusive<usize>) -> Option<(i64, i64, i64)> {
    let mut parts = text.split(between);
    let three = (number(parts.next()?, digits)?, number(parts.next()?, 2..=2)?, number(parts.next()?, 2..=2)?);
    parts.next().is_none().then_some(three)
}

fn number(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let is_number = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Returns how many days a date lies after 1970-01-01. Years begin in March here, so that a leap day is their last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

/// Returns the year, month and day that lie this many days after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let (era, of_era) = ((days + 719_468).div_euclid(146_097), (days + 719_468).rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    (era * 400 + year + i64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 }, day)
}
