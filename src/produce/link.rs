//! A producer's connection to one broker, with several requests on their way.

use std::collections::VecDeque;
use std::time::Duration;

use log::{debug, trace};

use crate::error::{Error, Phase, Result};
use crate::net::old::{Connection, Deadline, Dial, Interest};
use crate::net::{BrokerAddr, Fill, ReadBuf};
use crate::protocol::frame::{self, FrameHeader, HEADER_LEN, Kind};
use crate::protocol::produce::{ProduceCode, ProduceResponse};
use crate::protocol::{DecodeError, DecodeFault};
use crate::session::Session as Shared;

/// Bytes that several answers fit into.
const ANSWERS: usize = 2 << 10;

/// A broker that leads partitions which are published to.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) addr: BrokerAddr,
    line: Line,
    /// Whether something waits to be sent here.
    wanted: bool,
    buf: ReadBuf<()>,
    in_flight: VecDeque<InFlight>,
}

#[derive(Debug)]
enum Line {
    Down,
    Dialing(Dial),
    /// Whether it was used before.
    Up {
        connection: Connection,
        reused: bool,
    },
}

/// A request on its way: whose bundles it holds, in the order of its entries.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) request_id: u32,
    pub(super) lanes: Vec<usize>,
    /// Partitions of each topic.
    pub(super) shape: Vec<usize>,
    pub(super) deadline: Deadline,
}

impl Link {
    pub(super) fn new(addr: BrokerAddr) -> Link {
        Link { addr, line: Line::Down, wanted: true, buf: ReadBuf::new(ANSWERS, ()), in_flight: VecDeque::new() }
    }

    /// How many requests are on their way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Notes whether something waits to be sent here; a connection that nobody waits for is not opened to its end.
    pub(super) fn set_wanted(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    pub(super) fn drop_unwanted(&mut self) {
        if !self.wanted && matches!(self.line, Line::Dialing(_)) {
            self.line = Line::Down;
        }
    }

    /// Brings a connection up as far as that goes without blocking; whether it is up.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub(super) fn bring_up(&mut self, shared: &Shared) -> Result<bool> {
        self.wanted = true;
        if let Line::Up { connection, .. } = &self.line {
            // With requests on their way, whatever ended it comes out when their answers are read.
            if !self.in_flight.is_empty() || !connection.has_gone_stale() {
                return Ok(true);
            }
            debug!("{}: ended while idle, dialing anew", self.addr);
            self.line = Line::Down;
        }
        if matches!(self.line, Line::Down) {
            self.buf.clear();
            self.line = match shared.old_pool.take_idle(&self.addr) {
                Some(connection) => Line::Up { connection, reused: true },
                None => Line::Dialing(Dial::start(&self.addr, &shared.config, shared.config.connect_timeout)?),
            };
        }
        if let Line::Dialing(dial) = &mut self.line {
            let Some(connection) = dial.advance()? else { return Ok(false) };
            self.line = Line::Up { connection, reused: false };
        }
        Ok(true)
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The broker certainly does not have all of it. Also says whether the connection was used before.
    pub(super) fn send(
        &mut self,
        frame: &[u8],
        request: InFlight,
        timeout: Duration,
    ) -> std::result::Result<(), (Error, bool)> {
        let Line::Up { connection, reused } = &mut self.line else {
            return Err((Error::disconnected(&self.addr, Phase::Send), false));
        };
        let was_used = std::mem::replace(reused, true);
        connection.send(frame, timeout).map_err(|e| (e, was_used))?;
        self.in_flight.push_back(request);
        Ok(())
    }

    /// The next request whose answer has arrived; its codes are appended to `codes`.
    ///
    /// # Errors
    /// The connection ended or the answer makes no sense. It is of no further use then.
    pub(super) fn poll(&mut self, limit: u32, codes: &mut Vec<ProduceCode>) -> Result<Option<InFlight>> {
        while !self.in_flight.is_empty() {
            let need = match FrameHeader::decode(self.buf.data()).map_err(|e| Error::decode(&self.addr, e))? {
                None => HEADER_LEN - self.buf.data().len(),
                Some(header) if header.len > limit => {
                    let fault = DecodeFault::OverLimit { claimed: header.len.into(), limit: limit.into() };
                    return Err(Error::decode(&self.addr, DecodeError::new("frame length", fault, 0)));
                }
                Some(header) => {
                    let whole = HEADER_LEN + header.len as usize;
                    match whole.checked_sub(self.buf.data().len()) {
                        None | Some(0) => {
                            let request = self.answer(header.kind, whole, codes)?;
                            self.buf.consume(whole);
                            // Pings without end are no answer.
                            if request.is_some() || self.deadline().has_passed() {
                                return Ok(request);
                            }
                            continue;
                        }
                        Some(missing) => missing,
                    }
                }
            };
            let phase = if self.buf.data().is_empty() { Phase::Wait } else { Phase::Read };
            let Line::Up { connection, .. } = &self.line else { return Err(Error::disconnected(&self.addr, phase)) };
            match self.buf.fill(connection, need).map_err(|e| Error::io(&self.addr, phase, e))? {
                Fill::Bytes(_) => {}
                Fill::Later => return Ok(None),
                Fill::End => return Err(Error::disconnected(&self.addr, phase)),
            }
        }
        Ok(None)
    }

    /// The request that the answer in the buffer is for; none if it is a ping.
    fn answer(&mut self, kind: Kind, whole: usize, codes: &mut Vec<ProduceCode>) -> Result<Option<InFlight>> {
        let payload = &self.buf.data()[HEADER_LEN..whole];
        match kind {
            Kind::Ping => return Ok(None),
            Kind::Produce => {}
            other => {
                let fault = DecodeFault::Unexpected { found: other as u64, expected: Kind::Produce as u64 };
                return Err(Error::decode(&self.addr, DecodeError::new("message id", fault, 0)));
            }
        }
        let request_id = frame::request_id(payload).map_err(|e| Error::decode(&self.addr, e))?;
        // Not by order: a cluster answers once replicas have confirmed.
        let Some(index) = self.in_flight.iter().position(|request| request.request_id == request_id) else {
            let fault = DecodeFault::Undefined { value: request_id.into() };
            return Err(Error::decode(&self.addr, DecodeError::new("request id", fault, 0)));
        };
        let shape = self.in_flight[index].shape.iter().copied();
        ProduceResponse::decode_into(payload, shape, codes).map_err(|e| Error::decode(&self.addr, e))?;
        trace!("{}: answer to {request_id}", self.addr);
        Ok(self.in_flight.remove(index))
    }

    /// Drops the connection; what was on its way.
    pub(super) fn drop_connection(&mut self) -> VecDeque<InFlight> {
        self.line = Line::Down;
        self.buf.clear();
        std::mem::take(&mut self.in_flight)
    }

    /// What the broker is waited for, if anything.
    pub(super) fn interest(&self) -> Option<Interest<'_>> {
        match &self.line {
            Line::Up { connection, .. } if !self.in_flight.is_empty() => Some(Interest::Read(connection)),
            Line::Dialing(dial) => Some(Interest::Dial(dial)),
            _ => None,
        }
    }

    /// Whether an answer should have been there by now.
    pub(super) fn is_overdue(&self) -> bool {
        self.in_flight.front().is_some_and(|request| request.deadline.has_passed())
    }

    /// When the connection, or the first answer, has to be there.
    pub(super) fn deadline(&self) -> Deadline {
        match &self.line {
            Line::Dialing(dial) => dial.deadline(),
            _ => self.in_flight.front().map_or(Deadline::NEVER, |request| request.deadline),
        }
    }
}
