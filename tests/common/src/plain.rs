//! The consume answers a second time: whole buffers, no state, no care for speed. Written from the reference alone; it
//! shares nothing with the crate but Snappy itself, and its limits are the crate's defaults.

/// A request as far as an answer depends on it.
pub struct Wanted {
    pub request_id: u32,
    pub topics: Vec<Topic>,
}

/// A topic, and each of its partitions with the number wanted.
pub struct Topic {
    pub name: Vec<u8>,
    pub partitions: Vec<(u16, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    Data { base: Option<u64>, mark: u64, len: u32 },
    Boundary { mark: u64, first: u64 },
    System,
    Redirect([u8; 6]),
    NoLeader,
    NoPartition,
    NoTopic,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Whole,
    CutInLength,
    Cut(u64),
    AboveMark,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub seq: u64,
    pub time: u64,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub says: Says,
    pub messages: Vec<Message>,
    pub end: Option<End>,
}

/// Why there is nothing to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum No {
    /// The bytes end where more must follow.
    More,
    /// Against the rules.
    Bad(&'static str),
}

type Result<T> = std::result::Result<T, No>;

const MAX_FRAME: u64 = 0xf000_0000;
const MAX_HEADER: usize = 128 * 1024;
const MAX_SET: usize = 256 * 1024 * 1024;
const MAX_MESSAGES: u64 = 1024 * 1024;

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
    if bytes.len() < n {
        return Err(No::More);
    }
    let taken = &bytes[..n];
    *bytes = &bytes[n..];
    Ok(taken)
}

/// A little-endian number of `n` bytes.
fn number(bytes: &mut &[u8], n: usize) -> Result<u64> {
    let mut value = 0;
    for (place, byte) in take(bytes, n)?.iter().enumerate() {
        value += u64::from(*byte) << (8 * place);
    }
    Ok(value)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for place in 0..5 {
        let byte = number(bytes, 1)?;
        value += (byte % 128) << (7 * place);
        if value >= 1 << 32 {
            return Err(No::Bad("varint above 32 bits"));
        }
        if byte < 128 {
            return Ok(value);
        }
        if place == 4 {
            return Err(No::Bad("varint of six bytes"));
        }
    }
    unreachable!()
}

/// Whatever runs out inside something that is all there is wrong, not early.
fn within<T>(what: &'static str, result: Result<T>) -> Result<T> {
    result.map_err(|no| if no == No::More { No::Bad(what) } else { no })
}

/// All answers on a connection: those before the first trouble, and the trouble.
pub fn answers(wanted: &[Wanted], mut bytes: &[u8]) -> (Vec<(u32, Vec<Part>)>, Option<No>) {
    let mut open: Vec<&Wanted> = wanted.iter().collect();
    let mut found = Vec::new();
    loop {
        match next_answer(&mut open, &mut bytes) {
            Ok(Some(answer)) => found.push(answer),
            Ok(None) => {}
            Err(no) => return (found, Some(no).filter(|no| *no != No::More || !open.is_empty() || !bytes.is_empty())),
        }
    }
}

fn next_answer(open: &mut Vec<&Wanted>, bytes: &mut &[u8]) -> Result<Option<(u32, Vec<Part>)>> {
    let mut ahead = *bytes;
    let mut start = take(&mut ahead, 5)?;
    let kind = number(&mut start, 1)?;
    let len = number(&mut start, 4)?;
    if kind != 2 && kind != 3 {
        return Err(No::Bad("message id"));
    }
    if kind == 3 && len > MAX_HEADER as u64 || len > MAX_FRAME {
        return Err(No::Bad("frame length"));
    }
    let payload = take(&mut ahead, len as usize)?;
    *bytes = ahead;
    if kind == 3 {
        return Ok(None);
    }
    answer(open, payload).map(Some)
}

