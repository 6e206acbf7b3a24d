//! The sending half of a connection (reference, sections 2.3 to 2.5).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::answer::{Answer, Part};
use super::connection::Link;
use super::consume;
use super::faults::{Cut, Gate, Greeting};
use super::state::{End, Shared, State};
use crate::protocol::frame::PING;

/// Bytes of an answer held on their way to a socket.
const PIECE: usize = 64 << 10;

/// Sends what is queued on a connection, and ends it.
pub(super) struct Writer<'a> {
    pub(super) shared: &'a Shared,
    pub(super) node: usize,
    pub(super) id: u64,
    pub(super) link: &'a Link,
}

impl Writer<'_> {
    pub(super) fn run(&self, greeting: Greeting) {
        let how = self.greet(greeting).and_then(|()| {
            while let Some(answer) = self.next() {
                self.send_answer(&answer)?;
            }
            Ok(())
        });
        let stream = &self.link.stream;
        let reset = matches!(&how, Err(e) if e.kind() == io::ErrorKind::ConnectionReset && e.raw_os_error().is_none());
        if reset {
            // The reset goes out when the last thread lets go of the socket; a FIN must not precede it.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Read);
        }
        let mut state = self.shared.lock();
        if !reset {
            let _ = stream.shutdown(Shutdown::Both);
        }
        state.forget(self.node, self.id);
        self.shared.changed.notify_all();
    }

    fn greet(&self, greeting: Greeting) -> io::Result<()> {
        match greeting {
            Greeting::Ping => self.send(&PING, false),
            Greeting::Late(after) => {
                self.pause(after)?;
                self.send(&PING, false)
            }
            Greeting::Bytes(bytes) => self.send(&bytes, false),
            Greeting::Nothing | Greeting::Close => Ok(()),
        }
    }

    /// Waits for the next answer; `None` when the connection is to be closed.
    fn next(&self) -> Option<Answer> {
        let mut state = self.shared.lock();
        loop {
            let now = Instant::now();
            let node = &mut state.nodes[self.node];
            let conn = node.conns.get_mut(&self.id)?;
            if conn.end == End::Now {
                return None;
            }
            if node.paused {
                state = self.link.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let mut until = None;
            if let Some(&(deadline, wait)) = conn.waits.first() {
                if deadline <= now {
                    consume::expire(&mut state, wait);
                    continue;
                }
                until = Some(deadline);
            }
            if let Some(due) = conn.later.iter().position(|(at, ..)| *at <= now) {
                let (_, kind, parts) = conn.later.swap_remove(due);
                state.answer(self.node, self.id, kind, parts);
                continue;
            }
            until = until.into_iter().chain(conn.later.iter().map(|(at, ..)| *at)).min();
            if let Some(answer) = conn.queue.pop_front() {
                return Some(answer);
            }
            if conn.end == End::WhenSent {
                return None;
            }
            let options = &self.shared.options;
            let silence = if conn.heard { None } else { options.silent_timeout };
            let idle = if conn.waits.is_empty() { options.idle_timeout } else { None };
            if let Some(end) = silence.into_iter().chain(idle).min().map(|most| conn.last_heard + most) {
                if end <= now {
                    return None;
                }
                until = Some(until.map_or(end, |until: Instant| until.min(end)));
            }
            state = match until {
                Some(until) => self.wait_until(state, until),
                None => self.link.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn wait_until<'s>(&self, state: MutexGuard<'s, State>, until: Instant) -> MutexGuard<'s, State> {
        let time = until.saturating_duration_since(Instant::now());
        self.link.wake.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Does nothing for some time, unless the connection is closed meanwhile.
    fn pause(&self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        let mut state = self.shared.lock();
        while Instant::now() < until {
            self.check(&state)?;
            state = self.wait_until(state, until);
        }
        Ok(())
    }

    fn check(&self, state: &State) -> io::Result<()> {
        match state.nodes[self.node].conns.get(&self.id) {
            Some(conn) if conn.end != End::Now => Ok(()),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn send_answer(&self, answer: &Answer) -> io::Result<()> {
        if let Some(time) = answer.hold {
            self.pause(time)?;
        }
        if answer.ping {
            self.send(&PING, false)?;
        }
        let len = |part: &Part| match part {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::Chunk(chunk) => chunk.len,
        };
        let total: u64 = answer.parts.iter().map(len).sum();
        let mut piece = vec![0; usize::try_from(total).map_or(PIECE, |total| total.min(PIECE))];
        let mut filled = 0;
        for part in &answer.parts {
            let mut done = 0;
            while done < len(part) {
                let room = usize::try_from(len(part) - done).map_or(piece.len(), |left| left.min(piece.len() - filled));
                let out = &mut piece[filled..filled + room];
                let now = match part {
                    Part::Bytes(bytes) => (&bytes[usize::try_from(done).unwrap_or(usize::MAX)..]).read(out)?,
                    Part::Chunk(chunk) => chunk.segment.read_at(chunk.at + done, out),
                };
                if now == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                done += now as u64;
                filled += now;
                if filled == piece.len() {
                    self.send_pieces(&piece, answer.trickle)?;
                    filled = 0;
                }
            }
        }
        self.send_pieces(&piece[..filled], answer.trickle)?;
        self.shared.lock().nodes[self.node].stats.answered += 1;
        self.shared.changed.notify_all();
        Ok(())
    }

    fn send_pieces(&self, bytes: &[u8], trickle: Option<(usize, Duration)>) -> io::Result<()> {
        let Some((len, pause)) = trickle else { return self.send(bytes, true) };
        for piece in bytes.chunks(len) {
            self.send(piece, true)?;
            self.pause(pause)?;
        }
        Ok(())
    }

    /// Sends bytes; those of answers count, and meet the faults that count them.
    fn send(&self, mut bytes: &[u8], counted: bool) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.gate(bytes.len(), counted)? {
                Gate::Pass(len, cut) => {
                    self.write(&bytes[..len])?;
                    bytes = &bytes[len..];
                    cut.map_or(Ok(()), ended)?;
                }
                Gate::Flip(cut) => {
                    self.write(&[!bytes[0]])?;
                    bytes = &bytes[1..];
                    cut.map_or(Ok(()), ended)?;
                }
                Gate::Garbage(garbage) => self.write(&garbage)?,
                Gate::Stall => self.stall()?,
                Gate::Cut(cut) => return ended(cut),
            }
        }
        Ok(())
    }

    fn gate(&self, len: usize, counted: bool) -> io::Result<Gate> {
        let mut state = self.shared.lock();
        self.check(&state)?;
        while state.nodes[self.node].paused {
            state = self.link.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            self.check(&state)?;
        }
        Ok(if counted { state.nodes[self.node].faults.gate(len) } else { Gate::Pass(len, None) })
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.link.stream).write_all(bytes)?;
        self.shared.lock().nodes[self.node].stats.bytes_sent += bytes.len() as u64;
        self.shared.changed.notify_all();
        Ok(())
    }

    fn stall(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        let node = &mut state.nodes[self.node];
        if let Some(conn) = node.conns.get_mut(&self.id) {
            conn.stalled = true;
            node.stats.stalled += 1;
            self.shared.changed.notify_all();
        }
        while state.nodes[self.node].conns.get(&self.id).is_some_and(|conn| conn.stalled) {
            self.check(&state)?;
            state = self.link.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.check(&state)
    }
}

/// The error with which a fault ends a connection.
fn ended(cut: Cut) -> io::Result<()> {
    Err(match cut {
        Cut::Fin => io::ErrorKind::NotConnected.into(),
        Cut::Reset => io::ErrorKind::ConnectionReset.into(),
    })
}
