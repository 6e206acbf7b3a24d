//! The machine over real sockets: one thread that polls for all nodes and all their connections.
//!
//! ```text
//!   Broker's methods ──> lock ──> Machine <── lock ── the thread: poll, accept, read, tick, pull, write
//!          └── wakes the thread by a byte ──────────────┘   └── signals `changed` after every turn
//! ```
//!
//! Sockets belong to the thread alone. It holds back what a client does not take: at most one piece of [`PIECE`] bytes a
//! connection, and pulls no more before that is gone.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, SockRef, Socket, Type};

use super::host::Host;
use super::machine::{ClusterOptions, Conn, End, Machine, Options, Pull};
use crate::net::{PairSocket, Time, rounded_up, socket_pair};

/// Bytes that are read or written at once.
const PIECE: usize = 64 << 10;

/// Bytes that a connection may send before the others have their turn.
const MAX_SENT_AT_ONCE: usize = 1 << 20;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long nothing is accepted after that has failed, as it does without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The handle of the thread; it ends with it.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Signalled when anything in the machine may have changed.
    changed: Condvar,
    /// Zero of the machine's clock.
    started: Instant,
    /// Wakes the thread, unless a byte is on its way to it already.
    waker: PairSocket,
    woken: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    ports: Vec<Port>,
    /// Turns that the thread has finished.
    turns: u64,
    ended: bool,
}

/// Where a node listens.
#[derive(Debug)]
struct Port {
    addr: SocketAddrV4,
    /// Keeps the port ours while nothing listens on it.
    holder: Option<Socket>,
    /// A listener for the thread to take over.
    new: Option<TcpListener>,
    /// Whether the thread has one.
    open: bool,
}

impl Server {
    /// Binds a port for each node, 0 for any, and starts the thread; no node listens yet.
    ///
    /// # Errors
    /// No port, or no thread.
    pub(super) fn start(
        addrs: &[SocketAddrV4],
        options: Options,
        cluster: Option<ClusterOptions>,
    ) -> io::Result<Server> {
        let ports: Vec<Port> = addrs.iter().map(|addr| Port::reserve(*addr)).collect::<io::Result<_>>()?;
        let addrs: Vec<SocketAddrV4> = ports.iter().map(|port| port.addr).collect();
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let start_time = u32::try_from(since_1970).unwrap_or(u32::MAX);
        let machine = Machine::new(Time::ZERO, start_time, options, &addrs, cluster);
        let (waker, wakened) = socket_pair()?;
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { machine, ports, turns: 0, ended: false }),
            changed: Condvar::new(),
            started: Instant::now(),
            waker,
            woken: AtomicBool::new(false),
        });
        let carrier = Carrier { shared: Arc::clone(&shared), wakened, listeners: Vec::new(), links: BTreeMap::new() };
        let thread = thread::Builder::new().name("broker".into()).spawn(move || carrier.run())?;
        Ok(Server { shared, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A failed assertion in a test's closure must not take the broker with it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        Time::ZERO.after(self.started.elapsed())
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            // Full: there are bytes enough.
            let _ = (&self.waker).write(&[1]);
        }
    }
}

impl Host for Server {
    fn act(&self, act: &mut dyn FnMut(&mut Machine, Time)) {
        let mut inner = self.shared.lock();
        act(&mut inner.machine, self.shared.now());
        drop(inner);
        self.shared.changed.notify_all();
        self.shared.wake();
    }

    fn look(&self, look: &mut dyn FnMut(&Machine)) {
        look(&self.shared.lock().machine);
    }

    fn listen(&self, node: usize) -> io::Result<()> {
        let mut inner = self.shared.lock();
        if let Some(port) = inner.ports.get_mut(node).filter(|port| !port.open && port.new.is_none()) {
            port.new = Some(port.listen()?);
        }
        inner.machine.start(self.shared.now(), node);
        drop(inner);
        self.shared.changed.notify_all();
        self.shared.wake();
        Ok(())
    }

