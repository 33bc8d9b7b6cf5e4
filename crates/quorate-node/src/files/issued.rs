//! Invitations that this home's user signed, kept until they end: whoever cancels has to find the parties again.
//!
//! One file per invitation in `state/issued`, mode 0600: it holds the rendezvous secret. A cancel is kept with it, so that it
//! can be told again to whoever could not be reached.
//!
//! Limits: [`MAX_ISSUED`] files, [`MAX_ISSUED_BYTES`] each; [`forget_issued`] removes what has ended.

use std::path::{Path, PathBuf};

use quorate_identity::{B64, Code, DidKeyResolver, Resolver, UnixTime, Unverified, Verified};
use quorate_session::{Bundle, Invitation, RendezvousSecret};
use serde::{Deserialize, Serialize};

use super::{Home, read_bounded, write_atomic};
use crate::Fault;

/// Largest file, in bytes: one statement, a secret and eight hints.
pub const MAX_ISSUED_BYTES: u64 = 1 << 17;
/// Most files that are looked at.
pub const MAX_ISSUED: usize = 1024;

/// An invitation as its organizer keeps it.
pub struct Issued {
    /// What was signed.
    pub invitation: Verified<Invitation>,
    /// The secret that went with it.
    pub secret: RendezvousSecret,
    /// Address hints.
    pub hints: Vec<String>,
    /// The signed cancel, if it was cancelled.
    pub cancel: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    v: u8,
    invitation: String,
    secret: B64<32>,
    hints: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cancel: Option<String>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret.0);
    }
}

/// Keeps what was just signed.
pub fn keep_issued(home: &Home, bundle: &Bundle, digest: &str) -> Result<(), Fault> {
    write(
        home,
        digest,
        &Kept {
            v: 1,
            invitation: bundle.invitation.clone(),
            secret: B64(*bundle.secret.as_bytes()),
            hints: bundle.hints.clone(),
            cancel: None,
        },
    )
}

/// Keeps that an invitation was cancelled.
pub fn keep_cancel(home: &Home, issued: &Issued, cancel: &str) -> Result<(), Fault> {
    let digest = issued.invitation.digest().to_string();
    write(
        home,
        &digest,
        &Kept {
            v: 1,
            invitation: issued.invitation.text().to_string(),
            secret: B64(*issued.secret.as_bytes()),
            hints: issued.hints.clone(),
            cancel: Some(cancel.to_owned()),
        },
    )
}

/// The invitations that this home signed and that have not ended at `at`, by digest.
pub fn issued(home: &Home, at: UnixTime) -> Vec<Issued> {
    files(home)
        .filter_map(|path| read(&path, at).ok())
        .collect()
}

/// The files of invitations that have ended.
pub(super) fn issued_that_ended(home: &Home, at: UnixTime) -> Vec<PathBuf> {
    let ended = |path: &PathBuf| read(path, at).is_err_and(|fault| fault.code == Code::Time);
    files(home).filter(ended).collect()
}

/// Removes what has ended.
pub fn forget_issued(home: &Home, at: UnixTime) {
    for path in issued_that_ended(home, at) {
        let _ = std::fs::remove_file(path);
    }
}

fn write(home: &Home, digest: &str, kept: &Kept) -> Result<(), Fault> {
    let folder = folder(home);
    Home::ensure(&folder)?;
    let bytes = zeroize::Zeroizing::new(serde_json::to_vec(kept).unwrap_or_default());
    write_atomic(&folder.join(format!("{digest}.json")), &bytes)
}

fn read(path: &Path, at: UnixTime) -> Result<Issued, Fault> {
    let damaged =
        |why: String| Fault::new(Code::State, format!("{} is damaged: {why}", path.display()));
    let bytes =
        read_bounded(path, MAX_ISSUED_BYTES)?.ok_or_else(|| damaged("it is gone".into()))?;
    let bytes = zeroize::Zeroizing::new(bytes);
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    let unverified = Unverified::<Invitation>::parse(&kept.invitation)?;
    let keys = DidKeyResolver
        .resolve(unverified.issuer())
        .ok_or_else(|| damaged("its issuer cannot be resolved".into()))??;
    let invitation = unverified.verify(&keys, at)?;
    if invitation.subject.time.end_by < at {
        return Err(Fault::new(Code::Time, "the session is over"));
    }
    Ok(Issued {
        invitation,
        secret: RendezvousSecret::new(kept.secret.0),
        hints: kept.hints.clone(),
        cancel: kept.cancel.clone(),
    })
}

fn folder(home: &Home) -> PathBuf {
    home.state().join("issued")
}

fn files(home: &Home) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder(home))
        .into_iter()
        .flatten()
        .flatten();
    let json = entries
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "json"));
    json.take(MAX_ISSUED)
}
