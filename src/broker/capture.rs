//! Recording what goes between a client and a broker, and playing the broker from it.
//!
//! The file is text, as that of the repository's golden captures (`tests/golden/README.md`): what stands below a `capture` was
//! said on one connection, in this order. Since it is written as things happen, a connection may come back to its capture,
//! and a side to its frame.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::protocol::fetch::FetchRequest;
use crate::protocol::frame::{HEADER_LEN, Payload};
use crate::protocol::kind::Kind;

const FIRST_LINE: &str =
    "# Recorded by tank_client::broker::Recorder. tests/golden/README.md in its repository says how to read this.\n";

/// What the name of each connection's capture begins with; its number follows.
const CONNECTION: &str = "connection_";

/// Bytes in a line, as the golden captures have them.
const LINE: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Client,
    Broker,
}

const SIDES: [Side; 2] = [Side::Client, Side::Broker];

impl Side {
    /// The line above what it sends.
    fn block(self) -> &'static str {
        match self {
            Side::Client => "request",
            Side::Broker => "answer",
        }
    }

    fn closed(self) -> &'static str {
        match self {
            Side::Client => "closed: by the client",
            Side::Broker => "closed: by the broker",
        }
    }
}

/// What happened on a connection.
#[derive(Debug)]
enum Piece {
    Sent(Side, Vec<u8>),
    Closed(Side),
}

/// Sits between clients and a broker and writes everything they send to a file. [`Replay`] turns that file, for example from a
/// bug report, into a test.
///
/// The file is text and contains all payloads. Bytes are written before they are passed on, so the file contains what led to a
/// crash. If the broker redirects clients to other brokers, the traffic with those is not in the file.
///
/// ```
/// use tank_client::broker::{Broker, Recorder, Replay};
/// use tank_client::{Client, Start, Subscription};
///
/// # let file = std::env::temp_dir().join(format!("capture-doc-{}", std::process::id()));
/// let read = |addr: std::net::SocketAddr| {
///     let client = Client::connect(&addr.to_string())?;
///     let messages = client.subscribe(Subscription::topic("orders").start(Start::Earliest).stop_at_end())?;
///     messages.map(|message| Ok(message?.payload().to_vec())).collect::<tank_client::Result<Vec<_>>>()
/// };
///
/// let broker = Broker::start()?;
/// broker.create_topic("orders", 1);
/// broker.append_payloads("orders", 0, &["tea", "milk"]);
/// let recorder = Recorder::start(broker.addr(), &file)?;
/// let found = read(recorder.addr())?;
/// recorder.finish()?;
/// drop(broker);
///
/// let replay = Replay::start(&file)?;
/// assert_eq!(read(replay.addr())?, found);
/// assert_eq!(replay.difference(), None);
/// # std::fs::remove_file(&file)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Recorder {
    server: Server,
    tape: Arc<Tape>,
}

#[derive(Debug)]
struct Tape {
    started: Instant,
    sheet: Mutex<Sheet>,
}

#[derive(Debug)]
struct Sheet {
    file: File,
    /// The first trouble there was.
    written: io::Result<()>,
    /// Whose bytes came last.
    last: Option<(u32, Side)>,
    /// The frames that sides are sending.
    frames: BTreeMap<(u32, Side), FrameAhead>,
}

/// How much of a frame is still to come.
#[derive(Debug, Default)]
struct FrameAhead {
    /// As much of the header as has come.
    header: Vec<u8>,
    payload: usize,
}

impl Recorder {
    /// Listens at 127.0.0.1, connects to `broker` for each connection it accepts, and creates or empties `file`.
    ///
    /// # Errors
    /// The file cannot be written, no port is free, or no thread can be started.
    pub fn start(broker: SocketAddr, file: impl AsRef<Path>) -> io::Result<Recorder> {
        let mut file = File::create(file)?;
        file.write_all(FIRST_LINE.as_bytes())?;
        let sheet = Sheet { file, written: Ok(()), last: None, frames: BTreeMap::new() };
        let tape = Arc::new(Tape { started: Instant::now(), sheet: Mutex::new(sheet) });
        let on = tape.clone();
        let server = Server::start(move |server, index, client| {
            let Ok(to_broker) = TcpStream::connect(broker) else { return };
            let _ = (client.set_nodelay(true), to_broker.set_nodelay(true));
            let (Ok(back), Ok(from_broker)) = (client.try_clone(), to_broker.try_clone()) else { return };
            server.watch(index, &to_broker);
            let tape = on.clone();
            let answers = move || tape.copy(index, from_broker, back, Side::Broker);
            let answers = thread::spawn(answers);
            on.copy(index, client, to_broker, Side::Client);
            let _ = answers.join();
        })?;
        Ok(Recorder { server, tape })
    }

