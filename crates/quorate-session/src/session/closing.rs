//! Closing: how a session ends when it does not end well, and what is wiped.
//!
//! ```text
//! abort (ours or a party's), cancel, deadline ─► abort statement out ─► Uninstall ─ a run was on ─► receipts, 2 s ─► Closed
//!                                                                     └ no run ─────────────────────────────────► Closed
//! ```

use super::{Event, HeldWhat, Misuse, Outcome, Session, Stage, running::Program};
use crate::{
    limits::{ABORT_WAIT, MAX_NOTE_CHARS},
    message::{Abort, Cancel, CodeText, PROTOCOL_VERSION, Pid, ReceiptOutcome},
    statement::Statement,
    stored::Closure,
};
use quorate_identity::{Code, Did, Digest, Rejection, SigningKey, UnixTime, Verified, sign};
use std::time::Instant;

/// A failed session that waits for receipts of its lost run.
pub(super) struct Closing {
    pub until: Instant,
    pub roster: Option<Digest>,
    code: Code,
    whom: Option<Pid>,
    detail: String,
}

impl Session {
    /// We stop: the user interrupts or declines, or the driver found a reason.
    pub fn abort(&mut self, code: Code, whom: Option<Pid>, note: &str, at: UnixTime, now: Instant) {
        self.set_clock(at, now);
        self.fail(code, whom, note, true, now);
        self.settle(now);
    }

    /// The organizer, who takes part here, withdraws its invitation: all parties stop, and nobody can join again.
    pub fn cancel(&mut self, reason: &str, at: UnixTime, now: Instant) -> Result<(), Misuse> {
        if self.key.did() != self.invitation.issuer {
            return Err(Misuse::NotIssuer);
        }
        if self.is_over() {
            return Err(Misuse::Over);
        }
        self.set_clock(at, now);
        match sign_cancel(&self.key, self.inv, reason, at) {
            Ok(cancel) => self.publish(&Statement::Cancel(Box::new(cancel)), now),
            Err(rejection) => self.alarm(&format!("our own cancel is refused: {rejection}")),
        }
        self.settle(now);
        // Nothing is exchanged before the user approved, so nothing is obeyed either.
        if matches!(self.stage, Stage::Invited) {
            self.obey(now);
            self.report_changes();
        }
        Ok(())
    }

    /// Whether the session has failed or ended: one proof of why is enough.
    pub(super) fn is_over(&self) -> bool {
        matches!(
            self.stage,
            Stage::Closing(_) | Stage::Settling(_) | Stage::Closed
        )
    }

    /// Ends the session with a reason; `tell` signs an abort so that everybody ends.
    pub(super) fn fail(
        &mut self,
        code: Code,
        whom: Option<Pid>,
        detail: &str,
        tell: bool,
        now: Instant,
    ) {
        if matches!(self.stage, Stage::Settling(_)) {
            // The run was done; nothing can fail any more, only be left sooner.
            return self.close_settled(now);
        }
        if self.is_over() {
            return;
        }
        let detail = printable(detail);
        if tell {
            self.send_abort(code, whom, &detail, now);
        }
        let roster = self.roster();
        let ran = self.sign_failed_receipt(code, whom, now);
        if matches!(self.stage, Stage::Meshed(..)) {
            // Frames that are queued for the tunnels may still go out; links inside need no closing of their own.
            self.links.retain(|_, link| !link.is_tunnel());
            self.emit(Event::Uninstall);
        }
        self.held
            .retain(|_, held| matches!(held.what, HeldWhat::Receipt));
        self.keys.wipe_mesh();
        let closing = Closing {
            until: now + ABORT_WAIT,
            roster,
            code,
            whom,
            detail,
        };
        self.stage = Stage::Closing(Box::new(closing));
        if !ran {
            self.close_failed(now);
        }
    }

    fn send_abort(&mut self, code: Code, whom: Option<Pid>, detail: &str, now: Instant) {
        // Nobody knows of us before our join is out.
        let Some(join) = self.ledger.join(self.me) else {
            return;
        };
        let abort = Abort {
            v: PROTOCOL_VERSION,
            iss: self.key.did(),
            inv: self.inv,
            roster: self.roster(),
            epoch: join.epoch,
            code: CodeText(code),
            whom,
            note: detail.to_owned(),
            iat: self.wall(now),
        };
        match sign(abort, &self.key) {
            Ok(abort) => self.publish(&Statement::Abort(Box::new(abort)), now),
            Err(rejection) => self.alarm(&format!("our own abort is refused: {rejection}")),
        }
    }

    /// Signs how the run ended here; whether there was a run.
    fn sign_failed_receipt(&mut self, code: Code, whom: Option<Pid>, now: Instant) -> bool {
        let Stage::Meshed(_, mesh) = &self.stage else {
            return false;
        };
        let start = match mesh.program {
            Program::Waiting => return false,
            Program::Ended => return true,
            Program::Running { start, .. } => start,
        };
        let own_fault = code == Code::ProgramFailed && whom == Some(self.me);
        let outcome = if own_fault {
            ReceiptOutcome::Failed
        } else {
            ReceiptOutcome::Aborted
        };
        self.sign_receipt(outcome, start, None, None, now);
        true
    }

