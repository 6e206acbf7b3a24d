//! What several channels need: the one wait, for any number of them; the reader of answers that are held whole; and the pool of
//! idle connections, which lends whole channels.

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::addr::BrokerAddr;
use super::buffer::ReadBuf;
use super::channel::Channel;
use super::network::{Closed, Network, Time, locked};
use super::settings::ChannelSettings;
use crate::error::{Error, Phase, Result};
use crate::protocol::frame::{Frame, Frames, Kind};

/// Blocks until a channel has something to do, the handle is closed, or `until` has come. Returns whether `until` has come.
///
/// Most programs wait for one connection, again and again: that allocates nothing.
///
/// # Errors
/// The system cannot wait.
#[inline(never)]
pub(crate) fn wait(
    net: &dyn Network,
    channels: &mut dyn Iterator<Item = &mut Channel>,
    closed: Option<&Closed>,
    until: Time,
) -> Result<bool> {
    let began = net.now();
    let mut first = channels.next();
    let mut others: Vec<&mut Channel> = channels.collect();
    let channels = if others.is_empty() {
        first.as_mut_slice()
    } else {
        others.extend(first);
        &mut others
    };
    let due = channels.iter().map(|channel| channel.due()).fold(until, Time::min);
    let polled = match channels {
        [only] if only.is_up() => net.poll(only.interests().next().as_mut_slice(), closed, due),
        _ => {
            let mut on: Vec<_> = channels.iter_mut().flat_map(|channel| channel.interests()).collect();
            net.poll(&mut on, closed, due)
        }
    };
    polled.map_err(|e| Error::io(&"the system", Phase::Wait, e))?;
    let now = net.now();
    for channel in channels {
        channel.on_waited(now, began);
    }
    Ok(now >= until)
}

/// Most answers fit into this many bytes.
const ANSWER_BUFFER: usize = 2 << 10;

/// Reads the bytes of one connection as frames.
pub(crate) struct AnswerReader {
    frames: Frames,
    limit: u32,
    buf: ReadBuf<()>,
    /// The length of the answer that was returned last, in bytes.
    returned: usize,
}

impl AnswerReader {
    /// Creates a reader of answers of up to `limit` bytes.
    pub(crate) fn new(limit: u32) -> AnswerReader {
        AnswerReader { frames: Frames::new(limit), limit, buf: ReadBuf::new(ANSWER_BUFFER, ()), returned: 0 }
    }

    /// Returns the next answer, or `None` if it has not come completely, or none is awaited. Its payload is this range of
    /// [`data`](AnswerReader::data). The caller tells the channel which request it answers.
    ///
    /// # Errors
    /// The connection has failed, something on it is overdue, or what came is not a frame.
    pub(crate) fn next(&mut self, channel: &mut Channel, now: Time) -> Result<Option<(Kind, Range<usize>)>> {
        self.buf.consume(mem::take(&mut self.returned));
        loop {
            match self.frames.first(self.buf.data()).map_err(|e| Error::decode(e).at(channel.broker()))? {
                Frame::Ping(len) => self.buf.consume(len),
                Frame::Whole(kind, payload) => {
                    self.returned = payload.end;
                    return Ok(Some((kind, payload)));
                }
                Frame::Need(_) if self.buf.data().is_empty() && channel.is_idle() => return Ok(None),
                Frame::Need(need) => {
                    if self.buf.data().first().is_some_and(|&kind| kind != Kind::Ping as u8) {
                        channel.on_answer_begin(now);
                    }
                    if !channel.is_readable(now) {
                        return Ok(None);
                    }
                    match channel.read(now, self.buf.room(need))? {
                        0 => return Ok(None),
                        n => self.buf.filled(n),
                    }
                }
            }
        }
    }

    /// Returns everything that has come and was not returned before.
    pub(crate) fn data(&self) -> &[u8] {
        self.buf.data()
    }

    /// Starts over for another connection.
    pub(crate) fn clear(&mut self) {
        self.frames = Frames::new(self.limit);
        self.buf.clear();
        self.returned = 0;
    }
}

/// How many idle connections to keep for each broker, and in total: a broker may name any number of others. With 256 leaders, two
/// to each are kept, so that none is dialed again after a pause.
const IDLE_PER_BROKER: usize = 16;
const IDLE_IN_ALL: usize = 512;

/// The idle connections of a client.
pub(crate) struct Pool {
    pub(crate) settings: Arc<ChannelSettings>,
    /// The one that was used last is at the end.
    idle: Mutex<Vec<Channel>>,
}

impl Pool {
    pub(crate) fn new(settings: Arc<ChannelSettings>) -> Pool {
        Pool { settings, idle: Mutex::new(Vec::new()) }
    }

    fn take_idle(&self, broker: &BrokerAddr) -> Option<Channel> {
        let mut idle = locked(&self.idle);
        idle.iter().rposition(|channel| channel.broker() == broker).map(|index| idle.remove(index))
    }

    /// Returns a channel to this broker: the idle one that was used last, or a new one that is not open yet.
    pub(crate) fn take(&self, broker: &BrokerAddr) -> Channel {
        self.settings.look_at_process();
        self.take_idle(broker).unwrap_or_else(|| Channel::new(broker.clone(), self.settings.clone()))
    }

    /// Replaces a channel that is not up yet with an idle one, if there is one by now.
    pub(crate) fn replace(&self, channel: &mut Channel) {
        if !channel.is_up() {
            if let Some(idle) = self.take_idle(channel.broker()) {
                *channel = idle;
            }
        }
    }

    /// Drops the idle connections to a broker after one failed: the others may be broken as well.
    pub(crate) fn forget(&self, broker: &BrokerAddr) {
        locked(&self.idle).retain(|channel| channel.broker() != broker);
    }

    /// Takes back a channel. It is kept if it is open and nothing is awaited on it.
    pub(crate) fn put(&self, channel: Channel) {
        if !channel.is_up() || !channel.is_idle() {
            return;
        }
        let mut idle = locked(&self.idle);
        let same = idle.iter().filter(|kept| kept.broker() == channel.broker()).count();
        let oldest = if same >= IDLE_PER_BROKER {
            idle.iter().position(|kept| kept.broker() == channel.broker())
        } else {
            (idle.len() >= IDLE_IN_ALL).then_some(0)
        };
        let dropped = oldest.map(|index| idle.remove(index));
        idle.push(channel);
        // Closing a socket may take time.
        drop(idle);
        drop(dropped);
    }
}

#[cfg(test)]
mod tests;
