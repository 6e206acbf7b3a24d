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
