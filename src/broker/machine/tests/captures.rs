//! The exchanges recorded with a real server, and the bundles seen in them.

use std::collections::BTreeMap;

use common::captures::{self, Capture, Origin};
use serde_json::Value;

/// Exchanges with a stand-alone server in the order they were recorded, from `first` to before `end`.
pub(super) fn standalone(first: &str, end: &str) -> Vec<&'static Capture> {
    let recorded = captures::all().iter().filter(|capture| capture.origin == Origin::Standalone);
    recorded.skip_while(|capture| capture.name != first).take_while(|capture| capture.name != end).collect()
}

/// A partition's part of a consume answer.
pub(super) struct Part {
    pub(super) topic: String,
    pub(super) partition: u16,
    pub(super) high_water_mark: u64,
    pub(super) bundles: Vec<StoredBundle>,
}

#[derive(Clone)]
pub(super) struct StoredBundle {
    pub(super) first: u64,
    pub(super) last: u64,
    /// Without the length prefix.
    pub(super) bytes: Vec<u8>,
}

/// The partitions of all consume answers in a capture that exist.
pub(super) fn parts(capture: &Capture) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut frame = 0;
    for response in &capture.responses {
        if response["type"] == "consume" {
            let header = response["header_len"].as_u64().unwrap() as usize;
            let mut chunk = frame + 5 + 4 + header;
            for topic in response["topics"].as_array().unwrap() {
                for partition in topic["partitions"].as_array().unwrap() {
                    if partition["high_water_mark"].is_u64() {
                        let topic = topic["name"].as_str().unwrap();
                        parts.push(part(&capture.response, topic, partition, &mut chunk));
                    }
                }
            }
        }
        let len = capture.response.get(frame + 1..frame + 5).map_or([0; 4], |len| len.try_into().unwrap());
        frame += 5 + u32::from_le_bytes(len) as usize;
    }
    parts
}

fn part(response: &[u8], topic: &str, partition: &Value, chunk: &mut usize) -> Part {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let bundles = partition["bundles"].as_array().map_or(&[][..], Vec::as_slice).iter().map(|bundle| {
        let len = number(&bundle["length"]) as usize;
        let at = *chunk + number(&bundle["offset"]) as usize;
        let at = at + response[at..].iter().take_while(|&&byte| byte >= 0x80).count() + 1;
        let bytes = response[at..at + len].to_vec();
        StoredBundle { first: number(&bundle["first"]), last: number(&bundle["last"]), bytes }
    });
    let bundles = bundles.collect();
    *chunk += number(&partition["chunk_len"]) as usize;
    Part {
        topic: topic.to_owned(),
        partition: number(&partition["partition"]) as u16,
        high_water_mark: number(&partition["high_water_mark"]),
        bundles,
    }
}

/// Every bundle seen in the captures, by partition and first number.
pub(super) type Seen = BTreeMap<(String, u16), BTreeMap<u64, StoredBundle>>;

pub(super) fn seen(captures: &[&Capture]) -> Seen {
    let mut seen = Seen::new();
    for part in captures.iter().flat_map(|capture| parts(capture)) {
        let partition = seen.entry((part.topic, part.partition)).or_default();
        partition.extend(part.bundles.into_iter().map(|bundle| (bundle.first, bundle)));
    }
    seen
}
