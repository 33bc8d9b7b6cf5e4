//! A table of parties for scenario tests: real sessions, an in-memory network without loss, and full control over what is
//! delivered, stored, resolved and when time passes.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test binaries"
)]

mod outsider;

pub use outsider::*;

use quorate_identity::{
    B64, Code, Did, DidKeyResolver, Digest, Rejection, Resolver, SigningKey, Statement, UnixMillis,
    UnixTime, Unverified, Verified, sign,
};
use quorate_session::{
    ContentDigest, Event, Fingerprint, Frame, Invitation, InvitationDraft, LinkId, LinkKind,
    MeshPlan, Outcome, PartyDraft, PeerAt, PersistToken, Phase, Pid, ProgramReport, Record,
    RendezvousSecret, Session, Setup, State, Stored, hello_tag,
    message::{
        Confirm, Hello, JOIN_KEM, Join, KemKey, Program, SameController, Times,
        peer_signature_input,
    },
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};
use x_wing::{Decapsulator, KeyExport};

pub const START: i64 = 1_795_348_800;

pub fn key(index: usize) -> SigningKey {
    SigningKey::from_seed(&[u8::try_from(index).unwrap() + 1; 32])
}

pub fn secret() -> RendezvousSecret {
    RendezvousSecret::new([0x5e; 32])
}

pub fn fingerprint() -> Fingerprint {
    Fingerprint {
        quorate: "0.1.0".into(),
        mpyc: "0.11".into(),
        python: "3.12.7".into(),
        word: 64,
        program: ContentDigest::of(b"program"),
        env: None,
    }
}

pub fn draft(m: usize) -> InvitationDraft {
    let at = UnixTime(START);
    InvitationDraft {
        issuer: key(0).did(),
        title: "Income 2026".into(),
        purpose: String::new(),
        supersedes: None,
        parties: (0..m)
            .map(|i| PartyDraft {
                did: key(i).did(),
                name: format!("party-{i}"),
                keys: vec![key(i).public().thumbprint()],
            })
            .collect(),
        threshold: None,
        zero_threshold: false,
        prss: None,
        program: Program {
            manifest: ContentDigest::of(b"program"),
            entry: "main.py".into(),
            args: vec!["--year".into(), "2026".into()],
            env: None,
        },
        engine: quorate_session::message::Engine::Mpyc,
        mpyc: String::new(),
        python: "3.12".into(),
        word: 64,
        port: 11365,
        valid_from: at,
        valid_until: at.plus_seconds(7200),
        time: Times {
            join_by: at.plus_seconds(600),
            start_by: at.plus_seconds(900),
            end_by: at.plus_seconds(3600),
        },
        relays: Vec::new(),
        path: quorate_session::message::PathPolicy::Any,
        same_controller: SameController::Refuse,
        rejoin: 3,
    }
}

pub fn invitation_of(draft: InvitationDraft) -> Verified<Invitation> {
    sign(
        draft.build([7; 16], [0x51; 32], &secret()).unwrap(),
        &key(0),
    )
    .unwrap()
}

pub fn invitation(m: usize) -> Verified<Invitation> {
    invitation_of(draft(m))
}

pub fn setup(
    invitation: &Verified<Invitation>,
    index: usize,
    stored: Option<Stored>,
    seed: u8,
) -> Setup {
    Setup {
        invitation: invitation.clone(),
        secret: secret(),
        key: key(index),
        fingerprint: fingerprint(),
        stored,
        seed: [seed; 32],
    }
}

/// What one seat saw.
#[derive(Default)]
pub struct Seen {
    pub states: Vec<State>,
    pub refused: Vec<(Option<Did>, Code, String)>,
    /// The same with their rules.
    pub rejections: Vec<Rejection>,
    pub closed_links: Vec<LinkId>,
    /// Those of them whose other end is to blame.
    pub banned: Vec<LinkId>,
    pub persists: VecDeque<(PersistToken, Vec<u8>)>,
    pub keeps: VecDeque<(PersistToken, Record)>,
    pub resolves: VecDeque<Did>,
    pub signals: Vec<(Pid, Vec<u8>)>,
    pub peers: Vec<PeerAt>,
    pub mesh: Option<MeshPlan>,
    pub installs: usize,
    pub uninstalls: usize,
    pub starts: usize,
    pub outcome: Option<Outcome>,
    pub alarms: Vec<String>,
    pub evidence: Vec<[String; 2]>,
    pub phases: Vec<(Pid, Phase)>,
    /// Names of what happened, in order: for tests of ordering.
    pub order: Vec<String>,
}

