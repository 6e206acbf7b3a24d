//! Times and spans as people write and read them; UTC throughout.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// In 1973.
const LEAST: u64 = 100_000_000_000;

/// `now`, so long before it (`90s`, `1h`), a date with or without a time of day (`2026-11-22T08:30:00`, also with a space
/// instead of the T), or milliseconds since 1970.
pub fn parse(text: &str, now: SystemTime) -> Option<SystemTime> {
    if text == "now" {
        return Some(now);
    }
    if let Ok(ms) = text.parse() {
        // A smaller number is a mistake: a year, or seconds.
        return (ms >= LEAST).then(|| UNIX_EPOCH.checked_add(Duration::from_millis(ms)))?;
    }
    parse_span(text).map_or_else(|| parse_date(text), |span| now.checked_sub(span))
}

/// A number and a unit: `250ms`, `90s`, `15m`, `1h`, `2d`, `1w`.
pub fn parse_span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => DAY * 1000,
        "w" => 7 * DAY * 1000,
        _ => return None,
    };
    Some(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(unit)?))
}

fn parse_date(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let [year, month, day] = numbers(date.split('-'))?;
    let (time, millis) = match time.split_once('.') {
        Some((time, digits)) if (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (time, format!("{digits:0<3}").parse::<u64>().ok()?)
        }
        Some(_) => return None,
        None => (time, 0),
    };
    let [hour, minute, second] = numbers(time.split(':').chain((time.len() == 5).then_some("0")))?;
    let known = (1970..=9999).contains(&year) && (1..=12).contains(&month) && hour < 24 && minute < 60 && second < 60;
    if !known || day == 0 || civil(days(year, month, day)) != (year, month, day) {
        return None;
    }
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis))
}

fn numbers<'a>(parts: impl Iterator<Item = &'a str>) -> Option<[u64; 3]> {
    let is_number = |part: &&str| (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Option<Vec<u64>> = parts.map(|part| Some(part).filter(is_number)?.parse().ok()).collect();
    parts?.try_into().ok()
}

/// Days from 1970-01-01 to a later date. Years begin in March here, so that the leap day is the last one.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

/// Year, month and day this many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    (year, if month < 10 { month + 3 } else { month - 9 }, day)
}

/// A time stamp as date and time; as it is if it lies after the year 9999.
pub fn show(ms: u64) -> String {
    let (days, of_day) = (ms / 1000 / DAY, ms / 1000 % DAY);
    if days >= self::days(10_000, 1, 1) {
        return ms.to_string();
    }
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// A span in its two largest units.
pub fn show_span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 if span.as_micros() < 10_000 => format!("{:.2} ms", span.as_secs_f64() * 1000.0),
        0..10 => format!("{} ms", span.as_millis()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..DAY => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / DAY, seconds / 3600 % 24),
    }
}

/// Milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
