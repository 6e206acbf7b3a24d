//! What can be wrong with bytes from the network, and with values to be sent.

use std::fmt;

/// Makes a type an error, given the text of each of its values. A derive macro that does the same takes a quarter of the time of a
/// cold build.
macro_rules! texts {
    ($type:ident: $($value:pat $(if $condition:expr)? => $text:literal $(, $argument:expr)*;)+) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self { $($value $(if $condition)? => write!(f, $text $(, $argument)*),)+ }
            }
        }

        impl std::error::Error for $type {}
    };
}
pub(crate) use texts;

/// Bytes from a peer that violate the protocol or exceed a limit.
///
/// Names the field, what was found, what is allowed, and where: [`at`](DecodeError::at) counts bytes from the start of the
/// frame's payload or of the file; for a field inside a message, from the start of the message set.
#[derive(Clone, PartialEq, Eq)]
pub struct DecodeError(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    field: &'static str,
    fault: DecodeFault,
    at: u64,
    place: Option<(Box<str>, u16)>,
}

/// The result of reading.
pub(super) type Decoded<T = ()> = Result<T, DecodeError>;

/// The ways in which a field can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeFault {
    /// The field needs more bytes than its container holds.
    Short {
        /// Bytes the field takes.
        needed: u64,
        /// Bytes its container still has.
        left: u64,
    },
    /// The container has bytes after its last field.
    Spare {
        /// The number of excess bytes.
        extra: u64,
    },
    /// A varint of more than five bytes, or above 2^32−1.
    Varint,
    /// More than a limit of [`Limits`](super::Limits) allows.
    OverLimit {
        /// What the peer claimed.
        claimed: u64,
        /// What is allowed.
        limit: u64,
    },
    /// More than is possible, regardless of the limits: a length that the input cannot produce, or endless repetition.
    Implausible {
        /// What was claimed or found.
        claimed: u64,
        /// The most that is possible.
        most: u64,
    },
    /// A value other than the required one.
    Unexpected {
        /// What was found.
        found: u64,
        /// The required value.
        expected: u64,
    },
    /// A value without a meaning, so that what follows cannot be located.
    Undefined {
        /// What was found.
        value: u64,
    },
    /// A value reserved for extensions that this crate does not know.
    Unsupported {
        /// What was found.
        value: u64,
    },
    /// A sequence number outside the range that its bundle or chunk allows.
    SeqRange {
        /// The sequence number found.
        seq: u64,
        /// The lowest one that is allowed.
        low: u64,
        /// The highest one that is allowed.
        high: u64,
    },
    /// A name that is not UTF-8 where UTF-8 is required.
    Text,
    /// A name other than the requested one.
    Name,
    /// Compressed data that does not decompress to the length it claims.
    Snappy {
        /// What the decompressor reported.
        reason: &'static str,
    },
}

texts! {
    DecodeFault:
    Self::Short { needed, left } => "needs {needed} bytes where {left} are left";
    Self::Spare { extra } => "{extra} bytes follow where it should end";
    Self::Varint => "is no 32-bit varint of at most 5 bytes";
    Self::OverLimit { claimed, limit } => "claims {claimed}, above the limit of {limit}";
    Self::Implausible { claimed, most } => "is {claimed}, where there can be {most} at most";
    Self::Unexpected { found, expected } => "is {found}, expected {expected}";
    Self::Undefined { value } => "has the undefined value {value}";
    Self::Unsupported { value } => "has the value {value}, which this version does not support";
    Self::SeqRange { seq, low, high } => "{seq} is outside {low}..={high}";
    Self::Text => "is not UTF-8";
    Self::Name => "is not the one that was asked for";
    Self::Snappy { reason } => "does not decompress: {reason}";
}

