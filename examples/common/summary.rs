//! What was read, by partition, as a table.

use std::io;

use tank_client::{Message, Position, Positions};

use super::print_table;
use super::time::show;

/// Counts the messages of each partition.
pub struct Summary {
    rows: Vec<(String, u16, Row)>,
}

/// What came of one partition.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
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
    /// With a row for each of these partitions, in case one has no messages.
    pub fn new(partitions: &Positions) -> Summary {
        let row = |p: &Position| (p.topic.to_string(), p.partition, Row::default());
        Summary { rows: partitions.iter().map(row).collect() }
    }

    pub fn add(&mut self, message: &Message) {
        let (topic, partition) = (message.topic(), message.partition());
        let row = self.rows.iter_mut().find(|row| row.1 == partition && row.0 == topic);
        let (_, _, row) = row.expect("a partition of the subscription");
        let (seq, time) = (Some(message.seq()), Some(message.timestamp_ms()));
        let bytes = (message.key().map_or(0, <[u8]>::len) + message.payload().len()) as u64;
        row.merge(&Row { messages: 1, bytes, first: seq, last: seq, oldest: time, newest: time });
    }

    /// A row a partition, and one for all if there are several.
    pub fn print(&self) -> io::Result<()> {
        let names = ["PARTITION", "MESSAGES", "BYTES", "FIRST", "LAST", "OLDEST", "NEWEST"];
        let mut table = vec![names.map(str::to_owned).to_vec()];
        let mut all = Row::default();
        for (topic, partition, row) in &self.rows {
            table.push(cells(format!("{topic}/{partition}"), row));
            all.merge(row);
        }
        if self.rows.len() > 1 {
            table.push(cells("all".to_owned(), &Row { first: None, last: None, ..all }));
        }
        print_table(&table)
    }
}

fn cells(name: String, row: &Row) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let time = |time: Option<u64>| time.map_or("-".to_owned(), show);
    let (messages, bytes) = (row.messages.to_string(), row.bytes.to_string());
    vec![name, messages, bytes, number(row.first), number(row.last), time(row.oldest), time(row.newest)]
}
