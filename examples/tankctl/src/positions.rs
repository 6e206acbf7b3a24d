//! Which part of which topics to read.

use std::str::FromStr;
use std::time::SystemTime;

use anyhow::Result;
use clap::Args;
use jiff::tz::TimeZone;
use tank_client::{Message, Start, Subscription};

use crate::exit::Usage;
use crate::signals;
use crate::times::{millis, parse, parse_zone};

/// `TOPIC` or `TOPIC/PARTITION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub topic: String,
    pub partition: Option<u16>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let (topic, partition) = match text.split_once('/') {
            None => (text, None),
            Some((topic, id)) => (topic, Some(id.parse().map_err(|_| format!("{id:?} is not a partition"))?)),
        };
        if topic.is_empty() {
            return Err("the name of the topic is missing".into());
        }
        Ok(Place { topic: topic.to_owned(), partition })
    }
}

fn parse_from(text: &str) -> Result<Start, String> {
    let wrong = |_| "earliest, latest, a number, or -N for the last N is expected".to_owned();
    match (text, text.strip_prefix('-')) {
        ("earliest" | "beginning" | "start", _) => Ok(Start::Earliest),
        ("latest" | "end", _) => Ok(Start::Latest),
        (_, Some(last)) => last.parse().map(Start::Last).map_err(wrong),
        (seq, None) => seq.parse().map(Start::At).map_err(wrong),
    }
}

/// Options that choose a part of a topic.
#[derive(Debug, Args)]
pub struct RangeArgs {
    /// Where to begin in each partition: earliest, latest, a number, or -N for the last N numbers
    #[arg(short = 'o', long, value_name = "PLACE", value_parser = parse_from, allow_hyphen_values = true,
          conflicts_with = "since", help_heading = "Range")]
    from: Option<Start>,
    /// Begin at this time, and leave out older messages
    ///
    /// A time is `now`; a span before now, such as 90s, 1h30m or `2 days`; a date, or a date and a time of day, such as
    /// 2026-11-22, 2026-11-22T08:30 or 2026-11-22T08:30:00.5+02:00; or milliseconds since 1970.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Range")]
    since: Option<String>,
    /// End each partition before its first message with this time or a later one
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Range")]
    until: Option<String>,
    /// End each partition with this number
    #[arg(long, value_name = "NUMBER", help_heading = "Range")]
    to_seq: Option<u64>,
    /// Time zone of times without one, and of printed times: UTC, local, a name or an offset
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = parse_zone, allow_hyphen_values = true,
          help_heading = "Range")]
    pub zone: TimeZone,
}

/// A part of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    start: Start,
    since: u64,
    until: Option<SystemTime>,
    to_seq: Option<u64>,
    /// Whether it ends at a time in the past.
    pub is_past: bool,
}

impl RangeArgs {
    /// The part that was asked for. Begins at `start` if nothing else was said.
    pub fn range(&self, start: Start) -> Result<Range> {
        let now = SystemTime::now();
        let time = |name: &str, text: &Option<String>| -> Result<Option<SystemTime>> {
            let parse = |text: &String| parse(text, now, &self.zone).map_err(|e| Usage(format!("--{name}: {e}")));
            Ok(text.as_ref().map(parse).transpose()?)
        };
        let (since, until) = (time("since", &self.since)?, time("until", &self.until)?);
        Ok(Range {
            start: self.from.or(since.map(Start::Time)).unwrap_or(start),
            since: since.map_or(0, millis),
            until,
            to_seq: self.to_seq,
            is_past: until.is_some_and(|until| until <= now),
        })
    }
}

impl Range {
    /// These topics and partitions in this range, ended by the first signal.
    pub fn of(&self, places: &[Place]) -> Subscription {
        let mut places = places.iter();
        let all = match places.next() {
            Some(Place { topic, partition: Some(id) }) => Subscription::partition(topic, *id),
            first => Subscription::topic(first.map_or("", |place| &place.topic)),
        };
        let all = places.fold(all.start(self.start), |all, place| match place.partition {
            Some(id) => all.and_partition(&place.topic, id, self.start),
            None => all.and_topic(&place.topic, self.start),
        });
        let all = all.close_with(signals::closer());
        let all = if let Some(until) = self.until { all.stop_at_time(until) } else { all };
        if let Some(seq) = self.to_seq { all.stop_at_seq(seq) } else { all }
    }

    /// Whether a message is in the range. Time stamps may go back, so a message after the start can be older than it.
    pub fn has(&self, message: &Message) -> bool {
        message.timestamp_ms() >= self.since
    }
}
