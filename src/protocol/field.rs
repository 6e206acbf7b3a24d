//! Fields in both directions from one declaration, so that what is written and what is read cannot disagree.
//!
//! Fields are put and taken; whole messages are encoded and decoded. With `Kind::Ping` for the id of its frame,
//! `message! { Greeting: Ping { id: u32 = "greeting id", text: String = "greeting", } }` stands for
//!
//! ```text
//! #[derive(Debug, Clone, PartialEq, Eq)]
//! pub struct Greeting {
//!     pub id: u32,
//!     pub text: String,
//! }
//!
//! impl Field for Greeting {
//!     fn put(value: &Greeting, _name: &'static str, out: &mut Vec<u8>) -> .. {
//!         <u32 as Field>::put(&value.id, "greeting id, bytes", out)?;
//!         <String as Field>::put(&value.text, "greeting, bytes", out)?;
//!         Ok(())
//!     }
//!
//!     fn take(_name: &'static str, cursor: &mut Cursor<'_>) -> .. {
//!         let id = <u32 as Field>::take("greeting id", cursor)?;
//!         let text = <String as Field>::take("greeting", cursor)?;
//!         Ok(Greeting { id, text })
//!     }
//! }
//!
//! impl Payload for Greeting { .. } // `Kind::Ping`, and the same two functions
//! ```

use std::net::SocketAddrV4;
use std::sync::Arc;

use super::cursor::{self, Cursor};
use super::error::{DecodeError, EncodeError};
use super::{frame, varint};

/// How a `Value` is written on the wire. Most types stand for themselves; those below stand for others.
pub(super) trait Field<Value = Self> {
    /// Appends it. `name` is what an error calls it, with its unit.
    ///
    /// # Errors
    /// A value that the wire has no room for, or that a server must not be sent.
    fn put(value: &Value, name: &'static str, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Reads it.
    ///
    /// # Errors
    /// Input that ends early, an undefined code or flag, or a name in a request that is not UTF-8.
    fn take(name: &'static str, cursor: &mut Cursor<'_>) -> Result<Value, DecodeError>;
}

/// Implements [`Field`] by two expressions.
macro_rules! field {
    ($field:ty as $type:ty:
        |$value:ident, $put_name:ident, $out:ident| $put:expr, |$take_name:ident, $cursor:ident| $take:expr) => {
        impl $crate::protocol::field::Field<$type> for $field {
            fn put($value: &$type, $put_name: &'static str, $out: &mut Vec<u8>) -> Result<(), EncodeError> {
                $put
            }

            fn take($take_name: &'static str, $cursor: &mut Cursor<'_>) -> Result<$type, DecodeError> {
                $take
            }
        }
    };
}

macro_rules! numbers {
    ($($number:ident)*) => {$(
        field!($number as $number:
            |value, _name, out| { out.extend_from_slice(&value.to_le_bytes()); Ok(()) }, |name, cursor| cursor.$number(name));
    )*};
}

/// The name of a topic in a request: 1 to 255 bytes of UTF-8, which an answer can repeat.
pub(super) struct TopicName;

/// The configuration of a topic, whose length is a varint; bytes that are not UTF-8 become replacement characters.
pub(super) struct Settings;

/// Partitions, as many as the rest of the payload holds.
pub(super) struct Partitions;

numbers! { u8 u16 u32 u64 }
field!(bool as bool: |value, name, out| u8::put(&(*value).into(), name, out), |name, cursor| cursor.flag(name));
field!(SocketAddrV4 as SocketAddrV4:
    |value, _name, out| { cursor::put_endpoint(*value, out); Ok(()) }, |name, cursor| cursor.endpoint(name));
field!(String as String: |value, name, out| cursor::put_str8(value.as_bytes(), name, out), |name, cursor| cursor.name(name));
field!(Arc<str> as Arc<str>:
    |value, name, out| cursor::put_str8(value.as_bytes(), name, out), |name, cursor| cursor.name(name).map(Arc::from));
field!(TopicName as String:
    |value, _name, out| cursor::put_topic(value, out), |name, cursor| cursor.text(name).map(str::to_owned));
field!(Settings as String: |value, name, out| {
    EncodeError::check(name, value.len(), 0, frame::MAX_REQUEST as u64)?;
    varint::encode(u32::try_from(value.len()).unwrap_or(u32::MAX), out);
    out.extend_from_slice(value.as_bytes());
    Ok(())
}, |name, cursor| {
    let len = cursor.varint("configuration length")?;
    Ok(String::from_utf8_lossy(cursor.bytes(len as usize, name)?).into_owned())
});
field!(Partitions as Vec<u16>: |value, _name, out| {
    EncodeError::check("partitions of a topic", value.len(), 0, u16::MAX.into())?;
    out.extend(value.iter().flat_map(|id| id.to_le_bytes()));
    Ok(())
}, |name, cursor| std::iter::from_fn(|| (cursor.left() > 0).then(|| cursor.u16(name))).collect());

/// What old versions leave out at the end.
impl<T: Field> Field for Option<T> {
    fn put(value: &Option<T>, name: &'static str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        value.iter().try_for_each(|value| T::put(value, name, out))
    }

