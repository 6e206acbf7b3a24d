//! How messages are printed: as fields, as JSON, or in a format like that of `kcat -f`.

use std::io::Write;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Args;
use jiff::tz::TimeZone;
use tank_client::Message;

use crate::output::Output;
use crate::times::{millis, show, show_span};

/// Options that say how messages are printed.
#[derive(Debug, Args)]
pub struct FormatArgs {
    /// The fields to print, in this order, separated by tabs
    ///
    /// topic, partition, seqnum, key (- if none), content, ts_ms (time stamp, milliseconds since 1970), ts (as date and time),
    /// time_since, size (of the content, bytes)
    #[arg(short = 'F', long, value_name = "LIST", value_delimiter = ',', help_heading = "Format")]
    fields: Vec<Field>,
    /// Print one JSON object per line, with these fields; what is not UTF-8 becomes key_hex or content_hex
    #[arg(short = 'J', long, help_heading = "Format")]
    json: bool,
    /// Print messages in this format, like that of kcat -f; it must contain the line ends
    ///
    /// %t topic, %p partition, %o sequence number, %k key, %s content, %K and %S their lengths in bytes (-1 for no key), %R the
    /// length of the content in four bytes, %T time stamp in milliseconds, %d time stamp as date and time, %% a percent sign;
    /// \n, \r, \t, \0, \\ and \xNN stand for bytes.
    #[arg(short, long, value_name = "FORMAT", value_parser = parse_pieces, conflicts_with_all = ["fields", "json"],
          allow_hyphen_values = true, help_heading = "Format")]
    format: Option<Pieces>,
}

/// A part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
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

impl FromStr for Field {
    type Err = String;

    fn from_str(name: &str) -> Result<Field, String> {
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
            other => {
                let known = "topic, partition, seqnum, key, content, ts_ms, ts, time_since, size";
                return Err(format!("there is no field {other:?}; the fields are {known}"));
            }
        })
    }
}

/// A parsed format.
pub type Pieces = Vec<Piece>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Bytes(Vec<u8>),
    Field(Field),
    KeyLength,
    /// Four bytes, the highest first.
    BinaryLength,
    /// The key; nothing if there is none.
    BareKey,
}

/// Turns a text with escapes into bytes.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    match parse_pieces(&text.replace('%', "%%"))?.as_slice() {
        [] => Ok(Vec::new()),
        [Piece::Bytes(bytes)] => Ok(bytes.clone()),
        _ => Err("only bytes are expected".into()),
    }
}

