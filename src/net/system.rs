//! The operating system's network: the only place, beside the embedded broker's server, that touches its clock and sockets.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, TcpKeepalive, Type};

use super::network::{Closed, Handle, Interest, Network, Socket, Time, Waker};
use crate::config::Config;

/// The shortest and the longest idle time that systems accept for keep-alive. They count in whole seconds.
const MIN_KEEPALIVE: Duration = Duration::from_secs(1);
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// Systems take the size of a buffer as an `int`.
const MAX_BUFFER: usize = i32::MAX as usize;

/// The network of the machine.
pub(crate) struct System {
    random: RandomState,
    drawn: AtomicU64,
}

impl System {
    pub(crate) fn new() -> System {
        System { random: RandomState::new(), drawn: AtomicU64::new(0) }
    }
}

impl Network for System {
    fn now(&self) -> Time {
        read_clock(false)
    }

    fn coarse_now(&self) -> Time {
        read_clock(true)
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> u64 {
        self.random.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed))
    }

    fn process(&self) -> u32 {
        std::process::id()
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        (host, port).to_socket_addrs().map(Iterator::collect)
    }

    fn connect(&self, to: SocketAddr, config: &Config) -> io::Result<Box<dyn Socket>> {
        let socket = RawSocket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        set_options(&socket, config)?;
        match socket.connect(&to.into()) {
            Err(e) if !is_in_progress(&e) => Err(e),
            _ => Ok(Box::new(Tcp(socket.into()))),
        }
    }

    fn poll(&self, on: &mut [Interest<'_>], closed: Option<&Closed>, until: Time) -> io::Result<()> {
        let waker = closed.map(|closed| closed.waker(self.process(), || Ok(Arc::new(Pair::new()?)))).transpose()?;
        let woken = waker.as_ref().and_then(|waker| from_handle(waker.handle(), PollFlags::IN));
        // Most programs wait for one connection, again and again: that allocates nothing.
        let (mut few, mut many);
        let only = if let [only] = &*on { poll_fd(only) } else { None };
        let fds = match (only, woken) {
            (Some(fd), Some(woken)) => {
                few = [fd, woken];
                &mut few[..]
            }
            (_, woken) => {
                many = on.iter().filter_map(poll_fd).chain(woken).collect::<Vec<_>>();
                &mut many[..]
            }
        };
        if fds.is_empty() {
            // Windows refuses to wait for nothing.
            std::thread::sleep(until.since(self.now()));
            return Ok(());
        }
        while !closed.is_some_and(Closed::is_closed) {
            let timeout = (until != Time::NEVER).then(|| rounded_up(until.since(self.now())));
            match poll(fds, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(0) if self.now() < until => {}
                Ok(_) => break,
            }
        }
        for (interest, fd) in on.iter_mut().zip(fds) {
            *interest.ready = !fd.revents().is_empty();
        }
        Ok(())
    }
}

/// Reads the monotonic clock, or the time of its last tick if it may be coarse, which costs a fifth.
#[cfg(any(target_os = "android", target_os = "linux"))]
#[inline]
fn read_clock(coarse: bool) -> Time {
    use rustix::time::{ClockId, clock_gettime};
    // Getting such a number from the standard library takes five times as many instructions.
    let clock = if coarse { ClockId::MonotonicCoarse } else { ClockId::Monotonic };
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Time::from_nanos(tv_sec as u64 * 1_000_000_000 + tv_nsec as u64)
}

/// Reads the monotonic clock.
#[cfg(not(any(target_os = "android", target_os = "linux")))]
fn read_clock(_: bool) -> Time {
    use std::{sync::LazyLock, time::Instant};
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Not zero, which stands for a moment before all others.
    Time::from_nanos(1 + STARTED.elapsed().as_nanos() as u64)
}

/// Rounds a wait up to the millisecond: on systems whose poll counts in milliseconds, waking early would be a busy loop.
pub(crate) fn rounded_up(wait: Duration) -> Timespec {
    let millis = wait.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
    Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000 * 1_000_000) as _ }
}

fn poll_fd<'a>(interest: &Interest<'a>) -> Option<PollFd<'a>> {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, interest.read);
    flags.set(PollFlags::OUT, interest.write);
    from_handle(interest.socket.handle(), flags)
}

