//! Prints the messages in a partition's folder, without a broker.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::tz::TimeZone;
use tank_client::segment::Segments;

use crate::format::{Field, FormatArgs};
use crate::table::{Table, TableArgs};
use crate::times::parse_zone;
use crate::{notes, output, signals};

/// Print the messages in the segment files of a partition, without a broker
///
/// The server may be running. Missing and cut-off parts are reported at the end; damage is an error.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tankctl segments /var/lib/tank/orders/0")]
pub struct Args {
    /// The folder of a partition
    folder: PathBuf,
    /// Begin with this number
    #[arg(short = 'o', long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    /// Print the files instead: first and last number (- while it is written to), bytes, path
    #[arg(long, conflicts_with_all = ["fields", "format", "from", "limit"])]
    files: bool,
    /// Time zone of printed times
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = parse_zone, allow_hyphen_values = true)]
    zone: TimeZone,
    #[command(flatten)]
    format: FormatArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let segments = Segments::open(&args.folder)?;
    let files = segments.files()?;
    if files.is_empty() {
        let folder = args.folder.display();
        match partitions(&args.folder).first() {
            Some(id) => bail!("{folder} is the folder of a topic: name one of its partitions, such as {folder}/{id}"),
            None => notes::say(&format!("{folder} has no segment files")),
        }
    }
    if !args.files {
        return dump(args, segments);
    }
    let mut table = Table::new(&["first", "last", "bytes", "path"]);
    for file in files {
        let bytes = file.path.metadata().with_context(|| file.path.display().to_string())?.len();
        table.row(&[&file.first, &file.last, &bytes, &file.path.to_string_lossy().into_owned()]);
    }
    table.print(&TableArgs { json: args.format.is_json() })
}

/// The folders of partitions in a folder.
fn partitions(folder: &Path) -> Vec<u16> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let id = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok().filter(|_| entry.path().is_dir());
    let mut ids: Vec<u16> = entries.filter_map(id).collect();
    ids.sort_unstable();
    ids
}

fn dump(args: &Args, segments: Segments) -> Result<()> {
    let mut printer = args.format.printer(&[Field::SeqNum, Field::TsMs, Field::Key, Field::Content], &args.zone);
    let mut segments = segments.start_at(args.from);
    signals::end_politely();
    output::watch_reader();
    let (mut count, mut read) = (0, Ok(()));
    while count < args.limit && !signals::closer().is_closed() {
        match segments.next() {
            None => break,
            Some(Ok(message)) => printer.print(&message)?,
            Some(Err(e)) => {
                read = Err(e);
                break;
            }
        }
        count += 1;
    }
    output::check_reader()?;
    // Also after an error: what came before it is whole.
    printer.out.flush()?;
    notes::say(&notes::count(count, "message"));
    for gap in segments.gaps() {
        notes::say(&match gap.first == gap.last {
            true => format!("no file has number {}", gap.first),
            false => format!("no file has numbers {} to {}", gap.first, gap.last),
        });
    }
    if let Some((path, at)) = segments.cut_tail() {
        notes::say(&format!("{} is incomplete from byte {at} on", path.display()));
    }
    Ok(read?)
}
