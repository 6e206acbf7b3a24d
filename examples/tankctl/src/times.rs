//! Times and spans as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp, ZonedDateTime};

use crate::exit::Usage;

/// A time in 1973. A smaller number of milliseconds is a mistake: a year, or a time in seconds.
const LEAST: u64 = 100_000_000_000;

/// A time zone: `UTC`, `local`, a name such as `Europe/Athens`, or an offset such as `+02:00`.
pub fn parse_zone(text: &str) -> Result<TimeZone, String> {
    match text {
        "local" => Ok(TimeZone::system()),
        text => jiff::fmt::temporal::DateTimeParser::new().parse_time_zone(text).map_err(|e| e.to_string()),
    }
}

/// A point in time: `now`; a span before now (`90s`, `1h30m`, `2 days ago`); a date, or a date and a time of day, in this
/// zone unless it says another one; or milliseconds since 1970.
pub fn parse(text: &str, now: SystemTime, zone: &TimeZone) -> Result<SystemTime, Usage> {
    let wrong = |why: String| Usage(format!("{text:?} is not a time: {why}"));
    if text == "now" {
        return Ok(now);
    }
    if let Ok(ms) = text.parse::<u64>() {
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms)).filter(|_| ms >= LEAST);
        return time.ok_or_else(|| wrong(format!("milliseconds since 1970 are expected, at least {LEAST}")));
    }
    let time = match text.parse::<Span>() {
        Ok(span) => before(now, span, zone).map_err(|e| wrong(e.to_string()))?,
        Err(_) if !text.starts_with(|first: char| first.is_ascii_digit()) => {
            return Err(wrong("expected now, a span such as 1h30m, a date such as 2026-11-22, or milliseconds".into()));
        }
        Err(_) => parse_date(text, zone).map_err(|e| wrong(e.to_string()))?,
    };
    let time = SystemTime::try_from(time).map_err(|e| wrong(e.to_string()))?;
    if time < UNIX_EPOCH { Err(wrong("it lies before 1970".into())) } else { Ok(time) }
}

/// Days and months are those of the calendar in this zone.
fn before(now: SystemTime, span: Span, zone: &TimeZone) -> Result<Timestamp, jiff::Error> {
    let now = Timestamp::try_from(now)?.to_zoned_datetime(zone.clone());
    Ok(now.checked_sub(span.abs())?.timestamp())
}

fn parse_date(text: &str, zone: &TimeZone) -> Result<Timestamp, jiff::Error> {
    if let Ok(zoned) = text.parse::<ZonedDateTime>() {
        return Ok(zoned.timestamp());
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    zone.to_timestamp(text.parse::<DateTime>()?)
}

/// A length of time: `250ms`, `90s`, `1h30m`, `2d`.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let parse = || -> Result<Duration, jiff::Error> {
        let span = text.parse::<Span>()?;
        Duration::try_from(span.to_duration(SpanRelativeTo::days_are_24_hours())?)
    };
    // The library's own words name its formats.
    parse().map_err(|_| "a duration with units is expected, such as 10s, 500ms or 1h30m".into())
}

/// A time stamp as date and time, or as a number if it lies after the year 9999.
pub fn show(ms: u64, zone: &TimeZone) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let printer = DateTimePrinter::new().precision(Some(3));
    match time {
        None => ms.to_string(),
        Some(time) if *zone == TimeZone::UTC => printer.timestamp_to_string(&time),
        Some(time) => printer.timestamp_with_offset_to_string(&time, zone.to_offset(time)),
    }
}