    /// Returns the address to connect to instead of the broker's.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// Closes all connections and the file.
    ///
    /// # Errors
    /// The first error in writing the file.
    pub fn finish(mut self) -> io::Result<()> {
        self.server.stop();
        std::mem::replace(&mut lock(&self.tape.sheet).written, Ok(()))
    }
}

impl Tape {
    fn write(&self, connection: u32, side: Side, mut bytes: &[u8]) {
        let mut sheet = lock(&self.sheet);
        let mut text = String::new();
        let mut last = sheet.last;
        while !bytes.is_empty() {
            let frame = sheet.frames.entry((connection, side)).or_default();
            if frame.header.is_empty() || last != Some((connection, side)) {
                text += &self.head(connection, last);
                text += &format!("{}\n", side.block());
                last = Some((connection, side));
            }
            let (now, later) = bytes.split_at(frame.take(bytes));
            now.chunks(LINE).for_each(|line| text += &hex(line));
            bytes = later;
        }
        sheet.last = last;
        sheet.put(&text);
    }

    fn write_closed(&self, connection: u32, side: Side) {
        let mut sheet = lock(&self.sheet);
        let text = format!("{}{}\n", self.head(connection, sheet.last), side.closed());
        sheet.frames.remove(&(connection, side));
        // The next block needs a head of its own.
        sheet.last = None;
        sheet.put(&text);
    }

