//! The state of a subscription as data: its positions, and what it counts and measures.

use std::sync::Arc;
use std::time::Duration;

/// The next sequence number to be delivered from a partition.
///
/// ```
/// use tank_client::Position;
///
/// let position = Position::new("orders", 0, 17);
/// assert_eq!(position.to_string(), "orders/0=17");
/// assert_eq!("orders/0=17".parse::<Position>()?, position);
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Position {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// The next number; 0 while a partition that begins with its earliest message has delivered nothing.
    pub seq: u64,
}

impl Position {
    /// Creates a position: the next number to be delivered from a partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: u16, seq: u64) -> Position {
        Position { topic: topic.into(), partition, seq }
    }
}

impl<T: Into<Arc<str>>> From<(T, u16, u64)> for Position {
    fn from((topic, partition, seq): (T, u16, u64)) -> Position {
        Position::new(topic, partition, seq)
    }
}

/// The positions of a subscription: what to store in order to [continue later](crate::Subscription::resume). There is one for
/// each partition, in the order of topics and partitions.
///
/// As one line, they can be stored anywhere as text. As rows, they can be stored in a database:
///
/// ```
/// use tank_client::{Positions, Subscription};
///
/// let rows = [("orders", 1, 4), ("orders", 0, 17)];
/// let positions = rows.into_iter().collect::<Positions>();
/// assert_eq!(positions.to_string(), "orders/0=17 orders/1=4");
/// assert_eq!("orders/0=17 orders/1=4".parse::<Positions>()?, positions);
///
/// let orders = Subscription::topic("orders").resume(&positions);
/// for position in positions {
///     println!("{} {} {}", position.topic, position.partition, position.seq);
/// }
/// # Ok::<(), tank_client::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "positions are to be stored"]
pub struct Positions(Vec<Position>);

impl Positions {
    /// Returns an iterator over them.
    pub fn iter(&self) -> std::slice::Iter<'_, Position> {
        self.0.iter()
    }

    /// Returns the next number of a partition, if it is among them.
    pub fn get(&self, topic: &str, partition: u16) -> Option<u64> {
        self.find(topic, partition).ok().map(|index| self.0[index].seq)
    }

    /// Returns the index of a partition's position, or where one would have to be.
    fn find(&self, topic: &str, partition: u16) -> std::result::Result<usize, usize> {
        self.0.binary_search_by(|p| (&*p.topic, p.partition).cmp(&(topic, partition)))
    }

    /// Sets the next number of a partition, and replaces the one it had. This is for programs that process messages in a
    /// different order than they arrive.
    pub fn set(&mut self, topic: &str, partition: u16, seq: u64) {
        match self.find(topic, partition) {
            Ok(index) => self.0[index].seq = seq,
            Err(index) => self.0.insert(index, Position::new(topic, partition, seq)),
        }
    }
}

/// If a partition comes more than once, its last position counts, even if it is lower.
impl<P: Into<Position>> Extend<P> for Positions {
    fn extend<I: IntoIterator<Item = P>>(&mut self, positions: I) {
        self.0.extend(positions.into_iter().map(Into::into));
        // Stable, so that the last one of a partition comes last.
        self.0.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        self.0.dedup_by(|later, kept| {
            let is_same = (&later.topic, later.partition) == (&kept.topic, kept.partition);
            if is_same {
                kept.seq = later.seq;
            }
            is_same
        });
    }
}

impl<P: Into<Position>> FromIterator<P> for Positions {
    fn from_iter<I: IntoIterator<Item = P>>(positions: I) -> Positions {
        let mut all = Positions::default();
        all.extend(positions);
        all
    }
}

impl IntoIterator for Positions {
    type Item = Position;
    type IntoIter = std::vec::IntoIter<Position>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Positions {
    type Item = &'a Position;
    type IntoIter = std::slice::Iter<'a, Position>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What a subscription has done so far, and its present state, from [`ConsumeIter::stats`](crate::ConsumeIter::stats). The
/// guide [exports it](crate::guide::metrics) to Prometheus and to `tracing`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages handed out.
    pub messages: u64,
    /// Bytes received, all of TANK's framing included.
    pub bytes: u64,
    /// Bundles of which messages were handed out. Small bundles that were decoded together are counted together.
    pub bundles: u64,
    /// Fetches answered.
    pub fetches: u64,
    /// Fetches answered without any data.
    pub empty_fetches: u64,
    /// Connections that were lost.
    pub reconnects: u64,
    /// Failed attempts to connect to a broker.
    pub failed_brokers: u64,
    /// Answers that named another leader.
    pub redirects: u64,
    /// Answers that a partition has no leader.
    pub no_leader: u64,
    /// The partitions, in the order of the subscription.
    pub partitions: Vec<PartitionStats>,
    /// The brokers that messages are fetched from.
    pub leaders: Vec<LeaderStats>,
}

/// A partition of [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PartitionStats {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// How many numbers lie between its position and its high-water mark; `None` while that is not known.
    pub lag: Option<u64>,
    /// How long ago the last message handed out was published, according to its time stamp: zero if that lies in the future,
    /// `None` before the first message.
    pub age: Option<Duration>,
}

/// A leader of [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LeaderStats {
    /// The broker.
    pub broker: String,
    /// How long ago it last sent a byte of an answer; `None` while it has sent none on the present connection. The leader of a
    /// quiet topic answers once in each [`max_wait`](crate::Subscription::max_wait).
    pub silence: Option<Duration>,
}
