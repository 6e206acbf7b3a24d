//! A few seeds beside the unit tests, so that these alone kill most planted faults: as many as `SEEDS` says.

use std::time::Duration;

use super::run;

#[test]
fn a_few_seeds_violate_nothing() {
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    for seed in 0..seeds {
        run(seed, Duration::from_secs(30));
    }
}
