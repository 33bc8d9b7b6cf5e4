//! Verdict: what a genuine record shows, and what it lacks.

use crate::{
    message::{
        Abort, Cancel, Confirm, Invitation, InvitationSubject, Join, Pid, Receipt, ReceiptOutcome,
    },
    roster::Roster,
};
use quorate_identity::{CLOCK_SKEW_SECONDS, Did, Digest, Verified};
use std::fmt;

/// What a record proves.
#[derive(Debug)]
pub struct Verdict {
    /// Digest of the invitation: the session's name.
    pub session: Digest,
    /// The invitation.
    pub invitation: Verified<Invitation>,
    /// Roster by roster; the newest last.
    pub runs: Vec<RunVerdict>,
    /// The organizer's cancel, if there is one.
    pub cancel: Option<Verified<Cancel>>,
}

/// What was signed under one roster.
#[derive(Debug)]
pub struct RunVerdict {
    /// The roster, if all joins are there to make it.
    pub roster: Option<Roster>,
    /// The roster that confirms and receipts name; none where there are none of them.
    pub named: Option<Digest>,
    /// The parties, by position.
    pub parties: Vec<PartyVerdict>,
}

/// What one party signed under one roster.
#[derive(Debug, Default)]
pub struct PartyVerdict {
    /// Its join.
    pub join: Option<Verified<Join>>,
    /// Its confirm.
    pub confirm: Option<Verified<Confirm>>,
    /// Its receipts: one, unless it signed two different ones.
    pub receipts: Vec<Verified<Receipt>>,
    /// Its aborts.
    pub aborts: Vec<Verified<Abort>>,
}

/// How the session ended, as far as the record shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every party signed that it was done.
    Finished,
    /// A party signed that its run failed or was aborted.
    Failed,
    /// Those who signed were done; others did not sign.
    Unfinished,
    /// Nobody signed a receipt.
    NotRun,
    /// Nobody signed a receipt, and the organizer cancelled.
    Cancelled,
}

/// A signature that is not in the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The party that did not sign.
    pub pid: Pid,
    /// `join`, `confirm` or `receipt`.
    pub what: &'static str,
}

/// Statements of one run that cannot all be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// A party signed two different receipts of one run.
    TwoReceipts(Pid),
    /// The first party was done; the second says that the run failed or was aborted.
    Outcome(Pid, Pid),
    /// The run of the second party began after that of the first one had ended, by seconds.
    Times(Pid, Pid, i64),
}

impl Verdict {
    /// The newest run; what the record is judged by.
    pub fn newest(&self) -> Option<&RunVerdict> {
        self.runs.last()
    }

    /// Signatures that the newest run lacks.
    pub fn lacks(&self) -> Vec<Lack> {
        let lack = |index: usize, what| Lack {
            pid: Pid(u16::try_from(index).unwrap_or(u16::MAX)),
            what,
        };
        let parties = self.newest().map_or(&[][..], |run| &run.parties[..]);
        let mut lacks = Vec::new();
        for index in 0..self.invitation.subject.parties.len() {
            let party = parties.get(index);
            let there = |is: fn(&PartyVerdict) -> bool| party.is_some_and(is);
            if !there(|party| party.join.is_some()) {
                lacks.push(lack(index, "join"));
            }
            if !there(|party| party.confirm.is_some()) {
                lacks.push(lack(index, "confirm"));
            }
            if !there(|party| !party.receipts.is_empty()) {
                lacks.push(lack(index, "receipt"));
            }
        }
        lacks
    }

    /// Whether every party signed join, confirm and receipt of the newest run.
    pub fn is_complete(&self) -> bool {
        self.lacks().is_empty()
    }

    /// How the session ended.
    pub fn standing(&self) -> Standing {
        let Some(run) = self.newest() else {
            return self.not_run();
        };
        let outcomes: Vec<ReceiptOutcome> =
            run.receipts().map(|(_, receipt)| receipt.outcome).collect();
        if outcomes.is_empty() {
            self.not_run()
        } else if outcomes
            .iter()
            .any(|outcome| *outcome != ReceiptOutcome::Done)
        {
            Standing::Failed
        } else if run.parties.iter().any(|party| party.receipts.is_empty()) {
            Standing::Unfinished
        } else {
            Standing::Finished
        }
    }

    fn not_run(&self) -> Standing {
        match self.cancel {
            Some(_) => Standing::Cancelled,
            None => Standing::NotRun,
        }
    }