    fn take(name: &'static str, cursor: &mut Cursor<'_>) -> Result<Option<T>, DecodeError> {
        (cursor.left() > 0).then(|| T::take(name, cursor)).transpose()
    }
}

/// Declares a struct by its fields, in the order of the wire, each with its name in errors: `name: Type = "name"`, or
/// `name: Type as Field = "name"`. With `: Kind` after the struct's name, it is a whole [`Payload`](frame::Payload). A field that
/// versions below 3 do not have is `from version 3`, where `version` is one before it.
macro_rules! message {
    ($(#[$meta:meta])* $message:ident $(: $kind:ident)? {
        $($(#[$doc:meta])* $field:ident: $type:ty $(as $wire:ty)? = $name:literal $(from $version:ident $least:literal)?,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $message {
            $($(#[$doc])* pub $field: $type,)*
        }

        field!($message as $message: |value, _name, out| {
            $(message!(@if [$(value.$version >= $least)?]
                <message!(@wire $type $(, $wire)?) as Field<_>>::put(&value.$field, concat!($name, ", bytes"), out)?);)*
            Ok(())
        }, |_name, cursor| {
            $(let $field = message!(@if [$($version >= $least)?]
                <message!(@wire $type $(, $wire)?) as Field<_>>::take($name, cursor)?);)*
            Ok($message { $($field),* })
        });

        $(impl Payload for $message {
            const KIND: Kind = Kind::$kind;

            fn put_fields(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                <$message as Field>::put(self, "", out)
            }

            fn take_fields(cursor: &mut Cursor<'_>, _: &Limits) -> Result<$message, DecodeError> {
                <$message as Field>::take("", cursor)
            }
        })?
    };
    // Whether a field is there at all depends on a condition, or not.
    (@if [] $then:expr) => { $then };
    (@if [$condition:expr] $then:expr) => { if $condition { $then } else { Default::default() } };
    // A field's type, or the one that it has on the wire.
    (@wire $type:ty) => { $type };
    (@wire $type:ty, $wire:ty) => { $wire };
}

/// Declares an enum of one-byte codes, after which a field may follow: `Code(field: Type = "name") = number`. A second number is
/// read as the code, too.
macro_rules! codes {
    ($(#[$meta:meta])* $codes:ident {
        $($(#[$doc:meta])* $code:ident $(($field:ident: $type:ty = $name:literal))? = $number:literal $(| $other:literal)?,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $codes {
            $($(#[$doc])* $code $(($type))? = $number,)*
        }

        field!($codes as $codes: |value, _name, out| {
            match value {
                $($codes::$code $(($field))? => {
                    out.push($number);
                    $(<$type as Field>::put($field, $name, out)?;)?
                })*
            }
            Ok(())
        }, |name, cursor| {
            let at = cursor.at();
            match cursor.u8(name)? {
                $($number $(| $other)? => Ok($codes::$code $((<$type as Field>::take($name, cursor)?))?),)*
                found => Err(DecodeError::undefined(name, found, at)),
            }
        });
    };
}

pub(super) use {codes, field, message};
