//! Settings that users see: what a peer may claim, and when to compress.

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
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a consume answer. Default 3.75 GiB: the answer is never held as a whole, and a server may send a whole
    /// compacted segment of each partition at once.
    pub fetch_frame: u32,
    /// Bytes of any other answer, which is held whole. Default 64 MiB: some 200,000 topics with long names.
    pub frame: u32,
    /// Bytes of the partition entries that precede a consume answer's chunks. Default 128 KiB: twice what the 250
    /// partitions of a request can take with the longest names.
    pub fetch_header: u32,
    /// Bytes of a bundle as it is sent. Default 256 MiB, the most a server accepts from a producer; a client takes up to
    /// 2 GiB.
    pub bundle: u32,
    /// Bytes of a message set after decompression, checked before decompressing. Default 256 MiB; a client takes up to
    /// 2 GiB. A claim that Snappy cannot produce from the bytes sent is always refused.
    pub message_set: u32,
    /// Messages in a bundle. Default 2^20, sixteen times what a producer should put into one.
    pub messages: u32,
    /// Topics in an answer. Default 2^20.
    pub topics: u32,
    /// Nodes in a topology. Default 4,096.
    pub nodes: u32,
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

macro_rules! setters {
    ($($name:ident: $doc:literal),* $(,)?) => {
        impl Limits {
            $(
                #[doc = $doc]
                #[must_use]
                pub fn $name(mut self, most: u32) -> Limits {
                    self.$name = most;
                    self
                }
            )*
        }
    };
}

setters! {
    fetch_frame: "Sets [`fetch_frame`](Limits#structfield.fetch_frame), in bytes.",
    frame: "Sets [`frame`](Limits#structfield.frame), in bytes.",
    fetch_header: "Sets [`fetch_header`](Limits#structfield.fetch_header), in bytes.",
    bundle: "Sets [`bundle`](Limits#structfield.bundle), in bytes.",
    message_set: "Sets [`message_set`](Limits#structfield.message_set), in bytes.",
    messages: "Sets [`messages`](Limits#structfield.messages), a count.",
    topics: "Sets [`topics`](Limits#structfield.topics), a count.",
    nodes: "Sets [`nodes`](Limits#structfield.nodes), a count.",
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
