//! A program that came along: nobody runs it unseen.
//!
//! ```text
//! --program FILE ─► that file, which must be the signed program     nothing that came along is looked at
//! carried in quorate, same digest ─► that one
//! came along ─► digest, names, text ─┬─ at a terminal: shown, then asked; `v` shows it again
//!                                    └─ -y: its digest must be named by --accept-program, else E_DECLINED
//! ```
//! Security. Requires: its digest is the one in the signed terms. Provides: what a person says yes to is what they were shown,
//! with everything escaped that could move, hide or disguise text; it runs from the run folder, like every program.
//! Does not provide: that they understood it.

use std::fmt::Write as _;

use quorate_identity::Code;
use quorate_node::{files::ProgramFiles, program::builtin};
use quorate_session::{
    Bundle, ContentDigest, ProgramSource, limits::MAX_BUNDLE_CHARS, message::Program,
};

use super::{Options, User, pager};
use crate::{
    consent::{self, Terminal, is_yes},
    failure::Failure,
    text,
};

/// Columns between two stops of a tab.
const TAB: usize = 8;

/// A program that came along and that will be run if the person agrees.
pub struct Sent {
    source: ProgramSource,
    entry: String,
    pub files: ProgramFiles,
}

impl Sent {
    /// The program that came along, unless this user has a copy of its own.
    pub fn look_for(
        source: Option<&ProgramSource>,
        wanted: &Program,
        options: &Options,
    ) -> Result<Option<Self>, Failure> {
        let own = options.program.is_some() || options.program_path.is_some();
        let Some(source) = source.filter(|_| !own) else {
            return Ok(None);
        };
        let carried = builtin::ALL.iter().find(|b| b.file == wanted.entry);
        if let Some(builtin) = carried
            && ProgramFiles::embedded(builtin.file, builtin.source)?.digest() == wanted.manifest
        {
            return Ok(None);
        }
        source.check(wanted)?;
        let files = source
            .files()
            .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
        Ok(Some(Self {
            files: ProgramFiles::of_files(wanted.entry.clone(), files.collect(), None)?,
            entry: wanted.entry.clone(),
            source: source.clone(),
        }))
    }

    /// The source, if `bundle` is not too long with it.
    pub fn source_that_fits(&self, bundle: &Bundle) -> Option<ProgramSource> {
        let mut with = bundle.clone();
        with.program = Some(self.source.clone());
        (with.encode().len() <= MAX_BUNDLE_CHARS).then(|| self.source.clone())
    }

    /// The line that says so.
    pub fn line(&self, options: &Options) -> String {
        let what = summary(&self.source);
        let next = if options.accepts(self.source.digest()) {
            "you accepted its digest"
        } else {
            "it is shown to you before you agree"
        };
        text::row("sent along", &format!("{what}; {next}"))
    }

    /// Shows it; asks until the answer is yes or no.
    async fn ask(&self, user: &User<'_>, seen: bool, question: &str) -> Result<(), Failure> {
        let Some(mut terminal) = Terminal::open(user.global) else {
            return Err(self.unseen(
                "nobody could be asked, and nobody has looked at the program that came along",
            ));
        };
        let text = view(&self.source, &self.entry);
        let mut program = "the program whose digest you accepted";
        let mut show = !seen;
        loop {
            if show {
                pager::show(&text).await;
                program = "the program that you were shown";
            }
            let question = format!(
                "\n{} It runs {program}. [y]es / [n]o / [v]iew it again  ",
                text::escaped(question)
            );
            let answer = terminal.ask(&question).await.unwrap_or_default();
            let answer = answer.to_ascii_lowercase();
            show = ["v", "view"].contains(&answer.as_str());
            if is_yes(&answer) {
                return Ok(());
            }
            if !show {
                return Err(Failure::new(Code::Declined, "you declined")
                    .hint("nothing was sent; run the command again to take part after all"));
            }
        }
    }

    fn unseen(&self, why: &str) -> Failure {
        let digest = self.source.digest();
        Failure::new(Code::Declined, why)
            .note("program", digest.to_string())
            .note("sent along", summary(&self.source))
            .hint(format!(
                "run it at a terminal to look at it; or say that you know it: --accept-program {digest}, or --program FILE"
            ))
    }
}

/// Asks for consent; a program that came along is shown first.
pub async fn agree(
    user: &User<'_>,
    sent: Option<&Sent>,
    options: &Options,
    question: &str,
) -> Result<(), Failure> {
    let Some(sent) = sent else {
        if options.yes {
            return Ok(());
        }
        return consent::ask(user.global, question).await;
    };
    let accepted = options.accepts(sent.source.digest());
    if options.yes && !accepted {
        return Err(sent.unseen(
            "-y agrees to what is signed; nobody has looked at the program that came along",
        ));
    }
    if options.yes {
        return Ok(());
    }
    sent.ask(user, accepted, question).await
}

/// `2 files, 1.2 kB`.
pub fn summary(source: &ProgramSource) -> String {
    let files = source.files().count();
    let bytes: usize = source.files().map(|(_, text)| text.len()).sum();
    let many = if files == 1 { "file" } else { "files" };
    format!("{files} {many}, {}", text::bytes(bytes as u64))
}

