//! The wire reference, `src/protocol/reference.md`: the captures it names exist, and its worked bytes are theirs.

use std::collections::BTreeSet;

use tank_client::Compression;
use tank_client::Limits;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::admin::{
    CreateTopicRequest, CreateTopicResponse, DiscoverPartitionsRequest, DiscoverPartitionsResponse,
    DiscoverTopicsRequest, DiscoverTopicsResponse, DiscoverTopologyRequest, DiscoverTopologyResponse,
    ReloadConfRequest, ReloadConfResponse, StatusRequest, StatusResponse,
};
use tank_client::protocol::bundle::Codec;
use tank_client::protocol::cursor::Cursor;
use tank_client::protocol::fetch::FetchRequest;
use tank_client::protocol::frame::Payload;
use tank_client::protocol::produce::{ProduceRequest, ProduceResponse};
use tank_client::protocol::{DecodeError, varint};

use super::parts::{self, Frame};
use common::captures::{self, Capture};
use common::feed;

const PAGE: &str = include_str!("../../../src/protocol/reference.md");

/// What the test says of a page that is wrong.
type Check<T = ()> = Result<T, String>;

/// A fenced block of worked bytes.
struct Block<'a> {
    /// What the bytes are: `request`, `answer`, `bundle` or `varint`.
    what: &'a str,
    /// The capture they are from; empty for a varint.
    capture: &'a str,
    lines: Vec<&'a str>,
}

/// A page, with its worked bytes apart from its text.
struct Page<'a> {
    text: Vec<&'a str>,
    blocks: Vec<Block<'a>>,
}

fn parse(page: &str) -> Page<'_> {
    let (mut text, mut blocks, mut open) = (Vec::new(), Vec::new(), None);
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(info), None) => {
                let mut words = info.strip_prefix("bytes ").unwrap_or("unknown").split(' ');
                let (what, capture) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
                open = Some(Block { what, capture, lines: Vec::new() });
            }
            (None, Some(block)) => block.lines.push(line),
            (None, None) => text.push(line),
        }
    }
    assert!(open.is_none(), "a block without an end");
    Page { text, blocks }
}

/// Hexadecimal digits in groups with one space between, up to the end of the line or two spaces.
fn bytes_of(line: &str) -> Check<Vec<u8>> {
    let digits: String = line.split("  ").next().unwrap_or("").split(' ').collect();
    let byte = |at: usize| digits.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>().ok_or_else(|| format!("not hexadecimal: {line}"))
}

/// The code spans of a text, none of which may continue in the next line.
fn spans<'a>(text: &[&'a str]) -> Vec<&'a str> {
    for line in text {
        assert!(line.matches('`').count() % 2 == 0, "a code span without an end: {line}");
    }
    text.iter().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// Whether a code span looks like the name of a capture: small letters, digits and `_`, with an origin or without.
