//! What `docs/protocol.md` says about refusals: for each rule the codes and the words of its refusals.

use quorate_identity::Code;
use std::{fs, path::Path};

/// One refusal that the text describes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Number of the rule, such as `S3.4`.
    pub rule: String,
    pub code: String,
    /// Words of the refusal; `…` stands for what varies.
    pub words: String,
}

impl Refusal {
    /// Whether a refusal in these words is this one; a record names the statement first.
    pub fn is_shown_by(&self, detail: &str) -> bool {
        let inner = detail.split_once(": ").map_or("", |(_, inner)| inner);
        reads_as(detail, &self.words) || reads_as(inner, &self.words)
    }
}

pub fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    fs::read_to_string(path).unwrap()
}

/// Every refusal of the numbered rules J, T, V, D, K, S and C, and of those that other parts of the protocol add.
pub fn refusals(document: &str) -> Vec<Refusal> {
    let mut found = Vec::new();
    let mut section = None;
    for line in document.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = None;
            if title.starts_with("13 ") {
                break;
            }
        } else if let Some(title) = line.strip_prefix("### ") {
            section = rule_of(title.split(' ').next().unwrap_or_default());
        } else if let Some((rule, row)) = row(line) {
            collect(&rule, row, &mut found);
        } else if let Some((rule, rest)) = item(line) {
            collect(&rule, refused_as(rest), &mut found);
        } else if let Some(rule) = &section
            && line.contains("*Refused as*")
        {
            collect(rule, refused_as(line), &mut found);
        }
    }
    found
}

/// A rule's number: a letter, digits, and perhaps one more number. Rules of the guard have no refusals.
fn rule_of(word: &str) -> Option<String> {
    let (main, sub) = word.split_once('.').unwrap_or((word, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let letter = main.chars().next().filter(char::is_ascii_uppercase)?;
    let numbered = digits(&main[1..]) && digits(sub) && letter != 'G';
    numbered.then(|| word.to_owned())
}

/// A row of a table that begins with a rule; all cells but the last, which names files.
fn row(line: &str) -> Option<(String, &str)> {
    let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let (first, rest) = inner.split_once(" | ")?;
    let rule = rule_of(first)?;
    Some((rule, rest.rsplit_once(" | ")?.0))
}

fn item(line: &str) -> Option<(String, &str)> {
    let (word, rest) = line.strip_prefix("- **")?.split_once("**")?;
    Some((rule_of(word)?, rest))
}

fn refused_as(line: &str) -> &str {
    let after = line.split("*Refused as*").nth(1).unwrap_or_default();
    after.split("*Checked in*").next().unwrap_or_default()
}

/// Each code in backticks, with the quoted words that follow it.
fn collect(rule: &str, text: &str, found: &mut Vec<Refusal>) {
    let mut code = None;
    let mut rest = text;
    while let Some(at) = rest.find(['`', '"']) {
        let mark = &rest[at..=at];
        let Some((inside, after)) = rest[at + 1..].split_once(mark) else {
            return;
        };
        if mark == "`" {
            if inside.starts_with("E_") {
                assert!(inside.parse::<Code>().is_ok(), "{rule}: {inside}");
                code = Some(inside);
            }
        } else if let Some(code) = code {
            found.push(Refusal {
                rule: rule.to_owned(),
                code: code.to_owned(),
                words: inside.to_owned(),
            });
        }
        rest = after;
    }
}

/// Whether `detail` reads as `words`, in which `…` stands for anything.
pub fn reads_as(detail: &str, words: &str) -> bool {
    let mut rest = detail;
    for (index, part) in words.split('…').enumerate() {
        let Some(at) = rest.find(part) else {
            return false;
        };
        if index == 0 && at != 0 {
            return false;
        }
        rest = &rest[at + part.len()..];
    }
    words.ends_with('…') || rest.is_empty()
}
