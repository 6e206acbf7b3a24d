//! Ending an iteration from outside.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Ends a [`ConsumeIter`](crate::ConsumeIter) from another thread or a signal handler's thread.
///
/// ```no_run
/// # use tank_client::{Client, Subscription};
/// let client = Client::connect("127.0.0.1:11011")?;
/// let messages = client.subscribe(Subscription::topic("orders"))?;
/// let handle = messages.close_handle();
/// let worker = std::thread::spawn(move || messages.filter_map(Result::ok).count());
/// handle.close();
/// println!("{} messages", worker.join().unwrap());
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CloseHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    closed: AtomicBool,
    /// The iterator's sockets: weak, so that a handle kept for long keeps none of them open.
    sockets: Mutex<Vec<Weak<TcpStream>>>,
}

impl CloseHandle {
    /// Ends the iteration: a `next` that is blocked returns `None` now, and every later one does so at once, even if
    /// messages were received that it has not handed out. Calling it again does nothing.
    ///
    /// Within 50 milliseconds, that is, while a connection is being opened; and not before the system's resolver is done
    /// while it looks up the host name of a broker, which nothing can interrupt. Brokers given by address are never looked
    /// up.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // The flag first: a reader that wakes up has to find it set.
        for socket in self.sockets().drain(..) {
            if let Some(socket) = socket.upgrade() {
                // An error means that the socket has ended by itself.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    /// Whether [`close`](CloseHandle::close) was called.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// Has `close` shut down this socket too.
    pub(crate) fn watch(&self, socket: &Arc<TcpStream>) {
        let mut sockets = self.sockets();
        let socket = Arc::downgrade(socket);
        sockets.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&socket));
        sockets.push(socket);
        drop(sockets);
        // `close` may have come between the last look at the flag and now.
        if self.is_closed() {
            self.close();
        }
    }

    fn sockets(&self) -> std::sync::MutexGuard<'_, Vec<Weak<TcpStream>>> {
        self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
