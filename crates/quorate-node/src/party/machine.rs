//! The loop: one input, drain the core, sleep.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use quorate_identity::{Code, DidKeyResolver, Resolver};
use quorate_session::{
    Event, LinkId, LinkKind, MeshPlan, Outcome, PeerId, Pid, ProgramReport, RendezvousSecret,
    Session, Setup, State, limits::MAX_VALIDITY_SECONDS,
};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use super::{
    LinkReport, PartyConfig, PartyEvent, Scope, SharedMesh, Stop, clock,
    control::{ControlEvent, ControlStreams},
    program::Guard,
};
use crate::{
    Fault,
    attach::{GuardEvent, Refusal},
    files::{Home, RunFolder, read_bounded, write_atomic},
    overlay::{Overlay, OverlayConfig, OverlayEvent},
    program::supervisor::{ProgramEvent, Supervisor},
    wireguard::{Mesh, MeshConfig, MeshEvent, MeshPeer},
};

/// Largest record of a session that is read back, in bytes.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// How often a wait is reported again while nothing changes.
const WAITING_INTERVAL: Duration = Duration::from_secs(30);
/// The word for a path that this end has not chosen yet, although the other end may use one.
const DOWN: &str = "down";
/// Events of control streams that may wait for the loop.
const CONTROL_QUEUE: usize = 256;

/// One party in one session.
pub(super) struct Machine {
    config: PartyConfig,
    session: Session,
    overlay: Overlay,
    overlay_events: mpsc::Receiver<OverlayEvent>,
    installed: Option<Installed>,
    running: Option<Running>,
    folder: RunFolder,
    record: PathBuf,
    events: mpsc::Sender<PartyEvent>,
    waiting: Waiting,
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
    Deadline,
    Heartbeat,
}

impl Machine {
    /// Checks everything that can be checked alone, then opens the overlay. Nothing is sent when a
    /// check fails.
    pub async fn start(
        config: PartyConfig,
        events: mpsc::Sender<PartyEvent>,
    ) -> Result<Self, Fault> {
        let sessions = config.home.state().join("sessions");
        Home::ensure(&sessions)?;
        forget_old_records(&sessions);
        let record = sessions.join(format!("{}.json", config.invitation.digest()));
        let session = new_session(&config, &record)?;
        let folder = RunFolder::create(&config.home, "join")?;
        let overlay = OverlayConfig {
            secret: Zeroizing::new(*session.overlay_secret()),
            scope: match config.scope {
                Scope::Local => crate::overlay::Scope::Local,
                Scope::Lan => crate::overlay::Scope::Lan,
            },
            beacon_key: config.secret.derive("beacon"),
            hints: config.addresses.clone(),
        };
        let (overlay, overlay_events) = Overlay::start(overlay)
            .await
            .map_err(|e| Fault::new(Code::Port, format!("no overlay could be opened: {e}")))?;
        overlay.expect_links(config.invitation.subject.parties.len() - 1);
        let now = clock::now();
        let waiting = Waiting {
            parties: Vec::new(),
            state: session.state(),
            since: now,
            next_report: now,
        };
        Ok(Self {
            config,
            session,
            overlay,
            overlay_events,
            installed: None,
            running: None,
            folder,
            record,
            events,
            waiting,
        })
    }

    /// Takes part until the session closes, then removes everything that was made for it.
    pub async fn run(mut self, mut stop: watch::Receiver<Stop>) -> Result<Outcome, Fault> {
        let outcome = self.drive(&mut stop).await;
        self.uninstall().await;
        self.overlay.stop().await;
        let removed = self.folder.remove();
        let outcome = outcome?;
        removed?;
        show(&self.events, PartyEvent::Cleaned);
        Ok(outcome)
    }