fn answer(open: &mut Vec<&Wanted>, mut payload: &[u8]) -> Result<(u32, Vec<Part>)> {
    let header_len = within("payload", number(&mut payload, 4))? as usize;
    let mut header = within("header length", take(&mut payload, header_len))?;
    if header_len > MAX_HEADER {
        return Err(No::Bad("header length"));
    }
    let request_id = within("request id", number(&mut header, 4))? as u32;
    let Some(index) = open.iter().position(|wanted| wanted.request_id == request_id) else {
        return Err(No::Bad("request id"));
    };
    let wanted = open[index];
    let says = within("header", entries(wanted, &mut header))?;
    if !header.is_empty() {
        return Err(No::Bad("bytes after the last entry"));
    }
    let mut parts = Vec::new();
    let wanted_numbers = wanted.topics.iter().flat_map(|topic| &topic.partitions);
    for (says, (_, from)) in says.into_iter().zip(wanted_numbers) {
        let mut part = Part { says, messages: Vec::new(), end: None };
        if let Says::Data { base, mark, len } = part.says {
            let chunk = within("chunk length", take(&mut payload, len as usize))?;
            if !chunk.is_empty() {
                let from = if *from == u64::MAX { 0 } else { *from };
                part.end = Some(within("bundle", bundles(chunk, base, from, mark, &mut part.messages))?);
            }
        }
        parts.push(part);
    }
    if !payload.is_empty() {
        return Err(No::Bad("bytes after the last chunk"));
    }
    open.remove(index);
    Ok((request_id, parts))
}

fn entries(wanted: &Wanted, header: &mut &[u8]) -> Result<Vec<Says>> {
    let mut all = Vec::new();
    if number(header, 1)? != wanted.topics.len() as u64 {
        return Err(No::Bad("topic count"));
    }
    for Topic { name, partitions } in &wanted.topics {
        let len = number(header, 1)? as usize;
        if take(header, len)? != name {
            return Err(No::Bad("topic name"));
        }
        if number(header, 1)? != partitions.len() as u64 {
            return Err(No::Bad("partition count"));
        }
        if header.starts_with(&[0xff, 0xff]) {
            take(header, 2)?;
            all.extend(partitions.iter().map(|_| Says::NoTopic));
            continue;
        }
        for (id, _) in partitions {
            if number(header, 2)? != u64::from(*id) {
                return Err(No::Bad("partition id"));
            }
            let flags = number(header, 1)?;
            let base = if flags == 0 || flags == 1 { Some(number(header, 8)?) } else { None };
            all.push(match flags {
                0 | 1 | 0xfe => {
                    let mark = number(header, 8)?;
                    let len = number(header, 4)? as u32;
                    if flags == 1 {
                        if len != 0 {
                            return Err(No::Bad("a chunk with a fault"));
                        }
                        Says::Boundary { mark, first: number(header, 8)? }
                    } else {
                        Says::Data { base, mark, len }
                    }
                }
                0xfb => Says::System,
                0xfc => Says::Redirect(take(header, 6)?.try_into().unwrap()),
                0xfd => Says::NoLeader,
                0xff => Says::NoPartition,
                _ => return Err(No::Bad("err_flags")),
            });
        }
    }
    Ok(all)
}

struct Header {
    snappy: bool,
    count: u64,
    sparse: Option<(u64, u64)>,
}

fn header(bytes: &mut &[u8]) -> Result<Header> {
    let flags = number(bytes, 1)?;
    if flags >= 128 || flags % 4 > 1 {
        return Err(No::Bad("bit 7 or codec"));
    }
    let mut count = flags / 4 % 16;
    if count == 0 {
        count = varint(bytes)?;
    }
    if count == 0 || count > MAX_MESSAGES {
        return Err(No::Bad("count"));
    }
    let mut sparse = None;
    if flags / 64 % 2 == 1 {
        let first = u128::from(number(bytes, 8)?);
        let last = if count == 1 { first } else { first + 1 + u128::from(varint(bytes)?) };
        if first == 0 || last >= u128::from(u64::MAX) || last - first + 1 < u128::from(count) {
            return Err(No::Bad("sparse range"));
        }
        sparse = Some((first as u64, last as u64));
    }
    Ok(Header { snappy: flags % 4 == 1, count, sparse })
}

