//! Publishing: in large requests, with a producer, by bare sockets, and one by one; and filling a topic to read.

use std::time::{Duration, Instant};

use anyhow::Result;
use tank_client::{Client, Record};

use super::cost::{Cost, measure as cost_of, median, percentiles, rate};
use super::sets::Set;
use super::{Args, Target, bare};
use crate::progress::Progress;
use crate::table::{Table, TableArgs};

/// Messages a request, and bytes a message.
const BATCH: u64 = 1000;
const SIZE: usize = 100;

pub fn measure(target: &Target<'_>, args: &Args) -> Result<()> {
    let client = Client::connect(target.brokers)?;
    let payloads = Set::ALL[0].payloads();
    let payload = |n: u64| &payloads[n as usize % payloads.len()][..SIZE];
    let count = args.count.unwrap_or(500_000).max(100);
    let produce = |client: &Client| -> Result<()> {
        let mut producer = client.producer().build()?;
        for n in 0..count {
            producer.send_to(target.topic, target.partition, Record::new(payload(n)))?;
        }
        Ok(producer.flush()?)
    };
    let recording = bare::record(target.brokers, |relay| produce(&Client::connect(relay)?))?;
    let (mut requests, mut producers, mut bares, mut alone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.runs {
        requests.push(cost_of(|| {
            for from in (0..count).step_by(BATCH as usize) {
                let records: Vec<Record<'_>> =
                    (from..count.min(from + BATCH)).map(|n| Record::new(payload(n))).collect();
                client.publish(target.topic, target.partition, &records)?;
            }
            Ok(())
        })?);
        producers.push(cost_of(|| produce(&client))?);
        bares.push(cost_of(|| recording.replay(target.brokers))?);
        for n in 0..count / 100 {
            let start = Instant::now();
            client.publish(target.topic, target.partition, &[Record::new(payload(n))])?;
            alone.push(start.elapsed());
        }
    }
    let mut table = Table::new(&["way", "M messages/s", "processor ms", "growth KiB", "of bare", "processor of bare"]);
    let (_, bare) = median(bares);
    let mut row = |way: &str, cost: &Cost| {
        let of = |one: Duration, other: Duration| format!("{:.2}", one.as_secs_f64() / other.as_secs_f64());
        table.row(&[
            &way,
            &format!("{:.2}", rate(count, cost)),
            &(cost.processor.as_millis() as u64),
            &cost.growth,
            &of(bare.time, cost.time),
            &of(cost.processor, bare.processor),
        ]);
    };
    row("requests of 1000", &median(requests).1);
    row("Producer", &median(producers).1);
    row("bare sockets", &bare);
    table.print(&TableArgs { json: false })?;
    let mut table = Table::new(&["one by one, microseconds", "p50", "p90", "p99"]);
    let [p50, p90, p99] = percentiles(&mut alone).map(|time| format!("{time:.1}"));
    table.row(&[&"until the acknowledgement", &p50, &p90, &p99]);
    table.print(&TableArgs { json: false })
}

/// Appends a set, bundled and compressed as its name says.
pub fn fill(target: &Target<'_>, set: &Set, megabytes: u64) -> Result<()> {
    let settings = Client::connect(target.brokers)?.producer().max_records(set.count).max_bytes(1 << 20);
    let mut producer = settings.max_age(Duration::from_secs(10)).compression(set.compression).build()?;
    let payloads = set.payloads();
    let messages = (megabytes * 1_000_000).div_ceil(set.payload as u64);
    let messages = messages.next_multiple_of(set.count.into());
    let mut progress = Progress::new("filled", messages);
    for (n, payload) in (0..messages).zip(payloads.iter().cycle()) {
        let record = Record::new(payload).timestamp_ms(1_700_000_000_000);
        producer.send_to(target.topic, target.partition, record)?;
        progress.set(|| n);
    }
    Ok(producer.flush()?)
}
