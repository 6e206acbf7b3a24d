//! Varints, read by a cursor, against arithmetic that cannot overflow.

use tank_client::protocol::cursor::Cursor;
use tank_client::protocol::{DecodeFault, varint};

pub fn run(data: &[u8]) {
    let mut rest = data;
    while !rest.is_empty() {
        rest = &rest[one(rest)..];
    }
    if let Some(value) = data.first_chunk() {
        let value = u32::from_le_bytes(*value);
        let mut bytes = Vec::new();
        varint::encode(value, &mut bytes);
        assert_eq!((bytes.len(), one(&bytes)), (varint::len(value), varint::len(value)));
        assert_eq!(Cursor::new(&bytes, 0).varint("n"), Ok(value));
    }
}

/// The varint at the front; how many bytes it takes.
fn one(bytes: &[u8]) -> usize {
    let ends = bytes.iter().take(varint::MAX_LEN).position(|byte| *byte < 0x80);
    let value = |len: usize| (0..len).map(|i| u64::from(bytes[i] & 0x7f) << (7 * i)).sum::<u64>();
    let expected = match ends {
        Some(at) => u32::try_from(value(at + 1)).map(|value| (value, at + 1)).map_err(|_| DecodeFault::Varint),
        None if bytes.len() < varint::MAX_LEN => {
            let len = bytes.len() as u64;
            Err(DecodeFault::Short { needed: len + 1, left: len })
        }
        None => Err(DecodeFault::Varint),
    };

    let mut cursor = Cursor::new(bytes, 7);
    let read = cursor.varint("n").map_err(|e| e.fault());
    assert_eq!(read, expected.map(|(value, _)| value));
    let used = expected.map_or(0, |(_, len)| len);
    assert_eq!((cursor.left(), cursor.at()), (bytes.len() - used, 7 + used as u64), "a failed read moves nothing");
    used.max(1)
}
