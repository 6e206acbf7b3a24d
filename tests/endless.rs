//! Peers that never come to an end: what they do is bounded, in time or in bytes.

mod common;
// For the peer.
#[allow(dead_code)]
#[path = "fuzz_targets/input.rs"]
mod input;
#[path = "fuzz_targets/peer.rs"]
mod peer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::example::scratch;
use common::watch::{SOON, timed, within};
use peer::{Peer, Reply, Script, status};
use tank_client::broker::Broker;
use tank_client::protocol::admin::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
use tank_client::protocol::fetch::{FetchHeader, FetchRequest, PartitionAnswer, TopicAnswer};
use tank_client::protocol::frame::{Kind, PING};
use tank_client::{
    Checkpoint, Client, ClientBuilder, Error, Limits, OutOfRange, Record, Start, Subscription, TopicConfig,
};

/// Answers what is asked about partitions, and then pings.
struct Pings {
    /// From the first request on.
    at_once: bool,
}

/// More than any limit, and more than the time-out lets through.
fn flood() -> Reply {
    Reply { bytes: PING.repeat(20 << 20), close: true, pieces: vec![] }
}

fn marks(payload: &[u8], states: Vec<PartitionState>) -> Reply {
    let DiscoverPartitionsRequest { request_id, topic, .. } = DiscoverPartitionsRequest::decode(payload).unwrap();
    let answer = DiscoverPartitionsResponse { request_id, topic, count: states.len() as u16, partitions: states };
    let mut bytes = Vec::new();
    answer.encode(&mut bytes).unwrap();
    Reply { bytes, ..Reply::default() }
}

impl Script for Pings {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        if id == Kind::DiscoverPartitions as u8 && !self.at_once {
            return marks(payload, vec![PartitionState::Marks { first_available: 1, high_water_mark: 9 }]);
        }
        if id == Kind::Status as u8 && !self.at_once {
            return status(payload, false);
        }
        flood()
    }
}

fn builder(peer: &Peer) -> ClientBuilder {
    let addr = peer.addr();
    Client::builder().io_timeout(Duration::from_millis(300)).retry_timeout(Duration::ZERO).map_endpoints(move |_| addr)
}

#[test]
fn pings_before_a_fetched_answer() {
    within(30, || {
        let peer = Peer::start();
        peer.play(Pings { at_once: false });
        let client = builder(&peer).connect(&peer.addr().to_string()).unwrap();
        let mut iter = client.subscribe(Subscription::partition("t", 0).from(Start::Earliest)).unwrap();
        let error = iter.next().unwrap().unwrap_err();
        assert!(
            matches!(&error, Error::Decode { source } if source.field().starts_with("pings") && !source.is_over_limit()),
            "{error:?}"
        );
        peer.end();
    });
}

#[test]
fn pings_before_another_answer() {
    within(30, || {
        let peer = Peer::start();
        peer.play(Pings { at_once: true });
        let client = builder(&peer).connect(&peer.addr().to_string()).unwrap();
        let error = client.partitions("t").unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        peer.end();
    });
}

/// Names a leader of its own for each partition; they do not know either.
struct Leaders(Arc<AtomicUsize>);

impl Script for Leaders {
    fn reply(&mut self, _: u8, payload: &[u8]) -> Reply {
        let asked = self.0.fetch_add(1, Ordering::SeqCst);
        if asked > 0 {
            return marks(payload, vec![PartitionState::NoLeader]);
        }
        let leader = |id: u16| PartitionState::Redirect(format!("10.1.1.1:{}", id + 1).parse().unwrap());
        marks(payload, (0..60_000).map(leader).collect())
    }
}

#[test]
fn leaders() {
    within(30, || {
        let peer = Peer::start();
        let asked = Arc::new(AtomicUsize::new(0));
        peer.play(Leaders(asked.clone()));
        let limits = Limits::default().nodes(50);
        let client = builder(&peer).limits(limits).connect(&peer.addr().to_string()).unwrap();
        assert!(client.partitions("t").is_err());
        assert!(asked.load(Ordering::SeqCst) <= 51, "{asked:?}");
        peer.end();
    });
}

/// Says of every number that it is out of range, and never the same twice in a row.
struct OutOfRangeForEver {
    first_available: Vec<u64>,
    asked: usize,
}

impl Script for OutOfRangeForEver {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        match Kind::from_id(id).unwrap() {
            Kind::DiscoverPartitions => {
                marks(payload, vec![PartitionState::Marks { first_available: 1, high_water_mark: 9 }])
            }
            Kind::Status => status(payload, false),
            _ => {
                let first_available = self.first_available[self.asked % self.first_available.len()];
                self.asked += 1;
                let answer = PartitionAnswer::OutOfRange { high_water_mark: first_available, first_available };
                fetched(payload, answer, &[])
            }
        }
    }
}

