//! Topics, nodes and their state, as small tables.
//!
//! ```sh
//! cargo run --example admin -- 127.0.0.1:11011 create orders 8 log.retention.secs=1week
//! cargo run --example admin -- 127.0.0.1:11011 list
//! ```

mod common;

use std::error::Error;
use std::process::ExitCode;

use common::time::{millis, show, show_span};
use common::{Args, Usage, place, print_table};
use tank_client::{Client, TopicConfig};

const USAGE: &str = "\
usage: admin BROKERS COMMAND

commands:
  create TOPIC PARTITIONS [KEY=VALUE]...   make a topic, with these settings
  list                                     the topics
  watermarks TOPIC                         first and last number of each partition
  topology                                 the nodes of the cluster
  status                                   how the broker is
  reload TOPIC/PARTITION                   let the broker read a partition's settings again

options:";

fn main() -> ExitCode {
    common::run(USAGE, &[], &[], run)
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let operands: Vec<&str> = args.operands.iter().map(String::as_str).collect();
    let (brokers, command) = match &operands[..] {
        [brokers, command @ ..] if !command.is_empty() => (brokers, command),
        _ => return Err(Usage("a broker and a command are needed".into()).into()),
    };
    match command {
        ["create", topic, partitions, settings @ ..] => {
            let partitions = partitions.parse().map_err(|_| Usage(format!("{partitions}: no number of partitions")))?;
            let mut config = TopicConfig::new();
            for setting in settings {
                let (key, value) = setting.split_once('=').ok_or(Usage(format!("{setting}: no KEY=VALUE")))?;
                config = config.set(key, value).map_err(|e| Usage(e.to_string()))?;
            }
            for (key, _) in config.unknown() {
                eprintln!("{key}: not known here; the broker may ignore it");
            }
            Client::connect(brokers)?.create_topic(topic, partitions, &config)?;
            eprintln!("{topic}: created with {partitions} partitions");
        }
        ["list"] => list(&Client::connect(brokers)?)?,
        ["watermarks", topic] => watermarks(&Client::connect(brokers)?, topic)?,
        ["topology"] => topology(&Client::connect(brokers)?)?,
        ["status"] => status(&Client::connect(brokers)?)?,
        ["reload", target] => {
            let (topic, Some(partition)) = place(target)? else {
                return Err(Usage(format!("{target}: a partition is needed")).into());
            };
            Client::connect(brokers)?.reload_config(topic, partition)?;
            eprintln!("{target}: settings read");
        }
        other => return Err(Usage(format!("no such command, or not with these arguments: {}", other.join(" "))).into()),
    }
    Ok(())
}

fn row<const N: usize>(cells: [&dyn ToString; N]) -> Vec<String> {
    cells.iter().map(|cell| cell.to_string()).collect()
}

fn list(client: &Client) -> Result<(), Box<dyn Error>> {
    let mut rows = vec![row([&"TOPIC", &"PARTITIONS", &"COPIES", &"ENABLED"])];
    for topic in client.topics()? {
        let enabled = if topic.enabled { "yes" } else { "no" };
        rows.push(row([&topic.name, &topic.partitions, &topic.replication_factor.unwrap_or(1), &enabled]));
    }
    Ok(print_table(&rows)?)
}

fn watermarks(client: &Client, topic: &str) -> Result<(), Box<dyn Error>> {
    let mut rows = vec![row([&"PARTITION", &"FIRST", &"LAST"])];
    for info in client.partitions(topic)? {
        rows.push(row([&info.id, &info.first_available, &info.high_water_mark]));
    }
    Ok(print_table(&rows)?)
}

fn topology(client: &Client) -> Result<(), Box<dyn Error>> {
    let topology = client.topology()?;
    let Some(cluster) = topology.cluster else {
        eprintln!("the broker stands alone");
        return Ok(());
    };
    eprintln!("cluster {cluster}");
    let mut rows = vec![row([&"NODE", &"ENDPOINT", &"STATE", &"PARTITIONS"])];
    for node in topology.nodes {
        let endpoint = node.endpoint.map_or("-".to_owned(), |endpoint| endpoint.to_string());
        let state = match (node.available, node.blocked) {
            (false, _) => "gone",
            (true, true) => "blocked",
            (true, false) => "up",
        };
        rows.push(row([&node.id, &endpoint, &state, &node.partitions]));
    }
    Ok(print_table(&rows)?)
}

fn status(client: &Client) -> Result<(), Box<dyn Error>> {
    let status = client.status()?;
    let mut rows = vec![row([&"topics", &status.topics]), row([&"partitions", &status.partitions])];
    if let Some(open) = status.open_partitions {
        rows.push(row([&"open partitions", &open]));
    }
    if let Some((major, minor)) = status.version {
        rows.push(row([&"version", &format!("{major}.{minor}")]));
    }
    if let Some(started) = status.started {
        rows.push(row([&"up for", &show_span(started.elapsed().unwrap_or_default())]));
        rows.push(row([&"started at", &show(millis(started))]));
    }
    if let Some(cluster) = status.cluster {
        rows.push(row([&"cluster", &cluster.name]));
        rows.push(row([&"nodes", &cluster.nodes]));
    }
    rows.push(row([&"answers in", &show_span(client.ping()?)]));
    Ok(print_table(&rows)?)
}
