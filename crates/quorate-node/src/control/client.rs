//! Finding the sessions that run on this home, and asking them.
//!
//! A session is a run folder whose lock is held and in which [`About`] says what it is. All calls block, with a bound.
//!
//! Limits: [`MAX_SESSIONS`], [`ANSWER_WAIT`], `MAX_ANSWER_BYTES` per line.
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

    /// How it stands, and every change until it is over.
    pub fn watch(&self) -> Result<Watch, Fault> {
        let reader = self.send(&Request::Watch { v: CONTROL_VERSION })?;
        reader
            .get_ref()
            .set_read_timeout(None)
            .map_err(|e| no_answer(&e))?;
        Ok(Watch { reader })
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
        read_answer(&mut reader)?.ok_or_else(over)
    }

    fn send(&self, request: &Request) -> Result<BufReader<UnixStream>, Fault> {
        let mut stream = with_short_path(&self.folder, |path| UnixStream::connect(path))
            .map_err(|e| no_answer(&e))?;
        let prepared = stream
            .set_read_timeout(Some(ANSWER_WAIT))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_WAIT)))
            .and_then(|()| stream.write_all(&request.line()));
        prepared.map_err(|e| no_answer(&e))?;
        Ok(BufReader::new(stream))
    }
}

/// The changes of one session.
#[derive(Debug)]
pub struct Watch {
    reader: BufReader<UnixStream>,
}

impl Iterator for Watch {
    type Item = Result<SessionStatus, Fault>;

    /// Waits for the next change; `None` when the session said all it has to say.
    fn next(&mut self) -> Option<Self::Item> {
        match read_answer(&mut self.reader) {
            Ok(Some(Answer::Status { status, .. })) => Some(Ok(*status)),
            Ok(Some(other)) => Some(Err(refused(other))),
            Ok(None) => None,
            Err(fault) => Some(Err(fault)),
        }
    }
}

fn read_answer(reader: &mut impl BufRead) -> Result<Option<Answer>, Fault> {
    let mut line = Vec::new();
    let mut limited = reader.take(MAX_ANSWER_BYTES as u64 + 1);
    limited
        .read_until(b'\n', &mut line)
        .map_err(|e| no_answer(&e))?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() > MAX_ANSWER_BYTES {
        return Err(Fault::new(Code::Limit, "the session's answer is too long"));
    }
    Answer::parse(&line).map(Some).map_err(|e| {
        Fault::new(
            Code::Format,
            format!("the session's answer cannot be read: {e}"),
        )
    })
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

fn no_answer(e: &std::io::Error) -> Fault {
    match e.kind() {
        ErrorKind::NotFound
        | ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::BrokenPipe => over(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            Fault::new(Code::NoSession, "the session does not answer")
                .hint("look at its process with ps; quorate clean removes what a dead one left")
        }
        _ => Fault::new(Code::NoSession, format!("the session cannot be asked: {e}")),
    }
}
