//! One connection to a broker: down, dialing, up. Fetching, publishing and single requests all use it.
//!
//! ```text
//!            open()              greeted
//!   Down ─────────────> Dialing ─────────> Up ──┐ queue, write, read
//!    ^                     │               │ ^──┘
//!    ├─────────────────────┴───────────────┤
//!    │     an error, close(), reset()      │
//!    └── open() finds it ended while idle: dial again, quietly
//! ```
//!
//! While too many connections to the broker are being opened, another one stays down, and is dialed when it is its turn. That may
//! take as long as connecting: a broker that never greets must not keep it waiting outside any budget.
//!
//! # Time
//! A request is due on the connection's own clock, which stands still while an answer is being received. The answer has its own
//! deadline, which moves on with every [`PROGRESS`] bytes; so has sending. Time between two calls counts, unless data was waiting
//! when the caller came back. Data that ends a wait shorter than the absence before it may have been waiting, too:
//!
//! ```text
//!   look ─── elsewhere ─── look, with bytes        look ─── elsewhere ─── wait ─── look, with bytes
//!     │<───── excused ─────>│                        │<───── excused ─────>│<─ counts ─>│   after a shorter wait
//!                                                    │<───────────── counts ───────────>│   after any other
//! ```
//!
//! # What there is to read
//! A wait tells which connections may have something. Each of those is read until it has no more, or an answer is over. Then it is
//! the turn of the others, until the next wait. So the cost of a wake-up depends on what it brings, not on how many connections
//! are silent.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{array, mem};

use log::{debug, trace};

use super::addr::BrokerAddr;
use super::dial::Dial;
use super::network::{Interest, Socket, Time, read_or_write};
use super::settings::{ChannelSettings, GREETED_COUNTS_FOR, OPENING_PAUSE, Opening};
use crate::error::{Error, Phase, Result};
use crate::protocol::frame::{HEADER_LEN, PING};

/// How many bytes in the awaited direction move a deadline on: a slow but steady transfer gets through, a trickle does not.
const PROGRESS: usize = 16 << 10;

/// At most this many pieces are written at a time: few enough to be listed without allocating.
const MAX_PIECES: usize = 16;

/// Bytes of a request, without a copy: a caller that keeps them for another attempt need not keep them twice.
pub(crate) type Piece = (Arc<Vec<u8>>, Range<usize>);
type Pieces<'a> = &'a mut dyn Iterator<Item = Piece>;

/// This many connections in a row that ended before they were used count as trouble.
const MAX_ENDED_UNUSED: u32 = 3;

/// No broker sends this many pings to an idle connection.
const MAX_PINGS: u32 = 1_000;

/// Whether a call may look up a host name, for which there is no time limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookUp {
    Allowed,
    Never,
}

/// A connection to one broker.
pub(crate) struct Channel {
    broker: BrokerAddr,
    settings: Arc<ChannelSettings>,
    state: State,
    process: u32,
    /// Connections in a row that had ended before they were used.
    ended_unused: u32,
    /// Set when that happens, for the caller to reset.
    pub(crate) redialed: bool,
    /// The address that worked last: tried first the next time.
    last_good: Option<SocketAddr>,
}

enum State {
    /// Not to be dialed before `until`. If it waits for its turn, that must come by `turn_by`.
    Down {
        until: Time,
        turn_by: Time,
    },
    Dialing(Dial, Arc<Opening>),
    Up(Box<Up>),
}

const DOWN: State = State::Down { until: Time::ZERO, turn_by: Time::NEVER };

/// An open connection.
struct Up {
    socket: Box<dyn Socket>,
    /// Held while the broker may not have read a byte from this connection.
    opening: Option<Arc<Opening>>,
    since: Time,
    read_look: LastLook,
    write_look: LastLook,
    /// Whether there may be bytes to read, or the end of the stream.
    readable: bool,
    /// What must still be sent, and how many bytes were queued and sent so far.
    out: VecDeque<Piece>,
    queued: u64,
    sent: u64,
    /// Requests that are not completely sent.
    unsent: VecDeque<Unsent>,
    send: Deadline,
    /// Requests that were sent and not answered, in the order in which they are due, which is usually that of their answers, too.
    waiting: VecDeque<Waiting>,
    /// The answer that is being received.
    receive: Option<Deadline>,
    /// By how much the connection's clock lags the network's.
    stood_still: Duration,
    /// When the last byte of an answer came.
    last_heard: Option<Time>,
}

