//! Bundles that are kept: each is an invitation with the secret to find the others, and lets this user take part in its session.
//!
//! ```text
//! came by post, or from a lobby ─► data/inbox ─ taken part in ─► state/taken ─ ended in order, may be joined again ─► state/left
//!                                      │ too late                     │ process killed: stays, `join` comes back
//!                                      ▼ removed                      ▼ ended for good: removed
//! ```
//! Files are `<digest>.quorate`, mode 0600.
//!
//! Limits: [`MAX_INBOX`] invitations per folder, of [`MAX_INVITATION_BYTES`] each; the oldest go first. Those whose session is
//! over by its own times are removed by [`Inbox::forget_ended`] and by `quorate clean`.
//!
//! Security: the secret lets others find the parties of a session, and nothing more; it is kept only as long as the session can
//! go on.

use std::{fs, path::PathBuf};

use quorate_identity::{Digest, UnixTime, Unverified};
use quorate_session::{Bundle, Invitation};

use super::{Home, atomic::disk, read_bounded, remove_if_there, write_atomic};
use crate::Fault;

/// Most invitations that are kept.
pub const MAX_INBOX: usize = 32;
/// Largest invitation that is kept, in bytes.
pub const MAX_INVITATION_BYTES: u64 = 256 * 1024;
/// End of the files' names.
const EXTENSION: &str = "quorate";

/// The bundles of one home, of one kind.
#[derive(Debug, Clone)]
pub struct Inbox {
    folder: PathBuf,
}

impl Inbox {
    /// Invitations that came and that this user did not take part in yet.
    pub fn of(home: &Home) -> Self {
        let folder = home.data().join("inbox");
        Self { folder }
    }

    /// Invitations that this user takes part in; where no process does, it was killed.
    pub fn taken(home: &Home) -> Self {
        let folder = home.state().join("taken");
        Self { folder }
    }

    /// Invitations whose session stopped here, and that can be joined again.
    pub fn left(home: &Home) -> Self {
        let folder = home.state().join("left");
        Self { folder }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.{EXTENSION}"))
    }

    /// Keeps the bundle of an invitation.
    pub fn keep(&self, digest: &Digest, bundle: &str) -> Result<(), Fault> {
        Home::ensure(&self.folder)?;
        let mut there = self.files()?;
        there.retain(|(_, path)| *path != self.path(digest));
        there.sort();
        let surplus = (there.len() + 1).saturating_sub(MAX_INBOX);
        for (_, path) in there.iter().take(surplus) {
            remove_if_there(path)?;
        }
        write_atomic(&self.path(digest), bundle.as_bytes())
    }

    /// Everything kept; a file that is not text is none of ours. Each one that cannot be read is left out, and says why.
    pub fn all(&self, mut left_out: impl FnMut(Fault)) -> Result<Vec<(Digest, String)>, Fault> {
        let mut all = Vec::new();
        let mut files = self.files()?;
        files.sort();
        for (_, path) in files {
            let digest = path.file_stem().and_then(|s| s.to_str()?.parse().ok());
            let text = read_bounded(&path, MAX_INVITATION_BYTES).unwrap_or_else(|fault| {
                left_out(fault);
                None
            });
            let text = text.and_then(|t| String::from_utf8(t).ok());
            all.extend(digest.zip(text));
        }
        Ok(all)
    }

