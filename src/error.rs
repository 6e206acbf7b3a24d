//! What can go wrong, as callers see it.

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::{DecodeError, DecodeFault, EncodeError};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
///
/// The text of an error does not repeat that of its [`source`](std::error::Error::source): `{:#}` writes all causes, too. What
/// happened at a broker names it.
///
/// ```
/// use tank_client::broker::Broker;
/// use tank_client::{Client, Error};
///
/// let broker = Broker::start()?;
/// let client = Client::connect(broker.addr())?;
/// let e = client.subscribe("orders").unwrap_err();
/// assert_eq!(e.to_string(), format!("{}: orders: no such topic", broker.addr()));
/// assert!(e.is_unknown_topic() && !e.is_retryable());
/// let Error::Broker { topic, .. } = &e else { panic!("{e:#}") };
/// assert_eq!(topic, "orders");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No broker could be reached. With several brokers, the source lists each one and its cause.
    #[non_exhaustive]
    Connect {
        /// The broker, or the list of brokers, as it was given.
        addr: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The network failed.
    #[non_exhaustive]
    Io {
        /// The broker.
        broker: String,
        /// What was being done.
        phase: Phase,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The broker did not connect, greet, send or receive in time.
    #[non_exhaustive]
    Timeout {
        /// The broker.
        broker: String,
        /// What was being waited for.
        phase: Phase,
        /// How long the wait lasted.
        after: Duration,
    },
    /// The broker closed the connection.
    #[non_exhaustive]
    Disconnected {
        /// The broker.
        broker: String,
        /// What was being done.
        phase: Phase,
    },
    /// Another service answers at the broker's address: it does not greet as a TANK broker does.
    #[non_exhaustive]
    NotTank {
        /// The broker.
        broker: String,
        /// What it greets with instead of a ping.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A wait was ended by [`CloseHandle::close`](crate::CloseHandle::close).
    Closed,
    /// The broker sent what the protocol does not allow, or more than [`Limits`](crate::Limits) do.
    #[non_exhaustive]
    Decode {
        /// The broker.
        broker: String,
        /// The field, what was found against what is allowed, and where.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The sequence number asked for is not there: retention took it, or it lies beyond the end. A saved position beyond the end
    /// is not of this log: see [`Subscription::beyond_end`](crate::Subscription::beyond_end).
    #[non_exhaustive]
    OutOfRange {
        /// The broker at which it happened, if it was at one.
        broker: Option<String>,
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// The number asked for.
        requested: u64,
        /// The first number still there; 0 on a partition that never had a message.
        first_available: u64,
        /// The last number assigned.
        high_water_mark: u64,
    },
    /// The broker refused, or what it says cannot be followed.
    #[non_exhaustive]
    Broker {
        /// The broker at which it happened, if it was at one.
        broker: Option<String>,
        /// The topic.
        topic: String,
        /// The partition, if it is about one.
        partition: Option<u16>,
        /// The reason.
        fault: Fault,
    },
    /// A bundle too large for any fetch within the limits, or a record too large for a request.
    #[non_exhaustive]
    BundleTooLarge {
        /// The broker at which it happened, if it was at one.
        broker: Option<String>,
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// Its size in bytes, or the least it is known to be.
        needed: u64,
        /// Bytes allowed: [`Limits::bundle`](crate::Limits::bundle) when reading, 255 MiB when publishing.
        limit: u64,
    },
    /// A publish was sent and got no clear answer: the messages may be stored or not. The same for the creation of a topic,
    /// which may exist or not; the partition is 0 then.
    #[non_exhaustive]
    OutcomeUnknown {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// How the answer was lost, or what it says instead.
        source: Box<Error>,
    },
    /// A publish took several bundles, of which only the first ones are known to be stored.
    #[non_exhaustive]
    PartlyStored {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// How many records of the call were stored.
        stored: usize,
        /// What became of the rest: [`OutcomeUnknown`](Error::OutcomeUnknown) if they may be stored; with any other error
        /// they are not.
        source: Box<Error>,
    },
    /// Records that a [`Producer`](crate::Producer) did not send because earlier ones of their partition failed: sent again
    /// together, they keep their order.
    #[non_exhaustive]
    NotSent {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// What became of the records before.
        source: Arc<Error>,
    },
    /// Records that a [`Producer`](crate::Producer) may not have stored wait for
    /// [`retry_failures`](crate::Producer::retry_failures) or [`take_failures`](crate::Producer::take_failures).
    #[non_exhaustive]
    Undelivered {
        /// How many.
        records: usize,
        /// What became of the first of them.
        source: Arc<Error>,
    },
    /// A [`Producer`](crate::Producer) holds as many bytes as [it may](crate::ProducerBuilder::max_pending_bytes), or a quarter
    /// of them for this partition. The record was not taken.
    #[non_exhaustive]
    Full {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// Bytes taken that are neither stored nor have failed.
        pending: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A [`Checkpoint`](crate::Checkpoint) file that cannot be used.
    #[non_exhaustive]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it: torn or damaged, no checkpoint, of a newer version, gone, or changed by somebody else.
        reason: String,
        /// Whether [`Checkpoint::open_previous`](crate::Checkpoint::open_previous) will do.
        previous: bool,
    },
    /// A [segment](crate::segment) file does not hold what it should.
    #[non_exhaustive]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file the bundle begins, its length in front included.
        at: u64,
        /// The field, and what was found against what is allowed; its place is counted from the start of the file, or
        /// of the message set for a field inside a message.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A file could not be read or written.
    #[non_exhaustive]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A call with arguments that cannot work; nothing was sent.
    #[non_exhaustive]
    Config {
        /// What is wrong, with the value and what is allowed.
        reason: String,
    },
}

impl Error {
    /// Returns whether time ran out.
    pub fn is_timeout(&self) -> bool {
        self.kind() == io::ErrorKind::TimedOut
    }

    /// Returns whether a connection ended, rather than took too long.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self.outcome(), Error::Io { .. } | Error::Disconnected { .. }) && !self.is_timeout()
    }

    /// Returns whether records may be stored or not, or a topic may have been created or not.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Error::PartlyStored { source, .. } => source.is_outcome_unknown(),
            Error::Undelivered { source, .. } => source.is_outcome_unknown(),
            _ => matches!(self, Error::OutcomeUnknown { .. }),
        }
    }

    /// Returns whether there is no such topic.
    pub fn is_unknown_topic(&self) -> bool {
        matches!(self.outcome(), Error::Broker { fault: Fault::UnknownTopic, .. })
    }

    /// Returns whether the same call may succeed later, and making it again cannot do anything twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::Io { .. } | Error::Timeout { .. } | Error::Disconnected { .. } => true,
            Error::NotTank { .. } | Error::NotSent { .. } | Error::Full { .. } => true,
            Error::Broker { fault, .. } => fault.is_retryable(),
            _ => false,
        }
    }

    /// Whether waiting may help: trouble with a broker or a partition's leader, not with the data or this machine.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Error::Connect { source, .. } => !is_lack(source),
            Error::Io { .. } | Error::Timeout { .. } | Error::Disconnected { .. } | Error::NotTank { .. } => true,
            Error::Broker { fault, .. } => matches!(fault, Fault::NoLeader | Fault::Redirects { .. }),
            _ => false,
        }
    }

    /// Whether a broker named another one.
    pub(crate) fn is_redirect(&self) -> bool {
        matches!(self, Error::Broker { fault: Fault::Redirects { .. }, .. })
    }

    /// Writes where it happened, as far as that is known: broker, topic and partition, or file.
    fn write_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { broker, .. }
            | Error::Timeout { broker, .. }
            | Error::Disconnected { broker, .. }
            | Error::NotTank { broker, .. }
            | Error::Decode { broker, .. } => write!(f, "{broker}: "),
            Error::OutOfRange { broker, topic, partition, .. }
            | Error::BundleTooLarge { broker, topic, partition, .. }
            | Error::Broker { broker, topic, partition: Some(partition), .. } => {
                write!(f, "{}{topic}/{partition}: ", prefix(broker))
            }
            Error::Broker { broker, topic, .. } => write!(f, "{}{topic}: ", prefix(broker)),
            Error::OutcomeUnknown { topic, partition, .. }
            | Error::PartlyStored { topic, partition, .. }
            | Error::NotSent { topic, partition, .. }
            | Error::Full { topic, partition, .. } => write!(f, "{topic}/{partition}: "),
            Error::Checkpoint { path, .. } | Error::Corrupt { path, .. } => write!(f, "{}: ", path.display()),
            _ => Ok(()),
        }
    }

    /// What became of records in the end.
    fn outcome(&self) -> &Error {
        match self {
            Error::OutcomeUnknown { source, .. } | Error::PartlyStored { source, .. } => source.outcome(),
            Error::Undelivered { source, .. } => source.outcome(),
            e => e,
        }
    }

    fn kind(&self) -> io::ErrorKind {
        match self.outcome() {
            Error::Connect { source, .. } | Error::Io { source, .. } | Error::File { source, .. } => source.kind(),
            Error::Timeout { .. } => io::ErrorKind::TimedOut,
            Error::Disconnected { .. } => io::ErrorKind::ConnectionAborted,
            Error::NotTank { .. } | Error::Decode { .. } | Error::Corrupt { .. } => io::ErrorKind::InvalidData,
            Error::Config { .. } => io::ErrorKind::InvalidInput,
            Error::Broker { fault: Fault::UnknownTopic | Fault::UnknownPartition, .. } => io::ErrorKind::NotFound,
            Error::Broker { fault: Fault::TopicExists, .. } => io::ErrorKind::AlreadyExists,
            _ => io::ErrorKind::Other,
        }
    }

    pub(crate) fn config(reason: impl Into<String>) -> Error {
        Error::Config { reason: reason.into() }
    }

    /// What cannot be sent.
    pub(crate) fn encode(e: EncodeError) -> Error {
        Error::config(e.to_string())
    }

    pub(crate) fn file(path: &Path, source: io::Error) -> Error {
        Error::File { path: path.into(), source: Arc::new(source) }
    }

    pub(crate) fn io(broker: &impl ToString, phase: Phase, source: io::Error) -> Error {
        Error::Io { broker: broker.to_string(), phase, source: Arc::new(source) }
    }

    pub(crate) fn connect(addr: &impl ToString, source: io::Error) -> Error {
        Error::Connect { addr: addr.to_string(), source: Arc::new(source) }
    }

    pub(crate) fn timeout(broker: &impl ToString, phase: Phase, after: Duration) -> Error {
        // Shares of a time-out have odd fractions, which nobody wants to read.
        let after = Duration::from_millis(after.as_nanos().div_ceil(1_000_000) as u64);
        Error::Timeout { broker: broker.to_string(), phase, after }
    }

    pub(crate) fn disconnected(broker: &impl ToString, phase: Phase) -> Error {
        Error::Disconnected { broker: broker.to_string(), phase }
    }

    /// Malformed data; a bundle over the limit is none, and the error names both sizes.
    pub(crate) fn decode(broker: &impl ToString, e: DecodeError) -> Error {
        match (e.field(), e.fault(), e.partition()) {
            ("bundle length", DecodeFault::OverLimit { claimed, limit }, Some((topic, partition))) => {
                let (broker, topic) = (Some(broker.to_string()), topic.to_owned());
                Error::BundleTooLarge { broker, topic, partition, needed: claimed, limit }
            }
            _ => Error::Decode { broker: broker.to_string(), source: Arc::new(e) },
        }
    }

    pub(crate) fn broker(topic: &str, partition: impl Into<Option<u16>>, fault: Fault) -> Error {
        Error::Broker { broker: None, topic: topic.to_owned(), partition: partition.into(), fault }
    }

    /// Names the broker at which it happened.
    pub(crate) fn at(mut self, at: &impl ToString) -> Error {
        if let Error::Broker { broker, .. } = &mut self {
            *broker = Some(at.to_string());
        }
        self
    }

    pub(crate) fn unknown(topic: &str, partition: u16, source: Error) -> Error {
        Error::OutcomeUnknown { topic: topic.to_owned(), partition, source: Box::new(source) }
    }
}

