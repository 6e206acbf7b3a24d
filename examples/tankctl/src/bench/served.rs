//! A broker in a process of its own: what it costs is not ours.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Target;

/// Ends with this value: its standard input is ours.
pub struct Served {
    child: Child,
    brokers: String,
    topic: &'static str,
}

impl Served {
    /// Starts one broker, or a cluster of which each node leads a partition of the topic.
    pub fn start(topic: &'static str, leaders: Option<u8>) -> Result<Served> {
        let mut command = Command::new(std::env::current_exe().context("cannot start a broker")?);
        command.args(["serve", "--port", "0", "--attached", "--topic"]);
        match leaders {
            Some(nodes) => command.args([&format!("{topic}/{nodes}"), "--nodes", &nodes.to_string()]),
            None => command.arg(topic),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("cannot start a broker")?;
        let mut brokers = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut brokers)?;
        }
        let brokers = brokers.trim_end().to_owned();
        let served = Served { child, brokers, topic };
        ensure!(!served.brokers.is_empty(), "the broker did not start");
        Ok(served)
    }

    pub fn target(&self) -> Target<'_> {
        let leaders = self.brokers.split(',').collect();
        Target { brokers: &self.brokers, leaders, topic: self.topic, partition: 0 }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
