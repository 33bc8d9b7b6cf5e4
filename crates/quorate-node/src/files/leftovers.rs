//! What commands that were killed left behind, and its removal: own things only.
//!
//! | what | how it is known to be ours and of nobody any more |
//! |---|---|
//! | run folder | in our run folder, with our lock file, whose lock is free |
//! | process of a program | of this user, its environment names a program in a run folder of ours that is dead or gone |
//! | lock of a session | in our state folder, free, and no record beside it |
//! | half-written file | our prefix, in our folders, older than [`HALF_WRITTEN_AFTER`] |
//! | ended invitations, old records | by their own dates |
//! | with *all*: how sessions ended, damaged records | of use only to look back |
//! | with *all*: logs and outputs of detached sessions | the process that writes them holds a lock on them |
//!
//! A process is held by a descriptor from before it is looked at until it is gone, so that a number used again by another
//! process is never signalled.
//!
//! Limits: [`MAX_LEFTOVERS`], [`MAX_PROCESSES`], [`MAX_ENVIRONMENT_BYTES`], [`KILL_WAIT`].
//!
//! Security. Requires: folders private to this user. Provides: nothing outside of quorate's folders is removed, no link is
//! followed, no process of another user or without our mark is signalled; identity, contacts, receipts and the records that
//! keep a session from being repeated stay.

use std::{
    fs::{self, File},
    io::Read,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Component, Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use quorate_identity::UnixTime;
use quorate_session::limits::MAX_VALIDITY_SECONDS;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    time::Timespec,
};
use serde::Serialize;

use super::{Home, Inbox, RunFolder, atomic::disk, issued_that_ended};
use crate::{Fault, program::supervisor::PROGRAM_MARK};

/// Most things of one kind that are looked at.
pub const MAX_LEFTOVERS: usize = 4096;
/// Most processes that are looked at.
pub const MAX_PROCESSES: usize = 1 << 16;
/// Most bytes of a process's environment that are read.
pub const MAX_ENVIRONMENT_BYTES: u64 = 1 << 20;
/// A file is written in far less time than this.
pub const HALF_WRITTEN_AFTER: Duration = Duration::from_mins(1);
/// How long a process may take to end after SIGTERM, before SIGKILL.
pub const KILL_WAIT: Duration = Duration::from_secs(2);
/// Beginning of the names of files that are being written.
const HALF_WRITTEN: &str = ".new-";

/// What kind of thing was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The folder of a command that was killed.
    RunFolder,
    /// A program, or a child of it, whose quorate is gone.
    Process,
    /// The lock of a session without a record.
    Lock,
    /// A file whose writing was interrupted.
    HalfWritten,
    /// A record that cannot matter any more.
    OldRecord,
    /// An invitation of ours, or one that was taken part in, that has ended.
    Issued,
    /// A record that was damaged and put aside.
    Damaged,
    /// How a session ended.
    Ended,
    /// What a detached session said.
    Log,
}

/// One thing that was left.
#[derive(Debug)]
pub struct Leftover {
    /// What kind.
    pub kind: Kind,
    /// Where, for a file or folder.
    pub path: Option<PathBuf>,
    /// Its number, for a process.
    pub process: Option<u32>,
    held: Option<OwnedFd>,
}

impl Leftover {
    fn at(kind: Kind, path: PathBuf) -> Self {
        Self {
            kind,
            path: Some(path),
            process: None,
            held: None,
        }
    }

    /// Removes it; `false` if it turned out to be in use.
    pub fn remove(&self) -> Result<bool, Fault> {
        match (&self.path, &self.held) {
            (_, Some(process)) => Ok(end(process)),
            (Some(path), _) => match self.kind {
                Kind::RunFolder => RunFolder::remove_dead(path),
                Kind::Lock | Kind::Log => remove_unlocked(path),
                _ => super::remove_if_there(path).map(|()| true),
            },
            (None, None) => Ok(false),
        }
    }
}

