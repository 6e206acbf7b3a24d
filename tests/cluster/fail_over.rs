//! How soon an idle subscription finds the successor of a leader that died: in the simulated world, for as long as real clusters
//! need to name one.

use std::time::Duration;

use tank_client::broker::Broker;
use tank_client::simulation::Simulation;

use crate::support::{all, append, take};

/// Kills a leader, names its successor after `until_named` and appends a message; how much later that was delivered.
fn fail_over(until_named: Duration) -> Duration {
    let sim = Simulation::new(1);
    let cluster = sim.cluster_with(&Broker::cluster_builder(3));
    cluster.create_topic("orders", 3);
    let client = sim.client().connect(cluster.brokers()).unwrap();
    let mut iter = client.subscribe(all()).unwrap();
    (0..3).for_each(|p| append(&cluster, p, 1, 1));
    take(&mut iter, 3);
    assert!(iter.next_timeout(Duration::from_secs(1)).unwrap().is_none());
    let others = cluster.clone();
    sim.after(until_named, move || {
        others.fail_over(1);
        append(&others, 1, 2, 2);
    });
    let killed = sim.now();
    cluster.node(1).stop();
    let message = iter.next_timeout(2 * until_named + Duration::from_secs(20)).unwrap().expect("a message");
    assert_eq!((message.partition(), iter.stats().messages), (1, 4));
    assert_eq!(cluster.killed_by(), None);
    sim.now() - killed - until_named
}

#[test]
fn a_successor_is_found_soon() {
    for millis in [0, 100, 1000, 2000, 5000, 10_000, 16_000, 18_000, 20_000, 23_000] {
        let later = fail_over(Duration::from_millis(millis));
        println!("successor named after {millis} ms, its first message {later:.3?} later");
        // The longest pause.
        assert!(later < Duration::from_secs(3), "{later:?} after {millis} ms");
    }
}
