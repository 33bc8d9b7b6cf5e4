//! Starting a program, passing its output on, and making sure that it ends.
//!
//! ```text
//! start ─► Running ── Connected ── Finished ──► Exit{code, signal}
//!             │ stop(): SIGTERM to the group ─ STOP_GRACE ─► SIGKILL to the group
//!             │ Supervisor dropped: SIGKILL to the group
//!             └ quorate killed: the kernel sends SIGKILL to the group (the launcher's lifeline)
//! ```
//!
//! The program leads a process group of its own. When it ends, however it ends, the rest of its
//! group is killed before its number can be used again: the leader is waited for without reaping,
//! then the group is killed, then the leader is reaped. Children that leave the group on purpose
//! are out of reach.
//!
//! One thread per program starts it and waits for it; it sleeps in the kernel meanwhile.
//!
//! The program gets standard input from `/dev/null`, its links and nothing else that is open, and
//! of the environment only [`PASSED_ENVIRONMENT`].
//!
//! Security: arguments are neither in the argument list nor in the environment (see `handover`).
//! The environment of this process may hold credentials; the program gets none of them.
//!
//! Limits: [`STOP_GRACE`], [`DRAIN_WAIT`], [`MAX_FINISHED`], and those of `handover` and `output`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_identity::Code;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncWrite;
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};

use super::confine::{Confinement, confine, confine_with_life};
use super::handover::{FIRST_STAGE, Handover, Plan};
use super::output::{LogLine, pass_on};
use crate::attach::ChildFds;

/// How long a program may take to end after SIGTERM. An abort stops all within five seconds.
pub const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long output is still read after the program ended, if somebody else holds its end open.
pub const DRAIN_WAIT: Duration = Duration::from_secs(2);
/// The most `Finished` events of one program; it may start MPyC's runtime more than once.
pub const MAX_FINISHED: usize = 8;
/// The exit code of a program whose link brought more than its memory limit allows; the launcher
/// knows it too.
pub const OUT_OF_MEMORY: i32 = 112;
/// The exit code of a program that itself wanted more memory than its limit allows.
pub const TOO_HUNGRY: i32 = 113;
/// The environment variable that names the program to its processes, and its processes to `quorate clean`.
pub const PROGRAM_MARK: &str = "QUORATE_PROGRAM";
/// Room for every event that one program can cause, so that none ever waits.
const EVENT_QUEUE: usize = MAX_FINISHED + 2;

/// The environment variables that a program keeps; `LC_*` too. Python's own (`PYTHON*`) are not
/// among them, so that the Python that was probed and the one that runs find the same modules.
pub const PASSED_ENVIRONMENT: &[&str] = &[
    // who and where the user is
    "HOME",
    "USER",
    "LOGNAME",
    "PATH",
    "TMPDIR",
    // language and time
    "LANG",
    "LANGUAGE",
    "TZ",
    // what a Python installation may need to start
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    // how many threads numerical libraries start
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    // choices of MPyC that concern one party only
    "MPYC_MAXWORKERS",
    "MPYC_NOGMPY",
    "MPYC_NONUMPY",
    "MPYC_NOUVLOOP",
];

/// The program to run.
#[derive(Clone, Debug)]
pub enum Program {
    /// A file; its folder is searched for the modules that it imports.
    File(PathBuf),
    /// A text that is handed over, so that exactly the bytes that were hashed are run.
    Text {
        /// Its name, shown in messages and by `ps`.
        name: String,
        /// Python source.
        source: String,
    },
}

/// Where a stream of the program goes, unchanged.
pub type Sink = Box<dyn AsyncWrite + Send + Unpin>;

/// Everything that a start needs.
pub struct ProgramSpec {
    /// The Python to run, see `python::find`.
    pub python: PathBuf,
    /// What to run.
    pub program: Program,
    /// MPyC's own options that the parties agreed on, such as `--no-prss`.
    pub options: Vec<String>,
    /// The program's own arguments, public ones first; checked with `check_user_args`.
    pub args: Vec<String>,
    /// Its working folder.
    pub cwd: PathBuf,
    /// Our index.
    pub me: u16,
    /// The number of parties.
    pub parties: u16,
    /// MPyC's threshold.
    pub threshold: u16,
    /// The program's links, from `Attach::prepare`.
    pub links: ChildFds,
    /// What it may use of this machine.
    pub confinement: Confinement,
    /// Where its standard output goes.
    pub stdout: Sink,
    /// Where its standard error goes.
    pub stderr: Sink,
}

