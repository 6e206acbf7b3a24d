//! A cost at several numbers, and how it is measured.

use std::env;

use rustix::time::{ClockId, clock_gettime};

/// Each point is the least of this many measurements: whatever else runs can only add.
const TRIES: usize = 3;

/// What one of `number` costs.
pub struct Point {
    pub number: u64,
    pub nanos: f64,
    /// What a bare loop over the same bytes takes.
    pub plain: Option<f64>,
}

pub struct Curve {
    pub name: &'static str,
    pub points: Vec<Point>,
}

impl Curve {
    /// Measures at each of these numbers, or at those of them that the command line names.
    pub fn measure(name: &'static str, numbers: &[u64], point: impl Fn(u64) -> (f64, Option<f64>)) -> Curve {
        let named: Vec<u64> = env::args().filter_map(|arg| arg.parse().ok()).collect();
        let points = numbers.iter().filter(|number| named.is_empty() || named.contains(number)).map(|&number| {
            let (nanos, plain) = point(number);
            Point { number, nanos, plain }
        });
        Curve { name, points: points.collect() }
    }

    /// By least squares: total cost grows as the number to this power.
    pub fn exponent(&self) -> f64 {
        let logs: Vec<(f64, f64)> = self
            .points
            .iter()
            .map(|point| ((point.number as f64).ln(), (point.nanos * point.number as f64).ln()))
            .collect();
        let n = logs.len() as f64;
        let (x, y) = logs.iter().fold((0.0, 0.0), |(x, y), (a, b)| (x + a / n, y + b / n));
        let over: f64 = logs.iter().map(|(a, b)| (a - x) * (b - y)).sum();
        over / logs.iter().map(|(a, _)| (a - x).powi(2)).sum::<f64>()
    }
}

/// Processor time of this thread so far.
pub fn thread_nanos() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The least processor time of this thread over some runs, divided by `number`.
pub fn cost(number: u64, mut run: impl FnMut()) -> f64 {
    let once = |_| {
        let began = thread_nanos();
        run();
        (thread_nanos() - began) / number as f64
    };
    (0..TRIES).map(once).fold(f64::INFINITY, f64::min)
}
