//! The checker: six properties, over workloads and trouble from seeds.
//!
//! `cargo test` runs a few; `SEEDS=100000 cargo test --release --test simulation -- --ignored --nocapture simulation` as many as
//! are asked for, on from `FROM` (each `STEP`th), each for `SECONDS` of virtual time, on `THREADS` threads; with `FIRST=1` up to
//! the first that fails.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tank_client::simulation::checker::{Report, run, run_standard, run_until};

const TIME: Duration = Duration::from_secs(30);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

#[derive(Debug, Default)]
struct Sum {
    time: Duration,
    requests: u64,
    counts: BTreeMap<&'static str, u64>,
    failures: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.time += report.time;
        self.requests += report.requests;
        for (what, n) in &report.counts {
            *self.counts.entry(what).or_default() += n;
        }
    }
}

/// Runs seeds on several threads, each of which is a world of its own.
fn run_all(from: u64, count: u64, time: Duration, threads: u64) -> Sum {
    let step = number("STEP", 1);
    let end = from + count * step;
    let (next, sum) = (AtomicU64::new(from), Mutex::new(Sum::default()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(step, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let done = catch_unwind(|| run(seed, time));
                    let mut sum = sum.lock().unwrap();
                    match done {
                        Ok(report) => sum.add(&report),
                        Err(panic) => {
                            if number("FIRST", 0) > 0 {
                                next.store(end, Ordering::Relaxed);
                            }
                            let text = panic.downcast_ref::<String>().cloned();
                            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
                            sum.failures.push((seed, text.unwrap_or_default()));
                        }
                    }
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap();
    sum.failures.sort();
    sum
}

#[test]
fn two_hundred_seeds_violate_nothing() {
    let sum = run_all(0, 200, TIME, 2);
    let list: Vec<String> = sum.failures.iter().map(|(seed, text)| format!("seed {seed}: {text}")).collect();
    assert!(list.is_empty(), "{} seeds fail, the first:\n{}", list.len(), list[0]);
}

/// Each has found a defect once, here or in the checker.
const REGRESSIONS: [u64; 32] = [
    261, 305, 382, 419, 433, 533, 745, 784, 899, 995, 1354, 1428, 1461, 1839, 2461, 3887, 315, 1732, 202589, 306000,
    320796, 321945, 369064, 381047, 603142, 172, 824, 1002848, 1005863, 1010103, 2219448, 24002303,
];

#[test]
fn seeds_that_once_failed_violate_nothing() {
    let failures: Vec<_> = REGRESSIONS.iter().flat_map(|&seed| run_all(seed, 1, TIME, 1).failures).collect();
    assert!(failures.is_empty(), "{} seeds fail, the first:\n{}: {}", failures.len(), failures[0].0, failures[0].1);
}

#[test]
fn the_same_seed_does_the_same_to_the_byte() {
    for seed in 1000..1100 {
        let reports = [(); 2].map(|()| catch_unwind(|| run(seed, Duration::from_secs(10))).ok());
        assert_eq!(reports[0], reports[1], "seed {seed}");
    }
}

/// Prints what a hundred seeds come to, to be compared between machines and profiles: `.ci/run` does so for debug and release.
#[test]
#[ignore = "prints hashes, to be compared"]
fn hashes() {
    let hashes: Vec<u64> = (1000..1100).map(|seed| run(seed, Duration::from_secs(10)).hash).collect();
    let mut all = 0u64;
    for hash in &hashes {
        all = all.rotate_left(7) ^ hash;
    }
    println!("hash of {} seeds: {all:016x}", hashes.len());
}

#[test]
#[ignore = "as many seeds as are asked for"]
fn simulation_of_many_seeds() {
    let (from, count) = (number("FROM", 0), number("SEEDS", 1000));
    let time = Duration::from_secs(number("SECONDS", TIME.as_secs()));
    let began = Instant::now();
    let sum = run_all(from, count, time, number("THREADS", 2));
    for (seed, text) in &sum.failures {
        println!("SEED {seed}: {}", text.lines().next().unwrap_or_default());
    }
    let real = began.elapsed().as_secs_f64();
    println!(
        "{count} seeds, {} fail; {:.1} virtual hours, {} requests; {:.0} requests and {:.0} virtual seconds a second",
        sum.failures.len(),
        sum.time.as_secs_f64() / 3600.0,
        sum.requests,
        sum.requests as f64 / real,
        sum.time.as_secs_f64() / real
    );
    println!("{:?}", sum.counts);
    assert!(sum.failures.is_empty(), "{} seeds fail", sum.failures.len());
}

/// The speed of the standard workload, by the time that one processor spends on it, whatever else the machine does:
/// `taskset -c 0 cargo test --release --test simulation -- --ignored --nocapture speed`, with `FROM`, `SEEDS` and `SECONDS`.
#[test]
#[ignore = "measures"]
fn speed_of_the_standard_workload() {
    let (from, count, time) = (number("FROM", 0), number("SEEDS", 1000), Duration::from_secs(number("SECONDS", 30)));
    let mut sum = Sum::default();
    let spent = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap().as_secs_f64();
    let before = spent();
    (from..from + count).for_each(|seed| sum.add(&run_standard(seed, time)));
    let (spent, virtual_seconds, requests) = (spent() - before, sum.time.as_secs_f64(), sum.requests as f64);
    println!(
        "{:.1} requests a virtual second; {:.0} requests and {:.0} virtual seconds a second of processor time",
        requests / virtual_seconds,
        requests / spent,
        virtual_seconds / spent
    );
}

/// What happened up to some moment: `SEED=7 UNTIL_MS=1300 cargo test --test simulation -- --ignored --nocapture one_seed`.
#[test]
#[ignore = "one seed, to look into"]
fn one_seed() {
    let until = std::env::var("UNTIL_MS").ok().map(|_| Duration::from_millis(number("UNTIL_MS", 0)));
    println!("{:?}", run_until(number("SEED", 0), Duration::from_secs(number("SECONDS", TIME.as_secs())), until));
}