/// Everything that a start needs with the engine `exec`.
pub struct ExecSpec {
    /// The executable file, in the folder of the run: by it `quorate clean` knows what the program started.
    pub file: PathBuf,
    /// Its arguments, placeholders replaced.
    pub args: Vec<String>,
    /// The variables it gets besides [`PASSED_ENVIRONMENT`].
    pub environment: Vec<(&'static str, OsString)>,
    /// Its working folder.
    pub cwd: PathBuf,
    /// What it may use of this machine.
    pub confinement: Confinement,
    /// Where its standard output goes.
    pub stdout: Sink,
    /// Where its standard error goes.
    pub stderr: Sink,
}

/// What happened to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramEvent {
    /// MPyC says that all parties are connected.
    Connected {
        /// How many parties it counts.
        parties: u16,
    },
    /// MPyC says that a computation is done.
    Finished {
        /// Its own measure of the time since all were connected.
        elapsed: Duration,
        /// Payload bytes that it sent to all parties together.
        bytes_sent: u64,
    },
    /// The program ended and all its output was passed on. The last event.
    Exit {
        /// Its exit code, or `None` if a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its name or the working folder cannot be handed over.
    #[error("the path {0} is not UTF-8")]
    Path(PathBuf),
    /// Python could not be started.
    #[error("cannot start {python}: {source}")]
    Spawn {
        /// The Python.
        python: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It started but did not take what it was given.
    #[error("the program did not take its links and arguments: {0}")]
    Handover(io::Error),
}

impl StartError {
    /// The refusal code for reports.
    pub fn code(&self) -> Code {
        match self {
            Self::Path(_) => Code::Usage,
            Self::Spawn { .. } => Code::NoPython,
            Self::Handover(_) => Code::ProgramFailed,
        }
    }
}

/// A running program. Dropping it kills the program and its children.
#[derive(Debug)]
pub struct Supervisor {
    group: Arc<Group>,
    ended: watch::Receiver<bool>,
    pid: u32,
}

impl Supervisor {
    /// Start a program. Needs a tokio runtime, which must outlive the program's output.
    pub async fn start(
        spec: ProgramSpec,
    ) -> Result<(Self, mpsc::Receiver<ProgramEvent>), StartError> {
        let ProgramSpec {
            python,
            program,
            options,
            args,
            cwd,
            me,
            parties,
            threshold,
            confinement,
            ..
        } = spec;
        let (name, source) = match program {
            Program::File(path) => {
                // Relative paths are the caller's, not the working folder's.
                let path = std::path::absolute(&path).unwrap_or(path);
                let path = path.into_os_string().into_string();
                (path.map_err(|path| StartError::Path(path.into()))?, None)
            }
            Program::Text { name, source } => (name, Some(source)),
        };
        let plan = Plan {
            me,
            parties,
            threshold,
            name: &name,
            source: source.as_deref(),
            options: &options,
            args: &args,
            links: Vec::new(),
        };
        let handover = Handover::new(plan, spec.links).map_err(StartError::Handover)?;
        let mut command = Command::new(&python);
        command
            .args(["-B", "-c", FIRST_STAGE, "quorate", &name])
            .current_dir(cwd);
        command
            .env_clear()
            .envs(scrubbed(std::env::vars_os()))
            .env(PROGRAM_MARK, &name)
            .process_group(0);
        confine(&mut command, confinement);
        let sinks = (spec.stdout, spec.stderr);
        Self::launch(command, Some(handover), python, sinks).await
    }

    /// Start a program of the engine `exec`. Needs a tokio runtime, as [`Supervisor::start`] does.
    pub async fn start_exec(
        spec: ExecSpec,
    ) -> Result<(Self, mpsc::Receiver<ProgramEvent>), StartError> {
        let mut command = Command::new(&spec.file);
        command
            .args(spec.args)
            .current_dir(spec.cwd)
            .stdin(Stdio::null())
            .env_clear()
            .envs(scrubbed(std::env::vars_os()))
            .envs(spec.environment)
            .env(PROGRAM_MARK, &spec.file)
            .process_group(0);
        confine_with_life(&mut command, spec.confinement);
        Self::launch(command, None, spec.file, (spec.stdout, spec.stderr)).await
    }

    async fn launch(
        command: Command,
        handover: Option<Handover>,
        program: PathBuf,
        sinks: (Sink, Sink),
    ) -> Result<(Self, mpsc::Receiver<ProgramEvent>), StartError> {
        let group = Arc::new(Group::default());
        let (started, starting) = oneshot::channel();
        let (ended, ending) = oneshot::channel();
        let keeper = Keeper {
            command,
            handover,
            group: group.clone(),
            started,
            ended,
        };
        std::thread::Builder::new()
            .name("program".into())
            .spawn(move || keeper.run(program))
            .map_err(StartError::Handover)?;
        // Both channels live in the thread just started; without it there is no program.
        let lost = |_| StartError::Handover(io::Error::other("the starting thread ended"));
        let Started {
            pid,
            stdout,
            stderr,
        } = starting.await.map_err(lost)??;
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let (done, ended) = watch::channel(false);
        let output = Output {
            stdout: ChildStdout::from_std(stdout).map_err(StartError::Handover)?,
            stderr: ChildStderr::from_std(stderr).map_err(StartError::Handover)?,
            sinks,
        };
        tokio::spawn(watch_over(output, ending, events, done));
        Ok((Self { group, ended, pid }, receiver))
    }

    /// The process id of the program, which is also the number of its group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Stop the program and its children: SIGTERM, and SIGKILL to what is left after
    /// [`STOP_GRACE`]. Returns when the program has ended; at once if it had.
    pub async fn stop(&self) {
        self.group.signal(Signal::TERM);
        if tokio::time::timeout(STOP_GRACE, self.ended())
            .await
            .is_err()
        {
            self.group.signal(Signal::KILL);
            self.ended().await;
        }
    }

    /// Wait until the program has ended.
    pub async fn ended(&self) {
        // An error means that the watching task is gone, with the program.
        self.ended.clone().wait_for(|ended| *ended).await.ok();
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}

/// The process group, while it may be signalled.
#[derive(Debug, Default)]
struct Group(Mutex<Option<Pid>>);

impl Group {
    fn set(&self, group: Option<Pid>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = group;
    }

    fn signal(&self, signal: Signal) {
        // Held during the call: the number stays ours until the keeper has taken it out.
        let group = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = *group {
            kill_process_group(group, signal).ok();
        }
    }
}

/// The thread that starts one program and waits for it.
struct Keeper {
    command: Command,
    /// What a launcher is given; without one the program is started as it is.
    handover: Option<Handover>,
    group: Arc<Group>,
    started: oneshot::Sender<Result<Started, StartError>>,
    ended: oneshot::Sender<io::Result<ExitStatus>>,
}

struct Started {
    pid: u32,
    stdout: std::process::ChildStdout,
    stderr: std::process::ChildStderr,
}

impl Keeper {
    fn run(mut self, python: PathBuf) {
        let spawned = match self.handover {
            Some(_) => spawn(&mut self.command).map(|(control, child)| (Some(control), child)),
            None => spawn_alone(&mut self.command).map(|child| (None, child)),
        };
        let (control, mut child) = match spawned {
            Ok(started) => started,
            Err(source) => {
                self.started
                    .send(Err(StartError::Spawn { python, source }))
                    .ok();
                return;
            }
        };
        let pid = Pid::from_child(&child);
        self.group.set(Some(pid));
        let handed = match (self.handover, &control) {
            (Some(handover), Some(control)) => handover.send(control),
            _ => Ok(()),
        };
        let started = match (handed, child.stdout.take(), child.stderr.take()) {
            (Ok(()), Some(stdout), Some(stderr)) => Ok(Started {
                pid: child.id(),
                stdout,
                stderr,
            }),
            (Err(error), _, _) => Err(StartError::Handover(error)),
            (Ok(()), _, _) => Err(StartError::Handover(io::ErrorKind::BrokenPipe.into())),
        };
        // Without a Supervisor nobody could stop it any more.
        let unwatched = started.is_err();
        if self.started.send(started).is_err() || unwatched {
            self.group.signal(Signal::KILL);
        }
        let status = wait(&mut child, pid, &self.group);
        // The lifeline: held until here, so that its end never comes before the program's.
        drop(control);
        self.ended.send(status).ok();
    }
}

/// Start the program with the control socket as its standard input.
fn spawn(command: &mut Command) -> io::Result<(UnixStream, Child)> {
    let (control, theirs) = UnixStream::pair()?;
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // `command` keeps its copy of the program's end; without it the end of the program shows.
    command.stdin(Stdio::null());
    Ok((control, child))
}

/// Start a program that nothing is handed to.
fn spawn_alone(command: &mut Command) -> io::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Wait for the leader, kill the rest of its group, then reap the leader.
fn wait(child: &mut Child, pid: Pid, group: &Group) -> io::Result<ExitStatus> {
    let unreaped = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), unreaped) {}
    group.signal(Signal::KILL);
    group.set(None);
    child.wait()
}

struct Output {
    stdout: ChildStdout,
    stderr: ChildStderr,
    sinks: (Sink, Sink),
}

/// Pass the output on and report events until the program has ended.
async fn watch_over(
    output: Output,
    ending: oneshot::Receiver<io::Result<ExitStatus>>,
    events: mpsc::Sender<ProgramEvent>,
    done: watch::Sender<bool>,
) {
    let Output {
        stdout,
        stderr,
        sinks: (to_stdout, to_stderr),
    } = output;
    let mut log = Log {
        events: events.clone(),
        connected: false,
        finished: 0,
    };
    let both = async {
        let copied = tokio::join!(
            pass_on(stdout, to_stdout, |line| log.report(line)),
            pass_on(stderr, to_stderr, |_| {}),
        );
        for error in [copied.0, copied.1].into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "output of the program was lost");
        }
    };
    tokio::pin!(both, ending);
    let status = tokio::select! {
        () = &mut both => ending.await,
        status = &mut ending => {
            // A child that left the group may hold the pipes open for ever.
            tokio::time::timeout(DRAIN_WAIT, both).await.ok();
            status
        }
    };
    let status = status.ok().and_then(Result::ok);
    let (code, signal) = (
        status.and_then(|s| s.code()),
        status.and_then(|s| s.signal()),
    );
    events.try_send(ProgramEvent::Exit { code, signal }).ok();
    done.send_replace(true);
}

