//! Opening a connection: addresses tried side by side, each until the broker's greeting has come.
//!
//! ```text
//!   address ──connect()──> connecting ──open: empty ping──> greeting ──ping──> up
//!      ^                        │                               │
//!      └── the next one begins when this one fails, or after STAGGER beside it
//! ```

use std::net::SocketAddr;
use std::time::Duration;
use std::{io, mem, vec};

use log::debug;

use super::addr::BrokerAddr;
use super::network::{Interest, Socket, Time, read_or_write};
use super::settings::ChannelSettings;
use crate::error::{Error, ErrorKind, Phase, Result, is_out_of_resources};
use crate::protocol::frame::{HEADER_LEN, PING};

/// How long one address may keep the next one waiting: a dead address must not cost every connection a time-out (RFC 8305
/// says 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 32;

/// A connection that is being opened.
pub(super) struct Dial {
    later: vec::IntoIter<SocketAddr>,
    attempts: Vec<Attempt>,
    /// When to try the next address beside those under way.
    next: Time,
    due: Time,
    failure: Option<Error>,
}

/// An open connection, and where it leads.
type Opened = (Box<dyn Socket>, SocketAddr);

struct Attempt {
    to: SocketAddr,
    socket: Box<dyn Socket>,
    /// What is still to be sent of the ping that comes first.
    unsent: &'static [u8],
    /// The greeting, and how many of its bytes have arrived.
    greeting: [u8; HEADER_LEN],
    received: usize,
    /// Whether it may be possible to continue.
    ready: bool,
}

impl Dial {
    /// Begins to try these addresses, all within the time that the settings allow.
    pub(super) fn new(mut addresses: Vec<SocketAddr>, now: Time, settings: &ChannelSettings) -> Dial {
        addresses.truncate(MAX_ADDRESSES);
        let later = addresses.into_iter();
        Dial { later, attempts: Vec::new(), next: now, due: now.after(settings.config.connect_timeout), failure: None }
    }

    /// Continues as far as possible without blocking. Returns the connection once the broker has greeted.
    ///
    /// # Errors
    /// No broker greets in time at any of the addresses, or this machine lacks descriptors or memory.
    pub(super) fn step(
        &mut self,
        now: Time,
        broker: &BrokerAddr,
        settings: &ChannelSettings,
    ) -> Result<Option<Opened>> {
        let is_due = now >= self.due();
        let mut index = 0;
        while let Some(attempt) = self.attempts.get_mut(index) {
            // When time is over, something may have come that no wait has reported: the caller may have been busy elsewhere.
            let may_continue = mem::take(&mut attempt.ready) || is_due;
            match if may_continue { attempt.step(broker) } else { Ok(false) } {
                Ok(false) => index += 1,
                Ok(true) => {
                    let attempt = self.attempts.swap_remove(index);
                    debug!("{broker}: connected to {}", attempt.to);
                    return Ok(Some((attempt.socket, attempt.to)));
                }
                Err(e) => {
                    debug!("{broker}: {}: {e:#}", attempt.to);
                    self.attempts.remove(index);
                    self.failure = Some(e);
                    self.next = now;
                }
            }
        }
        if now >= self.due {
            return Err(Error::timeout(broker, self.phase(), settings.config.connect_timeout));
        }
        self.begin(now, broker, settings)?;
        if self.attempts.is_empty() {
            let nowhere = || Error::connect(broker, io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            return Err(self.failure.take().unwrap_or_else(nowhere));
        }
        Ok(None)
    }

    /// Begins with the next address, if it is its turn.
    fn begin(&mut self, now: Time, broker: &BrokerAddr, settings: &ChannelSettings) -> Result<()> {
        while now >= self.next || self.attempts.is_empty() {
            let Some(to) = self.later.next() else { return Ok(()) };
            match settings.net.connect(to, &settings.config) {
                Ok(socket) => {
                    let greeting = Default::default();
                    self.attempts.push(Attempt { to, socket, unsent: &PING, greeting, received: 0, ready: true });
                    self.next = now.after(STAGGER);
                }
                // Other addresses would fare no better.
                Err(e) if is_out_of_resources(&e) => return Err(Error::connect(broker, e)),
                Err(e) => {
                    debug!("{broker}: {to}: {e}");
                    self.failure = Some(Error::connect(broker, e));
                }
            }
        }
        Ok(())
    }

    pub(super) fn phase(&self) -> Phase {
        let greeting = self.attempts.iter().any(|attempt| attempt.unsent.is_empty());
        if greeting { Phase::Greet } else { Phase::Connect }
    }

    /// Returns when [`step`](Dial::step) is due even if nothing has come.
    pub(super) fn due(&self) -> Time {
        if self.later.len() == 0 { self.due } else { self.due.min(self.next) }
    }

    pub(super) fn interests(&mut self) -> impl Iterator<Item = Interest<'_>> {
        self.attempts.iter_mut().map(|Attempt { socket, unsent, ready, .. }| {
            let write = !unsent.is_empty();
            Interest { socket: &**socket, read: !write, write, ready }
        })
    }
}

impl Attempt {
    /// Continues as far as possible without blocking. Returns whether the broker has greeted.
    fn step(&mut self, broker: &BrokerAddr) -> Result<bool> {
        while !self.unsent.is_empty() {
            if !self.socket.finish_connect().map_err(|e| Error::connect(broker, e))? {
                return Ok(false);
            }
            // A broker hangs up after 16 s or sooner on a client that has never sent a byte; it ignores pings.
            match read_or_write(broker, Phase::Greet, &mut || self.socket.write(self.unsent))? {
                0 => return Ok(false),
                n => self.unsent = self.unsent.get(n..).unwrap_or_default(),
            }
        }
        while self.received < HEADER_LEN {
            let room = self.greeting.get_mut(self.received..).unwrap_or_default();
            match read_or_write(broker, Phase::Greet, &mut || self.socket.read(room))? {
                0 => return Ok(false),
                n => self.received += n,
            }
        }
        // A broker greets with an empty ping; anything else is another service.
        if self.greeting == PING {
            return Ok(true);
        }
        let other = format!("it greets with \"{}\", not with a ping", self.greeting.escape_ascii());
        Err(Error::new(ErrorKind::NotTank).at(broker).because(io::Error::new(io::ErrorKind::InvalidData, other)))
    }
}
