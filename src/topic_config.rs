//! A topic's configuration (reference, section 7.3).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The most characters of a value.
const MAX_VALUE: usize = 127;

/// A server counts a segment's bytes in 32 bits and closes it after the first request that passes this size.
const MAX_SEGMENT: u64 = (4 << 30) - (256 << 20);

/// Each key, how its value is read and then written, and what is allowed, in words.
static KEYS: [(&str, fn(&str) -> Option<String>, &str); 12] = [
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
/// A size is a number of bytes such as `4096`, `64kb` or `1gb+512mb`; a duration one of seconds, such as `90`, `15min`, `12h`,
/// `1week+2days` or `1y`, up to 2^32−1.
///
/// # What is read
/// Lines of `key=value`. Blanks around either are ignored, a `#` begins a comment, and empty lines are skipped. As on a
/// server, a line of only blanks is an error, and so is an indented comment except on the first line. Keys ignore case, and
/// the last of several lines with the same key counts. Unknown keys are [kept](TopicConfig::unknown).
///
/// Some values are refused here although a server accepts them: a month in a duration, which it counts as 365 days; numbers
/// that it would cut to their low bits or misread; a line without a key; segments so large that it would lose count of their
/// bytes.
///
/// [`Display`]: fmt::Display
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// What is set, as text, by key in lower case.
    values: BTreeMap<String, String>,
}

impl TopicConfig {
    /// Creates a configuration that leaves everything to the server; also [`Default`].
    pub fn new() -> TopicConfig {
        TopicConfig::default()
    }

    /// Sets a key by the text of its value, in the form that a server reads; units included.
    ///
    /// An unknown key is kept, in lower case: a newer server may know it, and others ignore it.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) for a value out of the key's range or not of its form, or a key or value that does
    /// not fit on a line: what a server refuses, or understands as something other than it says.
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

/// The key's entry in the table, if it has one.
fn known(key: &str) -> Option<&'static (&'static str, fn(&str) -> Option<String>, &'static str)> {
    KEYS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(key))
}

