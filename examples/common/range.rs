//! Which part of a topic is wanted.

use std::time::SystemTime;

use tank_client::{Message, Start, Subscription};

use super::time::{millis, parse};
use super::{Args, Usage};

/// What to say of these options in a usage text.
pub const OPTIONS: &str = "
  --from PLACE     where to begin: earliest, latest or a number
  --since TIME     begin with this time instead, and leave out what is older: a date and time in UTC such as 2026-11-22
                   or 2026-11-22T08:30:00, so long ago (90s, 15m, 1h, 2d, 1w), now, or milliseconds since 1970
  --until TIME     end each partition before its first message with this time or a later one
  --to-seq NUMBER  end each partition with this number";

/// The names of these options; all have values.
pub const NAMES: [&str; 4] = ["--from", "--since", "--until", "--to-seq"];

/// A part of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub start: Start,
    since: u64,
    until: Option<SystemTime>,
    to_seq: Option<u64>,
    /// It ends at a time that has passed.
    pub is_past: bool,
}

impl Range {
    /// As the arguments say; begins so if they do not.
    pub fn new(args: &Args, start: Start) -> Result<Range, Usage> {
        let now = SystemTime::now();
        let time = |name: &str| match args.option(name) {
            None => Ok(None),
            Some(text) => parse(text, now).map(Some).ok_or(Usage(format!("{name} {text}: no such time"))),
        };
        let (since, until) = (time("--since")?, time("--until")?);
        let start = match (args.option("--from"), since) {
            (Some(_), Some(_)) => return Err(Usage("--from and --since: one place to begin is enough".into())),
            (None, Some(since)) => Start::Time(since),
            (None, None) => start,
            (Some("earliest"), None) => Start::Earliest,
            (Some("latest"), None) => Start::Latest,
            (Some(seq), None) => Start::At(seq.parse().map_err(|_| Usage(format!("--from {seq}: no such place")))?),
        };
        let is_past = until.is_some_and(|until| until <= now);
        Ok(Range { start, since: since.map_or(0, millis), until, to_seq: args.number("--to-seq")?, is_past })
    }

    /// A topic, or a partition of it, in this range.
    pub fn of(&self, topic: &str, partition: Option<u16>) -> Subscription {
        let all = match partition {
            Some(id) => Subscription::partition(topic, id),
            None => Subscription::topic(topic),
        };
        let all = all.start(self.start);
        let all = if let Some(until) = self.until { all.stop_at_time(until) } else { all };
        if let Some(seq) = self.to_seq { all.stop_at_seq(seq) } else { all }
    }

    /// Whether a message that came is wanted: time stamps may go back to before the place where reading began.
    pub fn has(&self, message: &Message) -> bool {
        message.timestamp_ms() >= self.since
    }
}
