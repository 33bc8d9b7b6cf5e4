//! Verification of a record: every signature, one session, one roster per run.
//!
//! ```text
//! documents ─► keys by DID ─► invitation ─► per run: statements ─► roster of the joins = what all name ─► Verdict
//! ```
//! No clock is read: each statement is judged at the time it gives itself. So a record stays verifiable for ever, and what
//! is proven is that its statements fit together, not when they were made.

use super::{Record, Run, RunVerdict, Verdict};
use crate::{
    checks::{Proposal, check_controllers},
    limits::{MAX_ABORTS_PER_PARTY, MAX_RECEIPTS_PER_PARTY},
    message::{Abort, Cancel, Confirm, Invitation, Join, Pid, Receipt, check_envelope},
    roster::Roster,
};
use quorate_identity::{
    CLOCK_SKEW_SECONDS, Code, Did, Digest, Rejection, ResolvedDid, Statement, Unverified, Verified,
};
use std::collections::BTreeMap;

/// A statement that a record holds beside the invitation.
trait Entry: Statement {
    /// The word for it.
    const NAME: &'static str;
    /// Whether it could only be made before the program started.
    const BEFORE_START: bool;
    fn inv(&self) -> Digest;
}

macro_rules! entries {
    ($($kind:ident $name:literal $before:literal;)*) => {$(
        impl Entry for $kind {
            const NAME: &'static str = $name;
            const BEFORE_START: bool = $before;
            fn inv(&self) -> Digest { self.inv }
        }
    )*};
}

entries! {
    Join "join" true;
    Confirm "confirm" true;
    Receipt "receipt" false;
    Abort "abort" false;
    Cancel "cancel" false;
}

impl Record {
    /// Judges the record. `Ok` means that everything in it is genuine and fits together; the [`Verdict`] says what is
    /// missing. Anything altered, foreign, repeated or out of order is refused and named.
    pub fn verify(&self) -> Result<Verdict, Rejection> {
        self.check_lengths()?;
        let keys = self.keys()?;
        let invitation = self.verified_invitation(&keys)?;
        let judge = Judge {
            inv: invitation.digest(),
            invitation: &invitation,
            keys: &keys,
        };
        judge.check_documents()?;
        let mut runs: Vec<RunVerdict> = Vec::new();
        for run in &self.runs {
            let run = judge.run(run)?;
            if runs.last().is_some_and(|last| last.order() >= run.order()) {
                let text = "the runs are not in the order of their epochs, or one stands twice";
                return Err(Rejection::new(Code::Record, "R5", text));
            }
            runs.push(run);
        }
        let cancel = self.cancel.as_deref();
        let cancel = cancel.map(|text| judge.cancel(text)).transpose()?;
        Ok(Verdict {
            session: judge.inv,
            runs,
            cancel,
            invitation,
        })
    }

    fn keys(&self) -> Result<BTreeMap<Did, ResolvedDid>, Rejection> {
        let ordered = self.dids.is_sorted_by(|a, b| a.did < b.did);
        if !ordered {
            let text = "the DID documents are not in order, or one stands twice";
            return Err(Rejection::new(Code::Record, "R5", text));
        }
        let resolve = |snapshot: &super::Snapshot| Ok((snapshot.did.clone(), snapshot.resolve()?));
        self.dids.iter().map(resolve).collect()
    }

    fn verified_invitation(
        &self,
        keys: &BTreeMap<Did, ResolvedDid>,
    ) -> Result<Verified<Invitation>, Rejection> {
        let parsed =
            Unverified::<Invitation>::parse(&self.invitation).map_err(in_the("invitation"))?;
        let at = parsed.claims_unproven().valid_from;
        let issuer = keys
            .get(parsed.issuer())
            .ok_or_else(|| no_document(parsed.issuer()))?;
        let invitation = parsed.verify(issuer, at).map_err(in_the("invitation"))?;
        check_envelope(&invitation)?;
        check_controllers(&invitation.subject)?;
        Ok(invitation)
    }
}

/// What every statement of one record is judged by.
struct Judge<'a> {
    inv: Digest,
    invitation: &'a Verified<Invitation>,
    keys: &'a BTreeMap<Did, ResolvedDid>,
}

/// Verified statements of one kind, each with its party.
type Entries<T> = Vec<(Pid, Verified<T>)>;

