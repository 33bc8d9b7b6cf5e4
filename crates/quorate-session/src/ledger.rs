//! Ledger: the verified statements of one session, as far as they still count.
//!
//! A statement enters once it is verified and admitted. It leaves when something newer of its issuer, or a newer roster,
//! makes it void. What is in the ledger is announced to other parties and handed to those who ask.
//!
//! ```text
//! join      newest epoch of a party counts; same epoch twice ─► equivocation, both kept as evidence
//! confirm   of the issuer's newest epoch, for a roster that was not given up
//! kem       for a roster that was not given up, one per pair and roster
//! abort     of the issuer's newest epoch
//! receipt   for a roster that was not given up
//! cancel    one
//! ```
//!
//! Limits: the caps per DID in `limits`; beyond them a statement is refused with `E_OVERFLOW` and its issuer named. What
//! was left out comes again with the next announcement, so a cap costs time, not agreement.

use crate::{
    limits::{
        MAX_ABORTS_PER_PARTY, MAX_CONFIRMS_PER_PARTY, MAX_EPOCH_AHEAD_MS, MAX_KEMS_PER_PAIR,
        MAX_RECEIPTS_PER_PARTY, MAX_REFUSED_DIGESTS,
    },
    message::{Abort, Cancel, Confirm, Join, Kem, Pid, Receipt, ReceiptOutcome},
    statement::Statement,
};
use quorate_identity::{Code, Digest, Rejection, UnixMillis, UnixTime, Verified};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What became of a verified statement.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It was there already.
    Known,
    /// It is new and counts from now on.
    New,
    /// It contradicts a statement of the same party: both texts.
    Equivocation(Arc<str>, Arc<str>),
}

type Admitted = Result<Admission, Rejection>;

#[derive(Default)]
pub(crate) struct Ledger {
    parties: usize,
    rejoin: usize,
    floors: Vec<UnixMillis>,
    joins: BTreeMap<Pid, Vec<Verified<Join>>>,
    confirms: BTreeMap<Pid, Vec<Verified<Confirm>>>,
    kems: BTreeMap<(Pid, Pid), Vec<Verified<Kem>>>,
    aborts: BTreeMap<Pid, Vec<Verified<Abort>>>,
    receipts: BTreeMap<Pid, Vec<Verified<Receipt>>>,
    cancel: Option<Verified<Cancel>>,
    /// Index of what counts, by digest.
    texts: BTreeMap<Digest, Arc<str>>,
    /// Joins that prove an equivocation; passed on so that everybody can see it.
    evidence: BTreeMap<Digest, Arc<str>>,
    /// The last receipt of a party whose program was done, also for a roster that was given up: when, and for which.
    done: BTreeMap<Pid, (UnixTime, Digest)>,
    /// Parties that `evidence` is about.
    convicted: BTreeSet<Pid>,
    /// Rosters that were given up; what names them is void.
    retired: BTreeSet<Digest>,
    /// Verified statements that were refused; not asked for again before something changes.
    refused: BTreeSet<Digest>,
    #[cfg(feature = "broken-variants")]
    pub uncapped: bool,
}

impl Ledger {
    /// `floors` is the lowest epoch that counts, by position; what an earlier start knew.
    pub fn new(parties: usize, rejoin: u8, floors: Vec<UnixMillis>) -> Self {
        Self {
            parties,
            rejoin: usize::from(rejoin),
            floors,
            ..Self::default()
        }
    }

    /// Takes a verified statement of the party at `pid` (for a cancel: of the issuer).
    pub fn admit(&mut self, statement: &Statement, pid: Pid, at: UnixTime) -> Admitted {
        if self.contains(&statement.digest()) {
            return Ok(Admission::Known);
        }
        let admitted = match statement {
            Statement::Join(join) => self.admit_join(join, pid, at),
            Statement::Confirm(confirm) => self.admit_confirm(confirm, pid),
            Statement::Kem(kem) => self.admit_kem(kem, pid),
            Statement::Abort(abort) => self.admit_abort(abort, pid),
            Statement::Receipt(receipt) => self.admit_receipt(receipt, pid),
            // One is enough; another would be passed on for ever.
            Statement::Cancel(_) if self.cancel.is_some() => Ok(Admission::Known),
            Statement::Cancel(cancel) => {
                self.cancel = Some((**cancel).clone());
                Ok(Admission::New)
            }
            Statement::Ready(_) => Err(Rejection::new(Code::Header, "S8", "a ready is not kept")),
        };
        match &admitted {
            Ok(Admission::New) => {
                self.texts
                    .insert(statement.digest(), statement.text().clone());
            }
            Err(rejection) if rejection.code != Code::Epoch => {
                self.remember_refused(statement.digest());
            }
            _ => {}
        }
        admitted.map_err(|rejection| rejection.about(statement.issuer().clone()))
    }

