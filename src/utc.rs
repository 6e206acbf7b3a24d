//! Times as text, in the form of RFC 3339: `2026-11-22T08:30:00Z`, always UTC.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

/// Writes a time with as many digits of its second as it has. A year that needs more than four digits gets a sign, as in ISO 8601.
pub(crate) fn write(f: &mut fmt::Formatter<'_>, time: SystemTime) -> fmt::Result {
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
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
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
