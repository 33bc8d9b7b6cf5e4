//! The world: one clock, one queue of what happens next, and all parties.

mod network;
mod trouble;

use crate::{
    invariants::{Invariant, Monitor, Violation},
    liar::Outsider,
    node::Node,
    schedule::{FaultKind, Liar, Schedule},
    setting::{END_SECONDS, START_SECONDS, fingerprint, invitation_of, party_key, resolve, secret},
};
use chacha20::ChaCha20Rng;
use quorate_identity::{Digest, UnixMillis, Verified};
use quorate_session::{
    Event, Invitation, Outcome, PersistToken, Pid, ProgramReport, Record, Session, Setup, State,
    Stored,
};
use rand_core::{Rng, SeedableRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Index of the stranger among the ends of links.
const STRANGER: usize = usize::MAX;
/// Wait before a link that broke is dialled again.
const REDIAL_MS: u64 = 1000;
/// Dials of the stranger to each party.
const STRANGER_DIALS: u64 = 3;
/// Steps after which a run is taken for one that never ends.
const MAX_STEPS: u64 = 400_000;

/// What a run ended with.
#[derive(Debug)]
pub struct Report {
    /// Invariants that did not hold; the first of each kind.
    pub violations: Vec<Violation>,
    /// How each party ended, by position.
    pub outcomes: Vec<Option<Outcome>>,
    /// Hash over everything that happened, in order.
    pub hash: u64,
    /// How much happened.
    pub steps: u64,
    /// Events other than frames, for people.
    pub log: Vec<String>,
}

/// Something that is going to happen.
enum What {
    Start(usize),
    Wake(usize, u32),
    Dial(usize, usize),
    StrangerDials(usize, u64),
    Deliver {
        link: u64,
        to: usize,
        bytes: Vec<u8>,
    },
    Down {
        link: u64,
        end: usize,
        life: u32,
    },
    Persisted {
        node: usize,
        life: u32,
        token: PersistToken,
        record: Vec<u8>,
    },
    Kept {
        node: usize,
        life: u32,
        token: PersistToken,
        record: Box<Record>,
    },
    TunnelUp(usize, usize, Digest),
    MeshReady(usize, Digest),
    Exit(usize, u32, Digest),
    Fault(usize),
    Heal(usize),
    Flood(u64),
    LatestStart,
}

/// A connection that is up.
struct Wire {
    ends: (usize, usize),
    roster: Option<Digest>,
    /// When the last frame to each end arrives, to keep order.
    last_ms: (u64, u64),
}

impl Wire {
    fn other(&self, end: usize) -> usize {
        if self.ends.0 == end {
            self.ends.1
        } else {
            self.ends.0
        }
    }
}

struct World<'a> {
    schedule: &'a Schedule,
    prepare: &'a dyn Fn(&mut Session),
    rng: ChaCha20Rng,
    invitations: [Verified<Invitation>; 2],
    epoch: Instant,
    now_ms: u64,
    queue: BTreeMap<(u64, u64), What>,
    sequence: u64,
    nodes: Vec<Node>,
    wires: BTreeMap<u64, Wire>,
    next_link: u64,
    stranger: Outsider,
    cut_off: BTreeSet<Pid>,
    disk_full: BTreeSet<Pid>,
    slow_disk: BTreeMap<Pid, u64>,
    started: BTreeMap<Digest, BTreeSet<Pid>>,
    honest: BTreeSet<Pid>,
    monitor: Monitor,
    hash: u64,
    steps: u64,
    log: Vec<String>,
}

/// Runs a schedule; `prepare` sees every session before it joins (the tests weaken some there).
pub fn run(schedule: &Schedule, prepare: &dyn Fn(&mut Session)) -> Report {
    let mut world = World::new(schedule, prepare);
    world.plan();
    while let Some(((at_ms, _), what)) = world.queue.pop_first() {
        if world.is_over(at_ms) {
            break;
        }
        world.now_ms = at_ms;
        world.steps += 1;
        world.happen(what);
    }
    world.finish()
}

