//! Results: one table per question, as Markdown for people and JSON for programs.

use serde_json::{Value, json};
use std::fmt::Write as _;

/// One cell.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A number, shown with this many digits after the point.
    Number(f64, usize),
    /// Not measured, or without meaning here.
    Nothing,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, digits) => format!("{value:.digits$}"),
            Self::Nothing => "–".into(),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(value, _) => json!(value),
            Self::Nothing => Value::Null,
        }
    }
}

/// What was wanted and what came out.
#[derive(Clone, Debug)]
pub struct Aim {
    /// Of what.
    pub what: String,
    /// The wish, in words.
    pub aim: String,
    /// What was measured, in words.
    pub measured: String,
    /// Whether it is met.
    pub met: bool,
}

impl Aim {
    /// Something that should be at most so much.
    pub fn at_most(what: &str, limit: f64, measured: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            aim: format!("≤ {limit} {unit}"),
            measured: format!("{measured:.2} {unit}"),
            met: measured <= limit,
        }
    }

    /// Something that should be at least so much.
    pub fn at_least(what: &str, limit: f64, measured: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            aim: format!("≥ {limit} {unit}"),
            measured: format!("{measured:.2} {unit}"),
            met: measured >= limit,
        }
    }
}

/// The answer to one question.
#[derive(Clone, Debug)]
pub struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    /// The aims it decides.
    pub aims: Vec<Aim>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: &str, columns: &[&'static str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.to_vec(),
            rows: Vec::new(),
            aims: Vec::new(),
        }
    }

    /// Adds a row; what is missing at its end was not measured.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = cells.into_iter().collect();
        row.resize(self.columns.len(), Cell::Nothing);
        self.rows.push(row);
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", self.title);
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        text += &line(self.columns.iter().map(ToString::to_string).collect());
        let numeric = |column: usize| {
            self.rows
                .iter()
                .all(|row| !matches!(row[column], Cell::Text(_)))
        };
        let rules = (0..self.columns.len()).map(|c| if numeric(c) { "--:" } else { "---" });
        text += &line(rules.map(str::to_owned).collect());
        for row in &self.rows {
            text += &line(row.iter().map(Cell::shown).collect());
        }
        for aim in &self.aims {
            let met = if aim.met { "met" } else { "missed" };
            let _ = write!(
                text,
                "\nAim: {} {}; measured {}: **{met}**.",
                aim.what, aim.aim, aim.measured
            );
        }
        text + if self.aims.is_empty() { "" } else { "\n" }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let row = |row: &Vec<Cell>| -> Value {
            let named = self.columns.iter().zip(row);
            named
                .map(|(name, cell)| ((*name).to_owned(), cell.value()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let aims = self
            .aims
            .iter()
            .map(|a| json!({"what": a.what, "aim": a.aim, "measured": a.measured, "met": a.met}));
        json!({
            "title": self.title,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "aims": aims.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_the_same_in_both_forms() {
        let mut table = Table::new("Set-up", &["parties", "ms"]);
        table.row(["three".into(), Cell::Number(12.345, 1)]);
        table.row(["five".into()]);
        table.aims.push(Aim::at_most("set-up", 150.0, 12.345, "ms"));
        let markdown = table.markdown();
        assert!(
            markdown.contains("| parties | ms |\n| --- | --: |\n| three | 12.3 |\n| five | – |\n")
        );
        assert!(markdown.contains("set-up ≤ 150 ms; measured 12.35 ms: **met**"));
        let json = table.json();
        assert_eq!(json["rows"][0]["ms"], 12.345);
        assert_eq!(json["rows"][1]["ms"], Value::Null);
        assert_eq!(json["aims"][0]["met"], true);
    }
}
