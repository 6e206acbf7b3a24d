//! How cost grows: processor time of the client's own thread, for a message, a bundle, a partition, a leader and a file, over
//! three powers of ten; and the time that a long line takes.
//!
//! ```sh
//! cargo bench --bench growth            # all curves; writes src/guide/growth.svg and prints a table
//! cargo bench --bench growth -- files   # those whose names contain this
//! cargo bench --bench growth -- busy 1000   # at this number only, for a profiler
//! ```
//!
//! The broker is the embedded one. It has a thread of its own, whose time does not count. A cost that does not depend on the
//! number has the exponent 1: twice as many take twice the time.

mod curve;
mod line;
mod plain;
mod plot;
mod publishing;
mod reading;

use std::env;

use curve::Curve;

type Measure = fn(&'static str) -> Curve;

const ALL: [(&str, Measure); 14] = [
    ("a message read", reading::messages),
    ("a one-message bundle read", reading::bundles),
    ("a message, with this many busy partitions", reading::busy_partitions),
    ("an answer, with this many idle partitions", reading::idle),
    ("a named partition, set up", reading::named_partitions),
    ("a named partition, read to its end", reading::ends_of_partitions),
    ("a leader, ten partitions read to their ends", reading::leaders),
    ("a record published", publishing::records),
    ("a record and a poll, with this many partitions", publishing::polls),
    ("a partition flushed", publishing::partitions),
    ("a partition flushed, over 256 leaders", publishing::partitions_over_leaders),
    ("a segment file read", reading::files),
    ("a segment file, until the first message", reading::first_of_files),
    ("a kilobyte over a 100 ms line (time)", line::kilobytes),
];

fn main() {
    let is_name = |arg: &String| !arg.starts_with("--") && arg.parse::<u64>().is_err();
    let wanted: Vec<String> = env::args().skip(1).filter(is_name).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let curves: Vec<Curve> =
        ALL.iter().filter(|(name, _)| is_wanted(name)).map(|(name, measure)| measure(name)).collect();
    for curve in &curves {
        print(curve);
    }
    if wanted.is_empty() {
        let path = common::root().join("src/guide/growth.svg");
        plot::write(&path, &curves).expect("the plot can be written");
        println!("\n{}", path.display());
    }
}

fn print(curve: &Curve) {
    println!("\n{}, nanoseconds each: exponent {:.2}", curve.name, curve.exponent());
    for point in &curve.points {
        print!("{:>10} {:>10.1}", point.number, point.nanos);
        match point.plain {
            Some(plain) => println!("   plain loop {plain:.1}, {:.2} times that", point.nanos / plain),
            None => println!(),
        }
    }
}
