//! Sockets: addresses, dialing, reading, waiting. The only part that touches the network or the clock.

mod addr;
mod backoff;
mod buffer;
mod clock;
mod cluster;
mod connection;
mod dial;
mod network;
mod pool;
mod retry;
mod wait;

pub(crate) use addr::{BrokerAddr, parse_brokers};
pub(crate) use backoff::Backoff;
pub(crate) use buffer::{Block, Fill, ReadBuf};
pub(crate) use clock::{Deadline, Stopwatch, sleep};
pub(crate) use cluster::Cluster;
pub(crate) use connection::Connection;
pub(crate) use dial::Dial;
#[allow(unused_imports)]
pub(crate) use network::{Closed, Handle, Interest as NewInterest, Network, Socket, SocketOptions, Time, Waker};
pub(crate) use pool::Pool;
#[allow(unused_imports)]
pub(crate) use retry::{RetryPolicy, RetryState};
pub(crate) use wait::{Interest, wait};