    async fn drive(&mut self, stop: &mut watch::Receiver<Stop>) -> Result<Outcome, Fault> {
        self.session
            .join(clock::wall_millis(), clock::now())
            .map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
        loop {
            if let Some(outcome) = self.drain().await? {
                return Ok(outcome);
            }
            self.report_mesh(false);
            self.report_waiting();
            let input = self.next(stop).await;
            if let Some(outcome) = self.apply(input)? {
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
                let answer = DidKeyResolver.resolve(&did).unwrap_or_else(|| {
                    Err(quorate_identity::Rejection::new(
                        Code::DidResolve,
                        "D3",
                        format!(
                            "{did} cannot be resolved: only did:key is supported by this version"
                        ),
                    ))
                });
                self.session
                    .handle_resolved(&did, answer, clock::wall(), clock::now());
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
            Event::State(state) => show(
                &self.events,
                PartyEvent::State {
                    state: format!("{state:?}").to_lowercase(),
                },
            ),
            Event::Party { pid, phase } => {
                show(
                    &self.events,
                    PartyEvent::Party {
                        index: pid.0,
                        phase: format!("{phase:?}").to_lowercase(),
                    },
                );
            }
            Event::Signal { from, data } => {
                if let Some(installed) = &self.installed {
                    installed.mesh.handle_signal(from.0, data);
                }
            }
            Event::Install(plan) => self.install(plan).await?,
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
            Event::CloseLink(link) => self.close_link(link),
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
        let (mesh, mesh_events) = Mesh::start(mesh_config(&plan, self.config.scope))
            .await
            .map_err(|e| no_mesh(&e))?;
        let mesh = Arc::new(mesh);
        let guard = Guard::listen(&mesh, &plan)?;
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
        });
        Ok(())
    }

    /// Stops the program and removes the mesh, in this order: no byte of the program may outlive it.
    async fn uninstall(&mut self) {
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
            .start_program(&self.config, &self.folder, threshold)
            .await;
        match started {
            Ok((supervisor, events)) => {
                show(
                    &self.events,
                    PartyEvent::Program {
                        state: "started".into(),
                    },
                );
                self.running = Some(Running {
                    supervisor,
                    events,
                    started: clock::now(),
                    finished: None,
                });
            }
            Err(fault) => {
                show(
                    &self.events,
                    PartyEvent::Note {
                        text: fault.to_string(),
                    },
                );
                self.session.abort(
                    fault.code,
                    Some(self.session.me()),
                    "the program could not be started",
                    clock::wall(),
                    clock::now(),
                );
            }
        }
        Ok(())
    }

    fn close_link(&mut self, link: LinkId) {
        let stream = self
            .installed
            .as_mut()
            .and_then(|i| i.streams.remove(&link));
        // Without its sender a control stream ends by itself.
        if stream.is_none() {
            self.overlay.close_link(link.0);
        }
    }

    /// Two contradicting statements of one signer are proof; they are kept for people to look at.
    fn keep_evidence(&self, pid: Pid, statements: &[String; 2]) {
        let folder = self.config.home.state().join("rejected");
        let file = folder.join(format!(
            "{}-party-{pid}.jws",
            self.config.invitation.digest()
        ));
        let kept = Home::ensure(&folder)
            .and_then(|()| write_atomic(&file, statements.join("\n").as_bytes()));
        let event = match kept {
            Ok(()) => PartyEvent::Evidence {
                file: file.display().to_string(),
            },
            Err(fault) => PartyEvent::Note {
                text: fault.to_string(),
            },
        };
        show(&self.events, event);
    }

    /// Shows the mesh once, as soon as every round trip is known, or at the latest when the program
    /// is connected over it.
    fn report_mesh(&mut self, at_the_latest: bool) {
        let Some(installed) = self.installed.as_mut().filter(|i| !i.reported) else {
            return;
        };
        let session = &self.session;
        let peers = &installed.plan.peers;
        let paths = installed.mesh.links();
        let unknown = paths.iter().any(|l| l.path == DOWN)
            || peers.iter().any(|p| session.rtt(p.pid).is_none());
        if unknown && !at_the_latest {
            return;
        }
        installed.reported = true;
        let path = |index| {
            paths
                .iter()
                .find(|l| l.index == index)
                .map_or_else(String::new, |l| l.path.clone())
        };
        let micros = |rtt: Duration| u64::try_from(rtt.as_micros()).ok();
        let links = peers.iter().map(|peer| LinkReport {
            index: peer.pid.0,
            path: path(peer.pid.0),
            rtt_us: session.rtt(peer.pid).and_then(micros),
        });
        show(
            &self.events,
            PartyEvent::Mesh {
                links: links.collect(),
            },
        );
    }

