//! A worker that may be killed at any moment. It keeps its positions in a file and continues from there: it misses no
//! message, and repeats only those since the last save.
//!
//! ```sh
//! cargo run --example checkpointed_worker -- 127.0.0.1:11011 orders orders.positions
//! ```

use std::io::{self, Write};
use std::time::Duration;

use tank_client::{Checkpoint, Client, Message, OutOfRange, Start, Subscription};

/// The most messages between two saves, and how long to collect them.
const BATCH: (usize, Duration) = (150, Duration::from_millis(200));

fn main() {
    if let Err(e) = run() {
        eprintln!("checkpointed_worker: {e:#}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, file] = &args[..] else { return Err("usage: BROKERS TOPIC FILE".into()) };

    let mut checkpoint = Checkpoint::open(file)?;
    // Partitions that the file does not have yet begin with their first message.
    let all = Subscription::topic(topic).start(Start::Earliest).resume(checkpoint.positions());
    let mut messages = Client::connect(brokers)?.subscribe(all.out_of_range(OutOfRange::Earliest))?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;

    while !messages.is_finished() {
        let batch = messages.next_many(BATCH.0, BATCH.1)?;
        if !batch.is_empty() {
            // In this order: what is saved as done must be done.
            work(&batch)?;
            checkpoint.save(&messages.positions())?;
        }
    }
    for gap in messages.gaps() {
        eprintln!("{}/{}: {} to {} were gone before they were read", gap.topic, gap.partition, gap.first, gap.last);
    }
    Ok(())
}

fn work(batch: &[Message]) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for message in batch {
        write!(out, "{}\t{}\t", message.partition(), message.seq())?;
        out.write_all(message.payload())?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
