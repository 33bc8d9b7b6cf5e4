//! What I once agreed to: enough to do it again with the same people, and a name to speak of it.
//!
//! ```text
//! data/sessions/income-2026.json      written when this user agreed, before the session begins
//!               income-2026-2.json    the next one of that title
//! ```
//!
//! A session's *name* is made of its title and is unique in one home; it is a handle for commands and
//! nothing more: on the wire there are only digests. No secret is in the file: neither the rendezvous
//! secret nor private arguments that were typed (only the path of a file they came from).
//!
//! Limits: [`MAX_MEMORY_BYTES`], [`MAX_MEMORIES`]; the oldest go first.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use quorate_identity::{Code, Did, Digest, UnixTime};
use serde::{Deserialize, Serialize};

use super::{
    Home, atomic::disk, check_petname, petname_of, put_aside, read_bounded, remove_if_there,
    write_new,
};
use crate::Fault;

/// Largest file of one session, in bytes.
pub const MAX_MEMORY_BYTES: u64 = 128 * 1024;
/// Sessions that are remembered.
pub const MAX_MEMORIES: usize = 512;
/// Version of the file.
const FILE_VERSION: u8 = 1;
/// Most sessions of one title.
const MAX_OF_ONE_TITLE: u32 = 10_000;

/// One session as this user agreed to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionMemory {
    v: u8,
    /// Its name here.
    pub name: String,
    /// The title in the invitation.
    pub title: String,
    /// Digest of the invitation.
    pub digest: Digest,
    /// Who invited.
    pub inviter: Did,
    /// The parties in their order.
    pub parties: Vec<MemoryOfParty>,
    /// The threshold.
    pub threshold: u16,
    /// How the program was named: `mpyc:secretsanta`, or a path on this machine.
    pub program: String,
    /// With the engine `exec`, the file in it that is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// Its public arguments.
    pub args: Vec<String>,
    /// How long the others had to join, in seconds.
    pub expires_seconds: u64,
    /// The file that the private arguments came from, if they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_args: Option<PathBuf>,
    /// The relays that were used, as lines of the file of relays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<String>,
    /// When this user agreed.
    pub agreed: UnixTime,
}

/// A party of a remembered session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryOfParty {
    /// Its DID.
    pub did: Did,
    /// Its name in the invitation.
    pub name: String,
}

impl SessionMemory {
    /// A memory without a name; [`SessionMemory::keep`] gives it one.
    #[allow(clippy::too_many_arguments)] // one per fact
    pub fn new(
        title: String,
        digest: Digest,
        inviter: Did,
        parties: Vec<MemoryOfParty>,
        threshold: u16,
        program: String,
        args: Vec<String>,
        expires_seconds: u64,
        private_args: Option<PathBuf>,
        agreed: UnixTime,
    ) -> Self {
        Self {
            v: FILE_VERSION,
            name: String::new(),
            title,
            digest,
            inviter,
            parties,
            threshold,
            program,
            executable: None,
            args,
            expires_seconds,
            private_args,
            relays: Vec::new(),
            agreed,
        }
    }

    /// Stores it under a free name made of its title, which it gives back. The same invitation, agreed
    /// to once more, keeps its name.
    pub fn keep(mut self, home: &Home) -> Result<String, Fault> {
        let folder = folder(home);
        Home::ensure(&folder)?;
        forget_oldest(&folder)?;
        for name in names(&self.title) {
            self.name.clone_from(&name);
            let path = path(&folder, &name);
            let mut bytes = serde_json::to_vec_pretty(&self)
                .map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
            bytes.push(b'\n');
            if write_new(&path, &bytes)? {
                return Ok(name);
            }
            if read(&path)?.is_some_and(|old| old.digest == self.digest) {
                return Ok(name);
            }
        }
        Err(Fault::new(
            Code::Disk,
            format!("there are too many sessions called {:?}", self.title),
        )
        .hint("choose another title with --name"))
    }

    /// The title of a session that follows this one: `income-2026-2` after `income-2026`, and then
    /// `income-2026-3`.
    pub fn next_title(&self, home: &Home) -> String {
        let folder = folder(home);
        let numbered = self.name.rsplit_once('-').filter(|(base, number)| {
            number.parse::<u32>().is_ok_and(|n| n >= 2) && path(&folder, base).exists()
        });
        Self::next_name(home, numbered.map_or(self.name.as_str(), |(base, _)| base))
    }

    /// The name that a session of this title would get now.
    pub fn next_name(home: &Home, title: &str) -> String {
        let folder = folder(home);
        names(title)
            .find(|name| !path(&folder, name).exists())
            .unwrap_or_else(|| petname_of(title))
    }

    /// The session of this name.
    pub fn find(home: &Home, name: &str) -> Result<Self, Fault> {
        let none = || {
            Fault::new(
                Code::NoSession,
                format!("no session {name:?} is known here"),
            )
            .hint("quorate again --list shows the sessions of this home")
        };
        check_petname(name).map_err(|_| none())?;
        read(&path(&folder(home), name))?.ok_or_else(none)
    }

