//! What subscriptions and producers still run on, until they run on channels.

mod backoff;
mod clock;
mod connection;
mod dial;
mod pool;
mod wait;

pub(crate) use backoff::Backoff;
pub(crate) use clock::{Deadline, Stopwatch, sleep};
pub(crate) use connection::Connection;
pub(crate) use dial::Dial;
pub(crate) use pool::Pool;
pub(crate) use wait::{Interest, wait};
