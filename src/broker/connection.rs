//! Connections: a thread that accepts, and for each connection one that reads and one that writes (reference, section 2).

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufReader, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::faults::{BrokerFault, Greeting};
use super::state::{Conn, End, MAX_SILENT, Shared, State};
use super::stats::{KEPT_REQUESTS, Request};
use super::writer::Writer;
use super::{admin, consume, produce};
use crate::protocol::frame::{FrameHeader, HEADER_LEN, Kind, MAX_REQUEST};

/// Bytes of memory that a request may leave behind for the next one.
const KEPT: usize = 64 << 10;

const STACK: usize = 512 << 10;

/// The ends of a connection that its threads share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: TcpStream,
    /// Wakes the connection's threads, on the state's lock.
    pub(super) wake: Condvar,
}

/// The connection is to be closed.
#[derive(Debug)]
pub(super) struct HangUp;

impl State {
    /// Ends a connection at once.
    pub(super) fn hang_up(conn: &mut Conn) {
        conn.end = End::Now;
        let _ = conn.link.stream.shutdown(Shutdown::Both);
        conn.link.wake.notify_all();
    }

    /// Forgets a connection and all that waits on it.
    pub(super) fn forget(&mut self, node: usize, id: u64) {
        let waits = self.nodes[node].conns.get(&id).map_or(Vec::new(), |conn| conn.waits.iter().copied().collect());
        for (_, wait) in waits {
            self.take_wait(wait);
        }
        let node = &mut self.nodes[node];
        if let Some(conn) = node.conns.remove(&id) {
            node.stats.open -= 1;
            node.stats.stalled -= usize::from(conn.stalled);
        }
    }
}

/// Accepts until the node has no listener any more.
pub(super) fn accept(shared: &Arc<Shared>, node: usize, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        let mut state = shared.lock();
        while state.nodes[node].paused && state.nodes[node].listener.is_some() {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.nodes[node].listener.is_none() {
            return;
        }
        match accepted {
            Ok((stream, _)) => open(shared, &mut state, node, stream),
            // Out of file descriptors, or the client is gone already.
            Err(_) => drop(shared.changed.wait_timeout(state, Duration::from_millis(10))),
        }
        shared.changed.notify_all();
    }
}

fn open(shared: &Arc<Shared>, state: &mut State, node_index: usize, stream: TcpStream) {
    let node = &mut state.nodes[node_index];
    node.stats.accepted += 1;
    let id = node.stats.accepted;
    let greeting = node.faults.greeting();
    if matches!(greeting, Greeting::Close) {
        return;
    }
    let _ = stream.set_nodelay(true);
    let link = Arc::new(Link { stream, wake: Condvar::new() });
    let conn = Conn {
        link: Arc::clone(&link),
        queue: VecDeque::new(),
        later: Vec::new(),
        heard: false,
        last_heard: Instant::now(),
        end: End::Open,
        waits: BTreeSet::new(),
        stalled: false,
    };
    node.conns.insert(id, conn);
    node.stats.open += 1;
    if node.conns.values().filter(|conn| !conn.heard).count() > MAX_SILENT {
        if let Some(oldest) = node.conns.values_mut().find(|conn| !conn.heard && conn.end == End::Open) {
            State::hang_up(oldest);
        }
    }
    node.threads.retain(|thread| !thread.is_finished());
    let reader = {
        let (shared, link) = (Arc::clone(shared), Arc::clone(&link));
        thread::Builder::new().name("broker reader".into()).stack_size(STACK).spawn(move || {
            read(&shared, node_index, id, &link);
        })
    };
    let writer = {
        let shared = Arc::clone(shared);
        thread::Builder::new().name("broker writer".into()).stack_size(STACK).spawn(move || {
            Writer { shared: &shared, node: node_index, id, link: &link }.run(greeting);
        })
    };
    let whole = reader.is_ok() && writer.is_ok();
    node.threads.extend(reader.into_iter().chain(writer));
    if !whole {
        let _ = node.conns.get_mut(&id).map(State::hang_up);
        state.forget(node_index, id);
    }
}

/// Reads and executes requests until the connection ends.
fn read(shared: &Shared, node: usize, id: u64, link: &Link) {
    let mut input = BufReader::new(&link.stream);
    let mut payload = Vec::new();
    while let Ok(kind) = read_request(shared, node, id, &mut input, &mut payload) {
        let executed = kind.ok_or(HangUp).and_then(|kind| execute(shared, node, id, kind, &payload));
        if executed.is_err() {
            break;
        }
        payload.clear();
        payload.shrink_to(KEPT);
    }
    let mut state = shared.lock();
    let waits = state.nodes[node].conns.get(&id).map_or(Vec::new(), |conn| conn.waits.iter().copied().collect());
    for (_, wait) in waits {
        state.take_wait(wait);
    }
    if let Some(conn) = state.nodes[node].conns.get_mut(&id) {
        if conn.end == End::Open {
            conn.end = End::WhenSent;
        }
    }
    link.wake.notify_all();
    shared.changed.notify_all();
}

/// Reads a frame; no kind if its message id is unknown.
fn read_request(
    shared: &Shared,
    node: usize,
    id: u64,
    input: &mut BufReader<&TcpStream>,
    payload: &mut Vec<u8>,
) -> io::Result<Option<Kind>> {
    let mut header = [0; HEADER_LEN];
    input.read_exact(&mut header[..1])?;
    if let Some(conn) = shared.lock().nodes[node].conns.get_mut(&id) {
        conn.heard = true;
        conn.last_heard = Instant::now();
    }
    input.read_exact(&mut header[1..])?;
    let len = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    if len as usize > MAX_REQUEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Reserves as bytes arrive, not as announced.
    if input.take(len.into()).read_to_end(payload)? < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(FrameHeader::decode(&header).ok().flatten().map(|header| header.kind))
}

fn execute(shared: &Shared, node: usize, id: u64, kind: Kind, payload: &[u8]) -> Result<(), HangUp> {
    let mut state = shared.lock();
    // Not on the link: nobody wakes that once the connection is forgotten.
    while state.nodes[node].paused && state.nodes[node].conns.contains_key(&id) {
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    let this = &mut state.nodes[node];
    let conn = this.conns.get_mut(&id).ok_or(HangUp)?;
    conn.last_heard = Instant::now();
    if conn.end != End::Open {
        return Err(HangUp);
    }
    this.stats.count(kind);
    if this.requests.len() == KEPT_REQUESTS {
        this.requests.pop_front();
    }
    this.requests.push_back(Request::new(id, kind, payload));
    shared.changed.notify_all();
    if this.faults.take_equal(&BrokerFault::CloseOnRequest(kind)) {
        return Err(HangUp);
    }
    match kind {
        Kind::Ping => Ok(()),
        Kind::Consume => consume::execute(shared, &mut state, node, id, payload),
        Kind::Produce | Kind::ProduceWithSeqnum => produce::execute(shared, &mut state, node, id, kind, payload),
        _ => admin::execute(shared, &mut state, node, id, kind, payload),
    }
}
