//! The exchanges recorded with a real server, and the bundles seen in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

pub(crate) struct Capture {
    pub(crate) name: String,
    pub(crate) entry: Value,
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn json(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut manifest: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(manifest["captures"].take()).unwrap()
}

/// Exchanges with a stand-alone server in the order they were recorded, from `first` to before `end`.
pub(crate) fn standalone(first: &str, end: &str) -> Vec<Capture> {
    let entries = json("manifest.json").into_iter().filter(|entry| entry["derived"] != true);
    let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
    let range = entries.skip_while(|entry| name(entry) != first).take_while(|entry| name(entry) != end);
    let read = |entry: &Value, key: &str| match entry[key].as_str() {
        Some(file) => fs::read(dir().join(file)).unwrap(),
        None => Vec::new(),
    };
    let load = |entry: Value| Capture {
        name: name(&entry),
        request: read(&entry, "request_file"),
        response: read(&entry, "response_file"),
        entry,
    };
    range.map(load).collect()
}

/// An exchange with a cluster.
pub(crate) fn cluster(name: &str) -> (Vec<u8>, Vec<u8>) {
    let read = |end: &str| fs::read(dir().join("cluster").join(format!("{name}.{end}.bin"))).unwrap();
    (read("request"), read("response"))
}

/// A partition's part of a consume answer.
pub(crate) struct Part {
    pub(crate) topic: String,
    pub(crate) partition: u16,
    pub(crate) high_water_mark: u64,
    pub(crate) bundles: Vec<Bundle>,
}

#[derive(Clone)]
pub(crate) struct Bundle {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Without the length prefix.
    pub(crate) bytes: Vec<u8>,
}

impl Capture {
    /// The partitions of all consume answers in it that exist.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut frame = 0;
        for response in self.entry["responses"].as_array().unwrap() {
            if response["type"] == "consume" {
                let header = response["header_len"].as_u64().unwrap() as usize;
                let mut chunk = frame + 5 + 4 + header;
                for topic in response["topics"].as_array().unwrap() {
                    for partition in topic["partitions"].as_array().unwrap() {
                        if partition["high_water_mark"].is_u64() {
                            parts.push(self.part(topic["name"].as_str().unwrap(), partition, &mut chunk));
                        }
                    }
                }
            }
            let len = self.response.get(frame + 1..frame + 5).map_or([0; 4], |len| len.try_into().unwrap());
            frame += 5 + u32::from_le_bytes(len) as usize;
        }
        parts
    }

    fn part(&self, topic: &str, partition: &Value, chunk: &mut usize) -> Part {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let bundles = partition["bundles"].as_array().map_or(&[][..], Vec::as_slice).iter().map(|bundle| {
            let len = number(&bundle["length"]) as usize;
            let at = *chunk + number(&bundle["offset"]) as usize;
            let at = at + self.response[at..].iter().take_while(|&&byte| byte >= 0x80).count() + 1;
            let bytes = self.response[at..at + len].to_vec();
            Bundle { first: number(&bundle["first"]), last: number(&bundle["last"]), bytes }
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
}

/// Every bundle seen in the captures, by partition and first number.
pub(crate) type Seen = BTreeMap<(String, u16), BTreeMap<u64, Bundle>>;

pub(crate) fn seen(captures: &[Capture]) -> Seen {
    let mut seen = Seen::new();
    for part in captures.iter().flat_map(Capture::parts) {
        let partition = seen.entry((part.topic, part.partition)).or_default();
        partition.extend(part.bundles.into_iter().map(|bundle| (bundle.first, bundle)));
    }
    seen
}
