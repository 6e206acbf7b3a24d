//! [`Subscription`]: what to read.

use std::time::{Duration, SystemTime};

use super::close::CloseHandle;
use super::position::Positions;
use crate::config::setters;
use crate::error::{Error, Result, ms_rounded_up};
use crate::message::{Start, check_topic, millis_at_or_after};
use crate::protocol::cursor::sorted;
use crate::protocol::fetch::MAX_WAIT_MS;

/// The largest fetch size; servers cut larger ones down to it.
pub(super) const MAX_FETCH_SIZE: u32 = 64 << 20;

/// What to read, from where, and until when. The methods chain, and each names its default.
///
/// ```
/// use tank_client::{Start, Subscription};
///
/// let all = Subscription::topic("orders").start(Start::Earliest);
/// let two = Subscription::partition("orders", 0).and_partition("clicks", 3, Start::At(1_000)).stop_at_end();
/// ```
#[derive(Debug, Clone)]
#[must_use = "a subscription does nothing until `Client::subscribe` is given it"]
pub struct Subscription {
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) start: Start,
    pub(crate) options: Options,
    pub(crate) limit: Option<u64>,
    pub(crate) closer: Option<CloseHandle>,
}

/// A topic, or one partition of it.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: String,
    /// `None`: all of them.
    pub(crate) partition: Option<u16>,
    /// `None`: the subscription's.
    pub(crate) start: Option<Start>,
}

/// Settings for all partitions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// In milliseconds: at least one, since with none a broker would be asked again at once.
    pub(crate) max_wait_ms: u64,
    pub(crate) min_bytes: u32,
    pub(crate) fetch_size: u32,
    pub(crate) out_of_range: OutOfRange,
    pub(crate) beyond_end: OutOfRange,
    pub(crate) stop_at_end: bool,
    pub(crate) stop_at_seq: Option<u64>,
    /// In milliseconds since 1970.
    pub(crate) stop_at_time: Option<u64>,
    pub(crate) prefer_local: bool,
    /// Ask for more before all that has arrived is handed out.
    pub(crate) prefetch: bool,
    /// Where to continue, instead of at the starts.
    pub(crate) resume: Positions,
}

/// What to do when the next number does not exist, because retention deleted it or because it lies beyond the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum OutOfRange {
    /// End with [`OutOfRange`](crate::ErrorKind::OutOfRange).
    #[default]
    Fail,
    /// Continue with the first message that is there.
    Earliest,
    /// Continue after the last message.
    Latest,
}

impl Subscription {
    fn new(topic: String, partition: Option<u16>) -> Subscription {
        let options = Options { max_wait_ms: 5000, fetch_size: 1 << 20, prefetch: true, ..Options::default() };
        let wanted = vec![Wanted { topic, partition, start: None }];
        Subscription { wanted, start: Start::Latest, options, limit: None, closer: None }
    }

    fn and(mut self, topic: String, partition: Option<u16>, start: Start) -> Self {
        self.wanted.push(Wanted { topic, partition, start: Some(start) });
        self
    }

    /// Every partition of a topic. Its name has 1 to 255 bytes. Partitions that are added later are found the next time a
    /// connection is lost or turns out to have ended while idle; they begin with their first message, unless they are
    /// [resumed](Subscription::resume).
    pub fn topic(topic: impl Into<String>) -> Self {
        Subscription::new(topic.into(), None)
    }

    /// One partition, 0 to 65,534.
    pub fn partition(topic: impl Into<String>, id: u16) -> Self {
        Subscription::new(topic.into(), Some(id))
    }

    /// One more partition, with a start of its own.
    pub fn and_partition(self, topic: impl Into<String>, id: u16, start: Start) -> Self {
        self.and(topic.into(), Some(id), start)
    }

    /// Every partition of one more topic, with a start of their own.
    pub fn and_topic(self, topic: impl Into<String>, start: Start) -> Self {
        self.and(topic.into(), None, start)
    }

