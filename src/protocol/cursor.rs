//! Checked little-endian reads from complete input, and the matching appends (reference, section 1).

use std::net::{Ipv4Addr, SocketAddrV4};

use byteorder::{ByteOrder, LittleEndian};

use super::error::{DecodeError, DecodeFault, EncodeError, Encoded};
use super::varint;

/// Reads one field after another. A read takes the whole field or fails with an error that names it: [`DecodeFault::Short`]
/// if too few bytes are left.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    /// What is not read yet.
    rest: &'a [u8],
    /// The position after the last byte, for errors.
    end: u64,
}

impl<'a> Cursor<'a> {
    /// Creates a cursor over `bytes`. Errors count the first byte as byte `at`.
    #[inline]
    pub fn new(bytes: &'a [u8], at: u64) -> Cursor<'a> {
        Cursor { rest: bytes, end: at.saturating_add(bytes.len() as u64) }
    }

    /// Returns the bytes not yet read.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Returns how many bytes are left.
    #[inline]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Returns the position of the next byte, for errors.
    #[inline]
    pub fn at(&self) -> u64 {
        self.end - self.rest.len() as u64
    }

    /// Returns an error about the field that was just read or is read next.
    #[inline]
    pub fn error(&self, field: &'static str, fault: DecodeFault) -> DecodeError {
        DecodeError::new(field, fault, self.at())
    }

    #[inline]
    fn short(&self, field: &'static str, needed: usize) -> DecodeError {
        DecodeError::short(field, needed as u64, self.left() as u64, self.at())
    }

    /// Reads `len` bytes.
    #[inline]
    pub fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else { return Err(self.short(field, len)) };
        self.rest = rest;
        Ok(taken)
    }

