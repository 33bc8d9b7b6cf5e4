//! Agreement: from complete joins to a mesh that everybody confirmed.
//!
//! ```text
//! all joins ─ C1-C10 ─► roster R ─ persist R ─► confirm(R), kem(R, j) for j > me
//!    confirm(R) of all others, kem(R, me) of all i < me ─► Install
//! a newer join at any time: Uninstall ─► give up R ─► again
//! ```
//! Order inside one step, so that a crash at any point leaves no party on two rosters: stop using the older roster, store
//! the new one, then sign and send.

use super::{Event, HeldWhat, MeshPlan, PeerPlan, Resolution, Session, Stage, running::Mesh, weak};
use crate::{
    address::overlay_address,
    checks::Proposal,
    keys::{Psk, derive_psk, encapsulate},
    limits::MAX_RESOLUTION_AGE,
    message::{Confirm, Kem, PROTOCOL_VERSION, Pid},
    roster::Roster,
    statement::Statement,
};
use quorate_identity::{B64, Code, Did, Digest, Rejection, UnixTime, Verified, sign};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// A roster that we hold, and how far the pairs' keys are.
pub(super) struct Agreement {
    pub roster: Roster,
    /// Our confirm is out.
    confirmed: bool,
    /// Keys agreed, by the other end.
    pub psks: BTreeMap<Pid, Psk>,
    /// Parties whose share was refused.
    pub rejected: BTreeSet<Pid>,
}

impl Session {
    /// Builds and stores a roster when the joins allow it; gives up one that the joins contradict.
    pub(super) fn agree(&mut self, now: Instant) {
        let current = match &self.stage {
            Stage::Joining => None,
            Stage::Meshed(_, mesh) if mesh.is_ended() => return,
            Stage::Confirming(agreement) | Stage::Meshed(agreement, _) => {
                Some(agreement.roster.joins())
            }
            Stage::Invited | Stage::Closing(_) | Stage::Settling(_) | Stage::Closed => return,
        };
        let Some(joins) = self.ledger.all_joins() else {
            return;
        };
        if let Some(current) = current {
            if joins.iter().map(|join| join.digest()).eq(current) {
                return self.collect_shares();
            }
            if let Some(pid) = self.ledger.finished_without(None) {
                return self.fail_unfinished(pid, now);
            }
            self.give_up_roster();
        }
        if !self.all_resolved_lately(now) {
            return;
        }
        match self.propose(now) {
            Ok(roster) => self.hold(roster, now),
            Err(rejection) => self.note_obstacle(rejection),
        }
    }

    fn propose(&self, now: Instant) -> Result<Roster, Rejection> {
        let joins = self.ledger.all_joins().unwrap_or_default();
        let proposal = Proposal {
            invitation: &self.invitation,
            inv: self.inv,
            joins: &joins,
            me: self.me,
            own: self.own_join_digest(),
            fingerprint: &self.fingerprint,
            approved: !matches!(self.stage, Stage::Invited),
            cancelled: self.ledger.cancel().is_some(),
            at: self.wall(now),
        };
        if !weak!(self, NoJoinCheck) {
            proposal.check()?;
        }
        Roster::build(&self.inv, &joins)
    }

    /// The join that this session made, by what only it could have put in.
    fn own_join_digest(&self) -> Option<Digest> {
        let join = self.ledger.join(self.me)?;
        (join.epoch == self.stored.epoch && join.wg == self.keys.wireguard_public())
            .then(|| join.digest())
    }

    /// Says once what keeps the roster from being confirmed.
    fn note_obstacle(&mut self, rejection: Rejection) {
        if self.obstacle.as_ref() != Some(&rejection) {
            self.obstacle = Some(rejection.clone());
            self.emit(Event::Refused {
                link: None,
                from: rejection.whom.clone(),
                rejection,
            });
        }
    }

