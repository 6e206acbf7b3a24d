//! Bare sockets that exchange the same bytes as the client did, without looking at them.
//!
//! A relay between the client and the broker records what the client sends, and after how many answers. All that is known
//! of the protocol is where frames end: a byte for the kind, four for the length, lowest first, and that many bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};

/// Bytes of a frame's kind and length.
const HEADER: usize = 5;

/// How many bytes to read at a time.
const PIECE: usize = 256 << 10;

/// The kind of a greeting, which answers nothing.
const PING: u8 = 3;

/// What went over a connection.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// Requests, and how many answers had come when the client sent each.
    pub requests: Vec<(usize, Vec<u8>)>,
    pub answers: usize,
    /// Bytes of answers.
    pub bytes: u64,
}

/// Finds the ends of frames in a stream.
#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    left: usize,
}

impl Frames {
    /// Takes some bytes in. `end` is called where a frame ends, with its kind and the place after it.
    fn take(&mut self, bytes: &[u8], mut end: impl FnMut(u8, usize)) {
        let mut at = 0;
        while at < bytes.len() {
            if self.header.len() < HEADER {
                self.header.push(bytes[at]);
                at += 1;
                if self.header.len() == HEADER {
                    let len = [self.header[1], self.header[2], self.header[3], self.header[4]];
                    self.left = u32::from_le_bytes(len) as usize;
                }
            } else {
                let some = self.left.min(bytes.len() - at);
                self.left -= some;
                at += some;
            }
            if self.header.len() == HEADER && self.left == 0 {
                end(self.header[0], at);
                self.header.clear();
            }
        }
    }
}

type Shared = Arc<Mutex<Recording>>;

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records what `work` does with the brokers that it is given: the connection with the most bytes.
pub fn record(brokers: &str, work: impl FnOnce(&str) -> Result<()>) -> Result<Recording> {
    let broker = address(brokers)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let relay = listener.local_addr()?;
    let all: Arc<Mutex<Vec<Shared>>> = Arc::default();
    let recordings = all.clone();
    // Accepts as long as the tool runs, which is not long.
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let recording = Shared::default();
            if pass_on(client, broker, &recording).is_ok() {
                locked(&recordings).push(recording);
            }
        }
    });
    work(&relay.to_string())?;
    let all: Vec<Recording> = locked(&all).iter().map(|recording| locked(recording).clone()).collect();
    let size = |recording: &Recording| recording.bytes.max(recording.sent());
    all.into_iter().max_by_key(size).context("nothing was recorded")
}

/// Carries both directions of a connection.
fn pass_on(mut client: TcpStream, broker: SocketAddr, recording: &Shared) -> io::Result<()> {
    let mut broker = TcpStream::connect(broker)?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let (mut from_client, mut to_broker) = (client.try_clone()?, broker.try_clone()?);
    let (requests, answers) = (recording.clone(), recording.clone());
    thread::spawn(move || {
        let (mut frames, mut request, mut piece) = (Frames::default(), Vec::new(), vec![0; PIECE]);
        while let Ok(n @ 1..) = from_client.read(&mut piece) {
            let mut done = 0;
            frames.take(&piece[..n], |_, end| {
                request.extend_from_slice(&piece[done..end]);
                done = end;
                let mut recording = locked(&requests);
                let answers = recording.answers;
                recording.requests.push((answers, std::mem::take(&mut request)));
            });
            request.extend_from_slice(&piece[done..n]);
            if to_broker.write_all(&piece[..n]).is_err() {
                break;
            }
        }
        let _ = to_broker.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let (mut frames, mut piece) = (Frames::default(), vec![0; PIECE]);
        while let Ok(n @ 1..) = broker.read(&mut piece) {
            // Before the client has it: what it sends then comes after.
            frames.take(&piece[..n], |kind, _| locked(&answers).answers += usize::from(kind != PING));
            locked(&answers).bytes += n as u64;
            if client.write_all(&piece[..n]).is_err() {
                break;
            }
        }
    });
    Ok(())
}

