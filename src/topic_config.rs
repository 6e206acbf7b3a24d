//! A topic's configuration (reference, section 7.3).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The most characters of a value.
const MAX_VALUE: usize = 127;

/// A server counts a segment's bytes in 32 bits and closes it after the first request that passes this size.
const MAX_SEGMENT: u64 = (4 << 30) - (256 << 20);

/// A key, how its value is read and then written, and what is allowed, in words.
type Setting = (&'static str, fn(&str) -> Option<String>, &'static str);

static SETTINGS: [Setting; 12] = [
    ("retention.segments.count", |text| number(text, |count| count != 1), "0 (all of them), or 2 to 4294967295"),
    ("log.cleanup.policy", policy, "cleanup or delete"),
    ("log.cleaner.min.cleanable.ratio", ratio, "0 to 1, such as 0.5"),
    ("log.retention.secs", duration, DURATION),
    ("log.retention.bytes", |text| size(text, |bytes| bytes == 0 || bytes >= 128), RETAINED),
    ("log.segment.bytes", |text| size(text, |bytes| (64..=MAX_SEGMENT).contains(&bytes)), SEGMENT),
    ("log.index.interval.bytes", |text| size(text, |bytes| bytes >= 128), INDEX),
    ("log.index.size.max.bytes", |text| size(text, |bytes| bytes >= 128), INDEX),
    ("log.roll.jitter.secs", duration, DURATION),
    ("log.roll.secs", duration, DURATION),
    ("flush.messages", |text| number(text, |_| true), "0 to 4294967295"),
    ("flush.secs", duration, DURATION),
];

const RETAINED: &str = "0 (everything), or at least 128 bytes";
const SEGMENT: &str = "64 to 4026531840 bytes, such as 64mb";
const INDEX: &str = "at least 128 bytes, such as 4096, 64kb, 16mb or 1gb+512mb";
const DURATION: &str = "0 to 4294967295 seconds, such as 90, 90s, 15min, 12h, 7days, 1week+2days or 1y; \
    no months, which a server takes for 365 days each";
const TEXT: &str = "1 to 127 bytes without line end, # or outer blanks";
const KEY: &str = "a key of at least one byte without line end, =, # or outer blanks";

/// How a topic's partitions are stored. The server decides what is not set.
///
/// Every setting is checked when it is made, so a server accepts any value of this type. [`Display`] writes the lines that a
/// server reads, in alphabetical order of their keys, and [`FromStr`] reads them:
///
/// ```
/// use tank_client::TopicConfig;
///
/// let config = TopicConfig::new().set("log.segment.bytes", "64mb")?.set("log.retention.secs", "9days")?;
/// assert_eq!(config.to_string(), "log.retention.secs=777600\nlog.segment.bytes=67108864\n");
/// assert_eq!("log.segment.bytes = 64mb # small\nlog.retention.secs = 1week+2days".parse::<TopicConfig>()?, config);
/// # Ok::<(), tank_client::Error>(())
/// ```
///
/// A cluster checks a configuration and then ignores it.
///
/// # Keys
/// | Key | Meaning | Value | Default |
/// | --- | --- | --- | --- |
/// | `retention.segments.count` | how many closed segments of a partition are kept | 0 for all, or at least 2 | 0 |
/// | `log.retention.secs` | how long a closed segment is kept | a duration; 0 for ever | 0 |
/// | `log.retention.bytes` | how many bytes of closed segments are kept | 0 for all, or at least 128 | 0 |
/// | `log.cleanup.policy` | what happens to old segments: they are deleted once the retention settings say so, or compacted (of the messages with the same key only the last one stays) | `delete` or `cleanup` | `delete` |
/// | `log.cleaner.min.cleanable.ratio` | how large a part of a log must be uncompacted before it is compacted | 0 to 1 | 0.5 |
/// | `log.segment.bytes` | after how many bytes a new segment begins | 64 bytes to 3.75 GiB | 1 GiB |
/// | `log.roll.secs` | the age of a segment at which a new one begins | a duration | a week |
/// | `log.roll.jitter.secs` | by how much that age varies at random | a duration | 0 |
/// | `log.index.interval.bytes` | after how many bytes of a log its index gets an entry | at least 128 | 4,096 |
/// | `log.index.size.max.bytes` | at how many bytes of index a new segment begins | at least 128 | 10 MiB |
/// | `flush.messages` | after how many messages a log is flushed to disk | 0 for never | 0 |
/// | `flush.secs` | how long a log may go without being flushed | a duration; 0 for ever | 0 |
///
/// A size is a number of bytes such as `4096`, `64kb` or `1gb+512mb`. A duration is a number of seconds such as `90`, `15min`,
/// `12h`, `1week+2days` or `1y`, up to 2^32−1.
///
/// # What is read
/// Lines of `key=value`. Blanks around the key and the value are ignored, a `#` begins a comment, and empty lines are skipped.
/// As on a server, a line of only blanks is an error, and so is an indented comment except on the first line. Case does not
/// matter in keys. If a key occurs twice, its last line counts. Unknown keys are [kept](TopicConfig::unknown).
///
/// Some input is refused although a server accepts it, because the server would misunderstand it: months in a duration (it
/// counts 365 days for each), numbers that it would truncate or misread, a line without a key, and segments so large that it
/// would miscount their bytes.
///
/// [`Display`]: fmt::Display
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// What is set, as text, by key in lower case.
    values: BTreeMap<String, String>,
}

