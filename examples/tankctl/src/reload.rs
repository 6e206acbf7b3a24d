//! Makes a broker read settings again.

use anyhow::Result;

use crate::connect::{Connect, checked};
use crate::exit::usage;
use crate::notes;
use crate::positions::Place;

/// Make the broker read a partition's settings again
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The partition
    #[arg(value_name = "TOPIC/PARTITION")]
    place: Place,
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let Place { topic, partition: Some(id) } = &args.place else {
        return usage(format!("{}: a partition is needed", args.place.topic));
    };
    checked(connect.client()?.reload_config(topic, *id))?;
    notes::say(&format!("{topic}/{id}: settings read"));
    Ok(())
}
