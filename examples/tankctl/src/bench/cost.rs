//! What something costs: time, processor time, memory.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

/// What a piece of work cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub time: Duration,
    /// Of this thread alone.
    pub processor: Duration,
    /// By how much memory grew meanwhile, in KiB; 0 where the system does not tell.
    pub growth: u64,
}

/// Does some work, and says what it came to and what it cost.
pub fn measure<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    // From here on the peak is that of the work.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let (memory, processor, started) = (status("VmRSS:"), processor_time(), Instant::now());
    let done = work()?;
    let (time, processor) = (started.elapsed(), processor_time().saturating_sub(processor));
    Ok((done, Cost { time, processor, growth: status("VmHWM:").saturating_sub(memory) }))
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// The one in the middle, by time.
pub fn median<T>(mut passes: Vec<(T, Cost)>) -> (T, Cost) {
    passes.sort_by_key(|(_, cost)| cost.time);
    passes.swap_remove(passes.len() / 2)
}

/// Millions a second.
pub fn rate(count: u64, cost: &Cost) -> f64 {
    count as f64 / cost.time.as_secs_f64() / 1e6
}

/// Percentiles of some times, in microseconds.
pub fn percentiles(times: &mut [Duration]) -> [f64; 3] {
    times.sort();
    [0.5, 0.9, 0.99].map(|share| {
        let index = (times.len() as f64 * share) as usize;
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    })
}
