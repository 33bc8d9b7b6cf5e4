//! What is refused before anybody is asked: terms that protect nothing, keys that everybody has.

use quorate_identity::{Code, Did, check_published};
use quorate_session::{
    Invitation, check_controllers,
    message::{Mpc, default_threshold},
};

use crate::failure::Failure;

/// The invitation's terms and parties, as far as they concern the privacy of inputs.
pub fn check_invitation(invitation: &Invitation, agreed: bool) -> Result<(), Failure> {
    let subject = &invitation.subject;
    check_keys(subject.parties.iter().map(|p| &p.did))?;
    check_controllers(subject)?;
    check_threshold(&subject.mpc, agreed)
}

/// Terms under which every party learns all inputs need a word of their own (`agreed`).
pub fn check_threshold(mpc: &Mpc, agreed: bool) -> Result<(), Failure> {
    if mpc.t > 0 || agreed {
        return Ok(());
    }
    let why = format!(
        "NO PRIVACY: among {} parties with threshold 0, each share is the secret itself: every party can learn every input",
        mpc.m
    );
    Err(Failure::new(Code::Threshold, why)
        .hint("ask for three parties or more; or, if no input is private, add --no-privacy"))
}

/// The same for an organizer, who can still choose.
pub fn check_terms(parties: usize, threshold: Option<u16>, agreed: bool) -> Result<(), Failure> {
    let m = u16::try_from(parties).unwrap_or(u16::MAX);
    if agreed || threshold.unwrap_or_else(|| default_threshold(m)) > 0 {
        return Ok(());
    }
    let why = format!(
        "NO PRIVACY: {m} parties with threshold 0 cannot hide inputs from each other: each share is the secret itself"
    );
    Err(Failure::new(Code::Threshold, why).hint(
        "invite at least three parties with a threshold of at least 1; or, if no input is private, add --no-privacy",
    ))
}

/// Nobody takes part with a key whose secret is public.
pub fn check_keys<'a>(dids: impl IntoIterator<Item = &'a Did>) -> Result<(), Failure> {
    for did in dids {
        check_published(did).map_err(|refusal| {
            Failure::from(refusal).hint(
                "it was copied from a document; each party's own DID is what `quorate id show` prints on its machine",
            )
        })?;
    }
    Ok(())
}
