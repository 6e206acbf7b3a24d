//! Connections for single requests, kept between them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::{debug, trace};

use super::clock::Deadline;
use super::connection::Connection;
use super::dial::Dial;
use super::wait::{Interest, wait};
use crate::config::Config;
use crate::error::{Error, Phase, Result};
use crate::net::addr::BrokerAddr;
use crate::net::buffer::{Fill, ReadBuf};
use crate::protocol::frame::{FrameHeader, HEADER_LEN, Kind};
use crate::protocol::{DecodeError, DecodeFault};

/// Connections to keep for each broker while nobody uses them, and for all together: a broker may name any number of
/// others.
const KEPT: usize = 4;
const KEPT_IN_ALL: usize = 64;

/// Bytes that most answers fit into.
const ANSWER: usize = 2 << 10;

/// The idle connections of a client.
#[derive(Debug)]
pub(crate) struct Pool {
    config: Arc<Config>,
    idle: Mutex<HashMap<BrokerAddr, Vec<Connection>>>,
}

/// An exchange that failed, and how far it had got.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Whether the broker may have the whole request.
    pub(crate) sent: bool,
    /// Whether the connection had been idle before: then its end says nothing about the broker.
    pub(crate) reused: bool,
    pub(crate) error: Error,
}

impl Pool {
    pub(crate) fn new(config: Arc<Config>) -> Pool {
        Pool { config, idle: Mutex::new(HashMap::new()) }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, HashMap<BrokerAddr, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open connection that was used before, if there is one.
    pub(crate) fn take_idle(&self, addr: &BrokerAddr) -> Option<Connection> {
        loop {
            let connection = self.idle().get_mut(addr)?.pop()?;
            if !connection.has_gone_stale() {
                return Some(connection);
            }
            debug!("{addr}: ended while idle");
        }
    }

    /// An open connection, and whether it was used before.
    fn take(&self, addr: &BrokerAddr, timeout: Duration) -> Result<(Connection, bool)> {
        match self.take_idle(addr) {
            Some(connection) => Ok((connection, true)),
            None => Ok((Dial::open(addr, &self.config, timeout)?, false)),
        }
    }

    /// Makes sure that there is an open connection.
    pub(crate) fn connect(&self, addr: &BrokerAddr, timeout: Duration) -> Result<()> {
        let (connection, _) = self.take(addr, timeout)?;
        self.put(connection);
        Ok(())
    }

    /// Keeps a connection on which nothing is outstanding.
    pub(crate) fn put(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.values().map(Vec::len).sum::<usize>() >= KEPT_IN_ALL {
            idle.clear();
        }
        let kept = idle.entry(connection.addr().clone()).or_default();
        if kept.len() < KEPT {
            kept.push(connection);
        }
    }

    /// Sends a request and waits for its answer: the payload, which begins with the request's id.
    pub(crate) fn exchange(
        &self,
        addr: &BrokerAddr,
        request: &[u8],
        answer: Kind,
        timeout: Duration,
    ) -> std::result::Result<Vec<u8>, Failed> {
        let taken = self.take(addr, self.config.connect_timeout);
        let (connection, reused) = taken.map_err(|error| Failed { sent: false, reused: false, error })?;
        let failed = |sent| move |error| Failed { sent, reused, error };
        connection.send(request, self.config.io_timeout).map_err(failed(false))?;
        let payload = self.receive(&connection, answer, timeout).map_err(failed(true))?;
        self.put(connection);
        Ok(payload)
    }

    fn receive(&self, connection: &Connection, answer: Kind, timeout: Duration) -> Result<Vec<u8>> {
        let deadline = Deadline::after(timeout);
        let mut buf = ReadBuf::new(ANSWER, ());
        loop {
            let header = FrameHeader::decode(buf.data()).map_err(|e| Error::decode(connection.addr(), e))?;
            let Some(header) = header else {
                let missing = HEADER_LEN - buf.data().len();
                receive_some(connection, &mut buf, missing, deadline, timeout)?;
                continue;
            };
            if header.len > self.config.limits.frame {
                let fault =
                    DecodeFault::OverLimit { claimed: header.len.into(), limit: self.config.limits.frame.into() };
                return Err(Error::decode(connection.addr(), DecodeError::new("frame length", fault, 0)));
            }
            let whole = HEADER_LEN + header.len as usize;
            while buf.data().len() < whole {
                let missing = whole - buf.data().len();
                receive_some(connection, &mut buf, missing, deadline, timeout)?;
            }
            trace!("{}: received {whole} bytes", connection.addr());
            if header.kind == answer {
                if let Some(extra) = buf.data().len().checked_sub(whole).filter(|&extra| extra > 0) {
                    let fault = DecodeFault::Spare { extra: extra as u64 };
                    return Err(Error::decode(connection.addr(), DecodeError::new("answer", fault, header.len.into())));
                }
                return Ok(buf.data()[HEADER_LEN..].to_vec());
            }
            if header.kind != Kind::Ping {
                let fault = DecodeFault::Unexpected { found: header.kind as u64, expected: answer as u64 };
                return Err(Error::decode(connection.addr(), DecodeError::new("message id", fault, 0)));
            }
            buf.consume(whole);
            // Pings without end are no answer either.
            if deadline.has_passed() {
                return Err(Error::timeout(connection.addr(), Phase::Wait, timeout));
            }
        }
    }
}

fn receive_some(
    connection: &Connection,
    buf: &mut ReadBuf<()>,
    missing: usize,
    deadline: Deadline,
    timeout: Duration,
) -> Result<()> {
    let phase = if buf.data().is_empty() { Phase::Wait } else { Phase::Read };
    // An answer takes time: to read before it was waited for would be a call in vain.
    let mut is_there = phase == Phase::Read;
    loop {
        if !is_there
            && !wait(&[Interest::Read(connection)], deadline).map_err(|e| Error::io(connection.addr(), phase, e))?
        {
            return Err(Error::timeout(connection.addr(), phase, timeout));
        }
        match buf.fill(connection, missing).map_err(|e| Error::io(connection.addr(), phase, e))? {
            Fill::Bytes(_) => return Ok(()),
            Fill::End => return Err(Error::disconnected(connection.addr(), phase)),
            Fill::Later => is_there = false,
        }
    }
}
