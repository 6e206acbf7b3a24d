//! The manifests, in one form, and the frames of their files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tank_client::protocol::bundle::{BundleBuilder, BundleHeader, Codec, Compression, Entry, MessageSet, RawMessage};
use tank_client::protocol::cursor::Cursor;
use tank_client::protocol::frame::{FrameHeader, HEADER_LEN, Kind};
use tank_client::protocol::{DecodeError, EncodeError, Limits, compress};

/// A recorded or derived exchange on one connection.
pub(crate) struct Capture {
    /// Whether a cluster gave it; else a stand-alone server, or it is derived.
    pub(crate) cluster: bool,
    pub(crate) derived: bool,
    pub(crate) name: String,
    /// What was sent.
    pub(crate) request: Vec<u8>,
    /// What came back.
    pub(crate) response: Vec<u8>,
    /// The requests as the manifest decodes them, in file order.
    pub(crate) requests: Vec<Value>,
    /// The answers likewise.
    pub(crate) responses: Vec<Value>,
    /// How a hostile answer must fail.
    pub(crate) expect: Option<String>,
    /// Whether the connection ended instead of an answer.
    pub(crate) closed: bool,
    files: Vec<String>,
}

/// A frame in a capture.
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    /// All of it.
    pub(crate) bytes: &'a [u8],
    /// What follows the header.
    pub(crate) payload: &'a [u8],
}

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub(crate) fn load() -> Vec<Capture> {
    let mut captures = Vec::new();
    for cluster in [false, true] {
        let at = directory().join(if cluster { "cluster" } else { "" });
        let text = fs::read(at.join("manifest.json")).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&text).expect("JSON");
        let entries = manifest["captures"].as_array().expect("captures");
        captures.extend(entries.iter().map(|entry| if cluster { from_cluster(entry) } else { from_server(entry) }));
    }
    captures
}

/// Every file with captured data, relative to [`directory`].
pub(crate) fn files() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["", "derived/", "cluster/"] {
        for entry in fs::read_dir(directory().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
            if name.ends_with(".bin") || name.ends_with(".tsv") {
                found.push(format!("{folder}{name}"));
            }
        }
    }
    found
}

fn read(file: &str) -> Vec<u8> {
    fs::read(directory().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn from_server(entry: &Value) -> Capture {
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    let (request_file, response_file) = (text("request_file").expect("a file"), text("response_file").expect("a file"));
    let (request, response) = (read(&request_file), read(&response_file));
    assert_eq!(entry["request_bytes"], request.len(), "{request_file}");
    assert_eq!(entry["response_bytes"], response.len(), "{response_file}");
    let mut files = vec![request_file, response_file];
    collect_message_files(entry, &mut files);
    Capture {
        cluster: false,
        derived: entry["derived"] == true,
        name: text("name").expect("a name"),
        request,
        response,
        requests: list(&entry["requests"]),
        responses: list(&entry["responses"]),
        expect: text("expect"),
        closed: entry["connection_closed"] == true,
        files,
    }
}

/// Long lists of messages are in files of their own.
fn collect_message_files(value: &Value, files: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            files.extend(map.get("messages_file").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect_message_files(value, files));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_message_files(value, files)),
        _ => {}
    }
}

/// The cluster's manifest has other words; this gives its entries the form of the server's.
fn from_cluster(entry: &Value) -> Capture {
    let name = entry["name"].as_str().expect("a name").to_owned();
    let files: Vec<String> = ["request", "response"].iter().map(|side| format!("cluster/{name}.{side}.bin")).collect();
    let (request, response) = (read(&files[0]), read(&files[1]));
    let mut sent = entry["request"].clone();
    let mut got = entry["response"].clone();
    let kind = snake_case(sent["type"].as_str().expect("a type"));
    sent["type"] = kind.clone().into();
    if !got.is_null() {
        assert!(got["unread_bytes"].is_null() || got["unread_bytes"] == 0, "{name}");
        got["type"] = kind.clone().into();
        remove(&mut got, &["unread_bytes"]);
    }
    match kind.as_str() {
        "produce" => super::produce::from_cluster(&mut sent, &mut got),
        "consume" => {}
        _ => super::admin::from_cluster(&mut sent, &mut got),
    }
    let responses = if got.is_null() { vec![] } else { vec![got] };
    let closed = entry["connection_ended"].is_string();
    Capture {
        cluster: true,
        derived: false,
        name,
        request,
        response,
        requests: vec![sent],
        responses,
        expect: None,
        closed,
        files,
    }
}

fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

pub(crate) fn remove(value: &mut Value, keys: &[&str]) {
    let map = value.as_object_mut().expect("an object");
    for key in keys {
        map.remove(*key);
    }
}

pub(crate) fn rename(value: &mut Value, from: &str, to: &str) {
    let map = value.as_object_mut().expect("an object");
    if let Some(inner) = map.remove(from) {
        map.insert(to.to_owned(), inner);
    }
}

/// `"0xfc"` as a number.
pub(crate) fn hex_code(value: &Value) -> u8 {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x")).expect("a hexadecimal number");
    u8::from_str_radix(text, 16).expect("a hexadecimal number")
}

