//! Which words a user may not put among a program's arguments.
//!
//! MPyC reads its own options from the same list. Those that say who the parties are and how to
//! reach them are formed by quorate; a second value would silently win or lose against ours. Those
//! that change the computation itself have to be the same for all parties, so they belong into the
//! signed public arguments and not into one party's private ones.
//!
//! The rules of Python's `argparse` apply: `-M3`, `-M 3`, `--index=1`, any unambiguous beginning
//! of a long option (`--ind 1`), and flags written together (`-hM3`). After `--` nothing is an
//! option.

use quorate_identity::Code;

/// Short options of MPyC that quorate forms.
const FORMED_SHORT: &str = "MPICTB";
/// Short options of MPyC that have to be the same for all parties.
const PUBLIC_SHORT: &str = "LK";
/// Short flags of MPyC without a value, which `argparse` allows in front of others.
const FLAGS: &str = "VHh";

/// MPyC's long options with who may give them, all of them, so that beginnings can be resolved.
const LONG: &[(&str, Right)] = &[
    ("--VERSION", Right::Anyone),
    ("--HELP", Right::Anyone),
    ("--help", Right::Anyone),
    ("--config", Right::Nobody),
    ("--index", Right::Nobody),
    ("--threshold", Right::Nobody),
    ("--base-port", Right::Nobody),
    ("--ssl", Right::Nobody),
    ("--workers", Right::Anyone),
    ("--bit-length", Right::Everyone),
    ("--sec-param", Right::Everyone),
    ("--log-level", Right::Anyone),
    ("--no-log", Right::Anyone),
    ("--no-async", Right::Everyone),
    ("--no-barrier", Right::Everyone),
    ("--no-gmpy2", Right::Anyone),
    ("--no-numpy", Right::Anyone),
    ("--no-uvloop", Right::Anyone),
    ("--no-prss", Right::Everyone),
    ("--mix32-64bit", Right::Everyone),
    ("--output-windows", Right::Nobody),
    ("--output-file", Right::Nobody),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    Anyone,
    /// All parties or none.
    Everyone,
    Nobody,
}

/// A word that quorate does not pass on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentRefusal {
    /// quorate forms this option itself.
    #[error("`{0}` is an option of MPyC that quorate sets itself")]
    Formed(String),
    /// This option has to be the same for all parties.
    #[error("`{0}` changes the computation for all parties")]
    Public(String),
}

impl ArgumentRefusal {
    /// The refusal code for reports.
    pub fn code(&self) -> Code {
        Code::Usage
    }

    /// What to do instead.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Formed(_) => {
                "leave it out: parties, index, threshold and encryption follow from the invitation"
            }
            Self::Public(_) => "the organizer can put it among the public arguments of `invite`",
        }
    }
}

/// Check the public arguments of a program: nothing that quorate forms.
pub fn check_user_args(args: &[String]) -> Result<(), ArgumentRefusal> {
    check(args, |right| right == Right::Nobody)
}

/// Check one party's private arguments: as [`check_user_args`], and nothing that all must share.
pub fn check_private_args(args: &[String]) -> Result<(), ArgumentRefusal> {
    check(args, |right| right != Right::Anyone)
}

fn check(args: &[String], refused: impl Fn(Right) -> bool) -> Result<(), ArgumentRefusal> {
    for word in args.iter().take_while(|word| *word != "--") {
        match right_of(word) {
            Some(right) if !refused(right) => {}
            Some(Right::Nobody) => return Err(ArgumentRefusal::Formed(word.clone())),
            Some(_) => return Err(ArgumentRefusal::Public(word.clone())),
            None => {}
        }
    }
    Ok(())
}

/// Who may give `word`, if MPyC would take it as one of its options.
fn right_of(word: &str) -> Option<Right> {
    if word.starts_with("--") {
        let name = word.split('=').next().unwrap_or(word);
        if let Some((_, right)) = LONG.iter().find(|(long, _)| *long == name) {
            return Some(*right);
        }
        let mut begun = LONG.iter().filter(|(long, _)| long.starts_with(name));
        // An ambiguous beginning ends MPyC with an error of its own.
        return begun
            .next()
            .filter(|_| begun.next().is_none())
            .map(|(_, right)| *right);
    }
    let letters = word
        .strip_prefix('-')?
        .trim_start_matches(|letter| FLAGS.contains(letter));
    let letter = letters.chars().next()?;
    if FORMED_SHORT.contains(letter) {
        Some(Right::Nobody)
    } else if PUBLIC_SHORT.contains(letter) {
        Some(Right::Everyone)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_that_quorate_forms_are_refused_in_every_spelling() {
        for text in [
            "-M3",
            "-M 3",
            "-P host:1",
            "-Phost:1",
            "-I 0",
            "-C f.ini",
            "-T1",
            "-B 9000",
            "--ssl",
            "--ss",
            "--index=1",
            "--ind 1",
            "--thr 0",
            "--conf x",
            "--base 1",
            "-hM3",
            "4 -I0",
            "--output-f",
        ] {
            let refusal = check_user_args(&words(text));
            assert!(
                matches!(refusal, Err(ArgumentRefusal::Formed(_))),
                "{text}: {refusal:?}"
            );
            assert!(check_private_args(&words(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn options_of_the_program_and_of_one_party_pass() {
        for text in [
            "4",
            "--year 2026",
            "--data x.csv",
            "--vote yes",
            "-1",
            "-i 1",
            "--no-log",
            "-- -M 3",
            "",
        ] {
            assert_eq!(check_user_args(&words(text)), Ok(()), "{text}");
            assert_eq!(check_private_args(&words(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn options_that_all_must_share_are_public_only() {
        for text in [
            "-L 64",
            "-K20",
            "--no-prss",
            "--no-p",
            "--mix32-64bit",
            "--bit-length=8",
        ] {
            assert_eq!(check_user_args(&words(text)), Ok(()), "{text}");
            let refusal = check_private_args(&words(text));
            assert!(
                matches!(refusal, Err(ArgumentRefusal::Public(_))),
                "{text}: {refusal:?}"
            );
        }
    }
}
