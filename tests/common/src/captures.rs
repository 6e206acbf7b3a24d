//! The recorded exchanges in `tests/golden`, and those that `tank_client::broker::Recorder` writes; the README there describes
//! the files.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;
use tank_client::protocol::fetch::{FetchRequest, FetchTopic};
use tank_client::protocol::frame::Payload;

const CONSUME: u8 = 2;
const PING: u8 = 3;

/// Where a capture is from; each has a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A server that stands alone.
    Standalone,
    /// Built by hand.
    Derived,
    /// Three nodes.
    Cluster,
    /// A recorder, in the test that reads it.
    Recorder,
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Standalone => "standalone",
            Origin::Derived => "derived",
            Origin::Cluster => "cluster",
            Origin::Recorder => "recorder",
        })
    }
}

/// An exchange on one connection.
#[derive(Debug)]
pub struct Capture {
    pub origin: Origin,
    pub name: String,
    facts: Vec<(String, String)>,
    /// All that was sent.
    pub request: Vec<u8>,
    /// All that came back.
    pub response: Vec<u8>,
    /// What the frames that were sent say, in their order.
    pub requests: Vec<Value>,
    /// What the frames that came back say; empty if they are to be refused.
    pub responses: Vec<Value>,
}

/// All captures, in the order of the files: that in which they were recorded.
pub fn all() -> &'static [Capture] {
    static ALL: LazyLock<Vec<Capture>> =
        LazyLock::new(|| [Origin::Standalone, Origin::Derived, Origin::Cluster].into_iter().flat_map(load).collect());
    &ALL
}

/// Those that have a consume request.
pub fn consuming() -> impl Iterator<Item = &'static Capture> {
    all().iter().filter(|capture| capture.requests.iter().any(|request| request["type"] == "consume"))
}

/// The capture `origin/name`.
pub fn capture(id: &str) -> &'static Capture {
    all().iter().find(|capture| capture.id() == id).unwrap_or_else(|| panic!("no capture is called {id}"))
}

fn load(origin: Origin) -> Vec<Capture> {
    let file = crate::root().join(format!("tests/golden/{origin}.captures"));
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    read(origin, &text)
}

/// What a recorder wrote.
pub fn recorded(file: &Path) -> Vec<Capture> {
    read(Origin::Recorder, &fs::read_to_string(file).unwrap())
}

/// Which side a frame is from, its bytes, and what they say.
struct Frame {
    sent: bool,
    bytes: Vec<u8>,
    says: String,
}

/// Reads a file of captures: README, *The files*.
fn read(origin: Origin, text: &str) -> Vec<Capture> {
    let mut captures: Vec<Capture> = Vec::new();
    // The capture that lines belong to.
    let mut current = 0;
    let mut open: Option<Frame> = None;
    for (index, line) in text.lines().enumerate() {
        let at = format!("{origin}.captures:{}", index + 1);
        if let (Some(frame), Some(inside)) = (&mut open, line.strip_prefix("  ")) {
            match inside.strip_prefix("= ") {
                Some(json) => frame.says.push_str(json),
                None => frame.bytes.extend(unhex(inside).unwrap_or_else(|| panic!("{at}: not hexadecimal: {inside}"))),
            }
            continue;
        }
        if let Some(frame) = open.take() {
            captures[current].add(frame, &at);
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("capture ") {
            current = captures.iter().position(|capture| capture.name == name).unwrap_or(captures.len());
            if current == captures.len() {
                captures.push(Capture::new(origin, name));
            }
            continue;
        }
        let capture = captures.get_mut(current).unwrap_or_else(|| panic!("{at}: before the first capture"));
        match line {
            "request" | "answer" => {
                open = Some(Frame { sent: line == "request", bytes: Vec::new(), says: String::new() });
            }
            _ => {
                let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{at}: what is this? {line}"));
                capture.facts.push((key.to_owned(), value.to_owned()));
            }
        }
    }
    if let Some(frame) = open {
        captures[current].add(frame, "the end");
    }
    captures
}

/// The bytes of hexadecimal digits.
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| digits.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Whole frames: message id, payload, and all their bytes.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8], &[u8])> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let len = u32::from_le_bytes(bytes[1..5].try_into().unwrap()) as usize;
        let (frame, rest) = bytes.split_at(5 + len);
        frames.push((frame[0], &frame[5..], frame));
        bytes = rest;
    }
    frames
}

impl Capture {
    fn new(origin: Origin, name: &str) -> Capture {
        let (facts, requests, responses) = Default::default();
        Capture { origin, name: name.to_owned(), facts, request: Vec::new(), response: Vec::new(), requests, responses }
    }

    fn add(&mut self, frame: Frame, at: &str) {
        let (bytes, says) = match frame.sent {
            true => (&mut self.request, &mut self.requests),
            false => (&mut self.response, &mut self.responses),
        };
        bytes.extend(frame.bytes);
        if !frame.says.is_empty() {
            says.push(serde_json::from_str(&frame.says).unwrap_or_else(|e| panic!("{at}: {e}")));
        }
    }

    /// How the wire reference calls it.
    pub fn id(&self) -> String {
        format!("{}/{}", self.origin, self.name)
    }

    pub fn fact(&self, key: &str) -> Option<&str> {
        self.facts.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// How the answer must be refused, if it must: `protocol_error`, `unsupported` or `connection_lost`.
    pub fn expect(&self) -> Option<&str> {
        self.fact("expect")
    }

    pub fn hostile(&self) -> bool {
        self.expect().is_some()
    }

    /// Whether the connection ended in the place of an answer.
    pub fn closed(&self) -> bool {
        self.fact("ended").is_some()
    }

    /// Whether what was sent is no request.
    pub fn is_raw(&self) -> bool {
        self.requests.iter().any(|request| request["type"] == "raw")
    }

    /// The consume requests, in the order they were sent.
    pub fn fetches(&self) -> Vec<FetchRequest> {
        let consume = frames(&self.request).into_iter().filter(|frame| frame.0 == CONSUME);
        consume.map(|(_, payload, _)| FetchRequest::decode(payload).unwrap()).collect()
    }

    /// The consume requests in the shape in which the server answered them: it merges a topic that is listed twice.
    pub fn answered_fetches(&self) -> Vec<FetchRequest> {
        let mut requests = self.fetches();
        for request in &mut requests {
            let mut merged: Vec<FetchTopic> = Vec::new();
            for topic in request.topics.drain(..) {
                match merged.last_mut() {
                    Some(last) if last.name == topic.name => last.partitions.extend(topic.partitions),
                    _ => merged.push(topic),
                }
            }
            request.topics = merged;
        }
        requests
    }

    /// The response as far as it answers consume requests; all of it if it is hostile.
    pub fn stream(&self) -> Vec<u8> {
        if self.hostile() {
            return self.response.clone();
        }
        let ours = frames(&self.response).into_iter().filter(|frame| matches!(frame.0, CONSUME | PING));
        ours.flat_map(|(_, _, frame)| frame.iter().copied()).collect()
    }
}