/// `{:#}` adds the texts of all sources.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_place(f)?;
        match self {
            Error::Connect { addr, .. } => write!(f, "cannot connect to {addr}"),
            Error::Io { phase, .. } => write!(f, "network failure while {phase}"),
            Error::Timeout { phase, after, .. } => write!(f, "timed out after {after:?} {phase}"),
            Error::Disconnected { phase, .. } => write!(f, "connection closed by the broker while {phase}"),
            Error::NotTank { .. } => f.write_str("not a TANK broker"),
            Error::Closed => f.write_str("ended by a close handle while waiting"),
            Error::Decode { .. } => f.write_str("malformed data from the broker"),
            Error::OutOfRange { requested, first_available, high_water_mark: mark, .. } if requested <= mark => {
                let first = first_available;
                write!(f, "sequence number {requested} is gone, first available is {first}, the high-water mark {mark}")
            }
            Error::OutOfRange { requested, high_water_mark: mark, .. } => {
                let why =
                    "a topic that was created again, or lost its last messages, does not know positions of before";
                write!(f, "sequence number {requested} is beyond the end, the high-water mark is {mark}: {why}")
            }
            Error::Broker { fault, .. } => fault.fmt(f),
            Error::BundleTooLarge { needed, limit, .. } => {
                write!(f, "a bundle of {needed} bytes, the limit is {limit}")
            }
            Error::OutcomeUnknown { .. } => f.write_str("sent, but the outcome is unknown"),
            Error::PartlyStored { stored, .. } => write!(f, "only the first {stored} records are known to be stored"),
            Error::NotSent { .. } => f.write_str("not sent: an earlier bundle of this partition failed"),
            Error::Undelivered { records, .. } => {
                write!(f, "{records} records may not have been stored: retry or take the producer's failures")
            }
            Error::Full { pending, limit, .. } => write!(f, "full: {pending} bytes wait to be stored, {limit} allowed"),
            Error::Checkpoint { reason, previous: true, .. } => {
                write!(f, "{reason}; its previous generation is intact")
            }
            Error::Checkpoint { reason, .. } | Error::Config { reason } => f.write_str(reason),
            Error::Corrupt { at, .. } => write!(f, "malformed data in the bundle at byte {at}"),
            Error::File { path, .. } => write!(f, "cannot read or write {}", path.display()),
        }?;
        let mut cause = std::error::Error::source(self).filter(|_| f.alternate());
        while let Some(e) = cause {
            write!(f, ": {e}")?;
            cause = e.source();
        }
        Ok(())
    }
}