fn from_handle(handle: Handle<'_>, flags: PollFlags) -> Option<PollFd<'_>> {
    match handle {
        Handle::System(fd) => Some(PollFd::from_borrowed_fd(fd, flags)),
        Handle::Simulated(..) => None,
    }
}

fn set_options(socket: &RawSocket, config: &Config) -> io::Result<()> {
    // Before connecting, because the TCP window that is agreed on then depends on the buffer sizes.
    if let Some(size) = config.receive_buffer {
        socket.set_recv_buffer_size(size.min(MAX_BUFFER))?;
    }
    if let Some(size) = config.send_buffer {
        socket.set_send_buffer_size(size.min(MAX_BUFFER))?;
    }
    SockRef::from(socket).set_tcp_nodelay(true)?;
    if let Some(idle) = config.keepalive {
        let allowed = |time: Duration| time.clamp(MIN_KEEPALIVE, MAX_KEEPALIVE);
        let keepalive = TcpKeepalive::new().with_time(allowed(idle)).with_interval(allowed(idle / 4));
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    if let Some(time) = config.tcp_user_timeout {
        // Zero milliseconds would leave it to the system.
        let (least, most) = (Duration::from_millis(1), Duration::from_millis(i32::MAX as u64));
        socket.set_tcp_user_timeout(Some(time.clamp(least, most)))?;
    }
    Ok(())
}

fn is_in_progress(e: &io::Error) -> bool {
    #[cfg(unix)]
    if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) {
        return true;
    }
    e.kind() == io::ErrorKind::WouldBlock
}

/// Without this flag, which `write` of the standard library gives and its `write_vectored` does not, SIGPIPE would kill a program
/// that does not ignore it once a broker has closed the connection. On Apple's systems the socket was made so that it never comes.
const NO_SIGNAL: i32 = if cfg!(any(target_os = "android", target_os = "linux")) { 0x4000 } else { 0 };

/// A non-blocking TCP connection.
struct Tcp(TcpStream);

impl Socket for Tcp {
    fn finish_connect(&self) -> io::Result<bool> {
        if let Some(e) = self.0.take_error()? {
            return Err(e);
        }
        match self.0.peer_addr() {
            // Where nobody listens, a socket whose own port is the one it dials connects to itself.
            Ok(peer) if self.0.local_addr()? == peer => Err(io::ErrorKind::ConnectionRefused.into()),
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(into)
    }

    fn write(&self, from: &[u8]) -> io::Result<usize> {
        (&self.0).write(from)
    }

    fn write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        // The system takes a single piece faster by `write`.
        if let [only] = from {
            self.write(only)
        } else {
            SockRef::from(&self.0).send_vectored_with_flags(from, NO_SIGNAL)
        }
    }

    fn abort(self: Box<Self>) {
        // If it cannot be set, the close that follows is a plain one: there is nothing better to do.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }

    fn handle(&self) -> Handle<'_> {
        tcp_handle(&self.0)
    }
}

#[cfg(unix)]
fn tcp_handle(stream: &impl std::os::fd::AsFd) -> Handle<'_> {
    Handle::System(stream.as_fd())
}

#[cfg(windows)]
fn tcp_handle(stream: &impl std::os::windows::io::AsSocket) -> Handle<'_> {
    Handle::System(stream.as_socket())
}

/// Two sockets connected to each other: a byte written to one makes the other readable for ever, since nobody reads it. Not a
/// pipe, which cannot be polled on every system.
struct Pair {
    write: PairSocket,
    read: PairSocket,
    process: u32,
}

#[cfg(unix)]
pub(crate) type PairSocket = std::os::unix::net::UnixStream;
#[cfg(not(unix))]
pub(crate) type PairSocket = TcpStream;

/// Connects two sockets to each other, neither of which blocks.
pub(crate) fn socket_pair() -> io::Result<(PairSocket, PairSocket)> {
    #[cfg(unix)]
    let (write, read) = PairSocket::pair()?;
    #[cfg(not(unix))]
    let (write, read) = loopback_pair()?;
    write.set_nonblocking(true)?;
    read.set_nonblocking(true)?;
    Ok((write, read))
}

#[cfg(not(unix))]
fn loopback_pair() -> io::Result<(PairSocket, PairSocket)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let write = TcpStream::connect(listener.local_addr()?)?;
    // Another process may have connected first.
    loop {
        let (read, from) = listener.accept()?;
        if from == write.local_addr()? {
            return Ok((write, read));
        }
    }
}

impl Pair {
    fn new() -> io::Result<Pair> {
        let (write, read) = socket_pair()?;
        Ok(Pair { write, read, process: std::process::id() })
    }
}

impl Waker for Pair {
    fn wake(&self) {
        // Nobody in a forked child waits for its parent's pair. A write fails only if the pair is full, and so readable already.
        if self.process == std::process::id() {
            let _ = (&self.write).write(&[1]);
        }
    }

    fn handle(&self) -> Handle<'_> {
        tcp_handle(&self.read)
    }
}

#[cfg(test)]
mod tests;
