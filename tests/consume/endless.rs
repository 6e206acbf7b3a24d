//! Peers that never come to an end, or say what nobody wants to hear: what it costs is bounded, in time or in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use common::example::scratch;
use common::peer::{Peer, Reply, Script, status};
use common::watch::{SOON, timed_in, within};
use tank_client::Compression;
use tank_client::broker::{Broker, RequestKind as Kind, dense_bundle, sparse_bundle};
use tank_client::protocol::admin::{DiscoverPartitionsRequest, DiscoverPartitionsResponse, PartitionState};
use tank_client::protocol::fetch::{FetchHeader, FetchRequest, PartitionAnswer, TopicAnswer};
use tank_client::protocol::frame::{PING, Payload};
use tank_client::protocol::varint;
use tank_client::simulation::Simulation;
use tank_client::{
    Checkpoint, Client, ClientBuilder, ErrorKind, Limits, OutOfRange, Record, Start, Subscription, TopicConfig,
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
    Client::builder().io_timeout(SOON).retry_timeout(Duration::ZERO).map_endpoints(move |_| addr)
}

#[test]
fn pings_before_a_fetched_answer() {
    within(30, || {
        let peer = Peer::start();
        peer.play(Pings { at_once: false });
        let client = builder(&peer).connect(peer.addr()).unwrap();
        let mut iter = client.subscribe(Subscription::partition("t", 0).start(Start::Earliest)).unwrap();
        let error = iter.next().unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Decode);
        let source = common::malformed(&error);
        assert!(source.field().starts_with("pings") && !source.is_over_limit(), "{error:?}");
        peer.end();
    });
}

#[test]
fn endless_pings_before_an_answer_come_to_an_end() {
    within(30, || {
        let peer = Peer::start();
        peer.play(Pings { at_once: true });
        let client = builder(&peer).connect(peer.addr()).unwrap();
        let error = client.partitions("t").unwrap_err();
        assert!(error.is_timeout() || common::malformed(&error).field().starts_with("pings"), "{error:?}");
        peer.end();
    });
}

/// Says the same of each partition of a fetch.
fn answer_all(payload: &[u8], what: PartitionAnswer) -> Reply {
    let request = FetchRequest::decode(payload).unwrap();
    let answer = |topic: &tank_client::protocol::fetch::FetchTopic| TopicAnswer {
        name: topic.name.clone(),
        partitions: topic.partitions.iter().map(|wanted| (wanted.partition, what)).collect(),
    };
    let mut bytes = Vec::new();
    let topics = request.topics.iter().map(answer).collect();
    FetchHeader { request_id: request.request_id, topics }.encode(&mut bytes).unwrap();
    Reply { bytes, ..Reply::default() }
}

/// Names a leader of its own for each partition; they do not know either.
struct Leaders(Arc<AtomicUsize>);

impl Script for Leaders {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        match Kind::from_id(id).unwrap() {
            Kind::Status => return status(payload, true),
            Kind::Consume => {
                self.0.fetch_add(1, Ordering::SeqCst);
                return answer_all(payload, PartitionAnswer::NoLeader);
            }
            _ => {}
        }
        let leader = |id: u16| PartitionState::Redirect(format!("10.1.1.1:{}", id + 1).parse().unwrap());
        marks(payload, (0..60_000).map(leader).collect())
    }
}

#[test]
fn endless_new_leaders_are_remembered_up_to_a_limit() {
    within(30, || {
        let peer = Peer::start();
        let asked = Arc::new(AtomicUsize::new(0));
        peer.play(Leaders(asked.clone()));
        let limits = Limits::default().nodes(50);
        let client = builder(&peer).limits(limits).connect(peer.addr()).unwrap();
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
    let topics = vec![TopicAnswer { name: topics[0].name.clone(), partitions }];
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
                let client = builder(&peer).retry_timeout(Duration::from_millis(30));
                let client = client.connect(peer.addr()).unwrap();
                let wanted = Subscription::partition("t", 0).start(Start::At(3)).out_of_range(policy);
                let error = client.subscribe(wanted).unwrap().next().unwrap().unwrap_err();
                assert!(
                    matches!(error.kind, ErrorKind::OutOfRange { .. }),
                    "{first_available:?} {policy:?}: {error:?}"
                );
                peer.end();
            }
        }
    });
}

/// Knows nothing of leaders, whatever it is asked.
struct Ignorant(Arc<AtomicUsize>);

impl Script for Ignorant {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        self.0.fetch_add(1, Ordering::SeqCst);
        match Kind::from_id(id).unwrap() {
            Kind::Status => status(payload, false),
            Kind::Consume => answer_all(payload, PartitionAnswer::NoLeader),
            _ => marks(payload, vec![PartitionState::NoLeader]),
        }
    }
}

