//! Cancel: the invitation's issuer takes it back, in whatever phase.

use super::{check_text, check_version, issued};
use crate::limits::MAX_NOTE_CHARS;
use quorate_identity::{Did, Digest, Rejection, Relationship, Statement, UnixTime, Validity};
use serde::{Deserialize, Serialize};

/// "Nobody shall compute under this invitation."
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// Protocol version.
    pub v: u8,
    /// The issuer of the invitation.
    pub iss: Did,
    /// Digest of the invitation.
    pub inv: Digest,
    /// Why, in words.
    pub reason: String,
    /// Issued at.
    pub iat: UnixTime,
}

impl Statement for Cancel {
    const TYP: &'static str = "quorate-cancel+jwt";
    const RELATIONSHIP: Relationship = Relationship::Authentication;

    fn issuer(&self) -> &Did {
        &self.iss
    }

    fn validity(&self) -> Validity {
        issued(self.iat)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_version(self.v)?;
        check_text("the reason of a cancel", &self.reason, MAX_NOTE_CHARS)
    }
}
