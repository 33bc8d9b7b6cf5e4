//! Recording: what stays of a session for people to check later, and when it is kept.
//!
//! ```text
//! roster held ─► HeldRun: joins ─ installed ─► and confirms ─ Start ─► Keep
//! own program ended ─► receipt signed ─► Keep ─ stored, or not ─► receipt sent
//! closed ─► Keep once more, now with the others' receipts
//! ```
//! The own receipt is stored before it is sent: a party that is killed while the session closes finds it again, and never
//! signs a second, different one. It is sent even where it cannot be stored, because it binds its signer to nothing later.

use super::{Event, Held, HeldWhat, PersistToken, Resolution, Session, weak};
use crate::{
    limits::PERSIST_TIMEOUT,
    message::{Pid, Receipt},
    record::{Record, Run, Snapshot},
    roster::Roster,
    statement::Statement,
};
use quorate_identity::{Did, DidKeyResolver, Resolver, Verified};
use std::{sync::Arc, time::Instant};

/// The roster that was held last, with the statements that made it; they leave the ledger when a party joins again.
pub(super) struct HeldRun {
    pub roster: Roster,
    pub joins: Vec<Arc<str>>,
    /// All of them, once the mesh was installed.
    pub confirms: Vec<Arc<str>>,
}

impl Session {
    /// Everything that was signed so far in this session, as far as it is about the roster held last; also after the end.
    /// `None` while we signed nothing.
    pub fn record(&self) -> Option<Record> {
        let joined = self.run.is_some() || self.ledger.join(self.me).is_some();
        joined.then(|| {
            let cancel = self.ledger.cancel().map(|cancel| cancel.text().to_string());
            let run = Some(self.recorded_run());
            Record::new(&self.invitation, self.snapshots(), run, cancel)
        })
    }

    /// Whether somebody signed more than that it takes part.
    pub(super) fn is_worth_keeping(&self) -> bool {
        self.run.is_some()
            || self.ledger.cancel().is_some()
            || self.pids().any(|pid| self.ledger.abort(pid).is_some())
    }

    fn recorded_run(&self) -> Run {
        match &self.run {
            Some(run) => self.run_of(run),
            None => Run {
                joins: texts(
                    self.pids()
                        .filter_map(|pid| self.ledger.join(pid))
                        .map(Verified::text),
                ),
                aborts: texts(
                    self.pids()
                        .filter_map(|pid| self.ledger.abort(pid))
                        .map(Verified::text),
                ),
                ..Run::default()
            },
        }
    }

    fn run_of(&self, run: &HeldRun) -> Run {
        let roster = run.roster.digest();
        let confirms = if run.confirms.is_empty() {
            texts(self.confirms_of(&run.roster))
        } else {
            texts(run.confirms.iter())
        };
        let unsent = self.unsent_receipt.as_ref();
        let mut receipts: Vec<(Pid, &Verified<Receipt>)> = self
            .pids()
            .flat_map(|pid| self.ledger.receipts_of(pid, &roster).map(move |r| (pid, r)))
            .chain(unsent.map(|receipt| (self.me, receipt)))
            .collect();
        receipts.sort_by_key(|(pid, receipt)| (*pid, receipt.digest()));
        let mut aborts: Vec<_> = run
            .roster
            .members()
            .iter()
            .flat_map(|member| {
                let aborts = self.ledger.aborts_of(member.pid);
                let of_epoch = aborts.filter(|abort| abort.epoch == member.epoch);
                of_epoch.map(|abort| (member.pid, abort))
            })
            .collect();
        aborts.sort_by_key(|(pid, abort)| (*pid, abort.digest()));
        Run {
            joins: texts(run.joins.iter()),
            confirms,
            receipts: texts(receipts.iter().map(|(_, receipt)| receipt.text())),
            aborts: texts(aborts.iter().map(|(_, abort)| abort.text())),
        }
    }

    /// One confirm of each party for this roster, by position.
    fn confirms_of<'a>(&'a self, roster: &'a Roster) -> impl Iterator<Item = &'a Arc<str>> {
        self.pids().filter_map(|pid| {
            let member = roster.member(pid)?;
            let mut of_party = self.ledger.confirms_of(pid);
            let confirm = of_party.find(|confirm| {
                confirm.roster == roster.digest()
                    && confirm.epoch == member.epoch
                    && confirm.joins == roster.joins()
            });
            confirm.map(Verified::text)
        })
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        let parties = self
            .invitation
            .subject
            .parties
            .iter()
            .map(|party| &party.did);
        let dids = parties.chain(std::iter::once(&self.invitation.issuer));
        dids.filter_map(|did| self.snapshot(did)).collect()
    }

    fn snapshot(&self, did: &Did) -> Option<Snapshot> {
        match self.resolutions.get(did) {
            Some(Resolution::Known { keys, .. }) => Some(Snapshot::from(keys)),
            _ => DidKeyResolver
                .resolve(did)?
                .ok()
                .as_ref()
                .map(Snapshot::from),
        }
    }

    /// A roster is held: its joins are what the record shows.
    pub(super) fn record_roster(&mut self, roster: &Roster) {
        let joins = self.pids().filter_map(|pid| self.ledger.join(pid));
        self.run = Some(HeldRun {
            roster: roster.clone(),
            joins: joins.map(|join| join.text().clone()).collect(),
            confirms: Vec::new(),
        });
    }

    /// Every party confirmed.
    pub(super) fn record_confirms(&mut self) {
        let Some(run) = &self.run else { return };
        let confirms = self.confirms_of(&run.roster).cloned().collect();
        if let Some(run) = &mut self.run {
            run.confirms = confirms;
        }
    }

    /// Has the record kept; `what` is done when it is, or cannot be.
    pub(super) fn keep(&mut self, what: HeldWhat, now: Instant) {
        let Some(record) = self.record() else { return };
        let token = PersistToken(self.next_token);
        self.next_token += 1;
        self.emit(Event::Keep {
            token,
            record: Box::new(record),
        });
        let deadline = now + PERSIST_TIMEOUT;
        if matches!(what, HeldWhat::Receipt) {
            self.held.insert(token, Held { what, deadline });
        }
    }

    /// Keeps the own receipt, to send it after that.
    pub(super) fn hold_receipt(&mut self, receipt: Verified<Receipt>, now: Instant) {
        self.unsent_receipt = Some(receipt);
        self.keep(HeldWhat::Receipt, now);
        if weak!(self, SkipPersist) {
            self.send_receipt(now);
        }
    }

    pub(super) fn send_receipt(&mut self, now: Instant) {
        if let Some(receipt) = self.unsent_receipt.take() {
            self.publish(&Statement::Receipt(Box::new(receipt)), now);
        }
    }
}

fn texts<'a>(statements: impl Iterator<Item = &'a Arc<str>>) -> Vec<String> {
    statements.map(ToString::to_string).collect()
}
