//! The machine, called with invented times and bytes.

mod captures;
mod connections;
mod golden;
mod raw;
mod replicas;
mod sockets;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::{Behaviour, ClusterOptions, Conn, Machine, Options, Pull};
use crate::message::Record;
use crate::net::Time;
use crate::protocol::bundle::Compression;
use crate::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic};
use crate::protocol::frame::{PING, Payload};
use crate::protocol::produce::{ProducePartition, ProduceRequest, ProduceTopic};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn ms(ms: u64) -> Time {
    Time::ZERO.after(Duration::from_millis(ms))
}

fn addrs(nodes: u16) -> Vec<SocketAddrV4> {
    (0..nodes).map(|node| SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1000 + node)).collect()
}

/// A broker that stands alone and runs.
fn alone(options: Options) -> Machine {
    let mut machine = Machine::new(Time::ZERO, 0, options, &addrs(1), None);
    machine.start(Time::ZERO, 0);
    machine
}

/// A cluster of nodes that run, with a topic `orders` that has one partition, led by node 0.
fn cluster(nodes: u16, factor: usize, behaviour: Behaviour) -> Machine {
    let options = Options { behaviour, journal: true, ..Options::default() };
    let cluster = ClusterOptions { name: "test".into(), factor, election: Duration::ZERO };
    let mut machine = Machine::new(Time::ZERO, 0, options, &addrs(nodes), Some(cluster));
    (0..usize::from(nodes)).for_each(|node| machine.start(Time::ZERO, node));
    assert!(machine.create_topic("orders", 1, None));
    machine
}

/// Opens a connection and takes its ping.
fn open(machine: &mut Machine, now: Time, node: usize) -> Conn {
    let conn = machine.accept(now, node, HERE).unwrap();
    assert_eq!(sent(machine, now, conn), PING);
    conn
}

/// All that a connection must send now, and whether it ends then.
fn output(machine: &mut Machine, now: Time, conn: Conn, piece: usize) -> (Vec<u8>, Pull) {
    let (mut bytes, mut room) = (Vec::new(), vec![0; piece]);
    loop {
        match machine.pull(now, conn, &mut room) {
            Pull::Bytes(n) => bytes.extend_from_slice(&room[..n]),
            end => return (bytes, end),
        }
    }
}

fn sent(machine: &mut Machine, now: Time, conn: Conn) -> Vec<u8> {
    let (bytes, end) = output(machine, now, conn, 64 << 10);
    assert_eq!(end, Pull::Nothing);
    bytes
}

/// What a request is answered at once.
fn ask(machine: &mut Machine, now: Time, conn: Conn, request: &[u8]) -> Vec<u8> {
    machine.handle(now, conn, request);
    sent(machine, now, conn)
}

fn fetch(max_wait_ms: u64, seq: u64, fetch_size: u32) -> Vec<u8> {
    let request = FetchRequest {
        client_version: 2,
        request_id: 7,
        client_id: Arc::from(""),
        max_wait_ms,
        min_bytes: 0,
        flags: 0,
        topics: vec![FetchTopic {
            name: "orders".into(),
            partitions: vec![FetchPartition { partition: 0, seq, fetch_size }],
        }],
    };
    let mut out = Vec::new();
    request.encode(&mut out).unwrap();
    out
}

fn publish(first_seq: u64, acks: u8, bundle: &[u8]) -> Vec<u8> {
    let partition = ProducePartition { partition: 0, first_seq, bundle };
    let request = ProduceRequest {
        client_version: 2,
        request_id: 8,
        client_id: "".into(),
        required_acks: acks,
        ack_timeout_ms: 1000,
        with_seqnum: first_seq > 0,
        topics: vec![ProduceTopic { name: "orders".into(), partitions: vec![partition] }],
    };
    let mut out = Vec::new();
    request.encode(&mut out).unwrap();
    out
}

fn message(payload: &[u8]) -> Record<'_> {
    Record::new(payload).timestamp_ms(1)
}

/// A dense bundle of messages that say their place in it.
fn dense(count: usize) -> Vec<u8> {
    let payloads: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    let messages: Vec<_> = payloads.iter().map(|payload| message(payload.as_bytes())).collect();
    crate::broker::dense_bundle(&messages, Compression::None)
}

/// A sparse bundle with these numbers.
fn sparse(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let records: Vec<_> = numbers.into_iter().map(|seq| (seq, message(b"s"))).collect();
    crate::broker::sparse_bundle(&records, Compression::None)
}

/// The code of a produce answer for one partition.
fn code(answer: &[u8]) -> u8 {
    assert_eq!(answer.len(), 10, "{answer:02x?}");
    answer[9]
}

fn numbers(machine: &Machine, node: usize) -> Vec<u64> {
    machine.log_messages(node, "orders", 0).into_iter().map(|(seq, _)| seq).collect()
}

/// Lets time pass until then, with all that happens by itself; when something did last.
fn pass(machine: &mut Machine, until: Time) -> Time {
    let mut last = Time::ZERO;
    while machine.due() <= until {
        last = machine.due();
        machine.tick(last);
    }
    machine.tick(until);
    last
}
