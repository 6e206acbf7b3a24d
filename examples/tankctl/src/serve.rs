//! A broker to try things against.

use std::{io, thread};

use anyhow::{Context, Result};
use tank_client::broker::{Broker, Cluster};
use tank_client::{Client, TopicConfig};

use crate::connect::checked;
use crate::output::Output;
use crate::positions::Place;
use crate::{notes, signals};

/// Run a broker in memory, to try things against
///
/// It listens only on this host, keeps messages in memory, and stops on Ctrl-C. As soon as it is ready, it prints one line: its
/// address, or those of all nodes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tankctl serve --topic orders/8 --topic clicks &
  seq 10 | tankctl publish orders")]
pub struct Args {
    /// The port; 0 for any free one. The nodes of a cluster take the ports that follow
    #[arg(short, long, default_value_t = 11_011)]
    port: u16,
    /// A topic to create, with this many partitions [default: 1]
    #[arg(short, long = "topic", value_name = "NAME[/PARTITIONS]")]
    topics: Vec<Place>,
    /// Run a cluster of this many nodes
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: Option<u8>,
    /// Stop at the end of standard input, too
    #[arg(long)]
    attached: bool,
}

/// What runs until it is dropped.
enum Running {
    Alone(Broker),
    Several(Cluster),
}

pub fn run(args: &Args) -> Result<()> {
    let settings = Broker::builder().port(args.port);
    let failed = || match args.nodes {
        Some(nodes @ 2..) => format!("cannot listen on {nodes} ports from {} on", args.port),
        _ => format!("cannot listen on port {}", args.port),
    };
    let running = match args.nodes {
        None => Running::Alone(settings.start().with_context(failed)?),
        Some(nodes) => {
            let cluster = Broker::cluster_builder(nodes.into()).broker(settings);
            Running::Several(cluster.start().with_context(failed)?)
        }
    };
    let brokers = match &running {
        Running::Alone(broker) => broker.brokers(),
        Running::Several(cluster) => cluster.brokers(),
    };
    let client = Client::connect(&brokers)?;
    for Place { topic, partition } in &args.topics {
        checked(client.create_topic(topic, partition.unwrap_or(1), &TopicConfig::new()))?;
    }
    drop(client);
    signals::end_politely();
    let mut out = Output::stdout();
    out.bytes().extend_from_slice(format!("{brokers}\n").as_bytes());
    out.flush()?;
    notes::say("ready; stop with Ctrl-C");
    if args.attached {
        thread::spawn(|| {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            signals::end();
        });
    }
    signals::wait();
    Ok(())
}
