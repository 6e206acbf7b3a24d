//! Completions for shells.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;
use crate::output::Output;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tankctl completions bash > ~/.local/share/bash-completion/completions/tankctl")]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args) -> Result<()> {
    let mut out = Output::stdout();
    clap_complete::generate(args.shell, &mut Cli::command(), "tankctl", out.bytes());
    out.flush()
}
