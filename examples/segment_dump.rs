//! Prints the messages in a partition's directory, without a broker.
//!
//! ```sh
//! cargo run --example segment_dump -- /var/lib/tank/orders/0
//! ```

mod common;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use common::{Args, Usage};
use tank_client::segment::Segments;

const USAGE: &str = "\
usage: segment_dump [options] DIRECTORY

Prints the messages in the segment files of a partition, one a line: number, time stamp in milliseconds, key (- if
none), payload. The server may be running.

options:
  --from N         begin with number N
  --files          print the files instead: first and last number (- while it is written to), bytes, path";

fn main() -> ExitCode {
    common::run(USAGE, &["--files"], &["--from"], run)
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let [dir] = &*args.operands else { return Err(Usage("a directory is needed".into()).into()) };
    let from = args.number("--from")?.unwrap_or(0);
    if args.option("--files").is_some() { files(dir) } else { dump(dir, from) }
}

fn files(dir: &str) -> Result<(), Box<dyn Error>> {
    for file in Segments::open(dir)?.files()? {
        let last = file.last.map_or("-".into(), |last| last.to_string());
        let bytes = file.path.metadata()?.len();
        writeln!(io::stdout(), "{}\t{last}\t{bytes}\t{}", file.first, file.path.display())?;
    }
    Ok(())
}

fn dump(dir: &str, from: u64) -> Result<(), Box<dyn Error>> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut segments = Segments::open(dir)?.start_at(from);
    let mut count = 0;
    while let Some(batch) = segments.next_batch().inspect_err(|_| drop(out.flush()))? {
        for message in batch {
            write!(out, "{}\t{}\t", message.seq(), message.timestamp_ms())?;
            out.write_all(message.key().unwrap_or(b"-"))?;
            out.write_all(&[b"\t", message.payload(), b"\n"].concat())?;
            count += 1;
        }
    }
    out.flush()?;
    eprintln!("{count} messages");
    for gap in segments.gaps() {
        eprintln!("no file has the numbers {}..={}", gap.first, gap.last);
    }
    if let Some((path, at)) = segments.cut_tail() {
        eprintln!("{} ends inside the bundle at byte {at}", path.display());
    }
    Ok(())
}
