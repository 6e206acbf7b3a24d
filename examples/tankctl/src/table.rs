//! Small tables, for people or as JSON lines.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use crate::format::visible;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct TableArgs {
    /// Print a JSON object for each row instead of a table
    #[arg(short = 'J', long, help_heading = "Format")]
    pub json: bool,
}

/// Rows of cells; `null` is shown as `-`.
pub struct Table {
    names: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(names: &[&'static str]) -> Table {
        Table { names: names.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: &[&dyn Cell]) {
        self.rows.push(cells.iter().map(|cell| cell.value()).collect());
    }

    pub fn print(&self, args: &TableArgs) -> Result<()> {
        let mut out = Output::stdout();
        if args.json {
            self.json(out.bytes())?
        } else {
            self.columns(&mut out)
        }
        out.flush()
    }

    fn json(&self, out: &mut Vec<u8>) -> Result<()> {
        for row in &self.rows {
            for (index, (name, cell)) in self.names.iter().zip(row).enumerate() {
                write!(out, "{}\"{name}\":{cell}", if index == 0 { '{' } else { ',' })?;
            }
            out.extend_from_slice(b"}\n");
        }
        Ok(())
    }

    /// Columns as wide as they need, under their names; numbers to the right.
    fn columns(&self, out: &mut Output) {
        let for_terminal = out.is_terminal();
        let text = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::Bool(is) => if *is { "yes" } else { "no" }.to_owned(),
            Value::String(text) if for_terminal => {
                let mut bytes = Vec::new();
                visible(&mut bytes, text.as_bytes());
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut lines: Vec<Vec<(String, bool)>> =
            vec![self.names.iter().map(|name| (name.to_uppercase(), false)).collect()];
        lines.extend(self.rows.iter().map(|row| row.iter().map(|cell| (text(cell), cell.is_number())).collect()));
        let is_numbers = |column: usize| self.rows.iter().any(|row| row[column].is_number());
        let width = |column: usize| lines.iter().map(|line| line[column].0.chars().count()).max().unwrap_or(0);
        let columns: Vec<(usize, bool)> =
            (0..self.names.len()).map(|column| (width(column), is_numbers(column))).collect();
        for line in &lines {
            let mut shown = String::new();
            for ((cell, _), &(width, to_right)) in line.iter().zip(&columns) {
                shown += &if to_right { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            out.bytes().extend_from_slice(shown.trim_end().as_bytes());
            out.bytes().push(b'\n');
        }
    }
}

/// What can stand in a table.
pub trait Cell {
    fn value(&self) -> Value;
}

impl<T: Clone + Into<Value>> Cell for T {
    fn value(&self) -> Value {
        self.clone().into()
    }
}
