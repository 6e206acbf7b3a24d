//! Publishes the lines of standard input, and reports those that were not stored or whose outcome is unknown.
//!
//! ```sh
//! seq 1000 | cargo run --example ingest_with_outcomes -- 127.0.0.1:11011 numbers
//! ```

use std::io::{self, BufRead};

use tank_client::{Client, Error, ErrorKind, Failure, Producer, Record};

/// How often a failed record is sent again.
const TRIES: usize = 3;

fn main() {
    if let Err(e) = run() {
        eprintln!("ingest_with_outcomes: {e:#}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic] = &args[..] else { return Err("usage: BROKERS TOPIC".into()) };

    let mut producer = Client::connect(brokers)?.producer().build()?;
    let mut lost = 0;
    let ingested = ingest(&mut producer, topic, &mut lost);
    // After an error, too: what came before it was accepted.
    settle(&mut producer, &mut lost)?;
    ingested?;
    eprintln!("{} records stored", producer.stored());
    if lost == 0 { Ok(()) } else { Err(format!("{lost} records were not stored, or may not have been").into()) }
}

fn ingest(producer: &mut Producer, topic: &str, lost: &mut usize) -> Result<(), Box<dyn std::error::Error>> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        loop {
            match producer.send(topic, Record::new(&line)) {
                // This record was not accepted. Make room for it, or settle earlier failures.
                Err(Error { kind: ErrorKind::Full { .. } | ErrorKind::Undelivered { .. }, .. }) => {
                    settle(producer, lost)?
                }
                sent => break sent?,
            }
        }
    }
    Ok(())
}

/// Waits until every record is stored or given up. Sends again only records that certainly were not stored, so that none is
/// stored twice.
fn settle(producer: &mut Producer, lost: &mut usize) -> Result<(), Box<dyn std::error::Error>> {
    for _ in 0..TRIES {
        match producer.flush() {
            Err(Error { kind: ErrorKind::Undelivered { .. }, .. }) => {
                *lost += report(&producer.retry_failures(|failure| !failure.is_unknown()));
            }
            done => return Ok(done?),
        }
    }
    match producer.flush() {
        Err(Error { kind: ErrorKind::Undelivered { .. }, .. }) => *lost += report(&producer.take_failures()),
        done => done?,
    }
    Ok(())
}

/// Says what became of records that are given up, and returns how many there are.
fn report(failures: &[Failure]) -> usize {
    for failure in failures {
        let outcome = if failure.is_unknown() { "unknown" } else { "not stored" };
        eprintln!("{}/{}: {} {outcome}: {:#}", failure.topic(), failure.partition(), failure.count(), failure.error());
    }
    failures.iter().map(Failure::count).sum()
}
