//! Which brokers to connect to, and how long to wait for them.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tank_client::{Client, ClientBuilder, ErrorKind};

use crate::exit::Usage;
use crate::times::parse_span;

/// Options of every command that connects.
#[derive(Debug, Args)]
pub struct Connect {
    /// Brokers: `host` or `host:port` (default port 11011), separated by commas
    #[arg(short, long, global = true, env = "TANK_BROKERS", default_value = "localhost", help_heading = "Connection")]
    pub brokers: String,
    /// How long to wait for a connection, and for an answer [default: 10s, 30s]
    #[arg(long, global = true, value_name = "SPAN", value_parser = parse_span, help_heading = "Connection")]
    timeout: Option<Duration>,
    /// How long to keep retrying after errors that may be temporary, and to wait for brokers to start [default: 1m, no wait]
    #[arg(long, global = true, value_name = "SPAN", value_parser = parse_span, help_heading = "Connection")]
    retry: Option<Duration>,
    /// Show what the client does: -v for each step, -vv for each frame; RUST_LOG works, too
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Connection")]
    pub verbose: u8,
}

impl Connect {
    /// The settings of a client.
    fn settings(&self) -> ClientBuilder {
        let settings = Client::builder().client_id("tankctl");
        let settings = match self.timeout {
            Some(timeout) => settings.connect_timeout(timeout).io_timeout(timeout),
            None => settings,
        };
        match self.retry {
            Some(timeout) => settings.retry_timeout(timeout).wait_for_brokers(timeout),
            None => settings,
        }
    }

    /// The same, with this time-out and the first failure being the last, unless something else was asked for.
    pub fn settings_within(&self, timeout: Duration) -> ClientBuilder {
        let timeout = self.timeout.unwrap_or(timeout);
        let settings = self.settings().connect_timeout(timeout).io_timeout(timeout);
        settings.retry_timeout(self.retry.unwrap_or_default())
    }

    pub fn client(&self) -> Result<Client> {
        self.client_of(&self.brokers)
    }

    /// A client of these brokers.
    pub fn client_of(&self, brokers: &str) -> Result<Client> {
        checked(self.settings().connect(brokers))
    }
}

/// The outcome of a call; arguments that cannot work count as wrong usage.
pub fn checked<T>(outcome: tank_client::Result<T>) -> Result<T> {
    outcome.map_err(|e| match e.kind {
        ErrorKind::Config { reason, .. } => Usage(reason).into(),
        _ => e.into(),
    })
}
