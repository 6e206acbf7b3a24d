//! How partitions of many leaders take turns.

use std::time::Duration;

use common::turns::Turns;
use tank_client::broker::dense_bundle;
use tank_client::simulation::{LinkSettings, Simulation};
use tank_client::{Compression, Record, Start, Subscription};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The longest wait of a partition, in rounds, while all of them are busy and the reader is slower than their leaders: whatever
/// they may send is there whenever it looks.
fn longest_wait(partitions: u16, by_batches: bool) -> u32 {
    const BUNDLES: u64 = 300;
    let sim = Simulation::new(22);
    let (client, leaders) = (sim.client(), partitions.min(64));
    let cluster = sim.cluster(usize::from(leaders));
    cluster.create_topic_with("orders", partitions, 1);
    let bundle = dense_bundle(&[Record::new(&[b'x'; 100])], Compression::None);
    for partition in 0..partitions {
        let leader = usize::from(partition % leaders);
        cluster.set_leader("orders", partition, Some(leader));
        cluster.node(leader).append_repeated("orders", partition, &[&bundle], BUNDLES);
    }
    for leader in 0..leaders {
        let latency = MS * u32::from(1 + leader);
        sim.set_link("client", &format!("node-{leader}"), &LinkSettings::default().latency(latency..latency + MS));
    }
    let client = client.connect(cluster.brokers()).unwrap();
    // A bundle and a part of the next one, and later, as the reader is slow, up to 32 times that.
    let all = Subscription::topic("orders").start(Start::Earliest).stop_at_end().fetch_size(150);
    let mut orders = client.subscribe(all).unwrap();
    // A round takes longer than any exchange, and so does the time before the first.
    sim.sleep(SECOND);
    let (pause, mut turns) = (SECOND / u32::from(partitions), Turns::new(partitions.into()));
    loop {
        let next = match by_batches {
            true => orders.next_batch().unwrap().map(|batch| batch.partition()),
            false => orders.next().map(|order| order.unwrap().partition()),
        };
        let Some(partition) = next else { break };
        if turns.take(partition) {
            sim.sleep(pause);
        }
    }
    assert!(turns.fewest() >= 6, "{} turns: only what takes turns can be passed over", turns.fewest());
    turns.longest_wait()
}

#[test]
fn no_busy_partition_waits_for_more_than_two_rounds() {
    for partitions in [10, 100, 1_000] {
        for by_batches in [false, true] {
            let rounds = longest_wait(partitions, by_batches);
            assert!(rounds <= 2, "{rounds} rounds, {partitions} partitions, by batches: {by_batches}");
        }
    }
}
