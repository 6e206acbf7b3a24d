//! Opening a connection without blocking: each address in turn, then the greeting.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use log::debug;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::addr::BrokerAddr;
use super::clock::Deadline;
use super::connection::{Connection, Fill, read};
use super::wait::{Interest, wait};
use crate::config::Config;
use crate::error::{Error, Phase, Result};
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
        let found = addr.resolve().map_err(|source| Error::Connect { addr: addr.to_string(), source })?;
        debug!("{addr}: connecting, {} addresses", found.len());
        let mut later = VecDeque::from(found);
        let (stream, deadline) = next_address(addr, config, &mut later, budget)
            .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
            .map_err(|source| Error::Connect { addr: addr.to_string(), source })?;
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
        let mut dial = Dial::start(addr, config, timeout)?;
        loop {
            if let Some(connection) = dial.advance()? {
                return Ok(connection);
            }
            wait(&[Interest::Dial(&dial)], dial.deadline()).map_err(|e| Error::io(dial.phase(), e))?;
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
                    self.fall_back(Error::Timeout { phase: self.phase(), after: self.timeout })?;
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
            Some(Err(source)) => Err(Error::Connect { addr: self.addr.to_string(), source }),
            None => Err(e),
        }
    }

    fn step(&mut self) -> Result<Step> {
        let connect_error = |source| Error::Connect { addr: self.addr.to_string(), source };
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
            Stage::Greeting { ping, len } => match read(&self.stream, &mut ping[*len..]) {
                Ok(Fill::Bytes(n)) => {
                    *len += n;
                    if *len < HEADER_LEN {
                        return Ok(Step::Again);
                    }
                    check_greeting(ping)?;
                    debug!("{}: connected", self.addr);
                    Ok(Step::Open)
                }
                Ok(Fill::Later) => Ok(Step::Wait),
                Ok(Fill::End) => Err(Error::Disconnected { phase: Phase::Greet }),
                Err(e) => Err(Error::io(Phase::Greet, e)),
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
fn check_greeting(ping: &[u8; HEADER_LEN]) -> Result<()> {
    let unexpected = |found: u64, expected: u64, field, at| {
        Error::from(DecodeError::new(field, DecodeFault::Unexpected { found, expected }, at))
    };
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