/// A span in its two largest units.
pub fn show_span(span: Duration) -> String {
    const DAY: u64 = 86_400;
    let seconds = span.as_secs();
    match seconds {
        0 if span.as_micros() < 10_000 => format!("{:.2} ms", span.as_secs_f64() * 1000.0),
        0 => format!("{} ms", span.as_millis()),
        1..10 => format!("{seconds}.{} s", span.subsec_millis() / 100),
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_336_200_123;

    fn ms(text: &str, zone: &str) -> Option<u64> {
        let now = UNIX_EPOCH + Duration::from_millis(NOW);
        parse(text, now, &parse_zone(zone).unwrap()).ok().map(millis)
    }

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("now", NOW),
            ("1795336200123", NOW),
            ("250ms", 1_795_336_199_873),
            ("90s", 1_795_336_110_123),
            ("15m", 1_795_335_300_123),
            ("1h", 1_795_332_600_123),
            ("-1h", 1_795_332_600_123),
            ("1h ago", 1_795_332_600_123),
            ("1h30m", 1_795_330_800_123),
            ("1 hour 30 minutes", 1_795_330_800_123),
            ("2d", 1_795_163_400_123),
            ("1w", 1_794_731_400_123),
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400_000),
            ("2026-11-22", 1_795_305_600_000),
            ("2026-11-22T08:30", 1_795_336_200_000),
            ("2026-11-22 08:30:00", 1_795_336_200_000),
            ("2026-11-22T08:30:00.1Z", 1_795_336_200_100),
            ("2026-11-22T08:30:00.123456Z", NOW),
            ("2026-11-22T09:30:00.123+01:00", NOW),
            ("2026-11-22T10:30:00[Europe/Athens]", 1_795_336_200_000),
        ] {
            assert_eq!(ms(text, "UTC"), Some(expected), "{text}");
        }
        let wrong = "- h -1hh 0 60 2026 1795336200 2026-11 2026-13-01 2026-00-01 2026-11-00 2026-11-31 2026-02-29 \
                     2026-11-22T 2026-11-22T24:00 2026-11-22T08:60 2026-11-22T08:30:00. 1969-12-31 10000-01-01 \
                     99999999999999999999";
        for text in wrong.split(' ').chain([""]) {
            assert_eq!(ms(text, "UTC"), None, "{text:?}");
        }
        // A time of day is that of the zone; an offset says its own.
        assert_eq!(ms("2026-11-22T10:30", "Europe/Athens"), Some(1_795_336_200_000));
        assert_eq!(ms("2026-11-22T10:30", "+02:00"), Some(1_795_336_200_000));
        assert_eq!(ms("2026-11-22T08:30Z", "Europe/Athens"), Some(1_795_336_200_000));
        assert!(parse_zone("Nowhere/Else").is_err());
    }

    #[test]
    fn spans_are_read() {
        for (text, expected) in [("500ms", 500), ("10s", 10_000), ("1h30m", 5_400_000), ("2d", 172_800_000)] {
            assert_eq!(parse_span(text).map(|span| span.as_millis()), Ok(expected), "{text}");
        }
        for text in ["", "1", "5", "soon", "-10s", "1 fortnight"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_and_spans_are_shown() {
        let utc = TimeZone::UTC;
        assert_eq!(show(0, &utc), "1970-01-01T00:00:00.000Z");
        assert_eq!(show(NOW, &utc), "2026-11-22T08:30:00.123Z");
        assert_eq!(show(NOW, &parse_zone("Europe/Athens").unwrap()), "2026-11-22T10:30:00.123+02:00");
        assert_eq!(show(253_402_300_800_000, &utc), "253402300800000");
        assert_eq!(show(u64::MAX, &utc), u64::MAX.to_string());
        for (micros, expected) in [
            (60, "0.06 ms"),
            (9_990, "9.99 ms"),
            (10_000, "10 ms"),
            (999_999, "999 ms"),
            (9_999_999, "9.9 s"),
            (10_000_000, "10 s"),
            (185_000_000, "3 min 5 s"),
            (7_260_000_000, "2 h 1 min"),
            (180_000_000_000, "2 d 2 h"),
        ] {
            assert_eq!(show_span(Duration::from_micros(micros)), expected);
        }
    }
}
