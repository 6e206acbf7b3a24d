//! The nodes of a cluster.

use anyhow::Result;

use crate::connect::Connect;
use crate::notes;
use crate::table::{Table, TableArgs};

/// Show the nodes of the cluster
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    table: TableArgs,
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let topology = connect.client()?.topology()?;
    let Some(cluster) = topology.cluster else {
        notes::say("the broker stands alone");
        return Ok(());
    };
    notes::say(&format!("cluster {cluster}"));
    let mut table = Table::new(&["node", "endpoint", "state", "partitions"]);
    for node in topology.nodes {
        let endpoint = node.endpoint.map(|endpoint| endpoint.to_string());
        let state = match (node.available, node.blocked) {
            (false, _) => "gone",
            (true, true) => "blocked",
            (true, false) => "up",
        };
        table.row(&[&node.id, &endpoint, &state, &node.partitions]);
    }
    table.print(&args.table)
}
