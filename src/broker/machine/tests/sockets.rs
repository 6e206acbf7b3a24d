//! The same client over sockets.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use super::raw::{Raw, SOON};
use crate::broker::{Broker, BrokerBuilder};
use crate::protocol::frame::PING;

pub(super) fn start(builder: &BrokerBuilder) -> Broker {
    builder.start().unwrap()
}

pub(super) fn connect(broker: &Broker) -> Box<dyn Raw> {
    let mut stream = TcpStream::connect(broker.addr()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    assert_eq!(Raw::read(&mut stream, PING.len()).unwrap(), PING);
    Box::new(stream)
}

impl Raw for TcpStream {
    fn send(&mut self, bytes: &[u8]) {
        self.write_all(bytes).unwrap();
    }

    fn read(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(e) = self.read_to_end(&mut bytes) {
            assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{e}");
        }
        bytes
    }
}
