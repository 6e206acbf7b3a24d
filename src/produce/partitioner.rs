//! Which partition a record goes to.

/// Chooses the partition for a record.
///
/// A function or closure of the same arguments is one, too:
///
/// ```no_run
/// # use tank_client::{Client, Record};
/// # let client = Client::connect("localhost")?;
/// let by_first_byte = |_: &str, key: Option<&[u8]>, partitions: u16| {
///     key.and_then(|key| key.first()).map(|&byte| u16::from(byte) % partitions)
/// };
/// let mut producer = client.producer().partitioner(by_first_byte).build()?;
/// producer.send("orders", Record::new("two pounds of tea").key("customer 7"))?;
/// # Ok::<(), tank_client::Error>(())
/// ```
pub trait Partitioner: Send {
    /// The partition for a record with this key, below `partitions`, of which there is at least one. `None` lets the
    /// topic's partitions take turns.
    fn partition(&mut self, topic: &str, key: Option<&[u8]>, partitions: u16) -> Option<u16>;
}

impl<F: FnMut(&str, Option<&[u8]>, u16) -> Option<u16> + Send> Partitioner for F {
    fn partition(&mut self, topic: &str, key: Option<&[u8]>, partitions: u16) -> Option<u16> {
        self(topic, key, partitions)
    }
}

/// The partitioner of every producer that is given no other: the CRC-32 of the key modulo the number of partitions, which is
/// librdkafka's `consistent`. Records without a key, or with an empty one, take turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByKey;

impl Partitioner for ByKey {
    fn partition(&mut self, _: &str, key: Option<&[u8]>, partitions: u16) -> Option<u16> {
        let key = key.filter(|key| !key.is_empty())?;
        let index = crc32fast::hash(key) % u32::from(partitions);
        u16::try_from(index).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_those_of_librdkafka() {
        // CRC-32 of "123456789" is 0xcbf43926, the usual check value.
        let table = [(&b"123456789"[..], 7, 0xcbf4_3926_u32 % 7), (b"a", 100, 0xe8b7_be43 % 100), (b"x", 1, 0)];
        for (key, partitions, want) in table {
            assert_eq!(ByKey.partition("t", Some(key), partitions).map(u32::from), Some(want));
        }
        assert_eq!((ByKey.partition("t", None, 3), ByKey.partition("t", Some(b""), 3)), (None, None));
    }
}
