//! Consumes a topic and keeps a file of metrics in Prometheus' text format, for the node exporter's textfile collector.
//!
//! ```sh
//! cargo run --example metrics -- 127.0.0.1:11011 orders /var/lib/node_exporter/orders.prom
//! ```

use std::time::{Duration, Instant};

use tank_client::{Client, ConsumeIter, PartitionStats};

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
            std::fs::write(&new, prometheus(&messages))?;
            std::fs::rename(&new, file)?;
            due = Instant::now() + INTERVAL;
        }
    }
    Ok(())
}

fn prometheus(messages: &ConsumeIter) -> String {
    let (stats, mut out) = (messages.stats(), String::new());
    for (name, count) in [("tank_messages_total", stats.messages), ("tank_reconnects_total", stats.reconnects)] {
        out += &format!("# TYPE {name} counter\n{name} {count}\n");
    }
    let labels = |of: &PartitionStats| format!("{{topic=\"{}\",partition=\"{}\"}}", escaped(&of.topic), of.partition);
    gauge(&mut out, "tank_lag", stats.partitions.iter().map(|of| (labels(of), of.lag.map(|numbers| numbers as f64))));
    let age = |of| (labels(of), of.age.map(|age| age.as_secs_f64()));
    gauge(&mut out, "tank_age_seconds", stats.partitions.iter().map(age));
    let silence = stats.leaders.iter().filter_map(|leader| leader.silence).max();
    gauge(&mut out, "tank_silence_seconds", [(String::new(), silence.map(|longest| longest.as_secs_f64()))]);
    out
}

/// Writes a metric with its samples. A value that is not known has none: a 0 would look as if all were well.
fn gauge(out: &mut String, name: &str, samples: impl IntoIterator<Item = (String, Option<f64>)>) {
    *out += &format!("# TYPE {name} gauge\n");
    for (labels, value) in samples {
        if let Some(value) = value {
            *out += &format!("{name}{labels} {value}\n");
        }
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}
