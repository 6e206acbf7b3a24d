//! A network between client and server that can be cut at any byte, the greeting's included.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::watch::SOON;

/// How to end a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Fin,
    Reset,
}

/// What becomes of a connection: cut after this many bytes to the client, or left alone.
type Fate = Option<(u64, Cut)>;

/// Forwards connections to a server.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    fates: Mutex<VecDeque<Fate>>,
    /// Connections that were cut.
    cuts: AtomicUsize,
    accepted: AtomicUsize,
    stopped: AtomicBool,
}

impl Proxy {
    pub fn start(upstream: &str) -> Proxy {
        Proxy::on(TcpListener::bind("127.0.0.1:0").unwrap(), upstream)
    }

    /// Forwards what comes to `listener`.
    pub fn on(listener: TcpListener, upstream: &str) -> Proxy {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: upstream.into(),
            fates: Mutex::default(),
            cuts: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                accepting.accepted.fetch_add(1, Ordering::SeqCst);
                let fate = accepting.fates.lock().unwrap().pop_front().flatten();
                accepting.clone().forward(client.unwrap(), fate);
            }
        });
        Proxy { addr, shared }
    }

    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// Cuts the next connection that has no fate yet after this many bytes to the client.
    pub fn cut(&self, after: u64, how: Cut) {
        self.shared.fates.lock().unwrap().push_back(Some((after, how)));
    }

    /// Lets all connections to come alone.
    pub fn pardon(&self) {
        self.shared.fates.lock().unwrap().clear();
    }

    /// Connections that were cut so far.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    #[track_caller]
    pub fn wait_for_cuts(&self, count: usize) {
        let end = Instant::now() + SOON;
        while self.cuts() < count {
            assert!(Instant::now() < end, "{} cuts, {count} wanted", self.cuts());
            thread::yield_now();
        }
    }

    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

impl Shared {
    fn forward(self: Arc<Self>, client: TcpStream, fate: Fate) {
        let server = TcpStream::connect(&self.upstream).unwrap();
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let (mut to_server, mut from_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        thread::spawn(move || {
            if self.answer(server, &client, fate) != Some(Cut::Reset) {
                let _ = client.shutdown(Shutdown::Both);
            }
        });
    }

    /// Passes answers on until the end, or the cut; which one that was.
    fn answer(&self, mut server: TcpStream, mut client: &TcpStream, fate: Fate) -> Option<Cut> {
        let (mut left, how) = fate.unwrap_or((u64::MAX, Cut::Fin));
        let mut piece = [0; 64 << 10];
        while left > 0 {
            let most = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            let Ok(len @ 1..) = server.read(&mut piece[..most]) else { break };
            if client.write_all(&piece[..len]).is_err() {
                break;
            }
            left -= len as u64;
        }
        let cut = (left == 0).then_some(how);
        if cut.is_some() {
            self.cuts.fetch_add(1, Ordering::SeqCst);
        }
        if cut == Some(Cut::Reset) {
            // The reset goes out when the other thread, which this wakes, lets go of the socket too.
            let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
            let _ = client.shutdown(Shutdown::Read);
        }
        let _ = server.shutdown(Shutdown::Both);
        cut
    }
}
