//! The source of a program that goes along with a call or an invitation, so that a party can look at it and run it.
//!
//! ```text
//! CBOR  [[path, bytes], …]   sorted by path, definite lengths, one canonical form
//!   call frame of the lobby, member `program`      bundle, member `src`
//! ```
//! It says nothing that the signed terms do not say: they name the file to start and the manifest's digest, and
//! [`ProgramSource::check`] holds the files against both.
//!
//! Limits: [`MAX_PROGRAM_SOURCE_BYTES`] of CBOR, [`MAX_SOURCE_FILES`] files, [`MAX_PATH_BYTES`](crate::limits::MAX_PATH_BYTES) per path.
//!
//! Security. Provides: files that can be written below a folder and nowhere else; nothing in them that a person who looks
//! at every file does not see (text only and in one encoding, no hidden names, no bytecode beside a source). Does not provide: that the program
//! is harmless. Whoever runs it has looked at it, or trusts its digest for another reason.

use crate::{
    limits::{MAX_PROGRAM_SOURCE_BYTES, MAX_SOURCE_FILES},
    manifest::{ContentDigest, ManifestEntry, check_path, manifest_digest},
    message::Program,
};
use minicbor::{Decoder, Encoder};
use quorate_identity::{Code, Rejection};
use std::convert::Infallible;

/// Folders and endings of what an interpreter makes of a source; it would be run in place of what was looked at.
const BYTECODE_FOLDER: &str = "__pycache__";
const BYTECODE_ENDINGS: [&str; 2] = ["pyc", "pyo"];

/// The files of a program, in the order of their paths; text, every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSource {
    files: Vec<(String, String)>,
    digest: ContentDigest,
}

impl ProgramSource {
    /// The source of these files, in any order.
    pub fn new<'f>(
        files: impl IntoIterator<Item = (&'f str, &'f [u8])>,
    ) -> Result<Self, Rejection> {
        let mut sorted = Vec::new();
        for (path, content) in files {
            if sorted.len() == MAX_SOURCE_FILES {
                return Err(too_large());
            }
            let text = std::str::from_utf8(content).map_err(|_| not_text(path))?;
            sorted.push((path.to_owned(), text.to_owned()));
        }
        sorted.sort();
        let source = Self::of(sorted)?;
        if source.to_cbor().len() > MAX_PROGRAM_SOURCE_BYTES {
            return Err(too_large());
        }
        Ok(source)
    }

    /// Reads what came along.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, Rejection> {
        if bytes.len() > MAX_PROGRAM_SOURCE_BYTES {
            return Err(too_large());
        }
        let source = Self::of(read(bytes)?)?;
        if source.to_cbor() != bytes {
            return Err(malformed("is not in its one canonical form"));
        }
        Ok(source)
    }

    /// Its bytes.
    pub fn to_cbor(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        let written = self.write(&mut encoder);
        debug_assert!(written.is_ok(), "a Vec takes everything");
        encoder.into_writer()
    }

    /// The digest of its manifest, recomputed from the files.
    pub fn digest(&self) -> ContentDigest {
        self.digest
    }

    /// Path and text of each file, in the order of the paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Whether it is what the signed terms name (`E_PROGRAM` if not).
    pub fn check(&self, program: &Program) -> Result<(), Rejection> {
        if self.digest != program.manifest {
            return refuse("the source that came along is not the program that was signed");
        }
        if !self.files.iter().any(|(path, _)| *path == program.entry) {
            return refuse(format!(
                "the program has no file {:?} to start with",
                program.entry
            ));
        }
        Ok(())
    }

    fn of(files: Vec<(String, String)>) -> Result<Self, Rejection> {
        for (path, text) in &files {
            check_name(path)?;
            if let Some(encoding) = declared_encoding(text) {
                return refuse(format!(
                    "{path:?} declares the encoding {encoding:?}: an interpreter would run another text than is shown"
                ));
            }
        }
        let below = |file: &str, other: &str| {
            other
                .strip_prefix(file)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        for (path, _) in &files {
            // Between `a` and `a/b` may stand `a-c`, so every pair is looked at.
            if files.iter().any(|(other, _)| below(path, other)) {
                return refuse(format!("{path:?} is a file and a folder"));
            }
        }
        let entries: Vec<_> = files
            .iter()
            .map(|(path, text)| ManifestEntry {
                path: path.clone(),
                size: text.len() as u64,
                sha256: ContentDigest::of(text.as_bytes()),
            })
            .collect();
        let digest = manifest_digest(&entries)?;
        if files.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(malformed("is out of order"));
        }
        Ok(Self { files, digest })
    }

    fn write(
        &self,
        encoder: &mut Encoder<Vec<u8>>,
    ) -> Result<(), minicbor::encode::Error<Infallible>> {
        encoder.array(self.files.len() as u64)?;
        for (path, text) in &self.files {
            encoder.array(2)?.str(path)?.bytes(text.as_bytes())?;
        }
        Ok(())
    }
}

