//! A topic's configuration (reference, section 7.3).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The most characters of a value.
const MAX_VALUE: usize = 127;

/// A server counts a segment's bytes in 32 bits and ends it with the first request that passes this size.
const MAX_SEGMENT: u64 = (4 << 30) - (256 << 20);

const SEGMENTS: &str = "retention.segments.count";
const CLEANUP: &str = "log.cleanup.policy";
const RATIO: &str = "log.cleaner.min.cleanable.ratio";
const RETENTION: &str = "log.retention.secs";
const RETENTION_BYTES: &str = "log.retention.bytes";
const SEGMENT_BYTES: &str = "log.segment.bytes";
const INDEX_INTERVAL: &str = "log.index.interval.bytes";
const INDEX_SIZE: &str = "log.index.size.max.bytes";
const ROLL_JITTER: &str = "log.roll.jitter.secs";
const ROLL: &str = "log.roll.secs";
const FLUSH_MESSAGES: &str = "flush.messages";
const FLUSH: &str = "flush.secs";

/// The keys in the order in which they are written.
const KEYS: [&str; 12] = [
    SEGMENTS,
    CLEANUP,
    RATIO,
    RETENTION,
    RETENTION_BYTES,
    SEGMENT_BYTES,
    INDEX_INTERVAL,
    INDEX_SIZE,
    ROLL_JITTER,
    ROLL,
    FLUSH_MESSAGES,
    FLUSH,
];

const SECONDS: &str = "whole seconds, 0 to 4294967295";
const DURATION: &str = "a duration of 0 to 4294967295 seconds, such as 90, 90s, 15min, 12h, 7days, 1week+2days or 1y";
const MONTHS: &str = "a duration in days instead: a server takes a month for 365 days";
const SIZE: &str = "a size of at most 2^64-1 bytes, such as 4096, 64kb, 16mb, 1gb+512mb or 2tb";
const NUMBER: &str = "0 to 4294967295";
const SEGMENTS_RANGE: &str = "0 (all of them), or 2 to 4294967295";
const RATIO_RANGE: &str = "0 to 1";
const CLEANUP_RANGE: &str = "cleanup or delete";
const RETENTION_RANGE: &str = "0 (everything), or at least 128 bytes";
const SEGMENT_RANGE: &str = "64 to 4026531840 bytes";
const INDEX_RANGE: &str = "at least 128 bytes";
const TEXT: &str = "1 to 127 bytes without line end, # or outer blanks";
const KEY: &str = "a key of at least one byte without line end, =, # or outer blanks";

/// What happens to a partition's old segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CleanupPolicy {
    /// They are deleted once the retention settings say so.
    Delete,
    /// They are compacted: of the messages with the same key only the last one stays.
    Compact,
}

/// How a topic's partitions are stored; the server decides what is not set.
///
/// Every setting is checked when it is made, so that a value of this type is one a server accepts. [`Display`] gives the
/// lines a server reads, and [`FromStr`] reads them:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tank_client::TopicConfig;
///
/// let config = TopicConfig::new().segment_bytes(64 << 20)?.retention(Duration::from_secs(9 * 86_400))?;
/// assert_eq!(config.to_string(), "log.retention.secs=777600\nlog.segment.bytes=67108864\n");
/// assert_eq!("log.segment.bytes = 64mb # small\nlog.retention.secs = 1week+2days".parse(), Ok(config));
/// # Ok(())
/// # }
/// ```
///
/// A cluster checks a configuration and then ignores it.
///
/// # What is read
/// Lines of `key=value`. Blanks around either are ignored, a `#` begins a comment, and empty lines are skipped. As on a
/// server, a line of only blanks is an error, and so is an indented comment except on the first line. Keys ignore case, and
/// the last of several lines with the same key counts. Keys that are not known here are [kept](TopicConfig::unknown).
///
/// Some values are refused here although a server accepts them: a month in a duration, which it counts as 365 days; numbers
/// that it would cut to their low bits or misread; a line without a key; segments so large that it would lose count of their
/// bytes.
///
/// [`Display`]: fmt::Display
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// What is set, as text: by place in [`KEYS`], or after them, and by key in lower case.
    values: BTreeMap<(usize, String), Setting>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Setting {
    key: String,
    value: String,
}