/// Whether it is read unchanged wherever it stands in a line.
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
        let term = number.parse::<u64>().ok()?.checked_mul(factor).filter(|_| factor > 0)?;
        sum = sum.checked_add(term)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &str) -> Option<String> {
        TopicConfig::new().set(key, value).ok().map(|config| config.get(key).unwrap().to_owned())
    }

    fn refusal(result: Result<TopicConfig>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn texts_at_the_ends_of_each_range_are_taken_or_refused() {
        let max = u64::MAX.to_string();
        let (ok, no): (fn(&str) -> Option<String>, _) = (|text| Some(text.to_owned()), None);
        let table = [
            ("retention.segments.count", "0", ok("0")),
            ("retention.segments.count", "1", no.clone()),
            ("retention.segments.count", "2", ok("2")),
            ("retention.segments.count", "4294967295", ok("4294967295")),
            ("retention.segments.count", "4294967296", no.clone()),
            ("retention.segments.count", "00000000002", no.clone()),
            ("retention.segments.count", "+2", no.clone()),
            ("retention.segments.count", "-2", no.clone()),
            ("retention.segments.count", "two", no.clone()),
            ("log.cleanup.policy", "Delete", ok("delete")),
            ("log.cleanup.policy", "CLEANUP", ok("cleanup")),
            ("log.cleanup.policy", "compact", no.clone()),
            ("log.cleaner.min.cleanable.ratio", "0", ok("0")),
            ("log.cleaner.min.cleanable.ratio", "1", ok("1")),
            ("log.cleaner.min.cleanable.ratio", "0,25", ok("0.25")),
            ("log.cleaner.min.cleanable.ratio", ".5", ok("0.5")),
            ("log.cleaner.min.cleanable.ratio", "1.01", no.clone()),
            ("log.cleaner.min.cleanable.ratio", "-0.1", no.clone()),
            ("log.cleaner.min.cleanable.ratio", "1e-1", no.clone()),
            ("log.cleaner.min.cleanable.ratio", "nan", no.clone()),
            ("log.cleaner.min.cleanable.ratio", "0.1.2", no.clone()),
            ("log.cleaner.min.cleanable.ratio", ".", no.clone()),
            ("log.retention.bytes", "0", ok("0")),
            ("log.retention.bytes", "1", no.clone()),
            ("log.retention.bytes", "127", no.clone()),
            ("log.retention.bytes", "128", ok("128")),
            ("log.retention.bytes", &max, ok(&max)),
            ("log.retention.bytes", "18446744073709551616", no.clone()),
            ("log.retention.bytes", "16777216t", no.clone()),
            ("log.retention.bytes", "16777215t+1023g", ok("18446744072635809792")),
            ("log.segment.bytes", "63", no.clone()),
            ("log.segment.bytes", "64", ok("64")),
            ("log.segment.bytes", "3840m", ok("4026531840")),
            ("log.segment.bytes", "3840m+1", no.clone()),
            ("log.index.interval.bytes", "127", no.clone()),
            ("log.index.interval.bytes", "128", ok("128")),
            ("log.index.size.max.bytes", "127", no.clone()),
            ("log.index.size.max.bytes", "128", ok("128")),
            ("log.retention.secs", "0", ok("0")),
            ("log.retention.secs", "4294967295", ok("4294967295")),
            ("log.retention.secs", "4294967296", no.clone()),
            ("log.roll.secs", "136y", ok("4288896000")),
            ("log.roll.secs", "137y", no.clone()),
            ("log.roll.jitter.secs", "1h", ok("3600")),
            ("flush.secs", "1min", ok("60")),
            ("flush.messages", "0", ok("0")),
            ("flush.messages", "4294967295", ok("4294967295")),
            ("flush.messages", "1k", no),
        ];
        for (key, value, expected) in table {
            assert_eq!(set(key, value), expected, "{key}={value}");
            assert_eq!(set(&key.to_uppercase(), value), expected, "{key}={value}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_units() {
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
            assert_eq!(terms(text, &SIZES), bytes, "{text}");
        }
    }

    #[test]
    fn durations_are_read_with_their_units() {
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
            assert_eq!(terms(text, &DURATIONS), seconds, "{text}");
        }
        for text in ["1mon", "1month", "2months", "1y+1month"] {
            assert!(refusal(TopicConfig::new().set("flush.secs", text)).contains("365 days"), "{text}");
        }
    }

    #[test]
    fn errors_name_key_value_and_what_is_allowed() {
        let e = refusal(TopicConfig::new().set("log.segment.bytes", "63"));
        assert_eq!(e, r#"log.segment.bytes is "63"; allowed: 64 to 4026531840 bytes, such as 64mb"#);
        let e = refusal("LOG.ROLL.SECS=1m".parse());
        assert!(e.starts_with(r#"LOG.ROLL.SECS is "1m"; allowed: 0 to 4294967295 seconds, such as 90"#), "{e}");
        assert_eq!(
            refusal("\n\n flush.secs=1\n\nflush.secs".parse()),
            r#"line 5, "flush.secs", is not of the form key=value"#
        );
    }

    #[test]
    fn files_are_read_line_by_line() {
        let whole = [
            ("retention.segments.count", "8"),
            ("no.such.key", "a=b"),
            ("log.cleanup.policy", "cleanup"),
            ("log.cleaner.min.cleanable.ratio", "0.3"),
            ("log.retention.secs", "1"),
            ("log.retention.bytes", "128"),
            ("log.segment.bytes", "64"),
            ("log.index.interval.bytes", "129"),
            ("log.index.size.max.bytes", "130"),
            ("log.roll.jitter.secs", "2"),
            ("log.roll.secs", "3"),
            ("flush.messages", "4"),
            ("flush.secs", "5"),
        ];
        let whole = whole.iter().try_fold(TopicConfig::new(), |config, (key, value)| config.set(key, value)).unwrap();
        let text = "flush.messages=4\nflush.secs=5\nlog.cleaner.min.cleanable.ratio=0.3\nlog.cleanup.policy=cleanup\n\
            log.index.interval.bytes=129\nlog.index.size.max.bytes=130\nlog.retention.bytes=128\nlog.retention.secs=1\n\
            log.roll.jitter.secs=2\nlog.roll.secs=3\nlog.segment.bytes=64\nno.such.key=a=b\nretention.segments.count=8\n";
        assert_eq!(whole.to_string(), text);
        assert_eq!(text.parse::<TopicConfig>().unwrap(), whole);
        let again = text.replace('\n', " # remark\r\n").replace('=', "\t= ").replace("a\t= b", "a=b");
        assert_eq!(again.parse::<TopicConfig>().unwrap(), whole);
        assert_eq!(TopicConfig::new().to_string(), "");
        for text in ["", " \n ", "#", "  # indented on the first line", "\n\n#\n\n"] {
            assert_eq!(text.parse::<TopicConfig>().unwrap(), TopicConfig::new(), "{text:?}");
        }
        for text in ["flush.secs", "flush.secs=", "flush.secs= # 1", "=1", "flush.secs=1\n \n#", "flush.secs=1\n #"] {
            assert!(refusal(text.parse()).ends_with("is not of the form key=value"), "{text:?}");
        }
        let twice = "flush.secs=1\nFlush.Secs=2".parse::<TopicConfig>().unwrap();
        assert_eq!(twice.to_string(), "flush.secs=2\n");
    }

    #[test]
    fn unknown_keys_stay_and_must_fit_on_a_line() {
        let config: TopicConfig = "new.key = 1\nflush.secs=1\nNEW.KEY=2".parse().unwrap();
        assert_eq!(config.unknown().collect::<Vec<_>>(), [("new.key", "2")]);
        assert_eq!((config.get("New.Key"), config.get("flush.messages")), (Some("2"), None));
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