    fn wait_closed(&self) {
        let mut inner = self.shared.lock();
        // The one under way may be over what was changed already.
        let turns = inner.turns + 1;
        self.shared.wake();
        while inner.turns < turns && !inner.ended {
            inner = self.shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_until(&self, timeout: Duration, condition: &mut dyn FnMut(&Machine) -> bool) -> bool {
        let end = self.shared.now().after(timeout);
        let mut inner = self.shared.lock();
        loop {
            if condition(&inner.machine) {
                return true;
            }
            let left = end.since(self.shared.now());
            if left.is_zero() {
                return false;
            }
            inner = self.shared.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A socket bound to the address, with a port of its own if that is 0.
fn bind(addr: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::V4(addr).into())?;
    Ok(socket)
}

impl Port {
    fn reserve(addr: SocketAddrV4) -> io::Result<Port> {
        let holder = bind(addr)?;
        let addr = holder.local_addr()?.as_socket_ipv4().ok_or(ErrorKind::AddrNotAvailable)?;
        Ok(Port { addr, holder: Some(holder), new: None, open: false })
    }

    fn listen(&mut self) -> io::Result<TcpListener> {
        let listen = |addr| {
            let socket = bind(addr)?;
            socket.set_nonblocking(true)?;
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from(socket))
        };
        // Not every system lets a second socket have the port.
        listen(self.addr).or_else(|_: io::Error| {
            self.holder = None;
            listen(self.addr)
        })
    }
}

/// The thread, and the sockets it has.
#[derive(Debug)]
struct Carrier {
    shared: Arc<Shared>,
    wakened: PairSocket,
    listeners: Vec<(usize, Listener)>,
    links: BTreeMap<Conn, Link>,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    rests_until: Time,
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    /// What was pulled and not taken by the system, from `sent` on.
    piece: Vec<u8>,
    sent: usize,
    /// Whether there may be more to pull once the system takes bytes.
    more: bool,
}

/// What a poll was asked about.
#[derive(Debug, Clone, Copy)]
enum Target {
    Waker,
    Listener(usize),
    Link(Conn),
}

impl Carrier {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut room = vec![0; PIECE];
        let mut found = Vec::new();
        loop {
            let mut inner = shared.lock();
            if inner.ended {
                break;
            }
            for (target, flags) in found.drain(..) {
                self.serve(&mut inner.machine, target, flags, &mut room);
            }
            inner.machine.tick(shared.now());
            self.listen(&mut inner);
            while let Some(conn) = inner.machine.ready() {
                self.send(&mut inner.machine, conn, &mut room);
            }
            inner.turns += 1;
            let (targets, until) = self.targets(&inner.machine);
            drop(inner);
            shared.changed.notify_all();
            self.poll(&targets, until, &mut found);
        }
    }

    /// Has the listeners that the machine's nodes are to have.
    fn listen(&mut self, inner: &mut Inner) {
        let Inner { machine, ports, .. } = inner;
        self.listeners.retain(|(node, _)| machine.listens(*node));
        for (node, port) in ports.iter_mut().enumerate() {
            port.open = self.listeners.iter().any(|(other, _)| *other == node);
            if machine.listens(node) && !port.open {
                // One that nobody asked for is that of a node that came back by itself; if it fails, the next turn tries again.
                if let Some(socket) = port.new.take().or_else(|| port.listen().ok()) {
                    self.listeners.push((node, Listener { socket, rests_until: Time::ZERO }));
                    port.open = true;
                }
            } else if !machine.listens(node) {
                port.new = None;
            }
        }
    }

    /// What to wait for, and until when.
    fn targets(&self, machine: &Machine) -> (Vec<(Target, PollFlags)>, Time) {
        let now = self.shared.now();
        let mut until = machine.due();
        let mut targets = vec![(Target::Waker, PollFlags::IN)];
        for (index, (node, listener)) in self.listeners.iter().enumerate() {
            if listener.rests_until > now {
                until = until.min(listener.rests_until);
            } else if machine.accepts(*node) {
                targets.push((Target::Listener(index), PollFlags::IN));
            }
        }
        for (conn, link) in &self.links {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, machine.reads(*conn));
            flags.set(PollFlags::OUT, link.more);
            if !flags.is_empty() {
                targets.push((Target::Link(*conn), flags));
            }
        }
        (targets, until)
    }

    /// Waits for one of the places, and says what is to be done.
    fn poll(&self, targets: &[(Target, PollFlags)], until: Time, found: &mut Vec<(Target, PollFlags)>) {
        let fd = |(target, flags): &(Target, PollFlags)| match target {
            Target::Waker => Some(PollFd::new(&self.wakened, *flags)),
            Target::Listener(index) => self.listeners.get(*index).map(|(_, own)| PollFd::new(&own.socket, *flags)),
            Target::Link(conn) => self.links.get(conn).map(|link| PollFd::new(&link.stream, *flags)),
        };
        let mut fds: Vec<PollFd<'_>> = targets.iter().filter_map(fd).collect();
        let timeout = (until != Time::NEVER).then(|| rounded_up(until.since(self.shared.now())));
        // An error is that of an interruption, or of memory: the next turn waits again.
        if poll(&mut fds, timeout.as_ref()).is_ok() {
            let ready = targets.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
            found.extend(ready.map(|((target, _), fd)| (*target, fd.revents())));
        }
    }

    fn serve(&mut self, machine: &mut Machine, target: Target, flags: PollFlags, room: &mut [u8]) {
        match target {
            Target::Waker => {
                while matches!((&self.wakened).read(room), Ok(n) if n > 0) {}
                // In this order: whoever still finds it set has changed the machine before it was locked for this turn.
                self.shared.woken.store(false, Ordering::SeqCst);
            }
            Target::Listener(index) => self.accept(machine, index),
            Target::Link(conn) => {
                if flags.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) {
                    self.send(machine, conn, room);
                }
                if machine.reads(conn) {
                    self.read(machine, conn, room);
                }
            }
        }
    }

