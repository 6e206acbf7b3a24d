//! [`FetchDecoder`]: decodes consume answers piece by piece (reference, sections 5 and 15).
//!
//! The decoder takes the bytes that have arrived and returns either what it found or how many more bytes it needs. It keeps
//! the partition entries of one answer, never its data: when a bundle is complete, it is reported as a range of the input.

use super::Limits;
pub use super::chunk::{Bundle, ChunkEnd, Good};
use super::chunk::{Chunk, Found};
use super::cursor::Cursor;
use super::error::{DecodeError, DecodeFault, Decoded};
use super::fetch::{FetchRequest, PartitionAnswer, SEQ_TAIL, UNKNOWN_TOPIC};
use super::frame::{FrameHeader, HEADER_LEN, Kind};

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// At least this many more bytes are needed after those that were given and not consumed.
    Need(usize),
    /// The next bundles of a chunk, at least one, were appended to the step's list.
    Bundles,
    /// The next event of the answer.
    Event(Event),
}

/// The parts of an answer other than bundles, in the order of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An answer to this request begins.
    Response {
        /// The id of an outstanding request. Everything up to [`Event::End`] answers it.
        request_id: u32,
    },
    /// What the server says about a partition. There is one for each partition of the request, all before the first chunk.
    Partition {
        /// The partition's index in [`FetchRequest::slots`].
        slot: usize,
        /// What the server says about it.
        answer: PartitionAnswer,
    },
    /// The end of a partition's chunk, if that is not empty.
    ChunkEnd {
        /// The partition's index in [`FetchRequest::slots`].
        slot: usize,
        /// How the chunk ended.
        end: ChunkEnd,
    },
    /// The answer is complete; its request is no longer outstanding.
    End {
        /// The request's id.
        request_id: u32,
    },
}

/// The most bundles that a step appends, so that the list needs no more memory than a read buffer.
const MAX_PER_STEP: usize = 1024;

/// Returns the request with this id, from when it is sent until the [end](Event::End) of its answer.
pub type Asked<'a> = &'a dyn Fn(u32) -> Option<&'a FetchRequest>;

/// Decodes the consume answers of one connection. It asks the caller for each request that is answered.
#[derive(Debug, Default)]
pub struct FetchDecoder {
    limits: Limits,
    /// The most messages in bundles that are reported together.
    joined: u32,
    state: State,
    /// Bytes to pass over before the state goes on.
    to_skip: u64,
    failed: Option<DecodeError>,
    /// The length of the current frame's payload, and where in it the next part begins: the entries, or a chunk.
    frame_len: u64,
    at: u64,
    /// Bytes of pings since the last answer.
    pings: u64,
    /// The id of the request that is being answered.
    current: u32,
    slots: Vec<Slot>,
    chunk: Chunk,
}

/// Copied on every step, so it owns nothing.
#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Frame,
    Fixed,
    /// At the partition entries, which take this many bytes.
    Entries(usize),
    /// The entry of this slot is reported next.
    Answer(usize),
    /// The next chunk is that of this slot or of a later one.
    NextChunk(usize),
    /// At the first byte of a bundle, or at the end of a chunk.
    Bundles,
    ChunkEnd(ChunkEnd),
}

/// A partition of the current answer.
#[derive(Debug, Clone, Copy)]
struct Slot {
    answer: PartitionAnswer,
    /// The number that the request wanted.
    from: u64,
}

/// The result of a transition. `None`: the next one can follow at once.
type Move = Result<Option<Step>, DecodeError>;

impl FetchDecoder {
    /// Creates a decoder for a connection whose greeting has been read.
    pub fn new(limits: Limits) -> FetchDecoder {
        FetchDecoder { limits, ..FetchDecoder::default() }
    }

    /// From the next bundle on, reports consecutive small bundles together, up to this many messages at once and never more
    /// than [`Limits`] allow in a bundle. The default, 0, reports each bundle by itself.
    ///
    /// A bundle is small if it is uncompressed and dense, has at most 15 messages and 16,383 bytes, and is wanted as a whole.
    /// Which of them are reported together also depends on how many bytes have arrived. Decode them with
    /// [`Bundle::decode`].
    pub fn join_up_to(&mut self, messages: u32) {
        self.joined = messages;
    }

    /// Returns whether an answer has begun and not ended, given the bytes that were not consumed. A ping is no answer.
    pub fn is_in_answer(&self, rest: &[u8]) -> bool {
        let is_answer = |rest: &[u8]| rest.first().is_some_and(|&id| id != Kind::Ping as u8);
        !matches!(self.state, State::Frame) || (self.to_skip == 0 && is_answer(rest))
    }

