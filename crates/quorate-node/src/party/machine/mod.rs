//! The loop: one input, drain the core, sleep.

mod gate;
mod inputs;
mod keeping;
mod ports;
mod reach;
mod reporting;
mod seeking;
mod serving;
mod standing;

use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use quorate_identity::{Code, Did, DidKeyResolver, Digest, Rejection, ResolvedDid, Resolver};
use quorate_session::{
    Closure, Event, LinkId, MeshPlan, Outcome, Pid, Record, RendezvousSecret, Session, Setup,
    State, Stored,
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use self::{
    gate::Gate,
    keeping::{earlier_record, forget_old_records},
    ports::Ports,
    seeking::Seeking,
    serving::Serving,
    standing::Standing,
};
use super::{
    PartyConfig, PartyEvent, Rendezvous, Scope, SharedMesh, Stop, clock,
    control::{ControlEvent, ControlStreams},
    program::Guard,
};
use crate::{
    Fault,
    attach::GuardEvent,
    control::{Command, Control, SessionStatus},
    files::{Home, Records, disk, forget_issued, read_bounded, write_atomic},
    overlay::{Overlay, OverlayConfig, OverlayEvent, dht::Answer},
    program::supervisor::{ProgramEvent, Supervisor},
    relay::Relay,
    wireguard::{Mesh, MeshConfig, MeshEvent, MeshPeer, Reach},
};

/// Largest record of a session that is read back, in bytes.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Events of control streams that may wait for the loop.
const CONTROL_QUEUE: usize = 256;

/// One party in one session.
pub(super) struct Machine {
    config: PartyConfig,
    session: Session,
    overlay: Overlay,
    overlay_events: mpsc::Receiver<OverlayEvent>,
    /// Rendezvous through nodes, where there are any.
    seeking: Option<Seeking>,
    /// What was last said about it.
    sought: Option<Rendezvous>,
    installed: Option<Installed>,
    running: Option<Running>,
    /// Run folder and control socket.
    desk: Control,
    standing: Standing,
    /// One process of a home takes part in a session; the kernel frees the lock when it dies.
    _lock: File,
    record: PathBuf,
    records: Records,
    /// What earlier starts of this session signed.
    earlier: Option<Record>,
    /// Where the record of the session is, once it was kept.
    kept: Option<PathBuf>,
    events: mpsc::Sender<PartyEvent>,
    waiting: Waiting,
    gate: Gate,
    /// The party whose link to the program broke, and until when its abort is waited for.
    lost_link: Option<(u16, Instant)>,
    /// Where relays answer STUN, by the relay's PeerId.
    stun: BTreeMap<String, Vec<SocketAddr>>,
    /// The overlay's ports at the router, once it was asked.
    ports: Option<Ports>,
    serving: Serving,
}

/// What exists between `Install` and `Uninstall`.
struct Installed {
    plan: Box<MeshPlan>,
    mesh: SharedMesh,
    mesh_events: mpsc::Receiver<MeshEvent>,
    control: ControlStreams,
    control_events: mpsc::Receiver<ControlEvent>,
    streams: BTreeMap<LinkId, (u16, mpsc::Sender<Vec<u8>>)>,
    guard: Guard,
    announced: bool,
    reported: bool,
    since: Instant,
}

/// What exists between `Start` and the program's end.
struct Running {
    supervisor: Supervisor,
    events: mpsc::Receiver<ProgramEvent>,
    started: Instant,
    finished: Option<(Duration, u64)>,
}

/// What is waited for, to report changes and long waits once each.
struct Waiting {
    parties: Vec<u16>,
    what: &'static str,
    state: State,
    since: Instant,
    next_report: Instant,
}

/// One thing that happened outside.
enum Input {
    Overlay(Option<OverlayEvent>),
    Mesh(Option<MeshEvent>),
    Control(ControlEvent),
    Guard(GuardEvent),
    Program(ProgramEvent),
    Stop(Stop),
    Command(Command),
    Answer(Answer),
    Ports,
    Relay(Result<Relay, Fault>),
    Release,
    Deadline,
    Heartbeat,
}

impl Machine {
    /// Checks everything that can be checked alone, then opens the overlay. Nothing is sent when a
    /// check fails.
    pub async fn start(
        mut config: PartyConfig,
        events: mpsc::Sender<PartyEvent>,
    ) -> Result<Self, Fault> {
        let sessions = config.home.state().join("sessions");
        Home::ensure(&sessions)?;
        forget_old_records(&sessions);
        forget_issued(&config.home, clock::wall());
        let digest = config.invitation.digest();
        let lock = lock_session(&sessions.join(format!("{digest}.lock")))?;
        let record = sessions.join(format!("{digest}.json"));
        let records = Records::of(&config.home);
        let earlier = earlier_record(&records, &digest, &events)?;
        let session = new_session(&config, &record, earlier.as_ref(), &events)?;
        let desk = open_desk(&mut config, session.me())?;
        let overlay = OverlayConfig {
            purpose: crate::overlay::Purpose::Session,
            secret: Zeroizing::new(*session.overlay_secret()),
            scope: config.scope.into(),
            beacon_key: config.secret.derive("beacon"),
            hints: config.addresses.clone(),
            reach: config
                .reach
                .with_relays_of(&config.invitation.subject.rendezvous.relays)
                .shown_by(&config.key),
        };
        let (overlay, overlay_events) = Overlay::start(overlay)
            .await
            .map_err(|e| Fault::new(Code::Port, format!("no overlay could be opened: {e}")))?;
        let seeking = Seeking::start(&config, &session)?;
        overlay.expect_links(config.invitation.subject.parties.len() - 1);
        let now = clock::now();
        let waiting = Waiting {
            parties: Vec::new(),
            what: "",
            state: session.state(),
            since: now,
            next_report: now,
        };
        let gate = Gate::new(config.execution.start.clone());
        Ok(Self {
            config,
            session,
            overlay,
            overlay_events,
            seeking,
            sought: None,
            installed: None,
            running: None,
            desk,
            standing: Standing::new(now),
            _lock: lock,
            record,
            records,
            earlier,
            kept: None,
            events,
            waiting,
            gate,
            lost_link: None,
            stun: BTreeMap::new(),
            ports: None,
            serving: Serving::default(),
        })
    }

    /// Takes part until the session closes, then removes everything that was made for it.
    pub async fn run(mut self, mut stop: watch::Receiver<Stop>) -> Result<Outcome, Fault> {
        let outcome = self.drive(&mut stop).await;
        self.show_end(&outcome);
        self.show_record();
        self.uninstall().await;
        if let Some(seeking) = self.seeking.take() {
            seeking.stop().await;
        }
        if let Some(ports) = self.ports.take() {
            ports.stop().await;
        }
        std::mem::take(&mut self.serving).stop().await;
        self.overlay.stop().await;
        let cleaned = self.desk.close().await;
        let outcome = outcome?;
        cleaned?;
        show(&self.events, PartyEvent::Cleaned);
        Ok(outcome)
    }

    async fn drive(&mut self, stop: &mut watch::Receiver<Stop>) -> Result<Outcome, Fault> {
        if !self.gate.is_open() {
            self.session.hold_start();
        }
        self.session
            .join(clock::wall_millis(), clock::now())
            .map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
        self.report_lost_run();
        loop {
            if let Some(outcome) = self.drain().await? {
                return Ok(outcome);
            }
            self.seek();
            self.report_mesh(false);
            self.report_waiting();
            self.report_hold();
            self.report_standing();
            let input = self.next(stop).await;
            if let Some(outcome) = self.apply(input).await? {
                return Ok(outcome);
            }
        }
    }

    /// Does everything the core wants done; the outcome when it has closed.
    async fn drain(&mut self) -> Result<Option<Outcome>, Fault> {
        loop {
            let mut idle = true;
            while let Some((link, frame)) = self.session.poll_transmit() {
                idle = false;
                self.transmit(link, frame);
            }
            if let Some(event) = self.session.poll_event() {
                idle = false;
                if let Some(outcome) = self.obey(event).await? {
                    return Ok(Some(outcome));
                }
            }
            if idle {
                return Ok(None);
            }
        }
    }

    fn transmit(&mut self, link: LinkId, frame: Vec<u8>) {
        tracing::trace!(target: "quorate::frames", bytes = frame.len(), "sent");
        let stream = self.installed.as_ref().and_then(|i| i.streams.get(&link));
        let sent = match stream {
            Some((_, stream)) => stream.try_send(frame).is_ok(),
            None => self.overlay.send(link.0, frame),
        };
        if !sent {
            // The core announces what it holds again and again, so a lost frame heals.
            tracing::debug!(link = link.0, "a frame found no link or a full queue");
        }
    }

    async fn obey(&mut self, event: Event) -> Result<Option<Outcome>, Fault> {
        match event {
            Event::Resolve(did) => {
                self.session
                    .handle_resolved(&did, resolve(&did), clock::wall(), clock::now());
            }
            Event::Persist { token, record } => {
                let path = self.record.clone();
                let written =
                    tokio::task::spawn_blocking(move || write_atomic(&path, &record)).await;
                let ok = matches!(written, Ok(Ok(())));
                if let Ok(Err(fault)) = &written {
                    show(
                        &self.events,
                        PartyEvent::Note {
                            text: fault.to_string(),
                        },
                    );
                }
                self.session.handle_persisted(token, ok, clock::now());
            }
            Event::Keep { token, record } => {
                let ok = self.keep_record(*record).await;
                self.session.handle_persisted(token, ok, clock::now());
            }
            Event::State(state) => show(
                &self.events,
                PartyEvent::State {
                    state: format!("{state:?}").to_lowercase(),
                },
            ),
            Event::Party { pid, phase } => {
                self.stands_otherwise();
                self.note_links();
                self.note_identities();
                show(
                    &self.events,
                    PartyEvent::Party {
                        index: pid.0,
                        phase: format!("{phase:?}").to_lowercase(),
                    },
                );
            }
            Event::Peers { link, party, peers } => self.learn(link, party, peers),
            Event::Signal { from, data } => {
                if let Some(installed) = &self.installed {
                    installed.mesh.handle_signal(from.0, data);
                }
            }
            Event::Install(plan) => {
                if let Err(fault) = self.install(plan).await {
                    self.give_up(&fault, "its mesh could not be made");
                }
            }
            Event::Uninstall => self.uninstall().await,
            Event::Start => self.start_program().await?,
            Event::Refused {
                from, rejection, ..
            } => show(
                &self.events,
                PartyEvent::Refused {
                    code: rejection.code.as_str().into(),
                    detail: rejection.detail,
                    from: from.map(|did| did.to_string()),
                },
            ),
            Event::Evidence { pid, statements } => self.keep_evidence(pid, &statements),
            Event::CloseLink { link, ban } => self.close_link(link, ban),
            Event::Alarm(text) => tracing::error!(%text, "the session core raised an alarm"),
            Event::Closed(outcome) => return Ok(Some(outcome)),
        }
        Ok(None)
    }

    async fn install(&mut self, plan: Box<MeshPlan>) -> Result<(), Fault> {
        self.uninstall().await;
        let no_mesh = |e: &dyn std::fmt::Display| {
            Fault::new(Code::Port, format!("no mesh could be made: {e}"))
        };
        let reach = self.reach(&plan);
        let (mesh, mesh_events) = Mesh::start(mesh_config(&plan, self.config.scope, reach))
            .await
            .map_err(|e| no_mesh(&e))?;
        let mesh = Arc::new(mesh);
        let engine = self.config.invitation.subject.mpc.engine();
        let guard = Guard::listen(&mesh, &plan, engine.unwrap_or_default())?;
        let (sender, control_events) = mpsc::channel(CONTROL_QUEUE);
        let peers = plan.peers.iter().map(|p| p.pid.0);
        let control = ControlStreams::start(&mesh, plan.me.0, peers, plan.control_port, &sender);
        show(
            &self.events,
            PartyEvent::Roster {
                digest: plan.roster.to_string(),
            },
        );
        self.installed = Some(Installed {
            plan,
            mesh,
            mesh_events,
            control,
            control_events,
            streams: BTreeMap::new(),
            guard,
            announced: false,
            reported: false,
            since: clock::now(),
        });
        Ok(())
    }

    /// Stops the program and removes the mesh, in this order: no byte of the program may outlive it.
    async fn uninstall(&mut self) {
        self.lost_link = None;
        if let Some(running) = self.running.take() {
            running.supervisor.stop().await;
        }
        let Some(installed) = self.installed.take() else {
            return;
        };
        for link in installed.streams.keys() {
            self.session.handle_link_down(*link, clock::now());
        }
        installed.guard.stop().await;
        installed.control.stop().await;
        if let Ok(mesh) = Arc::try_unwrap(installed.mesh) {
            mesh.stop().await;
        } else {
            tracing::error!("the mesh is still in use after its tasks were stopped");
        }
    }

    async fn start_program(&mut self) -> Result<(), Fault> {
        let Some(installed) = self.installed.as_mut() else {
            return Err(Fault::new(
                Code::Internal,
                "the program was to start without a mesh",
            ));
        };
        let threshold = self.config.invitation.subject.mpc.t;
        let started = installed
            .guard
            .start_program(&self.config, self.desk.folder(), threshold)
            .await;
        match started {
            Ok((supervisor, events)) => {
                show(
                    &self.events,
                    PartyEvent::Program {
                        state: "started".into(),
                        run: self.session.runs(),
                    },
                );
                self.running = Some(Running {
                    supervisor,
                    events,
                    started: clock::now(),
                    finished: None,
                });
            }
            Err(fault) => self.give_up(&fault, "its program could not be started"),
        }
        Ok(())
    }

    fn close_link(&mut self, link: LinkId, ban: bool) {
        let stream = self
            .installed
            .as_mut()
            .and_then(|i| i.streams.remove(&link));
        // Without its sender a control stream ends by itself.
        if stream.is_none() && ban {
            self.overlay.close_link(link.0);
        } else if stream.is_none() {
            self.overlay.drop_link(link.0);
        }
    }

    /// This machine cannot go on: the others are told so, instead of waiting for it.
    fn give_up(&mut self, fault: &Fault, note: &str) {
        let (at, now, me) = (clock::wall(), clock::now(), self.session.me());
        show(
            &self.events,
            PartyEvent::Note {
                text: fault.to_string(),
            },
        );
        self.session.abort(fault.code, Some(me), note, at, now);
    }

    /// Waits for the next thing that happens.
    async fn next(&mut self, stop: &mut watch::Receiver<Stop>) -> Input {
        let core = self.session.poll_timeout().map(|(at, _)| at);
        let lost_link = self.lost_link.map(|(_, at)| at);
        let seeker = self.seeking.as_ref().and_then(Seeking::poll_timeout);
        let deadline = [core, lost_link, seeker].into_iter().flatten().min();
        let next_report = self.waiting.next_report.min(self.standing.next);
        let (mesh, control, guard) = match &mut self.installed {
            Some(i) => (
                Some(&mut i.mesh_events),
                Some(&mut i.control_events),
                Some(&mut i.guard.events),
            ),
            None => (None, None, None),
        };
        let program = self.running.as_mut().map(|r| &mut r.events);
        tokio::select! {
            event = self.overlay_events.recv() => Input::Overlay(event),
            event = recv(mesh) => Input::Mesh(event),
            Some(event) = recv(control) => Input::Control(event),
            Some(event) = recv(guard) => Input::Guard(event),
            Some(event) = recv(program) => Input::Program(event),
            Ok(()) = stop.changed() => Input::Stop(*stop.borrow_and_update()),
            Some(command) = self.desk.command() => Input::Command(command),
            Some(answer) = Seeking::answer(self.seeking.as_mut()) => Input::Answer(answer),
            () = Ports::changed(self.ports.as_mut()) => Input::Ports,
            started = self.serving.started() => Input::Relay(started),
            () = self.gate.opened() => Input::Release,
            () = sleep_until(deadline) => Input::Deadline,
            () = sleep_until(Some(next_report)) => Input::Heartbeat,
        }
    }

    async fn apply(&mut self, input: Input) -> Result<Option<Outcome>, Fault> {
        let (at, now) = (clock::wall(), clock::now());
        match input {
            Input::Overlay(Some(event)) => {
                self.on_overlay(event);
                self.note_links();
                self.note_identities();
            }
            Input::Overlay(None) => {
                return Err(Fault::new(Code::Internal, "the overlay ended by itself"));
            }
            Input::Mesh(Some(event)) => self.on_mesh(event),
            Input::Mesh(None) => {
                self.session.abort(
                    Code::Internal,
                    Some(self.session.me()),
                    "the mesh ended by itself",
                    at,
                    now,
                );
            }
            Input::Control(event) => self.on_control(event),
            Input::Guard(event) => self.on_guard(event),
            Input::Program(event) => self.on_program(event),
            Input::Stop(Stop::Now) => {
                if let Some(record) = self.session.record() {
                    self.keep_record(record).await;
                }
                return Ok(Some(interrupted(&self.session)));
            }
            Input::Stop(Stop::Gracefully) => {
                self.session.abort(
                    Code::Interrupted,
                    Some(self.session.me()),
                    "stopped by its user",
                    at,
                    now,
                );
            }
            Input::Command(command) => self.on_command(command, at, now),
            Input::Answer(answer) => self.on_answer(answer, at, now),
            Input::Ports => self.tell_addresses(),
            Input::Relay(started) => self.on_relay_started(started),
            Input::Release => self.release_start(),
            Input::Deadline => {
                self.session.handle_timeout(at, now);
                self.give_up_lost_link(at, now);
            }
            // What is due is reported before the next wait.
            Input::Heartbeat => self.give_up_unreachable(at, now),
            Input::Stop(Stop::No) => {}
        }
        Ok(None)
    }
}

/// The keys of a DID.
fn resolve(did: &Did) -> Result<ResolvedDid, Rejection> {
    DidKeyResolver.resolve(did).unwrap_or_else(|| {
        let text = format!("{did} cannot be resolved: only did:key is supported by this version");
        Err(Rejection::new(Code::DidResolve, "D3", text))
    })
}

/// The run folder and control socket, of the lobby before or new ones.
fn open_desk(config: &mut PartyConfig, me: Pid) -> Result<Control, Fault> {
    let mut status = SessionStatus::of(&config.name, &config.invitation, Some(me), clock::wall());
    status.log = config.log.as_ref().map(|log| log.display().to_string());
    match config.control.take() {
        Some(control) => {
            control.become_session(status)?;
            Ok(control)
        }
        None => Control::open(&config.home, status),
    }
}

/// The exclusive lock of one session in one home.
fn lock_session(path: &Path) -> Result<File, Fault> {
    let fault = |why: String| Fault::new(Code::State, format!("{}: {why}", path.display()));
    let lock = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|e| disk(path, "cannot be made", &e))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        // `quorate clean` may have removed the file between the two calls; then it locks nothing.
        Ok(()) if !is_at(&lock, path) => lock_session(path),
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(Fault::new(
            Code::AlreadyJoined,
            "this identity takes part in this session already, in another process",
        )
        .hint("wait for it, or stop it with Ctrl-C where it runs")),
        Err(e) => Err(fault(e.to_string())),
    }
}

