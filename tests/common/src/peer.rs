//! A peer on a port of its own that says whatever its script makes it say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tank_client::protocol::admin::{ClusterStatus, StatusRequest, StatusResponse};
use tank_client::protocol::frame::{HEADER_LEN, PING, Payload};

/// What to send, and whether to hang up afterwards.
#[derive(Debug, Default)]
pub struct Reply {
    pub bytes: Vec<u8>,
    pub close: bool,
    /// Sizes of the pieces in which to send, over and over.
    pub pieces: Vec<u8>,
}

/// An honest answer to a status request.
pub fn status(payload: &[u8], cluster: bool) -> Reply {
    let StatusRequest { request_id } = StatusRequest::decode(payload).unwrap();
    let cluster = cluster.then(|| ClusterStatus { flags: 0, name: "c".into(), nodes: 1 });
    let mut bytes = Vec::new();
    StatusResponse { request_id, flags: 0, topics: 1, partitions: 1, cluster, log: None }.encode(&mut bytes).unwrap();
    Reply { bytes, ..Reply::default() }
}

/// What the peer says.
pub trait Script: Send {
    /// To somebody who has connected.
    fn greeting(&mut self) -> Reply {
        Reply { bytes: PING.to_vec(), ..Reply::default() }
    }

    /// To a request, given the message id and the payload.
    fn reply(&mut self, id: u8, payload: &[u8]) -> Reply;
}

struct State {
    script: Option<Box<dyn Script>>,
    /// Which script it is: connections end with the one they began with.
    number: u64,
    /// A script that panicked, which is the fault of what it was asked.
    broken: bool,
    /// Whether nobody needs it any more.
    dropped: bool,
}

pub struct Peer {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Peer {
    /// Listens until it is dropped.
    pub fn start() -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { script: None, number: 0, broken: false, dropped: false }));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                if shared.lock().is_ok_and(|state| state.dropped) {
                    break;
                }
                // A stream that cannot be served closes, like any other trouble.
                let Ok(stream) = stream else { continue };
                let _ = thread::Builder::new().stack_size(256 << 10).spawn(move || {
                    let _ = catch_unwind(AssertUnwindSafe(|| serve(&shared, stream)))
                        .inspect_err(|_| shared.lock().unwrap_or_else(PoisonError::into_inner).broken = true);
                });
            }
        });
        Peer { addr, state }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Plays this script to whoever connects from now on.
    pub fn play(&self, script: impl Script + 'static) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.number += 1;
        state.script = Some(Box::new(script));
    }

    /// Ends the script.
    ///
    /// # Panics
    /// If it panicked.
    pub fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.number += 1;
        state.script = None;
        assert!(!state.broken, "the client sent what it should not");
    }
}

/// Thousands of threads that listen, each with a stack, are more than fits into 32 bits.
impl Drop for Peer {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.dropped, state.script) = (true, None);
        drop(state);
        // Only a connection ends the wait for one.
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve(state: &Mutex<State>, mut stream: TcpStream) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let number = state.lock().ok()?.number;
    let ask = |what: &mut dyn FnMut(&mut dyn Script) -> Reply| {
        let mut state = state.lock().ok()?;
        if state.number != number {
            return None;
        }
        state.script.as_mut().map(|script| what(script.as_mut()))
    };
    let greeting = ask(&mut |script| script.greeting())?;
    send(&mut stream, &greeting)?;
    let mut payload = Vec::new();
    loop {
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).ok()?;
        let [id, length @ ..] = header;
        payload.resize(u32::from_le_bytes(length) as usize, 0);
        stream.read_exact(&mut payload).ok()?;
        // A server swallows pings.
        if id == PING[0] {
            continue;
        }
        let reply = ask(&mut |script| script.reply(id, &payload))?;
        send(&mut stream, &reply)?;
    }
}

/// `None` if that was all.
fn send(stream: &mut TcpStream, reply: &Reply) -> Option<()> {
    let mut pieces = super::input::Pieces::new(&reply.pieces);
    let mut rest = reply.bytes.as_slice();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(pieces.size().min(rest.len()));
        stream.write_all(piece).ok()?;
        rest = later;
    }
    (!reply.close).then_some(())
}