    /// Continues with `input`, which must begin with the first byte not consumed so far. Returns how many bytes it consumed,
    /// and what it found. Answers to requests that `asked` does not know are refused. Bundles are appended to `bundles`; their
    /// ranges lie within the consumed bytes.
    ///
    /// # Errors
    /// An answer that violates the protocol or exceeds a limit. From then on, every call returns the same error.
    pub fn step(
        &mut self,
        input: &[u8],
        asked: Asked<'_>,
        bundles: &mut Vec<Bundle>,
    ) -> Result<(usize, Step), DecodeError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let mut used = 0;
        let before = bundles.len();
        loop {
            match self.advance(input, asked, &mut used, bundles) {
                Ok(None) => {}
                Ok(Some(step)) => return Ok((used, step)),
                Err(e) => {
                    let e = self.place(e, asked);
                    self.failed = Some(e.clone());
                    // The bundles before the error are good; the next call returns it.
                    return if bundles.len() > before { Ok((used, Step::Bundles)) } else { Err(e) };
                }
            }
        }
    }

    fn place(&self, e: DecodeError, asked: Asked<'_>) -> DecodeError {
        if !matches!(self.state, State::Bundles) {
            return e;
        }
        match asked(self.current).and_then(|request| request.slots().nth(self.chunk.owner as usize)) {
            Some((topic, wanted)) => e.in_partition(topic, wanted.partition),
            None => e,
        }
    }

    fn advance(&mut self, input: &[u8], asked: Asked<'_>, used: &mut usize, bundles: &mut Vec<Bundle>) -> Move {
        let rest = input.get(*used..).unwrap_or_default();
        if self.to_skip > 0 {
            let skipped = usize::try_from(self.to_skip).unwrap_or(usize::MAX).min(rest.len());
            *used += skipped;
            self.to_skip -= skipped as u64;
            // One byte, not all that is left: bytes to skip need not be kept.
            return Ok((self.to_skip > 0).then_some(Step::Need(1)));
        }
        match self.state {
            State::Bundles => self.bundles(input, used, bundles),
            State::Frame => self.frame(rest, used),
            State::Fixed => self.fixed(rest, asked, used),
            State::Entries(len) => match rest.get(..len) {
                Some(entries) => self.entries(entries, asked, used),
                None => Ok(Some(Step::Need(len - rest.len()))),
            },
            State::Answer(slot) => {
                let Some(&Slot { answer, .. }) = self.slots.get(slot) else {
                    self.state = State::NextChunk(0);
                    return Ok(None);
                };
                self.state = State::Answer(slot + 1);
                Ok(Some(Step::Event(Event::Partition { slot, answer })))
            }
            State::NextChunk(slot) => Ok(self.next_chunk(slot)),
            State::ChunkEnd(end) => {
                let slot = self.chunk.owner as usize;
                self.state = State::NextChunk(slot + 1);
                Ok(Some(Step::Event(Event::ChunkEnd { slot, end })))
            }
        }
    }

    fn frame(&mut self, rest: &[u8], used: &mut usize) -> Move {
        let Some(header) = FrameHeader::decode(rest)? else {
            return Ok(Some(Step::Need(HEADER_LEN - rest.len())));
        };
        self.frame_len = header.len.into();
        match header.kind {
            Kind::Consume => {
                DecodeError::check("frame length", header.len, self.limits.fetch_frame, 0)?;
                self.state = State::Fixed;
            }
            // It may precede any answer. Nobody sends a large one.
            Kind::Ping => {
                DecodeError::check("frame length", header.len, self.limits.fetch_header, 0)?;
                self.pings = header.pings_after(self.pings)?;
                self.to_skip = self.frame_len;
            }
            other => return Err(DecodeError::unexpected("message id", other as u64, Kind::Consume as u64, 0)),
        }
        *used += HEADER_LEN;
        Ok(None)
    }

    fn fixed(&mut self, rest: &[u8], asked: Asked<'_>, used: &mut usize) -> Move {
        const LEN: usize = 8;
        DecodeError::check_fits("header length", LEN as u64, self.frame_len, 0)?;
        let Some(fixed) = rest.get(..LEN) else { return Ok(Some(Step::Need(LEN - rest.len()))) };
        let mut c = Cursor::new(fixed, 0);
        let header_len = c.u32("header length")?;
        DecodeError::check_fits("header length", 4 + u64::from(header_len), self.frame_len, 0)?;
        DecodeError::check("header length", header_len, self.limits.fetch_header, 0)?;
        DecodeError::check_fits("header length", 4, header_len.into(), 0)?;
        self.current = c.u32("request id")?;
        self.request(asked)?;
        self.at = LEN as u64;
        self.state = State::Entries(header_len as usize - 4);
        *used += LEN;
        Ok(None)
    }

    /// Returns the request that is being answered.
    fn request<'a>(&self, asked: Asked<'a>) -> Result<&'a FetchRequest, DecodeError> {
        let undefined = || DecodeError::new("request id", DecodeFault::Undefined { value: self.current.into() }, 4);
        asked(self.current).ok_or_else(undefined)
    }

    fn entries(&mut self, entries: &[u8], asked: Asked<'_>, used: &mut usize) -> Move {
        self.slots.clear();
        check_entries(self.request(asked)?, Cursor::new(entries, self.at), &mut self.slots)?;
        self.at += entries.len() as u64;
        let chunks: u64 = self.slots.iter().map(|slot| u64::from(slot.answer.chunk_len())).sum();
        let left = self.frame_len - self.at;
        DecodeError::check_fits("chunk length", chunks, left, self.at)?;
        if chunks < left {
            return Err(DecodeError::new("answer", DecodeFault::Spare { extra: left - chunks }, self.at + chunks));
        }
        self.pings = 0;
        self.state = State::Answer(0);
        *used += entries.len();
        Ok(Some(Step::Event(Event::Response { request_id: self.current })))
    }

    fn next_chunk(&mut self, from_slot: usize) -> Option<Step> {
        let mut later = (0..).zip(&self.slots).skip(from_slot);
        let chunk = later.find_map(|(owner, &Slot { answer, from })| match answer {
            PartitionAnswer::Data { base, high_water_mark, len } if len > 0 => {
                let (at, left) = (self.at, len.into());
                Some(Chunk { owner, at, left, from, to: high_water_mark, next: base, next_is_floor: false })
            }
            _ => None,
        });
        let Some(chunk) = chunk else {
            self.state = State::Frame;
            return Some(Step::Event(Event::End { request_id: self.current }));
        };
        self.at += chunk.left;
        self.chunk = chunk;
        self.state = State::Bundles;
        None
    }

    /// Takes all complete bundles, up to the end of the chunk or to one that is not reported.
    fn bundles(&mut self, input: &[u8], used: &mut usize, bundles: &mut Vec<Bundle>) -> Move {
        let before = bundles.len();
        while bundles.len() - before < MAX_PER_STEP {
            let rest = input.get(*used..).unwrap_or_default();
            match self.chunk.take(rest, self.joined, &self.limits)? {
                Found::Bundle(mut bundle, end) => {
                    bundle.shift(*used);
                    *used = bundle.set.end;
                    bundles.push(bundle);
                    if let Some(end) = end {
                        self.end_chunk(end);
                        break;
                    }
                }
                Found::Need(_) if bundles.len() > before => break,
                Found::Need(bytes) => return Ok(Some(Step::Need(bytes))),
                Found::Skip(bytes) => {
                    self.to_skip = bytes;
                    break;
                }
                Found::End(end) => {
                    self.end_chunk(end);
                    break;
                }
            }
        }
        Ok((bundles.len() > before).then_some(Step::Bundles))
    }

    /// Ends the chunk and skips the rest of it.
    fn end_chunk(&mut self, end: ChunkEnd) {
        self.to_skip = self.chunk.left;
        self.state = State::ChunkEnd(end);
    }
}

