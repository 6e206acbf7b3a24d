use std::net::SocketAddrV4;

use super::*;

#[test]
fn errors_stay_small() {
    assert!(size_of::<Error>() <= 80, "{}", size_of::<Error>());
    assert!(size_of::<Fault>() <= 24, "{}", size_of::<Fault>());
}

#[test]
fn texts_name_topic_partition_and_numbers() {
    let kind = ErrorKind::OutOfRange { requested: 7, first_available: 10, high_water_mark: 20 };
    let e = Error::new(kind).about("orders", 3).at(&"a:1");
    assert_eq!(e.to_string(), "a:1: orders/3: sequence number 7 is gone: first available 10, high-water mark 20");
    assert_eq!(
        Error::refused("orders", 3, Fault::NoLeader).at(&"a:1").to_string(),
        "a:1: orders/3: the partition has no leader now"
    );
    assert_eq!(Error::refused("orders", None, Fault::UnknownTopic).to_string(), "orders: no such topic");
}

/// Every text says what it is about once, and its source says the rest.
#[test]
fn texts_name_what_failed_and_where() {
    use std::error::Error as _;

    let of = |kind| Error::new(kind).about("orders", 3);
    let network = || io::Error::new(io::ErrorKind::ConnectionReset, "reset by peer");
    let timeout = || Error::timeout(&"a:1", Phase::Wait, Duration::from_secs(8));
    let malformed = || DecodeError::new("message count", crate::protocol::DecodeFault::Undefined { value: 0 }, 17);
    let endpoint = SocketAddrV4::new([10, 20, 30, 40].into(), 11_011);
    let fault = |fault| Error::refused("orders", 3, fault);
    let checkpoint = |reason: &str, previous| {
        Error::new(ErrorKind::Checkpoint { reason: reason.into(), previous }).in_file(Path::new("at"))
    };
    let table = [
        (Error::connect(&"a:1", network()), "cannot connect to a:1", "reset by peer"),
        (Error::connect(&"a:1", network()).about("orders", 3), "orders/3: cannot connect to a:1", "reset by peer"),
        (Error::io(&"a:1", Phase::Send, network()), "a:1: network failure while sending a request", "reset by peer"),
        (timeout(), "a:1: timed out after 8s waiting for an answer", ""),
        (
            Error::disconnected(&"a:1", Phase::Read),
            "a:1: connection closed by the broker while receiving an answer",
            "",
        ),
        (
            Error::decode(malformed().in_partition("orders", 3)).at(&"a:1"),
            "a:1: malformed data from the broker",
            "orders/3: message count has the undefined value 0 (at byte 17)",
        ),
        (
            of(ErrorKind::BundleTooLarge { needed: 300, limit: 200 }),
            "orders/3: a bundle of 300 bytes exceeds the limit of 200",
            "",
        ),
        (
            Error::unknown("orders", 3, timeout()),
            "orders/3: sent, but the outcome is unknown",
            "a:1: timed out after 8s waiting for an answer",
        ),
        (
            of(ErrorKind::PartlyStored { stored: 9 }).because(timeout()),
            "orders/3: records known to be stored: 9, counted from the first",
            "a:1: timed out after 8s waiting for an answer",
        ),
        (
            of(ErrorKind::NotSent).because(timeout()),
            "orders/3: not sent: an earlier bundle of this partition failed",
            "a:1: timed out after 8s waiting for an answer",
        ),
        (
            Error::new(ErrorKind::Undelivered { records: 7 }).because(timeout()),
            "records that may not have been stored: 7; retry or take the producer's failures",
            "a:1: timed out after 8s waiting for an answer",
        ),
        (
            of(ErrorKind::OutOfRange { requested: 9, first_available: 1, high_water_mark: 4 }),
            "orders/3: sequence number 9 is beyond the end, high-water mark 4: \
             the start is too high, or the topic was created again or has lost its last messages",
            "",
        ),
        (
            checkpoint("a torn or damaged checkpoint", true),
            "at: a torn or damaged checkpoint; its previous generation is intact",
            "",
        ),
        (
            checkpoint("a checkpoint of version 2 (this program knows 1)", false),
            "at: a checkpoint of version 2 (this program knows 1)",
            "",
        ),
        (
            Error::new(ErrorKind::Corrupt { at: 5 }).in_file(Path::new("1.log")).because(malformed()),
            "1.log: malformed data in the bundle at byte 5",
            "message count has the undefined value 0 (at byte 17)",
        ),
        (Error::file(Path::new("at"), network()), "cannot read or write at", "reset by peer"),
        (
            fault(Fault::Redirects { hops: 4, last: endpoint }),
            "orders/3: still redirected after 4 redirects, the last one to 10.20.30.40:11011",
            "",
        ),
        (
            fault(Fault::RedirectRefused(endpoint)),
            "orders/3: redirected to 10.20.30.40:11011, which the client's settings do not allow",
            "",
        ),
        (fault(Fault::SeqNotAbove { seq: 6 }), "orders/3: sequence number 6 is not above the last one stored", ""),
        (
            fault(Fault::SeqTooFar { seq: 6 }),
            "orders/3: sequence number 6 lies 2^31 or more above the one before, which can kill a server",
            "",
        ),
        (
            fault(Fault::Stuck { seq: 6 }),
            "orders/3: cannot get past sequence number 6: all that the broker sends lies below it or above the high-water mark",
            "",
        ),
    ];
    for (e, text, source) in table {
        assert_eq!(e.to_string(), text);
        assert_eq!(e.source().map(ToString::to_string).unwrap_or_default(), source, "{text}");
        let between = if source.is_empty() { "" } else { ": " };
        assert_eq!(format!("{e:#}"), format!("{text}{between}{source}"));
        assert_eq!(format!("{e:?}"), format!("{e:#}"), "as main shows it");
    }
}

