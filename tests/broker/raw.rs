//! A client that knows nothing: bytes out, frames in, each under a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tank_client::broker::Broker;
use tank_client::protocol::fetch::{FetchPartition, FetchRequest, FetchTopic};
use tank_client::protocol::frame::{PING, Payload};

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
}

impl Raw {
    /// Connects without waiting for the ping.
    pub(crate) fn dial(addr: SocketAddr) -> Raw {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream }
    }

    pub(crate) fn connect(broker: &Broker) -> Raw {
        let mut raw = Raw::dial(broker.addr());
        assert_eq!(raw.frame().unwrap(), PING);
        raw
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn read(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The next frame, header included.
    pub(crate) fn frame(&mut self) -> io::Result<Vec<u8>> {
        let mut frame = self.read(5)?;
        let len = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
        frame.extend(self.read(len as usize)?);
        Ok(frame)
    }

    pub(crate) fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        self.send(request);
        self.frame().unwrap()
    }

    /// All that still comes before the end of the stream, and whether that was orderly.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let ended = self.stream.read_to_end(&mut bytes);
        if let Err(e) = &ended {
            assert_eq!(e.kind(), io::ErrorKind::ConnectionReset, "{e}");
        }
        (bytes, ended.is_ok())
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        self.rest().0.is_empty()
    }
}

/// A consume request for partitions of one topic.
pub(crate) fn fetch(request_id: u32, max_wait_ms: u64, topic: &str, wanted: &[(u16, u64, u32)]) -> Vec<u8> {
    let partition = |&(partition, seq, fetch_size)| FetchPartition { partition, seq, fetch_size };
    let request = FetchRequest {
        client_version: 2,
        request_id,
        client_id: Arc::from(""),
        max_wait_ms,
        min_bytes: 0,
        flags: 0,
        topics: vec![FetchTopic { name: topic.into(), partitions: wanted.iter().map(partition).collect() }],
    };
    let mut out = Vec::new();
    request.encode(&mut out).unwrap();
    out
}
