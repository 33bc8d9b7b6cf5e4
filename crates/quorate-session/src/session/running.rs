//! Running: the mesh is there; everybody says so inside it, the programs run, receipts are signed.
//!
//! ```text
//! mesh ready ─► ready to every party inside the tunnel ─ all m held ─► Start ─► program ─► receipt to all
//! ping ─ pong every 2 s on tunnel links; 13 s of silence ─► the party left
//! ```
//! A control stream may break and come again; only silence counts. A party that has sent its receipt may be silent.

use super::{
    Deadlines, Event, HeldWhat, Outcome, Phase, ProgramReport, Session, Stage, State, weak,
};
use crate::{
    limits::{FIRST_PINGS, PEER_SILENCE, PING_INTERVAL, RECEIPT_LINGER, RECEIPT_WAIT},
    link::{Frame, LinkId},
    message::{PROTOCOL_VERSION, Pid, Ready, Receipt, ReceiptOutcome},
    stored::Closure,
};
use quorate_identity::{Code, Digest, UnixTime, Verified, sign};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// The mesh of the current roster and what runs on it.
pub(super) struct Mesh {
    /// Data was exchanged with everybody inside the tunnel, and the guard listens.
    works: bool,
    /// Our own ready, once the mesh works.
    ready: Option<Arc<str>>,
    readies: BTreeSet<Pid>,
    contacts: BTreeMap<Pid, Contact>,
    ping_at: Instant,
    next_ping: u64,
    pub program: Program,
    finish_at: Option<Instant>,
    complete: bool,
    /// When silence was last looked for; what lay before needs no timer any more.
    checked: Instant,
}

/// What the tunnel to one party shows.
struct Contact {
    heard: Instant,
    ping: Option<(u64, Instant)>,
    rtt: Duration,
    samples: u32,
}

impl Contact {
    fn new(now: Instant) -> Self {
        Self {
            heard: now,
            ping: None,
            rtt: Duration::MAX,
            samples: 0,
        }
    }

    /// The least of the first samples, because everybody is busy while a mesh comes up; then a
    /// moving average (RFC 6298, section 2.3).
    fn take_sample(&mut self, sample: Duration) {
        self.rtt = if self.samples < FIRST_PINGS {
            self.rtt.min(sample)
        } else {
            self.rtt * 7 / 8 + sample / 8
        };
        self.samples = self.samples.saturating_add(1);
    }
}

/// The own program.
pub(super) enum Program {
    Waiting,
    Running { start: UnixTime, connected: bool },
    Ended,
}

impl Mesh {
    pub fn new(now: Instant) -> Self {
        Self {
            works: false,
            ready: None,
            readies: BTreeSet::new(),
            contacts: BTreeMap::new(),
            ping_at: now + PING_INTERVAL,
            next_ping: 0,
            program: Program::Waiting,
            finish_at: None,
            complete: false,
            checked: now,
        }
    }

    pub fn state(&self) -> State {
        match (&self.program, self.works) {
            (Program::Waiting, false) => State::Keyed,
            (Program::Waiting, true) => State::Ready,
            (Program::Running { .. }, _) => State::Running,
            (Program::Ended, _) => State::Closing,
        }
    }

    pub fn own_phase(&self) -> Option<Phase> {
        match &self.program {
            Program::Running {
                connected: true, ..
            } => Some(Phase::Connected),
            Program::Ended => Some(Phase::Finished),
            _ => None,
        }
    }

    pub fn is_ready(&self, pid: Pid) -> bool {
        self.readies.contains(&pid)
    }

