//! What can go wrong, as callers see it.

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::{DecodeError, DecodeFault, EncodeError, texts};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong: what, where and why.
///
/// Most programs ask the predicates, such as [`is_retryable`](Error::is_retryable); others match on the [`kind`](Error::kind), as
/// in `Err(Error { kind: ErrorKind::Full { .. }, .. })`. The guide says [what to do](crate::guide::errors) about each kind.
///
/// Its text does not repeat that of its [`source`](std::error::Error::source). `{:#}` writes all causes, too, and so does
/// `{:?}`, which `main` and `unwrap` use. An error that happened at a broker names that broker.
///
/// ```
/// use tank_client::broker::Broker;
/// use tank_client::{Client, Fault};
///
/// let broker = Broker::start()?;
/// let client = Client::connect(broker.addr())?;
/// let e = client.subscribe("orders").unwrap_err();
/// assert_eq!(e.to_string(), format!("{}: orders: no such topic", broker.addr()));
/// assert!(e.is_unknown_topic() && !e.is_retryable());
/// assert_eq!((e.topic(), e.partition(), e.fault()), (Some("orders"), None, Some(Fault::UnknownTopic)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Error {
    /// What happened, with its numbers.
    pub kind: ErrorKind,
    location: Box<Location>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What happened: the [`kind`](Error::kind) of an [`Error`].
///
/// Where a kind mentions a source, it is what the error's [`source`](std::error::Error::source) returns; if it is an `Error`
/// too, [`Error::cause`] returns it. The guide says [what to do](crate::guide::errors) about each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No broker could be reached. The [broker](Error::broker) is what was given, which may be a list; the source then has each
    /// one with its cause.
    Connect,
    /// The network failed. The source says why.
    #[non_exhaustive]
    Io {
        /// What was being done.
        phase: Phase,
    },
    /// The broker did not connect, greet, send or receive in time.
    #[non_exhaustive]
    Timeout {
        /// What was being waited for.
        phase: Phase,
        /// How long the wait lasted.
        after: Duration,
    },
    /// The broker closed the connection.
    #[non_exhaustive]
    Disconnected {
        /// What was being done.
        phase: Phase,
    },
    /// Another service answers at the broker's address. The source says what it sends instead of a ping.
    NotTank,
    /// A wait was ended by [`CloseHandle::close`](crate::CloseHandle::close).
    Closed,
    /// The broker sent what the protocol does not allow, or more than [`Limits`](crate::Limits) allow. The source names the
    /// field, the place, what was found, and what is allowed.
    Decode,
    /// The sequence number asked for is not there: retention deleted it, or it lies beyond the end. A saved position beyond the
    /// end means that the topic was created again or lost its last messages: see
    /// [`Subscription::beyond_end`](crate::Subscription::beyond_end).
    #[non_exhaustive]
    OutOfRange {
        /// The number asked for.
        requested: u64,
        /// The first number still there; 0 on a partition that never had a message.
        first_available: u64,
        /// The last number assigned.
        high_water_mark: u64,
    },
    /// The broker refused, or its answers cannot be followed.
    #[non_exhaustive]
    Broker {
        /// The reason.
        fault: Fault,
    },
    /// A bundle too large for any fetch within the limits, or a record too large for a request.
    #[non_exhaustive]
    BundleTooLarge {
        /// Its size in bytes, or the least it is known to be.
        needed: u64,
        /// Bytes allowed: [`Limits::bundle`](crate::Limits::bundle) when reading, 255 MiB when publishing.
        limit: u64,
    },
    /// A publish was sent and got no clear answer: the messages may be stored or not. The same for the creation of a topic,
    /// which may exist or not. The source says how the answer was lost, or what it said.
    OutcomeUnknown,
    /// A publish took several bundles, of which only the first ones are known to be stored. The source says what happened to
    /// the rest: they may be stored if it is [`OutcomeUnknown`](ErrorKind::OutcomeUnknown), and are not stored otherwise.
    #[non_exhaustive]
    PartlyStored {
        /// How many records of the call were stored.
        stored: usize,
    },
    /// Records that a [`Producer`](crate::Producer) did not send because earlier ones of their partition failed; the source
    /// says why. If all are retried together, they keep their order.
    NotSent,
    /// Records that a [`Producer`](crate::Producer) may not have stored wait for
    /// [`retry_failures`](crate::Producer::retry_failures) or [`take_failures`](crate::Producer::take_failures). The source
    /// says what happened to the first one that [may be stored](crate::Failure::is_unknown), or to the first if none may.
    #[non_exhaustive]
    Undelivered {
        /// How many.
        records: usize,
    },
    /// A [`Producer`](crate::Producer) holds as many bytes as [it may](crate::ProducerBuilder::max_pending_bytes), or a quarter
    /// of them for this partition. The record was not accepted.
    #[non_exhaustive]
    Full {
        /// Bytes held for records that are not stored yet and have not failed.
        pending: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A [`Checkpoint`](crate::Checkpoint) file that cannot be used.
    #[non_exhaustive]
    Checkpoint {
        /// What is wrong: torn or damaged, not a checkpoint, of a newer version, gone, or changed by another program.
        reason: String,
        /// `true` if [`Checkpoint::open_previous`](crate::Checkpoint::open_previous) can be used instead.
        previous: bool,
    },
    /// A [segment](crate::segment) file is damaged. The source names the field, what was found, and what is allowed. Its place
    /// is counted from the start of the file, or of the message set for a field inside a message.
    #[non_exhaustive]
    Corrupt {
        /// Where in the file the bundle begins, with its length prefix.
        at: u64,
    },
    /// A file could not be read or written. The source says why.
    File,
    /// A call with arguments that cannot work; it changed nothing.
    #[non_exhaustive]
    Config {
        /// What is wrong, with the value and what is allowed.
        reason: String,
    },
}