impl TopicConfig {
    /// Creates a configuration that leaves everything to the server, as [`Default`] does.
    pub fn new() -> TopicConfig {
        TopicConfig::default()
    }

    /// Sets a key to a value, given as the text that a server reads, units included.
    ///
    /// An unknown key is kept, in lower case: a newer server may know it, and others ignore it.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) for a value that a server would refuse or misunderstand, or for a key or value that
    /// does not fit on a line.
    pub fn set(mut self, key: &str, value: &str) -> Result<Self> {
        let error = |allowed| Error::config(format!("{key} is {value:?}; allowed: {allowed}"));
        if !is_word(key) || key.contains('=') {
            return Err(error(KEY));
        }
        if !is_word(value) || value.len() > MAX_VALUE {
            return Err(error(TEXT));
        }
        let value = match known(key) {
            Some((_, read, allowed)) => read(value).ok_or_else(|| error(allowed))?,
            None => value.to_owned(),
        };
        self.values.insert(key.to_ascii_lowercase(), value);
        Ok(self)
    }

    /// Returns the text of a key's value, sizes in bytes and durations in seconds; `None` if it is left to the server.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(&key.to_ascii_lowercase()).map(String::as_str)
    }

    /// Returns the unknown keys, in alphabetical order, with their values. A newer server may know them, or they are misspelt.
    pub fn unknown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().filter(|(key, _)| known(key).is_none()).map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Returns the key's entry in the table, if it has one.
fn known(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(key))
}

/// Returns whether it is read unchanged wherever it stands in a line.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(['\n', '#']) && text.trim_matches(blank) == text
}

impl fmt::Display for TopicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.iter().try_for_each(|(key, value)| writeln!(f, "{key}={value}"))
    }
}

impl FromStr for TopicConfig {
    type Err = Error;

    fn from_str(text: &str) -> Result<TopicConfig> {
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
                let line = before + index + 1;
                return Err(Error::config(format!("line {line}, {whole:?}, is not of the form key=value")));
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

/// A server reads at most ten digits, leading zeros included, and takes a longer number for 0.
fn number(text: &str, fits: impl FnOnce(u64) -> bool) -> Option<String> {
    let is_read = text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| is_read && *number <= u32::MAX.into() && fits(*number))?;
    Some(number.to_string())
}

fn policy(text: &str) -> Option<String> {
    ["cleanup", "delete"].iter().find(|policy| text.eq_ignore_ascii_case(policy)).map(ToString::to_string)
}

/// Digits with at most one `.` or `,`; no exponent.
fn ratio(text: &str) -> Option<String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b',');
    let ratio = text.replace(',', ".").parse::<f32>().ok().filter(|ratio| is_plain && *ratio <= 1.0)?;
    Some(ratio.to_string())
}

fn size(text: &str, fits: impl FnOnce(u64) -> bool) -> Option<String> {
    terms(text, &SIZES).filter(|bytes| fits(*bytes)).map(|bytes| bytes.to_string())
}

/// In seconds, whatever the units.
fn duration(text: &str) -> Option<String> {
    terms(text, &DURATIONS).filter(|seconds| *seconds <= u32::MAX.into()).map(|seconds| seconds.to_string())
}

/// Units and their factors, in the order in which a server tries them: the first that the rest begins with counts.
type Units = [(&'static [&'static str], u64)];

const SIZES: [(&[&str], u64); 5] = [
    (&["terabytes", "terabyte", "tbs", "tb", "t"], 1 << 40),
    (&["gigabytes", "gibabyte", "gbs", "gb", "g"], 1 << 30),
    (&["megabytes", "megabyte", "mbs", "mb", "m"], 1 << 20),
    (&["kilobytes", "kilobyte", "kbs", "kb", "k"], 1 << 10),
    (&["bytes", "byte", "b"], 1),
];

const DAY: u64 = 86_400;

/// A factor of 0 is for a unit that is refused.
const DURATIONS: [(&[&str], u64); 7] = [
    (&["weeks", "week", "w"], 7 * DAY),
    (&["years", "year", "y"], 365 * DAY),
    (&["months", "month", "mon"], 0),
    (&["days", "day", "d"], DAY),
    (&["hours", "hour", "h"], 3600),
    (&["minutes", "minute", "mins", "min"], 60),
    (&["seconds", "second", "secs", "sec", "s"], 1),
];

/// The sum of one or more numbers with units, if it fits in 64 bits.
fn terms(mut rest: &str, units: &Units) -> Option<u64> {
    let mut sum = 0u64;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at_checked(digits)?;
        let mut names = units.iter().flat_map(|(names, factor)| names.iter().map(move |name| (*name, *factor)));
        let found = names.find_map(|(name, factor)| Some((after.strip_prefix(name)?, factor)));
        let (after, factor) = found.unwrap_or((after, 1));
        let after = after.strip_prefix(',').unwrap_or(after);
        rest = after.strip_prefix('+').unwrap_or(after);
        if factor == 0 {
            return None;
        }
        let term = number.parse::<u64>().ok()?.checked_mul(factor)?;
        sum = sum.checked_add(term)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests;
