//! Every decoder that takes a whole payload: what decodes is encoded again, to the same bytes where there is one way only,
//! and decodes to the same again.

use std::fmt::Debug;

use tank_client::Limits;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::admin::{
    CreateTopicRequest, CreateTopicResponse, DiscoverPartitionsRequest, DiscoverPartitionsResponse,
    DiscoverTopicsRequest, DiscoverTopicsResponse, DiscoverTopologyRequest, DiscoverTopologyResponse,
    ReloadConfRequest, ReloadConfResponse, StatusRequest, StatusResponse,
};
use tank_client::protocol::cursor::Cursor;
use tank_client::protocol::fetch::{FetchHeader, FetchRequest, PartitionAnswer, TopicAnswer, UNKNOWN_TOPIC};
use tank_client::protocol::frame::{self, FrameHeader, HEADER_LEN, Payload};
use tank_client::protocol::produce::{ProduceRequest, ProduceResponse};
use tank_client::protocol::request::Request;
use tank_client::protocol::{DecodeError, EncodeError};

use crate::input::Input;

/// How many decoders there are to choose from.
pub const DECODERS: u8 = 18;

/// Limits that small input can pass.
const TIGHT: u8 = 0x80;

/// Which decoder `u8`, sizes of topics (for produce answers) after a `u8`, then the payload.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (settings, shape) = (input.u8(), input.short());
    let payload = input.0;
    let most = if settings & TIGHT == 0 { 4096 } else { 3 };
    let limits = Limits::default().topics(most).nodes(most);
    let shape = || shape.iter().map(|partitions| usize::from(*partitions));
    let again = Again { payload };
    match (settings & !TIGHT) % DECODERS {
        0 => again.answer(
            Kind::Produce,
            |bytes| ProduceResponse::decode(bytes, shape()),
            |v, out| v.encode(shape(), out),
            |v| v.request_id,
        ),
        1 => {
            again.answer(Kind::CreateTopic, CreateTopicResponse::decode, CreateTopicResponse::encode, |v| v.request_id)
        }
        2 => again.answer(
            Kind::DiscoverPartitions,
            DiscoverPartitionsResponse::decode,
            DiscoverPartitionsResponse::encode,
            |v| {
                assert!(v.partitions.len() <= usize::from(v.count) && v.partitions.capacity() <= payload.len());
                v.request_id
            },
        ),
        3 => again.answer(
            Kind::DiscoverTopics,
            |bytes| DiscoverTopicsResponse::decode_within(bytes, &limits),
            DiscoverTopicsResponse::encode,
            |v| {
                assert!(v.topics.len() <= most as usize && v.topics.capacity() <= payload.len());
                v.request_id
            },
        ),
        4 => again.value(
            Kind::DiscoverTopology,
            |bytes| DiscoverTopologyResponse::decode_within(bytes, &limits),
            DiscoverTopologyResponse::encode,
        ),
        5 => again.answer(Kind::Status, StatusResponse::decode, StatusResponse::encode, |v| v.request_id),
        // One of its codes has two numbers.
        6 => again.value(Kind::ReloadConf, ReloadConfResponse::decode, ReloadConfResponse::encode),
        7 => fetch_header(payload),
        8 => again.value(Kind::Consume, FetchRequest::decode, FetchRequest::encode),
        9 => produce_request(Kind::Produce, payload),
        10 => produce_request(Kind::ProduceWithSeqnum, payload),
        11 => again.value(Kind::CreateTopic, CreateTopicRequest::decode, CreateTopicRequest::encode),
        12 => {
            again.value(Kind::DiscoverPartitions, DiscoverPartitionsRequest::decode, DiscoverPartitionsRequest::encode)
        }
        13 => again.value(Kind::DiscoverTopics, DiscoverTopicsRequest::decode, DiscoverTopicsRequest::encode),
        14 => again.value(Kind::DiscoverTopology, DiscoverTopologyRequest::decode, DiscoverTopologyRequest::encode),
        15 => again.value(Kind::Status, StatusRequest::decode, StatusRequest::encode),
        16 => again.value(Kind::ReloadConf, ReloadConfRequest::decode, ReloadConfRequest::encode),
        _ => pairs(payload),
    }
}

struct Again<'a> {
    payload: &'a [u8],
}

