//! Creates a topic.

use anyhow::Result;
use tank_client::TopicConfig;

use crate::connect::{Connect, checked};
use crate::exit::usage;
use crate::notes;

/// Create a topic
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tankctl create orders 8 log.retention.secs=1week")]
pub struct Args {
    /// Its name: 1 to 64 letters, digits, - and _
    topic: String,
    /// Number of partitions
    #[arg(default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    partitions: u16,
    /// Settings of its log, such as log.retention.secs=1week
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let mut config = TopicConfig::new();
    for setting in &args.settings {
        let Some((key, value)) = setting.split_once('=') else {
            return usage(format!("{setting}: KEY=VALUE is expected"));
        };
        config = match config.set(key, value) {
            Ok(config) => config,
            Err(e) => return usage(e.to_string()),
        };
    }
    for (key, _) in config.unknown() {
        notes::say(&format!("{key}: unknown setting; the broker may ignore it"));
    }
    let (topic, partitions) = (&args.topic, args.partitions);
    checked(connect.client()?.create_topic(topic, partitions, &config))?;
    notes::say(&format!("{topic}: created with {}", notes::count(partitions, "partition")));
    Ok(())
}
