//! Prints the messages in a partition's directory, without a broker.
//!
//! ```sh
//! cargo run --example segment_dump -- /var/lib/tank/orders/0
//! ```

use std::io::{self, Write};
use std::process::ExitCode;

use tank_client::segment::Segments;

const USAGE: &str = "\
usage: segment_dump [options] DIRECTORY

Prints the messages in the segment files of a partition, one a line: number, time stamp in milliseconds, key (- if none),
payload. The server may be running.

options:
  --from N   begin with number N
  --files    print the files instead: first and last number (- while it is written to), bytes, path
  --help     this text";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--help"] => {
            println!("{USAGE}");
            Ok(())
        }
        ["--files", dir] if !dir.starts_with('-') => files(dir),
        ["--from", seq, dir] if seq.parse::<u64>().is_ok() => dump(dir, seq.parse().unwrap_or(0)),
        [dir] if !dir.starts_with('-') => dump(dir, 0),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let causes = std::iter::successors(Some(&*e), |e| e.source()).map(ToString::to_string);
            eprintln!("segment_dump: {}", causes.collect::<Vec<_>>().join(": "));
            ExitCode::FAILURE
        }
    }
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn files(dir: &str) -> Done {
    for file in Segments::open(dir)?.files()? {
        let last = file.last.map_or("-".into(), |last| last.to_string());
        println!("{}\t{last}\t{}\t{}", file.first, file.path.metadata()?.len(), file.path.display());
    }
    Ok(())
}

fn dump(dir: &str, from: u64) -> Done {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut segments = Segments::open(dir)?.from(from);
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
    if let Some((path, at)) = segments.cut_tail() {
        eprintln!("{} ends inside the bundle at byte {at}", path.display());
    }
    Ok(())
}