impl Again<'_> {
    /// Decodes, encodes, decodes; the second payload, if there is one.
    fn value<T: PartialEq + Debug>(
        &self,
        kind: Kind,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
        encode: impl Fn(&T, &mut Vec<u8>) -> Result<(), EncodeError>,
    ) {
        self.twice(kind, decode, encode);
    }

    fn twice<T: PartialEq + Debug>(
        &self,
        kind: Kind,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
        encode: impl Fn(&T, &mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Option<(T, Vec<u8>)> {
        let value = decode(self.payload).inspect_err(|e| assert!(e.at() <= self.payload.len() as u64, "{e}")).ok()?;
        let mut out = vec![0xee; 2];
        if encode(&value, &mut out).is_err() {
            assert_eq!(out, [0xee; 2], "nothing is left behind");
            return None;
        }
        let frame = &out[2..];
        let header = FrameHeader { kind, len: (frame.len() - HEADER_LEN) as u32 };
        assert_eq!(FrameHeader::decode(frame), Ok(Some(header)));
        let payload = frame[HEADER_LEN..].to_vec();
        assert_eq!(decode(&payload).as_ref(), Ok(&value));
        Some((value, payload))
    }

    /// As `value`, for answers that can be written in one way only.
    fn answer<T: PartialEq + Debug>(
        &self,
        kind: Kind,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
        encode: impl Fn(&T, &mut Vec<u8>) -> Result<(), EncodeError>,
        id: impl Fn(&T) -> u32,
    ) {
        if let Some((value, payload)) = self.twice(kind, decode, encode) {
            assert_eq!(frame::request_id(self.payload), Ok(id(&value)));
            // Names that are not UTF-8 are only shown, not kept.
            if !payload.windows(3).any(|bytes| bytes == "\u{fffd}".as_bytes()) {
                assert_eq!(payload, self.payload);
            }
        }
    }
}

fn produce_request(kind: Kind, payload: &[u8]) {
    let Ok(request) = ProduceRequest::decode(kind, payload) else { return };
    assert_eq!(
        request.shape().sum::<usize>(),
        request.topics.iter().map(|topic| topic.partitions.len()).sum::<usize>()
    );
    let mut out = vec![0xee];
    match request.encode(&mut out) {
        Ok(()) => {
            assert_eq!(FrameHeader::decode(&out[1..]).unwrap().unwrap().kind, kind);
            assert_eq!(ProduceRequest::decode(kind, &out[1 + HEADER_LEN..]).as_ref(), Ok(&request));
        }
        Err(_) => assert_eq!(out, [0xee], "nothing is left behind"),
    }
}

/// The header of a consume answer, from after the request id on.
fn fetch_header(payload: &[u8]) {
    let Ok(header) = read_header(Cursor::new(payload, 8)) else { return };
    let mut out = Vec::new();
    if header.encode(&mut out).is_err() {
        assert!(out.is_empty());
        return;
    }
    assert_eq!(read_header(Cursor::new(&out[HEADER_LEN + 8..], 8)), Ok(header));
}

fn read_header(mut c: Cursor<'_>) -> Result<FetchHeader, DecodeError> {
    let mut topics = Vec::new();
    for _ in 0..c.u8("topic count")? {
        let name = String::from_utf8_lossy(c.str8("topic name")?).into();
        let count = c.u8("partition count")?;
        let known = count == 0 || !c.rest().starts_with(&UNKNOWN_TOPIC);
        // For a topic that is not known, only the number counts.
        let mut partitions = vec![(0, PartitionAnswer::UnknownTopic); if known { 0 } else { count.into() }];
        if !known {
            c.u16("partition id")?;
        }
        for _ in 0..if known { count } else { 0 } {
            partitions.push((c.u16("partition id")?, PartitionAnswer::decode(&mut c)?));
        }
        topics.push(TopicAnswer { name, partitions });
    }
    c.finish("answer header").map(|()| FetchHeader { request_id: 7, topics })
}

/// A request and an answer: whether the one fits the other. The request stands after its length.
fn pairs(payload: &[u8]) {
    let mut input = Input(payload);
    let request = input.short();
    let (answer, limits) = (input.0, Limits::default());
    if let (Ok(request), Ok(says)) = (CreateTopicRequest::decode(request), CreateTopicResponse::decode(answer)) {
        let fits = says.request_id == request.request_id && says.topic == request.topic;
        assert_eq!(request.read_answer(answer, &limits).is_ok(), fits);
    }
    if let (Ok(request), Ok(says)) = (ReloadConfRequest::decode(request), ReloadConfResponse::decode(answer)) {
        let fits =
            (says.request_id, &says.topic, says.partition) == (request.request_id, &request.topic, request.partition);
        assert_eq!(request.read_answer(answer, &limits).is_ok(), fits);
    }
    let request = DiscoverPartitionsRequest::decode(request);
    if let (Ok(request), Ok(says)) = (request, DiscoverPartitionsResponse::decode(answer)) {
        let named = says.request_id == request.request_id && says.topic == request.topic;
        assert!(named || request.read_answer(answer, &limits).is_err());
    }
}
