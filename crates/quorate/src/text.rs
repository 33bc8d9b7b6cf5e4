//! Words on the screen: colour, columns, durations, and the escaping of what others wrote.

use std::time::Duration;

use anstream::{AutoStream, ColorChoice, eprintln};

use quorate_node::program::confine::MIN_MEMORY;

use crate::args::{Colour, Memory};

/// Longest text of somebody else that is shown, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Applies `--color`; `auto` looks at the terminal, `NO_COLOR` and `CLICOLOR_FORCE`.
pub fn choose_colour(choice: Colour) {
    match choice {
        Colour::Auto => AutoStream::choice(&std::io::stderr()).write_global(),
        Colour::Always => ColorChoice::Always.write_global(),
        Colour::Never => ColorChoice::Never.write_global(),
    }
}

/// One line to stderr.
#[allow(clippy::print_stderr)] // this is the one place that prints lines for people
pub fn say(line: impl std::fmt::Display) {
    eprintln!("{line}");
}

/// A line of the two-column form: a short label, then the text.
pub fn row(label: &str, text: &str) -> String {
    use owo_colors::OwoColorize;
    format!("  {:<12} {text}", label.bold())
}

/// What somebody else wrote, safe to show: control characters, direction marks and everything else
/// that could move or disguise text is written as an escape, and it is cut to a bounded length.
pub fn foreign(text: &str) -> String {
    let whole = escaped(text);
    match whole.char_indices().nth(MAX_SHOWN_CHARS) {
        None => whole,
        Some((at, _)) => format!("{}…", &whole[..at]),
    }
}

/// A name that somebody else chose, for a place beside marks of ours: quotes, brackets and runs of
/// spaces are written as escapes too, so that no name can pass for a petname or a mark.
pub fn name(text: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    for c in foreign(text).chars() {
        let imitates = matches!(c, '"' | '[' | ']') || (c == ' ' && before == ' ');
        if imitates {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        before = c;
    }
    out
}

/// Like [`foreign`], but whole: for what a person agrees to.
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if is_plain(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

fn is_plain(c: char) -> bool {
    match c {
        ' '..='~' => true,
        // C1 controls, soft hyphen, Arabic letter mark, zero width, direction marks and overrides,
        // line separators, invisible operators, tags, variation selectors, byte order mark; letters and
        // signs without any mark on the screen, some of which are names in Python
        '\u{0}'..='\u{9f}'
        | '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{fff0}'..='\u{ffff}'
        | '\u{e0000}'..='\u{e0fff}'
        | '\u{34f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180d}'
        | '\u{180f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{ffa0}'
        | '\u{1d173}'..='\u{1d17a}' => false,
        _ => !c.is_whitespace(),
    }
}

/// `90s`, `30m`, `2h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 90s, 30m, 2h or 7d");
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(seconds)
        .filter(|s| *s > 0)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

/// `512MiB`, `4GiB`, `none`.
pub fn parse_memory(text: &str) -> Result<Memory, String> {
    if text == "none" {
        return Ok(Memory::Unlimited);
    }
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let parsed = units.iter().find_map(|(unit, bits)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(1 << bits)
    });
    match parsed {
        None => Err(format!(
            "{text:?} is not a size such as 512MiB or 4GiB, or none"
        )),
        Some(bytes) if bytes < MIN_MEMORY => Err(format!(
            "no program starts with less than {} MiB",
            MIN_MEMORY >> 20
        )),
        Some(bytes) => Ok(Memory::Bytes(bytes)),
    }
}

/// A length of time for people: `45 s`, `12 min`, `1 h 52 min`, `3 days`.
pub fn duration(seconds: i64) -> String {
    let s = seconds.max(0);
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..172_800 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} days", s / 86400),
    }
}

/// A measured time for people, from milliseconds.
pub fn elapsed(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => duration(i64::try_from(ms / 1000).unwrap_or(i64::MAX)),
    }
}

/// A number of bytes for people, in powers of ten.
pub fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let n = count as f64;
    match count {
        0..1000 => format!("{count} B"),
        1000..1_000_000 => format!("{:.1} kB", n / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n / 1e6),
        _ => format!("{:.1} GB", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_move_the_cursor_or_the_direction() {
        assert_eq!(foreign("Clinique Süd 医院"), "Clinique Süd 医院");
        assert_eq!(
            foreign("a\u{3164}b\u{34f}c\u{ffa0}"),
            r"a\u{3164}b\u{34f}c\u{ffa0}"
        );
        assert_eq!(
            foreign("a\u{1b}[2Jb\n\u{202e}c"),
            r"a\u{1b}[2Jb\u{a}\u{202e}c"
        );
        assert_eq!(
            foreign(&"x".repeat(500)).chars().count(),
            MAX_SHOWN_CHARS + 1
        );
    }

    #[test]
    fn a_name_cannot_imitate_a_mark() {
        assert_eq!(name("Clinique Süd"), "Clinique Süd");
        let shown = name("sud\"   your contact [sud]   words: x");
        for mark in ["\"", "[sud]", "   "] {
            assert!(!shown.contains(mark), "{shown}");
        }
        assert_eq!(name(" x"), r"\u{20}x");
    }

    #[test]
    fn durations_read_and_print() {
        assert_eq!(parse_duration("2h"), Ok(Duration::from_hours(2)));
        for text in [
            "",
            "2",
            "h",
            "-1h",
            "1.5h",
            "0s",
            "2 h",
            "9999999999999999999d",
            "é",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_memory("4GiB"), Ok(Memory::Bytes(4 << 30)));
        assert_eq!(parse_memory("none"), Ok(Memory::Unlimited));
        for text in ["", "4", "4GB", "-1GiB", "1KiB", "99999999999TiB", "GiB"] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
        assert_eq!(duration(6720), "1 h 52 min");
        assert_eq!(bytes(17_742), "17.7 kB");
    }
}