/// Everything that is left, processes first: they may use the rest. `all` adds what is of use only to look back.
pub fn leftovers(home: &Home, all: bool, at: UnixTime) -> Result<Vec<Leftover>, Fault> {
    let mut found = processes(home);
    let folders = RunFolder::list(home)?.into_iter();
    let gone = folders.filter(|(_, alive)| !alive);
    found.extend(gone.map(|(path, _)| Leftover::at(Kind::RunFolder, path)));
    let sessions = home.state().join("sessions");
    found.extend(
        files(&sessions, "lock")
            .filter(|p| is_useless_lock(p))
            .map(|p| Leftover::at(Kind::Lock, p)),
    );
    let lifetime = Duration::from_secs(MAX_VALIDITY_SECONDS.unsigned_abs() + 86_400);
    found.extend(
        files(&sessions, "json")
            .filter(|p| older(p, lifetime))
            .map(|p| Leftover::at(Kind::OldRecord, p)),
    );
    found.extend(half_written(home).map(|p| Leftover::at(Kind::HalfWritten, p)));
    let shelves = [Inbox::of(home), Inbox::taken(home), Inbox::left(home)];
    let bundles = shelves.into_iter().flat_map(|shelf| shelf.ended(at));
    found.extend(
        issued_that_ended(home, at)
            .into_iter()
            .chain(bundles)
            .map(|p| Leftover::at(Kind::Issued, p)),
    );
    if all {
        found.extend(files(&sessions, "damaged").map(|p| Leftover::at(Kind::Damaged, p)));
        let ended = home.state().join("ended");
        found.extend(files(&ended, "json").map(|p| Leftover::at(Kind::Ended, p)));
        let logs = home.state().join("logs");
        let kept = files(&logs, "log").chain(files(&logs, "out"));
        found.extend(
            kept.filter(|p| is_free(p))
                .map(|p| Leftover::at(Kind::Log, p)),
        );
    }
    Ok(found)
}

fn files(folder: &Path, extension: &'static str) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .take(MAX_LEFTOVERS);
    let regular = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_file()));
    regular
        .map(|e| e.path())
        .filter(move |p| p.extension().is_some_and(|x| x == extension))
}

fn older(path: &Path, than: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|m| m.modified());
    modified.is_ok_and(|at| {
        SystemTime::now()
            .duration_since(at)
            .is_ok_and(|age| age > than)
    })
}

/// Temporary files beside those that are written, in the folders where quorate writes.
fn half_written(home: &Home) -> impl Iterator<Item = PathBuf> + use<> {
    let places = [
        home.data().to_owned(),
        home.data().join("identity"),
        home.data().join("receipts"),
        home.data().join("sessions"),
        home.data().join("inbox"),
        home.state().join("sessions"),
        home.state().join("issued"),
        home.state().join("taken"),
        home.state().join("left"),
        home.state().join("ended"),
        home.state().join("rejected"),
    ];
    let entries = places.into_iter().flat_map(|p| {
        fs::read_dir(p)
            .into_iter()
            .flatten()
            .flatten()
            .take(MAX_LEFTOVERS)
    });
    let ours = entries.filter(|e| {
        e.file_name().to_string_lossy().starts_with(HALF_WRITTEN)
            && e.file_type().is_ok_and(|t| t.is_file())
    });
    ours.map(|e| e.path())
        .filter(|p| older(p, HALF_WRITTEN_AFTER))
}

/// A lock that nobody holds and that no record needs.
fn is_useless_lock(path: &Path) -> bool {
    let beside = |extension| path.with_extension(extension).exists();
    !beside("json") && is_free(path)
}

fn is_free(path: &Path) -> bool {
    let opened = File::open(path);
    opened.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_ok())
}

/// Removes a file while holding its lock, so that nobody can take it in between and think that it is the one.
fn remove_unlocked(path: &Path) -> Result<bool, Fault> {
    let lock = File::open(path).map_err(|e| disk(path, "cannot be opened", &e))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    super::remove_if_there(path).map(|()| true)
}

