//! Lists topics.

use anyhow::Result;

use crate::connect::Connect;
use crate::table::{Table, TableArgs};

/// List the topics
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    table: TableArgs,
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let mut table = Table::new(&["topic", "partitions", "copies", "enabled"]);
    for topic in connect.client()?.topics()? {
        table.row(&[&topic.name, &topic.partitions, &topic.replication_factor.unwrap_or(1), &topic.enabled]);
    }
    table.print(&args.table)
}
