//! Running a short command with a time limit and a bound on what it may print.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// The most that is kept of each output stream: its beginning is dropped, the end says why.
const KEPT_OUTPUT: usize = 64 * 1024;
/// The size of one read.
const READ_BUFFER: usize = 8 * 1024;

/// What a finished command left.
pub(super) struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Run `command` to its end. After `limit` its whole process group is killed, and the result is
/// [`io::ErrorKind::TimedOut`]; the same happens when this future is dropped.
pub(super) async fn run(mut command: Command, limit: Duration) -> io::Result<Finished> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async { tokio::try_join!(child.wait(), read_end(stdout), read_end(stderr)) };
    let finished = tokio::time::timeout(limit, all).await;
    let (status, stdout, stderr) =
        finished.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    // It ended and was waited for: its number may belong to somebody else from now on.
    group.0 = None;
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// Kills a process group when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Usually there is nobody left.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

/// The last part of a stream as text.
async fn read_end(stream: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; READ_BUFFER]);
    if let Some(mut stream) = stream {
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            kept.extend_from_slice(&buffer[..count]);
            let over = kept.len().saturating_sub(KEPT_OUTPUT);
            kept.drain(..over);
        }
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}
