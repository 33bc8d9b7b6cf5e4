//! Finding the sessions that run on this home, and asking them.
//!
//! A session is a run folder whose lock is held and in which [`About`] says what it is. All calls block, with a bound.
//!
//! ```text
//! ask ──► one answer within ANSWER_WAIT, or the session does not answer
//! watch ─► a line per change · silent for QUIET_WAIT ─ asked on another connection ─┬─ answers: nothing has changed
//!                                                                                   └─ does not: it is said who is stuck
//! ```
//! Limits: [`MAX_SESSIONS`], [`ANSWER_WAIT`], [`QUIET_WAIT`], [`END_WAIT`], `MAX_ANSWER_BYTES` per line.
//!
//! Security. Requires: the run folder is private to this user. Provides: what is read is bounded, and never believed further
//! than to be shown.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use quorate_identity::Code;
use serde::{Deserialize, Serialize};

use super::{
    ABOUT, Answer, CONTROL_VERSION, MAX_ANSWER_BYTES, Request, SessionStatus,
    server::with_short_path,
};
use crate::{
    Fault,
    files::{Home, RunFolder, read_bounded},
};

/// Most sessions that are looked at.
pub const MAX_SESSIONS: usize = 256;
/// How long an answer may take.
pub const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// After so long without a change a session that is watched is asked whether it still answers.
pub const QUIET_WAIT: Duration = Duration::from_secs(15);
/// How long a session that was told to end may be silent: all programs stop, receipts and clean-up are far shorter.
pub const END_WAIT: Duration = Duration::from_secs(30);
/// How long the last lines of a session that does not answer any more are awaited.
const LAST_LINES: Duration = Duration::from_millis(200);
/// Largest note about a session in its run folder, in bytes.
pub const MAX_ABOUT_BYTES: u64 = 4096;

/// What a run folder says about its session, also when nobody answers any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Version of this note.
    pub v: u8,
    /// What this home calls the session.
    pub session: String,
    /// Digest of the invitation.
    pub digest: String,
    /// The process.
    pub process: u32,
    /// When it began.
    pub started: String,
}

/// A session of this home, running or left behind.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its run folder.
    pub folder: PathBuf,
    /// What the folder says.
    pub about: About,
    /// Whether its process is alive.
    pub alive: bool,
}

/// The sessions of this home whose run folders exist, oldest first.
pub fn sessions(home: &Home) -> Result<Vec<Found>, Fault> {
    let mut found: Vec<Found> = RunFolder::list(home)?
        .into_iter()
        .filter_map(|(folder, alive)| {
            let about = about(&folder)?;
            Some(Found {
                folder,
                about,
                alive,
            })
        })
        .take(MAX_SESSIONS)
        .collect();
    found.sort_by(|a, b| (&a.about.started, &a.folder).cmp(&(&b.about.started, &b.folder)));
    Ok(found)
}

/// The running session under an invitation.
pub fn running(home: &Home, digest: &str) -> Result<Option<Found>, Fault> {
    let mut found = sessions(home)?.into_iter();
    Ok(found.find(|session| session.alive && session.about.digest == digest))
}

fn about(folder: &Path) -> Option<About> {
    let bytes = read_bounded(&folder.join(ABOUT), MAX_ABOUT_BYTES).ok()??;
    serde_json::from_slice(&bytes).ok()
}

impl Found {
    /// How it stands.
    pub fn status(&self) -> Result<SessionStatus, Fault> {
        match self.ask(&Request::Status { v: CONTROL_VERSION })? {
            Answer::Status { status, .. } => Ok(*status),
            other => Err(refused(other)),
        }
    }

    /// How it stands, and every change until it is over. It may be silent for as long as it answers when it is asked.
    pub fn watch(&self) -> Result<Watch, Fault> {
        self.watching(Some(self.clone()), QUIET_WAIT)
    }

    /// The same for a session that is about to be told to end: it has `END_WAIT` for each step of it.
    pub fn watch_end(&self) -> Result<Watch, Fault> {
        self.watching(None, END_WAIT)
    }

    fn watching(&self, asked: Option<Self>, patience: Duration) -> Result<Watch, Fault> {
        let reader = self.send(&Request::Watch { v: CONTROL_VERSION })?;
        let patient = reader.get_ref().set_read_timeout(Some(patience));
        patient.map_err(|e| self.no_answer(&e))?;
        Ok(Watch {
            reader,
            line: Vec::new(),
            session: self.clone(),
            asked,
            over: false,
        })
    }

