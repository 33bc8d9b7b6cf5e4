//! Parties in this process: keys, a home folder each, an invitation, and real sessions of them.
//!
//! Everything but the command line is what `quorate join` uses: overlay, signatures, mesh, guard,
//! programs as processes. All parties share this process, its runtime and the machine.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use quorate_identity::{SigningKey, UnixTime, Verified, sign};
use quorate_node::{
    files::{Home, ProgramFiles},
    party::{self, EVENT_QUEUE, Execution, PartyConfig, PartyEvent, Scope, Stop},
    program::{PythonRuntime, environment, python},
};
use quorate_session::{
    Fingerprint, Invitation, InvitationDraft, Outcome as SessionOutcome, PartyDraft,
    RendezvousSecret,
    message::{Program, SameController, Times},
};
use tokio::{
    io::AsyncWrite,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::Instrument as _;

use crate::Outcome;

/// Seconds in which all have to join, start and end; no measurement takes this long.
const PATIENCE_SECONDS: i64 = 3600;
/// A session that takes longer than this hangs.
pub const PATIENCE: Duration = Duration::from_mins(10);

/// Parties on this machine.
pub struct World {
    folder: tempfile::TempDir,
    keys: Vec<SigningKey>,
    python: PythonRuntime,
}

/// What is computed.
#[derive(Clone)]
pub struct Computation {
    /// The program's files.
    pub program: ProgramFiles,
    /// Arguments that all parties agree on.
    pub public_args: Vec<String>,
    /// Arguments of one party: a function of its index.
    pub private_args: fn(usize) -> Vec<String>,
}

impl Computation {
    /// A program of one text without private arguments.
    pub fn of(name: &str, source: &str, public_args: &[&str]) -> Outcome<Self> {
        Ok(Self {
            program: ProgramFiles::embedded(name, source)?,
            public_args: public_args.iter().map(ToString::to_string).collect(),
            private_args: |_| Vec::new(),
        })
    }
}

/// When the user of a party ends its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never: the program ends it.
    Finished,
    /// As soon as everybody is ready.
    Ready,
}

/// What one party saw.
#[derive(Debug)]
pub struct Seen {
    /// How it ended.
    pub outcome: SessionOutcome,
    /// Everything it was told, and when.
    pub events: Vec<(Instant, PartyEvent)>,
    /// What its program printed.
    pub stdout: String,
    /// What its program said on standard error.
    pub stderr: String,
}

impl Seen {
    /// When the first such event came.
    pub fn first(&self, wanted: impl Fn(&PartyEvent) -> bool) -> Option<Instant> {
        let found = self.events.iter().find(|(_, event)| wanted(event));
        found.map(|(at, _)| *at)
    }

    /// When the last such event came.
    pub fn last(&self, wanted: impl Fn(&PartyEvent) -> bool) -> Option<Instant> {
        let found = self.events.iter().rev().find(|(_, event)| wanted(event));
        found.map(|(at, _)| *at)
    }

    /// When it reached a state.
    pub fn state(&self, name: &str) -> Option<Instant> {
        self.first(|e| matches!(e, PartyEvent::State { state } if state == name))
    }

    /// What the program said about itself: milliseconds and bytes sent.
    pub fn finished(&self) -> Option<(u64, u64)> {
        self.events.iter().find_map(|(_, event)| match event {
            PartyEvent::Finished {
                elapsed_ms,
                bytes_sent,
            } => Some((*elapsed_ms, *bytes_sent)),
            _ => None,
        })
    }

    /// Whether its program ended well and every party signed that.
    pub fn is_success(&self, parties: usize) -> bool {
        matches!(&self.outcome, SessionOutcome::Finished { exits, .. }
            if exits.len() == parties && exits.iter().all(|exit| *exit == Some(0)))
    }
}

/// A session that is under way.
pub struct Running {
    /// When its parties were told to join.
    pub begun: Instant,
    parties: Vec<JoinHandle<Outcome<Seen>>>,
}

impl Running {
    /// Waits until every party has ended, and gives what each saw.
    pub async fn end(self) -> Outcome<Vec<Seen>> {
        let mut seen = Vec::new();
        for party in self.parties {
            seen.push(tokio::time::timeout(PATIENCE, party).await???);
        }
        Ok(seen)
    }
}