/// Whether the open file is the one with this name.
fn is_at(open: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same =
        |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (open.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => same(&open, &named),
        _ => false,
    }
}

/// The record of an earlier start; a damaged one is put aside, and the clock's epoch takes over.
fn stored_record(
    record: &Path,
    events: &mpsc::Sender<PartyEvent>,
) -> Result<Option<Stored>, Fault> {
    let Some(bytes) = read_bounded(record, MAX_RECORD_BYTES)? else {
        return Ok(None);
    };
    if let Ok(stored) = Stored::parse(&bytes) {
        return Ok(Some(stored));
    }
    let aside = record.with_extension("damaged");
    std::fs::rename(record, &aside).map_err(|e| {
        Fault::new(
            Code::State,
            format!(
                "{} is damaged and cannot be put aside: {e}",
                record.display()
            ),
        )
    })?;
    let text = format!(
        "the record of this session was damaged; it is kept as {}",
        aside.display()
    );
    show(events, PartyEvent::Note { text });
    Ok(None)
}

/// Closes the record of a session that does not run here.
pub(super) fn note_cancelled(home: &Home, digest: Digest) -> Result<(), Fault> {
    let sessions = home.state().join("sessions");
    Home::ensure(&sessions)?;
    let _lock = lock_session(&sessions.join(format!("{digest}.lock")))?;
    let path = sessions.join(format!("{digest}.json"));
    let (quiet, _) = mpsc::channel(1);
    let mut stored = stored_record(&path, &quiet)?.unwrap_or_else(|| Stored::new(digest));
    stored.closed = Some(Closure::Cancelled);
    write_atomic(&path, &stored.encode())
}

