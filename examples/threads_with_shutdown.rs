//! One thread for each partition of a topic, and one handle that ends them all: on Ctrl-C, on SIGTERM, and when one fails.
//!
//! ```sh
//! cargo run --example threads_with_shutdown -- 127.0.0.1:11011 orders
//! ```

use std::thread;

use tank_client::{Client, CloseHandle, ErrorKind, Result, Subscription};

fn main() {
    if let Err(e) = run() {
        eprintln!("threads_with_shutdown: {e:#}");
        std::process::exit(1);
    }
}

fn run() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic] = &args[..] else { return Err("usage: BROKERS TOPIC".into()) };

    let stop = CloseHandle::new();
    let handle = stop.clone();
    ctrlc::set_handler(move || handle.close())?;

    let client = Client::connect(brokers)?;
    let partitions = client.partitions(topic)?;
    let counts = thread::scope(|scope| {
        let worker = |id| {
            let (client, stop) = (&client, &stop);
            scope.spawn(move || {
                let _stop = StopOthers(stop);
                work(client, Subscription::partition(topic, id).close_with(stop))
            })
        };
        let workers: Vec<_> = partitions.iter().map(|partition| worker(partition.id)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect::<Result<Vec<u64>>>()
    })?;
    println!("{} messages in {} threads", counts.iter().sum::<u64>(), counts.len());
    Ok(())
}

/// Ends the other threads when one ends, even if it panics.
struct StopOthers<'a>(&'a CloseHandle);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Ends with `Ok` once the handle is closed.
fn work(client: &Client, subscription: Subscription) -> Result<u64> {
    let mut messages = match client.subscribe(subscription) {
        // Closed before the first message could come.
        Err(e) if e.kind == ErrorKind::Closed => return Ok(0),
        subscribed => subscribed?,
    };
    for message in &mut messages {
        let message = message?;
        println!("{}/{}: {} bytes", message.partition(), message.seq(), message.payload().len());
    }
    Ok(messages.stats().messages)
}