/// Reads the header of a whole answer: what the broker says of each partition of the request. Chunks are passed over.
pub(super) fn answers(request: &FetchRequest, payload: &[u8], limits: &Limits) -> Decoded<Vec<PartitionAnswer>> {
    let mut decoder = FetchDecoder::new(limits.clone());
    decoder.frame_len = payload.len() as u64;
    decoder.state = State::Fixed;
    let asked = |id| Some(request).filter(|request| request.request_id == id);
    // The first event comes once every entry is read. All are there, or their length is an error.
    decoder.step(payload, &asked, &mut Vec::new())?;
    Ok(decoder.slots.into_iter().map(|slot| slot.answer).collect())
}

/// Appends a slot for each partition of the request, if the header has exactly those, in the same order.
fn check_entries(request: &FetchRequest, mut c: Cursor<'_>, slots: &mut Vec<Slot>) -> Result<(), DecodeError> {
    let counted = |c: &mut Cursor<'_>, field, expected: usize| {
        let at = c.at();
        DecodeError::check_is(field, c.u8(field)?, expected as u64, at)
    };
    counted(&mut c, "topic count", request.topics.len())?;
    for topic in &request.topics {
        let at = c.at();
        if c.str8("topic name")? != topic.name.as_bytes() {
            return Err(DecodeError::new("topic name", DecodeFault::Name, at));
        }
        counted(&mut c, "partition count", topic.partitions.len())?;
        let known = !c.rest().starts_with(&UNKNOWN_TOPIC);
        if !known {
            c.bytes(UNKNOWN_TOPIC.len(), "partition id")?;
        }
        for wanted in &topic.partitions {
            let from = if wanted.seq == SEQ_TAIL { 0 } else { wanted.seq };
            if !known {
                slots.push(Slot { answer: PartitionAnswer::UnknownTopic, from });
                continue;
            }
            let at = c.at();
            let entry = c.u16("partition id").and_then(|id| Ok((id, PartitionAnswer::decode(&mut c)?)));
            let (id, answer) = entry.map_err(|e| e.in_partition(&topic.name, wanted.partition))?;
            DecodeError::check_is("partition id", id, wanted.partition, at)?;
            slots.push(Slot { answer, from });
        }
    }
    c.finish("answer header")
}

#[cfg(test)]
mod tests;
