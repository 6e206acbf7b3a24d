//! Looks at brokers and topics from here, step by step: a page to paste into a ticket.
//!
//! ```sh
//! cargo run --example doctor -- 10.0.0.1:11011,10.0.0.2:11011 orders clicks
//! ```

mod common;

use std::error::Error;
use std::net::ToSocketAddrs;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use common::time::{millis, show, show_span};
use common::{Args, Usage, chain, place};
use tank_client::{Client, PartitionInfo, Start, Subscription};

const USAGE: &str = "\
usage: doctor [options] BROKERS [TOPIC[/PARTITION]]...

Resolves and connects to each broker, asks for its answer time, status, nodes and topics, and for these topics for the first
and last message of each partition, the last one's age and a timed fetch. A step that fails is told with its cause, and the
others go on. Fails if any did.

options:
  --timeout SPAN   how long to wait for an answer (5s)";

fn main() -> ExitCode {
    common::run(USAGE, &[], &["--timeout"], run)
}

type Outcome = Result<String, Box<dyn Error>>;

/// Counts the steps that went wrong.
struct Page {
    failed: u32,
}

impl Page {
    /// A step: what it found, or why it could not.
    fn step(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Ok(found) => println!("ok    {name}: {found}"),
            Err(e) => {
                println!("FAIL  {name}: {}", chain(&*e));
                self.failed += 1;
            }
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [brokers, topics @ ..] = &*args.operands else { return Err(Usage("a broker is needed".into()).into()) };
    let places = topics.iter().map(|topic| place(topic)).collect::<Result<Vec<_>, _>>()?;
    let timeout = args.span("--timeout")?.unwrap_or(Duration::from_secs(5));
    let connect = |brokers: &str| {
        let builder = Client::builder().connect_timeout(timeout).io_timeout(timeout).retry_timeout(timeout);
        builder.connect(brokers)
    };
    println!("{}, tank-client {}", show(millis(SystemTime::now())), env!("CARGO_PKG_VERSION"));
    let mut page = Page { failed: 0 };
    for broker in brokers.split(',') {
        page.step(&format!("resolve {broker}"), resolve(broker));
        let started = Instant::now();
        let connected = connect(broker);
        let took = show_span(started.elapsed());
        page.step(&format!("connect {broker}"), connected.as_ref().map(|_| took).map_err(|e| chain(e).into()));
        let Ok(client) = connected else { continue };
        page.step(&format!("ping {broker}"), ping(&client));
        page.step(&format!("status {broker}"), status(&client));
    }
    match connect(brokers) {
        Ok(client) => {
            nodes(&mut page, &client);
            page.step("topics", topic_count(&client));
            for (topic, partition) in places {
                partitions(&mut page, &client, topic, partition);
            }
        }
        // With one broker that has been said.
        Err(e) if brokers.contains(',') => page.step("connect to any", Err(e.into())),
        Err(_) => {}
    }
    match page.failed {
        0 => Ok(()),
        1 => Err("1 step failed".into()),
        failed => Err(format!("{failed} steps failed").into()),
    }
}

fn resolve(broker: &str) -> Outcome {
    let broker = if broker.contains(':') { broker.to_owned() } else { format!("{broker}:11011") };
    let addrs: Vec<String> = broker.to_socket_addrs()?.map(|addr| addr.to_string()).collect();
    Ok(addrs.join(", "))
}

fn ping(client: &Client) -> Outcome {
    let mut times = (0..5).map(|_| client.ping()).collect::<Result<Vec<_>, _>>()?;
    times.sort();
    Ok(format!("{} (least of 5), {} (most)", show_span(times[0]), show_span(times[4])))
}

fn status(client: &Client) -> Outcome {
    let status = client.status()?;
    let mut text = format!("{} topics, {} partitions", status.topics, status.partitions);
    if let Some((major, minor)) = status.version {
        text += &format!(", version {major}.{minor}");
    }
    if let Some(started) = status.started {
        text += &format!(", up for {}", show_span(started.elapsed().unwrap_or_default()));
    }
    if let Some(cluster) = status.cluster {
        text += &format!(", cluster {} with {} nodes", cluster.name, cluster.nodes);
    }
    Ok(text)
}

fn nodes(page: &mut Page, client: &Client) {
    let topology = match client.topology() {
        Ok(topology) => topology,
        Err(e) => return page.step("topology", Err(e.into())),
    };
    let Some(cluster) = topology.cluster else { return page.step("topology", Ok("stands alone".into())) };
    page.step("topology", Ok(format!("cluster {cluster}, {} nodes", topology.nodes.len())));
    for node in topology.nodes {
        let endpoint = node.endpoint.map_or("no endpoint".to_owned(), |endpoint| endpoint.to_string());
        let text = format!("{endpoint}, copies of {} partitions", node.partitions);
        let outcome = match (node.available, node.blocked) {
            (false, _) => Err(format!("{text}, gone").into()),
            (true, true) => Ok(format!("{text}, kept from leading")),
            (true, false) => Ok(text),
        };
        page.step(&format!("node {}", node.id), outcome);
    }
}

fn topic_count(client: &Client) -> Outcome {
    let topics = client.topics()?;
    let disabled: Vec<&str> = topics.iter().filter(|topic| !topic.enabled).map(|topic| &*topic.name).collect();
    match disabled.is_empty() {
        true => Ok(topics.len().to_string()),
        false => Err(format!("disabled: {}", disabled.join(", ")).into()),
    }
}

fn partitions(page: &mut Page, client: &Client, topic: &str, wanted: Option<u16>) {
    let infos = match client.partitions(topic) {
        Ok(infos) => infos,
        Err(e) => return page.step(topic, Err(e.into())),
    };
    if wanted.is_some_and(|id| usize::from(id) >= infos.len()) {
        return page.step(topic, Err(format!("there are {} partitions", infos.len()).into()));
    }
    for info in infos.iter().filter(|info| wanted.is_none_or(|id| info.id == id)) {
        page.step(&format!("{topic}/{}", info.id), ends(client, topic, info));
    }
    match infos.iter().filter(|info| wanted.is_none_or(|id| info.id == id)).max_by_key(|info| info.high_water_mark) {
        Some(info) if info.high_water_mark > 0 => {
            page.step(&format!("fetch {topic}/{}", info.id), fetch(client, topic, info));
        }
        _ => {}
    }
}

fn ends(client: &Client, topic: &str, info: &PartitionInfo) -> Outcome {
    let (first, last) = (info.first_available, info.high_water_mark);
    if last == 0 {
        return Ok("empty".into());
    }
    let last_one = Subscription::partition(topic, info.id).from(Start::At(last)).limit(1).stop_at_end();
    let Some(message) = client.subscribe(last_one)?.next().transpose()? else {
        return Ok(format!("{first} to {last}, which is not there any more"));
    };
    let age = match message.timestamp().elapsed() {
        Ok(age) => format!("{} old", show_span(age)),
        Err(ahead) => format!("{} ahead of the clock here", show_span(ahead.duration())),
    };
    Ok(format!("{first} to {last}, the last one of {}, {age}", show(message.timestamp_ms())))
}

/// The last thousand numbers.
fn fetch(client: &Client, topic: &str, info: &PartitionInfo) -> Outcome {
    let from = info.first_available.max(info.high_water_mark.saturating_sub(999));
    let started = Instant::now();
    let mut messages = client.subscribe(Subscription::partition(topic, info.id).from(Start::At(from)).stop_at_end())?;
    messages.next().transpose()?;
    let first = show_span(started.elapsed());
    messages.by_ref().try_for_each(|message| message.map(drop))?;
    let (stats, took) = (messages.stats(), show_span(started.elapsed()));
    Ok(format!("{} messages, {} bytes in {took}, the first after {first}", stats.messages, stats.bytes))
}
