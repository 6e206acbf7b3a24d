//! Publishing: records, partitions, leaders.

use tank_client::broker::Broker;
use tank_client::{Client, Compression, Record};

use super::curve::{Curve, cost};
use super::plain::send;
use super::reading::cluster;

pub fn records(name: &'static str) -> Curve {
    let payload = [b'x'; 100];
    Curve::measure(name, &[1_000, 10_000, 100_000, 1_000_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", 1);
        let client = Client::builder().compression(Compression::None).connect(broker.addr()).expect("a connection");
        let mut producer = client.producer().build().expect("a producer");
        let nanos = cost(number, || {
            (0..number).for_each(|_| producer.send_to("t", 0, Record::new(&payload)).expect("room"));
            producer.flush().expect("stored");
        });
        (nanos, Some(send(number, &payload)))
    })
}

/// Sends a record to each of these partitions and waits until all are stored.
fn publish_to_all(client: &Client, partitions: u64, each: u64) -> f64 {
    let mut producer = client.producer().build().expect("a producer");
    cost(each, || {
        (0..partitions as u16).for_each(|id| producer.send_to("t", id, Record::new("x")).expect("room"));
        producer.flush().expect("stored");
    })
}

/// Records one at a time, with a look for what is due after each, where this many partitions were used before.
pub fn polls(name: &'static str) -> Curve {
    const RECORDS: u64 = 20_000;
    Curve::measure(name, &[10, 100, 1_000, 10_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", number as u16);
        let client = Client::connect(broker.addr()).expect("a connection");
        let mut producer = client.producer().build().expect("a producer");
        let mut send = |id: u64| producer.send_to("t", (id % number) as u16, Record::new("x")).and(producer.poll());
        (0..number).for_each(|id| send(id).expect("room"));
        (cost(RECORDS, || (0..RECORDS).for_each(|id| send(id).expect("room"))), None)
    })
}

pub fn partitions(name: &'static str) -> Curve {
    Curve::measure(name, &[10, 100, 1_000, 10_000], |number| {
        let broker = Broker::start().expect("a broker");
        broker.create_topic("t", number as u16);
        let client = Client::connect(broker.addr()).expect("a connection");
        (publish_to_all(&client, number, number), Some(send(number, &[b'x'; 30])))
    })
}

/// As many leaders as there may be, each with its share of the partitions.
pub fn partitions_over_leaders(name: &'static str) -> Curve {
    const LEADERS: u64 = 256;
    Curve::measure(name, &[10, 100, 1_000, 10_000], |number| {
        let cluster = cluster(LEADERS.min(number), number);
        let client = Client::connect(cluster.brokers()).expect("a connection");
        let nanos = publish_to_all(&client, number, number);
        let accepted = cluster.nodes().iter().map(|node| node.stats().accepted).max();
        println!("{number:>10} partitions: at most {} connections to a leader", accepted.unwrap_or(0));
        (nanos, Some(send(number, &[b'x'; 30])))
    })
}
