//! Settings that users see: what a peer may claim, and when to compress.

/// Chainable setters, each with its documentation and what it stores.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($($given:ident: $type:ty),*) => $($field:ident).+ = $value:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self $(, $given: $type)*) -> Self {
            self.$($field).+ = $value;
            self
        }
    )*};
}

/// Declares a struct of settings with the default of each. With `setters` and a name for what they are given, each has a
/// setter, too.
macro_rules! settings {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$doc:meta])* $setting:ident: $type:ty = $default:expr,)*
    } $(setters($given:ident))?) => {
        $(#[$meta])*
        $vis struct $name {
            $($(#[$doc])* pub(crate) $setting: $type,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($setting: $default,)* }
            }
        }

        settings!(@ $($given)?, $name { $($(#[$doc])* $setting: $type,)* });
    };
    (@ , $($rest:tt)*) => {};
    (@ $given:ident, $name:ident { $($(#[$doc:meta])* $setting:ident: $type:ty,)* }) => {
        impl $name {
            setters! { $($(#[$doc])* $setting($given: $type) => $setting = $given;)* }
        }
    };
}

pub(crate) use {setters, settings};

settings! {
    /// Limits on the lengths and counts that a peer claims. A claim above one is refused, before memory is reserved, with an
    /// error that has both numbers.
    ///
    /// The defaults accept everything that a TANK server sends. Lower them if memory is short or you do not trust the broker.
    ///
    /// ```no_run
    /// use tank_client::{Client, Limits};
    ///
    /// let limits = Limits::default().bundle(16 << 20).message_set(16 << 20);
    /// let client = Client::builder().limits(limits).connect("tank-1")?;
    /// # Ok::<(), tank_client::Error>(())
    /// ```
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    #[must_use = "limits do nothing until a client or a reader gets them"]
    pub struct Limits {
        /// Bytes of a consume answer. Default 3.75 GiB: the answer is never held as a whole, and a server may send a whole
        /// compacted segment of each partition at once.
        fetch_frame: u32 = 0xf000_0000,
        /// Bytes of any other answer, which is held whole. Default 64 MiB: some 200,000 topics with long names.
        frame: u32 = 64 << 20,
        /// Bytes of the partition entries that precede a consume answer's chunks. Default 128 KiB: twice what the 250
        /// partitions of a request can take with the longest names.
        fetch_header: u32 = 128 << 10,
        /// Bytes of a bundle as it is sent. Default 256 MiB, the most a server accepts from a producer. A client accepts up to
        /// 2 GiB, or 512 MiB on 32-bit systems.
        bundle: u32 = 256 << 20,
        /// Bytes of a message set after decompression, checked before decompressing. Default 256 MiB; a client accepts as many
        /// as for a bundle. A length that Snappy cannot produce from the bytes sent is always refused.
        message_set: u32 = 256 << 20,
        /// Messages in a bundle. Default 2^20, sixteen times what a producer should put into one.
        messages: u32 = 1 << 20,
        /// Topics in an answer. Default 2^20.
        topics: u32 = 1 << 20,
        /// Nodes in a topology. Default 4,096.
        nodes: u32 = 4096,
    }
    setters(most)
}

/// When to compress published records. Consuming decompresses by itself.
///
/// ```
/// use tank_client::{Client, Compression};
///
/// let settings = Client::builder().compression(Compression::Snappy);
/// assert_eq!("auto".parse::<Compression>()?, Compression::Auto);
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// With Snappy above 512 messages or 1,024 bytes of keys and payloads, if that makes the bundle smaller.
    #[default]
    Auto,
    /// Never.
    None,
    /// Always.
    Snappy,
}
