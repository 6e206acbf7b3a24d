//! What the tests of the examples share.

use tank_client::Record;

use common::server::Server;

/// A message of [`orders`]: partition, time stamp, key, content.
pub type Order = (u16, u64, &'static str, &'static [u8]);

/// 2024-02-29T08:30:00Z
pub const MORNING: u64 = 1_709_195_400_000;

/// Two partitions, with time stamps that do not go back in either.
pub const ORDERS: [Order; 7] = [
    (0, MORNING, "ada", b"tea"),
    (0, MORNING + 1000, "ben", b"milk"),
    (0, MORNING + 1000, "ada", b""),
    (0, MORNING + 4000, "", b"honey\tand \"milk\""),
    (1, MORNING + 500, "cleo", b"coffee"),
    (1, MORNING + 1000, "ben", b"rum"),
    (1, MORNING + 3000, "cleo", b"\xff\x00"),
];

/// A topic with [`ORDERS`].
pub fn orders(server: &Server) -> String {
    let topic = server.topic(2).name;
    for (partition, timestamp_ms, key, content) in ORDERS {
        let record = Record::new(content).key(key.as_bytes()).timestamp_ms(timestamp_ms);
        server.client().publish(&topic, partition, &[record]).unwrap();
    }
    topic
}