#[allow(clippy::struct_excessive_bools, reason = "switches of a test")]
pub struct Seat {
    pub session: Session,
    pub seen: Seen,
    pub last_record: Option<Vec<u8>>,
    /// The record that was kept last.
    pub kept: Option<Record>,
    pub auto_keep: bool,
    pub auto_persist: bool,
    pub auto_resolve: bool,
    pub auto_mesh: bool,
    pub alive: bool,
}

/// Decides about one frame on its way: from, to, frame.
pub type Filter = Box<dyn FnMut(usize, usize, &Frame) -> bool>;

pub struct Table {
    pub now: Instant,
    pub at: UnixTime,
    pub seats: Vec<Seat>,
    /// Link id, the same at both ends: (a, b).
    pub wires: BTreeMap<u64, (usize, usize)>,
    pub in_flight: VecDeque<(u64, usize, Vec<u8>)>,
    pub filter: Filter,
    next_link: u64,
    elapsed: Duration,
}

impl Table {
    /// `m` parties who approved, each linked to each, nothing delivered yet.
    pub fn new(m: usize) -> Self {
        Self::with(&invitation(m), m)
    }

    pub fn with(invitation: &Verified<Invitation>, m: usize) -> Self {
        let mut table = Self::empty();
        for index in 0..m {
            table.seat(setup(
                invitation,
                index,
                None,
                0x10 + u8::try_from(index).unwrap(),
            ));
        }
        for a in 0..m {
            for b in a + 1..m {
                table.link(a, b);
            }
        }
        for index in 0..m {
            table.join(index);
        }
        table
    }

    pub fn empty() -> Self {
        Self {
            now: Instant::now(),
            at: UnixTime(START),
            seats: Vec::new(),
            wires: BTreeMap::new(),
            in_flight: VecDeque::new(),
            filter: Box::new(|_, _, _| true),
            next_link: 1,
            elapsed: Duration::ZERO,
        }
    }

    pub fn seat(&mut self, setup: Setup) -> usize {
        let session = Session::new(setup, self.at, self.now).unwrap();
        self.take_seat(session)
    }

    /// A party that comes back with the record it kept.
    pub fn seat_again(&mut self, setup: Setup, record: &Record) -> usize {
        let session = Session::resume(setup, record, self.at, self.now).unwrap();
        self.take_seat(session)
    }

    fn take_seat(&mut self, session: Session) -> usize {
        self.seats.push(Seat {
            session,
            seen: Seen::default(),
            last_record: None,
            kept: None,
            auto_keep: true,
            auto_persist: true,
            auto_resolve: true,
            auto_mesh: true,
            alive: true,
        });
        self.seats.len() - 1
    }

    pub fn join(&mut self, index: usize) {
        let at =
            UnixMillis(u64::try_from(self.at.0).unwrap() * 1000 + u64::try_from(index).unwrap());
        self.seats[index].session.join(at, self.now).unwrap();
        self.drain(index);
    }

    pub fn link(&mut self, a: usize, b: usize) -> LinkId {
        let link = self.new_wire(a, b);
        let (pa, pb) = (
            self.seats[a].session.peer_id(),
            self.seats[b].session.peer_id(),
        );
        for (end, local, remote) in [(a, pa, pb), (b, pb, pa)] {
            let kind = LinkKind::Overlay { local, remote };
            self.seats[end]
                .session
                .handle_link_up(link, kind, self.at, self.now);
            self.drain(end);
        }
        link
    }

    fn new_wire(&mut self, a: usize, b: usize) -> LinkId {
        let id = self.next_link;
        self.next_link += 1;
        self.wires.insert(id, (a, b));
        LinkId(id)
    }

    /// Kills a party: its links go down, nothing of it is delivered any more.
    pub fn kill(&mut self, index: usize) -> Option<Stored> {
        self.seats[index].alive = false;
        let links: Vec<u64> = self
            .wires
            .iter()
            .filter(|(_, (a, b))| *a == index || *b == index)
            .map(|(l, _)| *l)
            .collect();
        for link in links {
            self.cut(link);
        }
        self.seats[index]
            .last_record
            .as_deref()
            .map(|record| Stored::parse(record).unwrap())
    }

    pub fn cut(&mut self, link: u64) {
        let Some((a, b)) = self.wires.remove(&link) else {
            return;
        };
        self.in_flight.retain(|(id, _, _)| *id != link);
        for end in [a, b] {
            if self.seats[end].alive {
                self.seats[end]
                    .session
                    .handle_link_down(LinkId(link), self.now);
                self.drain(end);
            }
        }
    }