/// A setting that a server refuses, or understands as something other than it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicConfigError {
    /// A value out of range, or not in the right form.
    #[error("{key} is {value:?}; allowed is {allowed}")]
    Value {
        /// The key.
        key: String,
        /// The value that was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A line that is no `key=value`: without `=`, without a value, of blanks only, or an indented comment.
    #[error("line {line}, {text:?}, is not of the form key=value")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// The line.
        text: String,
    },
}

impl TopicConfigError {
    fn new(key: &str, value: impl ToString, allowed: &'static str) -> TopicConfigError {
        TopicConfigError::Value { key: key.to_owned(), value: value.to_string(), allowed }
    }
}

/// Chainable setters that refuse what no server takes.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($given:ident: $type:ty) => $set:ident($key:ident $(, $more:expr)*);)*) => {$(
        $(#[$doc])*
        pub fn $name(self, $given: $type) -> Result<Self, TopicConfigError> {
            self.$set($key, $given $(, $more)*)
        }
    )*};
}

impl TopicConfig {
    /// Creates a configuration that leaves everything to the server; also [`Default`].
    pub fn new() -> TopicConfig {
        TopicConfig::default()
    }

    /// Sets what happens to old segments. The default is to delete them.
    #[must_use]
    pub fn cleanup_policy(self, policy: CleanupPolicy) -> Self {
        let word = match policy {
            CleanupPolicy::Delete => "delete",
            CleanupPolicy::Compact => "cleanup",
        };
        self.put(CLEANUP, word)
    }

    /// Sets after how many messages a log is flushed to disk; 0, the default, is never.
    #[must_use]
    pub fn flush_messages(self, count: u32) -> Self {
        self.put(FLUSH_MESSAGES, count)
    }

    /// Sets how large a part of a log must be uncompacted before it is compacted, from 0 to 1. The default is 0.5.
    ///
    /// # Errors
    /// Anything else.
    pub fn min_cleanable_ratio(self, ratio: f32) -> Result<Self, TopicConfigError> {
        // -0.0 is 0 too, but a server reads no sign.
        let given = if ratio == 0.0 { 0.0 } else { ratio };
        self.checked(RATIO, given, (0.0..=1.0).contains(&ratio), RATIO_RANGE)
    }

    setters! {
        /// Sets how many closed segments of a partition are kept: 0, the default, for all of them, or at least 2.
        ///
        /// # Errors
        /// 1.
        retention_segments(count: u32) => checked(SEGMENTS, count != 1, SEGMENTS_RANGE);

        /// Sets how long a closed segment is kept, in whole seconds; 0, the default, is for ever.
        ///
        /// # Errors
        /// A part of a second, or more than 2^32−1 seconds, some 136 years.
        retention(age: Duration) => seconds(RETENTION);

        /// Sets how many bytes of a partition's closed segments are kept: 0, the default, for all, or at least 128.
        ///
        /// # Errors
        /// 1 to 127.
        retention_bytes(bytes: u64) => checked(RETENTION_BYTES, bytes == 0 || bytes >= 128, RETENTION_RANGE);

        /// Sets after how many bytes a new segment begins: 64 bytes to 3.75 GiB. The default is 1 GiB.
        ///
        /// # Errors
        /// Anything else. A server accepts more, but counts a segment's bytes in 32 bits.
        segment_bytes(bytes: u64) => checked(SEGMENT_BYTES, (64..=MAX_SEGMENT).contains(&bytes), SEGMENT_RANGE);

        /// Sets after how many bytes of a log its index gets an entry, at least 128. The default is 4,096.
        ///
        /// # Errors
        /// Below 128.
        index_interval_bytes(bytes: u64) => checked(INDEX_INTERVAL, bytes >= 128, INDEX_RANGE);

        /// Sets at how many bytes of index a new segment begins, at least 128. The default is 10 MiB.
        ///
        /// # Errors
        /// Below 128.
        index_size_max_bytes(bytes: u64) => checked(INDEX_SIZE, bytes >= 128, INDEX_RANGE);

        /// Sets by how much the age at which a segment ends varies at random, in whole seconds. The default is 0.
        ///
        /// # Errors
        /// As [`retention`](TopicConfig::retention).
        roll_jitter(most: Duration) => seconds(ROLL_JITTER);

        /// Sets the age of a segment at which a new one begins, in whole seconds. The default is a week.
        ///
        /// # Errors
        /// As [`retention`](TopicConfig::retention).
        roll_after(age: Duration) => seconds(ROLL);

        /// Sets how long a log may go without being flushed to disk, in whole seconds; 0, the default, is for ever.
        ///
        /// # Errors
        /// As [`retention`](TopicConfig::retention).
        flush_after(age: Duration) => seconds(FLUSH);
    }