impl<'a> World<'a> {
    fn new(schedule: &'a Schedule, prepare: &'a dyn Fn(&mut Session)) -> Self {
        let mut nodes: Vec<Node> = (0..schedule.parties)
            .map(|pid| {
                let skew = schedule
                    .skew_seconds
                    .get(usize::from(pid))
                    .copied()
                    .unwrap_or(0);
                Node::new(pid, party_key(pid), skew)
            })
            .collect();
        match schedule.liar {
            Some(Liar::TwoInvitations) => {
                for node in &mut nodes {
                    node.other_invitation = node.pid.0 % 2 == 1;
                }
            }
            Some(Liar::Twins { party, .. }) => {
                nodes[usize::from(party)].honest = false;
                let mut twin = Node::new(
                    party,
                    party_key(party),
                    nodes[usize::from(party)].skew_seconds,
                );
                twin.honest = false;
                nodes.push(twin);
            }
            Some(Liar::Flooder { party } | Liar::ReadyGossip { party }) => {
                nodes[usize::from(party)].honest = false;
            }
            Some(Liar::Outsider) | None => {}
        }
        let honest = nodes
            .iter()
            .filter(|node| node.honest)
            .map(|node| node.pid)
            .collect();
        Self {
            schedule,
            prepare,
            rng: ChaCha20Rng::seed_from_u64(schedule.seed ^ 0x5eed),
            invitations: [
                invitation_of(schedule.parties, false),
                invitation_of(schedule.parties, true),
            ],
            epoch: Instant::now(),
            now_ms: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes,
            wires: BTreeMap::new(),
            next_link: 1,
            stranger: Outsider::new(),
            cut_off: BTreeSet::new(),
            disk_full: BTreeSet::new(),
            slow_disk: BTreeMap::new(),
            started: BTreeMap::new(),
            honest,
            monitor: Monitor::default(),
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            log: Vec::new(),
        }
    }

    /// Puts what the schedule says into the queue.
    fn plan(&mut self) {
        for index in 0..self.nodes.len() {
            let start_ms = self
                .schedule
                .start_ms
                .get(self.nodes[index].pid.index())
                .copied()
                .unwrap_or(0);
            self.later(start_ms, What::Start(index));
        }
        for (index, fault) in self.schedule.faults.iter().enumerate() {
            self.later(fault.at_ms, What::Fault(index));
            self.later(fault.heal_ms, What::Heal(index));
        }
        match self.schedule.liar {
            Some(Liar::Flooder { .. }) => {
                (0..20).for_each(|n| self.later(300 + n * 400, What::Flood(n * 10)));
            }
            Some(Liar::Outsider) => {
                (0..self.nodes.len())
                    .for_each(|node| self.later(200, What::StrangerDials(node, 0)));
            }
            _ => {}
        }
        self.later(
            u64::try_from(START_SECONDS + 30).unwrap_or(0) * 1000,
            What::LatestStart,
        );
    }

    fn later(&mut self, delay_ms: u64, what: What) {
        self.sequence += 1;
        self.queue
            .insert((self.now_ms + delay_ms, self.sequence), what);
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound.max(1)
    }