    /// Ends when the receipts are complete or late.
    pub(super) fn finish_failed(&mut self, now: Instant) {
        let Stage::Closing(closing) = &self.stage else {
            return;
        };
        let complete = closing.roster.is_some_and(|roster| {
            self.pids()
                .all(|pid| self.ledger.receipt(pid, &roster).is_some())
        });
        if complete || closing.until <= now {
            self.close_failed(now);
        }
    }

    fn close_failed(&mut self, now: Instant) {
        self.send_receipt(now);
        let Stage::Closing(closing) = std::mem::replace(&mut self.stage, Stage::Closed) else {
            return;
        };
        let Closing {
            roster,
            code,
            whom,
            detail,
            ..
        } = *closing;
        let receipts = roster
            .map(|roster| self.ledger.receipt_texts(&roster))
            .unwrap_or_default();
        // Only reasons this party verified itself carry these codes; `obey` takes nobody's word for them.
        let closure = match code {
            Code::Cancelled => Some(Closure::Cancelled),
            Code::Equivocation | Code::Split => Some(Closure::Distrusted),
            _ => None,
        };
        self.close(
            Outcome::Failed {
                code,
                whom,
                detail,
                receipts,
            },
            closure,
            now,
        );
    }

    /// The end: what cannot be resumed is recorded, everything secret is wiped.
    pub(super) fn close(&mut self, outcome: Outcome, closure: Option<Closure>, now: Instant) {
        self.send_receipt(now);
        self.stage = Stage::Closed;
        if self.is_worth_keeping() {
            self.keep(HeldWhat::Nothing, now);
        }
        if closure.is_some() || self.stored.epochs != self.ledger.next_floors() {
            self.stored.closed = closure;
            self.persist(HeldWhat::Nothing, now);
        }
        self.held.clear();
        self.unresolved.clear();
        self.signals_in.clear();
        self.signals_out.clear();
        self.links.clear();
        self.keys.wipe();
        zeroize::Zeroize::zeroize(&mut self.secret);
        self.report_changes();
        self.emit(Event::Closed(outcome));
    }