    /// Whether the ready of `pid` is the only one that is missing.
    pub fn lacks_only(&self, pid: Pid, all: impl Iterator<Item = Pid>) -> bool {
        matches!(self.program, Program::Waiting)
            && all.filter(|p| !self.is_ready(*p)).eq(std::iter::once(pid))
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.program, Program::Ended)
    }

    pub fn was_heard(&self, pid: Pid) -> bool {
        self.contacts.contains_key(&pid)
    }

    pub fn rtt(&self, pid: Pid) -> Option<Duration> {
        let contact = self.contacts.get(&pid)?;
        (contact.samples >= FIRST_PINGS).then_some(contact.rtt)
    }

    fn is_silent(&self, pid: Pid, now: Instant) -> bool {
        self.contacts
            .get(&pid)
            .is_some_and(|contact| now.saturating_duration_since(contact.heard) >= PEER_SILENCE)
    }

    pub fn timeouts(&self, deadlines: &Deadlines) -> Vec<(Instant, &'static str)> {
        let silences = self
            .contacts
            .values()
            .map(|contact| contact.heard + PEER_SILENCE);
        let mut timeouts = vec![(self.ping_at, "ping")];
        timeouts.extend(
            silences
                .filter(|at| *at > self.checked)
                .map(|at| (at, "a party is silent")),
        );
        timeouts.extend(self.finish_at.map(|at| (at, "receipts")));
        timeouts.push(match self.program {
            Program::Waiting => (deadlines.start, "all have to be ready"),
            Program::Running { .. } | Program::Ended => (deadlines.end, "the session's end"),
        });
        timeouts
    }
}

impl Session {
    /// Authenticated data was exchanged with every party inside the mesh of `roster`, and the guard listens.
    pub fn handle_mesh_ready(&mut self, roster: Digest, at: UnixTime, now: Instant) {
        self.set_clock(at, now);
        let Stage::Meshed(agreement, mesh) = &mut self.stage else {
            return;
        };
        if agreement.roster.digest() != roster {
            return;
        }
        mesh.works = true;
        self.give_ready(at);
        self.settle(now);
    }

    /// Withholds this party's ready until [`Session::release_start`]: nobody's program starts before. What was given
    /// already stays given.
    pub fn hold_start(&mut self) {
        self.start_held = true;
    }

    /// The program may start, now and after every further roster.
    pub fn release_start(&mut self, at: UnixTime, now: Instant) {
        self.set_clock(at, now);
        self.start_held = false;
        self.give_ready(at);
        self.settle(now);
    }

    /// Whether everybody else is ready and only our own held start is awaited.
    pub fn awaits_release(&self) -> bool {
        self.start_held
            && match &self.stage {
                Stage::Meshed(_, mesh) => mesh.works && mesh.lacks_only(self.me, self.pids()),
                _ => false,
            }
    }

    /// Signs our ready and sends it, once the mesh works and the start is not held.
    fn give_ready(&mut self, at: UnixTime) {
        let Stage::Meshed(agreement, mesh) = &mut self.stage else {
            return;
        };
        if !mesh.works || self.start_held || mesh.ready.is_some() {
            return;
        }
        let ready = Ready {
            v: PROTOCOL_VERSION,
            iss: self.key.did(),
            inv: self.inv,
            roster: agreement.roster.digest(),
            iat: at,
        };
        match sign(ready, &self.key) {
            Ok(ready) => {
                mesh.ready = Some(ready.text().clone());
                mesh.readies.insert(self.me);
                for link in self.proven_links() {
                    self.send_ready(link);
                }
            }
            Err(rejection) => self.alarm(&format!("our own ready is refused: {rejection}")),
        }
    }

    /// The program's supervisor reports.
    pub fn handle_program(&mut self, report: ProgramReport, at: UnixTime, now: Instant) {
        self.set_clock(at, now);
        if let Stage::Meshed(_, mesh) = &mut self.stage
            && let Program::Running { start, connected } = &mut mesh.program
        {
            let start = *start;
            match report {
                ProgramReport::Connected => *connected = true,
                ProgramReport::Exited {
                    code: 0,
                    signal: None,
                    bytes_sent,
                    ..
                } => {
                    mesh.program = Program::Ended;
                    self.sign_receipt(ReceiptOutcome::Done, start, Some(0), bytes_sent, now);
                }
                ProgramReport::Exited {
                    code, signal, note, ..
                } => {
                    let how = signal.map_or(format!("exit code {code}"), |signal| {
                        format!("signal {signal}")
                    });
                    let text = format!("its program ended with {how}: {note}");
                    self.fail(Code::ProgramFailed, Some(self.me), &text, true, now);
                }
            }
        }
        self.settle(now);
    }

