//! Recording what goes between a client and a broker, and playing the broker from it.
//!
//! The file: magic, then for each piece its connection (`u32`), what it is (`u8`), microseconds since the start (`u64`),
//! length (`u32`) and bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::protocol::DecodeError;
use crate::protocol::cursor::Cursor;

const MAGIC: &[u8; 8] = b"TANKCAP1";

/// What a piece of a capture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    ToBroker,
    ToClient,
    ClientClosed,
    BrokerClosed,
}

const ALL: [What; 4] = [What::ToBroker, What::ToClient, What::ClientClosed, What::BrokerClosed];

#[derive(Debug)]
struct Piece {
    what: What,
    bytes: Vec<u8>,
}

/// Stands between clients and a broker and writes everything they say to a file, for [`Replay`]: a bug report that becomes a
/// test.
///
/// The file holds all payloads. Each piece of a connection is written before it is passed on, so that what led to a crash
/// is in it. For a broker that sends clients on to other brokers it shows only its own part.
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
    file: Mutex<(File, io::Result<()>)>,
}

impl Recorder {
    /// Listens at 127.0.0.1, connects to `broker` for each connection it takes, and makes or empties `file`.
    ///
    /// # Errors
    /// The file cannot be written, or no port or thread is to be had.
    pub fn start(broker: SocketAddr, file: impl AsRef<Path>) -> io::Result<Recorder> {
        let mut file = File::create(file)?;
        file.write_all(MAGIC)?;
        let tape = Arc::new(Tape { started: Instant::now(), file: Mutex::new((file, Ok(()))) });
        let on = tape.clone();
        let server = Server::start(move |server, index, client| {
            let Ok(to_broker) = TcpStream::connect(broker) else { return };
            let _ = (client.set_nodelay(true), to_broker.set_nodelay(true));
            let (Ok(back), Ok(from_broker)) = (client.try_clone(), to_broker.try_clone()) else { return };
            server.watch(index, &to_broker);
            let tape = on.clone();
            let answers = move || tape.copy(index, from_broker, back, What::ToClient, What::BrokerClosed);
            let answers = thread::spawn(answers);
            on.copy(index, client, to_broker, What::ToBroker, What::ClientClosed);
            let _ = answers.join();
        })?;
        Ok(Recorder { server, tape })
    }

    /// Where to connect to instead of the broker.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// Closes all connections and the file.
    ///
    /// # Errors
    /// The first trouble there was with writing the file.
    pub fn finish(mut self) -> io::Result<()> {
        self.server.stop();
        let mut file = lock(&self.tape.file);
        std::mem::replace(&mut file.1, Ok(()))
    }
}

impl Tape {
    fn write(&self, connection: u32, what: What, bytes: &[u8]) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut piece = connection.to_le_bytes().to_vec();
        piece.push(what as u8);
        piece.extend_from_slice(&micros.to_le_bytes());
        piece.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        piece.extend_from_slice(bytes);
        let mut file = lock(&self.file);
        if file.1.is_ok() {
            file.1 = file.0.write_all(&piece);
        }
    }

    /// Passes on and writes down what one side says, until it ends.
    fn copy(&self, connection: u32, mut from: TcpStream, mut to: TcpStream, what: What, end: What) {
        let mut buf = vec![0; 64 << 10];
        loop {
            match from.read(&mut buf) {
                Ok(0) => break,
                Ok(n) => {
                    self.write(connection, what, &buf[..n]);
                    if to.write_all(&buf[..n]).is_err() {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.write(connection, end, &[]);
        // Errors mean that the sockets have ended already.
        let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
    }
}

/// Plays the broker of a capture that a [`Recorder`] made, to a program that does the same once more: the first connection
/// gets what the first one got, and so on, each piece as soon as all was received that had been received by then.
///
/// Requests are compared byte by byte, so the program must choose the time stamps of what it publishes.
#[derive(Debug)]
pub struct Replay {
    server: Server,
    difference: Arc<Mutex<Option<String>>>,
}

impl Replay {
    /// Listens at 127.0.0.1 with the answers of `file`. A capture that was not finished is played as far as it goes.
    ///
    /// # Errors
    /// A file that cannot be read or is no capture; no port or thread.
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

    /// Where to connect to.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// Where the program first did something else than in the capture, if it did: the connection was closed then.
    pub fn difference(&self) -> Option<String> {
        lock(&self.difference).clone()
    }
}

/// The pieces of each connection.
fn read(bytes: &[u8]) -> io::Result<BTreeMap<u32, Vec<Piece>>> {
    fn piece(cursor: &mut Cursor<'_>) -> Result<(u32, u8, Vec<u8>), DecodeError> {
        let (connection, what) = (cursor.u32("connection")?, cursor.u8("what")?);
        cursor.u64("time")?;
        let len = cursor.u32("length")?;
        Ok((connection, what, cursor.bytes(len as usize, "bytes")?.to_vec()))
    }
    let wrong = |what| io::Error::new(ErrorKind::InvalidData, what);
    let pieces = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("not a capture"))?;
    let mut cursor = Cursor::new(pieces, MAGIC.len() as u64);
    let mut connections: BTreeMap<u32, Vec<Piece>> = BTreeMap::new();
    while let Ok((connection, what, bytes)) = piece(&mut cursor) {
        let what = *ALL.get(usize::from(what)).ok_or_else(|| wrong("a damaged capture"))?;
        connections.entry(connection).or_default().push(Piece { what, bytes });
    }
    Ok(connections)
}

/// Plays one connection to its end.
fn play(pieces: &[Piece], mut client: &TcpStream) -> Result<(), String> {
    let _ = client.set_nodelay(true);
    let mut at = 0;
    for Piece { what, bytes } in pieces {
        match what {
            // A client that has gone has heard enough.
            What::ToClient if client.write_all(bytes).is_err() => return Ok(()),
            What::ToClient => {}
            What::ToBroker => {
                let mut found = vec![0; bytes.len()];
                if client.read_exact(&mut found).is_err() {
                    return Err(format!("closed after {at} bytes, where the capture has more"));
                }
                if let Some(other) = found.iter().zip(bytes).position(|(a, b)| a != b) {
                    return Err(format!("byte {} of what was sent differs from the capture", at + other));
                }
                at += bytes.len();
            }
            What::BrokerClosed => {
                let _ = client.shutdown(Shutdown::Both);
                return Ok(());
            }
            What::ClientClosed => break,
        }
    }
    match client.read(&mut [0]) {
        Ok(1) => Err(format!("more than the {at} bytes of the capture were sent")),
        _ => Ok(()),
    }
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
        let (addr, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        let (server, serve) = (shared.clone(), Arc::new(serve));
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