    /// Sets any key by the text of its value, in the form that a server reads; units included.
    ///
    /// A key that is not known here is kept as it is: a newer server may know it, and others ignore it.
    ///
    /// # Errors
    /// A value out of the key's range or not of its form; a key or value that does not fit on a line.
    pub fn set(self, key: &str, value: &str) -> Result<Self, TopicConfigError> {
        let error = |allowed| Err(TopicConfigError::new(key, value, allowed));
        if key.is_empty() || key.contains(['\n', '=', '#']) || key.trim_matches(blank) != key {
            return error(KEY);
        }
        if value.is_empty()
            || value.len() > MAX_VALUE
            || value.contains(['\n', '#'])
            || value.trim_matches(blank) != value
        {
            return error(TEXT);
        }
        let known_as = key.to_ascii_lowercase();
        match known_as.as_str() {
            SEGMENTS => self.retention_segments(number(key, value)?),
            CLEANUP if value.eq_ignore_ascii_case("cleanup") => Ok(self.cleanup_policy(CleanupPolicy::Compact)),
            CLEANUP if value.eq_ignore_ascii_case("delete") => Ok(self.cleanup_policy(CleanupPolicy::Delete)),
            CLEANUP => error(CLEANUP_RANGE),
            RATIO => match decimal(value) {
                Some(ratio) => self.min_cleanable_ratio(ratio),
                None => error(RATIO_RANGE),
            },
            RETENTION => self.retention(duration(key, value)?),
            RETENTION_BYTES => self.retention_bytes(size(key, value)?),
            SEGMENT_BYTES => self.segment_bytes(size(key, value)?),
            INDEX_INTERVAL => self.index_interval_bytes(size(key, value)?),
            INDEX_SIZE => self.index_size_max_bytes(size(key, value)?),
            ROLL_JITTER => self.roll_jitter(duration(key, value)?),
            ROLL => self.roll_after(duration(key, value)?),
            FLUSH_MESSAGES => Ok(self.flush_messages(number(key, value)?)),
            FLUSH => self.flush_after(duration(key, value)?),
            _ => Ok(self.put(key, value)),
        }
    }

    /// The text of a key's value, sizes in bytes and durations in seconds; `None` if it is left to the server.
    pub fn get(&self, key: &str) -> Option<String> {
        self.values.values().find(|setting| setting.key.eq_ignore_ascii_case(key)).map(|setting| setting.value.clone())
    }

    /// Keys that are not known here, in their order, with their values, which a server may know or ignores: misspelt ones, perhaps.
    pub fn unknown(&self) -> impl Iterator<Item = (&str, &str)> {
        let unknown = self.values.range((KEYS.len(), String::new())..);
        unknown.map(|(_, setting)| (setting.key.as_str(), setting.value.as_str()))
    }

    fn put(mut self, key: &str, value: impl ToString) -> Self {
        let known_as = key.to_ascii_lowercase();
        let place = KEYS.iter().position(|known| *known == known_as).unwrap_or(KEYS.len());
        let kept = self.values.entry((place, known_as)).or_default();
        if kept.key.is_empty() {
            key.clone_into(&mut kept.key);
        }
        kept.value = value.to_string();
        self
    }

