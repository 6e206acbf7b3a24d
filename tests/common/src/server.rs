//! The server under test: the embedded broker, or the one that `TANK_BROKER=host:port` names.

use std::env;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tank_client::Compression;
use tank_client::broker::{Broker, dense_bundle, sparse_bundle};
use tank_client::protocol::frame::{HEADER_LEN, PING};
use tank_client::protocol::produce::{ProduceCode, ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use tank_client::{Client, Record, Start, Subscription, TopicConfig};

use crate::watch::SOON;

/// A server for tests that need nothing of it but TANK.
pub struct Server {
    addr: String,
    _broker: Option<Broker>,
}

impl Server {
    pub fn start() -> Server {
        match env::var("TANK_BROKER") {
            Ok(addr) => Server { addr, _broker: None },
            Err(_) => {
                let broker = Broker::start().unwrap();
                Server { addr: broker.addr().to_string(), _broker: Some(broker) }
            }
        }
    }

    pub fn addr(&self) -> &str {
        &self.addr
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.addr).unwrap()
    }

    fn wire(&self) -> Wire {
        let stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = Wire { stream };
        assert_eq!(wire.frame(), PING);
        wire
    }

    /// A new topic under a name that nobody has used; and what writes to it.
    pub fn topic(&self, partitions: u16) -> Topic {
        let (name, client) = (unique_name(), self.client());
        client.create_topic(&name, partitions, &TopicConfig::default()).unwrap();
        Topic { name, client, wire: self.wire() }
    }
}

pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("test-{nanos:x}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A topic of a test's own.
pub struct Topic {
    pub name: String,
    client: Client,
    wire: Wire,
}

impl Topic {
    /// Publishes messages with these payloads and no keys, as one bundle.
    pub fn publish(&mut self, partition: u16, payloads: &[impl AsRef<[u8]>]) {
        let records: Vec<_> = payloads.iter().map(|payload| Record::new(payload.as_ref())).collect();
        self.client.publish(&self.name, partition, &records).unwrap();
    }

    /// Publishes messages `from..=to`, each with its number for a payload, in bundles of at most `per_bundle`.
    pub fn publish_numbers(&mut self, partition: u16, from: u64, to: u64, per_bundle: usize) {
        let numbers: Vec<String> = (from..=to).map(|n| n.to_string()).collect();
        for some in numbers.chunks(per_bundle) {
            self.publish(partition, some);
        }
    }

    /// Publishes messages with numbers of their own, which are their payloads too.
    pub fn publish_sparse(&mut self, partition: u16, numbers: &[u64], compression: Compression) {
        self.wire.produce(&self.name, partition, numbers[0], &sparse(numbers, compression));
    }

    pub fn publish_bundle(&mut self, partition: u16, bundle: &[u8]) {
        self.wire.produce(&self.name, partition, 0, bundle);
    }

    /// All of its messages.
    pub fn all(&self) -> Subscription {
        Subscription::topic(&*self.name).start(Start::Earliest).stop_at_end()
    }
}

pub fn bundle(payloads: &[impl AsRef<[u8]>], compression: Compression) -> Vec<u8> {
    let message = |payload| Record::new(payload).timestamp_ms(0);
    let messages: Vec<_> = payloads.iter().map(|payload| message(payload.as_ref())).collect();
    dense_bundle(&messages, compression)
}

/// A bundle of messages with these numbers, which are their payloads too.
pub fn sparse(numbers: &[u64], compression: Compression) -> Vec<u8> {
    let payloads: Vec<String> = numbers.iter().map(u64::to_string).collect();
    let message = |payload| Record::new(payload).timestamp_ms(0);
    let messages: Vec<_> = numbers.iter().zip(&payloads).map(|(&n, p)| (n, message(p.as_bytes()))).collect();
    sparse_bundle(&messages, compression)
}

/// A connection for bundles that the client does not make.
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Stores a bundle; a sparse one if `first_seq` is not 0.
    fn produce(&mut self, topic: &str, partition: u16, first_seq: u64, bundle: &[u8]) {
        let mut frame = Vec::new();
        let request = ProduceRequest {
            client_version: 2,
            request_id: 2,
            client_id: "".into(),
            required_acks: 0,
            ack_timeout_ms: 0,
            with_seqnum: first_seq > 0,
            topics: vec![ProduceTopic {
                name: topic.into(),
                partitions: vec![ProducePartition { partition, first_seq, bundle }],
            }],
        };
        request.encode(&mut frame).unwrap();
        let answer = ProduceResponse::decode(&self.ask(&frame), request.shape()).unwrap();
        assert_eq!(answer.codes, [ProduceCode::Stored]);
    }

    fn ask(&mut self, frame: &[u8]) -> Vec<u8> {
        self.stream.write_all(frame).unwrap();
        self.frame().split_off(HEADER_LEN)
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut frame = vec![0; HEADER_LEN];
        self.stream.read_exact(&mut frame).unwrap();
        let len = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
        frame.resize(HEADER_LEN + len as usize, 0);
        self.stream.read_exact(&mut frame[HEADER_LEN..]).unwrap();
        frame
    }
}
