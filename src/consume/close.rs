//! [`CloseHandle`]: ending iterations from another thread.

use std::sync::Arc;

use crate::net::Closed;

/// Ends [`ConsumeIter`](crate::ConsumeIter)s from another thread, or from a signal handler's thread.
///
/// Every iterator has one, [`close_handle`](crate::ConsumeIter::close_handle). A handle that you create first, and give to any
/// number of [subscriptions](crate::Subscription::close_with) or to a [client](crate::ClientBuilder::close_with), ends them all,
/// and whatever else the client does.
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
#[must_use = "a handle that is dropped closes nothing"]
pub struct CloseHandle {
    /// The flag that waits look at.
    pub(crate) closed: Arc<Closed>,
}

impl CloseHandle {
    /// Creates a handle for [`Subscription::close_with`](crate::Subscription::close_with) and
    /// [`ClientBuilder::close_with`](crate::ClientBuilder::close_with).
    pub fn new() -> CloseHandle {
        CloseHandle::default()
    }

    /// Ends the iterations: a blocked `next` returns `None` now, and every later one does so at once, even if messages were
    /// received that have not been handed out. A `subscribe` that has not returned by then, or is called later, ends with
    /// [`Closed`](crate::ErrorKind::Closed). Calling it again does nothing.
    ///
    /// Nothing can interrupt the system's resolver while it looks up the host name of a broker. Brokers that are given by
    /// address are never looked up.
    pub fn close(&self) {
        self.closed.close();
    }

    /// Returns whether [`close`](CloseHandle::close) was called.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.closed.is_closed()
    }
}