    setters! {
        /// Where to begin, unless a topic or partition was given its own start. Default [`Start::Latest`].
        start(start: Start) => start = start;

        /// How long a broker may wait for new data before it answers a fetch with none. Default 5 seconds; brokers wait at
        /// least 320 ms and at most an hour, and up to 190 ms longer than asked. It does not delay data that already exists, and
        /// it does not limit a call; [`ConsumeIter::next_timeout`](crate::ConsumeIter::next_timeout) does that.
        max_wait(wait: Duration) => options.max_wait_ms = ms_rounded_up(wait).clamp(1, MAX_WAIT_MS);

        /// How many bytes of new data end a broker's wait. Default 0: any number; more than 64 MiB count as 64 MiB. A broker
        /// holds back a smaller amount until `max_wait` is over and the next fetch comes, which adds latency.
        min_bytes(bytes: u32) => options.min_bytes = bytes;

        /// About how many bytes of each partition a broker sends at a time. Default 1 MiB; 1 byte to 64 MiB. The client's
        /// memory does not depend on it. If answers take 10 ms or longer to begin, the client asks for up to 32 times as
        /// much, to keep a link with a long round trip busy; the partitions of a fetch then share 32 MiB.
        fetch_size(bytes: u32) => options.fetch_size = bytes;

        /// What to do when retention has deleted the next number, at the start or later. Default [`OutOfRange::Fail`]. If a
        /// broker rejects even the number that it has just named, the client retries for
        /// [`retry_timeout`](crate::ClientBuilder::retry_timeout), and then the subscription ends with the same error.
        out_of_range(policy: OutOfRange) => options.out_of_range = policy;

        /// Continues at these positions, for example those of a [`Checkpoint`](crate::Checkpoint::positions), also in
        /// partitions that are found later. A partition without one of them begins at its [start](Subscription::start).
        ///
        /// If retention has deleted the number, [`out_of_range`](Subscription::out_of_range) decides, and
        /// [`gaps`](crate::ConsumeIter::gaps) lists what is missing. If it lies beyond the end,
        /// [`beyond_end`](Subscription::beyond_end) decides.
        resume(positions: &Positions) => options.resume = positions.clone();

        /// What to do when the next number lies beyond the end, at the start or later, because the topic was created again or
        /// a fail-over lost its last messages. Default [`OutOfRange::Fail`]; the error is
        /// [`OutOfRange`](crate::ErrorKind::OutOfRange). If the new log has already grown past the position, the difference
        /// cannot be detected. If the subscription continues, messages of the new log are delivered even if messages of the
        /// old one with the same numbers were delivered before.
        beyond_end(policy: OutOfRange) => options.beyond_end = policy;

        /// Ends each partition at the high-water mark that it has when the subscription begins, even if the log keeps growing. If
        /// the log becomes shorter, the partition ends where nothing is left, or as [`beyond_end`](Subscription::beyond_end)
        /// says.
        stop_at_end() => options.stop_at_end = true;

        /// Ends each partition with this sequence number, inclusive.
        stop_at_seq(seq: u64) => options.stop_at_seq = Some(seq);

        /// Ends each partition before its first message with this time stamp or a later one. Neither that message nor any
        /// after it is delivered, whatever its time stamp. The client checks each message as it arrives, from the start of
        /// the subscription. A partition without such a message waits for one, unless
        /// [`stop_at_end`](Subscription::stop_at_end) or another condition ends it first.
        stop_at_time(time: SystemTime) => options.stop_at_time = Some(millis_at_or_after(time));

        /// Ends after `n` messages in total, over all partitions.
        limit(n: u64) => limit = Some(n);

        /// Lets [`CloseHandle::close`] of this handle end the iteration, or a `subscribe` that has not returned yet. One
        /// handle can end any number of subscriptions.
        close_with(handle: &CloseHandle) => closer = Some(handle.clone());

        /// In a cluster, reads from a replica on this host instead of the leader, if there is one that is in sync.
        ///
        /// Use it to read old messages, not to follow new ones: TANK 4.0 replicas do not wake a waiting fetch when new
        /// messages arrive. A replica that was restarted may number an answer wrongly; the client refuses that as malformed.
        prefer_local() => options.prefer_local = true;
    }

    pub(crate) fn check(&self) -> Result<()> {
        for Wanted { topic, partition, start } in &self.wanted {
            check_topic(topic)?;
            // On the wire this number stands for the end, which moves between two fetches.
            if start.unwrap_or(self.start) == Start::At(u64::MAX) {
                return Err(Error::config(format!("sequence number: {} is never assigned", u64::MAX)));
            }
            if *partition == Some(u16::MAX) {
                return Err(Error::config(format!("{topic}: partition 65535 given, 0 to 65534 allowed")));
            }
        }
        // `None`, which stands for all partitions, comes first.
        let all = sorted(&mut self.wanted.iter().map(|w| (&*w.topic, w.partition.map_or(0, |id| u32::from(id) + 1))));
        let twice = all.windows(2).find(|two| matches!(two, [(a, _), (b, _)] if a.0 == b.0 && (a.1 == 0 || a == b)));
        if let Some([(a, _), (b, _)]) = twice {
            let name = |topic: &str, id: u32| if id == 0 { topic.to_owned() } else { format!("{topic}/{}", id - 1) };
            let (a, b) = (name(a.0, a.1), name(b.0, b.1));
            return Err(Error::config(format!("subscribed to the same partition twice: {a} and {b}")));
        }
        if let Some(position) = self.options.resume.iter().find(|position| position.seq == u64::MAX) {
            return Err(Error::config(format!("{position}: no such number, 0 to {} allowed", u64::MAX - 1)));
        }
        let size = self.options.fetch_size;
        if size == 0 || size > MAX_FETCH_SIZE {
            return Err(Error::config(format!("fetch size: {size} bytes given, 1 to {MAX_FETCH_SIZE} allowed")));
        }
        Ok(())
    }
}

/// Every partition of the topic of this name, beginning with new messages.
impl<T: Into<String>> From<T> for Subscription {
    fn from(topic: T) -> Subscription {
        Subscription::topic(topic)
    }
}

impl From<&Subscription> for Subscription {
    fn from(subscription: &Subscription) -> Subscription {
        subscription.clone()
    }
}