/// The messages of a chunk from one number to another, and how it ends.
pub fn bundles(chunk: &[u8], base: Option<u64>, from: u64, mark: u64, out: &mut Vec<Message>) -> Result<End> {
    let mut rest = chunk;
    let mut next = base;
    let mut before = None;
    while !rest.is_empty() {
        let here = rest.len();
        let len = match varint(&mut rest) {
            Ok(len) => len as usize,
            Err(No::More) => return Ok(End::CutInLength),
            Err(bad) => return Err(bad),
        };
        let prefix = here - rest.len();
        if len == 0 {
            return Err(No::Bad("bundle of no bytes"));
        }
        let cut = len > rest.len();
        let all = End::Cut(prefix as u64 + len as u64);
        let mut body = if cut { rest } else { &rest[..len] };
        rest = &rest[body.len()..];
        let header = match header(&mut body) {
            Err(No::More) if cut => return Ok(all),
            header => header?,
        };
        let (first, last) = match (header.sparse, next) {
            (Some(range), _) => range,
            (None, None | Some(0)) => return Err(No::Bad("nothing to count from")),
            (None, Some(next)) => {
                let last = u128::from(next) + u128::from(header.count) - 1;
                if last >= u128::from(u64::MAX) {
                    return Err(No::Bad("number above 64 bits"));
                }
                (next, last as u64)
            }
        };
        if before.is_some_and(|before| first <= before) {
            return Err(No::Bad("numbers run backwards"));
        }
        before = Some(last);
        next = Some(last + 1);
        if first > mark {
            return Ok(End::AboveMark);
        }
        if last >= from && !(cut && header.snappy) {
            let unpacked;
            if header.snappy {
                unpacked = unpack(body)?;
                body = &unpacked;
            }
            messages(body, &header, (first, last), cut, |message: Message| {
                if message.seq >= from && message.seq <= mark {
                    out.push(message);
                }
            })?;
        }
        if cut {
            return Ok(all);
        }
        if last >= from && last > mark {
            return Ok(End::AboveMark);
        }
    }
    Ok(End::Whole)
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let len = snap::raw::decompress_len(packed).map_err(|_| No::Bad("snappy"))?;
    if len > MAX_SET || len > packed.len() * 22 {
        return Err(No::Bad("snappy bomb"));
    }
    snap::raw::Decoder::new().decompress_vec(packed).map_err(|_| No::Bad("snappy"))
}

fn messages(
    mut set: &[u8],
    header: &Header,
    (first, last): (u64, u64),
    cut: bool,
    mut out: impl FnMut(Message),
) -> Result<()> {
    let mut time = 0;
    let mut previous = 0;
    for index in 0..header.count {
        let next = match message(&mut set, header, index, (first, last), previous, time) {
            Err(No::More) if cut => return Ok(()),
            Err(No::More) => return Err(No::Bad("message past its bundle")),
            message => message?,
        };
        (previous, time) = (next.seq, next.time);
        out(next);
    }
    // A cut bundle has bytes still to come, and nothing that they could be.
    if cut || !set.is_empty() { Err(No::Bad("bytes after the last message")) } else { Ok(()) }
}

fn message(
    set: &mut &[u8],
    header: &Header,
    index: u64,
    (first, last): (u64, u64),
    previous: u64,
    time: u64,
) -> Result<Message> {
    let flags = number(set, 1)?;
    let is_last = index == header.count - 1;
    let seq = if index == 0 {
        u128::from(first)
    } else if header.sparse.is_none() || flags & 4 != 0 {
        u128::from(previous) + 1
    } else if is_last {
        u128::from(last)
    } else {
        u128::from(previous) + 1 + u128::from(varint(set)?)
    };
    // Those after it need numbers too.
    let after = u128::from(header.count - 1 - index);
    if seq + after > u128::from(last) || is_last && seq != u128::from(last) {
        return Err(No::Bad("number outside its bundle"));
    }
    let time = if flags & 2 != 0 { time } else { number(set, 8)? };
    let mut key = None;
    if flags & 1 != 0 {
        let len = number(set, 1)? as usize;
        key = Some(take(set, len)?.to_vec());
    }
    let len = varint(set)? as usize;
    Ok(Message { seq: seq as u64, time, key, payload: take(set, len)?.to_vec() })
}