    pub fn cut_tunnels(&mut self) {
        let tunnels: Vec<u64> = self
            .wires
            .keys()
            .copied()
            .filter(|link| *link >= 1 << 32)
            .collect();
        for link in tunnels {
            self.cut(link);
        }
    }

    /// Takes everything a session wants done.
    pub fn drain(&mut self, index: usize) {
        loop {
            let seat = &mut self.seats[index];
            let Some(event) = seat.session.poll_event() else {
                break;
            };
            self.handle_event(index, event);
        }
        while let Some((link, bytes)) = self.seats[index].session.poll_transmit() {
            let frame = Frame::parse(&bytes).unwrap();
            self.seats[index].seen.order.push(describe(&frame));
            let Some((a, b)) = self.wires.get(&link.0).copied() else {
                continue;
            };
            let to = if a == index { b } else { a };
            if (self.filter)(index, to, &frame) {
                self.in_flight.push_back((link.0, to, bytes));
            }
        }
    }

    fn handle_event(&mut self, index: usize, event: Event) {
        let (at, now) = (self.at, self.now);
        let seat = &mut self.seats[index];
        let seen = &mut seat.seen;
        match event {
            Event::Resolve(did) if seat.auto_resolve => {
                let answer = DidKeyResolver.resolve(&did).unwrap();
                seat.session.handle_resolved(&did, answer, at, now);
            }
            Event::Resolve(did) => seen.resolves.push_back(did),
            Event::Persist { token, record } => {
                seen.order.push("persist".into());
                if seat.auto_persist {
                    seat.last_record = Some(record);
                    seat.session.handle_persisted(token, true, now);
                } else {
                    seen.persists.push_back((token, record));
                }
            }
            Event::Keep { token, record } => {
                seen.order.push("keep".into());
                if seat.auto_keep {
                    seat.kept = Some(*record);
                    seat.session.handle_persisted(token, true, now);
                } else {
                    seen.keeps.push_back((token, *record));
                }
            }
            Event::State(state) => seen.states.push(state),
            Event::Party { pid, phase } => seen.phases.push((pid, phase)),
            Event::Signal { from, data } => seen.signals.push((from, data)),
            Event::Peers { peers, .. } => seen.peers.extend(peers),
            Event::Install(plan) => {
                seen.order.push("install".into());
                seen.installs += 1;
                seen.mesh = Some(*plan);
                self.connect_tunnels(index);
            }
            Event::Uninstall => {
                seen.order.push("uninstall".into());
                seen.uninstalls += 1;
                seen.mesh = None;
                let tunnels: Vec<u64> = self
                    .wires
                    .iter()
                    .filter(|(l, (a, b))| **l >= 1 << 32 && (*a == index || *b == index))
                    .map(|(l, _)| *l)
                    .collect();
                for link in tunnels {
                    self.cut(link);
                }
            }
            Event::Start => {
                seen.order.push("start".into());
                seen.starts += 1;
            }
            Event::Refused {
                from, rejection, ..
            } => {
                seen.rejections.push(rejection.clone());
                seen.refused.push((from, rejection.code, rejection.detail));
            }
            Event::Evidence { statements, .. } => seen.evidence.push(statements),
            Event::CloseLink { link, ban } => {
                if ban {
                    seen.banned.push(link);
                }
                seen.closed_links.push(link);
                self.cut(link.0);
            }
            Event::Alarm(text) => seen.alarms.push(text),
            Event::Closed(outcome) => {
                seen.order.push("closed".into());
                seen.outcome = Some(outcome);
            }
        }
    }

    /// WireGuard works between two parties whose meshes know each other's keys, with one pre-shared key.
    fn connect_tunnels(&mut self, index: usize) {
        if !self.seats[index].auto_mesh {
            return;
        }
        for other in 0..self.seats.len() {
            let (Some(mine), Some(theirs)) =
                (&self.seats[index].seen.mesh, &self.seats[other].seen.mesh)
            else {
                continue;
            };
            if other == index || !self.seats[other].auto_mesh || !keys_agree(mine, theirs) {
                continue;
            }
            let (roster, my_pid, their_pid) = (mine.roster, mine.me, theirs.me);
            let id = (1 << 32) + self.next_link;
            self.next_link += 1;
            self.wires.insert(id, (index, other));
            for (end, pid) in [(index, their_pid), (other, my_pid)] {
                self.seats[end].session.handle_link_up(
                    LinkId(id),
                    LinkKind::Tunnel { roster, pid },
                    self.at,
                    self.now,
                );
                if end != index {
                    self.drain(end);
                }
            }
        }
        for seat in 0..self.seats.len() {
            self.report_mesh(seat);
        }
    }

