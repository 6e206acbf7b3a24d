//! The state of a broker.

use anyhow::Result;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::connect::Connect;
use crate::format::visible;
use crate::output::Output;
use crate::table::TableArgs;
use crate::times::{millis, show, show_span};

/// Show the state of a broker, or of the first one that answers
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    table: TableArgs,
}

pub fn run(connect: &Connect, args: &Args) -> Result<()> {
    let client = connect.client()?;
    let status = client.status()?;
    let mut rows: Vec<(&str, Value)> = vec![("topics", status.topics.into()), ("partitions", status.partitions.into())];
    if let Some(open) = status.open_partitions {
        rows.push(("open partitions", open.into()));
    }
    if let Some((major, minor)) = status.version {
        rows.push(("version", format!("{major}.{minor}").into()));
    }
    if let Some(started) = status.started {
        rows.push(("up for", show_span(started.elapsed().unwrap_or_default()).into()));
        rows.push(("started at", show(millis(started), &TimeZone::UTC).into()));
    }
    if let (Some(cluster), Some(nodes)) = (status.cluster, status.nodes) {
        rows.push(("cluster", cluster.into()));
        rows.push(("nodes", nodes.into()));
    }
    rows.push(("answers in", show_span(client.ping()?).into()));
    let mut out = Output::stdout();
    if args.table.json {
        let members: Vec<String> =
            rows.iter().map(|(name, value)| format!("\"{}\":{value}", name.replace(' ', "_"))).collect();
        out.bytes().extend_from_slice(format!("{{{}}}\n", members.join(",")).as_bytes());
    } else {
        for (name, value) in rows {
            let value = value.as_str().map_or(value.to_string(), str::to_owned);
            out.bytes().extend_from_slice(format!("{name:<15}  ").as_bytes());
            visible(out.bytes(), value.as_bytes());
            out.bytes().push(b'\n');
        }
    }
    out.flush()
}
