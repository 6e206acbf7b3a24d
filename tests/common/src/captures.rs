//! The recorded exchanges in `tests/golden`, as far as they concern consuming.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tank_client::protocol::fetch::{FetchRequest, FetchTopic};

const CONSUME: u8 = 2;
const PING: u8 = 3;

/// An exchange on one connection.
pub struct Capture {
    pub name: String,
    /// Its entry in the manifest.
    pub entry: Value,
    pub request: Vec<u8>,
    pub response: Vec<u8>,
    pub dir: PathBuf,
}

fn load(manifest: &str, key: fn(&Value) -> Option<(String, String)>) -> Vec<Capture> {
    let manifest = crate::root().join("tests/golden").join(manifest);
    let dir = manifest.parent().unwrap().to_owned();
    let text = fs::read_to_string(&manifest).unwrap_or_else(|e| panic!("{}: {e}", manifest.display()));
    let index: Value = serde_json::from_str(&text).unwrap();
    let mut captures = Vec::new();
    for entry in index["captures"].as_array().unwrap() {
        let Some((request, response)) = key(entry) else { continue };
        let read = |file: String| fs::read(dir.join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        captures.push(Capture {
            name: entry["name"].as_str().unwrap().to_owned(),
            entry: entry.clone(),
            request: read(request),
            response: read(response),
            dir: dir.clone(),
        });
    }
    captures
}

/// The exchanges with a stand-alone server, and those built by hand, that have a consume request.
pub fn standalone() -> Vec<Capture> {
    load("manifest.json", |entry| {
        let consumes = entry["requests"].as_array()?.iter().any(|request| request["type"] == "consume");
        let file = |key: &str| entry[key].as_str().unwrap().to_owned();
        consumes.then(|| (file("request_file"), file("response_file")))
    })
}

/// The exchanges with a cluster that have a consume request.
pub fn cluster() -> Vec<Capture> {
    load("cluster/manifest.json", |entry| {
        let name = entry["name"].as_str()?;
        (entry["request"]["type"] == "Consume").then(|| (format!("{name}.request.bin"), format!("{name}.response.bin")))
    })
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
    pub fn hostile(&self) -> bool {
        self.entry["hostile"] == true
    }

    /// The consume requests, in file order.
    pub fn requests(&self) -> Vec<FetchRequest> {
        let consume = frames(&self.request).into_iter().filter(|frame| frame.0 == CONSUME);
        consume.map(|(_, payload, _)| FetchRequest::decode(payload).unwrap()).collect()
    }

    /// The requests in the shape in which the server answered them: it merges a topic that is listed twice.
    pub fn answered_requests(&self) -> Vec<FetchRequest> {
        let mut requests = self.requests();
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
