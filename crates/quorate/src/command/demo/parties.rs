//! The processes of the demo: one per party and command, all of this same binary.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use quorate_identity::Code;
use quorate_node::program::Builtin;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

use super::progress::Progress;
use crate::failure::Failure;

/// Longest line of a party's report that is read, in bytes.
const MAX_LINE_BYTES: u64 = 256 * 1024;
/// Lines of all parties that wait to be shown.
const LINE_QUEUE: usize = 1024;
/// How long the parties may take to find each other.
const JOIN_WITHIN: &str = "10m";

/// What is computed.
pub struct Plan {
    /// As written on the command line.
    pub program: String,
    pub builtin: Option<&'static Builtin>,
    pub args: Vec<String>,
    pub python: PathBuf,
    /// Folder of the private demo files.
    pub data: PathBuf,
}

/// One party: a name, a home folder, and the DID its process made there.
pub struct Party {
    pub name: &'static str,
    pub did: String,
    home: PathBuf,
}

impl Party {
    /// Lets a process make the identity.
    pub async fn new(name: &'static str, folder: &Path) -> Result<Self, Failure> {
        let home = folder.join(name);
        let mut command = this_binary(&home)?;
        command.args(["--json", "id", "new", "--name", name]);
        let report = output(&mut command).await?;
        let did = serde_json::from_str::<Value>(&report)
            .ok()
            .and_then(|v| Some(v.get("did")?.as_str()?.to_owned()));
        let did =
            did.ok_or_else(|| Failure::new(Code::Internal, "a party's process reported no DID"))?;
        Ok(Self { name, did, home })
    }
}

/// Lets the first party sign the invitation.
pub async fn invite(plan: &Plan, parties: &[Party], folder: &Path) -> Result<PathBuf, Failure> {
    let file = folder.join("demo.quorate");
    let others: Vec<_> = parties[1..]
        .iter()
        .map(|p| format!("{}={}", p.name, p.did))
        .collect();
    let mut command = this_binary(&parties[0].home)?;
    command.args([
        "--quiet",
        "invite",
        &plan.program,
        "--name",
        "demo",
        "--expires",
        JOIN_WITHIN,
        "--with",
        &others.join(","),
    ]);
    command.arg("--out").arg(&file).arg("--").args(&plan.args);
    output(&mut command).await?;
    Ok(file)
}

/// Lets every party join, shows what they report, and waits until all have ended.
pub async fn run_all(
    plan: &Plan,
    parties: &[Party],
    invitation: &Path,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (lines, mut reported) = mpsc::channel(LINE_QUEUE);
    let mut children = Vec::new();
    for (index, party) in parties.iter().enumerate() {
        let mut child = join(plan, party, index, invitation)?.spawn().map_err(|e| {
            Failure::new(
                Code::Internal,
                format!("no process for {} could be started: {e}", party.name),
            )
        })?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(read_lines(BufReader::new(stderr), index, lines.clone()));
        }
        if let Some(stdout) = child.stdout.take() {
            // The result is the same for all; one party's output is enough on one screen.
            tokio::spawn(pass_on(stdout, index == 0));
        }
        children.push(child);
    }
    drop(lines);
    let pids: Vec<_> = children.iter().filter_map(Child::id).collect();
    let forward = tokio::spawn(forward_signals(pids));
    while let Some((index, line)) = reported.recv().await {
        progress.line(index, &line);
    }
    let mut exits = Vec::new();
    for child in &mut children {
        let status = child
            .wait()
            .await
            .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
        exits.push(status.code());
    }
    forward.abort();
    progress.conclude(&exits)
}

fn join(plan: &Plan, party: &Party, index: usize, invitation: &Path) -> Result<Command, Failure> {
    let mut command = this_binary(&party.home)?;
    command
        .args([
            "--json",
            "join",
            "--yes",
            "--local",
            "--with-parent",
            "--python",
        ])
        .arg(&plan.python);
    if plan.builtin.is_none() {
        command.arg("--program").arg(&plan.program);
    }
    command.arg(invitation).arg("--");
    if let Some(builtin) = plan.builtin {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        command.args(builtin.demo_args_of(index, &plan.data.to_string_lossy()));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A group of its own: Ctrl-C reaches it through us, once, as it would on a machine of its own.
    command.process_group(0);
    Ok(command)
}

fn this_binary(home: &Path) -> Result<Command, Failure> {
    let exe = std::env::current_exe()
        .map_err(|e| Failure::new(Code::Internal, format!("this binary cannot be found: {e}")))?;
    let mut command = Command::new(exe);
    command
        .arg("--home")
        .arg(home)
        .env_remove("QUORATE_HOME")
        .kill_on_drop(true);
    Ok(command)
}

/// Runs a short command of a party and gives its stdout.
async fn output(command: &mut Command) -> Result<String, Failure> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|e| Failure::new(Code::Internal, format!("this binary cannot be run: {e}")))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let code = Code::ALL
        .iter()
        .find(|c| said.contains(&format!("   {}\n", c.as_str())))
        .copied()
        .unwrap_or(Code::Internal);
    let first = said
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    let detail = first.split("   E_").next().unwrap_or(first).to_owned();
    let failure = Failure::new(code, detail);
    Err(
        match said.lines().find_map(|l| l.trim().strip_prefix("hint: ")) {
            Some(hint) => failure.hint(hint),
            None => failure,
        },
    )
}

async fn read_lines(
    mut reader: impl tokio::io::AsyncBufRead + Unpin,
    index: usize,
    lines: mpsc::Sender<(usize, String)>,
) {
    loop {
        let mut line = Vec::new();
        match (&mut reader)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if lines.send((index, line)).await.is_err() {
            return;
        }
    }
}

async fn pass_on(mut from: impl tokio::io::AsyncRead + Unpin, show: bool) {
    let copied = if show {
        let mut out = tokio::io::stdout();
        let copied = tokio::io::copy(&mut from, &mut out).await;
        let _ = out.flush().await;
        copied
    } else {
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await
    };
    if let Err(e) = copied {
        tracing::warn!(%e, "output of a party was lost");
    }
}

/// Passes Ctrl-C and SIGTERM on to every party; each ends its part of the session by itself.
async fn forward_signals(pids: Vec<u32>) {
    use rustix::process::{Pid, Signal, kill_process};
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    loop {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        for pid in &pids {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::INT);
            }
        }
    }
}