texts! {
    ErrorKind:
    Self::Connect => "cannot connect";
    Self::Io { phase } => "network failure while {phase}";
    Self::Timeout { phase, after } => "timed out after {after:?} {phase}";
    Self::Disconnected { phase } => "connection closed by the broker while {phase}";
    Self::NotTank => "not a TANK broker";
    Self::Closed => "ended by a close handle while waiting";
    Self::Decode => "malformed data from the broker";
    Self::OutOfRange { requested, first_available, high_water_mark } =>
        "sequence number {requested} is {}", out_of_range(*requested, *first_available, *high_water_mark);
    Self::Broker { fault } => "{fault}";
    Self::BundleTooLarge { needed, limit } => "a bundle of {needed} bytes exceeds the limit of {limit}";
    Self::OutcomeUnknown => "sent, but the outcome is unknown";
    Self::PartlyStored { stored } => "records known to be stored: {stored}, counted from the first";
    Self::NotSent => "not sent: an earlier bundle of this partition failed";
    Self::Undelivered { records } =>
        "records that may not have been stored: {records}; retry or take the producer's failures";
    Self::Full { pending, limit } => "full: {pending} bytes wait to be stored, {limit} allowed";
    Self::Checkpoint { reason, previous } =>
        "{reason}{}", if *previous { "; its previous generation is intact" } else { "" };
    Self::Corrupt { at } => "malformed data in the bundle at byte {at}";
    Self::File => "cannot read or write";
    Self::Config { reason } => "{reason}";
}

impl ErrorKind {
    fn is_network(&self) -> bool {
        use ErrorKind::*;
        matches!(self, Connect | Io { .. } | Timeout { .. } | Disconnected { .. } | NotTank)
    }
}

/// Where it happened, as far as that is known.
#[derive(Clone, Default)]
struct Location {
    broker: Option<String>,
    topic: Option<String>,
    partition: Option<u16>,
    path: Option<PathBuf>,
}