    fn admit_join(&mut self, join: &Verified<Join>, pid: Pid, at: UnixTime) -> Admitted {
        if join.pid != pid {
            let text = format!("party {pid} claims position {}", join.pid);
            return Err(Rejection::new(Code::Format, "S4", text));
        }
        let now_ms = u64::try_from(at.0).unwrap_or(0).saturating_mul(1000);
        if join.epoch.0 > now_ms.saturating_add(MAX_EPOCH_AHEAD_MS) {
            return Err(Rejection::new(
                Code::Epoch,
                "S4",
                "the join's epoch lies more than 5 minutes ahead",
            ));
        }
        if join.epoch < self.floor(pid) {
            let text = "the join is of an epoch that was over before this start";
            return Err(Rejection::new(Code::Stale, "S11", text));
        }
        let kept = self.joins.entry(pid).or_default();
        // One that was replaced comes again from a link that had not heard of the newer one.
        if kept.iter().any(|kept| kept.digest() == join.digest()) {
            let text = "the join was replaced by a newer one of its party";
            return Err(Rejection::new(Code::Stale, "S4", text));
        }
        if let Some(first) = kept.iter().find(|kept| kept.epoch == join.epoch) {
            let first = (first.digest(), first.text().clone());
            // One proof convicts a party; more would only be kept and sent.
            if !self.convicted.insert(pid) {
                let text = "one more join of an epoch that its party already used twice";
                return Err(Rejection::new(Code::Equivocation, "S4", text));
            }
            self.evidence.insert(join.digest(), join.text().clone());
            self.evidence.insert(first.0, first.1.clone());
            return Ok(Admission::Equivocation(first.1, join.text().clone()));
        }
        if kept.last().is_some_and(|newest| newest.epoch > join.epoch) {
            return Err(Rejection::new(
                Code::Stale,
                "S4",
                "the join is of an older epoch",
            ));
        }
        if kept.len() > self.rejoin {
            let text = format!("party {pid} joined again more than {} times", self.rejoin);
            return Err(Rejection::new(Code::Limit, "S9", text));
        }
        kept.push(join.clone());
        if let Some(confirms) = self.confirms.get_mut(&pid) {
            confirms.retain(|confirm| confirm.epoch >= join.epoch);
        }
        if let Some(aborts) = self.aborts.get_mut(&pid) {
            aborts.retain(|abort| abort.epoch >= join.epoch);
        }
        self.refused.clear();
        self.forget_texts();
        Ok(Admission::New)
    }

    fn admit_confirm(&mut self, confirm: &Verified<Confirm>, pid: Pid) -> Admitted {
        self.refuse_retired(&confirm.roster, "confirm")?;
        if confirm.joins.len() != self.parties {
            return Err(Rejection::new(
                Code::Format,
                "S6",
                "the confirm does not list one join per party",
            ));
        }
        if self
            .join(pid)
            .is_some_and(|join| confirm.epoch < join.epoch)
        {
            return Err(Rejection::new(
                Code::Stale,
                "S6",
                "the confirm is of an older epoch",
            ));
        }
        let uncapped = self.is_uncapped();
        let kept = self.confirms.entry(pid).or_default();
        if kept.len() >= MAX_CONFIRMS_PER_PARTY && !uncapped {
            return Err(overflow(pid, "confirms"));
        }
        kept.push(confirm.clone());
        Ok(Admission::New)
    }

    fn admit_kem(&mut self, kem: &Verified<Kem>, pid: Pid) -> Admitted {
        self.refuse_retired(&kem.roster, "key share")?;
        if pid >= kem.to || kem.to.index() >= self.parties {
            let text = format!("party {pid} has no key share to give to {}", kem.to);
            return Err(Rejection::new(Code::Kem, "S7", text));
        }
        let uncapped = self.is_uncapped();
        let kept = self.kems.entry((pid, kem.to)).or_default();
        if kept.iter().any(|kept| kept.roster == kem.roster) {
            return Err(Rejection::new(
                Code::Kem,
                "S7",
                "a second key share for one pair and roster",
            ));
        }
        if kept.len() >= MAX_KEMS_PER_PAIR && !uncapped {
            return Err(overflow(pid, "key shares"));
        }
        kept.push(kem.clone());
        Ok(Admission::New)
    }

    fn admit_abort(&mut self, abort: &Verified<Abort>, pid: Pid) -> Admitted {
        if self.join(pid).is_some_and(|join| abort.epoch < join.epoch)
            || abort.epoch < self.floor(pid)
        {
            return Err(Rejection::new(
                Code::Stale,
                "S9",
                "the abort is of an older epoch",
            ));
        }
        let kept = self.aborts.entry(pid).or_default();
        if kept.len() >= MAX_ABORTS_PER_PARTY {
            return Err(overflow(pid, "aborts"));
        }
        kept.push(abort.clone());
        Ok(Admission::New)
    }