/// An answer to a fetch of one partition.
fn fetched(payload: &[u8], answer: PartitionAnswer, chunk: &[u8]) -> Reply {
    let FetchRequest { request_id, topics, .. } = FetchRequest::decode(payload).unwrap();
    let partitions = vec![(topics[0].partitions[0].partition, answer)];
    let topics = vec![TopicAnswer { name: topics[0].name.clone(), partitions, known: true }];
    let mut bytes = Vec::new();
    FetchHeader { request_id, topics }.encode(&mut bytes).unwrap();
    bytes.extend_from_slice(chunk);
    Reply { bytes, ..Reply::default() }
}

#[test]
fn a_number_that_is_out_of_range_wherever_one_goes() {
    within(60, || {
        for first_available in [vec![5], vec![5, 6], vec![5, 0]] {
            for policy in [OutOfRange::Earliest, OutOfRange::Latest] {
                let peer = Peer::start();
                peer.play(OutOfRangeForEver { first_available: first_available.clone(), asked: 0 });
                let client = builder(&peer).retry_timeout(Duration::from_millis(300));
                let client = client.connect(&peer.addr().to_string()).unwrap();
                let wanted = Subscription::partition("t", 0).from(Start::At(3)).out_of_range(policy);
                let error = client.subscribe(wanted).unwrap().next().unwrap().unwrap_err();
                assert!(matches!(error, Error::OutOfRange { .. }), "{first_available:?} {policy:?}: {error:?}");
                peer.end();
            }
        }
    });
}

#[test]
fn pings_before_the_answer_to_a_producer() {
    within(60, || {
        let peer = Peer::start();
        peer.play(Pings { at_once: false });
        let client = builder(&peer).ack_timeout(Duration::from_millis(1)).connect(&peer.addr().to_string()).unwrap();
        let mut producer = client.producer().build().unwrap();
        producer.send_to("t", 0, Record::new(b"x")).unwrap();
        assert!(producer.flush().is_err());
        let error = &producer.take_failures()[0];
        assert!(error.is_unknown() && error.error().is_timeout(), "{error:?}");
        peer.end();
    });
}

/// Leads everything as long as it is asked for the first time, and then says nothing at all.
struct FallsSilent {
    states: Vec<PartitionState>,
    asked: bool,
}

impl Script for FallsSilent {
    fn reply(&mut self, _: u8, payload: &[u8]) -> Reply {
        if std::mem::replace(&mut self.asked, true) {
            return Reply::default();
        }
        marks(payload, self.states.clone())
    }
}

/// Whoever is named as a leader is asked later, too, once the brokers that were given do not answer.
#[test]
fn brokers_that_were_named_and_do_not_answer() {
    within(60, || {
        let leaders: Vec<Peer> = (0..40).map(|_| Peer::start()).collect();
        let marks = PartitionState::Marks { first_available: 1, high_water_mark: 9 };
        let redirect = |leader: &Peer| match leader.addr() {
            std::net::SocketAddr::V4(addr) => PartitionState::Redirect(addr),
            other => panic!("{other}"),
        };
        let peer = Peer::start();
        // Each leads one partition, as far as the first answer goes.
        for (index, leader) in leaders.iter().enumerate() {
            let mut states: Vec<_> = leaders.iter().map(redirect).collect();
            states[index] = marks;
            leader.play(FallsSilent { states, asked: false });
        }
        peer.play(FallsSilent { states: leaders.iter().map(redirect).collect(), asked: false });
        let client = Client::builder().io_timeout(Duration::from_millis(300)).connect_timeout(Duration::from_secs(1));
        let client = client.retry_timeout(Duration::ZERO).connect(&peer.addr().to_string()).unwrap();
        assert_eq!(client.partitions("t").unwrap().len(), leaders.len());
        let (error, took) = timed(|| client.topics().unwrap_err());
        assert!(took < Duration::from_secs(6), "{took:?} where 1.3 s were given: {error}");
    });
}

#[test]
fn a_configuration_of_very_many_keys() {
    within(60, || {
        let text: String = (0..200_000).map(|n| format!("k{n}=1\n")).collect();
        let config: TopicConfig = text.parse().unwrap();
        assert_eq!(config.unknown().count(), 200_000);
    });
}