impl Error {
    /// Returns the broker at which it happened, if it was at one.
    pub fn broker(&self) -> Option<&str> {
        self.location.broker.as_deref()
    }

    /// Returns the topic, if it is about one.
    pub fn topic(&self) -> Option<&str> {
        self.location.topic.as_deref()
    }

    /// Returns the partition, if it is about one.
    pub fn partition(&self) -> Option<u16> {
        self.location.partition
    }

    /// Returns the file, if it is about one.
    pub fn path(&self) -> Option<&Path> {
        self.location.path.as_deref()
    }

    /// Returns the error of this crate that led to this one: its [source](std::error::Error::source), if that is one.
    ///
    /// ```
    /// use tank_client::broker::{Broker, BrokerFault};
    /// use tank_client::{Client, Error, ErrorKind, Fault, Record};
    ///
    /// let broker = Broker::start()?;
    /// broker.create_topic("orders", 1);
    /// broker.inject(BrokerFault::RefuseProduce(Fault::System));
    /// let client = Client::connect(broker.addr())?;
    /// let e = client.publish("orders", 0, &[Record::new("tea")]).unwrap_err();
    /// assert_eq!((&e.kind, e.fault()), (&ErrorKind::OutcomeUnknown, None));
    /// assert_eq!(e.cause().and_then(Error::fault), Some(Fault::System));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cause(&self) -> Option<&Error> {
        self.source_as()
    }

    /// Returns whether time ran out.
    pub fn is_timeout(&self) -> bool {
        self.io_kind() == io::ErrorKind::TimedOut
    }

    /// Returns whether a connection ended, rather than took too long.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self.outcome().kind, ErrorKind::Io { .. } | ErrorKind::Disconnected { .. }) && !self.is_timeout()
    }

    /// Returns whether records may be stored or not, or a topic may have been created or not.
    pub fn is_outcome_unknown(&self) -> bool {
        match self.kind {
            ErrorKind::PartlyStored { .. } | ErrorKind::Undelivered { .. } => {
                self.cause().is_some_and(Error::is_outcome_unknown)
            }
            ref kind => *kind == ErrorKind::OutcomeUnknown,
        }
    }

    /// Returns whether there is no such topic.
    pub fn is_unknown_topic(&self) -> bool {
        self.outcome().fault() == Some(Fault::UnknownTopic)
    }

    /// Returns whether the same call may succeed later, and making it again cannot do anything twice.
    pub fn is_retryable(&self) -> bool {
        match &self.kind {
            ErrorKind::NotSent | ErrorKind::Full { .. } => true,
            ErrorKind::Broker { fault } => fault.is_retryable(),
            kind => kind.is_network(),
        }
    }

    /// Returns whether waiting may help: trouble with a broker or a partition's leader, not with the data or this machine.
    pub(crate) fn is_transient(&self) -> bool {
        match &self.kind {
            ErrorKind::Connect => !self.source_as().is_some_and(is_out_of_resources),
            ErrorKind::Broker { fault } => matches!(fault, Fault::NoLeader | Fault::Redirects { .. }),
            kind => kind.is_network(),
        }
    }

    /// Returns whether a broker named another one.
    pub(crate) fn is_redirect(&self) -> bool {
        matches!(self.fault(), Some(Fault::Redirects { .. }))
    }

    /// Returns why a broker refused, if one did.
    pub fn fault(&self) -> Option<Fault> {
        if let ErrorKind::Broker { fault } = self.kind { Some(fault) } else { None }
    }

    /// Returns what became of records in the end.
    fn outcome(&self) -> &Error {
        match self.kind {
            ErrorKind::OutcomeUnknown | ErrorKind::PartlyStored { .. } | ErrorKind::Undelivered { .. } => {
                self.cause().map_or(self, Error::outcome)
            }
            _ => self,
        }
    }

    /// Returns the kind of the network's or the file's own error, or the nearest one.
    pub(crate) fn io_kind(&self) -> io::ErrorKind {
        let e = self.outcome();
        match e.kind {
            ErrorKind::Timeout { .. } => io::ErrorKind::TimedOut,
            ErrorKind::Disconnected { .. } => io::ErrorKind::ConnectionAborted,
            ErrorKind::NotTank | ErrorKind::Decode | ErrorKind::Corrupt { .. } => io::ErrorKind::InvalidData,
            ErrorKind::Config { .. } => io::ErrorKind::InvalidInput,
            ErrorKind::Broker { fault: Fault::UnknownTopic | Fault::UnknownPartition } => io::ErrorKind::NotFound,
            ErrorKind::Broker { fault: Fault::TopicExists } => io::ErrorKind::AlreadyExists,
            _ => e.source_as().map_or(io::ErrorKind::Other, io::Error::kind),
        }
    }

    fn source_as<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.source.as_deref()?.downcast_ref()
    }

    #[cold]
    pub(crate) fn new(kind: ErrorKind) -> Error {
        Error { kind, location: Box::default(), source: None }
    }

    /// Names the broker at which it happened.
    #[cold]
    #[inline(never)]
    pub(crate) fn at(mut self, broker: &dyn fmt::Display) -> Error {
        self.location.broker = Some(broker.to_string());
        self
    }

    /// Names the topic and the partition it is about.
    #[cold]
    #[inline(never)]
    pub(crate) fn about(mut self, topic: &str, partition: impl Into<Option<u16>>) -> Error {
        self.location.topic = Some(topic.to_owned());
        self.location.partition = partition.into();
        self
    }

    pub(crate) fn in_file(mut self, path: &Path) -> Error {
        self.location.path = Some(path.into());
        self
    }

    pub(crate) fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.source = Some(Arc::new(source));
        self
    }

    pub(crate) fn config(reason: impl Into<String>) -> Error {
        Error::new(ErrorKind::Config { reason: reason.into() })
    }

    /// For a value that cannot be sent.
    pub(crate) fn encode(e: EncodeError) -> Error {
        Error::config(e.to_string())
    }

    pub(crate) fn file(path: &Path, source: io::Error) -> Error {
        Error::new(ErrorKind::File).in_file(path).because(source)
    }

    pub(crate) fn io(broker: &dyn fmt::Display, phase: Phase, source: io::Error) -> Error {
        Error::new(ErrorKind::Io { phase }).at(broker).because(source)
    }

    pub(crate) fn connect(addr: &dyn fmt::Display, source: io::Error) -> Error {
        Error::new(ErrorKind::Connect).at(addr).because(source)
    }

    pub(crate) fn timeout(broker: &dyn fmt::Display, phase: Phase, after: Duration) -> Error {
        Error::new(ErrorKind::Timeout { phase, after: rounded_up_to_ms(after) }).at(broker)
    }

    pub(crate) fn disconnected(broker: &dyn fmt::Display, phase: Phase) -> Error {
        Error::new(ErrorKind::Disconnected { phase }).at(broker)
    }

    /// For malformed data. A bundle over the limit is not malformed: its error names both sizes.
    pub(crate) fn decode(e: DecodeError) -> Error {
        match (e.field(), e.fault(), e.partition()) {
            ("bundle length", DecodeFault::OverLimit { claimed: needed, limit }, Some((topic, partition))) => {
                Error::new(ErrorKind::BundleTooLarge { needed, limit }).about(topic, partition)
            }
            _ => Error::new(ErrorKind::Decode).because(e),
        }
    }

    pub(crate) fn refused(topic: &str, partition: impl Into<Option<u16>>, fault: Fault) -> Error {
        Error::new(ErrorKind::Broker { fault }).about(topic, partition)
    }

    pub(crate) fn unknown(topic: &str, partition: impl Into<Option<u16>>, source: Error) -> Error {
        Error::new(ErrorKind::OutcomeUnknown).about(topic, partition).because(source)
    }
}

