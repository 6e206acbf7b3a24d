//! How fast consuming and publishing are here, beside what the network alone does with the same bytes.
//!
//! ```sh
//! cargo run --release --example throughput                                  # consuming: all sets, embedded broker
//! cargo run --release --example throughput -- --mode publish
//! cargo run --release --example throughput -- --mode latency
//! cargo run --release --example throughput -- --broker 127.0.0.1:11011 --topic plain100
//! ```

#[path = "../common/mod.rs"]
mod common;
mod consume;
mod latency;
mod publish;
#[path = "../common/sets.rs"]
mod sets;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use common::Usage;
use sets::Set;
use tank_client::broker::Broker;

const USAGE: &str = "\
usage: throughput [options]

Measures an embedded broker that it fills by itself, or another one. Ways that are compared take turns, and medians are
shown.

modes:
  consume   each set in a for loop, by batches, and discarding what the same fetches bring, one after the other:
            messages and megabytes of payload a second, growth of peak memory, bytes a second as a share of discarding
  loop      the for loop alone, to be looked at with a profiler
  batch     the same with next_batch
  publish   messages of 100 bytes: requests of 1,000, each acknowledged before the next; with a Producer; and one by
            one, as percentiles of the time until the acknowledgement
  latency   percentiles of the time from publishing a message of 100 bytes to its delivery in a follower that waits for
            it; of the same requests from bare sockets to the same broker; and of the same bytes through a bare relay
  fill      nothing: appends --megabytes of a --set to a topic of --broker, to be read by the modes above

options:
  --mode MODE        (consume)
  --set NAME         plain100, snappy100, plain1k, snappy1k or single100 (all of them)
  --megabytes N      payload of a set in the embedded broker (200)
  --broker ADDR      another broker than the embedded one, with
  --topic NAME       a topic of it; its partition 0 is read, or appended to
  --fetch-size N     bytes (1048576)
  --runs N           runs of each way (5)
  --count N          messages to publish in a run (500000, one by one a hundredth), or to time (10000)";

struct Options {
    sets: Vec<Set>,
    megabytes: u64,
    fetch_size: u32,
    runs: usize,
    count: Option<u64>,
}

fn main() -> ExitCode {
    let valued = ["--mode", "--set", "--megabytes", "--broker", "--topic", "--fetch-size", "--runs", "--count"];
    common::run(USAGE, &[], &valued, |args| {
        let sets = match args.option("--set") {
            Some(name) => vec![Set::named(name).ok_or_else(|| Usage(format!("--set {name}: no such set")))?],
            None => Set::ALL.to_vec(),
        };
        let options = Options {
            sets,
            megabytes: args.number("--megabytes")?.unwrap_or(200),
            fetch_size: args.number("--fetch-size")?.unwrap_or(1 << 20),
            runs: args.number("--runs")?.unwrap_or(5).max(1),
            count: args.number("--count")?,
        };
        let target = match (args.option("--broker"), args.option("--topic")) {
            (Some(broker), Some(topic)) => Some((broker, topic)),
            (None, None) => None,
            _ => return Err(Usage("--broker and --topic go together".into()).into()),
        };
        if !args.operands.is_empty() {
            return Err(Usage(format!("{}: what is that for?", args.operands.join(" "))).into());
        }
        run(args.option("--mode").unwrap_or("consume"), &options, target)
    })
}

fn run(mode: &str, options: &Options, target: Option<(&str, &str)>) -> Result<(), Box<dyn Error>> {
    let append_to = |measure: fn(&str, &str, &Options) -> Result<(), Box<dyn Error>>| match target {
        Some((broker, topic)) => measure(broker, topic, options),
        None => {
            let broker = Broker::start()?;
            broker.create_topic("written", 1);
            measure(&broker.addr().to_string(), "written", options)
        }
    };
    let read = |measure: fn(&str, &str, &Options) -> Result<(), Box<dyn Error>>| match target {
        Some((broker, topic)) => measure(broker, topic, options),
        None => options.sets.iter().try_for_each(|set| {
            let broker = fill(set, options.megabytes)?;
            measure(&broker.addr().to_string(), set.name, options)
        }),
    };
    match mode {
        "consume" => {
            consume::print_heading();
            read(consume::compare)
        }
        "loop" => read(|broker, topic, options| consume::repeat(broker, topic, options, consume::for_loop)),
        "batch" => read(|broker, topic, options| consume::repeat(broker, topic, options, consume::by_batches)),
        "publish" => append_to(publish::measure),
        "latency" => append_to(latency::measure),
        "fill" => match target {
            Some((broker, topic)) => publish::fill(broker, topic, options),
            None => Err(Usage("--mode fill takes --broker and --topic".into()).into()),
        },
        other => Err(Usage(format!("--mode {other}: no such mode")).into()),
    }
}

/// A broker with a topic of one set, named after it.
fn fill(set: &Set, megabytes: u64) -> std::io::Result<Broker> {
    let broker = Broker::start()?;
    broker.create_topic(set.name, 1);
    let bundles = set.bundles();
    let bundles: Vec<&[u8]> = bundles.iter().map(Vec::as_slice).collect();
    let round = set.payload as u64 * u64::from(set.count) * bundles.len() as u64;
    broker.append_repeated(set.name, 0, &bundles, (megabytes * 1_000_000).div_ceil(round));
    Ok(broker)
}

/// Percentiles of some times, in microseconds.
fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    format!("p50 {:7.1}  p90 {:7.1}  p99 {:7.1} microseconds", at(0.5), at(0.9), at(0.99))
}