impl Capture {
    pub(crate) fn files(&self) -> impl Iterator<Item = String> {
        self.files.iter().cloned()
    }

    /// Whether what was sent is no request.
    pub(crate) fn is_raw(&self) -> bool {
        self.requests.iter().any(|request| request["type"] == "raw")
    }

    /// The frames that were sent; one for each decoded request.
    pub(crate) fn request_frames(&self) -> Vec<Frame<'_>> {
        let frames = frames(&self.request).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        assert_eq!(frames.len(), self.requests.len(), "{}", self.name);
        frames
    }

    /// The frames that came back; one for each decoded answer.
    pub(crate) fn response_frames(&self) -> Vec<Frame<'_>> {
        let frames = frames(&self.response).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        assert_eq!(frames.len(), self.responses.len(), "{}", self.name);
        frames
    }

    /// The request with the id of this answer.
    pub(crate) fn request_of(&self, response: &Value) -> &Value {
        let mut found = self.requests.iter().filter(|request| request["request_id"] == response["request_id"]);
        let request = found.next().unwrap_or_else(|| panic!("{}: no request for {response}", self.name));
        assert!(found.next().is_none(), "{}: an id for two requests", self.name);
        request
    }

    /// Fails unless `e` is of the class that the manifest expects.
    pub(crate) fn assert_expected(&self, e: &DecodeError) {
        use tank_client::protocol::DecodeFault as F;
        let class = if matches!(e.fault(), F::Unsupported { .. }) { "unsupported" } else { "protocol_error" };
        assert_eq!(self.expect.as_deref(), Some(class), "{}: {e}", self.name);
    }
}

/// Whole frames, one after the other.
pub(crate) fn frames(mut bytes: &[u8]) -> Result<Vec<Frame<'_>>, DecodeError> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let header = FrameHeader::decode(bytes)?.expect("a whole header");
        let (frame, rest) = bytes.split_at(HEADER_LEN + header.len as usize);
        frames.push(Frame { kind: header.kind, bytes: frame, payload: &frame[HEADER_LEN..] });
        bytes = rest;
    }
    Ok(frames)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A bundle, decoded.
pub(crate) struct Bundle {
    pub(crate) header: BundleHeader,
    /// Its message set, decompressed.
    pub(crate) set: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
}

/// Reads a whole bundle, whose first message is number `first` unless it says so itself.
pub(crate) fn bundle(bytes: &[u8], first: u64) -> Result<Bundle, DecodeError> {
    let limits = Limits::default();
    let header = BundleHeader::decode(&mut Cursor::new(bytes, 0), &limits)?;
    let packed = &bytes[header.len..];
    let set = match header.codec {
        Codec::None => packed.to_vec(),
        Codec::Snappy => {
            let mut set = vec![0; compress::decompressed_len(packed, limits.message_set, 0)?];
            compress::decompress(&mut snap::raw::Decoder::new(), packed, &mut set, 0)?;
            set
        }
    };
    let (first, last) = header.range(Some(first), 0)?;
    let mut entries = Vec::new();
    let sparse = header.sparse.is_some();
    MessageSet { bytes: &set, at: 0, count: header.count, first, last, sparse, cut: false }.decode(
        0,
        u64::MAX,
        &mut entries,
    )?;
    Ok(Bundle { header, set, entries })
}

impl Bundle {
    /// Key and payload of a message.
    pub(crate) fn contents(&self, entry: &Entry) -> (Option<&[u8]>, &[u8]) {
        (entry.key().map(|range| &self.set[range]), &self.set[entry.payload()])
    }

    /// The builder's bundle of the same messages.
    pub(crate) fn again(&self, compression: Compression) -> Result<Vec<u8>, EncodeError> {
        let mut builder = BundleBuilder::new();
        for entry in &self.entries {
            let (key, payload) = self.contents(entry);
            let message = RawMessage { timestamp_ms: entry.timestamp_ms, key, payload };
            match self.header.sparse {
                Some(_) => builder.push_at(entry.seq, &message)?,
                None => builder.push(&message)?,
            }
        }
        let mut out = Vec::new();
        builder.finish(compression, &mut out)?;
        Ok(out)
    }

    /// A message in the words of the manifest, with its number if the bundle has numbers.
    pub(crate) fn message(&self, entry: &Entry) -> Value {
        let (key, payload) = self.contents(entry);
        let mut json = message(entry, key, payload);
        if self.header.sparse.is_some() {
            json["seq"] = entry.seq.into();
        }
        json
    }
}

/// A message in the words of the manifest, without its number.
pub(crate) fn message(entry: &Entry, key: Option<&[u8]>, payload: &[u8]) -> Value {
    let mut json = json!({ "ts": entry.timestamp_ms, "key": key.map(hex) });
    if payload.len() > 64 {
        json["payload_len"] = payload.len().into();
        json["payload_crc32"] = format!("{:08x}", crc32fast::hash(payload)).into();
    } else {
        json["payload"] = hex(payload).into();
    }
    json
}