impl DecodeError {
    // Neither is inlined: they are called in hundreds of places, and never in a hurry.
    #[cold]
    #[inline(never)]
    pub(crate) fn new(field: &'static str, fault: DecodeFault, at: u64) -> DecodeError {
        DecodeError(Box::new(Inner { field, fault, at, place: None }))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn short(field: &'static str, needed: u64, left: u64, at: u64) -> DecodeError {
        DecodeError::new(field, DecodeFault::Short { needed, left }, at)
    }

    #[cold]
    pub(crate) fn unexpected(field: &'static str, found: u64, expected: u64, at: u64) -> DecodeError {
        DecodeError::new(field, DecodeFault::Unexpected { found, expected }, at)
    }

    #[cold]
    pub(crate) fn undefined(field: &'static str, value: impl Into<u64>, at: u64) -> DecodeError {
        DecodeError::new(field, DecodeFault::Undefined { value: value.into() }, at)
    }

    /// Returns `Ok` if a claim keeps to a limit.
    #[inline]
    pub(crate) fn check(field: &'static str, claimed: impl Into<u64>, limit: u32, at: u64) -> Result<(), DecodeError> {
        let (claimed, limit) = (claimed.into(), limit.into());
        let fault = DecodeFault::OverLimit { claimed, limit };
        if claimed > limit { Err(DecodeError::new(field, fault, at)) } else { Ok(()) }
    }

    /// Returns `Ok` if a claim is possible, regardless of the limits.
    pub(crate) fn check_possible(field: &'static str, claimed: u64, most: u64, at: u64) -> Result<(), DecodeError> {
        let fault = DecodeFault::Implausible { claimed, most };
        if claimed > most { Err(DecodeError::new(field, fault, at)) } else { Ok(()) }
    }

    /// Returns `Ok` if what a field takes is left in its container.
    pub(crate) fn check_fits(field: &'static str, needed: u64, left: u64, at: u64) -> Result<(), DecodeError> {
        if needed > left { Err(DecodeError::short(field, needed, left, at)) } else { Ok(()) }
    }

    /// Returns `Ok` if what was found is what must be there.
    pub(crate) fn check_is(field: &'static str, found: impl Into<u64>, expected: impl Into<u64>, at: u64) -> Decoded {
        let (found, expected) = (found.into(), expected.into());
        if found == expected { Ok(()) } else { Err(DecodeError::unexpected(field, found, expected, at)) }
    }

    /// Returns the same error with the partition in which it was found.
    #[cold]
    pub(crate) fn in_partition(mut self, topic: &str, partition: u16) -> DecodeError {
        self.0.place.get_or_insert_with(|| (topic.into(), partition));
        self
    }

    /// Returns the name of the field, as in the protocol reference.
    pub fn field(&self) -> &'static str {
        self.0.field
    }

    /// Returns what is wrong with it.
    pub fn fault(&self) -> DecodeFault {
        self.0.fault
    }

    /// Returns where it is, in bytes from the start of the frame's payload, of the file, or of the message set.
    pub fn at(&self) -> u64 {
        self.0.at
    }

    /// Returns the partition it belongs to, if that is known.
    pub fn partition(&self) -> Option<(&str, u16)> {
        self.0.place.as_ref().map(|(topic, partition)| (&**topic, *partition))
    }

    /// Returns whether it exceeds one of [`Limits`](super::Limits), rather than violating the protocol.
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

/// Writes the text, because that is what `main` and `unwrap` show.
impl fmt::Debug for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for DecodeError {}

/// A value that does not fit the wire format, or that must never be sent to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeError {
    /// What was given, with its unit.
    pub field: &'static str,
    /// How much of it.
    pub given: u64,
    /// The least that is allowed.
    pub min: u64,
    /// The most that is allowed.
    pub max: u64,
}

texts! {
    EncodeError:
    Self { field, given, min, max } if min == max => "{field}: {given} given, {max} allowed";
    Self { field, given, min, max } => "{field}: {given} given, {min} to {max} allowed";
}

/// The result of writing.
pub(super) type Encoded<T = ()> = Result<T, EncodeError>;

impl EncodeError {
    /// Returns `Ok` if `given` is in `min..=max`.
    pub(crate) fn check(field: &'static str, given: usize, min: u64, max: u64) -> Result<(), EncodeError> {
        let given = given as u64;
        if given < min || given > max { Err(EncodeError { field, given, min, max }) } else { Ok(()) }
    }

    /// Returns `Ok` if there are as many as expected.
    pub(crate) fn check_is(field: &'static str, given: u64, expected: u64) -> Result<(), EncodeError> {
        if given == expected { Ok(()) } else { Err(EncodeError { field, given, min: expected, max: expected }) }
    }
}