    /// The name of a party in the invitation.
    pub fn name(&self, pid: Pid) -> &str {
        let party = self.invitation.subject.parties.get(pid.index());
        party.map_or("", |party| &party.name)
    }

    /// The DID of a party.
    pub fn did(&self, pid: Pid) -> Option<&Did> {
        let party = self.invitation.subject.parties.get(pid.index())?;
        Some(&party.did)
    }
}

impl RunVerdict {
    pub(super) fn new(
        subject: &InvitationSubject,
        roster: Option<Roster>,
        named: Option<Digest>,
        joins: Vec<(Pid, Verified<Join>)>,
        confirms: Vec<(Pid, Verified<Confirm>)>,
        receipts: Vec<(Pid, Verified<Receipt>)>,
        aborts: Vec<(Pid, Verified<Abort>)>,
    ) -> Self {
        let mut parties: Vec<PartyVerdict> = Vec::new();
        parties.resize_with(subject.parties.len(), PartyVerdict::default);
        // Each position was looked up in this list of parties.
        for (pid, join) in joins {
            parties[pid.index()].join = Some(join);
        }
        for (pid, confirm) in confirms {
            parties[pid.index()].confirm = Some(confirm);
        }
        for (pid, receipt) in receipts {
            parties[pid.index()].receipts.push(receipt);
        }
        for (pid, abort) in aborts {
            parties[pid.index()].aborts.push(abort);
        }
        Self {
            roster,
            named,
            parties,
        }
    }

    /// The name of the roster: what is named, or what the joins make.
    pub fn digest(&self) -> Option<Digest> {
        self.named
            .or_else(|| self.roster.as_ref().map(Roster::digest))
    }

    /// All receipts, with the position of their party.
    pub fn receipts(&self) -> impl Iterator<Item = (Pid, &Verified<Receipt>)> {
        self.positions()
            .flat_map(|(pid, party)| party.receipts.iter().map(move |receipt| (pid, receipt)))
    }

    /// All aborts, with the position of their party.
    pub fn aborts(&self) -> impl Iterator<Item = (Pid, &Verified<Abort>)> {
        self.positions()
            .flat_map(|(pid, party)| party.aborts.iter().map(move |abort| (pid, abort)))
    }

    fn positions(&self) -> impl Iterator<Item = (Pid, &PartyVerdict)> {
        self.parties
            .iter()
            .enumerate()
            .map(|(index, party)| (Pid(u16::try_from(index).unwrap_or(u16::MAX)), party))
    }

    /// What decides the order of runs: later rosters have later epochs.
    pub(super) fn order(&self) -> (u128, Option<Digest>) {
        let epochs: Vec<u128> = self
            .parties
            .iter()
            .filter_map(|party| Some(u128::from(party.join.as_ref()?.epoch.0)))
            .collect();
        let count = u128::try_from(epochs.len()).unwrap_or(u128::MAX).max(1);
        (epochs.iter().sum::<u128>() / count, self.digest())
    }

    /// Receipts that cannot all be right.
    pub fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        for (pid, party) in self.positions() {
            if party.receipts.len() > 1 {
                found.push(Contradiction::TwoReceipts(pid));
            }
        }
        let done = |receipt: &Receipt| receipt.outcome == ReceiptOutcome::Done;
        let first_done = self.receipts().find(|(_, receipt)| done(receipt));
        let not_done = self.receipts().filter(|(_, receipt)| !done(receipt));
        if let Some((first, _)) = first_done {
            found.extend(not_done.map(|(pid, _)| Contradiction::Outcome(first, pid)));
        }
        let earliest = self.receipts().min_by_key(|(_, receipt)| receipt.end);
        let latest = self.receipts().max_by_key(|(_, receipt)| receipt.start);
        if let (Some((early, ended)), Some((late, began))) = (earliest, latest) {
            let gap = began.start.0.saturating_sub(ended.end.0);
            if gap > CLOCK_SKEW_SECONDS {
                found.push(Contradiction::Times(early, late, gap));
            }
        }
        found
    }
}

impl Standing {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Unfinished => "unfinished",
            Self::NotRun => "not-run",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoReceipts(pid) => {
                write!(f, "party {pid} signed two different receipts of one run")
            }
            Self::Outcome(done, not) => write!(
                f,
                "party {done} was done, party {not} says that the run did not end well"
            ),
            Self::Times(first, second, gap) => write!(
                f,
                "the run of party {second} began {gap} s after that of party {first} had ended"
            ),
        }
    }
}