fn is_name(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_/*".contains(c);
    span.contains('_') && span.len() > 1 && span.chars().all(plain)
        || span.split_once('/').is_some_and(|(origin, _)| is_origin(origin))
}

fn is_origin(word: &str) -> bool {
    ["standalone", "derived", "cluster"].contains(&word)
}

/// What looks like the name of a capture and is not.
const OTHERS: [&str; 1] = ["required_acks"];

/// Fails unless each name is that of a capture, or, ending in `*`, of several. Returns how many names there are.
fn check_names(page: &Page<'_>, captures: &[Capture]) -> Check<usize> {
    let known: BTreeSet<String> = captures.iter().map(Capture::id).collect();
    let mut found = BTreeSet::new();
    for name in spans(&page.text).into_iter().filter(|span| is_name(span) && !OTHERS.contains(span)) {
        let matches = match name.strip_suffix('*') {
            Some(start) => known.iter().filter(|id| id.starts_with(start)).count() > 1,
            None => known.contains(name),
        };
        if !matches {
            return Err(format!("no capture is called {name}"));
        }
        found.insert(name);
    }
    Ok(found.len())
}

/// Fails unless the worked bytes are those of their capture and the codec reads them and writes them again. Returns the
/// message ids that were shown, as (id, whether an answer).
fn check_blocks(page: &Page<'_>, captures: &[Capture]) -> Check<BTreeSet<(u8, bool)>> {
    let mut shown = BTreeSet::new();
    for block in &page.blocks {
        let whole = block.lines.iter().map(|line| bytes_of(line)).collect::<Check<Vec<_>>>()?.concat();
        if block.what == "varint" {
            block.lines.iter().try_for_each(|line| check_varint(line))?;
            continue;
        }
        let capture = captures.iter().find(|capture| capture.id() == block.capture);
        let capture = capture.ok_or_else(|| format!("worked bytes of no capture: {}", block.capture))?;
        let wrong = |what: &str| format!("{} of {}: {what}", block.what, block.capture);
        let fail = |what: &str| Err(wrong(what));
        match block.what {
            "request" if whole != capture.request => return fail("other bytes than the capture's"),
            "answer" if whole != capture.response => return fail("other bytes than the capture's"),
            "bundle" if !occurs(&whole, capture) => return fail("not in the capture"),
            "request" | "answer" => {
                let answer = block.what == "answer";
                let frames = parts::frames(&whole).map_err(|e| e.to_string())?;
                for frame in &frames {
                    let encoded = if answer { answer_again(capture, frame) } else { request_again(frame) };
                    match encoded {
                        Ok(out) if out == frame.bytes => shown.insert((frame.kind as u8, answer)),
                        Ok(_) => return fail("encoded to other bytes"),
                        Err(e) => return fail(&e),
                    };
                }
            }
            "bundle" => bundle_again(&whole).map_err(|e| wrong(&e))?,
            other => return fail(&format!("{other} is no kind of bytes")),
        }
    }
    Ok(shown)
}

fn occurs(bytes: &[u8], capture: &Capture) -> bool {
    let inside = |all: &[u8]| all.windows(bytes.len()).any(|window| window == bytes);
    !bytes.is_empty() && (inside(&capture.request) || inside(&capture.response))
}

/// The number after the bytes is theirs, and they are its shortest form.
fn check_varint(line: &str) -> Check {
    let bytes = bytes_of(line)?;
    let says = line.split_once("  ").map_or("", |(_, says)| says.trim_start());
    let says = says.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    let value = Cursor::new(&bytes, 0).varint("number").map_err(|e| format!("{line}: {e}"))?;
    let mut out = Vec::new();
    varint::encode(value, &mut out);
    if out != bytes || value.to_string() != says {
        return Err(format!("{line}: is {value}"));
    }
    Ok(())
}

fn again<T, E: ToString>(
    decoded: Result<T, DecodeError>,
    encode: impl FnOnce(&T, &mut Vec<u8>) -> Result<(), E>,
) -> Check<Vec<u8>> {
    let decoded = decoded.map_err(|e| e.to_string())?;
    let mut out = Vec::new();
    encode(&decoded, &mut out).map_err(|e| e.to_string())?;
    Ok(out)
}

fn request_again(frame: &Frame<'_>) -> Check<Vec<u8>> {
    let p = frame.payload;
    match frame.kind {
        Kind::Produce | Kind::ProduceWithSeqnum => again(ProduceRequest::decode(frame.kind, p), ProduceRequest::encode),
        Kind::Consume => again(FetchRequest::decode(p), FetchRequest::encode),
        Kind::DiscoverPartitions => again(DiscoverPartitionsRequest::decode(p), DiscoverPartitionsRequest::encode),
        Kind::CreateTopic => again(CreateTopicRequest::decode(p), CreateTopicRequest::encode),
        Kind::ReloadConf => again(ReloadConfRequest::decode(p), ReloadConfRequest::encode),
        Kind::Status => again(StatusRequest::decode(p), StatusRequest::encode),
        Kind::DiscoverTopics => again(DiscoverTopicsRequest::decode(p), DiscoverTopicsRequest::encode),
        Kind::DiscoverTopology => again(DiscoverTopologyRequest::decode(p), DiscoverTopologyRequest::encode),
        other => Err(format!("a request of kind {other:?}")),
    }
}

fn answer_again(capture: &Capture, frame: &Frame<'_>) -> Check<Vec<u8>> {
    let (p, limits) = (frame.payload, Limits::default());
    match frame.kind {
        Kind::Ping => Ok(tank_client::protocol::frame::PING.to_vec()),
        Kind::Produce => {
            let sent = parts::request_frames(capture);
            let [sent] = sent.as_slice() else { return Err("not one request".into()) };
            let sent = ProduceRequest::decode(sent.kind, sent.payload).map_err(|e| e.to_string())?;
            let decoded = ProduceResponse::decode(p, sent.shape());
            again(decoded, |answer, out| answer.encode(sent.shape(), out))
        }
        Kind::Consume => consume_answer_again(capture, frame),
        Kind::DiscoverPartitions => again(DiscoverPartitionsResponse::decode(p), DiscoverPartitionsResponse::encode),
        Kind::CreateTopic => again(CreateTopicResponse::decode(p), CreateTopicResponse::encode),
        Kind::ReloadConf => again(ReloadConfResponse::decode(p), ReloadConfResponse::encode),
        Kind::Status => again(StatusResponse::decode(p), StatusResponse::encode),
        Kind::DiscoverTopics => {
            again(DiscoverTopicsResponse::decode_within(p, &limits), DiscoverTopicsResponse::encode)
        }
        Kind::DiscoverTopology => {
            again(DiscoverTopologyResponse::decode_within(p, &limits), DiscoverTopologyResponse::encode)
        }
        other => Err(format!("an answer of kind {other:?}")),
    }
}

/// The header from the decoder's values, the chunks as they came: a client writes none.
fn consume_answer_again(capture: &Capture, frame: &Frame<'_>) -> Check<Vec<u8>> {
    let sent = parts::request_frames(capture);
    let [sent] = sent.as_slice() else { return Err("not one request".into()) };
    let request = FetchRequest::decode(sent.payload).map_err(|e| e.to_string())?;
    let outcome = feed::decode(std::slice::from_ref(&request), frame.bytes, &Limits::default());
    match (outcome.error, outcome.answers.as_slice()) {
        (Some(e), _) => Err(e.to_string()),
        (None, [answer]) => Ok(super::consume::encode_again(&request, answer, frame.bytes)),
        (None, answers) => Err(format!("{} answers", answers.len())),
    }
}

fn bundle_again(bytes: &[u8]) -> Check {
    let bundle = parts::bundle(bytes, 1).map_err(|e| e.to_string())?;
    let compression = match bundle.header.codec {
        Codec::None => Compression::None,
        Codec::Snappy => Compression::Snappy,
    };
    let out = bundle.again(compression).map_err(|e| e.to_string())?;
    let head = bundle.header.len;
    let same = match bundle.header.codec {
        Codec::None => out == bytes,
        // Another library packs the same messages in other bytes.
        Codec::Snappy => {
            let packed = parts::bundle(&out, 1).map_err(|e| e.to_string())?;
            out[..head] == bytes[..head] && packed.set == bundle.set
        }
    };
    if same { Ok(()) } else { Err("encoded to other bytes".into()) }
}

#[test]
fn the_captures_that_the_reference_names_exist() {
    let named = check_names(&parse(PAGE), captures::all()).unwrap();
    assert!(named > 150, "only {named} captures are named");
}

#[test]
fn the_worked_bytes_of_the_reference_are_those_of_its_captures() {
    let shown = check_blocks(&parse(PAGE), captures::all()).unwrap();
    for kind in (0..=u8::MAX).filter_map(Kind::from_id) {
        // A ping is no request, and both ways to produce are answered alike.
        assert!(kind == Kind::Ping || shown.contains(&(kind as u8, false)), "no request of {kind:?} is shown");
        assert!(kind == Kind::ProduceWithSeqnum || shown.contains(&(kind as u8, true)), "no answer to {kind:?}");
    }
}

#[test]
fn a_name_that_no_capture_has_is_noticed() {
    let captures = captures::all();
    let names = |text: &str| check_names(&parse(text), captures);
    assert_eq!(names("see `standalone/consume_from_0` and `derived/hostile_*`"), Ok(2));
    for wrong in [
        "`standalone/consume_from_00`",
        "`cluster/consume_from_0`",
        "`clusters/consume_redirect`",
        "`consume_from_0`",
        "`cluster/nothing`",
        "`derived/none_*`",
    ] {
        names(wrong).unwrap_err();
    }
}

/// Every digit of every block counts.
#[test]
fn a_byte_that_is_not_the_captures_is_noticed() {
    let captures = captures::all();
    let page = parse(PAGE);
    check_blocks(&page, captures).unwrap();
    for block in &page.blocks {
        for line in 0..block.lines.len() {
            let Some(first) = block.lines[line].chars().next().filter(char::is_ascii_hexdigit) else { continue };
            let other = if first == '0' { "1" } else { "0" };
            let changed = format!("{other}{}", &block.lines[line][1..]);
            let mut lines = block.lines.clone();
            lines[line] = &changed;
            let block = Block { what: block.what, capture: block.capture, lines };
            let one = Page { text: Vec::new(), blocks: vec![block] };
            check_blocks(&one, captures).expect_err(&changed);
        }
    }
}

#[test]
fn the_reference_fits_its_width() {
    let page = parse(PAGE);
    for line in &page.text {
        assert!(line.chars().count() <= 120, "{line}");
    }
    for line in page.blocks.iter().flat_map(|block| &block.lines) {
        assert!(line.chars().count() <= 90, "{line}");
    }
}

/// Comments say "reference, section 5.6": each such section is a heading of the page.
#[test]
fn sections_that_comments_name_exist() {
    let heading = |line: &&str| line.starts_with("##");
    let headings: BTreeSet<&str> =
        parse(PAGE).text.into_iter().filter(heading).filter_map(|line| line.split(' ').nth(1)).collect();
    let mut seen = 0;
    for (file, text) in sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        for said in text.split("reference, section").skip(1) {
            let said = said.trim_start_matches('s').split([')', ';', '\n']).next().unwrap_or("");
            let said = said.split(" step").next().unwrap_or("");
            for word in said.split([' ', ',']).filter(|word| word.starts_with(|c: char| c.is_ascii_digit())) {
                let number = word.trim_end_matches('.');
                assert!(headings.contains(number), "{file} names section {number}");
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "only {seen} were found");
}

fn sources(folder: &std::path::Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).expect("text")));
        }
    }
    found
}
