//! Fields in both directions from one declaration, so that what is written and what is read cannot disagree.

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
    fn take(name: &'static str, c: &mut Cursor<'_>) -> Result<Value, DecodeError>;
}

macro_rules! field {
    ($field:ty as $value:ty: |$put:ident, $called:ident, $out:ident| $puts:expr, |$name:ident, $c:ident| $takes:expr) => {
        impl $crate::protocol::field::Field<$value> for $field {
            fn put($put: &$value, $called: &'static str, $out: &mut Vec<u8>) -> Result<(), EncodeError> {
                $puts
            }

            fn take($name: &'static str, $c: &mut Cursor<'_>) -> Result<$value, DecodeError> {
                $takes
            }
        }
    };
}

macro_rules! numbers {
    ($($number:ident)*) => {$(
        field!($number as $number: |v, _name, out| { out.extend_from_slice(&v.to_le_bytes()); Ok(()) }, |name, c| c.$number(name));
    )*};
}

/// The name of a topic in a request: 1 to 255 bytes of UTF-8, which an answer can repeat.
pub(super) struct TopicName;

/// The configuration of a topic, whose length is a varint; bytes that are not UTF-8 become replacement characters.
pub(super) struct Settings;

/// Partitions, as many as the rest of the payload holds.
pub(super) struct Partitions;

numbers! { u8 u16 u32 u64 }
field!(bool as bool: |v, name, out| u8::put(&(*v).into(), name, out), |name, c| c.flag(name));
field!(SocketAddrV4 as SocketAddrV4: |v, _name, out| { cursor::put_endpoint(*v, out); Ok(()) }, |name, c| c.endpoint(name));
field!(String as String: |v, name, out| cursor::put_str8(v.as_bytes(), name, out), |name, c| c.name(name));
field!(Arc<str> as Arc<str>: |v, name, out| cursor::put_str8(v.as_bytes(), name, out), |name, c| c.name(name).map(Arc::from));
field!(TopicName as String: |v, _name, out| cursor::put_topic(v, out), |name, c| c.text(name).map(str::to_owned));
field!(Settings as String: |v, name, out| {
    EncodeError::check(name, v.len(), 0, frame::MAX_REQUEST as u64)?;
    varint::encode(u32::try_from(v.len()).unwrap_or(u32::MAX), out);
    out.extend_from_slice(v.as_bytes());
    Ok(())
}, |name, c| {
    let len = c.varint("configuration length")?;
    Ok(String::from_utf8_lossy(c.bytes(len as usize, name)?).into_owned())
});
field!(Partitions as Vec<u16>: |v, _name, out| {
    EncodeError::check("partitions of a topic", v.len(), 0, u16::MAX.into())?;
    out.extend(v.iter().flat_map(|id| id.to_le_bytes()));
    Ok(())
}, |name, c| std::iter::from_fn(|| (c.left() > 0).then(|| c.u16(name))).collect());

/// What old versions leave out at the end.
impl<T: Field> Field for Option<T> {
    fn put(value: &Option<T>, name: &'static str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        value.iter().try_for_each(|value| T::put(value, name, out))
    }

    fn take(name: &'static str, c: &mut Cursor<'_>) -> Result<Option<T>, DecodeError> {
        (c.left() > 0).then(|| T::take(name, c)).transpose()
    }
}

/// Declares a struct by its fields, in the order of the wire, each with its name in errors: `name: Type = "name"`, or
/// `name: Type as Field = "name"`. With `: Kind` after the struct's name, it is a whole [`Payload`](frame::Payload). A field that
/// versions below 3 do not have is `from version 3`, where `version` is one before it.
macro_rules! message {
    ($(#[$meta:meta])* $name:ident $(: $kind:ident)? {
        $($(#[$doc:meta])* $field:ident: $type:ty $(as $as:ty)? = $called:literal $(from $version:ident $least:literal)?,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
        }

        field!($name as $name: |v, _name, out| {
            $(message!(@ if [$(v.$version >= $least)?]
                <message!(@ $type $(, $as)?) as Field<_>>::put(&v.$field, concat!($called, ", bytes"), out)?);)*
            Ok(())
        }, |_name, c| {
            $(let $field = message!(@ if [$($version >= $least)?]
                <message!(@ $type $(, $as)?) as Field<_>>::take($called, c)?);)*
            Ok($name { $($field),* })
        });

        $(impl Payload for $name {
            const KIND: Kind = Kind::$kind;

            fn put_fields(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                <$name as Field>::put(self, "", out)
            }

            fn take_fields(c: &mut Cursor<'_>, _: &Limits) -> Result<$name, DecodeError> {
                <$name as Field>::take("", c)
            }
        })?
    };
    (@ if [] $then:expr) => { $then };
    (@ if [$condition:expr] $then:expr) => { if $condition { $then } else { Default::default() } };
    (@ $type:ty) => { $type };
    (@ $type:ty, $as:ty) => { $as };
}

/// Declares an enum of one-byte codes, after which a field may follow: `Code(field: Type = "name") = number`. A second number is
/// read as the code, too.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$doc:meta])* $code:ident $(($field:ident: $type:ty = $called:literal))? = $id:literal $(| $other:literal)?,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$doc])* $code $(($type))? = $id,)*
        }

        field!($name as $name: |v, _name, out| {
            match v {
                $($name::$code $(($field))? => {
                    out.push($id);
                    $(<$type as Field>::put($field, $called, out)?;)?
                })*
            }
            Ok(())
        }, |name, c| {
            let at = c.at();
            match c.u8(name)? {
                $($id $(| $other)? => Ok($name::$code $((<$type as Field>::take($called, c)?))?),)*
                value => Err(DecodeError::undefined(name, value, at)),
            }
        });
    };
}

pub(super) use {codes, field, message};
