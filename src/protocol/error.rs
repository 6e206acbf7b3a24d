//! What can be wrong with bytes from the network, and with values that are to go there.

use std::fmt;

/// Bytes from a peer that break the protocol or a limit.
///
/// Names the field, what was found against what is allowed, and where: [`at`](DecodeError::at) counts bytes from the
/// start of the frame's payload or of a file, or from the start of the message set for a field inside a message.
#[derive(Clone, PartialEq, Eq)]
pub struct DecodeError(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    field: &'static str,
    fault: DecodeFault,
    at: u64,
    place: Option<(Box<str>, u16)>,
}

/// The ways in which a field can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeFault {
    /// The field needs more bytes than its container holds.
    #[error("needs {needed} bytes where {left} are left")]
    Short {
        /// Bytes the field takes.
        needed: u64,
        /// Bytes its container still has.
        left: u64,
    },
    /// The container goes on after its last field.
    #[error("{extra} bytes follow where it should end")]
    Spare {
        /// Bytes too many.
        extra: u64,
    },
    /// A varint of more than five bytes, or above 2^32−1.
    #[error("is no 32-bit varint of at most 5 bytes")]
    Varint,
    /// More than a limit of [`Limits`](super::Limits) allows.
    #[error("claims {claimed}, the limit is {limit}")]
    OverLimit {
        /// What the peer announced.
        claimed: u64,
        /// What is allowed.
        limit: u64,
    },
    /// More than can be true, whatever the limits: a length that so few bytes cannot yield, or repetition without end.
    #[error("is {claimed}, where there can be {most} at most")]
    Implausible {
        /// What was announced or found.
        claimed: u64,
        /// The most there can be.
        most: u64,
    },
    /// Another value than the one that must stand here.
    #[error("is {found}, expected {expected}")]
    Unexpected {
        /// What was found.
        found: u64,
        /// What must stand here.
        expected: u64,
    },
    /// A value without a meaning, so that nothing after it can be located.
    #[error("has the undefined value {value}")]
    Undefined {
        /// What was found.
        value: u64,
    },
    /// A value reserved for extensions that this crate does not know.
    #[error("has the value {value}, which this version does not support")]
    Unsupported {
        /// What was found.
        value: u64,
    },
    /// A sequence number outside the range its bundle or chunk leaves it.
    #[error("{seq} is outside {low}..={high}")]
    SeqRange {
        /// The sequence number found.
        seq: u64,
        /// The lowest one allowed.
        low: u64,
        /// The highest one allowed.
        high: u64,
    },
    /// A name that is not UTF-8, where one is needed that is.
    #[error("is not UTF-8")]
    Text,
    /// A name other than the one asked for.
    #[error("is not the one that was asked for")]
    Name,
    /// Compressed data that does not decompress to what it announces.
    #[error("does not decompress: {reason}")]
    Snappy {
        /// What the decompressor found.
        reason: &'static str,
    },
}

impl DecodeError {
    #[cold]
    pub(crate) fn new(field: &'static str, fault: DecodeFault, at: u64) -> DecodeError {
        DecodeError(Box::new(Inner { field, fault, at, place: None }))
    }

    /// The same error with the partition it was found in.
    #[cold]
    pub(crate) fn in_partition(mut self, topic: &str, partition: u16) -> DecodeError {
        self.0.place.get_or_insert_with(|| (topic.into(), partition));
        self
    }

    /// The field, in the words of the protocol reference.
    pub fn field(&self) -> &'static str {
        self.0.field
    }

    /// What is wrong with it.
    pub fn fault(&self) -> DecodeFault {
        self.0.fault
    }

    /// Where it stands, in bytes from the start of the frame's payload, of a file, or of the message set.
    pub fn at(&self) -> u64 {
        self.0.at
    }

    /// The partition it belongs to, where that is known.
    pub fn partition(&self) -> Option<(&str, u16)> {
        self.0.place.as_ref().map(|(topic, partition)| (&**topic, *partition))
    }

    /// Whether a limit of [`Limits`](super::Limits) was passed, rather than a rule of the protocol broken.
    pub fn is_over_limit(&self) -> bool {
        matches!(self.0.fault, DecodeFault::OverLimit { .. })
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { field, fault, at, place } = &*self.0;
        if let Some((topic, partition)) = place {
            write!(f, "{topic}/{partition}: ")?;
        }
        write!(f, "{field} {fault} (at byte {at})")
    }
}

impl fmt::Debug for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { field, fault, at, place } = &*self.0;
        f.debug_struct("DecodeError")
            .field("field", field)
            .field("fault", fault)
            .field("at", at)
            .field("place", place)
            .finish()
    }
}

impl std::error::Error for DecodeError {}

/// A value that the wire has no room for, or that a server must never be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {given} given, {min} to {max} allowed")]
pub struct EncodeError {
    /// What was given, with its unit.
    pub field: &'static str,
    /// How many or how much of it.
    pub given: u64,
    /// The least that is allowed.
    pub min: u64,
    /// The most that is allowed.
    pub max: u64,
}

impl EncodeError {
    /// `Ok` if `given` lies in `min..=max`.
    pub(crate) fn check(field: &'static str, given: usize, min: u64, max: u64) -> Result<(), EncodeError> {
        let given = given as u64;
        if given < min || given > max { Err(EncodeError { field, given, min, max }) } else { Ok(()) }
    }
}
