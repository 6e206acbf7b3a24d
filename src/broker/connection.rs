//! Connections: a thread that accepts, and for each connection one that reads and one that writes (reference, section 2).

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::faults::{Cut, Fault, Gate, Greeting};
use super::log::Chunk;
use super::state::{Conn, End, MAX_SILENT, Shared, State};
use super::stats::{KEPT_REQUESTS, Request};
use super::{admin, consume, produce};
use crate::protocol::frame::{FrameHeader, HEADER_LEN, Kind, MAX_REQUEST, PING};

/// Bytes of chunk data held on their way to a socket.
const PIECE: usize = 64 << 10;

const STACK: usize = 512 << 10;

/// The ends of a connection that its threads share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: TcpStream,
    /// Wakes the connection's threads, on the state's lock.
    pub(super) wake: Condvar,
}

/// A part of an answer.
#[derive(Debug)]
pub(super) enum Part {
    Bytes(Vec<u8>),
    Chunk(Chunk),
}

/// An answer to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    parts: Vec<Part>,
    hold: Option<Duration>,
    ping: bool,
    trickle: Option<(usize, Duration)>,
}

/// The connection is to be closed.
#[derive(Debug)]
pub(super) struct HangUp;

impl State {
    /// Queues the answer to a request of this kind, with whatever faults wait for it.
    pub(super) fn answer(&mut self, node: usize, conn: u64, kind: Kind, mut parts: Vec<Part>) {
        let node = &mut self.nodes[node];
        let Some(conn) = node.conns.get_mut(&conn) else { return };
        conn.link.wake.notify_all();
        let faults = &mut node.faults;
        if faults.take_equal(&Fault::LoseAnswer(kind)) {
            conn.end = End::WhenSent;
            return;
        }
        if faults.take_equal(&Fault::WrongRequestId) {
            change_request_id(kind, &mut parts);
        }
        if parts.iter().any(|part| matches!(part, Part::Chunk(_))) && faults.take_equal(&Fault::CorruptBundle) {
            parts = corrupt(parts);
        }
        conn.queue.push_back(Answer {
            parts,
            hold: faults.take(|fault| if let Fault::Delay(time) = fault { Some(*time) } else { None }),
            ping: faults.take_equal(&Fault::PingBeforeAnswer),
            trickle: faults.take(|fault| match *fault {
                Fault::Trickle { bytes, pause } => Some((bytes.max(1), pause)),
                _ => None,
            }),
        });
    }

    /// Queues an answer at a certain time.
    pub(super) fn answer_later(&mut self, node: usize, conn: u64, at: Instant, kind: Kind, parts: Vec<Part>) {
        if let Some(conn) = self.nodes[node].conns.get_mut(&conn) {
            conn.later.push((at, kind, parts));
            conn.link.wake.notify_all();
        }
    }

    /// Ends a connection at once.
    pub(super) fn hang_up(conn: &mut Conn) {
        conn.end = End::Now;
        let _ = conn.link.stream.shutdown(Shutdown::Both);
        conn.link.wake.notify_all();
    }

