//! Publishing: in large requests, with a producer, and one by one; and filling a topic to read.

use std::error::Error;
use std::time::{Duration, Instant};

use tank_client::{Client, Record};

use crate::common::Usage;
use crate::common::progress::Progress;
use crate::{Options, percentiles};

/// Messages a request, and bytes a message.
const BATCH: u64 = 1000;
const SIZE: usize = 100;

pub fn measure(broker: &str, topic: &str, options: &Options) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(broker)?;
    let text = text();
    let payload = |n: u64| &text[(n as usize * 37) % 4000..][..SIZE];
    let count = options.count.unwrap_or(500_000).max(100);
    let (mut requests, mut producers, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs {
        requests.push(rate(count, || {
            for from in (0..count).step_by(BATCH as usize) {
                let records: Vec<Record<'_>> =
                    (from..count.min(from + BATCH)).map(|n| Record::new(payload(n))).collect();
                client.publish(topic, 0, &records)?;
            }
            Ok(())
        })?);
        producers.push(rate(count, || {
            let mut producer = client.producer().build()?;
            for n in 0..count {
                producer.send_to(topic, 0, Record::new(payload(n)))?;
            }
            Ok(producer.flush()?)
        })?);
        for n in 0..count / 100 {
            let start = Instant::now();
            client.publish(topic, 0, &[Record::new(payload(n))])?;
            alone.push(start.elapsed());
        }
    }
    println!("{BATCH} a request, one after the other  {:6.2} M messages/s", median(requests));
    println!("Producer                              {:6.2} M messages/s", median(producers));
    println!("one by one                            {}", percentiles(alone));
    Ok(())
}

/// Appends a set, bundled and compressed as its name says.
pub fn fill(broker: &str, topic: &str, options: &Options) -> Result<(), Box<dyn Error>> {
    let [set] = options.sets.as_slice() else { return Err(Usage("--mode fill takes a --set".into()).into()) };
    let client = Client::connect(broker)?;
    let mut producer = client
        .producer()
        .max_records(set.count)
        .max_bytes(1 << 20)
        .max_age(Duration::from_secs(10))
        .compression(set.compression)
        .build()?;
    let payloads = set.some_payloads();
    let bundles = (options.megabytes * 1_000_000).div_ceil(set.payload as u64 * u64::from(set.count));
    let mut progress = Progress::new("bundles", bundles);
    for bundle in 0..bundles {
        for payload in &payloads {
            producer.send_to(topic, 0, Record::new(payload).timestamp_ms(1_700_000_000_000))?;
        }
        progress.set(bundle);
    }
    producer.flush()?;
    drop(progress);
    println!("{topic}: {} messages in {bundles} bundles", bundles * u64::from(set.count));
    Ok(())
}

/// Millions a second.
fn rate(count: u64, work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    work()?;
    Ok(count as f64 / start.elapsed().as_secs_f64() / 1e6)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Words and numbers, some 4,000 bytes of them and a message more.
fn text() -> Vec<u8> {
    let words = ["alpha", "beta", "gamma", "delta", "order", "user", "click", "view"];
    let mut text = Vec::new();
    let mut random = 7u64;
    while text.len() < 4000 + SIZE {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend_from_slice(format!("{} {}", words[(random >> 33) as usize % 8], (random >> 40) % 1000).as_bytes());
    }
    text
}