    /// All that is remembered, the latest first; damaged files are put aside.
    pub fn all(home: &Home) -> Result<Vec<Self>, Fault> {
        let mut all = Vec::new();
        for (_, path) in files(&folder(home))? {
            all.extend(read(&path)?);
        }
        all.sort_by(|a, b| (b.agreed, &b.name).cmp(&(a.agreed, &a.name)));
        Ok(all)
    }
}

fn folder(home: &Home) -> PathBuf {
    home.data().join("sessions")
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

/// `income-2026`, `income-2026-2`, …; a title that has a number already counts on from it.
fn names(title: &str) -> impl Iterator<Item = String> {
    let base = petname_of(title);
    std::iter::once(base.clone()).chain((2..=MAX_OF_ONE_TITLE).map(move |n| format!("{base}-{n}")))
}

fn read(path: &Path) -> Result<Option<SessionMemory>, Fault> {
    let Some(bytes) = read_bounded(path, MAX_MEMORY_BYTES)? else {
        return Ok(None);
    };
    let memory: Option<SessionMemory> = serde_json::from_slice(&bytes).ok();
    let fits =
        |m: &SessionMemory| m.v == FILE_VERSION && path.file_stem().is_some_and(|s| *s == *m.name);
    if let Some(memory) = memory.filter(fits) {
        return Ok(Some(memory));
    }
    let aside = put_aside(path)?;
    tracing::warn!(file = %aside.display(), "the memory of a session was damaged");
    Ok(None)
}

/// The files of sessions with the times they were written.
fn files(folder: &Path) -> Result<Vec<(SystemTime, PathBuf)>, Fault> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| disk(folder, "cannot be read", &e))?,
    };
    let found = entries.flatten().map(|e| e.path());
    let found = found.filter(|p| p.extension().is_some_and(|e| e == "json"));
    Ok(found
        .filter_map(|p| Some((fs::metadata(&p).ok()?.modified().ok()?, p)))
        .collect())
}

fn forget_oldest(folder: &Path) -> Result<(), Fault> {
    let mut files = files(folder)?;
    files.sort();
    let surplus = (files.len() + 1).saturating_sub(MAX_MEMORIES);
    files
        .iter()
        .take(surplus)
        .try_for_each(|(_, path)| remove_if_there(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn memory(title: &str, seed: u8, agreed: i64) -> SessionMemory {
        let did = quorate_identity::SigningKey::from_seed(&[seed; 32]).did();
        SessionMemory::new(
            title.into(),
            Digest::of("test", &[seed]),
            did.clone(),
            vec![MemoryOfParty {
                did,
                name: "a".into(),
            }],
            1,
            "mpyc:secretsanta".into(),
            vec!["4".into()],
            7200,
            None,
            UnixTime(agreed),
        )
    }

    #[test]
    fn names_are_unique_and_the_same_invitation_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        assert_eq!(
            memory("Income 2026", 1, 1).keep(&home).unwrap(),
            "income-2026"
        );
        assert_eq!(
            SessionMemory::next_name(&home, "income 2026"),
            "income-2026-2"
        );
        assert_eq!(
            memory("income-2026", 2, 2).keep(&home).unwrap(),
            "income-2026-2"
        );
        assert_eq!(
            memory("Income 2026", 1, 3).keep(&home).unwrap(),
            "income-2026"
        );
        let all: Vec<_> = SessionMemory::all(&home)
            .unwrap()
            .into_iter()
            .map(|m| m.name)
            .collect();
        assert_eq!(all, ["income-2026-2", "income-2026"]);
        assert_eq!(
            SessionMemory::find(&home, "income-2026").unwrap().title,
            "Income 2026"
        );
        for name in ["income-2026", "income-2026-2"] {
            let memory = SessionMemory::find(&home, name).unwrap();
            assert_eq!(memory.next_title(&home), "income-2026-3");
        }
    }

    #[test]
    fn a_name_is_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        for name in ["../x", "", "nothing", "a/b"] {
            assert_eq!(
                SessionMemory::find(&home, name).unwrap_err().code,
                Code::NoSession
            );
        }
        assert_eq!(
            memory("../../etc/passwd", 1, 1).keep(&home).unwrap(),
            "etc-passwd"
        );
    }

    #[test]
    fn a_damaged_memory_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        let name = memory("s", 1, 1).keep(&home).unwrap();
        let file = path(&super::folder(&home), &name);
        fs::write(&file, b"{}").unwrap();
        assert_eq!(
            SessionMemory::find(&home, &name).unwrap_err().code,
            Code::NoSession
        );
        assert!(!file.exists());
        assert!(file.with_file_name("s.json.damaged").exists());
        assert!(SessionMemory::all(&home).unwrap().is_empty());
    }

    #[test]
    fn only_so_many_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        let sessions = super::folder(&home);
        Home::ensure(&sessions).unwrap();
        for n in 0..MAX_MEMORIES + 5 {
            fs::write(sessions.join(format!("x{n}.json")), b"{}").unwrap();
        }
        memory("s", 1, 1).keep(&home).unwrap();
        assert_eq!(files(&sessions).unwrap().len(), MAX_MEMORIES);
    }
}