impl Judge<'_> {
    /// Only documents of those who could sign something.
    fn check_documents(&self) -> Result<(), Rejection> {
        let foreign = self.keys.keys().find(|did| {
            **did != self.invitation.issuer && self.invitation.subject.pid_of(did).is_none()
        });
        foreign.map_or(Ok(()), |did| {
            let text = format!("a DID document of {did}, who is neither a party nor the organizer");
            Err(Rejection::new(Code::Record, "R2", text).about(did.clone()))
        })
    }

    fn run(&self, run: &Run) -> Result<RunVerdict, Rejection> {
        let joins: Entries<Join> = self.entries(&run.joins, 1)?;
        let confirms: Entries<Confirm> = self.entries(&run.confirms, 1)?;
        let receipts: Entries<Receipt> = self.entries(&run.receipts, MAX_RECEIPTS_PER_PARTY)?;
        let aborts: Entries<Abort> = self.entries(&run.aborts, MAX_ABORTS_PER_PARTY)?;
        if joins.is_empty() {
            let text = "a run without any join";
            return Err(Rejection::new(Code::Record, "R4", text));
        }
        check_positions(&joins)?;
        let roster = self.roster(&joins, &confirms)?;
        let named = agree_on_roster(roster.as_ref(), &confirms, &receipts)?;
        self.check_confirms(&joins, &confirms)?;
        for (pid, abort) in &aborts {
            let join = joins.iter().find(|(of, _)| of == pid);
            if join.is_none_or(|(_, join)| join.epoch != abort.epoch) {
                let text =
                    format!("the abort of party {pid} is of an epoch that is not in this run");
                return Err(Rejection::new(Code::Stale, "R4", text).about(abort.iss.clone()));
            }
        }
        Ok(RunVerdict::new(
            &self.invitation.subject,
            roster,
            named,
            joins,
            confirms,
            receipts,
            aborts,
        ))
    }

    /// The statements of one list: each verified, in order, none twice.
    fn entries<T: Entry>(
        &self,
        texts: &[String],
        per_party: usize,
    ) -> Result<Entries<T>, Rejection> {
        if texts.len() > per_party * self.invitation.subject.parties.len() {
            let text = format!("more {}s than the parties of a run can sign", T::NAME);
            return Err(Rejection::new(Code::Limit, "R1", text));
        }
        let mut entries: Entries<T> = Vec::new();
        for text in texts {
            let (pid, entry) = self.entry::<T>(text)?;
            let refuse = |why: &str| {
                let text = format!("the {} of party {pid} {why}", T::NAME);
                Rejection::new(Code::Record, "R5", text).about(entry.issuer().clone())
            };
            if entries
                .iter()
                .any(|(_, other)| other.digest() == entry.digest())
            {
                return Err(refuse("stands twice"));
            }
            if entries.iter().filter(|(of, _)| *of == pid).count() >= per_party {
                return Err(refuse("is one more than a run can have"));
            }
            if entries
                .last()
                .is_some_and(|(of, other)| (*of, other.digest()) > (pid, entry.digest()))
            {
                return Err(refuse("is not in its place: the list is out of order"));
            }
            entries.push((pid, entry));
        }
        Ok(entries)
    }

    /// A party's statement: of this session, by a key of its DID that the invitation pins, in its time.
    fn entry<T: Entry>(&self, text: &str) -> Result<(Pid, Verified<T>), Rejection> {
        let parsed = Unverified::<T>::parse(text).map_err(in_the(T::NAME))?;
        let issuer = parsed.issuer().clone();
        if parsed.claims_unproven().inv() != self.inv {
            let text = format!("a {} of another session", T::NAME);
            return Err(Rejection::new(Code::Stale, "R3", text).about(issuer));
        }
        let Some(pid) = self.invitation.subject.pid_of(&issuer) else {
            let text = format!("a {} by somebody who is not a party", T::NAME);
            return Err(Rejection::new(Code::NotMember, "R3", text).about(issuer));
        };
        let verified = self.verified(parsed)?;
        let pinned = &self.invitation.subject.parties[pid.index()].keys;
        if !pinned.contains(&verified.key().thumbprint()) {
            let text = format!(
                "the {} of party {pid} is signed by a key that the invitation does not pin",
                T::NAME
            );
            return Err(Rejection::new(Code::Kid, "R3", text).about(issuer));
        }
        Ok((pid, verified))
    }

    fn cancel(&self, text: &str) -> Result<Verified<Cancel>, Rejection> {
        let parsed = Unverified::<Cancel>::parse(text).map_err(in_the("cancel"))?;
        let issuer = parsed.issuer().clone();
        if parsed.claims_unproven().inv != self.inv {
            let text = "a cancel of another session";
            return Err(Rejection::new(Code::Stale, "R3", text).about(issuer));
        }
        if issuer != self.invitation.issuer {
            let text = "a cancel that is not by the organizer";
            return Err(Rejection::new(Code::NotIssuer, "R3", text).about(issuer));
        }
        self.verified(parsed)
    }

    /// Signature, key and relationship, at the time the statement gives itself; and that time within the session's.
    fn verified<T: Entry>(&self, parsed: Unverified<T>) -> Result<Verified<T>, Rejection> {
        let issuer = parsed.issuer().clone();
        let keys = self.keys.get(&issuer).ok_or_else(|| no_document(&issuer))?;
        let at = parsed.claims_unproven().validity().not_before;
        let at = at.unwrap_or(self.invitation.valid_from);
        let verified = parsed.verify(keys, at).map_err(in_the(T::NAME))?;
        let from = self.invitation.valid_from.plus_seconds(-CLOCK_SKEW_SECONDS);
        let until = self.invitation.valid_until.plus_seconds(CLOCK_SKEW_SECONDS);
        if at < from || (T::BEFORE_START && at > until) {
            let text = format!(
                "the {} says that it was made at {}, when the invitation did not count",
                T::NAME,
                at.rfc3339()
            );
            return Err(Rejection::new(Code::Time, "R6", text).about(issuer));
        }
        Ok(verified)
    }

    /// The roster of all joins, which must pass the checks that every party makes before it confirms.
    fn roster(
        &self,
        joins: &Entries<Join>,
        confirms: &Entries<Confirm>,
    ) -> Result<Option<Roster>, Rejection> {
        let all: Vec<&Verified<Join>> = joins.iter().map(|(_, join)| join).collect();
        let (Some(first), true) = (
            all.first(),
            all.len() == self.invitation.subject.parties.len(),
        ) else {
            return Ok(None);
        };
        let roster = Roster::build(&self.inv, &all)?;
        // A set of joins that nobody confirmed may fail the checks; that is why nobody did.
        let Some(at) = confirms.iter().map(|(_, confirm)| confirm.iat).min() else {
            return Ok(Some(roster));
        };
        let proposal = Proposal {
            invitation: self.invitation,
            inv: self.inv,
            joins: &all,
            me: Pid(0),
            own: Some(first.digest()),
            fingerprint: &first.fp,
            approved: true,
            cancelled: false,
            at,
        };
        // Who copied a key from whom cannot be told from outside.
        proposal.check().map_err(|mut rejection| {
            rejection.whom = rejection
                .whom
                .filter(|_| rejection.code != Code::DuplicateKey);
            in_the("roster")(rejection)
        })?;
        Ok(Some(roster))
    }

    /// Confirms list the joins that the roster is made of, and the own epoch in it.
    fn check_confirms(
        &self,
        joins: &Entries<Join>,
        confirms: &Entries<Confirm>,
    ) -> Result<(), Rejection> {
        let parties = self.invitation.subject.parties.len();
        for (pid, confirm) in confirms {
            let refuse = |why: &str| {
                let text = format!("the confirm of party {pid} {why}");
                Rejection::new(Code::Record, "R4", text).about(confirm.iss.clone())
            };
            if confirm.joins.len() != parties {
                return Err(refuse("does not list one join per party"));
            }
            let listed = |(of, join): &(Pid, Verified<Join>)| {
                confirm.joins.get(of.index()) == Some(&join.digest())
            };
            if !joins.iter().all(listed) {
                return Err(refuse("lists another join than this run has"));
            }
            let own = joins.iter().find(|(of, _)| of == pid);
            if own.is_some_and(|(_, join)| join.epoch != confirm.epoch) {
                return Err(refuse("is of another epoch than its party's join"));
            }
        }
        Ok(())
    }
}

