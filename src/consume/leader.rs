//! One broker of a subscription: its connection, what was asked of it, and what it is sending.

use std::sync::Arc;
use std::time::Duration;

use log::{debug, trace, warn};

use super::close::CloseHandle;
use super::decoded::JOINED;
use super::tracks::Outcome;
use crate::config::Config;
use crate::error::{Error, Phase, Result};
use crate::message::Sources;
use crate::net::old::{Backoff, Connection, Deadline, Dial, Interest, Stopwatch};
use crate::net::{BrokerAddr, Fill, ReadBuf};
use crate::protocol::fetch::{FetchRequest, WAIT_SLACK_MS, adjusted_wait_ms};
use crate::protocol::stream::{Bundle, Event, FetchDecoder, Step};

/// Bytes of the read buffer at rest: many bundles of the usual sizes, since the last one has to be moved to the front if
/// only part of it has come, and small enough for a core's cache.
const READ_BUFFER: usize = 512 << 10;

/// Brokers that are asked to wait for data wait longer than this.
const SOON: Duration = Duration::from_millis(50);

/// How long it may take to learn that a connection had ended before it was used again.
const JUST_REVIVED: Duration = Duration::from_secs(1);

/// A broker that leads partitions of the subscription.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) addr: BrokerAddr,
    config: Arc<Config>,
    link: Link,
    decoder: FetchDecoder,
    buf: ReadBuf<Sources>,
    in_flight: Vec<InFlight>,
    /// The fetch whose answer is being read.
    current: Option<InFlight>,
    /// How much more the decoder cannot do without.
    need: usize,
    /// What went wrong while there was still something to hand out.
    failure: Option<Error>,
    /// Time spent blocked since the last event or request.
    blocked: Duration,
    backoff: Backoff,
    /// Whether there are partitions to be asked for here.
    wanted: bool,
    /// Since a fetch on a connection that had been idle, as long as nothing has come back.
    revived: Option<Stopwatch>,
    /// Bytes received since the last [`take_bytes`](Leader::take_bytes).
    pub(super) bytes: u64,
}

#[derive(Debug)]
enum Link {
    Down(Deadline),
    Dialing(Dial),
    Up { connection: Connection, used: bool },
}

/// A fetch on its way: the subscription's partitions, by slot.
#[derive(Debug)]
struct InFlight {
    request_id: u32,
    partitions: Vec<usize>,
    max_wait_ms: u64,
    sent: Stopwatch,
    outcome: Outcome,
}

impl Leader {
    pub(super) fn new(addr: BrokerAddr, config: &Arc<Config>, sources: &Sources) -> Leader {
        Leader {
            addr,
            config: config.clone(),
            link: Link::Down(Deadline::after(Duration::ZERO)),
            decoder: new_decoder(config),
            buf: ReadBuf::new(READ_BUFFER, sources.clone()),
            in_flight: Vec::new(),
            current: None,
            need: 0,
            failure: None,
            blocked: Duration::ZERO,
            backoff: config.new_backoff(),
            wanted: true,
            revived: None,
            bytes: 0,
        }
    }

    /// The read buffer, in which shared bundles lie.
    #[inline]
    pub(super) fn buf(&self) -> &ReadBuf<Sources> {
        &self.buf
    }

