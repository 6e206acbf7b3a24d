//! The last sequence numbers there are, which no log comes to: what a peer makes of them asks for nothing else than it says,
//! and brings nothing twice.

use std::time::Duration;

use common::peer::{Peer, Reply, Script, status};
use common::server::sparse;
use common::watch::within;
use tank_client::Compression;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::admin::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
use tank_client::protocol::fetch::{FetchHeader, FetchRequest, PartitionAnswer, SEQ_TAIL, TopicAnswer};
use tank_client::protocol::frame::Payload;
use tank_client::protocol::produce::ProduceRequest;
use tank_client::protocol::varint;
use tank_client::{Client, Error, ErrorKind, OutOfRange, Positions, Record, Start, Subscription};

const LAST: u64 = u64::MAX - 1;

/// Has messages up to the last number of all, or says so.
struct Absurd {
    mark: u64,
    answer: PartitionAnswer,
    chunk: Vec<u8>,
}

impl Script for Absurd {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        let mut bytes = Vec::new();
        match Kind::from_id(id).unwrap() {
            Kind::Status => return status(payload, false),
            Kind::DiscoverPartitions => {
                let DiscoverPartitionsRequest { request_id, topic, .. } =
                    DiscoverPartitionsRequest::decode(payload).unwrap();
                let marks = PartitionState::Marks { first_available: 1, high_water_mark: self.mark };
                let answer = DiscoverPartitionsResponse { request_id, topic, count: 1, partitions: vec![marks] };
                answer.encode(&mut bytes).unwrap();
            }
            Kind::Consume => {
                let request = FetchRequest::decode(payload).unwrap();
                let wanted = request.topics[0].partitions[0];
                assert_ne!(wanted.seq, SEQ_TAIL, "whatever comes next was asked for");
                let topics = vec![TopicAnswer {
                    name: request.topics[0].name.clone(),
                    partitions: vec![(wanted.partition, self.answer)],
                }];
                FetchHeader { request_id: request.request_id, topics }.encode(&mut bytes).unwrap();
                bytes.extend_from_slice(&self.chunk);
            }
            kind => {
                ProduceRequest::decode(kind, payload).unwrap();
                panic!("nothing can be published here");
            }
        }
        Reply { bytes, ..Reply::default() }
    }
}

fn chunk(seqs: &[u64]) -> (PartitionAnswer, Vec<u8>) {
    let bundle = sparse(seqs, Compression::None);
    let mut chunk = Vec::new();
    varint::encode(bundle.len() as u32, &mut chunk);
    chunk.extend_from_slice(&bundle);
    (PartitionAnswer::Data { base: None, high_water_mark: u64::MAX, len: chunk.len() as u32 }, chunk)
}

fn with_peer(absurd: Absurd, body: impl FnOnce(&Client) + Send + 'static) {
    within(60, || {
        let peer = Peer::start();
        peer.play(absurd);
        let client = Client::builder().retry_timeout(Duration::ZERO).connect(peer.addr()).unwrap();
        body(&client);
        peer.end();
    });
}

fn is_about_the_number(e: &Error) {
    assert_eq!(e.kind, ErrorKind::Decode);
    let source = common::malformed(e);
    assert_eq!(source.partition(), Some(("t", 0)));
    assert_eq!(
        source.to_string(),
        "t/0: next sequence number 18446744073709551615 is outside 0..=18446744073709551614 (at byte 0)"
    );
}

#[test]
fn after_the_last_message_of_all() {
    let (answer, chunk) = chunk(&[LAST - 1, LAST]);
    with_peer(Absurd { mark: 9, answer, chunk }, |client| {
        let mut iter = client.subscribe(Subscription::partition("t", 0).start(Start::Earliest)).unwrap();
        for seq in [LAST - 1, LAST] {
            assert_eq!(iter.next().unwrap().unwrap().seq(), seq);
        }
        is_about_the_number(&iter.next().unwrap().unwrap_err());
        assert!(iter.next().is_none());
    });
}

#[test]
fn up_to_the_last_message_of_all() {
    let (answer, chunk) = chunk(&[LAST - 1, LAST]);
    with_peer(Absurd { mark: LAST, answer, chunk }, |client| {
        let all = Subscription::partition("t", 0).start(Start::Earliest);
        for wanted in [all.clone().limit(2), all.clone().stop_at_seq(LAST), all.stop_at_seq(u64::MAX).limit(2)] {
            let seqs: Vec<u64> = client.subscribe(wanted).unwrap().map(|message| message.unwrap().seq()).collect();
            assert_eq!(seqs, [LAST - 1, LAST]);
        }
    });
}

#[test]
fn what_follows_an_absurd_mark_is_not_asked_for() {
    for mark in [LAST, u64::MAX] {
        let (answer, chunk) = chunk(&[1]);
        with_peer(Absurd { mark, answer, chunk }, |client| {
            is_about_the_number(&client.subscribe(Subscription::partition("t", 0)).unwrap_err());
        });
    }
}

#[test]
fn sent_to_an_absurd_number() {
    for policy in [OutOfRange::Earliest, OutOfRange::Latest] {
        let answer = PartitionAnswer::OutOfRange { high_water_mark: u64::MAX, first_available: u64::MAX };
        with_peer(Absurd { mark: 9, answer, chunk: Vec::new() }, move |client| {
            let wanted = Subscription::partition("t", 0).start(Start::At(7)).out_of_range(policy);
            is_about_the_number(&client.subscribe(wanted).unwrap().next().unwrap().unwrap_err());
        });
    }
}

#[test]
fn a_position_that_was_kept_somewhere_else() {
    let (answer, chunk) = chunk(&[1]);
    with_peer(Absurd { mark: 9, answer, chunk }, |client| {
        let path = common::example::scratch("absurd");
        let mut checkpoint = tank_client::Checkpoint::open(&path).unwrap();
        let mut positions = Positions::default();
        positions.set("t", 0, u64::MAX);
        checkpoint.save(&positions).unwrap();
        let e = client.subscribe(Subscription::partition("t", 0).resume(checkpoint.positions())).unwrap_err();
        assert_eq!(e.to_string(), "t/0=18446744073709551615: no such number, 0 to 18446744073709551614 allowed");
    });
}

#[test]
fn numbering_from_an_absurd_mark_on() {
    for mark in [LAST, u64::MAX] {
        let (answer, chunk) = chunk(&[1]);
        with_peer(Absurd { mark, answer, chunk }, |client| {
            let mut producer = client.producer().idempotent().build().unwrap();
            let sent = producer.send_to("t", 0, Record::new(b"x"));
            sent.and_then(|()| producer.flush()).unwrap_err();
            assert_eq!((producer.pending(), producer.stored()), (0, 0));
            let e = client.publish_at("t", 0, &[(5, Record::new(b"x"))]).unwrap_err();
            assert!(matches!(e.kind, ErrorKind::Broker { .. }), "{e}");
        });
    }
}