fn parse_pieces(text: &str) -> Result<Pieces, String> {
    let (mut pieces, mut bytes, mut rest) = (Vec::new(), Vec::new(), text.chars());
    while let Some(c) = rest.next() {
        let piece = match c {
            '%' => match rest.next() {
                Some('%') => {
                    bytes.push(b'%');
                    continue;
                }
                Some('t') => Piece::Field(Field::Topic),
                Some('p') => Piece::Field(Field::Partition),
                Some('o') => Piece::Field(Field::SeqNum),
                Some('k') => Piece::BareKey,
                Some('s') => Piece::Field(Field::Content),
                Some('K') => Piece::KeyLength,
                Some('S') => Piece::Field(Field::Size),
                Some('R') => Piece::BinaryLength,
                Some('T') => Piece::Field(Field::TsMs),
                Some('d') => Piece::Field(Field::Ts),
                Some('h') => return Err("%h: TANK's messages have no headers".into()),
                Some(c) => return Err(format!("%{c} is not known; write %% for a percent sign")),
                None => return Err("it ends with a single %; write %% for a percent sign".into()),
            },
            '\\' => {
                bytes.push(escape(&mut rest)?);
                continue;
            }
            c => {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        if !bytes.is_empty() {
            pieces.push(Piece::Bytes(std::mem::take(&mut bytes)));
        }
        pieces.push(piece);
    }
    if !bytes.is_empty() {
        pieces.push(Piece::Bytes(bytes));
    }
    Ok(pieces)
}

/// The byte that an escape stands for; its backslash was read.
fn escape(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match rest.next() {
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('t') => Ok(b'\t'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: String = rest.by_ref().take(2).collect();
            let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 2);
            byte.ok_or_else(|| format!("\\x{digits}: two hexadecimal digits are expected"))
        }
        Some(c) => Err(format!("\\{c} is not known; write \\\\ for a backslash")),
        None => Err("it ends with a single backslash; write \\\\ for one".into()),
    }
}

/// Prints messages.
pub struct Printer {
    what: What,
    zone: TimeZone,
    pub out: Output,
}

enum What {
    Fields(Vec<Field>),
    Json(Vec<Field>),
    Format(Pieces),
}

impl FormatArgs {
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints as was asked for, or these fields.
    pub fn printer(&self, fields: &[Field], zone: &TimeZone) -> Printer {
        let fields = if self.fields.is_empty() { fields } else { &self.fields };
        let what = match &self.format {
            Some(pieces) => What::Format(pieces.clone()),
            None if self.json => What::Json(fields.to_vec()),
            None => What::Fields(fields.to_vec()),
        };
        Printer { what, zone: zone.clone(), out: Output::stdout() }
    }
}

impl Printer {
    pub fn print(&mut self, message: &Message) -> Result<()> {
        let shown = Shown { message, zone: &self.zone, for_terminal: self.out.is_terminal() };
        let out = self.out.bytes();
        match &self.what {
            What::Fields(fields) => {
                for (index, &field) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b'\t');
                    }
                    shown.text(out, field)?;
                }
                out.push(b'\n');
            }
            What::Json(fields) => {
                for (index, &field) in fields.iter().enumerate() {
                    out.push(if index == 0 { b'{' } else { b',' });
                    shown.json(out, field)?;
                }
                out.extend_from_slice(b"}\n");
            }
            What::Format(pieces) => pieces.iter().try_for_each(|piece| shown.piece(out, piece))?,
        }
        self.out.end_line()
    }
}

/// A message that is printed.
struct Shown<'a> {
    message: &'a Message,
    zone: &'a TimeZone,
    for_terminal: bool,
}