    fn report_mesh(&mut self, index: usize) {
        let Some(mesh) = &self.seats[index].seen.mesh else {
            return;
        };
        let tunnels = self
            .wires
            .iter()
            .filter(|(l, (a, b))| **l >= 1 << 32 && (*a == index || *b == index))
            .count();
        if tunnels == mesh.peers.len() {
            let roster = mesh.roster;
            self.seats[index]
                .session
                .handle_mesh_ready(roster, self.at, self.now);
        }
    }

    /// Delivers until nothing moves.
    pub fn run(&mut self) {
        for index in 0..self.seats.len() {
            self.drain(index);
        }
        while let Some((link, to, bytes)) = self.in_flight.pop_front() {
            if self.seats[to].alive && self.wires.contains_key(&link) {
                self.seats[to]
                    .session
                    .handle_message(LinkId(link), &bytes, self.at, self.now);
                self.drain(to);
            }
        }
    }

    /// Lets time pass, in the steps the sessions ask for, delivering everything.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.run();
            let alive = self.seats.iter().filter(|seat| seat.alive);
            let next = alive
                .filter_map(|seat| seat.session.poll_timeout())
                .map(|(at, _)| at)
                .min();
            let step = next.map_or(end, |at| at.min(end)).max(self.now);
            if step == self.now && step >= end {
                break;
            }
            // A timeout that is due at once must still move time on, or a broken session would hang the test.
            let step = step
                .max(self.now + Duration::from_millis(1))
                .min(end.max(self.now + Duration::from_millis(1)));
            self.advance(step - self.now);
            for index in 0..self.seats.len() {
                if self.seats[index].alive
                    && self.seats[index]
                        .session
                        .poll_timeout()
                        .is_some_and(|(at, _)| at <= self.now)
                {
                    self.seats[index].session.handle_timeout(self.at, self.now);
                    self.drain(index);
                }
            }
            if self.now >= end {
                self.run();
                break;
            }
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.elapsed += by;
        self.at = UnixTime(START + i64::try_from(self.elapsed.as_secs()).unwrap());
    }

    pub fn exit(&mut self, index: usize, code: i32) {
        let report = ProgramReport::Exited {
            code,
            signal: None,
            bytes_sent: Some(1000),
            elapsed_ms: 1500,
            note: "ImportError: numpy".into(),
        };
        self.seats[index]
            .session
            .handle_program(report, self.at, self.now);
        self.drain(index);
    }

    pub fn states(&self) -> Vec<State> {
        self.seats.iter().map(|seat| seat.session.state()).collect()
    }

    pub fn outcome(&self, index: usize) -> &Outcome {
        self.seats[index].seen.outcome.as_ref().unwrap()
    }

    pub fn failure(&self, index: usize) -> (Code, Option<Pid>, &str) {
        match self.outcome(index) {
            Outcome::Failed {
                code, whom, detail, ..
            } => (*code, *whom, detail),
            Outcome::Finished { .. } => panic!("party {index} finished"),
        }
    }

    pub fn refusals(&self, index: usize) -> Vec<Code> {
        self.seats[index]
            .seen
            .refused
            .iter()
            .map(|(_, code, _)| *code)
            .collect()
    }

    pub fn assert_no_alarm(&self) {
        for seat in &self.seats {
            assert!(seat.seen.alarms.is_empty(), "{:?}", seat.seen.alarms);
        }
    }
}

pub fn keys_agree(a: &MeshPlan, b: &MeshPlan) -> bool {
    let entry = |plan: &MeshPlan, other: Pid| {
        plan.peers
            .iter()
            .find(|peer| peer.pid == other)
            .map(|peer| (peer.public, *peer.psk))
    };
    let public = |plan: &MeshPlan| {
        *x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*plan.secret)).as_bytes()
    };
    match (entry(a, b.me), entry(b, a.me)) {
        (Some((theirs, psk)), Some((ours, other))) => {
            theirs == public(b) && ours == public(a) && psk == other
        }
        _ => false,
    }
}

fn describe(frame: &Frame) -> String {
    match frame {
        Frame::Statements { jws } => {
            let kinds: Vec<&str> = jws
                .iter()
                .map(|text| quorate_identity::peek_typ(text).unwrap())
                .collect();
            format!("statements {}", kinds.join(" "))
        }
        other => format!("{other:?}")
            .split_whitespace()
            .next()
            .unwrap()
            .to_lowercase(),
    }
}
