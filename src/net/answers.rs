//! [`AnswerReader`]: reads the answers that are held whole, all but those to fetches, from a channel.

use std::mem;
use std::ops::Range;

use super::buffer::{Fill, ReadBuf};
use super::channel::Channel;
use super::network::Time;
use crate::error::{Error, Result};
use crate::protocol::frame::Kind;
use crate::protocol::frames::{Frame, Frames};

/// Most answers fit into this many bytes.
const ANSWER: usize = 2 << 10;

/// The bytes of one connection that have come, as frames.
#[derive(Debug)]
pub(crate) struct AnswerReader {
    frames: Frames,
    limit: u32,
    buf: ReadBuf<()>,
    /// Bytes of the answer that was returned last.
    returned: usize,
}

impl AnswerReader {
    /// Takes answers of up to `limit` bytes.
    pub(crate) fn new(limit: u32) -> AnswerReader {
        AnswerReader { frames: Frames::new(limit), limit, buf: ReadBuf::new(ANSWER, ()), returned: 0 }
    }

    /// Returns the next answer, or `None` if it has not come whole, or none is awaited. Its payload is this range of
    /// [`data`](AnswerReader::data). The caller tells the channel which request it ends.
    ///
    /// # Errors
    /// The connection has failed, something on it is overdue, or what came is no frame.
    pub(crate) fn next(&mut self, channel: &mut Channel, now: Time) -> Result<Option<(Kind, Range<usize>)>> {
        self.buf.consume(mem::take(&mut self.returned));
        loop {
            match self.frames.first(self.buf.data()).map_err(|e| Error::decode(channel.broker(), e))? {
                Frame::Ping(len) => {
                    self.buf.consume(len);
                    channel.answer_ends(now, None);
                }
                Frame::Whole(kind, payload) => {
                    self.returned = payload.end;
                    return Ok(Some((kind, payload)));
                }
                Frame::Need(_) if self.buf.data().is_empty() && channel.is_idle() => return Ok(None),
                Frame::Need(need) => {
                    if !self.buf.data().is_empty() {
                        channel.answer_begins(now);
                    }
                    match channel.read(now, self.buf.room(need))? {
                        Fill::Bytes(n) => self.buf.filled(n),
                        Fill::Later => return channel.overdue(now).map_or(Ok(None), Err),
                        Fill::End => return Err(Error::disconnected(channel.broker(), channel.phase())),
                    }
                }
            }
        }
    }

    /// All that has come and was not returned before.
    pub(crate) fn data(&self) -> &[u8] {
        self.buf.data()
    }

    /// Begins again, with another connection.
    pub(crate) fn clear(&mut self) {
        (self.frames, self.returned) = (Frames::new(self.limit), 0);
        self.buf.clear();
    }
}