/// A request that is not completely sent: where it ends among the bytes queued, and how long its answer may take.
struct Unsent {
    end: u64,
    id: u32,
    allowance: Duration,
}

/// A request that waits for its answer, when the answer is due on the connection's clock, and how long it was allowed.
struct Waiting {
    id: u32,
    due: Duration,
    allowance: Duration,
}

/// A deadline that moves on with progress.
#[derive(Clone, Copy)]
struct Deadline {
    began: Time,
    due: Time,
    bytes: usize,
}

impl Deadline {
    fn new(now: Time, allowance: Duration) -> Deadline {
        Deadline { began: now, due: now.after(allowance), bytes: 0 }
    }

    fn progress(&mut self, now: Time, bytes: usize, allowance: Duration) {
        self.bytes += bytes;
        // Bytes that come after the deadline do not move it.
        if self.bytes >= PROGRESS && now < self.due {
            self.due = now.after(allowance);
            self.bytes = 0;
        }
    }
}

/// When a caller last looked for bytes to read, or for room to write. Time that it then spends elsewhere may be excused.
struct LastLook(Time);

impl LastLook {
    /// Notes another look. Returns how long the caller was away.
    fn again(&mut self, now: Time) -> Duration {
        now.since(mem::replace(&mut self.0, now))
    }

    /// Notes that a wait has ended, which is not the caller's own time. If the absence before it was longer, that stays.
    fn on_waited(&mut self, now: Time, began: Time) {
        let waited = now.since(began);
        self.0 = if waited < began.since(self.0) { self.0.after(waited) } else { now };
    }
}

impl Channel {
    pub(crate) fn new(broker: BrokerAddr, settings: Arc<ChannelSettings>) -> Channel {
        let process = settings.process();
        Channel { broker, settings, state: DOWN, process, ended_unused: 0, redialed: false, last_good: None }
    }

    pub(crate) fn broker(&self) -> &BrokerAddr {
        &self.broker
    }