/// Programs, and what they started, whose quorate is gone.
fn processes(home: &Home) -> Vec<Leftover> {
    let me = rustix::process::geteuid().as_raw();
    let run = fs::canonicalize(home.run()).unwrap_or_else(|_| home.run().to_owned());
    let entries = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .take(MAX_PROCESSES);
    let mine = entries.filter(|e| e.metadata().is_ok_and(|m| m.uid() == me));
    let numbers = mine.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let orphan = |number: i32| {
        // Held first: what is read below then belongs to the process that is held, or the number is gone.
        let held = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
        let program = marked_program(number)?;
        let folder = run_folder_of(&program, home.run(), &run)?;
        // Looked at now, not before: a session that began in the meantime holds the lock of its folder already.
        (RunFolder::is_nobodys(&folder) && is_alive(&held)).then(|| Leftover {
            kind: Kind::Process,
            path: Some(program),
            process: u32::try_from(number).ok(),
            held: Some(held),
        })
    };
    numbers
        .filter(|number| *number != own)
        .filter_map(orphan)
        .collect()
}

/// The run folder of ours that a program's path leads into.
fn run_folder_of(program: &Path, run: &Path, real_run: &Path) -> Option<PathBuf> {
    let below = |path: &Path, run: &Path| {
        let name = path.strip_prefix(run).ok()?.components().next()?;
        match name {
            Component::Normal(name) => Some(run.join(name)),
            _ => None,
        }
    };
    let real = || below(&fs::canonicalize(program).ok()?, real_run);
    below(program, run)
        .or_else(|| below(program, real_run))
        .or_else(real)
}

/// The program that a process says, in its environment, to be or to come from.
fn marked_program(number: i32) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut environment = Vec::new();
    let file = File::open(format!("/proc/{number}/environ")).ok()?;
    file.take(MAX_ENVIRONMENT_BYTES)
        .read_to_end(&mut environment)
        .ok()?;
    let mark = format!("{PROGRAM_MARK}=");
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(mark.as_bytes()))?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(value.to_vec())))
}

/// A descriptor of a process becomes readable when it ends.
fn is_alive(process: &OwnedFd) -> bool {
    !has_ended_within(process, Duration::ZERO)
}

fn has_ended_within(process: &OwnedFd, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) if left.is_zero() => return false,
            Err(_) => {}
        }
    }
}

/// Ends a process, kindly first; whether it is gone.
fn end(process: &OwnedFd) -> bool {
    for signal in [Signal::TERM, Signal::KILL] {
        // An error means that it is gone, which the next line sees.
        let _ = pidfd_send_signal(process, signal);
        if has_ended_within(process, KILL_WAIT) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_judged_by_the_lock_of_the_folder_that_it_names() {
        let base = tempfile::tempdir().unwrap();
        let home = Home::below(base.path());
        let folder = RunFolder::create(&home, "session").unwrap();
        let mut sleeper = Command::new("sleep")
            .arg("600")
            .env(PROGRAM_MARK, folder.path().join("program/x.py"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let number = sleeper.id();
        let is_found = || {
            let found = processes(&home);
            found.iter().any(|left| left.process == Some(number))
        };
        assert!(!is_found(), "a folder is held: its program lives rightly");
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
        assert!(is_found(), "its folder is gone");
        fs::create_dir(&path).unwrap();
        assert!(!is_found(), "a folder without a lock is none of ours");
        fs::write(path.join("lock"), b"").unwrap();
        assert!(is_found(), "nobody holds its folder");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }

    #[test]
    fn only_what_leads_into_a_run_folder_is_ours() {
        let (run, real) = (Path::new("/h/run"), Path::new("/r/run"));
        let folder = |path: &str| run_folder_of(Path::new(path), run, real);
        assert_eq!(folder("/h/run/s-1/program/x"), Some("/h/run/s-1".into()));
        assert_eq!(folder("/r/run/s-1/x"), Some("/r/run/s-1".into()));
        for other in ["/h/run", "/h/run/", "/h/run/../x", "/h/runs/x", "x", ""] {
            assert_eq!(folder(other), None, "{other}");
        }
    }
}