impl Recording {
    /// Bytes of requests.
    pub fn sent(&self) -> u64 {
        self.requests.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Exchanges the same bytes once more.
    pub fn replay(&self, brokers: &str) -> Result<()> {
        let mut socket = Bare::connect(brokers)?;
        let (mut sent, mut answered) = (0, 0);
        while answered < self.answers {
            while let Some((_, bytes)) = self.requests.get(sent).filter(|(after, _)| *after <= answered) {
                socket.stream.write_all(bytes)?;
                sent += 1;
            }
            answered += socket.read()?;
        }
        Ok(())
    }
}

/// A connection of which only the ends of answers are looked at.
pub struct Bare {
    pub stream: TcpStream,
    frames: Frames,
    piece: Vec<u8>,
}

impl Bare {
    pub fn connect(brokers: &str) -> Result<Bare> {
        let stream = TcpStream::connect(address(brokers)?)?;
        stream.set_nodelay(true)?;
        Ok(Bare { stream, frames: Frames::default(), piece: vec![0; PIECE] })
    }

    /// Reads what is there, and returns how many answers that ended.
    pub fn read(&mut self) -> Result<usize> {
        let n = self.stream.read(&mut self.piece)?;
        if n == 0 {
            bail!("the broker closed the connection");
        }
        let mut ended = 0;
        self.frames.take(&self.piece[..n], |kind, _| ended += usize::from(kind != PING));
        Ok(ended)
    }

    /// Sends a request and reads its answer.
    pub fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request)?;
        while self.read()? == 0 {}
        Ok(())
    }
}

/// Several connections, each with a request in flight that waits at its broker: what comes on the first one is awaited, and the
/// others ask again whenever their wait is over.
pub struct Waiting {
    sockets: Vec<Bare>,
    others: Vec<Vec<u8>>,
}

impl Waiting {
    pub fn new(brokers: &str) -> Result<Waiting> {
        Ok(Waiting { sockets: vec![Bare::connect(brokers)?], others: Vec::new() })
    }

    pub fn wait_at(&mut self, broker: &str, request: Vec<u8>) -> Result<()> {
        let mut socket = Bare::connect(broker)?;
        socket.stream.write_all(&request)?;
        self.sockets.push(socket);
        self.others.push(request);
        Ok(())
    }

    /// Sends a request on the first connection, and waits on all of them for its answer.
    pub fn exchange(&mut self, request: &[u8]) -> Result<()> {
        if let [only] = &mut self.sockets[..] {
            return only.exchange(request);
        }
        self.sockets[0].stream.write_all(request)?;
        loop {
            let mut on: Vec<_> = self.sockets.iter().map(|of| PollFd::new(&of.stream, PollFlags::IN)).collect();
            poll(&mut on, None)?;
            let ready = (0..).zip(&on).filter(|(_, fd)| !fd.revents().is_empty()).map(|(index, _)| index);
            for index in ready.collect::<Vec<usize>>() {
                let socket = &mut self.sockets[index];
                match (socket.read()?, index) {
                    (0, _) => {}
                    (_, 0) => return Ok(()),
                    _ => socket.stream.write_all(&self.others[index - 1])?,
                }
            }
        }
    }
}

fn address(brokers: &str) -> Result<SocketAddr> {
    let first = brokers.split(',').next().unwrap_or_default().trim();
    let addr = if first.contains(':') { first.to_socket_addrs() } else { (first, 11_011).to_socket_addrs() };
    addr?.next().with_context(|| format!("{first}: no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_their_lengths_say_however_they_are_cut() {
        let stream = [&[1, 3, 0, 0, 0, 9, 9, 9][..], &[PING, 0, 0, 0, 0], &[2, 1, 0, 0, 0, 7]].concat();
        for size in 1..=stream.len() {
            let (mut frames, mut ends, mut before) = (Frames::default(), Vec::new(), 0);
            for piece in stream.chunks(size) {
                frames.take(piece, |kind, end| ends.push((kind, before + end)));
                before += piece.len();
            }
            assert_eq!(ends, [(1, 8), (PING, 13), (2, 19)], "pieces of {size}");
        }
    }
}