    /// What stands above a block: its connection, unless that was the last one, and the time since the start.
    fn head(&self, connection: u32, last: Option<(u32, Side)>) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        match last {
            Some((same, _)) if same == connection => format!("# after {seconds:.6} s\n"),
            _ => format!("\ncapture {CONNECTION}{connection}\n# after {seconds:.6} s\n"),
        }
    }

    /// Passes on and writes down what one side says, until it ends.
    fn copy(&self, connection: u32, mut from: TcpStream, mut to: TcpStream, side: Side) {
        let mut buf = vec![0; 64 << 10];
        loop {
            match from.read(&mut buf) {
                Ok(0) => break,
                Ok(n) => {
                    self.write(connection, side, &buf[..n]);
                    if to.write_all(&buf[..n]).is_err() {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.write_closed(connection, side);
        // Errors mean that the sockets have ended already.
        let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
    }
}

impl Sheet {
    fn put(&mut self, text: &str) {
        if self.written.is_ok() {
            self.written = self.file.write_all(text.as_bytes());
        }
    }
}

impl FrameAhead {
    /// Counts those of these bytes, at least one of them, that belong to this frame, the next one once it is over.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let head = (HEADER_LEN - self.header.len()).min(bytes.len());
        if head > 0 {
            self.header.extend_from_slice(&bytes[..head]);
            let len = self.header.get(1..HEADER_LEN).and_then(|len| len.try_into().ok()).map_or(0, u32::from_le_bytes);
            self.payload = len as usize;
        }
        let payload = self.payload.min(bytes.len() - head);
        self.payload -= payload;
        if self.header.len() == HEADER_LEN && self.payload == 0 {
            self.header.clear();
        }
        head + payload
    }
}

/// A line of bytes.
fn hex(bytes: &[u8]) -> String {
    let mut line = String::from("  ");
    for byte in bytes {
        // Strings take all that is written to them.
        let _ = write!(line, "{byte:02x}");
    }
    line + "\n"
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| digits.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Plays the broker's part of a capture that a [`Recorder`] made, to a program that does the same again. The first connection
/// gets what the first recorded one got, and so on. Each piece is sent as soon as everything has arrived that arrived before it
/// in the recording.
///
/// Requests are compared byte by byte, except for the sizes of fetches, which depend on timing. So the program must choose the
/// time stamps of what it publishes.
#[derive(Debug)]
pub struct Replay {
    server: Server,
    difference: Arc<Mutex<Option<String>>>,
}

impl Replay {
    /// Listens at 127.0.0.1 with the answers of `file`. An unfinished capture is played to where it ends.
    ///
    /// # Errors
    /// The file cannot be read or is no capture; the error names the line. No port is free, or no thread can be started.
    pub fn start(file: impl AsRef<Path>) -> io::Result<Replay> {
        let connections = read(&fs::read(file)?)?;
        let difference = Arc::new(Mutex::new(None));
        let found = difference.clone();
        let server = Server::start(move |_, index, client| {
            let played = match connections.get(&index) {
                Some(pieces) => play(pieces, &client),
                // Nothing was said on it, not even by the broker.
                None if connections.range(index..).next().is_some() => play(&[], &client),
                None => Err("one more than there were".into()),
            };
            if let Err(difference) = played {
                let _ = client.shutdown(Shutdown::Both);
                lock(&found).get_or_insert(format!("connection {index}: {difference}"));
            }
        })?;
        Ok(Replay { server, difference })
    }

    /// Returns the address to connect to.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// Returns where the program first differed from the capture, if it did; the connection was then closed.
    pub fn difference(&self) -> Option<String> {
        lock(&self.difference).clone()
    }
}

/// What happened on each connection. What a frame says, and facts, are for people.
fn read(bytes: &[u8]) -> io::Result<BTreeMap<u32, Vec<Piece>>> {
    let wrong = |what: String| io::Error::new(ErrorKind::InvalidData, what);
    if bytes.first() != Some(&b'#') {
        return Err(wrong("not a capture".into()));
    }
    // A recorder that was killed may have left a part of a line.
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(&[][..], |end| &bytes[..end]);
    let text = std::str::from_utf8(whole).map_err(|e| wrong(format!("not a capture: {e}")))?;
    let mut connections: BTreeMap<u32, Vec<Piece>> = BTreeMap::new();
    let (mut current, mut block) = (None, None);
    for (index, line) in text.split('\n').enumerate() {
        let malformed = || wrong(format!("line {}: {line:?} is not understood here", index + 1));
        if let Some(inside) = line.strip_prefix("  ") {
            if !inside.starts_with('=') {
                let bytes = unhex(inside).ok_or_else(malformed)?;
                let side = block.ok_or_else(malformed)?;
                let pieces = current.and_then(|connection| connections.get_mut(&connection)).ok_or_else(malformed)?;
                match pieces.last_mut() {
                    Some(Piece::Sent(last, sent)) if *last == side => sent.extend(bytes),
                    _ => pieces.push(Piece::Sent(side, bytes)),
                }
            }
            continue;
        }
        block = SIDES.into_iter().find(|side| side.block() == line);
        let closed = SIDES.into_iter().find(|side| side.closed() == line);
        if let Some(name) = line.strip_prefix("capture ") {
            let number = name.strip_prefix(CONNECTION).and_then(|number| number.parse().ok()).ok_or_else(malformed)?;
            connections.entry(number).or_default();
            current = Some(number);
        } else if let Some(side) = closed {
            let pieces = current.and_then(|connection| connections.get_mut(&connection)).ok_or_else(malformed)?;
            pieces.push(Piece::Closed(side));
        } else if block.is_none() && !line.is_empty() && !line.starts_with('#') && !line.contains(": ") {
            return Err(malformed());
        }
    }
    Ok(connections)
}

/// Plays one connection to its end.
fn play(pieces: &[Piece], mut client: &TcpStream) -> Result<(), String> {
    let _ = client.set_nodelay(true);
    let mut at = 0;
    for piece in pieces {
        match piece {
            // A client that has gone has heard enough.
            Piece::Sent(Side::Broker, bytes) if client.write_all(bytes).is_err() => return Ok(()),
            Piece::Sent(Side::Broker, _) => {}
            Piece::Sent(Side::Client, bytes) => {
                let mut found = vec![0; bytes.len()];
                if client.read_exact(&mut found).is_err() {
                    return Err(format!("closed after {at} bytes, where the capture has more"));
                }
                let wanted = without_sizes(bytes);
                if let Some(other) = without_sizes(&found).iter().zip(&wanted).position(|(a, b)| a != b) {
                    return Err(format!("byte {} of what was sent differs from the capture", at + other));
                }
                at += bytes.len();
            }
            Piece::Closed(Side::Broker) => {
                let _ = client.shutdown(Shutdown::Both);
                return Ok(());
            }
            Piece::Closed(Side::Client) => break,
        }
    }
    match client.read(&mut [0]) {
        Ok(1) => Err(format!("more than the {at} bytes of the capture were sent")),
        _ => Ok(()),
    }
}

/// What a client said, with 1 for the sizes of its fetches, which follow how long answers take to begin.
fn without_sizes(said: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(said.len());
    let mut rest = said;
    while let Some((&[kind, a, b, c, d], after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Some((payload, later)) = after.split_at_checked(u32::from_le_bytes([a, b, c, d]) as usize) else { break };
        let fetch = (kind == Kind::Consume as u8).then(|| FetchRequest::decode(payload).ok()).flatten();
        let is_put = fetch.is_some_and(|mut fetch| {
            let partitions = fetch.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            partitions.for_each(|wanted| wanted.fetch_size = 1);
            fetch.encode(&mut out).is_ok()
        });
        if !is_put {
            out.extend_from_slice(&rest[..HEADER_LEN + payload.len()]);
        }
        rest = later;
    }
    out.extend_from_slice(rest);
    out
}

/// A listener with a thread for each connection, until it is dropped.
#[derive(Debug)]
struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    /// The sockets of each connection that is open.
    sockets: Mutex<BTreeMap<u32, Vec<TcpStream>>>,
}

impl Shared {
    /// Has a connection's socket closed at the end, unless it is forgotten before.
    fn watch(&self, connection: u32, socket: &TcpStream) {
        lock(&self.sockets).entry(connection).or_default().extend(socket.try_clone());
        if self.stopped.load(Ordering::SeqCst) {
            self.close();
        }
    }

    /// Keeps no descriptor of a connection that has ended.
    fn forget(&self, connection: u32) {
        lock(&self.sockets).remove(&connection);
    }

    fn close(&self) {
        for socket in std::mem::take(&mut *lock(&self.sockets)).into_values().flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Server {
    fn start(serve: impl Fn(&Shared, u32, TcpStream) + Send + Sync + 'static) -> io::Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let server = shared.clone();
        let serve = Arc::new(serve);
        let acceptor = thread::Builder::new().spawn(move || {
            let mut threads: Vec<JoinHandle<()>> = Vec::new();
            let connections = listener.incoming().filter_map(Result::ok);
            for (index, client) in (0..).zip(connections.take_while(|_| !server.stopped.load(Ordering::SeqCst))) {
                server.watch(index, &client);
                let (server, serve) = (server.clone(), serve.clone());
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread::spawn(move || {
                    serve(&server, index, client);
                    server.forget(index);
                }));
            }
            server.close();
            for thread in threads {
                let _ = thread.join();
            }
        })?;
        Ok(Server { addr, shared, acceptor: Some(acceptor) })
    }

    fn stop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.close();
        // Wakes the listener.
        let _ = TcpStream::connect(self.addr);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.acceptor.is_some() {
            self.stop();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_no_socket_of_a_connection_that_has_ended() {
        let server = Server::start(|_, _, mut client| _ = client.read(&mut [0])).unwrap();
        let clients = [0; 5].map(|_| TcpStream::connect(server.addr).unwrap());
        drop(clients);
        let mut one_more = TcpStream::connect(server.addr).unwrap();
        // Ends only once all threads have forgotten their connections, or the test hangs.
        while lock(&server.shared.sockets).keys().ne(&[5]) {
            thread::yield_now();
        }
        drop(server);
        assert_eq!(one_more.read(&mut [0]).unwrap(), 0);
    }
}
