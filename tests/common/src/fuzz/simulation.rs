//! The simulated world with a workload and trouble that follow the input, and the checker; or, if its first byte is odd, a
//! consumer against a peer that says good, damaged and senseless things.

mod peer;

use std::time::Duration;

use tank_client::simulation::checker::run_bytes;

/// Enough for trouble and its end; a run is to take a few milliseconds.
const TIME: Duration = Duration::from_secs(10);

/// Which of the two (`u8`), and then what that takes: decisions of the plan, a byte each, or the peer's script.
pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((which, script)) if which & 1 != 0 => peer::run(script),
        Some((_, decisions)) => drop(run_bytes(decisions, TIME)),
        None => {}
    }
}
