//! What callers give: whatever it is, what reaches a broker is a request that the reference allows and says what was meant, or
//! the call fails before anything is sent.

mod calls;
mod plain;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use self::plain::{Asked, Slot};
use common::peer::{Peer, Reply, Script, status};
use common::rng::Rng;
use common::watch::SOON;
use tank_client::broker::RequestKind as Kind;
use tank_client::protocol::admin::{
    CreateTopicCode, CreateTopicRequest, CreateTopicResponse, DiscoverPartitionsRequest, DiscoverPartitionsResponse,
    DiscoverTopicsRequest, DiscoverTopicsResponse, DiscoverTopologyRequest, DiscoverTopologyResponse, PartitionState,
    ReloadConfCode, ReloadConfRequest, ReloadConfResponse, StatusRequest, Topology,
};
use tank_client::protocol::fetch::{FetchHeader, FetchPartition, FetchRequest, PartitionAnswer, TopicAnswer};
use tank_client::protocol::frame::{HEADER_LEN, Payload};
use tank_client::protocol::produce::{ProduceCode, ProduceRequest, ProduceResponse};
use tank_client::{Client, ClientBuilder};

/// What the peer says of every partition there is.
const FIRST: u64 = 10;
const MARK: u64 = 20;

/// How many partitions a topic has; those whose name begins with `u` do not exist.
fn partitions_of(topic: &str) -> u16 {
    match topic.bytes().next() {
        Some(b'u') => 0,
        Some(b'w') => 300,
        _ => 3,
    }
}

/// The number that a log is asked for to learn its end.
const BEYOND_END: u64 = u64::MAX - 1;

/// Reads every request twice and answers it honestly: it has no messages, and stores whatever it is given.
struct Honest(Sender<Asked>);

impl Script for Honest {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        let (request_id, asked) = plain::request(id, payload);
        let kind = Kind::from_id(id).unwrap();
        let mut bytes = Vec::new();
        // What the crate's own decoder makes of it encodes to the same again.
        let mut again = Vec::new();
        match kind {
            Kind::Status => {
                StatusRequest::decode(payload).unwrap().encode(&mut again).unwrap();
                bytes = status(payload, false).bytes;
            }
            Kind::DiscoverTopics => {
                DiscoverTopicsRequest::decode(payload).unwrap().encode(&mut again).unwrap();
                DiscoverTopicsResponse { request_id, cluster: false, topics: vec![] }.encode(&mut bytes).unwrap();
            }
            Kind::DiscoverTopology => {
                DiscoverTopologyRequest::decode(payload).unwrap().encode(&mut again).unwrap();
                DiscoverTopologyResponse { request_id, topology: Topology::default() }.encode(&mut bytes).unwrap();
            }
            Kind::DiscoverPartitions => {
                let request = DiscoverPartitionsRequest::decode(payload).unwrap();
                request.encode(&mut again).unwrap();
                let (topic, count) = (request.topic.clone(), partitions_of(&request.topic));
                let marks = PartitionState::Marks { first_available: FIRST, high_water_mark: MARK };
                let partitions = vec![marks; count.into()];
                DiscoverPartitionsResponse { request_id, topic, count, partitions }.encode(&mut bytes).unwrap();
            }
            Kind::CreateTopic => {
                let request = CreateTopicRequest::decode(payload).unwrap();
                request.encode(&mut again).unwrap();
                let code = CreateTopicCode::Created;
                CreateTopicResponse { request_id, topic: request.topic, code }.encode(&mut bytes).unwrap();
            }
            Kind::ReloadConf => {
                let request = ReloadConfRequest::decode(payload).unwrap();
                request.encode(&mut again).unwrap();
                let ReloadConfRequest { topic, partition, .. } = request;
                let code = ReloadConfCode::Reloaded;
                ReloadConfResponse { request_id, topic, partition, code }.encode(&mut bytes).unwrap();
            }
            Kind::Consume => {
                let request = FetchRequest::decode(payload).unwrap();
                request.encode(&mut again).unwrap();
                let answer = |topic: &str, wanted: &FetchPartition| match wanted.seq {
                    // The question for the end of the log.
                    BEYOND_END if partitions_of(topic) == 0 => PartitionAnswer::UnknownTopic,
                    BEYOND_END if wanted.partition >= partitions_of(topic) => PartitionAnswer::UnknownPartition,
                    BEYOND_END => PartitionAnswer::OutOfRange { high_water_mark: MARK, first_available: FIRST },
                    _ => PartitionAnswer::Data { base: Some(0), high_water_mark: MARK, len: 0 },
                };
                let topics = request.topics.iter().map(|topic| TopicAnswer {
                    name: topic.name.clone(),
                    partitions: topic
                        .partitions
                        .iter()
                        .map(|want| (want.partition, answer(&topic.name, want)))
                        .collect(),
                });
                FetchHeader { request_id, topics: topics.collect() }.encode(&mut bytes).unwrap();
            }
            _ => {
                let request = ProduceRequest::decode(kind, payload).unwrap();
                request.encode(&mut again).unwrap();
                let Asked::Produce { shape, .. } = &asked else { panic!("{asked:?}") };
                let codes = vec![ProduceCode::Stored; shape.iter().sum()];
                ProduceResponse { request_id, codes }.encode(shape.iter().copied(), &mut bytes).unwrap();
            }
        }
        assert_eq!((again[0], &again[HEADER_LEN..]), (id, payload));
        // Nobody listens any more once a test is over.
        let _ = self.0.send(asked);
        Reply { bytes, ..Reply::default() }
    }
}