/// Turns log lines into events, a bounded number of them.
struct Log {
    events: mpsc::Sender<ProgramEvent>,
    connected: bool,
    finished: usize,
}

impl Log {
    fn report(&mut self, line: LogLine) {
        let event = match line {
            LogLine::Connected { parties } if !self.connected => {
                self.connected = true;
                ProgramEvent::Connected { parties }
            }
            LogLine::Finished {
                elapsed,
                bytes_sent,
            } if self.finished < MAX_FINISHED => {
                self.finished += 1;
                ProgramEvent::Finished {
                    elapsed,
                    bytes_sent,
                }
            }
            _ => return,
        };
        self.events.try_send(event).ok();
    }
}

/// The part of an environment that a program gets.
pub(super) fn scrubbed(
    all: impl IntoIterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    let passed = |name: &OsStr| {
        name.to_str()
            .is_some_and(|name| PASSED_ENVIRONMENT.contains(&name) || name.starts_with("LC_"))
    };
    all.into_iter().filter(move |(name, _)| passed(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_keeps_language_and_path_and_loses_the_rest() {
        let all = [
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("PYTHONSTARTUP", "/x"),
            ("PYTHONPATH", "/x"),
            ("LD_PRELOAD", "/x"),
            ("MPYC_NOPRSS", "1"),
            ("SSH_AUTH_SOCK", "/x"),
        ];
        let all = all.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let kept: Vec<_> = scrubbed(all).map(|(name, _)| name).collect();
        assert_eq!(kept, ["PATH", "LC_ALL"]);
    }
}
