//! What was read, by partition, as a table.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use jiff::tz::TimeZone;
use tank_client::{Message, Positions};

use crate::table::{Table, TableArgs};
use crate::times::show;

/// Counts the messages of each partition.
pub struct Summary {
    rows: Vec<Row>,
    by_name: HashMap<Arc<str>, HashMap<u16, usize>>,
}

/// What was read of one partition.
#[derive(Debug, Clone, Default)]
struct Row {
    name: String,
    messages: u64,
    bytes: u64,
    first: Option<u64>,
    last: Option<u64>,
    oldest: Option<u64>,
    newest: Option<u64>,
}

impl Row {
    fn merge(&mut self, other: &Row) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.first = self.first.or(other.first);
        self.last = other.last.or(self.last);
        self.oldest = [self.oldest, other.oldest].into_iter().flatten().min();
        self.newest = self.newest.max(other.newest);
    }
}

impl Summary {
    /// Has a row for each of these partitions, even if no message of it comes.
    pub fn new(partitions: &Positions) -> Summary {
        let mut summary = Summary { rows: Vec::new(), by_name: HashMap::new() };
        for place in partitions {
            summary.row(&place.topic, place.partition);
        }
        summary
    }

    fn row(&mut self, topic: &str, partition: u16) -> &mut Row {
        if !self.by_name.contains_key(topic) {
            self.by_name.insert(topic.into(), HashMap::new());
        }
        let rows = &mut self.rows;
        let add = || {
            rows.push(Row { name: format!("{topic}/{partition}"), ..Row::default() });
            rows.len() - 1
        };
        let index = *self.by_name.entry(topic.into()).or_default().entry(partition).or_insert_with(add);
        &mut self.rows[index]
    }

    pub fn add(&mut self, message: &Message) {
        let (seq, time) = (Some(message.seq()), Some(message.timestamp_ms()));
        let bytes = (message.key().map_or(0, <[u8]>::len) + message.payload().len()) as u64;
        let (first, last, oldest, newest) = (seq, seq, time, time);
        let added = Row { name: String::new(), messages: 1, bytes, first, last, oldest, newest };
        self.row(message.topic(), message.partition()).merge(&added);
    }

    /// Prints a row for each partition, and one for all if there are several.
    pub fn print(&self, args: &TableArgs, zone: &TimeZone) -> Result<()> {
        let mut table = Table::new(&["partition", "messages", "bytes", "first", "last", "oldest", "newest"]);
        let mut all = Row { name: "all".to_owned(), ..Row::default() };
        let mut put = |row: &Row| {
            let time = |ms: Option<u64>| ms.map(|ms| show(ms, zone));
            let (oldest, newest) = (time(row.oldest), time(row.newest));
            table.row(&[&row.name, &row.messages, &row.bytes, &row.first, &row.last, &oldest, &newest]);
        };
        for row in &self.rows {
            put(row);
            all.merge(row);
        }
        if self.rows.len() > 1 && !args.json {
            put(&Row { first: None, last: None, ..all });
        }
        table.print(args)
    }
}
