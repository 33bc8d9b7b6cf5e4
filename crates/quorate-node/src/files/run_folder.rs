//! The folder of one running command: private, locked while the command lives, removed at its end.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use quorate_identity::Code;
use rustix::fs::{FlockOperation, flock};

use super::{Home, atomic::disk};
use crate::Fault;

/// Name of the lock inside; a folder whose lock is free belongs to nobody any more.
const LOCK: &str = "lock";
/// How many leftover folders one sweep looks at.
const MAX_SWEPT: usize = 1024;
/// A lock that is a symbolic link is somebody's trick.
const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// A 0700 folder that disappears with its owner.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held for as long as the folder is in use; the kernel frees it when this process dies.
    _lock: File,
}

impl RunFolder {
    /// Makes `<run>/<name>-<random>` and sweeps what crashed commands left beside it.
    pub fn create(home: &Home, name: &str) -> Result<Self, Fault> {
        Home::ensure(home.run())?;
        // Held until our own lock is: another command's sweep must not meet a folder half made.
        let _making = lock_folder(home.run())?;
        sweep(home.run());
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(home.run())
            .map_err(|e| disk(home.run(), "cannot be written to", &e))?;
        let lock = exclusive(&folder.path().join(LOCK))?;
        Ok(Self {
            path: folder.keep(),
            _lock: lock,
        })
    }

    /// The run folders there are, each with whether its owner lives.
    pub fn list(home: &Home) -> Result<Vec<(PathBuf, bool)>, Fault> {
        let entries = match fs::read_dir(home.run()) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(disk(home.run(), "cannot be read", &e)),
        };
        Home::ensure(home.run())?;
        let folders = entries.flatten().take(MAX_SWEPT).map(|entry| entry.path());
        Ok(folders
            .filter_map(|path| Some((is_held(&path)?, path)))
            .map(|(alive, path)| (path, alive))
            .collect())
    }

    /// Removes a run folder whose owner is gone; `false` if it lives after all.
    pub fn remove_dead(path: &Path) -> Result<bool, Fault> {
        // A folder that is just being made has a lock file that nobody holds for a moment.
        let _making = path.parent().map(lock_folder).transpose()?;
        let Some(lock) = open_lock(path) else {
            return Ok(false);
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        remove_all(path)?;
        Ok(true)
    }

    /// Whether no command owns the run folder any more: it is gone, or its lock is free.
    pub(super) fn is_nobodys(path: &Path) -> bool {
        match fs::symlink_metadata(path) {
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
            // Without a lock it is none of ours, or it is just being removed by its owner.
            Ok(_) => is_held(path) == Some(false),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder and everything in it now, and tells when that fails.
    pub fn remove(self) -> Result<(), Fault> {
        remove_all(&self.path)
    }
}

/// Removes a folder with all in it. What others remove from it at the same moment, such as a socket
/// by its server, is no failure: it is looked at once more.
fn remove_all(path: &Path) -> Result<(), Fault> {
    let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    let removed = fs::remove_dir_all(path).or_else(|e| {
        if gone(&e) {
            fs::remove_dir_all(path)
        } else {
            Err(e)
        }
    });
    match removed {
        Err(e) if !gone(&e) => Err(disk(path, "cannot be removed", &e)),
        _ => Ok(()),
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // Already gone after `remove`; otherwise the last chance, and the sweep is behind it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Waits for the exclusive lock on a folder itself, which leaves no file behind.
fn lock_folder(folder: &Path) -> Result<File, Fault> {
    let opened = File::open(folder).map_err(|e| disk(folder, "cannot be opened", &e))?;
    wait_for(opened, folder)
}

fn wait_for(lock: File, path: &Path) -> Result<File, Fault> {
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| {
        Fault::new(
            Code::State,
            format!("{} cannot be locked: {e}", path.display()),
        )
    })?;
    Ok(lock)
}

/// Opens (or makes) a lock file and waits for the exclusive lock; making a folder takes milliseconds.
fn exclusive(path: &Path) -> Result<File, Fault> {
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(NO_FOLLOW)
        .open(path)
        .map_err(|e| disk(path, "cannot be opened", &e))?;
    wait_for(lock, path)
}

fn open_lock(folder: &Path) -> Option<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(NO_FOLLOW)
        .open(folder.join(LOCK))
        .ok()
}

/// Whether somebody holds a run folder; `None` if it is none. A shared lock disturbs nobody who looks at the same time.
fn is_held(folder: &Path) -> Option<bool> {
    let lock = open_lock(folder)?;
    Some(flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}

/// Removes run folders whose owner is gone. A folder without our lock is not ours, or its owner is
/// just making it: it is left alone.
fn sweep(run: &Path) {
    let Ok(entries) = fs::read_dir(run) else {
        return;
    };
    for entry in entries.flatten().take(MAX_SWEPT) {
        let path = entry.path();
        let Some(lock) = open_lock(&path) else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            tracing::info!(folder = %path.display(), "removing what a crashed command left");
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_folder_is_private_and_gone_with_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let home = Home::below(base.path());
        let folder = RunFolder::create(&home, "demo").unwrap();
        fs::write(folder.path().join("f"), b"x").unwrap();
        assert_eq!(
            fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let path = folder.path().to_owned();
        folder.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_sweep_removes_what_a_crash_left_and_spares_the_living() {
        let base = tempfile::tempdir().unwrap();
        let home = Home::below(base.path());
        let living = RunFolder::create(&home, "a").unwrap();
        let dead = home.run().join("b-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), b"").unwrap();
        let foreign = home.run().join("foreign");
        fs::create_dir(&foreign).unwrap();
        let next = RunFolder::create(&home, "c").unwrap();
        assert!(living.path().exists() && next.path().exists());
        assert!(!dead.exists(), "the folder of a crashed command stayed");
        assert!(foreign.exists(), "a folder without our lock is not ours");
    }
}
