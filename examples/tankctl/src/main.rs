//! `tankctl`: reads, writes, copies and examines topics of the TANK distributed log from the shell.
//!
//! Each subcommand has a file of its own. What they share: [`output`] and [`input`] for the ends of pipes, [`signals`],
//! [`times`], [`positions`] for where to begin and end, [`mod@format`] and [`table`] for what is printed, [`notes`] and
//! [`progress`] for standard error.

#[cfg(not(unix))]
compile_error!("tankctl is for Unix systems");

mod bench;
mod checkpoint;
mod completions;
mod connect;
mod consume;
mod create;
mod doctor;
mod exit;
mod format;
mod input;
mod merge;
mod mirror;
mod notes;
mod output;
mod positions;
mod progress;
mod publish;
mod reload;
mod replay;
mod segments;
mod serve;
mod signals;
mod status;
mod summary;
mod table;
mod times;
mod topics;
mod topology;
mod watermarks;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Reads, writes, copies and examines topics of the TANK distributed log.
///
/// Data goes to standard output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(name = "tankctl", version, after_help = exit::CODES, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    connect: connect::Connect,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Consume(consume::Args),
    Publish(publish::Args),
    Topics(topics::Args),
    Create(create::Args),
    Watermarks(watermarks::Args),
    Status(status::Args),
    Topology(topology::Args),
    Reload(reload::Args),
    Mirror(mirror::Args),
    Replay(replay::Args),
    Segments(segments::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Serve(serve::Args),
    Checkpoint(checkpoint::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    signals::install();
    match Cli::try_parse() {
        Ok(cli) => {
            notes::show_warnings(cli.connect.verbose);
            exit::code(run(&cli))
        }
        Err(e) => exit::of_parsing(&e),
    }
}

fn run(cli: &Cli) -> Result<()> {
    let connect = &cli.connect;
    match &cli.command {
        Command::Consume(args) => consume::run(connect, args),
        Command::Publish(args) => publish::run(connect, args),
        Command::Topics(args) => topics::run(connect, args),
        Command::Create(args) => create::run(connect, args),
        Command::Watermarks(args) => watermarks::run(connect, args),
        Command::Status(args) => status::run(connect, args),
        Command::Topology(args) => topology::run(connect, args),
        Command::Reload(args) => reload::run(connect, args),
        Command::Mirror(args) => mirror::run(connect, args),
        Command::Replay(args) => replay::run(connect, args),
        Command::Segments(args) => segments::run(args),
        Command::Doctor(args) => doctor::run(connect, args),
        Command::Bench(args) => bench::run(connect, args),
        Command::Serve(args) => serve::run(args),
        Command::Checkpoint(args) => checkpoint::run(args),
        Command::Completions(args) => completions::run(args),
    }
}