    fn admit_receipt(&mut self, receipt: &Verified<Receipt>, pid: Pid) -> Admitted {
        if receipt.outcome == ReceiptOutcome::Done {
            self.done.insert(pid, (receipt.iat, receipt.roster));
        }
        self.refuse_retired(&receipt.roster, "receipt")?;
        let kept = self.receipts.entry(pid).or_default();
        if kept.len() >= MAX_RECEIPTS_PER_PARTY {
            return Err(overflow(pid, "receipts"));
        }
        kept.push(receipt.clone());
        Ok(Admission::New)
    }

    fn refuse_retired(&self, roster: &Digest, what: &str) -> Result<(), Rejection> {
        if self.retired.contains(roster) {
            return Err(Rejection::new(
                Code::Stale,
                "S6",
                format!("the {what} is for a roster that was given up"),
            ));
        }
        Ok(())
    }

    pub fn remember_refused(&mut self, digest: Digest) {
        if self.refused.len() >= MAX_REFUSED_DIGESTS && !self.is_uncapped() {
            self.refused.clear();
        }
        self.refused.insert(digest);
    }

    fn floor(&self, pid: Pid) -> UnixMillis {
        self.floors
            .get(pid.index())
            .copied()
            .unwrap_or(UnixMillis(0))
    }

    /// The lowest epoch of each party that counts in a later start.
    pub fn next_floors(&self) -> Vec<UnixMillis> {
        let next = |index| {
            let pid = Pid(u16::try_from(index).ok()?);
            let over = u64::from(self.abort(pid).is_some());
            Some(UnixMillis(self.join(pid)?.epoch.0.saturating_add(over)).max(self.floor(pid)))
        };
        (0..self.parties)
            .map(|index| {
                next(index)
                    .unwrap_or_else(|| self.floors.get(index).copied().unwrap_or(UnixMillis(0)))
            })
            .collect()
    }

    /// Gives up a roster: what names it is void from now on.
    pub fn retire(&mut self, roster: Digest) {
        self.retired.insert(roster);
        self.refused.clear();
        for confirms in self.confirms.values_mut() {
            confirms.retain(|confirm| confirm.roster != roster);
        }
        for kems in self.kems.values_mut() {
            kems.retain(|kem| kem.roster != roster);
        }
        for receipts in self.receipts.values_mut() {
            receipts.retain(|receipt| receipt.roster != roster);
        }
        self.forget_texts();
    }

    /// Drops from the index what counts no more; seldom, so it is simply made again.
    fn forget_texts(&mut self) {
        let current = self
            .current()
            .map(|(digest, text, _)| (digest, text.clone()));
        self.texts = current.collect();
    }

    /// The newest join of a party.
    pub fn join(&self, pid: Pid) -> Option<&Verified<Join>> {
        self.joins.get(&pid)?.last()
    }

    /// The newest join of every party, if all joined.
    pub fn all_joins(&self) -> Option<Vec<&Verified<Join>>> {
        (0..self.parties)
            .map(|index| self.join(Pid(u16::try_from(index).ok()?)))
            .collect()
    }

    pub fn has_confirmed(&self, pid: Pid, roster: &Digest) -> bool {
        self.confirms_of(pid)
            .any(|confirm| confirm.roster == *roster)
    }

    pub fn confirms_of(&self, pid: Pid) -> impl Iterator<Item = &Verified<Confirm>> {
        self.confirms.get(&pid).into_iter().flatten()
    }

    pub fn kem(&self, from: Pid, to: Pid, roster: &Digest) -> Option<&Verified<Kem>> {
        self.kems
            .get(&(from, to))?
            .iter()
            .find(|kem| kem.roster == *roster)
    }

    pub fn cancel(&self) -> Option<&Verified<Cancel>> {
        self.cancel.as_ref()
    }

    /// The first abort of a party that is still in the epoch in which it stopped.
    pub fn effective_abort(&self) -> Option<(Pid, &Verified<Abort>)> {
        self.aborts
            .keys()
            .find_map(|pid| Some((*pid, self.abort(*pid)?)))
    }

    /// The abort of `pid`, if it is still in the epoch in which it stopped.
    pub fn abort(&self, pid: Pid) -> Option<&Verified<Abort>> {
        let join = self.join(pid)?;
        let aborts = self.aborts.get(&pid)?;
        aborts.iter().find(|abort| abort.epoch == join.epoch)
    }

