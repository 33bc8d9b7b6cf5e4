//! How the last sessions of this home ended, for `quorate status`.
//!
//! One file per session in `state/ended`, mode 0600, replaced atomically. Nothing in it is secret, and nothing relies on it:
//! a file that cannot be written or read is left out.
//!
//! Limits: [`MAX_ENDED`] files, [`KEPT_FOR`], [`MAX_ENDED_BYTES`] each.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::SessionStatus;
use crate::{
    Fault,
    files::{Home, read_bounded, write_atomic},
};

/// Most sessions that are remembered; the oldest go first.
pub const MAX_ENDED: usize = 64;
/// How long they are remembered.
pub const KEPT_FOR: Duration = Duration::from_hours(8 * 24);
/// Largest file, in bytes.
pub const MAX_ENDED_BYTES: u64 = 1 << 20;

/// Remembers how a session ended.
pub fn keep(home: &Home, status: &SessionStatus) -> Result<(), Fault> {
    let folder = folder(home);
    Home::ensure(&folder)?;
    forget(home);
    let bytes = serde_json::to_vec(status).unwrap_or_default();
    write_atomic(&folder.join(format!("{}.json", status.digest)), &bytes)
}

/// The sessions that ended, the last one first.
pub fn list(home: &Home) -> Vec<SessionStatus> {
    let readable = |(_, path): (SystemTime, PathBuf)| {
        let bytes = read_bounded(&path, MAX_ENDED_BYTES).ok()??;
        serde_json::from_slice::<SessionStatus>(&bytes).ok()
    };
    files(home).into_iter().filter_map(readable).collect()
}

/// Removes what is too old or too much.
pub fn forget(home: &Home) {
    for (index, (modified, path)) in files(home).into_iter().enumerate() {
        let old = modified.elapsed().is_ok_and(|age| age > KEPT_FOR);
        // One place is left for the one that is about to be written.
        if old || index + 1 >= MAX_ENDED {
            let _ = fs::remove_file(path);
        }
    }
}

fn folder(home: &Home) -> PathBuf {
    home.state().join("ended")
}

/// The files, newest first.
fn files(home: &Home) -> Vec<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(folder(home)).into_iter().flatten().flatten();
    let json = entries.filter(|e| e.path().extension().is_some_and(|x| x == "json"));
    let mut files: Vec<_> = json
        .take(4 * MAX_ENDED)
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    files.sort_by(|a, b| b.cmp(a));
    files
}
