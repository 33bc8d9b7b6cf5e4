//! Files that are made by a command and checked by tests: the vectors, the table of refusal codes.

use quorate_identity::Code;
use std::{fmt::Write as _, fs, path::Path};

const BEGIN: &str = "<!-- codes:begin -->\n";
const END: &str = "<!-- codes:end -->";

/// Makes `schemas/v1/vectors` again; the same test compares what is stored when it runs without the variable.
pub fn vectors(root: &Path) -> Result<(), String> {
    super::run(super::cargo(root).env("QUORATE_WRITE_VECTORS", "1").args([
        "test",
        "--locked",
        "--package",
        "quorate-session",
        "--test",
        "vectors",
        "the_stored_vectors_are_the_ones_that_are_made",
    ]))
}

/// Writes the table of codes between its marks in `docs/protocol.md`.
pub fn codes(root: &Path) -> Result<(), String> {
    let path = root.join("docs/protocol.md");
    let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let marks = text.split_once(BEGIN);
    let parts = marks.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or("the marks of the table are missing")?;
    let table = table();
    fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).map_err(|e| e.to_string())
}

fn table() -> String {
    let mut table = "| code | exit | meaning | next step |\n|---|---|---|---|\n".to_owned();
    for code in Code::ALL {
        let (exit, meaning, next) = (code.exit_code(), code.meaning(), code.next_step());
        // Writing to a text cannot fail.
        let _ = writeln!(table, "| {code} | {exit} | {meaning} | {next} |");
    }
    table
}