    /// Ends if the organizer cancelled or a party aborted what we are in.
    pub(super) fn obey(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Settling(_)) {
            return;
        }
        if let Some(cancel) = self.ledger.cancel() {
            let text = format!("the organizer cancelled: {}", cancel.reason);
            return self.fail(Code::Cancelled, None, &text, false, now);
        }
        let Some((pid, abort)) = self.ledger.effective_abort() else {
            return;
        };
        if pid == self.me {
            return;
        }
        let claimed = abort
            .whom
            .filter(|whom| self.pids().any(|pid| pid == *whom));
        let (code, whom) = match abort.code.0 {
            // These need a proof, which is obeyed when it is seen; without it only the signer's leaving is sure.
            Code::Cancelled | Code::Equivocation | Code::Split => (Code::PartyLeft, pid),
            code => (code, claimed.unwrap_or(pid)),
        };
        let text = if code == abort.code.0 {
            format!("party {pid} stopped: {}", abort.note)
        } else {
            format!(
                "party {pid} stopped and claims {} without showing it: {}",
                abort.code.0.as_str(),
                abort.note
            )
        };
        self.fail(code, Some(whom), &text, false, now);
    }

    /// Ends if others are done with a roster that is not ours: they will not confirm another one.
    pub(super) fn notice_end_of_others(&mut self, now: Instant) {
        if !matches!(self.stage, Stage::Joining | Stage::Confirming(_)) {
            return;
        }
        if let Some(pid) = self.ledger.finished_without(self.roster()) {
            let text = format!("the session has finished without you; party {pid} is done");
            self.fail(Code::Replay, None, &text, false, now);
        }
    }

    /// A listed party holds another invitation under this session's id, and showed it: the organizer
    /// signed both.
    pub(super) fn split(&mut self, did: &Did, theirs: Digest, jws: &str, now: Instant) {
        if self.is_over() {
            return;
        }
        if let Some(pid) = self.invitation.subject.pid_of(did) {
            self.emit(Event::Evidence {
                pid,
                statements: [self.invitation.text().to_string(), jws.to_owned()],
            });
        }
        let text = format!(
            "{did} holds invitation {theirs}, we hold {} with the same session id",
            self.inv
        );
        let organizer = self.invitation.subject.pid_of(&self.invitation.issuer);
        self.fail(Code::Split, organizer, &text, true, now);
    }

    /// Ends what waited too long.
    pub(super) fn expire(&mut self, now: Instant) {
        match &self.stage {
            Stage::Joining => self.expire_joining(now),
            Stage::Confirming(_) if now >= self.deadlines.start => self.fail_to_confirm(now),
            Stage::Meshed(..) => self.expire_mesh(now),
            _ => {}
        }
    }

    fn expire_joining(&mut self, now: Instant) {
        if now < self.deadlines.join {
            return;
        }
        let missing: Vec<Pid> = self
            .pids()
            .filter(|pid| self.ledger.join(*pid).is_none())
            .collect();
        if !missing.is_empty() {
            let text = format!("{} did not join in time", self.names(&missing));
            self.fail(Code::Missing, missing.first().copied(), &text, true, now);
        } else if let Some(obstacle) = self.obstacle.clone() {
            let whom = obstacle
                .whom
                .as_ref()
                .and_then(|did| self.invitation.subject.pid_of(did));
            self.fail(obstacle.code, whom, &obstacle.detail, true, now);
        } else if now >= self.deadlines.start {
            self.fail(
                Code::DidResolve,
                None,
                "a party's DID was not resolved in time",
                true,
                now,
            );
        }
    }

    fn fail_to_confirm(&mut self, now: Instant) {
        let Stage::Confirming(agreement) = &self.stage else {
            return;
        };
        let roster = &agreement.roster;
        let missing: Vec<Pid> = self
            .others()
            .filter(|pid| !self.ledger.has_confirmed(*pid, &roster.digest()))
            .collect();
        if missing.is_empty() {
            let (code, pids): (Code, Vec<Pid>) = if agreement.rejected.is_empty() {
                let unkeyed = self
                    .others()
                    .filter(|pid| !agreement.psks.contains_key(pid));
                (Code::Missing, unkeyed.collect())
            } else {
                (Code::Kem, agreement.rejected.iter().copied().collect())
            };
            let text = format!("no usable key share from {}", self.names(&pids));
            return self.fail(code, pids.first().copied(), &text, true, now);
        }
        if let Some((pid, text)) = missing.iter().find_map(|pid| self.difference(*pid)) {
            self.fail(Code::RosterMismatch, Some(pid), &text, true, now);
        } else {
            let text = format!("{} did not confirm the roster", self.names(&missing));
            self.fail(Code::Missing, missing.first().copied(), &text, true, now);
        }
    }

    /// How the roster that `pid` confirmed in its current epoch differs from ours.
    fn difference(&self, pid: Pid) -> Option<(Pid, String)> {
        let Stage::Confirming(agreement) = &self.stage else {
            return None;
        };
        let epoch = agreement.roster.member(pid)?.epoch;
        let theirs = self
            .ledger
            .confirms_of(pid)
            .find(|confirm| confirm.epoch == epoch)?;
        let ours = agreement.roster.joins();
        let differing = ours
            .iter()
            .zip(&theirs.joins)
            .position(|(our, their)| our != their);
        let member = match differing.and_then(|index| u16::try_from(index).ok()) {
            Some(index) => format!("it holds another join of party {index}"),
            None => "it sees another key of a party".to_owned(),
        };
        Some((
            pid,
            format!("party {pid} confirmed another roster: {member}"),
        ))
    }

    pub(super) fn fail_to_start(&mut self, now: Instant) {
        let Stage::Meshed(_, mesh) = &self.stage else {
            return;
        };
        let unheard: Vec<Pid> = self.others().filter(|pid| !mesh.was_heard(*pid)).collect();
        if !unheard.is_empty() {
            let text = format!("no tunnel to {}", self.names(&unheard));
            return self.fail(Code::NoPath, unheard.first().copied(), &text, true, now);
        }
        if self.start_held {
            let text = "it was not started in time";
            return self.fail(Code::Time, Some(self.me), text, true, now);
        }
        let late: Vec<Pid> = self.pids().filter(|pid| !mesh.is_ready(*pid)).collect();
        let text = format!("{} was not ready in time", self.names(&late));
        self.fail(Code::Missing, late.first().copied(), &text, true, now);
    }

    fn names(&self, pids: &[Pid]) -> String {
        let parties = &self.invitation.subject.parties;
        let name = |pid: &Pid| {
            parties
                .get(pid.index())
                .map_or(String::new(), |party| format!("{} ({pid})", party.name))
        };
        pids.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// The organizer's word that nobody shall compute under this invitation.
pub(crate) fn sign_cancel(
    key: &SigningKey,
    inv: Digest,
    reason: &str,
    at: UnixTime,
) -> Result<Verified<Cancel>, Rejection> {
    let cancel = Cancel {
        v: PROTOCOL_VERSION,
        iss: key.did(),
        inv,
        reason: printable(reason),
        iat: at,
    };
    sign(cancel, key)
}

/// What may stand in a signed note: bounded, and without characters that change how it is shown.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !crate::message::is_unprintable(*c))
        .take(MAX_NOTE_CHARS)
        .collect()
}