/// A broker's name and a colon.
fn prefix(broker: &Option<String>) -> String {
    broker.as_ref().map(|broker| format!("{broker}: ")).unwrap_or_default()
}

/// The kind is that of the network's or the file's own error, or the nearest one; the error is its source.
impl From<Error> for io::Error {
    fn from(e: Error) -> io::Error {
        io::Error::new(e.kind(), e)
    }
}

/// Whether this machine lacks descriptors or memory, which neither another broker nor waiting can mend.
pub(crate) fn is_lack(e: &io::Error) -> bool {
    // EMFILE, ENFILE, ENOBUFS and ENOMEM, for which std has no kinds but one; Windows: WSAEMFILE, WSAENOBUFS.
    let codes: &[i32] = match () {
        () if cfg!(windows) => &[10_024, 10_055],
        () if cfg!(any(target_os = "linux", target_os = "android")) => &[24, 23, 105, 12],
        () => &[24, 23, 55, 12],
    };
    e.kind() == io::ErrorKind::OutOfMemory || e.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// What a connection was being used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Looking up a host name.
    Resolve,
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

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Resolve => "looking up its name",
            Phase::Connect => "connecting",
            Phase::Greet => "waiting for its greeting",
            Phase::Send => "sending a request",
            Phase::Wait => "waiting for an answer",
            Phase::Read => "receiving an answer",
        })
    }
}

