//! A node's life: listening on a port that stays its own, stopping, starting again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::connection;
use super::faults::Faults;
use super::state::{Node, Shared, State};
use super::stats::BrokerStats;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A socket bound to the address, with a port of its own if that is 0.
fn bind(addr: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::V4(addr).into())?;
    Ok(socket)
}

impl Node {
    /// A node that does not run yet, with a port reserved for it.
    pub(super) fn reserve(ip: Ipv4Addr) -> io::Result<Node> {
        let holder = bind(SocketAddrV4::new(ip, 0))?;
        let addr = holder.local_addr()?.as_socket_ipv4().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Node {
            addr,
            holder: Some(holder),
            listener: None,
            acceptor: None,
            threads: Vec::new(),
            running: false,
            paused: false,
            registered: true,
            conns: BTreeMap::new(),
            faults: Faults::default(),
            stats: BrokerStats::default(),
            requests: VecDeque::new(),
        })
    }

    fn bind_listener(&mut self) -> io::Result<TcpListener> {
        let listen = |addr| {
            let socket = bind(addr)?;
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from(socket))
        };
        // Not every system lets a second socket have the port.
        listen(self.addr).or_else(|_: io::Error| {
            self.holder = None;
            listen(self.addr)
        })
    }

    /// Wakes all threads of the node's connections.
    pub(super) fn wake(&self) {
        self.conns.values().for_each(|conn| conn.link.wake.notify_all());
    }
}

impl State {
    /// Lets a node that answers again catch up with the partitions it has copies of.
    pub(super) fn rejoin(&mut self, node: usize) {
        let alive: Vec<bool> = self.nodes.iter().map(Node::is_alive).collect();
        let partitions = self.topics.values_mut().flat_map(|topic| &mut topic.partitions);
        for partition in partitions.filter(|partition| partition.replicas.contains(&node)) {
            if !partition.in_sync.contains(&node) {
                partition.in_sync.push(node);
            }
            if partition.in_sync.iter().all(|&replica| alive[replica]) {
                partition.committed = partition.log.last;
            }
        }
    }
}

impl Shared {
    /// Begins to accept connections; nothing if it does already.
    pub(super) fn listen(self: &Arc<Shared>, node: usize) -> io::Result<()> {
        let mut state = self.lock();
        let this = &mut state.nodes[node];
        (this.running, this.registered) = (true, true);
        if this.listener.is_some() {
            return Ok(());
        }
        let listener = Arc::new(this.bind_listener()?);
        let (shared, accepting) = (Arc::clone(self), Arc::clone(&listener));
        let name = format!("broker {}", this.addr.port());
        this.acceptor =
            Some(thread::Builder::new().name(name).spawn(move || connection::accept(&shared, node, &accepting))?);
        this.listener = Some(listener);
        state.rejoin(node);
        self.changed.notify_all();
        Ok(())
    }

    /// Closes the listener; connections stay as they are.
    pub(super) fn close_listener(&self, node: usize) {
        let mut state = self.lock();
        let this = &mut state.nodes[node];
        let (addr, listener, acceptor) = (this.addr, this.listener.take(), this.acceptor.take());
        self.changed.notify_all();
        drop(state);
        if let Some(listener) = listener {
            // The first wakes the accepting thread on some systems, the second on all the others.
            let _ = SockRef::from(&*listener).shutdown(Shutdown::Both);
            let _ = TcpStream::connect_timeout(&addr.into(), Duration::from_secs(1));
        }
        if let Some(thread) = acceptor {
            let _ = thread.join();
        }
    }

    /// Closes the listener and every connection, and waits for their threads to end.
    pub(super) fn stop(&self, node: usize) {
        self.close_listener(node);
        let mut state = self.lock();
        let this = &mut state.nodes[node];
        (this.running, this.paused) = (false, false);
        this.conns.values_mut().for_each(State::hang_up);
        let threads = std::mem::take(&mut this.threads);
        self.changed.notify_all();
        drop(state);
        for thread in threads {
            let _ = thread.join();
        }
    }
}