/// All files with numbered lines. Every line of theirs begins with its number, so that none can pass for a line of ours.
pub fn view(source: &ProgramSource, entry: &str) -> String {
    let mut out = format!(
        "{} is started   {}   {}\n",
        text::escaped(entry),
        summary(source),
        source.digest()
    );
    for (path, content) in source.files() {
        let lines = lines(content);
        // Letters that look like others are shown as they are; that there are some is worth knowing.
        let foreign = content.chars().filter(|c| !c.is_ascii()).count();
        let foreign = match foreign {
            0 => String::new(),
            1 => "   1 character is not ASCII".into(),
            n => format!("   {n} characters are not ASCII"),
        };
        let (path, count) = (text::escaped(path), lines.len());
        let _ = writeln!(out, "\n== {path}   {count} lines{foreign}");
        for (index, line) in lines.iter().enumerate() {
            let _ = writeln!(out, "{:>5} │ {}", index + 1, spaced(line));
        }
    }
    out
}

/// Lines as interpreters see them: a lone carriage return ends one too, or code could hide behind a comment.
fn lines(content: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = content;
    while let Some(end) = rest.find(['\n', '\r']) {
        let (line, after) = rest.split_at(end);
        lines.push(line);
        rest = after.strip_prefix("\r\n").unwrap_or(&after[1..]);
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// A line with tabs as spaces and everything else that is not plain text escaped.
fn spaced(line: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for piece in line.split_inclusive('\t') {
        let (text, tab) = match piece.strip_suffix('\t') {
            Some(text) => (text, true),
            None => (piece, false),
        };
        let text = text::escaped(text);
        column += text.chars().count();
        out.push_str(&text);
        if tab {
            let fill = TAB - column % TAB;
            column += fill;
            out.extend(std::iter::repeat_n(' ', fill));
        }
    }
    out
}

/// `--accept-program`.
pub fn parse_digest(text: &str) -> Result<ContentDigest, String> {
    text.parse()
        .map_err(|refusal: quorate_identity::Rejection| refusal.detail)
}

/// The program that an organizer sends along, or why it cannot.
pub fn source_of(program: &ProgramFiles) -> Result<ProgramSource, Failure> {
    ProgramSource::new(program.files()).map_err(|refusal| {
        Failure::from(refusal)
            .hint("leave out --send-program; the others then need a copy of their own (--program)")
    })
}

/// Tells the organizer what goes along.
pub fn sending_line(source: &ProgramSource) -> String {
    text::row(
        "",
        &format!(
            "its source goes along ({}); whoever joins without a copy is shown it first",
            summary(source)
        ),
    )
}

/// Writes what a bundle carries to stdout, for who looks without a terminal.
pub fn print(source: &ProgramSource, entry: &str) {
    for line in view(source, entry).lines() {
        crate::command::print_stdout(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(files: &[(&str, &str)]) -> ProgramSource {
        ProgramSource::new(files.iter().map(|(p, t)| (*p, t.as_bytes()))).expect("a source")
    }

    #[test]
    fn nothing_in_a_program_can_move_or_hide_or_pass_for_a_line_of_ours() {
        let hostile = "x = 1 # ok\rimport os\n\u{1b}[2J\u{1b}[Hprint()\r\n\n== other.py   1 lines\n\u{202e}evil\u{200b}\tz\u{8}\u{8}";
        let shown = view(&source(&[("main.py", hostile)]), "main.py");
        assert!(
            !shown.contains(['\r', '\u{1b}', '\u{202e}', '\u{200b}', '\u{8}', '\t']),
            "{shown}"
        );
        for line in [
            "    1 │ x = 1 # ok",
            "    2 │ import os",
            r"    3 │ \u{1b}[2J\u{1b}[Hprint()",
            "    4 │ ",
            "    5 │ == other.py   1 lines",
        ] {
            assert!(shown.lines().any(|l| l == line), "{line:?} in:\n{shown}");
        }
        assert_eq!(shown.lines().filter(|l| l.starts_with("==")).count(), 1);
        assert!(
            shown.contains("== main.py   6 lines   2 characters are not ASCII"),
            "{shown}"
        );
    }

    #[test]
    fn a_name_without_a_mark_on_the_screen_is_seen() {
        // HANGUL FILLER and its half-width form are letters, so Python takes them for names.
        let shown = view(
            &source(&[("main.py", "def f(\u{3164}): \u{ffa0} = 1")]),
            "main.py",
        );
        assert!(shown.contains(r"def f(\u{3164}): \u{ffa0} = 1"), "{shown}");
    }

    #[test]
    fn every_file_is_shown_whole() {
        let long = "y".repeat(5000);
        let shown = view(
            &source(&[("main.py", "import lib"), ("lib.py", &long)]),
            "main.py",
        );
        assert!(
            shown.contains(&long) && shown.contains("== lib.py") && shown.contains("import lib")
        );
        assert!(shown.starts_with("main.py is started   2 files"));
    }

    #[test]
    fn tabs_are_columns() {
        assert_eq!(spaced("\tif x:\ty"), "        if x:   y");
    }
}