    /// Returns the address that it is connected to, if known.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.last_good.or_else(|| self.broker.socket_addr())
    }

    /// Brings the connection up as far as possible without blocking. Returns whether it is up. An idle connection is checked first:
    /// if it has ended, another one is dialed silently.
    ///
    /// With [`LookUp::Never`] a name stands for the addresses that were found last.
    ///
    /// # Errors
    /// The broker cannot be reached, its name was never looked up and may not be now, or connections end before they can be used,
    /// again and again.
    pub(crate) fn open(&mut self, now: Time, look_up: LookUp) -> Result<bool> {
        self.leave_other_process();
        // Each round changes the state or ends the call.
        loop {
            match &mut self.state {
                State::Up(up) if up.is_idle() && up.has_ended(&self.broker) => {
                    debug!("{}: ended before it was used again", self.broker);
                    self.close();
                    self.ended_unused += 1;
                    self.redialed = true;
                    if self.ended_unused >= MAX_ENDED_UNUSED {
                        self.ended_unused = 0;
                        return Err(Error::disconnected(&self.broker, Phase::Send));
                    }
                }
                State::Up(_) => return Ok(true),
                State::Down { until, .. } if now < *until => return Ok(false),
                State::Down { turn_by, .. } => {
                    let timeout = self.settings.config.connect_timeout;
                    let turn_by = now.after(timeout).min(*turn_by);
                    let Some(opening) = self.settings.begin_opening(now, &self.broker) else {
                        if now < turn_by {
                            self.state = State::Down { until: now.after(OPENING_PAUSE), turn_by };
                            return Ok(false);
                        }
                        self.close();
                        return Err(Error::timeout(&self.broker, Phase::Connect, timeout));
                    };
                    let addresses = self.addresses(look_up)?;
                    // A look-up has taken time.
                    let now = self.settings.net.now().max(now);
                    self.state = State::Dialing(Dial::new(addresses, now, &self.settings), opening);
                }
                State::Dialing(dial, opening) => match dial.step(now, &self.broker, &self.settings) {
                    Ok(None) => return Ok(false),
                    Ok(Some((socket, address))) => {
                        self.last_good = Some(address);
                        opening.store(now.after(GREETED_COUNTS_FOR).as_nanos(), Ordering::Relaxed);
                        self.state = State::Up(Box::new(Up::new(socket, opening.clone(), now)));
                    }
                    Err(e) => {
                        self.close();
                        return Err(e);
                    }
                },
            }
        }
    }

    /// Returns the broker's addresses, beginning with the one that worked last.
    pub(crate) fn addresses(&self, look_up: LookUp) -> Result<Vec<SocketAddr>> {
        if let Some(address) = self.broker.socket_addr() {
            return Ok(vec![address]);
        }
        let found = match look_up {
            LookUp::Allowed => self.settings.look_up(&self.broker),
            // Others may be known: a caller that only polls must make progress, too.
            LookUp::Never => self.settings.known(&self.broker),
        };
        let mut found = found.map_err(|e| Error::connect(&self.broker, e))?;
        let good = self.last_good;
        if let Some(index) = good.and_then(|good| found.iter().position(|address| *address == good)) {
            found[..=index].rotate_right(1);
        }
        Ok(found)
    }

    /// Abandons a connection of the parent process, in a forked child, without shutting it down.
    fn leave_other_process(&mut self) {
        let process = self.settings.process();
        if process != self.process {
            self.process = process;
            self.state = DOWN;
        }
    }

    /// Queues a request on a connection that is up. It is sent as the network accepts it. Its answer may take `allowance` from then
    /// on. A later request has a higher id.
    pub(crate) fn queue(&mut self, now: Time, id: u32, allowance: Duration, frame: Vec<u8>) {
        let all = 0..frame.len();
        self.queue_pieces(now, id, allowance, &mut [(Arc::new(frame), all)].into_iter());
    }

    /// Queues a request in pieces, as [`queue`](Channel::queue) does.
    pub(crate) fn queue_pieces(&mut self, now: Time, id: u32, allowance: Duration, pieces: Pieces<'_>) {
        let State::Up(up) = &mut self.state else { return };
        if up.is_idle() {
            // Nobody had a reason to look before.
            up.read_look = LastLook(now);
            up.readable = false;
        }
        if up.out.is_empty() {
            up.send = Deadline::new(now, self.settings.config.io_timeout);
        }
        let before = up.queued;
        up.out.extend(pieces.inspect(|(_, range)| up.queued += range.len() as u64));
        trace!("{}: request {id}, {} bytes", self.broker, up.queued - before);
        up.unsent.push_back(Unsent { end: up.queued, id, allowance });
    }

    /// Returns how many bytes of requests the network has not accepted yet.
    pub(crate) fn unsent(&self) -> usize {
        if let State::Up(up) = &self.state { (up.queued - up.sent) as usize } else { 0 }
    }

    /// Sends as much as the network accepts now. Returns whether nothing is left to send.
    ///
    /// # Errors
    /// The connection has failed, or has not accepted [`PROGRESS`] bytes within the time-out.
    pub(crate) fn write(&mut self, now: Time) -> Result<bool> {
        self.leave_other_process();
        let State::Up(up) = &mut self.state else { return Err(Error::disconnected(&self.broker, Phase::Send)) };
        let io_timeout = self.settings.config.io_timeout;
        let away = up.write_look.again(now);
        while !up.out.is_empty() {
            let mut pieces = up.out.iter().map(|(bytes, range)| IoSlice::new(&bytes[range.clone()]));
            let first: [_; MAX_PIECES] = array::from_fn(|_| pieces.next().unwrap_or(IoSlice::new(&[])));
            let first = &first[..up.out.len().min(MAX_PIECES)];
            match read_or_write(&self.broker, Phase::Send, &mut || up.socket.write_vectored(first))? {
                0 if now < up.send.due => return Ok(false),
                0 => return Err(Error::timeout(&self.broker, Phase::Send, io_timeout)),
                n => up.on_sent(now, n, away, io_timeout),
            }
        }
        Ok(true)
    }

    /// Returns whether a read may bring something, or report that something is overdue.
    pub(crate) fn is_readable(&self, now: Time) -> bool {
        self.up().is_none_or(|up| up.readable || now >= up.due())
    }

    /// Reads what has arrived into `room`, which is not empty. Returns how many bytes; 0 if there are none now.
    ///
    /// # Errors
    /// The connection has failed or ended; or there are no bytes, and something has taken too long. That is checked last, because
    /// bytes may have been waiting for a caller that was busy elsewhere.
    pub(crate) fn read(&mut self, now: Time, room: &mut [u8]) -> Result<usize> {
        self.leave_other_process();
        let phase = self.phase();
        let State::Up(up) = &mut self.state else { return Err(Error::disconnected(&self.broker, phase)) };
        let io_timeout = self.settings.config.io_timeout;
        // It may have ended long before this look, so it does not count as having been up until now.
        let n = read_or_write(&self.broker, phase, &mut || up.socket.read(room))?;
        let away = up.read_look.again(now);
        up.readable = n == room.len();
        if n > 0 {
            trace!("{}: {n} bytes", self.broker);
            self.ended_unused = 0;
            up.opening = None;
            up.on_received(now, n, away, io_timeout);
        }
        match up.answer_due(io_timeout) {
            Some((due, phase, allowance)) if n == 0 && now >= due => {
                Err(Error::timeout(&self.broker, phase, allowance))
            }
            _ => Ok(n),
        }
    }

    /// Notes that an answer has begun to arrive, unless one had already. A ping is none: a peer that sends nothing else must not
    /// make the clock stand still.
    pub(crate) fn on_answer_begin(&mut self, now: Time) {
        if let State::Up(up) = &mut self.state {
            up.receive.get_or_insert_with(|| Deadline::new(now, self.settings.config.io_timeout));
        }
    }

    /// Notes that the answer to this request is complete.
    pub(crate) fn on_answer_end(&mut self, now: Time, id: u32) {
        if let State::Up(up) = &mut self.state {
            up.readable = false;
            if let Some(receive) = up.receive.take() {
                up.stood_still += now.since(receive.began);
            }
            if let Some(index) = up.waiting.iter().position(|waiting| waiting.id == id) {
                up.waiting.remove(index);
            }
        }
    }

    /// Returns whether the last byte of this request, which was queued on this connection, was handed to the system: then the broker
    /// may have the request.
    pub(crate) fn handed_over(&self, id: u32) -> bool {
        let is_before = |first: &Unsent| id.wrapping_sub(first.id) > u32::MAX / 2;
        self.up().is_some_and(|up| up.unsent.front().is_none_or(is_before))
    }

    fn up(&self) -> Option<&Up> {
        if let State::Up(up) = &self.state { Some(up) } else { None }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up().is_some()
    }

    /// Returns whether nothing is queued or awaited.
    pub(crate) fn is_idle(&self) -> bool {
        self.up().is_none_or(Up::is_idle)
    }

    /// Returns whether no byte of an answer has come on this connection yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.last_heard().is_none()
    }

    /// Returns when the last byte of an answer came on this connection.
    pub(crate) fn last_heard(&self) -> Option<Time> {
        self.up()?.last_heard
    }

    /// Returns when a caller last looked and it had not ended.
    pub(crate) fn last_look(&self) -> Time {
        self.up().map_or(Time::ZERO, |up| up.read_look.0)
    }

    /// Returns how long the connection is known to have been up with nothing overdue.
    pub(crate) fn healthy_for(&self) -> Duration {
        self.up().map_or(Duration::ZERO, |up| up.read_look.0.since(up.since))
    }

    /// Returns what the connection is being used for.
    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::Down { .. } => Phase::Connect,
            State::Dialing(dial, _) => dial.phase(),
            State::Up(up) if up.receive.is_some() => Phase::Read,
            State::Up(up) if up.waiting.is_empty() && !up.unsent.is_empty() => Phase::Send,
            State::Up(_) => Phase::Wait,
        }
    }

    /// Not to be dialed before this moment.
    pub(crate) fn rest_until(&mut self, until: Time) {
        self.state = State::Down { until, turn_by: Time::NEVER };
    }

    /// Returns when something is due even if nothing arrives; for a channel that is down, when it may be dialed.
    pub(crate) fn due(&self) -> Time {
        match &self.state {
            State::Down { until, .. } => *until,
            State::Dialing(dial, _) => dial.due(),
            State::Up(up) => up.due(),
        }
    }

    /// Returns what to wait for on its sockets.
    pub(crate) fn interests(&mut self) -> impl Iterator<Item = Interest<'_>> {
        let (dial, up) = match &mut self.state {
            State::Down { .. } => (None, None),
            State::Dialing(dial, _) => (Some(dial.interests()), None),
            State::Up(up) => (None, (!up.is_idle()).then(|| up.interest())),
        };
        dial.into_iter().flatten().chain(up)
    }

    /// Notes that a wait which began then has ended.
    pub(crate) fn on_waited(&mut self, now: Time, began: Time) {
        let State::Up(up) = &mut self.state else { return };
        up.write_look.on_waited(now, began);
        // Without bytes, nothing was waiting for the caller.
        if up.readable {
            up.read_look.on_waited(now, began);
        } else {
            up.read_look = LastLook(now);
        }
    }

    /// Gives the connection up with a reset: the network drops what was sent and not delivered, and the broker drops what it has not
    /// read.
    pub(crate) fn reset(&mut self) {
        self.leave_other_process();
        if let State::Up(up) = mem::replace(&mut self.state, DOWN) {
            up.socket.abort();
        }
    }

    /// Closes the connection in order.
    pub(crate) fn close(&mut self) {
        self.state = DOWN;
    }
}