    fn accept(&mut self, machine: &mut Machine, index: usize) {
        let Some((node, listener)) = self.listeners.get_mut(index) else { return };
        while machine.accepts(*node) {
            match listener.socket.accept() {
                Ok((stream, from)) => {
                    let _ = stream.set_nodelay(true);
                    if stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    if let Some(conn) = machine.accept(self.shared.now(), *node, from.ip()) {
                        self.links.insert(conn, Link { stream, piece: Vec::new(), sent: 0, more: false });
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(_) => {
                    listener.rests_until = self.shared.now().after(ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn read(&mut self, machine: &mut Machine, conn: Conn, room: &mut [u8]) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        match link.stream.read(room) {
            Ok(0) => machine.ended(self.shared.now(), conn, End::Fin),
            Ok(n) => machine.handle(self.shared.now(), conn, room.get(..n).unwrap_or(&[])),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.lost(machine, conn),
        }
    }

    /// Sends what a connection must send, as far as the system takes it.
    fn send(&mut self, machine: &mut Machine, conn: Conn, room: &mut [u8]) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        if machine.is_torn(conn) {
            link.piece = Vec::new();
        }
        let mut sent = 0;
        loop {
            match link.flush() {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => return self.lost(machine, conn),
            }
            if sent >= MAX_SENT_AT_ONCE {
                link.more = true;
                return;
            }
            match machine.pull(self.shared.now(), conn, room) {
                Pull::Bytes(n) => {
                    sent += n;
                    if link.write(room.get(..n).unwrap_or(&[])).is_err() {
                        return self.lost(machine, conn);
                    }
                }
                Pull::Nothing => {
                    link.more = false;
                    return;
                }
                Pull::Close => {
                    if let Some(link) = self.links.remove(&conn) {
                        let _ = link.stream.shutdown(Shutdown::Both);
                    }
                    return;
                }
                Pull::Reset => {
                    if let Some(link) = self.links.remove(&conn) {
                        // The reset goes out when the socket is let go of; a FIN must not precede it.
                        let _ = SockRef::from(&link.stream).set_linger(Some(Duration::ZERO));
                    }
                    return;
                }
            }
        }
    }

    fn lost(&mut self, machine: &mut Machine, conn: Conn) {
        machine.ended(self.shared.now(), conn, End::Reset);
        self.links.remove(&conn);
    }
}

impl Drop for Carrier {
    /// Also when the thread panics: there are no more turns to wait for.
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
    }
}

impl Link {
    /// Sends what is left of the last piece; whether nothing is.
    fn flush(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.piece.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match (&self.stream).write(rest) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.more = true;
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        self.piece = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    /// Sends a piece, and keeps what the system does not take.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = match (&self.stream).write(bytes) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(e) => return Err(e),
        };
        self.piece = bytes.get(sent..).unwrap_or(&[]).to_vec();
        self.sent = 0;
        Ok(())
    }
}
