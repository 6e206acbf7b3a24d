//! The frames and bundles of a capture, in the words of its file.

use common::captures::Capture;
use serde_json::{Value, json};
use tank_client::Compression;
use tank_client::Limits;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::bundle::{BundleBuilder, BundleHeader, Codec, Entry, MessageSet, RawMessage};
use tank_client::protocol::cursor::Cursor;
use tank_client::protocol::frame::{FrameHeader, HEADER_LEN};
use tank_client::protocol::{DecodeError, EncodeError, compress};

/// A frame in a capture.
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    /// All of it.
    pub(crate) bytes: &'a [u8],
    /// What follows the header.
    pub(crate) payload: &'a [u8],
}

/// The frames that were sent; one for each decoded request.
pub(crate) fn request_frames(capture: &Capture) -> Vec<Frame<'_>> {
    whole_frames(capture, &capture.request, capture.requests.len())
}

/// The frames that came back; one for each decoded answer.
pub(crate) fn response_frames(capture: &Capture) -> Vec<Frame<'_>> {
    whole_frames(capture, &capture.response, capture.responses.len())
}

fn whole_frames<'a>(capture: &Capture, bytes: &'a [u8], expected: usize) -> Vec<Frame<'a>> {
    let frames = frames(bytes).unwrap_or_else(|e| panic!("{}: {e}", capture.name));
    assert_eq!(frames.len(), expected, "{}", capture.name);
    frames
}

/// The request with the id of this answer.
pub(crate) fn request_of<'a>(capture: &'a Capture, response: &Value) -> &'a Value {
    let mut found = capture.requests.iter().filter(|request| request["request_id"] == response["request_id"]);
    let request = found.next().unwrap_or_else(|| panic!("{}: no request for {response}", capture.name));
    assert!(found.next().is_none(), "{}: an id for two requests", capture.name);
    request
}

/// Fails unless `e` is of the class that the capture expects.
pub(crate) fn assert_expected(capture: &Capture, e: &DecodeError) {
    use tank_client::protocol::DecodeFault as F;
    let class = if matches!(e.fault(), F::Unsupported { .. }) { "unsupported" } else { "protocol_error" };
    assert_eq!(capture.expect(), Some(class), "{}: {e}", capture.name);
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
            let mut set = Vec::new();
            compress::decompress(&mut snap::raw::Decoder::new(), packed, &limits, 0, &mut set)?;
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
        let mut builder = BundleBuilder::default();
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

    /// A message in the words of the captures, with its number if the bundle has numbers.
    pub(crate) fn message(&self, entry: &Entry) -> Value {
        let (key, payload) = self.contents(entry);
        let mut json = message(entry, key, payload);
        if self.header.sparse.is_some() {
            json["seq"] = entry.seq.into();
        }
        json
    }
}

/// A message in the words of the captures, without its number.
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
