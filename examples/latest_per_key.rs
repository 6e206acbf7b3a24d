//! Prints the last message of each key, up to the present end: a log read into a table. An empty payload deletes its key.
//!
//! ```sh
//! cargo run --example latest_per_key -- 127.0.0.1:11011 prices
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};

use tank_client::{Client, Message, Start, Subscription};

fn main() {
    if let Err(e) = run() {
        eprintln!("latest_per_key: {e:#}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic] = &args[..] else { return Err("usage: BROKERS TOPIC".into()) };

    // The messages of a key come in order because they share a partition, provided that their producer chose it by key.
    let mut latest: BTreeMap<Vec<u8>, Message> = BTreeMap::new();
    let all = Subscription::topic(topic).start(Start::Earliest).stop_at_end();
    let mut messages = Client::connect(brokers)?.subscribe(all)?;
    let mut without_key = 0;
    for message in &mut messages {
        let message = message?;
        match message.key() {
            None => without_key += 1,
            Some(key) if message.payload().is_empty() => drop(latest.remove(key)),
            // Detached, because the few messages that stay would keep alive all the memory they were read into.
            Some(key) => drop(latest.insert(key.to_vec(), message.detach())),
        }
    }

    let mut out = io::BufWriter::new(io::stdout().lock());
    for (key, message) in &latest {
        out.write_all(&[key, &b"\t"[..], message.payload(), b"\n"].concat())?;
    }
    out.flush()?;
    eprintln!("{} messages: {} keys, {without_key} without a key", messages.stats().messages, latest.len());
    Ok(())
}
