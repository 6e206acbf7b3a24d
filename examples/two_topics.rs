//! Prints two topics and keeps its positions in a file; Ctrl-C or SIGTERM ends it.
//!
//! ```sh
//! cargo run --example two_topics -- 127.0.0.1:11011 orders clicks two.positions
//! ```

use tank_client::{Checkpoint, Client, Start, Subscription};

fn main() {
    if let Err(e) = run() {
        eprintln!("two_topics: {e:#}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, first, second, file] = &args[..] else { return Err("usage: BROKERS TOPIC TOPIC FILE".into()) };

    let mut checkpoint = Checkpoint::open(file)?;
    let both = Subscription::topic(first).start(Start::Earliest).and_topic(second, Start::Earliest);
    let mut messages = Client::connect(brokers)?.subscribe(both.resume(checkpoint.positions()))?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;

    while let Some(batch) = messages.next_batch()? {
        for message in batch {
            println!("{}: {}", message.topic(), String::from_utf8_lossy(message.payload()));
        }
        checkpoint.save(&messages.positions())?; // after the work is done
    }
    Ok(())
}