impl Up {
    fn new(socket: Box<dyn Socket>, opening: Arc<Opening>, now: Time) -> Up {
        Up {
            socket,
            opening: Some(opening),
            since: now,
            read_look: LastLook(now),
            write_look: LastLook(now),
            readable: false,
            out: VecDeque::new(),
            queued: 0,
            sent: 0,
            unsent: VecDeque::new(),
            send: Deadline::new(now, Duration::ZERO),
            waiting: VecDeque::new(),
            receive: None,
            stood_still: Duration::ZERO,
            last_heard: None,
        }
    }

    fn is_idle(&self) -> bool {
        self.unsent.is_empty() && self.waiting.is_empty()
    }

    /// Returns whether an idle connection has ended, or bytes have come that nobody asked for. It passes over pings.
    fn has_ended(&self, broker: &BrokerAddr) -> bool {
        let mut bytes = PING;
        for _ in 0..MAX_PINGS {
            match read_or_write(broker, Phase::Send, &mut || self.socket.read(&mut bytes)) {
                Ok(0) => return false,
                Ok(HEADER_LEN) if bytes == PING => {}
                _ => return true,
            }
        }
        true
    }

    fn interest(&mut self) -> Interest<'_> {
        Interest { socket: &*self.socket, read: true, write: !self.out.is_empty(), ready: &mut self.readable }
    }

    /// Returns the connection's clock: the time since it came up, less the time spent receiving.
    fn clock(&self, now: Time) -> Duration {
        let until = self.receive.as_ref().map_or(now, |receive| receive.began);
        until.since(self.since).saturating_sub(self.stood_still)
    }

    /// Notes that `n` bytes were sent, after the caller had been away.
    fn on_sent(&mut self, now: Time, n: usize, away: Duration, io_timeout: Duration) {
        self.sent += n as u64;
        let mut left = n;
        while let Some((_, range)) = self.out.front_mut() {
            let some = left.min(range.len());
            range.start += some;
            left -= some;
            if range.start < range.end {
                break;
            }
            self.out.pop_front();
        }
        // The network may have had room for these bytes while the caller was busy elsewhere.
        self.send.due = self.send.due.max(now.after(io_timeout).min(self.send.due.after(away)));
        self.send.progress(now, n, io_timeout);
        let clock = self.clock(now);
        while let Some(&Unsent { end, id, allowance }) = self.unsent.front() {
            if end > self.sent {
                break;
            }
            self.unsent.pop_front();
            let due = clock.saturating_add(allowance);
            let index = self.waiting.partition_point(|waiting| waiting.due <= due);
            self.waiting.insert(index, Waiting { id, due, allowance });
        }
    }

    /// Notes that `n` bytes were received, after the caller had been away.
    fn on_received(&mut self, now: Time, n: usize, away: Duration, io_timeout: Duration) {
        self.last_heard = Some(now);
        // The bytes were waiting while the caller was away.
        match &mut self.receive {
            Some(receive) => {
                receive.due = receive.due.after(away);
                receive.progress(now, n, io_timeout);
            }
            None => self.stood_still += away,
        }
    }

    /// Returns when the next answer is due, complete or up to the next deadline, in which phase, and how long it was allowed.
    fn answer_due(&self, io_timeout: Duration) -> Option<(Time, Phase, Duration)> {
        if let Some(receive) = &self.receive {
            return Some((receive.due, Phase::Read, io_timeout));
        }
        let Waiting { due, allowance, .. } = self.waiting.front()?;
        Some((self.since.after(self.stood_still).after(*due), Phase::Wait, *allowance))
    }

    fn due(&self) -> Time {
        let answer = self.answer_due(Duration::ZERO).map_or(Time::NEVER, |(due, ..)| due);
        if self.out.is_empty() { answer } else { answer.min(self.send.due) }
    }
}

#[cfg(test)]
pub(super) mod tests;
