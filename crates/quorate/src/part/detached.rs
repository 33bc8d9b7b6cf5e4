//! Taking part in the background: the same command again, without a terminal.
//!
//! ```text
//! join --detach ─ looked, agreed ─► a new process, with what was decided in its standard input (memory, no file, no argument)
//!      │                               setsid · ignores SIGHUP · stdout and stderr to files · takes part
//!      └─ waits until its control socket answers, says where it is, ends
//! ```
//!
//! If it does not begin in time, or the user stops waiting, the new process is ended before the first one ends.
//!
//! Limits: [`START_WAIT`], [`END_WAIT`], [`MAX_ORDERS_BYTES`].
//!
//! Security: private arguments and the rendezvous secret go through a memory file that only the two processes hold. The
//! program's output is in a file of mode 0600 in the state folder; the new process holds a lock on it and on the log for as
//! long as it lives, so that `quorate clean` leaves them alone.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use quorate_identity::{Code, base64url};
use quorate_node::{
    control::running,
    files::{Home, ProgramFiles},
    overlay::{Reach, Relaying},
};
use quorate_session::Bundle;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Claim, Options, Scope, User};
use crate::{
    args::{ExecutionArgs, StartWhen},
    failure::Failure,
    invitation::now,
    standing::short,
    text,
};

/// How long the new process may take until it takes part.
const START_WAIT: Duration = Duration::from_secs(20);
/// How long it may take to end when it is not wanted any more, before it is killed.
const END_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// Most bytes that a new process is given: a program of the largest size, as text.
const MAX_ORDERS_BYTES: u64 = 128 << 20;
/// Most of a log that is shown when the start failed, in bytes.
const SHOWN_LOG_BYTES: usize = 4096;

/// What was decided, for the process that does it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // independent switches
pub struct Orders {
    v: u8,
    pub bundle: String,
    /// What the parties said about themselves.
    pub claims: Vec<Claim>,
    entry: String,
    /// Path and content of each file of the program.
    files: Vec<(String, String)>,
    folder: Option<PathBuf>,
    /// Where the program is on this machine, to name it again.
    program_path: Option<PathBuf>,
    python: Option<PathBuf>,
    local: bool,
    at: Vec<String>,
    relays: Vec<String>,
    relay_passes: Vec<String>,
    network: Vec<String>,
    own_relays: bool,
    no_relay: bool,
    no_port_mapping: bool,
    private_args: Vec<String>,
    private_args_file: Option<PathBuf>,
    execution: ExecutionArgs,
    no_privacy: bool,
    start: StartWhen,
    patience_seconds: Option<u64>,
    log: PathBuf,
}

impl Drop for Orders {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.bundle.zeroize();
        self.private_args.zeroize();
    }
}

impl Orders {
    /// Reads what the first process wrote.
    pub fn read(from: impl Read) -> Result<Self, Failure> {
        let broken =
            |why: String| Failure::new(Code::Internal, format!("the orders cannot be read: {why}"));
        let mut bytes = Zeroizing::new(Vec::new());
        from.take(MAX_ORDERS_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| broken(e.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))
    }

    /// The options of the first process.
    pub fn options(&self) -> Result<Options, Failure> {
        let decoded = self
            .files
            .iter()
            .map(|(path, content)| Ok((path.clone(), base64url::decode(content)?)))
            .collect::<Result<Vec<_>, Failure>>()?;
        Ok(Options {
            program_path: self.program_path.clone(),
            program: Some(ProgramFiles::of_files(
                self.entry.clone(),
                decoded,
                self.folder.clone(),
            )?),
            python: self.python.clone(),
            yes: true,
            scope: if self.local { Scope::Local } else { Scope::Lan },
            at: self.at.clone(),
            reach: Reach {
                relays: self.relays.clone(),
                relaying: match (self.no_relay, self.own_relays) {
                    (true, _) => Relaying::Never,
                    (false, true) => Relaying::OwnOnly,
                    (false, false) => Relaying::Any,
                },
                map_ports: !self.no_port_mapping,
                passes: self.relay_passes.clone(),
                ..Reach::default()
            },
            network: self.network.clone(),
            private_args: self.private_args.clone(),
            private_args_file: self.private_args_file.clone(),
            execution: self.execution.clone(),
            no_privacy: self.no_privacy,
            start: self.start,
            patience: self.patience_seconds.map(Duration::from_secs),
            accept: Vec::new(),
            detach: false,
            log: Some(self.log.clone()),
        })
    }
}

