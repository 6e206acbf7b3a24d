//! What the encoders write, the decoders read back.

use common::feed::{self, Message};
use common::generate::{self, Exchange, Shape};
use common::rng::{Rng, seeded};
use tank_client::Compression;
use tank_client::Limits;
use tank_client::protocol::bundle::BundleBuilder;
use tank_client::protocol::fetch::FetchRequest;
use tank_client::protocol::frame;
use tank_client::protocol::frame::Payload;
use tank_client::protocol::stream::ChunkEnd;

const LARGE: Shape = Shape { topics: 4, partitions: 6, bundles: 4, messages: 2000, payload: 3000 };

#[test]
fn requests_come_back_as_they_were_written() {
    seeded(500, |rng| {
        let (topics, partitions) = rng.pick(&[(1, 1), (3, 4), (1, 250), (2, 125), (10, 25), (250, 1)]);
        let request = generate::request(rng, topics, partitions);
        let mut bytes = vec![9];
        request.encode(&mut bytes).unwrap();
        let header = frame::FrameHeader::decode(&bytes[1..]).unwrap().unwrap();
        assert_eq!((header.kind, header.len as usize), (tank_client::broker::RequestKind::Consume, bytes.len() - 6));
        assert_eq!(FetchRequest::decode(&bytes[6..]), Ok(request.clone()));
        for _ in 0..10 {
            let cut = rng.below(bytes.len() - 6);
            assert!(FetchRequest::decode(&bytes[6..6 + cut]).is_err(), "cut at {cut}");
        }
        bytes.push(0);
        assert!(FetchRequest::decode(&bytes[6..]).is_err(), "a spare byte");
    });
}

/// Several requests are under way; their answers come in any order, with pings between them. Tells how chunks ended.
fn check(rng: &mut Rng, shape: Shape, outstanding: usize) -> Vec<(Option<ChunkEnd>, bool)> {
    let mut exchanges: Vec<Exchange> = (0..outstanding).map(|_| generate::exchange(rng, shape)).collect();
    exchanges.sort_by_key(|exchange| exchange.request.request_id);
    exchanges.dedup_by_key(|exchange| exchange.request.request_id);
    let requests: Vec<FetchRequest> = exchanges.iter().map(|exchange| exchange.request.clone()).collect();
    let mut bytes = Vec::new();
    let mut order = Vec::new();
    while !exchanges.is_empty() {
        if rng.one_in(3) {
            let len = rng.pick(&[0, 0, 1, 700]);
            bytes.extend_from_slice(&[3, len as u8, (len >> 8) as u8, 0, 0]);
            bytes.extend_from_slice(&rng.bytes(len));
        }
        let next = exchanges.swap_remove(rng.below(exchanges.len()));
        bytes.extend_from_slice(&next.frame);
        order.push(next);
    }
    let answers = feed::decode(&requests, &bytes, &Limits::default()).complete();
    assert_eq!(answers.len(), order.len());
    let mut ends = Vec::new();
    for (answer, exchange) in answers.into_iter().zip(order) {
        assert_eq!(answer.request_id, exchange.request.request_id);
        assert_eq!(answer.parts.len(), exchange.expected.len());
        for (part, expected) in answer.parts.into_iter().zip(exchange.expected) {
            assert_eq!((part.answer, part.end), (expected.answer, expected.end));
            assert!(part.messages == expected.messages, "{:?}", expected.answer);
            ends.push((part.end, !part.messages.is_empty()));
        }
    }
    ends
}

#[test]
fn small_answers_come_back_as_they_were_written() {
    let mut ends = Vec::new();
    seeded(1500, |rng| {
        let outstanding = rng.between(1, 4);
        ends.extend(check(rng, Shape::SMALL, outstanding));
    });
    let seen = |wanted: fn(&ChunkEnd) -> bool, delivers: bool| {
        ends.iter().filter(|(end, delivered)| end.as_ref().is_some_and(wanted) && *delivered == delivers).count()
    };
    // Else the generator has lost what makes it worth running; a single seed need not have it all.
    for delivers in [false, true].into_iter().filter(|_| ends.len() > 10_000) {
        assert!(seen(|end| *end == ChunkEnd::Whole, delivers) > 100);
        assert!(seen(|end| *end == ChunkEnd::AboveMark, delivers) > 100);
        assert!(seen(|end| *end == ChunkEnd::Cut { bundle_len: None }, delivers) > 20);
        assert!(seen(|end| matches!(end, ChunkEnd::Cut { bundle_len: Some(_) }), delivers) > 100);
    }
}

#[test]
fn large_answers_come_back_as_they_were_written() {
    seeded(12, |rng| drop(check(rng, LARGE, 1)));
}

#[test]
fn answers_for_many_partitions_come_back() {
    let shape = Shape { topics: 10, partitions: 250, bundles: 1, ..Shape::SMALL };
    seeded(20, |rng| drop(check(rng, shape, 1)));
}

#[test]
fn the_fullest_bundles_come_back() {
    let mut builder = BundleBuilder::default();
    for (sparse, compression) in
        [(false, Compression::None), (false, Compression::Auto), (true, Compression::None), (true, Compression::Snappy)]
    {
        let messages = generate::messages(&mut Rng::new(7), 1, 65_535, 5, sparse);
        let last = messages[65_534].seq;
        let bundle = generate::pack(&mut builder, messages.clone(), sparse, compression);
        let mut chunk = Vec::new();
        generate::put_varint(bundle.bytes.len() as u64, &mut chunk);
        chunk.extend_from_slice(&bundle.bytes);
        let (request, bytes) = generate::one_chunk(1, Some(1), last, &chunk);
        let mut answers = feed::decode(&[request], &bytes, &Limits::default()).complete();
        assert!(answers.remove(0).parts[0].messages == messages);
    }
}

#[test]
fn a_bundle_takes_no_more_than_a_server_counts_right() {
    let mut builder = BundleBuilder::default();
    let message = Message { seq: 0, timestamp_ms: 0, key: None, payload: vec![] };
    for _ in 0..65_535 {
        builder.push(&generate::raw(&message)).unwrap();
    }
    let e = builder.push(&generate::raw(&message)).unwrap_err();
    assert_eq!((e.field, e.given, e.max), ("messages in a bundle", 65_536, 65_535));
    assert_eq!(builder.count(), 65_535, "nothing was appended");
}