    /// A party that was done with another roster than `current` and did not join again since: it takes part no more.
    pub fn finished_without(&self, current: Option<Digest>) -> Option<Pid> {
        let since = |pid: &Pid, at: &UnixTime| self.join(*pid).is_some_and(|join| join.iat <= *at);
        let mut done = self
            .done
            .iter()
            .filter(|(pid, (at, roster))| Some(*roster) != current && since(pid, at));
        done.next().map(|(pid, _)| *pid)
    }

    pub fn receipt(&self, pid: Pid, roster: &Digest) -> Option<&Verified<Receipt>> {
        self.receipts_of(pid, roster).next()
    }

    /// More than one only of a party that contradicts itself.
    pub fn receipts_of(
        &self,
        pid: Pid,
        roster: &Digest,
    ) -> impl Iterator<Item = &Verified<Receipt>> {
        let kept = self.receipts.get(&pid).into_iter().flatten();
        let roster = *roster;
        kept.filter(move |receipt| receipt.roster == roster)
    }

    pub fn aborts_of(&self, pid: Pid) -> impl Iterator<Item = &Verified<Abort>> {
        self.aborts.get(&pid).into_iter().flatten()
    }

    /// All receipts of a roster, as text, by position.
    pub fn receipt_texts(&self, roster: &Digest) -> Vec<String> {
        self.receipts
            .keys()
            .filter_map(|pid| self.receipt(*pid, roster))
            .map(|r| r.text().to_string())
            .collect()
    }

    pub fn contains(&self, digest: &Digest) -> bool {
        self.text(digest).is_some()
    }

    /// Whether a statement of this digest would be taken if somebody sent it.
    pub fn wants(&self, digest: &Digest) -> bool {
        !self.refused.contains(digest) && !self.contains(digest)
    }

    /// The text of a statement that counts.
    pub fn text(&self, digest: &Digest) -> Option<&Arc<str>> {
        self.texts.get(digest).or_else(|| self.evidence.get(digest))
    }

    /// Digests to announce to the other end of a link. A key share is announced to whom it is for; to others only while
    /// its receiver has no link to us, so that they carry it.
    /// What is too old to be taken is kept to itself.
    pub fn announced_to(
        &self,
        other: Option<Pid>,
        linked: &BTreeSet<Pid>,
        at: UnixTime,
    ) -> Vec<Digest> {
        self.current()
            .filter(|(digest, _, _)| !self.is_expired(digest, at))
            .filter(|(_, _, receiver)| {
                receiver.is_none_or(|to| Some(to) == other || !linked.contains(&to))
            })
            .map(|(digest, _, _)| digest)
            .chain(self.evidence.keys().copied())
            .collect()
    }

    /// Whether others would refuse this for its age; of what is kept, only joins end.
    pub fn is_expired(&self, digest: &Digest, at: UnixTime) -> bool {
        let newest = self.joins.values().filter_map(|kept| kept.last());
        let mut expired = newest.filter(|join| join.exp < at);
        expired.any(|join| join.digest() == *digest)
    }

    /// Every statement that counts: digest, text, and the receiver if it is meant for one party.
    fn current(&self) -> impl Iterator<Item = (Digest, &Arc<str>, Option<Pid>)> {
        let joins = self
            .joins
            .values()
            .filter_map(|kept| kept.last())
            .map(|s| (s.digest(), s.text(), None));
        let confirms = self
            .confirms
            .values()
            .flatten()
            .map(|s| (s.digest(), s.text(), None));
        let kems = self
            .kems
            .values()
            .flatten()
            .map(|s| (s.digest(), s.text(), Some(s.to)));
        let aborts = self
            .aborts
            .values()
            .flatten()
            .map(|s| (s.digest(), s.text(), None));
        let receipts = self
            .receipts
            .values()
            .flatten()
            .map(|s| (s.digest(), s.text(), None));
        let cancel = self.cancel.iter().map(|s| (s.digest(), s.text(), None));
        joins
            .chain(confirms)
            .chain(kems)
            .chain(aborts)
            .chain(receipts)
            .chain(cancel)
    }

    /// Largest number of confirms kept of one party, and how many refused digests are remembered.
    pub fn usage(&self) -> (usize, usize) {
        (
            self.confirms.values().map(Vec::len).max().unwrap_or(0),
            self.refused.len(),
        )
    }

    #[cfg(feature = "broken-variants")]
    fn is_uncapped(&self) -> bool {
        self.uncapped
    }

    #[cfg(not(feature = "broken-variants"))]
    #[expect(clippy::unused_self, reason = "the broken variant looks at it")]
    fn is_uncapped(&self) -> bool {
        false
    }
}

fn overflow(pid: Pid, what: &str) -> Rejection {
    Rejection::new(
        Code::Overflow,
        "S5",
        format!("party {pid} signed more {what} than are kept"),
    )
}
