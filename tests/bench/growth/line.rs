//! A long line, simulated: time is virtual here, the same in every run and on every machine.

use std::time::Duration;

use tank_client::broker::dense_bundle;
use tank_client::simulation::{LinkSettings, Simulation};
use tank_client::{Compression, Record, Start, Subscription};

use super::curve::Curve;

/// Bytes a second in each direction.
const BANDWIDTH: u64 = 20_000_000;
/// One way; there and back takes twice as long.
const LATENCY: Duration = Duration::from_millis(50);

/// Kilobytes read over a line of 100 ms there and back without any setting, and what the line alone takes.
pub fn kilobytes(name: &'static str) -> Curve {
    Curve::measure(name, &[100, 1_000, 10_000, 100_000], |number| {
        let sim = Simulation::new(1);
        let broker = sim.broker();
        broker.create_topic("t", 1);
        let message = Record::new(&[b'x'; 100]).timestamp_ms(1);
        // Not compressed: a line carries bytes.
        broker.append_repeated("t", 0, &[&dense_bundle(&[message; 500], Compression::None)], number / 50);
        sim.set_links(&LinkSettings::default().latency(LATENCY..LATENCY).bandwidth(BANDWIDTH));
        // As wide as systems make it by themselves on such a line.
        let client = sim.client().receive_buffer(6 << 20).connect(broker.brokers()).expect("a connection");
        let began = sim.now();
        let all = Subscription::topic("t").start(Start::Earliest).stop_at_end();
        let bytes: usize =
            client.subscribe(all).expect("a subscription").map(|m| m.expect("a message").payload().len()).sum();
        let nanos = (sim.now() - began).as_nanos() as f64;
        println!("{number:>10} KB: {:.1} MB/s", bytes as f64 / nanos * 1e3);
        let bare = 2.0 * LATENCY.as_nanos() as f64 + bytes as f64 / BANDWIDTH as f64 * 1e9;
        (nanos / number as f64, Some(bare / number as f64))
    })
}