/// One broker that does not know is no reason not to ask the others.
#[test]
fn a_broker_that_never_knows_a_leader() {
    within(30, || {
        let (peer, broker) = (Peer::start(), Broker::start().unwrap());
        broker.create_topic("t", 1);
        broker.append_payloads("t", 0, &["1", "2"]);
        let asked = Arc::new(AtomicUsize::new(0));
        peer.play(Ignorant(asked.clone()));
        let list = format!("{},{}", peer.addr(), broker.addr());
        let quick = || Client::builder().backoff(Duration::from_millis(1), Duration::from_millis(1));
        let client = quick().connect(&list).unwrap();
        assert_eq!(client.partitions("t").unwrap()[0].high_water_mark, 2);
        // Within one call, if that may wait.
        let client = quick().connect(&list).unwrap();
        assert_eq!(client.seq_at("t", 0, SystemTime::now()).unwrap(), 3);
        assert!(asked.load(Ordering::SeqCst) <= 8, "{asked:?}");
        peer.end();
    });
}

/// Answers fetches of its only partition with these chunks in turn, and then with nothing new.
struct Chunks {
    base: u64,
    mark: u64,
    chunks: Vec<Vec<u8>>,
}

impl Script for Chunks {
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        match id {
            id if id == Kind::DiscoverPartitions as u8 => {
                return marks(payload, vec![PartitionState::Marks { first_available: 1, high_water_mark: self.mark }]);
            }
            id if id == Kind::Status as u8 => return status(payload, false),
            _ => assert_eq!(id, Kind::Consume as u8),
        }
        let request = FetchRequest::decode(payload).unwrap();
        let chunk = if self.chunks.is_empty() { Vec::new() } else { self.chunks.remove(0) };
        let answer =
            PartitionAnswer::Data { base: Some(self.base), high_water_mark: self.mark, len: chunk.len() as u32 };
        let topic = TopicAnswer { name: "t".into(), partitions: vec![(0, answer)] };
        let mut bytes = Vec::new();
        FetchHeader { request_id: request.request_id, topics: vec![topic] }.encode(&mut bytes).unwrap();
        bytes.extend(chunk);
        Reply { bytes, ..Reply::default() }
    }
}

fn message(payload: &[u8]) -> Record<'_> {
    Record::new(payload).timestamp_ms(1)
}

/// Bundles as they follow each other in a chunk.
fn chunk<'a>(bundles: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for bundle in bundles {
        varint::encode(bundle.len() as u32, &mut bytes);
        bytes.extend(bundle);
    }
    bytes
}

/// Millions of bundles that nothing is wanted of, as fast as they can be read.
#[test]
fn a_time_out_holds_while_bundles_are_passed_over() {
    within(120, || {
        let peer = Peer::start();
        let (stale, count) = (dense_bundle(&[message(b"")], Compression::None), 4_000_000);
        let wanted = sparse_bundle(&[(count + 1, message(b"wanted"))], Compression::None);
        let whole = chunk(std::iter::repeat_n(&stale, count as usize).chain([&wanted]));
        let bytes = whole.len() as u64;
        peer.play(Chunks { base: 1, mark: count + 1, chunks: vec![whole] });
        let client = Client::connect(peer.addr()).unwrap();
        let mut iter = client.subscribe(Subscription::partition("t", 0).start(Start::At(count + 1))).unwrap();
        let mut quiet = 0;
        let found = loop {
            let before = iter.stats().bytes;
            let next = iter.next_timeout(Duration::from_millis(1)).unwrap();
            // What one call reads without a look at the time.
            let read = iter.stats().bytes - before;
            assert!(read < bytes / 4, "{read} of {bytes} bytes");
            match next {
                Some(message) => break message,
                None => quiet += 1,
            }
        };
        println!("{bytes} bytes in {quiet} calls");
        assert_eq!((found.seq(), found.payload()), (count + 1, &b"wanted"[..]));
        assert_eq!(iter.position_of("t", 0), Some(count + 2));
        peer.end();
    });
}