/// A peer, and what it was asked.
struct Broker {
    peer: Peer,
    asked: Receiver<Asked>,
}

impl Broker {
    fn start() -> Broker {
        let (sender, asked) = channel();
        let peer = Peer::start();
        peer.play(Honest(sender));
        Broker { peer, asked }
    }

    /// A client of this name.
    fn client(&self, name: &str, change: impl Fn(ClientBuilder) -> ClientBuilder) -> Client {
        let builder = Client::builder().client_id(name).retry_timeout(Duration::ZERO).io_timeout(SOON);
        change(builder).connect(self.peer.addr().to_string()).unwrap()
    }

    /// All that was asked by now by this client, or by one that does not say who it is.
    fn asked(&self, client: &str) -> Vec<Asked> {
        self.asked.try_iter().filter(|asked| is_from(asked, client)).collect()
    }

    /// What this client fetches first of each partition, once all of `wanted` were asked for.
    fn fetches(&self, name: &str, wanted: usize, is_probe: impl Fn(&Slot) -> bool) -> Vec<Asked> {
        let (mut all, mut slots) = (Vec::new(), std::collections::HashSet::new());
        while slots.len() < wanted {
            let asked = self.asked.recv_timeout(SOON).expect("a partition is not asked for");
            let Asked::Consume { client, slots: more, .. } = &asked else { continue };
            if client == name {
                slots.extend(more.iter().filter(|slot| !is_probe(slot)).cloned());
                all.push(asked);
            }
        }
        assert_eq!(slots.len(), wanted, "more than was wanted");
        all
    }
}

fn is_from(asked: &Asked, name: &str) -> bool {
    match asked {
        Asked::Consume { client, .. } | Asked::Produce { client, .. } => client == name,
        _ => true,
    }
}

/// A length at or beside one that matters.
fn length(rng: &mut Rng, most: usize) -> usize {
    let near = [0, 1, 2, 15, 16, 63, 64, 65, 127, 128, 254, 255, 256, 257, 1000, 65_534, 65_535, 65_536];
    let near: Vec<usize> = near.into_iter().filter(|len| *len <= most).collect();
    if rng.one_in(3) { rng.between(0, most.min(300)) } else { rng.pick(&near) }
}

/// Text of this many bytes, most of it of a kind that names are not made of.
fn text(rng: &mut Rng, len: usize) -> String {
    let kind = rng.below(4);
    let mut text = String::new();
    while text.len() < len {
        let c = match kind {
            0 => char::from(b'a' + rng.below(20) as u8),
            1 => char::from(rng.below(128) as u8),
            2 => rng.pick(&['ä', '\u{fffd}', '漢', '🦀', '\0', '\n', '=', '#', ' ', '/', '.', '-', '_', 'A', '9']),
            _ => char::from_u32(rng.next_u64() as u32 % 0x11_0000).unwrap_or('x'),
        };
        if text.len() + c.len_utf8() <= len {
            text.push(c);
        } else {
            text.push('x');
        }
    }
    text
}

/// A topic's name, usually one that there may be.
fn topic(rng: &mut Rng) -> String {
    match rng.below(8) {
        0 => {
            let len = length(rng, 1000);
            text(rng, len)
        }
        1 => "w".repeat(rng.between(1, 3)),
        2 => "unknown".into(),
        _ => rng.pick(&["orders", "t", "a-b_c", "A9"]).into(),
    }
}

fn is_name(topic: &str) -> bool {
    (1..=255).contains(&topic.len())
}

fn partition(rng: &mut Rng) -> u16 {
    match rng.below(6) {
        0 => rng.pick(&[3, 299, 300, 65_534, 65_535]),
        1 => rng.next_u64() as u16,
        _ => rng.below(3) as u16,
    }
}

/// A sequence number, mostly one that says something.
fn seq(rng: &mut Rng) -> u64 {
    let near = rng.pick(&[0, 1, MARK, MARK + 1, MARK + (1 << 31), 1 << 32, u64::MAX - 1, u64::MAX]);
    match rng.below(4) {
        0 => near,
        1 => near.wrapping_add(rng.between(0, 4) as u64).wrapping_sub(2),
        2 => rng.next_u64(),
        _ => MARK + 1 + rng.below(10) as u64,
    }
}
