//! A connection to a broker: the one owner of a socket, which never blocks by itself.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use log::trace;

use super::clock::Deadline;
use super::wait::{Interest, wait};
use crate::error::{Error, Phase, Result};
use crate::net::addr::BrokerAddr;

/// A greeted connection.
#[derive(Debug)]
pub(crate) struct Connection {
    addr: BrokerAddr,
    stream: Arc<TcpStream>,
}

impl Connection {
    pub(super) fn new(addr: BrokerAddr, stream: Arc<TcpStream>) -> Connection {
        Connection { addr, stream }
    }

    pub(crate) fn addr(&self) -> &BrokerAddr {
        &self.addr
    }

    pub(crate) fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    /// Hands all of `bytes` to the network.
    ///
    /// # Errors
    /// After an error it is certain that the broker does not have the last byte.
    pub(crate) fn send(&self, bytes: &[u8], timeout: std::time::Duration) -> Result<()> {
        trace!("{}: sending {} bytes", self.addr, bytes.len());
        let mut rest = bytes;
        let mut deadline = None;
        while !rest.is_empty() {
            match (&*self.stream).write(rest) {
                Ok(0) => return Err(Error::disconnected(&self.addr, Phase::Send)),
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let deadline = *deadline.get_or_insert_with(|| Deadline::after(timeout));
                    if !wait(&[Interest::Write(self)], deadline).map_err(|e| Error::io(&self.addr, Phase::Send, e))? {
                        return Err(Error::timeout(&self.addr, Phase::Send, timeout));
                    }
                }
                Err(e) => return Err(Error::io(&self.addr, Phase::Send, e)),
            }
        }
        Ok(())
    }

    /// Whether the broker has closed the connection, or sent something nobody asked for, while it was not used.
    pub(crate) fn has_gone_stale(&self) -> bool {
        let mut byte = [0];
        match self.stream.peek(&mut byte) {
            Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
            Ok(_) => true,
        }
    }
}

/// Without blocking.
impl Read for &Connection {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        (&*self.stream).read(room)
    }
}