    /// What is said of a session whose process is there and does not answer.
    fn silent(&self) -> Fault {
        let process = self.about.process;
        if is_stopped(process) {
            return Fault::new(
                Code::NoSession,
                format!("the session does not answer: its process {process} is stopped"),
            )
            .hint(format!("let it go on: kill -CONT {process}"));
        }
        Fault::new(
            Code::NoSession,
            format!("the session does not answer: its process is {process}"),
        )
        .hint("look at its process with ps; quorate clean removes what a dead one left")
    }

    fn no_answer(&self, e: &std::io::Error) -> Fault {
        match e.kind() {
            ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe => over(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.silent(),
            _ => Fault::new(Code::NoSession, format!("the session cannot be asked: {e}")),
        }
    }

    /// This party leaves.
    pub fn leave(&self) -> Result<(), Fault> {
        self.order(&Request::Leave { v: CONTROL_VERSION })
    }

    /// The organizer cancels.
    pub fn cancel(&self, reason: &str) -> Result<(), Fault> {
        let reason = reason.to_owned();
        self.order(&Request::Cancel {
            v: CONTROL_VERSION,
            reason,
        })
    }

    fn order(&self, request: &Request) -> Result<(), Fault> {
        match self.ask(request)? {
            Answer::Done { .. } => Ok(()),
            other => Err(refused(other)),
        }
    }

    fn ask(&self, request: &Request) -> Result<Answer, Fault> {
        let mut reader = self.send(request)?;
        let mut line = Vec::new();
        read_line(&mut reader, &mut line).map_err(|e| self.no_answer(&e))?;
        answer(&line)?.ok_or_else(over)
    }

    fn send(&self, request: &Request) -> Result<BufReader<UnixStream>, Fault> {
        let mut stream = with_short_path(&self.folder, |path| UnixStream::connect(path))
            .map_err(|e| self.no_answer(&e))?;
        let prepared = stream
            .set_read_timeout(Some(ANSWER_WAIT))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_WAIT)))
            .and_then(|()| stream.write_all(&request.line()));
        prepared.map_err(|e| self.no_answer(&e))?;
        Ok(BufReader::new(stream))
    }
}

/// The changes of one session.
#[derive(Debug)]
pub struct Watch {
    reader: BufReader<UnixStream>,
    /// What came of the next line.
    line: Vec<u8>,
    session: Found,
    /// Whom to ask when nothing comes; nobody: then silence is the end.
    asked: Option<Found>,
    over: bool,
}

impl Iterator for Watch {
    type Item = Result<SessionStatus, Fault>;

    /// Waits for the next change; `None` when the session said all it has to say.
    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.read();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Watch {
    fn read(&mut self) -> Option<Result<SessionStatus, Fault>> {
        let mut last = None;
        loop {
            match read_line(&mut self.reader, &mut self.line) {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // Its process is gone; what it had to say was said.
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Some(Err(self.session.no_answer(&e)));
                }
                Err(e) => match (last.take(), &self.asked) {
                    (Some(fault), _) => return Some(Err(fault)),
                    (None, None) => return Some(Err(self.session.no_answer(&e))),
                    (None, Some(asked)) => {
                        if let Err(fault) = asked.status() {
                            // It may have ended in this moment: then its last lines are here.
                            let _ = self.reader.get_ref().set_read_timeout(Some(LAST_LINES));
                            last = Some(fault);
                        }
                    }
                },
            }
        }
        match answer(&std::mem::take(&mut self.line)) {
            Ok(Some(Answer::Status { status, .. })) => Some(Ok(*status)),
            Ok(Some(other)) => Some(Err(refused(other))),
            Ok(None) => None,
            Err(fault) => Some(Err(fault)),
        }
    }
}

/// Adds to `line` up to its end, or to the end of everything. What came before an error stays.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<()> {
    let room = (MAX_ANSWER_BYTES + 1).saturating_sub(line.len());
    let mut limited = reader.take(room as u64);
    limited.read_until(b'\n', line).map(drop)
}

fn answer(line: &[u8]) -> Result<Option<Answer>, Fault> {
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() > MAX_ANSWER_BYTES {
        return Err(Fault::new(Code::Limit, "the session's answer is too long"));
    }
    Answer::parse(line).map(Some).map_err(|e| {
        Fault::new(
            Code::Format,
            format!("the session's answer cannot be read: {e}"),
        )
    })
}

/// Whether a process is stopped by a signal, as `/proc` says.
fn is_stopped(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('T' | 't'))
}

fn refused(answer: Answer) -> Fault {
    match answer {
        Answer::Refused { code, detail, .. } => {
            let code = Code::ALL.iter().find(|c| c.as_str() == code);
            Fault::new(code.copied().unwrap_or(Code::Internal), detail)
        }
        _ => Fault::new(Code::Format, "the session answered something else"),
    }
}

fn over() -> Fault {
    Fault::new(Code::NoSession, "the session is over")
}
