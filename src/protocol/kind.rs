//! Message ids. Users see them as [`RequestKind`](crate::broker::RequestKind), so they are public only there.

use super::cursor::Cursor;
use super::error::{DecodeError, EncodeError};
use super::field::{Field, codes, field};

codes! {
    /// What a request asks for; as a number, its message id on the wire
    /// ([reference](mod@crate::protocol::reference), section 3).
    #[non_exhaustive]
    Kind {
        /// Produce, and the answer to `ProduceWithSeqnum`.
        Produce = 0x01,
        /// Consume.
        Consume = 0x02,
        /// The greeting; never answered.
        Ping = 0x03,
        /// Produce with explicit sequence numbers.
        ProduceWithSeqnum = 0x05,
        /// The marks of a topic's partitions.
        DiscoverPartitions = 0x06,
        /// Create a topic.
        CreateTopic = 0x07,
        /// Reread a partition's configuration file.
        ReloadConf = 0x08,
        /// Status of a node.
        Status = 0x0a,
        /// The topics.
        DiscoverTopics = 0x0b,
        /// The nodes of a cluster.
        DiscoverTopology = 0x0c,
    }
}

impl Kind {
    /// Returns the kind with this message id, if there is one.
    #[doc(hidden)]
    pub fn from_id(id: u8) -> Option<Kind> {
        Kind::take("message id", &mut Cursor::new(&[id], 0)).ok()
    }
}