    /// C9: what can change was resolved lately; asks again where not.
    fn all_resolved_lately(&mut self, now: Instant) -> bool {
        let dids: Vec<Did> = self
            .invitation
            .subject
            .parties
            .iter()
            .map(|party| party.did.clone())
            .collect();
        let mut fresh = true;
        for did in dids {
            let lately = match self.resolutions.get(&did) {
                Some(Resolution::Known { since, .. }) => {
                    did.method() == "key"
                        || now.saturating_duration_since(*since) <= MAX_RESOLUTION_AGE
                }
                // Our own key needs no resolution, and an open question is waited for.
                _ => did == self.key.did(),
            };
            if !lately {
                fresh = false;
                if matches!(self.resolutions.get(&did), Some(Resolution::Known { .. })) {
                    self.resolutions.remove(&did);
                }
                self.ask_for(&did);
            }
        }
        fresh
    }

    fn hold(&mut self, roster: Roster, now: Instant) {
        let (digest, iat) = (roster.digest(), self.wall(now));
        self.obstacle = None;
        self.record_roster(&roster);
        self.stage = Stage::Confirming(Box::new(Agreement {
            roster,
            confirmed: false,
            psks: BTreeMap::new(),
            rejected: BTreeSet::new(),
        }));
        self.stored.roster = Some(digest);
        self.stored.joins += 1;
        self.persist(
            HeldWhat::Confirm {
                roster: digest,
                iat,
            },
            now,
        );
    }

