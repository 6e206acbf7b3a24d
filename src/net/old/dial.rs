//! Opening a connection without blocking: each address in turn, then the greeting.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use log::debug;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::clock::Deadline;
use super::connection::Connection;
use super::wait::{Interest, wait};
use crate::config::Config;
use crate::error::{Error, Phase, Result};
use crate::net::addr::BrokerAddr;
use crate::net::buffer::{Fill, read_from};
use crate::protocol::frame::{FrameHeader, HEADER_LEN, Kind};
use crate::protocol::{DecodeError, DecodeFault};

/// A connection that is being opened. It is open once the broker's ping has come.
#[derive(Debug)]
pub(crate) struct Dial {
    addr: BrokerAddr,
    config: Arc<Config>,
    later: VecDeque<SocketAddr>,
    stream: Arc<TcpStream>,
    /// For all addresses together, and for the present one.
    budget: Deadline,
    deadline: Deadline,
    timeout: Duration,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Greeting { ping: [u8; HEADER_LEN], len: usize },
}

impl Dial {
    /// Looks the broker up and begins with its first address. All addresses share the time-out.
    ///
    /// # Errors
    /// The name has no address, or no address can even be tried.
    pub(crate) fn start(addr: &BrokerAddr, config: &Arc<Config>, timeout: Duration) -> Result<Dial> {
        let budget = Deadline::after(timeout);
        let found = addr.resolve().map_err(|source| Error::connect(addr, source))?;
        Dial::to(addr, found.into(), config, timeout, budget)
    }

    fn to(
        addr: &BrokerAddr,
        mut later: VecDeque<SocketAddr>,
        config: &Arc<Config>,
        timeout: Duration,
        budget: Deadline,
    ) -> Result<Dial> {
        debug!("{addr}: connecting, {} addresses", later.len());
        let (stream, deadline) = next_address(addr, config, &mut later, budget)
            .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
            .map_err(|source| Error::connect(addr, source))?;
        Ok(Dial {
            addr: addr.clone(),
            config: config.clone(),
            later,
            stream,
            budget,
            deadline,
            timeout,
            stage: Stage::Connecting,
        })
    }

    /// Opens a connection, blocking.
    ///
    /// # Errors
    /// No address accepts and greets within the time-out; the error is the last address's.
    pub(crate) fn open(addr: &BrokerAddr, config: &Arc<Config>, timeout: Duration) -> Result<Connection> {
        Dial::start(addr, config, timeout)?.finish()
    }

    fn finish(mut self) -> Result<Connection> {
        loop {
            if let Some(connection) = self.advance()? {
                return Ok(connection);
            }
            wait(&[Interest::Dial(&self)], self.deadline()).map_err(|e| Error::io(&self.addr, self.phase(), e))?;
        }
    }

    pub(crate) fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting)
    }

    /// When [`advance`](Dial::advance) has to be called again at the latest.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn phase(&self) -> Phase {
        if self.is_connecting() { Phase::Connect } else { Phase::Greet }
    }

    /// Goes on as far as possible without blocking; the connection once it is open.
    ///
    /// # Errors
    /// The last address failed or the time is over.
    pub(crate) fn advance(&mut self) -> Result<Option<Connection>> {
        loop {
            match self.step() {
                Ok(Step::Open) => return Ok(Some(Connection::new(self.addr.clone(), self.stream.clone()))),
                Ok(Step::Again) => {}
                Ok(Step::Wait) if self.deadline.has_passed() => {
                    self.fall_back(Error::timeout(&self.addr, self.phase(), self.timeout))?;
                }
                Ok(Step::Wait) => return Ok(None),
                Err(e) => self.fall_back(e)?,
            }
        }
    }

    /// Goes on with the next address, or ends with `e`.
    fn fall_back(&mut self, e: Error) -> Result<()> {
        if self.budget.has_passed() {
            return Err(e);
        }
        match next_address(&self.addr, &self.config, &mut self.later, self.budget) {
            Some(Ok((stream, deadline))) => {
                (self.stream, self.deadline, self.stage) = (stream, deadline, Stage::Connecting);
                Ok(())
            }
            Some(Err(source)) => Err(Error::connect(&self.addr, source)),
            None => Err(e),
        }
    }

    fn step(&mut self) -> Result<Step> {
        let connect_error = |source| Error::connect(&self.addr, source);
        match &mut self.stage {
            Stage::Connecting => {
                if let Some(e) = self.stream.take_error().map_err(connect_error)? {
                    return Err(connect_error(e));
                }
                match self.stream.peer_addr() {
                    Ok(_) => {
                        self.stage = Stage::Greeting { ping: [0; HEADER_LEN], len: 0 };
                        Ok(Step::Again)
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(Step::Wait),
                    Err(e) => Err(connect_error(e)),
                }
            }
            Stage::Greeting { ping, len } => match read_from(&*self.stream, &mut ping[*len..]) {
                Ok(Fill::Bytes(n)) => {
                    *len += n;
                    if *len < HEADER_LEN {
                        return Ok(Step::Again);
                    }
                    check_greeting(ping).map_err(|e| Error::decode(&self.addr, e))?;
                    debug!("{}: connected", self.addr);
                    Ok(Step::Open)
                }
                Ok(Fill::Later) => Ok(Step::Wait),
                Ok(Fill::End) => Err(Error::disconnected(&self.addr, Phase::Greet)),
                Err(e) => Err(Error::io(&self.addr, Phase::Greet, e)),
            },
        }
    }
}

enum Step {
    Open,
    Again,
    Wait,
}

