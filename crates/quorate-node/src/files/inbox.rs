//! Invitations of contacts that came by post: kept until they are joined or too late.
//!
//! ```text
//! data/inbox/<digest>.quorate   0600   a bundle: the invitation and the secret to find the others
//! ```
//! Limits: [`MAX_INBOX`] invitations, of [`MAX_INVITATION_BYTES`] each; the oldest go first.

use std::{fs, path::PathBuf};

use quorate_identity::Digest;

use super::{Home, atomic::disk, read_bounded, remove_if_there, write_atomic};
use crate::Fault;

/// Most invitations that are kept.
pub const MAX_INBOX: usize = 32;
/// Largest invitation that is kept, in bytes.
pub const MAX_INVITATION_BYTES: u64 = 256 * 1024;
/// End of the files' names.
const EXTENSION: &str = "quorate";

/// The invitations of one home.
#[derive(Debug)]
pub struct Inbox;

impl Inbox {
    fn folder(home: &Home) -> PathBuf {
        home.data().join("inbox")
    }

    fn path(home: &Home, digest: &Digest) -> PathBuf {
        Self::folder(home).join(format!("{digest}.{EXTENSION}"))
    }

    /// Keeps the bundle of an invitation.
    pub fn keep(home: &Home, digest: &Digest, bundle: &str) -> Result<(), Fault> {
        Home::ensure(&Self::folder(home))?;
        let mut there = Self::files(home)?;
        there.sort();
        let surplus = (there.len() + 1).saturating_sub(MAX_INBOX);
        for (_, path) in there.iter().take(surplus) {
            remove_if_there(path)?;
        }
        write_atomic(&Self::path(home, digest), bundle.as_bytes())
    }

    /// Everything kept; a file that cannot be read as text is none of ours.
    pub fn all(home: &Home) -> Result<Vec<(Digest, String)>, Fault> {
        let mut all = Vec::new();
        let mut files = Self::files(home)?;
        files.sort();
        for (_, path) in files {
            let digest = path.file_stem().and_then(|s| s.to_str()?.parse().ok());
            let text = read_bounded(&path, MAX_INVITATION_BYTES)?;
            let text = text.and_then(|t| String::from_utf8(t).ok());
            all.extend(digest.zip(text));
        }
        Ok(all)
    }

    /// Forgets an invitation.
    pub fn remove(home: &Home, digest: &Digest) -> Result<(), Fault> {
        remove_if_there(&Self::path(home, digest))
    }

    fn files(home: &Home) -> Result<Vec<(std::time::SystemTime, PathBuf)>, Fault> {
        let folder = Self::folder(home);
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| disk(&folder, "cannot be read", &e))?,
        };
        let found = entries.flatten().map(|e| e.path());
        let found = found.filter(|p| p.extension().is_some_and(|e| e == EXTENSION));
        Ok(found
            .filter_map(|p| Some((fs::metadata(&p).ok()?.modified().ok()?, p)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_came_is_kept_and_forgotten_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        assert!(Inbox::all(&home).unwrap().is_empty());
        let digest = |n: usize| Digest::of("test", &n.to_be_bytes());
        for n in 0..MAX_INBOX + 3 {
            Inbox::keep(&home, &digest(n), "quorate1:x").unwrap();
        }
        assert_eq!(Inbox::all(&home).unwrap().len(), MAX_INBOX);
        Inbox::remove(&home, &digest(MAX_INBOX)).unwrap();
        Inbox::remove(&home, &digest(MAX_INBOX)).unwrap();
        let all = Inbox::all(&home).unwrap();
        assert_eq!(all.len(), MAX_INBOX - 1);
        assert!(
            all.iter()
                .all(|(d, t)| *d != digest(MAX_INBOX) && t == "quorate1:x")
        );
    }
}
