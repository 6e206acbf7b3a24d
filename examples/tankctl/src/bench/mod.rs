//! Measures consuming and publishing, compared with bare sockets that carry the same bytes.

mod bare;
mod consume;
mod cost;
mod latency;
mod publish;
mod served;
mod sets;

use anyhow::Result;
use clap::ValueEnum;
use tank_client::{Client, Subscription};

use crate::connect::Connect;
use crate::exit::usage;
use crate::positions::Place;
use served::Served;
use sets::Set;

/// Measure consuming and publishing, compared with bare sockets
///
/// Starts a broker in memory, in a process of its own, and fills it; with --topic it measures another broker. The ways that are
/// compared take turns, and medians are shown: time, processor time of the working thread, growth of peak memory, and speed
/// relative to bare sockets. These exchange the same bytes, which were recorded before, without looking at them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tankctl bench consume --set plain100 --megabytes 1000
  tankctl bench latency --brokers 10.0.0.1 --topic orders
  tankctl bench latency --leaders 64")]
pub struct Args {
    /// What to measure
    #[arg(default_value = "consume")]
    mode: Mode,
    /// Messages of one size: plain100, snappy100, plain1k, snappy1k or single100 [default: all]
    #[arg(long, value_name = "NAME", value_parser = Set::named)]
    set: Option<Set>,
    /// Payload of each set; a tenth of it for single100, unless it goes to --topic
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    megabytes: u64,
    /// Read from this partition of --brokers, or append to it; partition 0 if only a topic is named
    #[arg(long, value_name = "TOPIC[/PARTITION]")]
    topic: Option<Place>,
    /// Bytes to ask for at a time
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    fetch_size: u32,
    /// How many times to measure each way
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Messages to publish in a run [default: 500000; a hundredth one by one], or to time [default: 10000]
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    /// Follow a topic whose partitions are led by this many brokers, or the whole topic of --topic (latency)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
    leaders: Option<u8>,
    /// Measure only one way of consuming, for a profiler
    #[arg(long, value_name = "WAY")]
    only: Option<Way>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Read each set in a loop, by batches, and by bare sockets
    Consume,
    /// Write messages of 100 bytes: 1,000 per request, each acknowledged before the next; with a producer, and its bytes by bare
    /// sockets; and one by one, shown as percentiles of the time until the acknowledgement
    Publish,
    /// Show percentiles of the time from publishing a message of 100 bytes to its delivery in a follower that waits for it; of the
    /// same requests by bare sockets; and of as many bytes through a bare relay. With --leaders the follower waits at that many
    /// leaders, and so do the bare sockets, unless --topic is given: then these wait at one
    Latency,
    /// Measure nothing: append --megabytes of a --set to --topic, for the other modes to read
    Fill,
}

/// A way of consuming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Loop,
    Batch,
    Bare,
}

/// A partition that is measured.
struct Target<'a> {
    brokers: &'a str,
    /// The leaders of the topic's partitions, in order, if they are known.
    leaders: Vec<&'a str>,
    topic: &'a str,
    partition: u16,
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let given = args.topic.as_ref().map(|place| Target {
        brokers: &connect.brokers,
        leaders: Vec::new(),
        topic: &place.topic,
        partition: place.partition.unwrap_or(0),
    });
    if let Some(target) = &given {
        // By its own name, while errors of what is measured name the relay that records it.
        let _ = Client::connect(target.brokers)?.subscribe(Subscription::partition(target.topic, target.partition))?;
    }
    match (args.mode, given) {
        (Mode::Consume, given) => {
            let mut table = consume::table();
            match given {
                Some(target) => consume::compare(&target, args, &mut table)?,
                None => {
                    for set in args.set.map_or(Set::ALL.to_vec(), |set| vec![set]) {
                        let served = Served::start(set.name, None)?;
                        // Bundles of one message take long to make.
                        let share = if set.count == 1 { 10 } else { 1 };
                        publish::fill(&served.target(), &set, args.megabytes.div_ceil(share))?;
                        consume::compare(&served.target(), args, &mut table)?;
                    }
                }
            }
            table.print(&crate::table::TableArgs { json: false })
        }
        (Mode::Publish, Some(target)) => publish::measure(&target, args),
        (Mode::Publish, None) => publish::measure(&Served::start("written", None)?.target(), args),
        (Mode::Latency, Some(target)) => latency::measure(&target, args),
        (Mode::Latency, None) => latency::measure(&Served::start("written", args.leaders)?.target(), args),
        (Mode::Fill, Some(target)) => match &args.set {
            Some(set) => publish::fill(&target, set, args.megabytes),
            None => usage("fill needs a --set"),
        },
        (Mode::Fill, None) => usage("fill needs a --topic"),
    }
}
