//! From publishing to delivery, beside bare sockets at the same broker, and the same bytes through a bare relay.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tank_client::protocol::bundle::{Compression, RawMessage};
use tank_client::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic};
use tank_client::protocol::frame::HEADER_LEN;
use tank_client::protocol::produce::{ProducePartition, ProduceRequest, ProduceTopic};
use tank_client::{Client, Record, Start, Subscription};

use crate::{Options, percentiles};

const PAYLOAD: [u8; 100] = [b'x'; 100];

/// Bytes of the answer to a produce request for one partition.
const ACK: usize = 10;

pub fn measure(broker: &str, topic: &str, options: &Options) -> Result<(), Box<dyn Error>> {
    let count = options.count.unwrap_or(10_000).max(100) as usize;
    let per_run = count.div_ceil(options.runs);
    let (mut delivered, mut bare, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let (times, answer) = through_tank(broker, topic, per_run)?;
        delivered.extend(times);
        bare.extend(through_bare_sockets(broker, topic, per_run)?);
        relayed.extend(through_relay(request(topic)?.len(), answer, per_run)?);
    }
    println!("publish to delivery  {}", percentiles(delivered));
    println!("bare sockets         {}", percentiles(bare));
    println!("bare relay           {}", percentiles(relayed));
    Ok(())
}

/// Publishes again and again, each time once the last message is delivered; the times, and the bytes of an answer.
fn through_tank(broker: &str, topic: &str, count: usize) -> Result<(Vec<Duration>, usize), Box<dyn Error>> {
    let client = Client::connect(broker)?;
    let mut iter = client.subscribe(Subscription::partition(topic, 0).start(Start::Latest).limit(count as u64))?;
    let (arrived, arrivals) = channel();
    let follower = thread::spawn(move || {
        for message in &mut iter {
            let outcome = message.map(|_| Instant::now()).map_err(|e| e.to_string());
            if arrived.send(outcome).is_err() {
                break;
            }
        }
        iter.stats().bytes as usize / count
    });
    let times = times(count, &arrivals, || Ok(client.publish(topic, 0, &[Record::new(&PAYLOAD)])?))?;
    let answer = follower.join().map_err(|_| "the follower panicked")?;
    Ok((times, answer))
}

/// The same requests and answers, without anything of a client: what the broker and the network take.
fn through_bare_sockets(broker: &str, topic: &str, count: usize) -> Result<Vec<Duration>, Box<dyn Error>> {
    let connect = || -> std::io::Result<TcpStream> {
        let mut socket = TcpStream::connect(broker)?;
        socket.set_nodelay(true)?;
        socket.read_exact(&mut [0; HEADER_LEN])?;
        Ok(socket)
    };
    let (mut publisher, mut follower) = (connect()?, connect()?);
    let partitions = Client::connect(broker)?.partitions(topic)?;
    let mut seq = partitions.first().ok_or("no partition")?.high_water_mark + 1;
    let (arrived, arrivals) = channel();
    let name = topic.to_owned();
    thread::spawn(move || -> Result<(), Box<dyn Error + Send + Sync>> {
        for _ in 0..count {
            let mut request = Vec::new();
            let wanted = FetchPartition { partition: 0, seq, fetch_size: 1 << 20 };
            FetchRequest {
                client_version: 2,
                request_id: 1,
                client_id: "tank-client".into(),
                max_wait_ms: 5000,
                min_bytes: 0,
                flags: 0,
                topics: vec![FetchTopic { name: name.as_str().into(), partitions: vec![wanted] }],
            }
            .encode(&mut request)?;
            follower.write_all(&request)?;
            read_frame(&mut follower)?;
            arrived.send(Ok(Instant::now()))?;
            seq += 1;
        }
        Ok(())
    });
    let request = request(topic)?;
    times(count, &arrivals, || {
        publisher.write_all(&request)?;
        Ok(read_frame(&mut publisher)?)
    })
}

/// Reads an answer to its end.
fn read_frame(socket: &mut TcpStream) -> std::io::Result<()> {
    let mut header = [0; HEADER_LEN];
    socket.read_exact(&mut header)?;
    let len = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    socket.read_exact(&mut vec![0; len as usize])
}

/// The same with two bare sockets and a thread between them that passes bytes on.
fn through_relay(request: usize, answer: usize, count: usize) -> Result<Vec<Duration>, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let connect = || -> std::io::Result<(TcpStream, TcpStream)> {
        let ours = TcpStream::connect(listener.local_addr()?)?;
        let theirs = listener.accept()?.0;
        ours.set_nodelay(true)?;
        theirs.set_nodelay(true)?;
        Ok((ours, theirs))
    };
    let ((mut publisher, mut from_publisher), (mut follower, mut to_follower)) = (connect()?, connect()?);
    thread::spawn(move || -> std::io::Result<()> {
        let (mut request, answer) = (vec![0; request], vec![0; answer]);
        loop {
            from_publisher.read_exact(&mut request)?;
            to_follower.write_all(&answer)?;
            from_publisher.write_all(&[0; ACK])?;
        }
    });
    let (arrived, arrivals): (Sender<Result<Instant, String>>, _) = channel();
    thread::spawn(move || {
        let mut answer = vec![0; answer];
        while follower.read_exact(&mut answer).is_ok() && arrived.send(Ok(Instant::now())).is_ok() {}
    });
    let request = vec![0; request];
    times(count, &arrivals, || {
        publisher.write_all(&request)?;
        Ok(publisher.read_exact(&mut [0; ACK])?)
    })
}

/// How long it takes from the beginning of `publish` until the message has arrived.
fn times(
    count: usize,
    arrivals: &Receiver<Result<Instant, String>>,
    mut publish: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let one = |_| -> Result<Duration, Box<dyn Error>> {
        // The follower waits for the next message by now, as it does all day long.
        thread::sleep(Duration::from_micros(200));
        let start = Instant::now();
        publish()?;
        Ok(arrivals.recv()??.duration_since(start))
    };
    (0..count).map(one).collect()
}

/// The bytes that publishing the message takes.
fn request(topic: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let message = RawMessage { timestamp_ms: 1_700_000_000_000, key: None, payload: &PAYLOAD };
    let bundle = tank_client::broker::dense_bundle(&[message], Compression::None);
    let mut bytes = Vec::new();
    ProduceRequest {
        client_version: tank_client::protocol::produce::CLIENT_VERSION,
        request_id: 1,
        client_id: "tank-client".into(),
        required_acks: 0,
        ack_timeout_ms: 0,
        with_seqnum: false,
        topics: vec![ProduceTopic {
            name: topic.into(),
            partitions: vec![ProducePartition { partition: 0, first_seq: 0, bundle: &bundle }],
        }],
    }
    .encode(&mut bytes)?;
    Ok(bytes)
}
