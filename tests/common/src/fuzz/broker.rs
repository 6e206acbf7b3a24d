//! The embedded broker against hostile clients: whatever bytes they send, in whatever pieces, it answers in whole frames or
//! hangs up, and still serves a good client.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tank_client::broker::{Broker, sparse_bundle};
use tank_client::protocol::admin::{StatusRequest, StatusResponse};
use tank_client::protocol::frame::{FrameHeader, HEADER_LEN, PING, Payload};
use tank_client::{Client, Record, Start, Subscription};

use crate::input::{Input, Pieces};

/// A name that is not hit by chance.
const GOOD: &str = "do-not-touch";

/// How long the broker may take for anything.
const SOON: Duration = Duration::from_secs(5);

/// From how many topics, partitions and runs on a broker is replaced, so that memory stays what it is.
const MOST: (u32, u32, u32) = (20, 500, 2000);

/// The broker, its runs, and a good client's connection.
static SERVED: Mutex<Option<(Broker, u8, u32, TcpStream)>> = Mutex::new(None);

/// Settings `u8`, sizes of pieces after a `u8`, then what each connection sends, after a `u16`.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let settings = input.u8();
    let sizes = input.short();
    let kind = settings & 7;
    let mut served = SERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let (broker, _, runs, good) = match served.as_mut() {
        Some(same) if same.1 == kind => same,
        _ => served.insert(start(kind)),
    };
    *runs += 1;

    let mut connections = Vec::new();
    for _ in 0..settings >> 6 {
        connections.push((connect(broker), input.long()));
    }
    let rest = std::mem::take(&mut input.0);
    connections.push((connect(broker), rest));
    for (stream, bytes) in &mut connections {
        let mut pieces = Pieces::new(sizes);
        let mut rest = *bytes;
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(pieces.size().min(rest.len()));
            // It may have hung up already.
            if stream.write_all(piece).is_err() {
                break;
            }
            rest = later;
        }
    }
    let streams = connections.into_iter().map(|(stream, _)| stream);
    let answers: Vec<Vec<u8>> = streams.map(|stream| rest_of(stream, settings & 8 != 0)).collect();
    answers.iter().for_each(|answers| check(answers));

    let status = status(good);
    if *runs % 16 == 0 {
        consume(broker);
    }
    if status.topics > MOST.0 || status.partitions > MOST.1 || *runs > MOST.2 {
        *served = None;
    }
}

fn start(kind: u8) -> (Broker, u8, u32, TcpStream) {
    let mut builder = Broker::builder().segment_bytes(2000).index_interval(200);
    if kind & 1 != 0 {
        builder = builder.cut_chunks();
    }
    if kind & 2 != 0 {
        builder = builder.exact_waits();
    }
    if kind & 4 != 0 {
        builder = builder.read_only();
    }
    let broker = builder.start().unwrap();
    for topic in ["t", "events", "orders"] {
        broker.create_topic(topic, 2);
        broker.append_payloads(topic, 0, &[&b"first"[..], &[b'x'; 700], b"third", &[b'y'; 1500], b"last"]);
    }
    let message = |payload| Record::new(payload);
    let sparse = [(5, message(b"five")), (9, message(b"nine"))];
    broker.append("t", 1, &sparse_bundle(&sparse, tank_client::Compression::Auto));
    broker.create_topic(GOOD, 1);
    broker.append_payloads(GOOD, 0, &["a", "b", "c"]);
    let good = connect(&broker);
    (broker, kind, 0, good)
}

fn connect(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(broker.addr()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    let _ = stream.set_nodelay(true);
    let mut ping = [0; HEADER_LEN];
    (&stream).read_exact(&mut ping).unwrap();
    assert_eq!(ping, PING);
    stream
}

/// All that comes until the broker hangs up, unless the client is gone before.
fn rest_of(mut stream: TcpStream, abrupt: bool) -> Vec<u8> {
    let mut answers = Vec::new();
    if abrupt || stream.shutdown(Shutdown::Write).is_err() {
        return answers;
    }
    match stream.read_to_end(&mut answers) {
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            panic!("the broker neither answers nor hangs up")
        }
        // What was on its way is lost with a reset.
        Err(_) => Vec::new(),
        Ok(_) => answers,
    }
}

/// Only whole frames; the last may lack its end if the broker hung up.
fn check(mut answers: &[u8]) {
    while let Some(header) = FrameHeader::decode(answers).unwrap() {
        let Some((_, rest)) = answers[HEADER_LEN..].split_at_checked(header.len as usize) else { break };
        answers = rest;
    }
}

fn status(good: &mut TcpStream) -> StatusResponse {
    let mut request = Vec::new();
    StatusRequest { request_id: 7 }.encode(&mut request).unwrap();
    good.write_all(&request).unwrap();
    let mut header = [0; HEADER_LEN];
    good.read_exact(&mut header).unwrap();
    let mut payload = vec![0; FrameHeader::decode(&header).unwrap().unwrap().len as usize];
    good.read_exact(&mut payload).unwrap();
    StatusResponse::decode(&payload).unwrap()
}

fn consume(broker: &Broker) {
    let client = Client::builder().io_timeout(SOON).retry_timeout(Duration::ZERO).connect(broker.addr());
    let wanted = Subscription::partition(GOOD, 0).start(Start::Earliest).limit(3);
    let messages = client.unwrap().subscribe(wanted).unwrap();
    let payloads: Vec<Vec<u8>> = messages.map(|message| message.unwrap().payload().to_vec()).collect();
    assert_eq!(payloads, [b"a", b"b", b"c"]);
}