    /// Reads a byte.
    #[inline]
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        let Some((&byte, rest)) = self.rest.split_first() else { return Err(self.short(field, 1)) };
        self.rest = rest;
        Ok(byte)
    }

    /// Reads a byte that must be 0 or 1, because what follows may depend on it.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        let at = self.at();
        match self.u8(field)? {
            flag @ 0..=1 => Ok(flag == 1),
            value => Err(DecodeError::undefined(field, value, at)),
        }
    }

    /// Reads a two-byte number.
    #[inline]
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.bytes(2, field).map(LittleEndian::read_u16)
    }

    /// Reads a four-byte number.
    #[inline]
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.bytes(4, field).map(LittleEndian::read_u32)
    }

    /// Reads an eight-byte number.
    #[inline]
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.bytes(8, field).map(LittleEndian::read_u64)
    }

    /// Reads a varint.
    #[inline]
    pub fn varint(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let (value, rest) = match varint::short(self.rest) {
            Some(short) => short,
            None => varint::long(self.rest).map_err(|fault| self.error(field, fault))?,
        };
        self.rest = rest;
        Ok(value)
    }

    /// Reads a `str8`: one byte of length, then that many bytes in any character set.
    #[inline]
    pub fn str8(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let mut ahead = self.clone();
        let len = ahead.u8(field)?;
        let bytes = ahead.bytes(usize::from(len), field)?;
        *self = ahead;
        Ok(bytes)
    }

    /// Reads a `str8` as text. Bytes that are not UTF-8 become replacement characters.
    pub fn name(&mut self, field: &'static str) -> Result<String, DecodeError> {
        Ok(String::from_utf8_lossy(self.str8(field)?).into_owned())
    }

    /// Reads a `str8` that must be UTF-8.
    pub fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let mut ahead = self.clone();
        let bytes = ahead.str8(field)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.error(field, DecodeFault::Text))?;
        *self = ahead;
        Ok(text)
    }

    /// Reads a one-byte count, and then as many of what `one` reads.
    pub fn list<T>(
        &mut self,
        field: &'static str,
        one: impl FnMut(&mut Cursor<'a>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u8(field)?;
        self.many(count.into(), one)
    }

    /// Reads `count` of what `one` reads. The count reserves no memory.
    pub fn many<T>(
        &mut self,
        count: u32,
        mut one: impl FnMut(&mut Cursor<'a>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        (0..count).map(|_| one(self)).collect()
    }

    /// Reads an endpoint: four address bytes in the order they are written, then a little-endian port.
    pub fn endpoint(&mut self, field: &'static str) -> Result<SocketAddrV4, DecodeError> {
        let mut address = self.sub(6, field)?;
        let ip = Ipv4Addr::new(address.u8(field)?, address.u8(field)?, address.u8(field)?, address.u8(field)?);
        Ok(SocketAddrV4::new(ip, address.u16(field)?))
    }

    /// Returns a cursor over only the next `len` bytes, and moves past them.
    pub fn sub(&mut self, len: usize, field: &'static str) -> Result<Cursor<'a>, DecodeError> {
        let at = self.at();
        Ok(Cursor::new(self.bytes(len, field)?, at))
    }

    /// Returns `Ok` if everything was read.
    #[inline]
    pub fn finish(&self, field: &'static str) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            extra => Err(self.error(field, DecodeFault::Spare { extra: extra as u64 })),
        }
    }
}

/// Appends a `str8`.
///
/// # Errors
/// Above 255 bytes.
pub fn put_str8(bytes: &[u8], field: &'static str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    put_count8(bytes.len(), field, 0, out)?;
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a topic name of 1 to 255 bytes.
///
/// # Errors
/// An empty name, or one above 255 bytes.
pub fn put_topic(name: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    EncodeError::check("topic name, bytes", name.len(), 1, 255)?;
    put_str8(name.as_bytes(), "topic name, bytes", out)
}

/// Appends a one-byte count of at least `min`.
///
/// # Errors
/// Below `min`, or above 255.
pub fn put_count8(count: usize, field: &'static str, min: u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    EncodeError::check(field, count, min, 255)?;
    out.push(u8::try_from(count).unwrap_or(u8::MAX));
    Ok(())
}

/// A topic in a request, and what is asked or sent for its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic<N, P> {
    /// 1 to 255 bytes.
    pub name: N,
    /// Each partition once.
    pub partitions: Vec<P>,
}

/// Appends the topics of a request, 1 to 255 of them and of the partitions of each, none of them twice. `id` tells partitions
/// apart, and `put` appends one.
pub(super) fn put_topics<N: AsRef<str>, P>(
    topics: &[Topic<N, P>],
    id: impl Fn(&P) -> u16,
    out: &mut Vec<u8>,
    mut put: impl FnMut(&P, &mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    put_count8(topics.len(), "topics in a request", 1, out)?;
    check_once("entries of a topic", topics.iter().map(|topic| (topic.name.as_ref(), 0)))?;
    for topic in topics {
        put_topic(topic.name.as_ref(), out)?;
        put_count8(topic.partitions.len(), "partitions of a topic", 1, out)?;
        check_once("entries of a partition", topic.partitions.iter().map(|of| ("", id(of).into())))?;
        topic.partitions.iter().try_for_each(|entry| put(entry, out))?;
    }
    Ok(())
}

/// Refuses duplicates. Most lists are sorted already.
fn check_once<'a>(field: &'static str, mut ids: impl Iterator<Item = (&'a str, u32)> + Clone) -> Encoded {
    let once = ids.clone().is_sorted_by(|a, b| a < b) || sorted(&mut ids).is_sorted_by(|a, b| a.0 < b.0);
    if once { Ok(()) } else { Err(EncodeError { field, given: 2, min: 1, max: 1 }) }
}

/// Returns names in order, each with its index in `names`: by topic, then by a number. Equal ones keep their order.
pub(crate) fn sorted<'a>(names: &mut dyn Iterator<Item = (&'a str, u32)>) -> Vec<((&'a str, u32), u32)> {
    let mut names: Vec<_> = names.zip(0..).collect();
    names.sort_unstable();
    names
}

/// Reads the topics of a request, without these checks.
pub(super) fn take_topics<'a, N: From<&'a str>, P>(
    c: &mut Cursor<'a>,
    mut take: impl FnMut(&mut Cursor<'a>) -> Result<P, DecodeError>,
) -> Result<Vec<Topic<N, P>>, DecodeError> {
    c.list("topic count", |c| {
        let name = c.text("topic name")?.into();
        Ok(Topic { name, partitions: c.list("partition count", &mut take)? })
    })
}

/// Appends an endpoint: four address bytes in the order they are written, then a little-endian port.
pub fn put_endpoint(endpoint: SocketAddrV4, out: &mut Vec<u8>) {
    out.extend_from_slice(&endpoint.ip().octets());
    out.extend_from_slice(&endpoint.port().to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_and_fails_whole() {
        let mut c = Cursor::new(&[1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 2, b'h', b'i', 0x80, 1, 9], 100);
        assert_eq!(c.u8("a").unwrap(), 1);
        assert_eq!(c.u16("b").unwrap(), 2);
        assert_eq!(c.u32("c").unwrap(), 3);
        assert_eq!(c.u64("d").unwrap(), 4);
        assert_eq!(c.str8("e").unwrap(), b"hi");
        assert_eq!(c.varint("f").unwrap(), 128);
        let before = c.left();
        let e = c.u32("g").unwrap_err();
        assert_eq!((e.field(), e.fault(), e.at()), ("g", DecodeFault::Short { needed: 4, left: 1 }, 120));
        assert_eq!(c.left(), before, "a failed read moves nothing");
        assert_eq!(c.finish("h").unwrap_err().fault(), DecodeFault::Spare { extra: 1 });
    }

    #[test]
    fn each_partition_of_a_request_is_looked_at_twice_at_most() {
        let put = |partitions: Vec<u16>| {
            let looks = std::cell::Cell::new(0);
            let id = |id: &u16| {
                looks.set(looks.get() + 1);
                *id
            };
            let put = put_topics(&[Topic { name: "a", partitions }], id, &mut Vec::new(), |_, _| Ok(()));
            (put.is_ok(), looks.get())
        };
        assert_eq!(put((0..255).collect()), (true, 255));
        // A list that is not sorted is looked through once more.
        assert_eq!(put((0..255).rev().collect()), (true, 2 + 255));
        assert_eq!(put((0..254).chain([7]).collect()), (false, 2 * 255));
    }

    #[test]
    fn a_short_str8_and_a_cut_varint_move_nothing() {
        let mut c = Cursor::new(&[5, b'h', b'i'], 0);
        assert!(c.str8("name").is_err());
        assert_eq!(c.left(), 3);
        let mut c = Cursor::new(&[0x80, 0x80], 0);
        assert_eq!(c.varint("n").unwrap_err().fault(), DecodeFault::Short { needed: 3, left: 2 });
        assert_eq!(c.left(), 2);
    }

    #[test]
    fn text_is_utf_8_and_names_are_shown_as_far_as_they_are() {
        let bytes = [3, b'h', 0xff, b'i', 4, b'h', 0xc3, 0xa4, b'i'];
        let mut c = Cursor::new(&bytes, 0);
        let e = c.text("name").unwrap_err();
        assert_eq!((e.fault(), e.at(), c.left()), (DecodeFault::Text, 0, bytes.len()));
        assert_eq!(c.name("name").unwrap(), "h\u{fffd}i");
        assert_eq!(c.text("name").unwrap(), "häi");
        assert!(c.text("name").is_err());
    }

    #[test]
    fn endpoints_have_their_address_in_written_order_and_their_port_little_endian() {
        let bytes = [0x0a, 0x14, 0x1e, 0x28, 0x03, 0x2b];
        let endpoint = Cursor::new(&bytes, 0).endpoint("endpoint").unwrap();
        assert_eq!(endpoint.to_string(), "10.20.30.40:11011");
        let mut out = Vec::new();
        put_endpoint(endpoint, &mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn names_are_bounded() {
        let mut out = Vec::new();
        assert!(put_topic("", &mut out).is_err());
        assert!(put_topic(&"x".repeat(256), &mut out).is_err());
        assert!(out.is_empty());
        put_topic(&"x".repeat(255), &mut out).unwrap();
        assert_eq!(out.len(), 256);
    }
}
