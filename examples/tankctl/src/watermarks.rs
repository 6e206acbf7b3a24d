//! The first and last numbers of partitions.

use anyhow::Result;

use crate::connect::Connect;
use crate::table::{Table, TableArgs};

/// Show the first and last sequence number of each partition
///
/// Both are 0 if the partition never had a message. The first is above the last if all messages were deleted.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    #[command(flatten)]
    table: TableArgs,
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let client = connect.client()?;
    let is_one = args.topics.len() == 1;
    let mut table = match is_one {
        true => Table::new(&["partition", "first", "last"]),
        false => Table::new(&["topic", "partition", "first", "last"]),
    };
    for topic in &args.topics {
        for info in client.partitions(topic)? {
            let (id, first, last) = (info.id, info.first_available, info.high_water_mark);
            if is_one { table.row(&[&id, &first, &last]) } else { table.row(&[topic, &id, &first, &last]) }
        }
    }
    table.print(&args.table)
}
