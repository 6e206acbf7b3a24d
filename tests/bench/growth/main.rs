//! How cost grows: processor time of the client's own thread, for a message, a bundle, a partition, a leader and a file, over
//! three powers of ten.
//!
//! ```sh
//! cargo bench --bench growth            # all curves; writes src/guide/growth.svg and prints a table
//! cargo bench --bench growth -- files   # those whose names contain this
//! ```
//!
//! The broker is the embedded one. It has a thread of its own, whose time does not count. A cost that does not depend on the
//! number has the exponent 1: twice as many take twice the time.

mod curves;
mod plot;

use std::env;

use curves::{ALL, Curve};

fn main() {
    let wanted: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
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
