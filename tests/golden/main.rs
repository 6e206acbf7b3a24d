//! Every recorded exchange, read and written again byte for byte; `README.md` beside this file says where each is from.
//!
//! [`captures`] finds and frames them, [`produce`], [`admin`] and [`consume`] know their message families.

mod admin;
mod captures;
#[path = "../common/mod.rs"]
mod common;
mod consume;
mod produce;

use std::collections::{BTreeMap, BTreeSet};

use captures::{Capture, Frame, load};
use tank_client::protocol::frame::{self, FrameHeader, Kind};

/// A message family: what to do with its frames and what they should be.
struct Family {
    types: &'static [&'static str],
    /// A request: decodes to this, and encodes to its bytes or is refused.
    request: fn(&Capture, &Frame<'_>, &serde_json::Value),
    /// An answer, with its request: decodes to this, and encodes to its bytes.
    response: fn(&Capture, &Frame<'_>, &serde_json::Value, &serde_json::Value),
    /// Answers that must be refused in the way the capture expects.
    hostile: fn(&Capture),
}

const FAMILIES: [Family; 3] = [
    Family {
        types: &["produce", "produce_with_seqnum"],
        request: produce::request,
        response: produce::response,
        hostile: produce::hostile,
    },
    Family {
        types: &[
            "create_topic",
            "discover_partitions",
            "discover_topics",
            "discover_topology",
            "status",
            "reload_conf",
        ],
        request: admin::request,
        response: admin::response,
        hostile: admin::hostile,
    },
    Family { types: &["consume"], request: consume::request, response: consume::response, hostile: consume::hostile },
];

fn family(kind: &str) -> &'static Family {
    FAMILIES.iter().find(|family| family.types.contains(&kind)).unwrap_or_else(|| panic!("no family has {kind}"))
}

fn kind(message: &serde_json::Value) -> &str {
    message["type"].as_str().expect("a type")
}

/// Checks all captures of the families with `types`; how many requests and answers that were, by type.
fn check(types: &[&str]) -> BTreeMap<String, (usize, usize)> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let ours = |message: &serde_json::Value| types.contains(&kind(message));
    for capture in load() {
        if kind(capture.requests.first().unwrap_or(&serde_json::json!({ "type": "" }))) == "raw" {
            continue;
        }
        for (frame, expected) in capture.request_frames().iter().zip(&capture.requests).filter(|(_, m)| ours(m)) {
            (family(kind(expected)).request)(&capture, frame, expected);
            counts.entry(kind(expected).to_owned()).or_default().0 += 1;
        }
        if capture.expect.is_some() {
            if let Some(request) = capture.requests.first().filter(|request| ours(request)) {
                (family(kind(request)).hostile)(&capture);
                counts.entry(kind(request).to_owned()).or_default().1 += 1;
            }
            continue;
        }
        for (frame, expected) in capture.response_frames().iter().zip(&capture.responses) {
            if kind(expected) == "ping" {
                continue;
            }
            let request = capture.request_of(expected);
            if ours(request) {
                (family(kind(request)).response)(&capture, frame, expected, request);
                counts.entry(kind(request).to_owned()).or_default().1 += 1;
            }
        }
    }
    counts
}

#[test]
fn produce_captures() {
    check(FAMILIES[0].types);
}

#[test]
fn admin_captures() {
    check(FAMILIES[1].types);
}

#[test]
fn consume_captures() {
    check(FAMILIES[2].types);
}

#[test]
fn pings() {
    let mut pings = 0;
    for capture in load().iter().filter(|capture| capture.expect.is_none()) {
        for (frame, expected) in capture.response_frames().iter().zip(&capture.responses) {
            if kind(expected) == "ping" {
                assert_eq!((frame.kind, frame.bytes), (Kind::Ping, &frame::PING[..]), "{}", capture.name);
                pings += 1;
            }
        }
    }
    assert_eq!(pings, 2);
}

#[test]
fn frames_that_a_server_hangs_up_on_cannot_be_written() {
    let mut seen = Vec::new();
    for capture in load().iter().filter(|capture| capture.requests.iter().any(|message| kind(message) == "raw")) {
        seen.push(capture.name.clone());
        match FrameHeader::decode(&capture.request) {
            // An id without a `Kind` has no encoder.
            Err(e) => assert_eq!((capture.name.as_str(), e.field()), ("closed_unknown_message", "message id")),
            Ok(header) => {
                let len = header.expect("a whole header").len as usize;
                assert_eq!(capture.name, "closed_too_long");
                assert_eq!(len, frame::MAX_REQUEST + 1);
                let mut out = vec![0; frame::HEADER_LEN + len];
                assert_eq!(frame::end(frame::HEADER_LEN, &mut out).unwrap_err().given, len as u64);
                assert_eq!(frame::end(frame::HEADER_LEN, &mut out[..frame::HEADER_LEN + len - 1]), Ok(()));
            }
        }
        assert!(capture.response.is_empty() && capture.closed);
    }
    assert_eq!(seen, ["closed_unknown_message", "closed_too_long"]);
}

/// Nothing falls through: every file belongs to a capture, every frame to a family.
#[test]
fn everything_is_checked() {
    let captures = load();
    assert_eq!(captures.len(), 230 + 104);
    let names: BTreeSet<_> =
        captures.iter().map(|capture| (capture.cluster, capture.derived, capture.name.as_str())).collect();
    assert_eq!(names.len(), captures.len(), "a name stands for one capture");

    let named: BTreeSet<_> = captures.iter().flat_map(Capture::files).collect();
    let files: BTreeSet<_> = captures::files().into_iter().collect();
    assert_eq!(named, files, "files and manifests name the same");

    let index = std::fs::read_to_string(captures::directory().join("README.md")).expect("an index");
    for capture in &captures {
        assert!(index.contains(&format!("| `{}` |", capture.name)), "{} is not in the index", capture.name);
    }

    let all: Vec<&str> = FAMILIES.iter().flat_map(|family| family.types).copied().collect();
    let counts: Vec<_> =
        check(&all).into_iter().map(|(name, (requests, responses))| (name, requests, responses)).collect();
    let expected = [
        ("consume", 194, 190),
        ("create_topic", 25, 25),
        ("discover_partitions", 23, 22),
        ("discover_topics", 5, 5),
        ("discover_topology", 7, 7),
        ("produce", 63, 60),
        ("produce_with_seqnum", 6, 6),
        ("reload_conf", 9, 9),
        ("status", 7, 7),
    ];
    assert_eq!(counts, expected.map(|(name, requests, responses)| (name.to_owned(), requests, responses)));
}