/// Why a broker refused, or why what it says cannot be followed.
///
/// Most stand for a code in an answer. `Redirects`, `RedirectRefused`, `AnotherWriter`, `Stuck` and `Deadly` are
/// the client's own conclusions. With `SeqTooFar`, and often with `SeqNotAbove`, no request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// There is no such topic.
    #[error("no such topic")]
    UnknownTopic,
    /// The topic has no such partition, or it is disabled.
    #[error("no such partition")]
    UnknownPartition,
    /// The broker could not open or write its files.
    #[error("the broker has trouble with its files")]
    System,
    /// No node leads the partition now.
    #[error("the partition has no leader now")]
    NoLeader,
    /// Nodes kept naming each other, or nodes that cannot be reached.
    #[error("still redirected after {hops} redirects, the last one to {last}")]
    Redirects {
        /// How many redirects were followed.
        hops: u32,
        /// The node that was named last.
        last: SocketAddrV4,
    },
    /// A redirect to a node that [`ClientBuilder::known_brokers_only`](crate::ClientBuilder::known_brokers_only) does not allow.
    #[error("redirected to {0}, which the client's settings do not allow")]
    RedirectRefused(SocketAddrV4),
    /// The broker takes no messages and creates no topics.
    #[error("the broker is read-only")]
    ReadOnly,
    /// Fewer replicas are in sync than acknowledgements were required.
    #[error("not enough replicas are in sync")]
    InsufficientReplicas,
    /// Stored by the leader, but not confirmed by enough replicas in time.
    #[error("not confirmed by enough replicas in time")]
    NotConfirmed,
    /// A sequence number at or below the last one stored.
    #[error("sequence number {seq} is not above the last one stored")]
    SeqNotAbove {
        /// The number that was to be stored.
        seq: u64,
    },
    /// The log ends at a number that an [idempotent](crate::ProducerBuilder::idempotent) producer has not sent.
    #[error(
        "the log ends at {end}, above all numbers this producer has sent: another writer publishes to the partition"
    )]
    AnotherWriter {
        /// The last number in the leader's log.
        end: u64,
    },
    /// A sequence number so far above the last one stored, or above the bundle's first one, that it can kill a server.
    #[error("sequence number {seq} lies 2^31 or more above the one before, which can kill a server")]
    SeqTooFar {
        /// The number that was to be stored.
        seq: u64,
    },
    /// The topic to create exists already.
    #[error("the topic exists already")]
    TopicExists,
    /// The configuration does not parse, or its file is missing, unreadable or empty.
    #[error("the configuration is missing or does not parse")]
    InvalidConfig,
    /// The topic's name is invalid, or it has no partitions.
    #[error("invalid topic name or number of partitions")]
    InvalidTopic,
    /// This broker, or any cluster, does not offer it.
    #[error("not supported by this broker")]
    Unsupported,
    /// All that the broker sends for this number lies below it, however much is asked for: the partition's numbering is broken.
    /// Or all of it lies above a high-water mark that has not moved for
    /// [`retry_timeout`](crate::ClientBuilder::retry_timeout).
    #[error(
        "cannot get past sequence number {seq}: all that the broker sends lies below it or above the high-water mark"
    )]
    Stuck {
        /// The number asked for.
        seq: u64,
    },
    /// Two connections in a row ended when this number was asked for, the second one just after the broker had answered a
    /// harmless question about the partition. A gap in the numbers before a partition's active segment kills a TANK server that
    /// is asked for it, so it is not asked for again. A client cannot see why a server ended: another cause that strikes twice at
    /// such moments looks the same, and a new subscription at the same number gets past it.
    #[error(
        "two connections ended when sequence number {seq} was asked for: a gap in the numbers there may kill the server; \
         Start::At({mark}) skips to the last message"
    )]
    Deadly {
        /// The number asked for.
        seq: u64,
        /// The high-water mark.
        mark: u64,
    },
}

