//! A network for tests whose every move is given: a clock that is set, sockets that do what they are told.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use super::network::{Closed, Handle, Interest, Network, Socket, Time};
use crate::config::Config;

/// The far end of a socket, as the test sees it.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) connected: bool,
    pub(crate) error: Option<io::ErrorKind>,
    /// Bytes that have arrived and are not read, and whether the end of the stream follows them.
    pub(crate) incoming: VecDeque<u8>,
    pub(crate) ended: bool,
    /// How many more bytes are taken, and those that were.
    pub(crate) room: usize,
    pub(crate) sent: Vec<u8>,
    pub(crate) aborted: bool,
    pub(crate) dropped: bool,
}

#[derive(Debug)]
struct State {
    now: Time,
    process: u32,
    names: BTreeMap<String, io::Result<Vec<SocketAddr>>>,
    /// What connecting to an address fails with at once.
    refused: BTreeMap<SocketAddr, i32>,
    wires: Vec<(SocketAddr, Arc<Mutex<Wire>>)>,
    looked_up: usize,
    far_ends: Option<FarEnds>,
}

/// What the far ends do when somebody waits: given the address, the number of the connection and its wire, returns whether
/// something has come.
struct FarEnds(Box<dyn FnMut(SocketAddr, usize, &mut Wire) -> bool + Send>);

impl fmt::Debug for FarEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FarEnds")
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Scripted(Arc<Mutex<State>>);

impl Scripted {
    pub(crate) fn new() -> Scripted {
        Scripted(Arc::new(Mutex::new(State {
            now: Time::from_nanos(1),
            process: 1,
            names: BTreeMap::new(),
            refused: BTreeMap::new(),
            wires: Vec::new(),
            looked_up: 0,
            far_ends: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) -> Time {
        let mut state = self.state();
        state.now = state.now.after(time);
        state.now
    }

    pub(crate) fn name(&self, host: &str, addresses: io::Result<Vec<SocketAddr>>) {
        self.state().names.insert(host.to_owned(), addresses);
    }

    /// Makes connecting to this address fail with this error code of the system.
    pub(crate) fn refuse(&self, address: SocketAddr, code: i32) {
        self.state().refused.insert(address, code);
    }

    pub(crate) fn fork(&self) {
        self.state().process += 1;
    }

    pub(crate) fn looked_up(&self) -> usize {
        self.state().looked_up
    }

    /// Lets the far ends of connections act by themselves whenever somebody waits.
    pub(crate) fn serve(&self, act: impl FnMut(SocketAddr, usize, &mut Wire) -> bool + Send + 'static) {
        self.state().far_ends = Some(FarEnds(Box::new(act)));
    }

    /// Notes which of the sockets have what is awaited. Returns whether one has.
    fn look(&self, on: &mut [Interest<'_>]) -> bool {
        on.iter_mut().fold(false, |any, Interest { socket, read, write, ready }| {
            let Handle::Simulated(number, _) = socket.handle() else { panic!("a socket of another network") };
            **ready = self.wire(number as usize, |wire| {
                let can_write = if wire.connected { wire.room > 0 } else { wire.error.is_some() };
                *read && (wire.ended || wire.error.is_some() || !wire.incoming.is_empty()) || *write && can_write
            });
            any || **ready
        })
    }

    /// Where connections were begun, in order.
    pub(crate) fn dialed(&self) -> Vec<SocketAddr> {
        self.state().wires.iter().map(|(to, _)| *to).collect()
    }

    /// The far end of the `index`-th connection that was begun.
    pub(crate) fn wire<T>(&self, index: usize, act: impl FnOnce(&mut Wire) -> T) -> T {
        let wire = self.state().wires[index].1.clone();
        let mut wire = wire.lock().unwrap();
        act(&mut wire)
    }
}

impl Network for Scripted {
    fn now(&self) -> Time {
        self.state().now
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.now().as_nanos())
    }

    fn random(&self) -> u64 {
        4
    }

    fn process(&self) -> u32 {
        self.state().process
    }

    fn resolve(&self, host: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        let mut state = self.state();
        state.looked_up += 1;
        match state.names.get(host) {
            Some(Ok(found)) => Ok(found.clone()),
            Some(Err(e)) => Err(e.kind().into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn connect(&self, to: SocketAddr, _: &Config) -> io::Result<Box<dyn Socket>> {
        let mut state = self.state();
        if let Some(&code) = state.refused.get(&to) {
            return Err(io::Error::from_raw_os_error(code));
        }
        let wire = Arc::new(Mutex::new(Wire { room: usize::MAX, ..Wire::default() }));
        let number = state.wires.len();
        state.wires.push((to, wire.clone()));
        Ok(Box::new(End { wire, number }))
    }

    /// What comes is what the far ends send now: otherwise waiting is letting time pass.
    fn poll(&self, on: &mut [Interest<'_>], _: Option<&Closed>, until: Time) -> io::Result<()> {
        let far_ends = self.state().far_ends.take();
        if let Some(mut far_ends) = far_ends {
            let wires = self.state().wires.clone();
            let mut has_come = false;
            for (index, (to, wire)) in wires.iter().enumerate() {
                has_come |= (far_ends.0)(*to, index, &mut wire.lock().unwrap());
            }
            self.state().far_ends.get_or_insert(far_ends);
            if has_come {
                self.look(on);
                return Ok(());
            }
        }
        if !self.look(on) {
            assert_ne!(until, Time::NEVER, "nothing would ever end this wait");
            let mut state = self.state();
            state.now = state.now.max(until);
        }
        Ok(())
    }
}

/// The near end.
#[derive(Debug)]
struct End {
    wire: Arc<Mutex<Wire>>,
    number: usize,
}

impl Drop for End {
    fn drop(&mut self) {
        self.wire.lock().unwrap().dropped = true;
    }
}

impl Socket for End {
    fn finish_connect(&self) -> io::Result<bool> {
        let wire = self.wire.lock().unwrap();
        wire.error.map_or(Ok(wire.connected), |kind| Err(kind.into()))
    }

    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.wire.lock().unwrap();
        if let Some(kind) = wire.error {
            return Err(kind.into());
        }
        let n = wire.incoming.len().min(into.len());
        if n == 0 && !wire.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.incoming.drain(..n).zip(into).for_each(|(byte, to)| *to = byte);
        Ok(n)
    }

    fn write(&self, from: &[u8]) -> io::Result<usize> {
        let mut wire = self.wire.lock().unwrap();
        let n = from.len().min(wire.room);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.room -= n;
        wire.sent.extend_from_slice(&from[..n]);
        Ok(n)
    }

    fn abort(self: Box<Self>) {
        self.wire.lock().unwrap().aborted = true;
    }

    fn handle(&self) -> Handle<'_> {
        Handle::Simulated(self.number as u64, PhantomData)
    }
}
