//! A long line: real sockets, and a relay between them that delivers what it carries later, and no faster than the line.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tank_client::broker::{Broker, dense_bundle};
use tank_client::{Client, Compression, Record, Start, Subscription};

use super::curve::Curve;

/// Bytes a second in each direction.
const BANDWIDTH: f64 = 20e6;
/// One way; there and back takes twice as long.
const LATENCY: Duration = Duration::from_millis(50);
/// Pieces on the way: the line holds 2 MB there and back, in pieces of up to 16 KiB.
const ON_THE_WAY: usize = 256;

/// Time, not processor time, for a kilobyte read over the line without any setting, and what the line alone takes.
pub fn kilobytes(name: &'static str) -> Curve {
    Curve::measure(name, &[100, 1_000, 10_000, 100_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", 1);
        let record = Record::new(&[b'x'; 100]);
        broker.append_repeated("t", 0, &[&dense_bundle(&[record; 500], Compression::None)], number / 50);
        let client = Client::connect(relay(broker.addr())).expect("a connection");
        let began = Instant::now();
        let all = Subscription::topic("t").start(Start::Earliest).stop_at_end();
        let messages = client.subscribe(all).expect("a subscription");
        let bytes: usize = messages.map(|message| message.expect("a message").payload().len()).sum();
        let nanos = began.elapsed().as_nanos() as f64;
        println!("{number:>10} KB: {:.1} MB/s", bytes as f64 / nanos * 1e3);
        let bare = 2.0 * LATENCY.as_nanos() as f64 + bytes as f64 / BANDWIDTH * 1e9;
        (nanos / number as f64, Some(bare / number as f64))
    })
}

/// Listens for connections that lead to the broker.
fn relay(broker: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(broker) = TcpStream::connect(broker) else { return };
            let copy = |stream: &TcpStream| stream.try_clone().expect("a socket");
            carry(copy(&client), copy(&broker));
            carry(broker, client);
        }
    });
    addr
}

/// Carries one direction, with a thread at each end of the line.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    let (put, got) = sync_channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    thread::spawn(move || {
        let mut free_at = Instant::now();
        let mut piece = vec![0; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(n as f64 / BANDWIDTH);
            if put.send((free_at + LATENCY, piece[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        let got: Receiver<_> = got;
        let _ = to.set_nodelay(true);
        for (due, bytes) in got {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
    });
}
