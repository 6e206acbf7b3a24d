//! Looks at brokers and topics from here, step by step: a page to paste into a ticket.
//!
//! ```sh
//! cargo run --example doctor -- 10.0.0.1:11011,10.0.0.2:11011 orders clicks
//! ```

mod common;

use std::error::Error;
use std::io::{Write, stdout};
use std::net::ToSocketAddrs;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use common::time::{millis, show, show_span};
use common::{Args, Usage, chain, place};
use tank_client::{Client, Start, Subscription, TopicInfo};

const USAGE: &str = "\
usage: doctor [options] BROKERS [TOPIC[/PARTITION]]...

Resolves and connects to each broker, asks for its answer time, status, nodes and topics; and for these topics for the
first and last message of each partition, the last one's age, and a timed fetch of up to 1000 messages. A step that
fails is told with its cause, and the others go on. Fails if any did.

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
            Ok(found) => say(&format!("ok    {name}: {found}")),
            Err(e) => {
                let cause = chain(&*e);
                say(&format!("FAIL  {name}: {}", cause.strip_prefix(&format!("{name}: ")).unwrap_or(&cause)));
                self.failed += 1;
            }
        }
    }
}

/// Prints a line. A reader that has seen enough, as `head` has, changes nothing about what is found.
fn say(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [brokers, topics @ ..] = &*args.operands else { return Err(Usage("a broker is needed".into()).into()) };
    let places = topics.iter().map(|topic| place(topic)).collect::<Result<Vec<_>, _>>()?;
    let timeout = args.span("--timeout")?.unwrap_or(Duration::from_secs(5));
    let connect = |brokers: &str| {
        let builder = Client::builder().connect_timeout(timeout).io_timeout(timeout).retry_timeout(timeout);
        builder.connect(brokers)
    };
    say(&format!("{}, tank-client {}", show(millis(SystemTime::now())), env!("CARGO_PKG_VERSION")));
    let (mut page, mut is_reached) = (Page { failed: 0 }, false);
    for broker in brokers.split(',') {
        page.step(&format!("resolve {broker}"), resolve(broker));
        let started = Instant::now();
        let connected = connect(broker);
        let took = show_span(started.elapsed());
        page.step(&format!("connect {broker}"), connected.as_ref().map(|_| took).map_err(|e| chain(e).into()));
        let Ok(client) = connected else { continue };
        is_reached = true;
        page.step(&format!("ping {broker}"), ping(&client));
        page.step(&format!("status {broker}"), status(&client));
    }
    // Where none could be reached there is nothing more to ask.
    match is_reached.then(|| connect(brokers)) {
        None => {}
        Some(Ok(client)) => {
            nodes(&mut page, &client);
            let topics = client.topics();
            page.step("topics", topics.as_ref().map_err(|e| chain(e).into()).and_then(|topics| enabled(topics)));
            for (topic, partition) in places {
                // What partitions there are is not known without the list.
                let Ok(topics) = &topics else { break };
                let known = topics.iter().find(|info| info.name == topic);
                partitions(&mut page, &client, topic, partition, known.map_or(0, |info| info.partitions));
            }
        }
        Some(Err(e)) => page.step("connect to any", Err(e.into())),
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

fn enabled(topics: &[TopicInfo]) -> Outcome {
    let disabled: Vec<&str> = topics.iter().filter(|topic| !topic.enabled).map(|topic| &*topic.name).collect();
    match disabled.is_empty() {
        true => Ok(topics.len().to_string()),
        false => Err(format!("{} of {} are disabled: {}", disabled.len(), topics.len(), disabled.join(", ")).into()),
    }
}

/// The first number that is there and the last there was; 0 if there is none.
type Ends = (u64, u64);

fn partitions(page: &mut Page, client: &Client, topic: &str, wanted: Option<u16>, count: u16) {
    if count == 0 {
        return page.step(&format!("topic {topic}"), Err("the broker lists no such topic".into()));
    }
    let mut most: (u16, Ends) = (0, (0, 0));
    for id in wanted.map_or(0..count, |id| id..id.saturating_add(1)) {
        let place = format!("{topic}/{id}");
        // One by one, so that a partition in trouble hides no other.
        match ends(client, topic, id) {
            Ok((_, 0)) => page.step(&place, Ok("no messages yet".into())),
            Ok((0, last)) => page.step(&place, Ok(format!("no messages any more, the last number was {last}"))),
            Ok((first, last)) => {
                page.step(&place, newest(client, topic, id, last).map(|newest| format!("{first} to {last}, {newest}")));
                if last.saturating_sub(first) >= most.1.1.saturating_sub(most.1.0) {
                    most = (id, (first, last));
                }
            }
            Err(e) => page.step(&place, Err(e.into())),
        }
    }
    if let (id, (first, last @ 1..)) = most {
        page.step(&format!("fetch {topic}/{id}"), fetch(client, topic, id, first.max(last.saturating_sub(999))));
    }
}

fn ends(client: &Client, topic: &str, id: u16) -> Result<Ends, tank_client::Error> {
    let mut messages = client.subscribe(Subscription::partition(topic, id).start(Start::Earliest).stop_at_end())?;
    let first = messages.next().transpose()?.map_or(0, |message| message.seq());
    let last = messages.high_water_mark(topic, id).unwrap_or(0);
    Ok((first, last))
}

/// What there is to say of the last message.
fn newest(client: &Client, topic: &str, id: u16, last: u64) -> Outcome {
    let last = Subscription::partition(topic, id).start(Start::At(last)).stop_at_end();
    let Some(message) = client.subscribe(last)?.next().transpose()? else {
        return Ok("of which the last is not there any more".into());
    };
    let age = match message.timestamp().elapsed() {
        Ok(age) => format!("{} old", show_span(age)),
        Err(ahead) => format!("{} ahead of the clock here", show_span(ahead.duration())),
    };
    Ok(format!("the last one of {}, {age}", show(message.timestamp_ms())))
}

fn fetch(client: &Client, topic: &str, id: u16, from: u64) -> Outcome {
    let started = Instant::now();
    let mut messages = client.subscribe(Subscription::partition(topic, id).start(Start::At(from)).stop_at_end())?;
    messages.next().transpose()?;
    let first = show_span(started.elapsed());
    messages.by_ref().try_for_each(|message| message.map(drop))?;
    let (stats, took) = (messages.stats(), show_span(started.elapsed()));
    Ok(format!("{} messages, {} bytes in {took}, the first after {first}", stats.messages, stats.bytes))
}