#[test]
fn a_checkpoint_of_very_many_partitions() {
    within(60, || {
        let count = 300_000u32;
        let mut bytes = b"TANKCKPT\x01\0".to_vec();
        bytes.extend_from_slice(&count.to_le_bytes());
        for n in 0..count {
            bytes.extend_from_slice(b"\x02t");
            bytes.push(b'a' + (n >> 16) as u8);
            bytes.extend_from_slice(&(n as u16).to_le_bytes());
            bytes.extend_from_slice(&7u64.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let path = scratch("checkpoint");
        std::fs::write(&path, bytes).unwrap();
        let mut checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.positions().iter().len(), count as usize);
        let mut positions = checkpoint.positions().clone();
        positions.set("te", 5, 9);
        checkpoint.save(&positions).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!((checkpoint.positions().get("ta", 65_535), checkpoint.positions().get("te", 5)), (Some(7), Some(9)));
    });
}

/// Leads nothing; whoever it names answers.
struct Names(Vec<PartitionState>);

impl Script for Names {
    fn reply(&mut self, _: u8, payload: &[u8]) -> Reply {
        marks(payload, self.0.clone())
    }
}

/// However many brokers are named, a client keeps a limited number of connections to them.
#[test]
fn brokers_that_were_named_and_do_answer() {
    within(60, || {
        let counts: Vec<_> = (0..150).map(|_| Broker::start().unwrap()).collect();
        for broker in &counts {
            broker.create_topic("t", 1);
        }
        let redirect = |broker: &Broker| match broker.addr() {
            std::net::SocketAddr::V4(addr) => PartitionState::Redirect(addr),
            other => panic!("{other}"),
        };
        let peer = Peer::start();
        peer.play(Names(counts.iter().rev().map(redirect).collect()));
        let client = Client::builder().retry_timeout(Duration::ZERO).connect(&peer.addr().to_string()).unwrap();
        // Each says something about the first partition only, so all but one go on being asked for.
        client.partitions("t").unwrap_err();
        let open = || counts.iter().map(|broker| broker.stats().open).sum::<usize>();
        assert!(counts.iter().all(|broker| broker.stats().accepted == 1));
        assert!((1..=64).contains(&open()), "{}", open());
        drop(client);
        assert!(counts.iter().all(|broker| broker.wait_until(SOON, |stats| stats.open == 0)));
        peer.end();
    });
}

/// Brings a message with every other answer, and names somebody in between who cannot be reached.
struct SendsAway(u64);

impl Script for SendsAway {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        match Kind::from_id(id).unwrap() {
            Kind::DiscoverPartitions => {
                marks(payload, vec![PartitionState::Marks { first_available: 1, high_water_mark: u64::MAX }])
            }
            Kind::Status => status(payload, false),
            _ => {
                self.0 += 1;
                if self.0 % 2 == 0 {
                    let [.., a, b] = (self.0 as u16).to_be_bytes();
                    let nobody = std::net::SocketAddrV4::new([127, 77, a, b].into(), 1);
                    return fetched(payload, PartitionAnswer::Redirect(nobody), &[]);
                }
                let seq = FetchRequest::decode(payload).unwrap().topics[0].partitions[0].seq.max(1);
                let chunk = [13, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, b'h', b'i'];
                let answer = PartitionAnswer::Data { base: Some(seq), high_water_mark: u64::MAX, len: 14 };
                fetched(payload, answer, &chunk)
            }
        }
    }
}

/// However many leaders were named and cannot be reached, no more than some hundred are remembered.
#[test]
fn leaders_that_cannot_be_reached() {
    within(60, || {
        let peer = Peer::start();
        peer.play(SendsAway(0));
        let client = Client::builder().backoff(Duration::from_micros(1), Duration::from_micros(1));
        let client = client.connect(&peer.addr().to_string()).unwrap();
        let mut iter = client.subscribe(Subscription::partition("t", 0).from(Start::Earliest)).unwrap();
        for seq in 1..=600 {
            assert_eq!(iter.next().unwrap().unwrap().seq(), seq);
        }
        assert!(iter.stats().failed_brokers > 500, "{:?}", iter.stats());
        let remembered = format!("{iter:?}").matches("Leader {").count();
        assert!(remembered <= 260, "{remembered}");
        peer.end();
    });
}

/// Nor does a producer keep connections to all that ever led something.
#[test]
fn leaders_of_what_was_published() {
    within(120, || {
        let cluster = Broker::cluster(90).unwrap();
        cluster.create_topic("t", 90);
        let client = Client::builder().backoff(Duration::from_micros(1), Duration::from_micros(1));
        let client = client.connect(&cluster.node(0).addr().to_string()).unwrap();
        let mut producer = client.producer().build().unwrap();
        for partition in 0..90 {
            producer.send_to("t", partition, Record::new(b"x")).unwrap();
            producer.flush().unwrap();
        }
        assert_eq!(producer.stored(), 90);
        let nodes = || (0..90).map(|node| cluster.node(node));
        assert!(nodes().all(|node| node.stats().accepted >= 1));
        let open = || nodes().map(|node| node.stats().open).sum::<usize>();
        let started = Instant::now();
        while open() > 70 {
            assert!(started.elapsed() < SOON, "{}", open());
            std::thread::yield_now();
        }
    });
}