// Sound, because nobody changes an error or its source.
impl UnwindSafe for Error {}
impl RefUnwindSafe for Error {}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// `{:#}` adds the texts of all sources.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error { kind, location, .. } = self;
        let topic = location.topic_prefix();
        match (kind, &location.broker, &location.path) {
            (ErrorKind::Connect, Some(broker), _) => write!(f, "{topic}{kind} to {broker}")?,
            (ErrorKind::File, _, Some(path)) => write!(f, "{kind} {}", path.display())?,
            (_, Some(broker), _) => write!(f, "{broker}: {topic}{kind}")?,
            (_, None, Some(path)) => write!(f, "{topic}{}: {kind}", path.display())?,
            (_, None, None) => write!(f, "{topic}{kind}")?,
        }
        if f.alternate() {
            let mut cause = std::error::Error::source(self);
            while let Some(e) = cause {
                write!(f, ": {e}")?;
                cause = e.source();
            }
        }
        Ok(())
    }
}

/// Writes the text of the error and of all its sources, because that is what `main` and `unwrap` show.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")
    }
}

impl Location {
    /// Returns `orders/3: ` or `orders: `, or nothing.
    fn topic_prefix(&self) -> String {
        match (&self.topic, self.partition) {
            (Some(topic), Some(partition)) => format!("{topic}/{partition}: "),
            (Some(topic), None) => format!("{topic}: "),
            (None, _) => String::new(),
        }
    }
}

