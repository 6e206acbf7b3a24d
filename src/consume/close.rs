//! [`CloseHandle`]: ending iterations from another thread.

use std::sync::Arc;

use crate::net::Closed;

/// Ends [`ConsumeIter`](crate::ConsumeIter)s from another thread, or from a signal handler's thread.
///
/// Every iterator has [one](crate::ConsumeIter::close_handle). You can also create one first, and give it to any number of
/// [subscriptions](crate::Subscription::close_with), or to a [client](crate::ClientBuilder::close_with), where it ends every
/// wait.
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

    /// Ends the iterations: a blocked `next` returns `None` now, and so does every later one, even if messages were received
    /// that have not been handed out. A `subscribe` that has not returned yet, or is called later, returns
    /// [`Closed`](crate::ErrorKind::Closed). Calling it again does nothing.
    ///
    /// It cannot interrupt the system's resolver while that looks up the host name of a broker. Brokers given by address are
    /// never looked up.
    pub fn close(&self) {
        self.closed.close();
    }

    /// Returns whether [`close`](CloseHandle::close) was called.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.closed.is_closed()
    }
}