    /// Bytes received since the last call.
    pub(super) fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.current.is_none()
    }

    pub(super) fn set_wanted(&mut self, wanted: bool) {
        self.wanted = wanted;
        if !wanted && matches!(self.link, Link::Dialing(_)) {
            self.reset();
        }
    }

    /// Whether anything is asked of it, or is to be.
    pub(super) fn is_used(&self) -> bool {
        self.wanted || !self.is_idle()
    }

    /// Whether it failed, and has not been of use since.
    pub(super) fn has_failed(&self) -> bool {
        self.backoff.is_running()
    }

    /// Whether it failed and is not to be tried again yet.
    pub(super) fn is_resting(&self) -> bool {
        matches!(self.link, Link::Down(until) if !until.has_passed())
    }

    /// The partitions of the answer being read, by slot.
    pub(super) fn partitions(&self) -> &[usize] {
        self.current.as_ref().map_or(&[], |fetch| &fetch.partitions)
    }

    /// The partition that a slot of the answer being read stands for.
    fn partition(&self, slot: usize) -> usize {
        self.partitions()[slot]
    }

    /// Brings the connection up as far as that goes without blocking; whether it is up.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub(super) fn bring_up(&mut self, closer: &CloseHandle) -> Result<bool> {
        match &mut self.link {
            Link::Up { connection, used } => {
                // What ended while idle is no failure; a connection never used that ends is one.
                let idle = self.in_flight.is_empty() && self.current.is_none();
                if !(*used && idle && connection.has_gone_stale()) {
                    return Ok(true);
                }
                debug!("{}: ended while idle, dialing anew", self.addr);
            }
            Link::Down(until) if !until.has_passed() => return Ok(false),
            Link::Down(_) => {}
            Link::Dialing(_) => return self.go_on_dialing(closer),
        }
        self.reset();
        let dial = Dial::start(&self.addr, &self.config, self.config.connect_timeout)?;
        closer.watch(dial.stream());
        self.link = Link::Dialing(dial);
        self.go_on_dialing(closer)
    }

    fn go_on_dialing(&mut self, closer: &CloseHandle) -> Result<bool> {
        let Link::Dialing(dial) = &mut self.link else { return Ok(false) };
        let opened = dial.advance()?;
        closer.watch(dial.stream());
        let up = opened.is_some();
        if let Some(connection) = opened {
            self.link = Link::Up { connection, used: false };
        }
        Ok(up)
    }

    /// Sends a fetch for these partitions of the subscription, on a connection that is up.
    pub(super) fn send(&mut self, request: FetchRequest, partitions: Vec<usize>, scratch: &mut Vec<u8>) -> Result<()> {
        let idle = self.is_idle();
        let Link::Up { connection, used } = &mut self.link else { return Ok(()) };
        scratch.clear();
        request.encode(scratch)?;
        if *used && idle {
            self.revived = Some(Stopwatch::start());
        }
        *used = true;
        let (request_id, max_wait_ms) = (request.request_id, request.max_wait_ms);
        trace!("{}: fetch {request_id} of {} partitions", self.addr, partitions.len());
        let sent = Stopwatch::start();
        self.in_flight.push(InFlight {
            request_id,
            partitions,
            max_wait_ms,
            sent,
            outcome: Outcome::new(max_wait_ms > 0),
        });
        self.decoder.expect(request);
        self.blocked = Duration::ZERO;
        connection.send(scratch, self.config.io_timeout)
    }

    /// Has the next read fail with `e`.
    pub(super) fn fail_next_read(&mut self, e: Error) {
        self.failure = Some(e);
        self.need = self.need.max(1);
    }

    /// What follows from what was read. Bundles are appended to `bundles`, as ranges of the buffer's block, with the
    /// subscription's partitions for slots. [`Step::Need`]: there is more to be read first.
    pub(super) fn step(&mut self, bundles: &mut Vec<Bundle>) -> Result<Step> {
        let start = self.buf.start();
        let before = bundles.len();
        let (used, step) = self.decoder.step(self.buf.data(), bundles).map_err(|e| Error::decode(&self.addr, e))?;
        self.buf.consume(used);
        match step {
            Step::Need(need) => {
                self.need = need;
                return Ok(step);
            }
            Step::Bundles => {
                // All of one chunk.
                let partition = self.partition(bundles[before].slot);
                for bundle in &mut bundles[before..] {
                    bundle.slot = partition;
                    bundle.set = start + bundle.set.start..start + bundle.set.end;
                }
            }
            Step::Event(Event::Response { request_id }) => {
                let position = self.in_flight.iter().position(|fetch| fetch.request_id == request_id);
                self.current = position.map(|index| self.in_flight.swap_remove(index));
            }
            Step::Event(_) => {}
        }
        self.blocked = Duration::ZERO;
        Ok(step)
    }

    /// Reads what the decoder needs, as far as it has arrived; whether all of it is there.
    pub(super) fn read(&mut self) -> Result<bool> {
        if self.need == 0 {
            return Ok(true);
        }
        if let Some(e) = self.failure.take() {
            return Err(e);
        }
        let Link::Up { connection, .. } = &self.link else { return Ok(false) };
        while self.need > 0 {
            let filled = self.buf.fill(connection, self.need);
            match filled.map_err(|e| Error::io(&self.addr, self.phase(), e))? {
                Fill::Bytes(n) => {
                    self.revived = None;
                    self.bytes += n as u64;
                    self.need = self.need.saturating_sub(n);
                }
                Fill::Later => return Ok(false),
                Fill::End => return Err(Error::disconnected(&self.addr, self.phase())),
            }
        }
        Ok(true)
    }

    fn phase(&self) -> Phase {
        if self.current.is_some() || !self.buf.data().is_empty() { Phase::Read } else { Phase::Wait }
    }

    /// The partition that a slot of the answer being read stands for, and what the answer came to so far.
    pub(super) fn answer(&mut self, slot: usize) -> Option<(usize, &mut Outcome)> {
        self.current.as_mut().map(|fetch| (fetch.partitions[slot], &mut fetch.outcome))
    }

    /// Ends the answer being read: the broker is well. Returns its partitions, what it came to, and whether that was so
    /// soon that the broker cannot have waited as it was asked to.
    pub(super) fn finish_answer(&mut self) -> (Vec<usize>, Outcome, bool) {
        self.has_progressed();
        let Some(fetch) = self.current.take() else { return (Vec::new(), Outcome::default(), false) };
        let soon = fetch.sent.elapsed() < SOON.min(Duration::from_millis(fetch.max_wait_ms));
        (fetch.partitions, fetch.outcome, soon)
    }

    /// Notes that repeating what was asked is not in vain.
    pub(super) fn has_progressed(&mut self) {
        self.backoff.reset();
    }

    /// Whether the connection had ended while it was idle, only just unnoticed: it failed with `e` as soon as it was
    /// used again.
    pub(super) fn ended_idle(&self, e: &Error) -> bool {
        e.is_retryable() && !e.is_timeout() && self.revived.is_some_and(|since| since.elapsed() < JUST_REVIVED)
    }

    /// Waits before dialing anew after `e`.
    pub(super) fn retry_later(&mut self, e: &Error) {
        let pause = self.backoff.next_pause();
        warn!("{}: {e}, trying again in {pause:?}", self.addr);
        self.link = Link::Down(Deadline::after(pause));
    }

    /// Forgets everything that belongs to the connection. Returns the partitions that were asked for in vain.
    pub(super) fn reset(&mut self) -> Vec<usize> {
        self.link = Link::Down(Deadline::after(Duration::ZERO));
        self.decoder = new_decoder(&self.config);
        self.buf.clear();
        self.need = 0;
        self.failure = None;
        self.blocked = Duration::ZERO;
        self.revived = None;
        let lost = self.in_flight.drain(..).chain(self.current.take());
        lost.flat_map(|fetch| fetch.partitions).collect()
    }

    /// What the broker is waited for, if anything.
    pub(super) fn interest(&self) -> Option<Interest<'_>> {
        match &self.link {
            Link::Up { connection, .. } if !self.is_idle() => Some(Interest::Read(connection)),
            Link::Dialing(dial) => Some(Interest::Dial(dial)),
            _ => None,
        }
    }

    /// Whether a connection is being opened or waited for with a pause: then `close` cannot wake us through the socket.
    pub(super) fn is_coming_up(&self) -> bool {
        self.wanted && !matches!(self.link, Link::Up { .. })
    }

    /// When something has to be done even if nothing arrives.
    pub(super) fn deadline(&self) -> Deadline {
        match &self.link {
            Link::Down(_) if !self.wanted => Deadline::NEVER,
            Link::Down(until) => *until,
            Link::Dialing(dial) => dial.deadline(),
            Link::Up { .. } if self.is_idle() => Deadline::NEVER,
            Link::Up { .. } => Deadline::after(self.allowance().saturating_sub(self.blocked)),
        }
    }

    /// How long to block for the next event: for an answer that has not begun, the broker may first wait.
    fn allowance(&self) -> Duration {
        let wait = match self.current {
            Some(_) => 0,
            None => self.in_flight.iter().map(|fetch| fetch.max_wait_ms).max().unwrap_or(0),
        };
        let wait = if wait > 0 { adjusted_wait_ms(wait) + WAIT_SLACK_MS } else { 0 };
        self.config.io_timeout.saturating_add(Duration::from_millis(wait))
    }

    /// Counts time spent blocked.
    ///
    /// # Errors
    /// A time-out, if it was too long.
    pub(super) fn count_blocked(&mut self, time: Duration) -> Result<()> {
        if self.is_idle() {
            return Ok(());
        }
        self.blocked += time;
        let after = self.allowance();
        if self.blocked >= after {
            return Err(Error::timeout(&self.addr, self.phase(), after));
        }
        Ok(())
    }
}

fn new_decoder(config: &Config) -> FetchDecoder {
    let mut decoder = FetchDecoder::new(config.limits.clone());
    decoder.join_up_to(JOINED);
    decoder
}