#[test]
fn the_kinds_of_io_errors() {
    use io::ErrorKind::*;
    let timeout = Error::timeout(&"a:1", Phase::Wait, Duration::from_secs(1));
    let fault = |fault| Error::refused("orders", 3, fault);
    for (e, kind) in [
        (Error::connect(&"a:1", ConnectionRefused.into()), ConnectionRefused),
        (Error::unknown("orders", 3, timeout), TimedOut),
        (Error::disconnected(&"a:1", Phase::Read), ConnectionAborted),
        (Error::file(Path::new("at"), PermissionDenied.into()), PermissionDenied),
        (fault(Fault::UnknownPartition), NotFound),
        (fault(Fault::TopicExists), AlreadyExists),
        (fault(Fault::NoLeader), Other),
        (Error::config("no"), InvalidInput),
        (Error::new(ErrorKind::Closed), Other),
    ] {
        let text = e.to_string();
        let e = io::Error::from(e);
        assert_eq!((e.kind(), e.to_string()), (kind, text));
        assert!(e.get_ref().unwrap().is::<Error>());
    }
}

#[test]
fn predicates_also_look_at_the_cause() {
    let timeout = || Error::timeout(&"a:1", Phase::Wait, Duration::from_secs(1));
    assert!(timeout().is_timeout() && timeout().is_retryable());
    let unknown = Error::unknown("t", 0, timeout());
    assert!(unknown.is_timeout() && !unknown.is_retryable());
    let undelivered = Error::new(ErrorKind::Undelivered { records: 1 }).because(timeout());
    assert!(undelivered.is_timeout() && !undelivered.is_retryable());
    let partly = Error::new(ErrorKind::PartlyStored { stored: 1 }).because(timeout());
    assert!(partly.is_timeout() && !partly.is_retryable());
    let not_sent = Error::new(ErrorKind::NotSent).because(timeout());
    assert!(!not_sent.is_timeout() && not_sent.is_retryable());
    let late = Error::io(&"a:1", Phase::Read, io::ErrorKind::TimedOut.into());
    assert!(late.is_timeout() && late.is_retryable() && !late.is_connection_lost());
    assert!(unknown.is_outcome_unknown() && undelivered.is_timeout() && !undelivered.is_outcome_unknown());
    let partly = Error::new(ErrorKind::PartlyStored { stored: 1 }).because(unknown);
    assert!(partly.is_outcome_unknown() && !partly.is_connection_lost());
    let lost = Error::unknown("t", 0, Error::disconnected(&"a:1", Phase::Wait));
    assert!(lost.is_connection_lost() && lost.is_outcome_unknown() && !lost.is_unknown_topic());
    assert!(Error::refused("t", None, Fault::UnknownTopic).is_unknown_topic());
    assert!(!Error::config("x").is_retryable());
    assert!(Error::refused("t", 0, Fault::NoLeader).is_retryable());
}
