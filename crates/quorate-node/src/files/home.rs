//! Where quorate's folders are, made private and checked before use.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy;
use quorate_identity::Code;

use super::atomic::disk;
use crate::Fault;

/// Owner of the system's folders as seen from a user namespace that does not map root.
const UNMAPPED_UID: u32 = 65534;

/// The folders of one user: XDG places, or everything below one folder.
#[derive(Debug, Clone)]
pub struct Home {
    data: PathBuf,
    state: PathBuf,
    run: PathBuf,
}

impl Home {
    /// Everything below `folder` (`--home`, `QUORATE_HOME`).
    pub fn below(folder: &Path) -> Self {
        Self {
            data: folder.join("data"),
            state: folder.join("state"),
            run: folder.join("run"),
        }
    }

    /// The XDG Base Directory places of this user.
    pub fn of_user() -> Result<Self, Fault> {
        let base = etcetera::choose_base_strategy().map_err(|_| {
            Fault::new(Code::State, "this user has no home folder")
                .hint("choose a folder with --home")
        })?;
        let state = base
            .state_dir()
            .unwrap_or_else(|| base.data_dir())
            .join("quorate");
        let run = match base.runtime_dir() {
            Some(folder) if folder.is_dir() => folder.join("quorate"),
            _ => state.join("run"),
        };
        Ok(Self {
            data: base.data_dir().join("quorate"),
            state,
            run,
        })
    }

    /// Long-lived data: identity, receipts, the demo's virtual environment.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// State of sessions that must survive a crash.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Folders of running commands.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// `folder` with all its parents, private to this user. Refuses a folder that others may write
    /// to or that belongs to somebody else: they could swap what is inside.
    pub fn ensure(folder: &Path) -> Result<(), Fault> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| {
                disk(folder, "cannot be made", &e)
                    .hint("make it writable, or choose another folder with --home")
            })?;
        let meta = fs::symlink_metadata(folder).map_err(|e| disk(folder, "cannot be read", &e))?;
        let unsafe_because = |why: &str| {
            Fault::new(Code::State, format!("{} {why}", folder.display())).hint(format!(
                "chmod 700 {}, or choose another folder with --home",
                folder.display()
            ))
        };
        if !meta.is_dir() {
            return Err(unsafe_because("is not a folder"));
        }
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(unsafe_because("belongs to another user"));
        }
        if meta.permissions().mode() & 0o022 != 0 {
            return Err(unsafe_because("may be written to by other users"));
        }
        check_way_to(folder)
    }
}

/// Whoever owns a folder above, or may rename in it, can put another one in our place: all of them
/// must be ours or the system's, and not writable for everybody unless sticky like `/tmp`.
fn check_way_to(folder: &Path) -> Result<(), Fault> {
    let real = fs::canonicalize(folder).map_err(|e| disk(folder, "cannot be read", &e))?;
    let me = rustix::process::geteuid().as_raw();
    for above in real.ancestors().skip(1) {
        let meta = fs::metadata(above).map_err(|e| disk(above, "cannot be read", &e))?;
        let trusted = [0, me, UNMAPPED_UID].contains(&meta.uid());
        let open_to_all = meta.permissions().mode() & 0o1002 == 0o0002;
        if !trusted || open_to_all {
            return Err(Fault::new(
                Code::State,
                format!(
                    "{} can be changed by other users, and {} is in it",
                    above.display(),
                    folder.display()
                ),
            )
            .hint("choose another folder with --home"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_are_private_and_unsafe_ones_are_refused() {
        let base = tempfile::tempdir().unwrap();
        let home = Home::below(base.path());
        Home::ensure(home.data()).unwrap();
        assert_eq!(
            fs::metadata(home.data()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        fs::set_permissions(home.data(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Home::ensure(home.data()).unwrap_err().code, Code::State);
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(
            Home::ensure(&open.join("home")).unwrap_err().code,
            Code::State
        );
        let link = base.path().join("link");
        std::os::unix::fs::symlink(home.data(), &link).unwrap();
        assert_eq!(Home::ensure(&link).unwrap_err().code, Code::State);
    }
}