impl Shown<'_> {
    fn text(&self, out: &mut Vec<u8>, field: Field) -> Result<()> {
        let message = self.message;
        match field {
            Field::Topic => self.bytes(out, message.topic().as_bytes()),
            Field::Partition => write!(out, "{}", message.partition())?,
            Field::SeqNum => write!(out, "{}", message.seq())?,
            Field::Key => self.bytes(out, message.key().unwrap_or(b"-")),
            Field::Content => self.bytes(out, message.payload()),
            Field::TsMs => write!(out, "{}", message.timestamp_ms())?,
            Field::Ts => write!(out, "{}", show(message.timestamp_ms(), self.zone))?,
            Field::TimeSince => write!(out, "{}", show_span(Duration::from_millis(self.age())))?,
            Field::Size => write!(out, "{}", message.payload().len())?,
        }
        Ok(())
    }

    fn piece(&self, out: &mut Vec<u8>, piece: &Piece) -> Result<()> {
        match piece {
            Piece::Bytes(bytes) => out.extend_from_slice(bytes),
            Piece::Field(field) => self.text(out, *field)?,
            Piece::BareKey => self.bytes(out, self.message.key().unwrap_or_default()),
            Piece::KeyLength => match self.message.key() {
                Some(key) => write!(out, "{}", key.len())?,
                None => out.extend_from_slice(b"-1"),
            },
            Piece::BinaryLength => {
                out.extend_from_slice(&u32::try_from(self.message.payload().len()).unwrap_or(u32::MAX).to_be_bytes());
            }
        }
        Ok(())
    }

    fn json(&self, out: &mut Vec<u8>, field: Field) -> Result<()> {
        let message = self.message;
        match field {
            Field::Topic => self.json_bytes(out, "topic", message.topic().as_bytes())?,
            Field::Partition => write!(out, "\"partition\":{}", message.partition())?,
            Field::SeqNum => write!(out, "\"seqnum\":{}", message.seq())?,
            Field::Key => match message.key() {
                Some(key) => self.json_bytes(out, "key", key)?,
                None => write!(out, "\"key\":null")?,
            },
            Field::Content => self.json_bytes(out, "content", message.payload())?,
            Field::TsMs => write!(out, "\"ts_ms\":{}", message.timestamp_ms())?,
            Field::Ts => write!(out, "\"ts\":\"{}\"", show(message.timestamp_ms(), self.zone))?,
            Field::TimeSince => write!(out, "\"time_since_ms\":{}", self.age())?,
            Field::Size => write!(out, "\"size\":{}", message.payload().len())?,
        }
        Ok(())
    }

    fn json_bytes(&self, out: &mut Vec<u8>, name: &str, bytes: &[u8]) -> Result<()> {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                write!(out, "\"{name}\":")?;
                let text = serde_json::to_string(text)?;
                let drives = |c: &char| self.for_terminal && is_control(*c);
                match text.chars().any(|c| drives(&c)) {
                    true => text.chars().for_each(|c| put(out, c, |c| format!("\\u{:04x}", u32::from(c)))),
                    false => out.extend_from_slice(text.as_bytes()),
                }
            }
            Err(_) => {
                write!(out, "\"{name}_hex\":\"")?;
                bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
                out.push(b'"');
            }
        }
        Ok(())
    }

    /// Bytes of a message: escaped for a terminal, otherwise as they are.
    fn bytes(&self, out: &mut Vec<u8>, bytes: &[u8]) {
        if self.for_terminal { visible(out, bytes) } else { out.extend_from_slice(bytes) }
    }

    /// Milliseconds since the message's time stamp.
    fn age(&self) -> u64 {
        millis(SystemTime::now()).saturating_sub(self.message.timestamp_ms())
    }
}

/// Appends bytes so that they cannot drive a terminal: everything but text, tabs and line ends becomes an escape.
pub fn visible(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| put(out, c, |c| c.escape_default().to_string()));
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
}

fn put(out: &mut Vec<u8>, c: char, escape: fn(char) -> String) {
    if is_control(c) {
        out.extend_from_slice(escape(c).as_bytes());
    } else {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Whether a character moves the cursor, or changes the direction of the text around it.
fn is_control(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() && c != '\t' && c != '\n' || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_is_escaped() {
        for (bytes, expected) in [
            (&b"tea\tand\nmilk"[..], "tea\tand\nmilk"),
            (b"\x1b[2Jgone\r", "\\u{1b}[2Jgone\\r"),
            (b"\xff\x80", "\\xff\\x80"),
            ("\u{9b}31m\u{202e}caf\u{e9} \u{7f}".as_bytes(), "\\u{9b}31m\\u{202e}caf\u{e9} \\u{7f}"),
        ] {
            let mut out = Vec::new();
            visible(&mut out, bytes);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn formats_are_those_of_kcat() {
        let pieces = parse_pieces("%t/%p\\n100%%\\x41").unwrap();
        let field = Piece::Field;
        let bytes = |text: &str| Piece::Bytes(text.into());
        assert_eq!(pieces, [field(Field::Topic), bytes("/"), field(Field::Partition), bytes("\n100%A")]);
        for (wrong, why) in
            [("%h", "headers"), ("%", "single %"), ("%y", "not known"), ("\\x4", "two"), ("\\", "single")]
        {
            assert!(parse_pieces(wrong).unwrap_err().contains(why), "{wrong}");
        }
        assert_eq!(unescape("%\\t").unwrap(), b"%\t");
    }
}