    /// Puts a value that lies in the range that `allowed` describes.
    fn checked(
        self,
        key: &str,
        value: impl ToString,
        ok: bool,
        allowed: &'static str,
    ) -> Result<Self, TopicConfigError> {
        if ok { Ok(self.put(key, value)) } else { Err(TopicConfigError::new(key, value, allowed)) }
    }

    fn seconds(self, key: &str, duration: Duration) -> Result<Self, TopicConfigError> {
        match u32::try_from(duration.as_secs()) {
            Ok(seconds) if duration.subsec_nanos() == 0 => Ok(self.put(key, seconds)),
            _ => Err(TopicConfigError::new(key, format_args!("{duration:?}"), SECONDS)),
        }
    }
}

impl fmt::Display for TopicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.values().try_for_each(|Setting { key, value }| writeln!(f, "{key}={value}"))
    }
}

impl FromStr for TopicConfig {
    type Err = TopicConfigError;

    fn from_str(text: &str) -> Result<TopicConfig, TopicConfigError> {
        let body = text.trim_start_matches(blank);
        let skipped = text.len() - body.len();
        let before = text.get(..skipped).map_or(0, |blanks| blanks.matches('\n').count());
        let mut config = TopicConfig::default();
        for (index, whole) in body.trim_end_matches(blank).split('\n').enumerate() {
            let line = whole.split_once('#').map_or(whole, |(line, _)| line);
            if line.is_empty() {
                continue;
            }
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let (key, value) = (key.trim_matches(blank), value.trim_matches(blank));
            if key.is_empty() || value.is_empty() {
                return Err(TopicConfigError::Line { line: before + index + 1, text: whole.to_owned() });
            }
            config = config.set(key, value)?;
        }
        Ok(config)
    }
}

/// What a server takes for a blank.
fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

fn number(key: &str, text: &str) -> Result<u32, TopicConfigError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    // A server reads at most ten digits, leading zeros included, and takes more for 0.
    let number = text.parse().ok().filter(|_| digits && text.len() <= 10);
    number.ok_or_else(|| TopicConfigError::new(key, text, NUMBER))
}

/// Digits with at most one `.` or `,`; no exponent.
fn decimal(text: &str) -> Option<f32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b',');
    if plain { text.replace(',', ".").parse().ok() } else { None }
}

/// Units in the order in which a server tries them: the first that the rest begins with counts.
const SIZES: [(&[&str], u64); 5] = [
    (&["terabytes", "terabyte", "tbs", "tb", "t"], 1 << 40),
    (&["gigabytes", "gibabyte", "gbs", "gb", "g"], 1 << 30),
    (&["megabytes", "megabyte", "mbs", "mb", "m"], 1 << 20),
    (&["kilobytes", "kilobyte", "kbs", "kb", "k"], 1 << 10),
    (&["bytes", "byte", "b"], 1),
];

const DAY: u64 = 86_400;

/// As [`SIZES`]; without a factor for what is refused.
const DURATIONS: [(&[&str], u64); 7] = [
    (&["weeks", "week", "w"], 7 * DAY),
    (&["years", "year", "y"], 365 * DAY),
    (&["months", "month", "mon"], 0),
    (&["days", "day", "d"], DAY),
    (&["hours", "hour", "h"], 3600),
    (&["minutes", "minute", "mins", "min"], 60),
    (&["seconds", "second", "secs", "sec", "s"], 1),
];

/// Why [`terms`] has no sum.
enum TermFault {
    /// It has another form, or passes 64 bits.
    Form,
    /// A unit has no factor.
    Unit,
}

fn size(key: &str, text: &str) -> Result<u64, TopicConfigError> {
    terms(text, &SIZES).map_err(|_| TopicConfigError::new(key, text, SIZE))
}

fn duration(key: &str, text: &str) -> Result<Duration, TopicConfigError> {
    match terms(text, &DURATIONS) {
        Ok(seconds) if seconds <= u32::MAX.into() => Ok(Duration::from_secs(seconds)),
        Ok(_) | Err(TermFault::Form) => Err(TopicConfigError::new(key, text, DURATION)),
        Err(TermFault::Unit) => Err(TopicConfigError::new(key, text, MONTHS)),
    }
}