impl Fault {
    /// Whether waiting can help.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Fault::NoLeader | Fault::Redirects { .. } | Fault::InsufficientReplicas | Fault::System)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stay_small() {
        assert!(size_of::<Error>() <= 80, "{}", size_of::<Error>());
        assert!(size_of::<Fault>() <= 24, "{}", size_of::<Fault>());
    }

    #[test]
    fn texts_name_topic_partition_and_numbers() {
        let e = Error::OutOfRange {
            broker: Some("a:1".into()),
            topic: "orders".into(),
            partition: 3,
            requested: 7,
            first_available: 10,
            high_water_mark: 20,
        };
        assert_eq!(
            e.to_string(),
            "a:1: orders/3: sequence number 7 is gone, first available is 10, the high-water mark 20"
        );
        assert_eq!(
            Error::broker("orders", 3, Fault::NoLeader).at(&"a:1").to_string(),
            "a:1: orders/3: the partition has no leader now"
        );
        assert_eq!(Error::broker("orders", None, Fault::UnknownTopic).to_string(), "orders: no such topic");
    }

    /// Every text says what it is about once, and its source says the rest.
    #[test]
    fn texts_name_what_failed_and_where() {
        use std::error::Error as _;

        let (topic, partition) = (|| "orders".to_owned(), 3);
        let network = || io::Error::new(io::ErrorKind::ConnectionReset, "reset by peer");
        let timeout = || Error::timeout(&"a:1", Phase::Wait, Duration::from_secs(8));
        let malformed = || DecodeError::new("message count", crate::protocol::DecodeFault::Undefined { value: 0 }, 17);
        let endpoint = SocketAddrV4::new([10, 20, 30, 40].into(), 11_011);
        let fault = |fault| Error::broker("orders", 3, fault);
        let table = [
            (Error::connect(&"a:1", network()), "cannot connect to a:1", "reset by peer"),
            (
                Error::io(&"a:1", Phase::Send, network()),
                "a:1: network failure while sending a request",
                "reset by peer",
            ),
            (timeout(), "a:1: timed out after 8s waiting for an answer", ""),
            (
                Error::disconnected(&"a:1", Phase::Read),
                "a:1: connection closed by the broker while receiving an answer",
                "",
            ),
            (
                Error::decode(&"a:1", malformed().in_partition("orders", 3)),
                "a:1: malformed data from the broker",
                "orders/3: message count has the undefined value 0 (at byte 17)",
            ),
            (
                Error::BundleTooLarge { broker: None, topic: topic(), partition, needed: 300, limit: 200 },
                "orders/3: a bundle of 300 bytes, the limit is 200",
                "",
            ),
            (
                Error::unknown("orders", 3, timeout()),
                "orders/3: sent, but the outcome is unknown",
                "a:1: timed out after 8s waiting for an answer",
            ),
            (
                Error::PartlyStored { topic: topic(), partition, stored: 9, source: timeout().into() },
                "orders/3: only the first 9 records are known to be stored",
                "a:1: timed out after 8s waiting for an answer",
            ),
            (
                Error::NotSent { topic: topic(), partition, source: timeout().into() },
                "orders/3: not sent: an earlier bundle of this partition failed",
                "a:1: timed out after 8s waiting for an answer",
            ),
            (
                Error::Undelivered { records: 7, source: timeout().into() },
                "7 records may not have been stored: retry or take the producer's failures",
                "a:1: timed out after 8s waiting for an answer",
            ),
            (
                Error::OutOfRange {
                    broker: None,
                    topic: topic(),
                    partition,
                    requested: 9,
                    first_available: 1,
                    high_water_mark: 4,
                },
                "orders/3: sequence number 9 is beyond the end, the high-water mark is 4: a topic that was created again, \
                 or lost its last messages, does not know positions of before",
                "",
            ),
            (
                Error::Checkpoint { path: "at".into(), reason: "a torn or damaged checkpoint".into(), previous: true },
                "at: a torn or damaged checkpoint; its previous generation is intact",
                "",
            ),
            (
                Error::Checkpoint {
                    path: "at".into(),
                    reason: "a checkpoint of version 2, this program knows 1".into(),
                    previous: false,
                },
                "at: a checkpoint of version 2, this program knows 1",
                "",
            ),
            (
                Error::Corrupt { path: "1.log".into(), at: 5, source: Arc::new(malformed()) },
                "1.log: malformed data in the bundle at byte 5",
                "message count has the undefined value 0 (at byte 17)",
            ),
            (Error::file(Path::new("at"), network()), "cannot read or write at", "reset by peer"),
            (
                fault(Fault::Redirects { hops: 4, last: endpoint }),
                "orders/3: still redirected after 4 redirects, the last one to 10.20.30.40:11011",
                "",
            ),
            (
                fault(Fault::RedirectRefused(endpoint)),
                "orders/3: redirected to 10.20.30.40:11011, which the client's settings do not allow",
                "",
            ),
            (fault(Fault::SeqNotAbove { seq: 6 }), "orders/3: sequence number 6 is not above the last one stored", ""),
            (
                fault(Fault::SeqTooFar { seq: 6 }),
                "orders/3: sequence number 6 lies 2^31 or more above the one before, which can kill a server",
                "",
            ),
            (
                fault(Fault::Stuck { seq: 6 }),
                "orders/3: cannot get past sequence number 6: all that the broker sends lies below it or above the high-water mark",
                "",
            ),
        ];
        for (e, text, source) in table {
            assert_eq!(e.to_string(), text);
            assert_eq!(e.source().map(ToString::to_string).unwrap_or_default(), source, "{text}");
            let between = if source.is_empty() { "" } else { ": " };
            assert_eq!(format!("{e:#}"), format!("{text}{between}{source}"));
        }
    }

    #[test]
    fn the_kinds_of_io_errors() {
        use io::ErrorKind::*;
        let timeout = Error::timeout(&"a:1", Phase::Wait, Duration::from_secs(1));
        let fault = |fault| Error::broker("orders", 3, fault);
        for (e, kind) in [
            (Error::connect(&"a:1", ConnectionRefused.into()), ConnectionRefused),
            (Error::unknown("orders", 3, timeout), TimedOut),
            (Error::disconnected(&"a:1", Phase::Read), ConnectionAborted),
            (Error::file(Path::new("at"), PermissionDenied.into()), PermissionDenied),
            (fault(Fault::UnknownPartition), NotFound),
            (fault(Fault::TopicExists), AlreadyExists),
            (fault(Fault::NoLeader), Other),
            (Error::config("no"), InvalidInput),
            (Error::Closed, Other),
        ] {
            let text = e.to_string();
            let e = io::Error::from(e);
            assert_eq!((e.kind(), e.to_string()), (kind, text));
            assert!(e.get_ref().unwrap().is::<Error>());
        }
    }

    #[test]
    fn predicates_also_look_at_the_cause() {
        let timeout = || Error::timeout(&"a:1", Phase::Wait, Duration::from_secs(1));
        assert!(timeout().is_timeout() && timeout().is_retryable());
        let unknown = Error::OutcomeUnknown { topic: "t".into(), partition: 0, source: Box::new(timeout()) };
        assert!(unknown.is_timeout() && !unknown.is_retryable());
        let source = || Arc::new(timeout());
        let undelivered = Error::Undelivered { records: 1, source: source() };
        assert!(undelivered.is_timeout() && !undelivered.is_retryable());
        let partly = Error::PartlyStored { topic: "t".into(), partition: 0, stored: 1, source: timeout().into() };
        assert!(partly.is_timeout() && !partly.is_retryable());
        let not_sent = Error::NotSent { topic: "t".into(), partition: 0, source: source() };
        assert!(!not_sent.is_timeout() && not_sent.is_retryable());
        let late = Error::io(&"a:1", Phase::Read, io::ErrorKind::TimedOut.into());
        assert!(late.is_timeout() && late.is_retryable() && !late.is_connection_lost());
        assert!(unknown.is_outcome_unknown() && undelivered.is_timeout() && !undelivered.is_outcome_unknown());
        let partly = Error::PartlyStored { topic: "t".into(), partition: 0, stored: 1, source: unknown.into() };
        assert!(partly.is_outcome_unknown() && !partly.is_connection_lost());
        let lost = Error::unknown("t", 0, Error::disconnected(&"a:1", Phase::Wait));
        assert!(lost.is_connection_lost() && lost.is_outcome_unknown() && !lost.is_unknown_topic());
        assert!(Error::broker("t", None, Fault::UnknownTopic).is_unknown_topic());
        assert!(!Error::config("x").is_retryable());
        assert!(Error::broker("t", 0, Fault::NoLeader).is_retryable());
    }
}