/// Each join stands at the position of its party.
fn check_positions(joins: &Entries<Join>) -> Result<(), Rejection> {
    let Some((pid, join)) = joins.iter().find(|(pid, join)| join.pid != *pid) else {
        return Ok(());
    };
    let text = format!("the join of party {pid} claims position {}", join.pid);
    Err(Rejection::new(Code::Format, "R4", text).about(join.iss.clone()))
}

/// The roster that the joins make, and that confirms and receipts name; without all joins what they name, if they agree. An
/// abort counts by its epoch: who gives up may have held another roster, or none.
fn agree_on_roster(
    roster: Option<&Roster>,
    confirms: &Entries<Confirm>,
    receipts: &Entries<Receipt>,
) -> Result<Option<Digest>, Rejection> {
    let mut expected = roster.map(Roster::digest);
    let of_confirms = confirms.iter().map(|(_, c)| ("confirm", &c.iss, c.roster));
    let of_receipts = receipts.iter().map(|(_, r)| ("receipt", &r.iss, r.roster));
    let mut signed = false;
    for (what, issuer, named) in of_confirms.chain(of_receipts) {
        signed = true;
        if *expected.get_or_insert(named) == named {
            continue;
        }
        let text = if roster.is_some() {
            format!("a {what} names another roster than the joins make")
        } else {
            format!("a {what} names another roster than the others")
        };
        return Err(Rejection::new(Code::Record, "R4", text).about(issuer.clone()));
    }
    Ok(expected.filter(|_| signed))
}

/// Says in which kind of statement a refusal was found.
fn in_the(what: &'static str) -> impl Fn(Rejection) -> Rejection {
    move |mut rejection| {
        rejection.detail = format!("{what}: {}", rejection.detail);
        rejection
    }
}

fn no_document(did: &Did) -> Rejection {
    let text = format!("the DID document of {did} is missing");
    Rejection::new(Code::Record, "R2", text).about(did.clone())
}