    /// The bundle of one invitation.
    pub fn find(&self, digest: &Digest) -> Result<Option<String>, Fault> {
        let bytes = read_bounded(&self.path(digest), MAX_INVITATION_BYTES)?;
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Forgets an invitation.
    pub fn remove(&self, digest: &Digest) -> Result<(), Fault> {
        remove_if_there(&self.path(digest))
    }

    /// Removes what nobody can take part in any more.
    pub fn forget_ended(&self, at: UnixTime) -> Result<(), Fault> {
        self.ended(at)
            .iter()
            .try_for_each(|path| remove_if_there(path))
    }

    /// The files of sessions that have ended by their own times, and those that cannot be read.
    pub(super) fn ended(&self, at: UnixTime) -> Vec<PathBuf> {
        let files = self.files().unwrap_or_default().into_iter();
        let over = |path: &PathBuf| {
            let bytes = read_bounded(path, MAX_INVITATION_BYTES).ok().flatten();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            text.and_then(|text| end_by(&text))
                .is_none_or(|end| end < at)
        };
        files.map(|(_, path)| path).filter(over).collect()
    }

    fn files(&self) -> Result<Vec<(std::time::SystemTime, PathBuf)>, Fault> {
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| disk(&self.folder, "cannot be read", &e))?,
        };
        let found = entries.flatten().map(|e| e.path());
        let found = found.filter(|p| p.extension().is_some_and(|e| e == EXTENSION));
        Ok(found
            .filter_map(|p| Some((fs::metadata(&p).ok()?.modified().ok()?, p)))
            .collect())
    }
}

/// When the session of a bundle ends at the latest. It was verified when it was kept; here only a date is looked up.
fn end_by(text: &str) -> Option<UnixTime> {
    let bundle = Bundle::parse(text).ok()?;
    let invitation = Unverified::<Invitation>::parse(&bundle.invitation).ok()?;
    Some(invitation.claims_unproven().subject.time.end_by)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn kept(inbox: &Inbox) -> Vec<(Digest, String)> {
        inbox.all(|fault| panic!("{fault}")).unwrap()
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_hides_no_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = Inbox::of(&Home::below(folder.path()));
        let digest = |n: u8| Digest([n; 32]);
        inbox.keep(&digest(1), "quorate1:x").unwrap();
        let large = vec![b'x'; usize::try_from(MAX_INVITATION_BYTES).unwrap() + 1];
        fs::write(inbox.path(&digest(2)), large).unwrap();
        fs::create_dir(inbox.path(&digest(3))).unwrap();
        let mut left_out = Vec::new();
        let all = inbox.all(|fault| left_out.push(fault.to_string())).unwrap();
        assert_eq!(all, [(digest(1), "quorate1:x".to_owned())]);
        for n in [2, 3] {
            let name = inbox.path(&digest(n)).display().to_string();
            assert!(left_out.iter().any(|f| f.contains(&name)), "{left_out:?}");
        }
    }

    #[test]
    fn what_came_is_kept_and_forgotten_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        let inbox = Inbox::of(&home);
        assert!(kept(&inbox).is_empty());
        let digest = |n: usize| Digest::of("test", &n.to_be_bytes());
        for n in 0..MAX_INBOX + 3 {
            inbox.keep(&digest(n), "quorate1:x").unwrap();
        }
        assert_eq!(kept(&inbox).len(), MAX_INBOX);
        inbox.remove(&digest(MAX_INBOX)).unwrap();
        inbox.remove(&digest(MAX_INBOX)).unwrap();
        assert!(inbox.find(&digest(MAX_INBOX)).unwrap().is_none());
        let all = kept(&inbox);
        assert_eq!(all.len(), MAX_INBOX - 1);
        assert!(
            all.iter()
                .all(|(d, t)| *d != digest(MAX_INBOX) && t == "quorate1:x")
        );
        // Keeping one again pushes out none.
        for _ in 0..3 {
            inbox.keep(&all[0].0, "quorate1:y").unwrap();
        }
        assert_eq!(kept(&inbox).len(), MAX_INBOX - 1);
    }

    #[test]
    fn the_kinds_are_apart_and_what_is_no_bundle_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        let digest = Digest([7; 32]);
        let (taken, left) = (Inbox::taken(&home), Inbox::left(&home));
        taken.keep(&digest, "quorate1:x").unwrap();
        assert!(taken.find(&digest).unwrap().is_some());
        assert!(left.find(&digest).unwrap().is_none());
        assert!(Inbox::of(&home).find(&digest).unwrap().is_none());
        taken.forget_ended(UnixTime(0)).unwrap();
        assert!(taken.find(&digest).unwrap().is_none());
    }
}