    fn now(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now_ms)
    }

    /// After the latest end, or when everybody is through.
    fn is_over(&self, at_ms: u64) -> bool {
        let end_ms = u64::try_from(END_SECONDS + 40).unwrap_or(0) * 1000;
        let healed = self
            .schedule
            .faults
            .iter()
            .all(|fault| fault.heal_ms < self.now_ms);
        let through = |node: &Node| node.outcome.is_some();
        at_ms > end_ms || self.steps > MAX_STEPS || (healed && self.nodes.iter().all(through))
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Start(index) => self.start(index),
            What::Wake(index, life) => self.wake(index, life),
            What::Dial(a, b) => self.dial(a, b),
            What::StrangerDials(index, count) => self.stranger_dials(index, count),
            What::Deliver { link, to, bytes } => self.deliver(link, to, &bytes),
            What::Down { link, end, life } => self.link_down(link, end, life),
            What::Persisted {
                node,
                life,
                token,
                record,
            } => self.persisted(node, life, token, record),
            What::Kept {
                node,
                life,
                token,
                record,
            } => self.kept(node, life, token, &record),
            What::TunnelUp(a, b, roster) => self.tunnel_up(a, b, roster),
            What::MeshReady(index, roster) => self.mesh_ready(index, roster),
            What::Exit(index, life, roster) => {
                if self.nodes[index].life == life && self.nodes[index].roster() == Some(roster) {
                    self.exit(index, 0);
                }
            }
            What::Fault(index) => self.fault(index),
            What::Heal(index) => self.heal(index),
            What::Flood(n) => self.flood(n),
            What::LatestStart => self.check_started(),
        }
        self.monitor.check_step(self.now_ms, &self.nodes);
    }

    fn start(&mut self, index: usize) {
        let pid = self.nodes[index].pid;
        let never = |fault: &crate::Fault| fault.what == FaultKind::NeverStarts { party: pid.0 };
        if self.nodes[index].session.is_some() {
            return;
        }
        if self.schedule.faults.iter().any(never) {
            self.nodes[index].outcome.get_or_insert(never_started());
            return;
        }
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let (now, now_ms) = (self.now(), self.now_ms);
        let node = &mut self.nodes[index];
        let setup = Setup {
            invitation: self.invitations[usize::from(node.other_invitation)].clone(),
            secret: secret(),
            key: node.key.clone(),
            fingerprint: fingerprint(),
            stored: node
                .record
                .as_deref()
                .and_then(|record| Stored::parse(record).ok()),
            seed,
        };
        let at = node.wall(now_ms);
        let session = match &node.kept {
            Some(record) => Session::resume(setup, record, at, now),
            None => Session::new(setup, at, now),
        };
        match session {
            Ok(mut session) => {
                (self.prepare)(&mut session);
                node.outcome = None;
                node.ready_sent = false;
                // A twin of another epoch starts a moment later.
                let second = matches!(
                    self.schedule.liar,
                    Some(Liar::Twins {
                        same_epoch: false,
                        ..
                    })
                ) && index >= usize::from(self.schedule.parties);
                let at_ms =
                    u64::try_from(at.0).unwrap_or(0) * 1000 + now_ms % 1000 + u64::from(second);
                if session.join(UnixMillis(at_ms), now).is_err() {
                    self.monitor.violated(
                        Invariant::NoAlarm,
                        now_ms,
                        "a fresh session cannot join",
                    );
                }
                node.session = Some(session);
                self.drive(index);
                for other in (0..self.nodes.len()).filter(|other| *other != index) {
                    let delay = self.below(300);
                    self.later(delay, What::Dial(index.min(other), index.max(other)));
                }
            }
            Err(rejection) => {
                self.record(&format!("{pid} cannot start: {rejection}"));
                self.nodes[index].outcome.get_or_insert(Outcome::Failed {
                    code: rejection.code,
                    whom: None,
                    detail: rejection.detail,
                    receipts: Vec::new(),
                });
            }
        }
    }

    fn wake(&mut self, index: usize, life: u32) {
        let (now, now_ms) = (self.now(), self.now_ms);
        let node = &mut self.nodes[index];
        if node.life != life || node.wake != Some(now_ms) {
            return;
        }
        node.wake = None;
        let at = node.wall(now_ms);
        let Some(session) = &mut node.session else {
            return;
        };
        if session.poll_timeout().is_some_and(|(due, _)| due <= now) {
            session.handle_timeout(at, now);
            if let Some((due, why)) = session.poll_timeout()
                && due <= now
            {
                self.monitor.violated(
                    Invariant::Progress,
                    now_ms,
                    format!("the timer for {why} is due for ever"),
                );
            }
        }
        self.drive(index);
    }

    /// Takes everything a session wants done, then looks when it wants to be woken.
    fn drive(&mut self, index: usize) {
        loop {
            let Some(session) = &mut self.nodes[index].session else {
                return;
            };
            if let Some(event) = session.poll_event() {
                self.event(index, event);
            } else if let Some((link, bytes)) = session.poll_transmit() {
                self.send(index, link, bytes);
            } else {
                break;
            }
        }
        self.monitor.check_node(self.now_ms, &self.nodes[index]);
        let timeout = self.nodes[index]
            .session
            .as_ref()
            .and_then(Session::poll_timeout);
        if let Some((due, _)) = timeout {
            // Rounded up: a timer never fires before it is due.
            let due_ms = due
                .saturating_duration_since(self.epoch)
                .as_micros()
                .div_ceil(1000);
            let due_ms = u64::try_from(due_ms)
                .unwrap_or(u64::MAX)
                .max(self.now_ms + 1);
            if self.nodes[index].wake.is_none_or(|wake| due_ms < wake) {
                self.nodes[index].wake = Some(due_ms);
                self.later(
                    due_ms - self.now_ms,
                    What::Wake(index, self.nodes[index].life),
                );
            }
        }
    }

    fn event(&mut self, index: usize, event: Event) {
        self.record(&format!("{}: {event:?}", self.nodes[index].pid));
        let (now, now_ms) = (self.now(), self.now_ms);
        let pid = self.nodes[index].pid;
        match event {
            Event::Resolve(did) => {
                let at = self.nodes[index].wall(now_ms);
                let answer = resolve(&did);
                if let Some(session) = &mut self.nodes[index].session {
                    session.handle_resolved(&did, answer, at, now);
                }
            }
            Event::Persist { token, record } => {
                let delay = match self.slow_disk.get(&pid) {
                    Some(heal_ms) => heal_ms.saturating_sub(now_ms),
                    None => self.below(20),
                };
                self.later(
                    delay,
                    What::Persisted {
                        node: index,
                        life: self.nodes[index].life,
                        token,
                        record,
                    },
                );
            }
            Event::Keep { token, record } => {
                let delay = match self.slow_disk.get(&pid) {
                    Some(heal_ms) => heal_ms.saturating_sub(now_ms),
                    None => self.below(20),
                };
                self.later(
                    delay,
                    What::Kept {
                        node: index,
                        life: self.nodes[index].life,
                        token,
                        record,
                    },
                );
            }
            Event::Install(plan) => {
                if self.nodes[index].honest {
                    self.monitor
                        .check_install(now_ms, pid, plan.roster, &self.honest);
                }
                self.drop_tunnels_of(index);
                let roster = plan.roster;
                self.nodes[index].mesh = Some(*plan);
                self.nodes[index].ready_sent = false;
                for other in (0..self.nodes.len()).filter(|other| *other != index) {
                    let delay = 20 + self.below(1500);
                    self.later(
                        delay,
                        What::TunnelUp(index.min(other), index.max(other), roster),
                    );
                }
            }
            Event::Uninstall => {
                self.nodes[index].mesh = None;
                self.nodes[index].program = false;
                self.drop_tunnels_of(index);
            }
            Event::Start => self.program_starts(index),
            Event::CloseLink { link, .. } => self.cut(link.0, Some(index)),
            Event::Alarm(text) => {
                self.monitor
                    .violated(Invariant::NoAlarm, now_ms, format!("{pid}: {text}"));
            }
            Event::Closed(outcome) => {
                self.nodes[index].outcome = Some(outcome);
                // The driver takes the overlay down with the session, after the last frames went out.
                for link in self.wires_of(index) {
                    self.later(
                        100,
                        What::Down {
                            link,
                            end: index,
                            life: self.nodes[index].life,
                        },
                    );
                }
            }
            Event::State(_)
            | Event::Party { .. }
            | Event::Signal { .. }
            | Event::Peers { .. }
            | Event::Refused { .. }
            | Event::Evidence { .. } => {}
        }
    }

    fn program_starts(&mut self, index: usize) {
        let pid = self.nodes[index].pid;
        let Some(roster) = self.nodes[index].roster() else {
            self.monitor.violated(
                Invariant::Barrier,
                self.now_ms,
                format!("{pid} starts without a mesh"),
            );
            return;
        };
        if self.nodes[index].honest {
            self.monitor
                .check_start(self.now_ms, pid, roster, &self.honest);
        }
        self.nodes[index].program = true;
        let started = self.started.entry(roster).or_default();
        started.insert(pid);
        if started.len() < usize::from(self.schedule.parties) {
            return;
        }
        // A multiparty program ends for all at about the same time.
        for other in 0..self.nodes.len() {
            if self.nodes[other].roster() == Some(roster) {
                let delay = self.schedule.program_ms + self.below(300);
                self.later(delay, What::Exit(other, self.nodes[other].life, roster));
            }
        }
    }

    fn exit(&mut self, index: usize, code: i32) {
        let (now, now_ms) = (self.now(), self.now_ms);
        let node = &mut self.nodes[index];
        if !std::mem::take(&mut node.program) {
            return;
        }
        let at = node.wall(now_ms);
        let report = ProgramReport::Exited {
            code,
            signal: None,
            bytes_sent: None,
            elapsed_ms: 0,
            note: String::new(),
        };
        if let Some(session) = &mut node.session {
            session.handle_program(report, at, now);
        }
        self.drive(index);
    }

    fn persisted(&mut self, index: usize, life: u32, token: PersistToken, record: Vec<u8>) {
        let now = self.now();
        let node = &mut self.nodes[index];
        if node.life != life {
            return;
        }
        let ok = !self.disk_full.contains(&node.pid);
        if ok {
            if let Ok(Stored {
                roster: Some(roster),
                ..
            }) = Stored::parse(&record)
            {
                self.monitor.note_stored(roster, node.pid);
            }
            node.record = Some(record);
        }
        if let Some(session) = &mut node.session {
            session.handle_persisted(token, ok, now);
        }
        self.drive(index);
    }

    fn kept(&mut self, index: usize, life: u32, token: PersistToken, record: &Record) {
        let now = self.now();
        let node = &mut self.nodes[index];
        if node.life != life {
            return;
        }
        let ok = !self.disk_full.contains(&node.pid);
        if ok {
            let merged = match &node.kept {
                Some(known) => known.merge(record),
                None => record.verify().map(|_| record.clone()),
            };
            match merged {
                Ok(merged) => node.kept = Some(merged),
                Err(rejection) if node.honest => {
                    let text = format!("{} made a record that is refused: {rejection}", node.pid);
                    self.monitor.violated(Invariant::NoAlarm, self.now_ms, text);
                }
                Err(_) => {}
            }
        }
        if let Some(session) = &mut self.nodes[index].session {
            session.handle_persisted(token, ok, now);
        }
        self.drive(index);
    }

    fn check_started(&mut self) {
        let stuck = |node: &&Node| {
            let state = node.session.as_ref().map(Session::state);
            node.honest && state.is_some_and(|state| state < State::Running)
        };
        if let Some(node) = self.nodes.iter().find(stuck) {
            let text = format!(
                "{} neither runs nor is closed after the latest start",
                node.pid
            );
            self.monitor
                .violated(Invariant::Progress, self.now_ms, text);
        }
    }

    fn finish(mut self) -> Report {
        let now_ms = self.now_ms;
        if self.steps > MAX_STEPS {
            self.monitor.violated(
                Invariant::Progress,
                now_ms,
                "the run does not come to an end",
            );
        }
        for node in self
            .nodes
            .iter()
            .filter(|node| node.honest && node.session.is_some())
        {
            if node.outcome.is_none() {
                let text = format!("{} is not closed after the latest end", node.pid);
                self.monitor.violated(Invariant::Progress, now_ms, text);
            }
        }
        if self.schedule.must_finish() {
            let done = |node: &&Node| matches!(&node.outcome, Some(Outcome::Finished { .. }));
            if let Some(node) = self.nodes.iter().find(|node| !done(node)) {
                let text = format!(
                    "{} did not finish although nothing went wrong: {:?}",
                    node.pid, node.outcome
                );
                self.monitor.violated(Invariant::Progress, now_ms, text);
            }
        }
        Report {
            violations: self.monitor.violations,
            outcomes: self.nodes.into_iter().map(|node| node.outcome).collect(),
            hash: self.hash,
            steps: self.steps,
            log: self.log,
        }
    }

    fn record(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.mix(u64::from(byte)));
        self.log.push(format!("{:>7} {text}", self.now_ms));
    }

    /// FNV-1a over words: enough to tell two runs apart.
    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3);
    }
}

fn never_started() -> Outcome {
    Outcome::Failed {
        code: quorate_identity::Code::Missing,
        whom: None,
        detail: "never started".into(),
        receipts: Vec::new(),
    }
}
