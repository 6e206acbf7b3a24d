//! Diagnoses brokers and topics from here, step by step: a page to paste into a ticket.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Error, Result, anyhow, bail};
use jiff::tz::TimeZone;
use tank_client::{Client, Message, OutOfRange, Start, Subscription, TopicInfo};

use crate::connect::Connect;
use crate::exit::usage;
use crate::format::visible;
use crate::notes::count;
use crate::output::{Output, ReaderGone};
use crate::positions::Place;
use crate::times::{millis, show, show_span};

/// Diagnose brokers and topics from here, step by step
///
/// Resolves the name of each broker, connects to it, and asks for its answer time, status, nodes and topics. For each topic
/// given, finds the first and last message of each partition and the last one's age, and times a fetch of that message. A step
/// that fails is reported with its cause, and the others still run. Exits with an error if any step failed or the report could
/// not be written. Each step waits 5 s for an answer unless --timeout says otherwise, and tries once unless --retry is given.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tankctl doctor --brokers 10.0.0.1,10.0.0.2 orders clicks")]
pub struct Args {
    /// Topics or partitions to look at, in addition to the brokers
    #[arg(value_name = "TOPIC[/PARTITION]")]
    places: Vec<Place>,
}

/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// TANK's port.
const PORT: u16 = 11_011;

/// The page so far, and how many steps failed.
struct Page {
    out: Output,
    failed: u64,
}

impl Page {
    /// A step: what it found, or why it could not.
    fn step(&mut self, name: &str, outcome: Result<String>) -> Result<()> {
        match outcome {
            Ok(found) => self.say(&format!("ok    {name}: {found}")),
            Err(e) => {
                self.failed += 1;
                let cause = e.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
                // The place is in the name, perhaps without the default port.
                let place = name.rsplit(' ').next().unwrap_or_default();
                let cause = match cause.strip_prefix("cannot connect to ").and_then(|rest| rest.split_once(": ")) {
                    Some((broker, why)) if broker.starts_with(place) => why.to_owned(),
                    _ => cause.replacen(&format!("{place}: "), "", 1),
                };
                self.say(&format!("FAIL  {name}: {cause}"))
            }
        }
    }

    /// Prints a line at once. A page that nobody gets is worth nothing, whoever has gone.
    fn say(&mut self, line: &str) -> Result<()> {
        if self.out.is_terminal() {
            visible(self.out.bytes(), line.as_bytes());
        } else {
            self.out.bytes().extend_from_slice(line.as_bytes());
        }
        self.out.bytes().push(b'\n');
        self.out.flush().map_err(|e| match e.is::<ReaderGone>() {
            true => anyhow!("cannot write the page: {e}"),
            false => e.context("cannot write the page"),
        })
    }
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let settings = connect.settings_within(TIMEOUT);
    let connect_to = |brokers: &str| settings.connect(brokers);
    let mut page = Page { out: Output::stdout(), failed: 0 };
    let now = show(millis(SystemTime::now()), &TimeZone::UTC);
    page.say(&format!("{now}, tankctl {}", env!("CARGO_PKG_VERSION")))?;
    let mut is_reached = false;
    for broker in connect.brokers.split(',').map(str::trim) {
        if broker.is_empty() {
            return usage(format!("broker address {broker:?}: no host"));
        }
        page.step(&format!("resolve {broker}"), resolve(broker))?;
        let started = Instant::now();
        let connected = connect_to(broker);
        let took = show_span(started.elapsed());
        let client = connected.as_ref().ok().cloned();
        page.step(&format!("connect {broker}"), connected.map(|_| took).map_err(Error::new))?;
        let Some(client) = client else { continue };
        is_reached = true;
        page.step(&format!("ping {broker}"), ping(&client))?;
        page.step(&format!("status {broker}"), status(&client))?;
    }
    // Where none could be reached there is nothing more to ask.
    if is_reached {
        match connect_to(&connect.brokers) {
            Ok(client) => topics(&mut page, &client, &args.places)?,
            Err(e) => page.step("connect to any", Err(e.into()))?,
        }
    }
    if page.failed == 0 { Ok(()) } else { bail!("{} failed", count(page.failed, "step")) }
}

