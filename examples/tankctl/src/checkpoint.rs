//! Checkpoint files: what `consume --checkpoint`, and programs with the library's `Checkpoint`, write.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use tank_client::{Checkpoint, Positions};

use crate::connect::checked;
use crate::exit::usage;
use crate::notes;
use crate::positions::Place;
use crate::table::{Table, TableArgs};

/// Show or set the positions in a checkpoint file
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the next number of each partition
    Show {
        /// The checkpoint file
        file: PathBuf,
        /// Show what the file held before the last save
        #[arg(long)]
        previous: bool,
        #[command(flatten)]
        table: TableArgs,
    },
    /// Set the next number of partitions; create the file if there is none
    ///
    /// Stop programs that save there first: they would refuse to continue.
    Set {
        /// The checkpoint file
        file: PathBuf,
        /// Partitions, and the next number of each
        #[arg(required = true, value_name = "TOPIC/PARTITION=NUMBER", value_parser = parse_position)]
        positions: Vec<(Place, u64)>,
    },
}

fn parse_position(text: &str) -> Result<(Place, u64), String> {
    let Some((place, seq)) = text.rsplit_once('=') else { return Err("TOPIC/PARTITION=NUMBER is expected".into()) };
    let place: Place = place.parse()?;
    if place.partition.is_none() {
        return Err(format!("{}: a partition is needed", place.topic));
    }
    // The highest number is never assigned, and no subscription takes it.
    let number = seq.parse().ok().filter(|&number| number < u64::MAX);
    Ok((place, number.ok_or_else(|| format!("{seq:?} is not a sequence number"))?))
}

pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Show { file, previous, table } => {
            let checkpoint = if *previous { Checkpoint::open_previous(file) } else { Checkpoint::open(file) }?;
            if !file.exists() && !previous {
                anyhow::bail!("{}: no such file", file.display());
            }
            let mut rows = Table::new(&["topic", "partition", "next"]);
            for place in checkpoint.positions() {
                rows.row(&[&&*place.topic, &place.partition, &place.seq]);
            }
            rows.print(table)
        }
        Command::Set { file, positions } => {
            let mut checkpoint = Checkpoint::open(file)?;
            let mut all = Positions::default();
            for (place, seq) in positions {
                let id = place.partition.unwrap_or_default();
                if all.get(&place.topic, id).is_some() {
                    return usage(format!("{}/{id}: given twice", place.topic));
                }
                all.set(&place.topic, id, *seq);
            }
            checked(checkpoint.save(&all))?;
            notes::say(&format!("{}: {} set", file.display(), notes::count(positions.len() as u64, "position")));
            Ok(())
        }
    }
}
