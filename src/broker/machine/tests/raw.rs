//! A client that knows nothing, for the golden captures, and a machine that it and the broker's methods act on directly.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::{Conn, Machine, Pull};
use super::HERE;
use crate::broker::host::Host;
use crate::broker::{Broker, BrokerBuilder};
use crate::net::Time;
use crate::protocol::frame::PING;

pub(super) const SOON: Duration = Duration::from_secs(20);

/// A client that knows nothing: bytes out, bytes in.
pub(super) trait Raw {
    fn send(&mut self, bytes: &[u8]);

    fn read(&mut self, len: usize) -> io::Result<Vec<u8>>;

    /// All that still comes before the end of the stream.
    fn rest(&mut self) -> Vec<u8>;

    fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        self.send(request);
        let mut frame = self.read(5).unwrap();
        let len = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
        frame.extend(self.read(len as usize).unwrap());
        frame
    }
}

/// A machine without a transport. Its time passes when somebody waits.
#[derive(Debug)]
struct Bench(Mutex<(Machine, Time)>);

impl Host for Bench {
    fn act(&self, act: &mut dyn FnMut(&mut Machine, Time)) {
        let mut bench = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = bench.1;
        act(&mut bench.0, now);
    }

    fn look(&self, look: &mut dyn FnMut(&Machine)) {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner).0);
    }

    fn listen(&self, node: usize) -> io::Result<()> {
        self.act(&mut |machine, now| machine.start(now, node));
        Ok(())
    }

    fn wait_closed(&self) {}

    fn wait_until(&self, timeout: Duration, condition: &mut dyn FnMut(&Machine) -> bool) -> bool {
        let (machine, now) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let end = now.after(timeout);
        while !condition(machine) {
            if machine.due() > end {
                return false;
            }
            *now = machine.due();
            machine.tick(*now);
        }
        true
    }
}

pub(super) fn start(builder: &BrokerBuilder) -> Broker {
    let machine = Machine::new(Time::ZERO, 0, builder.options().clone(), &super::addrs(1), None);
    let broker = Broker::on(Arc::new(Bench(Mutex::new((machine, Time::ZERO)))), 0);
    broker.accept_connections().unwrap();
    broker
}

struct Client {
    host: Arc<dyn Host>,
    conn: Conn,
    received: Vec<u8>,
    ended: bool,
}

pub(super) fn connect(broker: &Broker) -> Box<dyn Raw> {
    let host = broker.host();
    let mut conn = None;
    host.act(&mut |machine, now| conn = machine.accept(now, 0, HERE));
    let mut raw = Client { host, conn: conn.unwrap(), received: Vec::new(), ended: false };
    assert_eq!(raw.read(PING.len()).unwrap(), PING);
    Box::new(raw)
}

impl Client {
    /// Takes what there is, in pieces of an odd size, and lets time pass until there is something.
    fn receive(&mut self) {
        let mut room = [0; 61];
        let mut nothing = true;
        loop {
            let mut pulled = Pull::Nothing;
            self.host.act(&mut |machine, now| pulled = machine.pull(now, self.conn, &mut room));
            match pulled {
                Pull::Bytes(n) => self.received.extend_from_slice(&room[..n]),
                Pull::Nothing => break,
                Pull::Close | Pull::Reset => {
                    self.ended = true;
                    return;
                }
            }
            nothing = false;
        }
        let mut looks = 0;
        let mut one_more = |_: &Machine| {
            looks += 1;
            looks > 1
        };
        assert!(!nothing || self.host.wait_until(SOON, &mut one_more), "nothing comes any more");
    }
}

impl Raw for Client {
    fn send(&mut self, bytes: &[u8]) {
        let conn = self.conn;
        self.host.act(&mut |machine, now| machine.handle(now, conn, bytes));
    }

    fn read(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.received.len() < len && !self.ended {
            self.receive();
        }
        if self.received.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.received.drain(..len).collect())
    }

    fn rest(&mut self) -> Vec<u8> {
        while !self.ended {
            self.receive();
        }
        std::mem::take(&mut self.received)
    }
}
