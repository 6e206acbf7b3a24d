//! Messages as lines on the standard output: fields or JSON.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use tank_client::Message;

use super::time::{millis, show, show_span};
use super::{Args, Usage};

/// What to say of `--fields` and `--json` in a usage text.
pub const OPTIONS: &str = "
  --fields LIST    what to print of a message, in this order, with tabs between: topic, partition, seqnum, key (- if
                   none), content, ts_ms (time stamp, milliseconds since 1970), ts (as date and time, UTC), time_since,
                   size (of the content, bytes)
  --json           a JSON object a line, with these fields; what is not UTF-8 becomes key_hex or content_hex";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Topic,
    Partition,
    SeqNum,
    Key,
    Content,
    TsMs,
    Ts,
    TimeSince,
    Size,
}

fn field(name: &str) -> Result<Field, Usage> {
    Ok(match name {
        "topic" => Field::Topic,
        "partition" => Field::Partition,
        "seqnum" => Field::SeqNum,
        "key" => Field::Key,
        "content" => Field::Content,
        "ts_ms" => Field::TsMs,
        "ts" => Field::Ts,
        "time_since" => Field::TimeSince,
        "size" => Field::Size,
        other => return Err(Usage(format!("--fields: no field is called {other:?}"))),
    })
}

/// Writes lines; whoever reads them never gets a part of one.
pub struct Printer {
    fields: Vec<Field>,
    is_json: bool,
    lines: Vec<u8>,
}

impl Printer {
    /// As the arguments say, or these fields.
    pub fn new(args: &Args, fields: &str) -> Result<Printer, Usage> {
        let fields = args.option("--fields").unwrap_or(fields);
        let fields = fields.split(',').map(field).collect::<Result<_, _>>()?;
        Ok(Printer { fields, is_json: args.option("--json").is_some(), lines: Vec::new() })
    }

    pub fn print(&mut self, message: &Message) -> io::Result<()> {
        let (write, [open, between, close]): (fn(&mut Vec<u8>, Field, &Message) -> io::Result<()>, [&str; 3]) =
            if self.is_json { (json, ["{", ",", "}\n"]) } else { (text, ["", "\t", "\n"]) };
        for (index, &field) in self.fields.iter().enumerate() {
            self.lines.extend_from_slice(if index == 0 { open } else { between }.as_bytes());
            write(&mut self.lines, field, message)?;
        }
        self.lines.extend_from_slice(close.as_bytes());
        if self.lines.len() >= 1 << 16 { self.flush() } else { Ok(()) }
    }

    /// Hands on what was printed: before any wait, so that a pipe sees every message at once.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        // Also if it fails: what went out must not go out again.
        let lines = std::mem::take(&mut self.lines);
        out.write_all(&lines)?;
        out.flush()
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

fn text(out: &mut Vec<u8>, field: Field, message: &Message) -> io::Result<()> {
    match field {
        Field::Topic => write!(out, "{}", message.topic()),
        Field::Partition => write!(out, "{}", message.partition()),
        Field::SeqNum => write!(out, "{}", message.seq()),
        Field::Key => out.write_all(message.key().unwrap_or(b"-")),
        Field::Content => out.write_all(message.payload()),
        Field::TsMs => write!(out, "{}", message.timestamp_ms()),
        Field::Ts => write!(out, "{}", show(message.timestamp_ms())),
        Field::TimeSince => write!(out, "{}", show_span(Duration::from_millis(age(message)))),
        Field::Size => write!(out, "{}", message.payload().len()),
    }
}

fn json(out: &mut Vec<u8>, field: Field, message: &Message) -> io::Result<()> {
    match field {
        Field::Topic => json_bytes(out, "topic", message.topic().as_bytes()),
        Field::Partition => write!(out, "\"partition\":{}", message.partition()),
        Field::SeqNum => write!(out, "\"seqnum\":{}", message.seq()),
        Field::Key => match message.key() {
            Some(key) => json_bytes(out, "key", key),
            None => write!(out, "\"key\":null"),
        },
        Field::Content => json_bytes(out, "content", message.payload()),
        Field::TsMs => write!(out, "\"ts_ms\":{}", message.timestamp_ms()),
        Field::Ts => write!(out, "\"ts\":\"{}\"", show(message.timestamp_ms())),
        Field::TimeSince => write!(out, "\"time_since_ms\":{}", age(message)),
        Field::Size => write!(out, "\"size\":{}", message.payload().len()),
    }
}

fn json_bytes(out: &mut Vec<u8>, name: &str, bytes: &[u8]) -> io::Result<()> {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            write!(out, "\"{name}\":")?;
            Ok(serde_json::to_writer(out, text)?)
        }
        Err(_) => {
            write!(out, "\"{name}_hex\":\"")?;
            bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
            write!(out, "\"")
        }
    }
}

/// Milliseconds since a message's time stamp.
fn age(message: &Message) -> u64 {
    millis(SystemTime::now()).saturating_sub(message.timestamp_ms())
}