    /// Forgets a connection and all that waits on it.
    fn forget(&mut self, node: usize, id: u64) {
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

fn change_request_id(kind: Kind, parts: &mut [Part]) {
    let at = HEADER_LEN + if kind == Kind::Consume { 4 } else { 0 };
    if let Some(Part::Bytes(bytes)) = parts.first_mut() {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = byte.wrapping_add(1);
        }
    }
}

/// Changes the message count in the header of the first bundle.
fn corrupt(parts: Vec<Part>) -> Vec<Part> {
    let mut out = Vec::with_capacity(parts.len() + 1);
    let mut done = false;
    for part in parts {
        let Part::Chunk(mut chunk) = part else {
            out.push(part);
            continue;
        };
        if !done {
            let mut head = vec![0; usize::try_from(chunk.len).map_or(16, |len| len.min(16))];
            chunk.segment.read_at(chunk.at, &mut head);
            let flags = head.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
            match head.get(flags).map(|byte| byte >> 2 & 0xf) {
                Some(0) => head.get_mut(flags + 1).into_iter().for_each(|byte| *byte ^= 1),
                Some(15) => head[flags] -= 1 << 2,
                Some(_) => head[flags] += 1 << 2,
                None => {}
            }
            chunk.at += head.len() as u64;
            chunk.len -= head.len() as u64;
            out.push(Part::Bytes(head));
            done = true;
        }
        out.push(Part::Chunk(chunk));
    }
    out
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
        let executed = kind.ok_or(HangUp).and_then(|kind| execute(shared, node, id, link, kind, &payload));
        if executed.is_err() {
            break;
        }
        payload.clear();
        payload.shrink_to(PIECE);
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

fn execute(shared: &Shared, node: usize, id: u64, link: &Link, kind: Kind, payload: &[u8]) -> Result<(), HangUp> {
    let mut state = shared.lock();
    while state.nodes[node].paused {
        state = link.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
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
    if this.faults.take_equal(&Fault::CloseOnRequest(kind)) {
        return Err(HangUp);
    }
    match kind {
        Kind::Ping => Ok(()),
        Kind::Consume => consume::execute(shared, &mut state, node, id, payload),
        Kind::Produce | Kind::ProduceWithSeqnum => produce::execute(shared, &mut state, node, id, kind, payload),
        _ => admin::execute(shared, &mut state, node, id, kind, payload),
    }
}

/// Sends what is queued on a connection, and ends it.
struct Writer<'a> {
    shared: &'a Shared,
    node: usize,
    id: u64,
    link: &'a Link,
}

impl Writer<'_> {
    fn run(&self, greeting: Greeting) {
        let how = self.greet(greeting).and_then(|()| {
            while let Some(answer) = self.next() {
                self.send_answer(&answer)?;
            }
            Ok(())
        });
        let stream = &self.link.stream;
        let reset = matches!(&how, Err(e) if e.kind() == io::ErrorKind::ConnectionReset && e.raw_os_error().is_none());
        if reset {
            // The reset goes out when the last thread lets go of the socket; a FIN must not precede it.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Read);
        }
        let mut state = self.shared.lock();
        if !reset {
            let _ = stream.shutdown(Shutdown::Both);
        }
        state.forget(self.node, self.id);
        self.shared.changed.notify_all();
    }

    fn greet(&self, greeting: Greeting) -> io::Result<()> {
        match greeting {
            Greeting::Ping => self.send(&PING, false),
            Greeting::Late(after) => {
                self.pause(after)?;
                self.send(&PING, false)
            }
            Greeting::Bytes(bytes) => self.send(&bytes, false),
            Greeting::Nothing | Greeting::Close => Ok(()),
        }
    }

    /// Waits for the next answer; `None` when the connection is to be closed.
    fn next(&self) -> Option<Answer> {
        let mut state = self.shared.lock();
        loop {
            let now = Instant::now();
            let node = &mut state.nodes[self.node];
            let conn = node.conns.get_mut(&self.id)?;
            if conn.end == End::Now {
                return None;
            }
            if node.paused {
                state = self.link.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let mut until = None;
            if let Some(&(deadline, wait)) = conn.waits.first() {
                if deadline <= now {
                    consume::expire(&mut state, wait);
                    continue;
                }
                until = Some(deadline);
            }
            if let Some(due) = conn.later.iter().position(|(at, ..)| *at <= now) {
                let (_, kind, parts) = conn.later.swap_remove(due);
                state.answer(self.node, self.id, kind, parts);
                continue;
            }
            until = until.into_iter().chain(conn.later.iter().map(|(at, ..)| *at)).min();
            if let Some(answer) = conn.queue.pop_front() {
                return Some(answer);
            }
            if conn.end == End::WhenSent {
                return None;
            }
            let options = &self.shared.options;
            let silence = if conn.heard { None } else { options.silent_timeout };
            let idle = if conn.waits.is_empty() { options.idle_timeout } else { None };
            if let Some(end) = silence.into_iter().chain(idle).min().map(|most| conn.last_heard + most) {
                if end <= now {
                    return None;
                }
                until = Some(until.map_or(end, |until: Instant| until.min(end)));
            }
            state = match until {
                Some(until) => self.wait_until(state, until),
                None => self.link.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn wait_until<'s>(&self, state: MutexGuard<'s, State>, until: Instant) -> MutexGuard<'s, State> {
        let time = until.saturating_duration_since(Instant::now());
        self.link.wake.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Does nothing for some time, unless the connection is closed meanwhile.
    fn pause(&self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        let mut state = self.shared.lock();
        while Instant::now() < until {
            self.check(&state)?;
            state = self.wait_until(state, until);
        }
        Ok(())
    }

    fn check(&self, state: &State) -> io::Result<()> {
        match state.nodes[self.node].conns.get(&self.id) {
            Some(conn) if conn.end != End::Now => Ok(()),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn send_answer(&self, answer: &Answer) -> io::Result<()> {
        if let Some(time) = answer.hold {
            self.pause(time)?;
        }
        if answer.ping {
            self.send(&PING, false)?;
        }
        for part in &answer.parts {
            match part {
                Part::Bytes(bytes) => self.send_pieces(bytes, answer.trickle)?,
                Part::Chunk(chunk) => self.send_chunk(chunk, answer.trickle)?,
            }
        }
        self.shared.lock().nodes[self.node].stats.answered += 1;
        self.shared.changed.notify_all();
        Ok(())
    }

    fn send_chunk(&self, chunk: &Chunk, trickle: Option<(usize, Duration)>) -> io::Result<()> {
        let mut buffer = vec![0; usize::try_from(chunk.len).map_or(PIECE, |len| len.min(PIECE))];
        let end = chunk.at + chunk.len;
        let mut at = chunk.at;
        while at < end {
            let most = usize::try_from(end - at).map_or(PIECE, |left| left.min(buffer.len()));
            let read = chunk.segment.read_at(at, &mut buffer[..most]);
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.send_pieces(&buffer[..read], trickle)?;
            at += read as u64;
        }
        Ok(())
    }

    fn send_pieces(&self, bytes: &[u8], trickle: Option<(usize, Duration)>) -> io::Result<()> {
        let Some((len, pause)) = trickle else { return self.send(bytes, true) };
        for piece in bytes.chunks(len) {
            self.send(piece, true)?;
            self.pause(pause)?;
        }
        Ok(())
    }

    /// Sends bytes; those of answers count, and meet the faults that count them.
    fn send(&self, mut bytes: &[u8], counted: bool) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.gate(bytes.len(), counted)? {
                Gate::Pass(len, cut) => {
                    self.write(&bytes[..len])?;
                    bytes = &bytes[len..];
                    cut.map_or(Ok(()), ended)?;
                }
                Gate::Flip(cut) => {
                    self.write(&[!bytes[0]])?;
                    bytes = &bytes[1..];
                    cut.map_or(Ok(()), ended)?;
                }
                Gate::Garbage(garbage) => self.write(&garbage)?,
                Gate::Stall => self.stall()?,
                Gate::Cut(cut) => return ended(cut),
            }
        }
        Ok(())
    }

    fn gate(&self, len: usize, counted: bool) -> io::Result<Gate> {
        let mut state = self.shared.lock();
        self.check(&state)?;
        while state.nodes[self.node].paused {
            state = self.link.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            self.check(&state)?;
        }
        Ok(if counted { state.nodes[self.node].faults.gate(len) } else { Gate::Pass(len, None) })
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.link.stream).write_all(bytes)?;
        self.shared.lock().nodes[self.node].stats.bytes_sent += bytes.len() as u64;
        self.shared.changed.notify_all();
        Ok(())
    }

    fn stall(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        let node = &mut state.nodes[self.node];
        if let Some(conn) = node.conns.get_mut(&self.id) {
            conn.stalled = true;
            node.stats.stalled += 1;
            self.shared.changed.notify_all();
        }
        while state.nodes[self.node].conns.get(&self.id).is_some_and(|conn| conn.stalled) {
            self.check(&state)?;
            state = self.link.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.check(&state)
    }
}

/// The error with which a fault ends a connection.
fn ended(cut: Cut) -> io::Result<()> {
    Err(match cut {
        Cut::Fin => io::ErrorKind::NotConnected.into(),
        Cut::Reset => io::ErrorKind::ConnectionReset.into(),
    })
}
