//! Statements of one session, one compact JWS a line: put together to the record that they are, and judged as one.
//!
//! The DID documents are not in such a file; a `did:key` is its own.

use std::collections::BTreeSet;

use quorate_identity::{
    Code, Did, DidKeyResolver, Rejection, Resolver, Statement, Unverified, peek_typ,
};
use quorate_session::{
    Invitation, Record,
    limits::MAX_PARTIES,
    message::{Abort, Cancel, Confirm, Join, Receipt},
    record::{RECORD_VERSION, Run, Snapshot},
};

/// Most lines: an invitation, a cancel, and of each party a join, a confirm, two receipts and two aborts.
const MAX_LINES: usize = 2 + 6 * MAX_PARTIES;

/// The record that the lines make.
pub fn record(text: &str) -> Result<Record, Rejection> {
    let refuse = |code, why: String| Rejection::new(code, "R1", why);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.len() > MAX_LINES {
        return Err(refuse(
            Code::Limit,
            format!("more than {MAX_LINES} statements"),
        ));
    }
    let (mut invitation, mut cancel) = (None, None);
    let mut run = Run::default();
    for line in &lines {
        let typ = peek_typ(line)?;
        let line = (*line).to_owned();
        match typ {
            Invitation::TYP if invitation.is_none() => invitation = Some(line),
            Cancel::TYP if cancel.is_none() => cancel = Some(line),
            Join::TYP => run.joins.push(line),
            Confirm::TYP => run.confirms.push(line),
            Receipt::TYP => run.receipts.push(line),
            Abort::TYP => run.aborts.push(line),
            other => {
                let why = format!(
                    "a {other} has no place among the statements of a session, or stands twice"
                );
                return Err(refuse(Code::Record, why));
            }
        }
    }
    let invitation = invitation.ok_or_else(|| {
        refuse(
            Code::Record,
            "there is no invitation among these statements".into(),
        )
    })?;
    let dids = documents(&invitation)?;
    let empty = run == Run::default();
    Ok(Record {
        v: RECORD_VERSION,
        invitation,
        dids,
        runs: if empty { Vec::new() } else { vec![run] },
        cancel,
    })
}

/// Documents of all who may have signed, by the DIDs themselves.
fn documents(invitation: &str) -> Result<Vec<Snapshot>, Rejection> {
    let parsed = Unverified::<Invitation>::parse(invitation)?;
    let parties = parsed
        .claims_unproven()
        .subject
        .parties
        .iter()
        .map(|party| &party.did);
    let dids: BTreeSet<&Did> = parties.chain([parsed.issuer()]).collect();
    let resolve = |did: &Did| -> Result<Snapshot, Rejection> {
        let answer = DidKeyResolver.resolve(did).ok_or_else(|| {
            let text =
                format!("{did} cannot be resolved offline: its document is in the record only");
            Rejection::new(Code::DidResolve, "D3", text).about(did.clone())
        })?;
        Ok(Snapshot::from(&answer?))
    };
    dids.into_iter().map(resolve).collect()
}
