//! Bare loops: what the same bytes take if nobody looks at them.

use std::hint::black_box;
use std::io::{BufWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use super::curve::{cost, thread_nanos};

/// Processor time to receive this many bytes over one connection, or several in turn.
pub fn receive(bytes: u64, connections: u64) -> f64 {
    let side = move |mut stream: TcpStream| {
        let piece = vec![7; 1 << 20];
        let mut left = (bytes / connections) as usize;
        while left > 0 {
            let n = left.min(piece.len());
            stream.write_all(&piece[..n]).expect("the other side reads");
            left -= n;
        }
    };
    let (addrs, senders): (Vec<_>, Vec<_>) = (0..connections).map(|_| peer(side)).unzip();
    let connect = |addr| TcpStream::connect(addr).expect("a connection");
    let mut streams: Vec<_> = addrs.into_iter().map(connect).collect();
    let mut room = vec![0; 512 << 10];
    let began = thread_nanos();
    while !streams.is_empty() {
        streams.retain_mut(|stream| stream.read(&mut room).expect("bytes") > 0);
    }
    let nanos = thread_nanos() - began;
    senders.into_iter().for_each(|sender| sender.join().expect("the sender ends"));
    nanos
}

/// Processor time for a record, to put it into a buffer that is written whenever it is full.
pub fn send(number: u64, payload: &[u8]) -> f64 {
    let (addr, receiver) = peer(|mut stream| {
        let mut room = vec![0; 1 << 20];
        while stream.read(&mut room).expect("bytes") > 0 {}
    });
    let stream = TcpStream::connect(addr).expect("a connection");
    let mut buffer = BufWriter::with_capacity(512 << 10, stream);
    let nanos = cost(number, || {
        (0..number).for_each(|_| buffer.write_all(black_box(payload)).expect("the other side reads"));
        buffer.flush().expect("the other side reads");
    });
    drop(buffer);
    receiver.join().expect("the receiver ends");
    nanos
}

/// Processor time to send this many bytes and wait for as many as these, once.
pub fn exchange(sent: u64, received: u64) -> f64 {
    const ROUNDS: u64 = 200;
    let (request, mut answer) = (vec![7; sent as usize], vec![0; received as usize]);
    let (addr, echo) = peer(move |mut stream| {
        let (mut request, answer) = (vec![0; sent as usize], vec![7; received as usize]);
        while stream.read_exact(&mut request).is_ok() {
            stream.write_all(&answer).expect("the other side reads");
        }
    });
    let mut stream = TcpStream::connect(addr).expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let nanos = cost(ROUNDS, || {
        for _ in 0..ROUNDS {
            stream.write_all(&request).expect("the other side reads");
            stream.read_exact(&mut answer).expect("the other side answers");
        }
    });
    drop(stream);
    echo.join().expect("the other side ends");
    nanos
}

/// The other side of a connection, in a thread of its own.
fn peer(side: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let accepted = move || {
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        side(stream);
    };
    (addr, thread::spawn(accepted))
}
