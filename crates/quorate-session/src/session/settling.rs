//! Settling: a party that was killed while the session closed comes back, to give its receipt and to fetch the others'.
//!
//! ```text
//! resume(record with the own receipt `done`) ─ join ─► links, have/want ─ all receipts, or 20 s ─► Closed(Finished)
//! ```
//! No keys of the run are needed, which are gone: the receipt was signed and stored before the crash, and overlay links
//! prove the DID alone. The party does not join again, so that nobody gives up a run which was done.

use super::{Outcome, Session, Setup, Stage, recording::HeldRun};
use crate::{
    limits::{RECEIPT_LINGER, RESYNC_INTERVAL, SETTLE_WAIT},
    message::{Pid, ReceiptOutcome},
    record::{Record, RunVerdict},
    statement::Statement,
    stored::Closure,
};
use quorate_identity::{Code, Rejection, UnixTime, Verified};
use std::time::Instant;

/// When it ends, whoever has answered.
#[derive(Clone, Copy)]
pub(super) struct Settling {
    pub until: Instant,
    complete: bool,
}

impl Session {
    /// Like [`Session::new`], with the record that was kept of this session. If it shows that the own run was done and the
    /// session was not closed, the session only settles: it gives its receipt and takes those of the others. Otherwise
    /// this is a new start. A record that does not verify, or of another session, is refused.
    pub fn resume(
        setup: Setup,
        record: &Record,
        at: UnixTime,
        now: Instant,
    ) -> Result<Self, Rejection> {
        let verdict = record.verify()?;
        if verdict.session != setup.invitation.digest() {
            let text = "the kept record is that of another session";
            return Err(Rejection::new(Code::Stale, "R3", text));
        }
        let me = setup.invitation.subject.pid_of(&setup.key.did());
        let run = verdict.runs.into_iter().next_back();
        let (Some(me), Some(stored), Some(run)) = (me, setup.stored.clone(), run) else {
            return Self::new(setup, at, now);
        };
        let open = stored.closed.is_none() && stored.roster == run.digest();
        match held_run(&run) {
            Some(held) if open && is_done(&run, me) => {
                super::driving::judge_secret(&setup)?;
                let mut session = Self::build(setup, me, stored, at, now);
                session.remember(&run, at);
                session.run = Some(held);
                Ok(session)
            }
            _ => Self::new(setup, at, now),
        }
    }

    /// Enters what the record holds, as far as it still counts.
    fn remember(&mut self, run: &RunVerdict, at: UnixTime) {
        for (index, party) in run.parties.iter().enumerate() {
            let pid = Pid(u16::try_from(index).unwrap_or(u16::MAX));
            let joins = party
                .join
                .iter()
                .map(|s| Statement::Join(Box::new(s.clone())));
            let confirms = party
                .confirm
                .iter()
                .map(|s| Statement::Confirm(Box::new(s.clone())));
            let receipts = party
                .receipts
                .iter()
                .map(|s| Statement::Receipt(Box::new(s.clone())));
            for statement in joins.chain(confirms).chain(receipts) {
                // What is too old to count is in the record all the same.
                let _ = self.ledger.admit(&statement, pid, at);
            }
        }
    }

    /// Whether this start has nothing to do but to settle.
    pub(super) fn is_done_before(&self) -> bool {
        matches!(self.stage, Stage::Invited) && self.run.is_some()
    }

    pub(super) fn settle_run(&mut self, now: Instant) {
        self.stage = Stage::Settling(Settling {
            until: now + SETTLE_WAIT,
            complete: false,
        });
        self.resync_at = Some(now + RESYNC_INTERVAL);
        self.ask_for_all();
        self.open_held_links();
    }

    /// Ends when all receipts are there, a moment later, or when it is too late for them.
    pub(super) fn finish_settling(&mut self, now: Instant) {
        let Some(roster) = self.run.as_ref().map(|run| run.roster.digest()) else {
            return;
        };
        let all = self
            .pids()
            .all(|pid| self.ledger.receipt(pid, &roster).is_some());
        let Stage::Settling(settling) = &mut self.stage else {
            return;
        };
        if all && !settling.complete {
            settling.complete = true;
            settling.until = settling.until.min(now + RECEIPT_LINGER);
        }
        if settling.until <= now {
            self.close_settled(now);
        }
    }

    pub(super) fn close_settled(&mut self, now: Instant) {
        let Some(roster) = self.run.as_ref().map(|run| run.roster.digest()) else {
            return;
        };
        let exit = |pid| {
            self.ledger
                .receipt(pid, &roster)
                .and_then(|receipt| receipt.exit)
        };
        let outcome = Outcome::Finished {
            exits: self.pids().map(exit).collect(),
            receipts: self.ledger.receipt_texts(&roster),
        };
        self.close(outcome, Some(Closure::Finished), now);
    }
}

/// What the record says of a whole roster.
fn held_run(run: &RunVerdict) -> Option<HeldRun> {
    let joins = run.parties.iter().filter_map(|party| party.join.as_ref());
    let confirms = run
        .parties
        .iter()
        .filter_map(|party| party.confirm.as_ref());
    Some(HeldRun {
        roster: run.roster.clone()?,
        joins: joins.map(Verified::text).cloned().collect(),
        confirms: confirms.map(Verified::text).cloned().collect(),
    })
}

fn is_done(run: &RunVerdict, me: Pid) -> bool {
    let own = run.receipts().filter(|(pid, _)| *pid == me);
    let own: Vec<ReceiptOutcome> = own.map(|(_, receipt)| receipt.outcome).collect();
    own == [ReceiptOutcome::Done]
}