fn out_of_range(requested: u64, first: u64, mark: u64) -> String {
    if requested <= mark {
        return format!("gone: first available {first}, high-water mark {mark}");
    }
    let why = "the start is too high, or the topic was created again or has lost its last messages";
    format!("beyond the end, high-water mark {mark}: {why}")
}

/// Returns a time in milliseconds, rounded up.
pub(crate) fn ms_rounded_up(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Returns a time without its odd fraction of a millisecond, which nobody wants to read.
pub(crate) fn rounded_up_to_ms(time: Duration) -> Duration {
    Duration::from_millis(ms_rounded_up(time))
}

/// Keeps the kind of the network's or the file's own error, or takes the nearest one. The error becomes the source.
impl From<Error> for io::Error {
    fn from(e: Error) -> io::Error {
        io::Error::new(e.io_kind(), e)
    }
}

/// Returns whether this machine lacks descriptors or memory, which neither another broker nor waiting can mend.
pub(crate) fn is_out_of_resources(e: &io::Error) -> bool {
    // EMFILE, ENFILE, ENOBUFS and ENOMEM, of which std has a kind only for the last; Windows: WSAEMFILE, WSAENOBUFS.
    let codes: &[i32] = if cfg!(windows) {
        &[10_024, 10_055]
    } else if cfg!(any(target_os = "linux", target_os = "android")) {
        &[24, 23, 105, 12]
    } else {
        &[24, 23, 55, 12]
    };
    e.kind() == io::ErrorKind::OutOfMemory || e.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// What a connection was being used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Opening the connection.
    Connect,
    /// Waiting for the ping with which a broker greets.
    Greet,
    /// Sending a request.
    Send,
    /// Waiting for an answer to begin.
    Wait,
    /// Reading an answer that has begun.
    Read,
}

texts! {
    Phase:
    Self::Connect => "connecting";
    Self::Greet => "waiting for its greeting";
    Self::Send => "sending a request";
    Self::Wait => "waiting for an answer";
    Self::Read => "receiving an answer";
}

/// Why a broker refused, or why its answers cannot be followed.
///
/// Most are codes in a broker's answer. `Redirects`, `RedirectRefused`, `AnotherWriter`, `Stuck` and `Deadly` are the client's
/// own conclusions. With `SeqTooFar`, and often with `SeqNotAbove`, the records were not even sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// There is no such topic.
    UnknownTopic,
    /// The topic has no such partition, or it is disabled.
    UnknownPartition,
    /// The broker could not open or write its files.
    System,
    /// No node leads the partition now.
    NoLeader,
    /// Nodes kept naming each other, or nodes that cannot be reached.
    Redirects {
        /// How many redirects were followed.
        hops: u32,
        /// The node that was named last.
        last: SocketAddrV4,
    },
    /// A redirect to a node that [`ClientBuilder::known_brokers_only`](crate::ClientBuilder::known_brokers_only) does not allow.
    RedirectRefused(SocketAddrV4),
    /// The broker takes no messages and creates no topics.
    ReadOnly,
    /// Fewer replicas are in sync than the publish requires.
    InsufficientReplicas,
    /// Stored by the leader, but not confirmed by enough replicas in time.
    NotConfirmed,
    /// A sequence number at or below the last one stored.
    SeqNotAbove {
        /// The number that was to be stored.
        seq: u64,
    },
    /// The log ends at a number that an [idempotent](crate::ProducerBuilder::idempotent) producer has not sent.
    AnotherWriter {
        /// The last number in the leader's log.
        end: u64,
    },
    /// A sequence number so far above the last one stored, or above the bundle's first one, that it can kill a server.
    SeqTooFar {
        /// The number that was to be stored.
        seq: u64,
    },
    /// The topic to create exists already.
    TopicExists,
    /// The configuration does not parse, or its file is missing, unreadable or empty.
    InvalidConfig,
    /// The topic's name is invalid, or it has no partitions.
    InvalidTopic,
    /// The broker does not support the request; some requests are not supported in any cluster.
    Unsupported,
    /// The broker keeps sending only messages below the requested number, whatever the fetch size: the partition's numbering is
    /// broken. Or it sends only messages above a high-water mark that has not moved for
    /// [`retry_timeout`](crate::ClientBuilder::retry_timeout).
    Stuck {
        /// The number asked for.
        seq: u64,
    },
    /// Fetching this number ended two connections in a row. TANK servers die when asked for a number inside certain gaps, so it
    /// is not requested again. See [the guide](crate::guide::positions#a-gap-that-kills-a-server).
    Deadly {
        /// The number asked for.
        seq: u64,
        /// The high-water mark.
        mark: u64,
    },
}

