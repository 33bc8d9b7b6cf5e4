//! A private Python environment with MPyC, for a demo on a machine that has only Python.
//!
//! ```text
//! DATA/python/lock                    held (flock) while looking and building
//! DATA/python/mpyc-0.11-cp3.11/       the environment; one per Python version
//! DATA/python/mpyc-0.11-cp3.11/quorate-ready   written last; without it the folder is rubbish
//! ```
//!
//! It is made with `python -m venv`, and MPyC goes in with pip, pinned by hash, without
//! dependencies (MPyC has none). pip runs with the user's own environment and configuration:
//! mirrors, proxies and certificates are the user's business. An environment is used again only
//! if it is complete and its Python still answers, with the pinned MPyC; otherwise it is made
//! anew. An interrupted run leaves a folder without the mark, which the next run removes.
//!
//! Security: the hashes decide what is installed, not the index. The folder is the user's only.
//!
//! Limits: [`VENV_WAIT`], [`PIP_WAIT`]. A second process waits for the lock, so at most that long.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_identity::Code;
use rustix::fs::{FlockOperation, flock};
use tokio::process::Command;

use super::command;
use super::python::{MPYC_VERSION, PythonRuntime, probe};

/// How long making an empty environment may take.
pub const VENV_WAIT: Duration = Duration::from_mins(2);
/// How long installing MPyC may take.
pub const PIP_WAIT: Duration = Duration::from_mins(5);

/// What pip may install: the wheel and the source archive of MPyC on PyPI.
const REQUIREMENTS: &str = "\
mpyc==0.11 \
--hash=sha256:059ffa3396089ebb77beb43ea2f8040f2a20f3fc7ff6d3c839df3b3f3c28d38e \
--hash=sha256:7ddab524d0202a20a30c5459e248be722962f475077453c2cbc65dc6a2eed49c
";
/// The mark of a complete environment.
const READY: &str = "quorate-ready";

/// What is being done, for people who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another process is at it.
    Waiting,
    /// Making an empty environment.
    Creating,
    /// Fetching and installing MPyC.
    Installing,
}

/// Why there is no environment.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// Debian and Ubuntu put what `venv` needs into a package of its own.
    #[error("{} cannot make virtual environments: its module ensurepip is missing", .0.display())]
    NoEnsurePip(PathBuf, String),
    /// `python -m venv` failed.
    #[error("cannot make a virtual environment: {0}")]
    Venv(String),
    /// pip failed.
    #[error("cannot install MPyC {MPYC_VERSION}: {0}")]
    Pip(String),
    /// The data folder cannot be used.
    #[error("cannot use {}: {source}", .path.display())]
    Disk {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl EnvironmentError {
    /// The refusal code for reports.
    pub fn code(&self) -> Code {
        match self {
            Self::NoEnsurePip(..) | Self::Venv(_) | Self::Pip(_) => Code::NoMpyc,
            Self::Disk { .. } => Code::Disk,
        }
    }

    /// What the user can do.
    pub fn fix(&self) -> String {
        match self {
            Self::NoEnsurePip(_, package) => format!("sudo apt install {package}"),
            Self::Venv(_) => "python3 -m venv /tmp/try     shows the same error".into(),
            Self::Pip(_) => {
                format!("python3 -m pip download mpyc=={MPYC_VERSION}     shows whether pip works")
            }
            Self::Disk { .. } => "make room, or choose another folder with QUORATE_HOME".into(),
        }
    }
}

/// The environment in `data`, made with `base` unless it is there already.
pub async fn prepare(
    data: &Path,
    base: &PythonRuntime,
    mut progress: impl FnMut(Step),
) -> Result<PythonRuntime, EnvironmentError> {
    let folder = data.join("python");
    let disk = |source| EnvironmentError::Disk {
        path: folder.clone(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(disk)?;
    let _lock = lock(&folder.join("lock"), &mut progress)
        .await
        .map_err(disk)?;
    let version = base.version;
    let home = folder.join(format!("mpyc-{MPYC_VERSION}-cp{}.{}", version.0, version.1));
    if let Some(runtime) = intact(&home).await {
        return Ok(runtime);
    }
    match fs::remove_dir_all(&home) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(error)),
        _ => {}
    }
    progress(Step::Creating);
    create(base, &home).await?;
    progress(Step::Installing);
    install(&home).await?;
    fs::write(home.join(READY), REQUIREMENTS).map_err(disk)?;
    intact(&home)
        .await
        .ok_or_else(|| EnvironmentError::Pip("the result does not work".into()))
}

/// The lock on the folder, held as long as the file is.
async fn lock(path: &Path, progress: &mut impl FnMut(Step)) -> io::Result<File> {
    let file = File::options().create(true).append(true).open(path)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(file);
    }
    progress(Step::Waiting);
    let locked = tokio::task::spawn_blocking(move || {
        flock(&file, FlockOperation::LockExclusive).map(|()| file)
    });
    Ok(locked.await.map_err(io::Error::other)??)
}

/// The environment at `home`, if it is complete and works.
async fn intact(home: &Path) -> Option<PythonRuntime> {
    let mark = fs::read_to_string(home.join(READY)).ok()?;
    let runtime = probe(&home.join("bin/python")).await.ok()?;
    (mark == REQUIREMENTS && runtime.mpyc.as_deref() == Some(MPYC_VERSION)).then_some(runtime)
}

async fn create(base: &PythonRuntime, home: &Path) -> Result<(), EnvironmentError> {
    if !base.ensurepip {
        let package = format!("python{}.{}-venv", base.version.0, base.version.1);
        return Err(EnvironmentError::NoEnsurePip(base.path.clone(), package));
    }
    let mut python = users(&base.path);
    python.args(["-m", "venv"]).arg(home);
    run(python, VENV_WAIT).await.map_err(EnvironmentError::Venv)
}

async fn install(home: &Path) -> Result<(), EnvironmentError> {
    let list = home.join("quorate-requirements.txt");
    fs::write(&list, REQUIREMENTS).map_err(|source| EnvironmentError::Disk {
        path: list.clone(),
        source,
    })?;
    let mut pip = users(&home.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--no-input",
        "--no-deps",
        "--require-hashes",
        "-r",
    ]);
    pip.arg(&list);
    run(pip, PIP_WAIT).await.map_err(EnvironmentError::Pip)
}

/// A Python command with the user's environment, apart from what would make it find other modules.
fn users(python: &Path) -> Command {
    let mut command = Command::new(python);
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV"] {
        command.env_remove(name);
    }
    command
}

/// Run to success, or say in a few words why not.
async fn run(command: Command, limit: Duration) -> Result<(), String> {
    let finished = match command::run(command, limit).await {
        Ok(finished) => finished,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(format!("it took longer than {} s", limit.as_secs()));
        }
        Err(error) => return Err(error.to_string()),
    };
    if finished.status.success() {
        return Ok(());
    }
    // pip ends with the error; venv says it on standard output.
    let said = if finished.stderr.trim().is_empty() {
        finished.stdout
    } else {
        finished.stderr
    };
    let last: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Err(last[last.len().saturating_sub(4)..].join(" · "))
}