/// A broker greets with an empty ping; anything else is another service.
fn check_greeting(ping: &[u8; HEADER_LEN]) -> std::result::Result<(), DecodeError> {
    let unexpected =
        |found: u64, expected: u64, field, at| DecodeError::new(field, DecodeFault::Unexpected { found, expected }, at);
    match FrameHeader::decode(ping) {
        Ok(Some(FrameHeader { kind: Kind::Ping, len: 0 })) => Ok(()),
        Ok(Some(FrameHeader { kind: Kind::Ping, len })) => Err(unexpected(len.into(), 0, "greeting's length", 1)),
        _ => Err(unexpected(ping[0].into(), Kind::Ping as u64, "greeting's message id", 0)),
    }
}

/// Begins with the first address that can be tried, under an even share of what is left of the time.
#[allow(clippy::type_complexity)]
fn next_address(
    addr: &BrokerAddr,
    config: &Config,
    later: &mut VecDeque<SocketAddr>,
    deadline: Deadline,
) -> Option<io::Result<(Arc<TcpStream>, Deadline)>> {
    let mut failed = None;
    while let Some(address) = later.pop_front() {
        match connect(&address, config) {
            Ok(stream) => {
                let share = deadline.left().map(|left| left / (later.len() as u32 + 1));
                return Some(Ok((Arc::new(stream), share.map_or(Deadline::NEVER, Deadline::after))));
            }
            Err(e) => {
                debug!("{addr}: {address} cannot be tried: {e}");
                failed = Some(Err(e));
            }
        }
    }
    failed
}

/// Begins to connect.
fn connect(address: &SocketAddr, config: &Config) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Buffer sizes take part in the window that is agreed on when connecting.
    if let Some(size) = config.receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    if let Some(size) = config.send_buffer {
        socket.set_send_buffer_size(size)?;
    }
    SockRef::from(&socket).set_tcp_nodelay(true)?;
    if let Some(idle) = config.keepalive {
        // Systems count in whole seconds, and refuse none or more than this.
        let allowed = |time: Duration| time.clamp(Duration::from_secs(1), Duration::from_secs(32_767));
        let keepalive = TcpKeepalive::new().with_time(allowed(idle)).with_interval(allowed(idle / 4));
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    socket
        .set_tcp_user_timeout(config.tcp_user_timeout.map(|time| time.min(Duration::from_millis(i32::MAX as u64))))?;
    match socket.connect(&(*address).into()) {
        Ok(()) => {}
        Err(e) if is_in_progress(&e) => {}
        Err(e) => return Err(e),
    }
    Ok(socket.into())
}

fn is_in_progress(e: &io::Error) -> bool {
    if e.kind() == io::ErrorKind::WouldBlock {
        return true;
    }
    #[cfg(unix)]
    {
        e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
    }
    #[cfg(not(unix))]
    {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::protocol::frame::PING;

    /// Says this to whoever connects, and hangs up unless it is to stay.
    fn listener(greeting: &'static [u8], stays: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(greeting);
                kept.extend(stays.then_some(stream));
            }
        });
        addr
    }

    fn refused() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn dial(found: &[SocketAddr], timeout: Duration) -> Result<SocketAddr> {
        let addr = BrokerAddr::from(SocketAddr::from(([127, 0, 0, 1], 1)));
        let found = found.iter().copied().collect();
        let dial = Dial::to(&addr, found, &Arc::default(), timeout, Deadline::after(timeout))?;
        Ok(dial.finish()?.stream().peer_addr().unwrap())
    }

    #[test]
    fn each_address_of_a_name_gets_its_turn_and_its_share_of_the_time() {
        let (good, long) = (listener(&PING, true), Duration::from_secs(20));
        for bad in [refused(), listener(b"", false), listener(b"220 mail", true), listener(&PING[..3], false)] {
            assert_eq!(dial(&[bad, good], long).unwrap(), good);
            assert_eq!(dial(&[bad, bad, good], long).unwrap(), good);
            assert_eq!(dial(&[good, bad], long).unwrap(), good);
        }
        // Those that say nothing take their share and leave the rest to the others.
        let silent = listener(b"", true);
        assert_eq!(dial(&[silent, silent, good], Duration::from_secs(3)).unwrap(), good);
    }

    #[test]
    fn the_last_address_says_what_is_wrong() {
        let (strange, ended, silent) = (listener(b"220 mail", true), listener(b"", false), listener(b"", true));
        let (brief, long) = (Duration::from_millis(300), Duration::from_secs(20));
        assert!(matches!(dial(&[ended, strange], long), Err(Error::Decode { .. })));
        assert!(matches!(dial(&[strange, refused()], long), Err(Error::Connect { .. })));
        let e = dial(&[strange, ended], long).unwrap_err();
        assert!(
            matches!(e, Error::Disconnected { phase: Phase::Greet, .. } | Error::Io { phase: Phase::Greet, .. }),
            "{e}"
        );
        assert!(matches!(dial(&[strange, silent], brief), Err(Error::Timeout { phase: Phase::Greet, .. })));
        assert!(matches!(dial(&[silent, silent], brief), Err(Error::Timeout { phase: Phase::Greet, .. })));
        let Err(Error::Connect { source, .. }) = dial(&[], long) else { panic!("nowhere to go") };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
        // An address that no socket can be made for is passed over, too.
        let nowhere = SocketAddr::from(([255, 255, 255, 255], 1));
        let good = listener(&PING, true);
        assert_eq!(dial(&[nowhere, good], long).unwrap(), good);
        assert!(matches!(dial(&[strange, nowhere], long), Err(Error::Connect { .. })));
    }
}
