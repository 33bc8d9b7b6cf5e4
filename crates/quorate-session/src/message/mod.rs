//! Wire objects of the session protocol `quorate/1`.
//!
//! ```text
//! invitation  vc+jwt                organizer   what is proposed: parties, program, threshold, times
//! hello       quorate-hello+jwt     member      who is at the end of an overlay link (never flooded)
//! join        quorate-join+jwt      member      I take part, with these fresh keys
//! confirm     quorate-confirm+jwt   member      I hold this roster
//! kem         quorate-kem+jwt       member i<j  key share for the pair (i, j) of a roster
//! ready       quorate-ready+jwt     member      my mesh works (only inside the tunnel, never flooded)
//! abort       quorate-abort+jwt     member      I stop, because
//! cancel      quorate-cancel+jwt    issuer      nobody shall compute
//! receipt     quorate-receipt+jwt   member      what I saw happen
//! whereabouts quorate-whereabouts+jwt member    where I can be reached in this hour (sealed, at nodes that nobody trusts)
//!
//! before there is a session:
//! call        vc+jwt                inviter     the same as an invitation, with free seats
//! apply       quorate-apply+jwt     applicant   I want a seat (only to the inviter, never flooded)
//! card        vc+jwt                anybody     my DID, my name, a key to seal invitations to
//! pass        quorate-pass+jwt      anybody     my DID, to a relay that serves listed DIDs only (never flooded)
//! ```
//!
//! Every statement after the invitation carries `inv`, the digest that names the session, so that none counts in another
//! session; all but cancel carry what binds them to one epoch or roster. Unknown members are refused.

mod abort;
mod apply;
mod call;
mod cancel;
mod card;
mod confirm;
mod engine;
mod hello;
mod invitation;
mod join;
mod kem;
mod pass;
mod ready;
mod receipt;
mod whereabouts;

pub use abort::{Abort, CodeText};
pub use apply::Apply;
pub(crate) use call::check_call_envelope;
pub use call::{Call, CallDraft, CallSubject, CallTimes, check_closed, close};
pub use cancel::Cancel;
pub use card::{Card, CardSubject, card, verify_card};
pub use confirm::Confirm;
pub use engine::Engine;
pub use hello::Hello;
pub(crate) use invitation::check_envelope;
pub use invitation::{
    Invitation, InvitationDraft, InvitationSubject, InvitedParty, Mpc, Net, PartyDraft, PathPolicy,
    Policy, PostQuantum, Program, ReceiptPolicy, Rendezvous, SameController, Times,
    default_threshold,
};
pub use join::{Fingerprint, JOIN_KEM, Join, KemKey, peer_signature_input};
pub use kem::Kem;
pub use pass::Pass;
pub use ready::Ready;
pub use receipt::{Receipt, ReceiptOutcome};
pub use whereabouts::Whereabouts;

use quorate_identity::{Code, Rejection, UnixTime, Validity};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The protocol version every wire object states as `v`.
pub const PROTOCOL_VERSION: u8 = 1;

/// Position of a party in the invitation's list, which is its index in the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(pub u16);

impl Pid {
    /// Its place in a list of the parties.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Refuses any protocol version but ours.
fn check_version(v: u8) -> Result<(), Rejection> {
    if v == PROTOCOL_VERSION {
        return Ok(());
    }
    let text = format!("speaks protocol version {v}, this is version {PROTOCOL_VERSION}");
    Err(Rejection::new(Code::Version, "S1", text))
}

/// Refuses text that is too long, or could change how a terminal shows what surrounds it.
fn check_text(what: &str, text: &str, max_chars: usize) -> Result<(), Rejection> {
    if text.chars().count() > max_chars {
        return Err(Rejection::new(
            Code::Limit,
            "S3",
            format!("{what} is longer than {max_chars} characters"),
        ));
    }
    if text.chars().any(is_unprintable) {
        return Err(Rejection::new(
            Code::Format,
            "S3",
            format!("{what} has control or direction characters"),
        ));
    }
    Ok(())
}

/// Controls, and the format characters that reorder or hide neighbouring text.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Refuses a statement that lives longer than its kind may, or ends before it begins.
fn check_lifetime(
    iat: UnixTime,
    exp: UnixTime,
    most: i64,
    rule: &'static str,
    text: &'static str,
) -> Result<(), Rejection> {
    if (0..=most).contains(&exp.0.saturating_sub(iat.0)) {
        return Ok(());
    }
    Err(Rejection::new(Code::Time, rule, text))
}

/// A statement that counts for its lifetime.
fn from_to(iat: UnixTime, exp: UnixTime) -> Validity {
    Validity {
        not_after: Some(exp),
        ..issued(iat)
    }
}

/// A statement that counts from when it was issued.
fn issued(iat: UnixTime) -> Validity {
    Validity {
        not_before: Some(iat),
        not_after: None,
    }
}
