//! Two records of one session as one: what a party missed, another one's copy can add.
//!
//! Only verified statements go in, so a merge cannot make a record worse than the better of the two; a party that signed
//! two different receipts is not hidden by it.

use super::{PartyVerdict, Record, Run, RunVerdict, Verdict};
use crate::limits::{MAX_ABORTS_PER_PARTY, MAX_RECEIPTS_PER_PARTY, MAX_RECORD_RUNS};
use quorate_identity::{Code, Rejection, Verified};

impl Record {
    /// This record with what `other`, of the same session, has more. Both are verified first.
    pub fn merge(&self, other: &Self) -> Result<Self, Rejection> {
        let (ours, theirs) = (self.verify()?, other.verify()?);
        if ours.session != theirs.session {
            let text = "a record of another session";
            return Err(Rejection::new(Code::Stale, "R3", text));
        }
        let mut dids = self.dids.clone();
        for snapshot in &other.dids {
            if !dids.iter().any(|known| known.did == snapshot.did) {
                dids.push(snapshot.clone());
            }
        }
        dids.sort_by(|a, b| a.did.cmp(&b.did));
        let cancel = self.cancel.clone().or_else(|| other.cancel.clone());
        let merged = Self {
            v: self.v,
            invitation: self.invitation.clone(),
            dids,
            runs: merge_runs(ours, theirs),
            cancel,
        };
        merged.verify()?;
        Ok(merged)
    }
}

fn merge_runs(ours: Verdict, theirs: Verdict) -> Vec<Run> {
    let mut runs = ours.runs;
    for run in theirs.runs {
        let same =
            |known: &&mut RunVerdict| run.digest().is_some() && known.digest() == run.digest();
        match runs.iter_mut().find(same) {
            Some(known) => known.absorb(run),
            None => runs.push(run),
        }
    }
    runs.sort_by_key(RunVerdict::order);
    // What came to no roster is of interest only while nothing came after it.
    let last = runs.len().saturating_sub(1);
    let mut index = 0;
    runs.retain(|run| {
        index += 1;
        run.digest().is_some() || index > last
    });
    let surplus = runs.len().saturating_sub(MAX_RECORD_RUNS);
    runs.drain(..surplus);
    runs.iter().map(RunVerdict::statements).collect()
}

impl RunVerdict {
    /// Takes what another record has of the same run.
    fn absorb(&mut self, other: Self) {
        for (known, more) in self.parties.iter_mut().zip(other.parties) {
            known.absorb(more);
        }
        self.named = self.named.or(other.named);
        self.roster = self.roster.take().or(other.roster);
    }

    /// The statements, in the order of the record's form.
    fn statements(&self) -> Run {
        let mut run = Run::default();
        for party in &self.parties {
            run.joins.extend(party.join.iter().map(text));
            run.confirms.extend(party.confirm.iter().map(text));
            run.receipts.extend(party.receipts.iter().map(text));
            run.aborts.extend(party.aborts.iter().map(text));
        }
        run
    }
}

impl PartyVerdict {
    fn absorb(&mut self, other: Self) {
        self.join = self.join.take().or(other.join);
        self.confirm = self.confirm.take().or(other.confirm);
        unite(&mut self.receipts, other.receipts, MAX_RECEIPTS_PER_PARTY);
        unite(&mut self.aborts, other.aborts, MAX_ABORTS_PER_PARTY);
    }
}

fn unite<T>(known: &mut Vec<Verified<T>>, more: Vec<Verified<T>>, most: usize) {
    for statement in more {
        let is_new = known
            .iter()
            .all(|other| other.digest() != statement.digest());
        if is_new && known.len() < most {
            known.push(statement);
        }
    }
    known.sort_by_key(Verified::digest);
}

fn text<T>(statement: &Verified<T>) -> String {
    statement.text().to_string()
}