/// The sum of one or more numbers with units.
fn terms(mut rest: &str, units: &[(&[&str], u64)]) -> Result<u64, TermFault> {
    let mut sum = 0u64;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at_checked(digits).ok_or(TermFault::Form)?;
        let number: u64 = number.parse().map_err(|_| TermFault::Form)?;
        let mut names = units.iter().flat_map(|(names, factor)| names.iter().map(move |name| (*name, *factor)));
        let found = names.find_map(|(name, factor)| Some((after.strip_prefix(name)?, factor)));
        let (after, factor) = found.unwrap_or((after, 1));
        if factor == 0 {
            return Err(TermFault::Unit);
        }
        let after = after.strip_prefix(',').unwrap_or(after);
        rest = after.strip_prefix('+').unwrap_or(after);
        sum = number.checked_mul(factor).and_then(|term| sum.checked_add(term)).ok_or(TermFault::Form)?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &str) -> Option<String> {
        TopicConfig::new().set(key, value).ok().map(|config| config.get(key).unwrap())
    }

    fn refusal(result: Result<TopicConfig, TopicConfigError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn boundaries_by_text() {
        let max = u64::MAX.to_string();
        let (ok, no): (fn(&str) -> Option<String>, _) = (|text| Some(text.to_owned()), None);
        let table = [
            (SEGMENTS, "0", ok("0")),
            (SEGMENTS, "1", no.clone()),
            (SEGMENTS, "2", ok("2")),
            (SEGMENTS, "4294967295", ok("4294967295")),
            (SEGMENTS, "4294967296", no.clone()),
            (SEGMENTS, "00000000002", no.clone()),
            (SEGMENTS, "+2", no.clone()),
            (SEGMENTS, "-2", no.clone()),
            (SEGMENTS, "two", no.clone()),
            (CLEANUP, "Delete", ok("delete")),
            (CLEANUP, "CLEANUP", ok("cleanup")),
            (CLEANUP, "compact", no.clone()),
            (RATIO, "0", ok("0")),
            (RATIO, "1", ok("1")),
            (RATIO, "0,25", ok("0.25")),
            (RATIO, ".5", ok("0.5")),
            (RATIO, "1.01", no.clone()),
            (RATIO, "-0.1", no.clone()),
            (RATIO, "1e-1", no.clone()),
            (RATIO, "nan", no.clone()),
            (RATIO, "0.1.2", no.clone()),
            (RATIO, ".", no.clone()),
            (RETENTION_BYTES, "0", ok("0")),
            (RETENTION_BYTES, "1", no.clone()),
            (RETENTION_BYTES, "127", no.clone()),
            (RETENTION_BYTES, "128", ok("128")),
            (RETENTION_BYTES, &max, ok(&max)),
            (RETENTION_BYTES, "18446744073709551616", no.clone()),
            (RETENTION_BYTES, "16777216t", no.clone()),
            (RETENTION_BYTES, "16777215t+1023g", ok("18446744072635809792")),
            (SEGMENT_BYTES, "63", no.clone()),
            (SEGMENT_BYTES, "64", ok("64")),
            (SEGMENT_BYTES, "3840m", ok("4026531840")),
            (SEGMENT_BYTES, "3840m+1", no.clone()),
            (INDEX_INTERVAL, "127", no.clone()),
            (INDEX_INTERVAL, "128", ok("128")),
            (INDEX_SIZE, "127", no.clone()),
            (INDEX_SIZE, "128", ok("128")),
            (RETENTION, "0", ok("0")),
            (RETENTION, "4294967295", ok("4294967295")),
            (RETENTION, "4294967296", no.clone()),
            (ROLL, "136y", ok("4288896000")),
            (ROLL, "137y", no.clone()),
            (ROLL_JITTER, "1h", ok("3600")),
            (FLUSH, "1min", ok("60")),
            (FLUSH_MESSAGES, "0", ok("0")),
            (FLUSH_MESSAGES, "4294967295", ok("4294967295")),
            (FLUSH_MESSAGES, "1k", no),
        ];
        for (key, value, expected) in table {
            assert_eq!(set(key, value), expected, "{key}={value}");
            assert_eq!(set(&key.to_uppercase(), value), expected, "{key}={value}");
        }
    }

    #[test]
    fn sizes() {
        let table = [
            ("1", Some(1)),
            ("5b", Some(5)),
            ("5byte", Some(5)),
            ("5bytes", Some(5)),
            ("1k", Some(1 << 10)),
            ("1kbs", Some(1 << 10)),
            ("1m", Some(1 << 20)),
            ("3mb", Some(3 << 20)),
            ("1gibabyte", Some(1 << 30)),
            ("1gigabytes", Some(1 << 30)),
            ("2tb", Some(2 << 40)),
            ("1gb+512mb", Some((1 << 30) + (512 << 20))),
            ("1gb,512mb", Some((1 << 30) + (512 << 20))),
            ("1gb,+512mb", Some((1 << 30) + (512 << 20))),
            ("1gb512mb", Some((1 << 30) + (512 << 20))),
            ("1kb+", Some(1 << 10)),
            ("1gigabyte", None),
            ("1KB", None),
            ("1kb 2", None),
            ("1+,2", None),
            ("kb", None),
            ("+1", None),
            ("-1", None),
            ("1.5gb", None),
            ("1x", None),
            ("٣", None),
        ];
        for (text, bytes) in table {
            assert_eq!(size("k", text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn durations() {
        let table = [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("90secs", Some(90)),
            ("1second", Some(1)),
            ("2min", Some(120)),
            ("2minutes", Some(120)),
            ("2h", Some(7200)),
            ("1day", Some(86_400)),
            ("1w", Some(604_800)),
            ("1week+2days", Some(777_600)),
            ("1y", Some(31_536_000)),
            ("2years1s", Some(63_072_001)),
            ("1m", None),
            ("1mo", None),
            ("1.5h", None),
            ("h", None),
            ("1Day", None),
        ];
        for (text, seconds) in table {
            assert_eq!(duration("k", text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
        for text in ["1mon", "1month", "2months", "1y+1month"] {
            assert!(duration("k", text).unwrap_err().to_string().contains("365 days"), "{text}");
        }
    }

    #[test]
    fn boundaries_by_setter() {
        let config = TopicConfig::new;
        let second = Duration::from_secs(1);
        let most = second * u32::MAX;
        for (result, ok) in [
            (config().retention_segments(0), true),
            (config().retention_segments(1), false),
            (config().retention_segments(2), true),
            (config().min_cleanable_ratio(0.0), true),
            (config().min_cleanable_ratio(-0.0), true),
            (config().min_cleanable_ratio(1.0), true),
            (config().min_cleanable_ratio(1.0001), false),
            (config().min_cleanable_ratio(-0.0001), false),
            (config().min_cleanable_ratio(f32::NAN), false),
            (config().min_cleanable_ratio(f32::MIN_POSITIVE), true),
            (config().retention_bytes(0), true),
            (config().retention_bytes(127), false),
            (config().retention_bytes(128), true),
            (config().segment_bytes(63), false),
            (config().segment_bytes(64), true),
            (config().segment_bytes(MAX_SEGMENT), true),
            (config().segment_bytes(MAX_SEGMENT + 1), false),
            (config().index_interval_bytes(127), false),
            (config().index_interval_bytes(128), true),
            (config().index_size_max_bytes(127), false),
            (config().index_size_max_bytes(u64::MAX), true),
            (config().retention(Duration::ZERO), true),
            (config().retention(most), true),
            (config().retention(most + second), false),
            (config().roll_after(Duration::from_millis(1500)), false),
            (config().roll_jitter(second), true),
            (config().flush_after(Duration::MAX), false),
        ] {
            assert_eq!(result.is_ok(), ok, "{result:?}");
            if let Ok(config) = result {
                assert_eq!(config.to_string().parse(), Ok(config), "what is written is read as the same");
            }
        }
    }

    #[test]
    fn errors_name_key_value_and_what_is_allowed() {
        let e = refusal(TopicConfig::new().segment_bytes(63));
        assert_eq!(e, r#"log.segment.bytes is "63"; allowed is 64 to 4026531840 bytes"#);
        let e = refusal("LOG.ROLL.SECS=1m".parse());
        assert!(e.starts_with(r#"LOG.ROLL.SECS is "1m"; allowed is a duration of 0 to 4294967295 seconds"#), "{e}");
        let e = refusal(TopicConfig::new().flush_after(Duration::from_millis(1500)));
        assert_eq!(e, r#"flush.secs is "1.5s"; allowed is whole seconds, 0 to 4294967295"#);
        assert_eq!(
            refusal("\n\n flush.secs=1\n\nflush.secs".parse()),
            r#"line 5, "flush.secs", is not of the form key=value"#
        );
    }

    #[test]
    fn lines() {
        let whole = TopicConfig::new()
            .retention_segments(8)
            .and_then(|c| c.cleanup_policy(CleanupPolicy::Compact).min_cleanable_ratio(0.3))
            .and_then(|c| c.retention(Duration::from_secs(1)))
            .and_then(|c| c.retention_bytes(128))
            .and_then(|c| c.segment_bytes(64))
            .and_then(|c| c.index_interval_bytes(129))
            .and_then(|c| c.index_size_max_bytes(130))
            .and_then(|c| c.roll_jitter(Duration::from_secs(2)))
            .and_then(|c| c.roll_after(Duration::from_secs(3)))
            .and_then(|c| c.flush_messages(4).flush_after(Duration::from_secs(5)))
            .and_then(|c| c.set("no.such.key", "a=b"))
            .unwrap();
        let text = "retention.segments.count=8\nlog.cleanup.policy=cleanup\nlog.cleaner.min.cleanable.ratio=0.3\n\
            log.retention.secs=1\nlog.retention.bytes=128\nlog.segment.bytes=64\nlog.index.interval.bytes=129\n\
            log.index.size.max.bytes=130\nlog.roll.jitter.secs=2\nlog.roll.secs=3\nflush.messages=4\nflush.secs=5\n\
            no.such.key=a=b\n";
        assert_eq!(whole.to_string(), text);
        assert_eq!(text.parse(), Ok(whole.clone()));
        assert_eq!(
            text.replace('\n', " # remark\r\n").replace('=', "\t= ").replace("a\t= b", "a=b").parse(),
            Ok(whole)
        );
        assert_eq!(TopicConfig::new().to_string(), "");
        for text in ["", " \n ", "#", "  # indented on the first line", "\n\n#\n\n"] {
            assert_eq!(text.parse(), Ok(TopicConfig::new()), "{text:?}");
        }
        for text in ["flush.secs", "flush.secs=", "flush.secs= # 1", "=1", "flush.secs=1\n \n#", "flush.secs=1\n #"] {
            assert!(matches!(text.parse::<TopicConfig>(), Err(TopicConfigError::Line { .. })), "{text:?}");
        }
        let twice = "flush.secs=1\nFlush.Secs=2".parse::<TopicConfig>().unwrap();
        assert_eq!(twice.to_string(), "flush.secs=2\n");
    }

    #[test]
    fn unknown_keys_stay_and_must_fit_on_a_line() {
        let config: TopicConfig = "new.key = 1\nflush.secs=1\nNEW.KEY=2".parse().unwrap();
        assert_eq!(config.unknown().collect::<Vec<_>>(), [("new.key", "2")]);
        assert_eq!((config.get("New.Key"), config.get("flush.messages")), (Some("2".into()), None));
        let (longest, longer) = ("v".repeat(127), "v".repeat(128));
        assert!(TopicConfig::new().set("k", &longest).is_ok());
        for (key, value) in [
            ("k", longer.as_str()),
            ("k", ""),
            ("k", "a\nb"),
            ("k", "a#b"),
            ("k", " a"),
            ("", "a"),
            ("a=b", "c"),
            ("a#", "b"),
        ] {
            assert!(TopicConfig::new().set(key, value).is_err(), "{key:?} {value:?}");
        }
    }
}
