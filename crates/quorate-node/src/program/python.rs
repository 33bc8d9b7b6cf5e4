//! Finding a Python that can run MPyC.
//!
//! Where it looks, in this order: the path that the user gave (then nowhere else); the active
//! virtual environment; each `python3`, then each `python`, on `PATH`. The first one that starts
//! and is new enough is taken, with or without MPyC: a user with an active environment means that
//! one, and is told what is missing in it.
//!
//! Each candidate is asked once, in one process, with the environment that a program would get.
//!
//! Limits: [`PROBE_WAIT`] per candidate, [`MAX_CANDIDATES`].

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_identity::Code;
use serde::Deserialize;

use super::{command, supervisor::scrubbed};

/// The oldest Python that MPyC 0.11 runs on.
pub const OLDEST: Version = Version(3, 10, 0);
/// The MPyC that quorate installs and recommends.
pub const MPYC_VERSION: &str = "0.11";
/// How long a Python may take to answer.
pub const PROBE_WAIT: Duration = Duration::from_secs(15);
/// The most interpreters that are tried.
pub const MAX_CANDIDATES: usize = 16;

/// Runs on any Python since 2.7, so that an old one can say that it is old. MPyC is not imported:
/// that would read arguments, log, and take a while.
const PROBE: &str = r#"
import sys; sys.path.pop(0)
import json
found = {"executable": sys.executable, "version": list(sys.version_info[:3]),
         "word": 64 if sys.maxsize > 2**32 else 32, "mpyc": None, "ensurepip": False}
if sys.version_info >= (3, 10):
    import importlib.util, os, re
    found["ensurepip"] = importlib.util.find_spec("ensurepip") is not None
    spec = importlib.util.find_spec("mpyc")
    if spec and spec.origin and os.path.isfile(spec.origin):
        with open(spec.origin, encoding="utf-8") as file:
            version = re.search(r"^__version__ *= *['\"]([^'\"]+)", file.read(), re.M)
        found["mpyc"] = version.group(1) if version else "unknown"
sys.stdout.write(json.dumps(found))
"#;

/// A Python version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A Python that is new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonRuntime {
    /// The interpreter itself, not a script that finds one.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// The version of its MPyC, if it has one.
    pub mpyc: Option<String>,
    /// 64 or 32 bits; parties with different sizes compute different values.
    pub word: u8,
    /// Whether it can make virtual environments with pip in them.
    pub ensurepip: bool,
}

impl PythonRuntime {
    /// The version of its MPyC, or the error that says how to install it.
    pub fn require_mpyc(&self) -> Result<&str, PythonError> {
        self.mpyc.as_deref().ok_or_else(|| PythonError::NoMpyc {
            python: self.path.clone(),
        })
    }
}

/// Why there is no Python to run a program with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PythonError {
    /// None at all.
    #[error("no Python 3.10 or newer was found{}", .tried.first().map(|first| format!(" ({first})")).unwrap_or_default())]
    NoPython {
        /// What was tried and why it did not do.
        tried: Vec<Unsuitable>,
    },
    /// A good Python without MPyC.
    #[error("{} has no MPyC", .python.display())]
    NoMpyc {
        /// The Python.
        python: PathBuf,
    },
}

impl PythonError {
    /// The refusal code for reports.
    pub fn code(&self) -> Code {
        match self {
            Self::NoPython { .. } => Code::NoPython,
            Self::NoMpyc { .. } => Code::NoMpyc,
        }
    }

    /// The one command that mends it.
    pub fn fix(&self) -> String {
        match self {
            Self::NoPython { .. } if cfg!(target_os = "macos") => "brew install python".into(),
            Self::NoPython { .. } => "sudo apt install python3 python3-venv".into(),
            Self::NoMpyc { python } => {
                format!("{} -m pip install mpyc=={MPYC_VERSION}", python.display())
            }
        }
    }
}

/// A Python that was tried, and why it did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsuitable {
    /// What was started.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

/// Where to look for a Python.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// What the user gave; then nothing else is tried.
    pub explicit: Option<PathBuf>,
    /// The active virtual environment.
    pub virtual_env: Option<PathBuf>,
    /// The search path of commands.
    pub path: Option<OsString>,
}

impl Search {
    /// Where this process's environment says, or only at `explicit`.
    pub fn from_env(explicit: Option<PathBuf>) -> Self {
        let virtual_env = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
        Self {
            explicit,
            virtual_env,
            path: std::env::var_os("PATH"),
        }
    }

    fn candidates(&self) -> Vec<PathBuf> {
        if let Some(explicit) = &self.explicit {
            return vec![explicit.clone()];
        }
        let mut candidates: Vec<_> = self
            .virtual_env
            .iter()
            .map(|folder| folder.join("bin/python"))
            .collect();
        for name in ["python3", "python"] {
            let folders = self.path.iter().flat_map(std::env::split_paths);
            // A relative entry of PATH would mean another file in another folder.
            candidates.extend(folders.filter(|f| f.is_absolute()).map(|f| f.join(name)));
        }
        let mut seen = BTreeSet::new();
        candidates.retain(|path| path.is_file() && seen.insert(path.clone()));
        candidates.truncate(MAX_CANDIDATES);
        candidates
    }
}

/// Find a Python, see the module's text for the order.
pub async fn find(search: &Search) -> Result<PythonRuntime, PythonError> {
    let mut tried = Vec::new();
    for path in search.candidates() {
        match probe(&path).await {
            Ok(runtime) => return Ok(runtime),
            Err(unsuitable) => tried.push(unsuitable),
        }
    }
    Err(PythonError::NoPython { tried })
}

/// Ask one Python what it is.
pub async fn probe(path: &Path) -> Result<PythonRuntime, Unsuitable> {
    #[derive(Deserialize)]
    struct Answer {
        executable: PathBuf,
        version: Version,
        word: u8,
        mpyc: Option<String>,
        ensurepip: bool,
    }
    let unsuitable = |why: String| Unsuitable {
        path: path.to_owned(),
        why,
    };
    let mut command = tokio::process::Command::new(path);
    command
        .args(["-B", "-c", PROBE])
        .env_clear()
        .envs(scrubbed(std::env::vars_os()));
    let finished = command::run(command, PROBE_WAIT)
        .await
        .map_err(|error| unsuitable(error.to_string()))?;
    if !finished.status.success() {
        let said = finished.stderr.lines().last().unwrap_or_default();
        return Err(unsuitable(format!("{} {said}", finished.status)));
    }
    let answer: Answer = serde_json::from_str(&finished.stdout)
        .map_err(|_| unsuitable("it does not answer like a Python".into()))?;
    let Answer {
        executable,
        version,
        word,
        mpyc,
        ensurepip,
    } = answer;
    if version < OLDEST {
        return Err(unsuitable(format!(
            "Python {version} is too old, MPyC {MPYC_VERSION} needs {OLDEST}"
        )));
    }
    // An embedded Python may not know itself.
    let path = if executable.is_absolute() {
        executable
    } else {
        path.to_owned()
    };
    Ok(PythonRuntime {
        path,
        version,
        mpyc,
        word,
        ensurepip,
    })
}