    /// Waits for the next thing that happens.
    async fn next(&mut self, stop: &mut watch::Receiver<Stop>) -> Input {
        let deadline = self.session.poll_timeout().map(|(at, _)| at);
        let next_report = self.waiting.next_report;
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
            () = sleep_until(deadline) => Input::Deadline,
            () = sleep_until(Some(next_report)) => Input::Heartbeat,
        }
    }

    fn apply(&mut self, input: Input) -> Result<Option<Outcome>, Fault> {
        let (at, now) = (clock::wall(), clock::now());
        match input {
            Input::Overlay(Some(event)) => self.on_overlay(event),
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
            Input::Stop(Stop::Now) => return Ok(Some(interrupted(&self.session))),
            Input::Stop(Stop::Gracefully) => {
                self.session.abort(
                    Code::Interrupted,
                    Some(self.session.me()),
                    "stopped by its user",
                    at,
                    now,
                );
            }
            Input::Stop(Stop::No) => {}
            Input::Deadline => self.session.handle_timeout(at, now),
            Input::Heartbeat => self.waiting.next_report = now,
        }
        Ok(None)
    }

    fn on_overlay(&mut self, event: OverlayEvent) {
        let (at, now) = (clock::wall(), clock::now());
        match event {
            OverlayEvent::LinkUp { link, peer, .. } => match peer.parse::<PeerId>() {
                Ok(remote) => {
                    let kind = LinkKind::Overlay {
                        local: self.session.peer_id(),
                        remote,
                    };
                    self.session.handle_link_up(LinkId(link), kind, at, now);
                }
                Err(_) => self.overlay.close_link(link),
            },
            OverlayEvent::Frame { link, bytes } => {
                self.session.handle_message(LinkId(link), &bytes, at, now);
            }
            OverlayEvent::LinkDown { link } => self.session.handle_link_down(LinkId(link), now),
            OverlayEvent::Listening { .. } => {
                show(
                    &self.events,
                    PartyEvent::Listening {
                        addresses: self.overlay.addresses(),
                    },
                );
            }
            OverlayEvent::Note(text) => show(&self.events, PartyEvent::Note { text }),
        }
    }

    fn on_mesh(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Signal { to, data } => self.session.signal(Pid(to), data, clock::now()),
            MeshEvent::Path {
                index,
                path,
                reason,
            } => show(
                &self.events,
                PartyEvent::Path {
                    index,
                    path: path.to_string(),
                    reason: reason.to_string(),
                },
            ),
            // The control stream over it says more.
            MeshEvent::Up { .. } => {}
            MeshEvent::Fatal(why) => {
                tracing::error!(%why, "the mesh failed");
                let me = self.session.me();
                self.session.abort(
                    Code::Internal,
                    Some(me),
                    "its mesh failed",
                    clock::wall(),
                    clock::now(),
                );
            }
        }
    }

    fn on_control(&mut self, event: ControlEvent) {
        let (at, now) = (clock::wall(), clock::now());
        let Some(installed) = self.installed.as_mut() else {
            return;
        };
        match event {
            ControlEvent::Up {
                link,
                peer,
                outgoing,
            } => {
                installed.streams.insert(link, (peer, outgoing));
                let kind = LinkKind::Tunnel {
                    roster: installed.plan.roster,
                    pid: Pid(peer),
                };
                self.session.handle_link_up(link, kind, at, now);
                let reached = |pid: Pid| installed.streams.values().any(|(peer, _)| *peer == pid.0);
                if !installed.announced && installed.plan.peers.iter().all(|p| reached(p.pid)) {
                    installed.announced = true;
                    self.session
                        .handle_mesh_ready(installed.plan.roster, at, now);
                }
            }
            ControlEvent::Frame { link, bytes } => {
                self.session.handle_message(link, &bytes, at, now);
            }
            ControlEvent::Down { link } => {
                installed.streams.remove(&link);
                self.session.handle_link_down(link, now);
            }
        }
    }

    fn on_guard(&mut self, event: GuardEvent) {
        let (at, now) = (clock::wall(), clock::now());
        match event {
            GuardEvent::Spoof { peer, claimed } => {
                let note = format!("the program of party {peer} claimed to be party {claimed}");
                self.session
                    .abort(Code::PidSpoof, Some(Pid(peer)), &note, at, now);
            }
            GuardEvent::OwnProgram { claimed, .. } => {
                let me = self.session.me();
                let note = format!("its program claimed to be party {claimed}");
                self.session.abort(Code::PidSpoof, Some(me), &note, at, now);
            }
            // Each link is for one connection: once it is used up the run cannot go on.
            GuardEvent::Refused {
                peer,
                why: why @ (Refusal::Silent(_) | Refusal::NotReached(_)),
            } => {
                self.session
                    .abort(why.code(), Some(Pid(peer)), &why.to_string(), at, now);
            }
            GuardEvent::Refused { peer, why } => show(
                &self.events,
                PartyEvent::Refused {
                    code: why.code().as_str().into(),
                    detail: why.to_string(),
                    from: Some(format!("party {peer}")),
                },
            ),
            GuardEvent::Connected { .. } | GuardEvent::Closed { .. } => {}
        }
    }

    fn on_program(&mut self, event: ProgramEvent) {
        let (at, now) = (clock::wall(), clock::now());
        self.report_mesh(matches!(event, ProgramEvent::Exit { .. }));
        let Some(running) = self.running.as_mut() else {
            return;
        };
        match event {
            ProgramEvent::Connected { .. } => {
                show(
                    &self.events,
                    PartyEvent::Program {
                        state: "connected".into(),
                    },
                );
                self.session
                    .handle_program(ProgramReport::Connected, at, now);
            }
            ProgramEvent::Finished {
                elapsed,
                bytes_sent,
            } => {
                running.finished = Some((elapsed, bytes_sent));
                let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
                show(
                    &self.events,
                    PartyEvent::Finished {
                        elapsed_ms,
                        bytes_sent,
                    },
                );
            }
            ProgramEvent::Exit { code, signal } => {
                let elapsed = running
                    .finished
                    .map_or_else(|| now - running.started, |(elapsed, _)| elapsed);
                let report = ProgramReport::Exited {
                    code: code.unwrap_or_else(|| 128 + signal.unwrap_or(0)),
                    signal,
                    bytes_sent: running.finished.map(|(_, bytes)| bytes),
                    elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                    // What the program wrote may hold private data: only how it ended is told.
                    note: match (code, signal) {
                        (Some(code), _) => format!("exit {code}"),
                        (None, Some(signal)) => format!("killed by signal {signal}"),
                        (None, None) => "ended in an unknown way".into(),
                    },
                };
                self.running = None;
                self.session.handle_program(report, at, now);
            }
        }
    }

    /// Tells who is waited for: when that changes, and every [`WAITING_INTERVAL`].
    fn report_waiting(&mut self) {
        let now = clock::now();
        let state = self.session.state();
        let views = self.session.parties();
        let parties: Vec<u16> = views
            .iter()
            .filter(|p| p.waiting_for.is_some())
            .map(|p| p.pid.0)
            .collect();
        if state != self.waiting.state || parties != self.waiting.parties {
            self.waiting = Waiting {
                parties,
                state,
                since: now,
                next_report: now,
            };
        }
        if now < self.waiting.next_report {
            return;
        }
        self.waiting.next_report = now + WAITING_INTERVAL;
        if !self.waiting.parties.is_empty() {
            show(
                &self.events,
                PartyEvent::Waiting {
                    parties: self.waiting.parties.clone(),
                    what: views
                        .iter()
                        .find_map(|p| p.waiting_for)
                        .unwrap_or_default()
                        .into(),
                    seconds: (now - self.waiting.since).as_secs(),
                },
            );
        }
    }
}

fn new_session(config: &PartyConfig, record: &std::path::Path) -> Result<Session, Fault> {
    let stored = read_bounded(record, MAX_RECORD_BYTES)?;
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
        stored: stored
            .map(|bytes| quorate_session::Stored::parse(&bytes))
            .transpose()?,
        seed: *seed,
    };
    Ok(Session::new(setup, clock::wall(), clock::now())?)
}

fn mesh_config(plan: &MeshPlan, scope: Scope) -> MeshConfig {
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

/// Removes records of sessions whose invitation cannot be valid any more.
fn forget_old_records(folder: &std::path::Path) {
    let lifetime = Duration::from_secs(MAX_VALIDITY_SECONDS.unsigned_abs() + 86_400);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|m| m.modified()).ok();
        let age = modified.and_then(|m| m.elapsed().ok()).unwrap_or_default();
        if age > lifetime {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
