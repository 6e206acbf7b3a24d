//! Every recorded exchange, read and written again byte for byte; the README in `tests/golden` says where each is from.
//!
//! [`parts`] takes them apart, [`produce`] and [`admin`] know their message families, frame by frame; [`consume`]
//! has tests of its own, which see a connection as a whole, and [`reference`] holds the wire reference to all of them.

mod admin;
mod consume;
mod parts;
mod produce;
mod reference;

use std::collections::{BTreeMap, BTreeSet};

use self::parts::{Frame, request_frames, request_of, response_frames};
use common::captures::{self, Capture, Origin};
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::frame::{self, FrameHeader};

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

const FAMILIES: [Family; 2] = [
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
];

/// The family of a type; consume has none.
fn family(kind: &str) -> Option<&'static Family> {
    let family = FAMILIES.iter().find(|family| family.types.contains(&kind));
    assert!(family.is_some() || kind == "consume", "no family has {kind}");
    family
}

fn kind(message: &serde_json::Value) -> &str {
    message["type"].as_str().expect("a type")
}

/// How many requests and answers there are, by the type of the request.
type Counts = BTreeMap<String, (usize, usize)>;

/// Checks all captures of the families that are `wanted`, and counts those of any.
fn check(wanted: &[&str]) -> Counts {
    let mut counts = Counts::new();
    for capture in captures::all().iter().filter(|capture| !capture.is_raw()) {
        let run = |request: &serde_json::Value, check: &dyn Fn(&Family)| {
            if let Some(family) = family(kind(request)).filter(|_| wanted.contains(&kind(request))) {
                check(family);
            }
        };
        for (frame, expected) in request_frames(capture).iter().zip(&capture.requests) {
            run(expected, &|family| (family.request)(capture, frame, expected));
            counts.entry(kind(expected).to_owned()).or_default().0 += 1;
        }
        if capture.hostile() {
            let [request] = capture.requests.as_slice() else { panic!("{}: not one request", capture.name) };
            run(request, &|family| (family.hostile)(capture));
            counts.entry(kind(request).to_owned()).or_default().1 += 1;
            continue;
        }
        for (frame, expected) in response_frames(capture).iter().zip(&capture.responses) {
            if kind(expected) != "ping" {
                let request = request_of(capture, expected);
                run(request, &|family| (family.response)(capture, frame, expected, request));
                counts.entry(kind(request).to_owned()).or_default().1 += 1;
            }
        }
    }
    counts
}

#[test]
fn produce_captures_are_read_and_written_again() {
    check(FAMILIES[0].types);
}

#[test]
fn admin_captures_are_read_and_written_again() {
    check(FAMILIES[1].types);
}

#[test]
fn recorded_pings_are_empty_frames() {
    let mut pings = 0;
    for capture in captures::all().iter().filter(|capture| !capture.hostile()) {
        for (frame, expected) in response_frames(capture).iter().zip(&capture.responses) {
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
    for capture in captures::all().iter().filter(|capture| capture.is_raw()) {
        seen.push(capture.name.clone());
        match FrameHeader::decode(&capture.request) {
            // An id without a `Kind` has no encoder.
            Err(e) => assert_eq!((capture.name.as_str(), e.field()), ("closed_unknown_message", "message id")),
            Ok(header) => {
                let len = header.expect("a whole header").len as usize;
                assert_eq!(capture.name, "closed_too_long");
                assert_eq!(len, frame::MAX_REQUEST + 1);
            }
        }
        assert!(capture.response.is_empty() && capture.closed());
    }
    assert_eq!(seen, ["closed_unknown_message", "closed_too_long"]);
}

/// Nothing falls through: every frame belongs to a family.
#[test]
fn every_frame_of_every_capture_is_checked() {
    let captures = captures::all();
    let of = |origin| captures.iter().filter(|capture| capture.origin == origin).count();
    assert_eq!([Origin::Standalone, Origin::Derived, Origin::Cluster].map(of), [153, 77, 104]);
    let ids: BTreeSet<_> = captures.iter().map(Capture::id).collect();
    assert_eq!(ids.len(), captures.len(), "a name stands for one capture");
    for capture in captures {
        assert!(capture.fact("shows").is_some(), "{} does not say what it shows", capture.name);
    }

    let counts = check(&[]);
    let counts: Vec<_> = counts.iter().map(|(name, counts)| (name.as_str(), counts.0, counts.1)).collect();
    let expected = [
        // As many as the tests in `consume` say they saw.
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
    assert_eq!(counts, expected);
}