fn new_session(
    config: &PartyConfig,
    record: &Path,
    earlier: Option<&Record>,
    events: &mpsc::Sender<PartyEvent>,
) -> Result<Session, Fault> {
    let stored = stored_record(record, events)?;
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| {
        Fault::new(
            Code::Internal,
            format!("the system's random generator failed: {e}"),
        )
    })?;
    let setup = Setup {
        invitation: config.invitation.clone(),
        secret: RendezvousSecret::new(*config.secret.as_bytes()),
        key: config.key.clone(),
        fingerprint: config.fingerprint.clone(),
        stored,
        seed: *seed,
    };
    let (at, now) = (clock::wall(), clock::now());
    let mut session = match earlier {
        Some(earlier) => Session::resume(setup, earlier, at, now)?,
        None => Session::new(setup, at, now)?,
    };
    if config.invitation.issuer == config.key.did() {
        // The invitation may say that we are to be found under it.
        session
            .use_overlay_secret(&config.secret.meeting(&config.key))
            .map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
    }
    Ok(session)
}

fn mesh_config(plan: &MeshPlan, scope: Scope, reach: Reach) -> MeshConfig {
    MeshConfig {
        me: plan.me.0,
        secret: plan.secret.clone(),
        address: plan.address,
        mtu: plan.mtu,
        scope: match scope {
            Scope::Local => quorate_path::Scope::Local,
            Scope::Lan => quorate_path::Scope::Lan,
        },
        peers: plan
            .peers
            .iter()
            .map(|p| MeshPeer {
                index: p.pid.0,
                public: p.public,
                psk: p.psk.clone(),
                address: p.address,
            })
            .collect(),
        reach,
    }
}

fn interrupted(session: &Session) -> Outcome {
    Outcome::Failed {
        code: Code::Interrupted,
        whom: Some(session.me()),
        detail: "stopped at once by its user".into(),
        receipts: Vec::new(),
    }
}

/// A full queue drops the event: showing never holds up the session.
fn show(events: &mpsc::Sender<PartyEvent>, event: PartyEvent) {
    let _ = events.try_send(event);
}

async fn recv<T>(receiver: Option<&mut mpsc::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
