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

pub(crate) use setters;

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
    pub(crate) fetch_frame: u32,
    pub(crate) frame: u32,
    pub(crate) fetch_header: u32,
    pub(crate) bundle: u32,
    pub(crate) message_set: u32,
    pub(crate) messages: u32,
    pub(crate) topics: u32,
    pub(crate) nodes: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            fetch_frame: 0xf000_0000,
            frame: 64 << 20,
            fetch_header: 128 << 10,
            bundle: 256 << 20,
            message_set: 256 << 20,
            messages: 1 << 20,
            topics: 1 << 20,
            nodes: 4096,
        }
    }
}

impl Limits {
    setters! {
        /// Bytes of a consume answer. Default 3.75 GiB: the answer is never held as a whole, and a server may send a whole
        /// compacted segment of each partition at once.
        fetch_frame(most: u32) => fetch_frame = most;
        /// Bytes of any other answer, which is held whole. Default 64 MiB: some 200,000 topics with long names.
        frame(most: u32) => frame = most;
        /// Bytes of the partition entries that precede a consume answer's chunks. Default 128 KiB: twice what the 250
        /// partitions of a request can take with the longest names.
        fetch_header(most: u32) => fetch_header = most;
        /// Bytes of a bundle as it is sent. Default 256 MiB, the most a server accepts from a producer; a client takes up to
        /// 2 GiB.
        bundle(most: u32) => bundle = most;
        /// Bytes of a message set after decompression, checked before decompressing. Default 256 MiB; a client takes up to
        /// 2 GiB. A claim that Snappy cannot produce from the bytes sent is always refused.
        message_set(most: u32) => message_set = most;
        /// Messages in a bundle. Default 2^20, sixteen times what a producer should put into one.
        messages(most: u32) => messages = most;
        /// Topics in an answer. Default 2^20.
        topics(most: u32) => topics = most;
        /// Nodes in a topology. Default 4,096.
        nodes(most: u32) => nodes = most;
    }
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
