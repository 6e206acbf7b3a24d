//! Consuming: in a for loop, by batches, and by bare sockets.

use anyhow::Result;
use tank_client::{Client, Start, Subscription};

use super::cost::{Cost, measure, median, rate};
use super::{Args, Target, Way, bare};
use crate::table::Table;

/// What a pass over the partition came to.
#[derive(Debug, Clone, Copy, Default)]
struct Pass {
    messages: u64,
    payload: u64,
}

pub fn table() -> Table {
    Table::new(&["set", "way", "M messages/s", "MB/s", "processor ms", "growth KiB", "of bare", "processor of bare"])
}

/// All ways in turn, so that whatever else the machine does hits all of them.
pub fn compare(target: &Target<'_>, args: &Args, table: &mut Table) -> Result<()> {
    let all = Subscription::partition(target.topic, target.partition).start(Start::Earliest).stop_at_end();
    let all = all.fetch_size(args.fetch_size);
    let client = Client::connect(target.brokers)?;
    let recording = bare::record(target.brokers, |relay| by_batches(&Client::connect(relay)?, &all).map(drop))?;
    let ways: Vec<Way> = args.only.map_or(vec![Way::Loop, Way::Batch, Way::Bare], |way| vec![way]);
    let mut passes: Vec<Vec<(Pass, Cost)>> = vec![Vec::new(); ways.len()];
    for _ in 0..args.runs {
        for (way, passes) in ways.iter().zip(&mut passes) {
            passes.push(measure(|| match way {
                Way::Loop => for_loop(&client, &all),
                Way::Batch => by_batches(&client, &all),
                Way::Bare => recording.replay(target.brokers).map(|()| Pass::default()),
            })?);
        }
    }
    let passes: Vec<(Pass, Cost)> = passes.into_iter().map(median).collect();
    let bare = ways.iter().position(|way| *way == Way::Bare).map(|index| passes[index].1);
    for (way, (pass, cost)) in ways.iter().zip(&passes) {
        let name = match way {
            Way::Loop => "for loop",
            Way::Batch => "next_batch",
            Way::Bare => "bare sockets",
        };
        let is_bare = *way == Way::Bare;
        let messages = (!is_bare).then(|| format!("{:.2}", rate(pass.messages, cost)));
        let bytes = if is_bare { recording.bytes } else { pass.payload };
        let of = |bare: f64, ours: f64| format!("{:.2}", bare / ours);
        let time = bare.map(|bare| of(bare.time.as_secs_f64(), cost.time.as_secs_f64()));
        let processor = bare.map(|bare| of(cost.processor.as_secs_f64(), bare.processor.as_secs_f64()));
        table.row(&[
            &target.topic,
            &name,
            &messages,
            &format!("{:.0}", rate(bytes, cost)),
            &(cost.processor.as_millis() as u64),
            &cost.growth,
            &time,
            &processor,
        ]);
    }
    Ok(())
}

fn for_loop(client: &Client, subscription: &Subscription) -> Result<Pass> {
    let mut pass = Pass::default();
    for message in client.subscribe(subscription)? {
        pass.payload += message?.payload().len() as u64;
        pass.messages += 1;
    }
    Ok(pass)
}

fn by_batches(client: &Client, subscription: &Subscription) -> Result<Pass> {
    let mut pass = Pass::default();
    let mut messages = client.subscribe(subscription)?;
    while let Some(batch) = messages.next_batch()? {
        for message in batch {
            pass.payload += message.payload().len() as u64;
            pass.messages += 1;
        }
    }
    Ok(pass)
}