/// A Python with MPyC, in an environment that is made once per machine.
pub async fn mpyc(explicit: Option<PathBuf>) -> Outcome<PythonRuntime> {
    if explicit.is_some() {
        let found = python::find(&python::Search::from_env(explicit)).await?;
        found.require_mpyc()?;
        return Ok(found);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let base = python::find(&python::Search::from_env(None)).await?;
    Ok(environment::prepare(&cache.join("quorate/e2e"), &base, |_| {}).await?)
}

impl World {
    /// `parties` people with fresh keys.
    pub fn new(parties: usize, python: PythonRuntime) -> Outcome<Self> {
        let folder = tempfile::Builder::new()
            .prefix("quorate-bench-")
            .tempdir()?;
        let key = |_| Ok(SigningKey::from_seed(&random()?));
        Ok(Self {
            folder,
            keys: (0..parties).map(key).collect::<Outcome<_>>()?,
            python,
        })
    }

    /// Where everything of these people is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Files below a folder of everybody's homes, such as `run`.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// The invitation that party 0 signs.
    pub fn invite(
        &self,
        computation: &Computation,
    ) -> Outcome<(Verified<Invitation>, RendezvousSecret)> {
        let now = now();
        let until = now.plus_seconds(PATIENCE_SECONDS);
        let party = |(index, key): (usize, &SigningKey)| PartyDraft {
            did: key.did(),
            name: format!("party-{index}"),
            keys: vec![key.public().thumbprint()],
        };
        let draft = InvitationDraft {
            issuer: self.keys[0].did(),
            title: "benchmark".into(),
            purpose: String::new(),
            supersedes: None,
            parties: self.keys.iter().enumerate().map(party).collect(),
            threshold: None,
            zero_threshold: false,
            prss: None,
            program: Program {
                manifest: computation.program.digest(),
                entry: computation.program.entry().into(),
                args: computation.public_args.clone(),
                env: None,
            },
            engine: quorate_session::message::Engine::Mpyc,
            mpyc: String::new(),
            python: python::OLDEST.to_string(),
            word: self.python.word,
            port: 11365,
            valid_from: now,
            valid_until: until,
            time: Times {
                join_by: until,
                start_by: until,
                end_by: until,
            },
            relays: Vec::new(),
            path: quorate_session::message::PathPolicy::Any,
            same_controller: SameController::Refuse,
            rejoin: 0,
        };
        let secret = RendezvousSecret::new(random()?);
        let invitation = draft.build(random()?, random()?, &secret)?;
        Ok((sign(invitation, &self.keys[0])?, secret))
    }

    /// Lets everybody join a fresh session at once.
    pub fn start(&self, computation: &Computation, until: Until) -> Outcome<Running> {
        let (invitation, secret) = self.invite(computation)?;
        // Everybody is ready when each party has seen that everybody is.
        let (ready, readies) = watch::channel(0);
        let ready = Arc::new(ready);
        let begun = Instant::now();
        let mut parties = Vec::new();
        for index in 0..self.keys.len() {
            let (stdout, stderr) = (Printed::default(), Printed::default());
            let config = self.config(
                index,
                computation,
                invitation.clone(),
                RendezvousSecret::new(*secret.as_bytes()),
                (&stdout, &stderr),
            );
            let wanted = (until == Until::Ready).then_some(self.keys.len());
            let span = tracing::info_span!("party", index);
            let party = take_part(config, Arc::clone(&ready), readies.clone(), wanted);
            let party = async move {
                let (outcome, events) = party.await?;
                Ok(Seen {
                    outcome,
                    events,
                    stdout: stdout.text(),
                    stderr: stderr.text(),
                })
            };
            parties.push(tokio::spawn(party.instrument(span)));
        }
        Ok(Running { begun, parties })
    }

    fn config(
        &self,
        index: usize,
        computation: &Computation,
        invitation: Verified<Invitation>,
        secret: RendezvousSecret,
        (stdout, stderr): (&Printed, &Printed),
    ) -> PartyConfig {
        let (stdout, stderr) = (stdout.clone(), stderr.clone());
        PartyConfig {
            reach: quorate_node::overlay::Reach::default(),
            network: Vec::new(),
            key: self.keys[index].clone(),
            invitation,
            secret,
            addresses: Vec::new(),
            fingerprint: Fingerprint {
                quorate: env!("CARGO_PKG_VERSION").into(),
                mpyc: python::MPYC_VERSION.into(),
                python: self.python.version.to_string(),
                word: self.python.word,
                program: computation.program.digest(),
                env: None,
            },
            program: computation.program.clone(),
            python: Some(self.python.path.clone()),
            private_args: (computation.private_args)(index),
            working_folder: self.folder.path().to_owned(),
            scope: Scope::Local,
            check_own_program: true,
            home: Home::below(&self.folder.path().join(index.to_string())),
            name: "benchmark".into(),
            control: None,
            log: None,
            execution: Execution::default(),
            stdout: Box::new(move || Box::new(stdout.clone())),
            stderr: Box::new(move || Box::new(stderr.clone())),
        }
    }
}

type Events = Vec<(Instant, PartyEvent)>;

/// One party's part; with `wanted`, its user stops it when so many parties are ready.
async fn take_part(
    config: PartyConfig,
    ready: Arc<watch::Sender<usize>>,
    mut readies: watch::Receiver<usize>,
    wanted: Option<usize>,
) -> Outcome<(SessionOutcome, Events)> {
    let (events, mut told) = mpsc::channel(EVENT_QUEUE);
    let (stop, stopped) = watch::channel(Stop::No);
    let run = party::run(config, events, stopped);
    tokio::pin!(run);
    let collect = async {
        let mut seen = Events::new();
        while let Some(event) = told.recv().await {
            let at = Instant::now();
            if matches!(&event, PartyEvent::State { state } if state == "running") {
                ready.send_modify(|n| *n += 1);
            }
            seen.push((at, event));
        }
        seen
    };
    let stopping = async {
        match wanted {
            Some(wanted) => {
                let all = readies.wait_for(|n| *n >= wanted).await.is_ok();
                if all {
                    let _ = stop.send(Stop::Now);
                }
            }
            None => std::future::pending().await,
        }
        std::future::pending::<()>().await;
    };
    let both = async { tokio::join!(&mut run, collect) };
    tokio::select! {
        (outcome, events) = both => Ok((outcome?, events)),
        () = stopping => Err("stopping never ends".into()),
    }
}

/// What a program printed.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl AsyncWrite for Printed {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        part: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(part);
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Bytes from the operating system.
pub fn random<const N: usize>() -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs();
    UnixTime(i64::try_from(seconds).unwrap_or(i64::MAX))
}
