//! `-NAME` on the command line: who stays away.
//!
//! clap knows options only, and a positional that may begin with a hyphen would take all options behind
//! it. So `-ost` is read as `--minus=ost` before clap sees it, in the commands that know names.

use std::ffi::OsString;

/// Options of one letter, alone or together: they stay what they are.
const LETTERS: &str = "vqyhV";
/// Options whose value is the next word.
const WITH_VALUE: [&str; 3] = ["--home", "--color", "--log-file"];

/// The words of the command line with `-NAME` made an option where it means a person.
pub fn with_minus(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let words: Vec<OsString> = words.into_iter().collect();
    if !knows_names(&words) {
        return words;
    }
    let mut ended = false;
    let rewritten = words.into_iter().map(|word| {
        ended |= word == "--";
        let name = word.to_str().and_then(|w| w.strip_prefix('-'));
        match name.filter(|n| !ended && is_name(n)) {
            Some(name) => format!("--minus={name}").into(),
            None => word,
        }
    });
    rewritten.collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && !text.chars().all(|c| LETTERS.contains(c))
}

/// Whether the command is `again` or `contacts group`.
fn knows_names(words: &[OsString]) -> bool {
    let mut commands = Vec::new();
    let mut words = words.iter().skip(1).filter_map(|w| w.to_str());
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word) {
            words.next();
        } else if !word.starts_with('-') {
            commands.push(word);
        }
    }
    matches!(
        commands.as_slice(),
        ["again", ..] | ["contacts", "group", ..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> String {
        let words = with_minus(line.split(' ').map(OsString::from));
        let words: Vec<_> = words
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        words.join(" ")
    }

    #[test]
    fn names_become_options_and_options_stay() {
        for (line, wanted) in [
            (
                "quorate again -ost +west --local -y",
                "quorate again --minus=ost +west --local -y",
            ),
            (
                "quorate --home x again s -b -- -ost",
                "quorate --home x again s --minus=b -- -ost",
            ),
            (
                "quorate contacts group g +a -b --json",
                "quorate contacts group g +a --minus=b --json",
            ),
            (
                "quorate --home again join -x",
                "quorate --home again join -x",
            ),
            ("quorate again -vv -", "quorate again -vv -"),
        ] {
            assert_eq!(rewritten(line), wanted);
        }
    }
}
