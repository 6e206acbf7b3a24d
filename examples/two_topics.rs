//! Consumes two topics, keeps its positions in a file, stops on Ctrl-C: `two_topics BROKERS TOPIC TOPIC FILE`.

use std::process::ExitCode;

use tank_client::{Checkpoint, Client, Start, Subscription};

const USAGE: &str = "usage: two_topics BROKERS TOPIC TOPIC FILE\n\nPrints both topics; FILE keeps how far it came.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--help"] => println!("{USAGE}"),
        [brokers, first, second, file] => {
            if let Err(e) = run(brokers, first, second, file) {
                let cause = e.source().map(|e| format!(": {e}")).unwrap_or_default();
                eprintln!("two_topics: {e}{cause}");
                return ExitCode::FAILURE;
            }
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn run(brokers: &str, first: &str, second: &str, file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut checkpoint = Checkpoint::open(file)?;
    let both = Subscription::topic(first).start(Start::Earliest).and_topic(second, Start::Earliest);
    let mut messages = Client::connect(brokers)?.subscribe(both.resume(&checkpoint))?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;
    while let Some(batch) = messages.next_batch()? {
        batch.iter().for_each(|m| println!("{}: {}", m.topic(), String::from_utf8_lossy(m.payload())));
        checkpoint.save(&messages.positions())?;
    }
    Ok(())
}
