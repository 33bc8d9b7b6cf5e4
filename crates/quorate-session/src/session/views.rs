//! What can be seen of a session from outside, and the events that say that it changed.

use super::{Event, PartyView, Phase, Session, Stage, State, Usage};
use crate::{
    limits::MAX_EVENTS,
    link::LinkId,
    message::{InvitedParty, Pid},
    peer_id::PeerId,
};
use quorate_identity::{Digest, Rejection, Verified};
use std::time::Duration;

impl Session {
    /// Our position.
    pub fn me(&self) -> Pid {
        self.me
    }

    /// Digest of the invitation: the session's name.
    pub fn invitation_digest(&self) -> Digest {
        self.inv
    }

    /// Seed of this epoch's overlay identity (Ed25519).
    pub fn overlay_secret(&self) -> &[u8; 32] {
        self.keys.overlay_secret()
    }

    /// PeerId of this epoch's overlay identity.
    pub fn peer_id(&self) -> PeerId {
        self.keys.peer_id()
    }

    /// Where the session is.
    pub fn state(&self) -> State {
        match &self.stage {
            Stage::Invited => State::Invited,
            Stage::Joining => State::Joining,
            Stage::Confirming(_) => State::Confirming,
            Stage::Meshed(_, mesh) => mesh.state(),
            Stage::Closing(_) | Stage::Settling(_) => State::Closing,
            Stage::Closed => State::Closed,
        }
    }

    /// The roster that was confirmed and not given up.
    pub fn roster(&self) -> Option<Digest> {
        match &self.stage {
            Stage::Confirming(agreement) | Stage::Meshed(agreement, _) => {
                Some(agreement.roster.digest())
            }
            _ => None,
        }
    }

    /// How often the program was started here under this invitation, earlier starts of the session included.
    pub fn runs(&self) -> u32 {
        self.stored.runs
    }

    /// Digest of our current join, once there is one.
    pub fn join_digest(&self) -> Option<Digest> {
        self.ledger.join(self.me).map(Verified::digest)
    }

    /// All parties, by position.
    pub fn parties(&self) -> Vec<PartyView> {
        let view = |(pid, party): (Pid, &InvitedParty)| PartyView {
            pid,
            did: party.did.clone(),
            name: party.name.clone(),
            phase: self.phases.get(&pid).copied().unwrap_or(Phase::Invited),
            waiting_for: self.waiting_for(pid),
        };
        self.pids()
            .zip(&self.invitation.subject.parties)
            .map(view)
            .collect()
    }

    /// Who is waited for, and for what. Costs nothing but the looking: a driver asks after every event.
    pub fn waiting(&self) -> impl Iterator<Item = (Pid, &'static str)> {
        self.pids()
            .filter_map(|pid| Some((pid, self.waiting_for(pid)?)))
    }

    /// Round-trip time to a party through the tunnel, as last measured.
    pub fn rtt(&self, pid: Pid) -> Option<Duration> {
        match &self.stage {
            Stage::Meshed(_, mesh) => mesh.rtt(pid),
            _ => None,
        }
    }

    /// Fill of the bounded queues.
    pub fn usage(&self) -> Usage {
        let (confirms, refused) = self.ledger.usage();
        let outgoing = self
            .signals_out
            .values()
            .map(std::collections::VecDeque::len)
            .max();
        let incoming = self
            .signals_in
            .values()
            .map(std::collections::VecDeque::len)
            .max();
        Usage {
            links: self.links.len(),
            unresolved: self.unresolved.len(),
            signals: outgoing.max(incoming).unwrap_or(0),
            confirms,
            refused,
            ..self.usage
        }
    }

    /// All positions.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> + use<> {
        (0..self.invitation.subject.mpc.m).map(Pid)
    }

    /// All positions but ours.
    pub(super) fn others(&self) -> impl Iterator<Item = Pid> + use<> {
        let me = self.me;
        self.pids().filter(move |pid| *pid != me)
    }

    fn phase_of(&self, pid: Pid) -> Phase {
        let roster = match &self.stage {
            Stage::Closing(closing) => closing.roster,
            Stage::Settling(_) => self.run.as_ref().map(|run| run.roster.digest()),
            _ => self.roster(),
        };
        let Some(roster) = roster else {
            return match self.ledger.join(pid) {
                Some(_) => Phase::Joined,
                None if self.links.values().any(|link| link.pid() == Some(pid)) => Phase::Linked,
                None => Phase::Invited,
            };
        };
        if self.ledger.receipt(pid, &roster).is_some() {
            return Phase::Receipt;
        }
        if let Stage::Meshed(agreement, mesh) = &self.stage {
            let own = (pid == self.me).then(|| mesh.own_phase()).flatten();
            return own.unwrap_or_else(|| match mesh.is_ready(pid) {
                true => Phase::Ready,
                false if pid == self.me || agreement.psks.contains_key(&pid) => Phase::Keyed,
                false => Phase::Confirmed,
            });
        }
        if !self.ledger.has_confirmed(pid, &roster) {
            return Phase::Joined;
        }
        match &self.stage {
            Stage::Confirming(agreement) if agreement.psks.contains_key(&pid) => Phase::Keyed,
            _ => Phase::Confirmed,
        }
    }

    fn waiting_for(&self, pid: Pid) -> Option<&'static str> {
        if pid == self.me {
            return None;
        }
        match (&self.stage, self.phases.get(&pid)?) {
            (Stage::Joining, Phase::Invited) => Some("connection"),
            (Stage::Joining, Phase::Linked) => Some("join"),
            (Stage::Confirming(_), Phase::Joined) => Some("confirm"),
            (Stage::Confirming(_), Phase::Confirmed) => Some("key share"),
            (Stage::Meshed(_, mesh), Phase::Keyed | Phase::Confirmed) => {
                // Its tunnel works and everybody else is ready: the start is in its hands.
                let start = mesh.was_heard(pid) && mesh.lacks_only(pid, self.pids());
                Some(if start { "start" } else { "tunnel" })
            }
            (Stage::Closing(_) | Stage::Settling(_), phase) if *phase != Phase::Receipt => {
                Some("receipt")
            }
            _ => None,
        }
    }

    /// Tells what changed since the last call: the state first, then the parties.
    pub(super) fn report_changes(&mut self) {
        let state = self.state();
        if self.reported != Some(state) {
            self.reported = Some(state);
            self.emit(Event::State(state));
        }
        if state == State::Closed {
            return;
        }
        for pid in self.pids() {
            let phase = self.phase_of(pid);
            if self.phases.insert(pid, phase) != Some(phase) && phase != Phase::Invited {
                self.emit(Event::Party { pid, phase });
            }
        }
    }

    pub(super) fn emit(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            // The driver does not drain; only what it can do without is dropped.
            self.events
                .retain(|event| !matches!(event, Event::Refused { .. } | Event::Party { .. }));
        }
        self.events.push_back(event);
        self.usage.events = self.usage.events.max(self.events.len());
    }

    pub(super) fn refuse(&mut self, link: LinkId, rejection: Rejection) {
        let from = rejection.whom.clone().or_else(|| {
            let pid = self.links.get(&link)?.pid()?;
            self.invitation
                .subject
                .parties
                .get(pid.index())
                .map(|party| party.did.clone())
        });
        self.emit(Event::Refused {
            link: Some(link),
            from,
            rejection,
        });
    }
}