    /// Sends our ready, if there is one, over a tunnel link.
    pub(super) fn send_ready(&mut self, link: LinkId) {
        let Stage::Meshed(_, mesh) = &self.stage else {
            return;
        };
        if !self
            .links
            .get(&link)
            .is_some_and(crate::link::Link::is_tunnel)
        {
            return;
        }
        if let Some(text) = mesh.ready.clone() {
            self.send_statements(link, &[text]);
        }
    }

    /// A ready counts only through the tunnel of its issuer, for the mesh that stands.
    pub(super) fn handle_ready(&mut self, link: LinkId, ready: &Verified<Ready>) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        let issuer = self.invitation.subject.pid_of(&ready.iss);
        let through_own_tunnel = entry.is_tunnel() && entry.pid() == issuer;
        if !through_own_tunnel && !weak!(self, AcceptReadyFromOverlay) {
            let text = "a ready that did not come through the tunnel of its party";
            let rejection = quorate_identity::Rejection::new(Code::NotMember, "S8", text)
                .about(ready.iss.clone());
            return self.refuse_and_strike(link, rejection);
        }
        if let (Stage::Meshed(agreement, mesh), Some(pid)) = (&mut self.stage, issuer)
            && agreement.roster.digest() == ready.roster
        {
            mesh.readies.insert(pid);
        }
    }

    /// Something came through the tunnel of `pid`.
    pub(super) fn note_heard(&mut self, pid: Pid, now: Instant) {
        if let Stage::Meshed(_, mesh) = &mut self.stage {
            mesh.contacts.entry(pid).or_insert(Contact::new(now)).heard = now;
        }
    }

    pub(super) fn note_pong(&mut self, link: LinkId, n: u64, now: Instant) {
        let pid = self.links.get(&link).and_then(crate::link::Link::pid);
        if let (Stage::Meshed(_, mesh), Some(pid)) = (&mut self.stage, pid)
            && let Some(contact) = mesh.contacts.get_mut(&pid)
            && let Some((_, sent)) = contact.ping.take_if(|(expected, _)| *expected == n)
        {
            contact.take_sample(now.saturating_duration_since(sent));
            if contact.samples < FIRST_PINGS {
                self.ping(link, now);
            }
        }
    }

    /// Starts the program when all readies are held.
    pub(super) fn start(&mut self, now: Instant) {
        let (all, at) = (self.pids().count(), self.wall(now));
        let others: Vec<Pid> = self.others().collect();
        let Stage::Meshed(_, mesh) = &mut self.stage else {
            return;
        };
        if !matches!(mesh.program, Program::Waiting) || mesh.readies.len() != all {
            return;
        }
        mesh.program = Program::Running {
            start: at,
            connected: false,
        };
        for pid in others {
            mesh.contacts.entry(pid).or_insert(Contact::new(now));
        }
        self.stored.runs += 1;
        self.persist(HeldWhat::Nothing, now);
        self.report_changes();
        self.emit(Event::Start);
        self.keep(HeldWhat::Nothing, now);
    }

    /// Pings, silence and the deadlines of a mesh.
    pub(super) fn expire_mesh(&mut self, now: Instant) {
        let Stage::Meshed(_, mesh) = &mut self.stage else {
            return;
        };
        mesh.checked = now;
        if mesh.ping_at <= now {
            mesh.ping_at = now + PING_INTERVAL;
            self.ping_all(now);
        }
        let Stage::Meshed(_, mesh) = &self.stage else {
            return;
        };
        if !mesh.is_ended()
            && let Some(pid) = self
                .others()
                .find(|pid| mesh.is_silent(*pid, now) && !self.has_receipt(*pid))
        {
            let text = format!(
                "nothing was heard from party {pid} for {} s",
                PEER_SILENCE.as_secs()
            );
            return self.fail(Code::PartyLeft, Some(pid), &text, true, now);
        }
        match &mesh.program {
            Program::Waiting if now >= self.deadlines.start => self.fail_to_start(now),
            Program::Running { .. } if now >= self.deadlines.end => {
                self.fail(
                    Code::Time,
                    None,
                    "the latest end of the session has passed",
                    true,
                    now,
                );
            }
            Program::Ended if now >= self.deadlines.end => self.close_finished(now),
            _ => {}
        }
    }

    fn ping_all(&mut self, now: Instant) {
        let tunnels = self.links.iter().filter(|(_, link)| link.is_tunnel());
        let tunnels: Vec<LinkId> = tunnels.map(|(id, _)| *id).collect();
        for link in tunnels {
            self.ping(link, now);
        }
    }

    /// Asks the party at the other end of a tunnel link for a sign of life.
    pub(super) fn ping(&mut self, link: LinkId, now: Instant) {
        let pid = self.links.get(&link).and_then(crate::link::Link::pid);
        let Stage::Meshed(_, mesh) = &mut self.stage else {
            return;
        };
        let n = mesh.next_ping;
        mesh.next_ping += 1;
        if let Some(contact) = pid.and_then(|pid| mesh.contacts.get_mut(&pid)) {
            contact.ping = Some((n, now));
        }
        self.transmit(link, &Frame::Ping { n });
    }

    fn has_receipt(&self, pid: Pid) -> bool {
        self.roster()
            .is_some_and(|roster| self.ledger.receipt(pid, &roster).is_some())
    }

    /// Signs what we saw and sends it to everybody.
    pub(super) fn sign_receipt(
        &mut self,
        outcome: ReceiptOutcome,
        start: UnixTime,
        exit: Option<i32>,
        bytes: Option<u64>,
        now: Instant,
    ) {
        let (Some(roster), end) = (self.roster(), self.wall(now)) else {
            return;
        };
        let receipt = Receipt {
            v: PROTOCOL_VERSION,
            iss: self.key.did(),
            inv: self.inv,
            roster,
            run: self.stored.runs,
            outcome,
            exit,
            start,
            // The wall clock may have been set back while the program ran.
            end: end.max(start),
            bytes,
            iat: end,
        };
        match sign(receipt, &self.key) {
            Ok(receipt) => self.hold_receipt(receipt, now),
            Err(rejection) => self.alarm(&format!("our own receipt is refused: {rejection}")),
        }
    }

    /// Ends the session when nobody computes any more.
    pub(super) fn finish(&mut self, now: Instant) {
        self.finish_failed(now);
        let missing: Vec<Pid> = self
            .others()
            // Who joined again left this run; its receipt will not come.
            .filter(|pid| !self.has_receipt(*pid) && !self.has_left(*pid))
            .collect();
        let Stage::Meshed(_, mesh) = &mut self.stage else {
            return;
        };
        if !mesh.is_ended() || self.unsent_receipt.is_some() {
            return;
        }
        if missing.is_empty() && !mesh.complete {
            mesh.complete = true;
            mesh.finish_at = Some(now + RECEIPT_LINGER);
        } else if missing.iter().all(|pid| mesh.is_silent(*pid, now)) && mesh.finish_at.is_none() {
            mesh.finish_at = Some(now + RECEIPT_WAIT);
        }
        if mesh.finish_at.is_some_and(|at| at <= now) {
            self.close_finished(now);
        }
    }

    /// Shows a party that came back too late what ended without it: the others' joins, then the receipts.
    pub(super) fn show_end_to(&mut self, pid: Pid) {
        let Stage::Meshed(agreement, mesh) = &self.stage else {
            return;
        };
        if !mesh.is_ended() {
            return;
        }
        let roster = agreement.roster.digest();
        let joins = self.pids().filter_map(|pid| self.ledger.join(pid));
        let texts: Vec<Arc<str>> = joins
            .map(|join| join.text().clone())
            .chain(
                self.pids()
                    .filter_map(|pid| Some(self.ledger.receipt(pid, &roster)?.text().clone())),
            )
            .collect();
        for link in self.proven_links() {
            if self.links.get(&link).and_then(crate::link::Link::pid) == Some(pid) {
                self.send_statements(link, &texts);
            }
        }
    }

    fn close_finished(&mut self, now: Instant) {
        self.send_receipt(now);
        let Some(roster) = self.roster() else { return };
        let exits = self.pids().map(|pid| {
            self.ledger
                .receipt(pid, &roster)
                .and_then(|receipt| receipt.exit)
        });
        let outcome = Outcome::Finished {
            exits: exits.collect(),
            receipts: self.ledger.receipt_texts(&roster),
        };
        self.emit(Event::Uninstall);
        self.close(outcome, Some(Closure::Finished), now);
    }
}