/// Starts the process that takes part, and waits until it does.
pub async fn start(
    user: &User<'_>,
    digest: &str,
    (bundle, claims): (&Bundle, &[Claim]),
    program: &ProgramFiles,
    python: Option<&Path>,
    options: &Options,
) -> Result<ExitCode, Failure> {
    let logs = user.home.state().join("logs");
    Home::ensure(&logs)?;
    let name = format!("{}-{}", short(digest), now().0);
    let (log, output) = (
        logs.join(format!("{name}.log")),
        logs.join(format!("{name}.out")),
    );
    let orders = Orders {
        v: 1,
        bundle: bundle.encode(),
        claims: claims.to_vec(),
        entry: program.entry().into(),
        files: program
            .files()
            .map(|(path, content)| (path.to_owned(), base64url::encode(content)))
            .collect(),
        folder: program.folder().map(Path::to_owned),
        program_path: options
            .program_path
            .as_deref()
            .and_then(|path| std::path::absolute(path).ok()),
        python: python.map(Path::to_owned),
        local: options.scope == Scope::Local,
        at: options.at.clone(),
        relays: options.reach.relays.clone(),
        relay_passes: options.reach.passes.clone(),
        network: options.network.clone(),
        own_relays: options.reach.relaying == Relaying::OwnOnly,
        no_relay: options.reach.relaying == Relaying::Never,
        no_port_mapping: !options.reach.map_ports,
        private_args: options.private_args.clone(),
        private_args_file: options.private_args_file.clone(),
        execution: options.execution.clone(),
        no_privacy: options.no_privacy,
        start: options.start,
        patience_seconds: options.patience.map(|p| p.as_secs()),
        log: log.clone(),
    };
    let mut child = spawn(user, &orders, &log, &output)?;
    let begun = user
        .unless_stopped(until_begun(user, digest, &mut child))
        .await;
    match begun {
        Ok(Begun::TakesPart(process)) => {
            said(user, process, &log, &output);
            Ok(ExitCode::SUCCESS)
        }
        Ok(Begun::Ended(code)) => {
            show_end_of(&log);
            Ok(ExitCode::from(code.unwrap_or(Code::Internal.exit_code())))
        }
        // Nobody would know of it: it must not go on alone.
        Err(failure) => {
            end(&mut child).await;
            Err(failure.note("log", log.display().to_string()))
        }
    }
}

/// What became of the second process.
enum Begun {
    TakesPart(u32),
    Ended(Option<u8>),
}

async fn until_begun(user: &User<'_>, digest: &str, child: &mut Child) -> Result<Begun, Failure> {
    let begun = Instant::now();
    loop {
        if let Some(found) = running(&user.home, digest)? {
            return Ok(Begun::TakesPart(found.about.process));
        }
        if let Ok(Some(status)) = child.try_wait() {
            let code = status.code().and_then(|c| u8::try_from(c).ok());
            return Ok(Begun::Ended(code));
        }
        if begun.elapsed() > START_WAIT {
            let why = "the session did not begin in the background";
            return Err(Failure::new(Code::Internal, why)
                .hint("the process was ended; look at the log, then run the command again"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Ends the second process, kindly first, and waits until it is gone.
async fn end(child: &mut Child) {
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(process) = process {
        // It is our child and not waited for yet: the number is still its own.
        let _ = kill_process(process, Signal::TERM);
    }
    let asked = Instant::now();
    while asked.elapsed() < END_WAIT {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(user: &User<'_>, orders: &Orders, log: &Path, output: &Path) -> Result<Child, Failure> {
    let internal = |what: &str, e: &dyn std::fmt::Display| {
        Failure::new(Code::Internal, format!("{what}: {e}"))
    };
    let open = |path: &Path| {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        // The lock belongs to the open file, which only the new process has in a moment.
        file.and_then(|file| {
            Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).map(|()| file)?)
        })
        .map_err(|e| {
            Failure::new(
                Code::Disk,
                format!("{} cannot be written: {e}", path.display()),
            )
        })
    };
    let memory = rustix::fs::memfd_create("quorate-orders", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|e| internal("no memory file", &e))?;
    let mut memory = File::from(memory);
    let text = Zeroizing::new(serde_json::to_vec(orders).map_err(|e| internal("orders", &e))?);
    memory
        .write_all(&text)
        .and_then(|()| memory.rewind())
        .map_err(|e| internal("the orders cannot be written", &e))?;
    let own = std::env::current_exe().map_err(|e| internal("this program cannot be found", &e))?;
    let mut command = Command::new(own);
    let global = user.global;
    if let Some(home) = &global.home {
        let home = std::path::absolute(home).unwrap_or_else(|_| home.clone());
        command.arg("--home").arg(home);
    }
    if let Some(file) = &global.log_file {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        command.arg("--log-file").arg(file);
    }
    if global.json {
        command.arg("--json");
    }
    command
        .args(std::iter::repeat_n("--verbose", global.verbose.into()))
        .args(["--no-input", "background"])
        .stdin(Stdio::from(memory))
        .stdout(open(output)?)
        .stderr(open(log)?);
    command
        .spawn()
        .map_err(|e| internal("no second process", &e))
}

fn said(user: &User<'_>, process: u32, log: &Path, output: &Path) {
    let (log, output) = (log.display().to_string(), output.display().to_string());
    user.event(
        "detached",
        &[
            ("process", process.into()),
            ("log", log.clone().into()),
            ("output", output.clone().into()),
        ],
    );
    user.show([
        text::row(
            "detached",
            &format!("takes part in the background, process {process}"),
        ),
        text::row("output", &text::foreign(&output)),
        text::row("log", &text::foreign(&log)),
        text::row(
            "next",
            "follow it:   quorate status --watch      end it:   quorate leave",
        ),
    ]);
}

/// What the process said before it ended: it is the error.
fn show_end_of(log: &Path) {
    let text = std::fs::read(log).unwrap_or_default();
    let end = &text[text.len().saturating_sub(SHOWN_LOG_BYTES)..];
    for line in String::from_utf8_lossy(end).lines() {
        text::say(text::escaped(line));
    }
}