texts! {
    Fault:
    Self::UnknownTopic => "no such topic";
    Self::UnknownPartition => "no such partition";
    Self::System => "the broker has trouble with its files";
    Self::NoLeader => "the partition has no leader now";
    Self::Redirects { hops, last } => "still redirected after {hops} redirects, the last one to {last}";
    Self::RedirectRefused(node) => "redirected to {node}, which the client's settings do not allow";
    Self::ReadOnly => "the broker is read-only";
    Self::InsufficientReplicas => "not enough replicas are in sync";
    Self::NotConfirmed => "not confirmed by enough replicas in time";
    Self::SeqNotAbove { seq } => "sequence number {seq} is not above the last one stored";
    Self::AnotherWriter { end } =>
        "the log ends at {end}, above all numbers this producer has sent: another writer publishes to the partition";
    Self::SeqTooFar { seq } => "sequence number {seq} lies 2^31 or more above the one before, which can kill a server";
    Self::TopicExists => "the topic exists already";
    Self::InvalidConfig => "the configuration is missing or does not parse";
    Self::InvalidTopic => "invalid topic name or number of partitions";
    Self::Unsupported => "not supported by this broker";
    Self::Stuck { seq } =>
        "cannot get past sequence number {seq}: all that the broker sends lies below it or above the high-water mark";
    Self::Deadly { seq, mark } =>
        "two connections ended when sequence number {seq} was asked for: a gap in the numbers there may kill the \
         server; Start::At({mark}) skips to the last message";
}

impl Fault {
    /// Returns whether waiting can help.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Fault::NoLeader | Fault::Redirects { .. } | Fault::InsufficientReplicas | Fault::System)
    }
}

#[cfg(test)]
mod tests;
