//! Requests as a server reads them, in the plainest way, written from the reference alone. Whatever it must not be sent
//! panics.

use common::plain::{Message, bundles};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Status,
    Topics,
    Topology,
    Partitions { topic: String },
    Create { topic: String, partitions: u16, config: String },
    Reload { topic: String, partition: u16 },
    Consume { client: String, wait: u64, min_bytes: u32, local: bool, slots: Vec<Slot> },
    Produce { client: String, acks: u8, timeout: u32, numbered: bool, parts: Vec<Part>, shape: Vec<usize> },
}

/// A partition, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slot {
    pub topic: String,
    pub partition: u16,
    pub seq: u64,
    pub size: u32,
}

/// A partition, and what is to be stored there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub topic: String,
    pub partition: u16,
    pub messages: Vec<Message>,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        assert!(n <= self.0.len(), "a length of {n} where {} bytes are left", self.0.len());
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    fn number(&mut self, n: usize) -> u64 {
        self.take(n).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn varint(&mut self) -> u64 {
        let mut value = 0;
        for place in 0..5 {
            let byte = self.number(1);
            value |= (byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                assert!(byte > 0 || place == 0, "longer than it needs to be");
                assert!(value <= u32::MAX.into());
                return value;
            }
        }
        panic!("a varint without an end");
    }

    fn text(&mut self) -> String {
        let len = self.number(1) as usize;
        String::from_utf8(self.take(len).to_vec()).unwrap()
    }

    fn topic(&mut self) -> String {
        let topic = self.text();
        assert!(!topic.is_empty(), "a topic without a name");
        topic
    }

    fn end(&self) {
        assert!(self.0.is_empty(), "{} bytes too many", self.0.len());
    }
}

/// The request's id, and what it says.
pub fn request(id: u8, payload: &[u8]) -> (u32, Asked) {
    assert!(payload.len() <= 256 << 20);
    let mut bytes = Bytes(payload);
    if matches!(id, 1 | 2 | 5) {
        let version = bytes.number(2);
        let request_id = bytes.number(4) as u32;
        let asked = if id == 2 { consume(version, &mut bytes) } else { produce(version, id == 5, &mut bytes) };
        bytes.end();
        return (request_id, asked);
    }
    let request_id = bytes.number(4) as u32;
    let asked = match id {
        6 => Asked::Partitions { topic: bytes.topic() },
        7 => {
            let (topic, partitions) = (bytes.topic(), bytes.number(2) as u16);
            let len = bytes.varint() as usize;
            let config = String::from_utf8(bytes.take(len).to_vec()).unwrap();
            assert!(partitions > 0);
            Asked::Create { topic, partitions, config }
        }
        8 => Asked::Reload { topic: bytes.topic(), partition: bytes.number(2) as u16 },
        0x0a => Asked::Status,
        0x0b | 0x0c => {
            assert_eq!(bytes.number(1), 0, "flags");
            if id == 0x0b { Asked::Topics } else { Asked::Topology }
        }
        other => panic!("message id {other}"),
    };
    // In what asks for partitions a list would follow, which can kill a server.
    bytes.end();
    (request_id, asked)
}

fn none_twice<T: PartialEq + std::fmt::Debug>(all: &[T]) {
    assert!(!all.is_empty());
    assert!(all.iter().enumerate().all(|(index, one)| !all[..index].contains(one)), "one of them twice: {all:?}");
}

fn consume(version: u64, bytes: &mut Bytes<'_>) -> Asked {
    let client = bytes.text();
    let (wait, min_bytes) = (bytes.number(8), bytes.number(4) as u32);
    assert!(matches!(version, 2 | 3) && wait <= 3_600_000);
    let flags = if version == 3 { bytes.number(1) } else { 0 };
    assert!(flags <= 1);
    let (mut names, mut slots) = (Vec::new(), Vec::new());
    for _ in 0..bytes.number(1) {
        let topic = bytes.topic();
        let mut ids = Vec::new();
        for _ in 0..bytes.number(1) {
            let (partition, seq, size) = (bytes.number(2) as u16, bytes.number(8), bytes.number(4) as u32);
            assert!(partition < u16::MAX && seq < u64::MAX && size > 0);
            ids.push(partition);
            slots.push(Slot { topic: topic.clone(), partition, seq, size });
        }
        none_twice(&ids);
        names.push(topic);
    }
    none_twice(&names);
    assert!(slots.len() <= 250, "{} partitions", slots.len());
    assert!(slots.iter().map(|slot| u64::from(slot.size)).sum::<u64>() < 2 << 30);
    Asked::Consume { client, wait, min_bytes, local: flags == 1, slots }
}

fn produce(version: u64, numbered: bool, bytes: &mut Bytes<'_>) -> Asked {
    assert_eq!(version, 2);
    let client = bytes.text();
    let (acks, timeout) = (bytes.number(1) as u8, bytes.number(4) as u32);
    assert!(!(201..=254).contains(&acks) && timeout > 0);
    let (mut names, mut parts, mut shape) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bytes.number(1) {
        let topic = bytes.topic();
        let mut ids = Vec::new();
        for _ in 0..bytes.number(1) {
            let partition = bytes.number(2) as u16;
            assert!(partition < u16::MAX);
            ids.push(partition);
            let len = bytes.varint() as usize;
            let first = if numbered { bytes.number(8) } else { 0 };
            let bundle = bytes.take(len);
            let sparse = bundle[0] & 0x40 != 0;
            assert_eq!(sparse, numbered, "what brings its numbers, and nothing else, is sent with a number");
            let mut chunk = Vec::new();
            tank_client::protocol::varint::encode(len as u32, &mut chunk);
            chunk.extend_from_slice(bundle);
            let mut messages = Vec::new();
            let end = bundles(&chunk, Some(1), 0, u64::MAX, &mut messages).unwrap();
            assert_eq!(end, common::plain::End::Whole);
            assert!((1..=65_535).contains(&messages.len()));
            assert!(!numbered || messages[0].seq == first);
            parts.push(Part { topic: topic.clone(), partition, messages });
        }
        none_twice(&ids);
        shape.push(ids.len());
        names.push(topic);
    }
    none_twice(&names);
    Asked::Produce { client, acks, timeout, numbered, parts, shape }
}
