//! The crate's network, simulated.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::conns::{ConnId, Handshake, HostId};
use super::task::WaitFor;
use super::trace::TraceEvent;
use super::world::{State, World};
use crate::config::Config;
use crate::net::{Closed, Handle, Interest, Network, Socket, Time, Waker};

/// 2026-01-01, when every world begins.
const BEGIN_MS: u64 = 1_767_225_600_000;

/// The network as it is seen from one host.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) world: Arc<World>,
    pub(super) host: HostId,
}

pub(super) fn wall(now: Time, offset_ms: i64) -> SystemTime {
    let began = SystemTime::UNIX_EPOCH + Duration::from_millis(BEGIN_MS.saturating_add_signed(offset_ms));
    began + now.since(Time::ZERO)
}

impl Network for Net {
    fn now(&self) -> Time {
        self.world.now()
    }

    fn coarse_now(&self) -> Time {
        let now = self.now().as_nanos();
        Time::from_nanos(now - now % 10_000_000)
    }

    fn wall(&self) -> SystemTime {
        let state = self.world.lock();
        wall(state.now, state.wall_offset_ms)
    }

    fn random(&self) -> u64 {
        self.world.lock().jitter.next()
    }

    fn process(&self) -> u32 {
        1
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let mut state = self.world.lock();
        if let Some(delay) = state.names.delay(host) {
            state.note(TraceEvent::Resolves { delay });
            let until = state.now.after(delay);
            drop(state);
            if !delay.is_zero() {
                self.world.sleep_until(until, WaitFor::Resolver);
            }
            state = self.world.lock();
        }
        state.names.resolve(host, port)
    }

    fn connect(&self, to: SocketAddr, config: &Config) -> io::Result<Box<dyn Socket>> {
        let mut state = self.world.lock();
        let id = state.connect(self.host, to, config)?;
        // Without a descriptor none is begun.
        state.counts.connections += 1;
        drop(state);
        Ok(Box::new(SimulatedSocket { world: self.world.clone(), id }))
    }

    fn poll(&self, on: &mut [Interest<'_>], closed: Option<&Closed>, until: Time) -> io::Result<()> {
        let mut waker = None;
        if let Some(closed) = closed {
            let world = &self.world;
            let make =
                || Ok(Arc::new(SimulatedWaker { world: world.clone(), id: world.new_waker() }) as Arc<dyn Waker>);
            if let Handle::Simulated(id, _) = closed.waker(self.process(), make)?.handle() {
                waker = Some(id);
            }
        }
        self.world.wait(WaitFor::Sockets { waker }, until, |state, task, wait| {
            let mut ready = closed.is_some_and(Closed::is_closed);
            for interest in &*on {
                ready |= has_come(state, interest);
                state.tasks.get(task).sockets.push((id_of(interest), interest.read, interest.write));
            }
            if !ready {
                for interest in &*on {
                    state.watch(id_of(interest), task, wait, interest.read, interest.write);
                }
            }
            ready
        });
        let mut state = self.world.lock();
        on.iter_mut().for_each(|interest| *interest.ready = has_come(&mut state, interest));
        Ok(())
    }
}

fn id_of(interest: &Interest<'_>) -> ConnId {
    let Handle::Simulated(number, _) = interest.socket.handle() else {
        panic!("a socket of another network in a simulation")
    };
    ConnId::from_number(number)
}

/// Returns whether what is awaited has come.
fn has_come(state: &mut State, on: &Interest<'_>) -> bool {
    let conn = state.conns.get(id_of(on));
    conn.is_none_or(|conn| on.read && conn.is_readable() || on.write && conn.is_writable())
}

/// A connection as its client has it.
struct SimulatedSocket {
    world: Arc<World>,
    id: ConnId,
}

impl fmt::Debug for SimulatedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedSocket(#{})", self.id)
    }
}

impl Socket for SimulatedSocket {
    fn finish_connect(&self) -> io::Result<bool> {
        let mut state = self.world.lock();
        match state.conns.get(self.id).map(|conn| conn.handshake) {
            Some(Handshake::Connecting) => Ok(false),
            Some(Handshake::Open) => Ok(true),
            Some(Handshake::Failed(kind)) => Err(kind.into()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.world.lock();
        state.calls_now += 1;
        state.excess = state.excess.max(into.len().saturating_sub(2 * state.received));
        let n = state.read(self.id, into)?;
        state.received += n;
        Ok(n)
    }

    fn write(&self, from: &[u8]) -> io::Result<usize> {
        let mut state = self.world.lock();
        state.calls_now += 1;
        state.write(self.id, from)
    }

    fn abort(self: Box<Self>) {
        self.world.lock().close(self.id, true);
    }

    fn handle(&self) -> Handle<'_> {
        Handle::Simulated(self.id.number(), PhantomData)
    }
}

impl Drop for SimulatedSocket {
    fn drop(&mut self) {
        self.world.lock().close(self.id, false);
    }
}

/// Wakes whoever waits with the same close handle.
struct SimulatedWaker {
    world: Arc<World>,
    id: u64,
}

impl fmt::Debug for SimulatedWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedWaker({})", self.id)
    }
}

impl Waker for SimulatedWaker {
    fn wake(&self) {
        self.world.lock().tasks.wake_all(WaitFor::Sockets { waker: Some(self.id) });
    }

    fn handle(&self) -> Handle<'_> {
        Handle::Simulated(self.id, PhantomData)
    }
}
