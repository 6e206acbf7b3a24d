//! Publishing and reading with nothing to set up: starts a broker in this process, publishes to it and reads back.
//!
//! ```sh
//! cargo run --features broker --example quickstart
//! ```

use std::collections::BTreeMap;

use tank_client::broker::Broker;
use tank_client::{Client, Record, Start, Subscription};

const ORDERS: u16 = 300;
const PARTITIONS: u16 = 3;
const CUSTOMERS: [&str; 5] = ["ada", "ben", "cleo", "dan", "eva"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::start()?;
    broker.create_topic("orders", PARTITIONS);
    println!("a broker is listening on {}", broker.addr());

    let client = Client::connect(broker.addr())?;
    for n in 0..ORDERS {
        let customer = CUSTOMERS[usize::from(n * 7 % 5)];
        let order = format!("order {n}: {} cups of tea", n % 9 + 1);
        client.publish("orders", n % PARTITIONS, &[Record::new(&order).key(customer)])?;
    }
    println!("published {ORDERS} messages to {PARTITIONS} partitions\n");

    let mut by_customer = BTreeMap::<String, u32>::new();
    let mut orders = client.subscribe(Subscription::topic("orders").start(Start::Earliest).stop_at_end())?;
    for order in &mut orders {
        let order = order?;
        let customer = String::from_utf8_lossy(order.key().unwrap_or_default()).into_owned();
        if order.seq() <= 3 {
            let payload = String::from_utf8_lossy(order.payload());
            println!("{}/{} seq {}: {customer:5} {payload}", order.topic(), order.partition(), order.seq());
        }
        *by_customer.entry(customer).or_default() += 1;
    }
    println!("…\n\nconsumed {} messages in {} bundles", orders.stats().messages, orders.stats().bundles);
    println!("next positions: {}", orders.positions());
    for (customer, count) in by_customer {
        println!("{customer:5} ordered {count} times");
    }
    Ok(())
}
