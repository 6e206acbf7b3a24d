//! The messages that come whole: produce and those about topics, partitions and nodes, in both directions.

use std::collections::BTreeMap;

use tank_client::Limits;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::admin::{
    CreateTopicRequest, CreateTopicResponse, DiscoverPartitionsRequest, DiscoverPartitionsResponse,
    DiscoverTopicsRequest, DiscoverTopicsResponse, DiscoverTopologyRequest, DiscoverTopologyResponse,
    ReloadConfRequest, ReloadConfResponse, StatusRequest, StatusResponse,
};
use tank_client::protocol::fetch::FetchRequest;
use tank_client::protocol::frame::Payload;
use tank_client::protocol::produce::{ProduceRequest, ProduceResponse};

use common::alloc::peak_of;
use common::rng::seeded;
use common::{captures, mutate};

/// The payloads of the recorded frames: of each kind, direction and length one.
fn payloads() -> Vec<Vec<u8>> {
    let mut all = BTreeMap::new();
    for capture in captures::all().iter().filter(|capture| !capture.is_raw() && !capture.hostile()) {
        for (sent, bytes) in [(true, &capture.request), (false, &capture.response)] {
            for (kind, payload, _) in captures::frames(bytes) {
                all.insert((kind, sent, payload.len()), payload.to_vec());
            }
        }
    }
    all.into_values().filter(|payload| (1..120).contains(&payload.len())).collect()
}

/// Whatever it is meant to be, every decoder is given it; how many of them accept it.
fn decode(payload: &[u8]) -> usize {
    // Without limits, so that nothing but the bytes themselves holds a count back.
    let limits = Limits::default().topics(u32::MAX).nodes(u32::MAX);
    let (accepted, peak) = peak_of(|| {
        let mut accepted = 0;
        let mut count = |ok: bool| accepted += usize::from(ok);
        count(FetchRequest::decode(payload).is_ok());
        count(ProduceRequest::decode(Kind::Produce, payload).is_ok());
        count(ProduceRequest::decode(Kind::ProduceWithSeqnum, payload).is_ok());
        count(ProduceResponse::decode(payload, [1]).is_ok());
        count(ProduceResponse::decode(payload, [2, 1, 3]).is_ok());
        count(CreateTopicRequest::decode(payload).is_ok());
        count(CreateTopicResponse::decode(payload).is_ok());
        count(DiscoverPartitionsRequest::decode(payload).is_ok());
        count(DiscoverPartitionsResponse::decode(payload).is_ok());
        count(DiscoverTopicsRequest::decode(payload).is_ok());
        count(DiscoverTopicsResponse::decode_within(payload, &limits).is_ok());
        count(DiscoverTopologyRequest::decode(payload).is_ok());
        count(DiscoverTopologyResponse::decode_within(payload, &limits).is_ok());
        count(ReloadConfRequest::decode(payload).is_ok());
        count(ReloadConfResponse::decode(payload).is_ok());
        count(StatusRequest::decode(payload).is_ok());
        count(StatusResponse::decode(payload).is_ok());
        accepted
    });
    let most = (16 << 10) + 128 * payload.len();
    assert!(peak <= most, "{peak} bytes held, {most} allowed: {payload:02x?}");
    accepted
}

#[test]
fn a_lie_in_every_place_costs_no_more_than_its_bytes() {
    let mut accepted = 0;
    for payload in payloads() {
        let mut bytes = payload.clone();
        for at in 0..payload.len() {
            for width in [1, 2, 4].into_iter().filter(|width| at + width <= payload.len()) {
                for lie in [0, u32::MAX, u32::MAX - 1, payload.len() as u32 - at as u32] {
                    bytes[at..at + width].copy_from_slice(&lie.to_le_bytes()[..width]);
                    accepted += decode(&bytes);
                }
                bytes[at..at + width].copy_from_slice(&payload[at..at + width]);
            }
        }
    }
    assert!(accepted > 1000);
}

#[test]
fn chance_damage_costs_no_more_than_its_bytes() {
    let all = payloads();
    seeded(5000, |rng| {
        let (mut bytes, other) = (rng.pick(&all), rng.pick(&all));
        for _ in 0..rng.between(1, 3) {
            mutate::damage(rng, &mut bytes, &other);
        }
        decode(&bytes);
    });
}