    /// The roster is void: a party joined again. The run, if there was one, is lost.
    fn give_up_roster(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Joining);
        let (Stage::Confirming(agreement) | Stage::Meshed(agreement, _)) = &stage else {
            return;
        };
        self.ledger.retire(agreement.roster.digest());
        self.run = None;
        self.signals_out.clear();
        if matches!(stage, Stage::Meshed(..)) && !weak!(self, KeepOldRoster) {
            self.drop_tunnels();
            self.emit(Event::Uninstall);
        }
    }

    /// A party joined again in the middle of a run that `done` has finished: there will be no other run. The receipt says so,
    /// not an abort, which would take their end from those who are done.
    fn fail_unfinished(&mut self, done: Pid, now: Instant) {
        let left = self.others().find(|pid| self.has_left(*pid));
        let text = format!("it joined again in the middle of the run; party {done} is done");
        self.fail(Code::PartyLeft, left, &text, false, now);
    }

    /// Whether a party of our roster has joined again since.
    pub(super) fn has_left(&self, pid: Pid) -> bool {
        let (Stage::Confirming(agreement) | Stage::Meshed(agreement, _)) = &self.stage else {
            return false;
        };
        let then = agreement.roster.member(pid).map(|member| member.join);
        then != self.ledger.join(pid).map(Verified::digest)
    }

    /// Closes what runs inside a mesh that goes away.
    pub(super) fn drop_tunnels(&mut self) {
        let tunnels = self
            .links
            .iter()
            .filter(|(_, link)| link.is_tunnel())
            .map(|(id, _)| *id);
        for link in tunnels.collect::<Vec<_>>() {
            self.close_link(link, false);
        }
    }

    /// The roster is stored: say so, and give the higher-numbered parties their key shares.
    pub(super) fn send_confirm(&mut self, roster: Digest, iat: UnixTime, now: Instant) {
        let Stage::Confirming(agreement) = &mut self.stage else {
            return;
        };
        if agreement.roster.digest() != roster || agreement.confirmed {
            return;
        }
        agreement.confirmed = true;
        let confirm = Confirm {
            v: PROTOCOL_VERSION,
            iss: self.key.did(),
            inv: self.inv,
            roster,
            epoch: self.stored.epoch,
            joins: agreement.roster.joins(),
            iat,
        };
        match sign(confirm, &self.key) {
            Ok(confirm) => self.publish(&Statement::Confirm(Box::new(confirm)), now),
            Err(rejection) => {
                return self.alarm(&format!("our own confirm is refused: {rejection}"));
            }
        }
        for to in (self.me.0 + 1..self.invitation.subject.mpc.m).map(Pid) {
            if let Err(rejection) = self.give_share(to, roster, iat, now) {
                self.alarm(&format!("no key share for party {to}: {rejection}"));
            }
        }
        self.collect_shares();
    }

    fn give_share(
        &mut self,
        to: Pid,
        roster: Digest,
        iat: UnixTime,
        now: Instant,
    ) -> Result<(), Rejection> {
        let missing = || Rejection::new(Code::Missing, "S7", "its KEM key is not there");
        let key = self
            .ledger
            .join(to)
            .and_then(|join| join.kem.as_ref())
            .ok_or_else(missing)?;
        let (ct, secret) = encapsulate(&key.ek.0, &mut self.rng)?;
        let psk = derive_psk(&roster, &secret, self.me, to, &ct);
        let kem = Kem {
            v: PROTOCOL_VERSION,
            iss: self.key.did(),
            inv: self.inv,
            roster,
            to,
            ct: B64(ct),
            iat,
        };
        let kem = sign(kem, &self.key)?;
        if let Stage::Confirming(agreement) = &mut self.stage {
            agreement.psks.insert(to, psk);
        }
        self.publish(&Statement::Kem(Box::new(kem)), now);
        Ok(())
    }

    /// Opens the shares of the lower-numbered parties.
    fn collect_shares(&mut self) {
        let Stage::Confirming(agreement) = &mut self.stage else {
            return;
        };
        let roster = agreement.roster.digest();
        let mut refused = Vec::new();
        for from in (0..self.me.0).map(Pid) {
            if agreement.psks.contains_key(&from) || agreement.rejected.contains(&from) {
                continue;
            }
            let Some(kem) = self.ledger.kem(from, self.me, &roster) else {
                continue;
            };
            match self.keys.decapsulate(&kem.ct.0) {
                Ok(secret) => {
                    agreement
                        .psks
                        .insert(from, derive_psk(&roster, &secret, from, self.me, &kem.ct.0));
                }
                Err(rejection) => {
                    agreement.rejected.insert(from);
                    refused.push(rejection.about(kem.iss.clone()));
                }
            }
        }
        for rejection in refused {
            self.emit(Event::Refused {
                link: None,
                from: rejection.whom.clone(),
                rejection,
            });
        }
    }

    /// Builds the mesh once everybody confirmed this roster and every pair of ours has its key.
    pub(super) fn install(&mut self, now: Instant) {
        let Stage::Confirming(agreement) = &self.stage else {
            return;
        };
        let roster = agreement.roster.digest();
        let all_confirmed = weak!(self, SkipConfirmBarrier)
            || self
                .others()
                .all(|pid| self.ledger.has_confirmed(pid, &roster));
        let all_keyed = self.others().all(|pid| agreement.psks.contains_key(&pid));
        if !agreement.confirmed || !all_confirmed || !all_keyed {
            return;
        }
        let Stage::Confirming(agreement) = std::mem::replace(&mut self.stage, Stage::Joining)
        else {
            return;
        };
        self.record_confirms();
        let plan = self.mesh_plan(&agreement);
        self.stage = Stage::Meshed(agreement, Box::new(Mesh::new(now)));
        self.report_changes();
        self.emit(Event::Install(Box::new(plan)));
        for (from, signals) in std::mem::take(&mut self.signals_in) {
            for (_, data) in signals.into_iter().filter(|(named, _)| *named == roster) {
                self.emit(Event::Signal { from, data });
            }
        }
    }

    fn mesh_plan(&self, agreement: &Agreement) -> MeshPlan {
        let subject = &self.invitation.subject;
        let peers = agreement.roster.members().iter().filter_map(|member| {
            let psk = agreement.psks.get(&member.pid)?.clone();
            let name = subject.parties.get(member.pid.index())?.name.clone();
            let address = overlay_address(&self.inv, member.pid);
            Some(PeerPlan {
                pid: member.pid,
                did: member.did.clone(),
                name,
                public: member.wg.0,
                psk,
                address,
                peer: member.peer,
            })
        });
        MeshPlan {
            roster: agreement.roster.digest(),
            me: self.me,
            secret: self.keys.wireguard_secret(),
            address: overlay_address(&self.inv, self.me),
            mtu: subject.net.mtu,
            port: subject.net.port,
            control_port: subject.control_port(),
            peers: peers.collect(),
        }
    }
}