/// Refuses what a look at the folder would not show, or would not be looked at.
fn check_name(path: &str) -> Result<(), Rejection> {
    check_path(path)?;
    let hidden = |part: &str| part.starts_with('.') || part == BYTECODE_FOLDER;
    let ending = path.rsplit_once('.').map(|(_, ending)| ending);
    if path.split('/').any(hidden) || ending.is_some_and(|e| BYTECODE_ENDINGS.contains(&e)) {
        return refuse(format!(
            "{path:?} is hidden, or bytecode: it is not sent along"
        ));
    }
    Ok(())
}

/// The encoding that a text declares to Python (PEP 263: in a comment that is its first or second line), unless it is the one
/// in which it is shown. In another one, `\u000a` or `+AAo-` in a comment is the end of that comment.
fn declared_encoding(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    for _ in 0..2 {
        // A lone carriage return ends a line too.
        let (line, after) = rest.split_once(['\n', '\r']).unwrap_or((rest, ""));
        let is_comment = line
            .trim_start_matches([' ', '\t', '\u{c}'])
            .starts_with('#');
        if let Some(encoding) = encoding_in(line).filter(|_| is_comment) {
            return Some(encoding);
        }
        let ended_by_both = rest[line.len()..].starts_with("\r\n");
        rest = if ended_by_both { &after[1..] } else { after };
    }
    None
}

/// What a comment declares, as Python's expression `coding[:=][ \t]*([-_.a-zA-Z0-9]+)` finds it.
fn encoding_in(comment: &str) -> Option<&str> {
    let declared = comment.match_indices("coding").find_map(|(at, word)| {
        let rest = comment[at + word.len()..].strip_prefix([':', '='])?;
        let name = rest.trim_start_matches([' ', '\t']);
        let ends = |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c));
        let name = &name[..name.find(ends).unwrap_or(name.len())];
        (!name.is_empty()).then_some(name)
    })?;
    let normal = declared.to_ascii_lowercase().replace('_', "-");
    let shown = ["utf-8", "utf8", "ascii", "us-ascii"].contains(&normal.as_str());
    (!shown).then_some(declared)
}

fn read(bytes: &[u8]) -> Result<Vec<(String, String)>, Rejection> {
    let cbor = |_| malformed("is not the CBOR list of its files");
    let mut decoder = Decoder::new(bytes);
    let count = decoder.array().map_err(cbor)?;
    let count = count.ok_or_else(|| malformed("has a list without length"))?;
    if count > MAX_SOURCE_FILES as u64 {
        return Err(too_large());
    }
    let mut files = Vec::new();
    for _ in 0..count {
        if decoder.array().map_err(cbor)? != Some(2) {
            return Err(malformed("has a file that is not a path and its bytes"));
        }
        let path = decoder.str().map_err(cbor)?;
        let content = decoder.bytes().map_err(cbor)?;
        let text = std::str::from_utf8(content).map_err(|_| not_text(path))?;
        files.push((path.to_owned(), text.to_owned()));
    }
    if decoder.position() != bytes.len() {
        return Err(malformed("has bytes after its end"));
    }
    Ok(files)
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection::new(Code::Program, "S3", why))
}

fn not_text(path: &str) -> Rejection {
    let shown: String = path.chars().take(64).collect();
    let why = format!("{shown:?} is not text: nobody can look at it before it runs");
    Rejection::new(Code::Program, "S3", why)
}

fn too_large() -> Rejection {
    let why = format!(
        "a program of more than {MAX_PROGRAM_SOURCE_BYTES} bytes or {MAX_SOURCE_FILES} files cannot be sent along"
    );
    Rejection::new(Code::Limit, "S3", why)
}