fn topics(page: &mut Page, client: &Client, places: &[Place]) -> Result<()> {
    nodes(page, client)?;
    let topics = client.topics();
    let known = topics.as_ref().ok().cloned();
    page.step("topics", topics.map_err(Error::new).and_then(|topics| enabled(&topics)))?;
    // What partitions there are is not known without the list.
    let Some(known) = known else { return Ok(()) };
    for place in places {
        let info = known.iter().find(|info| info.name == place.topic);
        partitions(page, client, place, info.map_or(0, |info| info.partitions))?;
    }
    Ok(())
}

/// The addresses that the client gets for a broker, by the same rules.
fn resolve(broker: &str) -> Result<String> {
    let (host, port) = host_and_port(broker)?;
    let literal = format!("[{host}]:{port}").parse::<SocketAddr>();
    let addrs = match literal {
        Ok(addr) => vec![addr],
        Err(_) => (host, port).to_socket_addrs()?.collect(),
    };
    if addrs.is_empty() {
        bail!("no address");
    }
    Ok(addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// `host`, `host:port`, `v6` or `[v6]:port`. What else is wrong with it connecting tells.
fn host_and_port(broker: &str) -> Result<(&str, u16)> {
    let (host, port) = match broker.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match broker.split_once(':') {
            // More than one colon without brackets: an IPv6 address without a port.
            Some((_, port)) if port.contains(':') => (broker, None),
            Some((host, port)) => (host, Some(port)),
            None => (broker, None),
        },
    };
    let port = port.map(|port| port.parse().map_err(|_| anyhow!("port {port:?} is not a number from 1 to 65535")));
    Ok((host, port.transpose()?.unwrap_or(PORT)))
}

fn ping(client: &Client) -> Result<String> {
    let mut times = (0..5).map(|_| client.ping()).collect::<Result<Vec<_>, _>>()?;
    times.sort();
    Ok(format!("{} (fastest of 5), {} (slowest)", show_span(times[0]), show_span(times[4])))
}

fn status(client: &Client) -> Result<String> {
    let status = client.status()?;
    let mut text = format!("{}, {}", count(status.topics, "topic"), count(status.partitions, "partition"));
    if let Some((major, minor)) = status.version {
        text += &format!(", version {major}.{minor}");
    }
    if let Some(started) = status.started {
        text += &format!(", up for {}", show_span(started.elapsed().unwrap_or_default()));
    }
    if let (Some(cluster), Some(nodes)) = (status.cluster, status.nodes) {
        text += &format!(", cluster {cluster} with {}", count(nodes, "node"));
    }
    Ok(text)
}

fn nodes(page: &mut Page, client: &Client) -> Result<()> {
    let topology = match client.topology() {
        Ok(topology) => topology,
        Err(e) => return page.step("topology", Err(e.into())),
    };
    let Some(cluster) = topology.cluster else { return page.step("topology", Ok("stands alone".into())) };
    page.step("topology", Ok(format!("cluster {cluster}, {}", count(topology.nodes.len() as u64, "node"))))?;
    for node in topology.nodes {
        let endpoint = node.endpoint.map_or("no endpoint".to_owned(), |endpoint| endpoint.to_string());
        let text = format!("{endpoint}, copies of {}", count(node.partitions, "partition"));
        let outcome = match (node.available, node.blocked) {
            (false, _) => Err(anyhow!("{text}, gone")),
            (true, true) => Ok(format!("{text}, kept from leading")),
            (true, false) => Ok(text),
        };
        page.step(&format!("node {}", node.id), outcome)?;
    }
    Ok(())
}

fn enabled(topics: &[TopicInfo]) -> Result<String> {
    let disabled: Vec<&str> = topics.iter().filter(|topic| !topic.enabled).map(|topic| &*topic.name).collect();
    match disabled.is_empty() {
        true => Ok(topics.len().to_string()),
        false => bail!("disabled, {} of {}: {}", disabled.len(), topics.len(), disabled.join(", ")),
    }
}

fn partitions(page: &mut Page, client: &Client, wanted: &Place, count: u16) -> Result<()> {
    let topic = &wanted.topic;
    if count == 0 {
        return page.step(&format!("topic {topic}"), Err(anyhow!("the broker lists no such topic")));
    }
    let mut most: Option<(u16, u64)> = None;
    for id in wanted.partition.map_or(0..count, |id| id..id.saturating_add(1)) {
        let place = format!("{topic}/{id}");
        // One by one, so that a partition in trouble hides no other.
        match ends(client, topic, id) {
            Ok(Ends { last: 0, .. }) => page.step(&place, Ok("no messages yet".into()))?,
            Ok(Ends { first: 0, last, .. }) => {
                page.step(&place, Ok(format!("no messages left, the last number was {last}")))?;
            }
            Ok(Ends { first, last, newest }) => {
                page.step(&place, Ok(format!("{first} to {last}, {}", age(newest.as_ref()))))?;
                let span = last.saturating_sub(first);
                if most.is_none_or(|(_, other)| span >= other) {
                    most = Some((id, span));
                }
            }
            Err(e) => page.step(&place, Err(e))?,
        }
    }
    match most {
        Some((id, _)) => page.step(&format!("fetch {topic}/{id}"), fetch(client, topic, id)),
        None => Ok(()),
    }
}

struct Ends {
    /// The first number that is there; 0 if there is none.
    first: u64,
    /// The last number there was; 0 if there never was one.
    last: u64,
    newest: Option<Message>,
}

/// Asks for the two ends only: a number inside a gap can kill a server. So neither asks for what comes after it.
fn ends(client: &Client, topic: &str, id: u16) -> Result<Ends> {
    let mut messages = client.subscribe(newest(topic, id).out_of_range(OutOfRange::Earliest))?;
    let newest = messages.next().transpose()?;
    let mark = messages.high_water_mark(topic, id).unwrap_or(0);
    // Where it begins is known before anything is read.
    let all = client.subscribe(Subscription::partition(topic, id).start(Start::Last(u64::MAX)).stop_at_end())?;
    let first = all.position_of(topic, id).filter(|_| newest.is_some()).unwrap_or(0);
    Ok(Ends { first, last: mark.max(newest.as_ref().map_or(0, Message::seq)), newest })
}

/// The last message.
fn newest(topic: &str, id: u16) -> Subscription {
    Subscription::partition(topic, id).start(Start::Last(1)).stop_at_end()
}

/// What there is to say of the last message.
fn age(newest: Option<&Message>) -> String {
    let Some(message) = newest else { return "of which the last is gone".into() };
    let age = match message.timestamp().elapsed() {
        Ok(age) => format!("{} old", show_span(age)),
        Err(ahead) => format!("{} ahead of the clock here", show_span(ahead.duration())),
    };
    format!("the last one of {}, {age}", show(message.timestamp_ms(), &TimeZone::UTC))
}

/// Fetches the bundle with the last message.
fn fetch(client: &Client, topic: &str, id: u16) -> Result<String> {
    let started = Instant::now();
    let mut messages = client.subscribe(newest(topic, id))?;
    messages.next().transpose()?;
    let (bytes, took) = (messages.stats().bytes, show_span(started.elapsed()));
    Ok(format!("the last message, {bytes} bytes in {took}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_read_as_the_client_reads_them() {
        for (text, want) in [
            ("localhost", ("localhost", 11_011)),
            ("localhost:80", ("localhost", 80)),
            ("::1", ("::1", 11_011)),
            ("[::1]:9", ("::1", 9)),
            ("[fe80::1%3]", ("fe80::1%3", 11_011)),
        ] {
            assert_eq!(host_and_port(text).unwrap(), want);
        }
        assert_eq!(resolve("::1").unwrap(), "[::1]:11011");
        assert_eq!(resolve("127.0.0.1:9").unwrap(), "127.0.0.1:9");
        assert!(resolve("localhost:x").is_err());
    }
}
