//! Consumes a topic and keeps a file of metrics in Prometheus' text format, for the node exporter's textfile collector.
//!
//! ```sh
//! cargo run --example metrics -- 127.0.0.1:11011 orders /var/lib/node_exporter/orders.prom
//! ```

use std::fmt::Write;
use std::time::{Duration, Instant};

use tank_client::{Client, ConsumeIter};

const INTERVAL: Duration = Duration::from_secs(1);

fn main() {
    if let Err(e) = run() {
        eprintln!("metrics: {e:#}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, file] = &args[..] else { return Err("usage: BROKERS TOPIC FILE".into()) };

    let mut messages = Client::connect(brokers)?.subscribe(topic)?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;

    let mut due = Instant::now();
    while !messages.is_finished() {
        if let Some(message) = messages.next_timeout(due.saturating_duration_since(Instant::now()))? {
            println!("{}/{}", message.partition(), message.seq());
        }
        if Instant::now() >= due {
            // Renamed, so that nobody reads half a file.
            let new = format!("{file}.new");
            std::fs::write(&new, prometheus(&messages)?)?;
            std::fs::rename(&new, file)?;
            due = Instant::now() + INTERVAL;
        }
    }
    Ok(())
}

fn prometheus(messages: &ConsumeIter) -> Result<String, std::fmt::Error> {
    let (stats, mut out) = (messages.stats(), String::new());
    writeln!(out, "tank_messages_total {}\ntank_reconnects_total {}", stats.messages, stats.reconnects)?;
    for partition in &stats.partitions {
        let labels = format!("{{topic=\"{}\",partition=\"{}\"}}", partition.topic, partition.partition);
        writeln!(out, "tank_lag{labels} {}", partition.lag.unwrap_or(0))?;
        writeln!(out, "tank_age_seconds{labels} {}", partition.age.unwrap_or_default().as_secs_f64())?;
    }
    let silence = stats.leaders.iter().filter_map(|leader| leader.silence).max().unwrap_or_default();
    writeln!(out, "tank_silence_seconds {}", silence.as_secs_f64())?;
    Ok(out)
}