fn malformed(why: &str) -> Rejection {
    Rejection::new(
        Code::Format,
        "S3",
        format!("the source that came along {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(files: &[(&str, &str)]) -> Result<ProgramSource, Rejection> {
        ProgramSource::new(files.iter().map(|(path, text)| (*path, text.as_bytes())))
    }

    /// The bytes as somebody writes them who keeps to no rule.
    fn raw(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        encoder.array(files.len() as u64).expect("a Vec");
        for (path, content) in files {
            let file = encoder.array(2).and_then(|e| e.str(path));
            file.and_then(|e| e.bytes(content)).expect("a Vec");
        }
        encoder.into_writer()
    }

    fn refused(bytes: &[u8]) -> Code {
        ProgramSource::from_cbor(bytes).expect_err("refused").code
    }

    fn signed(source: &ProgramSource, entry: &str) -> Program {
        Program {
            manifest: source.digest(),
            entry: entry.into(),
            args: Vec::new(),
            env: None,
        }
    }

    #[test]
    fn a_source_round_trips_and_is_named_like_the_program_it_is() {
        let there = source(&[("main.py", "import lib.x"), ("lib/x.py", "y = 1")]).expect("fine");
        assert_eq!(
            ProgramSource::from_cbor(&there.to_cbor()),
            Ok(there.clone())
        );
        let entries = [("lib/x.py", "y = 1"), ("main.py", "import lib.x")].map(|(path, text)| {
            ManifestEntry {
                path: path.into(),
                size: text.len() as u64,
                sha256: ContentDigest::of(text.as_bytes()),
            }
        });
        assert_eq!(there.digest(), manifest_digest(&entries).expect("fine"));
        assert_eq!(there.check(&signed(&there, "main.py")), Ok(()));
    }

    #[test]
    fn a59_another_program_than_the_signed_one_is_refused() {
        let there = source(&[("main.py", "print(1)")]).expect("fine");
        let other = source(&[("main.py", "print(2)")]).expect("fine");
        for (program, source) in [
            (signed(&there, "main.py"), &other),
            (signed(&there, "other.py"), &there),
        ] {
            let refusal = source.check(&program).expect_err("another");
            assert_eq!((refusal.code, refusal.rule), (Code::Program, "S3"));
        }
    }

    #[test]
    fn a59_names_that_lead_elsewhere_or_hide_are_refused() {
        for path in [
            "../x.py",
            "/etc/cron.d/x",
            "a/../../x",
            "a//b",
            "./a",
            "a\\b",
            "C:x",
            "a\u{1b}[2Jb",
            "",
            ".bashrc",
            "a/.git/config",
            "__pycache__/a.pyc",
            "a/__pycache__/b",
            "lib.pyc",
        ] {
            assert_eq!(refused(&raw(&[(path, b"x")])), Code::Program, "{path:?}");
        }
        assert_eq!(refused(&raw(&[("a", b""), ("a", b"")])), Code::Program);
        assert_eq!(
            refused(&raw(&[("a", b""), ("a-c", b""), ("a/b", b"")])),
            Code::Program
        );
        assert_eq!(refused(&raw(&[])), Code::Program);
    }

    #[test]
    fn what_nobody_could_look_at_is_refused() {
        assert_eq!(
            refused(&raw(&[("a.so", b"\x7fELF\xff\xfe")])),
            Code::Program
        );
        assert!(ProgramSource::new([("a", &b"\xff"[..])]).is_err());
    }

    #[test]
    fn a59_what_an_interpreter_reads_otherwise_than_people_do_is_refused() {
        for text in [
            "# coding: raw_unicode_escape\n# harmless \\u000aimport os",
            "#!/usr/bin/python3\n# -*- coding: utf-7 -*-\n# +AAo-import os",
            "\u{feff}# vim: set fileencoding=latin-1 :",
            "#\r#coding=UTF_16",
            "\r\n\t\u{c}# coding:\t cp1252",
            "#coding: # coding:x",
        ] {
            assert_eq!(
                refused(&raw(&[("a", text.as_bytes())])),
                Code::Program,
                "{text:?}"
            );
        }
        for text in [
            "# -*- coding: utf-8 -*-",
            "# vim: set fileencoding=UTF_8 : coding: utf-7",
            "x = 'coding: utf-7'",
            "\n\n# coding: utf-7",
            "# coding is fun\n# encoding",
        ] {
            assert!(source(&[("a", text)]).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn limits_and_the_one_form_are_enforced() {
        let big = "x".repeat(MAX_PROGRAM_SOURCE_BYTES);
        assert_eq!(source(&[("a", &big)]).expect_err("big").code, Code::Limit);
        assert_eq!(refused(&raw(&[("a", big.as_bytes())])), Code::Limit);
        let names: Vec<String> = (0..=MAX_SOURCE_FILES).map(|n| format!("f{n:03}")).collect();
        let many: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b""[..])).collect();
        assert_eq!(refused(&raw(&many)), Code::Limit);
        assert!(ProgramSource::new(many.iter().copied()).is_err());
        assert!(ProgramSource::new(many[1..].iter().copied()).is_ok());
        assert_eq!(refused(&raw(&[("b", b""), ("a", b"")])), Code::Format);
        let mut after = raw(&[("a", b"")]);
        after.push(0);
        assert_eq!(refused(&after), Code::Format);
        // An array of a list without length, and a length in more bytes than it needs.
        assert_eq!(refused(&[0x9f, 0xff]), Code::Format);
        assert_eq!(refused(&[0x98, 0x01, 0x82, 0x61, b'a', 0x40]), Code::Format);
        assert_eq!(refused(&[0x81, 0x83, 0x61, b'a', 0x40, 0x40]), Code::Format);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(source) = ProgramSource::from_cbor(&bytes) {
                prop_assert_eq!(source.to_cbor(), bytes);
            }
        }
    }
}