/// As a restarted replica that is preferred for being near was seen to do: it may hand out anything twice.
#[test]
fn numbers_that_run_backwards_are_refused() {
    within(30, || {
        let first = dense_bundle(&[message(b"10"), message(b"11"), message(b"12")], Compression::None);
        for (low, refused) in [(5, true), (12, true), (13, false)] {
            for count in [1, 3] {
                let peer = Peer::start();
                let payloads: Vec<_> = (low..low + count).map(|seq| (seq, seq.to_string())).collect();
                let later: Vec<_> = payloads.iter().map(|(seq, text)| (*seq, message(text.as_bytes()))).collect();
                let later = sparse_bundle(&later, Compression::None);
                peer.play(Chunks { base: 10, mark: 20, chunks: vec![chunk([&first, &later])] });
                let client = Client::connect(peer.addr()).unwrap();
                let subscription = Subscription::partition("t", 0).start(Start::At(10)).prefer_local();
                let mut iter = client.subscribe(subscription).unwrap();
                for seq in 10..=12 {
                    let message = iter.next().unwrap().unwrap();
                    assert_eq!((message.seq(), message.payload()), (seq, seq.to_string().as_bytes()));
                }
                if !refused {
                    assert_eq!(iter.next_timeout(SOON).unwrap().unwrap().seq(), 13);
                    continue;
                }
                let error = iter.next().unwrap().unwrap_err();
                assert_eq!(error.kind, ErrorKind::Decode);
                let source = common::malformed(&error);
                assert_eq!((source.field(), source.partition()), ("first sequence number", Some(("t", 0))));
                let text = source.to_string();
                assert!(text.contains(&low.to_string()) && text.contains("13"), "{text}");
                assert!(!error.is_retryable() && iter.next().is_none());
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
        let client = builder(&peer).ack_timeout(Duration::from_millis(1)).connect(peer.addr()).unwrap();
        let mut producer = client.producer().build().unwrap();
        producer.send_to("t", 0, Record::new(b"x")).unwrap();
        assert!(producer.flush().is_err());
        let error = &producer.take_failures()[0];
        assert!(error.is_unknown(), "{error:?}");
        peer.end();
    });
}

/// Whoever is named as a leader is asked later, too, once the brokers that were given do not answer: all of them together
/// within the time for one.
#[test]
fn brokers_that_were_named_and_do_not_answer() {
    const NODES: u16 = 41;
    let sim = Simulation::new(1);
    let cluster = sim.cluster_with(&Broker::cluster_builder(NODES.into()).replication_factor(1));
    cluster.create_topic("t", NODES);
    let (io, connect) = (Duration::from_millis(300), Duration::from_secs(1));
    let client = sim.client().io_timeout(io).connect_timeout(connect).retry_timeout(Duration::ZERO);
    let client = client.connect(cluster.node(0).addr()).unwrap();
    assert_eq!(client.partitions("t").unwrap().len(), usize::from(NODES));
    assert!(cluster.nodes().iter().all(|node| node.stats().all_requests() > 0));
    cluster.nodes().iter().for_each(Broker::pause);
    let (error, took) = timed_in(&sim, || client.topics().unwrap_err());
    assert!(error.kind == ErrorKind::Connect && error.is_retryable(), "{error:#}");
    assert!(took >= io && took <= io + connect, "{took:?}: {error:#}");
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
        let entry = |n: u32| format!("t{}/{}=7 ", char::from(b'a' + (n >> 16) as u8), n as u16);
        let content = format!("TANKCKPT 2 {}", (0..count).map(entry).collect::<String>().trim_end());
        let bytes = format!("{content} {:08x}\n", crc32fast::hash(content.as_bytes()));
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
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply {
        if id == Kind::Status as u8 { status(payload, true) } else { marks(payload, self.0.clone()) }
    }
}

/// However many brokers are named, a client opens one connection to each; how many of these it keeps, the pool's own tests say.
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
        let client = Client::builder().retry_timeout(Duration::ZERO).connect(peer.addr()).unwrap();
        // Each says something about the first partition only, so all but one are still asked for.
        client.partitions("t").unwrap_err();
        // An embedded broker that stands alone leads only the first; the others say that there is no such partition.
        assert!(counts.iter().all(|broker| broker.stats().accepted == 1));
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
        let client = client.connect(peer.addr()).unwrap();
        let mut iter = client.subscribe(Subscription::partition("t", 0).start(Start::Earliest)).unwrap();
        for seq in 1..=600 {
            assert_eq!(iter.next().unwrap().unwrap().seq(), seq);
        }
        assert!(iter.stats().failed_brokers > 500, "{:?}", iter.stats());
        let remembered = format!("{iter:?}").matches("Fetcher {").count();
        assert!(remembered <= 260, "{remembered}");
        peer.end();
    });
}

/// One connection to each leader, however many there are, and none is thrown away while it is wanted.
#[test]
fn leaders_of_what_was_published() {
    within(120, || {
        let cluster = Broker::cluster(90).unwrap();
        cluster.create_topic("t", 90);
        let client = Client::builder().backoff(Duration::from_micros(1), Duration::from_micros(1));
        let client = client.connect(cluster.node(0).addr()).unwrap();
        let mut producer = client.producer().build().unwrap();
        for partition in 0..90 {
            producer.send_to("t", partition, Record::new(b"x")).unwrap();
            producer.flush().unwrap();
        }
        assert_eq!(producer.stored(), 90);
        let nodes = || (0..90).map(|node| cluster.node(node));
        // The first one was also connected to by the client.
        assert!(nodes().skip(1).all(|node| node.stats().accepted == 1));
    });
}
