//! The records of ended sessions: one file per session, named by the digest of its invitation.
//!
//! A file is a [`Record`] in its one form and a line end. What cannot be read as one is never overwritten: it is put aside
//! under another ending, so that a signature that somebody may need is not lost.
//!
//! Limits: the size of a record, and [`MAX_LISTED`] files. Security: private like all data; a record names who computed
//! what with whom.

use std::path::{Path, PathBuf};

use quorate_identity::Digest;
use quorate_session::{Record, limits::MAX_RECORD_BYTES};

use super::{Home, put_aside, read_bounded, write_atomic};
use crate::Fault;

/// Most files that one listing looks at.
const MAX_LISTED: usize = 4096;
/// How the name of a record's file ends.
const ENDING: &str = "json";

/// The folder of records of one home.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

/// A file of the folder: the session that its name says, and what is in it.
#[derive(Debug)]
pub struct Listed {
    /// The session.
    pub session: Digest,
    /// The file.
    pub file: PathBuf,
    /// The record, or why there is none.
    pub record: Result<Record, Fault>,
}

impl Records {
    /// Those of `home`. Makes nothing.
    pub fn of(home: &Home) -> Self {
        Self {
            folder: home.data().join("receipts"),
        }
    }

    /// Where the record of a session is kept.
    pub fn file(&self, session: &Digest) -> PathBuf {
        self.folder.join(format!("{session}.{ENDING}"))
    }

    /// The record of a session, as its file says; `None` where there is none.
    pub fn load(&self, session: &Digest) -> Result<Option<Record>, Fault> {
        read_record(&self.file(session))
    }

    /// Replaces the record of a session.
    pub fn keep(&self, session: &Digest, record: &Record) -> Result<PathBuf, Fault> {
        Home::ensure(&self.folder)?;
        let file = self.file(session);
        let mut bytes = record.encode();
        bytes.push(b'\n');
        write_atomic(&file, &bytes)?;
        Ok(file)
    }

    /// Gives the file of a session another name, so that a new record can be kept; which one.
    pub fn put_aside(&self, session: &Digest) -> Result<PathBuf, Fault> {
        put_aside(&self.file(session))
    }

    /// All records, in the order of their names; other files are passed over.
    pub fn list(&self) -> Result<Vec<Listed>, Fault> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(super::atomic::disk(&self.folder, "cannot be read", &e)),
        };
        let mut listed: Vec<Listed> = entries
            .flatten()
            .take(MAX_LISTED)
            .filter_map(|entry| listed(entry.path()))
            .collect();
        listed.sort_by_key(|listed| listed.session);
        Ok(listed)
    }
}

fn listed(file: PathBuf) -> Option<Listed> {
    if file.extension()? != ENDING {
        return None;
    }
    let session = file.file_stem()?.to_str()?.parse().ok()?;
    let record = read_record(&file).transpose()?;
    Some(Listed {
        session,
        file,
        record,
    })
}

/// Reads a record from a file; `None` where there is none. Nothing about its signatures is said.
fn read_record(file: &Path) -> Result<Option<Record>, Fault> {
    // One byte for the line end.
    let Some(bytes) = read_bounded(file, MAX_RECORD_BYTES as u64 + 1)? else {
        return Ok(None);
    };
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Ok(Some(Record::parse(bytes)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use quorate_identity::Code;

    #[test]
    fn what_is_no_record_is_listed_as_that_and_put_aside_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::of(&Home::below(folder.path()));
        let session = Digest([7; 32]);
        assert!(records.list().unwrap().is_empty());
        assert!(records.load(&session).unwrap().is_none());
        std::fs::create_dir_all(&records.folder).unwrap();
        let old = br#"{"v":1,"invitation":"a.b.c","receipts":["a.b.c"]}"#;
        std::fs::write(records.file(&session), old).unwrap();
        std::fs::write(records.folder.join("notes.txt"), "mine").unwrap();
        std::fs::write(records.folder.join("x.json"), "mine").unwrap();
        let listed = records.list().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].record.as_ref().unwrap_err().code, Code::Record);
        let aside = records.put_aside(&session).unwrap();
        assert_eq!(std::fs::read(aside).unwrap(), old);
        assert!(records.load(&session).unwrap().is_none());
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::of(&Home::below(folder.path()));
        let session = Digest([7; 32]);
        std::fs::create_dir_all(&records.folder).unwrap();
        std::fs::write(records.file(&session), vec![b' '; MAX_RECORD_BYTES + 2]).unwrap();
        assert_eq!(records.load(&session).unwrap_err().code, Code::Format);
    }
}
